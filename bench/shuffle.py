#!/usr/bin/env python3
"""What shuffling within windows costs a student: the measurement behind `make bench-shuffle`.

    bench/shuffle.py build/release build/bench/shuffle

A student is trained on Fashion-MNIST with a full shuffle (one window holds all rows) and with windows of fewer and fewer
chunks, the same seeds, so the same initial weights; each arm's test accuracy is compared with the full shuffle's over
the pairs. Nothing is timed. The store is packed as kd-dump packs: rows of a split in a shuffled order.
"""
import json
import math
import shutil
import statistics
import sys
from pathlib import Path

import fashion
import figure

SEEDS = 16
CHUNK = 256
WINDOWS = [65536, 8192, 2048, 256]  # rows; the first holds all
JUDGED = 2048  # the figure: a thirtieth of the rows


def accuracies(bin_folder, folder, window):
    """Test accuracy of every seed, in the order of seeds."""
    out = folder / f"window-{window}"
    fashion.tool(bin_folder / "kd-train", "-s", folder / "f.kd", folder / "student.yaml", "-o", out, "--seeds",
                 f"0-{SEEDS - 1}", "--window-rows", window)
    result = json.loads(fashion.tool(bin_folder / "kd-eval", "-s", folder / "f.kd", "--json", out))
    return result["students"][0]["plain"]["accuracy"]


def main():
    bin_folder, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fashion.pack(bin_folder, folder, f"  chunk_rows: {CHUNK}\n")
    (folder / "student.yaml").write_text("model: {arch: mlp, hidden: [64]}\nloss: {kd: 0, ce: 1}\n"
                                         "train: {epochs: 5, batch: 128, lr: 0.003}\n")
    arms = {w: accuracies(bin_folder, folder, w) for w in WINDOWS}
    full = arms[WINDOWS[0]]
    details = []
    for w, got in arms.items():
        gaps = [a - b for a, b in zip(got, full)]
        details.append({"window_rows": w, "chunks": w // CHUNK, "accuracy": statistics.mean(got), "sd": statistics.stdev(got),
                        "gap": statistics.mean(gaps), "gap_sd": statistics.stdev(gaps), "by_seed": got})
        print("window {window_rows:6d} rows: accuracy {accuracy:.4f} ± {sd:.4f}, against the full shuffle "
              "{gap:+.4f} ± {gap_sd:.4f}".format(**details[-1]))
    judged = next(d for d in details if d["window_rows"] == JUDGED)
    figure.save(Path(__file__).parent / "results", "shuffle-accuracy", round(judged["gap"], 5), "accuracy lost or gained",
                "make bench-shuffle", bar=-0.002, details={
                    "seeds": SEEDS, "chunk_rows": CHUNK, "arms": details,
                    "standard_error": judged["gap_sd"] / math.sqrt(SEEDS)})


if __name__ == "__main__":
    main()
