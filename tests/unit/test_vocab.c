/* test_vocab.c - ce and sparse_kl over many classes, in f32 and in the logits' own memory, against the same
 * terms in double (sparse.c, whose twins test_objectives.c checks); pieces of a batch add up to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "loss_fixture.h"

enum { ROWS = 9, CLASSES = 2501, KEPT = 12 };

typedef struct sample {
    float logits[ROWS * CLASSES], grad[ROWS * CLASSES], value[ROWS * KEPT], tail[ROWS * 2], logz[ROWS * 2];
    int32_t labels[ROWS];
    uint64_t offset[ROWS + 1];
    uint32_t id[ROWS * KEPT];
    kd_loss_sparse sparse;
    kd_loss_input in[2];
} sample;

static const double temperatures[] = {1, 2};

/* The teacher's largest classes, or weights; a row without a label, one without any class kept, neighbours
 * kept. */
static void make(sample *x, bool weights)
{
    static double z[CLASSES];
    kd_rng r;
    kd_rng_init(&r, 7, KD_RNG_TEST, 0, weights);
    uint64_t n = 0;
    for (int i = 0; i < ROWS; i++) {
        double sum[2] = {0}, kept[2] = {0}, max = -INFINITY;
        x->offset[i] = n;
        x->labels[i] = i == 3 ? -1 : (int32_t)kd_rng_below(&r, CLASSES);
        for (int c = 0; c < CLASSES; c++) {
            x->logits[i * CLASSES + c] = 2 * kd_rng_normal(&r);
            z[c] = kd_rng_normal(&r) +
                   (c % 211 < 2 && c / 211 * 2 < KEPT && c % 211 + c / 211 * 2 < KEPT ? 6 : 0);
            max = fmax(max, z[c]);
        }
        for (int k = 0; k < 2; k++)
            for (int c = 0; c < CLASSES; c++) sum[k] += exp((z[c] - max) / temperatures[k]);
        for (int c = 0; c < CLASSES && i != 4; c++)
            if (c % 211 < 2 && c % 211 + c / 211 * 2 < KEPT) {
                const double logp = z[c] - max - log(sum[0]);
                x->id[n] = (uint32_t)c;
                x->value[n++] = (float)(weights ? 1.02 * exp(logp) : logp);
                for (int k = 0; k < 2; k++) kept[k] += exp((z[c] - max) / temperatures[k]) / sum[k];
            }
        for (int k = 0; k < 2; k++) {
            x->tail[2 * i + k] = (float)(1 - kept[k]);
            x->logz[2 * i + k] = (float)log(sum[k]);
        }
    }
    x->offset[ROWS] = n;
    x->sparse = (kd_loss_sparse){.offset = x->offset,
                                 .id = x->id,
                                 .value = x->value,
                                 .temperatures = weights ? 0 : 2,
                                 .temperature = temperatures,
                                 .tail = x->tail,
                                 .logz = x->logz};
    for (int i = 0; i < 2; i++) x->in[i].sparse = &x->sparse;
}

static kd_loss *make_loss(const char *terms)
{
    kd_loss *l;
    kd_err e = {0};
    kd_loss_spec spec = {0};
    char *text = strdup(terms), *save = NULL, *list[4];
    for (char *t = strtok_r(text, ";", &save); t; t = strtok_r(NULL, ";", &save)) list[spec.terms.n++] = t;
    spec.terms.v = list;
    kd_loss_shape shape = {
        .rows = ROWS, .classes = CLASSES, .threads = 8, .temperatures = temperatures, .ntemperatures = 2};
    if (kd_loss_create(&l, &spec, &e) || kd_loss_plan(l, &shape, &e)) fail_msg("%s: %s", terms, e.msg);
    free(text);
    return l;
}

static kd_loss_batch batch_of(sample *x, float *grad)
{
    return (kd_loss_batch){.rows = ROWS,
                           .classes = CLASSES,
                           .logits = x->logits,
                           .labels = x->labels,
                           .dlogits = grad,
                           .inputs = x->in};
}

static const char *const mixes[] = {
    "name=ce",
    "name=ce,label_smoothing=0.1;name=sparse_kl,sparse=raw,weight=0.7",
    "name=sparse_kl,sparse=renorm",
    "name=sparse_kl,sparse=renorm,temperature=3,t2=on;name=ce,weight=0.2",
    "name=sparse_kl,sparse=raw,temperature=2",
    "name=sparse_kl,sparse=uniform,kl_form=cross_entropy",
    "name=sparse_kl,sparse=uniform,temperature=2;name=ce",
    "name=sparse_kl,sparse=bucket",
    "name=sparse_kl,sparse=bucket,temperature=2;name=ce,weight=0.3,label_smoothing=0.05",
    "name=sparse_kl,sparse=bucket,temperature=3,tail=power",
    "name=sparse_kl,sparse=sampled;name=ce,weight=0.3",
};

