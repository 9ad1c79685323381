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
 *
 * A convolution that alone feeds the batch norm, or alone reads it, runs the loops on its side of it over its
 * own slices, while they are in the cache (conv.c). What is left here are the sums over slices.
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

/* Rows cut into slices of `step`; the last one may be smaller. */
typedef struct grid {
    size_t rows, c, slices, step;
} grid;

/* The slices of the given neighbour; without one about a power of two, so that teams of 2, 4, 8, ... share
 * evenly. */
static grid grid_of(const kd_exec *ex, const kd__state *s, const kd__state *neighbour)
{
    const kd__node_info *n = s->n;
    grid g = {.c = (size_t)n->dims[n->ndims - 1], .slices = 1};
    g.rows = (size_t)ex->p.batch * n->size / g.c;
    while (g.slices < MAX_SLICES && g.slices * 2 <= g.rows && g.slices * 2 * SLICE_FLOATS <= g.rows * g.c)
        g.slices *= 2;
    g.step =
        neighbour ? kd__conv_slice(neighbour->own) * (n->size / g.c) : (g.rows + g.slices - 1) / g.slices;
    g.slices = (g.rows + g.step - 1) / g.step;
    return g;
}

static size_t slice_at(const grid *g, size_t s) { return s * g->step; }
static size_t slice_rows(const grid *g, size_t s) { return kd_min_size(g->step, g->rows - s * g->step); }

/* What is kept from forward to backward: (C) each, and two sums of each slice, (slices, 2, C): first of x,
 * then of dy. */
typedef struct kept {
    float *mean, *inv, *a, *b, *k1, *k2, *k3, *sums;
} kept;

static size_t channels(const kd__state *s) { return (size_t)s->n->dims[s->n->ndims - 1]; }

static kept kept_of(const kd__state *s)
{
    const size_t c = channels(s);
    float *p = s->keep;
    return (kept){p, p + c, p + 2 * c, p + 3 * c, p + 4 * c, p + 5 * c, p + 6 * c, p + 7 * c};
}

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    const grid g = grid_of(ex, s, NULL);
    if (ex->p.training && g.rows < 2)
        return kd_fail(err, KD_EUSAGE,
                       "layer %s: batch norm trains on at least 2 values a channel, there is 1; "
                       "use a larger batch",
                       s->n->name);
    const size_t slices = s->prev || s->next ? kd_max_size(g.slices, KD__CONV_SLICES) : g.slices;
    s->keep_floats = (7 + 2 * slices) * g.c;
    return KD_OK;
}

/* ---- loops over rows, run here or by a neighbour -------------------------------------------- */

static kd__bn_factors factors_of(const kd__state *s)
{
    const kept k = kept_of(s);
    const bool relu = s->n->a.relu;
    return (kd__bn_factors){k.mean, relu ? k.a : NULL, relu ? k.b : NULL, k.k1, k.k2, k.k3};
}

void kd__bn_moments(kd__state *s, size_t slice, size_t row, size_t rows)
{
    const size_t c = channels(s);
    float *sums = kept_of(s).sums + slice * 2 * c;
    kd__vec_get()->moments(sums, sums + c, s->x[0] + row * c, rows, c);
}

void kd__bn_apply(kd__state *s, float *y, size_t row, size_t rows)
{
    const size_t c = channels(s);
    const kept k = kept_of(s);
    kd__vec_get()->scale_shift(y, s->x[0] + row * c, k.a, k.b, rows, c, s->n->a.relu);
}

void kd__bn_sums(kd__state *s, size_t slice, size_t row, size_t rows)
{
    const size_t c = channels(s), at = row * c;
    const kd__bn_factors f = factors_of(s);
    float *sums = kept_of(s).sums + slice * 2 * c;
    kd__vec_get()->bn_grad_sums(sums, sums + c, s->dy + at, s->x[0] + at, rows, c, &f);
}

void kd__bn_dx(kd__state *s, float *dx, size_t row, size_t rows)
{
    const size_t c = channels(s), at = row * c;
    const kd__bn_factors f = factors_of(s);
    kd__vec_get()->bn_dx(dx, s->dy + at, s->x[0] + at, rows, c, &f, s->add[0]);
}

kd__bn_rows kd__bn_rows_of(const kd__state *s, size_t slice)
{
    const kept k = kept_of(s);
    return (kd__bn_rows){.x = s->x[0],
                         .dy = s->dy,
                         .sums = k.sums + slice * 2 * channels(s),
                         .f = {k.mean, k.a, k.b, k.k1, k.k2, k.k3},
                         .relu = s->n->a.relu};
}

/* ---- forward ------------------------------------------------------------------------------ */

