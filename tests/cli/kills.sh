#!/bin/sh
# kd-dump killed at random moments and on disks that fill up: what was committed stays, the store in the
# end is that of an uninterrupted run. KD_KILLS=N sets the number of kills, KD_SEED=N repeats a run.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common"
export OMP_WAIT_POLICY=passive
"$here/../fault/kills.py" "$KD_BIN" "$work" --kills "${KD_KILLS:-50}" ${KD_SEED:+--seed "$KD_SEED"} || failures=1
finish
