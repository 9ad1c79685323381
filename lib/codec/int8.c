/* int8.c - "int8" and "int8-channel": numbers as steps below a top value, one byte each.
 *
 *     value = top - scale * code, code 0..255
 *
 * int8 has a scale and a top for each position, int8-channel for each channel of the block. A block of no
 * positions has no bytes; otherwise, with n pairs of scale and top (positions, or width):
 *
 *     f32 scale (n) and f32 top (n) as byte planes: bytes 0 of all scales, bytes 1, 2, 3, then the tops'
 *     u8 code (positions, width)
 *
 * Why steps below the top and not above the bottom or around a centre: the largest logits carry the
 * probabilities, and this way they are met best (a fourth of the KL divergence of a centred or symmetric
 * code on the logits of an image classifier). Why scales of 8 significant bits: scale * code is then exact
 * in f32, a decoded value has one rounding whatever computes it, and the zeros compress; so do those of
 * tops on a grid of an eighth of a step or finer. Codes stand row by row: planes by class or channel win
 * nothing behind zstd on logits and 1 % on most features.
 *
 * Magnitudes above 2^126 are refused, so that no difference and no decoded value overflows.
 */
#include "codec_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double LIMIT = 0x1p126, SCALE_MIN = 0x1p-126, SCALE_MAX = 0x1p120, TOP_MAX = 0x1p127;

/* ---- writing ------------------------------------------------------------------------------ */

bool kd__codec_range(const float *v, size_t n, float *lo, float *hi)
{
    int32_t a = INT32_MAX, b = INT32_MIN;
    for (size_t i = 0; i < n; i++) {
        const int32_t k = kd__key_of(v[i]);
        a = k < a ? k : a;
        b = k > b ? k : b;
    }
    *lo = kd__of_key(a);
    *hi = kd__of_key(b);
    return isfinite(*lo) && isfinite(*hi);
}

typedef struct pair {
    float scale, top;
} pair;

static pair fit(double lo, double hi)
{
    int e;
    if (lo == hi) return (pair){0, (float)(hi + 0.0)};
    const double m = frexp((hi - lo) / 255, &e);
    double scale = ldexp(ceil(m * 256), e - 8);
    if (scale < SCALE_MIN) scale = SCALE_MIN;
    frexp(scale, &e);
    const double grid = ldexp(1, e - 4);
    // A top below zero that rounds to zero becomes +0.
    return (pair){(float)scale, (float)(rint(hi / grid) * grid + 0.0)};
}

static inline uint8_t code_of(double top, double scale, double v)
{
    // The sum's lowest mantissa bits are the quotient, rounded to nearest even.
    union {
        double d;
        uint64_t u;
    } q = {(top - v) / scale + 0x1.8p52};
    return (uint8_t)q.u;
}

static void put_pair(uint8_t *planes, size_t n, size_t i, pair p)
{
    uint32_t s, t;
    memcpy(&s, &p.scale, 4);
    memcpy(&t, &p.top, 4);
    for (size_t k = 0; k < 4; k++) {
        planes[k * n + i] = (uint8_t)(s >> 8 * k);
        planes[(k + 4) * n + i] = (uint8_t)(t >> 8 * k);
    }
}

typedef struct job {
    const kd_codec *c;
    const kd_codec_block *b;
    size_t positions;
    uint8_t *planes, *codes;
    float *lo, *hi; /* (width) int8-channel */
    pair *pairs;
} job;

static kd_status too_large(const job *j, size_t i, kd_err *err)
{
    const size_t width = (size_t)j->c->width;
    const float *v = j->b->values + i * width;
    uint32_t row, at;
    size_t k = 0;
    while (k + 1 < width && fabsf(v[k]) <= LIMIT) k++;
    kd__codec_place(j->b, i, &row, &at);
    return kd_fail(
        err, KD_ENUMERIC,
        "row %u of the chunk, position %u, class %zu: %g is too large for encoding %s (at most 2^126)", row,
        at, k, (double)v[k], j->c->ops->info.name);
}

static kd_status encode_positions(void *arg, size_t first, size_t last, kd_err *err)
{
    const job *j = arg;
    const size_t width = (size_t)j->c->width;
    for (size_t i = first; i < last; i++) {
        const float *v = j->b->values + i * width;
        uint8_t *restrict q = j->codes + i * width;
        float lo, hi;
        if (!kd__codec_range(v, width, &lo, &hi)) return kd__codec_finite(j->c, j->b, i, err);
        if (hi > LIMIT || lo < -LIMIT) return too_large(j, i, err);
        const pair p = fit(lo, hi);
        put_pair(j->planes, j->positions, i, p);
        const double top = p.top, scale = p.scale > 0 ? p.scale : 1;
        for (size_t k = 0; k < width; k++) q[k] = code_of(top, scale, v[k]);
    }
    return KD_OK;
}

