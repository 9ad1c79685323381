/* loss_fixture.h - slopes of the twins: how kernels' gradients are checked.
 *
 * A twin is the objective's formula in plain double; its slope in one of the student's numbers is taken by
 * a five-point difference, good to about 1e-10 of the loss's size. */
#ifndef LOSS_FIXTURE_H
#define LOSS_FIXTURE_H

#include "../../lib/loss/loss_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The view of one row, as part of the same batch. */
static inline kd__view one_row(const kd__term *t, const kd__view *v, int64_t r, kd_loss_sparse *sparse)
{
    kd__view w = *v;
    w.rows = 1;
    w.s += r * t->n;
    if (w.t) w.t += r * t->m;
    if (w.labels) w.labels += r;
    if (w.lengths) w.lengths += r;
    if (w.sparse) {
        *sparse = *w.sparse;
        sparse->offset += r;
        if (sparse->tail) sparse->tail += r * sparse->temperatures;
        if (sparse->logz) sparse->logz += r * sparse->temperatures;
        w.sparse = sparse;
    }
    return w;
}

/* d value / d number i of the student (of the teacher's embedding: teacher), unweighted. */
static inline double twin_slope(const kd__term *t, const kd__view *v, int64_t i, bool teacher)
{
    static const double at[4] = {-2, -1, 1, 2}, factor[4] = {1, -8, 8, -1};
    const double h = 1e-3;
    bool rows = t->o->row && !teacher;
    int64_t width = teacher ? t->m : t->n, n = rows ? width : v->rows * width;
    kd_loss_sparse sparse;
    kd__view w = rows ? one_row(t, v, i / width, &sparse) : *v;
    const float *from = teacher ? w.t : w.s;
    double *x = malloc((size_t)n * sizeof *x), sum = 0;
    for (int64_t k = 0; k < n; k++) x[k] = from[k];
    if (teacher)
        w.exact_t = x;
    else
        w.exact = x;
    int64_t k = rows ? i % width : i;
    for (int p = 0; p < 4; p++) {
        x[k] = from[k] + at[p] * h;
        sum += factor[p] * kd__naive(t, &w);
    }
    free(x);
    return sum / (12 * h);
}

/* d value of the mix / d logit i */
static inline double mix_slope(const kd_loss *l, const kd_loss_batch *b, int64_t i)
{
    double sum = 0;
    for (int k = 0; k < l->terms; k++) {
        kd__view v = kd__view_of(l, k, b);
        if (v.valid && kd__counts(&v, i / b->classes))
            sum += l->term[k].weight * twin_slope(&l->term[k], &v, i, false);
    }
    return sum;
}

#endif
