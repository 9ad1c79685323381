#!/bin/sh
# kd-train from logits in every encoding: what a column cannot serve is refused, what it can trains as the
# dense one does, with the same bits for any threads and after kills, in memory that rows do not change.
. "$(dirname "$0")/common"
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive # other tests may use the same cores
small_data_yaml >data.yaml
cat >teacher.yaml <<Y
name: teacher
model: {arch: mlp, hidden: [64]}
loss: {kd: 0, ce: 1}
train: {epochs: 3, batch: 64, lr: 0.003}
Y
cat >s.yaml <<Y
name: s
model: {arch: mlp, hidden: [16]}
loss: {kd: 0.9, ce: 0.1, temperature: 4, kl_form: cross_entropy}
train: {epochs: 3, batch: 64, lr: 0.003}
Y
check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
check "a teacher is trained" "$KD_BIN/kd-train" -s f.kd teacher.yaml -o teacher
add() { # add NAME OPTIONS...: the same teacher once more
  name=$1
  shift
  check "$name is dumped" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name "$name" "$@"
}
add dense
add half --dtype f16
add int8 --encoding int8
add log8 --encoding log8
add heads --encoding head-tail:n=50,temperature=4
add draws --encoding sample:n=50,temperature=4
add top --encoding topk:k=4
train() { # train FOLDER TEACHER OPTIONS...: windows of 4 chunks of 31
  out=$1 teacher=$2
  shift 2
  "$KD_BIN/kd-train" -s f.kd s.yaml -o "$out" --set "loss.teacher=$teacher" --window-rows 1024 "$@"
}
hash_of() { jq -r .weight_hash "$1/provenance.json"; }
loss_of() { tail -n 1 "$1/metrics.jsonl" | jq .terms.kd; }
near() { jq -n "($1 - $2) | fabs < $3"; }
# distance A B: of two models' weights, as a share of the first's norm.
distance() {
  python3 - "$1" "$2" <<'P'
import array, sys
def weights(folder):
    data = open(folder + "/model.safetensors", "rb").read()
    return array.array("f", data[8 + int.from_bytes(data[:8], "little"):])
a, b = weights(sys.argv[1]), weights(sys.argv[2])
print((sum((x - y) ** 2 for x, y in zip(a, b)) / sum(x * x for x in a)) ** 0.5)
P
}

refused 2 "teachers" "one of several teachers must be named" "$KD_BIN/kd-train" -s f.kd s.yaml -o none
refused 2 "top/logits \(topk\) serves .*dump again with kd-dump --encoding log8" "top-k is refused, and what to do" train none top
refused 3 "heads/logits \(head-tail\) serves .* which is 4; loss.temperature is 2: set 4 in s.yaml" \
  "another temperature than the dump's is refused" train none heads --set loss.temperature=2
cat >sparse.yaml <<Y
name: sparse
model: {arch: mlp, hidden: [16]}
loss: [{name: sparse_kl, weight: 0.9}, {name: ce, weight: 0.1}]
train: {epochs: 3, batch: 64, lr: 0.003}
Y
sparse() { # sparse FOLDER TEACHER TERMS OPTIONS...
  out=$1 teacher=$2 terms=$3
  shift 3
  "$KD_BIN/kd-train" -s f.kd sparse.yaml -o "$out" --set "loss.teacher=$teacher" --set "loss.terms=$terms" "$@"
}
refused 2 "dense/logits \(dense\) serves every class; sparse_kl needs the largest classes.*kd-dump --encoding topk:temperatures=" "sparse objectives refuse dense logits" \
  "$KD_BIN/kd-train" -s f.kd sparse.yaml -o none --set loss.teacher=dense
refused 2 "heads/logits \(head-tail\) serves .*; sparse_kl needs the largest classes" "and the wrong kind of sparse ones" \
  sparse none heads name=sparse_kl
refused 3 "draws/logits \(sample\) serves .* which is 4; dump_temperature of sparse_kl is 1" "and another temperature" \
  sparse none draws name=sparse_kl,sparse=sampled
refused 2 "sparse: bucket needs the teacher.s normaliser at T = 3" "and one whose normaliser was not kept" \
  sparse none top name=sparse_kl,temperature=3
refused 2 "top/logits \(topk\) serves .*dkd needs soft targets of all classes" "a dense objective is refused by its name" \
  sparse none top name=dkd
