#!/usr/bin/env python3
"""Training throughput, kd beside PyTorch, into bench/results/: what `make bench` runs.

    bench/run.py --bench build/release/bench/kd_bench [--python build/peers/venv/bin/python] [MODEL ...]

For each model, at batch 128 in f32 on 2 threads and the same 2 CPUs:
  1. the machine's peak is measured (register-only FMA loops, memory);
  2. PyTorch writes batches and initial weights, warms up all its modes and keeps the best; kd loads
     the same file, and the losses of the first 50 steps must agree: the same work on both sides;
  3. the two programs measure in turn, A B A B, each while the other waits: 7 pairs of 5 s;
  4. the peak again. A run during which it moved by more than 5 %, or other programs took more than 5 % of
     these CPUs in any measurement, is thrown away and repeated.
The result is the median of the paired ratios with a bootstrap interval, and both sides' img/s, GFLOP/s
and % of the measured peak, by the same count of operations. --no-peer measures kd alone and writes
the figure without a bar. --precision bf16 is the same with products of bf16 operands on both sides, PyTorch's by
autocast, and names the figure train-MODEL-bf16; there a third program takes part in the turns, kd in f32, so that the
result says whether bf16 pays.

Standard library only. Exit status 0 measured (also when a bar is missed: `make scoreboard` says so),
1 could not measure, 2 usage.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import figure

HERE = Path(__file__).resolve().parent
# The models of bench/models.json, with what is promised: times PyTorch's best.
BARS = {"f32": {"mlp-784-512-256-10": 2, "mlp-784-128-10": 4, "cnn-16-32-64": 2.5, "cnn-64-128-256": 1.5, "dscnn-32": 2.5,
                "dscnn-16-32-32-48": 2.5},
        "bf16": {"cnn-64-128-256": 1.5}}
MOVED = 0.05             # of the peak, between before and after
FOREIGN = 0.05           # share of the CPUs that others may take during a measurement
CURVE_TOLERANCE = {"f32": 0.01, "bf16": 0.05}   # relative, of the first losses


class Failure(Exception):
    pass


def busy_seconds():
    """Time that the CPUs of this process were not idle, whoever used or stole them."""
    names = {f"cpu{i}" for i in os.sched_getaffinity(0)}
    rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    ticks = sum(sum(map(int, row[1:9])) - int(row[4]) - int(row[5]) for row in rows if row[0] in names)
    return ticks / os.sysconf("SC_CLK_TCK")   # user nice system (idle iowait) irq softirq steal


class Process:
    """A program of the line protocol: a ready line, then one answer for each "go SECONDS". wait: until it is ready."""

    def __init__(self, what, command, wait=True):
        self.what, self.command = what, [str(c) for c in command]
        self.p = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self.read() if wait else None

    def read(self):
        line = self.p.stdout.readline()
        if not line:
            raise Failure(f"{self.what} ended with status {self.p.wait()}: {' '.join(self.command)}")
        return json.loads(line)

    def cpu_seconds(self):
        """What all its threads have used: the clock that clock_getcpuclockid(3) would name."""
        return time.clock_gettime((~self.p.pid << 3) | 2)

    def start(self, seconds):
        self.p.stdin.write(f"go {seconds}\n")
        self.p.stdin.flush()

    def go(self, seconds):
        return go_together([self], seconds)[0]

    def close(self):
        self.p.stdin.close()
        try:
            self.p.wait(30)
        except subprocess.TimeoutExpired:
            self.p.kill()


def go_together(processes, seconds):
    """Their answers, measured at the same time, each with the share of the CPUs that others took meanwhile. What
    they do before and after their own clocks run is theirs."""
    busy, start, mine = busy_seconds(), time.monotonic(), sum(p.cpu_seconds() for p in processes)
    for p in processes:
        p.start(seconds)
    out = [p.read() for p in processes]
    wall = (time.monotonic() - start) * len(os.sched_getaffinity(0))
    others = busy_seconds() - busy - (sum(p.cpu_seconds() for p in processes) - mine)
    return [{**o, "foreign": max(0.0, others) / wall} for o in out]


def measure_peak(args):
    out = subprocess.run([args.bench, "peak", "--threads", str(args.threads)], stdout=subprocess.PIPE, text=True)
    if out.returncode != 0:
        raise Failure(f"{args.bench} peak ended with status {out.returncode}")
    return json.loads(out.stdout)


def moved(before, after):
    return abs(after["f32_gflops"] / before["f32_gflops"] - 1)


def bootstrap(ratios, draws=10000):
    """95 % interval of the median, seeded: the same data give the same interval."""
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def compare_curves(kd, peer, allowed):
    worst = max(abs(a - b) / abs(b) for a, b in zip(kd, peer))
    if len(kd) != len(peer) or not worst <= allowed:
        raise Failure(f"kd and the peer do not do the same work: their first {len(peer)} losses part by "
                      f"{worst:.2g}, allowed {allowed}")
    return worst


def start_kd(args, model, data, precision):
    return Process("kd_bench", [args.bench, "train", model, args.batch, "--precision", precision, "--threads",
                                args.threads, "--models", HERE / "models.json", *(["--data", data] if data else [])])


def one_run(args, model):
    """One attempt: dict of everything measured."""
    before = measure_peak(args)
    data = args.scratch / f"{model}-{args.batch}.safetensors" if args.peer else None
    sides = {}
    try:
        if args.peer:
            print(f"{model}: PyTorch warms up (compiling can take a minute)", file=sys.stderr)
            sides["peer"] = Process("the PyTorch peer", [
                args.python, HERE / "peers" / "torch_train.py", model, "--threads", args.threads, "--batch", args.batch,
                "--precision", args.precision, "--write", data])
        sides["kd"] = start_kd(args, model, data, args.precision)
        if args.precision != "f32":
            sides["kd_f32"] = start_kd(args, model, data, "f32")
        ready = {who: side.ready for who, side in sides.items()}
        run = {"ready": ready, "pairs": [], "curve": compare_curves(
            ready["kd"]["losses"], ready["peer"]["losses"], CURVE_TOLERANCE[args.precision]) if args.peer else None}
        for i in range(args.pairs):
            pair = {who: sides[who].go(args.seconds) for who in ("kd", "peer", "kd_f32") if who in sides}
            run["pairs"].append(pair)
            rates = "  ".join(f"{who} {one['img_s']:,.0f} img/s" for who, one in pair.items())
            print(f"{model}: {i + 1}/{args.pairs}  {rates}", file=sys.stderr)
    finally:
        for side in sides.values():
            side.close()
    after = measure_peak(args)
    run |= {"peak_before": before, "peak_after": after, "moved": moved(before, after),
            "foreign": max(one["foreign"] for pair in run["pairs"] for one in pair.values())}
    return run


def disturbed(run):
    """Why this run cannot stand, or None."""
    if run["moved"] > MOVED:
        return f"the machine's peak moved by {100 * run['moved']:.1f} % during the run"
    if run["foreign"] > FOREIGN:
        return f"other programs took {100 * run['foreign']:.0f} % of the CPUs in one measurement"
    return None


def side(rows, flops, peak):
    rates = [r["img_s"] for r in rows]
    median = statistics.median(rates)
    gflops = median * flops / 1e9
    cpu = statistics.median(1e6 * r["cpu_s"] / (r["img_s"] * r["seconds"]) for r in rows)
    return {"img_s": round(median, 1), "img_s_all": [round(r, 1) for r in rates], "gflops": round(gflops, 2),
            "percent_of_peak": round(100 * gflops / peak, 1), "cpu_us_per_img": round(cpu, 2),
            "peak_rss_mb": round(max(r["peak_rss"] for r in rows) / 1e6)}


def machine(args, peak):
    info = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    numbers = [value.strip() for key, value in info.items() if key.strip() in ("cpu family", "model")]
    return {"cpu": peak["cpu"], "isa": peak["isa"], "family_model": "/".join(numbers), "cores": args.threads,
            "cores_of_machine": os.cpu_count()}


def result(args, model, run):
    """What figure.save takes."""
    def peak_of(precision):
        return min(run[when][f"{precision}_gflops"] for when in ("peak_before", "peak_after"))

    peak = peak_of(args.precision)
    ready, peer = run["ready"]["kd"], run["ready"].get("peer")
    flops = ready["flops_per_img"]
    kd = side([p["kd"] for p in run["pairs"]], flops, peak)
    details = {"what": f"whole {args.precision} training steps (forward, KD + CE, backward, AdamW), batch {args.batch}, "
                       f"{args.threads} threads, data in memory",
               "params": ready["params"], "flops_per_img": flops, "kd": kd, "peak_before": run["peak_before"],
               "peak_after": run["peak_after"], "peak_moved": round(run["moved"], 4),
               "others_share": round(run["foreign"], 4), "pairs": args.pairs, "seconds_each": args.seconds,
               "planned_bytes": ready["planned_bytes"]}
    suffix = ""
    if args.precision != "f32":
        suffix = f"-{args.precision}"
        kd["percent_of_f32_peak"] = round(100 * kd["gflops"] / peak_of("f32"), 1)
        details |= {"products": ready["products"],
                    "kd_f32": side([p["kd_f32"] for p in run["pairs"]], flops, peak_of("f32")),
                    "over_kd_f32": round(statistics.median(p["kd"]["img_s"] / p["kd_f32"]["img_s"]
                                                           for p in run["pairs"]), 3)}
    out = {"name": f"train-{model}{suffix}", "value": kd["img_s"], "unit": "img/s", "bar": None, "direction": "higher",
           "peer": None, "peer_value": None, "command": args.command, "machine": machine(args, run["peak_before"]),
           "versions": {"backend": ready["backend"], "build": ready["build"]}}
    if peer:
        bar = BARS[args.precision].get(model)
        ratios = [p["kd"]["img_s"] / p["peer"]["img_s"] for p in run["pairs"]]
        low, high = bootstrap(ratios)
        other = side([p["peer"] for p in run["pairs"]], flops, peak)
        details |= {"peer": other, "peer_modes": {k: round(v, 1) for k, v in peer["modes"].items()},
                    "peer_prepare_s": {k: round(v, 1) for k, v in peer["prepare_s"].items()},
                    "peer_failed_modes": peer["failed"], "peer_config": peer["config"],
                    "loss_curve_difference": run["curve"], "bar_rule": f"{bar} x peer_value" if bar else "none promised",
                    "ratio": {"median": round(statistics.median(ratios), 3), "low95": round(low, 3),
                              "high95": round(high, 3), "min": round(min(ratios), 3), "max": round(max(ratios), 3),
                              "all": [round(r, 3) for r in ratios]}}
        out |= {"bar": bar and round(bar * other["img_s"], 1), "peer_value": other["img_s"],
                "peer": f"PyTorch {peer['versions']['torch']} {args.precision}, {peer['best']}"}
        out["versions"] |= peer["versions"]
    out["details"] = details
    return out


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="*", help=f"[{' '.join(BARS['f32'])}; in bf16 {' '.join(BARS['bf16'])}]")
    parser.add_argument("--bench", required=True, help="the program kd_bench")
    parser.add_argument("--python", default=sys.executable, help="with torch [this one]")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="kd alone")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench"))
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32", help="of the products [f32]")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement [5]")
    parser.add_argument("--tries", type=int, default=4, help="runs whose peak moved are repeated [4]")
    parser.add_argument("--command", default="make bench", help="how to measure this again, for the result")
    args = parser.parse_args()
    args.model = args.model or list(BARS[args.precision])
    return args


def own_defaults():
    """Programs started from here see no tuning of the caller's."""
    tuning = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "DNNL_", "ONEDNN_", "KD_ISA")
    for variable in [v for v in os.environ if v.startswith(tuning)]:
        del os.environ[variable]


