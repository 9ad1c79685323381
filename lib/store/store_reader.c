/* store_reader.c - sealed stores: open, look up, read blocks.
 *
 * Opening checks what is cheap for every segment: the manifest's checksum and limits, file sizes,
 * both meta pages, the tree of branch and leaf pages, the header record. Reading checks the rest,
 * record by record. After that no number from the file is used that was not compared with one from
 * the manifest.
 *
 * A block travels: pread -> checksum -> zstd -> (scratch -> byte planes) -> the caller's buffer. With
 * the filter "none" zstd writes into the caller's buffer directly. Buffers belong to the cursor and
 * are sized for the largest record at open, so that reading allocates nothing (blocks of ragged
 * columns excepted, whose sizes differ).
 *
 * pread and not a map, although a map saves one copy of the compressed bytes (3 % of the time for
 * images, 10 % for f32 logits, measured): with a map a failing disk or a file cut by somebody else is
 * a SIGBUS somewhere in zstd, here it is an error with a sentence; and the memory a process holds
 * does not grow with the store.
 */
#include "store_private.h"

#include <stdlib.h>
#include <string.h>

kd_status kd_store_open(kd_store **out, const char *path, kd_err *err)
{
    kd_store *s;
    kd_status st = kd__manifest_load(&s, path, err);
    *out = NULL;
    if (st) return st;
    for (uint32_t i = 0; i < s->nsegments; i++) {
        if ((st = kd__segment_open(&s->segments[i], s, err))) {
            kd__store_free(s);
            return st;
        }
    }
    *out = s;
    return KD_OK;
}

void kd_store_close(kd_store *s) { kd__store_free(s); }
const char *kd_store_path(const kd_store *s) { return s->path; }
uint64_t kd_store_rows(const kd_store *s) { return s->rows; }
uint32_t kd_store_chunks(const kd_store *s) { return s->nchunks; }
uint64_t kd_store_bytes(const kd_store *s) { return s->bytes; }
const char *kd_store_root(const kd_store *s) { return s->root; }
const json_t *kd_store_manifest(const kd_store *s) { return s->manifest; }
size_t kd_store_columns(const kd_store *s) { return s->ncolumns; }

const kd_column *kd_store_column(const kd_store *s, size_t i)
{
    return i < s->ncolumns ? &s->columns[i] : NULL;
}

int kd_store_find(const kd_store *s, const char *name)
{
    for (uint32_t i = 0; i < s->ncolumns; i++)
        if (!strcmp(s->columns[i].name, name)) return (int)i;
    return -1;
}

int kd_store_find_role(const kd_store *s, kd_role role, const char *teacher)
{
    for (uint32_t i = 0; i < s->ncolumns; i++)
        if (s->columns[i].role == role && (!teacher || !strcmp(s->columns[i].teacher, teacher)))
            return (int)i;
    return -1;
}

const kd_chunk_info *kd_store_chunk(const kd_store *s, uint32_t chunk)
{
    return chunk < s->nchunks ? &s->chunks[chunk] : NULL;
}

uint64_t kd_store_split_rows(const kd_store *s, kd_split split)
{
    return (unsigned)split < KD_SPLITS ? s->split_rows[split] : 0;
}

const json_t *kd_store_teacher(const kd_store *s, const char *name)
{
    for (uint32_t i = 0; i < s->nsegments; i++) {
        const json_t *t = json_object_get(s->segments[i].entry, "teacher");
        const char *n = json_string_value(json_object_get(t, "name"));
        if (n && !strcmp(n, name)) return t;
    }
    return NULL;
}

uint64_t kd_store_reads(const kd_store *s, int column)
{
    if (column < 0 || (uint32_t)column >= s->ncolumns) return 0;
    return atomic_load_explicit(&s->reads[column], memory_order_relaxed);
}

