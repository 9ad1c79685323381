/* trainer.c - all students of a run: what they share, and what they came to.
 *
 * Students are added one by one, each checked against the store and against what its folder already
 * holds; the plan then knows all of them, opens one loader over the union of their columns and one
 * feed for each distinct (seed, batch size), and decides how the threads are used. Adding and
 * planning write nothing, so a dry run is adding and planning.
 */
#include "train_private.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

kd_trainer_params kd_trainer_default_params(void)
{
    return (kd_trainer_params){.threads = 1,
                               .checkpoint_seconds = 60,
                               .checkpoint_keep = 3,
                               .valid_cache = 256u << 20};
}

#define WINDOW_TOKENS (1u << 21)

/* The loader's default, fewer rows of long texts. It must not hang on the students, or their order of rows
 * would: the tokens of the store's first chunk tell. */
static kd_status default_window(kd_trainer *t, kd_err *err)
{
    const uint64_t most = kd_loader_default_params().window_rows;
    uint64_t tokens = 0, rows = kd_store_chunk(t->store, 0)->rows;
    kd_cursor *c;
    kd_status st = kd_cursor_open(&c, t->store, err);
    for (size_t i = 0; i < kd_store_columns(t->store) && !st; i++) {
        const kd_column *column = kd_store_column(t->store, i);
        size_t positions;
        if (column->role != KD_ROLE_INPUT || column->ndims != 1 || column->dims[0] >= 0) continue;
        if (!(st = kd_cursor_lengths(c, (int)i, 0, NULL, &positions, err))) tokens += positions;
    }
    kd_cursor_close(c);
    t->p.window_rows = tokens ? kd_min_size(most, WINDOW_TOKENS * rows / tokens + 1) : most;
    return st;
}

kd_status kd_trainer_create(kd_trainer **out, kd_store *s, const kd_trainer_params *p, kd_err *err)
{
    *out = NULL;
    if (p->threads < 1 || p->checkpoint_keep < 1 || p->checkpoint_seconds < 0)
        return kd_fail(
            err, KD_EUSAGE,
            "trainer: %d threads, %lld checkpoints kept every %lld s; expected at least 1, 1 and 0",
            p->threads, (long long)p->checkpoint_keep, (long long)p->checkpoint_seconds);
    kd_trainer *t = calloc(1, sizeof(*t));
    if (!t || (p->command && !(t->command = kd_strdup(p->command)))) {
        free(t);
        return kd_fail(err, KD_ENOMEM, "out of memory");
    }
    t->store = s;
    t->p = *p;
    t->p.command = t->command;
    t->mask = -1;
    kd_status st = t->p.window_rows ? KD_OK : default_window(t, err);
    if (st)
        kd_trainer_free(t);
    else
        *out = t;
    return st;
}

void kd_trainer_free(kd_trainer *t)
{
    if (!t) return;
    for (size_t i = 0; i < t->nruns; i++) kd__run_free(t->runs[i]);
    for (size_t i = 0; i < t->nfeeds; i++) kd__feed_close(t->feeds[i]);
    for (size_t i = 0; i < t->nwarnings; i++) free(t->warnings[i]);
    kd__valid_close(t);
    kd_loader_close(t->loader);
    free(t->runs);
    free(t->heavy);
    free(t->todo);
    free(t->feeds);
    free(t->warnings);
    free(t->sample_first);
    free(t->sample_labels);
    free(t->command);
    free(t);
}

