/* divergence.c - reverse_kl, gjsd, skl, srkl, tvd: other distances of student and teacher.
 *
 *     p = softmax(z_t / T), q = softmax(z_s / T)
 *
 *     reverse_kl   KL(q || p)                                    Gu et al. 2024 (MiniLLM)
 *
 *     gjsd         beta KL(p || M) + (1 - beta) KL(q || M), M = beta p + (1 - beta) q
 *                                                                Agarwal et al. 2024 (GKD)
 *
 *     skl          KL(p || alpha p + (1 - alpha) q)              Ko et al. 2024 (DistiLLM), section 3.1
 *
 *     srkl         KL(q || (1 - alpha) p + alpha q)
 *
 *     tvd          1/2 sum |p - q|                               Wen et al. 2023 (f-DISTILL)
 *
 * all summed over classes and divided by the rows (tokens) that count; gjsd with beta 0 and 1 is KL(p || q)
 * and KL(q || p), as TRL has it. None is multiplied by T^2 by its authors; DistillKit does (t2: on).
 * DistiLLM's skl lacks the teacher's entropy (kl_form: cross_entropy).
 *
 * A distance gives its value and h_j = q_j df/dq_j; the way from there to logits is the same for all of
 * them: dz_j = (h_j - q_j sum h) / T. Mixtures are made of probabilities in double: where both underflow,
 * below 1e-307, the class is worth nothing; a class that only one of the two has stays finite, because a
 * mixture holds at least a share of it.
 */
#include "divergence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* a (log a - log b) with 0 log 0 = 0; NaN stays */
static double gain(double a, double log_a, double log_b) { return a == 0 ? 0 : a * (log_a - log_b); }

/* log_m = log(share a + (1 - share) b); where the mixture is 0 it is finite and means nothing. */
static void log_mix(const kd__term *t, double *log_m, double share, const double *a, const double *log_a,
                    const double *b, const double *log_b, int64_t n)
{
    if (share == 0 || share == 1) {
        memcpy(log_m, share == 0 ? log_b : log_a, (size_t)n * sizeof *log_m);
        return;
    }
    for (int64_t j = 0; j < n; j++) log_m[j] = share * a[j] + (1 - share) * b[j];
    t->vec->log64(log_m, log_m, n);
}

/* a b / (share c + (1 - share) d) with 0 / 0 = 0 */
static double over_mix(double a, double b, double share, double c, double d)
{
    double m = share * c + (1 - share) * d;
    return m > 0 ? a * b / m : 0;
}

double kd__forward_kl(const kd__term *t, int64_t n, const double *p, const double *logp, const double *q,
                      const double *logq, double *h)
{
    bool entropy = !kd__is(t->k.kl_form, "cross_entropy");
    double value = 0;
    (void)q;
    for (int64_t j = 0; j < n; j++) {
        if (p[j] != 0) value -= p[j] * logq[j]; // a filler may be a rounding error below 0
        if (p[j] > 0 && entropy) value += p[j] * logp[j];
        h[j] = -p[j];
    }
    return value;
}

double kd__reverse_kl(const kd__term *t, int64_t n, const double *p, const double *logp, const double *q,
                      const double *logq, double *h)
{
    double value = 0;
    (void)t, (void)p;
    for (int64_t j = 0; j < n; j++) value += h[j] = gain(q[j], logq[j], logp[j]); // + q_j, which drops out
    return value;
}

double kd__jsd(const kd__term *t, int64_t n, const double *p, const double *logp, const double *q,
               const double *logq, double *h)
{
    double beta = t->k.beta, value = 0;
    if (beta == 0) return kd__forward_kl(t, n, p, logp, q, logq, h);
    if (beta == 1) return kd__reverse_kl(t, n, p, logp, q, logq, h);
    log_mix(t, h, beta, p, logp, q, logq, n);
    for (int64_t j = 0; j < n; j++) {
        double log_m = h[j];
        h[j] = (1 - beta) * gain(q[j], logq[j], log_m);
        value += beta * gain(p[j], logp[j], log_m) + h[j];
    }
    return value;
}

static double skew(const kd__term *t, int64_t n, const double *p, const double *logp, const double *q,
                   const double *logq, double *h)
{
    double a = t->k.alpha, value = 0;
    bool entropy = !kd__is(t->k.kl_form, "cross_entropy");
    log_mix(t, h, a, p, logp, q, logq, n);
    for (int64_t j = 0; j < n; j++) {
        value += gain(p[j], entropy ? logp[j] : 0, h[j]);
        h[j] = a > 0 ? -(1 - a) * over_mix(p[j], q[j], a, p[j], q[j]) : -p[j];
    }
    return value;
}

