/* sample.c - "sample": n draws with replacement from the teacher's probabilities, counted.
 *
 * Random Sampling Knowledge Distillation (Anshumann et al., "Sparse Logit Sampling: Accelerating Knowledge
 * Distillation in LLMs", 2025): the share of a class among the draws is an unbiased estimate of its
 * probability, so cross-entropy and forward KL of a student have the right gradient on average. About a
 * quarter as many classes as draws are stored on text. head_tail.c draws better; this one is here to compare
 * with, and for what was published.
 */
#include "codec_private.h"

#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Gives the points of block b, all below `end`, to its classes; returns the number of entries. */
static size_t share_out(const kd__softmax *s, size_t b, double below, const double *point, size_t points,
                        kd__entry *e)
{
    double w[KD__BLOCK];
    size_t last = 0, n = 0, k = 0;
    kd__softmax_block(s, b, w);
    for (size_t i = 0; i < KD__BLOCK; i++)
        if (w[i] > 0) last = i;
    for (size_t i = 0; i <= last; i++) {
        size_t count = 0;
        below += w[i];
        for (; k < points && (point[k] < below || i == last); k++) count++;
        if (!count) continue;
        e[n++] = kd__entry_of(b * KD__BLOCK + i, count > 1 ? KD__HAS_NUMBER | (uint32_t)(count - 2) : 0);
    }
    return n;
}

static size_t pick(const kd_codec *c, kd__softmax *s, kd_rng *r, kd__entry *e, uint16_t *codes,
                   kd__entry *room)
{
    const size_t draws = (size_t)c->p.n;
    double *point = (double *)room, below = 0; // room: n numbers of 8 bytes at least
    size_t n = 0, at = 0;
    (void)codes;
    kd__softmax_at(s, c->p.temperature);
    for (size_t k = 0; k < draws; k++) point[k] = kd__draw(r) * s->total;
    qsort(point, draws, sizeof *point, by_value);
    for (size_t b = 0; b < s->blocks && at < draws; b++) {
        const double end = below + s->sum[b];
        const size_t first = at;
        while (at < draws && point[at] < end) at++;
        if (at > first) n += share_out(s, b, below, point + first, at - first, e + n);
        below = end;
    }
    return n;
}

static size_t count_of(kd__entry e) { return kd__entry_has_number(e) ? kd__entry_number(e) + (size_t)2 : 1; }

static bool possible(const kd_codec *c, const kd__entry *e, size_t n)
{
    size_t draws = 0;
    for (size_t k = 0; k < n; k++) draws += count_of(e[k]);
    return draws == (size_t)c->p.n;
}

/* Those drawn once. */
static int64_t expected(const kd_codec *c, const kd__entry *e, size_t n)
{
    int64_t rest = c->p.n;
    for (size_t k = 0; k < n; k++) rest -= (int64_t)count_of(e[k]);
    return rest;
}

static void values(const kd_codec *c, const kd__entry *e, size_t n, const uint16_t *codes, float *value,
                   uint8_t *exact)
{
    const double draws = (double)c->p.n;
    (void)codes;
    for (size_t k = 0; k < n; k++) {
        value[k] = (float)((double)count_of(e[k]) / draws);
        exact[k] = 0;
    }
}

static const kd__sparse_kind kind = {
    .draws = true, .pick = pick, .possible = possible, .expected = expected, .values = values};

static kd_status open(kd_codec *c, kd_err *err)
{
    return kd__sparse_open(c, &kind, c->p.n, c->p.n <= 257 ? 1 : 2, err);
}

static const kd_option options[] = {
    KD_OPT_INT("sample", kd__codec_params, n, "n", "N", 0, "50", 1, 65535, "draws of each position"),
    KD_OPT_REAL("sample", kd__codec_params, temperature, "temperature", "T", 0, "1", 0.05, 100,
                "temperature of the probabilities that are drawn from"),
    KD_OPT_INT("sample", kd__codec_params, seed, "seed", "N", 0, "0", 0, 0, "seed of the draws"),
};

const kd__codec kd__codec_sample = {
    .info = {.name = "sample",
             .code = 7,
             .serves = KD_SERVES_EXPECTED,
             .sparse = true,
             .book = true,
             .params = "n=50,temperature=1,seed=0",
             .summary =
                 "n classes drawn at random by their probabilities, with their counts; right on average"},
    .options = options,
    .noptions = KD_COUNT(options),
    .open = open,
    KD__SPARSE_HOOKS,
};
