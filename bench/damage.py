#!/usr/bin/env python3
"""Damaged copies of a store, read by kd and by LMDB alone, into bench/results/: what `make damage` runs.

    bench/damage.py --program build/release/tests/fault/damage --folder build/bench/damage [--cases 1000]

tests/fault/damage.c says what is damaged and what is counted. Nothing here is timed: a busy machine changes
no figure. Exit status 1: kd crashed, hung, handed out something wrong, or verify missed something.
"""
import argparse
import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path

from run import HERE, machine, text_of


def bad(counts):
    return sum(counts.get(end, 0) for end in ("crashed", "hung", "wrong", "unseen"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=1000, help="copies of each of the four kinds")
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    out = subprocess.run([args.program, args.folder, str(args.cases)], stdout=subprocess.PIPE, text=True)
    if not out.stdout:
        sys.exit(f"bench/damage.py: {args.program} ended with status {out.returncode}")
    r = json.loads(out.stdout)
    figure = {
        "name": "store-damage", "value": bad(r["kd"]), "unit": f"of {r['cases']} copies", "bar": 0, "direction": "lower",
        "peer": "plain LMDB", "peer_value": bad(r["lmdb"]), "command": "make damage", "machine": machine(args, r),
        "versions": {"kd": text_of(["git", "describe", "--always", "--dirty"]), "lmdb": r["lmdb_version"],
                     "kernel": platform.release()},
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "details": {k: r[k] for k in ("cases", "file_bytes", "kd", "lmdb", "kinds")},
    }
    path = HERE / "results" / "store-damage.json"
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(figure, indent=2) + "\n")
    temporary.replace(path)
    for kind in r["kinds"] + [{"kind": "all", "cases": r["cases"], "kd": r["kd"], "lmdb": r["lmdb"]}]:
        for who in ("kd", "lmdb"):
            print(f"{kind['kind']:26} {kind['cases']:6} copies  {who:5}" +
                  "".join(f"  {end} {n}" for end, n in kind[who].items()))
    print(f"wrote {path}")
    sys.exit(1 if figure["value"] else 0)


if __name__ == "__main__":
    main()
