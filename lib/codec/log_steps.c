/* log_steps.c - "log8" and "log6": every class as its gap below the position's largest, in steps of log
 * probability.
 *
 *     gap = step * code, code 0..254 or 0..62; the last code, 255 or 63: step * (code + rest of the position)
 *     value = -gap - ln sum exp(-gap): a log-probability
 *
 *     u8 rest (positions)
 *     u8 code (positions, width)
 *
 * A softmax does not change when all logits move, so the gaps are all there is to keep; unlike int8, the step
 * is the same for every position and does not grow with the logits' range: rounding costs a KL divergence of
 * step^2 / 24 (1.6e-4 nats at 1/16, 2.6e-3 at 1/4). Classes 16 nats and more below the top (e^-16 of its
 * probability) share one value, the mean of their gaps: for a large vocabulary, or at a high temperature,
 * putting them all at 16 nats would be most of the error.
 *
 * Six bits are not packed: log6's 64 codes stand in bytes, and zstd's Huffman stage makes less of them than
 * six bits a class (docs/store-format.md has the figures).
 *
 * The sum is taken over whole numbers of 2^-40, so its order does not matter: no class contributes more than
 * 2^40, no position has more than 2^24 classes.
 */
#include "codec_private.h"
#include "exact.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { REST_MAX = 255 };

static inline int last_code(const kd_codec *c) { return c->ops == &kd__codec_log8 ? 255 : 63; }

/* ---- writing ------------------------------------------------------------------------------ */

typedef struct job {
    const kd_codec *c;
    const kd_codec_block *b;
    uint8_t *rest, *codes;
} job;

/* Codes of one position; its rest: the mean of what the last code leaves out. */
static uint8_t encode_position(const float *restrict v, size_t width, double top, double step, int last,
                               uint8_t *restrict q)
{
    const double most = last + REST_MAX;
    uint64_t over = 0, count = 0;
    for (size_t k = 0; k < width; k++) {
        const double steps = (top - v[k]) / step;
        // The lowest mantissa bits of the sum: the nearest whole number, ties to even.
        union {
            double d;
            uint64_t u;
        } at = {(steps < most ? steps : most) + KD__ROUNDER};
        const int gap = (int)(at.u & 0xffff);
        q[k] = (uint8_t)(gap < last ? gap : last);
        over += gap > last ? (uint64_t)(gap - last) : 0;
        count += gap >= last;
    }
    return count ? (uint8_t)((2 * over + count) / (2 * count)) : 0;
}

static kd_status encode_positions(void *arg, size_t first, size_t last, kd_err *err)
{
    const job *j = arg;
    const size_t width = (size_t)j->c->width;
    for (size_t i = first; i < last; i++) {
        const float *v = j->b->values + i * width;
        float lo, hi;
        if (!kd__codec_range(v, width, &lo, &hi)) return kd__codec_finite(j->c, j->b, i, err);
        j->rest[i] = encode_position(v, width, hi, j->c->p.step, last_code(j->c), j->codes + i * width);
    }
    return KD_OK;
}

static kd_status encode(const kd_codec *c, const kd_codec_block *b, int threads, kd_buf *out, kd_err *err)
{
    const size_t n = kd_codec_block_positions(b), width = (size_t)c->width;
    job j = {.c = c, .b = b};
    if (!n) return KD_OK;
    if (!(j.rest = kd__codec_room(out, n * (1 + width))))
        return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", n);
    j.codes = j.rest + n;
    return kd__codec_parallel(n, kd_max_size(1, 65536 / width), threads, encode_positions, &j, err);
}

/* ---- reading ------------------------------------------------------------------------------ */

/* weight[i]: exp(-step * i) in units of 2^-40. */
static kd_status open_tables(kd_codec *c, kd_err *err)
{
    const int n = last_code(c) + REST_MAX + 1;
    uint64_t *weight = malloc((size_t)n * sizeof(*weight));
    if (!weight) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (int i = 0; i < n; i++) weight[i] = (uint64_t)rint(kd__exp(-(c->p.step * i)) * 0x1p40);
    c->state = weight;
    return KD_OK;
}

static kd_status check_size(const kd_codec *c, size_t bytes, size_t positions, kd_err *err)
{
    size_t want;
    if (!kd_mul_size(positions, (size_t)c->width + 1, &want) || want != bytes)
        return kd_fail(err, KD_ECORRUPT, "%s block: %zu bytes do not fit %zu positions of %lld numbers",
                       c->ops->info.name, bytes, positions, (long long)c->width);
    return KD_OK;
}

/* The largest class has code 0, so a sum of exponentials is never 0. */
static kd_status check_codes(const kd_codec *c, const uint8_t *q, size_t i, kd_err *err)
{
    const size_t width = (size_t)c->width;
    uint8_t lo = 255, hi = 0;
    for (size_t k = 0; k < width; k++) {
        lo = q[k] < lo ? q[k] : lo;
        hi = q[k] > hi ? q[k] : hi;
    }
    if (lo == 0 && hi <= last_code(c)) return KD_OK;
    return kd_fail(err, KD_ECORRUPT,
                   "%s block: position %zu has codes from %u to %u, expected 0 to at most %d",
                   c->ops->info.name, i, lo, hi, last_code(c));
}

