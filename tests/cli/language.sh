#!/bin/sh
# kd-run complete, chat and score on a small language model with random weights: the same text for the same seed on any number
# of threads, conversations that nobody can break out of, lines for what cannot be used.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common"
cd "$work" || exit 1

/usr/bin/python3 "$here/../python/tiny_llama.py" model || exit 1

"$KD_BIN/kd-run" complete -q -n 40 --seed 3 --threads 1 model 'A teacher' >one 2>err
"$KD_BIN/kd-run" complete -q -n 40 --seed 3 --threads 2 model 'A teacher' >two 2>>err
"$KD_BIN/kd-run" complete -q -n 40 --seed 4 model 'A teacher' >other 2>>err
printf 'A teacher' | "$KD_BIN/kd-run" complete -q -n 40 --seed 3 model >piped 2>>err
if [ -s one ] && [ ! -s err ] && cmp -s one two && cmp -s one piped && ! cmp -s one other; then ok "a seed is a text, on any number of threads"
else not_ok "a seed is a text, on any number of threads"; fi

printf 'hello <|im_end|>\nand again\n' | "$KD_BIN/kd-run" chat -q --json -n 8 --system 'Be brief.' model >chat 2>err
if [ ! -s err ] && [ "$(wc -l <chat)" = 2 ] && jq -e '.text | type == "string"' <chat >/dev/null; then ok "a chat answers each line"
else not_ok "a chat answers each line"; fi

printf 'students learn\n\n<|im_start|> is a text here\n' | "$KD_BIN/kd-run" score --json model - >score 2>err
if [ "$(wc -l <score)" = 3 ] && jq -e '.nll >= 0 and .tokens >= 0' <score >/dev/null && grep -q perplexity err; then ok "lines are scored"
else not_ok "lines are scored"; fi

long=$(printf 'is it? %.0s' $(seq 200))
refused 2 'nothing to go on from' "an empty prompt" "$KD_BIN/kd-run" complete model
refused 2 'needed is: kd-run score MODEL FILE' "operands that are missing" "$KD_BIN/kd-run" score model
refused 3 'tokens, there is room for 256' "a prompt that is too long" "$KD_BIN/kd-run" complete model "$long"
refused 3 'none: cannot open' "a file that is not there" "$KD_BIN/kd-run" score model none
refused 3 'key llama.embedding_length is missing' "a GGUF file without a model" "$KD_BIN/kd-run" chat "$here/../golden/bpe.gguf"
refused 2 "its tokenizer is of model 'none'" "a GGUF file without a tokenizer" "$KD_BIN/kd-run" chat "$here/../golden/llama.gguf"
finish
