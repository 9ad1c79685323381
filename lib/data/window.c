/* window.c - the chunks that are open, decoded, and the thread that decodes the next ones.
 *
 * A window is `slots` consecutive chunks of the epoch's order. Its blocks (chunk x column) are tasks
 * with fixed places in memory, taken from one counter by whoever has time: so nothing depends on who decodes
 * what, and the loader's own thread and the team can work on one window together. Column after column: the
 * input, which comes first and takes longest, is not what the others wait for at the end.
 *
 * Two ways to spend the cores. Without a core to spare the team decodes a window between two steps,
 * all of it at once: the cores are never idle and never shared. With one to spare a thread of the loader's
 * own decodes the next window into a second set of slabs while the present one is used; when the team arrives
 * it helps with what is left. A third way, that thread beside a team that has all the cores, would make every
 * barrier of the compute team wait for a thread that was scheduled away.
 */
#include "data_private.h"

#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ------------------------------------------------------------------------------- */

kd_status kd__window_alloc(kd__window *w, kd_loader *l, kd_err *err)
{
    size_t rows;
    bool ok = kd_mul_size(l->slots, l->unit, &rows);
    for (int c = 0; c < l->columns && ok; c++) {
        const kd__shape *f = &l->shape[c];
        if (f->form == KD__FIXED)
            ok = (w->slab[c] = kd_alloc_aligned(rows, f->bytes)) != NULL;
        else
            ok = (w->held[c] = calloc(l->slots, sizeof(*w->held[c]))) != NULL;
        for (uint32_t i = 0; i < l->slots && ok && f->form != KD__FIXED; i++)
            ok = !kd__held_reserve(&w->held[c][i], f, l->unit, f->most, NULL);
    }
    ok = ok && (w->order = malloc(l->slots * sizeof(*w->order))) &&
         (w->row_at = malloc(l->slots * sizeof(*w->row_at)));
    return ok ? KD_OK
              : kd_fail(err, KD_ENOMEM, "%s: no memory for a window of %zu rows (%zu bytes); lower its rows",
                        kd_store_path(l->store), rows, kd__window_bytes(l));
}

void kd__window_release(kd__window *w, const kd_loader *l)
{
    for (int c = 0; c < l->columns; c++) {
        free(w->slab[c]);
        for (uint32_t i = 0; w->held[c] && i < l->slots; i++) kd__held_release(&w->held[c][i]);
        free(w->held[c]);
    }
    free(w->order);
    free(w->row_at);
}

size_t kd__window_bytes(const kd_loader *l)
{
    size_t n = l->slots * (sizeof(uint32_t) + sizeof(uint64_t));
    for (int c = 0; c < l->columns; c++) {
        const kd__shape *f = &l->shape[c];
        n += l->slots * (f->form == KD__FIXED ? l->unit * f->bytes
                                              : sizeof(kd__held) + kd__held_bytes(f, l->unit, f->most));
    }
    return n;
}

/* ---- decoding ----------------------------------------------------------------------------- */

void kd__window_plan(kd__window *w, const kd_loader *l, uint32_t number)
{
    uint32_t at = number * l->slots;
    w->number = number;
    w->chunks = (uint32_t)kd_min_size(l->slots, l->chunks - at);
    w->first = kd__loader_rows_before(l, at);
    w->rows = kd__loader_rows_before(l, at + w->chunks) - w->first;
    w->loaded = false;
    for (uint32_t k = 0; k < w->chunks; k++) {
        uint32_t i = kd__loader_chunk_at(l, at + k);
        w->order[k] = i;
        w->row_at[l->resident ? i : k] = kd_store_chunk(l->store, l->chunk[i])->first;
    }
    w->tasks = (size_t)w->chunks * (size_t)l->columns;
    atomic_store(&w->next, 0);
    atomic_store(&w->bad, w->tasks);
}

static kd_status decode_block(kd__window *w, const kd_loader *l, kd_cursor *cursor, size_t task, kd_err *err)
{
    uint32_t k = (uint32_t)(task % w->chunks), i = w->order[k], rows = kd__loader_whole(l, i);
    size_t c = task / w->chunks, slot = l->resident ? i : k;
    const kd__shape *f = &l->shape[c];
    if (f->form != KD__FIXED) return kd__held_read(&w->held[c][slot], f, cursor, l->chunk[i], rows, err);
    uint8_t *out = w->slab[c] + slot * l->unit * f->bytes;
    if (!f->coded) return kd_cursor_read(cursor, f->column, l->chunk[i], out, rows * f->bytes, err);
    return kd_cursor_read_f32(cursor, f->column, l->chunk[i], (float *)(void *)out, rows * f->each, err);
}

