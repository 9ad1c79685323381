#!/bin/sh
# Runs docs/scale-out.md as it stands: by hand, with make, with xargs, as a Slurm array. Each way gives the
# store that one machine writes, root hash for root hash. Then merges that are stopped and pairs that do not fit.
. "$(dirname "$0")/common"
page=$(cd "$(dirname "$0")/../../docs" && pwd)/scale-out.md
cd "$work" || exit 1
PATH=$KD_BIN:$PATH
export OMP_WAIT_POLICY=passive
/usr/bin/python3 - <<'P'
import numpy as np
rng = np.random.default_rng(1)
np.save("x.npy", rng.integers(0, 99, (3000, 30), dtype=np.uint8))
np.save("y.npy", rng.integers(0, 5, 3000).astype(np.int32))
P
cat >data.yaml <<'Y'
data: {train_input: [x.npy], train_label: [y.npy], chunk_rows: 128}
Y
cat >teacher.yaml <<'Y'
name: teacher
model: {arch: mlp, hidden: [4]}
loss: {ce: 1, kd: 0}
train: {epochs: 1, batch: 64}
Y
root() { kd-store stat "$1" --json 2>/dev/null | jq -r .root; }
check "the data are packed" kd-dump data.yaml -o one.kd
check "a teacher is trained" kd-train -s one.kd teacher.yaml -o teacher
check "one machine dumps" kd-dump --teacher teacher --into one.kd --name big
one=$(root one.kd)

section() { sed -n "/^## $1/,/^## /p" "$page"; }
lines() { section "$1" | sed -n 's/^    \(.*\)/\1/p' | grep -v sshlogin; } # other machines are not here
block() { section "$1" | sed -n '/^```/,/^```/p' | grep -v '^```'; }
again() { rm -rf all.kd part?.kd; }
run_lines() { while read -r line; do check "$line" sh -c "$line"; done; }

lines "By hand" >commands
same "the page shows how by hand" "$(grep -c . commands)" 6
run_lines <commands
same "parts merged by hand are the store of one machine" "$(root all.kd)" "$one"
again

block "GNU make" >parts.mk
check "the makefile makes all of it" make -j2 -f parts.mk all.kd
same "parts merged by make are the store of one machine" "$(root all.kd)" "$one"
check "and has nothing more to do" make -q -f parts.mk all.kd
again

lines "GNU parallel" >commands
same "the page shows xargs" "$(grep -c . commands)" 2
run_lines <commands
same "parts merged after xargs are the store of one machine" "$(root all.kd)" "$one"
again

block "Slurm" >dump.sh
for i in 3 1 2; do
  check "task $i of the array" env SLURM_ARRAY_TASK_ID=$i SLURM_ARRAY_TASK_COUNT=3 SLURM_CPUS_PER_TASK=1 sh dump.sh
done
check "the job behind it" kd-store merge all.kd part1.kd part2.kd part3.kd --resume
same "parts of an array are the store of one machine" "$(root all.kd)" "$one"

lines "Teachers outside" >commands
run_lines <commands
same "halves without a teacher are the rows" "$(root whole.kd)" "$(root fashion.kd)"

# What is refused, by name; nothing is left of it.
refused 2 "part1.kd, row 0: its id [0-9a-f]{32} is that of part1.kd, row 0; --skip-duplicates" "a part given twice is refused" \
  kd-store merge x.kd part1.kd part2.kd part1.kd
check "or left out" kd-store merge skipped.kd part1.kd part2.kd part3.kd part1.kd --skip-duplicates
same "which leaves all rows once" "$(kd-store stat skipped.kd --json 2>/dev/null | jq .rows)" 3000
refused 3 "half1.kd: has no segment big" "a part without the teacher is refused" kd-store merge x.kd part1.kd half1.kd
cp -r half2.kd h2.kd
check "another teacher" sh -c "sed 's/4/5/' teacher.yaml >t2.yaml && kd-train -s one.kd t2.yaml -o t2 && kd-dump --teacher t2 --into h2.kd --name big"
refused 3 "h2.kd: the fingerprint of the teacher of segment big is " "another teacher's part is refused" kd-store merge x.kd part1.kd h2.kd
refused 2 "already there" "a finished store is not overwritten" kd-store merge all.kd part1.kd part2.kd part3.kd
refused 2 "both read and written" "nor merged into itself" kd-store merge part1.kd part1.kd part2.kd --force
refused 3 "nothing.kd: no such store" "a part that is missing is refused" kd-store merge x.kd part1.kd nothing.kd
refused 2 "kd-store merge OUT.kd STORE" "a merge needs stores" kd-store merge x.kd
refused 2 "names the new store first" "-o is not for merge" kd-store merge part1.kd part2.kd -o x.kd
refused 2 "expected i/n" "a part is i/n" kd-store slice fashion.kd --part 1 -o x.kd
refused 2 "say -o OUT.kd" "a part goes somewhere" kd-store slice fashion.kd --part 1/2
refused 2 "itself a part" "a part is not cut again" kd-store slice half1.kd --part 1/2 -o x.kd
refused 2 "is empty" "a store is not cut into more parts than it has chunks" kd-store slice fashion.kd --part 1/99 -o x.kd
same "nothing is left of a refusal" "$(ls -d x.kd* 2>/dev/null)" ""

# A merge that is killed at several moments goes on, and ends as the same store.
rm -rf all.kd
killed_often all.kd "0.005 0.01 0.02 0.03 0.05 0.08" kd-store merge all.kd part1.kd part2.kd part3.kd --resume
same "it ends as the same store" "$(root all.kd)" "$one"
check "which verifies" kd-store verify all.kd
# A kill behind the last rename leaves the plan of what is done already.
same "and holds nothing else" "$(ls all.kd | grep -v '^rewrite.json$' | tr '\n' ' ')" "base.mdb big.mdb manifest.json "

# Compacting changes bytes, never values.
before=$(cat all.kd/*.mdb | wc -c)
kd-store export all.kd big/logits image label -o before.jsonl >/dev/null 2>&1
check "a store is compacted" kd-store compact all.kd --level 19
same "it is no larger" "$([ "$(cat all.kd/*.mdb | wc -c)" -le "$before" ] && echo yes)" yes
kd-store export all.kd big/logits image label -o after.jsonl >/dev/null 2>&1
check "its values are the same" cmp before.jsonl after.jsonl
check "it verifies" kd-store verify all.kd
touch all.kd/other.mdb.part
refused 2 "other.mdb.part: left by an unfinished run" "unfinished outputs are not thrown away" kd-store compact all.kd
rm all.kd/other.mdb.part
same "as JSON too" "$(kd-store compact all.kd --json 2>/dev/null | jq '.bytes_before >= .bytes and .bytes > 0')" true
finish
