"""The exponential and the logarithm of lib/codec (exact.h, exact.c): the same operations in the same order on arrays of
doubles, so the same bits. numpy's own differ from build to build in the last one.
"""
import numpy as np

_h = float.fromhex
_EXP = [_h(c) for c in ("0x1.0000000000001p-1", "0x1.5555555555556p-3", "0x1.5555555553d4fp-5", "0x1.11111111109adp-7",
                        "0x1.6c16c17893833p-10", "0x1.a01a01a7c8d47p-13", "0x1.a019b8ef67c6cp-16",
                        "0x1.71de0d9c145d0p-19", "0x1.2891a8c1d838dp-22", "0x1.af38d53857513p-26")]
_LOG = [_h(c) for c in ("0x1.5555555555593p-1", "0x1.999999997fa04p-2", "0x1.2492494229359p-2", "0x1.c71c51d8e78afp-3",
                        "0x1.7466496cb03dep-3", "0x1.39a09d078c69fp-3", "0x1.2f112df3e5244p-3")]
_LOG2E, _LN2_HI, _LN2_LO = _h("0x1.71547652b82fep+0"), _h("0x1.62e42fee00000p-1"), _h("0x1.a39ef35793c76p-33")
_ROUNDER, _EXP_MIN = _h("0x1.8p52"), -708.0
_PIECE = 4096
_u64 = np.uint64


def exp(x):
    """e^x for x <= 0; subnormal results are 0."""
    x = np.ascontiguousarray(x, np.float64)
    out = np.empty(x.shape)
    flat, to = x.reshape(-1), out.reshape(-1)
    for i in range(0, flat.size, _PIECE):  # what is at work stays in the cache
        _exp_piece(flat[i:i + _PIECE], to[i:i + _PIECE])
    return out


def _exp_piece(x, out):
    small = x < _EXP_MIN
    x = np.maximum(x, _EXP_MIN)
    shifted = x * _LOG2E
    shifted += _ROUNDER
    k = shifted - _ROUNDER
    r = x
    r -= k * _LN2_HI
    k *= _LN2_LO
    r -= k
    q = r * _EXP[9]
    q += _EXP[8]
    for c in _EXP[7::-1]:
        q *= r
        q += c
    k = r * r
    q *= k
    q += r
    q += 1.0
    scale = shifted.view(_u64)
    scale += _u64(1023)
    scale <<= _u64(52)
    np.multiply(q, scale.view(np.float64), out=out)
    out[small] = 0


def log(x):
    """ln x for normal x > 0."""
    bits = np.atleast_1d(np.asarray(x, np.float64)).view(_u64)
    low = bits & _u64(0xFFFFFFFFFFFFF)
    up = (low + _u64(0x95F6400000000)) & _u64(0x10000000000000)
    k = (((bits + up) >> _u64(52)).astype(np.int64) - 1023).astype(np.float64)
    f = (low | (up ^ _u64(0x3FF0000000000000))).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z, half = s * s, 0.5 * f * f
    q = np.full_like(z, _LOG[6])
    for c in _LOG[5::-1]:
        q = q * z + c
    return (k * _LN2_HI - ((half - (s * (half + z * q) + k * _LN2_LO)) - f)).reshape(np.shape(x))