/* Takes tasks until none is left. */
static void work(kd__window *w, kd_loader *l, kd_cursor *cursor)
{
    for (size_t t; (t = atomic_fetch_add(&w->next, 1)) < w->tasks;) {
        if (!decode_block(w, l, cursor, t, NULL)) {
            atomic_fetch_add(&l->decoded, 1);
            continue;
        }
        size_t bad = atomic_load(&w->bad);
        while (t < bad && !atomic_compare_exchange_weak(&w->bad, &bad, t)) continue;
    }
}

static void ahead_wait(kd__ahead *a);

/* With make_views of stream.c the OpenMP of this module. */
kd_status kd__window_finish(kd__window *w, kd_loader *l, kd_err *err)
{
    kd_status st = KD_OK;
    if (atomic_load(&w->next) < w->tasks) {
#pragma omp parallel num_threads(l->p.threads) if (l->p.threads > 1)
        work(w, l, l->cursor[omp_get_thread_num()]);
    }
    if (l->ahead) ahead_wait(l->ahead);
    for (size_t t = w->bad; t < w->tasks && !st; t++) // once more, for its sentence
        st = decode_block(w, l, l->cursor[0], t, err);
    w->loaded = !st;
    return st;
}

/* ---- ahead -------------------------------------------------------------------------------- */

struct kd__ahead {
    kd_loader *loader;
    kd_cursor *cursor;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t begun, idle;
    kd__window *job; /* NULL: idle */
    bool quit;
};

static void *run(void *arg)
{
    kd__ahead *a = arg;
    pthread_mutex_lock(&a->lock);
    for (;;) {
        while (!a->job && !a->quit) pthread_cond_wait(&a->begun, &a->lock);
        if (a->quit) break;
        pthread_mutex_unlock(&a->lock);
        work(a->job, a->loader, a->cursor);
        pthread_mutex_lock(&a->lock);
        a->job = NULL;
        pthread_cond_signal(&a->idle);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

kd_status kd__ahead_open(kd__ahead **out, kd_loader *l, kd_err *err)
{
    kd__ahead *a = calloc(1, sizeof(*a));
    *out = NULL;
    if (!a) return kd_fail(err, KD_ENOMEM, "out of memory");
    kd_status st = kd_cursor_open(&a->cursor, l->store, err);
    a->loader = l;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->begun, NULL);
    pthread_cond_init(&a->idle, NULL);
    int failed = st ? 0 : pthread_create(&a->thread, NULL, run, a);
    if (!st && !failed) {
        *out = a;
        return KD_OK;
    }
    kd_cursor_close(a->cursor);
    free(a);
    return st ? st : kd_fail_errno(err, failed, "no thread to decode ahead");
}

void kd__ahead_close(kd__ahead *a)
{
    if (!a) return;
    kd__ahead_leave(a);
    pthread_mutex_lock(&a->lock);
    a->quit = true;
    pthread_cond_signal(&a->begun);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    pthread_cond_destroy(&a->begun);
    pthread_cond_destroy(&a->idle);
    pthread_mutex_destroy(&a->lock);
    kd_cursor_close(a->cursor);
    free(a);
}

void kd__ahead_begin(kd__ahead *a, kd__window *w)
{
    pthread_mutex_lock(&a->lock);
    a->job = w;
    pthread_cond_signal(&a->begun);
    pthread_mutex_unlock(&a->lock);
}

static void ahead_wait(kd__ahead *a)
{
    pthread_mutex_lock(&a->lock);
    while (a->job) pthread_cond_wait(&a->idle, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

void kd__ahead_leave(kd__ahead *a)
{
    pthread_mutex_lock(&a->lock);
    if (a->job) atomic_store(&a->job->next, a->job->tasks);
    while (a->job) pthread_cond_wait(&a->idle, &a->lock);
    pthread_mutex_unlock(&a->lock);
}
