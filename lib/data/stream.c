/* stream.c - shuffled batches of one seed and size.
 *
 * An epoch of a stream is one sequence of rows: window after window, each window's rows in an order
 * permuted by (stream seed, epoch, window). Batches are consecutive pieces of that sequence; a piece
 * may begin in one window and end in the next, so its first rows wait in the stream's own memory. A
 * stream's position is one number, the rows taken of the sequence. Hence skipping is setting it, and
 * what a stream delivers depends neither on the other streams nor on when it was asked.
 *
 * Several streams share a window; it gives way to the next only when each has taken its rows of it
 * (or has reached its end).
 */
#include "data_private.h"

#include <stdlib.h>
#include <string.h>

struct kd_stream {
    kd_loader *loader;
    kd_stream *next;
    uint64_t seed, steps, end; /* end: rows of the sequence that an epoch uses */
    uint32_t batch;
    uint64_t at;       /* rows taken */
    uint32_t fill;     /* rows of them in the batch, which may not be complete yet */
    bool waiting;      /* its last call found the window used up */
    bool stepped;      /* a batch was asked for in this epoch */
    bool delivered;    /* the batch is the caller's until the next call */
    uint32_t *order;   /* (loader cap) places of the window's rows in this stream's order */
    uint32_t permuted; /* window that order is of */
    bool has_order;
    uint8_t *slab[KD_LOADER_COLUMNS]; /* fixed columns: (batch, row bytes) */
    kd__held held[KD_LOADER_COLUMNS]; /* others */
    uint64_t *row;                    /* (batch) */
    size_t bytes;
};

uint64_t kd_stream_steps(const kd_stream *s) { return s->steps; }
kd_stream *kd__stream_following(const kd_stream *s) { return s->next; }
bool kd__stream_wants(const kd_stream *s, uint64_t row) { return s->at < s->end && row < s->end; }

void kd__stream_free(kd_stream *s)
{
    for (int i = 0; i < KD_LOADER_COLUMNS; i++) {
        free(s->slab[i]);
        kd__held_release(&s->held[i]);
    }
    free(s->order);
    free(s->row);
    free(s);
}

void kd_stream_close(kd_stream *s)
{
    if (!s) return;
    for (kd_stream **p = &s->loader->streams; *p; p = &(*p)->next)
        if (*p == s) {
            *p = s->next;
            break;
        }
    s->loader->bytes -= s->bytes;
    kd__stream_free(s);
}

static void empty_batch(kd_stream *s)
{
    s->fill = 0;
    for (int c = 0; c < s->loader->columns; c++) kd__held_clear(&s->held[c]);
}

void kd__stream_rewind(kd_stream *s)
{
    s->at = 0;
    empty_batch(s);
    s->stepped = s->waiting = false;
    s->has_order = false;
}

kd_status kd_stream_open(kd_stream **out, kd_loader *l, uint64_t seed, uint32_t batch, bool drop_last,
                         kd_err *err)
{
    bool failed = false;
    *out = NULL;
    if (!batch) return kd_fail(err, KD_EUSAGE, "a batch of 0 rows");
    if (l->begun) return kd_fail(err, KD_EUSAGE, "a stream was opened after the loader's first epoch began");
    if (drop_last && l->rows < batch)
        return kd_fail(err, KD_EUSAGE,
                       "%s: %llu rows of split %s do not fill one batch of %u; lower the batch size",
                       kd_store_path(l->store), (unsigned long long)l->rows, kd_split_name(l->p.split),
                       batch);
    kd_stream *s = calloc(1, sizeof(*s));
    if (!s) return kd_fail(err, KD_ENOMEM, "out of memory");
    s->loader = l;
    s->seed = seed;
    s->batch = batch;
    s->steps = drop_last ? l->rows / batch : (l->rows + batch - 1) / batch;
    s->end = drop_last ? s->steps * batch : l->rows;
    const size_t window = (size_t)l->slots * l->unit;
    s->order = malloc(window * sizeof(*s->order));
    s->row = malloc(batch * sizeof(*s->row));
    s->bytes = sizeof(*s) + window * sizeof(*s->order) + batch * sizeof(*s->row);
    for (int i = 0; i < l->columns; i++) {
        const kd__shape *f = &l->shape[i];
        if (f->form == KD__FIXED)
            failed |= !(s->slab[i] = kd_alloc_aligned(batch, f->bytes));
        else
            failed |= kd__held_reserve(&s->held[i], f, batch, batch * f->longest, NULL) != KD_OK;
        s->bytes += f->form == KD__FIXED ? batch * f->bytes : kd__held_bytes(f, batch, batch * f->longest);
    }
    if (failed || !s->order || !s->row) {
        kd__stream_free(s);
        return kd_fail(err, KD_ENOMEM, "no memory for batches of %u rows", batch);
    }
    kd_stream **tail = &l->streams;
    while (*tail) tail = &(*tail)->next;
    *tail = *out = s;
    l->bytes += s->bytes;
    return KD_OK;
}

