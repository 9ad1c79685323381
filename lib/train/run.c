/* run.c - one student against one store: its input, its labels, its sizes, its memory.
 *
 * What the YAML leaves open (shape of the input, number of classes, the teacher when there is one)
 * is taken from the store and becomes part of the resolved configuration; what it does say must
 * agree. Messages name the line to change.
 */
#include "train_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- columns ------------------------------------------------------------------------------ */

static kd_status need_slot(kd_trainer *t, int column, int *slot, kd_err *err)
{
    *slot = kd__trainer_slot(t, column, err);
    return *slot < 0 ? KD_ELIMIT : KD_OK;
}

/* classes of the store: what its labels say, else what the logits have; 0: unknown. */
static int64_t store_classes(const kd_trainer *t, int label, int logits)
{
    const kd_column *c = label < 0 ? NULL : kd_store_column(t->store, (size_t)label);
    const json_t *n = c ? json_object_get(c->params, "classes") : NULL;
    if (json_is_integer(n)) return json_integer_value(n);
    return logits < 0 ? 0 : (int64_t)kd_column_width(kd_store_column(t->store, (size_t)logits));
}

static bool is_label_dtype(kd_dtype t) { return t != KD_DTYPE_NONE && !kd_dtype_is_float(t) && t != KD_U64; }

static kd_status check_columns(const kd_trainer *t, const kd__run *r, int input, int label, kd_err *err)
{
    const char *store = kd_store_path(t->store);
    if (input < 0)
        return kd_fail(err, KD_EMISMATCH, "%s: no column with role input; pack the data again with kd-dump",
                       store);
    const kd_column *x = kd_store_column(t->store, (size_t)input);
    const kd_column *y = label < 0 ? NULL : kd_store_column(t->store, (size_t)label);
    if (!r->texts && (x->ndims < 1 || x->dims[0] < 1))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: column %s has no fixed shape; these models need one", store,
                       x->name);
    if (!y && kd_loss_needs_labels(r->loss) && !r->language)
        return kd_fail(err, KD_EMISMATCH, "%s: no labels, and the loss needs them; set loss.ce: 0 in %s",
                       store, r->spec.config.path);
    if (y && !r->language && (y->ndims || !is_label_dtype(y->dtype)))
        return kd_fail(err, KD_EMISMATCH, "%s: column %s is no whole number a row, as labels are", store,
                       y->name);
    return KD_OK;
}

/* ---- sizes -------------------------------------------------------------------------------- */

/* Whether its output is an embedding and not logits of classes. */
static bool embeds(const kd__run *r)
{
    return r->texts && !r->language && r->spec.model.classes < 1 &&
           !(kd_loss_needs_of(r->loss) & (KD_NEEDS_LABELS | KD_NEEDS_LOGITS | KD_NEEDS_SPARSE));
}

static kd_status resolve_classes(kd__run *r, const kd_student_spec *given, const kd_trainer *t, int label,
                                 int logits, kd_err *err)
{
    const char *store = kd_store_path(t->store);
    char where[300], number[32];
    const kd_model_spec *m = &r->spec.model;
    if (r->language) {
        r->classes = m->vocab;
        return KD_OK;
    }
    if (embeds(r)) {
        r->classes = m->output ? m->output : m->width;
        return KD_OK;
    }
    int64_t have = store_classes(t, label, logits), *want = &r->spec.model.classes;
    if (have < 1 && *want < 1)
        return kd_fail(err, KD_EUSAGE, "%s does not say how many classes it has; set model.classes in %s",
                       store, given->config.path);
    if (logits >= 0) {
        const kd_column *z = kd_store_column(t->store, (size_t)logits);
        const int64_t width = (int64_t)kd_column_width(z);
        if (have && width != have)
            return kd_fail(err, KD_EMISMATCH,
                           "%s: teacher %s has %lld classes, the labels have %lld; dump another teacher: "
                           "kd-dump --teacher FOLDER --into %s",
                           store, z->teacher, (long long)width, (long long)have, store);
    }
    if (*want > 0 && have > 0 && *want != have) {
        snprintf(number, sizeof(number), "%lld", (long long)have);
        return kd_fail(err, KD_EMISMATCH,
                       "%s: %s has %s classes, student %s has %lld\n          set model.classes: %s in %s, "
                       "or remove it there",
                       store, logits >= 0 ? "teacher" : "store", number, r->spec.name, (long long)*want,
                       number, kd_config_where(&given->config, "model.classes", where, sizeof(where)));
    }
    if (*want < 1) *want = have;
    r->classes = *want;
    return KD_OK;
}

