/* batchnorm.c - batch normalisation over channels (Ioffe and Szegedy 2015), with a fused ReLU.
 *
 * x is (rows, C), rows = batch and space together, cut into slices that depend on the shape alone.
 * These passes are bound by memory, so they are few. Training reads x twice, once for mean and squared
 * deviations of each slice (joined in order, in double), once to write y:
 *
 *     y = a x + b,   a = w s,   b = bias - a m,   s = 1 / sqrt(var + eps)
 *
 * Backward reads dy and x twice, once for two sums per channel, once to write dx (over dy where it may):
 *
 *     dx = w s (dy - mean(dy) - (x - m) s^2 mean(dy (x - m)))  =  k1 dy + k2 (x - m) + k3
 *
 * ReLU's mask is made again from x, y > 0 being a x + b > 0, which is cheaper than reading y; so y is
 * not needed in backward and its memory is free as soon as the next layers allow. Inference is
 * the second pass alone, with the running statistics.
 */
#include "nn_private.h"

#include <math.h>
#include <string.h>

enum { WEIGHT, BIAS, MEAN, VAR };
enum { MAX_SLICES = 64, SLICE_FLOATS = 1 << 14 };

kd_node kd_nn_batchnorm(kd_graph *g, const char *name, kd_node x, float momentum, float eps)
{
    const kd__attrs a = {.momentum = momentum, .eps = eps};
    return kd__graph_add(g, &kd__op_batchnorm, name, 1, &x, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    if (x->ndims < 1)
        return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has no channels", n->name, x->name);
    if (!(n->a.momentum >= 0 && n->a.momentum <= 1 && n->a.eps > 0))
        return kd_fail(err, KD_EUSAGE, "layer %s: momentum %g, eps %g; momentum is from 0 to 1, eps above 0",
                       n->name, (double)n->a.momentum, (double)n->a.eps);
    n->ndims = x->ndims;
    memcpy(n->dims, x->dims, sizeof n->dims);
    const int64_t c[] = {x->dims[x->ndims - 1]};
    kd_status st = kd__graph_param(g, n, "weight", 1, c, false, false, err);
    if (!st) st = kd__graph_param(g, n, "bias", 1, c, false, false, err);
    if (!st) st = kd__graph_param(g, n, "running_mean", 1, c, true, false, err);
    return st ? st : kd__graph_param(g, n, "running_var", 1, c, true, false, err);
}

/* The grid of one batch norm: a power of two of slices, so that teams of 2, 4, 8, ... share evenly. */
typedef struct grid {
    size_t rows, c, slices;
} grid;

static grid grid_of(const kd_exec *ex, const kd__node_info *n)
{
    grid g = {.c = (size_t)n->dims[n->ndims - 1], .slices = 1};
    g.rows = (size_t)ex->p.batch * n->size / g.c;
    while (g.slices < MAX_SLICES && g.slices * 2 <= g.rows && g.slices * 2 * SLICE_FLOATS <= g.rows * g.c)
        g.slices *= 2;
    return g;
}

static size_t slice_at(const grid *g, size_t s) { return g->rows * s / g->slices; }
static size_t slice_rows(const grid *g, size_t s) { return slice_at(g, s + 1) - slice_at(g, s); }

/* What is kept from forward to backward, (C) each. */
typedef struct kept {
    float *mean, *inv, *a, *b, *k1, *k2, *k3;
} kept;

static kept kept_of(const kd__state *s, size_t c)
{
    float *p = s->keep;
    return (kept){p, p + c, p + 2 * c, p + 3 * c, p + 4 * c, p + 5 * c, p + 6 * c};
}

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    const grid g = grid_of(ex, s->n);
    if (ex->p.training && g.rows < 2)
        return kd_fail(err, KD_EUSAGE,
                       "layer %s: batch norm trains on at least 2 values a channel, there is 1; "
                       "use a larger batch",
                       s->n->name);
    s->keep_floats = 7 * g.c;
    s->shared_floats = 2 * g.slices * g.c;
    return KD_OK;
}

/* ---- forward ------------------------------------------------------------------------------ */

/* Mean and sum of squared deviations of channel i over all slices, joined in their order. */
static void join_slices(const grid *g, const float *m, const float *q, size_t i, double *mean, double *sq)
{
    *mean = *sq = 0;
    for (size_t s = 0; s < g->slices; s++) {
        const double before = (double)slice_at(g, s), n = (double)slice_rows(g, s);
        const double d = (double)m[s * g->c + i] - *mean, share = n / (before + n);
        *mean += d * share;
        *sq += (double)q[s * g->c + i] + d * d * before * share;
    }
}

static void batch_statistics(kd__state *s, const grid *g, const kept *k)
{
    float *m = s->shared, *q = m + g->slices * g->c; // (slices, C) each
#pragma omp for schedule(static)
    for (size_t t = 0; t < g->slices; t++)
        kd__vec_get()->moments(m + t * g->c, q + t * g->c, s->x[0] + slice_at(g, t) * g->c, slice_rows(g, t),
                               g->c);
    const double rows = (double)g->rows, momentum = (double)s->n->a.momentum;
#pragma omp for schedule(static)
    for (size_t i = 0; i < g->c; i++) {
        double mean, sq;
        join_slices(g, m, q, i, &mean, &sq);
        const double inv = 1 / sqrt(sq / rows + (double)s->n->a.eps), a = (double)s->w[WEIGHT][i] * inv;
        k->mean[i] = (float)mean;
        k->inv[i] = (float)inv;
        k->a[i] = (float)a;
        k->b[i] = (float)((double)s->w[BIAS][i] - a * mean);
        s->w[MEAN][i] = (float)((1 - momentum) * (double)s->w[MEAN][i] + momentum * mean);
        s->w[VAR][i] = (float)((1 - momentum) * (double)s->w[VAR][i] + momentum * sq / (rows - 1));
    }
}

