#!/usr/bin/env python3
"""Many students in one pass, and what reading from the store costs them. Into bench/results/.

    bench/many.py many  --bin build/release --python build/peers/venv/bin/python     # make bench-many
    bench/many.py stall --bin build/release                                          # make bench-stall

many: kd-train's trainer with 8 students mlp-784-128-10 over a store of Fashion-MNIST, beside eight runs of PyTorch with its
tensors in memory: the better of one after the other with all threads each, and side by side with one thread each (tried
first, for a moment; each in its better mode of eager and compiled). What a program takes to start is in neither. stall: the trainer with windows of 8,192 rows, so that
every chunk is decoded every epoch, beside itself with all rows decoded in memory.
Both measure in turns as bench/run.py does, by its rules for a quiet machine. Batch 128, 2 threads, f32.
Exit status 0 measured, 1 could not measure, 2 usage.
"""
import argparse
import json
import os
import shutil
import statistics
import sys
from pathlib import Path

import fashion
import figure
import run

MODEL, STUDENTS, BAR_RATIO = "mlp-784-128-10", 8, 6
STALLED = [("mlp-784-128-10", 8), ("mlp-784-512-256-10", 1), ("cnn-16-32-64", 1)]
BAR_SPEED, BAR_STALL = 95, 1   # % of the speed in memory, % of the time waited for rows
IN_MEMORY, IN_WINDOWS = 1 << 20, 8192


class Several:
    """Processes that measure at the same time, as one of their summed rate."""

    def __init__(self, what, commands):
        self.what, self.p = what, [run.Process(what, c, wait=False) for c in commands]
        for p in self.p:   # they warm up, and choose their mode, beside each other
            p.ready = p.read()
        self.ready = self.p[0].ready

    def go(self, seconds):
        outs = run.go_together(self.p, seconds)
        out = {key: sum(o[key] for o in outs) for key in ("img_s", "cpu_s", "peak_rss")}
        return {**out, "seconds": outs[0]["seconds"], "foreign": outs[0]["foreign"]}

    def close(self):
        for p in self.p:
            p.close()


def student(args, model):
    spec = json.loads((run.HERE / "models.json").read_text())[model]
    path = args.scratch / f"{model}.yaml"
    path.write_text(f"model: {json.dumps(spec)}\nloss: {{ce: 0.1, kd: 0.9, temperature: 4}}\n"
                    "train: {batch: 128, lr: 0.001, weight_decay: 0}\n")
    return path


def trainer(args, what, model, students, window):
    return run.Process(what, [args.bench, "many", args.store, student(args, model), args.scratch / f"runs-{window}",
                              "--students", students, "--window", window, "--threads", args.threads])


def torch(args):
    """The better way to eight runs, as something that measures, and what was tried."""
    command = [args.python, run.HERE / "peers" / "torch_train.py", MODEL, "--batch", 128, "--modes", "eager,compile",
               "--tune-seconds", 1]
    ways = {"one after the other": [args.threads], "side by side": [1] * args.threads}
    started, rates = {}, {}
    for way, threads in ways.items():
        print(f"PyTorch, {way}: warms up", file=sys.stderr)
        started[way] = Several(f"PyTorch, {way}", [[*command, "--threads", n] for n in threads])
        rates[way] = max(started[way].go(args.seconds / 2)["img_s"] for _ in range(2))
    best = max(rates, key=rates.get)
    for way, p in started.items():
        if way != best:
            p.close()
    return started[best], best, rates


def in_turns(args, sides):
    """{side: [measurements]} of args.pairs turns."""
    got = {name: [] for name in sides}
    for i in range(args.pairs):
        for name, p in sides.items():
            got[name].append(p.go(args.seconds))
        print(f"{i + 1}/{args.pairs}  " + "  ".join(f"{name} {rows[-1]['img_s']:,.0f} rows/s" for name, rows in got.items()),
              file=sys.stderr)
    return got


def quiet(args, start):
    """Repeats a measurement until nothing disturbed it: (measurements, what start returned beside, peak)."""
    for _ in range(args.tries):
        before, sides, more = run.measure_peak(args), {}, None
        try:
            sides, more = start()
            got = in_turns(args, sides)
            ready = {name: p.ready for name, p in sides.items()}
        finally:
            for p in sides.values():
                p.close()
        why = run.disturbed({"moved": run.moved(before, run.measure_peak(args)),
                             "foreign": max(o["foreign"] for rows in got.values() for o in rows)})
        if not why:
            return got, ready, more, before
        print(f"{why}; thrown away", file=sys.stderr)
    raise run.Failure(f"no quiet run in {args.tries}; stop other work on this machine")


def rate(rows):
    return statistics.median(r["img_s"] for r in rows)


