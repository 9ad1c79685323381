/* pack.c - writes the plan: columns id, split, source, label and input (or token columns), chunk by chunk.
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

/* LABEL may be missing; then the inputs begin there. */
enum { ID, SPLIT, SOURCE, LABEL, COLUMNS = LABEL + 2 + KD__TEXTS_MAX };

static bool is_text(const kd__pack *p) { return p->text.tokenizer != NULL; }
static size_t first_input(const kd__pack *p) { return p->labels ? LABEL + 1 : LABEL; }
static size_t columns_of(const kd__pack *p)
{
    return first_input(p) + (is_text(p) ? p->text.n : 1) + (p->text.mask ? 1 : 0); // the mask is the last
}

/* ---- what is written down ----------------------------------------------------------------- */

static json_t *files_json(const kd__part *part, size_t parts)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < parts; i++) {
        const kd__part *f = &part[i];
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
    for (size_t i = 0; list && i < s->n; i++)
        if (json_array_append_new(list, json_string(s->v[i]))) { // not UTF-8
            json_decref(list);
            return NULL;
        }
    return list;
}

/* What texts are, beside what all packs say. */
static int add_text_contract(json_t *contract, const kd__pack *p)
{
    const kd__textset *t = &p->text;
    json_t *columns = json_array();
    for (size_t i = 0; columns && i < t->n; i++)
        json_array_append_new(columns, json_pack("{s:s, s:s}", "name", t->column[i].name, "column",
                                                 t->column[i].column));
    json_t *more =
        json_pack("{s:s, s:I, s:o, s:s?}", "tokenizer", kd_tokenizer_hash(t->tokenizer), "max_tokens",
                  (json_int_t)t->max_tokens, "text_columns", columns, "split_column", p->spec->split_column);
    if (p->spec->conversations)
        json_object_set_new(more, "conversations", json_string(p->spec->conversations));
    if (p->spec->prompts) json_object_set_new(more, "prompts", json_true());
    if (p->spec->windows) json_object_set_new(more, "windows", json_true());
    const int bad = !more || json_object_update(contract, more);
    json_decref(more);
    return bad;
}

static json_t *contract_json(const kd__pack *p)
{
    const kd_data_spec *s = p->spec;
    bool cut = !s->test_input.n;
    const kd__part *part = is_text(p) ? p->text.part : p->input.part;
    const size_t parts = is_text(p) ? p->text.parts : p->input.parts;
    json_t *c = json_pack("{s:s, s:o, s:o, s:I, s:s?, s:s?, s:f, s:f, s:I}", "kind", "pack", "input",
                          files_json(part, parts), "label", files_json(p->label.part, p->label.parts),
                          "train_rows", (json_int_t)p->train_rows, "input_column", s->input_column,
                          "label_column", s->label_column, "valid_fraction", s->valid_fraction,
                          "test_fraction", cut ? s->test_fraction : 0.0, "seed", (json_int_t)s->seed);
    if (!c || !is_text(p) || !add_text_contract(c, p)) return c;
    json_decref(c);
    return NULL;
}

static kd_status name_input(kd_column *c, const char *name, kd_err *err)
{
    if (strlen(name) >= sizeof(c->name))
        return kd_fail(err, KD_EUSAGE, "data.input_name: longer than %zu characters", sizeof(c->name) - 1);
    memcpy(c->name, name, strlen(name) + 1);
    return KD_OK;
}

/* The token columns; book: the tokenizer's files, of the first. */
static kd_status text_columns(const kd__pack *p, kd_column *c, const char *book, kd_err *err)
{
    const kd__textset *t = &p->text;
    kd_status st = KD_OK;
    for (size_t i = 0; i < t->n && !st; i++) {
        c[i] = (kd_column){.role = KD_ROLE_INPUT, .dtype = kd__textset_dtype(t), .ndims = 1, .dims = {-1}};
        if (!i) c[i].book = book, c[i].book_bytes = strlen(book);
        st = name_input(&c[i], t->column[i].name, err);
        c[i].params =
            json_pack("{s:s, s:I, s:I}", "tokenizer", kd_tokenizer_hash(t->tokenizer), "vocab",
                      (json_int_t)kd_tokenizer_size(t->tokenizer), "max_tokens", (json_int_t)t->max_tokens);
        if (!c[i].params && !st) st = kd_fail(err, KD_ENOMEM, "out of memory");
    }
    if (!t->mask || st) return st;
    c[t->n] = (kd_column){.name = "mask", .role = KD_ROLE_MASK, .dtype = KD_U8, .ndims = 1, .dims = {-1}};
    c[t->n].params = json_pack("{s:s}", "input", t->column[0].name);
    return c[t->n].params ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
}

