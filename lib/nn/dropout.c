/* dropout.c - inverted dropout by the counter generator (Srivastava et al. 2014).
 *
 * Whether element i of step t survives is a pure function of (seed, node, t, i): backward makes the mask
 * again instead of keeping it, and no thread count changes it. In inference the op copies. */
#include "nn_private.h"

#include <string.h>

#define BLOCK 4096 /* floats, four to a counter */

kd_node kd_nn_dropout(kd_graph *g, const char *name, kd_node x, float p)
{
    const kd__attrs a = {.p = p};
    return kd__graph_add(g, &kd__op_dropout, name, 1, &x, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    if (!(n->a.p >= 0 && n->a.p < 1))
        return kd_fail(err, KD_EUSAGE, "layer %s: dropout of %g; give a share from 0 to below 1", n->name,
                       (double)n->a.p);
    n->ndims = x->ndims;
    memcpy(n->dims, x->dims, sizeof n->dims);
    return KD_OK;
}

/* y[first, first + n) = x masked and scaled, or added to y; first is a multiple of 4. */
static void apply(const kd_exec *ex, const kd__state *s, float *y, const float *x, size_t first, size_t n,
                  bool add)
{
    kd_rng key;
    kd_rng_init(&key, ex->seed, KD_RNG_DROPOUT, (uint32_t)(s->n - ex->g->node), (uint32_t)ex->step);
    const float p = s->n->a.p, scale = 1 / (1 - p);
    const uint32_t limit = (uint32_t)((double)p * 4294967296.0);
    for (size_t i = first; i < first + n; i += 4) {
        uint32_t c[4], r[4];
        memcpy(c, key.counter, sizeof c);
        c[0] = (uint32_t)(i / 4);
        kd_philox(c, key.key, r);
        for (size_t k = 0; k < 4 && i + k < first + n; k++) {
            const float v = r[k] >= limit ? x[i + k] * scale : 0.0f;
            y[i + k] = add ? y[i + k] + v : v;
        }
    }
}

static void forward(kd_exec *ex, kd__state *s)
{
    const size_t n = (size_t)ex->p.batch * s->n->size;
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) {
        const size_t m = kd_min_size(BLOCK, n - i);
        if (ex->p.training)
            apply(ex, s, s->y, s->x[0], i, m, false);
        else if (s->y != s->x[0])
            memcpy(s->y + i, s->x[0] + i, m * sizeof(float));
    }
}

static void backward(kd_exec *ex, kd__state *s)
{
    const size_t n = (size_t)ex->p.batch * s->n->size;
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        apply(ex, s, s->dx[0], s->dy, i, kd_min_size(BLOCK, n - i), s->add[0]);
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    const size_t n = (size_t)ex->p.batch * s->n->size;
    if (ex->p.training)
        apply(ex, s, s->y, s->x[0], 0, n, false);
    else if (s->y != s->x[0])
        memcpy(s->y, s->x[0], n * sizeof(float));
}

static void naive_backward(kd_exec *ex, kd__state *s)
{
    if (s->dx[0]) apply(ex, s, s->dx[0], s->dy, 0, (size_t)ex->p.batch * s->n->size, s->add[0]);
}

const kd__op kd__op_dropout = {
    .name = "dropout",
    .nin = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .inplace = true,
};
