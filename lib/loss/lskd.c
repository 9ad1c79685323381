/* lskd.c - kd on standardised logits: only the shape of a row counts, not its size.
 *
 *     z' = (z - mean z) / (std z + eps)          std with C - 1 (std_ddof)
 *     value  T^2 / B sum_b KL(softmax(z'_t / T) || softmax(z'_s / T))
 *
 * Sun et al. 2024. The gradient flows through mean and std: with g = dL/dz', u = z - mean and
 * s = std + eps it is g / s - u (g . u) / (s^2 (C - 1) std), made free of its mean. A constant row has no
 * direction of its own: there the second part is 0 and eps stands for s, as in the reference.
 */
#include "loss_private.h"

#include <math.h>
#include <stdlib.h>

/* u = z - mean; returns the standard deviation */
static double centre(double *u, const float *z, int64_t n, int64_t ddof)
{
    double mean = 0, sum = 0;
    for (int64_t j = 0; j < n; j++) mean += z[j];
    mean /= (double)n;
    for (int64_t j = 0; j < n; j++) {
        u[j] = z[j] - mean;
        sum += u[j] * u[j];
    }
    return n > ddof ? sqrt(sum / (double)(n - ddof)) : 0;
}

/* x = u / divisor becomes its log softmax, p the exponential of that */
static void softmax(const kd__term *t, double *x, double *p, const double *u, int64_t n, double divisor)
{
    for (int64_t j = 0; j < n; j++) x[j] = u[j] / divisor;
    double sum = t->vec->log_sum(x, n);
    for (int64_t j = 0; j < n; j++) x[j] -= sum;
    t->vec->exp64(p, x, n);
}

static double row(const kd__term *t, const kd__row *r)
{
    int64_t n = r->n, ddof = t->k.std_ddof;
    double *u = r->scratch, *logq = u + n, *q = logq + n, *logp = q + n, *p = logp + n, value = 0, along = 0,
           mean = 0;
    double std_t = centre(u, r->t, n, ddof), *g = r->grad;
    softmax(t, logp, p, u, n, (std_t + t->k.eps) * t->T);
    double std = centre(u, r->s, n, ddof), s = std + t->k.eps;
    softmax(t, logq, q, u, n, s * t->T);
    for (int64_t j = 0; j < n; j++) {
        if (p[j] > 0) value += p[j] * (logp[j] - logq[j]);
        if (!g) continue;
        g[j] = (q[j] - p[j]) / t->T;
        along += g[j] * u[j];
    }
    if (!g) return value;
    for (int64_t j = 0; j < n; j++) {
        g[j] = g[j] / s - (std > 0 ? u[j] * along / (s * s * (double)(n - ddof) * std) : 0);
        mean += g[j] / (double)n;
    }
    for (int64_t j = 0; j < n; j++) g[j] -= mean;
    return value;
}

static kd_status plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)shared, (void)parts, (void)err;
    t->scratch = (size_t)(5 * t->n);
    return KD_OK;
}

static void describe(kd_buf *b, const kd__term *t) { kd__describe_scale(b, t, "KL(p'||q') of z-scores"); }

static double naive_row(const kd__term *t, const double *z, const double *teacher, int32_t label)
{
    double value = 0, *x = calloc((size_t)(2 * t->n), sizeof *x);
    if (!x) return NAN;
    (void)label;
    for (int k = 0; k < 2; k++) {
        const double *from = k ? teacher : z;
        double sum = 0, sq = 0, n = (double)t->n;
        for (int64_t j = 0; j < t->n; j++) sum += from[j];
        for (int64_t j = 0; j < t->n; j++) sq += pow(from[j] - sum / n, 2);
        for (int64_t j = 0; j < t->n; j++)
            x[k * t->n + j] = (from[j] - sum / n) / (t->k.eps + sqrt(sq / (n - (double)t->k.std_ddof)));
        kd__naive_softmax(x + k * t->n, x + k * t->n, t->n, t->T);
    }
    for (int64_t j = 0; j < t->n; j++) value += exp(x[t->n + j]) * (x[t->n + j] - x[j]);
    free(x);
    return value;
}

static double naive(const kd__term *t, const kd__view *v) { return kd__naive_rows(t, v, naive_row); }

const kd__objective kd__objective_lskd = {
    .pub = {.name = "lskd",
            .formula = "T^2/B sum_b KL(softmax(z'_t/T) || softmax(z'_s/T)), z' = (z - mean z)/(std z + eps)",
            .needs = KD_NEEDS_LOGITS,
            .serves = KD_LOSS_SOFTMAX,
            .keys = "temperature=2,t2=on,reduction=batch,std_ddof=1,eps=1e-7",
            .source = "Sun et al. 2024; logit-standardization-KD mdistiller/distillers/KD.py"},
    .plan = plan,
    .row = row,
    .factor = kd__class_scale,
    .describe = describe,
    .naive = naive,
};
