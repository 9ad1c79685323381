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

/* ---- any mix ----------------------------------------------------------------------------------- */

static kd_loss *mix(int64_t rows, int64_t classes, size_t n, const char *const *terms)
{
    kd_loss_spec s = {.terms = {(char **)(uintptr_t)terms, n}};
    return make_loss(&s, rows, classes, kd_cpu_isa());
}

static void a_mix_is_the_sum_of_its_terms(void **state)
{
    (void)state;
    static const char *const terms[] = {"name=kd,weight=0.5,temperature=4",
                                        "name=ce,weight=0.25",
                                        "name=kd,temperature=1",
                                        "name=dkd,weight=0.1",
                                        "name=dist",
                                        "name=ce,weight=2,label_smoothing=0.1",
                                        "name=kd_ce,temperature=2",
                                        "name=logit_mse"};
    batch x = make_batch(23, 10, 3, true, 31);
    float sum[230] = {0};
    double v = 0, values[KD_LOSS_TERMS];
    const char *names[KD_LOSS_TERMS];
    for (int i = 0; i < 8; i++) {
        kd_loss *l = mix(23, 10, 1, terms + i);
        kd_loss_run(l, &x.b);
        v += kd_loss_value(l);
        for (int k = 0; k < 230; k++) sum[k] += x.grad[k];
        kd_loss_free(l);
    }
    kd_loss *l = mix(23, 10, 8, terms);
    kd_loss_run(l, &x.b);
    assert_true(fabs(kd_loss_value(l) - v) <= 1e-6 * v);
    assert_true(max_diff(sum, x.grad, 230) <= 1e-6 * max_abs(sum, 230));
    assert_int_equal(kd_loss_terms(l, names, values), 8);
    assert_string_equal(names[0], "kd");
    assert_string_equal(names[2], "kd.2");
    assert_string_equal(names[5], "ce.2");
    kd_loss_free(l);
    free_batch(&x);
}

/* With one share for all rows the loss of two labels is the mean of the losses of each; fused or not. */
static void two_labels_a_row_are_the_mean_of_both(void **state)
{
    (void)state;
    static const char *const terms[] = {"name=kd,weight=0.5,temperature=4",
                                        "name=ce,weight=0.25,label_smoothing=0.2",
                                        "name=ce,weight=2,label_smoothing=0.1"};
    enum { R = 23, C = 10 };
    batch x = make_batch(R, C, 3, false, 31);
    int32_t others[R];
    float shares[R], want[R * C] = {0};
    double v = 0;
    kd_loss *l = mix(R, C, 3, terms);
    for (int i = 0; i < R; i++) others[i] = (x.labels[i] + 1 + i % (C - 1)) % C, shares[i] = 0.75f;
    for (int i = 0; i < 2; i++) {
        kd_loss_batch b = x.b;
        b.labels = i ? others : x.labels;
        kd_loss_run(l, &b);
        const float part = i ? 0.25f : 0.75f;
        v += (double)part * kd_loss_value(l);
        for (int k = 0; k < R * C; k++) want[k] += part * x.grad[k];
    }
    kd_loss_batch b = x.b;
    b.other_labels = others;
    b.shares = shares;
    kd_loss_run(l, &b);
    assert_true(fabs(kd_loss_value(l) - v) <= 1e-6 * v);
    assert_true(max_diff(want, x.grad, R * C) <= 1e-6);
    for (int i = 0; i < R; i++) others[i] = -1; // no second label: as if there were none
    kd_loss_run(l, &b);
    v = kd_loss_value(l);
    memcpy(want, x.grad, sizeof want);
    kd_loss_run(l, &x.b);
    assert_true(kd_loss_value(l) == v);
    assert_memory_equal(want, x.grad, sizeof want);
    kd_loss_free(l);
    free_batch(&x);
}

static double run_term(const char *term, batch *x)
{
    kd_loss *l = mix(x->b.rows, x->b.classes, 1, &term);
    kd_loss_run(l, &x->b);
    double v = kd_loss_value(l);
    kd_loss_free(l);
    return v;
}

