/* test_plan.c - what a plan measures, against numbers worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "teacher_fixture.h"

#define NEAR(got, want, tol)                                                                                 \
    do {                                                                                                     \
        const double g_ = (got), w_ = (want);                                                                \
        if (!(fabs(g_ - w_) <= (tol))) fail_msg("%s is %.9g, want %.9g", #got, g_, w_);                      \
    } while (0)

static kd_plan_entry measure(const char *encoding, const float *z, uint64_t rows, int64_t classes)
{
    kd_plan_entry e;
    kd_id id[64];
    for (uint64_t i = 0; i < rows; i++) id[i] = kd_hash128(&i, sizeof i);
    OK(kd_plan_measure(&e, encoding, z, rows, classes, id, 2, 3, 1, err));
    assert_string_equal(e.encoding, encoding);
    return e;
}

static void full_precision_loses_nothing(void **state)
{
    (void)state;
    const float z[] = {1, 2, 3, -4, 5, 0, 7, 7, 7};
    const kd_plan_entry e = measure("f32", z, 3, 3);
    NEAR(e.kl1, 0, 0);
    NEAR(e.kl4, 0, 0);
    NEAR(e.top1, 1, 0);
    NEAR(e.tail, 0, 0);
    assert_true(isnan(e.variance) && !e.sparse);
    assert_int_equal(e.serves, KD_SERVES_VALUES | KD_SERVES_SOFTMAX);
}

static void bytes_are_those_of_packed_blocks(void **state)
{
    (void)state;
    float z[12];
    size_t two, one;
    for (int i = 0; i < 12; i++) z[i] = (float)i * 0.37f;
    const kd_column c = {
        .name = "x", .role = KD_ROLE_LOGITS, .dtype = KD_F32, .ndims = 1, .dims = {4}, .encoding = "dense"};
    const kd_block a = {.data = z, .bytes = 32}, b = {.data = z + 8, .bytes = 16};
    OK(kd_block_packed_bytes(&c, 2, &a, 3, &two, err)); // chunks of 2 rows
    OK(kd_block_packed_bytes(&c, 1, &b, 3, &one, err));
    NEAR(measure("f32", z, 3, 4).row_bytes, (double)(two + one) / 3, 1e-9);
}

/* Two classes whose logits differ by d become d' in bf16: KL between two coins. */
static void rounding_costs_the_divergence_of_two_coins(void **state)
{
    (void)state;
    const float z[] = {0, 1.001953125f}; // 1 + 1/512: bf16 makes it 1
    const kd_plan_entry e = measure("bf16", z, 1, 2);
    const double p = 1 / (1 + exp(-z[1])), q = 1 / (1 + exp(-1.0));
    NEAR(e.kl1, p * log(p / q) + (1 - p) * log((1 - p) / (1 - q)), 1e-12);
    assert_true(e.kl1 > 1e-8);
    const double p4 = 1 / (1 + exp(-z[1] / 4)), q4 = 1 / (1 + exp(-0.25));
    NEAR(e.kl4, p4 * log(p4 / q4) + (1 - p4) * log((1 - p4) / (1 - q4)), 1e-12);
}

static void a_class_that_rounding_overtakes_is_not_kept(void **state)
{
    (void)state;
    const float z[] = {256, 257, 0, 1}; // bf16: 256, 256; the first wins the tie
    NEAR(measure("bf16", z, 2, 2).top1, 0.5, 0);
}

static void top_k_keeps_the_head_and_the_mass_of_the_rest(void **state)
{
    (void)state;
    if (!kd_codec_find("topk")) skip();
    // softmax .5 .25 .25 at T = 1; at T = 4 the first has 2^(1/4) / (2^(1/4) + 2)
    const float z[] = {logf(2), 0, 0, logf(2), 0, 0};
    const kd_plan_entry e = measure("topk:k=1,temperatures=1+4,step=0.001", z, 2, 3);
    assert_true(e.sparse);
    NEAR(e.tail, 0.5, 1e-6);
    NEAR(e.top1, 1, 0);
    NEAR(e.kl1, 0, 1e-5); // one kept class and a bucket of the rest: nothing is lost but rounding
    NEAR(e.kl4, 0, 1e-4);
    assert_true(isnan(e.variance));
    assert_true(isnan(measure("topk:k=1", z, 2, 3).kl4)); // only T = 1 is listed
}

