#!/usr/bin/env python3
"""Training steps of a language model beside PyTorch, in turns, into bench/results/: what `make bench-language` runs.

    language.py --bench KD_BENCH [--python PYTHON] [PART ...]

A decoder of 8 layers, 576 wide, 49,152 words, with drawn weights; 4 sequences of 256 random tokens, 64 kept classes a position; two
threads. PARTs: train, train-bf16; all without any. PyTorch is run as it is and compiled; the better one counts. All programs of a part are
started once (torch.compile takes a minute or two the first time; what it made is kept in the scratch folder, and it gets --patience
seconds) and must agree in their first losses. Then the peak, rounds in turns, the peak again; where that was disturbed, it is repeated with
the same programs.
"""
import argparse
import os
import select
import subprocess
import sys
from pathlib import Path

import numpy as np

import figure
from encoder import DISTURBED, FAILED, NAMES, check_same, pin, quiet_run, side
from run import Process, bootstrap, machine, measure_peak, moved

HERE = Path(__file__).resolve().parent
SEQUENCES, TOKENS, KEPT, WORDS = 4, 256, 64, 49152
PARTS = {"train": 1.7, "train-bf16": 1.8}
MEMORY = 0.4


def write_data(path):
    rng = np.random.default_rng(1)
    positions = SEQUENCES * (TOKENS - 1)
    classes = np.sort(np.stack([rng.choice(WORDS, KEPT, replace=False) for _ in range(positions)]), 1)
    share = rng.dirichlet(np.full(KEPT, 0.3), positions).clip(1e-6)
    share /= share.sum(1, keepdims=True)
    np.concatenate([np.array([SEQUENCES, TOKENS, KEPT], "<i4"), rng.integers(0, WORDS, SEQUENCES * TOKENS).astype("<i4"),
                    classes.astype("<i4").reshape(-1), share.astype("<f4").reshape(-1).view("<i4")]).tofile(path)


def start(args, what, command):
    side = Process(what, command, wait=False)
    if not select.select([side.p.stdout], [], [], args.patience)[0]:
        side.p.kill()
        raise Failure(f"{what} was not ready in {args.patience} s")
    side.ready = side.read()
    return side


def start_all(args, part, folder, data, sides):
    """kd and all of PyTorch that gets ready; why the others did not."""
    bf16, failed = part.endswith("bf16"), {}
    sides["kd"] = start(args, "kd", [args.bench, "language", "train", folder, data, "--precision", "bf16" if bf16 else "f32", "--threads",
                                     args.threads])
    for how in ("eager", "compile"):
        print(f"{part}: starts {NAMES[how]}", file=sys.stderr)
        try:
            sides[how] = start(args, NAMES[how], [args.python, HERE / "peers" / "language.py", how, folder, data, "--threads", args.threads,
                                                  *(["--bf16"] if bf16 else [])])
        except Failure as e:
            failed[how] = str(e)
            print(f"{part}: {e}", file=sys.stderr)
    if len(sides) < 2:
        raise Failure("no PyTorch to compare with")
    return failed


def one_run(args, part, sides):
    precision = "bf16" if part.endswith("bf16") else "f32"
    before = measure_peak(args)
    off = {how: check_same("train", precision, sides["kd"], x) for how, x in sides.items() if how != "kd"}
    rounds = []
    for i in range(args.pairs):
        rounds.append({how: x.go(args.seconds) for how, x in sides.items()})
        print(f"{part}: {i + 1}/{args.pairs}  " + "  ".join(f"{how} {r['tokens_s']:,.0f}" for how, r in rounds[-1].items()),
              file=sys.stderr)
    after = measure_peak(args)
    return {"precision": precision, "off": off, "rounds": rounds, "ready": {how: x.ready for how, x in sides.items()},
            "peak_before": before, "peak_after": after, "moved": moved(before, after),
            "foreign": max(x["foreign"] for r in rounds for x in r.values())}


