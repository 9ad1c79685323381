/* lib/eval/tables.c - measures, bounds and tables of one student (or the teacher) as JSON.
 *
 * A student with several seeds is shown by the mean of each measure over its seeds, its counts are sums over
 * them. Bounds of the whole are of the bootstrap over rows and seeds; those of a class or a slice, of which
 * there may be thousands, are Wilson's for the rows it has: seeds answer the same rows and make them no more.
 */
#include "eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

json_t *kd__real(double v) { return isfinite(v) ? json_real(v) : json_null(); }

void kd__set_measures(json_t *o, const kd_measures *m)
{
    for (int k = 0; k < KD_MEASURES; k++)
        if (m->taken[k]) json_object_set_new(o, kd_measure_key((kd_measure_name)k), kd__real(m->v[k]));
}

static void set_pair(json_t *o, const char *key, double low, double high)
{
    char name[64];
    snprintf(name, sizeof name, "%s_low", key);
    json_object_set_new(o, name, kd__real(low));
    snprintf(name, sizeof name, "%s_high", key);
    json_object_set_new(o, name, kd__real(high));
}

static void set_share(json_t *o, const char *key, double share, uint64_t n)
{
    double low, high;
    kd_wilson(share, n, &low, &high);
    json_object_set_new(o, key, kd__real(share));
    set_pair(o, key, low, high);
}

/* ---- bounds ------------------------------------------------------------------------------- */

double kd__resampled_mean(const double *const *resampled, size_t n, size_t resamples, kd_measure_name m,
                          uint32_t b)
{
    double sum = 0;
    for (uint32_t k = 0; k < n; k++)
        sum += resampled[kd_bootstrap_seed(b, k, (uint32_t)n)][(size_t)m * resamples + b];
    return sum / (double)n;
}

void kd__bounds(double *v, size_t n, double *low, double *high)
{
    size_t defined = 0;
    for (size_t i = 0; i < n; i++)
        if (isfinite(v[i])) v[defined++] = v[i];
    kd__sort_few(v, defined);
    *low = kd_quantile(v, defined, 0.025);
    *high = kd_quantile(v, defined, 0.975);
}

kd_status kd__set_bounds(json_t *o, const kd_exam *e, const double *const *resampled, size_t n, kd_err *err)
{
    const size_t b = (size_t)e->p.resamples;
    double *v = malloc((b + 1) * sizeof *v), low, high;
    if (!v) return kd_fail(err, KD_ENOMEM, "no memory for %zu resamples", b);
    for (int m = 0; m < KD_MEASURES && b; m++) {
        const char *key = kd_measure_key((kd_measure_name)m);
        if (!kd_bootstrapped((kd_measure_name)m) || !json_object_get(o, key)) continue;
        for (uint32_t i = 0; i < b; i++) v[i] = kd__resampled_mean(resampled, n, b, (kd_measure_name)m, i);
        kd__bounds(v, b, &low, &high);
        set_pair(o, key, low, high);
    }
    free(v);
    return KD_OK;
}

/* ---- classes ------------------------------------------------------------------------------ */

static json_t *class_json(const kd_exam *e, const kd_class *c, int64_t k, size_t seeds)
{
    double recall = kd_class_recall(c), precision = kd_class_precision(c);
    json_t *o = json_pack("{s:I, s:O?, s:I, s:I}", "class", (json_int_t)k, "name",
                          json_array_get(e->names, (size_t)k), "support", (json_int_t)(c->support / seeds),
                          "predicted", (json_int_t)c->predicted);
    set_share(o, "precision", precision, c->predicted / seeds);
    set_share(o, "recall", recall, c->support / seeds);
    json_object_set_new(o, "f1", kd__real(kd_class_f1(c)));
    return o;
}

static kd_status set_classes(json_t *o, const kd_exam *e, const kd__panel *p, kd_err *err)
{
    const size_t n = (size_t)e->rows.classes;
    kd_class *sum = calloc(2 * n, sizeof *sum), *one = sum + n;
    if (!sum) return kd_fail(err, KD_ENOMEM, "no memory for %zu classes", n);
    for (size_t s = 0; s < p->n; s++) {
        kd_count_classes(one, &e->rows, p->a[s]);
        for (size_t k = 0; k < n; k++) {
            sum[k].support += one[k].support;
            sum[k].predicted += one[k].predicted;
            sum[k].right += one[k].right;
        }
    }
    json_t *list = json_array();
    for (size_t k = 0; k < n; k++) json_array_append_new(list, class_json(e, &sum[k], (int64_t)k, p->n));
    json_object_set_new(o, "per_class", list);
    free(sum);
    return KD_OK;
}

static kd_status set_confusion(json_t *o, const kd_exam *e, const kd__panel *p, kd_err *err)
{
    const size_t n = (size_t)e->rows.classes;
    if (n > KD_CONFUSION_CLASSES) return KD_OK;
    uint64_t *sum = calloc(2 * n * n, sizeof *sum), *one = sum + n * n;
    if (!sum) return kd_fail(err, KD_ENOMEM, "no memory for a matrix of %zu classes", n);
    for (size_t s = 0; s < p->n; s++) {
        kd_count_confusion(one, &e->rows, p->a[s]);
        for (size_t i = 0; i < n * n; i++) sum[i] += one[i];
    }
    json_t *rows = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *row = json_array();
        for (size_t k = 0; k < n; k++) json_array_append_new(row, json_integer((json_int_t)sum[i * n + k]));
        json_array_append_new(rows, row);
    }
    json_object_set_new(o, "confusion", rows);
    free(sum);
    return KD_OK;
}

