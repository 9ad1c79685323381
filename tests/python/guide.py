"""Runs every snippet of docs/python.md, in order, as one program; those marked "python torch" only with PyTorch.

    guide.py STORE.kd FOLDER SCRATCH
"""
import contextlib
import io
import os
import pathlib
import re
import sys

import numpy as np

from tap import ROOT, Skip, finish, test, tool

import kdstore

scratch = pathlib.Path(sys.argv[3]) / "guide"
scratch.mkdir()
os.chdir(scratch)
dice = np.random.default_rng(1)
np.save("x.npy", dice.integers(0, 255, (600, 28, 28, 1), np.uint8))
np.save("y.npy", np.arange(600) % 10)
tool("kd-dump", "--train-input", "x.npy", "--train-label", "y.npy", "--chunk-rows", "128", "-o", "mnist.kd")
with kdstore.extend("mnist.kd", "big", [kdstore.Column("big/logits", "logits", shape=(10,))], teacher={}) as w:
    for c in w.todo():
        w.append({"big/logits": dice.normal(size=(c.rows, 10))})

page = (ROOT / "docs" / "python.md").read_text()
snippets = re.findall(r"^```python( torch)?\n(.*?)^```$", page, re.M | re.S)
names = {}


def run(code):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "docs/python.md", "exec"), names)
    return out.getvalue()


@test
def every_snippet_of_the_guide_runs():
    assert len(snippets) >= 6
    printed = "".join(run(code) for torch, code in snippets if not torch)
    assert "600 {" in printed and "chunk 1000000 asked for" in printed, printed
    assert "9f0c9f0c" in printed and "classes a row" in printed, printed


@test
def the_guides_stores_are_whole():
    for line in re.findall(r"^    (kd-store .*)$", page, re.M):
        tool(*line.split())
    assert "whole" in tool("kd-store", "verify", "mnist.kd")


@test
def the_guides_training_loop_runs():
    try:
        import torch  # noqa: F401
    except ImportError:
        raise Skip("PyTorch is not installed") from None
    for torch_only, code in snippets:
        if torch_only:
            run(code)


finish()
