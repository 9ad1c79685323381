/* vector.simd.c - the loops over many floats, compiled once per instruction set.
 *
 * Plain C that the compiler vectorises; KD_SIMD is the suffix of this copy. Loops over channels keep 16
 * of them in a vector of the compiler's own (split into what the instruction set has) while they
 * walk down the rows, so a row of an image is read once, cache line by cache line. Four rows are summed side by
 * side to hide the latency of an addition; the order of additions depends on shapes alone.
 *
 * The twins these are compared with are in the tests and in the ops' naive functions.
 */
#include "nn_private.h"

#include <math.h>
#include <string.h>

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(f) JOIN(f, KD_SIMD)

#define LANES 16
typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t ivec __attribute__((vector_size(LANES * sizeof(int32_t))));

static inline __attribute__((always_inline)) void load(vec *v, const float *p, size_t n)
{
    if (n == LANES) {
        memcpy(v, p, sizeof *v);
    } else {
        memset(v, 0, sizeof *v);
        memcpy(v, p, n * sizeof *p);
    }
}

static inline __attribute__((always_inline)) void store(float *p, const vec *v, size_t n)
{
    memcpy(p, v, n == LANES ? sizeof *v : n * sizeof *p);
}

/* d where y > 0, else 0 */
static inline __attribute__((always_inline)) void mask(vec *d, const vec *y)
{
    const vec zero = {0};
    const ivec keep = *y > zero;
    ivec bits;
    memcpy(&bits, d, sizeof bits);
    bits &= keep;
    memcpy(d, &bits, sizeof bits);
}

/* Runs BODY once per group of 16 channels from `c0`, with n the (constant, where possible) number of
 * channels in the group. */
#define FOR_CHANNELS(C, ...)                                                                       \
    do {                                                                                           \
        size_t c0 = 0;                                                                             \
        for (; c0 + LANES <= (C); c0 += LANES) {                                                   \
            const size_t n = LANES;                                                                \
            __VA_ARGS__                                                                                  \
        }                                                                                          \
        if (c0 < (C)) {                                                                            \
            const size_t n = (C) - c0;                                                             \
            __VA_ARGS__                                                                                  \
        }                                                                                          \
    } while (0)

/* ---- optimizers --------------------------------------------------------------------------- */

static void adamw(float *w, float *m, float *v, const float *g, size_t n, float lr, float b1, float b2, float eps,
                  float decay, float c1, float c2, float gscale)
{
    const float keep = 1.0f - lr * decay, a1 = 1.0f - b1, a2 = 1.0f - b2;
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        const float d = g[i] * gscale;
        const float mi = m[i] + a1 * (d - m[i]), vi = b2 * v[i] + a2 * d * d;
        m[i] = mi;
        v[i] = vi;
        w[i] = w[i] * keep - c1 * mi / (sqrtf(vi) * c2 + eps);
    }
}

static void sgd(float *w, float *m, const float *g, size_t n, float lr, float mu, float decay, float gscale,
                bool nesterov, bool first)
{
    const float before = first ? 0.0f : mu, ahead = nesterov ? mu : 0.0f, direct = nesterov || mu == 0 ? 1.0f : 0.0f;
    if (mu == 0) {
#pragma omp simd
        for (size_t i = 0; i < n; i++) w[i] -= lr * (g[i] * gscale + decay * w[i]);
        return;
    }
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        const float d = g[i] * gscale + decay * w[i];
        const float mi = before * m[i] + d;
        m[i] = mi;
        w[i] -= lr * (direct * d + (nesterov ? ahead : 1.0f) * mi);
    }
}

static double sumsq(const float *x, size_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

/* ---- elementwise -------------------------------------------------------------------------- */

static void u8_to_f32(float *y, const uint8_t *x, size_t n, float mean, float scale)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] = ((float)x[i] - mean) * scale;
}

static void add(float *y, const float *a, const float *b, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

static void add_to(float *y, const float *a, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] += a[i];
}

static void relu(float *y, const float *x, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] = x[i] > 0 ? x[i] : 0.0f;
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

/* ---- channels: x (rows, c), rows ld apart ------------------------------------------------------------- */

static void col_sum(float *sum, const float *x, size_t rows, size_t c, size_t ld)
{
    FOR_CHANNELS(c, {
        vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, v;
        const float *p = x + c0;
        size_t r = 0;
        for (; r + 4 <= rows; r += 4, p += 4 * ld) {
            load(&v, p, n), s0 += v;
            load(&v, p + ld, n), s1 += v;
            load(&v, p + 2 * ld, n), s2 += v;
            load(&v, p + 3 * ld, n), s3 += v;
        }
        for (; r < rows; r++, p += ld) load(&v, p, n), s0 += v;
        v = (s0 + s1) + (s2 + s3);
        store(sum + c0, &v, n);
    });
}

