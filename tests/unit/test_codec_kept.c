/* test_codec_kept.c - what topk, sample and head-tail keep, against what they say they keep: the largest
 * classes and the mass of the others, and estimates that are right on average. */
#include "codec_fixture.h"

static kd_sparse targets_of(const char *text, const float *v, size_t positions, size_t width)
{
    kd_codec *c = opened(text, (int64_t)width);
    kd_buf b = encoded(c, v, positions);
    kd_sparse s = decoded(c, &b, positions);
    kd_buf_release(&b);
    kd_codec_close(c);
    return s;
}

static const size_t widths[] = {1, 2, 10, 63, 64, 65, 1000, 5000};

/* ---- softmax and draws -------------------------------------------------------------------- */

/* A block's sum as the document states it: eight lanes, then halves. */
static double plain_sum(const kd__softmax *s, size_t b)
{
    double lane[8] = {0};
    for (size_t i = 0; i < 64 && 64 * b + i < s->width; i++)
        lane[i % 8] += kd_codec_exp(((double)s->z[64 * b + i] - s->top) * s->r);
    for (int half = 4; half; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    return lane[0];
}

static void sums_have_the_same_bits_on_every_instruction_set(void **state)
{
    (void)state;
    static const kd__class_loops *const sets[] = {&kd__class_loops_scalar, &kd__class_loops_avx2,
                                                  &kd__class_loops_avx512};
    const size_t can = kd_cpu_isa() >= KD_ISA_AVX512 ? 3 : kd_cpu_isa() >= KD_ISA_AVX2 ? 2 : 1;
    for (size_t w = 0; w < KD_COUNT(widths); w++) {
        float *v = teacher(1, widths[w], 20);
        v[widths[w] / 2] = -3e38f; // weight 0
        for (size_t k = 0; k < can; k++) {
            kd__softmax s;
            double total = 0;
            assert_true(kd__softmax_init(&s, (int64_t)widths[w]));
            s.loops = sets[k];
            assert_true(kd__softmax_take(&s, v));
            kd__softmax_at(&s, 1.7);
            for (size_t b = 0; b < s.blocks; b++) {
                double one[KD__BLOCK];
                kd__softmax_block(&s, b, one);
                assert_true(s.sum[b] == plain_sum(&s, b) && s.sum[b] == kd__softmax_sum(&s, one));
                total += s.sum[b];
            }
            assert_true(s.total == total);
            kd__softmax_release(&s);
        }
        free(v);
    }
}

static void draws_are_philox_keyed_by_seed_row_and_position(void **state)
{
    (void)state;
    const kd_id row = {{1, 2, 3, 250}};
    const uint8_t key[24] = {5, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 250};
    const uint64_t hash = kd_hash64(key, sizeof key);
    kd_rng r = kd__draws(261, row, 9);
    for (uint32_t block = 0; block < 3; block++) {
        uint32_t x[4];
        kd_philox((const uint32_t[]){block, 7, 9, 0},
                  (const uint32_t[]){(uint32_t)hash, (uint32_t)(hash >> 32)}, x);
        for (int j = 0; j < 4; j += 2) {
            const uint64_t both = (uint64_t)x[j + 1] << 32 | x[j];
            assert_true(kd__draw(&r) == (double)(both / 2048) / 0x1p53);
        }
    }
}

/* ---- topk --------------------------------------------------------------------------------- */

/* Whether class a stands before class b among the largest. */
static bool before(const float *v, size_t a, size_t b) { return v[a] > v[b] || (v[a] == v[b] && a < b); }

static void topk_keeps_the_largest_and_of_equal_ones_the_first(void **state)
{
    (void)state;
    for (size_t w = 0; w < KD_COUNT(widths); w++)
        for (int coarse = 0; coarse < 2; coarse++) {
            const size_t width = widths[w], n = 4;
            float *v = teacher(n, width, 1);
            for (size_t i = 0; coarse && i < n * width; i++)
                v[i] = rintf(v[i] / 4); // many are equal; also -0
            kd_sparse s = targets_of("topk:k=20", v, n, width);
            for (size_t i = 0; i < n; i++) {
                assert_int_equal(s.offset[i + 1] - s.offset[i], kd_min_size(20, width));
                for (uint64_t k = s.offset[i]; k < s.offset[i + 1]; k++) {
                    size_t ahead = 0;
                    for (size_t j = 0; j < width; j++) ahead += before(v + i * width, j, s.id[k]);
                    assert_true(ahead < 20);
                }
            }
            kd_sparse_release(&s);
            free(v);
        }
}

static void topk_numbers_are_as_exact_as_stated(void **state)
{
    (void)state;
    static const double T[] = {4, 1, 0.5};
    for (size_t w = 0; w < KD_COUNT(widths); w++) {
        const size_t width = widths[w], n = 3;
        float *v = teacher(n, width, 2);
        double *p = malloc(width * sizeof *p);
        kd_sparse s = targets_of("topk:k=30,step=0.125,temperatures=4+1+0.5", v, n, width);
        assert_non_null(p);
        assert_int_equal(s.temperatures, 3);
        for (size_t i = 0; i < n; i++) {
            softmax(v + i * width, width, 1, p);
            for (uint64_t k = s.offset[i]; k < s.offset[i + 1]; k++)
                assert_true(fabs((double)s.value[k] - log(p[s.id[k]])) <= 0.125 / 2 + 1.0 / 4096 + 1e-6);
            for (size_t t = 0; t < 3; t++) {
                double tail = 0, most = 0;
                softmax(v + i * width, width, T[t], p);
                for (size_t j = 0; j < width; j++) most = fmax(most, p[j]);
                for (uint64_t k = s.offset[i]; k < s.offset[i + 1]; k++) p[s.id[k]] = 0;
                for (size_t j = 0; j < width; j++) tail += p[j];
                assert_true(s.temperature[t] == T[t]);
                assert_true(fabs((double)s.logz[3 * i + t] + log(most)) <= 1.0 / 4096 + 1e-6);
                assert_true(fabs((double)s.tail[3 * i + t] - tail) <= tail / 2000);
            }
        }
        kd_sparse_release(&s);
        free(p);
        free(v);
    }
}

static void topk_of_all_classes_has_no_tail(void **state)
{
    (void)state;
    for (size_t w = 0; w < KD_COUNT(widths); w++) {
        const size_t width = widths[w];
        float *v = teacher(2, width, 3);
        kd_sparse s = targets_of("topk:k=65535,step=0.05", v, 2, width);
        for (size_t i = 0; i < 2; i++) {
            double sum = 0;
            assert_int_equal(s.offset[i + 1], (i + 1) * width);
            assert_true(s.tail[i] == 0);
            for (uint64_t k = s.offset[i]; k < s.offset[i + 1]; k++) sum += exp((double)s.value[k]);
            assert_true(fabs(sum - 1) < 0.026);
        }
        kd_sparse_release(&s);
        free(v);
    }
}

static void topk_writes_what_it_read(void **state)
{
    (void)state;
    enum { N = 20, WIDTH = 1000 };
    static const char text[] = "topk:k=12,temperatures=1+4";
    float *v = teacher(N, WIDTH, 4);
    kd_codec *c = opened_ranked(text, WIDTH);
    kd_buf b = encoded(c, v, N), again = {0};
    kd_sparse s = decoded(c, &b, N);
    OK(kd_codec_encode_sparse(c, &s, &again, err));
    assert_int_equal(again.len, b.len);
    assert_memory_equal(again.text, b.text, b.len);
    kd_sparse_release(&s);
    kd_buf_release(&b);
    kd_buf_release(&again);
    kd_codec_close(c);
    free(v);
}

/* Positions of 2, 0 and 1 entries, as they come from elsewhere. */
static void targets_picked_elsewhere_are_checked(void **state)
{
    (void)state;
    uint64_t offset[] = {0, 2, 2, 3};
    uint32_t id[] = {1, 5, 2};
    float value[] = {-1.5f, -0.5f, -40}, tail[] = {0.2f, 1, 0}, logz[] = {0.5f, 3, 0};
    uint8_t exact[] = {1, 1, 1};
    kd_sparse s = {.positions = 3,
                   .entries = 3,
                   .offset = offset,
                   .id = id,
                   .value = value,
                   .exact = exact,
                   .tail = tail,
                   .logz = logz,
                   .temperatures = 1,
                   .temperature = {1}};
    kd_codec *c = opened("topk:k=2", 6), *two = opened("topk:k=2,temperatures=1+2", 6);
    kd_codec *other = opened("sample", 6);
    kd_buf b = {0};
    FAILS(kd_codec_encode_sparse(c, &s, &b, err), KD_ENUMERIC, "log-partition 40");
    value[2] = -0.25f;
    OK(kd_codec_encode_sparse(c, &s, &b, err));
    kd_sparse got = decoded(c, &b, 3);
    assert_memory_equal(got.id, id, sizeof id);
    assert_memory_equal(got.value, value, sizeof value);
    assert_true(got.logz[1] == 3 && got.logz[2] == 0.25f && got.tail[1] == 1 && got.tail[2] == 0);
    assert_true(fabs((double)got.tail[0] - 0.2) < 1e-4);
    b.len = 0;
    FAILS(kd_codec_encode_sparse(two, &s, &b, err), KD_EUSAGE, "temperatures");
    FAILS(kd_codec_encode_sparse(other, &s, &b, err), KD_EUNSUPPORTED, "sample");
    id[1] = 1;
    FAILS(kd_codec_encode_sparse(c, &s, &b, err), KD_EUSAGE, "position 0: class 1");
    id[1] = 6;
    FAILS(kd_codec_encode_sparse(c, &s, &b, err), KD_EUSAGE, "position 0: class 6");
    id[1] = 5, offset[2] = 1;
    FAILS(kd_codec_encode_sparse(c, &s, &b, err), KD_EUSAGE, "position 1 has");
    offset[1] = 0, offset[2] = 3, offset[3] = 3;
    FAILS(kd_codec_encode_sparse(c, &s, &b, err), KD_EUSAGE, "position 1 has 3 entries, at most 2");
    offset[1] = offset[2] = 2, tail[1] = 1.5f;
    FAILS(kd_codec_encode_sparse(c, &s, &b, err), KD_ENUMERIC, "position 1: tail mass 1.5");
    value[0] = NAN;
    FAILS(kd_codec_encode_sparse(c, &s, &b, err), KD_ENUMERIC, "position 0, class 1");
    assert_int_equal(b.len, 0);
    kd_sparse_release(&got);
    kd_buf_release(&b);
    kd_codec_close(c);
    kd_codec_close(two);
    kd_codec_close(other);
}

/* ---- estimates ---------------------------------------------------------------------------- */

enum { ROUNDS = 4000, CLASSES = 300, MOST_CLASSES = 1000 };

/* The same logits as ROUNDS rows, each with its own draws: adds the weights' mean to `mean`. */
static void add_mean_of_draws(const char *text, const float *v, size_t width, double *mean,
                              uint8_t *ever_exact)
{
    float *rows = malloc(ROUNDS * width * sizeof *rows);
    assert_non_null(rows);
    for (size_t i = 0; i < ROUNDS; i++) memcpy(rows + i * width, v, width * sizeof *v);
    kd_sparse s = targets_of(text, rows, ROUNDS, width);
    for (size_t k = 0; k < s.entries; k++) {
        mean[s.id[k]] += (double)s.value[k] / ROUNDS;
        ever_exact[s.id[k]] |= s.exact[k];
    }
    kd_sparse_release(&s);
    free(rows);
}

/* Five standard errors; rare classes may be hit once or twice more than they should. */
static void near_enough(double got, double p, double variance, double n, double rounds, size_t class)
{
    if (!(fabs(got - p) <= 5 * sqrt(variance / rounds) + 2 / (n * rounds)))
        fail_msg("class %zu of probability %g has the mean weight %g", class, p, got);
}

static void samples_are_right_on_average(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double temperature;
    } ways[] = {{"sample:n=20", 1}, {"sample:n=20,temperature=3,seed=7", 3}};
    float *v = teacher(1, CLASSES, 5);
    for (size_t k = 0; k < KD_COUNT(ways); k++) {
        double p[CLASSES], mean[CLASSES] = {0};
        uint8_t exact[CLASSES] = {0};
        softmax(v, CLASSES, ways[k].temperature, p);
        add_mean_of_draws(ways[k].text, v, CLASSES, mean, exact);
        for (size_t i = 0; i < CLASSES; i++) {
            near_enough(mean[i], p[i], p[i] * (1 - p[i]) / 20, 20, ROUNDS, i);
            assert_int_equal(exact[i], 0);
        }
    }
    free(v);
}

