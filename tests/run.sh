#!/bin/sh
# Runs test programs and scripts, each of which prints TAP lines ("ok ...", "not ok ..."), and ends
# with the line "N passed, N failed[, N skipped]".
#
#   tests/run.sh FOLDER_OF_TOOLS TEST ...
#
# A program that ends badly without a "not ok" line counts as one failure. The output of each is
# kept in FOLDER_OF_TOOLS/log and shown when something failed, or always with V=1.
set -u
KD_BIN=$(cd "$1" && pwd)
# Several tests use more threads than there are cores: idle threads sleep at once. The thread
# sanitizer cannot see inside libraries that were built without it.
export KD_BIN CMOCKA_MESSAGE_OUTPUT=TAP OMP_WAIT_POLICY=passive
export TSAN_OPTIONS="ignore_noninstrumented_modules=1 ${TSAN_OPTIONS:-}"
shift
mkdir -p "$KD_BIN/log"
passed=0 failed=0 skipped=0
limit=${KD_TEST_SECONDS:-1200}
for t in "$@"; do
  name=$(basename "$t")
  log=$KD_BIN/log/$name.txt
  start=$(date +%s)
  timeout -k 10 "$limit" "$t" >"$log" 2>&1 </dev/null
  rc=$?
  skip=$(grep -ciE '^ *ok .*# *skip' "$log")
  good=$(grep -cE '^ *ok\b' "$log")
  bad=$(grep -cE '^ *not ok\b' "$log")
  good=$((good - skip))
  if [ $rc -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
  if [ $((good + bad + skip)) -eq 0 ]; then bad=1; fi
  passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + skip))
  printf '%-28s %4d ok %3d not ok %3d skipped  %3d s\n' "$name" "$good" "$bad" "$skip" $(($(date +%s) - start))
  if [ "$bad" -ne 0 ]; then
    echo "---- $name (exit $rc), see $log"
    grep -vE '^ *ok\b' "$log" | tail -n 40
    echo "----"
  elif [ "${V:-0}" != 0 ]; then
    cat "$log"
  fi
done
if [ "$skipped" -gt 0 ]; then
  echo "$passed passed, $failed failed, $skipped skipped"
else
  echo "$passed passed, $failed failed"
fi
[ "$failed" -eq 0 ]
