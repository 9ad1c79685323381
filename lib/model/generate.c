/* generate.c - a language model goes on: tokens in, logits of the next one out; draws from them; what it
 * thinks of a text.
 *
 * Keys and values of what it has seen stay (kd_exec_resume), so a conversation costs its new tokens only, and
 * the numbers are those of one pass over all of it. Long beginnings go through in pieces. A draw is a pure
 * function of logits, settings and (seed, place): the same question with the same seed gets the same answer,
 * on any number of threads.
 */
#include "model_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 64 }; /* tokens a pass at most */

struct kd_generator {
    kd_model *m;
    kd_exec *ex;
    int64_t room; /* tokens of a sequence */
    uint32_t *id; /* (n) the sequence so far */
    size_t n, vocab;
    const float *logits; /* of the last token */
    void *order;         /* kd_draw_bytes */
};

kd_status kd_generator_open(kd_generator **out, kd_model *m, int64_t tokens, int threads, kd_err *err)
{
    *out = NULL;
    if (strcmp(m->spec.arch, "llama"))
        return kd_fail(err, KD_EUSAGE, "%s: is a %s, no language model (llama)", m->name, m->spec.arch);
    kd_generator *g = calloc(1, sizeof *g);
    if (!g) return kd_fail(err, KD_ENOMEM, "%s: out of memory", m->name);
    g->m = m;
    g->vocab = (size_t)m->spec.vocab;
    g->room = tokens && tokens < m->spec.positions ? tokens : m->spec.positions;
    g->id = malloc((size_t)g->room * sizeof *g->id);
    g->order = malloc(kd_draw_bytes(g->vocab));
    kd_status st = g->id && g->order ? KD_OK
                                     : kd_fail(err, KD_ENOMEM, "%s: no memory for %lld tokens", m->name,
                                               (long long)g->room);
    const kd_exec_params p = {.batch = PIECE < g->room ? PIECE : g->room,
                              .sequences = 1,
                              .cache = g->room,
                              .threads = threads,
                              .fixed = true};
    if (!st) st = kd_exec_create(&g->ex, m->graph, &p, err);
    if (st)
        kd_generator_close(g);
    else
        *out = g;
    return st;
}

void kd_generator_close(kd_generator *g)
{
    if (!g) return;
    kd_exec_free(g->ex);
    free(g->id);
    free(g->order);
    free(g);
}

size_t kd_generator_seen(const kd_generator *g, const uint32_t **id)
{
    *id = g->id;
    return g->n;
}

/* ---- passes ------------------------------------------------------------------------------------- */

static kd_status check(const kd_generator *g, size_t keep, const uint32_t *id, size_t n, kd_err *err)
{
    if (keep > g->n || !n)
        return kd_fail(err, KD_EUSAGE, "%s: %zu tokens behind %zu, %zu were seen", g->m->name, n, keep, g->n);
    if (keep + n > (size_t)g->room)
        return kd_fail(err, KD_ELIMIT, "%s: %zu tokens, there is room for %lld", g->m->name, keep + n,
                       (long long)g->room);
    for (size_t i = 0; i < n; i++)
        if (id[i] >= g->vocab)
            return kd_fail(err, KD_EMISMATCH, "%s: token %zu is %u, the vocabulary has %zu", g->m->name, i,
                           id[i], g->vocab);
    return KD_OK;
}

/* What the model says behind token `target` of a row of logits: -log p. */
static double surprise(const float *logits, size_t vocab, uint32_t target)
{
    double sum = 0;
    float top = logits[0];
    for (size_t i = 1; i < vocab; i++) top = fmaxf(top, logits[i]);
    for (size_t i = 0; i < vocab; i++) sum += (double)expf(logits[i] - top);
    return log(sum) - (double)(logits[target] - top);
}

