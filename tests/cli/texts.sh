#!/bin/sh
# Texts into a store: what kd-dump makes of them, what it refuses, and how hostile texts and tokenizers end.
. "$(dirname "$0")/common"
golden=$(cd "$(dirname "$0")/../golden" && pwd)/texts.json
cd "$work" || exit 1
PATH=$KD_BIN:$PATH
mkdir t
jq '.vocab as $v | .tokenizers.uncased | .model.vocab = $v' "$golden" >t/tokenizer.json
/usr/bin/python3 - <<'P'
import json
rows = [(f"s{i // 3}", f"the teacher {i} goes", "a student " * (i % 4 + 1), ["noun", "verb"][i // 3 % 2]) for i in range(600)]
for name, sep in (("d.csv", ","), ("d.tsv", "\t")):
    with open(name, "w") as f:
        print(*("synset", "definition", "word", "pos"), sep=sep, file=f)
        for r in rows:
            print(*(f'"{c}"' for c in r), sep=sep, file=f)
with open("d.jsonl", "w") as f:
    for r in rows:
        print(json.dumps(dict(zip(("synset", "definition", "word", "pos"), r))), file=f)
with open("d.txt", "w") as f:
    f.writelines(r[1] + "\n" for r in rows)
P
texts_yaml() {
  cat <<Y
data:
  train_input: [$1]
  tokenizer: t
  text_columns: [query=definition, answer=word]
  label_column: pos
  split_column: synset
  max_tokens: 6
  chunk_rows: 64
Y
}
for f in csv tsv jsonl; do texts_yaml d.$f >$f.yaml; done
check "texts from CSV are packed" kd-dump csv.yaml -o csv.kd --json
same "the report counts tokens and texts that were cut" "$(jq -c '.texts | [.longest, .cut]' out)" '[6,900]'
check "from TSV, too" kd-dump tsv.yaml -o tsv.kd
check "and from JSON lines" kd-dump jsonl.yaml -o jsonl.kd -j 3
root() { kd-store stat "$1" --json -q | jq -c '[.columns[] | [.name, .raw_bytes, .stored_bytes]]'; }
same "which gives the same columns" "$(root csv.kd) $(root tsv.kd)" "$(root jsonl.kd) $(root jsonl.kd)"
check "the store is whole" kd-store verify csv.kd
same "stat names the tokenizer" "$(kd-store stat csv.kd -q | grep -c 'tokenizer [0-9a-f]\{32\}, vocabulary')" 2
kd-store export csv.kd query answer label source -o rows.jsonl >/dev/null 2>&1
/usr/bin/python3 - <<'P' >python.txt 2>&1
import json
rows = [json.loads(l) for l in open("rows.jsonl")]
vocab = json.load(open("t/tokenizer.json"))["model"]["vocab"]
assert len(rows) == 600
groups = {}
for r in rows:
    assert r["query"][0] == vocab["[CLS]"] and r["query"][-1] == vocab["[SEP]"] and len(r["query"]) <= 6
    assert r["query"][1:3] == [vocab["the"], vocab["teacher"]]
    assert r["label"] == r["source"] // 3 % 2
    groups.setdefault(r["source"] // 3, set()).add(r["split"])
assert all(len(g) == 1 for g in groups.values()) and len({r["split"] for r in rows}) == 3
P
same "rows have their tokens, labels and one split a group" "$(cat python.txt)" ""
check "a plain file has a text a line" kd-dump --train-input d.txt --tokenizer t -o txt.kd
same "as the column tokens, without labels" "$(kd-store stat txt.kd --json -q | jq -c '[.columns[].name]')" '["id","split","source","tokens"]'
check "a slice keeps the tokenizer" kd-store slice csv.kd --part 1/2 -o part.kd
check "and is whole" kd-store verify part.kd
/usr/bin/python3 - "$(cd "$(dirname "$golden")/../../lib/python" && pwd)" <<'P' >python.txt 2>&1
import json, sys
sys.path.insert(0, sys.argv[1])
import kdstore
for name in ("csv.kd", "part.kd"):
    files = json.loads(kdstore.Store(name).columns["query"].book)
    assert files["tokenizer.json"] == open("t/tokenizer.json").read()
P
same "readers in Python find its files, byte for byte" "$(cat python.txt)" ""

# A student that gives classes is judged as one of pictures is, and a teacher of texts is compared with it.
texts_yaml d.csv | sed 's/query=definition, answer=word/definition/; s/split_column.*/valid_fraction: 0.3/' >class.yaml
cat >class-student.yaml <<Y
model: {arch: bert, layers: 1, width: 16, heads: 2, positions: 16}
loss: [{name: ce}]
train: {epochs: 3, batch: 20, lr: 0.01}
Y
check "texts with a label each" kd-dump class.yaml -o class.kd
check "train a student that gives classes" kd-train -s class.kd class-student.yaml -o class --json
valid=$(jq .students[0].valid_accuracy out)
check "which is judged by its answers" kd-eval -s class.kd --split valid --no-speed class --json
same "as often right as the trainer says" "$(jq .students[0].accuracy out)" "$valid"
check "it becomes a teacher" kd-dump --teacher class --into class.kd --name big
check "that is compared with itself, in batches of any size" kd-eval -s class.kd -b 7 class --json
same "and agrees, row for row" "$(jq -c '.students[0] | [.agreement == 1, .kl < 1e-9, .latency_us > 0]' out)" '[true,true,true]'
check "a store of longer texts" kd-dump class.yaml --max-tokens 32 -o longer.kd
refused 3 "column tokens of longer.kd has max_tokens 32, student class-student has 16 positions" "is not for this student" kd-eval -s longer.kd class

refused 2 "text_columns must say which" "columns must be named" kd-dump --train-input d.csv --tokenizer t -o x.kd
refused 2 "no column 'wrd' \(did you mean 'word'" "a column that is not there" kd-dump --train-input d.csv --tokenizer t --text-columns wrd -o x.kd
refused 2 "one text a line and no columns" "a plain file has no columns" kd-dump --train-input d.txt --tokenizer t --label-column pos -o x.kd
refused 2 "set data.tokenizer" "texts need a tokenizer" kd-dump --train-input d.csv --text-columns word -o x.kd
refused 3 "nowhere: no such tokenizer" "which must be there" kd-dump --train-input d.txt --tokenizer nowhere -o x.kd
refused 2 "leave no room beside 2 special" "and room for a token" kd-dump --train-input d.txt --tokenizer t --max-tokens 2 -o x.kd
refused 3 "d.jsonl:1: member 'gloss' is missing" "JSON lines need the member" kd-dump --train-input d.jsonl --tokenizer t --text-columns gloss -o x.kd

# Hostile texts: bytes that are no UTF-8, a line of a megabyte, nothing at all.
/usr/bin/python3 - <<'P'
open("bad.txt", "wb").write(b"the \xff teacher\n\xed\xa0\x80\xc3\n\n" + b"\xf0\x9f\n" * 3 + b"a\0b\n" + b"word " * 200000 + b"\n" + b"x" * 1000000)
open("long.txt", "wb").write(b"x" * (17 << 20))
open("line.jsonl", "wb").write(b'{"a": "b"}\n{"a": "\xff"}\n')
open("deep.jsonl", "wb").write(b'{"a": ' + b"[" * 100000 + b"\n")
open("number.jsonl", "wb").write(b'{"a": 1.5}\n')
open("empty.txt", "wb")
open("short.csv", "w").write("a,b\n1\n")
P
check "broken texts are read as far as they are texts" kd-dump --train-input bad.txt --tokenizer t --max-tokens 16 -o bad.kd
same "each line a row" "$(kd-store stat bad.kd --json -q | jq .rows)" 9
refused 3 "long.txt:1: a line longer than 16777216 bytes" "a line has a limit" kd-dump --train-input long.txt --tokenizer t -o x.kd
refused 3 "empty.txt: no texts" "an empty file" kd-dump --train-input empty.txt --tokenizer t -o x.kd
refused 3 "line.jsonl:2:[0-9]*: not valid JSON" "JSON must be UTF-8" kd-dump --train-input line.jsonl --tokenizer t --text-columns a -o x.kd
refused 3 "deep.jsonl:1:[0-9]*: not valid JSON: nested deeper" "JSON may not be deep" kd-dump --train-input deep.jsonl --tokenizer t --text-columns a -o x.kd
refused 3 "number.jsonl:1: member 'a' is neither a string" "a text is no number" kd-dump --train-input number.jsonl --tokenizer t --text-columns a -o x.kd
refused 3 "short.csv:2: 1 fields, its header has 2" "a record that is too short" kd-dump --train-input short.csv --tokenizer t --text-columns a -o x.kd

# Hostile tokenizers.
tokenizer() { # tokenizer PATTERN SENTENCE JQ: the tokenizer changed by a jq program is refused
  mkdir -p h
  jq "$3" t/tokenizer.json >h/tokenizer.json
  refused "${4:-3}" "$1" "$2" kd-dump --train-input d.txt --tokenizer h -o x.kd
}
tokenizer "h: model Unigram is not supported" "another model" '.model.type = "Unigram"' 2
tokenizer "h: model.merges is missing" "a model without its merges" '.model.type = "BPE"'
tokenizer "id 5 is both" "two tokens of one id" '.model.vocab["\""] = 5'
tokenizer "the id of 'a' is no whole number" "an id that is none" '.model.vocab.a = 1.5'
tokenizer "has id 4000000000, ids go up to" "an id beyond all tables" '.model.vocab.a = 4000000000'
tokenizer "has 2000 bytes, the limit is 1024" "a token of 2,000 bytes" '.model.vocab["x" * 2000] = 9000'
tokenizer "model.vocab is missing or not an object" "a vocabulary that is a list" '.model.vocab = []'
tokenizer "normalizer Sequence is not supported" "another normalizer" '.normalizer.type = "Sequence"' 2
tokenizer "post_processor: a template of more than 16 pieces" "a template without end" '.post_processor.single += [range(20) | {"Sequence": {"id": "A", "type_id": 0}}]'
size=$(wc -c <t/tokenizer.json)
for cut in 0 1 100 $((size / 2)) $((size - 2)); do
  head -c "$cut" t/tokenizer.json >h/tokenizer.json
  refused 3 "h: tokenizer.json:[0-9]+:[0-9-]*: not valid JSON" "cut at byte $cut" kd-dump --train-input d.txt --tokenizer h -o x.kd
done
printf '{"a": %0200000d, "a": 1}' 0 >h/tokenizer.json
refused 3 "not valid JSON" "a number of 200,000 digits" kd-dump --train-input d.txt --tokenizer h -o x.kd
head -c 40000000 /dev/zero | tr '\0' '[' >h/tokenizer.json
refused 3 "limit|larger" "40 MB of brackets" kd-dump --train-input d.txt --tokenizer h -o x.kd
rm -r h
mkdir h
printf '[UNK]\n[CLS]\n[SEP]\na\na\n' >h/vocab.txt
refused 3 "token 'a' has the ids 3 and 4" "a word twice in vocab.txt" kd-dump --train-input d.txt --tokenizer h -o x.kd
printf '[UNK]\n[CLS]\n\377\n' >h/vocab.txt
refused 3 "vocab.txt: byte 12 is not UTF-8" "vocab.txt must be UTF-8" kd-dump --train-input d.txt --tokenizer h -o x.kd
printf '[UNK]\n[CLS]\n[SEP]\na\n' >h/vocab.txt
printf '{"do_lower_case": 7}' >h/tokenizer_config.json
refused 3 "'do_lower_case' is neither true nor false" "a configuration that is none" kd-dump --train-input d.txt --tokenizer h -o x.kd
finish
