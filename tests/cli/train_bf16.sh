#!/bin/sh
# train.precision: bf16: the same weights at any number of threads and behind a kill, other ones than f32's,
# named in the papers, refused where the CPU cannot.
. "$(dirname "$0")/common"
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive
T=$KD_BIN/kd-train
small_data_yaml >data.yaml
student_yaml mlp 32 0 >mlp.yaml
cat >cnn.yaml <<Y
name: cnn
model: {arch: cnn, channels: [8, 16], strides: [2, 2], kernel: 3, norm: batch, head: gap}
loss: {kd: 0, ce: 1}
train: {epochs: 2, batch: 64, lr: 0.002}
Y
check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
hash() { jq -r .weight_hash "$1/provenance.json"; }
train() { # train FOLDER PRECISION STUDENT ARGUMENT...
  out=$1 p=$2 student=$3
  shift 3
  "$T" -s f.kd "$student.yaml" --rows 1280 --set "train.precision=$p" -o "$out" "$@"
}

refused 2 "train.precision.*f32|bf16" "a precision that is not there" train r f16 mlp
printf 'model: {arch: mlp}\nloss: {kd: 0, ce: 1}\ntrain: {precision: bf16}\n' >half.yaml
refused 2 "half.yaml:3.*: bf16 products need the CPU feature avx512_bf16; .*ends at avx2; train in f32" \
  "a CPU without bf16 is refused by the feature it lacks" env KD_ISA=avx2 "$T" -s f.kd half.yaml -o r
same "nothing was written" "$(ls -d r* 2>/dev/null)" ""
if "$T" -s f.kd half.yaml --dry-run 2>&1 | grep -q "avx512_bf16"; then
  echo "ok - the rest # SKIP this CPU has no avx512_bf16"
  finish
  exit
fi

for student in mlp cnn; do
  check "$student trains in bf16" train $student-1 bf16 $student --threads 1
  for t in 2 3 8; do
    check "on $t threads" train $student-$t bf16 $student --threads $t
    same "with the same weights" "$(hash $student-$t)" "$(hash $student-1)"
  done
  check "$student trains in f32" train $student-f32 f32 $student --threads 2
  same "to other weights" "$([ "$(hash $student-f32)" != "$(hash $student-1)" ] && echo other)" other
done
same "the papers name the precision" "$(jq -r '.contract.config.train.precision, (.contract.products | contains("bf16"))' cnn-1/provenance.json | tr '\n' ' ')" \
  "bf16 true "

"$T" -s f.kd cnn.yaml --rows 1280 --set train.precision=bf16 --set train.epochs=40 --checkpoint-seconds 0 -o cut >/dev/null 2>&1 &
pid=$!
while [ -z "$(find cut.part -name '*.kdc' 2>/dev/null)" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
refused 3 'config.train.precision is "bf16" there and "f32" now' "a resume in another precision is refused by name" \
  train cut f32 cnn --set train.epochs=40 --resume
check "a killed run resumes in bf16" train cut bf16 cnn --threads 1 --set train.epochs=40 --resume
check "as an uninterrupted one goes" train whole bf16 cnn --threads 2 --set train.epochs=40
same "to the same weights" "$(hash cut)" "$(hash whole)"
finish
