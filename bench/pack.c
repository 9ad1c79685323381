/* pack.c - what an encoding makes of real logits: bytes and errors.
 *
 * `kd_bench pack LOGITS.npy STORE ENCODING` writes the logits (rows[, positions], classes) into a store with
 * the encoding (kd_codec_parse; "dense:f16" and the like for numbers as they are), seals it, reads it back,
 * and prints one JSON line. Bytes are those of the sealed files, which are whole LMDB pages: with row ids,
 * splits, index, checksums and the codebook, over the number of positions.
 *
 * Errors are those of kd-dump --plan, over the first --judge positions, and for sampled targets w of
 * probabilities p, over --redraws draws with other seeds:
 *
 *     ids       classes kept a position, of the whole store
 *     variance  sum over classes of (w - p)^2
 *     bias_z    mean of sum g (w - p), g = +-1 by class, over its standard error: far beyond +-4 if draws are
 * biased
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "kd/teacher.h"

typedef struct packer {
    const bench_pack_params *p;
    kd_array head; /* of the file; no data */
    int fd;
    uint64_t at, rows;       /* where its values begin; rows that are taken */
    size_t each, all, width; /* positions a row; classes in the file; classes taken */
    float *wide, *values;    /* one position of all classes; (chunk rows, each, width) */
    uint8_t *row;            /* one row of the file */
    kd_id *ids;              /* (chunk rows) */
    kd_codec *codec;         /* NULL: dense */
    kd_column column[3];
    kd_store *store;
    double encode_seconds;
} packer;

/* ---- logits ---------------------------------------------------------------------------------- */

static kd_status open_logits(packer *k, kd_err *err)
{
    const bench_pack_params *p = k->p;
    bool swap;
    kd_status st = kd_npy_head(&k->head, p->logits, &swap, &k->at, err);
    if (st) return st;
    const int axes = k->head.ndims;
    if (swap || axes < 1 || axes > 2 || !kd_dtype_is_float(k->head.dtype))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: expected (rows[, positions], classes) of a float type",
                       p->logits);
    k->each = axes == 2 ? (size_t)k->head.dims[0] : 1;
    k->all = (size_t)k->head.dims[axes - 1];
    k->width = p->classes ? (size_t)p->classes : k->all;
    k->rows = p->rows ? (uint64_t)p->rows : k->head.rows;
    if (k->width > k->all || k->rows > k->head.rows)
        return kd_fail(err, KD_EUSAGE, "%s has %llu rows of %zu classes", p->logits,
                       (unsigned long long)k->head.rows, k->all);
    if ((k->fd = open(p->logits, O_RDONLY | O_CLOEXEC)) < 0)
        return kd_fail_errno(err, errno, "%s", p->logits);
    k->row = malloc(kd_array_row_bytes(&k->head));
    k->wide = kd_alloc_aligned(k->all, sizeof(float));
    k->values = kd_alloc_aligned((size_t)p->chunk_rows * k->each * k->width, sizeof(float));
    k->ids = kd_alloc_aligned((size_t)p->chunk_rows, sizeof(*k->ids));
    return k->row && k->wide && k->values && k->ids
               ? KD_OK
               : kd_fail(err, KD_ENOMEM, "no memory for a chunk of logits");
}

/* The first classes of rows [first, first + n) to values, and ids of the rows. */
static kd_status read_rows(packer *k, uint64_t first, uint32_t n, kd_err *err)
{
    const size_t bytes = kd_array_row_bytes(&k->head), step = bytes / k->each;
    float *out = k->values;
    for (uint64_t r = first; r < first + n; r++) {
        for (size_t got = 0; got < bytes;) {
            ssize_t m = pread(k->fd, k->row + got, bytes - got, (off_t)(k->at + r * bytes + got));
            if (m <= 0)
                return kd_fail_errno(err, m ? errno : EIO, "%s: row %llu", k->p->logits,
                                     (unsigned long long)r);
            got += (size_t)m;
        }
        k->ids[r - first] = kd_hash128(k->row, bytes);
        for (size_t i = 0; i < k->each; i++, out += k->width) {
            kd_to_f32(k->wide, k->row + i * step, k->head.dtype, k->all);
            memcpy(out, k->wide, k->width * sizeof(float));
        }
    }
    return KD_OK;
}

