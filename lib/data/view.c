/* view.c - augmented views of a row, the same ones whenever and wherever they are made.
 *
 * A teacher that saw other crops than the student learns from is a common silent mistake. Here a view is a
 * pure function of the spec, the row's id and the view's number: each kind of change draws from a Philox
 * stream of its own, so turning one on or off does not move the others, and nothing depends on the order of
 * rows, on shards or on what was resumed.
 *
 *     stream   seed XXH3-64(seed as 8 bytes little-endian, row id), purpose KD_RNG_VIEW, a: below, b = view
 *     shift    a = 0: dy = below(2 shift + 1) - shift, then dx likewise
 *     flip     a = 1: one word; its lowest bit set means mirrored
 *     noise    a = 2: one normal number a value
 *     erase    a = 3: the square's centre, y = below(height), then x = below(width)
 *     crop     a = 4: the area kept, crop + (1 - crop) uniform; then the corner, y and x = below(places)
 *     mix      a = 5: uniform (below mixup: mixup; below mixup + cutmix: cutmix), the own weight =
 *              (32768 + below(32769)) / 65536; cutmix: the rectangle's centre, y then x
 *     other    a = 6: which row is mixed in, below(rows of the chunk)
 *     turn     a = 7, b = 0, seed: the student's: the view that a row begins with, below(count)
 *
 * The order of the changes is shift or crop, flip, mix, noise, erase, so that what is erased is `fill` and
 * nothing else (DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
 * 2017). A crop keeps the image's proportions and is stretched back, bilinearly, in integers: pixel i looks
 * at (i + 1/2) size / whole - 1/2 in units of 1/65536, rounded down.
 *
 * The other row of a mixture (Zhang et al., "mixup", 2018; Yun et al., "CutMix", 2019) enters as it is
 * stored. It is one of the same chunk: whoever has a row has its chunk, so dump and training find it without
 * a search. Shares are uniform, Beta(1, 1), folded so that the own row has the larger one: as the other row
 * is any with the same chance, that makes the same mixtures, and a row keeps its label as the more likely
 * one.
 */
#include "kd/data.h"

#include <math.h>
#include <string.h>

enum { SHIFT, FLIP, NOISE, ERASE, CROP, MIX, OTHER, TURN };
#define ONE 65536u // weights and places in images are whole numbers of 1/65536

#define S kd_view_spec
const kd_option kd_view_options[] = {
    {"Views", "views.count", "views", "N", 0, KD_OPTION_INT, offsetof(S, count), "0", 0, KD_VIEWS_MAX, NULL,
     "augmented views of every row, which the teacher is run on as well; 0: none"},
    {"Views", "views.seed", "view-seed", "N", 0, KD_OPTION_INT, offsetof(S, seed), "0", 0, 0, NULL,
     "seed of the views"},
    {"Views", "views.shift", "view-shift", "PIXELS", 0, KD_OPTION_INT, offsetof(S, shift), "0", 0, 65536,
     NULL, "move by up to so many pixels up, down, left, right: a random crop of the padded image"},
    {"Views", "views.flip", "view-flip", NULL, 0, KD_OPTION_BOOL, offsetof(S, flip), "off", 0, 0, NULL,
     "mirror half of the views left to right"},
    {"Views", "views.crop", "view-crop", "SHARE", 0, KD_OPTION_REAL, offsetof(S, crop), "0", 0, 1, NULL,
     "keep a random part, at least this share of the area, and stretch it to the whole; 0: off"},
    {"Views", "views.erase", "view-erase", "PIXELS", 0, KD_OPTION_INT, offsetof(S, erase), "0", 0, 65536,
     NULL, "blank a square of this side at a random place"},
    {"Views", "views.noise", "view-noise", "SD", 0, KD_OPTION_REAL, offsetof(S, noise), "0", 0, 1e6, NULL,
     "add normal noise, in the units of the raw values"},
    {"Views", "views.mixup", "view-mixup", "SHARE", 0, KD_OPTION_REAL, offsetof(S, mixup), "0", 0, 1, NULL,
     "share of the views that are averaged with another row"},
    {"Views", "views.cutmix", "view-cutmix", "SHARE", 0, KD_OPTION_REAL, offsetof(S, cutmix), "0", 0, 1, NULL,
     "share of the views with a rectangle of another row"},
    {"Views", "views.fill", "view-fill", "X", 0, KD_OPTION_REAL, offsetof(S, fill), "0", -1e30, 1e30, NULL,
     "raw value of what is beyond the edge or blanked"},
    {"Views", "views.identity", "view-identity", NULL, 0, KD_OPTION_BOOL, offsetof(S, identity), "on", 0, 0,
     NULL, "view 0 is the row as it is"},
};
const size_t kd_view_options_n = KD_COUNT(kd_view_options);
#undef S

