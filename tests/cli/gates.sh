#!/bin/sh
# Gates: a pipeline stops at the one that fails and goes on when all pass; results are judged again without a model.
. "$(dirname "$0")/common"
cd "$work" || exit 1
E=$KD_BIN/kd-eval
data_yaml >data.yaml
student_yaml teacher 16 0 | sed 's/ce: 0.5/ce: 1/; s/epochs: 2/epochs: 1/' >teacher.yaml
student_yaml pupil 8 0.9 >pupil.yaml
cat >gates.yaml <<Y
gates:
  - accuracy >= teacher - 0.2
  - accuracy[*] >= 0.01
  - params <= 10000
Y
cat >Makefile <<M
shipped: results.json
	touch shipped
results.json: runs gates.yaml
	$E -q -s f.kd runs --no-speed --resamples 50 --gates gates.yaml --results results.part >table.txt
	mv results.part results.json
runs: f.kd/teacher.mdb pupil.yaml
	$KD_BIN/kd-train -q -s f.kd pupil.yaml --seeds 0,1 --control --rows 2560 -o runs
f.kd/teacher.mdb: teacher
	$KD_BIN/kd-dump -q --teacher teacher --into f.kd --force
teacher: f.kd/base.mdb teacher.yaml
	$KD_BIN/kd-train -q -s f.kd teacher.yaml -o teacher --rows 6400
f.kd/base.mdb: data.yaml
	$KD_BIN/kd-dump -q data.yaml -o f.kd
M
check "a pipeline whose gates pass goes on" make
same "every gate is printed with its figure and verdict" "$(grep -c ' pass *' table.txt)" 3
same "the verdicts are in the results" \
  "$(jq -c '.gates | [.file, .passed, .failed, (.list | map(.judged))]' results.json)" '["gates.yaml",true,0,[1,10,1]]'

sed -i 's/10000/100/' gates.yaml
rm -f shipped
refused 2 "gates.yaml: 1 of 3 gates failed; the first: pupil: params <= 100 .*limit 100" "a pipeline with a failing gate stops and names it" \
  make -s shipped
same "and nothing is shipped" "$(ls shipped 2>/dev/null)" ""
same "the table says which gate failed" "$(grep -c 'params <= 100 .*FAIL' table.txt)" 1
same "and its results are there to look at" "$(jq .gates.failed results.part)" 1
refused 1 "gates failed" "a failed gate is exit status 1" "$E" -q -s f.kd runs --no-speed --resamples 0 --gates gates.yaml

mv f.kd runs away 2>/dev/null || { mkdir away && mv f.kd runs away; }
cat >again.yaml <<Y
bounds: safe
students: [pupil]
gates:
  - accuracy >= teacher - 0.9
  - accuracy[label=0] >= 0.001
  - recall[class=*] >= 0
Y
check "results are judged again without store and models" "$E" --gates again.yaml results.json
same "the paired difference is what has to pass" "$(awk '/teacher - 0.9/ && /difference_low/' out | wc -l)" 1
check "by their own release, too" "$E" --gates again.yaml --release results.json results.json --results again.json
echo 'gates: [accuracy >= release]' >release.yaml
check "the same figures are no worse than the last release" "$E" --gates release.yaml --release results.json results.json
refused 2 "release.yaml:1: .*none is given; add --release" "a gate on the last release needs its results" "$E" --gates release.yaml results.json
for preset in fast careful; do
  "$E" -q --gates $preset results.json >out 2>err
  same "the preset $preset judges" "$?-$(grep -c '^accuracy >= teacher' out)" "1-1"
done

printf 'gates:\n  - acuracy >= 0.9\n' >bad.yaml
refused 2 "bad.yaml:2: .*did you mean 'accuracy'" "a malformed gate is named with its line" "$E" --gates bad.yaml results.json
refused 2 "bad.yaml:2" "before anything is run" "$E" -s nowhere.kd none --gates bad.yaml
refused 3 "none.yaml" "a file of gates that is not there" "$E" --gates none.yaml results.json
refused 3 "results.part.*schema 1, expected 2|schema" "results of another schema" sh -c "echo '{\"schema\": 1}' >results.part; $E --gates fast results.part"
refused 3 "text.json" "results that are no JSON" sh -c "echo no >text.json; $E --gates fast text.json"
refused 2 "no store given.*results" "gates without store or results" "$E" --gates fast
refused 2 "no store given" "results without gates" "$E" results.json
finish
