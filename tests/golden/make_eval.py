"""Writes eval.json: small logits with the measures that scikit-learn and scipy give for them.

Run with Python 3.11, numpy, scikit-learn and scipy from PyPI (versions are written into the file):
    python tests/golden/make_eval.py > tests/golden/eval.json
"""
import json

import numpy as np
import scipy
import scipy.special as sp
import scipy.stats as st
import sklearn
from sklearn.metrics import accuracy_score, log_loss

rng = np.random.default_rng(7)
rows, classes = 60, 5
z = (rng.normal(size=(rows, classes)) * 3).astype(np.float32)
t = (z + rng.normal(size=(rows, classes)) * 2).astype(np.float32)
y = rng.integers(0, classes, rows)
p = sp.softmax(z.astype(float), 1)
q = sp.softmax(t.astype(float), 1)

# Expected calibration error, 15 bins (k/15, (k+1)/15], written from Guo et al. 2017, section 3.
conf, hit = p.max(1), p.argmax(1) == y
edges = np.linspace(0, 1, 16)
ece = 0.0
for lo, hi in zip(edges[:-1], edges[1:]):
    m = (conf > lo) & (conf <= hi)
    if m.any():
        ece += m.mean() * abs(conf[m].mean() - hit[m].mean())

pairs = []
for a, b in [([0.81, 0.82, 0.84], [0.80, 0.80, 0.81]), ([0.5, 0.6, 0.4, 0.55], [0.52, 0.57, 0.45, 0.5]),
             ([0.9, 0.91, 0.905, 0.91, 0.9], [0.85, 0.86, 0.85, 0.855, 0.86])]:
    r = st.ttest_rel(a, b)
    pairs.append({"a": a, "b": b, "p": float(r.pvalue), "mean": float(np.mean(np.array(a) - np.array(b)))})

print(json.dumps({
    "source": f"numpy {np.__version__}, scipy {scipy.__version__}, scikit-learn {sklearn.__version__}",
    "rows": rows, "classes": classes, "logits": [float(v) for v in z.ravel()],
    "teacher": [float(v) for v in t.ravel()], "labels": y.tolist(),
    "accuracy": float(accuracy_score(y, p.argmax(1))), "loss": float(log_loss(y, p, labels=range(classes))),
    "ece": float(ece), "agreement": float((p.argmax(1) == q.argmax(1)).mean()),
    "kl": float(sp.rel_entr(q, p).sum(1).mean()), "pairs": pairs}, indent=None))
