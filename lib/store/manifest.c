/* manifest.c - manifest.json: read, checked, and written whole.
 *
 * The manifest is the store: what it does not name does not exist, and it is only ever replaced by
 * rename. Its members are described in docs/store-format.md.
 *
 * A flipped bit in a segment is found by its record's checksum; a flipped bit here (a scale in
 * `params`, a class name) would change what the numbers mean. So the last member is a checksum over
 * the file's text, in which its own 32 digits count as zeros: any language can check it without
 * agreeing on a canonical form of JSON.
 *
 * Sizes are bounded before memory is taken for them: a chunk table cannot announce more records than
 * its segments have bytes for, a long one no more than their files have.
 */
#include "store_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CHECKSUM_KEY "\"checksum\": \""

char *kd__store_path(const char *path)
{
    char *p = kd_strdup(path);
    size_t n = p ? strlen(p) : 0;
    while (n > 1 && p[n - 1] == '/') p[--n] = '\0';
    return p;
}

void kd__store_free(kd_store *s)
{
    if (!s) return;
    for (uint32_t i = 0; i < s->nsegments; i++) kd__segment_close(&s->segments[i]);
    for (uint32_t i = 0; i < s->ncolumns; i++) {
        json_decref(s->columns[i].params);
        free((void *)(uintptr_t)s->columns[i].book);
    }
    free(s->segments);
    free(s->columns);
    free(s->column_segment);
    free(s->book_sums);
    free(s->chunks);
    free(s->reads);
    json_decref(s->manifest);
    free(s->path);
    free(s);
}

/* ---- checksum ----------------------------------------------------------------------------- */

/* Where the 32 digits are; NULL if there are none. */
static char *checksum_digits(char *text, size_t len)
{
    char *at = NULL;
    for (char *p = text; (p = memmem(p, (size_t)(text + len - p), CHECKSUM_KEY, strlen(CHECKSUM_KEY))); p++)
        at = p;
    if (!at || (size_t)(text + len - at) < strlen(CHECKSUM_KEY) + 33) return NULL;
    return at + strlen(CHECKSUM_KEY);
}

static kd_status check_text(char *text, size_t len, const char *path, kd_err *err)
{
    char found[33] = "", want[33], *digits = checksum_digits(text, len);
    if (!digits) return kd_fail(err, KD_ECORRUPT, "%s: no checksum at its end: the file is incomplete", path);
    memcpy(found, digits, 32);
    memset(digits, '0', 32);
    kd_id_hex(kd_hash128(text, len), want);
    memcpy(digits, found, 32);
    if (strcmp(found, want))
        return kd_fail(err, KD_ECORRUPT, "%s: checksum %.32s, its text has %s: damaged or edited by hand",
                       path, found, want);
    return KD_OK;
}

/* ---- reading ------------------------------------------------------------------------------ */

enum { FREE_CHUNKS = 1 << 20 }; /* believed without a look at the files */

/* Bytes that the segments' files have, whatever the manifest says. */
static uint64_t bytes_there(const kd_store *s)
{
    uint64_t bytes = 0;
    struct stat sb;
    for (uint32_t i = 0; i < s->nsegments; i++) {
        char *path = kd_path_join(s->path, s->segments[i].file);
        if (path && !stat(path, &sb) && S_ISREG(sb.st_mode)) bytes += (uint64_t)sb.st_size;
        free(path);
    }
    return bytes;
}

