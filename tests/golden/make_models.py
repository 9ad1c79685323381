#!/usr/bin/env python3
"""Golden tensors of small models, computed by PyTorch: forward, loss, gradients, ten optimizer steps.

    python3 make_models.py [FOLDER]        # writes FOLDER/{mlp,cnn,cnnflat,dscnn,resnet}.safetensors

The models are written here a second time, from the description in include/kd/model.h and with
torch.nn's own layers, so that kd and the golden values share no code. Parameters carry kd's names.
Everything is computed in double precision from single-precision inputs and then rounded: the values
are PyTorch's, without the rounding error of a single-precision run. The script repeats the whole
computation in single precision and refuses a seed whose results part by more than the tests allow
a third of (a ReLU input too close to zero, a gradient too small for Adam's division).

README.md lists the tensors. Needs torch, numpy and safetensors (bench/peers/requirements.txt).
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import nn

BATCH, CLASSES, STEPS = 8, 10, 10
ALPHA, BETA, TEMPERATURE = 0.3, 0.7, 4.0          # of CE, of KD
ADAMW = dict(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
SGD = dict(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
# Largest differences allowed between the double and the single run, relative to a tensor's maximum.
SLACK_VALUE, SLACK_AFTER = 3e-6, 3e-5

SPECS = {
    "mlp": dict(arch="mlp", input=[12, 12, 1], classes=CLASSES, hidden=[40, 17]),
    "cnn": dict(arch="cnn", input=[12, 12, 3], classes=CLASSES, channels=[8, 16, 24], strides=[1, 2, 2],
                kernel=3, norm="batch", head="gap"),
    "cnnflat": dict(arch="cnn", input=[12, 12, 2], classes=CLASSES, channels=[6, 12], strides=[1, 1], pools=[2, 1],
                    kernel=3, norm="none", head="flatten", hidden=[14]),
    "dscnn": dict(arch="dscnn", input=[16, 16, 1], classes=CLASSES, channels=[8, 16, 16, 24], strides=[2, 1, 2, 1],
                  kernel=3, norm="batch", head="gap"),
    "resnet": dict(arch="resnet", input=[12, 12, 1], classes=CLASSES, channels=[8, 8, 16], strides=[1, 1, 2],
                   blocks=2, kernel=3, norm="batch", head="gap"),
}


class Model(nn.Module):
    """Layers under kd's names; forward takes images as (B, H, W, C)."""

    def __init__(self, spec):
        super().__init__()
        self.spec, self.names = spec, {}
        getattr(self, spec["arch"])(spec)

    def layer(self, name, module):
        self.names[name] = module
        self.add_module(name.replace(".", "/"), module)  # torch forbids dots in a module's name

    def named_tensors(self):
        """kd's name -> tensor (parameters and running statistics)."""
        return {f"{name}.{key}": t for name, module in self.names.items()
                for key, t in module.state_dict(keep_vars=True).items() if key != "num_batches_tracked"}

    def conv(self, name, inputs, outputs, k, stride, groups=1, bias=False):
        self.layer(name, nn.Conv2d(inputs, outputs, k, stride, k // 2, groups=groups, bias=bias))

    def dense(self, inputs, hidden):
        for i, out in enumerate([*hidden, self.spec["classes"]]):
            self.layer(f"fc{i}", nn.Linear(inputs, out))
            inputs = out

    def run_dense(self, x):
        last = len(self.spec.get("hidden", []))
        for i in range(last):
            x = F.relu(self.names[f"fc{i}"](x))
        return self.names[f"fc{last}"](x)

    # Each architecture builds its layers and sets self.run.

    def mlp(self, spec):
        self.dense(int(np.prod(spec["input"])), spec["hidden"])
        self.run = lambda x: self.run_dense(x.flatten(1))

    def cnn(self, spec):
        (h, w, c), norm = spec["input"], spec["norm"] == "batch"
        pools = spec.get("pools") or [1] * len(spec["channels"])
        for i, (out, stride, pool) in enumerate(zip(spec["channels"], spec["strides"], pools)):
            self.conv(f"conv{i}", c, out, spec["kernel"], stride, bias=not norm)
            if norm:
                self.layer(f"bn{i}", nn.BatchNorm2d(out))
            h, w, c = ((n + 2 * (spec["kernel"] // 2) - spec["kernel"]) // stride + 1 for n in (h, w)), None, out
            h, w = (n // pool for n in h)
        self.dense(c if spec["head"] == "gap" else h * w * c, spec.get("hidden", []))

        def run(x):
            for i, pool in enumerate(pools):
                x = self.names[f"conv{i}"](x)
                x = F.relu(self.names[f"bn{i}"](x) if norm else x)
                x = F.max_pool2d(x, pool) if pool > 1 else x
            return self.run_dense(x.mean((2, 3)) if spec["head"] == "gap" else x.flatten(1))
        self.run = run

    def dscnn(self, spec):
        k, c = spec["kernel"], spec["channels"][0]
        self.conv("stem.conv", spec["input"][2], c, k, spec["strides"][0])
        self.layer("stem.bn", nn.BatchNorm2d(c))
        blocks = list(enumerate(zip(spec["channels"][1:], spec["strides"][1:])))
        for i, (out, stride) in blocks:
            self.conv(f"block{i}.dw", c, c, k, stride, groups=c)
            self.layer(f"block{i}.dw_bn", nn.BatchNorm2d(c))
            self.conv(f"block{i}.pw", c, out, 1, 1)
            self.layer(f"block{i}.pw_bn", nn.BatchNorm2d(out))
            c = out
        self.dense(c, [])

        def run(x):
            x = F.relu(self.names["stem.bn"](self.names["stem.conv"](x)))
            for i, _ in blocks:
                for part in ("dw", "pw"):
                    x = F.relu(self.names[f"block{i}.{part}_bn"](self.names[f"block{i}.{part}"](x)))
            return self.run_dense(x.mean((2, 3)))
        self.run = run

    def resnet(self, spec):
        k, c = spec["kernel"], spec["channels"][0]
        self.conv("stem.conv", spec["input"][2], c, k, spec["strides"][0])
        self.layer("stem.bn", nn.BatchNorm2d(c))
        blocks = []
        for s, (out, stage_stride) in enumerate(zip(spec["channels"][1:], spec["strides"][1:])):
            for b in range(spec["blocks"]):
                name, stride = f"stage{s}.block{b}", stage_stride if b == 0 else 1
                self.conv(f"{name}.conv0", c, out, k, stride)
                self.layer(f"{name}.bn0", nn.BatchNorm2d(out))
                self.conv(f"{name}.conv1", out, out, k, 1)
                self.layer(f"{name}.bn1", nn.BatchNorm2d(out))
                if stride != 1 or c != out:
                    self.conv(f"{name}.skip.conv", c, out, 1, stride)
                    self.layer(f"{name}.skip.bn", nn.BatchNorm2d(out))
                blocks.append(name)
                c = out
        self.dense(c, [])

        def run(x):
            m = self.names
            x = F.relu(m["stem.bn"](m["stem.conv"](x)))
            for name in blocks:
                y = F.relu(m[f"{name}.bn0"](m[f"{name}.conv0"](x)))
                y = m[f"{name}.bn1"](m[f"{name}.conv1"](y))
                skip = m[f"{name}.skip.bn"](m[f"{name}.skip.conv"](x)) if f"{name}.skip.conv" in m else x
                x = F.relu(y + skip)
            return self.run_dense(x.mean((2, 3)))
        self.run = run

    def forward(self, x):
        return self.run(x.permute(0, 3, 1, 2))


def kd_loss(logits, teacher, temperature, t2):
    kl = F.kl_div(F.log_softmax(logits / temperature, 1), F.log_softmax(teacher / temperature, 1),
                  reduction="batchmean", log_target=True)
    return kl * (temperature ** 2 if t2 else 1)


def mix(logits, labels, teacher, temperature=TEMPERATURE, t2=True):
    return ALPHA * F.cross_entropy(logits, labels) + BETA * kd_loss(logits, teacher, temperature, t2)


def initial(spec, seed):
    """Inputs and parameters, single precision; nothing left at 0 or 1, so that no term hides."""
    torch.manual_seed(seed)
    model = Model(spec)
    params = {}
    for name, t in model.named_tensors().items():
        t = t.detach().float()
        owner = model.names[name.rsplit(".", 1)[0]]
        if isinstance(owner, nn.BatchNorm2d):
            noise = torch.randn_like(t)
            t = torch.exp(0.2 * noise) if name.endswith(("weight", "running_var")) else 0.2 * noise
        params[name] = t.clone()
    x = torch.randn(BATCH, *spec["input"])
    return x, torch.randint(CLASSES, (BATCH,)), 3 * torch.randn(BATCH, CLASSES), params


def fresh(spec, params, dtype):
    model = Model(spec).to(dtype)
    with torch.no_grad():
        for name, t in model.named_tensors().items():
            t.copy_(params[name])
    return model


def train(spec, params, x, labels, teacher, dtype, optimizer, options):
    """STEPS steps on one batch; weight decay on the weights of linear and convolution only."""
    model = fresh(spec, params, dtype)
    decayed = [m.weight for m in model.names.values() if isinstance(m, (nn.Linear, nn.Conv2d))]
    others = [p for p in model.parameters() if all(p is not d for d in decayed)]
    opt = optimizer([{"params": decayed}, {"params": others, "weight_decay": 0.0}], **options)
    losses = []
    for _ in range(STEPS):
        opt.zero_grad()
        loss = mix(model(x), labels, teacher)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    model.eval()
    return model, torch.tensor(losses, dtype=torch.float64), model(x).detach()


def compute(spec, seed, dtype):
    x, labels, teacher, params = initial(spec, seed)
    out = {"x": x, "labels": labels.to(torch.int32), "teacher": teacher}
    out |= {f"param.{name}": t for name, t in params.items()}
    x, teacher = x.to(dtype), teacher.to(dtype)

    model = fresh(spec, params, dtype).train()
    logits = model(x)
    logits.retain_grad()
    mix(logits, labels, teacher).backward()
    out["logits"], out["dlogits"] = logits.detach(), logits.grad
    for name, t in model.named_tensors().items():
        if t.requires_grad:
            out[f"grad.{name}"] = t.grad
        else:
            out[f"after1.{name}"] = t.clone()
    out["eval.logits"] = model.eval()(x).detach()

    z = logits.detach().requires_grad_()
    out["loss.ce"] = F.cross_entropy(z, labels).detach().reshape(1)
    for temperature in (1, 2, 4):
        for t2 in (False, True):
            loss = mix(z, labels, teacher, temperature, t2)
            tag = f"T{temperature}{'.t2' if t2 else ''}"
            out[f"loss.{tag}"] = loss.detach().reshape(1)
            out[f"dlogits.{tag}"] = torch.autograd.grad(loss, z)[0]

    runs = [("after10", torch.optim.AdamW, ADAMW)]
    runs += [("sgd10", torch.optim.SGD, SGD)] if spec["arch"] == "mlp" else []
    for tag, optimizer, options in runs:
        model, losses, logits = train(spec, params, x, labels, teacher, dtype, optimizer, options)
        out[f"{tag}.losses"], out[f"{tag}.logits"] = losses, logits
        out |= {f"{tag}.{name}": t.detach() for name, t in model.named_tensors().items()}
    return out


def distance(a, b):
    return ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30)).item()


def serialize(tensors, metadata):
    """Safetensors bytes; the library writes the metadata in random order, here it is sorted."""
    raw = save(tensors, metadata)
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + raw[end:]


def make(name, spec, folder):
    for seed in range(1, 200):
        double, single = compute(spec, seed, torch.float64), compute(spec, seed, torch.float32)
        value = after = 0.0
        for key, t in double.items():
            d = distance(single[key], t)
            if key.startswith(("after10", "sgd10")):
                after = max(after, d)
            else:
                value = max(value, d)
        if value <= SLACK_VALUE and after <= SLACK_AFTER:
            break
    else:
        sys.exit(f"make_models.py: {name}: no seed keeps single precision within {SLACK_VALUE} and {SLACK_AFTER}")
    keep = ("loss.", "after10.losses", "sgd10.losses")   # scalars stay double
    tensors = {k: (t if t.dtype == torch.int32 else t.double() if k.startswith(keep) else t.float()).contiguous()
               for k, t in double.items()}
    metadata = dict(generator="tests/golden/make_models.py", torch=torch.__version__, seed=str(seed),
                    spec=json.dumps(spec), alpha=str(ALPHA), beta=str(BETA), temperature=str(TEMPERATURE), t2="true",
                    steps=str(STEPS), single_vs_double=f"{value:.1e}", single_vs_double_after=f"{after:.1e}",
                    lr=str(ADAMW["lr"]), beta1=str(ADAMW["betas"][0]), beta2=str(ADAMW["betas"][1]),
                    eps=str(ADAMW["eps"]), weight_decay=str(ADAMW["weight_decay"]))
    if spec["arch"] == "mlp":
        metadata |= dict(sgd_lr=str(SGD["lr"]), sgd_momentum=str(SGD["momentum"]), sgd_nesterov="true",
                         sgd_weight_decay=str(SGD["weight_decay"]))
    path = folder / f"{name}.safetensors"
    path.write_bytes(serialize(tensors, metadata))
    print(f"{path}: {path.stat().st_size} bytes, {len(tensors)} tensors, seed {seed}, "
          f"single vs double {value:.1e} (after {STEPS} steps {after:.1e})")


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    torch.set_num_threads(1)
    for name, spec in SPECS.items():
        make(name, spec, folder)


if __name__ == "__main__":
    main()
