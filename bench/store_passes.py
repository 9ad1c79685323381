#!/usr/bin/env python3
"""What whole passes over a store cost: `make bench-store-verify`, `make bench-store-rss`, `make bench-dump`.

    build/peers/store-venv/bin/python bench/store_passes.py verify|rss|dump --bench build/release/bench/kd_bench \\
      --fashion build/bench/fashion/fashion.kd --teacher build/bench/fashion/teacher

    verify   GB/s of kd-store verify (pages walked, every record read, hashed and decoded) and of verify
             --structure (pages walked), on one thread, in the page cache: store-verify, store-verify-structure
    rss      peak memory of kd-dump --teacher, kd-store verify and a loader's pass on 1 and on 20 times 10,240
             rows of Fashion-MNIST, each copy shifted by some pixels: store-rss, the largest ratio of the two
    dump     kd-dump --teacher beside the same teacher over the same rows from memory, in turns: dump-overhead, the time
             beyond the teacher's own in percent of it

verify and dump want a quiet machine: a run during which others took the CPUs is thrown away and repeated. (py-lmdb has no
verify to compare with.)
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import figure
from run import FOREIGN, HERE, Failure, bootstrap, busy_seconds, own_defaults

ROWS, TIMES = 10240, 20   # more than the loader's window of 8,192; so many times
RSS_BAR = 1.05      # promised: constant; what is left is the table of chunks and noise
DUMP_BAR = 5        # promised: per cent of the teacher's own time


def call(*command, stdin=""):
    """Runs a program that prints JSON; its last line or only object, with others' share of the CPUs meanwhile."""
    busy, start = busy_seconds(), time.monotonic()
    with subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        p.stdin.write(stdin)
        p.stdin.close()
        out = p.stdout.read()
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode != 0:
        raise Failure(f"ended with status {p.returncode}: {' '.join(map(str, command))}")
    wall = (time.monotonic() - start) * len(os.sched_getaffinity(0))
    mine = usage.ru_utime + usage.ru_stime
    value = json.loads(out) if out.startswith("{\n") else json.loads(out.splitlines()[-1])
    return {**value, "foreign": max(0.0, busy_seconds() - busy - mine) / wall}


# A process's peak counts that of the one which started it, so a small one has to. ru_maxrss: KiB.
MEASURE = """import os, sys
_, status, usage = os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0)
print(usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))"""


def peak(*command):
    """Peak resident memory of a program, bytes."""
    out = subprocess.run([sys.executable, "-I", "-S", "-c", MEASURE, *map(str, command)], stdout=subprocess.PIPE, text=True)
    if out.returncode != 0:
        raise Failure(f"ended with status {out.returncode}: {' '.join(map(str, command))}")
    return int(out.stdout.splitlines()[-1])


def quiet(args, what, run):
    """run() -> a list of call()s' results in its first place; again while others disturb."""
    for attempt in range(args.tries):
        calls = run()
        worst = max(c["foreign"] for c in calls)
        if worst <= FOREIGN:
            return calls
        print(f"{what}: others took {100 * worst:.0f} % of the CPUs in one measurement; thrown away "
              f"({attempt + 1}/{args.tries})", file=sys.stderr)
    raise Failure(f"{what}: no quiet run in {args.tries}; stop other work on this machine")


def put(args, name, value, unit, direction, bar, details):
    figure.save(args.results, name, value, unit, args.command, bar=bar, direction=direction, details=details)
    print(f"{name}: {value} {unit}{'' if bar is None else f', bar {bar}'}")


def verify(args):
    for name, option in (("store-verify", []), ("store-verify-structure", ["--structure"])):
        calls = quiet(args, name, lambda: [call(args.tools / "kd-store", "verify", args.fashion, *option, "-q", "-j", 1, "--json")
                                           for _ in range(args.rounds)])
        rates = sorted(c["bytes"] / c["seconds"] / 1e9 for c in calls)
        put(args, name, round(median(rates), 3), "GB/s", "higher", None,
               {"what": "stored bytes a second, one thread, in the page cache", "all": [round(r, 3) for r in rates],
                "decoded_gb_s": round(median(c["raw_bytes"] / c["seconds"] for c in calls) / 1e9, 3),
                "records": calls[0]["records"], "bytes": calls[0]["bytes"]})


