"""What the codecs promise, apart from being the C library's byte for byte (same_bytes.py).

    encodings.py STORE.kd FOLDER SCRATCH
"""
import math
import re

import numpy as np

from tap import ROOT, finish, refused, test

import kdstore
from kdstore import codecs, records
from kdstore.codecs import exact, sampled, topk, weights

dice = np.random.default_rng(6)


def opened(encoding, width, book=None):
    name, params = codecs.parse(encoding)
    return codecs.ALL[name](width, params, book)


def encoded(encoding, z, book=None):
    """(codec, bytes) of one position a row, with ids made of their numbers."""
    codec = opened(encoding, z.shape[1], book)
    ids = np.arange(16 * len(z), dtype=np.uint32).view(np.uint8).reshape(-1, 64)[:, :16]
    return codec, np.frombuffer(codec.encode(codecs.Block(z, np.ones(len(z), np.int64), ids)), np.uint8)


def softmax(z, t=1.0):
    w = np.exp((z.astype(np.float64) - z.max(axis=1, keepdims=True)) / t)
    return w / w.sum(axis=1, keepdims=True)


@test
def the_documented_blocks_are_the_ones_that_are_written():
    page, vectors = (ROOT / "docs" / "store-format.md").read_text(), []
    for name, head in (("int8", "### int8"), ("log8", "### log8"), ("log6", "### log8")):
        section = page[page.index(head):].split("\n### ")[0]
        values = np.array([[float(v) for v in re.search("The values (.*?) as one position", section)[1].split(",")]], np.float32)
        lines = re.findall("^    ([0-9a-f ]+) +# (.*)", section, re.M)
        if name != "int8":
            lines = [x for x in lines if x[1].startswith(name)]
        want = bytes.fromhex("".join(x[0] for x in lines))
        assert encoded(name, values)[1].tobytes() == want, name
    z = np.array([[0, 1, 5, 2, 0, 0, -1, 4, 0, 3], [1] * 10], np.float32)
    section = page[page.index("As a test vector for the three"):].split("\n## ")[0]
    for part in re.split(r"\n(?=`[a-z-]+:)", section.replace("`07 02`. `topk", "`07 02`.\n`topk"))[1:]:
        encoding = re.match("`(.*?)`", part)[1]
        want = bytes.fromhex("".join(re.findall("^    ([0-9a-f ]+?)(?: +#.*)?$", part, re.M)))
        block = codecs.Block(z, np.array([2]), np.arange(16, dtype=np.uint8)[None])
        assert opened(encoding, 10, b"\7\2").encode(block) == want, encoding
        vectors.append(encoding.split(":")[0])
    assert vectors == ["topk", "sample", "head-tail"], vectors
    bits = np.array([0x3f80, 0xc000, 0x3e20, 0x7fc0], "<u2")
    assert records.filtered("exponent", [bits]).tobytes() == bytes.fromhex("7f807cff00014080")
    assert np.array_equal(records._exponents_in(records.filtered("exponent", [bits])), bits)


@test
def exp_and_log_are_right_to_two_units_in_the_last_place():
    x = np.concatenate([-dice.exponential(40, 2000), [0.0, -1e-300, -708.0]])
    for a, b in zip(x.tolist(), exact.exp(x).tolist()):
        assert abs(b - math.exp(a)) <= 2 * math.ulp(math.exp(a)), a
    assert exact.exp(-709.0) == 0 and exact.exp(-1e300) == 0
    y = np.concatenate([dice.exponential(40, 2000), [1.0, 2.0 ** -1000, 2.0 ** 1000]])
    for a, b in zip(y.tolist(), exact.log(y).tolist()):
        assert abs(b - math.log(a)) <= 2 * math.ulp(math.log(a)), a


@test
def the_walk_over_the_tail_is_the_documented_one_word_for_word():
    slow = 0
    for k in range(400):
        width = int(dice.integers(1, 300))
        z = (dice.normal(size=(1, width)) * dice.uniform(0, 4)).astype(np.float32)
        w = weights.weights(z, 1.0)
        n = int(dice.integers(1, 90))
        total = weights.running(weights.block_sums(w))[0, -1]
        w[n * w >= total] = 0
        ends = weights.running(weights.block_sums(w))
        c = np.cumsum(np.concatenate([ends[:, :-1, None], w], axis=2), axis=2)[0, :, 1:].reshape(-1)
        flat, ends = w.reshape(-1), ends[0, 1:]
        x = (dice.random() + np.arange(min(n, width))) * (total / n)
        if k % 2:  # on the cracks themselves
            x = np.sort(dice.choice(np.concatenate([c, ends, np.nextafter(ends, 0), np.nextafter(c, 9e9)]), 20))
        id = np.flatnonzero(flat > 0)
        block = id // weights.BLOCK
        last = np.append(block[1:] != block[:-1], True) if len(id) else block == 0
        want = id[sampled.walk_slowly(block, c[id], ends[block], last, x)]
        got = sampled.walk(flat, c, ends, x)
        assert np.array_equal(got, want), (k, got, want)
        slow += k % 2
    assert slow


