"""One block of a column as bytes: header, checksum, filter, zstd or marks.

The order of checks is the one of lib/store/record.c: length, header fields, XXH3 over header and payload, what the
manifest says of the place, and only then does zstd see a byte; it gets exactly one frame whose content size is
the block's.
"""
import collections
import struct
import threading

import numpy as np
import zstandard

from . import marks
from .columns import DTYPES, FILTERS, MAX_RAW, SPLITS, check_raw, count_positions
from .errors import Damaged
from .xxh3 import hash64

HEAD = 64
NO_CHUNK = 0xFFFFFFFF
RAW, ZSTD, MARKS = 0, 1, 2
_FLOATS = frozenset(1 + DTYPES.index(t) for t in ("f16", "bf16", "f32", "f64"))
_BYTES = frozenset(1 + DTYPES.index(t) for t in ("u8", "i8"))
_LAYOUT = struct.Struct("<4sBBBBBBHIIIQQQQQ")
_MAGIC, _VERSION = b"KDRC", 1

Record = collections.namedtuple("Record", "dtype encoding filter codec split flags column chunk rows first raw stored "
                                          "tag checksum")
_local = threading.local()


# ---- filters ---------------------------------------------------------------------------------


def _planes_out(out, values):
    """Byte 0 of all elements, then byte 1 of all, ..."""
    size = values.itemsize
    for b, plane in enumerate(values.reshape(-1).view(np.uint8).reshape(-1, size).T):
        out[b * values.size:(b + 1) * values.size] = plane


def _planes_in(planes, dtype):
    n = planes.size // dtype.itemsize
    if dtype.itemsize == 1:
        return planes.copy().view(dtype)
    out = np.empty((n, dtype.itemsize), np.uint8)
    for b in range(dtype.itemsize):
        out[:, b] = planes[b * n:(b + 1) * n]
    return out.reshape(-1).view(dtype)


def _exponents_out(out, bits):
    """The exponents of bf16, then mantissa and sign of each."""
    flat = bits.reshape(-1)
    turned = flat << np.uint16(1) | flat >> np.uint16(15)
    out[:flat.size], out[flat.size:] = turned >> np.uint16(8), turned & np.uint16(255)


def _exponents_in(planes):
    n = planes.size // 2
    turned = planes[:n].astype("<u2") << np.uint16(8) | planes[n:]
    return turned >> np.uint16(1) | turned << np.uint16(15)


def filtered(filter, parts):
    """The bytes that zstd compresses, as one u8 array; parts: contiguous arrays, lengths before values, filtered apart."""
    if filter == "none":
        flat = [p.reshape(-1).view(np.uint8) for p in parts]
        return np.concatenate(flat) if len(flat) > 1 else flat[0]
    out = np.empty(sum(p.nbytes for p in parts), np.uint8)
    at = 0
    for p in parts:
        planes = _exponents_out if filter == "exponent" and p.dtype == np.uint16 else _planes_out
        planes(out[at:at + p.nbytes], p)
        at += p.nbytes
    return out


def unfiltered(column, raw, rows):
    """Values (bytes of the codec for an encoded column) and lengths (None for fixed shapes) of a decoded block, a u8
    array, which the values may share."""
    at, lengths, plain = 4 * rows if column.ragged else 0, None, column.filter == "none"
    if column.ragged:
        head = raw[:at]
        lengths = head.copy().view("<u4") if plain else _planes_in(head, np.dtype("<u4"))
    body = raw[at:]
    positions = count_positions(column, rows, lengths)
    if not column.dense:
        return body, lengths
    if positions * column.width * column.numpy.itemsize != body.size:
        raise Damaged(f"the rows' lengths add up to {positions} positions, the block holds "
                      f"{body.size // column.unit * column.each}")
    if plain:
        values = (body.copy() if at else body).view(column.numpy)
    else:
        values = _exponents_in(body) if column.filter == "exponent" else _planes_in(body, column.numpy)
    return values.reshape((-1 if column.ragged else rows,) + column.inner), lengths


# ---- zstd ------------------------------------------------------------------------------------


def _frame_size(payload):
    """Bytes of the zstd frame at the start of payload; -1: it has no end there."""
    at = zstandard.frame_header_size(payload)
    while at + 3 <= len(payload):
        head = payload[at] | payload[at + 1] << 8 | payload[at + 2] << 16
        kind, size = head >> 1 & 3, head >> 3
        if kind == 3:
            return -1
        at += 3 + (1 if kind == 1 else size)
        if head & 1:
            return at + (4 if payload[4] & 4 else 0)
    return -1


