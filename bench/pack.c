/* pack.c - what an encoding makes of real logits: bytes and errors.
 *
 * `kd_bench pack LOGITS.npy STORE ENCODING` writes the logits (rows[, positions], classes) into a store with
 * the encoding (kd_codec_parse; "dense:f16" and the like for numbers as they are), seals it, reads it back,
 * and prints one JSON line. Bytes are those of the sealed files, which are whole LMDB pages: with row ids,
 * splits, index, checksums and the codebook, over the number of positions.
 *
 * Errors are means over the first --judge positions, p being softmax at T = 1 of the logits as they are in
 * the file, q what the encoding kept of it, brought to sum 1:
 *
 *     kl        KL(q || p), which exists for sparse targets too
 *     top1      share of positions whose most probable class is so still (dense) or is among those kept
 * (sparse) tail      p of the classes that are not kept ids       classes kept variance  sum over classes of
 * (w - p)^2 for sampled targets w, over --redraws other seeds bias_z    mean of sum g (w - p) over its
 * standard error, g = +-1 by class: beyond +-4 the draws are biased
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "kd/data.h"

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
    if (!strncmp(k->p->encoding, "dense:", 6)) {
        c[2].dtype = kd_dtype_parse(k->p->encoding + 6);
        return kd_dtype_is_float(c[2].dtype)
                   ? KD_OK
                   : kd_fail(err, KD_EUSAGE, "%s is not a float type", k->p->encoding + 6);
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

typedef struct judge {
    size_t positions;
    double *p, *lp; /* (width) probabilities and their logarithms of the position at hand */
    double kl, top1, tail, ids, variance, mean, square;
    size_t draws;
} judge;

/* softmax and its logarithm; returns the most probable class. */
static size_t softmax(double *p, double *lp, const float *z, size_t n)
{
    size_t best = 0;
    double sum = 0;
    for (size_t i = 1; i < n; i++)
        if (z[i] > z[best]) best = i;
    for (size_t i = 0; i < n; i++) sum += exp((double)z[i] - (double)z[best]);
    for (size_t i = 0; i < n; i++) {
        lp[i] = (double)z[i] - (double)z[best] - log(sum);
        p[i] = exp(lp[i]);
    }
    return best;
}

static double weight(const kd_sparse *s, unsigned serves, uint64_t e)
{
    return serves & KD_SERVES_EXPECTED ? (double)s->value[e] : exp((double)s->value[e]);
}

static void judge_sparse(judge *j, const kd_sparse *s, unsigned serves, size_t i, size_t best)
{
    double sum = 0, kept = 0, kl = 0;
    for (uint64_t e = s->offset[i]; e < s->offset[i + 1]; e++) {
        sum += weight(s, serves, e);
        kept += j->p[s->id[e]];
        j->top1 += s->id[e] == best;
    }
    for (uint64_t e = s->offset[i]; e < s->offset[i + 1]; e++) {
        const double q = weight(s, serves, e) / sum;
        if (q > 0) kl += q * (log(q) - j->lp[s->id[e]]);
    }
    j->kl += kl;
    j->tail += 1 - kept;
    j->ids += (double)(s->offset[i + 1] - s->offset[i]);
}

/* q: room for (2, width). */
static void judge_dense(judge *j, const float *z, double *q, size_t width, size_t best)
{
    j->top1 += softmax(q, q + width, z, width) == best;
    for (size_t c = 0; c < width; c++)
        if (q[c] > 0) j->kl += q[c] * (q[width + c] - j->lp[c]);
    j->ids += (double)width;
}

/* One more draw of position i: distance to p, and a sum whose mean is 0 if nothing is biased. */
static void judge_draw(judge *j, const kd_sparse *s, size_t i, size_t width)
{
    double distance = 0, sum = 0;
    for (size_t c = 0; c < width; c++) {
        distance += j->p[c] * j->p[c];
        sum -= kd_hash64(&c, sizeof c) & 1 ? j->p[c] : -j->p[c];
    }
    for (uint64_t e = s->offset[i]; e < s->offset[i + 1]; e++) {
        const size_t c = s->id[e];
        const double w = (double)s->value[e];
        distance += (w - j->p[c]) * (w - j->p[c]) - j->p[c] * j->p[c];
        sum += kd_hash64(&c, sizeof c) & 1 ? w : -w;
    }
    j->variance += distance;
    j->mean += sum;
    j->square += sum * sum;
    j->draws++;
}

