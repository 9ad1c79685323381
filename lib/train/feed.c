/* feed.c - rows on their way to the students: training batches and validation rows.
 *
 * A feed is one stream of batches that all students with its seed, batch size and views share: labels are
 * checked and teacher logits become floats once, however many students compare themselves with them.
 * Inputs stay bytes until a student takes them: converting reads a quarter of what copying floats
 * would, and happens in the student's own thread.
 *
 * The teacher's hits on the labels are counted on the way. A cache whose rows have slipped still
 * trains, only badly; a teacher at chance level in the metrics is how one notices.
 *
 * Validation rows are read with a cursor of their own, so that the counters of the training pass
 * show what it decoded and nothing else. They are kept decoded if they fit into p.valid_cache bytes.
 */
#include "train_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- targets ------------------------------------------------------------------------------ */

static bool is_ragged(const kd_column *c) { return c->ndims && c->dims[0] < 0; }

/* Floats a row of a slot's values; 0: it has none. */
static size_t slot_floats(const kd_trainer *t, int slot, bool training)
{
    const kd_column *c = kd__trainer_column(t, slot);
    const kd_codec_info *codec = kd_codec_find(c->encoding);
    if (c->role == KD_ROLE_FEATURE)
        return training || t->slot_judged[slot] ? kd_column_each(c) * kd_column_width(c) : 0;
    if (c->role != KD_ROLE_LOGITS && c->role != KD_ROLE_SCORE && c->role != KD_ROLE_VIEW) return 0;
    if (is_ragged(c)) return 0; // of language models: a piece at a time
    return codec && codec->sparse && !t->slot_scattered[slot] ? 0 : (size_t)t->slot_classes[slot];
}

kd_status kd__targets_alloc(kd__targets *g, const kd_trainer *t, uint32_t rows, bool training, kd_err *err)
{
    bool failed = false;
    for (int i = 0; i < t->ncolumns; i++) {
        kd_role role = kd__trainer_column(t, i)->role;
        size_t n, each = slot_floats(t, i, training);
        if (role == KD_ROLE_LABEL) failed |= !(g->labels = kd_alloc_aligned(rows, sizeof(int32_t)));
        if (each)
            failed |= !kd_mul_size(rows, each, &n) || !(g->values[i] = kd_alloc_aligned(n, sizeof(float)));
    }
    if (training && t->sample_first) failed |= !(g->samples = kd_alloc_aligned(rows, sizeof(int64_t)));
    return failed ? kd_fail(err, KD_ENOMEM, "no memory for the labels and targets of %u rows", rows) : KD_OK;
}

void kd__targets_release(kd__targets *g)
{
    free(g->labels);
    free(g->others);
    free(g->samples);
    kd__texts_release(&g->texts);
    kd__words_release(&g->words);
    for (int i = 0; i < KD_LOADER_COLUMNS; i++) {
        free(g->values[i]);
        free(g->kept[i]);
        kd_sparse_release(&g->own[i]);
    }
    memset(g, 0, sizeof(*g));
}

static uint64_t row_number(const kd__rows *rows, uint32_t i)
{
    return rows->row ? rows->row[i] : rows->first + i;
}

static int64_t label_at(const void *raw, kd_dtype dtype, uint32_t i)
{
    switch (dtype) {
    case KD_U8: return ((const uint8_t *)raw)[i];
    case KD_I8: return ((const int8_t *)raw)[i];
    case KD_U16: return ((const uint16_t *)raw)[i];
    case KD_I16: return ((const int16_t *)raw)[i];
    case KD_U32: return ((const uint32_t *)raw)[i];
    case KD_I32: return ((const int32_t *)raw)[i];
    default: return ((const int64_t *)raw)[i];
    }
}

static kd_status take_labels(int32_t *labels, const kd_trainer *t, int slot, const void *raw,
                             const kd__rows *rows, kd_err *err)
{
    const kd_column *c = kd__trainer_column(t, slot);
    for (uint32_t i = 0; i < rows->n; i++) {
        int64_t y = label_at(raw, c->dtype, i);
        if (y >= t->slot_classes[slot])
            return kd_fail(err, KD_ECORRUPT,
                           "%s: column %s, row %llu: label %lld, there are %lld classes; pack the data again",
                           kd_store_path(t->store), c->name, (unsigned long long)row_number(rows, i),
                           (long long)y, (long long)t->slot_classes[slot]);
        labels[i] = y < 0 ? -1 : (int32_t)y;
    }
    return KD_OK;
}

