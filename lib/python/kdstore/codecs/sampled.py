"""sample and head-tail: classes drawn so that a class's expected weight is its probability (lib/codec/sample.c,
head_tail.c)."""
import numpy as np

from . import exact, weights
from .base import Usage
from .entries import SEED, STEP, Picks, SparseCodec

_TEMPERATURE = ("real", 1.0, 0.05, 100)


class Sample(SparseCodec):
    name, code, draws = "sample", 7, True
    options = {"n": ("int", 50, 1, 65535), "temperature": _TEMPERATURE, "seed": SEED}

    def open(self):
        self.number_bytes = 1 if self.params["n"] <= 257 else 2
        self.open_entries(self.params["n"])

    def pick(self, z, ids, at):
        n = self.params["n"]
        w = weights.weights(z, self.params["temperature"])
        before = weights.running(weights.block_sums(w))
        point = weights.draws(self.params["seed"], ids, at, n) * before[:, -1:]
        found = []
        for i, x in enumerate(point):
            block = np.searchsorted(before[i, 1:], x, side="right")
            used = np.unique(block)
            inside = np.cumsum(np.concatenate([before[i, used, None], w[i, used]], axis=1), axis=1)[:, 1:]
            last = weights.BLOCK - 1 - np.argmax(w[i, used, ::-1] > 0, axis=1)
            for k, b in enumerate(used):
                c = np.searchsorted(inside[k], x[block == b], side="right")
                found.append((i * w.shape[1] + b) * weights.BLOCK + np.minimum(c, last[k]))
        key, times = np.unique(np.concatenate(found), return_counts=True)
        per = w.shape[1] * weights.BLOCK
        return Picks(np.bincount(key // per, minlength=len(z)), key % per, times - 2, np.zeros((len(z), 0, 2), np.int64))

    def expected(self, n, position, number):
        """Those drawn once."""
        return self.params["n"] - np.bincount(position, number + 2, n).astype(np.int64)

    def check_numbers(self, count, number):
        draws = np.concatenate([[0], np.cumsum(number + 2)])
        ends = np.cumsum(count)
        wrong = np.flatnonzero(draws[ends] - draws[ends - count] != self.params["n"])
        if len(wrong):
            raise self.damaged(f"the entries of position {wrong[0]} cannot be")

    def give_values(self, count, number, codes):
        return ((number + 2) / self.params["n"]).astype(np.float32), np.zeros(len(number), bool)


class HeadTail(SparseCodec):
    name, code, draws = "head-tail", 8, True
    options = {"n": ("int", 20, 1, 65535), "temperature": _TEMPERATURE, "step": STEP, "seed": SEED}

    def open(self):
        n, step = self.params["n"], self.params["step"]
        steps = float(exact.log(float(n))) / step
        if steps > 255:
            raise Usage(f"encoding head-tail: probabilities from 1/{n} on are {steps:.0f} steps of {step}, at most 255 are "
                        "allowed")
        self.open_entries(n)

    def pick(self, z, ids, at):
        n = self.params["n"]
        w = weights.weights(z, self.params["temperature"])
        total = weights.running(weights.block_sums(w))[:, -1]
        flat = w.reshape(len(z), -1)
        head = n * flat >= total[:, None]
        kept = head & (np.cumsum(head, axis=1) <= self.most)
        q, chance = self._steps(z, flat, total, kept)
        flat[head] = 0
        before = weights.running(weights.block_sums(w))
        inside = np.cumsum(np.concatenate([before[:, :-1, None], w], axis=2), axis=2)[..., 1:].reshape(len(z), -1)
        u, apart = weights.draws(self.params["seed"], ids, at, 1)[:, 0], total / n
        first = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
        count, id, number = [], [], []
        for i in range(len(z)):
            mine, its = np.flatnonzero(kept[i]), slice(first[i], first[i + 1])
            lower, rest = walk_head(float(u[i]), chance[its].tolist())
            x = (rest + np.arange(self.most - len(mine))) * apart[i]
            tail = walk(flat[i], inside[i], before[i, 1:], x)
            both = np.concatenate([mine, tail])
            order = np.argsort(both)
            id.append(both[order])
            number.append(np.concatenate([q[its] + lower, np.full(len(tail), -1)])[order])
            count.append(len(both))
        return Picks(np.array(count), np.concatenate(id), np.concatenate(number).astype(np.int64),
                     np.zeros((len(z), 0, 2), np.int64))

    def _steps(self, z, w, total, kept):
        """Of the kept classes: the step above each one's probability, and the chance to take it instead of the next."""
        step = self.params["step"]
        i, j = np.nonzero(kept)
        gap = (z[i, j].astype(np.float64) - z.max(axis=1)[i]) * (1 / self.params["temperature"])
        q = np.clip(np.floor((exact.log(total)[i] - gap) / step), 0, 254).astype(np.int64)
        upper, lower = (self._heads(k).astype(np.float32).astype(np.float64) for k in (q, q + 1))
        return q, np.clip((w[i, j] / total[i] - lower) / (upper - lower), 0, 1)

    def _heads(self, number):
        return exact.exp(-(np.maximum(number, 0) * self.params["step"]))

    def expected(self, n, position, number):
        """As many points as fit on what the head leaves. (bincount adds in the order of the entries.)"""
        return np.floor(self.params["n"] * (1 - np.bincount(position, self._heads(number), n))).astype(np.int64)

    def give_values(self, count, number, codes):
        has = number >= 0
        return np.where(has, self._heads(number).astype(np.float32), np.float32(1 / self.params["n"])), has


def walk_head(next, chance):
    """Which of the head's classes, `chance` long, no point falls on (1, else 0), and how far behind the last the next
    point is."""
    lower = []
    for g in chance:
        lower.append(int(next >= g))
        next -= g
        if not lower[-1]:
            next += 1
    return np.array(lower, np.int64), next


def walk(w, inside, ends, x):
    """Classes of the tail that the rising points x fall on, each class at most once. inside: the running sums after each
    class, which begin anew with each block; ends: (blocks) those after each block."""
    id = np.flatnonzero(w > 0)
    if not len(id) or not len(x):
        return id[:0]
    c, end = inside[id], ends[id // weights.BLOCK]
    last = np.append(id[1:] // weights.BLOCK != id[:-1] // weights.BLOCK, True)
    reach = np.where(last, np.maximum(c, end), c)
    until = np.minimum(reach, end)
    # Points in the crack between two ways to round, or two on one class: one after the other.
    crack = reach > until
    hit = np.searchsorted(until, x, side="right")
    hit = hit[hit < len(id)]
    if (np.searchsorted(x, until[crack]) == np.searchsorted(x, reach[crack])).all() and (hit[1:] > hit[:-1]).all():
        return id[hit]
    return id[walk_slowly(id // weights.BLOCK, c, end, last, x)]


def walk_slowly(block, c, end, last, x):
    """The same, word for word as docs/store-format.md has it."""
    out, j, walked = [], 0, -1
    for i in range(len(c)):
        if j == len(x):
            break
        if block[i] != walked and x[j] >= end[i]:
            continue
        walked = block[i]
        if x[j] < c[i] or (last[i] and x[j] < end[i]):
            out.append(i)
            j += 1
    return np.array(out, np.int64)
