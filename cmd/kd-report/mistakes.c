/* mistakes.c - the rows themselves: what a student took over from its teacher, broke, and mended.
 *
 * Pictures come from the store by row number and stand in the page as PNG data. They are made no larger than
 * SIDE pixels, and stop where the page's budget ends; rows that are no pictures, or whose store is not there,
 * are lines of text.
 */
#include "report_cmd.h"

#include "kd/data.h"
#include "kd/store.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SIDE     64
#define STUDENTS 8

/* The store's input column, and the chunk that was read last. */
typedef struct album {
    kd_store *store;
    kd_cursor *cursor;
    int column;
    int64_t height, width, channels; /* 0: rows are no pictures */
    size_t row_bytes;
    int64_t chunk; /* -1: none */
    void *rows;
} album;

static void close_album(album *a)
{
    kd_cursor_close(a->cursor);
    kd_store_close(a->store);
    free(a->rows);
}

/* Why there are no pictures, in err; the album is closed then. */
static kd_status open_album(album *a, const report *r, kd_err *err)
{
    *a = (album){.chunk = -1, .column = -1};
    const json_t *s = json_object_get(r->results, "store");
    char *path = r->o->store ? kd_strdup(r->o->store) : locate(r, str(s, "path"));
    kd_status st = path ? kd_store_open(&a->store, path, err)
                        : kd_fail(err, KD_ENOTFOUND, "%.200s: the store is not there; name it: --store STORE",
                                  str(s, "path"));
    free(path);
    if (st) return st;
    if (strcmp(kd_store_root(a->store), str(s, "root")) && strcmp("", str(s, "root")))
        kd_cli_detail(r->cli,
                      "%s: its root is not that of the results; columns were added, or it is another store",
                      kd_store_path(a->store));
    a->column = kd_store_find_role(a->store, KD_ROLE_INPUT, NULL);
    const kd_column *c = a->column < 0 ? NULL : kd_store_column(a->store, (size_t)a->column);
    if (!c || strcmp(c->encoding, "dense") ||
        !(c->ndims == 2 || (c->ndims == 3 && (c->dims[2] == 1 || c->dims[2] == 3))) || c->dims[0] < 1)
        st = kd_fail(err, KD_EUNSUPPORTED, "%s: its rows are no pictures", kd_store_path(a->store));
    else
        st = kd_cursor_open(&a->cursor, a->store, err);
    if (!st) {
        a->height = c->dims[0], a->width = c->dims[1], a->channels = c->ndims == 3 ? c->dims[2] : 1;
        a->row_bytes = (size_t)(a->height * a->width * a->channels) * kd_dtype_size(c->dtype);
    }
    if (st) close_album(a);
    return st;
}

static kd_status find_row(album *a, uint64_t row, const void **out, kd_err *err)
{
    for (uint32_t c = 0; c < kd_store_chunks(a->store); c++) {
        const kd_chunk_info *ci = kd_store_chunk(a->store, c);
        if (row < ci->first || row >= ci->first + ci->rows) continue;
        if (a->chunk != c) {
            const size_t bytes = ci->rows * a->row_bytes;
            free(a->rows);
            a->chunk = -1;
            if (!(a->rows = malloc(bytes)))
                return kd_fail(err, KD_ENOMEM, "no memory for a chunk of %zu bytes", bytes);
            kd_status st = kd_cursor_read(a->cursor, a->column, c, a->rows, bytes, err);
            if (st) return st;
            a->chunk = c;
        }
        *out = (char *)a->rows + (row - ci->first) * a->row_bytes;
        return KD_OK;
    }
    return kd_fail(err, KD_EMISMATCH, "%s: there is no row %llu; the results are of another store",
                   kd_store_path(a->store), (unsigned long long)row);
}

/* Bytes as they are; other numbers are stretched from their smallest to their largest. */
static kd_status to_bytes(const album *a, const void *row, uint8_t *out, kd_err *err)
{
    const kd_dtype t = kd_store_column(a->store, (size_t)a->column)->dtype;
    const size_t n = (size_t)(a->height * a->width * a->channels);
    if (t == KD_U8) return memcpy(out, row, n), KD_OK;
    float *v = malloc(n * sizeof *v), lo = INFINITY, hi = -INFINITY;
    if (!v) return kd_fail(err, KD_ENOMEM, "no memory for a picture");
    kd_to_f32(v, row, t, n);
    for (size_t i = 0; i < n; i++) lo = fminf(lo, v[i]), hi = fmaxf(hi, v[i]);
    for (size_t i = 0; i < n; i++)
        out[i] = hi > lo && isfinite(v[i]) ? (uint8_t)(255 * (v[i] - lo) / (hi - lo)) : 0;
    free(v);
    return KD_OK;
}

static kd_status small_png(const album *a, const void *row, kd_buf *png, kd_err *err)
{
    const size_t n = (size_t)(a->height * a->width * a->channels);
    const int64_t long_side = a->height > a->width ? a->height : a->width,
                  by = long_side > SIDE ? long_side : SIDE;
    const int64_t h = long_side > SIDE ? (a->height * SIDE + by - 1) / by : a->height,
                  w = long_side > SIDE ? (a->width * SIDE + by - 1) / by : a->width;
    uint8_t *bytes = malloc(n);
    float *fit = malloc((size_t)(h * w * a->channels) * sizeof *fit);
    kd_status st =
        bytes && fit ? to_bytes(a, row, bytes, err) : kd_fail(err, KD_ENOMEM, "no memory for a picture");
    const kd_image im = {.height = a->height, .width = a->width, .channels = a->channels, .pixels = bytes};
    if (!st && !(st = kd_image_fit(&im, h, w, a->channels, fit, err))) {
        for (int64_t i = 0; i < h * w * a->channels; i++) bytes[i] = (uint8_t)(fit[i] + 0.5f);
        st = kd_image_png(png, bytes, h, w, a->channels, err);
    }
    free(bytes);
    free(fit);
    return st;
}

