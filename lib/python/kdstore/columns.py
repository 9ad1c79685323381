"""What a column is: name, role, type, shape, and how its chunks become bytes.

The limits are those of lib/store: a description that passes here is accepted there, and the other way round.
"""
import dataclasses
import re
from typing import Optional

import numpy as np

from . import codecs, text
from .errors import Damaged, Unsupported, Usage

MAX_RAW = 1 << 30  # bytes of a decoded block
MAX_CHUNK_ROWS = 65536
MAX_COLUMNS = 256
MAX_SEGMENTS = 256

ROLES = ("input", "label", "id", "split", "source", "view", "logits", "score", "feature", "mask")
SPLITS = ("train", "valid", "test")
DTYPES = ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f16", "bf16", "f32", "f64")  # codes from 1
_NUMPY = dict(zip(DTYPES, ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<u2", "<f4", "<f8")))
_NAME = re.compile(r"[a-z0-9_\-][a-z0-9_.\-/]{0,62}", re.ASCII)
_SEGMENT = re.compile(r"[a-z0-9_\-][a-z0-9_.\-]{0,62}", re.ASCII)

FILTERS = {"none": 0, "shuffle": 1, "exponent": 2}


def numpy_dtype(name):
    """The numpy type of a dtype's name; bf16 is kept as its 16 bits, "<u2"."""
    return np.dtype(_NUMPY[name])


def dtype_of(array):
    """The name of an array's type. Usage: none of kd's."""
    t = np.dtype(array.dtype)
    if t.name == "bfloat16":
        return "bf16"
    for name, code in _NUMPY.items():
        if name != "bf16" and np.dtype(code) == t.newbyteorder("<"):
            return name
    raise Usage(f"values of type {t} cannot be stored; there are {', '.join(DTYPES)}")


def segment_name_ok(name):
    return isinstance(name, str) and _SEGMENT.fullmatch(name) is not None


@dataclasses.dataclass
class Column:
    """One column. shape: of a row, () for one number, -1 first for a length that differs by row.

    encoding: "dense" or a codec with its parameters as kd's tools take them, "head-tail:n=20"; dtype is then f32.
    book: its codebook, see kdstore.learn. filter "" lets the writer choose, level 0 is the writer's default. The
    last three members are set by reader and writer.
    """
    name: str
    role: str
    dtype: str = "f32"
    shape: tuple = ()
    encoding: str = "dense"
    filter: str = ""
    level: int = 0
    teacher: str = ""
    tap: str = ""
    params: Optional[dict] = None
    book: Optional[bytes] = dataclasses.field(default=None, repr=False)
    segment: str = ""
    book_bytes: int = dataclasses.field(default=0, repr=False)
    book_sum: int = dataclasses.field(default=0, repr=False)

    @property
    def ragged(self):
        return bool(self.shape) and self.shape[0] == -1

    @property
    def dense(self):
        return self.encoding == "dense"

    @property
    def numpy(self):
        return numpy_dtype(self.dtype)

    @property
    def inner(self):
        """The axes of one row, or of one step of the ragged axis."""
        return self.shape[1:] if self.ragged else self.shape

    @property
    def unit(self):
        """Bytes of one row, or of one step of the ragged axis."""
        n = self.numpy.itemsize
        for d in self.inner:
            n *= d
        return n

    @property
    def width(self):
        """Numbers of one position: the last axis, 1 for a scalar."""
        return self.inner[-1] if self.inner else 1

    @property
    def each(self):
        """Positions a row; of a ragged column, a step."""
        n = 1
        for d in self.inner[:-1]:
            n *= d
        return n

    def to_json(self):
        out = {"name": self.name, "role": self.role, "dtype": self.dtype, "shape": list(self.shape),
               "encoding": self.encoding, "filter": self.filter, "level": self.level}
        if self.teacher:
            out["teacher"] = self.teacher
        if self.tap:
            out["tap"] = self.tap
        if self.params is not None:
            out["params"] = self.params
        if self.book_bytes:
            out["book"], out["book_bytes"] = f"{self.book_sum:016x}", self.book_bytes
        return out

    @property
    def code(self):
        """Of the encoding, in record headers; 0 if this package does not know it."""
        return 1 if self.dense else codecs.ALL[self.encoding].code if self.encoding in codecs.ALL else 0


def _fault(c):
    """One phrase on what is wrong with a column wherever it comes from, or None."""
    if not isinstance(c.name, str) or not _NAME.fullmatch(c.name):
        return "its name must be of a-z, 0-9, '_', '.', '-', '/' and at most 63 long"
    if c.dtype not in DTYPES:
        return "unknown dtype"
    if c.role not in ROLES:
        return "it has no role"
    if len(c.shape) > 6:
        return "more than 6 axes"
    for i, d in enumerate(c.shape):
        if type(d) is not int or not (1 <= d < 1 << 31 or (d == -1 and i == 0)):
            return "an axis must be 1 to 2147483647 long (-1, ragged, only for the first)"
    if c.unit > MAX_RAW:
        return "a row is larger than 1 GiB"
    if c.role == "id" and (c.dtype != "u8" or c.shape != (16,)):
        return "the role id needs u8 with shape [16]"
    if c.role == "split" and (c.dtype != "u8" or c.shape != ()):
        return "the role split needs one u8 a row"
    if c.role == "mask" and (c.dtype != "u8" or c.shape != (-1,)):
        return "the role mask needs u8 with shape [-1]"
    return None


def complete(column, default_level):
    """A copy of a column that is to be written, with everything filled in."""
    c = dataclasses.replace(column, shape=tuple(int(d) for d in column.shape), segment="")
    for what, limit in (("teacher", 63), ("tap", 63)):
        v = getattr(c, what)
        if not isinstance(v, str) or len(v.encode("utf-8", "replace")) > limit:
            raise Usage(f"column {c.name!r}: {what} must be a string of at most {limit} bytes")
    fault = _fault(c)
    if fault:
        raise Usage(f"column {c.name!r}: {fault}")
    if c.params is not None and not isinstance(c.params, dict):
        raise Usage(f"column {c.name}: params must be a dict")
    c.params = None if c.params is None else text.plain(c.params, f"column {c.name}: params")
    c.encoding, given = codecs.parse(c.encoding or "dense")
    # Bytes have one plane, codecs lay out their own: nothing to gain from a filter there.
    c.filter = c.filter or ("none" if not c.dense or c.numpy.itemsize == 1 else "exponent" if c.dtype == "bf16" else
                            "shuffle")
    if c.filter not in FILTERS:
        raise Unsupported(f"column {c.name}: unknown filter {c.filter!r}, known are {', '.join(FILTERS)}")
    if c.filter == "exponent" and c.dtype != "bf16":
        raise Usage(f"column {c.name}: filter exponent needs dtype bf16, not {c.dtype}")
    c.level = c.level or default_level
    if type(c.level) is not int or not 1 <= c.level <= 19:
        raise Usage(f"column {c.name}: zstd level {c.level}, allowed are 1 to 19")
    c.book_bytes = len(c.book or b"")
    c.book = bytes(c.book) if c.book_bytes else None
    if c.dense:
        return c
    return _complete_codec(c, given)


def _complete_codec(c, given):
    """All parameters are written down, with the defaults of the day."""
    if c.dtype != "f32" or c.filter != "none":
        raise Usage(f"column {c.name}: encoding {c.encoding} needs dtype f32 and filter none, not {c.dtype} and {c.filter}")
    if c.book_bytes and not codecs.ALL[c.encoding].has_book:
        raise Usage(f"column {c.name}: encoding {c.encoding} has no codebook")
    c.params = dict(c.params or {})
    c.params["codec"] = {**c.params.get("codec", {}), **given}
    c.params["codec"] = codecs.open_column(c).params
    return c


def from_json(obj, where):
    """A column of a manifest. Damaged."""
    if not isinstance(obj, dict):
        raise Damaged(f"{where}: a column is not an object")
    got = {k: text.member_str(obj, k, where) for k in ("name", "role", "dtype", "encoding", "filter")}
    got.update({k: text.member_str(obj, k, where, default="") for k in ("teacher", "tap")})
    shape = obj.get("shape")
    if not isinstance(shape, list):
        raise Damaged(f"{where}: column {got['name'][:63]}: shape is not a list of at most 6 lengths")
    c = Column(**got, shape=tuple(shape), level=text.member_int(obj, "level", 1, 22, where),
               params=obj.get("params"))
    fault = _fault(c)
    if not fault and (len(c.encoding) > 15 or len(c.filter) > 15):
        fault = "the name of its encoding or filter is longer than 15"
    if not fault and ((not c.dense and (c.dtype, c.filter) != ("f32", "none")) or
                      (c.filter == "exponent" and c.dtype != "bf16")):
        fault = f"encoding {c.encoding} with dtype {c.dtype} and filter {c.filter}"
    if not fault and "params" in obj and not isinstance(c.params, dict):
        fault = "params is not an object"
    if fault:
        raise Damaged(f"{where}: column {got['name'][:63]!r}: {fault}")
    if "book" in obj or "book_bytes" in obj:
        book = text.member_str(obj, "book", where)
        c.book_bytes = text.member_int(obj, "book_bytes", 1, codecs.MAX_BOOK, where)
        if not re.fullmatch("[0-9a-fA-F]{16}", book):
            raise Damaged(f"{where}: column {c.name}: 'book' is not a checksum")
        c.book_sum = int(book, 16)
    return c


def check_raw(c, rows, raw):
    """A block's decoded size against the column; what a codec wrote has any size. Damaged."""
    fixed = 4 * rows if c.ragged else rows * c.unit if c.dense else 0
    rest = raw - fixed
    if rest < 0 or (c.dense and (rest % c.unit if c.ragged else rest)):
        raise Damaged(f"decoded size {raw} does not fit {rows} rows of column {c.name}")


def count_positions(c, rows, lengths):
    """Positions of a chunk. Damaged: more than a block may hold."""
    n = (rows if lengths is None else int(lengths.sum(dtype=np.uint64))) * c.each
    if n > MAX_RAW:
        raise Damaged("the rows' lengths add up to more than a block may hold")
    return n


def check_shape(c, rows, shape, lengths, where):
    """The shape of values that are to be written against that of rows; lengths come back as u32."""
    if c.ragged:
        if lengths is None:
            raise Usage(f"{where} is ragged: hand over (values, lengths)")
        lengths = np.ascontiguousarray(lengths, "<u4")
        if lengths.shape != (rows,):
            raise Usage(f"{where}: lengths of shape {lengths.shape} for {rows} rows")
        want = (int(lengths.sum(dtype=np.uint64)),) + c.inner
    else:
        if lengths is not None:
            raise Usage(f"{where} has a fixed shape: it takes no lengths")
        want = (rows,) + c.shape
    if shape != want:
        raise Usage(f"{where}: values of shape {shape}, expected {want}")
    return lengths
