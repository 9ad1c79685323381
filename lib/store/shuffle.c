/* shuffle.c - the filters: elements of 2, 4 or 8 bytes as byte planes, bf16 as exponents and the rest, and
 * back.
 *
 * zstd's entropy stage looks at bytes one at a time, so it sees the skew of exponents and high bytes
 * only when they stand together. (Masui et al., "A compression scheme for radio data in high
 * performance computing", 2015, and the Blosc library use the same transposition.) A bf16's exponent
 * straddles its two bytes; rotated left by one bit it has a byte of its own, and sign and mantissa, which are
 * noise, the other.
 *
 * The loops are written out plane by plane because gcc 12 turns this form into pack and unpack
 * instructions, with nothing but SSE2: 30 GB/s and more in the second-level cache, far above zstd.
 */
#include "store_private.h"

#include <string.h>

static void shuffle2(uint8_t *restrict out, const uint8_t *restrict in, size_t n)
{
    uint8_t *restrict hi = out + n;
    for (size_t i = 0; i < n; i++) {
        out[i] = in[2 * i];
        hi[i] = in[2 * i + 1];
    }
}

static void unshuffle2(uint8_t *restrict out, const uint8_t *restrict in, size_t n)
{
    const uint8_t *restrict hi = in + n;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = in[i];
        out[2 * i + 1] = hi[i];
    }
}

static void shuffle4(uint8_t *restrict out, const uint8_t *restrict in, size_t n)
{
    uint8_t *restrict b = out + n, *restrict c = out + 2 * n, *restrict d = out + 3 * n;
    for (size_t i = 0; i < n; i++) {
        out[i] = in[4 * i];
        b[i] = in[4 * i + 1];
        c[i] = in[4 * i + 2];
        d[i] = in[4 * i + 3];
    }
}

static void unshuffle4(uint8_t *restrict out, const uint8_t *restrict in, size_t n)
{
    const uint8_t *restrict b = in + n, *restrict c = in + 2 * n, *restrict d = in + 3 * n;
    for (size_t i = 0; i < n; i++) {
        out[4 * i] = in[i];
        out[4 * i + 1] = b[i];
        out[4 * i + 2] = c[i];
        out[4 * i + 3] = d[i];
    }
}

/* 64-bit columns are rare and writing is bound by zstd: the short form will do (2 GB/s). */
static void shuffle8(uint8_t *restrict out, const uint8_t *restrict in, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t b = 0; b < 8; b++) out[b * n + i] = in[8 * i + b];
}

static void unshuffle8(uint8_t *restrict out, const uint8_t *restrict in, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t b = 0; b < 8; b++) out[8 * i + b] = in[b * n + i];
}

void kd__split_exponents(uint8_t *restrict out, const uint8_t *restrict in, size_t n)
{
    uint8_t *restrict rest = out + n;
    for (size_t i = 0; i < n; i++) {
        const uint8_t lo = in[2 * i], hi = in[2 * i + 1];
        out[i] = (uint8_t)(hi << 1 | lo >> 7);
        rest[i] = (uint8_t)(lo << 1 | hi >> 7);
    }
}

void kd__join_exponents(uint8_t *restrict out, const uint8_t *restrict in, size_t n)
{
    const uint8_t *restrict rest = in + n;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = (uint8_t)(in[i] << 7 | rest[i] >> 1);
        out[2 * i + 1] = (uint8_t)(rest[i] << 7 | in[i] >> 1);
    }
}

void kd__shuffle(uint8_t *out, const uint8_t *in, size_t n, size_t size)
{
    switch (size) {
    case 2: shuffle2(out, in, n); break;
    case 4: shuffle4(out, in, n); break;
    case 8: shuffle8(out, in, n); break;
    default: memcpy(out, in, n * size);
    }
}

void kd__unshuffle(uint8_t *out, const uint8_t *in, size_t n, size_t size)
{
    switch (size) {
    case 2: unshuffle2(out, in, n); break;
    case 4: unshuffle4(out, in, n); break;
    case 8: unshuffle8(out, in, n); break;
    default: memcpy(out, in, n * size);
    }
}
