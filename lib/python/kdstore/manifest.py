"""manifest.json: read with all its checks, and written whole.

What the manifest does not name does not exist. Its last member is a checksum over the file's text, in which its own 32
digits count as zeros. Sizes are bounded before memory is taken for them.
"""
import collections
import json
import os
import re

from . import columns, text
from .errors import Damaged, Limit, Mismatch, NotFound
from .xxh3 import hash128

FORMAT = 1
MAX_BYTES = 64 << 20
_ROWS_MAX = 1 << 48
_CHUNK_BYTES = 80   # at least: a chunk has a record of each column, and a record has a header
_FREE_CHUNKS = 1 << 20   # believed without a look at the files
_DIGITS = b'"checksum": "'

Chunk = collections.namedtuple("Chunk", "index first rows split")


class Segment:
    """What the manifest says of one file."""

    def __init__(self, entry, where):
        self.entry = entry
        self.name = text.member_str(entry, "name", where)
        self.file = text.member_str(entry, "file", where)
        self.root = text.member_str(entry, "root", where).lower()
        tag = text.member_str(entry, "header", where)
        self.bytes = text.member_int(entry, "bytes", 1, (1 << 63) // columns.MAX_SEGMENTS, where)
        f = self.file
        if not columns.segment_name_ok(self.name) or not 1 <= len(f) < 80 or f[0] == "." or "/" in f or "\0" in f:
            raise Damaged(f"{where}: segment name {self.name[:64]!r} or its file name {f[:80]!r} is not allowed")
        if not re.fullmatch("[0-9a-f]{32}", self.root) or not re.fullmatch("[0-9a-fA-F]{16}", tag):
            raise Damaged(f"{where}: segment {self.name}: 'root' or 'header' is not a hash")
        self.tag = int(tag, 16)
        listed = entry.get("columns", [])
        if not isinstance(listed, list) or len(listed) > columns.MAX_COLUMNS:
            raise Damaged(f"{where}: segment {self.name}: 'columns' is not a list of at most {columns.MAX_COLUMNS}")
        self.columns = [columns.from_json(c, where) for c in listed]
        for c in self.columns:
            c.segment = self.name
        if sum(c.book_bytes for c in self.columns) > 256 << 20:
            raise Damaged(f"{where}: segment {self.name} has codebooks of more than {256 << 20} bytes")


class Manifest:
    """The checked content of PATH/manifest.json."""

    def __init__(self, path):
        self.path = path = os.fspath(path).rstrip("/") or "/"
        self.where = where = os.path.join(path, "manifest.json")
        data = self._read()
        self.json = m = text.parse(data, where)
        # The version first: another version may compute its checksum in another way.
        version = text.member_int(m, "format", 0, (1 << 31) - 1, where)
        if version != FORMAT:
            raise Mismatch(f"{where}: store format {version}, this package reads format {FORMAT}")
        _check_text(data, where)
        self.chunk_rows = text.member_int(m, "chunk_rows", 1, columns.MAX_CHUNK_ROWS, where)
        self._segments()
        self._chunks()
        for g in self.segments:
            if len(self.chunks) * len(g.columns) > g.bytes // 64:
                raise Damaged(f"{where}: segment {g.name} cannot hold {len(self.chunks)} chunks of {len(g.columns)} "
                              f"columns in {g.bytes} bytes")

    def _read(self):
        if not os.path.exists(self.path):
            if os.path.isdir(self.path + ".part"):
                raise NotFound(f"{self.path}: not there, but {self.path}.part is: it was never finished; resume it")
            raise NotFound(f"{self.path}: no such store")
        try:
            with open(self.where, "rb") as f:
                if os.fstat(f.fileno()).st_size > MAX_BYTES:
                    raise Limit(f"{self.where}: larger than the limit of {MAX_BYTES} bytes")
                return f.read(MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{self.path}: not a store: it holds no manifest.json") from None

    def _segments(self):
        where, listed = self.where, self.json.get("segments")
        if not isinstance(listed, list) or not 1 <= len(listed) <= columns.MAX_SEGMENTS:
            raise Damaged(f"{where}: 'segments' is not a list of 1 to {columns.MAX_SEGMENTS}")
        self.segments = [Segment(entry, where) for entry in listed]
        for what in ("name", "file"):
            names = [getattr(g, what) for g in self.segments]
            twice = next((n for n in names if names.count(n) > 1), None)
            if twice:
                raise Damaged(f"{where}: two segments are called {twice!r} or use that file")
        self.columns = {}
        for c in (c for g in self.segments for c in g.columns):
            if c.name in self.columns:
                raise Damaged(f"{where}: two columns are called {c.name!r}")
            self.columns[c.name] = c
        if not 1 <= len(self.columns) <= columns.MAX_COLUMNS:
            raise Damaged(f"{where}: {len(self.columns)} columns, allowed are 1 to {columns.MAX_COLUMNS}")
        self.bytes = sum(g.bytes for g in self.segments)
        self.root = root_of(g.root for g in self.segments)
        found = text.member_str(self.json, "root", where)
        if found != self.root:
            raise Damaged(f"{where}: root {found[:32]}, its segments give {self.root}")

    def _chunks(self):
        where, m = self.where, self.json
        runs, budget, n = m.get("chunks"), self.bytes // _CHUNK_BYTES + 1, 0
        if not isinstance(runs, list):
            raise Damaged(f"{where}: 'chunks' is not a list")
        table = []
        for run in runs:
            split = text.member_str(run, "split", where)
            rows = text.member_int(run, "rows", 1, self.chunk_rows, where)
            count = text.member_int(run, "count", 1, (1 << 32) - 2, where)
            if split not in columns.SPLITS:
                raise Damaged(f"{where}: unknown split {split[:32]!r}")
            n += count
            if n > budget or n >= (1 << 32) - 1:
                raise Damaged(f"{where}: more chunks than its {self.bytes} bytes can hold")
            table.append((split, rows, count))
        if n > _FREE_CHUNKS and n > self._bytes_there() // _CHUNK_BYTES + 1:
            raise Damaged(f"{where}: {n} chunks, more than its files can hold")
        self.chunks, self.rows, self.splits = [], 0, dict.fromkeys(columns.SPLITS, 0)
        for split, rows, count in table:
            for _ in range(count):
                self.chunks.append(Chunk(len(self.chunks), self.rows, rows, split))
                self.rows += rows
            self.splits[split] += rows * count
        rows = text.member_int(m, "rows", 0, _ROWS_MAX, where)
        if rows != self.rows:
            raise Damaged(f"{where}: {rows} rows, its chunks add up to {self.rows}")
        for split, rows in self.splits.items():
            said = text.member_int(m.get("splits"), split, 0, _ROWS_MAX, where)
            if said != rows:
                raise Damaged(f"{where}: {said} rows of split {split}, its chunks add up to {rows}")

    def _bytes_there(self):
        """Bytes that the segments' files have, whatever the manifest says."""
        paths = (os.path.join(self.path, g.file) for g in self.segments)
        return sum(os.path.getsize(p) for p in paths if os.path.isfile(p))


def _check_text(data, where):
    at = data.rfind(_DIGITS) + len(_DIGITS)
    if at < len(_DIGITS) or len(data) < at + 33:
        raise Damaged(f"{where}: no checksum at its end: the file is incomplete")
    found, want = data[at:at + 32], hash128(data[:at] + b"0" * 32 + data[at + 32:]).hex()
    if found != want.encode():
        raise Damaged(f"{where}: checksum {found.decode('ascii', 'replace')}, its text has {want}: damaged or edited by "
                      "hand")


def root_of(roots):
    return hash128(b"".join(bytes.fromhex(r) for r in roots)).hex()


# ---- writing ---------------------------------------------------------------------------------


def runs_of(chunks):
    """The chunk table in its compact form."""
    out = []
    for c in chunks:
        if out and out[-1]["split"] == c.split and out[-1]["rows"] == c.rows:
            out[-1]["count"] += 1
        else:
            out.append({"split": c.split, "rows": c.rows, "count": 1})
    return out


def fsync_folder(folder):
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def save(m, folder):
    """Computes bytes, root and checksum of a manifest and replaces FOLDER/manifest.json with it."""
    if len(m["segments"]) > columns.MAX_SEGMENTS:
        raise Limit(f"{folder}: a store has at most {columns.MAX_SEGMENTS} segments")
    for derived in ("bytes", "root", "checksum"):
        m.pop(derived, None)
    m["bytes"] = sum(g["bytes"] for g in m["segments"])
    m["root"] = root_of(g["root"] for g in m["segments"])
    m["checksum"] = "0" * 32
    data = bytearray(json.dumps(m, indent=2, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n")
    if len(data) > MAX_BYTES:
        raise Limit(f"{folder}/manifest.json would have {len(data)} bytes, the limit is {MAX_BYTES}")
    at = data.rfind(_DIGITS) + len(_DIGITS)
    data[at:at + 32] = hash128(data).hex().encode()
    path = os.path.join(folder, "manifest.json")
    part = f"{path}.tmp.{os.getpid()}"
    try:
        with open(part, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.rename(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise
    fsync_folder(folder)
