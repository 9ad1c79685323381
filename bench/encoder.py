#!/usr/bin/env python3
"""kd's encoder beside PyTorch and ONNX Runtime, in turn: tokens/s forward and in training steps.

    encoder.py --bench KD_BENCH --python PYTHON FOLDER [--texts 32] [--tokens 128] [--rounds 3] [--seconds 2]
               [--peers torch,compile,ort] [--out FILE]

Every program is started and warmed up once and then waits; each round asks each of them in turn, so that a change of
the machine's speed meets all. Prints medians and writes every figure.
"""
import argparse
import json
import statistics
import subprocess
from pathlib import Path


class Program:
    def __init__(self, name, command):
        self.name = name
        self.p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.line()

    def line(self):
        text = self.p.stdout.readline()
        if not text:
            raise SystemExit(f"encoder.py: {self.name} ended with status {self.p.wait()}")
        return json.loads(text)

    def ask(self, what, seconds):
        self.p.stdin.write(f"go {what} {seconds}\n")
        self.p.stdin.flush()
        return self.line()

    def close(self):
        self.p.stdin.close()
        self.p.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder")
    p.add_argument("--bench", required=True)
    p.add_argument("--python", required=True)
    p.add_argument("--texts", type=int, default=32)
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=2)
    p.add_argument("--peers", default="torch,compile,ort")
    p.add_argument("--what", default="forward,train")
    p.add_argument("--out")
    a = p.parse_args()
    size = [a.folder, str(a.texts), str(a.tokens)]
    peer = str(Path(__file__).parent / "peers" / "encoder.py")
    programs = [Program("kd", [a.bench, "encoder", *size])]
    programs += [Program(name, [a.python, peer, name, *size]) for name in a.peers.split(",") if name]
    asked = [(x, what) for what in a.what.split(",") for x in programs if (x.name, what) != ("ort", "train")]
    for x, what in asked:
        x.ask(what, 0)
    runs = [dict(x.ask(what, a.seconds), who=x.name) for _ in range(a.rounds) for x, what in asked]
    for x in programs:
        x.close()
    for what in a.what.split(","):
        speed = {x.name: statistics.median(r["tokens_per_s"] for r in runs if (r["who"], r["what"]) == (x.name, what))
                 for x, w in asked if w == what}
        for name, s in speed.items():
            print(f"{what:8} {name:8} {s:8.0f} tokens/s" + ("" if name == "kd" else f", kd {speed['kd'] / s:.2f} times"))
    if a.out:
        Path(a.out).write_text(json.dumps({"texts": a.texts, "tokens": a.tokens, "about": [x.about for x in programs],
                                           "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
