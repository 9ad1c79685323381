/* vector.simd.c - the loops over many floats, compiled once per instruction set.
 *
 * Plain C that the compiler vectorises; KD_SIMD is the suffix of this copy. Elementwise loops say `omp
 * simd`. Sums over rows use the compiler's vector types, as wide as a register: only so do accumulators
 * stay in registers. The order of additions depends on the instruction set and on shapes alone.
 *
 * Channels. x (rows, c) is contiguous, so u neighbouring rows are one row of c * u columns in which
 * channel j stands at j, j + c, j + 2c, ...: a tensor of 3 channels is walked as one of 192 columns,
 * with full vectors. Per-channel factors are repeated u times beforehand and sums folded afterwards (both at
 * most a few thousand operations a call); the rows % u last rows are a shorter row.
 *
 * Sums are taken in chunks of 32 rows whose partial sums are then added: that keeps rounding errors small,
 * and a chunk stays in the cache where it is walked twice. Variance is joined from chunks by Chan, Golub and
 * LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979), formula 2.1:
 * no cancellation, one walk through memory.
 *
 * ReLU is `v < 0 ? 0 : v`, which lets a NaN through: a diverged training must not look healthy.
 */
#include "lanes.h"

enum { CHUNK = 32, GROUP = 4, BLOCK = GROUP * LANES, WIDE = 1024, LINE = 16, AHEAD = 512 };
typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef uint16_t halves __attribute__((vector_size(LANES * sizeof(uint16_t))));

/* v where the mask is set, else 0 */
INLINE vec only(ivec mask, vec v) { return bits_of(ints_of(v) & mask); }

/* Walks columns j .. w vector by vector, then the rest: body sees n, a constant but for the rest. */
#define FOR_VECTORS(j, w, n, body)                                                                           \
    do {                                                                                                     \
        for (; j + LANES <= (w); j += LANES) {                                                               \
            enum { n = LANES };                                                                              \
            body;                                                                                            \
        }                                                                                                    \
        if (j < (w)) {                                                                                       \
            const size_t n = (w) - (j);                                                                      \
            body;                                                                                            \
        }                                                                                                    \
    } while (0)

/* ---- optimizers --------------------------------------------------------------------------- */

/* x - x is 0 for finite numbers and NAN for all others, so its sum says whether a weight or AdamW's second
 * moment has left the numbers; the order of such a sum does not matter. An infinite first moment shows in the
 * weight. */
INLINE float adamw_loop(float *w, float *m, float *v, const float *g, float *mean, size_t n,
                        const kd__adamw_factors *f)
{
    const float keep = f->keep, a1 = f->a1, b2 = f->b2, a2 = f->a2, step = f->step, c2 = f->c2, eps = f->eps;
    const float scale = f->grad_scale, rate = f->mean_rate;
    float bad = 0;
#pragma omp simd reduction(+ : bad)
    for (size_t i = 0; i < n; i++) {
        const float d = g[i] * scale;
        const float mi = m[i] + a1 * (d - m[i]), vi = b2 * v[i] + a2 * d * d;
        m[i] = mi;
        v[i] = vi;
        const float wi = w[i] * keep - step * mi / (sqrtf(vi) * c2 + eps);
        w[i] = wi;
        bad += (wi - wi) + (vi - vi);
        if (mean) mean[i] += rate * (wi - mean[i]);
    }
    return bad;
}

static float adamw(float *w, float *m, float *v, const float *g, float *mean, size_t n,
                   const kd__adamw_factors *f)
{
    return mean ? adamw_loop(w, m, v, g, mean, n, f) : adamw_loop(w, m, v, g, NULL, n, f);
}

INLINE float sgd_loop(float *w, float *m, const float *g, float *mean, size_t n, const kd_sgd *p)
{
    const float lr = p->lr, mu = p->momentum, decay = p->weight_decay, scale = p->grad_scale;
    const float direct = p->nesterov ? 1.0f : 0.0f, along = p->nesterov ? mu : 1.0f;
    const float rate = p->along.mean_rate;
    float bad = 0;
#pragma omp simd reduction(+ : bad)
    for (size_t i = 0; i < n; i++) {
        float d = g[i] * scale + decay * w[i];
        if (m) {
            const float mi = mu * m[i] + d;
            m[i] = mi;
            d = direct * d + along * mi;
        }
        const float wi = w[i] - lr * d;
        w[i] = wi;
        bad += wi - wi;
        if (mean) mean[i] += rate * (wi - mean[i]);
    }
    return bad;
}

