#!/bin/sh
# kd-export of language models: GGUF, a folder for transformers and ONNX, of small decoders with random weights, against numpy and,
# where they are installed, against the programs that run such files.
. "$(dirname "$0")/common"
top=$(cd "$(dirname "$0")/../.." && pwd)
onnx_python=${KD_ONNX_PYTHON:-$top/build/peers/onnx-venv/bin/python}
text_python=${KD_TEXT_PYTHON:-$top/build/peers/text-venv/bin/python}
cd "$work" || exit 1
E=$KD_BIN/kd-export
py=$top/tests/python
said() { # said PYTHON ARGUMENT...
  python=$1
  shift
  tap_of "$python" "$py/language_exports.py" "$@"
}
for kind in tied untied; do
  check "a language model, its head $kind" /usr/bin/python3 "$py/tiny_llama.py" $kind $kind
  check "becomes an ONNX graph" "$E" $kind --to onnx -o $kind.onnx
  check "and one of int8 weights" "$E" $kind --to onnx --weights int8 -o $kind-8.onnx
  if "$onnx_python" -c 'import onnx, onnxruntime' 2>/dev/null; then
    said "$onnx_python" onnx $kind.onnx 1e-4 $kind
    said "$onnx_python" onnx $kind-8.onnx 1 $kind
  else
    echo "ok - $kind.onnx beside numpy # SKIP no onnx and onnxruntime in $onnx_python"
  fi
  for weights in f32 f16 bf16; do check "a folder of $weights" "$E" $kind --to transformers --weights $weights -o $kind.$weights; done
  for weights in f32 f16 int8 int4; do
    check "a GGUF file of $weights" "$E" $kind --to gguf --weights $weights -o $kind.$weights.gguf
    said /usr/bin/python3 gguf $kind.$weights.gguf $weights $kind
  done
  if "$text_python" -c 'import transformers' 2>/dev/null; then
    said "$text_python" transformers $kind.f32 1e-4 $kind
    said "$text_python" transformers $kind.f16 0.06 $kind
    said "$text_python" transformers $kind.bf16 0.5 $kind
  else
    echo "ok - transformers opens them # SKIP none in $text_python: bench/peers/setup.sh build/peers/text-venv requirements-text"
  fi
done
if "$text_python" -c 'import xllamacpp' 2>/dev/null; then
  said "$text_python" llama.cpp tied.f32.gguf untied.f16.gguf
else
  echo "ok - llama.cpp goes on as kd does # SKIP none in $text_python: bench/peers/setup.sh build/peers/text-venv requirements-text"
fi

score() { printf 'A teacher and its students\n' | "$KD_BIN/kd-run" score -q --json "$1" -; }
same "kd reads its own GGUF file" "$(score tied.f32.gguf)" "$(score tied)"
same "and its own folder" "$(score tied.f32)" "$(score tied)"
check "a GGUF file is exported in turn" "$E" tied.int4.gguf --to gguf --weights int4 -o again.gguf
same "to the same numbers and keys, but for the command" "$(tail -c 60000 again.gguf | md5sum)" "$(tail -c 60000 tied.int4.gguf | md5sum)"
same "the folder has what the programs look for" "$(cd tied.f32 && ls | tr '\n' ' ')" \
  "config.json generation_config.json kd_export.json model.safetensors special_tokens_map.json tokenizer.json tokenizer_config.json "
for name in tokenizer.json tokenizer_config.json; do check "$name is that of the model" cmp tied/$name tied.f32/$name; done

i=0
while [ $i -lt 40 ]; do
  echo "text $i: a teacher learns and students are taught $i times"
  i=$((i + 1))
done >texts.txt
check "texts" "$KD_BIN/kd-dump" -q --train-input texts.txt --tokenizer tied --max-tokens 80 --windows --test-fraction 0.5 -o texts.kd
"$E" -q tied --to gguf -o checked.gguf --check texts.kd --json >exact 2>err
"$E" -q tied --to gguf --weights int4 -o checked.gguf --force --check texts.kd --json >rough 2>>err
if [ ! -s err ] && jq -e '.check | .tokens == .same and .largest == 0 and .perplexity == .student_perplexity' <exact >out &&
  jq -e '.check | .tokens > .same and .same > 0 and .largest > 0 and .perplexity != .student_perplexity' <rough >>out
then ok "--check says what rounding did"; else not_ok "--check says what rounding did"; cat err exact rough; fi

mkdir runs
ln -s ../tied runs/chat
sed -n 's/^    \(kd-export runs\/chat .*\)/\1/p' "$top/docs/export.md" >commands
same "docs/export.md shows three commands for language models" "$(wc -l <commands)" 3
PATH=$KD_BIN:$PATH
while read -r line; do check "$line" sh -c "$line"; done <commands

refused 2 "tied: --to sentence-transformers is for encoders of texts, not llama" "no encoder" "$E" tied --to sentence-transformers -o x
refused 2 "layer .*: a C source has no words for its kind" "a language model is too much for one C source" "$E" tied --to c -o x
refused 2 "bf16 is for transformers; gguf has others" "bf16 in a GGUF file" "$E" tied --to gguf --weights bf16 -o x
refused 2 "int4 is for gguf; onnx has others" "int4 in an ONNX graph" "$E" tied --to onnx --weights int4 -o x
mkdir mine && touch mine/letter
refused 2 "mine: already there, without kd_export.json" "somebody's folder is not removed, whatever the option" \
  "$E" tied --to transformers --force -o mine
check "an exported folder is replaced" "$E" tied --to transformers --force -o tied.f16/
sed -i 's/"eos_token": "[^"]*", //; s/<|endoftext|>/<|endofteXt|>/g' untied/*.json
refused 2 "untied: no eos_token in its tokenizer_config.json, without which llama.cpp ends texts at token 11" \
  "a tokenizer whose texts never end" "$E" untied --to gguf -o x
jq '.model.ignore_merges = true' untied/tokenizer.json >odd && mv odd untied/tokenizer.json
refused 2 "pre-tokenizer and ignore_merges do not go together" "a mixture that llama.cpp has no name for" "$E" untied --to gguf -o x
rm tied/tokenizer.json
refused 3 "tied.*(tokenizer.json|vocab.txt)" "a language model without its tokenizer" "$E" tied --to gguf -o x
check "gets it from elsewhere" "$E" tied --to gguf --tokenizer tied.f32.gguf -o x.gguf
same "nothing was left behind" "$(ls -d x ./*.part ./*.tmp.* 2>/dev/null)" ""
finish
