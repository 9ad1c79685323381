/* head_tail.c - "head-tail": probable classes as they are, the others by systematic sampling.
 *
 * With n points to spend, a class of probability 1/n or more is kept with its probability, in logarithmic
 * steps. The rest of the mass is laid out class after class by id, and points stand on it 1/n apart, the
 * first at one random place: a class that a point falls on is kept with weight 1/n. Every class has a chance
 * of n times its probability, so its expected weight is its probability, whatever the order: unbiased. Points
 * so spaced never pile up, which independent draws do: on the logits of a language model (4,000 positions of
 * English text) the summed variance of 20 points is 0.015, that of 20 draws with replacement (sample.c)
 * 0.034, of 50 draws 0.014. Systematic sampling with chances in proportion to size is Madow's, "On the
 * Theory of Systematic Sampling, II" (1949).
 *
 * Steps must not bias the head either: a probability between two steps takes the upper one with the chance
 * that makes it right on average. The same points decide: the head's classes stand on the line first, each
 * with its chance as its length, and one that a point falls on takes the upper step. So what one class gains
 * the next or the tail loses, which keeps the mass of a position close to 1 and the number of points on the
 * tail close to what the head's numbers make expect. On those logits it adds 0.0002 to the summed variance.
 *
 * What it does not serve: the head alone. Which classes are kept depends on the draw, weights are at one
 * temperature, and a position without a probable class has no head at all.
 */
#include "codec_private.h"

#include <math.h>

/* The block's weights with those of the head as 0. */
static void tail_of(const kd_codec *c, const kd__softmax *s, size_t b, double w[KD__BLOCK])
{
    kd__softmax_block(s, b, w);
    for (size_t i = 0; i < KD__BLOCK; i++)
        if ((double)c->p.n * w[i] >= s->total) w[i] = 0;
}

/* The number of a class of weight w, whose logarithm is `down` below that of all; *next: how far the next
 * point is. */
static uint32_t take_step(const kd_codec *c, const kd__softmax *s, double w, double down, double *next)
{
    const double *table = ((const kd__sparse_state *)c->state)->table;
    const uint32_t q = (uint32_t)fmin(fmax(floor(down / c->p.step), 0), 254);
    const double upper = (double)(float)table[q], lower = (double)(float)table[q + 1];
    const double chance = fmin(fmax((w / s->total - lower) / (upper - lower), 0), 1);
    const bool hit = *next < chance;
    *next -= chance;
    if (hit) *next += 1;
    return hit ? q : q + 1;
}

/* Adds the head's classes; their blocks' sums become those of the tail. */
static size_t take_head(const kd_codec *c, kd__softmax *s, double *next, kd__entry *e)
{
    const double n = (double)c->p.n, logz = kd_codec_log(s->total);
    const size_t most = ((const kd__sparse_state *)c->state)->most;
    double w[KD__BLOCK];
    size_t heads = 0;
    for (size_t b = 0; b < s->blocks; b++) {
        if (n * s->sum[b] < s->total) continue; // a sum is no smaller than its terms
        kd__softmax_block(s, b, w);
        for (size_t i = 0; i < KD__BLOCK; i++) {
            if (n * w[i] < s->total || heads == most) continue;
            const size_t id = b * KD__BLOCK + i;
            const double down = logz - ((double)s->z[id] - s->top) * s->r;
            e[heads++] = kd__entry_of(id, KD__HAS_NUMBER | take_step(c, s, w[i], down, next));
        }
        tail_of(c, s, b, w);
        s->sum[b] = kd__softmax_sum(s, w);
    }
    return heads;
}

typedef struct walk {
    double first, apart; /* points first * apart, (first + 1) * apart, ... */
    double point;
    size_t hits;
} walk;

static void next_point(walk *k) { k->point = (k->first + (double)++k->hits) * k->apart; }

