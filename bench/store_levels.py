#!/usr/bin/env python3
"""What a column's zstd level, its filter and a dictionary change, in bytes a row, and what steps of log-probability cost.

    bench/store_levels.py [--json RESULTS]      # also `make store-levels`, which writes bench/results/

Rows: Fashion-MNIST's test images, what a small network that is trained here on the others makes of them (numpy, fixed
seed), and vectors of stated distributions. Records are made by kdstore, which writes what the C library writes. A
dictionary is trained on the records of every second chunk and used on the others; its own bytes are left out.
"""
import argparse
import datetime
import gzip
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import zstandard

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lib" / "python"))
from kdstore import Column, codecs, columns, records, values  # noqa: E402

DATA = Path("/usr/share/datasets/fashion-mnist")
LEVELS = (1, 3, 6, 9, 19)
CHUNK = 1024


def idx(name, head):
    return np.frombuffer(gzip.decompress((DATA / name).read_bytes()), np.uint8)[head:]


def network():
    """Test images, logits and two kinds of hidden features of a 784-256-10 network after two passes of SGD."""
    rng = np.random.default_rng(1)
    x = idx("train-images-idx3-ubyte.gz", 16).reshape(-1, 784)
    y, test = idx("train-labels-idx1-ubyte.gz", 8), idx("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 784)

    def scaled(rows):
        return rows.astype(np.float32) / 255 - 0.28
    w = [rng.normal(size=s).astype(np.float32) * (2 / s[0]) ** 0.5 for s in ((784, 256), (256, 10))]
    for at in np.array_split(rng.permutation(2 * len(x)) % len(x), 2 * len(x) // 64):
        a = scaled(x[at])
        h = np.maximum(a @ w[0], 0)
        z = h @ w[1]
        e = np.exp(z - z.max(axis=1, keepdims=True))
        g = e / e.sum(axis=1, keepdims=True)
        g[np.arange(len(at)), y[at]] -= 1
        back = (g @ w[1].T) * (h > 0)
        w[1] -= 0.1 / len(at) * (h.T @ g)
        w[0] -= 0.1 / len(at) * (a.T @ back)
    hidden = scaled(test) @ w[0]
    normed = (hidden - hidden.mean(axis=1, keepdims=True)) / hidden.std(axis=1, keepdims=True)
    return test.reshape(-1, 28, 28), np.maximum(hidden, 0) @ w[1], np.maximum(hidden, 0), normed


def kinds():
    """(title, column, rows) of everything that is measured."""
    images, logits, relu, normed = network()
    gauss = np.random.default_rng(2).normal(size=(4096, 256)).astype(np.float32)
    wide = 3 * np.random.default_rng(3).normal(size=(1024, 1000)).astype(np.float32)
    out = [("image", Column("image", "input", "u8", (28, 28)), images)]
    for dtype in ("f32", "f16"):
        out.append(("logits", Column("l", "logits", dtype, (10,)), logits))
    for encoding in (*(e for e in codecs.ALL if e != "topk"), "topk:k=3"):
        out.append(("logits", Column("l", "logits", "f32", (10,), encoding), logits))
    for encoding in (e for e in codecs.ALL if e != "int8-channel"):
        out.append(("logits of 1000", Column("l", "logits", "f32", (1000,), encoding), wide))
    for encoding in ("int8", "int8-channel"):
        out.append(("feature", Column("f", "feature", "f32", (256,), encoding), relu))
    for title, rows in (("feature", relu), ("feature, layer norm", normed), ("feature, gaussian", gauss)):
        for filter in ("shuffle", "exponent"):
            out.append((title, Column("f", "feature", "bf16", (256,), filter=filter), rows))
    return out


def blocks_of(column, rows, chunk_rows):
    """The filtered blocks of all whole chunks, and the fields of their records."""
    c = columns.complete(column, 3)
    codec = None if c.dense else codecs.open_column(c)
    ids = values.row_ids("x", np.arange(len(rows), dtype=np.uint32)) if codec and codec.sparse else None
    out = []
    for at in range(0, len(rows) - chunk_rows + 1, chunk_rows):
        part = rows[at:at + chunk_rows]
        if codec:
            key = None if ids is None else ids[at:at + chunk_rows]
            data = codec.encode(codecs.Block(np.ascontiguousarray(part, np.float32), np.ones(len(part), np.int64), key))
            out.append(np.frombuffer(data, np.uint8))
        else:
            out.append(records.filtered(c.filter, [np.ascontiguousarray(values.cast(part, c.dtype, "bench"))]))
    return out, {"dtype": 1 + columns.DTYPES.index(c.dtype), "encoding": c.code}


def levels_of(column, rows):
    """({level: bytes a row}, {level: MB/s into records}) with chunks of the usual size."""
    blocks, fields = blocks_of(column, rows, CHUNK)
    size, speed = {}, {}
    for level in LEVELS:
        start = time.perf_counter()
        packed = sum(len(records.pack(b, level, **fields)[0]) for b in blocks)
        speed[level] = round(sum(map(len, blocks)) / (time.perf_counter() - start) / 1e6)
        size[level] = round(packed / (len(blocks) * CHUNK), 3)
    return size, speed


def dictionary(column, rows, chunk_rows):
    """Bytes a row in small chunks without and with a dictionary (records' headers included), and in usual chunks."""
    blocks, fields = blocks_of(column, rows, chunk_rows)
    learn, use = [b.tobytes() for b in blocks[::2]], blocks[1::2]
    try:
        made = zstandard.train_dictionary(min(112640, sum(map(len, learn)) // 10), learn)
    except zstandard.ZstdError:  # too few or too plain samples
        made = None
    coder = zstandard.ZstdCompressor(level=3, dict_data=made) if made else None
    plain = [len(records.pack(b, 3, **fields)[0]) for b in use]
    with_it = [min(n, records.HEAD + len(coder.compress(b.tobytes()))) if coder else n for n, b in zip(plain, use)]
    whole, fields = blocks_of(column, rows, CHUNK)
    rows_used = len(use) * chunk_rows
    return {"plain": round(sum(plain) / rows_used, 3), "dictionary": round(sum(with_it) / rows_used, 3),
            "usual_chunk": round(sum(len(records.pack(b, 3, **fields)[0]) for b in whole) / (len(whole) * CHUNK), 3)}


def divergences():
    """{logits, encoding, T: KL(softmax(z / T) || softmax(decoded / T))}, mean over positions, nats; and how many classes lie
    beyond the last code, share."""
    rng = np.random.default_rng(4)
    rank = np.arange(49152)
    text = -rng.uniform(0.8, 1.6, (64, 1)) * np.log(rank + 2) + 2 * rng.normal(size=(64, len(rank)))
    sets = {"logits of 10": network()[1][:2048], "logits of 1000": 3 * rng.normal(size=(512, 1000)), "logits of 49152": text}
    out = {}
    for title, z in sets.items():
        z = z.astype(np.float32)
        for name in ("int8", "log8", "log6"):
            codec = codecs.ALL[name](z.shape[1])
            back = codec.decode(np.frombuffer(codec.encode(codecs.Block(z, np.ones(len(z), np.int64))), np.uint8), len(z))
            for t in (1, 4):
                p, q = (v.astype(np.float64) / t for v in (z, back))
                p, q = (v - v.max(axis=1, keepdims=True) for v in (p, q))
                p, q = (v - np.log(np.exp(v).sum(axis=1, keepdims=True)) for v in (p, q))
                out[f"{title}, {name}, T = {t}"] = float(f"{(np.exp(p) * (p - q)).sum(axis=1).mean():.3g}")
        out[f"{title}, beyond 16 nats"] = round(float((z.max(axis=1, keepdims=True) - z > 15.9).mean()), 4)
    return out


def title_of(kind, c):
    filter = "" if not c.filter else f" {c.filter}"
    return f"{kind}, {c.dtype + filter if c.dense else c.encoding}"


def result(name, value, unit, details):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    kd = subprocess.run(["git", "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True, cwd=HERE).stdout.strip()
    return {"name": name, "value": value, "unit": unit, "bar": None, "direction": "lower", "peer": None,
            "peer_value": None, "command": "make store-levels",
            "machine": {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "cores_of_machine": os.cpu_count(),
                        "mem_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 ** 30, 1)},
            "versions": {"kd": kd, "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)), "numpy": np.__version__,
                         "kernel": platform.release()},
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "details": details}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="folder of results to write into")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    by_level, by_chunk = {}, {}
    print(f"{'bytes a row':36}" + "".join(f"{'level ' + str(v):>10}" for v in LEVELS) + "   MB/s packed, level by level")
    for kind, column, rows in kinds():
        title = title_of(kind, column)
        size, speed = levels_of(column, rows)
        by_level[title] = size
        print(f"{title:36}" + "".join(f"{size[v]:>10.2f}" for v in LEVELS) + "   " + " ".join(f"{speed[v]}" for v in LEVELS))
    print(f"\n{'bytes a row in chunks of 64':36}{'plain':>11}{'dictionary':>11}{'chunks of ' + str(CHUNK):>16}")
    for kind, column, rows in kinds():
        if column.width <= 28 or (not column.dense and codecs.ALL[column.encoding.partition(":")[0]].sparse):
            title = title_of(kind, column)
            got = by_chunk[title] = dictionary(column, rows, 64)
            print(f"{title:36}{got['plain']:>11.2f}{got['dictionary']:>11.2f}{got['usual_chunk']:>16.2f}")
    kl = divergences()
    print("\nKL divergence of what comes back, nats")
    for title, value in kl.items():
        print(f"{title:36}{value:>12}")
    if args.json:
        excess = max(1 - v[19] / v[3] for v in by_level.values())
        best = max(1 - v["dictionary"] / v["usual_chunk"] for v in by_chunk.values())
        for name, value, unit, details in (("store-level-19", round(100 * excess, 2), "% smaller at best", by_level),
                                           ("store-dictionary", round(100 * best, 2), "% smaller at best", by_chunk),
                                           ("store-log8-kl", kl["logits of 10, log8, T = 1"], "nats", kl)):
            text = json.dumps(result(name, value, unit, details), indent=2) + "\n"
            (args.json / f"{name}.json").write_text(text)


if __name__ == "__main__":
    main()
