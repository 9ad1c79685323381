/* test_loss.c - the fused kernel of ce and kd against the twins, at every instruction set of this CPU; the
 * mix and its options. Every objective by itself is in test_objectives.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "loss_fixture.h"

#define ALL_ISAS(isa) for (kd_isa isa = KD_ISA_SCALAR; isa <= KD_ISA_AVX512 && isa <= kd_cpu_isa(); isa++)

typedef struct batch {
    kd_loss_batch b;
    float *logits, *teacher, *grad;
    int32_t *labels;
} batch;

/* masked: every third row has no label. */
static batch make_batch(int64_t rows, int64_t classes, float spread, bool masked, uint64_t seed)
{
    batch x;
    kd_rng r;
    size_t n = (size_t)(rows * classes);
    kd_rng_init(&r, seed, KD_RNG_TEST, (uint32_t)rows, (uint32_t)classes);
    x.logits = calloc(n, sizeof(float));
    x.teacher = calloc(n, sizeof(float));
    x.grad = calloc(n, sizeof(float));
    x.labels = calloc((size_t)rows, sizeof(int32_t));
    assert_true(x.logits && x.teacher && x.grad && x.labels);
    for (size_t i = 0; i < n; i++) {
        x.logits[i] = rintf(spread * kd_rng_normal(&r) * 1024) / 1024; // exact steps for finite differences
        x.teacher[i] = spread * kd_rng_normal(&r);
        x.grad[i] = 77;
    }
    for (int64_t i = 0; i < rows; i++)
        x.labels[i] = masked && i % 3 == 1 ? -1 : (int32_t)kd_rng_below(&r, (uint64_t)classes);
    x.b = (kd_loss_batch){.rows = rows,
                          .classes = classes,
                          .logits = x.logits,
                          .labels = x.labels,
                          .teacher = x.teacher,
                          .dlogits = x.grad};
    return x;
}

static void free_batch(batch *x)
{
    free(x->logits);
    free(x->teacher);
    free(x->grad);
    free(x->labels);
}

static kd_loss *make_loss(const kd_loss_spec *s, int64_t rows, int64_t classes, kd_isa isa)
{
    kd_loss *l;
    kd_err err = {0};
    kd_loss_shape shape = {.rows = rows, .classes = classes, .threads = 8};
    if (kd_loss_create(&l, s, &err) || kd_loss_plan(l, &shape, &err)) fail_msg("%s", err.msg);
    l->vec = kd__loss_vec_of(isa);
    return l;
}

static double run_loss(const kd_loss_spec *s, const kd_loss_batch *b, kd_isa isa)
{
    kd_loss *l = make_loss(s, b->rows, b->classes, isa);
    kd_loss_run(l, b);
    double v = kd_loss_value(l);
    kd_loss_free(l);
    return v;
}

static double max_abs(const float *x, size_t n)
{
    double m = 0;
    for (size_t i = 0; i < n; i++) m = isnan(x[i]) ? NAN : fmax(m, fabs(x[i]));
    return m;
}

static double max_diff(const float *a, const float *b, size_t n)
{
    double m = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= m)) m = d; // a NaN stays
    }
    return m;
}

/* ---- vector exp ---------------------------------------------------------------------------- */

