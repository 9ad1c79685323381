/* lib/eval/exam.c - all models over the rows of a split, each row decoded once.
 *
 * The split is walked in windows of whole chunks (window.c). A
 * window's inputs and the teacher's probabilities are made once; then one model after the other is loaded,
 * runs over the window in batches and leaves an answer a row. So memory holds one model and one window,
 * however many students there are and however many classes.
 *
 * A model is looked at before the first row is decoded: one of other classes stops everything at once. The
 * last batch of a window is padded with what the buffer held before: in inference rows do not see each other.
 */
#include "eval_private.h"

#include <stdlib.h>
#include <string.h>

kd_eval_params kd_eval_default_params(void)
{
    return (kd_eval_params){
        .split = KD_TEST, .batch = 256, .resamples = 1000, .mistakes = 50, .speed = true, .threads = 1};
}

int kd_eval_logits(const kd_store *s, const char *teacher)
{
    for (size_t i = 0; i < kd_store_columns(s); i++) {
        const kd_column *c = kd_store_column(s, i);
        const kd_codec_info *codec = kd_codec_find(c->encoding);
        if (c->role == KD_ROLE_LOGITS && !(codec && codec->sparse) &&
            (!teacher || !strcmp(teacher, c->teacher)))
            return (int)i;
    }
    return -1;
}

/* ---- opening ------------------------------------------------------------------------------ */

static kd_status check_columns(const kd_exam *e, kd_err *err)
{
    const char *path = kd_store_path(e->s);
    if (e->input < 0)
        return kd_fail(err, KD_EMISMATCH, "%s: no column with role input; pack the data again with kd-dump",
                       path);
    if (e->label < 0)
        return kd_fail(err, KD_EMISMATCH, "%s: no column with role label; evaluation needs labels", path);
    const kd_column *lc = kd_store_column(e->s, (size_t)e->label);
    if (lc->dtype != KD_I32 || lc->ndims != 0)
        return kd_fail(err, KD_EMISMATCH, "%s: column %s is %s, evaluation needs one i32 a row", path,
                       lc->name, kd_dtype_name(lc->dtype));
    if (e->p.teacher && e->logits < 0)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: no logits of a teacher named %s that keep all classes; see: kd-store stat %s",
                       path, e->p.teacher, path);
    if (!e->rows.n)
        return kd_fail(err, KD_EMISMATCH, "%s: the %s split is empty", path, kd_split_name(e->p.split));
    if (e->rows.n > UINT32_MAX)
        return kd_fail(err, KD_ELIMIT, "%s: the %s split has %llu rows, evaluation takes 2^32 at most", path,
                       kd_split_name(e->p.split), (unsigned long long)e->rows.n);
    if (e->logits >= 0 && kd_store_column(e->s, (size_t)e->logits)->ndims != 1)
        return kd_fail(err, KD_EMISMATCH, "%s: column %s is not one vector of logits a row", path,
                       kd_store_column(e->s, (size_t)e->logits)->name);
    return KD_OK;
}

static kd_status alloc_rows(kd_exam *e, kd_err *err)
{
    const size_t n = (size_t)e->rows.n;
    e->labels = kd_alloc_aligned(n, sizeof *e->labels);
    e->row = kd_alloc_aligned(n, sizeof *e->row);
    e->ids = kd_alloc_aligned(n, sizeof *e->ids);
    if (e->logits >= 0) e->answers = kd_alloc_aligned(n, sizeof *e->answers);
    if (e->logits >= 0 && e->p.resamples)
        e->resampled = kd_alloc_aligned((size_t)e->p.resamples * KD_MEASURES, sizeof(double));
    if (!e->labels || !e->row || !e->ids || (e->logits >= 0 && !e->answers) ||
        (e->logits >= 0 && e->p.resamples && !e->resampled))
        return kd_fail(err, KD_ENOMEM, "no memory for the labels and answers of %zu rows", n);
    e->rows.label = e->labels;
    e->rows.teacher = e->answers;
    return KD_OK;
}

