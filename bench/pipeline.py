#!/usr/bin/env python3
"""Runs the image pipeline from nothing and writes its promised figures: what `make bench-image` runs.

    bench/pipeline.py --bench build/release/bench/kd_bench --folder build/bench/image

    image-demo-seconds       wall time of all stages, packages installed and tools built
    image-teacher-accuracy   of the teacher on the test rows
    image-decodes            blocks decoded in the students' pass over what one pass needs
    kd-train-mlp, kd-train-cnn   rows a second of the tool, from the store, validation included: the models of `make bench`
"""
import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import figure
from run import HERE, machine, measure_peak


STUDENTS = {
    "kd-train-mlp": "model: {arch: mlp, hidden: [512, 256]}\ntrain: {epochs: 6, batch: 128}\n",
    "kd-train-cnn": "model: {arch: cnn, channels: [16, 32, 64], strides: [1, 2, 2]}\ntrain: {epochs: 2, batch: 128}\n",
}


def rows_a_second(args, name, tool):
    """One student on all training rows of the store, by kd-train itself."""
    yaml = args.folder / f"{name}.yaml"
    yaml.write_text("loss: {kd: 0.9, ce: 0.1, temperature: 4}\n" + STUDENTS[name])
    start = time.monotonic()
    out = subprocess.run([tool, "-q", "-s", args.folder / "fashion.kd", yaml, "-o", args.folder / name, "--force", "--json"],
                         stdout=subprocess.PIPE, check=True)
    seconds = time.monotonic() - start
    epochs = json.loads(out.stdout)["students"][0]["epochs"]
    rows = json.loads((args.folder / "fashion.kd" / "manifest.json").read_text())["splits"]["train"]
    return round(rows * epochs / seconds, 1)


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
        ("image-teacher-accuracy", results["teacher"]["accuracy"], "of test rows", 0.925, "higher"),
        *((name, rows_a_second(args, name, Path(args.bench).parents[1] / "kd-train"), "rows/s", None, "higher")
          for name in STUDENTS),
        ("image-decodes", reads["decoded"] / reads["expected"], "passes", 1, "lower"),
    ]
    versions = {"backend": results["provenance"]["backend"], "build": results["provenance"]["build"]}
    summary = [{k: s.get(k) for k in ("name", "params", "accuracy_gain", "p_value", "verdict")}
               for s in results["students"] if not s.get("is_teacher")]
    for name, value, unit, bar, direction in figures:
        figure.save(HERE / "results", name, value, unit, "make bench-image", bar=bar, direction=direction,
                    machine=machine(args, peak), versions=versions,
                    details={"students": summary, "reads": reads, "cost": results["cost"]})
        print(f"{name}: {value} {unit}")


if __name__ == "__main__":
    main()
