"""What all codecs share: parameters, blocks of positions, and the sparse form."""
import numpy as np

from ..errors import Damaged, Error, Limit, Mismatch, Numeric, Unsupported, Usage

MAX_WIDTH = 1 << 24
MAX_BOOK = 64 << 20


class Block:
    """Rows of one chunk on their way into a codec. values: (positions, width) f32; lengths: positions of each row;
    ids: (rows, 16) u8, the key of the random draws."""

    def __init__(self, values, lengths, ids=None):
        self.values, self.lengths, self.ids = values, lengths, ids

    @property
    def positions(self):
        return len(self.values)

    def rows(self):
        """For each position its row, and its place within the row."""
        row = np.repeat(np.arange(len(self.lengths)), self.lengths)
        first = np.cumsum(self.lengths) - self.lengths
        return row, np.arange(self.positions) - first[row]

    def place(self, i):
        """"row 3 of the chunk, position 7" for the position at index i."""
        row, at = self.rows()
        return f"row {row[i]} of the chunk, position {at[i]}"

    def check_finite(self):
        # A sum is not finite where one value is not; it may also overflow, which the second look tells apart.
        with np.errstate(over="ignore", invalid="ignore"):
            suspect = np.flatnonzero(~np.isfinite(self.values.sum(axis=1, dtype=np.float64)))
        for i in suspect:
            bad = np.flatnonzero(~np.isfinite(self.values[i]))
            if len(bad):
                raise Numeric(f"{self.place(i)}, class {bad[0]}: {self.values[i, bad[0]]} is not a finite number")


class Codec:
    """One encoding with its parameters. Subclasses say what they are and do the work.

    options: {key: (kind, default, lowest, highest)}, kind one of int, real, reals, bool.
    """
    name, code, sparse, has_book = "", 0, False, False
    options = {}

    def __init__(self, width, params=None, book=None):
        if not 1 <= width <= MAX_WIDTH:
            raise Usage(f"encoding {self.name}: width {width}, allowed are 1 to {MAX_WIDTH}")
        if book is not None and len(book) > MAX_BOOK:
            raise Limit(f"encoding {self.name}: a codebook of {len(book)} bytes, allowed are {MAX_BOOK}")
        self.width = int(width)
        self.params = self._params(params or {})
        self.book = book or None
        self.open()

    def _params(self, given):
        out = {}
        for key in given:
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                raise Usage(f"encoding {self.name}: unknown key {key!r}, there are {known}")
        for key, (kind, default, lo, hi) in self.options.items():
            v = given.get(key, default)
            try:
                v = _KINDS[kind](v)
            except (TypeError, ValueError):
                raise Usage(f"encoding {self.name}: {key} is {v!r}, expected {kind}") from None
            for x in v if isinstance(v, list) else [] if kind == "bool" else [v]:
                if not lo <= x <= hi:
                    raise Usage(f"encoding {self.name}: {key} is {x}, expected {lo} to {hi}")
            out[key] = v
        return out

    def open(self):
        """Checks the parameters and the codebook, makes tables."""

    def encode(self, block):
        """The bytes of a block."""
        raise NotImplementedError

    def encode_sparse(self, sparse):
        """The bytes of targets that somebody else picked, a Sparse."""
        raise Unsupported(f"encoding {self.name} is not made of sparse targets")

    def decode(self, data, positions):
        """(positions, width) f32 of a block's bytes, a u8 array. Damaged."""
        raise Unsupported(f"encoding {self.name} keeps few classes; it has no dense form")

    def read_sparse(self, data, positions):
        """The Sparse of a block's bytes, a u8 array. Damaged."""
        raise Unsupported(f"encoding {self.name} keeps all classes; it has no sparse form")

    def learn(self, values):
        """A codebook from sample positions (n, width), or None for codecs without one."""
        return None

    def damaged(self, what):
        return Damaged(f"{self.name} block: {what}")


def _int(v):
    if isinstance(v, bool) or int(v) != v:
        raise ValueError
    return int(v)


def _real(v):
    if isinstance(v, (bool, str)) or not np.isfinite(v):
        raise ValueError
    return float(v)