static void running_statistics(kd__state *s, const grid *g, const kept *k)
{
#pragma omp for schedule(static)
    for (size_t i = 0; i < g->c; i++) {
        const double a = (double)s->w[WEIGHT][i] / sqrt((double)s->w[VAR][i] + (double)s->n->a.eps);
        k->a[i] = (float)a;
        k->b[i] = (float)((double)s->w[BIAS][i] - a * (double)s->w[MEAN][i]);
    }
}

static void scale_slice(kd__state *s, const grid *g, const kept *k, size_t t)
{
    const size_t at = slice_at(g, t) * g->c;
    kd__vec_get()->scale_shift(s->y + at, s->x[0] + at, k->a, k->b, slice_rows(g, t), g->c, s->n->a.relu);
}

/* Inference shares slices out as they come (conv.c). */
static void forward(kd_exec *ex, kd__state *s)
{
    const grid g = grid_of(ex, s->n);
    const kept k = kept_of(s, g.c);
    (ex->p.training ? batch_statistics : running_statistics)(s, &g, &k);
    if (ex->p.training) {
#pragma omp for schedule(static)
        for (size_t t = 0; t < g.slices; t++) scale_slice(s, &g, &k, t);
    } else {
#pragma omp for schedule(dynamic)
        for (size_t t = 0; t < g.slices; t++) scale_slice(s, &g, &k, t);
    }
}

/* ---- backward ----------------------------------------------------------------------------- */

static void backward(kd_exec *ex, kd__state *s)
{
    const grid g = grid_of(ex, s->n);
    const kept k = kept_of(s, g.c);
    const bool relu = s->n->a.relu;
    const kd__bn_factors f = {k.mean, relu ? k.a : NULL, relu ? k.b : NULL, k.k1, k.k2, k.k3};
    float *s1 = s->shared, *s2 = s1 + g.slices * g.c; // (slices, C) each
#pragma omp for schedule(static)
    for (size_t t = 0; t < g.slices; t++) {
        const size_t at = slice_at(&g, t) * g.c;
        kd__vec_get()->bn_grad_sums(s1 + t * g.c, s2 + t * g.c, s->dy + at, s->x[0] + at, slice_rows(&g, t),
                                    g.c, &f);
    }
#pragma omp for schedule(static)
    for (size_t i = 0; i < g.c; i++) {
        double sum = 0, dot = 0;
        for (size_t t = 0; t < g.slices; t++) {
            sum += (double)s1[t * g.c + i];
            dot += (double)s2[t * g.c + i];
        }
        const double inv = (double)k.inv[i], w = (double)s->w[WEIGHT][i] * inv, rows = (double)g.rows;
        s->dw[WEIGHT][i] = (float)(dot * inv);
        s->dw[BIAS][i] = (float)sum;
        k.k1[i] = (float)w;
        k.k2[i] = (float)(-w * inv * inv * dot / rows);
        k.k3[i] = (float)(-w * sum / rows);
    }
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t t = 0; t < g.slices; t++) {
        const size_t at = slice_at(&g, t) * g.c;
        kd__vec_get()->bn_dx(s->dx[0] + at, s->dy + at, s->x[0] + at, slice_rows(&g, t), g.c, &f, s->add[0]);
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

/* The number before ReLU. */
static double naive_value(const kd__state *s, const grid *g, size_t r, size_t i, double mean, double var)
{
    const double normal = ((double)s->x[0][r * g->c + i] - mean) / sqrt(var + (double)s->n->a.eps);
    return normal * (double)s->w[WEIGHT][i] + (double)s->w[BIAS][i];
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
            s->w[VAR][i] = (float)((1 - mo) * (double)s->w[VAR][i] + mo * var * n / (n - 1));
        }
        for (size_t r = 0; r < g.rows; r++) {
            const double v = naive_value(s, &g, r, i, mean, var);
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
        const double inv = 1 / sqrt(var + (double)s->n->a.eps), n = (double)g.rows;
        for (size_t r = 0; r < g.rows; r++) {
            const size_t at = r * g.c + i;
            if (s->n->a.relu && !((float)naive_value(s, &g, r, i, mean, var) > 0)) s->dy[at] = 0;
            sum += (double)s->dy[at];
            dot += (double)s->dy[at] * ((double)s->x[0][at] - mean) * inv;
        }
        s->dw[WEIGHT][i] = (float)dot;
        s->dw[BIAS][i] = (float)sum;
        for (size_t r = 0; s->dx[0] && r < g.rows; r++) {
            const size_t at = r * g.c + i;
            const double normal = ((double)s->x[0][at] - mean) * inv;
            const double d = (double)s->w[WEIGHT][i] * inv * ((double)s->dy[at] - sum / n - normal * dot / n);
            s->dx[0][at] = (float)(d + (s->add[0] ? (double)s->dx[0][at] : 0));
        }
    }
}

const kd__op kd__op_batchnorm = {
    .name = "batchnorm",
    .nin = 1,
    .shape = shape,
    .plan = plan,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .backward_reads_x = true,
    .inplace = true,
    .fuses_relu = true,
};
