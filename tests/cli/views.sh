#!/bin/sh
# Views through the tools: a teacher runs on them, students train on the same ones, and nothing else is let through.
. "$(dirname "$0")/common"
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive # other tests may use the same cores
T=$KD_BIN/kd-train
cat >data.yaml <<Y
data:
  train_input: [$FASHION/t10k-images-idx3-ubyte.gz]
  train_label: [$FASHION/t10k-labels-idx1-ubyte.gz]
  shape: [28, 28, 1]
  classes: 10
  chunk_rows: 256
Y
cat >teacher.yaml <<Y
name: teacher
views: {from: fresh, shift: 2, flip: on}
model: {arch: mlp, hidden: [64]}
loss: {kd: 0, ce: 1}
train: {epochs: 3, batch: 64, lr: 0.003}
Y
cat >s.yaml <<Y
name: s
views: {from: store}
model: {arch: mlp, hidden: [16]}
loss: {kd: 0.9, ce: 0.1, temperature: 4, teacher: big}
train: {epochs: 3, batch: 64, lr: 0.003}
Y
sed 's/^views.*//; s/^name: s/name: bare/' s.yaml >bare.yaml
hash_of() { jq -r .weight_hash "$1/provenance.json"; }

check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
check "a teacher is trained on fresh views" "$T" -s f.kd teacher.yaml -o teacher
refused 3 "no views of teacher big, and student s asks for them" "a store without views" "$T" -s f.kd s.yaml -o r
check "it runs on four views of each row" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name big --encoding int8 --views 4 --view-shift 2 --view-flip
check "a check makes them again" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name big --check

check "a student trains on them, beside its twin" "$T" -s f.kd s.yaml -o one --seeds 0 --control --rows 2000 --threads 1
check "with three threads" "$T" -s f.kd s.yaml -o three --seeds 0 --rows 2000 --threads 3
same "the weights are the same" "$(hash_of three/s/distilled/seed-0)" "$(hash_of one/s/distilled/seed-0)"
same "the teacher knows the views" "$(jq -s 'map(.teacher_accuracy > 0.6) | all' one/s/distilled/seed-0/metrics.jsonl)" true
check "students with and without views share a pass" "$T" -s f.kd s.yaml bare.yaml -o both --seeds 0 --rows 2000
same "and change nothing of each other" "$(hash_of both/s/distilled/seed-0)" "$(hash_of one/s/distilled/seed-0)"
same "rows as they are give other weights" "$(jq -r .weight_hash both/*/distilled/seed-0/provenance.json | sort -u | wc -l)" 2
same "what was shown stands in the papers" "$(jq -c '.contract.config.views | [.count, .shift, .flip]' one/s/plain/seed-0/provenance.json)" '[4,2,true]'
for pause in 0.1 0.2 0.3; do
  "$T" -s f.kd s.yaml -o killed --rows 2000 --resume --checkpoint-seconds 0 >/dev/null 2>&1 &
  pid=$!
  sleep $pause
  kill -9 $pid 2>/dev/null
  wait $pid 2>/dev/null
done
check "a killed run resumes" "$T" -s f.kd s.yaml -o killed --rows 2000 --resume
same "to the same weights" "$(hash_of killed)" "$(hash_of one/s/distilled/seed-0)"

refused 3 "have seed 0, student s asks for 7" "another seed" "$T" -s f.kd s.yaml -o r --set views.seed=7
refused 3 "have shift 2, student s asks for 1" "another shift" "$T" -s f.kd s.yaml -o r --set views.shift=1
refused 3 "compares it with logits of the rows as they are" "fresh views under cached logits" "$T" -s f.kd s.yaml -o r --set views.from=fresh --set views.shift=2
refused 2 "views.shift without views.from" "views that nobody asked for" "$T" -s f.kd bare.yaml -o r --set views.shift=2
refused 2 "two ways to cut" "crop and shift" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name c --no-logits --views 2 --view-crop 0.5 --view-shift 2

check "views may be cropped and mixed" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name mix --views 3 --view-crop 0.6 --view-mixup 0.5 --view-cutmix 0.5
check "and made again" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name mix --check
check "and trained on, with both labels" "$T" -s f.kd s.yaml -o mixed --rows 2000 --set loss.teacher=mix
same "of which the teacher knows the larger share" "$(jq -s 'map(.teacher_accuracy > 0.4) | all' mixed/metrics.jsonl)" true
refused 2 "dkd takes one label a row" "an objective of one label" "$T" -s f.kd s.yaml -o r --set "loss.terms=name=dkd,teacher=mix"
same "nothing was written by what was refused" "$(ls -d r* 2>/dev/null)" ""
finish
