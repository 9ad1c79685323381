/* lib/eval/measures.c - from answers to the measures of one model.
 *
 * Sums run in order of the rows, in double. What is 0 of 0 (the share of a teacher's mistakes when it makes
 * none) is NAN and later null, never 0: a gate must not pass on a number that is not there.
 */
#include "eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *kd_measure_key(kd_measure_name m)
{
    static const char *const key[] = {
#define X(NAME, key, needs) #key,
        KD_MEASURE_MAP(X)
#undef X
    };
    return key[m];
}

static void set(kd_measures *m, kd_measure_name name, double v)
{
    m->taken[name] = true;
    m->v[name] = v;
}

static void measure_labels(kd_measures *m, const kd_rows *r, const kd_answer *a)
{
    uint64_t right = 0, top3 = 0, top5 = 0;
    double loss = 0, confidence = 0;
    for (uint64_t i = 0; i < r->n; i++) {
        right += a[i].rank < 1;
        top3 += a[i].rank < 3;
        top5 += a[i].rank < 5;
        loss += a[i].loss;
        confidence += a[i].confidence;
    }
    const double n = (double)r->n;
    set(m, KD_M_ACCURACY, (double)right / n);
    if (r->classes > 3) set(m, KD_M_TOP3, (double)top3 / n);
    if (r->classes > 5) set(m, KD_M_TOP5, (double)top5 / n);
    set(m, KD_M_LOSS, loss / n);
    set(m, KD_M_PERPLEXITY, exp(loss / n));
    set(m, KD_M_CONFIDENCE, confidence / n);
}

static void measure_classes(kd_measures *m, const kd_class *c, int64_t classes)
{
    double precision = 0, recall = 0, f1 = 0;
    uint64_t seen = 0;
    for (int64_t k = 0; k < classes; k++) {
        if (!c[k].support && !c[k].predicted) continue;
        seen++;
        if (c[k].predicted) precision += kd_class_precision(&c[k]);
        if (c[k].support) recall += kd_class_recall(&c[k]);
        f1 += kd_class_f1(&c[k]);
    }
    set(m, KD_M_MACRO_PRECISION, precision / (double)seen);
    set(m, KD_M_MACRO_RECALL, recall / (double)seen);
    set(m, KD_M_MACRO_F1, f1 / (double)seen);
}

static void measure_bins(kd_measures *m, const kd_rows *r, const kd_answer *a)
{
    kd_bin bin[KD_BINS];
    double most = 0;
    kd_reliability(bin, r, a);
    for (int b = 0; b < KD_BINS; b++)
        if (bin[b].rows) most = fmax(most, fabs(bin[b].confidence - bin[b].right) / (double)bin[b].rows);
    set(m, KD_M_ECE, kd_ece(bin, r->n));
    set(m, KD_M_MCE, most);
}

static void measure_teacher(kd_measures *m, const kd_rows *r, const kd_answer *a)
{
    uint64_t same = 0, kinds[KD_KINDS] = {0};
    double kl = 0;
    for (uint64_t i = 0; i < r->n; i++) {
        same += a[i].top == r->teacher[i].top;
        kl += a[i].kl;
        kinds[kd_row_kind(r->label[i], &r->teacher[i], &a[i])]++;
    }
    const double wrong = (double)(kinds[KD_COPIED] + kinds[KD_OTHER] + kinds[KD_MENDED]),
                 right = (double)(kinds[KD_BOTH_RIGHT] + kinds[KD_NEW]);
    set(m, KD_M_AGREEMENT, (double)same / (double)r->n);
    set(m, KD_M_KL, kl / (double)r->n);
    set(m, KD_M_COPIED, wrong > 0 ? (double)kinds[KD_COPIED] / wrong : NAN);
    set(m, KD_M_OTHER, wrong > 0 ? (double)kinds[KD_OTHER] / wrong : NAN);
    set(m, KD_M_MENDED, wrong > 0 ? (double)kinds[KD_MENDED] / wrong : NAN);
    set(m, KD_M_NEW, right > 0 ? (double)kinds[KD_NEW] / right : NAN);
}

static kd_status measure_percentiles(kd_measures *m, const kd_rows *r, const kd_answer *a, kd_err *err)
{
    const size_t n = (size_t)r->n;
    double *kl = malloc(2 * n * sizeof *kl), *sorted = kl + n;
    uint32_t *order = malloc(n * sizeof *order);
    kd_status st = kl && order ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for %zu numbers", n);
    for (size_t i = 0; i < n && !st; i++) kl[i] = a[i].kl;
    if (!st) st = kd__order(order, kl, n, err);
    for (size_t i = 0; i < n && !st; i++) sorted[i] = kl[order[i]];
    if (!st) {
        set(m, KD_M_KL_P50, kd_quantile(sorted, n, 0.5));
        set(m, KD_M_KL_P90, kd_quantile(sorted, n, 0.9));
        set(m, KD_M_KL_P99, kd_quantile(sorted, n, 0.99));
        set(m, KD_M_KL_MAX, sorted[n - 1]);
    }
    free(order);
    free(kl);
    return st;
}

kd_status kd_measure(kd_measures *m, const kd_rows *r, const kd_answer *a, bool brief, kd_err *err)
{
    kd_bin bin[KD_BINS];
    kd_class *c = calloc((size_t)r->classes, sizeof *c);
    memset(m, 0, sizeof *m);
    if (!c) return kd_fail(err, KD_ENOMEM, "no memory for %lld classes", (long long)r->classes);
    m->rows = r->n;
    kd_count_classes(c, r, a);
    measure_labels(m, r, a);
    measure_classes(m, c, r->classes);
    measure_bins(m, r, a);
    free(c);
    if (r->teacher) measure_teacher(m, r, a);
    if (brief) return KD_OK;
    kd_status st = kd_reliability_adaptive(bin, r, a, err);
    if (st) return st;
    set(m, KD_M_ECE_ADAPTIVE, kd_ece(bin, r->n));
    return r->teacher ? measure_percentiles(m, r, a, err) : KD_OK;
}
