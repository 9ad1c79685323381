/* batchnorm.c - batch normalisation over channels (Ioffe and Szegedy 2015), with a fused ReLU.
 *
 * x is (rows, C), rows = batch and space together, cut into slices that depend on the shape alone. Training
 * reads x twice: once for statistics, once to write y. A slice is walked in blocks that stay in cache: the block's
 * mean, then its squared deviations, joined by Chan's formula (Chan, Golub and LeVeque 1979), so the
 * variance does not cancel. Slices are joined in order, in double. Backward reads x, dy (and y for the
 * ReLU's mask) twice as well: two sums per channel, then
 *
 *     dx = w s (dy - mean(dy) - (x - m) s^2 mean(dy (x - m)))  =  k1 dy + k2 x + k3,   s = 1 / sqrt(var + eps)
 *
 * Inference is one pass y = a x + b with the running statistics.
 */
#include "nn_private.h"

#include <math.h>
#include <string.h>

enum { WEIGHT, BIAS, MEAN, VAR };
enum { MAX_SLICES = 32, MIN_ROWS = 128, BLOCK_FLOATS = 4096 };

kd_node kd_nn_batchnorm(kd_graph *g, const char *name, kd_node x, float momentum, float eps)
{
    const kd__attrs a = {.momentum = momentum, .eps = eps};
    return kd__graph_add(g, &kd__op_batchnorm, name, 1, &x, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    if (x->ndims < 1) return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has no channels", n->name, x->name);
    n->ndims = x->ndims;
    memcpy(n->dims, x->dims, sizeof n->dims);
    const int64_t c[] = {x->dims[x->ndims - 1]};
    kd_status st = kd__graph_param(g, n, "weight", 1, c, false, false, err);
    if (!st) st = kd__graph_param(g, n, "bias", 1, c, false, false, err);
    if (!st) st = kd__graph_param(g, n, "running_mean", 1, c, true, false, err);
    return st ? st : kd__graph_param(g, n, "running_var", 1, c, true, false, err);
}

/* The grid of one batch norm. */
typedef struct grid {
    size_t rows, c, slices;
} grid;

static grid grid_of(const kd_exec *ex, const kd__node_info *n)
{
    grid g = {.c = (size_t)n->dims[n->ndims - 1]};
    g.rows = (size_t)ex->p.batch * n->size / g.c;
    g.slices = g.rows / MIN_ROWS;
    g.slices = g.slices < 1 ? 1 : g.slices > MAX_SLICES ? MAX_SLICES : g.slices;
    return g;
}

static size_t slice_at(const grid *g, size_t s) { return g->rows * s / g->slices; }

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    const grid g = grid_of(ex, s->n);
    (void)err;
    s->keep_floats = 5 * g.c;                        /* mean, 1/sd, and a, b (later k1, k2, k3) */
    s->shared_floats = 2 * (2 * g.slices * g.c) + 16; /* two doubles a slice and channel */
    return KD_OK;
}

/* Mean and sum of squared deviations of one slice into m (C), q (C); channels in groups, so that a block
 * of rows stays in the first-level cache between its two walks. */
static void slice_statistics(const float *x, size_t rows, size_t c, double *m, double *q)
{
    const kd__vec *k = kd__vec_get();
    enum { MAX_C = 512 };
    float sum[MAX_C], dev[MAX_C], mu[MAX_C];
    const size_t block = c < BLOCK_FLOATS / 4 ? BLOCK_FLOATS / c : 4;
    for (size_t r = 0; r < rows; r += block) {
        const size_t n = kd_min_size(block, rows - r);
        const double share = (double)n / (double)(r + n), weight = (double)r * share;
        for (size_t c0 = 0; c0 < c; c0 += MAX_C) {
            const size_t w = kd_min_size(MAX_C, c - c0);
            k->col_sum(sum, x + r * c + c0, n, w, c);
            for (size_t i = 0; i < w; i++) mu[i] = sum[i] / (float)n;
            k->col_sum_sqdev(dev, x + r * c + c0, mu, n, w, c);
            for (size_t i = 0; i < w; i++) {
                const double before = r ? m[c0 + i] : 0, d = (double)mu[i] - before;
                m[c0 + i] = before + d * share;
                q[c0 + i] = (r ? q[c0 + i] : 0) + (double)dev[i] + d * d * weight;
            }
        }
    }
}