static void one_random_draw_of_a_coin_has_variance_one_half(void **state)
{
    (void)state;
    if (!kd_codec_find("sample")) skip();
    const float z[] = {0, 0, 3,
                       3}; // the drawn side has weight 1, the other 0: (1/2)^2 + (1/2)^2 whichever it is
    const kd_plan_entry e = measure("sample:n=1", z, 2, 2);
    NEAR(e.variance, 0.5, 1e-6);
    NEAR(e.tail, 0.5, 1e-6);
    assert_true(isnan(e.kl1) && isnan(e.kl4));
    assert_int_equal(e.serves, KD_SERVES_EXPECTED);
}

static void what_does_not_exist_is_refused(void **state)
{
    (void)state;
    const float z[] = {0, 1};
    kd_plan_entry e;
    FAILS(kd_plan_measure(&e, "int9", z, 1, 2, NULL, 2, 3, 1, err), KD_EUSAGE, "int8");
    FAILS(kd_plan_measure(&e, "f32", z, 0, 2, NULL, 2, 3, 1, err), KD_EUSAGE, "no rows");
}

static void break_even_is_the_first_whole_number_of_students(void **state)
{
    (void)state;
    kd_plan_entry e = {.encode_s = 0.002, .decode_s = 0.001};
    kd_plan_time(&e, 0.01, 100, 10); // 1 s; 10 epochs save 0.9 s each
    NEAR(e.dump_s, 1, 1e-12);
    NEAR(e.students, 1, 0);
    kd_plan_time(&e, 0.01, 100, 1); // one student of one epoch saves less than the dump takes, two save more
    NEAR(e.students, 2, 0);
    e.encode_s = 0.05; // the encoder is the slower stage: 5 s, to be earned at 0.9 s a student
    kd_plan_time(&e, 0.01, 100, 1);
    NEAR(e.dump_s, 5, 1e-12);
    NEAR(e.students, 6, 0);
    e.decode_s = 0.01; // reading takes as long as the teacher
    kd_plan_time(&e, 0.01, 100, 10);
    assert_true(isinf(e.students));
}

static void a_plan_tries_what_there_is_on_the_teachers_own_logits(void **state)
{
    (void)state;
    size_t codecs;
    kd_plan plan;
    const kd_writer_params wp = kd_writer_default_params();
    const kd_codec_info *list = kd_codec_list(&codecs);
    const char *const one[] = {"int8"}, *const wrong[] = {"nothing"};
    make_store();
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 10, 1);
    kd_store *s = open_store();
    char root[33];
    memcpy(root, kd_store_root(s), sizeof root);
    OK(kd_teacher_plan(&plan, t, s, NULL, 0, 40, 10, &wp, err));
    assert_int_equal(plan.rows, ROWS);
    assert_true(plan.sampled >= CHUNK && plan.sampled < ROWS && plan.teacher_s > 0);
    for (size_t i = 0; i < codecs; i++) {
        bool tried = list[i].sparse; // of those some settings do not fit five classes
        for (size_t k = 0; k < plan.n; k++) tried = tried || !strcmp(plan.entry[k].encoding, list[i].name);
        if (!tried) fail_msg("%s was not tried", list[i].name);
    }
    for (size_t k = 0; k < plan.n; k++) {
        const kd_plan_entry *e = &plan.entry[k];
        assert_true(e->row_bytes > 0 && e->dump_s >= plan.teacher_s * ROWS && e->top1 >= 0 && e->top1 <= 1);
        assert_true(!(e->kl1 < -1e-9) && !(e->kl4 < -1e-9));
    }
    kd_plan_release(&plan);
    OK(kd_teacher_plan(&plan, t, s, one, 1, 40, 10, &wp, err));
    assert_int_equal(plan.n, 1);
    kd_plan_release(&plan);
    FAILS(kd_teacher_plan(&plan, t, s, wrong, 1, 40, 10, &wp, err), KD_EUSAGE, "nothing");
    kd_store_close(s);
    s = open_store();
    assert_string_equal(kd_store_root(s), root);
    kd_store_close(s);
    kd_teacher_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_precision_loses_nothing),
        cmocka_unit_test(bytes_are_those_of_packed_blocks),
        cmocka_unit_test(rounding_costs_the_divergence_of_two_coins),
        cmocka_unit_test(a_class_that_rounding_overtakes_is_not_kept),
        cmocka_unit_test(top_k_keeps_the_head_and_the_mass_of_the_rest),
        cmocka_unit_test(one_random_draw_of_a_coin_has_variance_one_half),
        cmocka_unit_test(what_does_not_exist_is_refused),
        cmocka_unit_test(break_even_is_the_first_whole_number_of_students),
        cmocka_unit_test(a_plan_tries_what_there_is_on_the_teachers_own_logits),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
