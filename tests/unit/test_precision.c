/* test_precision.c - bf16 precision of a whole graph: rounding, what is kept and planned, equal bits,
 * refusals. */
#include "nn_fixture.h"
#include "kd/config.h"

static const kd__operands form[] = {KD__ROUNDED, KD__BF16, KD__TILES};

static bool able(void) { return !kd_nn_check_precision(KD_PRECISION_BF16, NULL); }

/* Convolutions with batch norms on both sides, one that is added to, and linear layers. */
static fx_net network(kd__operands operands)
{
    fx_net n = {.g = kd_graph_create(), .outs = 1};
    assert_non_null(n.g);
    n.in = kd_nn_input(n.g, "x", 3, (int64_t[]){8, 8, 3});
    kd_node x = kd_nn_conv2d(n.g, "c0", n.in, 16, 3, 1, 1, false);
    x = kd_nn_relu(n.g, "r0", kd_nn_batchnorm(n.g, "b0", x, 0.1f, 1e-5f));
    kd_node y = kd_nn_conv2d(n.g, "c1", x, 16, 3, 1, 1, false);
    y = kd_nn_add(n.g, "sum", kd_nn_batchnorm(n.g, "b1", y, 0.1f, 1e-5f),
                  kd_nn_conv2d(n.g, "c2", x, 16, 1, 1, 0, true));
    y = kd_nn_global_avgpool(n.g, "pool", kd_nn_relu(n.g, "r1", y));
    n.out[0] =
        kd_nn_linear(n.g, "fc1", kd_nn_relu(n.g, "r2", kd_nn_linear(n.g, "fc0", y, 40, true)), 10, true);
    fx_finish(&n);
    n.g->operands = operands;
    return n;
}

static fx_pass train(const fx_net *n, kd_precision precision, int threads, bool naive)
{
    const kd_exec_params how = {
        .batch = 19, .threads = threads, .training = true, .precision = precision, .naive = naive};
    float *x = fx_normal(19 * 8 * 8 * 3, 1);
    fx_pass r = fx_train(n, &how, x);
    free(x);
    return r;
}

static void rounding_is_to_nearest_even_at_every_instruction_set(void **state)
{
    (void)state;
    const kd_isa isa = kd_cpu_isa();
    const kd__vec *vec[] = {&kd__vec_scalar, isa >= KD_ISA_AVX2 ? &kd__vec_avx2 : &kd__vec_scalar,
                            kd__vec_get()};
    enum { N = 1003 };
    static float x[N], y[N], want[N];
    static uint16_t h[N], want_h[N];
    float *random = fx_normal(N, 3);
    memcpy(x, random, sizeof x);
    free(random);
    const float odd[] = {0.0f,       -0.0f,     INFINITY,  -INFINITY,     NAN,
                         3.4028e38f, 0x1.01p0f, 0x1.03p0f, 0x1.010002p0f, 1e-40f};
    memcpy(x, odd, sizeof odd);
    memset(&x[KD_COUNT(odd)], 0x7F,
           sizeof(float)); // its bits but for the sign's are set, nearly: a NaN that a carry
    memset(&x[KD_COUNT(odd) + 1], 0xFF, sizeof(float)); // would turn into -0 and 0
    kd_from_f32(want_h, KD_BF16, x, N);
    kd_to_f32(want, want_h, KD_BF16, N);
    for (size_t i = 0; i < KD_COUNT(vec); i++) {
        vec[i]->round_bf16(y, x, N);
        vec[i]->to_bf16(h, x, N);
        assert_memory_equal(y, want, sizeof want);
        assert_memory_equal(h, want_h, sizeof want_h);
    }
    assert_true(want[6] == 1.0f && want[7] == 0x1.04p0f && want[8] == 0x1.02p0f); // ties go to even
    kd_from_f32(want_h, KD_F16, x, N);
    for (size_t i = 0; i < KD_COUNT(vec); i++) {
        vec[i]->to_f16(h, x, N);
        assert_memory_equal(h, want_h, sizeof want_h);
    }
}

