#!/bin/sh
# kd-train's refusals: one clear line, the documented exit code, nothing written. And what it prints.
. "$(dirname "$0")/common"
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