def paired(a, b):
    ratios = [x["img_s"] / y["img_s"] for x, y in zip(a, b, strict=True)]
    low, high = run.bootstrap(ratios)
    return {"median": round(statistics.median(ratios), 4), "low95": round(low, 4), "high95": round(high, 4),
            "all": [round(r, 4) for r in ratios]}


def many(args):
    def start():
        peer, way, tried = torch(args)
        return {"kd": trainer(args, "kd", MODEL, STUDENTS, IN_WINDOWS), "peer": peer}, (way, tried)

    got, ready, (way, tried), peak = quiet(args, start)
    kd, peer, ratio = rate(got["kd"]), rate(got["peer"]), paired(got["kd"], got["peer"])
    versions = {**ready["peer"]["versions"], "backend": ready["kd"]["backend"], "build": ready["kd"]["build"]}
    figure.save(args.results, f"many-{MODEL}", round(kd, 1), "rows x students/s", "make bench-many",
                bar=round(BAR_RATIO * peer, 1), peer_value=round(peer, 1),
                peer=f"PyTorch {versions['torch']} f32, {way}, {ready['peer']['best']}",
                machine=run.machine(args, peak), versions=versions, details={
                    "what": f"{STUDENTS} students {MODEL} in one pass over a store, beside {STUDENTS} runs from memory",
                    "students": STUDENTS, "bar_rule": f"{BAR_RATIO} x peer_value", "ratio": ratio,
                    "peer_ways": {w: round(r, 1) for w, r in tried.items()}, "pairs": args.pairs,
                    "seconds_each": args.seconds, "stall": [round(o["stall"], 5) for o in got["kd"]],
                    "peak_rss_mb": {name: round(max(o["peak_rss"] for o in rows) / 1e6) for name, rows in got.items()}})
    print(f"many-{MODEL}: kd {kd:,.0f} rows x students/s, PyTorch ({way}) {peer:,.0f}; ratio {ratio['median']:.2f} "
          f"[{ratio['low95']:.2f}, {ratio['high95']:.2f}]")


def stall(args):
    for model, n in STALLED:
        def start(model=model, n=n):
            return {"store": trainer(args, "from the store", model, n, IN_WINDOWS),
                    "memory": trainer(args, "from memory", model, n, IN_MEMORY)}, None

        got, ready, _, peak = quiet(args, start)
        ratio = paired(got["store"], got["memory"])
        waited = statistics.median(o["stall"] for o in got["store"])
        common = {"machine": run.machine(args, peak),
                  "versions": {key: ready["store"][key] for key in ("backend", "build")},
                  "details": {"what": f"{n} x {model}: windows of {IN_WINDOWS} rows decoded every epoch, beside all rows "
                                      "decoded in memory", "ratio": ratio, "pairs": args.pairs, "seconds_each": args.seconds,
                              "rows_s": {name: round(rate(rows), 1) for name, rows in got.items()},
                              "stall": [round(o["stall"], 5) for o in got["store"]]}}
        figure.save(args.results, f"store-speed-{n}x-{model}", round(100 * ratio["median"], 2), "% of the speed in memory",
                    "make bench-stall", bar=BAR_SPEED, **common)
        figure.save(args.results, f"stall-{n}x-{model}", round(100 * waited, 3), "% of the time", "make bench-stall",
                    bar=BAR_STALL, direction="lower", **common)
        print(f"{n} x {model}: {100 * ratio['median']:.1f} % of the speed in memory, stall {100 * waited:.2f} %")


def prepared(args):
    """The store with its teacher; made once, whole or not at all."""
    folder = args.scratch / "data"
    if not folder.exists():
        part = args.scratch / "data.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        # no validation rows: the peer does not validate either
        fashion.teach(args.bin, part, fashion.pack(args.bin, part, "  valid_fraction: 0\n"))
        part.rename(folder)
    return folder / "f.kd"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["many", "stall"])
    parser.add_argument("--bin", type=Path, required=True, help="folder of kd's programs")
    parser.add_argument("--python", default=sys.executable, help="with torch [this one]")
    parser.add_argument("--results", type=Path, default=run.HERE / "results")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench/many"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement [2]")
    parser.add_argument("--tries", type=int, default=4, help="disturbed runs are repeated [4]")
    args = parser.parse_args()
    args.bin = args.bin.resolve()
    args.bench = args.bin / "bench/kd_bench"
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < args.threads:
        sys.exit(f"bench/many.py: {args.threads} threads need as many CPUs, here are {len(cpus)}; try --threads")
    os.sched_setaffinity(0, cpus[:args.threads])
    run.own_defaults()
    args.store = prepared(args)
    try:
        {"many": many, "stall": stall}[args.what](args)
    except run.Failure as e:
        print(f"bench/many.py: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
