/* csv.c - numbers from comma- or tab-separated text.
 *
 * Records are those of records.c; every one has as many fields as the first.
 *
 * The first record is a header if any of its fields is no number, or if its fields count 0, 1, 2, ...
 * as pandas writes for columns without names. Without a header the columns are called 1, 2, 3, ...
 *
 * Values keep the narrowest type that held all of them so far: u8, then i32, i64; one fraction makes
 * everything f32. Widening rewrites what was read, at most three times in a file. So a table of pixels
 * costs a byte a pixel, without a first pass over the file.
 */
#include "data_private.h"

#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct table {
    char **name; /* (columns) */
    size_t columns;
    size_t *take; /* (n) the columns wanted */
    size_t n;
    kd_array *a;
    size_t values, cap; /* elements in a->data */
} table;

/* ---- numbers ------------------------------------------------------------------------------ */

typedef struct number {
    bool whole;
    int64_t i; /* if whole */
    double x;  /* else */
} number;

/* A decimal number with blanks around it; hexadecimal, inf and nan are none. */
static bool parse(const char *s, number *out)
{
    char *end;
    const char *p;
    s += strspn(s, " \t");
    p = s + (*s == '-' || *s == '+');
    out->whole = false;
    if (isdigit((unsigned char)*p)) {
        uint64_t u = 0;
        const char *d = p;
        while (isdigit((unsigned char)*d) && d - p < 18) u = 10 * u + (uint64_t)(*d++ - '0');
        if (!*d || *d == ' ' || *d == '\t') {
            out->whole = true;
            out->i = *s == '-' ? -(int64_t)u : (int64_t)u;
            return !d[strspn(d, " \t")];
        }
    }
    size_t n = strspn(s, "+-.0123456789eE");
    if (!n || s[n + strspn(s + n, " \t")]) return false;
    out->x = strtod(s, &end);
    return end == s + n && fabs(out->x) <= FLT_MAX;
}

/* ---- columns ------------------------------------------------------------------------------ */

/* Whether the fields count 0, 1, 2, ... (at least three of them). */
static bool counts_from_zero(const kd__records *r)
{
    char want[24];
    for (size_t i = 0; i < r->fields; i++) {
        snprintf(want, sizeof(want), "%zu", i);
        if (strcmp(kd__records_field(r, i), want)) return false;
    }
    return r->fields > 2;
}

/* Names the columns by the first record. *header: it was one. */
static kd_status take_names(kd__records *r, table *t, bool *header)
{
    number x;
    *header = counts_from_zero(r);
    for (size_t i = 0; i < r->fields && !*header; i++) *header = !parse(kd__records_field(r, i), &x);
    if (!(t->name = calloc(r->fields, sizeof(*t->name))) || !(t->take = calloc(r->fields, sizeof(*t->take))))
        return kd_fail(r->err, KD_ENOMEM, "%s: out of memory", r->path);
    t->columns = r->fields;
    for (size_t i = 0; i < r->fields; i++)
        if (!(t->name[i] = *header ? kd_strdup(kd__records_field(r, i)) : kd_sprintf("%zu", i + 1)))
            return kd_fail(r->err, KD_ENOMEM, "%s: out of memory", r->path);
    return KD_OK;
}

/* Decides which columns are taken; the first data record is at hand for `all numeric ones`. */
static kd_status choose(kd__records *r, table *t, const char *column, const char *exclude)
{
    number x;
    size_t skip = exclude ? kd__records_find(t->name, t->columns, exclude, strlen(exclude)) : SIZE_MAX,
           from = 0, to = t->columns - 1;
    if (exclude && skip == SIZE_MAX)
        return kd__records_no_column(r->path, t->name, t->columns, exclude, r->err);
    t->a->ndims = 1;
    if (column && (from = to = kd__records_find(t->name, t->columns, column, strlen(column))) != SIZE_MAX) {
        t->a->ndims = 0;
    } else if (column) {
        const char *colon = strchr(column, ':');
        if (!colon) return kd__records_no_column(r->path, t->name, t->columns, column, r->err);
        from = kd__records_find(t->name, t->columns, column, (size_t)(colon - column));
        to = kd__records_find(t->name, t->columns, colon + 1, strlen(colon + 1));
        if (from == SIZE_MAX || to == SIZE_MAX)
            return kd__records_no_column(r->path, t->name, t->columns, column, r->err);
        if (from > to) return kd_fail(r->err, KD_EUSAGE, "%s: columns '%s' run backwards", r->path, column);
    }
    for (size_t i = from; i <= to; i++)
        if (i != skip && (column || parse(kd__records_field(r, i), &x))) t->take[t->n++] = i;
    if (!t->n && skip != SIZE_MAX && from == to)
        return kd_fail(r->err, KD_EUSAGE, "%s: column '%s' is the label, it cannot be the input too", r->path,
                       exclude);
    if (!t->n)
        return kd_fail(r->err, KD_ECORRUPT, "%s:%llu: no column holds a number", r->path,
                       (unsigned long long)r->record_line);
    if (t->a->ndims) t->a->dims[0] = (int64_t)t->n;
    return KD_OK;
}

/* ---- values ------------------------------------------------------------------------------- */

