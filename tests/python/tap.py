"""Tests as sentences: each function marked @test prints one TAP line; finish() ends with the right status."""
import os
import pathlib
import subprocess
import sys
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
KD_BIN = pathlib.Path(os.environ.get("KD_BIN", ROOT / "build" / "release"))
if "KDSTORE_INSTALLED" not in os.environ:
    sys.path.insert(0, str(ROOT / "lib" / "python"))
_failed = 0


class Skip(Exception):
    pass


def test(f):
    global _failed
    sentence = f.__name__.replace("_", " ")
    try:
        f()
        print(f"ok - python: {sentence}", flush=True)
    except Skip as why:
        print(f"ok - python: {sentence} # skip {why}", flush=True)
    except Exception:
        _failed += 1
        print("# " + traceback.format_exc().replace("\n", "\n# "))
        print(f"not ok - python: {sentence}", flush=True)
    return f


def refused(kind, text, f, *args, **kwargs):
    """f must raise exactly this kind, and say this text."""
    try:
        f(*args, **kwargs)
    except Exception as e:
        assert type(e) is kind and text in str(e), f"{type(e).__name__}: {e}; wanted {kind.__name__} with {text!r}"
        return e
    raise AssertionError(f"nothing was raised; wanted {kind.__name__} with {text!r}")


def tool(name, *args):
    """A tool of kd's, which must succeed; its stdout."""
    done = subprocess.run([KD_BIN / name, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, f"{name} {args}: exit {done.returncode}: {done.stderr}"
    return done.stdout


def finish():
    sys.exit(_failed != 0)
