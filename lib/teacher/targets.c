/* targets.c - columns of teacher outputs: from values to the blocks that a store takes.
 *
 * A value becomes a number of the column's type, or goes through its codec together with the ids of its rows,
 * from which random draws come. Passes, plans and checks share these steps, so that a plan measures and a
 * check repeats exactly what a pass does.
 */
#include "teacher_private.h"

#include <stdlib.h>
#include <string.h>

/* ---- targets -------------------------------------------------------------------------------- */

kd_status kd__target_make(kd__target *g, unsigned source, const char *encoding, json_t *params, kd_err *err)
{
    kd_column *c = &g->column;
    json_t *codec = NULL;
    kd_status st = KD_OK;
    c->params = params;
    g->source = source;
    g->size = kd_column_each(c) * kd_column_width(c);
    snprintf(c->encoding, sizeof c->encoding, "dense");
    if (encoding && (st = kd_codec_parse(encoding, c->encoding, &codec, err))) return st;
    if (strcmp(c->encoding, "dense")) {
        c->dtype = KD_F32;
        if (!c->params) c->params = json_object();
        if (json_object_set(c->params, "codec", codec)) st = kd_fail(err, KD_ENOMEM, "out of memory");
    }
    json_decref(codec);
    return st;
}

bool kd__target_learns(const kd__target *g)
{
    const kd_codec_info *info = kd_codec_find(g->column.encoding);
    return info && info->book;
}

kd_status kd__target_open(kd__target *g, const float *values, size_t rows, kd_err *err)
{
    const kd_column *c = &g->column;
    const size_t width = kd_column_width(c);
    void *book = NULL;
    size_t bytes = 0;
    kd_status st = KD_OK;
    if (kd__target_learns(g))
        st = kd_codec_learn(c->encoding, (int64_t)width, json_object_get(c->params, "codec"), values,
                            rows * g->size / width, &book, &bytes, err);
    return st ? kd_fail_in(err, st, "column %s", c->name) : kd__target_use(g, book, bytes, err);
}

kd_status kd__target_use(kd__target *g, void *book, size_t book_bytes, kd_err *err)
{
    g->column.book = book;
    g->column.book_bytes = book_bytes;
    return strcmp(g->column.encoding, "dense") ? kd_column_codec(&g->codec, &g->column, err) : KD_OK;
}

void kd__target_release(kd__target *g)
{
    kd_codec_close(g->codec);
    json_decref(g->column.params);
    free((void *)(uintptr_t)g->column.book);
    *g = (kd__target){0};
}

/* ---- values --------------------------------------------------------------------------------- */

kd_status kd__values_open(kd__values *v, const kd__target *target, size_t n, size_t rows, kd_err *err)
{
    *v = (kd__values){0};
    for (size_t i = 0; i < n; i++) {
        size_t count;
        if (target[i].said) {
            kd_status st = kd__said_open(&v->said[i], rows, err);
            if (st) return kd_fail_in(err, st, "column %s", target[i].column.name);
            continue;
        }
        if (target[i].column.dims[0] < 0) {
            uint32_t **lengths = &v->lengths[target[i].text];
            if (!*lengths) *lengths = kd_alloc_aligned(rows + 1, sizeof **lengths);
            if (!*lengths) return kd_fail(err, KD_ENOMEM, "column %s: out of memory", target[i].column.name);
            continue; // grows with the chunks
        }
        if (kd_mul_size(rows, target[i].size, &count)) v->v[i] = kd_alloc_aligned(count + 1, sizeof(float));
        if (!v->v[i])
            return kd_fail(err, KD_ENOMEM, "column %s: no memory for %zu rows of %zu values",
                           target[i].column.name, rows, target[i].size);
    }
    return KD_OK;
}

void kd__values_release(kd__values *v)
{
    for (size_t i = 0; i < KD__TARGETS; i++) free(v->v[i]), kd__said_free(v->said[i]);
    for (size_t i = 0; i < KD__TEXTS; i++) free(v->lengths[i]);
    *v = (kd__values){0};
}

