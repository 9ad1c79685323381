#!/bin/sh
# kd-export of encoders of texts: ONNX, GGUF and a folder for sentence-transformers, of small encoders with random weights,
# against numpy and, where they are installed, against the programs that run such files.
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
  tap_of "$python" "$py/text_exports.py" "$@"
}
for kind in "plain mean 0 0" "first cls 0 0" "dense mean 24 0" "narrow cls 16 32"; do
  # shellcheck disable=SC2086 # words
  set -- $kind
  check "an encoder with pooling $2, projection $3, tables $4" /usr/bin/python3 "$py/tiny_bert.py" "$@"
  check "becomes an ONNX graph" "$E" "$1" --to onnx -o "$1.onnx"
  check "and one of int8 weights" "$E" "$1" --to onnx --weights int8 -o "$1-8.onnx"
  check "and a folder" "$E" "$1" --to sentence-transformers -o "$1.st"
  check "which can be exported in turn" "$E" "$1.st" --to onnx -o again.onnx --force
  if "$onnx_python" -c 'import onnx, onnxruntime' 2>/dev/null; then
    said "$onnx_python" onnx "$1.onnx" "$2" "$3" "$4" 1e-5
    said "$onnx_python" onnx "$1-8.onnx" "$2" "$3" "$4" 0.05
    said "$onnx_python" onnx again.onnx "$2" "$3" "$4" 1e-5
  else
    echo "ok - $1.onnx beside numpy # SKIP no onnx and onnxruntime in $onnx_python"
  fi
done
for weights in f32 f16 int8; do
  check "a GGUF file of $weights" "$E" plain --to gguf --weights $weights -o $weights.gguf
  said /usr/bin/python3 gguf plain $weights.gguf $weights
done
if "$text_python" -c 'import sentence_transformers, xllamacpp' 2>/dev/null; then
  said "$text_python" peers plain plain.st plain.onnx f32.gguf
else
  echo "ok - sentence-transformers and llama.cpp # SKIP none in $text_python: bench/peers/setup.sh build/peers/text-venv requirements-text"
fi
same "the folder has what the programs look for" "$(cd plain.st && ls -d -- * | tr '\n' ' ')" \
  "1_Pooling config.json config_sentence_transformers.json model.safetensors modules.json sentence_bert_config.json tokenizer_config.json vocab.txt "

mkdir runs
ln -s ../plain runs/encoder
sed -n 's/^    \(kd-export runs\/encoder .*\)/\1/p' "$top/docs/export.md" >commands
same "docs/export.md shows three commands for encoders" "$(wc -l <commands)" 3
PATH=$KD_BIN:$PATH
while read -r line; do check "$line" sh -c "$line"; done <commands

refused 2 "dense: a GGUF file has no words for a projection" "what llama.cpp lacks is told" "$E" dense --to gguf -o x
refused 2 "layer .*: a C source has no words for its kind" "an encoder is too much for one C source" "$E" plain --to c -o x
refused 2 "f16 is for gguf, transformers" "f16 in other formats" "$E" plain --to onnx --weights f16 -o x
refused 2 "int8 is for onnx, c, gguf; sentence-transformers has others" "a folder of int8" "$E" plain --to sentence-transformers --weights int8 -o x
mkdir mine && touch mine/letter
refused 2 "mine: already there, without config_sentence_transformers.json" "somebody's folder is not removed, whatever the option" \
  "$E" plain --to sentence-transformers --force -o mine
same "the letter is still there" "$(ls mine)" letter
check "an exported folder is replaced" "$E" plain --to sentence-transformers --force -o plain.st/
rm plain/vocab.txt
refused 3 "plain.*(tokenizer.json|vocab.txt)" "an encoder without its tokenizer" "$E" plain --to gguf -o x
check "gets it from elsewhere" "$E" plain --to gguf --tokenizer first -o x.gguf
sed -i 's/\[MASK\]/[HIDDEN]/' first/vocab.txt
refused 2 "has no mask_token '\[MASK\]', without which llama.cpp fails" "a special token that is missing" "$E" first --to gguf -o x
printf 'more\n' >>dense/vocab.txt
refused 3 "its tokenizer has 27 tokens, the model first has 26" "a vocabulary of another model" "$E" first --to gguf --tokenizer dense -o x
same "nothing was left behind" "$(ls -d x ./*.part ./*.tmp.* 2>/dev/null)" ""
finish
