/* relu.c - y = max(0, x), a NaN stays one.
 *
 * Behind a linear layer, a convolution, a batch norm or an addition ReLU is fused into that op (graph.c);
 * the op here serves the rest. Backward looks at y, so y may lie where x did.
 */
#include "nn_private.h"

#include <string.h>

enum { BLOCK = 4096 }; /* floats */

kd_node kd_nn_relu(kd_graph *g, const char *name, kd_node x)
{
    const kd__attrs a = {0};
    return kd__graph_add(g, &kd__op_relu, name, 1, &x, &a);
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
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        kd__vec_get()->relu(s->y + i, s->x[0] + i, kd_min_size(BLOCK, n - i));
}

static void backward(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        (s->add[0] ? kd__vec_get()->relu_mask_add
                   : kd__vec_get()->relu_mask)(s->dx[0] + i, s->dy + i, s->y + i, kd_min_size(BLOCK, n - i));
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    for (size_t i = 0; i < floats(ex, s); i++) s->y[i] = s->x[0][i] < 0 ? 0.0f : s->x[0][i];
}

static void naive_backward(kd_exec *ex, kd__state *s)
{
    for (size_t i = 0; s->dx[0] && i < floats(ex, s); i++)
        s->dx[0][i] = (s->add[0] ? s->dx[0][i] : 0.0f) + (s->y[i] > 0 ? s->dy[i] : 0.0f);
}

const kd__op kd__op_relu = {
    .name = "relu",
    .nin = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .backward_reads_y = true,
    .packed = true,
    .inplace = true,
};
