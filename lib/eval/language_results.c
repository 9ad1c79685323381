/* lib/eval/language_results.c - what language models came to, as one object: that of docs/evaluation.md, with
 * tokens in the place of rows. Roles are paired over their common seeds on KL; where only the cross-entropy
 * to the teacher is known on that, as the teacher's entropy, which is the same for all, cancels in a
 * difference; else on the loss. Less is better. */
#include "eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const keys[] = {
#define X(NAME, key) #key,
    KD_LANGUAGE_MAP(X)
#undef X
};

/* The runs first to end of one role. */
typedef struct group {
    const kd_language_run *v;
    size_t n;
} group;

static group group_of(const kd_language *l, const kd_runs *runs, const kd__group *g)
{
    return (group){l->run + (g->v - runs->v), g->n};
}

static json_t *role_json(const group *g)
{
    json_t *o = json_object();
    for (int k = 0; k < KD_LANGUAGE_MEASURES; k++) {
        if (isnan(g->v->v[k])) continue;
        json_t *list = json_array();
        for (size_t i = 0; i < g->n; i++) json_array_append_new(list, kd__real(g->v[i].v[k]));
        json_object_set_new(o, keys[k], list);
    }
    return o;
}

static void set_means(json_t *o, const group *g)
{
    for (int k = 0; k < KD_LANGUAGE_MEASURES; k++) {
        double sum = 0;
        for (size_t i = 0; i < g->n; i++) sum += g->v[i].v[k];
        if (!isnan(sum)) json_object_set_new(o, keys[k], kd__real(sum / (double)g->n));
    }
}

static kd_status set_verdict(json_t *o, const group *d, const group *p, kd_err *err)
{
    const double *v = d->n ? d->v->v : NULL;
    const kd_language_measure m = v && !isnan(v[KD_L_KL])      ? KD_L_KL
                                  : v && !isnan(v[KD_L_CROSS]) ? KD_L_CROSS
                                                               : KD_L_LOSS;
    double *x = calloc(2 * d->n + 1, sizeof *x), diff = 0, *y = x + d->n;
    size_t n = 0;
    if (!x) return kd_fail(err, KD_ENOMEM, "no memory for %zu seeds", d->n);
    for (size_t i = 0, k = 0; i < d->n && k < p->n;) {
        const uint64_t s = d->v[i].run->seed, t = p->v[k].run->seed;
        if (s == t) x[n] = p->v[k].v[m], y[n++] = d->v[i].v[m];
        i += s <= t;
        k += t <= s;
    }
    const double pv = kd_paired_t(x, y, n, &diff);
    free(x);
    if (!n) return KD_OK;
    json_object_set_new(o, "pairs", json_integer((json_int_t)n));
    json_object_set_new(o, "paired_on", json_string(keys[m]));
    json_object_set_new(o, m == KD_L_LOSS ? "loss_gain" : "kl_gain", json_real(diff));
    json_object_set_new(o, "p_value", n > 1 ? json_real(pv) : json_null());
    json_object_set_new(o, "verdict", json_string(n > 1 ? kd_verdict(pv, diff) : "no difference"));
    return KD_OK;
}

static kd_status set_against(json_t *o, const kd_language *l, const kd_runs *runs, const kd_run *r,
                             const char *against, const group *d, kd_err *err)
{
    const kd__group other = against && d->n ? kd__find_point(runs, r->name, against) : (kd__group){NULL, 0};
    if (!other.n || !strcmp(other.v->name, r->name)) return KD_OK;
    const group theirs = group_of(l, runs, &other);
    json_t *a = json_pack("{s:s}", "name", other.v->name);
    if (!a) return kd_fail(err, KD_ENOMEM, "out of memory");
    json_object_set_new(o, "against", a);
    return set_verdict(a, d, &theirs, err);
}

