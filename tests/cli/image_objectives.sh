#!/bin/sh
# What `make image-objectives` trains: each line of objectives.txt is a student that kd-train takes, from the features and views that
# image.mk dumps. A small store of the same columns, and nothing is trained but the teacher, for a few steps.
. "$(dirname "$0")/common"
image=$(cd "$(dirname "$0")/../../pipelines/image" && pwd)
cd "$work" || exit 1
/usr/bin/python3 - "$FASHION" <<'P'
import gzip, sys
import numpy as np
read = lambda name: np.frombuffer(gzip.open(f"{sys.argv[1]}/t10k-{name}.gz").read(), "u1")
np.save("x.npy", read("images-idx3-ubyte")[16:].reshape(-1, 28, 28, 1)[:600])
np.save("y.npy", read("labels-idx1-ubyte")[8:][:600])
P
check "a store is packed" "$KD_BIN/kd-dump" --train-input x.npy --train-label y.npy --classes 10 --chunk-rows 256 -o f.kd
check "the teacher is trained" "$KD_BIN/kd-train" -s f.kd "$image/teacher.yaml" --set train.epochs=1 -o teacher
check "its logits are dumped" "$KD_BIN/kd-dump" --teacher teacher --into f.kd
options() { sed -n "/^IMAGE_OBJ /,/^image-plot/p" "$image/image.mk" | grep -oE -- "$1" | tr "\n" " "; }
# shellcheck disable=SC2046 # several options
check "its features are dumped" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --no-logits --dtype f16 --segment features $(options '--tap [^ ]+')
# shellcheck disable=SC2046
check "its logits of views are dumped" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --no-logits $(options '--view(s|-shift) [0-9]+|--view-flip')
check "the students are written" "$image/objectives.sh" yaml "$image/cnn-6k.yaml" "$image/dscnn-5k.yaml"
lines=$(grep -vc '^#' "$image/objectives.txt")
same "one of each kind for each line" "$(find yaml -name '*.yaml' | wc -l)" $((2 * lines))
check "kd-train takes them all" "$KD_BIN/kd-train" -n -s f.kd yaml/*.yaml --json
same "as runs of their own names" "$(jq '[.students[].name] | unique | length' out)" $((2 * lines))
same "two of each student are without the teacher" "$(jq -r '[.students[] | select(.role == "plain") | .name] | sort | join(" ")' out)" \
  "cnn-6k cnn-6k@views=store dscnn-5k dscnn-5k@views=store"
refused 2 "arch cnn or dscnn" "a student without maps" "$image/objectives.sh" none "$image/mlp-100k.yaml"
finish