kd_status kd_stream_skip(kd_stream *s, uint64_t n, kd_err *err)
{
    if (!s->loader->begun || s->stepped)
        return kd_fail(err, KD_EUSAGE, "batches can be skipped only at the beginning of an epoch");
    if (n > s->steps)
        return kd_fail(err, KD_EUSAGE, "%llu batches to skip, an epoch has %llu", (unsigned long long)n,
                       (unsigned long long)s->steps);
    s->at = n == s->steps ? s->end : n * s->batch;
    return KD_OK;
}

/* ---- drawing ------------------------------------------------------------------------------ */

static uint64_t window_end(const kd_loader *l) { return l->now->first + l->now->rows; }

/* The first row that any stream still wants; *held: whether it is in the window at hand. */
static uint64_t first_wanted(const kd_loader *l, bool *held)
{
    uint64_t first = UINT64_MAX;
    for (const kd_stream *s = l->streams; s; s = s->next)
        if (s->at < s->end && s->at < first) first = s->at;
    *held = l->now->loaded && first < window_end(l);
    return first;
}

static void permute(kd_stream *s)
{
    const kd_loader *l = s->loader;
    size_t n = (size_t)l->now->rows;
    kd_rng rng;
    if (l->p.shuffle) {
        kd_rng_init(&rng, s->seed, KD_RNG_ROWS, (uint32_t)l->epoch, l->now->number);
        kd_rng_permute(&rng, s->order, n);
        for (size_t i = 0; i < n; i++) s->order[i] = l->place[s->order[i]];
    } else {
        memcpy(s->order, l->place, n * sizeof(*s->order));
    }
    s->permuted = l->now->number;
    s->has_order = true;
}

/* Appends the rows at n places of the window to the batch's column c. */
static kd_status gather(kd_stream *s, int c, const uint32_t *from, uint32_t n, kd_err *err)
{
    const kd_loader *l = s->loader;
    const kd__shape *f = &l->shape[c];
    kd_status st = KD_OK;
    if (f->form == KD__FIXED) {
        const uint8_t *in = l->now->slab[c];
        uint8_t *out = s->slab[c] + s->fill * f->bytes;
        for (uint32_t i = 0, run; i < n;
             i += run, out += run * f->bytes) { // one piece where nothing is shuffled
            for (run = 1; i + run < n && from[i + run] == from[i] + run; run++) continue;
            memcpy(out, in + from[i] * f->bytes, run * f->bytes);
        }
    }
    for (uint32_t i = 0; i < n && f->form != KD__FIXED && !st; i++)
        st = kd__held_append(&s->held[c], f, &l->now->held[c][from[i] / l->unit], from[i] % l->unit, err);
    return st;
}

/* Copies rows from the window to the batch, behind those that are there: as many as the window has, the batch
 * lacks and the epoch uses. */
static kd_status pull(kd_stream *s, kd_err *err)
{
    const kd_loader *l = s->loader;
    uint64_t stop = window_end(l) < s->end ? window_end(l) : s->end;
    kd_status st;
    if (!l->now->loaded || s->at >= stop || s->fill == s->batch) return KD_OK;
    if (!s->has_order || s->permuted != l->now->number) permute(s);
    uint32_t n = (uint32_t)kd_min_size((size_t)(stop - s->at), s->batch - s->fill);
    const uint32_t *from = s->order + (s->at - l->now->first);
    for (uint32_t i = 0; i < n; i++)
        s->row[s->fill + i] = l->now->row_at[from[i] / l->unit] + from[i] % l->unit;
    for (int c = 0; c < l->columns; c++)
        if ((st = gather(s, c, from, n, err))) return st;
    s->at += n;
    s->fill += n;
    return KD_OK;
}

static void deliver(kd_stream *s, kd_batch *b)
{
    const kd_loader *l = s->loader;
    b->rows = s->fill; // 0 at the end of the epoch
    b->row = s->row;
    for (int c = 0; c < l->columns; c++) {
        const kd__shape *f = &l->shape[c];
        b->column[c] = f->form == KD__FIXED ? s->slab[c] : f->form == KD__RAGGED ? s->held[c].values : NULL;
        b->offset[c] = f->ragged ? s->held[c].offset : NULL;
        b->sparse[c] = f->form == KD__SPARSE ? &s->held[c].sparse : NULL;
    }
    s->delivered = true;
}

kd_status kd_stream_next(kd_stream *s, kd_batch *b, kd_err *err)
{
    kd_loader *l = s->loader;
    kd_status st;
    *b = (kd_batch){0};
    if (!l->begun) return kd_fail(err, KD_EUSAGE, "a batch was asked for before an epoch began");
    if (s->delivered) empty_batch(s);
    s->delivered = s->waiting = false;
    s->stepped = true;
    for (;;) {
        bool held;
        if ((st = pull(s, err))) return st;
        if (s->at >= s->end || s->fill == s->batch) break;
        first_wanted(l, &held);
        // A stream that waits lent its batch to nobody: it takes its rows now, so that rounds without any
        // batch do not follow each other.
        for (kd_stream *other = l->streams; held && other; other = other->next)
            if (other->waiting && (st = pull(other, err))) return st;
        uint64_t first = first_wanted(l, &held);
        if (held) {
            s->waiting = b->wait = true;
            return KD_OK;
        }
        if ((st = kd__loader_reach(l, first, err))) return st;
    }
    deliver(s, b);
    return KD_OK;
}
