"""A small encoder of BERT's kind with random weights, as Hugging Face and sentence-transformers lay it out; and what it says, in
numpy. python3 tiny_bert.py FOLDER mean|cls DENSE NARROW     (widths of a projection and of the tables; 0: none)
"""
import json
import math
import pathlib
import struct
import sys

import numpy as np

WIDTH, LAYERS, HEADS, FFN, PLACES = 64, 2, 4, 96, 48
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c cat dog the sat on mat ##s ##ing run über uber ! . , naive ##ve 1 ##2".split()


def weights(dense, narrow):
    rng = np.random.default_rng(5)

    def linear(name, rows, columns):
        return {f"{name}.weight": rng.normal(0, 0.3, (rows, columns)), f"{name}.bias": rng.normal(0, 0.1, rows)}

    def norm(name, width):
        return {f"{name}.weight": rng.normal(1, 0.1, width), f"{name}.bias": rng.normal(0, 0.1, width)}

    table = narrow or WIDTH
    w = {f"embeddings.{n}_embeddings.weight": rng.normal(0, 1, (rows, table))
         for n, rows in (("word", len(WORDS)), ("position", PLACES), ("token_type", 2))}
    w.update(norm("embeddings.LayerNorm", table))
    if narrow:
        w.update(linear("embeddings_project", WIDTH, narrow))
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        for name in "query", "key", "value":
            w.update(linear(f"{at}attention.self.{name}", WIDTH, WIDTH))
        w.update(linear(f"{at}attention.output.dense", WIDTH, WIDTH))
        w.update(norm(f"{at}attention.output.LayerNorm", WIDTH))
        w.update(linear(f"{at}intermediate.dense", FFN, WIDTH))
        w.update(linear(f"{at}output.dense", WIDTH, FFN))
        w.update(norm(f"{at}output.LayerNorm", WIDTH))
    projection = linear("linear", dense, WIDTH) if dense else {}
    return [{k: v.astype("f4") for k, v in part.items()} for part in (w, projection)]


def save_tensors(path, tensors):
    header, at = {}, 0
    for name in sorted(tensors):
        header[name] = {"dtype": "F32", "shape": tensors[name].shape, "data_offsets": [at, at + tensors[name].nbytes]}
        at += tensors[name].nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors[n].tobytes() for n in sorted(tensors)))


def make(folder, pooling, dense, narrow):
    folder = pathlib.Path(folder)
    w, projection = weights(dense, narrow)

    def put(name, value):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))

    put("config.json", dict(model_type="electra" if narrow else "bert", architectures=["ElectraModel" if narrow else "BertModel"],
                            hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=FFN,
                            vocab_size=len(WORDS), max_position_embeddings=PLACES, type_vocab_size=2, hidden_act="gelu",
                            layer_norm_eps=1e-6, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0,
                            **({"embedding_size": narrow} if narrow else {})))
    save_tensors(folder / "model.safetensors", w)
    put("vocab.txt", "\n".join(WORDS) + "\n")
    put("tokenizer_config.json", dict(do_lower_case=True, tokenizer_class="BertTokenizer", model_max_length=PLACES))
    put("sentence_bert_config.json", dict(max_seq_length=PLACES - 8, do_lower_case=False))
    put("1_Pooling/config.json", dict(word_embedding_dimension=WIDTH, pooling_mode_cls_token=pooling == "cls",
                                      pooling_mode_mean_tokens=pooling == "mean", pooling_mode_max_tokens=False,
                                      pooling_mode_mean_sqrt_len_tokens=False))
    modules = ["Transformer", "Pooling"] + ["Dense"] * bool(dense) + ["Normalize"]
    if dense:
        put("2_Dense/config.json", dict(in_features=WIDTH, out_features=dense, bias=True,
                                        activation_function="torch.nn.modules.linear.Identity"))
        save_tensors(folder / "2_Dense" / "model.safetensors", projection)
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3_Normalize"}
    put("modules.json", [dict(idx=i, name=str(i), path=paths[m], type=f"sentence_transformers.models.{m}")
                         for i, m in enumerate(modules)])


def answers(sequences, pooling, dense, narrow):
    """hidden states of each sequence, and embeddings (n, dim), in double precision."""
    w, projection = weights(dense, narrow)
    w = {k: v.astype("f8") for k, v in w.items()}
    erf = np.vectorize(math.erf)

    def linear(x, name, of=None):
        of = of or w
        return x @ of[f"{name}.weight"].T + of[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(x):
        return x.reshape(len(x), HEADS, -1).transpose(1, 0, 2)

    hidden, out = [], []
    for ids in sequences:
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
        x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        x = linear(x, "embeddings_project") if narrow else x
        for i in range(LAYERS):
            at = f"encoder.layer.{i}."
            q, k, v = (heads(linear(x, f"{at}attention.self.{n}")) for n in ("query", "key", "value"))
            s = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(WIDTH / HEADS))
            y = (s / s.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), WIDTH)
            x = norm(linear(y, f"{at}attention.output.dense") + x, f"{at}attention.output.LayerNorm")
            y = linear(x, f"{at}intermediate.dense")
            y = linear(y * 0.5 * (1 + erf(y / math.sqrt(2))), f"{at}output.dense")
            x = norm(y + x, f"{at}output.LayerNorm")
        hidden.append(x)
        y = x[0] if pooling == "cls" else x.mean(0)
        y = linear(y, "linear", projection) if dense else y
        out.append(y / np.linalg.norm(y))
    return hidden, np.array(out)


if __name__ == "__main__":
    target, how, *sizes = sys.argv[1:]
    make(target, how, *map(int, sizes))
