/* lib/eval/pairs.c - is a difference more than chance?
 *
 * Over seeds: the same student is trained with and without the teacher from the same seeds (same initial
 * weights, same batches), so the differences are paired and a t-test on them uses what pairing removes. With
 * three seeds the test has two degrees of freedom: it says "helped" only for differences that are large and
 * steady.
 *
 * Over rows: of two models that answer the same rows, only the rows that one of them alone gets right tell
 * them apart (McNemar 1947). If both are equally good these are fair coin tosses: exactly binomial, and by
 * chi-squared with Edwards' continuity correction where there are many.
 */
#include "eval_private.h"

#include <math.h>

/* Continued fraction of the incomplete beta function by the modified Lentz method (Press et al.,
 * Numerical Recipes, 3rd ed., section 6.4). */
static double beta_fraction(double a, double b, double x)
{
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (fabs(d) < tiny ? tiny : d);
    double h = d;
    for (int m = 1; m < 500; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        d = 1 + even * d;
        c = 1 + even / c;
        d = 1 / (fabs(d) < tiny ? tiny : d);
        c = fabs(c) < tiny ? tiny : c;
        h *= d * c;
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1 + odd * d;
        c = 1 + odd / c;
        d = 1 / (fabs(d) < tiny ? tiny : d);
        c = fabs(c) < tiny ? tiny : c;
        h *= d * c;
        if (fabs(d * c - 1) < 1e-15) break;
    }
    return h;
}

/* Regularised incomplete beta function I_x(a, b). */
static double beta_inc(double a, double b, double x)
{
    if (x <= 0) return 0;
    if (x >= 1) return 1;
    double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
    if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(a, b, x) / a;
    return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double kd_paired_t(const double *a, const double *b, size_t n, double *mean_diff)
{
    double mean = 0, ss = 0;
    for (size_t i = 0; i < n; i++) mean += a[i] - b[i];
    mean /= (double)(n ? n : 1);
    for (size_t i = 0; i < n; i++) ss += (a[i] - b[i] - mean) * (a[i] - b[i] - mean);
    if (mean_diff) *mean_diff = mean;
    if (n < 2) return 1;
    double df = (double)(n - 1), se = sqrt(ss / df / (double)n);
    if (se == 0) return mean == 0 ? 1 : 0;
    double t = mean / se;
    return beta_inc(df / 2, 0.5, df / (df + t * t)); /* two-sided tail of Student's t */
}

const char *kd_verdict(double p, double mean_diff)
{
    if (!(p < 0.05)) return "no difference";
    return mean_diff > 0 ? "helped" : "hurt";
}

kd_mcnemar kd_mcnemar_test(uint64_t only_a, uint64_t only_b)
{
    kd_mcnemar m = {.only_a = only_a, .only_b = only_b, .p_exact = 1, .p_chi2 = 1};
    const double n = (double)(only_a + only_b), less = (double)(only_a < only_b ? only_a : only_b);
    if (n == 0) return m;
    /* P(X <= k) of a binomial is an incomplete beta function; at k = n / 2 the two tails overlap. */
    m.p_exact = less == n - less ? 1 : fmin(1, 2 * beta_inc(n - less, less + 1, 0.5));
    const double gap = fmax(0, n - 2 * less - 1);
    m.chi2 = gap * gap / n;
    m.p_chi2 = erfc(sqrt(m.chi2 / 2));
    return m;
}

kd_mcnemar kd_mcnemar_rows(const kd_rows *r, const kd_answer *a, const kd_answer *b)
{
    uint64_t only_a = 0, only_b = 0;
    for (uint64_t i = 0; i < r->n; i++) {
        only_a += a[i].rank == 0 && b[i].rank != 0;
        only_b += a[i].rank != 0 && b[i].rank == 0;
    }
    return kd_mcnemar_test(only_a, only_b);
}

void kd_wilson(double share, uint64_t n, double *low, double *high)
{
    const double z = 1.959963984540054, m = (double)n; /* 97.5 % of the normal distribution */
    *low = *high = NAN;
    if (!n || !isfinite(share)) return;
    const double middle = share + z * z / (2 * m),
                 half = z * sqrt(share * (1 - share) / m + z * z / (4 * m * m)), scale = 1 + z * z / m;
    *low = fmax(0, (middle - half) / scale);
    *high = fmin(1, (middle + half) / scale);
}
