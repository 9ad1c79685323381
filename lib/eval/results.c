/* lib/eval/results.c - from measured runs to one results object.
 *
 * Runs of one student differ in role (distilled, plain) and seed. The results put the seeds of a
 * student side by side and pair the roles over them; the object has the same shape for every
 * pipeline, so that reports and scripts need to know one.
 *
 * Points of a sweep are students of their own. A point without plain runs under its own name is paired with
 * those of the plain point that has the most of its axes: kd-train's control leaves the axes of the loss out.
 */
#include "eval_private.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static json_t *measures_json(const kd_measures *m)
{
    json_t *o = json_pack("{s:f, s:f, s:f}", "accuracy", m->accuracy, "loss", m->loss, "ece", m->ece);
    if (o && m->has_teacher) {
        json_object_set_new(o, "agreement", json_real(m->agreement));
        json_object_set_new(o, "kl", json_real(m->kl));
    }
    return o;
}

/* {"accuracy": [...], "ece": [...], ...}: one number per run of [first, end). */
static json_t *role_json(const kd_run *first, const kd_run *end)
{
    json_t *o = json_object();
    for (const kd_run *r = first; r < end; r++) {
        json_t *m = measures_json(&r->m), *v;
        const char *key;
        json_object_foreach(m, key, v)
        {
            if (!json_object_get(o, key)) json_object_set_new(o, key, json_array());
            json_array_append(json_object_get(o, key), v);
        }
        json_decref(m);
    }
    return o;
}

static const kd_run *role_end(const kd_run *r, const kd_run *end)
{
    const kd_run *q = r;
    while (q < end && !strcmp(q->name, r->name) && !strcmp(q->role, r->role)) q++;
    return q;
}

/* Pairs the accuracies of both roles over the seeds that both have. */
static size_t pair_seeds(const kd_run *a, const kd_run *a_end, const kd_run *b, const kd_run *b_end,
                         double *x, double *y)
{
    size_t n = 0;
    while (a < a_end && b < b_end) {
        if (a->seed == b->seed) {
            x[n] = a++->m.accuracy;
            y[n++] = b++->m.accuracy;
        } else if (a->seed < b->seed) {
            a++;
        } else {
            b++;
        }
    }
    return n;
}

static kd_status add_verdict(json_t *o, const kd_run *d, const kd_run *d_end, const kd_run *p,
                             const kd_run *p_end, kd_err *err)
{
    size_t cap = (size_t)(d_end - d) + 1;
    double *x = calloc(2 * cap, sizeof *x), diff = 0;
    if (!x) return kd_fail(err, KD_ENOMEM, "no memory for %zu seeds", cap);
    size_t n = pair_seeds(d, d_end, p, p_end, x, x + cap);
    double pv = kd_paired_t(x, x + cap, n, &diff);
    free(x);
    json_object_set_new(o, "pairs", json_integer((json_int_t)n));
    json_object_set_new(o, "accuracy_gain", n ? json_real(diff) : json_null());
    json_object_set_new(o, "p_value", n > 1 ? json_real(pv) : json_null());
    json_object_set_new(o, "verdict", json_string(n > 1 ? kd_verdict(pv, diff) : "no difference"));
    return KD_OK;
}

static kd_status add_latency(json_t *o, const kd_run *r, kd_err *err)
{
    kd_model *m = NULL;
    double p50, p99;
    kd_status st = kd_model_load(&m, r->folder, err);
    if (!st) st = kd_eval_latency(m, &p50, &p99, err);
    if (!st) {
        json_object_set_new(o, "latency_us", json_real(p50));
        json_object_set_new(o, "latency_p99_us", json_real(p99));
        json_object_set_new(o, "macs", json_real(kd_graph_macs(m->graph)));
    }
    kd_model_free(m);
    return st;
}

static const kd_run *name_end(const kd_run *r, const kd_run *end)
{
    const kd_run *q = r;
    while (q < end && !strcmp(q->name, r->name)) q++;
    return q;
}

/* Axes of a plain point that a point has as well; -1: another student, or an axis that it has not. */
static int shared_axes(const char *plain, const char *point)
{
    int n = 0;
    if (!kd__eval_same_student(plain, point)) return -1;
    for (const char *at = strchr(plain, '@'); at; at = strchr(at + 1, '@'), n++) {
        size_t len = 1 + strcspn(at + 1, "@");
        const char *p = strchr(point, '@');
        while (p && (strncmp(p, at, len) || !strchr("@", p[len]))) p = strchr(p + 1, '@');
        if (!p) return -1;
    }
    return n;
}

/* The plain runs that the runs of a name are paired with; NULL: none. */
static const kd_run *find_control(const kd_runs *runs, const char *name)
{
    const kd_run *best = NULL;
    int most = -1;
    for (const kd_run *r = runs->v, *end = r + runs->n; r < end; r = role_end(r, end)) {
        int n = strcmp(r->role, "plain") ? -1 : shared_axes(r->name, name);
        if (n > most) most = n, best = r;
    }
    return best;
}

/* The distilled runs of a student's point, "loss=kd" of "cnn@loss=kd"; name: of any of its points, NULL: any
 * student. */
static const kd_run *find_point(const kd_runs *runs, const char *name, const char *point)
{
    for (const kd_run *r = runs->v, *end = r + runs->n; r < end; r = role_end(r, end)) {
        const char *at = strchr(r->name, '@');
        if (at && !strcmp(at + 1, point) && !strcmp(r->role, "distilled") &&
            (!name || kd__eval_same_student(r->name, name)))
            return r;
    }
    return NULL;
}

