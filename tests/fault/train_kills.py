#!/usr/bin/python3
"""train_kills.py - kd-train killed at random moments: the weights are those of a run that nobody disturbed.

    train_kills.py KD_BIN FOLDER [--kills N] [--seed N] [--results DIR]

One student of each architecture, a language model among them, with everything that has a state: dropout, batch norm's
statistics, both optimizers, several batches a step, the weights' mean, the best weights. Each is trained undisturbed at 1, 2, 3, 4 and 8
threads: one weight hash. Then runs get SIGKILL after a random part of the time that an undisturbed one takes and go on
with --resume and another number of threads, until N kills have hit each student; whenever a run comes to its end its
weights and its metrics must be the undisturbed ones', and nothing unfinished may be left beside them.

Prints TAP lines; the seed of the moments is printed and may be given. --results: what happened goes into
DIR/train-kills.json and DIR/train-threads.json.
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time

from kills import Failed, attempt, figure, make_inputs, make_texts, must

THREADS = [1, 2, 3, 4, 8]
ROWS = "{kd: 0.5, ce: 0.5, temperature: 2}"
TOKENS = "[{name: sparse_kl, sparse: sampled}, {name: ce, weight: 0.1}]"
STUDENTS = {
    "mlp": ("{arch: mlp, hidden: [32, 16], dropout: 0.1}", "ema: 0.99, keep: best"),
    "cnn": ("{arch: cnn, channels: [4, 8], strides: [2, 2], dropout: 0.1}", "accumulate: 2, clip: 1"),
    "dscnn": ("{arch: dscnn, channels: [6, 8], strides: [2, 2]}", "optimizer: sgd, nesterov: true, keep: best_loss"),
    "resnet": ("{arch: resnet, channels: [4, 8, 8], strides: [2, 1, 2], blocks: 1}",
               "optimizer: sgd, accumulate: 3, ema: 0.9, weight_decay: 0.001"),
    "llama": ("{arch: llama, positions: 64, layers: 2, width: 32, heads: 4, kv_heads: 2, ffn: 48, tied: true}",
              "accumulate: 2, ema: 0.9, keep: best"),
}


class Student:
    def __init__(self, tool, folder, name):
        model, train = STUDENTS[name]
        speaks = "llama" in model
        self.name, self.out = name, f"{folder}/{name}.run"
        with open(f"{folder}/{name}.yaml", "w") as f:
            f.write(f"model: {model}\nloss: {TOKENS if speaks else ROWS}\n"
                    f"train: {{epochs: 5, batch: {4 if speaks else 32}, lr: 0.01, warmup: 0.1, {train}}}\n")
        self.command = [tool + "/kd-train", "-s", folder + ("/texts.kd" if speaks else "/p.kd"), f"{folder}/{name}.yaml", "-o",
                        self.out, "--rows", "400" if speaks else "3200", "--window-rows", "1000", "--checkpoint-seconds", "0", "--log-steps", "7", "--tensorboard", "-q"]
        self.kills = self.with_state = self.ends = 0

    def fresh(self):
        for p in (self.out, self.out + ".part"):
            shutil.rmtree(p, ignore_errors=True)

    def result(self):
        """Weight hash and metrics, without the times."""
        with open(self.out + "/provenance.json") as f:
            digest = json.load(f)["weight_hash"]
        with open(self.out + "/metrics.jsonl") as f:
            lines = [json.loads(line) for line in f]
        return digest, [{k: v for k, v in line.items() if k not in ("seconds", "stall_s", "time")} for line in lines]

    def undisturbed(self):
        """Trains at each number of threads; the different hashes."""
        hashes, times = set(), []
        for threads in THREADS:
            self.fresh()
            start = time.monotonic()
            must(*self.command, "--threads", str(threads))
            times.append(time.monotonic() - start)
            digest, self.lines = self.result()
            hashes.add(digest)
        self.seconds, self.hash = min(times), digest
        if len(hashes) > 1:
            raise Failed(f"{self.name}: {len(hashes)} different weights at {THREADS} threads")

    def check_end(self):
        digest, lines = self.result()
        left = [f for f in os.listdir(self.out) if ".kdc" in f or ".tmp" in f]
        if digest != self.hash:
            raise Failed(f"{self.name}: weights {digest} after kills, {self.hash} without")
        if lines != self.lines:
            raise Failed(f"{self.name}: its metrics after kills differ")
        if left or os.path.exists(self.out + ".part"):
            raise Failed(f"{self.name}: left behind: {left or self.out + '.part'}")
        self.ends += 1
        self.fresh()

    def kill_once(self, rng):
        p = subprocess.Popen([*self.command, "--resume", "--threads", str(rng.choice(THREADS))], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(rng.uniform(0, self.seconds))
        p.kill()
        err = p.communicate()[1].decode()
        if p.returncode not in (0, -9):
            raise Failed(f"{self.name}: a run that is killed ended with {p.returncode}: {err.strip()}")
        if p.returncode:
            self.kills += 1
            part = self.out + ".part"
            self.with_state += os.path.isdir(part) and any(f.endswith(".kdc") for f in os.listdir(part))
        if os.path.isdir(self.out):
            self.check_end()


def threads_of(students):
    for s in students:
        s.undisturbed()
    return len(students)


def kills_of(students, n, rng):
    for s in students:
        s.fresh()
        while s.kills < n:
            s.kill_once(rng)
        must(*s.command, "--resume")
        s.check_end()
    print("# " + "; ".join(f"{s.name}: {s.kills} kills, {s.with_state} with a state on disk, {s.ends} runs" for s in students))
    return sum(s.kills for s in students)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", metavar="KD_BIN")
    parser.add_argument("folder")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1000000)
    parser.add_argument("--results")
    args = parser.parse_args()
    tool, folder, rng = args.tool, args.folder, random.Random(args.seed)
    print(f"# seed {args.seed}")
    make_inputs(tool, folder)
    must(tool + "/kd-dump", "--train-input", folder + "/x.npy", "--train-label", folder + "/y.npy", "--classes", "10",
         "--shape", "16,16,1", "-o", folder + "/p.kd", "-q")
    must(tool + "/kd-train", "-s", folder + "/p.kd", folder + "/t.yaml", "-o", folder + "/t", "--rows", "640", "-q")
    must(tool + "/kd-dump", "--teacher", folder + "/t", "--into", folder + "/p.kd", "--name", "t", "-q")
    make_texts(tool, folder)
    must(tool + "/kd-dump", "--teacher", folder + "/llama", "--into", folder + "/texts.kd", "--name", "t", "--encoding",
         "head-tail:n=9", "-q")
    students = [Student(tool, folder, name) for name in STUDENTS]
    good = [attempt(f"{{}} architectures: one weight hash each at {', '.join(map(str, THREADS))} threads", threads_of, students)]
    if good[0]:
        good.append(attempt("{} kills of kd-train at changing numbers of threads: the weights and metrics of undisturbed runs",
                            kills_of, students, args.kills, rng))
    if args.results and good[0]:
        command = f"make train-kills KILLS={args.kills}"
        figure.save(args.results, "train-threads", 1, "weight hashes a student over 1, 2, 3, 4 and 8 threads", command, bar=1,
                    direction="lower", details={"hashes": {s.name: s.hash for s in students}})
        figure.save(args.results, "train-kills", 0 if good[1] else 1, "students whose weights differ after kills", command,
                    bar=0, direction="lower",
                    details={"seed": args.seed, **{s.name: {"kills": s.kills, "with_state": s.with_state, "runs": s.ends}
                                                   for s in students}})
    return 1 if False in good else 0


if __name__ == "__main__":
    sys.exit(main())
