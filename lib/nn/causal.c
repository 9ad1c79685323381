/* causal.c - softmax(q k^T / sqrt(d)) v over the tokens up to each query's own, heads of queries sharing
 * heads of keys and values (Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models",
 * 2023).
 *
 * A head of queries of one sequence is done whole by one thread, forward and backward (decoder.simd.c), and
 * what its keys and values get of gradients is added to that of the other heads that share them when all are
 * there: so sums have one order. Items are handed out as they come, because sequences differ in length, and
 * are as small as that, because a batch may be one sequence. Sequences of a packed batch never see each
 * other. Forward keeps the logarithm of each softmax's sum and nothing of size tokens x tokens.
 *
 * Sequences that grow have their keys and values kept, as the kernel reads them: a pass writes those of its
 * own tokens and copies nothing of what it finds. There an item is all heads that share a head of keys.
 *
 * In training with bf16 instructions these products are theirs as well, of queries, keys, values, shares and
 * their gradients rounded to bf16. Inference is f32: growing sequences give the bits of whole ones.
 */
#include "nn_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

kd_node kd_nn_causal_attention(kd_graph *g, const char *name, kd_node q, kd_node k, kd_node v, int heads,
                               int kv_heads)
{
    const kd__attrs a = {.k = heads, .kv = kv_heads};
    return kd__graph_add(g, &kd__op_causal, name, 3, (kd_node[]){q, k, v}, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *q = kd__graph_in(g, n, 0), *k = kd__graph_in(g, n, 1), *v = kd__graph_in(g, n, 2);
    const int heads = n->a.k, kv = n->a.kv;
    if (q->per != KD_PER_TOKEN)
        return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has no row per token", n->name, q->name);
    if (heads < 1 || kv < 1 || heads % kv || q->size % (size_t)heads)
        return kd_fail(
            err, KD_EUSAGE,
            "layer %s: %zu values a token, %d heads of queries, %d of keys; the first must divide by "
            "the second, and that by the third",
            n->name, q->size, heads, kv);
    if (q->ndims != 1 || k->size != q->size / (size_t)heads * (size_t)kv || v->size != k->size)
        return kd_fail(err, KD_EUSAGE, "layer %s: %s and %s have %zu and %zu values a token, expected %zu",
                       n->name, k->name, v->name, k->size, v->size, q->size / (size_t)heads * (size_t)kv);
    n->ndims = 1;
    n->dims[0] = q->dims[0];
    return KD_OK;
}

static size_t dimension(const kd__state *s) { return s->n->size / (size_t)s->n->a.k; }

/* What is kept of a head of keys: (d, tokens), then values (tokens, d), in whole vectors of any CPU. */
typedef struct kept {
    size_t d, tokens;
} kept;

static kept sizes(const kd_exec *ex, const kd__state *s)
{
    enum { VECTOR = 16 };
    return (kept){.d = (dimension(s) + VECTOR - 1) / VECTOR * VECTOR,
                  .tokens = (kd__exec_longest(ex) + VECTOR - 1) / VECTOR * VECTOR};
}

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    kd__team *team;
    if (ex->p.cache) {
        const kept z = sizes(ex, s);
        const size_t floats = 2 * z.d * z.tokens * (size_t)s->n->a.kv * (size_t)ex->p.sequences;
        ex->extra_bytes += floats * sizeof(float);
        if (!(s->own = kd_alloc_aligned(floats, sizeof(float))))
            return kd_fail(err, KD_ENOMEM, "layer %s: no memory for a cache of %lld times %lld tokens",
                           s->n->name, (long long)ex->p.sequences, (long long)ex->p.cache);
        memset(s->own, 0, floats * sizeof(float));
    }
    if (ex->p.training) {
        s->keep_floats = kd__node_rows_planned(ex, s->n) * (size_t)s->n->a.k;
        s->shared_floats = 2 * kd__node_rows_planned(ex, s->n) * s->n->size;
    }
    kd_status st = kd__exec_team(&team, ex, err);
    return st ? st
              : kd__team_reserve(team, kd__decoder_get()->group_floats(kd__exec_longest(ex), dimension(s)),
                                 err);
}

