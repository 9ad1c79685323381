"""figure.py - writes one figure of the scoreboard: what bench/README.md describes, bench/results/NAME.json.

What another CPU said last is not lost: it goes to bench/results/CPU/NAME.json.
"""
import datetime
import json
import os
import platform
import re
import subprocess
from pathlib import Path


def commit():
    """The commit that is measured, "-dirty" where sources differ from it; results written meanwhile are none."""
    def git(*args):
        return subprocess.run(["git", *args], cwd=Path(__file__).resolve().parents[1], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results", ":!docs/scoreboard.md")
        return git("describe", "--always") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _versions():
    return {"kd": commit(), "kernel": platform.release()}


def _machine():
    info = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    cpu = next((v.strip() for k, v in info.items() if k.strip() == "model name"), "unknown CPU")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "mem_gb": round(pages / 2**30, 1)}


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def load(results, name):
    """The figure as last measured, or {}."""
    try:
        return json.loads((Path(results) / f"{name}.json").read_text())
    except FileNotFoundError:
        return {}


def _put_aside(results, name, cpu):
    """A figure that another CPU than this one measured, to that one's folder; this one's older figure goes."""
    def folder(cpu):
        return Path(results) / re.sub("[^a-z0-9]+", "-", cpu.lower()).strip("-")

    old = load(results, name)
    if old and old["machine"]["cpu"] != cpu:
        folder(old["machine"]["cpu"]).mkdir(exist_ok=True)
        (Path(results) / f"{name}.json").replace(folder(old["machine"]["cpu"]) / f"{name}.json")
    (folder(cpu) / f"{name}.json").unlink(missing_ok=True)


def save(results, name, value, unit, command, *, bar=None, direction="higher", peer=None, peer_value=None,
         machine=None, versions=None, details=None):
    """Replaces RESULTS/NAME.json as a whole. machine, versions: members beside or instead of the usual ones."""
    out = {"name": name, "value": value, "unit": unit, "bar": bar, "direction": direction, "peer": peer,
           "peer_value": peer_value, "command": command, "machine": {**_machine(), **(machine or {})},
           "versions": {**_versions(), **(versions or {})}, "date": now(), "details": details or {}}
    path = Path(results) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    _put_aside(results, name, out["machine"]["cpu"])
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(out, indent=2) + "\n")
    temporary.replace(path)
