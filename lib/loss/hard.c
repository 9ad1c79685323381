/* hard.c - ce: cross-entropy with the labels.
 *
 *     value     1/B sum_b (log sum_c exp z_bc - sum_c y_bc z_bc)      y = (1 - e) onehot + e / C
 *     gradient  1/B (softmax(z) - y)
 *
 * with label smoothing e (Szegedy et al. 2016, section 7). B counts the rows that have a label. The
 * fast form is part of the fused kernel in loss.simd.c; here is the formula as plain C in double.
 */
#include "loss_private.h"

#include <math.h>

static double weight(const kd_loss_spec *s) { return s->ce; }

static void describe(kd_buf *b, const kd_loss_spec *s)
{
    kd_buf_puts(b, "CE");
    if (s->label_smoothing > 0) kd_buf_printf(b, "(smoothing %g)", s->label_smoothing);
}

static double naive(const kd_loss_spec *s, const kd_loss_batch *b, int64_t valid, double w, double *grad)
{
    int64_t C = b->classes;
    double value = 0, e = s->label_smoothing;
    for (int64_t r = 0; r < b->rows; r++) {
        const float *z = b->logits + r * C; // (C)
        double max = -INFINITY, sum = 0;
        if (!kd__row_counts(b, r)) continue;
        for (int64_t c = 0; c < C; c++) max = fmax(max, z[c]);
        for (int64_t c = 0; c < C; c++) sum += exp(z[c] - max);
        for (int64_t c = 0; c < C; c++) {
            double target = (c == b->labels[r] ? 1 - e : 0) + e / (double)C;
            double logq = z[c] - max - log(sum);
            value -= target * logq / (double)valid;
            grad[r * C + c] += w * (exp(logq) - target) / (double)valid;
        }
    }
    return value;
}

const kd__objective kd__objective_ce = {.labels = true,
                                        .weight = weight,
                                        .describe = describe,
                                        .naive = naive};
