#!/usr/bin/python3
"""promise.py - what equal bits for any number of threads cost beside free order, model by model.

    bench/promise.py KD_BENCH [--threads N] [--batch N] [--results DIR] [MODEL ...]

Runs `kd_bench promise` (promise.c says what is compared), three times a model, and takes the median of the costs: time of
all pieces of a step that add numbers up, cut by kd's fixed grids, over their time in the library's free order, less 1.
The figure is that of the model where it is largest. Writes DIR/promise-cost.json.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import figure  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))


def measure(program, model, batch, threads):
    out = subprocess.run([program, "promise", model, str(batch), "--threads", str(threads), "--models", HERE + "/models.json"],
                         check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", metavar="KD_BENCH")
    parser.add_argument("models", metavar="MODEL", nargs="*")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--results", default=HERE + "/results")
    args = parser.parse_args()
    with open(HERE + "/models.json") as f:
        models = args.models or list(json.load(f))
    details = {}
    for model in models:
        runs = sorted((measure(args.program, model, args.batch, args.threads) for _ in range(args.runs)), key=lambda r: r["cost"])
        cost = 100 * statistics.median(r["cost"] for r in runs)
        middle = runs[len(runs) // 2]
        details[model] = {"cost_percent": round(cost, 2), "runs_percent": [round(100 * r["cost"], 2) for r in runs],
                          "pieces": [{"piece": p["piece"], "fixed_us": round(p["fixed_us"], 2), "free_us": round(p["free_us"], 2)}
                                     for p in middle["pieces"]]}
        print(f"{model}: fixed {middle['fixed_us']:.0f} us a step, free {middle['free_us']:.0f} us, cost {cost:+.1f} % "
              f"({', '.join('%+.1f' % (100 * r['cost']) for r in runs)})", flush=True)
    figure.save(args.results, "promise-cost", max(d["cost_percent"] for d in details.values()),
                "% that equal bits cost, of the model where it is most", "make bench-promise", bar=5, direction="lower",
                details={"batch": args.batch, "threads": args.threads, "models": details})
    return 0


if __name__ == "__main__":
    sys.exit(main())