/* Zhao et al. 2022, section 3: kd = TCKD + (1 - p_y) NCKD for each row. */
static void dkd_with_the_right_weights_is_kd(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        batch x = make_batch(1, 8, 3, false, seed);
        char term[80];
        double z = 0, T = 1 + (double)(seed % 4);
        for (int c = 0; c < 8; c++) z += exp(x.teacher[c] / T);
        snprintf(term, sizeof term, "name=dkd,temperature=%g,alpha=1,beta=%.9g", T,
                 1 - exp(x.teacher[x.labels[0]] / T) / z);
        double split = run_term(term, &x);
        float grad[8];
        memcpy(grad, x.grad, sizeof grad);
        snprintf(term, sizeof term, "name=kd,temperature=%g", T);
        double whole = run_term(term, &x);
        if (!(fabs(split - whole) <= 1e-6 * whole) || !(max_diff(grad, x.grad, 8) <= 2e-6))
            fail_msg("T %g: TCKD + (1 - p_y) NCKD is %.9g, kd %.9g", T, split, whole);
        free_batch(&x);
    }
}

static void with_all_classes_kept_sparse_kl_is_dense_kl(void **state)
{
    (void)state;
    static const char *const conventions[] = {"raw", "renorm", "bucket", "both"};
    enum { R = 9, C = 12 };
    batch x = make_batch(R, C, 2, true, 8);
    uint64_t offset[R + 1];
    uint32_t id[R * C];
    float value[R * C], want[R * C];
    kd_log_softmax(value, x.teacher, R, C, 1);
    for (uint32_t i = 0; i < R * C; i++) id[i] = i % C;
    for (uint64_t r = 0; r <= R; r++) offset[r] = r * C;
    kd_loss_sparse sparse = {.offset = offset, .id = id, .value = value};
    kd_loss_input in = {.sparse = &sparse};
    double v = run_term("name=kd,temperature=1", &x);
    memcpy(want, x.grad, sizeof want);
    x.b.inputs = &in;
    for (size_t i = 0; i < KD_COUNT(conventions); i++) {
        char term[64];
        snprintf(term, sizeof term, "name=sparse_kl,sparse=%s", conventions[i]);
        double got = run_term(term, &x);
        if (!(fabs(got - v) <= 2e-6 * v) || !(max_diff(want, x.grad, R * C) <= 1e-6))
            fail_msg("%s: %.9g, dense %.9g; gradient off by %g", conventions[i], got, v,
                     max_diff(want, x.grad, R * C));
    }
    free_batch(&x);
}

static void sampled_targets_average_to_the_dense_gradient(void **state)
{
    (void)state;
    enum { C = 6, TRIALS = 4000, N = 8 };
    batch x = make_batch(1, C, 1, false, 77);
    kd_rng rng;
    double p[C], z = 0, mean[C] = {0};
    float want[C];
    run_term("name=kd,temperature=1", &x);
    memcpy(want, x.grad, sizeof want);
    for (int c = 0; c < C; c++) z += p[c] = exp(x.teacher[c]);
    kd_rng_init(&rng, 1, KD_RNG_TEST, 0, 0);
    const char *term = "name=sparse_kl,sparse=sampled";
    kd_loss *l = mix(1, C, 1, &term);
    for (int trial = 0; trial < TRIALS; trial++) {
        int counts[C] = {0};
        for (int d = 0; d < N; d++) {
            double u = kd_rng_uniform(&rng) * z;
            int c = 0;
            while (c < C - 1 && (u -= p[c]) >= 0) c++;
            counts[c]++;
        }
        uint64_t offset[2] = {0, 0};
        uint32_t id[C];
        float value[C];
        for (uint32_t c = 0; c < C; c++)
            if (counts[c]) id[offset[1]] = c, value[offset[1]++] = (float)counts[c] / N;
        kd_loss_sparse sparse = {.offset = offset, .id = id, .value = value};
        kd_loss_input in = {.sparse = &sparse};
        x.b.inputs = &in;
        kd_loss_run(l, &x.b);
        for (int c = 0; c < C; c++) mean[c] += x.grad[c] / TRIALS;
    }
    for (int c = 0; c < C; c++) // the mean's deviation is at most 0.5 / sqrt(N TRIALS) = 0.0028
        if (!(fabs(mean[c] - want[c]) <= 0.01))
            fail_msg("class %d: %g on average, dense %g", c, mean[c], want[c]);
    kd_loss_free(l);
    free_batch(&x);
}

