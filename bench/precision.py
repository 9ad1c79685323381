#!/usr/bin/env python3
"""What products of bf16 operands cost a student: the measurement behind `make bench-precision`.

    bench/precision.py build/release build/bench/precision

A small CNN is distilled on Fashion-MNIST with train.precision f32 and bf16, the same seeds, so the same initial weights and
order of rows; test accuracies are compared over the pairs. Nothing is timed.
"""
import json
import math
import shutil
import statistics
import sys
from pathlib import Path

import fashion
import figure

SEEDS, ROWS = 3, 19968
STUDENT = """model: {arch: cnn, channels: [16, 32, 64], strides: [2, 2, 2], kernel: 3, norm: batch, head: gap}
loss: {kd: 0.9, ce: 0.1, temperature: 4}
train: {epochs: 4, batch: 128, lr: 0.004}
"""


def accuracies(bin_folder, folder, precision):
    """Test accuracy of every seed, in the order of seeds."""
    out = folder / precision
    fashion.tool(bin_folder / "kd-train", "-s", folder / "f.kd", folder / "student.yaml", "-o", out, "--seeds",
                 f"0-{SEEDS - 1}", "--rows", ROWS, "--set", f"train.precision={precision}")
    result = json.loads(fashion.tool(bin_folder / "kd-eval", "-s", folder / "f.kd", "--json", out))
    return result["students"][0]["distilled"]["accuracy"]


def main():
    bin_folder, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fashion.teach(bin_folder, folder, fashion.pack(bin_folder, folder))
    (folder / "student.yaml").write_text(STUDENT)
    f32, bf16 = (accuracies(bin_folder, folder, p) for p in ("f32", "bf16"))
    gaps = [b - a for a, b in zip(f32, bf16)]
    gap, sd = statistics.mean(gaps), statistics.stdev(f32)
    print(f"f32 {statistics.mean(f32):.4f} ± {sd:.4f}, bf16 {statistics.mean(bf16):.4f} ± {statistics.stdev(bf16):.4f}, "
          f"by pairs {gap:+.4f} ± {statistics.stdev(gaps):.4f}")
    figure.save(Path(__file__).parent / "results", "precision-accuracy", round(gap, 5), "accuracy lost or gained",
                "make bench-precision", bar=-0.005, details={
                    "what": "test accuracy of a distilled CNN 16-32-64, bf16 less f32", "seeds": SEEDS, "rows": ROWS,
                    "f32": f32, "bf16": bf16, "seed_sd_f32": sd,
                    "standard_error": statistics.stdev(gaps) / math.sqrt(SEEDS)})


if __name__ == "__main__":
    main()
