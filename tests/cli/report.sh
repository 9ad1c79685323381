#!/bin/sh
# kd-report: its page is opened in a browser, in light, dark and on a phone; what is missing is said; strangers' names are text.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common"
cd "$work" || exit 1
P=$KD_BIN/kd-report
data_yaml | sed 's/classes: 10/classes: 10\n  class_names: [t-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, boot]/' >data.yaml
student_yaml teacher 16 0 | sed 's/ce: 0.5/ce: 1/' >teacher.yaml
student_yaml tiny 4 0.9 >tiny.yaml
student_yaml small 12 0.9 >small.yaml
check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
check "a teacher is trained" "$KD_BIN/kd-train" -s f.kd teacher.yaml -o teacher --rows 6400
check "its logits are cached" "$KD_BIN/kd-dump" --teacher teacher --into f.kd
check "students are trained with and without it" "$KD_BIN/kd-train" -s f.kd tiny.yaml small.yaml --seeds 0-1 --control --rows 2560 -o runs
check "they are measured" "$KD_BIN/kd-eval" -s f.kd runs teacher --pipeline image --results results.json
check "a page is made" "$P" . -o page.html
same "under 1 MB" "$([ "$(wc -c <page.html)" -lt 1000000 ] && echo yes)" yes
same "that names no address" "$(grep -cE '(src|href)="?(https?:)?//' page.html)" 0

look() { # look PAGE: what a browser sees, into seen.json
  /usr/bin/python3 "$here/../web/look.py" "$1" >seen.json
}
check "a browser opens it" look page.html
see() { jq -c "$1" seen.json; }
look page.html
same "without an error in its console" "$(see .errors)" '[]'
same "without a script" "$(see '[.light, .dark, .phone] | map(.scripts) | add')" 0
same "with a plot of size and one of time, curves of two students and the teacher, three diagrams" "$(see '.light.plots | length')" 8
same "that are named, described and drawn" "$(see '[.light, .dark, .phone] | all(.plots | all(.described and .shapes > 12 and (.words | length) > 5 and (.broken | not)))')" true
same "in which the students are" "$(see '.light.plots[0].words | contains(["tiny", "small", "teacher"])')" true
same "nothing is wider than a phone" "$(see '.phone | [.width, .scroll, .wide]')" '[390,390,[]]'
same "nor than a window" "$(see '[.light, .dark] | all(.scroll == .width and .wide == [])')" true
same "text stands out in either theme" "$(see '[.light.low, .dark.low, .phone.low] | flatten')" '[]'
same "pictures of mistakes are there and have words" "$(see '.light | .images >= 40 and .whole')" true
same "ids are unique and links lead somewhere" "$(see '.light | .ids and .links')" true
acc=$(jq -r '.students[] | select(.name == "tiny") | .accuracy * 10000 | round / 100' results.json)
same "the figures are those of kd-eval" "$(jq -r .light.text seen.json | tr '\302\240' '  ' | grep -cF "$acc" | sed 's/[1-9][0-9]*/some/')" some

# Gates: what kd-eval said of each stands on top.
jq '.gates = {file: "gates.yaml", passed: false, failed: 1, list: [
  {student: "tiny", gate: "accuracy >= 0.99", passed: false, value: 0.7, limit: 0.99, where: "", why: ""},
  {student: "small", gate: "ece <= 0.5", passed: true, value: 0.1, limit: 0.5, where: "", why: ""}]}' results.json >gated.json
check "a page with gates" "$P" gated.json -o gated.html
same "says how it went" "$(grep -c 'Not passed: 1 of 2 gates failed' gated.html)" 1
same "and what failed, first" "$(grep -oE '<b class=(good|bad)>[a-z]*' gated.html | tr '\n' ' ')" '<b class=bad>failed <b class=good>passed '

# Strangers' names are text, to the page and to gnuplot.
evil='</title><script>alert(1)</script>" onload="x `touch pwned`'
jq --arg e "$evil" '(.students[0].name, .class_names[0], .pipeline, .teacher.name, .provenance.command, .store.root) = $e
  | .students[0].folders += [$e]' results.json >evil.json
check "hostile names" "$P" evil.json -o evil.html
look evil.html
same "run nothing in a browser" "$(see '[.errors, .light.scripts]')" '[[],0]'
same "stand in the page as they are" "$(see '.light.text | contains("<script>alert(1)</script>")')" true
same "and are no commands for gnuplot" "$(find . -name pwned)" ""

# What is missing is said, and the rest is there.
mkdir alone && cp results.json alone/
(cd alone && "$P" results.json -o page.html 2>err) && ok "results alone make a page"
same "that says where the pictures were" "$(grep -c 'the store is not there; name it: --store' alone/err)" 1
same "and has no curves" "$(grep -c 'metrics.jsonl are not where' alone/page.html)" 1
(cd alone && "$P" results.json --store ../f.kd -o page.html) && same "--store finds them" "$(grep -c '<img ' alone/page.html | sed 's/[1-9][0-9]*/some/')" some
mkdir bin
ln -s "$(command -v sh)" bin/sh
PATH=$work/bin "$P" . -o plain.html 2>err
same "without gnuplot there is a page" "$? $(grep -c 'This plot is missing' plain.html)" "0 8"
same "and one line" "$(grep -c 'gnuplot is not installed: apt-get install gnuplot-nox' err)" 1
jq 'del(.teacher) | .students |= map(del(.mistakes, .agreement, .plain, .folders))' results.json >bare.json
check "results without a teacher" "$P" bare.json -o bare.html
check "two results on a page" "$P" results.json bare.json -o both.html
same "have two headings" "$(grep -c '<h1>' both.html)" 2
check "as Markdown" "$P" . --markdown
same "there is a table" "$(grep -cE '^\| accuracy \|( [0-9.]+.%? ?%? \|)+$' out)" 1
same "hostile names are no markup there" "$("$P" -q evil.json --markdown | grep -v '^Measured by' | grep -c '[^\\]<script')" 0

refused 2 "no results given" "nothing to report" "$P" -o x.html
refused 2 "where does the page go" "no place for the page" "$P" .
refused 3 "none/results.json|none: no such file" "results that are not there" "$P" none -o x.html
echo '{"schema": 1, "students": []}' >old.json
refused 3 "schema 1, this version reads 2; measure again" "results of an older kd" "$P" old.json -o x.html
echo '{"a": 1}' >other.json
refused 3 "no results of kd-eval" "some other JSON" "$P" other.json -o x.html
echo '{' >cut.json
refused 3 "cut.json" "half a file" "$P" cut.json -o x.html
same "leave no page" "$(ls x.html* 2>/dev/null)" ""
finish