static kd_status make_columns(const kd__pack *p, kd_column c[COLUMNS], const char *book, kd_err *err)
{
    const kd_array *a = &p->input.a;
    const kd_strings *names = p->text.names.n ? &p->text.names : &p->spec->class_names;
    kd_column *input = &c[first_input(p)];
    memset(c, 0, COLUMNS * sizeof(*c));
    c[ID] = (kd_column){.name = "id", .role = KD_ROLE_ID, .dtype = KD_U8, .ndims = 1, .dims = {16}};
    c[SPLIT] = (kd_column){.name = "split", .role = KD_ROLE_SPLIT, .dtype = KD_U8};
    c[SOURCE] = (kd_column){.name = "source", .role = KD_ROLE_SOURCE, .dtype = KD_U64};
    if (p->labels) {
        c[LABEL] = (kd_column){.name = "label", .role = KD_ROLE_LABEL, .dtype = KD_I32};
        c[LABEL].params =
            json_pack("{s:I, s:o}", "classes", (json_int_t)p->classes, "names", strings_json(names));
        if (!c[LABEL].params)
            return kd_fail(err, KD_ENOMEM, "out of memory (or class names that are not UTF-8)");
    }
    if (is_text(p)) return text_columns(p, input, book, err);
    *input = (kd_column){.role = KD_ROLE_INPUT, .dtype = a->dtype, .ndims = a->ndims};
    memcpy(input->dims, a->dims, sizeof(input->dims));
    input->params = json_pack("{s:f, s:f}", "mean", p->mean, "scale", p->scale);
    return input->params ? name_input(input, p->spec->input_name, err)
                         : kd_fail(err, KD_ENOMEM, "out of memory");
}

/* Tokens of all columns. */
static void count_tokens(kd_pack_report *r, const kd__pack *p)
{
    const kd__textset *t = &p->text;
    r->vocabulary = kd_tokenizer_size(t->tokenizer);
    for (size_t i = 0; i < t->n; i++) {
        const kd_token_rows *rows = &t->column[i].tokens;
        r->tokens += rows->offset[rows->rows];
        r->cut += rows->cut;
        for (uint64_t k = 0; k < rows->rows; k++)
            r->longest = kd_max_size(r->longest, rows->offset[k + 1] - rows->offset[k]);
    }
    r->raw_bytes += r->tokens * kd_dtype_size(kd__textset_dtype(t)) + p->rows * t->n * sizeof(uint32_t);
    for (size_t i = 0; i < t->parts; i++) r->source_bytes += t->part[i].bytes;
}

static void fill_report(kd_pack_report *r, const kd__pack *p)
{
    *r = (kd_pack_report){.rows = p->rows,
                          .duplicates = p->duplicates,
                          .leaks = p->leaks,
                          .left_out = p->left_out,
                          .classes = p->classes,
                          .mean = p->mean,
                          .scale = p->scale};
    memcpy(r->split_rows, p->split_rows, sizeof(r->split_rows));
    r->raw_bytes = p->rows * (16 + 1 + 8 + (p->labels ? 4 : 0) + p->row_bytes);
    if (is_text(p)) count_tokens(r, p);
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
    uint8_t *id, *split;
    uint64_t *source;
    int32_t *label;
    struct {
        uint8_t *data;
        size_t bytes, room;
        uint32_t *length;       /* of texts */
    } input[KD__TEXTS_MAX + 1]; /* behind those of texts the mask */
} slab;

static void slab_release(slab *s)
{
    free(s->id);
    free(s->split);
    free(s->source);
    free(s->label);
    for (int i = 0; i <= KD__TEXTS_MAX; i++) {
        free(s->input[i].data);
        free(s->input[i].length);
    }
}

