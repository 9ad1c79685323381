"""How the entries of a sparse block are written (lib/codec/rank_gaps.c): for each position the ranks of its classes as
gaps, the length of a gap in a byte of its own, its lower bits behind all others.
"""
import numpy as np

from . import weights
from .base import MAX_BOOK, Block, Codec, Sparse
from ..errors import Damaged, Limit, Usage

_CENTRE, _FLAG, _MOST_BITS = 18, 128, 24
SEED = ("int", 0, -(1 << 63), (1 << 63) - 1)
STEP = ("real", 0.0625, 0.001, 1)


def _bits(v):
    """Number of bits of each; 0 of 0."""
    return np.frexp(np.asarray(v, np.float64))[1].astype(np.int64)


def _planes(values, size):
    return np.ascontiguousarray(np.asarray(values).astype("<u4").view(np.uint8).reshape(-1, 4)[:, :size].T).reshape(-1)


def _from_planes(data, n, size):
    return sum((data[k * n:(k + 1) * n].astype(np.int64) << 8 * k for k in range(size)), np.zeros(n, np.int64))


def id_bytes(width):
    return 1 if width <= 256 else 2 if width <= 65536 else 3


class Picks:
    """Entries of positions: count (n); position, id, and number of each (-1: it has none), by position; codes (n, 2,
    temperatures), tail codes and partition codes."""

    def __init__(self, count, id, number, codes=None):
        self.count, self.id, self.number, self.codes = count, id, number, codes

    @staticmethod
    def join(parts, temperatures):
        if not parts:
            none = np.zeros(0, np.int64)
            return Picks(none, none, none, np.zeros((0, temperatures, 2), np.int64))
        cat = {k: np.concatenate([getattr(p, k) for p in parts]) for k in ("count", "id", "number", "codes")}
        return Picks(**cat)


