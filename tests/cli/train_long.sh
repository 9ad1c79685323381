#!/bin/sh
# What a long run leaves to look at: lines between epochs, TensorBoard's file, states; and that none of it depends on
# where the run was stopped.
. "$(dirname "$0")/common"
events=$(cd "$(dirname "$0")/../python" && pwd)/tfevents.py
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive
data_yaml >data.yaml
cat >long.yaml <<Y
model: {arch: mlp, hidden: [8]}
loss: {kd: 0, ce: 1}
train: {epochs: 3, batch: 32, accumulate: 4, ema: 0.99, lr: 0.01, keep: best}
Y
T=$KD_BIN/kd-train
check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
[ -d f.kd ] || exit 1
train() { # train FOLDER OPTIONS...
  out=$1
  shift
  "$T" -s f.kd long.yaml --rows 6400 --log-steps 20 -o "$out" "$@"
}
log() { jq -c 'del(.seconds, .stall_s, .time)' "$1/metrics.jsonl"; }
scalars() { /usr/bin/python3 "$events" "$1/events.out.tfevents.kd" | jq -c 'del(.time, .scalars["epoch/seconds", "epoch/stall_s", "step/seconds"])'; }

check "a run" train whole --tensorboard
same "has a line every 20 steps and one an epoch" "$(jq -r 'if .epoch then "e" else "s" end + "\(.step)"' whole/metrics.jsonl | tr '\n' ' ')" \
  "s20 s40 e50 s60 s80 s100 e100 s120 s140 e150 "
same "every line has its time" "$(jq -s 'all(.time > 1700000000)' whole/metrics.jsonl)" true
same "TensorBoard's file says the same, with sums that fit" \
  "$(scalars whole)" "$(jq -c 'def flat($p): to_entries[] | if .value | type == "object" then .key as $k | .value | flat("\($p)/\($k)")
    elif .value | type == "number" then {"\($p)/\(.key)": .value} else empty end;
    {step, scalars: ((if .epoch then "epoch" else "step" end) as $p | [del(.step, .epoch, .time, .seconds, .stall_s) | flat($p)] | add
      | map_values(. * 1e5 | round))}' whole/metrics.jsonl)"
same "the steps of the papers are those of the optimizer" "$(jq -c '[.steps, .epochs]' whole/provenance.json)" "[150,3]"

# Killed between two states: lines behind the older one are written once.
"$T" -s f.kd long.yaml --rows 6400 --log-steps 20 --tensorboard --checkpoint-seconds 0 -o cut >/dev/null 2>&1 &
pid=$!
while [ "$(cat cut.part/metrics.jsonl 2>/dev/null | wc -l)" -lt 5 ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
if [ -d cut.part ]; then
  printf '{"step": 9' >>cut.part/metrics.jsonl # as a kill or a full disk may leave it
  printf '\001\002' >>cut.part/events.out.tfevents.kd
fi
check "a killed run resumes" train cut --resume --tensorboard
same "with every line once" "$(log cut)" "$(log whole)"
same "and every event once" "$(scalars cut)" "$(scalars whole)"
same "its weights are those of the whole run" "$(jq -r .weight_hash cut/provenance.json)" "$(jq -r .weight_hash whole/provenance.json)"
check "without --tensorboard" train bare
same "there is no such file" "$(ls bare)" "$(printf '%s\n' config.json metrics.jsonl model.safetensors provenance.json)"

# States of another run, and of damage.
stopped() { # stopped FOLDER: stops a run behind its first epoch
  rm -rf "$1.part"
  "$T" -s f.kd long.yaml --rows 6400 --set train.epochs=400 --checkpoint-seconds 0 --keep 2 --json -o "$1" >stopped.json 2>/dev/null &
  pid=$!
  while [ "$(find "$1.part" -name '*.kdc' 2>/dev/null | wc -l)" -lt 2 ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
  kill -TERM $pid
  wait $pid
}
stopped st
same "a stop exits 5" $? 5
same "what it came to is said" "$(jq -c '[.students[0].done, .students[0].epochs > 0, .rows_per_s > 0]' stopped.json)" "[false,true,true]"
same "the last two states are there" "$(find st.part -name 'ckpt-*.kdc' | wc -l)" 2
states() { find st.part -type f -exec md5sum {} + | sort; }
before=$(states)
refused 3 "config.train.lr is 0.01 there and 0.02 now; start over with --force" "a state of another config is refused by its field" \
  "$T" -s f.kd long.yaml --rows 6400 --set train.epochs=400 --set train.lr=0.02 -o st --resume
refused 2 "an unfinished run; go on with --resume, or start over with --force" "nothing starts over unasked" \
  "$T" -s f.kd long.yaml --rows 6400 --set train.epochs=400 -o st
same "neither changes what is there" "$(states)" "$before"
newest=$(ls st.part/ckpt-*.kdc | tail -n 1)
truncate -s -100 "$newest"
cp "$newest" "st.part/$(basename "$newest").tmp.1" # half a file of a killed save
"$T" -s f.kd long.yaml --rows 6400 --set train.epochs=400 -o st --resume --checkpoint-seconds 0 >out 2>err &
pid=$!
while [ "$(ls st.part/ckpt-*.kdc | tail -n 1)" = "$newest" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
kill -TERM $pid
wait $pid
same "a damaged newest state is passed over" "$?" 5
same "with a warning that names it" "$(grep -c "passed over a damaged checkpoint: .*$(basename "$newest")" err)" 1
finish
