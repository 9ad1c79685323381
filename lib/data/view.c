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
 *
 * The order of the changes is shift, flip, noise, erase, so that what is erased is `fill` and nothing else
 * (DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017).
 */
#include "kd/data.h"

#include <math.h>
#include <string.h>

enum { SHIFT, FLIP, NOISE, ERASE };

#define S kd_view_spec
const kd_option kd_view_options[] = {
    {"Views", "views.count", "views", "N", 0, KD_OPTION_INT, offsetof(S, count), "0", 0, KD_VIEWS_MAX, NULL,
     "run the teacher on N augmented views of every row as well; 0: none"},
    {"Views", "views.seed", "view-seed", "N", 0, KD_OPTION_INT, offsetof(S, seed), "0", 0, 0, NULL,
     "seed of the views"},
    {"Views", "views.shift", "view-shift", "PIXELS", 0, KD_OPTION_INT, offsetof(S, shift), "0", 0, 65536,
     NULL, "move by up to so many pixels up, down, left, right: a random crop of the padded image"},
    {"Views", "views.flip", "view-flip", NULL, 0, KD_OPTION_BOOL, offsetof(S, flip), "off", 0, 0, NULL,
     "mirror half of the views left to right"},
    {"Views", "views.erase", "view-erase", "PIXELS", 0, KD_OPTION_INT, offsetof(S, erase), "0", 0, 65536,
     NULL, "blank a square of this side at a random place"},
    {"Views", "views.noise", "view-noise", "SD", 0, KD_OPTION_REAL, offsetof(S, noise), "0", 0, 1e6, NULL,
     "add normal noise, in the units of the raw values"},
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
    const bool moves = s->shift || s->flip || s->erase;
    if (s->count < 1 || s->count > KD_VIEWS_MAX || s->seed < 0 || s->shift < 0 || s->erase < 0)
        return kd_fail(err, KD_EUSAGE,
                       "views: %lld of them, seed %lld, shift %lld, erase %lld; expected 1 to %d, and "
                       "nothing below 0",
                       (long long)s->count, (long long)s->seed, (long long)s->shift, (long long)s->erase,
                       KD_VIEWS_MAX);
    if (!(s->noise >= 0) || !isfinite(s->noise) || !isfinite(s->fill))
        return kd_fail(err, KD_EUSAGE, "views: noise %g, fill %g; expected finite numbers, noise from 0",
                       s->noise, s->fill);
    if ((x->dtype != KD_U8 && x->dtype != KD_F32) || strcmp(x->encoding, "dense") || x->ndims > 3 ||
        (x->ndims && x->dims[0] < 0))
        return kd_fail(err, KD_EUNSUPPORTED,
                       "column %s: views are made of dense u8 or f32 images of height, width and channels",
                       x->name);
    if (moves && x->ndims < 2)
        return kd_fail(err, KD_EUSAGE, "column %s is no image: of the views only noise makes sense", x->name);
    const picture p = picture_of(x);
    if (moves && ((size_t)s->shift >= kd_min_size(p.h, p.w) || (size_t)s->erase > kd_max_size(p.h, p.w)))
        return kd_fail(err, KD_EUSAGE,
                       "column %s is %zu x %zu: a shift of %lld or a square of %lld leaves nothing of it",
                       x->name, p.h, p.w, (long long)s->shift, (long long)s->erase);
    if (x->dtype == KD_U8 && (s->fill < 0 || s->fill > 255 || s->fill != floor(s->fill)))
        return kd_fail(err, KD_EUSAGE, "column %s is u8: fill is %g, expected a whole number from 0 to 255",
                       x->name, s->fill);
    if (s->count > 1 && !moves && s->noise == 0)
        return kd_fail(err, KD_EUSAGE,
                       "%lld views, but nothing that tells them apart: set a shift, flip, erase or noise",
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

/* out (h, w, c) = in moved by (dy, dx), then mirrored. */
static void move(const kd_view_spec *s, const kd_column *x, picture p, const uint8_t *in, uint8_t *out,
                 kd_id row, uint32_t view)
{
    const size_t size = kd_dtype_size(x->dtype), pixel = p.c * size, line = p.w * pixel;
    int64_t dy = 0, dx = 0;
    bool mirror = false;
    if (s->shift) {
        kd_rng r = stream(s, row, view, SHIFT);
        dy = (int64_t)kd_rng_below(&r, 2 * (uint64_t)s->shift + 1) - s->shift;
        dx = (int64_t)kd_rng_below(&r, 2 * (uint64_t)s->shift + 1) - s->shift;
    }
    if (s->flip) {
        kd_rng r = stream(s, row, view, FLIP);
        mirror = kd_rng_u32(&r) & 1;
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
    const size_t size = kd_dtype_size(x->dtype), pixel = p.c * size, side = (size_t)s->erase;
    kd_rng r = stream(s, row, view, ERASE);
    const size_t cy = (size_t)kd_rng_below(&r, p.h), cx = (size_t)kd_rng_below(&r, p.w);
    const size_t y0 = cy < side / 2 ? 0 : cy - side / 2, x0 = cx < side / 2 ? 0 : cx - side / 2;
    const size_t y1 = kd_min_size(p.h, cy + side - side / 2), x1 = kd_min_size(p.w, cx + side - side / 2);
    for (size_t y = y0; y < y1; y++) put_fill(s, x->dtype, out + (y * p.w + x0) * pixel, (x1 - x0) * p.c);
}

void kd_view_apply(const kd_view_spec *s, const kd_column *x, kd_id row, uint32_t view, const void *in,
                   void *out)
{
    const picture p = picture_of(x);
    const size_t n = p.h * p.w * p.c;
    if (!view && s->identity) {
        memcpy(out, in, n * kd_dtype_size(x->dtype));
        return;
    }
    move(s, x, p, in, out, row, view);
    if (s->noise > 0) add_noise(s, x->dtype, out, n, row, view);
    if (s->erase) erase(s, x, p, out, row, view);
}

/* ---- as JSON ------------------------------------------------------------------------------ */

json_t *kd_view_json(const kd_view_spec *s)
{
    return json_pack("{s:I, s:I, s:I, s:b, s:I, s:f, s:f, s:b}", "count", (json_int_t)s->count, "seed",
                     (json_int_t)s->seed, "shift", (json_int_t)s->shift, "flip", s->flip, "erase",
                     (json_int_t)s->erase, "noise", s->noise, "fill", s->fill, "identity", s->identity);
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
        (st = kd_json_real(j, "fill", &s->fill, where, err)))
        return st;
    if (!json_is_boolean(flip) || !json_is_boolean(identity))
        return kd_fail(err, KD_ECORRUPT, "%s: flip and identity of its views are not true or false", where);
    s->flip = json_is_true(flip);
    s->identity = json_is_true(identity);
    return KD_OK;
}
