/* store_writer.c - begins and fills a segment that is not sealed yet.
 *
 * A segment in the making is FILE.part, an LMDB file that grows by whole chunks. A flock on it keeps
 * a second writer out (LMDB's own locks are off: nobody reads a .part). Its first record holds the
 * columns and the contract, the next ones hold codebooks; what follows are chunks.
 */
#include "store_private.h"

#include <errno.h>
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

kd_writer_params kd_writer_default_params(void)
{
    return (kd_writer_params){.chunk_rows = 1024, .level = 3, .commit_bytes = 32u << 20, .threads = 1};
}

static void free_books(kd_store_writer *w)
{
    for (uint32_t i = 0; w->books && i < w->ncolumns; i++) free((void *)(uintptr_t)w->books[i].data);
    free(w->books);
    w->books = NULL;
}

void kd__writer_free(kd_store_writer *w)
{
    if (!w) return;
    if (w->env) mdb_env_close(w->env);
    if (w->lock >= 0) close(w->lock); // after LMDB: the lock covers its last write
    for (int i = 0; w->zstd && i < w->params.threads; i++) ZSTD_freeCCtx(w->zstd[i]);
    for (uint32_t i = 0; w->columns && i < w->ncolumns; i++) json_decref(w->columns[i].params);
    free_books(w);
    json_decref(w->contract);
    kd__group_release(&w->group);
    free(w->zstd);
    free(w->columns);
    free(w->book_sums);
    free(w->sums);
    free(w->chunks);
    free(w->path);
    free(w->folder);
    free(w->part);
    free(w->file);
    free(w->torn);
    free(w);
}

kd_status kd__writer_push_sum(kd_store_writer *w, uint64_t sum, kd_err *err)
{
    if (w->nsums == w->sums_cap) {
        size_t cap = w->sums_cap ? 2 * w->sums_cap : 256;
        uint64_t *more = realloc(w->sums, cap * sizeof(*more));
        if (!more) return kd_fail(err, KD_ENOMEM, "%s: out of memory", w->part);
        w->sums = more;
        w->sums_cap = cap;
    }
    w->sums[w->nsums++] = sum;
    return KD_OK;
}

kd_status kd__writer_push_heads(kd_store_writer *w, kd_err *err)
{
    kd_status st = kd__writer_push_sum(w, w->tag, err);
    for (uint32_t i = 0; i < w->ncolumns && !st; i++)
        if (w->columns[i].book_bytes) st = kd__writer_push_sum(w, w->book_sums[i], err);
    return st;
}

/* Adds a chunk to the table if the rules of chunks allow it. */
kd_status kd__writer_push_chunk(kd_store_writer *w, kd_split split, uint32_t rows, kd_err *err)
{
    kd_chunk_info info = {.first = w->rows, .rows = rows, .split = split};
    if (w->store) {
        if (w->nchunks >= w->store->nchunks)
            return kd_fail(err, KD_EUSAGE, "%s: a chunk too many, the store has %u", w->part,
                           w->store->nchunks);
        const kd_chunk_info *want = &w->store->chunks[w->nchunks];
        if (want->rows != rows || want->split != split)
            return kd_fail(err, KD_EMISMATCH, "%s: chunk %u has %u rows of %s, the store's has %u rows of %s",
                           w->part, w->nchunks, rows, kd_split_name(split), want->rows,
                           kd_split_name(want->split));
    } else {
        if ((unsigned)split >= KD_SPLITS || !rows || rows > w->params.chunk_rows)
            return kd_fail(err, KD_EUSAGE, "%s: chunk %u has %u rows of split %d, allowed are 1 to %u rows",
                           w->part, w->nchunks, rows, (int)split, w->params.chunk_rows);
    }
    if (w->nchunks == w->chunks_cap) {
        uint32_t cap = w->chunks_cap ? 2 * w->chunks_cap : 256;
        kd_chunk_info *more = cap < w->chunks_cap ? NULL : realloc(w->chunks, (size_t)cap * sizeof(*more));
        if (!more) return kd_fail(err, KD_ENOMEM, "%s: out of memory", w->part);
        w->chunks = more;
        w->chunks_cap = cap;
    }
    w->chunks[w->nchunks++] = info;
    w->rows += rows;
    return KD_OK;
}

/* ---- begin -------------------------------------------------------------------------------- */

