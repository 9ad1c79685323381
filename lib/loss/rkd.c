/* rkd.c - rkd_distance, rkd_angle: how samples lie to each other (Park et al. 2019, section 3.2).
 *
 *     d_ij = ||e_i - e_j||, at least sqrt(eps), 0 on the diagonal; l: smooth L1 with threshold 1
 *     c_ijk: cosine of the angle at i between j and k
 *     rkd_distance  1/B^2 sum_ij l(d^s_ij / mean d^s - d^t_ij / mean d^t)
 *     rkd_angle     1/B^3 sum_ijk l(c^s_ijk - c^t_ijk)
 *
 * As in the authors' code the means run over all entries, diagonal and degenerate triplets included, the mean
 * distance is that of the positive entries, and the student's part of the gradient goes through it.
 *
 * Angles come from inner products, c_ijk = (G_jk - G_ij - G_ik + G_ii) / (d_ij d_ik), so the work is B^3 and
 * not B^3 D. Two equal samples have no direction: their cosines and slopes are 0 (the reference divides by
 * 1e-12). A batch of one has no pairs: value and gradient are 0.
 */
#include "relation.h"

#include <math.h>

static double clamp(double x) { return x < -1 ? -1 : x > 1 ? 1 : x; }

static double squared(const double *g, int64_t n, int64_t i, int64_t j)
{
    return g[i * n + i] + g[j * n + j] - 2 * g[i * n + j];
}

/* ---- distance ----------------------------------------------------------------------------- */

/* NaN stays, which fmax would hide. */
static double distance(double squared, double eps) { return sqrt(squared < eps ? eps : squared); }

static double total(const double *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum;
}

/* a, b: distances of student and teacher; u: their sums by row. */
static void distances(const kd__term *t, kd__pairs *x)
{
    const int64_t n = x->n;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        double ss = 0, st = 0;
        for (int64_t j = 0; j < n; j++) {
            ss += x->a[i * n + j] = i == j ? 0 : distance(squared(x->gs, n, i, j), t->k.eps);
            st += x->b[i * n + j] = i == j ? 0 : distance(squared(x->gt, n, i, j), t->k.eps);
        }
        x->u[i] = ss;
        x->u[n + i] = st;
    }
}

static void fill_distance(kd__term *t, kd__pairs *x)
{
    const int64_t n = x->n;
    const double pairs = (double)(n * (n - 1)), share = 1 / (double)(n * n);
    distances(t, x);
    double ms = n > 1 ? total(x->u, n) / pairs : 1, mt = n > 1 ? total(x->u + n, n) / pairs : 1;
#pragma omp barrier // u is read by all before it is used again
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        double value = 0, along = 0;
        for (int64_t j = 0; j < n; j++) {
            double e = x->a[i * n + j] / ms - x->b[i * n + j] / mt;
            value += share * kd__smooth_l1(e);
            x->k[i * n + j] = share * clamp(e);
            along += x->k[i * n + j] * x->a[i * n + j];
        }
        t->partial[i] = value;
        x->u[i] = along;
    }
    if (!x->slopes) return;
    double through_mean = n > 1 ? total(x->u, n) / (ms * ms * pairs) : 0;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        double diagonal = 0;
        for (int64_t j = 0; j < n; j++) {
            double c = x->k[i * n + j] / ms - through_mean;
            bool moves = i != j && squared(x->gs, n, i, j) > t->k.eps;
            x->k[i * n + j] = moves ? -2 * c / x->a[i * n + j] : 0;
            diagonal -= x->k[i * n + j];
        }
        x->k[i * n + i] = diagonal;
    }
}

static void run_distance(kd__term *t, const kd__view *v) { kd__relation_run(t, v, fill_distance); }

static void describe_distance(kd_buf *b, const kd__term *t)
{
    (void)t;
    kd_buf_puts(b, "smoothL1(d_s/mean d_s - d_t/mean d_t)/B^2");
}

static double naive_distance(const kd__term *t, const kd__view *v)
{
    int64_t n = v->rows;
    double mean[2] = {0, 0}, value = 0;
    if (n < 2) return 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                double ds = i == j ? 0 : sqrt(fmax(kd__naive_gap(t, v, 0, i, j), t->k.eps));
                double dt = i == j ? 0 : sqrt(fmax(kd__naive_gap(t, v, 1, i, j), t->k.eps));
                if (!pass)
                    mean[0] += ds / (double)(n * (n - 1)), mean[1] += dt / (double)(n * (n - 1));
                else
                    value += kd__smooth_l1(ds / mean[0] - dt / mean[1]);
            }
    return value / (double)(n * n);
}

const kd__objective kd__objective_rkd_distance = {
    .pub = {.name = "rkd_distance",
            .formula = "1/B^2 sum_ij smoothL1(d^s_ij/mean d^s - d^t_ij/mean d^t), d_ij = ||f_i - f_j||",
            .needs = KD_NEEDS_FEATURES,
            .serves = KD_LOSS_VALUES,
            .keys = "tap=,feature=,eps=1e-12,prefixes=",
            .source = "Park et al. 2019, section 3.2; RepDistiller distiller_zoo/RKD.py"},
    .plan = kd__relation_plan,
    .run = run_distance,
    .describe = describe_distance,
    .naive = naive_distance,
};

