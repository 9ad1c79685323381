/* test_sweep.c - a grid of students: which points it has, what they are called, what is refused. */
#include "check.h"
#include "kd/train.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char yaml[] = "/tmp/kd-sweep-XXXXXX.yaml", terms[] = "/tmp/kd-sweep-XXXXXX.yaml";

static bool write_text(char *path, const char *text)
{
    int fd = mkstemps(path, 5);
    bool whole = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0) close(fd);
    return whole;
}

static int write_yaml(void **state)
{
    (void)state;
    bool whole = write_text(yaml, "name: a\nmodel: {arch: mlp, hidden: [8]}\nloss: {kd: 0.9, ce: 0.1}\n") &&
                 write_text(terms, "name: b\nloss:\n  - {name: kd, weight: 2, temperature: 4}\n"
                                   "  - {name: ce}\n  - {name: kd, temperature: 1}\n");
    return whole ? 0 : -1;
}

static int remove_yaml(void **state)
{
    (void)state;
    return unlink(yaml) | unlink(terms);
}

static kd_status make(kd_sweep **w, size_t n, char **args, kd_err *err)
{
    return kd_sweep_create(w, &(kd_strings){.v = args, .n = n}, err);
}

/* The name of a point; the student itself in *s, if that is wanted. */
static const char *name_of(const kd_sweep *w, size_t point, bool control, kd_student_spec *s)
{
    static char name[200];
    static kd_student_spec own;
    kd_student_spec *to = s ? s : &own;
    OK(kd_sweep_load(w, point, control, to, yaml, &(kd_strings){0}, err));
    snprintf(name, sizeof(name), "%s", to->name);
    if (!s) kd_student_release(to);
    return name;
}

static void without_axes_there_is_one_point_and_no_suffix(void **state)
{
    (void)state;
    kd_sweep *w;
    OK(make(&w, 0, NULL, err));
    assert_int_equal(kd_sweep_points(w, false), 1);
    assert_string_equal(name_of(w, 0, false, NULL), "a");
    kd_sweep_free(w);
}

static void two_axes_make_their_cross_product(void **state)
{
    (void)state;
    kd_sweep *w;
    kd_student_spec s;
    OK(make(&w, 2, ((char *[]){"loss.temperature=1,2,4", "train.lr=0.001,0.004"}), err));
    assert_int_equal(kd_sweep_points(w, false), 6);
    assert_string_equal(name_of(w, 0, false, NULL), "a@temperature=1@lr=0.001");
    assert_string_equal(name_of(w, 3, false, &s), "a@temperature=2@lr=0.004");
    assert_true(s.loss.temperature == 2 && s.train.lr == 0.004 && s.loss.kd == 0.9);
    kd_student_release(&s);
    assert_string_equal(name_of(w, 5, false, NULL), "a@temperature=4@lr=0.004");
    kd_sweep_free(w);
}

static void the_control_has_no_axes_of_the_loss(void **state)
{
    (void)state;
    kd_sweep *w;
    kd_student_spec s;
    OK(make(&w, 2, ((char *[]){"loss.temperature=1,2,4", "train.lr=0.001,0.004"}), err));
    assert_int_equal(kd_sweep_points(w, true), 2);
    assert_string_equal(name_of(w, 1, true, &s), "a@lr=0.004");
    assert_false(kd_loss_spec_distils(&s.loss));
    assert_true(s.loss.ce == 1 && s.train.lr == 0.004);
    kd_student_release(&s);
    kd_sweep_free(w);
}

static void semicolons_part_values_with_commas_and_names_stay_safe(void **state)
{
    (void)state;
    kd_sweep *w;
    kd_student_spec s;
    OK(make(&w, 1, ((char *[]){"model.hidden=64;64,32"}), err));
    assert_string_equal(name_of(w, 1, false, &s), "a@hidden=64-32");
    assert_int_equal(s.model.hidden.n, 2);
    kd_student_release(&s);
    kd_sweep_free(w);
}

