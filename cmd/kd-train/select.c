/* select.c - --select: which point of a sweep is best on the validation rows, into OUT/selection.json. */
#include "train_cmd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool same_student(const kd_train_result *a, const kd_train_result *b)
{
    size_t n = strcspn(a->name, "@");
    return n == strcspn(b->name, "@") && !strncmp(a->name, b->name, n) && !strcmp(a->role, b->role);
}

/* A validation loss is a run's own objective: between objectives it says nothing. */
static kd_status check_formulas(const kd_trainer *t, kd_err *err)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < kd_trainer_students(t) && !st; i++) {
        kd_train_result a, b;
        size_t k = 0;
        kd_trainer_result(t, i, &a);
        do kd_trainer_result(t, k, &b);
        while (!same_student(&a, &b) && ++k < i);
        char *fa = kd_trainer_formula(t, i), *fb = kd_trainer_formula(t, k);
        if (!fa || !fb)
            st = kd_fail(err, KD_ENOMEM, "out of memory");
        else if (strcmp(fa, fb))
            st = kd_fail(
                err, KD_EUSAGE,
                "--select valid_loss: %s minimises %s, and %s %s; losses of different objectives do not "
                "compare, use --select valid_accuracy",
                b.name, fb, a.name, fa);
        free(fa);
        free(fb);
    }
    return st;
}

kd_status train_select_check(const train_opts *o, const kd_trainer *t, const kd_store *s, kd_err *err)
{
    if (!o->select) return KD_OK;
    if (!kd_store_split_rows(s, KD_VALID))
        return kd_fail(err, KD_EUSAGE, "%s: no validation rows to --select on; pack with data.valid_fraction",
                       kd_store_path(s));
    if (strcmp(o->select, "valid_loss"))
        return kd_store_find_role(s, KD_ROLE_LABEL, NULL) >= 0
                   ? KD_OK
                   : kd_fail(err, KD_EUSAGE, "%s: no labels to --select valid_accuracy by; use valid_loss",
                             kd_store_path(s));
    return check_formulas(t, err);
}

kd_status train_select(json_t **out, const train_opts *o, const kd_trainer *t, kd_err *err)
{
    size_t n = kd_trainer_students(t);
    bool by_loss = !strcmp(o->select, "valid_loss");
    kd_score *v = calloc(n + 1, sizeof(*v));
    *out = NULL;
    if (!v) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        kd_train_result r;
        kd_trainer_result(t, i, &r);
        double value = by_loss ? r.valid_loss : r.valid_accuracy;
        v[i] = (kd_score){.name = r.name, .role = r.role, .seed = r.seed, .value = r.done ? value : NAN};
    }
    *out = kd_selection_json(v, n, o->select, err);
    free(v);
    if (!*out) return err->code;
    char *path = kd_path_join(o->out, "selection.json");
    kd_status st = path ? kd_json_save(path, *out, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    free(path);
    return st;
}

static double mean_and_sd(const json_t *values, double *sd)
{
    double n = (double)json_array_size(values), sum = 0, ss = 0;
    json_t *v;
    size_t i;
    json_array_foreach(values, i, v) sum += json_is_number(v) ? json_number_value(v) : NAN;
    json_array_foreach(values, i, v) ss += pow(json_number_value(v) - sum / n, 2);
    *sd = sqrt(ss / (n - 1)); // NAN for one seed
    return sum / n;
}

static void point_row(kd_table *tb, const json_t *group, const json_t *p, double factor)
{
    double sd, mean = mean_and_sd(json_object_get(p, "values"), &sd);
    const json_t *behind = json_object_get(p, "to_best"), *pv = json_object_get(p, "p_value");
    kd_table_cell(tb, "%s", json_string_value(json_object_get(p, "name")));
    kd_table_cell(tb, "%s", json_string_value(json_object_get(group, "role")));
    kd_table_cell(tb, "%zu", json_array_size(json_object_get(p, "values")));
    if (!isfinite(mean))
        kd_table_cell(tb, "-");
    else if (isfinite(sd))
        kd_table_cell(tb, "%.4g ± %.2g", mean * factor, sd * factor);
    else
        kd_table_cell(tb, "%.4g", mean * factor);
    if (json_is_number(behind))
        kd_table_cell(tb, "%+.3g", json_number_value(behind) * factor);
    else
        kd_table_cell(tb, "-");
    if (json_is_number(pv))
        kd_table_cell(tb, "%.3f", json_number_value(pv));
    else
        kd_table_cell(tb, "-");
    kd_table_cell(tb, "%s",
                  json_is_true(json_object_get(p, "chosen")) ? "chosen"
                  : isfinite(mean)                           ? ""
                                                             : "not whole");
    kd_table_row(tb);
}

kd_status train_print_selection(const json_t *selection, kd_err *err)
{
    bool by_loss = !strcmp(json_string_value(json_object_get(selection, "by")), "valid_loss");
    const char *const head[] = {"point",   "role", "seeds", by_loss ? "valid loss" : "valid %",
                                "to best", "p",    ""};
    kd_table *tb = kd_table_create();
    json_t *group, *p;
    size_t i, k;
    if (!tb) return kd_fail(err, KD_ENOMEM, "no memory for the table");
    for (i = 0; i < KD_COUNT(head); i++) kd_table_cell(tb, "%s", head[i]);
    kd_table_row(tb);
    json_array_foreach(json_object_get(selection, "students"), i, group)
        json_array_foreach(json_object_get(group, "points"), k, p) point_row(tb, group, p, by_loss ? 1 : 100);
    kd_table_print(tb, stdout, false);
    kd_table_free(tb);
    return KD_OK;
}
