/* lanes.h - vectors as wide as a register, for kernels compiled once per instruction set (*.simd.c).
 *
 * exp: n = round(x / ln 2), r = x - n ln 2 in two parts, a polynomial of degree 7 for exp(r) on
 * |r| <= ln 2 / 2, times 2^n, whose exponent is n: below 2 ulp for -87 <= x <= 88, arguments outside
 * are taken for these bounds. A NaN stays one.
 */
#ifndef KD_NN_LANES_H
#define KD_NN_LANES_H

#include "nn_private.h"

#include <math.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b)  JOIN_(a, b)
#define NAME(f)     JOIN(f, KD_SIMD)
#define INLINE      static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#if defined __AVX512F__
enum { LANES = 16 };
#elif defined __AVX2__
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t ivec __attribute__((vector_size(LANES * sizeof(int32_t))));
typedef uint32_t uvec __attribute__((vector_size(LANES * sizeof(uint32_t))));

INLINE vec load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* n <= LANES numbers; the other lanes are 0. */
INLINE vec load_some(const float *p, size_t n)
{
    vec v = {0};
    memcpy(&v, p, n * sizeof *p);
    return v;
}

INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE void store_some(float *p, vec v, size_t n) { memcpy(p, &v, n * sizeof *p); }
/* a - 0 is a, of either sign of 0; 0 + a would be an addition. */
INLINE vec all(float a) { return a - (vec){0}; }

INLINE vec bits_of(ivec i)
{
    vec v;
    memcpy(&v, &i, sizeof v);
    return v;
}

INLINE ivec ints_of(vec v)
{
    ivec i;
    memcpy(&i, &v, sizeof i);
    return i;
}

/* yes where the mask is set */
INLINE vec either(ivec mask, vec yes, vec no)
{
    return bits_of((ints_of(yes) & mask) | (ints_of(no) & ~mask));
}
/* With a NaN on either side, b. Compilers make several instructions of a comparison and a choice. */
#if defined __AVX512F__
INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined __AVX2__
INLINE vec larger(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
#else
INLINE vec larger(vec a, vec b) { return either(a > b, a, b); }
INLINE vec smaller(vec a, vec b) { return either(a < b, a, b); }
#endif
INLINE vec size_of(vec v) { return bits_of(ints_of(v) & INT32_MAX); }

/* Rounded to bf16, to nearest even. */
INLINE vec bf16_of(vec v)
{
    const ivec u = ints_of(v), rounded = (ivec)((uvec)u + 0x7FFF + ((uvec)u >> 16 & 1));
    return bits_of(ints_of(either(v != v, bits_of(u | 0x400000), bits_of(rounded))) & ~0xFFFF);
}

typedef float quad __attribute__((vector_size(4 * sizeof(float))));
enum { QUADS = LANES / 4 };

/* The lanes' sum, halves onto halves. */
INLINE float total(vec v)
{
    quad q[QUADS];
    memcpy(q, &v, sizeof v);
    UNROLL for (int n = QUADS / 2; n; n /= 2) UNROLL for (int i = 0; i < n; i++) q[i] += q[i + n];
    return (q[0][0] + q[0][2]) + (q[0][1] + q[0][3]);
}

INLINE float largest(vec v)
{
    quad q[QUADS];
    memcpy(q, &v, sizeof v);
    UNROLL for (int i = 1; i < QUADS; i++) UNROLL for (int k = 0; k < 4; k++) q[0][k] =
        q[i][k] > q[0][k] ? q[i][k] : q[0][k];
    const float a = q[0][2] > q[0][0] ? q[0][2] : q[0][0], b = q[0][3] > q[0][1] ? q[0][3] : q[0][1];
    return b > a ? b : a;
}

/* Lanes of two vectors of which the second one's have numbers from LANES on: where `step` is not in a lane's
 * number a's, and b's of `step` lanes before; or a's of `step` lanes behind, and b's. */
#define UPPER_(lane, step)     ((lane) & (step) ? LANES + (lane) - (step) : (lane))
#define LOWER_(lane, step)     ((lane) & (step) ? LANES + (lane) : (lane) + (step))
#define FOUR_(which, at, step) which(at, step), which(at + 1, step), which(at + 2, step), which(at + 3, step)
#if defined __AVX512F__
#define ALL_(which, step)                                                                                    \
    FOUR_(which, 0, step), FOUR_(which, 4, step), FOUR_(which, 8, step), FOUR_(which, 12, step)
#elif defined __AVX2__
#define ALL_(which, step) FOUR_(which, 0, step), FOUR_(which, 4, step)
#else
#define ALL_(which, step) FOUR_(which, 0, step)
#endif
#define CROSS_(v, step)                                                                                      \
    UNROLL for (int i = 0; i < LANES; i++) if (!(i & (step)))                                                \
    {                                                                                                        \
        const vec a = v[i], b = v[i + (step)];                                                               \
        v[i] = __builtin_shufflevector(a, b, ALL_(UPPER_, step));                                            \
        v[i + (step)] = __builtin_shufflevector(a, b, ALL_(LOWER_, step));                                   \
    }

/* A square of LANES vectors, transposed: blocks off the diagonal change places, smaller and smaller ones. */
INLINE void transpose_square(vec v[LANES])
{
#if defined __AVX512F__
    CROSS_(v, 8)
#endif
#if defined __AVX2__
    CROSS_(v, 4)
#endif
    CROSS_(v, 2)
    CROSS_(v, 1)
}

INLINE vec exp_of(vec x)
{
    const vec magic = all(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer
    x = smaller(all(88.0f), larger(all(-87.0f), x));
    const vec t = x * 1.44269504f + magic, n = t - magic;
    const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = all(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * bits_of((ints_of(t) - (ints_of(magic) - 127)) << 23);
}

#endif
