/* tests/unit/test_gates.c - gates as they are written, and results that pass or fail them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "kd/eval.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One student and its teacher; Shirt is the class that both find hard. */
static const char sample[] =
    "{'schema': 2, 'left_out': [{'measures': ['mce'], 'why': 'nobody asked'}],"
    " 'teacher': {'name': 'big', 'accuracy': 0.91, 'ece': 0.01,"
    "   'slices': [{'name': 'label=Coat', 'accuracy': 0.90}, {'name': 'label=Shirt', 'accuracy': 0.80}],"
    "   'per_class': [{'class': 0, 'name': 'Coat', 'recall': 0.9}, {'class': 1, 'name': 'Shirt', 'recall': 0.8}]},"
    " 'students': [{'name': 'small', 'role': 'distilled', 'accuracy': 0.9, 'accuracy_low': 0.88,"
    "   'accuracy_high': 0.92, 'ece': 0.04, 'ece_low': 0.03, 'ece_high': 0.06, 'latency_us': 150,"
    "   'copied_mistakes': null, 'mended_mistakes': null, 'plain': {'accuracy': [0.86, 0.88]},"
    "   'slices': [{'name': 'label=Coat', 'accuracy': 0.95, 'ece': 0.02},"
    "              {'name': 'label=Shirt', 'accuracy': 0.70, 'ece': 0.08}],"
    "   'per_class': [{'class': 0, 'name': 'Coat', 'recall': 0.95, 'precision': 0.9},"
    "                 {'class': 1, 'name': 'Shirt', 'recall': 0.7, 'precision': null}]},"
    "   {'name': 'big', 'is_teacher': true, 'accuracy': 0.5}],"
    " 'pairs': [{'a': 'small', 'b': 'teacher', 'a_role': 'distilled', 'b_role': 'teacher', 'why': 'teacher',"
    "   'accuracy': -0.01, 'accuracy_low': -0.015, 'accuracy_high': -0.005}]}";

static json_t *results(void)
{
    char text[sizeof sample];
    json_t *o;
    memcpy(text, sample, sizeof sample);
    for (char *c = text; *c; c++)
        if (*c == '\'') *c = '"';
    assert_int_equal(kd_json_parse(&o, text, strlen(text), NULL), KD_OK);
    return o;
}

static const char path[] = "build/test-gates.yaml";