/* Packs the codebooks, whose checksums the header record names. */
static kd_status pack_books(kd_store_writer *w, kd_err *err)
{
    ZSTD_CCtx *zstd = NULL;
    kd_status st = KD_OK;
    w->books = calloc(w->ncolumns, sizeof(*w->books));
    w->book_sums = calloc(w->ncolumns, sizeof(*w->book_sums));
    if (!w->books || !w->book_sums) return kd_fail(err, KD_ENOMEM, "%s: out of memory", w->path);
    for (uint32_t i = 0; i < w->ncolumns && !st; i++) {
        kd_column *c = &w->columns[i];
        if (!c->book_bytes) continue;
        kd__record r = {.encoding = (uint8_t)kd__encoding_code(c->encoding),
                        .column = i,
                        .chunk = KD__NO_CHUNK,
                        .raw = c->book_bytes};
        uint8_t *record = malloc(kd__record_room(c->book_bytes));
        w->books[i].data = record;
        if (!record || (!zstd && !(zstd = ZSTD_createCCtx()))) {
            st = kd_fail(err, KD_ENOMEM, "%s: out of memory for a codebook", w->path);
        } else {
            w->books[i].size = kd__record_pack(&r, c->book, record, zstd, KD__BOOK_LEVEL);
            if (!w->books[i].size) st = kd_fail(err, KD_ENOMEM, "%s: out of memory for zstd", w->path);
            w->book_sums[i] = r.checksum;
        }
        c->book = NULL; // was borrowed
    }
    ZSTD_freeCCtx(zstd);
    return st;
}

/* Puts the header record and the codebooks, in one transaction. */
static kd_status put_header(kd_store_writer *w, const char *text, kd_err *err)
{
    size_t len = strlen(text), n = 1;
    kd__record r = {.column = KD__NO_CHUNK, .chunk = KD__NO_CHUNK, .raw = len};
    uint8_t *record = malloc(kd__record_room(len));
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    kd__put *puts = calloc(1 + (size_t)w->ncolumns, sizeof(*puts));
    kd_status st;
    if (len > KD__HEADER_MAX) {
        st = kd_fail(err, KD_ELIMIT, "%s: columns and contract take %zu bytes, the limit is %u", w->part, len,
                     KD__HEADER_MAX);
        goto out;
    }
    if (!record || !zstd || !puts) {
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory", w->part);
        goto out;
    }
    puts[0].data = record;
    if (!(puts[0].size = kd__record_pack(&r, (const uint8_t *)text, record, zstd, w->params.level))) {
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory for zstd", w->part);
        goto out;
    }
    w->tag = r.checksum;
    for (uint32_t i = 0; i < w->ncolumns; i++) {
        if (!w->books[i].size) continue;
        puts[n] = w->books[i];
        kd__key(0, 1 + i, puts[n++].key);
    }
    if ((st = kd__env_put(w, puts, n, err))) goto out;
    st = kd__writer_push_heads(w, err);
out:
    ZSTD_freeCCtx(zstd);
    free(record);
    free(puts);
    return st;
}

/* Copies and completes the columns. */
static kd_status take_columns(kd_store_writer *w, const kd_column *columns, size_t n, kd_err *err)
{
    kd_status st;
    int ids = 0, splits = 0;
    if (!n || n + (w->store ? w->store->ncolumns : 0) > KD_STORE_MAX_COLUMNS)
        return kd_fail(err, KD_EUSAGE, "%s: %zu columns to write, a store may have 1 to %d", w->path, n,
                       KD_STORE_MAX_COLUMNS);
    if (!(w->columns = calloc(n, sizeof(*w->columns)))) return kd_fail(err, KD_ENOMEM, "out of memory");
    w->ncolumns = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        kd_column *c = &w->columns[i];
        *c = columns[i];
        json_incref(c->params);
        if ((st = kd__column_complete(c, w->params.level, err))) return kd_fail_in(err, st, "%s", w->path);
        for (size_t k = 0; k < i; k++)
            if (!strcmp(c->name, w->columns[k].name))
                return kd_fail(err, KD_EUSAGE, "%s: two columns are called '%s'", w->path, c->name);
        int at = w->store ? kd_store_find(w->store, c->name) : -1;
        if (at >= 0 && strcmp(w->store->columns[at].segment, w->name))
            return kd_fail(err, KD_EEXISTS, "%s: column '%s' is already there, in segment %s", w->path,
                           c->name, w->store->columns[at].segment);
        ids += c->role == KD_ROLE_ID;
        splits += c->role == KD_ROLE_SPLIT;
    }
    if (!w->store && (ids != 1 || splits != 1))
        return kd_fail(err, KD_EUSAGE,
                       "%s: a store needs one column of role id and one of role split, here are %d and %d",
                       w->path, ids, splits);
    return KD_OK;
}

