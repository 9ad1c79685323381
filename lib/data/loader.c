/* loader.c - the order in which an epoch's rows come, and the window that is open.
 *
 * Shuffling a store that does not fit in memory needs two levels: chunks come in an order that is a keyed
 * permutation of (seed, epoch), and within a window of consecutive chunks each stream permutes rows by its
 * own seed. Rows that are far apart in the store meet only if their chunks share a window; since packing
 * stores the rows of a split in a shuffled order anyway, that is a small loss, and window_rows says how small
 * (bench/shuffle.py measures it).
 *
 * The order of chunks is a function, not a list (kd_permutation). Nearly all chunks have the same number of
 * rows; the few that have fewer (the last of a split, of a merged shard, the one that the row limit cuts) are
 * listed, and at the beginning of an epoch their places are looked up. So the first row of any place, and the
 * window of any row, is known without walking there: a resumed run begins where it stood at once.
 *
 * Each wanted column of a chunk is decoded once an epoch, whatever the number of streams; if one window
 * holds everything, once a run.
 *
 * Alignment: all columns of a chunk come from records whose headers repeat chunk, rows and first row,
 * and the store refuses a record whose header says otherwise; so row i of one column is row i of another.
 *
 * The row limit may cut the last chunk: it is decoded whole, and its first rows are used. Rows that are
 * dropped make a chunk a short one.
 */
#include "data_private.h"

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
uint64_t kd_loader_decoded(const kd_loader *l) { return atomic_load(&l->decoded); }
bool kd_loader_resident(const kd_loader *l) { return l->resident; }

void kd_loader_close(kd_loader *l)
{
    if (!l) return;
    kd__ahead_close(l->ahead);
    while (l->streams) kd_stream_close(l->streams);
    for (int i = 0; l->cursor && i < l->p.threads; i++) kd_cursor_close(l->cursor[i]);
    kd__window_release(&l->window[0], l);
    kd__window_release(&l->window[1], l);
    free(l->cursor);
    free(l->chunk);
    free(l->kept);
    free(l->shorts);
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
        if (columns[i] < 0 || (size_t)columns[i] >= kd_store_columns(l->store))
            return kd_fail(err, KD_EUSAGE, "%s: no column %d, there are %zu", path, columns[i],
                           kd_store_columns(l->store));
        kd_status st = kd__shape_init(&l->shape[i], l->store, columns[i], l->chunk, l->chunks, err);
        if (st) return st;
        l->columns = i + 1;
    }
    return KD_OK;
}

/* Lists the chunks of the split, as far as the row limit goes. *whole: rows of these chunks, uncut. */
static kd_status take_chunks(kd_loader *l, uint64_t *whole, kd_err *err)
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
    if (!l->chunk) return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    for (uint32_t c = 0; c < all && l->rows < want; c++) {
        const kd_chunk_info *info = kd_store_chunk(l->store, c);
        if (info->split != l->p.split) continue;
        l->chunk[l->chunks++] = c;
        l->last = (uint32_t)kd_min_size(info->rows, (size_t)(want - l->rows));
        l->rows += l->last;
        *whole += info->rows;
        if (info->rows > l->unit) l->unit = info->rows;
    }
    return KD_OK;
}

/* Counts what is left of each chunk. */
static kd_status take_drops(kd_loader *l, kd_err *err)
{
    const char *path = kd_store_path(l->store);
    uint32_t *kept = l->p.drop ? malloc(l->chunks * sizeof(*kept)) : NULL;
    if (!l->p.drop) return KD_OK;
    if (!kept) return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    l->rows = 0;
    for (uint32_t i = 0; i < l->chunks; i++) {
        const uint64_t first = kd_store_chunk(l->store, l->chunk[i])->first;
        kept[i] = kd__loader_use(l, i);
        for (uint32_t r = 0, n = kept[i]; r < n; r++) kept[i] -= kd_row_marked(l->p.drop, first + r);
        l->rows += kept[i];
    }
    l->kept = kept;
    return l->rows ? KD_OK
                   : kd_fail(err, KD_EUSAGE, "%s: every row of split %s is dropped", path,
                             kd_split_name(l->p.split));
}