def _reals(v):
    return [_real(x) for x in (v if isinstance(v, (list, tuple)) else [v])]


def _bool(v):
    if not isinstance(v, bool):
        raise ValueError
    return v


_KINDS = {"int": _int, "real": _real, "reals": _reals, "bool": _bool}


class Sparse:
    """The sparse form of a chunk, position by position (CSR).

    offset: (positions + 1) u64; the entries of position i are offset[i]:offset[i + 1] of
      id: u32, rising within a position
      value: f32; log-probability at T = 1 (topk) or the weight that estimates the probability (sample, head-tail)
      exact: bool; False: a sampled class that stands for others too
    temperatures: listed ones; tail, logz: (positions, temperatures) f32, the probability of all classes that are not kept
      and log sum exp((z - max z) / T)
    lengths: (rows) u32 positions of each row. width: number of classes.
    """

    def __init__(self, width, offset, id, value, exact, temperatures=(), tail=None, logz=None, lengths=None):
        n = len(offset) - 1
        self.width, self.offset, self.id, self.value, self.exact = width, offset, id, value, exact
        self.temperatures = tuple(temperatures)
        empty = np.zeros((n, 0), np.float32)
        self.tail, self.logz = empty if tail is None else tail, empty if logz is None else logz
        self.lengths = lengths

    def __len__(self):
        return len(self.offset) - 1

    @property
    def entries(self):
        return len(self.id)

    def positions(self, first, last):
        """Positions first to last - 1 as a Sparse of their own (arrays are views); lengths are left out."""
        a, b = int(self.offset[first]), int(self.offset[last])
        return Sparse(self.width, self.offset[first:last + 1] - self.offset[first], self.id[a:b], self.value[a:b],
                      self.exact[a:b], self.temperatures, self.tail[first:last], self.logz[first:last])

    def take(self, index):
        """Some positions, in any order."""
        index = np.asarray(index, np.int64)
        count = (self.offset[1:] - self.offset[:-1]).astype(np.int64)[index]
        offset = np.concatenate([[0], np.cumsum(count)]).astype(np.uint64)
        at = np.repeat(self.offset[:-1].astype(np.int64)[index] - offset[:-1].astype(np.int64), count) + \
            np.arange(int(offset[-1]))
        return Sparse(self.width, offset, self.id[at], self.value[at], self.exact[at], self.temperatures,
                      self.tail[index], self.logz[index])

    def padded(self, fill=0):
        """(ids, values, exact) as (positions, most entries of one) arrays; unused places hold fill, 0 and False."""
        count = (self.offset[1:] - self.offset[:-1]).astype(np.int64)
        shape = (len(self), int(count.max()) if len(count) else 0)
        used = np.arange(shape[1]) < count[:, None]
        out = [np.full(shape, fill, np.int64), np.zeros(shape, np.float32), np.zeros(shape, bool)]
        for a, part in zip(out, (self.id, self.value, self.exact)):
            a[used] = part
        return tuple(out)

    def dense(self, fill=0.0):
        """(positions, width) f32 with the kept values and fill elsewhere."""
        out = np.full((len(self), self.width), fill, np.float32)
        out[np.repeat(np.arange(len(self)), (self.offset[1:] - self.offset[:-1]).astype(np.int64)), self.id] = self.value
        return out

    @staticmethod
    def join(parts):
        """Several one after the other."""
        first = parts[0]
        if len(parts) == 1:
            return first
        shift = np.cumsum([0] + [p.entries for p in parts[:-1]]).astype(np.uint64)
        cat = {k: np.concatenate([getattr(p, k) for p in parts]) for k in ("id", "value", "exact", "tail", "logz")}
        offset = np.concatenate([p.offset[:-1] + s for p, s in zip(parts, shift)] +
                                [np.array([sum(p.entries for p in parts)], np.uint64)])
        whole = all(p.lengths is not None for p in parts)
        return Sparse(first.width, offset, temperatures=first.temperatures, **cat,
                      lengths=np.concatenate([p.lengths for p in parts]) if whole else None)


__all__ = ["Block", "Codec", "Sparse", "Damaged", "Error", "Mismatch", "Numeric", "Usage"]
