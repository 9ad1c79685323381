/* rowlist.c - a list of rows in a text file: which rows of a store to leave out, or to keep.
 *
 *     kd-rows 1 b4c3cf8b9cc2115f7bc842fb78e0e3b8
 *     17 0a52e8c1d7f3b6945e21c08fa7d94b30 label 4, the teacher says 6
 *
 * The first line names the store by the root of its base segment, which holds ids, inputs and labels: adding
 * a teacher does not change it, packing other labels does. Then a line a row: its number in the store, its
 * id, and anything behind them. A row is named twice because neither is enough: a number alone would silently
 * mean another row after the data were packed again, an id alone is that of all exact copies. Lines may be
 * removed by hand; empty ones and those that begin with # are passed over.
 */
#include "data_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINE 4096
#define MAGIC    "kd-rows 1 "

const char *kd_store_base_root(const kd_store *s)
{
    const json_t *base = json_array_get(json_object_get(kd_store_manifest(s), "segments"), 0);
    const char *root = json_string_value(json_object_get(base, "root"));
    return root ? root : kd_store_root(s);
}

/* Ids of a store's rows, a chunk at a time. */
typedef struct ids {
    kd_store *s;
    kd_cursor *cursor;
    int column;
    uint32_t chunk; /* that is decoded; the number of chunks: none is */
    kd_id *id;
} ids;

static kd_status ids_open(ids *r, kd_store *s, kd_err *err)
{
    *r = (ids){.s = s, .column = kd_store_find_role(s, KD_ROLE_ID, NULL), .chunk = kd_store_chunks(s)};
    if (r->column < 0)
        return kd_fail(err, KD_EMISMATCH, "%s: no column of ids; rows cannot be told apart",
                       kd_store_path(s));
    r->id = malloc(KD_STORE_MAX_CHUNK_ROWS * sizeof(*r->id));
    return r->id ? kd_cursor_open(&r->cursor, s, err) : kd_fail(err, KD_ENOMEM, "out of memory");
}

static void ids_close(ids *r)
{
    kd_cursor_close(r->cursor);
    free(r->id);
}