static kd_status fill_labels(kd__targets *g, const kd_trainer *t, int slot, const void *raw,
                             const kd__rows *rows, kd_err *err)
{
    kd_status st = take_labels(g->labels, t, slot, raw, rows, err);
    g->labelled = 0;
    for (uint32_t i = 0; i < rows->n && !st; i++) g->labelled += g->labels[i] >= 0;
    for (uint32_t i = 0; i < rows->n && rows->other_label; i++) { // those are, in their turn, checked as rows
        const int64_t y = label_at(rows->other_label, kd__trainer_column(t, slot)->dtype, i);
        g->others[i] = y < 0 || y >= t->slot_classes[slot] ? -1 : (int32_t)y;
    }
    g->shares = rows->share;
    return st;
}

/* Of targets that keep few classes: labelled rows whose largest one is the label. */
static uint64_t sparse_hits(const kd__targets *g, const kd_sparse *s, uint32_t rows)
{
    uint64_t hits = 0;
    for (uint32_t i = 0; i < rows && g->labels; i++) {
        uint64_t top = s->offset[i], end = s->offset[i + 1];
        for (uint64_t e = top; e < end; e++)
            if (s->value[e] > s->value[top]) top = e;
        hits += top < end && g->labels[i] == (int32_t)s->id[top];
    }
    return hits;
}

static kd_status fill_features(kd__targets *g, const kd_trainer *t, int slot, const void *raw,
                               const kd__rows *rows, kd_err *err)
{
    const kd_column *c = kd__trainer_column(t, slot);
    size_t each = kd_column_each(c) * kd_column_width(c), n = rows->n * each;
    float *f = g->values[slot]; // (rows, shape of the feature)
    kd_status st = kd_to_f32(f, raw, c->dtype, n);
    if (st)
        return kd_fail(err, st, "%s: column %s: dtype %s", kd_store_path(t->store), c->name,
                       kd_dtype_name(c->dtype));
    for (size_t i = 0; i < n; i++)
        if (!isfinite(f[i]))
            return kd_fail(
                err, KD_ENUMERIC,
                "%s: column %s, row %llu: a value is not finite; look at the teacher %s and dump it again",
                kd_store_path(t->store), c->name, (unsigned long long)row_number(rows, (uint32_t)(i / each)),
                c->teacher);
    return KD_OK;
}

/* The logits of each row, or of one view of it out of those of all; view NULL: the first. */
static kd_status take_dense(float *z, const kd_column *c, const void *raw, uint32_t n, const uint32_t *view)
{
    const size_t classes = kd_column_width(c), each = kd_column_each(c), size = kd_dtype_size(c->dtype);
    kd_status st = KD_OK;
    if (each == 1) return kd_to_f32(z, raw, c->dtype, n * classes);
    for (uint32_t i = 0; i < n && !st; i++) {
        const size_t at = (i * each + (view ? view[i] : 0)) * classes;
        st = kd_to_f32(z + i * classes, (const char *)raw + at * size, c->dtype, classes);
    }
    return st;
}

static kd_status fill_logits(kd__targets *g, const kd_trainer *t, int slot, const void *raw,
                             const kd_sparse *sparse, const kd__rows *rows, kd_err *err)
{
    const kd_column *c = kd__trainer_column(t, slot);
    size_t classes = (size_t)t->slot_classes[slot];
    float *z = g->values[slot]; // (rows, classes)
    g->sparse[slot] = sparse;
    if (sparse && !z) {
        g->hits[slot] = sparse_hits(g, sparse, rows->n);
        return KD_OK;
    }
    const uint32_t *view = c->role == KD_ROLE_VIEW ? rows->view : NULL;
    kd_status st = KD_OK;
    if (sparse)
        kd__logits_scatter(z, c, sparse, rows->n, classes, view);
    else
        st = take_dense(z, c, raw, rows->n, view);
    if (st)
        return kd_fail(err, st, "%s: column %s: dtype %s", kd_store_path(t->store), c->name,
                       kd_dtype_name(c->dtype));
    g->hits[slot] = 0;
    for (uint32_t i = 0; i < rows->n; i++, z += classes) {
        size_t top = 0;
        bool finite = true;
        for (size_t k = 0; k < classes; k++) {
            finite &= isfinite(z[k]) != 0;
            if (z[k] > z[top]) top = k;
        }
        if (!finite)
            return kd_fail(
                err, KD_ENUMERIC,
                "%s: column %s, row %llu: a logit is not finite; look at the teacher %s and dump it again",
                kd_store_path(t->store), c->name, (unsigned long long)row_number(rows, i), c->teacher);
        g->hits[slot] += g->labels && g->labels[i] == (int32_t)top;
    }
    return KD_OK;
}