/* Range of the channels first..last-1 over all positions, then their pairs. */
static kd_status fit_channels(void *arg, size_t first, size_t last, kd_err *err)
{
    const job *j = arg;
    const size_t width = (size_t)j->c->width;
    (void)err;
    for (size_t k = first; k < last; k++) j->lo[k] = j->hi[k] = j->b->values[k];
    for (size_t i = 1; i < j->positions; i++) {
        const float *v = j->b->values + i * width;
        for (size_t k = first; k < last; k++) {
            j->lo[k] = v[k] < j->lo[k] ? v[k] : j->lo[k];
            j->hi[k] = v[k] > j->hi[k] ? v[k] : j->hi[k];
        }
    }
    for (size_t k = first; k < last; k++) {
        j->pairs[k] = fit(j->lo[k], j->hi[k]);
        put_pair(j->planes, width, k, j->pairs[k]);
        if (j->pairs[k].scale == 0) j->pairs[k].scale = 1;
    }
    return KD_OK;
}

static kd_status check_positions(void *arg, size_t first, size_t last, kd_err *err)
{
    const job *j = arg;
    const size_t width = (size_t)j->c->width;
    float lo, hi;
    for (size_t i = first; i < last; i++) {
        if (!kd__codec_range(j->b->values + i * width, width, &lo, &hi))
            return kd__codec_finite(j->c, j->b, i, err);
        if (hi > LIMIT || lo < -LIMIT) return too_large(j, i, err);
    }
    return KD_OK;
}

static kd_status code_channels(void *arg, size_t first, size_t last, kd_err *err)
{
    const job *j = arg;
    const size_t width = (size_t)j->c->width;
    (void)err;
    for (size_t i = first; i < last; i++) {
        const float *v = j->b->values + i * width;
        uint8_t *restrict q = j->codes + i * width;
        for (size_t k = 0; k < width; k++) q[k] = code_of(j->pairs[k].top, j->pairs[k].scale, v[k]);
    }
    return KD_OK;
}

/* Positions a piece of work: about 64 Ki numbers. */
static size_t piece_of(int64_t width) { return kd_max_size(1, 65536 / (size_t)width); }

static kd_status encode(const kd_codec *c, const kd_codec_block *b, int threads, kd_buf *out, kd_err *err)
{
    const size_t n = kd_codec_block_positions(b), piece = piece_of(c->width);
    job j = {.c = c, .b = b, .positions = n};
    if (!n) return KD_OK;
    if (!(j.planes = kd__codec_room(out, n * (8 + (size_t)c->width))))
        return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", n);
    j.codes = j.planes + 8 * n;
    return kd__codec_parallel(n, piece, threads, encode_positions, &j, err);
}

