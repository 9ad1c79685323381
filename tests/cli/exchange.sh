#!/bin/sh
# Runs the commands of docs/import-export.md as they stand there, and looks at what they wrote.
. "$(dirname "$0")/common"
docs=$(cd "$(dirname "$0")/../../docs" && pwd)
cd "$work" || exit 1
PATH=$KD_BIN:$PATH
/usr/bin/python3 - <<'P'
import numpy as np, struct
rng = np.random.default_rng(1)
np.save("x.npy", rng.integers(0, 99, (1500, 8), dtype=np.uint8))
np.save("y.npy", rng.integers(0, 5, 1500).astype(np.int32))
ctx, vocab, chunks = 12, 6, 4
with open("wiki.kld", "wb") as f:
    f.write(b"_logits_" + struct.pack("<3i", ctx, vocab, chunks))
    f.write(rng.integers(0, vocab, (chunks, ctx)).astype("<i4").tobytes())
    for _ in range(chunks * (ctx - 1 - ctx // 2)):
        z = rng.normal(size=vocab)
        z -= np.log(np.exp(z).sum())
        low, step = z.min(), (z.max() - z.min()) / 65535
        f.write(struct.pack("<2f", step, low) + np.rint((z - low) / step).astype("<u2").tobytes())
P
check "a store is packed" kd-dump --train-input x.npy --train-label y.npy --chunk-rows 256 -o fashion.kd
cat >teacher.yaml <<'Y'
name: teacher
model: {arch: mlp, hidden: [4]}
loss: {ce: 1, kd: 0}
train: {epochs: 1, batch: 64}
Y
check "a teacher is trained" kd-train -s fashion.kd teacher.yaml -o teacher
check "and dumped" kd-dump --teacher teacher --into fashion.kd --name big

sed -n 's/^    \(kd-[a-z]* .*\)/\1/p' "$docs/import-export.md" >commands
same "the page shows its commands" "$(grep -c . commands)" 15
# The page names an image; these data are plain numbers.
while read -r line; do check "$line" sh -c "$line"; done <commands

root() { kd-store stat fashion.kd --json | jq -r ".segments[] | select(.name == \"$1\") | .root"; }
/usr/bin/python3 - <<'P' >python.txt 2>&1
import csv, json, numpy as np
a = np.load("big.npy")
lines = [json.loads(l) for l in open("big.jsonl")]
assert a.shape == (1500, 5) and len(lines) == 1500
assert np.array_equal(np.array([l["big/logits"] for l in lines], np.float32), a)
rows = list(csv.DictReader(open("rows.csv")))
assert [r["id"] for r in rows] == [l["id"] for l in lines]
test = list(csv.DictReader(open("test.csv")))
want = [l for l in lines if l["split"] == "test"]
assert [r["id"] for r in test] == [l["id"] for l in want] and test
assert all(np.float32(r["big/logits.4"]) == np.float32(l["big/logits"][4]) for r, l in zip(test, want))
P
same "NumPy, JSON and CSV readers see the same numbers" "$(cat python.txt)" ""
kd-store export fashion.kd copy/logits -o copy.npy >/dev/null 2>&1
kd-store export fashion.kd lines/logits -o lines.npy >/dev/null 2>&1
check "through safetensors nothing changes" cmp big.npy copy.npy
check "through JSON lines nothing changes" cmp big.npy lines.npy
check "all of it verifies" kd-store verify fashion.kd
check "so does the store of the .kld file" kd-store verify wiki.kd
same "it has a row a context" "$(kd-store stat wiki.kd --json 2>/dev/null | jq -c '.rows, (.columns | map(.name))' | tr '\n' ' ')" \
  '4 ["id","split","source","tokens","llama/logits"] '

# Lines in another order: the same segment. As vLLM prints them.
/usr/bin/python3 - <<'P'
import json, random
random.seed(1)
lines = []
for l in map(json.loads, open("big.jsonl")):
    k = [random.randrange(5) for _ in range(random.randrange(4))]
    lines.append(json.dumps({"id": l["id"], "prompt_logprobs": [None] + [{str(c): {"logprob": -0.5, "rank": 1}} for c in k]}))
open("a.jsonl", "w").write("\n".join(lines) + "\n")
random.shuffle(lines)
open("b.jsonl", "w").write("\n".join(lines))
open("less.jsonl", "w").write("\n".join(lines[:-1]))
open("twice.jsonl", "w").write("\n".join(lines + lines[:1]))
open("long.jsonl", "w").write('{"id": "' + "x" * (65 << 20) + '"}\n')
P
check "top-k lines come in" kd-store import fashion.kd a.jsonl --name vllm
first=$(root vllm)
check "and again in another order" kd-store import fashion.kd b.jsonl --name vllm --force
same "as the same segment" "$(root vllm)" "$first"
before=$(kd-store stat fashion.kd --json 2>/dev/null | jq -r .root)
refused 3 "1 of 1500 rows of fashion.kd are missing" "a row that is missing is named" kd-store import fashion.kd less.jsonl --name x
refused 3 "have the same id" "a row that is there twice is named" kd-store import fashion.kd twice.jsonl --name x
refused 3 "line of more than 67108864 bytes" "a line without end is refused" kd-store import fashion.kd long.jsonl --name x
refused 3 "other teacher: its kd.teacher" "another teacher's file is refused" \
  kd-store import fashion.kd big.safetensors --name x --fingerprint 00
refused 2 "say --name" "a teacher needs a name" kd-store import fashion.kd a.jsonl
refused 2 "already there" "a teacher is not imported twice" kd-store import fashion.kd a.jsonl --name vllm
refused 2 "no file to import" "files are needed" kd-store import fashion.kd --name x
refused 2 "makes a store of its own" "a .kld file is not imported into a store" kd-store import fashion.kd wiki.kld --name x
refused 2 "only a .kld file" "nor a store made of another file" kd-store import a.jsonl -o new.kd --name x
refused 2 "order source" "an array needs ids or an order" kd-store import fashion.kd big.npy --name x
refused 3 "did you mean 'big/logits'" "a mistyped column gets the nearest" kd-store export fashion.kd big/logit -o x.npy
refused 2 "already there" "a file is not overwritten" kd-store export fashion.kd label -o big.npy
refused 2 "say -o FILE" "export needs a place" kd-store export fashion.kd label
head -c 30000 big.safetensors >cut.safetensors
refused 3 "cut.safetensors" "a cut file is refused" kd-store import fashion.kd cut.safetensors --name x
same "no refusal changed the store" "$(kd-store stat fashion.kd --json 2>/dev/null | jq -r .root)" "$before"
same "or left a file" "$(find . -name "x.mdb*" -o -name "new.kd*" -o -name "*.tmp.*" | wc -l)" 0
finish