static kd_status check(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, kd_err *err)
{
    const uint8_t *q = in + positions;
    kd_status st = check_size(c, bytes, positions, err);
    for (size_t i = 0; !st && i < positions; i++) st = check_codes(c, q + i * (size_t)c->width, i, err);
    return st;
}

static double log_sum(uint64_t sum) { return kd_codec_log((double)sum * 0x1p-40); }

static void decode_position(const kd_codec *c, const uint8_t *restrict q, unsigned rest, float *restrict out)
{
    const uint64_t *weight = c->state;
    const size_t width = (size_t)c->width;
    const unsigned last = (unsigned)last_code(c);
    const double step = c->p.step;
    uint64_t sum = 0, ends = 0;
    for (size_t k = 0; k < width; k++) {
        sum += weight[q[k]];
        ends += q[k] == last;
    }
    const double logz = log_sum(sum + ends * (weight[last + rest] - weight[last]));
    for (size_t k = 0; k < width; k++) {
        const int32_t gap = (int32_t)(q[k] + (q[k] == last ? rest : 0));
        out[k] = (float)(-(step * gap) - logz);
    }
}

static kd_status decode(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, float *out,
                        kd_err *err)
{
    const size_t width = (size_t)c->width;
    const uint8_t *q = in + positions;
    kd_status st = check_size(c, bytes, positions, err);
    for (size_t i = 0; !st && i < positions; i++, q += width)
        if (!(st = check_codes(c, q, i, err))) decode_position(c, q, in[i], out + i * width);
    return st;
}

static kd_status decode_twin(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, float *out,
                             kd_err *err)
{
    const size_t width = (size_t)c->width;
    kd_status st = check(c, in, bytes, positions, err);
    for (size_t i = 0; !st && i < positions; i++) {
        uint64_t count[511] = {0}, sum = 0;
        for (size_t k = 0; k < width; k++) {
            const int q = in[positions + i * width + k], gap = q == last_code(c) ? q + in[i] : q;
            count[gap]++;
        }
        for (int g = 510; g >= 0; g--)
            sum += count[g] ? count[g] * (uint64_t)rint(kd_codec_exp(-(c->p.step * g)) * 0x1p40) : 0;
        for (size_t k = 0; k < width; k++) {
            const int q = in[positions + i * width + k], gap = q == last_code(c) ? q + in[i] : q;
            out[i * width + k] = (float)(-(c->p.step * gap) - log_sum(sum));
        }
    }
    return st;
}

static kd_status select_positions(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                                  const uint8_t *keep, kd_buf *out, kd_err *err)
{
    const size_t width = (size_t)c->width;
    size_t kept = 0, at = 0;
    kd_status st = check(c, in, bytes, positions, err);
    if (st) return st;
    for (size_t i = 0; i < positions; i++) kept += keep[i] != 0;
    uint8_t *to = kd__codec_room(out, kept * (1 + width));
    if (!to) return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", kept);
    for (size_t i = 0; i < positions; i++) {
        if (!keep[i]) continue;
        to[at] = in[i];
        memcpy(to + kept + at++ * width, in + positions + i * width, width);
    }
    return KD_OK;
}

#define STEP(value)                                                                                          \
    KD_OPT_REAL("Encoding", kd__codec_params, step, "step", "NATS", 0, value, 0.001, 1,                      \
                "of log-probability, from one code to the next")
static const kd_option log8_options[] = {STEP("0.0625")}, log6_options[] = {STEP("0.25")};

const kd__codec kd__codec_log8 = {
    .info = {.name = "log8",
             .code = 4,
             .serves = KD_SERVES_SOFTMAX,
             .params = "step=0.0625",
             .summary =
                 "all classes' log-probabilities in steps of 1/16: any temperature, KL error 2e-4 nats"},
    .options = log8_options,
    .noptions = KD_COUNT(log8_options),
    .open = open_tables,
    .head = 1,
    .encode = encode,
    .decode = decode,
    .check = check,
    .select = select_positions,
    .decode_twin = decode_twin,
};

const kd__codec kd__codec_log6 = {
    .info = {.name = "log6",
             .code = 5,
             .serves = KD_SERVES_SOFTMAX,
             .params = "step=0.25",
             .summary =
                 "all classes' log-probabilities in steps of 1/4: any temperature, KL error 3e-3 nats"},
    .options = log6_options,
    .noptions = KD_COUNT(log6_options),
    .open = open_tables,
    .head = 1,
    .encode = encode,
    .decode = decode,
    .check = check,
    .select = select_positions,
    .decode_twin = decode_twin,
};