static kd_dtype narrowest(kd_dtype held, const number *x)
{
    if (held == KD_F32 || !x->whole) return KD_F32;
    if (held == KD_I64 || x->i < INT32_MIN || x->i > INT32_MAX) return KD_I64;
    if (held == KD_I32 || x->i < 0 || x->i > UINT8_MAX) return KD_I32;
    return KD_U8;
}

/* Makes room for one more record, and the type wide enough for it. */
static kd_status widen(kd__records *r, table *t, kd_dtype to)
{
    kd_array *a = t->a;
    size_t bytes;
    kd_status st;
    if (to != a->dtype) {
        a->rows = t->values / t->n;
        size_t whole = (size_t)a->rows * t->n; // a record's own values are rewritten by its caller
        if (whole && (st = kd__array_convert(a, to, r->err))) return st;
        a->dtype = to;
        t->cap = whole;
    }
    if (t->values + t->n <= t->cap) return KD_OK;
    size_t cap = kd_max_size(t->values + t->n, kd_max_size(4096, t->cap + t->cap / 2));
    if (!kd_mul_size(cap, kd_dtype_size(to), &bytes) || bytes > KD__SOURCE_MAX_BYTES)
        return kd_fail(r->err, KD_ELIMIT, "%s: more than %llu bytes of values; split it", r->path,
                       (unsigned long long)KD__SOURCE_MAX_BYTES);
    void *more = realloc(a->data, bytes);
    if (!more) return kd_fail(r->err, KD_ENOMEM, "%s: no memory for %zu bytes", r->path, bytes);
    a->data = more;
    t->cap = cap;
    return KD_OK;
}

static void store(const kd_array *a, size_t at, const number *x)
{
    switch (a->dtype) {
    case KD_U8: ((uint8_t *)a->data)[at] = (uint8_t)x->i; break;
    case KD_I32: ((int32_t *)a->data)[at] = (int32_t)x->i; break;
    case KD_I64: ((int64_t *)a->data)[at] = x->i; break;
    default: ((float *)a->data)[at] = x->whole ? (float)x->i : (float)x->x;
    }
}

/* line holds (t->n) numbers: parsed first, so that the type is widened once a record at most. */
static kd_status add_record(kd__records *r, table *t, number *line)
{
    kd_dtype type = t->a->dtype;
    char shown[48], name[48];
    if (r->fields != t->columns)
        return kd_fail(r->err, KD_ECORRUPT, "%s:%llu: %zu fields, expected %zu%s", r->path,
                       (unsigned long long)r->record_line, r->fields, t->columns, kd__raw_cut(r->raw));
    for (size_t i = 0; i < t->n; i++) {
        const char *text = kd__records_field(r, t->take[i]);
        if (!parse(text, &line[i]))
            return kd_fail(r->err, KD_ECORRUPT, "%s:%llu:%zu: %s%s%s in column '%s', expected a number",
                           r->path, (unsigned long long)r->record_line, t->take[i] + 1,
                           *text ? "'" : "nothing", kd__printable(text, shown), *text ? "'" : "",
                           kd__printable(t->name[t->take[i]], name));
        type = narrowest(type, &line[i]);
    }
    kd_status st = widen(r, t, type);
    for (size_t i = 0; i < t->n && !st; i++) store(t->a, t->values++, &line[i]);
    return st;
}

static kd_status read_table(kd__records *r, table *t, const char *column, const char *exclude)
{
    bool header;
    number *line = NULL;
    kd_status st = kd__records_next(r);
    if (st) goto out;
    if (!r->fields) {
        st = kd_fail(r->err, KD_ECORRUPT, "%s: no records%s", r->path, kd__raw_cut(r->raw));
        goto out;
    }
    if ((st = take_names(r, t, &header)) || (header && (st = kd__records_next(r)))) goto out;
    if (!r->fields) {
        st = kd_fail(r->err, KD_ECORRUPT, "%s: a header and no records%s", r->path, kd__raw_cut(r->raw));
        goto out;
    }
    if (r->fields != t->columns) {
        st = kd_fail(r->err, KD_ECORRUPT, "%s:%llu: %zu fields, its header has %zu", r->path,
                     (unsigned long long)r->record_line, r->fields, t->columns);
        goto out;
    }
    t->a->dtype = KD_U8;
    if ((st = choose(r, t, column, exclude))) goto out;
    if (!(line = calloc(t->n, sizeof(*line)))) st = kd_fail(r->err, KD_ENOMEM, "%s: out of memory", r->path);
    while (!st && r->fields)
        if (!(st = add_record(r, t, line))) st = kd__records_next(r);
    t->a->rows = t->values / t->n;
    if (!st) st = kd__raw_end(r->raw, "its records", r->err);
out:
    free(line);
    return st;
}

kd_status kd__csv_read(kd_array *a, kd__rawfile *raw, char separator, const char *column, const char *exclude,
                       kd_err *err)
{
    table t = {.a = a};
    kd__records *r;
    kd_status st = kd__records_open(&r, raw, separator, err);
    if (st) return st;
    st = read_table(r, &t, column, exclude);
    for (size_t i = 0; t.name && i < t.columns; i++) free(t.name[i]);
    free(t.name);
    free(t.take);
    kd__records_close(r);
    return st;
}
