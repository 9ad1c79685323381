#!/bin/sh
# kd-eval: what it measures and pairs, and its refusals: one clear line, the documented exit code, nothing half-written.
. "$(dirname "$0")/common"
root=$(cd "$(dirname "$0")/../.." && pwd)
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

# Everything once more from its definition, from the answers of the store alone.
of() { jq -c ".students[] | select(.name == \"pupil\") | $1" r.json; }
same "a student's measure is the mean over its seeds" "$(of '[.accuracy, .ece, .kl, .macro_f1] == [(.distilled | .accuracy, .ece, .kl, .macro_f1) | add / 3] | tostring')" '"true"'
same "bounds enclose the measure" "$(of '[.accuracy_low < .accuracy, .accuracy < .accuracy_high, .kl_low < .kl, .kl < .kl_high, .copied_mistakes_low < .copied_mistakes] | unique')" "[true]"
same "the confusion matrix has every row and seed" "$(of '[.confusion[][]] | add')" 30000
same "its diagonal is the accuracy" "$(of '. as $s | ([range(10) as $i | .confusion[$i][$i]] | add / 30000 - $s.accuracy) | fabs < 1e-12')" true
same "the table of classes is that of the matrix" \
  "$(of '. as $s | [range(10) as $i | .per_class[$i] | (.recall - $s.confusion[$i][$i] / 3000, .precision - $s.confusion[$i][$i] / ([$s.confusion[][$i]] | add)) | fabs < 1e-12] | unique')" "[true]"
same "the macro recall is the mean over the classes" "$(of '. as $s | ([.per_class[].recall] | add / 10 - $s.macro_recall) | fabs < 1e-12')" true
same "every row is in one bin of confidence, of either kind" "$(of '[(.reliability, .reliability_adaptive) | map(.rows) | add]')" "[30000,30000]"
same "slices are the classes, with their recall" "$(of '[.slices | length] + [.slices, .per_class] | [.[0], ([.[1], .[2]] | transpose | map(.[0].accuracy - .[1].recall | fabs < 1e-12) | unique)]')" "[10,[true]]"
same "mistakes add up" "$(of '.mistakes as $m | [$m.copied.count + $m.other.count + $m.mended.count - $m.teacher, $m.copied.count + $m.other.count + $m.new.count - $m.student]')" "[0,0]"
same "shares are of the teacher's mistakes, and make a whole" \
  "$(of '[.copied_mistakes - .mistakes.copied.count / .mistakes.teacher, .copied_mistakes + .other_mistakes + .mended_mistakes - 1] | map(fabs < 1e-12)')" "[true,true]"
same "listed rows are what they are listed as" \
  "$(of '.mistakes | [(.copied.rows[] | .student == .teacher and .student != .label), (.other.rows[] | .student != .teacher and .teacher != .label), (.new.rows[] | .teacher == .label and .student != .label), (.mended.rows[] | .student == .label and .teacher != .label)] | unique')" "[true]"
same "at most fifty of a kind, those first that all seeds make" "$(of '.mistakes.copied.rows | [length, .[0].seeds, (map(.seeds) | . == (sort | reverse))]')" "[50,3,true]"
same "the student is paired with teacher and control" "$(jq -c '[.pairs[] | select(.a == "pupil") | .why]' r.json)" '["teacher","plain"]'
same "McNemar's rows explain the difference" \
  "$(jq '.pairs[] | select(.a == "pupil" and .why == "plain") | ([.mcnemar[] | .only_a - .only_b] | add / 30000) - .accuracy | fabs < 1e-12' r.json)" true
same "the difference lies within its bounds" "$(jq -c '[.pairs[] | .accuracy_low <= .accuracy and .accuracy <= .accuracy_high and .p_bootstrap > 0] | unique' r.json)" "[true]"
same "the teacher's own measures come from its logits" "$(jq -c '.teacher | [.accuracy > 0.5, .ece >= 0, (.per_class | length), has("agreement")]' r.json)" "[true,true,10,false]"
same "its speed is there because its folder was given" "$(jq -c '.teacher | [.latency_us > 0, .file_bytes > 0, .memory_bytes > 0]' r.json)" "[true,true,true]"
check "otherwise it is not" "$E" -s f.kd runs --json --no-speed --pairs all --resamples 0 --mistakes 0
same "and what is left out has no key, and is said" \
  "$(jq -c '[.teacher, .students[0] | has("latency_us")] + [.students[0] | has("accuracy_low"), .mistakes.new.rows == []] + [.left_out[].why]' out)" '[false,false,false,true,"--resamples 0: no bootstrap","--no-speed"]'
