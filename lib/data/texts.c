/* texts.c - columns of texts from files: CSV and TSV, JSON lines, plain text.
 *
 * One pass over a file takes all wanted columns at once: texts, label and group belong together, and the
 * file may be a pipe. CSV begins with the names of its columns. A line of JSON is an object whose members are
 * strings or whole numbers. Of any other file each line is one text, the empty ones too, so that
 * row i is line i.
 */
#include "data_private.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void kd__cells_release(kd__cells *c)
{
    free(c->bytes);
    free(c->end);
    *c = (kd__cells){0};
}

kd_text kd__cell(const kd__cells *c, uint64_t row)
{
    const size_t from = row ? c->end[row - 1] : 0;
    return (kd_text){c->bytes + from, c->end[row] - from};
}

static kd_status add_cell(kd__cells *c, const char *s, size_t n, const char *path, kd_err *err)
{
    if (n > KD__SOURCE_MAX_BYTES - c->len)
        return kd_fail(err, KD_ELIMIT, "%s: more than %llu bytes of texts; split it", path,
                       (unsigned long long)KD__SOURCE_MAX_BYTES);
    if (c->len + n > c->cap || !c->bytes) {
        const size_t cap = c->cap + c->cap / 2 + n + 4096;
        char *more = realloc(c->bytes, cap);
        if (!more) return kd_fail(err, KD_ENOMEM, "%s: no memory for %zu bytes of texts", path, cap);
        c->bytes = more;
        c->cap = cap;
    }
    if (c->rows == c->rows_cap) {
        const uint64_t cap = 2 * c->rows_cap + 1024;
        size_t *more = realloc(c->end, cap * sizeof *more);
        if (!more)
            return kd_fail(err, KD_ENOMEM, "%s: no memory for %llu texts", path, (unsigned long long)cap);
        c->end = more;
        c->rows_cap = cap;
    }
    if (n) memcpy(c->bytes + c->len, s, n);
    c->end[c->rows++] = c->len += n;
    return KD_OK;
}

/* ---- CSV and TSV ------------------------------------------------------------------------------ */

/* Where each wanted column stands in a record. */
static kd_status find_columns(const kd__records *r, const char *const *columns, size_t n, size_t *at,
                              kd_err *err)
{
    char **names = calloc(r->fields + 1, sizeof *names);
    kd_status st = names ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: out of memory", r->path);
    for (size_t i = 0; i < r->fields && !st; i++) names[i] = r->text + r->field[i];
    for (size_t i = 0; i < n && !st; i++) {
        at[i] = kd__records_find(names, r->fields, columns[i], strlen(columns[i]));
        if (at[i] == SIZE_MAX) st = kd__records_no_column(r->path, names, r->fields, columns[i], err);
    }
    free(names);
    return st;
}

static kd_status read_records(kd__rawfile *raw, char separator, kd__cells *out, const char *const *columns,
                              size_t n, kd_err *err)
{
    kd__records *r;
    size_t at[KD__CELLS_MAX], fields;
    kd_status st = kd__records_open(&r, raw, separator, err);
    if (st) return st;
    if ((st = kd__records_next(r))) goto out;
    fields = r->fields;
    if (!fields) st = kd_fail(err, KD_ECORRUPT, "%s: no records%s", r->path, kd__raw_cut(raw));
    if (!st) st = find_columns(r, columns, n, at, err);
    while (!st && !(st = kd__records_next(r)) && r->fields) {
        if (r->fields != fields)
            st = kd_fail(err, KD_ECORRUPT, "%s:%llu: %zu fields, its header has %zu%s", r->path,
                         (unsigned long long)r->record_line, r->fields, fields, kd__raw_cut(raw));
        for (size_t i = 0; i < n && !st; i++) {
            const char *s = kd__records_field(r, at[i]);
            st = add_cell(&out[i], s, strlen(s), r->path, err);
        }
    }
out:
    kd__records_close(r);
    return st;
}

/* ---- lines -------------------------------------------------------------------------------------- */

typedef struct lines {
    kd__rawfile *raw;
    char block[65536];
    size_t at, len;
    uint64_t line;
    kd_buf text; /* of the current line */
} lines;

/* The next line without its end; *more false: there is none. */
static kd_status next_line(lines *l, bool *more, kd_err *err)
{
    const char *path = kd__raw_path(l->raw);
    bool any = false, whole = false;
    l->text.len = 0;
    l->line++;
    while (!whole) {
        if (l->at == l->len) {
            l->at = 0;
            kd_status st = kd__raw_read(l->raw, l->block, sizeof l->block, &l->len, err);
            if (st) return st;
            if (!l->len) break;
        }
        const char *from = l->block + l->at, *end = memchr(from, '\n', l->len - l->at);
        const size_t k = end ? (size_t)(end - from) : l->len - l->at;
        kd_buf_append(&l->text, from, k);
        l->at += k + (end != NULL);
        any = true;
        whole = end != NULL;
        if (l->text.failed) return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
        if (l->text.len > KD__CSV_MAX_RECORD)
            return kd_fail(err, KD_ELIMIT, "%s:%llu: a line longer than %u bytes", path,
                           (unsigned long long)l->line, KD__CSV_MAX_RECORD);
    }
    if (l->text.len && l->text.text[l->text.len - 1] == '\r') l->text.len--;
    if (l->line == 1 && l->text.len >= 3 && !memcmp(l->text.text, "\xEF\xBB\xBF", 3)) { // byte order mark
        l->text.len -= 3;
        memmove(l->text.text, l->text.text + 3, l->text.len);
    }
    *more = any;
    return KD_OK;
}