static kd_status encode_channel(const kd_codec *c, const kd_codec_block *b, int threads, kd_buf *out,
                                kd_err *err)
{
    const size_t n = kd_codec_block_positions(b), width = (size_t)c->width, piece = piece_of(c->width);
    job j = {.c = c, .b = b, .positions = n};
    kd_status st;
    if (!n) return KD_OK;
    if ((st = kd__codec_parallel(n, piece, threads, check_positions, &j, err))) return st;
    float *room = malloc(width * (2 * sizeof(float) + sizeof(pair)));
    if (!room || !(j.planes = kd__codec_room(out, (8 + n) * width))) {
        free(room);
        return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", n);
    }
    j.lo = room, j.hi = room + width, j.pairs = (pair *)(room + 2 * width);
    j.codes = j.planes + 8 * width;
    if (!(st = kd__codec_parallel(width, 64, threads, fit_channels, &j, err)))
        st = kd__codec_parallel(n, piece, threads, code_channels, &j, err);
    free(room);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------ */

static bool per_channel(const kd_codec *c) { return c->ops == &kd__codec_int8_channel; }

static pair get_pair(const uint8_t *planes, size_t n, size_t i)
{
    uint32_t s = 0, t = 0;
    pair p;
    for (size_t k = 0; k < 4; k++) {
        s |= (uint32_t)planes[k * n + i] << 8 * k;
        t |= (uint32_t)planes[(k + 4) * n + i] << 8 * k;
    }
    memcpy(&p.scale, &s, 4);
    memcpy(&p.top, &t, 4);
    return p;
}

static kd_status check(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, kd_err *err)
{
    const char *name = c->ops->info.name;
    const size_t n = !positions ? 0 : per_channel(c) ? (size_t)c->width : positions;
    size_t want;
    if (!kd_mul_size(positions, (size_t)c->width, &want) || !kd_add_size(want, 8 * n, &want) || want != bytes)
        return kd_fail(err, KD_ECORRUPT, "%s block: %zu bytes do not fit %zu positions of %lld numbers", name,
                       bytes, positions, (long long)c->width);
    for (size_t i = 0; i < n; i++) {
        const pair p = get_pair(in, n, i);
        // Written so that NaN fails.
        if (!(p.scale == 0 || (p.scale >= SCALE_MIN && p.scale <= SCALE_MAX)) || !(fabsf(p.top) <= TOP_MAX))
            return kd_fail(err, KD_ECORRUPT, "%s block: %s %zu has scale %g and top %g", name,
                           per_channel(c) ? "channel" : "position", i, (double)p.scale, (double)p.top);
    }
    return KD_OK;
}

static kd_status decode(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, float *out,
                        kd_err *err)
{
    const size_t width = (size_t)c->width;
    kd_status st = check(c, in, bytes, positions, err);
    if (st) return st;
    const uint8_t *q = in + 8 * positions;
    for (size_t i = 0; i < positions; i++, q += width) {
        const pair p = get_pair(in, positions, i);
        float *restrict v = out + i * width;
        for (size_t k = 0; k < width; k++) v[k] = p.top - p.scale * (float)q[k];
    }
    return KD_OK;
}

static kd_status decode_channel(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                                float *out, kd_err *err)
{
    const size_t width = (size_t)c->width;
    kd_status st = check(c, in, bytes, positions, err);
    if (st || !positions) return st;
    float *restrict scale = malloc(2 * width * sizeof(float)), *restrict top = scale + width;
    if (!scale) return kd_fail(err, KD_ENOMEM, "out of memory for %zu channels", width);
    for (size_t k = 0; k < width; k++) {
        const pair p = get_pair(in, width, k);
        scale[k] = p.scale;
        top[k] = p.top;
    }
    const uint8_t *q = in + 8 * width;
    for (size_t i = 0; i < positions; i++, q += width) {
        float *restrict v = out + i * width;
        for (size_t k = 0; k < width; k++) v[k] = top[k] - scale[k] * (float)q[k];
    }
    free(scale);
    return KD_OK;
}

static kd_status decode_twin(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, float *out,
                             kd_err *err)
{
    const size_t width = (size_t)c->width, n = per_channel(c) ? width : positions;
    kd_status st = check(c, in, bytes, positions, err);
    for (size_t i = 0; !st && i < positions * width; i++) {
        const pair p = get_pair(in, n, per_channel(c) ? i % width : i / width);
        out[i] = (float)(p.top - (double)p.scale * in[8 * n + i]);
    }
    return st;
}

/* int8: the kept positions' pairs and codes. int8-channel: all pairs, even of channels that now span less,
 * so that no value changes. */
static kd_status select_positions(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                                  const uint8_t *keep, kd_buf *out, kd_err *err)
{
    const size_t width = (size_t)c->width, n = per_channel(c) ? width : positions;
    size_t kept = 0, at = 0;
    uint8_t *to;
    kd_status st = check(c, in, bytes, positions, err);
    if (st) return st;
    for (size_t i = 0; i < positions; i++) kept += keep[i] != 0;
    if (!kept) return KD_OK;
    const size_t m = per_channel(c) ? width : kept;
    if (!(to = kd__codec_room(out, 8 * m + kept * width)))
        return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", kept);
    for (size_t i = 0; i < n; i++)
        if (per_channel(c) || keep[i]) put_pair(to, m, at++, get_pair(in, n, i));
    to += 8 * m;
    for (size_t i = 0; i < positions; i++)
        if (keep[i]) memcpy(to, in + 8 * n + i * width, width), to += width;
    return KD_OK;
}

const kd__codec kd__codec_int8 = {
    .info = {.name = "int8",
             .code = 2,
             .serves = KD_SERVES_VALUES | KD_SERVES_SOFTMAX,
             .params = "",
             .summary = "one byte a number: 255 steps between the smallest and the largest of each position"},
    .head = 8,
    .encode = encode,
    .decode = decode,
    .check = check,
    .select = select_positions,
    .decode_twin = decode_twin,
};

const kd__codec kd__codec_int8_channel = {
    .info = {.name = "int8-channel",
             .code = 3,
             .serves = KD_SERVES_VALUES,
             .params = "",
             .summary =
                 "one byte a number: 255 steps between the smallest and the largest of each channel of a "
                 "chunk; for features"},
    .encode = encode_channel,
    .decode = decode_channel,
    .check = check,
    .select = select_positions,
    .decode_twin = decode_twin,
};
