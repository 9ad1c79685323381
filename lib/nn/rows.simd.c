/* rows.simd.c - the inner loops of convolutions that walk images row by row (rows.c), once per instruction
 * set: the products of rows_tiles.h, and their depthwise sisters, channel by channel.
 *
 * The loops of a batch norm in front or behind work on the same few rows, which are in the nearest cache.
 *
 * Channels are multiples of 16, but for those of x in a first layer, which are any number. The order of
 * additions depends on the instruction set and on shapes alone.
 */
#define MEET(sum, a, u) ((sum) + (a) * (u))
#include "rows_tiles.h"

enum { CHUNK = 64, AHEAD = 512 };

INLINE void soon(const float *p) { __builtin_prefetch(p + AHEAD, 0, 2); }

/* ---- depthwise ---------------------------------------------------------------------------- */

/* One vector of channels, k numbers of a segment, r rows: both constants. */
INLINE void deep_columns(const kd__product *t, float *y, size_t at, const float *w, int r, int k)
{
    const size_t c = t->out;
    const vec bias = t->bias ? load(t->bias + at) : (vec){0};
    const float *x[KD__ROWS_WINDOW];
    vec u[KD__ROWS_WINDOW][KD__ROWS_WINDOW];
    UNROLL for (int i = 0; i < r; i++)
    {
        x[i] = t->x[i] + at;
        UNROLL for (int j = 0; j < k; j++) u[i][j] = load(w + (size_t)(i * k + j) * c + at);
    }
    for (size_t p = 0; p < t->n; p++, y += t->y_pitch) {
        vec sum[KD__ROWS_WINDOW]; // one for each row: shorter chains
        UNROLL for (int i = 0; i < r; i++)
        {
            sum[i] = i ? (vec){0} : bias;
            UNROLL for (int j = 0; j < k; j++) sum[i] += load(x[i] + (size_t)j * c) * u[i][j];
            x[i] += t->x_pitch;
        }
        UNROLL for (int i = 1; i < r; i++) sum[0] += sum[i];
        if (t->add) sum[0] += load(y + at);
        store(y + at, t->relu ? positive(sum[0]) : sum[0]);
    }
}

INLINE void deep_rows(const kd__product *t, float *y, const float *w, int r)
{
    const size_t taps = t->len / t->out;
    for (size_t at = 0; at < t->out; at += LANES)
        if (taps == 3)
            deep_columns(t, y, at, w, r, 3);
        else if (taps == 2)
            deep_columns(t, y, at, w, r, 2);
        else
            deep_columns(t, y, at, w, r, 1);
}

static void deep_product(const kd__product *all, float *y, const float *w)
{
    kd__product t = *all;
    for (size_t line = 0; line < t.lines; line++, t.x += t.x_step, y += t.y_line)
        if (t.rows == 3)
            deep_rows(&t, y, w, 3);
        else if (t.rows == 2)
            deep_rows(&t, y, w, 2);
        else
            deep_rows(&t, y, w, 1);
}

/* k rows of k numbers. */
INLINE void deep_weights_columns(const kd__product *t, float *dw, size_t step, const float *const *dy,
                                 size_t dy_rows, size_t at, int k)
{
    const size_t c = t->out;
    vec sum[KD__ROWS_WINDOW][KD__ROWS_WINDOW];
    UNROLL for (int i = 0; i < k; i++) UNROLL for (int j = 0; j < k; j++) sum[i][j] =
        load(dw + (size_t)(i * k + j) * c + at);
    for (size_t r = 0; r < dy_rows; r++) {
        const float *x[KD__ROWS_WINDOW], *dr = dy[r] + at;
        UNROLL for (int i = 0; i < k; i++) x[i] = t->x[r * step + (size_t)i] + at;
        for (size_t p = 0; p < t->n; p++, dr += c) {
            const vec d = load(dr);
            UNROLL for (int i = 0; i < k; i++)
            {
                UNROLL for (int j = 0; j < k; j++) sum[i][j] += load(x[i] + (size_t)j * c) * d;
                x[i] += t->x_pitch;
            }
        }
    }
    UNROLL for (int i = 0; i < k; i++) UNROLL for (int j = 0; j < k; j++)
        store(dw + (size_t)(i * k + j) * c + at, sum[i][j]);
}

static void deep_weights(const kd__product *t, float *dw, size_t step, const float *const *dy, size_t dy_rows)
{
    for (size_t at = 0; at < t->out; at += LANES)
        if (t->rows == 3)
            deep_weights_columns(t, dw, step, dy, dy_rows, at, 3);
        else
            deep_weights_columns(t, dw, step, dy, dy_rows, at, 1);
}

/* ---- batch norm --------------------------------------------------------------------------- */

/* Walks c columns, two vectors at a time where there are as many: body sees the column j and g vectors. */
#define FOR_COLUMNS(j, c, g, body)                                                                           \
    do {                                                                                                     \
        size_t j = 0;                                                                                        \
        for (; j + PAIR <= (c); j += PAIR) {                                                                 \
            enum { g = 2 };                                                                                  \
            body;                                                                                            \
        }                                                                                                    \
        if (j < (c)) {                                                                                       \
            enum { g = 1 };                                                                                  \
            body;                                                                                            \
        }                                                                                                    \
    } while (0)

