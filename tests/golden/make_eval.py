"""Writes eval.json: logits of a few models with the measures that scikit-learn and scipy give for them.

Run with Python 3.11, numpy, scikit-learn, scipy and netcal from PyPI (versions are written into the file):
    python tests/golden/make_eval.py > tests/golden/eval.json

What neither has is written here from its definition, without a look at kd: calibration error (Guo et al. 2017, section
3; bins (k/15, (k+1)/15], and np.array_split of the rows in order of confidence), McNemar's chi-squared, and the Poisson
bootstrap, for which Philox4x32-10 is written down once more (Salmon et al. 2011).
"""
import json

import numpy as np
import scipy
import scipy.special as sp
import scipy.stats as st
import netcal
import sklearn
from netcal.metrics import ECE
from sklearn.metrics import (accuracy_score, confusion_matrix, f1_score, log_loss, precision_recall_fscore_support,
                             top_k_accuracy_score)

BINS = 15
RESAMPLES = 200


def philox(c, k):
    """Four 32-bit words of each counter; c: (n, 4), k: 2 words."""
    c = [c[:, i].astype(np.uint64) for i in range(4)]
    k0, k1 = k
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & mask, (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, 1)


def words(rows, resamples, key):
    """Word (row, resample): word resample % 4 of the block with counter {resample / 4, 8, row, 0}."""
    r, b = np.meshgrid(np.arange(rows), np.arange(resamples), indexing="ij")
    counter = np.stack([b.ravel() // 4, np.full(b.size, 8), r.ravel(), np.zeros(b.size, int)], 1)
    return philox(counter, key)[np.arange(b.size), b.ravel() % 4].reshape(rows, resamples)


def poisson(u):
    """The inverse of Poisson's distribution function at mean 1, which is rounded down to 32 bits."""
    steps = np.floor(st.poisson.cdf(np.arange(12), 1.0) * 2.0 ** 32).astype(np.uint64)
    return np.searchsorted(steps, u, side="right")


def ece(conf, hit, weight=None):
    weight = np.ones(len(conf)) if weight is None else weight
    total = 0.0
    for lo, hi in zip(np.arange(BINS) / BINS, np.arange(1, BINS + 1) / BINS):
        m = (conf > lo) & (conf <= hi)
        if weight[m].sum() > 0:
            gap = abs(np.average(conf[m], weights=weight[m]) - np.average(hit[m], weights=weight[m]))
            total += weight[m].sum() / weight.sum() * gap
    return total


def bins(conf, hit):
    out = []
    for lo, hi in zip(np.arange(BINS) / BINS, np.arange(1, BINS + 1) / BINS):
        m = (conf > lo) & (conf <= hi)
        out.append([int(m.sum()), float(conf[m].mean()) if m.any() else 0, float(hit[m].mean()) if m.any() else 0])
    return out


def ece_adaptive(conf, hit):
    order = np.argsort(conf, kind="stable")
    return sum(len(part) / len(conf) * abs(conf[part].mean() - hit[part].mean())
               for part in np.array_split(order, BINS) if len(part))


def measures(z, t, y, classes):
    p, q = sp.softmax(z.astype(float), 1), sp.softmax(t.astype(float), 1)
    top, ttop = p.argmax(1), q.argmax(1)
    conf, hit = p.max(1), top == y
    kl = sp.rel_entr(q, p).sum(1)
    wrong = ttop != y
    share = lambda m, of: float((m & of).sum() / of.sum())
    precision, recall, f1, _ = precision_recall_fscore_support(y, top, average="macro", zero_division=0)
    filled = [b for b in bins(conf, hit) if b[0]]
    return {
        "accuracy": accuracy_score(y, top), "top3": top_k_accuracy_score(y, p, k=3, labels=range(classes)),
        "top5": top_k_accuracy_score(y, p, k=5, labels=range(classes)), "macro_f1": f1, "macro_precision": precision,
        "macro_recall": recall, "loss": log_loss(y, p, labels=range(classes)),
        "perplexity": float(np.exp(log_loss(y, p, labels=range(classes)))), "ece": ece(conf, hit),
        "ece_adaptive": ece_adaptive(conf, hit), "mce": max(abs(b[1] - b[2]) for b in filled),
        "netcal_ece": ECE(BINS).measure(p, y), "confidence_mean": conf.mean(), "agreement": accuracy_score(ttop, top), "kl": kl.mean(),
        "kl_p50": np.percentile(kl, 50), "kl_p90": np.percentile(kl, 90), "kl_p99": np.percentile(kl, 99),
        "kl_max": kl.max(), "copied_mistakes": share(top == ttop, wrong),
        "other_mistakes": share((top != ttop) & ~hit, wrong), "mended_mistakes": share(hit, wrong),
        "new_mistakes": share(~hit, ~wrong),
    }


def resampled(z, t, y, weights):
    """Means over the resamples and the 2.5 % and 97.5 % percentiles."""
    p, q = sp.softmax(z.astype(float), 1), sp.softmax(t.astype(float), 1)
    top, ttop, conf = p.argmax(1), q.argmax(1), p.max(1)
    hit, nll, kl = top == y, -np.log(p[np.arange(len(y)), y]), sp.rel_entr(q, p).sum(1)
    rank = (p > p[np.arange(len(y)), y][:, None]).sum(1)
    wrong = ttop != y
    out = {}
    for w in weights.T:
        mean = lambda x, of=np.ones(len(y), bool): np.average(x[of], weights=w[of])
        one = {"accuracy": mean(hit), "top3": mean(rank < 3), "top5": mean(rank < 5),
               "macro_f1": f1_score(y, top, average="macro", sample_weight=w, zero_division=0,
                                    labels=[c for c in range(z.shape[1]) if w[(y == c) | (top == c)].sum() > 0]),
               "loss": mean(nll), "perplexity": np.exp(mean(nll)), "ece": ece(conf, hit, w), "agreement": mean(top == ttop),
               "kl": mean(kl), "copied_mistakes": mean(top == ttop, wrong), "other_mistakes": mean((top != ttop) & ~hit, wrong),
               "mended_mistakes": mean(hit, wrong), "new_mistakes": mean(~hit, ~wrong)}
        for k, v in one.items():
            out.setdefault(k, []).append(float(v))
    return {k: {"mean": float(np.mean(v)), "low": float(np.percentile(v, 2.5)), "high": float(np.percentile(v, 97.5))}
            for k, v in out.items()}


def floats(x):
    return {k: float(v) for k, v in x.items()}


def main():
    rng = np.random.default_rng(7)
    rows, classes = 240, 7
    y = rng.integers(0, classes - 1, rows)  # the last class has no rows, but is predicted
    t = rng.normal(size=(rows, classes)) * 2
    t[np.arange(rows), y] += 3
    t[:, -1] += 1.5
    t = t.astype(np.float32)
    models = [(t + rng.normal(size=t.shape) * s).astype(np.float32) for s in (1, 2.5)]
    models[1][:, 0] = -20  # a class that is never predicted; log_loss cuts probabilities off at 2e-16
    weights = poisson(words(rows, RESAMPLES, (0, 0)))
    entries = []
    for z in models:
        top = z.argmax(1)
        precision, recall, f1, support = precision_recall_fscore_support(y, top, labels=range(classes), zero_division=0)
        p = sp.softmax(z.astype(float), 1)
        entries.append({
            "logits": [float(v) for v in z.ravel()], "measures": floats(measures(z, t, y, classes)),
            "classes": [list(map(float, c)) for c in zip(precision, recall, f1, support)],
            "confusion": confusion_matrix(y, top, labels=range(classes)).tolist(), "reliability": bins(p.max(1), top == y),
            "bootstrap": resampled(z, t, y, weights)})

    hits = [z.argmax(1) == y for z in models]
    mcnemar = []
    counts = [(int((hits[0] & ~hits[1]).sum()), int((~hits[0] & hits[1]).sum())), (0, 0), (3, 3), (0, 9), (61, 38), (500, 420)]
    for b, c in counts:
        n = b + c
        chi2 = max(0, abs(b - c) - 1) ** 2 / n if n else 0.0
        mcnemar.append({"only_a": b, "only_b": c, "p_exact": float(st.binomtest(b, n, 0.5).pvalue) if n else 1.0,
                        "chi2": chi2, "p_chi2": float(st.chi2.sf(chi2, 1))})
    wilson = []
    for k, n in [(0, 10), (10, 10), (3, 7), (81, 263), (9287, 10000)]:
        ci = st.binomtest(k, n).proportion_ci(0.95, method="wilson")
        wilson.append([k, n, float(ci.low), float(ci.high)])

    pairs = []
    for a, b in [([0.81, 0.82, 0.84], [0.80, 0.80, 0.81]), ([0.5, 0.6, 0.4, 0.55], [0.52, 0.57, 0.45, 0.5]),
                 ([0.9, 0.91, 0.905, 0.91, 0.9], [0.85, 0.86, 0.85, 0.855, 0.86])]:
        r = st.ttest_rel(a, b)
        pairs.append({"a": a, "b": b, "p": float(r.pvalue), "mean": float(np.mean(np.array(a) - np.array(b)))})

    print(json.dumps({
        "source": f"numpy {np.__version__}, scipy {scipy.__version__}, scikit-learn {sklearn.__version__}, "
                  f"netcal {netcal.__version__}",
        "rows": rows, "classes": classes, "labels": y.tolist(), "teacher": [float(v) for v in t.ravel()], "models": entries,
        "resamples": RESAMPLES, "weights": weights[:4].tolist(),
        "seeds": (words(5, 8, (1, 0)) * np.uint64(3) >> np.uint64(32)).tolist(),
        "mcnemar": mcnemar, "wilson": wilson, "pairs": pairs}))


main()
