/* vocab.simd.c - one row of very many classes: sums of exponentials, and the gradient they lead to (vocab.c).
 *
 * A row is read three times from the nearest caches: its maximum, its sums, its gradient. Exponentials are
 * made again for the gradient, so that it may take the row's own place.
 */
#include "loss_simd.h"

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

const kd__vocab_vec FN(kd__vocab_vec) = {row_max, sums, gradient};
