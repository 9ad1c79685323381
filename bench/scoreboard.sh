#!/bin/sh
# Turns the figures of bench/results/*.json, and what other CPUs said, bench/results/CPU/*.json, into
# docs/scoreboard.md, and prints those of the former that fall short.
#
#   bench/scoreboard.sh [RESULTS [PAGE]]
#
# One file is one figure: {"name", "value", "unit", "bar", "direction": "higher"|"lower", "peer",
# "peer_value", "command", "machine": {"cpu", "cores", "mem_gb"}, "versions": {...}, "date",
# "details": {...}}. bar, peer and peer_value may be null. A figure that misses a member or has none of the
# right type is refused by name: a figure without a command that anyone can rerun does not enter.
# details.ratio {median, low95, high95} is shown beside the peer. Exit 0, also with figures that fall short; 1 for a bad file.
set -eu
results=${1:-bench/results}
page=${2:-docs/scoreboard.md}

others="$results/*/*.json" # a pattern
set -- "$results"/*.json
if [ ! -e "$1" ]; then
  echo "scoreboard: no figures in $results; make bench measures some" >&2
  exit 1
fi
tmp=$page.tmp.$$
trap 'rm -f "$tmp"' EXIT

# What is wrong with one figure, or nothing.
# shellcheck disable=SC2016 # $ belongs to jq
check='
def want(key; types): getpath(key / ".") as $v | select(any(types[]; . == ($v | type)) | not) | "\(key) must be \(types | join(" or ")), is \($v | type)";
if type != "object" then "no object" else
  want("name"; ["string"]), want("value"; ["number"]), want("unit"; ["string"]), want("bar"; ["number", "null"]),
  want("peer"; ["string", "null"]), want("peer_value"; ["number", "null"]), want("command"; ["string"]),
  want("machine.cpu"; ["string"]), want("machine.cores"; ["number"]), want("machine.mem_gb"; ["number"]),
  want("versions"; ["object"]), want("date"; ["string"]), want("details"; ["object", "null"]),
  (select(.direction != "higher" and .direction != "lower") | "direction must be higher or lower"),
  (select(.command == "") | "command is empty: a figure must say how to measure it again")
end'
bad=0
# shellcheck disable=SC2086 # a pattern, here and below
for f in "$@" $others; do
  [ -e "$f" ] || continue
  if ! problem=$(jq -r "$check" "$f" 2>&1); then
    echo "scoreboard: $f: $problem" >&2
    bad=1
  elif [ -n "$problem" ]; then
    echo "$problem" | sed "s|^|scoreboard: $f: |" >&2
    bad=1
  fi
done
[ "$bad" = 0 ] || exit 1

# shellcheck disable=SC2016
lib='
def digits: if . == null then "" else (if (. | fabs) >= 100 then round elif (. | fabs) >= 10 then . * 10 | round / 10 elif (. | fabs) >= 1 then . * 1000 | round / 1000
  elif . == 0 then 0 else pow(10; 2 - (fabs | log10 | floor)) as $p | . * $p | round / $p end
  | tostring | if test("^[0-9]{5,}$") then [scan(".")] | reverse | [range(0; length; 3) as $i | .[$i:$i + 3] | reverse | join("")] | reverse | join(",") else . end) end;
def met: if .bar == null then null elif .direction == "higher" then .value >= .bar else .value <= .bar end;
def mark: met as $m | if $m == null then "" elif $m then "yes" else "**no**" end;
def sign: if .direction == "higher" then "≥" else "≤" end;
def cell: tostring | gsub("\\|"; "\\|") | gsub("\n"; " ");
def ratio: if .details.ratio.median then "; ratio \(.details.ratio.median) [\(.details.ratio.low95), \(.details.ratio.high95)]" else "" end;
def peer_cell: if .peer == null then "" else "\(.peer): \(.peer_value | digits) \(.unit)\(ratio)" end;
def row: [.name, "\(.value | digits) \(.unit)", (if .bar == null then "" else "\(sign) \(.bar | digits) \(.unit)" end), mark, peer_cell, "`\(.command)`",
  "\(.machine.cpu), \(.machine.cores) cores, \(.machine.mem_gb | round) GB", .date[:10]] | map(cell) | "| \(join(" | ")) |";
'
table() {
  printf '%s\n' '| figure | value | bar | met? | peer | command | machine | date |' '|---|---|---|---|---|---|---|---|'
  jq -rs "$lib"'sort_by(.name, .machine.cpu)[] | row' "$@"
}

table_of_others() {
  [ -e "$1" ] || return 0
  printf '\n## On other CPUs\n\nWhat they said last of figures that have been measured since on the machines above.\n\n'
  table "$@"
}

{
  cat <<'PAGE'
# Scoreboard

Every figure that kd promises, as last measured. Written by `make scoreboard` from `bench/results/*.json`; do not edit.
Each file there also holds the versions, the spread and what else was measured in the run.

PAGE
  table "$@"
  # shellcheck disable=SC2086
  table_of_others $others
} >"$tmp"
mv "$tmp" "$page"

jq -rs "$lib"'(map(select(.bar != null)) | length) as $n | map(select(met == false)) |
  (.[] | "falls short: \(.name) is \(.value | digits) \(.unit), bar \(sign) \(.bar | digits)"), "\($n - length) of \($n) figures meet their bar"' "$@"
echo "wrote $page"
