/* rmsnorm.c - y = x / sqrt(mean of x^2 + eps) * weight over the last axis (Zhang and Sennrich, "Root Mean
 * Square Layer Normalization", 2019): layer norm without the mean and the bias.
 *
 * Rows go by in blocks of BLOCK, each by one thread. Forward keeps 1 / root of each row for backward. A block
 * has its own share of the weight's gradient, and the shares are added in their order.
 */
#include "nn_private.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 64 };

kd_node kd_nn_rmsnorm(kd_graph *g, const char *name, kd_node x, float eps)
{
    const kd__attrs a = {.eps = eps};
    return kd__graph_add(g, &kd__op_rmsnorm, name, 1, &x, &a);
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
    return kd__graph_param(g, n, "weight", 1, &n->dims[n->ndims - 1], false, false, err);
}

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    const size_t c = width(s->n), rows = kd__node_rows_planned(ex, s->n) * (s->n->size / c);
    (void)err;
    s->keep_floats = rows;
    if (ex->p.training) s->shared_floats = (rows + BLOCK - 1) / BLOCK * c;
    return KD_OK;
}

static void forward(kd_exec *ex, kd__state *s)
{
    const size_t c = width(s->n), rows = rows_of(ex, s->n);
#pragma omp for schedule(static)
    for (size_t r = 0; r < rows; r += BLOCK)
        kd__decoder_get()->rmsnorm(s->y + r * c, s->keep + r, s->x[0] + r * c, s->w[0],
                                   kd_min_size(BLOCK, rows - r), c, s->n->a.eps);
}

static void backward(kd_exec *ex, kd__state *s)
{
    const size_t c = width(s->n), rows = rows_of(ex, s->n), blocks = (rows + BLOCK - 1) / BLOCK;
#pragma omp for schedule(static)
    for (size_t i = 0; i < blocks; i++) {
        const size_t r = i * BLOCK;
        float *share = s->shared + i * c;
        memset(share, 0, c * sizeof *share);
        kd__decoder_get()->rmsnorm_back(s->dx[0] ? s->dx[0] + r * c : NULL, share, s->dy + r * c,
                                        s->x[0] + r * c, s->keep + r, s->w[0], kd_min_size(BLOCK, rows - r),
                                        c, s->add[0]);
    }
#pragma omp for schedule(static)
    for (size_t b = 0; b < c; b += BLOCK) {
        const size_t n = kd_min_size(BLOCK, c - b);
        float sum[BLOCK];
        kd__vec_get()->col_sum(sum, s->shared + b, blocks, n, c);
        if (ex->add)
            kd__vec_get()->add_to(s->dw[0] + b, sum, n);
        else
            memcpy(s->dw[0] + b, sum, n * sizeof *sum);
    }
}

static bool adds(const kd__node_info *n) { return n->nparam == 1; }

/* ---- the twins in plain C ----------------------------------------------------------------- */

static double naive_scale(const float *x, size_t c, float eps)
{
    double square = 0;
    for (size_t i = 0; i < c; i++) square += (double)x[i] * (double)x[i];
    return 1 / sqrt(square / (double)c + (double)eps);
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    const size_t c = width(s->n), rows = rows_of(ex, s->n);
    for (size_t r = 0; r < rows; r++) {
        const float *x = s->x[0] + r * c;
        const double scale = naive_scale(x, c, s->n->a.eps);
        for (size_t i = 0; i < c; i++) s->y[r * c + i] = (float)((double)x[i] * scale * (double)s->w[0][i]);
    }
}

/* dx_j = scale sum_i g_i ([i = j] - h_i h_j / c) with g = dy w, h = x scale; dx may be dy. */
static void naive_backward(kd_exec *ex, kd__state *s)
{
    const size_t c = width(s->n), rows = rows_of(ex, s->n);
    memset(s->dw[0], 0, c * sizeof(float));
    for (size_t r = 0; r < rows; r++) {
        const float *x = s->x[0] + r * c, *dy = s->dy + r * c;
        const double scale = naive_scale(x, c, s->n->a.eps);
        double dot = 0;
        for (size_t i = 0; i < c; i++) {
            const double h = (double)x[i] * scale;
            s->dw[0][i] += (float)((double)dy[i] * h);
            dot += (double)dy[i] * (double)s->w[0][i] * h;
        }
        for (size_t i = 0; s->dx[0] && i < c; i++) {
            const double g = (double)dy[i] * (double)s->w[0][i];
            const double old = s->add[0] ? (double)s->dx[0][r * c + i] : 0.0;
            s->dx[0][r * c + i] = (float)(old + scale * (g - (double)x[i] * scale * dot / (double)c));
        }
    }
}

const kd__op kd__op_rmsnorm = {
    .name = "rmsnorm",
    .nin = 1,
    .shape = shape,
    .plan = plan,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .adds = adds,
    .packed = true,
    .backward_reads_x = true,
    .remade = true,
    .inplace = true,
};
