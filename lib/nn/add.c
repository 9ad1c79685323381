/* add.c - y = a + b, the end of a residual block (He et al. 2016), with a fused ReLU.
 *
 * The gradient of both inputs is dy, masked in place where ReLU was fused. One of them may lie where dy does:
 * then nothing is copied for it (exec_plan.c).
 */
#include "nn_private.h"

#include <string.h>

enum { BLOCK = 4096 }; /* floats */

kd_node kd_nn_add(kd_graph *g, const char *name, kd_node a, kd_node b)
{
    const kd__attrs at = {0};
    return kd__graph_add(g, &kd__op_add, name, 2, (kd_node[]){a, b}, &at);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *a = kd__graph_in(g, n, 0), *b = kd__graph_in(g, n, 1);
    if (a->ndims != b->ndims || memcmp(a->dims, b->dims, (size_t)a->ndims * sizeof *a->dims))
        return kd_fail(err, KD_EUSAGE,
                       "layer %s: %s has %zu values a row, %s has %zu; they must agree in shape", n->name,
                       a->name, a->size, b->name, b->size);
    n->ndims = a->ndims;
    memcpy(n->dims, a->dims, sizeof n->dims);
    return KD_OK;
}

static size_t floats(const kd_exec *ex, const kd__state *s) { return kd__node_rows(ex, s->n) * s->n->size; }

static void forward(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        kd__vec_get()->add(s->y + i, s->x[0] + i, s->x[1] + i, kd_min_size(BLOCK, n - i), s->n->a.relu);
}

static void backward(kd_exec *ex, kd__state *s)
{
    const kd__vec *v = kd__vec_get();
    const size_t n = floats(ex, s);
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) {
        const size_t m = kd_min_size(BLOCK, n - i);
        if (s->n->a.relu) v->relu_mask(s->dy + i, s->dy + i, s->y + i, m);
        for (int k = 0; k < 2; k++) {
            if (!s->dx[k]) continue;
            if (s->add[k])
                v->add_to(s->dx[k] + i, s->dy + i, m);
            else if (s->dx[k] != s->dy)
                memcpy(s->dx[k] + i, s->dy + i, m * sizeof(float));
        }
    }
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    for (size_t i = 0; i < floats(ex, s); i++) {
        const float v = s->x[0][i] + s->x[1][i];
        s->y[i] = s->n->a.relu && v < 0 ? 0.0f : v;
    }
}

static void naive_backward(kd_exec *ex, kd__state *s)
{
    for (size_t i = 0; i < floats(ex, s); i++) {
        const float dy = !s->n->a.relu || s->y[i] > 0 ? s->dy[i] : 0.0f;
        for (int k = 0; k < 2; k++)
            if (s->dx[k]) s->dx[k][i] = (s->add[k] ? s->dx[k][i] : 0.0f) + dy;
    }
}

const kd__op kd__op_add = {
    .name = "add",
    .nin = 2,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .backward_reads_y = true,
    .packed = true,
    .inplace = true,
    .fuses_relu = true,
};