/* ---- the store ------------------------------------------------------------------------------- */

static kd_status plan_columns(packer *k, kd_err *err)
{
    kd_column *c = k->column;
    json_t *params = NULL;
    kd_status st;
    c[0] = (kd_column){
        .name = "id", .role = KD_ROLE_ID, .dtype = KD_U8, .ndims = 1, .dims = {16}, .encoding = "dense"};
    c[1] = (kd_column){.name = "split", .role = KD_ROLE_SPLIT, .dtype = KD_U8, .encoding = "dense"};
    c[2] = (kd_column){.name = "logits", .role = KD_ROLE_LOGITS, .dtype = KD_F32, .encoding = "dense"};
    if (k->head.ndims == 2) c[2].dims[c[2].ndims++] = (int64_t)k->each;
    c[2].dims[c[2].ndims++] = (int64_t)k->width;
    const kd_dtype dtype = kd_dtype_parse(k->p->encoding);
    if (kd_dtype_is_float(dtype)) {
        c[2].dtype = dtype;
        return KD_OK;
    }
    if ((st = kd_codec_parse(k->p->encoding, c[2].encoding, &params, err))) return st;
    void *book = NULL;
    // As a dump does: from the first chunk.
    if (!(st = kd_codec_learn(c[2].encoding, (int64_t)k->width, params, k->values,
                              kd_min_size((size_t)k->p->chunk_rows, k->rows) * k->each, &book,
                              &c[2].book_bytes, err)))
        st = kd_codec_open(&k->codec, c[2].encoding, (int64_t)k->width, params, book, c[2].book_bytes, err);
    c[2].book = book;
    c[2].params = json_pack("{s:o}", "codec", params);
    return st;
}

static kd_status append(packer *k, kd_store_writer *w, uint32_t rows, kd_err *err)
{
    const size_t numbers = rows * k->each * k->width;
    kd_buf bytes = {0};
    kd_codec_block b = {.values = k->values, .rows = rows, .each = (uint32_t)k->each, .ids = k->ids};
    uint8_t *split = calloc(rows, 1), *dense = NULL;
    kd_block block[3] = {{.data = k->ids, .bytes = rows * sizeof(*k->ids)}, {.data = split, .bytes = rows}};
    kd_status st = split ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    double start = kd_now();
    if (!st && k->codec) {
        st = kd_codec_encode(k->codec, &b, (int)k->p->threads, &bytes, err);
        block[2] = (kd_block){.data = bytes.text, .bytes = bytes.len};
    } else if (!st) {
        const kd_dtype t = k->column[2].dtype;
        block[2].bytes = numbers * kd_dtype_size(t);
        block[2].data = dense = malloc(block[2].bytes);
        st = dense ? kd_from_f32(dense, t, k->values, numbers) : kd_fail(err, KD_ENOMEM, "out of memory");
    }
    k->encode_seconds += kd_now() - start;
    if (!st) st = kd_store_writer_append(w, KD_TRAIN, rows, block, err);
    kd_buf_release(&bytes);
    free(dense);
    free(split);
    return st;
}

