#!/bin/sh
# From kd-dump --tap and --encoding to kd-train: each cached output reaches the objective that wants it, with the
# same bits for any threads and after kills; what is missing is refused with the command that dumps it.
. "$(dirname "$0")/common"
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive # other tests may use the same cores
cat >data.yaml <<Y
data:
  train_input: [$FASHION/t10k-images-idx3-ubyte.gz]
  train_label: [$FASHION/t10k-labels-idx1-ubyte.gz]
  shape: [28, 28, 1]
  classes: 10
  chunk_rows: 256
Y
net='model: {arch: cnn, channels: [4, 8], strides: [2, 2]}'
printf 'name: teacher\n%s\nloss: {kd: 0, ce: 1}\ntrain: {epochs: 1, batch: 64, lr: 0.003}\n' "$net" >teacher.yaml
student() { # student NAME TERMS
  printf 'name: %s\nmodel: {arch: cnn, channels: [3, 4], strides: [2, 2]}\nloss:\n%s\ntrain: {epochs: 2, batch: 64, lr: 0.003}\n' \
    "$1" "$2" >"$1.yaml"
}
T=$KD_BIN/kd-train D=$KD_BIN/kd-dump
train() { # train STUDENT FOLDER OPTIONS...
  name=$1 out=$2
  shift 2
  "$T" -s f.kd "$name.yaml" -o "$out" --rows 1280 --window-rows 512 "$@"
}
hash_of() { jq -r .weight_hash "$1/provenance.json"; }
check "a store is packed" "$D" data.yaml -o f.kd
check "a teacher is trained" "$T" -s f.kd teacher.yaml -o teacher --rows 2560

student maps '  - {name: ce}
  - {name: fitnet, tap: relu0, feature: relu0}
  - {name: at, tap: relu1, feature: relu1}
  - {name: crd, tap: gap, feature: gap, dim: 16, negatives: 32, weight: 0.1}'
refused 3 "fitnet needs a feature relu0, found none; add it: kd-dump --teacher FOLDER --into f.kd --no-logits --tap relu0:flat" \
  "without features, and what to do" train maps none
check "features are dumped" "$D" --teacher teacher --into f.kd --no-logits --tap relu0:flat --tap relu1:attention --tap gap --dtype f16
check "a student learns from maps, attention and vectors" train maps maps --threads 2
same "the log says which" "$(jq -r .formula maps/provenance.json | grep -c 'at: relu1 against teacher/feat.relu1')" 1
same "the metrics have each term" "$(head -n 1 maps/metrics.jsonl | jq -r '.terms | keys | join(" ")')" "at ce crd fitnet"
same "each gets smaller" "$(jq -s '[.[0].terms, .[1].terms] | (.[1].fitnet < .[0].fitnet) and (.[1].at < .[0].at)' maps/metrics.jsonl)" true
same "the student alone is exported" "$(head -c 4000 maps/model.safetensors | grep -c 'loss\.')" 0
for n in 1 3 4 8; do
  check "with $n threads" train maps "maps-$n" --threads $n
  same "the same weights" "$(hash_of "maps-$n")" "$(hash_of maps)"
done
kills=0
for pause in 0.05 0.08 0.1 0.12 0.15; do
  train maps killed --resume --checkpoint-seconds 0 >/dev/null 2>&1 &
  pid=$!
  sleep $pause
  kill -9 $pid 2>/dev/null && kills=$((kills + 1))
  wait $pid 2>/dev/null
done
echo "# $kills kills"
check "a killed run resumes, banks and projections too" train maps killed --resume
same "to the same weights" "$(hash_of killed)" "$(hash_of maps)"

student pairs '  - {name: rkd_distance, tap: gap, feature: gap}
  - {name: rkd_angle, tap: relu1, feature: gap}
  - {name: sp, tap: gap, feature: gap}
  - {name: pkt, tap: gap, feature: gap}
  - {name: embed, tap: gap, feature: gap, projection: linear}'
