/* test_gemm.c - matrix products by tiles: right for every shape and layout, the same bits for any
 * number of threads. */
#include "../../lib/nn/nn_private.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct operands {
    float *a, *b, *bias, *c;
    size_t floats_c;
} operands;

static float *numbers(size_t n, uint32_t stream)
{
    kd_rng r;
    kd_rng_init(&r, 7, KD_RNG_TEST, stream, 0);
    float *x = kd_alloc_aligned(n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = kd_rng_normal(&r);
    return x;
}

static operands make_operands(const kd__gemm_desc *d)
{
    const size_t m = (size_t)d->m, n = (size_t)d->n, k = (size_t)d->k;
    operands o = {.floats_c = m * (size_t)d->ldc};
    o.a = numbers((d->ta ? k : m) * (size_t)d->lda, 1);
    o.b = numbers((d->tb ? n : k) * (size_t)d->ldb, 2);
    o.bias = numbers(n, 3);
    o.c = numbers(o.floats_c, 4); // what accumulate adds to, and what lies between the rows
    return o;
}

static void free_operands(operands *o)
{
    free(o->a);
    free(o->b);
    free(o->bias);
    free(o->c);
}

/* The twin: plain loops in double. */
static void plain_product(const kd__gemm_desc *d, const operands *o, float *c)
{
    for (int64_t i = 0; i < d->m; i++)
        for (int64_t j = 0; j < d->n; j++) {
            double sum = d->accumulate ? (double)c[i * d->ldc + j] : d->bias ? (double)o->bias[j] : 0.0;
            for (int64_t l = 0; l < d->k; l++)
                sum += (double)o->a[d->ta ? l * d->lda + i : i * d->lda + l] *
                       (double)o->b[d->tb ? j * d->ldb + l : l * d->ldb + j];
            c[i * d->ldc + j] = d->relu && sum < 0 ? 0.0f : (float)sum;
        }
}

static void run(const kd__gemm_desc *d, const operands *o, float *c, int threads)
{
    kd_err err = {0};
    kd__team *team = NULL;
    kd__gemm *g = NULL;
    if (kd__team_create(&team, threads, &err) || kd__gemm_create(&g, d, team, &err)) fail_msg("%s", err.msg);
    const kd__gemm_call call = {g, o->a, o->b, d->bias ? o->bias : NULL, c, 0};
#pragma omp parallel num_threads(threads)
    kd__gemm_run(&call, 1);
    kd__gemm_free(g);
    kd__team_free(team);
}

static float *copy(const float *x, size_t n)
{
    float *y = kd_alloc_aligned(n, sizeof *y);
    assert_non_null(y);
    return memcpy(y, x, n * sizeof *x);
}

/* || got - want || / || want || */
static double distance(const float *got, const float *want, size_t n)
{
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        diff += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    return sqrt(diff / (norm > 0 ? norm : 1));
}

static void check(const kd__gemm_desc *d)
{
    operands o = make_operands(d);
    float *want = copy(o.c, o.floats_c), *got = copy(o.c, o.floats_c);
    plain_product(d, &o, want);
    run(d, &o, got, 2);
    const double dist = distance(got, want, o.floats_c);
    if (!(dist < 1e-6))
        fail_msg("%lld x %lld x %lld, ta %d, tb %d, bias %d, relu %d, accumulate %d: differs from plain "
                 "loops by %g",
                 (long long)d->m, (long long)d->n, (long long)d->k, d->ta, d->tb, d->bias, d->relu,
                 d->accumulate, dist);
    free(want);
    free(got);
    free_operands(&o);
}

static kd__gemm_desc dense(int64_t m, int64_t n, int64_t k, bool ta, bool tb)
{
    return (kd__gemm_desc){
        .m = m, .n = n, .k = k, .lda = ta ? m : k, .ldb = tb ? k : n, .ldc = n, .ta = ta, .tb = tb};
}

static const int64_t shapes[][3] = {
    {1, 1, 1},      {1, 10, 3},     {5, 7, 9},     {128, 10, 128}, {10, 128, 128},  {33, 65, 17},
    {128, 256, 64}, {130, 100, 70}, {257, 48, 31}, {16, 1000, 5},  {300, 300, 300}, {3, 500, 784},
};

static void equals_plain_loops_in_every_layout(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int t = 0; t < 4; t++) {
            const kd__gemm_desc d = dense(shapes[i][0], shapes[i][1], shapes[i][2], t & 1, t & 2);
            check(&d);
        }
}

static void bias_relu_and_accumulation_are_applied_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int v = 0; v < 4; v++) {
            kd__gemm_desc d = dense(shapes[i][0], shapes[i][1], shapes[i][2], v == 3, v != 3);
            d.bias = v == 0 || v == 1;
            d.relu = v == 1 || v == 2;
            d.accumulate = v == 3;
            check(&d);
        }
}

