/* taps.c - the student's side of features: which of its nodes, led to what shape; and row numbers for crd.
 *
 * A term with features makes the student's training graph longer: its tap, pooled where the teacher's feature
 * was pooled, then whatever the objective learns between the two (kd_loss_project). All of that stands behind
 * the model in the same graph, so one backward pass carries every gradient, the optimizer and the checkpoints
 * see one slab, and the saved model is the beginning of it.
 *
 * On validation rows the same nodes are compared, and nothing else behind the model is computed.
 *
 * crd keeps one entry a training row. A row's number is its place among the training rows in the order of the
 * store, which is the same in every epoch, for any shuffle and any other students. Validation rows have no
 * entry: crd is no part of the validation loss.
 */
#include "train_private.h"

#include <stdlib.h>
#include <string.h>

/* ---- taps --------------------------------------------------------------------------------- */

static kd_status no_node(const kd__run *r, const kd_graph *g, const char *name, const char *label,
                         kd_err *err)
{
    const int n = kd_graph_nodes(g);
    const char **names = malloc((size_t)n * sizeof(*names)), *near = NULL;
    kd_buf all = {0};
    for (int i = 0; names && i < n; i++) {
        names[i] = kd_graph_node_name(g, i);
        if (strncmp(names[i], KD_LOSS_PREFIX, strlen(KD_LOSS_PREFIX)))
            kd_buf_printf(&all, "%s%s", i ? ", " : "", names[i]);
    }
    if (names) near = kd_nearest(name, names, (size_t)n);
    kd_status st = near ? kd_fail(err, KD_EUSAGE, "%s: tap of %s: no node '%.60s' (did you mean '%s'?)",
                                  r->spec.name, label, name, near)
                        : kd_fail(err, KD_EUSAGE, "%s: tap of %s: no node '%.60s'; it has: %s", r->spec.name,
                                  label, name, all.text ? all.text : "?");
    free(names);
    kd_buf_release(&all);
    return st;
}

/* A map of the student as the teacher's was when it became a vector: its mean, or its largest values. */
static kd_status pool(kd_graph *g, int i, kd_node tap, const kd_column *c, kd_node *out, kd_err *err)
{
    const char *form = json_string_value(json_object_get(c->params, "form"));
    char pooled[48], flat[48];
    int64_t dims[KD_MAX_DIMS];
    *out = tap;
    if (kd_graph_node_shape(g, tap, dims) != 3 || c->ndims != 1) return KD_OK;
    snprintf(pooled, sizeof(pooled), KD_LOSS_PREFIX "%d.pool", i);
    snprintf(flat, sizeof(flat), KD_LOSS_PREFIX "%d.pool.flat", i);
    if (!form || strcmp(form, "max")) {
        *out = kd_nn_global_avgpool(g, pooled, tap);
        return KD_OK;
    }
    if (dims[0] != dims[1])
        return kd_fail(err, KD_EUNSUPPORTED,
                       "column %s holds largest values over pixels, and the student's map of %lldx%lld is no "
                       "square; dump the mean: --tap %s:mean",
                       c->name, (long long)dims[0], (long long)dims[1], c->tap);
    *out = kd_nn_flatten(g, flat, kd_nn_maxpool(g, pooled, tap, (int)dims[0], (int)dims[0]));
    return KD_OK;
}

static kd_loss_dims dims_of(const kd_column *c)
{
    kd_loss_dims d = {.ndims = c->ndims ? c->ndims : 1, .dims = {1}};
    for (int i = 0; i < c->ndims; i++) d.dims[i] = c->dims[i];
    return d;
}

