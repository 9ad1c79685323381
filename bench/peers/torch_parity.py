#!/usr/bin/env python3
"""Whole runs, kd beside PyTorch: the same student, batches and initial weights give the same losses. `make parity`.

    torch_parity.py BIN FOLDER [--models a,b] [--optimizers adamw,sgd]

kd-train's trainer runs a student of bench/models.json over a store of Fashion-MNIST with a small teacher's logits, 0.1 CE +
0.9 T^2 KL at T = 4, a cosine of the learning rate, weight decay on weights alone; `kd_bench parity` hands out its first
50 losses, initial weights and batches. PyTorch (eager, f32) repeats the run from these, by torch.optim. The figure is the
largest relative difference of the 50 losses; nothing in it is timed.

How far curves part says as much of the run as of the programs: training amplifies differences of rounding, the more
the higher its learning rate. So each figure has beside it by how much PyTorch parts from itself when its initial weights are
disturbed by one part in 10^7 ("noise"), and the rates are such that 50 steps do not drown the comparison in it.
"""
import argparse
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "peers")]
import fashion  # noqa: E402
import figure  # noqa: E402
from torch_train import build  # noqa: E402

STEPS, BATCH, EPOCHS, BAR = 50, 128, 4, 1e-4
MODELS = ["mlp-784-512-256-10", "cnn-16-32-64", "dscnn-16-32-32-48"]
LOSS = {"ce": 0.1, "kd": 0.9, "temperature": 4}
TRAIN = {"adamw": {"optimizer": "adamw", "lr": 0.0002, "weight_decay": 0.01},
         "sgd": {"optimizer": "sgd", "lr": 0.001, "momentum": 0.9, "weight_decay": 0.0005}}


def start(spec, folder, noise):
    model = build(spec)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, layer in model.kd.items():
            for key, value in layer.state_dict().items():
                if key == "num_batches_tracked":
                    continue
                value.copy_(weights.pop(f"{name}.{key}").reshape(value.shape))
                if noise:
                    value.mul_(1 + noise * torch.randn(value.shape, generator=generator))
    if weights:
        sys.exit(f"torch_parity.py: tensors that PyTorch's model has no place for: {', '.join(weights)}")
    return model.train()


def make_optimizer(model, train):
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]   # biases and norms
    groups = [{"params": decayed, "weight_decay": train["weight_decay"]}, {"params": plain, "weight_decay": 0}]
    if train["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=train["lr"])
    return torch.optim.SGD(groups, lr=train["lr"], momentum=train["momentum"])


def repeat(spec, folder, train, total, noise=0.0):
    """PyTorch's losses of the run in folder."""
    model, rows = start(spec, folder, noise), load_file(folder / "batches.safetensors")
    optimizer, temperature, losses = make_optimizer(model, train), LOSS["temperature"], []
    x = rows["x"].reshape(-1, *spec["input"]).permute(0, 3, 1, 2).contiguous()
    for step in range(STEPS):
        at = slice(step * BATCH, (step + 1) * BATCH)
        for group in optimizer.param_groups:
            group["lr"] = train["lr"] * 0.5 * (1 + math.cos(math.pi * step / total))
        optimizer.zero_grad(set_to_none=True)
        logits = model(x[at])
        kl = F.kl_div(F.log_softmax(logits / temperature, 1), F.log_softmax(rows["teacher"][at] / temperature, 1),
                      reduction="batchmean", log_target=True)
        loss = LOSS["ce"] * F.cross_entropy(logits, rows["labels"][at].long()) + LOSS["kd"] * temperature ** 2 * kl
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def difference(a, b):
    return max(abs(p - q) / abs(q) for p, q in zip(a, b, strict=True))


def one(args, store, name, spec, optimizer):
    """The figure of one student and optimizer; False: over the bar."""
    train, folder = TRAIN[optimizer], args.folder / f"{name}-{optimizer}"
    settings = train | {"epochs": EPOCHS, "batch": BATCH, "schedule": "cosine"}
    student = args.folder / f"{name}-{optimizer}.yaml"
    student.write_text(f"model: {json.dumps(spec)}\nloss: {json.dumps(LOSS)}\ntrain: {json.dumps(settings)}\n")
    kd = json.loads(subprocess.run([args.bin / "bench/kd_bench", "parity", store, student, folder, str(STEPS)],
                                   stdout=subprocess.PIPE, check=True).stdout)
    rows = json.loads(fashion.tool(args.bin / "kd-store", "stat", store, "--json"))["splits"]["train"]
    total = rows // BATCH * EPOCHS
    peer = repeat(spec, folder, train, total)
    worst, noise = difference(kd["losses"], peer), difference(repeat(spec, folder, train, total, 1e-7), peer)
    print(f"{name} {optimizer}: {STEPS} losses from {peer[0]:.4f} to {peer[-1]:.4f}, largest relative difference {worst:.2g} "
          f"(weights disturbed by 1e-7: {noise:.2g})")
    figure.save(HERE / "results", f"parity-{name}-{optimizer}", float(f"{worst:.3g}"), "relative difference", "make parity",
                bar=BAR, direction="lower", peer=f"PyTorch {torch.__version__} f32, eager",
                versions={"torch": torch.__version__, "backend": kd["backend"], "build": kd["build"]},
                details={"what": f"largest relative difference of the first {STEPS} losses of a run of kd-train's trainer "
                                 "and of PyTorch: same initial weights, batches, loss, schedule and decay",
                         "noise": noise, "train": settings, "loss": LOSS, "kd": kd["losses"], "peer": peer})
    return worst <= BAR


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bin", type=Path, help="folder of kd's programs")
    parser.add_argument("folder", type=Path, help="for what is made on the way; emptied")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--optimizers", default="adamw,sgd")
    args = parser.parse_args()
    args.bin = args.bin.resolve()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    torch.set_flush_denormal(True)
    torch.set_num_threads(2)
    models = json.loads((HERE / "models.json").read_text())
    store = fashion.pack(args.bin, args.folder)
    fashion.teach(args.bin, args.folder, store)
    fits = [one(args, store, name, models[name], optimizer)
            for name in args.models.split(",") for optimizer in args.optimizers.split(",")]
    return 0 if all(fits) else 1


if __name__ == "__main__":
    sys.exit(main())
