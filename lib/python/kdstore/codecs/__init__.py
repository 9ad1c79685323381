"""Codecs of teacher outputs: the bytes of lib/codec, written and read by numpy.

Everything that decides a byte is specified in docs/store-format.md, section Encodings, so a block that is encoded here
equals the one that the C library makes of the same numbers.
"""
from ..errors import Unsupported, Usage
from .base import MAX_BOOK, Block, Codec, Sparse
from .int8 import Int8, Int8Channel
from .log_steps import Log6, Log8
from .sampled import HeadTail, Sample
from .topk import TopK

ALL = {c.name: c for c in (Int8, Int8Channel, Log8, Log6, TopK, Sample, HeadTail)}


def parse(encoding):
    """"topk:k=64,temperatures=1+4" to name and parameters."""
    name, _, pairs = encoding.partition(":")
    if name != "dense" and name not in ALL:
        raise Unsupported(f"unknown encoding {name!r}; there are dense, {', '.join(ALL)}")
    params = {}
    for pair in filter(None, pairs.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise Usage(f"encoding {name}: {pair!r} is not key=value")
        params[key] = _value(name, key, value)
    if name == "dense" and params:
        raise Usage("encoding dense takes no parameters")
    return name, params


def _value(name, key, text):
    kind = ALL[name].options.get(key, ("",))[0] if name in ALL else ""
    try:
        if kind == "bool":
            return {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}[text]
        if kind == "reals":
            return [float(x) for x in text.split("+")]
        return float(text) if "." in text or "e" in text else int(text)
    except (ValueError, KeyError):
        raise Usage(f"encoding {name}: {key} is {text!r}, expected {kind or 'another key'}") from None


def open_column(column):
    """The codec of an encoded column."""
    if column.encoding not in ALL:
        raise Unsupported(f"column {column.name}: encoding {column.encoding!r} is not known to this package")
    params = (column.params or {}).get("codec", {})
    if not isinstance(params, dict):
        raise Usage(f"column {column.name}: params.codec must be a JSON object")
    return ALL[column.encoding](column.width, params, column.book)


def learn(encoding, values, width=None):
    """A codebook for a column with this encoding from sample positions (n, width), or None for codecs without one.

    Sparse codecs code classes by their rank in it: 2,000 to 4,000 positions of the data to come are enough for a language
    model's classes. Takes little memory beside `values`.
    """
    from ..values import as_f32
    name, params = parse(encoding)
    if name == "dense":
        return None
    v = as_f32(values)
    v = v.reshape(-1, v.shape[-1])
    return ALL[name](width or v.shape[-1], params).learn(v)


__all__ = ["ALL", "MAX_BOOK", "Block", "Codec", "Sparse", "learn", "open_column", "parse"]