/* ---- angle -------------------------------------------------------------------------------- */

/* 1 / d_ij, 0 where two rows are equal but for rounding. */
static double inverse(const double *g, int64_t n, int64_t i, int64_t j)
{
    double d2 = squared(g, n, i, j);
    return i != j && d2 > 1e-14 * (g[i * n + i] + g[j * n + j]) ? 1 / sqrt(d2) : 0;
}

static kd__angle angle(const double *g, const double *inv, int64_t n, int64_t i, int64_t j)
{
    return (kd__angle){g + j * n, g + i * n, inv + i * n, g[i * n + j], g[i * n + i], inv[i * n + j]};
}

/* All triplets that have j as their second: row j of M (in k), column j of s and w. */
static double triplets(const kd__term *t, const kd__pairs *x, int64_t j, double share, double *s, double *w)
{
    const int64_t n = x->n;
    double value = 0;
    for (int64_t k = 0; k < n; k++) x->k[j * n + k] = 0;
    for (int64_t i = 0; i < n; i++) {
        kd__angle student = angle(x->gs, x->a, n, i, j), teacher = angle(x->gt, x->b, n, i, j);
        double sums[3] = {0};
        t->vec->angles(&student, &teacher, share, x->k + j * n, n, sums);
        value += sums[0];
        s[i * n + j] = sums[1];
        w[i * n + j] = sums[2] * student.ij * student.ij;
    }
    return value;
}

static void fill_angle(kd__term *t, kd__pairs *x)
{
    const int64_t n = x->n;
    const double share = 1 / ((double)n * (double)n * (double)n);
    double *s = x->u + 2 * t->max_rows + 2, *w = s + n * n;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            x->a[i * n + j] = inverse(x->gs, n, i, j);
            x->b[i * n + j] = inverse(x->gt, n, i, j);
        }
#pragma omp for schedule(static)
    for (int64_t j = 0; j < n; j++) t->partial[j] = triplets(t, x, j, share, s, w);
    if (!x->slopes) return;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        double diagonal = 2 * x->k[i * n + i];
        for (int64_t j = 0; j < n; j++) {
            double by_length = 2 * (w[i * n + j] + w[j * n + i]);
            x->k[i * n + j] = 2 * x->k[i * n + j] - 2 * (s[i * n + j] + s[j * n + i]) + by_length;
            diagonal += 2 * s[i * n + j] - by_length;
        }
        x->k[i * n + i] = diagonal;
    }
}

static void run_angle(kd__term *t, const kd__view *v) { kd__relation_run(t, v, fill_angle); }

static kd_status plan_angle(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    kd_status st = kd__relation_plan(t, shared, parts, err);
    *shared += 2 * (size_t)t->max_rows * (size_t)t->max_rows;
    return st;
}

static void describe_angle(kd_buf *b, const kd__term *t)
{
    (void)t;
    kd_buf_puts(b, "smoothL1(cos_s - cos_t)/B^3");
}

/* Cosine of the angle at i between j and k, from unit vectors. */
static double naive_cosine(const kd__term *t, const kd__view *v, int model, int64_t i, int64_t j, int64_t k)
{
    double dj = sqrt(kd__naive_gap(t, v, model, i, j)), dk = sqrt(kd__naive_gap(t, v, model, i, k)), sum = 0;
    int64_t n = model ? t->m : t->n;
    if (dj == 0 || dk == 0) return 0;
    for (int64_t c = 0; c < n; c++) {
        double at = model ? v->t[i * n + c] : kd__s(v, i * n + c),
               to_j = model ? v->t[j * n + c] : kd__s(v, j * n + c),
               to_k = model ? v->t[k * n + c] : kd__s(v, k * n + c);
        sum += (to_j - at) / dj * (to_k - at) / dk;
    }
    return sum;
}

static double naive_angle(const kd__term *t, const kd__view *v)
{
    double value = 0, n = (double)v->rows;
    for (int64_t i = 0; i < v->rows; i++)
        for (int64_t j = 0; j < v->rows; j++)
            for (int64_t k = 0; k < v->rows; k++)
                value += kd__smooth_l1(naive_cosine(t, v, 0, i, j, k) - naive_cosine(t, v, 1, i, j, k));
    return value / (n * n * n);
}

const kd__objective kd__objective_rkd_angle = {
    .pub = {.name = "rkd_angle",
            .formula =
                "1/B^3 sum_ijk smoothL1(cos^s_ijk - cos^t_ijk), cos_ijk: of the angle at i between j and k",
            .needs = KD_NEEDS_FEATURES,
            .serves = KD_LOSS_VALUES,
            .keys = "tap=,feature=,prefixes=",
            .source = "Park et al. 2019, section 3.2; RepDistiller distiller_zoo/RKD.py"},
    .plan = plan_angle,
    .run = run_angle,
    .describe = describe_angle,
    .naive = naive_angle,
};
