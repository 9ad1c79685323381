/* jsonl_file.c - files of JSON lines: an index of rows, and rows read where they are.
 *
 * The first pass parses every line, so whatever is wrong is said before anything is written: with file and
 * line. It keeps 24 bytes a row: the row's key and the byte where its line begins, counted on over
 * the files. The second pass reads and parses the lines that a chunk of the store wants.
 */
#include "exchange_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WINDOW 16384

typedef struct part {
    const char *path;
    int fd;
    uint64_t first, bytes; /* first: bytes of the files before */
} part;

typedef struct lines {
    part *part;
    size_t parts;
    const char *field, *order;
    kd_jsonl_row row; /* reused */
    char *text;       /* window of a file: `have` bytes from byte `from` */
    size_t cap, have;
    uint64_t from;
    const part *in;
    bool decided; /* by a row that has positions: what the columns are */
} lines;

static void close_lines(kd__input *in)
{
    lines *l = in->state;
    if (!l) return;
    for (size_t i = 0; i < l->parts; i++)
        if (l->part[i].fd >= 0) close(l->part[i].fd);
    kd_jsonl_row_release(&l->row);
    free(l->text);
    free(l->part);
    free(l);
}

static const part *part_of(const lines *l, uint64_t at)
{
    size_t i = l->parts - 1;
    while (i && l->part[i].first > at) i--;
    return &l->part[i];
}

/* "x.jsonl:17": counts the lines before, which only a message needs. */
static const char *line_name(const void *arg, uint64_t at, char *buf)
{
    const part *p = part_of(arg, at);
    char block[4096];
    uint64_t line = 1;
    for (uint64_t i = 0; i < at - p->first; i += sizeof block) {
        const size_t n = (size_t)(at - p->first - i < sizeof block ? at - p->first - i : sizeof block);
        if (kd__read_at(p->fd, block, n, i, p->path, NULL)) break;
        for (size_t k = 0; k < n; k++) line += block[k] == '\n';
    }
    snprintf(buf, 256, "%.200s:%llu", p->path, (unsigned long long)line);
    return buf;
}

/* The line that begins at byte `at` of a file, without its newline; borrowed until the next call. Neighbours
 * come from one window; a long line makes the window grow. */
static kd_status read_line(lines *l, const part *p, uint64_t at, const char **line, size_t *len, kd_err *err)
{
    if (l->in != p || at < l->from || at >= l->from + l->have) l->in = p, l->from = at, l->have = 0;
    for (size_t want = WINDOW;; want = kd_min_size(4 * want, (size_t)KD_JSONL_MAX_LINE + 1)) {
        const size_t skip = (size_t)(at - l->from), n = l->have - skip;
        const char *end = n ? memchr(l->text + skip, '\n', n) : NULL;
        const bool last = l->from + l->have == p->bytes;
        *line = l->text + skip;
        *len = end ? (size_t)(end - *line) : n;
        if (*len > KD_JSONL_MAX_LINE)
            return kd_fail(err, KD_ELIMIT, "%s: a line of more than %u bytes", p->path, KD_JSONL_MAX_LINE);
        if (end || last) return KD_OK;
        const size_t room = kd_max_size(want, n + 1);
        const size_t bytes = p->bytes - at < room ? (size_t)(p->bytes - at) : room;
        l->from = at;
        l->have = 0;
        kd_status st = kd__room(&l->text, &l->cap, bytes + 1, err);
        if (!st) st = kd__read_at(p->fd, l->text, bytes, at, p->path, err);
        if (st) return st;
        l->have = bytes;
    }
}

/* ---- the index ---------------------------------------------------------------------------------- */

/* What the first row with positions says of the column. */
static void decide(kd__input *in, const kd_jsonl_row *r, const kd_import_params *ip)
{
    kd__in_column *c = &in->col[0];
    snprintf(c->field, sizeof c->field, "%s", r->field);
    if (!kd__role_of_name(r->field, &c->role, c->tap)) {
        c->role = ip->role ? kd_role_parse(ip->role) : KD_ROLE_LOGITS;
        snprintf(c->tap, sizeof c->tap, "%.63s", ip->tap ? ip->tap : "");
    }
    c->dtype = KD_F32;
    c->sparse = r->sparse;
    if (r->ragged) c->dims[c->ndims++] = -1;
    c->dims[c->ndims++] = (int64_t)r->width;
    in->n = 1;
}

