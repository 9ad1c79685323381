#!/bin/sh
# kd-audit: planted wrong labels and copies are found through the tools, its lists are what kd-train takes, and what a
# store does not allow is said in one line.
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$(dirname "$0")/common"
cd "$work" || exit 1
A=$KD_BIN/kd-audit
# Test images of Fashion-MNIST: 5,000 to train, 1,000 to test; every twentieth training label wrong; test images that
# are training images as they are, brighter and mirrored.
cat >make.py <<'P'
import gzip, sys
import numpy as np
def idx(name):
    raw = gzip.open(f"{sys.argv[1]}/t10k-{name}-ubyte.gz").read()
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(np.frombuffer(raw, ">u4", raw[3], 4))
def write(name, x):
    open(name, "wb").write(bytes([0, 0, 8, x.ndim]) + np.array(x.shape, ">u4").tobytes() + np.ascontiguousarray(x).tobytes())
x, y = idx("images-idx3"), idx("labels-idx1").copy()
copies = [x[0:20], np.clip(x[20:40].astype(int) + 15, 0, 255).astype(np.uint8), x[40:60, :, ::-1]]
write("test-x", np.concatenate([x[5000:6000], *copies]))
write("test-y", np.concatenate([y[5000:6000], y[0:60]]))
y[0:5000:20] = (y[0:5000:20] + 1 + np.arange(250) % 9) % 10
write("train-x", x[:5000])
write("train-y", y[:5000])
write("train-z", (y[:5000] + 1) % 10)
P
check "a small slice is made dirty" /usr/bin/python3 make.py "$FASHION"
cat >data.yaml <<Y
data:
  train_input: [train-x]
  train_label: [train-y]
  test_input: [test-x]
  test_label: [test-y]
  shape: [28, 28, 1]
  classes: 10
  valid_fraction: 0.1
Y
check "it is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
check "without a teacher duplicates are still looked for" "$A" -s f.kd -o early --json
same "and what is left out is said" "$(jq -c '[.left_out[] | contains("no teacher")] | any' out)" true
same "no file of labels is written then" "$(ls early | tr '\n' ' ')" "audit.json balance.csv drift.csv drop.txt duplicates.csv keep.txt "

check "lists of two folds" "$A" -s f.kd -o folds --folds 2
same "the folds are the training rows" "$(cat folds/fold-0.txt folds/fold-1.txt | grep -vc kd-rows)" "$(jq .splits.train f.kd/manifest.json)"
student_yaml judge 64 0 | sed 's/ce: 0.5/ce: 1/; s/epochs: 2/epochs: 8/' >judge.yaml
for k in 0 1; do
  check "a teacher without fold $k" "$KD_BIN/kd-train" -s f.kd judge.yaml --drop-rows folds/fold-$k.txt -o t$k
  check "its logits are added" "$KD_BIN/kd-dump" --teacher t$k --into f.kd --name fold$k
done
same "a teacher trained on other rows is another" "$([ "$(jq -r .contract.drop t0/provenance.json)" = "$(jq -r .contract.drop t1/provenance.json)" ] && echo same)" ""
refused 3 "made by another run: drop" "a run goes on with its own rows only" "$KD_BIN/kd-train" -s f.kd judge.yaml -o t0 --resume

check "the audit" "$A" -s f.kd -o audit --cross fold0 --cross fold1 --threads 2
check "with one thread" "$A" -s f.kd -o again --cross fold0 --cross fold1 --threads 1
for f in labels.csv duplicates.csv unsure.csv balance.csv drift.csv drop.txt keep.txt; do
  same "$f has the same bytes" "$(cmp audit/$f again/$f)" ""
done
# columns of labels.csv: rank,row,source,id,split,label,suggested,...
found=$(awk -F, 'NR > 1 && $5 == "train" { n++; hit += $3 % 20 == 0 } END { print hit, n }' audit/labels.csv)
planted=$(awk -F, 'NR > 1 && $5 == "train" { n[$3]++ } END { for (s in n) k += s % 20 == 0; print k }' audit/labels.csv)
echo "# wrong labels flagged: ${found% *} of 250 planted (training and validation), ${found#* } flagged"
same "most planted wrong labels are flagged" "$([ "$planted" -ge 150 ] && echo yes)" yes
same "five times as many as by chance" "$(echo "$found" | awk '{ print ($1 > 0.25 * $2) ? "yes" : "no" }')" yes
# columns of duplicates.csv: kind,similarity,leak,row,source,id,split,label,other_row,other_source,...
same "all sixty copies are leaks that were found" \
  "$(awk -F, '{ lo = $5 < $10 ? $5 : $10; hi = $5 < $10 ? $10 : $5 } $3 == 1 && hi - lo == 6000 { n[lo] } END { print length(n) }' audit/duplicates.csv)" 60
