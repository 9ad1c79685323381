"""Finding records in an LMDB file without LMDB.

LMDB trusts its file: a damaged page makes it crash, or serve other bytes. A segment is simple, though, every key from
the first to the last, so its branch and leaf pages are walked once by pread with every number checked
(lib/store/pagewalk.c does the same) and become a table of offsets; after that a read is a look-up and one pread.
Pages are taken apart by numpy, a page at a time.
"""
import os
import struct

import numpy as np

from .errors import Damaged

_HEAD, _META, _MAX_DEPTH = 16, 136, 32
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_NODE = np.dtype([("low", "<u4"), ("flags", "<u2"), ("ksize", "<u2"), ("key", "u1", 8), ("page", "<u8")])
_NO_ROOT = (1 << 64) - 1


def _read_into(fd, view, offset):
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    got = os.pread(fd, len(view), offset)
    view[:len(got)] = got
    return len(got)


def pread(fd, size, offset):
    """Exactly size bytes as a bytearray. Damaged: the file ends before."""
    out = bytearray(size)
    view, at = memoryview(out), 0
    while at < size:
        n = _read_into(fd, view[at:], offset + at)
        if n == 0:
            raise Damaged(f"the file ends before byte {offset + size}")
        at += n
    return out


class _Tree:
    def __init__(self, b):
        self.pad, self.flags, self.depth, self.branch, self.leaf, self.overflow, self.entries, self.root = \
            struct.unpack("<IHHQQQQQ", b)

    def check(self, what, last, psize):
        pages = last + 1
        if max(self.branch, self.leaf, self.overflow) > pages or self.depth > _MAX_DEPTH:
            raise Damaged(f"meta page: {what} counts more pages ({self.branch}, {self.leaf}, {self.overflow}) or "
                          f"levels ({self.depth}) than possible")
        if self.entries > pages * psize // 18:  # an entry takes 18 bytes at least
            raise Damaged(f"meta page: {what} counts {self.entries} entries")
        empty = self.root == _NO_ROOT
        if empty != (self.entries == 0) or empty != (self.depth == 0) or not (empty or 2 <= self.root <= last):
            raise Damaged(f"meta page: {what} has root page {self.root}, depth {self.depth}, {self.entries} entries, "
                          f"last page {last}")


class Pages:
    """The meta pages of an open file. Damaged."""

    def __init__(self, fd):
        self.fd, self.size, self.psize = fd, os.fstat(fd).st_size, 0
        metas = [self._meta(0), self._meta(1)]
        self.free, self.main, self.last, self.txn = metas[metas[1][3] > metas[0][3]]
        if self.last < 1 or self.last >= self.size // self.psize:
            raise Damaged(f"{self.size} bytes, but pages up to {self.last} of {self.psize} bytes are in use: the file "
                          "was cut")
        if self.main.flags or not self.free.flags & 8:
            raise Damaged(f"meta page: flags {self.main.flags:#x} and {self.free.flags:#x}, expected plain keys")
        self.free.check("free list", self.last, self.psize)
        self.main.check("tree", self.last, self.psize)

    def _meta(self, number):
        b = pread(self.fd, _HEAD + _META, number * self.psize)
        page, _, flags = struct.unpack_from("<QHH", b)
        magic, version = struct.unpack_from("<II", b, _HEAD)
        if page != number or flags != _META_PAGE or magic != 0xBEEFC0DE:
            raise Damaged(f"meta page {number}: not an LMDB meta page")
        if version != 1:
            raise Damaged(f"meta page {number}: LMDB format {version}, this program reads 1")
        free, main = _Tree(b[40:88]), _Tree(b[88:136])
        psize = free.pad
        if not 512 <= psize <= 65536 or psize & psize - 1 or (number and psize != self.psize):
            raise Damaged(f"meta page {number}: page size {psize}")
        self.psize = psize
        return (free, main) + struct.unpack_from("<QQ", b, 136)


