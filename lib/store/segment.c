/* segment.c - one sealed LMDB file, opened for reading without LMDB.
 *
 * A segment is dense: chunk by chunk, column by column, every key from the first to the last. So
 * the B-tree is walked once when the store is opened (pagewalk.c, branch and leaf pages only, about
 * one page in 150 records) and becomes a table of offsets; a read is then a look-up and one pread.
 * Nothing read later can lead outside of the file, whatever it holds.
 *
 * Key (0, 0) is the segment's header record, (0, 1 + i) the codebook of column i where it has one; the data
 * of chunk c, column i has the key (c + 1, i).
 */
#include "store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- index -------------------------------------------------------------------------------- */

bool kd__entry_used(const kd_column *columns, uint32_t n, uint64_t entry)
{
    return entry == 0 || entry > n || columns[entry - 1].book_bytes;
}

uint64_t kd__records(const kd_column *columns, uint32_t n, uint32_t chunks)
{
    uint64_t records = 1 + (uint64_t)chunks * n;
    for (uint32_t i = 0; i < n; i++) records += columns[i].book_bytes != 0;
    return records;
}

kd_status kd__index_alloc(kd__index *x, uint32_t columns, uint32_t chunks, kd_err *err)
{
    memset(x, 0, sizeof(*x));
    x->entries = kd__entry(columns, chunks, 0);
    x->offset = calloc(x->entries, sizeof(*x->offset));
    x->size = calloc(x->entries, sizeof(*x->size));
    x->columns = columns;
    if (!x->offset || !x->size) {
        kd__index_release(x);
        return kd_fail(err, KD_ENOMEM, "out of memory for an index of %u chunks", chunks);
    }
    return KD_OK;
}

void kd__index_release(kd__index *x)
{
    free(x->offset);
    free(x->size);
    memset(x, 0, sizeof(*x));
}

kd_status kd__index_put(kd__index *x, const kd__node *n, kd_err *err)
{
    uint32_t chunk, column;
    memcpy(&chunk, n->key, 4);
    memcpy(&column, n->key + 4, 4);
    chunk = __builtin_bswap32(chunk);
    column = __builtin_bswap32(column);
    // In the first group the header comes before the columns.
    uint64_t entry = chunk ? kd__entry(x->columns, chunk - 1, column) : column;
    if (column >= x->columns + !chunk || entry >= x->entries || n->size > UINT32_MAX)
        return kd_fail(err, KD_ECORRUPT, "key (%u, %u) does not belong here", chunk, column);
    x->offset[entry] = n->offset;
    x->size[entry] = (uint32_t)n->size;
    return KD_OK;
}

static kd_status put_node(void *arg, const kd__node *n, kd_err *err) { return kd__index_put(arg, n, err); }

kd_status kd__index_build(kd__index *x, const kd__pages *p, const kd_column *columns, uint32_t n,
                          uint32_t chunks, bool whole, kd_err *err)
{
    const uint64_t records = kd__records(columns, n, chunks);
    if (p->main_db.entries != records)
        return kd_fail(err, KD_ECORRUPT, "%llu records, expected %llu",
                       (unsigned long long)p->main_db.entries, (unsigned long long)records);
    kd_status st = kd__index_alloc(x, n, chunks, err);
    if (st) return st;
    // Rising keys, each in range, as many as there are places: so all of them are there.
    kd__walk w = {.pages = p, .db = &p->main_db, .node = put_node, .arg = x};
    st = whole ? kd__walk_file(p, put_node, NULL, x, err) : kd__walk_run(&w, err);
    for (uint64_t i = 0; i <= n && !st; i++)
        if (kd__entry_used(columns, n, i) != (x->offset[i] != 0))
            st = kd_fail(err, KD_ECORRUPT, "key (0, %llu): a header record or a codebook %s",
                         (unsigned long long)i, x->offset[i] ? "too many" : "is missing");
    if (st) kd__index_release(x);
    return st;
}

/* ---- header record ------------------------------------------------------------------------ */

char *kd__segment_header_text(const char *name, const kd_column *columns, const uint64_t *book_sums, size_t n,
                              const json_t *contract, uint32_t chunk_rows, const char *of)
{
    json_t *list = json_array(), *o = NULL;
    char *text = NULL;
    if (!list) return NULL;
    for (size_t i = 0; i < n; i++)
        if (json_array_append_new(list, kd__column_to_json(&columns[i], book_sums[i]))) goto out;
    o = json_pack("{s:i, s:s, s:O, s:O?, s:I, s:s}", "format", KD_STORE_FORMAT, "segment", name, "columns",
                  list, "contract", contract, "chunk_rows", (json_int_t)chunk_rows, "of", of);
    // Sorted and compact: the same contract gives the same bytes, so the same root hash.
    if (o) text = kd_json_text(o, JSON_COMPACT | JSON_SORT_KEYS);
out:
    json_decref(o);
    json_decref(list);
    return text;
}