static void shape_text(kd_buf *b, const int64_t *dims, size_t n)
{
    for (size_t i = 0; i < n; i++) kd_buf_printf(b, "%s%lld", i ? "," : "", (long long)dims[i]);
}

static kd_status resolve_input(kd__run *r, const kd_student_spec *given, const kd_trainer *t, int input,
                               kd_err *err)
{
    const kd_column *x = kd_store_column(t->store, (size_t)input);
    const kd_ints *want = &r->spec.model.input;
    kd_buf have = {0}, asked = {0};
    char where[300];
    kd_status st = KD_OK;
    shape_text(&have, x->dims, (size_t)x->ndims);
    shape_text(&asked, want->v, want->n);
    if (have.failed || asked.failed)
        st = kd_fail(err, KD_ENOMEM, "out of memory");
    else if (!want->n)
        st = kd_config_flag(&r->spec.config, "model.input", have.text, err);
    else if (strcmp(have.text, asked.text))
        st = kd_fail(err, KD_EMISMATCH,
                     "%s: rows of %s have the shape %s, student %s takes %s\n          set model.input: [%s] "
                     "in %s, or remove it there",
                     kd_store_path(t->store), x->name, have.text, r->spec.name, asked.text, have.text,
                     kd_config_where(&given->config, "model.input", where, sizeof(where)));
    kd_buf_release(&have);
    kd_buf_release(&asked);
    return st;
}

/* Texts: the size of the vocabulary is the store's. */
static kd_status resolve_texts(kd__run *r, const kd_trainer *t, kd_err *err)
{
    char vocab[32];
    snprintf(vocab, sizeof(vocab), "%lld", (long long)kd__texts_vocab(t));
    kd_status st =
        r->spec.model.vocab > 0 ? KD_OK : kd_config_flag(&r->spec.config, "model.vocab", vocab, err);
    return st ? st : kd__texts_check(r, t, err);
}

/* The next token is predicted: of all, or of those that the mask marks. */
static kd_status resolve_language(kd__run *r, kd_trainer *t, kd_err *err)
{
    const int mask = kd_store_find_role(t->store, KD_ROLE_MASK, NULL);
    kd_status st = resolve_texts(r, t, err);
    if (!st && mask >= 0) st = need_slot(t, mask, &t->mask, err);
    t->language |= !st;
    return st;
}

static bool has_valid_loss(const kd__run *r)
{
    bool any = false;
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        const kd_loss_term term = kd_loss_term_at(r->loss, i);
        any |= kd__term_judges(&term);
    }
    return any;
}

/* What train.patience and train.keep ask for must be there to look at. */
static kd_status check_judging(const kd__run *r, const kd_student_spec *given, const kd_trainer *t, int label,
                               kd_err *err)
{
    const bool by_loss = !strcmp(r->spec.train.keep, "best_loss"),
               by_accuracy = !strcmp(r->spec.train.keep, "best"), patience = r->spec.train.patience > 0,
               rows = kd_store_split_rows(t->store, KD_VALID) > 0;
    const char *key = patience ? "train.patience" : "train.keep";
    char where[300];
    if (kd_config_source(&given->config, key) == 2) // on the command line, behind --set or --sweep
        snprintf(where, sizeof(where), "%s", key);
    else
        kd_config_where(&given->config, key, where, sizeof(where));
    if (!rows && (patience || by_loss || by_accuracy))
        return kd_fail(err, KD_EUSAGE,
                       "%s: no validation rows, and %s asks for them; pack with data.valid_fraction, or set "
                       "train.keep: last and train.patience: 0",
                       kd_store_path(t->store), where);
    if ((patience || by_loss) && !has_valid_loss(r))
        return kd_fail(
            err, KD_EUSAGE,
            "%s: it watches the validation loss, which has no term: crd compares with training rows; "
            "add a term of logits, labels or features, or set train.keep: last and "
            "train.patience: 0",
            where);
    if (by_accuracy && label < 0 && !r->language)
        return kd_fail(err, KD_EUSAGE,
                       "%s: no labels, and train.keep: best asks for the best validation accuracy; set "
                       "train.keep: best_loss",
                       kd_store_path(t->store));
    return KD_OK;
}

kd_precision kd__run_precision(const kd__run *r)
{
    kd_precision p = KD_PRECISION_F32;
    kd_precision_parse(r->spec.train.precision, &p); // the option's table allows no other
    return p;
}