static kd_status same(const kd__input *in, const kd_jsonl_row *r, kd_err *err)
{
    const kd__in_column *c = &in->col[0];
    const bool ragged = c->dims[0] == -1;
    if (strcmp(c->field, r->field))
        return kd_fail(err, KD_EMISMATCH, "outputs are called %s, and %s in lines before", r->field,
                       c->field);
    if (r->ragged != ragged)
        return kd_fail(err, KD_EMISMATCH, "%s is one vector %s, and one %s in lines before", r->field,
                       r->ragged ? "a position" : "for the row", ragged ? "a position" : "for the row");
    if (!r->positions) return KD_OK;
    if (r->sparse != c->sparse)
        return kd_fail(err, KD_EMISMATCH, "%s is %s, and %s in lines before", r->field,
                       r->sparse ? "top-k entries" : "dense", c->sparse ? "top-k entries" : "dense");
    if (!r->sparse && (int64_t)r->width != c->dims[c->ndims - 1])
        return kd_fail(err, KD_EMISMATCH, "%s has %zu numbers, %lld in lines before", r->field, r->width,
                       (long long)c->dims[c->ndims - 1]);
    return KD_OK;
}

static kd_status open_match(kd__input *in, kd_store *s, const lines *l, kd_row_key key, kd_err *err)
{
    if (key == KD_KEY_NONE && !l->order)
        return kd_fail(
            err, KD_EUSAGE,
            "no \"id\" of 32 hex digits, \"source\" or \"row\" says which row it is; if the lines are "
            "in order, say --order store or --order source");
    if (key != KD_KEY_NONE && l->order)
        return kd_fail(err, KD_EUSAGE, "the lines say which row they are; leave --order out");
    if (key == KD_KEY_NONE) key = strcmp(l->order, "source") ? KD_KEY_ROW : KD_KEY_SOURCE;
    return kd__match_open(&in->match, s, key, err);
}

static kd_status add_line(kd__input *in, kd_store *s, uint64_t at, const char *text, size_t len,
                          kd_row_key *key, const kd_import_params *ip, kd_import_report *report, kd_err *err)
{
    lines *l = in->state;
    kd_jsonl_row *r = &l->row;
    kd_status st = kd_jsonl_line_parse(r, text, len, l->field, err);
    if (st) return st;
    if (!in->rows) {
        *key = r->key;
        if ((st = open_match(in, s, l, r->key, err))) return st;
    }
    if (r->key != *key)
        return kd_fail(err, KD_EMISMATCH, "says otherwise than the lines before which row it is");
    if (!l->decided && r->positions) decide(in, r, ip), l->decided = true;
    if (l->decided && (st = same(in, r, err))) return st;
    if (r->key == KD_KEY_NONE) kd__key_of_number(in->rows, r->id.b);
    if (r->most > in->most) in->most = r->most;
    if (r->largest > in->largest) in->largest = r->largest;
    if (r->worst > report->worst) report->worst = r->worst;
    report->over_one += r->over_one;
    in->rows++;
    return kd__match_add(&in->match, r->id.b, at, err);
}

static bool blank(const char *s, size_t n)
{
    while (n && (*s == ' ' || *s == '\t' || *s == '\r')) s++, n--;
    return !n;
}

static kd_status index_file(kd__input *in, kd_store *s, const part *p, kd_row_key *key,
                            const kd_import_params *ip, kd_import_report *report, kd_err *err)
{
    lines *l = in->state;
    uint64_t line = 0;
    const char *text;
    size_t len;
    for (uint64_t at = 0; at < p->bytes; at += len + 1) {
        if (ip->stop && *ip->stop) return kd_fail(err, KD_ESTOPPED, "%s: stopped while reading it", p->path);
        kd_status st = read_line(l, p, at, &text, &len, err);
        line++;
        if (st) return st;
        if (blank(text, len)) continue;
        if ((st = add_line(in, s, p->first + at, text, len, key, ip, report, err)))
            return kd_fail_in(err, st, "%s:%llu", p->path, (unsigned long long)line);
    }
    return KD_OK;
}

/* ---- reading ------------------------------------------------------------------------------------ */

static kd_status append_top(kd_sparse *to, const kd_sparse *from, kd_err *err)
{
    kd_status st = kd__top_reserve(to, to->positions + from->positions, to->entries + from->entries, err);
    if (st) return st;
    memcpy(to->id + to->entries, from->id, from->entries * sizeof *to->id);
    memcpy(to->value + to->entries, from->value, from->entries * sizeof *to->value);
    memcpy(to->exact + to->entries, from->exact, from->entries);
    memcpy(to->tail + to->positions, from->tail, from->positions * sizeof *to->tail);
    memcpy(to->logz + to->positions, from->logz, from->positions * sizeof *to->logz);
    for (size_t i = 0; i < from->positions; i++)
        to->offset[to->positions + 1 + i] = to->entries + from->offset[i + 1];
    to->positions += from->positions;
    to->entries += from->entries;
    return KD_OK;
}

