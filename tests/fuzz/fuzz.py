#!/usr/bin/python3
"""fuzz.py - runs the harnesses of this folder, and keeps what they find.

    fuzz.py run BIN [--seconds S] [--runs N] [--jobs J] [--results DIR] [NAME ...]
    fuzz.py merge BIN [NAME ...]

run: each harness starts from tests/fuzz/corpus/NAME and from what earlier runs left in BIN/../corpus/NAME. It ends after S
seconds (a harness that the list below calls short: a third of it; 0: no limit) or N inputs. One TAP line each;
an input that crashes, hangs, leaks or takes too much memory stays in BIN/../found/, and the line that runs it again is
printed. With --seconds 0 and no --runs the corpus is run and nothing else. --results: inputs are counted
in DIR/fuzz-inputs.json over all calls, so that a run of hours can be stopped (SIGINT) and gone on with; only what
is still missing of N is run. Findings go to fuzz-findings.json. Remove both files to begin anew.

merge: tests/fuzz/corpus/NAME becomes the smallest set of inputs that reaches as much, as far as BUDGET allows; inputs
whose name begins with "bug" stay.
"""
import argparse
import concurrent.futures
import fcntl
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "bench"))
import figure  # noqa: E402

SHORT = ["codec", "csv", "idx", "kld"]     # a third of the time
MALLOC_MB = {"verify": 1100}               # a store's block may have 1 GiB; every other parser takes what a file has
OTHER_MALLOC_MB = 64
BUDGET = {"verify": 90_000}                # bytes of a corpus in the repository
OTHER_BUDGET = 20_000
SLOW = 1.0                                 # seconds of CPU time that no input may need (a run of hours may be paused)
INPUTS = 10_000_000                        # promised, by hand, of each of these
PROMISED = ["record", "manifest", "yaml", "npy", "safetensors", "jsonl", "verify"]
SLICE = 500_000                            # inputs between two writes of the count
INTERRUPTED = 72                           # libFuzzer's exit status after SIGINT
# Short stack traces and a small quarantine double the speed; an input that was found is run again without.
ASAN = "malloc_context_size=1:quarantine_size_mb=8:allocator_may_return_null=0"


def folders(binaries, name):
    """Corpus in the repository, corpus of earlier runs, findings."""
    out = HERE / "corpus" / name, binaries.parent / "corpus" / name, binaries.parent / "found"
    for f in out:
        f.mkdir(parents=True, exist_ok=True)
    return out


def harnesses(binaries, wanted):
    there = sorted(p.stem[5:] for p in HERE.glob("fuzz_*.c"))
    for name in wanted:
        if name not in there:
            sys.exit(f"fuzz.py: no harness {name}; there are {', '.join(there)}")
    return sorted(wanted or there, key=lambda n: (n in SHORT, n))


def limits(name, hang=10):
    return [f"-timeout={hang}", "-rss_limit_mb=2048", f"-malloc_limit_mb={MALLOC_MB.get(name, OTHER_MALLOC_MB)}"]


