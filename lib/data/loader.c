/* loader.c - windows of decoded chunks.
 *
 * Shuffling a store that does not fit in memory needs two levels: the order of chunks is a permutation
 * keyed by (seed, epoch), and within a window of consecutive chunks each stream permutes rows by
 * its own seed. Rows that are far apart in the store meet only if their chunks share a window; since
 * packing stores the rows of a split in a shuffled order anyway, that is a small loss, and window_rows
 * says how small.
 *
 * Each wanted column of a chunk is decoded once an epoch, whatever the number of streams; if one window
 * holds everything, once a run. Decoding goes straight from the map to the block's place in the slab. The
 * places are fixed before the threads start, so nothing depends on which thread decodes what.
 *
 * Alignment: all columns of a chunk come from records whose headers repeat chunk, rows and first row,
 * and the store refuses a record whose header says otherwise; so row i of one slab is row i of another.
 *
 * The row limit may cut the last chunk: it is decoded whole, and its first rows are used.
 */
#include "data_private.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

kd_loader_params kd_loader_default_params(void)
{
    return (kd_loader_params){.split = KD_TRAIN, .window_rows = 65536, .shuffle = true, .threads = 1};
}

uint64_t kd_loader_rows(const kd_loader *l) { return l->rows; }
size_t kd_loader_bytes(const kd_loader *l) { return l->bytes; }
double kd_loader_seconds(const kd_loader *l) { return l->seconds; }
uint64_t kd_loader_blocks(const kd_loader *l) { return (uint64_t)l->chunks * (uint64_t)l->columns; }
uint64_t kd_loader_decoded(const kd_loader *l) { return l->decoded; }
bool kd_loader_resident(const kd_loader *l) { return l->resident; }

void kd_loader_close(kd_loader *l)
{
    if (!l) return;
    while (l->streams) kd_stream_close(l->streams);
    for (int i = 0; l->cursor && i < l->p.threads; i++) kd_cursor_close(l->cursor[i]);
    for (int i = 0; i < l->columns; i++) free(l->slab[i]);
    free(l->cursor);
    free(l->chunk);
    free(l->use);
    free(l->order);
    free(l->row_at);
    free(l->slot);
    free(l->place);
    free(l);
}

/* ---- opening ------------------------------------------------------------------------------ */

static kd_status take_columns(kd_loader *l, const int *columns, int n, kd_err *err)
{
    const char *path = kd_store_path(l->store);
    if (n < 1 || n > KD_LOADER_COLUMNS)
        return kd_fail(err, KD_EUSAGE, "%s: %d columns to load, expected 1 to %d", path, n,
                       KD_LOADER_COLUMNS);
    for (int i = 0; i < n; i++) {
        const kd_column *c = columns[i] < 0 ? NULL : kd_store_column(l->store, (size_t)columns[i]);
        if (!c)
            return kd_fail(err, KD_EUSAGE, "%s: no column %d, there are %zu", path, columns[i],
                           kd_store_columns(l->store));
        if ((c->ndims && c->dims[0] < 0) || strcmp(c->encoding, "dense"))
            return kd_fail(err, KD_EUNSUPPORTED,
                           "%s: column %s (%s, %s): the loader reads dense columns of fixed shape", path,
                           c->name, c->encoding, c->ndims && c->dims[0] < 0 ? "ragged" : "fixed");
        size_t bytes = kd_dtype_size(c->dtype);
        for (int d = 0; d < c->ndims; d++)
            if (!kd_mul_size(bytes, (size_t)c->dims[d], &bytes))
                return kd_fail(err, KD_ECORRUPT, "%s: column %s: its shape overflows", path, c->name);
        l->column[i] = columns[i];
        l->row_bytes[i] = bytes;
    }
    l->columns = n;
    return KD_OK;
}

