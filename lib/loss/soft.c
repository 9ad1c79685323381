/* soft.c - kd, kd_ce: the divergence of the student from the teacher at temperature T.
 *
 *     p = softmax(z_t / T), q = softmax(z_s / T)
 *     value     T^2 / B sum_b KL(p_b || q_b)
 *     gradient  T / B (q - p)
 *
 * Hinton et al. 2015, section 2: T^2 keeps the gradient's size when T changes. Public code differs in
 * three ways under this name, so each is a key: without T^2 (t2: off), divided by rows * classes
 * instead of rows (reduction: element), and the cross-entropy -sum p log q in place of the KL
 * (kl_form: cross_entropy), which is larger by the teacher's entropy and has the same gradient. The
 * last, without T^2, is what TextBrewer calls kd_ce.
 *
 * Values stay finite for all finite logits because logarithms are taken of sums only: log q is
 * z/T - max - log sum, never log of a softmax; p = 0 times a large log q is an exact 0. The fast form
 * is part of the fused kernel in loss.simd.c; `row` serves a second teacher or temperature in one mix.
 */
#include "loss_private.h"

#include <math.h>

static bool entropy(const kd__term *t) { return !kd__is(t->k.kl_form, "cross_entropy"); }

static double row(const kd__term *t, const kd__row *r)
{
    double *logq = r->scratch, *q = logq + r->n, *logp = q + r->n, *p = logp + r->n, value = 0;
    t->vec->softmax(logq, q, r->s, r->n, 1 / t->T);
    t->vec->softmax(logp, p, r->t, r->n, 1 / t->T);
    for (int64_t c = 0; c < r->n; c++) {
        if (p[c] > 0) value += p[c] * ((entropy(t) ? logp[c] : 0) - logq[c]);
        if (r->grad) r->grad[c] = (q[c] - p[c]) / t->T;
    }
    return value;
}

static kd_status plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)shared, (void)parts, (void)err;
    t->scratch = (size_t)(4 * t->n);
    return KD_OK;
}

static void describe(kd_buf *b, const kd__term *t)
{
    kd__describe_scale(b, t, entropy(t) ? "KL(p||q)" : "H(p,q)");
}

static double naive_row(const kd__term *t, const double *z, const double *teacher, int32_t label)
{
    double lt = 0, ls = 0, value = 0, max_t = -INFINITY, max_s = -INFINITY;
    (void)label;
    for (int64_t c = 0; c < t->n; c++) max_t = fmax(max_t, teacher[c]), max_s = fmax(max_s, z[c]);
    for (int64_t c = 0; c < t->n; c++) {
        lt += exp((teacher[c] - max_t) / t->T);
        ls += exp((z[c] - max_s) / t->T);
    }
    for (int64_t c = 0; c < t->n; c++) {
        double logp = (teacher[c] - max_t) / t->T - log(lt), logq = (z[c] - max_s) / t->T - log(ls);
        value += exp(logp) * ((entropy(t) ? logp : 0) - logq);
    }
    return value;
}

static double naive(const kd__term *t, const kd__view *v) { return kd__naive_rows(t, v, naive_row); }

#define SOFT(NAME, FORMULA, KEYS, SOURCE)                                                                    \
    const kd__objective kd__objective_##NAME = {                                                             \
        .pub = {.name = #NAME,                                                                               \
                .formula = FORMULA,                                                                          \
                .needs = KD_NEEDS_LOGITS,                                                                    \
                .serves = KD_LOSS_SOFTMAX,                                                                   \
                .keys = KEYS,                                                                                \
                .source = SOURCE},                                                                           \
        .plan = plan,                                                                                        \
        .row = row,                                                                                          \
        .factor = kd__class_scale,                                                                           \
        .describe = describe,                                                                                \
        .naive = naive,                                                                                      \
    };
SOFT(kd, "T^2/B sum_b KL(softmax(z_t/T) || softmax(z_s/T))", "temperature=4,t2=on,reduction=batch,kl_form=kl",
     "Hinton et al. 2015, section 2; RepDistiller distiller_zoo/KD.py")
SOFT(kd_ce, "-1/B sum_b sum_c softmax(z_t/T) log softmax(z_s/T)",
     "temperature=4,t2=off,reduction=batch,kl_form=cross_entropy",
     "TextBrewer src/textbrewer/losses.py kd_ce_loss")
