"""XXH3 in 64 and 128 bits, seed 0: by the xxhash module where it is installed, else by numpy.

The long form works on blocks of 1,024 bytes. Within a block the sixteen stripes only add to eight sums, so the
products of all blocks are made at once; what is left for a loop is one scramble of eight numbers a block. That
gives some hundred MB/s: enough to use a store, several times slower than the module.
(Algorithm: Yann Collet, https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md.)
"""
import numpy as np

try:
    import xxhash as _xxhash
except ImportError:
    _xxhash = None

_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")
_M32, _M64 = (1 << 32) - 1, (1 << 64) - 1
_P32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_P1, _P2, _P3, _P4, _P5 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
                           0x27D4EB2F165667C5)
_STRIPES, _BLOCK = 16, 1024  # stripes a block, bytes a block


def _r32(b, at):
    return int.from_bytes(b[at:at + 4], "little")


def _r64(b, at):
    return int.from_bytes(b[at:at + 8], "little")


def _secret(at):
    return _r64(_SECRET, at)


def _swap32(x):
    return int.from_bytes(x.to_bytes(4, "little"), "big")


def _swap64(x):
    return int.from_bytes(x.to_bytes(8, "little"), "big")


def _rotl64(x, r):
    return (x << r | x >> (64 - r)) & _M64


def _fold(a, b):
    p = a * b
    return (p & _M64) ^ (p >> 64)


def _avalanche64(h):
    h ^= h >> 33
    h = h * _P2 & _M64
    h ^= h >> 29
    h = h * _P3 & _M64
    return h ^ h >> 32


def _avalanche(h):
    h ^= h >> 37
    h = h * 0x165667919E3779F9 & _M64
    return h ^ h >> 32


def _mix16(b, at, secret):
    return _fold(_r64(b, at) ^ _secret(secret), _r64(b, at + 8) ^ _secret(secret + 8))


# ---- up to 240 bytes -------------------------------------------------------------------------