static kd_status read_rows(kd_exam *e, kd_cursor *cur, kd_err *err)
{
    const int id = kd_store_find_role(e->s, KD_ROLE_ID, NULL);
    uint64_t at = 0;
    for (uint32_t c = 0; c < kd_store_chunks(e->s); c++) {
        const kd_chunk_info *ci = kd_store_chunk(e->s, c);
        if (ci->split != e->p.split) continue;
        kd_status st = kd_cursor_read(cur, e->label, c, e->labels + at, ci->rows * sizeof(int32_t), err);
        if (!st) st = kd_cursor_read(cur, id, c, e->ids + at, ci->rows * sizeof(kd_id), err);
        if (st) return st;
        for (uint32_t r = 0; r < ci->rows; r++) e->row[at++] = ci->first + r;
    }
    return KD_OK;
}

static kd_status cut_slices(kd_exam *e, kd_cursor *cur, kd_err *err)
{
    kd_status st = KD_OK;
    if (!e->p.slices || !e->p.slices->n)
        return kd__slices_add(e, cur, kd_store_column(e->s, (size_t)e->label)->name, err);
    for (size_t i = 0; i < e->p.slices->n && !st; i++) st = kd__slices_add(e, cur, e->p.slices->v[i], err);
    return st;
}

static void leave_out(kd_exam *e, json_t *measures, char *why)
{
    json_array_append_new(e->left_out, json_pack("{s:o, s:s}", "measures", measures, "why", why ? why : ""));
    free(why);
}

/* What the store does not have. */
static void note_left_out(kd_exam *e)
{
    const int any = kd_store_find_role(e->s, KD_ROLE_LOGITS, NULL);
    const char *path = kd_store_path(e->s);
    if (e->logits < 0) {
        static const int needs[] = {
#define X(NAME, key, need) need,
            KD_MEASURE_MAP(X)
#undef X
        };
        json_t *keys = json_array();
        for (int m = 0; m < KD_MEASURES; m++)
            if (needs[m]) json_array_append_new(keys, json_string(kd_measure_key((kd_measure_name)m)));
        json_array_append_new(keys, json_string("mistakes"));
        leave_out(e, keys,
                  any < 0
                      ? kd_sprintf("%s has no teacher's logits; add them: kd-dump --teacher FOLDER --into %s",
                                   path, path)
                      : kd_sprintf("%s has logits of teacher %s as %s, which does not keep all classes", path,
                                   kd_store_column(e->s, (size_t)any)->teacher,
                                   kd_store_column(e->s, (size_t)any)->encoding));
    }
    if (!e->p.resamples)
        leave_out(e, json_pack("[s, s]", "NAME_low", "NAME_high"), kd_strdup("--resamples 0: no bootstrap"));
    if (!e->p.speed)
        leave_out(e, json_pack("[s, s]", "latency_us", "latency_p99_us"), kd_strdup("--no-speed"));
}

kd_status kd_exam_open(kd_exam **out, kd_store *s, const kd_eval_params *p, kd_err *err)
{
    kd_cursor *cur = NULL;
    kd_exam *e = calloc(1, sizeof *e);
    *out = NULL;
    if (!e || !(e->left_out = json_array())) {
        free(e);
        return kd_fail(err, KD_ENOMEM, "out of memory");
    }
    e->s = s;
    e->p = *p;
    e->start = kd_now();
    e->input = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    e->label = kd_store_find_role(s, KD_ROLE_LABEL, NULL);
    e->logits = kd_eval_logits(s, p->teacher);
    e->rows.n = kd_store_split_rows(s, p->split);
    kd_status st = check_columns(e, err);
    if (!st) {
        e->names = json_object_get(kd_store_column(s, (size_t)e->label)->params, "names");
        if (e->logits >= 0) e->teacher = kd_store_column(s, (size_t)e->logits)->teacher;
        note_left_out(e);
        st = alloc_rows(e, err);
    }
    if (!st) st = kd_cursor_open(&cur, s, err);
    if (!st) st = read_rows(e, cur, err);
    if (!st) st = cut_slices(e, cur, err);
    kd_cursor_close(cur);
    e->decode_s = kd_now() - e->start;
    if (st) kd_exam_close(e), e = NULL;
    *out = e;
    return st;
}

