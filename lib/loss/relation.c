/* relation.c - Gram matrices of a batch, and the way back from them to features. */
#include "relation.h"

#include <math.h>
#include <omp.h>

double kd__smooth_l1(double x) { return fabs(x) < 1 ? 0.5 * x * x : fabs(x) - 0.5; }

kd_status kd__relation_plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)parts, (void)err;
    size_t n = (size_t)t->max_rows;
    *shared = 5 * n * n + 2 * n + 2;
    t->scratch = (size_t)t->n;
    return KD_OK;
}

/* Row i of both, up to the diagonal, and the same numbers above it. */
static void gram(const kd__term *t, const kd__view *v, kd__pairs *x)
{
#pragma omp for schedule(static, 1)
    for (int64_t i = 0; i < x->n; i++)
        for (int64_t j = 0; j <= i; j++) {
            x->gs[i * x->n + j] = x->gs[j * x->n + i] = t->vec->dot(v->s + i * t->n, v->s + j * t->n, t->n);
            x->gt[i * x->n + j] = x->gt[j * x->n + i] = t->vec->dot(v->t + i * t->m, v->t + j * t->m, t->m);
        }
}

void kd__relation_run(kd__term *t, const kd__view *v, void (*fill)(kd__term *t, kd__pairs *x))
{
    size_t n = (size_t)v->rows, square = n * n;
    double *at = t->shared, *row = t->thread_scratch + (size_t)omp_get_thread_num() * t->scratch_step;
    kd__pairs x = {v->rows,         at,   at + square, at + 2 * square, at + 3 * square, at + 4 * square,
                   at + 5 * square, v->ds};
#pragma omp single nowait
    {
        t->parts = v->rows;
        t->factor = 1;
    }
    gram(t, v, &x);
    fill(t, &x);
    if (!v->ds) return;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < x.n; i++) {
        for (int64_t k = 0; k < t->n; k++) row[k] = 0;
        for (int64_t j = 0; j < x.n; j++)
            if (x.k[i * x.n + j] != 0) t->vec->add(row, v->s + j * t->n, x.k[i * x.n + j], t->n);
        for (int64_t k = 0; k < t->n; k++) v->ds[i * t->n + k] += (float)(t->weight * row[k]);
    }
}

double kd__naive_dot(const kd__term *t, const kd__view *v, int model, int64_t i, int64_t j)
{
    double sum = 0;
    int64_t n = model ? t->m : t->n;
    for (int64_t k = 0; k < n; k++)
        sum += model ? (double)v->t[i * n + k] * v->t[j * n + k] : kd__s(v, i * n + k) * kd__s(v, j * n + k);
    return sum;
}

double kd__naive_gap(const kd__term *t, const kd__view *v, int model, int64_t i, int64_t j)
{
    double sum = 0;
    int64_t n = model ? t->m : t->n;
    for (int64_t k = 0; k < n; k++)
        sum += model ? pow((double)v->t[i * n + k] - v->t[j * n + k], 2)
                     : pow(kd__s(v, i * n + k) - kd__s(v, j * n + k), 2);
    return sum;
}
