#!/usr/bin/python3
"""kills.py - kd-dump killed or told to stop at random moments, and on a disk that fills up.

    kills.py KD_BIN FOLDER [--kills N] [--seed N] [--results DIR]

Five kinds of run are killed in turn: packing a data set, a teacher's pass over its store, one that writes encoded
logits, views and features, and what a language model says of texts and writes itself. All commit every few chunks, so a
run makes many transactions. A run gets
SIGKILL after a random part of the time that an uninterrupted run takes; half of the runs that follow, with --resume,
are killed too. The same with SIGTERM, for a fifth of the number.

After each kill the rows that are committed are counted through LMDB, by a reader that shares no code with
kd: they may never become fewer, and the run that finishes must write exactly the others. Its store must
verify, and its root hash must be that of the uninterrupted run.

Prints TAP lines; the seed of the moments is printed and may be given. --results: what happened goes into
DIR/store-kills.json.
"""
import argparse
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

import lmdb
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../bench"))
import figure  # noqa: E402

ROWS, CHUNK = 24000, 128


class Failed(Exception):
    pass


def run(*args):
    p = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return p.returncode, p.stdout, p.stderr


def must(*args):
    rc, out, err = run(*args)
    if rc:
        raise Failed(f"exit {rc} from {' '.join(args)}: {err.strip()}")
    return out


def said(err):
    """Lines of an error; not that there are fewer CPUs than threads."""
    return [s for s in err.splitlines() if ": warning: " not in s]


def rows_in(path):
    """Rows of the chunks that an LMDB file holds: those of its column 0."""
    if not os.path.exists(path) or os.path.getsize(path) < 8192:
        return 0
    env = lmdb.open(path, subdir=False, readonly=True, lock=False, map_size=1 << 30)
    rows = 0
    with env.begin() as txn:
        for key, value in txn.cursor():
            chunk, column = struct.unpack(">II", key)
            if chunk and not column:
                rows += struct.unpack_from("<I", value, 20)[0]
    env.close()
    return rows


class Kind:
    """One kind of run: how to begin it, where its file is, what it says when it is done."""

    def __init__(self, name, tool, store):
        self.name, self.tool, self.store = name, tool, store
        self.seconds = self.root = None

    def total(self):
        return int(json.loads(must(self.tool + "/kd-store", "stat", self.store, "--json"))["rows"])

    def root_now(self):
        return json.loads(must(self.tool + "/kd-store", "stat", self.store, "--json"))["root"]

    def verify(self):
        must(self.tool + "/kd-store", "verify", self.store)
        if self.root_now() != self.root:
            raise Failed(f"{self.name}: root {self.root_now()}, the uninterrupted run has {self.root}")

    def committed(self):
        for p in self.places:
            if os.path.exists(p):
                return rows_in(p)
        return 0

    def measure(self):
        times = []
        for _ in range(3):
            self.fresh()
            start = time.monotonic()
            must(*self.command)
            times.append(time.monotonic() - start)
        self.seconds = sorted(times)[1]
        self.root = self.root_now()


class Pack(Kind):
    def __init__(self, tool, folder, data):
        super().__init__("pack", tool, folder + "/p.kd")
        self.command = [tool + "/kd-dump", "--train-input", data + "/x.npy", "--train-label", data + "/y.npy",
                        "--classes", "10", "--chunk-rows", str(CHUNK), "--commit", "0.05", "--threads", "2",
                        "-o", self.store, "--resume", "--json"]
        self.places = [f"{self.store}.part/base.mdb.part", f"{self.store}.part/base.mdb"]

    def fresh(self):
        for p in (self.store, self.store + ".part"):
            shutil.rmtree(p, ignore_errors=True)

    def finished(self):
        return os.path.exists(self.store)

    def written(self, report):
        return report["written_rows"]


class Teacher(Kind):
    def __init__(self, tool, folder, base, model, name="teacher", *options):
        super().__init__(name, tool, f"{folder}/{name}.kd")
        self.base = base
        self.command = [tool + "/kd-dump", "--teacher", model, "--into", self.store, "--name", "t",
                        "--commit", "0.005", "--threads", "2", "--resume", "--json", *options]
        self.places = [f"{self.store}/t.mdb.part", f"{self.store}/t.mdb"]

    def fresh(self):
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.base, self.store)

    def finished(self):
        with open(self.store + "/manifest.json") as f:
            return any(s["name"] == "t" for s in json.load(f)["segments"])

    def written(self, report):
        return report["teacher"]["seconds_rows"]


class Answers(Kind):
    """What a language model writes itself behind the beginnings of texts."""

    def __init__(self, tool, folder):
        super().__init__("answers", tool, folder + "/answers.kd")
        self.command = [tool + "/kd-dump", "--teacher", folder + "/llama", "--into", folder + "/texts.kd", "--generate", "--name",
                        "t", "--prompt-tokens", "6", "--answer-tokens", "20", "--encoding", "head-tail:n=9", "--temperature", "1",
                        "--batch", "12", "--threads", "2", "-o", self.store, "--resume", "--json"]
        self.places = [f"{self.store}.part/base.mdb.part", f"{self.store}.part/base.mdb"]

    fresh, finished, written = Pack.fresh, Pack.finished, Pack.written