/* Adds the classes of block b that points before `end` fall on; returns the number of entries. */
static size_t walk_block(const kd_codec *c, const kd__softmax *s, size_t b, double below, double end, walk *k,
                         kd__entry *e, size_t room)
{
    double w[KD__BLOCK];
    size_t last = 0, n = 0;
    tail_of(c, s, b, w);
    for (size_t i = 0; i < KD__BLOCK; i++)
        if (w[i] > 0) last = i;
    for (size_t i = 0; i <= last && n < room; i++) {
        if (!(w[i] > 0)) continue;
        below += w[i];
        if (k->point >= below && !(i == last && k->point < end)) continue;
        e[n++] = kd__entry_of(b * KD__BLOCK + i, 0);
        next_point(k);
    }
    return n;
}

static size_t pick(const kd_codec *c, kd__softmax *s, kd_rng *r, kd__entry *e, uint16_t *codes,
                   kd__entry *room)
{
    const size_t most = ((const kd__sparse_state *)c->state)->most;
    double below = 0, next = kd__draw(r);
    (void)codes;
    kd__softmax_at(s, c->p.temperature);
    size_t n = take_head(c, s, &next, e);
    walk k = {.first = next, .apart = s->total / (double)c->p.n};
    k.point = k.first * k.apart;
    for (size_t b = 0; b < s->blocks && n < most; b++) {
        const double end = below + s->sum[b];
        if (k.point < end) n += walk_block(c, s, b, below, end, &k, e + n, most - n);
        below = end;
    }
    kd__sort_entries(e, n, room);
    return n;
}

/* As many points as fit on what the head leaves. */
static int64_t expected(const kd_codec *c, const kd__entry *e, size_t n)
{
    const kd__sparse_state *s = c->state;
    double head = 0;
    for (size_t k = 0; k < n; k++) head += s->table[kd__entry_number(e[k])];
    return (int64_t)floor((double)c->p.n * (1 - head));
}

static void values(const kd_codec *c, const kd__entry *e, size_t n, const uint16_t *codes, float *value,
                   uint8_t *exact)
{
    const kd__sparse_state *s = c->state;
    const float hit = (float)(1 / (double)c->p.n);
    (void)codes;
    for (size_t k = 0; k < n; k++) {
        exact[k] = kd__entry_has_number(e[k]);
        value[k] = exact[k] ? (float)s->table[kd__entry_number(e[k])] : hit;
    }
}

static const kd__sparse_kind kind = {.draws = true, .pick = pick, .expected = expected, .values = values};

static kd_status open(kd_codec *c, kd_err *err)
{
    const double steps = kd_codec_log((double)c->p.n) / c->p.step;
    if (steps > 255)
        return kd_fail(
            err, KD_EUSAGE,
            "encoding head-tail: probabilities from 1/%lld on are %.0f steps of %g, at most 255 are allowed",
            (long long)c->p.n, steps, c->p.step);
    kd_status st = kd__sparse_open(c, &kind, c->p.n, 1, err);
    kd__sparse_state *s = c->state;
    for (int q = 0; q < 256 && !st; q++) s->table[q] = kd_codec_exp(-(q * c->p.step));
    return st;
}

static const kd_option options[] = {
    KD_OPT_INT("head-tail", kd__codec_params, n, "n", "N", 0, "20", 1, 65535,
               "points of each position: classes of probability 1/N or more are kept, the others drawn"),
    KD_OPT_REAL("head-tail", kd__codec_params, temperature, "temperature", "T", 0, "1", 0.05, 100,
                "temperature of the probabilities"),
    KD_OPT_REAL("head-tail", kd__codec_params, step, "step", "NATS", 0, "0.0625", 0.001, 1,
                "step of the logarithm of a kept probability"),
    KD_OPT_INT("head-tail", kd__codec_params, seed, "seed", "N", 0, "0", 0, 0, "seed of the draws"),
};

const kd__codec kd__codec_head_tail = {
    .info = {.name = "head-tail",
             .code = 8,
             .serves = KD_SERVES_EXPECTED,
             .sparse = true,
             .book = true,
             .params = "n=20,temperature=1,step=0.0625,seed=0",
             .summary = "classes of probability 1/n or more, and a spaced random sample of the others; right "
                        "on average"},
    .options = options,
    .noptions = KD_COUNT(options),
    .open = open,
    KD__SPARSE_HOOKS,
};
