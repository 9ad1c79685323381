/* flatten.c - an image (H, W, C) becomes one axis in PyTorch's order (C, H, W).
 *
 * The graph keeps images as NHWC; linear weights behind a flatten are stored as PyTorch has them, so
 * the values are transposed once here. Where there is one channel or one pixel both orders agree and the
 * node is an alias. */
#include "nn_private.h"

#include <string.h>

kd_node kd_nn_flatten(kd_graph *g, const char *name, kd_node x)
{
    const kd__attrs a = {0};
    return kd__graph_add(g, &kd__op_flatten, name, 1, &x, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    (void)err;
    n->ndims = 1;
    n->dims[0] = (int64_t)x->size;
    const int64_t c = x->ndims ? x->dims[x->ndims - 1] : 1;
    if (x->ndims != 3 || c == 1 || (size_t)c == x->size) n->alias = n->in[0];
    return KD_OK;
}

/* to (c, p) = from (p, c), or added to it. Sixteen rows of `to` are written side by side: as many cache lines
 * stay open while a line of `from` is read whole. */
static void transpose(float *to, const float *from, size_t p, size_t c, bool add)
{
    enum { SIDE = 16 };
    for (size_t i0 = 0; i0 < c; i0 += SIDE) {
        const size_t end = kd_min_size(i0 + SIDE, c);
        for (size_t j = 0; j < p; j++)
            for (size_t i = i0; i < end; i++) to[i * p + j] = (add ? to[i * p + j] : 0.0f) + from[j * c + i];
    }
}

static void sizes(const kd_exec *ex, const kd__state *s, size_t *c, size_t *p)
{
    const kd__node_info *x = kd__graph_in(ex->g, s->n, 0);
    *c = (size_t)x->dims[2];
    *p = x->size / *c;
}

static void forward(kd_exec *ex, kd__state *s)
{
    size_t c, p;
    sizes(ex, s, &c, &p);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < ex->p.batch; b++)
        transpose(s->y + (size_t)b * c * p, s->x[0] + (size_t)b * c * p, p, c, false);
}

static void backward(kd_exec *ex, kd__state *s)
{
    size_t c, p;
    sizes(ex, s, &c, &p);
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (int64_t b = 0; b < ex->p.batch; b++)
        transpose(s->dx[0] + (size_t)b * c * p, s->dy + (size_t)b * c * p, c, p, s->add[0]);
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    size_t c, p;
    sizes(ex, s, &c, &p);
    for (size_t i = 0; i < (size_t)ex->p.batch * c * p; i++) {
        const size_t b = i / (c * p), pixel = i / c % p, channel = i % c;
        s->y[b * c * p + channel * p + pixel] = s->x[0][i];
    }
}

static void naive_backward(kd_exec *ex, kd__state *s)
{
    size_t c, p;
    sizes(ex, s, &c, &p);
    for (size_t i = 0; s->dx[0] && i < (size_t)ex->p.batch * c * p; i++) {
        const size_t b = i / (c * p), pixel = i / c % p, channel = i % c;
        s->dx[0][i] = (s->add[0] ? s->dx[0][i] : 0.0f) + s->dy[b * c * p + channel * p + pixel];
    }
}

const kd__op kd__op_flatten = {
    .name = "flatten",
    .nin = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
};
