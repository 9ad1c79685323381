#!/bin/sh
# Scores of candidates, as a reranker elsewhere has them: imported as .npy and JSON lines, learned by margin_mse and
# listwise_kl to what they are; other shapes and what is no number are refused.
. "$(dirname "$0")/common"
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive # other tests may use the same cores
T=$KD_BIN/kd-train S=$KD_BIN/kd-store
/usr/bin/python3 - <<'P'
import json, numpy as np
rng = np.random.default_rng(1)
x = rng.normal(size=(1500, 8)).astype("f4")
t = (x @ rng.normal(size=(8, 4))).astype("f4")  # a student of one layer can say just that, but for a sum
np.save("x.npy", x)
np.save("best.npy", t.argmax(1).astype("i4"))
np.save("scores.npy", t)
np.save("margins.npy", t[:, :1] - t[:, 1:])
np.save("six.npy", np.zeros((1500, 6), "f4"))
np.save("few.npy", t[:99])
with open("scores.jsonl", "w") as f:
    f.writelines(json.dumps({"source": i, "scores": r.tolist()}) + "\n" for i, r in enumerate(t))
t[7, 2] = np.nan
np.save("nan.npy", t)
P
check "a store of queries is packed" "$KD_BIN/kd-dump" --train-input x.npy --train-label best.npy --classes 4 --chunk-rows 256 -o s.kd
import() { # import FILE NAME OPTIONS...
  file=$1 name=$2
  shift 2
  "$S" import s.kd "$file" --name "$name" "$@"
}
check "scores come in as .npy" import scores.npy cross --order source --role score
check "as differences" import margins.npy margins --order source --role score
check "and as JSON lines" import scores.jsonl lines
check "so do scores of six candidates" import six.npy six --order source --role score
same "as columns of scores" "$("$S" stat s.kd --json | jq -c '[.columns[] | select(.role == "score") | [.name, .shape]]')" \
  '[["cross/score",[4]],["margins/score",[3]],["lines/score",[4]],["six/score",[6]]]'
refused 1 "nan.npy: nan/score of row [0-9]+ of the store, .* is not a finite number" "a score that is no number does not come in" \
  import nan.npy nan --order source --role score
refused 3 "few.npy: 99 rows, s.kd has 1500" "nor do scores of some rows" import few.npy few --order source --role score
train() { # train FOLDER TERM OPTIONS...
  out=$1 term=$2
  shift 2
  printf 'model: {arch: mlp, hidden: []}\nloss: [%s]\ntrain: {epochs: 8, batch: 16, lr: 0.02, weight_decay: 0}\n' "$term" >"$out.yaml"
  "$T" -s s.kd "$out.yaml" -o "$out" "$@"
}
falls() { jq -s '(.[-1].loss < 0.05 * .[0].loss) and (.[-1].valid_loss < 0.05 * .[0].valid_loss)' "$1/metrics.jsonl"; }
check "margin_mse learns from scores" train margin '{name: margin_mse, teacher: cross}'
same "to what they are" "$(falls margin)" true
check "and from differences" train differences '{name: margin_mse, teacher: margins, teacher_scores: differences}'
same "the same" "$(tail -n 1 differences/metrics.jsonl | jq '.valid_loss * 1e4 | round')" "$(tail -n 1 margin/metrics.jsonl | jq '.valid_loss * 1e4 | round')"
check "listwise_kl learns from scores" train listwise '{name: listwise_kl, teacher: lines}' --threads 1
same "to what they are" "$(falls listwise)" true
check "with three threads too" train listwise3 '{name: listwise_kl, teacher: lines}' --threads 3
same "the same weights" "$(jq -r .weight_hash listwise3/provenance.json)" "$(jq -r .weight_hash listwise/provenance.json)"
refused 3 "column six/score has 6 numbers a row, margin_mse of a student with 4 classes reads 4" "another number of candidates is refused" \
  train none '{name: margin_mse, teacher: six}'
refused 3 "column margins/score has 3 numbers a row, .* reads 4" "and differences for scores" train none '{name: margin_mse, teacher: margins}'
refused 3 "column cross/score has 4 numbers a row, .* reads 3" "and scores for differences" \
  train none '{name: margin_mse, teacher: cross, teacher_scores: differences}'
same "refusals leave nothing" "$(ls -d none none.part nan* 2>/dev/null)" "nan.npy"
finish