/* An image (h, w, c); a vector is one of h = w = 1. */
typedef struct picture {
    size_t h, w, c;
} picture;

static picture picture_of(const kd_column *x)
{
    picture p = {1, 1, 1};
    if (x->ndims == 1) p.c = (size_t)x->dims[0];
    if (x->ndims >= 2) p.h = (size_t)x->dims[0], p.w = (size_t)x->dims[1];
    if (x->ndims == 3) p.c = (size_t)x->dims[2];
    return p;
}

kd_status kd_view_check(const kd_view_spec *s, const kd_column *x, kd_err *err)
{
    const bool moves = s->shift || s->flip || s->erase || s->crop > 0 || s->cutmix > 0;
    if (s->count < 1 || s->count > KD_VIEWS_MAX || s->seed < 0 || s->shift < 0 || s->erase < 0)
        return kd_fail(err, KD_EUSAGE,
                       "views: %lld of them, seed %lld, shift %lld, erase %lld; expected 1 to %d, and "
                       "nothing below 0",
                       (long long)s->count, (long long)s->seed, (long long)s->shift, (long long)s->erase,
                       KD_VIEWS_MAX);
    if (!(s->noise >= 0) || !isfinite(s->noise) || !isfinite(s->fill))
        return kd_fail(err, KD_EUSAGE, "views: noise %g, fill %g; expected finite numbers, noise from 0",
                       s->noise, s->fill);
    if (!(s->crop >= 0 && s->crop <= 1) || !(s->mixup >= 0) || !(s->cutmix >= 0) ||
        !(s->mixup + s->cutmix <= 1))
        return kd_fail(
            err, KD_EUSAGE,
            "views: crop %g, mixup %g, cutmix %g; expected shares from 0 to 1, and mixup and cutmix "
            "together at most 1",
            s->crop, s->mixup, s->cutmix);
    if (s->crop > 0 && s->shift)
        return kd_fail(err, KD_EUSAGE,
                       "views: crop %g and shift %lld are two ways to cut; set one of them to 0", s->crop,
                       (long long)s->shift);
    if ((x->dtype != KD_U8 && x->dtype != KD_F32) || strcmp(x->encoding, "dense") || x->ndims > 3 ||
        (x->ndims && x->dims[0] < 0))
        return kd_fail(err, KD_EUNSUPPORTED,
                       "column %s: views are made of dense u8 or f32 images of height, width and channels",
                       x->name);
    if (moves && x->ndims < 2)
        return kd_fail(err, KD_EUSAGE, "column %s is no image: of the views only noise and mixup make sense",
                       x->name);
    const picture p = picture_of(x);
    if (moves && ((size_t)s->shift >= kd_min_size(p.h, p.w) || (size_t)s->erase > kd_max_size(p.h, p.w)))
        return kd_fail(err, KD_EUSAGE,
                       "column %s is %zu x %zu: a shift of %lld or a square of %lld leaves nothing of it",
                       x->name, p.h, p.w, (long long)s->shift, (long long)s->erase);
    if (x->dtype == KD_U8 && (s->fill < 0 || s->fill > 255 || s->fill != floor(s->fill)))
        return kd_fail(err, KD_EUSAGE, "column %s is u8: fill is %g, expected a whole number from 0 to 255",
                       x->name, s->fill);
    if (s->count > 1 && !moves && s->noise == 0 && s->mixup == 0)
        return kd_fail(
            err, KD_EUSAGE,
            "%lld views, but nothing that tells them apart: set a shift, crop, flip, erase, noise, "
            "mixup or cutmix",
            (long long)s->count);
    return KD_OK;
}

/* ---- the changes -------------------------------------------------------------------------- */

static kd_rng stream(const kd_view_spec *s, kd_id row, uint32_t view, uint32_t kind)
{
    uint8_t key[24];
    kd_rng r;
    for (int i = 0; i < 8; i++) key[i] = (uint8_t)((uint64_t)s->seed >> 8 * i);
    memcpy(key + 8, row.b, 16);
    kd_rng_init(&r, kd_hash64(key, sizeof key), KD_RNG_VIEW, kind, view);
    return r;
}

static void put_fill(const kd_view_spec *s, kd_dtype t, uint8_t *out, size_t n)
{
    if (t == KD_U8) {
        memset(out, (int)s->fill, n);
        return;
    }
    const float fill = (float)s->fill;
    for (size_t i = 0; i < n; i++) memcpy(out + i * sizeof fill, &fill, sizeof fill);
}