def copies(args, times):
    """A store of so many times the training rows; constant memory, as one would write it."""
    sys.path.insert(0, str(HERE.parent / "lib" / "python"))
    import kdstore
    import numpy as np
    s = kdstore.Store(args.fashion)
    image, label = s.read_split("image", "train", ROWS), s.read_split("label", "train", ROWS)
    path = args.scratch / f"rss-{times}.kd"
    shutil.rmtree(path, ignore_errors=True)
    wanted = [s.column(name) for name in ("id", "split", "image", "label")]
    done = 0
    with kdstore.create(path, wanted, force=True, threads=2) as w:
        for copy in range(times):
            moved = np.roll(image, (copy // 5, copy % 5), axis=(1, 2))
            for at in range(0, len(image), 1024):
                rows = slice(at, at + 1024)
                n = len(label[rows])
                ids = np.zeros((n, 2), np.uint64)
                ids[:, 0] = done + np.arange(n)
                done += n
                w.append({"id": ids.view(np.uint8), "image": moved[rows], "label": label[rows]}, split="train")
    return path, done


def peaks(args, times):
    store, rows = copies(args, times)
    dumped = peak(args.tools / "kd-dump", "--teacher", args.teacher, "--into", store, "--force", "-q")
    verified = peak(args.tools / "kd-store", "verify", store, "-q")
    # Until every chunk was decoded once and more.
    read = call(args.bench, "read", store, "image,label,teacher/logits", stdin=f"go batches random {1 + rows / 2e5:.0f}\n")
    if read["rows"] < rows:
        raise Failure(f"the loader took {read['rows']} of {rows} rows")
    shutil.rmtree(store)
    return {"rows": rows, "dump": dumped, "verify": verified, "read": read["peak_rss"]}


def rss(args):
    small, large = peaks(args, 1), peaks(args, TIMES)
    ratios = {k: large[k] / small[k] for k in ("dump", "verify", "read")}
    put(args, "store-rss", round(max(ratios.values()), 3), f"times the peak at {TIMES}x rows", "lower", RSS_BAR,
           {"what": "largest ratio of peak resident memory: kd-dump --teacher, kd-store verify, a loader's pass",
            "ratios": {k: round(v, 3) for k, v in ratios.items()}, "peak_bytes": {"1": small, str(TIMES): large}})


def dump(args):
    def rounds():
        calls = []
        for _ in range(args.rounds):
            calls.append(call(args.bench, "teacher", args.teacher, args.fashion))
            calls.append(call(args.tools / "kd-dump", "--teacher", args.teacher, "--into", args.fashion, "--force", "-q", "--json"))
        return calls
    calls = quiet(args, "dump-overhead", rounds)
    pairs = list(zip(calls[::2], calls[1::2]))
    over = [100 * (d["pass_seconds"] / t["seconds"] - 1) for t, d in pairs]
    low, high = bootstrap(over)
    put(args, "dump-overhead", round(median(over), 2), "% of the teacher's time", "lower", DUMP_BAR,
           {"what": "kd-dump --teacher on Fashion-MNIST (read, run, compress, make durable) against the forward passes alone",
            "teacher_s": round(median(t["seconds"] for t, _ in pairs), 3),
            "pass_s": round(median(d["pass_seconds"] for _, d in pairs), 3), "low95": round(low, 2), "high95": round(high, 2),
            "within_the_pass": round(median(100 * (d["pass_seconds"] / d["teacher"]["seconds"] - 1) for _, d in pairs), 2),
            "rows": pairs[0][0]["rows"], "all": [round(o, 2) for o in over]})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["verify", "rss", "dump"])
    parser.add_argument("--bench", type=Path, required=True, help="the program kd_bench; kd's tools are beside its folder")
    parser.add_argument("--fashion", type=Path, required=True, help="store of Fashion-MNIST")
    parser.add_argument("--teacher", type=Path, required=True, help="its teacher's folder")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tries", type=int, default=4)
    args = parser.parse_args()
    args.command = "make bench-dump" if args.what == "dump" else f"make bench-store-{args.what}"
    args.tools = args.bench.parents[1]
    own_defaults()
    try:
        {"verify": verify, "rss": rss, "dump": dump}[args.what](args)
    except Failure as e:
        print(f"bench/store_passes.py: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
