/* tests/unit/test_eval.c - measures and significance against scikit-learn and scipy
 * (tests/golden/make_eval.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kd/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *golden;

static int load(void **state)
{
    kd_err err = {0};
    (void)state;
    if (!kd_json_load("tests/golden/eval.json", 1 << 20, &golden, &err)) return 0;
    print_error("%s\n", err.msg);
    return -1;
}

static int unload(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

static double number(const char *key) { return json_number_value(json_object_get(golden, key)); }

static void near_enough(double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol * (1 + fabs(want)))) fail_msg("got %.12g, want %.12g", got, want);
}

static float *floats(const char *key)
{
    const json_t *a = json_object_get(golden, key);
    float *f = calloc(json_array_size(a), sizeof *f);
    for (size_t i = 0; i < json_array_size(a); i++) f[i] = (float)json_number_value(json_array_get(a, i));
    return f;
}

static void measures_equal_scikit_learn(void **state)
{
    (void)state;
    uint64_t rows = (uint64_t)number("rows");
    float *z = floats("logits"), *t = floats("teacher");
    int32_t *y = calloc(rows, sizeof *y);
    for (uint64_t i = 0; i < rows; i++)
        y[i] = (int32_t)json_integer_value(json_array_get(json_object_get(golden, "labels"), i));
    kd_measures m;
    kd_measure(&m, z, y, t, rows, (int64_t)number("classes"));
    near_enough(m.accuracy, number("accuracy"), 1e-9);
    near_enough(m.loss, number("loss"), 1e-6);
    near_enough(m.ece, number("ece"), 1e-6);
    near_enough(m.agreement, number("agreement"), 1e-9);
    near_enough(m.kl, number("kl"), 1e-6);
    free(z), free(t), free(y);
}

static void extreme_logits_stay_finite(void **state)
{
    (void)state;
    float z[4] = {-1e4f, 1e4f, 1e4f, -1e4f}, t[4] = {1e4f, -1e4f, 0, 0};
    int32_t y[2] = {0, 0};
    kd_measures m;
    kd_measure(&m, z, y, t, 2, 2);
    assert_true(isfinite(m.loss) && isfinite(m.kl) && isfinite(m.ece));
    near_enough(m.accuracy, 0.5, 0);
}

static void no_rows_give_zeros(void **state)
{
    (void)state;
    kd_measures m;
    kd_measure(&m, NULL, NULL, NULL, 0, 10);
    assert_int_equal(m.rows, 0);
    near_enough(m.accuracy, 0, 0);
}

static void p_values_equal_scipy(void **state)
{
    (void)state;
    const json_t *pairs = json_object_get(golden, "pairs");
    assert_true(json_array_size(pairs) == 3);
    for (size_t k = 0; k < json_array_size(pairs); k++) {
        const json_t *o = json_array_get(pairs, k), *a = json_object_get(o, "a"),
                     *b = json_object_get(o, "b");
        double x[8], y[8], diff;
        size_t n = json_array_size(a);
        for (size_t i = 0; i < n; i++) {
            x[i] = json_number_value(json_array_get(a, i));
            y[i] = json_number_value(json_array_get(b, i));
        }
        near_enough(kd_paired_t(x, y, n, &diff), json_number_value(json_object_get(o, "p")), 1e-9);
        near_enough(diff, json_number_value(json_object_get(o, "mean")), 1e-12);
    }
}

static void verdicts_need_significance(void **state)
{
    (void)state;
    double same[3] = {0.5, 0.6, 0.7};
    assert_string_equal(kd_verdict(kd_paired_t(same, same, 3, NULL), 0), "no difference");
    assert_string_equal(kd_verdict(0.04, 0.01), "helped");
    assert_string_equal(kd_verdict(0.04, -0.01), "hurt");
    assert_string_equal(kd_verdict(0.06, 0.01), "no difference");
    assert_true(kd_paired_t(same, same, 1, NULL) == 1);
}

static void missing_folder_is_named(void **state)
{
    (void)state;
    kd_runs runs = {0};
    kd_err err = {0};
    assert_int_equal(kd_runs_find(&runs, "/nonexistent/runs", true, &err), KD_ENOTFOUND);
    assert_non_null(strstr(err.msg, "/nonexistent/runs"));
}

static const json_t *group(const json_t *selection, size_t i)
{
    return json_array_get(json_object_get(selection, "students"), i);
}

static const char *chosen(const json_t *selection, size_t i)
{
    return json_string_value(json_object_get(group(selection, i), "chosen"));
}

static void the_best_mean_over_seeds_is_chosen(void **state)
{
    kd_err err = {0};
    (void)state;
    const kd_score v[] = {{"a@t=1", "distilled", 0, 0.5}, {"a@t=1", "distilled", 1, 0.9},
                          {"a@t=2", "distilled", 0, 0.7}, {"a@t=2", "distilled", 1, 0.8},
                          {"ab", "distilled", 0, 0.99},   {"a", "plain", 0, 0.1}};
    json_t *larger = kd_selection_json(v, 6, "valid_accuracy", &err);
    json_t *smaller = kd_selection_json(v, 6, "valid_loss", &err);
    assert_int_equal(json_array_size(json_object_get(larger, "students")), 3);
    assert_string_equal(chosen(larger, 0), "a@t=2");
    assert_string_equal(chosen(smaller, 0), "a@t=1");
    assert_string_equal(chosen(larger, 1), "ab");
    assert_string_equal(chosen(larger, 2), "a");
    const json_t *other = json_array_get(json_object_get(group(larger, 0), "points"), 0);
    double diff, p = kd_paired_t((double[]){0.5, 0.9}, (double[]){0.7, 0.8}, 2, &diff);
    near_enough(json_number_value(json_object_get(other, "to_best")), diff, 1e-12);
    near_enough(json_number_value(json_object_get(other, "p_value")), p, 1e-12);
    json_decref(larger);
    json_decref(smaller);
}

static void a_point_that_lacks_a_seed_is_not_chosen(void **state)
{
    kd_err err = {0};
    (void)state;
    const kd_score v[] = {{"a@t=1", "distilled", 0, 0.9},
                          {"a@t=1", "distilled", 1, NAN},
                          {"a@t=2", "distilled", 0, 0.9},
                          {"a@t=3", "distilled", 0, 0.1},
                          {"a@t=3", "distilled", 1, 0.1}};
    json_t *s = kd_selection_json(v, 5, "valid_accuracy", &err);
    assert_string_equal(chosen(s, 0), "a@t=3");
    json_decref(s);
    s = kd_selection_json(v, 3, "valid_accuracy", &err);
    assert_true(json_is_null(json_object_get(group(s, 0), "chosen")));
    json_decref(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measures_equal_scikit_learn),
        cmocka_unit_test(extreme_logits_stay_finite),
        cmocka_unit_test(no_rows_give_zeros),
        cmocka_unit_test(p_values_equal_scipy),
        cmocka_unit_test(verdicts_need_significance),
        cmocka_unit_test(missing_folder_is_named),
        cmocka_unit_test(the_best_mean_over_seeds_is_chosen),
        cmocka_unit_test(a_point_that_lacks_a_seed_is_not_chosen),
    };
    return cmocka_run_group_tests_name("eval", tests, load, unload);
}