/* Mean and sum of squared deviations of channel i over all slices, joined in their order. */
static void join_slices(const grid *g, const float *sums, size_t i, double *mean, double *sq)
{
    *mean = *sq = 0;
    for (size_t s = 0; s < g->slices; s++, sums += 2 * g->c) {
        const double before = (double)slice_at(g, s), n = (double)slice_rows(g, s);
        const double d = (double)sums[i] - *mean, share = n / (before + n);
        *mean += d * share;
        *sq += (double)sums[g->c + i] + d * d * before * share;
    }
}

static void batch_statistics(kd_exec *ex, kd__state *s)
{
    const grid g = grid_of(ex, s, s->prev);
    const kept k = kept_of(s);
    if (!s->prev) {
#pragma omp for schedule(static)
        for (size_t t = 0; t < g.slices; t++) kd__bn_moments(s, t, slice_at(&g, t), slice_rows(&g, t));
    }
    const double rows = (double)g.rows, momentum = (double)s->n->a.momentum;
#pragma omp for schedule(static)
    for (size_t i = 0; i < g.c; i++) {
        double mean, sq;
        join_slices(&g, k.sums, i, &mean, &sq);
        const double inv = 1 / sqrt(sq / rows + (double)s->n->a.eps), a = (double)s->w[WEIGHT][i] * inv;
        k.mean[i] = (float)mean;
        k.inv[i] = (float)inv;
        k.a[i] = (float)a;
        k.b[i] = (float)((double)s->w[BIAS][i] - a * mean);
        s->w[MEAN][i] = (float)((1 - momentum) * (double)s->w[MEAN][i] + momentum * mean);
        s->w[VAR][i] = (float)((1 - momentum) * (double)s->w[VAR][i] + momentum * sq / (rows - 1));
    }
}

static void running_statistics(kd_exec *ex, kd__state *s)
{
    (void)ex;
    const kept k = kept_of(s);
    const size_t c = channels(s);
#pragma omp for schedule(static)
    for (size_t i = 0; i < c; i++) {
        const double a = (double)s->w[WEIGHT][i] / sqrt((double)s->w[VAR][i] + (double)s->n->a.eps);
        k.a[i] = (float)a;
        k.b[i] = (float)((double)s->w[BIAS][i] - a * (double)s->w[MEAN][i]);
    }
}

/* Inference shares slices out as they come (conv.c). */
static void forward(kd_exec *ex, kd__state *s)
{
    (ex->p.training ? batch_statistics : running_statistics)(ex, s);
    if (s->next) return;
    const grid g = grid_of(ex, s, NULL);
    if (ex->p.training) {
#pragma omp for schedule(static)
        for (size_t t = 0; t < g.slices; t++)
            kd__bn_apply(s, s->y + slice_at(&g, t) * g.c, slice_at(&g, t), slice_rows(&g, t));
    } else {
#pragma omp for schedule(dynamic)
        for (size_t t = 0; t < g.slices; t++)
            kd__bn_apply(s, s->y + slice_at(&g, t) * g.c, slice_at(&g, t), slice_rows(&g, t));
    }
}

/* ---- backward ----------------------------------------------------------------------------- */

static void join_sums(kd_exec *ex, kd__state *s)
{
    const grid g = grid_of(ex, s, s->next);
    const kept k = kept_of(s);
    if (!s->next) {
#pragma omp for schedule(static)
        for (size_t t = 0; t < g.slices; t++) kd__bn_sums(s, t, slice_at(&g, t), slice_rows(&g, t));
    }
#pragma omp for schedule(static)
    for (size_t i = 0; i < g.c; i++) {
        double sum = 0, dot = 0;
        for (size_t t = 0; t < g.slices; t++) {
            sum += (double)k.sums[2 * t * g.c + i];
            dot += (double)k.sums[(2 * t + 1) * g.c + i];
        }
        const double inv = (double)k.inv[i], w = (double)s->w[WEIGHT][i] * inv, rows = (double)g.rows;
        s->dw[WEIGHT][i] = (float)(dot * inv);
        s->dw[BIAS][i] = (float)sum;
        k.k1[i] = (float)w;
        k.k2[i] = (float)(-w * inv * inv * dot / rows);
        k.k3[i] = (float)(-w * sum / rows);
    }
}

static void backward(kd_exec *ex, kd__state *s)
{
    join_sums(ex, s);
    if (!s->dx[0] || s->prev) return;
    const grid g = grid_of(ex, s, NULL);
#pragma omp for schedule(static)
    for (size_t t = 0; t < g.slices; t++)
        kd__bn_dx(s, s->dx[0] + slice_at(&g, t) * g.c, slice_at(&g, t), slice_rows(&g, t));
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
    const grid g = grid_of(ex, s, NULL);
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
    const grid g = grid_of(ex, s, NULL);
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
