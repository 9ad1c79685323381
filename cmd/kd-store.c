/* kd-store - looks into a store, verifies it, drops a segment. */
#include "kd/cli.h"
#include "kd/store.h"

#include <stdlib.h>
#include <string.h>

static const kd_example examples[] = {{"kd-store stat fashion.kd", "rows, columns, teachers and bytes"},
                                      {"kd-store stat fashion.kd --json | jq .root", "the same for programs"},
                                      {"kd-store verify fashion.kd",
                                       "read and check every byte; exit code 3 names what is damaged"},
                                      {"kd-store drop fashion.kd big", "remove what the teacher 'big' added"},
                                      {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-store",
    .summary = "look into a store, verify it, drop a teacher",
    .synopsis = "[options] stat|verify STORE | drop STORE SEGMENT",
    .description =
        "stat prints what a store holds: rows per split; per column its role, type, shape, "
        "encoding and size; teachers with "
        "their fingerprints; the root hash. It opens the store as every tool does, which checks "
        "the manifest, file sizes "
        "and the page tree.\n"
        "verify walks the pages of every file, then reads and decodes every record and compares "
        "the hashes with the "
        "manifest. What is damaged is named by column, chunk and rows.\n"
        "drop takes a segment (the columns that one teacher's pass added) out of the store; the rows "
        "and other teachers "
        "are not touched.",
    .examples = examples,
    .see_also = "kd-dump(1), kd-train(1), kd-eval(1)",
};

/* ---- stat --------------------------------------------------------------------------------- */

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
                              json_pack("{s:s, s:s, s:s, s:o, s:s, s:s, s:i, s:s, s:s, s:s, s:I, s:I}",
                                        "name", c->name, "role", kd_role_name(c->role), "dtype",
                                        kd_dtype_name(c->dtype), "shape", shape, "encoding", c->encoding,
                                        "filter", c->filter, "level", c->level, "segment", c->segment,
                                        "teacher", c->teacher, "tap", c->tap, "raw_bytes",
                                        (json_int_t)sizes[i].raw, "stored_bytes",
                                        (json_int_t)sizes[i].stored));
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

static kd_status run_stat(kd_cli *c, const char *path, kd_err *err)
{
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

/* ---- verify ------------------------------------------------------------------------------- */

static void show_progress(void *arg, uint64_t done, uint64_t total)
{
    kd_progress *p = arg;
    p->total = total;
    kd_progress_set(p, done, NULL);
}

static kd_status print_report(const kd_cli *c, const char *path, const kd_verify_report *r, kd_err *err)
{
    double gb = r->seconds > 0 ? 1e-9 / r->seconds : 0;
    size_t shown = 0, most = KD_COUNT(r->first);
    char read[32], raw[32];
    while (shown < most && r->first[shown].what[0]) shown++;
    if (c->common.json) {
        json_t *list = json_array();
        for (size_t i = 0; i < shown; i++) json_array_append_new(list, json_string(r->first[i].what));
        return kd_cli_print_json(json_pack("{s:i, s:s, s:I, s:I, s:I, s:I, s:o, s:f, s:f, s:f}", "schema", 1,
                                           "store", path, "records", (json_int_t)r->records, "bytes",
                                           (json_int_t)r->bytes, "raw_bytes", (json_int_t)r->raw_bytes,
                                           "damaged", (json_int_t)r->damaged, "first", list, "seconds",
                                           r->seconds, "gb_per_s", (double)r->bytes * gb, "raw_gb_per_s",
                                           (double)r->raw_bytes * gb),
                                 err);
    }
    printf("%s: %llu records, %s read and %s decoded in %.2f s (%.2f and %.2f GB/s): %s\n", path,
           (unsigned long long)r->records, kd_fmt_bytes(read, (double)r->bytes),
           kd_fmt_bytes(raw, (double)r->raw_bytes), r->seconds, (double)r->bytes * gb,
           (double)r->raw_bytes * gb, r->damaged ? "damaged" : "whole");
    for (size_t i = 0; i < shown; i++) printf("  %s\n", r->first[i].what);
    if (r->damaged > shown) printf("  and %llu more\n", (unsigned long long)(r->damaged - shown));
    return KD_OK;
}

static kd_status run_verify(kd_cli *c, const char *path, kd_err *err)
{
    static kd_verify_report r;
    kd_progress p;
    kd_err print = {0};
    kd_progress_begin(&p, c, "verify", "records", 0);
    kd_status st = kd_store_verify(path, (int)c->common.threads, &r, show_progress, &p, err);
    kd_progress_end(&p);
    if (st && st != KD_ECORRUPT) return st;
    kd_status printed = print_report(c, path, &r, &print);
    return st ? st : printed ? kd_fail(err, printed, "%s", print.msg) : KD_OK;
}

static kd_status run_drop(const kd_cli *c, const char *path, const char *name, kd_err *err)
{
    uint64_t bytes = 0;
    char text[32];
    kd_status st = kd_store_drop(path, name, &bytes, err);
    if (!st && c->common.json)
        return kd_cli_print_json(json_pack("{s:i, s:s, s:s, s:I}", "schema", 1, "store", path, "dropped",
                                           name, "bytes", (json_int_t)bytes),
                                 err);
    if (!st) printf("%s: dropped '%s', %s\n", path, name, kd_fmt_bytes(text, (double)bytes));
    return st;
}

int main(int argc, char **argv)
{
    kd_cli c;
    kd_err err = {0};
    kd_cli_init(&c, &tool, argc, argv);
    if (!kd_cli_parse(&c, &err)) {
        static const char *const verbs[] = {"stat", "verify", "drop"};
        const char *verb = c.nargs ? c.args[0] : "", *near = kd_nearest(verb, verbs, KD_COUNT(verbs));
        if (!strcmp(verb, "drop") && c.nargs == 3)
            run_drop(&c, c.args[1], c.args[2], &err);
        else if (!strcmp(verb, "drop"))
            kd_fail(&err, KD_EUSAGE, "a store and a segment are needed: kd-store drop STORE SEGMENT");
        else if (c.nargs != 2)
            kd_fail(&err, KD_EUSAGE,
                    "one command and one store are needed: kd-store stat STORE, or kd-store verify STORE");
        else if (!strcmp(verb, "stat"))
            run_stat(&c, c.args[1], &err);
        else if (!strcmp(verb, "verify"))
            run_verify(&c, c.args[1], &err);
        else if (near)
            kd_fail(&err, KD_EUSAGE, "unknown command '%.80s' (did you mean '%s'?)", verb, near);
        else
            kd_fail(&err, KD_EUSAGE, "unknown command '%.80s': there are stat, verify and drop", verb);
    }
    return kd_cli_finish(&c, &err);
}
