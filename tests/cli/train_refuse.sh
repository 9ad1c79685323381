#!/bin/sh
# kd-train's refusals: one clear line, the documented exit code, nothing written. And what it prints.
. "$(dirname "$0")/common"
PYTHONPATH=$(cd "$(dirname "$0")/../../lib/python" && pwd)
export PYTHONPATH PYTHONDONTWRITEBYTECODE=1
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive
data_yaml >data.yaml
student_yaml plain 8 0 >plain.yaml
student_yaml pupil 8 0.9 >pupil.yaml
T=$KD_BIN/kd-train
check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
[ -d f.kd ] || exit 1

refused 2 "STORE" "without a store" "$T" plain.yaml -o r
refused 2 "no student" "without a student" "$T" -s f.kd -o r
refused 2 "no folder" "without a folder" "$T" -s f.kd plain.yaml
refused 3 "no such store" "a store that is not there" "$T" -s g.kd plain.yaml -o r
refused 3 "none.yaml" "a student that is not there" "$T" -s f.kd none.yaml -o r
refused 3 "no teacher in f.kd; add one: kd-dump --teacher FOLDER --into f.kd" "soft targets without a teacher" \
  "$T" -s f.kd pupil.yaml -o r
refused 2 "did you mean --seeds" "a mistyped option" "$T" -s f.kd plain.yaml --seed 1 -o r
refused 2 "did you mean train.epochs" "a mistyped key after --set" "$T" -s f.kd plain.yaml --set train.epoch=1 -o r
refused 2 "plain.yaml.*lr|train.lr" "a value out of range" "$T" -s f.kd plain.yaml --set train.lr=-1 -o r
refused 2 "batch" "a batch larger than the rows" "$T" -s f.kd plain.yaml --rows 32 -o r
refused 2 "every 1 steps makes [0-9]+ lines, .*--log-steps [0-9]+" "more lines of metrics than a state may hold" \
  "$T" -s f.kd plain.yaml --log-steps 1 --set train.epochs=1000000 -o r
refused 2 "rows" "more rows than there are" "$T" -s f.kd plain.yaml --rows 99999999 -o r
printf 'model: {arch: mlp}\nloss: {kd: 0, ce: 1}\nmodle: {arch: cnn}\n' >typo.yaml
refused 2 "typo.yaml:3:1.*model" "an unknown key, with file, line and the nearest" "$T" -s f.kd typo.yaml -o r
printf 'model:\n  arch: mlp\n  classes: 100\nloss: {kd: 0, ce: 1}\n' >hundred.yaml
refused 3 "10 classes, student hundred has 100" "another number of classes" "$T" -s f.kd hundred.yaml -o r
same "and says which line to change" "$(grep -o 'set model.classes: 10 in hundred.yaml:3' err)" "set model.classes: 10 in hundred.yaml:3"
printf 'model: {arch: mlp}\nloss: {kd: 0, ce: 0}\n' >nothing.yaml
refused 2 "nothing.yaml.*both 0" "weights that sum to zero" "$T" -s f.kd nothing.yaml -o r
printf 'model: {arch: mlp}\nloss: {kd: 0, ce: 1, temperature: 0}\n' >cold.yaml
refused 2 "cold.yaml:2.*temperature" "a temperature of 0" "$T" -s f.kd cold.yaml -o r
refused 2 "all weights are 0" "a list whose weights are all zero" "$T" -s f.kd plain.yaml --set loss.terms=name=ce,weight=0 -o r
refused 2 "temperature: 0, expected more than 0" "a temperature of 0 in a list" "$T" -s f.kd plain.yaml --set loss.terms=name=kd,temperature=0 -o r
refused 3 "no teacher in f.kd; add one" "a term without its teacher" "$T" -s f.kd plain.yaml --set loss.terms=name=dkd -o r
refused 3 "sp needs a feature relu1, found none; add it: kd-dump .* --no-logits --tap relu1" "a term without its feature" \
  "$T" -s f.kd plain.yaml --set loss.terms=name=sp,tap=relu1,feature=relu1 -o r
i=0
while [ $i -lt 40 ]; do printf '{a: '; i=$((i + 1)); done >deep.yaml
refused 3 "deep.yaml:1:.*deeper" "deep YAML" "$T" -s f.kd deep.yaml -o r
same "nothing was written" "$(ls -d r* 2>/dev/null)" ""

# An empty split.
printf 'data: {train_input: [x.npy], train_label: [y.npy], shape: [4], classes: 3, valid_fraction: 0, test_fraction: 0}\n' >bare.yaml
/usr/bin/python3 -c 'import numpy as np; a = np.arange(360); np.save("x.npy", a.reshape(90, 4).astype("f4")); np.save("y.npy", a[:90] % 3)
np.save("none.npy", a[:0].reshape(0, 4).astype("f4"))'
check "a store of training rows alone is packed" "$KD_BIN/kd-dump" bare.yaml -o bare.kd
refused 3 "none.npy: header says 0 rows, expected at least 1" "no rows at all" \
  "$KD_BIN/kd-dump" --train-input none.npy --train-label y.npy --classes 3 -o r.kd
for key in keep=best keep=best_loss patience=2; do
  refused 2 "bare.kd: no validation rows, and train.${key%=*} asks for them; pack with data.valid_fraction" "no validation rows for $key" \
    "$T" -s bare.kd plain.yaml --set train.$key -o r