/* Of the weight of a class with probability p, of n = 20 points and steps of 1/16. */
static double variance_of(double p)
{
    const double q = floor(-log(p) * 16);
    return 20 * p >= 1 ? fmax(0, (exp(-q / 16) - p) * (p - exp(-(q + 1) / 16))) : p * (0.05 - p);
}

/* Heads as well, however near a probability is to 1 or to a step. */
static void expect_unbiased(const float *v, size_t width, double temperature)
{
    enum { SEEDS = 5 };
    double p[MOST_CLASSES], mean[MOST_CLASSES] = {0};
    uint8_t exact[MOST_CLASSES] = {0};
    softmax(v, width, temperature, p);
    for (int seed = 0; seed < SEEDS; seed++) {
        char text[64];
        snprintf(text, sizeof text, "head-tail:n=20,temperature=%g,seed=%d", temperature, seed);
        add_mean_of_draws(text, v, width, mean, exact);
    }
    for (size_t i = 0; i < width; i++) {
        assert_int_equal(exact[i], 20 * p[i] >= 1);
        near_enough(mean[i] / SEEDS, p[i], variance_of(p[i]), 20, SEEDS * ROUNDS, i);
    }
}

static void head_tails_are_right_on_average(void **state)
{
    (void)state;
    float v[MOST_CLASSES], *mixed = teacher(1, CLASSES, 6);
    expect_unbiased(mixed, CLASSES, 1);
    expect_unbiased(mixed, CLASSES, 2.5);
    for (size_t i = 0; i < MOST_CLASSES; i++) v[i] = -logf((float)(i + 1)); // Zipf
    expect_unbiased(v, MOST_CLASSES, 1);
    expect_unbiased(v, MOST_CLASSES, 0.7);
    for (float sure = 1; sure < 12; sure *= 1.3f) { // an image classifier's ten classes, to one alone
        for (size_t i = 0; i < 10; i++) v[i] = i == 4 ? sure : (float)i / 8 - 1;
        expect_unbiased(v, 10, 1);
    }
    free(mixed);
}

