/* sparse.h - a row of sparse targets, by a term's convention. */
#ifndef KD_LOSS_SPARSE_H
#define KD_LOSS_SPARSE_H

#include "loss_private.h"

typedef struct kd__targets_of {
    size_t n;
    const uint32_t *id;
    const float *value;
    double rest; /* tail mass */
} kd__targets_of;
/* The teacher of a row over its kept classes: p, logp: (K) at T, by the term's convention. */
kd__targets_of kd__sparse_teacher(const kd__term *t, const kd_loss_sparse *s, int64_t row, double *p,
                                  double *logp);
bool kd__sparse_by_power(const kd__term *t); /* bucket with DistillKit's rule for the rest */

#endif
