"""Batches of rows, and the PyTorch datasets made of them.

    torch_data.py STORE.kd FOLDER SCRATCH
"""
import pickle
import sys

import numpy as np

from tap import Skip, finish, refused, test

import kdstore
from kdstore.batches import Padded, Rows, SparseRows, epoch_batches

store = kdstore.Store(sys.argv[1])
COLUMNS = ["id", "image", "a.bf16", "a.u16", "tokens", "ragged.bf16", "enc/int8", "enc/log8", "enc/topk", "enc/sample",
           "enc/sample-many", "enc/topk-equal"]


def expected(c, row):
    """One row of the store by the plain way; {field: values}."""
    chunk = next(k for k in store.chunks if k.first <= row < k.first + k.rows)
    got, at = store.read(c, chunk), row - chunk.first
    if isinstance(got, kdstore.Sparse):
        ends = np.cumsum(got.lengths)
        return got.positions(int(ends[at] - got.lengths[at]), int(ends[at]))
    if isinstance(got, kdstore.Ragged):
        ends = np.cumsum(got.lengths)
        return got.values[ends[at] - got.lengths[at]:ends[at]]
    return got[at]


def check_row(c, batch, i, want):
    """Row i of a batch of arrays against it."""
    if isinstance(batch, Padded):
        n = int(batch.lengths[i])
        assert np.array_equal(batch.values[i][:n], want) and not batch.values[i][n:].any(), c.name
    elif isinstance(batch, SparseRows):
        single = batch.id.ndim == 2
        assert int(batch.lengths[i]) == len(want)
        for p in range(len(want)):
            a, b = int(want.offset[p]), int(want.offset[p + 1])
            at = (i,) if single else (i, p)
            n = int(batch.count[at])
            assert n == b - a
            for field in ("id", "value", "exact"):
                mine = getattr(batch, field)[at]
                assert np.array_equal(mine[:n], getattr(want, field)[a:b]) and not mine[n:].any(), (c.name, field)
            assert np.array_equal(batch.tail[at], want.tail[p]) and np.array_equal(batch.logz[at], want.logz[p])
    else:
        assert np.array_equal(batch[i], want), c.name


def check_batch(batch, index, first):
    for name, values in batch.items():
        for i, row in enumerate(index):
            check_row(store.column(name), values, i, expected(store.column(name), first + int(row)))


@test
def rows_in_any_order_are_those_of_the_store():
    dice = np.random.default_rng(4)
    for split, first in (("train", 0), ("valid", 100), (None, 0)):
        rows = Rows(store, COLUMNS, split, cache=2)
        index = dice.integers(0, len(rows), 40)
        check_batch(rows.take(index), index, first)
        check_batch(rows.take(index[:1]), index[:1], first)
    refused(kdstore.Usage, "the split has 100", Rows(store, COLUMNS).take, [100])
    refused(kdstore.NotFound, "no column 'nothing'", Rows, store, ["nothing"])
    refused(kdstore.NotFound, "no split 'tests'", Rows, store, None, "tests")


@test
def an_epoch_has_every_row_once_and_an_order_of_its_own():
    rows, orders = Rows(store, ["a.u16"]), []
    for seed, epoch, shuffle in ((1, 0, True), (1, 1, True), (2, 0, True), (1, 0, True), (1, 0, False)):
        got = list(epoch_batches(rows, 7, shuffle, seed, epoch, window=2))
        assert [len(b) for b in got] == [7] * 14 + [2]
        orders.append(np.concatenate(got))
        assert np.array_equal(np.sort(orders[-1]), np.arange(100))
    assert np.array_equal(orders[0], orders[3]) and np.array_equal(orders[4], np.arange(100))
    assert not any(np.array_equal(orders[a], orders[b]) for a, b in ((0, 1), (0, 2), (1, 2), (0, 4)))
    assert sum(map(len, epoch_batches(rows, 7, drop_last=True))) == 98


@test
def workers_and_ranks_share_the_rows():
    rows = Rows(store, ["a.u16"], None)
    split = [np.concatenate(list(epoch_batches(rows, 4, window=1, part=k, parts=3))) for k in range(3)]
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(173))
    ranks = [np.concatenate(list(epoch_batches(rows, 4, window=3, rank=k, world=2))) for k in range(2)]
    assert len(ranks[0]) == len(ranks[1]) >= 85 and len(np.unique(np.concatenate(ranks))) == 2 * len(ranks[0])
    refused(kdstore.Usage, "rank 2 of 2", next, epoch_batches(rows, 4, rank=2, world=2))


@test
def every_chunk_is_decoded_once_an_epoch():
    rows, reads = Rows(store, ["a.u16", "enc/topk"], "train", cache=4), []
    plain, store.read = store.read, lambda c, chunk: reads.append((c.name, chunk.index)) or plain(c, chunk)
    try:
        for index in epoch_batches(rows, 8, window=2):
            rows.take(index)
    finally:
        del store.read
    assert len(reads) == len(set(reads)) == 2 * len(rows.chunks), reads


@test
def a_torch_loader_gives_tensors_of_the_same_rows():
    try:
        import torch
    except ImportError:
        raise Skip("PyTorch is not installed") from None
    from kdstore.torch import KDBatches, KDDataset, as_is

    def numpy_of(v):
        if isinstance(v, tuple):
            return type(v)(*map(numpy_of, v))
        return v.view(torch.int16).numpy().view(np.uint16) if v.dtype == torch.bfloat16 else v.numpy()
    data = KDDataset(sys.argv[1], COLUMNS, "valid")
    assert len(data) == 40 and data[0]["a.bf16"].dtype == torch.bfloat16 and data[-1]["image"].shape == (12, 11)
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(data, batch_size=16, collate_fn=as_is, num_workers=workers)
        for n, batch in enumerate(loader):
            check_batch({k: numpy_of(v) for k, v in batch.items()}, np.arange(16 * n, min(16 * n + 16, 40)), 100)
    ids = [store.read_split("id", "train")[i].tobytes() for i in range(100)]
    for workers in (0, 2):
        batches = KDBatches(sys.argv[1], COLUMNS, batch=16, window=1)
        seen = []
        for epoch in range(2):
            batches.set_epoch(epoch)
            seen.append([])
            for batch in torch.utils.data.DataLoader(batches, batch_size=None, num_workers=workers):
                index = [ids.index(i.numpy().tobytes()) for i in batch["id"]]
                check_batch({k: numpy_of(v) for k, v in batch.items()}, index, 0)
                seen[-1] += index
            assert sorted(seen[-1]) == list(range(100))
        assert seen[0] != seen[1]


@test
def rows_and_stores_survive_pickling():
    rows = pickle.loads(pickle.dumps(Rows(store, COLUMNS)))
    check_batch(rows.take([3, 99]), [3, 99], 0)


finish()