static kd_status take_shorts(kd_loader *l, kd_err *err)
{
    for (uint32_t i = 0; i < l->chunks; i++) l->nshorts += kd__loader_use(l, i) < l->unit;
    if (!(l->shorts = malloc((l->nshorts + 1) * sizeof(*l->shorts))))
        return kd_fail(err, KD_ENOMEM, "%s: out of memory", kd_store_path(l->store));
    for (uint32_t i = 0, n = 0; i < l->chunks; i++)
        if (kd__loader_use(l, i) < l->unit)
            l->shorts[n++] = (kd__short){.index = i, .missing = l->unit - kd__loader_use(l, i)};
    return KD_OK;
}

static kd_status allocate(kd_loader *l, kd_err *err)
{
    const size_t rows = (size_t)l->slots * l->unit;
    kd_status st = kd__window_alloc(&l->window[0], l, err);
    if (!st && l->p.ahead) st = kd__window_alloc(&l->window[1], l, err);
    if (st) return st;
    l->place = malloc(rows * sizeof(*l->place));
    l->cursor = calloc((size_t)l->p.threads, sizeof(*l->cursor));
    if (!l->place || !l->cursor) return kd_fail(err, KD_ENOMEM, "%s: out of memory", kd_store_path(l->store));
    for (int i = 0; i < l->p.threads; i++)
        if ((st = kd_cursor_open(&l->cursor[i], l->store, err))) return st;
    l->now = &l->window[0];
    l->bytes = sizeof(*l) + kd__window_bytes(l) * (l->p.ahead ? 2 : 1) + rows * sizeof(*l->place) +
               l->chunks * (sizeof(*l->chunk) + (l->kept ? sizeof(*l->kept) : 0)) +
               l->nshorts * sizeof(*l->shorts);
    return l->p.ahead ? kd__ahead_open(&l->ahead, l, err) : KD_OK;
}

kd_status kd_loader_open(kd_loader **out, kd_store *s, const int *columns, int n, const kd_loader_params *p,
                         kd_err *err)
{
    uint64_t whole = 0;
    kd_loader *l = calloc(1, sizeof(*l));
    kd_status st;
    *out = NULL;
    if (!l) return kd_fail(err, KD_ENOMEM, "out of memory");
    l->store = s;
    l->p = p ? *p : kd_loader_default_params();
    if (l->p.threads < 1) l->p.threads = 1;
    if (!l->p.window_rows) l->p.window_rows = kd_loader_default_params().window_rows;
    if ((st = take_chunks(l, &whole, err)) || (st = take_columns(l, columns, n, err)) ||
        (st = take_drops(l, err)) || (st = take_shorts(l, err)))
        goto out;
    uint64_t slots = kd_max_size(1, (size_t)(l->p.window_rows / l->unit));
    l->resident = whole <= l->p.window_rows || slots >= l->chunks;
    l->slots = l->resident ? l->chunks : (uint32_t)slots;
    l->windows = (l->chunks - 1) / l->slots + 1;
    l->p.ahead &= !l->resident;
    if ((uint64_t)l->slots * l->unit > UINT32_MAX)
        st = kd_fail(err, KD_ELIMIT, "%s: a window of %llu rows, the limit is %u", kd_store_path(s),
                     (unsigned long long)l->slots * l->unit, UINT32_MAX);
    else
        st = allocate(l, err);
out:
    if (st)
        kd_loader_close(l);
    else
        *out = l;
    return st;
}

/* ---- the order of an epoch ---------------------------------------------------------------- */

uint32_t kd__loader_whole(const kd_loader *l, uint32_t i)
{
    return kd_store_chunk(l->store, l->chunk[i])->rows;
}

/* Rows of chunk i within the row limit. */
static uint32_t within(const kd_loader *l, uint32_t i)
{
    return i + 1 == l->chunks ? l->last : kd__loader_whole(l, i);
}

uint32_t kd__loader_use(const kd_loader *l, uint32_t i) { return l->kept ? l->kept[i] : within(l, i); }

uint32_t kd__loader_chunk_at(const kd_loader *l, uint32_t place)
{
    return l->p.shuffle ? (uint32_t)kd_permutation_at(&l->order, place) : place;
}

