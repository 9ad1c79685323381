/* language.c - what a language model says of a store's texts: logits of each token that is to be predicted.
 *
 * A row of texts is a sequence; token i of it, from the second on, is predicted by the logits at token i - 1.
 * Where the store has a mask, those of its tokens that it marks are, and no others go through the head, which
 * costs as much as several layers.
 *
 * Logits of all tokens would be the largest array of the pass by far (49,152 numbers a token), and are never
 * there: the body runs over a batch of texts, the head over a few of their tokens at a time, and what will be
 * stored is picked from those logits at once, by the same threads, while they lie in a cache.
 */
#include "teacher_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLE = 2048 }; /* positions that a codebook is learned from */

kd_status kd__said_open(kd__said **out, size_t rows, kd_err *err)
{
    kd__said *s = *out = calloc(1, sizeof *s);
    if (s) s->lengths = calloc(rows + 1, sizeof *s->lengths);
    return s && s->lengths ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for %zu rows", rows);
}

void kd__said_free(kd__said *s)
{
    if (!s) return;
    kd_codec_pieces_free(s->pieces);
    kd_buf_release(&s->dense);
    free(s->lengths);
    free(s);
}

/* Of a large vocabulary few classes are kept unless the caller says otherwise. */
enum { LARGE = 1024 };
const char *kd__said_encoding(const kd_teacher *t, const char *encoding, kd_dtype dtype)
{
    return encoding || dtype != KD_F32 || t->classes < LARGE ? encoding : "head-tail:n=20";
}

/* Whether token i of the feed, which is not the first of its text, is to be predicted. */
static bool wanted(const kd__feed *f, uint64_t i) { return !f->mask || f->mask[f->token + i]; }

/* Positions on their way through the head: of the texts from `first` on, `texts` of them. */
typedef struct piece {
    uint32_t row[KD__HEAD_ROWS]; /* of the body's output */
    uint32_t length[KD__HEAD_ROWS];
    size_t n, texts;
    uint64_t first;
    uint32_t at; /* positions of the first text that went before */
} piece;

typedef struct taking {
    kd_teacher *t;
    const kd__feed *f;
    kd_status (*use)(void *arg, const struct taking *k, const piece *p, const float *logits, kd_err *err);
    void *arg;
} taking;

static kd_status flush(const taking *k, piece *p, kd_err *err)
{
    const float *logits;
    kd_status st = p->n ? kd__teacher_head(k->t, p->row, p->n, &logits, err) : KD_OK;
    if (!st && p->n) st = k->use(k->arg, k, p, logits, err);
    p->n = p->texts = 0;
    return st;
}

/* Takes all positions of a feed through the head; lengths: (rows of the feed) receives how many each text
 * has. */
static kd_status take(const taking *k, uint32_t *lengths, kd_err *err)
{
    const kd__feed *f = k->f;
    piece p = {0};
    kd_status st = KD_OK;
    for (uint64_t i = 0; i < (uint64_t)f->rows && !st; i++) {
        lengths[i] = 0;
        for (uint64_t j = f->offset[i] + 1; j < f->offset[i + 1] && !st; j++) {
            if (!wanted(f, j)) continue;
            if (!p.n) p.first = i, p.at = lengths[i];
            while (p.first + p.texts <= i) p.length[p.texts++] = 0;
            p.length[p.texts - 1]++;
            p.row[p.n++] = (uint32_t)(j - 1);
            lengths[i]++;
            if (p.n == KD__HEAD_ROWS) st = flush(k, &p, err);
        }
        // A text that is not predicted has a place among the lengths, too.
        if (!st && p.n && i + 2 - p.first > KD__HEAD_ROWS) st = flush(k, &p, err);
    }
    return st ? st : flush(k, &p, err);
}

/* ---- storing -------------------------------------------------------------------------------- */

typedef struct storing {
    kd__said *s;
    const kd__target *g;
} storing;

static kd_status more_dense(kd__said *s, const kd__target *g, const void *data, size_t bytes, kd_err *err)
{
    if (bytes > KD_STORE_MAX_RAW - s->dense.len)
        return kd_fail(
            err, KD_ELIMIT,
            "column %s: a chunk takes more than 1 GiB; pack the rows in smaller chunks, or give an "
            "--encoding that keeps fewer classes",
            g->column.name);
    if (bytes) kd_buf_append(&s->dense, data, bytes);
    return s->dense.failed ? kd_fail(err, KD_ENOMEM, "no memory for a chunk") : KD_OK;
}

static kd_status put_dense(kd__said *s, const kd__target *g, const kd_codec_block *b, size_t n,
                           const char *where, uint64_t row, kd_err *err)
{
    const kd_dtype type = g->column.dtype;
    const size_t numbers = n * g->size, at = s->dense.len;
    for (size_t i = 0; i < numbers; i++)
        if (!isfinite(b->values[i]))
            return kd_fail(err, KD_ENUMERIC, "the logit of class %zu is %g; the teacher's weights are broken",
                           i % g->size, b->values[i]);
    // Room for what follows: a number is no longer than a float.
    kd_status st = more_dense(s, g, b->values, numbers * kd_dtype_size(type), err);
    if (st || type == KD_F32) return st;
    kd_from_f32(s->dense.text + at, type, b->values, numbers);
    return kd__check_halves(&g->column, s->dense.text + at, b->values, numbers, g->size, where, row, err);
}