/* Of a column of views: only a batch of just these views can use it. Rows as they are have view 0 where that
 * is the row, else the logits of another slot, which is filled before. */
static kd_status fill_views(kd__targets *g, const kd_trainer *t, int slot, const void *raw,
                            const kd_sparse *sparse, const kd__rows *rows, kd_err *err)
{
    const int plain = t->slot_plain[slot];
    if (rows->views ? !kd_view_equal(rows->views, &t->slot_views[slot]) : rows->row != NULL) return KD_OK;
    if (rows->views || plain < 0) return fill_logits(g, t, slot, raw, sparse, rows, err);
    memcpy(g->values[slot], g->values[plain], rows->n * (size_t)t->slot_classes[slot] * sizeof(float));
    g->hits[slot] = g->hits[plain];
    return KD_OK;
}

kd_status kd__targets_fill(kd__targets *g, const kd_trainer *t, const void *const *raw,
                           const kd_sparse *const *sparse, const uint64_t *const *offset,
                           const kd__rows *rows, kd_err *err)
{
    kd_status st = t->language ? kd__words_fill(g, t, raw, offset, rows, err) : KD_OK;
    for (int pass = 0; pass < 3 && !st; pass++) // labels first: hits need them; views last: they may borrow
        for (int i = 0; i < t->ncolumns && !st; i++) {
            kd_role role = kd__trainer_column(t, i)->role;
            if (!pass && role == KD_ROLE_LABEL) st = fill_labels(g, t, i, raw[i], rows, err);
            if (pass == 1 && role == KD_ROLE_LOGITS && is_ragged(kd__trainer_column(t, i)))
                st = kd__words_logits(g, t, i, raw[i], sparse[i], offset[i], rows, err);
            else if (pass == 1 && (role == KD_ROLE_LOGITS || role == KD_ROLE_SCORE))
                st = fill_logits(g, t, i, raw[i], sparse[i], rows, err);
            if (pass == 1 && role == KD_ROLE_FEATURE && g->values[i])
                st = fill_features(g, t, i, raw[i], rows, err);
            if (pass == 2 && role == KD_ROLE_VIEW) st = fill_views(g, t, i, raw[i], sparse[i], rows, err);
        }
    if (t->ntexts && !st) st = kd__texts_fill(&g->texts, t, raw, offset, g->labels, rows, err);
    if (g->samples && !st) kd__samples_of(t, rows, g->samples);
    return st;
}

kd_status kd__labels_read(const kd_trainer *t, kd_cursor *cursor, int slot, uint32_t chunk, uint32_t n,
                          int32_t *out, kd_err *err)
{
    const kd_chunk_info *info = kd_store_chunk(t->store, chunk);
    size_t bytes = info->rows * kd_dtype_size(kd__trainer_column(t, slot)->dtype);
    void *raw = malloc(bytes + 1);
    kd__rows rows = {.first = info->first, .n = n};
    kd_status st = raw ? kd_cursor_read(cursor, t->columns[slot], chunk, raw, bytes, err)
                       : kd_fail(err, KD_ENOMEM, "no memory for the labels of %u rows", info->rows);
    if (!st) st = take_labels(out, t, slot, raw, &rows, err);
    free(raw);
    return st;
}

/* ---- training batches --------------------------------------------------------------------- */

bool kd__feed_serves(const kd__feed *f, const kd__run *r)
{
    return f->seed == r->seed && f->batch == (uint32_t)r->spec.train.batch &&
           kd_view_equal(&f->views, &r->spec.views);
}