static float sgd(float *w, float *m, const float *g, float *mean, size_t n, const kd_sgd *p)
{
    if (p->momentum == 0) return mean ? sgd_loop(w, NULL, g, mean, n, p) : sgd_loop(w, NULL, g, NULL, n, p);
    if (p->step == 1) memset(m, 0, n * sizeof *m);
    return mean ? sgd_loop(w, m, g, mean, n, p) : sgd_loop(w, m, g, NULL, n, p);
}

static double sumsq(const float *x, size_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

/* ---- elementwise -------------------------------------------------------------------------- */

static void round_bf16(float *y, const float *x, size_t n)
{
    size_t i = 0;
    FOR_VECTORS(i, n, some, store_some(y + i, bf16_of(load_some(x + i, some)), some));
}

static void to_bf16(uint16_t *y, const float *x, size_t n)
{
    size_t i = 0;
    FOR_VECTORS(i, n, some, {
        const halves upper = __builtin_convertvector(ints_of(bf16_of(load_some(x + i, some))) >> 16, halves);
        memcpy(y + i, &upper, some * sizeof *y);
    });
}

static void from_bf16(float *y, const uint16_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(y + i, &bits, sizeof bits);
    }
}

static void to_f16(uint16_t *y, const float *x, size_t n)
{
    size_t i = 0;
#if defined __AVX512F__
    for (; i + LANES <= n; i += LANES) {
        const __m256i half = _mm512_cvtps_ph((__m512)load(x + i), _MM_FROUND_TO_NEAREST_INT);
        memcpy(y + i, &half, sizeof half);
    }
#elif defined __F16C__
    for (; i + LANES <= n; i += LANES) {
        const __m128i half = _mm256_cvtps_ph((__m256)load(x + i), _MM_FROUND_TO_NEAREST_INT);
        memcpy(y + i, &half, sizeof half);
    }
#endif
    kd_from_f32(y + i, KD_F16, x + i, n - i);
}

static void u8_to_f32(float *y, const uint8_t *x, size_t n, float mean, float scale)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] = ((float)x[i] - mean) * scale;
}

INLINE float positive(float v) { return v < 0 ? 0.0f : v; }

static void add(float *y, const float *a, const float *b, size_t n, bool relu_too)
{
    if (relu_too) {
#pragma omp simd
        for (size_t i = 0; i < n; i++) y[i] = positive(a[i] + b[i]);
        return;
    }
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

static void add_to(float *y, const float *a, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] += a[i];
}

static void times(float *y, const float *a, const float *b, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] = a[i] * b[i];
}

static void relu(float *y, const float *x, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] = positive(x[i]);
}

static void relu_mask(float *dx, const float *dy, const float *y, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) dx[i] = y[i] > 0 ? dy[i] : 0.0f;
}

static void relu_mask_add(float *dx, const float *dy, const float *y, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) dx[i] += y[i] > 0 ? dy[i] : 0.0f;
}

/* ---- dropout ------------------------------------------------------------------------------ */

/* kd_philox (lib/base/rng.c says what it is) for 16 counters at once, each in a lane of 64 bits; word k of
 * all of them decides about elements 16 k .. 16 k + 15 of a block of 64. */
typedef uint64_t lanes64 __attribute__((vector_size(16 * sizeof(uint64_t))));
typedef uint32_t lanes32 __attribute__((vector_size(16 * sizeof(uint32_t))));

static void dropout(float *y, const float *x, size_t n, const kd__mask *m, bool add_too)
{
    const lanes64 low = (lanes64){0} + UINT32_MAX,
                  step = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (size_t at = 0; at < n; at += KD__MASK_BLOCK) {
        const uint64_t first = m->counter[0] + at / 4;
        lanes64 w[4] = {(first + step) & low, (lanes64){0} + m->counter[1], (lanes64){0} + m->counter[2],
                        (lanes64){0} + m->counter[3]};
        uint32_t k0 = m->key[0], k1 = m->key[1];
        for (int r = 0; r < 10; r++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
            const lanes64 p = w[0] * 0xD2511F53u, q = w[2] * 0xCD9E8D57u;
            w[0] = (q >> 32) ^ w[1] ^ k0;
            w[1] = q & low;
            w[2] = (p >> 32) ^ w[3] ^ k1;
            w[3] = p & low;
        }
        for (size_t k = 0; k < 4; k++) {
            const lanes32 word = __builtin_convertvector(w[k], lanes32);
            uint32_t random[16];
            memcpy(random, &word, sizeof random);
            const size_t from = at + 16 * k;
#pragma omp simd
            for (size_t i = 0; i < 16; i++) {
                const float v = random[i] >= m->limit ? x[from + i] * m->scale : 0.0f;
                y[from + i] = add_too ? y[from + i] + v : v;
            }
        }
    }
}