void kd_exam_close(kd_exam *e)
{
    if (!e) return;
    kd__slices_release(&e->slices);
    json_decref(e->left_out);
    free(e->labels), free(e->row), free(e->ids), free(e->answers), free(e->resampled);
    free(e);
}

/* ---- models ------------------------------------------------------------------------------- */

/* Whether a student of texts gives classes, and its tokens are the store's. */
static kd_status check_texts(const kd_exam *e, const kd_run *r, const kd_model *m, kd_err *err)
{
    const kd_column *ic = kd_store_column(e->s, (size_t)e->input);
    const struct {
        const char *key, *what;
        int64_t most;
    } limits[] = {{"vocab", "tokens", m->spec.vocab}, {"max_tokens", "positions", m->spec.positions}};
    if (m->spec.classes < 1)
        return kd_fail(
            err, KD_EUNSUPPORTED,
            "%s: student %s gives no classes but embeddings, of which kd-eval measures what they find "
            "(--documents, --questions)",
            r->folder, r->name);
    if (!kd__is_texts(ic))
        return kd_fail(err, KD_EMISMATCH, "%s: column %s of %s is no texts, which student %s reads",
                       r->folder, ic->name, kd_store_path(e->s), r->name);
    for (size_t i = 0; i < KD_COUNT(limits); i++) {
        const json_int_t have = json_integer_value(json_object_get(ic->params, limits[i].key));
        if (have > limits[i].most)
            return kd_fail(err, KD_EMISMATCH, "%s: column %s of %s has %s %lld, student %s has %lld %s",
                           r->folder, ic->name, kd_store_path(e->s), limits[i].key, (long long)have, r->name,
                           (long long)limits[i].most, limits[i].what);
    }
    return KD_OK;
}

static kd_status check_model(kd_exam *e, const kd_run *r, const kd_model *m, kd_err *err)
{
    const kd_column *ic = kd_store_column(e->s, (size_t)e->input);
    const int64_t classes = (int64_t)kd_graph_node_size(m->graph, m->logits);
    size_t have = kd_column_width(ic) * kd_column_each(ic), want = kd_graph_node_size(m->graph, m->input);
    kd_status st = kd_model_reads_tokens(m) ? check_texts(e, r, m, err) : KD_OK;
    if (st) return st;
    if (!e->rows.classes) e->rows.classes = classes;
    if (e->rows.classes != classes)
        return kd_fail(err, KD_EMISMATCH, "%s: %s has %lld classes, student %s has %lld; measure it apart",
                       r->folder, e->logits < 0 ? "the first student" : "the cached teacher",
                       (long long)e->rows.classes, r->name, (long long)classes);
    if (kd__is_texts(ic) && !kd_model_reads_tokens(m))
        return kd_fail(err, KD_EMISMATCH, "%s: column %s of %s is texts, student %s takes %zu numbers",
                       r->folder, ic->name, kd_store_path(e->s), r->name, want);
    if (have != want && !kd__is_texts(ic))
        return kd_fail(err, KD_EMISMATCH, "%s: a row of column %s of %s has %zu values, student %s takes %zu",
                       r->folder, ic->name, kd_store_path(e->s), have, r->name, want);
    return KD_OK;
}

