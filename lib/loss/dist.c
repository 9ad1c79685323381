/* dist.c - correlation instead of equality: by rows and by columns of a batch.
 *
 *     y = softmax(z / T); rho: Pearson's correlation
 *     value  T^2 (beta (1 - mean_b rho(y_s[b,:], y_t[b,:])) + gamma (1 - mean_c rho(y_s[:,c], y_t[:,c])))
 *
 * Huang et al. 2022; T (their tau) and T^2 as in their later code. What keeps the division
 * from 0 differs between implementations: eps added to the product of the norms, or each norm at least eps
 * (eps_mode).
 *
 * Three passes over a fixed grid: blocks of rows make the softmaxes and the row terms, blocks of columns
 * the column terms, blocks of rows lead the gradient back through the softmax. A batch of one row has columns
 * without a spread: their term is gamma and its gradient 0.
 */
#include "loss_private.h"

#include <math.h>
#include <stdlib.h>

/* 1 - rho of two vectors of n numbers, `stride` apart, skipping what does not count; adds c d(1 - rho)/da to
 * g. */
static double decorrelation(const kd__term *t, const kd__view *v, const double *a, const double *b, double *g,
                            int64_t n, int64_t stride, bool rows, double c)
{
    double mean_a = 0, mean_b = 0, aa = 0, bb = 0, ab = 0, count = 0, eps = t->k.eps;
    for (int64_t i = 0; i < n; i++) {
        if (rows && !kd__counts(v, i)) continue;
        mean_a += a[i * stride], mean_b += b[i * stride], count += 1;
    }
    mean_a /= count, mean_b /= count;
    for (int64_t i = 0; i < n; i++) {
        if (rows && !kd__counts(v, i)) continue;
        double x = a[i * stride] - mean_a, y = b[i * stride] - mean_b;
        aa += x * x, bb += y * y, ab += x * y;
    }
    double na = sqrt(aa), nb = sqrt(bb), by_b, by_a; // d rho / dx = by_b y - by_a x
    bool floor = kd__is(t->k.eps_mode, "floor");
    double fa = fmax(na, eps), fb = fmax(nb, eps), divisor = floor ? fa * fb : na * nb + eps,
           rho = ab / divisor;
    by_b = 1 / divisor;
    if (floor)
        by_a = na > eps ? rho / aa : 0;
    else
        by_a = na > 0 ? rho * nb / (divisor * na) : 0;
    for (int64_t i = 0; g && i < n; i++) {
        if (rows && !kd__counts(v, i)) continue;
        g[i * stride] -= c * (by_b * (b[i * stride] - mean_b) - by_a * (a[i * stride] - mean_a));
    }
    return 1 - rho;
}

static void run(kd__term *t, const kd__view *v)
{
    const int64_t R = KD__LOSS_ROWS, C = t->n, rows = v->rows, row_blocks = (rows + R - 1) / R,
                  column_blocks = (C + R - 1) / R, all = t->max_rows * C;
    double *ys = t->shared, *yt = ys + all, *dy = yt + all; // (rows, C): softmaxes, d value / d ys
    double scale = t->k.t2 ? t->T * t->T : 1, by_row = scale * t->k.beta / (double)v->valid,
           by_column = scale * t->k.gamma / (double)C;
#pragma omp single nowait
    {
        t->parts = row_blocks + column_blocks;
        t->factor = 1;
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < row_blocks; i++) {
        double sum = 0;
        for (int64_t r = i * R; r < rows && r < (i + 1) * R; r++) {
            double *s = ys + r * C, *p = yt + r * C, *g = dy + r * C;
            if (!kd__counts(v, r)) continue;
            t->vec->softmax(g, s, v->s + r * C, C, 1 / t->T);
            t->vec->softmax(g, p, v->t + r * C, C, 1 / t->T);
            for (int64_t c = 0; c < C; c++) g[c] = 0;
            sum += by_row * decorrelation(t, v, s, p, g, C, 1, false, by_row);
        }
        t->partial[i] = sum;
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < column_blocks; i++) {
        double sum = 0;
        for (int64_t c = i * R; c < C && c < (i + 1) * R; c++)
            sum += by_column * decorrelation(t, v, ys + c, yt + c, dy + c, rows, C, true, by_column);
        t->partial[row_blocks + i] = sum;
    }
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const double *s = ys + r * C, *g = dy + r * C;
        double mean = 0;
        if (!v->ds || !kd__counts(v, r)) continue;
        for (int64_t c = 0; c < C; c++) mean += s[c] * g[c];
        for (int64_t c = 0; c < C; c++) v->ds[r * C + c] += (float)(t->weight / t->T * s[c] * (g[c] - mean));
    }
}