static double skew_reverse(const kd__term *t, int64_t n, const double *p, const double *logp, const double *q,
                           const double *logq, double *h)
{
    double a = t->k.alpha, value = 0;
    log_mix(t, h, a, q, logq, p, logp, n);
    for (int64_t j = 0; j < n; j++) {
        double g = gain(q[j], logq[j], h[j]);
        value += g;
        h[j] = a > 0 ? g + q[j] - a * over_mix(q[j], q[j], a, q[j], p[j]) : g;
    }
    return value;
}

double kd__tvd(const kd__term *t, int64_t n, const double *p, const double *logp, const double *q,
               const double *logq, double *h)
{
    double value = 0;
    (void)t, (void)logp, (void)logq;
    for (int64_t j = 0; j < n; j++) {
        double d = q[j] - p[j];
        value += 0.5 * fabs(d);
        h[j] = 0.5 * q[j] * (double)((d > 0) - (d < 0));
    }
    return value;
}

/* ---- a row of dense logits ---------------------------------------------------------------- */

static double dense(const kd__term *t, const kd__row *r, kd__divergence *f)
{
    int64_t n = r->n;
    double *logq = r->scratch, *q = logq + n, *logp = q + n, *p = logp + n, *h = p + n;
    t->vec->softmax(logq, q, r->s, n, 1 / t->T);
    t->vec->softmax(logp, p, r->t, n, 1 / t->T);
    double value = f(t, n, p, logp, q, logq, h);
    if (r->grad) kd__softmax_back(r->grad, h, q, n, 1 / t->T);
    return value;
}

static kd_status plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)shared, (void)parts, (void)err;
    t->scratch = (size_t)(5 * t->n);
    return KD_OK;
}

kd_status kd__check_beta(kd__term *t, kd_err *err)
{
    if (t->k.beta > 1) return kd_fail(err, KD_EUSAGE, "beta: %g, expected a share from 0 to 1", t->k.beta);
    return KD_OK;
}

static kd_status check_alpha(kd__term *t, kd_err *err)
{
    if (t->k.alpha >= 1)
        return kd_fail(err, KD_EUSAGE,
                       "alpha: %g, expected a share of less than 1: at 1 a model is compared with itself",
                       t->k.alpha);
    return KD_OK;
}

/* ---- twins -------------------------------------------------------------------------------- */

double kd__naive_forward_kl(const kd__term *t, int64_t n, const double *logp, const double *logq)
{
    double ce = 0, entropy = 0;
    for (int64_t j = 0; j < n; j++) {
        ce -= exp(logp[j]) > 0 ? exp(logp[j]) * logq[j] : 0;
        entropy -= exp(logp[j]) > 0 ? exp(logp[j]) * logp[j] : 0;
    }
    return kd__is(t->k.kl_form, "cross_entropy") ? ce : ce - entropy;
}

double kd__naive_reverse_kl(const kd__term *t, int64_t n, const double *logp, const double *logq)
{
    double value = 0;
    (void)t;
    for (int64_t j = 0; j < n; j++) value += exp(logq[j]) > 0 ? exp(logq[j]) * (logq[j] - logp[j]) : 0;
    return value;
}

/* KL(a || share a + (1 - share) b) from logarithms */
static double kl_to_mix(int64_t n, const double *log_a, const double *log_b, double share)
{
    double value = 0;
    for (int64_t j = 0; j < n; j++) {
        double top = fmax(log_a[j], log_b[j]);
        double log_m = top + log(share * exp(log_a[j] - top) + (1 - share) * exp(log_b[j] - top));
        if (exp(log_a[j]) > 0) value += exp(log_a[j]) * (log_a[j] - log_m);
    }
    return value;
}

double kd__naive_jsd(const kd__term *t, int64_t n, const double *logp, const double *logq)
{
    double beta = t->k.beta;
    if (beta == 0) return kl_to_mix(n, logp, logq, 0);
    if (beta == 1) return kl_to_mix(n, logq, logp, 0);
    return beta * kl_to_mix(n, logp, logq, beta) + (1 - beta) * kl_to_mix(n, logq, logp, 1 - beta);
}

static double naive_skew(const kd__term *t, int64_t n, const double *logp, const double *logq)
{
    double entropy = 0;
    for (int64_t j = 0; j < n; j++) entropy -= exp(logp[j]) * logp[j];
    return kl_to_mix(n, logp, logq, t->k.alpha) + (kd__is(t->k.kl_form, "cross_entropy") ? entropy : 0);
}

static double naive_skew_reverse(const kd__term *t, int64_t n, const double *logp, const double *logq)
{
    return kl_to_mix(n, logq, logp, t->k.alpha);
}

double kd__naive_tvd(const kd__term *t, int64_t n, const double *logp, const double *logq)
{
    double value = 0; // the mass that the teacher has more of
    (void)t;
    for (int64_t j = 0; j < n; j++) value += fmax(exp(logp[j]) - exp(logq[j]), 0);
    return value;
}