static void numbers_that_are_bf16_are_paired_as_those_that_become_it(void **state)
{
    (void)state;
    enum { K = 7, N = 45, ROOM = (K + 1) / 2 * 64 };
    const kd_isa isa = kd_cpu_isa();
    const kd__panel_kernels *all[] = {&kd__panels_scalar,
                                      isa >= KD_ISA_AVX2 ? &kd__panels_avx2 : &kd__panels_scalar,
                                      isa >= KD_ISA_AVX512 ? &kd__panels_avx512 : &kd__panels_scalar,
                                      kd__panels_get()};
    float *x = fx_normal(K * N, 3), want[ROOM] = {0}, got[ROOM] = {0};
    uint16_t h[K * N];
    kd_from_f32(h, KD_BF16, x, K * N);
    for (size_t i = 0; i < KD_COUNT(all); i++)
        for (size_t k = 1; k <= K; k++)
            for (size_t n = 8; n < N; n += 8) { // panels are whole, or zeros
                all[i]->pack_rows(want, x, N, k, n, KD__BF16);
                all[i]->turn_pairs(got, h, N, k, n);
                assert_memory_equal(got, want, (k + 1) / 2 * n * sizeof *got);
            }
    free(x);
}

/* But for denormals, which bf16 instructions take for zeros. */
static void pairs_are_rounded_to_nearest_even(void **state)
{
    (void)state;
    if (kd_cpu_isa() < KD_ISA_AVX512BF16) skip();
    enum { N = 48 };
    static const float odd[] = {0.0f,       -0.0f,     INFINITY,  -INFINITY,
                                3.4028e38f, 0x1.01p0f, 0x1.03p0f, 0x1.010002p0f};
    float *a = fx_normal(N, 3), *b = fx_normal(N, 4);
    uint16_t want_a[N], want_b[N], got[2 * N], neighbours[N];
    memcpy(a, odd, sizeof odd);
    kd_from_f32(want_a, KD_BF16, a, N);
    kd_from_f32(want_b, KD_BF16, b, N);
    kd__rows_bf16_avx512bf16.neighbours((float *)neighbours, a, N);
    kd__rows_bf16_avx512bf16.couples((float *)got, a, b, N);
    assert_memory_equal(neighbours, want_a, sizeof want_a);
    for (size_t i = 0; i < N; i++) assert_true(got[2 * i] == want_a[i] && got[2 * i + 1] == want_b[i]);
    free(a);
    free(b);
}

static void a_graph_in_bf16_equals_its_twin(void **state)
{
    (void)state;
    if (!able()) skip();
    for (size_t i = 0; i < KD_COUNT(form); i++) {
        fx_net n = network(form[i]);
        fx_pass fast = train(&n, KD_PRECISION_BF16, 2, false), twin = train(&n, KD_PRECISION_BF16, 1, true),
                f32 = train(&n, KD_PRECISION_F32, 2, false);
        // what differs by a rounding of f32 may be rounded to another bf16 number in the next layer
        fx_passes_close("bf16", &fast, &twin, 3e-3);
        fx_passes_close("bf16 beside f32", &fast, &f32, 3e-2);
        assert_memory_not_equal(fast.y[0], f32.y[0], f32.ys[0] * sizeof(float));
        fx_free(&fast);
        fx_free(&twin);
        fx_free(&f32);
        kd_graph_free(n.g);
    }
}

static void the_bits_do_not_depend_on_the_threads(void **state)
{
    (void)state;
    if (!able()) skip();
    static const int threads[] = {2, 3, 8};
    for (size_t i = 0; i < KD_COUNT(form); i++) {
        fx_net n = network(form[i]);
        fx_pass one = train(&n, KD_PRECISION_BF16, 1, false);
        for (size_t t = 0; t < KD_COUNT(threads); t++) {
            fx_pass many = train(&n, KD_PRECISION_BF16, threads[t], false);
            fx_passes_same("threads", &many, &one);
            fx_free(&many);
        }
        fx_free(&one);
        kd_graph_free(n.g);
    }
}

