/* dump.c - the teacher's one pass over a store.
 *
 * Two stages, each on a thread, with two places between them (ring.c):
 *
 *     reads chunks, makes views, runs the teacher  ->  2 chunks of values  ->  encodes, packs, writes
 *
 * The first one is the caller's thread with the teacher's team, which also decodes the input (reader.c). The
 * other one needs little time and waits for the disk, so the pass takes as long as the teacher does. What
 * waits in the places is all the memory there is besides the reader's and the writer's: it does not grow with
 * the store.
 *
 * The writer commits whole chunks, so a pass that is killed goes on behind the last commit; a stage that
 * fails lets the chunks before it go through. Codebooks are learned from one chunk, which is run before the
 * segment is begun, because its header names their checksums; a pass from the start then writes what it
 * learned from.
 *
 * What a language model says of a chunk does not fit into memory: it is encoded while the model is at it
 * (language.c), and the second stage writes.
 *
 * The contract of the segment holds what the bits depend on beside the columns themselves: teacher, the
 * data's root, the batch size and the instruction set. The writer refuses to resume under another one.
 */
#include "teacher_private.h"

#include <stdlib.h>
#include <string.h>

#define COMMIT_SECONDS                                                                                       \
    2.0 /* of a pass that a kill can cost; logits are too small to fill a commit by bytes */

enum { VALUES = 2 }; /* places between the stages */

typedef struct pass {
    kd_teacher *t;
    kd_store *s;
    const kd_dump_params *p;
    const char *name; /* of the teacher in the store */
    char segment[KD_STORE_NAME_MAX];
    kd__target target[KD__TARGETS];
    size_t n;
    kd__reader reader;
    kd_cursor *ids; /* the last stage's */
    kd_id *id;      /* (most rows of a chunk) */
    kd__encoder encoder[KD__TARGETS];
    kd_store_writer *writer;
    int threads;      /* of the encoder */
    double committed; /* when */
    uint32_t from;    /* the first chunk of this call */
    kd__values value[VALUES];
    kd__ring values;
    float *scratch; /* (batch, classes) */
    kd_err write_err;
    kd_dump_report report;
} pass;

kd_dump_params kd_dump_default_params(void) { return (kd_dump_params){.logits = true, .dtype = KD_F32}; }

/* ---- what is asked for ---------------------------------------------------------------------- */

static bool wants_views(const kd_dump_params *p) { return p->views && p->views->count > 0; }

static kd_status put_name(char out[KD_STORE_NAME_MAX], const char *name, const char *what, const char *node,
                          kd_err *err)
{
    const int n = snprintf(out, KD_STORE_NAME_MAX, "%s%s%s", name, what, node);
    if (n >= 0 && n < KD_STORE_NAME_MAX) return KD_OK;
    return kd_fail(err, KD_EUSAGE,
                   "the name '%.80s%s%.80s' is longer than %d; give the teacher a shorter one with --name",
                   name, what, node, KD_STORE_NAME_MAX - 1);
}

static kd_status put_segment(char out[KD_STORE_NAME_MAX], const kd_dump_params *p, const char *name,
                             kd_err *err)
{
    if (p->segment) return put_name(out, p->segment, "", "", err);
    if (p->logits) return put_name(out, name, "", "", err);
    if (p->ntaps) return put_name(out, name, ".feat.", p->taps[0].node, err);
    return put_name(out, name, ".views", "", err);
}

kd_status kd_dump_segment(const kd_dump_params *p, const char *name, char out[KD_STORE_NAME_MAX], kd_err *err)
{
    kd_status st = put_segment(out, p, name, err);
    if (st || strlen(out) <= KD_STORE_SEGMENT_MAX) return st;
    return kd_fail(err, KD_EUSAGE,
                   "the name '%s' is longer than the %d letters of a segment; give a shorter one: %s", out,
                   KD_STORE_SEGMENT_MAX, p->segment ? "--segment" : "--name");
}

static kd_status add(pass *p, unsigned source, const char *what, const char *node, kd_column c,
                     const char *encoding, json_t *params, kd_err *err)
{
    kd__target *g = &p->target[p->n++];
    c.dtype = p->p->dtype;
    g->column = c;
    snprintf(g->column.teacher, sizeof g->column.teacher, "%s", p->name);
    kd_status st = kd__target_make(g, source, encoding, params, err); // takes params in every case
    return st ? st : put_name(g->column.name, p->name, what, node, err);
}