done
printf 'model: {arch: mlp}\nloss: {kd: 0, ce: 1}\ntrain:\n  batch: 8\n  keep: best\n' >judged.yaml
refused 2 "bare.kd: no validation rows, and judged.yaml:5" "with the line that asks" "$T" -s bare.kd judged.yaml -o r
check "without such a key it trains" "$T" -s bare.kd judged.yaml --set train.keep=last -o bare
refused 3 "bare.kd: the test split is empty" "and no test rows to judge it on" "$KD_BIN/kd-eval" -s bare.kd bare
rm -r bare

# A teacher that is no number somewhere. Logits like that come into no store; a feature may, from another program.
/usr/bin/python3 - <<'P' 2>&1 | sed 's/^/# /'
import kdstore, numpy as np
z, g = np.zeros((90, 3), "f4"), np.zeros((90, 5), "f4")
z[77, 1], g[55, 2] = np.nan, np.inf
np.save("nan.npy", z)
with kdstore.extend("bare.kd", "odd", [kdstore.Column("odd/feat.fc0", "feature", "f32", (5,))],
                    teacher={"fingerprint": "9f0c" * 8}) as w:
    at = 0
    for chunk in w.todo():
        n = kdstore.Store("bare.kd").read("label", chunk).size
        w.append({"odd/feat.fc0": g[at:at + n]})
        at += n
P
root=$("$KD_BIN/kd-store" stat bare.kd --json -q | jq .root)
refused 1 "nan.npy: nan/logits of row 77 of the store, position 0, class 1: nan is not a finite number" "a logit that is no number" \
  "$KD_BIN/kd-store" import bare.kd nan.npy --name nan --order store
check "a teacher is trained" "$T" -s bare.kd judged.yaml --set train.keep=last --set model.hidden=4 -o broken
printf '\377\377\377\377' | dd of=broken/model.safetensors bs=1 conv=notrunc seek="$(($(stat -c %s broken/model.safetensors) - 4))" 2>/dev/null
refused 1 "broken/model.safetensors: tensor .* is -?nan; the weights are broken" "a teacher whose weights are none" \
  "$KD_BIN/kd-dump" --teacher broken --into bare.kd
same "the store is as it was" "$("$KD_BIN/kd-store" stat bare.kd --json -q | jq .root)" "$root"
refused 1 "bare.kd: column odd/feat.fc0, row 55: a value is not finite; look at the teacher odd and dump it again" "a feature that is none" \
  "$T" -s bare.kd plain.yaml -q --set train.batch=8 --set loss.terms=name=sp,tap=fc1,feature=fc0 -o r
same "their folder holds no model" "$(find r r.part -name 'model*' 2>/dev/null)" ""
rm -rf r.part broken

check "a dry run" "$T" -s f.kd plain.yaml --dry-run
same "shows the student" "$(grep -c 'plain .*teacher .*6370 .*to do' out)" 1
same "and writes nothing" "$(ls -d r* dry-run* 2>/dev/null)" ""
check "one file, one seed: into the folder itself" "$T" -s f.kd plain.yaml --rows 640 -o r --json
same "JSON has the run" "$(jq -r '.students[0] | .name, .role, .seed, .done' out | tr '\n' ' ')" "plain teacher 0 true "
same "and its hash" "$(jq -r '.students[0].weight_hash' out)" "$(jq -r .weight_hash r/provenance.json)"
same "one line of metrics an epoch" "$(jq -c .epoch r/metrics.jsonl | tr '\n' ' ')" "1 2 "
same "the model can be opened" "$(jq -r .model.arch r/config.json)" mlp
refused 2 "is there already.*--resume" "a finished folder is not overwritten" "$T" -s f.kd plain.yaml --rows 640 -o r
before=$(stat -c %Y%i r/model.safetensors)
check "with --resume it is left as it is" "$T" -s f.kd plain.yaml --rows 640 -o r --resume
same "untouched" "$(stat -c %Y%i r/model.safetensors)" "$before"
cp r/provenance.json whole.json
jq 'del(.contract.config.init.tokens)' whole.json >r/provenance.json
check "as is one from before a key came, which has its default" "$T" -s f.kd plain.yaml --rows 640 -o r --resume
same "untouched, too" "$(stat -c %Y%i r/model.safetensors)" "$before"
jq 'del(.contract.config.train.epochs)' whole.json >r/provenance.json
refused 3 "config.train.epochs is 10 there and 2 now" "but not where this run has another value" "$T" -s f.kd plain.yaml --rows 640 -o r --resume
mv whole.json r/provenance.json
refused 3 "rows is 640 there and 1280 now" "another run in the same folder is named" \
  "$T" -s f.kd plain.yaml --rows 1280 -o r --resume
check "with --resume --force it is replaced" "$T" -s f.kd plain.yaml --rows 1280 -o r --resume --force
check "with seeds each run has its folder" "$T" -s f.kd plain.yaml --rows 640 --seeds 0,3 -o many
same "by name, role and seed" "$(ls -d many/plain/plain/seed-* | tr '\n' ' ')" "many/plain/plain/seed-0 many/plain/plain/seed-3 "
check "the objectives are listed" "$T" --list-losses
same "with their formulas" "$(grep -c '^\(kd\|ce\|dkd\|crd\)$' out)" 4
check "and the keys of a student" "$T" --list-keys
same "with their defaults" "$(grep -c '\[0.001\]' out)" 1
finish
