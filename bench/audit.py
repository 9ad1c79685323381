#!/usr/bin/env python3
"""audit.py - does kd-audit find what is wrong with Fashion-MNIST, and does training without it help?

    bench/audit.py BIN FOLDER [labels] [leaks]

labels: 5 % of the training labels are flipped to another class at random, in three draws. A small teacher is trained
for each of three folds on the noisy labels of the other two (out of sample), and one on all of them (in sample, for
comparison); kd-audit judges by either. Precision and recall are those of the rows of the training split. Then
students are trained on the noisy labels, on the noisy labels without the rows of drop.txt, and on the clean labels,
and measured on the clean test rows. Fashion-MNIST has wrong and doubtful labels of its own; all of them count as
false alarms here, so precision is a lower bound.

leaks: copies of training images are planted among the test images: as they are, 20 to 60 brighter or darker
(clipped), mirrored, moved by one pixel. Recall by kind, and what else is found.
"""
import csv
import gzip
import json
import shutil
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import fashion
import figure

sys.path.insert(0, str(Path(__file__).parents[1] / "lib" / "python"))
import kdstore  # noqa: E402

# Draws 0 to 2 served to choose kd-audit's defaults; these it has not seen.
DRAWS, FOLDS, NOISE, PLANTED, EPOCHS = range(3, 6), 3, 0.05, 250, 4
MODEL = (f"name: small\nmodel: {{arch: cnn, channels: [8, 16, 32], strides: [2, 2, 1]}}\nloss: {{kd: 0, ce: 1}}\n"
         f"train: {{epochs: {EPOCHS}, batch: 64, lr: 0.005, weight_decay: 0.05, warmup: 0.1}}\n")


