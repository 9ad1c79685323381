#!/usr/bin/env python3
"""Training throughput of PyTorch on the models of bench/models.json: the peer of `kd_bench train`.

    torch_train.py MODEL [--batch 128] [--threads 2] [--modes a,b] [--write FILE] [--tune-seconds 2]

A step is forward, 0.1 CE + 0.9 T^2 KL at T = 4, backward, fused AdamW without weight decay, gradients
set to None; inputs, labels and teacher logits are tensors in memory. Several modes are warmed up and
measured for a moment; the best one serves the requests:

    eager       plain, contiguous tensors               eager-cl      channels_last (convolutions)
    compile     torch.compile of forward + loss         compile-cl    the same with channels_last
    compile-max mode="max-autotune-no-cudagraphs"       compile-max-cl

With --precision bf16 the model runs under CPU autocast and the loss on logits made f32 again; the weights, the
optimizer and, by autocast's own rules, what is not a product stay f32. Modes named ...-fast leave autocast out and let
oneDNN round the operands of f32 products to bf16 by itself (torch.backends.mkldnn, fp32_precision).

Standard output is JSON lines: first {"ready": true, "modes": {mode: img/s}, "best": mode, "losses": [...], ...},
then one line for each line "go SECONDS [MODE]" on standard input, to its end. While it waits it uses no
CPU, so that a driver can let two programs measure in turn. --write saves the batches and the initial
weights (kd's names) as safetensors before anything is measured: kd_bench --data reads them.
"""
import argparse
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

ROWS, CURVE_STEPS, WARM_STEPS = 4096, 50, 20
CE, KD, TEMPERATURE = 0.1, 0.9, 4.0


class KdNames(nn.Sequential):
    """A chain of layers; `kd` maps kd's layer names to them."""

    def __init__(self):
        super().__init__()
        self.kd = {}

    def add(self, layer, name=None):
        self.append(layer)
        if name:
            self.kd[name] = layer
        return self