static void exp_is_within_two_ulp(void **state)
{
    (void)state;
    enum { N = 200000 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
    for (int i = 0; i < N; i++) x[i] = -87.3f + 175.0f * (float)i / N;
    ALL_ISAS(isa)
    {
        double worst = 0;
        kd__loss_vec_of(isa)->exp(y, x, N);
        for (int i = 0; i < N; i++) {
            double want = exp((double)x[i]);
            int e;
            frexp(want, &e);
            worst = fmax(worst, fabs(y[i] - want) / ldexp(1, e - 24));
        }
        if (worst > 2) fail_msg("%s: exp is off by %.2f ulp", kd_isa_name(isa), worst);
        float edge[5] = {0, -1e30f, -INFINITY, NAN, -88}, got[5];
        kd__loss_vec_of(isa)->exp(got, edge, 5);
        assert_true(got[0] == 1 && got[1] == 0 && got[2] == 0 && isnan(got[3]) && got[4] == 0);
    }
    free(x);
    free(y);
}

static void log_softmax_equals_plain_c(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 10, 64, 65, 100, 1000, 1031};
    for (size_t k = 0; k < KD_COUNT(sizes); k++) {
        int64_t C = sizes[k], rows = 19;
        batch x = make_batch(rows, C, 8, false, 5);
        for (float T = 1; T <= 4; T *= 2) ALL_ISAS(isa)
            {
                for (int64_t r = 0; r < rows; r += KD__LOSS_ROWS)
                    kd__loss_vec_of(isa)->log_softmax(x.grad + r * C, x.logits + r * C,
                                                      (int)(rows - r < KD__LOSS_ROWS ? rows - r
                                                                                     : KD__LOSS_ROWS),
                                                      C, 1 / T);
                for (int64_t r = 0; r < rows; r++) {
                    double max = -INFINITY, sum = 0;
                    for (int64_t c = 0; c < C; c++) max = fmax(max, x.logits[r * C + c] / T);
                    for (int64_t c = 0; c < C; c++) sum += exp(x.logits[r * C + c] / T - max);
                    for (int64_t c = 0; c < C; c++) {
                        double want = x.logits[r * C + c] / T - max - log(sum), got = x.grad[r * C + c];
                        if (!(fabs(got - want) <= 4e-6))
                            fail_msg("%s, %d classes, T %g: %.9g, want %.9g", kd_isa_name(isa), (int)C, T,
                                     got, want);
                    }
                }
            }
        kd_log_softmax(x.teacher, x.logits, rows, C, 4); // the public way, chosen ISA
        if (kd_cpu_isa() >= KD_ISA_AVX512)
            assert_memory_equal(x.teacher, x.grad, (size_t)(rows * C) * sizeof(float));
        free_batch(&x);
    }
}

/* ---- three proofs --------------------------------------------------------------------------- */

/* The twin's value, and its slopes at about 20 numbers spread over the batch. */
static void check_twin(const kd_loss_spec *s, batch *x, kd_isa isa)
{
    int64_t n = x->b.rows * x->b.classes, step = n / 20 + 1;
    double got = run_loss(s, &x->b, isa), valid = 0, t2 = s->t2 ? s->temperature * s->temperature : 1;
    kd_loss *l = make_loss(s, x->b.rows, x->b.classes, isa);
    double v = kd_loss_naive(l, &x->b), off = 0, scale = max_abs(x->grad, (size_t)n);
    for (int64_t i = 0; i < n; i += step) off = fmax(off, fabs(x->grad[i] - mix_slope(l, &x->b, i)));
    kd_loss_free(l);
    /* q and p are rounded to f32 before they are subtracted, so what is left is relative to their size. */
    double slack = 3e-7 * (s->ce + s->kd * t2);
    for (int64_t r = 0; r < x->b.rows; r++) valid += !x->b.labels || x->b.labels[r] >= 0;
    double grad_slack = 2e-7 * (s->ce + s->kd * t2 / s->temperature) / valid;
    if (!(fabs(got - v) <= slack + 1e-5 * fabs(v)) || !(off <= grad_slack + 1e-6 * scale))
        fail_msg("%s, %d x %d, T %g, t2 %d, %s, %s, smoothing %g: value %.9g, naive %.9g; gradient off by %g "
                 "of %g",
                 kd_isa_name(isa), (int)x->b.rows, (int)x->b.classes, s->temperature, s->t2, s->reduction,
                 s->kl_form, s->label_smoothing, got, v, off, scale);
    x->b.dlogits = NULL;
    assert_true(run_loss(s, &x->b, isa) == got); // the value alone is the same value
    x->b.dlogits = x->grad;
}