kd_status kd_store_column_bytes(const kd_store *s, int column, uint64_t *raw, uint64_t *stored, kd_err *err)
{
    *raw = *stored = 0;
    if (column < 0 || (uint32_t)column >= s->ncolumns)
        return kd_fail(err, KD_EUSAGE, "%s: column %d asked for, there are %u", s->path, column, s->ncolumns);
    const kd__segment *g = &s->segments[s->column_segment[column]];
    for (uint32_t i = 0; i < s->nchunks; i++) {
        uint64_t entry = 1 + (uint64_t)i * g->columns + (uint32_t)column - g->first_column;
        uint8_t head[KD__RECORD_HEAD];
        kd__record r;
        kd_status st = g->index.size[entry] < KD__RECORD_HEAD
                           ? kd_fail(err, KD_ECORRUPT, "a record of %u bytes", g->index.size[entry])
                           : kd__pread(g->fd, head, sizeof(head), g->index.offset[entry], err);
        if (st || (st = kd__record_parse(&r, head, err)))
            return kd_fail_in(err, st, "%s: column %s, chunk %u", s->path, s->columns[column].name, i);
        *raw += r.raw;
        *stored += g->index.size[entry];
    }
    return KD_OK;
}

/* ---- cursor ------------------------------------------------------------------------------- */

struct kd_cursor {
    kd_store *store;
    kd__decoder decoder;
    uint8_t *bytes;    /* of the last record; room for the largest */
    kd__record record; /* the last record checked: its size was asked for and it is read next */
    int column;        /* of it; -1: none */
    uint32_t chunk;
};

kd_status kd_cursor_open(kd_cursor **out, kd_store *s, kd_err *err)
{
    kd_cursor *c = calloc(1, sizeof(*c));
    kd_status st;
    size_t scratch = 0, largest = 0, unit, bytes;
    *out = NULL;
    if (!c) return kd_fail(err, KD_ENOMEM, "out of memory");
    c->store = s;
    c->column = -1;
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
    if (!(c->bytes = malloc(largest)))
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
    kd__decoder_release(&c->decoder);
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

/* Reads and checks one record into the cursor. */
static kd_status find(kd_cursor *c, int column, uint32_t chunk, kd_err *err)
{
    const kd_store *s = c->store;
    if (column < 0 || (uint32_t)column >= s->ncolumns || chunk >= s->nchunks)
        return kd_fail(err, KD_EUSAGE, "%s: column %d, chunk %u asked for, there are %u and %u", s->path,
                       column, chunk, s->ncolumns, s->nchunks);
    const kd__segment *g = &s->segments[s->column_segment[column]];
    const kd_column *k = &s->columns[column];
    kd__expect want = {.column = k,
                       .index = (uint32_t)column - g->first_column,
                       .chunk = chunk,
                       .info = s->chunks[chunk],
                       .tag = g->tag};
    uint64_t entry = 1 + (uint64_t)chunk * g->columns + want.index;
    if (c->column == column && c->chunk == chunk) return KD_OK;
    c->column = -1;
    if (!kd__encoding_code(k->encoding) || kd__filter_code(k->filter) == KD__FILTER_UNKNOWN)
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: column %s: encoding '%s' with filter '%s' is not known to kd %s", s->path,
                       k->name, k->encoding, k->filter, KD_VERSION);
    kd_status st = kd__pread(g->fd, c->bytes, g->index.size[entry], g->index.offset[entry], err);
    if (!st) st = kd__record_check(&c->record, c->bytes, g->index.size[entry], &want, err);
    if (st) return fail_record(s, column, chunk, st, err);
    c->column = column;
    c->chunk = chunk;
    return KD_OK;
}

kd_status kd_cursor_size(kd_cursor *c, int column, uint32_t chunk, size_t *size, kd_err *err)
{
    kd_status st = find(c, column, chunk, err);
    if (!st) *size = (size_t)c->record.raw;
    return st;
}

kd_status kd_cursor_read(kd_cursor *c, int column, uint32_t chunk, void *out, size_t size, kd_err *err)
{
    kd_store *s = c->store;
    kd_status st = find(c, column, chunk, err);
    if (st) return st;
    if (size != c->record.raw)
        return kd_fail(err, KD_EUSAGE, "%s: column %s, chunk %u: buffer of %zu bytes for a block of %llu",
                       s->path, s->columns[column].name, chunk, size, (unsigned long long)c->record.raw);
    st =
        kd__record_decode(&c->record, c->bytes + KD__RECORD_HEAD, &s->columns[column], out, &c->decoder, err);
    c->column = -1; // the next read checks again
    if (st) return fail_record(s, column, chunk, st, err);
    atomic_fetch_add_explicit(&s->reads[column], 1, memory_order_relaxed);
    return KD_OK;
}
