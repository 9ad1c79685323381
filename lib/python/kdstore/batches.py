"""Rows of a store as batches: chunk by chunk decoding, an order for each epoch, padding. numpy only; torch.py makes
tensors of it.

Shuffling follows how a store lies on disk: the chunks of a split in random order, `window` of them decoded at a time,
the rows of such a window mixed. With a cache of two windows every chunk is decoded once an epoch; the order is a function of seed and epoch.
"""
import collections

import numpy as np

from .codecs import Sparse
from .errors import Usage
from .philox import CHUNKS, ROWS, permutation

Padded = collections.namedtuple("Padded", "values lengths")
Padded.__doc__ = """Rows of different lengths: values (rows, longest, ...), 0 behind each row's end, and lengths (rows)."""

SparseRows = collections.namedtuple("SparseRows", "id value exact count tail logz lengths")
SparseRows.__doc__ = """Rows of a sparse column, padded: id, value, exact (rows, positions, entries), 0 behind the last of
`count` (rows, positions) entries; tail, logz (rows, positions, temperatures); lengths (rows), the positions of each row.
Without the axis of positions for columns that have one a row."""


def _starts(lengths):
    return np.cumsum(lengths, dtype=np.int64) - lengths


def _runs(starts, lengths):
    """start, start + 1, ... of each run, one run after the other."""
    lengths = lengths.astype(np.int64)
    return np.repeat(starts - _starts(lengths), lengths) + np.arange(int(lengths.sum()))


def _pad(values, lengths):
    lengths = lengths.astype(np.int64)
    out = np.zeros((len(lengths), int(lengths.max(initial=0))) + values.shape[1:], values.dtype)
    out[np.arange(out.shape[1]) < lengths[:, None]] = values
    return out


class Rows:
    """The rows of one split (None: of all), as a table with random access. columns: names, None for all but ids and splits.
    cache: decoded chunks that are kept."""

    def __init__(self, store, columns=None, split="train", cache=8):
        self.store, self.split, self.cache = store, split, cache
        self.columns = [store.column(c) for c in columns] if columns is not None else \
            [c for c in store.columns.values() if c.role not in ("id", "split")]
        self.chunks = store.chunks_of(split)
        self.first = np.cumsum([0] + [c.rows for c in self.chunks])
        self._kept = collections.OrderedDict()

    def __len__(self):
        return int(self.first[-1])

    def __getstate__(self):
        return {**self.__dict__, "_kept": collections.OrderedDict()}

    def _chunk(self, i):
        if i in self._kept:
            self._kept.move_to_end(i)
            return self._kept[i]
        got = {c.name: self.store.read(c, self.chunks[i]) for c in self.columns}
        self._kept[i] = got
        while len(self._kept) > max(1, self.cache):
            self._kept.popitem(last=False)
        return got

    def take(self, index):
        """{column: values} of rows by their numbers within the split, in any order: arrays, Padded or SparseRows."""
        index = np.asarray(index, np.int64)
        if not len(index) or index.min() < 0 or index.max() >= len(self):
            raise Usage(f"{self.store.path}: rows {index} asked for, the split has {len(self)}")
        chunk = np.searchsorted(self.first, index, side="right") - 1
        order = np.argsort(chunk, kind="stable")
        used, at = np.unique(chunk[order], return_index=True)
        parts = [(self._chunk(int(i)), rows - self.first[i]) for i, rows in zip(used, np.split(index[order], at[1:]))]
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return {c.name: self._column(c, [(got[c.name], rows) for got, rows in parts], back) for c in self.columns}

    def _column(self, c, parts, back):
        """parts: (a chunk's values, rows of it); back: where each row of the batch stands among theirs."""
        if isinstance(parts[0][0], Sparse):
            return self._sparse(c, parts, back)
        if not c.ragged:
            return np.concatenate([v[rows] for v, rows in parts])[back]
        lengths = np.concatenate([v.lengths[rows] for v, rows in parts])
        values = np.concatenate([v.values[_runs(_starts(v.lengths)[rows], v.lengths[rows])] for v, rows in parts])
        return Padded(_pad(values[_runs(_starts(lengths)[back], lengths[back])], lengths[back]), lengths[back].astype(np.int64))

    def _sparse(self, c, parts, back):
        lengths = np.concatenate([s.lengths[rows] for s, rows in parts])
        s = Sparse.join([s.take(_runs(_starts(s.lengths)[rows], s.lengths[rows])) for s, rows in parts])
        s = s.take(_runs(_starts(lengths)[back], lengths[back]))
        count = np.diff(s.offset.astype(np.int64))
        fields = s.padded() + (count, s.tail, s.logz)
        if not c.ragged and c.each == 1:
            return SparseRows(*fields, lengths[back].astype(np.int64))
        return SparseRows(*(_pad(f, lengths[back]) for f in fields), lengths[back].astype(np.int64))


def epoch_batches(rows, batch, shuffle=True, seed=0, epoch=0, window=8, drop_last=False, part=0, parts=1, rank=0, world=1):
    """Arrays of row numbers, batch by batch. part of parts: every window goes to one of them (workers). rank of world: of
    every window each takes as many rows (processes that train together)."""
    if not 1 <= batch or not 1 <= window or not 0 <= rank < world:
        raise Usage(f"batch {batch}, window {window}, rank {rank} of {world}")
    n = len(rows.chunks)
    chunks = permutation(n, seed, CHUNKS, epoch) if shuffle else np.arange(n)
    left = np.empty(0, np.int64)
    for number, at in enumerate(range(0, n, window)):
        if number % parts != part:
            continue
        index = np.concatenate([np.arange(rows.first[i], rows.first[i + 1]) for i in chunks[at:at + window]])
        if shuffle:
            index = index[permutation(len(index), seed, ROWS, epoch, number)]
        left = np.concatenate([left, index[rank::world][:len(index) // world]])
        whole = len(left) // batch * batch
        yield from left[:whole].reshape(-1, batch)
        left = left[whole:]
    if len(left) and not drop_last:
        yield left


__all__ = ["Padded", "Rows", "SparseRows", "epoch_batches"]