uint64_t kd__loader_rows_before(const kd_loader *l, uint32_t place)
{
    uint32_t lo = 0, hi = l->nshorts; // to the first short one that is not before it
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (l->shorts[mid].place < place)
            lo = mid + 1;
        else
            hi = mid;
    }
    uint64_t missing = lo ? l->shorts[lo - 1].before + l->shorts[lo - 1].missing : 0;
    return (uint64_t)place * l->unit - missing;
}

/* The window that holds row `at` of the sequence. */
static uint32_t window_of(const kd_loader *l, uint64_t at)
{
    uint32_t lo = 0, hi = l->windows - 1;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (kd__loader_rows_before(l, (mid + 1) * l->slots) > at)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static int by_place(const void *a, const void *b)
{
    const kd__short *x = a, *y = b;
    return (x->place > y->place) - (x->place < y->place);
}

static void order_chunks(kd_loader *l, uint32_t epoch)
{
    uint64_t missing = 0;
    kd_permutation_init(&l->order, l->chunks, l->p.seed, KD_RNG_CHUNKS, epoch);
    for (uint32_t i = 0; i < l->nshorts; i++) {
        kd__short *s = &l->shorts[i];
        s->place = l->p.shuffle ? (uint32_t)kd_permutation_place(&l->order, s->index) : s->index;
    }
    qsort(l->shorts, l->nshorts, sizeof(*l->shorts), by_place);
    for (uint32_t i = 0; i < l->nshorts; missing += l->shorts[i++].missing) l->shorts[i].before = missing;
}

kd_status kd_loader_epoch(kd_loader *l, uint64_t epoch, kd_err *err)
{
    if (epoch > UINT32_MAX)
        return kd_fail(err, KD_EUSAGE, "epoch %llu, the limit is %u", (unsigned long long)epoch, UINT32_MAX);
    if (l->ahead) kd__ahead_leave(l->ahead);
    order_chunks(l, (uint32_t)epoch);
    l->epoch = epoch;
    l->begun = true;
    l->next = NULL;
    l->now->loaded = false;
    for (kd_stream *s = l->streams; s; s = kd__stream_following(s)) kd__stream_rewind(s);
    return KD_OK;
}

/* ---- the window --------------------------------------------------------------------------- */

/* Lists the places of the window's rows, chunk after chunk. */
static void list_places(kd_loader *l)
{
    const kd__window *w = l->now;
    size_t n = 0;
    for (uint32_t k = 0; k < w->chunks; k++) {
        uint32_t i = w->order[k], at = (l->resident ? i : k) * l->unit;
        const uint64_t first = w->row_at[l->resident ? i : k];
        for (uint32_t r = 0; r < within(l, i); r++)
            if (!l->kept || !kd_row_marked(l->p.drop, first + r)) l->place[n++] = at + r;
    }
}

/* Lets the next window be decoded, if any stream will come to it. */
static void look_ahead(kd_loader *l)
{
    bool wanted = false;
    if (!l->ahead || l->now->number + 1 == l->windows) return;
    for (const kd_stream *s = l->streams; s; s = kd__stream_following(s))
        wanted |= kd__stream_wants(s, l->now->first + l->now->rows);
    if (!wanted) return;
    l->next = &l->window[l->now == &l->window[0]];
    kd__window_plan(l->next, l, l->now->number + 1);
    kd__ahead_begin(l->ahead, l->next);
}

kd_status kd__loader_reach(kd_loader *l, uint64_t at, kd_err *err)
{
    double start = kd_now();
    uint32_t number = window_of(l, at);
    kd__window *w = l->next;
    kd_status st = KD_OK;
    if (l->now->loaded && l->now->number == number) return KD_OK;
    if (!w || w->number != number) {
        if (l->ahead) kd__ahead_leave(l->ahead);
        kd__window_plan(w = l->now, l, number);
    }
    l->next = NULL;
    if (l->decoded_all)
        w->loaded = true;
    else
        st = kd__window_finish(w, l, err);
    l->seconds += kd_now() - start;
    if (st) return st;
    l->now = w;
    l->decoded_all = l->resident;
    list_places(l);
    look_ahead(l);
    return KD_OK;
}