static bool mirrors(const kd_view_spec *s, kd_id row, uint32_t view)
{
    if (!s->flip) return false;
    kd_rng r = stream(s, row, view, FLIP);
    return kd_rng_u32(&r) & 1;
}

/* out (h, w, c) = in moved by (dy, dx), then mirrored. */
static void move(const kd_view_spec *s, const kd_column *x, picture p, const uint8_t *in, uint8_t *out,
                 kd_id row, uint32_t view)
{
    const size_t size = kd_dtype_size(x->dtype), pixel = p.c * size, line = p.w * pixel;
    int64_t dy = 0, dx = 0;
    const bool mirror = mirrors(s, row, view);
    if (s->shift) {
        kd_rng r = stream(s, row, view, SHIFT);
        dy = (int64_t)kd_rng_below(&r, 2 * (uint64_t)s->shift + 1) - s->shift;
        dx = (int64_t)kd_rng_below(&r, 2 * (uint64_t)s->shift + 1) - s->shift;
    }
    if (dy || dx) put_fill(s, x->dtype, out, p.h * p.w * p.c);
    const size_t left = dx < 0 ? (size_t)-dx : 0,
                 right = dx > 0 ? p.w - (size_t)dx : p.w; // columns with a source
    for (size_t y = 0; y < p.h; y++) {
        const int64_t from = (int64_t)y + dy;
        if (from < 0 || from >= (int64_t)p.h) continue;
        const uint8_t *source = in + (size_t)from * line + (size_t)((int64_t)left + dx) * pixel;
        uint8_t *to = out + y * line;
        if (!mirror) {
            memcpy(to + left * pixel, source, (right - left) * pixel);
            continue;
        }
        for (size_t i = left; i < right; i++, source += pixel)
            memcpy(to + (p.w - 1 - i) * pixel, source, pixel);
    }
}

/* Where pixel i of n looks in a part of `size`: two neighbours and the second one's weight. */
typedef struct look {
    size_t a, b;
    uint32_t weight;
} look;

static look look_at(size_t i, size_t n, size_t size)
{
    const int64_t at = (int64_t)((2 * i + 1) * size * ONE / (2 * n)) - ONE / 2;
    const int64_t last = (int64_t)(size - 1) * ONE, to = at < 0 ? 0 : at > last ? last : at;
    const size_t a = (size_t)(to / ONE);
    return (look){a, kd_min_size(a + 1, size - 1), (uint32_t)(to % ONE)};
}

/* out[i] = in's (y.a, x.a), (y.a, x.b), (y.b, x.a), (y.b, x.b) by their weights. */
static void blend4(kd_dtype t, const uint8_t *const in[4], uint32_t wy, uint32_t wx, uint8_t *out, size_t n)
{
    for (size_t i = 0; t == KD_U8 && i < n; i++) {
        const uint64_t upper = (uint64_t)in[0][i] * (ONE - wx) + (uint64_t)in[1][i] * wx,
                       lower = (uint64_t)in[2][i] * (ONE - wx) + (uint64_t)in[3][i] * wx;
        out[i] = (uint8_t)((upper * (ONE - wy) + lower * wy + (1ull << 31)) >> 32);
    }
    const float fx = (float)wx / ONE, fy = (float)wy / ONE;
    for (size_t i = 0; t == KD_F32 && i < n; i++) {
        float v[4];
        for (int k = 0; k < 4; k++) memcpy(&v[k], in[k] + i * sizeof v[k], sizeof v[k]);
        const float upper = v[0] * (1 - fx) + v[1] * fx, lower = v[2] * (1 - fx) + v[3] * fx;
        const float sum = upper * (1 - fy) + lower * fy;
        memcpy(out + i * sizeof sum, &sum, sizeof sum);
    }
}

/* out (h, w, c) = a part of in, stretched, then mirrored. */
static void crop(const kd_view_spec *s, const kd_column *x, picture p, const uint8_t *in, uint8_t *out,
                 kd_id row, uint32_t view)
{
    const size_t pixel = p.c * kd_dtype_size(x->dtype), line = p.w * pixel;
    kd_rng r = stream(s, row, view, CROP);
    const float side = sqrtf((float)s->crop + (1 - (float)s->crop) * kd_rng_uniform(&r));
    const size_t h = kd_max_size(1, (size_t)((float)p.h * side + 0.5f)),
                 w = kd_max_size(1, (size_t)((float)p.w * side + 0.5f));
    const size_t y0 = (size_t)kd_rng_below(&r, p.h - h + 1), x0 = (size_t)kd_rng_below(&r, p.w - w + 1);
    const bool mirror = mirrors(s, row, view);
    in += y0 * line + x0 * pixel;
    for (size_t i = 0; i < p.h; i++)
        for (size_t j = 0; j < p.w; j++) {
            const look y = look_at(i, p.h, h), z = look_at(mirror ? p.w - 1 - j : j, p.w, w);
            const uint8_t *const four[4] = {in + y.a * line + z.a * pixel, in + y.a * line + z.b * pixel,
                                            in + y.b * line + z.a * pixel, in + y.b * line + z.b * pixel};
            blend4(x->dtype, four, y.weight, z.weight, out + i * line + j * pixel, p.c);
        }
}