static void joined(const grid *g, const double *m, const double *q, size_t i, double *mean, double *sq)
{
    *mean = *sq = 0;
    for (size_t s = 0; s < g->slices; s++) {
        const double before = (double)slice_at(g, s), n = (double)(slice_at(g, s + 1) - slice_at(g, s));
        const double d = m[s * g->c + i] - *mean, share = n / (before + n);
        *mean += d * share;
        *sq += q[s * g->c + i] + d * d * before * share;
    }
}

static void normalise(const kd__state *s, const grid *g, const float *a, const float *b)
{
    const kd__vec *k = kd__vec_get();
#pragma omp for schedule(static)
    for (size_t t = 0; t < g->slices; t++) {
        const size_t r = slice_at(g, t);
        k->scale_shift(s->y + r * g->c, s->x[0] + r * g->c, a, b, slice_at(g, t + 1) - r, g->c, s->n->a.relu);
    }
}

static void train_forward(kd__state *s, const grid *g)
{
    double *m = (double *)(void *)s->shared, *q = m + g->slices * g->c;
    float *mean = s->keep, *inv = mean + g->c, *a = inv + g->c, *b = a + g->c;
#pragma omp for schedule(static)
    for (size_t t = 0; t < g->slices; t++) {
        const size_t r = slice_at(g, t);
        slice_statistics(s->x[0] + r * g->c, slice_at(g, t + 1) - r, g->c, m + t * g->c, q + t * g->c);
    }
    const double rows = (double)g->rows, unbias = rows > 1 ? rows / (rows - 1) : 1;
    const float mo = s->n->a.momentum;
#pragma omp for schedule(static)
    for (size_t i = 0; i < g->c; i++) {
        double mu, sq;
        joined(g, m, q, i, &mu, &sq);
        const double var = sq / rows, is = 1 / sqrt(var + (double)s->n->a.eps);
        mean[i] = (float)mu;
        inv[i] = (float)is;
        a[i] = (float)(s->w[WEIGHT][i] * is);
        b[i] = (float)(s->w[BIAS][i] - s->w[WEIGHT][i] * is * mu);
        s->w[MEAN][i] += mo * ((float)mu - s->w[MEAN][i]);
        s->w[VAR][i] += mo * ((float)(var * unbias) - s->w[VAR][i]);
    }
    normalise(s, g, a, b);
}

static void forward(kd_exec *ex, kd__state *s)
{
    const grid g = grid_of(ex, s->n);
    if (ex->p.training) {
        train_forward(s, &g);
        return;
    }
    float *a = s->keep, *b = a + g.c;
#pragma omp for schedule(static)
    for (size_t i = 0; i < g.c; i++) {
        const float is = 1 / sqrtf(s->w[VAR][i] + s->n->a.eps);
        a[i] = s->w[WEIGHT][i] * is;
        b[i] = s->w[BIAS][i] - a[i] * s->w[MEAN][i];
    }
    normalise(s, &g, a, b);
}

static void backward(kd_exec *ex, kd__state *s)
{
    const kd__vec *k = kd__vec_get();
    const grid g = grid_of(ex, s->n);
    const float *mean = s->keep, *inv = mean + g.c, *y = s->n->a.relu ? s->y : NULL;
    float *k1 = s->keep + 2 * g.c, *k2 = k1 + g.c, *k3 = k2 + g.c;
    float *s1 = s->shared, *s2 = s1 + g.slices * g.c;
#pragma omp for schedule(static)
    for (size_t t = 0; t < g.slices; t++) {
        const size_t r = slice_at(&g, t), at = r * g.c;
        k->bn_grad_sums(s1 + t * g.c, s2 + t * g.c, s->dy + at, s->x[0] + at, mean, y ? y + at : NULL,
                        slice_at(&g, t + 1) - r, g.c);
    }
#pragma omp for schedule(static)
    for (size_t i = 0; i < g.c; i++) {
        double sum = 0, dot = 0;
        for (size_t t = 0; t < g.slices; t++) sum += (double)s1[t * g.c + i], dot += (double)s2[t * g.c + i];
        const double is = (double)inv[i], w = (double)s->w[WEIGHT][i] * is, rows = (double)g.rows;
        s->dw[WEIGHT][i] = (float)(dot * is);
        s->dw[BIAS][i] = (float)sum;
        k1[i] = (float)w;
        k2[i] = (float)(-w * is * is * dot / rows);
        k3[i] = (float)(-w * sum / rows + w * is * is * dot / rows * (double)mean[i]);
    }
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t t = 0; t < g.slices; t++) {
        const size_t r = slice_at(&g, t), at = r * g.c;
        k->bn_dx(s->dx[0] + at, s->dy + at, s->x[0] + at, y ? y + at : NULL, k1, k2, k3, slice_at(&g, t + 1) - r, g.c,
                 s->add[0]);
    }
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

