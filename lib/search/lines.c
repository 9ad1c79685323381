/* lines.c - texts from files, and questions with their answers. */
#include "kd/search.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>

#define MOST ((size_t)4 << 30)

/* ---- lines -------------------------------------------------------------------------------- */

static kd_status read_all(FILE *f, const char *path, char **bytes, size_t *len, kd_err *err)
{
    size_t room = 1 << 16, n = 0, got;
    char *b = malloc(room + 1);
    while (b && (got = fread(b + n, 1, room - n, f)) > 0) {
        if ((n += got) < room) continue;
        if (room >= MOST) {
            free(b);
            return kd_fail(err, KD_ELIMIT, "%s: more than 4 GiB of texts; split it", path);
        }
        char *more = realloc(b, 2 * room + 1);
        if (!more) {
            free(b);
            b = NULL;
        } else {
            b = more;
            room *= 2;
        }
    }
    if (!b) return kd_fail(err, KD_ENOMEM, "%s: no memory for its texts", path);
    if (ferror(f)) {
        free(b);
        return kd_fail_errno(err, errno, "%s: cannot read", path);
    }
    b[n] = '\0';
    *bytes = b;
    *len = n;
    return KD_OK;
}

static kd_status cut(kd_lines *l, size_t len, const char *path, kd_err *err)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += l->bytes[i] == '\n';
    if (!(l->v = malloc((n + 2) * sizeof(*l->v))))
        return kd_fail(err, KD_ENOMEM, "%s: no memory for %zu lines", path, n);
    for (size_t at = 0; at < len;) {
        char *line = l->bytes + at, *end = memchr(line, '\n', len - at);
        size_t size = end ? (size_t)(end - line) : len - at;
        at += size + 1;
        if (size && line[size - 1] == '\r') size--;
        line[size] = '\0';
        l->v[l->n++] = (kd_text){line, size};
    }
    return KD_OK;
}

kd_status kd_lines_read(kd_lines *out, const char *path, kd_err *err)
{
    const bool in = !strcmp(path, "-");
    FILE *f = in ? stdin : fopen(path, "r");
    size_t len = 0;
    *out = (kd_lines){0};
    if (!f) return kd_fail_errno(err, errno, "%s: cannot open", path);
    kd_status st = read_all(f, path, &out->bytes, &len, err);
    if (!in) fclose(f);
    if (!st) st = cut(out, len, path, err);
    if (st) kd_lines_release(out);
    return st;
}

void kd_lines_release(kd_lines *l)
{
    free(l->v);
    free(l->bytes);
    *l = (kd_lines){0};
}

/* ---- questions ---------------------------------------------------------------------------- */

typedef struct known {
    uint64_t hash;
    uint32_t doc;
} known;

static int by_hash(const void *a, const void *b)
{
    const known *x = a, *y = b;
    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : (x->doc > y->doc) - (x->doc < y->doc);
}

static int rising(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static bool find_document(const kd_quiz *q, const known *k, const char *text, size_t len, uint32_t *doc)
{
    const uint64_t hash = kd_hash64(text, len);
    size_t lo = 0, hi = q->docs.n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (k[mid].hash < hash)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < q->docs.n && k[lo].hash == hash; lo++) {
        const kd_text *d = &q->docs.v[k[lo].doc];
        *doc = k[lo].doc;
        if (d->len == len && !memcmp(d->bytes, text, len)) return true;
    }
    return false;
}

/* Line i, "query TAB answer|answer". */
static kd_status add_question(kd_quiz *q, const known *k, const char *path, size_t i, size_t *room,
                              kd_err *err)
{
    const char *line = q->file.v[i].bytes, *tab = strchr(line, '\t'), *at = tab ? tab + 1 : NULL;
    uint64_t n = q->offset[q->n];
    if (!tab) return kd_fail(err, KD_ECORRUPT, "%s:%zu: one column, expected query and answers", path, i + 1);
    q->query[q->n] = (kd_text){line, (size_t)(tab - line)};
    for (size_t len; *at; at += len + (at[len] == '|')) {
        len = strcspn(at, "|\t");
        if (n == *room) {
            uint32_t *more = realloc(q->relevant, (*room = 2 * *room + 1024) * sizeof(*more));
            if (!more) return kd_fail(err, KD_ENOMEM, "out of memory");
            q->relevant = more;
        }
        if (!find_document(q, k, at, len, &q->relevant[n++]))
            return kd_fail(err, KD_ECORRUPT, "%s:%zu: answer '%.*s' is none of the %zu documents", path,
                           i + 1, (int)kd_min_size(len, 80), at, q->docs.n);
        if (at[len] == '\t') break;
    }
    const uint64_t first = q->offset[q->n];
    if (n > first) qsort(q->relevant + first, (size_t)(n - first), sizeof(*q->relevant), rising);
    q->offset[++q->n] = n;
    return KD_OK;
}

kd_status kd_quiz_read(kd_quiz *q, const char *documents, const char *questions, kd_err *err)
{
    known *k = NULL;
    size_t room = 0;
    *q = (kd_quiz){0};
    kd_status st = kd_lines_read(&q->docs, documents, err);
    if (!st) st = kd_lines_read(&q->file, questions, err);
    if (!st && (q->file.n < 2 || strncmp(q->file.v[0].bytes, "query\tanswers", 13)))
        st = kd_fail(err, KD_ECORRUPT,
                     "%s: expected the columns query and answers, and a line for each question", questions);
    if (!st) {
        q->query = malloc(q->file.n * sizeof(*q->query));
        q->offset = calloc(q->file.n + 1, sizeof(*q->offset));
        k = malloc((q->docs.n + 1) * sizeof(*k));
        if (!q->query || !q->offset || !k) st = kd_fail(err, KD_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < q->docs.n && !st; i++)
        k[i] = (known){kd_hash64(q->docs.v[i].bytes, q->docs.v[i].len), (uint32_t)i};
    if (!st) qsort(k, q->docs.n, sizeof(*k), by_hash);
    for (size_t i = 1; i < q->file.n && !st; i++) st = add_question(q, k, questions, i, &room, err);
    free(k);
    if (st) kd_quiz_release(q);
    return st;
}

void kd_quiz_release(kd_quiz *q)
{
    kd_lines_release(&q->docs);
    kd_lines_release(&q->file);
    free(q->query);
    free(q->relevant);
    free(q->offset);
    *q = (kd_quiz){0};
}
