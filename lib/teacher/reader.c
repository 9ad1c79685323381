/* reader.c - the rows of a store, cut into what the teacher takes at a time.
 *
 * A chunk is read once; its rows come first, in batches, then their views in the order (row, view). A view
 * that is the row as it is (number 0 of an identity) is not run twice: it gets the row's own logits. Batches
 * never cross chunks, so a pass that goes on behind any chunk computes each row in the same place of the same
 * batch as an uninterrupted one.
 */
#include "teacher_private.h"

#include <stdlib.h>
#include <string.h>

size_t kd__most_rows(const kd_store *s)
{
    size_t rows = 0;
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) rows = kd_max_size(rows, kd_store_chunk(s, i)->rows);
    return rows;
}

bool kd__sample(const kd_store *s, uint64_t rows, uint32_t i, uint32_t *chunk)
{
    const uint64_t chunks = kd_store_chunks(s), all = kd_store_rows(s);
    const uint64_t parts = rows < all ? (rows * chunks + all - 1) / all : chunks;
    if (i >= parts) return false;
    *chunk = (uint32_t)(i * chunks / parts);
    return true;
}

kd_status kd__reader_open(kd__reader *r, const kd_teacher *t, kd_store *s, const kd_view_spec *views,
                          bool plain, kd_err *err)
{
    kd_status st;
    const size_t most = kd__most_rows(s);
    size_t bytes;
    *r = (kd__reader){.s = s, .views = views, .plain = plain, .batch = t->batch};
    if ((st = kd_teacher_check(t, s, err))) return st;
    r->input = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    r->id = kd_store_find_role(s, KD_ROLE_ID, NULL);
    r->column = kd_store_column(s, (size_t)r->input);
    r->row_bytes = t->input * kd_dtype_size(r->column->dtype);
    if (views && (st = kd_view_check(views, r->column, err)))
        return kd_fail_in(err, st, "%s", kd_store_path(s));
    if (kd_mul_size(most, r->row_bytes, &bytes)) r->raw = kd_alloc_aligned(bytes + 1, 1);
    r->ids = kd_alloc_aligned(most + 1, sizeof *r->ids);
    if (!r->raw || !r->ids)
        return kd_fail(err, KD_ENOMEM, "%s: no memory for a chunk of %zu rows", kd_store_path(s), most);
    return kd_cursor_open(&r->cursor, s, err);
}

void kd__reader_close(kd__reader *r)
{
    kd_cursor_close(r->cursor);
    free(r->raw);
    free(r->ids);
    *r = (kd__reader){0};
}

/* Views of a row that are run. */
static uint64_t per_row(const kd__reader *r)
{
    return r->views ? (uint64_t)r->views->count - (r->plain && r->views->identity) : 0;
}

kd_status kd__reader_seek(kd__reader *r, uint32_t chunk, kd_err *err)
{
    const uint32_t have = kd_store_chunk(r->s, chunk)->rows;
    kd_status st = kd_cursor_read(r->cursor, r->input, chunk, r->raw, have * r->row_bytes, err);
    if (!st && r->views) st = kd_cursor_read(r->cursor, r->id, chunk, r->ids, have * sizeof *r->ids, err);
    r->chunk = chunk;
    r->rows = have;
    r->at = 0;
    r->end = (uint64_t)r->rows * ((r->plain ? 1 : 0) + per_row(r));
    return st;
}

void kd__reader_next(kd__reader *r, kd__feed *f)
{
    const uint64_t plain = r->plain ? r->rows : 0;
    f->chunk = r->chunk;
    f->opens = !r->at;
    f->views = r->at >= plain;
    f->known = r->plain && r->views && r->views->identity;
    f->at = (kd__place){.base = kd_store_chunk(r->s, r->chunk)->first,
                        .first = f->views ? r->at - plain : r->at,
                        .per = f->views ? per_row(r) : 1};
    const uint64_t left = (f->views ? r->end : plain) - r->at;
    f->rows = left < (uint64_t)r->batch ? (int64_t)left : r->batch;
    if (!f->views) memcpy(f->raw, r->raw + f->at.first * r->row_bytes, (size_t)f->rows * r->row_bytes);
    for (int64_t i = 0; f->views && i < f->rows; i++) {
        const uint64_t pair = f->at.first + (uint64_t)i, row = pair / f->at.per;
        const uint32_t view = (uint32_t)(f->known + pair % f->at.per);
        const kd_view_mix m = kd_view_mix_of(r->views, r->column, r->ids[row], view, r->rows);
        kd_view_apply(r->views, r->column, r->ids[row], view, r->raw + row * r->row_bytes,
                      m.mixed ? r->raw + m.other * r->row_bytes : NULL, f->raw + (size_t)i * r->row_bytes);
    }
    r->at += (uint64_t)f->rows;
    f->closes = r->at == r->end;
    f->done = (double)r->at / (double)r->end;
}
