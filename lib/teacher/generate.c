/* generate.c - a language model's own answers as a store (sequence-level distillation: Kim and Rush 2016).
 *
 * The prompts' store stays what it is; what is written is a store of its own, because its rows are new data:
 * a column of tokens beside the old one would leave every reader to guess which of the two a row is. It has
 * one segment, so tokens, mask and logits of a chunk are committed together or not at all.
 *
 * Many rows go on side by side (answers.c): one that has ended makes room for the next. Rows end in any order
 * and are written in theirs, so a few chunks are open at a time. A chunk has few rows, since each costs the
 * teacher seconds and a kill costs the chunks that are open.
 */
#include "answers.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 64, OPEN = 3, COLUMNS = 6 };

/* A chunk of the new store. */
typedef struct part {
    uint64_t first; /* row of the prompts' store */
    kd_split split;
    uint32_t rows, begun;
    kd__answer answer[CHUNK];
    kd_id id[CHUNK]; /* of the new rows */
    uint64_t source[CHUNK];
} part;

typedef struct generation {
    kd_teacher *t;
    kd_store *s; /* prompts */
    const kd_generate_params *p;
    const char *name;
    kd__text text;
    kd__target logits;
    int id, source; /* columns of the prompts; source -1: none */
    uint32_t most;  /* tokens of a row */
    kd_store_writer *writer;
    kd__speakers *speakers;
    kd_cursor *cursor;
    /* The chunk of the prompts that is read, and how many of its rows are. */
    kd__tokens tokens;
    kd_id ids[KD_STORE_MAX_CHUNK_ROWS];
    uint64_t sources[KD_STORE_MAX_CHUNK_ROWS];
    uint32_t chunk, read;
    part part[OPEN];
    size_t opened, closed; /* parts so far */
    kd_buf room[2];        /* ids and masks of a block; an encoded one */
    kd_dump_report report;
} generation;

kd_generate_params kd_generate_default_params(void)
{
    return (kd_generate_params){.how = {.temperature = 0.7, .top_p = 0.95},
                                .answer = 256,
                                .rows = 16,
                                .dtype = KD_F32};
}

/* ---- prompts -------------------------------------------------------------------------------- */

/* Tokens of row r's prompt. */
static uint32_t prompt_of(const generation *g, uint32_t r)
{
    const uint64_t from = g->tokens.offset[r];
    const size_t n = (size_t)(g->tokens.offset[r + 1] - from);
    if (!g->tokens.mask) return (uint32_t)(g->p->prompt ? kd_min_size(n, (size_t)g->p->prompt) : n);
    const uint8_t *mask =
        (const uint8_t *)g->tokens.mask + 4 * (size_t)kd_store_chunk(g->s, g->chunk)->rows + from;
    size_t end = n;
    while (end > 1 && !mask[end - 1]) end--;
    if (end < 2) return (uint32_t)n;
    while (end > 1 && mask[end - 1]) end--;
    return (uint32_t)end;
}

static kd_id id_of(const generation *g, kd_id prompt)
{
    char text[256];
    const kd_sampling *how = &g->p->how;
    const int n = snprintf(text, sizeof text, "answer %s %.17g %.17g %llu %lld %lld\n", g->t->fingerprint,
                           how->temperature, how->top_p, (unsigned long long)how->seed,
                           (long long)g->p->answer, (long long)g->p->prompt);
    memcpy(text + n, prompt.b, sizeof prompt.b);
    return kd_hash128(text, (size_t)n + sizeof prompt.b);
}

static kd_status read_chunk(generation *g, kd_err *err)
{
    const uint32_t rows = kd_store_chunk(g->s, g->chunk)->rows;
    kd_status st = kd__tokens_read(&g->tokens, &g->text, g->cursor, g->s, g->chunk, err);
    if (!st) st = kd_cursor_read(g->cursor, g->id, g->chunk, g->ids, rows * sizeof *g->ids, err);
    if (!st && g->source >= 0)
        st = kd_cursor_read(g->cursor, g->source, g->chunk, g->sources, rows * sizeof *g->sources, err);
    return st;
}

