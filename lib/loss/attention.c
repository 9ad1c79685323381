/* attention.c - at: where the features are large, not what they are.
 *
 *     a = joined over channels of f^p, one number a pixel; a^ = a / max(||a||, eps)
 *     mode code    1/(B HW) sum (a^_s - a^_t)^2, channels joined by their mean
 *     mode paper   1/B sum_b ||a^_s - a^_t||, channels joined by their sum
 *
 * Zagoruyko and Komodakis 2017, section 3.1; the authors' code squares where the paper does not. Of two maps
 * of different size the larger feature map is average-pooled to the smaller one's size before the power
 * (adaptive windows: they overlap for ratios that are not whole), as in the code. The teacher may have stored
 * its map instead of its features: a column of shape (H, W), of the student's size.
 */
#include "loss_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct size {
    int64_t h, w, c; /* c 0: a map that is joined already */
} size;

static size size_of(const kd_loss_dims *d)
{
    return (size){d->dims[0], d->dims[1], d->ndims == 3 ? d->dims[2] : 0};
}

static int64_t first(int64_t i, int64_t in, int64_t out) { return i * in / out; }
static int64_t last(int64_t i, int64_t in, int64_t out) { return ((i + 1) * in + out - 1) / out; } // excluded

/* pooled (h, w, c) from f (from.h, from.w, c) */
static void pool(double *pooled, const float *f, size from, int64_t h, int64_t w)
{
    const int64_t c = from.c;
    for (int64_t i = 0; i < h * w; i++) {
        int64_t y0 = first(i / w, from.h, h), y1 = last(i / w, from.h, h), x0 = first(i % w, from.w, w),
                x1 = last(i % w, from.w, w);
        double share = 1 / (double)((y1 - y0) * (x1 - x0)), *to = pooled + i * c;
        for (int64_t k = 0; k < c; k++) to[k] = 0;
        for (int64_t y = y0; y < y1; y++)
            for (int64_t x = x0; x < x1; x++)
                for (int64_t k = 0; k < c; k++) to[k] += share * f[(y * from.w + x) * c + k];
    }
}

static void unpool(double *grad, const double *pooled, size from, int64_t h, int64_t w)
{
    const int64_t c = from.c;
    for (int64_t i = 0; i < h * w; i++) {
        int64_t y0 = first(i / w, from.h, h), y1 = last(i / w, from.h, h), x0 = first(i % w, from.w, w),
                x1 = last(i % w, from.w, w);
        double share = 1 / (double)((y1 - y0) * (x1 - x0));
        for (int64_t y = y0; y < y1; y++)
            for (int64_t x = x0; x < x1; x++)
                for (int64_t k = 0; k < c; k++) grad[(y * from.w + x) * c + k] += share * pooled[i * c + k];
    }
}

static double power(double x, int64_t p)
{
    double y = 1;
    for (; p > 0; p--) y *= x;
    return y;
}

/* a (pixels) from pooled features, scaled to length 1; returns the length. */
static double join(const kd__term *t, double *a, const double *f, int64_t pixels, int64_t c)
{
    double sum = 0, share = kd__is(t->k.mode, "paper") ? 1 : 1 / (double)c;
    for (int64_t i = 0; i < pixels; i++) {
        double s = 0;
        for (int64_t k = 0; k < c; k++) s += power(f[i * c + k], t->k.power);
        a[i] = s * share;
        sum += a[i] * a[i];
    }
    double length = sqrt(sum);
    for (int64_t i = 0; i < pixels; i++) a[i] /= fmax(length, t->k.eps);
    return length;
}

static void smaller(const kd__term *t, int64_t *h, int64_t *w)
{
    size s = size_of(&t->student), u = size_of(&t->teacher);
    *h = s.h < u.h ? s.h : u.h;
    *w = s.w < u.w ? s.w : u.w;
}

static double row(const kd__term *t, const kd__row *r)
{
    size s = size_of(&t->student), u = size_of(&t->teacher);
    int64_t h, w;
    smaller(t, &h, &w);
    int64_t n = h * w, p = t->k.power;
    double *fs = r->scratch, *ft = fs + n * s.c, *a = ft + n * (u.c ? u.c : 1), *b = a + n, sum = 0,
           along = 0;
    bool paper = kd__is(t->k.mode, "paper");
    pool(fs, r->s, s, h, w);
    double length = join(t, a, fs, n, s.c), lt = 0;
    if (u.c) {
        pool(ft, r->t, u, h, w);
        join(t, b, ft, n, u.c);
    } else {
        for (int64_t i = 0; i < n; i++) lt += (double)r->t[i] * r->t[i];
        for (int64_t i = 0; i < n; i++) b[i] = r->t[i] / fmax(sqrt(lt), t->k.eps);
    }
    for (int64_t i = 0; i < n; i++) {
        b[i] = a[i] - b[i];
        sum += b[i] * b[i];
        along += a[i] * b[i];
    }
    double value = paper ? sqrt(sum) : sum / (double)n;
    if (!r->grad || length < t->k.eps || sum == 0) return value;
    double c = paper ? 1 / value : 2 / (double)n, each = paper ? 1 : 1 / (double)s.c;
    for (int64_t i = 0; i < n; i++) {
        double slope = c * (b[i] - a[i] * along) / length * each * (double)p;
        for (int64_t k = 0; k < s.c; k++) fs[i * s.c + k] = slope * power(fs[i * s.c + k], p - 1);
    }
    unpool(r->grad, fs, s, h, w);
    return value;
}

