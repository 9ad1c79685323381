/* dropout.c - inverted dropout by the counter generator (Srivastava et al. 2014).
 *
 * Whether element i of step t survives is a pure function of (seed, node, t, i): backward makes the mask
 * again instead of keeping it, and no thread count changes it. In inference the op copies, or does nothing
 * where it works in place.
 */
#include "nn_private.h"

#include <string.h>

enum { BLOCK = 4096 /* floats, four to a counter */, ITEM_SHIFT = 12 /* behind the number of a node */ };

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

kd__mask kd__mask_of(const kd_exec *ex, const kd__state *s, uint32_t item)
{
    const float p = s->n->a.p;
    kd_rng stream;
    kd_rng_init(&stream, ex->seed, KD_RNG_DROPOUT, (uint32_t)(s->n - ex->g->node) + (item << ITEM_SHIFT),
                (uint32_t)ex->step);
    kd__mask m = {.limit = (uint32_t)((double)p * 4294967296.0), .scale = 1 / (1 - p)};
    memcpy(m.counter, stream.counter, sizeof m.counter);
    memcpy(m.key, stream.key, sizeof m.key);
    return m;
}

/* Elements from i on, a block of them, of y = x masked, or added. The kernel does whole groups of 64; the
 * last group may be a part of one, which goes through a copy. */
static void mask_block(const kd_exec *ex, const kd__state *s, float *y, const float *x, size_t i, bool add)
{
    const size_t n = kd_min_size(BLOCK, kd__node_rows(ex, s->n) * s->n->size - i),
                 whole = n / KD__MASK_BLOCK * KD__MASK_BLOCK;
    float copy[2][KD__MASK_BLOCK] = {0};
    kd__mask m = kd__mask_of(ex, s, 0);
    m.counter[0] = (uint32_t)(i / 4);
    kd__vec_get()->dropout(y + i, x + i, whole, &m, add);
    if (whole == n) return;
    m.counter[0] += (uint32_t)(whole / 4);
    memcpy(copy[0], x + i + whole, (n - whole) * sizeof *x);
    memcpy(copy[1], y + i + whole, (n - whole) * sizeof *y);
    kd__vec_get()->dropout(copy[1], copy[0], KD__MASK_BLOCK, &m, add);
    memcpy(y + i + whole, copy[1], (n - whole) * sizeof *y);
}

static void forward(kd_exec *ex, kd__state *s)
{
    const size_t n = kd__node_rows(ex, s->n) * s->n->size;
    if (!ex->p.training && s->y == s->x[0]) return;
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        if (ex->p.training)
            mask_block(ex, s, s->y, s->x[0], i, false);
        else
            memcpy(s->y + i, s->x[0] + i, kd_min_size(BLOCK, n - i) * sizeof(float));
}

static void backward(kd_exec *ex, kd__state *s)
{
    const size_t n = kd__node_rows(ex, s->n) * s->n->size;
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) mask_block(ex, s, s->dx[0], s->dy, i, s->add[0]);
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

static void naive_mask(const kd_exec *ex, const kd__state *s, float *y, const float *x, bool add)
{
    const kd__mask m = kd__mask_of(ex, s, 0);
    for (size_t i = 0; i < kd__node_rows(ex, s->n) * s->n->size; i++) {
        const uint32_t counter[4] = {(uint32_t)(i / 64 * 16 + i % 16), m.counter[1], m.counter[2],
                                     m.counter[3]};
        uint32_t random[4];
        kd_philox(counter, m.key, random);
        const float v =
            (double)random[i % 64 / 16] * 0x1p-32 >= (double)s->n->a.p ? x[i] / (1 - s->n->a.p) : 0.0f;
        y[i] = add ? y[i] + v : v;
    }
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    if (ex->p.training)
        naive_mask(ex, s, s->y, s->x[0], false);
    else if (s->y != s->x[0])
        memcpy(s->y, s->x[0], kd__node_rows(ex, s->n) * s->n->size * sizeof(float));
}

static void naive_backward(kd_exec *ex, kd__state *s)
{
    if (s->dx[0]) naive_mask(ex, s, s->dx[0], s->dy, s->add[0]);
}

const kd__op kd__op_dropout = {
    .name = "dropout",
    .nin = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .packed = true,
    .inplace = true,
};
