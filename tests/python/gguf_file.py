"""Reads GGUF files, on its own: read_gguf(path) gives (keys, {name: (type, numbers)})."""
import pathlib
import struct

import numpy as np


def read_gguf(path):
    data = pathlib.Path(path).read_bytes()
    at = 0

    def take(form):
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values[0]

    def text():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode()

    def value(kind):
        if kind == 9:
            inner, n = take("I"), take("Q")
            return [value(inner) for _ in range(n)]
        return text() if kind == 8 else take({4: "I", 5: "i", 6: "f", 7: "?"}[kind])

    assert data[:4] == b"GGUF"
    at = 4
    assert take("I") == 3
    tensors, n = take("Q"), take("Q")
    keys = {}
    for _ in range(n):
        key = text()
        assert key not in keys, f"two keys {key}"
        keys[key] = value(take("I"))
    infos = []
    for _ in range(tensors):
        name = text()
        dims = [take("Q") for _ in range(take("I"))]
        infos.append((name, dims[::-1], take("I"), take("Q")))
    base = -(-at // 32) * 32
    out = {}
    for name, dims, kind, where in infos:
        assert where % 32 == 0 and len(name) < 64
        n = int(np.prod(dims))
        if kind == 8:
            blocks = np.frombuffer(data, np.dtype([("d", "<f2"), ("q", "i1", 32)]), n // 32, base + where)
            numbers = (blocks["d"].astype("f4")[:, None] * blocks["q"]).reshape(dims)
        elif kind == 2:
            blocks = np.frombuffer(data, np.dtype([("d", "<f2"), ("q", "u1", 16)]), n // 32, base + where)
            steps = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], 1).astype("f4") - 8
            numbers = (blocks["d"].astype("f4")[:, None] * steps).reshape(dims)
        else:
            numbers = np.frombuffer(data, {0: "<f4", 1: "<f2"}[kind], n, base + where).reshape(dims)
        out[name] = (kind, numbers.astype("f4"))
    assert base + max(-(-(i[3] + out[i[0]][1].size * 4) // 32) * 32 if i[2] == 0 else 0 for i in infos) <= len(data)
    return keys, out