check "with one thread" "$E" -s f.kd runs teacher --json --no-speed --threads 1
cp out one
check "and with three" "$E" -s f.kd runs teacher --json --no-speed --threads 3
bare() { jq 'del(.timing, .provenance, .cost) | walk(if type == "object" then del(.throughput_rows_s, .throughput_batch, .throughput_threads) else . end)' "$1"; }
same "all numbers are the same" "$(bare one | md5sum)" "$(bare out | md5sum)"
check "slices by another column, in bins" "$E" -s f.kd runs --json --no-speed --slice source:4 --slice label
same "hold every row once" "$(jq -c '.students[0].slices | group_by(.column) | map([.[0].column, length, (map(.rows) | add)])' out)" '[["label",10,10000],["source",4,10000]]'
cat >more.py <<'P'
import numpy as np, kdstore
s = kdstore.Store("f.kd")
columns = [kdstore.Column("more/width", "score", "f32"), kdstore.Column("more/words", "score", "u8", (-1,))]
with kdstore.extend("f.kd", "more", columns, teacher={"fingerprint": "5d41" * 8}) as w:
    for chunk in w.todo():
        n = len(s.read("label", chunk))
        width, lengths = np.arange(n, dtype=np.float32) % 10, np.arange(n) % 3
        width[5::10] = np.nan
        w.append({"more/width": width, "more/words": (np.zeros(lengths.sum(), np.uint8), lengths)})
P
check "a store with numbers that are missing" env PYTHONPATH="$root/lib/python" PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 more.py
check "slices by a fraction and by the length of a ragged column" \
  "$E" -s f.kd runs --json --no-speed --slice more/width:3 --slice more/words
same "rows without a number are a slice of their own" \
  "$(jq -c '.students[0].slices | map(select(.column == "more/width")) | [length, (map(.rows) | add), (last | [.name, has("from")]), ([.[] | .from] | unique)]' out)" \
  '[4,10000,["more/width=missing",false],[null,0,3,7]]'
same "lengths are three slices" "$(jq -c '.students[0].slices | map(select(.column == "more/words")) | [map(.value), (map(.rows) | add)]' out)" '[[0,1,2],10000]'
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
refused 3 "no column weight.*kd-store stat" "a slice by a column that is not there" "$E" -s f.kd runs --slice weight
refused 2 "784 values a row" "a slice by a column of images" "$E" -s f.kd runs --slice image
refused 2 "COLUMN:BINS" "no bins" "$E" -s f.kd runs --slice source:0
refused 2 "split" "an unknown split" "$E" -s f.kd runs --split all
cp -r teacher broken && truncate -s 1000 broken/model.safetensors
refused 3 "broken" "a truncated model" "$E" -s f.kd broken --results b.json
same "leaves no results" "$(ls b.json* 2>/dev/null)" ""
sed 's/classes: 10/classes: 12\n  valid_fraction: 0/' data.yaml >twelve.yaml
check "a store of twelve classes" "$KD_BIN/kd-dump" twelve.yaml -o twelve.kd
sed 's/hidden: \[16\]/hidden: [16], classes: 12/' teacher.yaml >wide.yaml
check "a student of twelve classes" "$KD_BIN/kd-train" -s twelve.kd wide.yaml -o wide --rows 640
refused 3 "valid split is empty" "an empty split" "$E" -s twelve.kd wide --split valid
refused 3 "wide: the cached teacher has 10 classes, student teacher has 12" "a student of other classes than the cached teacher" "$E" -s f.kd runs wide
check "a store without a teacher takes it" "$E" -s twelve.kd wide
same "and says what is left out" "$(grep -c 'left out: agreement, kl,.* mistakes (twelve.kd has no teacher.s logits; add them' err)" 1
refused 3 "teacher: the first student has 12 classes, student teacher has 10" "students of different classes" "$E" -s twelve.kd wide teacher
finish
