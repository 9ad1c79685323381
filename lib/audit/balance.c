/* balance.c - the classes of each split, and how far the splits are from the training rows.
 *
 * Compared are the labels, the classes that the teacher predicts, how sure it is (in tenths of the training
 * rows), and the mean of a feature of the teacher, or of its probabilities where the store keeps no feature:
 * the root mean square over its numbers of (mean of the split - mean of training) / deviation in training.
 * Two samples of one distribution come to about sqrt(1 / n + 1 / m), which stands beside it.
 */
#include "audit_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TENTHS 10

static bool has_rows(const kd__audit *a, kd_split split)
{
    return kd_store_split_rows(a->facts.s, split) > 0;
}

/* ---- balance ------------------------------------------------------------------------------ */

/* count: (KD_SPLITS, classes). */
static uint64_t *count_classes(const kd__audit *a, bool predicted)
{
    const kd__facts *r = &a->facts;
    const size_t classes = (size_t)r->classes;
    uint64_t *count = calloc(KD_SPLITS * classes + 1, sizeof(*count));
    for (uint64_t i = 0; count && i < r->n; i++) {
        const int64_t y = predicted ? (int64_t)kd__facts_top(r, i) : r->label[i];
        if (y >= 0) count[r->split[i] * classes + (size_t)y]++;
    }
    return count;
}

kd_status kd__write_balance(kd__audit *a, kd_err *err)
{
    const size_t classes = (size_t)a->facts.classes;
    kd_newfile *f = NULL;
    uint64_t *count = count_classes(a, false);
    json_t *all = json_object();
    kd_status st =
        count ? kd__open_file(&f, a, "balance.csv", err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st) fprintf(kd_newfile_stream(f), "split,class,rows,share\n");
    for (int s = 0; s < KD_SPLITS && !st; s++) {
        const uint64_t *c = count + (size_t)s * classes;
        uint64_t sum = 0;
        json_t *list = json_array();
        for (size_t k = 0; k < classes; k++) sum += c[k];
        for (size_t k = 0; k < classes; k++) {
            json_array_append_new(list, json_integer((json_int_t)c[k]));
            if (sum)
                fprintf(kd_newfile_stream(f), "%s,%zu,%llu,%.6f\n", kd_split_name((kd_split)s), k,
                        (unsigned long long)c[k], (double)c[k] / (double)sum);
        }
        json_object_set_new(all, kd_split_name((kd_split)s), list);
    }
    json_object_set_new(a->summary, "balance", all);
    free(count);
    return st ? st : kd_newfile_commit(f, err);
}

/* ---- drift -------------------------------------------------------------------------------- */

static void add_line(FILE *f, json_t *list, kd_split split, const char *what, double value,
                     const char *beside, double other)
{
    fprintf(f, "%s,%s,%.6g,%s,%.6g\n", kd_split_name(split), what, value, beside, other);
    json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:s, s:f}", "split", kd_split_name(split),
                                          "measure", what, "value", value, "beside", beside, "other", other));
}