static kd_status append_row(const kd_jsonl_row *r, kd__rows *out, kd_err *err)
{
    if (!r->positions) return KD_OK;
    if (r->sparse) return append_top(&out->top, &r->top, err);
    const size_t have = out->positions * r->width, n = r->positions * r->width;
    if ((have + n) > KD_IMPORT_MAX_CHUNK / sizeof(float))
        return kd_fail(err, KD_ELIMIT, "a chunk is more than %llu numbers; pack the data in smaller chunks",
                       KD_IMPORT_MAX_CHUNK / sizeof(float));
    kd_status st = kd__room(&out->values, &out->values_cap, (have + n) * sizeof(float), err);
    if (!st) memcpy(out->values + have, r->values, n * sizeof(float));
    return st;
}

static kd_status fetch(kd__input *in, size_t col, const uint64_t *at, uint32_t rows, kd__rows *out,
                       kd_err *err)
{
    lines *l = in->state;
    char name[256];
    const char *text;
    size_t len;
    (void)col;
    kd_status st = kd__room(&out->lengths, &out->lengths_cap, rows * sizeof(uint32_t), err);
    out->positions = out->top.positions = out->top.entries = 0;
    out->top.temperatures = 1;
    out->top.temperature[0] = 1;
    if (!st) st = kd__top_reserve(&out->top, 1, 1, err);
    for (uint32_t i = 0; i < rows && !st; i++) {
        const part *p = part_of(l, at[i]);
        if ((st = read_line(l, p, at[i] - p->first, &text, &len, err))) return st;
        st = kd_jsonl_line_parse(&l->row, text, len, l->field, err);
        if (!st) st = same(in, &l->row, err); // the file may have changed since it was indexed
        if (!st) st = append_row(&l->row, out, err);
        if (st) return kd_fail_in(err, st, "%s", line_name(l, at[i], name));
        out->lengths[i] = (uint32_t)l->row.positions; // at most values of a line
        out->positions += l->row.positions;
    }
    return st;
}

static kd_status sample(kd__input *in, uint64_t at, kd_hasher *h, kd_err *err)
{
    lines *l = in->state;
    const part *p = part_of(l, at);
    const char *text;
    size_t len;
    kd_status st = read_line(l, p, at - p->first, &text, &len, err);
    if (!st) kd_hasher_add(h, text, len);
    return st;
}

static kd_status open_part(lines *l, const char *path, kd_err *err)
{
    struct stat s;
    part *p = &l->part[l->parts++];
    p->path = path;
    if (l->parts > 1) p->first = p[-1].first + p[-1].bytes;
    if ((p->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return kd_fail_errno(err, errno, "%s: cannot open", path);
    if (fstat(p->fd, &s)) return kd_fail_errno(err, errno, "%s: cannot stat", path);
    if (!S_ISREG(s.st_mode))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: is read twice, so it must be a plain file", path);
    p->bytes = (uint64_t)s.st_size;
    return KD_OK;
}

kd_status kd__jsonl_open(kd__input *in, kd_store *s, const char *const *files, size_t n,
                         const kd_import_params *ip, kd_import_report *report, kd_err *err)
{
    lines *l = in->state = calloc(1, sizeof *l);
    kd_row_key key = KD_KEY_NONE;
    kd_status st = KD_OK;
    in->close = close_lines;
    in->fetch = fetch;
    in->sample = sample;
    if (!l || !(l->part = calloc(n, sizeof *l->part))) return kd_fail(err, KD_ENOMEM, "out of memory");
    if (ip->ids)
        return kd_fail(err, KD_EUSAGE,
                       "--ids is for arrays; a JSON line says itself which row it is: \"id\"");
    l->field = ip->field;
    l->order = ip->order;
    in->match.what = files[0];
    in->match.place = line_name;
    in->match.arg = l;
    for (size_t i = 0; i < n && !st; i++) {
        st = open_part(l, files[i], err);
        if (!st) st = index_file(in, s, &l->part[i], &key, ip, report, err);
    }
    in->match.rows = in->rows;
    if (!st && !l->decided) st = kd_fail(err, KD_ECORRUPT, "%s: no line has outputs", files[0]);
    return st;
}
