/* pack.c - writes the plan: columns id, split, source, label and input, chunk by chunk.
 *
 * The plan (pack_plan.c) is a pure function of the files and the spec, so a resumed pack makes the
 * same plan again and goes on behind the last committed chunk; the contract, with the hash of every
 * source file, makes sure that it is the same. File names are in it without their folders: a data
 * set may have moved in between, its bytes may not have changed.
 *
 * Train, valid and test follow each other; a chunk holds rows of one split.
 */
#include "data_private.h"

#include <stdlib.h>
#include <string.h>

enum { ID, SPLIT, SOURCE, LABEL, INPUT, COLUMNS };

/* ---- what is written down ----------------------------------------------------------------- */

static json_t *files_json(const kd__rowset *s)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < s->parts; i++) {
        const kd__part *f = &s->part[i];
        char hex[33];
        kd_id_hex(f->hash, hex);
        json_array_append_new(list,
                              json_pack("{s:s, s:I, s:I, s:s}", "file", kd_path_base(f->path), "rows",
                                        (json_int_t)f->rows, "bytes", (json_int_t)f->bytes, "xxh128", hex));
    }
    return list;
}

static json_t *strings_json(const kd_strings *s)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < s->n; i++) json_array_append_new(list, json_string(s->v[i]));
    return list;
}

static json_t *contract_json(const kd__pack *p)
{
    const kd_data_spec *s = p->spec;
    bool cut = !s->test_input.n;
    return json_pack("{s:s, s:o, s:o, s:I, s:s?, s:s?, s:f, s:f, s:I}", "kind", "pack", "input",
                     files_json(&p->input), "label", files_json(&p->label), "train_rows",
                     (json_int_t)p->train_rows, "input_column", s->input_column, "label_column",
                     s->label_column, "valid_fraction", s->valid_fraction, "test_fraction",
                     cut ? s->test_fraction : 0.0, "seed", (json_int_t)s->seed);
}

static kd_status make_columns(const kd__pack *p, kd_column c[COLUMNS], kd_err *err)
{
    const kd_array *a = &p->input.a;
    const char *name = p->spec->input_name;
    memset(c, 0, COLUMNS * sizeof(*c));
    c[ID] = (kd_column){.name = "id", .role = KD_ROLE_ID, .dtype = KD_U8, .ndims = 1, .dims = {16}};
    c[SPLIT] = (kd_column){.name = "split", .role = KD_ROLE_SPLIT, .dtype = KD_U8};
    c[SOURCE] = (kd_column){.name = "source", .role = KD_ROLE_SOURCE, .dtype = KD_U64};
    c[LABEL] = (kd_column){.name = "label", .role = KD_ROLE_LABEL, .dtype = KD_I32};
    c[INPUT] = (kd_column){.role = KD_ROLE_INPUT, .dtype = a->dtype, .ndims = a->ndims};
    memcpy(c[INPUT].dims, a->dims, sizeof(c[INPUT].dims));
    if (strlen(name) >= sizeof(c[INPUT].name))
        return kd_fail(err, KD_EUSAGE, "data.input_name: longer than %zu characters",
                       sizeof(c[INPUT].name) - 1);
    memcpy(c[INPUT].name, name, strlen(name) + 1);
    c[LABEL].params = json_pack("{s:I, s:o}", "classes", (json_int_t)p->classes, "names",
                                strings_json(&p->spec->class_names));
    c[INPUT].params = json_pack("{s:f, s:f}", "mean", p->mean, "scale", p->scale);
    return c[LABEL].params && c[INPUT].params
               ? KD_OK
               : kd_fail(err, KD_ENOMEM, "out of memory (or class names that are not UTF-8)");
}

static void fill_report(kd_pack_report *r, const kd__pack *p)
{
    *r = (kd_pack_report){.rows = p->rows,
                          .duplicates = p->duplicates,
                          .leaks = p->leaks,
                          .classes = p->classes,
                          .mean = p->mean,
                          .scale = p->scale};
    memcpy(r->split_rows, p->split_rows, sizeof(r->split_rows));
    r->raw_bytes = p->rows * (16 + 1 + 8 + 4 + p->row_bytes);
    for (size_t i = 0; i < p->input.parts; i++) r->source_bytes += p->input.part[i].bytes;
    for (size_t i = 0; i < p->label.parts; i++) {
        bool counted = false; // labels may stand in the file of the inputs
        for (size_t k = 0; k < p->input.parts; k++)
            counted = counted || !strcmp(p->label.part[i].path, p->input.part[k].path);
        if (!counted) r->source_bytes += p->label.part[i].bytes;
    }
}

/* ---- chunks ------------------------------------------------------------------------------- */

typedef struct slab {
    uint8_t *id, *split, *input;
    uint64_t *source;
    int32_t *label;
} slab;

