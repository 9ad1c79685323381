#!/bin/sh
# kd-eval: what it measures and pairs, and its refusals: one clear line, the documented exit code, nothing half-written.
. "$(dirname "$0")/common"
cd "$work" || exit 1
E=$KD_BIN/kd-eval
data_yaml >data.yaml
student_yaml teacher 16 0 | sed 's/ce: 0.5/ce: 1/; s/epochs: 2/epochs: 1/' >teacher.yaml
student_yaml pupil 8 0.9 >pupil.yaml
check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
check "a teacher is trained" "$KD_BIN/kd-train" -s f.kd teacher.yaml -o teacher --rows 6400
check "a model is measured without any teacher in the store" "$E" -s f.kd teacher --json
same "then there is no agreement to report" "$(jq -c '.teacher, (.students[0] | has("agreement")), .left_out[0].measures[0]' out)" "null
false
\"agreement\""
check "its logits are cached" "$KD_BIN/kd-dump" --teacher teacher --into f.kd
check "students are trained with and without it" "$KD_BIN/kd-train" -s f.kd pupil.yaml --seeds 0-2 --control --rows 2560 -o runs
check "all runs are measured" "$E" -s f.kd runs teacher --results r.json --json
same "the results object has schema 2" "$(jq .schema r.json)" 2
same "three pairs of seeds" "$(jq -c '.students[] | select(.name == "pupil") | [.pairs, .seeds]' r.json)" "[3,[0,1,2]]"
same "the gain is the mean of the paired differences" \
  "$(jq '.students[] | select(.name == "pupil") | [([.distilled.accuracy, .plain.accuracy] | transpose | map(.[0] - .[1]) | add / 3), .accuracy_gain] | (.[0] - .[1]) | fabs < 1e-12' r.json)" true
same "the cached teacher agrees with its own model" "$(jq '.students[] | select(.name == "teacher") | .teacher.agreement[0] > 0.999' r.json)" true
same "the teacher's fingerprint is there" "$(jq -r '.teacher.fingerprint | length' r.json)" 32
same "the split is the test split" "$(jq -r .provenance.split r.json)" test
check "as a table" "$E" -s f.kd runs --markdown
same "with a line for the student" "$(grep -c '^| pupil ' out)" 1
same "a seed that only one role has is not paired" "$(rm -rf runs/pupil/plain/seed-1; "$E" -q -s f.kd runs --json | jq -c '.students[0].pairs')" 2

refused 2 "no store" "without a store" "$E" runs
refused 2 "no model folder" "without a model" "$E" -s f.kd
refused 3 "g.kd" "a store that is not there" "$E" -s g.kd runs
refused 3 "none.*no such folder" "a folder that is not there" "$E" -s f.kd none
mkdir -p unfinished/a.part && cp teacher/config.json unfinished/a.part
refused 3 "unfinished.*no finished model" "unfinished runs are not taken for models" "$E" -s f.kd unfinished
refused 3 "no logits of a teacher named big" "a teacher that is not there" "$E" -s f.kd runs --teacher big
refused 2 "split" "an unknown split" "$E" -s f.kd runs --split all
cp -r teacher broken && truncate -s 1000 broken/model.safetensors
refused 3 "broken" "a truncated model" "$E" -s f.kd broken --results b.json
same "leaves no results" "$(ls b.json* 2>/dev/null)" ""
sed 's/classes: 10/classes: 12\n  valid_fraction: 0/' data.yaml >twelve.yaml
check "a store of twelve classes" "$KD_BIN/kd-dump" twelve.yaml -o twelve.kd
sed 's/hidden: \[16\]/hidden: [16], classes: 12/' teacher.yaml >wide.yaml
check "a student of twelve classes" "$KD_BIN/kd-train" -s twelve.kd wide.yaml -o wide --rows 640
refused 3 "valid split is empty" "an empty split" "$E" -s twelve.kd wide --split valid
refused 3 "10 classes.*12" "a student of other classes than the cached teacher" "$E" -s f.kd wide
finish