def read_idx(name):
    raw = gzip.open(f"{fashion.DATA}/{name}-ubyte.gz").read()
    axes = raw[3]
    dims = np.frombuffer(raw, ">u4", axes, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(dims)


def write_idx(path, x):
    head = bytes([0, 0, 8, x.ndim]) + np.array(x.shape, ">u4").tobytes()
    Path(path).write_bytes(head + x.tobytes())
    return path


def rows_of(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def spread(values):
    return {"mean": round(statistics.mean(values), 5), "sd": round(statistics.stdev(values), 5) if len(values) > 1 else None,
            "by_seed": [round(v, 5) for v in values]}


# ---- labels ----------------------------------------------------------------------------------------


def flip(labels, seed):
    """Labels with NOISE of them another class, and which they are."""
    rng = np.random.default_rng(seed)
    wrong = rng.choice(len(labels), round(NOISE * len(labels)), replace=False)
    noisy = labels.copy()
    noisy[wrong] = (noisy[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return noisy, np.isin(np.arange(len(labels)), wrong)


def packed(b, folder, instead):
    """The store of a folder, packed unless it is there: what an interrupted run made is used again."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "f.kd" if (folder / "f.kd").is_dir() else fashion.pack(b, folder, "  valid_fraction: 0.1\n", instead)


def add(b, store, model, name):
    if f"{name}/logits" not in kdstore.Store(str(store)).columns:
        fashion.tool(b / "kd-dump", "--teacher", model, "--into", store, "--name", name)


def train(b, folder, store, seed, out, *more):
    (folder / "small.yaml").write_text(MODEL)
    fashion.tool(b / "kd-train", "-s", store, folder / "small.yaml", "--seeds", seed, "-o", out, "--threads", 1, "--resume", "--force",
                 *more)
    return out / "small" / "plain" / f"seed-{seed}"


def judge(b, store, out, wrong, names, planted):
    """Precision and recall of each filter with these teachers; planted: flipped labels of the training split."""
    teachers = [a for n in names for a in (("--cross" if len(names) > 1 else "--teacher"), n)]
    found = {}
    for choice in ("rate", "both", "joint"):  # the default last: its lists stay
        fashion.tool(b / "kd-audit", "-s", store, "-o", out, "--near", "none", "--force", "--filter", choice, *teachers)
        dropped = {line.split()[0] for line in (out / "drop.txt").read_text().splitlines()[1:]}
        flagged = [bool(wrong[int(r["source"])]) for r in rows_of(out / "labels.csv") if r["split"] == "train"]
        listed = [bool(wrong[int(r["source"])]) for r in rows_of(out / "labels.csv") if r["row"] in dropped]
        found[choice] = {"dropped": len(listed), "drop_precision": sum(listed) / len(listed), "drop_recall": sum(listed) / planted,
                         "flagged": len(flagged), "precision": sum(flagged) / len(flagged), "recall": sum(flagged) / planted,
                         "precision_first_1000": sum(flagged[:1000]) / len(flagged[:1000])}
    found["trained_on_these_rows"] = json.loads((out / "audit.json").read_text())["teacher"]["trained_on_these_rows"]
    return found


def accuracy(b, clean, run):
    result = json.loads(fashion.tool(b / "kd-eval", "-s", clean, "--json", run))
    return result["students"][0]["plain"]["accuracy"][0]


def one_draw(b, folder, clean, labels, seed):
    folder.mkdir(parents=True, exist_ok=True)
    noisy, wrong = flip(labels, seed)
    store = packed(b, folder, {"train_label": write_idx(folder / "labels", noisy)})
    fashion.tool(b / "kd-audit", "-s", store, "-o", folder / "folds", "--folds", FOLDS)
    names = [f"fold{k}" for k in range(FOLDS)]
    for k, name in enumerate(names):
        model = train(b, folder, store, seed, folder / name, "--drop-rows", folder / "folds" / f"fold-{k}.txt")
        add(b, store, model, name)
    add(b, store, train(b, folder, store, seed, folder / "noisy"), "seen")
    planted = int(wrong[kdstore.Store(str(store)).read_split("source", "train").astype(int)].sum())
    out = {"cross": judge(b, store, folder / "cross", wrong, names, planted),
           "seen": judge(b, store, folder / "seen", wrong, ["seen"], planted)}
    cleaned = train(b, folder, store, seed, folder / "cleaned", "--drop-rows", folder / "cross" / "drop.txt")
    best = train(b, folder, clean, seed, folder / "clean")
    print(f"draw {seed} is done", file=sys.stderr)
    out["accuracy"] = {"noisy": accuracy(b, clean, folder / "noisy" / "small" / "plain" / f"seed-{seed}"),
                       "cleaned": accuracy(b, clean, cleaned), "clean": accuracy(b, clean, best)}
    return out


def labels_bench(b, folder):
    labels = read_idx("train-labels-idx1")
    clean = packed(b, folder / "clean", {})
    with ThreadPoolExecutor(len(DRAWS)) as pool:  # each trains on one thread
        draws = list(pool.map(lambda seed: one_draw(b, folder / f"draw-{seed}", clean, labels, seed), DRAWS))
    found = {how: {f: {m: spread([d[how][f][m] for d in draws]) for m in ("flagged", "precision", "recall", "precision_first_1000", "dropped", "drop_precision", "drop_recall")}
                   for f in ("joint", "rate", "both")} for how in ("cross", "seen")}
    for how in found:
        found[how]["said_to_be_trained_on_these_rows"] = [d[how]["trained_on_these_rows"] for d in draws]
    acc = {k: spread([d["accuracy"][k] for d in draws]) for k in ("noisy", "cleaned", "clean")}
    lost, back = acc["clean"]["mean"] - acc["noisy"]["mean"], acc["cleaned"]["mean"] - acc["noisy"]["mean"]
    for how, what in (("cross", "teachers of three folds, out of sample"), ("seen", "one teacher, trained on the noisy labels")):
        for f in ("joint", "rate", "both"):
            m = found[how][f]
            print(f"{what}, --filter {f}: precision {m['precision']['mean']:.3f} ± {m['precision']['sd']:.3f}, "
                  f"recall {m['recall']['mean']:.3f} ± {m['recall']['sd']:.3f}; on drop.txt "
                  f"{m['drop_precision']['mean']:.3f} ± {m['drop_precision']['sd']:.3f}, {m['drop_recall']['mean']:.3f} ± {m['drop_recall']['sd']:.3f}")
    print("test accuracy: " + ", ".join(f"{k} {v['mean']:.4f} ± {v['sd']:.4f}" for k, v in acc.items()))
    common = {"draws": list(DRAWS), "folds": FOLDS, "epochs": EPOCHS, "noise": NOISE,
              "teachers": "cnn-6k, cross-fitted on the noisy labels", "accuracy": acc, "found": found}
    results = Path(__file__).parent / "results"
    joint = found["cross"]["joint"]
    figure.save(results, "audit-label-recall", joint["recall"]["mean"], "share of flipped labels found", "make bench-audit",
                details=common)
    figure.save(results, "audit-label-precision", joint["precision"]["mean"], "share of flagged labels that were flipped",
                "make bench-audit", details={"see": "audit-label-recall"})
    figure.save(results, "audit-accuracy-recovered", round(back / lost, 3) if lost > 0 else None,
                "share of the accuracy lost to noise", "make bench-audit", details={"accuracy": acc})


# ---- leaks -----------------------------------------------------------------------------------------


def plant(images, seed):
    """Copies of training images and (kind, source) of each."""
    rng = np.random.default_rng(seed)
    sources = rng.choice(len(images), 4 * PLANTED, replace=False)
    by = rng.choice([-1, 1], len(sources)) * rng.integers(20, 61, len(sources))
    out, what = [], []
    for i, s in enumerate(sources):
        kind = ("exact", "brightness", "mirrored", "moved")[i // PLANTED]
        x = images[s].astype(int)
        if kind == "brightness":
            x, kind = np.clip(x + by[i], 0, 255), "brighter" if by[i] > 0 else "darker"
        elif kind == "mirrored":
            x = x[:, ::-1]
        elif kind == "moved":
            x = np.roll(x, 1 if by[i] > 0 else -1, axis=int(s) % 2)
        out.append(x.astype(np.uint8))
        what.append((kind, int(s)))
    return np.stack(out), what


def leaks_bench(b, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    train_x, test_x, test_y = (read_idx(n) for n in ("train-images-idx3", "t10k-images-idx3", "t10k-labels-idx1"))
    copies, what = plant(train_x, 1)
    labels = read_idx("train-labels-idx1")[[s for _, s in what]]
    files = {"test_input": write_idx(folder / "images", np.concatenate([test_x, copies])),
             "test_label": write_idx(folder / "labels", np.concatenate([test_y, labels]))}
    store = fashion.pack(b, folder, "", files)
    fashion.tool(b / "kd-audit", "-s", store, "-o", folder / "audit")
    pairs = rows_of(folder / "audit" / "duplicates.csv")
    first, partners, natural = len(train_x) + len(test_x), {}, []
    for p in pairs:
        s, o = sorted((int(p["source"]), int(p["other_source"])))
        if o < first:
            natural.append(p)
        else:
            partners.setdefault(o - first, []).append(s)
    recall, others = {}, 0
    for i, (kind, source) in enumerate(what):
        recall.setdefault(kind, []).append(source in partners.get(i, []))
        others += sum(s != source for s in partners.get(i, []))
    planted = {k: len(v) for k, v in recall.items()}
    recall = {k: sum(v) / len(v) for k, v in recall.items()}
    leaked = sum(p["leak"] == "1" for p in natural)
    wrong = sum(p["label"] != p["other_label"] for p in natural)
    for kind, share in recall.items():
        print(f"planted {kind} copies: {100 * share:.1f} % of {planted[kind]} found")
    print(f"pairs of planted copies with other rows than their source: {others}")
    print(f"pairs among the {first:,} rows of Fashion-MNIST itself: {len(natural)}, {leaked} across splits, {wrong} with other labels")
    seconds = json.loads((folder / "audit" / "audit.json").read_text())["seconds"]
    figure.save(Path(__file__).parent / "results", "audit-leak-recall", round(sum(recall[k] * planted[k] for k in planted) / len(what), 4),
                "share of planted copies found", "make bench-audit",
                details={"recall": recall, "planted": planted, "pairs_with_other_rows": others,
                         "own_pairs": len(natural), "own_leaks": leaked, "own_pairs_with_other_labels": wrong, "seconds": seconds})


def main():
    b, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    for name, bench in (("leaks", leaks_bench), ("labels", labels_bench)):
        if not sys.argv[3:] or name in sys.argv[3:]:
            bench(b, folder / name)


if __name__ == "__main__":
    main()