static kd_status open_views(kd__feed *f, const kd__run *r, kd_err *err)
{
    if (!kd__run_has_views(r)) return KD_OK;
    if (r->label >= 0 && kd_view_mixes(&f->views) &&
        !(f->targets.others = kd_alloc_aligned(f->batch, sizeof(int32_t))))
        return kd_fail(err, KD_ENOMEM, "no memory for the labels of %u rows", f->batch);
    return kd_stream_views(f->stream, &f->views, r->input, r->id, r->label, err);
}

kd_status kd__feed_open(kd__feed **out, kd_trainer *t, const kd__run *r, kd_err *err)
{
    kd__feed *f = calloc(1, sizeof(*f));
    kd_status st;
    *out = NULL;
    if (!f) return kd_fail(err, KD_ENOMEM, "out of memory");
    f->seed = r->seed;
    f->batch = (uint32_t)r->spec.train.batch;
    f->views = r->spec.views;
    if ((st = kd_stream_open(&f->stream, t->loader, f->seed, f->batch, true, err)) ||
        (st = kd__targets_alloc(&f->targets, t, f->batch, true, err)) || (st = open_views(f, r, err))) {
        kd__feed_close(f);
        return st;
    }
    f->steps = kd_stream_steps(f->stream);
    *out = f;
    return KD_OK;
}

void kd__feed_close(kd__feed *f) // the stream is the loader's
{
    if (!f) return;
    kd__targets_release(&f->targets);
    free(f);
}

bool kd__feed_ready(const kd__feed *f) { return !f->over && kd_stream_ready(f->stream); }

kd_status kd__feed_draw(kd__feed *f, kd_trainer *t, kd_err *err)
{
    kd_status st;
    if (f->drawn) f->step++;
    f->drawn = false;
    if (f->over) return KD_OK;
    if ((st = kd_stream_next(f->stream, &f->b, err))) return st;
    if (!f->b.rows) {
        f->over = !f->b.wait;
        return KD_OK;
    }
    f->drawn = true;
    kd__rows rows = {.row = f->b.row,
                     .n = f->b.rows,
                     .views = f->views.count ? &f->views : NULL,
                     .view = f->b.view,
                     .other_label = f->b.other_label,
                     .share = f->b.share};
    return kd__targets_fill(&f->targets, t, f->b.column, f->b.sparse, f->b.offset, &rows, err);
}

/* ---- validation rows ---------------------------------------------------------------------- */

static size_t row_bytes(const kd_column *c)
{
    size_t n = kd_dtype_size(c->dtype);
    for (int d = 0; d < c->ndims; d++)
        n *= (size_t)(c->dims[d] < 0 ? 1 : c->dims[d]); // ragged: of a position
    return n;
}

/* Bytes of the sparse targets of a row, at most. */
static size_t sparse_row_bytes(const kd_column *c)
{
    kd_codec *codec;
    if (kd_column_codec(&codec, c, NULL)) return 0; // opening the cursor will say why
    size_t n = kd_codec_most(codec) * (sizeof(uint32_t) + sizeof(float) + 1) + sizeof(uint64_t) +
               2 * KD_CODEC_MAX_TEMPERATURES * sizeof(float);
    kd_codec_close(codec);
    return n;
}

/* Bytes of a decoded row in a block. */
static size_t block_row_bytes(const kd_trainer *t)
{
    size_t n = 0;
    for (int i = 0; i < t->ncolumns; i++) {
        const kd_column *c = kd__trainer_column(t, i);
        if (c->role == KD_ROLE_INPUT)
            n +=
                t->ntexts ? (size_t)kd__texts_longest(t) * sizeof(int32_t) + sizeof(kd__texts) : row_bytes(c);
        if (c->role == KD_ROLE_LABEL) n += sizeof(int32_t);
        const kd_codec_info *codec = kd_codec_find(c->encoding);
        const size_t positions = is_ragged(c) && c->role == KD_ROLE_LOGITS ? (size_t)kd__texts_longest(t) : 1;
        if (codec && codec->sparse)
            n += positions * sparse_row_bytes(c);
        else if (positions > 1)
            n += positions * kd_column_width(c) * (codec ? sizeof(float) : kd_dtype_size(c->dtype));
        n += slot_floats(t, i, false) * sizeof(float);
    }
    return n;
}

