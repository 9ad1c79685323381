/* attention.c - softmax(q k^T / sqrt(d)) v for each head of each sequence (Vaswani et al., "Attention Is All
 * You Need", 2017, section 3.2).
 *
 * A head of a sequence is done whole by one thread, forward and backward (encoder.simd.c), so its sums have
 * one order; which thread takes it does not matter, and they are handed out as they come, because sequences
 * differ in length. Forward keeps the logarithm of each softmax's sum and nothing of size tokens x tokens.
 *
 * Dropout is of the shares, behind the softmax, whose sum goes over all of them. Whether one survives is a
 * function of (seed, node, step, head of which sequence, query, token), so backward makes the same ones
 * again.
 */
#include "nn_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS = 4 }; /* of a sequence's heads: one thread has neighbours, which lie side by side */

kd_node kd_nn_self_attention(kd_graph *g, const char *name, kd_node q, kd_node k, kd_node v, int heads,
                             float p)
{
    const kd__attrs a = {.k = heads, .p = p};
    return kd__graph_add(g, &kd__op_attention, name, 3, (kd_node[]){q, k, v}, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *q = kd__graph_in(g, n, 0);
    if (q->per != KD_PER_TOKEN)
        return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has no row per token", n->name, q->name);
    for (int i = 0; i < 3; i++) {
        const kd__node_info *x = kd__graph_in(g, n, i);
        if (x->ndims != 1 || x->dims[0] != q->dims[0])
            return kd_fail(err, KD_EUSAGE, "layer %s: %s has %zu values a token, %s has %zu; they must agree",
                           n->name, q->name, q->size, x->name, x->size);
    }
    if (n->a.k < 1 || q->dims[0] % n->a.k)
        return kd_fail(err, KD_EUSAGE, "layer %s: %zu values a token do not divide into %d heads", n->name,
                       q->size, n->a.k);
    if (!(n->a.p >= 0 && n->a.p < 1))
        return kd_fail(err, KD_EUSAGE, "layer %s: dropout of %g; give a share from 0 to below 1", n->name,
                       (double)n->a.p);
    n->ndims = 1;
    n->dims[0] = q->dims[0];
    return KD_OK;
}

static size_t longest(const kd_exec *ex)
{
    const int64_t most = ex->g->positions;
    return (size_t)(most && most < ex->p.batch ? most : ex->p.batch);
}

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    const size_t heads = (size_t)s->n->a.k;
    kd__team *team;
    if (ex->p.training) s->keep_floats = kd__node_rows_planned(ex, s->n) * heads;
    kd_status st = kd__exec_team(&team, ex, err);
    return st ? st
              : kd__team_reserve(team, kd__encoder_get()->head_floats(longest(ex), s->n->size / heads), err);
}

void kd__mask_shares(float out[4], const kd__head *h, size_t row, size_t t)
{
    const kd__mask *m = h->drop;
    const uint32_t at = (uint32_t)(row * ((h->tokens + 3) / 4) + t / 4),
                   counter[4] = {at, m->counter[1], m->counter[2], m->counter[3]};
    uint32_t random[4];
    kd_philox(counter, m->key, random);
    for (int k = 0; k < 4; k++) out[k] = random[k] >= m->limit ? m->scale : 0;
}

/* Head `head` of sequence i; *at: where its first number is; *drop: room for what it drops. */
static kd__head head_of(const kd_exec *ex, const kd__state *s, int64_t i, size_t head, size_t *at,
                        kd__mask *drop)
{
    const bool drops = ex->p.training && s->n->a.p > 0;
    if (drops) *drop = kd__mask_of(ex, s, (uint32_t)i * (uint32_t)s->n->a.k + (uint32_t)head);
    const size_t width = s->n->size, d = width / (size_t)s->n->a.k;
    *at = ex->offset[i] * width + head * d;
    return (kd__head){.q = s->x[0] + *at,
                      .k = s->x[1] + *at,
                      .v = s->x[2] + *at,
                      .tokens = (size_t)(ex->offset[i + 1] - ex->offset[i]),
                      .d = d,
                      .ld = width,
                      .scale = 1 / sqrtf((float)d),
                      .drop = drops ? drop : NULL};
}

/* Of item i, one of all heads of all sequences: a head's logarithms lie together. */
static float *log_sum_of(const kd_exec *ex, const kd__state *s, int64_t i, size_t head)
{
    const size_t tokens = (size_t)(ex->offset[i + 1] - ex->offset[i]);
    return s->keep ? s->keep + ex->offset[i] * (size_t)s->n->a.k + head * tokens : NULL;
}

static void forward(kd_exec *ex, kd__state *s)
{
    const int heads = s->n->a.k, some = (heads + PARTS - 1) / PARTS;
#pragma omp for schedule(dynamic, some)
    for (int64_t item = 0; item < ex->sequences * heads; item++) {
        const int64_t i = item / heads;
        const size_t head = (size_t)(item % heads);
        kd__mask drop;
        size_t at;
        const kd__head h = head_of(ex, s, i, head, &at, &drop);
        kd__encoder_get()->attend(&h, s->y + at, log_sum_of(ex, s, i, head), kd__team_stage(ex->team));
    }
}

