#!/bin/sh
# Runs the commands of README.md's "By hand", as they stand there, with small YAML files of the names it uses; what any page says
# that make makes, it knows.
. "$(dirname "$0")/common"
tree=$(cd "$(dirname "$0")/../.." && pwd)
readme=$tree/README.md
cd "$work" || exit 1
PATH=$KD_BIN:$PATH
data_yaml >data.yaml
student_yaml teacher 32 0 | sed 's/ce: 0.5/ce: 1/; s/epochs: 2/epochs: 1/' >teacher.yaml
sed -n '/^    model: {arch/,/^    train:/s/^    //p' "$readme" | sed 's/epochs: 30/epochs: 1/; s/batch: 128/batch: 512/' >small.yaml
sed 's/channels: .*strides.*\]/channels: [4, 4], strides: [4, 2]/' small.yaml >tiny.yaml
same "the README shows a student" "$(grep -c . small.yaml)" 3
sed -n '/^## By hand/,/^## /s/^    \(kd-[a-z]* .*\)/\1/p' "$readme" | sed 's/  *#.*//' >commands
same "the README shows ten commands" "$(grep -c '^kd-' commands)" 10
while read -r line; do
  case $line in kd-train*students*) line="$line --rows 2048" ;; esac # only to be quick
  check "$line" sh -c "$line"
done <commands

pages=$(find "$tree" -name '*.md' -not -path '*/build/*' -not -path '*/runs/*')
targets=$(find "$tree" '(' -name Makefile -o -name '*.mk' ')' -not -path '*/build/*' -not -path '*/runs/*')
# shellcheck disable=SC2086
grep -ohE '(^    |`)make [a-z-]+( |`|$)' $pages | sed 's/.*make \([a-z-]*\).*/\1/' | sort -u >named
# shellcheck disable=SC2086
sed -n 's/^\([a-z][a-z-]*\):.*/\1/p' $targets | sort -u >known
if [ "$(wc -l <named)" -gt 20 ]; then ok "pages name targets of make"; else not_ok "pages name targets of make"; fi
same "and make knows them" "$(comm -23 named known)" ""
finish