/* The next rows of the prompts as a part; none are left: g->chunk is their last one's next. */
static kd_status open_part(generation *g, kd_err *err)
{
    const kd_chunk_info *ci = kd_store_chunk(g->s, g->chunk);
    part *x = &g->part[g->opened % OPEN];
    kd_status st = g->read ? KD_OK : read_chunk(g, err);
    const uint32_t rows = (uint32_t)kd_min_size(CHUNK, ci->rows - g->read);
    x->first = ci->first + g->read;
    x->split = ci->split;
    x->rows = x->begun = 0;
    for (; x->rows < rows && !st; x->rows++) {
        const uint32_t r = g->read + x->rows, n = prompt_of(g, r);
        const void *ids =
            g->tokens.raw + 4 * (size_t)ci->rows + g->tokens.offset[r] * kd_dtype_size(g->text.c->dtype);
        const uint64_t key[] = {g->p->how.seed, kd_hash64(g->ids[r].b, sizeof g->ids[r].b)};
        x->id[x->rows] = id_of(g, g->ids[r]);
        x->source[x->rows] = g->sources[r];
        st = kd__answer_open(&x->answer[x->rows], g->speakers, ids, g->text.c->dtype, n, x->first + x->rows,
                             err);
        x->answer[x->rows].seed = kd_hash64(key, sizeof key);
        x->answer[x->rows].id = &x->id[x->rows];
    }
    g->opened++; // what is open is released, whatever happened
    if (st) return st;
    g->read += rows;
    if (g->read == ci->rows) g->read = 0, g->chunk++;
    return KD_OK;
}

static void release_part(part *x)
{
    for (uint32_t i = 0; i < x->rows; i++) kd__answer_release(&x->answer[i]);
    x->rows = 0;
}

/* ---- writing -------------------------------------------------------------------------------- */

static kd_status columns_of(generation *g, kd_column c[COLUMNS], size_t *n, kd_err *err)
{
    size_t k = 0;
    c[k++] = (kd_column){.name = "id", .role = KD_ROLE_ID, .dtype = KD_U8, .ndims = 1, .dims = {16}};
    c[k++] = (kd_column){.name = "split", .role = KD_ROLE_SPLIT, .dtype = KD_U8};
    if (g->source >= 0) c[k++] = (kd_column){.name = "source", .role = KD_ROLE_SOURCE, .dtype = KD_U64};
    c[k] = *g->text.c; // with the tokenizer
    c[k].params = json_copy(g->text.c->params);
    *c[k].filter = '\0';
    c[k].level = 0;
    const int bad = json_object_set_new(c[k++].params, "max_tokens", json_integer(g->most));
    c[k] = (kd_column){.name = "mask", .role = KD_ROLE_MASK, .dtype = KD_U8, .ndims = 1, .dims = {-1}};
    c[k].params = json_pack("{s:s}", "input", g->text.c->name);
    const bool ok = !bad && c[k++].params;
    c[k++] = g->logits.column;
    *n = k;
    return ok ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
}

/* Tokens and masks of a part, one behind the other in g->room[0]. */
static kd_status gather(generation *g, const part *x, uint32_t *lengths, size_t *tokens, kd_err *err)
{
    const size_t size = kd_dtype_size(g->text.c->dtype);
    kd_buf *b = &g->room[0];
    b->len = *tokens = 0;
    for (uint32_t i = 0; i < x->rows; i++) {
        lengths[i] = x->answer[i].n;
        *tokens += lengths[i];
        for (uint32_t k = 0; k < lengths[i]; k++) {
            const uint16_t half = (uint16_t)x->answer[i].token[k];
            kd_buf_append(b, size == 2 ? (const void *)&half : &x->answer[i].token[k], size);
        }
    }
    for (uint32_t i = 0; i < x->rows; i++)
        for (uint32_t k = 0; k < lengths[i]; k++) kd_buf_append(b, k < x->answer[i].prompt ? "\0" : "\1", 1);
    return b->failed ? kd_fail(err, KD_ENOMEM, "no memory for a chunk") : KD_OK;
}

