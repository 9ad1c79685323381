"""A store that the C library wrote (tests/unit/make_store.c) is read, and written again byte for byte.

    same_bytes.py STORE.kd FOLDER SCRATCH
"""
import pathlib
import sys

import numpy as np

from tap import finish, test, tool

import kdstore
from kdstore import codecs

path, folder, scratch = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
store = kdstore.Store(path)
EXTRA = {"teacher": {"name": "big", "fingerprint": "none"}}


def raw(column, what, dtype):
    return np.fromfile(folder / f"{column.name.replace('/', '_')}.{what}", dtype)


def put_in():
    """What each column was given: (values, lengths) chunk by chunk."""
    out = {}
    for c in store.columns.values():
        values = raw(c, "values", c.numpy).reshape((-1,) + c.inner)
        lengths = raw(c, "lengths", "<u4") if c.ragged else None
        out[c.name], at = [], 0
        for chunk in store.chunks:
            mine = None if lengths is None else lengths[chunk.first:chunk.first + chunk.rows]
            n = chunk.rows if mine is None else int(mine.sum())
            out[c.name].append((values[at:at + n], mine))
            at += n
        assert at == len(values), c.name
    return out


given = put_in()


def same(name, got, want):
    assert got.dtype == want.dtype and got.shape == want.shape, f"{name}: {got.dtype} {got.shape}, {want.dtype} {want.shape}"
    assert got.tobytes() == want.tobytes(), f"{name}: {np.flatnonzero(got.reshape(-1) != want.reshape(-1))[:5]} differ"


@test
def every_dense_column_comes_back_as_it_was_written():
    for c in store.columns.values():
        if not c.dense:
            continue
        for chunk, (values, lengths) in zip(store.chunks, given[c.name]):
            got = store.read(c, chunk)
            same(c.name, got.values if c.ragged else got, values)
            if c.ragged:
                same(c.name, got.lengths, lengths)


@test
def every_codec_decodes_to_the_very_bits_of_the_C_library():
    seen = set()
    for c in store.columns.values():
        if c.dense:
            continue
        seen.add(c.encoding)
        got = [store.read(c, chunk) for chunk in store.chunks]
        if not codecs.ALL[c.encoding].sparse:
            flat = np.concatenate([(g.values if c.ragged else g).reshape(-1) for g in got])
            same(c.name, flat, raw(c, "f32", "<f4"))
            continue
        t = len(got[0].temperatures)
        for what, dtype in (("offset", "<u8"), ("id", "<u4"), ("value", "<f4"), ("exact", "u1"), ("tail", "<f4"),
                            ("logz", "<f4")):
            parts = [np.asarray(getattr(g, what)).reshape(-1) for g in got]
            same(f"{c.name} {what}", np.concatenate(parts).view("u1" if what == "exact" else dtype), raw(c, what, dtype))
        assert t == len(codecs.open_column(c).temperatures)
    assert seen == set(codecs.ALL), seen


@test
def every_codec_writes_the_very_bytes_of_the_C_library():
    ids = [store.read("id", chunk) for chunk in store.chunks]
    for c in store.columns.values():
        if c.dense:
            continue
        codec, (g, place) = store.codec(c), (store._segments[c.segment], store._segments[c.segment].place[c.name])
        for chunk, id, (values, lengths) in zip(store.chunks, ids, given[c.name]):
            want, _ = store._block(c, chunk)
            each = np.full(chunk.rows, c.each) if lengths is None else lengths.astype(np.int64) * c.each
            block = codecs.Block(np.ascontiguousarray(values.reshape(-1, c.width)), each, id)
            assert codec.encode(block) == want.tobytes(), f"{c.name}, chunk {chunk.index}"


@test
def codebooks_are_learned_to_the_very_bytes():
    for c in store.columns.values():
        if c.book:
            given_as = f"{c.encoding}:k=5" if c.encoding == "topk" else c.encoding
            assert kdstore.learn(given_as, raw(c, "sample", "<f4").reshape(-1, c.width)) == c.book, c.name


def columns_of(segment):
    return [kdstore.Column(c.name, c.role, c.dtype, c.shape, spelled(c), book=c.book, teacher=c.teacher)
            for c in store.columns.values() if c.segment == segment]


def spelled(c):
    """As a command line would have it."""
    if c.dense:
        return c.encoding
    pairs = [f"{k}={'+'.join(map(str, v)) if isinstance(v, list) else v}" for k, v in c.params["codec"].items()]
    return c.encoding + (":" + ",".join(pairs) if pairs else "")


def written(to, threads):
    contract = {"source": "fixture", "seed": 7, "options": {"valid": 0.2, "shuffle": True}}

    def blocks(columns, chunk):
        pick = {c.name: given[c.name][chunk.index] for c in columns}
        return {c.name: pick[c.name] if c.ragged else pick[c.name][0] for c in columns}
    base, more = columns_of("base"), columns_of("enc")
    with kdstore.create(to, base, contract, chunk_rows=32, commit_bytes=20000, threads=threads) as w:
        for chunk in store.chunks:
            w.append(blocks(base, chunk), chunk.split)
    with kdstore.extend(to, "enc", more, teacher=EXTRA["teacher"], commit_bytes=20000, threads=threads) as w:
        for chunk in w.todo():
            w.append(blocks(more, chunk))


@test
def a_store_of_the_same_rows_has_the_same_roots():
    for threads in (1, 3):
        to = scratch / f"p{threads}.kd"
        written(to, threads)
        mine = kdstore.Store(to)
        for a, b in zip(mine.manifest["segments"], store.manifest["segments"]):
            assert a["root"] == b["root"], f"segment {a['name']}: root {a['root']}, the C library's is {b['root']}"
        assert mine.root == store.root


@test
def kd_store_verify_finds_it_whole():
    assert "whole" in tool("kd-store", "verify", scratch / "p1.kd")
    assert store.root in tool("kd-store", "stat", scratch / "p1.kd", "--json")


finish()
