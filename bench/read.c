/* read.c - how fast rows come out of a store, beside what bounds it.
 *
 * `kd_bench read STORE COLUMN,...` serves lines "go WHAT ORDER SECONDS" over the training rows of the named
 * columns, on one thread, ORDER being sequential or random:
 *
 * - decode: whole blocks by kd_cursor_read: pread, checksum, zstd or marks, byte planes; random: chunks in
 *   random order
 *
 * - values: what a loss is given: the same for dense columns, f32 or sparse targets for encoded ones
 *
 * - batches: batches of 128 rows from a kd_loader, whose window is smaller than the store: each chunk is
 *   decoded once an epoch, as in a store larger than memory
 *
 * - resident: the same with one window for all rows: decoded once before the clock starts
 *
 * - zstd: ZSTD_decompressDCtx of the very same frames, which wait in memory; stored payloads are copied, of
 *   marked bytes a frame is made, of the level that is read fastest. Without the frame's own checksum, which
 *   kd's cursor skips as well
 *
 * - memcpy: as many decoded bytes, copied block by block
 *
 * Each answer is one JSON line: rows, bytes (decoded), seconds, cpu_s. zstd and memcpy are the limits: what
 * kd does beyond them is reading, checking and putting planes together. The frames are fetched through
 * LMDB itself, by the format's documented keys.
 */
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>
#define ZSTD_STATIC_LINKING_ONLY /* ZSTD_d_forceIgnoreChecksum */
#include <zstd.h>

#include "bench.h"
#include "kd/data.h"

enum { BATCH = 128, HEAD = 64, CODEC_AT = 8, RAW_AT = 32, PLAIN = 256 << 20, MARKS = 2, SWIFT = -1 };

typedef struct frame {
    const uint8_t *payload;
    size_t stored, raw;
    bool zstd;
} frame;

typedef struct reader {
    kd_store *store;
    int column[KD_LOADER_COLUMNS], columns;
    uint32_t *chunk, chunks; /* of the training split */
    uint64_t rows, window;
    kd_cursor *cursor;
    kd_sparse sparse;
    kd_loader *loader;
    kd_stream *stream;
    uint64_t epoch;
    size_t *raw;       /* (chunks of the store, columns) bytes of decoded blocks */
    frame *frames;     /* the same places; NULL until zstd or memcpy is asked for, like what follows */
    uint8_t *payloads; /* what they point to */
    uint8_t *plain;    /* (PLAIN) what memcpy copies */
    uint8_t *block;    /* (block_bytes) where everything is decoded to */
    float *values;     /* (most) of a chunk of a dense codec */
    size_t frame_bytes, raw_bytes, block_bytes, plain_at;
    ZSTD_DCtx *zstd;
} reader;

static volatile uint8_t sink;

/* ---- the frames, through LMDB -------------------------------------------------------------- */

static const char *segment_file(const kd_store *s, const char *segment)
{
    const json_t *list = json_object_get(kd_store_manifest(s), "segments"), *g;
    size_t i;
    json_array_foreach(list, i, g) if (!strcmp(json_string_value(json_object_get(g, "name")),
                                               segment)) return json_string_value(json_object_get(g, "file"));
    return "";
}

/* Copies the records of one column. lmdb: the file that has it. */
static kd_status fetch(reader *r, int c, MDB_txn *txn, MDB_dbi dbi, uint32_t index, size_t *at, kd_err *err)
{
    for (uint32_t k = 0; k < r->chunks; k++) {
        const uint32_t words[2] = {__builtin_bswap32(r->chunk[k] + 1), __builtin_bswap32(index)};
        MDB_val key = {sizeof words, (void *)(uintptr_t)words}, value;
        int e = mdb_get(txn, dbi, &key, &value);
        if (e || value.mv_size < HEAD)
            return kd_fail(err, KD_ECORRUPT, "%s: chunk %u: %s", kd_store_path(r->store), r->chunk[k],
                           e ? mdb_strerror(e) : "a short record");
        frame *f = &r->frames[(size_t)r->chunk[k] * (size_t)r->columns + (size_t)c];
        const uint8_t *record = value.mv_data;
        uint64_t raw;
        memcpy(&raw, record + RAW_AT, sizeof raw);
        const uint8_t codec = record[CODEC_AT];
        uint8_t *to = r->payloads + *at;
        *f = (frame){to, value.mv_size - HEAD, (size_t)raw, codec != 0};
        if (codec == MARKS) {
            kd_status st = kd_cursor_read(r->cursor, r->column[c], r->chunk[k], r->block, f->raw, err);
            if (st) return st;
            f->stored = ZSTD_compress(to, ZSTD_compressBound(f->raw), r->block, f->raw, SWIFT);
            if (ZSTD_isError(f->stored)) return kd_fail(err, KD_ENOMEM, "no memory for a frame");
        } else {
            memcpy(to, record + HEAD, f->stored);
        }
        *at += f->stored;
    }
    return KD_OK;
}

