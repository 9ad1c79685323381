#!/bin/sh
# The front command, and what every tool must answer: --help, --version, --man, --completion.
. "$(dirname "$0")/common"
cd "$work" || exit 1
mkdir bin path
cp "$KD_BIN/kd" bin/kd
printf '#!/bin/sh\necho "beside: $0 $*"\nexit 3\n' >bin/kd-train
printf '#!/bin/sh\necho "path: $*"\n' >path/kd-mine
printf '#!/bin/sh\necho wrong\n' >path/kd-train
chmod +x bin/kd-train path/kd-mine path/kd-train
PATH=$work/path:$PATH

out=$(bin/kd train -x "a b" 2>&1)
same "kd hands on the arguments and the exit code" "$? $out" "3 beside: $work/bin/kd-train -x a b"
same "a tool on PATH is a sub-command" "$(bin/kd mine 1 --version 2>&1)" "path: 1 --version"
same "kd help TOOL asks the tool" "$(bin/kd help mine)" "path: --help"
same "kd help lists what is there" "$(bin/kd help | grep -c '^  [a-z]')" 1
refused 2 "did you mean 'kd train'" "a misspelt tool gets the nearest" bin/kd trian
refused 2 "unknown tool 'wombat' \(kd help lists" "an unknown tool is told" bin/kd wombat
refused 2 "unknown tool '../bin/kd-train'" "a path is no tool" bin/kd ../bin/kd-train
refused 2 "did you mean --version" "an unknown option gets the nearest" bin/kd --verison
refused 4 "cannot write to standard output" "a full output is told" sh -c 'bin/kd help >/dev/full'
same "kd without arguments is wrong usage" "$(bin/kd 2>/dev/null; echo $?)" 2

for tool in "$KD_BIN"/kd "$KD_BIN"/kd-*; do
  if [ ! -f "$tool" ] || [ ! -x "$tool" ]; then continue; fi
  name=$(basename "$tool")
  check "$name --version works" "$tool" --version
  "$tool" --help >help.txt 2>err.txt && "$tool" --man >man.txt 2>>err.txt
  same "$name --help and --man print to standard output only" "$? $(wc -c <err.txt)" "0 0"
  # Each long option of --help must stand on the man page.
  missing=$(sed -n 's/^  \(-., \|    \)--\(\[no-\]\)\{0,1\}\([a-z0-9-]*\).*/\3/p' help.txt | while read -r o; do
    escaped=$(printf '%s' "$o" | sed 's/-/\\\\-/g')
    grep -q -- "$escaped" man.txt || printf '%s ' "$o"
  done)
  same "$name: help and man page tell the same options" "$missing" ""
  same "$name: help has examples and exit codes" "$(grep -cE '^(Examples|Exit status):' help.txt)" 2
  if command -v bash >/dev/null; then
    "$tool" --completion bash >completion.sh
    check "$name: bash reads the completion script" bash -n completion.sh
  fi
  if command -v groff >/dev/null; then
    same "$name: groff has nothing to say about the page" "$(groff -man -Tutf8 -ww man.txt 2>&1 >/dev/null)" ""
  fi
done
finish
