/* ranking.c - margin_mse, listwise_kl: scores of candidates instead of classes.
 *
 * A row is a query, its numbers are the scores of n candidates, the positive first.
 *
 *     margin_mse   1/(B (n-1)) sum ((s_0 - s_j) - (t_0 - t_j))^2     Hofstaetter et al. 2020
 *     listwise_kl  T_s^2 / B sum KL(softmax(t / T_t) || softmax(s / T_s))
 *
 * The teacher may have stored its margins instead of its scores (teacher_scores: differences), n - 1 a row.
 */
#include "loss_private.h"

#include <math.h>

/* ---- margin_mse --------------------------------------------------------------------------- */

static bool differences(const kd__term *t) { return kd__is(t->k.teacher_scores, "differences"); }

static double margin_row(const kd__term *t, const kd__row *r)
{
    double value = 0;
    for (int64_t j = 1; j < r->n; j++) {
        double want = differences(t) ? r->t[j - 1] : (double)r->t[0] - r->t[j];
        double d = (double)r->s[0] - r->s[j] - want;
        value += d * d;
        if (!r->grad) continue;
        r->grad[0] += 2 * d;
        r->grad[j] -= 2 * d;
    }
    return value;
}

static kd_status margin_plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)shared, (void)parts;
    if (t->n < 2)
        return kd_fail(err, KD_EUSAGE, "%lld candidate a row, expected a positive and others",
                       (long long)t->n);
    if (differences(t)) t->m = t->n - 1;
    return KD_OK;
}

static double margin_factor(const kd__term *t, int64_t valid)
{
    return 1 / ((double)valid * (double)(t->n - 1));
}

static void margin_describe(kd_buf *b, const kd__term *t)
{
    kd_buf_printf(b, "((s+ - s-) - %s)^2/(B (n-1))", differences(t) ? "dt" : "(t+ - t-)");
}

static double naive_margin_row(const kd__term *t, const double *s, const double *teacher, int32_t label)
{
    double value = 0;
    (void)label;
    for (int64_t j = 1; j < t->n; j++)
        value += pow(s[0] - s[j] - (differences(t) ? teacher[j - 1] : teacher[0] - teacher[j]), 2);
    return value;
}

static double naive_margin(const kd__term *t, const kd__view *v)
{
    return kd__naive_rows(t, v, naive_margin_row);
}

const kd__objective kd__objective_margin_mse = {
    .pub = {.name = "margin_mse",
            .formula =
                "1/(B (n-1)) sum ((s_0 - s_j) - (t_0 - t_j))^2 over a query's candidates, the positive first",
            .needs = KD_NEEDS_LOGITS,
            .serves = KD_LOSS_VALUES,
            .keys = "teacher_scores=scores",
            .source = "Hofstaetter et al. 2020; sentence-transformers losses/margin_mse.py"},
    .plan = margin_plan,
    .row = margin_row,
    .factor = margin_factor,
    .describe = margin_describe,
    .naive = naive_margin,
};

/* ---- listwise_kl -------------------------------------------------------------------------- */

static double teacher_T(const kd__term *t)
{
    return t->k.teacher_temperature > 0 ? t->k.teacher_temperature : t->T;
}

static double list_row(const kd__term *t, const kd__row *r)
{
    double *logq = r->scratch, *q = logq + r->n, *logp = q + r->n, *p = logp + r->n, value = 0;
    t->vec->softmax(logq, q, r->s, r->n, 1 / t->T);
    t->vec->softmax(logp, p, r->t, r->n, 1 / teacher_T(t));
    for (int64_t j = 0; j < r->n; j++) {
        if (p[j] > 0) value += p[j] * (logp[j] - logq[j]);
        if (r->grad) r->grad[j] = (q[j] - p[j]) / t->T;
    }
    return value;
}

static kd_status list_plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)shared, (void)parts, (void)err;
    t->scratch = 4 * (size_t)t->n;
    return KD_OK;
}

static void list_describe(kd_buf *b, const kd__term *t)
{
    kd__describe_scale(b, t, "KL(softmax(t/T_t)||softmax(s/T))");
    if (teacher_T(t) != t->T) kd_buf_printf(b, ", T_t=%g", teacher_T(t));
}

static double naive_list_row(const kd__term *t, const double *s, const double *teacher, int32_t label)
{
    double zs = 0, zt = 0, value = 0, Tt = teacher_T(t), top_s = s[0], top_t = teacher[0];
    (void)label;
    for (int64_t j = 0; j < t->n; j++) top_s = fmax(top_s, s[j]), top_t = fmax(top_t, teacher[j]);
    for (int64_t j = 0; j < t->n; j++) zs += exp((s[j] - top_s) / t->T), zt += exp((teacher[j] - top_t) / Tt);
    for (int64_t j = 0; j < t->n; j++) {
        double a = (teacher[j] - top_t) / Tt - log(zt);
        value += exp(a) * (a - (s[j] - top_s) / t->T + log(zs));
    }
    return value;
}

static double naive_list(const kd__term *t, const kd__view *v)
{
    return kd__naive_rows(t, v, naive_list_row);
}

const kd__objective kd__objective_listwise_kl = {
    .pub = {.name = "listwise_kl",
            .formula = "T^2/B sum_b KL(softmax(t/T_t) || softmax(s/T)) over a query's candidates; T_t: "
                       "teacher_temperature",
            .needs = KD_NEEDS_LOGITS,
            .serves = KD_LOSS_SOFTMAX,
            .keys = "temperature=1,teacher_temperature=0,t2=on,reduction=batch",
            .source = "Cao et al. 2007 (ListNet); sentence-transformers losses/distill_kl_div.py"},
    .plan = list_plan,
    .row = list_row,
    .factor = kd__class_scale,
    .describe = list_describe,
    .naive = naive_list,
};
