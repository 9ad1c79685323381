/* gguf_blocks.c - the quantised numbers of GGUF files as f32.
 *
 *     Q4_0   scale f16, 32 x 4 bits                      (q - 8) d
 *     Q4_1   scale, minimum f16, 32 x 4 bits             q d + m
 *     Q8_0   scale f16, 32 x 8 bits                      q d
 *     Q4_K   d, dmin f16; 8 scales and minima of 6 bits for 32 numbers each; 256 x 4 bits
 *     Q6_K   256 x 4 low bits, 256 x 2 high ones, 16 scales of 8 bits for 16 numbers each, d f16
 *
 * Low halves of bytes hold the first half of a block, high halves the second. The order of operations is that
 * of llama.cpp, and this file is compiled without fused multiply-add, so that the bits are the same too.
 */
#include "kd/gguf.h"

#include <string.h>

static const struct {
    uint32_t type;
    const char *name;
    size_t block, bytes;
} types[] = {
#define X(NAME, number, name, block, bytes) {number, name, block, bytes},
    KD_GGUF_TYPE_MAP(X)
#undef X
};
enum { TYPES = sizeof types / sizeof *types };

/* The place of a type in the table, TYPES: not there. */
static size_t place_of(uint32_t type)
{
    size_t i = 0;
    while (i < TYPES && types[i].type != type) i++;
    return i;
}

const char *kd_gguf_type_name(uint32_t type)
{
    const size_t i = place_of(type);
    return i < TYPES ? types[i].name : NULL;
}

size_t kd_gguf_bytes(kd_gguf_type type, size_t n)
{
    const size_t i = place_of(type);
    size_t bytes;
    if (i == TYPES || n % types[i].block || !kd_mul_size(n / types[i].block, types[i].bytes, &bytes))
        return 0;
    return bytes;
}

static float half(const uint8_t *b)
{
    float x;
    uint16_t h;
    memcpy(&h, b, sizeof h);
    kd_to_f32(&x, &h, KD_F16, 1);
    return x;
}

static void q4_0(float *x, const uint8_t *b)
{
    const float d = half(b);
    for (int i = 0; i < 16; i++) {
        x[i] = (float)((b[2 + i] & 15) - 8) * d;
        x[i + 16] = (float)((b[2 + i] >> 4) - 8) * d;
    }
}

static void q4_1(float *x, const uint8_t *b)
{
    const float d = half(b), m = half(b + 2);
    for (int i = 0; i < 16; i++) {
        x[i] = (float)(b[4 + i] & 15) * d + m;
        x[i + 16] = (float)(b[4 + i] >> 4) * d + m;
    }
}

static void q8_0(float *x, const uint8_t *b)
{
    const float d = half(b);
    for (int i = 0; i < 32; i++) x[i] = (float)(int8_t)b[2 + i] * d;
}

/* Scale and minimum of 32 numbers, of the 12 bytes that hold eight of each. */
static void q4_k_scale(const uint8_t *s, int i, int *scale, int *least)
{
    if (i < 4) {
        *scale = s[i] & 63;
        *least = s[i + 4] & 63;
    } else {
        *scale = (s[i + 4] & 15) | (s[i - 4] >> 6) << 4;
        *least = s[i + 4] >> 4 | (s[i] >> 6) << 4;
    }
}

static void q4_k(float *x, const uint8_t *b)
{
    const float d = half(b), dmin = half(b + 2);
    for (int i = 0; i < 8; i++) {
        const uint8_t *q = b + 16 + 32 * (i / 2);
        int scale, least;
        q4_k_scale(b + 4, i, &scale, &least);
        const float a = d * (float)scale, m = dmin * (float)least;
        for (int k = 0; k < 32; k++) x[32 * i + k] = a * (float)(i % 2 ? q[k] >> 4 : q[k] & 15) - m;
    }
}

static void q6_k(float *x, const uint8_t *b)
{
    const float d = half(b + 208);
    for (int i = 0; i < 256; i++) {
        const int part = i / 128, quarter = i % 128 / 32, k = i % 32;
        const uint8_t low = b[64 * part + 32 * (quarter % 2) + k], high = b[128 + 32 * part + k];
        const int q = ((quarter < 2 ? low & 15 : low >> 4) | (high >> 2 * quarter & 3) << 4) - 32;
        x[i] = d * (float)(int8_t)b[192 + i / 16] * (float)q;
    }
}

void kd_gguf_decode(float *out, const void *blocks, kd_gguf_type type, size_t n)
{
    const size_t i = place_of(type);
    const uint8_t *b = blocks;
    if (type == KD_GGUF_F32) memcpy(out, b, n * sizeof *out);
    if (type == KD_GGUF_F16) kd_to_f32(out, b, KD_F16, n);
    if (type == KD_GGUF_BF16) kd_to_f32(out, b, KD_BF16, n);
    void (*const block)(float *, const uint8_t *) = type == KD_GGUF_Q4_0   ? q4_0
                                                    : type == KD_GGUF_Q4_1 ? q4_1
                                                    : type == KD_GGUF_Q8_0 ? q8_0
                                                    : type == KD_GGUF_Q4_K ? q4_k
                                                    : type == KD_GGUF_Q6_K ? q6_k
                                                                           : NULL;
    for (size_t at = 0; block && at < n; at += types[i].block, b += types[i].bytes) block(out + at, b);
}
