"""Writing: a new store, or a segment of more columns in a sealed one.

A segment in the making is FILE.part, an LMDB file that grows by whole chunks. A flock on it keeps a second writer out.
Its first record holds the columns and the contract, so going on needs nothing but the file: both are compared with what
is wanted now, every record's header is read back, the last chunk is checked to its last byte, and writing goes on behind
it. The whole file is walked by our own code before LMDB opens it, because LMDB would trust it.

LMDB runs in its default mode: each commit is synced data, then the synced meta page. No writable map: a full disk is an
error, not a signal. What is sealed, and in which order, is in seal.py.
"""
import concurrent.futures
import errno
import fcntl
import os

import numpy as np

from . import codecs, columns, pages, records, seal, text
from .errors import Damaged, Error, Exists, Full, Limit, Mismatch, Numeric, Usage
from .manifest import FORMAT, Chunk
from .store import Store
from .values import as_f32, as_numpy, cast

_FIRST_MAP = 1 << 24
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME_MAX = 48  # of a segment: its file's name gets more behind it


class Writer:
    """Made by create() and extend(). A context: left without an exception it seals, else it commits what is whole and
    leaves the .part for a resume."""

    def __init__(self, path, folder, file, name, store, wanted, contract, chunk_rows, level, commit_bytes, resume, force,
                 threads, extra):
        self.path, self.folder, self.name, self.store = path, folder, name, store
        self.file, self.part = os.path.join(folder, file), os.path.join(folder, file + ".part")
        self.chunk_rows, self.level, self.commit_bytes = chunk_rows, level, commit_bytes
        self.resume, self.force, self.extra = resume, force, extra
        self.contract = None if contract is None else text.plain(contract, f"{path}: contract")
        self.base_root = store._base_root if store else ""
        self.env, self.lock, self.failed = None, -1, False
        self.sums, self.chunks, self.rows = [], [], 0
        self._pending, self._pending_chunks, self._pending_bytes = [], 0, 0
        self._pool = concurrent.futures.ThreadPoolExecutor(threads) if threads > 1 else None
        try:
            self._begin(wanted)
        except BaseException:
            self._free()
            raise

    # ---- beginning ---------------------------------------------------------------------------

    def _begin(self, wanted):
        if not 1 <= self.level <= 19 or not 1 <= self.chunk_rows <= columns.MAX_CHUNK_ROWS:
            raise Usage(f"{self.path}: level {self.level} and {self.chunk_rows} rows a chunk, allowed are 1 to 19 and 1 "
                        f"to {columns.MAX_CHUNK_ROWS}")
        self.columns = self._take_columns(wanted)
        self._codecs = {c.name: codecs.open_column(c) for c in self.columns if not c.dense}
        books = self._pack_books()
        head = text.compact({"format": FORMAT, "segment": self.name, "columns": [c.to_json() for c in self.columns],
                             "contract": self.contract, "chunk_rows": self.chunk_rows, "of": self.base_root})
        if len(head) > 16 << 20:
            raise Limit(f"{self.path}: columns and contract take {len(head)} bytes, the limit is {16 << 20}")
        if not self.store:
            os.makedirs(self.folder, exist_ok=True)
        fresh = True
        if self._take_part():
            fresh = self._resume(head)
            if fresh:
                os.ftruncate(self.lock, 0)
        self._open_env()
        if fresh:
            buffer, self.tag = records.pack(head, self.level)
            self._put([(records.key(0, 0), buffer)] + books)
            self._push_heads()

    def _pack_books(self):
        """The codebooks' records, whose checksums the header record names."""
        out = []
        for i, c in enumerate(self.columns):
            if c.book_bytes:
                buffer, c.book_sum = records.pack(c.book, 19, encoding=c.code, column=i)
                out.append((records.key(0, 1 + i), buffer))
        return out

    def _push_heads(self):
        self.sums += [self.tag] + [c.book_sum for c in self.columns if c.book_bytes]

    def _take_columns(self, wanted):
        there = self.store.columns if self.store else {}
        if not 1 <= len(wanted) or len(wanted) + len(there) > columns.MAX_COLUMNS:
            raise Usage(f"{self.path}: {len(wanted)} columns to write, a store may have 1 to {columns.MAX_COLUMNS}")
        out = []
        for c in wanted:
            try:
                c = columns.complete(c, self.level)
            except Error as e:
                raise e.within(self.path)
            if any(o.name == c.name for o in out):
                raise Usage(f"{self.path}: two columns are called '{c.name}'")
            if c.name in there and there[c.name].segment != self.name:
                raise Exists(f"{self.path}: column '{c.name}' is already there, in segment {there[c.name].segment}")
            out.append(c)
        roles = [c.role for c in out]
        if not self.store and (roles.count("id"), roles.count("split")) != (1, 1):
            raise Usage(f"{self.path}: a store needs one column of role id and one of role split, here are "
                        f"{roles.count('id')} and {roles.count('split')}")
        return out

    def _take_part(self):
        """Opens and locks FILE.part; its size. Brings back a segment that was renamed but never named by a manifest."""
        if os.path.exists(self.file) and not os.path.exists(self.part):
            if not self.resume and not self.force:
                raise Exists(f"{self.file}: left by a run that was stopped while sealing; resume=True finishes it, "
                             "force=True starts anew")
            os.chmod(self.file, 0o644)
            os.rename(self.file, self.part)
        self.lock = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Exists(f"{self.part}: another process is writing it; wait for it or stop it") from None
        at = os.fstat(self.lock)
        if not os.path.exists(self.part) or os.stat(self.part).st_ino != at.st_ino:
            raise Exists(f"{self.part}: another process has just finished it")
        if at.st_size and not self.resume and not self.force:
            raise Exists(f"{self.part}: left by an unfinished run; resume=True goes on with it, force=True starts anew")
        if self.force or at.st_size < 8192:  # less than the two meta pages: the first commit never happened
            os.ftruncate(self.lock, 0)
            return 0
        return at.st_size

    def _resume(self, head):
        """Finds out what a .part holds. True: nothing was committed."""
        try:
            p = pages.Pages(self.lock)
            if not p.main.entries:
                return True
            keys, offsets, sizes = pages.index(p, whole=True)
            if keys[0] != 0 or int(sizes[0]) > 16 << 20:
                raise Damaged("no header record")
            was, self.tag = records.header_text(pages.pread(self.lock, int(sizes[0]), int(offsets[0])))
            found = text.first_difference(text.parse(was, "header record"), text.parse(head, "header record"))
            if found:
                raise Mismatch(f"cannot go on with it: {found}; use the options it was begun with, or start anew with "
                               "force=True")
            self._push_heads()
            self._resume_chunks(keys, offsets, sizes)
        except Mismatch as e:
            raise e.within(self.part)
        except Error as e:
            raise type(e)(f"{self.part}: {e.args[0]}; cannot be resumed, start anew with force=True") from None
        return False

    def _resume_chunks(self, keys, offsets, sizes):
        n, books = len(self.columns), [(i, c) for i, c in enumerate(self.columns) if c.book_bytes]
        heads = 1 + len(books)
        chunks = max(0, (len(keys) - heads) // n)
        records.check_keys(keys, self.columns, chunks)
        for at, (i, c) in enumerate(books, 1):
            if int(sizes[at]) > records.HEAD + c.book_bytes:
                raise Damaged(f"a record of {sizes[at]} bytes for a codebook of {c.book_bytes}")
            records.codebook(pages.pread(self.lock, int(sizes[at]), int(offsets[at])), c, i)
        for i in range(chunks * n):
            chunk, k = divmod(i, n)
            size, offset = int(sizes[heads + i]), int(offsets[heads + i])
            whole = chunk + 1 == chunks
            if size < records.HEAD:
                raise Damaged(f"a record of {size} bytes")
            buffer = pages.pread(self.lock, size if whole else records.HEAD, offset)
            r = records.parse(buffer)
            if k == 0:
                if r.split >= len(columns.SPLITS):
                    raise Damaged(f"chunk {chunk}: split {r.split}")
                self._push_chunk(columns.SPLITS[r.split], r.rows)
            at = self.chunks[chunk]
            if whole:
                records.check(buffer, self.columns[k], k, at, self.tag)
            elif (r.chunk, r.column, r.rows, r.first, r.tag) != (chunk, k, at.rows, at.first, self.tag):
                raise Damaged(f"chunk {chunk}, column {k}: its record says chunk {r.chunk}, column {r.column}")
            self.sums.append(r.checksum)

    # ---- LMDB --------------------------------------------------------------------------------

    def _open_env(self):
        import lmdb
        self._lmdb = lmdb
        self._map = _FIRST_MAP
        while self._map < 2 * os.fstat(self.lock).st_size:
            self._map *= 2
        try:
            self.env = lmdb.open(self.part, subdir=False, map_size=self._map, lock=False, max_dbs=0)
        except lmdb.Error as e:
            self._fail(e, "opening")

    def _put(self, items):
        while True:
            try:
                with self.env.begin(write=True) as txn:
                    for key, value in items:
                        txn.put(key, value, append=True)
                return
            except self._lmdb.MapFullError:
                self._map *= 2
                self.env.set_mapsize(self._map)
            except self._lmdb.Error as e:
                self._fail(e, "committing")

    def _fail(self, e, doing):
        self.failed = True
        kept = len(self.chunks) - self._pending_chunks
        rows = self.chunks[kept - 1].first + self.chunks[kept - 1].rows if kept else 0
        if self._disk_full(e):
            raise Full(f"{self.part}: disk full (or a limit on file size reached) while {doing}; {kept} chunks ({rows} "
                       "rows) are safe there: free some space, then go on with resume=True") from None
        raise Error(f"{self.part}: {doing}: {e}; {kept} chunks ({rows} rows) are safe, go on with resume=True") from None

    def _disk_full(self, e):
        """LMDB reports a short write as EIO, and a full disk begins with one: a small write behind the end tells."""
        if isinstance(e, self._lmdb.DiskError) or os.strerror(errno.EFBIG) in str(e):
            return True
        if os.strerror(errno.EIO) not in str(e):
            return False
        size = os.fstat(self.lock).st_size
        try:
            full = os.pwrite(self.lock, bytes(65536), size) < 65536
        except OSError as why:
            full = why.errno in _FULL
        os.ftruncate(self.lock, size)
        return full

    # ---- filling -----------------------------------------------------------------------------

    def todo(self):
        """The chunks of the store that this segment does not hold yet, in order; append each before asking for the
        next. Of a new store there are none to tell."""
        if not self.store:
            raise Usage(f"{self.path}: a new store's chunks are what is appended; only an extension knows what is to do")
        while len(self.chunks) < len(self.store.chunks):
            n = len(self.chunks)
            yield self.store.chunks[n]
            if len(self.chunks) == n:
                raise Usage(f"{self.part}: chunk {n} was not appended")

    def _expected(self):
        """The store's chunk that comes next."""
        n = len(self.chunks)
        if n >= len(self.store.chunks):
            raise Usage(f"{self.part}: a chunk too many, the store has {n}")
        return self.store.chunks[n]

    def _push_chunk(self, split, rows):
        n = len(self.chunks)
        if self.store:
            want = self._expected()
            if (want.rows, want.split) != (rows, split):
                raise Mismatch(f"{self.part}: chunk {n} has {rows} rows of {split}, the store's has {want.rows} rows of "
                               f"{want.split}")
        else:
            if not 1 <= rows <= self.chunk_rows:
                raise Usage(f"{self.part}: chunk {n} has {rows} rows, allowed are 1 to {self.chunk_rows}")
        self.chunks.append(Chunk(n, self.rows, rows, split))
        self.rows += rows

    def append(self, blocks, split=None):
        """Appends one chunk: {column name: values of all its rows}.

        Values: a numpy array or torch tensor (rows, *shape); for a ragged column (values of all rows one after the
        other, lengths). Floats are rounded to the column's type. For a column with a codec: the logits or features
        as they are, they are encoded here; for topk also a Sparse of log-probabilities that were picked elsewhere.
        split: of the chunk; an extension follows its store. A split column may be left out.
        """
        if self.failed:
            raise Error(f"{self.part}: an earlier write failed; go on with resume=True")
        n = len(self.chunks)
        if self.store:
            want = self._expected()
            rows, split = want.rows, split or want.split
        else:
            rows = self._rows_of(blocks)
        if split not in columns.SPLITS:
            raise Usage(f"{self.part}: chunk {n} is of split {split!r}, there are {', '.join(columns.SPLITS)}")
        blocks = dict(blocks)
        for c in self.columns:
            if c.role == "split" and c.name not in blocks:
                blocks[c.name] = np.full(rows, columns.SPLITS.index(split), np.uint8)
        names = {c.name for c in self.columns}
        if blocks.keys() != names:
            wrong = sorted(names ^ blocks.keys())
            raise Usage(f"{self.part}: chunk {n}: columns {', '.join(wrong)} are missing or not of this segment")
        ids = self._ids(blocks, n)
        taken = [self._take_block(c, rows, blocks[c.name], n, split, ids) for c in self.columns]
        self._push_chunk(split, rows)
        try:
            for i, (c, block) in enumerate(zip(self.columns, taken)):
                self._add(c, i, self.chunks[n], block)
            self._pending_chunks += 1
        except BaseException:
            self.failed = True
            raise
        if self._pending_bytes >= self.commit_bytes:
            self.commit()

    def _rows_of(self, blocks):
        for c in self.columns:
            if c.name in blocks:
                v = blocks[c.name]
                return len(v[1]) if c.ragged else len(v)
        raise Usage(f"{self.part}: chunk {len(self.chunks)}: no columns")

    def _take_block(self, c, rows, values, n, split, ids):
        """The filtered block of a column, a copy."""
        lengths, where = None, f"{self.part}: chunk {n}, column {c.name}"
        if c.ragged and isinstance(values, tuple) and len(values) == 2:
            values, lengths = values[0], as_numpy(values[1])[1]
        if isinstance(values, codecs.Sparse):
            return self._take_sparse(c, rows, values, lengths, where)
        values = cast(values, c.dtype, where) if c.dense else as_f32(values)
        lengths = columns.check_shape(c, rows, values.shape, lengths, where)
        if columns.count_positions(c, rows, lengths) * c.width * 4 > 64 * columns.MAX_RAW:
            raise Limit(f"{where}: more positions than a block may hold, use smaller chunks")
        if c.role == "split" and (values != columns.SPLITS.index(split)).any():
            row = int(np.flatnonzero(values != columns.SPLITS.index(split))[0])
            raise Usage(f"{where}: the chunk is of split {split}, row {row} says {values[row]}")
        if c.role == "logits" and c.dense and c.dtype in ("f16", "f32", "f64") and not np.isfinite(values).all():
            raise Numeric(f"{where}: a logit is not finite")
        if c.dense:
            data = np.ascontiguousarray(values, c.numpy)
        else:
            each = np.full(rows, c.each) if lengths is None else lengths.astype(np.int64) * c.each
            block = codecs.Block(np.ascontiguousarray(values.reshape(-1, c.width)), each, ids)
            try:
                data = np.frombuffer(self._codecs[c.name].encode(block), np.uint8)
            except Error as e:
                raise e.within(where)
        out = _filtered(c, data, lengths, where)
        return out.copy() if self._pool and np.shares_memory(out, values) else out

    def _take_sparse(self, c, rows, sparse, lengths, where):
        """The block of targets that somebody else picked."""
        if c.dense:
            raise Usage(f"{where}: a Sparse for a dense column")
        count = len(sparse) // c.each
        shape = (count if c.ragged else rows,) + c.inner
        lengths = columns.check_shape(c, rows, shape, lengths, where)
        if len(sparse) != columns.count_positions(c, rows, lengths) or sparse.width != c.width:
            raise Usage(f"{where}: a Sparse of {len(sparse)} positions and {sparse.width} classes, expected "
                        f"{columns.count_positions(c, rows, lengths)} and {c.width}")
        try:
            data = np.frombuffer(self._codecs[c.name].encode_sparse(sparse), np.uint8)
        except Error as e:
            raise e.within(where)
        return _filtered(c, data, lengths, where)

    def _ids(self, blocks, n):
        """The rows' ids, which key the random draws of codecs."""
        if all(c.dense for c in self.columns):
            return None
        if self.store:
            return self.store.read(self.store.find("id"), n)
        return as_numpy(blocks[next(c.name for c in self.columns if c.role == "id")])[1]

    def _add(self, c, i, chunk, block):
        fields = dict(dtype=1 + columns.DTYPES.index(c.dtype), encoding=c.code, filter=columns.FILTERS[c.filter],
                      split=columns.SPLITS.index(chunk.split), column=i, chunk=chunk.index, rows=chunk.rows,
                      first=chunk.first, tag=self.tag)
        if self._pool:
            packed = self._pool.submit(records.pack, block, c.level, **fields)
        else:
            packed = records.pack(block, c.level, **fields)
        self._pending.append((records.key(chunk.index + 1, i), packed))
        self._pending_bytes += records.HEAD + len(block)

    def commit(self):
        """Makes the appended chunks durable now."""
        if self.failed:
            raise Error(f"{self.part}: an earlier write failed; go on with resume=True")
        if not self._pending:
            return
        try:
            packed = [(key, p.result() if self._pool else p) for key, p in self._pending]
            self._put([(key, buffer) for key, (buffer, _) in packed])
            self.sums += [checksum for _, (_, checksum) in packed]
        except BaseException:
            self.failed = True
            raise
        self._pending, self._pending_chunks, self._pending_bytes = [], 0, 0

    # ---- ending ------------------------------------------------------------------------------

    def seal(self, extra=None):
        """Checks that all rows are there, syncs, renames, writes the manifest; the writer is closed in every case.
        extra: more members of the segment's entry in the manifest."""
        try:
            self.commit()
            if self.store and len(self.chunks) != len(self.store.chunks):
                raise Mismatch(f"{self.part}: {len(self.chunks)} chunks of {len(self.store.chunks)}: the segment is not "
                               "complete, go on with resume=True")
            if not self.chunks:
                raise Usage(f"{self.part}: a store needs at least one row")
            self.env.sync(True)
            self.env.close()
            self.env = None
            seal.finish(self, {**self.extra, **text.plain(extra or {}, f"{self.path}: extra")})
        except OSError as e:
            if e.errno not in _FULL:
                raise
            raise Full(f"{self.path}: disk full while sealing; all rows are safe: free some space, then go on with "
                       "resume=True") from None
        finally:
            self._free()

    def close(self):
        """Commits what is whole and closes; the .part stays for a resume."""
        try:
            if self.env is not None and not self.failed:
                self.commit()
        finally:
            self._free()

    def _free(self):
        if self._pool:
            self._pool.shutdown()
            self._pool = None
        if self.env is not None:
            self.env.close()
            self.env = None
        if self.lock >= 0:  # after LMDB: the lock covers its last write
            os.close(self.lock)
            self.lock = -1
        self.failed = True
        if self.store:
            self.store.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.lock < 0:
            return
        if kind is None:
            self.seal()
        else:
            self.close()


def _filtered(c, data, lengths, where):
    if data.nbytes + (4 * len(lengths) if c.ragged else 0) > columns.MAX_RAW:
        raise Limit(f"{where}: a block of {data.nbytes} bytes is over the limit of 1 GiB, use smaller chunks")
    return records.filtered(c.filter, [data] if lengths is None else [lengths, data])


def _open(make, resume, force):
    """With both, what fits is continued, and only what does not fit is replaced."""
    if not (resume and force):
        return make(resume, force)
    try:
        return make(True, False)
    except (Exists, Mismatch, Damaged):
        return make(False, True)


def create(path, wanted, contract=None, *, chunk_rows=1024, level=3, commit_bytes=32 << 20, resume=False, force=False,
           threads=1, extra=None):
    """Begins (or resumes) a new store.

    wanted: Columns; one of role id (u8, [16]) and one of role split (u8). contract: JSON that says what is being
    written (sources' hashes, options); a resume must present an equal one. It is kept in the manifest. force:
    replace what is there. Exists, Mismatch, Usage.
    """
    path = os.fspath(path).rstrip("/")
    if not path:
        raise Usage(f"'{path}' cannot be the name of a store")

    def make(go_on, anew):
        if os.path.exists(path) and not anew:
            raise Exists(f"{path}: already there and finished; force=True replaces it")
        return Writer(path, path + ".part", "base.mdb", "base", None, list(wanted), contract, chunk_rows, level,
                      commit_bytes, go_on, anew, threads, _extra(extra, path))
    return _open(make, resume, force)


def extend(path, name, wanted, contract=None, *, teacher=None, level=3, commit_bytes=32 << 20, resume=False, force=False,
           threads=1, extra=None):
    """Begins (or resumes) a segment of more columns in a sealed store; its chunks are the store's.

    name: of the segment and its file, usually the teacher's. teacher: what to say of it, {"fingerprint": ..., "params":
    ...}; "name" is filled in. Columns may leave their teacher out. force: replace a segment of that name.
    """
    teacher = None if teacher is None else {"name": name, **teacher}
    who = teacher["name"] if teacher else name

    def make(go_on, anew):
        store = Store(path)
        try:
            if not columns.segment_name_ok(name) or len(name) > _NAME_MAX:
                raise Usage(f"{store.path}: segment name {name!r:.66}: allowed are a-z, 0-9, '_', '.', '-', at most "
                            f"{_NAME_MAX}")
            segments = store.manifest["segments"]
            if name == segments[0]["name"]:
                raise Exists(f"{store.path}: segment '{name}' is already there and holds the data itself")
            if name in [g["name"] for g in segments] and not anew:
                raise Exists(f"{store.path}: segment '{name}' is already there; force=True replaces it")
            files = [g["file"] for g in segments]
            file = next(f for i in range(1, 1 << 20) for f in [f"{name}.mdb" if i == 1 else f"{name}.{i}.mdb"]
                        if f not in files)
            more = _extra(extra, store.path)
            if teacher:
                more["teacher"] = text.plain(teacher, f"{store.path}: teacher")
            mine = [c if c.teacher else _with_teacher(c, who) for c in wanted]
            return Writer(store.path, store.path, file, name, store, mine, contract, store.chunk_rows, level,
                          commit_bytes, go_on, anew, threads, more)
        except BaseException:
            store.close()
            raise
    return _open(make, resume, force)


def _with_teacher(c, name):
    import dataclasses
    return dataclasses.replace(c, teacher=name)


def _extra(extra, path):
    return {"writer": "kdstore (Python) 0.1.0", **text.plain(extra or {}, f"{path}: extra")}