class SparseCodec(Codec):
    """all_numbers: every entry has a number and no flag says so. Subclasses: pick a piece's entries, and give_values."""
    sparse, has_book, all_numbers, draws = True, True, False, False
    number_bytes, temperatures = 1, ()

    def open_entries(self, most):
        self.most = min(most, self.width)
        self.count_bytes = 1 if self.most <= 255 else 2
        self.id = self.rank = None
        if self.book:
            self.id = self._read_book()
            self.rank = np.empty(self.width, np.int64)
            self.rank[self.id] = np.arange(self.width)

    def _read_book(self):
        size = id_bytes(self.width)
        n = len(self.book) // size
        if len(self.book) % size or n > self.width:
            raise Damaged(f"encoding {self.name}: a codebook of {len(self.book)} bytes does not fit {self.width} classes "
                          f"of {size} bytes")
        listed = _from_planes(np.frombuffer(self.book, np.uint8), n, size)
        there = np.zeros(self.width, bool)
        if n and int(listed.max()) >= self.width:
            raise Damaged(f"encoding {self.name}: a class of the codebook is beyond the last")
        there[listed] = True
        if int(there.sum()) != n:
            raise Damaged(f"encoding {self.name}: a class stands twice in the codebook")
        return np.concatenate([listed, np.flatnonzero(~there)])

    def learn(self, values):
        """Classes by falling mean probability, as far as their order is not that of their ids."""
        if self.width * id_bytes(self.width) > MAX_BOOK:
            raise Limit(f"encoding {self.name}: no codebook for {self.width} classes")
        Block(values, np.ones(len(values), np.int64)).check_finite()
        mean = np.zeros(self.width)
        for z in values:
            w = weights.weights(z[None], 1.0)
            total = weights.running(weights.block_sums(w))[0, -1]
            mean += w.reshape(-1)[:self.width] / total
        order = np.lexsort((np.arange(self.width), -mean))
        back = np.flatnonzero(order[:-1] > order[1:])
        listed = order[:int(back[-1]) + 1] if len(back) else order[:0]
        return _planes(listed, id_bytes(self.width)).tobytes() or None

    # ---- writing -----------------------------------------------------------------------------

    def encode(self, block):
        if self.draws and block.ids is None:
            raise Usage(f"encoding {self.name} draws at random and needs the ids of the rows")
        if not block.positions:
            return b""
        block.check_finite()
        row, at = block.rows()
        step, parts = max(1, (1 << 18) // self.width), []
        for i in range(0, block.positions, step):
            part = slice(i, i + step)
            ids = np.asarray(block.ids)[row[part]] if self.draws else None
            parts.append(self.pick(block.values[part], ids, at[part]))
        return self.write(Picks.join(parts, len(self.temperatures)))

    def write(self, p):
        n = len(p.count)
        position = np.repeat(np.arange(n), p.count)
        rank = p.id if self.rank is None else self.rank[p.id]
        order = np.lexsort((rank, position))
        rank, number = rank[order], p.number[order]
        first = np.cumsum(p.count) - p.count
        start = np.concatenate([[0], rank[:-1] + 1]) if len(rank) else rank
        start[first[p.count > 0]] = 0
        gap = rank - start
        bits = _bits(gap)
        has = number >= 0
        classes = bits - 3 * _bits(start) // 4 + _CENTRE
        if not self.all_numbers:
            classes = classes + _FLAG * has
        low = np.maximum(bits - 1, 0)
        which = np.repeat(np.arange(len(gap)), low)
        bit = np.arange(len(which)) - (np.cumsum(low) - low)[which]
        parts = [_planes(p.codes[:, t, k], 2) for t in range(len(self.temperatures)) for k in (0, 1)]
        parts += [_planes(p.count, self.count_bytes), classes.astype(np.uint8), _planes(number[has], self.number_bytes),
                  np.packbits((gap[which] >> bit & 1).astype(np.uint8), bitorder="little")]
        return b"".join(x.tobytes() for x in parts)

    # ---- reading -----------------------------------------------------------------------------

    def read_sparse(self, data, positions):
        n, t = positions, len(self.temperatures)
        head = n * (4 * t + self.count_bytes)
        if head > len(data) or (not n and len(data)):
            raise self.damaged(f"{len(data)} bytes do not fit {n} positions")
        codes = np.stack([_from_planes(data[2 * k * n:], n, 2) for k in range(2 * t)], axis=1).reshape(n, t, 2) if t else \
            np.zeros((n, 0, 2), np.int64)
        count = _from_planes(data[4 * t * n:], n, self.count_bytes)
        if n and int(count.max()) > self.most:
            raise self.damaged("a position has more entries than the encoding keeps")
        entries = int(count.sum())
        classes, at = data[head:head + entries], head + entries
        if at > len(data):
            raise self.damaged("the entries end too early")
        flags = classes >= _FLAG
        if self.all_numbers and flags.any():
            raise self.damaged("a class byte is above 127")
        has = np.ones(entries, bool) if self.all_numbers else flags
        numbers = int(has.sum())
        if at + numbers * self.number_bytes > len(data):
            raise self.damaged("the numbers end too early")
        number = np.full(entries, -1, np.int64)
        number[has] = _from_planes(data[at:], numbers, self.number_bytes)
        id = self._ranks(count, classes & (_FLAG - 1), data[at + numbers * self.number_bytes:])
        if self.id is not None:
            id = self.id[id]
            order = np.lexsort((id, np.repeat(np.arange(n), count)))
            id, number = id[order], number[order]
        self.check_numbers(count, number)
        offset = np.concatenate([[0], np.cumsum(count)]).astype(np.uint64)
        value, exact = self.give_values(count, number, codes)
        tail, logz = self.give_codes(codes)
        return Sparse(self.width, offset, id.astype(np.uint32), value, exact, self.temperatures, tail, logz)

    def _ranks(self, count, classes, low):
        """Ranks of all entries. One after the other: where a gap's bits stand depends on all gaps before."""
        out, bit, total = [], 0, len(low) * 8
        padded, width, k = low.tobytes() + bytes(8), self.width, 0
        codes = classes.tolist()
        for i, n in enumerate(count.tolist()):
            start = 0
            for c in codes[k:k + n]:
                bits = c + 3 * start.bit_length() // 4 - _CENTRE
                if not 0 <= bits <= _MOST_BITS:
                    raise self.damaged(f"the entries of position {i} cannot be")
                if bits > 1:
                    m = bits - 1
                    word = int.from_bytes(padded[bit >> 3:(bit >> 3) + 4], "little") >> (bit & 7)
                    rank = start + (1 << m | word & (1 << m) - 1)
                    bit += m
                else:
                    rank = start + bits
                if rank >= width:
                    raise self.damaged(f"the entries of position {i} cannot be")
                out.append(rank)
                start = rank + 1
            k += n
        if (bit + 7) // 8 * 8 != total or (bit & 7 and int(low[-1]) >> (bit & 7)):
            raise self.damaged("the low bits of the gaps do not end with it")
        return np.array(out, np.int64)

    def check_numbers(self, count, number):
        """Damaged: these numbers cannot be."""

    def give_codes(self, codes):
        return None, None