static kd_status load_chunks(kd_store *s, const char *path, kd_err *err)
{
    const json_t *runs = json_object_get(s->manifest, "chunks"),
                 *splits = json_object_get(s->manifest, "splits");
    uint64_t budget = s->bytes / (KD__RECORD_HEAD + 16) + 1, n = 0; // each chunk has a record of each column
    int64_t value;
    kd_status st;
    size_t i;
    const json_t *run;
    if (!json_is_array(runs)) return kd_fail(err, KD_ECORRUPT, "%s: 'chunks' is not a list", path);
    for (int pass = 0; pass < 2; pass++) {
        if (pass && n > FREE_CHUNKS && n > bytes_there(s) / (KD__RECORD_HEAD + 16) + 1)
            return kd_fail(err, KD_ECORRUPT, "%s: %llu chunks, more than its files can hold", path,
                           (unsigned long long)n);
        if (pass && !(s->chunks = calloc(n ? n : 1, sizeof(*s->chunks))))
            return kd_fail(err, KD_ENOMEM, "out of memory");
        json_array_foreach(runs, i, run)
        {
            const char *split;
            int64_t rows, count;
            if ((st = kd_json_str(run, "split", &split, path, err)) ||
                (st = kd_json_int(run, "rows", 1, s->chunk_rows, &rows, path, err)) ||
                (st = kd_json_int(run, "count", 1, UINT32_MAX - 1, &count, path, err)))
                return st;
            int sp = kd_split_parse(split);
            if (sp < 0) return kd_fail(err, KD_ECORRUPT, "%s: unknown split '%.32s'", path, split);
            if (!pass && ((n += (uint64_t)count) > budget || n >= UINT32_MAX))
                return kd_fail(err, KD_ECORRUPT, "%s: more chunks than its %llu bytes can hold", path,
                               (unsigned long long)s->bytes);
            for (int64_t k = 0; pass && k < count; k++) {
                s->chunks[s->nchunks++] =
                    (kd_chunk_info){.first = s->rows, .rows = (uint32_t)rows, .split = (kd_split)sp};
                s->rows += (uint64_t)rows;
                s->split_rows[sp] += (uint64_t)rows;
            }
        }
    }
    if ((st = kd_json_int(s->manifest, "rows", 0, (int64_t)KD__ROWS_MAX, &value, path, err))) return st;
    if ((uint64_t)value != s->rows)
        return kd_fail(err, KD_ECORRUPT, "%s: %lld rows, its chunks add up to %llu", path, (long long)value,
                       (unsigned long long)s->rows);
    for (int k = 0; k < KD_SPLITS; k++) {
        if ((st = kd_json_int(splits, kd_split_name((kd_split)k), 0, (int64_t)KD__ROWS_MAX, &value, path,
                              err)))
            return st;
        if ((uint64_t)value != s->split_rows[k])
            return kd_fail(err, KD_ECORRUPT, "%s: %lld rows of split %s, its chunks add up to %llu", path,
                           (long long)value, kd_split_name((kd_split)k),
                           (unsigned long long)s->split_rows[k]);
    }
    return KD_OK;
}

static kd_status load_columns(kd_store *s, kd__segment *g, const char *path, kd_err *err)
{
    const json_t *list = json_object_get(g->entry, "columns"), *item;
    size_t i, books = 0;
    kd_status st;
    g->first_column = s->ncolumns;
    json_array_foreach(list, i, item)
    {
        kd_column *c = &s->columns[s->ncolumns];
        if ((st = kd__column_from_json(c, &s->book_sums[s->ncolumns], item, path, err))) return st;
        s->column_segment[s->ncolumns++] = (uint32_t)(g - s->segments);
        memcpy(c->segment, g->name, sizeof(c->segment));
        if (kd_store_find(s, c->name) != (int)s->ncolumns - 1)
            return kd_fail(err, KD_ECORRUPT, "%s: two columns are called '%s'", path, c->name);
        if ((books += c->book_bytes) > KD__BOOKS_MAX)
            return kd_fail(err, KD_ECORRUPT, "%s: segment %s has codebooks of more than %u bytes", path,
                           g->name, KD__BOOKS_MAX);
    }
    g->columns = s->ncolumns - g->first_column;
    return KD_OK;
}

static kd_status load_segment(kd_store *s, kd__segment *g, const json_t *entry, const char *path, kd_err *err)
{
    const char *name, *file, *root, *tag;
    int64_t bytes;
    kd_status st;
    char *end;
    g->fd = -1;
    g->entry = entry;
    if ((st = kd_json_str(entry, "name", &name, path, err)) ||
        (st = kd_json_str(entry, "file", &file, path, err)) ||
        (st = kd_json_str(entry, "root", &root, path, err)) ||
        (st = kd_json_str(entry, "header", &tag, path, err)) ||
        (st = kd_json_int(entry, "bytes", 1, INT64_MAX / KD__SEGMENTS_MAX, &bytes, path, err)))
        return st;
    if (!kd__segment_name_ok(name) || file[0] == '.' || strchr(file, '/') ||
        strlen(file) >= sizeof(g->file) || !file[0])
        return kd_fail(err, KD_ECORRUPT, "%s: segment name '%.64s' or its file name '%.80s' is not allowed",
                       path, name, file);
    memcpy(g->name, name, strlen(name) + 1);
    memcpy(g->file, file, strlen(file) + 1);
    g->bytes = (uint64_t)bytes;
    g->tag = strtoull(tag, &end, 16);
    if (!kd_id_parse(root, &g->root) || strlen(tag) != 16 || *end)
        return kd_fail(err, KD_ECORRUPT, "%s: segment %s: 'root' or 'header' is not a hash", path, name);
    for (kd__segment *o = s->segments; o < g; o++)
        if (!strcmp(o->name, g->name) || !strcmp(o->file, g->file))
            return kd_fail(err, KD_ECORRUPT, "%s: two segments are called '%s' or use %s", path, name, file);
    s->bytes += g->bytes;
    return load_columns(s, g, path, err);
}

