"""What kd-export made of the encoders of tiny_bert.py.

    python3 text_exports.py gguf FOLDER FILE.gguf WEIGHTS         keys, vocabulary and numbers, by an own reader
    python3 text_exports.py onnx FILE.onnx POOLING DENSE NARROW TOLERANCE    by ONNX Runtime, padded, beside numpy
    python3 text_exports.py peers FOLDER EXPORTED FILE.onnx FILE.gguf        the same texts in sentence-transformers (of the
                                                      folder and of what was exported of it), ONNX Runtime and llama.cpp
"""
import sys

import numpy as np

import tiny_bert
from gguf_file import read_gguf
from tap import finish, test

what, *rest = sys.argv[1:]
TEXTS = ["the cat sat on the mat.", "Über cats, naive dogs!", "a", "running 12 cats on mats " * 3]


def check_gguf():
    folder, path, weights = rest
    keys, tensors = read_gguf(path)
    expected, _ = tiny_bert.weights(0, 0)

    @test
    def the_keys_of_a_bert_are_there():
        want = {"general.architecture": "bert", "bert.context_length": tiny_bert.PLACES, "bert.embedding_length": tiny_bert.WIDTH,
                "bert.feed_forward_length": tiny_bert.FFN, "bert.block_count": tiny_bert.LAYERS,
                "bert.attention.head_count": tiny_bert.HEADS, "bert.attention.causal": False, "bert.pooling_type": 1,
                "tokenizer.ggml.model": "bert", "tokenizer.ggml.token_type_count": 2, "tokenizer.ggml.cls_token_id": 2,
                "tokenizer.ggml.seperator_token_id": 3, "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.mask_token_id": 4,
                "tokenizer.ggml.unknown_token_id": 1, "tokenizer.ggml.normalizer.lowercase": True,
                "general.file_type": {"f32": 0, "f16": 1, "int8": 7}[weights]}
        assert {k: keys.get(k) for k in want} == want, {k: keys.get(k) for k in want}
        assert abs(keys["bert.attention.layer_norm_epsilon"] - 1e-6) < 1e-12

    @test
    def the_vocabulary_has_llamas_spelling():
        tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
        assert len(tokens) == len(kinds) == len(tiny_bert.WORDS)
        assert tokens[2] == "[CLS]" and tokens[tiny_bert.WORDS.index("##ing")] == "ing", tokens
        assert tokens[tiny_bert.WORDS.index("cat")] == "\u2581cat", tokens
        assert kinds[:5] == [3] * 5 and set(kinds[5:]) == {1}, kinds

    @test
    def every_tensor_is_there_once_and_near():
        assert len(tensors) == len(expected)
        names = {"token_embd.weight": "embeddings.word_embeddings.weight", "token_embd_norm.bias": "embeddings.LayerNorm.bias",
                 "position_embd.weight": "embeddings.position_embeddings.weight",
                 "blk.1.attn_q.weight": "encoder.layer.1.attention.self.query.weight",
                 "blk.0.attn_output_norm.weight": "encoder.layer.0.attention.output.LayerNorm.weight",
                 "blk.1.ffn_down.weight": "encoder.layer.1.output.dense.weight",
                 "blk.1.layer_output_norm.bias": "encoder.layer.1.output.LayerNorm.bias"}
        for name, theirs in names.items():
            kind, numbers = tensors[name]
            small = name.endswith("bias") or "norm" in name or name.startswith("position")
            assert kind == (0 if small else {"f32": 0, "f16": 1, "int8": 8}[weights]), f"{name}: type {kind}"
            off = np.abs(numbers - expected[theirs]).max() / np.abs(expected[theirs]).max()
            assert off <= (0 if kind == 0 else 5e-4 if kind == 1 else 5e-3), f"{name}: {off}"


def check_onnx():
    import onnx
    import onnxruntime

    path, pooling, dense, narrow, tolerance = rest[0], rest[1], int(rest[2]), int(rest[3]), float(rest[4])
    rng = np.random.default_rng(3)
    sequences = [rng.integers(5, len(tiny_bert.WORDS), n) for n in (7, 1, 48, 20)]
    hidden, embeddings = tiny_bert.answers(sequences, pooling, dense, narrow)
    ids = np.zeros((len(sequences), 48), "i8")
    mask = np.zeros_like(ids)
    for i, s in enumerate(sequences):
        ids[i, : len(s)], mask[i, : len(s)] = s, 1

    @test
    def onnx_agrees_with_numpy_whatever_is_padding():
        onnx.checker.check_model(onnx.load(path), full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feed = {"input_ids": ids + (1 - mask) * 7, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states, out = session.run(["last_hidden_state", "sentence_embedding"], feed)
        off = max(np.abs(states[i, : len(s)] - hidden[i]).max() for i, s in enumerate(sequences))
        print(f"# {path}: hidden states off by {off:.2g}, embeddings by {np.abs(out - embeddings).max():.2g}")
        assert off < 20 * tolerance and np.abs(out - embeddings).max() < tolerance


def check_peers():
    import onnxruntime
    from sentence_transformers import SentenceTransformer
    import xllamacpp

    folder, exported, onnx_path, gguf_path = rest
    original, copy = (SentenceTransformer(p, device="cpu") for p in (folder, exported))
    want = original.encode(TEXTS)

    def cosine(theirs):
        theirs = np.asarray(theirs, "f8")
        return (theirs * want).sum(1).min() / np.linalg.norm(theirs, axis=1).max()

    @test
    def sentence_transformers_opens_the_folder_and_says_the_same():
        assert cosine(copy.encode(TEXTS)) >= 1 - 1e-6, cosine(copy.encode(TEXTS))
        assert copy.max_seq_length == original.max_seq_length

    @test
    def onnx_runtime_says_the_same_of_tokenized_texts():
        feed = original.tokenizer(TEXTS, padding=True, return_tensors="np")
        session = onnxruntime.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])
        out = session.run(["sentence_embedding"], {k: v.astype("i8") for k, v in feed.items()})[0]
        assert np.abs(out - want).max() < 1e-4

    @test
    def llama_cpp_says_the_same_of_texts():
        p = xllamacpp.CommonParams()
        p.model.path, p.embedding, p.warmup = gguf_path, True, False
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1  # others wait in a spin
        server = xllamacpp.Server(p)
        out = [server.handle_embeddings({"input": t, "model": "m"})["data"][0]["embedding"] for t in TEXTS]
        print(f"# cosine {cosine(out):.8f}")
        assert cosine(out) >= 1 - 1e-4


{"gguf": check_gguf, "onnx": check_onnx, "peers": check_peers}[what]()
finish()