static void backward(kd_exec *ex, kd__state *s)
{
    const int heads = s->n->a.k, some = (heads + PARTS - 1) / PARTS;
#pragma omp for schedule(dynamic, some)
    for (int64_t item = 0; item < ex->sequences * heads; item++) {
        const int64_t i = item / heads;
        const size_t head = (size_t)(item % heads);
        kd__mask drop;
        size_t at;
        const kd__head h = head_of(ex, s, i, head, &at, &drop);
        const kd__head_grads g = {.y = s->y + at,
                                  .dy = s->dy + at,
                                  .log_sum = log_sum_of(ex, s, i, head),
                                  .dq = s->dx[0] ? s->dx[0] + at : NULL,
                                  .dk = s->dx[1] ? s->dx[1] + at : NULL,
                                  .dv = s->dx[2] ? s->dx[2] + at : NULL,
                                  .add = {s->add[0], s->add[1], s->add[2]}};
        kd__encoder_get()->attend_back(&h, &g, kd__team_stage(ex->team));
    }
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* What becomes of what query r gives to token t. */
static double naive_drop(const kd__head *h, size_t r, size_t t)
{
    float four[4] = {1, 1, 1, 1};
    if (h->drop) kd__mask_shares(four, h, r, t / 4 * 4);
    return (double)four[t % 4];
}

/* p (tokens): what query r of h gives to each token. */
static void naive_shares(const kd__head *h, size_t r, double *p)
{
    double top = -INFINITY, sum = 0;
    for (size_t t = 0; t < h->tokens; t++) {
        p[t] = dot(h->q + r * h->ld, h->k + t * h->ld, h->d) / sqrt((double)h->d);
        top = fmax(top, p[t]);
    }
    for (size_t t = 0; t < h->tokens; t++) sum += p[t] = exp(p[t] - top);
    for (size_t t = 0; t < h->tokens; t++) p[t] /= sum;
}

static void naive_head(const kd__head *h, float *y, double *p)
{
    for (size_t r = 0; r < h->tokens; r++) {
        naive_shares(h, r, p);
        for (size_t j = 0; j < h->d; j++) {
            double sum = 0;
            for (size_t t = 0; t < h->tokens; t++)
                sum += p[t] * naive_drop(h, r, t) * (double)h->v[t * h->ld + j];
            y[r * h->ld + j] = (float)sum;
        }
    }
}

static void naive_head_back(const kd__head *h, const float *dy, float *const dx[3], double *p)
{
    for (size_t r = 0; r < h->tokens; r++) {
        double mean = 0;
        naive_shares(h, r, p);
        for (size_t t = 0; t < h->tokens; t++)
            mean += p[t] * naive_drop(h, r, t) * dot(dy + r * h->ld, h->v + t * h->ld, h->d);
        for (size_t t = 0; t < h->tokens; t++) {
            const double drop = naive_drop(h, r, t),
                         ds = p[t] * (drop * dot(dy + r * h->ld, h->v + t * h->ld, h->d) - mean) /
                              sqrt((double)h->d);
            for (size_t j = 0; j < h->d; j++) {
                if (dx[0]) dx[0][r * h->ld + j] += (float)(ds * (double)h->k[t * h->ld + j]);
                if (dx[1]) dx[1][t * h->ld + j] += (float)(ds * (double)h->q[r * h->ld + j]);
                if (dx[2]) dx[2][t * h->ld + j] += (float)(p[t] * drop * (double)dy[r * h->ld + j]);
            }
        }
    }
}

static void naive(kd_exec *ex, kd__state *s, bool back)
{
    double *p = calloc(longest(ex), sizeof *p);
    for (int64_t i = 0; p && i < ex->sequences; i++)
        for (size_t head = 0; head < (size_t)s->n->a.k; head++) {
            kd__mask drop;
            size_t at;
            const kd__head h = head_of(ex, s, i, head, &at, &drop);
            float *const dx[] = {s->dx[0] ? s->dx[0] + at : NULL, s->dx[1] ? s->dx[1] + at : NULL,
                                 s->dx[2] ? s->dx[2] + at : NULL};
            if (back)
                naive_head_back(&h, s->dy + at, dx, p);
            else
                naive_head(&h, s->y + at, p);
        }
    free(p);
}

static void naive_forward(kd_exec *ex, kd__state *s) { naive(ex, s, false); }

static void naive_backward(kd_exec *ex, kd__state *s)
{
    const size_t n = kd__node_rows(ex, s->n) * s->n->size;
    for (int k = 0; k < 3; k++)
        if (s->dx[k] && !s->add[k]) memset(s->dx[k], 0, n * sizeof(float));
    naive(ex, s, true);
}

const kd__op kd__op_attention = {
    .name = "attention",
    .nin = 3,
    .shape = shape,
    .plan = plan,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .packed = true,
    .backward_reads_x = true,
    .backward_reads_y = true,
};
