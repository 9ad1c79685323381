#!/usr/bin/python3
"""seeds.py - writes the inputs from which fuzzing begins: seeds.py FOLDER makes FOLDER/HARNESS/seed-NAME.

Small and valid, one of each kind that a parser tells apart; libFuzzer does the rest. Stores come from lib/python, their
segments laid out again in pages of 512 bytes instead of LMDB's 4096: a store of seven kilobytes with branch, leaf and
overflow pages is mutated and walked many times faster than one of thirty. Codec blocks need no seeds: the harness
lets each codec write them.
"""
import gzip
import io
import json
import os
import struct
import sys
import tempfile

import lmdb
import numpy as np
import xxhash
from PIL import Image

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../lib/python"))
import kdstore  # noqa: E402

PAGE, HEAD, NODE, NONE = 512, 16, 8, (1 << 64) - 1


def page(number, flags, nodes):
    """A branch or leaf page of whole nodes."""
    offsets, body = [], b""
    for n in nodes:
        n += bytes(len(n) & 1)
        body = n + body
        offsets.append(PAGE - len(body))
    lower = HEAD + 2 * len(nodes)
    head = struct.pack("<QHHHH", number, 0, flags, lower, PAGE - len(body)) + struct.pack(f"<{len(nodes)}H", *offsets)
    return head + bytes(PAGE - len(head) - len(body)) + body


def groups(nodes):
    """Nodes in pages, as many as go in."""
    out, used = [[]], HEAD
    for key, n in nodes:
        size = 2 + len(n) + (len(n) & 1)
        if used + size > PAGE:
            out.append([])
            used = HEAD
        out[-1].append((key, n))
        used += size
    return out


def small_pages(records):
    """An LMDB file of {key: value} with pages of 512 bytes; page 2 stands in the free list."""
    body, number, leaves, overflow = [], 3, [], 0
    for key, value in records:
        if len(value) > PAGE // 4:
            count = (HEAD - 1 + len(value)) // PAGE + 1
            run = struct.pack("<QHHI", number, 0, 4, count) + value
            body.append(run + bytes(count * PAGE - len(run)))
            data, flags = struct.pack("<Q", number), 1
            number, overflow = number + count, overflow + count
        else:
            data, flags = value, 0
        leaves.append((key, struct.pack("<HHHH", len(value) & 0xffff, len(value) >> 16, flags, 8) + key + data))
    level, kind, depth, counts = leaves, 2, 0, {1: 0, 2: 0}
    while True:
        above = []
        for group in groups(level):
            body.append(page(number, kind, [n for _, n in group]))
            key = group[0][0] if above else b""
            above.append((group[0][0], struct.pack("<HHHH", number & 0xffff, number >> 16, number >> 32, len(key)) + key))
            counts[kind], number = counts[kind] + 1, number + 1
        level, kind, depth = above, 1, depth + 1
        if len(above) == 1:
            break
    root = number - 1
    free = struct.pack("<QQ", 1, 2)
    body.append(page(number, 2, [struct.pack("<HHHHQ", len(free), 0, 0, 8, 1) + free]))
    meta = struct.pack("<IIQQ", 0xBEEFC0DE, 1, 0, 1 << 20)
    meta += struct.pack("<IHHQQQQQ", PAGE, 8, 1, 0, 1, 0, 1, number)
    meta += struct.pack("<IHHQQQQQ", 0, 0, depth, counts[1], counts[2], overflow, len(leaves), root)
    first = [struct.pack("<QHHI", i, 0, 8, 0) + meta + struct.pack("<QQ", number, 2 - i) for i in (0, 1)]
    return b"".join(p + bytes(PAGE - len(p)) for p in first) + bytes(PAGE) + b"".join(body)


def records_of(path):
    env = lmdb.open(path, subdir=False, readonly=True, lock=False)
    with env.begin() as txn:
        out = [(bytes(k), bytes(v)) for k, v in txn.cursor()]
    env.close()
    return out


