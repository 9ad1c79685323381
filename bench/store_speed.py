#!/usr/bin/env python3
"""Rows a second out of a store, beside the ways of Python trainers, in one run: what `make bench-store-speed` runs.

    build/peers/store-venv/bin/python bench/store_speed.py --bench build/release/bench/kd_bench \\
      --smollm build/bench/smollm --fashion build/bench/fashion/fashion.kd

Rows, all in the page cache, one thread, one CPU:
    images   the training rows of Fashion-MNIST: image, label and the teacher's 10 logits, 828 bytes. The peers keep them
             as one array of bytes, which spares them two of three lookups.
    logits   8,192 tokens of SmolLM2-135M, 49,152 classes. kd keeps head-tail:n=20, the peers dense f16, as they
             do; kd's rate is that of sparse targets ready for a loss.
kd's loader reads them twice: at its default window, which holds all of them, so that they are decoded once a run; and with
a window of 8,192 images or 2,048 tokens, so that every chunk is decoded once an epoch, as of a store that memory does not hold.

In each round every contender measures once, kd's way in first: kd_bench read (decode, values, batches,
resident; zstd and memcpy, its limits) and peers/store_read.py (.npy memmap, py-lmdb with pickled
tensors, WebDataset, MosaicML Streaming). Figures are medians over rounds; ratios are of the same round. A run in which
others took the CPU is thrown away and repeated, as by run.py.

    store-decode-images, store-decode-logits      share of zstd's own limit; images are marked bytes, which are read several times as fast
    store-read-ROWS-ORDER                         batches of 128 at defaults against the best peer: 5 times is promised
    store-reread-ROWS-ORDER                       the same when every epoch decodes anew; the best peer may be an array that
                                                  was never packed and stands in memory whole
"""
import argparse
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

import figure
from run import FOREIGN, HERE, MOVED, Failure, Process, bootstrap, machine, measure_peak, moved, own_defaults

ZSTD_SHARE = 0.8   # promised: of the limit
PEER_RATIO = 5     # promised: times the best Python peer
PEERS = ["npy", "lmdb+pickle", "webdataset", "mds"]
NAMES = {"npy": ".npy memmap", "lmdb+pickle": "py-lmdb + pickled tensors", "webdataset": "WebDataset", "mds": "MosaicML Streaming"}
TOKENS, CHUNK = 8192, 2048


def image_rows(args):
    """kd's arguments, and the same rows for the peers."""
    sys.path.insert(0, str(HERE.parent / "lib" / "python"))
    import kdstore
    s = kdstore.Store(args.fashion)
    parts = [s.read_split(c, "train") for c in ("image", "label", "teacher/logits")]
    rows = np.concatenate([np.ascontiguousarray(p).reshape(len(p), -1).view(np.uint8) for p in parts], axis=1)
    np.save(args.scratch / "speed-images.npy", rows)
    return [args.fashion, "image,label,teacher/logits", "--window", "8192"], args.scratch / "speed-images.npy"


def logit_rows(args):
    z = np.load(args.smollm / "logits.npy", mmap_mode="r")
    flat = z.reshape(-1, z.shape[-1])[:TOKENS]
    data, store = args.scratch / "speed-logits.npy", args.scratch / "speed-logits.kd"
    np.save(data, flat)
    subprocess.run([args.bench, "pack", data, store, "head-tail:n=20", "--chunk-rows", str(CHUNK), "--judge", "1", "--redraws", "1"],
                   stdout=subprocess.DEVNULL, check=True)
    return [store, "logits", "--window", str(CHUNK)], data


ROWS = {"images": image_rows, "logits": logit_rows}


@contextmanager
def paused(process):
    """Stops a program: MosaicML's threads go on behind the batches that were asked for."""
    os.kill(process.p.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.p.pid, signal.SIGCONT)


def one_run(args, what, kd_rows, data):
    """{(contender, order): [answer, ...]}, and what was around."""
    before = measure_peak(args)
    kd = peer = None
    try:
        peer = Process("the Python peers", [sys.executable, HERE / "peers" / "store_read.py", data, args.scratch / f"speed-{what}"])
        kd = Process("kd_bench", [args.bench, "read", *kd_rows])
        contenders = [(kd, w) for w in ("decode", "values", "batches", "resident", "zstd", "memcpy")]
        contenders += [(peer, w) for w in PEERS]
        answers = {}
        for i in range(args.rounds):
            for order in ("sequential", "random"):
                for process, name in contenders:
                    with paused(peer if process is kd else kd):
                        a = process.go(f"{name} {order} {args.seconds}")
                    answers.setdefault((name, order), []).append(a | {"rows_s": a["rows"] / a["seconds"]})
            print(f"{what}: round {i + 1}/{args.rounds}", file=sys.stderr)
        ready = {"kd": kd.ready, "peer": peer.ready}
    finally:
        for p in (kd, peer):
            if p:
                p.close()
    return {"answers": answers, "ready": ready, "peak_before": before, "moved": moved(before, measure_peak(args)),
            "foreign": max(a["foreign"] for list_ in answers.values() for a in list_)}