/* Mean summed squared error of the weights over positions. */
static double error_of(const char *text, const float *v, size_t n, size_t width)
{
    kd_sparse s = targets_of(text, v, n, width);
    double *p = malloc(width * sizeof *p), sum = 0;
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        softmax(v + i * width, width, 1, p);
        for (uint64_t k = s.offset[i]; k < s.offset[i + 1]; k++) p[s.id[k]] -= (double)s.value[k];
        for (size_t j = 0; j < width; j++) sum += p[j] * p[j];
    }
    kd_sparse_release(&s);
    free(p);
    return sum / (double)n;
}

static void twenty_spaced_points_are_worth_fifty_draws(void **state)
{
    (void)state;
    enum { N = 300, WIDTH = 5000 };
    float *v = teacher(N, WIDTH, 7);
    for (size_t i = 0; i < N * WIDTH; i++) v[i] *= 1.5f; // as peaked as a language model
    const double few = error_of("sample:n=20", v, N, WIDTH), many = error_of("sample:n=50", v, N, WIDTH);
    const double spaced = error_of("head-tail:n=20", v, N, WIDTH);
    assert_true(spaced < many);
    assert_true(spaced < few / 2.5);
    assert_true(error_of("head-tail:n=50", v, N, WIDTH) < spaced / 2.5);
    free(v);
}

