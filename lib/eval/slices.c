/* lib/eval/slices.c - is it good for everybody? The rows of a split in parts, by a column of the store.
 *
 * A column gives each row one number: a label or an integer its value, a fraction itself, a ragged column its
 * length (the length of a text). Few different integers make one slice each; other numbers are cut into bins
 * of about equal numbers of rows, with equal values in one bin. Rows without a number (NaN) are a slice of
 * their own, "missing", so that every row is in exactly one slice of each column.
 */
#include "eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_VALUES 64 /* different integers that are slices of their own */
#define MOST_BINS   1000

/* A row's number while slices are cut. */
typedef struct keyed {
    double v;
    uint32_t row;
} keyed;

static int by_number(const void *a, const void *b)
{
    const keyed *x = a, *y = b;
    if (isnan(x->v) || isnan(y->v)) {
        if (isnan(x->v) != isnan(y->v)) return isnan(x->v) ? 1 : -1;
    } else if (x->v != y->v) {
        return x->v < y->v ? -1 : 1;
    }
    return (x->row > y->row) - (x->row < y->row);
}

static void kd__slice_release(kd__slice *s) { free(s->pick), free(s->label), free(s->teacher); }

void kd__slices_release(kd__slices *s)
{
    for (size_t i = 0; i < s->n; i++) kd__slice_release(&s->v[i]);
    free(s->v);
}

static double integer(const void *p, kd_dtype t, size_t i)
{
    switch (t) {
    case KD_U8: return ((const uint8_t *)p)[i];
    case KD_I8: return ((const int8_t *)p)[i];
    case KD_U16: return ((const uint16_t *)p)[i];
    case KD_I16: return ((const int16_t *)p)[i];
    case KD_U32: return ((const uint32_t *)p)[i];
    case KD_I32: return ((const int32_t *)p)[i];
    case KD_U64: return (double)((const uint64_t *)p)[i];
    case KD_I64: return (double)((const int64_t *)p)[i];
    case KD_F64: return ((const double *)p)[i];
    default: return NAN;
    }
}

/* The numbers of one chunk, out: (rows). */
static kd_status chunk_numbers(const kd_exam *e, kd_cursor *cur, int col, uint32_t chunk, keyed *out,
                               kd_err *err)
{
    const kd_column *c = kd_store_column(e->s, (size_t)col);
    const uint32_t rows = kd_store_chunk(e->s, chunk)->rows;
    const bool lengths = c->ndims && c->dims[0] < 0, small = c->dtype == KD_F16 || c->dtype == KD_BF16;
    void *raw = kd_alloc_aligned(rows, sizeof(double));
    size_t positions;
    kd_status st;
    if (!raw) return kd_fail(err, KD_ENOMEM, "no memory for a chunk of %u rows", rows);
    if (lengths)
        st = kd_cursor_lengths(cur, col, chunk, raw, &positions, err);
    else if (small || c->dtype == KD_F32)
        st = kd_cursor_read_f32(cur, col, chunk, raw, rows, err);
    else
        st = kd_cursor_read(cur, col, chunk, raw, rows * kd_dtype_size(c->dtype), err);
    for (uint32_t r = 0; r < rows && !st; r++)
        out[r].v = lengths                       ? (double)((const uint32_t *)raw)[r]
                   : small || c->dtype == KD_F32 ? (double)((const float *)raw)[r]
                                                 : integer(raw, c->dtype, r);
    free(raw);
    return st;
}

static kd_status read_numbers(const kd_exam *e, kd_cursor *cur, int col, keyed *k, kd_err *err)
{
    uint64_t at = 0;
    for (uint32_t c = 0; c < kd_store_chunks(e->s); c++) {
        const kd_chunk_info *ci = kd_store_chunk(e->s, c);
        if (ci->split != e->p.split) continue;
        kd_status st = chunk_numbers(e, cur, col, c, k + at, err);
        if (st) return st;
        for (uint32_t r = 0; r < ci->rows; r++, at++) k[at].row = (uint32_t)at;
    }
    return KD_OK;
}

static void name_slice(kd__slice *s, const kd_exam *e, bool label)
{
    const char *class =
        label && s->single ? json_string_value(json_array_get(e->names, (size_t)s->from)) : NULL;
    if (s->missing)
        snprintf(s->name, sizeof s->name, "%s=missing", s->column);
    else if (class)
        snprintf(s->name, sizeof s->name, "%s=%s", s->column, class);
    else if (s->single)
        snprintf(s->name, sizeof s->name, "%s=%.15g", s->column, s->from);
    else
        snprintf(s->name, sizeof s->name, "%s=[%.6g, %.6g]", s->column, s->from, s->to);
}

