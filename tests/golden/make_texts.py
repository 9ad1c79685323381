#!/usr/bin/env python3
"""make_texts.py - writes texts.json: small tokenizers, hard texts, and the ids that PyPI's tokenizers gives them.

    build/peers/text-venv/bin/python tests/golden/make_texts.py        # after bench/peers/setup.sh build/peers/text-venv requirements-text

Each tokenizer has a vocabulary of some thousand single characters and a few words, so that most characters have ids of their own.
A text is a string, or {"hex": ...} where it is not UTF-8; then the ids are those of Python's errors="replace". Entries: text, or
pair of texts; by tokenizer the ids, at a second place those cut at 8 tokens, and the text that the ids decode to.
"""
import json
import random
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """the a of and in to is it teacher student learn unaffable want run going word embedding store cache distil token don't
naive cafe resume hello world strasse istanbul you'll 3.14 e-mail""".split()
PIECES = "s ed ing er able aff un ly tion want ment al 's 11 20".split()
RANGES = [(0x21, 0x7F), (0xA1, 0x250), (0x300, 0x340), (0x370, 0x400), (0x400, 0x460), (0x5D0, 0x5EB), (0x620, 0x650), (0x905, 0x93A),
          (0xE01, 0xE3A), (0x1100, 0x1113), (0x1161, 0x1176), (0x11A8, 0x11C3), (0x2010, 0x2028), (0x2100, 0x2140), (0x3001, 0x3097),
          (0x4E00, 0x4E40), (0xFF01, 0xFF20), (0x1F600, 0x1F620), (0x1D165, 0x1D173)]


