#!/usr/bin/python3
"""faults.py - every call that can fail, made to fail in turn.

    faults.py KD_BIN FOLDER [--points N|all] [--leaks N|all] [--jobs N] [--results DIR] [CASE ...]

A tool runs on a small input with tests/fault/shim.c loaded, which makes the n-th call of one kind fail: reads,
writes, syncs, renames, opens, allocations, threads ... n runs over all calls that an undisturbed run makes (all), or
over N of them, evenly (default 4). Some calls fail once, some for good from then on; some kill the process
with SIGKILL just before or just after the call. Whatever fails,

  - the tool ends with a documented exit code, never by a signal, and says why in one line that begins with its name
    (libgomp ends a process by itself, with exit code 1 and a line of its own);
  - exit code 0 means that the result is right: the fault was made good;
  - the store is there as it was before, or whole as it should be, and verifies; the same command, run again,
    leads to the root hash of an undisturbed run;
  - an output file is absent or whole;
  - nothing leaks, and no byte is read or written that is not the tool's: this is seen by valgrind, which takes a
    hundred times as long, so --leaks says for how many of the points (default 0; a teacher's pass from 2 on).

Commands are tried side by side, --jobs at a time (default: one a core). Prints TAP lines. --results: how many faults there were is kept by command in DIR/store-faults.json. Allocations left alone, with reasons: see SKIP.
"""
import argparse
import concurrent.futures
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bench"))
import figure  # noqa: E402

# Libraries whose failed allocations cannot be told from outside. kd passes nothing to them that it could check.
#   libyaml, jansson, zstd, lmdb, zlib and libgomp report theirs, or end the process with a line; none is left alone.
SKIP = ""

# kind: how it fails. "+": all later ones, too.
WRITES = {
    "read": ["EIO", "short"],
    "write": ["EIO", "ENOSPC", "ENOSPC+", "short", "kill", "killed"],
    "sync": ["EIO", "EIO+", "kill", "killed"],
    "rename": ["EIO", "kill", "killed"],
    "open": ["EMFILE", "EACCES"],
    "cut": ["EIO", "kill", "killed"],
    "lock": ["ENOLCK"],
    "map": ["ENOMEM"],
    "meta": ["EIO", "killed"],
    "close": ["EIO"],
    "alloc": ["ENOMEM", "ENOMEM+"],
    "thread": ["EAGAIN"],
}
LEAK = 99  # exit code of valgrind when it found something
VALGRIND = ["valgrind", "-q", "--soname-synonyms=somalloc=nouserintercepts", "--leak-check=full",
            "--errors-for-leak-kinds=definite,indirect", "--show-leak-kinds=definite,indirect", f"--error-exitcode={LEAK}"]
READS = {k: WRITES[k] for k in ("read", "open", "lock", "map", "meta", "alloc", "thread")}


class Failed(Exception):
    pass


def say(line):
    """A line whole, whichever threads print beside it."""
    print(line + "\n", end="", flush=True)


class Case:
    """A command, and what must be there before and after it. The command runs in a copy of `template`."""

    def __init__(self, name, command, template, store=None, output=None, kinds=None, again=None, slow=False):
        self.name, self.command, self.template = name, command, template
        self.store, self.output, self.kinds, self.again = store, output, kinds or WRITES, again or command
        self.slow = slow  # under valgrind, 7 s a run


def root_of(path):
    """Root hash that a store's manifest states; None: no store."""
    try:
        with open(path + "/manifest.json") as f:
            return json.load(f)["root"]
    except FileNotFoundError:
        return None


