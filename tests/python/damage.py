"""Damaged stores: what Python says of flipped bits in every record, of cut files and of edited manifests.

    damage.py STORE.kd FOLDER SCRATCH
"""
import json
import os
import pathlib
import random
import shutil
import sys

import numpy as np

from tap import finish, refused, test

import kdstore
from kdstore import codecs, manifest, marks, records

whole = kdstore.Store(sys.argv[1])
copy = pathlib.Path(sys.argv[3]) / "damaged.kd"
shutil.copytree(sys.argv[1], copy)
for f in copy.iterdir():
    f.chmod(0o644)
dice = random.Random(20)


class flipped:
    """One bit of a file is another one for a while."""

    def __init__(self, path, at):
        self.fd, self.at, self.bit = os.open(path, os.O_RDWR), at, 1 << dice.randrange(8)

    def turn(self):
        os.pwrite(self.fd, bytes([os.pread(self.fd, 1, self.at)[0] ^ self.bit]), self.at)

    def __enter__(self):
        self.turn()

    def __exit__(self, *_):
        self.turn()
        os.close(self.fd)


def segments():
    for entry in whole.manifest["segments"]:
        yield copy / entry["file"], whole._segments[entry["name"]]


@test
def a_flipped_bit_in_any_record_is_found_and_named():
    for path, g in segments():
        for i, (at, size) in enumerate(zip(g.offset.tolist(), g.size.tolist())):
            with flipped(path, at + dice.randrange(size)):
                if i < g.heads:  # header record and codebooks are read when the store is opened
                    refused(kdstore.Damaged, str(path), kdstore.Store, copy)
                    continue
                chunk, k = divmod(i - g.heads, len(g.columns))
                with kdstore.Store(copy) as s:
                    refused(kdstore.Damaged, f"column {g.columns[k].name}, chunk {chunk}, rows {whole.chunks[chunk].first}-",
                            s.read, g.columns[k].name, chunk)


@test
def a_flipped_bit_anywhere_else_changes_no_value():
    found = 0
    for path, g in segments():
        used = np.zeros(path.stat().st_size, bool)
        for at, size in zip(g.offset.tolist(), g.size.tolist()):
            used[at:at + size] = True
        for at in dice.sample(np.flatnonzero(~used).tolist(), 150):
            with flipped(path, at):
                try:
                    with kdstore.Store(copy) as s:
                        for c in g.columns[:4]:
                            assert np.asarray(s._block(s.column(c.name), s.chunks[0])[0]).tobytes() == \
                                np.asarray(whole._block(c, whole.chunks[0])[0]).tobytes()
                except kdstore.Error:
                    found += 1
    assert found > 0


