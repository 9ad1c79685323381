#!/usr/bin/env python3
"""Measures of rankings as others compute them: search.json.

    PYTHON tests/golden/make_search.py    # PYTHON: one with sentence-transformers and scipy

Vectors are small whole numbers over 16, so that scores are exact in f32 and ties are ties everywhere. MRR, recall
and found (its "accuracy") are those of InformationRetrievalEvaluator, tau is scipy's kendalltau, BM25 the
formula written out here.
"""
import json
import math
import os
import re

import numpy as np
import scipy
import scipy.stats
import sentence_transformers
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

rng = np.random.default_rng(5)
N, Q, D, K = 300, 12, 8, 100
docs = rng.integers(-32, 33, (N, D)) / 16
queries = rng.integers(-32, 33, (Q, D)) / 16
student = queries + rng.integers(-16, 17, (Q, D)) / 16
scores = queries @ docs.T
order = np.argsort(-scores, axis=1, kind="stable")
# Some relevant documents near the top, some anywhere.
relevant = [sorted({int(order[q, q]), int(order[q, 3 * q]), int(rng.integers(N))}) for q in range(Q)]
evaluator = InformationRetrievalEvaluator(
    {str(q): "" for q in range(Q)}, {str(d): "" for d in range(N)},
    {str(q): {str(d) for d in relevant[q]} for q in range(Q)},
    mrr_at_k=[10], accuracy_at_k=[1, 10, 100], precision_recall_at_k=[1, 10, 100], ndcg_at_k=[10], map_at_k=[100])
m = evaluator.compute_metrics([[{"corpus_id": str(d), "score": float(scores[q, d])} for d in order[q, :K]]
                               for q in range(Q)])
other = student @ docs.T
other_order = np.argsort(-other, axis=1, kind="stable")
taus = [scipy.stats.kendalltau(scores[q, order[q, :K]], other[q, order[q, :K]]).statistic for q in range(Q)]

TEXTS = ["A bank of a river", "the bank that lends money", "money, money: MONEY!", "river boat", "",
         "a boat on the river near the bank", "die Bänke am Fluß"]
ASKED = ["money bank", "River", "bänke", "nothing of this kind", "boat boat river"]


def words(text):
    return re.findall("[0-9a-z\u0080-\U0010ffff]+", "".join(c.lower() if c < "\x80" else c for c in text))


def bm25(text, k1, b):
    mean = sum(len(words(t)) for t in TEXTS) / len(TEXTS)
    out = []
    for t in TEXTS:
        have, s = words(t), 0
        for w in words(text):
            df = sum(w in words(u) for u in TEXTS)
            idf = math.log(1 + (len(TEXTS) - df + 0.5) / (df + 0.5))
            tf = have.count(w)
            s += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(have) / mean))
        out.append(s)
    return out


out = {
    "generator": f"sentence-transformers {sentence_transformers.__version__}, scipy {scipy.__version__}, numpy {np.__version__}",
    "docs": docs.flatten().tolist(), "queries": queries.flatten().tolist(), "student": student.flatten().tolist(),
    "dims": D, "k": K, "relevant": relevant, "order": order[:, :K].tolist(),
    "mrr10": m["mrr@k"][10], "recall": [m["recall@k"][k] for k in (1, 10, 100)],
    "found": [m["accuracy@k"][k] for k in (1, 10, 100)],
    "overlap10": float(np.mean([len(set(order[q, :10]) & set(other_order[q, :10])) / 10 for q in range(Q)])),
    "tau": float(np.mean(taus)),
    "bm25": {"texts": TEXTS, "queries": ASKED, "k1": 1.2, "b": 0.75, "scores": [bm25(q, 1.2, 0.75) for q in ASKED]},
}
with open(os.path.join(os.path.dirname(__file__), "search.json"), "w", encoding="utf-8") as f:
    json.dump(out, f)
    f.write("\n")
