/* lib/eval/run.c - runs a model over a split of a store and measures it; no teacher is needed.
 *
 * Chunks are read in store order; rows go through the model in batches of fixed size. The last batch of a
 * chunk is padded with what the buffer held before: in inference rows do not see each other. */
#include "kd/eval.h"

#include <stdlib.h>
#include <string.h>

/* The columns evaluation reads and what it collects of them. */
typedef struct eval_set {
    kd_store *s;
    kd_cursor *cur;
    int input, label, logits; /* column indices; logits -1 when there is no teacher */
    kd_split split;
    int64_t classes;
    uint64_t rows;
    int32_t *labels; /* (rows) */
    float *teacher;  /* (rows, classes) or NULL */
} eval_set;

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

static kd_status set_error_columns(const eval_set *e, const char *teacher, kd_err *err)
{
    if (e->input < 0)
        return kd_fail(err, KD_EMISMATCH, "%s: no column with role input; pack the data again with kd-dump",
                       kd_store_path(e->s));
    if (e->label < 0)
        return kd_fail(err, KD_EMISMATCH, "%s: no column with role label; evaluation needs labels",
                       kd_store_path(e->s));
    if (teacher && e->logits < 0)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: no logits of a teacher named %s that keep all classes; see: kd-store stat %s",
                       kd_store_path(e->s), teacher, kd_store_path(e->s));
    return KD_OK;
}

/* Reads labels and cached logits of the whole split. */
static kd_status set_collect(eval_set *e, kd_err *err)
{
    kd_status st = KD_OK;
    const kd_column *lc = kd_store_column(e->s, e->label);
    const kd_column *tc = e->logits < 0 ? NULL : kd_store_column(e->s, e->logits);
    uint64_t at = 0;
    if (lc->dtype != KD_I32 || lc->ndims != 0)
        return kd_fail(err, KD_EMISMATCH, "%s: column %s is %s, evaluation needs one i32 a row",
                       kd_store_path(e->s), lc->name, kd_dtype_name(lc->dtype));
    for (uint32_t c = 0; c < kd_store_chunks(e->s); c++) {
        const kd_chunk_info *ci = kd_store_chunk(e->s, c);
        if (ci->split != e->split) continue;
        st = kd_cursor_read(e->cur, e->label, c, e->labels + at, (size_t)ci->rows * sizeof(int32_t), err);
        if (st) return st;
        if (tc) {
            st = kd_cursor_read_f32(e->cur, e->logits, c, e->teacher + at * (uint64_t)e->classes, ci->rows,
                                    err);
            if (st) return st;
        }
        at += ci->rows;
    }
    for (uint64_t r = 0; r < e->rows; r++)
        if (e->labels[r] < 0 || e->labels[r] >= e->classes)
            return kd_fail(err, KD_EMISMATCH, "%s: %s split, row %llu: label %d, but there are %lld classes",
                           kd_store_path(e->s), kd_split_name(e->split), (unsigned long long)r, e->labels[r],
                           (long long)e->classes);
    return KD_OK;
}

static void set_release(eval_set *e)
{
    kd_cursor_close(e->cur);
    free(e->labels);
    free(e->teacher);
}

/* Without p->teacher the first teacher of the store that kept all classes is taken, if there is one. classes
 * 0: the teacher's. */
static kd_status set_open(eval_set *e, kd_store *s, const kd_eval_params *p, int64_t classes, kd_err *err)
{
    kd_status st;
    memset(e, 0, sizeof *e);
    e->s = s;
    e->split = p->split;
    e->input = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    e->label = kd_store_find_role(s, KD_ROLE_LABEL, NULL);
    e->logits = kd_eval_logits(s, p->teacher);
    if ((st = set_error_columns(e, p->teacher, err))) return st;
    e->rows = kd_store_split_rows(s, p->split);
    if (!e->rows)
        return kd_fail(err, KD_EMISMATCH, "%s: the %s split is empty", kd_store_path(s),
                       kd_split_name(p->split));
    if (e->logits >= 0) {
        const kd_column *tc = kd_store_column(s, e->logits);
        if (!classes) classes = tc->dims[0];
        if (tc->ndims != 1 || tc->dims[0] != classes)
            return kd_fail(err, KD_EMISMATCH, "%s: column %s has %lld classes, the student has %lld",
                           kd_store_path(s), tc->name, (long long)tc->dims[0], (long long)classes);
    }
    e->classes = classes;
    e->labels = kd_alloc_aligned(e->rows, sizeof(int32_t));
    if (e->logits >= 0) e->teacher = kd_alloc_aligned(e->rows, (size_t)classes * sizeof(float));
    if (!e->labels || (e->logits >= 0 && !e->teacher))
        st = kd_fail(err, KD_ENOMEM, "no memory for the labels and logits of %llu rows",
                     (unsigned long long)e->rows);
    else if (!(st = kd_cursor_open(&e->cur, s, err)))
        st = set_collect(e, err);
    if (st) set_release(e);
    return st;
}

