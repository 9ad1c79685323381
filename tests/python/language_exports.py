"""What kd-export made of the language models of tiny_llama.py.

    python3 language_exports.py gguf FILE.gguf WEIGHTS [untied]      keys, vocabulary and numbers, by an own reader
    python3 language_exports.py onnx FILE.onnx TOLERANCE [untied]    by ONNX Runtime, padded on either side, beside numpy
    python3 language_exports.py transformers FOLDER TOLERANCE [untied]    the folder opened there, beside numpy
    python3 language_exports.py llama.cpp FILE.gguf ...              what it writes greedily, beside kd-run complete
"""
import json
import sys

import numpy as np

import tiny_llama
from gguf_file import read_gguf
from tap import finish, test, tool

what, *rest = sys.argv[1:]
tied = "untied" not in rest
rng = np.random.default_rng(3)
SEQUENCES = [rng.integers(0, tiny_llama.VOCAB, n) for n in (7, 1, 48, 20)]


def check_gguf():
    path, weights = rest[:2]
    keys, tensors = read_gguf(path)
    expected = tiny_llama.weights(tied)
    d = tiny_llama.WIDTH // tiny_llama.HEADS
    kinds = {"f32": (0, 0), "f16": (1, 1), "int8": (8, 8), "int4": (2, 8)}[weights]
    near = {0: 0, 1: 5e-4, 8: 5e-3, 2: 0.13}

    @test
    def the_keys_of_a_llama_are_there():
        want = {"general.architecture": "llama", "llama.context_length": tiny_llama.PLACES, "llama.embedding_length": tiny_llama.WIDTH,
                "llama.feed_forward_length": tiny_llama.FFN, "llama.block_count": tiny_llama.LAYERS, "llama.vocab_size": tiny_llama.VOCAB,
                "llama.attention.head_count": tiny_llama.HEADS, "llama.attention.head_count_kv": tiny_llama.KV,
                "llama.rope.dimension_count": d, "llama.rope.freq_base": tiny_llama.BASE, "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.add_bos_token": False,
                "tokenizer.chat_template": tiny_llama.GOLDEN["chat_templates"]["chatml"],
                "general.file_type": {"f32": 0, "f16": 1, "int8": 7, "int4": 2}[weights]}
        assert {k: keys.get(k) for k in want} == want, {k: keys.get(k) for k in want}
        assert abs(keys["llama.attention.layer_norm_rms_epsilon"] - tiny_llama.EPS) < 1e-12

    @test
    def the_vocabulary_and_its_merges_are_there():
        tokens, kind = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
        assert {t: i for i, t in enumerate(tokens)} == tiny_llama.GOLDEN["vocab"]
        added = {t["content"]: t["special"] for t in tiny_llama.GOLDEN["specs"]["smollm"]["added_tokens"]}
        assert [(3 if added[t] else 4) if t in added else 1 for t in tokens] == kind
        merges = [m if isinstance(m, str) else " ".join(m) for m in tiny_llama.GOLDEN["merges"]]
        assert keys["tokenizer.ggml.merges"] == merges
        assert tokens[keys["tokenizer.ggml.eos_token_id"]] == "<|im_end|>" and tokens[keys["tokenizer.ggml.bos_token_id"]] == "<|im_start|>"

    @test
    def every_tensor_is_there_once_and_near():
        names = {"embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
                 "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
                 "post_attention_layernorm": "ffn_norm", "up_proj": "ffn_up", "down_proj": "ffn_down"}
        assert len(tensors) == len(expected)
        for name, w in expected.items():
            theirs = next(v for k, v in names.items() if k in name) + ".weight"
            if ".layers." in name:
                theirs = f"blk.{name.split('.')[2]}.{theirs}"
            if "q_proj" in name or "k_proj" in name:  # halves of a head to pairs
                w = w.reshape(-1, 2, d // 2, w.shape[1]).transpose(0, 2, 1, 3).reshape(w.shape)
            kind, numbers = tensors[theirs]
            assert kind == (0 if w.ndim == 1 else kinds[1] if w.shape[0] == tiny_llama.VOCAB else kinds[0]), f"{theirs}: type {kind}"
            off = np.abs(numbers - w).max() / np.abs(w).max()
            assert off <= near[kind], f"{theirs}: {off}"


def padded(left):
    longest = max(map(len, SEQUENCES))
    ids, mask = np.full((len(SEQUENCES), longest), 9, "i8"), np.zeros((len(SEQUENCES), longest), "i8")
    for i, s in enumerate(SEQUENCES):
        at = slice(longest - len(s), longest) if left else slice(0, len(s))
        ids[i, at], mask[i, at] = s, 1
    return ids, mask


def farthest(run):
    """run(ids, mask): logits; the largest difference from numpy's, wherever the padding is."""
    off = 0.0
    for left in False, True:
        ids, mask = padded(left)
        out = run(ids, mask)
        for i, s in enumerate(SEQUENCES):
            off = max(off, np.abs(out[i][mask[i] == 1] - tiny_llama.logits(s, tied)).max())
    return off


def check_onnx():
    import onnx
    import onnxruntime

    path, tolerance = rest[0], float(rest[1])

    @test
    def onnx_agrees_with_numpy_whatever_is_padding():
        onnx.checker.check_model(onnx.load(path), full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        off = farthest(lambda ids, mask: session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0])
        print(f"# {path}: logits off by {off:.2g}")
        assert off < tolerance


def check_transformers():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, tolerance = rest[0], float(rest[1])

    @test
    def transformers_opens_the_folder_and_says_the_same():
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
        assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        stored = model.dtype
        model = model.eval().float()
        with torch.no_grad():
            def run(ids, mask):
                places = np.maximum(mask.cumsum(1) - 1, 0)
                return model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), position_ids=torch.from_numpy(places)).logits.numpy()
            off = farthest(run)
        print(f"# {folder}: logits off by {off:.2g}, weights {stored}")
        assert off < tolerance
        assert model.generation_config.eos_token_id == tiny_llama.GOLDEN["vocab"]["<|im_end|>"]

    @test
    def its_tokenizer_writes_chats():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        text = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True)
        assert text.endswith("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"), text
        assert tokenizer.eos_token == "<|im_end|>"