def _unzip(payload, raw):
    """Exactly raw bytes from exactly one frame."""
    try:
        if payload[:4] != b"\x28\xb5\x2f\xfd" or zstandard.frame_content_size(payload) != raw:
            raise Damaged(f"the zstd frame does not announce {raw} bytes")
        if _frame_size(payload) != len(payload):
            raise Damaged(f"the payload is not one zstd frame of {len(payload)} bytes")
        if not hasattr(_local, "zstd"):
            _local.zstd = zstandard.ZstdDecompressor()
        out = _local.zstd.decompress(payload, max_output_size=raw)
    except zstandard.ZstdError as e:
        raise Damaged(f"zstd: {e}") from None
    if len(out) != raw:
        raise Damaged(f"zstd gave {len(out)} bytes, expected {raw}")
    return out


# ---- reading ---------------------------------------------------------------------------------


def parse(head):
    """The fields of a header. Damaged: magic or version."""
    magic, version, *fields = _LAYOUT.unpack_from(head)
    if magic != _MAGIC:
        raise Damaged("not a record (its magic is not KDRC)")
    if version != _VERSION:
        raise Damaged(f"record version {version}, this program reads {_VERSION}")
    return Record(*fields)


def check_whole(buffer):
    """Length, limits and checksum of a record in a writable buffer (its checksum field is zero for a moment)."""
    if len(buffer) < HEAD:
        raise Damaged(f"{len(buffer)} bytes, a record header alone has {HEAD}")
    r = parse(buffer)
    if r.stored != len(buffer) - HEAD:
        raise Damaged(f"payload of {r.stored} bytes according to its header, {len(buffer) - HEAD} found")
    if r.raw > MAX_RAW:
        raise Damaged(f"decoded size {r.raw} is over the limit of {MAX_RAW} bytes")
    if r.codec == RAW and r.raw != r.stored:
        raise Damaged(f"codec 0 with {r.stored} stored and {r.raw} decoded bytes")
    buffer[56:64] = bytes(8)
    found = hash64(buffer)
    buffer[56:64] = r.checksum.to_bytes(8, "little")
    if found != r.checksum:
        raise Damaged(f"checksum {found:016x}, expected {r.checksum:016x}: the bytes were changed")
    if r.codec > MARKS:
        raise Damaged(f"codec {r.codec}, this package reads 0 to {MARKS}")
    if r.codec == MARKS:
        marks.parse(memoryview(buffer)[HEAD:], r.raw)
    return r


def check(buffer, column, index, chunk, tag):
    """A record against what the manifest says of its place; column: index within the segment."""
    r = check_whole(buffer)
    if r.tag != tag:
        raise Damaged(f"the record belongs to another segment (tag {r.tag:016x}, expected {tag:016x})")
    split = SPLITS.index(chunk.split)
    if (r.column, r.chunk, r.rows, r.first, r.split, r.flags) != (index, chunk.index, chunk.rows, chunk.first, split, 0):
        raise Damaged(f"the record is of column {r.column}, chunk {r.chunk}, {r.rows} rows from {r.first}, expected "
                      f"column {index}, chunk {chunk.index}, {chunk.rows} rows from {chunk.first}")
    if (r.dtype, r.encoding, r.filter) != (1 + DTYPES.index(column.dtype), column.code, FILTERS[column.filter]):
        raise Damaged(f"dtype {r.dtype}, encoding {r.encoding}, filter {r.filter} do not fit {column.dtype}, "
                      f"{column.encoding}, {column.filter} of the manifest")
    check_raw(column, r.rows, r.raw)
    return r


def block(r, buffer):
    """The decoded, still filtered block of a checked record as a u8 array; it may share the buffer."""
    payload = memoryview(buffer)[HEAD:]
    if r.codec == RAW:
        return np.frombuffer(payload, np.uint8)
    return marks.read(payload, r.raw) if r.codec == MARKS else np.frombuffer(_unzip(payload, r.raw), np.uint8)


def header_text(buffer):
    """Text and checksum of a segment's header record."""
    r = check_whole(buffer)
    if r.chunk != NO_CHUNK or r.column != NO_CHUNK or r.rows or r.filter or r.raw > 16 << 20:
        raise Damaged("the first record is not a segment header")
    return bytes(block(r, buffer)), r.checksum


