/* similarity.c - sp: which samples of a batch excite the same features.
 *
 *     G = F F^T, each row scaled to norm 1 (at least eps): G^
 *     value  1/B^2 sum (G^_t - G^_s)^2
 *
 * Tung and Mori 2019. torchdistill scales rows by their sum of absolute values (row_norm:
 * 1). With D = 2 (G^_s - G^_t) / B^2 a row's slope is (D - G^ (D . G^)) / norm, and K is its matrix plus its
 * transpose. A zero row has no direction: slope 0.
 */
#include "relation.h"

#include <math.h>

static double norm(const double *g, int64_t n, int64_t p)
{
    double sum = 0;
    for (int64_t j = 0; j < n; j++) sum += p == 1 ? fabs(g[j]) : g[j] * g[j];
    return p == 1 ? sum : sqrt(sum);
}

static void fill(kd__term *t, kd__pairs *x)
{
    const int64_t n = x->n, p = t->k.row_norm;
    const double share = 1 / ((double)n * (double)n);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const double *gs = x->gs + i * n, *gt = x->gt + i * n;
        double length = norm(gs, n, p), ns = fmax(length, t->k.eps), nt = fmax(norm(gt, n, p), t->k.eps),
               value = 0, along = 0, *slope = x->a + i * n;
        for (int64_t j = 0; j < n; j++) {
            double d = gs[j] / ns - gt[j] / nt;
            value += share * d * d;
            slope[j] = 2 * share * d;
            along += slope[j] * gs[j] / ns;
        }
        t->partial[i] = value;
        for (int64_t j = 0; j < n; j++) {
            double unit = p == 1 ? (double)((gs[j] > 0) - (gs[j] < 0)) : gs[j] / ns;
            slope[j] = length > t->k.eps ? (slope[j] - unit * along) / ns : 0;
        }
    }
    if (!x->slopes) return;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) x->k[i * n + j] = x->a[i * n + j] + x->a[j * n + i];
}

static void run(kd__term *t, const kd__view *v) { kd__relation_run(t, v, fill); }

static void describe(kd_buf *b, const kd__term *t)
{
    kd_buf_printf(b, "||G_t - G_s||^2/B^2, rows by L%lld", (long long)t->k.row_norm);
}

static double naive(const kd__term *t, const kd__view *v)
{
    double value = 0, n = (double)v->rows;
    for (int64_t i = 0; i < v->rows; i++) {
        double length[2] = {0, 0};
        for (int model = 0; model < 2; model++) {
            for (int64_t j = 0; j < v->rows; j++)
                length[model] += pow(fabs(kd__naive_dot(t, v, model, i, j)), (double)t->k.row_norm);
            length[model] = fmax(t->k.row_norm == 2 ? sqrt(length[model]) : length[model], t->k.eps);
        }
        for (int64_t j = 0; j < v->rows; j++)
            value +=
                pow(kd__naive_dot(t, v, 0, i, j) / length[0] - kd__naive_dot(t, v, 1, i, j) / length[1], 2);
    }
    return value / (n * n);
}

const kd__objective kd__objective_sp = {
    .pub = {.name = "sp",
            .formula = "1/B^2 sum ||G^_t - G^_s||^2, G^ = F F^T with rows scaled to norm 1 (key row_norm)",
            .needs = KD_NEEDS_FEATURES,
            .serves = KD_LOSS_VALUES,
            .keys = "tap=,feature=,row_norm=2,eps=1e-12,prefixes=",
            .source = "Tung and Mori 2019; RepDistiller distiller_zoo/SP.py"},
    .plan = kd__relation_plan,
    .run = run,
    .describe = describe,
    .naive = naive,
};
