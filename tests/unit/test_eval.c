/* tests/unit/test_eval.c - measures, bounds and tests against scikit-learn, scipy and netcal
 * (tests/golden/make_eval.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
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

static const json_t *member(const json_t *o, const char *key) { return json_object_get(o, key); }
static double at(const json_t *array, size_t i) { return json_number_value(json_array_get(array, i)); }

static float *floats(const json_t *a)
{
    float *f = calloc(json_array_size(a), sizeof *f);
    for (size_t i = 0; i < json_array_size(a); i++) f[i] = (float)at(a, i);
    return f;
}

/* The committed rows with the answers of the teacher and of one model. */
typedef struct vectors {
    kd_rows rows;
    float *teacher, *logits;
    int32_t *label;
    kd_answer *cached, *answers;
    const json_t *want;
} vectors;

static vectors vectors_of(size_t model, int threads)
{
    vectors v = {.rows = {.n = (uint64_t)number("rows"), .classes = (int64_t)number("classes")},
                 .teacher = floats(member(golden, "teacher")),
                 .want = json_array_get(member(golden, "models"), model)};
    const size_t n = (size_t)v.rows.n;
    v.logits = floats(member(v.want, "logits"));
    v.label = calloc(n, sizeof *v.label);
    v.cached = calloc(n, sizeof *v.cached);
    v.answers = calloc(n, sizeof *v.answers);
    for (size_t i = 0; i < n; i++) v.label[i] = (int32_t)at(member(golden, "labels"), i);
    OK(kd_answers(v.cached, v.teacher, v.label, NULL, n, v.rows.classes, threads, err));
    OK(kd_answers(v.answers, v.logits, v.label, v.teacher, n, v.rows.classes, threads, err));
    v.rows.label = v.label;
    v.rows.teacher = v.cached;
    return v;
}

static void vectors_free(vectors *v)
{
    free(v->teacher), free(v->logits), free(v->label), free(v->cached), free(v->answers);
}

static void measures_equal_scikit_learn_and_scipy(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        vectors v = vectors_of(k, 1);
        const json_t *want = member(v.want, "measures");
        kd_measures m;
        OK(kd_measure(&m, &v.rows, v.answers, false, err));
        for (int i = 0; i < KD_MEASURES; i++) {
            const char *key = kd_measure_key((kd_measure_name)i);
            assert_true(m.taken[i]);
            assert_non_null(member(want, key));
            near_enough(m.v[i], json_number_value(member(want, key)), 1e-6);
        }
        near_enough(m.v[KD_M_ECE], json_number_value(member(want, "netcal_ece")), 1e-6);
        vectors_free(&v);
    }
}

static void classes_equal_scikit_learn(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        vectors v = vectors_of(k, 1);
        kd_class c[16];
        uint64_t confusion[16 * 16];
        kd_count_classes(c, &v.rows, v.answers);
        kd_count_confusion(confusion, &v.rows, v.answers);
        for (size_t i = 0; i < (size_t)v.rows.classes; i++) {
            const json_t *w = json_array_get(member(v.want, "classes"), i),
                         *row = json_array_get(member(v.want, "confusion"), i);
            if (c[i].predicted) near_enough(kd_class_precision(&c[i]), at(w, 0), 1e-9);
            if (!c[i].predicted) assert_true(isnan(kd_class_precision(&c[i])));
            if (c[i].support) near_enough(kd_class_recall(&c[i]), at(w, 1), 1e-9);
            if (!c[i].support) assert_true(isnan(kd_class_recall(&c[i])));
            near_enough(kd_class_f1(&c[i]), at(w, 2), 1e-9);
            near_enough((double)c[i].support, at(w, 3), 0);
            for (size_t j = 0; j < (size_t)v.rows.classes; j++)
                near_enough((double)confusion[i * (size_t)v.rows.classes + j], at(row, j), 0);
        }
        vectors_free(&v);
    }
}

static void reliability_has_every_row_in_its_bin(void **state)
{
    (void)state;
    vectors v = vectors_of(0, 1);
    kd_bin bin[KD_BINS];
    kd_reliability(bin, &v.rows, v.answers);
    for (size_t k = 0; k < KD_BINS; k++) {
        const json_t *w = json_array_get(member(v.want, "reliability"), k);
        near_enough((double)bin[k].rows, at(w, 0), 0);
        if (!bin[k].rows) continue;
        near_enough(bin[k].confidence / (double)bin[k].rows, at(w, 1), 1e-9);
        near_enough(bin[k].right / (double)bin[k].rows, at(w, 2), 1e-9);
    }
    vectors_free(&v);
}