def codebook(buffer, column, index):
    """The bytes of a column's codebook record."""
    r = check_whole(buffer)
    if (r.checksum, r.chunk, r.column, r.rows, r.filter, r.raw) != (column.book_sum, NO_CHUNK, index, 0, 0,
                                                                    column.book_bytes):
        raise Damaged(f"the record is of {r.raw} bytes with checksum {r.checksum:016x}, expected the codebook of "
                      f"{column.book_bytes} bytes with {column.book_sum:016x}")
    return bytes(block(r, buffer))


# ---- writing ---------------------------------------------------------------------------------


_WHOLE, _PIECES, _SWIFT = 0, -1, -2  # ways to make a frame, beside zstd levels
_SMALL = 10  # from this level on size is all


def _packer(way):
    """_WHOLE: Huffman coding with next to no search for repetitions. _PIECES: with a table for every 8 KiB. _SWIFT: no
    Huffman coding."""
    packers = getattr(_local, "packers", None)
    if packers is None:
        packers = _local.packers = {}
    if way not in packers:
        frame = {"write_checksum": True, "write_content_size": True}
        if way > 0 or way == _SWIFT:
            packers[way] = zstandard.ZstdCompressor(level=-1 if way == _SWIFT else way, **frame)
        else:
            search = {"strategy": zstandard.STRATEGY_FAST, "min_match": 7, "hash_log": 6}
            search.update({"window_log": 13} if way == _PIECES else {})
            params = zstandard.ZstdCompressionParameters.from_level(1, **frame, **search)
            packers[way] = zstandard.ZstdCompressor(compression_params=params)
    return packers[way]


def pack(raw, level, *, dtype=0, encoding=0, filter=0, split=0, column=NO_CHUNK, chunk=NO_CHUNK, rows=0, first=0, tag=0):
    """A whole record of a filtered block, and its checksum."""
    n = len(raw)
    frame = _packer(level).compress(raw) if n else b""
    # What repeats among measured numbers repeats by chance: Huffman coding alone is often smaller. Pieces have to save
    # 1/32, because their tables take time to read.
    if n and dtype in _FLOATS:
        whole, pieces = _packer(_WHOLE).compress(raw), _packer(_PIECES).compress(raw)
        if len(whole) <= len(frame):
            frame = whole
        if len(pieces) + len(pieces) // 32 <= len(frame):
            frame = pieces
    codec = ZSTD
    marked = marks.write(raw) if dtype in _BYTES and not filter else None
    haste = n and dtype not in _FLOATS and level < _SMALL
    if marked is not None and len(marked) <= n - n // 32 and len(marked) - (len(marked) // 6 if haste else 0) <= len(frame):
        codec, frame = MARKS, marked  # read twenty times as fast: worth 1/6
    elif haste:  # without Huffman coding bytes are read twice as fast: worth 1/16
        swift = _packer(_SWIFT).compress(raw)
        if len(swift) - len(swift) // 16 <= len(frame):
            frame = swift
    if not n or len(frame) > n - n // 32 or len(frame) >= n:
        codec, frame = RAW, raw
    buffer = bytearray(HEAD + len(frame))
    buffer[HEAD:] = memoryview(frame)
    fields = (_MAGIC, _VERSION, dtype, encoding, filter, codec, split, 0, column, chunk, rows, first, n, len(frame), tag)
    _LAYOUT.pack_into(buffer, 0, *fields, 0)
    checksum = hash64(buffer)
    buffer[56:64] = checksum.to_bytes(8, "little")
    return buffer, checksum


def key(group, i):
    """The key of a record: (0, 0) the header record, (0, 1 + column) a codebook, (1 + chunk, column) values."""
    return struct.pack(">II", group, i)


def check_keys(keys, columns, chunks):
    """Keys rise, so they are the expected ones if they are as many and each is in its place."""
    heads = [0] + [1 + i for i, c in enumerate(columns) if c.book_bytes]
    grid = (np.arange(1, chunks + 1, dtype=np.uint64)[:, None] << np.uint64(32)) + np.arange(len(columns), dtype=np.uint64)
    want = np.concatenate([np.array(heads, np.uint64), grid.reshape(-1)])
    if len(keys) != len(want):
        raise Damaged(f"{len(keys)} records, expected {len(want)}")
    wrong = np.flatnonzero(keys != want)
    if len(wrong):
        k = int(keys[wrong[0]])
        raise Damaged(f"key ({k >> 32}, {k & NO_CHUNK}) does not belong here")
    return len(heads)