/* Whether all fit, before anything is decoded. */
static kd_status look_at_models(kd_exam *e, kd_runs *runs, kd_err *err)
{
    const json_t *info = e->teacher ? kd_store_teacher(e->s, e->teacher) : NULL;
    const char *fingerprint = json_string_value(json_object_get(info, "fingerprint"));
    kd_status st = KD_OK;
    if (e->logits >= 0) e->rows.classes = kd_store_column(e->s, (size_t)e->logits)->dims[0];
    for (kd_run *r = runs->v; r < runs->v + runs->n && !st; r++) {
        kd_model *m = NULL;
        char own[33];
        if ((st = kd_model_load(&m, r->folder, err))) break;
        kd_model_fingerprint(m, own);
        r->is_teacher = fingerprint && !strcmp(fingerprint, own);
        st = check_model(e, r, m, err);
        if (!st) st = kd__cost_of(&r->cost, m, r->folder, err);
        kd_model_free(m);
        if (st) break;
        r->answers = kd_alloc_aligned((size_t)e->rows.n, sizeof *r->answers);
        if (e->p.resamples)
            r->resampled = kd_alloc_aligned((size_t)e->p.resamples * KD_MEASURES, sizeof(double));
        if (!r->answers || (e->p.resamples && !r->resampled))
            st = kd_fail(err, KD_ENOMEM, "no memory for the answers of %zu students", runs->n);
    }
    return st;
}

static kd_status check_labels(const kd_exam *e, kd_err *err)
{
    for (uint64_t r = 0; r < e->rows.n; r++)
        if (e->labels[r] < 0 || e->labels[r] >= e->rows.classes)
            return kd_fail(err, KD_EMISMATCH, "%s: %s split, row %llu: label %d, but there are %lld classes",
                           kd_store_path(e->s), kd_split_name(e->p.split), (unsigned long long)r,
                           e->labels[r], (long long)e->rows.classes);
    return KD_OK;
}

/* ---- windows ------------------------------------------------------------------------------ */

static kd_status not_finite(const kd_exam *e, const char *who, uint64_t row, kd_err *err)
{
    return kd_fail(err, KD_ENUMERIC, "%s: row %llu of %s: its logits are not finite", who,
                   (unsigned long long)e->row[row], kd_store_path(e->s));
}

static kd_status window_teacher(kd__window *w, kd_exam *e, kd_err *err)
{
    const uint64_t rows = w->rows;
    kd__reference_fill(&w->ref, w->teacher, rows, e->rows.classes, e->p.threads);
    const uint64_t bad = kd__answers(e->answers + w->first, w->teacher, e->labels + w->first, NULL, rows,
                                     e->rows.classes, e->p.threads);
    return bad < rows ? not_finite(e, kd_store_column(e->s, (size_t)e->logits)->name, w->first + bad, err)
                      : KD_OK;
}

/* One model over the window; *forward: seconds of its passes, feeding them included. */
static kd_status window_model(const kd__window *w, kd_exam *e, kd_run *run, double *forward, kd_err *err)
{
    const uint64_t classes = (uint64_t)e->rows.classes;
    const kd_exec_params ep = kd__window_exec(w, e);
    kd_model *m = NULL;
    kd_exec *ex = NULL;
    uint64_t *offset = malloc((size_t)(e->p.batch + 1) * sizeof *offset);
    kd_status st = offset ? kd_model_load(&m, run->folder, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st) st = kd_exec_create(&ex, m->graph, &ep, err);
    for (uint64_t r = 0; r < w->rows && !st; r += (uint64_t)e->p.batch) {
        const uint64_t n = kd_min_size((size_t)e->p.batch, (size_t)(w->rows - r)), at = w->first + r;
        const double t = kd_now();
        if ((st = kd__window_feed(w, e, m, ex, r, n, offset, err))) break;
        kd_exec_run_forward(ex);
        *forward += kd_now() - t;
        kd__reference ref = {NULL, NULL};
        if (w->teacher) ref = (kd__reference){w->ref.p + r * classes, w->ref.entropy + r};
        const uint64_t bad = kd__answers(run->answers + at, kd_exec_value(ex, m->logits), e->labels + at,
                                         w->teacher ? &ref : NULL, n, e->rows.classes, e->p.threads);
        if (bad < n) st = not_finite(e, run->folder, at + bad, err);
    }
    free(offset);
    kd_exec_free(ex);
    kd_model_free(m);
    return st;
}

/* ---- the run ------------------------------------------------------------------------------ */

