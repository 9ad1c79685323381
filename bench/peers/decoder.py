#!/usr/bin/env python3
"""What bench/decoder.py measures kd beside: decoder.py llama|f32|bf16 FILE.gguf THREADS ROWS TOKENS; answers each line with tokens/s."""
import json
import os
import sys
import time

import numpy as np

os.environ["HF_HUB_OFFLINE"] = "1"

how, path, threads, rows, tokens = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
ids = np.random.default_rng(1).integers(0, 49152, (rows, tokens))


def llama():
    import xllamacpp as x

    p = x.CommonParams()
    p.model.path = path
    p.n_ctx = 2 * tokens
    p.n_parallel = 1
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    p.warmup = True
    p.n_batch = p.n_ubatch = tokens
    server = x.Server(p)

    def run():
        seconds = n = 0
        for row in ids:
            r = server.handle_completions({"prompt": row.tolist(), "n_predict": 1, "cache_prompt": False})
            t = (r if isinstance(r, dict) else json.loads(r))["timings"]
            seconds += t["prompt_ms"] / 1000
            n += t["prompt_n"]
        return n / seconds
    return run, f"xllamacpp {x.__version__}"


def torch_model():
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    folder, name = os.path.split(path)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    x = torch.tensor(ids)

    def run():
        start = time.perf_counter()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=how == "bf16"):
            for row in x:
                model(row[None], use_cache=False).logits
        return rows * tokens / (time.perf_counter() - start)
    return run, f"torch {torch.__version__}"


run, version = llama() if how == "llama" else torch_model()
run()
print(json.dumps({"version": version}), flush=True)
for _ in sys.stdin:
    print(json.dumps({"tokens_s": run()}), flush=True)
