/* softmax.c - probabilities over the last axis.
 *
 * Training goes through the fused losses (kd/loss.h), which never form probabilities; this op serves graphs
 * that want them as a value. */
#include "nn_private.h"

#include <math.h>
#include <string.h>

kd_node kd_nn_softmax(kd_graph *g, const char *name, kd_node x)
{
    const kd__attrs a = {0};
    return kd__graph_add(g, &kd__op_softmax, name, 1, &x, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    (void)err;
    n->ndims = x->ndims;
    memcpy(n->dims, x->dims, sizeof n->dims);
    return KD_OK;
}

static void row_forward(float *y, const float *x, size_t n)
{
    float top = x[0];
    double sum = 0;
    for (size_t i = 1; i < n; i++) top = x[i] > top ? x[i] : top;
    for (size_t i = 0; i < n; i++) sum += y[i] = expf(x[i] - top);
    for (size_t i = 0; i < n; i++) y[i] = (float)(y[i] / sum);
}

/* dx = y (dy - sum y dy) */
static void row_backward(float *dx, const float *dy, const float *y, size_t n, bool add)
{
    double dot = 0;
    for (size_t i = 0; i < n; i++) dot += (double)y[i] * (double)dy[i];
    for (size_t i = 0; i < n; i++) dx[i] = (add ? dx[i] : 0.0f) + y[i] * (dy[i] - (float)dot);
}

static void geometry(const kd_exec *ex, const kd__state *s, size_t *rows, size_t *n)
{
    *n = (size_t)s->n->dims[s->n->ndims - 1];
    *rows = kd__node_rows(ex, s->n) * s->n->size / *n;
}

static void forward(kd_exec *ex, kd__state *s)
{
    size_t rows, n;
    geometry(ex, s, &rows, &n);
#pragma omp for schedule(static)
    for (size_t r = 0; r < rows; r++) row_forward(s->y + r * n, s->x[0] + r * n, n);
}

static void backward(kd_exec *ex, kd__state *s)
{
    size_t rows, n;
    geometry(ex, s, &rows, &n);
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t r = 0; r < rows; r++)
        row_backward(s->dx[0] + r * n, s->dy + r * n, s->y + r * n, n, s->add[0]);
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    size_t rows, n;
    geometry(ex, s, &rows, &n);
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += exp((double)s->x[0][r * n + i]);
        for (size_t i = 0; i < n; i++) s->y[r * n + i] = (float)(exp((double)s->x[0][r * n + i]) / sum);
    }
}

/* By the Jacobian: dx_i = sum_j dy_j y_j ([i = j] - y_i). */
static void naive_backward(kd_exec *ex, kd__state *s)
{
    size_t rows, n;
    geometry(ex, s, &rows, &n);
    for (size_t r = 0; s->dx[0] && r < rows; r++) {
        const float *y = s->y + r * n, *dy = s->dy + r * n;
        for (size_t i = 0; i < n; i++) {
            double sum = s->add[0] ? (double)s->dx[0][r * n + i] : 0.0;
            for (size_t j = 0; j < n; j++)
                sum += (double)dy[j] * (double)y[j] * ((i == j ? 1.0 : 0.0) - (double)y[i]);
            s->dx[0][r * n + i] = (float)sum;
        }
    }
}

const kd__op kd__op_softmax = {
    .name = "softmax",
    .nin = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .backward_reads_y = true,
    .packed = true,
};
