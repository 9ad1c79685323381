#!/bin/sh
# Stores that lie: manifests that were written by a stranger, and files that are none.
. "$(dirname "$0")/common"
fault=$(cd "$(dirname "$0")/../fault" && pwd)
cd "$work" || exit 1
/usr/bin/python3 - <<'P'
import numpy as np
rng = np.random.default_rng(1)
np.save("x.npy", rng.integers(0, 9, (600, 20), dtype=np.uint8))
np.save("y.npy", rng.integers(0, 3, 600).astype(np.int32))
P
check "a store is packed" "$KD_BIN/kd-dump" --train-input x.npy --train-label y.npy --chunk-rows 64 -o s.kd
/usr/bin/python3 "$fault/manifests.py" "$KD_BIN" s.kd >hostile.txt 2>&1
rc=$?
cat hostile.txt
[ $rc -eq 0 ] || failures=$((failures + 1))

# What is not the file that the manifest names.
other() { # other SENTENCE PATTERN COMMAND...: s.kd's file is replaced by what COMMAND makes of it
  what=$1 pattern=$2
  shift 2
  rm -rf o.kd
  cp -r s.kd o.kd
  rm -f o.kd/base.mdb
  "$@"
  refused 3 "$pattern" "$what" "$KD_BIN/kd-store" stat o.kd
  refused 3 "." "verify says so: $what" "$KD_BIN/kd-store" verify o.kd
}
other "a segment that is a folder is refused" "base.mdb" mkdir o.kd/base.mdb
other "a segment that is missing is refused" "base.mdb.*cannot be opened" true
other "an empty segment is refused" "0 bytes, manifest.json says" touch o.kd/base.mdb
check "a link to the file is the file" sh -c 'rm -rf o.kd && cp -r s.kd o.kd && mv o.kd/base.mdb f.mdb && ln -s ../f.mdb o.kd/base.mdb && "$1/kd-store" verify o.kd' sh "$KD_BIN"
finish