/* What create and extend have in common, once the paths are known. */
static kd_status begin(kd_store_writer *w, const kd_column *columns, size_t n, const json_t *contract,
                       kd_err *err)
{
    off_t size = 0;
    bool fresh = true;
    char *text = NULL;
    kd_status st;
    if (!w->part || !w->file || !w->folder) return kd_fail(err, KD_ENOMEM, "out of memory");
    w->params.threads = w->params.threads < 1                 ? 1
                        : w->params.threads > KD__THREADS_MAX ? KD__THREADS_MAX
                                                              : w->params.threads;
    if (w->params.level < 1 || w->params.level > 19 || !w->params.chunk_rows ||
        w->params.chunk_rows > KD_STORE_MAX_CHUNK_ROWS)
        return kd_fail(err, KD_EUSAGE, "%s: level %d and %u rows a chunk, allowed are 1 to 19 and 1 to %d",
                       w->path, w->params.level, w->params.chunk_rows, KD_STORE_MAX_CHUNK_ROWS);
    if ((st = take_columns(w, columns, n, err)) || (st = pack_books(w, err))) return st;
    w->contract = json_deep_copy(contract);
    text = kd__segment_header_text(w->name, w->columns, w->book_sums, n, contract, w->params.chunk_rows,
                                   w->base_root);
    if (!text || (contract && !w->contract)) {
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory (or names that are not UTF-8)", w->path);
        goto out;
    }
    if (!w->store && (st = kd_mkdirs(w->folder, err))) goto out;
    if ((st = kd__part_take(w, &size, err))) goto out;
    if (size && (st = kd__part_resume(w, text, &fresh, err))) goto out;
    if (fresh && size && ftruncate(w->lock, 0)) {
        st = kd_fail_errno(err, errno, "%s", w->part);
        goto out;
    }
    if ((st = kd__env_open(w, err))) goto out;
    if (fresh) st = put_header(w, text, err);
out:
    free_books(w);
    free(text);
    return st;
}

/* Resume with force takes two tries: the first goes on with an unfinished file that fits; where something
 * else is in the way, which is then no failure, the second starts anew. True: try again with *p. */
static bool start_anew(kd_writer_params *p, bool both, kd_status st, kd_err *err)
{
    if (!both || (st != KD_EEXISTS && st != KD_EMISMATCH && st != KD_ECORRUPT)) return false;
    p->resume = false;
    p->force = true;
    if (err) *err = (kd_err){0};
    return true;
}

static kd_status create(kd_store_writer **out, const char *path, const kd_column *columns, size_t n,
                        const json_t *contract, const kd_writer_params *p, bool held, kd_err *err)
{
    kd_store_writer *w = calloc(1, sizeof(*w));
    kd_status st;
    *out = NULL;
    if (!w) return kd_fail(err, KD_ENOMEM, "out of memory");
    w->lock = -1;
    w->params = *p;
    w->held = held;
    memcpy(w->name, "base", 5);
    if (!(w->path = kd__store_path(path)) || !(w->folder = kd_sprintf("%s.part", w->path))) {
        st = kd_fail(err, KD_ENOMEM, "out of memory");
    } else if (!w->path[0] || !strcmp(w->path, "/")) {
        st = kd_fail(err, KD_EUSAGE, "'%s' cannot be the name of a store", path);
    } else if (!held && kd_exists(w->path) && !w->params.force) {
        st = kd_fail(err, KD_EEXISTS, "%s: already there and finished; --force replaces it", w->path);
    } else {
        w->file = kd_path_join(w->folder, "base.mdb");
        w->part = kd_path_join(w->folder, "base.mdb.part");
        st = begin(w, columns, n, contract, err);
    }
    if (st)
        kd__writer_free(w);
    else
        *out = w;
    return st;
}

static kd_status create_or_anew(kd_store_writer **out, const char *path, const kd_column *columns, size_t n,
                                const json_t *contract, const kd_writer_params *p, bool held, kd_err *err)
{
    kd_writer_params params = p ? *p : kd_writer_default_params();
    const bool both = params.resume && params.force;
    if (both) params.force = false;
    kd_status st = create(out, path, columns, n, contract, &params, held, err);
    return start_anew(&params, both, st, err) ? create(out, path, columns, n, contract, &params, held, err)
                                              : st;
}

kd_status kd_store_create(kd_store_writer **out, const char *path, const kd_column *columns, size_t n,
                          const json_t *contract, const kd_writer_params *p, kd_err *err)
{
    return create_or_anew(out, path, columns, n, contract, p, false, err);
}

kd_status kd__store_create_held(kd_store_writer **out, const char *path, const kd_column *columns, size_t n,
                                const json_t *contract, const kd_writer_params *p, kd_err *err)
{
    return create_or_anew(out, path, columns, n, contract, p, true, err);
}

/* A segment's file: NAME.mdb, or with a number when a sealed segment of that name is replaced. */
static char *segment_file(const kd_store *s, const char *name)
{
    for (int i = 1;; i++) {
        char *file = i == 1 ? kd_sprintf("%s.mdb", name) : kd_sprintf("%s.%d.mdb", name, i);
        bool used = false;
        for (uint32_t k = 0; file && k < s->nsegments; k++) used = used || !strcmp(s->segments[k].file, file);
        if (!used) return file;
        free(file);
    }
}