/* Where the numbers of a group begin: in q, y and their gradients; in k, v and theirs; in what is kept. */
typedef struct places {
    size_t q, k, keep;
} places;

static size_t sharing(const kd__state *s) { return (size_t)(s->n->a.k / s->n->a.kv); }

/* Heads of queries of sequence i, from `head` on, and the head of keys that they share. */
static kd__group group_of(const kd_exec *ex, const kd__state *s, int64_t i, size_t head, size_t heads,
                          places *at)
{
    const size_t d = dimension(s), ldk = d * (size_t)s->n->a.kv,
                 tokens = (size_t)(ex->offset[i + 1] - ex->offset[i]);
    *at = (places){.q = ex->offset[i] * s->n->size + head * d,
                   .k = ex->offset[i] * ldk + head / sharing(s) * d,
                   .keep = ex->offset[i] * (size_t)s->n->a.k + head * tokens};
    return (kd__group){.q = s->x[0] + at->q,
                       .k = s->x[1] + at->k,
                       .v = s->x[2] + at->k,
                       .heads = heads,
                       .tokens = tokens,
                       .d = d,
                       .ldq = s->n->size,
                       .ldk = ldk,
                       .scale = 1 / sqrtf((float)d),
                       .pairs = ex->p.training && ex->operands == KD__BF16};
}

/* Puts the group's keys and values behind those that are kept of its sequence: they are what it reads. */
static void remember(const kd_exec *ex, const kd__state *s, int64_t sequence, size_t kv, kd__group *g)
{
    const kept z = sizes(ex, s);
    float *keys = (float *)s->own + (ex->place[sequence] * (size_t)s->n->a.kv + kv) * 2 * z.d * z.tokens,
          *values = keys + z.d * z.tokens;
    g->past = ex->past[sequence];
    for (size_t t = 0; t < g->tokens; t++) {
        for (size_t i = 0; i < g->d; i++) keys[i * z.tokens + g->past + t] = g->k[t * g->ldk + i];
        memcpy(values + (g->past + t) * z.d, g->v + t * g->ldk, g->d * sizeof *values);
    }
    g->tokens += g->past;
    g->kt = keys;
    g->vt = values;
    g->ldkt = z.tokens;
    g->ldvt = z.d;
}

static void forward(kd_exec *ex, kd__state *s)
{
    const int64_t each = ex->p.cache ? (int64_t)sharing(s) : 1, items = s->n->a.k / each;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < ex->sequences * items; item++) {
        places at;
        kd__group g = group_of(ex, s, item / items, (size_t)(item % items * each), (size_t)each, &at);
        if (ex->p.cache) remember(ex, s, item / items, (size_t)(item % items), &g);
        kd__decoder_get()->attend(&g, s->y + at.q, s->keep ? s->keep + at.keep : NULL,
                                  kd__team_stage(ex->team));
    }
}

/* A row of the gradient of keys, or of values, from those of the heads of queries. */
static void sum_heads(const kd__state *s, int which, size_t row, const float *of_heads)
{
    const size_t d = dimension(s), kv = (size_t)s->n->a.kv;
    float *to = s->dx[which] + row * kv * d;
    for (size_t h = 0; h < (size_t)s->n->a.k; h++, of_heads += d) {
        if (h % sharing(s) || s->add[which])
            kd__vec_get()->add_to(to + h / sharing(s) * d, of_heads, d);
        else
            memcpy(to + h / sharing(s) * d, of_heads, d * sizeof *to);
    }
}

static void backward(kd_exec *ex, kd__state *s)
{
    const int heads = s->n->a.k;
    const size_t rows = kd__node_rows(ex, s->n), width = s->n->size;
    float *dk = s->shared, *dv = dk + rows * width;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < ex->sequences * heads; item++) {
        places at;
        const kd__group g = group_of(ex, s, item / heads, (size_t)(item % heads), 1, &at);
        const kd__group_grads b = {.y = s->y + at.q,
                                   .dy = s->dy + at.q,
                                   .log_sum = s->keep + at.keep,
                                   .dq = s->dx[0] ? s->dx[0] + at.q : NULL,
                                   .dk = s->dx[1] ? dk + at.q : NULL,
                                   .dv = s->dx[2] ? dv + at.q : NULL,
                                   .add = s->add[0]};
        kd__decoder_get()->attend_back(&g, &b, kd__team_stage(ex->team));
    }