def cpu_of(binary, path):
    """Seconds of CPU that one input takes once the program's tables are made: what a second run of it adds, the least of three measurements."""
    def run(*paths):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([binary, *paths], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return min(run(path, path) - run(path) for _ in range(3))


def found(folder, name, since):
    """Inputs that this run left behind."""
    return [p for p in folder.glob(f"{name}-*") if p.stat().st_mtime >= since]


def one(binaries, name, seconds, runs):
    """Runs a harness; what it did, as a dict."""
    kept, scratch, findings = folders(binaries, name)
    binary, since = binaries / f"fuzz_{name}", time.time() - 1
    start = time.monotonic()
    options = limits(name, 600 if runs else 10) + ["-print_final_stats=1", "-report_slow_units=1", f"-artifact_prefix={findings}/{name}-"]
    if seconds:
        options.append(f"-max_total_time={max(1, seconds // 3) if name in SHORT else seconds}")
    if runs or not seconds:
        options.append(f"-runs={runs or 0}")
    with tempfile.TemporaryDirectory() as tmp:
        p = subprocess.run([binary, *options, scratch, kept], env={**os.environ, "ASAN_OPTIONS": ASAN, "TMPDIR": tmp},
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    log = p.stdout.decode(errors="replace")
    number = lambda pattern: int((re.findall(pattern, log) or ["0"])[-1])  # noqa: E731
    left = found(findings, name, since)
    slow = [q for q in left if q.name.startswith(f"{name}-slow-unit")]
    bad = [q for q in left if q not in slow] + [q for q in slow if cpu_of(binary, q) > SLOW]
    for q in slow:
        if q not in bad:
            q.unlink()  # the machine was slow, not the input
    return {"name": name, "inputs": number(r"number_of_executed_units: (\d+)"), "kept": len(list(kept.iterdir())),
            "seconds": time.monotonic() - start, "coverage": number(r" cov: (\d+)"), "rss": number(r"peak_rss_mb: +(\d+)"),
            "bad": bad, "exit": p.returncode, "log": log, "binary": binary}


def clean(r):
    return r["exit"] in (0, INTERRUPTED) and not r["bad"]


def report(r):
    """The TAP line of a harness; True if it found nothing."""
    good = clean(r)
    if not good:
        for line in [s for s in r["log"].splitlines() if re.search("ERROR|SUMMARY|broken promise|runtime error", s)][:6]:
            print(f"# {line}")
        for path in r["bad"]:
            print(f"# {r['binary']} {path}")
    print(f"{'' if good else 'not '}ok - fuzz {r['name']}: {r['inputs']:,} inputs ({r['kept']} kept ones first) in "
          f"{r['seconds']:.0f} s, {r['inputs'] / max(r['seconds'], 1e-9):,.0f}/s, {r['coverage']} places reached, "
          f"{r['rss']} MiB, {len(r['bad'])} findings", flush=True)
    return good


def counted(results):
    """{harness: what earlier calls did}"""
    return figure.load(results, "fuzz-inputs").get("details", {}).get("harnesses", {}) if results else {}


def keep_results(results, r, runs):
    """Adds what a harness did to what it did before; the figure is that of the one with the fewest inputs."""
    lock = os.open(HERE, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # another call may count at the same time
    try:
        add_results(results, r, runs)
    finally:
        os.close(lock)


def add_results(results, r, runs):
    all_of = counted(results)
    old = all_of.get(r["name"], {"inputs": 0, "seconds": 0})
    all_of[r["name"]] = {"inputs": old["inputs"] + r["inputs"], "seconds": old["seconds"] + round(r["seconds"]),
                         "places": r["coverage"], "findings": len(r["bad"]) + (not clean(r) and not r["bad"]), "date": figure.now()}
    all_of = {n: all_of[n] for n in harnesses(None, []) if n in all_of}
    command, details = f"make fuzz RUNS={runs}", {"harnesses": all_of}
    figure.save(results, "fuzz-inputs", min(all_of.get(n, {"inputs": 0})["inputs"] for n in PROMISED),
                "inputs, of each of seven harnesses", command, bar=INPUTS, details=details)
    figure.save(results, "fuzz-findings", sum(h["findings"] for h in all_of.values()), "open", command, bar=0,
                direction="lower", details={"harnesses": len(all_of)})


def campaign(args, name, saving):
    """One run, or as many as make up the inputs that are still missing; True if they found nothing."""
    while True:
        missing = args.runs - counted(args.results).get(name, {"inputs": 0})["inputs"] if args.results else args.runs
        if args.results and missing <= 0:
            return True
        r = one(args.bin, name, args.seconds, min(missing, SLICE) if args.results else missing)
        with saving:
            good = report(r)
            if args.results:
                keep_results(args.results, r, args.runs)
        if not good or not args.results or args.seconds or r["exit"] == INTERRUPTED:
            return good


def run(args):
    saving = threading.Lock()
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        good = list(pool.map(lambda n: campaign(args, n, saving), harnesses(args.bin, args.names)))
    return 0 if all(good) else 1


def merge(args):
    for name in harnesses(args.bin, args.names):
        kept, scratch, _ = folders(args.bin, name)
        with tempfile.TemporaryDirectory() as tmp:
            new = Path(tmp) / "new"
            new.mkdir()
            p = subprocess.run([args.bin / f"fuzz_{name}", "-merge=1", *limits(name), new, kept, scratch], cwd=tmp,
                               env={**os.environ, "ASAN_OPTIONS": ASAN, "TMPDIR": tmp}, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False)
            if p.returncode:
                sys.exit(f"fuzz.py: {name}: {p.stdout[-2000:]}")
            for q in kept.iterdir():
                if not q.name.startswith("bug"):
                    q.unlink()
            room = BUDGET.get(name, OTHER_BUDGET) - sum(q.stat().st_size for q in kept.iterdir())
            for q in sorted(new.iterdir(), key=lambda q: (q.stat().st_size, q.name)):  # small ones are quick
                if (room := room - q.stat().st_size) < 0:
                    break
                shutil.copy(q, kept / q.name[:16])
        print(f"{name}: {len(list(kept.iterdir()))} inputs, {sum(q.stat().st_size for q in kept.iterdir()):,} bytes")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "merge"])
    parser.add_argument("bin", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--results")
    args = parser.parse_intermixed_args()
    args.bin = args.bin.resolve()
    return run(args) if args.command == "run" else merge(args)


if __name__ == "__main__":
    sys.exit(main())
