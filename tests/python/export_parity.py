"""Exported students against kd-run: python3 export_parity.py SENTENCE ROWS.bytes SAID LOGITS|FILE.onnx [LAYOUT]

ROWS: images of 28 x 28 bytes. SAID: what `kd-run --json --top 10` said of them, or logits. The other side is a text of logits, a
line a row, or an ONNX file, which must pass the checker and is run by ONNX Runtime, all rows in one batch and
the first one alone. Compared are probabilities, absolutely, and log-probabilities, relative to the largest logit.
"""
import json
import pathlib
import sys

import numpy as np

sentence, rows, said, other, *layout = sys.argv[1:]
onnx_file = other.endswith(".onnx")
tolerance = 1e-4 if onnx_file else 1e-5


def onnx_logits(pixels):
    import onnx
    import onnxruntime

    model = onnx.load(other)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8 and model.opset_import[0].version == 17, "not IR 8 and opset 17"
    session = onnxruntime.InferenceSession(other, providers=["CPUExecutionProvider"])
    meta, place = session.get_modelmeta().custom_metadata_map, session.get_inputs()[0]
    if meta["preprocess"].startswith("input = "):
        mean, scale = (float(meta["preprocess"].split(c)[1].split(")")[0]) for c in ("- ", "* "))
        pixels = (pixels.astype("f4") - np.float32(mean)) * np.float32(scale)
    if place.type == "tensor(float)":
        pixels = pixels.astype("f4")
    pixels = pixels if layout == ["nhwc"] else pixels.transpose(0, 3, 1, 2)
    logits, first = (session.run(["logits"], {"input": p})[0] for p in (pixels, pixels[:1]))
    assert np.abs(first - logits[:1]).max() < 1e-4, "a row alone is answered otherwise than in a batch"
    labels = json.loads(meta["labels"])
    assert len(labels) == logits.shape[1], "labels are missing"
    return logits


def log_softmax(z):
    z = z.astype("f8") - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def run_answers():
    lines = [json.loads(line)["top"] for line in pathlib.Path(said).read_text().splitlines()]
    by_class = [sorted(top, key=lambda answer: answer["class"]) for top in lines]
    return np.log([[answer["p"] for answer in row] for row in by_class])


images = np.fromfile(rows, "u1").reshape(-1, 28, 28, 1)
theirs = onnx_logits(images) if onnx_file else np.loadtxt(other, dtype="f4")
ours = log_softmax(np.loadtxt(said)) if said.endswith(".logits") else run_answers()
assert ours.shape == theirs.shape and len(ours) == len(images), f"{ours.shape} and {theirs.shape} for {len(images)} rows"
z = log_softmax(theirs)
p_off, log_off = np.abs(np.exp(z) - np.exp(ours)).max(), np.abs(z - ours).max() / max(1, np.abs(theirs).max())
print(f"# largest difference: {p_off:.2g} of a probability, {log_off:.2g} of the largest logit")
good = p_off <= tolerance and log_off <= tolerance
print(f"{'ok' if good else 'not ok'} - {sentence}")
sys.exit(not good)