static void what_lies_between_the_rows_stays(void **state)
{
    (void)state;
    kd__gemm_desc d = dense(70, 90, 33, false, false);
    d.lda += 5;
    d.ldb += 3;
    d.ldc += 7;
    check(&d);
    d = dense(70, 90, 33, true, true);
    d.lda += 5;
    d.ldb += 3;
    d.ldc += 7;
    check(&d);
}

static void the_bits_do_not_depend_on_the_threads(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int t = 0; t < 4; t++) {
            const kd__gemm_desc d = dense(shapes[i][0], shapes[i][1], shapes[i][2], t & 1, t & 2);
            operands o = make_operands(&d);
            float *one = copy(o.c, o.floats_c);
            run(&d, &o, one, 1);
            static const int threads[] = {2, 3, 8};
            for (size_t j = 0; j < sizeof threads / sizeof *threads; j++) {
                float *many = copy(o.c, o.floats_c);
                run(&d, &o, many, threads[j]);
                if (memcmp(one, many, o.floats_c * sizeof *one))
                    fail_msg("%lld x %lld x %lld: %d threads give other bits than one", (long long)d.m,
                             (long long)d.n, (long long)d.k, threads[j]);
                free(many);
            }
            free(one);
            free_operands(&o);
        }
}

/* Outside any region, in a region of one thread, and nested in somebody else's region. */
static void runs_serially_wherever_it_is_called(void **state)
{
    (void)state;
    const kd__gemm_desc d = dense(130, 300, 100, false, true);
    operands o = make_operands(&d);
    float *want = copy(o.c, o.floats_c);
    plain_product(&d, &o, want);
    kd_err err = {0};
    kd__team *team[2] = {0};
    kd__gemm *g[2] = {0};
    float *c[2];
    for (int i = 0; i < 2; i++) {
        if (kd__team_create(&team[i], 1, &err) || kd__gemm_create(&g[i], &d, team[i], &err))
            fail_msg("%s", err.msg);
        c[i] = copy(o.c, o.floats_c);
    }
    const kd__gemm_call outside = {g[0], o.a, o.b, NULL, c[0], 0};
    const int limit = omp_get_max_threads();
    kd__gemm_run(&outside, 1);
    assert_int_equal(omp_get_max_threads(), limit);
    assert_true(distance(c[0], want, o.floats_c) < 1e-6);
    double dist[2] = {1, 1};
#pragma omp parallel num_threads(2)
    {
        const int i = omp_get_thread_num();
        const kd__gemm_call nested = {g[i], o.a, o.b, NULL, c[i], 0};
#pragma omp parallel num_threads(1)
        kd__gemm_run(&nested, 1);
        dist[i] = distance(c[i], want, o.floats_c);
    }
    assert_true(dist[0] < 1e-6 && dist[1] < 1e-6);
    for (int i = 0; i < 2; i++) {
        kd__gemm_free(g[i]);
        kd__team_free(team[i]);
        free(c[i]);
    }
    free(want);
    free_operands(&o);
}

static void independent_products_share_one_loop(void **state)
{
    (void)state;
    const kd__gemm_desc d[] = {dense(100, 70, 40, true, false), dense(40, 300, 70, false, false)};
    kd_err err = {0};
    kd__team *team = NULL;
    kd__gemm *g[2];
    operands o[2];
    float *want[2];
    kd__gemm_call call[2];
    assert_int_equal(kd__team_create(&team, 3, &err), KD_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kd__gemm_create(&g[i], &d[i], team, &err), KD_OK);
        o[i] = make_operands(&d[i]);
        want[i] = copy(o[i].c, o[i].floats_c);
        plain_product(&d[i], &o[i], want[i]);
        call[i] = (kd__gemm_call){g[i], o[i].a, o[i].b, NULL, o[i].c, 0};
    }
#pragma omp parallel num_threads(3)
    kd__gemm_run(call, 2);
    for (int i = 0; i < 2; i++) {
        assert_true(distance(o[i].c, want[i], o[i].floats_c) < 1e-6);
        free(want[i]);
        free_operands(&o[i]);
        kd__gemm_free(g[i]);
    }
    kd__team_free(team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_plain_loops_in_every_layout),
        cmocka_unit_test(bias_relu_and_accumulation_are_applied_once),
        cmocka_unit_test(what_lies_between_the_rows_stays),
        cmocka_unit_test(the_bits_do_not_depend_on_the_threads),
        cmocka_unit_test(runs_serially_wherever_it_is_called),
        cmocka_unit_test(independent_products_share_one_loop),
    };
    return cmocka_run_group_tests_name("gemm", tests, NULL, NULL);
}
