/* writer_group.c - from appended blocks to committed records.
 *
 * Appended chunks wait in a group: their blocks are copied, filtered, into one slab. When the slab
 * holds commit_bytes the group is compressed by `threads` threads into a second slab of the same
 * layout and put into LMDB in one transaction. So memory is bounded (two slabs of commit_bytes plus
 * one chunk, and LMDB's dirty pages, which hold the compressed bytes once more), the order of records
 * does not depend on threads, and the packed bytes are still there when LMDB wants the transaction
 * again: on MDB_MAP_FULL it is aborted, the map is grown with no transaction open, and the same bytes
 * are put once more.
 *
 * LMDB runs in its default mode: each commit is an fdatasync of data, then of the meta page. The map
 * is read-only to us (no MDB_WRITEMAP, which dies of SIGBUS on a full disk), so a full disk is an
 * error code here. Keys only rise, so MDB_APPEND fills pages completely and refuses anything else.
 */
#include "store_private.h"

#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FIRST_MAP = 1 << 24 };

void kd__group_release(kd__group *g)
{
    free(g->items);
    free(g->raw);
    free(g->packed);
    memset(g, 0, sizeof(*g));
}

static kd_status reserve(kd_store_writer *w, size_t bytes, size_t items, kd_err *err)
{
    kd__group *g = &w->group;
    if (g->n + items > g->cap) {
        size_t cap = 2 * (g->n + items);
        kd__item *more = realloc(g->items, cap * sizeof(*more));
        if (!more) return kd_fail(err, KD_ENOMEM, "%s: out of memory for %zu pending blocks", w->part, cap);
        g->items = more;
        g->cap = cap;
    }
    if (g->used + bytes <= g->slab) return KD_OK;
    // Untouched pages of a large malloc cost nothing, so the slab is sized for a full group at once.
    size_t slab = kd_max_size(g->used + bytes, w->params.commit_bytes + bytes);
    uint8_t *raw = realloc(g->raw, slab);
    if (raw) g->raw = raw;
    free(g->packed);
    g->packed = malloc(slab);
    g->slab = raw && g->packed ? slab : 0;
    if (!g->slab) return kd_fail(err, KD_ENOMEM, "%s: out of memory for %zu pending bytes", w->part, slab);
    return KD_OK;
}

kd_status kd__group_add(kd_store_writer *w, const kd_chunk_info *info, uint32_t chunk, const kd_block *blocks,
                        const size_t *raw, kd_err *err)
{
    kd__group *g = &w->group;
    size_t need = 0;
    for (uint32_t i = 0; i < w->ncolumns; i++) need += kd__record_room(raw[i]);
    kd_status st = reserve(w, need, w->ncolumns, err);
    if (st) return st;
    for (uint32_t i = 0; i < w->ncolumns; i++) {
        const kd_column *c = &w->columns[i];
        kd__item *item = &g->items[g->n++];
        int filter = kd__filter_code(c->filter);
        *item = (kd__item){.at = g->used};
        item->record = (kd__record){.dtype = (uint8_t)c->dtype,
                                    .encoding = (uint8_t)kd__encoding_code(c->encoding),
                                    .filter = (uint8_t)filter,
                                    .split = (uint8_t)info->split,
                                    .column = i,
                                    .chunk = chunk,
                                    .rows = info->rows,
                                    .first = info->first,
                                    .raw = raw[i],
                                    .tag = w->tag};
        kd__block_filter(g->raw + g->used, c, info->rows, &blocks[i], filter);
        g->used += kd__record_room(raw[i]);
        w->raw_bytes += raw[i];
    }
    g->chunks++;
    return KD_OK;
}

/* ---- compression -------------------------------------------------------------------------- */

typedef struct job {
    kd_store_writer *w;
    atomic_size_t *next;
    ZSTD_CCtx *zstd;
} job;