static void values_and_gradients_equal_those_in_double(void **state)
{
    (void)state;
    static sample x;
    static float fast[ROWS * CLASSES];
    for (size_t m = 0; m < KD_COUNT(mixes); m++) {
        make(&x, strstr(mixes[m], "sampled"));
        kd_loss *l = make_loss(mixes[m]);
        assert_true(l->vocab && kd_loss_in_place(l));
        kd_loss_batch b = batch_of(&x, x.grad), own = batch_of(&x, fast);
        l->vocab = false;
        kd_loss_run(l, &b);
        const double want = kd_loss_value(l);
        double scale = 0, twin = kd_loss_naive(l, &b);
        l->vocab = true;
        memcpy(fast, x.logits, sizeof fast);
        own.logits = fast; // in place
        kd_loss_run(l, &own);
        const double got = kd_loss_value(l);
        if (!(fabs(got - want) <= 2e-6 * fmax(1, fabs(want))) ||
            !(fabs(got - twin) <= 2e-6 * fmax(1, fabs(twin))))
            fail_msg("%s: %.9g, in double %.9g, by the formula %.9g", mixes[m], got, want, twin);
        for (int i = 0; i < ROWS * CLASSES; i++) scale = fmax(scale, fabs((double)x.grad[i]));
        for (int i = 0; i < ROWS * CLASSES; i++)
            if (!(fabs((double)fast[i] - (double)x.grad[i]) <= 2e-6 * scale))
                fail_msg("%s: row %d, class %d: gradient %.7g, want %.7g", mixes[m], i / CLASSES, i % CLASSES,
                         (double)fast[i], (double)x.grad[i]);
        own.logits = x.logits, own.dlogits = NULL; // the value alone
        kd_loss_run(l, &own);
        assert_true(kd_loss_value(l) == got);
        kd_loss_free(l);
    }
}

/* Logits of 11 bits: the same as for these numbers in f32, but that the gradient is rounded to 8 bits. */
static void logits_and_gradients_may_be_of_16_bits(void **state)
{
    (void)state;
    static sample x;
    static float got[ROWS * CLASSES];
    static uint16_t half[ROWS * CLASSES];
    for (size_t m = 0; m < KD_COUNT(mixes); m++) {
        make(&x, strstr(mixes[m], "sampled"));
        x.logits[5] = 1e-6f, x.logits[6] = -0.0f; // a denormal of f16
        kd_from_f32(half, KD_F16, x.logits, ROWS * CLASSES);
        kd_to_f32(x.logits, half, KD_F16, ROWS * CLASSES);
        kd_loss *l = make_loss(mixes[m]);
        assert_true(kd_loss_takes_half(l));
        kd_loss_batch b = batch_of(&x, x.grad), own = batch_of(&x, NULL);
        own.logits = NULL, own.half = half;
        kd_loss_run(l, &b);
        const double want = kd_loss_value(l);
        kd_loss_run(l, &own);
        assert_true(kd_loss_value(l) == want);
        assert_memory_equal(kd_loss_row(l, &own, 1), x.logits + CLASSES, CLASSES * sizeof(float));
        assert_ptr_equal(kd_loss_row(l, &b, 1), x.logits + CLASSES);
        own.dhalf = half; // in place
        kd_loss_run(l, &own);
        assert_true(kd_loss_value(l) == want);
        kd_to_f32(got, half, KD_BF16, ROWS * CLASSES);
        for (int i = 0; i < ROWS * CLASSES; i++)
            if (!(fabsf(got[i] - x.grad[i]) <= fabsf(x.grad[i]) / 256))
                fail_msg("%s: row %d, class %d: gradient %.7g, want %.7g", mixes[m], i / CLASSES, i % CLASSES,
                         (double)got[i], (double)x.grad[i]);
        kd_loss_free(l);
    }
    kd_loss *dense = make_loss("name=sparse_tvd");
    assert_false(kd_loss_takes_half(dense));
    kd_loss_free(dense);
}