def spec(added=(), post="template", **normalizer):
    vocab = {w: i for i, w in enumerate(SPECIAL)}
    for a, b in RANGES:
        for c in range(a, b):
            for s in (chr(c), "##" + chr(c)):
                vocab.setdefault(s, len(vocab))
    for w in WORDS:
        vocab.setdefault(w, len(vocab))
    for p in PIECES:
        vocab.setdefault("##" + p, len(vocab))
    tokens = [{"id": i, "content": w, "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
              for i, w in enumerate(SPECIAL)]
    ids = dict(vocab)
    for content, on in added:
        tokens.append({"id": ids.setdefault(content, len(ids)), "content": content, "special": False, "single_word": False,
                       "lstrip": False, "rstrip": False, "normalized": True, **on})
    a, b = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    cls, sep, sep2 = ({"SpecialToken": {"id": t, "type_id": k}} for t, k in (("[CLS]", 0), ("[SEP]", 0), ("[SEP]", 1)))
    posts = {"template": {"type": "TemplateProcessing", "single": [cls, a, sep], "pair": [cls, a, sep, b, sep2],
                          "special_tokens": {t: {"id": t, "ids": [vocab[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")}},
             "bert": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}, "none": None}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens,
            "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                           "lowercase": True, **normalizer},
            "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": posts[post],
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 20,
                      "vocab": vocab}}


TOKENIZERS = {
    "uncased": spec(), "cased": spec(post="bert", lowercase=False), "accents": spec(post="none", strip_accents=False),
    "plain": spec(clean_text=False, handle_chinese_chars=False),
    "added": spec(added=[("<x>", {"lstrip": True, "rstrip": True, "normalized": False}), ("word", {"single_word": True}),
                         ("\u00c9t\u00e9", {}), ("ing", {"lstrip": True}), ("<x><y>", {"normalized": False})]),
}
HAND = ["", " ", "\t\r\n", "the teacher", "unaffable", "UNAFFABLE wants", "don't do not 's ' s", "a\u0000b\ufffdc", "caf\u00e9 cafe\u0301 CAF\u00c9", "stra\u00dfe \u1e9e",
        "\u0130stanbul I\u0307", "\u03a3\u0391\u03a3 \u03c3\u03b1\u03c2", "\u4e00\u4e01 \u4e02a\u4e03", "\u3042\u304c\u304b\u3099", "\uac00\ub098\ud55c", "\u1112\u1161\u11ab", "\u2126\u212b\u00c5", "a\u00adb", "a\u200bb\u200dc",
        "a\u00a0b\u2003c\u3000d\u2028e", "\u000b\u000ca\u0085b", "x" * 20, "x" * 21, "x" * 101, "[CLS] the [SEP]", "[cls] [MASK][MASK]", "[[CLS]]", " [PAD] a",
        "a<x> b  <x>  c<x><y>d", "word words sword word.", "\u00c9T\u00c9 \u00e9t\u00e9 \u00c9t\u00e9x", "go ing going  ing", "1,000.50$ + 20% = ~`^|<>", "\u00b4\u1fef\u037e\u0387\u2260",
        "\U0001d15e\U0001d165\U0001d16d\u302e\u302f", "\u302f\U0001d16d\u0001\U0001d165", "a\u0301\u0323\u0334", "\u05d0\u05b7\u05bc\u05d1", "\u0e01\u0e38\u0e49", "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\U0001f600\U0001f601 ok", "\U000e0001a\U000f0000b", "\u1734\u171e \u166d", "\U000111c9 \U00011938", "\ua7dc\u1c89\U00010d50", "\u08e2\U000110cd", "\uff21\uff01\uff1f", "\u0378\u0e80\u2fe0"]
BROKEN = ["ff", "61ff62", "c3", "c328", "e28221", "eda080", "f09f98", "f09f9861", "f4908080", "c0af", "e0809f61", "6162f5fdc3a9", "80bfbf", "f0808080"]
PAIRS = [("the teacher", "a student"), ("a", ""), ("", ""), ("a b c d e f g h", "a"), ("a", "a b c d e f g h"), ("a b c d", "e f g h"), ("[SEP]", "[CLS] a")]


def random_texts(n):
    rng = random.Random(7)
    for _ in range(n):
        out = []
        for _ in range(rng.randrange(1, 10)):
            k = rng.random()
            if k < 0.3:
                out.append(rng.choice(WORDS + PIECES + SPECIAL + ["<x>"]))
            elif k < 0.5:
                out.append(rng.choice([" ", "  ", "\n", "\u00a0"]))
            else:
                a, b = rng.choice(RANGES + [(0, 0x3000), (0x3000, 0xD800), (0x10000, 0x12000), (0x1D100, 0x1D200), (0xE000, 0x110000)])
                out.append(chr(rng.randrange(a, b)))
        yield "".join(out)


def main():
    tools = {k: Tokenizer.from_str(json.dumps(v)) for k, v in TOKENIZERS.items()}
    def entry(t):
        return {"hex": t.encode().hex()} if "\0" in t else {"text": t}     # not every JSON reader takes a zero byte

    entries = [entry(t) for t in HAND] + [{"hex": h} for h in BROKEN] + [{"pair": list(p)} for p in PAIRS]
    entries += [entry(t) for t in random_texts(250)]
    for e in entries:
        what = e.get("pair") or [e["text"] if "text" in e else bytes.fromhex(e["hex"]).decode(errors="replace")]
        for name, t in tools.items():
            t.no_truncation()
            whole = t.encode(*what)
            t.enable_truncation(8)
            e[name] = [whole.ids, t.encode(*what).ids, t.decode(whole.ids, skip_special_tokens=True)]
            if "pair" in e:
                e[name].append(whole.type_ids.index(1) if 1 in whole.type_ids else len(whole.ids))
    # One vocabulary for all: they differ in the rest.
    vocab = TOKENIZERS["uncased"]["model"].pop("vocab")
    for t in TOKENIZERS.values():
        t["model"].pop("vocab", None)
    path = Path(__file__).with_name("texts.json")
    with open(path, "w") as f:
        f.write('{"tokenizers_version": "%s",\n"vocab": %s,\n"tokenizers": %s,\n"entries": [\n' % (
            tokenizers.__version__, json.dumps(vocab, separators=(",", ":")), json.dumps(TOKENIZERS, separators=(",", ":"))))
        f.write(",\n".join(json.dumps(e, separators=(",", ":")) for e in entries) + "]}\n")


if __name__ == "__main__":
    main()