static void weights_and_temperatures_follow_their_schedules(void **state)
{
    (void)state;
    static const char *const terms[] = {"name=dkd,weight=warmup 2 20", "name=ce,weight=linear 1 0 10",
                                        "name=kd,weight=cosine 0 1 8,temperature=linear 4 1 30"};
    static const struct {
        double epoch, weight[3], T;
    } at[] = {{0, {0.1, 1, 0}, 4},
              {0.5, {0.1, 0.95, 0.00960736}, 3.95},
              {4, {0.5, 0.6, 0.5}, 3.6},
              {19, {2, 0, 1}, 2.1},
              {500, {2, 0, 1}, 1}};
    batch x = make_batch(6, 10, 2, false, 4);
    kd_loss *l = mix(6, 10, 3, terms);
    for (size_t i = 0; i < KD_COUNT(at); i++) {
        const char *names[KD_LOSS_TERMS];
        double v[KD_LOSS_TERMS], want = 0;
        char kd[64];
        kd_loss_at(l, at[i].epoch);
        kd_loss_run(l, &x.b);
        kd_loss_terms(l, names, v);
        for (int k = 0; k < 3; k++) want += at[i].weight[k] * v[k];
        if (!(fabs(kd_loss_value(l) - want) <= 1e-6 * want))
            fail_msg("epoch %g: %.9g, want %.9g", at[i].epoch, kd_loss_value(l), want);
        if (at[i].weight[2] == 0) continue; // not computed
        snprintf(kd, sizeof kd, "name=kd,temperature=%g", at[i].T);
        assert_true(fabs(run_term(kd, &x) - v[2]) <= 1e-5 * v[2]);
    }
    char *f = kd_loss_formula(l);
    assert_non_null(
        strstr(f, "warmup(0..2 in 20 epochs) T^2 (1 TCKD + 8 NCKD)/B (T=4) + linear(1..0 in 10 epochs) CE"));
    free(f);
    kd_loss_free(l);
    free_batch(&x);
}

static void terms_that_share_a_tap_add_their_gradients(void **state)
{
    (void)state;
    static const char *const terms[] = {"name=sp,weight=2", "name=embed,metric=mse", "name=rkd_distance"};
    batch x = make_batch(7, 5, 1, false, 12);
    float grad[35], sum[35] = {0};
    kd_loss_dims d[3] = {{1, {5}}, {1, {5}}, {1, {5}}};
    kd_loss_input in[3];
    kd_err err = {0};
    for (int i = 0; i < 3; i++)
        in[i] = (kd_loss_input){.student = x.logits, .dstudent = grad, .teacher = x.teacher};
    kd_loss_batch b = {.rows = 7, .inputs = in};
    kd_loss_shape shape = {.rows = 7, .student = d, .teacher = d};
    for (int i = 0; i < 4; i++) {
        kd_loss_spec s = {.terms = {(char **)(uintptr_t)(terms + i % 3), i < 3 ? 1 : 3}};
        kd_loss *l;
        if (kd_loss_create(&l, &s, &err) || kd_loss_plan(l, &shape, &err)) fail_msg("%s", err.msg);
        memset(grad, 0xFF, sizeof grad);
        kd_loss_run(l, &b);
        for (int k = 0; k < 35 && i < 3; k++) sum[k] += grad[k];
        kd_loss_free(l);
    }
    assert_true(max_diff(grad, sum, 35) <= 1e-6 * max_abs(sum, 35));
    free_batch(&x);
}

static void a_list_of_mappings_in_yaml_is_a_mix(void **state)
{
    (void)state;
    static const char *const yaml[] = {
        "loss:\n  - {name: dkd, weight: warmup 1 20, beta: 2}\n  - name: ce\n    weight: 1\n",
        "loss: {terms: [{name: dkd, weight: warmup 1 20, beta: 2}, 'name=ce']}\n",
        "loss: [\"name=dkd,weight=warmup 1 20,beta=2\", {name: ce}]\n",
    };
    for (size_t i = 0; i < KD_COUNT(yaml); i++) {
        kd_loss_spec s;
        kd_config c = {0};
        kd_err err = {0};
        kd_loss *l = NULL;
        if (kd_config_add(&c, kd_loss_options, kd_loss_options_n, &s, &err) ||
            kd_config_yaml_text(&c, "a.yaml", yaml[i], strlen(yaml[i]), &err) || kd_loss_create(&l, &s, &err))
            fail_msg("%s", err.msg);
        char *f = kd_loss_formula(l);
        assert_string_equal(f, "warmup(0..1 in 20 epochs) T^2 (1 TCKD + 2 NCKD)/B (T=4) + 1 CE");
        assert_true(kd_loss_spec_distils(&s) && kd_loss_needs_labels(l) && kd_loss_needs_teacher(l));
        free(f);
        kd_loss_free(l);
        assert_int_equal(kd_config_flag(&c, "loss.terms", "", &err),
                         KD_OK); // nothing: back to the short form
        assert_int_equal(s.terms.n, 0);
        kd_config_release(&c);
    }
}

