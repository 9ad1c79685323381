/* store_reader.c - sealed stores: open, look up.
 *
 * Opening checks what is cheap for every segment: the manifest's checksum and limits, file sizes,
 * both meta pages, the tree of branch and leaf pages, the header record, codebooks. Reading (cursor.c)
 * checks the rest, record by record. After that no number from the file is used that was not compared
 * with one from the manifest.
 */
#include "store_private.h"

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
        uint64_t entry = kd__entry(g->columns, i, (uint32_t)column - g->first_column);
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
