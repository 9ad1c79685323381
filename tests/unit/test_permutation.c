/* The permutation that is a function: every number once, its inverse, and no pattern that a shuffled list
 * would not have. */
#include "check.h"
#include "kd/config.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static kd_permutation of(uint64_t n, uint64_t seed)
{
    kd_permutation p;
    kd_permutation_init(&p, n, seed, KD_RNG_TEST, 0);
    return p;
}

static void every_number_comes_once_for_all_n_up_to_5000(void **state)
{
    (void)state;
    static uint32_t seen[5000]; // the last n that had this element
    for (uint32_t n = 1; n <= 5000; n++) {
        kd_permutation p = of(n, n % 7);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t x = kd_permutation_at(&p, i);
            if (x >= n || seen[x] == n)
                fail_msg("n = %u: element %llu at place %u", n, (unsigned long long)x, i);
            seen[x] = n;
        }
    }
}

static void the_place_of_an_element_is_where_it_is(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {1,
                                     2,
                                     3,
                                     17,
                                     1u << 20,
                                     1000003,
                                     UINT32_MAX,
                                     (1ull << 32) + 1,
                                     1ull << 40,
                                     999999999989,
                                     (1ull << 56) - 1,
                                     1ull << 56};
    for (size_t k = 0; k < KD_COUNT(sizes); k++) {
        kd_permutation p = of(sizes[k], k);
        for (uint64_t i = 0; i < 500; i++) {
            uint64_t place = i * 0x9E3779B97F4A7C15u % sizes[k], x = kd_permutation_at(&p, place);
            assert_true(x < sizes[k]);
            assert_int_equal(kd_permutation_place(&p, x), place);
        }
    }
}

static void seed_and_place_of_use_make_other_permutations(void **state)
{
    (void)state;
    kd_permutation p[4];
    kd_permutation_init(&p[0], 1000, 1, KD_RNG_TEST, 0);
    kd_permutation_init(&p[1], 1000, 2, KD_RNG_TEST, 0);
    kd_permutation_init(&p[2], 1000, 1, KD_RNG_TEST, 1);
    kd_permutation_init(&p[3], 1000, 1, KD_RNG_CHUNKS, 0);
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < a; b++) {
            int same = 0;
            for (uint64_t i = 0; i < 1000; i++)
                same += kd_permutation_at(&p[a], i) == kd_permutation_at(&p[b], i);
            assert_in_range(same, 0, 9); // 1 expected
        }
}

/* Orders of runs rely on it: it must not change from version to version. */
static void the_numbers_are_those_of_the_first_release(void **state)
{
    (void)state;
    static const uint64_t ten[10] = {6, 7, 5, 4, 2, 1, 3, 8, 9, 0};
    kd_permutation p = of(10, 42), big = of(1ull << 40, 42);
    for (uint64_t i = 0; i < 10; i++) assert_int_equal(kd_permutation_at(&p, i), ten[i]);
    assert_int_equal(kd_permutation_at(&big, 12345), 770247679792);
}

/* ---- statistics: 20000 seeds, so the same figures in every run ------------------------------ */

enum { SEEDS = 20000 };

/* chi square of counts that should be equal, as standard deviations above its mean */
static double excess(const uint32_t *count, size_t n, double total)
{
    double want = total / (double)n, chi = 0;
    for (size_t i = 0; i < n; i++) chi += (count[i] - want) * (count[i] - want) / want;
    return (chi - (double)(n - 1)) / sqrt(2.0 * (double)(n - 1));
}

static void all_orders_of_a_few_are_equally_frequent(void **state)
{
    (void)state;
    for (uint32_t n = 2; n <= 5; n++) {
        uint32_t count[3125] = {0}, used[120], orders = 0, all = 1;
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            kd_permutation p = of(n, seed);
            uint32_t code = 0;
            for (uint32_t i = 0; i < n; i++) code = code * n + (uint32_t)kd_permutation_at(&p, i);
            count[code]++;
        }
        for (uint32_t i = 2; i <= n; i++) all *= i;
        for (uint32_t i = 0; i < KD_COUNT(count); i++)
            if (count[i]) assert_true(orders < 120), used[orders++] = count[i];
        assert_int_equal(orders, all);
        double x = excess(used, orders, SEEDS);
        if (fabs(x) > 4) fail_msg("orders of %u: chi square is %.2f standard deviations off", n, x);
    }
}

static void near(double got, double want, double share)
{
    if (!(fabs(got - want) <= share * want))
        fail_msg("%.6g, expected %.6g within %g of it", got, want, share);
}

/* For some n: every element is at every place equally often, fixed points and rising neighbours number one on
 * average with a variance of one, and elements travel as far as in a shuffled list. */
static void nothing_tells_it_from_a_shuffled_list(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {7, 16, 33, 64};
    for (size_t k = 0; k < KD_COUNT(sizes); k++) {
        const uint32_t n = sizes[k];
        uint32_t *at = calloc((size_t)n * n, sizeof(*at)), *next = calloc((size_t)n * n, sizeof(*next));
        double fixed = 0, fixed2 = 0, rising = 0, way = 0;
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            kd_permutation p = of(n, seed);
            uint32_t f = 0, x[64];
            for (uint32_t i = 0; i < n; i++) {
                x[i] = (uint32_t)kd_permutation_at(&p, i);
                at[i * n + x[i]]++;
                f += x[i] == i;
                way += fabs((double)x[i] - i);
            }
            for (uint32_t i = 0; i + 1 < n; i++) rising += x[i + 1] == x[i] + 1, next[x[i] * n + x[i + 1]]++;
            fixed += f;
            fixed2 += (double)f * f;
        }
        for (uint32_t i = 0; i < n; i++) next[i * n + i] = next[1]; // never its own neighbour
        double e = excess(at, (size_t)n * n, (double)SEEDS * n), mean = fixed / SEEDS;
        if (fabs(e) > 4) fail_msg("places of %u: chi square is %.2f standard deviations off", n, e);
        e = excess(next, (size_t)n * n, (double)SEEDS * (n - 1) + (double)n * next[1]);
        if (fabs(e) > 4) fail_msg("neighbours of %u: chi square is %.2f standard deviations off", n, e);
        near(mean, 1, 0.02);
        near(fixed2 / SEEDS - mean * mean, 1, 0.04);
        near(rising / SEEDS, (n - 1.0) / n, 0.02);
        near(way / SEEDS, ((double)n * n - 1) / 3, 0.01);
        free(at);
        free(next);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_comes_once_for_all_n_up_to_5000),
        cmocka_unit_test(the_place_of_an_element_is_where_it_is),
        cmocka_unit_test(seed_and_place_of_use_make_other_permutations),
        cmocka_unit_test(the_numbers_are_those_of_the_first_release),
        cmocka_unit_test(all_orders_of_a_few_are_equally_frequent),
        cmocka_unit_test(nothing_tells_it_from_a_shuffled_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