static double naive_dense(const kd__term *t, const double *z, const double *teacher,
                          double (*f)(const kd__term *, int64_t, const double *, const double *))
{
    double *logq = calloc((size_t)(2 * t->n), sizeof *logq), *logp = logq + t->n;
    if (!logq) return NAN;
    kd__naive_softmax(logq, z, t->n, t->T);
    kd__naive_softmax(logp, teacher, t->n, t->T);
    double value = f(t, t->n, logp, logq);
    free(logq);
    return value;
}

/* ---- the objectives ----------------------------------------------------------------------- */

static void describe_reverse_kl(kd_buf *b, const kd__term *t) { kd__describe_scale(b, t, "KL(q||p)"); }
static void describe_tvd(kd_buf *b, const kd__term *t) { kd__describe_scale(b, t, "TVD(p,q)"); }

static void describe_gjsd(kd_buf *b, const kd__term *t)
{
    char text[96];
    snprintf(text, sizeof(text), "(%g KL(p||M) + %g KL(q||M))", t->k.beta, 1 - t->k.beta);
    kd__describe_scale(b, t, t->k.beta == 0 ? "KL(p||q)" : t->k.beta == 1 ? "KL(q||p)" : text);
}

static void describe_skl(kd_buf *b, const kd__term *t)
{
    char text[96];
    snprintf(text, sizeof(text), "%s %g p + %g q)", kd__is(t->k.kl_form, "kl") ? "KL(p ||" : "H(p,",
             t->k.alpha, 1 - t->k.alpha);
    kd__describe_scale(b, t, text);
}

static void describe_srkl(kd_buf *b, const kd__term *t)
{
    char text[96];
    snprintf(text, sizeof(text), "KL(q || %g p + %g q)", 1 - t->k.alpha, t->k.alpha);
    kd__describe_scale(b, t, text);
}

#define DENSE(NAME, F, NAIVE, CHECK, FORMULA, KEYS, SOURCE)                                                  \
    static double row_##NAME(const kd__term *t, const kd__row *r) { return dense(t, r, F); }                 \
    static double naive_row_##NAME(const kd__term *t, const double *z, const double *teacher, int32_t label) \
    {                                                                                                        \
        (void)label;                                                                                         \
        return naive_dense(t, z, teacher, NAIVE);                                                            \
    }                                                                                                        \
    static double naive_##NAME(const kd__term *t, const kd__view *v)                                         \
    {                                                                                                        \
        return kd__naive_rows(t, v, naive_row_##NAME);                                                       \
    }                                                                                                        \
    const kd__objective kd__objective_##NAME = {                                                             \
        .pub = {.name = #NAME,                                                                               \
                .formula = FORMULA,                                                                          \
                .needs = KD_NEEDS_LOGITS,                                                                    \
                .serves = KD_LOSS_SOFTMAX,                                                                   \
                .keys = "temperature=1,t2=off,reduction=token" KEYS,                                         \
                .source = SOURCE},                                                                           \
        .check = CHECK,                                                                                      \
        .plan = plan,                                                                                        \
        .row = row_##NAME,                                                                                   \
        .factor = kd__class_scale,                                                                           \
        .describe = describe_##NAME,                                                                         \
        .naive = naive_##NAME,                                                                               \
    };

DENSE(reverse_kl, kd__reverse_kl, kd__naive_reverse_kl, NULL, "1/B sum_b KL(q || p)", "",
      "Gu et al. 2024 (MiniLLM); DistiLLM distillm/losses.py reverse_kl")
DENSE(gjsd, kd__jsd, kd__naive_jsd, kd__check_beta,
      "1/B sum_b (beta KL(p || M) + (1-beta) KL(q || M)), M = beta p + (1-beta) q; beta 0, 1: KL(p || q), "
      "KL(q || p)",
      ",beta=0.5", "Agarwal et al. 2024 (GKD); TRL trl/experimental/gkd/gkd_trainer.py")
DENSE(skl, skew, naive_skew, check_alpha, "1/B sum_b KL(p || alpha p + (1-alpha) q)", ",alpha=0.1,kl_form=kl",
      "Ko et al. 2024 (DistiLLM), section 3.1; distillm/losses.py skewed_forward_kl")
DENSE(srkl, skew_reverse, naive_skew_reverse, check_alpha, "1/B sum_b KL(q || (1-alpha) p + alpha q)",
      ",alpha=0.1", "Ko et al. 2024 (DistiLLM), section 3.1; distillm/losses.py skewed_reverse_kl")
DENSE(tvd, kd__tvd, kd__naive_tvd, NULL, "1/B sum_b 1/2 ||p - q||_1", "",
      "Wen et al. 2023 (f-DISTILL); DistiLLM distillm/losses.py tv_distance")