static kd_status slab_room(slab *s, size_t input, size_t bytes, kd_err *err)
{
    if (bytes <= s->input[input].room && s->input[input].data) return KD_OK;
    uint8_t *more = realloc(s->input[input].data, bytes + 1);
    if (!more) return kd_fail(err, KD_ENOMEM, "no memory for a chunk of %zu bytes", bytes);
    s->input[input].data = more;
    s->input[input].room = bytes;
    return KD_OK;
}

/* The tokens of one column. */
static kd_status gather_texts(const kd__pack *p, slab *s, size_t column, uint64_t first, uint32_t rows,
                              kd_err *err)
{
    const kd__textset *t = &p->text;
    const size_t size = kd_dtype_size(kd__textset_dtype(t));
    size_t tokens = 0;
    for (uint32_t i = 0; i < rows; i++) {
        s->input[column].length[i] = (uint32_t)kd__textset_tokens(t, column, p->order[first + i]);
        tokens += s->input[column].length[i];
    }
    kd_status st = slab_room(s, column, tokens * size, err);
    if (st) return st;
    tokens = 0;
    for (uint32_t i = 0; i < rows; i++)
        tokens += kd__textset_put(t, column, p->order[first + i], s->input[column].data + tokens * size);
    s->input[column].bytes = tokens * size;
    return KD_OK;
}

/* The mask, which has the lengths of the first column's tokens. */
static kd_status gather_mask(const kd__pack *p, slab *s, uint64_t first, uint32_t rows, kd_err *err)
{
    const kd__textset *t = &p->text;
    const size_t at = t->n, tokens = s->input[0].bytes / kd_dtype_size(kd__textset_dtype(t));
    size_t done = 0;
    kd_status st = slab_room(s, at, tokens, err);
    for (uint32_t i = 0; i < rows && !st; i++) {
        const uint64_t row = p->order[first + i];
        const size_t n = kd__textset_tokens(t, 0, row);
        memcpy(s->input[at].data + done, t->mask + t->column[0].tokens.offset[row], n);
        s->input[at].length[i] = (uint32_t)n;
        done += n;
    }
    s->input[at].bytes = done;
    return st;
}

static kd_status gather(const kd__pack *p, slab *s, kd_split split, uint64_t first, uint32_t rows,
                        kd_err *err)
{
    kd_status st = KD_OK;
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t row = p->order[first + i];
        memcpy(s->id + 16 * (size_t)i, p->ids[row].b, 16);
        s->split[i] = (uint8_t)split;
        s->source[i] = kd__textset_text(&p->text, row);
        if (p->labels) s->label[i] = p->labels[row];
        if (!is_text(p))
            memcpy(s->input[0].data + i * p->row_bytes, (const char *)p->input.a.data + row * p->row_bytes,
                   p->row_bytes);
    }
    s->input[0].bytes = rows * p->row_bytes;
    for (size_t i = 0; i < p->text.n && !st; i++) st = gather_texts(p, s, i, first, rows, err);
    return st || !p->text.mask ? st : gather_mask(p, s, first, rows, err);
}

static kd_status append(kd_store_writer *w, const kd__pack *p, const slab *s, kd_split split, uint32_t rows,
                        kd_err *err)
{
    kd_block blocks[COLUMNS] = {
        [ID] = {.data = s->id, .bytes = 16 * (size_t)rows},
        [SPLIT] = {.data = s->split, .bytes = rows},
        [SOURCE] = {.data = s->source, .bytes = 8 * (size_t)rows},
        [LABEL] = {.data = s->label, .bytes = 4 * (size_t)rows},
    };
    for (size_t i = first_input(p), k = 0; i < columns_of(p); i++, k++)
        blocks[i] =
            (kd_block){.data = s->input[k].data, .bytes = s->input[k].bytes, .lengths = s->input[k].length};
    return kd_store_writer_append(w, split, rows, blocks, err);
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

static kd_status write_chunks(run *r, slab *s, kd_err *err)
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
                kd_status st = gather(p, s, (kd_split)split, done, rows, err);
                if (st || (st = append(r->w, p, s, (kd_split)split, rows, err))) return st;
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
    size_t n = r->chunk_rows, bytes = 0;
    slab s = {.id = malloc(n * 16), .split = malloc(n), .source = malloc(n * 8), .label = malloc(n * 4)};
    bool ok = s.id && s.split && s.source && s.label && kd_mul_size(n, p->row_bytes, &bytes);
    for (size_t i = 0; i < p->text.n + (p->text.mask ? 1 : 0); i++)
        ok = ok && (s.input[i].length = malloc(n * sizeof(uint32_t)));
    kd_status st = ok ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: no memory for a chunk of %zu rows", r->store, n);
    if (!st && !is_text(p)) st = slab_room(&s, 0, bytes, err);
    if (!st) st = write_chunks(r, &s, err);
    slab_release(&s);
    return st;
}

