#!/bin/sh
# kd-train --sweep and --select, and kd-eval on what was chosen: many students in one pass, chosen on validation rows only.
. "$(dirname "$0")/common"
cd "$work" || exit 1
T=$KD_BIN/kd-train E=$KD_BIN/kd-eval
data_yaml >data.yaml
student_yaml teacher 32 0 | sed 's/ce: 0.5/ce: 1/; s/epochs: 2/epochs: 1/' >teacher.yaml
student_yaml a 8 0.9 >a.yaml
student_yaml b 8 0.9 | sed 's/epochs: 2/epochs: 1/' >b.yaml
check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
check "a teacher is trained" "$T" -s f.kd teacher.yaml -o teacher --rows 6400
check "its logits are cached" "$KD_BIN/kd-dump" --teacher teacher --into f.kd

sweep() { # a grid of two axes, two seeds, controls, for two files
  "$T" -s f.kd --rows 1280 a.yaml b.yaml --sweep loss.temperature=1,4 --sweep train.lr=0.002,0.01 --seeds 0-1 --control "$@"
}
check "a dry run lists what would be trained" sweep -n
same "with its memory: 2 files x (4 points + 2 controls) x 2 seeds" "$(grep -c 'to do .* MiB' out)" 24
same "and writes nothing" "$(ls)" "$(printf 'a.yaml\nb.yaml\ndata.yaml\nerr\nf.kd\nout\nteacher\nteacher.yaml')"
check "the grid is trained and the best point chosen" sweep --select valid_accuracy -o runs --json
cp out train.json
same "each chunk was decoded once" "$(jq -c '.reads | .decoded > 0 and .decoded == .expected' train.json)" true
same "folders are named by point, role and seed" "$(ls -d runs/a@*/*/seed-1)" "runs/a@lr=0.002/plain/seed-1
runs/a@lr=0.01/plain/seed-1
runs/a@temperature=1@lr=0.002/distilled/seed-1
runs/a@temperature=1@lr=0.01/distilled/seed-1
runs/a@temperature=4@lr=0.002/distilled/seed-1
runs/a@temperature=4@lr=0.01/distilled/seed-1"
same "the report holds the selection that was written" "$(jq -cS .selection train.json)" "$(jq -cS . runs/selection.json)"
same "each student has a choice for either role" "$(jq -c '[.students[] | [.student, .role, (.points | length)]]' runs/selection.json)" \
  '[["a","distilled",4],["a","plain",2],["b","distilled",4],["b","plain",2]]'
same "the choice has the largest mean of validation accuracies" "$(jq '[.students[] | . as $s |
  ([.points[] | select(.name == $s.chosen) | .values | add / length] | first) == ([.points[] | .values | add / length] | max)] | all' runs/selection.json)" true
same "those accuracies are the runs' own" \
  "$(jq -cS '[.selection.students[0].points[].values[]]' train.json)" \
  "$(jq -c '[.students[] | select((.name | startswith("a@")) and .role == "distilled") | .valid_accuracy]' train.json)"
same "nothing was chosen on the test split" "$(jq -r '.split' runs/selection.json)" valid

"$T" -q -s f.kd --rows 1280 a.yaml --set loss.temperature=4 --set train.lr=0.01 --seeds 0-1 -o alone --json >alone.json 2>/dev/null
same "a point has the weights that its file alone would have" "$(jq -c '[.students[].weight_hash]' alone.json)" \
  "$(jq -c '[.students[] | select(.name == "a@temperature=4@lr=0.01") | .weight_hash]' train.json)"
check "a larger grid finds what is trained already" "$T" -s f.kd --rows 1280 a.yaml --sweep loss.temperature=1,4,2 \
  --sweep train.lr=0.002,0.01 --seeds 0-1 --resume -o runs --select valid_accuracy --json
same "only the new points are trained" "$(jq -c '[.students[] | select(.skipped | not) | .name] | unique' out)" \
  '["a@temperature=2@lr=0.002","a@temperature=2@lr=0.01"]'

point=$(jq -r '.students[0].chosen' runs/selection.json)
check "a point is a teacher, too" "$KD_BIN/kd-dump" --teacher "runs/$point/distilled/seed-0" --into f.kd
same "by its name in a store's letters" "$("$KD_BIN/kd-store" stat f.kd --json -q | jq -r '.columns[-1].name')" "$(echo "$point" | tr '@=' '--')/logits"
check "which --check knows" "$KD_BIN/kd-dump" --teacher "runs/$point/distilled/seed-0" --into f.kd --check
check "and kd-store drops" "$KD_BIN/kd-store" drop f.kd "$(echo "$point" | tr '@=' '--')"
refused 2 "longer than the 48 letters of a segment; give a shorter one: --name" "a name that is too long" \
  "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name "$(printf '%050d' 0)" -n
check "kd-eval measures the chosen points on the test split" "$E" -s f.kd runs --json
same "each student once, by its own name" "$(jq -c '[.students[] | select(.chosen.distilled) | .name]' out)" '["a"]'
same "the point is the chosen one" "$(jq -r '.students[0].chosen.distilled' out)" \
  "$(jq -r '.students[] | select(.role == "distilled") | .chosen' runs/selection.json)"
