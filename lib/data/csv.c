/* csv.c - numbers from comma- or tab-separated text.
 *
 * Records follow RFC 4180: fields may be quoted, "" inside quotes is one quote, quoted fields may hold
 * separators and newlines, lines end with LF or CRLF. Blank lines and a UTF-8 byte order mark are
 * skipped. Every record has as many fields as the first.
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

typedef struct reader {
    kd__rawfile *raw;
    const char *path;
    char separator;
    kd_err *err;
    kd_status failed; /* of the file below */
    uint8_t block[65536];
    size_t at, len;
    uint64_t line, record_line; /* of the next byte; where the record began */
    char *text;                 /* fields of the record, each ended by NUL */
    size_t used, cap;
    uint32_t *field; /* (fields) where in text each begins */
    size_t fields, field_cap;
} reader;

typedef struct table {
    char **name; /* (columns) */
    size_t columns;
    size_t *take; /* (n) the columns wanted */
    size_t n;
    kd_array *a;
    size_t values, cap; /* elements in a->data */
} table;

/* ---- records ------------------------------------------------------------------------------ */

/* The next byte, -1 at the end, -2 on failure (r->failed). */
static int next_byte(reader *r)
{
    if (r->at == r->len) {
        r->at = 0;
        if (!r->failed) r->failed = kd__raw_read(r->raw, r->block, sizeof(r->block), &r->len, r->err);
        if (r->failed) r->len = 0;
        if (r->len == 0) return r->failed ? -2 : -1;
    }
    return r->block[r->at++];
}

static kd_status put(reader *r, char c)
{
    if (r->used == r->cap) {
        if (r->cap >= KD__CSV_MAX_RECORD)
            return kd_fail(r->err, KD_ELIMIT,
                           "%s:%llu: a record longer than %u bytes (is a quote not closed?)", r->path,
                           (unsigned long long)r->record_line, KD__CSV_MAX_RECORD);
        size_t cap = r->cap ? 2 * r->cap : 4096;
        char *more = realloc(r->text, cap);
        if (!more) return kd_fail(r->err, KD_ENOMEM, "%s: out of memory", r->path);
        r->text = more;
        r->cap = cap;
    }
    r->text[r->used++] = c;
    return KD_OK;
}

static kd_status put_text(reader *r, int c)
{
    if (c) return put(r, (char)c);
    return kd_fail(r->err, KD_ECORRUPT, "%s:%llu:%zu: a zero byte", r->path, (unsigned long long)r->line,
                   r->fields);
}

static kd_status begin_field(reader *r)
{
    if (r->fields == KD__CSV_MAX_FIELDS)
        return kd_fail(r->err, KD_ELIMIT, "%s:%llu: more than %d fields", r->path,
                       (unsigned long long)r->record_line, KD__CSV_MAX_FIELDS);
    if (r->fields == r->field_cap) {
        size_t cap = r->field_cap ? 2 * r->field_cap : 64;
        uint32_t *more = realloc(r->field, cap * sizeof(*more));
        if (!more) return kd_fail(r->err, KD_ENOMEM, "%s: out of memory", r->path);
        r->field = more;
        r->field_cap = cap;
    }
    r->field[r->fields++] = (uint32_t)r->used;
    return KD_OK;
}

/* The rest of a quoted field; *c: the byte behind its closing quote. */
static kd_status quoted(reader *r, int *c)
{
    uint64_t from = r->line;
    for (;;) {
        *c = next_byte(r);
        if (*c == '"' && (*c = next_byte(r)) != '"') break;
        if (*c == -2) return r->failed;
        if (*c == -1)
            return kd_fail(r->err, KD_ECORRUPT, "%s:%llu: the quote of field %zu is never closed%s", r->path,
                           (unsigned long long)from, r->fields, kd__raw_cut(r->raw));
        if (*c == '\n') r->line++;
        kd_status st = put_text(r, *c);
        if (st) return st;
    }
    if (*c == '\r') *c = next_byte(r);
    if (*c == -2) return r->failed;
    if (*c != r->separator && *c != '\n' && *c >= 0)
        return kd_fail(r->err, KD_ECORRUPT, "%s:%llu:%zu: text behind the closing quote", r->path,
                       (unsigned long long)r->line, r->fields);
    return KD_OK;
}

