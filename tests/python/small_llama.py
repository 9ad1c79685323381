"""A language model with random weights and a byte-level BPE tokenizer, as a folder: small_llama.py BPE.json FOLDER."""
import json, os, struct, sys
import numpy as np
golden, folder = json.load(open(sys.argv[1])), sys.argv[2]
os.makedirs(folder)
spec = golden["specs"]["smollm"]
spec["model"].update(vocab=golden["vocab"], merges=golden["merges"])
json.dump(spec, open(f"{folder}/tokenizer.json", "w"))
json.dump({"chat_template": golden["chat_templates"]["chatml"], "eos_token": "<|im_end|>"}, open(f"{folder}/tokenizer_config.json", "w"))
V, W, F = len(golden["vocab"]), 16, 24
json.dump({"model_type": "llama", "hidden_size": W, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
           "intermediate_size": F, "vocab_size": V, "max_position_embeddings": 256, "tie_word_embeddings": True}, open(f"{folder}/config.json", "w"))
at = "model.layers.0."
shapes = {"model.embed_tokens.weight": (V, W), "model.norm.weight": (W,), at + "input_layernorm.weight": (W,), at + "post_attention_layernorm.weight": (W,),
          at + "self_attn.q_proj.weight": (W, W), at + "self_attn.k_proj.weight": (8, W), at + "self_attn.v_proj.weight": (8, W),
          at + "self_attn.o_proj.weight": (W, W), at + "mlp.gate_proj.weight": (F, W), at + "mlp.up_proj.weight": (F, W), at + "mlp.down_proj.weight": (W, F)}
rng, head, data = np.random.default_rng(1), {}, b""
for name, shape in shapes.items():
    raw = rng.normal(0, 0.3, shape).astype("<f4").tobytes()
    head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
    data += raw
text = json.dumps(head).encode()
open(f"{folder}/model.safetensors", "wb").write(struct.pack("<Q", len(text)) + text + data)