static void wrong_terms_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *term, *says;
    } wrong[] = {
        {"name=gkd", "loss.terms[0]: gkd works on-policy only"},
        {"name=minillm", "minillm works on-policy only"},
        {"name=dkk", "no objective 'dkk' (did you mean 'dkd'?)"},
        {"weight=1", "no name"},
        {"name=dkd,colour=1", "dkd has no key 'colour'; it has: temperature=4"},
        {"name=dkd,betta=1", "(did you mean 'beta'?)"},
        {"name=ce,temperature=2", "ce has no key 'temperature'"},
        {"name=kd,temperature=0", "temperature: 0, expected more than 0"},
        {"name=kd,temperature=linear 4 0 10", "temperature: 0, expected more than 0"},
        {"name=kd,weight=-1", "weight: -1, expected 0 or more"},
        {"name=kd,weight=0", "all weights are 0"},
        {"name=kd,weight=warmup 1", "'warmup 1', expected a number"},
        {"name=kd,reduction=mean", "loss.terms[0] (kd): reduction: 'mean'"},
        {"name=gjsd,beta=2", "beta: 2, expected a share"},
        {"name=srkl,alpha=1", "a model is compared with itself"},
        {"name=sparse_kl,sparse=renorm,direction=reverse", "direction: reverse is infinite"},
        {"name=sparse_jsd,sparse=renorm,beta=1", "beta: 1 is infinite"},
        {"name=minilm,relations=1-4", "relations: '1-4'"},
        {"name=kd,preset=keras", "no preset 'keras', expected one of mdistiller, torchdistill, trl"},
        {"name=kd,t2", "'t2', expected KEY=VALUE"},
    };
    for (size_t i = 0; i < KD_COUNT(wrong); i++) {
        kd_loss_spec s = {.terms = {(char **)(uintptr_t)&wrong[i].term, 1}};
        kd_loss *l;
        kd_err err = {0};
        assert_int_equal(kd_loss_create(&l, &s, &err), KD_EUSAGE);
        if (!strstr(err.msg, wrong[i].says))
            fail_msg("'%s': '%s' does not say '%s'", wrong[i].term, err.msg, wrong[i].says);
    }
}

static void shapes_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    static const double temperatures[] = {1, 4};
    static const struct {
        const char *term;
        kd_loss_dims student, teacher;
        const char *says;
    } wrong[] = {
        {"name=sparse_kl,temperature=2", {1, {5}}, {1, {5}}, "needs the teacher's normaliser at T = 2"},
        {"name=sparse_kl,sparse=sampled,temperature=4", {1, {5}}, {1, {5}}, "normaliser at T = 4"},
        {"name=fitnet", {1, {5}}, {1, {6}}, "set projection: regressor"},
        {"name=embed", {1, {5}}, {1, {6}}, "set projection: linear"},
        {"name=at", {1, {5}}, {3, {4, 4, 2}}, "found 1 and 3 axes"},
        {"name=at", {3, {4, 4, 2}}, {2, {8, 8}}, "larger than the student's"},
        {"name=crd", {1, {5}}, {1, {5}}, "0 training rows"},
        {"name=minilm", {3, {3, 4, 12}}, {3, {3, 5, 12}}, "of one length"},
    };
    for (size_t i = 0; i < KD_COUNT(wrong); i++) {
        kd_loss_spec s = {.terms = {(char **)(uintptr_t)&wrong[i].term, 1}};
        kd_loss_shape shape = {.rows = 4,
                               .classes = 5,
                               .student = &wrong[i].student,
                               .teacher = &wrong[i].teacher,
                               .temperatures = temperatures,
                               .ntemperatures = 2};
        kd_loss *l;
        kd_err err = {0};
        assert_int_equal(kd_loss_create(&l, &s, &err), KD_OK);
        assert_int_equal(kd_loss_plan(l, &shape, &err), KD_EUSAGE);
        if (!strstr(err.msg, wrong[i].says))
            fail_msg("'%s': '%s' does not say '%s'", wrong[i].term, err.msg, wrong[i].says);
        kd_loss_free(l);
    }
}

