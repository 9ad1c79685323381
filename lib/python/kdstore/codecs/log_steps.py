"""log8 and log6: every class as its gap below the position's largest, in steps of log-probability (lib/codec/log_steps.c).

    gap = step * code; the last code stands for step * (code + rest of its position)
    value = -gap - ln sum exp(-gap)

The sum is one of whole numbers of 2^-40, so its order does not matter.
"""
import numpy as np

from . import exact
from .base import Codec

_REST_MAX, _UNIT = 255, 2.0 ** 40


class Log8(Codec):
    name, code, last = "log8", 4, 255
    options = {"step": ("real", 0.0625, 0.001, 1)}

    def open(self):
        self.gaps = self.params["step"] * np.arange(self.last + _REST_MAX + 1)
        self.weights = np.rint(exact.exp(-self.gaps) * _UNIT).astype(np.uint64)

    def _pieces(self, positions):
        step = max(1, 65536 // self.width)
        return [slice(i, i + step) for i in range(0, positions, step)]

    def encode(self, block):
        v = block.values
        block.check_finite()
        rest, codes = np.zeros(len(v), np.uint8), np.empty(v.shape, np.uint8)
        for at in self._pieces(len(v)):
            steps = (v[at].max(axis=1, keepdims=True).astype(np.float64) - v[at]) / self.params["step"]
            steps = np.rint(np.minimum(steps, self.last + _REST_MAX)).astype(np.int64)
            codes[at] = np.minimum(steps, self.last)
            over = np.maximum(steps - self.last, 0).sum(axis=1)
            count = np.maximum((steps >= self.last).sum(axis=1), 1)
            rest[at] = (2 * over + count) // (2 * count)
        return rest.tobytes() + codes.tobytes()

    def decode(self, data, positions):
        if len(data) != positions * (1 + self.width):
            raise self.damaged(f"{len(data)} bytes do not fit {positions} positions of {self.width} numbers")
        rest, codes = data[:positions], data[positions:].reshape(positions, self.width)
        out = np.empty(codes.shape, np.float32)
        for at in self._pieces(positions):
            q = codes[at]
            wrong = (q.min(axis=1) > 0) | (q.max(axis=1) > self.last)
            if wrong.any():
                i = int(np.flatnonzero(wrong)[0])
                raise self.damaged(f"position {at.start + i} has codes from {q[i].min()} to {q[i].max()}, expected 0 to "
                                   f"at most {self.last}")
            gap = q + np.where(q == self.last, rest[at, None], 0).astype(np.int64)
            logz = exact.log(self.weights[gap].sum(axis=1).astype(np.float64) * (1 / _UNIT))
            out[at] = -self.gaps[gap] - logz[:, None]
        return out


class Log6(Log8):
    name, code, last = "log6", 5, 63
    options = {"step": ("real", 0.25, 0.001, 1)}
