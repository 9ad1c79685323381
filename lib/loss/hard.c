/* hard.c - ce: cross-entropy with the labels.
 *
 *     value     1/B sum_b (log sum_c exp z_bc - sum_c y_bc z_bc)      y = (1 - e) onehot + e / C
 *     gradient  1/B (softmax(z) - y)
 *
 * with label smoothing e (Szegedy et al. 2016, section 7). In a row that is mixed of two, onehot is the mean
 * of theirs by their shares (Zhang et al. 2018, mixup). B counts the rows that have a label. The fast form is
 * part of the fused kernel in loss.simd.c; `row` serves a second ce in one mix.
 */
#include "loss_private.h"

static double row(const kd__term *t, const kd__row *r)
{
    double *logq = r->scratch, *q = logq + r->n, value = 0, e = t->k.label_smoothing;
    t->vec->softmax(logq, q, r->s, r->n, 1);
    for (int64_t c = 0; c < r->n; c++) {
        double y = (1 - e) * ((c == r->label ? r->share : 0) + (c == r->other ? 1 - r->share : 0)) +
                   e / (double)r->n;
        if (y > 0) value -= y * logq[c];
        if (r->grad) r->grad[c] = q[c] - y;
    }
    return value;
}

static kd_status plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)shared, (void)parts, (void)err;
    t->scratch = (size_t)(2 * t->n);
    return KD_OK;
}

static double factor(const kd__term *t, int64_t valid)
{
    (void)t;
    return 1 / (double)valid;
}

static void describe(kd_buf *b, const kd__term *t)
{
    kd_buf_puts(b, "CE");
    if (t->k.label_smoothing > 0) kd_buf_printf(b, "(smoothing %g)", t->k.label_smoothing);
}

static double naive_row(const kd__term *t, const double *z, const double *teacher, int32_t label)
{
    double e = t->k.label_smoothing, value = kd__log_sum(z, t->n);
    (void)teacher;
    for (int64_t c = 0; c < t->n; c++) value -= ((c == label ? 1 - e : 0) + e / (double)t->n) * z[c];
    return value;
}

static double naive(const kd__term *t, const kd__view *v) { return kd__naive_rows(t, v, naive_row); }

const kd__objective kd__objective_ce = {
    .pub = {.name = "ce",
            .formula =
                "-1/B sum_b sum_c y log softmax(z_s), y = (1-e) onehot(label) + e/C, e = label_smoothing",
            .needs = KD_NEEDS_LABELS,
            .keys = "label_smoothing=0",
            .source = "Szegedy et al. 2016, section 7; torch.nn.CrossEntropyLoss",
            .mixes = true},
    .plan = plan,
    .row = row,
    .factor = factor,
    .describe = describe,
    .naive = naive,
};
