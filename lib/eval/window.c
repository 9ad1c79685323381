/* window.c - rows of a split that an exam has decoded, and how a model gets them.
 *
 * A window holds whole chunks, as many as fit into 256 MiB decoded (usually all). Rows of texts lie in it one
 * behind the other, and are fed like that, without padding.
 */
#include "eval_private.h"

#include <stdlib.h>
#include <string.h>

#define WINDOW_BYTES ((size_t)256 << 20)

bool kd__is_texts(const kd_column *c) { return c->ndims == 1 && c->dims[0] < 0; }

void kd__window_release(kd__window *w)
{
    free(w->raw);
    free(w->offset);
    free(w->teacher);
    free(w->seconds);
    kd__reference_release(&w->ref);
}

kd_status kd__window_create(kd__window *w, const kd_exam *e, size_t models, kd_err *err)
{
    const kd_column *ic = kd_store_column(e->s, (size_t)e->input);
    const bool texts = models && kd__is_texts(ic);
    memset(w, 0, sizeof *w);
    w->row_bytes = models && !texts ? kd_column_width(ic) * kd_column_each(ic) * kd_dtype_size(ic->dtype) : 0;
    const size_t classes = e->logits < 0 ? 0 : (size_t)e->rows.classes,
                 longest_text =
                     texts ? (size_t)json_integer_value(json_object_get(ic->params, "max_tokens")) : 0,
                 each = w->row_bytes + longest_text * kd_dtype_size(ic->dtype) +
                        classes * (sizeof(float) + sizeof(double));
    uint64_t longest = 1;
    for (uint32_t c = 0; c < kd_store_chunks(e->s); c++)
        if (kd_store_chunk(e->s, c)->rows > longest) longest = kd_store_chunk(e->s, c)->rows;
    w->room = kd_max_size(longest, kd_min_size(e->rows.n, WINDOW_BYTES / (each ? each : 1)));
    w->raw = kd_alloc_aligned(w->room, w->row_bytes ? w->row_bytes : 1);
    w->seconds = calloc(models + 1, sizeof *w->seconds);
    if (texts) w->offset = kd_alloc_aligned(w->room + 1, sizeof *w->offset);
    if (classes) w->teacher = kd_alloc_aligned(w->room, classes * sizeof(float));
    if (!w->raw || !w->seconds || (texts && !w->offset) || (classes && !w->teacher))
        return kd_fail(err, KD_ENOMEM, "no memory for %llu rows at a time", (unsigned long long)w->room);
    return classes ? kd__reference_create(&w->ref, w->room, e->rows.classes, err) : KD_OK;
}

/* A chunk's texts behind those that are there. */
static kd_status read_texts(kd__window *w, const kd_exam *e, kd_cursor *cur, uint32_t chunk, kd_err *err)
{
    const kd_column *ic = kd_store_column(e->s, (size_t)e->input);
    const uint32_t rows = kd_store_chunk(e->s, chunk)->rows;
    size_t size = 0;
    kd_status st = kd_cursor_size(cur, e->input, chunk, &size, err);
    if (st) return st;
    const size_t lengths = rows * sizeof(uint32_t), ids = size - lengths;
    unsigned char *block = malloc(size + 1), *raw = realloc(w->raw, w->bytes + ids + 1);
    if (raw) w->raw = raw;
    if (!block || !raw)
        st = kd_fail(err, KD_ENOMEM, "no memory for a chunk of texts");
    else if (!(st = kd_cursor_read(cur, e->input, chunk, block, size, err))) {
        const uint32_t *length = (const uint32_t *)(const void *)block;
        for (uint32_t i = 0; i < rows; i++) w->offset[w->rows + i + 1] = w->offset[w->rows + i] + length[i];
        memcpy(w->raw + w->bytes, block + lengths, ids);
        w->bytes = (size_t)w->offset[w->rows + rows] * kd_dtype_size(ic->dtype);
    }
    free(block);
    return st;
}

kd_status kd__window_read(kd__window *w, const kd_exam *e, kd_cursor *cur, kd_err *err)
{
    kd_status st = KD_OK;
    w->first += w->rows;
    w->rows = w->bytes = 0;
    if (w->offset) w->offset[0] = 0;
    for (; w->next < kd_store_chunks(e->s) && !st; w->next++) {
        const kd_chunk_info *ci = kd_store_chunk(e->s, w->next);
        if (ci->split != e->p.split) continue;
        if (w->rows + ci->rows > w->room) break;
        if (w->row_bytes)
            st = kd_cursor_read(cur, e->input, w->next, w->raw + w->rows * w->row_bytes,
                                ci->rows * w->row_bytes, err);
        if (w->offset) st = read_texts(w, e, cur, w->next, err);
        if (!st && w->teacher)
            st = kd_cursor_read_f32(cur, e->logits, w->next, w->teacher + w->rows * (uint64_t)e->rows.classes,
                                    ci->rows, err);
        w->rows += ci->rows;
    }
    return st;
}

kd_exec_params kd__window_exec(const kd__window *w, const kd_exam *e)
{
    kd_exec_params p = {.batch = e->p.batch, .threads = e->p.threads};
    if (!w->offset) return p;
    p.sequences = e->p.batch;
    p.batch = 1;
    for (uint64_t r = 0, end; r < w->rows; r = end) {
        end = kd_min_size((size_t)(r + (uint64_t)e->p.batch), (size_t)w->rows);
        p.batch = (int64_t)kd_max_size((size_t)p.batch, (size_t)(w->offset[end] - w->offset[r]));
    }
    return p;
}

kd_status kd__window_feed(const kd__window *w, const kd_exam *e, const kd_model *m, kd_exec *ex, uint64_t r,
                          uint64_t n, uint64_t *offset, kd_err *err)
{
    const kd_column *ic = kd_store_column(e->s, (size_t)e->input);
    if (!w->offset)
        return kd_model_feed(m, kd_exec_input(ex, m->input), w->raw + r * w->row_bytes, ic->dtype, n, err);
    for (uint64_t i = 0; i <= n; i++) offset[i] = w->offset[r + i] - w->offset[r];
    return kd_model_feed_tokens(m, ex, w->raw + w->offset[r] * kd_dtype_size(ic->dtype), ic->dtype, offset,
                                (int64_t)n, err);
}
