/* normalize.c - rows of length 1 over the last axis: y = x / max(|x|, 1e-12), so that products of two rows
 * are cosines. dx = (dy - y (y . dy)) / |x|. */
#include "nn_private.h"

#include <math.h>
#include <string.h>

static const double LEAST = 1e-12; // torch.nn.functional.normalize's

kd_node kd_nn_normalize(kd_graph *g, const char *name, kd_node x)
{
    const kd__attrs a = {0};
    return kd__graph_add(g, &kd__op_normalize, name, 1, &x, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    if (x->ndims < 1)
        return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has no axis to normalise", n->name, x->name);
    n->ndims = x->ndims;
    memcpy(n->dims, x->dims, sizeof n->dims);
    return KD_OK;
}

static void geometry(const kd_exec *ex, const kd__state *s, size_t *rows, size_t *n)
{
    *n = (size_t)s->n->dims[s->n->ndims - 1];
    *rows = kd__node_rows(ex, s->n) * s->n->size / *n;
}

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

static void row_forward(float *y, const float *x, size_t n)
{
    const double scale = 1 / fmax(sqrt(dot(x, x, n)), LEAST);
    for (size_t i = 0; i < n; i++) y[i] = (float)((double)x[i] * scale);
}

static void row_backward(float *dx, const float *dy, const float *x, size_t n, bool add)
{
    const double length = sqrt(dot(x, x, n)), scale = 1 / fmax(length, LEAST);
    const double along = length > LEAST ? dot(x, dy, n) * scale * scale : 0;
    for (size_t i = 0; i < n; i++)
        dx[i] = (add ? dx[i] : 0.0f) + (float)(((double)dy[i] - (double)x[i] * along) * scale);
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
        row_backward(s->dx[0] + r * n, s->dy + r * n, s->x[0] + r * n, n, s->add[0]);
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    size_t rows, n;
    geometry(ex, s, &rows, &n);
    for (size_t r = 0; r < rows; r++) {
        double square = 0;
        for (size_t i = 0; i < n; i++) square += (double)s->x[0][r * n + i] * (double)s->x[0][r * n + i];
        for (size_t i = 0; i < n; i++)
            s->y[r * n + i] = (float)((double)s->x[0][r * n + i] / fmax(sqrt(square), LEAST));
    }
}

/* By the Jacobian: dy_i / dx_j = ([i = j] - x_i x_j / |x|^2) / |x|. */
static void naive_backward(kd_exec *ex, kd__state *s)
{
    size_t rows, n;
    geometry(ex, s, &rows, &n);
    for (size_t r = 0; s->dx[0] && r < rows; r++) {
        const float *x = s->x[0] + r * n, *dy = s->dy + r * n;
        double square = 0;
        for (size_t i = 0; i < n; i++) square += (double)x[i] * (double)x[i];
        for (size_t j = 0; j < n; j++) {
            double sum = s->add[0] ? (double)s->dx[0][r * n + j] : 0.0;
            for (size_t i = 0; i < n; i++)
                sum += (double)dy[i] * ((i == j ? 1.0 : 0.0) - (double)x[i] * (double)x[j] / square) /
                       sqrt(square);
            s->dx[0][r * n + j] = (float)sum;
        }
    }
}

const kd__op kd__op_normalize = {
    .name = "normalize",
    .nin = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .packed = true,
    .backward_reads_x = true,
};