check "a student learns how rows lie to each other" train pairs pairs
refused 2 "no node 'gpa' \(did you mean 'gap'\?\)" "a mistyped tap" train pairs none --set "loss.terms=name=sp,tap=gpa,feature=gap"
refused 2 "at: attention maps need features" "a tap without pixels" train pairs none --set "loss.terms=name=at,tap=gap,feature=relu1"
refused 2 "no regressor leads from a map of 7x7 to one of 14x14" "shapes that do not fit" \
  train pairs none --set "loss.terms=name=fitnet,tap=relu1,feature=relu0"

check "top-k targets" "$D" --teacher teacher --into f.kd --name top --encoding topk:k=4,temperatures=1+4
check "drawn targets" "$D" --teacher teacher --into f.kd --name drawn --encoding sample:n=50,temperature=4
check "head and tail" "$D" --teacher teacher --into f.kd --name heads --encoding head-tail:n=50,temperature=4
for s in raw renorm bucket both uniform; do
  student "$s" "  - {name: sparse_kl, teacher: top, sparse: $s, temperature: 4, t2: on}"
  check "sparse: $s" train "$s" "$s"
done
for t in drawn heads; do
  student "$t" "  - {name: sparse_kl, teacher: $t, sparse: sampled, temperature: 4, dump_temperature: 4, t2: on}"
  check "sparse: sampled from $t" train "$t" "$t"
done
same "seven students" "$(for s in raw renorm bucket both uniform drawn heads; do hash_of $s; done | sort -u | wc -l)" 7
refused 2 "top/logits \(topk\) serves .* kd needs .*: use sparse_kl" "top-k for kd" train raw none --set "loss.terms=name=kd,teacher=top"
refused 2 "heads/logits \(head-tail\) serves .*: set sparse: sampled" "sampled targets for bucket" \
  train raw none --set "loss.terms=name=sparse_kl,teacher=heads"

check "dense logits" "$D" --teacher teacher --into f.kd --name big
check "the student of features is judged" "$KD_BIN/kd-eval" -s f.kd maps
check "and the same once more" "$D" --teacher teacher --into f.kd --name huge --encoding int8
for e in logits probabilities best; do
  student "$e" "  - {name: kd, teacher: [big*3, huge], ensemble: $e, wrong: 0.5}"
  check "two teachers: $e" train "$e" "$e"
done
same "both are watched" "$(head -n 1 logits/metrics.jsonl | jq -r '.teacher_accuracy | keys | join(" ")')" "big huge"
same "both are in the papers" "$(jq -r '[.teachers[].name] | join(" ")' logits/provenance.json)" "big huge"
student drawn-turns "  - {name: sparse_kl, teacher: [drawn, heads], ensemble: turns, sparse: sampled, temperature: 4, dump_temperature: 4, t2: on}"
check "sampled teachers in turns" train drawn-turns turns
same "the first epoch is the first teacher's" "$(head -n 1 turns/metrics.jsonl | jq -c .terms)" "$(head -n 1 drawn/metrics.jsonl | jq -c .terms)"
refused 2 "cannot take the mean of logits of several teachers .'drawn heads'.: its targets are sparse; .*turns" "the mean of sparse targets" \
  train drawn-turns none --set loss.sparse_kl.ensemble=logits
refused 2 "in turns all weigh the same" "weights of turns" train drawn-turns none --set "loss.sparse_kl.teacher=drawn*2 heads"
refused 2 "weights of the teachers of kd sum to zero" "weights that sum to zero" train raw none --set "loss.terms=name=kd,teacher=big*0 huge*0"
refused 3 "made by another run: config.loss" "another loss does not go on there" \
  train maps maps --resume --set "loss.terms=name=sp,tap=gap,feature=gap"
same "nothing was written" "$(ls -d none* 2>/dev/null)" ""
finish
