/* records.c - records of comma- or tab-separated text.
 *
 * RFC 4180: fields may be quoted, "" inside quotes is one quote, quoted fields may hold separators and
 * newlines, lines end with LF or CRLF. Blank lines and a UTF-8 byte order mark are skipped.
 */
#include "data_private.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* The next byte, -1 at the end, -2 on failure (r->failed). */
static int next_byte(kd__records *r)
{
    if (r->at == r->len) {
        r->at = 0;
        if (!r->failed) r->failed = kd__raw_read(r->raw, r->block, sizeof(r->block), &r->len, r->err);
        if (r->failed) r->len = 0;
        if (r->len == 0) return r->failed ? -2 : -1;
    }
    return r->block[r->at++];
}

static kd_status put(kd__records *r, char c)
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

static kd_status put_text(kd__records *r, int c)
{
    if (c) return put(r, (char)c);
    return kd_fail(r->err, KD_ECORRUPT, "%s:%llu:%zu: a zero byte", r->path, (unsigned long long)r->line,
                   r->fields);
}

static kd_status begin_field(kd__records *r)
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
static kd_status quoted(kd__records *r, int *c)
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
static kd_status one_field(kd__records *r, int *c)
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

kd_status kd__records_next(kd__records *r)
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

static void skip_mark(kd__records *r)
{
    int c = next_byte(r); // fills the block
    if (c >= 0) r->at--;
    if (r->len - r->at >= 3 && !memcmp(r->block, "\xEF\xBB\xBF", 3)) r->at += 3;
}

kd_status kd__records_open(kd__records **out, kd__rawfile *raw, char separator, kd_err *err)
{
    kd__records *r = *out = calloc(1, sizeof(*r));
    if (!r) return kd_fail(err, KD_ENOMEM, "%s: out of memory", kd__raw_path(raw));
    r->raw = raw;
    r->path = kd__raw_path(raw);
    r->separator = separator;
    r->err = err;
    r->line = 1;
    skip_mark(r);
    return KD_OK;
}

void kd__records_close(kd__records *r)
{
    if (!r) return;
    free(r->text);
    free(r->field);
    free(r);
}

size_t kd__records_find(char *const *names, size_t n, const char *name, size_t len)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (strlen(names[i]) == len && !memcmp(names[i], name, len)) return i;
    if (!len || len > 6) return SIZE_MAX;
    for (size_t i = 0; i < len; i++) {
        if (!isdigit((unsigned char)name[i])) return SIZE_MAX;
        k = 10 * k + (size_t)(name[i] - '0');
    }
    return k >= 1 && k <= n ? k - 1 : SIZE_MAX;
}

const char *kd__printable(const char *s, char buf[48])
{
    size_t n = 0;
    for (; s[n] && n < 40; n++) buf[n] = (s[n] >= ' ' && s[n] <= '~') ? s[n] : '?';
    snprintf(buf + n, 48 - n, "%s", s[n] ? "..." : "");
    return buf;
}

kd_status kd__records_no_column(const char *path, char *const *names, size_t n, const char *name, kd_err *err)
{
    char shown[48], first[48], last[48];
    const char *near = kd_nearest(name, (const char *const *)names, n);
    if (near)
        return kd_fail(err, KD_EUSAGE, "%s: no column '%s' (did you mean '%s'?)", path, name,
                       kd__printable(near, shown));
    return kd_fail(err, KD_EUSAGE, "%s: no column '%s': its %zu columns run from '%s' to '%s'", path, name, n,
                   kd__printable(names[0], first), kd__printable(names[n - 1], last));
}