static kd_status write_store(packer *k, kd_err *err)
{
    const bench_pack_params *p = k->p;
    kd_writer_params wp = kd_writer_default_params();
    kd_store_writer *w;
    uint64_t row = 0;
    kd_status st;
    wp.chunk_rows = (uint32_t)p->chunk_rows;
    wp.threads = (int)p->threads;
    wp.force = true;
    uint32_t n = (uint32_t)kd_min_size(wp.chunk_rows, k->rows);
    if ((st = read_rows(k, 0, n, err)) || (st = plan_columns(k, err))) return st;
    if ((st = kd_store_create(&w, p->store, k->column, 3, NULL, &wp, err))) return st;
    while (!(st = append(k, w, n, err)) && (row += n) < k->rows) {
        n = (uint32_t)kd_min_size(wp.chunk_rows, (size_t)(k->rows - row));
        if ((st = read_rows(k, row, n, err))) break;
    }
    if (!st) return kd_store_writer_seal(w, NULL, err);
    kd_store_writer_close(w);
    return st;
}

/* ---- errors ---------------------------------------------------------------------------------- */

typedef struct draws {
    double *p; /* (width) probabilities of the position at hand */
    double variance, mean, square;
    size_t n;
} draws;

/* +1 or -1, by class. */
static double side(size_t c) { return kd_hash64(&c, sizeof c) & 1 ? 1 : -1; }

static void softmax(double *p, const float *z, size_t n)
{
    double sum = 0, top = (double)z[0];
    for (size_t i = 1; i < n; i++) top = fmax(top, (double)z[i]);
    for (size_t i = 0; i < n; i++) sum += p[i] = exp((double)z[i] - top);
    for (size_t i = 0; i < n; i++) p[i] /= sum;
}

/* One draw of position i: distance to p, and a sum whose expectation is 0 if nothing is biased. */
static void add_draw(draws *d, const kd_sparse *s, size_t i, size_t width)
{
    double distance = 0, sum = 0;
    for (size_t c = 0; c < width; c++) {
        distance += d->p[c] * d->p[c];
        sum -= side(c) * d->p[c];
    }
    for (uint64_t e = s->offset[i]; e < s->offset[i + 1]; e++) {
        const double w = (double)s->value[e], p = d->p[s->id[e]];
        distance += (w - p) * (w - p) - p * p;
        sum += side(s->id[e]) * w;
    }
    d->variance += distance;
    d->mean += sum;
    d->square += sum * sum;
    d->n++;
}

/* Draws the rows at hand again with other seeds. */
static kd_status redraw(const packer *k, draws *d, uint32_t rows, size_t positions, kd_err *err)
{
    const kd_column *c = &k->column[2];
    const kd_codec_block b = {.values = k->values, .rows = rows, .each = (uint32_t)k->each, .ids = k->ids};
    kd_sparse s = {0};
    kd_status st = KD_OK;
    for (int64_t r = 1; r <= k->p->redraws && !st; r++) {
        json_t *params = json_deep_copy(json_object_get(c->params, "codec"));
        kd_codec *codec = NULL;
        kd_buf bytes = {0};
        json_object_set_new(params, "seed", json_integer(r));
        st = kd_codec_open(&codec, c->encoding, (int64_t)k->width, params, c->book, c->book_bytes, err);
        if (!st) st = kd_codec_encode(codec, &b, (int)k->p->threads, &bytes, err);
        if (!st) st = kd_codec_sparse(codec, bytes.text, bytes.len, rows * k->each, &s, err);
        for (size_t i = 0; i < positions && !st; i++) {
            softmax(d->p, k->values + i * k->width, k->width);
            add_draw(d, &s, i, k->width);
        }
        kd_buf_release(&bytes);
        kd_codec_close(codec);
        json_decref(params);
    }
    kd_sparse_release(&s);
    return st;
}

/* Classes kept a position, as the store gives them back. */
static kd_status count_ids(const packer *k, double *ids, kd_err *err)
{
    kd_sparse s = {0};
    kd_cursor *cursor;
    kd_status st = kd_cursor_open(&cursor, k->store, err);
    size_t entries = 0, positions = 0;
    for (uint32_t i = 0; !st && i < kd_store_chunks(k->store); i++) {
        st = kd_cursor_read_sparse(cursor, kd_store_find(k->store, "logits"), i, &s, err);
        entries += s.entries;
        positions += s.positions;
    }
    *ids = (double)entries / (double)positions;
    kd_sparse_release(&s);
    kd_cursor_close(cursor);
    return st;
}