static kd_status check_input(const kd_model *m, const kd_store *s, const kd_column *ic, kd_err *err)
{
    size_t have = 1, want = kd_graph_node_size(m->graph, m->input);
    for (int d = 0; d < ic->ndims; d++) have *= (size_t)ic->dims[d];
    if (have != want)
        return kd_fail(err, KD_EMISMATCH, "%s: a row of column %s has %zu values, model %s takes %zu",
                       kd_store_path(s), ic->name, have, m->name, want);
    return KD_OK;
}

/* Forward passes over the split: out (rows, classes). */
static kd_status run_split(const eval_set *e, kd_model *m, const kd_eval_params *p, float *out, kd_err *err)
{
    const kd_column *ic = kd_store_column(e->s, e->input);
    size_t row_floats = kd_graph_node_size(m->graph, m->input),
           row_bytes = row_floats * kd_dtype_size(ic->dtype);
    kd_exec *ex = NULL;
    unsigned char *raw = NULL;
    uint64_t at = 0;
    kd_exec_params ep = {.batch = p->batch, .threads = p->threads};
    kd_status st = check_input(m, e->s, ic, err);
    if (st || (st = kd_exec_create(&ex, m->graph, &ep, err))) goto out;
    for (uint32_t c = 0; c < kd_store_chunks(e->s); c++) {
        const kd_chunk_info *ci = kd_store_chunk(e->s, c);
        if (ci->split != e->split) continue;
        unsigned char *grown = realloc(raw, ci->rows * row_bytes);
        if (!grown) {
            st = kd_fail(err, KD_ENOMEM, "no memory for a chunk of %u rows", ci->rows);
            goto out;
        }
        raw = grown;
        if ((st = kd_cursor_read(e->cur, e->input, c, raw, ci->rows * row_bytes, err))) goto out;
        for (uint64_t r = 0; r < ci->rows; r += (uint64_t)p->batch) {
            size_t n = kd_min_size((size_t)p->batch, (size_t)(ci->rows - r));
            if ((st = kd_model_feed(m, kd_exec_input(ex, m->input), raw + r * row_bytes, ic->dtype, n, err)))
                goto out;
            kd_exec_run_forward(ex);
            memcpy(out + (at + r) * (uint64_t)e->classes, kd_exec_value(ex, m->logits),
                   n * (size_t)e->classes * sizeof(float));
        }
        at += ci->rows;
    }
out:
    free(raw);
    kd_exec_free(ex);
    return st;
}

kd_status kd_eval_model(kd_measures *m, kd_model *model, kd_store *s, const kd_eval_params *p, float *logits,
                        kd_err *err)
{
    eval_set e;
    int64_t classes = (int64_t)kd_graph_node_size(model->graph, model->logits);
    kd_status st = set_open(&e, s, p, classes, err);
    if (st) return st;
    float *out = logits ? logits : kd_alloc_aligned(e.rows, (size_t)classes * sizeof(float));
    if (!out)
        st = kd_fail(err, KD_ENOMEM, "no memory for the logits of %llu rows", (unsigned long long)e.rows);
    else if (!(st = run_split(&e, model, p, out, err)))
        kd_measure(m, out, e.labels, e.teacher, e.rows, classes);
    if (out != logits) free(out);
    set_release(&e);
    return st;
}

kd_status kd_eval_teacher(kd_measures *m, kd_store *s, const kd_eval_params *p, kd_err *err)
{
    eval_set e;
    if (kd_eval_logits(s, p->teacher) < 0)
        return kd_fail(err, KD_ENOTFOUND,
                       "%s: no teacher's logits; add them: kd-dump --teacher FOLDER --into %s",
                       kd_store_path(s), kd_store_path(s));
    kd_status st = set_open(&e, s, p, 0, err);
    if (st) return st;
    kd_measure(m, e.teacher, e.labels, e.teacher, e.rows, e.classes);
    set_release(&e);
    return KD_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

kd_status kd_eval_latency(kd_model *model, double *p50_us, double *p99_us, kd_err *err)
{
    enum { WARM = 50, RUNS = 500 };
    double *us = malloc(RUNS * sizeof *us);
    kd_exec *ex = NULL;
    kd_exec_params ep = {.batch = 1, .threads = 1};
    kd_status st = KD_OK;
    if (!us) return kd_fail(err, KD_ENOMEM, "no memory for %d timings", RUNS);
    if ((st = kd_exec_create(&ex, model->graph, &ep, err))) goto out;
    for (int i = -WARM; i < RUNS; i++) {
        double t = kd_now();
        kd_exec_run_forward(ex);
        if (i >= 0) us[i] = (kd_now() - t) * 1e6;
    }
    qsort(us, RUNS, sizeof *us, by_value);
    *p50_us = us[RUNS / 2];
    *p99_us = us[RUNS * 99 / 100];
out:
    kd_exec_free(ex);
    free(us);
    return st;
}