/* One field; *c: the byte that ended it (separator, newline, -1). */
static kd_status one_field(reader *r, int *c)
{
    kd_status st = begin_field(r);
    if (st) return st;
    *c = next_byte(r);
    if (*c == '"') {
        st = quoted(r, c);
    } else {
        for (; !st && *c >= 0 && *c != r->separator && *c != '\n'; *c = next_byte(r)) st = put_text(r, *c);
        if (!st && r->used > r->field[r->fields - 1] && r->text[r->used - 1] == '\r' && *c != r->separator)
            r->used--;
    }
    if (*c == -2) return r->failed;
    return st ? st : put(r, '\0');
}

/* The next record that is no blank line; fields == 0 at the end of the file. */
static kd_status next_record(reader *r)
{
    int c;
    kd_status st;
    do {
        r->used = r->fields = 0;
        r->record_line = r->line;
        do
            if ((st = one_field(r, &c))) return st;
        while (c == r->separator);
        if (c == '\n') r->line++;
        if (r->fields > 1 || r->text[0]) return KD_OK;
    } while (c != -1);
    r->fields = 0;
    return KD_OK;
}

static const char *field(const reader *r, size_t i) { return r->text + r->field[i]; }

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

/* For a sentence: what can be printed of a field, shortened. */
static const char *printable(const char *s, char buf[48])
{
    size_t n = 0;
    for (; s[n] && n < 40; n++) buf[n] = (s[n] >= ' ' && s[n] <= '~') ? s[n] : '?';
    snprintf(buf + n, 48 - n, "%s", s[n] ? "..." : "");
    return buf;
}

/* ---- columns ------------------------------------------------------------------------------ */

/* Whether the fields count 0, 1, 2, ... (at least three of them). */
static bool counts_from_zero(const reader *r)
{
    char want[24];
    for (size_t i = 0; i < r->fields; i++) {
        snprintf(want, sizeof(want), "%zu", i);
        if (strcmp(field(r, i), want)) return false;
    }
    return r->fields > 2;
}

/* Names the columns by the first record. *header: it was one. */
static kd_status take_names(reader *r, table *t, bool *header)
{
    number x;
    *header = counts_from_zero(r);
    for (size_t i = 0; i < r->fields && !*header; i++) *header = !parse(field(r, i), &x);
    if (!(t->name = calloc(r->fields, sizeof(*t->name))) || !(t->take = calloc(r->fields, sizeof(*t->take))))
        return kd_fail(r->err, KD_ENOMEM, "%s: out of memory", r->path);
    t->columns = r->fields;
    for (size_t i = 0; i < r->fields; i++)
        if (!(t->name[i] = *header ? kd_strdup(field(r, i)) : kd_sprintf("%zu", i + 1)))
            return kd_fail(r->err, KD_ENOMEM, "%s: out of memory", r->path);
    return KD_OK;
}

/* The index of a column by name, else by its number from 1; SIZE_MAX: none. */
static size_t find(const table *t, const char *name, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < t->columns; i++)
        if (strlen(t->name[i]) == len && !memcmp(t->name[i], name, len)) return i;
    if (!len || len > 6) return SIZE_MAX;
    for (size_t i = 0; i < len; i++) {
        if (!isdigit((unsigned char)name[i])) return SIZE_MAX;
        n = 10 * n + (size_t)(name[i] - '0');
    }
    return n >= 1 && n <= t->columns ? n - 1 : SIZE_MAX;
}

static kd_status no_column(const reader *r, const table *t, const char *name, kd_err *err)
{
    char shown[48], first[48], last[48];
    const char *near = kd_nearest(name, (const char *const *)t->name, t->columns);
    if (near)
        return kd_fail(err, KD_EUSAGE, "%s: no column '%s' (did you mean '%s'?)", r->path, name,
                       printable(near, shown));
    return kd_fail(err, KD_EUSAGE, "%s: no column '%s': its %zu columns run from '%s' to '%s'", r->path, name,
                   t->columns, printable(t->name[0], first), printable(t->name[t->columns - 1], last));
}

