#!/bin/sh
# Every read, write, sync, rename, open, allocation and thread of the tools that handle stores made to fail in
# turn, and a SIGKILL at each of those calls. KD_FAULTS=N takes N calls of each kind (default 1), KD_FAULTS=all all; KD_LEAKS=N (default 1)
# of them run under valgrind.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common"
if "$KD_BIN/kd-store" --version | grep -qE ', (asan|tsan),'; then
  echo "ok - faults # SKIP sanitizers have an allocator and a loader of their own"
  exit 0
fi
"$here/../fault/faults.py" "$KD_BIN" "$work" --points "${KD_FAULTS:-1}" --leaks "${KD_LEAKS:-1}" || failures=1
finish
