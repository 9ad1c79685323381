/* seqpool.c - from a row per token to a row per sequence: the mean over its tokens, or its first token's.
 */
#include "nn_private.h"

#include <string.h>

kd_node kd_nn_pool(kd_graph *g, const char *name, kd_node x, kd_pool how)
{
    const kd__attrs a = {.k = (int)how};
    return kd__graph_add(g, &kd__op_pool, name, 1, &x, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    if (x->per != KD_PER_TOKEN)
        return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has no row per token to pool", n->name,
                       x->name);
    n->per = KD_PER_SEQUENCE;
    n->ndims = x->ndims;
    memcpy(n->dims, x->dims, sizeof n->dims);
    return KD_OK;
}

static size_t tokens_of(const kd_exec *ex, int64_t i) { return (size_t)(ex->offset[i + 1] - ex->offset[i]); }

static void forward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < ex->sequences; i++) {
        const size_t n = tokens_of(ex, i);
        const float *x = s->x[0] + ex->offset[i] * c;
        float *y = s->y + (size_t)i * c;
        if (s->n->a.k == KD_POOL_FIRST) {
            memcpy(y, x, c * sizeof *y);
            continue;
        }
        kd__vec_get()->col_sum(y, x, n, c, c);
        for (size_t j = 0; j < c; j++) y[j] *= 1.0f / (float)n;
    }
}

static void backward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size;
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < ex->sequences; i++) {
        const size_t n = tokens_of(ex, i);
        const float *dy = s->dy + (size_t)i * c;
        float *dx = s->dx[0] + ex->offset[i] * c;
        if (s->n->a.k == KD_POOL_MEAN) {
            kd__vec_get()->spread(dx, dy, 1.0f / (float)n, n, c, s->add[0]);
            continue;
        }
        kd__vec_get()->spread(dx, dy, 1, 1, c, s->add[0]);
        if (!s->add[0]) memset(dx + c, 0, (n - 1) * c * sizeof *dx);
    }
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

static double weight(const kd_exec *ex, const kd__state *s, int64_t i, uint64_t token)
{
    if (s->n->a.k == KD_POOL_MEAN) return 1 / (double)tokens_of(ex, i);
    return token == ex->offset[i] ? 1 : 0;
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size;
    for (int64_t i = 0; i < ex->sequences; i++)
        for (size_t j = 0; j < c; j++) {
            double sum = 0;
            for (uint64_t t = ex->offset[i]; t < ex->offset[i + 1]; t++)
                sum += weight(ex, s, i, t) * (double)s->x[0][t * c + j];
            s->y[(size_t)i * c + j] = (float)sum;
        }
}

static void naive_backward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size;
    for (int64_t i = 0; s->dx[0] && i < ex->sequences; i++)
        for (uint64_t t = ex->offset[i]; t < ex->offset[i + 1]; t++)
            for (size_t j = 0; j < c; j++)
                s->dx[0][t * c + j] = (s->add[0] ? s->dx[0][t * c + j] : 0.0f) +
                                      (float)(weight(ex, s, i, t) * (double)s->dy[(size_t)i * c + j]);
}

const kd__op kd__op_pool = {
    .name = "pool",
    .nin = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .packed = true,
};