/* One column of a chunk: bytes as stored, f32 of a dense codec, or *sparse. */
static kd_status read_column(kd_trainer *t, int slot, uint32_t chunk, uint32_t rows, void *raw,
                             kd_sparse *sparse, kd_err *err)
{
    const kd_column *c = kd__trainer_column(t, slot);
    const kd_codec_info *codec = kd_codec_find(c->encoding);
    if (codec && codec->sparse) return kd_cursor_read_sparse(t->cursor, t->columns[slot], chunk, sparse, err);
    if (codec)
        return kd_cursor_read_f32(t->cursor, t->columns[slot], chunk, raw, rows * kd_column_each(c), err);
    return kd_cursor_read(t->cursor, t->columns[slot], chunk, raw, row_bytes(c) * rows, err);
}

/* Memory of a ragged column of a chunk; the caller frees raw and offset. */
typedef struct ragged {
    void *raw, *values; /* values: bytes as stored, or f32 of a dense codec */
    uint64_t *offset;   /* (rows + 1) positions */
} ragged;

static kd_status read_values(kd_trainer *t, int slot, uint32_t chunk, uint32_t rows, ragged *x, kd_err *err)
{
    const kd_column *c = kd__trainer_column(t, slot);
    const bool coded = strcmp(c->encoding, "dense") != 0;
    const size_t positions = (size_t)x->offset[rows];
    size_t size = 0;
    kd_status st = KD_OK;
    if (!coded)
        st = kd_cursor_size(t->cursor, t->columns[slot], chunk, &size, err);
    else if (!kd_mul_size(positions, kd_column_width(c) * sizeof(float), &size))
        st = kd_fail(err, KD_ENOMEM, "no memory for %u validation rows", rows);
    if (st) return st;
    if (!(x->raw = malloc(size + 1)))
        return kd_fail(err, KD_ENOMEM, "no memory for %u validation rows", rows);
    x->values = coded ? x->raw : (char *)x->raw + rows * sizeof(uint32_t); // behind the lengths
    return coded ? kd_cursor_read_f32(t->cursor, t->columns[slot], chunk, x->raw, positions, err)
                 : kd_cursor_read(t->cursor, t->columns[slot], chunk, x->raw, size, err);
}

static kd_status read_ragged(kd_trainer *t, int slot, uint32_t chunk, uint32_t rows, ragged *x,
                             kd_sparse *sparse, kd_err *err)
{
    const kd_codec_info *codec = kd_codec_find(kd__trainer_column(t, slot)->encoding);
    uint32_t *length = malloc((rows + 1) * sizeof(*length));
    size_t positions;
    x->offset = malloc((rows + 1) * sizeof(*x->offset));
    kd_status st = length && x->offset
                       ? kd_cursor_lengths(t->cursor, t->columns[slot], chunk, length, &positions, err)
                       : kd_fail(err, KD_ENOMEM, "no memory for %u validation rows", rows);
    for (uint32_t i = 0; i < rows && !st; i++)
        x->offset[i + 1] = (i ? x->offset[i] : (x->offset[0] = 0)) + length[i];
    free(length);
    if (st) return st;
    if (codec && codec->sparse) return kd_cursor_read_sparse(t->cursor, t->columns[slot], chunk, sparse, err);
    return read_values(t, slot, chunk, rows, x, err);
}