same "by their kinds" "$(awk -F, '{ d = $5 - $10 } d == 6000 || d == -6000 { n[$1]++ } END { print n["exact"], n["near"], n["mirrored"] }' audit/duplicates.csv)" "20 20 20"
same "the summary is that of the files" "$(jq '[.labels[].flagged] | add' audit/audit.json)" "$(($(wc -l <audit/labels.csv) - 1))"
same "keep and drop are the training rows" "$(cat audit/drop.txt audit/keep.txt | grep -vc kd-rows)" "$(jq .splits.train f.kd/manifest.json)"

student_yaml pupil 8 0 | sed 's/ce: 0.5/ce: 1/' >pupil.yaml
check "a student without the dropped rows" "$KD_BIN/kd-train" -s f.kd pupil.yaml --drop-rows audit/drop.txt -o dropped --json
hash=$(jq -r .students[0].weight_hash out)
check "a student of the kept rows" "$KD_BIN/kd-train" -s f.kd pupil.yaml --only-rows audit/keep.txt -o kept --json
same "is the same" "$(jq -r .students[0].weight_hash out)" "$hash"
check "a teacher that saw the rows" "$KD_BIN/kd-train" -s f.kd judge.yaml --set train.epochs=40 -o seen
check "is added" "$KD_BIN/kd-dump" --teacher seen --into f.kd --name seen
check "and audited" "$A" -s f.kd -o seen-audit --teacher seen --near none
same "is told from one that did not" "$(jq -c .teacher.trained_on_these_rows seen-audit/audit.json)$(jq -c .teacher.trained_on_these_rows audit/audit.json)" truefalse
same "in a warning" "$(grep -c 'trained on these rows' err)" 1
check "teachers in the wrong order" "$A" -s f.kd -o swapped --cross fold1 --cross fold0 --near none
same "are noticed" "$(grep -c 'was trained on fold' err)" 2

refused 2 "no store" "without a store" "$A" -o x
refused 2 "-o FOLDER" "without a folder" "$A" -s f.kd
refused 2 "audit already; --force" "a folder with an audit" "$A" -s f.kd -o audit
refused 3 "no logits of a teacher named big" "a teacher that is not there" "$A" -s f.kd -o x --teacher big
refused 2 "expected 2 to" "one fold" "$A" -s f.kd -o x --cross fold0
refused 2 "two folds" "one teacher for two folds" "$A" -s f.kd -o x --cross fold0 --cross fold0
refused 2 "unknown reason 'dirt'" "an unknown reason" "$A" -s f.kd -o x --drop dirt
refused 3 "no column pixels" "a column that is not there" "$A" -s f.kd -o x --near pixels
refused 2 "label: near duplicates" "a column without vectors" "$A" -s f.kd -o x --near label
same "nothing was written" "$(ls x 2>/dev/null)" ""
sed 's/train-y/train-z/; s/valid_fraction: 0.1/valid_fraction: 0/; /test_/d' data.yaml >other.yaml
check "the same images with other labels and no other split" "$KD_BIN/kd-dump" other.yaml -o g.kd
refused 3 "list of rows of another store" "a list of another store" "$KD_BIN/kd-train" -s g.kd pupil.yaml --drop-rows audit/drop.txt -o x
sed '2s/[0-9a-f]\{32\}/00000000000000000000000000000000/' audit/drop.txt >bad.txt
refused 3 "bad.txt:2: unknown id" "an id that is not the row's" "$KD_BIN/kd-train" -s f.kd pupil.yaml --drop-rows bad.txt -o x
refused 3 "none.txt" "a list that is not there" "$KD_BIN/kd-train" -s f.kd pupil.yaml --drop-rows none.txt -o x
check "an empty split" "$A" -s g.kd -o empty --near none --json
same "is left out by name" "$(jq -r '.left_out[] | select(startswith("split"))' out)" "split valid: g.kd has no such rows"
cat >tokens.py <<'P'
import kdstore, numpy as np
texts = [np.arange(i % 7 + 1, dtype=np.int32) for i in range(20)]
columns = [kdstore.Column("id", "id", "u8", (16,)), kdstore.Column("split", "split", "u8", ()), kdstore.Column("tokens", "input", "i32", (-1,))]
with kdstore.create("t.kd", columns, {"source": "made"}) as w:
    ids = np.concatenate([kdstore.row_ids("tokens", np.array([t], np.int32)) for t in texts])
    w.append({"id": ids, "tokens": (np.concatenate(texts), [len(t) for t in texts])}, "train")
P
check "a store of texts without labels or a teacher" env PYTHONPATH="$root/lib/python" /usr/bin/python3 tokens.py
check "is audited for exact copies" "$A" -s t.kd -o texts --json
same "which are found where rows differ in length" "$(jq -c .duplicates.pairs.exact out)" 13
same "and the rest is left out, a line each" "$(jq -r '.left_out[]' out | cut -d: -f1)" "wrong labels, class balance
wrong labels, unsure rows, drift of predictions
split valid
split test
near duplicates"
check "no audit in another's place without being asked" "$A" -s g.kd -o empty --near none --force
check "a page for man" "$A" --man
finish
