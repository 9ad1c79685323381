"""Writes audit.json: small probabilities with what cleanlab says of their labels, and counts with scipy's chi-square.

Run with Python 3.11, cleanlab, numpy and scipy from PyPI (versions are written into the file):
    python tests/golden/make_audit.py > tests/golden/audit.json

Rows whose probability is within 1e-5 of a threshold would be counted by one program and not by the other (cleanlab
subtracts 1e-6 from thresholds); the first seed without such a row is taken.
"""
import json

import cleanlab
import numpy as np
import scipy
import scipy.stats as st
from cleanlab.count import compute_confident_joint, get_confident_thresholds
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_normalized_margin_for_each_label

rows, classes = 240, 4


def draw(seed):
    rng = np.random.default_rng(seed)
    true = rng.choice(classes, rows, p=[0.4, 0.3, 0.2, 0.1])
    z = rng.normal(size=(rows, classes))
    z[np.arange(rows), true] += rng.choice([1.0, 3.0], rows)
    p = np.exp(z)
    p = (p / p.sum(1, keepdims=True)).astype(np.float32)
    y = true.copy()
    wrong = rng.random(rows) < 0.15
    y[wrong] = (y[wrong] + rng.integers(1, classes, wrong.sum())) % classes
    return p, y, true


for seed in range(1000):
    p, y, true = draw(seed)
    thresholds = get_confident_thresholds(labels=y, pred_probs=p.astype(float))
    if np.abs(p - thresholds).min() > 1e-5:
        break

q = p.astype(float)
joint = compute_confident_joint(y, q, calibrate=False)
estimate = joint / joint.sum(1, keepdims=True) * np.bincount(y, minlength=classes)[:, None]
flags = {how: find_label_issues(y, q, filter_by=name, confident_joint=cj, min_examples_per_class=0).tolist()
         for how, name, cj in (("joint", "confident_learning", None),
                               ("rate", "prune_by_noise_rate", np.round(estimate).astype(int)))}
pairs = []
for a, b in [([10, 20, 30], [12, 18, 33]), ([100, 0, 40, 7], [80, 0, 70, 9]), ([500, 400, 300, 200], [50, 40, 35, 12])]:
    used = [i for i in range(len(a)) if a[i] + b[i]]
    r = st.chi2_contingency([[a[i] for i in used], [b[i] for i in used]], correction=False)
    s, t = (np.array(c) + 0.5 for c in (a, b))
    s, t = s / s.sum(), t / t.sum()
    pairs.append({"a": a, "b": b, "x": float(r.statistic), "p": float(r.pvalue), "psi": float(((t - s) * np.log(t / s)).sum())})
tails = [{"x": x, "dof": d, "p": float(st.chi2.sf(x, d))} for x, d in [(0.5, 1), (3.84, 1), (9, 9), (30, 9), (100, 120), (300, 9)]]

print(json.dumps({
    "source": f"cleanlab {cleanlab.__version__}, numpy {np.__version__}, scipy {scipy.__version__}", "seed": seed,
    "rows": rows, "classes": classes, "p": [float(v) for v in p.ravel()], "labels": y.tolist(),
    "thresholds": thresholds.tolist(), "joint": joint.ravel().tolist(), "estimate": estimate.ravel().tolist(),
    "margin": (2 * get_normalized_margin_for_each_label(y, q) - 1).tolist(), "flags": flags, "pairs": pairs, "tails": tails}))