def _short64(b):
    n = len(b)
    if n == 0:
        return _avalanche64(_secret(56) ^ _secret(64))
    if n <= 3:
        combined = b[0] << 16 | b[n >> 1] << 24 | b[n - 1] | n << 8
        return _avalanche64(combined ^ _r32(_SECRET, 0) ^ _r32(_SECRET, 4))
    if n <= 8:
        h = (_r32(b, n - 4) + (_r32(b, 0) << 32)) ^ _secret(8) ^ _secret(16)
        h ^= _rotl64(h, 49) ^ _rotl64(h, 24)
        h = h * 0x9FB21C651E98DF25 & _M64
        h ^= (h >> 35) + n
        h = h * 0x9FB21C651E98DF25 & _M64
        return h ^ h >> 28
    if n <= 16:
        lo = _r64(b, 0) ^ _secret(24) ^ _secret(32)
        hi = _r64(b, n - 8) ^ _secret(40) ^ _secret(48)
        return _avalanche((n + _swap64(lo) + hi + _fold(lo, hi)) & _M64)
    acc = n * _P1
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            acc += _mix16(b, 16 * i, 32 * i) + _mix16(b, n - 16 * (i + 1), 32 * i + 16)
        return _avalanche(acc & _M64)
    for i in range(8):
        acc += _mix16(b, 16 * i, 16 * i)
    acc = _avalanche(acc & _M64)
    for i in range(8, n // 16):
        acc += _mix16(b, 16 * i, 16 * (i - 8) + 3)
    return _avalanche((acc + _mix16(b, n - 16, 136 - 17)) & _M64)


def _mix32(acc, b, one, two, secret):
    lo = (acc[0] + _mix16(b, one, secret)) & _M64 ^ (_r64(b, two) + _r64(b, two + 8)) & _M64
    hi = (acc[1] + _mix16(b, two, secret + 16)) & _M64 ^ (_r64(b, one) + _r64(b, one + 8)) & _M64
    return lo, hi


def _finish128(acc, n):
    lo = _avalanche((acc[0] + acc[1]) & _M64)
    hi = _avalanche((acc[0] * _P1 + acc[1] * _P4 + n * _P2) & _M64)
    return lo, -hi & _M64


def _upto16_128(b):
    n = len(b)
    if n == 0:
        return _avalanche64(_secret(64) ^ _secret(72)), _avalanche64(_secret(80) ^ _secret(88))
    if n <= 3:
        lo = b[0] << 16 | b[n >> 1] << 24 | b[n - 1] | n << 8
        hi = _swap32(lo)
        hi = (hi << 13 | hi >> 19) & _M32
        return (_avalanche64(lo ^ _r32(_SECRET, 0) ^ _r32(_SECRET, 4)),
                _avalanche64(hi ^ _r32(_SECRET, 8) ^ _r32(_SECRET, 12)))
    if n <= 8:
        keyed = (_r32(b, 0) + (_r32(b, n - 4) << 32)) ^ _secret(16) ^ _secret(24)
        p = keyed * (_P1 + (n << 2))
        lo, hi = p & _M64, p >> 64
        hi = (hi + (lo << 1)) & _M64
        lo ^= hi >> 3
        lo ^= lo >> 35
        lo = lo * 0x9FB21C651E98DF25 & _M64
        return lo ^ lo >> 28, _avalanche(hi)
    last = _r64(b, n - 8)
    p = (_r64(b, 0) ^ last ^ _secret(32) ^ _secret(40)) * _P1
    lo, hi = p & _M64, p >> 64
    lo = (lo + ((n - 1) << 54)) & _M64
    last ^= _secret(48) ^ _secret(56)
    hi = (hi + last + (last & _M32) * (_P32[1] - 1)) & _M64
    lo ^= _swap64(hi)
    p = lo * _P2
    return _avalanche(p & _M64), _avalanche(((p >> 64) + hi * _P2) & _M64)


def _short128(b):
    n = len(b)
    if n <= 16:
        return _upto16_128(b)
    acc = (n * _P1 & _M64, 0)
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            acc = _mix32(acc, b, 16 * i, n - 16 * (i + 1), 32 * i)
        return _finish128(acc, n)
    for i in range(4):
        acc = _mix32(acc, b, 32 * i, 32 * i + 16, 32 * i)
    acc = _avalanche(acc[0]), _avalanche(acc[1])
    for i in range(4, n // 32):
        acc = _mix32(acc, b, 32 * i, 32 * i + 16, 3 + 32 * (i - 4))
    return _finish128(_mix32(acc, b, n - 16, n - 32, 136 - 17 - 16), n)


# ---- more than 240 bytes ---------------------------------------------------------------------


def _words(raw, at, n):
    return np.frombuffer(raw, "<u8", n, at)


_KEYS = np.stack([_words(_SECRET, 8 * i, 8) for i in range(_STRIPES)])  # (stripe, lane)
_SCRAMBLE = _words(_SECRET, 128, 8)
_LAST = np.frombuffer(_SECRET[121:185], "<u8")
_SWAP = np.array([1, 0, 3, 2, 5, 4, 7, 6])


def _stripes(data, keys):
    """What stripes add to the sums; data: (..., stripes, 8)."""
    keyed = data ^ keys
    product = (keyed & np.uint64(_M32)) * (keyed >> np.uint64(32))
    return (product + data[..., _SWAP]).sum(axis=-2, dtype=np.uint64)


def _merge(acc, at, start):
    for i in range(4):
        start += _fold(acc[2 * i] ^ _secret(at + 16 * i), acc[2 * i + 1] ^ _secret(at + 16 * i + 8))
    return _avalanche(start & _M64)


def _sums(b):
    n = len(b)
    blocks = (n - 1) // _BLOCK
    acc = np.array([_P32[2], _P1, _P2, _P3, _P4, _P32[1], _P5, _P32[0]], np.uint64)
    shift, prime = np.uint64(47), np.uint64(_P32[0])
    for first in range(0, blocks, 1024):  # 1 MiB at a time: the products stay in the cache
        some = min(1024, blocks - first)
        data = _words(b, first * _BLOCK, some * _BLOCK // 8).reshape(some, _STRIPES, 8)
        for add in _stripes(data, _KEYS):
            acc += add
            acc ^= acc >> shift
            acc ^= _SCRAMBLE
            acc *= prime
    rest = (n - 1 - _BLOCK * blocks) // 64
    acc += _stripes(_words(b, _BLOCK * blocks, 8 * rest).reshape(rest, 8), _KEYS[:rest])
    acc += _stripes(np.frombuffer(bytes(b[n - 64:]), "<u8").reshape(1, 8), _LAST)
    return [int(x) for x in acc]


def numpy_hash64(data):
    """XXH3-64 of bytes as a number, without the xxhash module."""
    b = memoryview(data).cast("B")
    if len(b) <= 240:
        return _short64(bytes(b))
    return _merge(_sums(b), 11, len(b) * _P1 & _M64)


def numpy_hash128(data):
    """XXH3-128 of bytes as 16 bytes, most significant first, without the xxhash module."""
    b = memoryview(data).cast("B")
    if len(b) <= 240:
        lo, hi = _short128(bytes(b))
    else:
        acc = _sums(b)
        lo, hi = _merge(acc, 11, len(b) * _P1 & _M64), _merge(acc, 192 - 64 - 11, ~(len(b) * _P2) & _M64)
    return (hi << 64 | lo).to_bytes(16, "big")


if _xxhash:
    def hash64(data):
        """XXH3-64 of bytes, as a number."""
        return _xxhash.xxh3_64_intdigest(data)

    def hash128(data):
        """XXH3-128 of bytes, as 16 bytes, most significant first."""
        return _xxhash.xxh3_128_digest(data)
else:
    hash64, hash128 = numpy_hash64, numpy_hash128
