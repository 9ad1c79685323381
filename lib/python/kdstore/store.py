"""Sealed stores: open, look up, read.

Opening checks what is cheap of every segment: the manifest, file sizes, both meta pages, the tree of branch and leaf
pages, the header record. Reading checks the rest, record by record; after that no number from a file is used that was
not compared with one from the manifest.

A Store may be read by several threads at once, may be used after a fork (reads are preads, there is no lock and no
map), and can be pickled: the copy opens the same path again and refuses another store there.
"""
import collections
import os
import threading

import numpy as np

from . import codecs, columns, pages, records, text
from .errors import Damaged, Error, Mismatch, NotFound, Unsupported, Usage
from .manifest import Manifest
from .values import bf16_to_f32

try:
    from ml_dtypes import bfloat16 as _bfloat16
except ImportError:
    _bfloat16 = None

Ragged = collections.namedtuple("Ragged", "values lengths")
Ragged.__doc__ = """A chunk of a ragged column: values of all rows one after the other, and the rows' lengths."""


class _Segment:
    """One open file: where each of its records lies."""

    def __init__(self, store, entry, chunks):
        self.name, self.columns, self.tag = entry.name, entry.columns, entry.tag
        self.place = {c.name: i for i, c in enumerate(entry.columns)}
        path = os.path.join(store.path, entry.file)
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            raise NotFound(f"{path}: segment '{entry.name}' of the store cannot be opened: {e.strerror}") from None
        try:
            self._check(store, entry, chunks)
        except BaseException as e:
            os.close(self.fd)
            raise e.within(path) if isinstance(e, Error) else e

    def _check(self, store, entry, chunks):
        size = os.fstat(self.fd).st_size
        if size != entry.bytes:
            raise Damaged(f"{size} bytes, manifest.json says {entry.bytes}")
        self.keys, self.offset, self.size = pages.index(pages.Pages(self.fd))
        self.heads = records.check_keys(self.keys, self.columns, len(chunks))
        raw, tag = records.header_text(self._read(0, 16 << 20))
        head = text.parse(raw, "header record")
        if not isinstance(head, dict) or not text.equal(head.get("columns"), entry.entry.get("columns")) or \
                head.get("segment") != self.name:
            raise Damaged("its header record describes other columns than manifest.json")
        if tag != self.tag or head.get("chunk_rows") != store.chunk_rows:
            raise Mismatch(f"it is not the file that manifest.json names (header {tag:016x}, expected {self.tag:016x})")
        self._books()

    def _books(self):
        for at, (i, c) in enumerate(((i, c) for i, c in enumerate(self.columns) if c.book_bytes), 1):
            try:
                c.book = records.codebook(self._read(at, records.HEAD + c.book_bytes), c, i)
            except Error as e:
                raise e.within(f"column {c.name}, codebook")

    def _read(self, at, limit):
        """The record at a place in key order."""
        size = int(self.size[at])
        if size > limit:
            raise Damaged(f"a record of {size} bytes, at most {limit} can be")
        return pages.pread(self.fd, size, int(self.offset[at]))

    def record(self, chunk, i):
        return self._read(self.heads + chunk.index * len(self.columns) + i, records.HEAD + columns.MAX_RAW)


