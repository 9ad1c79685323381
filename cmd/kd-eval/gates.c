/* kd-eval's gates: every one with its figure. */
#include "eval_cmd.h"

#include <string.h>

enum { RESULTS_MAX = 256 << 20 };

kd_status eval_load_results(const char *path, json_t **results, kd_err *err)
{
    return kd_json_load(path, RESULTS_MAX, results, err);
}

kd_status eval_judge(const kd_gates *g, const eval_opts *o, json_t *results, kd_err *verdict, kd_err *err)
{
    const char *path = o->release ? o->release : kd_gates_release(g);
    json_t *release = NULL;
    kd_status st = path ? eval_load_results(path, &release, err) : KD_OK;
    if (!st) st = kd_gates_judge(g, results, release, verdict);
    json_decref(release);
    if (!verdict->code || st == KD_EGATE) return KD_OK;
    return kd_fail(err, st, "%s", verdict->msg);
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void cell_figure(kd_table *t, const json_t *held, const char *key)
{
    const json_t *v = json_object_get(held, key);
    if (json_is_number(v))
        kd_table_cell(t, "%.6g", json_number_value(v));
    else
        kd_table_cell(t, "-");
}

/* Of several slices or classes the worst, then each that failed. */
static void gate_rows(kd_table *t, const json_t *o)
{
    const json_int_t judged = json_integer_value(json_object_get(o, "judged"));
    const json_t *failed = json_object_get(o, "failed");
    const char *where = text_of(o, "where"), *why = text_of(o, "why");
    const bool passed = json_is_true(json_object_get(o, "passed"));
    size_t i;
    json_t *item;
    kd_table_cell(t, "%s", text_of(o, "gate"));
    kd_table_cell(t, "%s", text_of(o, "student"));
    cell_figure(t, o, "value");
    cell_figure(t, o, "limit");
    kd_table_cell(t, "%s", text_of(o, "bound"));
    kd_table_cell(t, "%s", passed ? "pass" : "FAIL");
    if (judged > 1)
        kd_table_cell(t, "%s%s%s, worst of %lld", where, *why ? ": " : "", why, (long long)judged);
    else
        kd_table_cell(t, "%s%s%s", where, *where && *why ? ": " : "", why);
    kd_table_row(t);
    json_array_foreach(failed, i, item)
    {
        if (judged < 2 || !strcmp(text_of(item, "where"), where)) continue;
        kd_table_cell(t, "%s", ""), kd_table_cell(t, "%s", "");
        cell_figure(t, item, "value");
        cell_figure(t, item, "limit");
        kd_table_cell(t, "%s", ""), kd_table_cell(t, "FAIL");
        kd_table_cell(t, "%s%s%s", text_of(item, "where"), *text_of(item, "why") ? ": " : "",
                      text_of(item, "why"));
        kd_table_row(t);
    }
}

kd_status eval_print_gates(const json_t *results, const eval_opts *o, kd_err *err)
{
    static const char *const head[] = {"gate", "student", "figure", "limit", "taken", "verdict", "where"};
    kd_table *t = kd_table_create();
    size_t i;
    json_t *gate;
    if (!t) return kd_fail(err, KD_ENOMEM, "no memory for the table of gates");
    for (i = 0; i < KD_COUNT(head); i++) kd_table_cell(t, "%s", head[i]);
    kd_table_row(t);
    json_array_foreach(json_object_get(json_object_get(results, "gates"), "list"), i, gate)
        gate_rows(t, gate);
    puts("");
    kd_table_print(t, stdout, o->markdown);
    kd_table_free(t);
    return KD_OK;
}
