"""Students that are a teacher of tiny_llama.py and noise, and what kd-eval has to say of them, in numpy.

    python3 language_eval.py make TEACHER STUDENTS              three seeds near it and three far from it
    python3 language_eval.py check STUDENTS ROWS.jsonl RESULTS ...   results by the path of their teacher: dense, run, sparse
"""
import json
import pathlib
import shutil
import sys

import numpy as np

import tiny_bert
import tiny_llama
from tap import finish, test


def student(role, seed):
    rng = np.random.default_rng(seed + 10)
    noise = {"distilled": 0.02, "plain": 0.06}[role]
    return {k: (v + rng.normal(0, noise, v.shape)).astype("f4") for k, v in tiny_llama.weights(True).items()}


def make(teacher, students):
    for role in "distilled", "plain":
        for seed in range(3):
            folder = pathlib.Path(students, role, f"seed-{seed}")
            folder.mkdir(parents=True)
            for name in "config.json", "tokenizer.json", "tokenizer_config.json":
                shutil.copy(pathlib.Path(teacher, name), folder / name)
            tiny_bert.save_tensors(folder / "model.safetensors", student(role, seed))
            (folder / "provenance.json").write_text(json.dumps({"name": "small", "role": role, "seed": seed, "seconds": 1.0}))


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def measures(rows, weights):
    p, q = (np.concatenate([log_softmax(tiny_llama.logits(r, True, w))[:-1] for r in rows]) for w in (None, weights))
    y = np.concatenate([r[1:] for r in rows])
    at = np.arange(len(y))
    kl = (np.exp(p) * (p - q)).sum(-1)
    loss, top = -q[at, y], q.argmax(-1)
    sure, right = np.exp(q.max(-1)), top == y
    which = np.ceil(sure * 15)
    return {"kl": kl.mean(), "kl_error": kl.std(ddof=1) / len(y) ** 0.5, "kl_p50": np.median(kl), "kl_p999": np.percentile(kl, 99.9),
            "kl_p95": np.percentile(kl, 95), "kl_max": kl.max(), "loss": loss.mean(), "perplexity": np.exp(loss.mean()),
            "ppl_ratio": np.exp((loss + p[at, y]).mean()), "agreement": (top == p.argmax(-1)).mean(),
            "rms_dp": ((np.exp(q[at, y]) - np.exp(p[at, y])) ** 2).mean() ** 0.5,
            "ece": sum(abs((sure - right)[which == b].sum()) for b in range(1, 16)) / len(y)}, -(np.exp(p) * p).sum(-1).mean()


def check(rows, *results):
    rows = [r["tokens"] for r in map(json.loads, open(rows)) if r["split"] == "test" and len(r["tokens"]) > 1]
    want, entropy = zip(*(measures(rows, student("distilled", seed)) for seed in range(3)))
    of = {pathlib.Path(r).stem: json.load(open(r)) for r in results}

    @test
    def every_measure_of_a_dense_teacher_is_numpys():
        for name in "dense", "run":
            have = of[name]["students"][0]["distilled"]
            assert of[name]["positions"] == sum(len(r) - 1 for r in rows)
            for seed in range(3):
                for key, value in want[seed].items():
                    assert abs(have[key][seed] - value) <= 2e-4 * max(1, abs(value)), f"{name} {key}: {have[key][seed]}, numpy {value}"

    @test
    def sparse_teachers_give_what_they_can():
        top, tail = (of[n]["students"][0] for n in ("topk", "head-tail"))
        for s in top, tail:
            assert "kl" not in s and "ppl_ratio" not in s and "rms_dp" not in s
        for seed in range(3):
            kl = want[seed]["kl"]
            assert 0.3 * kl < top["distilled"]["kl_least"][seed] <= kl + 1e-6
            assert 0 < tail["distilled"]["kl_least"][seed] <= kl + 1e-6
            assert abs(top["distilled"]["agreement"][seed] - want[seed]["agreement"]) < 0.02  # halves make ties
            assert abs(tail["distilled"]["cross_entropy"][seed] - entropy[seed] - kl) < 0.1, tail["distilled"]["cross_entropy"]
        assert "does not keep all classes" in of["topk"]["left_out"][0]["why"]

    @test
    def roles_are_paired_over_seeds():
        exact, estimated = of["dense"]["students"][0], of["head-tail"]["students"][0]
        assert exact["paired_on"] == "kl" and estimated["paired_on"] == "cross_entropy" and of["none"]["students"][0]["paired_on"] == "loss"
        assert exact["verdict"] == estimated["verdict"] == "helped" and exact["pairs"] == 3
        assert abs(exact["kl_gain"] - estimated["kl_gain"]) < 0.05 * exact["kl_gain"]


if sys.argv[1] == "make":
    make(*sys.argv[2:])
else:
    check(*sys.argv[2:])
    finish()