/* nll: NULL, or (n - 1) of id[1], id[2], ... */
static kd_status feed(kd_generator *g, size_t keep, const uint32_t *id, size_t n, double *nll, kd_err *err)
{
    kd_status st = check(g, keep, id, n, err);
    for (size_t at = 0, some; at < n && !st; at += some) {
        some = kd_min_size(PIECE, n - at);
        const kd_exec_part part = {.past = (int64_t)(keep + at), .n = (int64_t)some};
        if ((st = kd_exec_resume(g->ex, &part, 1, err))) break;
        int32_t *to = kd_exec_tokens(g->ex, g->m->input);
        for (size_t i = 0; i < some; i++) g->id[keep + at + i] = id[at + i], to[i] = (int32_t)id[at + i];
        kd_exec_run_forward(g->ex);
        g->n = keep + at + some;
        const float *rows = kd_exec_value(g->ex, g->m->logits);
        g->logits = rows + (some - 1) * g->vocab;
        for (size_t i = 0; nll && i < some && at + i + 1 < n; i++)
            nll[at + i] = surprise(rows + i * g->vocab, g->vocab, id[at + i + 1]);
    }
    for (size_t i = 0; !st && i < g->vocab; i++)
        if (!isfinite(g->logits[i]))
            st = kd_fail(err, KD_ENUMERIC, "%s: logit %zu is %g", g->m->name, i, (double)g->logits[i]);
    return st;
}

kd_status kd_generator_feed(kd_generator *g, size_t keep, const uint32_t *id, size_t n, const float **logits,
                            kd_err *err)
{
    kd_status st = feed(g, keep, id, n, NULL, err);
    if (logits) *logits = st ? NULL : g->logits;
    return st;
}

kd_status kd_generator_score(kd_generator *g, const uint32_t *id, size_t n, double *nll, kd_err *err)
{
    return feed(g, 0, id, n, nll, err);
}

/* ---- draws -------------------------------------------------------------------------------------- */

typedef struct candidate {
    float p;
    uint32_t id;
} candidate;

static int likeliest_first(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static uint32_t largest(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (uint32_t)best;
}

/* Sorts the likeliest of n to the front, until they add up to `want`; how many these are, and their sum. The
 * rest, most of a vocabulary, is not sorted. */
static size_t likeliest(candidate *c, size_t n, double want, double *sum)
{
    size_t sorted = 0, used = 0;
    *sum = 0;
    for (float least = 0.01f; used < n && (!used || *sum < want); least *= 0.03f) {
        const size_t from = sorted;
        for (size_t i = from; i < n; i++)
            if (c[i].p >= least) {
                const candidate other = c[sorted];
                c[sorted++] = c[i];
                c[i] = other;
            }
        qsort(c + from, sorted - from, sizeof *c, likeliest_first);
        while (used < sorted && (!used || *sum < want)) *sum += (double)c[used++].p;
    }
    return used;
}

size_t kd_draw_bytes(size_t vocab) { return vocab * sizeof(candidate); }

uint32_t kd_draw(const float *logits, size_t vocab, const kd_sampling *s, uint64_t place, void *room)
{
    kd_rng r;
    candidate *order = room;
    const uint32_t top = largest(logits, vocab);
    if (!(s->temperature > 0)) return top;
    double sum = 0, kept;
    size_t n = 0;
    for (size_t i = 0; i < vocab; i++) {
        const double p = exp((double)(logits[i] - logits[top]) / s->temperature);
        sum += p;
        if (p > 1e-9) order[n++] = (candidate){.p = (float)p, .id = (uint32_t)i}; // less is never drawn
    }
    n = likeliest(order, n, s->top_p * sum, &kept);
    kd_rng_init(&r, s->seed, KD_RNG_SAMPLE, (uint32_t)place, 1);
    double left = (double)kd_rng_uniform(&r) * kept;
    for (size_t i = 0; i + 1 < n; i++)
        if ((left -= (double)order[i].p) < 0) return order[i].id;
    return order[n - 1].id;
}

uint32_t kd_generator_draw(kd_generator *g, const kd_sampling *s)
{
    return kd_draw(g->logits, g->vocab, s, g->n, g->order);
}
