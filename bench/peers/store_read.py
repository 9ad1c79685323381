#!/usr/bin/env python3
"""Rows a second of the ways in which Python trainers keep teacher outputs, on the rows of one file.

    store_read.py DATA.npy FOLDER

DATA: (rows, width) of any type. Formats, each written once into FOLDER and then read whole, in order and shuffled:

    npy            numpy.load(mmap_mode="r"), rows copied out
    lmdb+pickle    py-lmdb, one pickled tensor a row (torchdistill's and many others' cache)
    webdataset     one .npy a sample in a tar, wds.WebDataset with its shuffle buffer
    mds            MosaicML Streaming, zstd shards, sequential and shuffled

One process, one thread, as one loader worker; batches of 128 rows are stacked, since a trainer needs them
so. Prints one JSON line when all is there: {"ready", "rows", "bytes": {format: bytes}, "versions"}; then each line
"go FORMAT ORDER SECONDS" on stdin measures one: {"rows", "seconds", "cpu_s"}; so that programs can be measured in turn.
"""
import argparse
import json
import pickle
import random
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

BATCH = 128


def tree_bytes(path):
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


class Npy:
    def __init__(self, data, folder):
        self.path = folder / "rows.npy"
        if not self.path.exists():
            np.save(self.path, data)

    def batches(self, order):
        z = np.load(self.path, mmap_mode="r")
        index = np.arange(len(z))
        if order == "random":
            np.random.default_rng(1).shuffle(index)
        for i in range(0, len(z), BATCH):
            yield z[index[i:i + BATCH]] if order == "random" else np.array(z[i:i + BATCH])


class LmdbPickle:
    def __init__(self, data, folder):
        import lmdb
        import torch
        self.path = folder / "rows.lmdb"
        if not self.path.exists():
            env = lmdb.open(str(self.path), map_size=1 << 36)
            with env.begin(write=True) as txn:
                for i, row in enumerate(data):
                    txn.put(b"%08d" % i, pickle.dumps(torch.from_numpy(np.array(row)), protocol=5))
            env.close()
        self.env = lmdb.open(str(self.path), readonly=True, lock=False, map_size=1 << 36)

    def batches(self, order):
        import torch
        with self.env.begin() as txn:
            n = txn.stat()["entries"]
            index = list(range(n))
            if order == "random":
                random.Random(1).shuffle(index)
            for i in range(0, n, BATCH):
                yield torch.stack([pickle.loads(txn.get(b"%08d" % k)) for k in index[i:i + BATCH]])


class WebDataset:
    def __init__(self, data, folder):
        import webdataset as wds
        self.path = folder / "wds"
        if not self.path.exists():
            part = folder / "wds.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            with wds.ShardWriter(str(part / "%04d.tar"), maxcount=8192, verbose=0) as w:
                for i, row in enumerate(data):
                    w.write({"__key__": "%08d" % i, "npy": np.array(row)})
            part.rename(self.path)

    def batches(self, order):
        import webdataset as wds
        shards = [str(p) for p in sorted(self.path.glob("*.tar"))]
        d = wds.WebDataset(shards, shardshuffle=len(shards) if order == "random" else False)
        if order == "random":
            d = d.shuffle(5000)
        rows = []
        for sample in d.decode():
            rows.append(sample["npy"])
            if len(rows) == BATCH:
                yield np.stack(rows)
                rows = []
        if rows:
            yield np.stack(rows)


class Mds:
    def __init__(self, data, folder):
        from streaming import MDSWriter
        self.path = folder / "mds"
        self.data = data
        if not self.path.exists():
            part = folder / "mds.part"
            shutil.rmtree(part, ignore_errors=True)
            kind = f"ndarray:{data.dtype}:{','.join(map(str, data.shape[1:]))}"
            with MDSWriter(out=str(part), columns={"x": kind}, compression="zstd") as w:
                for row in data:
                    w.write({"x": np.array(row)})
            part.rename(self.path)

    def batches(self, order):
        from streaming import StreamingDataset
        d = StreamingDataset(local=str(self.path), shuffle=order == "random", batch_size=BATCH, keep_zip=True)
        rows = []
        for sample in d:
            rows.append(sample["x"])
            if len(rows) == BATCH:
                yield np.stack(rows)
                rows = []
        if rows:
            yield np.stack(rows)


FORMATS = {"npy": Npy, "lmdb+pickle": LmdbPickle, "webdataset": WebDataset, "mds": Mds}


def measure(source, order, seconds):
    """Whole and partial epochs until the time is up."""
    rows, start, cpu = 0, time.perf_counter(), time.process_time()
    while True:
        for batch in source.batches(order):
            rows += len(batch)
            if time.perf_counter() - start >= seconds:
                return {"rows": rows, "seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    import torch
    torch.set_num_threads(1)
    data = np.load(args.data, mmap_mode="r")
    args.folder.mkdir(parents=True, exist_ok=True)
    sources = {name: make(data, args.folder) for name, make in FORMATS.items()}
    paths = {"npy": "rows.npy", "lmdb+pickle": "rows.lmdb", "webdataset": "wds", "mds": "mds"}
    # MosaicML unpacks its shards beside the packed ones when it first reads them: count the packed.
    sizes = {name: tree_bytes(args.folder / path) for name, path in paths.items()}
    for name, source in sources.items():
        measure(source, "sequential", 0.5)
    versions = {name: version(name) for name in ("numpy", "torch", "lmdb", "webdataset", "mosaicml-streaming", "zstandard")}
    print(json.dumps({"ready": True, "rows": len(data), "bytes": sizes, "versions": versions}), flush=True)
    for line in sys.stdin:
        _, name, order, seconds = line.split()
        print(json.dumps(measure(sources[name], order, float(seconds))), flush=True)


if __name__ == "__main__":
    main()