static void root_of_segments(const kd_store *s, char hex[33])
{
    uint8_t roots[KD__SEGMENTS_MAX * 16];
    for (uint32_t i = 0; i < s->nsegments; i++) memcpy(roots + 16 * (size_t)i, s->segments[i].root.b, 16);
    kd_id_hex(kd_hash128(roots, 16 * (size_t)s->nsegments), hex);
}

static kd_status load_segments(kd_store *s, const char *path, kd_err *err)
{
    const json_t *list = json_object_get(s->manifest, "segments"), *entry;
    const char *root;
    size_t n = json_array_size(list), columns = 0, i;
    kd_status st;
    json_array_foreach(list, i, entry) columns += json_array_size(json_object_get(entry, "columns"));
    if (!n || n > KD__SEGMENTS_MAX || !columns || columns > KD_STORE_MAX_COLUMNS)
        return kd_fail(err, KD_ECORRUPT, "%s: %zu segments with %zu columns, allowed are 1 to %d and 1 to %d",
                       path, n, columns, KD__SEGMENTS_MAX, KD_STORE_MAX_COLUMNS);
    s->segments = calloc(n, sizeof(*s->segments));
    s->columns = calloc(columns, sizeof(*s->columns));
    s->column_segment = calloc(columns, sizeof(*s->column_segment));
    s->book_sums = calloc(columns, sizeof(*s->book_sums));
    s->reads = calloc(columns, sizeof(*s->reads));
    if (!s->segments || !s->columns || !s->column_segment || !s->book_sums || !s->reads)
        return kd_fail(err, KD_ENOMEM, "out of memory");
    json_array_foreach(list, i, entry)
    {
        s->segments[i].fd = -1;
        s->nsegments = (uint32_t)i + 1;
        if ((st = load_segment(s, &s->segments[i], entry, path, err))) return st;
    }
    root_of_segments(s, s->root);
    if ((st = kd_json_str(s->manifest, "root", &root, path, err))) return st;
    if (strcmp(root, s->root))
        return kd_fail(err, KD_ECORRUPT, "%s: root %.32s, its segments give %s", path, root, s->root);
    return KD_OK;
}

static kd_status parse(kd_store *s, const char *path, kd_err *err)
{
    char *text = NULL;
    size_t len = 0;
    json_error_t at;
    int64_t format, chunk_rows;
    kd_status st = kd_file_read(path, KD__MANIFEST_MAX, &text, &len, err);
    if (st) return st;
    if ((st = kd_json_parse(&s->manifest, text, len, &at))) {
        st = st == KD_ENOMEM ? kd_fail(err, st, "%s: no memory to parse it", path)
                             : kd_fail(err, st, "%s:%d:%d: %s", path, at.line, at.column, at.text);
        goto out;
    }
    // The version first: another version may compute its checksum in another way.
    if ((st = kd_json_int(s->manifest, "format", 0, INT32_MAX, &format, path, err))) goto out;
    if (format != KD_STORE_FORMAT) {
        st = kd_fail(err, KD_EMISMATCH, "%s: store format %lld, this is kd %s and reads format %d", path,
                     (long long)format, KD_VERSION, KD_STORE_FORMAT);
        goto out;
    }
    if ((st = check_text(text, len, path, err))) goto out;
    if ((st = kd_json_int(s->manifest, "chunk_rows", 1, KD_STORE_MAX_CHUNK_ROWS, &chunk_rows, path, err)))
        goto out;
    s->chunk_rows = (uint32_t)chunk_rows;
    if ((st = load_segments(s, path, err))) goto out;
    if ((st = load_chunks(s, path, err))) goto out;
    for (uint32_t i = 0; i < s->nsegments && !st; i++) {
        const kd__segment *g = &s->segments[i];
        if ((uint64_t)s->nchunks * g->columns > g->bytes / KD__RECORD_HEAD)
            st = kd_fail(err, KD_ECORRUPT, "%s: segment %s cannot hold %u chunks of %u columns in %llu bytes",
                         path, g->name, s->nchunks, g->columns, (unsigned long long)g->bytes);
    }
out:
    free(text);
    return st;
}

