#!/usr/bin/env python3
"""Values and gradients of contrastive objectives as sentence-transformers computes them: contrast.json.

    PYTHON tests/golden/make_contrast.py    # PYTHON: one with sentence-transformers

A row is a query, its answer and negatives; loss objects get embeddings in place of texts, so that what is
compared is their arithmetic. Everything is done in double on inputs that are exact in f32.
"""
import json
import os

import sentence_transformers
import torch
from sentence_transformers import util
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss, MarginMSELoss, MatryoshkaLoss, MultipleNegativesRankingLoss)

torch.manual_seed(7)


class Given(torch.nn.Module):
    """A model whose texts are their embeddings."""

    def forward(self, features):
        return {"sentence_embedding": features["sentence_embedding"]}

    def get_embedding_dimension(self):
        return DIM

    get_sentence_embedding_dimension = get_embedding_dimension


DIM = 12
MODEL = Given()
ENTRIES = []


def columns(x):
    """(B, G, d) -> what the losses take: a list of G features of (B, d)."""
    return [{"sentence_embedding": x[:, g]} for g in range(x.shape[1])]


def everyone(x):
    """Each query's candidates are all of the batch: a list of a query column and B * (G - 1) others."""
    b = x.shape[0]
    others = x[:, 1:].reshape(-1, x.shape[2])
    return [{"sentence_embedding": x[:, 0]}] + [{"sentence_embedding": c.expand(b, -1)} for c in others]


def own_first(x, i):
    """Query i alone, its answer first: MarginMSELoss compares with the first candidate."""
    others = x[:, 1:].reshape(-1, x.shape[2])
    right = i * (x.shape[1] - 1)
    order = [right] + [k for k in range(len(others)) if k != right]
    return [{"sentence_embedding": x[i:i + 1, 0]}] + [{"sentence_embedding": others[k:k + 1]} for k in order]


def scores(fields):
    q = fields[0]["sentence_embedding"]
    return torch.stack([util.pairwise_cos_sim(q, f["sentence_embedding"]) for f in fields[1:]], dim=1)


def dot_scores(fields):
    q = fields[0]["sentence_embedding"]
    return torch.stack([util.pairwise_dot_score(q, f["sentence_embedding"]) for f in fields[1:]], dim=1)


def tensor(x):
    return {"dtype": "f32", "shape": list(x.shape), "data": [float(f"{v:.9g}") for v in x.flatten().tolist()]}


def add(name, source, terms, shape, loss_of):
    x32, t32 = torch.randn(*shape), torch.randn(shape[0], shape[1], 9)
    x, t = x32.double().requires_grad_(True), t32.double()
    value = loss_of(x, t)
    value.backward()
    ENTRIES.append({
        "id": name, "loss": "contrast", "source": f"sentence-transformers {sentence_transformers.__version__} {source}",
        "params": {"terms": terms}, "inputs": {"embeddings": tensor(x32), "teacher": tensor(t32)},
        "value64": value.item(),
        "grads": {"embeddings": {"shape": list(shape), "data": x.grad.flatten().tolist()}},
        "tol": {"rtol": 2e-6, "atol_value": 2e-6, "atol_grad": 2e-7}})


MNR = "losses/multiple_negatives_ranking.py"
for g in (2, 4):
    for scale in (20.0, 5.0):
        add(f"mnr/G{g}/scale{scale:g}", MNR, f"name=contrastive,temperature={1 / scale:g}", (5, g, DIM),
            lambda x, t, s=scale: MultipleNegativesRankingLoss(MODEL, scale=s)(columns(x), None))
    add(f"mnr/G{g}/symmetric", MNR, "name=contrastive,temperature=0.1,symmetric=on", (5, g, DIM),
        lambda x, t: MultipleNegativesRankingLoss(
            MODEL, scale=10.0, directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction")(columns(x), None))
    add(f"mnr/G{g}/dot", MNR, "name=contrastive,temperature=1,normalize=off", (4, g, DIM),
        lambda x, t: MultipleNegativesRankingLoss(MODEL, scale=1.0, similarity_fct=util.dot_score)(columns(x), None))
    add(f"matryoshka/G{g}", "losses/matryoshka.py", "name=contrastive,temperature=0.05,prefixes=12 6*0.5 3*2",
        (5, g, DIM),
        lambda x, t: MatryoshkaLoss(MODEL, MultipleNegativesRankingLoss(MODEL), [12, 6, 3], [1, 0.5, 2])(
            columns(x), None))

KL = "losses/distill_kl_div.py"
add("kl/own", KL, "name=contrastive_kl,candidates=own,normalize=off,temperature=2,t2=on", (5, 4, DIM),
    lambda x, t: DistillKLDivLoss(MODEL, temperature=2.0)(columns(x), dot_scores(columns(t))))
add("kl/batch", KL, "name=contrastive_kl,temperature=0.5,t2=on", (5, 3, DIM),
    lambda x, t: DistillKLDivLoss(MODEL, util.pairwise_cos_sim, temperature=0.5)(everyone(x), scores(everyone(t))))
add("kl/batch/pairs", KL, "name=contrastive_kl,temperature=0.1,t2=on", (6, 2, DIM),
    lambda x, t: DistillKLDivLoss(MODEL, util.pairwise_cos_sim, temperature=0.1)(everyone(x), scores(everyone(t))))

MARGIN = "losses/margin_mse.py"
add("margin/own", MARGIN, "name=contrastive_margin,candidates=own,normalize=off", (5, 4, DIM),
    lambda x, t: MarginMSELoss(MODEL)(columns(x), dot_scores(columns(t))))
add("margin/batch", MARGIN, "name=contrastive_margin", (5, 3, DIM),
    lambda x, t: sum(MarginMSELoss(MODEL, util.pairwise_cos_sim)(own_first(x, i), scores(own_first(t, i)))
                     for i in range(5)) / 5)

with open(os.path.join(os.path.dirname(__file__), "contrast.json"), "w", encoding="utf-8") as f:
    head = {"format": "kd-golden-losses", "version": 1, "torch": torch.__version__.split("+")[0],
            "count": len(ENTRIES)}
    f.write(json.dumps(head)[:-1] + ', "entries": [\n')
    f.write(",\n".join(json.dumps(e) for e in ENTRIES) + "\n]}\n")
print(len(ENTRIES), "entries")