/* Logits of a feed into the views' values, (rows, count, classes). */
static void put_views(float *to, const kd__feed *f, const float *logits, size_t count, size_t classes)
{
    for (size_t i = 0; i < (size_t)f->rows; i++) {
        const uint64_t pair = f->at.first + i, row = pair / f->at.per;
        const size_t view = f->views ? f->known + pair % f->at.per : 0;
        memcpy(to + (row * count + view) * classes, logits + i * classes, classes * sizeof *to);
    }
}

size_t kd__scratch_floats(const kd_teacher *t)
{
    if (t->speaks) return 1;
    const bool per_token = kd_graph_node_per(t->model->graph, t->model->logits) == KD_PER_TOKEN;
    return ((size_t)(per_token ? t->tokens : t->batch) + 1) * t->classes;
}

/* Where the feed's values of a target begin, in a ragged column with room for those of the chunk. NULL when
 * out of memory. */
static float *place(kd__values *v, size_t i, const kd__feed *f, const kd__target *g)
{
    const size_t floats = (size_t)f->tokens * g->size;
    if (g->column.dims[0] >= 0) return v->v[i] + f->at.first * (g->size / (size_t)f->at.per);
    if (floats > v->room[i]) { // at the chunk's first feed
        free(v->v[i]);
        v->v[i] = kd_alloc_aligned(floats, sizeof(float));
        v->room[i] = v->v[i] ? floats : 0;
    }
    return v->v[i] ? v->v[i] + f->token * g->size : NULL;
}

static kd_status take_texts(kd__values *v, kd_teacher *t, const kd__feed *f, const kd__target *target,
                            size_t n, float *scratch, kd_err *err)
{
    const bool whole = t->ntaps || kd_graph_node_per(t->model->graph, t->model->logits) == KD_PER_TOKEN;
    kd_status st = t->speaks ? kd__teacher_body(t, f->raw, f->dtype, f->offset, f->rows, f->at, err)
                   : whole   ? kd__teacher_read(t, f->raw, f->dtype, f->offset, f->rows, f->at, scratch, err)
                             : kd__known_read(t, f, scratch, err);
    for (size_t i = 0; i < n && !st; i++) {
        const kd__target *g = &target[i];
        if (g->text != f->text) continue;
        if (g->said) {
            st = kd__said_take(v->said[i], t, f, g, err);
            continue;
        }
        float *to = place(v, i, f, g);
        if (!to) return kd_fail(err, KD_ENOMEM, "column %s: no memory for a chunk", g->column.name);
        const size_t rows = g->column.dims[0] < 0 ? (size_t)f->offset[f->rows] : (size_t)f->rows;
        if (g->source == KD__LOGITS)
            memcpy(to, scratch, rows * t->classes * sizeof *to);
        else
            st = kd__teacher_tap(t, g->source - KD__TAPS, (int64_t)rows, f->at, to, err);
    }
    if (v->lengths[f->text]) // of all rows, with each feed again
        memcpy(v->lengths[f->text], f->lengths, v->rows * sizeof *f->lengths);
    return st;
}

kd_status kd__values_take(kd__values *v, kd_teacher *t, const kd__feed *f, const kd__target *target, size_t n,
                          float *scratch, kd_err *err)
{
    float *logits = scratch;
    if (f->offset) return take_texts(v, t, f, target, n, scratch, err);
    for (size_t i = 0; i < n; i++)
        if (target[i].source == KD__LOGITS && !f->views) logits = v->v[i] + f->at.first * t->classes;
    kd_status st = kd__teacher_run(t, f->raw, f->dtype, f->rows, f->at, logits, err);
    for (size_t i = 0; i < n && !st; i++) {
        if (target[i].source == KD__VIEWS && (f->views || f->known))
            put_views(v->v[i], f, logits, target[i].size / t->classes, t->classes);
        if (target[i].source >= KD__TAPS && !f->views)
            st = kd__teacher_tap(t, target[i].source - KD__TAPS, f->rows, f->at,
                                 v->v[i] + f->at.first * target[i].size, err);
    }
    return st;
}

