/* mse.c - logit_mse: squared difference of the logits.
 *
 *     value     1/(B C) sum (z_s - z_t)^2         reduction batch: 1/B
 *     gradient  2/(B C) (z_s - z_t)
 *
 * Ba and Caruana 2014 (there with 1/2 and 1/B). Needs the logits themselves: log-probabilities
 * lack the constant that this objective sees.
 */
#include "loss_private.h"

static double row(const kd__term *t, const kd__row *r)
{
    double value = 0;
    (void)t;
    for (int64_t c = 0; c < r->n; c++) {
        double d = (double)r->s[c] - r->t[c];
        value += d * d;
        if (r->grad) r->grad[c] = 2 * d;
    }
    return value;
}

static void describe(kd_buf *b, const kd__term *t) { kd__describe_scale(b, t, "||z_s - z_t||^2"); }

static double naive_row(const kd__term *t, const double *z, const double *teacher, int32_t label)
{
    double value = 0;
    (void)label;
    for (int64_t c = t->n - 1; c >= 0; c--)
        value += z[c] * z[c] - 2 * z[c] * teacher[c] + teacher[c] * teacher[c];
    return value;
}

static double naive(const kd__term *t, const kd__view *v) { return kd__naive_rows(t, v, naive_row); }

const kd__objective kd__objective_logit_mse = {
    .pub = {.name = "logit_mse",
            .formula = "1/(B C) sum_b ||z_s - z_t||^2",
            .needs = KD_NEEDS_LOGITS,
            .serves = KD_LOSS_VALUES,
            .keys = "reduction=element",
            .source = "Ba and Caruana 2014; torch.nn.MSELoss"},
    .row = row,
    .factor = kd__class_scale,
    .describe = describe,
    .naive = naive,
};