/* ---- calibration -------------------------------------------------------------------------- */

static json_t *bins_json(const kd_bin bin[KD_BINS])
{
    json_t *list = json_array();
    for (int k = 0; k < KD_BINS; k++) {
        const double n = (double)bin[k].rows;
        json_array_append_new(list, json_pack("{s:o, s:o, s:I, s:o, s:o}", "low", kd__real(bin[k].low),
                                              "high", kd__real(bin[k].high), "rows", (json_int_t)bin[k].rows,
                                              "confidence", kd__real(bin[k].confidence / n), "accuracy",
                                              kd__real(bin[k].right / n)));
    }
    return list;
}

/* Adds a seed's bins; edges that differ between seeds become the outermost. */
static void bins_add(kd_bin sum[KD_BINS], const kd_bin one[KD_BINS], bool first)
{
    for (int k = 0; k < KD_BINS; k++) {
        sum[k].low = first ? one[k].low : fmin(sum[k].low, one[k].low);
        sum[k].high = first ? one[k].high : fmax(sum[k].high, one[k].high);
        sum[k].rows += one[k].rows;
        sum[k].confidence += one[k].confidence;
        sum[k].right += one[k].right;
    }
}

static kd_status set_reliability(json_t *o, const kd_exam *e, const kd__panel *p, kd_err *err)
{
    kd_bin equal[KD_BINS] = {{0}}, adaptive[KD_BINS] = {{0}}, one[KD_BINS];
    for (size_t s = 0; s < p->n; s++) {
        kd_reliability(one, &e->rows, p->a[s]);
        bins_add(equal, one, !s);
        kd_status st = kd_reliability_adaptive(one, &e->rows, p->a[s], err);
        if (st) return st;
        bins_add(adaptive, one, !s);
    }
    json_object_set_new(o, "reliability", bins_json(equal));
    json_object_set_new(o, "reliability_adaptive", bins_json(adaptive));
    return KD_OK;
}

/* ---- slices ------------------------------------------------------------------------------- */

static void set_slice_measures(json_t *o, const kd_measures *m)
{
    static const kd_measure_name shown[] = {KD_M_MACRO_F1, KD_M_LOSS,   KD_M_ECE,    KD_M_AGREEMENT,
                                            KD_M_KL,       KD_M_COPIED, KD_M_MENDED, KD_M_NEW};
    set_share(o, "accuracy", m->v[KD_M_ACCURACY], m->rows);
    for (size_t i = 0; i < KD_COUNT(shown); i++)
        if (m->taken[shown[i]]) json_object_set_new(o, kd_measure_key(shown[i]), kd__real(m->v[shown[i]]));
}

/* Means over the panel of the measures of one slice. */
/* A number of a column: 3, not 3.0, where it is whole. */
static json_t *exact(double v)
{
    return v == floor(v) && fabs(v) < 9e15 ? json_integer((json_int_t)v) : kd__real(v);
}

static kd_status slice_json(json_t **out, const kd_exam *e, const kd__slice *s, const kd__panel *p,
                            bool teacher, kd_err *err)
{
    const kd_rows r = {s->n, e->rows.classes, s->label, teacher ? NULL : s->teacher};
    kd_answer *a = malloc((size_t)s->n * sizeof *a);
    kd_measures mean = {0}, one;
    kd_status st =
        a ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for a slice of %llu rows", (unsigned long long)s->n);
    for (size_t k = 0; k < p->n && !st; k++) {
        for (uint64_t i = 0; i < s->n; i++) a[i] = p->a[k][s->pick[i]];
        if ((st = kd_measure(&one, &r, a, true, err))) break;
        for (int m = 0; m < KD_MEASURES; m++) one.v[m] = mean.v[m] + one.v[m] / (double)p->n;
        mean = one;
    }
    free(a);
    if (st) return st;
    json_t *o = json_pack("{s:s, s:s, s:I}", "column", s->column, "name", s->name, "rows", (json_int_t)s->n);
    if (s->single)
        json_object_set_new(o, "value", exact(s->from));
    else if (!s->missing)
        json_object_set_new(o, "from", exact(s->from)), json_object_set_new(o, "to", exact(s->to));
    set_slice_measures(o, &mean);
    *out = o;
    return KD_OK;
}

static kd_status set_slices(json_t *o, const kd_exam *e, const kd__panel *p, bool teacher, kd_err *err)
{
    json_t *list = json_array(), *one;
    json_object_set_new(o, "slices", list);
    for (size_t i = 0; i < e->slices.n; i++) {
        kd_status st = slice_json(&one, e, &e->slices.v[i], p, teacher, err);
        if (st) return st;
        json_array_append_new(list, one);
    }
    return KD_OK;
}

kd_status kd__set_tables(json_t *o, const kd_exam *e, const kd__panel *p, bool teacher, kd_err *err)
{
    kd_status st = set_classes(o, e, p, err);
    if (!st) st = set_reliability(o, e, p, err);
    if (!st) st = set_confusion(o, e, p, err);
    if (!st) st = set_slices(o, e, p, teacher, err);
    return st;
}
