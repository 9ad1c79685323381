#!/bin/sh
# What students must come to: by their mean over seeds, 95 % of the teacher's MRR@10 for one of at most 8 M parameters, 85 % for one of
# at most 2 M, and each distilled one above its plain twin. Exit status 1 if one fails.
#
#     pipelines/search/gates.sh runs/search/results.json
jq -r '
  def mean(f): (map(f) | add) / length;
  (.models | map(select(.role == "teacher")) | .[0].mrr10) as $teacher
  | [.models[] | select(.role == "distilled" or .role == "plain")] | group_by([.name, .role])
  | map({name: .[0].name, role: .[0].role, params: .[0].params, kept: (mean(.mrr10) / $teacher)}) as $all
  | ($all | map(select(.role == "distilled"))) as $d
  | def best(most): [$d[] | select(.params <= most) | .kept] | max // 0;
  [["a student of at most 8 M parameters keeps 95 % of the teacher'"'"'s MRR@10", best(8e6), 0.95],
   ["a student of at most 2 M parameters keeps 85 %", best(2e6), 0.85]]
  + [$d[] | . as $s | ["\(.name) is above the same student by contrast alone", .kept,
     ([$all[] | select(.role == "plain" and .name == $s.name) | .kept][0] // 0)]]
  | .[] | "\(if .[1] >= .[2] then "pass" else "FAIL" end)  \(.[0]): \(.[1] * 10000 | round / 100) %, needed \(.[2] * 10000 | round / 100) %"' "$1" |
  { failed=0; while IFS= read -r line; do echo "$line"; case $line in FAIL*) failed=1 ;; esac; done; exit $failed; }