/* Other draws of the rows at hand by the same codec with other seeds. */
static kd_status redraw(packer *k, judge *j, uint32_t rows, size_t positions, kd_err *err)
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
            softmax(j->p, j->lp, k->values + i * k->width, k->width);
            judge_draw(j, &s, i, k->width);
        }
        kd_buf_release(&bytes);
        kd_codec_close(codec);
        json_decref(params);
    }
    kd_sparse_release(&s);
    return st;
}

/* The chunk at hand, as the store gives it back. q: (2, width). */
static kd_status judge_chunk(packer *k, judge *j, kd_cursor *cursor, uint32_t chunk, uint32_t rows,
                             size_t positions, double *q, kd_err *err)
{
    const int column = kd_store_find(k->store, "logits");
    const size_t all = rows * k->each;
    const unsigned serves = k->codec ? kd_codec_describe(k->codec)->serves : KD_SERVES_VALUES;
    const bool sparse = k->codec && kd_codec_describe(k->codec)->sparse;
    float *dense = sparse ? NULL : kd_alloc_aligned(all * k->width, sizeof(float));
    kd_sparse s = {0};
    kd_status st = KD_OK;
    if (sparse)
        st = kd_cursor_read_sparse(cursor, column, chunk, &s, err);
    else
        st = dense ? kd_cursor_read_f32(cursor, column, chunk, dense, all, err)
                   : kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < positions && !st; i++) {
        const size_t best = softmax(j->p, j->lp, k->values + i * k->width, k->width);
        if (sparse)
            judge_sparse(j, &s, serves, i, best);
        else
            judge_dense(j, dense + i * k->width, q, k->width, best);
    }
    j->positions += positions;
    if (!st && (serves & KD_SERVES_EXPECTED) && sparse) st = redraw(k, j, rows, positions, err);
    kd_sparse_release(&s);
    free(dense);
    return st;
}

static kd_status judge_store(packer *k, judge *j, kd_err *err)
{
    kd_cursor *cursor = NULL;
    double *room = kd_alloc_aligned(4 * k->width, sizeof(double));
    kd_status st = room ? kd_cursor_open(&cursor, k->store, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (room) j->p = room, j->lp = room + k->width;
    const size_t most = kd_min_size((size_t)k->p->judge, (size_t)k->rows * k->each);
    for (uint32_t i = 0; !st && j->positions < most; i++) {
        const kd_chunk_info *c = kd_store_chunk(k->store, i);
        if (!(st = read_rows(k, c->first, c->rows, err)))
            st = judge_chunk(k, j, cursor, i, c->rows, kd_min_size(c->rows * k->each, most - j->positions),
                             room + 2 * k->width, err);
    }
    kd_cursor_close(cursor);
    free(room);
    return st;
}

static json_t *errors_json(const judge *j)
{
    const double n = (double)j->positions, m = (double)j->draws, mean = j->mean / m;
    const bool drawn = j->draws > 1;
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:o, s:o}", "judged", (json_int_t)j->positions, "kl",
                     j->kl / n, "top1", j->top1 / n, "tail", j->tail / n, "ids", j->ids / n, "variance",
                     drawn ? json_real(j->variance / m) : json_null(), "bias_z",
                     drawn ? json_real(mean / sqrt((j->square / m - mean * mean) / m)) : json_null());
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
    judge j = {0};
    uint64_t raw, stored;
    kd_status st = open_logits(&k, err);
    if (!st && !(st = write_store(&k, err))) st = kd_store_open(&k.store, p->store, err);
    if (!st) st = judge_store(&k, &j, err);
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
                              "errors", errors_json(&j), "build", kd_build_info()));
    }
    packer_free(&k);
    return st;
}
