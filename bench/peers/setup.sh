#!/bin/sh
# Makes a virtual environment of bench peers: those of `make bench` in build/peers/venv by default,
#
#   bench/peers/setup.sh [FOLDER [NAME]]
#
# with the packages of NAME.txt (requirements; requirements-store for the store's peers) and, without their
# dependencies, those of NAME-alone.txt, where there is one.
#
# The stamp FOLDER/ready is written last, with the requirements it stands for; a second call does
# nothing. Everything comes from PyPI (PyTorch's wheel there brings its GPU libraries along, about 6 GB
# unpacked); PIP_ARGS adds arguments to pip, for example another index with CPU-only wheels.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:-build/peers/venv}
wanted=$here/${2:-requirements}
lists=$wanted.txt
alone=
[ ! -f "$wanted-alone.txt" ] || { alone=$wanted-alone.txt; lists="$lists $alone"; }
python=${PYTHON:-python3}

# shellcheck disable=SC2086 # lists of words, here and below
if [ -f "$venv/ready" ] && cat $lists | cmp -s - "$venv/ready"; then exit 0; fi

missing=
command -v "$python" >/dev/null || missing="$missing python3"
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
# torch.compile builds C++ with Python's headers.
if grep -q '^torch' "$wanted.txt"; then
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
    2>/dev/null || missing="$missing python3-dev"
  command -v g++ >/dev/null || missing="$missing g++"
fi
if [ -n "$missing" ]; then
  echo "bench/peers/setup.sh: missing:$missing; run: apt-get install$missing" >&2
  exit 2
fi

echo "installing the bench peers into $venv"
rm -rf "$venv"
mkdir -p "$(dirname "$venv")"
"$python" -m venv "$venv"
pip="$venv/bin/pip install -q --disable-pip-version-check ${PIP_ARGS:-}"
# shellcheck disable=SC2086
if ! $pip -r "$wanted.txt" || { [ -n "$alone" ] && ! $pip --no-deps -r "$alone"; }; then
  echo "bench/peers/setup.sh: pip could not install $lists; check the network, or set PIP_ARGS" >&2
  exit 1
fi
# shellcheck disable=SC2086
cat $lists >"$venv/ready.tmp"
mv "$venv/ready.tmp" "$venv/ready"
