#!/bin/sh
# kd-train killed, stopped and out of disk space: what is there is whole or older, never half, and
# the weights in the end are those of an uninterrupted run.
# KD_TRAIN_KILLS=N sets the kills for each architecture at the end, KD_SEED=N repeats their moments.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common"
cd "$work" || exit 1
exec='' # "exec" where the process itself is to be killed, not a shell around it
export OMP_WAIT_POLICY=passive # other tests may use the same cores
data_yaml >data.yaml
for s in "mlp {arch:_mlp,_hidden:_[32],_dropout:_0.1} 12 adamw" "ds {arch:_dscnn,_channels:_[4,_8],_strides:_[4,_2]} 4 sgd"; do
  set -- $s
  cat >"$1.yaml" <<Y
model: $(echo "$2" | tr _ ' ')
loss: {kd: 0, ce: 1}
train: {epochs: $3, batch: 64, lr: 0.01, optimizer: $4, keep: best}
Y
done
check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
[ -d f.kd ] || exit 1
train() { # train FOLDER OPTIONS...
  out=$1
  shift
  $exec "$KD_BIN/kd-train" -s f.kd mlp.yaml ds.yaml --seeds 0-1 --rows 9000 --threads 2 -o "$out" "$@"
}
hashes() { jq -r .weight_hash "$1"/*/*/seed-*/provenance.json | tr '\n' ' '; }
log() { # metrics without the time they took
  for f in "$1"/*/*/seed-*/metrics.jsonl; do jq -c 'del(.seconds, .stall_s, .time)' "$f"; done | md5sum
}
lines() { cat "$1"/*/*/seed-*/metrics.jsonl 2>/dev/null | wc -l; }
begins() { # begins FOLDER N: waits until a run has logged more than N lines, or has ended
  while [ "$(lines "$1")" -le "$2" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
}
check "a run without interruption" train whole
want=$(hashes whole)
same "four runs, four hashes" "$(echo "$want" | wc -w)" 4

# kill -9 at several moments, until the run gets through.
kills=0 half=0
for pause in 0.1 0.15 0.2 0.3 0.25 0.4 0.35 0.5 0.45 0.6; do
  exec=exec
  train killed --resume --checkpoint-seconds 0 >/dev/null 2>&1 &
  pid=$! exec=''
  sleep $pause
  if kill -9 $pid 2>/dev/null; then kills=$((kills + 1)); fi
  wait $pid 2>/dev/null
  for d in killed/*/*/seed-?; do # a folder without .part is a finished one
    if [ -d "$d" ] && [ ! -s "$d/provenance.json" -o ! -s "$d/model.safetensors" -o ! -s "$d/config.json" ]; then half=$((half + 1)); fi
  done
done
echo "# $kills kills"
same "no kill left a folder that only looks finished" "$half" 0
check "a killed run resumes" train killed --resume
same "its weights are those of the uninterrupted run" "$(hashes killed)" "$want"
same "and so is every line of its metrics" "$(log killed)" "$(log whole)"
same "nothing unfinished is left" "$(find killed -name '*.part' -o -name '*.kdc' -o -name '*.tmp.*')" ""

# Two at once: the second gives way.
exec=exec
train twice >/dev/null 2>&1 &
pid=$! exec=''
begins twice 0
refused 2 "another kd-train is at work" "a second run in the same folder gives way" train twice --resume
wait $pid
same "the first is unharmed" "$(hashes twice)" "$want"

# SIGTERM and SIGUSR1 finish the step, save and say how to go on.
stops=0
for signal in TERM USR1 INT TERM; do
  exec=exec before=$(lines stopped)
  train stopped --resume --checkpoint-seconds 3600 >out 2>err &
  pid=$! exec=''
  begins stopped "$before"
  kill -$signal $pid 2>/dev/null
  wait $pid
  rc=$?
  if [ $rc -eq 5 ]; then
    stops=$((stops + 1))
    grep -q -- '--resume' err || not_ok "the message says how to go on"
  fi
done
echo "# $stops stops"
if [ $stops -gt 0 ]; then ok "a signal saves and exits 5"; else not_ok "a signal saves and exits 5"; fi
check "a stopped run resumes" train stopped --resume
same "its weights, too" "$(hashes stopped)" "$want"
same "and its metrics" "$(log stopped)" "$(log whole)"

# A disk that fills up.
mkdir small
if [ "$(id -u)" -eq 0 ] && mount -t tmpfs -o size=600k kd-test "$work/small" 2>/dev/null; then
  trap 'umount "$work/small"; rm -rf "$work"' EXIT
  refused 4 "small/.*(the state of batch [0-9]+ is still there: go on with --resume|no older state of this run)" \
    "a full disk: exit 4 and one sentence" train small/runs --checkpoint-seconds 0 -q
  same "nothing looks finished that is not" "$(for d in small/runs/*/*/seed-?; do [ -d "$d" ] && [ ! -s "$d/provenance.json" ] && echo "$d"; done)" ""
  mount -o remount,size=64m "$work/small"
  check "with room it goes on" train small/runs --resume
  same "to the same weights" "$(hashes small/runs)" "$want"
else
  echo "ok - a full disk # SKIP mounting a tmpfs needs root"
fi

# Every architecture, every kind of state, any number of threads.
mkdir kills
"$here/../fault/train_kills.py" "$KD_BIN" "$work/kills" --kills "${KD_TRAIN_KILLS:-3}" ${KD_SEED:+--seed "$KD_SEED"} || failures=1
finish