static kd_status extend(kd_store_writer **out, kd_store *s, const char *name, const kd_column *columns,
                        size_t n, const json_t *contract, const kd_writer_params *p, kd_err *err)
{
    kd_store_writer *w;
    kd_status st = KD_OK;
    bool there = false;
    *out = NULL;
    if (!kd__segment_name_ok(name) || strlen(name) > KD_STORE_SEGMENT_MAX)
        return kd_fail(err, KD_EUSAGE,
                       "%s: segment name '%.64s': allowed are a-z, 0-9, '_', '.', '-', at most %d", s->path,
                       name, KD_STORE_SEGMENT_MAX);
    for (uint32_t i = 0; i < s->nsegments; i++) there = there || !strcmp(s->segments[i].name, name);
    if (!strcmp(name, s->segments[0].name) || (there && !p->force))
        return kd_fail(err, KD_EEXISTS, "%s: segment '%s' is already there%s", s->path, name,
                       strcmp(name, s->segments[0].name) ? "; --force replaces it"
                                                         : " and holds the data itself");
    if (!(w = calloc(1, sizeof(*w)))) return kd_fail(err, KD_ENOMEM, "out of memory");
    w->lock = -1;
    w->store = s;
    w->params = *p;
    w->params.chunk_rows = s->chunk_rows;
    memcpy(w->name, name, strlen(name) + 1);
    kd_id_hex(s->segments[0].root, w->base_root);
    char *file = segment_file(s, name);
    w->path = kd_strdup(s->path);
    w->folder = kd_strdup(s->path);
    w->file = file ? kd_path_join(s->path, file) : NULL;
    w->part = w->file ? kd_sprintf("%s.part", w->file) : NULL;
    free(file);
    st = w->path ? begin(w, columns, n, contract, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (st)
        kd__writer_free(w);
    else
        *out = w;
    return st;
}

kd_status kd_store_extend(kd_store_writer **out, kd_store *s, const char *name, const kd_column *columns,
                          size_t n, const json_t *contract, const kd_writer_params *p, kd_err *err)
{
    kd_writer_params params = p ? *p : kd_writer_default_params();
    const bool both = params.resume && params.force;
    if (both) params.force = false;
    kd_status st = extend(out, s, name, columns, n, contract, &params, err);
    return start_anew(&params, both, st, err) ? extend(out, s, name, columns, n, contract, &params, err) : st;
}

/* ---- filling ------------------------------------------------------------------------------ */

uint32_t kd_store_writer_chunks(const kd_store_writer *w) { return w->nchunks; }
uint64_t kd_store_writer_rows(const kd_store_writer *w) { return w->rows; }
uint64_t kd_store_writer_raw_bytes(const kd_store_writer *w) { return w->raw_bytes; }

kd_status kd_store_writer_append(kd_store_writer *w, kd_split split, uint32_t rows, const kd_block *block,
                                 kd_err *err)
{
    size_t raw[KD_STORE_MAX_COLUMNS];
    kd_status st;
    if (w->failed) return kd_fail(err, KD_EIO, "%s: an earlier write failed; go on with --resume", w->part);
    if (!rows || rows > w->params.chunk_rows)
        return kd_fail(err, KD_EUSAGE, "%s: chunk %u has %u rows, allowed are 1 to %u", w->part, w->nchunks,
                       rows, w->params.chunk_rows);
    for (uint32_t i = 0; i < w->ncolumns; i++) {
        const kd_column *c = &w->columns[i];
        if ((st = kd__block_size(c, rows, &block[i], &raw[i], err)))
            return kd_fail_in(err, st, "%s: chunk %u", w->part, w->nchunks);
        const uint8_t *b = block[i].data;
        for (uint32_t k = 0; c->role == KD_ROLE_SPLIT && k < rows; k++)
            if (b[k] != (uint8_t)split)
                return kd_fail(err, KD_EUSAGE, "%s: chunk %u of split %s: row %u of column %s says %u",
                               w->part, w->nchunks, kd_split_name(split), k, c->name, b[k]);
    }
    if ((st = kd__writer_push_chunk(w, split, rows, err))) return st;
    if ((st = kd__group_add(w, &w->chunks[w->nchunks - 1], w->nchunks - 1, block, raw, err))) {
        w->failed = true;
        return st;
    }
    return w->group.used >= w->params.commit_bytes ? kd__group_commit(w, err) : KD_OK;
}

kd_status kd_store_writer_commit(kd_store_writer *w, kd_err *err) { return kd__group_commit(w, err); }

void kd_store_writer_close(kd_store_writer *w)
{
    if (w && !w->failed) kd__group_commit(w, NULL);
    kd__writer_free(w);
}
