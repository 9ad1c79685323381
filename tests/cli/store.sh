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
kills=0
for pause in 0.05 0.1 0.2 0.3 0.4 0.5 0.6; do
  "$KD_BIN/kd-dump" data.yaml -o k.kd --resume >/dev/null 2>&1 &
  pid=$!
  sleep $pause
  if kill -9 $pid 2>/dev/null; then kills=$((kills + 1)); fi
  wait $pid 2>/dev/null
  if [ -e k.kd ]; then break; fi
done
echo "# $kills kills"
[ -e k.kd ] || check "a killed dump resumes" "$KD_BIN/kd-dump" data.yaml -o k.kd --resume
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
finish