kd_status kd__manifest_load(kd_store **out, const char *path, kd_err *err)
{
    kd_store *s = calloc(1, sizeof(*s));
    char *file = NULL, *part = NULL;
    kd_status st = KD_OK;
    *out = NULL;
    if (!s || !(s->path = kd__store_path(path)) || !(file = kd_path_join(s->path, "manifest.json")) ||
        !(part = kd_sprintf("%s.part", s->path))) {
        st = kd_fail(err, KD_ENOMEM, "out of memory");
    } else if (!kd_exists(s->path)) {
        if (kd_is_dir(part))
            st = kd_fail(err, KD_ENOTFOUND,
                         "%s: not there, but %s is: it was never finished; go on with --resume", s->path,
                         part);
        else
            st = kd_fail(err, KD_ENOTFOUND, "%s: no such store", s->path);
    } else if (!kd_exists(file)) {
        st = kd_fail(err, KD_ENOTFOUND, "%s: not a store: it holds no manifest.json", s->path);
    } else {
        st = parse(s, file, err);
    }
    free(file);
    free(part);
    if (st)
        kd__store_free(s);
    else
        *out = s;
    return st;
}

/* ---- writing ------------------------------------------------------------------------------ */

json_t *kd__chunks_to_json(const kd_chunk_info *chunks, uint32_t n)
{
    json_t *runs = json_array();
    for (uint32_t i = 0, run; runs && i < n; i += run) {
        for (run = 1; i + run < n && chunks[i + run].rows == chunks[i].rows &&
                      chunks[i + run].split == chunks[i].split;)
            run++;
        json_t *o = json_pack("{s:s, s:i, s:I}", "split", kd_split_name(chunks[i].split), "rows",
                              (int)chunks[i].rows, "count", (json_int_t)run);
        if (json_array_append_new(runs, o)) {
            json_decref(runs);
            return NULL;
        }
    }
    return runs;
}

/* The members that follow from "segments". */
static kd_status derive(json_t *m, kd_err *err)
{
    uint8_t roots[KD__SEGMENTS_MAX * 16];
    char hex[33];
    size_t i, n = 0;
    json_int_t bytes = 0;
    const json_t *entry;
    json_array_foreach(json_object_get(m, "segments"), i, entry)
    {
        kd_id id;
        if (n == KD__SEGMENTS_MAX)
            return kd_fail(err, KD_ELIMIT, "a store has at most %d segments", KD__SEGMENTS_MAX);
        if (!kd_id_parse(json_string_value(json_object_get(entry, "root")), &id))
            return kd_fail(err, KD_ECORRUPT, "a segment's root is not a hash");
        memcpy(roots + 16 * n++, id.b, 16);
        bytes += json_integer_value(json_object_get(entry, "bytes"));
    }
    kd_id_hex(kd_hash128(roots, 16 * n), hex);
    json_object_del(m, "bytes");
    json_object_del(m, "root");
    json_object_del(m, "checksum");
    if (json_object_set_new(m, "bytes", json_integer(bytes)) ||
        json_object_set_new(m, "root", json_string(hex)) ||
        json_object_set_new(m, "checksum", json_string("00000000000000000000000000000000")))
        return kd_fail(err, KD_ENOMEM, "out of memory");
    return KD_OK;
}

kd_status kd__manifest_save(json_t *m, const char *folder, kd_err *err)
{
    char *path = kd_path_join(folder, "manifest.json"), *text = NULL, *line = NULL, *digits, hex[33];
    size_t len;
    kd_status st = path ? derive(m, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (st) goto out;
    if (!(text = kd_json_text(m, JSON_INDENT(2))) || !(line = kd_sprintf("%s\n", text))) {
        st = kd_fail(err, KD_ENOMEM, "out of memory");
        goto out;
    }
    len = strlen(line);
    if (len > KD__MANIFEST_MAX || !(digits = checksum_digits(line, len))) {
        st = kd_fail(err, KD_ELIMIT, "%s would have %zu bytes, the limit is %u", path, len, KD__MANIFEST_MAX);
        goto out;
    }
    kd_id_hex(kd_hash128(line, len), hex);
    memcpy(digits, hex, 32);
    st = kd_file_write(path, line, len, err);
out:
    free(text);
    free(line);
    free(path);
    return st;
}
