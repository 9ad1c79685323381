#!/bin/sh
# What students must come to, by their mean over seeds: LEAST8 % of the teacher's MRR@10 for one of at most 8 M parameters, LEAST2 % for one
# of at most 2 M, where there are such, BM25's MRR@10, and that of the same student by contrast alone. Exit status 1 if one fails. What one would
# like to see is said beside it: 95 and 85 %.
#
#     pipelines/search/gates.sh runs/search/results.json LEAST8 LEAST2
jq -r --argjson least8 "$2" --argjson least2 "$3" '
  def mean(f): (map(f) | add) / length;
  def percent: . * 10000 | round / 100 | "\(.) %";
  def line(what; have; want): "\(if have >= want then "pass" else "FAIL" end)  \(what): \(have | percent), needed \(want | percent)";
  def goal(want): if . >= want then "the goal of \(want | percent) is reached" else "the goal of \(want | percent) is not reached" end;
  (.models | map(select(.role == "teacher")) | .[0].mrr10) as $teacher
  | (.models | map(select(.role == "baseline")) | .[0].mrr10 / $teacher) as $bm25
  | [.models[] | select(.role == "distilled" or .role == "plain")] | group_by([.name, .role])
  | map({name: .[0].name, role: .[0].role, params: .[0].params, kept: (mean(.mrr10) / $teacher)}) as $all
  | ($all | map(select(.role == "distilled"))) as $d
  | def best(most): [$d[] | select(.params <= most) | .kept] | max // empty;
  (best(8e6) as $k | line("a student of at most 8 M parameters keeps of the teacher\u0027s MRR@10"; $k; $least8 / 100) + "; " + ($k | goal(0.95))),
  (best(2e6) as $k | line("a student of at most 2 M parameters keeps"; $k; $least2 / 100) + "; " + ($k | goal(0.85))),
  ($d[] | line("\(.name) is above BM25"; .kept; $bm25)),
  ($d[] | . as $s | ([$all[] | select(.role == "plain" and .name == $s.name) | .kept][0] // 0) as $plain
   | line("\(.name) is above the same student by contrast alone"; .kept; $plain))' "$1" |
  { failed=0; while IFS= read -r line; do echo "$line"; case $line in FAIL*) failed=1 ;; esac; done; exit $failed; }
