"""Stores as PyTorch datasets.

    from kdstore.torch import KDBatches
    data = KDBatches("mnist.kd", ["image", "label", "big/logits"], batch=128)
    for epoch in range(10):
        data.set_epoch(epoch)
        for b in torch.utils.data.DataLoader(data, batch_size=None, num_workers=2):
            loss = f(model(b["image"]), b["label"], b["big/logits"])

KDBatches yields whole batches and decodes every chunk once an epoch; KDDataset gives rows by their numbers. What a column
becomes: fixed shapes a tensor, ragged columns Padded(values, lengths), sparse ones SparseRows, all of tensors.
"""
import numpy as np
import torch

from .batches import Padded, Rows, SparseRows, epoch_batches
from .store import Store

_AS = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}  # torch has few functions for these


def tensor(values, bf16=False):
    """A tensor of an array; unsigned integers in a signed type that holds them (u64 modulo 2^64)."""
    if isinstance(values, (Padded, SparseRows)):
        return type(values)(*(tensor(v, bf16 and i == 0) for i, v in enumerate(values)))
    if bf16:
        return torch.from_numpy(np.ascontiguousarray(values).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(values, _AS.get(values.dtype.name)))


def as_is(batch):
    """collate_fn for a DataLoader over a KDDataset, which makes batches itself."""
    return batch


class KDDataset(torch.utils.data.Dataset):
    """Rows by their numbers within a split. data[7] is {column: tensor} of one row, data.batch([7, 3]) of several.

    A DataLoader takes it with collate_fn=kdstore.torch.as_is. Rows in random order decode a chunk for nearly each row:
    KDBatches is far faster.
    """

    def __init__(self, store, columns=None, split="train", cache=8):
        self.store = store if isinstance(store, Store) else Store(store)
        self.rows = Rows(self.store, columns, split, cache)
        self._bf16 = {c.name for c in self.rows.columns if c.dtype == "bf16"}

    def __len__(self):
        return len(self.rows)

    def batch(self, index):
        return {name: tensor(v, name in self._bf16) for name, v in self.rows.take(index).items()}

    def __getitem__(self, i):
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        one = self.batch([i % len(self)])
        return {k: type(v)(*(f[0] for f in v)) if isinstance(v, tuple) else v[0] for k, v in one.items()}

    def __getitems__(self, index):
        return self.batch(index)


class KDBatches(torch.utils.data.IterableDataset):
    """Whole batches of a split, for DataLoader(..., batch_size=None).

    shuffle: chunks in random order, the rows of `window` chunks mixed; the order is a function of seed and epoch (and of
    the number of workers). rank, world: of several processes that train together; each gets as many rows.
    """

    def __init__(self, store, columns=None, split="train", batch=128, shuffle=True, seed=0, window=8, drop_last=False,
                 rank=0, world=1):
        self.data = KDDataset(store, columns, split, cache=2 * window)  # a batch may reach into the next window
        self.options = {"batch": batch, "shuffle": shuffle, "seed": seed, "window": window, "drop_last": drop_last,
                        "rank": rank, "world": world}
        self.epoch = 0

    def set_epoch(self, epoch):
        """Which order comes next; before the DataLoader is asked for it."""
        self.epoch = epoch

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        part, parts = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in epoch_batches(self.data.rows, epoch=self.epoch, part=part, parts=parts, **self.options):
            yield self.data.batch(index)