static void base64(kd_buf *b, const uint8_t *p, size_t n)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        const unsigned v = p[i] << 16 | (i + 1 < n ? p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        const char four[4] = {digit[v >> 18], digit[v >> 12 & 63], i + 1 < n ? digit[v >> 6 & 63] : '=',
                              i + 2 < n ? digit[v & 63] : '='};
        kd_buf_append(b, four, 4);
    }
}

/* ---- one row ------------------------------------------------------------------------------------- */

/* "labelled Shirt, teacher Coat, student Coat": for those who do not see the picture. */
static void put_alt(report *r, const json_t *e)
{
    static const char *const key[] = {"label", "teacher", "student"}, *const word[] = {"labelled ",
                                                                                       ", teacher ",
                                                                                       ", student "};
    char name[24];
    for (int i = 0; i < 3; i++) {
        kd_buf_puts(&r->page, word[i]);
        html_text(&r->page, class_name(r, (int64_t)num(e, key[i]), name));
    }
}

static void put_caption(report *r, const json_t *e, const char *kind)
{
    kd_buf *b = &r->page;
    char name[24];
    kd_buf_puts(b, "<figcaption>");
    html_text(b, class_name(r, (int64_t)num(e, "label"), name));
    kd_buf_puts(b, "<br>");
    kd_buf_puts(b, !strcmp(kind, "mended") ? "teacher: <b>" : "→ <b>");
    html_text(b, class_name(r, (int64_t)num(e, strcmp(kind, "mended") ? "student" : "teacher"), name));
    kd_buf_puts(b, "</b>");
    if (isfinite(num(e, "confidence"))) kd_buf_printf(b, "<br>%.0f %% sure", 100 * num(e, "confidence"));
    kd_buf_puts(b, "</figcaption>");
}

static kd_status put_row(report *r, album *a, const json_t *e, const char *kind, kd_err *err)
{
    kd_buf *b = &r->page, png = {0};
    const void *row = NULL;
    kd_status st = KD_OK;
    if (a->store && !(st = find_row(a, (uint64_t)num(e, "row"), &row, err)))
        st = small_png(a, row, &png, err);
    const size_t bytes = (png.len + 2) / 3 * 4;
    if (!st && bytes <= r->room) {
        kd_buf_printf(b, "<figure title=\"row %.0f\">", num(e, "row"));
        if (png.len) {
            kd_buf_puts(b, "<img alt=\"");
            put_alt(r, e);
            kd_buf_puts(b, "\" src=\"data:image/png;base64,");
            base64(b, (uint8_t *)png.text, png.len);
            kd_buf_puts(b, "\">");
        } else {
            kd_buf_printf(b, "<small>row %.0f</small>", num(e, "row"));
        }
        put_caption(r, e, kind);
        kd_buf_puts(b, "</figure>\n");
        r->room -= bytes;
    }
    kd_buf_release(&png);
    return st;
}

/* ---- the section ---------------------------------------------------------------------------------- */

static kd_status put_kind(report *r, album *a, const json_t *mistakes, const char *kind, const char *what,
                          kd_err *err)
{
    const json_t *e, *o = json_object_get(mistakes, kind), *list = json_object_get(o, "rows");
    char v[40];
    size_t i;
    kd_status st = KD_OK;
    if (!o) return KD_OK;
    kd_buf_printf(&r->page, "<h4>%s <small>%s over all seeds</small></h4>\n", what,
                  number(v, num(o, "count"), AS_COUNT));
    if (!json_array_size(list)) return KD_OK;
    kd_buf_puts(&r->page, "<div class=shots>\n");
    json_array_foreach(list, i, e)
    {
        if (!st && i < (size_t)r->o->images && num(e, "row") >= 0) st = put_row(r, a, e, kind, err);
    }
    kd_buf_puts(&r->page, "</div>\n");
    return st;
}

kd_status put_mistakes(report *r, kd_err *err)
{
    const json_t *s;
    size_t i, shown = 0;
    album a;
    kd_err why = {0};
    html_section(r, "mistakes", "Mistakes",
                 "The rows behind the shares: those that most seeds agree on first, then the most confident "
                 "ones. Under each "
                 "picture its label, what was said, and how sure the student was.");
    if (open_album(&a, r, &why)) {
        kd_cli_warn(r->cli, "%s; the page shows row numbers in place of pictures", why.msg);
        a = (album){.chunk = -1};
    }
    kd_status st = KD_OK;
    json_array_foreach(json_object_get(r->results, "students"), i, s)
    {
        const json_t *m = json_object_get(s, "mistakes");
        if (!m || st || ++shown > STUDENTS || json_is_true(json_object_get(s, "is_teacher"))) continue;
        kd_buf_puts(&r->page, "<h3>");
        html_text(&r->page, model_name(r, s));
        kd_buf_puts(&r->page, "</h3>\n");
        st = put_kind(r, &a, m, "copied", "Copied: the teacher is wrong, and the student with it.", err);
        if (!st) st = put_kind(r, &a, m, "new", "New: the teacher is right, the student is not.", err);
        if (!st)
            st = put_kind(r, &a, m, "mended", "Mended: the teacher is wrong, the student is right.", err);
    }
    if (!shown) kd_buf_puts(&r->page, "<p class=note>The store has no teacher to compare with.</p>\n");
    close_album(&a);
    return st;
}