static kd_status plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)err;
    *shared = 3 * (size_t)t->max_rows * (size_t)t->n;
    *parts = ((size_t)t->max_rows + (size_t)t->n) / KD__LOSS_ROWS + 2;
    return KD_OK;
}

static void describe(kd_buf *b, const kd__term *t)
{
    kd_buf_printf(b, "%s(%g (1 - rho rows) + %g (1 - rho columns), eps %s %g)", t->k.t2 ? "T^2 " : "",
                  t->k.beta, t->k.gamma, t->k.eps_mode, t->k.eps);
}

static double naive_rho(const kd__term *t, const double *a, const double *b, int64_t n, int64_t stride)
{
    double sa = 0, sb = 0, aa = 0, bb = 0, ab = 0, e = t->k.eps;
    for (int64_t i = 0; i < n; i++) sa += a[i * stride] / (double)n, sb += b[i * stride] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        aa += pow(a[i * stride] - sa, 2);
        bb += pow(b[i * stride] - sb, 2);
        ab += (a[i * stride] - sa) * (b[i * stride] - sb);
    }
    return kd__is(t->k.eps_mode, "add") ? ab / (sqrt(aa) * sqrt(bb) + e)
                                        : ab / (fmax(sqrt(aa), e) * fmax(sqrt(bb), e));
}

static double naive(const kd__term *t, const kd__view *v)
{
    int64_t C = t->n, n = 0;
    double *s = calloc((size_t)(3 * v->rows * C), sizeof *s), *p = s + v->rows * C, *z = p + v->rows * C,
           inter = 0, intra = 0;
    if (!s) return NAN;
    for (int64_t r = 0; r < v->rows; r++) {
        if (!kd__counts(v, r)) continue;
        for (int64_t c = 0; c < C; c++) z[c] = kd__s(v, r * C + c);
        kd__naive_softmax(s + n * C, z, C, t->T);
        for (int64_t c = 0; c < C; c++) z[c] = v->t[r * C + c];
        kd__naive_softmax(p + n * C, z, C, t->T);
        n++;
    }
    for (int64_t i = 0; i < 2 * v->rows * C; i++) s[i] = exp(s[i]);
    for (int64_t r = 0; r < n; r++) inter += (1 - naive_rho(t, s + r * C, p + r * C, C, 1)) / (double)n;
    for (int64_t c = 0; c < C; c++) intra += (1 - naive_rho(t, s + c, p + c, n, C)) / (double)C;
    free(s);
    return (t->k.t2 ? t->T * t->T : 1) * (t->k.beta * inter + t->k.gamma * intra);
}

const kd__objective kd__objective_dist = {
    .pub = {.name = "dist",
            .formula =
                "T^2 (beta (1 - mean_b rho of rows) + gamma (1 - mean_c rho of columns)), rho: Pearson of "
                "softmax(z/T)",
            .needs = KD_NEEDS_LOGITS,
            .serves = KD_LOSS_SOFTMAX,
            .keys = "temperature=1,t2=on,beta=1,gamma=1,eps=1e-8,eps_mode=add",
            .source = "Huang et al. 2022; DIST_KD segmentation/losses/dist_kd.py"},
    .plan = plan,
    .run = run,
    .describe = describe,
    .naive = naive,
};
