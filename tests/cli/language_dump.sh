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
if "$KD_BIN/kd-dump" -q data.yaml -o s.kd >out 2>err && [ ! -s err ]; then ok "texts are packed in windows"; else not_ok "texts are packed in windows"; cat err; fi
"$KD_BIN/kd-store" export s.kd --format jsonl -o rows.jsonl >/dev/null 2>err || cat err
cp -r s.kd t.kd
"$KD_BIN/kd-dump" -q --teacher model --into s.kd --name big --threads 1 --encoding head-tail:n=9 >out 2>err
"$KD_BIN/kd-dump" -q --teacher model --into t.kd --name big --threads 2 --encoding head-tail:n=9 >out 2>>err
root() { "$KD_BIN/kd-store" stat --json "$1" | jq -r .root; }
if [ ! -s err ] && [ "$(root s.kd)" = "$(root t.kd)" ]; then ok "any number of threads says the same"; else not_ok "any number of threads says the same"; cat err; fi
if "$KD_BIN/kd-store" verify -q s.kd; then ok "the store is sound"; else not_ok "the store is sound"; fi
finish