static void every_mix_equals_its_naive_twin(void **state)
{
    (void)state;
    static const int64_t classes[] = {2, 3, 10, 16, 17, 63, 64, 65, 100, 1000, 1024, 1025, 2600};
    static const int64_t rows[] = {1, 2, 15, 16, 17, 40};
    static const kd_loss_spec mixes[] = {
        {.ce = 0.3, .kd = 0.7},
        {.kd = 1},
        {.ce = 1},
        {.ce = 2, .label_smoothing = 0.1},
        {.ce = 0.1, .kd = 0.9, .label_smoothing = 0.2, .reduction = "element", .kl_form = "cross_entropy"},
    };
    static const double temps[] = {1, 2, 4, 0.5};
    for (size_t c = 0; c < KD_COUNT(classes); c++)
        for (size_t r = 0; r < KD_COUNT(rows); r++) {
            batch x = make_batch(rows[r], classes[c], 3, rows[r] > 2, 11);
            for (size_t m = 0; m < KD_COUNT(mixes); m++)
                for (size_t k = 0; k < 2 * KD_COUNT(temps); k++) ALL_ISAS(isa)
                    {
                        kd_loss_spec s = mixes[m];
                        s.temperature = temps[k / 2];
                        s.t2 = k & 1;
                        if ((int64_t)(m + k) % 4 && classes[c] > 1000) continue;
                        check_twin(&s, &x, isa);
                    }
            free_batch(&x);
        }
}

/* ---- edges ----------------------------------------------------------------------------------- */

static void extreme_logits_give_finite_values(void **state)
{
    (void)state;
    static const int64_t classes[] = {2, 10, 100};
    for (size_t k = 0; k < KD_COUNT(classes); k++) {
        int64_t C = classes[k];
        batch x = make_batch(18, C, 1, false, 7);
        for (int64_t i = 0; i < 18 * C; i++) {
            x.logits[i] = i % 3 ? 60 : -60;
            x.teacher[i] = i % 2 ? -60 : 60;
        }
        for (double T = 1; T <= 4; T *= 2) ALL_ISAS(isa)
            {
                kd_loss_spec s = {.ce = 0.5, .kd = 0.5, .temperature = T, .t2 = true};
                check_twin(&s, &x, isa);
                assert_true(isfinite(run_loss(&s, &x.b, isa)) && isfinite(max_abs(x.grad, (size_t)(18 * C))));
            }
        free_batch(&x);
    }
}

static void one_hot_teachers_equal_hard_labels(void **state)
{
    (void)state;
    batch x = make_batch(20, 10, 3, false, 9);
    for (int64_t r = 0; r < 20; r++)
        for (int64_t c = 0; c < 10; c++) x.teacher[r * 10 + c] = c == x.labels[r] ? 1e4f : -1e4f;
    ALL_ISAS(isa)
    {
        kd_loss_spec soft = {.kd = 1, .temperature = 1}, hard = {.ce = 1};
        float grad[200];
        double kd = run_loss(&soft, &x.b, isa);
        memcpy(grad, x.grad, sizeof grad);
        double ce = run_loss(&hard, &x.b, isa);
        assert_true(fabs(kd - ce) <= 1e-6 * ce && max_diff(grad, x.grad, 200) <= 1e-7);
    }
    free_batch(&x);
}

static void a_student_equal_to_its_teacher_has_no_loss(void **state)
{
    (void)state;
    static const int64_t classes[] = {10, 1000};
    for (size_t k = 0; k < KD_COUNT(classes); k++) {
        batch x = make_batch(33, classes[k], 5, false, 13);
        memcpy(x.logits, x.teacher, (size_t)(33 * classes[k]) * sizeof(float));
        ALL_ISAS(isa)
        {
            kd_loss_spec s = {.kd = 1, .temperature = 4, .t2 = true};
            assert_true(fabs(run_loss(&s, &x.b, isa)) <= 1e-12);
            assert_true(max_abs(x.grad, (size_t)(33 * classes[k])) <= 1e-12);
        }
        free_batch(&x);
    }
}