static void draws_change_with_the_seed(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"sample", "sample:seed=1"}, {"head-tail", "head-tail:seed=1"}};
    float *v = teacher(5, 2000, 8);
    for (size_t k = 0; k < 2; k++) {
        kd_codec *a = opened(pairs[k][0], 2000), *b = opened(pairs[k][1], 2000);
        kd_buf x = encoded(a, v, 5), y = encoded(b, v, 5), z = encoded(a, v, 5);
        assert_true(x.len != y.len || memcmp(x.text, y.text, x.len));
        assert_true(x.len == z.len && !memcmp(x.text, z.text, x.len));
        kd_buf_release(&x);
        kd_buf_release(&y);
        kd_buf_release(&z);
        kd_codec_close(a);
        kd_codec_close(b);
    }
    free(v);
}

/* ---- corners ------------------------------------------------------------------------------ */

static void one_certain_class_is_all_that_is_drawn(void **state)
{
    (void)state;
    float v[200];
    for (int i = 0; i < 200; i++) v[i] = i == 130 ? 60 : -60;
    for (int k = 0; k < 2; k++) {
        kd_sparse s = targets_of(k ? "head-tail" : "sample", v, 1, 200);
        assert_int_equal(s.entries, 1);
        assert_int_equal(s.id[0], 130);
        assert_true(s.value[0] == 1);
        kd_sparse_release(&s);
    }
    kd_sparse s = targets_of("topk:k=2", v, 1, 200);
    assert_int_equal(s.id[0], 0);
    assert_int_equal(s.id[1], 130);
    assert_true(s.value[1] == 0 && s.value[0] == -255 / 16.0f); // as far down as steps reach
    assert_true(s.tail[0] >= 0 && s.tail[0] < 1e-27);
    kd_sparse_release(&s);
}

