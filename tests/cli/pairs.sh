#!/bin/sh
# Things that do not belong together are refused by name: another teacher under a known name, a segment of another
# store, outputs for other rows, another tokenizer, views of another seed. What only stands in another order is taken.
. "$(dirname "$0")/common"
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$work" || exit 1
dump=$KD_BIN/kd-dump store=$KD_BIN/kd-store
/usr/bin/python3 - "$FASHION" <<'P'
import gzip, sys
import numpy as np
read = lambda name: np.frombuffer(gzip.open(f"{sys.argv[1]}/t10k-{name}.gz").read(), "u1")
x, y = read("images-idx3-ubyte")[16:].reshape(-1, 28, 28, 1), read("labels-idx1-ubyte")[8:]
for i, name in enumerate(["rows", "other"]):
    np.save(name + ".x.npy", x[3000 * i:3000 * (i + 1)])
    np.save(name + ".y.npy", y[3000 * i:3000 * (i + 1)])
P
pack() { # pack ROWS STORE OPTION...
  from=$1 to=$2
  shift 2
  "$dump" --train-input "$from.x.npy" --train-label "$from.y.npy" --classes 10 --chunk-rows 256 --mean 73 --scale 0.011 \
    -o "$to" -q "$@"
}
cat >teacher.yaml <<Y
name: t
model: {arch: cnn, channels: [8, 16], strides: [2, 2]}
loss: {kd: 0, ce: 1}
train: {epochs: 1, batch: 64, lr: 0.003}
Y
fingerprint() { "$store" stat "$1" --json -q | jq -r '.teachers[] | select(.name == "'"$2"'") | .fingerprint' | sort -u; }

pack rows f.kd && pack rows shuffled.kd --split-seed 7 && pack other other.kd
"$KD_BIN/kd-train" -s f.kd teacher.yaml -o t --rows 640 -q >/dev/null && "$KD_BIN/kd-train" -s f.kd teacher.yaml -o u --rows 1280 -q >/dev/null
check "a teacher is added" "$dump" --teacher t --into f.kd
f=$(fingerprint f.kd t)

# Another teacher under the same name.
refused 3 "other teacher: segment t is of 't' with the fingerprint $f, u has [0-9a-f]{32}; give another --name" \
  "another teacher's views under a known name are refused, with both fingerprints" "$dump" --teacher u --into f.kd --name t --no-logits --views 2 --view-flip
refused 3 "other teacher" "and its logits" "$dump" --teacher u --into f.kd --name t
refused 3 "other teacher: 't' has the fingerprint $f" "and a check of them" "$dump" --teacher u --into f.kd --name t --check
check "under a name of its own it is taken" "$dump" --teacher u --into f.kd --name u --no-logits --tap relu1

# A segment of another store.
check "the same teacher on another store" "$dump" --teacher t --into other.kd
cp -r f.kd x.kd && rm -f x.kd/t.mdb && cp other.kd/t.mdb x.kd/t.mdb
refused 3 "x.kd.*t.mdb" "a segment of another store is refused" "$store" stat x.kd
"$dump" --teacher t --into shuffled.kd -q

# Outputs by row id: rows in another order are taken, other rows are refused.
"$store" export f.kd t/logits -o logits.npy -q && "$store" export f.kd id -o ids.npy -q
check "outputs in another order" /usr/bin/python3 -c '
import numpy as np
order = np.random.default_rng(1).permutation(3000)
for name in "logits", "ids":
    np.save(name + "2.npy", np.load(name + ".npy")[order])'
check "are taken, matched by row id" "$store" import f.kd logits2.npy --ids ids2.npy --name imported
check "and are what the teacher says of each row" "$dump" --teacher t --into f.kd --name imported --check
"$store" import f.kd logits2.npy --order store --name wrong -q
refused 3 "column wrong/logits is not what t computes" "those that were said to be in order are found out" \
  "$dump" --teacher t --into f.kd --name wrong --check
"$store" export shuffled.kd t/logits -o shuffled.safetensors -q
refused 3 "other data: its kd.data is [0-9a-f]{32}, f.kd has" "outputs that name another store's data are refused" \
  "$store" import f.kd shuffled.safetensors --name strangers
"$store" export other.kd t/logits -o other.npy -q && "$store" export other.kd id -o other-ids.npy -q
refused 3 "other.npy" "and those whose ids are of other rows" "$store" import f.kd other.npy --ids other-ids.npy --name strangers
"$store" export f.kd t/logits -o f.safetensors -q
refused 3 "other teacher: its kd.teacher is $f" "and those of another teacher than was said" \
  "$store" import f.kd f.safetensors --name strangers --fingerprint 00000000000000000000000000000000
check "those of this store come in again" "$store" import f.kd f.safetensors --name again

# Another tokenizer.
cat >tokens.py <<'P'
import kdstore
s = kdstore.Store("f.kd")
data = {"mean": 73.0, "scale": 0.011, "tokenizer": "0" * 32}
columns = [kdstore.Column("id", "id", "u8", (16,)), kdstore.Column("split", "split", "u8"),
           kdstore.Column("image", "input", "u8", (28, 28, 1), params=data)]
with kdstore.create("tokens.kd", columns, chunk_rows=256) as w:
    for i, chunk in enumerate(s.chunks):
        w.append({c.name: s.read(c.name, i) for c in columns}, split=chunk.split)
P
check "a store of what a tokenizer made" env PYTHONPATH="$root/lib/python" /usr/bin/python3 tokens.py
check "a teacher that does not say its tokenizer is taken" "$dump" --teacher t --into tokens.kd --dry-run
cp -r t t.tok && echo '{"model": "bpe"}' >t.tok/tokenizer.json
refused 3 "tokenizer 0{32}, the teacher t.tok has [0-9a-f]{32} \\(tokenizer.json\\)" "one with another tokenizer is refused" \
  "$dump" --teacher t.tok --into tokens.kd
refused 3 "other teacher" "with another tokenizer it is another teacher" "$dump" --teacher t.tok --into f.kd --no-logits --tap relu1

# Views of another seed.
"$dump" --teacher t --into f.kd --no-logits --views 8 --view-shift 3 --view-seed 1 --batch 1 --commit 0.001 >/dev/null 2>&1 &
pid=$!
sleep 0.4
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
if [ -e f.kd/t.views.mdb ]; then echo "# the pass was through before it was killed"; else
  refused 3 "views.seed was 1, is 2 now" "views of another seed are not mixed in" \
    "$dump" --teacher t --into f.kd --no-logits --views 8 --view-shift 3 --view-seed 2 --batch 1 --resume
  check "those of the same seed go on" "$dump" --teacher t --into f.kd --no-logits --views 8 --view-shift 3 --view-seed 1 --batch 1 --resume
fi
refused 2 "'t.views' is already there" "a second set of views needs another segment" \
  "$dump" --teacher t --into f.kd --no-logits --views 8 --view-shift 3 --view-seed 2
check "and all of it is what the teacher says" "$dump" --teacher t --into f.kd --check --check-rows 600
check "and whole" "$store" verify f.kd
finish
