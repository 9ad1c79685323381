/* relation.h - objectives over all pairs of a batch.
 *
 * rkd, sp and pkt see features only through inner products. So each takes the Gram matrices of student and
 * teacher and returns its value by rows and a matrix K with d value / d E = K E; making the first and
 * applying the last is the same for all. Matrices are (B, B) in double; a row of one is made by one thread.
 */
#ifndef KD_LOSS_RELATION_H
#define KD_LOSS_RELATION_H

#include "loss_private.h"

typedef struct kd__pairs {
    int64_t n;         /* rows of the batch */
    double *gs, *gt;   /* Gram matrices */
    double *k;         /* receives K */
    double *a, *b, *u; /* (B, B) and (2 B + 2): to be used */
    bool slopes;       /* K is wanted */
} kd__pairs;

/* By the whole team: fill writes t->partial[0 .. n) and K; t->factor is 1. */
void kd__relation_run(kd__term *t, const kd__view *v, void (*fill)(kd__term *t, kd__pairs *x));
kd_status kd__relation_plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err);

/* For twins: inner product, squared distance of rows i and j of student (model 0) or teacher. */
double kd__naive_dot(const kd__term *t, const kd__view *v, int model, int64_t i, int64_t j);
double kd__naive_gap(const kd__term *t, const kd__view *v, int model, int64_t i, int64_t j);
double kd__smooth_l1(double x); /* x^2/2 to |x| = 1, then |x| - 1/2 */

#endif