static kd_status resolve(kd__run *r, const kd_student_spec *given, kd_trainer *t, kd_err *err)
{
    int input = kd_store_find_role(t->store, KD_ROLE_INPUT, NULL),
        label = kd_store_find_role(t->store, KD_ROLE_LABEL, NULL);
    int logits = -1;
    kd_status st = kd__views_resolve(r, given, t, err);
    if (!st) st = kd__texts_find(t, err);
    r->texts = t->texts;
    r->language = r->texts && r->spec.model.arch && !strcmp(r->spec.model.arch, "llama");
    if (!st && r->language) st = resolve_language(r, t, err);
    if (!st) st = kd__sources_find(r, t, err);
    if (r->nteachers) logits = t->columns[r->teacher[0]];
    if (st || (st = check_columns(t, r, input, label, err)) ||
        (st = resolve_classes(r, given, t, label, logits, err)) || (st = kd__sources_check(r, t, err)) ||
        (st = r->language ? KD_OK
              : r->texts  ? resolve_texts(r, t, err)
                          : resolve_input(r, given, t, input, err)) ||
        (st = need_slot(t, input, &r->input, err)) ||
        (label >= 0 && !r->language && (st = need_slot(t, label, &r->label, err))) ||
        (kd__run_has_views(r) &&
         (st = need_slot(t, kd_store_find_role(t->store, KD_ROLE_ID, NULL), &r->id, err))))
        return st;
    char where[300];
    if ((st = kd_nn_check_precision(kd__run_precision(r), err)))
        return kd_fail_in(err, st, "%s",
                          kd_config_where(&given->config, "train.precision", where, sizeof(where)));
    r->input_dtype = kd_store_column(t->store, (size_t)input)->dtype;
    if (r->label >= 0) t->slot_classes[r->label] = embeds(r) ? INT32_MAX : r->classes;
    if (embeds(r)) r->label = -1; // of pairs a label is a group
    return check_judging(r, given, t, label, err);
}

/* ---- life --------------------------------------------------------------------------------- */

static kd_status check_role(const kd_student_spec *s, const char *role, kd_err *err)
{
    bool distilled = !strcmp(role, "distilled");
    if (!distilled && strcmp(role, "plain") && strcmp(role, "teacher"))
        return kd_fail(err, KD_EUSAGE, "%s: role %s; expected distilled, plain or teacher", s->name, role);
    if (distilled != kd_loss_spec_distils(&s->loss))
        return kd_fail(err, KD_EUSAGE, "%s: a %s run whose loss %s a teacher", s->name, role,
                       distilled ? "does not learn from" : "learns from");
    return KD_OK;
}

kd_status kd__run_create(kd__run **out, kd_trainer *t, const kd_student_spec *spec, uint64_t seed,
                         const char *role, const char *folder, kd_err *err)
{
    kd__run *r = calloc(1, sizeof(*r));
    kd_status st;
    *out = NULL;
    if (!r) return kd_fail(err, KD_ENOMEM, "out of memory");
    r->seed = seed;
    r->lock = -1;
    r->events = t->p.tensorboard;
    r->input = r->label = r->id = -1;
    if ((st = kd__student_copy(&r->spec, spec, err))) {
        free(r);
        return st;
    }
    r->role = kd_strdup(role);
    r->folder = kd_strdup(folder);
    for (size_t n = r->folder ? strlen(r->folder) : 0; n > 1 && r->folder[n - 1] == '/';)
        r->folder[--n] = '\0';
    r->part = r->folder ? kd_sprintf("%s.part", r->folder) : NULL;
    if (!r->role || !r->part)
        st = kd_fail(err, KD_ENOMEM, "out of memory");
    else if (!(st = check_role(&r->spec, role, err)) && (st = kd_loss_create(&r->loss, &r->spec.loss, err)))
        kd_fail_in(err, st, "%s", spec->config.path ? spec->config.path : r->spec.name);
    if (st || (st = resolve(r, spec, t, err))) goto out;
    if (!(r->contract = kd__contract(t, r))) st = kd_fail(err, KD_ENOMEM, "out of memory");
out:
    if (st)
        kd__run_free(r);
    else
        *out = r;
    return st;
}

static double number_of(const json_t *o, const char *key, double missing)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : missing;
}

/* Whether ids mean to the other model what they mean in the store; a folder without a tokenizer is believed.
 */
