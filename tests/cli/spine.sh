#!/bin/sh
# The whole way of the data on a slice of the real data: pack, teacher, dump, students, evaluation.
. "$(dirname "$0")/common"
cd "$work" || exit 1
data_yaml >data.yaml
student_yaml teacher 64 0 | sed 's/ce: 0.5/ce: 1/' >teacher.yaml
student_yaml small 16 0.5 >small.yaml
student_yaml tiny 8 0.9 >tiny.yaml
cat >conv.yaml <<'Y'
name: conv
model: {arch: cnn, channels: [8, 8], strides: [2, 2]}
loss: {kd: 0.9, ce: 0.1, temperature: 2}
train: {epochs: 4, batch: 64, lr: 0.02, optimizer: adamw}
Y
cat >ds.yaml <<'Y'
name: ds
model: {arch: dscnn, channels: [8, 16], strides: [2, 2]}
loss: {kd: 0.9, ce: 0.1, temperature: 2}
train: {epochs: 6, batch: 64, lr: 0.1, optimizer: sgd, momentum: 0.9}
Y

check "kd-dump packs Fashion-MNIST" "$KD_BIN/kd-dump" data.yaml -o f.kd
check "kd-store verify finds the store whole" "$KD_BIN/kd-store" verify f.kd
same "all 70,000 rows are there" "$("$KD_BIN/kd-store" stat f.kd --json | jq .rows)" 70000
check "a teacher trains on labels" "$KD_BIN/kd-train" -s f.kd teacher.yaml -o teacher --rows 6000
refused 3 "no teacher|teacher" "students that need a teacher are refused before the dump" \
  "$KD_BIN/kd-train" -s f.kd small.yaml -o early --rows 640
check "the teacher's logits become columns" "$KD_BIN/kd-dump" --teacher teacher --into f.kd
check "the store with two segments is whole" "$KD_BIN/kd-store" verify f.kd
rm -rf teacher
check "students train from the store alone, with the teacher's folder removed" \
  "$KD_BIN/kd-train" -s f.kd small.yaml tiny.yaml conv.yaml ds.yaml --seeds 0-1 --control --rows 2560 -o runs --json
cp out train.json
same "all 16 runs were trained" "$(jq '.students | length' train.json)" 16
same "each chunk was decoded once" "$(jq -c '.reads | .decoded > 0 and .decoded == .expected' train.json)" true
check "evaluation runs from the store alone" "$KD_BIN/kd-eval" -s f.kd runs --results results.json
same "the results have four students" "$(jq '.students | length' results.json)" 4
same "each with two seeds and both roles" \
  "$(jq -c '[.students[] | (.distilled.accuracy | length), (.plain.accuracy | length)] | unique' results.json)" "[2]"
same "accuracies are far above chance" "$(jq '[.students[] | .distilled.accuracy[], .plain.accuracy[]] | min > 0.4' results.json)" true

hashes() { # weight hashes of the students trained with $1 threads
  "$KD_BIN/kd-train" -s f.kd small.yaml conv.yaml ds.yaml --rows 1280 --seeds 3 --threads "$1" -o "t$1" --json 2>/dev/null |
    jq -c '[.students[].weight_hash]'
}
one=$(hashes 1)
same "there are three hashes" "$(echo "$one" | jq 'unique | length')" 3
for n in 2 3 8; do same "$n threads give the weights that one thread gives" "$(hashes $n)" "$one"; done

"$KD_BIN/kd-train" -s f.kd conv.yaml --rows 1280 --seeds 3 -o alone --json >alone.json 2>/dev/null
same "a student alone gets the weights it gets in company" "$(jq -c '[.students[0].weight_hash]' alone.json)" \
  "$(echo "$one" | jq -c '[.[1]]')"
finish