/* ---- mixtures ----------------------------------------------------------------------------- */

/* A rectangle about a centre, cut off at the edges: rows y0 to y1, columns x0 to x1. */
typedef struct box {
    size_t y0, y1, x0, x1;
} box;

static box box_at(picture p, kd_rng *r, size_t h, size_t w)
{
    const size_t cy = (size_t)kd_rng_below(r, p.h), cx = (size_t)kd_rng_below(r, p.w);
    return (box){cy < h / 2 ? 0 : cy - h / 2, kd_min_size(p.h, cy + h - h / 2), cx < w / 2 ? 0 : cx - w / 2,
                 kd_min_size(p.w, cx + w - w / 2)};
}

/* How a view is mixed. */
typedef struct mixture {
    bool average;    /* else the box is the other row's */
    uint32_t weight; // of the own row
    box box;
} mixture;

static bool mixes(const kd_view_spec *s, picture p, kd_id row, uint32_t view, mixture *m)
{
    if ((s->mixup == 0 && s->cutmix == 0) || (!view && s->identity)) return false;
    kd_rng r = stream(s, row, view, MIX);
    const double which = kd_rng_uniform(&r);
    m->weight = ONE / 2 + (uint32_t)kd_rng_below(&r, ONE / 2 + 1);
    m->average = which < s->mixup;
    if (m->average) return true;
    const float side = sqrtf((float)(ONE - m->weight) / ONE);
    m->box = box_at(p, &r, (size_t)((float)p.h * side + 0.5f), (size_t)((float)p.w * side + 0.5f));
    return which < s->mixup + s->cutmix;
}

bool kd_view_mixes(const kd_view_spec *s) { return s->mixup > 0 || s->cutmix > 0; }

kd_view_mix kd_view_mix_of(const kd_view_spec *s, const kd_column *x, kd_id row, uint32_t view, uint32_t rows)
{
    const picture p = picture_of(x);
    mixture m = {0};
    if (!mixes(s, p, row, view, &m)) return (kd_view_mix){.share = 1};
    kd_rng r = stream(s, row, view, OTHER);
    const size_t cut = (m.box.y1 - m.box.y0) * (m.box.x1 - m.box.x0);
    return (kd_view_mix){.mixed = true,
                         .other = (uint32_t)kd_rng_below(&r, rows),
                         .share = m.average ? (float)m.weight / ONE : 1 - (float)cut / (float)(p.h * p.w)};
}

static void mix(const kd_view_spec *s, const kd_column *x, picture p, const uint8_t *other, uint8_t *out,
                kd_id row, uint32_t view)
{
    const size_t n = p.h * p.w * p.c, pixel = p.c * kd_dtype_size(x->dtype);
    mixture m;
    if (!mixes(s, p, row, view, &m)) return;
    if (!m.average) {
        for (size_t y = m.box.y0; y < m.box.y1; y++)
            memcpy(out + (y * p.w + m.box.x0) * pixel, other + (y * p.w + m.box.x0) * pixel,
                   (m.box.x1 - m.box.x0) * pixel);
        return;
    }
    const float share = (float)m.weight / ONE;
    for (size_t i = 0; x->dtype == KD_U8 && i < n; i++)
        out[i] = (uint8_t)((m.weight * out[i] + (ONE - m.weight) * other[i] + ONE / 2) >> 16);
    for (size_t i = 0; x->dtype == KD_F32 && i < n; i++) {
        float v, o;
        memcpy(&v, out + i * sizeof v, sizeof v);
        memcpy(&o, other + i * sizeof o, sizeof o);
        v = share * v + (1 - share) * o;
        memcpy(out + i * sizeof v, &v, sizeof v);
    }
}

/* ---- the rest ----------------------------------------------------------------------------- */

