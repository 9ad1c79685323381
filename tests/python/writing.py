"""Writers that are killed, run out of disk, meet each other or get what cannot be; and stores of kd's own tools.

    writing.py STORE.kd FOLDER SCRATCH          the tests
    writing.py child STORE.kd [LIMIT]           writes one store, saying what is committed
"""
import json
import os
import pathlib
import random
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np

from tap import finish, refused, test, tool

import kdstore
from kdstore import seal

CHUNKS, ROWS = 40, 64
COLUMNS = [kdstore.Column("id", "id", "u8", (16,)), kdstore.Column("split", "split", "u8"),
           kdstore.Column("x", "input", "f32", (50,)), kdstore.Column("z", "logits", "f32", (20,), "sample:n=9")]


def chunk(n):
    r = np.random.default_rng(n)
    x = r.normal(size=(ROWS, 50)).astype(np.float32)
    return {"id": kdstore.row_ids("x", x), "x": x, "z": 3 * r.normal(size=(ROWS, 20)).astype(np.float32)}


def begin(path, **more):
    return kdstore.create(path, COLUMNS, {"seed": 1}, chunk_rows=ROWS, commit_bytes=30000, **more)


def child(path, limit):
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    w = begin(path, resume=True)
    print("begun", len(w.chunks), flush=True)
    try:
        for n in range(len(w.chunks), CHUNKS):
            w.append(chunk(n), "train" if n < 30 else "test")
            print("safe", len(w.chunks) - w._pending_chunks, flush=True)
        w.seal()
    except kdstore.Full as e:
        print("full", e, flush=True)
        sys.exit(4)


def run(path, seconds=None, limit=0):
    """A child that is killed after so long. (begun, safe, exit status, what it said last)"""
    p = subprocess.Popen([sys.executable, __file__, "child", path, str(limit)], stdout=subprocess.PIPE, text=True)
    lines = [p.stdout.readline()]
    if seconds is not None:
        time.sleep(seconds)
        p.kill()
    lines += p.communicate()[0].splitlines(keepends=True)
    safe = [int(s.split()[1]) for s in lines if re.fullmatch(r"safe \d+\n", s)]  # the last one may have been cut off
    begun = int(lines[0].split()[1]) if lines[0].startswith("begun") else 0
    return begun, max(safe, default=begun), p.returncode, lines[-1]


if sys.argv[1] == "child":
    child(sys.argv[2], int(sys.argv[3]))
    sys.exit(0)

scratch = pathlib.Path(sys.argv[3])
plain = str(scratch / "plain.kd")
root = ""


@test
def an_uninterrupted_writer_makes_a_store_that_kd_verifies():
    global root
    assert run(plain)[2] == 0
    root = kdstore.Store(plain).root
    assert "whole" in tool("kd-store", "verify", plain)


@test
def killed_writers_lose_nothing_that_was_committed_and_give_the_same_root():
    dice, path, kills, before = random.Random(8), str(scratch / "killed.kd"), 0, 0
    for _ in range(40):
        begun, safe, status, _ = run(path, dice.uniform(0, 0.06))
        assert begun >= before, f"{begun} chunks are left of {before}"
        before = safe
        kills += status == -signal.SIGKILL
        if os.path.exists(path):
            break
    if not os.path.exists(path):
        assert run(path)[2] == 0
    assert kills >= 3 and kdstore.Store(path).root == root and not os.path.exists(path + ".part")


@test
def a_full_disk_is_one_sentence_and_a_resume_goes_on():
    path = str(scratch / "full.kd")
    begun, safe, status, said = run(path, limit=200000)
    assert status == 4 and "disk full" in said and f"{safe} chunks" in said and "resume=True" in said, (status, said)
    assert 0 < safe < CHUNKS
    again, _, status, _ = run(path)
    assert again == safe and status == 0 and kdstore.Store(path).root == root


@test
def a_stop_at_any_step_of_sealing_leaves_what_a_resume_finishes():
    steps = ["os.fchmod", "os.rename", "seal.fsync_folder", "seal.save"]
    for step in steps:
        path = str(scratch / f"{step}.kd")
        module = {"os": os, "seal": seal}[step.split(".")[0]]
        name = step.split(".")[1]
        real = getattr(module, name)

        def stop(*_):
            raise KeyboardInterrupt
        w = begin(path)
        for n in range(CHUNKS):
            w.append(chunk(n), "train" if n < 30 else "test")
        setattr(module, name, stop)
        try:
            w.seal()
            raise AssertionError(step)
        except KeyboardInterrupt:
            pass
        finally:
            setattr(module, name, real)
        assert not os.path.exists(path)
        with begin(path, resume=True) as w:
            assert len(w.chunks) == CHUNKS
        assert kdstore.Store(path).root == root


