/* feature.c - fitnet, embed: the student's feature should be the teacher's.
 *
 *     fitnet  1/(B n) sum (r(f_s) - f_t)^2                        Romero et al. 2015, section 2.2
 *     embed   1/B sum_b of: cosine  1 - cos(l(f_s), f_t), norms at least eps
 *                           mse     ||l(f_s) - f_t||^2 / n
 *                           l2      ||l(f_s) - f_t||
 *
 * r, l: what is learned between the two (project.c); here they are already applied. A zero difference has no
 * direction: its slope is 0 in l2; a zero vector likewise in cosine.
 */
#include "loss_private.h"

#include <math.h>

static kd_status same_size(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)shared, (void)parts;
    if (t->n == t->m) return KD_OK;
    return kd_fail(err, KD_EUSAGE,
                   "the student's tap has %lld numbers a row, the teacher's feature %lld; set projection: %s",
                   (long long)t->n, (long long)t->m, t->o == &kd__objective_embed ? "linear" : "regressor");
}

static double squares(const kd__row *r, double c)
{
    double value = 0;
    for (int64_t i = 0; i < r->n; i++) {
        double d = (double)r->s[i] - r->t[i];
        value += d * d;
        if (r->grad) r->grad[i] = 2 * c * d;
    }
    return c * value;
}

static double naive_squares(const kd__term *t, const double *s, const double *teacher, int32_t label)
{
    double value = 0;
    (void)label;
    for (int64_t i = 0; i < t->n; i++) value += pow(s[i] - teacher[i], 2);
    return value;
}

/* ---- fitnet ------------------------------------------------------------------------------- */

static double hint_row(const kd__term *t, const kd__row *r)
{
    (void)t;
    return squares(r, 1);
}

static void hint_describe(kd_buf *b, const kd__term *t)
{
    kd__describe_scale(b, t, kd__is(t->k.projection, "none") ? "||f_s - f_t||^2" : "||r(f_s) - f_t||^2");
}

static double naive_hint(const kd__term *t, const kd__view *v) { return kd__naive_rows(t, v, naive_squares); }

const kd__objective kd__objective_fitnet = {
    .pub = {.name = "fitnet",
            .formula = "1/(B n) sum_b ||r(f_s) - f_t||^2, r: learned convolution + batch norm + ReLU",
            .needs = KD_NEEDS_FEATURES,
            .serves = KD_LOSS_VALUES,
            .keys = "tap=,feature=,projection=regressor,reduction=element",
            .source = "Romero et al. 2015, section 2.2; mdistiller mdistiller/distillers/FitNet.py"},
    .plan = same_size,
    .row = hint_row,
    .factor = kd__class_scale,
    .describe = hint_describe,
    .naive = naive_hint,
};

/* ---- embed -------------------------------------------------------------------------------- */

static double cosine_row(const kd__term *t, const kd__row *r)
{
    double ss = t->vec->dot(r->s, r->s, r->n), tt = t->vec->dot(r->t, r->t, r->n),
           st = t->vec->dot(r->s, r->t, r->n);
    double ns = fmax(sqrt(ss), t->k.eps), nt = fmax(sqrt(tt), t->k.eps), cos = st / (ns * nt);
    bool direction = ss > 0 && sqrt(ss) > t->k.eps;
    for (int64_t i = 0; r->grad && direction && i < r->n; i++)
        r->grad[i] = cos * r->s[i] / ss - r->t[i] / (ns * nt);
    return 1 - cos;
}

static double distance_row(const kd__row *r)
{
    double sum = squares(r, 1), d = sqrt(sum);
    for (int64_t i = 0; r->grad && i < r->n; i++) r->grad[i] = d > 0 ? r->grad[i] / (2 * d) : 0;
    return d;
}

static double embed_row(const kd__term *t, const kd__row *r)
{
    if (kd__is(t->k.metric, "cosine")) return cosine_row(t, r);
    if (kd__is(t->k.metric, "l2")) return distance_row(r);
    return squares(r, 1 / (double)r->n);
}

static double mean(const kd__term *t, int64_t valid)
{
    (void)t;
    return 1 / (double)valid;
}

static void embed_describe(kd_buf *b, const kd__term *t)
{
    bool l = !kd__is(t->k.projection, "none");
    const char *s = l ? "l(f_s)" : "f_s";
    if (kd__is(t->k.metric, "cosine"))
        kd_buf_printf(b, "(1 - cos(%s, f_t))/B", s);
    else
        kd_buf_printf(b, kd__is(t->k.metric, "l2") ? "||%s - f_t||/B" : "||%s - f_t||^2/(B n)", s);
}

static double naive_embed_row(const kd__term *t, const double *s, const double *teacher, int32_t label)
{
    double squared = naive_squares(t, s, teacher, label), ss = 0, tt = 0, st = 0;
    if (kd__is(t->k.metric, "mse")) return squared / (double)t->n;
    if (kd__is(t->k.metric, "l2")) return sqrt(squared);
    for (int64_t i = 0; i < t->n; i++)
        ss += s[i] * s[i], tt += teacher[i] * teacher[i], st += s[i] * teacher[i];
    return 1 - st / (fmax(sqrt(ss), t->k.eps) * fmax(sqrt(tt), t->k.eps));
}

static double naive_embed(const kd__term *t, const kd__view *v)
{
    return kd__naive_rows(t, v, naive_embed_row);
}

const kd__objective kd__objective_embed = {
    .pub = {.name = "embed",
            .formula = "1/B sum_b of 1 - cos(l(f_s), f_t) | ||l(f_s) - f_t||^2/n | ||l(f_s) - f_t||; l: "
                       "optional learned linear layer",
            .needs = KD_NEEDS_FEATURES,
            .serves = KD_LOSS_VALUES,
            .keys = "tap=,feature=,metric=cosine,projection=none,eps=1e-8",
            .source = "Reimers and Gurevych 2020; sentence-transformers losses/embed_distill.py"},
    .plan = same_size,
    .row = embed_row,
    .factor = mean,
    .describe = embed_describe,
    .naive = naive_embed,
};
