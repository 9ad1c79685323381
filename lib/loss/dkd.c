/* dkd.c - decoupled distillation: the target class and the others, each with its own weight.
 *
 *     value  T^2 / B sum_b (alpha KL((p_y, 1 - p_y) || (q_y, 1 - q_y)) + beta KL(p^ || q^))
 *
 * p^, q^: softmax over the classes other than the target (Zhao et al. 2022, section 3; beta takes the
 * place of 1 - p_y, so alpha = 1 and beta = 1 - p_y per row would be kd again). The first term depends on one
 * number, u = log(q_y / (1 - q_y)), with slope q_y - p_y; du/dz_y = 1/T and du/dz_j = -q^_j / T.
 *
 * log(1 - q_y) is a log-sum-exp over the other classes, so that saturated rows stay finite; the reference
 * takes the logarithm of a sum of probabilities. Its warm-up, min(epoch / 20, 1), is `weight: warmup 1 20`.
 */
#include "loss_private.h"

#include <math.h>

/* log softmax -> logarithms of the target's share and of the others', and the log softmax over the others (in
 * place; the target's is -INFINITY) with its exponential. */
static void split(const kd__term *t, double *logq, double *q, int64_t n, int64_t y, double *target,
                  double *rest)
{
    *target = logq[y];
    logq[y] = -INFINITY;
    *rest = t->vec->log_sum(logq, n);
    for (int64_t j = 0; j < n; j++) logq[j] -= *rest;
    t->vec->exp64(q, logq, n);
}

static double gain(double log_a, double log_b) { return exp(log_a) > 0 ? exp(log_a) * (log_a - log_b) : 0; }

static double row(const kd__term *t, const kd__row *r)
{
    int64_t n = r->n, y = r->label;
    double *logq = r->scratch, *q = logq + n, *logp = q + n, *p = logp + n, q_y, q_rest, p_y, p_rest,
           others = 0, T = t->T;
    if (n < 2) return 0;
    t->vec->softmax(logq, NULL, r->s, n, 1 / T);
    t->vec->softmax(logp, NULL, r->t, n, 1 / T);
    split(t, logq, q, n, y, &q_y, &q_rest);
    split(t, logp, p, n, y, &p_y, &p_rest);
    double slope = t->k.alpha * (exp(q_y) - exp(p_y)) / T;
    for (int64_t j = 0; j < n; j++) { // the target's p and q are 0 here
        if (p[j] > 0) others += p[j] * (logp[j] - logq[j]);
        if (r->grad) r->grad[j] = t->k.beta * (q[j] - p[j]) / T - slope * q[j];
    }
    if (r->grad) r->grad[y] = slope;
    return t->k.alpha * (gain(p_y, q_y) + gain(p_rest, q_rest)) + t->k.beta * others;
}

static kd_status plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)shared, (void)parts, (void)err;
    t->scratch = (size_t)(4 * t->n);
    return KD_OK;
}

static void describe(kd_buf *b, const kd__term *t)
{
    char text[64];
    snprintf(text, sizeof(text), "(%g TCKD + %g NCKD)", t->k.alpha, t->k.beta);
    kd__describe_scale(b, t, text);
}

/* Straight from probabilities, sums in log space. */
static double naive_row(const kd__term *t, const double *z, const double *teacher, int32_t y)
{
    double max_s = -INFINITY, max_t = -INFINITY, s = 0, p = 0, T = t->T;
    for (int64_t j = 0; j < t->n; j++)
        if (j != y) max_s = fmax(max_s, z[j]), max_t = fmax(max_t, teacher[j]);
    for (int64_t j = 0; j < t->n; j++)
        if (j != y) s += exp((z[j] - max_s) / T), p += exp((teacher[j] - max_t) / T);
    double rest_s = max_s / T + log(s), rest_t = max_t / T + log(p), nckd = 0;
    for (int64_t j = 0; j < t->n; j++)
        if (j != y) nckd += exp(teacher[j] / T - rest_t) * (teacher[j] / T - rest_t - z[j] / T + rest_s);
    double u = z[y] / T - rest_s, w = teacher[y] / T - rest_t; // log odds
    double py = 1 / (1 + exp(-w));
    double log_qy = u > 0 ? -log1p(exp(-u)) : u - log1p(exp(u)),
           log_py = w > 0 ? -log1p(exp(-w)) : w - log1p(exp(w));
    double tckd = py * (log_py - log_qy) + (1 - py) * (log_py - w - log_qy + u);
    return t->k.alpha * tckd + t->k.beta * nckd;
}

static double naive(const kd__term *t, const kd__view *v) { return kd__naive_rows(t, v, naive_row); }

const kd__objective kd__objective_dkd = {
    .pub = {.name = "dkd",
            .formula =
                "T^2/B sum_b (alpha KL((p_y, 1-p_y) || (q_y, 1-q_y)) + beta KL(p^ || q^)), p^, q^ over the "
                "classes other than the label",
            .needs = KD_NEEDS_LOGITS | KD_NEEDS_LABELS,
            .serves = KD_LOSS_SOFTMAX,
            .keys = "temperature=4,t2=on,reduction=batch,alpha=1,beta=8",
            .source = "Zhao et al. 2022, section 3; mdistiller mdistiller/distillers/DKD.py"},
    .plan = plan,
    .row = row,
    .factor = kd__class_scale,
    .describe = describe,
    .naive = naive,
};