static void pieces_of_a_batch_add_up_to_it(void **state)
{
    (void)state;
    static sample x;
    static float whole[ROWS * CLASSES];
    make(&x, false);
    kd_loss *l = make_loss("name=sparse_kl,sparse=bucket,temperature=2;name=ce;name=sparse_tvd");
    for (int fast = 0; fast < 2; fast++) { // three terms go row by row, two by the kernels of this file
        if (fast) {
            kd_loss_free(l);
            l = make_loss(mixes[8]);
        }
        kd_loss_batch b = batch_of(&x, whole);
        kd_loss_input in[3] = {{.sparse = &x.sparse}, {.sparse = &x.sparse}, {.sparse = &x.sparse}};
        b.inputs = in;
        assert_int_equal(l->vocab, fast);
        kd_loss_run(l, &b);
        const double want = kd_loss_value(l);
        double sum = 0;
        for (int first = 0; first < ROWS; first += 4) {
            kd_loss_sparse s = x.sparse;
            s.offset += first, s.tail += 2 * first, s.logz += 2 * first;
            for (int i = 0; i < 3; i++) in[i].sparse = &s;
            kd_loss_batch p = b;
            p.rows = ROWS - first < 4 ? ROWS - first : 4;
            p.logits += first * CLASSES, p.labels += first, p.dlogits = x.grad + first * CLASSES;
            p.of = ROWS - 1; // one has no label
            kd_loss_run(l, &p);
            sum += kd_loss_value(l);
        }
        assert_true(fabs(sum - want) < 1e-12 * fabs(want));
        assert_memory_equal(whole, x.grad, sizeof whole);
    }
    kd_loss_free(l);
}

static void bits_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    static sample x;
    static float want[ROWS * CLASSES];
    make(&x, false);
    kd_loss *l = make_loss(mixes[8]);
    kd_loss_batch b = batch_of(&x, x.grad);
    kd_loss_run(l, &b);
    const double value = kd_loss_value(l);
    memcpy(want, x.grad, sizeof want);
    static const int threads[] = {2, 3, 8};
    for (size_t i = 0; i < KD_COUNT(threads); i++) {
#pragma omp parallel num_threads(threads[i])
        kd_loss_run(l, &b);
        assert_true(kd_loss_value(l) == value);
        assert_memory_equal(want, x.grad, sizeof want);
    }
    kd_loss_free(l);
}

static void every_instruction_set_sums_alike(void **state)
{
    (void)state;
    static sample x;
    static const kd__vocab_vec *const all[] = {&kd__vocab_vec_scalar, &kd__vocab_vec_avx2,
                                               &kd__vocab_vec_avx512};
    make(&x, false);
    static uint16_t half[CLASSES], want_half[CLASSES];
    static float wide[CLASSES], want_wide[CLASSES];
    x.logits[3] = NAN, x.logits[7] = INFINITY, x.logits[9] = 1e-6f;
    kd_from_f32(want_half, KD_BF16, x.logits, CLASSES);
    kd_to_f32(want_wide, want_half, KD_F16, CLASSES);
    for (int isa = KD_ISA_SCALAR; isa <= KD_ISA_AVX512 && isa <= (int)kd_cpu_isa(); isa++) {
        all[isa]->to_bf16(half, x.logits, CLASSES);
        assert_memory_equal(half, want_half, sizeof half);
        all[isa]->from_f16(wide, half, CLASSES); // any bits will do
        assert_memory_equal(wide, want_wide, sizeof wide);
    }
    make(&x, false);
    for (int n = 0; n <= CLASSES; n += n < 70 ? 1 : 347)
        for (int both = 0; both < 2; both++) {
            double want[3] = {0};
            for (int i = 0; i < n; i++) {
                const double v = (double)x.logits[i] - 9;
                want[0] += exp(v / 2), want[1] += both ? exp(v) : 0, want[2] += v;
            }
            for (int isa = KD_ISA_SCALAR; isa <= KD_ISA_AVX512 && isa <= (int)kd_cpu_isa(); isa++) {
                double sum[3] = {0};
                all[isa]->sums(x.logits, n, 9, 0.5f, both, sum);
                for (int k = 0; k < 3; k++)
                    if (!(fabs(sum[k] - want[k]) <= 3e-6 * fabs(want[k])))
                        fail_msg("isa %d, %d classes, sum %d: %.9g, want %.9g", isa, n, k, sum[k], want[k]);
            }
        }
}

static void the_likeliest_class_and_its_logarithm(void **state)
{
    (void)state;
    static sample x;
    make(&x, false);
    for (int i = 0; i < ROWS; i++) {
        float *z = x.logits + i * CLASSES;
        double sum = 0;
        int top = 0;
        bool first;
        for (int c = 0; c < CLASSES; c++) {
            sum += exp((double)z[c]);
            if (z[c] > z[top]) top = c;
        }
        assert_true(fabs(kd_loss_nll(z, CLASSES, top, &first) - (log(sum) - (double)z[top])) < 1e-5);
        assert_true(first);
        kd_loss_nll(z, CLASSES, (top + 1) % CLASSES, &first);
        assert_false(first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_gradients_equal_those_in_double),
        cmocka_unit_test(logits_and_gradients_may_be_of_16_bits),
        cmocka_unit_test(pieces_of_a_batch_add_up_to_it),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(every_instruction_set_sums_alike),
        cmocka_unit_test(the_likeliest_class_and_its_logarithm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
