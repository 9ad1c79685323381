/* sparse.c - what the sparse codecs share: ranks of classes, and the way from a block of logits to entries.
 *
 * Ranks come from a codebook, the ids of the most probable classes in byte planes; classes that it does not
 * list follow in the order of their ids. Without one a rank is the id.
 */
#include "codec_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- codebook ----------------------------------------------------------------------------- */

static size_t id_bytes(int64_t width) { return width <= 256 ? 1 : width <= 65536 ? 2 : 3; }

static kd_status read_book(const kd_codec *c, uint32_t *rank, uint32_t *id, kd_err *err)
{
    const size_t width = (size_t)c->width, bytes = id_bytes(c->width), n = c->book_bytes / bytes;
    if (c->book_bytes % bytes || n > width)
        return kd_fail(err, KD_ECORRUPT,
                       "encoding %s: a codebook of %zu bytes does not fit %zu classes of %zu bytes",
                       c->ops->info.name, c->book_bytes, width, bytes);
    for (size_t i = 0; i < width; i++) rank[i] = UINT32_MAX;
    for (size_t r = 0; r < n; r++) {
        uint32_t v = 0;
        for (size_t k = 0; k < bytes; k++) v |= (uint32_t)c->book[k * n + r] << 8 * k;
        if (v >= width || rank[v] != UINT32_MAX)
            return kd_fail(err, KD_ECORRUPT, "encoding %s: codebook entry %zu, class %u, %s",
                           c->ops->info.name, r, v, v >= width ? "is beyond the last class" : "stands twice");
        rank[v] = (uint32_t)r;
        id[r] = v;
    }
    for (size_t i = 0, r = n; i < width; i++)
        if (rank[i] == UINT32_MAX) id[r] = (uint32_t)i, rank[i] = (uint32_t)r++;
    return KD_OK;
}

kd_status kd__sparse_open(kd_codec *c, const kd__sparse_kind *kind, int64_t most, size_t number_bytes,
                          kd_err *err)
{
    const size_t width = (size_t)c->width, maps = c->book ? 2 * width : 0;
    kd__sparse_state *s = calloc(1, sizeof *s + maps * sizeof *s->maps);
    if (!s) return kd_fail(err, KD_ENOMEM, "out of memory for %zu classes", width);
    c->state = s;
    s->kind = kind;
    s->most = kd_min_size((size_t)most, width);
    s->count_bytes = s->most <= 255 ? 1 : 2;
    s->number_bytes = number_bytes;
    s->temperatures = c->p.temperatures.n;
    if (!maps) return KD_OK;
    s->rank = s->maps;
    s->id = s->maps + width;
    return read_book(c, s->maps, s->maps + width, err);
}

typedef struct mean_of {
    double p;
    uint32_t id;
} mean_of;

static int by_falling_mean(const void *a, const void *b)
{
    const mean_of *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

/* Rarer classes cost more in the codebook than their ranks save in blocks. Of a language model's 49,152
 * classes 16,384 leave a position 0.04 bytes longer than all of them do, 8,192 leave it 0.17 longer, of 15;
 * but the codebook takes 32 KiB and 16 KiB instead of 96 KiB (measured). */
enum { MOST_LISTED = 8192 };

static void put_book(const mean_of *m, size_t width, kd_buf *book)
{
    const size_t bytes = id_bytes((int64_t)width);
    size_t n = width - 1;
    while (n && m[n - 1].id < m[n].id) n--; // what follows in the order of ids need not be listed
    n = kd_min_size(n, MOST_LISTED);
    uint8_t *to = kd__codec_room(book, n * bytes);
    if (!to) {
        book->failed = true;
        return;
    }
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < bytes; k++) to[k * n + r] = (uint8_t)(m[r].id >> 8 * k);
}

kd_status kd__sparse_learn(const kd_codec *c, const float *values, size_t n, double *mean, kd_err *err)
{
    const size_t width = (size_t)c->width;
    const kd_codec_block b = {.values = values, .rows = (uint32_t)n, .each = 1};
    kd__softmax s;
    kd_status st = KD_OK;
    double w[KD__BLOCK];
    if (!kd__softmax_init(&s, c->width)) st = kd_fail(err, KD_ENOMEM, "out of memory for %zu classes", width);
    for (size_t i = 0; i < n && !st; i++) {
        if (!kd__softmax_take(&s, values + i * width)) {
            st = kd__codec_finite(c, &b, i, err);
            break;
        }
        kd__softmax_at(&s, 1);
        for (size_t k = 0; k < width; k += KD__BLOCK) {
            kd__softmax_block(&s, k / KD__BLOCK, w);
            for (size_t j = k; j < kd_min_size(k + KD__BLOCK, width); j++) mean[j] += w[j - k] / s.total;
        }
    }
    kd__softmax_release(&s);
    return st;
}

kd_status kd__sparse_book(const kd_codec *c, const double *mean, kd_buf *book, kd_err *err)
{
    const size_t width = (size_t)c->width;
    mean_of *m = calloc(width, sizeof *m);
    if (!m) return kd_fail(err, KD_ENOMEM, "out of memory for %zu classes", width);
    for (size_t i = 0; i < width; i++) m[i] = (mean_of){mean[i], (uint32_t)i};
    qsort(m, width, sizeof *m, by_falling_mean);
    put_book(m, width, book);
    free(m);
    return KD_OK;
}

