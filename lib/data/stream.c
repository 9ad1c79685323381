/* stream.c - shuffled batches of one seed and size.
 *
 * An epoch of a stream is one sequence of rows: window after window, each window's rows in an order
 * permuted by (stream seed, epoch, window). Batches are consecutive pieces of that sequence; a piece
 * may begin in one window and end in the next, so its first rows wait in the stream's own memory. A
 * stream's position is one number, the rows taken of the sequence. Hence skipping is setting it, and
 * what a stream delivers depends neither on the other streams nor on when it was asked.
 *
 * A stream of views makes them where another one copies rows: the window holds the whole chunk, so a row that
 * is mixed in is at hand, and students that share the stream share the work. Each view is one thread's.
 *
 * Several streams share a window; it gives way to the next only when each has taken its rows of it
 * (or has reached its end). Until then they only read it, so they may be drawn from at the same time.
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
    struct {
        kd_view_spec spec; /* count 0: none */
        int input, id, label;
        size_t label_bytes; /* of the rows mixed in, 0: not wanted */
        uint32_t *view;     /* (batch) */
        float *share;       /* (batch) */
        uint8_t *other;     /* (batch, label bytes) */
    } views;
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
    free(s->views.view);
    free(s->views.share);
    free(s->views.other);
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

kd_status kd_stream_views(kd_stream *s, const kd_view_spec *spec, int input, int id, int label, kd_err *err)
{
    const kd_loader *l = s->loader;
    const size_t label_bytes = label >= 0 && kd_view_mixes(spec) ? l->shape[label].bytes : 0;
    s->views.spec = *spec;
    s->views.input = input;
    s->views.id = id;
    s->views.label = label;
    s->views.label_bytes = label_bytes;
    s->views.view = malloc(s->batch * sizeof(*s->views.view));
    s->views.share = malloc(s->batch * sizeof(*s->views.share));
    s->views.other = malloc(s->batch * label_bytes + 1);
    if (!s->views.view || !s->views.share || !s->views.other)
        return kd_fail(err, KD_ENOMEM, "no memory for views of %u rows", s->batch);
    const size_t more = s->batch * (sizeof(*s->views.view) + sizeof(*s->views.share) + label_bytes);
    s->bytes += more;
    s->loader->bytes += more;
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

bool kd_stream_ready(const kd_stream *s)
{
    const kd_loader *l = s->loader;
    const uint64_t lacks = s->batch - (s->delivered ? 0 : s->fill), end = s->at + lacks;
    return l->now->loaded && end <= window_end(l) && end <= s->end;
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

/* Makes number k of the batch's views, of the row at a place of the window. */
static void make_view(kd_stream *s, uint32_t place, uint32_t k)
{
    const kd_loader *l = s->loader;
    const kd_view_spec *spec = &s->views.spec;
    const size_t bytes = l->shape[s->views.input].bytes, slot = place / l->unit, first = slot * l->unit;
    const uint8_t *in = l->now->slab[s->views.input];
    const kd_column *c = kd_store_column(l->store, (size_t)l->shape[s->views.input].column);
    kd_id id;
    memcpy(id.b, l->now->slab[s->views.id] + place * sizeof(id.b), sizeof(id.b));
    const uint32_t view = kd_view_turn(spec, s->seed, id, l->epoch);
    const uint32_t rows = kd__loader_whole(l, l->resident ? (uint32_t)slot : l->now->order[slot]);
    const kd_view_mix m = kd_view_mix_of(spec, c, id, view, rows);
    const uint8_t *other = in + (first + m.other) * bytes;
    kd_view_apply(spec, c, id, view, in + place * bytes, m.mixed ? other : NULL,
                  s->slab[s->views.input] + k * bytes);
    s->views.view[k] = view;
    s->views.share[k] = m.share;
    if (s->views.label_bytes)
        memcpy(s->views.other + k * s->views.label_bytes,
               l->now->slab[s->views.label] + (m.mixed ? first + m.other : place) * s->views.label_bytes,
               s->views.label_bytes);
}

static void make_views(kd_stream *s, const uint32_t *from, uint32_t n)
{
#pragma omp parallel for schedule(static) num_threads(s->loader->p.threads) if (s->loader->p.threads > 1)
    for (uint32_t i = 0; i < n; i++) make_view(s, from[i], s->fill + i);
}

/* Appends the rows at n places of the window to the batch's column c. */
static kd_status gather(kd_stream *s, int c, const uint32_t *from, uint32_t n, kd_err *err)
{
    const kd_loader *l = s->loader;
    const kd__shape *f = &l->shape[c];
    kd_status st = KD_OK;
    if (s->views.spec.count && c == s->views.input) {
        make_views(s, from, n);
    } else if (f->form == KD__FIXED) {
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
    b->view = s->views.view;
    b->share = s->views.share;
    b->other_label = s->views.label_bytes ? s->views.other : NULL;
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