static kd_status fetch_column(reader *r, int c, size_t *at, kd_err *err)
{
    const kd_column *k = kd_store_column(r->store, (size_t)r->column[c]);
    uint32_t index = 0;
    while ((int)index < r->column[c] &&
           !strcmp(kd_store_column(r->store, (size_t)r->column[c] - index - 1)->segment, k->segment))
        index++;
    char *path = kd_path_join(kd_store_path(r->store), segment_file(r->store, k->segment));
    MDB_env *env = NULL;
    MDB_txn *txn = NULL;
    MDB_dbi dbi;
    kd_status st;
    int e = mdb_env_create(&env);
    if (!e) e = mdb_env_open(env, path, MDB_NOSUBDIR | MDB_RDONLY | MDB_NOLOCK, 0);
    if (!e) e = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    if (!e) e = mdb_dbi_open(txn, NULL, 0, &dbi);
    st = e ? kd_fail(err, KD_EIO, "%s: %s", path, mdb_strerror(e)) : fetch(r, c, txn, dbi, index, at, err);
    mdb_txn_abort(txn);
    mdb_env_close(env);
    free(path);
    return st;
}

/* What the limits are measured on: all frames, and as many bytes as memcpy may want. */
static kd_status fetch_frames(reader *r, kd_err *err)
{
    size_t at = 0;
    kd_status st = KD_OK;
    if (r->frames) return KD_OK;
    r->frames = calloc((size_t)kd_store_chunks(r->store) * (size_t)r->columns, sizeof(*r->frames));
    r->payloads = malloc(r->frame_bytes);
    r->plain = kd_alloc_aligned(PLAIN, 1);
    r->zstd = ZSTD_createDCtx();
    if (!r->frames || !r->payloads || !r->plain || !r->zstd)
        return kd_fail(err, KD_ENOMEM, "no memory for the frames");
    memset(r->plain, 1, PLAIN);
    ZSTD_DCtx_setParameter(r->zstd, ZSTD_d_forceIgnoreChecksum, ZSTD_d_ignoreChecksum);
    for (int c = 0; c < r->columns && !st; c++) st = fetch_column(r, c, &at, err);
    return st;
}

/* ---- what is measured ---------------------------------------------------------------------- */

typedef struct count {
    uint64_t rows, bytes;
} count;

static size_t place(const reader *r, uint32_t chunk, int c)
{
    return (size_t)chunk * (size_t)r->columns + (size_t)c;
}

static kd_status decode(reader *r, uint32_t chunk, int c, kd_err *err)
{
    return kd_cursor_read(r->cursor, r->column[c], chunk, r->block, r->raw[place(r, chunk, c)], err);
}

static kd_status values(reader *r, uint32_t chunk, int c, kd_err *err)
{
    const kd_column *k = kd_store_column(r->store, (size_t)r->column[c]);
    const kd_codec_info *codec = kd_codec_find(k->encoding);
    if (!codec) return decode(r, chunk, c, err);
    if (codec->sparse) return kd_cursor_read_sparse(r->cursor, r->column[c], chunk, &r->sparse, err);
    const size_t positions = kd_store_chunk(r->store, chunk)->rows * kd_column_each(k);
    return kd_cursor_read_f32(r->cursor, r->column[c], chunk, r->values, positions, err);
}

static kd_status zstd(reader *r, uint32_t chunk, int c, kd_err *err)
{
    const frame *f = &r->frames[place(r, chunk, c)];
    if (!f->zstd)
        memcpy(r->block, f->payload, f->raw);
    else if (ZSTD_decompressDCtx(r->zstd, r->block, f->raw, f->payload, f->stored) != f->raw)
        return kd_fail(err, KD_ECORRUPT, "zstd did not decode a frame of chunk %u", chunk);
    return KD_OK;
}

static kd_status copy(reader *r, uint32_t chunk, int c, kd_err *err)
{
    const size_t n = kd_min_size(r->raw[place(r, chunk, c)], PLAIN);
    (void)err;
    if (r->plain_at + n > PLAIN) r->plain_at = 0;
    memcpy(r->block, r->plain + r->plain_at, n);
    r->plain_at += n;
    return KD_OK;
}