static kd_status write_part(generation *g, part *x, kd_err *err)
{
    uint32_t lengths[CHUNK];
    uint8_t split[CHUNK];
    size_t tokens, k = 0;
    kd__said *said;
    kd_block b[COLUMNS];
    kd_status st = kd__said_open(&said, x->rows, err);
    for (uint32_t i = 0; i < x->rows && !st; i++)
        st = kd__said_join(said, i, &g->logits, x->answer[i].said, err);
    if (!st) st = gather(g, x, lengths, &tokens, err);
    if (!st) {
        const size_t bytes = tokens * kd_dtype_size(g->text.c->dtype);
        memset(split, x->split, sizeof split);
        b[k++] = (kd_block){.data = x->id, .bytes = x->rows * sizeof *x->id};
        b[k++] = (kd_block){.data = split, .bytes = x->rows};
        if (g->source >= 0) b[k++] = (kd_block){.data = x->source, .bytes = x->rows * sizeof *x->source};
        b[k++] = (kd_block){.data = g->room[0].text, .bytes = bytes, .lengths = lengths};
        b[k++] = (kd_block){.data = g->room[0].text + bytes, .bytes = tokens, .lengths = lengths};
        st = kd__said_end(said, &g->room[1], &b[k], err);
    }
    if (!st) st = kd_store_writer_append(g->writer, x->split, x->rows, b, err);
    if (!st) st = kd_store_writer_commit(g->writer, err);
    for (uint32_t i = 0; i < x->rows && !st; i++) {
        g->report.tokens += x->answer[i].n;
        g->report.predicted += x->answer[i].n - x->answer[i].prompt;
    }
    if (!st) g->report.rows += x->rows;
    kd__said_free(said);
    return st;
}

/* ---- begin and end -------------------------------------------------------------------------- */

static json_t *settings(const kd_generate_params *p)
{
    return json_pack("{s:f, s:f, s:I, s:I, s:I}", "temperature", p->how.temperature, "top_p", p->how.top_p,
                     "seed", (json_int_t)p->how.seed, "answer", (json_int_t)p->answer, "prompt",
                     (json_int_t)p->prompt);
}

/* The column of logits, with what its codec has learned from the prompts. */
static kd_status make_logits(generation *g, kd_err *err)
{
    const kd_graph *graph = g->t->model->graph;
    kd_column *c = &g->logits.column;
    kd__reader r = {0};
    *c = (kd_column){.role = KD_ROLE_LOGITS,
                     .dtype = g->p->dtype,
                     .ndims = 2,
                     .dims = {-1, (int64_t)g->t->classes}};
    const int n = snprintf(c->name, sizeof c->name, "%s/logits", g->name);
    if (n < 0 || (size_t)n >= sizeof c->name)
        return kd_fail(err, KD_EUSAGE, "the name '%.80s' is too long; give a shorter one with --name",
                       g->name);
    memcpy(c->teacher, g->name, (size_t)n - strlen("/logits"));
    snprintf(c->tap, sizeof c->tap, "%s", kd_graph_node_name(graph, g->t->model->logits));
    json_t *params = json_pack("{s:s, s:s}", "form", kd_tap_form_name(KD_TAP_FLAT), "input", g->text.c->name);
    if (!params) return kd_fail(err, KD_ENOMEM, "out of memory");
    g->logits.said = true;
    kd_status st = kd__target_make(&g->logits, KD__LOGITS,
                                   kd__said_encoding(g->t, g->p->encoding, g->p->dtype), params, err);
    if (!st) st = kd__reader_open(&r, g->t, g->p->sample ? g->p->sample : g->s, NULL, true, 1, err);
    r.text[0].mask = -1; // of prompts alone nothing is predicted
    if (!st) st = kd__said_learn(&g->logits, g->t, &r, err);
    kd__reader_close(&r);
    return st;
}