def bytes_of(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except FileNotFoundError:
        return None


class Bench:
    def __init__(self, tool, folder):
        os.makedirs(folder, exist_ok=True)
        self.tool, self.here = tool, folder + "/run"
        self.log, self.found = folder + "/log", folder + "/valgrind"
        self.leaks = False  # look for leaks in what follows
        self.points = self.fired = self.killed = self.good = self.looked = 0

    def run(self, command, fault=None, skip=SKIP):
        """exit code, stderr, (calls, failed, skipped)"""
        env = dict(os.environ, OMP_WAIT_POLICY="passive")
        if self.leaks:
            env.update(KD_ISA="avx2")  # the best that valgrind knows; runs without it must give the same
        whole = [self.tool + "/" + command[0]] + command[1:]
        if fault and self.leaks:
            whole = VALGRIND + [f"--log-file={self.found}"] + whole
            env.update(KD_FAULT_MALLOC="next")
        if fault:
            with open(self.log, "wb") as f:
                f.write(bytes(24))
            env.update(KD_FAULT=fault, KD_FAULT_LOG=self.log, LD_PRELOAD=self.tool + "/tests/fault/shim.so",
                       KD_FAULT_SKIP=skip)
        try:
            p = subprocess.run(whole, cwd=self.here, env=env, timeout=300 if self.leaks else 60,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except subprocess.TimeoutExpired:
            raise Failed("hangs: not finished in time") from None
        if p.returncode == LEAK:
            with open(self.found, errors="replace") as f:
                raise Failed("a leak or a wrong access:\n# " + f.read()[:3000].replace("\n", "\n# "))
        tally = struct.unpack("QQQ", open(self.log, "rb").read()) if fault else (0, 0, 0)
        return p.returncode, p.stderr.decode(errors="replace"), tally

    def fresh(self, case):
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(case.template, self.here)

    def state(self, case):
        return (root_of(f"{self.here}/{case.store}") if case.store else None,
                bytes_of(f"{self.here}/{case.output}") if case.output else None)

    def begin(self, case):
        self.fresh(case)
        case.before = self.state(case)
        rc, err, _ = self.run(case.command)
        if rc:
            raise Failed(f"undisturbed: exit {rc}: {err.strip()}")
        case.after = self.state(case)

    def count(self, case, kind):
        self.fresh(case)
        rc, err, tally = self.run(case.command, f"{kind}:0:EIO")
        if rc:
            raise Failed(f"undisturbed, with the shim: exit {rc}: {err.strip()}")
        return tally[0]

    def verify(self, case):
        if case.store and root_of(f"{self.here}/{case.store}"):
            rc, err, _ = self.run(["kd-store", "verify", case.store, "-q"])
            if rc:
                raise Failed(f"the store does not verify: {err.strip()}")

    def judge(self, case, rc, err, how):
        lines = [s for s in err.splitlines() if s.strip() and ": warning: " not in s]
        dies = how.startswith("kill")
        wanted = {"ENOMEM": 1, "ENOSPC": 4}.get(how.rstrip("+"))
        if rc < 0 and not (dies and rc == -9):
            raise Failed(f"signal {-rc}: {err.strip()[:300]}")
        if rc > 5 or (rc > 0 and wanted and rc != wanted):
            raise Failed(f"exit {rc}, which is not what is documented for it: {err.strip()[:300]}")
        if rc > 0 and (len(lines) != 1 or not lines[0].startswith((case.command[0] + ": ", "libgomp: "))):
            raise Failed(f"exit {rc} with {len(lines)} lines: {err.strip()[:600]}")
        if rc == 0 and (len(lines) > 1 or "anitizer" in err):
            raise Failed(f"exit 0 with {len(lines)} lines: {err.strip()[:600]}")
        now = self.state(case)
        if now not in (case.before, case.after):
            raise Failed(f"exit {rc}; left behind is neither the old state nor the new one ({lines})")
        if rc == 0 and now != case.after:
            raise Failed("exit 0, but what should be there is not")
        self.verify(case)
        if now != case.after:
            again, text, _ = self.run(case.again)
            if again:
                raise Failed(f"after exit {rc} ({' '.join(lines)[:200]}) it does not go on: exit {again}: {text.strip()}")
            if self.state(case) != case.after:
                raise Failed(f"after exit {rc} it goes on, but to something else")
            self.verify(case)
        self.good += rc == 0

    def point(self, case, kind, how, n):
        self.fresh(case)
        fault = f"{kind}:{n}:{how}"
        dies = how.startswith("kill")
        try:
            rc, err, tally = self.run(case.command, fault)
            self.points += 1
            self.fired += tally[1] > 0
            self.killed += rc == -9
            if dies and tally[1] and rc != -9:
                raise Failed(f"was to be killed, ended with {rc}")
            self.judge(case, rc, err, how)
        except Failed as e:
            say(f"# {case.name}: {fault}: {e}")
            return False
        return True


def chosen(calls, points):
    """All numbers from 1, or so many of them, first and last among them."""
    if points == "all" or calls <= int(points):
        return range(1, calls + 1)
    k = int(points)
    return sorted({1 + round(i * (calls - 1) / (k - 1)) for i in range(k)}) if k > 1 else [calls]


def sweep(bench, case, points):
    """Faults at so many points of each kind; how many were badly handled. No kills while leaks are looked for."""
    bad = 0
    for kind, hows in case.kinds.items():
        calls = bench.count(case, kind)
        for how in hows:
            if not (bench.leaks and how.startswith("kill")):
                bad += sum(not bench.point(case, kind, how, n) for n in chosen(calls, points))
    return bad


def run_case(bench, case, points, leaks):
    """Runs all faults of a case; True if all were survived."""
    try:
        bench.begin(case)
        bad = sweep(bench, case, points)
        if leaks != "0" and not (case.slow and leaks == "1"):
            before, bench.leaks = bench.points, True
            bench.begin(case)
            bad += sweep(bench, case, leaks)
            bench.looked = bench.points - before
    except Failed as e:
        say(f"# {case.name}: {e}")
        bad = 1
    say(f"{'not ' if bad else ''}ok - {case.name}: {bench.points} faults, {bench.fired} met, {bench.killed} of them kills, "
        f"{bench.good} made good, {bench.looked} searched for leaks; {bad} badly handled")
    return not bad


# ---- the inputs ------------------------------------------------------------------------------------


def write_idx(path, a):
    with gzip.GzipFile(path, "wb", mtime=0) as f:
        f.write(struct.pack(">BBBB", 0, 0, 8, a.ndim) + struct.pack(f">{a.ndim}I", *a.shape) + a.tobytes())


def make_inputs(bench, folder):
    rng = np.random.default_rng(1)
    data = folder + "/data"
    os.mkdir(data)
    write_idx(data + "/x.gz", rng.integers(0, 256, (90, 4, 4)).astype("u1"))
    np.save(data + "/y.npy", rng.integers(0, 3, 90).astype("i8"))
    with open(data + "/data.yaml", "w") as f:
        f.write("data:\n  train_input: [x.gz]\n  train_label: [y.npy]\n  shape: [4, 4, 1]\n  classes: 3\n"
                "  class_names: [a, b, c]\n  chunk_rows: 16\n")
    with open(data + "/t.yaml", "w") as f:
        f.write("name: t\nmodel: {arch: mlp, hidden: [4]}\nloss: {kd: 0, ce: 1}\n"
                "train: {epochs: 1, batch: 16, lr: 0.01}\n")
    tiny = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../python/tiny_bert.py")
    subprocess.run([sys.executable, tiny, folder + "/encoder/e", "mean", "0", "0"], check=True)
    stages = [("packed", data, ["kd-dump", "data.yaml", "-o", "f.kd", "--threads", "1"]),
              ("taught", folder + "/packed", ["kd-train", "-s", "f.kd", "t.yaml", "-o", "t", "--rows", "64"]),
              ("dumped", folder + "/taught", ["kd-dump", "--teacher", "t", "--into", "f.kd"]),
              ("half", folder + "/dumped", ["kd-store", "slice", "f.kd", "--part", "1/2", "-o", "p1.kd"]),
              ("halves", folder + "/half", ["kd-store", "slice", "f.kd", "--part", "2/2", "-o", "p2.kd"]),
              ("exported", folder + "/dumped", ["kd-store", "export", "f.kd", "t/logits", "-o", "o.jsonl"])]
    for name, template, command in stages:
        bench.fresh(Case(name, command, template))
        rc, err, _ = bench.run(command + ["-q"])
        if rc:
            raise Failed(f"{' '.join(command)}: exit {rc}: {err.strip()}")
        shutil.copytree(bench.here, f"{folder}/{name}")


def cases(folder):
    few = ["--commit", "0.001", "--threads", "2", "-q"]
    yield Case("pack", ["kd-dump", "data.yaml", "-o", "f.kd", "--resume"] + few, folder + "/data", "f.kd")
    yield Case("teacher", ["kd-dump", "--teacher", "t", "--into", "f.kd", "--resume"] + few, folder + "/taught", "f.kd",
               slow=True)
    rich = ["--encoding", "head-tail:n=2", "--views", "2", "--view-noise", "3", "--tap", "fc0_relu", "--batch", "16"]
    yield Case("rich", ["kd-dump", "--teacher", "t", "--into", "f.kd", "--resume"] + rich + few, folder + "/taught", "f.kd",
               slow=True)
    yield Case("plan", ["kd-dump", "--teacher", "t", "--into", "f.kd", "--plan", "--threads", "2", "-q"], folder + "/dumped",
               "f.kd", kinds=READS, slow=True)
    yield Case("check", ["kd-dump", "--teacher", "t", "--into", "f.kd", "--check", "--threads", "2", "-q"],
               folder + "/dumped", "f.kd", kinds=READS, slow=True)
    yield Case("stat", ["kd-store", "stat", "f.kd", "--json", "-q"], folder + "/dumped", "f.kd", kinds=READS)
    yield Case("verify", ["kd-store", "verify", "f.kd", "--threads", "2", "-q"], folder + "/dumped", "f.kd", kinds=READS)
    yield Case("drop", ["kd-store", "drop", "f.kd", "t", "-q"], folder + "/dumped", "f.kd")
    yield Case("slice", ["kd-store", "slice", "f.kd", "--part", "1/2", "-o", "s.kd", "--resume", "-q"], folder + "/dumped", "s.kd")
    yield Case("merge", ["kd-store", "merge", "m.kd", "p1.kd", "p2.kd", "--resume", "-q"], folder + "/halves", "m.kd")
    yield Case("compact", ["kd-store", "compact", "f.kd", "--level", "9", "-q"], folder + "/dumped", "f.kd")
    yield Case("export", ["kd-store", "export", "f.kd", "t/logits", "label", "-o", "o.safetensors", "-q"],
               folder + "/dumped", "f.kd", "o.safetensors")
    yield Case("import", ["kd-store", "import", "f.kd", "o.jsonl", "--name", "i", "--resume", "-q"], folder + "/exported", "f.kd")
    for to in "onnx", "c":
        yield Case(f"student-{to}", ["kd-export", "t", "--to", to, "-o", f"o.{to}", "--force", "-q"], folder + "/dumped", None, f"o.{to}")
    for to, output in ("onnx", "o"), ("gguf", "o"), ("sentence-transformers", "o/model.safetensors"):
        yield Case(f"encoder-{to}", ["kd-export", "e", "--to", to, "-o", "o", "--force", "-q"], folder + "/encoder", None, output)


def keep_results(args, todo, good):
    """What these cases did in the place of what they did before; others stay, so a run of hours can be done in pieces."""
    every = figure.load(args.results, "store-faults").get("details", {}).get("cases", {})
    for (bench, case), well in zip(todo, good):
        every[case.name] = {"points": args.points, "faults": bench.points, "searched_for_leaks": bench.looked,
                            "handled": well, "date": figure.now()}
    figure.save(args.results, "store-faults", sum(not c["handled"] for c in every.values()), "commands that handled one badly",
                f"make faults POINTS={args.points} LEAKS={args.leaks}", bar=0, direction="lower", details={"cases": every})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", metavar="KD_BIN")
    parser.add_argument("folder")
    parser.add_argument("--points", default="4")
    parser.add_argument("--leaks", default="0")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--results")
    parser.add_argument("names", nargs="*", metavar="CASE")
    args = parser.parse_intermixed_args()
    make_inputs(Bench(args.tool, args.folder + "/inputs"), args.folder)
    todo = [(Bench(args.tool, f"{args.folder}/of-{case.name}"), case) for case in cases(args.folder)
            if not args.names or case.name in args.names]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:  # the work is done by the processes they start
        good = list(pool.map(lambda pair: run_case(*pair, args.points, args.leaks), todo))
    if args.results:
        keep_results(args, todo, good)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
