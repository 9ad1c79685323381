#!/usr/bin/env python3
"""The same encoder in PyTorch, and its forward pass in ONNX Runtime, on demand: what bench/encoder.py compares with.

    encoder.py eager|compile|half|ort FOLDER DATA forward|train [--bf16] [--threads N]

Reads the batches that `kd_bench encoder` reads and serves "go SECONDS" lines as it does. Texts of a batch are padded to its longest
one, with a mask where lengths differ. A training step is forward, mean squared difference to the given vectors, backward, fused AdamW;
attention is SDPA's. compile: torch.compile; half: weights in bf16, forward only; ort exports the model itself first.
"""
import argparse
import json
import os
import resource
import sys
import tempfile
import time
import warnings

warnings.filterwarnings("ignore")
import numpy as np
import torch
import transformers

transformers.logging.set_verbosity_error()
FIRST_STEPS, FIRST_NUMBERS = 4, 64   # as bench/encoder.c


class Embedder(torch.nn.Module):
    """Mean pooling over each text's own tokens, length 1, as the folder's modules say."""

    def __init__(self, folder, attention):
        super().__init__()
        self.encoder = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False,
                                                              attn_implementation=attention)

    def forward(self, ids, mask=None):
        x = self.encoder(input_ids=ids, attention_mask=mask)[0]
        x = x.mean(1) if mask is None else (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(x)


def read(path):
    """Batches (ids, mask or None, target, number of tokens)."""
    data = np.fromfile(path, "<i4")
    batches, texts, dims = data[:3]
    lengths = data[3:3 + batches * texts].reshape(batches, texts)
    ids = data[3 + batches * texts:][:lengths.sum()]
    targets = data[len(data) - batches * texts * dims:].view("<f4").reshape(batches, texts, dims)
    out = []
    for length, target in zip(lengths, targets):
        padded, mask = np.zeros((texts, length.max()), "i8"), np.zeros((texts, length.max()), "i8")
        for row, n in enumerate(length):
            padded[row, :n], mask[row, :n], ids = ids[:n], 1, ids[n:]
        out.append((torch.tensor(padded), None if mask.all() else torch.tensor(mask), torch.tensor(target), int(length.sum())))
    return out


def session_of(model, batches, threads):
    import onnxruntime

    ids, mask = batches[0][:2]
    args, names = ((ids,), ["ids"]) if mask is None else ((ids, mask), ["ids", "mask"])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        torch.onnx.export(model, args, path, input_names=names, output_names=["y"], opset_version=17, dynamo=False,
                          dynamic_axes={name: {0: "texts", 1: "tokens"} for name in names})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = [{k: v.numpy() for k, v in (("ids", ids), ("mask", mask)) if v is not None} for ids, mask, _, _ in batches]
    return session, feeds, onnxruntime.__version__


def main():
    p = argparse.ArgumentParser()
    p.add_argument("how", choices=("eager", "compile", "half", "ort"))
    p.add_argument("folder")
    p.add_argument("data")
    p.add_argument("what", choices=("forward", "train"))
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    batches = read(a.data)
    model = Embedder(a.folder, "eager" if a.how == "ort" else "sdpa").eval()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=a.bf16 and a.how != "half")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if a.how == "half":
        model = model.bfloat16()
    run = torch.compile(model, dynamic=len(batches) > 1) if a.how == "compile" else model
    if a.how == "ort":
        session, feeds, versions["onnxruntime"] = session_of(model, batches, a.threads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0, fused=True) if a.what == "train" else None

    def forward(i):
        if a.how == "ort":
            return session.run(None, feeds[i])[0]
        with torch.inference_mode(), autocast:
            return run(*batches[i][:2]).float().numpy()

    def train(i):
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            y = run(*batches[i][:2])
        loss = torch.nn.functional.mse_loss(y.float(), batches[i][2])
        loss.backward()
        optimizer.step()
        return loss

    step = train if a.what == "train" else forward
    if a.what == "train":
        first = [train(i % len(batches)).item() for i in range(FIRST_STEPS)]
    else:
        first = forward(0).reshape(-1)[:FIRST_NUMBERS].tolist()
    for i in range(len(batches)):   # each shape is planned once
        step(i)
    print(json.dumps({"ready": a.how, "first": first, "versions": versions}), flush=True)
    for line in sys.stdin:
        seconds = float(line.split()[1])
        start, cpu, passes = time.perf_counter(), time.process_time(), 0
        while not passes or time.perf_counter() - start < seconds:
            for i in range(len(batches)):
                step(i)
            passes += 1
        took = time.perf_counter() - start
        print(json.dumps({"seconds": took, "cpu_s": time.process_time() - cpu, "tokens_s": passes * sum(b[3] for b in batches) / took,
                          "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


if __name__ == "__main__":
    main()