/* KL by its definition, beside the scalar product that students are measured with. */
static void answers_equal_their_naive_twin(void **state)
{
    (void)state;
    vectors v = vectors_of(1, 2);
    const int64_t n = v.rows.classes;
    for (uint64_t r = 0; r < v.rows.n; r++) {
        const float *z = v.logits + r * (uint64_t)n, *t = v.teacher + r * (uint64_t)n;
        double sum_z = 0, sum_t = 0, kl = 0;
        int32_t ahead = 0;
        for (int64_t c = 0; c < n; c++) sum_z += exp(z[c]), sum_t += exp(t[c]);
        for (int64_t c = 0; c < n; c++) {
            const double p = exp(t[c]) / sum_t;
            kl += p * (log(p) - log(exp(z[c]) / sum_z));
            ahead += z[c] > z[v.label[r]];
        }
        near_enough(v.answers[r].kl, kl, 1e-12);
        near_enough(v.answers[r].loss, -log(exp(z[v.label[r]]) / sum_z), 1e-12);
        near_enough(v.answers[r].confidence, exp(z[v.answers[r].top]) / sum_z, 1e-12);
        assert_int_equal(v.answers[r].rank, ahead);
        assert_int_equal(v.answers[r].top == v.label[r], v.answers[r].rank == 0);
    }
    vectors_free(&v);
}

static void equal_logits_go_to_the_smaller_class(void **state)
{
    (void)state;
    const float z[2][3] = {{1, 2, 2}, {0, 0, 0}};
    const int32_t label[2] = {2, 1};
    kd_answer a[2];
    OK(kd_answers(a, z[0], label, NULL, 2, 3, 1, err));
    assert_int_equal(a[0].top, 1);
    assert_int_equal(a[0].rank, 1);
    assert_int_equal(a[1].top, 0);
    assert_int_equal(a[1].rank, 1);
}

static void extreme_logits_stay_finite(void **state)
{
    (void)state;
    const float z[4] = {-1e4f, 1e4f, 1e4f, -1e4f}, t[4] = {1e4f, -1e4f, 0, 0};
    const int32_t y[2] = {0, 0};
    kd_answer a[2];
    kd_measures m;
    const kd_rows r = {.n = 2, .classes = 2, .label = y};
    OK(kd_answers(a, z, y, t, 2, 2, 1, err));
    assert_true(isfinite(a[0].kl) && isfinite(a[0].loss) && isfinite(a[1].kl));
    OK(kd_measure(&m, &r, a, false, err));
    assert_true(isfinite(m.v[KD_M_LOSS]) && isfinite(m.v[KD_M_ECE]));
    near_enough(m.v[KD_M_ACCURACY], 0.5, 0);
    assert_false(m.taken[KD_M_KL]);
    assert_false(m.taken[KD_M_TOP3]);
}

static void a_logit_that_is_no_number_is_refused(void **state)
{
    (void)state;
    const float bad[3] = {NAN, INFINITY, -INFINITY};
    const int32_t y[2] = {0, 0};
    for (size_t i = 0; i < 3; i++) {
        kd_answer a[2];
        const float z[4] = {1, 2, 3, bad[i]};
        FAILS(kd_answers(a, z, y, NULL, 2, 2, 1, err), KD_ENUMERIC, "row 1");
    }
}

static void a_share_of_nothing_is_not_a_number(void **state)
{
    (void)state;
    const float z[4] = {1, 0, 0, 1}, t[4] = {2, 0, 0, 2}; /* the teacher makes no mistake */
    const int32_t y[2] = {0, 1};
    kd_answer a[2], cached[2];
    kd_measures m;
    const kd_rows r = {.n = 2, .classes = 2, .label = y, .teacher = cached};
    OK(kd_answers(cached, t, y, NULL, 2, 2, 1, err));
    OK(kd_answers(a, z, y, t, 2, 2, 1, err));
    OK(kd_measure(&m, &r, a, true, err));
    assert_true(m.taken[KD_M_COPIED] && isnan(m.v[KD_M_COPIED]) && isnan(m.v[KD_M_MENDED]));
    near_enough(m.v[KD_M_NEW], 0, 0);
    assert_false(m.taken[KD_M_KL_P50]);
}