/* Takes items until none is left. Which thread packs an item does not show in its bytes. */
static void *pack_items(void *arg)
{
    const job *j = arg;
    kd__group *g = &j->w->group;
    for (size_t i; (i = atomic_fetch_add(j->next, 1)) < g->n;) {
        kd__item *item = &g->items[i];
        item->size = kd__record_pack(&item->record, g->raw + item->at, g->packed + item->at, j->zstd,
                                     j->w->columns[item->record.column].level);
    }
    return NULL;
}

static kd_status pack_group(kd_store_writer *w, kd_err *err)
{
    int n = w->params.threads;
    job jobs[KD__THREADS_MAX];
    pthread_t threads[KD__THREADS_MAX];
    atomic_size_t next = 0;
    int started = 1;
    if (!w->zstd && !(w->zstd = calloc((size_t)n, sizeof(*w->zstd))))
        return kd_fail(err, KD_ENOMEM, "out of memory");
    for (int i = 0; i < n; i++) {
        if (!w->zstd[i] && !(w->zstd[i] = ZSTD_createCCtx()))
            return kd_fail(err, KD_ENOMEM, "%s: out of memory for %d zstd contexts", w->part, n);
        jobs[i] = (job){.w = w, .next = &next, .zstd = w->zstd[i]};
    }
    // Fewer threads than wanted are no failure: this one takes what is left.
    while (started < n && !pthread_create(&threads[started], NULL, pack_items, &jobs[started])) started++;
    pack_items(&jobs[0]);
    for (int i = 1; i < started; i++) pthread_join(threads[i], NULL);
    return KD_OK;
}

/* ---- LMDB --------------------------------------------------------------------------------- */

/* LMDB reports a short write as EIO, and a full disk begins with one: a small write behind the end of
 * the file tells. (Sealing cuts the file to its pages, so what it leaves is harmless.) */
static bool disk_full(const kd_store_writer *w, int rc)
{
    static const char probe[65536];
    struct stat sb;
    if (rc == ENOSPC || rc == EDQUOT || rc == EFBIG) return true;
    if (rc != EIO || fstat(w->lock, &sb)) return false;
    ssize_t n = pwrite(w->lock, probe, sizeof(probe), sb.st_size);
    bool full = n < 0 ? errno == ENOSPC || errno == EDQUOT || errno == EFBIG : (size_t)n < sizeof(probe);
    return ftruncate(w->lock, sb.st_size) == 0 && full;
}

static kd_status fail_mdb(kd_store_writer *w, int rc, const char *doing, kd_err *err)
{
    w->failed = true;
    uint32_t kept = w->nchunks - w->group.chunks;
    unsigned long long rows = kept ? w->chunks[kept - 1].first + w->chunks[kept - 1].rows : 0;
    if (disk_full(w, rc))
        return kd_fail(err, KD_EFULL,
                       "%s: disk full (or a limit on file size reached) while %s; %u chunks (%llu rows) are "
                       "safe there: free some space, then go on with "
                       "--resume",
                       w->part, doing, kept, rows);
    return kd_fail(err, rc == ENOMEM ? KD_ENOMEM : KD_EIO,
                   "%s: %s: %s; %u chunks (%llu rows) are safe, go on with --resume", w->part, doing,
                   mdb_strerror(rc), kept, rows);
}

/* LMDB reads what it wrote through a map: a file that is cut meanwhile, or a disk that fails, is a signal; a
 * page that somebody overwrote is an assertion, whose own message is not for users. */
static void env_guard(const kd_store_writer *w, kd_guard *g) { kd_guard_enter(g, w->torn, KD_ECORRUPT); }

static void on_assert(MDB_env *env, const char *text)
{
    (void)env;
    (void)text;
    abort(); // inside a guard, always
}

