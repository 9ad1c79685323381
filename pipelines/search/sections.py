#!/usr/bin/env python3
"""Which section of Debian a package is in, from its one-line description.

    pipelines/search/sections.py FOLDER [--rows N] [--from FILE]

Reads what `apt-cache dumpavail` prints (or FILE, a copy of it), every package once, in its newest listing's words.
FOLDER receives train.tsv (text, label; one package a line, each description once), classes.txt (a name for each
label, in order) and source.sha256 of what was read. Sections with fewer than 100 packages are left out.
The list of packages is that of the machine's apt sources: figures of two machines compare if
source.sha256 is the same.
"""
import argparse
import collections
import hashlib
import os
import subprocess
import sys

LEAST = 100


def fail(text):
    sys.exit(f"kd: {text}")


def listing(path):
    if path:
        try:
            with open(path, "rb") as f:
                return f.read()
        except OSError as e:
            fail(f"{path}: {e.strerror}")
    try:
        out = subprocess.run(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as e:
        fail(f"apt-cache dumpavail: {e}; it needs Debian's apt")
    if not out.strip():
        fail("apt-cache dumpavail lists no packages; update it: apt-get update")
    return out


def packages(text):
    """(name, section, description) of each paragraph that has them; continued lines are not needed."""
    for paragraph in text.split("\n\n"):
        field = {}
        for line in paragraph.split("\n"):
            if not line.startswith((" ", "\t")) and ": " in line:
                key, value = line.split(": ", 1)
                field.setdefault(key, value)
        if all(k in field for k in ("Package", "Section", "Description")):
            yield field["Package"], field["Section"].split("/")[-1], " ".join(field["Description"].split())


def field(text):
    """Quoted as RFC 4180 has it where it begins with a quote."""
    return '"' + text.replace('"', '""') + '"' if text.startswith('"') else text


def write(folder, name, lines):
    path = os.path.join(folder, name)
    with open(path + ".part", "w", encoding="utf-8") as f:
        f.writelines(line + "\n" for line in lines)
    os.replace(path + ".part", path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("--rows", type=int, default=0, help="0: all")
    p.add_argument("--from", dest="path", help="a file in place of apt-cache dumpavail")
    args = p.parse_args()
    raw = listing(args.path)
    newest = {name: (section, text) for name, section, text in packages(raw.decode("utf-8", "replace"))}
    count = collections.Counter(section for section, _ in newest.values())
    classes = sorted(s for s, n in count.items() if n >= LEAST)
    if len(classes) < 2:
        fail(f"{len(classes)} sections with {LEAST} packages or more, expected several: is the list of packages whole?")
    rows = sorted({(hashlib.sha256(text.encode()).hexdigest(), text, classes.index(section))
                   for section, text in newest.values() if section in classes})
    if args.rows:
        rows = rows[:args.rows]
    os.makedirs(args.folder, exist_ok=True)
    write(args.folder, "train.tsv", ["text\tlabel"] + [f"{field(text)}\t{label}" for _, text, label in rows])
    write(args.folder, "classes.txt", classes)
    write(args.folder, "source.sha256", [hashlib.sha256(raw).hexdigest()])
    print(f"{len(rows)} texts, {len(classes)} sections")


if __name__ == "__main__":
    main()