static kd_status plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)shared, (void)parts;
    const kd_loss_dims *a = &t->student, *b = &t->teacher;
    if (a->ndims != 3 || (b->ndims != 3 && b->ndims != 2))
        return kd_fail(err, KD_EUSAGE,
                       "attention maps need features (H, W, C) of the student and (H, W, C) or (H, W) of "
                       "the teacher, found %d and %d axes",
                       a->ndims, b->ndims);
    int64_t dy = a->dims[0] - b->dims[0], dx = a->dims[1] - b->dims[1], h, w;
    if ((dy < 0) != (dx < 0) && dy && dx)
        return kd_fail(err, KD_EUSAGE, "maps of %lldx%lld and %lldx%lld: neither is the smaller one",
                       (long long)a->dims[0], (long long)a->dims[1], (long long)b->dims[0],
                       (long long)b->dims[1]);
    if (b->ndims == 2 && (dy < 0 || dx < 0))
        return kd_fail(err, KD_EUSAGE,
                       "the teacher's map of %lldx%lld is larger than the student's of %lldx%lld: pool its "
                       "features to that size before they are joined",
                       (long long)b->dims[0], (long long)b->dims[1], (long long)a->dims[0],
                       (long long)a->dims[1]);
    smaller(t, &h, &w);
    t->scratch = (size_t)(h * w * (a->dims[2] + (b->ndims == 3 ? b->dims[2] : 1) + 2));
    return KD_OK;
}

static double factor(const kd__term *t, int64_t valid)
{
    (void)t;
    return 1 / (double)valid;
}

static void describe(kd_buf *b, const kd__term *t)
{
    bool paper = kd__is(t->k.mode, "paper");
    kd_buf_printf(b, "||a^_s - a^_t||%s, a = %s over channels of f^%lld", paper ? "/B" : "^2/(B HW)",
                  paper ? "sum" : "mean", (long long)t->k.power);
}

/* A pixel's joined value, by the definition of adaptive pooling. */
static double naive_pixel(const kd__term *t, const double *f, const kd_loss_dims *d, int64_t i, int64_t h,
                          int64_t w)
{
    double sum = 0;
    int64_t C = d->dims[2];
    for (int64_t c = 0; c < C; c++) {
        double mean = 0, n = 0;
        for (int64_t y = (int64_t)floor((double)(i / w * d->dims[0]) / (double)h);
             y < (int64_t)ceil((double)((i / w + 1) * d->dims[0]) / (double)h); y++)
            for (int64_t x = (int64_t)floor((double)(i % w * d->dims[1]) / (double)w);
                 x < (int64_t)ceil((double)((i % w + 1) * d->dims[1]) / (double)w); x++)
                mean += f[(y * d->dims[1] + x) * C + c], n++;
        sum += pow(mean / n, (double)t->k.power);
    }
    return kd__is(t->k.mode, "paper") ? sum : sum / (double)C;
}

static double naive_row(const kd__term *t, const double *s, const double *teacher, int32_t label)
{
    int64_t h, w;
    smaller(t, &h, &w);
    double ns = 0, nt = 0, sum = 0, *a = calloc((size_t)(2 * h * w), sizeof *a), *b = a + h * w;
    if (!a) return NAN;
    (void)label;
    for (int64_t i = 0; i < h * w; i++) {
        a[i] = naive_pixel(t, s, &t->student, i, h, w);
        b[i] = t->teacher.ndims == 3 ? naive_pixel(t, teacher, &t->teacher, i, h, w) : teacher[i];
        ns += a[i] * a[i], nt += b[i] * b[i];
    }
    for (int64_t i = 0; i < h * w; i++)
        sum += pow(a[i] / fmax(sqrt(ns), t->k.eps) - b[i] / fmax(sqrt(nt), t->k.eps), 2);
    free(a);
    return kd__is(t->k.mode, "paper") ? sqrt(sum) : sum / (double)(h * w);
}

static double naive(const kd__term *t, const kd__view *v) { return kd__naive_rows(t, v, naive_row); }

const kd__objective kd__objective_at = {
    .pub = {.name = "at",
            .formula = "1/(B HW) sum_b ||a^_s - a^_t||^2, a^: mean over channels of f^power, scaled to "
                       "length 1; mode paper: "
                       "1/B sum_b ||a^_s - a^_t||",
            .needs = KD_NEEDS_FEATURES,
            .serves = KD_LOSS_VALUES,
            .keys = "tap=,feature=,power=2,mode=code,eps=1e-12",
            .source = "Zagoruyko and Komodakis 2017, section 3.1; RepDistiller distiller_zoo/AT.py"},
    .plan = plan,
    .row = row,
    .factor = factor,
    .describe = describe,
    .naive = naive,
};