static kd_status sit(kd_exam *e, kd_runs *runs, void (*progress)(void *arg, uint64_t done, uint64_t total),
                     void *arg, kd_err *err)
{
    kd__window w;
    kd_cursor *cur = NULL;
    kd_status st = kd__window_create(&w, e, runs->n, err);
    if (!st) st = kd_cursor_open(&cur, e->s, err);
    while (!st) {
        const double t = kd_now();
        if ((st = kd__window_read(&w, e, cur, err)) || !w.rows) break;
        if (w.teacher) st = window_teacher(&w, e, err);
        e->decode_s += kd_now() - t;
        for (size_t i = 0; i < runs->n && !st; i++) {
            st = window_model(&w, e, &runs->v[i], &w.seconds[i], err);
            if (progress) progress(arg, w.first * runs->n + w.rows * (i + 1), e->rows.n * runs->n);
        }
    }
    for (size_t i = 0; i < runs->n && !st; i++) {
        e->forward_s += w.seconds[i];
        runs->v[i].cost.rows_s = (double)e->rows.n / w.seconds[i];
    }
    kd_cursor_close(cur);
    kd__window_release(&w);
    return st;
}

static kd_status resample(kd_exam *e, kd_runs *runs, kd_err *err)
{
    const size_t n = runs->n + (e->answers != NULL);
    const kd_answer **a = calloc(n + 1, sizeof *a);
    double **out = calloc(n + 1, sizeof *out);
    kd_status st = a && out ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for %zu students", n);
    for (size_t i = 0; i < runs->n && !st; i++) a[i] = runs->v[i].answers, out[i] = runs->v[i].resampled;
    if (!st && e->answers) a[runs->n] = e->answers, out[runs->n] = e->resampled;
    if (!st) st = kd_bootstrap(out, &e->rows, a, n, (uint32_t)e->p.resamples, e->p.threads, err);
    free(a);
    free(out);
    return st;
}

static kd_status measure_runs(kd_exam *e, kd_runs *runs, kd_err *err)
{
    bool failed = false;
#pragma omp parallel for schedule(dynamic) num_threads(e->p.threads)
    for (size_t i = 0; i < runs->n; i++) {
        kd_run *r = &runs->v[i];
        if (kd_measure(&r->m, &e->rows, r->answers, false, NULL)) {
#pragma omp atomic write
            failed = true;
        }
    }
    return failed ? kd_fail(err, KD_ENOMEM, "no memory for the measures of %zu students", runs->n) : KD_OK;
}

static kd_status measure(kd_exam *e, kd_runs *runs, kd_err *err)
{
    const kd_rows alone = {.n = e->rows.n, .classes = e->rows.classes, .label = e->labels};
    kd_status st = kd__slices_teacher(e, err);
    if (!st && e->answers) st = kd_measure(&e->m, &alone, e->answers, false, err);
    if (!st) st = measure_runs(e, runs, err);
    return st || !e->p.resamples ? st : resample(e, runs, err);
}

kd_status kd_exam_run(kd_exam *e, kd_runs *runs, void (*progress)(void *arg, uint64_t done, uint64_t total),
                      void *arg, kd_err *err)
{
    kd_status st = look_at_models(e, runs, err);
    if (!st) st = check_labels(e, err);
    if (!st) st = sit(e, runs, progress, arg, err);
    if (st) return st;
    const double t = kd_now();
    st = measure(e, runs, err);
    e->measure_s = kd_now() - t;
    return st;
}

kd_status kd_eval_teacher(kd_measures *m, kd_store *s, const kd_eval_params *p, kd_err *err)
{
    kd_exam *e;
    kd_runs none = {NULL, 0};
    if (kd_eval_logits(s, p->teacher) < 0)
        return kd_fail(err, KD_ENOTFOUND,
                       "%s: no teacher's logits; add them: kd-dump --teacher FOLDER --into %s",
                       kd_store_path(s), kd_store_path(s));
    kd_status st = kd_exam_open(&e, s, p, err);
    if (!st && !(st = kd_exam_run(e, &none, NULL, NULL, err))) *m = e->m;
    kd_exam_close(e);
    return st;
}
