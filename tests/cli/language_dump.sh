#!/bin/sh
# A language model teaches: texts in windows, its logits beside them, the same store whatever stopped the pass.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common"
cd "$work" || exit 1
/usr/bin/python3 "$here/../python/small_llama.py" "$here/../golden/bpe.json" model || exit 1

# ---- texts ----
i=0
while [ $i -lt 60 ]; do
  printf 'text %d: ' $i
  j=0
  while [ $j -lt $((i % 7)) ]; do printf 'a teacher learns and students are taught again, %d; ' $j; j=$((j + 1)); done
  echo
  i=$((i + 1))
done >texts.txt
printf '\n\nx\n' >>texts.txt
cat >data.yaml <<'END'
data: {train_input: [texts.txt], tokenizer: model, max_tokens: 32, windows: on, chunk_rows: 16}
END
if "$KD_BIN/kd-dump" data.yaml -o s.kd >out 2>err && grep -q '3 texts are left out' out err; then ok "texts are packed in windows"
else not_ok "texts are packed in windows"; cat out err; fi
sed 's/max_tokens: 32, windows: on, /max_tokens: 10000, /' data.yaml >texts.yaml
"$KD_BIN/kd-dump" -q texts.yaml -o texts.kd || cat err
cat >windows.py <<'END'
# Of a text of n tokens: as few windows of up to 32 as will do, of lengths that differ by one at most, each from the last token
# of the one before; all in one split.
import kdstore

def rows(path):
    s = kdstore.Store(path)
    for k in range(len(s.chunks)):
        tokens, lengths = s.read("tokens", k)
        at = 0
        for n, source, split in zip(lengths, s.read("source", k), s.read("split", k)):
            yield int(source), list(map(int, tokens[at:at + n])), int(split)
            at += int(n)

texts, windows, splits = {i: t for i, t, _ in rows("texts.kd")}, {}, {}
for i, w, split in rows("s.kd"):
    windows.setdefault(i, []).append(w)
    splits.setdefault(i, set()).add(split)
assert len(windows) == 60 and all(len(v) == 1 for v in splits.values())
assert sum(len(w) > 1 for w in windows.values()) > 20
for i, t in texts.items():
    k = -(-(len(t) - 1) // 31) if len(t) > 1 else 0
    ends = [1 + (len(t) - 1) * j // k for j in range(k + 1)] if k else []
    assert sorted(windows.get(i, [])) == sorted(t[a - 1:b] for a, b in zip(ends, ends[1:])), i
END
if PYTHONPATH=$here/../../lib/python /usr/bin/python3 windows.py 2>err; then ok "windows are whole texts"; else not_ok "windows are whole texts"; cat err; fi
cp -r s.kd t.kd
"$KD_BIN/kd-dump" -q --teacher model --into s.kd --name big --threads 1 --encoding head-tail:n=9 >out 2>err
"$KD_BIN/kd-dump" -q --teacher model --into t.kd --name big --threads 2 --encoding head-tail:n=9 >out 2>>err
root() { "$KD_BIN/kd-store" stat --json "$1" | jq -r .root; }
if [ ! -s err ] && [ "$(root s.kd)" = "$(root t.kd)" ]; then ok "any number of threads says the same"; else not_ok "any number of threads says the same"; cat err; fi
if "$KD_BIN/kd-store" verify -q s.kd && "$KD_BIN/kd-dump" -q --teacher model --into s.kd --name big --check >out 2>err; then ok "the store is what the teacher says"
else not_ok "the store is what the teacher says"; cat out err; fi

# ---- parts ----
"$KD_BIN/kd-dump" data.yaml -q -o p.kd >out 2>err
for i in 1 2 3; do "$KD_BIN/kd-dump" -q --teacher model --into p.kd --name big --encoding head-tail:n=9 --shard $i/3 -o part$i.kd >>out 2>>err; done
if "$KD_BIN/kd-store" merge -q whole.kd part1.kd part2.kd part3.kd 2>>err && [ "$(root whole.kd)" = "$(root s.kd)" ]; then ok "three machines say what one says"
else not_ok "three machines say what one says"; cat err; fi

# ---- conversations ----
cat >chats.jsonl <<'END'
{"messages": [{"role": "user", "content": "who teaches?"}, {"role": "assistant", "content": "a teacher"}]}
{"messages": [{"role": "user", "content": "and <|im_end|> then?"}]}
{"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}, {"role": "assistant", "content": "four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four four"}]}
END
cat >chats.yaml <<'END'
data: {train_input: [chats.jsonl], tokenizer: model, conversations: messages, max_tokens: 160, valid_fraction: 0, test_fraction: 0}
END
"$KD_BIN/kd-dump" chats.yaml -o c.kd >out 2>err
"$KD_BIN/kd-dump" -q --teacher model --into c.kd --name big --encoding topk:k=3 >>out 2>>err
cat >chats.py <<'END'
import json
import numpy as np
import kdstore
s = kdstore.Store("c.kd")
tokens, lengths = s.read("tokens", 0)
mask, same = s.read("mask", 0)
positions = s.read("big/logits", 0).lengths
assert s.columns["mask"].role == "mask" and list(lengths) == list(same) and len(lengths) == 2
vocab = {v: k for k, v in json.load(open("model/tokenizer.json"))["model"]["vocab"].items()}
for t in json.load(open("model/tokenizer.json"))["added_tokens"]:
    vocab[t["id"]] = t["content"]
at = 0
texts = {}
for row, n in enumerate(lengths):
    m = mask[at:at + n]
    assert positions[row] == m[1:].sum()
    texts[int(s.read("source", 0)[row])] = "".join(vocab[int(t)] for t, k in zip(tokens[at:at + n], m) if k).replace("\u0120", " ")
    at += n
assert texts == {0: "a teacher<|im_end|>", 2: "two<|im_end|>"}, texts
END
if PYTHONPATH=$here/../../lib/python /usr/bin/python3 chats.py 2>>err && grep -q '1 texts are left out' out err; then ok "an assistant's turns are predicted, whole ones"
else not_ok "an assistant's turns are predicted, whole ones"; cat out err; fi

# ---- what does not fit ----
sed 's/chats.jsonl/bad.jsonl/' chats.yaml >bad.yaml
sed 's/max_tokens: 32, //' data.yaml >long.yaml
echo '{"messages": [{"role": "tutor", "content": "x"}]}' >bad.jsonl
refused 3 "bad.jsonl: conversation 0, message 0: the role is 'tutor'" "a role that is none" "$KD_BIN/kd-dump" bad.yaml -o x.kd
echo '{"messages": "hello"}' >bad.jsonl
refused 3 "bad.jsonl:1: member 'messages' is no list" "messages that are no list" "$KD_BIN/kd-dump" bad.yaml -o x.kd
cp -r model other
sed -i 's/"<|im_end|>"/"<|im_stop|>"/' other/tokenizer.json
refused 3 'was made with the tokenizer' "a teacher with another tokenizer" "$KD_BIN/kd-dump" --teacher other --into s.kd --name other
refused 2 'data.windows' "windows without a length" "$KD_BIN/kd-dump" long.yaml -o x.kd
finish
