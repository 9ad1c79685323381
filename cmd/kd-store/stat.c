/* stat.c - what a store holds. */
#include "store_cmd.h"

/* "28x28x1", "(scalar)", "*x64" for a ragged first axis. */
static void shape_text(const kd_column *c, char *out, size_t size)
{
    size_t n = 0;
    snprintf(out, size, "scalar");
    for (int i = 0; i < c->ndims && n < size; i++)
        n += (size_t)(c->dims[i] < 0
                          ? snprintf(out + n, size - n, "%s*", i ? "x" : "")
                          : snprintf(out + n, size - n, "%s%lld", i ? "x" : "", (long long)c->dims[i]));
}

typedef struct column_size {
    uint64_t raw, stored;
} column_size;

static kd_status print_columns(const kd_store *s, const column_size *sizes, kd_err *err)
{
    static const char *const head[] = {"column",  "role",    "dtype", "shape",  "encoding", "filter",
                                       "segment", "teacher", "raw",   "stored", "ratio",    "bytes/row"};
    kd_table *t = kd_table_create();
    if (!t) return kd_fail(err, KD_ENOMEM, "no memory for the table");
    for (size_t i = 0; i < KD_COUNT(head); i++) kd_table_cell(t, "%s", head[i]);
    kd_table_row(t);
    for (size_t i = 0; i < kd_store_columns(s); i++) {
        const kd_column *c = kd_store_column(s, i);
        char shape[96], raw[32], stored[32];
        shape_text(c, shape, sizeof(shape));
        kd_table_cell(t, "%s", c->name);
        kd_table_cell(t, "%s", kd_role_name(c->role));
        kd_table_cell(t, "%s", kd_dtype_name(c->dtype));
        kd_table_cell(t, "%s", shape);
        kd_table_cell(t, "%s", c->encoding);
        kd_table_cell(t, "%s", c->filter);
        kd_table_cell(t, "%s", c->segment);
        kd_table_cell(t, "%s", c->teacher[0] ? c->teacher : "-");
        kd_table_cell(t, "%s", kd_fmt_bytes(raw, (double)sizes[i].raw));
        kd_table_cell(t, "%s", kd_fmt_bytes(stored, (double)sizes[i].stored));
        kd_table_cell(t, "%.2f", (double)sizes[i].raw / (double)sizes[i].stored);
        kd_table_cell(t, "%.1f", (double)sizes[i].stored / (double)kd_store_rows(s));
        kd_table_row(t);
    }
    kd_table_print(t, stdout, false);
    kd_table_free(t);
    return KD_OK;
}

static const json_t *segments(const kd_store *s) { return json_object_get(kd_store_manifest(s), "segments"); }

static const char *text_of(const json_t *o, const char *key, const char *otherwise)
{
    const char *v = json_string_value(json_object_get(o, key));
    return v ? v : otherwise;
}

static void print_store(const kd_store *s)
{
    const json_t *m = kd_store_manifest(s), *entry;
    char bytes[32];
    size_t i;
    printf("%s: store format %d, written %s by kd %s\n", kd_store_path(s), KD_STORE_FORMAT,
           text_of(m, "created", "?"), text_of(m, "kd", "?"));
    printf("rows    %llu: train %llu, valid %llu, test %llu, in %u chunks of up to %lld\n",
           (unsigned long long)kd_store_rows(s), (unsigned long long)kd_store_split_rows(s, KD_TRAIN),
           (unsigned long long)kd_store_split_rows(s, KD_VALID),
           (unsigned long long)kd_store_split_rows(s, KD_TEST), kd_store_chunks(s),
           (long long)json_integer_value(json_object_get(m, "chunk_rows")));
    printf("bytes   %s, %.1f a row with everything included\n",
           kd_fmt_bytes(bytes, (double)kd_store_bytes(s)),
           (double)kd_store_bytes(s) / (double)kd_store_rows(s));
    printf("root    %s\n", kd_store_root(s));
    for (size_t c = 0; c < kd_store_columns(s); c++) {
        const json_t *params = kd_store_column(s, c)->params;
        if (json_is_string(json_object_get(params, "tokenizer")))
            printf("texts   %s: tokenizer %s, vocabulary %lld, at most %lld tokens%s\n",
                   kd_store_column(s, c)->name, text_of(params, "tokenizer", "?"),
                   (long long)json_integer_value(json_object_get(params, "vocab")),
                   (long long)json_integer_value(json_object_get(params, "max_tokens")),
                   kd_store_column(s, c)->book_bytes ? ", its files are kept here" : "");
    }
    json_array_foreach(segments(s), i, entry)
    {
        const json_t *teacher = json_object_get(entry, "teacher");
        if (teacher)
            printf("teacher %s, fingerprint %s, added %s\n", text_of(teacher, "name", "?"),
                   text_of(teacher, "fingerprint", "none"), text_of(entry, "created", "?"));
    }
    printf("\n");
}