static kd_status add_against(json_t *o, const kd_runs *runs, const kd_run *d, const kd_run *d_end,
                             const char *point, kd_err *err)
{
    const kd_run *other = d ? find_point(runs, d->name, point) : NULL;
    if (!other || other == d) return KD_OK;
    json_t *a = json_pack("{s:s}", "name", other->name);
    if (!a) return kd_fail(err, KD_ENOMEM, "out of memory");
    json_object_set_new(o, "against", a);
    return add_verdict(a, d, d_end, other, role_end(other, runs->v + runs->n), err);
}

/* The runs of this name are another student's control and nothing more. */
static bool only_control(const kd_runs *runs, const kd_run *r, const kd_run *end)
{
    if (strcmp(r->role, "plain") || role_end(r, end) != end) return false;
    for (const kd_run *d = runs->v; d < runs->v + runs->n; d++)
        if (!strcmp(d->role, "distilled") && find_control(runs, d->name) == r) return true;
    return false;
}

static void add_chosen(json_t *o, const kd_run *r)
{
    if (!r->point) return;
    if (!json_object_get(o, "chosen")) json_object_set_new(o, "chosen", json_object());
    json_object_set_new(json_object_get(o, "chosen"), r->role, json_string(r->point));
}

/* One student: all runs of one name, [r, end), and perhaps a control by another name. */
static kd_status student_json(json_t **out, const kd_runs *runs, const kd_run *r, const kd_run *end,
                              const char *against, kd_err *err)
{
    json_t *o = json_pack("{s:s, s:I, s:I}", "name", r->name, "params", (json_int_t)r->params, "file_bytes",
                          (json_int_t)r->file_bytes);
    json_t *seeds = json_array();
    const kd_run *role[2][2] = {{NULL, NULL}, {NULL, NULL}}; /* distilled, plain: begin, end */
    for (const kd_run *q = r; q < end;) {
        const kd_run *e = role_end(q, end);
        int i = !strcmp(q->role, "plain");
        role[i][0] = q, role[i][1] = e;
        json_object_set_new(o, q->role, role_json(q, e));
        add_chosen(o, q);
        if (!json_array_size(seeds))
            for (const kd_run *k = q; k < e; k++)
                json_array_append_new(seeds, json_integer((json_int_t)k->seed));
        q = e;
    }
    json_object_set_new(o, "seeds", seeds);
    if (!role[1][0] && !strcmp(r->role, "distilled") && (role[1][0] = find_control(runs, r->name))) {
        role[1][1] = role_end(role[1][0], runs->v + runs->n);
        json_object_set_new(o, "plain", role_json(role[1][0], role[1][1]));
        json_object_set_new(o, "control", json_string(role[1][0]->name));
    }
    kd_status st = add_latency(o, r, err);
    if (!st) st = add_verdict(o, role[0][0], role[0][1], role[1][0], role[1][1], err);
    if (!st && against) st = add_against(o, runs, role[0][0], role[0][1], against, err);
    if (st) json_decref(o), o = NULL;
    *out = o;
    return st;
}

static json_t *teacher_json(kd_store *s, const kd_eval_params *p, kd_err *err)
{
    kd_measures m;
    int col = kd_eval_logits(s, p->teacher);
    if (col < 0) return json_null();
    const json_t *info = kd_store_teacher(s, kd_store_column(s, (size_t)col)->teacher);
    if (kd_eval_teacher(&m, s, p, err)) return NULL;
    json_t *o = info ? json_deep_copy(info) : json_object();
    json_object_set_new(o, "metrics", measures_json(&m));
    return o;
}

static json_t *provenance_json(const char *command, const kd_eval_params *p)
{
    char date[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "command", command ? command : "", "kd",
                     KD_VERSION, "build", kd_build_info(), "cpu", kd_cpu_name(), "isa",
                     kd_isa_name(kd_cpu_isa()), "backend", kd_nn_backend(), "split", kd_split_name(p->split),
                     "date", date);
}

json_t *kd_results_json(const kd_runs *runs, kd_store *s, const kd_eval_params *p, const char *pipeline,
                        const char *command, kd_err *err)
{
    if (p->against && !find_point(runs, NULL, p->against)) {
        kd_fail(err, KD_ENOTFOUND,
                "--against %.80s: no distilled run of that name; a point is what follows the '@' in "
                "a run's name: NAME@%.80s",
                p->against, p->against);
        return NULL;
    }
    json_t *students = json_array(), *teacher = teacher_json(s, p, err);
    double train_s = 0;
    if (!teacher) goto fail;
    for (const kd_run *r = runs->v, *end = r + runs->n; r < end;) {
        const kd_run *first = r;
        json_t *o;
        for (const kd_run *q = name_end(r, end); r < q; r++) train_s += r->train_s;
        if (only_control(runs, first, r)) continue;
        if (student_json(&o, runs, first, r, p->against, err)) goto fail;
        json_array_append_new(students, o);
    }
    const json_t *pass = json_object_get(teacher, "seconds");
    return json_pack("{s:i, s:s, s:{s:I, s:I, s:s}, s:o, s:o, s:{s:o, s:f}, s:o}", "schema", 1, "pipeline",
                     pipeline, "store", "rows", (json_int_t)kd_store_rows(s), "bytes",
                     (json_int_t)kd_store_bytes(s), "root", kd_store_root(s), "teacher", teacher, "students",
                     students, "cost", "teacher_pass_s",
                     json_is_number(pass) ? json_real(json_number_value(pass)) : json_null(), "train_s",
                     train_s, "provenance", provenance_json(command, p));
fail:
    json_decref(students);
    json_decref(teacher);
    return NULL;
}
