#!/bin/sh
# kd-store on whole and damaged stores; kills of a dump.
. "$(dirname "$0")/common"
cd "$work" || exit 1
data_yaml >data.yaml

check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
"$KD_BIN/kd-store" stat f.kd --json >stat.json 2>/dev/null
root=$(jq -r .root stat.json)
same "stat counts rows per split" "$(jq '.splits | add' stat.json)" 70000
same "stat knows the bytes of every column" "$(jq '[.columns[] | .stored_bytes > 0 and .raw_bytes > 0] | all' stat.json)" true
same "the columns' bytes are nearly all of the file" \
  "$(jq '([.columns[].stored_bytes] | add) as $b | $b < .bytes and $b > .bytes * 0.97' stat.json)" true
same "the folder's bytes are what stat says" "$(jq .bytes stat.json)" "$(cat f.kd/*.mdb | wc -c)"
check "the table is printed" sh -c '"$1/kd-store" stat f.kd | grep -q "image .*input .*u8"' sh "$KD_BIN"
check "a whole store verifies" sh -c '"$1/kd-store" verify f.kd | grep -q "records.*GB/s.*whole"' sh "$KD_BIN"
check "its pages alone do, too" sh -c '"$1/kd-store" verify f.kd --structure | grep -q "structure alone.*GB/s.*whole"' sh "$KD_BIN"
same "sealed files are read-only" "$(stat -c %a f.kd/base.mdb)" 444

refused 2 "stat STORE" "a command without a store is refused" "$KD_BIN/kd-store" stat
refused 2 "did you mean 'verify'" "a mistyped command gets the nearest" "$KD_BIN/kd-store" verfy f.kd
refused 3 "no such store" "a missing store is refused" "$KD_BIN/kd-store" stat nothing.kd
mkdir empty.kd
refused 3 "no manifest.json" "a folder that is no store is refused" "$KD_BIN/kd-store" verify empty.kd

damage() { # damage FILE OFFSET: one byte of a copy
  printf '\377\001' | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}
size=$(stat -c %s f.kd/base.mdb)
cp -r f.kd d.kd
chmod u+w d.kd/base.mdb
damage d.kd/base.mdb $((size / 2))
refused 3 "column [a-z]+, chunk [0-9]+, rows [0-9]+-[0-9]+: checksum" "damage is named by column, chunk and rows" \
  "$KD_BIN/kd-store" verify d.kd
same "as JSON too" "$("$KD_BIN/kd-store" verify d.kd --json 2>/dev/null | jq '.damaged, (.first | length)' | tr '\n' ' ')" "1 1 "
check "the pages alone do not show it" "$KD_BIN/kd-store" verify d.kd --structure
cp f.kd/base.mdb d.kd/base.mdb
dd if=/dev/zero of=d.kd/base.mdb bs=4096 seek=1 count=1 conv=notrunc 2>/dev/null
refused 3 "base.mdb" "a page of zeros is" "$KD_BIN/kd-store" verify d.kd --structure
same "as JSON too, with what was checked" \
  "$("$KD_BIN/kd-store" verify d.kd --structure --json 2>/dev/null | jq -r '.checked, (.damaged > 0)' | tr '\n' ' ')" "structure true "
cp f.kd/base.mdb d.kd/base.mdb
truncate -s $((size - 4096)) d.kd/base.mdb
refused 3 "manifest.json says $size" "a truncated store is refused at once" "$KD_BIN/kd-store" stat d.kd
refused 3 "." "and verify says so" "$KD_BIN/kd-store" verify d.kd
cp f.kd/base.mdb d.kd/base.mdb
sed -i 's/"train": [0-9]*/"train": 7/' d.kd/manifest.json
refused 3 "checksum.*edited" "an edited manifest is refused" "$KD_BIN/kd-store" stat d.kd
rm -rf d.kd

refused 2 "already there" "a finished store is not overwritten" "$KD_BIN/kd-dump" data.yaml -o f.kd

# Killed at several moments, resumed until whole: the root is that of the uninterrupted dump.
killed_often k.kd "0.05 0.1 0.2 0.3 0.4 0.5 0.6" "$KD_BIN/kd-dump" data.yaml -o k.kd --resume
same "its root is that of the uninterrupted one" "$("$KD_BIN/kd-store" stat k.kd --json 2>/dev/null | jq -r .root)" "$root"
check "it verifies" "$KD_BIN/kd-store" verify k.kd
same "nothing unfinished is left" "$(ls -d k.kd.part 2>/dev/null)" ""

# Dropping a teacher: the rows stay as they were.
before=$root
student_yaml teacher 8 0 | sed 's/ce: 0.5/ce: 1/; s/epochs: 2/epochs: 1/' >teacher.yaml
check "a teacher is trained" "$KD_BIN/kd-train" -s f.kd teacher.yaml -o teacher --rows 640
check "it is dumped" "$KD_BIN/kd-dump" --teacher teacher --into f.kd --name big
refused 2 "cannot be dropped" "the rows themselves are not dropped" "$KD_BIN/kd-store" drop f.kd base
refused 3 "did you mean 'big'" "a mistyped segment gets the nearest" "$KD_BIN/kd-store" drop f.kd bgi
refused 2 "kd-store drop STORE SEGMENT" "drop needs a segment" "$KD_BIN/kd-store" drop f.kd
check "a teacher is dropped" "$KD_BIN/kd-store" drop f.kd big
same "the store is what it was before" "$("$KD_BIN/kd-store" stat f.kd --json 2>/dev/null | jq -r .root)" "$before"
same "and has its file no more" "$(ls f.kd)" "base.mdb
manifest.json"
check "it verifies again" "$KD_BIN/kd-store" verify f.kd

# The examples of --help, on a small store with the names they use.
mkdir examples && cd examples || exit 1
/usr/bin/python3 - <<'P'
import numpy as np, struct
rng = np.random.default_rng(1)
np.save("x.npy", rng.integers(0, 9, (400, 6), dtype=np.uint8))
np.save("y.npy", rng.integers(0, 3, 400).astype(np.int32))
np.save("big.npy", rng.normal(size=(400, 3)).astype(np.float32))
with open("wiki.kld", "wb") as f:
    f.write(b"_logits_" + struct.pack("<3i", 4, 2, 1) + struct.pack("<4i", 0, 1, 1, 0))
    f.write(struct.pack("<2f2H", 1e-5, -0.7, 0, 100))
P
check "their store is packed" "$KD_BIN/kd-dump" --train-input x.npy --train-label y.npy --chunk-rows 32 -o fashion.kd
"$KD_BIN/kd-store" export fashion.kd id -o - --format csv 2>/dev/null |
  sed -n 's/^\([0-9a-f]\{32\}\).*/{"id": "\1", "logits": [1, 2, 3]}/p' >big.jsonl
for i in 2 3 4; do "$KD_BIN/kd-store" slice fashion.kd --part $i/4 --base-only -o part$i.kd >/dev/null 2>&1; done
"$KD_BIN/kd-store" --help | sed -n '/^Examples:/,/^Output:/s/^  \(kd-store .*\)/\1/p' >commands
same "help shows examples" "$(grep -c . commands)" 13
while read -r line; do check "$line" env PATH="$KD_BIN:$PATH" sh -c "$line"; done <commands
check "the man page has them, too" sh -c '"$1/kd-store" --man | grep -q "skip.*duplicates"' sh "$KD_BIN"
finish
