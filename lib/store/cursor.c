/* cursor.c - reads blocks: as they were written, as f32, or in their sparse form.
 *
 * A block travels: pread -> checksum -> zstd -> (scratch -> byte planes) -> the caller's buffer. With
 * the filter "none" zstd writes into the caller's buffer directly. Buffers belong to the cursor and
 * are sized for the largest record at open, so that reading allocates nothing (blocks of ragged and of
 * encoded columns excepted, whose sizes differ).
 *
 * Who asks for lengths, then for values, asks for one block twice: the cursor keeps the block that it
 * decoded for itself, so that it is decoded once. In it the values begin at a multiple of 64 bytes,
 * whatever the lengths before them take.
 *
 * pread and not a map, although a map saves one copy of the compressed bytes (3 % of the time for
 * images, 10 % for f32 logits, measured): with a map a failing disk or a file cut by somebody else is
 * a SIGBUS somewhere in zstd, here it is an error with a sentence; and the memory a process holds
 * does not grow with the store.
 */
#include "store_private.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

struct kd_cursor {
    kd_store *store;
    kd__decoder decoder;
    uint8_t *bytes;    /* of the last record; room for the largest */
    kd__record record; /* the last record checked: its size was asked for and it is read next */
    int column;        /* of it; -1: none */
    uint32_t chunk;
    uint8_t *room, *block; /* the block kept; block: where it begins in room */
    size_t room_size, block_size;
    int block_column; /* -1: none */
    uint32_t block_chunk;
    kd_codec **codec; /* per column, opened when it is needed */
};

kd_status kd_cursor_open(kd_cursor **out, kd_store *s, kd_err *err)
{
    kd_cursor *c = calloc(1, sizeof(*c));
    kd_status st;
    size_t scratch = 0, largest = 0, unit, bytes;
    *out = NULL;
    if (!c) return kd_fail(err, KD_ENOMEM, "out of memory");
    c->store = s;
    c->column = c->block_column = -1;
    for (uint32_t i = 0; i < s->ncolumns; i++) {
        const kd_column *k = &s->columns[i];
        if (kd__filter_code(k->filter) == KD__FILTER_NONE || kd__column_ragged(k)) continue;
        uint32_t rows = s->rows < s->chunk_rows ? (uint32_t)s->rows : s->chunk_rows;
        if (kd__column_unit(k, &unit) && kd_mul_size(rows, unit, &bytes) && bytes <= KD_STORE_MAX_RAW)
            scratch = kd_max_size(scratch, bytes);
    }
    for (uint32_t i = 0; i < s->nsegments; i++) {
        const kd__index *x = &s->segments[i].index;
        for (uint64_t k = 0; k < x->entries; k++) largest = kd_max_size(largest, x->size[k]);
    }
    // malloc, because pages of it that no record reaches are never touched.
    if (!(c->bytes = malloc(largest)) || !(c->codec = calloc(s->ncolumns, sizeof(*c->codec))))
        st = kd_fail(err, KD_ENOMEM, "out of memory for a record of %zu bytes", largest);
    else if (!(st = kd__decoder_init(&c->decoder, false, err)))
        st = kd__decoder_reserve(&c->decoder, scratch, err);
    if (st) {
        kd_cursor_close(c);
        return st;
    }
    *out = c;
    return KD_OK;
}

void kd_cursor_close(kd_cursor *c)
{
    if (!c) return;
    for (uint32_t i = 0; c->codec && i < c->store->ncolumns; i++) kd_codec_close(c->codec[i]);
    kd__decoder_release(&c->decoder);
    free(c->codec);
    free(c->room);
    free(c->bytes);
    free(c);
}

/* Puts "STORE: column C, chunk N, rows a-b: " before the message. */
static kd_status fail_record(const kd_store *s, int column, uint32_t chunk, kd_status st, kd_err *err)
{
    const kd_chunk_info *i = &s->chunks[chunk];
    kd_fail_in(err, st, "%s: column %s, chunk %u, rows %llu-%llu", s->path, s->columns[column].name, chunk,
               (unsigned long long)i->first, (unsigned long long)(i->first + i->rows - 1));
    return st;
}

