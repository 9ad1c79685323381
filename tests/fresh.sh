#!/bin/sh
# Tries the README's two commands in a fresh Debian, as a new user would: a minimal system made by
# debootstrap, with git, make and a C compiler added, and a clone of what is committed here.
#
#   tests/fresh.sh SUITE [TARGET ...]      SUITE: bookworm or trixie; targets: test demo
#
# Needs root (chroot) and the package debootstrap. The base system is kept in build/fresh/ and
# copied for each run, so that nothing one run installed is there for the next.
set -eu
suite=$1
shift
[ $# -gt 0 ] || set -- test demo
[ "$(id -u)" = 0 ] || { echo "tests/fresh.sh: needs root for chroot"; exit 2; }
cd "$(dirname "$0")/.."
top=$(pwd)
fresh=${KD_FRESH:-$top/build/fresh}
base=$fresh/$suite.base root=$fresh/$suite
cleanup() {
  umount -l "$root/proc" "$root/dev" "$root/sys" 2>/dev/null || true
}
trap cleanup EXIT
mkdir -p "$fresh"
if [ ! -e "$base/.complete" ]; then
  rm -rf "$base"
  debootstrap --variant=minbase "$suite" "$base" >"$fresh/$suite.debootstrap.log" 2>&1 ||
    { tail "$fresh/$suite.debootstrap.log"; exit 1; }
  touch "$base/.complete"
fi
cleanup
rm -rf "$root"
cp -a "$base" "$root"
[ ! -e /etc/resolv.conf ] || cp -L /etc/resolv.conf "$root/etc/resolv.conf"
[ -e "$root/etc/hosts" ] || echo "127.0.0.1 localhost" >"$root/etc/hosts"   # as an installer does; the browser's driver needs it
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount --make-rslave "$root/dev"
mount --make-rslave "$root/sys"
chroot "$root" sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends git make gcc libc6-dev ca-certificates' \
  >"$fresh/$suite.apt.log" 2>&1 || { tail "$fresh/$suite.apt.log"; exit 1; }
git clone -q --no-hardlinks "$top" "$root/root/kd"
for target; do
  echo "== $suite: make $target"
  start=$(date +%s)
  chroot "$root" sh -c "cd /root/kd && make $target" || { echo "== $suite: make $target FAILED"; exit 1; }
  echo "== $suite: make $target ok, $(($(date +%s) - start)) s"
done
