/* topk.c - "topk": the k largest classes with their log-probabilities, and the mass of all others.
 *
 * A log-probability is a number of steps below that of the position's largest class, one byte: the largest
 * classes matter most, and their differences to it are small. Behind Huffman coding a byte is 7.2 bits on a
 * language model's logits (k = 64), the two of a 16-bit float are 11.0, most of the difference noise: half a
 * step of 1/16 is 3 % of a probability, and the KL divergence that steps add is step^2 / 24, 0.00016 nat. One
 * entry in 700 lies beyond 255 steps there, at probabilities below e^-16.
 *
 * Tail mass and log-partition are kept for each listed temperature and are not sums over what is kept: such
 * sums would carry the rounding of the steps, and at another temperature they cannot be had at all. 16 bits
 * each: tails as steps of 1/1024 of their logarithm down to 10^-28, partitions as steps of 1/2048.
 *
 * Selection. The k-th largest of the blocks' maxima is a lower bound of the k-th largest class; few classes
 * reach it.
 */
#include "codec_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NO_TAIL = 65535 };

static double tail_steps(double nats) { return fmin(rint(1024 * nats), NO_TAIL - 1); }

float kd__tail_of(uint16_t code) { return code == NO_TAIL ? 0 : (float)kd_codec_exp(-(double)code / 1024); }

/* ---- selection ---------------------------------------------------------------------------- */

/* Larger values first, of equal ones lower ids: as one number that is larger. */
static uint64_t order_of(float v, size_t id)
{
    const uint32_t key = (uint32_t)kd__key_of(v + 0.0f) ^ 0x80000000u; // -0 is 0
    return (uint64_t)key << 32 | (uint32_t)~id;
}

/* Brings the k largest of n different numbers to the front; 1 <= k <= n. (Hoare's quickselect) */
static void largest_first(uint64_t *v, size_t n, size_t k)
{
    size_t lo = 0, hi = n - 1;
    while (lo < hi) {
        const uint64_t a = v[lo], b = v[lo + (hi - lo) / 2], c = v[hi];
        const uint64_t pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
        size_t i = lo - 1, j = hi + 1; // lo = 0: i passes 0 again before it is used
        for (;;) {
            while (v[++i] > pivot) {}
            while (v[--j] < pivot) {}
            if (i >= j) break;
            const uint64_t x = v[i];
            v[i] = v[j];
            v[j] = x;
        }
        if (k == j + 1) return; // v[0..j] are larger than all behind
        if (k <= j)
            hi = j;
        else
            lo = j + 1;
    }
}

/* The k largest classes of the position as (order) numbers at the front of room; returns k. */
static size_t choose(const kd__softmax *s, size_t k, uint64_t *room)
{
    uint64_t least = 0;
    size_t n = 0;
    if (k < s->blocks) {
        for (size_t b = 0; b < s->blocks; b++) room[b] = order_of(s->most[b], s->width - 1);
        largest_first(room, s->blocks, k);
        least = room[0];
        for (size_t b = 1; b < k; b++) least = room[b] < least ? room[b] : least;
    }
    for (size_t b = 0; b < s->blocks; b++) {
        if (order_of(s->most[b], 0) < least) continue;
        const size_t first = b * KD__BLOCK, last = kd_min_size(first + KD__BLOCK, s->width);
        for (size_t i = first; i < last; i++) {
            room[n] = order_of(s->z[i], i);
            n += room[n] >= least;
        }
    }
    largest_first(room, n, k);
    return k;
}

/* Tail code and partition code at the temperature that s stands at. e: n kept ids, rising. */
static void sum_up(const kd__softmax *s, const kd__entry *e, size_t n, uint16_t *codes)
{
    double w[KD__BLOCK], rest = 0;
    for (size_t b = 0, k = 0; b < s->blocks; b++) {
        const size_t first = b * KD__BLOCK;
        if (k == n || kd__entry_class(e[k]) >= first + KD__BLOCK) {
            rest += s->sum[b];
            continue;
        }
        kd__softmax_block(s, b, w);
        for (; k < n && kd__entry_class(e[k]) < first + KD__BLOCK; k++) w[kd__entry_class(e[k]) - first] = 0;
        rest += kd__softmax_sum(s, w);
    }
    const double logz = kd_codec_log(s->total);
    codes[0] = rest > 0 ? (uint16_t)tail_steps(logz - kd_codec_log(rest)) : NO_TAIL;
    codes[1] = (uint16_t)rint(2048 * logz);
}