static void naive_moments(const kd__state *s, const grid *g, size_t i, double *mean, double *var)
{
    *mean = *var = 0;
    for (size_t r = 0; r < g->rows; r++) *mean += (double)s->x[0][r * g->c + i] / (double)g->rows;
    for (size_t r = 0; r < g->rows; r++) {
        const double d = (double)s->x[0][r * g->c + i] - *mean;
        *var += d * d / (double)g->rows;
    }
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    const grid g = grid_of(ex, s->n);
    for (size_t i = 0; i < g.c; i++) {
        double mean = (double)s->w[MEAN][i], var = (double)s->w[VAR][i];
        if (ex->p.training) {
            naive_moments(s, &g, i, &mean, &var);
            const double mo = (double)s->n->a.momentum, n = (double)g.rows;
            s->w[MEAN][i] = (float)((1 - mo) * (double)s->w[MEAN][i] + mo * mean);
            s->w[VAR][i] = (float)((1 - mo) * (double)s->w[VAR][i] + mo * var * (n > 1 ? n / (n - 1) : 1));
            s->keep[i] = (float)mean;
            s->keep[g.c + i] = (float)(1 / sqrt(var + (double)s->n->a.eps));
        }
        for (size_t r = 0; r < g.rows; r++) {
            const double v = ((double)s->x[0][r * g.c + i] - mean) / sqrt(var + (double)s->n->a.eps) *
                                 (double)s->w[WEIGHT][i] + (double)s->w[BIAS][i];
            s->y[r * g.c + i] = s->n->a.relu && v < 0 ? 0.0f : (float)v;
        }
    }
}

static void naive_backward(kd_exec *ex, kd__state *s)
{
    const grid g = grid_of(ex, s->n);
    for (size_t i = 0; i < g.c; i++) {
        double mean, var, sum = 0, dot = 0;
        naive_moments(s, &g, i, &mean, &var);
        const double is = 1 / sqrt(var + (double)s->n->a.eps), n = (double)g.rows;
        for (size_t r = 0; r < g.rows; r++) {
            const size_t at = r * g.c + i;
            const double dy = s->n->a.relu && !(s->y[at] > 0) ? 0 : (double)s->dy[at];
            sum += dy;
            dot += dy * ((double)s->x[0][at] - mean) * is;
        }
        s->dw[WEIGHT][i] = (float)dot;
        s->dw[BIAS][i] = (float)sum;
        for (size_t r = 0; s->dx[0] && r < g.rows; r++) {
            const size_t at = r * g.c + i;
            const double dy = s->n->a.relu && !(s->y[at] > 0) ? 0 : (double)s->dy[at];
            const double xh = ((double)s->x[0][at] - mean) * is;
            const double d = (double)s->w[WEIGHT][i] * is * (dy - sum / n - xh * dot / n);
            s->dx[0][at] = (float)(d + (s->add[0] ? (double)s->dx[0][at] : 0));
        }
    }
}

const kd__op kd__op_batchnorm = {
    .name = "batchnorm", .nin = 1, .shape = shape, .plan = plan, .forward = forward, .backward = backward,
    .naive_forward = naive_forward, .naive_backward = naive_backward, .backward_reads_x = true,
    .backward_reads_y = true, /* where ReLU was fused */
};