static const struct kind {
    const char *name;
    kd_status (*block)(reader *r, uint32_t chunk, int c, kd_err *err); /* NULL: batches */
    bool resident, limit;
} kinds[] = {{.name = "decode", .block = decode},
             {.name = "values", .block = values},
             {.name = "batches"},
             {.name = "resident", .resident = true},
             {.name = "zstd", .block = zstd, .limit = true},
             {.name = "memcpy", .block = copy, .limit = true}};

static kd_status do_chunk(reader *r, const struct kind *kind, uint32_t chunk, count *n, kd_err *err)
{
    for (int c = 0; c < r->columns; c++) {
        kd_status st = kind->block(r, chunk, c, err);
        if (st) return st;
        n->bytes += r->raw[place(r, chunk, c)];
    }
    sink = r->block[0];
    n->rows += kd_store_chunk(r->store, chunk)->rows;
    return KD_OK;
}

static kd_status do_batch(reader *r, count *n, kd_err *err)
{
    kd_batch b;
    kd_status st = kd_stream_next(r->stream, &b, err);
    if (!st && !b.rows && !(st = kd_loader_epoch(r->loader, r->epoch++, err)))
        st = kd_stream_next(r->stream, &b, err);
    if (st) return st;
    n->rows += b.rows;
    n->bytes += b.rows * r->raw_bytes / r->rows;
    sink = (uint8_t)b.row[0];
    return KD_OK;
}

static kd_status open_loader(reader *r, bool resident, bool shuffle, kd_err *err)
{
    kd_loader_params p = kd_loader_default_params();
    kd_status st;
    p.window_rows = resident ? r->rows + KD_STORE_MAX_CHUNK_ROWS : r->window;
    p.shuffle = shuffle;
    r->epoch = 0;
    if ((st = kd_loader_open(&r->loader, r->store, r->column, r->columns, &p, err))) return st;
    if ((st = kd_stream_open(&r->stream, r->loader, 1, BATCH, false, err))) return st;
    return kd_loader_epoch(r->loader, r->epoch++, err);
}

static kd_status measure(reader *r, const struct kind *kind, bool shuffle, double seconds, kd_err *err)
{
    count n = {0};
    kd_rng rng;
    kd_status st = KD_OK;
    if (kind->limit && (st = fetch_frames(r, err))) return st;
    if (!kind->block) st = open_loader(r, kind->resident, shuffle, err);
    if (!st && kind->resident) st = do_batch(r, &n, err); // decodes the window
    n = (count){0};
    kd_rng_init(&rng, 1, KD_RNG_TEST, 0, 0);
    double start = kd_now(), cpu = kd_cpu_seconds(), wall = 0;
    for (uint64_t i = 0; wall < seconds && !st; i++) {
        if (kind->block)
            st =
                do_chunk(r, kind, r->chunk[shuffle ? kd_rng_below(&rng, r->chunks) : i % r->chunks], &n, err);
        else
            st = do_batch(r, &n, err);
        wall = kd_now() - start;
    }
    cpu = kd_cpu_seconds() - cpu;
    if (!kind->block) {
        kd_loader_close(r->loader);
        r->loader = NULL;
    }
    if (!st)
        bench_print(json_pack("{s:I, s:I, s:f, s:f, s:I}", "rows", (json_int_t)n.rows, "bytes",
                              (json_int_t)n.bytes, "seconds", wall, "cpu_s", cpu, "peak_rss",
                              (json_int_t)kd_peak_rss()));
    return st;
}

/* ---- life ---------------------------------------------------------------------------------- */

static kd_status take_columns(reader *r, const char *names, kd_err *err)
{
    kd_status st = KD_OK;
    char *list = kd_strdup(names), *save;
    if (!list) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (char *name = strtok_r(list, ",", &save); name && !st; name = strtok_r(NULL, ",", &save)) {
        if (r->columns == KD_LOADER_COLUMNS)
            st = kd_fail(err, KD_EUSAGE, "more than %d columns", KD_LOADER_COLUMNS);
        else if ((r->column[r->columns] = kd_store_find(r->store, name)) < 0)
            st = kd_fail(err, KD_ENOTFOUND, "%s: no column %s", kd_store_path(r->store), name);
        r->columns++;
    }
    free(list);
    return st;
}

