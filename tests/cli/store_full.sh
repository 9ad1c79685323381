#!/bin/sh
# A disk that fills up: what was committed stays, and a resume on more space gives the same store.
# Needs root for a small tmpfs.
. "$(dirname "$0")/common"
cd "$work" || exit 1
mkdir small
if [ "$(id -u)" -ne 0 ] || ! mount -t tmpfs -o size=8m kd-test "$work/small" 2>/dev/null; then
  echo "ok - a full disk # SKIP mounting a tmpfs needs root"
  exit 0
fi
trap 'umount "$work/small"; rm -rf "$work"' EXIT
data_yaml >data.yaml
check "the store is packed where there is room" "$KD_BIN/kd-dump" data.yaml -o whole.kd
root=$("$KD_BIN/kd-store" stat whole.kd --json 2>/dev/null | jq -r .root)
for size in 0 1 4 8 12 16 20 24 28 29 30 31 32; do
  mount -o remount,size=$((size * 1024 + 44))k "$work/small"
  "$KD_BIN/kd-dump" data.yaml -o small/f.kd --resume >out 2>err </dev/null
  rc=$?
  if [ $rc -eq 0 ]; then break; fi
  if [ $rc -eq 4 ] && [ "$(wc -l <err)" -le 2 ] && grep -q "full\|No space" err; then
    ok "$size MiB: exit 4 and one sentence"
  else
    sed 's/^/# /' err
    not_ok "$size MiB: exit 4 and one sentence (exit $rc)"
  fi
  if [ -e small/f.kd ]; then not_ok "$size MiB: an unfinished store looks finished"; fi
done
mount -o remount,size=64m "$work/small"
[ -e small/f.kd ] || check "with room it is finished" "$KD_BIN/kd-dump" data.yaml -o small/f.kd --resume
check "it verifies" "$KD_BIN/kd-store" verify small/f.kd
same "its root is that of the uninterrupted store" "$("$KD_BIN/kd-store" stat small/f.kd --json 2>/dev/null | jq -r .root)" "$root"
finish