static void col_sum_sqdev(float *sum, const float *x, const float *mean, size_t rows, size_t c, size_t ld)
{
    FOR_CHANNELS(c, {
        vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, v, mu;
        const float *p = x + c0;
        size_t r = 0;
        load(&mu, mean + c0, n);
        for (; r + 4 <= rows; r += 4, p += 4 * ld) {
            load(&v, p, n), v -= mu, s0 += v * v;
            load(&v, p + ld, n), v -= mu, s1 += v * v;
            load(&v, p + 2 * ld, n), v -= mu, s2 += v * v;
            load(&v, p + 3 * ld, n), v -= mu, s3 += v * v;
        }
        for (; r < rows; r++, p += ld) load(&v, p, n), v -= mu, s0 += v * v;
        v = (s0 + s1) + (s2 + s3);
        store(sum + c0, &v, n);
    });
}

static void scale_shift(float *y, const float *x, const float *a, const float *b, size_t rows, size_t c, bool relu_too)
{
    FOR_CHANNELS(c, {
        vec va, vb, v;
        load(&va, a + c0, n);
        load(&vb, b + c0, n);
        for (size_t r = 0; r < rows; r++) {
            load(&v, x + r * c + c0, n);
            v = v * va + vb;
            if (relu_too) {
                const vec pos = v;
                mask(&v, &pos);
            }
            store(y + r * c + c0, &v, n);
        }
    });
}

static void bn_grad_sums(float *s1, float *s2, const float *dy, const float *x, const float *mean, const float *y,
                         size_t rows, size_t c)
{
    FOR_CHANNELS(c, {
        vec a0 = {0}, a1 = {0}, b0 = {0}, b1 = {0}, d, v, mu, yy;
        size_t r = 0, at = c0;
        load(&mu, mean + c0, n);
        for (; r + 2 <= rows; r += 2, at += 2 * c) {
            load(&d, dy + at, n);
            load(&v, x + at, n);
            if (y) load(&yy, y + at, n), mask(&d, &yy);
            a0 += d, b0 += d * (v - mu);
            load(&d, dy + at + c, n);
            load(&v, x + at + c, n);
            if (y) load(&yy, y + at + c, n), mask(&d, &yy);
            a1 += d, b1 += d * (v - mu);
        }
        if (r < rows) {
            load(&d, dy + at, n);
            load(&v, x + at, n);
            if (y) load(&yy, y + at, n), mask(&d, &yy);
            a0 += d, b0 += d * (v - mu);
        }
        a0 += a1, b0 += b1;
        store(s1 + c0, &a0, n);
        store(s2 + c0, &b0, n);
    });
}

static void bn_dx(float *dx, const float *dy, const float *x, const float *y, const float *k1, const float *k2,
                  const float *k3, size_t rows, size_t c, bool add_too)
{
    FOR_CHANNELS(c, {
        vec v1, v2, v3, d, v, yy, old;
        load(&v1, k1 + c0, n);
        load(&v2, k2 + c0, n);
        load(&v3, k3 + c0, n);
        size_t at = c0;
        for (size_t r = 0; r < rows; r++, at += c) {
            load(&d, dy + at, n);
            load(&v, x + at, n);
            if (y) load(&yy, y + at, n), mask(&d, &yy);
            d = v1 * d + (v2 * v + v3);
            if (add_too) load(&old, dx + at, n), d += old;
            store(dx + at, &d, n);
        }
    });
}

/* ---- pooling: one window --------------------------------------------------------------------- */

static void max_window(float *y, uint8_t *which, const float *x, const size_t *tap, size_t taps, size_t c)
{
    memcpy(y, x + tap[0], c * sizeof *y);
    memset(which, 0, c);
    for (size_t t = 1; t < taps; t++) {
        const float *p = x + tap[t];
#pragma omp simd
        for (size_t i = 0; i < c; i++) {
            const bool better = p[i] > y[i];
            y[i] = better ? p[i] : y[i];
            which[i] = better ? (uint8_t)t : which[i];
        }
    }
}

static void max_window_back(float *dx, const uint8_t *which, const float *dy, const size_t *tap, size_t taps, size_t c)
{
    for (size_t t = 0; t < taps; t++) {
        float *p = dx + tap[t];
#pragma omp simd
        for (size_t i = 0; i < c; i++) p[i] += which[i] == t ? dy[i] : 0.0f;
    }
}

static void axpy(float *y, const float *x, float a, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] += a * x[i];
}

extern const kd__vec NAME(kd__vec);
const kd__vec NAME(kd__vec) = {
    .adamw = adamw, .sgd = sgd, .sumsq = sumsq, .u8_to_f32 = u8_to_f32, .add = add, .add_to = add_to, .relu = relu,
    .relu_mask = relu_mask, .relu_mask_add = relu_mask_add, .col_sum = col_sum, .col_sum_sqdev = col_sum_sqdev,
    .scale_shift = scale_shift, .bn_grad_sums = bn_grad_sums, .bn_dx = bn_dx, .max_window = max_window,
    .max_window_back = max_window_back, .axpy = axpy,
};
