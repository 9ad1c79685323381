#!/usr/bin/env python3
"""make_bpe.py - writes bpe.json: a small byte-level BPE, hard texts, and the ids that PyPI's tokenizers gives them; bpe.gguf: the same
tokenizer as PyPI's gguf writes it; chats as Jinja renders the templates of SmolLM2 and Llama 3.

    build/peers/text-venv/bin/python tests/golden/make_bpe.py        # after bench/peers/setup.sh build/peers/text-venv requirements-text

Entries: a text, or {"hex": ...} where it is not UTF-8 (then the ids are those of Python's errors="replace"); by tokenizer the ids, and
the text that they decode to with special tokens. `literal`: special tokens of the text are text. `unknown`: the vocabulary lacks the
bytes 0x7A (z) and 0xF0.
"""
import json
import random
from pathlib import Path

import gguf
import jinja2
import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
USER = ["<note>"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
CORPUS = """A teacher is run once, and what it said is kept; students learn from the store. It's not what they'll forget, is it?
Die Schüler lernen, was die Lehrerin über die Klassen weiß. L'élève apprend; Ελληνικά και русский язык. 中文字 日本語
for (int i = 0; i < 10; i++) {\n    sum += x[i] * 3.14159;\n}\n\n\t\treturn 2024;  \n""".splitlines(keepends=True)
CHATML = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful "
          "AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
          "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
LLAMA3_CHAT = ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + "
               "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + "
               "content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>"
               "\n\n' }}{% endif %}")


def model():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(vocab_size=700, special_tokens=CONTROL + USER, show_progress=False, min_frequency=2,
                                                          initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    m = json.loads(t.to_str())["model"]
    return m["vocab"], m["merges"]


def level(own=True):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": own}


def spec(vocab, merges, pre, post=None, **more):
    pres = {"gpt2": level(), "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level()]},
            "llama3": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated",
                                                              "invert": False}, level(False)]}}
    added = [{"id": vocab[t], "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": t in CONTROL} for t in CONTROL + USER]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": pres[pre],
            "post_processor": post or level(), "decoder": level(),
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges, **more}}


def texts():
    rng = random.Random(7)
    out = ["", " ", "  ", "a", "It's, IT'S, it'LL we'Ve I'm '\u017f ''s 'x", "1 12 123 1234 \u0661\u0662\u0663\u0664 \u2167", "a  b   c\t\td \n\n e\r\n\r\nf \n",
           "<|im_start|>user\nhello<|im_end|>", "<|im_start", "<|endoftext|><|endoftext|> <note>note</note>", "zebra jazz pizza zz", "\U0001f600\U0001f680z",
           "\u00e9t\u00e9 e\u0301 \u4e2d\u6587\u5b57\u65e5\u672c", "\u00a0x\u2003y\u3000z\u200b", "....!!!\n\n...", "hello" * 30, "a" * 100, "ab" * 60, "\u0e01\u0e33\U0002ebf0\U00011bc0\U0001e5f1"]
    words = " ".join(CORPUS).split(" ") + CONTROL + ["\n", "  ", "'s", "\u00e9", "\U0001f44d\U0001f3fd", "7", "42", "2024"]
    out += ["".join(rng.choice(words) + rng.choice(["", " ", " ", "\n"]) for _ in range(rng.randrange(1, 9))) for _ in range(60)]
    bad = [b"a\xffb", b"\xe4\xb8", b"\xf0\x9f\x98 x \xed\xa0\x80", b"\xc3\x28 \xf4\x90\x80\x80"]
    return [{"text": t} for t in out] + [{"hex": b.hex()} for b in bad]


def write_gguf(vocab, merges):
    w = gguf.GGUFWriter(HERE / "bpe.gguf", "llama")
    tokens = sorted(vocab, key=vocab.get)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([3 if t in CONTROL else 4 if t in USER else 1 for t in tokens])
    w.add_token_merges([" ".join(m) for m in merges])
    w.add_bos_token_id(vocab["<|im_start|>"])
    w.add_eos_token_id(vocab["<|im_end|>"])
    w.add_add_bos_token(False)
    w.add_chat_template(CHATML)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def chats(t, vocab):
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    conversations = [[["user", "hello"]], [["system", "Be brief."], ["user", " What is it? \n"], ["assistant", "A store."], ["user", "1 + 1?"]],
                     [["user", "it's\n\n2024"], ["assistant", "L'\u00e9l\u00e8ve  "], ["user", ""], ["assistant", "is it?"]]]
    out = []
    for name, template in ("chatml", CHATML), ("llama3", LLAMA3_CHAT):
        for messages in conversations:
            for answer in False, True:
                text = env.from_string(template).render(messages=[{"role": r, "content": c} for r, c in messages], add_generation_prompt=answer,
                                                        bos_token="<|begin_of_text|>")
                out.append({"template": name, "messages": messages, "answer": answer, "ids": t.encode(text, add_special_tokens=False).ids})
    return out


def main():
    vocab, merges = model()
    short = {t: i for t, i in vocab.items() if "z" not in t and "\u00f0" not in t}
    short_merges = [m for m in merges if all(t in short for t in (m[0], m[1], "".join(m)))]
    bos = vocab["<|begin_of_text|>"]
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                         {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [bos], "tokens": ["<|begin_of_text|>"]}}}
    specs = {"gpt2": spec(vocab, merges, "gpt2"), "smollm": spec(vocab, merges, "smollm"), "literal": spec(vocab, merges, "smollm"),
             "llama3": spec(vocab, [" ".join(m) for m in merges], "llama3", {"type": "Sequence", "processors": [level(), template]}, ignore_merges=True),
             "unknown": spec(short, short_merges, "smollm", unk_token="<|endoftext|>"),
             "fused": spec(short, short_merges, "smollm", unk_token="<|endoftext|>", fuse_unk=True),
             "dropped": spec(short, short_merges, "smollm")}
    entries = texts()
    for name, s in specs.items():
        t = Tokenizer.from_str(json.dumps(s))
        t.encode_special_tokens = name == "literal"
        for e in entries:
            text = e["text"] if "text" in e else bytes.fromhex(e["hex"]).decode(errors="replace")
            ids = t.encode(text).ids
            e[name] = [ids, t.decode(ids, skip_special_tokens=False)]
    write_gguf(vocab, merges)
    used = {k: {key: v for key, v in s.items() if key != "model"} | {"model": {key: v for key, v in s["model"].items() if key not in ("vocab", "merges")}}
            for k, s in specs.items()}
    with open(HERE / "bpe.json", "w") as f:
        f.write('{"tokenizers": "%s",\n"chat_templates": %s,\n' % (tokenizers.__version__, json.dumps({"chatml": CHATML, "llama3": LLAMA3_CHAT})))
        f.write('"vocab": %s,\n"merges": %s,\n"short_vocab": %s,\n"short_merges": %s,\n' % tuple(map(json.dumps, (vocab, merges, short, short_merges))))
        f.write('"specs": %s,\n"chats": [\n%s\n],\n' % (json.dumps(used), ",\n".join(map(json.dumps, chats(Tokenizer.from_str(json.dumps(specs["smollm"])), vocab)))))
        f.write('"entries": [\n%s\n]}\n' % ",\n".join(map(json.dumps, entries)))


if __name__ == "__main__":
    main()
