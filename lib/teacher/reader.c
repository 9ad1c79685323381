/* reader.c - the rows of a store, cut into what the teacher takes at a time.
 *
 * A chunk's rows come first, in batches, then their views in the order (row, view). A view that is the row as
 * it is (number 0 of an identity) is not run twice: it gets the row's own logits. Batches never cross chunks,
 * so a pass that goes on behind any chunk computes each row in the same place of the same batch as an
 * uninterrupted one.
 *
 * Columns of texts follow one another instead, cut into batches by tokens (texts.c).
 *
 * The teacher's team reads: as many chunks at once as it has threads, each decoded by one of them, and makes
 * the views of a batch together. A thread of the reader's own beside a team that has all the cores takes
 * turns with one of its threads, and the others wait for that one at the next barrier: the pass paid twice
 * for reading. So plain rows are not copied either: the teacher takes them from where they were decoded.
 */
#include "teacher_private.h"

#include <stdlib.h>

#define READ_BYTES ((size_t)64 << 20) /* of input that several chunks may take together */

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

static kd_status open_slots(kd__reader *r, const kd_teacher *t, kd_err *err)
{
    const size_t most = kd__most_rows(r->s);
    size_t bytes;
    kd_status st = KD_OK;
    if (!kd_mul_size(most, r->row_bytes, &bytes))
        return kd_fail(err, KD_ELIMIT, "%s: a chunk of %zu rows of %zu bytes", kd_store_path(r->s), most,
                       r->row_bytes);
    if (r->slots > 1) r->slots = (uint32_t)kd_min_size(r->slots, kd_max_size(1, READ_BYTES / (bytes + 1)));
    if (r->texts) {
        r->offset = kd_alloc_aligned((size_t)t->batch + 1, sizeof *r->offset);
        if (!r->offset) return kd_fail(err, KD_ENOMEM, "%s: no memory for a batch", kd_store_path(r->s));
        bytes = 0; // chunks of texts take what they need
    }
    r->made = r->views ? kd_alloc_aligned((size_t)t->batch, r->row_bytes) : NULL;
    r->slot = calloc(r->slots, sizeof *r->slot);
    bool ok = r->slot && (r->made || !r->views);
    for (uint32_t i = 0; i < r->slots && ok && !st; i++) {
        kd__slot *slot = &r->slot[i];
        slot->raw = kd_alloc_aligned(bytes + 1, 1);
        slot->ids = r->wants_ids ? kd_alloc_aligned(most + 1, sizeof *slot->ids) : NULL;
        ok = slot->raw && (slot->ids || !r->wants_ids);
        if (ok) st = kd_cursor_open(&slot->cursor, r->s, err);
    }
    if (ok) return st;
    return kd_fail(err, KD_ENOMEM, "%s: no memory for %u chunks of %zu rows", kd_store_path(r->s), r->slots,
                   most);
}

kd_status kd__reader_open(kd__reader *r, const kd_teacher *t, kd_store *s, const kd_view_spec *views,
                          bool plain, int chunks, kd_err *err)
{
    kd_status st;
    *r = (kd__reader){.s = s,
                      .views = views,
                      .plain = plain,
                      .wants_ids = views || t->speaks,
                      .batch = t->batch,
                      .threads = t->threads,
                      .slots = (uint32_t)chunks};
    if ((st = kd_teacher_check(t, s, err))) return st;
    r->input = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    r->id = kd_store_find_role(s, KD_ROLE_ID, NULL);
    if (kd_model_reads_tokens(t->model)) {
        if ((st = kd__teacher_texts(r->text, &r->texts, t, s, err))) return st;
        r->input = r->text[0].column;
        r->tokens = t->tokens;
    }
    r->column = kd_store_column(s, (size_t)r->input);
    r->row_bytes = t->input * kd_dtype_size(r->column->dtype);
    if (views && (st = kd_view_check(views, r->column, err)))
        return kd_fail_in(err, st, "%s", kd_store_path(s));
    return open_slots(r, t, err);
}

void kd__reader_close(kd__reader *r)
{
    for (uint32_t i = 0; r->slot && i < r->slots; i++) {
        kd_cursor_close(r->slot[i].cursor);
        free(r->slot[i].raw);
        free(r->slot[i].ids);
        for (int k = 0; k < r->texts; k++) kd__tokens_release(&r->slot[i].tokens[k]);
    }
    free(r->slot);
    free(r->offset);
    free(r->made);
    *r = (kd__reader){0};
}

/* Views of a row that are run. */
static uint64_t per_row(const kd__reader *r)
{
    return r->views ? (uint64_t)r->views->count - (r->plain && r->views->identity) : 0;
}