check "all points, if asked for" "$E" -s f.kd runs --no-selection --json
same "a point is paired with the plain runs of its learning rate" \
  "$(jq -c '.students[] | select(.name == "b@temperature=4@lr=0.01") | [.control, .pairs]' out)" '["b@lr=0.01",2]'
same "controls have no line of their own" "$(jq '[.students[] | select(.distilled | not)] | length' out)" 0
check "points are compared with one of them, too" "$E" -s f.kd runs --no-selection --against temperature=1@lr=0.01 --json
same "each with the same student's, over the seeds of both" \
  "$(jq -c '[.students[] | select(.against) | [.name[:2], .against.name, .against.pairs]] | unique' out)" \
  '[["a@","a@temperature=1@lr=0.01",2],["b@","b@temperature=1@lr=0.01",2]]'
same "the gain is the difference of the means" "$(jq '([.students[] | {key: .name, value: (.distilled.accuracy | add / length)}] | from_entries) as $mean |
  [.students[] | select(.against) | $mean[.name] - $mean[.against.name] - .against.accuracy_gain | fabs < 1e-9] | all' out)" true
same "but not with itself" "$(jq '.students | map(select(.against)) | length' out)" "$(jq '.students | length - 2' out)"
refused 3 "against lr=7: no distilled run of that name" "a point that is not there" "$E" -s f.kd runs --no-selection --against lr=7
jq '.students[0].chosen = "a@temperature=9"' runs/selection.json >s && mv s runs/selection.json
refused 3 "selection.json.*a@temperature=9.*not here" "a choice of what is not there" "$E" -s f.kd runs
echo '{"schema": 1}' >runs/selection.json
refused 3 "selection.json: no list of students" "a selection without students" "$E" -s f.kd runs

"$T" -q -s f.kd --rows 1280 a.yaml --seeds 0-1 -o wild --select valid_accuracy --set train.optimizer=sgd --set train.weight_decay=10 \
  --sweep train.lr=0.01,100 >out 2>err
same "runs that diverge are an error" $? 1
same "but the others are finished" "$(ls wild/a@lr=0.01/distilled)" "seed-0
seed-1"
same "and a point with one is not chosen" "$(jq -c '.students[0] | [.chosen, .points[1].mean]' wild/selection.json)" '["a@lr=0.01",null]'

printf 'model: {arch: mlp, hidden: [8]}\nloss: [{name: kd}, {name: ce}]\ntrain: {epochs: 1, batch: 64}\n' >list.yaml
check "one key of one term of a list is swept" "$T" -s f.kd --rows 640 list.yaml --sweep loss.kd.temperature=2,8 --control -o terms --json
same "each point with its own formula, the control without" "$(jq -r '.students[] | .name + ": " + .formula' out)" \
  "list@kd.temperature=2: 1 T^2 KL(p||q)/B (T=2) + 1 CE
list@kd.temperature=8: 1 T^2 KL(p||q)/B (T=8) + 1 CE
list: 1 CE"
refused 2 "sweep loss.kd.temprature: .*did you mean .temperature" "an axis that is no key of the term" \
  "$T" -s f.kd list.yaml --sweep loss.kd.temprature=1,2 -o x
refused 2 "no term kdd .did you mean kd" "or of no term" "$T" -s f.kd list.yaml --sweep loss.kdd.temperature=1,2 -o x
refused 2 "did you mean loss.temperature" "or of a term where there is no list" "$T" -s f.kd a.yaml --sweep loss.kd.temperature=1,2 -o x
refused 2 "loss.temperature: this loss is a list of terms" "or of the short form where there is one" \
  "$T" -s f.kd list.yaml --sweep loss.temperature=1,2 -o x
refused 2 "no such key .did you mean train.lr" "an axis that is no key" "$T" -s f.kd a.yaml --sweep train.lrr=1,2 -o x
refused 2 "temperature" "a value out of range" "$T" -s f.kd a.yaml --sweep loss.temperature=1,0 -o x
refused 2 "expected KEY=VALUE,VALUE" "an axis without values" "$T" -s f.kd a.yaml --sweep train.lr -o x
refused 3 "10100 points; at most 4096" "too many points" "$T" -s f.kd a.yaml -o x \
  --sweep "train.epochs=$(seq -s, 1 101)" --sweep "train.batch=$(seq -s, 1 100)"
refused 3 "more than 4096 runs" "too many runs" "$T" -s f.kd a.yaml -n --sweep "train.epochs=$(seq -s, 1 60)" --seeds 0-99
refused 2 "losses of different objectives do not compare" "a loss cannot choose between objectives" \
  "$T" -s f.kd a.yaml --sweep loss.temperature=1,4 --select valid_loss -o x
sed 's/classes: 10/classes: 10\n  valid_fraction: 0/' data.yaml >none.yaml
check "a store without validation rows" "$KD_BIN/kd-dump" none.yaml -o none.kd
refused 2 "no validation rows to --select on" "nothing to choose on" "$T" -s none.kd teacher.yaml --select valid_accuracy -o x
same "refusals leave nothing" "$(ls -d x* 2>/dev/null)" ""
finish