class Store:
    """A sealed store, opened for reading.

        s = kdstore.Store("mnist.kd")
        s.rows, s.splits, s.chunks[0], list(s.columns), s.teachers
        s.read("image", 0)                  # (rows, 28, 28, 1) u8
        s.read_split("label", "valid")      # all chunks of a split

    columns: Column by name, in order. chunks: Chunk(index, first, rows, split). splits: rows of each. root: 32 hex
    digits that name the content. manifest: as JSON.

    bf16 values come as their 16 bits (u16; kdstore.bf16_to_f32 widens them), or with ml_dtypes=True as
    ml_dtypes.bfloat16, if that module is installed.
    """

    def __init__(self, path, ml_dtypes=False):
        m = Manifest(path)
        if ml_dtypes and _bfloat16 is None:
            raise Unsupported(f"{m.path}: ml_dtypes=True needs the module ml_dtypes, which is not installed")
        self.path, self.manifest, self.root = m.path, m.json, m.root
        self.rows, self.bytes, self.chunk_rows = m.rows, m.bytes, m.chunk_rows
        self.columns, self.chunks, self.splits = m.columns, m.chunks, m.splits
        self._base_root = m.segments[0].root
        self._ml_dtypes, self._segments, self._codecs, self._lock = bool(ml_dtypes), {}, {}, threading.Lock()
        try:
            for entry in m.segments:
                self._segments[entry.name] = _Segment(self, entry, self.chunks)
        except BaseException:
            self.close()
            raise

    # ---- life --------------------------------------------------------------------------------

    def close(self):
        for g in self._segments.values():
            os.close(g.fd)
        self._segments = {}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __del__(self):
        if getattr(self, "_segments", None):
            self.close()

    def __getstate__(self):
        return {"path": os.path.abspath(self.path), "root": self.root, "ml_dtypes": self._ml_dtypes}

    def __setstate__(self, state):
        self.__init__(state["path"], state["ml_dtypes"])
        if self.root != state["root"]:
            raise Mismatch(f"{self.path}: another store than the one that was pickled (root {self.root}, then "
                           f"{state['root']})")

    def __repr__(self):
        return f"<kdstore.Store {self.path}: {self.rows} rows, {len(self.chunks)} chunks, {len(self.columns)} columns>"

    # ---- looking up --------------------------------------------------------------------------

    @property
    def teachers(self):
        """What each teacher's segment says of it, by name."""
        found = (g.get("teacher") for g in self.manifest["segments"])
        return {t["name"]: t for t in found if isinstance(t, dict) and isinstance(t.get("name"), str)}

    def find(self, role, teacher=None):
        """The first column with this role (and teacher). NotFound."""
        for c in self.columns.values():
            if c.role == role and teacher in (None, c.teacher):
                return c
        raise NotFound(f"{self.path}: no column of role {role}" + (f" of teacher {teacher}" if teacher else ""))

    def column(self, name):
        """The column of a name. NotFound lists those that are there."""
        if isinstance(name, columns.Column):
            name = name.name
        if name not in self.columns:
            raise NotFound(f"{self.path}: no column {name!r}; there are {', '.join(self.columns)}")
        return self.columns[name]

    def chunks_of(self, split=None):
        """The chunks of one split, or all."""
        if split is not None and split not in columns.SPLITS:
            raise NotFound(f"{self.path}: no split {split!r}; there are {', '.join(columns.SPLITS)}")
        return [c for c in self.chunks if split in (None, c.split)]

    # ---- reading -----------------------------------------------------------------------------

    def _chunk(self, chunk):
        index = chunk.index if hasattr(chunk, "index") and not isinstance(chunk, int) else int(chunk)
        if not 0 <= index < len(self.chunks):
            raise NotFound(f"{self.path}: chunk {index} asked for, there are {len(self.chunks)}")
        return self.chunks[index]

    def _block(self, c, chunk):
        """Values (or a codec's bytes) and lengths of a chunk."""
        g = self._segments.get(c.segment)
        if g is None:
            raise Usage("the store was closed")
        if not c.code or c.filter not in columns.FILTERS:
            raise Unsupported(f"encoding '{c.encoding}' with filter '{c.filter}' is not known to this package")
        i = g.place[c.name]
        buffer = g.record(chunk, i)
        r = records.check(buffer, c, i, chunk, g.tag)
        return records.unfiltered(c, records.block(r, buffer), chunk.rows)

    def codec(self, column):
        """The opened codec of an encoded column."""
        c = self.column(column)
        with self._lock:
            if c.name not in self._codecs:
                self._codecs[c.name] = codecs.open_column(c)
            return self._codecs[c.name]

    def _encoded(self, c, chunk, data, lengths):
        codec, positions = self.codec(c), columns.count_positions(c, chunk.rows, lengths)
        if not codec.sparse:
            values = codec.decode(data, positions)
            return values.reshape((-1 if c.ragged else chunk.rows,) + c.inner)
        out = codec.read_sparse(data, positions)
        out.lengths = lengths * np.uint32(c.each) if c.ragged else np.full(chunk.rows, c.each, np.uint32)
        return out

    def _where(self, c, chunk):
        return f"{self.path}: column {c.name}, chunk {chunk.index}, rows {chunk.first}-{chunk.first + chunk.rows - 1}"

    def read(self, column, chunk):
        """One chunk of one column, decoded, as a new array that may be written to.

        Fixed shapes: (rows, *shape). Ragged ones: Ragged(values, lengths). A column with a dense codec gives f32 in the
        same way; one with a sparse codec gives a Sparse. Damaged names column, chunk and rows.
        """
        c, chunk = self.column(column), self._chunk(chunk)
        try:
            values, lengths = self._block(c, chunk)
            if not c.dense:
                values = self._encoded(c, chunk, values, lengths)
        except Error as e:
            raise e.within(f"{self.path}: column {c.name}, chunk {chunk.index}, rows {chunk.first}-"
                           f"{chunk.first + chunk.rows - 1}")
        if isinstance(values, codecs.Sparse):
            return values
        if not values.flags.writeable:
            values = values.copy()
        if self._ml_dtypes and c.dtype == "bf16":
            values = values.view(_bfloat16)
        return values if lengths is None else Ragged(values, lengths)

    def read_f32(self, column, chunk):
        """As read, but of any column whose values are numbers as f32. Unsupported: a sparse codec."""
        got = self.read(column, chunk)
        if isinstance(got, codecs.Sparse):
            raise Unsupported(f"{self.path}: column {self.column(column).name}: encoding {self.column(column).encoding} "
                              "keeps few classes; it has no dense form")
        bits = self.column(column).dtype == "bf16" and not self._ml_dtypes
        widen = bf16_to_f32 if bits else lambda a: a.astype(np.float32, copy=False)
        return Ragged(widen(got.values), got.lengths) if isinstance(got, Ragged) else widen(got)

    def read_split(self, column, split=None, limit=None):
        """All chunks of a split (None: of the store) one after the other; limit: the first so many rows."""
        c = self.column(column)
        want, rows = [], 0
        for chunk in self.chunks_of(split):
            if limit is not None and rows >= limit:
                break
            want.append(chunk)
            rows += chunk.rows
        keep = rows if limit is None else min(rows, limit)
        if c.ragged or not c.dense:
            return _join([self.read(c, chunk) for chunk in want], c, keep)
        out, at = np.empty((keep,) + c.shape, c.numpy), 0
        for chunk in want:
            part = self.read(c, chunk)[:keep - at]
            out[at:at + len(part)] = part
            at += len(part)
        return out.view(_bfloat16) if self._ml_dtypes and c.dtype == "bf16" else out


def _join(parts, c, rows):
    """The first rows of several chunks."""
    if not parts:
        raise NotFound(f"column {c.name}: no rows")
    if isinstance(parts[0], codecs.Sparse):
        all_rows = codecs.Sparse.join(parts)
        lengths = all_rows.lengths[:rows]
        out = all_rows.positions(0, int(lengths.sum(dtype=np.uint64)))
        out.lengths = lengths
        return out
    if not c.ragged:
        return np.concatenate(parts)[:rows]
    lengths = np.concatenate([p.lengths for p in parts])[:rows]
    return Ragged(np.concatenate([p.values for p in parts])[:int(lengths.sum(dtype=np.uint64))], lengths)
