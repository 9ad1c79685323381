#!/usr/bin/env python3
"""Small decoders as transformers saves them, and what PyTorch computes with them.

    python3 make_decoders.py [FOLDER]   # writes FOLDER/{llama,llama-untied}/, FOLDER/{llama,llama-untied}.safetensors, FOLDER/llama.gguf

`llama` has its head tied to the embedding and two heads of queries to one of keys; `llama-untied` has a head of its own and as many of
both. The values beside each folder: ids and lengths of a packed batch, logits of every token, hidden states, dy, and the gradient of
sum(dy * logits) with respect to every parameter, named by Hugging Face. Weights are single precision; everything is computed in double
from them and rounded. llama.gguf holds the weights of `llama` as PyPI's gguf writes them (matrices Q8_0), queries and keys with the rows
of rotary pairs side by side, and what PyTorch computes with its decoded weights: GGUF.logits in llama.safetensors.

Needs torch, transformers and gguf (bench/peers/requirements-text.txt).
"""
import shutil
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

VOCAB, POSITIONS, LENGTHS = 61, 64, (5, 40, 1, 34)
SIZES = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
             max_position_embeddings=POSITIONS, rope_theta=500.0, rms_norm_eps=1e-5)
KINDS = {"llama": dict(num_key_value_heads=2, tie_word_embeddings=True), "llama-untied": dict(num_key_value_heads=4, tie_word_embeddings=False)}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm"}


def build(kind):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **KINDS[kind], attn_implementation="eager"))
    with torch.no_grad():
        for _, p in model.named_parameters():
            p.add_(torch.randn(p.shape) * (0.15 if p.ndim == 1 else 0.1))
    return model.float()


def batch():
    rng = np.random.default_rng(3)
    return [torch.from_numpy(rng.integers(0, VOCAB, n)) for n in LENGTHS], rng


def values(model):
    """name -> tensor, one sequence after the other."""
    rows, rng = batch()
    model = model.double().eval()
    for p in model.parameters():
        p.grad = None
    logits, hidden, dys = [], [], []
    for row in rows:
        out = model(row[None], output_hidden_states=True)
        dy = torch.tensor(rng.normal(size=tuple(out.logits[0].shape)), dtype=torch.float32)
        (dy.double() * out.logits[0]).sum().backward()
        logits.append(out.logits[0])
        hidden.append(out.hidden_states[1][0])
        dys.append(dy)
    got = {"ids": torch.cat(rows).int(), "lengths": torch.tensor(LENGTHS, dtype=torch.int32), "logits": torch.cat(logits),
           "hidden": torch.cat(hidden), "dy": torch.cat(dys)}
    got |= {"grad." + name: p.grad for name, p in model.named_parameters()}
    return {name: (t.detach().float() if t.is_floating_point() else t).contiguous() for name, t in got.items()}


def pairs_together(w, heads):
    """Rows of a head from halves (0, 1, ..., d / 2, ...) to pairs (0, d / 2, 1, ...)."""
    return w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(model, path):
    """The file, and the model with the weights that it holds."""
    w = gguf.GGUFWriter(path, "llama")
    w.add_name("small")
    w.add_context_length(POSITIONS)
    w.add_embedding_length(32)
    w.add_block_count(2)
    w.add_feed_forward_length(64)
    w.add_head_count(4)
    w.add_head_count_kv(2)
    w.add_rope_freq_base(500.0)
    w.add_rope_dimension_count(8)
    w.add_layer_norm_rms_eps(1e-5)
    for name, p in model.named_parameters():
        data = p.detach().numpy()
        parts = name.split(".")
        if name == "model.embed_tokens.weight":
            out = "token_embd.weight"
        elif name == "model.norm.weight":
            out = "output_norm.weight"
        else:
            out = f"blk.{parts[2]}.{NAMES['.'.join(parts[3:-1])]}.weight"
        if data.ndim == 1:
            w.add_tensor(out, data)
            continue
        heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(".".join(parts[3:-1]))
        raw = gguf.quantize(pairs_together(data, heads) if heads else data, gguf.GGMLQuantizationType.Q8_0)
        w.add_tensor(out, raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        with torch.no_grad():   # blocks lie within a row, so the order of rows does not matter
            p.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(data, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0)))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return model


def main():
    to = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    for seed, kind in enumerate(KINDS):
        torch.manual_seed(seed)
        model = build(kind)
        with tempfile.TemporaryDirectory() as saved:
            model.save_pretrained(saved)
            (to / kind).mkdir(parents=True, exist_ok=True)
            for name in ("config.json", "model.safetensors"):
                shutil.copy(Path(saved) / name, to / kind / name)
        got = values(model)
        if kind == "llama":
            model = write_gguf(model.float(), to / "llama.gguf")
            got["GGUF.logits"] = values(model)["logits"]
        save_file(got, to / f"{kind}.safetensors", {"generator": "make_decoders.py", "torch": torch.__version__,
                                                    "transformers": transformers.__version__})


if __name__ == "__main__":
    main()