/* ---- the calls ---------------------------------------------------------------------------- */

kd_status kd_pack_plan(const kd_data_spec *spec, kd_pack_report *report, kd_err *err)
{
    kd__pack p;
    kd_status st = kd__pack_plan(&p, spec, 1, err);
    if (!st && report) fill_report(report, &p);
    kd__pack_release(&p);
    return st;
}

/* Long sequences keep a language model busy for as long as many of other rows keep their teachers. */
static uint32_t chunk_rows(const kd_data_spec *s)
{
    return s->chunk_rows ? (uint32_t)s->chunk_rows : s->windows || s->conversations ? 64 : 1024;
}

kd_status kd_pack(const kd_data_spec *spec, const char *store, const kd_writer_params *wp,
                  const char *command, volatile const int *stop,
                  void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                  kd_pack_report *report, kd_err *err)
{
    kd__pack p;
    kd_column columns[COLUMNS] = {0};
    json_t *contract = NULL, *extra = NULL;
    char *book = NULL;
    kd_writer_params params = wp ? *wp : kd_writer_default_params();
    run r = {.plan = &p, .store = store, .stop = stop, .progress = progress, .arg = arg};
    kd_status st = kd__pack_plan(&p, spec, params.threads, err);
    if (!st && is_text(&p) &&
        !(book = kd_json_text(kd_tokenizer_files(p.text.tokenizer), JSON_COMPACT | JSON_SORT_KEYS)))
        st = kd_fail(err, KD_ENOMEM, "%s: no memory for the tokenizer", store);
    if (st || (st = make_columns(&p, columns, book, err))) goto out;
    params.chunk_rows = r.chunk_rows = chunk_rows(spec);
    params.level = (int)spec->level;
    contract = contract_json(&p);
    extra = json_pack("{s:s?, s:I, s:I}", "command", command, "duplicates", (json_int_t)p.duplicates, "leaks",
                      (json_int_t)p.leaks);
    if (!contract || !extra) {
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory (or names that are not UTF-8)", store);
        goto out;
    }
    if ((st = kd_store_create(&r.w, r.store, columns, columns_of(&p), contract, &params, err)) ||
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
    free(book);
    kd__pack_release(&p);
    return st;
}

kd_status kd_store_tokenizer(kd_tokenizer **out, const kd_store *s, int column, kd_err *err)
{
    const kd_column *c = kd_store_column(s, (size_t)column);
    const char *hash = json_string_value(json_object_get(c->params, "tokenizer"));
    *out = NULL;
    if (!hash) return kd_fail(err, KD_EMISMATCH, "%s: column %s holds no tokens", kd_store_path(s), c->name);
    for (size_t i = 0; i < kd_store_columns(s); i++) {
        const kd_column *k = kd_store_column(s, i);
        const char *its = json_string_value(json_object_get(k->params, "tokenizer"));
        json_t *files;
        json_error_t at;
        if (!k->book_bytes || !its || strcmp(its, hash)) continue;
        kd_status st = kd_json_parse(&files, k->book, k->book_bytes, &at);
        if (st)
            return kd_fail(err, st, "%s: column %s: its tokenizer cannot be read", kd_store_path(s), k->name);
        st = kd_tokenizer_from(out, files, kd_store_path(s), err);
        json_decref(files);
        if (st || !strcmp(kd_tokenizer_hash(*out), hash)) return st;
        kd_tokenizer_close(*out);
        *out = NULL;
        return kd_fail(err, KD_ECORRUPT, "%s: column %s: the tokenizer kept there is not %s",
                       kd_store_path(s), k->name, hash);
    }
    return kd_fail(err, KD_EMISMATCH, "%s: does not keep the tokenizer %s of column %s", kd_store_path(s),
                   hash, c->name);
}