/* Labels or predictions of each split beside those of the training rows. */
static kd_status drift_of_classes(kd__audit *a, FILE *f, json_t *list, bool predicted, kd_err *err)
{
    const size_t classes = (size_t)a->facts.classes;
    uint64_t *count = count_classes(a, predicted);
    if (!count) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (int s = KD_VALID; s < KD_SPLITS; s++) {
        double p;
        if (!has_rows(a, (kd_split)s)) continue;
        const double x = kd_chi_square(count, count + (size_t)s * classes, classes, &p);
        add_line(f, list, (kd_split)s, predicted ? "predicted_chi_square" : "label_chi_square", x, "p_value",
                 p);
        add_line(f, list, (kd_split)s, predicted ? "predicted_psi" : "label_psi",
                 kd_psi(count, count + (size_t)s * classes, classes), "large_above", 0.25);
    }
    free(count);
    return KD_OK;
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static kd_status drift_of_confidence(kd__audit *a, FILE *f, json_t *list, kd_err *err)
{
    const kd__facts *r = &a->facts;
    uint64_t count[KD_SPLITS][TENTHS] = {{0}}, n = 0;
    float edge[TENTHS - 1], *v = malloc((r->n + 1) * sizeof(*v));
    if (!v) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (uint64_t i = 0; i < r->n; i++)
        if (r->split[i] == KD_TRAIN) v[n++] = r->p[i * (size_t)r->classes + kd__facts_top(r, i)];
    qsort(v, n, sizeof(*v), by_value);
    for (size_t k = 0; n && k < TENTHS - 1; k++) edge[k] = v[n * (k + 1) / TENTHS];
    for (uint64_t i = 0; n && i < r->n; i++) {
        const float p = r->p[i * (size_t)r->classes + kd__facts_top(r, i)];
        size_t k = 0;
        while (k < TENTHS - 1 && p >= edge[k]) k++;
        count[r->split[i]][k]++;
    }
    for (int s = KD_VALID; s < KD_SPLITS; s++)
        if (has_rows(a, (kd_split)s))
            add_line(f, list, (kd_split)s, "confidence_psi", kd_psi(count[KD_TRAIN], count[s], TENTHS),
                     "large_above", 0.25);
    free(v);
    return KD_OK;
}

/* Sums of each number of a feature, by split. */
typedef struct sums {
    size_t dims;
    double *sum, *square; /* (KD_SPLITS, dims), (dims) of training rows */
} sums;

static void add_row(sums *m, kd_split split, const float *x)
{
    double *sum = m->sum + (size_t)split * m->dims;
    for (size_t d = 0; d < m->dims; d++) {
        sum[d] += (double)x[d];
        if (split == KD_TRAIN) m->square[d] += (double)x[d] * (double)x[d];
    }
}

static double shift_of(const sums *m, kd_split split, double n, double train)
{
    double ss = 0;
    size_t used = 0;
    for (size_t d = 0; d < m->dims; d++) {
        const double mean = m->sum[d] / train, var = m->square[d] / train - mean * mean;
        if (!(var > 1e-12 * (mean * mean + 1e-30))) continue; // the same everywhere
        const double z = (m->sum[(size_t)split * m->dims + d] / n - mean) / sqrt(var);
        ss += z * z;
        used++;
    }
    return used ? sqrt(ss / (double)used) : 0;
}

/* The first feature of a teacher that has a fixed length; -1: none. */
static int find_feature(const kd_store *s)
{
    for (size_t i = 0; i < kd_store_columns(s); i++) {
        const kd_column *c = kd_store_column(s, i);
        const kd_codec_info *codec = kd_codec_find(c->encoding);
        if (c->role == KD_ROLE_FEATURE && !(c->ndims && c->dims[0] < 0) && !(codec && codec->sparse))
            return (int)i;
    }
    return -1;
}

static kd_status add_feature(sums *m, kd_store *s, int column, kd_err *err)
{
    const size_t each = kd_column_each(kd_store_column(s, (size_t)column));
    kd_cursor *cursor;
    float *x = kd_alloc_aligned(kd__audit_most_rows(s), m->dims * sizeof(*x));
    kd_status st = x ? kd_cursor_open(&cursor, s, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (st) {
        free(x);
        return st;
    }
    for (uint32_t k = 0; k < kd_store_chunks(s) && !st; k++) {
        const kd_chunk_info *info = kd_store_chunk(s, k);
        st = kd_cursor_read_f32(cursor, column, k, x, info->rows * each, err);
        for (uint32_t i = 0; i < info->rows && !st; i++) add_row(m, info->split, x + i * m->dims);
    }
    kd_cursor_close(cursor);
    free(x);
    return st;
}

static kd_status drift_of_features(kd__audit *a, FILE *f, json_t *list, kd_err *err)
{
    const kd__facts *r = &a->facts;
    const int column = find_feature(r->s);
    const kd_column *c = column < 0 ? NULL : kd_store_column(r->s, (size_t)column);
    const double train = (double)kd_store_split_rows(r->s, KD_TRAIN);
    sums m = {.dims = c ? kd_column_each(c) * kd_column_width(c) : (size_t)r->classes};
    m.sum = calloc(KD_SPLITS * m.dims, sizeof(*m.sum));
    m.square = calloc(m.dims, sizeof(*m.square));
    kd_status st = m.sum && m.square ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && c) st = add_feature(&m, r->s, column, err);
    for (uint64_t i = 0; i < r->n && !c && !st; i++) add_row(&m, (kd_split)r->split[i], r->p + i * m.dims);
    for (int s = KD_VALID; s < KD_SPLITS && !st && train > 0; s++) {
        const double n = (double)kd_store_split_rows(r->s, (kd_split)s);
        if (n > 0)
            add_line(f, list, (kd_split)s, c ? "feature_shift" : "probability_shift",
                     shift_of(&m, (kd_split)s, n, train), "by_chance", sqrt(1 / n + 1 / train));
    }
    free(m.sum);
    free(m.square);
    return st;
}

kd_status kd__write_drift(kd__audit *a, kd_err *err)
{
    kd_newfile *f;
    json_t *list = json_array();
    kd_status st = kd__open_file(&f, a, "drift.csv", err);
    json_object_set_new(a->summary, "drift", list);
    if (st) return st;
    FILE *out = kd_newfile_stream(f);
    fprintf(out, "split,measure,value,beside,other\n");
    if (a->facts.label) st = drift_of_classes(a, out, list, false, err);
    if (!st && kd__has_teacher(a)) st = drift_of_classes(a, out, list, true, err);
    if (!st && kd__has_teacher(a)) st = drift_of_confidence(a, out, list, err);
    if (!st && kd__has_teacher(a)) st = drift_of_features(a, out, list, err);
    if (!st) return kd_newfile_commit(f, err);
    kd_newfile_abort(f);
    return st;
}
