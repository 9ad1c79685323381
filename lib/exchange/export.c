/* export.c - columns of a store as a file of another format: what all formats share.
 *
 * Rows keep the store's order. Formats that are written row by row (JSON lines, CSV) read a chunk of all
 * columns and write its rows; the others write a column at a time and walk the chunks once for each. Encoded
 * columns leave as the f32 they decode to, dense ones in their own type. The file is written under a
 * temporary name and renamed when it is whole.
 */
#include "exchange_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct {
    const char *name;
    bool rows; /* written row by row: can go to stdout */
    kd_status (*write)(kd__export *x, kd_err *err);
} formats[] = {{"npy", false, kd__export_npy},
               {"safetensors", false, kd__export_safetensors},
               {"jsonl", true, kd__export_jsonl},
               {"csv", true, kd__export_csv}};

bool kd__export_next(const kd__export *x, kd__walk *w)
{
    uint32_t i = w->begun ? w->chunk + 1 : 0;
    if (!w->begun) w->left = x->rows;
    w->begun = true;
    for (; i < kd_store_chunks(x->s) && w->left; i++) {
        const kd_chunk_info *ci = kd_store_chunk(x->s, i);
        if (x->p->split >= 0 && (int)ci->split != x->p->split) continue;
        w->chunk = i;
        w->rows = ci->rows < w->left ? ci->rows : (uint32_t)w->left;
        w->left -= w->rows;
        return true;
    }
    return false;
}

kd_status kd__export_step(kd__export *x, uint64_t rows, kd_err *err)
{
    x->done += rows;
    if (x->p->progress) x->p->progress(x->p->arg, x->done, x->total);
    if (x->p->stop && *x->p->stop)
        return kd_fail(err, KD_ESTOPPED, "%s: stopped, nothing is left of it", x->path);
    // Why, the file says when it is committed.
    return ferror(x->f) ? kd_fail(err, KD_EIO, "%s: cannot write", x->path) : KD_OK;
}

/* ---- a column's chunk --------------------------------------------------------------------------- */

static void view_init(kd__view *v, const kd_store *s, int column)
{
    const kd_column *c = kd_store_column(s, (size_t)column);
    const kd_codec_info *info = kd_codec_find(c->encoding);
    v->c = c;
    v->column = column;
    v->sparse = info && info->sparse;
    v->ragged = c->ndims && c->dims[0] == -1;
    v->dtype = info ? KD_F32 : c->dtype;
    v->each = kd_column_each(c);
    v->width = kd_column_width(c);
}

static void view_release(kd__view *v)
{
    kd_sparse_release(&v->top);
    free(v->block);
    free(v->wide);
    free(v->lengths);
}

size_t kd__view_positions(const kd__view *v, uint32_t rows)
{
    size_t n = 0;
    if (!v->ragged) return rows * v->each;
    for (uint32_t r = 0; r < rows; r++) n += v->lengths[r];
    return n * v->each;
}

/* Values of a dense column as they are stored. */
static kd_status read_plain(kd__export *x, kd__view *v, uint32_t chunk, kd_err *err)
{
    size_t size;
    const uint32_t rows = kd_store_chunk(x->s, chunk)->rows;
    kd_status st = kd_cursor_size(x->cursor, v->column, chunk, &size, err);
    if (!st) st = kd__room(&v->block, &v->block_cap, size + 1, err);
    if (!st) st = kd_cursor_read(x->cursor, v->column, chunk, v->block, size, err);
    v->data = (const uint8_t *)v->block + (v->ragged ? 4 * (size_t)rows : 0);
    return st;
}

kd_status kd__view_read(kd__export *x, kd__view *v, uint32_t chunk, bool widen, kd_err *err)
{
    const uint32_t rows = kd_store_chunk(x->s, chunk)->rows;
    const bool dense = !kd_codec_find(v->c->encoding);
    kd_status st = kd__room(&v->lengths, &v->lengths_cap, rows * sizeof(uint32_t), err);
    if (!st) st = kd_cursor_lengths(x->cursor, v->column, chunk, v->lengths, &v->positions, err);
    if (st) return st;
    if (v->sparse) return kd_cursor_read_sparse(x->cursor, v->column, chunk, &v->top, err);
    const size_t n = v->positions * v->width;
    if (dense && !(widen && v->c->dtype == KD_BF16)) return read_plain(x, v, chunk, err);
    if ((st = kd__room(&v->wide, &v->wide_cap, n * sizeof(float) + 1, err))) return st;
    v->dtype = KD_F32;
    v->data = v->wide;
    return kd_cursor_read_f32(x->cursor, v->column, chunk, v->wide, v->positions, err);
}