static void add_noise(const kd_view_spec *s, kd_dtype t, uint8_t *out, size_t n, kd_id row, uint32_t view)
{
    kd_rng r = stream(s, row, view, NOISE);
    const float sd = (float)s->noise;
    for (size_t i = 0; i < n; i++) {
        const float z = sd * kd_rng_normal(&r);
        float v;
        if (t == KD_U8) {
            v = rintf((float)out[i] + z);
            out[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
        } else {
            memcpy(&v, out + i * sizeof v, sizeof v);
            v += z;
            memcpy(out + i * sizeof v, &v, sizeof v);
        }
    }
}

static void erase(const kd_view_spec *s, const kd_column *x, picture p, uint8_t *out, kd_id row,
                  uint32_t view)
{
    const size_t pixel = p.c * kd_dtype_size(x->dtype), side = (size_t)s->erase;
    kd_rng r = stream(s, row, view, ERASE);
    const box b = box_at(p, &r, side, side);
    for (size_t y = b.y0; y < b.y1; y++)
        put_fill(s, x->dtype, out + (y * p.w + b.x0) * pixel, (b.x1 - b.x0) * p.c);
}

void kd_view_apply(const kd_view_spec *s, const kd_column *x, kd_id row, uint32_t view, const void *in,
                   const void *other, void *out)
{
    const picture p = picture_of(x);
    const size_t n = p.h * p.w * p.c;
    if (!view && s->identity) {
        memcpy(out, in, n * kd_dtype_size(x->dtype));
        return;
    }
    if (s->crop > 0)
        crop(s, x, p, in, out, row, view);
    else
        move(s, x, p, in, out, row, view);
    if (other) mix(s, x, p, other, out, row, view);
    if (s->noise > 0) add_noise(s, x->dtype, out, n, row, view);
    if (s->erase) erase(s, x, p, out, row, view);
}

uint32_t kd_view_turn(const kd_view_spec *s, uint64_t seed, kd_id row, uint64_t epoch)
{
    const kd_view_spec student = {.seed = (int64_t)seed};
    kd_rng r = stream(&student, row, 0, TURN);
    const uint64_t count = (uint64_t)s->count;
    return (uint32_t)((kd_rng_below(&r, count) + epoch % count) % count);
}

bool kd_view_equal(const kd_view_spec *a, const kd_view_spec *b)
{
    return a->count == b->count && a->seed == b->seed && a->shift == b->shift && a->erase == b->erase &&
           a->flip == b->flip && a->identity == b->identity && a->noise == b->noise && a->fill == b->fill &&
           a->crop == b->crop && a->mixup == b->mixup && a->cutmix == b->cutmix;
}

/* ---- as JSON ------------------------------------------------------------------------------ */

json_t *kd_view_json(const kd_view_spec *s)
{
    return json_pack("{s:I, s:I, s:I, s:b, s:I, s:f, s:f, s:b, s:f, s:f, s:f}", "count", (json_int_t)s->count,
                     "seed", (json_int_t)s->seed, "shift", (json_int_t)s->shift, "flip", s->flip, "erase",
                     (json_int_t)s->erase, "noise", s->noise, "fill", s->fill, "identity", s->identity,
                     "crop", s->crop, "mixup", s->mixup, "cutmix", s->cutmix);
}

/* A member that older stores do not have. */
static kd_status parse_share(const json_t *j, const char *key, double *v, const char *where, kd_err *err)
{
    return json_object_get(j, key) ? kd_json_real(j, key, v, where, err) : KD_OK;
}

kd_status kd_view_parse(kd_view_spec *s, const json_t *j, const char *where, kd_err *err)
{
    const json_t *flip = json_object_get(j, "flip"), *identity = json_object_get(j, "identity");
    kd_status st;
    *s = (kd_view_spec){0};
    if ((st = kd_json_int(j, "count", 1, KD_VIEWS_MAX, &s->count, where, err)) ||
        (st = kd_json_int(j, "seed", 0, INT64_MAX, &s->seed, where, err)) ||
        (st = kd_json_int(j, "shift", 0, 65536, &s->shift, where, err)) ||
        (st = kd_json_int(j, "erase", 0, 65536, &s->erase, where, err)) ||
        (st = kd_json_real(j, "noise", &s->noise, where, err)) ||
        (st = kd_json_real(j, "fill", &s->fill, where, err)) ||
        (st = parse_share(j, "crop", &s->crop, where, err)) ||
        (st = parse_share(j, "mixup", &s->mixup, where, err)) ||
        (st = parse_share(j, "cutmix", &s->cutmix, where, err)))
        return st;
    if (!json_is_boolean(flip) || !json_is_boolean(identity))
        return kd_fail(err, KD_ECORRUPT, "%s: flip and identity of its views are not true or false", where);
    s->flip = json_is_true(flip);
    s->identity = json_is_true(identity);
    return KD_OK;
}
