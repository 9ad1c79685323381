"""How the entries of a sparse block are written (lib/codec/rank_gaps.c): for each position the ranks of its classes as
gaps, the length of a gap in a byte of its own, its lower bits behind all others. Entries with and without a number are
two lists.
"""
import numpy as np

from . import weights
from .base import MAX_BOOK, Block, Codec, Sparse
from ..errors import Damaged, Limit, Usage

_CENTRE, _MOST_BITS = 15, 24
_MOST_LISTED = 8192  # classes in a codebook: rarer ones cost more there than their ranks save
SEED = ("int", 0, -(1 << 63), (1 << 63) - 1)
STEP = ("real", 0.0625, 0.001, 1)


def _bits(v):
    """Number of bits of each; 0 of 0."""
    return np.frexp(np.asarray(v, np.float64))[1].astype(np.int64)


def _bias(start):
    """What is taken from the length of a gap that begins there."""
    return 5 * _bits(start) // 8 - _CENTRE


def _planes(values, size):
    """The lowest bytes of whole numbers, negative ones modulo 2^32."""
    return np.ascontiguousarray((np.asarray(values, np.int64) & 0xFFFFFFFF).astype("<u4").view(np.uint8).reshape(-1, 4)[:, :size].T).reshape(-1)


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
    """all_numbers: every entry has a number. Subclasses pick a piece's entries, say how many without a number are expected,
    and give values."""
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
        """Classes by falling mean probability, as far as their order is not that of their ids; at most 8,192."""
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
        listed = listed[:_MOST_LISTED]
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
        position, has = np.repeat(np.arange(n), p.count), p.number >= 0
        rank = p.id if self.rank is None else self.rank[p.id]
        order = np.lexsort((rank, ~has, position))  # of each position first those with a number
        rank, number, has, position = rank[order], p.number[order], has[order], position[order]
        first = np.append(True, (position[1:] != position[:-1]) | (has[1:] != has[:-1]))[:len(rank)]
        start = np.where(first, 0, np.append(0, rank[:-1] + 1)[:len(rank)])
        gap = rank - start
        bits = _bits(gap)
        classes = (bits - _bias(start)).astype(np.uint8)
        low = np.maximum(bits - 1, 0)
        which = np.repeat(np.arange(len(gap)), low)
        bit = np.arange(len(which)) - (np.cumsum(low) - low)[which]
        with_it = np.bincount(position[has], minlength=n)
        parts = [_planes(p.codes[:, t, k], 2) for t in range(len(self.temperatures)) for k in (0, 1)]
        parts.append(_planes(with_it, self.count_bytes))
        if not self.all_numbers:
            parts.append(_planes(p.count - with_it - self.expected(n, position[has], number[has]), self.count_bytes))
        parts += [classes[has], _planes(number[has], self.number_bytes), classes[~has],
                  np.packbits((gap[which] >> bit & 1).astype(np.uint8), bitorder="little")]
        return b"".join(x.tobytes() for x in parts)

    # ---- reading -----------------------------------------------------------------------------

    def read_sparse(self, data, positions):
        n, t = positions, len(self.temperatures)
        head = n * (4 * t + self.count_bytes * (1 if self.all_numbers else 2))
        if head > len(data) or (not n and len(data)):
            raise self.damaged(f"{len(data)} bytes do not fit {n} positions")
        codes = np.array([_from_planes(data[2 * k * n:], n, 2) for k in range(2 * t)], np.int64).reshape(t, 2, n)
        has, rest, number, at = self._counts(data, n, 4 * t * n, head)
        mine, groups = len(number), np.stack([has, rest], axis=1).reshape(-1)
        others = int(rest.sum())
        if at + others > len(data):
            raise self.damaged("the entries end too early")
        listed = np.repeat(np.arange(2 * n) % 2 == 0, groups)
        classes, numbers = np.empty(mine + others, np.int64), np.full(mine + others, -1, np.int64)
        classes[listed], classes[~listed], numbers[listed] = data[head:head + mine], data[at:at + others], number
        id = self._ranks(groups, classes, data[at + others:])
        if self.id is not None:
            id = self.id[id]
        count, position = has + rest, np.repeat(np.arange(n), has + rest)
        order = np.lexsort((id, position))
        id, number = id[order], numbers[order]
        twice = np.flatnonzero((id[1:] == id[:-1]) & (position[1:] == position[:-1]))
        if len(twice):
            raise self.damaged(f"the entries of position {position[twice[0]]} cannot be")
        self.check_numbers(count, number)
        codes = codes.transpose(2, 0, 1)
        value, exact = self.give_values(count, number, codes)
        tail, logz = self.give_codes(codes)
        return Sparse(self.width, np.append(0, np.cumsum(count)).astype(np.uint64), id.astype(np.uint32), value, exact,
                      self.temperatures, tail, logz)

    def _counts(self, data, n, at, head):
        """Entries with and without a number of each position, the numbers, and where they end."""
        size = self.count_bytes
        has = _from_planes(data[at:], n, size)
        mine = int(has.sum())
        end = head + mine * (1 + self.number_bytes)
        if (has > self.most).any():
            raise self.damaged("a position has more entries than the encoding keeps")
        if end > len(data):
            raise self.damaged("the entries end too early")
        number = _from_planes(data[head + mine:], mine, self.number_bytes)
        if self.all_numbers:
            return has, np.zeros(n, np.int64), number, end
        expected = self.expected(n, np.repeat(np.arange(n), has), number)
        rest = (_from_planes(data[at + n * size:], n, size) + expected) % 256 ** size
        if (rest > self.most - has).any():
            raise self.damaged("a position has more entries than the encoding keeps")
        return has, rest, number, end

    def _ranks(self, groups, classes, low):
        """Ranks of all entries, list by list. One after the other: where a gap's bits stand depends on all gaps before."""
        out, bit, total = [], 0, len(low) * 8
        padded, width, k = low.tobytes() + bytes(8), self.width, 0
        codes = classes.tolist()
        for i, n in enumerate(groups.tolist()):
            start = 0
            for c in codes[k:k + n]:
                bits = c + 5 * start.bit_length() // 8 - _CENTRE
                if not 0 <= bits <= _MOST_BITS:
                    raise self.damaged(f"the entries of position {i // 2} cannot be")
                rank = start + bits
                if bits > 1:
                    m = bits - 1
                    word = int.from_bytes(padded[bit >> 3:(bit >> 3) + 4], "little") >> (bit & 7)
                    rank = start + (1 << m | word & (1 << m) - 1)
                    bit += m
                if rank >= width:
                    raise self.damaged(f"the entries of position {i // 2} cannot be")
                out.append(rank)
                start = rank + 1
            k += n
        if (bit + 7) // 8 * 8 != total or (bit & 7 and int(low[-1]) >> (bit & 7)):
            raise self.damaged("the low bits of the gaps do not end with it")
        return np.array(out, np.int64)

    def expected(self, n, position, number):
        """How many entries without a number the numbers of n positions, by rising rank, make expect."""
        raise NotImplementedError

    def check_numbers(self, count, number):
        """Damaged: these numbers cannot be."""

    def give_codes(self, codes):
        return None, None
