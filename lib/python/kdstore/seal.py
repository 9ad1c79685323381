"""The end of a segment: from FILE.part to a file that a manifest names.

The order of steps is what makes a kill harmless (lib/store/seal.c does the same): data is synced before its name changes;
the name changes before the manifest that mentions it; the manifest is replaced by rename; a new store's folder is
renamed last. A kill between any two leaves the old state, or one that a resume recognises.

Several writers may extend one store at once. They meet only here: a flock on the store's folder is held from reading
the manifest to replacing it.
"""
import ctypes
import fcntl
import os
import shutil
import time

import numpy as np

from . import pages, records
from .errors import Error, Mismatch
from .manifest import FORMAT, Manifest, fsync_folder, runs_of, save
from .xxh3 import hash128

KD_VERSION = "0.1.0"


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _finish_file(w):
    """Cuts, checks, syncs and renames the file; its size and number of pages."""
    try:
        p = pages.Pages(w.lock)
        size = (p.last + 1) * p.psize
        os.ftruncate(w.lock, size)
        keys, _, _ = pages.index(pages.Pages(w.lock), whole=True)
        records.check_keys(keys, w.columns, len(w.chunks))
    except Error as e:
        raise e.within(w.part)
    os.fchmod(w.lock, 0o444)
    os.fsync(w.lock)
    os.rename(w.part, w.file)
    fsync_folder(w.folder)
    return size, p.last + 1


def _entry(w, size, count, extra):
    entry = {"name": w.name, "file": os.path.basename(w.file), "created": _now(), "bytes": size, "pages": count,
             "records": len(w.sums), "root": hash128(np.array(w.sums, "<u8").tobytes()).hex(), "header": f"{w.tag:016x}",
             "columns": [c.to_json() for c in w.columns], "contract": w.contract}
    return {**entry, **{k: v for k, v in extra.items() if k not in entry}}


def _publish_new(w, entry):
    splits = {s: sum(c.rows for c in w.chunks if c.split == s) for s in ("train", "valid", "test")}
    save({"format": FORMAT, "kd": KD_VERSION, "created": _now(), "rows": w.rows, "chunk_rows": w.chunk_rows,
          "chunks": runs_of(w.chunks), "splits": splits, "segments": [entry]}, w.folder)
    parent = os.path.dirname(w.path) or "."
    try:
        os.rename(w.folder, w.path)
    except OSError:
        if not w.force:
            raise
        if _exchange(w.folder, w.path):
            fsync_folder(parent)
            shutil.rmtree(w.folder)
        else:
            shutil.rmtree(w.path)
            os.rename(w.folder, w.path)
    fsync_folder(parent)


def _exchange(a, b):
    """Swaps two names in one step, where the system can."""
    try:
        f = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2
    return f(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def _publish_extension(w, entry):
    folder = os.open(w.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        now = Manifest(w.folder)
        if now.segments[0].root != w.base_root:
            raise Mismatch(f"{w.path}: the store was replaced while '{w.name}' was being written")
        listed = now.json["segments"]
        at = next((i for i, g in enumerate(listed) if g["name"] == w.name), None)
        old = None if at is None else listed[at]["file"]
        if at is None:
            listed.append(entry)
        else:
            listed[at] = entry
        save(now.json, w.folder)
        if old and old != entry["file"]:
            os.unlink(os.path.join(w.folder, old))
    finally:
        os.close(folder)


def finish(w, extra):
    """Everything after the last commit; LMDB is closed."""
    size, count = _finish_file(w)
    entry = _entry(w, size, count, extra)
    if w.store:
        _publish_extension(w, entry)
    else:
        _publish_new(w, entry)
