"""Softmax of positions as the sparse codecs need it (lib/codec/weights.c): weights exp((z - max z) / T), their sums in
blocks of 64 classes with one order of additions, and the random numbers of a position.
"""
import struct

import numpy as np

from . import exact
from ..philox import SAMPLE, philox
from ..xxh3 import hash64

BLOCK = 64


def weights(z, temperature):
    """(n, blocks, 64) f64 of logits (n, width) f32; behind the last class stand zeros."""
    n, width = z.shape
    out = np.zeros((n, -(-width // BLOCK) * BLOCK))
    gap = z.astype(np.float64)
    gap -= z.max(axis=1, keepdims=True)
    gap *= 1 / temperature
    out[:, :width] = exact.exp(gap)
    return out.reshape(n, -1, BLOCK)


def block_sums(w):
    """(n, blocks): eight lanes, then those four apart, two apart, one apart."""
    lanes = w.reshape(w.shape[:2] + (8, 8))
    lane = lanes[:, :, 0].copy()
    for k in range(1, 8):
        lane += lanes[:, :, k]
    for half in (4, 2, 1):
        lane = lane[..., :half] + lane[..., half:2 * half]
    return lane[..., 0]


def running(sums):
    """(n, blocks + 1): the sums before each block, and of all. (cumsum adds one after the other.)"""
    return np.concatenate([np.zeros((len(sums), 1)), np.cumsum(sums, axis=1)], axis=1)


def draws(seed, ids, at, n):
    """(positions, n) numbers in [0, 1). ids: (positions, 16) u8 of their rows, at: their places within the rows."""
    head = struct.pack("<q", seed)
    keys = {i: hash64(head + i) for i in {i.tobytes() for i in ids}}
    key = np.array([keys[i.tobytes()] for i in ids], np.uint64)
    blocks = -(-n // 2)
    counter = np.zeros((len(ids), blocks, 4), np.uint32)
    counter[..., 0], counter[..., 1] = np.arange(blocks), SAMPLE
    counter[..., 2] = np.asarray(at)[:, None]
    words = philox(counter.reshape(-1, 4), np.repeat(key, blocks)).reshape(len(ids), -1, 2)[:, :n].astype(np.uint64)
    return ((words[..., 0] | words[..., 1] << np.uint64(32)) >> np.uint64(11)).astype(np.float64) * 2.0 ** -53
