"""Arrays from wherever they come, as the types that columns have."""
import numpy as np

from .columns import numpy_dtype
from .errors import Numeric, Usage
from .xxh3 import hash128


def as_numpy(values):
    """A numpy array of an array, a list or a torch tensor (of any device, with or without a gradient). bf16 comes as
    ("bf16", its bits)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            import torch
            return "bf16", values.contiguous().view(torch.int16).numpy().view(np.uint16)
        values = values.numpy()
    a = np.asarray(values)
    if a.dtype.name == "bfloat16":
        return "bf16", a.view(np.uint16)
    return None, a


def bf16_to_f32(bits):
    """The numbers whose upper halves these u16 are."""
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(values):
    """f32 to bf16's 16 bits, to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    up = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return np.where(nan, bits | np.uint32(0x400000), up).astype(np.uint32).__rshift__(np.uint32(16)).astype(np.uint16)


def as_f32(values):
    """Any numbers as contiguous f32."""
    kind, a = as_numpy(values)
    return bf16_to_f32(a) if kind else np.ascontiguousarray(a, np.float32)


def cast(values, dtype, where):
    """Values as a column's dtype: floats are rounded to nearest even, integers must fit. Usage, Numeric."""
    kind, a = as_numpy(values)
    want = numpy_dtype(dtype)
    if dtype == "bf16":
        if kind or a.dtype == np.uint16:
            return a
        if a.dtype.kind != "f":
            raise Usage(f"{where}: values are {a.dtype}, the column is bf16")
        return to_bf16(_finite_as(a, np.float32, where))
    if kind:
        a = bf16_to_f32(a)
    if a.dtype.newbyteorder("<") == want:
        return a
    if want.kind == "f" and a.dtype.kind == "f":
        return _finite_as(a, want, where)
    if want.kind in "iu" and a.dtype.kind in "iub":
        if a.size and (int(a.min()) < np.iinfo(want).min or int(a.max()) > np.iinfo(want).max):
            raise Usage(f"{where}: values from {a.min()} to {a.max()} do not fit into {dtype}")
        return a.astype(want)
    raise Usage(f"{where}: values are {a.dtype}, the column is {dtype}")


def _finite_as(a, want, where):
    """A half that overflows would be an infinite logit."""
    with np.errstate(over="ignore"):
        out = a.astype(want)
    lost = np.isinf(out) & np.isfinite(a)
    if lost.any():
        raise Numeric(f"{where}: {a[lost][0]} does not fit into {np.dtype(want).name}; use a column of f32")
    return out


def row_ids(name, array, dtype=None):
    """Ids (rows, 16) as kd-dump gives them: XXH3-128 over "NAME DTYPE DIMS\\n" and the row's bytes.

    name: of the input column. Equal rows have equal ids, wherever they come from.
    """
    from .columns import dtype_of
    kind, a = as_numpy(array)
    dtype = dtype or kind or dtype_of(a)
    a = np.ascontiguousarray(a, numpy_dtype(dtype))
    head = f"{name} {dtype} {','.join(map(str, a.shape[1:]))}\n".encode()
    rows = a.reshape(len(a), -1).view(np.uint8) if a.size else a.reshape(len(a), 0)
    return np.frombuffer(b"".join(hash128(head + r.tobytes()) for r in rows), np.uint8).reshape(-1, 16).copy()
