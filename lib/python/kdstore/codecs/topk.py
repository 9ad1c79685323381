"""topk: the k largest classes with their log-probabilities in steps, and the mass of all others (lib/codec/topk.c)."""
import numpy as np

from . import exact, weights
from .base import Numeric, Usage
from .entries import STEP, Picks, SparseCodec

_NO_TAIL, _MAX_TEMPERATURES = 65535, 8


def _tail_codes(nats):
    return np.minimum(np.rint(1024 * nats), _NO_TAIL - 1)


class TopK(SparseCodec):
    name, code, all_numbers = "topk", 6, True
    options = {"k": ("int", 64, 1, 65535), "temperatures": ("reals", 1.0, 0.05, 100), "step": STEP}

    def open(self):
        self.temperatures = tuple(self.params["temperatures"])
        if 1.0 not in self.temperatures:
            raise Usage("encoding topk: 1 is not among the temperatures, but log-probabilities are kept at 1")
        if len(self.temperatures) > _MAX_TEMPERATURES:
            raise Usage(f"encoding topk: {len(self.temperatures)} temperatures, at most {_MAX_TEMPERATURES} are kept")
        self.unit = self.temperatures.index(1.0)
        self.open_entries(self.params["k"])

    def _largest(self, z):
        """(n, width) whether each is kept: of equal ones the first."""
        k = self.most
        least = np.partition(z, self.width - k, axis=1)[:, self.width - k, None]
        above, equal = z > least, z == least
        return above | (equal & (np.cumsum(equal, axis=1) <= k - above.sum(axis=1, keepdims=True)))

    def _steps(self, gap):
        return np.minimum(np.rint(gap / self.params["step"]), 255).astype(np.int64)

    def pick(self, z, ids, at):
        kept = self._largest(z)
        position, id = np.nonzero(kept)
        top = z.max(axis=1).astype(np.float64)
        codes = np.empty((len(z), len(self.temperatures), 2), np.int64)
        for t, temperature in enumerate(self.temperatures):
            w = weights.weights(z, temperature)
            logz = exact.log(weights.running(weights.block_sums(w))[:, -1])
            w.reshape(len(z), -1)[:, :self.width][kept] = 0
            rest = weights.running(weights.block_sums(w))[:, -1]
            tail = _tail_codes(logz - exact.log(np.where(rest > 0, rest, 1)))
            codes[:, t, 0], codes[:, t, 1] = np.where(rest > 0, tail, _NO_TAIL), np.rint(2048 * logz)
        return Picks(kept.sum(axis=1), id, self._steps(top[position] - z[position, id].astype(np.float64)), codes)

    def encode_sparse(self, s):
        """The bytes of targets that were picked elsewhere, a Sparse with log-probabilities at T = 1 and this encoding's
        temperatures."""
        n, count = len(s), np.diff(np.asarray(s.offset).astype(np.int64))
        if tuple(s.temperatures) != self.temperatures:
            raise Usage(f"encoding topk: the targets have temperatures {tuple(s.temperatures)}, not {self.temperatures}")
        if n and int(count.max()) > self.most:
            raise Usage(f"encoding topk: position {int(count.argmax())} has {int(count.max())} entries, at most {self.most} "
                        "are kept")
        id, value = np.asarray(s.id).astype(np.int64), np.asarray(s.value, np.float32).astype(np.float64)
        position = np.repeat(np.arange(n), count)
        wrong = id >= self.width
        wrong[1:] |= (position[1:] == position[:-1]) & (id[1:] <= id[:-1])
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise Usage(f"encoding topk: position {position[i]}: class {id[i]} does not rise or is beyond the last")
        if not np.isfinite(value).all():
            i = int(np.flatnonzero(~np.isfinite(value))[0])
            raise Numeric(f"encoding topk: position {position[i]}, class {id[i]}: {value[i]} is not a finite number")
        tail, logz = (np.asarray(a, np.float32).astype(np.float64).reshape(n, -1) for a in (s.tail, s.logz))
        top = -logz[:, self.unit]
        top[count > 0] = -np.inf
        np.maximum.at(top, position, value)
        logz[:, self.unit] = -top
        part = np.rint(2048 * np.maximum(logz, 0))
        if not ((tail >= 0) & (tail <= 1) & (part <= 65535)).all():
            raise Numeric("encoding topk: tail masses must be 0 to 1, log-partitions 0 to 31.99")
        codes = np.empty((n, len(self.temperatures), 2), np.int64)
        codes[..., 0] = np.where(tail > 0, _tail_codes(-exact.log(np.where(tail > 0, tail, 1))), _NO_TAIL)
        codes[..., 1] = part
        return self.write(Picks(count, id, self._steps(top[position] - value), codes)) if n else b""

    def give_values(self, count, number, codes):
        top = -codes[:, self.unit, 1] / 2048
        value = np.repeat(top, count) - number * self.params["step"]
        return value.astype(np.float32), np.ones(len(number), bool)

    def give_codes(self, codes):
        tail = exact.exp(-codes[..., 0] / 1024).astype(np.float32)
        return np.where(codes[..., 0] == _NO_TAIL, np.float32(0), tail), codes[..., 1].astype(np.float32) / np.float32(2048)