static void write_file(const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* The file is refused and the sentence holds this text. */
static void refuses(const char *text, const char *want)
{
    kd_gates *g;
    write_file(text);
    FAILS(kd_gates_open(&g, path, err), KD_EUSAGE, want);
    assert_null(g);
    unlink(path);
}

/* Judges the sample by one gate. */
static kd_status judge(const char *head, const char *gate, const json_t *release, json_t **out, kd_err *err)
{
    char text[400];
    kd_gates *g;
    json_t *r = results();
    snprintf(text, sizeof text, "%sgates:\n  - %s\n", head, gate);
    write_file(text);
    kd_status st = kd_gates_open(&g, path, err);
    unlink(path);
    if (!st) st = kd_gates_judge(g, r, release, err);
    kd_gates_close(g);
    if (out)
        *out = r;
    else
        json_decref(r);
    return st;
}

#define PASSES(gate)      OK(judge("", gate, NULL, NULL, err))
#define STOPS(gate, text) FAILS(judge("", gate, NULL, NULL, err), KD_EGATE, text)

static void what_is_malformed_is_named_with_line_and_nearest_word(void **state)
{
    (void)state;
    refuses("gates:\n  - accuracy >= 0.9\n  - acuracy >= 0.9\n",
            ".yaml:3: gate 'acuracy >= 0.9': unknown measure 'acuracy' (did you mean 'accuracy'?)");
    refuses("gates: [latency <= 200]\n", ".yaml:1: gate 'latency <= 200': unknown measure 'latency'");
    refuses("gates:\n  - accuracy = 0.9\n", ".yaml:2: gate 'accuracy = 0.9': found '= 0.9', expected one of >=");
    refuses("gates:\n  - accuracy >=\n", "found nothing, expected a number, teacher, plain or release");
    refuses("gates:\n  - accuracy >= techer\n", "unknown reference 'techer' (did you mean 'teacher'?)");
    refuses("gates:\n  - accuracy >= teacher - x\n", "found 'x', expected a number");
    refuses("gates:\n  - accuracy >= nan\n", "found 'nan', expected a number, teacher, plain or release");
    refuses("gates:\n  - accuracy >= 95\n", "accuracy is a share from 0 to 1, found 95");
    refuses("gates:\n  - latency_us <= 200 us\n", "found 'us', expected the end, 'point' or 'safe'");
    refuses("gates:\n  - latency_us[*] <= 200\n", "latency_us is not measured by slice");
    refuses("gates:\n  - recall >= 0.7\n", "recall is a class's: write recall[class=*]");
    refuses("gates:\n  - accuracy[class=*] >= 0.7\n", "accuracy is not measured by class");
    refuses("gates:\n  - accuracy[label=Coat >= 0.7\n", "'[' without ']'");
    refuses("gates:\n  - accuracy[] >= 0.7\n", "expected [*], [class=*]");
    refuses("gates:\n  - accuracy[*] >= plain\n", "plain students are measured as a whole, not by slice");
    refuses("gates:\n  - params_low <= 5\n", "params has no confidence bounds");
    refuses("gates:\n  - '>= 5'\n", "found '>= 5', expected a measure");
    refuses("gate:\n  - accuracy >= 0.9\n", ".yaml:1:1: unknown key 'gate' (did you mean 'gates'?)");
    refuses("bounds: safe\n", "no gates");
}

static void a_floor_and_a_ceiling_hold_with_or_without_equality(void **state)
{
    (void)state;
    PASSES("accuracy >= 0.9");
    STOPS("accuracy > 0.9", "small: accuracy > 0.9 (point 0.9, limit 0.9)");
    PASSES("latency_us <= 150");
    STOPS("latency_us < 150", "1 of 1 gates failed");
    STOPS("ece <= 0.03", "point 0.04, limit 0.03");
    PASSES("accuracy_low >= 0.88");
    STOPS("accuracy_low >= 0.89", "low 0.88");
}

static void a_reference_is_the_same_measure_of_another(void **state)
{
    json_t *release = results();
    (void)state;
    PASSES("accuracy >= teacher - 0.01"); /* 0.91 - 0.01 is a little more than 0.9 in doubles */
    STOPS("accuracy >= teacher - 0.005", "point 0.9, limit 0.905");
    PASSES("ece <= teacher * 4");
    PASSES("accuracy >= plain + 0.03");
    STOPS("accuracy >= plain + 0.04", "limit 0.91");
    STOPS("ece <= plain", "the plain student has no ece");
    OK(judge("", "accuracy >= release", release, NULL, err));
    json_object_set_new(json_array_get(json_object_get(release, "students"), 0), "accuracy", json_real(0.95));
    FAILS(judge("", "accuracy >= release", release, NULL, err), KD_EGATE, "limit 0.95");
    FAILS(judge("", "accuracy >= release", NULL, NULL, err), KD_EUSAGE, "--release");
    json_decref(release);
}

static void slices_and_classes_are_judged_each_or_by_name(void **state)
{
    json_t *o;
    (void)state;
    STOPS("accuracy[*] >= teacher - 0.05", "label=Shirt: point 0.7, limit 0.75");
    PASSES("accuracy[label=Coat] >= teacher");
    STOPS("recall[class=Shirt] >= 0.75", "Shirt: point 0.7");
    PASSES("recall[class=*] >= teacher - 0.1");
    FAILS(judge("", "accuracy[label=Shrt] >= 0.5", NULL, NULL, err), KD_EMISMATCH,
          "no slice 'label=Shrt' in the results (did you mean 'label=Shirt'?)");
    FAILS(judge("", "accuracy[*] >= 0.9", NULL, &o, err), KD_EGATE, "");
    const json_t *verdict = json_array_get(json_object_get(json_object_get(o, "gates"), "list"), 0);
    assert_int_equal(json_integer_value(json_object_get(verdict, "judged")), 2);
    assert_int_equal(json_array_size(json_object_get(verdict, "failed")), 1);
    assert_string_equal(json_string_value(json_object_get(verdict, "where")), "label=Shirt");
    json_decref(o);
}

static void with_safe_the_bound_has_to_pass_and_not_the_point(void **state)
{
    (void)state;
    STOPS("accuracy >= 0.89 safe", "low 0.88, limit 0.89");
    PASSES("accuracy >= 0.88 safe");
    STOPS("ece <= 0.05 safe", "high 0.06, limit 0.05");
    FAILS(judge("bounds: safe\n", "ece <= 0.05", NULL, NULL, err), KD_EGATE, "high 0.06");
    OK(judge("bounds: safe\n", "ece <= 0.05 point", NULL, NULL, err));
    OK(judge("bounds: safe\n", "latency_us <= 150", NULL, NULL, err)); /* is no estimate from rows */
    STOPS("ece[*] <= 0.5 safe", "ece has no confidence bounds in slices; write 'point'");
}

static void accuracy_against_the_teacher_is_safe_by_the_paired_difference(void **state)
{
    (void)state;
    PASSES("accuracy >= teacher - 0.015 safe"); /* its own lower bound is 0.03 below the teacher */
    STOPS("accuracy >= teacher - 0.014 safe", "difference_low -0.015, limit -0.014");
    STOPS("accuracy >= teacher * 0.99 safe", "low 0.88, limit 0.9009");
}

static void what_is_not_known_does_not_pass_a_floor(void **state)
{
    (void)state;
    STOPS("mce <= 0.5", "mce was left out: nobody asked");
    STOPS("kl <= 0.5", "kl was not measured");
    STOPS("mended_mistakes >= 0.1", "mended_mistakes is not defined here");
    PASSES("copied_mistakes <= 0.5"); /* there is nothing to copy */
    STOPS("precision[class=*] >= 0.5", "Shirt: precision is not defined here");
    STOPS("precision[class=*] >= teacher - 0.5", "the teacher has no precision of Coat");
}

static void the_students_to_judge_may_be_named(void **state)
{
    (void)state;
    OK(judge("students: [small]\n", "accuracy >= 0.9", NULL, NULL, err)); /* as without: big is the teacher */
    FAILS(judge("students: [small, big]\n", "accuracy >= 0.9", NULL, NULL, err), KD_EGATE, "first: big");
    FAILS(judge("students: [smal]\n", "accuracy >= 0.9", NULL, NULL, err), KD_EMISMATCH,
          ".yaml:1: no student 'smal' in the results (did you mean 'small'?)");
}

static void results_of_another_schema_are_refused(void **state)
{
    (void)state;
    kd_gates *g;
    json_t *o = json_pack("{s:i}", "schema", 1);
    OK(kd_gates_open(&g, "fast", err));
    FAILS(kd_gates_judge(g, o, NULL, err), KD_EMISMATCH, "schema 1, expected 2");
    kd_gates_close(g);
    json_decref(o);
}

static void every_measure_can_be_gated(void **state)
{
    kd_buf b = {0};
    kd_gates *g;
    (void)state;
    kd_buf_puts(&b, "gates:\n");
    for (int m = 0; m < KD_MEASURES; m++) kd_buf_printf(&b, "  - %s >= 0\n", kd_measure_key((kd_measure_name)m));
    write_file(b.text);
    kd_buf_release(&b);
    OK(kd_gates_open(&g, path, err));
    kd_gates_close(g);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_malformed_is_named_with_line_and_nearest_word),
        cmocka_unit_test(a_floor_and_a_ceiling_hold_with_or_without_equality),
        cmocka_unit_test(a_reference_is_the_same_measure_of_another),
        cmocka_unit_test(slices_and_classes_are_judged_each_or_by_name),
        cmocka_unit_test(with_safe_the_bound_has_to_pass_and_not_the_point),
        cmocka_unit_test(accuracy_against_the_teacher_is_safe_by_the_paired_difference),
        cmocka_unit_test(what_is_not_known_does_not_pass_a_floor),
        cmocka_unit_test(the_students_to_judge_may_be_named),
        cmocka_unit_test(results_of_another_schema_are_refused),
        cmocka_unit_test(every_measure_can_be_gated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
