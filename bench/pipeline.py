#!/usr/bin/env python3
"""Runs the image pipeline from nothing and writes its promised figures: what `make bench-image` runs.

    bench/pipeline.py --bench build/release/bench/kd_bench --folder build/bench/image

    image-demo-seconds       wall time of all stages, packages installed and tools built
    image-teacher-accuracy   of the teacher on the test rows
    image-decodes            blocks decoded in the students' pass over what one pass needs
"""
import argparse
import datetime
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from run import HERE, machine, measure_peak, text_of


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    peak = measure_peak(args)
    start = time.monotonic()
    status = subprocess.run(["make", "--no-print-directory", "image", f"IMAGE={args.folder}"], stdout=sys.stderr)
    seconds = time.monotonic() - start
    if status.returncode != 0:
        sys.exit(f"bench/pipeline.py: make image ended with status {status.returncode}")
    results = json.loads((args.folder / "results.json").read_text())
    reads = json.loads((args.folder / "students.json").read_text())["reads"]
    figures = [
        ("image-demo-seconds", round(seconds, 1), "s", 360, "lower"),
        ("image-teacher-accuracy", results["teacher"]["metrics"]["accuracy"], "of test rows", 0.925, "higher"),
        ("image-decodes", reads["decoded"] / reads["expected"], "passes", 1, "lower"),
    ]
    common = {
        "peer": None, "peer_value": None, "command": "make bench-image", "machine": machine(args, peak),
        "versions": {"kd": text_of(["git", "describe", "--always", "--dirty"]),
                     "backend": results["provenance"]["backend"], "build": results["provenance"]["build"],
                     "kernel": platform.release()},
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    summary = [{k: s.get(k) for k in ("name", "params", "accuracy_gain", "p_value", "verdict")}
               for s in results["students"]]
    for name, value, unit, bar, direction in figures:
        out = {"name": name, "value": value, "unit": unit, "bar": bar, "direction": direction} | common
        out["details"] = {"students": summary, "reads": reads, "cost": results["cost"]}
        path = HERE / "results" / f"{name}.json"
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(out, indent=2) + "\n")
        temporary.replace(path)
        print(f"{name}: {value} {unit}")


if __name__ == "__main__":
    main()
