#!/usr/bin/env python3
"""Writes blocks.gguf: blocks of random bits of each type that kd reads, and what PyPI's gguf makes of them.

    pip install gguf numpy
    python tests/golden/make_gguf.py

Tensor NAME has the blocks, NAME.f32 the numbers of gguf.dequantize; the file is written by gguf's own writer, with a key of
each kind. Scales are random finite halves, small and negative ones among them.
"""
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

HERE = Path(__file__).resolve().parent
BLOCKS = 2
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q6_K: [208]}     # places of halves in a block


def main():
    rng = np.random.default_rng(8)
    w = gguf.GGUFWriter(HERE / "blocks.gguf", "blocks")
    for kind, value in {V.UINT8: 200, V.INT8: -100, V.UINT16: 60000, V.INT16: -30000, V.UINT32: 4000000000, V.INT32: -2000000000,
                        V.FLOAT32: 0.1, V.BOOL: True, V.STRING: "\u00e9t\u00e9", V.UINT64: 1 << 40, V.INT64: -(1 << 40),
                        V.FLOAT64: 0.1}.items():
        w.add_key_value(f"kind.{kind.name.lower()}", value, kind)
    w.add_array("list.text", ["a", "", "bc"])
    w.add_array("list.i32", [1, -2, 3])
    w.add_array("list.f32", [0.5, -0.25])
    for kind in (T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q4_K, T.Q6_K):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rows, width = (2, 256 * BLOCKS // 2 if block == 256 else 64)
        raw = rng.integers(0, 256, (rows, width // block, size)).astype(np.uint8)
        if kind in SCALES:
            for at in SCALES[kind]:
                raw[:, :, at:at + 2] = rng.normal(0, 0.02, (rows, width // block, 1)).astype(np.float16).view(np.uint8)
        else:
            dtype = {T.F32: np.float32, T.F16: np.float16, T.BF16: np.float32}[kind]
            values = rng.normal(0, 1, (rows, width)).astype(dtype)
            raw = values.view(np.uint8) if kind != T.BF16 else gguf.quantize(values, T.BF16)
        raw = np.ascontiguousarray(raw.reshape(rows, -1))
        numbers = gguf.dequantize(raw if kind not in (T.F32, T.F16) else values, kind).astype(np.float32)
        w.add_tensor(kind.name.lower(), raw, raw_shape=raw.shape, raw_dtype=kind)
        w.add_tensor(kind.name.lower() + ".f32", numbers)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
