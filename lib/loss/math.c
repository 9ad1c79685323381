/* math.c - arithmetic that objectives share, and what twins need.
 *
 * A twin (naive) is the formula once more in plain C and double, written from the paper and not from the
 * kernel: separate code for the value only. Tests differentiate it numerically to check the kernel's
 * gradient.
 */
#include "loss_private.h"

#include <math.h>
#include <stdlib.h>

double kd__scale(const kd__term *t, int64_t valid, int64_t n)
{
    double scale = t->k.t2 ? t->T * t->T : 1;
    if (kd__is(t->k.reduction, "element")) scale /= (double)n;
    return scale / (double)valid;
}

double kd__class_scale(const kd__term *t, int64_t valid) { return kd__scale(t, valid, t->n); }

void kd__describe_scale(kd_buf *b, const kd__term *t, const char *inner)
{
    kd_buf_printf(b, "%s%s%s", t->k.t2 ? "T^2 " : "", inner,
                  kd__is(t->k.reduction, "element") ? "/(B C)" : "/B");
}

double kd__log_sum(const double *x, int64_t n)
{
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) max = fmax(max, x[i]);
    for (int64_t i = 0; i < n; i++) sum += exp(x[i] - max);
    return max + log(sum);
}

void kd__softmax_back(double *grad, const double *h, const double *q, int64_t n, double c)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += h[i];
    for (int64_t i = 0; i < n; i++) grad[i] += c * (h[i] - q[i] * sum);
}

double kd_loss_naive(const kd_loss *l, const kd_loss_batch *b)
{
    double value = 0;
    for (int i = 0; i < l->terms; i++) {
        kd__view v = kd__view_of(l, i, b);
        if (v.valid && l->term[i].weight > 0) value += l->term[i].weight * kd__naive(&l->term[i], &v);
    }
    return value;
}

/* ---- for twins ---------------------------------------------------------------------------- */

void kd__naive_softmax(double *logp, const double *z, int64_t n, double T)
{
    double max = -INFINITY, sum = 0;
    for (int64_t c = 0; c < n; c++) max = fmax(max, z[c] / T);
    for (int64_t c = 0; c < n; c++) sum += exp(z[c] / T - max);
    for (int64_t c = 0; c < n; c++) logp[c] = z[c] / T - max - log(sum);
}

double kd__naive_rows(const kd__term *t, const kd__view *v,
                      double (*row)(const kd__term *t, const double *s, const double *teacher, int32_t label))
{
    double sum = 0, *s = calloc((size_t)(t->n + t->m), sizeof *s);
    if (!s) return NAN;
    for (int64_t r = 0; r < v->rows; r++) {
        if (!kd__counts(v, r)) continue;
        for (int64_t i = 0; i < t->n; i++) s[i] = kd__s(v, r * t->n + i);
        for (int64_t i = 0; i < t->m && v->t; i++) s[t->n + i] = v->t[r * t->m + i];
        sum += kd__row_weight(t, v, r) * row(t, s, s + t->n, v->labels ? v->labels[r] : -1);
    }
    free(s);
    return sum * t->o->factor(t, v->valid);
}
