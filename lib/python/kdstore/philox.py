"""Philox4x32-10 as kd uses it (lib/base/rng.c): random numbers that are a function of where they are used.

    key     = seed, low word first
    counter = { block low, purpose | block high << 8, a, b }

Each block gives four numbers, word 0 first. (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.)
"""
import numpy as np

CHUNKS, ROWS, SAMPLE = 2, 3, 7  # purposes
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter, seed):
    """(n, 4) u32 numbers of (n, 4) counters under the key of a seed, or of an array of n seeds."""
    c0, c1, c2, c3 = (np.ascontiguousarray(c).astype(np.uint64) for c in np.asarray(counter, np.uint32).T)
    seed = np.asarray(seed, np.uint64)
    k0, k1 = seed & _LOW, seed >> _SHIFT
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = p1 >> _SHIFT ^ c1 ^ k0, p1 & _LOW, p0 >> _SHIFT ^ c3 ^ k1, p0 & _LOW
        k0, k1 = k0 + np.uint64(0x9E3779B9) & _LOW, k1 + np.uint64(0xBB67AE85) & _LOW
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def stream(seed, purpose, a, b, first, n):
    """Numbers first to first + n - 1 of a stream."""
    blocks = np.arange(first // 4, (first + n + 3) // 4, dtype=np.uint64)
    counter = np.empty((len(blocks), 4), np.uint32)
    counter[:, 0] = blocks & _LOW
    counter[:, 1] = np.uint64(purpose) | blocks >> _SHIFT << np.uint64(8)
    counter[:, 2], counter[:, 3] = a, b
    return philox(counter, seed & (1 << 64) - 1).reshape(-1)[first % 4:first % 4 + n]


def permutation(n, seed, purpose, a=0, b=0):
    """kd_rng_permute: Fisher-Yates from the end, bounded numbers by Lemire's method."""
    order = list(range(n))
    bounds = np.arange(n, 1, -1, dtype=np.uint64)
    reject = (np.uint64(1 << 32) - bounds) % bounds
    at = done = 0
    swap = np.empty(len(bounds), np.int64)
    while done < len(bounds):
        m = stream(seed, purpose, a, b, at, len(bounds) - done).astype(np.uint64) * bounds[done:]
        bad = np.flatnonzero((m & _LOW) < reject[done:])
        take = int(bad[0]) if len(bad) else len(m)
        swap[done:done + take] = (m[:take] >> _SHIFT).astype(np.int64)
        done, at = done + take, at + take + (1 if len(bad) else 0)
    for i, j in zip(range(n - 1, 0, -1), swap.tolist()):
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64)