static kd_status take_chunks(reader *r, kd_err *err)
{
    const uint32_t all = kd_store_chunks(r->store);
    if (!(r->chunk = malloc(all * sizeof(*r->chunk)))) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < all; i++) {
        const kd_chunk_info *info = kd_store_chunk(r->store, i);
        if (info->split != KD_TRAIN) continue;
        r->chunk[r->chunks++] = i;
        r->rows += info->rows;
    }
    return r->chunks ? KD_OK : kd_fail(err, KD_EUSAGE, "%s: no training rows", kd_store_path(r->store));
}

/* Room for the values of the largest chunk of any dense codec. */
static kd_status reserve_values(reader *r, kd_err *err)
{
    size_t most = 0;
    for (int c = 0; c < r->columns; c++) {
        const kd_column *k = kd_store_column(r->store, (size_t)r->column[c]);
        const kd_codec_info *codec = kd_codec_find(k->encoding);
        for (uint32_t i = 0; codec && !codec->sparse && i < r->chunks; i++)
            most = kd_max_size(most, kd_store_chunk(r->store, r->chunk[i])->rows * kd_column_each(k) *
                                         kd_column_width(k));
    }
    r->values = most ? kd_alloc_aligned(most, sizeof(float)) : NULL;
    return most && !r->values ? kd_fail(err, KD_ENOMEM, "no memory for %zu values", most) : KD_OK;
}

/* Sizes of all decoded blocks. Every record is read once for it, so files are in the page cache. */
static kd_status take_sizes(reader *r, kd_err *err)
{
    kd_status st = KD_OK;
    if (!(r->raw = calloc((size_t)kd_store_chunks(r->store) * (size_t)r->columns, sizeof(*r->raw))))
        return kd_fail(err, KD_ENOMEM, "out of memory");
    for (int c = 0; c < r->columns && !st; c++) {
        for (uint32_t i = 0; i < r->chunks && !st; i++) {
            size_t *size = &r->raw[place(r, r->chunk[i], c)];
            st = kd_cursor_size(r->cursor, r->column[c], r->chunk[i], size, err);
            r->raw_bytes += *size;
            r->frame_bytes += ZSTD_compressBound(*size);
            r->block_bytes = kd_max_size(r->block_bytes, *size);
        }
    }
    return st;
}

static kd_status reader_init(reader *r, const char *path, const char *columns, kd_err *err)
{
    kd_status st;
    if ((st = kd_store_open(&r->store, path, err)) || (st = take_columns(r, columns, err)) ||
        (st = take_chunks(r, err)) || (st = reserve_values(r, err)) ||
        (st = kd_cursor_open(&r->cursor, r->store, err)) || (st = take_sizes(r, err)))
        return st;
    return (r->block = kd_alloc_aligned(r->block_bytes, 1)) ? KD_OK
                                                            : kd_fail(err, KD_ENOMEM, "out of memory");
}

static void reader_free(reader *r)
{
    kd_loader_close(r->loader);
    kd_cursor_close(r->cursor);
    kd_store_close(r->store);
    kd_sparse_release(&r->sparse);
    ZSTD_freeDCtx(r->zstd);
    free(r->chunk);
    free(r->raw);
    free(r->frames);
    free(r->payloads);
    free(r->plain);
    free(r->block);
    free(r->values);
}

static kd_status serve(reader *r, kd_err *err)
{
    char line[256], what[32], order[32];
    double seconds;
    while (fgets(line, sizeof line, stdin)) {
        const struct kind *kind = NULL;
        if (sscanf(line, "go %31s %31s %lf", what, order, &seconds) == 3)
            for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
                if (!strcmp(kinds[i].name, what)) kind = &kinds[i];
        if (!kind || !(seconds > 0 && seconds < 86400))
            return kd_fail(err, KD_EUSAGE, "read: expected a line \"go WHAT ORDER SECONDS\", found \"%.*s\"",
                           (int)strcspn(line, "\n"), line);
        kd_status st = measure(r, kind, !strcmp(order, "random"), seconds, err);
        if (st) return st;
    }
    return KD_OK;
}

kd_status bench_read(const char *store, const char *columns, uint64_t window, kd_err *err)
{
    reader r = {.window = window};
    kd_status st = reader_init(&r, store, columns, err);
    if (!st) {
        bench_print(json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:s}", "ready", 1, "rows", (json_int_t)r.rows,
                              "chunks", (json_int_t)r.chunks, "raw_bytes", (json_int_t)r.raw_bytes,
                              "store_rows", (json_int_t)kd_store_rows(r.store), "store_bytes",
                              (json_int_t)kd_store_bytes(r.store), "build", kd_build_info()));
        st = serve(&r, err);
    }
    reader_free(&r);
    return st;
}
