#!/bin/sh
# kd-dump on a data set: what it says, what it refuses, and kills.
. "$(dirname "$0")/common"
cd "$work" || exit 1
data_yaml >data.yaml
root() { "$KD_BIN/kd-store" stat "$1" --json -q | jq -r .root; }

check "a dry run reads everything" "$KD_BIN/kd-dump" data.yaml --dry-run --json
same "and counts rows, splits and copies" "$(jq -c '[.rows, .splits.test, (.splits | add), .duplicates, .leaks, .classes]' out)" \
  "[70000,10000,70000,0,0,10]"
same "and writes nothing" "$(find . -name '*.kd*' | wc -l)" 0
check "the whole data set is packed" "$KD_BIN/kd-dump" data.yaml -o a.kd --json
same "the report names the root that readers see" "$(jq -r .root out)" "$(root a.kd)"
refused 2 "already there and finished; --force" "a finished store is not overwritten" "$KD_BIN/kd-dump" data.yaml -o a.kd
check "with --force it is" "$KD_BIN/kd-dump" data.yaml -o a.kd --force -j 1
want=$(root a.kd)

# Killed again and again until it is through: the records are those of the uninterrupted run.
for delay in 0.2 0.5 0.8 1.2; do
  "$KD_BIN/kd-dump" data.yaml -o k.kd --level 9 --resume >/dev/null 2>&1 &
  pid=$!
  sleep $delay
  kill -9 $pid 2>/dev/null
  wait $pid 2>/dev/null
done
if [ -e k.kd ]; then echo "# the pack was through before the last kill"; else
  refused 3 "k.kd" "an unfinished store is not taken for whole" "$KD_BIN/kd-store" stat k.kd
  check "a killed pack resumes" "$KD_BIN/kd-dump" data.yaml -o k.kd --level 9 --resume
fi
check "an uninterrupted pack with the same options" "$KD_BIN/kd-dump" data.yaml -o u.kd --level 9
same "the killed one equals it" "$(root k.kd)" "$(root u.kd)"
check "and is whole" "$KD_BIN/kd-store" verify k.kd
check "--resume --force replaces a finished store" "$KD_BIN/kd-dump" data.yaml -o k.kd --resume --force
same "with what the options say" "$(root k.kd)" "$want"
"$KD_BIN/kd-dump" data.yaml -o s.kd --level 19 >/dev/null 2>said.txt &
pid=$!
sleep 0.8
kill -TERM $pid
wait $pid
same "SIGTERM stops between chunks, exit 5" "$?" 5
check "and says how to go on" grep -q -- --resume said.txt

# Bad input: one line, the documented exit code.
refused 2 "-o NAME.kd" "no store named" "$KD_BIN/kd-dump" data.yaml
refused 2 "one data file at a time" "two data files" "$KD_BIN/kd-dump" data.yaml data.yaml -o x.kd
refused 3 "none.yaml" "a missing data.yaml" "$KD_BIN/kd-dump" none.yaml -o x.kd
sed s/train_input/train_inputs/ data.yaml >wrong.yaml
refused 2 "wrong.yaml:2:.*did you mean .*train_input" "an unknown key" \
  "$KD_BIN/kd-dump" wrong.yaml -o x.kd
refused 2 "--valid-fraction: .2. is out of range" "a share out of range" "$KD_BIN/kd-dump" data.yaml -o x.kd --valid-fraction 2
refused 3 "none.gz: cannot open" "a missing IDX file" "$KD_BIN/kd-dump" --train-input none.gz --train-label "$FASHION/t10k-labels-idx1-ubyte.gz" -o x.kd
head -c 1000000 "$FASHION/t10k-images-idx3-ubyte.gz" >cut.gz
refused 3 "cut.gz: truncated: header says 10000 rows of 784 bytes, file holds [0-9]+, its gzip data are cut off at byte 1000000" \
  "a truncated gzip" "$KD_BIN/kd-dump" --train-input cut.gz --train-label "$FASHION/t10k-labels-idx1-ubyte.gz" -o x.kd
gzip -dc "$FASHION/t10k-images-idx3-ubyte.gz" | head -c 784016 >cut.idx
refused 3 "cut.idx: truncated: header says 10000 rows of 784 bytes, file holds 1000" "a truncated IDX file" \
  "$KD_BIN/kd-dump" --train-input cut.idx --train-label "$FASHION/t10k-labels-idx1-ubyte.gz" -o x.kd
refused 3 "label of row [0-9]+ is 9, expected 0 to 8" "labels out of range" "$KD_BIN/kd-dump" data.yaml --classes 9 -o x.kd
refused 3 "60000 rows, but .* 10000 labels" "labels of other rows" "$KD_BIN/kd-dump" \
  --train-input "$FASHION/train-images-idx3-ubyte.gz" --train-label "$FASHION/t10k-labels-idx1-ubyte.gz" -o x.kd
same "none of these left a store" "$(find . -name 'x.kd*' | wc -l)" 0
finish
