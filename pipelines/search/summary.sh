#!/bin/sh
# One line a student from kd-eval's results: means over its seeds, and in MRR@10 their standard deviation; kept: of the teacher's MRR@10.
#
#     pipelines/search/summary.sh runs/search/results.json
jq -r '
  def mean(f): (map(f) | add) / length;
  def sd(f): mean(f) as $m | if length < 2 then null else ((map((f - $m) * (f - $m)) | add) / (length - 1) | sqrt) end;
  def two: if . == null then "-" else (. * 10000 | round / 100 | tostring) end;
  (.models | map(select(.role == "teacher")) | .[0].mrr10) as $teacher
  | ["model", "role", "params", "seeds", "MRR@10 %", "sd", "kept %", "recall@1 %", "recall@10 %", "recall@100 %", "overlap@10 %", "tau"],
    (.models | group_by([.params, .name, .role])[]
     | [.[0].name, .[0].role, .[0].params, length, (mean(.mrr10) | two), (sd(.mrr10) | two), (mean(.mrr10) / $teacher | two),
        (mean(.recall1) | two), (mean(.recall10) | two), (mean(.recall100) | two),
        (if .[0].overlap10 == null then "-" else mean(.overlap10) | two end),
        (if .[0].tau == null then "-" else mean(.tau) * 1000 | round / 1000 end)])
  | @tsv' "$1" | column -t -s "$(printf '\t')"
