/* rope.c - rotary positions (Su et al., "RoFormer", 2021): pairs of a head's numbers are turned by angles
 * that grow with the token's place in its sequence, so that the product of a query and a key depends on how
 * far apart they are.
 *
 * Pairs are number i and i + d / 2 of a head, as in Llama's Hugging Face folders; GGUF files have them side
 * by side, and whoever reads one puts their rows in order. Angles are place / base^(2 i / d) in f32, as
 * PyTorch computes them: at place 8,000 a rounding of the frequency is already 5e-4. Backward turns back.
 */
#include "nn_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct table { /* (places, d / 2) each; sine, and the same turned back */
    float *cosine, *sine, *back;
    size_t half;
    int users; /* nodes of the exec */
} table;

kd_node kd_nn_rope(kd_graph *g, const char *name, kd_node x, int heads, float base, int64_t positions)
{
    const kd__attrs a = {.k = heads, .base = base, .dims = {positions}};
    return kd__graph_add(g, &kd__op_rope, name, 1, &x, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    if (x->per != KD_PER_TOKEN)
        return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has no row per token", n->name, x->name);
    if (n->a.k < 1 || x->size % (2 * (size_t)n->a.k))
        return kd_fail(err, KD_EUSAGE, "layer %s: %zu values a token do not divide into pairs of %d heads",
                       n->name, x->size, n->a.k);
    if (!(n->a.base > 1 && isfinite(n->a.base)))
        return kd_fail(err, KD_EUSAGE, "layer %s: the base of its angles is %g, expected more than 1",
                       n->name, (double)n->a.base);
    n->ndims = x->ndims;
    memcpy(n->dims, x->dims, sizeof n->dims);
    if (n->a.dims[0] > 0 && (!g->positions || n->a.dims[0] < g->positions)) g->positions = n->a.dims[0];
    return KD_OK;
}

static void release(kd__state *s)
{
    table *t = s->own;
    s->own = NULL;
    if (!t || --t->users) return;
    free(t->cosine);
    free(t);
}

/* Another node's with the same angles, or NULL. */
static table *same_angles(const kd_exec *ex, const kd__node_info *n)
{
    for (int i = 0; i < ex->steps; i++) {
        const kd__state *o = &ex->state[ex->order[i]];
        table *t = o->n->op == &kd__op_rope ? o->own : NULL;
        if (t && t->half == n->size / (size_t)n->a.k / 2 && !(o->n->a.base < n->a.base) &&
            !(o->n->a.base > n->a.base))
            return t;
    }
    return NULL;
}

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    const size_t places = kd__exec_longest(ex);
    table *t = same_angles(ex, s->n);
    if (t) {
        t->users++;
        s->own = t;
        return KD_OK;
    }
    if (!(t = s->own = calloc(1, sizeof *t)))
        return kd_fail(err, KD_ENOMEM, "layer %s: out of memory", s->n->name);
    t->users = 1;
    t->half = s->n->size / (size_t)s->n->a.k / 2;
    const size_t floats = places * t->half;
    if (!(t->cosine = kd_alloc_aligned(3 * floats, sizeof *t->cosine)))
        return kd_fail(err, KD_ENOMEM, "layer %s: no memory for the angles of %zu places", s->n->name,
                       places);
    ex->extra_bytes += 3 * floats * sizeof(float);
    t->sine = t->cosine + floats;
    t->back = t->sine + floats;
    for (size_t i = 0; i < t->half; i++) {
        const float f = (float)(1 / pow((double)s->n->a.base, (double)((float)i / (float)t->half)));
        for (size_t p = 0; p < places; p++) {
            const double angle = (double)((float)p * f);
            t->cosine[p * t->half + i] = (float)cos(angle);
            t->back[p * t->half + i] = -(t->sine[p * t->half + i] = (float)sin(angle));
        }
    }
    return KD_OK;
}

/* y = or += x turned. */
static void turn(const kd_exec *ex, const kd__state *s, float *y, const float *x, bool back, bool add)
{
    const table *t = s->own;
    const size_t c = s->n->size, heads = (size_t)s->n->a.k;
#pragma omp for schedule(dynamic, 4)
    for (int64_t i = 0; i < ex->sequences; i++)
        for (uint64_t at = ex->offset[i]; at < ex->offset[i + 1]; at++) {
            const size_t place = (size_t)(at - ex->offset[i] + ex->past[i]) * t->half;
            kd__decoder_get()->rotate(y + at * c, x + at * c, t->cosine + place,
                                      (back ? t->back : t->sine) + place, heads, 2 * t->half, add);
        }
}

static void forward(kd_exec *ex, kd__state *s) { turn(ex, s, s->y, s->x[0], false, false); }

static void backward(kd_exec *ex, kd__state *s)
{
    if (s->dx[0]) turn(ex, s, s->dx[0], s->dy, true, s->add[0]);
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

static void naive(const kd_exec *ex, const kd__state *s, float *y, const float *x, double way, bool add)
{
    const size_t c = s->n->size, heads = (size_t)s->n->a.k, half = c / heads / 2;
    for (int64_t i = 0; i < ex->sequences; i++)
        for (uint64_t t = ex->offset[i]; t < ex->offset[i + 1]; t++)
            for (size_t k = 0; k < heads * half; k++) {
                const size_t p = t * c + k / half * 2 * half + k % half, q = p + half;
                const double angle = way * (double)(t - ex->offset[i]) *
                                     pow((double)s->n->a.base, -(double)(k % half) / (double)half);
                const double a = (double)x[p] * cos(angle) - (double)x[q] * sin(angle);
                const double b = (double)x[q] * cos(angle) + (double)x[p] * sin(angle);
                y[p] = (float)((add ? (double)y[p] : 0.0) + a);
                y[q] = (float)((add ? (double)y[q] : 0.0) + b);
            }
}

static void naive_forward(kd_exec *ex, kd__state *s) { naive(ex, s, s->y, s->x[0], 1, false); }

static void naive_backward(kd_exec *ex, kd__state *s)
{
    if (s->dx[0]) naive(ex, s, s->dx[0], s->dy, -1, s->add[0]);
}

const kd__op kd__op_rope = {
    .name = "rope",
    .nin = 1,
    .shape = shape,
    .plan = plan,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .release = release,
    .packed = true,
    .inplace = true,
};
