/* gelu.c - y = x Phi(x), with Phi the distribution of a standard normal (Hendrycks and Gimpel, "Gaussian
 * Error Linear Units", 2016), in its exact form: PyTorch's GELU without an approximation. */
#include "nn_private.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 4096 }; /* floats */

/* A linear layer in front runs forward, and one behind it backward, where kd__state says so. The latter needs
 * its value first, and gets the derivative along with it. */
void kd__gelu_apply(const kd__state *s, size_t at, size_t n)
{
    kd__encoder_get()->gelu(s->y + at, s->x[0] + at, n);
}

void kd__gelu_dx(const kd__state *s, size_t at, size_t n)
{
    kd__vec_get()->times(s->dx[0] + at, s->dy + at, s->x[0] + at, n);
}

kd_node kd_nn_gelu(kd_graph *g, const char *name, kd_node x)
{
    const kd__attrs a = {0};
    return kd__graph_add(g, &kd__op_gelu, name, 1, &x, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    (void)err;
    n->ndims = x->ndims;
    memcpy(n->dims, x->dims, sizeof n->dims);
    return KD_OK;
}

static size_t floats(const kd_exec *ex, const kd__state *s) { return kd__node_rows(ex, s->n) * s->n->size; }

static void forward(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
    if (s->prev) return;
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) kd__gelu_apply(s, i, kd_min_size(BLOCK, n - i));
}

static void backward(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
    if (!s->dx[0] || s->next) return;
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        kd__encoder_get()->gelu_back(s->dx[0] + i, s->dy + i, s->x[0] + i, kd_min_size(BLOCK, n - i),
                                     s->add[0]);
}

static double phi(double x) { return 0.5 * erfc(-x / sqrt(2)); }

static void naive_forward(kd_exec *ex, kd__state *s)
{
    for (size_t i = 0; i < floats(ex, s); i++)
        s->y[i] = (float)((double)s->x[0][i] * phi((double)s->x[0][i]));
}

static void naive_backward(kd_exec *ex, kd__state *s)
{
    for (size_t i = 0; s->dx[0] && i < floats(ex, s); i++) {
        const double x = (double)s->x[0][i], slope = phi(x) + x * exp(-x * x / 2) / sqrt(2 * acos(-1.0));
        s->dx[0][i] = (s->add[0] ? s->dx[0][i] : 0.0f) + (float)((double)s->dy[i] * slope);
    }
}

const kd__op kd__op_gelu = {
    .name = "gelu",
    .nin = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .packed = true,
    .backward_reads_x = true,
    .inplace = true,
};