def make_store(folder, name, more, chunks, rows, ink=None):
    """A store with ids, splits and more columns; values follow from their place. ink: of so many pixels of a line."""
    rng = np.random.default_rng(1)
    columns = [kdstore.Column("id", "id", "u8", (16,)), kdstore.Column("split", "split", "u8")] + more
    path = f"{folder}/{name}.kd"
    with kdstore.create(path, columns, {"source": "seed"}, chunk_rows=rows) as w:
        for i in range(chunks):
            blocks = {"id": rng.integers(0, 256, (rows, 16)).astype("u1")}
            for c in more:
                lengths = np.arange(rows, dtype="u4")
                shape = (int(lengths.sum()),) + c.shape[1:] if c.ragged else (rows,) + c.shape
                values = rng.normal(size=shape).astype("f4") if "f" in c.dtype else rng.integers(0, 9, shape)
                values[..., values.shape[-1] if ink is None else ink:] = 0
                blocks[c.name] = (values, lengths) if c.ragged else values
            w.append(blocks, ["train", "valid", "test"][min(i, 2)])
    return path


def write(folder, harness, name, data):
    os.makedirs(f"{folder}/{harness}", exist_ok=True)
    with open(f"{folder}/{harness}/seed-{name}", "wb") as f:
        f.write(data)


def resized(text, before, after):
    """manifest.json of a segment that has other bytes now; spaces keep its length."""
    text = text.replace(b'"bytes": %d' % before, b'"bytes": %-*d' % (len(str(before)), after))
    at = text.rfind(b'"checksum": "') + 13
    text = text[:at] + b"0" * 32 + text[at + 32:]
    return text[:at] + xxhash.xxh3_128(text).hexdigest().encode() + text[at + 32:]


def store_seeds(out, scratch):
    C = kdstore.Column
    params = {"mean": 1.5, "scale": 2, "class_names": ["a", "b"]}
    stores = [
        make_store(scratch, "plain", [C("label", "label", "u16")], 3, 3),
        make_store(scratch, "many", [C("t/logits", "logits", "f32", (5,), params=params)], 7, 4),
        make_store(scratch, "ragged", [C("tokens", "input", "i32", (-1,)), C("f", "feature", "bf16", (-1, 3))], 3, 5),
        make_store(scratch, "coded", [C("t/logits", "logits", shape=(9,), encoding="int8", teacher="t"),
                                      C("f", "feature", shape=(2, 6), encoding="int8-channel", tap="x")], 2, 6),
        make_store(scratch, "large", [C("image", "input", "u8", (30, 30))], 2, 2),
        make_store(scratch, "drawn", [C("image", "input", "u8", (9, 7))], 2, 2, ink=3)]
    for path in stores:
        name = os.path.basename(path)[:-3]
        records = records_of(path + "/base.mdb")
        segment = small_pages(records)
        with open(path + "/manifest.json", "rb") as f:
            text = f.read()
        write(out, "manifest", name, text)
        write(out, "verify", name, resized(text, os.path.getsize(path + "/base.mdb"), len(segment)) + b"\0" + segment)
        for i, (_, value) in enumerate(records[:6]):
            write(out, "record", f"{name}-{i}", value)


def array_seeds(out):
    arrays = {"u1": np.arange(6, dtype="u1").reshape(2, 3), "f4": np.ones((3, 2, 2), "f4"), "i8": np.arange(3),
              "f2": np.ones((2, 1), "f2"), "big": np.arange(4, dtype=">i4"), "empty": np.zeros((0, 4), "f8")}
    for name, a in arrays.items():
        b = io.BytesIO()
        np.save(b, a)
        write(out, "npy", name, b.getvalue())
        if name == "f4":
            write(out, "npy", "gz", gzip.compress(b.getvalue(), mtime=0))
    codes = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    for name, code in codes.items():
        data = struct.pack(">BBBBII", 0, 0, code, 2, 2, 3) + np.arange(6).astype(">" + name).tobytes()
        write(out, "idx", name, data)
        if name == "u1":
            write(out, "idx", "gz", gzip.compress(data, mtime=0))
    for name, tensors in {"two": {"a.weight": ("F32", [2, 2], 16), "b": ("I64", [1], 8)}, "half": {"x": ("BF16", [3], 6)},
                          "scalar": {"s": ("U8", [], 1)}, "none": {}}.items():
        head, at = {"__metadata__": {"format": "pt"}}, 0
        for key, (dtype, shape, size) in tensors.items():
            head[key] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(head).encode()
        text += b" " * (-len(text) % 8)
        write(out, "safetensors", name, struct.pack("<Q", len(text)) + text + bytes(range(at)))
    for name, (ctx, vocab, chunks) in {"even": (4, 6, 2), "odd": (6, 3, 1)}.items():
        q = (vocab + vocab % 2) * b"\x10\x20"
        n = ctx - 1 - ctx // 2
        write(out, "kld", name, b"_logits_" + struct.pack("<iii", ctx, vocab, chunks) +
              struct.pack(f"<{ctx * chunks}i", *(i % vocab for i in range(ctx * chunks))) +
              (struct.pack("<ff", 1e-4, -7) + q) * (n * chunks))