/* Lists the chunks of the split, as far as the row limit goes. *full: rows of these chunks, uncut. */
static kd_status take_chunks(kd_loader *l, uint64_t *full, uint32_t *largest, kd_err *err)
{
    const char *path = kd_store_path(l->store), *split = kd_split_name(l->p.split);
    uint64_t there = kd_store_split_rows(l->store, l->p.split);
    uint32_t all = kd_store_chunks(l->store);
    if (!there) return kd_fail(err, KD_EUSAGE, "%s: split %s has no rows", path, split);
    if (l->p.rows > there)
        return kd_fail(err, KD_EUSAGE, "%s: the first %llu rows of split %s asked for, it has %llu", path,
                       (unsigned long long)l->p.rows, split, (unsigned long long)there);
    uint64_t want = l->p.rows ? l->p.rows : there;
    l->chunk = malloc(all * sizeof(*l->chunk));
    l->use = malloc(all * sizeof(*l->use));
    if (!l->chunk || !l->use) return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    for (uint32_t c = 0; c < all && l->rows < want; c++) {
        const kd_chunk_info *info = kd_store_chunk(l->store, c);
        if (info->split != l->p.split) continue;
        l->chunk[l->chunks] = c;
        l->use[l->chunks] = (uint32_t)kd_min_size(info->rows, (size_t)(want - l->rows));
        l->rows += l->use[l->chunks++];
        *full += info->rows;
        if (info->rows > *largest) *largest = info->rows;
    }
    return KD_OK;
}

static kd_status allocate(kd_loader *l, kd_err *err)
{
    size_t bytes = 0;
    bool failed = false;
    for (int i = 0; i < l->columns; i++) {
        size_t slab;
        failed |= !kd_mul_size(l->cap, l->row_bytes[i], &slab) ||
                  !(l->slab[i] = kd_alloc_aligned(l->cap, l->row_bytes[i]));
        bytes += slab;
    }
    l->order = malloc(l->chunks * sizeof(*l->order));
    l->slot = malloc(l->chunks * sizeof(*l->slot));
    l->row_at = malloc(l->cap * sizeof(*l->row_at));
    l->place = malloc(l->cap * sizeof(*l->place));
    l->cursor = calloc((size_t)l->p.threads, sizeof(*l->cursor));
    if (failed || !l->order || !l->slot || !l->row_at || !l->place || !l->cursor)
        return kd_fail(err, KD_ENOMEM, "%s: no memory for a window of %zu rows (%zu bytes); lower its rows",
                       kd_store_path(l->store), l->cap, bytes);
    for (int i = 0; i < l->p.threads; i++) {
        kd_status st = kd_cursor_open(&l->cursor[i], l->store, err);
        if (st) return st;
    }
    l->bytes = sizeof(*l) + bytes + l->cap * (sizeof(*l->row_at) + sizeof(*l->place)) +
               l->chunks * (sizeof(*l->order) + sizeof(*l->slot)) +
               kd_store_chunks(l->store) * (sizeof(*l->chunk) + sizeof(*l->use));
    return KD_OK;
}

kd_status kd_loader_open(kd_loader **out, kd_store *s, const int *columns, int n, const kd_loader_params *p,
                         kd_err *err)
{
    uint64_t full = 0, cap;
    uint32_t largest = 0;
    kd_loader *l = calloc(1, sizeof(*l));
    kd_status st;
    *out = NULL;
    if (!l) return kd_fail(err, KD_ENOMEM, "out of memory");
    l->store = s;
    l->p = p ? *p : kd_loader_default_params();
    if (l->p.threads < 1) l->p.threads = 1;
    if (!l->p.window_rows) l->p.window_rows = kd_loader_default_params().window_rows;
    if ((st = take_columns(l, columns, n, err)) || (st = take_chunks(l, &full, &largest, err))) goto out;
    l->resident = full <= l->p.window_rows || l->chunks == 1;
    cap = l->resident ? full : l->p.window_rows > largest ? l->p.window_rows : largest;
    if (cap > UINT32_MAX) {
        st = kd_fail(err, KD_ELIMIT, "%s: a window of %llu rows, the limit is %u", kd_store_path(s),
                     (unsigned long long)cap, UINT32_MAX);
        goto out;
    }
    l->cap = (size_t)cap;
    st = allocate(l, err);
out:
    if (st)
        kd_loader_close(l);
    else
        *out = l;
    return st;
}

/* ---- windows ------------------------------------------------------------------------------ */

