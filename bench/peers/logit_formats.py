#!/usr/bin/env python3
"""Bytes a position that public systems need for the same logits.

    logit_formats.py LOGITS.npy [--classes N]

LOGITS is (..., V); --classes keeps the first N. Prints one JSON object: name -> bytes a position. Each
entry is the system's record as its code or paper gives it: fixed-size records by arithmetic, everything
whose size depends on the values by making the bytes and counting them.

  torch.save            torchdistill's cache: one pickled f32 tensor a sample
  dense f16             two bytes a class
  llama.cpp .kld        --kl-divergence-base: 16-bit log-probabilities, a scale and an offset a position
  Megatron K=100        f16 log-probabilities, u16 ids, a bool for the 17th bit, torch.save, zstd -3 a batch
  DistillKit k=128      16 exact bf16, 6 f32 terms, no residual, ids of ceil(log2 V) bits (its advice)
  DistillKit k=50       1 exact bf16, 3 f32 terms (its budget form)
  TinyViT K=10, K=100   a 4-byte seed, i16 ids and f16 probabilities
  FKD MS-5              5 f16 probabilities and i16 ids, crop and flip (its published record without file overhead)
  RS-KD N=50, N=13      3 bytes a distinct id, drawn here
"""
import argparse
import io
import json
import math

import numpy as np
import torch
import zstandard


def saved(value):
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logits")
    parser.add_argument("--classes", type=int)
    parser.add_argument("--positions", type=int, default=8192)
    args = parser.parse_args()
    z = np.load(args.logits, mmap_mode="r")
    z = z.reshape(-1, z.shape[-1])[:args.positions, :args.classes]
    n, width = z.shape
    bits = math.ceil(math.log2(width))
    rng = np.random.default_rng(0)
    megatron, ids13, ids50, batch = 0, 0, 0, 512
    for first in range(0, n, batch):
        logp = torch.log_softmax(torch.from_numpy(np.array(z[first:first + batch], dtype=np.float32)), -1)
        k = min(100, width)
        value, index = logp.topk(k, -1)
        blob = saved((value.half(), torch.from_numpy((index & 0xFFFF).numpy().astype(np.uint16)), (index >> 16).bool()))
        megatron += len(zstandard.compress(blob, 3))
        p = logp.double().exp().numpy()
        cdf = p.cumsum(-1)
        for row in cdf:
            for draws in (13, 50):
                distinct = len(np.unique(np.searchsorted(row, rng.random(draws) * row[-1], side="right")))
                if draws == 13:
                    ids13 += distinct
                else:
                    ids50 += distinct
    one = len(saved(torch.zeros(width)))
    out = {
        "torch.save f32": one,
        "dense f16": 2 * width,
        "llama.cpp .kld": 2 * (2 * ((width + 1) // 2) + 4),
        "RS-KD N=50": 3 * ids50 / n,
        "RS-KD N=13": 3 * ids13 / n,
    }
    if width >= 100:
        out["Megatron K=100"] = megatron / n
        out["TinyViT K=100"] = 4 + 4 * 100
    if width >= 10:
        out["TinyViT K=10"] = 4 + 4 * 10
    if width >= 128:
        out["DistillKit k=128"] = 16 * 2 + 6 * 4 + math.ceil(128 * bits / 8)
        out["DistillKit k=50"] = 1 * 2 + 3 * 4 + math.ceil(50 * bits / 8)
    if width <= 1000:
        out["FKD MS-5"] = 29
    print(json.dumps({"positions": n, "classes": width, "bytes": {k: round(v, 2) for k, v in out.items()},
                      "ids": {"RS-KD N=50": ids50 / n, "RS-KD N=13": ids13 / n}}))


if __name__ == "__main__":
    main()