static kd_status check_tokenizer(const kd__run *r, const kd_trainer *t, kd_err *err)
{
    const kd_column *c = kd__trainer_column(t, t->text[0]);
    const char *from = r->spec.init_from, *want = json_string_value(json_object_get(c->params, "tokenizer"));
    char *file = kd_is_dir(from) ? kd_path_join(from, "tokenizer.json") : kd_strdup(from);
    kd_tokenizer *z;
    kd_status st = file ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && want && kd_exists(file) && !(st = kd_tokenizer_open(&z, from, err))) {
        if (strcmp(kd_tokenizer_hash(z), want))
            st = kd_fail(err, KD_EMISMATCH,
                         "init.from %s: its tokenizer is %s, column %s of %s was made with %s (tokenizer)",
                         from, kd_tokenizer_hash(z), c->name, kd_store_path(t->store), want);
        kd_tokenizer_close(z);
    }
    free(file);
    return st;
}

/* Initial weights of another model. */
static kd_status begin(kd__run *r, kd_trainer *t, kd_err *err)
{
    kd_init init = {.folder = r->spec.init_from,
                    .layers = r->spec.init_layers,
                    .tables = r->spec.init_tables,
                    .threads = t->p.threads};
    const bool words = !strcmp(init.tables, "words");
    kd_sample sample = {0};
    uint64_t *count = NULL;
    kd_status st = KD_OK;
    if (t->ntexts && words) st = kd__texts_count(t, &count, err);
    if (t->ntexts && !words && r->spec.init_tokens)
        st = kd__texts_sample(t, (uint64_t)r->spec.init_tokens, &sample, err);
    init.count = count;
    init.sample = sample.n ? &sample : NULL;
    if (r->language && !st) st = check_tokenizer(r, t, err);
    if (!st) st = kd_model_init_from(r->model, &init, err);
    kd__sample_release(&sample);
    free(count);
    return st;
}

kd_status kd__run_build(kd__run *r, kd_trainer *t, kd_err *err)
{
    const kd_column *x = kd__trainer_column(t, r->input),
                    *y = r->label < 0 ? NULL : kd__trainer_column(t, r->label);
    json_t *all = kd_config_json(&r->spec.config), *names = y ? json_object_get(y->params, "names") : NULL;
    kd_status st = all ? kd__taps_model(r, t, json_object_get(all, "model"), err)
                       : kd_fail(err, KD_ENOMEM, "out of memory");
    json_decref(all);
    if (st || (st = kd__taps_plan(r, t, err))) return st;
    kd_model *m = r->model;
    m->mean = (float)number_of(x->params, "mean", 0);
    m->scale = (float)number_of(x->params, "scale", 1);
    if (json_is_array(names) && json_array_size(names) == (size_t)r->classes && !m->labels)
        m->labels = json_incref(names);
    r->weights = kd_graph_slab(m->graph, &r->slab);
    r->stats = kd_graph_buffers(m->graph, &r->buffers);
    kd_graph_init(m->graph, r->seed);
    if (r->spec.init_from && (st = begin(r, t, err))) return st;
    r->flops = kd_graph_train_flops(m->graph) * (double)r->spec.train.batch;
    if (strcmp(r->spec.train.keep, "last") &&
        !(r->best = kd_alloc_aligned(r->slab + r->buffers + 1, sizeof(float))))
        return kd_fail(err, KD_ENOMEM, "%s: no memory for a second copy of its weights", r->spec.name);
    return kd__optimizer_create(r, err);
}

void kd__run_free(kd__run *r)
{
    if (!r) return;
    if (r->lock >= 0) close(r->lock);
    kd_exec_free(r->ex);
    kd_exec_free(r->eval);
    for (int i = 0; i < KD_LOSS_TERMS; i++) free(r->source[i].joined);
    kd_loss_free(r->loss);
    kd_model_free(r->model);
    kd_student_release(&r->spec);
    json_decref(r->contract);
    kd_buf_release(&r->log);
    free(r->folder);
    free(r->part);
    free(r->role);
    free(r->moment1);
    free(r->moment2);
    free(r->best);
    free(r->mean);
    free(r->sum);
    free(r->partial);
    free(r->cut);
    kd__words_free(r);
    free(r->ranges);
    free(r);
}

bool kd__run_active(const kd__run *r)
{
    return !r->done && !r->diverged && !r->at.ended && r->at.epoch < (uint64_t)r->spec.train.epochs;
}

size_t kd__run_bytes(const kd__run *r)
{
    size_t slabs = 2 + (r->moment2 != NULL) + (r->best != NULL) + (r->mean != NULL) + (r->sum != NULL);
    if (!r->model) return 0;
    return (slabs * r->slab + r->buffers) * sizeof(float) + kd_loss_bytes(r->loss) + kd__words_bytes(r) +
           (r->ex ? kd_exec_bytes(r->ex) : 0) + (r->eval ? kd_exec_bytes(r->eval) : 0);
}
