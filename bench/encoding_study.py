#!/usr/bin/env python3
"""Which encoding of a language model's outputs teaches as well as all of its logits? What `make encoding-study` runs.

    bench/encoding_study.py BUILD SCRATCH RESULTS --smollm FOLDER [--seeds N] [--arms NAME ...]

FOLDER holds tokens.npy and logits.npy of peers/smollm_logits.py: a teacher's logits of all classes at each token of definitions
of WordNet. Each arm keeps the same logits in another encoding and trains the same students from them: same initial weights, same
order of batches, for a seed; only the targets differ, and how the loss reads them. Rows at the end are held out. Judged by
PyTorch on the teacher's f16 logits there, not by kd: KL(teacher || student), the same first token, ECE, cross-entropy of the tokens.

    dense           all logits, f16                                        the yardstick
    head-tail-N     exact head and systematic tail
    rs-kd-N         N draws with replacement (Anshumann et al. 2025)
    topk-K-...      the K largest: renorm, or bucket: one class for the rest
    distillkit-B    what DistillKit's records of B bytes give back: some exact values, the rest a fitted curve; renorm and bucket
    ...-scaled      the same draws as head-tail-20, scaled so that a position's probabilities have the sum 1
    ...-by-rank     systematic draws as of head-tail-20, the tail laid out from its most probable class down instead of by id
    ...-redrawn     head-tail-20 with fresh draws each epoch, for --epochs of 2 or more
    tokens          no teacher: the next token alone

--size picks the student: width x layers. --epochs shows frozen draws again and again: results have a name of their own then.

Bytes are those of the sealed segment of the arm over its positions: LMDB's pages, checksums, codebook, everything. Equal: the
95 % interval of the paired difference of KL to dense, over seeds, lies below 2 % of dense's KL.

Then the gate of gradients: the angle between the gradient of the head's weights by each encoding's targets and by the dense ones,
and the ratio of their norms, for dense's own student of seed 0, over 4,096 positions.
"""
import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "lib" / "python"))
import figure  # noqa: E402
import kdstore  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

V = 49152
MARGIN = 0.02
CHUNK = 32  # rows of a chunk where bytes are counted: 16,352 positions; students train from chunks of one row, whose dense logits are 50 MB
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # Student's t by seeds

SAMPLED = "{name: sparse_kl, sparse: sampled, kl_form: cross_entropy, temperature: 1, teacher: %s}"
TOPK = "{name: sparse_kl, sparse: %s, temperature: 1, teacher: %%s}"
LISTED = TOPK % "raw"
# arm: (teacher in the store, encoding, loss)
ARMS = {
    "dense": ("dense", "dense", "{name: kd, temperature: 1, teacher: %s}"),
    "head-tail-7": ("ht7", "head-tail:n=7", SAMPLED),
    "head-tail-13": ("ht13", "head-tail:n=13", SAMPLED),
    "head-tail-19": ("ht19", "head-tail:n=19", SAMPLED),
    "head-tail-20": ("ht20", "head-tail:n=20", SAMPLED),
    "head-tail-50": ("ht50", "head-tail:n=50", SAMPLED),
    "head-tail-20-scaled": ("ht20s", "lists scaled", LISTED),
    "head-tail-20-by-rank": ("ht20r", "lists by_rank", LISTED),
    "head-tail-20-redrawn": ("ht20 ht20-1 ht20-2 ht20-3", "head-tail:n=20", SAMPLED.replace("%s", "[%s], ensemble: turns")),
    "rs-kd-13": ("rs13", "sample:n=13", SAMPLED),
    "rs-kd-50": ("rs50", "sample:n=50", SAMPLED),
    "topk-16-renorm": ("top16", "topk:k=16", TOPK % "renorm"),
    "topk-50-renorm": ("top50", "topk:k=50", TOPK % "renorm"),
    "topk-50-bucket": ("top50", "topk:k=50", TOPK % "bucket"),
    "distillkit-114-renorm": ("dk114", "lists distillkit 50 1 2", TOPK % "renorm"),
    "distillkit-114-bucket": ("dk114", "lists distillkit 50 1 2", TOPK % "bucket"),
    "distillkit-312-renorm": ("dk312", "lists distillkit 128 16 5", TOPK % "renorm"),
    "distillkit-312-bucket": ("dk312", "lists distillkit 128 16 5", TOPK % "bucket"),
    "tokens": ("", "", "{name: ce}"),
}
RECORD = {"dk114": 114, "dk312": 312}  # bytes of DistillKit's own record
NOT_FIRST = {"head-tail-19", "head-tail-20-scaled", "head-tail-20-by-rank", "head-tail-20-redrawn"}  # asked for by name
STUDENT = """model: {{arch: llama, positions: 512, layers: {layers}, width: {width}, heads: {heads}, kv_heads: {half}, ffn: {ffn}, eps: 1e-5, rope_base: 10000, tied: true}}
loss:
  - {loss}
train: {{epochs: {epochs}, batch: 1, lr: {lr}, warmup: 0.1, clip: 1, weight_decay: 0.01}}
"""