static kd_status open_env(kd_store_writer *w, kd_err *err)
{
    struct stat sb;
    MDB_txn *txn;
    int rc;
    if (fstat(w->lock, &sb)) return kd_fail_errno(err, errno, "%s", w->part);
    w->map_size = FIRST_MAP;
    while (w->map_size < 2 * (size_t)sb.st_size) w->map_size *= 2;
    if ((rc = mdb_env_create(&w->env))) return fail_mdb(w, rc, "opening", err);
    mdb_env_set_assert(w->env, on_assert);
    if ((rc = mdb_env_set_mapsize(w->env, w->map_size)) ||
        (rc = mdb_env_open(w->env, w->part, MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOTLS, 0644)) ||
        (rc = mdb_txn_begin(w->env, NULL, 0, &txn)))
        return fail_mdb(w, rc, "opening", err);
    if ((rc = mdb_dbi_open(txn, NULL, 0, &w->dbi))) {
        mdb_txn_abort(txn);
        return fail_mdb(w, rc, "opening", err);
    }
    if ((rc = mdb_txn_commit(txn))) return fail_mdb(w, rc, "opening", err);
    return KD_OK;
}

kd_status kd__env_open(kd_store_writer *w, kd_err *err)
{
    kd_guard g;
    w->torn =
        kd_sprintf("%s: was cut or overwritten by another program, or its disk failed, while it was being "
                   "written; nothing of it was sealed: start anew with --force",
                   w->part);
    if (!w->torn) return kd_fail(err, KD_ENOMEM, "%s: out of memory", w->part);
    env_guard(w, &g);
    kd_status st = open_env(w, err);
    kd_guard_leave(&g);
    return st;
}

static int put_all(kd_store_writer *w, const kd__put *puts, size_t n)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(w->env, NULL, 0, &txn);
    if (rc) return rc;
    for (size_t i = 0; i < n; i++) {
        MDB_val key = {.mv_size = 8, .mv_data = (void *)(uintptr_t)puts[i].key};
        MDB_val value = {.mv_size = puts[i].size, .mv_data = (void *)(uintptr_t)puts[i].data};
        if ((rc = mdb_put(txn, w->dbi, &key, &value, MDB_APPEND))) {
            mdb_txn_abort(txn);
            return rc;
        }
    }
    return mdb_txn_commit(txn); // frees the transaction in every case
}

kd_status kd__env_put(kd_store_writer *w, const kd__put *puts, size_t n, kd_err *err)
{
    const char *doing = "committing";
    kd_guard g;
    int rc;
    env_guard(w, &g);
    while ((rc = put_all(w, puts, n)) == MDB_MAP_FULL && w->map_size <= SIZE_MAX / 4) {
        w->map_size *= 2;
        if ((rc = mdb_env_set_mapsize(w->env, w->map_size))) {
            doing = "growing the map";
            break;
        }
    }
    kd_guard_leave(&g);
    return rc ? fail_mdb(w, rc, doing, err) : KD_OK;
}

kd_status kd__group_commit(kd_store_writer *w, kd_err *err)
{
    kd__group *g = &w->group;
    kd_status st;
    if (w->failed) return kd_fail(err, KD_EIO, "%s: an earlier write failed; go on with --resume", w->part);
    if (!g->n) return KD_OK;
    kd__put *puts = calloc(g->n, sizeof(*puts));
    if (!puts) return kd_fail(err, KD_ENOMEM, "%s: out of memory", w->part);
    if ((st = pack_group(w, err))) goto out;
    for (size_t i = 0; i < g->n; i++) {
        const kd__item *item = &g->items[i];
        kd__key(item->record.chunk + 1, item->record.column, puts[i].key);
        puts[i].data = g->packed + item->at;
        puts[i].size = item->size;
        if (!item->size) {
            st = kd_fail(err, KD_ENOMEM, "%s: out of memory for zstd", w->part);
            goto out;
        }
        if ((st = kd__writer_push_sum(w, item->record.checksum, err))) goto out;
    }
    if ((st = kd__env_put(w, puts, g->n, err))) goto out;
    g->n = g->used = g->chunks = 0;
out:
    if (st) w->failed = true;
    free(puts);
    return st;
}
