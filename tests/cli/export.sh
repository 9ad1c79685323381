#!/bin/sh
# kd-export: what it writes answers as kd-run does. C files are compiled with nothing and run on real rows; ONNX files are
# checked and run by the ONNX project's own programs where those are installed.
. "$(dirname "$0")/common"
top=$(cd "$(dirname "$0")/../.." && pwd)
onnx_python=${KD_ONNX_PYTHON:-$top/build/peers/onnx-venv/bin/python}
parity=$top/tests/python/export_parity.py
cd "$work" || exit 1
E=$KD_BIN/kd-export
T10K=$FASHION/t10k-images-idx3-ubyte.gz
# Names that a C source and JSON must survive.
data_yaml | sed "s|classes: 10|classes: 10\n  class_names: [a, '\"b\"', 'c\\\\', 'd??/', '*/', 'f%s', größe, 'h\"); x', i, j]|" >data.yaml
student() { # student NAME ARCH KEYS
  printf 'name: %s\nmodel: {arch: %s, %s}\nloss: {kd: 0, ce: 1}\ntrain: {epochs: 1, batch: 64, lr: 0.01}\n' "$1" "$2" "$3" >"$1.yaml"
}
student mlp mlp "hidden: [48, 20], dropout: 0.1"
student cnn cnn "channels: [8, 16], strides: [1, 2], dropout: 0.2"
student flat cnn "channels: [6, 12], strides: [2, 1], pools: [2, 1], norm: none, head: flatten, hidden: [16]"
student dscnn dscnn "channels: [8, 16, 24], strides: [2, 2, 1], kernel: 5"
student resnet resnet "channels: [8, 8, 16], strides: [2, 1, 2]"
all="mlp cnn flat dscnn resnet"
check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o fashion.kd
check "five students are trained" "$KD_BIN/kd-train" -s fashion.kd mlp.yaml cnn.yaml flat.yaml dscnn.yaml resnet.yaml -o runs --rows 6400
gzip -dc "$T10K" | tail -c +17 | head -c $((784 * 200)) >rows.bytes
mkdir s
for s in $all; do
  ln -s "../runs/$s/plain/seed-0" "s/$s"
  "$KD_BIN/kd-run" -q --json --top 10 "s/$s" - <rows.bytes >"$s.jsonl"
done

# ---- C ---------------------------------------------------------------------------------------------
strict="-std=c99 -Wall -Wextra -Werror"
agree() { # agree SENTENCE KD.jsonl LOGITS|ONNX [LAYOUT]
  what=$1
  shift
  case $2 in *.onnx) python=$onnx_python ;; *) python=/usr/bin/python3 ;; esac
  "$python" "$parity" "$what" rows.bytes "$@" 2>err || { failures=$((failures + 1)); sed 's/^/# /' err; }
}
for s in $all; do
  check "$s becomes a C source" "$E" "s/$s" --to c -o "$s.c"
  # shellcheck disable=SC2086 # a list of flags
  check "$s.c: gcc finds nothing to say" gcc $strict -O2 -DKD_MAIN "$s.c" -o "$s"
  # shellcheck disable=SC2086
  if command -v clang >/dev/null; then check "$s.c: nor does clang" clang $strict -c "$s.c" -o clang.o; fi
  "./$s" <rows.bytes >"$s.logits"
  agree "$s.c answers as kd-run does" "$s.jsonl" "$s.logits"
done
gcc -std=c99 -O2 -c dscnn.c -o dscnn.o
same "the object needs nothing but what C itself may call" \
  "$(nm -u dscnn.o | awk '{print $2}' | grep -vxE 'memset|memcpy|_GLOBAL_OFFSET_TABLE_' | tr '\n' ' ')" ""
gcc -std=c99 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -DKD_MAIN resnet.c -o resnet-asan
same "under the sanitizers resnet.c says the same" "$(head -c 7840 rows.bytes | ./resnet-asan | cut -c1-6)" \
  "$(head -n 10 resnet.logits | cut -c1-6)"
printf '#include <stdio.h>\n#include "cnn.c"\nint main(void) { for (int i = 0; i < 10; i++) puts(predict_labels[i]); return 0; }\n' >names.c
check "class names of any kind survive" gcc -std=c99 -Wall -Wextra -Werror names.c -o names
same "byte for byte" "$(./names)" "$(jq -r '.labels[]' s/cnn/config.json)"
sed -n 's/.*RAM: \([0-9]*\) bytes.*/\1/p' cnn.c >ram
same "the comment tells the work area that the code has" "$(cat ram)" "$(($(sed -n 's/#define PREDICT_WORK //p' cnn.c) * 4))"
check "bytes as input, a prefix" "$E" s/cnn --to c --input u8 --prefix shoe_ -o shoe.c
check "compile" gcc -std=c99 -Wall -Wextra -Werror -O2 -DKD_MAIN shoe.c -o shoe
./shoe <rows.bytes >shoe.logits
agree "and answer the same" cnn.jsonl shoe.logits
check "two students fit into one program" sh -c 'gcc -std=c99 -c shoe.c -o a.o && gcc -std=c99 -c mlp.c -o b.o && ld -r a.o b.o -o ab.o'
check "input that the caller scales" "$E" s/mlp --to c --no-preprocess -o scaled.c
gcc -std=c99 -O2 -DKD_MAIN scaled.c -o scaled
/usr/bin/python3 - <<P
import json, numpy as np
p = json.load(open("s/mlp/config.json"))["preprocess"]
((np.fromfile("rows.bytes", "u1").astype("f4") - np.float32(p["mean"])) * np.float32(p["scale"])).tofile("rows.f32")
P
./scaled floats <rows.f32 >scaled.logits
agree "is not scaled again" mlp.jsonl scaled.logits