@test
def a_store_and_a_part_are_not_overwritten_unasked():
    refused(kdstore.Exists, "force=True", begin, plain)
    refused(kdstore.Exists, "force=True", begin, plain, resume=True)
    path = str(scratch / "half.kd")
    w = begin(path)
    w.append(chunk(0), "train")
    w.close()
    refused(kdstore.Exists, "resume=True", begin, path)
    refused(kdstore.NotFound, "never finished", kdstore.Store, path)
    e = refused(kdstore.Mismatch, "contract.seed was 1, is 2 now", kdstore.create, path, COLUMNS, {"seed": 2},
                chunk_rows=ROWS, resume=True)
    assert "force=True" in str(e)
    w = begin(path, resume=True)
    assert len(w.chunks) == 1
    w.close()
    w = kdstore.create(path, COLUMNS, {"seed": 2}, chunk_rows=ROWS, resume=True, force=True)
    assert len(w.chunks) == 0
    w.close()


@test
def a_second_writer_is_kept_out():
    path = str(scratch / "locked.kd")
    w = begin(path)
    refused(kdstore.Exists, "another process is writing it", begin, path, resume=True)
    w.close()
    begin(path, resume=True).close()


@test
def two_teachers_may_write_into_a_store_at_once():
    columns = [kdstore.Column("logits", "logits", "f32", (4,))]
    store = kdstore.Store(plain)
    values = np.arange(store.chunk_rows * 4, dtype=np.float32).reshape(-1, 4)
    writers = [kdstore.extend(plain, t, [kdstore.Column(f"{t}/logits", "logits", "f32", (4,))],
                              teacher={"fingerprint": t * 8, "params": 3}) for t in ("aa", "bb")]
    for c in store.chunks:
        for w in writers:
            w.append({f"{w.name}/logits": values[:c.rows]})
    refused(kdstore.Usage, "a chunk too many", writers[0].append, {"aa/logits": values[:1]})
    for w in writers:
        w.seal()
    now = kdstore.Store(plain)
    assert set(now.teachers) == {"aa", "bb"} and now.teachers["bb"]["fingerprint"] == "bb" * 8
    assert now.find("logits", "bb").name == "bb/logits" and store.root == root != now.root
    assert "whole" in tool("kd-store", "verify", plain)
    refused(kdstore.Exists, "segment 'aa' is already there", kdstore.extend, plain, "aa", columns)
    with kdstore.extend(plain, "aa", [kdstore.Column("aa/logits", "logits", "f32", (4,))], force=True) as w:
        for c in w.todo():
            w.append({"aa/logits": values[:c.rows] + 1})
    assert kdstore.Store(plain).read("aa/logits", 0)[0, 0] == 1
    assert "whole" in tool("kd-store", "verify", plain)


@test
def what_cannot_be_is_refused_by_name():
    w = begin(str(scratch / "bad.kd"))
    good = chunk(0)
    for kind, text, blocks, split in (
            (kdstore.Usage, "z are missing", {k: v for k, v in good.items() if k != "z"}, "train"),
            (kdstore.Usage, "is of split 'tests'", good, "tests"),
            (kdstore.Usage, "values of shape (64, 49)", {**good, "x": good["x"][:, :49]}, "train"),
            (kdstore.Usage, "the column is u8", {**good, "id": good["x"][:, :16]}, "train"),
            (kdstore.Usage, "row 3 says 2", {**good, "split": np.array([0, 0, 0, 2] * 16)}, "train"),
            (kdstore.Numeric, "row 5 of the chunk, position 0, class 7",
             {**good, "z": np.where(np.arange(1280).reshape(64, 20) == 107, np.nan, good["z"])}, "train"),
            (kdstore.Usage, "a Sparse for a dense column", {**good, "x": kdstore.Sparse(50, [0], [], [], [])}, "train")):
        refused(kind, text, w.append, blocks, split)
    w.append(good, "train")
    w.close()
    c = kdstore.Column
    for kind, text, wrong in (
            (kdstore.Usage, "one column of role id", COLUMNS[1:]),
            (kdstore.Usage, "two columns are called 'x'", COLUMNS + [COLUMNS[2]]),
            (kdstore.Usage, "its name must be", COLUMNS + [c("X y", "input")]),
            (kdstore.Usage, "unknown dtype", COLUMNS + [c("y", "input", "f8")]),
            (kdstore.Unsupported, "unknown encoding 'wavelet'", COLUMNS + [c("y", "logits", shape=(3,), encoding="wavelet")]),
            (kdstore.Usage, "step is 2", COLUMNS + [c("y", "logits", shape=(3,), encoding="log8:step=2")]),
            (kdstore.Usage, "needs dtype f32", COLUMNS + [c("y", "logits", "f16", (3,), "int8")]),
            (kdstore.Usage, "filter exponent needs dtype bf16", COLUMNS + [c("y", "input", "f16", filter="exponent")]),
            (kdstore.Usage, "the role mask needs u8", COLUMNS + [c("y", "mask", "u8")]),
            (kdstore.Usage, "zstd level 22", COLUMNS + [c("y", "input", level=22)])):
        refused(kind, text, kdstore.create, str(scratch / "wrong.kd"), wrong)
    with_half = kdstore.create(str(scratch / "half16.kd"), COLUMNS[:2] + [c("h", "logits", "f16", (2,))])
    refused(kdstore.Numeric, "does not fit into float16", with_half.append,
            {"id": good["id"][:1], "h": np.array([[1e6, 0]], np.float32)}, "train")
    with_half.close()