static void rows_without_a_label_count_for_nothing(void **state)
{
    (void)state;
    static const int64_t classes[] = {10, 100};
    kd_loss_spec s = {.ce = 0.4, .kd = 0.6, .temperature = 2, .t2 = true};
    for (size_t k = 0; k < KD_COUNT(classes); k++) {
        int64_t C = classes[k];
        batch x = make_batch(17, C, 3, false, 21);
        kd_loss_batch first = x.b;
        first.rows = 6;
        float want[600];
        double v = run_loss(&s, &first, kd_cpu_isa());
        memcpy(want, x.grad, (size_t)(6 * C) * sizeof(float));
        for (int64_t r = 6; r < 17; r++) {
            x.labels[r] = r % 2 ? -1 : (int32_t)C; // neither is a class
            x.logits[r * C] = NAN;                 // and nobody looks
        }
        double got = run_loss(&s, &x.b, kd_cpu_isa());
        assert_true(fabs(got - v) <= 1e-12);
        assert_memory_equal(x.grad, want, (size_t)(6 * C) * sizeof(float));
        assert_true(max_abs(x.grad + 6 * C, (size_t)(11 * C)) == 0);
        for (int64_t r = 0; r < 17; r++) x.labels[r] = -1;
        assert_true(run_loss(&s, &x.b, kd_cpu_isa()) == 0);
        assert_true(max_abs(x.grad, (size_t)(17 * C)) == 0);
        free_batch(&x);
    }
}

static void no_labels_at_all_means_every_row_counts_for_kd(void **state)
{
    (void)state;
    batch x = make_batch(9, 10, 3, true, 2);
    kd_loss_spec s = {.kd = 1, .temperature = 2, .t2 = true};
    x.b.labels = NULL;
    check_twin(&s, &x, kd_cpu_isa());
    assert_true(max_abs(x.grad + 10, 10) > 0); // row 1 has label -1 when there are labels
    free_batch(&x);
}

static void a_nan_in_the_logits_shows_in_the_value(void **state)
{
    (void)state;
    static const int64_t classes[] = {10, 100};
    static const float bad[] = {NAN, INFINITY};
    for (int k = 0; k < 4; k++) ALL_ISAS(isa)
        {
            batch x = make_batch(18, classes[k / 2], 3, false, 2);
            kd_loss_spec s = {.ce = 0.5, .kd = 0.5, .temperature = 2, .t2 = true};
            x.logits[17 * classes[k / 2] + 3] = bad[k % 2];
            assert_false(isfinite(run_loss(&s, &x.b, isa)));
            free_batch(&x);
        }
}

static void bits_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    static const int64_t classes[] = {10, 100};
    for (size_t k = 0; k < KD_COUNT(classes); k++) {
        batch x = make_batch(131, classes[k], 4, true, 17);
        size_t bytes = (size_t)(131 * classes[k]) * sizeof(float);
        float *want = malloc(bytes);
        kd_loss_spec s = {.ce = 0.1, .kd = 0.9, .temperature = 4, .t2 = true};
        kd_loss *l = make_loss(&s, 131, classes[k], kd_cpu_isa());
        kd_loss_run(l, &x.b);
        double v = kd_loss_value(l);
        memcpy(want, x.grad, bytes);
        for (int threads = 1; threads <= 8; threads++) {
            memset(x.grad, 0xFF, bytes);
#pragma omp parallel num_threads(threads)
            kd_loss_run(l, &x.b);
            double got = kd_loss_value(l);
            assert_memory_equal(&got, &v, sizeof v);
            assert_memory_equal(x.grad, want, bytes);
        }
        kd_loss_free(l);
        free(want);
        free_batch(&x);
    }
}

/* ---- the mix ----------------------------------------------------------------------------------- */