static kd_status check_place(const kd_cursor *c, int column, uint32_t chunk, kd_err *err)
{
    const kd_store *s = c->store;
    if (column >= 0 && (uint32_t)column < s->ncolumns && chunk < s->nchunks) return KD_OK;
    return kd_fail(err, KD_EUSAGE, "%s: column %d, chunk %u asked for, there are %u and %u", s->path, column,
                   chunk, s->ncolumns, s->nchunks);
}

/* Reads and checks one record into the cursor. */
static kd_status find(kd_cursor *c, int column, uint32_t chunk, kd_err *err)
{
    const kd_store *s = c->store;
    kd_status st = check_place(c, column, chunk, err);
    if (st) return st;
    const kd__segment *g = &s->segments[s->column_segment[column]];
    const kd_column *k = &s->columns[column];
    kd__expect want = {.column = k,
                       .index = (uint32_t)column - g->first_column,
                       .chunk = chunk,
                       .info = s->chunks[chunk],
                       .tag = g->tag};
    uint64_t entry = kd__entry(g->columns, chunk, want.index);
    if (c->column == column && c->chunk == chunk) return KD_OK;
    c->column = -1;
    if (!kd__encoding_code(k->encoding) || kd__filter_code(k->filter) == KD__FILTER_UNKNOWN)
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: column %s: encoding '%s' with filter '%s' is not known to kd %s", s->path,
                       k->name, k->encoding, k->filter, KD_VERSION);
    st = kd__pread(g->fd, c->bytes, g->index.size[entry], g->index.offset[entry], err);
    if (!st) st = kd__record_check(&c->record, c->bytes, g->index.size[entry], &want, err);
    if (st) return fail_record(s, column, chunk, st, err);
    c->column = column;
    c->chunk = chunk;
    return KD_OK;
}

static bool kept(const kd_cursor *c, int column, uint32_t chunk)
{
    return c->block_column >= 0 && c->block_column == column && c->block_chunk == chunk;
}

kd_status kd_cursor_size(kd_cursor *c, int column, uint32_t chunk, size_t *size, kd_err *err)
{
    if (kept(c, column, chunk)) {
        *size = c->block_size;
        return KD_OK;
    }
    kd_status st = find(c, column, chunk, err);
    if (!st) *size = (size_t)c->record.raw;
    return st;
}

/* Decodes the record that was found. */
static kd_status decode(kd_cursor *c, uint8_t *out, kd_err *err)
{
    kd_store *s = c->store;
    const int column = c->column;
    kd_status st =
        kd__record_decode(&c->record, c->bytes + KD__RECORD_HEAD, &s->columns[column], out, &c->decoder, err);
    c->column = -1; // the next read checks again
    if (st) return fail_record(s, column, c->chunk, st, err);
    atomic_fetch_add_explicit(&s->reads[column], 1, memory_order_relaxed);
    return KD_OK;
}

kd_status kd_cursor_read(kd_cursor *c, int column, uint32_t chunk, void *out, size_t size, kd_err *err)
{
    size_t have = 0;
    kd_status st = kd_cursor_size(c, column, chunk, &have, err);
    if (st) return st;
    if (size != have)
        return kd_fail(err, KD_EUSAGE, "%s: column %s, chunk %u: buffer of %zu bytes for a block of %zu",
                       c->store->path, c->store->columns[column].name, chunk, size, have);
    if (!kept(c, column, chunk)) return decode(c, out, err);
    if (size) memcpy(out, c->block, size);
    return KD_OK;
}

/* ---- blocks that the cursor keeps --------------------------------------------------------- */

/* Bytes of lengths before the values of a block. */
static size_t head_bytes(const kd_cursor *c, int column, uint32_t chunk)
{
    return kd__column_ragged(&c->store->columns[column]) ? 4 * (size_t)c->store->chunks[chunk].rows : 0;
}

static kd_status keep(kd_cursor *c, int column, uint32_t chunk, kd_err *err)
{
    size_t size = 0;
    kd_status st;
    if (kept(c, column, chunk)) return KD_OK;
    c->block_column = -1;
    if ((st = kd_cursor_size(c, column, chunk, &size, err))) return st;
    const size_t skip = (ALIGN - head_bytes(c, column, chunk) % ALIGN) % ALIGN;
    if (size + ALIGN > c->room_size) {
        free(c->room);
        c->room_size = 0;
        if (!(c->room = kd_alloc_aligned(size + ALIGN, 1)))
            return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu bytes", size);
        c->room_size = size + ALIGN;
    }
    c->block = c->room + skip;
    c->block_size = size;
    if ((st = decode(c, c->block, err))) return st;
    c->block_column = column;
    c->block_chunk = chunk;
    return KD_OK;
}

