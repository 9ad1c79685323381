#!/usr/bin/python3
"""commits.py - what the sync of LMDB's meta page costs: its default beside MDB_NOMETASYNC.

    bench/commits.py KD_BIN FOLDER [--pairs N] [--results DIR]

LMDB's commit writes and syncs the data pages, then writes and syncs the meta page that makes them count. MDB_NOMETASYNC
leaves out the second sync: the file stays consistent, but the last transaction may be lost when the machine (not
only the process) goes down. Both are measured in turns, a transaction each, in files side by side on the disk of
FOLDER, for transactions of several sizes; then kd-dump packs rows with the default, and how often it commits
says which share of a dump the second sync is. Writes DIR/store-commit.json.
"""
import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

import lmdb
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import figure  # noqa: E402

SIZES = [64 << 10, 1 << 20, 16 << 20]  # bytes of a transaction; 16 MiB: 32 MiB of rows that compress to half
RECORD = 64 << 10
ROWS, ROW = 160_000, 784


class File:
    """An LMDB file as kd's writer makes one, appended to by whole transactions."""

    def __init__(self, path, metasync):
        self.env = lmdb.open(path, map_size=1 << 34, subdir=False, lock=False, metasync=metasync, readahead=False)
        self.next = 0

    def commit(self, size):
        """Seconds of the commit alone, and of the whole transaction."""
        record = os.urandom(RECORD)
        start = time.monotonic()
        txn = self.env.begin(write=True)
        for _ in range(size // RECORD):
            txn.put(self.next.to_bytes(8, "big"), record, append=True)
            self.next += 1
        before = time.monotonic()
        txn.commit()
        end = time.monotonic()
        return end - before, end - start


def interval(ratios):
    """Median of the paired ratios and its 95 % bootstrap interval, seeded."""
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(5000))
    return {"median": round(statistics.median(ratios), 3), "low95": round(medians[125], 3),
            "high95": round(medians[4874], 3)}


def compare(folder, size, pairs):
    """Default and MDB_NOMETASYNC in turns; the first is the other one each time."""
    paths = [f"{folder}/{name}-{size}.mdb" for name in ("default", "nometasync")]
    files = [File(paths[0], True), File(paths[1], False)]
    taken = [[], []]
    for i in range(pairs + 2):
        for k in (i & 1, 1 - (i & 1)):
            t = files[k].commit(size)
            if i >= 2:
                taken[k].append(t)
    for f, p in zip(files, paths):
        f.env.close()
        os.unlink(p)
    commit = [statistics.median(c for c, _ in t) for t in taken]
    return {"bytes": size, "pairs": pairs, "commit_ms": round(commit[0] * 1e3, 3), "nometasync_commit_ms": round(commit[1] * 1e3, 3),
            "mb_s": round(size * 1e-6 / statistics.median(w for _, w in taken[0]), 1),
            "nometasync_mb_s": round(size * 1e-6 / statistics.median(w for _, w in taken[1]), 1),
            "ratio": interval([b[0] / a[0] for a, b in zip(*taken)])}


def dump(tool, folder):
    """Seconds of a dump of images, and its commits."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (ROWS, ROW)).astype("u1")
    x[:, ROW // 2:] = 0  # compresses to a little over half
    np.save(folder + "/x.npy", x)
    np.save(folder + "/y.npy", rng.integers(0, 10, ROWS))
    times = []
    for _ in range(3):
        shutil.rmtree(folder + "/d.kd", ignore_errors=True)
        start = time.monotonic()
        subprocess.run([tool + "/kd-dump", "--train-input", folder + "/x.npy", "--train-label", folder + "/y.npy", "-o",
                        folder + "/d.kd", "-q"], check=True, stdin=subprocess.DEVNULL)
        times.append(time.monotonic() - start)
    return statistics.median(times), -(-ROWS * ROW // (32 << 20))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", metavar="KD_BIN")
    parser.add_argument("folder")
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--results", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "results"))
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    os.makedirs(args.folder)
    sizes = [compare(args.folder, size, args.pairs) for size in SIZES]
    seconds, commits = dump(args.tool, args.folder)
    shutil.rmtree(args.folder)
    largest = sizes[-1]
    saved = commits * (largest["commit_ms"] - largest["nometasync_commit_ms"]) / 1e3 / seconds
    for s in sizes:
        print(f"transactions of {s['bytes'] >> 10} KiB: commit {s['commit_ms']} ms, with MDB_NOMETASYNC "
              f"{s['nometasync_commit_ms']} ms; {s['mb_s']} and {s['nometasync_mb_s']} MB/s; ratio of commits "
              f"{s['ratio']['median']} [{s['ratio']['low95']}, {s['ratio']['high95']}]")
    print(f"a dump of {ROWS * ROW >> 20} MiB takes {seconds:.2f} s and commits {commits} times: MDB_NOMETASYNC would save "
          f"{100 * saved:.1f} % of it")
    figure.save(args.results, "store-commit", largest["commit_ms"], "ms, 16 MiB made durable", "make bench-commits",
                direction="lower", peer="MDB_NOMETASYNC", peer_value=largest["nometasync_commit_ms"],
                versions={"lmdb": ".".join(map(str, lmdb.version()))},
                details={"sizes": sizes, "dump_seconds": round(seconds, 3), "dump_commits": commits,
                         "share_of_a_dump": round(saved, 4), "ratio": largest["ratio"]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