static kd_status add_list(kd__cells *out, const json_t *v, const char *key, const char *path, uint64_t line,
                          kd_err *err)
{
    if (!json_is_array(v))
        return kd_fail(err, KD_ECORRUPT, "%s:%llu: member '%s' is %s, expected a list of messages", path,
                       (unsigned long long)line, key, v ? "no list" : "missing");
    char *text = json_dumps(v, JSON_COMPACT);
    if (!text) return kd_fail(err, KD_ENOMEM, "%s:%llu: out of memory", path, (unsigned long long)line);
    kd_status st = add_cell(out, text, strlen(text), path, err);
    free(text);
    return st;
}

/* One member of a JSON line as text. */
static kd_status add_member(kd__cells *out, const json_t *o, const char *key, const char *path, uint64_t line,
                            kd_err *err)
{
    const json_t *v = json_object_get(o, key);
    char number[32];
    if (out->lists) return add_list(out, v, key, path, line, err);
    if (json_is_string(v)) return add_cell(out, json_string_value(v), json_string_length(v), path, err);
    if (!json_is_integer(v))
        return kd_fail(err, KD_ECORRUPT, "%s:%llu: member '%s' is %s, expected a string", path,
                       (unsigned long long)line, key, v ? "neither a string nor a whole number" : "missing");
    snprintf(number, sizeof number, "%lld", (long long)json_integer_value(v));
    return add_cell(out, number, strlen(number), path, err);
}

static kd_status add_object(const lines *l, kd__cells *out, const char *const *columns, size_t n, kd_err *err)
{
    const char *path = kd__raw_path(l->raw);
    json_t *o;
    json_error_t at;
    char shown[48];
    kd_status st = kd_json_parse(&o, l->text.text, l->text.len, &at);
    if (st == KD_ENOMEM) return kd_fail(err, st, "%s:%llu: out of memory", path, (unsigned long long)l->line);
    if (st)
        return kd_fail(err, st, "%s:%llu:%d: not valid JSON: %s", path, (unsigned long long)l->line,
                       at.column, kd__printable(at.text, shown));
    if (!json_is_object(o))
        st = kd_fail(err, KD_ECORRUPT, "%s:%llu: not a JSON object", path, (unsigned long long)l->line);
    for (size_t i = 0; i < n && !st; i++) st = add_member(&out[i], o, columns[i], path, l->line, err);
    json_decref(o);
    return st;
}

static kd_status read_lines(kd__rawfile *raw, bool json, kd__cells *out, const char *const *columns, size_t n,
                            kd_err *err)
{
    lines *l = calloc(1, sizeof *l);
    bool more = true;
    if (!l) return kd_fail(err, KD_ENOMEM, "%s: out of memory", kd__raw_path(raw));
    l->raw = raw;
    kd_status st = KD_OK;
    while (!st && !(st = next_line(l, &more, err)) && more) {
        if (!json)
            st = add_cell(out, l->text.text, l->text.len, kd__raw_path(raw), err);
        else if (l->text.len)
            st = add_object(l, out, columns, n, err);
    }
    kd_buf_release(&l->text);
    free(l);
    return st;
}

/* ---- any of them ---------------------------------------------------------------------------------- */

static bool named(const char *path, const char *end)
{
    size_t n = strlen(path), k = strlen(end);
    if (n > 3 && !strcasecmp(path + n - 3, ".gz")) n -= 3;
    return n > k && !strncasecmp(path + n - k, end, k);
}

bool kd__texts_have_columns(const char *path)
{
    return kd__source_is_text(path) || named(path, ".jsonl") || named(path, ".ndjson");
}

kd_status kd__texts_read(kd__cells *out, const char *const *columns, size_t n, const char *path,
                         uint64_t *bytes, kd_id *hash, kd_err *err)
{
    kd__rawfile *raw;
    const uint64_t had = out->rows;
    const bool csv = named(path, ".csv"), tsv = named(path, ".tsv"),
               json = !csv && !tsv && kd__texts_have_columns(path);
    kd_status st = kd__raw_open(&raw, path, err);
    if (st) return st;
    if (csv || tsv)
        st = read_records(raw, csv ? ',' : '\t', out, columns, n, err);
    else
        st = read_lines(raw, json, out, columns, n, err);
    if (!st) st = kd__raw_end(raw, "its texts", err);
    if (!st && out->rows == had) st = kd_fail(err, KD_ECORRUPT, "%s: no texts", path);
    kd__raw_identity(raw, bytes, hash);
    kd__raw_close(raw);
    return st;
}