def main():
    args = arguments()
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < args.threads:
        sys.exit(f"bench/run.py: {args.threads} threads need as many CPUs, here are {len(cpus)}; try --threads")
    os.sched_setaffinity(0, cpus[:args.threads])   # both sides inherit it
    own_defaults()
    args.scratch.mkdir(parents=True, exist_ok=True)
    args.results.mkdir(parents=True, exist_ok=True)
    status = 0
    for model in args.model:
        for attempt in range(args.tries):
            try:
                run = one_run(args, model)
            except Failure as e:
                print(f"bench/run.py: {model}: {e}", file=sys.stderr)
                return 1
            why = disturbed(run)
            if not why:
                break
            print(f"{model}: {why}; thrown away ({attempt + 1}/{args.tries})", file=sys.stderr)
        else:
            print(f"bench/run.py: {model}: no quiet run in {args.tries}; stop other work on this machine",
                  file=sys.stderr)
            status = 1
            continue
        out = result(args, model, run)
        figure.save(args.results, **out)
        d = out["details"]
        line = (f"{out['name']}: kd {out['value']:,.0f} img/s, {d['kd']['gflops']:.0f} GFLOP/s, "
                f"{d['kd']['percent_of_peak']} % of peak")
        if args.peer:
            r = d["ratio"]
            line += (f"; {out['peer']} {out['peer_value']:,.0f} img/s, {d['peer']['percent_of_peak']} %; "
                     f"ratio {r['median']:.2f} [{r['low95']:.2f}, {r['high95']:.2f}], "
                     f"min {r['min']:.2f}, max {r['max']:.2f}")
            if r["low95"] <= 1 <= r["high95"]:
                line += " (no difference)"
        if "over_kd_f32" in d:
            line += f"; {d['over_kd_f32']:.2f} of kd in f32"
        print(line)
    return status


if __name__ == "__main__":
    sys.exit(main())
