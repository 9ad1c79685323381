#!/usr/bin/env python3
"""Bytes a position of every encoding on real logits, beside public systems: what `make bench-store-size` runs.

    bench/store_size.py --bench build/release/bench/kd_bench --python build/peers/store-venv/bin/python \\
      --smollm build/bench/smollm --fashion build/bench/fashion/fashion.kd

Logits:
    10       the Fashion-MNIST teacher's, 70,000 images
    49,152   SmolLM2-135M's over definitions of WordNet (peers/smollm_logits.py), 512 tokens a row
    1,000 and 30,522   the same restricted to the first so many token ids, for want of a real teacher of that
             width: merges come in the order of their frequency, so these are the frequent classes

kd's bytes are those of the sealed file of a store that holds row ids, splits and the encoded column: whole LMDB
pages, index, checksums, codebook, everything. A chunk is 1,024 images or 32 rows of text, 16,384 tokens; dense encodings
of more than 1,000 classes are measured on 8 rows in one chunk. The public systems' records are recomputed on the same
logits (peers/logit_formats.py): bytes of the records alone, without files, index or ids; they compare with the column
"column", kd's records alone. Errors: kd_bench pack says how they are measured.

Not timed: a busy machine does no harm.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

import figure
from run import HERE

TOKEN_BAR = 16   # promised: bytes a token of head-tail, n = 20, all included
DENSE = ["f32", "f16", "bf16", "int8", "log8", "log6"]
SPARSE = {
    10: ["topk:k=3", "sample:n=20", "head-tail:n=20"],
    1000: ["topk:k=5", "topk:k=16", "sample:n=13", "sample:n=20", "sample:n=50", "head-tail:n=7", "head-tail:n=20",
           "head-tail:n=50"],
    30522: ["topk:k=16", "topk:k=64", "sample:n=13", "sample:n=20", "sample:n=50", "head-tail:n=7", "head-tail:n=20",
            "head-tail:n=50"],
    49152: ["topk:k=16", "topk:k=64", "topk:k=128", "sample:n=7", "sample:n=13", "sample:n=20", "sample:n=50",
            "sample:n=100", "head-tail:n=7", "head-tail:n=13", "head-tail:n=20", "head-tail:n=50", "head-tail:n=100"],
}
CHOSEN = {10: "log8", 1000: "head-tail:n=20", 30522: "head-tail:n=20", 49152: "head-tail:n=20"}
PEER = {10: "dense f16", 1000: "RS-KD N=50", 30522: "RS-KD N=50", 49152: "RS-KD N=50"}


def fashion_logits(store, folder):
    """The teacher's column as .npy, by the Python package."""
    sys.path.insert(0, str(HERE.parent / "lib" / "python"))
    import kdstore
    import numpy as np
    path = folder / "fashion-logits.npy"
    s = kdstore.Store(store)
    np.save(path, np.concatenate([s.read("teacher/logits", c) for c in range(len(s.chunks))]))
    return path


def pack(args, logits, width, encoding):
    """One encoding: the line of kd_bench pack."""
    text = width > 10
    dense = encoding in DENSE
    options = ["--classes", width, "--chunk-rows", 32 if text else 1024]
    if text and dense and width > 1000:   # a position costs the same wherever it is: 4,096 tell enough, in one block
        options = ["--classes", width, "--chunk-rows", 8, "--rows", 8]
    out = subprocess.run([args.bench, "pack", logits, args.scratch / "size.kd", encoding, *map(str, options)],
                         stdout=subprocess.PIPE, text=True)
    if out.returncode != 0:
        sys.exit(f"bench/store_size.py: {encoding} at {width} classes: kd_bench ended with status {out.returncode}")
    return json.loads(out.stdout)


def show(width, rows, peers):
    print(f"\n{width} classes: bytes a position, all included")
    print(f"{'':20}{'bytes':>10}{'column':>10}{'ids':>9}{'variance':>10}{'KL':>10}{'top-1':>8}{'tail':>8}{'bias z':>8}")
    for r in rows:
        e = r["errors"]
        number = lambda v, form: "" if v is None else format(v, form)
        print(f"{r['encoding']:20}{r['bytes_position']:10.2f}{r['column_position']:10.2f}{e['ids']:9.1f}{number(e['variance'], '10.4f'):>10}"
              f"{number(e['kl'], '10.2g'):>10}{e['top1']:8.4f}{e['tail']:8.4f}{number(e['bias_z'], '8.1f'):>8}")
    for name, size in peers["bytes"].items():
        print(f"  {name:18}{'':10}{size:10.2f}{peers['ids'].get(name, 0) or '':9.4}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True, help="the program kd_bench")
    parser.add_argument("--smollm", type=Path, required=True, help="folder of logits.npy")
    parser.add_argument("--fashion", type=Path, required=True, help="store with the column teacher/logits")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--widths", type=int, nargs="*", default=list(CHOSEN))
    parser.add_argument("--command", default="make bench-store-size")
    args = parser.parse_args()
    for width in args.widths:
        logits = fashion_logits(args.fashion, args.scratch) if width == 10 else args.smollm / "logits.npy"
        rows = [pack(args, logits, width, e) for e in DENSE + SPARSE[width]]
        peers = json.loads(subprocess.run([sys.executable, HERE / "peers" / "logit_formats.py", logits, "--classes", str(width)],
                                          stdout=subprocess.PIPE, check=True).stdout)
        show(width, rows, peers)
        chosen = next(r for r in rows if r["encoding"] == CHOSEN[width])
        figure.save(args.results, f"store-size-{width}", round(chosen["bytes_position"], 2), "bytes a position", args.command,
                    bar=TOKEN_BAR if width > 1000 else None, direction="lower", peer=PEER[width],
                    peer_value=peers["bytes"][PEER[width]], versions={"build": chosen["build"]},
                    details={"what": f"{CHOSEN[width]} on {width} classes, the whole sealed file over the positions",
                             "encodings": [{k: v for k, v in r.items() if k != "build"} for r in rows],
                             "public": peers})


if __name__ == "__main__":
    main()