/* ---- channels: rows of few of them side by side ------------------------------------------- */

/* The least power of two u whose wide row of u c columns consists of whole blocks (or vectors) and is not
 * longer than WIDE; 0 if there is none. */
static size_t rows_for(size_t c, size_t whole)
{
    size_t u = 1;
    while (u * c % whole && u < whole) u *= 2;
    return u * c <= WIDE ? u : 0;
}

/* How many rows make a wide one. */
static size_t widen(size_t c)
{
    const size_t u = rows_for(c, BLOCK);
    return u ? u : rows_for(c, LANES) ? rows_for(c, LANES) : 1;
}

/* p (c) u times over, in t (WIDE); p itself where u is 1. NULL stays NULL. */
static const float *repeat(float *t, const float *p, size_t c, size_t u)
{
    if (u == 1 || !p) return p;
    for (size_t i = 0; i < u; i++) memcpy(t + i * c, p, c * sizeof *p);
    return t;
}

/* sum (c) = the u parts of t (u, c), in order. */
static void fold(float *sum, const float *t, size_t c, size_t u)
{
    memcpy(sum, t, c * sizeof *sum);
    for (size_t i = 1; i < u; i++)
        for (size_t j = 0; j < c; j++) sum[j] += t[i * c + j];
}

/* Walks w columns in blocks of GROUP vectors, then as above: body sees the column j and g vectors. Where a
 * block is short of a row, the CPU's own prefetching does not see that all memory is walked: the kernels ask
 * for the next chunk while they walk this one, which doubles the speed on tensors larger than the cache. */
#define FOR_COLUMNS(j, w, g, n, body)                                                                        \
    do {                                                                                                     \
        size_t j = 0;                                                                                        \
        for (; j + BLOCK <= (w); j += BLOCK) {                                                               \
            enum { g = GROUP, n = LANES };                                                                   \
            body;                                                                                            \
        }                                                                                                    \
        enum { g = 1 };                                                                                      \
        FOR_VECTORS(j, w, n, body);                                                                          \
    } while (0)

INLINE void soon(const float *p) { __builtin_prefetch(p, 0, 2); }

/* sum (g vectors) += rows of x (rows, ld). */
INLINE void chunk_sum(float *sum, const float *x, size_t rows, size_t ld, int g, size_t n)
{
    vec s[GROUP];
    for (int i = 0; i < g; i++) s[i] = (vec){0};
    for (size_t r = 0; r < rows; r++, x += ld)
        for (int i = 0; i < g; i++) {
            if (ld > BLOCK) soon(x + CHUNK * ld + i * LANES);
            s[i] += load_some(x + i * LANES, n);
        }
    for (int i = 0; i < g; i++) store_some(sum + i * LANES, load_some(sum + i * LANES, n) + s[i], n);
}

static void col_sum(float *sum, const float *x, size_t rows, size_t c, size_t ld)
{
    float t[WIDE];
    const size_t u = ld == c ? widen(c) : 1, w = u * c, full = rows / u, rest = rows % u * c;
    float *s = u == 1 ? sum : t;
    memset(s, 0, w * sizeof *s);
    for (size_t r = 0; r < full; r += CHUNK)
        FOR_COLUMNS(j, w, g, n,
                    chunk_sum(s + j, x + r * u * ld + j, kd_min_size(CHUNK, full - r), u * ld, g, n));
    add_to(s, x + full * u * ld, rest);
    if (u > 1) fold(sum, t, c, u);
}

/* Joins (na, ma, qa) with (nb, mb, qb): mean and sum of squared deviations of both together. */
#define CHAN(m, q, before, mb, qb, count)                                                                    \
    do {                                                                                                     \
        const __typeof__(m) d_ = (mb) - (m);                                                                 \
        (m) += d_ * ((count) / ((before) + (count)));                                                        \
        (q) += (qb) + d_ * d_ * ((before) * ((count) / ((before) + (count))));                               \
    } while (0)

/* A chunk of rows (rows, w) joins the `before` rows whose mean and squared deviations are m, q (g vectors).
 */