static void gather(const kd__pack *p, const slab *s, kd_split split, uint64_t first, uint32_t rows)
{
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t row = p->order[first + i];
        memcpy(s->id + 16 * (size_t)i, p->ids[row].b, 16);
        s->split[i] = (uint8_t)split;
        s->source[i] = row;
        s->label[i] = p->labels[row];
        memcpy(s->input + i * p->row_bytes, (const char *)p->input.a.data + row * p->row_bytes, p->row_bytes);
    }
}

typedef struct run {
    kd_store_writer *w;
    const kd__pack *plan;
    const char *store;
    uint32_t chunk_rows;
    volatile const int *stop;
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
    uint64_t written;
} run;

static kd_status write_chunks(run *r, const slab *s, kd_err *err)
{
    const kd__pack *p = r->plan;
    uint64_t done = 0;
    uint32_t chunk = 0, committed = kd_store_writer_chunks(r->w);
    for (int split = 0; split < KD_SPLITS; split++) {
        uint64_t end = done + p->split_rows[split];
        for (; done < end; chunk++) {
            uint32_t rows = (uint32_t)kd_min_size(r->chunk_rows, (size_t)(end - done));
            if (chunk >= committed) {
                if (r->stop && *r->stop)
                    return kd_fail(err, KD_ESTOPPED,
                                   "%s: stopped after %llu of %llu rows; go on with --resume", r->store,
                                   (unsigned long long)done, (unsigned long long)p->rows);
                gather(p, s, (kd_split)split, done, rows);
                const kd_block blocks[COLUMNS] = {
                    [ID] = {.data = s->id, .bytes = 16 * (size_t)rows},
                    [SPLIT] = {.data = s->split, .bytes = rows},
                    [SOURCE] = {.data = s->source, .bytes = 8 * (size_t)rows},
                    [LABEL] = {.data = s->label, .bytes = 4 * (size_t)rows},
                    [INPUT] = {.data = s->input, .bytes = rows * p->row_bytes},
                };
                kd_status st = kd_store_writer_append(r->w, (kd_split)split, rows, blocks, err);
                if (st) return st;
                r->written += rows;
            }
            done += rows;
            if (r->progress) r->progress(r->arg, done, p->rows);
        }
    }
    return KD_OK;
}

static kd_status write_all(run *r, kd_err *err)
{
    const kd__pack *p = r->plan;
    size_t n = r->chunk_rows, bytes;
    slab s = {.id = malloc(n * 16), .split = malloc(n), .source = malloc(n * 8), .label = malloc(n * 4)};
    kd_status st = KD_OK;
    if (kd_mul_size(n, p->row_bytes, &bytes)) s.input = malloc(bytes);
    if (!s.id || !s.split || !s.source || !s.label || !s.input)
        st = kd_fail(err, KD_ENOMEM, "%s: no memory for a chunk of %zu rows", r->store, n);
    else
        st = write_chunks(r, &s, err);
    free(s.id);
    free(s.split);
    free(s.source);
    free(s.label);
    free(s.input);
    return st;
}

/* ---- the calls ---------------------------------------------------------------------------- */

kd_status kd_pack_plan(const kd_data_spec *spec, kd_pack_report *report, kd_err *err)
{
    kd__pack p;
    kd_status st = kd__pack_plan(&p, spec, err);
    if (!st && report) fill_report(report, &p);
    kd__pack_release(&p);
    return st;
}

kd_status kd_pack(const kd_data_spec *spec, const char *store, const kd_writer_params *wp,
                  const char *command, volatile const int *stop,
                  void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                  kd_pack_report *report, kd_err *err)
{
    kd__pack p;
    kd_column columns[COLUMNS] = {0};
    json_t *contract = NULL, *extra = NULL;
    kd_writer_params params = wp ? *wp : kd_writer_default_params();
    run r = {.plan = &p, .store = store, .stop = stop, .progress = progress, .arg = arg};
    kd_status st = kd__pack_plan(&p, spec, err);
    if (st || (st = make_columns(&p, columns, err))) goto out;
    params.chunk_rows = r.chunk_rows = (uint32_t)spec->chunk_rows;
    params.level = (int)spec->level;
    contract = contract_json(&p);
    extra = json_pack("{s:s?, s:I, s:I}", "command", command, "duplicates", (json_int_t)p.duplicates, "leaks",
                      (json_int_t)p.leaks);
    if (!contract || !extra) {
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory (or names that are not UTF-8)", store);
        goto out;
    }
    if ((st = kd_store_create(&r.w, r.store, columns, COLUMNS, contract, &params, err)) ||
        (st = write_all(&r, err)))
        goto out;
    st = kd_store_writer_seal(r.w, extra, err);
    r.w = NULL;
out:
    kd_store_writer_close(r.w); // after a failure: what is whole stays for a resume
    if (!st && report) {
        fill_report(report, &p);
        report->written_rows = r.written;
    }
    for (int i = 0; i < COLUMNS; i++) json_decref(columns[i].params);
    json_decref(contract);
    json_decref(extra);
    kd__pack_release(&p);
    return st;
}
