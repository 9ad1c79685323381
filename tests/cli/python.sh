#!/bin/sh
# The Python package on the stores of the C library and the other way round. Debian's own Python: the package's
# dependencies are DEPS of the Makefile.
. "$(dirname "$0")/common"
tests=$(cd "$(dirname "$0")/../python" && pwd)
python=/usr/bin/python3
export KD_BIN PYTHONDONTWRITEBYTECODE=1 TMPDIR="$work"

# Each prints TAP lines of its own; one that ends badly without a "not ok" is a failure here.
run() {
  "$python" -W error "$tests/$1" "$work/c.kd" "$work/raw" "$work/scratch" >"$work/log" 2>&1 </dev/null
  rc=$?
  cat "$work/log"
  if [ $rc -ne 0 ]; then
    grep -q '^not ok' "$work/log" || echo "not ok - $1 ended with status $rc"
    failures=$((failures + 1))
  fi
}

mkdir "$work/raw" "$work/scratch"
check "a store of every type and encoding is written" "$KD_BIN/tests/unit/make_store" "$work/c.kd" "$work/raw"
for t in same_bytes.py encodings.py damage.py writing.py torch_data.py guide.py; do run $t; done

# The package's own XXH3, for where the module is missing: the same roots.
mkdir "$work/without" "$work/scratch2"
echo 'raise ImportError' >"$work/without/xxhash.py"
check "without the module xxhash everything is the same" \
  env PYTHONPATH="$work/without" "$python" "$tests/same_bytes.py" "$work/c.kd" "$work/raw" "$work/scratch2"

# Installed, as its README says, without looking anything up on the net.
venv() {
  "$python" -m venv --system-site-packages "$work/venv" &&
    "$work/venv/bin/pip" install -q --no-index --no-build-isolation --no-deps "$work/package"
}
cp -r "$tests/../../lib/python" "$work/package"
check "pip installs it" venv
check "the installed package reads a store" "$work/venv/bin/python" -c \
  "import kdstore, sys; sys.exit('venv' not in kdstore.__file__ or kdstore.Store('$work/c.kd').rows != 173)"
finish