static kd_status check(generation *g, kd_err *err)
{
    const kd_generate_params *p = g->p;
    kd__text text[KD__TEXTS];
    int n;
    if (!g->t->speaks)
        return kd_fail(err, KD_EUSAGE, "%s: is a %s, which writes no answers; a language model (llama) does",
                       g->t->folder, g->t->model->spec.arch);
    kd_status st = kd_teacher_check(g->t, g->s, err);
    if (!st) st = kd__teacher_texts(text, &n, g->t, g->s, err);
    if (st) return st;
    if (n > 1)
        return kd_fail(err, KD_EUSAGE, "%s: has %d columns of texts, prompts are one", kd_store_path(g->s),
                       n);
    if (p->answer < 1 || p->rows < 1 || p->rows > KD_GENERATE_ROWS || p->prompt < 0)
        return kd_fail(err, KD_EUSAGE,
                       "answers of %lld tokens, %lld rows side by side; expected 1 or more, and 1 to %d",
                       (long long)p->answer, (long long)p->rows, KD_GENERATE_ROWS);
    g->text = text[0];
    g->id = kd_store_find_role(g->s, KD_ROLE_ID, NULL);
    g->source = kd_store_find_role(g->s, KD_ROLE_SOURCE, NULL);
    const int64_t positions = g->t->model->spec.positions,
                  rows = json_integer_value(json_object_get(g->text.c->params, "max_tokens"));
    int64_t most = rows ? rows : positions;
    if (p->prompt && g->text.mask < 0 && p->prompt < most) most = p->prompt;
    g->most = (uint32_t)(most + p->answer < positions ? most + p->answer : positions);
    return KD_OK;
}

/* What the bits depend on. Of a part of a store: the whole one's root, and which part. */
static json_t *contract_of(const generation *g)
{
    const json_t *base = json_array_get(json_object_get(kd_store_manifest(g->s), "segments"), 0);
    json_t *shard = json_object_get(json_object_get(base, "contract"), "shard");
    const char *of = json_string_value(json_object_get(shard, "of"));
    json_t *j = json_pack("{s:s, s:s, s:s, s:o, s:s, s:O*}", "kind", "generate", "teacher", g->t->fingerprint,
                          "prompts", of ? of : kd_store_base_root(g->s), "generate", settings(g->p), "isa",
                          kd_isa_name(kd_cpu_isa()), "shard", shard);
    if (j && g->t->precision)
        json_object_set_new(j, "products", json_string(kd_nn_products(g->t->precision)));
    return j;
}

static kd_status begin(generation *g, const char *out, const kd_writer_params *params, kd_err *err)
{
    kd_column columns[COLUMNS];
    kd_writer_params wp = *params;
    size_t n = 0;
    json_t *contract = contract_of(g);
    wp.chunk_rows = CHUNK;
    kd_status st =
        contract ? columns_of(g, columns, &n, err) : kd_fail(err, KD_ENOMEM, "%s: out of memory", out);
    if (!st) st = kd_store_create(&g->writer, out, columns, n, contract, &wp, err);
    if (!st) { // behind what is there
        uint64_t rows = kd_store_writer_rows(g->writer);
        while (g->chunk < kd_store_chunks(g->s) && rows >= kd_store_chunk(g->s, g->chunk)->rows)
            rows -= kd_store_chunk(g->s, g->chunk++)->rows;
        if (rows) st = read_chunk(g, err);
        g->read = (uint32_t)rows;
    }
    for (size_t i = 0; i + 1 < n; i++) json_decref(columns[i].params); // the last one's are the target's
    json_decref(contract);
    return st;
}

static kd_status seal(generation *g, kd_err *err)
{
    const kd_model *m = g->t->model;
    json_t *extra =
        json_pack("{s:{s:s, s:s, s:s, s:s, s:I, s:f, s:s, s:f, s:I, s:o, s:s*}, s:s}", "teacher", "name",
                  g->name, "fingerprint", g->t->fingerprint, "model", m->name, "arch", m->spec.arch, "params",
                  (json_int_t)kd_graph_param_count(m->graph), "macs", kd_graph_macs(m->graph), "command",
                  g->p->command ? g->p->command : "", "seconds", g->report.teacher, "seconds_rows",
                  (json_int_t)g->report.rows, "generate", settings(g->p), "tokenizer",
                  *g->t->tokenizer ? g->t->tokenizer : NULL, "command", g->p->command ? g->p->command : "");
    kd_status st = extra ? kd_store_writer_seal(g->writer, extra, err)
                         : kd_fail(err, KD_ENOMEM, "out of memory (or a name that is not UTF-8)");
    if (extra) g->writer = NULL; // seal frees it in every case
    json_decref(extra);
    return st;
}

/* ---- the pass ------------------------------------------------------------------------------- */