static json_t *number(double v) { return isfinite(v) ? json_real(v) : json_null(); }

/* Everything about errors: the first chunk, or the first --judge positions of it. */
static kd_status judge(packer *k, json_t **out, kd_err *err)
{
    const uint32_t rows = kd_store_chunk(k->store, 0)->rows;
    const size_t positions = kd_min_size((size_t)k->p->judge, rows * k->each);
    const kd_codec_info *info = k->codec ? kd_codec_describe(k->codec) : NULL;
    draws d = {.p = kd_alloc_aligned(k->width, sizeof(double))};
    kd_id *ids = kd_alloc_aligned(positions, sizeof(*ids));
    kd_plan_entry e;
    double kept = (double)k->width, mean;
    kd_status st = d.p && ids ? read_rows(k, 0, rows, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < positions && ids; i++) ids[i] = kd_hash128(&i, sizeof i);
    if (!st)
        st = kd_plan_measure(&e, k->p->encoding, k->values, positions, (int64_t)k->width, ids, 1024,
                             kd_writer_default_params().level, (int)k->p->threads, err);
    if (!st && info && info->sparse) st = count_ids(k, &kept, err);
    if (!st && info && info->serves & KD_SERVES_EXPECTED && info->sparse)
        st = redraw(k, &d, rows, positions, err);
    if (!st) {
        mean = d.mean / (double)d.n; // NaN without draws: null in the line
        *out = json_pack("{s:I, s:f, s:o, s:o, s:f, s:f, s:o, s:o}", "judged", (json_int_t)positions, "ids",
                         kept, "kl", number(e.kl1), "kl_t4", number(e.kl4), "top1", e.top1, "tail", e.tail,
                         "variance", number(d.variance / (double)d.n), "bias_z",
                         number(mean / sqrt((d.square / (double)d.n - mean * mean) / (double)d.n)));
    }
    free(d.p);
    free(ids);
    return st;
}

/* ---- one call -------------------------------------------------------------------------------- */

static void packer_free(packer *k)
{
    kd_store_close(k->store);
    kd_codec_close(k->codec);
    json_decref(k->column[2].params);
    free((void *)(uintptr_t)k->column[2].book);
    if (k->fd >= 0) close(k->fd);
    free(k->row);
    free(k->wide);
    free(k->values);
    free(k->ids);
}

kd_status bench_pack(const bench_pack_params *p, kd_err *err)
{
    packer k = {.p = p, .fd = -1};
    json_t *errors = NULL;
    uint64_t raw, stored;
    kd_status st = open_logits(&k, err);
    if (!st && !(st = write_store(&k, err))) st = kd_store_open(&k.store, p->store, err);
    if (!st) st = judge(&k, &errors, err);
    if (!st) st = kd_store_column_bytes(k.store, kd_store_find(k.store, "logits"), &raw, &stored, err);
    if (!st) {
        const double positions = (double)k.rows * (double)k.each, bytes = (double)kd_store_bytes(k.store);
        json_t *params = k.codec ? json_deep_copy(kd_codec_params(k.codec)) : json_object();
        bench_print(json_pack("{s:s, s:o, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:f, s:o, s:s}", "encoding",
                              p->encoding, "params", params, "classes", (json_int_t)k.width, "rows",
                              (json_int_t)k.rows, "positions", (json_int_t)positions, "bytes",
                              (json_int_t)bytes, "bytes_position", bytes / positions, "column_position",
                              (double)stored / positions, "raw_position", (double)raw / positions,
                              "book_bytes", (json_int_t)k.column[2].book_bytes, "encode_s", k.encode_seconds,
                              "errors", errors, "build", kd_build_info()));
    }
    packer_free(&k);
    return st;
}