@test
def targets_that_were_picked_elsewhere_come_back_as_given():
    path, rows = str(scratch / "picked.kd"), 8
    column = kdstore.Column("t/top", "logits", "f32", (-1, 1000), "topk:k=6")
    lengths = np.array([3, 0, 1, 2, 4, 1, 1, 2], np.uint32)
    n = int(lengths.sum())
    r = np.random.default_rng(3)
    count = r.integers(0, 7, n)
    id = np.concatenate([np.sort(r.choice(1000, k, replace=False)) for k in count])
    value = -r.uniform(0, 9, len(id)).astype(np.float32)
    tail, logz = r.uniform(0, 1, (n, 1)).astype(np.float32), r.uniform(0, 9, (n, 1)).astype(np.float32)
    given = kdstore.Sparse(1000, np.concatenate([[0], np.cumsum(count)]), id, value, np.ones(len(id), bool), (1.0,), tail, logz)
    with kdstore.create(path, COLUMNS[:2] + [column], extra={"tokenizer": "0f" * 16}) as w:
        w.append({"id": chunk(0)["id"][:rows], "t/top": (given, lengths)}, "train")
    s = kdstore.Store(path)
    got = s.read("t/top", 0)
    assert np.array_equal(got.lengths, lengths) and np.array_equal(got.id, id) and np.array_equal(got.offset, given.offset)
    assert np.abs(got.value - value).max() <= 1 / 32 + 1e-3
    assert np.allclose(got.tail, tail, rtol=1e-3)
    assert s.manifest["segments"][0]["tokenizer"] == "0f" * 16
    assert "whole" in tool("kd-store", "verify", path)
    w = kdstore.create(str(scratch / "picked2.kd"), COLUMNS[:3] + [COLUMNS[3]])
    refused(kdstore.Unsupported, "not made of sparse targets", w.append,
            {**{k: v[:1] for k, v in chunk(0).items()}, "z": kdstore.Sparse(20, [0, 0], [], [], [])}, "train")
    w.close()


@test
def kd_dump_gives_rows_the_ids_that_row_ids_gives_them():
    x = np.random.default_rng(5).integers(0, 255, (500, 6, 6), np.uint8)
    np.save(scratch / "x.npy", x)
    np.save(scratch / "y.npy", np.arange(500) % 7)
    path = scratch / "dumped.kd"
    tool("kd-dump", "--train-input", scratch / "x.npy", "--train-label", scratch / "y.npy", "-o", path)
    s = kdstore.Store(path)
    images = s.read_split("image", None)
    assert np.array_equal(np.sort(images.reshape(500, -1), axis=0), np.sort(x.reshape(500, -1), axis=0))
    assert np.array_equal(s.read_split("id", None), kdstore.row_ids("image", images))
    with kdstore.extend(path, "mine", [kdstore.Column("mine/feat.last", "feature", "bf16", (36,), tap="last")]) as w:
        for c in w.todo():
            w.append({"mine/feat.last": s.read("image", c).reshape(-1, 36) / np.float32(255)})
    assert json.loads(tool("kd-store", "stat", path, "--json"))["columns"][-1]["filter"] == "exponent"
    assert "whole" in tool("kd-store", "verify", path)


finish()