def run(*command):
    out = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    if out.returncode:
        sys.exit(f"encoding_study.py: {' '.join(map(str, command))} ended with status {out.returncode}")
    return out.stdout


# ---- stores ----------------------------------------------------------------------------------------


def make_store(path, tokens, chunk_rows):
    """One row a text. No row is for validation: students are judged below."""
    if path.exists():
        return
    rows, length = tokens.shape
    columns = [kdstore.Column("id", "id", "u8", (16,)), kdstore.Column("split", "split", "u8"),
               kdstore.Column("tokens", "input", "u16", (-1,), params={"vocab": V, "max_tokens": length})]
    with kdstore.create(path, columns, {"source": "peers/smollm_logits.py"}, chunk_rows=chunk_rows) as w:
        for first in range(0, rows, chunk_rows):
            part = tokens[first:first + chunk_rows].astype(np.uint16)
            w.append({"id": kdstore.row_ids("tokens", part), "tokens": (part.reshape(-1), [length] * len(part))}, "train")


def write_logits(path, logits):
    """safetensors by hand, piece by piece: the logits behind each token but the last one of a row."""
    if path.exists():
        return
    rows, length = logits.shape[:2]
    positions = rows * (length - 1)
    size = positions * V * 2
    head = {"logits": {"dtype": "F16", "shape": [positions, V], "data_offsets": [0, size]},
            "logits.lengths": {"dtype": "U32", "shape": [rows], "data_offsets": [size, size + 4 * rows]}}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_suffix(".part")
    with open(part, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for row in logits:
            f.write(np.ascontiguousarray(row[:-1]).tobytes())
        f.write(np.full(rows, length - 1, np.uint32).tobytes())
    part.replace(path)


def distillkit(p, k, exact, degree):
    """Classes and log-probabilities that DistillKit's record gives back: (K) each. `exact` bf16 values, for the ranks behind them the least-squares
    curve of t^0..t^(degree - 1) and sqrt(t), t = rank - exact; no residual."""
    k, exact, degree = int(k), int(exact), int(degree)
    top = np.argpartition(-p, k)[:k]
    top = top[np.argsort(-p[top], kind="stable")]
    value = np.log(p[top].astype(np.float64))
    t = np.arange(k - exact, dtype=np.float64)
    basis = np.stack([t ** n for n in range(degree)] + [np.sqrt(t)], 1)
    scale = np.abs(basis).max(0)
    fit = np.linalg.lstsq(basis / scale, value[exact:], rcond=1e-5)[0]
    kept = np.array(value[:exact], np.float32).view(np.uint32)
    kept = ((kept + 0x7FFF + ((kept >> 16) & 1)) & 0xFFFF0000).view(np.float32)  # nearest bf16
    return top, np.concatenate([kept, basis / scale @ fit])


def by_rank(p, place):
    """Exact head and systematic tail of 20 points, the first at `place` of a step, along the tail from its most probable class down."""
    n = 20
    order = np.argsort(-p[p > 1e-9], kind="stable")
    order = np.flatnonzero(p > 1e-9)[order]
    heads = int((p[order] >= 1 / n).sum())
    ends = np.cumsum(p[order[heads:]].astype(np.float64))
    points = (np.arange(n) + place) / n
    hit = order[heads:][np.searchsorted(ends, points[points < ends[-1]], side="right")]
    return np.concatenate([order[:heads], hit]), np.log(np.concatenate([p[order[:heads]], np.full(len(hit), 1 / n)]))


def lists_of(args, how, logits):
    """For each row, for each position, classes and their log-probabilities."""
    kind, *numbers = how.split()[1:]
    drawn = kdstore.Store(str(args.scratch / "train.kd"))
    draw = np.random.Generator(np.random.Philox(1))
    for i, row in enumerate(logits):
        if kind == "scaled":
            s = drawn.read("ht20/logits", i)
            bounds = s.offset.astype(np.int64)
            yield [(s.id[a:b], np.log(s.value[a:b] / s.value[a:b].sum())) for a, b in zip(bounds[:-1], bounds[1:])]
        else:
            p = torch.softmax(torch.from_numpy(np.array(row[:-1], np.float32)), -1).numpy()
            yield [distillkit(x, *numbers) if kind == "distillkit" else by_rank(x, draw.random()) for x in p]


def add_lists(args, store, name, how, logits):
    """The classes of a position in rising order; where they are fewer than another position's, more of no weight."""
    path, most = args.scratch / f"{name}.jsonl", 0
    with open(path, "w") as f:
        for i, row in enumerate(lists_of(args, how, logits)):
            lists = []
            for ids, value in row:
                most, order = max(most, len(ids)), np.argsort(ids)
                lists.append([{"id": int(ids[o]), "logprob": round(float(min(value[o], 0)), 5)} for o in order])
            f.write(json.dumps({"row": i, "top_logprobs": lists}) + "\n")
    run(args.bin / "kd-store", "import", store, path, "--name", name, "--classes", V, "--encoding", f"topk:k={most}", "--resume", "--force")
    path.unlink()


def segment_bytes(store, name):
    """Of the file of a teacher's segment, and its positions."""
    s = kdstore.Store(str(store))
    g = next(g for g in s.manifest["segments"] if g["name"] == name)
    return os.path.getsize(store / g["file"])


def add_teachers(args, arms, train):
    """Each encoding twice: in train.kd, and but for dense in sizes.kd."""
    wanted = {name: ARMS[a][1] + (f",seed={i}" if i else "") for a in arms for i, name in enumerate(ARMS[a][0].split())}
    for name, encoding in wanted.items():
        for store in [args.scratch / "train.kd"] + ([args.scratch / "sizes.kd"] if encoding != "dense" else []):
            if name in {g["name"] for g in kdstore.Store(str(store)).manifest["segments"]}:
                continue
            if encoding.startswith("lists"):
                add_lists(args, store, name, encoding, train)
            else:
                how = ["--dtype", "f16"] if encoding == "dense" else ["--encoding", encoding]
                run(args.bin / "kd-store", "import", store, args.scratch / "logits.safetensors", "--name", name, "--order", "store", *how,
                    "--resume", "--force")
            print(f"{store.name}: {name}, {segment_bytes(store, name)} bytes", flush=True)


def bytes_of(args, arm, positions):
    name, encoding, _ = ARMS[arm]
    store = args.scratch / ("train.kd" if encoding == "dense" else "sizes.kd")
    return RECORD.get(name) or sum(segment_bytes(store, one) for one in name.split()) / positions


# ---- students --------------------------------------------------------------------------------------


def train(args, arms):
    """All students in one pass."""
    files = []
    for arm in arms:
        teacher, _, loss = ARMS[arm]
        files.append(args.scratch / f"{arm}.yaml")
        width, layers = map(int, args.size.split("x"))
        files[-1].write_text(STUDENT.format(loss=loss % teacher if teacher else loss, epochs=args.epochs, lr=args.lr, width=width, layers=layers,
                                            heads=width // 32, half=width // 64, ffn=3 * width))
    run(args.bin / "kd-train", "-s", args.scratch / "train.kd", *files, "--seeds", f"0-{args.seeds - 1}", "-o", students_folder(args),
        "--window-rows", "4096", "--resume", "--force", "--json")


def students_folder(args):
    return args.scratch / ("students" + args.kind)


def folder_of(args, arm, seed):
    return next((students_folder(args) / arm).glob(f"*/seed-{seed}"))


# ---- judging ---------------------------------------------------------------------------------------


def student_of(folder):
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()


def judge(folder, tokens, logits):
    """Means over the positions of the rows, and the right token's."""
    model, bins = student_of(folder), np.zeros((15, 3))
    kl = same = ce = n = 0.0
    with torch.no_grad():
        for row, z in zip(tokens, logits):
            ids = torch.from_numpy(row.astype(np.int64))
            q = torch.log_softmax(model(ids[None]).logits[0, :-1].float(), -1)
            p = torch.log_softmax(torch.from_numpy(np.array(z[:-1], np.float32)), -1)
            kl += (p.exp() * (p - q)).sum().item()
            same += (p.argmax(-1) == q.argmax(-1)).sum().item()
            right = ids[1:]
            ce -= q.gather(-1, right[:, None]).sum().item()
            sure, top = q.max(-1)
            sure, hit = sure.exp().numpy(), (top == right).numpy()
            at = np.minimum((sure * 15).astype(int), 14)
            np.add.at(bins, at, np.stack([np.ones_like(sure), sure, hit], 1))
            n += len(right)
    ece = np.abs(bins[:, 1] - bins[:, 2]).sum() / n
    return {"kl": kl / n, "same_top": same / n, "ce": ce / n, "ece": float(ece)}


def interval(differences):
    """Mean and half of the 95 % interval."""
    d = np.array(differences)
    return float(d.mean()), float(T95.get(len(d), 1.96) * d.std(ddof=1) / math.sqrt(len(d))) if len(d) > 1 else math.nan


# ---- the gate of gradients ---------------------------------------------------------------------------


def targets(store, arm, row):
    """(positions, V) of what an arm's loss takes for the teacher in a row."""
    name, encoding, loss = ARMS[arm]
    s = store.read(f"{name.split()[0]}/logits", row)
    if encoding == "dense":
        return torch.softmax(torch.from_numpy(np.asarray(s.values, np.float32)), -1).numpy()
    p = np.zeros((len(s), V), np.float32)
    at = np.repeat(np.arange(len(s)), np.diff(s.offset.astype(np.int64)))
    p[at, s.id] = s.value if "sampled" in loss else np.exp(s.value)
    if "renorm" in loss:
        p /= p.sum(-1, keepdims=True)
    return p


def bucket_slope(p, q):
    """d KL / d logits where all classes outside the kept ones are one class."""
    kept = p > 0
    rest_p = np.maximum(1 - p.sum(-1, keepdims=True), 1e-8)
    rest_q = np.maximum((q * ~kept).sum(-1, keepdims=True), 1e-8)
    return np.where(kept, q - p, q - rest_p * q / rest_q)


def gradients(args, arms, tokens):
    """arm: (angle in degrees, ratio of norms) of the gradient of the head's weights."""
    store, model = kdstore.Store(str(args.scratch / "train.kd")), student_of(folder_of(args, "dense", 0))
    sums = {}
    for row in range(min(math.ceil(4096 / (tokens.shape[1] - 1)), args.rows)):
        ids = torch.from_numpy(tokens[row].astype(np.int64))
        with torch.no_grad():
            out = model(ids[None], output_hidden_states=True)
            hidden = out.hidden_states[-1][0, :-1].numpy()
            q = torch.softmax(out.logits[0, :-1].float(), -1).numpy()
        for arm in arms:
            if not ARMS[arm][0]:
                continue
            p = targets(store, arm, row)
            slope = bucket_slope(p, q) if "bucket" in ARMS[arm][2] else q * p.sum(-1, keepdims=True) - p
            sums[arm] = sums.get(arm, 0) + (slope.T @ hidden).astype(np.float64)
    dense = sums["dense"]
    out = {}
    for arm, g in sums.items():
        cosine = (g * dense).sum() / np.linalg.norm(g) / np.linalg.norm(dense)
        out[arm] = (math.degrees(math.acos(min(1, cosine))), float(np.linalg.norm(g) / np.linalg.norm(dense)))
    return out


# ---- all of it ---------------------------------------------------------------------------------------


def table(args, arms, scores, size, gate):
    """One row an arm."""
    yardstick = [scores["dense", seed]["kl"] for seed in range(args.seeds)]
    rows = []
    for arm in arms:
        of = [scores[arm, seed] for seed in range(args.seeds)]
        mean, half = interval([s["kl"] - d for s, d in zip(of, yardstick)])
        row = {"arm": arm, "bytes": size.get(ARMS[arm][0]), "kl": float(np.mean([s["kl"] for s in of])),
               "kl_sd": float(np.std([s["kl"] for s in of], ddof=1)) if args.seeds > 1 else None,
               "difference": mean, "half": half, "percent": 100 * mean / float(np.mean(yardstick)),
               "percent_high": 100 * (mean + half) / float(np.mean(yardstick)),
               **{k: float(np.mean([s[k] for s in of])) for k in ("same_top", "ce", "ece")}}
        row["equal"] = arm == "dense" or bool(mean + half < MARGIN * np.mean(yardstick))
        if arm in gate:
            row["angle"], row["norm"] = gate[arm]
        rows.append(row)
    return rows


def show(rows):
    print(f"{'':24}{'bytes':>9}{'KL':>8}{'to dense, 95 %':>20}{'in %':>16}{'same top':>9}{'CE':>7}{'ECE':>7}{'angle':>7}{'norm':>6}  equal")
    for r in rows:
        size = "" if r["bytes"] is None else f"{r['bytes']:.1f}"
        gate = f"{r['angle']:7.1f}{r['norm']:6.2f}" if "angle" in r else 13 * " "
        spread = f"{r['difference']:+.4f} +- {r['half']:.4f}"
        print(f"{r['arm']:24}{size:>9}{r['kl']:8.4f}{spread:>20}{r['percent']:+7.2f} < {r['percent_high']:+5.2f}{r['same_top']:9.4f}{r['ce']:7.3f}"
              f"{r['ece']:7.4f}{gate}  {'yes' if r['equal'] else 'no'}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bin", type=Path)
    p.add_argument("scratch", type=Path)
    p.add_argument("results", type=Path)
    p.add_argument("--smollm", type=Path, required=True)
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--held-out", type=int, default=16, help="rows at the end")
    p.add_argument("--rows", type=int, default=0, help="rows to train on; 0: all others")
    p.add_argument("--epochs", type=int, default=1)
    p.add_argument("--lr", type=float, default=0.003)
    p.add_argument("--size", default="128x4", help="of students, width x layers")
    p.add_argument("--arms", nargs="*", default=[a for a in ARMS if a not in NOT_FIRST])
    p.add_argument("--called", default="", help="end of the results' name, for other arms than those of the whole study")
    args = p.parse_args()
    asked = " ".join(a for a in sys.argv[4:] if a not in ("--smollm", str(args.smollm)))
    arms = list(dict.fromkeys(["dense", "head-tail-20", *args.arms]))
    tokens = np.load(args.smollm / "tokens.npy")
    logits = np.load(args.smollm / "logits.npy", mmap_mode="r")
    args.kind = ("" if args.size == "128x4" else f"-{args.size}") + (f"-{args.epochs}-epochs" if args.epochs > 1 else "")
    cut = len(tokens) - args.held_out
    rows = args.rows = min(args.rows or cut, cut)
    args.scratch.mkdir(parents=True, exist_ok=True)
    make_store(args.scratch / "sizes.kd", tokens[:rows], CHUNK)
    make_store(args.scratch / "train.kd", tokens[:rows], 1)
    write_logits(args.scratch / "logits.safetensors", logits[:rows])
    add_teachers(args, arms, logits[:rows])
    positions = rows * (tokens.shape[1] - 1)
    size = {ARMS[a][0]: bytes_of(args, a, positions) for a in arms if ARMS[a][0]}
    train(args, arms)
    scores = {}
    for arm in arms:
        for seed in range(args.seeds):
            kept = folder_of(args, arm, seed) / f"judged-{args.held_out}.json"  # goes with the student when it is trained again
            if not kept.exists():
                kept.write_text(json.dumps(judge(folder_of(args, arm, seed), tokens[cut:], logits[cut:])))
            scores[arm, seed] = json.loads(kept.read_text())
        print(f"{arm}: judged", flush=True)
    table_rows = table(args, arms, scores, size, gradients(args, arms, tokens))
    show(table_rows)
    said = args.arms[0] if len(args.arms) == 1 else "head-tail-20"
    chosen = next(r for r in table_rows if r["arm"] == said)
    details = {"seeds": args.seeds, "epochs": args.epochs, "positions": positions, "held_out": args.held_out * (tokens.shape[1] - 1),
               "margin_percent": 100 * MARGIN, "bytes": chosen["bytes"], "arms": table_rows,
               "scores": {f"{arm} {seed}": s for (arm, seed), s in scores.items()}}
    figure.save(args.results, "encoding-quality" + args.kind + (args.called and f"-{args.called}"), round(chosen["percent_high"], 2),
                "% more KL than from dense logits, upper end of the 95 % interval",
                "make encoding-study" + (asked and f' BENCH_ARGS="{asked}"'), bar=100 * MARGIN, direction="lower", details=details)


if __name__ == "__main__":
    main()
