/* pkt.c - the batch as a distribution over neighbours.
 *
 *     c_ij = f_i . f_j / ((||f_i|| + eps)(||f_j|| + eps)), s = (c + 1) / 2, P = s with rows scaled to sum 1
 *     value  1/B^2 sum_ij P^t_ij log((P^t_ij + eps) / (P^s_ij + eps))
 *
 * Passalis and Tefas 2018, with the authors' code's diagonal and mean over all pairs. A
 * zero row has no direction: its slope is 0 (NaN in the reference).
 */
#include "relation.h"

#include <math.h>

/* s of one pair */
static double likeness(const double *g, int64_t n, int64_t i, int64_t j, double eps)
{
    return (g[i * n + j] / ((sqrt(g[i * n + i]) + eps) * (sqrt(g[j * n + j]) + eps)) + 1) / 2;
}

static void fill(kd__term *t, kd__pairs *x)
{
    const int64_t n = x->n;
    const double eps = t->k.eps, share = 1 / ((double)n * (double)n);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        double *s = x->a + i * n, *p = x->b + i * n, sums = 0, sum_t = 0, value = 0, along = 0;
        for (int64_t j = 0; j < n; j++) {
            sums += s[j] = likeness(x->gs, n, i, j, eps);
            sum_t += p[j] = likeness(x->gt, n, i, j, eps);
        }
        for (int64_t j = 0; j < n; j++) {
            double ps = s[j] / sums, pt = p[j] / sum_t;
            value += share * pt * log((pt + eps) / (ps + eps));
            p[j] = -share * pt / (ps + eps); // slope in P^s
            along += p[j] * ps;
        }
        t->partial[i] = value;
        for (int64_t j = 0; j < n; j++) s[j] = (p[j] - along) / sums / 2; // slope in c
    }
    if (!x->slopes) return;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        double ni = sqrt(x->gs[i * n + i]), through_norm = 0;
        for (int64_t j = 0; j < n; j++) {
            double c = x->a[i * n + j] + x->a[j * n + i], nj = sqrt(x->gs[j * n + j]);
            x->k[i * n + j] = ni > 0 ? c / ((ni + eps) * (nj + eps)) : 0;
            through_norm += c * x->gs[i * n + j] / ((ni + eps) * (nj + eps));
        }
        if (ni > 0) x->k[i * n + i] -= through_norm / (ni * (ni + eps));
    }
}

static void run(kd__term *t, const kd__view *v) { kd__relation_run(t, v, fill); }

static void describe(kd_buf *b, const kd__term *t)
{
    (void)t;
    kd_buf_puts(b, "P_t log(P_t/P_s)/B^2");
}

static double naive(const kd__term *t, const kd__view *v)
{
    double value = 0, n = (double)v->rows;
    for (int64_t i = 0; i < v->rows; i++) {
        double sum[2] = {0, 0};
        for (int pass = 0; pass < 2; pass++)
            for (int64_t j = 0; j < v->rows; j++) {
                double s[2];
                for (int model = 0; model < 2; model++) {
                    double ni = sqrt(kd__naive_dot(t, v, model, i, i)),
                           nj = sqrt(kd__naive_dot(t, v, model, j, j));
                    s[model] = (kd__naive_dot(t, v, model, i, j) / (ni + t->k.eps) / (nj + t->k.eps) + 1) / 2;
                    if (!pass) sum[model] += s[model];
                }
                double pt = s[1] / sum[1];
                if (pass) value += pt * log((pt + t->k.eps) / (s[0] / sum[0] + t->k.eps));
            }
    }
    return value / (n * n);
}

const kd__objective kd__objective_pkt = {
    .pub = {.name = "pkt",
            .formula =
                "1/B^2 sum P^t log((P^t + eps)/(P^s + eps)), P: (cosine + 1)/2 with rows scaled to sum 1",
            .needs = KD_NEEDS_FEATURES,
            .serves = KD_LOSS_VALUES,
            .keys = "tap=,feature=,eps=1e-7,prefixes=",
            .source = "Passalis and Tefas 2018; RepDistiller distiller_zoo/PKT.py"},
    .plan = kd__relation_plan,
    .run = run,
    .describe = describe,
    .naive = naive,
};
