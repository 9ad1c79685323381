#!/bin/sh
# A language model writes its own answers: to questions, behind what conversations and texts begin with; the same store from three
# machines or from one, ended where the model ends, and a student that learns from it.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common"
cd "$work" || exit 1
/usr/bin/python3 "$here/../python/tiny_llama.py" model || exit 1
root() { "$KD_BIN/kd-store" stat -q --json "$1" | jq -r .root; }
answer() { "$KD_BIN/kd-dump" -q --teacher model --generate --name big --temperature 1 "$@"; }

/usr/bin/python3 - <<'END' >chats.jsonl
import json
for i in range(90):
    talk = [("user", f"question {i}?" + " why?" * (i % 9)), ("assistant", "because <|im_end|> of this")]
    if i % 3 == 0:
        talk += [("user", "and then?"), ("assistant", "nothing"), ("user", "never?")]
    print(json.dumps({"messages": [{"role": r, "content": c} for r, c in talk]}))
print(json.dumps({"messages": [{"role": "assistant", "content": "nobody asks"}]}))
END
cat >prompts.yaml <<'END'
data: {train_input: [chats.jsonl], tokenizer: model, max_tokens: 200, conversations: messages, prompts: on, chunk_rows: 20}
END
sed 's/, prompts: on//' prompts.yaml >chats.yaml
printf '%s\n' 'a teacher learns and students are taught again' 'one more text' 'xy' >texts.txt
echo 'data: {train_input: [texts.txt], tokenizer: model, max_tokens: 60, valid_fraction: 0, test_fraction: 0}' >texts.yaml
for i in chats texts prompts; do check "$i are packed" "$KD_BIN/kd-dump" $i.yaml -o $i.kd; done
if grep -q '1 texts are left out' out err; then ok "without one in which nobody asks"; else not_ok "without one in which nobody asks"; fi

check "questions are answered" answer --into prompts.kd --answer-tokens 30 -o p.kd
check "so are conversations, from their last answer on" answer --into chats.kd --answer-tokens 30 --encoding topk:k=4 -o c.kd
check "and texts, from the beginning of each" answer --into texts.kd --prompt-tokens 5 --temperature 0 -o t.kd
check "the store is whole" "$KD_BIN/kd-store" verify -q p.kd
check "and what the teacher says" "$KD_BIN/kd-dump" -q --teacher model --into p.kd --name big --check

cat >look.py <<'END'
# Prompts are what was packed, splits and sources theirs; answers end where the model ends, or are as long as they may be.
import json
import sys
import numpy as np
import kdstore
sys.path.append(sys.argv[1])
import tiny_llama

def rows(path):
    s = kdstore.Store(path)
    for k in range(len(s.chunks)):
        (tokens, lengths), source, split = s.read("tokens", k), s.read("source", k), s.read("split", k)
        mask = s.read("mask", k)[0] if "mask" in s.columns else np.zeros(len(tokens), "u1")
        at = 0
        for i, n in enumerate(lengths):
            yield int(source[i]), tokens[at:at + n].astype(int), mask[at:at + n], int(split[i])
            at += int(n)

ends = {t["id"] for t in json.load(open("model/tokenizer.json"))["added_tokens"] if t["content"] in ("<|im_end|>", "<|endoftext|>")}
ended = 0
for ours, theirs, prompt, most in (("p.kd", "prompts.kd", 0, 30), ("c.kd", "chats.kd", 0, 30), ("t.kd", "texts.kd", 5, 256)):
    want = {source: r for source, *r in rows(theirs)}
    got = list(rows(ours))
    assert len(got) == len(want)
    for source, tokens, mask, split in got:
        given, was, where = want[source]
        n = len(tokens) - int(mask.sum())
        assert list(mask) == [0] * n + [1] * (len(tokens) - n) and split == where and len(tokens) - n <= most
        assert list(tokens[:n]) == list(given[:n]) and not ends & set(tokens[n:-1])
        assert tokens[-1] in ends or len(tokens) - n == most or len(tokens) == 256
        if prompt:
            assert n == min(prompt, len(given))
            for i in range(n, min(len(tokens), n + 10)):  # greedy
                assert tokens[i] == np.argmax(tiny_llama.logits(tokens[:i], True)[-1])
        elif was.any():
            last = np.flatnonzero(was)[-1]
            assert was[n:last + 1].all() and not was[n - 1]
        else:
            assert n == len(given)
        ended += tokens[-1] in ends
assert ended > 0
END
check "prompts stand before answers, which end" env PYTHONPATH="$here/../../lib/python" /usr/bin/python3 look.py "$here/../python"

# ---- the same store, whatever made it ----
check "one row at a time, one thread" answer --into prompts.kd --answer-tokens 30 --batch 1 --threads 1 -o one.kd
same "is the same" "$(root one.kd)" "$(root p.kd)"
check "another seed says something else" answer --into prompts.kd --answer-tokens 30 --draw-seed 1 -o other.kd
check "which stands beside the first" "$KD_BIN/kd-store" merge -q both.kd p.kd other.kd
same "and both seeds are said" "$(jq -c '.segments[0].teacher.generate | map(.seed)' both.kd/manifest.json)" '[0,1]'
for i in 1 2 3; do check "machine $i of 3" answer --into prompts.kd --answer-tokens 30 --shard $i/3 -o part$i.kd; done
check "their parts are put together" "$KD_BIN/kd-store" merge -q whole.kd part1.kd part2.kd part3.kd
same "and are what one machine says" "$(root whole.kd)" "$(root p.kd)"
same "nothing is left beside them" "$(echo part*)" "part1.kd part2.kd part3.kd"

# ---- a student ----
cat >s.yaml <<'END'
model: {arch: llama, positions: 256, layers: 1, width: 32, heads: 2, kv_heads: 1, ffn: 48, tied: true}
loss: [{name: kd, weight: 1}, {name: ce, weight: 0.1}]
train: {epochs: 1, batch: 8, lr: 0.003}
END
check "a student learns from the answers" "$KD_BIN/kd-train" -q -s p.kd s.yaml -o s

# ---- what does not go together ----
refused 2 'say -o ANSWERS.kd' "answers without a place" answer --into prompts.kd
refused 2 'is the store of the prompts' "the prompts in the answers' place" answer --into prompts.kd -o prompts.kd
refused 2 '--tap is for passes' "features of answers" answer --into prompts.kd -o x.kd --tap layer0
refused 2 '--plan is for passes' "a plan of answers" answer --into prompts.kd -o x.kd --plan
refused 2 'p.kd: ' "a store that is there" answer --into prompts.kd -o p.kd
refused 2 'a whole block at once' "an encoding of whole blocks" answer --into prompts.kd -o x.kd --encoding int8-channel
refused 2 'set data.conversations' "prompts of texts" "$KD_BIN/kd-dump" --train-input texts.txt --tokenizer model --prompts -o x.kd
finish