/* One slice of keys [0, n), which are sorted. */
static kd_status add_slice(kd_exam *e, int col, const keyed *k, uint64_t n, bool single, kd_err *err)
{
    kd__slices *all = &e->slices;
    kd__slice *grown = realloc(all->v, (all->n + 1) * sizeof *grown),
              s = {.column = kd_store_column(e->s, (size_t)col)->name,
                   .single = single && !isnan(k->v),
                   .missing = isnan(k->v),
                   .from = k->v,
                   .to = k[n - 1].v,
                   .n = n,
                   .pick = malloc(n * sizeof *s.pick),
                   .label = malloc(n * sizeof *s.label)};
    if (grown) all->v = grown;
    if (!grown || !s.pick || !s.label) {
        kd__slice_release(&s);
        return kd_fail(err, KD_ENOMEM, "no memory for a slice of %llu rows", (unsigned long long)n);
    }
    for (uint64_t i = 0; i < n; i++) {
        s.pick[i] = k[i].row;
        s.label[i] = e->labels[k[i].row];
    }
    name_slice(&s, e, col == e->label);
    all->v[all->n++] = s;
    return KD_OK;
}

/* Keys with the value of k[i] end before this one. */
static uint64_t run_end(const keyed *k, uint64_t i, uint64_t n)
{
    uint64_t j = i + 1;
    while (j < n && (k[j].v == k[i].v || (isnan(k[j].v) && isnan(k[i].v)))) j++;
    return j;
}

static kd_status cut(kd_exam *e, int col, const keyed *k, uint64_t n, uint64_t bins, kd_err *err)
{
    uint64_t known = n;
    kd_status st = KD_OK;
    while (known && isnan(k[known - 1].v)) known--;
    for (uint64_t i = 0, bin = 1; i < known && !st;) {
        uint64_t j = run_end(k, i, known);
        if (bins) /* on to the bin's share of the rows, and to the end of a value */
            while (j < known && j < known * bin / bins) j = run_end(k, j, known);
        st = add_slice(e, col, k + i, j - i, !bins, err);
        for (i = j; bins && bin <= bins && known * bin / bins <= i;) bin++;
    }
    return st || known == n ? st : add_slice(e, col, k + known, n - known, false, err);
}

static uint64_t different(const keyed *k, uint64_t n)
{
    uint64_t values = 0;
    for (uint64_t i = 0; i < n; i = run_end(k, i, n)) values++;
    return values;
}

static kd_status check_column(const kd_exam *e, int col, const char *name, kd_err *err)
{
    if (col < 0)
        return kd_fail(err, KD_ENOTFOUND, "%s: no column %s to slice by; see: kd-store stat %s",
                       kd_store_path(e->s), name, kd_store_path(e->s));
    const kd_column *c = kd_store_column(e->s, (size_t)col);
    if (strcmp(c->encoding, "dense") || (c->ndims && c->dims[0] >= 0))
        return kd_fail(
            err, KD_EUSAGE,
            "%s: column %s has %zu values a row; slices need one, or a column of differing lengths",
            kd_store_path(e->s), name, kd_column_width(c) * kd_column_each(c));
    return KD_OK;
}

kd_status kd__slices_add(kd_exam *e, kd_cursor *cur, const char *arg, kd_err *err)
{
    const char *colon = strrchr(arg, ':');
    char *name = kd_sprintf("%.*s", colon ? (int)(colon - arg) : (int)strlen(arg), arg), *end = NULL;
    const long bins = colon ? strtol(colon + 1, &end, 10) : 0;
    keyed *k = malloc(e->rows.n * sizeof *k);
    kd_status st = KD_OK;
    if (!name || !k)
        st = kd_fail(err, KD_ENOMEM, "no memory to slice %llu rows", (unsigned long long)e->rows.n);
    else if (colon && (bins < 1 || bins > MOST_BINS || *end))
        st = kd_fail(err, KD_EUSAGE, "--slice %s: expected COLUMN or COLUMN:BINS with 1 to %d bins", arg,
                     MOST_BINS);
    const int col = st ? -1 : kd_store_find(e->s, name);
    if (!st && !(st = check_column(e, col, name, err)) && !(st = read_numbers(e, cur, col, k, err))) {
        qsort(k, e->rows.n, sizeof *k, by_number);
        const kd_column *c = kd_store_column(e->s, (size_t)col);
        const bool few = col == e->label ||
                         (!kd_dtype_is_float(c->dtype) && !colon && different(k, e->rows.n) <= MOST_VALUES);
        st = cut(e, col, k, e->rows.n, few ? 0 : colon ? (uint64_t)bins : 5, err);
    }
    free(name);
    free(k);
    return st;
}

kd_status kd__slices_teacher(kd_exam *e, kd_err *err)
{
    for (size_t i = 0; i < e->slices.n && e->answers; i++) {
        kd__slice *s = &e->slices.v[i];
        if (!(s->teacher = malloc(s->n * sizeof *s->teacher)))
            return kd_fail(err, KD_ENOMEM, "no memory for a slice of %llu rows", (unsigned long long)s->n);
        for (uint64_t k = 0; k < s->n; k++) s->teacher[k] = e->answers[s->pick[k]];
    }
    return KD_OK;
}