static kd_status block_decode(kd__block *b, kd_trainer *t, kd_err *err)
{
    void *raw[KD_LOADER_COLUMNS] = {0}, *own[KD_LOADER_COLUMNS] = {0};
    uint64_t *offset[KD_LOADER_COLUMNS] = {0};
    kd_sparse *sparse = b->targets.own;
    const kd_sparse *given[KD_LOADER_COLUMNS] = {0};
    kd_status st = KD_OK;
    kd__rows rows = {.first = kd_store_chunk(t->store, b->chunk)->first, .n = b->rows};
    for (int i = 0; i < t->ncolumns && !st; i++) {
        const kd_column *c = kd__trainer_column(t, i);
        if (c->role == KD_ROLE_FEATURE && !t->slot_judged[i]) continue;
        const kd_codec_info *codec = kd_codec_find(c->encoding);
        if (is_ragged(c)) {
            ragged x = {0};
            st = read_ragged(t, i, b->chunk, b->rows, &x, &sparse[i], err);
            own[i] = x.raw, raw[i] = x.values, offset[i] = x.offset;
            if (codec && codec->sparse) given[i] = &sparse[i];
            continue;
        }
        raw[i] = c->role == KD_ROLE_INPUT ? b->input : (own[i] = malloc(row_bytes(c) * b->rows));
        st = raw[i] ? read_column(t, i, b->chunk, b->rows, raw[i], &sparse[i], err)
                    : kd_fail(err, KD_ENOMEM, "no memory for %u validation rows", b->rows);
        if (sparse[i].positions) given[i] = &sparse[i];
    }
    if (!st)
        st = kd__targets_fill(&b->targets, t, (const void *const *)raw, given,
                              (const uint64_t *const *)offset, &rows, err);
    for (int i = 0; i < t->ncolumns; i++) {
        if (b->targets.dense[i]) { // read later, from here
            free(b->targets.kept[i]);
            b->targets.kept[i] = own[i];
        } else {
            free(own[i]);
        }
        free(offset[i]);
    }
    return st;
}

static kd_status block_alloc(kd__block *b, const kd_trainer *t, uint32_t rows, kd_err *err)
{
    size_t bytes = 1;
    for (int i = 0; i < t->ncolumns; i++)
        if (kd__trainer_column(t, i)->role == KD_ROLE_INPUT && !t->ntexts)
            bytes = row_bytes(kd__trainer_column(t, i));
    b->input = kd_alloc_aligned(rows, bytes);
    if (!b->input) return kd_fail(err, KD_ENOMEM, "no memory for %u validation rows", rows);
    return kd__targets_alloc(&b->targets, t, rows, false, err);
}

kd_status kd__valid_open(kd_trainer *t, kd_err *err)
{
    uint64_t rows = kd_store_split_rows(t->store, KD_VALID);
    uint32_t largest = 0;
    kd_status st;
    if (!rows) return KD_OK;
    t->cached = (double)rows * (double)block_row_bytes(t) <= (double)t->p.valid_cache;
    t->blocks = calloc(kd_store_chunks(t->store), sizeof(*t->blocks));
    if (!t->blocks) return kd_fail(err, KD_ENOMEM, "out of memory");
    if ((st = kd_cursor_open(&t->cursor, t->store, err))) return st;
    for (uint32_t c = 0; c < kd_store_chunks(t->store); c++) {
        const kd_chunk_info *info = kd_store_chunk(t->store, c);
        if (info->split != KD_VALID) continue;
        t->blocks[t->nblocks++] = (kd__block){.chunk = c, .rows = info->rows};
        if (info->rows > largest) largest = info->rows;
    }
    if (!t->cached) return block_alloc(&t->blocks[0], t, largest, err); // the others borrow it in turn
    for (size_t i = 0; i < t->nblocks && !st; i++)
        if (!(st = block_alloc(&t->blocks[i], t, t->blocks[i].rows, err)))
            st = block_decode(&t->blocks[i], t, err);
    return st;
}

void kd__valid_close(kd_trainer *t)
{
    for (size_t i = 0; i < t->nblocks && (t->cached || !i); i++) {
        kd__targets_release(&t->blocks[i].targets);
        free(t->blocks[i].input);
    }
    free(t->blocks);
    kd_cursor_close(t->cursor);
    t->blocks = NULL;
    t->nblocks = 0;
    t->cursor = NULL;
}

size_t kd__valid_bytes(const kd_trainer *t)
{
    size_t rows = 0;
    for (size_t i = 0; i < t->nblocks; i++)
        rows = t->cached ? rows + t->blocks[i].rows : kd_max_size(rows, t->blocks[i].rows);
    return rows * block_row_bytes(t);
}

kd_status kd__valid_block(kd_trainer *t, size_t i, const kd__block **out, kd_err *err)
{
    kd__block *b = &t->blocks[i];
    *out = b;
    if (t->cached) return KD_OK;
    b->input = t->blocks[0].input;
    b->targets = t->blocks[0].targets;
    kd_status st = block_decode(b, t, err);
    if (i) t->blocks[0].targets = b->targets; // they may have grown
    return st;
}