#pragma omp for schedule(static)
    for (size_t r = 0; r < rows; r++) {
        if (s->dx[1]) sum_heads(s, 1, r, dk + r * width);
        if (s->dx[2]) sum_heads(s, 2, r, dv + r * width);
    }
}

static void release(kd__state *s)
{
    free(s->own);
    s->own = NULL;
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

/* What a product reads of v. */
static double read(const kd__group *g, float v)
{
    return kd__naive_operand(v, g->pairs ? KD__BF16 : KD__F32);
}

/* a scaled */
static double dot(const kd__group *g, const float *a, float scale, const float *b)
{
    double sum = 0;
    for (size_t i = 0; i < g->d; i++) sum += read(g, a[i] * scale) * read(g, b[i]);
    return sum;
}

/* p (r + 1): what query r of a head gives to each token up to itself. */
static void naive_shares(const kd__group *g, const float *q, size_t r, double *p)
{
    double top = -INFINITY, sum = 0;
    for (size_t t = 0; t <= r; t++) top = fmax(top, p[t] = dot(g, q, g->scale, g->k + t * g->ldk));
    for (size_t t = 0; t <= r; t++) sum += p[t] = exp(p[t] - top);
    for (size_t t = 0; t <= r; t++) p[t] /= sum;
}

/* Query r at `at` of q, y, dy. */
static void naive_query(const kd__state *s, const kd__group *g, const places *w, size_t at, size_t r,
                        bool back, double *p)
{
    const float *dy = back ? s->dy + w->q + at : NULL, *y = s->y + w->q + at;
    double mean = 0;
    naive_shares(g, g->q + at, r, p);
    for (size_t j = 0; !back && j < g->d; j++) {
        double sum = 0;
        for (size_t t = 0; t <= r; t++) sum += read(g, (float)p[t]) * read(g, g->v[t * g->ldk + j]);
        s->y[w->q + at + j] = (float)sum;
    }
    for (size_t j = 0; back && j < g->d; j++) mean += (double)dy[j] * (double)y[j];
    for (size_t t = 0; back && t <= r; t++) {
        const double ds = read(g, (float)(p[t] * (dot(g, dy, 1, g->v + t * g->ldk) - mean)));
        for (size_t j = 0; j < g->d; j++) {
            const size_t k = w->k + t * g->ldk + j;
            if (s->dx[0])
                s->dx[0][w->q + at + j] += (float)(ds * (double)g->scale * read(g, g->k[t * g->ldk + j]));
            if (s->dx[1]) s->dx[1][k] += (float)(ds * read(g, g->q[at + j] * g->scale));
            if (s->dx[2]) s->dx[2][k] += (float)(read(g, (float)p[t]) * read(g, dy[j]));
        }
    }
}

static void naive(kd_exec *ex, kd__state *s, bool back)
{
    double *p = calloc(kd__exec_longest(ex), sizeof *p);
    for (int64_t i = 0; p && i < ex->sequences; i++)
        for (size_t head = 0; head < (size_t)s->n->a.k; head++) {
            places w;
            const kd__group g = group_of(ex, s, i, head, 1, &w);
            for (size_t r = 0; r < g.tokens; r++) naive_query(s, &g, &w, r * g.ldq, r, back, p);
        }
    free(p);
}

static void naive_forward(kd_exec *ex, kd__state *s) { naive(ex, s, false); }

static void naive_backward(kd_exec *ex, kd__state *s)
{
    const size_t rows = kd__node_rows(ex, s->n), kv = dimension(s) * (size_t)s->n->a.kv;
    for (int k = 0; k < 3; k++)
        if (s->dx[k] && !s->add[k]) memset(s->dx[k], 0, rows * (k ? kv : s->n->size) * sizeof(float));
    naive(ex, s, true);
}

const kd__op kd__op_causal = {
    .name = "causal_attention",
    .nin = 3,
    .shape = shape,
    .plan = plan,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .release = release,
    .packed = true,
    .backward_reads_x = true,
    .backward_reads_y = true,
};