def measure(args, part, folder, data):
    sides = {}
    try:
        failed = start_all(args, part, folder, data, sides)
        return quiet_run("language.py", args, part, lambda: one_run(args, part, sides) | {"failed": failed}, save)
    except Failure as e:
        print(f"bench/language.py: {part}: {e}", file=sys.stderr)
        return FAILED
    finally:
        for x in sides.values():
            x.close()


def save(args, part, run):
    bar, ready = PARTS[part], run["ready"]
    sides = {how: side(run, how) for how in ready}
    peers = [how for how in sides if how != "kd"]
    kd, best = sides["kd"], max(peers, key=lambda how: sides[how]["tokens_s"])
    ratios = [r["kd"]["tokens_s"] / r[best]["tokens_s"] for r in run["rounds"]]
    low, high = bootstrap(ratios)
    median = sorted(ratios)[len(ratios) // 2]
    other, least = sides[best], min(sides[how]["peak_rss_mb"] for how in peers)
    name = f"{NAMES[best]} {ready[best]['versions']['torch']} {run['precision']}"
    common = {"peer": name, "machine": machine(args, run["peak_before"]), "versions": ready[best]["versions"] | {"build": ready["kd"]["build"]}}
    details = {"flops_a_token": ready["kd"]["flops"] / ready["kd"]["tokens"], "products": ready["kd"]["products"], "sides": sides,
               "first_part_by": run["off"], "not_ready": run["failed"],
               "ratio": {"median": round(median, 3), "low95": round(low, 3), "high95": round(high, 3), "all": [round(r, 3) for r in ratios]},
               "bar_rule": f"{bar} x peer_value", "peak_before": run["peak_before"], "peak_after": run["peak_after"],
               "peak_moved": round(run["moved"], 4), "others_share": round(run["foreign"], 4), "rounds": args.pairs,
               "seconds_each": args.seconds}
    command = f"make bench-language PART={part}"
    figure.save(args.results, f"language-{part}", kd["tokens_s"], "tokens/s", command, bar=round(bar * other["tokens_s"], 1),
                peer_value=other["tokens_s"], details=details, **common)
    figure.save(args.results, f"language-{part}-memory", kd["peak_rss_mb"], "MB at most", command, direction="lower",
                bar=round(MEMORY * least), peer_value=least,
                details={"bar_rule": f"{MEMORY} x peer_value, the peer that takes less", "planned_bytes": ready["kd"]["planned_bytes"]}, **common)
    print(f"language-{part}: kd {kd['tokens_s']:,.0f} tokens/s, {kd['percent_of_f32_peak']} % of f32 peak, {kd['peak_rss_mb']} MB; {name} "
          f"{other['tokens_s']:,.0f}, {other['peak_rss_mb']} MB; ratio {median:.2f} [{low:.2f}, {high:.2f}], bar {bar}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help=f"[{' '.join(PARTS)}]")
    parser.add_argument("--bench", required=True, help="the program kd_bench")
    parser.add_argument("--python", default=sys.executable, help="with torch and transformers [this one]")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench/language"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5, help="rounds [5]")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement [2]")
    parser.add_argument("--patience", type=float, default=300, help="seconds until a program is ready [300]")
    parser.add_argument("--tries", type=int, default=3, help="parts that were disturbed are repeated [3]")
    args = parser.parse_args()
    for part in args.part:
        if part not in PARTS:
            parser.error(f"no part {part}; there are {', '.join(PARTS)}")
    pin("language.py", args.threads)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((args.scratch / "compiled").resolve()))
    folder, data, status = args.scratch / "model", args.scratch / "batch", 0
    args.scratch.mkdir(parents=True, exist_ok=True)
    subprocess.run([args.bench, "language", "new", folder], check=True)
    write_data(data)
    for part in args.part or list(PARTS):
        ended = measure(args, part, folder, data)
        if ended == FAILED:
            return 1
        status |= ended == DISTURBED
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