static kd_status add_tap(pass *p, size_t i, kd_err *err)
{
    kd_column c = {.role = KD_ROLE_FEATURE};
    kd_tap tap;
    c.ndims = kd_teacher_tap_shape(p->t, i, &tap, c.dims);
    memcpy(c.tap, tap.node, sizeof c.tap);
    json_t *params = json_pack("{s:s}", "form", kd_tap_form_name(tap.form));
    if (!params) return kd_fail(err, KD_ENOMEM, "out of memory");
    return add(p, KD__TAPS + (unsigned)i, "/feat.", tap.node, c, p->p->feature_encoding, params, err);
}

/* One node's values for the texts of each column: what: "/embedding", or "/feat." and the node. */
static kd_status add_texts(pass *p, unsigned source, const char *what, kd_node node, kd_err *err)
{
    const kd_graph *g = p->t->model->graph;
    const bool tokens = kd_graph_node_per(g, node) == KD_PER_TOKEN,
               said = p->t->speaks && source == KD__LOGITS;
    const char *name = kd_graph_node_name(g, node),
               *encoding =
                   said ? kd__said_encoding(p->t, p->p->encoding, p->p->dtype) : p->p->feature_encoding;
    kd_status st = KD_OK;
    if (!said && tokens && encoding && strcmp(encoding, "dense"))
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: values of each token as %s; they are dense: f32, f16 or bf16", name, encoding);
    for (int k = 0; k < p->reader.texts && !st; k++) {
        const kd__text *x = &p->reader.text[k];
        char full[2 * KD_STORE_NAME_MAX];
        int64_t dims[KD_MAX_DIMS];
        const bool logits = source == KD__LOGITS && (said || p->t->model->spec.classes);
        kd_column c = {.role = logits ? KD_ROLE_LOGITS : KD_ROLE_FEATURE};
        if (tokens) c.dims[c.ndims++] = -1;
        if (!tokens && x->each > 1) c.dims[c.ndims++] = x->each;
        const int n = kd_graph_node_shape(g, node, dims);
        for (int i = 0; i < n; i++) c.dims[c.ndims++] = dims[i];
        snprintf(c.tap, sizeof c.tap, "%s", name);
        snprintf(full, sizeof full, "%s%s%s", source == KD__LOGITS ? "" : name,
                 p->reader.texts > 1 ? "." : "", p->reader.texts > 1 ? x->c->name : "");
        json_t *params = json_pack("{s:s, s:s}", "form", kd_tap_form_name(KD_TAP_FLAT), "input", x->c->name);
        if (!params) return kd_fail(err, KD_ENOMEM, "out of memory");
        if (p->n == KD__TARGETS) {
            json_decref(params);
            return kd_fail(err, KD_EUSAGE, "more than %d columns at once; take fewer taps", KD__TARGETS);
        }
        p->target[p->n].text = k;
        p->target[p->n].said = said;
        st = add(p, source, what, full, c, encoding, params, err);
    }
    return st;
}

static kd_status make_text_targets(pass *p, kd_err *err)
{
    const kd_model *m = p->t->model;
    kd_status st = kd_teacher_take(p->t, p->p->taps, p->p->ntaps, err);
    if (!st && p->p->logits)
        st = add_texts(p, KD__LOGITS, p->t->speaks || m->spec.classes ? "/logits" : "/embedding", m->logits,
                       err);
    for (size_t i = 0; i < p->p->ntaps && !st; i++)
        st = add_texts(p, KD__TAPS + (unsigned)i, "/feat.", p->t->tap[i].node, err);
    return st;
}