/* One linear layer: x, W and dy are kept as operands, and the plan counts them. */
static void operands_are_in_the_plan(void **state)
{
    (void)state;
    if (!able()) skip();
    for (size_t i = 0; i < KD_COUNT(form); i++) {
        fx_net n = {.g = kd_graph_create(), .outs = 1};
        n.in = kd_nn_input(n.g, "x", 1, (int64_t[]){64});
        n.out[0] = kd_nn_linear(n.g, "fc", n.in, 48, true);
        fx_finish(&n);
        n.g->operands = form[i];
        kd_exec *f32 = NULL, *half = NULL;
        kd_exec_params how = {.batch = 32, .threads = 1, .training = true};
        OK(kd_exec_create(&f32, n.g, &how, err));
        how.precision = KD_PRECISION_BF16;
        OK(kd_exec_create(&half, n.g, &how, err));
        const size_t numbers = 32 * 64 + 48 * 64 + 32 * 48;
        assert_int_equal((half->arena_floats - f32->arena_floats) * sizeof(float),
                         numbers * (form[i] == KD__ROUNDED ? 4 : 2));
        kd_exec_free(f32);
        kd_exec_free(half);
        kd_graph_free(n.g);
    }
}

/* Weights that do not change are rounded once: two passes, the bits of those that round them each time. */
static void fixed_weights_give_the_same_bits(void **state)
{
    (void)state;
    if (!able()) skip();
    for (size_t i = 0; i < KD_COUNT(form); i++) {
        fx_net n = network(form[i]);
        kd_exec *ex[2];
        for (int fixed = 0; fixed < 2; fixed++) {
            const kd_exec_params how = {.batch = 19,
                                        .threads = 2,
                                        .precision = KD_PRECISION_BF16,
                                        .fixed = fixed};
            OK(kd_exec_create(&ex[fixed], n.g, &how, err));
        }
        for (uint32_t pass = 1; pass < 3; pass++) {
            float *x = fx_normal(19 * 8 * 8 * 3, pass);
            for (int k = 0; k < 2; k++) {
                memcpy(kd_exec_input(ex[k], n.in), x, 19 * 8 * 8 * 3 * sizeof *x);
                kd_exec_run_forward(ex[k]);
            }
            assert_memory_equal(kd_exec_value(ex[0], n.out[0]), kd_exec_value(ex[1], n.out[0]),
                                19 * 10 * sizeof *x);
            free(x);
        }
        kd_exec_free(ex[0]);
        kd_exec_free(ex[1]);
        kd_graph_free(n.g);
    }
}

static void a_precision_has_a_name(void **state)
{
    (void)state;
    kd_precision p = KD_PRECISION_F32;
    assert_true(kd_precision_parse("bf16", &p) && p == KD_PRECISION_BF16);
    assert_true(kd_precision_parse("f32", &p) && p == KD_PRECISION_F32);
    assert_false(kd_precision_parse("f16", &p));
    assert_string_equal(kd_nn_products(KD_PRECISION_F32), "f32");
    assert_non_null(strstr(kd_nn_products(KD_PRECISION_BF16), "bf16"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_is_to_nearest_even_at_every_instruction_set),
        cmocka_unit_test(numbers_that_are_bf16_are_paired_as_those_that_become_it),
        cmocka_unit_test(pairs_are_rounded_to_nearest_even),
        cmocka_unit_test(a_graph_in_bf16_equals_its_twin),
        cmocka_unit_test(the_bits_do_not_depend_on_the_threads),
        cmocka_unit_test(operands_are_in_the_plan),
        cmocka_unit_test(fixed_weights_give_the_same_bits),
        cmocka_unit_test(a_precision_has_a_name),
    };
    return cmocka_run_group_tests_name("precision", tests, NULL, NULL);
}