/* ---- opening ------------------------------------------------------------------------------------ */

static kd_status unknown_column(const kd_store *s, const char *name, kd_err *err)
{
    const char *names[KD_STORE_MAX_COLUMNS];
    const size_t n = kd_min_size(kd_store_columns(s), KD_STORE_MAX_COLUMNS);
    for (size_t i = 0; i < n; i++) names[i] = kd_store_column(s, i)->name;
    const char *near = kd_nearest(name, names, n);
    if (near)
        return kd_fail(err, KD_ENOTFOUND, "%s: no column '%.80s' (did you mean '%s'?)", kd_store_path(s),
                       name, near);
    return kd_fail(err, KD_ENOTFOUND, "%s: no column '%.80s'; kd-store stat lists them", kd_store_path(s),
                   name);
}

static kd_status open_columns(kd__export *x, kd_err *err)
{
    const kd_export_params *p = x->p;
    if (!p->n)
        return kd_fail(err, KD_EUSAGE,
                       "which columns? name at least one, as kd-store stat lists them");
    if (p->n > KD_STORE_MAX_COLUMNS || !(x->view = calloc(p->n, sizeof *x->view)))
        return kd_fail(err, KD_ENOMEM, "no memory for %zu columns", p->n);
    for (; x->n < p->n; x->n++) {
        const int i = kd_store_find(x->s, p->columns[x->n]);
        if (i < 0) return unknown_column(x->s, p->columns[x->n], err);
        for (size_t k = 0; k < x->n; k++)
            if (x->view[k].column == i) return kd_fail(err, KD_EUSAGE, "column '%s' twice", p->columns[x->n]);
        view_init(&x->view[x->n], x->s, i);
    }
    const int id = kd_store_find_role(x->s, KD_ROLE_ID, NULL);
    if (id < 0) return kd_fail(err, KD_ECORRUPT, "%s: has no column of ids", kd_store_path(x->s));
    view_init(&x->id, x->s, id);
    const uint64_t all = p->split < 0 ? kd_store_rows(x->s) : kd_store_split_rows(x->s, (kd_split)p->split);
    x->rows = p->rows && p->rows < all ? p->rows : all;
    x->total = x->rows;
    if (!x->rows)
        return kd_fail(err, KD_EUSAGE, "%s: has no rows of split %s", kd_store_path(x->s),
                       p->split < 0 ? "any" : kd_split_name((kd_split)p->split));
    return kd_cursor_open(&x->cursor, x->s, err);
}

static kd_status find_format(const char *path, const char *name, size_t *out, kd_err *err)
{
    const char *dot = strrchr(kd_path_base(path), '.');
    const bool output = !strcmp(path, "-");
    if (!name && dot) name = dot + 1;
    for (*out = 0; name && *out < KD_COUNT(formats); ++*out)
        if (!strcmp(name, formats[*out].name)) {
            if (!output || formats[*out].rows) return KD_OK;
            return kd_fail(err, KD_EUSAGE, "%s cannot go to stdout; name a file with -o", name);
        }
    return kd_fail(err, KD_EUSAGE, "%s: say which format with %s: npy, safetensors, jsonl or csv", path,
                   output ? "--format" : "--format or the name's end");
}

kd_status kd_export(kd_store *s, const char *path, const kd_export_params *p, kd_export_report *report,
                    kd_err *err)
{
    kd__export x = {.s = s, .p = p, .path = path, .f = stdout};
    kd_newfile *file = NULL;
    struct stat sb;
    size_t format;
    const bool output = !strcmp(path, "-");
    kd_status st = find_format(path, p->format, &format, err);
    if (!st) st = open_columns(&x, err);
    if (!st && !output && !p->force && kd_exists(path))
        st = kd_fail(err, KD_EEXISTS, "%s: already there; --force replaces it", path);
    if (!st && !output) st = kd_newfile_open(&file, path, err);
    if (!st) {
        if (file) x.f = kd_newfile_stream(file);
        st = formats[format].write(&x, err);
    }
    if (file && (!st || ferror(x.f)))
        st = kd_newfile_commit(file, err); // after a failed write it says why
    else
        kd_newfile_abort(file);
    if (!st && output && (fflush(stdout) || ferror(stdout)))
        st = kd_fail_errno(err, errno, "cannot write to stdout");
    if (!st && report)
        *report = (kd_export_report){.rows = x.rows,
                                     .bytes = !output && !stat(path, &sb) ? (uint64_t)sb.st_size : 0};
    for (size_t i = 0; i < x.n; i++) view_release(&x.view[i]);
    view_release(&x.id);
    free(x.view);
    kd_cursor_close(x.cursor);
    return st;
}