/* Makes sure that a block is kept where its positions must be known; *positions receives them. */
static kd_status count(kd_cursor *c, int column, uint32_t chunk, size_t *positions, kd_err *err)
{
    kd_status st = check_place(c, column, chunk, err);
    if (st) return st;
    const kd_column *k = &c->store->columns[column];
    const uint32_t rows = c->store->chunks[chunk].rows;
    if (kd__column_ragged(k) && (st = keep(c, column, chunk, err))) return st;
    if (kd__column_positions(k, rows, c->block, positions)) return KD_OK;
    st = kd_fail(err, KD_ECORRUPT, "more positions than a block may hold");
    return fail_record(c->store, column, chunk, st, err);
}

kd_status kd_cursor_lengths(kd_cursor *c, int column, uint32_t chunk, uint32_t *lengths, size_t *positions,
                            kd_err *err)
{
    kd_status st = count(c, column, chunk, positions, err);
    if (st || !lengths) return st;
    const uint32_t rows = c->store->chunks[chunk].rows;
    if (kd__column_ragged(&c->store->columns[column]))
        memcpy(lengths, c->block, 4 * (size_t)rows);
    else
        for (uint32_t i = 0; i < rows; i++) lengths[i] = 1;
    return KD_OK;
}

static kd_status open_codec(kd_cursor *c, int column, kd_err *err)
{
    if (c->codec[column]) return KD_OK;
    kd_status st = kd_column_codec(&c->codec[column], &c->store->columns[column], err);
    return st ? kd_fail_in(err, st, "%s", c->store->path) : KD_OK;
}

kd_status kd_cursor_read_f32(kd_cursor *c, int column, uint32_t chunk, float *out, size_t positions,
                             kd_err *err)
{
    size_t have = 0, n;
    kd_status st = count(c, column, chunk, &have, err);
    if (st) return st;
    const kd_column *k = &c->store->columns[column];
    if (have != positions || !kd_mul_size(positions, kd_column_width(k), &n))
        return kd_fail(err, KD_EUSAGE, "%s: column %s, chunk %u: room for %zu positions, there are %zu",
                       c->store->path, k->name, chunk, positions, have);
    const bool dense = kd__column_dense(k);
    if (!dense && (st = open_codec(c, column, err))) return st;
    if (!dense && kd_codec_describe(c->codec[column])->sparse)
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: column %s: encoding %s keeps few classes; it has no dense form", c->store->path,
                       k->name, k->encoding);
    if (k->dtype == KD_F32 && dense && !kd__column_ragged(k) && !kept(c, column, chunk))
        return kd_cursor_read(c, column, chunk, out, n * sizeof(float), err);
    if ((st = keep(c, column, chunk, err))) return st;
    const size_t head = head_bytes(c, column, chunk);
    if (dense) return kd_to_f32(out, c->block + head, k->dtype, n);
    st = kd_codec_decode(c->codec[column], c->block + head, c->block_size - head, positions, out, err);
    return st ? fail_record(c->store, column, chunk, st, err) : KD_OK;
}

kd_status kd_cursor_read_sparse(kd_cursor *c, int column, uint32_t chunk, kd_sparse *out, kd_err *err)
{
    size_t positions = 0;
    kd_status st = check_place(c, column, chunk, err);
    if (st) return st;
    const kd_column *k = &c->store->columns[column];
    if (kd__column_dense(k))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: column %s is dense; it has no sparse form", c->store->path,
                       k->name);
    if ((st = open_codec(c, column, err))) return st;
    if (!kd_codec_describe(c->codec[column])->sparse)
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: column %s: encoding %s keeps all classes; it has no sparse form", c->store->path,
                       k->name, k->encoding);
    if ((st = keep(c, column, chunk, err)) || (st = count(c, column, chunk, &positions, err))) return st;
    const size_t head = head_bytes(c, column, chunk);
    st = kd_codec_sparse(c->codec[column], c->block + head, c->block_size - head, positions, out, err);
    return st ? fail_record(c->store, column, chunk, st, err) : KD_OK;
}
