#!/bin/sh
# kd-eval of language models: every measure against numpy; what sparse logits can say and what not; gates; what models write.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common"
cd "$work" || exit 1
py=$here/../python
PATH=$KD_BIN:$PATH
i=0
while [ $i -lt 120 ]; do
  echo "text $i: a teacher learns and students are taught $i times; $((i * 7)) and so on"
  i=$((i + 1))
done >texts.txt
check "a teacher" /usr/bin/python3 "$py/tiny_llama.py" teacher
check "students near it, and others far from it" /usr/bin/python3 "$py/language_eval.py" make teacher students
check "texts" kd-dump -q --train-input texts.txt --tokenizer teacher --max-tokens 64 --windows --chunk-rows 32 --test-fraction 0.25 -o none.kd
for kind in dense topk:k=20 head-tail:n=9; do
  name=${kind%%:*}
  cp -r none.kd $name.kd
  check "its logits, $kind" kd-dump -q --teacher teacher --into $name.kd --name big --encoding $kind
done
for name in none dense topk head-tail; do
  check "students on a store with logits: $name" kd-eval -q -s $name.kd students --results $name.json
done
check "a teacher that is run" kd-eval -q -s none.kd --teacher teacher --threads 2 students --results run.json
check "the same on one thread" kd-eval -q -s none.kd --teacher teacher --threads 1 students --results one.json
said() { jq -S 'del(.provenance, .students[].read_tokens_s) | del(.students[][]?.read_tokens_s?)' "$1"; }
same "any number of threads says the same" "$(said one.json)" "$(said run.json)"
check "its rows" kd-store export -q dense.kd tokens split --format jsonl -o rows.jsonl
tap_of /usr/bin/python3 "$py/language_eval.py" check rows.jsonl ./*.json

mkdir far && cp -r students/plain far/distilled
sed -i 's/"small"/"far"/; s/"plain"/"distilled"/' far/distilled/*/provenance.json
check "students beside another one" kd-eval -q -s dense.kd students far --against far --results two.json
same "which here is what their control is" "$(jq -c '.students[] | select(.name == "small") | .against | [.name, .kl_gain, .p_value, .verdict]' two.json)" \
  "$(jq -c '.students[0] | ["far", .kl_gain, .p_value, .verdict]' dense.json)"
same "and has nobody to be compared with" "$(jq '.students[] | select(.name == "far") | .against' two.json)" null
refused 3 'against near: no distilled run of that name' "another one that is not there" kd-eval -q -s dense.kd students --against near
kd-eval -q -s dense.kd students >table 2>err
if [ ! -s err ] && grep -q 'PPL(Q)/PPL(base)  Mean KLD' table && grep -q 'small' table; then ok "the table has llama.cpp's names"
else not_ok "the table has llama.cpp's names"; fi
printf 'A teacher\nstudents learn\n\nand\n' >prompts.txt
check "models write" kd-eval -q -s none.kd --prompts prompts.txt --tokens 40 students --results texts.json
if jq -e '.students[0] | .distinct1 > 0 and .distinct3 <= 1 and .repetition >= 0 and .tokens_s > 0' texts.json >out; then ok "and what they write is measured"
else not_ok "and what they write is measured"; fi
check "a page of them" kd-report -q dense.json -o page.html
if grep -q 'How far from the teacher' page.html && grep -q 'nats of KL to the teacher' page.html && ! grep -q 'Confusion' page.html
then ok "shows how far students are from the teacher"; else not_ok "shows how far students are from the teacher"; fi
check "a page without a teacher" kd-report -q texts.json -o texts.html
kd-report -q dense.json --markdown >page.md 2>err
if grep -q 'nats of KL less by the teacher: helped' page.md && grep -q 'KL, 99.9 %' page.md; then ok "and Markdown, too"
else not_ok "and Markdown, too"; fi
printf 'gates: [kl <= 9, kl_p95 <= 20, perplexity > 1]\n' >good.yaml
printf 'gates: [kl <= 1e-9]\n' >bad.yaml
check "gates hold language models" kd-eval -q -s dense.kd students --gates good.yaml
refused 1 "kl <= 1e-09|kl <= 1e-9" "and stop them" kd-eval -q -s dense.kd students --gates bad.yaml
refused 3 "no logits of a teacher named nobody, and no such model" "a teacher that nobody knows" kd-eval -q -s dense.kd --teacher nobody students
: >empty
refused 2 "empty: no prompts" "no prompts" kd-eval -q -s none.kd --prompts empty students
finish