/* The last chunk whose first row is not behind this one. */
static uint32_t chunk_of(const kd_store *s, uint64_t row)
{
    uint32_t lo = 0, hi = kd_store_chunks(s);
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (kd_store_chunk(s, mid)->first <= row)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

static kd_status ids_at(ids *r, uint64_t row, kd_id *out, kd_err *err)
{
    uint32_t chunk = chunk_of(r->s, row);
    const kd_chunk_info *info = kd_store_chunk(r->s, chunk);
    if (chunk != r->chunk) {
        kd_status st = kd_cursor_read(r->cursor, r->column, chunk, r->id, info->rows * sizeof(*r->id), err);
        if (st) return st;
        r->chunk = chunk;
    }
    *out = r->id[row - info->first];
    return KD_OK;
}

/* ---- reading ------------------------------------------------------------------------------ */

static kd_status check_head(const char *line, const kd_store *s, const char *path, kd_err *err)
{
    kd_id id;
    if (strncmp(line, MAGIC, strlen(MAGIC)) || !kd_id_parse(line + strlen(MAGIC), &id))
        return kd_fail(err, KD_ECORRUPT,
                       "%s:1: no list of rows; expected \"" MAGIC "\" and 32 hex digits, as kd-audit writes",
                       path);
    if (strcmp(line + strlen(MAGIC), kd_store_base_root(s)))
        return kd_fail(err, KD_EMISMATCH,
                       "%s: a list of rows of another store: its data have the fingerprint %.32s, %s has "
                       "%s; make the list again: kd-audit -s %s",
                       path, line + strlen(MAGIC), kd_store_path(s), kd_store_base_root(s), kd_store_path(s));
    return KD_OK;
}

static kd_status take_line(const char *line, uint8_t *marks, ids *r, const char *path, uint64_t at,
                           kd_err *err)
{
    char *end, hex[33];
    kd_id want, have;
    errno = 0;
    const uint64_t row = strtoull(line, &end, 10);
    const bool number = *line >= '0' && *line <= '9' && !errno && *end == ' ';
    snprintf(hex, sizeof(hex), "%s", number ? end + 1 : "");
    if (!number || !kd_id_parse(hex, &want) || !strchr(" \t\r", end[33]))
        return kd_fail(err, KD_ECORRUPT, "%s:%llu: expected the number of a row and its id (32 hex digits)",
                       path, (unsigned long long)at);
    if (row >= kd_store_rows(r->s))
        return kd_fail(err, KD_EMISMATCH, "%s:%llu: row %llu, %s has %llu rows", path, (unsigned long long)at,
                       (unsigned long long)row, kd_store_path(r->s), (unsigned long long)kd_store_rows(r->s));
    kd_status st = ids_at(r, row, &have, err);
    if (st) return st;
    if (memcmp(have.b, want.b, sizeof(have.b))) {
        char is[33];
        kd_id_hex(have, is);
        return kd_fail(err, KD_EMISMATCH, "%s:%llu: unknown id: row %llu of %s is %s, not %s", path,
                       (unsigned long long)at, (unsigned long long)row, kd_store_path(r->s), is, hex);
    }
    marks[row / 8] |= (uint8_t)(1 << row % 8);
    return KD_OK;
}

static kd_status read_lines(FILE *f, uint8_t *marks, ids *r, const char *path, kd_err *err)
{
    char line[MAX_LINE];
    uint64_t at = 0;
    kd_status st = KD_OK;
    while (!st && fgets(line, sizeof(line), f)) {
        const size_t len = strlen(line);
        if (++at && len + 1 == sizeof(line) && line[len - 1] != '\n')
            return kd_fail(err, KD_ELIMIT, "%s:%llu: a line over %d bytes", path, (unsigned long long)at,
                           MAX_LINE);
        line[strcspn(line, "\r\n")] = '\0';
        if (at == 1)
            st = check_head(line, r->s, path, err);
        else if (*line && *line != '#')
            st = take_line(line, marks, r, path, at, err);
    }
    if (!st && ferror(f)) st = kd_fail_errno(err, errno, "%s: cannot read", path);
    return !st && !at ? check_head("", r->s, path, err) : st;
}

kd_status kd_rowlist_read(uint8_t *marks, kd_store *s, const char *path, kd_err *err)
{
    ids r;
    FILE *f = fopen(path, "re");
    if (!f) return kd_fail_errno(err, errno, "%s: cannot open the list of rows", path);
    kd_status st = ids_open(&r, s, err);
    if (!st) st = read_lines(f, marks, &r, path, err);
    ids_close(&r);
    fclose(f);
    return st;
}

/* ---- writing ------------------------------------------------------------------------------ */

kd_status kd_rowlist_write(const char *path, kd_store *s, const uint8_t *marks,
                           void (*why)(void *arg, uint64_t row, kd_buf *text), void *arg, kd_err *err)
{
    ids r;
    kd_newfile *f = NULL;
    kd_buf text = {0};
    kd_status st = ids_open(&r, s, err);
    if (!st) st = kd_newfile_open(&f, path, err);
    if (!st) fprintf(kd_newfile_stream(f), MAGIC "%s\n", kd_store_base_root(s));
    for (uint64_t row = 0; row < kd_store_rows(s) && !st; row++) {
        kd_id id;
        char hex[33];
        if (!kd_row_marked(marks, row) || (st = ids_at(&r, row, &id, err))) continue;
        kd_id_hex(id, hex);
        text.len = 0;
        if (why) why(arg, row, &text);
        fprintf(kd_newfile_stream(f), "%llu %s%s%s\n", (unsigned long long)row, hex, text.len ? " " : "",
                text.len ? text.text : "");
    }
    if (!st && text.failed) st = kd_fail(err, KD_ENOMEM, "out of memory");
    kd_buf_release(&text);
    ids_close(&r);
    if (!st) return kd_newfile_commit(f, err);
    kd_newfile_abort(f);
    return st;
}
