/* soft.c - kd: the divergence of the student from the teacher at temperature T.
 *
 *     p = softmax(z_t / T), q = softmax(z_s / T)
 *     value     T^2 / B sum_b KL(p_b || q_b)
 *     gradient  T / B (q - p)
 *
 * Hinton et al. 2015, section 2: T^2 keeps the gradient's size when T changes. Public code differs in
 * three ways under this name, so each is a key: without T^2 (t2: off), divided by rows * classes
 * instead of rows (reduction: element), and the cross-entropy -sum p log q in place of the KL
 * (kl_form: cross_entropy), which is larger by the teacher's entropy and has the same gradient.
 *
 * Values stay finite for all finite logits because logarithms are taken of sums only: log q is
 * z/T - max - log sum, never log of a softmax; p = 0 times a large log q is an exact 0. The fast form
 * is part of the fused kernel in loss.simd.c; here is the formula as plain C in double.
 */
#include "loss_private.h"

#include <math.h>

static double weight(const kd_loss_spec *s) { return s->kd; }

double kd__soft_scale(const kd_loss_spec *s, int64_t valid, int64_t classes)
{
    double T = s->temperature, scale = s->t2 ? T * T : 1;
    if (kd__loss_is(s->reduction, "element")) scale /= (double)classes;
    return scale / (double)valid;
}

static void describe(kd_buf *b, const kd_loss_spec *s)
{
    if (s->t2) kd_buf_puts(b, "T^2 ");
    kd_buf_puts(b, kd__loss_is(s->kl_form, "cross_entropy") ? "H(p,q)" : "KL(p||q)");
    kd_buf_puts(b, kd__loss_is(s->reduction, "element") ? "/(B C)" : "/B");
}

/* log of sum_c exp(z_c / T) */
static double log_sum(const float *z, int64_t C, double T)
{
    double max = -INFINITY, sum = 0;
    for (int64_t c = 0; c < C; c++) max = fmax(max, z[c] / T);
    for (int64_t c = 0; c < C; c++) sum += exp(z[c] / T - max);
    return max + log(sum);
}

static double naive(const kd_loss_spec *s, const kd_loss_batch *b, int64_t valid, double w, double *grad)
{
    int64_t C = b->classes;
    double T = s->temperature, scale = kd__soft_scale(s, valid, C), value = 0;
    bool kl = !kd__loss_is(s->kl_form, "cross_entropy");
    for (int64_t r = 0; r < b->rows; r++) {
        const float *z = b->logits + r * C, *t = b->teacher + r * C; // (C)
        if (!kd__row_counts(b, r)) continue;
        double ls = log_sum(z, C, T), lt = log_sum(t, C, T);
        for (int64_t c = 0; c < C; c++) {
            double logq = z[c] / T - ls, logp = t[c] / T - lt, p = exp(logp);
            value += scale * p * ((kl ? logp : 0) - logq);
            grad[r * C + c] += w * scale / T * (exp(logq) - p);
        }
    }
    return value;
}

const kd__objective kd__objective_kd = {.teacher = true,
                                        .weight = weight,
                                        .describe = describe,
                                        .naive = naive};