/* Decides which columns are taken; the first data record is at hand for `all numeric ones`. */
static kd_status choose(reader *r, table *t, const char *column, const char *exclude)
{
    number x;
    size_t skip = exclude ? find(t, exclude, strlen(exclude)) : SIZE_MAX, from = 0, to = t->columns - 1;
    if (exclude && skip == SIZE_MAX) return no_column(r, t, exclude, r->err);
    t->a->ndims = 1;
    if (column && (from = to = find(t, column, strlen(column))) != SIZE_MAX) {
        t->a->ndims = 0;
    } else if (column) {
        const char *colon = strchr(column, ':');
        if (!colon) return no_column(r, t, column, r->err);
        from = find(t, column, (size_t)(colon - column));
        to = find(t, colon + 1, strlen(colon + 1));
        if (from == SIZE_MAX || to == SIZE_MAX) return no_column(r, t, column, r->err);
        if (from > to) return kd_fail(r->err, KD_EUSAGE, "%s: columns '%s' run backwards", r->path, column);
    }
    for (size_t i = from; i <= to; i++)
        if (i != skip && (column || parse(field(r, i), &x))) t->take[t->n++] = i;
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
static kd_status widen(reader *r, table *t, kd_dtype to)
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
static kd_status add_record(reader *r, table *t, number *line)
{
    kd_dtype type = t->a->dtype;
    char shown[48], name[48];
    if (r->fields != t->columns)
        return kd_fail(r->err, KD_ECORRUPT, "%s:%llu: %zu fields, expected %zu%s", r->path,
                       (unsigned long long)r->record_line, r->fields, t->columns, kd__raw_cut(r->raw));
    for (size_t i = 0; i < t->n; i++) {
        const char *text = field(r, t->take[i]);
        if (!parse(text, &line[i]))
            return kd_fail(r->err, KD_ECORRUPT, "%s:%llu:%zu: %s%s%s in column '%s', expected a number",
                           r->path, (unsigned long long)r->record_line, t->take[i] + 1,
                           *text ? "'" : "nothing", printable(text, shown), *text ? "'" : "",
                           printable(t->name[t->take[i]], name));
        type = narrowest(type, &line[i]);
    }
    kd_status st = widen(r, t, type);
    for (size_t i = 0; i < t->n && !st; i++) store(t->a, t->values++, &line[i]);
    return st;
}

static kd_status read_table(reader *r, table *t, const char *column, const char *exclude)
{
    bool header;
    number *line = NULL;
    kd_status st = next_record(r);
    if (st) goto out;
    if (!r->fields) {
        st = kd_fail(r->err, KD_ECORRUPT, "%s: no records%s", r->path, kd__raw_cut(r->raw));
        goto out;
    }
    if ((st = take_names(r, t, &header)) || (header && (st = next_record(r)))) goto out;
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
        if (!(st = add_record(r, t, line))) st = next_record(r);
    t->a->rows = t->values / t->n;
    if (!st) st = kd__raw_end(r->raw, "its records", r->err);
out:
    free(line);
    return st;
}

static void skip_mark(reader *r)
{
    int c = next_byte(r); // fills the block
    if (c >= 0) r->at--;
    if (r->len - r->at >= 3 && !memcmp(r->block, "\xEF\xBB\xBF", 3)) r->at += 3;
}

kd_status kd__csv_read(kd_array *a, kd__rawfile *raw, char separator, const char *column, const char *exclude,
                       kd_err *err)
{
    table t = {.a = a};
    reader *r = calloc(1, sizeof(*r));
    if (!r) return kd_fail(err, KD_ENOMEM, "%s: out of memory", kd__raw_path(raw));
    r->raw = raw;
    r->path = kd__raw_path(raw);
    r->separator = separator;
    r->err = err;
    r->line = 1;
    skip_mark(r);
    kd_status st = read_table(r, &t, column, exclude);
    for (size_t i = 0; t.name && i < t.columns; i++) free(t.name[i]);
    free(t.name);
    free(t.take);
    free(r->text);
    free(r->field);
    free(r);
    return st;
}