static json_t *stat_json(const kd_store *s, const column_size *sizes)
{
    const json_t *m = kd_store_manifest(s), *entry;
    json_t *columns = json_array(), *teachers = json_array(), *segs = json_array();
    size_t i;
    for (i = 0; i < kd_store_columns(s); i++) {
        const kd_column *c = kd_store_column(s, i);
        json_t *shape = json_array();
        for (int k = 0; k < c->ndims; k++) json_array_append_new(shape, json_integer(c->dims[k]));
        json_array_append_new(columns,
                              json_pack("{s:s, s:s, s:s, s:o, s:s, s:s, s:i, s:s, s:s, s:s, s:I, s:I, s:O?}",
                                        "name", c->name, "role", kd_role_name(c->role), "dtype",
                                        kd_dtype_name(c->dtype), "shape", shape, "encoding", c->encoding,
                                        "filter", c->filter, "level", c->level, "segment", c->segment,
                                        "teacher", c->teacher, "tap", c->tap, "raw_bytes",
                                        (json_int_t)sizes[i].raw, "stored_bytes", (json_int_t)sizes[i].stored,
                                        "params", c->params));
    }
    json_array_foreach(segments(s), i, entry)
    {
        json_t *teacher = json_object_get(entry, "teacher");
        if (teacher) json_array_append(teachers, teacher);
        json_array_append_new(segs, json_pack("{s:O, s:O, s:O, s:O}", "name", json_object_get(entry, "name"),
                                              "file", json_object_get(entry, "file"), "bytes",
                                              json_object_get(entry, "bytes"), "root",
                                              json_object_get(entry, "root")));
    }
    return json_pack("{s:i, s:s, s:i, s:O?, s:O?, s:I, s:O?, s:I, s:I, s:s, s:o, s:o, s:o}", "schema", 1,
                     "store", kd_store_path(s), "format", KD_STORE_FORMAT, "kd", json_object_get(m, "kd"),
                     "created", json_object_get(m, "created"), "rows", (json_int_t)kd_store_rows(s), "splits",
                     json_object_get(m, "splits"), "chunks", (json_int_t)kd_store_chunks(s), "bytes",
                     (json_int_t)kd_store_bytes(s), "root", kd_store_root(s), "columns", columns, "segments",
                     segs, "teachers", teachers);
}

kd_status store_stat(kd_cli *c, const store_opts *o, kd_err *err)
{
    const char *path = c->args[1];
    (void)o;
    kd_store *s = NULL;
    column_size sizes[KD_STORE_MAX_COLUMNS];
    kd_status st = kd_store_open(&s, path, err);
    if (st) return st;
    for (size_t i = 0; i < kd_store_columns(s) && !st; i++)
        st = kd_store_column_bytes(s, (int)i, &sizes[i].raw, &sizes[i].stored, err);
    if (!st && c->common.json) {
        st = kd_cli_print_json(stat_json(s, sizes), err);
    } else if (!st) {
        print_store(s);
        st = print_columns(s, sizes, err);
    }
    kd_store_close(s);
    return st;
}