/* ---- sorting ------------------------------------------------------------------------------ */

void kd__sort_entries(kd__entry *e, size_t n, kd__entry *scratch)
{
    if (n <= 32) {
        for (size_t i = 1; i < n; i++) {
            const kd__entry v = e[i];
            size_t k = i;
            for (; k && e[k - 1] > v; k--) e[k] = e[k - 1];
            e[k] = v;
        }
        return;
    }
    // By one byte of the class after the other.
    uint64_t all = 0;
    for (size_t i = 0; i < n; i++) all |= e[i];
    for (int shift = 32; all >> shift; shift += 8) {
        uint32_t first[257] = {0};
        for (size_t i = 0; i < n; i++) first[(e[i] >> shift & 255) + 1]++;
        for (int k = 0; k < 256; k++) first[k + 1] += first[k];
        for (size_t i = 0; i < n; i++) scratch[first[e[i] >> shift & 255]++] = e[i];
        memcpy(e, scratch, n * sizeof *e);
    }
}

/* ---- from logits to entries --------------------------------------------------------------- */

bool kd__picks_init(kd__picks *p, const kd_codec *c, size_t positions, size_t entries)
{
    const kd__sparse_state *s = c->state;
    size_t bytes;
    *p = (kd__picks){.positions = positions};
    if (!kd_mul_size(entries, sizeof *p->entry, &bytes)) return false;
    p->entry = malloc(bytes + 1);
    p->start = malloc(positions * sizeof *p->start + 1);
    p->count = malloc(positions * sizeof *p->count + 1);
    p->codes = malloc(positions * 2 * s->temperatures * sizeof *p->codes + 1);
    return p->entry && p->start && p->count && p->codes;
}

void kd__picks_release(kd__picks *p)
{
    free(p->entry);
    free(p->start);
    free(p->count);
    free(p->codes);
}

void kd__picks_rank(const kd_codec *c, kd__entry *e, size_t n, kd__entry *scratch)
{
    const kd__sparse_state *s = c->state;
    if (!s->rank) return;
    for (size_t i = 0; i < n; i++) e[i] = kd__entry_of(s->rank[kd__entry_class(e[i])], (uint32_t)e[i]);
    kd__sort_entries(e, n, scratch);
}

typedef struct job {
    const kd_codec *c;
    const kd_codec_block *b;
    kd__picks *picks;
} job;

static kd_status pick_positions(void *arg, size_t first, size_t last, kd_err *err)
{
    const job *j = arg;
    const kd_codec_block *b = j->b;
    const kd__sparse_state *state = j->c->state;
    const size_t width = (size_t)j->c->width;
    kd__softmax s;
    kd_rng r = {0};
    uint32_t row, at;
    kd_status st = KD_OK;
    kd__entry *room = malloc(kd_max_size(width, (size_t)j->c->p.n) * sizeof *room);
    if (!kd__softmax_init(&s, j->c->width) || !room)
        st = kd_fail(err, KD_ENOMEM, "out of memory for %zu classes", width);
    kd__codec_place(b, first, &row, &at);
    for (size_t i = first; i < last && !st; i++, at++) {
        for (; at >= kd__codec_row_end(b, row); row++) at = 0;
        if (!kd__softmax_take(&s, b->values + i * width)) {
            st = kd__codec_finite(j->c, b, i, err);
            break;
        }
        kd__entry *e = j->picks->entry + (j->picks->start[i] = i * state->most);
        if (state->kind->draws) r = kd__draws(j->c->p.seed, b->ids[row], at);
        const size_t n =
            state->kind->pick(j->c, &s, &r, e, j->picks->codes + i * 2 * state->temperatures, room);
        j->picks->count[i] = (uint32_t)n;
        kd__picks_rank(j->c, e, n, room);
    }
    kd__softmax_release(&s);
    free(room);
    return st;
}

kd_status kd__sparse_pick(kd__picks *p, const kd_codec *c, const kd_codec_block *b, int threads, kd_err *err)
{
    const kd__sparse_state *s = c->state;
    const size_t n = kd_codec_block_positions(b);
    job j = {.c = c, .b = b, .picks = p};
    *p = (kd__picks){0};
    if (s->kind->draws && !b->ids)
        return kd_fail(err, KD_EUSAGE, "encoding %s draws at random and needs the ids of the rows",
                       c->ops->info.name);
    // No more than twice the bytes of the logits, because most is at most the width.
    if (!kd__picks_init(p, c, n, n * s->most))
        return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", n);
    return kd__codec_parallel(n, kd_max_size(8, 65536 / (size_t)c->width), threads, pick_positions, &j, err);
}

kd_status kd__sparse_encode(const kd_codec *c, const kd_codec_block *b, int threads, kd_buf *out, kd_err *err)
{
    kd__picks p;
    kd_status st = kd__sparse_pick(&p, c, b, threads, err);
    if (!st && p.positions) st = kd__picks_write(&p, c, out, err);
    kd__picks_release(&p);
    return st;
}