kd_status kd__header_read(int fd, uint64_t offset, uint64_t size, char **text, size_t *len,
                          uint64_t *checksum, kd_err *err)
{
    if (size > KD__HEADER_MAX)
        return kd_fail(err, KD_ECORRUPT, "a header record of %llu bytes", (unsigned long long)size);
    uint8_t *bytes = malloc(size + 1);
    if (!bytes) return kd_fail(err, KD_ENOMEM, "out of memory");
    kd_status st = kd__pread(fd, bytes, size, offset, err);
    if (!st) st = kd__record_open_header(bytes, size, text, len, checksum, err);
    free(bytes);
    return st;
}

kd_status kd__book_read(int fd, const kd__index *x, uint32_t i, const kd_column *c, uint64_t sum,
                        uint8_t **book, kd_err *err)
{
    const size_t size = x->size[1 + i];
    uint8_t *record = NULL, *out = NULL;
    kd_status st;
    *book = NULL;
    if (size > KD__RECORD_HEAD + c->book_bytes) { // a payload that does not shrink is stored as it is
        st = kd_fail(err, KD_ECORRUPT, "a record of %zu bytes for a codebook of %zu", size, c->book_bytes);
    } else if (!(record = malloc(size + 1)) || !(out = malloc(c->book_bytes))) {
        st = kd_fail(err, KD_ENOMEM, "out of memory for a codebook of %zu bytes", c->book_bytes);
    } else if (!(st = kd__pread(fd, record, size, x->offset[1 + i], err)) &&
               !(st = kd__record_open_book(record, size, c, i, sum, out, err))) {
        *book = out;
        out = NULL;
    }
    free(record);
    free(out);
    return st ? kd_fail_in(err, st, "column %s, codebook", c->name) : KD_OK;
}

kd_status kd__segment_check_header(const kd__segment *g, const kd_store *s, const char *text, size_t len,
                                   uint64_t checksum, kd_err *err)
{
    json_t *o;
    kd_status st = kd_json_parse(&o, text, len, NULL);
    const json_t *columns = json_object_get(o, "columns"), *name = json_object_get(o, "segment");
    if (st == KD_ENOMEM)
        kd_fail(err, st, "out of memory for its header record");
    else if (!json_equal(columns, json_object_get(g->entry, "columns")) || !json_is_string(name) ||
             strcmp(json_string_value(name), g->name))
        st = kd_fail(err, KD_ECORRUPT, "its header record describes other columns than manifest.json");
    else if (checksum != g->tag || json_integer_value(json_object_get(o, "chunk_rows")) != s->chunk_rows)
        st = kd_fail(err, KD_EMISMATCH,
                     "it is not the file that manifest.json names (header %016llx, expected %016llx)",
                     (unsigned long long)checksum, (unsigned long long)g->tag);
    json_decref(o);
    return st;
}

/* ---- open --------------------------------------------------------------------------------- */

static kd_status load_books(kd__segment *g, kd_store *s, kd_err *err)
{
    kd_status st = KD_OK;
    for (uint32_t i = 0; i < g->columns && !st; i++) {
        kd_column *c = &s->columns[g->first_column + i];
        uint8_t *book;
        if (!c->book_bytes) continue;
        st = kd__book_read(g->fd, &g->index, i, c, s->book_sums[g->first_column + i], &book, err);
        c->book = book;
    }
    return st;
}

static kd_status check_file(kd__segment *g, kd_store *s, kd_err *err)
{
    kd__pages pages;
    kd_status st;
    char *text = NULL;
    size_t len = 0;
    uint64_t sum = 0;
    struct stat sb;
    if (fstat(g->fd, &sb)) return kd_fail_errno(err, errno, "reading its size");
    if (!S_ISREG(sb.st_mode) || (uint64_t)sb.st_size != g->bytes)
        return kd_fail(err, KD_ECORRUPT, "%lld bytes, manifest.json says %llu", (long long)sb.st_size,
                       (unsigned long long)g->bytes);
    if ((st = kd__pages_open(&pages, g->fd, err))) return st;
    if ((st = kd__index_build(&g->index, &pages, &s->columns[g->first_column], g->columns, s->nchunks, false,
                              err)))
        return st;
    st = kd__header_read(g->fd, g->index.offset[0], g->index.size[0], &text, &len, &sum, err);
    if (!st) st = kd__segment_check_header(g, s, text, len, sum, err);
    if (!st) st = load_books(g, s, err);
    free(text);
    return st;
}

kd_status kd__segment_open(kd__segment *g, kd_store *s, kd_err *err)
{
    char *path = kd_path_join(s->path, g->file);
    kd_status st;
    if (!path) return kd_fail(err, KD_ENOMEM, "out of memory");
    g->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (g->fd < 0) {
        int e = errno;
        st = kd_fail_errno(err, e, "%s: segment '%s' of the store cannot be opened", path, g->name);
    } else if ((st = check_file(g, s, err))) {
        kd_fail_in(err, st, "%s", path);
        if (err && st == KD_ECORRUPT && strlen(err->msg) + 64 < sizeof(err->msg))
            strcat(err->msg, "; kd-store verify tells what is left");
    }
    free(path);
    return st;
}

void kd__segment_close(kd__segment *g)
{
    if (g->fd >= 0) close(g->fd);
    g->fd = -1;
    kd__index_release(&g->index);
}