# ---- whole-number weights ---------------------------------------------------------------------------
for s in cnn dscnn; do
  check "$s with int8 weights" "$E" "s/$s" --to c --weights int8 --check fashion.kd --json -o "$s-8.c"
  cp out "$s-8.json"
  same "takes under half of the constants" \
    "$(jq --argjson n "$("$E" -q "s/$s" --to c --json -o again.c --force | jq .weight_bytes)" '.weight_bytes * 2 < $n' "$s-8.json")" true
  same "and answers nearly alike" "$(jq '.check.rows == 10000 and .check.same > 9500 and .check.same < 10000 and .check.largest > 0' "$s-8.json")" true
  gcc -std=c99 -Wall -Wextra -Werror -O2 -DKD_MAIN "$s-8.c" -o "$s-8"
  gzip -dc "$T10K" | tail -c +17 | "./$s-8" | awk '{m = 1; for (i = 2; i <= NF; i++) if ($i > $m) m = i; print m - 1}' >said
  gzip -dc "$FASHION/t10k-labels-idx1-ubyte.gz" | tail -c +9 | od -An -v -tu1 -w1 | tr -d ' ' >labels
  same "its accuracy is the one that --check measured" "$(paste said labels | awk '$1 == $2' | wc -l)" \
    "$(jq '.check.accuracy * 10000 | round' "$s-8.json")"
done
check "folding alone" "$E" s/resnet --to c --check fashion.kd --json -o folded.c
same "changes no answer and no logit by 1e-3" "$(jq '.check.same > 9998 and .check.largest < 1e-3 and .check.largest > 0' out)" true

# ---- ONNX ------------------------------------------------------------------------------------------
for s in $all; do check "$s becomes an ONNX graph" "$E" "s/$s" --to onnx -o "$s.onnx"; done
check "an ONNX graph with int8 weights" "$E" s/dscnn --to onnx --weights int8 -o dscnn-8.onnx
check "of height, width, channels" "$E" s/cnn --to onnx --layout nhwc -o nhwc.onnx
check "of bytes" "$E" s/cnn --to onnx --input u8 -o bytes.onnx
check "of scaled input" "$E" s/mlp --to onnx --no-preprocess -o scaled.onnx
if "$onnx_python" -c 'import onnx, onnxruntime' 2>/dev/null; then
  for s in $all; do agree "ONNX Runtime runs $s.onnx as kd-run does" "$s.jsonl" "$s.onnx"; done
  agree "height, width, channels, too" cnn.jsonl nhwc.onnx nhwc
  agree "bytes, too" cnn.jsonl bytes.onnx
  agree "and scaled input" mlp.jsonl scaled.onnx
  ./dscnn-8 <rows.bytes >dscnn-8.logits
  agree "int8 weights are the same in both formats" dscnn-8.logits dscnn-8.onnx
else
  echo "ok - ONNX Runtime's answers # SKIP no onnx and onnxruntime in $onnx_python: bench/peers/setup.sh build/peers/onnx-venv requirements-onnx"
fi

# ---- the commands of docs/export.md ------------------------------------------------------------------
ln -s dscnn/plain/seed-0 runs/student
sed -n 's/^    \(\(kd-export runs\/student\|cc\) .*\)/\1/p' "$top/docs/export.md" >commands
same "the page shows five commands" "$(wc -l <commands)" 5
PATH=$KD_BIN:$PATH
while read -r line; do check "$line" sh -c "$line"; done <commands
same "what they made answers" "$(./student <rows.bytes | cmp - dscnn.logits && echo alike)" alike
sed -n '/^    import json/,/^$/s/^    //p' "$top/docs/export.md" >doc.py
same "the page shows how Python runs it" "$(grep -c . doc.py)" 4
if "$onnx_python" -c 'import onnxruntime' 2>/dev/null; then
  check "and that runs" "$onnx_python" -c "import numpy; pixels = numpy.fromfile('rows.bytes', 'u1').reshape(-1, 1, 28, 28)
exec(open('doc.py').read())
assert logits.shape == (200, 10) and labels[0] == 'a'"
fi

# ---- refusals ---------------------------------------------------------------------------------------
refused 2 "mlp.c: already there; --force replaces it" "nothing is replaced unasked" "$E" s/mlp --to c -o mlp.c
check "but with --force" "$E" s/mlp --to c --force -o mlp.c
refused 2 "no format given; choose one with --to" "a format must be named" "$E" s/mlp -o x
refused 2 "no file to write" "and a file" "$E" s/mlp --to c
refused 2 "onnx, c" "an unknown format gets the list" "$E" s/mlp --to tflite -o x
refused 2 "prefix 9x: expected the beginning of a C name" "a prefix must be a name" "$E" s/mlp --to c --prefix 9x -o x
refused 2 "u8 takes raw bytes" "bytes cannot be scaled by the caller" "$E" s/mlp --to c --input u8 --no-preprocess -o x
refused 3 "nowhere: no such folder" "a missing student is told" "$E" nowhere --to c -o x
refused 3 "cannot create|No such file" "a folder that is not there, too" "$E" s/mlp --to c -o none/x.c
same "and nothing was left behind" "$(ls x* ./*.tmp.* 2>/dev/null)" ""
finish