@test
def of_equal_values_topk_keeps_the_first():
    z = np.array([[1, 3, 3, 2, 3, -0.0, 0.0, 2]], np.float32)
    for k, want in ((1, [1]), (2, [1, 2]), (4, [1, 2, 3, 4]), (5, [1, 2, 3, 4, 7]), (7, [0, 1, 2, 3, 4, 5, 7]),
                    (8, list(range(8))), (99, list(range(8)))):
        codec, data = encoded(f"topk:k={k}", z)
        got = codec.read_sparse(data, 1)
        assert got.id.tolist() == want, (k, got.id)


@test
def topk_states_the_mass_of_what_it_leaves_out():
    z = (4 * dice.normal(size=(50, 400))).astype(np.float32)
    codec, data = encoded("topk:k=12,temperatures=1+4", z)
    s = codec.read_sparse(data, 50)
    for i, t in enumerate((1, 4)):
        p = softmax(z, t)
        kept = np.zeros_like(p, bool)
        kept[np.repeat(np.arange(50), 12), s.id] = True
        assert np.allclose(s.tail[:, i], np.where(kept, 0, p).sum(axis=1), rtol=1e-3)
        logz = np.log(np.exp((z - z.max(axis=1, keepdims=True)).astype(np.float64) / t).sum(axis=1))
        assert np.allclose(s.logz[:, i], logz, atol=1e-3)
    assert np.abs(np.exp(s.value) / softmax(z)[np.repeat(np.arange(50), 12), s.id] - 1).max() < 0.04


@test
def drawn_weights_are_the_probabilities_on_average():
    z = np.repeat((3 * dice.normal(size=(1, 30))).astype(np.float32), 4000, axis=0)
    for encoding, t, spread in (("sample:n=10", 1, 1), ("sample:n=10,temperature=2", 2, 1), ("head-tail:n=10", 1, 0.6),
                                ("head-tail:n=10,temperature=2", 2, 0.6)):
        codec, data = encoded(encoding, z)
        got, p = codec.read_sparse(data, len(z)).dense(), softmax(z[:1], t)[0]
        error = np.abs(got.mean(axis=0) - p)
        deviation = np.sqrt(p * (1 - p) / 10)
        if encoding.startswith("head"):
            deviation = np.where(10 * p >= 1, p / 32, deviation)  # half a step at most
        noise = deviation / len(z) ** 0.5
        assert (error <= 5 * noise + 1e-6).all(), (encoding, error / noise)
        assert got.var(axis=0).sum() <= spread * (p * (1 - p)).sum() / 10 * 1.1, encoding


@test
def codebooks_shorten_blocks_and_change_no_target():
    z = (2 * dice.normal(size=(300, 1000)) - 12 * (np.arange(1000) * 7 % 1000) / 1000).astype(np.float32)
    for encoding in ("topk:k=8", "sample", "head-tail"):
        book = kdstore.learn(encoding, z)
        plain, short = encoded(encoding, z), encoded(encoding, z, book)
        a, b = plain[0].read_sparse(plain[1], 300), short[0].read_sparse(short[1], 300)
        sizes = [len(records.pack(data, 3)[0]) for _, data in (plain, short)]
        assert sizes[1] < 0.95 * sizes[0], (encoding, sizes)
        for field in ("offset", "id", "value", "exact", "tail", "logz"):
            assert np.array_equal(getattr(a, field), getattr(b, field)), (encoding, field)
    refused(kdstore.Damaged, "stands twice", opened, "topk", 300, bytes(8))
    refused(kdstore.Damaged, "beyond the last", opened, "topk", 200, bytes([201]))
    refused(kdstore.Damaged, "does not fit", opened, "topk", 300, bytes(3))


@test
def parameters_out_of_range_or_unknown_are_refused_by_name():
    for text, wanted in (("topk:k=0", "k is 0"), ("topk:temperatures=2", "1 is not among"), ("topk:n=3", "unknown key 'n'"),
                         ("sample:temperature=0.01", "temperature is 0.01"), ("head-tail:n=60000,step=0.01", "at most 255"),
                         ("log6:step", "not key=value"), ("topk:k=many", "k is 'many'"), ("log8:step=nan", "step"),
                         ("dense:k=1", "takes no parameters")):
        refused(kdstore.Usage, wanted, opened, text, 10)
    refused(kdstore.Unsupported, "unknown encoding 'int9'", opened, "int9", 10)
    for name in codecs.ALL:
        codec = opened(name, 10)
        refused(kdstore.Numeric, "row 1 of the chunk, position 0, class 4", codec.encode,
                codecs.Block(np.where(np.arange(30).reshape(3, 10) == 14, np.inf, 0).astype(np.float32), np.ones(3, int),
                             np.zeros((3, 16), np.uint8)))


@test
def a_block_of_no_positions_has_no_bytes():
    for name in codecs.ALL:
        codec, data = encoded(name, np.zeros((0, 10), np.float32))
        assert len(data) == 0 and len(codec.read_sparse(data, 0) if codec.sparse else codec.decode(data, 0)) == 0, name


finish()