/* The next row to begin; NULL: there is none now. */
static kd_status next_answer(generation *g, kd__answer **out, kd_err *err)
{
    kd_status st = KD_OK;
    for (size_t i = g->closed; !st; i++) {
        if (i == g->opened) {
            if (i - g->closed == OPEN || g->chunk == kd_store_chunks(g->s)) break;
            if ((st = open_part(g, err))) break;
        }
        part *x = &g->part[i % OPEN];
        while (x->begun < x->rows && x->answer[x->begun].ended) x->begun++;
        if (x->begun == x->rows) continue;
        *out = &x->answer[x->begun++];
        return KD_OK;
    }
    *out = NULL;
    return st;
}

/* Writes the parts whose rows have all ended, in their order. */
static kd_status close_parts(generation *g, kd_err *err)
{
    kd_status st = KD_OK;
    for (; g->closed < g->opened && !st; g->closed++) {
        part *x = &g->part[g->closed % OPEN];
        uint32_t ended = 0;
        while (ended < x->rows && x->answer[ended].ended) ended++;
        if (ended < x->rows) return KD_OK;
        st = write_part(g, x, err);
        release_part(x);
    }
    return st;
}

static void tell(const generation *g)
{
    uint64_t rows = kd_store_writer_rows(g->writer);
    for (size_t i = g->closed; i < g->opened; i++)
        for (uint32_t k = 0; k < g->part[i % OPEN].rows; k++) rows += g->part[i % OPEN].answer[k].ended;
    if (g->p->progress) g->p->progress(g->p->arg, rows, kd_store_rows(g->s));
}

static kd_status run(generation *g, kd_err *err)
{
    kd_status st = KD_OK;
    while (!st) {
        kd__answer *a = NULL;
        if (g->p->stop && *g->p->stop)
            return kd_fail(err, KD_ESTOPPED, "stopped after %llu of %llu rows; go on with --resume",
                           (unsigned long long)kd_store_writer_rows(g->writer),
                           (unsigned long long)kd_store_rows(g->s));
        while (kd__speakers_free(g->speakers) && !(st = next_answer(g, &a, err)) && a)
            kd__speakers_begin(g->speakers, a);
        const double start = kd_now();
        const bool idle = kd__speakers_idle(g->speakers); // what is open may have no room for answers
        if (!st && !idle) st = kd__speakers_step(g->speakers, err);
        g->report.teacher += kd_now() - start;
        if (!st) st = close_parts(g, err);
        if (!st) tell(g);
        if (idle && g->opened == g->closed && g->chunk == kd_store_chunks(g->s)) break;
    }
    return st;
}

kd_status kd_teacher_generate(kd_teacher *t, kd_store *prompts, const char *out, const kd_generate_params *p,
                              const kd_writer_params *wp, kd_dump_report *report, kd_err *err)
{
    const double start = kd_now();
    const kd_writer_params w = wp ? *wp : kd_writer_default_params();
    generation *g = calloc(1, sizeof *g);
    if (!g) return kd_fail(err, KD_ENOMEM, "%s: out of memory", out);
    g->t = t;
    g->s = prompts;
    g->p = p;
    g->name = p->name ? p->name : kd_teacher_name(t);
    kd_status st = check(g, err);
    if (st || (st = make_logits(g, err)) || (st = kd_cursor_open(&g->cursor, prompts, err)) ||
        (st = begin(g, out, &w, err)) ||
        (st = kd__speakers_open(&g->speakers, t, &g->logits, p, g->most, err)))
        goto out;
    if (!(st = run(g, err)))
        st = seal(g, err);
    else if (st == KD_ESTOPPED)
        st = kd_fail_in(err, st, "%s", out);
out:
    kd_store_writer_close(g->writer); // after a failure: what is whole stays for a resume
    g->report.seconds = kd_now() - start;
    if (report) *report = g->report;
    for (size_t i = g->closed; i < g->opened; i++) release_part(&g->part[i % OPEN]);
    kd__speakers_close(g->speakers);
    kd__tokens_release(&g->tokens);
    kd__target_release(&g->logits);
    kd_cursor_close(g->cursor);
    kd_buf_release(&g->room[0]);
    kd_buf_release(&g->room[1]);
    free(g);
    return st;
}
