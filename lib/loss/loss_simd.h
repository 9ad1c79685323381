/* loss_simd.h - what kernels of objectives share: lanes, exponentials, logarithms. Included by *.simd.c
 * alone.
 *
 * exp: n = round(x / ln 2), r = x - n ln 2 in two parts, a polynomial of degree 7 for exp(r)
 * (Cephes' expf, below 2 ulp), then n added to the exponent's bits. Arguments here are z - max <= 0;
 * below -87.33 the result is 0. NaN and infinite logits give NaN, so that the trainer sees them.
 */
#ifndef KD_LOSS_SIMD_H
#define KD_LOSS_SIMD_H

#include "loss_private.h"

#include <math.h>
#include <string.h>

#define JOIN_(a, b) a##_##b
#define JOIN(a, b)  JOIN_(a, b)
#define FN(name)    JOIN(name, KD_SIMD)
#define INLINE      static inline __attribute__((always_inline))

enum { LANES = KD__LOSS_ROWS };
typedef float lanes[LANES];

INLINE float exp_of(float x)
{
    const float lo = -87.33f;
    float y = x < lo ? lo : x;                        // keeps NaN
    float k = y * 1.44269504088896341f + 12582912.0f; // 1.5 * 2^23: rounds, n in the low bits
    float n = k - 12582912.0f;
    float r = y - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    uint32_t kb, pb;
    memcpy(&kb, &k, 4);
    memcpy(&pb, &p, 4);
    pb += kb << 23;
    memcpy(&p, &pb, 4);
    return x < lo ? 0.0f : y != y ? y : p;
}

/* log of a normal x > 0 (0: finite), in double: x = 2^k m, log m = 2 atanh((m - 1) / (m + 1)), error below
 * 1e-14. NaN stays. */
INLINE double log_of(double x)
{
    uint64_t b, eb;
    memcpy(&b, &x, 8);
    uint64_t up = b + 0x00095F619980C433u; // carries into the exponent where m > sqrt 2
    eb = (up >> 52) | 0x4330000000000000u;
    double k, m;
    memcpy(&k, &eb, 8);
    k -= 4503599627370496.0 + 1023.0;
    b = b - (up & 0xFFF0000000000000u) + 0x3FF0000000000000u;
    memcpy(&m, &b, 8);
    double s = (m - 1) / (m + 1), s2 = s * s, p = 1.0 / 15;
    p = p * s2 + 1.0 / 13;
    p = p * s2 + 1.0 / 11;
    p = p * s2 + 1.0 / 9;
    p = p * s2 + 1.0 / 7;
    p = p * s2 + 1.0 / 5;
    p = p * s2 + 1.0 / 3;
    p = p * s2 + 1.0;
    double y = k * 0.693147180559945309 + 2 * s * p;
    return x != x ? x : y;
}

INLINE void spread(float *x, float value)
{
    for (int j = 0; j < LANES; j++) x[j] = value;
}

INLINE void maxima(float *restrict max, const lanes *x, int n)
{
    for (int i = 0; i < n; i++)
#pragma omp simd
        for (int j = 0; j < LANES; j++) max[j] = x[i][j] > max[j] ? x[i][j] : max[j];
}

INLINE float row_max(const float *x, int64_t n)
{
    lanes max;
    int64_t i = 0;
    float top = -INFINITY;
    spread(max, top);
    for (; i + LANES <= n; i += LANES) maxima(max, (const lanes *)(x + i), 1);
    for (; i < n; i++) top = x[i] > top ? x[i] : top;
    for (int j = 0; j < LANES; j++) top = max[j] > top ? max[j] : top;
    return top;
}

#endif