static void equal_classes_are_drawn_at_equal_distances(void **state)
{
    (void)state;
    float v[1000];
    for (int i = 0; i < 1000; i++) v[i] = -3;
    kd_sparse s = targets_of("head-tail", v, 1, 1000);
    assert_int_equal(s.entries, 20);
    for (size_t k = 0; k < 20; k++) {
        assert_true(!s.exact[k] && s.value[k] == 0.05f);
        if (k) assert_int_equal(s.id[k] - s.id[k - 1], 50);
    }
    kd_sparse_release(&s);
    s = targets_of("head-tail", v, 1, 20); // each has a twentieth: all are kept
    assert_int_equal(s.entries, 20);
    double sum = 0;
    for (size_t k = 0; k < 20; k++) {
        assert_true(s.exact[k] && (s.value[k] == (float)exp(-47 / 16.0) || s.value[k] == (float)exp(-3)));
        sum += (double)s.value[k];
    }
    assert_true(fabs(sum - 1) < exp(-47 / 16.0) - exp(-3)); // what one gains the next loses
    kd_sparse_release(&s);
}

static void all_positions_keep_as_much_as_their_points_allow(void **state)
{
    (void)state;
    for (size_t w = 0; w < KD_COUNT(widths); w++)
        for (int n = 1; n < 300; n = 3 * n + 1) {
            char text[32];
            float *v = teacher(20, widths[w], 9);
            snprintf(text, sizeof text, "head-tail:n=%d", n);
            kd_sparse s = targets_of(text, v, 20, widths[w]);
            for (size_t i = 0; i < 20; i++) {
                const size_t m = (size_t)(s.offset[i + 1] - s.offset[i]);
                assert_true(m >= 1 && m <= kd_min_size((size_t)n, widths[w]));
            }
            kd_sparse_release(&s);
            snprintf(text, sizeof text, "sample:n=%d", n);
            s = targets_of(text, v, 20, widths[w]);
            for (size_t i = 0; i < 20; i++) {
                double sum = 0;
                for (uint64_t k = s.offset[i]; k < s.offset[i + 1]; k++) sum += (double)s.value[k];
                assert_true(fabs(sum - 1) < 1e-5);
            }
            kd_sparse_release(&s);
            free(v);
        }
}

static void refused(const char *text, const char *why)
{
    char name[16];
    json_t *params = NULL;
    kd_codec *c = NULL;
    OK(kd_codec_parse(text, name, &params, err));
    FAILS(kd_codec_open(&c, name, 100, params, NULL, 0, err), KD_EUSAGE, why);
    assert_null(c);
    json_decref(params);
}

static void parameters_that_do_not_go_together_are_refused(void **state)
{
    (void)state;
    refused("topk:temperatures=2+4", "1 is not among the temperatures");
    refused("topk:temperatures=1+2+3+4+5+6+7+8+9", "9 temperatures, at most 8");
    refused("head-tail:n=1000,step=0.02", "at most 255");
}

static void they_say_what_they_serve(void **state)
{
    (void)state;
    assert_int_equal(kd_codec_find("topk")->serves, KD_SERVES_HEAD);
    assert_int_equal(kd_codec_find("topk")->code, 6);
    assert_int_equal(kd_codec_find("sample")->serves, KD_SERVES_EXPECTED);
    assert_int_equal(kd_codec_find("sample")->code, 7);
    assert_int_equal(kd_codec_find("head-tail")->serves, KD_SERVES_EXPECTED);
    assert_int_equal(kd_codec_find("head-tail")->code, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_have_the_same_bits_on_every_instruction_set),
        cmocka_unit_test(draws_are_philox_keyed_by_seed_row_and_position),
        cmocka_unit_test(topk_keeps_the_largest_and_of_equal_ones_the_first),
        cmocka_unit_test(topk_numbers_are_as_exact_as_stated),
        cmocka_unit_test(topk_of_all_classes_has_no_tail),
        cmocka_unit_test(topk_writes_what_it_read),
        cmocka_unit_test(targets_picked_elsewhere_are_checked),
        cmocka_unit_test(samples_are_right_on_average),
        cmocka_unit_test(head_tails_are_right_on_average),
        cmocka_unit_test(twenty_spaced_points_are_worth_fifty_draws),
        cmocka_unit_test(draws_change_with_the_seed),
        cmocka_unit_test(one_certain_class_is_all_that_is_drawn),
        cmocka_unit_test(equal_classes_are_drawn_at_equal_distances),
        cmocka_unit_test(all_positions_keep_as_much_as_their_points_allow),
        cmocka_unit_test(parameters_that_do_not_go_together_are_refused),
        cmocka_unit_test(they_say_what_they_serve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