static kd_status add_tap(kd__run *r, const kd_trainer *t, kd_model *m, int i, kd_err *err)
{
    kd_loss_term term = kd_loss_term_at(r->loss, i);
    kd__source *s = &r->source[i];
    const kd_column *c = s->n ? kd__trainer_column(t, s->slot[0]) : NULL;
    const char *name = term.tap   ? term.tap
                       : r->texts ? kd_graph_node_name(m->graph, m->logits)
                       : c        ? c->tap
                                  : "";
    kd_node pooled;
    if (!*name)
        return kd_fail(err, KD_EUSAGE, "%s: %s compares features; name the student's node: tap", r->spec.name,
                       term.label);
    s->tap = kd_graph_find(m->graph, name);
    if (s->tap < 0) return no_node(r, m->graph, name, term.label, err);
    if (!c) {
        s->nodes.student = s->tap;
        return KD_OK;
    }
    s->teacher = dims_of(c);
    if (r->texts && s->teacher.ndims == 2)
        s->teacher = (kd_loss_dims){1, {s->teacher.dims[1]}}; // several texts
    kd_status st = pool(m->graph, i, s->tap, c, &pooled, err);
    if (!st && pooled < 0) return KD_OK; // kd_graph_finish says why
    if (!st) st = kd_loss_project(r->loss, i, m->graph, pooled, &s->teacher, &s->nodes, err);
    return st ? kd_fail_in(err, st, "%s: column %s", r->spec.name, c->name) : KD_OK;
}

typedef struct extension {
    kd__run *r;
    const kd_trainer *t;
} extension;

static kd_status extend(void *arg, kd_model *m, kd_err *err)
{
    const extension *x = arg;
    kd_status st = KD_OK;
    for (int i = 0; i < kd_loss_count(x->r->loss) && !st; i++)
        if (kd_loss_term_at(x->r->loss, i).needs & KD_NEEDS_NODE) st = add_tap(x->r, x->t, m, i, err);
    return st;
}

kd_status kd__taps_model(kd__run *r, kd_trainer *t, const json_t *spec, kd_err *err)
{
    extension x = {r, t};
    return kd_model_create_extended(&r->model, r->spec.name, spec, r->spec.config.path, extend, &x, err);
}

bool kd__term_judges(const kd_loss_term *term) { return !(term->needs & KD_NEEDS_SAMPLES); }

int kd__taps_judged(const kd__run *r, kd_node keep[1 + 2 * KD_LOSS_TERMS])
{
    int n = 0;
    keep[n++] = r->language ? kd__words_hidden(r) : r->model->logits;
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        const kd_loss_term term = kd_loss_term_at(r->loss, i);
        const kd__source *s = &r->source[i];
        if (s->tap < 0 || !kd__term_judges(&term)) continue;
        keep[n++] = s->nodes.student;
        if (s->nodes.teacher_out >= 0) keep[n++] = s->nodes.teacher_out;
    }
    return n;
}

/* ---- row numbers -------------------------------------------------------------------------- */

/* Labels of the training rows in the order of the store; those of chunk c begin at t->sample_first[c]. */
static kd_status read_samples(kd_trainer *t, int label, kd_err *err)
{
    uint64_t rows = kd_store_split_rows(t->store, KD_TRAIN), at = 0;
    kd_cursor *cursor = NULL;
    kd_status st = KD_OK;
    if (t->sample_first) return KD_OK;
    if (t->p.rows && t->p.rows < rows) rows = t->p.rows;
    t->sample_first = calloc(kd_store_chunks(t->store), sizeof(*t->sample_first));
    t->sample_labels = calloc((size_t)rows + 1, sizeof(*t->sample_labels));
    if (!t->sample_first || !t->sample_labels)
        return kd_fail(err, KD_ENOMEM, "no memory for the labels of %llu rows", (unsigned long long)rows);
    t->samples = (int64_t)rows;
    if (label >= 0) st = kd_cursor_open(&cursor, t->store, err);
    for (uint32_t c = 0; c < kd_store_chunks(t->store) && !st; c++) {
        const kd_chunk_info *info = kd_store_chunk(t->store, c);
        if (info->split != KD_TRAIN || at >= rows) continue;
        t->sample_first[c] = at;
        uint32_t n = (uint32_t)kd_min_size(info->rows, (size_t)(rows - at));
        if (label >= 0) st = kd__labels_read(t, cursor, label, c, n, t->sample_labels + at, err);
        at += n;
    }
    kd_cursor_close(cursor);
    return st;
}