def gguf_seeds(out):
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    def key(name, kind, value):
        return text(name) + struct.pack("<I", kind) + value

    def tensor(name, dims, kind, at):
        return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, at)

    def file(keys, tensors, data, align=32):
        head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
        return head + bytes(-len(head) % align) + data
    write(out, "gguf", "none", file([], [], b""))
    write(out, "gguf", "values", file([
        key("general.architecture", 8, text("llama")), key("a", 6, struct.pack("<f", .5)), key("b", 7, b"\1"),
        key("c", 9, struct.pack("<IQ", 8, 2) + text("x") + text("yz")), key("d", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)),
        key("general.alignment", 4, struct.pack("<I", 8))], [tensor("t", [2], 0, 0)], bytes(range(8)), 8))
    kinds = {0: (2, 8), 1: (3, 6), 2: (32, 18), 3: (32, 20), 8: (32, 34), 12: (256, 144), 14: (256, 210), 30: (5, 10)}
    for kind, (n, size) in kinds.items():
        whole = size + -size % 32
        write(out, "gguf", f"type-{kind}", file([], [tensor("a", [n], kind, 0), tensor("b", [n, 1], kind, whole)],
                                                (bytes(i % 251 for i in range(size)) + bytes(whole - size)) * 2))


def bpe_seeds(out):
    tokens = ["a", "b", "ab", "<x>"]
    spec = {"added_tokens": [{"id": 3, "content": "<x>", "special": True}],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                                                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]},
            "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {
                "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<x>": {"ids": [3]}}}]},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "unk_token": "<x>", "fuse_unk": True, "ignore_merges": True, "vocab": {t: i for i, t in enumerate(tokens)},
                      "merges": [["a", "b"]]}}
    write(out, "bpe", "json", b"\1" + json.dumps(spec).encode() + b"\0ab a<x>  ab")
    spec["model"].update(merges=["a b"], ignore_merges=False, unk_token=None)
    spec["pre_tokenizer"] = spec["pre_tokenizer"]["pretokenizers"][1]
    write(out, "bpe", "json-merges", b"\1" + json.dumps(spec).encode() + b"\0ab a<x>  ab")
    llama3 = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}%s"
              "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
    bare = {"added_tokens": [{"id": 9, "content": "<|endoftext|>", "special": True}, {"id": 12, "content": "ab", "lstrip": True, "rstrip": True}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {"a": 1, "b": 4, "\u0120": 5, "\u0120a": 8}, "merges": ["\u0120 a"]}}
    write(out, "bpe", "json-holes", b"\1" + json.dumps(bare).encode() + b"\0 a ab b<|endoftext|>")
    for name, digits in ("llama3", "{1,3}"), ("qwen2", ""):
        bare["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": llama3 % digits}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}
        bare["model"]["ignore_merges"] = name == "llama3"
        write(out, "bpe", f"json-{name}", b"\1" + json.dumps(bare).encode() + b"\0a 1234ab\r\n'LL")
    bare["model"].update(ignore_merges=False, vocab={c: i for i, c in enumerate(["a", "b", *(f"a{'b' * i}" for i in range(1, 9))])},
                         merges=["a b", "ab b"])
    write(out, "bpe", "json-cut", b"\1" + json.dumps(bare).encode() + b"\0abbb")

    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    def key(name, kind, value):
        return text(name) + struct.pack("<I", kind) + value

    def texts(list_):
        return struct.pack("<IQ", 8, len(list_)) + b"".join(map(text, list_))
    def gguf(pre, tokens, merges, template):
        keys = [key("tokenizer.ggml.model", 8, text("gpt2")), key("tokenizer.ggml.pre", 8, text(pre)), key("tokenizer.ggml.tokens", 9, texts(tokens)),
                key("tokenizer.ggml.token_type", 9, struct.pack(f"<IQ{len(tokens)}i", 5, len(tokens), *[1] * (len(tokens) - 1), 3)),
                key("tokenizer.ggml.merges", 9, texts(merges)), key("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 3)),
                key("tokenizer.ggml.add_bos_token", 7, b"\1"), key("tokenizer.chat_template", 8, text(template))]
        return b"\0GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(keys)
    write(out, "bpe", "gguf", gguf("llama-bpe", tokens, ["a b"], "<|im_start|>"))
    write(out, "bpe", "gguf-smollm", gguf("smollm", tokens, ["a b"], ""))
    write(out, "bpe", "gguf-cut", gguf("qwen2", ["a", "b", "ab", "abb", "<x>"], ["a b"], "[INST]"))
    said = b"\0 ab <|im_end|>\n<|im_start|>system<|eot_id|><|start_header_id|>b "
    for name, template in {"chatml": "{{ '<|im_start|>system\\nb ab.<|im_end|>\\n' + '<|im_start|>' + message['role'] }}", "chatml-bare": "<|im_start|> <|im_end|>",
                           "llama3": "'<|start_header_id|>' + message['content'] | trim + '<|eot_id|>'", "none": "", "llama2": "[INST] <|im_start|>",
                           "unknown": "{{ messages }}"}.items():
        write(out, "bpe", f"chat-{name}", b"\2" + template.encode() + said)
    for i, line in enumerate(["It's 123 IT'LL \u017f 1\u0661 a\u00a0b", "<|im_start|>user\r\n\n  abc <|im_end|>", "\u4e2d\U0001f600 a b\t...\n!"]):
        write(out, "bpe", f"text-{i}", bytes([3 + i]) + line.encode())
    write(out, "bpe", "text-broken", b"\4a\xffb\xf0\x9f\x98 \xed\xa0\x80\xc3<|im_end|>\xc0")


def image_seeds(out):
    grey = Image.fromarray((np.arange(11 * 13) % 251).astype("u1").reshape(11, 13))
    colour, alpha = grey.convert("RGB"), grey.convert("RGBA")
    alpha.putalpha(100)
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, im, kind, more in [
            ("grey", grey, "png", {}), ("colour", colour, "png", {}), ("alpha", alpha, "png", {}), ("la", alpha.convert("LA"), "png", {}),
            ("palette", colour.convert("P"), "png", {"transparency": 3}), ("bits", grey.convert("1"), "png", {}),
            ("deep", Image.fromarray(np.arange(143, dtype="u2").reshape(11, 13) * 455), "png", {}),
            ("jpeg-grey", grey, "jpeg", {}), ("jpeg-colour", colour, "jpeg", {"subsampling": 2}),
            ("jpeg-progressive", colour, "jpeg", {"progressive": True, "restart_marker_blocks": 1}),
            ("jpeg-turned", colour, "jpeg", {"exif": turned}), ("jpeg-cmyk", colour.convert("CMYK"), "jpeg", {})]:
        b = io.BytesIO()
        im.save(b, kind, **more)
        write(out, "image", name, b.getvalue())


TEXTS = {
    "csv": {
        "plain": b"\0a,b,c\n1,2,3\n4.5,-6e2,7\n", "quoted": b"\1id,label\r\n\"0 1\",3\r\n\"x\"\"y\",4\r\n",
        "range": b"\2a,b,c,d\n1,2,3,x\n", "bare": b"\0" + b"1,2\n3,4", "ids": b"\3id\n" + b"0123456789abcdef" * 2 + b"\n"},
    "rowlist": {  # ids of fuzz_rowlist.c's four images; one of them is that of row 0
        **{f"row-{i}": b"\x01# by hand\n\n0 " + xxhash.xxh3_128_hexdigest(b"image u8 2,2\n" + bytes(range(4 * i, 4 * i + 4))).encode() +
           b" label 1, the teacher says 2\n3 x" for i in range(4)},
        "other": b"\0kd-rows 1 " + b"0123456789abcdef" * 2 + b"\n1 " + b"0" * 32 + b"\n"},
    "tokenizer": {
        "words": "abba \u00c9t ab aba [S] \u0391b [S]\u4e00b".encode(), "broken": b"a\xffb\xf0\x9f\x98 \xed\xa0\x80\xc3",
        "marks": "a\u0301\u0323b \u302e\U0001d165\U0001d15e\u0001\u302fb \u1112\u1161 \ud55c \ufb01".encode(),
        "vocab": b"\1[UNK]\n[CLS]\n[SEP]\na\n##b\n\xc3\xa9\n\0abb \xc3\xa9 a[SEP]x",
        "json": b"\2" + json.dumps({
            "truncation": {"max_length": 4, "strategy": "LongestFirst", "direction": "Left"},
            "added_tokens": [{"id": 3, "content": "<x>", "rstrip": True}],
            "normalizer": {"type": "BertNormalizer", "lowercase": False}, "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "c", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                               "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                               "special_tokens": {"c": {"ids": [1, 2]}}},
            "model": {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
                      "vocab": {"?": 0, "a": 1, "##b": 2}}}).encode() + b"\0ab a<x>  abb"},
    "yaml": {
        "student": b"name: s\ntrain:\n  epochs: 3\n  lr: 1e-3\n  nesterov: on\n  schedule: linear\nloss: {layers: [1, 2], temperature: [1, 4.5]}\n",
        "data": b"data:\n  train_input: [x.gz, \"y z.npy\"]\n  train_label: ~\n  shape: [28, 28, 1]\n  classes: 10\n  class_names:\n    - a\n    - 'b'\n",
        "views": b"views: {count: 4, seed: 7}\nteachers:\n- one\n- |\n  two\n# end\n", "nothing": b"---\n...\n",
        "refused": b"a: &x 1\nb: *x\nc: !!int 3\n---\nd: 2\n"},
    "jsonl": {
        "dense": b'{"id": "000102030405060708090a0b0c0d0e0f", "logits": [0.1, -2, 3e0]}\n{"row": 4, "logits": [[1, 2], [3, 4]]}\n',
        "top": b'{"source": 7, "top_logprobs": [{"id": 5, "logprob": -0.1}, {"token_id": 2, "logprob": -3}]}',
        "vllm": b'{"row": 1, "choices": [{"prompt_logprobs": [null, {"5": {"logprob": -0.1, "rank": 1}, "7": {"logprob": -3}}]}]}',
        "sglang": b'{"row": 0, "meta_info": {"input_top_logprobs": [null, [[-0.1, 5, null], [-2.5, 9, "x"]]]}}',
        "openai": b'{"row": 0, "logprobs": {"content": [{"top_logprobs": [{"token": "token_id:5", "logprob": -0.1}]}]}}',
        "completions": b'{"row": 2, "logprobs": {"top_logprobs": [{"token_id:5": -0.1, "token_id:6": -2}]}}',
        "tails": b'{"row": 0, "t/logits": [{"id": 1, "logprob": -1}], "t/logits.tail": 0.5, "t/logits.logz": 1.5}',
        "features": b'{"row": 0, "features.block3": [1, 2, 3], "score": 4}\n{"row": 1, "score": 0.5}'}}


def main(out):
    with tempfile.TemporaryDirectory() as scratch:
        store_seeds(out, scratch)
    array_seeds(out)
    gguf_seeds(out)
    bpe_seeds(out)
    image_seeds(out)
    for harness, texts in TEXTS.items():
        for name, data in texts.items():
            write(out, harness, name, data)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: seeds.py FOLDER")
    main(sys.argv[1])
