#!/bin/sh
# A few hundred damaged copies of a store, read by kd and by LMDB alone; `make damage` does 4,000.
. "$(dirname "$0")/common"
cd "$work" || exit 1
export ASAN_OPTIONS=exitcode=99 UBSAN_OPTIONS=exitcode=99 # what a sanitizer ends is a crash, too
check "damaged copies are read in processes of their own" sh -c '"$1/tests/fault/damage" "$2" 75 >d.json' sh "$KD_BIN" "$work"
jq -c '.kd, .lmdb, .kinds[]' d.json | sed 's/^/# /'
same "all copies were read" "$(jq '.cases, (.kd | add)' d.json | tr '\n' ' ')" "300 300 "
same "no signal" "$(jq '.kd.crashed + .kd.hung' d.json)" 0
same "nothing wrong is handed out" "$(jq .kd.wrong d.json)" 0
same "verify sees what reading refuses" "$(jq .kd.unseen d.json)" 0
same "most damage is met" "$(jq '.kd.refused > 200' d.json)" true
same "every cut file is refused" "$(jq '.kinds[] | select(.kind == "truncated") | .kd.refused' d.json)" 75
finish
