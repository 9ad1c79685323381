/* simple.c - ops without parameters that look at one number at a time: input, ReLU, addition.
 *
 * A ReLU behind a linear layer, a convolution, a batch norm or an addition is fused into it (graph.c); the op
 * here serves the others. All work in place where liveness allows.
 */
#include "nn_private.h"

#include <string.h>

#define BLOCK 4096 /* floats */

static size_t floats(const kd_exec *ex, const kd__state *s) { return (size_t)ex->p.batch * s->n->size; }

/* ---- input -------------------------------------------------------------------------------- */

kd_node kd_nn_input(kd_graph *g, const char *name, int ndims, const int64_t *dims)
{
    kd__attrs a = {0};
    kd_node n = kd__graph_add(g, &kd__op_input, name, 0, NULL, &a);
    if (n < 0) return n;
    kd__node_info *x = &g->node[n];
    if (ndims < 1 || ndims > KD_MAX_DIMS) {
        kd_fail(&g->err, KD_EUSAGE, "input %s has %d axes; 1 to %d are possible", name, ndims, KD_MAX_DIMS);
        return -1;
    }
    x->ndims = ndims;
    x->size = 1;
    for (int i = 0; i < ndims; i++) {
        x->dims[i] = dims[i];
        if (dims[i] < 1 || !kd_mul_size(x->size, (size_t)dims[i], &x->size) || x->size > 1u << 30) {
            kd_fail(&g->err, KD_EUSAGE, "input %s: axis %d has %lld places", name, i, (long long)dims[i]);
            return -1;
        }
    }
    return n;
}

static kd_status input_shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    (void)g, (void)n, (void)err;
    return KD_OK; /* the builder sets it */
}

const kd__op kd__op_input = {.name = "input", .shape = input_shape};

/* ---- relu --------------------------------------------------------------------------------- */

kd_node kd_nn_relu(kd_graph *g, const char *name, kd_node x)
{
    const kd__attrs a = {0};
    return kd__graph_add(g, &kd__op_relu, name, 1, &x, &a);
}

static kd_status same_shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    for (int i = 1; i < n->nin; i++) {
        const kd__node_info *y = kd__graph_in(g, n, i);
        if (y->ndims != x->ndims || memcmp(y->dims, x->dims, sizeof x->dims[0] * (size_t)x->ndims))
            return kd_fail(err, KD_EUSAGE, "layer %s: %s has %zu values a row, %s has %zu; they must agree in shape",
                           n->name, x->name, x->size, y->name, y->size);
    }
    n->ndims = x->ndims;
    memcpy(n->dims, x->dims, sizeof n->dims);
    return KD_OK;
}

static void relu_forward(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) kd__vec_get()->relu(s->y + i, s->x[0] + i, kd_min_size(BLOCK, n - i));
}

static void relu_backward(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        (s->add[0] ? kd__vec_get()->relu_mask_add : kd__vec_get()->relu_mask)(s->dx[0] + i, s->dy + i, s->y + i,
                                                                              kd_min_size(BLOCK, n - i));
}

static void relu_naive_forward(kd_exec *ex, kd__state *s)
{
    for (size_t i = 0; i < floats(ex, s); i++) s->y[i] = s->x[0][i] < 0 ? 0.0f : s->x[0][i];
}

static void relu_naive_backward(kd_exec *ex, kd__state *s)
{
    for (size_t i = 0; s->dx[0] && i < floats(ex, s); i++)
        s->dx[0][i] = (s->add[0] ? s->dx[0][i] : 0.0f) + (s->y[i] > 0 ? s->dy[i] : 0.0f);
}

const kd__op kd__op_relu = {
    .name = "relu",
    .nin = 1,
    .shape = same_shape,
    .forward = relu_forward,
    .backward = relu_backward,
    .naive_forward = relu_naive_forward,
    .naive_backward = relu_naive_backward,
    .backward_reads_y = true,
    .inplace = true,
};

/* ---- add ---------------------------------------------------------------------------------- */

kd_node kd_nn_add(kd_graph *g, const char *name, kd_node a, kd_node b)
{
    const kd__attrs at = {0};
    return kd__graph_add(g, &kd__op_add, name, 2, (kd_node[]){a, b}, &at);
}

static void add_forward(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        kd__vec_get()->add(s->y + i, s->x[0] + i, s->x[1] + i, kd_min_size(BLOCK, n - i), s->n->a.relu);
}

/* Each input's gradient is dy. One of them may lie where dy does; if that is the second, it is written (that is,
 * left alone) after the first was copied from it. */
static void add_backward(kd_exec *ex, kd__state *s)
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

static void add_naive_forward(kd_exec *ex, kd__state *s)
{
    for (size_t i = 0; i < floats(ex, s); i++) {
        const float v = s->x[0][i] + s->x[1][i];
        s->y[i] = s->n->a.relu && v < 0 ? 0.0f : v;
    }
}

static void add_naive_backward(kd_exec *ex, kd__state *s)
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
    .shape = same_shape,
    .forward = add_forward,
    .backward = add_backward,
    .naive_forward = add_naive_forward,
    .naive_backward = add_naive_backward,
    .backward_reads_y = true,
    .inplace = true,
    .fuses_relu = true,
};