class Tally:
    """What was done with one signal. ends: the exit codes that it may lead to."""

    def __init__(self, signal_, ends):
        self.signal, self.ends = signal_, ends
        self.kills = self.rounds = self.committed_kills = self.finishing = 0


def finish(kind, before):
    """Lets a run end; it must write what was not committed, no more and no less."""
    report = json.loads(must(*kind.command))
    wrote = kind.written(report)
    if wrote != kind.rows - before:
        raise Failed(f"{kind.name}: {before} of {kind.rows} rows were committed, the last run wrote {wrote}")


def kill_once(kind, rng, tally):
    """True if the run was stopped before it ended."""
    p = subprocess.Popen(kind.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(rng.uniform(0, 1.1 * kind.seconds))
    p.send_signal(tally.signal)
    err = p.communicate()[1].decode()
    if p.returncode not in tally.ends:
        raise Failed(f"{kind.name}: a run that gets {tally.signal.name} ended with {p.returncode}: {err.strip()}")
    return p.returncode != 0


def one_round(kind, rng, tally):
    kind.fresh()
    before = 0
    while True:
        killed = kill_once(kind, rng, tally)
        if kind.finished():
            tally.finishing += killed
            tally.kills += killed
            break
        if not killed:
            raise Failed(f"{kind.name}: exit 0 without a store")
        tally.kills += 1
        now = kind.committed()
        if now < before:
            raise Failed(f"{kind.name}: {before} rows were committed, after a kill there are {now}")
        tally.committed_kills += now > 0
        before = now
        if rng.random() < 0.5:
            finish(kind, before)
            break
    kind.verify()
    tally.rounds += 1


def full_disk(kind, rng, folder, need):
    """A file system with too little room, then with enough."""
    kind.fresh()
    used = sum(os.path.getsize(os.path.join(d, f)) for d, _, n in os.walk(folder) for f in n)
    size = (used + int(need * rng.uniform(0, 1)) + 16384) // 4096 * 4
    must("mount", "-o", f"remount,size={size}k", folder)
    rc, _, err = run(*kind.command)
    must("mount", "-o", "remount,size=64m", folder)
    if rc == 0:
        kind.verify()
        return 0
    if rc != 4 or len(said(err)) != 1:
        raise Failed(f"{kind.name}: exit {rc} on a full disk ({size} KiB): {err.strip()}")
    if not kind.finished():
        finish(kind, kind.committed())
    kind.verify()
    return 1


def cut_once(kind, rng):
    """Cuts the file under a running writer. Exit code of the run, None if it was too fast."""
    kind.fresh()
    part = kind.places[0]
    p = subprocess.Popen(kind.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wanted = rng.randrange(16384, kind.bytes)
    try:
        while p.poll() is None and (not os.path.exists(part) or os.path.getsize(part) < wanted):
            pass
        os.truncate(part, rng.choice([0, 4096, 8192, rng.randrange(wanted)]))
    except FileNotFoundError:
        pass
    err = p.communicate()[1].decode()
    if p.returncode not in (0, 1, 3) or (p.returncode and len(said(err)) != 1):
        raise Failed(f"{kind.name}: exit {p.returncode} after its file was cut: {err.strip()}")
    return p.returncode, err


def cuts_of(kinds, n, rng):
    """Files cut by somebody else while they are written: one line, and a store that is whole or refused."""
    torn = 0
    for _ in range(n):
        for kind in kinds:
            rc, err = cut_once(kind, rng)
            torn += "was cut or overwritten" in err
            if rc and run(*kind.command)[0]:  # not to be gone on with, then anew
                must(*kind.command, "--force")
            # Or the cut hit what was sealed already, whatever the kind, and verify says so.
            if rc or not run(tool_of(kind), "verify", kind.store, "-q")[0]:
                kind.verify()
    print(f"# {torn} of them were signals to LMDB")
    return n * len(kinds)


def tool_of(kind):
    return kind.tool + "/kd-store"


RICH = ("rich", "--encoding", "head-tail:n=4", "--views", "2", "--view-noise", "3", "--tap", "fc0_relu",
        "--feature-encoding", "int8-channel")


def make_inputs(tool, folder):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 7, (ROWS, 256)).astype("u1")
    x[:, :64] = rng.integers(0, 256, (ROWS, 64))
    np.save(folder + "/x.npy", x)
    np.save(folder + "/y.npy", rng.integers(0, 10, ROWS).astype("u1"))
    with open(folder + "/t.yaml", "w") as f:
        f.write("name: t\nmodel: {arch: mlp, hidden: [32]}\nloss: {kd: 0, ce: 1}\n"
                "train: {epochs: 1, batch: 64, lr: 0.002}\n")


def make_texts(tool, folder):
    """A small language model with random weights, and texts in windows of its tokens."""
    must("/usr/bin/python3", os.path.join(HERE, "../python/tiny_llama.py"), folder + "/llama")
    rng = random.Random(2)
    with open(folder + "/texts.txt", "w") as f:
        for _ in range(600):
            f.write(" ".join(rng.choice(("a teacher", "learns", "students", "are taught", "once")) for _ in range(9)) + "\n")
    must(tool + "/kd-dump", "--train-input", folder + "/texts.txt", "--tokenizer", folder + "/llama", "--max-tokens", "48",
         "--windows", "--chunk-rows", "32", "-o", folder + "/texts.kd", "-q")


def say(good, text):
    print(("ok - " if good else "not ok - ") + text, flush=True)
    return good


def attempt(text, f, *args):
    try:
        return say(True, text.format(f(*args)))
    except Failed as e:
        print("# " + str(e))
        return say(False, text.format("?"))


def kills_of(kinds, n, rng, tally):
    while tally.kills < n:
        for kind in kinds:
            one_round(kind, rng, tally)
    print(f"# {tally.kills} times {tally.signal.name} in {tally.rounds} dumps; {tally.committed_kills} with rows committed "
          f"before them, {tally.finishing} after the store was sealed")
    return tally.kills


def disks_of(kinds, n, rng, folder, need):
    full = 0
    for _ in range(n):
        for kind in kinds:
            full += full_disk(kind, rng, folder, need[kind.name])
    return full


def small_disks(tool, folder, data, like, n, rng):
    """The runs on a file system of their own that is too small. True, or None where none can be mounted."""
    what = "disks that fill up: exit 4, and with room the same store in the end"
    small, need = folder + "/small", {k.name: k.bytes for k in like}
    os.mkdir(small)
    if os.getuid() or run("mount", "-t", "tmpfs", "-o", "size=64m", "kd-test", small)[0]:
        print(f"ok - {what} # SKIP mounting a tmpfs needs root")
        return None
    try:
        kinds = [Pack(tool, small, data), Teacher(tool, small, data + "/base.kd", data + "/t")]
        for k, other in zip(kinds, like):
            k.root, k.rows = other.root, other.rows
        return attempt("{} " + what, disks_of, kinds, n, rng, small, need)
    finally:
        run("umount", small)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", metavar="KD_BIN")
    parser.add_argument("folder")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1000000)
    parser.add_argument("--results")
    args = parser.parse_args()
    tool, folder, rng = args.tool, args.folder, random.Random(args.seed)
    print(f"# seed {args.seed}")
    make_inputs(tool, folder)
    pack = Pack(tool, folder, folder)
    pack.measure()
    pack.rows, pack.bytes = pack.total(), os.path.getsize(pack.store + "/base.mdb")
    must(tool + "/kd-train", "-s", pack.store, folder + "/t.yaml", "-o", folder + "/t", "--rows", "640", "-q")
    shutil.copytree(pack.store, folder + "/base.kd")
    passes = [Teacher(tool, folder, folder + "/base.kd", folder + "/t", *more) for more in ((), RICH)]
    make_texts(tool, folder)
    passes += [Teacher(tool, folder, folder + "/texts.kd", folder + "/llama", "language", "--encoding", "head-tail:n=9"),
               Answers(tool, folder)]
    for kind in passes:
        kind.measure()
        kind.rows, kind.bytes = kind.total(), os.path.getsize(kind.places[1].replace(".part/", "/"))
    kinds = [pack, *passes]
    print("# uninterrupted: " + ", ".join(f"{kind.name} {kind.seconds:.2f} s" for kind in kinds))
    kills, stops = Tally(signal.SIGKILL, (0, -9)), Tally(signal.SIGTERM, (0, 5, -15))
    good = [attempt("{} kills of kd-dump: no committed row lost, every store finished, verified and of the same root",
                    kills_of, kinds, args.kills, rng, kills),
            attempt("{} times SIGTERM to kd-dump: exit 5, no committed row lost, the same store in the end", kills_of,
                    kinds, max(2, args.kills // 5), rng, stops),
            attempt("{} files cut while they are written: one line, no signal; refused or finished as they should be",
                    cuts_of, kinds, max(4, args.kills // 5), rng),
            small_disks(tool, folder, folder, kinds, max(3, args.kills // 10), rng)]
    if args.results:
        figure.save(args.results, "store-kills", good.count(False), "kinds of stop that lost something",
                    f"make kills KILLS={args.kills}", bar=0, direction="lower",
                    details={"kills": kills.kills, "kills_with_rows_committed": kills.committed_kills,
                             "kills_after_sealing": kills.finishing, "dumps": kills.rounds, "sigterm": stops.kills,
                             "full_disks": good[3], "seed": args.seed})
    return 1 if False in good else 0


if __name__ == "__main__":
    sys.exit(main())
