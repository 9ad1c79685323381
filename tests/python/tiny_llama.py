"""A small language model of Llama's kind with random weights, as Hugging Face lays it out, with a byte-level BPE tokenizer; and what
it says, in numpy. python3 tiny_llama.py FOLDER [untied]
"""
import json
import pathlib
import sys

import numpy as np

import tiny_bert

WIDTH, LAYERS, HEADS, KV, FFN, PLACES, BASE, EPS = 64, 2, 4, 2, 96, 256, 10000.0, 1e-5
GOLDEN = json.load(open(pathlib.Path(__file__).resolve().parents[1] / "golden" / "bpe.json"))
VOCAB = len(GOLDEN["vocab"])


def weights(tied):
    rng = np.random.default_rng(8)
    w = {"model.embed_tokens.weight": rng.normal(0, 0.3, (VOCAB, WIDTH)), "model.norm.weight": rng.normal(1, 0.1, WIDTH)}
    if not tied:
        w["lm_head.weight"] = rng.normal(0, 0.3, (VOCAB, WIDTH))
    # Parts of characters and control tokens are never the likeliest: llama.cpp does not tell the former, and has more of the
    # latter that end a text.
    for token, i in GOLDEN["vocab"].items():
        if not token.replace("\u0120", "").isascii() or token.startswith("<|"):
            w["model.embed_tokens.weight" if tied else "lm_head.weight"][i] = 0
    narrow = WIDTH // HEADS * KV
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for name in "input_layernorm", "post_attention_layernorm":
            w[f"{at}{name}.weight"] = rng.normal(1, 0.1, WIDTH)
        for name, rows, columns in (("self_attn.q_proj", WIDTH, WIDTH), ("self_attn.k_proj", narrow, WIDTH), ("self_attn.v_proj", narrow, WIDTH),
                                    ("self_attn.o_proj", WIDTH, WIDTH), ("mlp.gate_proj", FFN, WIDTH), ("mlp.up_proj", FFN, WIDTH),
                                    ("mlp.down_proj", WIDTH, FFN)):
            w[f"{at}{name}.weight"] = rng.normal(0, 0.2, (rows, columns))
    return {k: v.astype("f4") for k, v in w.items()}


def make(folder, tied):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    spec = GOLDEN["specs"]["smollm"]
    spec["model"].update(vocab=GOLDEN["vocab"], merges=GOLDEN["merges"])
    files = {"tokenizer.json": spec,
             "tokenizer_config.json": dict(tokenizer_class="PreTrainedTokenizerFast", eos_token="<|im_end|>", bos_token="<|im_start|>",
                                           pad_token="<|im_end|>", chat_template=GOLDEN["chat_templates"]["chatml"]),
             "config.json": dict(model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=WIDTH, num_hidden_layers=LAYERS,
                                 num_attention_heads=HEADS, num_key_value_heads=KV, intermediate_size=FFN, vocab_size=VOCAB,
                                 max_position_embeddings=PLACES, rms_norm_eps=EPS, rope_theta=BASE, hidden_act="silu",
                                 tie_word_embeddings=tied)}
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    tiny_bert.save_tensors(folder / "model.safetensors", weights(tied))


def logits(ids, tied, w=None):
    """(tokens, VOCAB) behind each token of one sequence, in double precision; w: other weights than make's."""
    w = {k: v.astype("f8") for k, v in (w or weights(tied)).items()}
    d, n = WIDTH // HEADS, len(ids)
    angle = np.arange(n)[:, None] / BASE ** (np.arange(d // 2) / (d // 2))
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w[name]

    def turned(x):
        a, b = x[..., : d // 2], x[..., d // 2:]
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], -1)

    x = w["model.embed_tokens.weight"][ids]
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        h = norm(x, f"{at}input_layernorm.weight")
        q, k, v = (np.reshape(h @ w[f"{at}self_attn.{p}_proj.weight"].T, (n, -1, d)) for p in "qkv")
        q, k = turned(q), turned(k)
        k, v = (np.repeat(t, HEADS // KV, 1) for t in (k, v))
        s = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d) + np.triu(np.full((n, n), -np.inf), 1)
        s = np.exp(s - s.max(-1, keepdims=True))
        y = np.einsum("hij,jhd->ihd", s / s.sum(-1, keepdims=True), v).reshape(n, WIDTH)
        x = x + y @ w[f"{at}self_attn.o_proj.weight"].T
        h = norm(x, f"{at}post_attention_layernorm.weight")
        gate = h @ w[f"{at}mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[f"{at}mlp.up_proj.weight"].T)) @ w[f"{at}mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ w["model.embed_tokens.weight" if tied else "lm_head.weight"].T


if __name__ == "__main__":
    make(sys.argv[1], "untied" not in sys.argv[2:])
