#!/usr/bin/env python3
"""The same steps of a language model in PyTorch: what bench/language.py compares with.

    language.py eager|compile FOLDER DATA [--bf16] [--threads N]

Reads the batch that `kd_bench language train` reads and serves "go SECONDS" lines as it does. A step is forward, KL to the kept
probabilities of each position (all other classes have none), backward, fused AdamW; attention is SDPA's.
"""
import argparse
import json
import resource
import sys
import time
import warnings

warnings.filterwarnings("ignore")
import numpy as np
import torch
import transformers

transformers.logging.set_verbosity_error()
FIRST_STEPS = 4   # as bench/language.c


def read(path):
    data = np.fromfile(path, "<i4")
    sequences, tokens, kept = data[:3]
    all_tokens, positions = sequences * tokens, sequences * (tokens - 1)
    ids, classes, share = np.split(data[3:], [all_tokens, all_tokens + positions * kept])
    return (torch.tensor(ids.reshape(sequences, tokens)).long(), torch.tensor(classes.reshape(positions, kept)).long(),
            torch.tensor(share.view("<f4").reshape(positions, kept)))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("how", choices=("eager", "compile"))
    p.add_argument("folder")
    p.add_argument("data")
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    ids, classes, share = read(a.data)
    model = transformers.AutoModelForCausalLM.from_pretrained(a.folder, attn_implementation="sdpa", dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0, fused=True)

    def loss_of():
        with torch.autocast("cpu", torch.bfloat16, enabled=a.bf16):
            z = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        z = z.float()
        log_q = z.gather(1, classes) - z.logsumexp(1, keepdim=True)
        return (share * (share.log() - log_q)).sum() / len(share)

    run = torch.compile(loss_of) if a.how == "compile" else loss_of

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = run()
        loss.backward()
        optimizer.step()
        return loss

    first = [step().item() for _ in range(FIRST_STEPS)]
    print(json.dumps({"ready": a.how, "first": first, "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}),
          flush=True)
    for line in sys.stdin:
        seconds = float(line.split()[1])
        start, cpu, n = time.perf_counter(), time.process_time(), 0
        while not n or time.perf_counter() - start < seconds:
            step()
            n += 1
        took = time.perf_counter() - start
        print(json.dumps({"seconds": took, "cpu_s": time.process_time() - cpu, "tokens_s": n * ids.numel() / took,
                          "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


if __name__ == "__main__":
    main()
