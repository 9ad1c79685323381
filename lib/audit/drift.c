/* drift.c - how far two samples are apart: chi-square, and the population stability index.
 *
 * Chi-square says whether a difference of counts can be chance; with many rows the smallest one cannot, so
 * the index, which does not grow with the number of rows, says whether it matters. It is the symmetric
 * Kullback-Leibler divergence of the two distributions (Jeffreys), with the rule of thumb of credit scoring:
 * below 0.1 none, to 0.25 some, above a large shift.
 *
 * The tail of the chi-square distribution is the regularised incomplete gamma function Q(a, x): a series
 * below x = a + 1, Lentz's continued fraction above (Press et al., Numerical Recipes, section 6.2).
 */
#include "kd/audit.h"

#include <math.h>

#define STEPS 1000
#define TINY  1e-300

/* P(a, x) by its series. */
static double gamma_series(double a, double x)
{
    double term = 1 / a, sum = term;
    for (int n = 1; n < STEPS && term > sum * 1e-16; n++) sum += term *= x / (a + n);
    return sum * exp(-x + a * log(x) - lgamma(a));
}

/* Q(a, x) by its continued fraction. */
static double gamma_fraction(double a, double x)
{
    double b = x + 1 - a, c = 1 / TINY, d = 1 / b, h = d;
    for (int i = 1; i < STEPS; i++) {
        const double an = -i * (i - a);
        b += 2;
        d = an * d + b;
        if (fabs(d) < TINY) d = TINY;
        c = b + an / c;
        if (fabs(c) < TINY) c = TINY;
        d = 1 / d;
        h *= d * c;
        if (fabs(d * c - 1) < 1e-15) break;
    }
    return h * exp(-x + a * log(x) - lgamma(a));
}

double kd_chi_square_tail(double x, double dof)
{
    const double a = dof / 2, h = x / 2;
    if (!(h > 0) || !(a > 0)) return 1;
    return h < a + 1 ? 1 - gamma_series(a, h) : gamma_fraction(a, h);
}

double kd_chi_square(const uint64_t *a, const uint64_t *b, size_t n, double *p)
{
    double na = 0, nb = 0, x = 0;
    size_t used = 0;
    for (size_t i = 0; i < n; i++) na += (double)a[i], nb += (double)b[i];
    for (size_t i = 0; i < n && na > 0 && nb > 0; i++) {
        const double both = (double)a[i] + (double)b[i];
        if (both == 0) continue;
        const double ea = both * na / (na + nb), eb = both * nb / (na + nb);
        x += ((double)a[i] - ea) * ((double)a[i] - ea) / ea + ((double)b[i] - eb) * ((double)b[i] - eb) / eb;
        used++;
    }
    *p = used > 1 ? kd_chi_square_tail(x, (double)used - 1) : 1;
    return x;
}

double kd_psi(const uint64_t *a, const uint64_t *b, size_t n)
{
    double na = 0, nb = 0, psi = 0;
    for (size_t i = 0; i < n; i++) na += (double)a[i] + 0.5, nb += (double)b[i] + 0.5;
    for (size_t i = 0; i < n; i++) {
        const double pa = ((double)a[i] + 0.5) / na, pb = ((double)b[i] + 0.5) / nb;
        psi += (pb - pa) * log(pb / pa);
    }
    return psi;
}