check "a student learns from the largest classes" "$KD_BIN/kd-train" -s f.kd sparse.yaml -o top1 --set loss.teacher=top --threads 1
check "with three threads too" "$KD_BIN/kd-train" -s f.kd sparse.yaml -o top3 --set loss.teacher=top --threads 3
same "the same weights" "$(jq -r .weight_hash top1/provenance.json)" "$(jq -r .weight_hash top3/provenance.json)"
same "by the formula of its log" "$(jq -r .formula top1/provenance.json)" "0.9 KL(p and rest, q and rest)/B (T=1) + 0.1 CE"
same "the cached teacher's accuracy is that of the kept classes" \
  "$(tail -n 1 top1/metrics.jsonl | jq '.teacher_accuracy > 0.7')" true

check "labels alone need no logits" "$KD_BIN/kd-train" -s f.kd s.yaml -o plain --set loss.kd=0 --set loss.ce=1 --rows 640

for t in dense half int8 log8 heads draws; do check "a student learns from $t" train "$t" "$t" --threads 2; done
dense=$(loss_of dense)
for t in "half 0.01 0.04" "int8 0.05 0.04" "log8 0.05 0.08" "heads 0.1 0.5" "draws 0.3 0.5"; do
  set -- $t
  same "from $1 it comes as near to the teacher as from dense logits ($dense, $(loss_of "$1"))" "$(near "$dense" "$(loss_of "$1")" "$2")" true
  far=$(distance dense "$1")
  same "and its weights lie near ($far)" "$(near 0 "$far" "$3")" true
done
drawn="name=sparse_kl,weight=0.9,sparse=sampled,temperature=4,dump_temperature=4,t2=on,kl_form=cross_entropy;name=ce,weight=0.1"
check "drawn classes are read as they are" sparse drawn draws "$drawn" --threads 2 --window-rows 1024
far=$(distance draws drawn)
same "and give the weights of their scattered form ($far)" "$(near 0 "$far" 0.001)" true
same "other targets, other weights" "$(for t in dense half int8 log8 heads draws; do hash_of $t; done | sort -u | wc -l)" 6

for t in int8 heads; do
  check "one thread, decoding ahead where there is a core" train "$t-one" "$t" --threads 1
  check "three threads" train "$t-three" "$t" --threads 3
  same "give the same weights" "$(hash_of "$t-one") $(hash_of "$t-three")" "$(hash_of $t) $(hash_of $t)"
  kills=0
  for pause in 0.05 0.1 0.15; do
    "$KD_BIN/kd-train" -s f.kd s.yaml -o "$t-killed" --set "loss.teacher=$t" --window-rows 1024 --resume --checkpoint-seconds 0 >/dev/null 2>&1 &
    pid=$!
    sleep $pause
    kill -9 $pid 2>/dev/null && kills=$((kills + 1))
    wait $pid 2>/dev/null
  done
  echo "# $kills kills"
  check "a killed run resumes" train "$t-killed" "$t" --resume
  same "to the same weights" "$(hash_of "$t-killed")" "$(hash_of $t)"
done

# The reader: its memory is known before the first step and depends on the window, its stall is measured.
reader() { train "m$1" heads --rows "$1" --window-rows 256 --threads 2 --json -q | jq "$2"; }
bytes=$(reader 400 .reader_bytes)
same "20 times the rows take 4 bytes a chunk more" "$(reader 8000 .reader_bytes)" $((bytes + 4 * 30))
peak() { train "p$1" heads --rows "$1" --window-rows 256 --threads 2 2>&1 | sed -n 's/.* \([0-9.]*\) MiB peak.*/\1/p'; }
few=$(peak 400) many=$(peak 8000) # 6 MiB of images
same "and no memory of the process ($few MiB, $many MiB)" "$(jq -n "$many - $few < 3")" true
same "stall stands in the metrics" "$(jq -s 'map(.stall_s >= 0) | all' dense/metrics.jsonl)" true
check "the last line says it" sh -c "'$KD_BIN/kd-train' -s f.kd s.yaml -o last --set loss.teacher=int8 --rows 640 2>&1 | grep -q 'stall [0-9.]* %'"

check "students are judged by a teacher that kept all classes" "$KD_BIN/kd-eval" -s f.kd dense heads
refused 3 "no logits of a teacher named heads that keep all classes" "a sparse teacher is no judge" "$KD_BIN/kd-eval" -s f.kd --teacher heads dense
finish
