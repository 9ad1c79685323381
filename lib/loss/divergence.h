/* divergence.h - distances of two distributions, shared by dense and sparse targets. */
#ifndef KD_LOSS_DIVERGENCE_H
#define KD_LOSS_DIVERGENCE_H

#include "loss_private.h"

/* p, q: (n) teacher and student with their logarithms; p = 0 has the logarithm -INFINITY. Returns the value
 * and writes h_j = q_j d value / d q_j: kd__softmax_back leads from there to logits. */
typedef double kd__divergence(const kd__term *t, int64_t n, const double *p, const double *logp,
                              const double *q, const double *logq, double *h);
kd__divergence kd__forward_kl, kd__reverse_kl, kd__jsd, kd__tvd;
kd_status kd__check_beta(kd__term *t, kd_err *err); /* a share */
/* The same from logarithms alone, in plain C, for twins. */
double kd__naive_forward_kl(const kd__term *t, int64_t n, const double *logp, const double *logq);
double kd__naive_reverse_kl(const kd__term *t, int64_t n, const double *logp, const double *logq);
double kd__naive_jsd(const kd__term *t, int64_t n, const double *logp, const double *logq);
double kd__naive_tvd(const kd__term *t, int64_t n, const double *logp, const double *logq);

#endif