void kd__trainer_warn(kd_trainer *t, const char *fmt, ...)
{
    char text[1200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    char **grown = realloc(t->warnings, (t->nwarnings + 1) * sizeof(*grown));
    if (grown) t->warnings = grown;
    if (grown && (t->warnings[t->nwarnings] = kd_strdup(text))) t->nwarnings++;
}

/* ---- columns ------------------------------------------------------------------------------ */

int kd__trainer_slot(kd_trainer *t, int column, kd_err *err)
{
    for (int i = 0; i < t->ncolumns; i++)
        if (t->columns[i] == column) return i;
    if (t->ncolumns == KD_LOADER_COLUMNS) {
        kd_fail(err, KD_ELIMIT, "%s: the students together read more than %d columns; train them in two runs",
                kd_store_path(t->store), KD_LOADER_COLUMNS);
        return -1;
    }
    const kd_column *c = kd_store_column(t->store, (size_t)column);
    if (c->role == KD_ROLE_LOGITS || c->role == KD_ROLE_SCORE || c->role == KD_ROLE_VIEW)
        t->slot_classes[t->ncolumns] = (int64_t)kd_column_width(c);
    t->columns[t->ncolumns] = column;
    return t->ncolumns++;
}

const kd_column *kd__trainer_column(const kd_trainer *t, int slot)
{
    return kd_store_column(t->store, (size_t)t->columns[slot]);
}

/* ---- adding ------------------------------------------------------------------------------- */

kd_status kd_trainer_add(kd_trainer *t, const kd_student_spec *spec, uint64_t seed, const char *role,
                         const char *folder, bool *skipped, kd_err *err)
{
    kd__run *r = NULL;
    *skipped = false;
    if (t->planned) return kd_fail(err, KD_EUSAGE, "%s: added after the plan was made", folder);
    if (t->nruns == KD_TRAIN_RUNS)
        return kd_fail(err, KD_ELIMIT,
                       "%s: more than %d runs (files x points x seeds); train them in several passes", folder,
                       KD_TRAIN_RUNS);
    kd_status st = kd__run_create(&r, t, spec, seed, role, folder, err);
    if (st) return st;
    for (size_t i = 0; i < t->nruns && !st; i++)
        if (!strcmp(t->runs[i]->folder, r->folder))
            st = kd_fail(err, KD_EUSAGE, "%s: two students would be written there; give them different names",
                         r->folder);
    if (st || (st = kd__run_meet(r, t, err))) goto out;
    kd__run **grown = realloc(t->runs, (t->nruns + 1) * sizeof(*grown));
    if (!grown) {
        st = kd_fail(err, KD_ENOMEM, "out of memory");
        goto out;
    }
    t->runs = grown;
    t->runs[t->nruns++] = r;
    *skipped = r->skipped;
    return KD_OK;
out:
    kd__run_free(r);
    return st;
}

/* ---- planning ----------------------------------------------------------------------------- */

/* Metrics are part of each checkpoint, whose texts have a limit. */
static kd_status check_lines(const kd_trainer *t, const kd__run *r, kd_err *err)
{
    uint64_t every = t->p.log_steps * (uint64_t)r->spec.train.accumulate,
             lines = every ? r->steps * (uint64_t)r->spec.train.epochs / every : 0;
    if (lines <= KD__LOG_LINES) return KD_OK;
    return kd_fail(
        err, KD_EUSAGE,
        "student %s: a line of metrics every %llu steps makes %llu lines, more than the %d that a state "
        "on disk may hold; write fewer: --log-steps %llu",
        r->spec.name, (unsigned long long)t->p.log_steps, (unsigned long long)lines, KD__LOG_LINES,
        (unsigned long long)(t->p.log_steps * (lines / KD__LOG_LINES + 1)));
}

static kd_status plan_feed(kd_trainer *t, kd__run *r, kd_err *err)
{
    for (size_t i = 0; i < t->nfeeds && !r->feed; i++)
        if (kd__feed_serves(t->feeds[i], r)) r->feed = t->feeds[i];
    if (!r->feed) {
        kd__feed **grown = realloc(t->feeds, (t->nfeeds + 1) * sizeof(*grown));
        if (!grown) return kd_fail(err, KD_ENOMEM, "out of memory");
        t->feeds = grown;
        kd_status st = kd__feed_open(&t->feeds[t->nfeeds], t, r, err);
        if (st) return kd_fail_in(err, st, "student %s", r->spec.name);
        r->feed = t->feeds[t->nfeeds++];
    }
    uint64_t k = (uint64_t)r->spec.train.accumulate;
    r->steps = r->feed->steps - r->feed->steps % k;
    if (r->steps) return check_lines(t, r, err);
    return kd_fail(
        err, KD_EUSAGE,
        "student %s: an epoch has %llu batches of %u rows, fewer than one step of train.accumulate: %llu",
        r->spec.name, (unsigned long long)r->feed->steps, r->feed->batch, (unsigned long long)k);
}

static kd_status plan_execs(kd_trainer *t, kd__run *r, kd_err *err)
{
    int threads = t->solo ? 1 : t->p.threads;
    kd_exec_params train = {.batch = r->spec.train.batch,
                            .threads = threads,
                            .training = true,
                            .precision = kd__run_precision(r)};
    kd_node judged[1 + 2 * KD_LOSS_TERMS];
    r->eval_rows = r->language && r->spec.train.batch < KD__EVAL_BATCH ? r->spec.train.batch : KD__EVAL_BATCH;
    kd_exec_params eval = {.batch = r->eval_rows, .threads = threads, .keep = judged, .kept_only = true};
    eval.nkeep = kd__taps_judged(r, judged);
    if (r->language) train.head = r->model->logits;
    kd_status st = r->language ? kd__words_plan(r, threads, err) : KD_OK;
    if (st) return kd_fail_in(err, st, "student %s", r->spec.name);
    train.with = r->head;
    if (r->texts) {
        if ((st = kd__words_part(r, t, &train.batch, err))) return st;
        train.sequences = (int64_t)r->at_once * r->texts;
        eval.sequences = r->eval_rows * r->texts;
        r->cut =
            calloc((size_t)kd_max_size((size_t)train.sequences, (size_t)eval.sequences) + 1, sizeof(*r->cut));
        if (!r->cut) return kd_fail(err, KD_ENOMEM, "out of memory");
        if ((st = kd__texts_most(t, KD_VALID, (uint32_t)r->eval_rows, &eval.batch, err))) return st;
    }
    st = kd_exec_create(&r->ex, r->model->graph, &train, err);
    if (!st && t->blocks) st = kd_exec_create(&r->eval, r->model->graph, &eval, err);
    return st ? kd_fail_in(err, st, "student %s", r->spec.name) : KD_OK;
}

static int heavy_first(const void *a, const void *b)
{
    const kd__run *x = *(kd__run *const *)a, *y = *(kd__run *const *)b;
    return (x->flops < y->flops) - (x->flops > y->flops);
}

kd_status kd_trainer_plan(kd_trainer *t, kd_err *err)
{
    size_t training = 0;
    kd_status st;
    if (t->planned) return KD_OK;
    for (size_t i = 0; i < t->nruns; i++) training += t->runs[i]->model != NULL;
    if (!(t->todo = calloc(t->nruns + 1, sizeof(*t->todo)))) return kd_fail(err, KD_ENOMEM, "out of memory");
    t->solo = t->p.team ? t->p.team == 1 : training >= (size_t)t->p.threads;
    if (training) {
        kd_loader_params lp = kd_loader_default_params();
        lp.split = KD_TRAIN;
        lp.rows = t->p.rows;
        lp.drop = t->p.drop;
        lp.window_rows = t->p.window_rows;
        lp.shuffle = true;
        lp.threads = t->p.threads;
        lp.ahead = t->p.threads < kd_cpu_count();
        if ((st = kd_loader_open(&t->loader, t->store, t->columns, t->ncolumns, &lp, err)) ||
            (st = kd__valid_open(t, err)))
            return st;
        for (size_t i = 0; i < t->nruns; i++)
            if (t->runs[i]->model &&
                ((st = plan_feed(t, t->runs[i], err)) || (st = plan_execs(t, t->runs[i], err))))
                return st;
    }
    t->heavy = calloc(t->nruns + 1, sizeof(*t->heavy));
    if (!t->heavy) return kd_fail(err, KD_ENOMEM, "out of memory");
    memcpy(t->heavy, t->runs, t->nruns * sizeof(*t->heavy));
    qsort(t->heavy, t->nruns, sizeof(*t->heavy), heavy_first);
    t->planned = true;
    return KD_OK;
}

/* ---- asking ------------------------------------------------------------------------------- */

size_t kd_trainer_students(const kd_trainer *t) { return t->nruns; }

size_t kd_trainer_bytes(const kd_trainer *t)
{
    size_t n = 0;
    if (!t->planned) return 0;
    for (size_t i = 0; i < t->nruns; i++) n += kd__run_bytes(t->runs[i]);
    return n + kd__valid_bytes(t) + kd_trainer_reader_bytes(t);
}

void kd_trainer_result(const kd_trainer *t, size_t i, kd_train_result *out)
{
    const kd__run *r = t->runs[i];
    *out = r->result;
    out->name = r->spec.name;
    out->folder = r->folder;
    out->role = r->role;
    out->seed = r->seed;
    out->done = r->done;
    out->failed = r->diverged;
    out->skipped = r->skipped;
    out->bytes = t->planned ? kd__run_bytes(r) : 0;
    if (r->model) out->params = kd_model_param_count(r->model);
    if (r->done) return;
    out->epochs = r->at.epoch;
    out->seconds = r->at.seconds;
    out->loss = r->at.epoch ? r->at.loss : NAN;
    out->valid_loss = r->at.epoch && t->nblocks ? r->at.valid_loss : NAN;
    out->valid_accuracy =
        r->at.epoch && t->nblocks && (r->label >= 0 || r->language) ? r->at.valid_accuracy : NAN;
}

void kd_trainer_reads(const kd_trainer *t, uint64_t *decoded, uint64_t *expected)
{
    *decoded = *expected = 0;
    if (!t->loader) return;
    *decoded = kd_loader_decoded(t->loader);
    *expected = kd_loader_blocks(t->loader) *
                (kd_loader_resident(t->loader) ? t->loader_epochs > 0 : t->loader_epochs);
}

size_t kd_trainer_reader_bytes(const kd_trainer *t) { return t->loader ? kd_loader_bytes(t->loader) : 0; }
double kd_trainer_stall(const kd_trainer *t) { return t->loader ? kd_loader_seconds(t->loader) : 0; }
char *kd_trainer_formula(const kd_trainer *t, size_t i) { return kd__sources_text(t->runs[i], t); }
json_t *kd_trainer_config(const kd_trainer *t, size_t i) { return kd_config_json(&t->runs[i]->spec.config); }
static json_t *real_or_null(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static json_t *student_json(const kd_trainer *t, size_t i)
{
    kd_train_result r;
    char hash[17], *formula = kd_trainer_formula(t, i);
    kd_trainer_result(t, i, &r);
    snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)r.weight_hash);
    json_t *o =
        json_pack("{s:s, s:s, s:I, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:b, s:b, s:b, s:s, s:o}", "name",
                  r.name, "role", r.role, "seed", (json_int_t)r.seed, "folder", r.folder, "params",
                  (json_int_t)r.params, "epochs", (json_int_t)r.epochs, "loss", real_or_null(r.loss),
                  "valid_loss", real_or_null(r.valid_loss), "valid_accuracy", real_or_null(r.valid_accuracy),
                  "seconds", real_or_null(r.seconds), "weight_hash", r.done ? json_string(hash) : json_null(),
                  "done", r.done, "skipped", r.skipped, "diverged", r.failed, "formula",
                  formula ? formula : "", "config", kd_trainer_config(t, i));
    free(formula);
    return o;
}

json_t *kd_trainer_json(const kd_trainer *t)
{
    uint64_t decoded, expected;
    json_t *students = json_array();
    kd_trainer_reads(t, &decoded, &expected);
    for (size_t i = 0; students && i < t->nruns; i++)
        if (json_array_append_new(students, student_json(t, i))) {
            json_decref(students);
            return NULL;
        }
    return json_pack("{s:o, s:{s:I, s:I}, s:I, s:I, s:f}", "students", students, "reads", "decoded",
                     (json_int_t)decoded, "expected", (json_int_t)expected, "planned_bytes",
                     (json_int_t)kd_trainer_bytes(t), "reader_bytes", (json_int_t)kd_trainer_reader_bytes(t),
                     "stall_s", kd_trainer_stall(t));
}

const char *kd_trainer_warning(const kd_trainer *t, size_t i)
{
    return i < t->nwarnings ? t->warnings[i] : NULL;
}