class _Walk:
    """One pass over a tree in key order. seen: a bytearray with a byte a page when each may be used only once."""

    def __init__(self, pages, tree, seen=None):
        self.pages, self.tree, self.seen = pages, tree, seen
        self.key = ">u8" if tree is pages.main else "<u8"
        self.counts = {_BRANCH: 0, _LEAF: 0}
        self.overflow = self.entries = 0
        self.last_key, self.floor = -1, 0
        self.found = []  # (keys, offsets, sizes) of each leaf

    def take(self, page, n=1):
        if self.seen is None:
            return
        if self.seen.count(0, page, page + n) != n:
            raise Damaged(f"page {page} is used twice")
        self.seen[page:page + n] = b"\1" * n

    def run(self):
        t = self.tree
        if t.entries:
            self.page(t.root, 0)
        got = (self.counts[_BRANCH], self.counts[_LEAF], self.overflow, self.entries)
        want = (t.branch, t.leaf, t.overflow, t.entries)
        if got != want and t.entries:
            raise Damaged("found %d branch, %d leaf, %d overflow pages and %d entries, the meta page counts %d, %d, %d "
                          "and %d" % (got + want))
        if not self.found:
            return tuple(np.empty(0, t) for t in (np.uint64, np.uint64, np.uint32))
        return tuple(np.concatenate(part) for part in zip(*self.found))

    def nodes(self, number, kind):
        """The nodes of a page and where they begin."""
        p = self.pages
        if not 2 <= number <= p.last:
            raise Damaged(f"page {number} is outside of the file")
        self.take(number)
        self.counts[kind] += 1
        if self.counts[kind] > (self.tree.leaf if kind == _LEAF else self.tree.branch):
            raise Damaged(f"page {number}: more pages than the meta page counts")
        b = np.frombuffer(pread(p.fd, p.psize, number * p.psize) + bytes(_NODE.itemsize), np.uint8)
        page, _, flags, lower, upper = struct.unpack_from("<QHHHH", b)
        upper = upper or (p.psize if p.psize == 65536 else 0)
        fault = None
        if page != number:
            fault = "its number is not its position"
        elif flags != kind:
            fault = "it is of the wrong kind"
        elif lower < _HEAD + 2 or lower > upper or upper > p.psize or lower & 1:
            fault = "its bounds are impossible"
        if fault:
            raise Damaged(f"page {number}: {fault}")
        at = b[_HEAD:lower].view("<u2").astype(np.int64)
        if at.min() < upper or at.max() + 8 > p.psize:
            raise Damaged(f"page {number}: an entry lies outside of it")
        n = b[at[:, None] + np.arange(_NODE.itemsize)].reshape(-1).view(_NODE)
        self._check_nodes(n, at, number, kind, upper)
        return n, at

    def _check_nodes(self, n, at, number, kind, upper):
        fault, psize = None, self.pages.psize
        short = n["ksize"] != 8
        if kind == _BRANCH:
            short[0] &= n["ksize"][0] != 0
        data = np.zeros(len(n), np.int64)
        if kind == _LEAF:
            data = np.where(n["flags"] == 1, 8, n["low"].astype(np.int64))
        if short.any():
            fault = "a key is not 8 bytes long"
        elif kind == _LEAF and (n["flags"] > 1).any():
            fault = "an entry has flags that kd does not use"
        elif (at + 8 + n["ksize"] + data > psize).any():
            fault = "an entry reaches beyond its end"
        elif int((8 + n["ksize"].astype(np.int64) + data + 1 & ~1).sum()) != psize - upper:
            fault = "its entries overlap"
        if fault:
            raise Damaged(f"page {number}: {fault}")

    def page(self, number, level):
        if level + 1 == self.tree.depth:
            self.leaf(number)
            return
        nodes, _ = self.nodes(number, _BRANCH)
        keys = [int(k) for k in nodes["key"].copy().view(self.key)[:, 0]]
        for i, node in enumerate(nodes):
            if i:
                if self.last_key >= keys[i]:
                    raise Damaged(f"page {number}: separators do not fit the keys")
                self.floor = keys[i]
            self.page(int(node["low"]) | int(node["flags"]) << 32, level + 1)

    def leaf(self, number):
        p = self.pages
        n, at = self.nodes(number, _LEAF)
        keys = n["key"].copy().view(self.key)[:, 0].astype(np.uint64)
        if int(keys[0]) <= self.last_key or int(keys[0]) < self.floor or (keys[1:] <= keys[:-1]).any():
            raise Damaged(f"page {number}: keys do not rise")
        self.last_key = int(keys[-1])
        self.entries += len(n)
        offsets = (number * p.psize + at + 16).astype(np.uint64)
        big = np.flatnonzero(n["flags"])
        if len(big):
            first, size = n["page"][big], n["low"][big].astype(np.uint64)
            count = (size + np.uint64(_HEAD - 1)) // np.uint64(p.psize) + np.uint64(1)
            inside = (first >= 2) & (first <= p.last)
            inside &= count <= np.where(inside, np.uint64(p.last) - np.where(inside, first, np.uint64(0)), 0).astype(
                np.uint64) + np.uint64(1)
            if not inside.all():
                i = int(np.flatnonzero(~inside)[0])
                raise Damaged(f"a value of {size[i]} bytes at page {first[i]} lies outside of the file")
            self.overflow += int(count.sum())
            offsets[big] = first * np.uint64(p.psize) + np.uint64(_HEAD)
            if self.seen is not None:
                self.runs(first, count)
        self.found.append((keys, offsets, n["low"].copy()))

    def runs(self, first, count):
        """Opens overflow pages to check that they are what their entries say."""
        for page, n in zip(first.tolist(), count.tolist()):
            b = pread(self.pages.fd, _HEAD, page * self.pages.psize)
            self.take(page, n)
            number, _, flags, there = struct.unpack("<QHHI", b)
            if (number, flags, there) != (page, _OVERFLOW, n):
                raise Damaged(f"page {page}: not the start of {n} overflow pages")


def _check_free(pages, sizes, offsets, seen):
    for size, offset in zip(sizes.tolist(), offsets.tolist()):
        if size < 8 or size % 8 or size > pages.size:
            raise Damaged(f"free list: an entry of {size} bytes")
        listed = np.frombuffer(pread(pages.fd, size, offset), "<u8")
        if int(listed[0]) > len(listed) - 1:
            raise Damaged(f"free list: {listed[0]} pages in an entry of {size} bytes")
        for page in listed[1:1 + int(listed[0])].tolist():
            if not 2 <= page <= pages.last:
                raise Damaged(f"free list: page {page} is outside of the file")
            if seen[page]:
                raise Damaged(f"free list: page {page} is in use")
            seen[page] = 1


def index(pages, whole=False):
    """(keys, offsets, sizes) of all records in key order: the header record, codebooks, then chunk by chunk, column by
    column. whole: check the free list too, and that every page is used once, as is needed before LMDB writes."""
    seen = bytearray(pages.last + 1) if whole else None
    if whole:
        seen[0:2] = b"\1\1"
    keys, offsets, sizes = _Walk(pages, pages.main, seen).run()
    if whole:
        _, free_offsets, free_sizes = _Walk(pages, pages.free, seen).run()
        _check_free(pages, free_sizes, free_offsets, seen)
        lost = seen.count(0)
        if lost:
            raise Damaged(f"{lost} pages belong to nothing, the first is page {seen.index(0)}")
    return keys, offsets, sizes