static uint32_t steps_of(const kd_codec *c, double gap)
{
    const double q = rint(gap / c->p.step);
    return KD__HAS_NUMBER | (q < 255 ? (uint32_t)q : 255);
}

static size_t pick(const kd_codec *c, kd__softmax *s, kd_rng *r, kd__entry *e, uint16_t *codes,
                   kd__entry *room)
{
    const kd__sparse_state *state = c->state;
    const size_t n = choose(s, state->most, room);
    (void)r;
    for (size_t i = 0; i < n; i++) {
        const uint32_t id = ~(uint32_t)room[i];
        e[i] = kd__entry_of(id, steps_of(c, s->top - (double)s->z[id]));
    }
    kd__sort_entries(e, n, room);
    for (size_t t = 0; t < state->temperatures; t++) {
        kd__softmax_at(s, c->p.temperatures.v[t]);
        sum_up(s, e, n, codes + 2 * t);
    }
    return n;
}

/* ---- targets picked elsewhere ------------------------------------------------------------- */

static kd_status check_given(const kd_codec *c, const kd_sparse *g, kd_err *err)
{
    const kd__sparse_state *s = c->state;
    bool same = g->temperatures == (int)s->temperatures;
    for (int t = 0; same && t < g->temperatures; t++) same = g->temperature[t] == c->p.temperatures.v[t];
    if (!same)
        return kd_fail(err, KD_EUSAGE,
                       "encoding topk: the targets have %d temperatures, not those of the encoding (%zu)",
                       g->temperatures, s->temperatures);
    for (size_t i = 0; i < g->positions; i++) {
        const uint64_t first = g->offset[i], last = g->offset[i + 1];
        if (last < first || last - first > s->most)
            return kd_fail(err, KD_EUSAGE,
                           "encoding topk: position %zu has %llu entries, at most %zu are kept", i,
                           (unsigned long long)(last - first), s->most);
        for (uint64_t k = first; k < last; k++) {
            if (g->id[k] >= c->width || (k > first && g->id[k] <= g->id[k - 1]))
                return kd_fail(err, KD_EUSAGE,
                               "encoding topk: position %zu: class %u does not rise or is beyond the last", i,
                               g->id[k]);
            if (!isfinite(g->value[k]))
                return kd_fail(err, KD_ENUMERIC,
                               "encoding topk: position %zu, class %u: %g is not a finite number", i,
                               g->id[k], (double)g->value[k]);
        }
    }
    return KD_OK;
}

/* The codes of position i; top: its largest log-probability, -logz if it has no entries. */
static kd_status give_codes(const kd_codec *c, const kd_sparse *g, size_t i, double top, uint16_t *codes,
                            kd_err *err)
{
    const size_t n = (size_t)g->temperatures;
    for (size_t t = 0; t < n; t++) {
        const double tail = (double)g->tail[i * n + t];
        const double logz = c->p.temperatures.v[t] == 1 ? -top : (double)g->logz[i * n + t];
        const double code = rint(2048 * fmax(logz, 0));
        // Written so that NaN fails.
        if (!(tail >= 0 && tail <= 1) || !(code <= 65535) || isnan(logz))
            return kd_fail(err, KD_ENUMERIC,
                           "encoding topk: position %zu: tail mass %g, log-partition %g; expected are 0 to "
                           "1, 0 to 31.99",
                           i, tail, logz);
        codes[2 * t] = tail > 0 ? (uint16_t)tail_steps(-kd_codec_log(tail)) : NO_TAIL;
        codes[2 * t + 1] = (uint16_t)code;
    }
    return KD_OK;
}

static size_t unit_temperature(const kd_codec *c)
{
    size_t t = 0;
    while (t < c->p.temperatures.n && c->p.temperatures.v[t] != 1) t++;
    return t;
}

