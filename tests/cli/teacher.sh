#!/bin/sh
# kd-dump --teacher: what it refuses, and kills of the pass.
. "$(dirname "$0")/common"
cd "$work" || exit 1
small_data_yaml >data.yaml
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

# Before paying: lists and plans; nothing is written by them.
before=$(stat f.kd .root)
check "encodings are listed" "$KD_BIN/kd-dump" --list-encodings --json
same "with what they serve" "$(jq -r '.encodings[] | select(.name == "int8") | .serves' out | grep -c 'soft targets')" 1
check "nodes are listed" "$KD_BIN/kd-dump" --teacher teacher --list-taps --json
same "with their shapes" "$(jq -c '.taps[] | select(.node == "relu1") | .shape' out)" '[7,7,16]'
check "a plan measures encodings" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --plan --plan-rows 500 --json
same "dense ones first" "$(jq -c '[.encodings[:3][].encoding]' out)" '["f32","f16","bf16"]'
same "f32 loses nothing, int8 little" "$(jq -c '[.encodings[] | select(.encoding == "f32" or .encoding == "int8") | .kl_t1 < 0.001 and .row_bytes > 5]' out)" '[true,true]'
check "a plan of one encoding, as a table" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --plan --encoding int8
same "has one row" "$(tail -n +2 out | grep -c int8)" 1
refused 2 "did you mean 'int8'" "a misspelt encoding gets the nearest" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --plan --encoding imt8
refused 2 "one at a time" "a plan is no check" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --plan --check
refused 2 "which teacher" "taps of whom?" "$KD_BIN/kd-dump" --list-taps
same "none of them changed the store" "$(stat f.kd .root)" "$before"

# Taps, views and encodings, together and later.
refused 2 "did you mean 'relu0'" "a dry run finds a misspelt tap" \
  "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name rich --tap rleu0 --dry-run
check "a dry run names the segment" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --no-logits --tap relu0 --dry-run --json
same "that would be written" "$(jq -r .segment out)" teacher.feat.relu0
check "logits, taps and views in one pass" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name rich --encoding int8 \
  --tap relu0 --tap relu1:max --feature-encoding int8-channel --views 2 --view-shift 2 --view-flip --json
same "report their columns" "$(jq -c '[.columns[] | [.name, .encoding]]' out)" \
  '[["rich/logits","int8"],["rich/logits.views","int8"],["rich/feat.relu0","int8-channel"],["rich/feat.relu1","int8-channel"]]'
check "features come later too" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --no-logits --tap relu1:flat --dtype bf16
refused 2 "nothing to dump" "a pass of nothing" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name none --no-logits
refused 2 "nothing that tells them apart" "views that are all alike" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name v --views 2
check "a check runs the teacher again" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name rich --check --json
same "and finds no difference" "$(jq -c '[.columns[] | .largest == 0 and .matches] | [length, all]' out)" '[4,true]'
refused 3 "no columns of a teacher 'nobody'" "nobody cannot be checked" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name nobody --check

# One machine of three.
refused 2 "where does the part go" "a part needs a store" "$KD_BIN/kd-dump" --teacher teacher --into k.kd --name s --shard 1/3
refused 2 "expected i/n" "parts are counted from 1" "$KD_BIN/kd-dump" --teacher teacher --into k.kd --name s --shard 0/3 -o p.kd
refused 2 "for a teacher's pass" "a data set is packed whole" "$KD_BIN/kd-dump" data.yaml --shard 1/3 -o p.kd
check "a store without teachers" "$KD_BIN/kd-dump" data.yaml -o s.kd
many="--name s --encoding head-tail --tap relu0 --views 2 --view-flip"
for i in 1 2 3; do
  # shellcheck disable=SC2086
  check "part $i of 3" "$KD_BIN/kd-dump" --teacher teacher --into s.kd $many --shard $i/3 -o p$i.kd
done
same "a part has its name when it is finished" "$(find . -name '*.shard' | wc -l)" 0
# shellcheck disable=SC2086
refused 2 "already there" "a part is not made twice" "$KD_BIN/kd-dump" --teacher teacher --into s.kd $many --shard 1/3 -o p1.kd
refused 3 "p1.kd: is not part 2/3" "nor gone on with as another part" \
  "$KD_BIN/kd-dump" --teacher teacher --into s.kd --name s2 --shard 2/3 -o p1.kd --resume
check "but another pass goes over it" "$KD_BIN/kd-dump" --teacher teacher --into s.kd --name s2 --shard 1/3 -o p1.kd --resume
check "whose segment is dropped again" "$KD_BIN/kd-store" drop p1.kd s2
"$KD_BIN/kd-dump" --teacher teacher --into s.kd --name s3 --shard 3/3 -o p4.kd --views 20 --view-flip --batch 1 >/dev/null 2>&1 &
pid=$!
sleep 0.5
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
if [ -e p4.kd ]; then echo "# the part was through before it was killed"; else
  check "a part that was killed goes on" "$KD_BIN/kd-dump" --teacher teacher --into s.kd --name s3 --shard 3/3 -o p4.kd --views 20 --view-flip --batch 1 --resume
fi
mv p4.kd p4.kd.shard
check "also behind its last row" "$KD_BIN/kd-dump" --teacher teacher --into s.kd --name s3 --shard 3/3 -o p4.kd --views 20 --view-flip --batch 1 --resume
check "and is what the teacher says" "$KD_BIN/kd-dump" --teacher teacher --into p4.kd --name s3 --check
check "the parts are merged" "$KD_BIN/kd-store" merge m.kd p1.kd p2.kd p3.kd
# shellcheck disable=SC2086
check "one machine does it all" "$KD_BIN/kd-dump" --teacher teacher --into s.kd $many
same "to the same root" "$(stat m.kd .root)" "$(stat s.kd .root)"
finish
