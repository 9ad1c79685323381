"""int8 and int8-channel: numbers as steps below a top value, one byte each (lib/codec/int8.c).

    value = top - scale * code

Scales have 8 significant bits, so scale * code is exact in f32 and a decoded value has one rounding, whatever computes
it. The encoder works in double precision; numpy's division and rint round as C's do.
"""
import numpy as np

from .base import Codec, Numeric

_LIMIT, _SCALE_MIN, _SCALE_MAX, _TOP_MAX = 2.0 ** 126, 2.0 ** -126, 2.0 ** 120, 2.0 ** 127


def _fit(lo, hi):
    """Scale and top of ranges, as f32."""
    lo, hi = lo.astype(np.float64), hi.astype(np.float64)
    same = lo == hi
    m, e = np.frexp((hi - lo) / 255)
    scale = np.maximum(np.ldexp(np.ceil(m * 256), e - 8), _SCALE_MIN)
    grid = np.ldexp(1.0, np.frexp(scale)[1] - 4)
    top = np.rint(hi / grid) * grid + 0.0
    return np.where(same, 0, scale).astype("<f4"), np.where(same, hi + 0.0, top).astype("<f4")


def _planes(scale, top):
    return np.concatenate([np.ascontiguousarray(p.view(np.uint8).reshape(-1, 4).T).reshape(-1) for p in (scale, top)])


class Int8(Codec):
    name, code = "int8", 2
    channel = False

    def _check_limits(self, block):
        block.check_finite()
        if block.positions and max(-block.values.min(), block.values.max()) > _LIMIT:
            i, k = np.argwhere(np.abs(block.values) > _LIMIT)[0]
            raise Numeric(f"{block.place(i)}, class {k}: {block.values[i, k]} is too large for encoding {self.name} (at "
                          "most 2^126)")

    def encode(self, block):
        v = block.values
        if not len(v):
            return b""
        self._check_limits(block)
        axis = 0 if self.channel else 1
        scale, top = _fit(v.min(axis=axis), v.max(axis=axis))
        divisor = np.where(scale > 0, scale, 1).astype(np.float64)
        top64 = top.astype(np.float64)
        codes = np.empty(v.shape, np.uint8)
        step = max(1, 65536 // self.width)
        for i in range(0, len(v), step):
            at = slice(None) if self.channel else (slice(i, i + step), None)
            q = (top64[at] - v[i:i + step]) / divisor[at]
            np.rint(q, out=q)
            codes[i:i + step] = q.astype(np.int64).astype(np.uint8)
        return _planes(scale, top).tobytes() + codes.tobytes()

    def decode(self, data, positions):
        pairs = 0 if not positions else self.width if self.channel else positions
        if len(data) != 8 * pairs + positions * self.width:
            raise self.damaged(f"{len(data)} bytes do not fit {positions} positions of {self.width} numbers")
        scale, top = np.ascontiguousarray(data[:8 * pairs].reshape(2, 4, pairs).transpose(0, 2, 1)).view("<f4")[..., 0]
        wrong = ~(((scale == 0) | ((scale >= _SCALE_MIN) & (scale <= _SCALE_MAX))) & (np.abs(top) <= _TOP_MAX))
        if wrong.any():
            i = np.flatnonzero(wrong)[0]
            raise self.damaged(f"{'channel' if self.channel else 'position'} {i} has scale {scale[i]} and top {top[i]}")
        codes = data[8 * pairs:].reshape(positions, self.width)
        out = np.empty(codes.shape, np.float32)
        step = max(1, 65536 // self.width)
        for i in range(0, positions, step):
            at = slice(None) if self.channel else (slice(i, i + step), None)
            np.multiply(codes[i:i + step], scale[at], out=out[i:i + step])
            np.subtract(top[at], out[i:i + step], out=out[i:i + step])
        return out


class Int8Channel(Int8):
    name, code = "int8-channel", 3
    channel = True