static json_t *student_json(const kd_language *l, const kd_runs *runs, const kd_run *r, const kd_run *end,
                            const char *against, kd_err *err)
{
    const kd__group first = kd__group_at(r, end);
    const group g = group_of(l, runs, &first);
    group distilled = {0}, plain = {0};
    json_t *seeds = json_array(), *folders = json_array();
    double train_s = 0;
    for (size_t i = 0; i < first.n; i++) {
        json_array_append_new(seeds, json_integer((json_int_t)first.v[i].seed));
        json_array_append_new(folders, json_string(first.v[i].folder));
        train_s += first.v[i].train_s;
    }
    json_t *o =
        json_pack("{s:s, s:s, s:o, s:o, s:f, s:I, s:I}", "name", first.v->name, "role", first.v->role,
                  "seeds", seeds, "folders", folders, "train_s", train_s / (double)first.n, "params",
                  (json_int_t)first.v->cost.params, "file_bytes", (json_int_t)first.v->cost.file_bytes);
    if (!o) {
        kd_fail(err, KD_ENOMEM, "out of memory");
        return NULL;
    }
    set_means(o, &g);
    for (const kd_run *q = r; q < end;) {
        const kd__group role = kd__group_at(q, end);
        const group mine = group_of(l, runs, &role);
        json_object_set_new(o, q->role, role_json(&mine));
        if (!strcmp(q->role, "distilled")) distilled = mine;
        if (!strcmp(q->role, "plain")) plain = mine;
        q += role.n;
    }
    if (distilled.n && !plain.n) {
        const kd__group control = kd__find_control(runs, r->name);
        if (control.n) {
            plain = group_of(l, runs, &control);
            json_object_set_new(o, "plain", role_json(&plain));
            json_object_set_new(o, "control", json_string(control.v->name));
        }
    }
    if (!set_verdict(o, &distilled, &plain, err) && !set_against(o, l, runs, r, against, &distilled, err))
        return o;
    json_decref(o);
    return NULL;
}

/* Which measures could not be taken, and why. */
static json_t *left_out(const kd_language *l)
{
    json_t *list = json_array(), *some = json_array();
    kd_buf why = {0};
    static const int exact[] = {KD_L_KL, KD_L_KL_P50, KD_L_KL_P99, KD_L_KL_MAX, KD_L_PPL_RATIO, KD_L_RMS_DP};
    for (size_t i = 0; i < KD_COUNT(exact); i++) json_array_append_new(some, json_string(keys[exact[i]]));
    if (l->teacher) {
        json_decref(some);
        return list;
    }
    if (l->sparse)
        kd_buf_printf(
            &why,
            "column %s (%s) does not keep all classes: kl_least is a bound from below, cross_entropy an "
            "estimate of KL and the teacher's entropy; --teacher MODEL runs the teacher",
            l->column->name, l->column->encoding);
    else
        kd_buf_puts(&why, "the store has no teacher's logits; --teacher MODEL runs one");
    json_array_append_new(list, json_pack("{s:o, s:s}", "measures", some, "why", why.text ? why.text : ""));
    kd_buf_release(&why);
    return list;
}

static json_t *teacher_json(const kd_language *l, const kd_language_params *p)
{
    if (!l->teacher && !l->column) return json_null();
    json_t *o = json_pack("{s:s, s:s}", "name", p->model ? p->model : l->column->teacher, "from",
                          p->model    ? "run over the texts"
                          : l->sparse ? l->column->encoding
                                      : "cached logits of all classes");
    double loss = 0;
    for (uint64_t i = 0; l->teacher && i < l->positions; i++)
        loss += l->teacher[i].loss / (double)l->positions;
    if (l->teacher) json_object_set_new(o, "loss", json_real(loss));
    if (l->teacher) json_object_set_new(o, "perplexity", json_real(exp(loss)));
    return o;
}

json_t *kd_language_json(const kd_language *l, kd_store *s, const kd_language_params *p, const kd_runs *runs,
                         const char *pipeline, const char *command, kd_err *err)
{
    if (kd__check_against(runs, p->against, err)) return NULL;
    json_t *students = json_array(), *one;
    for (const kd_run *r = runs->v, *end = r + runs->n, *next; r < end; r = next) {
        next = kd__name_end(r, end);
        if (kd__only_control(runs, r, next)) continue;
        if (!(one = student_json(l, runs, r, next, p->against, err))) {
            json_decref(students);
            return NULL;
        }
        json_array_append_new(students, one);
    }
    json_t *o =
        json_pack("{s:i, s:s, s:s, s:{s:s, s:I, s:I, s:s}, s:s, s:I, s:I, s:o, s:o, s:o, s:{s:s, s:s, s:i}}",
                  "schema", KD_RESULTS_SCHEMA, "kind", "language", "pipeline", pipeline, "store", "path",
                  kd_store_path(s), "rows", (json_int_t)kd_store_rows(s), "bytes",
                  (json_int_t)kd_store_bytes(s), "root", kd_store_root(s), "split", kd_split_name(p->split),
                  "rows", (json_int_t)l->rows, "positions", (json_int_t)l->positions, "left_out", left_out(l),
                  "teacher", teacher_json(l, p), "students", students, "provenance", "command", command, "kd",
                  KD_VERSION, "threads", p->threads);
    if (!o) kd_fail(err, KD_ENOMEM, "no memory for the results");
    return o;
}
