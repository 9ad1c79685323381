#!/bin/sh
# kd-dump --teacher: what it refuses, and kills of the pass.
. "$(dirname "$0")/common"
cd "$work" || exit 1
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
model: {arch: cnn, channels: [8, 16], strides: [2, 2]}
loss: {kd: 0, ce: 1}
train: {epochs: 1, batch: 64, lr: 0.003}
Y
stat() { # stat STORE FILTER
  "$KD_BIN/kd-store" stat "$1" --json -q | jq -c "$2"
}
logits='[.columns[] | select(.role == "logits") | .name]'

check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
check "a teacher is trained" "$KD_BIN/kd-train" -s f.kd teacher.yaml -o teacher --rows 640

refused 2 "say which finished store" "a teacher needs a store" "$KD_BIN/kd-dump" --teacher teacher
refused 2 "say which: --teacher" "a store needs a teacher" "$KD_BIN/kd-dump" --into f.kd
refused 2 "use one of them" "a teacher makes no new store" "$KD_BIN/kd-dump" --teacher teacher --into f.kd -o g.kd
refused 2 "leave it out" "a teacher takes no data file" "$KD_BIN/kd-dump" --teacher teacher --into f.kd data.yaml
refused 3 "no such folder" "a missing teacher is named" "$KD_BIN/kd-dump" --teacher none --into f.kd
refused 3 "none.kd" "a missing store is named" "$KD_BIN/kd-dump" --teacher teacher --into none.kd
refused 2 "allowed are a-z" "a wrong name is refused" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name 'Big!'
check "a dry run looks" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --dry-run
same "and writes nothing" "$(stat f.kd "$logits")" '[]'
cp -r teacher broken && truncate -s -1 broken/model.safetensors
refused 3 "broken/model.safetensors" "a truncated teacher is named" "$KD_BIN/kd-dump" --teacher broken --into f.kd
jq '.preprocess.scale = 1' teacher/config.json >broken/config.json && cp teacher/model.safetensors broken/
refused 3 "preprocess.scale" "a teacher of other preprocessing is refused" "$KD_BIN/kd-dump" --teacher broken --into f.kd

cp -r f.kd k.kd
check "the whole pass" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --batch 1
root=$(stat f.kd .root)
refused 2 "already there" "a teacher is not added twice" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --batch 1
# Killed again and again until it is through: the records are those of the uninterrupted pass.
for delay in 0.02 0.05 0.1 0.2; do
  "$KD_BIN/kd-dump" --teacher teacher --into k.kd --batch 1 --resume >/dev/null 2>&1 &
  pid=$!
  sleep $delay
  kill -9 $pid 2>/dev/null
  wait $pid 2>/dev/null
done
if [ -e k.kd/teacher.mdb ]; then echo "# the pass was through before the last kill"; else
  same "an unfinished pass is not seen" "$(stat k.kd "$logits")" '[]'
fi
[ -e k.kd/teacher.mdb ] || check "a killed pass resumes" "$KD_BIN/kd-dump" --teacher teacher --into k.kd --batch 1 --resume
same "the root is that of the whole pass" "$(stat k.kd .root)" "$root"
check "and every record is whole" "$KD_BIN/kd-store" verify k.kd
check "a second teacher stands beside the first" "$KD_BIN/kd-dump" --teacher teacher --into k.kd --name again --dtype f16
same "with columns of its own" "$(stat k.kd "$logits")" '["teacher/logits","again/logits"]'
check "resume with force replaces a teacher that is there" \
  "$KD_BIN/kd-dump" --teacher teacher --into k.kd --name again --resume --force --batch 32
check "force replaces a teacher" "$KD_BIN/kd-dump" --teacher teacher --into k.kd --name again --force --batch 64
same "and leaves no other file" "$(find k.kd -name '*.mdb' | wc -l)" 3
finish
