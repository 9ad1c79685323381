#!/bin/sh
# bench/scoreboard.sh: what meets its bar, what falls short, and which files are refused.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
failed=0

# check WORDS CONDITION...: a TAP line; on failure what the last run printed.
check() {
  words=$1
  shift
  if "$@"; then
    echo "ok $words"
  else
    echo "not ok $words"
    sed 's/^/# /' "$dir/out"
    failed=1
  fi
}

# figure NAME VALUE BAR DIRECTION
figure() {
  cat >"$dir/results/$1.json" <<JSON
{"name": "$1", "value": $2, "unit": "img/s", "bar": $3, "direction": "$4", "peer": "A|B", "peer_value": 51234.5,
 "command": "make bench", "machine": {"cpu": "some CPU", "cores": 2, "mem_gb": 23.5}, "versions": {},
 "date": "2026-01-02T03:04:05Z", "details": {"ratio": {"median": 2.5, "low95": 2.4, "high95": 2.6}}}
JSON
}

run() {
  "$root/bench/scoreboard.sh" "$dir/results" "$dir/page.md" >"$dir/out" 2>&1
}

mkdir "$dir/results"
run
check "no figures: exit 1" [ $? = 1 ]
check "no figures: says how to get some" grep -q 'make bench' "$dir/out"

figure above 100 99.5 higher
figure below 72345.6 80000 higher
figure small 3 3 lower
figure large 3.5 3 lower
figure open 7 null higher
figure tiny 0.00000123456 0.0001 lower
run
check "figures that fall short: exit 0" [ $? = 0 ]
check "names a value under its bar" grep -qxF 'falls short: below is 72,346 img/s, bar ≥ 80,000' "$dir/out"
check "names a value over a bar that is an upper one" grep -qxF 'falls short: large is 3.5 img/s, bar ≤ 3' "$dir/out"
check "counts figures with a bar" grep -qxF '3 of 5 figures meet their bar' "$dir/out"
check "one row a figure" [ "$(grep -cE '^\| (above|below|small|large|open|tiny) ' "$dir/page.md")" = 6 ]
# shellcheck disable=SC2016
check "a row says it all" grep -qxF '| below | 72,346 img/s | ≥ 80,000 img/s | **no** | A\|B: 51,235 img/s; ratio 2.5 [2.4, 2.6] | `make bench` | some CPU, 2 cores, 24 GB | 2026-01-02 |' "$dir/page.md"
check "a small number keeps three digits" grep -qiE '^\| tiny \| 1\.23e-0?6 img/s \| ≤ 0\.0001 ' "$dir/page.md"
check "a bar that is reached is met" grep -qE '^\| small .*\| yes \|' "$dir/page.md"

check "one CPU: nothing of others" sh -c "! grep -q 'other CPUs' '$dir/page.md'"
mkdir "$dir/results/old-cpu"
sed 's/some CPU/old CPU/; s/"value": 100/"value": 50/' "$dir/results/above.json" >"$dir/results/old-cpu/above.json"
run
check "another CPU's figure: a table of its own" grep -qE '^\| above \| 50 .*old CPU' "$dir/page.md"
check "another CPU's figure is not counted" grep -qxF '3 of 5 figures meet their bar' "$dir/out"

cp "$dir/page.md" "$dir/before.md"
sed 's/"make bench"/""/' "$dir/results/above.json" >"$dir/results/nocommand.json"
run
check "a figure without a command: exit 1" [ $? = 1 ]
check "a figure without a command: named" grep -q 'nocommand.json: command is empty' "$dir/out"
rm "$dir/results/nocommand.json"
sed 's/"value": 100/"value": "fast"/' "$dir/results/above.json" >"$dir/results/text.json"
run
check "a value that is no number: named" grep -q 'text.json: value must be number, is string' "$dir/out"
echo '{' >"$dir/results/text.json"
run
check "a damaged file: exit 1" [ $? = 1 ]
check "refused files leave the page as it was" cmp -s "$dir/page.md" "$dir/before.md"
exit $failed