static kd_status make_targets(pass *p, kd_err *err)
{
    const kd_model *m = p->t->model;
    const int64_t classes = (int64_t)p->t->classes;
    if (p->reader.texts) return make_text_targets(p, err);
    kd_column c = {.role = KD_ROLE_LOGITS, .ndims = 1, .dims = {classes}};
    kd_status st = kd_teacher_take(p->t, p->p->taps, p->p->ntaps, err);
    snprintf(c.tap, sizeof c.tap, "%s", kd_graph_node_name(m->graph, m->logits));
    if (!st && p->p->logits) st = add(p, KD__LOGITS, "/logits", "", c, p->p->encoding, NULL, err);
    if (!st && wants_views(p->p)) {
        // A view that mixes rows needs its whole chunk to be made again: the store never splits such a one.
        json_t *params = json_pack("{s:o, s:o*}", "views", kd_view_json(p->p->views), "whole_chunks",
                                   kd_view_mixes(p->p->views) ? json_true() : NULL);
        c.role = KD_ROLE_VIEW;
        c.ndims = 2;
        c.dims[0] = p->p->views->count;
        c.dims[1] = classes;
        st = params ? add(p, KD__VIEWS, "/logits.views", "", c, p->p->encoding, params, err)
                    : kd_fail(err, KD_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < p->p->ntaps && !st; i++) st = add_tap(p, i, err);
    return st;
}

/* One name never stands for two teachers. A segment that this pass replaces does not count. */
static kd_status check_name(const pass *p, bool force, kd_err *err)
{
    const json_t *segment;
    size_t i;
    json_array_foreach(json_object_get(kd_store_manifest(p->s), "segments"), i, segment)
    {
        const json_t *t = json_object_get(segment, "teacher");
        const char *name = json_string_value(json_object_get(t, "name")),
                   *have = json_string_value(json_object_get(t, "fingerprint")),
                   *at = json_string_value(json_object_get(segment, "name"));
        if (!name || !have || !at || strcmp(name, p->name) || !strcmp(have, p->t->fingerprint)) continue;
        if (!strcmp(at, p->segment) && force) continue;
        return kd_fail(err, KD_EMISMATCH,
                       "%s: other teacher: segment %s is of '%s' with the fingerprint %.32s, %s has %s; give "
                       "another --name, or replace it with --force",
                       kd_store_path(p->s), at, name, have, p->t->folder, p->t->fingerprint);
    }
    return KD_OK;
}

/* ---- begin and end -------------------------------------------------------------------------- */

static kd_status begin(pass *p, const kd_writer_params *wp, kd_err *err)
{
    kd_column columns[KD__TARGETS];
    const json_t *base = json_array_get(json_object_get(kd_store_manifest(p->s), "segments"), 0);
    const char *root = json_string_value(json_object_get(base, "root"));
    json_t *contract =
        json_pack("{s:s, s:s, s:s, s:I, s:s}", "kind", "teacher", "teacher", p->t->fingerprint, "store",
                  root ? root : "", "batch", (json_int_t)p->t->batch, "isa", kd_isa_name(kd_cpu_isa()));
    if (!contract) return kd_fail(err, KD_ENOMEM, "%s: out of memory", kd_store_path(p->s));
    if (p->t->precision)
        json_object_set_new(contract, "products", json_string(kd_nn_products(p->t->precision)));
    for (size_t i = 0; i < p->n; i++) columns[i] = p->target[i].column;
    kd_status st = kd_store_extend(&p->writer, p->s, p->segment, columns, p->n, contract, wp, err);
    json_decref(contract);
    if (!st) p->from = kd_store_writer_chunks(p->writer);
    p->committed = kd_now();
    return st;
}

static kd_status seal(pass *p, kd_err *err)
{
    const kd_model *m = p->t->model;
    const char *text =
        p->p->command ? p->p->command : ""; // beside the teacher too, where every segment has it
    json_t *extra = json_pack("{s:{s:s, s:s, s:s, s:s, s:I, s:f, s:s, s:f, s:I}, s:s}", "teacher", "name",
                              p->name, "fingerprint", p->t->fingerprint, "model", m->name, "arch",
                              m->spec.arch, "params", (json_int_t)kd_graph_param_count(m->graph), "macs",
                              kd_graph_macs(m->graph), "command", text, "seconds", p->report.teacher,
                              "seconds_rows", (json_int_t)p->report.rows, "command", text);
    json_t *teacher = json_object_get(extra, "teacher");
    if (teacher && *p->t->tokenizer) json_object_set_new(teacher, "tokenizer", json_string(p->t->tokenizer));
    kd_status st = extra ? kd_store_writer_seal(p->writer, extra, err)
                         : kd_fail(err, KD_ENOMEM, "%s: out of memory (or a name that is not UTF-8)",
                                   kd_store_path(p->s));
    if (extra) p->writer = NULL; // seal frees it in every case
    json_decref(extra);
    return st;
}

/* ---- the stages ----------------------------------------------------------------------------- */

static kd_status write_chunk(pass *p, const kd__values *v, kd_err *err)
{
    const kd_chunk_info *ci = kd_store_chunk(p->s, v->chunk);
    kd_block block[KD__TARGETS];
    kd_status st = KD_OK;
    if (p->ids) st = kd_cursor_read(p->ids, p->reader.id, v->chunk, p->id, ci->rows * sizeof *p->id, err);
    for (size_t i = 0; i < p->n && !st; i++)
        st = v->said[i] ? kd__said_end(v->said[i], &p->encoder[i].buf, &block[i], err)
                        : kd__encode(&p->encoder[i], &p->target[i], v->v[i], p->id,
                                     p->target[i].column.dims[0] < 0 ? v->lengths[p->target[i].text] : NULL,
                                     ci->rows, p->threads, kd_store_path(p->s), ci->first, &block[i], err);
    if (!st) st = kd_store_writer_append(p->writer, ci->split, ci->rows, block, err);
    // While the teacher runs the last chunk, everything before it is made durable: nothing runs beside seal.
    const bool last_but_one = v->chunk + 2 == kd_store_chunks(p->s);
    if (st || (!last_but_one && kd_now() - p->committed < COMMIT_SECONDS)) return st;
    p->committed = kd_now();
    return kd_store_writer_commit(p->writer, err);
}

static void *write_stage(void *arg)
{
    pass *p = arg;
    for (size_t place; (place = kd__ring_take(&p->values)) != SIZE_MAX; kd__ring_emptied(&p->values))
        if (write_chunk(p, &p->value[place], &p->write_err)) {
            kd__ring_stop(&p->values);
            break;
        }
    return NULL;
}

/* One feed through the teacher. */
static kd_status run_feed(pass *p, const kd__feed *f, kd__values *v, kd_err *err)
{
    if (p->p->stop && *p->p->stop) return kd_fail(err, KD_ESTOPPED, "%s", kd_store_path(p->s));
    const double start = kd_now();
    v->chunk = f->chunk;
    v->rows = kd_store_chunk(p->s, f->chunk)->rows;
    kd_status st = kd__values_take(v, p->t, f, p->target, p->n, p->scratch, err);
    p->report.teacher += kd_now() - start;
    if (p->t->speaks) p->report.tokens += f->offset[f->rows];
    for (uint64_t i = 0; p->t->speaks && p->p->logits && i < (uint64_t)f->rows; i++)
        p->report.predicted += v->said[f->text]->lengths[f->at.first + i];
    return st;
}

static kd_status run_chunk(pass *p, uint32_t chunk, kd__values *v, kd_err *err)
{
    const kd_chunk_info *ci = kd_store_chunk(p->s, chunk);
    kd__feed f = {0};
    kd_status st = kd__reader_seek(&p->reader, chunk, err);
    while (!st && !f.closes) {
        kd__reader_next(&p->reader, &f);
        if (!(st = run_feed(p, &f, v, err)) && p->p->progress)
            p->p->progress(p->p->arg, ci->first + (uint64_t)(f.done * ci->rows), kd_store_rows(p->s));
    }
    return st;
}

static void run_stage(pass *p, kd_err *err)
{
    for (uint32_t i = p->from; i < kd_store_chunks(p->s); i++) {
        const size_t place = kd__ring_free(&p->values);
        if (place == SIZE_MAX || run_chunk(p, i, &p->value[place], err)) break; // SIZE_MAX: the writer failed
        p->report.rows += kd_store_chunk(p->s, i)->rows;
        kd__ring_filled(&p->values);
    }
    kd__ring_end(&p->values);
}

/* Both, from chunk p->from on. The failure that concerns the earliest rows is reported. */
static kd_status run(pass *p, kd_err *err)
{
    pthread_t writer;
    kd_err run_err = {0};
    kd__ring_init(&p->values, VALUES);
    if (!pthread_create(&writer, NULL, write_stage, p)) {
        run_stage(p, &run_err);
        pthread_join(writer, NULL);
    } else {
        kd_fail(&run_err, KD_ENOMEM, "%s: no memory for a thread", kd_store_path(p->s));
    }
    kd__ring_release(&p->values);
    const kd_err *e = p->write_err.code ? &p->write_err : &run_err;
    if (e->code == KD_ESTOPPED)
        return kd_fail(err, KD_ESTOPPED, "%s: stopped after %llu of %llu rows; go on with --resume",
                       kd_store_path(p->s), (unsigned long long)kd_store_writer_rows(p->writer),
                       (unsigned long long)kd_store_rows(p->s));
    return e->code ? kd_fail(err, e->code, "%s", e->msg) : KD_OK;
}

/* ---- the pass ------------------------------------------------------------------------------- */

static kd_status make_rooms(pass *p, kd_err *err)
{
    const size_t most = kd__most_rows(p->s);
    bool coded = false;
    kd_status st = KD_OK;
    p->scratch = kd_alloc_aligned(kd__scratch_floats(p->t), sizeof *p->scratch);
    p->id = kd_alloc_aligned(most + 1, sizeof *p->id);
    if (!p->scratch || !p->id)
        return kd_fail(err, KD_ENOMEM, "%s: no memory for batches", kd_store_path(p->s));
    for (size_t i = 0; i < VALUES && !st; i++) st = kd__values_open(&p->value[i], p->target, p->n, most, err);
    for (size_t i = 0; i < p->n; i++)
        coded = coded || (!p->target[i].said && kd_codec_find(p->target[i].column.encoding));
    return !st && coded ? kd_cursor_open(&p->ids, p->s, err) : st;
}

/* Learns codebooks from the first chunk of the sample and opens the codecs. *mine: what it was learned from
 * is this store's first chunk, in p->value[0]. */
static kd_status learn(pass *p, bool *mine, kd_err *err)
{
    kd_store *s = p->p->sample ? p->p->sample : p->s;
    const kd_view_spec *views = wants_views(p->p) ? p->p->views : NULL;
    kd__values v = {0}, *to = s == p->s ? &p->value[0] : &v;
    kd__reader other = {0}, *from = s == p->s ? &p->reader : &other;
    bool learns = false, says = false;
    kd_status st = KD_OK;
    const double start = kd_now();
    for (size_t i = 0; i < p->n; i++) {
        learns = learns || (kd__target_learns(&p->target[i]) && !p->target[i].said);
        says = says || (kd__target_learns(&p->target[i]) && p->target[i].said);
    }
    if (from == &other && (learns || says))
        st = kd__reader_open(&other, p->t, s, views, p->reader.plain, 1, err);
    if (!st && from == &other && learns) st = kd__values_open(&v, p->target, p->n, kd__most_rows(s), err);
    if (!st && learns) st = kd__values_fill(to, p->t, from, 0, p->target, p->n, err);
    for (size_t i = 0; i < p->n && !st; i++)
        st = p->target[i].said ? kd__said_learn(&p->target[i], p->t, from, err)
                               : kd__target_open(&p->target[i], to->v[i], to->rows, err);
    if (learns)
        p->report.teacher += kd_now() - start; // what it says alone is not kept: no part of the rows' time
    *mine = learns && s == p->s;
    if (from == &other) kd__reader_close(&other);
    kd__values_release(&v);
    return st;
}

static void release(pass *p)
{
    kd_store_writer_close(p->writer); // after a failure: what is whole stays for a resume
    for (size_t i = 0; i < p->n; i++) {
        kd__target_release(&p->target[i]);
        kd__encoder_release(&p->encoder[i]);
    }
    for (size_t i = 0; i < VALUES; i++) kd__values_release(&p->value[i]);
    kd__reader_close(&p->reader);
    kd_cursor_close(p->ids);
    free(p->id);
    free(p->scratch);
}

static kd_status check_params(const kd_dump_params *p, kd_err *err)
{
    if (p->dtype != KD_F32 && p->dtype != KD_F16 && p->dtype != KD_BF16)
        return kd_fail(err, KD_EUNSUPPORTED, "teacher outputs as %s; expected f32, f16 or bf16",
                       kd_dtype_name(p->dtype));
    if (!p->logits && !p->ntaps && !wants_views(p))
        return kd_fail(err, KD_EUSAGE, "nothing to dump: no logits, no tap and no views");
    return KD_OK;
}

kd_status kd_teacher_dump(kd_teacher *t, kd_store *s, const kd_dump_params *params,
                          const kd_writer_params *wp, kd_dump_report *report, kd_err *err)
{
    const double start = kd_now();
    const kd_writer_params w = wp ? *wp : kd_writer_default_params();
    pass p = {.t = t, .s = s, .p = params, .threads = w.threads < 1 ? 1 : w.threads};
    bool mine = false;
    p.name = params->name ? params->name : kd_teacher_name(t);
    kd_status st = check_params(params, err);
    if (st || (st = kd_dump_segment(params, p.name, p.segment, err)) ||
        (st = kd__reader_open(&p.reader, t, s, wants_views(params) ? params->views : NULL,
                              params->logits || params->ntaps, t->threads, err)) ||
        (st = check_name(&p, w.force, err)) || (st = make_targets(&p, err)) || (st = make_rooms(&p, err)) ||
        (st = learn(&p, &mine, err)) || (st = begin(&p, &w, err)))
        goto out;
    if (mine && !p.from && kd_store_chunks(s)) {
        if ((st = write_chunk(&p, &p.value[0], err))) goto out;
        p.report.rows += p.value[0].rows;
        p.from = 1;
    }
    if (!(st = run(&p, err))) st = seal(&p, err);
out:
    release(&p);
    p.report.seconds = kd_now() - start;
    if (report) *report = p.report;
    return st;
}