def quiet_run(args, what, *rows):
    for attempt in range(args.tries):
        run = one_run(args, what, *rows)
        if run["moved"] <= MOVED and run["foreign"] <= FOREIGN:
            return run
        print(f"{what}: the peak moved by {100 * run['moved']:.1f} %, others took {100 * run['foreign']:.0f} % in one "
              f"measurement; thrown away ({attempt + 1}/{args.tries})", file=sys.stderr)
    raise Failure(f"{what}: no quiet run in {args.tries}; stop other work on this machine")


def ratio(a, b):
    """Of the same rounds, as the scoreboard shows it."""
    ratios = [x["rows_s"] / y["rows_s"] for x, y in zip(a, b)]
    low, high = bootstrap(ratios)
    return {"median": round(median(ratios), 3), "low95": round(low, 3), "high95": round(high, 3)}


def figures(args, what, run):
    """What figure.save takes, for one kind of rows."""
    answers, ready = run["answers"], run["ready"]
    rate = {k: median(a["rows_s"] for a in v) for k, v in answers.items()}
    common = {"command": args.command, "machine": machine(args, run["peak_before"]),
              "versions": {"build": ready["kd"]["build"], **ready["peer"]["versions"]}}
    table = {order: {name: round(r) for (name, o), r in rate.items() if o == order} for order in ("sequential", "random")}
    gbs = {name: round(median(a["bytes"] / a["seconds"] for a in v) / 1e9, 3) for (name, o), v in answers.items()
           if o == "sequential" and name not in PEERS}
    around = {"rows_s": table, "kd_gb_s_decoded": gbs, "kd_bytes_a_row": round(ready["kd"]["store_bytes"] / ready["kd"]["store_rows"], 2),
              "peer_bytes_a_row": {k: round(v / ready["peer"]["rows"], 2) for k, v in ready["peer"]["bytes"].items()},
              "rounds": args.rounds, "seconds_each": args.seconds, "others_share": round(run["foreign"], 4)}
    share = ratio(answers["decode", "sequential"], answers["zstd", "sequential"])
    yield {"name": f"store-decode-{what}", "value": share["median"], "unit": "of zstd's limit", "bar": ZSTD_SHARE,
           "direction": "higher", "peer": "ZSTD_decompressDCtx of frames of the same blocks", "peer_value": 1, **common,
           "details": {"what": "kd_cursor_read of whole blocks, in order, one core", "ratio": share, **around}}
    for order in ("sequential", "random"):
        best = max(PEERS, key=lambda p: rate[p, order])
        packed = max(PEERS[1:], key=lambda p: rate[p, order])
        for name, mine, how in (("read", "resident", "at its default window, which holds all these rows: decoded once a run"),
                                ("reread", "batches", "with a window of a part of the rows: decoded every epoch")):
            yield {"name": f"store-{name}-{what}-{order}", "value": round(rate[mine, order]), "unit": "rows/s",
                   "bar": round(PEER_RATIO * rate[best, order]), "direction": "higher", "peer": NAMES[best],
                   "peer_value": round(rate[best, order]), **common,
                   "details": {"what": f"batches of 128 {what} from kd's loader {how}; {order}, one core, files in the page cache",
                               "bar_rule": f"{PEER_RATIO} x peer_value", "ratio": ratio(answers[mine, order], answers[best, order]),
                               "ratio_to_best_but_memmap": {"peer": NAMES[packed], **ratio(answers[mine, order], answers[packed, order])},
                               **around}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True, help="the program kd_bench")
    parser.add_argument("--smollm", type=Path, required=True, help="folder of logits.npy")
    parser.add_argument("--fashion", type=Path, required=True, help="store with the column teacher/logits")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement [1]")
    parser.add_argument("--tries", type=int, default=4)
    parser.add_argument("--command", default="make bench-store-speed")
    args = parser.parse_args()
    args.threads = 1
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])   # all sides inherit it
    own_defaults()
    try:
        for what in args.rows:
            run = quiet_run(args, what, *ROWS[what](args))
            for f in figures(args, what, run):
                figure.save(args.results, **f)
                print(f"{f['name']}: {f['value']:,} {f['unit']}, {f['peer']} {f['peer_value']:,}, "
                      f"ratio {f['details']['ratio']['median']}")
            print(json.dumps(f["details"]["rows_s"], indent=1))
    except Failure as e:
        print(f"bench/store_speed.py: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