INLINE void chunk_moments(float *m, float *q, float before, const float *x, size_t rows, size_t w, int g,
                          size_t n)
{
    const float count = (float)rows;
    vec mean[GROUP], dev[GROUP];
    for (int i = 0; i < g; i++) mean[i] = dev[i] = (vec){0};
    for (size_t r = 0; r < rows; r++)
        for (int i = 0; i < g; i++) {
            if (w > BLOCK) soon(x + (r + CHUNK) * w + i * LANES);
            mean[i] += load_some(x + r * w + i * LANES, n);
        }
    for (int i = 0; i < g; i++) mean[i] /= count;
    for (size_t r = 0; r < rows; r++)
        for (int i = 0; i < g; i++) {
            const vec v = load_some(x + r * w + i * LANES, n) - mean[i];
            dev[i] += v * v;
        }
    for (int i = 0; i < g; i++) {
        vec mm = load_some(m + i * LANES, n), qq = load_some(q + i * LANES, n);
        CHAN(mm, qq, before, mean[i], dev[i], count);
        store_some(m + i * LANES, mm, n);
        store_some(q + i * LANES, qq, n);
    }
}

static void moments(float *mean, float *sq, const float *x, size_t rows, size_t c)
{
    float tm[WIDE], tq[WIDE];
    const size_t u = widen(c), w = u * c, full = rows / u;
    float *m = u == 1 ? mean : tm, *q = u == 1 ? sq : tq;
    memset(m, 0, w * sizeof *m);
    memset(q, 0, w * sizeof *q);
    for (size_t r = 0; r < full; r += CHUNK)
        FOR_COLUMNS(j, w, g, n,
                    chunk_moments(m + j, q + j, (float)r, x + r * w + j, kd_min_size(CHUNK, full - r), w, g,
                                  n));
    if (u == 1) return;
    const float each = (float)full;
    for (size_t j = 0; j < c; j++) {
        float mj = m[j], qj = q[j];
        for (size_t i = 1; full && i < u; i++)
            CHAN(mj, qj, each * (float)i, m[i * c + j], q[i * c + j], each);
        for (size_t r = full * u; r < rows; r++) CHAN(mj, qj, (float)r, x[r * c + j], 0.0f, 1.0f);
        mean[j] = mj;
        sq[j] = qj;
    }
}

/* ---- batch norm --------------------------------------------------------------------------- */

/* The n numbers half a page behind p are wanted soon. The CPU's own prefetching stops at the end of a page,
 * which a walk along two or three tensors reaches all the time. */
INLINE void soon_row(const float *p, size_t n)
{
    for (size_t j = 0; j < n; j += LINE) soon(p + AHEAD + j);
}

static void scale_shift(float *y, const float *x, const float *a, const float *b, size_t rows, size_t c,
                        bool relu_too)
{
    float ta[WIDE], tb[WIDE];
    const size_t u = widen(c), w = u * c, all_n = rows * c;
    a = repeat(ta, a, c, u);
    b = repeat(tb, b, c, u);
    for (size_t at = 0; at < all_n; at += w, y += w, x += w) {
        const size_t n = kd_min_size(w, all_n - at);
        soon_row(x, n);
        soon_row(y, n);
        if (relu_too) {
#pragma omp simd
            for (size_t j = 0; j < n; j++) y[j] = positive(x[j] * a[j] + b[j]);
        } else {
#pragma omp simd
            for (size_t j = 0; j < n; j++) y[j] = x[j] * a[j] + b[j];
        }
    }
}

/* s1, s2 (g vectors) += the two sums over a chunk of rows; a NULL: no ReLU. */
INLINE void chunk_grads(float *s1, float *s2, const float *dy, const float *x, const float *mean,
                        const float *a, const float *b, size_t rows, size_t w, int g, size_t n)
{
    vec mu[GROUP], va[GROUP], vb[GROUP], t1[GROUP], t2[GROUP];
    for (int i = 0; i < g; i++) {
        mu[i] = load_some(mean + i * LANES, n);
        if (a) va[i] = load_some(a + i * LANES, n), vb[i] = load_some(b + i * LANES, n);
        t1[i] = t2[i] = (vec){0};
    }
    for (size_t r = 0; r < rows; r++, dy += w, x += w)
        for (int i = 0; i < g; i++) {
            if (w > BLOCK) {
                soon(x + CHUNK * w + i * LANES);
                soon(dy + CHUNK * w + i * LANES);
            }
            const vec v = load_some(x + i * LANES, n);
            vec d = load_some(dy + i * LANES, n);
            if (a) d = only(v * va[i] + vb[i] > 0, d);
            t1[i] += d;
            t2[i] += d * (v - mu[i]);
        }
    for (int i = 0; i < g; i++) {
        store_some(s1 + i * LANES, load_some(s1 + i * LANES, n) + t1[i], n);
        store_some(s2 + i * LANES, load_some(s2 + i * LANES, n) + t2[i], n);
    }
}

