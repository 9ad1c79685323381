#!/usr/bin/env python3
"""Small encoders as sentence-transformers saves them, and what PyTorch computes with them.

    python3 make_encoders.py [FOLDER]      # writes FOLDER/{bert,electra}/ and FOLDER/{bert,electra}.safetensors

`bert` is pooled by the mean, `electra` (whose tables are narrower) by the first token and projected. The values
beside each folder: ids and lengths of a packed batch, the embeddings, hidden states, dy, and the gradient of
sum(dy * embeddings) with respect to every parameter, named by Hugging Face (`dense.` before those of the
projection). Weights are single precision; everything is computed in double precision from them and rounded.

Needs torch, transformers and sentence-transformers (bench/peers/requirements-text.txt).
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer, models

VOCAB, POSITIONS, LENGTHS = 61, 40, (5, 40, 1, 17)
SIZES = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=56,
             max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
KEPT = ("config.json", "model.safetensors", "modules.json", "1_Pooling/config.json", "2_Dense/config.json",
        "2_Dense/model.safetensors")


def build(kind, work):
    """A sentence-transformers model with random weights, norms and biases away from 1 and 0."""
    if kind == "bert":
        encoder = transformers.BertModel(transformers.BertConfig(**SIZES))
    else:
        encoder = transformers.ElectraModel(transformers.ElectraConfig(**SIZES, embedding_size=12))
    with torch.no_grad():
        for name, p in encoder.named_parameters():
            p.add_(torch.randn(p.shape) * (0.15 if p.ndim == 1 else 0.1))
    encoder.save_pretrained(work)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(VOCAB - 5)]
    (work / "vocab.txt").write_text("\n".join(vocab) + "\n")
    transformers.BertTokenizerFast(vocab_file=str(work / "vocab.txt")).save_pretrained(work)
    parts = [models.Transformer(str(work)), models.Pooling(32, pooling_mode="mean" if kind == "bert" else "cls")]
    if kind == "electra":
        parts.append(models.Dense(32, 10, activation_function=torch.nn.Identity()))
    return SentenceTransformer(modules=parts + [models.Normalize()], device="cpu")


def values(model):
    """name -> tensor, computed with padding, as PyTorch does it. Id 0 is padding, which gets no gradient there."""
    rng = np.random.default_rng(3)
    rows = [rng.integers(1, VOCAB, n) for n in LENGTHS]
    ids = torch.zeros(len(rows), max(LENGTHS), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, :len(row)] = torch.tensor(row)
        mask[i, :len(row)] = 1
    model = model.double().eval()
    encoder = model[0].model if hasattr(model[0], "model") else model[0].auto_model
    hidden = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    out = {"token_embeddings": hidden[-1], "attention_mask": mask}
    for part in list(model)[1:]:
        out = part(out)
    y = out["sentence_embedding"]
    dy = torch.tensor(rng.normal(size=tuple(y.shape)), dtype=torch.float32)
    (dy.double() * y).sum().backward()
    got = {"ids": torch.tensor(np.concatenate(rows), dtype=torch.int32), "lengths": torch.tensor(LENGTHS, dtype=torch.int32),
           "embeddings": y, "hidden": hidden[1][mask.bool()], "dy": dy}
    for name, p in encoder.named_parameters():
        if not name.startswith("pooler."):
            got["grad." + name] = p.grad
    for part in model:
        if isinstance(part, models.Dense):
            got["grad.dense.weight"], got["grad.dense.bias"] = part.linear.weight.grad, part.linear.bias.grad
    return {name: (t.detach().float() if t.is_floating_point() else t).contiguous() for name, t in got.items()}


def main():
    to = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    for seed, kind in enumerate(("bert", "electra")):
        torch.manual_seed(seed)
        with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as saved:
            model = build(kind, Path(work))
            model.save(saved)
            for name in KEPT:
                if (Path(saved) / name).exists():
                    (to / kind / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(Path(saved) / name, to / kind / name)
            save_file(values(model), to / f"{kind}.safetensors",
                      {"generator": "make_encoders.py", "torch": torch.__version__, "transformers": transformers.__version__,
                       "sizes": json.dumps(SIZES)})


if __name__ == "__main__":
    main()
