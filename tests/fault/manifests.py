#!/usr/bin/python3
"""manifests.py - manifests that lie: every tool says one line and ends with a documented exit code.

    manifests.py KD_BIN STORE

Each case changes the manifest of a copy of STORE and signs it again, so that its checksum is right and only
its content is not. kd-store stat and verify must refuse it, in one line, without a signal.

Prints TAP lines.
"""
import copy
import json
import os
import re
import shutil
import subprocess
import sys

import xxhash

KEY = '"checksum": "'


def sign(manifest):
    """The manifest's text with its checksum over the text in which its digits are zeros."""
    manifest = copy.deepcopy(manifest)
    manifest.pop("checksum", None)
    manifest["checksum"] = "0" * 32
    text = json.dumps(manifest, indent=2) + "\n"
    return text.replace(KEY + "0" * 32, KEY + xxhash.xxh3_128_hexdigest(text.encode()))


def at(m, path):
    for key in path[:-1]:
        m = m[key]
    return m, path[-1]


def put(*path_and_value):
    *path, value = path_and_value

    def change(m):
        inside, key = at(m, path)
        inside[key] = value
    return change


def drop(*path):
    def change(m):
        inside, key = at(m, path)
        del inside[key]
    return change


def twice(*path):
    def change(m):
        inside, key = at(m, path)
        inside[key].append(copy.deepcopy(inside[key][0]))
    return change


SEGMENT, COLUMN = ("segments", 0), ("segments", 0, "columns", 2)
CASES = {
    "it is of another version": put("format", 2),
    "its format is no number": put("format", "1"),
    "it has no segments": put("segments", []),
    "segments is no list": put("segments", {"name": "base"}),
    "a segment is no object": put("segments", 0, 7),
    "a segment has no file": drop(*SEGMENT, "file"),
    "a segment's file is elsewhere": put(*SEGMENT, "file", "../victim/base.mdb"),
    "a segment's file is absolute": put(*SEGMENT, "file", "/etc/passwd"),
    "a segment's file is the manifest": put(*SEGMENT, "file", "manifest.json"),
    "a segment's file is not there": put(*SEGMENT, "file", "gone.mdb"),
    "a segment's name is long": put(*SEGMENT, "name", "n" * 5000),
    "a segment's name is not of letters": put(*SEGMENT, "name", "a\nb\x1b[31m"),
    "a segment has negative bytes": put(*SEGMENT, "bytes", -1),
    "a segment has 2^62 bytes": put(*SEGMENT, "bytes", 1 << 62),
    "a segment's root is no hash": put(*SEGMENT, "root", "g" * 32),
    "a segment's root is another": put(*SEGMENT, "root", "0" * 32),
    "a segment's header is another": put(*SEGMENT, "header", "0" * 16),
    "two segments are the same": twice("segments"),
    "it has no columns": put(*SEGMENT, "columns", []),
    "it has 300 columns": put(*SEGMENT, "columns", [{}] * 300),
    "a column is no object": put(*COLUMN, None),
    "two columns are the same": twice(*SEGMENT, "columns"),
    "a column has no name": drop(*COLUMN, "name"),
    "a column has another name": put(*COLUMN, "name", "other"),
    "a column has another type": put(*COLUMN, "dtype", "f64"),
    "a column has a type nobody knows": put(*COLUMN, "dtype", "f7"),
    "a column has a role nobody knows": put(*COLUMN, "role", "king"),
    "a column has a codec nobody knows": put(*COLUMN, "encoding", "zip"),
    "a column is encoded with a wrong type": put(*COLUMN, "encoding", "int8"),
    "a column has seven axes": put(*COLUMN, "shape", [1] * 7),
    "a column's shape overflows": put(*COLUMN, "shape", [2147483647] * 6),
    "a column's axis is 0": put(*COLUMN, "shape", [0]),
    "a column's axis is negative": put(*COLUMN, "shape", [3, -1]),
    "a column's level is 99": put(*COLUMN, "level", 99),
    "a column's params are a list": put(*COLUMN, "params", []),
    "a codebook has no size": put(*COLUMN, "book", "0" * 16),
    "chunks is no list": put("chunks", 3),
    "there are no chunks": put("chunks", []),
    "there are 4 billion chunks": put("chunks", 0, "count", 4294967290),
    "a chunk has no rows": put("chunks", 0, "rows", 0),
    "a chunk has too many rows": put("chunks", 0, "rows", 1 << 40),
    "a chunk has a split nobody knows": put("chunks", 0, "split", "dev"),
    "its chunks are cut otherwise": put("chunks", 0, "rows", 1),
    "it has too many rows": put("rows", 1 << 50),
    "its rows are no whole number": put("rows", 1.5),
    "a split has other rows": put("splits", "train", 1),
    "its chunk_rows are 2^31": put("chunk_rows", 1 << 31),
    "its root is another": put("root", "0" * 32),
    "it has no root": drop("root"),
}
TEXTS = {
    "it is empty": "",
    "it is no JSON": "{",
    "it is a list": "[]",
    "it is nested 100,000 deep": "[" * 100000,
    "it has a member twice": '{"format": 1, "format": 1}',
    "it has a number without end": '{"format": ' + "9" * 5000 + "}",
    "it is not UTF-8": b'{"format": 1, "kd": "\xff\xfe"}',
    "it has zeros in it": b'{"format": 1,\0 "kd": ""}',
}


def judge(kd_store, verb, folder):
    """What is wrong with the answer, or None."""
    p = subprocess.run([kd_store, verb, folder], stdin=subprocess.DEVNULL, capture_output=True)
    if p.returncode not in (2, 3):
        return f"{verb} ended with {p.returncode}: {p.stderr[:200]!r}"
    lines = p.stderr.decode("utf-8", "replace").splitlines()
    if len(lines) != 1 or not lines[0].startswith("kd-store: ") or re.search(r"[\x00-\x08\x0b-\x1f]", lines[0]):
        return f"{verb} said {p.stderr[:300]!r}"
    return None


def main():
    kd_bin, store = sys.argv[1:]
    kd_store = os.path.join(kd_bin, "kd-store")
    with open(os.path.join(store, "manifest.json")) as f:
        manifest = json.load(f)
    victim = os.path.join(os.path.dirname(os.path.abspath(store)), "victim")
    shutil.copytree(store, victim)
    path = os.path.join(victim, "manifest.json")
    cases = {}
    for name, change in CASES.items():
        m = copy.deepcopy(manifest)
        change(m)
        cases[name] = sign(m).encode()
    cases |= {name: text if isinstance(text, bytes) else text.encode() for name, text in TEXTS.items()}
    bad = 0
    with open(path, "wb") as f:
        f.write(sign(manifest).encode())
    if subprocess.run([kd_store, "verify", victim], capture_output=True).returncode:
        print("not ok - a manifest that was signed again is accepted")
        bad += 1
    else:
        print("ok - a manifest that was signed again is accepted")
    for name, text in cases.items():
        with open(path, "wb") as f:
            f.write(text)
        problem = judge(kd_store, "stat", victim) or judge(kd_store, "verify", victim)
        print(f"{'not ok' if problem else 'ok'} - refused in one line: {name}")
        if problem:
            print(f"# {problem}")
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