/* Any number of rows of w columns, the sums and factors as wide. */
INLINE void wide_grads(float *s1, float *s2, const float *dy, const float *x, const float *mean,
                       const float *a, const float *b, size_t rows, size_t w)
{
    for (size_t r = 0; r < rows; r += CHUNK, dy += CHUNK * w, x += CHUNK * w)
        FOR_COLUMNS(j, w, g, n,
                    chunk_grads(s1 + j, s2 + j, dy + j, x + j, mean + j, a ? a + j : NULL, b ? b + j : NULL,
                                kd_min_size(CHUNK, rows - r), w, g, n));
}

static void bn_grad_sums(float *s1, float *s2, const float *dy, const float *x, size_t rows, size_t c,
                         const kd__bn_factors *f)
{
    float t1[WIDE], t2[WIDE], tm[WIDE], ta[WIDE], tb[WIDE];
    const size_t u = widen(c), w = u * c, full = rows / u, rest = rows % u * c;
    float *p1 = u == 1 ? s1 : t1, *p2 = u == 1 ? s2 : t2;
    const float *mean = repeat(tm, f->mean, c, u), *a = repeat(ta, f->a, c, u), *b = repeat(tb, f->b, c, u);
    memset(p1, 0, w * sizeof *p1);
    memset(p2, 0, w * sizeof *p2);
    if (a) {
        wide_grads(p1, p2, dy, x, mean, a, b, full, w);
        wide_grads(p1, p2, dy + full * w, x + full * w, mean, a, b, rest > 0, rest);
    } else {
        wide_grads(p1, p2, dy, x, mean, NULL, NULL, full, w);
        wide_grads(p1, p2, dy + full * w, x + full * w, mean, NULL, NULL, rest > 0, rest);
    }
    if (u > 1) {
        fold(s1, t1, c, u);
        fold(s2, t2, c, u);
    }
}

INLINE void bn_dx_row(float *dx, const float *dy, const float *x, size_t n, const kd__bn_factors *f,
                      bool relu_too, bool add_too)
{
    const float *mean = f->mean, *a = f->a, *b = f->b, *k1 = f->k1, *k2 = f->k2, *k3 = f->k3;
#pragma omp simd
    for (size_t j = 0; j < n; j++) {
        const float v = x[j], d = !relu_too || v * a[j] + b[j] > 0 ? dy[j] : 0.0f;
        const float g = k1[j] * d + (k2[j] * (v - mean[j]) + k3[j]);
        dx[j] = add_too ? dx[j] + g : g;
    }
}

static void bn_dx(float *dx, const float *dy, const float *x, size_t rows, size_t c, const kd__bn_factors *f,
                  bool add_too)
{
    float t[6][WIDE];
    const size_t u = widen(c), w = u * c, all_n = rows * c;
    const kd__bn_factors wide = {
        .mean = repeat(t[0], f->mean, c, u),
        .a = repeat(t[1], f->a, c, u),
        .b = repeat(t[2], f->b, c, u),
        .k1 = repeat(t[3], f->k1, c, u),
        .k2 = repeat(t[4], f->k2, c, u),
        .k3 = repeat(t[5], f->k3, c, u),
    };
    for (size_t at = 0; at < all_n; at += w, dx += w, dy += w, x += w) {
        const size_t n = kd_min_size(w, all_n - at);
        soon_row(x, n);
        soon_row(dy, n);
        if (f->a && !add_too)
            bn_dx_row(dx, dy, x, n, &wide, true, false);
        else if (f->a)
            bn_dx_row(dx, dy, x, n, &wide, true, true);
        else if (!add_too)
            bn_dx_row(dx, dy, x, n, &wide, false, false);
        else
            bn_dx_row(dx, dy, x, n, &wide, false, true);
    }
}

/* ---- pooling: one row of windows ---------------------------------------------------------- */

