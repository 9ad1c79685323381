/* lib/eval/students.c - one object a student: its measures, its cost, its seeds side by side.
 *
 * A student's runs differ in role (distilled, plain) and seed. Its measures are the means of the first role;
 * all roles have their numbers by seed, and the roles are paired over the seeds that both have.
 */
#include "eval_private.h"

#include <stdlib.h>
#include <string.h>

/* {"accuracy": [...], "ece": [...], ...}: one number a run. */
static json_t *role_json(const kd__group *g)
{
    json_t *o = json_object();
    for (int k = 0; k < KD_MEASURES; k++) {
        if (!g->v->m.taken[k]) continue;
        json_t *list = json_array();
        for (size_t i = 0; i < g->n; i++) json_array_append_new(list, kd__real(g->v[i].m.v[k]));
        json_object_set_new(o, kd_measure_key((kd_measure_name)k), list);
    }
    return o;
}

/* Pairs the accuracies of both roles over the seeds that both have. */
static size_t pair_seeds(const kd__group *a, const kd__group *b, double *x, double *y)
{
    size_t n = 0;
    for (size_t i = 0, k = 0; i < a->n && k < b->n;) {
        const uint64_t s = a->v[i].seed, t = b->v[k].seed;
        if (s == t) {
            x[n] = a->v[i].m.v[KD_M_ACCURACY];
            y[n++] = b->v[k].m.v[KD_M_ACCURACY];
        }
        i += s <= t;
        k += t <= s;
    }
    return n;
}

static kd_status set_verdict(json_t *o, const kd__group *d, const kd__group *p, kd_err *err)
{
    double *x = calloc(2 * d->n + 1, sizeof *x), diff = 0;
    if (!x) return kd_fail(err, KD_ENOMEM, "no memory for %zu seeds", d->n);
    const size_t n = pair_seeds(d, p, x, x + d->n);
    const double pv = kd_paired_t(x, x + d->n, n, &diff);
    free(x);
    json_object_set_new(o, "pairs", json_integer((json_int_t)n));
    json_object_set_new(o, "accuracy_gain", n ? json_real(diff) : json_null());
    json_object_set_new(o, "p_value", n > 1 ? json_real(pv) : json_null());
    json_object_set_new(o, "verdict", json_string(n > 1 ? kd_verdict(pv, diff) : "no difference"));
    return KD_OK;
}

static kd_status set_against(json_t *o, const kd_exam *e, const kd_runs *runs, const kd__group *d,
                             kd_err *err)
{
    const kd__group other =
        e->p.against && d->n ? kd__find_point(runs, d->v->name, e->p.against) : (kd__group){NULL, 0};
    if (!other.n || other.v == d->v) return KD_OK;
    json_t *a = json_pack("{s:s}", "name", other.v->name);
    if (!a) return kd_fail(err, KD_ENOMEM, "out of memory");
    json_object_set_new(o, "against", a);
    return set_verdict(a, d, &other, err);
}

/* Latency of the first run; it is measured here, after all that could disturb it. */
static kd_status set_use(json_t *o, kd_exam *e, const kd_run *r, kd_err *err)
{
    kd_cost cost = r->cost;
    kd_model *m = NULL;
    kd_status st = KD_OK;
    const double t = kd_now();
    if (e->p.speed && !(st = kd_model_load(&m, r->folder, err))) st = kd_cost_latency(&cost, m, err);
    kd_model_free(m);
    e->speed_s += kd_now() - t;
    if (!st) kd__set_cost(o, e, &cost);
    return st;
}

/* All roles' numbers by seed, and which of their points were chosen. */
static void set_roles(json_t *o, const kd_run *r, const kd_run *end, kd__group *distilled, kd__group *plain)
{
    for (const kd_run *q = r; q < end;) {
        const kd__group g = kd__group_at(q, end);
        if (!strcmp(q->role, "plain")) *plain = g;
        if (!strcmp(q->role, "distilled")) *distilled = g;
        json_object_set_new(o, q->role, role_json(&g));
        if (q->point && !json_object_get(o, "chosen")) json_object_set_new(o, "chosen", json_object());
        if (q->point) json_object_set_new(json_object_get(o, "chosen"), q->role, json_string(q->point));
        q += g.n;
    }
}

static json_t *head_json(const kd__group *g)
{
    json_t *seeds = json_array(), *folders = json_array();
    double train_s = 0;
    for (size_t i = 0; i < g->n; i++) {
        json_array_append_new(seeds, json_integer((json_int_t)g->v[i].seed));
        json_array_append_new(folders, json_string(g->v[i].folder));
        train_s += g->v[i].train_s;
    }
    json_t *o = json_pack("{s:s, s:s, s:o, s:o, s:f}", "name", g->v->name, "role", g->v->role, "seeds", seeds,
                          "folders", folders, "train_s", train_s / (double)g->n);
    if (o && g->v->is_teacher) json_object_set_new(o, "is_teacher", json_true());
    return o;
}

/* Mean measures with bounds, tables and mistakes of the group. */
static kd_status set_quality(json_t *o, const kd_exam *e, const kd__group *g, kd_err *err)
{
    const kd_answer **a = calloc(g->n, sizeof *a);
    const double **resampled = calloc(g->n, sizeof *resampled);
    kd_measures m;
    json_t *mistakes;
    kd_status st = a && resampled ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for %zu seeds", g->n);
    for (size_t i = 0; i < g->n && !st; i++) a[i] = g->v[i].answers, resampled[i] = g->v[i].resampled;
    if (!st) {
        const kd__panel p = {a, g->n};
        kd__mean_measures(&m, g);
        kd__set_measures(o, &m);
        st = kd__set_bounds(o, e, resampled, g->n, err);
        if (!st) st = kd__set_tables(o, e, &p, false, err);
        if (!st && e->answers) {
            if ((mistakes = kd__mistakes_json(e, &p, err)))
                json_object_set_new(o, "mistakes", mistakes);
            else
                st = KD_ENOMEM;
        }
    }
    free(a);
    free(resampled);
    return st;
}

json_t *kd__student_json(kd_exam *e, const kd_runs *runs, const kd_run *r, const kd_run *end, kd_err *err)
{
    const kd__group first = kd__group_at(r, end);
    kd__group distilled = {NULL, 0}, plain = {NULL, 0};
    json_t *o = head_json(&first);
    kd_status st = o ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st) st = set_quality(o, e, &first, err);
    if (!st) st = set_use(o, e, &first.v[0], err);
    if (!st) set_roles(o, r, end, &distilled, &plain);
    if (!st && distilled.n && !plain.n) {
        plain = kd__find_control(runs, r->name);
        if (plain.n) {
            json_object_set_new(o, "plain", role_json(&plain));
            json_object_set_new(o, "control", json_string(plain.v->name));
        }
    }
    if (!st) st = set_verdict(o, &distilled, &plain, err);
    if (!st) st = set_against(o, e, runs, &distilled, err);
    if (!st) return o;
    json_decref(o);
    return NULL;
}