static void what_makes_no_grid_is_refused(void **state)
{
    (void)state;
    kd_sweep *w;
    kd_student_spec s;
    static const struct {
        char *arg;
        const char *says;
    } bad[] = {{"lr", "expected KEY=VALUE"},
               {"=1", "expected KEY=VALUE"},
               {"train.lr=", "empty value"},
               {"train.lr=1,,2", "empty value"},
               {"train.lr=1,2,1", "1 stands there twice"}};
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        char *arg = bad[i].arg;
        FAILS(make(&w, 1, &arg, err), KD_EUSAGE, bad[i].says);
    }
    char *twice[] = {"train.lr=1", "train.lr=2"};
    FAILS(make(&w, 2, twice, err), KD_EUSAGE, "swept already");
    OK(make(&w, 1, ((char *[]){"train.lrr=1"}), err));
    FAILS(kd_sweep_load(w, 0, false, &s, yaml, &(kd_strings){0}, err), KD_EUSAGE,
          "--sweep train.lrr: no such key (did you mean train.lr?)");
    kd_sweep_free(w);
}

static void an_axis_may_be_a_key_of_one_term(void **state)
{
    (void)state;
    kd_sweep *w;
    kd_student_spec s;
    const kd_strings none = {0};
    OK(make(&w, 2, ((char *[]){"loss.kd.temperature=2,8", "loss.kd.2.weight=0.5,linear 1 0 9"}), err));
    OK(kd_sweep_load(w, 3, false, &s, terms, &none, err));
    assert_string_equal(s.name, "b@kd.temperature=8@kd.2.weight=linear-1-0-9");
    assert_int_equal(s.loss.terms.n, 3);
    assert_string_equal(s.loss.terms.v[0], "name=kd,weight=2,temperature=8");
    assert_string_equal(s.loss.terms.v[1], "name=ce");
    assert_string_equal(s.loss.terms.v[2], "name=kd,temperature=1,weight=linear 1 0 9");
    kd_student_release(&s);
    assert_int_equal(kd_sweep_points(w, true), 1);
    OK(kd_sweep_load(w, 0, true, &s, terms, &none, err));
    assert_true(!s.loss.terms.n && s.loss.ce == 1 && !kd_loss_spec_distils(&s.loss));
    kd_student_release(&s);
    kd_sweep_free(w);
}

static void a_term_or_key_that_is_not_there_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        char *arg;
        const char *says;
    } bad[] = {
        {terms, "loss.kd.temprature=1",
         "--sweep loss.kd.temprature: loss.terms: kd has no key 'temprature' "
         "(did you mean 'temperature'?)"},
        {terms, "loss.kdd.temperature=1", "--sweep loss.kdd.temperature: no term kdd (did you mean kd?)"},
        {terms, "loss.kd.3.weight=1", "no term kd.3; this loss has kd, ce, kd"},
        {terms, "loss.crd.weight=1", "no term crd; this loss has kd, ce, kd"},
        {terms, "loss.kd.weight=1,2;3", "a value of a term holds no ','"},
        {terms, "loss.temperature=1", "this loss is a list of terms; name a key of one of them"},
        {yaml, "loss.kd.temperature=1", "no list of terms (did you mean loss.temperature?)"},
        {yaml, "loss.kd.beta=1", "--sweep loss.kd.beta: no such key"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        kd_sweep *w;
        kd_student_spec s;
        char *arg = bad[i].arg;
        OK(make(&w, 1, &arg, err));
        FAILS(kd_sweep_load(w, 0, false, &s, bad[i].file, &(kd_strings){0}, err), KD_EUSAGE, bad[i].says);
        kd_sweep_free(w);
    }
}

static void a_grid_of_too_many_points_is_refused(void **state)
{
    (void)state;
    kd_sweep *w;
    kd_buf epochs = {0}, batches = {0};
    kd_buf_puts(&epochs, "train.epochs=1");
    kd_buf_puts(&batches, "train.batch=1");
    for (int i = 2; i <= 100; i++) kd_buf_printf(&epochs, ",%d", i), kd_buf_printf(&batches, ",%d", i);
    char *args[] = {epochs.text, batches.text};
    FAILS(make(&w, 2, args, err), KD_ELIMIT, "makes 10000 points; at most 4096");
    kd_buf_release(&epochs);
    kd_buf_release(&batches);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_axes_there_is_one_point_and_no_suffix),
        cmocka_unit_test(two_axes_make_their_cross_product),
        cmocka_unit_test(the_control_has_no_axes_of_the_loss),
        cmocka_unit_test(semicolons_part_values_with_commas_and_names_stay_safe),
        cmocka_unit_test(what_makes_no_grid_is_refused),
        cmocka_unit_test(an_axis_may_be_a_key_of_one_term),
        cmocka_unit_test(a_term_or_key_that_is_not_there_is_refused),
        cmocka_unit_test(a_grid_of_too_many_points_is_refused),
    };
    return cmocka_run_group_tests(tests, write_yaml, remove_yaml);
}
