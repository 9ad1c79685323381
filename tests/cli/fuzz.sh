#!/bin/sh
# Every parser of foreign bytes under fuzzing: the kept inputs, then new ones. FUZZ_SECONDS of each harness (default 20; 0:
# the kept ones only), FUZZ_JOBS harnesses at a time (default: one a core).
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common"
harnesses=$KD_BIN/../fuzz/tests/fuzz
if [ "$(basename "$KD_BIN")" != release ]; then
  echo "ok - fuzzing # SKIP harnesses are built with sanitizers of their own"
  exit 0
fi
"$here/../fuzz/fuzz.py" run "$harnesses" --seconds "${FUZZ_SECONDS:-20}" --jobs "${FUZZ_JOBS:-$(nproc)}" || failures=1
finish