static void every_line_of_every_preset_is_a_term(void **state)
{
    (void)state;
    const char *sets, *name;
    int lines = 0;
    kd_loss *l;
    kd_err err = {0};
    for (size_t i = 0; (name = kd_loss_preset(i, &sets)); i++)
        for (const char *p = sets; *p; p += strcspn(p, "\n") + 1, lines++) {
            char *text = kd_sprintf("name=%.*s,preset=%s", (int)strcspn(p, ":"), p, name);
            kd_loss_spec s = {.terms = {&text, 1}};
            if (kd_loss_create(&l, &s, &err)) fail_msg("%s: %s", name, err.msg);
            kd_loss_free(l);
            free(text);
        }
    assert_true(lines > 20);
    char sp[] = "name=sp", kd[] = "name=kd,temperature=2", torchdistill[] = "torchdistill",
         *terms[] = {sp, kd};
    kd_loss_spec s = {.terms = {terms, 2}, .preset = torchdistill};
    assert_int_equal(kd_loss_create(&l, &s, &err), KD_OK);
    char *f = kd_loss_formula(l);
    assert_string_equal(f, "1 ||G_t - G_s||^2/B^2, rows by L1 + 1 T^2 KL(p||q)/B (T=2)");
    free(f);
    kd_loss_free(l);
    kd_loss_spec short_form = {.kd = 1, .temperature = 1, .preset = torchdistill};
    assert_int_equal(kd_loss_create(&l, &short_form, &err), KD_EUSAGE);
    assert_non_null(strstr(err.msg, "loss.preset"));
}

/* docs/losses.md: the lines that come from the tables. */
static void the_page_of_objectives_says_what_the_table_says(void **state)
{
    (void)state;
    char *doc, needs[160], expects[256];
    size_t len;
    kd_err err = {0};
    const kd_objective *o;
    const char *preset, *sets;
    if (kd_file_read("docs/losses.md", 1 << 20, &doc, &len, &err)) fail_msg("%s", err.msg);
    for (size_t i = 0; (o = kd_loss_list(i)); i++) {
        char *head = kd_sprintf("\n### %s\n\n    %s\n", o->name, o->formula);
        char *tail = kd_sprintf("\nNeeds: %s. Keys: `weight=1%s%s`. From: %s.\n",
                                kd_loss_needs_text(o->needs, needs, sizeof needs), *o->keys ? "," : "",
                                o->keys, o->source);
        const char *section = strstr(doc, head), *end = section ? strstr(section + 2, "\n### ") : NULL,
                   *at = section ? strstr(section, tail) : NULL;
        if (!at || (end && at > end)) fail_msg("docs/losses.md lacks%s...%s", head, tail);
        free(head);
        free(tail);
    }
    for (size_t i = 0; (preset = kd_loss_preset(i, &sets)); i++)
        for (const char *p = sets; *p; p += strcspn(p, "\n") + 1) {
            size_t name = strcspn(p, ":"), line = strcspn(p, "\n");
            char *row = kd_sprintf("\n| %s | %.*s | `%.*s` |\n", preset, (int)name, p, (int)(line - name - 2),
                                   p + name + 2);
            if (!strstr(doc, row)) fail_msg("docs/losses.md lacks%s", row);
            free(row);
        }
    for (size_t i = 0; i < kd_loss_term_options_n; i++) {
        const kd_option *k = &kd_loss_term_options[i];
        char *row =
            kd_sprintf("\n- `%s`: %s (%s)\n", k->key, k->help, kd_option_expects(k, expects, sizeof expects));
        if (!strstr(doc, row)) fail_msg("docs/losses.md lacks%s", row);
        free(row);
    }
    free(doc);
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
        cmocka_unit_test(a_mix_is_the_sum_of_its_terms),
        cmocka_unit_test(two_labels_a_row_are_the_mean_of_both),
        cmocka_unit_test(dkd_with_the_right_weights_is_kd),
        cmocka_unit_test(with_all_classes_kept_sparse_kl_is_dense_kl),
        cmocka_unit_test(sampled_targets_average_to_the_dense_gradient),
        cmocka_unit_test(weights_and_temperatures_follow_their_schedules),
        cmocka_unit_test(terms_that_share_a_tap_add_their_gradients),
        cmocka_unit_test(a_list_of_mappings_in_yaml_is_a_mix),
        cmocka_unit_test(wrong_terms_are_refused_by_name),
        cmocka_unit_test(shapes_that_do_not_fit_are_refused),
        cmocka_unit_test(every_line_of_every_preset_is_a_term),
        cmocka_unit_test(the_page_of_objectives_says_what_the_table_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
