/* principal.c - orthogonal directions of many vectors, and what is done with directions.
 *
 * Directions are rows. The principal ones come by subspace iteration, which needs products with a symmetric
 * matrix alone; a small matrix is made diagonal by Jacobi's rotations (Golub and Van Loan, Matrix
 * Computations, section 8.5). All in f64, on one thread, in a fixed order.
 */
#include "model_private.h"

#include <math.h>
#include <string.h>

enum { ROUNDS = 20 /* to the principal directions */, SWEEPS = 12 /* at most, to a diagonal matrix */ };

/* Sums are written this way round because compilers make vectors of it and not of x y. */
void kd__add_times(double *y, const double *x, double a, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] += a * x[i];
}

/* Rows of q (r, d) to length 1 and orthogonal, each to those before it. */
static void orthonormal(double *q, size_t d, size_t r)
{
    for (size_t j = 0; j < r; j++) {
        double *a = q + j * d, square = 0;
        for (int twice = 0; twice < 2; twice++)
            for (size_t k = 0; k < j; k++) {
                const double *b = q + k * d;
                double dot = 0;
                for (size_t i = 0; i < d; i++) dot += a[i] * b[i];
                kd__add_times(a, b, -dot, d);
            }
        for (size_t i = 0; i < d; i++) square += a[i] * a[i];
        for (size_t i = 0; i < d && square > 0; i++) a[i] /= sqrt(square);
    }
}

void kd__principal(double *q, double *next, const double *c, size_t d, size_t r)
{
    for (size_t j = 0; j < r; j++) memcpy(q + j * d, c + j * d, d * sizeof *q);
    for (int round = 0; round < ROUNDS; round++) {
        orthonormal(q, d, r);
        memset(next, 0, r * d * sizeof *next);
        for (size_t j = 0; j < r; j++)
            for (size_t k = 0; k < d; k++) kd__add_times(next + j * d, c + k * d, q[j * d + k], d);
        memcpy(q, next, r * d * sizeof *q);
    }
    orthonormal(q, d, r);
}

/* Rows p and q of a (n, n) turned by the angle whose cosine and sine these are. */
static void turn(double *p, double *q, double c, double s, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        const double x = p[k], y = q[k];
        p[k] = c * x - s * y;
        q[k] = s * x + c * y;
    }
}

static double off_diagonal(const double *a, size_t n)
{
    double sum = 0;
    for (size_t p = 0; p < n; p++)
        for (size_t q = 0; q < p; q++) sum += a[p * n + q] * a[p * n + q];
    return sum;
}

void kd__diagonal(double *v, double *a, size_t n)
{
    double all = 0;
    memset(v, 0, n * n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i * n + i] = 1;
    for (size_t i = 0; i < n * n; i++) all += a[i] * a[i];
    for (int sweep = 0; sweep < SWEEPS && off_diagonal(a, n) > 1e-24 * all; sweep++)
        for (size_t p = 0; p < n; p++)
            for (size_t q = p + 1; q < n; q++) {
                const double apq = a[p * n + q];
                if (apq * apq <= 1e-30 * all) continue;
                const double theta = (a[q * n + q] - a[p * n + p]) / (2 * apq),
                             t = copysign(1 / (fabs(theta) + sqrt(theta * theta + 1)), theta),
                             c = 1 / sqrt(t * t + 1), s = t * c;
                turn(a + p * n, a + q * n, c, s, n);
                turn(v + p * n, v + q * n, c, s, n);
                for (size_t k = 0; k < n; k++) { // and columns
                    const double x = a[k * n + p], y = a[k * n + q];
                    a[k * n + p] = c * x - s * y;
                    a[k * n + q] = s * x + c * y;
                }
            }
}
