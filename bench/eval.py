#!/usr/bin/env python3
"""What kd-eval takes beyond the forward passes of the students it measures: behind `make bench-eval`.

    bench/eval.py build/release build/bench/eval

20 students (the image pipeline's three architectures, briefly trained) on the 10,000 test rows of Fashion-MNIST with a
teacher's logits: every measure, table and pair, 1,000 resamples, results as JSON; without latencies, which are forward
passes of their own. Overhead is the whole process's wall time, start and output included, less the time inside forward
passes (feeding rows to the model included) as kd-eval itself tells it, as a share of the latter: the median of several
runs, the worse of one thread and all. The cheapest architecture alone is in the details.
"""
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fashion
import figure

RUNS, BAR = 3, 10
PIPELINE = Path(__file__).resolve().parent.parent / "pipelines" / "image"
SEEDS = {"dscnn-5k": "0-3", "cnn-25k": "0-3", "mlp-100k": "0-1"}  # with --control: 8 + 8 + 4 students


def prepare(bin_folder, folder):
    store = fashion.pack(bin_folder, folder)
    fashion.teach(bin_folder, folder, store)
    for name, seeds in SEEDS.items():
        fashion.tool(bin_folder / "kd-train", "-s", store, PIPELINE / f"{name}.yaml", "-o", folder / "students" / name, "--seeds", seeds,
                     "--control", "--rows", 4096, "--set", "train.epochs=2")
    return store


def measure(bin_folder, store, students, threads):
    runs = []
    for _ in range(RUNS):
        start = time.monotonic()
        out = subprocess.run([bin_folder / "kd-eval", "-q", "--json", "--no-speed", "--threads", str(threads), "-s", store, students],
                             stdout=subprocess.PIPE, check=True).stdout
        wall = time.monotonic() - start
        timing = json.loads(out)["timing"]
        runs.append({"wall_s": wall, **timing, "overhead": 100 * (wall - timing["forward_s"]) / timing["forward_s"]})
    middle = sorted(runs, key=lambda r: r["overhead"])[RUNS // 2]
    return {"threads": threads, **{k: round(v, 4) for k, v in middle.items()}, "all": [round(r["overhead"], 2) for r in runs]}


def main():
    bin_folder, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    store = folder / "f.kd"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        prepare(bin_folder, folder)
        (folder / "ready").touch()
    threads = sorted({1, len(os.sched_getaffinity(0))})
    arms = [measure(bin_folder, store, folder / "students", n) for n in threads]
    cheap = measure(bin_folder, store, folder / "students" / "mlp-100k", 1)
    for what, arm in [*(("20 students", a) for a in arms), ("4 of mlp-100k alone", cheap)]:
        print("{}, {threads} threads: {wall_s:.2f} s, forward passes {forward_s:.2f} s, overhead {overhead:.1f} %".format(what, **arm))
    figure.save(Path(__file__).parent / "results", "eval-overhead", round(max(a["overhead"] for a in arms), 2),
                "% of the forward passes", "make bench-eval", bar=BAR, direction="lower",
                details={"rows": 10000, "students": 20, "runs": RUNS, "arms": arms, "cheapest": cheap})


if __name__ == "__main__":
    main()