kd_status kd_loader_epoch(kd_loader *l, uint64_t epoch, kd_err *err)
{
    kd_rng rng;
    if (epoch > UINT32_MAX)
        return kd_fail(err, KD_EUSAGE, "epoch %llu, the limit is %u", (unsigned long long)epoch, UINT32_MAX);
    kd_rng_init(&rng, l->p.seed, KD_RNG_CHUNKS, (uint32_t)epoch, 0);
    if (l->p.shuffle) kd_rng_permute(&rng, l->order, l->chunks);
    for (uint32_t i = 0; i < l->chunks && !l->p.shuffle; i++) l->order[i] = i;
    l->epoch = epoch;
    l->begun = true;
    l->loaded = false;
    l->window = UINT32_MAX; // the one before window 0
    l->window_chunk = l->window_chunks = 0;
    l->window_first = l->window_rows = 0;
    for (kd_stream *s = l->streams; s; s = kd__stream_following(s)) kd__stream_rewind(s);
    return KD_OK;
}

static uint32_t whole_rows(const kd_loader *l, uint32_t i)
{
    return kd_store_chunk(l->store, l->chunk[i])->rows;
}

/* Decides which chunks the next window holds. */
static void plan_next(kd_loader *l)
{
    uint64_t rows = 0;
    l->window++;
    l->window_chunk += l->window_chunks;
    l->window_first += l->window_rows;
    l->window_chunks = 0;
    l->window_rows = 0;
    l->loaded = false;
    for (uint32_t i = l->window_chunk; i < l->chunks; i++) {
        rows += whole_rows(l, l->order[i]);
        if (rows > l->cap) break;
        l->window_chunks++;
        l->window_rows += l->use[l->order[i]];
    }
}

static kd_status decode_block(kd_loader *l, int thread, size_t task, kd_err *err)
{
    uint32_t i = l->order[l->window_chunk + task / (size_t)l->columns];
    size_t c = task % (size_t)l->columns, row = l->row_bytes[c];
    return kd_cursor_read(l->cursor[thread], l->column[c], l->chunk[i], l->slab[c] + l->slot[i] * row,
                          whole_rows(l, i) * row, err);
}

/* Decodes the window's blocks. The one OpenMP loop outside the compute modules: the tasks are independent,
 * each writes a place of its own, each thread has a cursor of its own, nothing is summed. */
static kd_status decode(kd_loader *l, kd_err *err)
{
    size_t tasks = (size_t)l->window_chunks * (size_t)l->columns, bad = tasks;
    double start = kd_now();
#pragma omp parallel for schedule(dynamic) num_threads(l->p.threads) if (l->p.threads > 1)
    for (size_t t = 0; t < tasks; t++) {
        if (!decode_block(l, omp_get_thread_num(), t, NULL)) continue;
#pragma omp critical(kd_loader_bad)
        bad = t < bad ? t : bad;
    }
    kd_status st = KD_OK;
    for (size_t t = bad; t < tasks && !st; t++) st = decode_block(l, 0, t, err); // again, for its sentence
    l->seconds += kd_now() - start;
    if (!st) l->decoded += tasks;
    return st;
}

/* Gives the window's chunks their slots: one behind the other. */
static void lay_out(kd_loader *l)
{
    uint32_t at = 0;
    for (uint32_t k = 0; k < l->window_chunks; k++) {
        uint32_t i = l->order[l->window_chunk + k], rows = whole_rows(l, i);
        uint64_t first = kd_store_chunk(l->store, l->chunk[i])->first;
        l->slot[i] = at;
        for (uint32_t r = 0; r < rows; r++) l->row_at[at + r] = first + r;
        at += rows;
    }
}

static kd_status load(kd_loader *l, kd_err *err)
{
    kd_status st;
    size_t n = 0;
    if (!l->decoded_all) {
        lay_out(l);
        if ((st = decode(l, err))) return st;
        l->decoded_all = l->resident;
    }
    for (uint32_t k = 0; k < l->window_chunks; k++) {
        uint32_t i = l->order[l->window_chunk + k];
        for (uint32_t r = 0; r < l->use[i]; r++) l->place[n++] = l->slot[i] + r;
    }
    l->loaded = true;
    return KD_OK;
}

kd_status kd__loader_reach(kd_loader *l, uint64_t at, kd_err *err)
{
    while (at >= l->window_first + l->window_rows) plan_next(l);
    return l->loaded ? KD_OK : load(l, err);
}
