"""Bytes that are mostly one byte, as marks and the bytes that are marked (lib/store/marks.c, docs/store-format.md)."""
import numpy as np

from .errors import Damaged

_HEAD, _STRIDE, _TRIED = 2, 64, 1 << 16  # the last two: KD__MARKS_STRIDE and KD__MARKS_TRIED


def _bits(packed, n=None):
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=n, bitorder="little").view(bool)


def _pack(bits):
    return np.packbits(bits, bitorder="little")


def _spread(marks, values, background):
    """An array of the background, and of values where there is a mark."""
    out = np.full(marks.size, background, np.uint8)
    out[marks] = values
    return out


# ---- writing ---------------------------------------------------------------------------------


def _difference(words, stride):
    """Marks as u64 words, less those `stride` bits before."""
    if not stride:
        return words
    before = np.concatenate([np.zeros(1, "<u8"), words[:-1]])
    if stride == 64:
        return words ^ before
    return words ^ words << np.uint64(stride) ^ before >> np.uint64(64 - stride)


def write(raw):
    """The payload of a block of bytes; None: not smaller than the block."""
    raw = np.frombuffer(raw, np.uint8)
    n, size = raw.size, (raw.size + 7) // 8
    top = (size + 7) // 8
    if not n:
        return None
    background = int(np.bincount(raw, minlength=256).argmax())
    marks = raw != background
    marked = raw[marks]
    if _HEAD + top + marked.size >= n:
        return None
    words = np.zeros((n + 63) // 64, "<u8")
    words.view(np.uint8)[:size] = _pack(marks)
    tried = words[:(min(n, _TRIED) + 63) // 64]
    stride = int(np.argmin([np.count_nonzero(_difference(tried, s).view(np.uint8)) for s in range(_STRIDE + 1)]))
    kept = _difference(words, stride).view(np.uint8)[:size].copy()
    if n % 8:
        kept[-1] &= (1 << n % 8) - 1
    parts = [np.array([background, stride], np.uint8), _pack(kept != 0), kept[kept != 0], marked]
    return b"".join(p.tobytes() for p in parts) if sum(p.size for p in parts) < n else None


# ---- reading ---------------------------------------------------------------------------------


def parse(payload, raw):
    """Places where the kept marks and the marked bytes begin; Damaged."""
    size = (raw + 7) // 8
    kept = _HEAD + (size + 7) // 8
    if len(payload) < kept:
        raise Damaged(f"{len(payload)} bytes cannot be the marks of {raw}")
    if payload[1] > _STRIDE:
        raise Damaged(f"marks with a stride of {payload[1]}, the limit is {_STRIDE}")
    top = _bits(payload[_HEAD:kept])
    if top[size:].any():
        raise Damaged(f"marks beyond the block's {raw} bytes")
    count = int(np.count_nonzero(top))
    if not 0 <= len(payload) - kept - count <= raw:
        raise Damaged(f"{len(payload)} bytes cannot be the marks of {raw}, {count} of them kept, and what they mark")
    return kept, kept + count


def read(payload, raw):
    """A block of raw bytes; Damaged."""
    kept, marked = parse(payload, raw)
    size, stride = (raw + 7) // 8, payload[1]
    packed = _spread(_bits(payload[_HEAD:kept], size), np.frombuffer(payload[kept:marked], np.uint8), 0)
    marks = _bits(packed)
    fits = not marks[raw:].any()
    marks = marks[:raw]
    if stride:  # each mark is the sum of the differences at it and every `stride` bits before
        lines = np.zeros((raw + stride - 1) // stride * stride, np.uint8)
        lines[:raw] = marks
        marks = np.bitwise_xor.accumulate(lines.reshape(-1, stride), axis=0).reshape(-1)[:raw].view(bool)
    values = np.frombuffer(payload[marked:], np.uint8)
    if not fits or np.count_nonzero(marks) != values.size:
        raise Damaged("the block does not have as many marks as marked bytes")
    return _spread(marks, values, payload[0])