def check_llama():
    import xllamacpp

    prompts = [f"{a} {b}" for a in ("A teacher", "students learn", "def f(x):", "12 + 30 =") for b in ("and", "the", "in 1999", "!", "é")]
    for path in rest:
        @test
        def llama_cpp_writes_the_same_greedily():
            p = xllamacpp.CommonParams()
            p.model.path, p.warmup, p.verbosity, p.n_parallel, p.n_ctx = path, False, 0, 1, 256
            p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1  # others wait in a spin
            server = xllamacpp.Server(p)
            same, nearest = 0, 0.0
            for prompt in prompts:
                asked = {"prompt": prompt, "n_predict": 64, "temperature": 0, "cache_prompt": False, "logprobs": 2}
                theirs = server.handle_completions(asked)["choices"][0]["logprobs"]["content"]
                ours = json.loads(tool("kd-run", "complete", "-q", "--json", "--temperature", 0, "-n", 64, path, prompt))["tokens"]
                assert len(ours) == len(theirs) == 64
                other = next((t for t, o in zip(theirs, ours) if t["id"] != o), None)
                same += other is None
                if other:  # it keeps keys and values as f16: of two tokens that are as likely the other one may come
                    nearest = max(nearest, other["top_logprobs"][0]["logprob"] - other["top_logprobs"][1]["logprob"])
            print(f"# {path}: {same} of {len(prompts)} texts are the same for 64 tokens, the others part at a difference of {nearest:.2g}")
            assert same >= 0.7 * len(prompts) and nearest < 0.02


{"gguf": check_gguf, "onnx": check_onnx, "transformers": check_transformers, "llama.cpp": check_llama}[what]()
finish()
