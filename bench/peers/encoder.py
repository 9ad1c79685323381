#!/usr/bin/env python3
"""The same encoder in PyTorch, and its forward pass in ONNX Runtime: tokens/s on demand.

    encoder.py torch|compile|ort FOLDER TEXTS TOKENS [--bf16] [--threads N]

Serves lines "go forward SECONDS" and "go train SECONDS" as `kd_bench encoder` does. A training step is forward,
mean squared difference to random vectors, backward, fused AdamW. `ort` exports the model itself first.
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


class Embedder(torch.nn.Module):
    """Mean pooling, length 1, as the folder's modules say; no padding in this batch."""

    def __init__(self, folder, attention):
        super().__init__()
        self.encoder = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False,
                                                              attn_implementation=attention)

    def forward(self, ids):
        return torch.nn.functional.normalize(self.encoder(input_ids=ids)[0].mean(1))


def say(**line):
    print(json.dumps(line), flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("how", choices=("torch", "compile", "ort"))
    p.add_argument("folder")
    p.add_argument("texts", type=int)
    p.add_argument("tokens", type=int)
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    model = Embedder(a.folder, "eager" if a.how == "ort" else "sdpa").eval()
    ids = torch.randint(1, model.encoder.config.vocab_size, (a.texts, a.tokens))
    steps = {}
    if a.how == "ort":
        import onnxruntime
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.onnx")
            torch.onnx.export(model, (ids,), path, input_names=["ids"], output_names=["y"], opset_version=17, dynamo=False)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = a.threads, 1
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {"ids": ids.numpy()}
        steps["forward"] = lambda: session.run(None, feed)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0, fused=True)
        run = torch.compile(model) if a.how == "compile" else model
        target = torch.randn(a.texts, model.encoder.config.hidden_size)

        def forward():
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=a.bf16):
                run(ids)

        def train():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=a.bf16):
                y = run(ids)
            torch.nn.functional.mse_loss(y.float(), target).backward()
            optimizer.step()

        steps = {"forward": forward, "train": train}
    say(ready=a.how, texts=a.texts, tokens=a.tokens, torch=torch.__version__)
    for line in sys.stdin:
        _, what, seconds = line.split()
        start, cpu, n = time.perf_counter(), time.process_time(), 0
        while not n or time.perf_counter() - start < float(seconds):
            steps[what]()
            n += 1
        took = time.perf_counter() - start
        say(what=what, steps=n, seconds=took, cpu_s=time.process_time() - cpu, tokens_per_s=n * a.texts * a.tokens / took,
            rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    main()