INLINE void apply_columns(float *y, const float *x, const float *a, const float *b, size_t n, size_t c,
                          bool relu_too, int g)
{
    vec va[2], vb[2];
    for (int i = 0; i < g; i++) va[i] = load(a + i * LANES), vb[i] = load(b + i * LANES);
    for (size_t p = 0; p < n; p++, x += c, y += c)
        for (int i = 0; i < g; i++) {
            soon(x + i * LANES);
            const vec v = load(x + i * LANES) * va[i] + vb[i];
            store(y + i * LANES, relu_too ? positive(v) : v);
        }
}

static void bn_apply(float *y, const float *x, const kd__bn_factors *f, size_t n, size_t c, bool relu_too)
{
    if (relu_too)
        FOR_COLUMNS(j, c, g, apply_columns(y + j, x + j, f->a + j, f->b + j, n, c, true, g));
    else
        FOR_COLUMNS(j, c, g, apply_columns(y + j, x + j, f->a + j, f->b + j, n, c, false, g));
}

INLINE void dx_columns(float *dx, const float *dy, const float *x, const kd__bn_factors *f, size_t j,
                       size_t n, size_t c, bool relu_too, int g)
{
    vec mu[2], a[2], b[2], k1[2], k2[2], k3[2];
    for (int i = 0; i < g; i++) {
        const size_t at = j + (size_t)i * LANES;
        mu[i] = load(f->mean + at), a[i] = load(f->a + at), b[i] = load(f->b + at);
        k1[i] = load(f->k1 + at), k2[i] = load(f->k2 + at), k3[i] = load(f->k3 + at);
    }
    for (size_t p = 0; p < n; p++, dx += c, dy += c, x += c)
        for (int i = 0; i < g; i++) {
            soon(x + i * LANES);
            soon(dy + i * LANES);
            const vec v = load(x + i * LANES);
            vec d = load(dy + i * LANES);
            if (relu_too) d = only(v * a[i] + b[i] > 0, d);
            store(dx + i * LANES, k1[i] * d + (k2[i] * (v - mu[i]) + k3[i]));
        }
}

static void bn_dx(float *dx, const float *dy, const float *x, const kd__bn_factors *f, size_t n, size_t c,
                  bool relu_too)
{
    if (relu_too)
        FOR_COLUMNS(j, c, g, dx_columns(dx + j, dy + j, x + j, f, j, n, c, true, g));
    else
        FOR_COLUMNS(j, c, g, dx_columns(dx + j, dy + j, x + j, f, j, n, c, false, g));
}

INLINE void sums_columns(float *s1, float *s2, const float *dy, const float *x, const kd__bn_factors *f,
                         size_t j, size_t n, size_t c, bool relu_too, int g)
{
    vec mu[2], a[2], b[2], t1[2], t2[2];
    for (int i = 0; i < g; i++) {
        const size_t at = j + (size_t)i * LANES;
        mu[i] = load(f->mean + at), a[i] = load(f->a + at), b[i] = load(f->b + at);
        t1[i] = t2[i] = (vec){0};
    }
    for (size_t p = 0; p < n; p++, dy += c, x += c)
        for (int i = 0; i < g; i++) {
            const vec v = load(x + i * LANES);
            vec d = load(dy + i * LANES);
            if (relu_too) d = only(v * a[i] + b[i] > 0, d);
            t1[i] += d;
            t2[i] += d * (v - mu[i]);
        }
    for (int i = 0; i < g; i++) {
        store(s1 + i * LANES, load(s1 + i * LANES) + t1[i]);
        store(s2 + i * LANES, load(s2 + i * LANES) + t2[i]);
    }
}

static void bn_sums(float *s1, float *s2, const float *dy, const float *x, const kd__bn_factors *f, size_t n,
                    size_t c, bool relu_too)
{
    if (relu_too)
        FOR_COLUMNS(j, c, g, sums_columns(s1 + j, s2 + j, dy + j, x + j, f, j, n, c, true, g));
    else
        FOR_COLUMNS(j, c, g, sums_columns(s1 + j, s2 + j, dy + j, x + j, f, j, n, c, false, g));
}

/* n pixels join the `before` ones whose mean and squared deviations are m, q (vector.simd.c says how). */
INLINE void moments_columns(float *m, float *q, float before, const float *x, size_t n, size_t c, int g)
{
    const float count = (float)n, share = count / (before + count);
    vec mean[2], dev[2];
    for (int i = 0; i < g; i++) mean[i] = dev[i] = (vec){0};
    for (size_t p = 0; p < n; p++)
        for (int i = 0; i < g; i++) mean[i] += load(x + p * c + i * LANES);
    for (int i = 0; i < g; i++) mean[i] /= count;
    for (size_t p = 0; p < n; p++)
        for (int i = 0; i < g; i++) {
            const vec v = load(x + p * c + i * LANES) - mean[i];
            dev[i] += v * v;
        }
    for (int i = 0; i < g; i++) {
        const vec old = load(m + i * LANES), d = mean[i] - old;
        store(m + i * LANES, old + d * share);
        store(q + i * LANES, load(q + i * LANES) + dev[i] + d * d * (before * share));
    }
}

static void moments(float *m, float *q, size_t before, const float *x, size_t n, size_t c)
{
    for (size_t p = 0; p < n; p += CHUNK)
        FOR_COLUMNS(j, c, g,
                    moments_columns(m + j, q + j, (float)(before + p), x + p * c + j,
                                    kd_min_size(CHUNK, n - p), c, g));
}

const kd__rows_kernels NAME(kd__rows) = {
    .product = product,
    .weights = weights,
    .deep_product = deep_product,
    .deep_weights = deep_weights,
    .bn_apply = bn_apply,
    .bn_dx = bn_dx,
    .bn_sums = bn_sums,
    .moments = moments,
};
