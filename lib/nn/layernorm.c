/* layernorm.c - mean 0 and variance 1 over the last axis, then a weight and a bias for each place of it
 * (Ba, Kiros and Hinton, "Layer Normalization", 2016).
 *
 * Forward keeps mean and 1 / deviation of each row. Backward walks blocks of BLOCK rows; a block has its own
 * share of the gradients of weight and bias, and the shares are added in their order.
 */
#include "nn_private.h"

#include <math.h>
#include <string.h>

enum { WEIGHT, BIAS, BLOCK = 64 };

kd_node kd_nn_layernorm(kd_graph *g, const char *name, kd_node x, float eps)
{
    const kd__attrs a = {.eps = eps};
    return kd__graph_add(g, &kd__op_layernorm, name, 1, &x, &a);
}

static size_t width(const kd__node_info *n) { return (size_t)n->dims[n->ndims - 1]; }
static size_t rows_of(const kd_exec *ex, const kd__node_info *n)
{
    return kd__node_rows(ex, n) * (n->size / width(n));
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    if (x->ndims < 1)
        return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has no axis to norm", n->name, x->name);
    if (!(n->a.eps >= 0 && n->a.eps < 1))
        return kd_fail(err, KD_EUSAGE, "layer %s: eps is %g, expected 0 to below 1", n->name,
                       (double)n->a.eps);
    n->ndims = x->ndims;
    memcpy(n->dims, x->dims, sizeof n->dims);
    const int64_t *c = &n->dims[n->ndims - 1];
    kd_status st = kd__graph_param(g, n, "weight", 1, c, false, false, err);
    return st ? st : kd__graph_param(g, n, "bias", 1, c, false, false, err);
}

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    const size_t c = width(s->n), rows = kd__node_rows_planned(ex, s->n) * (s->n->size / c);
    (void)err;
    s->keep_floats = 2 * rows;
    if (ex->p.training) s->shared_floats = (rows + BLOCK - 1) / BLOCK * 2 * c;
    return KD_OK;
}

static void forward(kd_exec *ex, kd__state *s)
{
    const size_t c = width(s->n), rows = rows_of(ex, s->n);
#pragma omp for schedule(static)
    for (size_t r = 0; r < rows; r += BLOCK)
        kd__encoder_get()->layernorm(s->y + r * c, s->keep + 2 * r, s->x[0] + r * c, s->w[WEIGHT], s->w[BIAS],
                                     kd_min_size(BLOCK, rows - r), c, s->n->a.eps);
}

static void backward(kd_exec *ex, kd__state *s)
{
    const size_t c = width(s->n), rows = rows_of(ex, s->n), blocks = (rows + BLOCK - 1) / BLOCK;
#pragma omp for schedule(static)
    for (size_t i = 0; i < blocks; i++) {
        const size_t r = i * BLOCK;
        float *share = s->shared + i * 2 * c;
        memset(share, 0, 2 * c * sizeof *share);
        kd__encoder_get()->layernorm_back(s->dx[0] ? s->dx[0] + r * c : NULL, share, share + c, s->dy + r * c,
                                          s->x[0] + r * c, s->keep + 2 * r, s->w[WEIGHT],
                                          kd_min_size(BLOCK, rows - r), c, s->add[0]);
    }
#pragma omp for schedule(static)
    for (size_t k = 0; k < 2; k++) kd__vec_get()->col_sum(s->dw[k], s->shared + k * c, blocks, c, 2 * c);
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

static void naive_moments(const float *x, size_t c, float eps, double *mean, double *scale)
{
    double sum = 0, square = 0;
    for (size_t i = 0; i < c; i++) sum += (double)x[i];
    *mean = sum / (double)c;
    for (size_t i = 0; i < c; i++) square += ((double)x[i] - *mean) * ((double)x[i] - *mean);
    *scale = 1 / sqrt(square / (double)c + (double)eps);
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    const size_t c = width(s->n), rows = rows_of(ex, s->n);
    for (size_t r = 0; r < rows; r++) {
        double mean, scale;
        naive_moments(s->x[0] + r * c, c, s->n->a.eps, &mean, &scale);
        for (size_t i = 0; i < c; i++)
            s->y[r * c + i] = (float)(((double)s->x[0][r * c + i] - mean) * scale * (double)s->w[WEIGHT][i] +
                                      (double)s->w[BIAS][i]);
    }
}

/* dx_j = scale sum_i g_i ([i = j] - (1 + h_i h_j) / c) with g = dy w; dx may be dy. */
static void naive_backward(kd_exec *ex, kd__state *s)
{
    const size_t c = width(s->n), rows = rows_of(ex, s->n);
    memset(s->dw[WEIGHT], 0, c * sizeof(float));
    memset(s->dw[BIAS], 0, c * sizeof(float));
    for (size_t r = 0; r < rows; r++) {
        const float *x = s->x[0] + r * c, *dy = s->dy + r * c;
        double mean, scale, sum = 0, dot = 0;
        naive_moments(x, c, s->n->a.eps, &mean, &scale);
        for (size_t i = 0; i < c; i++) {
            const double h = ((double)x[i] - mean) * scale, g = (double)dy[i] * (double)s->w[WEIGHT][i];
            s->dw[WEIGHT][i] += (float)((double)dy[i] * h);
            s->dw[BIAS][i] += dy[i];
            sum += g;
            dot += g * h;
        }
        for (size_t i = 0; s->dx[0] && i < c; i++) {
            const double h = ((double)x[i] - mean) * scale, g = (double)dy[i] * (double)s->w[WEIGHT][i];
            const double old = s->add[0] ? (double)s->dx[0][r * c + i] : 0.0;
            s->dx[0][r * c + i] = (float)(old + scale * (g - (sum + h * dot) / (double)c));
        }
    }
}

const kd__op kd__op_layernorm = {
    .name = "layernorm",
    .nin = 1,
    .shape = shape,
    .plan = plan,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .packed = true,
    .backward_reads_x = true,
    .inplace = true,
};
