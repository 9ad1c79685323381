#!/usr/bin/env python3
"""Training speed by batch size and threads beside PyTorch, into bench/results/sweep.json: `make bench-sweep`.

    bench/sweep.py --bench build/release/bench/kd_bench [--python build/peers/venv/bin/python] [MODEL ...]

Each model at batch 16 to 1024 with 1 and 2 threads, f32, in memory: bench/run.py's programs and checks, but short: PyTorch's
best of few modes (eager and compiled, convolutions channels_last), three pairs of a second in turns. A setting during which
others took CPU time is measured again. The file is written behind every model and keeps what it has of other settings, so
a sweep may be done in pieces. Its value is the smallest ratio of speeds of all settings; details.table has all of them, details.loses
those where PyTorch is faster.
Exit status 0 measured, 1 some setting could not be measured, 2 usage.
"""
import argparse
import os
import statistics
import sys
from pathlib import Path

import figure
import run

MODELS = ["mlp-784-128-10", "mlp-784-512-256-10", "cnn-16-32-64", "cnn-64-128-256", "dscnn-32"]
BATCHES, THREADS = [16, 32, 64, 128, 256, 512, 1024], [1, 2]


def modes(model):
    return "eager,compile" if model.startswith("mlp") else "eager-cl,compile-cl"


def pairs_of(args, model, batch, threads):
    """What kd and PyTorch measured in turns, and both ready lines."""
    data = args.scratch / f"{model}-{batch}.safetensors"
    common = [model, "--threads", threads]
    sides = {}
    try:
        sides["peer"] = run.Process("the PyTorch peer", [
            args.python, run.HERE / "peers/torch_train.py", *common, "--batch", batch, "--write", data, "--modes",
            modes(model), "--tune-seconds", args.seconds])
        sides["kd"] = run.Process("kd_bench", [args.bench, "train", model, batch, "--threads", threads, "--models",
                                               run.HERE / "models.json", "--data", data])
        run.compare_curves(sides["kd"].ready["losses"], sides["peer"].ready["losses"], run.CURVE_TOLERANCE["f32"])
        got = [{who: p.go(args.seconds) for who, p in sides.items()} for _ in range(args.pairs)]
        return got, {who: p.ready for who, p in sides.items()}
    finally:
        for p in sides.values():
            p.close()
        data.unlink(missing_ok=True)


def setting(args, model, batch, threads, ready):
    """One row of the table; None: never quiet. ready: gets both programs' ready lines."""
    os.sched_setaffinity(0, args.cpus[:threads])
    for _ in range(args.tries):
        got, lines = pairs_of(args, model, batch, threads)
        ready.update(lines)
        if max(one["foreign"] for pair in got for one in pair.values()) > run.FOREIGN:
            print(f"{model}, batch {batch}, {threads} threads: disturbed; thrown away", file=sys.stderr)
            continue
        ratios = [pair["kd"]["img_s"] / pair["peer"]["img_s"] for pair in got]
        rates = {who: statistics.median(pair[who]["img_s"] for pair in got) for who in got[0]}
        row = {"model": model, "batch": batch, "threads": threads, "kd_img_s": round(rates["kd"], 1),
               "peer_img_s": round(rates["peer"], 1), "peer_mode": lines["peer"]["best"],
               "ratio": round(statistics.median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3),
               "rss_mb": {who: round(max(pair[who]["peak_rss"] for pair in got) / 1e6) for who in got[0]}}
        print(f"{model:20} {batch:5} {threads}  kd {row['kd_img_s']:12,.0f}  PyTorch {row['peer_img_s']:12,.0f} "
              f"({row['peer_mode']})  {row['ratio']:6.2f}", flush=True)
        return row
    return None


def save(args, model, rows, ready):
    new = {(model, r["batch"], r["threads"]) for r in rows}
    kept = [r for r in figure.load(args.results, "sweep").get("details", {}).get("table", [])
            if (r["model"], r["batch"], r["threads"]) not in new]
    table = sorted(kept + rows, key=lambda r: (MODELS.index(r["model"]), r["threads"], r["batch"]))
    worst = min(table, key=lambda r: r["ratio"])
    figure.save(args.results, "sweep", worst["ratio"], "x PyTorch's speed, the smallest of all settings",
                "make bench-sweep", bar=1, peer=f"PyTorch {ready['peer']['versions']['torch']} f32, best of few modes",
                peer_value=1, versions={**ready["peer"]["versions"], "backend": ready["kd"]["backend"],
                                        "build": ready["kd"]["build"]},
                details={"what": "whole f32 training steps in memory by batch and threads", "pairs": args.pairs,
                         "seconds_each": args.seconds, "worst": worst, "loses": [r for r in table if r["ratio"] < 1],
                         "table": table})


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="*", default=MODELS, help=f"[{' '.join(MODELS)}]")
    parser.add_argument("--bench", required=True, help="the program kd_bench")
    parser.add_argument("--python", default=sys.executable, help="with torch [this one]")
    parser.add_argument("--results", type=Path, default=run.HERE / "results")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench/sweep"))
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1, help="of each measurement [1]")
    parser.add_argument("--tries", type=int, default=3, help="disturbed settings are repeated [3]")
    args = parser.parse_args()
    if unknown := set(args.model) - set(MODELS):
        parser.error(f"no model {', '.join(sorted(unknown))}; there are: {', '.join(MODELS)}")
    return args


def main():
    args = arguments()
    args.cpus = sorted(os.sched_getaffinity(0))
    if len(args.cpus) < max(args.threads):
        sys.exit(f"bench/sweep.py: {max(args.threads)} threads need as many CPUs, here are {len(args.cpus)}")
    run.own_defaults()
    args.scratch.mkdir(parents=True, exist_ok=True)
    status = 0
    for model in args.model:
        rows, ready = [], {}
        for threads in args.threads:
            for batch in args.batches:
                try:
                    row = setting(args, model, batch, threads, ready)
                except run.Failure as e:
                    print(f"bench/sweep.py: {e}", file=sys.stderr)
                    row = None
                rows += [row] if row else []
                status |= row is None
        if rows:
            save(args, model, rows, ready)
    return status


if __name__ == "__main__":
    sys.exit(main())
