/* lib/eval/results.c - from folders of trained models to one results object.
 *
 * Runs of one student differ in role (distilled, plain) and seed. The results put the seeds of a
 * student side by side and pair the roles over them; the object has the same shape for every
 * pipeline, so that reports and scripts need to know one. */
#include "kd/eval.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_DEPTH  8
#define JSON_LIMIT (16u << 20)

/* ---- finding runs ------------------------------------------------------------------------- */

static kd_status runs_add(kd_runs *runs, const char *folder, kd_err *err)
{
    char *path = kd_path_join(folder, "provenance.json");
    json_t *prov = NULL;
    const char *name, *role;
    int64_t seed;
    kd_status st = path ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for a path");
    if (st || (st = kd_json_load(path, JSON_LIMIT, &prov, err)) ||
        (st = kd_json_str(prov, "name", &name, path, err)) ||
        (st = kd_json_str(prov, "role", &role, path, err)) ||
        (st = kd_json_int(prov, "seed", 0, INT64_MAX, &seed, path, err)))
        goto out;
    kd_run *grown = realloc(runs->v, (runs->n + 1) * sizeof *grown);
    if (grown) runs->v = grown;
    kd_run r = {.folder = kd_strdup(folder),
                .name = kd_strdup(name),
                .role = kd_strdup(role),
                .seed = (uint64_t)seed};
    if (!grown || !r.folder || !r.name || !r.role) {
        free(r.folder), free(r.name), free(r.role);
        st = kd_fail(err, KD_ENOMEM, "no memory for the list of runs");
        goto out;
    }
    const json_t *seconds = json_object_get(prov, "seconds");
    r.train_s = json_is_number(seconds) ? json_number_value(seconds) : 0;
    r.file_bytes = kd_model_file_bytes(folder);
    runs->v[runs->n++] = r;
out:
    json_decref(prov);
    free(path);
    return st;
}

static bool is_unfinished(const char *name)
{
    size_t n = strlen(name);
    return n > 5 && !strcmp(name + n - 5, ".part");
}

static kd_status runs_walk(kd_runs *runs, const char *folder, int depth, kd_err *err)
{
    char *config = kd_path_join(folder, "config.json");
    if (!config) return kd_fail(err, KD_ENOMEM, "no memory for a path");
    bool leaf = kd_exists(config);
    free(config);
    if (leaf) return runs_add(runs, folder, err);
    if (depth >= MAX_DEPTH) return KD_OK;
    DIR *d = opendir(folder);
    if (!d) return kd_fail_errno(err, errno, "%s: cannot list the folder", folder);
    kd_status st = KD_OK;
    for (struct dirent *e; !st && (e = readdir(d));) {
        if (e->d_name[0] == '.' || is_unfinished(e->d_name)) continue;
        char *path = kd_path_join(folder, e->d_name);
        if (!path)
            st = kd_fail(err, KD_ENOMEM, "no memory for a path");
        else if (kd_is_dir(path))
            st = runs_walk(runs, path, depth + 1, err);
        free(path);
    }
    closedir(d);
    return st;
}

static int by_name_role_seed(const void *a, const void *b)
{
    const kd_run *x = a, *y = b;
    int c = strcmp(x->name, y->name);
    if (!c) c = strcmp(x->role, y->role);
    return c ? c : (x->seed > y->seed) - (x->seed < y->seed);
}

kd_status kd_runs_find(kd_runs *runs, const char *folder, kd_err *err)
{
    size_t before = runs->n;
    if (!kd_is_dir(folder))
        return kd_fail(err, KD_ENOTFOUND, "%s: no such folder; kd-train writes one (-o FOLDER)", folder);
    kd_status st = runs_walk(runs, folder, 0, err);
    if (st) return st;
    if (runs->n == before)
        return kd_fail(err, KD_ENOTFOUND,
                       "%s: no finished model below it (a folder NAME.part is unfinished: kd-train --resume)",
                       folder);
    qsort(runs->v, runs->n, sizeof *runs->v, by_name_role_seed);
    return KD_OK;
}

void kd_runs_release(kd_runs *runs)
{
    for (size_t i = 0; i < runs->n; i++)
        free(runs->v[i].folder), free(runs->v[i].name), free(runs->v[i].role);
    free(runs->v);
    memset(runs, 0, sizeof *runs);
}

kd_status kd_runs_eval(kd_runs *runs, kd_store *s, const kd_eval_params *p,
                       void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg, kd_err *err)
{
    for (size_t i = 0; i < runs->n; i++) {
        kd_model *m = NULL;
        kd_status st = kd_model_load(&m, runs->v[i].folder, err);
        if (!st) {
            runs->v[i].params = kd_graph_param_count(m->graph);
            st = kd_eval_model(&runs->v[i].m, m, s, p, NULL, err);
        }
        kd_model_free(m);
        if (st) return st;
        if (progress) progress(arg, i + 1, runs->n);
    }
    return KD_OK;
}

/* ---- the results object ------------------------------------------------------------------- */

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

/* One student: all runs of one name, [r, end). */
static kd_status student_json(json_t **out, const kd_run *r, const kd_run *end, kd_err *err)
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
        if (!json_array_size(seeds))
            for (const kd_run *k = q; k < e; k++)
                json_array_append_new(seeds, json_integer((json_int_t)k->seed));
        q = e;
    }
    json_object_set_new(o, "seeds", seeds);
    kd_status st = add_latency(o, r, err);
    if (!st) st = add_verdict(o, role[0][0], role[0][1], role[1][0], role[1][1], err);
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
    json_t *students = json_array(), *teacher = teacher_json(s, p, err);
    double train_s = 0;
    if (!teacher) goto fail;
    for (const kd_run *r = runs->v, *end = r + runs->n; r < end;) {
        const kd_run *q = r;
        for (; q < end && !strcmp(q->name, r->name); q++) train_s += q->train_s;
        json_t *o;
        if (student_json(&o, r, q, err)) goto fail;
        json_array_append_new(students, o);
        r = q;
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