@test
def a_file_that_was_cut_is_refused_at_once():
    path = copy / "enc.mdb"
    data = path.read_bytes()
    for size in (0, 100, 4096, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        refused(kdstore.Damaged, "enc.mdb", kdstore.Store, copy)
    path.write_bytes(data)
    kdstore.Store(copy).close()


@test
def a_missing_file_or_store_is_refused_by_name():
    (copy / "enc.mdb").rename(copy / "away")
    refused(kdstore.NotFound, "segment 'enc'", kdstore.Store, copy)
    (copy / "away").rename(copy / "enc.mdb")
    refused(kdstore.NotFound, "no such store", kdstore.Store, "nothing.kd")
    refused(kdstore.NotFound, "no manifest.json", kdstore.Store, copy.parent)


@test
def every_flipped_bit_of_the_manifest_is_found():
    path = copy / "manifest.json"
    size = path.stat().st_size
    for at in dice.sample(range(size - 2), 300):
        with flipped(path, at):
            try:
                kdstore.Store(copy)
            except kdstore.Error:
                continue
            raise AssertionError(f"byte {at} of manifest.json")


def edited(change):
    """The manifest with a change and a right checksum."""
    m = json.loads((copy / "manifest.json").read_text())
    before = (copy / "manifest.json").read_bytes()
    change(m)
    manifest.save(m, str(copy))
    return before


@test
def a_manifest_that_says_something_else_is_refused():
    def column(m, **to):
        m["segments"][0]["columns"][2].update(to)

    def claim(m, chunks):
        m["segments"][0].update(bytes=100 * chunks)
        m["chunks"][0].update(count=chunks)
    for kind, text, change in (
            (kdstore.Mismatch, "store format 2", lambda m: m.update(format=2)),
            (kdstore.Damaged, "chunks add up to", lambda m: m.update(rows=m["rows"] + 1)),
            (kdstore.Damaged, "rows of split", lambda m: m["splits"].update(train=1)),
            (kdstore.Damaged, "not allowed", lambda m: m["segments"][0].update(file="../base.mdb")),
            (kdstore.Damaged, "describes other columns", lambda m: column(m, dtype="i8")),
            (kdstore.Damaged, "unknown dtype", lambda m: column(m, dtype="u7")),
            (kdstore.Damaged, "filter exponent", lambda m: column(m, filter="exponent")),
            (kdstore.Damaged, "an axis must be", lambda m: column(m, shape=[3, -1])),
            (kdstore.Damaged, "larger than 1 GiB", lambda m: column(m, shape=[1 << 30, 1 << 30])),
            (kdstore.Damaged, "more chunks than", lambda m: m["chunks"][0].update(count=1 << 31)),
            (kdstore.Damaged, "more than its files can hold", lambda m: claim(m, 1 << 21)),
            (kdstore.Damaged, "'segments' is not a list", lambda m: m.update(segments=[]))):
        before = edited(change)
        refused(kind, text, kdstore.Store, copy)
        (copy / "manifest.json").write_bytes(before)


@test
def a_record_of_another_place_or_segment_is_refused():
    g = whole._segments["base"]
    path = copy / "base.mdb"
    data = path.read_bytes()
    n = len(g.columns)
    one = next(i for i in range(g.heads, g.heads + n) if g.size[i] == g.size[i + n])
    a, b, size = int(g.offset[one]), int(g.offset[one + n]), int(g.size[one])
    path.write_bytes(data[:a] + data[b:b + size] + data[a + size:])
    with kdstore.Store(copy) as s:
        refused(kdstore.Damaged, "expected column", s.read, g.columns[one - g.heads].name, 0)
    path.write_bytes(data)


@test
def blocks_of_any_bytes_are_refused_or_decode_to_finite_numbers():
    counts = {}
    for c in whole.columns.values():
        if c.dense:
            continue
        codec = whole.codec(c)
        data, lengths = whole._block(c, whole.chunks[0])
        rows = whole.chunks[0].rows
        positions = rows * c.each if lengths is None else int(lengths.sum()) * c.each
        taken = refusals = 0
        for k in range(60):
            bad = np.array(data)
            if k % 3 == 2:
                bad = bad[:dice.randrange(len(bad))]
            else:
                for _ in range(1 + k % 4):
                    bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
            try:
                if codec.sparse:
                    got = codec.read_sparse(bad, positions)
                    assert len(got) == positions and (not got.entries or int(got.id.max()) < c.width)
                    numbers = np.concatenate([got.value, got.tail.reshape(-1), got.logz.reshape(-1)])
                else:
                    numbers = codec.decode(bad, positions)
                assert np.isfinite(numbers).all(), c.name
                taken += 1
            except kdstore.Damaged:
                refusals += 1
        counts[c.encoding] = (taken, refusals)
    assert all(r > 0 for _, r in counts.values()), counts
    assert set(counts) == set(codecs.ALL)


DRAWN = bytes.fromhex("000007090000" "000008080000" "000005060000" "00000102")
MARKED = bytes.fromhex("00 06" "01" "0c" "0709080805060102")  # docs/store-format.md


@test
def marked_bytes_are_the_documented_ones_and_come_back():
    assert marks.write(DRAWN) == MARKED and marks.read(MARKED, len(DRAWN)).tobytes() == DRAWN
    numbers = np.random.default_rng(5)
    for n in [*range(1, 140), 511, 512, 513, 4099, 70001]:
        for line in (1, 5, 28, 64, 100):
            ink = numbers.integers(0, 256, n) * (np.arange(n) % line < line / 3) + line
            raw = ink.astype("u1").tobytes()
            marked = marks.write(raw)
            assert marked is None or marks.read(marked, n).tobytes() == raw, (n, line)
    assert marks.write(b"") is None and marks.write(bytes(range(256))) is None


@test
def marked_bytes_that_lie_are_refused():
    def read(payload):
        return marks.read(payload, len(DRAWN))
    for text, payload in (
            ("0 bytes cannot be the marks of 22", b""),
            ("2 bytes cannot be the marks of 22", MARKED[:2]),
            ("3 bytes cannot be the marks of 22, 1 of them kept", MARKED[:3]),
            ("32 bytes cannot be the marks of 22, 1 of them kept", MARKED + bytes(20)),
            ("stride of 65, the limit is 64", MARKED[:1] + b"\x41" + MARKED[2:]),
            ("marks beyond the block's 22 bytes", MARKED[:2] + b"\x09" + MARKED[3:]),
            ("as many marks as marked bytes", MARKED[:-1]),
            ("as many marks as marked bytes", MARKED + b"1"),
            ("as many marks as marked bytes", MARKED[:3] + b"\x0e" + MARKED[4:]),
            ("as many marks as marked bytes", b"\x00\x00\x05\x0c\x40" + MARKED[4:])):
        refused(kdstore.Damaged, text, read, payload)
    whole = bytearray(records.pack(DRAWN, 3, dtype=1)[0])
    assert records.check_whole(whole).codec == records.MARKS
    whole[8], whole[56:64] = 3, bytes(8)
    whole[56:64] = records.hash64(whole).to_bytes(8, "little")
    refused(kdstore.Damaged, "codec 3, this package reads 0 to 2", records.check_whole, whole)


@test
def a_record_does_not_promise_more_than_a_block_may_have():
    buffer, _ = records.pack(bytes(1000), 3)
    buffer[32:40] = (1 << 40).to_bytes(8, "little")
    refused(kdstore.Damaged, "over the limit", records.check_whole, buffer)


finish()
