/* kd-eval's table: teacher against students on size, speed and quality, as people draw it by hand. */
#include "eval_cmd.h"

#include <math.h>
#include <string.h>

/* Mean and sample standard deviation of an array of numbers; n == 0 leaves NAN. */
static size_t spread(const json_t *array, double *mean, double *sd)
{
    size_t n = json_array_size(array);
    double sum = 0, ss = 0;
    for (size_t i = 0; i < n; i++) sum += json_number_value(json_array_get(array, i));
    *mean = n ? sum / (double)n : NAN;
    for (size_t i = 0; i < n; i++) {
        double d = json_number_value(json_array_get(array, i)) - *mean;
        ss += d * d;
    }
    *sd = n > 1 ? sqrt(ss / (double)(n - 1)) : NAN;
    return n;
}

static void cell_spread(kd_table *t, const json_t *role, const char *key, double factor)
{
    double mean, sd;
    if (!spread(json_object_get(role, key), &mean, &sd))
        kd_table_cell(t, "-");
    else if (isnan(sd))
        kd_table_cell(t, "%.2f", mean * factor);
    else
        kd_table_cell(t, "%.2f ± %.2f", mean * factor, sd * factor);
}

/* Gain, p and verdict of a comparison over seeds; o: NULL for none. */
static void cells_verdict(kd_table *t, const json_t *o)
{
    const json_t *gain = json_object_get(o, "accuracy_gain"), *pv = json_object_get(o, "p_value");
    if (json_is_number(gain))
        kd_table_cell(t, "%+.2f", 100 * json_number_value(gain));
    else
        kd_table_cell(t, "-");
    if (json_is_number(pv))
        kd_table_cell(t, "%.3f", json_number_value(pv));
    else
        kd_table_cell(t, "-");
    kd_table_cell(t, "%s", json_is_number(pv) ? json_string_value(json_object_get(o, "verdict")) : "-");
}

static void cell_number(kd_table *t, const json_t *o, const char *key, const char *format, double factor)
{
    const json_t *v = json_object_get(o, key);
    char text[32];
    if (!json_is_number(v)) {
        kd_table_cell(t, "-");
        return;
    }
    snprintf(text, sizeof text, format, factor * json_number_value(v));
    kd_table_cell(t, "%s", text);
}

static void cell_bytes(kd_table *t, const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    char bytes[32];
    kd_table_cell(t, "%s", v ? kd_fmt_bytes(bytes, json_number_value(v)) : "-");
}

/* Storage, memory, speed: of a student, or of the teacher where its folder was given. */
static void cells_cost(kd_table *t, const json_t *o)
{
    cell_number(t, o, "params", "%.0f", 1);
    cell_bytes(t, o, "file_bytes");
    cell_bytes(t, o, "memory_bytes");
    cell_number(t, o, "macs", "%.2f", 1e-6);
    cell_number(t, o, "latency_us", "%.0f", 1);
    cell_number(t, o, "latency_p99_us", "%.0f", 1);
    cell_number(t, o, "throughput_rows_s", "%.0f", 1);
}

static void student_row(kd_table *t, const json_t *s, bool against)
{
    const json_t *d = json_object_get(s, "distilled"), *p = json_object_get(s, "plain");
    const json_t *best = d ? d : p ? p : json_object_get(s, "teacher");
    const char *point =
        json_string_value(json_object_get(json_object_get(s, "chosen"), d ? "distilled" : "plain"));
    kd_table_cell(t, "%s", point ? point : json_string_value(json_object_get(s, "name")));
    cells_cost(t, s);
    cell_spread(t, p ? p : d ? NULL : best, "accuracy", 100);
    cell_spread(t, d, "accuracy", 100);
    cells_verdict(t, s);
    cell_spread(t, best, "macro_f1", 100);
    cell_spread(t, best, "agreement", 100);
    cell_spread(t, best, "kl", 1);
    cell_spread(t, best, "ece", 100);
    cell_spread(t, best, "copied_mistakes", 100);
    if (against) cells_verdict(t, json_object_get(s, "against"));
    kd_table_row(t);
}

static void teacher_row(kd_table *t, const json_t *teacher, bool against)
{
    if (!json_is_object(teacher)) return;
    kd_table_cell(t, "%s (teacher)", json_string_value(json_object_get(teacher, "name")));
    cells_cost(t, teacher);
    cell_number(t, teacher, "accuracy", "%.2f", 100);
    for (int i = 0; i < 4; i++) kd_table_cell(t, "-");
    cell_number(t, teacher, "macro_f1", "%.2f", 100);
    kd_table_cell(t, "100.00"), kd_table_cell(t, "0.00");
    cell_number(t, teacher, "ece", "%.2f", 100);
    kd_table_cell(t, "-");
    if (against) cells_verdict(t, NULL);
    kd_table_row(t);
}

kd_status eval_print_table(const json_t *results, const eval_opts *o, kd_err *err)
{
    static const char *const head[] = {"model",   "params", "file",    "memory",      "MMAC",  "us/row",
                                       "p99 us",  "rows/s", "plain %", "distilled %", "gain",  "p",
                                       "verdict", "F1 %",   "agree %", "KL",          "ECE %", "copied %"};
    kd_table *t = kd_table_create();
    const json_t *teacher = json_object_get(results, "teacher");
    size_t i;
    json_t *s;
    if (!t) return kd_fail(err, KD_ENOMEM, "no memory for the table");
    for (i = 0; i < KD_COUNT(head); i++) kd_table_cell(t, "%s", head[i]);
    if (o->against)
        kd_table_cell(t, "gain on %s", o->against), kd_table_cell(t, "p"), kd_table_cell(t, "verdict");
    kd_table_row(t);
    teacher_row(t, teacher, o->against);
    json_array_foreach(json_object_get(results, "students"), i, s) if (!json_object_get(s, "is_teacher"))
        student_row(t, s, o->against);
    kd_table_print(t, stdout, o->markdown);
    kd_table_free(t);
    return KD_OK;
}