kd_status kd__said_put(kd__said *s, const kd__target *g, const kd_codec_block *b, size_t n, int threads,
                       const char *where, uint64_t row, kd_err *err)
{
    kd_status st = g->codec && !s->pieces ? kd_codec_begin(&s->pieces, g->codec, err) : KD_OK;
    if (!st)
        st = g->codec ? kd_codec_add(s->pieces, b, threads, err) : put_dense(s, g, b, n, where, row, err);
    return st ? kd_fail_in(err, st, "%s: texts from row %llu on, %s", where, (unsigned long long)row,
                           g->column.name)
              : KD_OK;
}

kd_status kd__said_join(kd__said *s, size_t row, const kd__target *g, kd__said *from, kd_err *err)
{
    kd_status st = g->codec && !s->pieces ? kd_codec_begin(&s->pieces, g->codec, err) : KD_OK;
    s->lengths[row] = from->lengths[0];
    if (!st && from->pieces) st = kd_codec_join(s->pieces, from->pieces, err);
    return st || g->codec ? st : more_dense(s, g, from->dense.text, from->dense.len, err);
}

static kd_status store_piece(void *arg, const taking *k, const piece *p, const float *logits, kd_err *err)
{
    const storing *x = arg;
    const uint64_t row = k->f->at.first + p->first;
    const kd_codec_block b = {.values = logits,
                              .rows = (uint32_t)p->texts,
                              .lengths = p->length,
                              .at = p->at,
                              .ids = k->f->ids + row};
    return kd__said_put(x->s, x->g, &b, p->n, k->t->threads, k->t->folder, k->f->at.base + row, err);
}

kd_status kd__said_take(kd__said *s, kd_teacher *t, const kd__feed *f, const kd__target *g, kd_err *err)
{
    storing x = {s, g};
    return take(&(taking){t, f, store_piece, &x}, s->lengths + f->at.first, err);
}

kd_status kd__said_end(kd__said *s, kd_buf *out, kd_block *block, kd_err *err)
{
    kd_status st = KD_OK;
    out->len = 0;
    if (s->pieces) {
        st = kd_codec_end(s->pieces, out, err);
    } else {
        const kd_buf given = *out;
        *out = s->dense;
        s->dense = given;
    }
    *block = (kd_block){.data = out->text, .bytes = out->len, .lengths = s->lengths};
    return st;
}

/* ---- learning ------------------------------------------------------------------------------- */

typedef struct sampling {
    kd__said_use *use;
    void *arg;
    size_t positions, most;
} sampling;

static kd_status use_piece(void *arg, const taking *k, const piece *p, const float *logits, kd_err *err)
{
    sampling *x = arg;
    (void)k;
    if (x->positions >= x->most) return KD_OK;
    x->positions += p->n;
    return x->use(x->arg, logits, p->n, err);
}

kd_status kd__said_sample(kd_teacher *t, kd__reader *r, int text, size_t most, kd__said_use *use, void *arg,
                          kd__said_seen *seen, kd_err *err)
{
    sampling x = {.use = use, .arg = arg, .most = most};
    uint32_t *lengths = calloc((size_t)t->batch + 1, sizeof *lengths);
    kd_status st = lengths ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for a batch");
    *seen = (kd__said_seen){0};
    for (uint32_t chunk = 0; chunk < kd_store_chunks(r->s) && x.positions < most && !st; chunk++) {
        kd__feed f = {0};
        st = kd__reader_seek(r, chunk, err);
        while (!st && !f.closes && x.positions < most) {
            kd__reader_next(r, &f);
            if (f.text != text) continue;
            st = kd__teacher_body(t, f.raw, f.dtype, f.offset, f.rows, f.at, err);
            if (!st) st = take(&(taking){t, &f, use_piece, &x}, lengths, err);
            for (int64_t i = 0; i < f.rows && !st; i++) seen->positions += lengths[i];
            seen->rows += (uint64_t)f.rows;
        }
    }
    free(lengths);
    return st;
}

static kd_status learn_piece(void *arg, const float *logits, size_t n, kd_err *err)
{
    return kd_codec_learner_add(arg, logits, n, err);
}

kd_status kd__said_learn(kd__target *g, kd_teacher *t, kd__reader *r, kd_err *err)
{
    const kd_column *c = &g->column;
    kd_codec_learner *l = NULL;
    kd__said_seen seen;
    void *book = NULL;
    size_t bytes = 0;
    kd_status st = KD_OK;
    if (kd__target_learns(g)) {
        st = kd_codec_learner_open(&l, c->encoding, (int64_t)kd_column_width(c),
                                   json_object_get(c->params, "codec"), err);
        if (!st && (st = kd__said_sample(t, r, g->text, SAMPLE, learn_piece, l, &seen, err)))
            kd_codec_learner_free(l);
        else if (!st)
            st = kd_codec_learner_end(l, &book, &bytes, err);
    }
    return st ? kd_fail_in(err, st, "column %s", c->name) : kd__target_use(g, book, bytes, err);
}