def conv(model, name, norm, c, out, k, stride, groups=1):
    model.add(nn.Conv2d(c, out, k, stride, k // 2, groups=groups, bias=False), name)
    model.add(nn.BatchNorm2d(out), norm)
    model.add(nn.ReLU(inplace=True))
    return out


def build(spec):
    model, (h, w, c) = KdNames(), spec["input"]
    if spec["arch"] == "mlp":
        model.add(nn.Flatten())
        width = h * w * c
    elif spec["arch"] == "cnn" and spec["norm"] == "batch" and spec["head"] == "gap":
        for i, (out, stride) in enumerate(zip(spec["channels"], spec["strides"])):
            c = conv(model, f"conv{i}", f"bn{i}", c, out, spec["kernel"], stride)
        width = c
    elif spec["arch"] == "dscnn":
        c = conv(model, "stem.conv", "stem.bn", c, spec["channels"][0], spec["kernel"], spec["strides"][0])
        for i, (out, stride) in enumerate(zip(spec["channels"][1:], spec["strides"][1:])):
            conv(model, f"block{i}.dw", f"block{i}.dw_bn", c, c, spec["kernel"], stride, groups=c)
            c = conv(model, f"block{i}.pw", f"block{i}.pw_bn", c, out, 1, 1)
        width = c
    else:
        sys.exit(f"torch_train.py: cannot build {spec}")
    if spec["arch"] != "mlp":
        model.add(nn.AdaptiveAvgPool2d(1)).add(nn.Flatten())
    widths = [*spec.get("hidden", []), spec["classes"]]
    for i, out in enumerate(widths):
        model.add(nn.Linear(width, out), f"fc{i}")
        if i + 1 < len(widths):
            model.add(nn.ReLU(inplace=True))
        width = out
    return model


class Data:
    """Seeded rows and initial weights, the same for every mode and for kd."""

    def __init__(self, spec, batch):
        torch.manual_seed(1)
        rows = (ROWS + batch - 1) // batch * batch
        h, w, c = spec["input"]
        self.x = torch.randn(rows, c, h, w)
        self.labels = torch.randint(spec["classes"], (rows,))
        self.teacher = 3 * torch.randn(rows, spec["classes"])
        self.weights = build(spec).state_dict()

    def write(self, spec, path):
        model = build(spec)
        model.load_state_dict(self.weights)
        tensors = {f"param.{name}.{key}": t for name, layer in model.kd.items()
                   for key, t in layer.state_dict().items() if key != "num_batches_tracked"}
        tensors |= {"x": self.x.permute(0, 2, 3, 1).contiguous(), "labels": self.labels.to(torch.int32),
                    "teacher": self.teacher}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, {"generator": "bench/peers/torch_train.py", "torch": torch.__version__})


class Trainer:
    def __init__(self, spec, data, batch, mode, precision):
        layout = torch.channels_last if "-cl" in mode else torch.contiguous_format
        self.fast = mode.endswith("-fast")
        self.autocast = precision == "bf16" and not self.fast
        self.batch, self.at = batch, 0
        self.model = build(spec)
        self.model.load_state_dict(data.weights)
        self.model = self.model.to(memory_format=layout).train()
        self.x = data.x.contiguous(memory_format=layout).split(batch)
        self.labels, self.teacher = data.labels.split(batch), data.teacher.split(batch)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0, fused=True)
        self.forward = self.loss
        if mode.startswith("compile-max"):
            self.forward = torch.compile(self.loss, mode="max-autotune-no-cudagraphs")
        elif mode.startswith("compile"):
            self.forward = torch.compile(self.loss)

    def loss(self, x, labels, teacher):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits = self.model(x)
        logits = logits.float()
        kl = F.kl_div(F.log_softmax(logits / TEMPERATURE, 1), F.log_softmax(teacher / TEMPERATURE, 1),
                      reduction="batchmean", log_target=True)
        return CE * F.cross_entropy(logits, labels) + KD * TEMPERATURE ** 2 * kl

    def step(self):
        torch.backends.mkldnn.set_flags(_fp32_precision="bf16" if self.fast else "ieee")
        i = self.at
        self.at = (i + 1) % len(self.x)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward(self.x[i], self.labels[i], self.teacher[i])
        loss.backward()
        self.optimizer.step()
        return loss

    def measure(self, seconds):
        steps, cpu, start = 0, cpu_seconds(), time.perf_counter()
        while True:
            loss = self.step()
            steps += 1
            wall = time.perf_counter() - start
            if wall >= seconds:
                break
        loss = loss.item()
        return {"img_s": steps * self.batch / wall, "steps": steps, "seconds": wall, "cpu_s": cpu_seconds() - cpu,
                "loss": loss, "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def cpu_seconds():
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime


def reply(line):
    print(json.dumps(line), flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--models", type=Path, default=Path(__file__).resolve().parents[1] / "models.json")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32", help="[f32]")
    parser.add_argument("--modes", help="comma-separated [all that make sense for the model]")
    parser.add_argument("--write", type=Path, metavar="FILE", help="save batches and initial weights")
    parser.add_argument("--tune-seconds", type=float, default=2, help="time to measure each mode for [2]")
    return parser.parse_args()


def main():
    args = arguments()
    models = json.loads(args.models.read_text())
    if args.model not in models:
        sys.exit(f"torch_train.py: {args.models}: no model {args.model}; there are: {', '.join(models)}")
    spec = models[args.model]
    layouts = [""] if spec["arch"] == "mlp" else ["", "-cl"]
    kinds = ("eager", "compile", "compile-max")
    ways = ["", "-fast"] if args.precision == "bf16" else [""]
    every = [kind + layout + way for kind in kinds for layout in layouts for way in ways]
    modes = args.modes.split(",") if args.modes else every
    os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "1")
    torch.set_flush_denormal(True)   # before the team starts: moments of dead units decay into slow numbers
    torch.set_num_threads(args.threads)
    torch._dynamo.config.cache_size_limit = 64   # one model object a mode

    data = Data(spec, args.batch)
    if args.write:
        data.write(spec, args.write)

    trainers, rates, prepare, curve, failed = {}, {}, {}, None, {}
    for mode in modes:
        start = time.perf_counter()
        try:
            trainer = Trainer(spec, data, args.batch, mode, args.precision)
            losses = [trainer.step() for _ in range(CURVE_STEPS if curve is None else WARM_STEPS)]
        except Exception as e:  # a mode that this PyTorch cannot do on this machine; said in the result
            failed[mode] = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
            continue
        curve = curve or [loss.item() for loss in losses]
        prepare[mode] = time.perf_counter() - start
        trainers[mode] = trainer
    for mode, trainer in trainers.items():
        rates[mode] = max(trainer.measure(args.tune_seconds / 2)["img_s"] for _ in range(2))
    if not rates:
        sys.exit(f"torch_train.py: no mode works: {failed}")
    best = max(rates, key=rates.get)
    reply({"ready": True, "model": args.model, "batch": args.batch, "threads": args.threads,
           "params": sum(p.numel() for p in trainers[best].model.parameters()), "modes": rates, "best": best,
           "prepare_s": prepare, "failed": failed, "losses": curve,
           "versions": {"torch": torch.__version__, "python": platform.python_version()},
           "config": [line.strip(" -") for line in torch.__config__.show().splitlines()
                      if line.strip(" -").startswith(("Intel(R)", "OpenMP", "CPU capability"))]})
    for line in sys.stdin:
        words = line.split()
        if not 2 <= len(words) <= 3 or words[0] != "go" or (len(words) == 3 and words[2] not in trainers):
            sys.exit(f'torch_train.py: expected "go SECONDS [MODE]", found "{line.strip()}"')
        mode = words[2] if len(words) == 3 else best
        reply({"mode": mode, **trainers[mode].measure(float(words[1]))})


if __name__ == "__main__":
    main()
