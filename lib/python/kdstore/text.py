"""JSON as kd reads and writes it.

Two programs must agree on the bytes of a segment's header record, because its checksum ties all records to it. So
`compact` follows the C library's serialiser (jansson) to the byte: keys sorted, no spaces, UTF-8 as it is, real
numbers with 17 significant digits. Reading is as strict as there: no key twice, no NaN, no number beyond 64 bits.
"""
import json
import math
import numbers

from .errors import Damaged, Usage

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _pairs(items):
    out = dict(items)
    if len(out) != len(items):
        raise ValueError("a key stands twice in one object")
    return out


def _integer(digits):
    n = int(digits)
    if not -(1 << 63) <= n < 1 << 63:
        raise ValueError(f"the number {digits[:40]} is too large")
    return n


def _real(digits):
    x = float(digits)
    if math.isinf(x):
        raise ValueError(f"the number {digits[:40]} is too large")
    return x


def _constant(name):
    raise ValueError(f"{name} is not JSON")


def parse(data, where):
    """The value of JSON bytes. Damaged: it is none."""
    try:
        return json.loads(bytes(data).decode("utf-8"), object_pairs_hook=_pairs, parse_int=_integer,
                          parse_float=_real, parse_constant=_constant)
    except (ValueError, RecursionError) as e:
        raise Damaged(f"{where}: not valid JSON: {e or 'nested too deeply'}") from None


def plain(value, where, depth=0):
    """A copy of dicts, lists, strings and numbers (numpy's too) that any JSON reader takes. Usage."""
    if depth > 500:
        raise Usage(f"{where}: nested too deeply")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if "\0" in value or not _encodable(value):
            raise Usage(f"{where}: the string {value[:40]!r} cannot be written")
        return value
    if isinstance(value, numbers.Integral):
        if not -(1 << 63) <= int(value) < 1 << 63:
            raise Usage(f"{where}: the number {value} does not fit into 64 bits")
        return int(value)
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise Usage(f"{where}: {value} is not a finite number")
        return float(value)
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise Usage(f"{where}: the keys of an object must be strings")
        return {plain(k, where): plain(v, where, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, where, depth + 1) for v in value]
    if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
        return plain(value.item(), where, depth)
    raise Usage(f"{where}: {type(value).__name__} is not a JSON value")


def _encodable(text):
    try:
        text.encode("utf-8")
        return True
    except UnicodeEncodeError:
        return False


def _string(text):
    return '"' + "".join(_ESCAPES.get(c) or (f"\\u{ord(c):04X}" if c < " " else c) for c in text) + '"'


def _number(x):
    digits = "%.17g" % x
    if "e" in digits:
        mantissa, exponent = digits.split("e")
        return f"{mantissa}e{int(exponent)}"
    return digits if "." in digits else digits + ".0"


def _compact(v):
    if v is None:
        return "null"
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, str):
        return _string(v)
    if isinstance(v, int):
        return str(v)
    if isinstance(v, float):
        return _number(v)
    if isinstance(v, dict):
        return "{" + ",".join(_string(k) + ":" + _compact(v[k]) for k in sorted(v)) + "}"
    return "[" + ",".join(map(_compact, v)) + "]"


def compact(value):
    """Bytes of a plain value, the same for equal values."""
    return _compact(value).encode("utf-8")


def equal(a, b):
    """Whether two values are the same to a JSON reader: 1, 1.0 and true are three different things."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


_ABSENT = object()


def first_difference(was, now, path=""):
    """"a.b was 1, is 2 now", or None."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(k for k in now if k not in was)]:
            found = first_difference(was.get(key, _ABSENT), now.get(key, _ABSENT), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    if was is not _ABSENT and now is not _ABSENT and equal(was, now):
        return None
    a, b = ("absent" if v is _ABSENT else _compact(v)[:200] for v in (was, now))
    return f"{path or 'it'} was {a}, is {b} now"


# ---- typed members ---------------------------------------------------------------------------


def member_str(obj, key, where, default=None):
    if not isinstance(obj, dict) or key not in obj:
        if default is not None and isinstance(obj, dict):
            return default
        raise Damaged(f"{where}: key '{key}' is missing")
    if not isinstance(obj[key], str):
        raise Damaged(f"{where}: key '{key}' is {_compact(obj[key])[:40]}, expected a string")
    return obj[key]


def member_int(obj, key, lo, hi, where):
    if not isinstance(obj, dict) or key not in obj:
        raise Damaged(f"{where}: key '{key}' is missing")
    v = obj[key]
    if type(v) is not int:
        raise Damaged(f"{where}: key '{key}' is {_compact(v)[:40]}, expected an integer")
    if not lo <= v <= hi:
        raise Damaged(f"{where}: key '{key}' is {v}, expected {lo} to {hi}")
    return v