INLINE void max_window(float *y, uint8_t *which, const float *x, const kd__pool *g, size_t n)
{
    vec best = load_some(x, n);
    ivec place = {0};
    for (size_t t = 1; t < g->k * g->k; t++) {
        const vec v = load_some(x + t / g->k * g->row + t % g->k * g->c, n);
        const ivec better = (v > best) | (v != v);
        best = either(better, v, best);
        place = (place & ~better) | (better & (int32_t)t);
    }
    const bytes b = __builtin_convertvector(place, bytes);
    store_some(y, best, n);
    memcpy(which, &b, n == LANES ? sizeof b : n);
}

static void max_row(float *y, uint8_t *which, const float *x, const kd__pool *g)
{
    for (size_t o = 0; o < g->out_w; o++, y += g->c, which += g->c, x += g->stride * g->c) {
        size_t j = 0;
        FOR_VECTORS(j, g->c, n, max_window(y + j, which + j, x + j, g, n));
    }
}

INLINE void max_window_back(float *dx, const uint8_t *which, const float *dy, const kd__pool *g, bool add_too,
                            size_t n)
{
    bytes b = {0};
    memcpy(&b, which, n == LANES ? sizeof b : n);
    const ivec place = __builtin_convertvector(b, ivec);
    const vec d = load_some(dy, n);
    for (size_t t = 0; t < g->k * g->k; t++) {
        float *p = dx + t / g->k * g->row + t % g->k * g->c;
        const vec v = only(place == (int32_t)t, d);
        store_some(p, add_too ? load_some(p, n) + v : v, n);
    }
}

static void max_row_back(float *dx, const uint8_t *which, const float *dy, const kd__pool *g, bool add_too)
{
    for (size_t o = 0; o < g->out_w; o++, dy += g->c, which += g->c, dx += g->stride * g->c) {
        size_t j = 0;
        FOR_VECTORS(j, g->c, n, max_window_back(dx + j, which + j, dy + j, g, add_too, n));
    }
}

INLINE void avg_window(float *y, const float *x, const kd__pool *g, size_t n)
{
    vec sum = load_some(x, n);
    for (size_t t = 1; t < g->k * g->k; t++) sum += load_some(x + t / g->k * g->row + t % g->k * g->c, n);
    store_some(y, sum * all(1 / (float)(g->k * g->k)), n);
}

static void avg_row(float *y, const float *x, const kd__pool *g)
{
    for (size_t o = 0; o < g->out_w; o++, y += g->c, x += g->stride * g->c) {
        size_t j = 0;
        FOR_VECTORS(j, g->c, n, avg_window(y + j, x + j, g, n));
    }
}

INLINE void avg_window_back(float *dx, const float *dy, const kd__pool *g, bool add_too, size_t n)
{
    const vec d = load_some(dy, n) * all(1 / (float)(g->k * g->k));
    for (size_t t = 0; t < g->k * g->k; t++) {
        float *p = dx + t / g->k * g->row + t % g->k * g->c;
        store_some(p, add_too ? load_some(p, n) + d : d, n);
    }
}

static void avg_row_back(float *dx, const float *dy, const kd__pool *g, bool add_too)
{
    for (size_t o = 0; o < g->out_w; o++, dy += g->c, dx += g->stride * g->c) {
        size_t j = 0;
        FOR_VECTORS(j, g->c, n, avg_window_back(dx + j, dy + j, g, add_too, n));
    }
}

/* Every row of y (rows, c) becomes, or gets added, scale * x (c). */
static void spread(float *y, const float *x, float scale, size_t rows, size_t c, bool add_too)
{
    for (size_t r = 0; r < rows; r++, y += c)
        if (add_too) {
#pragma omp simd
            for (size_t j = 0; j < c; j++) y[j] += scale * x[j];
        } else {
#pragma omp simd
            for (size_t j = 0; j < c; j++) y[j] = scale * x[j];
        }
}

const kd__vec NAME(kd__vec) = {
    .adamw = adamw,
    .sgd = sgd,
    .sumsq = sumsq,
    .u8_to_f32 = u8_to_f32,
    .round_bf16 = round_bf16,
    .to_bf16 = to_bf16,
    .from_bf16 = from_bf16,
    .to_f16 = to_f16,
    .add = add,
    .add_to = add_to,
    .times = times,
    .relu = relu,
    .relu_mask = relu_mask,
    .relu_mask_add = relu_mask_add,
    .col_sum = col_sum,
    .moments = moments,
    .scale_shift = scale_shift,
    .bn_grad_sums = bn_grad_sums,
    .bn_dx = bn_dx,
    .max_row = max_row,
    .max_row_back = max_row_back,
    .avg_row = avg_row,
    .avg_row_back = avg_row_back,
    .spread = spread,
    .dropout = dropout,
};