void kd__samples_of(const kd_trainer *t, const kd__rows *rows, int64_t *samples)
{
    for (uint32_t i = 0; i < rows->n; i++) {
        uint32_t lo = 0, hi = kd_store_chunks(t->store) - 1; // to the chunk that holds the row
        uint64_t row = rows->row ? rows->row[i] : rows->first + i;
        while (lo < hi) {
            uint32_t mid = lo + (hi - lo + 1) / 2;
            if (kd_store_chunk(t->store, mid)->first <= row)
                lo = mid;
            else
                hi = mid - 1;
        }
        samples[i] = (int64_t)(t->sample_first[lo] + row - kd_store_chunk(t->store, lo)->first);
    }
}

/* ---- planning ----------------------------------------------------------------------------- */

/* Temperatures that every sparse column of the mix lists. */
static int common_temperatures(const kd__run *r, const kd_trainer *t, double *list)
{
    int n = -1;
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        if (!(kd_loss_term_at(r->loss, i).needs & KD_NEEDS_SPARSE)) continue;
        const kd_column *c = kd__trainer_column(t, r->source[i].slot[0]);
        const json_t *have = json_object_get(json_object_get(c->params, "codec"), "temperatures");
        int kept = 0, all = (int)json_array_size(have);
        if (!all) continue; // sampled targets list none
        for (int k = 0; n < 0 && k < all && k < KD_CODEC_MAX_TEMPERATURES; k++)
            list[kept++] = json_number_value(json_array_get(have, (size_t)k));
        for (int j = 0; j < n; j++) {
            bool common = false;
            for (int k = 0; k < all; k++)
                common |= json_number_value(json_array_get(have, (size_t)k)) == list[j];
            if (common) list[kept++] = list[j];
        }
        n = kept;
    }
    return n < 0 ? 0 : n;
}

static kd_status plan_joined(kd__run *r, size_t rows, kd_err *err)
{
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        size_t n;
        const bool features = r->source[i].tap >= 0;
        if (r->source[i].n < 2 || r->source[i].how == KD__TURNS) continue;
        if (!kd_mul_size(rows, (size_t)(features ? r->source[i].teacher.dims[0] : r->classes), &n) ||
            !(r->source[i].joined = kd_alloc_aligned(n, sizeof(float))))
            return kd_fail(err, KD_ENOMEM, "%s: no memory to join teachers", r->spec.name);
    }
    return KD_OK;
}

kd_status kd__taps_plan(kd__run *r, kd_trainer *t, kd_err *err)
{
    kd_loss_dims student[KD_LOSS_TERMS] = {0}, teacher[KD_LOSS_TERMS] = {0};
    double temperatures[KD_CODEC_MAX_TEMPERATURES];
    kd_graph *g = r->model->graph;
    int64_t rows = r->spec.train.batch > KD__EVAL_BATCH ? r->spec.train.batch : KD__EVAL_BATCH;
    if (r->texts) rows *= r->texts;
    if (r->language) rows = KD_HEAD_ROWS;
    kd_loss_shape shape = {.rows = rows,
                           .classes = r->classes,
                           .threads = t->p.threads,
                           .columns = r->texts,
                           .student = student,
                           .teacher = teacher,
                           .temperatures = temperatures,
                           .ntemperatures = common_temperatures(r, t, temperatures),
                           .seed = r->seed};
    kd_status st = KD_OK;
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        const kd__source *s = &r->source[i];
        if (s->tap < 0) continue;
        student[i].ndims = kd_graph_node_shape(g, s->nodes.student, student[i].dims);
        teacher[i] = s->teacher;
        if (s->nodes.teacher_out >= 0)
            teacher[i].ndims = kd_graph_node_shape(g, s->nodes.teacher_out, teacher[i].dims);
    }
    if (kd_loss_needs_of(r->loss) & KD_NEEDS_SAMPLES) {
        if ((st = read_samples(t, r->label, err))) return st;
        shape.samples = t->samples;
        if (r->label >= 0) shape.sample_labels = t->sample_labels;
    }
    if ((st = kd_loss_plan(r->loss, &shape, err)))
        return kd_fail_in(err, st, "%s", r->spec.config.path ? r->spec.config.path : r->spec.name);
    return plan_joined(r, (size_t)rows, err);
}
