/* vocab.simd.c - one row of very many classes: sums of exponentials, and the gradient they lead to (vocab.c).
 *
 * A row is read three times from the nearest caches: its maximum, its sums, its gradient. Exponentials are
 * made again for the gradient, so that it may take the row's own place.
 */
#include "loss_simd.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

/* unit, both are constants where this is inlined. */
INLINE void add_span(const float *z, int64_t n, float max, float inv_t, double sum[3], const bool unit,
                     const bool both)
{
    _Alignas(64) lanes at_t = {0}, at_1 = {0}, all = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            const float x = z[i + j] - max;
            at_t[j] += exp_of(unit ? x : x * inv_t);
            if (both) at_1[j] += exp_of(x);
            all[j] += x;
        }
    const int rest = (int)(n - i);
#pragma omp simd
    for (int j = 0; j < rest; j++) {
        const float x = z[i + j] - max;
        at_t[j] += exp_of(unit ? x : x * inv_t);
        if (both) at_1[j] += exp_of(x);
        all[j] += x;
    }
    for (int j = 0; j < LANES; j++) {
        sum[0] += (double)at_t[j];
        sum[1] += (double)(both ? at_1[j] : unit ? at_t[j] : 0);
        sum[2] += (double)all[j];
    }
}

static void sums(const float *z, int64_t n, float max, float inv_t, bool both, double sum[3])
{
    if (inv_t == 1)
        add_span(z, n, max, inv_t, sum, true, false);
    else if (both)
        add_span(z, n, max, inv_t, sum, false, true);
    else
        add_span(z, n, max, inv_t, sum, false, false);
}

INLINE void slope(float *dz, const float *z, int64_t n, const kd__vocab_slope *s, const bool unit,
                  const bool both)
{
    const float max = s->max, inv_t = s->inv_t, at_t = s->at_t, at_1 = s->at_1, off = s->off;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float x = z[i] - max;
        float g = at_t * exp_of(unit ? x : x * inv_t) - off;
        if (both) g += at_1 * exp_of(x);
        dz[i] = g;
    }
}

static void gradient(float *dz, const float *z, int64_t n, const kd__vocab_slope *s)
{
    if (s->inv_t == 1)
        slope(dz, z, n, s, true, false);
    else if (s->at_1 != 0)
        slope(dz, z, n, s, false, true);
    else
        slope(dz, z, n, s, false, false);
}

static void from_f16(float *z, const uint16_t *half, int64_t n)
{
    int64_t i = 0;
#if defined __AVX512F__
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(z + i,
                         _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(half + i))));
#elif defined __F16C__
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(z + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(half + i))));
#endif
    kd_to_f32(z + i, half + i, KD_F16, (size_t)(n - i));
}

/* To nearest even; a NaN stays one. */
static void to_bf16(uint16_t *half, const float *dz, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, dz + i, sizeof u);
        const uint32_t nan = u >> 16 | 0x40, rounded = (u + 0x7FFF + (u >> 16 & 1)) >> 16;
        half[i] = (uint16_t)((u & 0x7FFFFFFF) > 0x7F800000 ? nan : rounded);
    }
}

const kd__vocab_vec FN(kd__vocab_vec) = {row_max, sums, gradient, from_f16, to_bf16};