kd_status kd__values_fill(kd__values *v, kd_teacher *t, kd__reader *r, uint32_t chunk,
                          const kd__target *target, size_t n, kd_err *err)
{
    kd__feed f = {0};
    float *scratch = kd_alloc_aligned(kd__scratch_floats(t), sizeof *scratch);
    kd_status st = scratch ? kd__reader_seek(r, chunk, err)
                           : kd_fail(err, KD_ENOMEM, "%s: no memory for a batch", t->folder);
    v->chunk = chunk;
    v->rows = kd_store_chunk(r->s, chunk)->rows;
    while (!st && !f.closes) {
        kd__reader_next(r, &f);
        st = kd__values_take(v, t, &f, target, n, scratch, err);
    }
    free(scratch);
    return st;
}

/* ---- blocks --------------------------------------------------------------------------------- */

kd_status kd__check_halves(const kd_column *c, const void *halves, const float *values, size_t n, size_t size,
                           const char *where, uint64_t first, kd_err *err)
{
    const uint16_t *h = halves, infinite = c->dtype == KD_F16 ? 0x7C00u : 0x7F80u;
    for (size_t i = 0; i < n; i++)
        if ((h[i] & infinite) == infinite)
            return kd_fail(
                err, KD_ENUMERIC,
                "%s: row %llu: a value of %g in column %s does not fit into %s; dump with --dtype f32", where,
                (unsigned long long)(first + i / size), values[i], c->name, kd_dtype_name(c->dtype));
    return KD_OK;
}

static kd_status encode_dense(kd__encoder *e, const kd__target *g, const float *values,
                              const uint32_t *lengths, uint32_t rows, const char *where, uint64_t first,
                              kd_block *block, kd_err *err)
{
    const kd_column *c = &g->column;
    size_t n = lengths ? 0 : rows * g->size;
    for (uint32_t i = 0; lengths && i < rows; i++) n += lengths[i] * g->size;
    *block = (kd_block){.data = values, .bytes = n * kd_dtype_size(c->dtype), .lengths = lengths};
    if (c->dtype == KD_F32) return KD_OK;
    if (block->bytes > e->room) {
        free(e->packed);
        e->packed = malloc(block->bytes);
        e->room = e->packed ? block->bytes : 0;
        if (!e->packed) return kd_fail(err, KD_ENOMEM, "%s: no memory for column %s", where, c->name);
    }
    kd_from_f32(e->packed, c->dtype, values, n);
    block->data = e->packed;
    return kd__check_halves(c, e->packed, values, n, g->size, where, first, err);
}

kd_status kd__encode(kd__encoder *e, const kd__target *g, const float *values, const kd_id *ids,
                     const uint32_t *lengths, uint32_t rows, int threads, const char *where, uint64_t first,
                     kd_block *block, kd_err *err)
{
    if (!g->codec) return encode_dense(e, g, values, lengths, rows, where, first, block, err);
    const kd_codec_block b = {.values = values,
                              .rows = rows,
                              .each = (uint32_t)kd_column_each(&g->column),
                              .ids = ids};
    e->buf.len = 0;
    kd_status st = kd_codec_encode(g->codec, &b, threads, &e->buf, err);
    if (st)
        return kd_fail_in(err, st, "%s: column %s, rows from %llu on", where, g->column.name,
                          (unsigned long long)first);
    *block = (kd_block){.data = e->buf.text, .bytes = e->buf.len};
    return KD_OK;
}

void kd__encoder_release(kd__encoder *e)
{
    kd_buf_release(&e->buf);
    free(e->packed);
    *e = (kd__encoder){0};
}