static kd_status take_given(const kd_codec *c, const kd_sparse *g, kd__picks *p, kd__entry *scratch,
                            kd_err *err)
{
    const kd__sparse_state *s = c->state;
    const size_t unit = unit_temperature(c), n = s->temperatures;
    kd_status st = KD_OK;
    for (size_t i = 0; i < g->positions && !st; i++) {
        const uint64_t first = g->offset[i], last = g->offset[i + 1];
        kd__entry *e = p->entry + (p->start[i] = first - g->offset[0]);
        double top = first == last ? -(double)g->logz[i * n + unit] : (double)g->value[first];
        for (uint64_t k = first; k < last; k++) top = fmax(top, (double)g->value[k]);
        for (uint64_t k = first; k < last; k++)
            e[k - first] = kd__entry_of(g->id[k], steps_of(c, top - (double)g->value[k]));
        p->count[i] = (uint32_t)(last - first);
        st = give_codes(c, g, i, top, p->codes + i * 2 * n, err);
        kd__picks_rank(c, e, p->count[i], scratch);
    }
    return st;
}

static kd_status encode_sparse(const kd_codec *c, const kd_sparse *g, kd_buf *out, kd_err *err)
{
    const kd__sparse_state *s = c->state;
    kd__picks p;
    kd_status st = check_given(c, g, err);
    if (st || !g->positions) return st;
    kd__entry *scratch = malloc(s->most * sizeof *scratch);
    if (!kd__picks_init(&p, c, g->positions, g->offset[g->positions] - g->offset[0]) || !scratch)
        st = kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", g->positions);
    if (!st) st = take_given(c, g, &p, scratch, err);
    if (!st) st = kd__picks_write(&p, c, out, err);
    kd__picks_release(&p);
    free(scratch);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------ */

static void values(const kd_codec *c, const kd__entry *e, size_t n, const uint16_t *codes, float *value,
                   uint8_t *exact)
{
    const kd__sparse_state *s = c->state;
    const double top = -(double)codes[2 * s->unit + 1] / 2048;
    for (size_t k = 0; k < n; k++) {
        value[k] = (float)(top - s->table[kd__entry_number(e[k])]);
        exact[k] = 1;
    }
}

static const kd__sparse_kind kind = {.pick = pick, .values = values};

static kd_status open(kd_codec *c, kd_err *err)
{
    const size_t unit = unit_temperature(c);
    if (unit == c->p.temperatures.n)
        return kd_fail(err, KD_EUSAGE,
                       "encoding topk: 1 is not among the temperatures, but log-probabilities are kept at 1");
    if (c->p.temperatures.n > KD_CODEC_MAX_TEMPERATURES)
        return kd_fail(err, KD_EUSAGE, "encoding topk: %zu temperatures, at most %d are kept",
                       c->p.temperatures.n, KD_CODEC_MAX_TEMPERATURES);
    kd_status st = kd__sparse_open(c, &kind, c->p.k, 1, err);
    kd__sparse_state *s = c->state;
    if (st) return st;
    s->unit = unit;
    for (int q = 0; q < 256; q++) s->table[q] = q * c->p.step;
    return KD_OK;
}

static const kd_option options[] = {
    KD_OPT_INT("topk", kd__codec_params, k, "k", "N", 0, "64", 1, 65535, "classes kept of each position"),
    KD_OPT_REALS("topk", kd__codec_params, temperatures, "temperatures", "T", 0, "1", 0.05, 100,
                 "temperatures at which tail mass and log-partition are kept; 1 is among them"),
    KD_OPT_REAL("topk", kd__codec_params, step, "step", "NATS", 0, "0.0625", 0.001, 1,
                "step of a log-probability; up to 255 below the largest"),
};

const kd__codec kd__codec_topk = {
    .info = {.name = "topk",
             .code = 6,
             .serves = KD_SERVES_HEAD,
             .sparse = true,
             .book = true,
             .params = "k=64,temperatures=1,step=0.0625",
             .summary =
                 "the k largest classes, one byte for each log-probability, and the mass of all others"},
    .options = options,
    .noptions = KD_COUNT(options),
    .open = open,
    KD__SPARSE_HOOKS,
    .encode_sparse = encode_sparse,
};
