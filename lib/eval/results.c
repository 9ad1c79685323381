/* lib/eval/results.c - everything that was measured in one object.
 *
 * The object has the same shape for every pipeline (docs/evaluation.md), so that gates, reports and scripts
 * need to know one. What could not be measured has no key, and left_out says why.
 */
#include "eval_private.h"

#include <string.h>
#include <time.h>

static json_t *provenance_json(const char *command, const kd_exam *e)
{
    char date[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:s, s:s}", "command", command ? command : "", "kd",
                     KD_VERSION, "build", kd_build_info(), "cpu", kd_cpu_name(), "isa",
                     kd_isa_name(kd_cpu_isa()), "backend", kd_nn_backend(), "threads", e->p.threads, "split",
                     kd_split_name(e->p.split), "date", date);
}

static json_t *store_json(const kd_store *s)
{
    return json_pack("{s:s, s:I, s:I, s:s}", "path", kd_store_path(s), "rows", (json_int_t)kd_store_rows(s),
                     "bytes", (json_int_t)kd_store_bytes(s), "root", kd_store_root(s));
}

/* Its cost of use is that of the student that is the teacher, if there is one. */
static void copy_cost(json_t *teacher, const json_t *students)
{
    static const char *const keys[] = {"params",
                                       "macs",
                                       "file_bytes",
                                       "memory_bytes",
                                       "latency_us",
                                       "latency_p99_us",
                                       "throughput_rows_s",
                                       "throughput_batch",
                                       "throughput_threads"};
    size_t i;
    json_t *s;
    json_array_foreach(students, i, s)
    {
        if (!json_object_get(s, "is_teacher")) continue;
        for (size_t k = 0; k < KD_COUNT(keys); k++) {
            json_t *v = json_object_get(s, keys[k]);
            if (v) json_object_set(teacher, keys[k], v);
        }
        return;
    }
}

static json_t *teacher_json(const kd_exam *e, const json_t *students, kd_err *err)
{
    if (!e->answers) return json_null();
    const kd_answer *a = e->answers;
    const double *resampled = e->resampled;
    const kd__panel p = {&a, 1};
    const json_t *info = kd_store_teacher(e->s, e->teacher);
    json_t *o = info ? json_deep_copy(info) : json_object();
    if (!json_object_get(o, "name")) json_object_set_new(o, "name", json_string(e->teacher));
    kd__set_measures(o, &e->m);
    if (kd__set_bounds(o, e, &resampled, 1, err) || kd__set_tables(o, e, &p, true, err)) {
        json_decref(o);
        return NULL;
    }
    copy_cost(o, students);
    return o;
}

static json_t *students_json(kd_exam *e, const kd_runs *runs, kd_err *err)
{
    json_t *list = json_array();
    for (const kd_run *r = runs->v, *end = r + runs->n, *next; r < end; r = next) {
        next = kd__name_end(r, end);
        if (kd__only_control(runs, r, next)) continue;
        json_t *o = kd__student_json(e, runs, r, next, err);
        if (!o) {
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *cost_json(const kd_exam *e, const kd_runs *runs)
{
    const json_t *info = e->teacher ? kd_store_teacher(e->s, e->teacher) : NULL,
                 *pass = json_object_get(info, "seconds");
    double train_s = 0;
    for (size_t i = 0; i < runs->n; i++) train_s += runs->v[i].train_s;
    return json_pack("{s:o, s:f}", "teacher_pass_s",
                     json_is_number(pass) ? json_real(json_number_value(pass)) : json_null(), "train_s",
                     train_s);
}

static json_t *timing_json(const kd_exam *e)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "decode_s", e->decode_s, "forward_s", e->forward_s,
                     "measure_s", e->measure_s, "speed_s", e->speed_s, "total_s", kd_now() - e->start);
}

json_t *kd_results_json(kd_exam *e, const kd_runs *runs, const char *pipeline, const char *command,
                        kd_err *err)
{
    if (kd__check_against(runs, e->p.against, err)) return NULL;
    if (e->rows.classes > KD_CONFUSION_CLASSES)
        json_array_append_new(e->left_out, json_pack("{s:[s], s:s}", "measures", "confusion", "why",
                                                     "more than 1,000 classes"));
    json_t *students = students_json(e, runs, err), *teacher = NULL, *pairs = NULL;
    if (students) teacher = teacher_json(e, students, err);
    if (teacher) pairs = kd__pairs_json(e, runs, err);
    json_t *o = NULL;
    if (pairs &&
        !(o = json_pack("{s:i, s:s, s:o, s:s, s:I, s:I, s:O?, s:f, s:I, s:O, s:O, s:O, s:O, s:o, s:o, s:o}",
                        "schema", KD_RESULTS_SCHEMA, "pipeline", pipeline, "store", store_json(e->s), "split",
                        kd_split_name(e->p.split), "rows", (json_int_t)e->rows.n, "classes",
                        (json_int_t)e->rows.classes, "class_names", e->names, "confidence", 0.95, "resamples",
                        (json_int_t)e->p.resamples, "left_out", e->left_out, "teacher", teacher, "students",
                        students, "pairs", pairs, "cost", cost_json(e, runs), "timing", timing_json(e),
                        "provenance", provenance_json(command, e))))
        kd_fail(err, KD_ENOMEM, "no memory for the results of %zu runs", runs->n);
    json_decref(students);
    json_decref(teacher);
    json_decref(pairs);
    return o;
}