static void read_slot(const kd__reader *r, uint32_t i)
{
    kd__slot *slot = &r->slot[i];
    const uint32_t chunk = r->first + i, rows = kd_store_chunk(r->s, chunk)->rows;
    slot->err = (kd_err){0};
    for (int k = 0; k < r->texts; k++)
        if (kd__tokens_read(&slot->tokens[k], &r->text[k], slot->cursor, r->s, chunk, &slot->err)) return;
    if (!r->texts &&
        kd_cursor_read(slot->cursor, r->input, chunk, slot->raw, rows * r->row_bytes, &slot->err))
        return;
    if (r->wants_ids)
        kd_cursor_read(slot->cursor, r->id, chunk, slot->ids, rows * sizeof *slot->ids, &slot->err);
}

kd_status kd__reader_seek(kd__reader *r, uint32_t chunk, kd_err *err)
{
    if (chunk < r->first || chunk - r->first >= r->held) {
        r->first = chunk;
        r->held = (uint32_t)kd_min_size(r->slots, kd_store_chunks(r->s) - chunk);
#pragma omp parallel for schedule(dynamic, 1) num_threads(r->threads) if (r->held > 1)
        for (uint32_t i = 0; i < r->held; i++) read_slot(r, i);
    }
    const kd_err *failed = &r->slot[chunk - r->first].err;
    r->chunk = chunk;
    r->rows = kd_store_chunk(r->s, chunk)->rows;
    r->at = 0;
    r->now = 0;
    r->end = (uint64_t)r->rows * ((r->plain ? 1 : 0) + per_row(r));
    return failed->code ? kd_fail(err, failed->code, "%s", failed->msg) : KD_OK;
}

/* Number i of the views of feed f. */
static void make_view(const kd__reader *r, const kd__feed *f, int64_t i)
{
    const kd__slot *slot = &r->slot[r->chunk - r->first];
    const uint64_t pair = f->at.first + (uint64_t)i, row = pair / f->at.per;
    const uint32_t view = (uint32_t)(f->known + pair % f->at.per);
    const kd_view_mix m = kd_view_mix_of(r->views, r->column, slot->ids[row], view, r->rows);
    kd_view_apply(r->views, r->column, slot->ids[row], view, slot->raw + row * r->row_bytes,
                  m.mixed ? slot->raw + m.other * r->row_bytes : NULL, r->made + (size_t)i * r->row_bytes);
}

/* Whole rows of texts, as many as fit; one at least, which the teacher refuses if it does not. */
static void next_texts(kd__reader *r, kd__feed *f)
{
    const kd__text *x = &r->text[r->now];
    const kd__tokens *k = &r->slot[r->chunk - r->first].tokens[r->now];
    const uint64_t from = r->at, base = k->offset[from], each = (uint64_t)x->each;
    uint64_t n = 0;
    while (from + n < k->texts && (!n || (n + each <= (uint64_t)r->batch &&
                                          k->offset[from + n + each] - base <= (uint64_t)r->tokens)))
        n += each;
    for (uint64_t i = 0; i <= n && i <= (uint64_t)r->batch; i++) r->offset[i] = k->offset[from + i] - base;
    r->at += n;
    *f = (kd__feed){.chunk = r->chunk,
                    .at = {.base = kd_store_chunk(r->s, r->chunk)->first, .first = from, .per = each},
                    .rows = (int64_t)n,
                    .raw = k->raw + 4 * (size_t)r->rows + base * kd_dtype_size(x->c->dtype),
                    .dtype = x->c->dtype,
                    .offset = r->offset,
                    .text = r->now,
                    .token = base,
                    .tokens = k->offset[k->texts],
                    .lengths = (const uint32_t *)(const void *)k->raw,
                    .mask = x->mask < 0 ? NULL : (const uint8_t *)k->mask + 4 * (size_t)r->rows,
                    .ids = r->slot[r->chunk - r->first].ids};
    f->done = ((double)r->now + (double)r->at / (double)k->texts) / r->texts;
    if (r->at < k->texts) return;
    r->at = 0;
    f->closes = ++r->now == r->texts;
}

void kd__reader_next(kd__reader *r, kd__feed *f)
{
    if (r->texts) {
        next_texts(r, f);
        return;
    }
    f->dtype = r->column->dtype;
    const uint64_t plain = r->plain ? r->rows : 0;
    f->chunk = r->chunk;
    f->views = r->at >= plain;
    f->known = r->plain && r->views && r->views->identity;
    f->at = (kd__place){.base = kd_store_chunk(r->s, r->chunk)->first,
                        .first = f->views ? r->at - plain : r->at,
                        .per = f->views ? per_row(r) : 1};
    const uint64_t left = (f->views ? r->end : plain) - r->at;
    f->rows = left < (uint64_t)r->batch ? (int64_t)left : r->batch;
    f->raw = f->views ? r->made : r->slot[r->chunk - r->first].raw + f->at.first * r->row_bytes;
    if (f->views) {
#pragma omp parallel for schedule(static) num_threads(r->threads) if (r->threads > 1)
        for (int64_t i = 0; i < f->rows; i++) make_view(r, f, i);
    }
    r->at += (uint64_t)f->rows;
    f->closes = r->at == r->end;
    f->done = (double)r->at / (double)r->end;
}