static void options_set_the_mix_and_the_formula_says_it(void **state)
{
    (void)state;
    static const char yaml[] = "loss: {kd: 0.7, ce: 0.3, temperature: 2, t2: off, reduction: element}\n";
    kd_loss_spec s;
    kd_config c = {0};
    kd_err err = {0};
    kd_loss *l;
    if (kd_config_add(&c, kd_loss_options, kd_loss_options_n, &s, &err)) fail_msg("%s", err.msg);
    assert_int_equal(kd_loss_create(&l, &s, &err), KD_OK);
    char *f = kd_loss_formula(l);
    assert_string_equal(f, "0.1 CE + 0.9 T^2 KL(p||q)/B (T=4)");
    free(f);
    assert_true(kd_loss_needs_labels(l) && kd_loss_needs_teacher(l));
    kd_loss_free(l);
    if (kd_config_yaml_text(&c, "a.yaml", yaml, sizeof yaml - 1, &err)) fail_msg("%s", err.msg);
    assert_int_equal(kd_loss_create(&l, &s, &err), KD_OK);
    kd_config_release(&c); // the loss keeps its own strings
    f = kd_loss_formula(l);
    assert_string_equal(f, "0.3 CE + 0.7 KL(p||q)/(B C) (T=2)");
    free(f);
    batch x = make_batch(4, 10, 3, false, 1);
    assert_int_equal(kd_loss_plan(l, &(kd_loss_shape){.rows = 4, .classes = 10}, &err), KD_OK);
    kd_loss_run(l, &x.b);
    const char *names[KD_LOSS_TERMS];
    double v[KD_LOSS_TERMS];
    assert_int_equal(kd_loss_terms(l, names, v), 2);
    assert_string_equal(names[0], "ce");
    assert_string_equal(names[1], "kd");
    assert_true(fabs(kd_loss_value(l) - (0.3 * v[0] + 0.7 * v[1])) <= 1e-12);
    free_batch(&x);
    kd_loss_free(l);
}

static void a_wrong_mix_is_refused_by_its_key(void **state)
{
    (void)state;
    static const struct {
        kd_loss_spec s;
        const char *key;
    } wrong[] = {
        {{.ce = 0, .kd = 0, .temperature = 1}, "loss.ce and loss.kd"},
        {{.ce = -1, .kd = 2, .temperature = 1}, "loss.ce"},
        {{.ce = 1, .kd = NAN, .temperature = 1}, "loss.kd"},
        {{.ce = 1, .kd = 1, .temperature = 0}, "loss.temperature"},
        {{.ce = 1, .kd = 1, .temperature = INFINITY}, "loss.temperature"},
        {{.ce = 1, .temperature = 1, .label_smoothing = 1}, "loss.label_smoothing"},
        {{.kd = 1, .temperature = 1, .reduction = "mean"}, "loss.reduction"},
        {{.kd = 1, .temperature = 1, .kl_form = "js"}, "loss.kl_form"},
    };
    for (size_t i = 0; i < KD_COUNT(wrong); i++) {
        kd_loss *l;
        kd_err err = {0};
        assert_int_equal(kd_loss_create(&l, &wrong[i].s, &err), KD_EUSAGE);
        assert_null(l);
        if (!strstr(err.msg, wrong[i].key)) fail_msg("'%s' does not name %s", err.msg, wrong[i].key);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_two_ulp),
        cmocka_unit_test(log_softmax_equals_plain_c),
        cmocka_unit_test(every_mix_equals_its_naive_twin),
        cmocka_unit_test(extreme_logits_give_finite_values),
        cmocka_unit_test(one_hot_teachers_equal_hard_labels),
        cmocka_unit_test(a_student_equal_to_its_teacher_has_no_loss),
        cmocka_unit_test(rows_without_a_label_count_for_nothing),
        cmocka_unit_test(no_labels_at_all_means_every_row_counts_for_kd),
        cmocka_unit_test(a_nan_in_the_logits_shows_in_the_value),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(options_set_the_mix_and_the_formula_says_it),
        cmocka_unit_test(a_wrong_mix_is_refused_by_its_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