/* ---- bootstrap ---------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bootstrap_draws_are_those_of_the_script(void **state)
{
    (void)state;
    for (uint32_t r = 0; r < 4; r++)
        for (uint32_t b = 0; b < (uint32_t)number("resamples"); b++)
            near_enough(kd_bootstrap_weight(r, b), at(json_array_get(member(golden, "weights"), r), b), 0);
    for (uint32_t k = 0; k < 5; k++)
        for (uint32_t b = 0; b < 8; b++)
            near_enough(kd_bootstrap_seed(b, k, 3), at(json_array_get(member(golden, "seeds"), k), b), 0);
}

static void bootstrap_equals_numpy_on_the_same_draws(void **state)
{
    (void)state;
    const uint32_t n = (uint32_t)number("resamples");
    for (size_t k = 0; k < 2; k++) {
        vectors v = vectors_of(k, 1);
        const kd_answer *models[2] = {v.cached, v.answers};
        double *out[2] = {calloc((size_t)n * KD_MEASURES, sizeof(double)),
                          calloc((size_t)n * KD_MEASURES, sizeof(double))};
        OK(kd_bootstrap(out, &v.rows, models, 2, n, 1, err));
        for (int m = 0; m < KD_MEASURES; m++) {
            const char *key = kd_measure_key((kd_measure_name)m);
            const json_t *want = member(member(v.want, "bootstrap"), key);
            double *got = out[1] + (size_t)m * n, mean = 0;
            assert_int_equal(want != NULL, kd_bootstrapped((kd_measure_name)m));
            if (!want) continue;
            for (uint32_t b = 0; b < n; b++) mean += got[b] / n;
            qsort(got, n, sizeof *got, by_value);
            near_enough(mean, json_number_value(member(want, "mean")), 1e-6);
            near_enough(kd_quantile(got, n, 0.025), json_number_value(member(want, "low")), 1e-6);
            near_enough(kd_quantile(got, n, 0.975), json_number_value(member(want, "high")), 1e-6);
        }
        free(out[0]), free(out[1]);
        vectors_free(&v);
    }
}

static void threads_change_no_bit(void **state)
{
    enum { RESAMPLES = 130 }; /* not a multiple of the block */
    double *out[2];
    kd_answer *answers = NULL;
    (void)state;
    for (int t = 0; t < 2; t++) {
        vectors v = vectors_of(0, t ? 3 : 1);
        const kd_answer *models[1] = {v.answers};
        out[t] = calloc(RESAMPLES * KD_MEASURES, sizeof(double));
        OK(kd_bootstrap(&out[t], &v.rows, models, 1, RESAMPLES, t ? 3 : 1, err));
        if (t)
            assert_memory_equal(answers, v.answers, v.rows.n * sizeof *answers);
        else
            answers = v.answers, v.answers = NULL;
        vectors_free(&v);
    }
    assert_memory_equal(out[0], out[1], RESAMPLES * KD_MEASURES * sizeof(double));
    free(out[0]), free(out[1]), free(answers);
}

/* ---- pairs -------------------------------------------------------------------------------- */

static void mcnemar_equals_scipy(void **state)
{
    size_t i;
    json_t *o;
    (void)state;
    assert_int_equal(json_array_size(member(golden, "mcnemar")), 6);
    json_array_foreach(member(golden, "mcnemar"), i, o)
    {
        const kd_mcnemar m = kd_mcnemar_test((uint64_t)json_integer_value(member(o, "only_a")),
                                             (uint64_t)json_integer_value(member(o, "only_b")));
        near_enough(m.p_exact, json_number_value(member(o, "p_exact")), 1e-9);
        near_enough(m.chi2, json_number_value(member(o, "chi2")), 1e-12);
        near_enough(m.p_chi2, json_number_value(member(o, "p_chi2")), 1e-12);
    }
}

static void mcnemar_counts_rows_that_one_alone_gets_right(void **state)
{
    (void)state;
    vectors a = vectors_of(0, 1), b = vectors_of(1, 1);
    const json_t *want = json_array_get(member(golden, "mcnemar"), 0);
    const kd_mcnemar m = kd_mcnemar_rows(&a.rows, a.answers, b.answers);
    near_enough((double)m.only_a, json_number_value(member(want, "only_a")), 0);
    near_enough((double)m.only_b, json_number_value(member(want, "only_b")), 0);
    vectors_free(&a);
    vectors_free(&b);
}

static void wilson_bounds_equal_scipy(void **state)
{
    size_t i;
    json_t *o;
    double low, high;
    (void)state;
    assert_int_equal(json_array_size(member(golden, "wilson")), 5);
    json_array_foreach(member(golden, "wilson"), i, o)
    {
        kd_wilson(at(o, 0) / at(o, 1), (uint64_t)at(o, 1), &low, &high);
        near_enough(low, at(o, 2), 1e-9);
        near_enough(high, at(o, 3), 1e-9);
    }
    kd_wilson(NAN, 0, &low, &high);
    assert_true(isnan(low) && isnan(high));
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
        cmocka_unit_test(measures_equal_scikit_learn_and_scipy),
        cmocka_unit_test(classes_equal_scikit_learn),
        cmocka_unit_test(reliability_has_every_row_in_its_bin),
        cmocka_unit_test(answers_equal_their_naive_twin),
        cmocka_unit_test(equal_logits_go_to_the_smaller_class),
        cmocka_unit_test(extreme_logits_stay_finite),
        cmocka_unit_test(a_logit_that_is_no_number_is_refused),
        cmocka_unit_test(a_share_of_nothing_is_not_a_number),
        cmocka_unit_test(bootstrap_draws_are_those_of_the_script),
        cmocka_unit_test(bootstrap_equals_numpy_on_the_same_draws),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(mcnemar_equals_scipy),
        cmocka_unit_test(mcnemar_counts_rows_that_one_alone_gets_right),
        cmocka_unit_test(wilson_bounds_equal_scipy),
        cmocka_unit_test(p_values_equal_scipy),
        cmocka_unit_test(verdicts_need_significance),
        cmocka_unit_test(missing_folder_is_named),
        cmocka_unit_test(the_best_mean_over_seeds_is_chosen),
        cmocka_unit_test(a_point_that_lacks_a_seed_is_not_chosen),
    };
    return cmocka_run_group_tests_name("eval", tests, load, unload);
}
