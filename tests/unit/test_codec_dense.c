/* test_codec_dense.c - codecs that keep every class: int8, int8-channel, log8, log6.
 *
 * Fast paths against plain twins, bytes against docs/store-format.md (and against the Python package in
 * tests/cli/python.sh), stated errors against measured ones, damaged blocks refused. */
#include "check.h"
#include "kd/config.h"
#include "../../lib/codec/codec_private.h"

#include <math.h>
#include <stdlib.h>

typedef struct encoded {
    kd_codec *c;
    kd_buf bytes;
    size_t positions;
    float *values, *back; /* (positions, width) */
} encoded;

static const char *const all[] = {"int8", "int8-channel", "log8", "log6", "log8:step=0.3"};

static float *logits(size_t n, float spread, uint32_t seed)
{
    float *v = malloc((n + 1) * sizeof(*v));
    kd_rng r;
    assert_non_null(v);
    kd_rng_init(&r, seed, KD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n; i++) v[i] = spread * kd_rng_normal(&r);
    return v;
}

static kd_codec *opened(const char *text, int64_t width)
{
    char name[16];
    json_t *params = NULL;
    kd_codec *c = NULL;
    OK(kd_codec_parse(text, name, &params, err));
    OK(kd_codec_open(&c, name, width, params, NULL, 0, err));
    json_decref(params);
    return c;
}

static kd_codec_block block_of(const float *values, size_t positions)
{
    return (kd_codec_block){.values = values, .rows = (uint32_t)positions, .each = 1};
}

/* Takes over values. */
static encoded encoded_of(const char *text, float *values, size_t positions, int64_t width)
{
    encoded e = {.c = opened(text, width), .positions = positions, .values = values};
    kd_codec_block b = block_of(values, positions);
    e.back = malloc((positions * (size_t)width + 1) * sizeof(float));
    assert_non_null(e.back);
    OK(kd_codec_encode(e.c, &b, 1, &e.bytes, err));
    OK(kd_codec_check(e.c, e.bytes.text, e.bytes.len, positions, err));
    OK(kd_codec_decode(e.c, e.bytes.text, e.bytes.len, positions, e.back, err));
    return e;
}

static void release(encoded *e)
{
    kd_codec_close(e->c);
    kd_buf_release(&e->bytes);
    free(e->values);
    free(e->back);
}

static const struct {
    size_t positions;
    int64_t width;
} shapes[] = {{0, 5}, {1, 1}, {3, 10}, {257, 33}, {70, 1000}, {2, 70001}};

/* ---- all of them -------------------------------------------------------------------------- */

static void bytes_do_not_depend_on_threads(void **state)
{
    (void)state;
    for (size_t k = 0; k < KD_COUNT(all); k++)
        for (size_t s = 0; s < KD_COUNT(shapes); s++) {
            const size_t n = shapes[s].positions;
            encoded e = encoded_of(all[k], logits(n * (size_t)shapes[s].width, 5, 1), n, shapes[s].width);
            kd_codec_block b = block_of(e.values, n);
            for (int threads = 2; threads < 6; threads++) {
                kd_buf again = {0};
                OK(kd_codec_encode(e.c, &b, threads, &again, err));
                assert_int_equal(again.len, e.bytes.len);
                if (again.len) assert_memory_equal(again.text, e.bytes.text, again.len);
                kd_buf_release(&again);
            }
            release(&e);
        }
}

static void decoding_equals_its_twin_to_the_bit(void **state)
{
    (void)state;
    for (size_t k = 0; k < KD_COUNT(all); k++)
        for (size_t s = 0; s < KD_COUNT(shapes); s++) {
            const size_t n = shapes[s].positions, numbers = n * (size_t)shapes[s].width;
            encoded e = encoded_of(all[k], logits(numbers, 7, 2), n, shapes[s].width);
            float *twin = malloc((numbers + 1) * sizeof(float));
            assert_non_null(twin);
            OK(e.c->ops->decode_twin(e.c, (const uint8_t *)e.bytes.text, e.bytes.len, n, twin, err));
            if (numbers) assert_memory_equal(twin, e.back, numbers * sizeof(float));
            free(twin);
            release(&e);
        }
}

static void selected_positions_keep_their_values(void **state)
{
    (void)state;
    const int64_t width = 10;
    for (size_t k = 0; k < KD_COUNT(all); k++) {
        encoded e = encoded_of(all[k], logits(400, 5, 3), 40, width);
        uint8_t keep[40];
        kd_buf part = {0};
        float got[400];
        size_t kept = 0;
        for (size_t i = 0; i < 40; i++) keep[i] = i % 3 == 1 ? 9 : 0;
        OK(kd_codec_select(e.c, e.bytes.text, e.bytes.len, 40, keep, &part, err));
        for (size_t i = 0; i < 40; i++) kept += keep[i] != 0;
        OK(kd_codec_decode(e.c, part.text, part.len, kept, got, err));
        for (size_t i = 0, at = 0; i < 40; i++)
            if (keep[i]) assert_memory_equal(got + 10 * at++, e.back + 10 * i, 10 * sizeof(float));
        part.len = 0;
        memset(keep, 0, sizeof keep);
        OK(kd_codec_select(e.c, e.bytes.text, e.bytes.len, 40, keep, &part, err));
        assert_int_equal(part.len, 0);
        kd_buf_release(&part);
        release(&e);
    }
}

static void what_is_not_finite_is_refused_by_its_place(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    const uint32_t lengths[] = {2, 0, 3};
    for (size_t k = 0; k < KD_COUNT(all); k++)
        for (size_t j = 0; j < KD_COUNT(bad); j++) {
            kd_codec *c = opened(all[k], 7);
            float *v = logits(35, 5, 4);
            kd_codec_block b = {.values = v, .rows = 3, .lengths = lengths};
            kd_buf out = {0};
            v[3 * 7 + 6] = bad[j];
            FAILS(kd_codec_encode(c, &b, 2, &out, err), KD_ENUMERIC,
                  "row 2 of the chunk, position 1, class 6");
            assert_int_equal(out.len, 0);
            kd_buf_release(&out);
            kd_codec_close(c);
            free(v);
        }
}

static void a_block_of_another_size_is_refused(void **state)
{
    (void)state;
    for (size_t k = 0; k < KD_COUNT(all); k++) {
        encoded e = encoded_of(all[k], logits(130, 5, 5), 13, 10);
        FAILS(kd_codec_check(e.c, e.bytes.text, e.bytes.len - 1, 13, err), KD_ECORRUPT, "bytes");
        FAILS(kd_codec_check(e.c, e.bytes.text, e.bytes.len, 14, err), KD_ECORRUPT, "bytes");
        FAILS(kd_codec_decode(e.c, e.bytes.text, e.bytes.len, 12, e.back, err), KD_ECORRUPT, "bytes");
        FAILS(kd_codec_check(e.c, e.bytes.text, e.bytes.len, SIZE_MAX / 4, err), KD_ECORRUPT, "bytes");
        FAILS(kd_codec_check(e.c, e.bytes.text, 0, 13, err), KD_ECORRUPT, "bytes");
        FAILS(kd_codec_check(e.c, e.bytes.text, e.bytes.len, 0, err), KD_ECORRUPT, "bytes");
        release(&e);
    }
}

/* Any bytes of the right size are refused or decode to finite numbers. */
static void damaged_blocks_never_decode_to_what_is_not_finite(void **state)
{
    (void)state;
    kd_rng r;
    int refused = 0, taken = 0;
    kd_rng_init(&r, 6, KD_RNG_TEST, 1, 0);
    for (size_t k = 0; k < KD_COUNT(all); k++)
        for (int round = 0; round < 300; round++) {
            encoded e = encoded_of(all[k], logits(60, 5, 7), 6, 10);
            for (int flips = 0; flips < 4; flips++)
                e.bytes.text[kd_rng_below(&r, e.bytes.len)] ^= (char)kd_rng_u32(&r);
            kd_err err = {0};
            if (kd_codec_decode(e.c, e.bytes.text, e.bytes.len, 6, e.back, &err)) {
                assert_int_equal(err.code, KD_ECORRUPT);
                refused++;
            } else {
                taken++;
                for (int i = 0; i < 60; i++) assert_true(isfinite(e.back[i]));
            }
            release(&e);
        }
    assert_true(refused > 0 && taken > 0);
}

/* ---- int8 --------------------------------------------------------------------------------- */

/* Half a step is (largest - smallest) / 510, 1/128 of it at most for the scale's rounding. */
static void within(const encoded *e, size_t stride, size_t n, double lo, double hi, size_t at)
{
    const double bound = (hi - lo) / 510 * (1 + 1.0 / 128) + 1.2e-7 * fmax(fabs(lo), fabs(hi));
    for (size_t k = 0; k < n; k++) {
        const double got = e->back[at + k * stride], want = e->values[at + k * stride];
        if (!(fabs(got - want) <= bound))
            fail_msg("value %zu: %.9g came back as %.9g, allowed is +-%.3g", k, want, got, bound);
    }
}

static void range(const float *v, size_t stride, size_t n, double *lo, double *hi)
{
    *lo = *hi = v[0];
    for (size_t k = 1; k < n; k++) {
        *lo = fmin(*lo, v[k * stride]);
        *hi = fmax(*hi, v[k * stride]);
    }
}

static void int8_is_half_a_step_off_at_most(void **state)
{
    (void)state;
    static const float spreads[] = {1e-30f, 1e-3f, 6, 1e30f};
    double lo, hi;
    for (size_t s = 0; s < KD_COUNT(spreads); s++) {
        encoded e = encoded_of("int8", logits(50 * 200, spreads[s], 8), 50, 200);
        for (size_t i = 0; i < 50; i++) {
            range(e.values + 200 * i, 1, 200, &lo, &hi);
            within(&e, 1, 200, lo, hi, 200 * i);
        }
        release(&e);
        e = encoded_of("int8-channel", logits(50 * 200, spreads[s], 9), 50, 200);
        for (size_t i = 0; i < 200; i++) {
            range(e.values + i, 200, 50, &lo, &hi);
            within(&e, 200, 50, lo, hi, i);
        }
        release(&e);
    }
}

static void int8_keeps_a_small_spread_on_a_large_level(void **state)
{
    (void)state;
    float *v = logits(1000, 1, 10);
    double lo, hi;
    for (int i = 0; i < 1000; i++) v[i] += 1e6f;
    encoded e = encoded_of("int8", v, 1, 1000);
    range(v, 1, 1000, &lo, &hi);
    within(&e, 1, 1000, lo, hi, 0);
    release(&e);
}

static void equal_values_come_back_exactly(void **state)
{
    (void)state;
    static const float levels[] = {0, -0.0f, 1.2345678f, -1e30f, 1e30f, 1e-42f};
    for (size_t k = 0; k < 2; k++)
        for (size_t j = 0; j < KD_COUNT(levels); j++) {
            float *v = malloc(12 * sizeof(float));
            assert_non_null(v);
            for (int i = 0; i < 12; i++) v[i] = levels[j];
            encoded e = encoded_of(all[k], v, 4, 3);
            for (int i = 0; i < 12; i++) assert_true(e.back[i] == levels[j]);
            release(&e);
        }
}

static void int8_refuses_what_could_overflow(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        kd_codec *c = opened(all[k], 3);
        float v[] = {0, 1, 2, -0x1p126f, 0x1p126f, 0}, back[6];
        kd_codec_block b = block_of(v, 2);
        kd_buf out = {0};
        OK(kd_codec_encode(c, &b, 1, &out, err));
        OK(kd_codec_decode(c, out.text, out.len, 2, back, err));
        for (int i = 0; i < 6; i++) assert_true(fabs((double)back[i] - v[i]) <= 0x1p127 / 500);
        v[4] = 0x1.000002p126f;
        FAILS(kd_codec_encode(c, &b, 1, &out, err), KD_ENUMERIC, "row 1 of the chunk, position 0, class 1");
        kd_buf_release(&out);
        kd_codec_close(c);
    }
}

static void int8_says_what_it_serves(void **state)
{
    (void)state;
    assert_int_equal(kd_codec_find("int8")->serves, KD_SERVES_VALUES | KD_SERVES_SOFTMAX);
    assert_int_equal(kd_codec_find("int8")->code, 2);
    assert_int_equal(kd_codec_find("int8-channel")->serves, KD_SERVES_VALUES);
    assert_int_equal(kd_codec_find("int8-channel")->code, 3);
}

/* ---- log8, log6 --------------------------------------------------------------------------- */

static double log_sum_exp(const float *v, size_t n, double t)
{
    double top = v[0], sum = 0;
    for (size_t k = 1; k < n; k++) top = fmax(top, v[k]);
    for (size_t k = 0; k < n; k++) sum += exp((v[k] - top) / t);
    return top / t + log(sum);
}

/* KL(values || back) of softmax at t, mean over positions. */
static double divergence(const encoded *e, size_t width, double t)
{
    double sum = 0;
    for (size_t i = 0; i < e->positions; i++) {
        const float *z = e->values + i * width, *y = e->back + i * width;
        const double a = log_sum_exp(z, width, t), b = log_sum_exp(y, width, t);
        for (size_t k = 0; k < width; k++) sum += exp(z[k] / t - a) * (z[k] / t - a - (y[k] / t - b));
    }
    return sum / (double)e->positions;
}

static void logs_have_the_bytes_of_the_documentation(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint8_t bytes[5];
    } vector[] = {{"log8", {0x41, 0x00, 0x20, 0x58, 0xff}}, {"log6", {0x11, 0x00, 0x08, 0x16, 0x3f}}};
    static const double want[] = {-0.13052117, -2.13052117, -5.63052117, -20.13052117};
    for (size_t j = 0; j < 2; j++) {
        float *v = malloc(4 * sizeof(float));
        assert_non_null(v);
        memcpy(v, (float[]){3, 1, -2.5f, -17}, 4 * sizeof(float));
        encoded e = encoded_of(vector[j].name, v, 1, 4);
        assert_int_equal(e.bytes.len, 5);
        assert_memory_equal(e.bytes.text, vector[j].bytes, 5);
        for (int k = 0; k < 4; k++) assert_true(fabs(e.back[k] - want[k]) < 2e-6);
        release(&e);
    }
}

static void logs_come_back_as_log_probabilities(void **state)
{
    (void)state;
    static const char *const logs[] = {"log8", "log6", "log8:step=0.001", "log6:step=1"};
    for (size_t j = 0; j < KD_COUNT(logs); j++) {
        encoded e = encoded_of(logs[j], logits(40 * 500, 4, 11), 40, 500);
        for (size_t i = 0; i < 40; i++) assert_true(fabs(log_sum_exp(e.back + 500 * i, 500, 1)) < 1e-6);
        release(&e);
    }
}

/* Within the codes' range no gap is more than half a step off. */
static void logs_are_half_a_step_off_at_most(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double step;
    } logs[] = {{"log8", 1.0 / 16}, {"log6", 1.0 / 4}, {"log8:step=0.3", 0.3}};
    for (size_t j = 0; j < KD_COUNT(logs); j++) {
        encoded e = encoded_of(logs[j].name, logits(50 * 200, 2, 12), 50, 200);
        for (size_t i = 0; i < 50; i++) {
            const float *z = e.values + 200 * i, *y = e.back + 200 * i;
            size_t top = 0;
            for (size_t k = 1; k < 200; k++) top = z[k] > z[top] ? k : top;
            for (size_t k = 0; k < 200; k++)
                assert_true(fabs((double)(y[k] - y[top]) - (z[k] - z[top])) <= logs[j].step / 2 + 1e-5);
        }
        release(&e);
    }
}

static void logs_cost_the_divergence_that_is_stated(void **state)
{
    (void)state;
    encoded e = encoded_of("log8", logits(300 * 100, 3, 13), 300, 100);
    const double kl8 = divergence(&e, 100, 1);
    release(&e);
    e = encoded_of("log6", logits(300 * 100, 3, 13), 300, 100);
    const double kl6 = divergence(&e, 100, 1);
    release(&e);
    const double bound8 = 1.0 / 256 / 24, bound6 = 1.0 / 16 / 24;
    if (!(kl8 > 0.3 * bound8 && kl8 < bound8)) fail_msg("log8: KL %g, stated %g", kl8, bound8);
    if (!(kl6 > 0.3 * bound6 && kl6 < bound6)) fail_msg("log6: KL %g, stated %g", kl6, bound6);
}

/* A long tail below the codes' range: its mean is kept, so a high temperature finds it where it was. */
static void the_tail_below_the_last_code_keeps_its_level(void **state)
{
    (void)state;
    static const char *const logs[] = {"log8", "log6"};
    for (size_t j = 0; j < 2; j++) {
        float *v = logits(20 * 5000, 1.5f, 14);
        for (size_t i = 0; i < 20 * 5000; i++) v[i] -= i % 5000 < 50 ? 0 : 25;
        encoded e = encoded_of(logs[j], v, 20, 5000);
        const double kept = divergence(&e, 5000, 4);
        for (size_t i = 0; i < e.positions; i++) e.bytes.text[i] = 0; // as if there were no rest
        OK(kd_codec_decode(e.c, e.bytes.text, e.bytes.len, e.positions, e.back, err));
        const double cut = divergence(&e, 5000, 4);
        if (!(kept < 0.03 && kept < cut / 10))
            fail_msg("%s: KL %g at T = 4, without rest %g", logs[j], kept, cut);
        release(&e);
    }
}

static void extreme_logits_are_taken(void **state)
{
    (void)state;
    static const char *const logs[] = {"log8", "log6", "log8:step=1"};
    for (size_t j = 0; j < KD_COUNT(logs); j++) {
        float *v = malloc(4 * sizeof(float));
        assert_non_null(v);
        memcpy(v, (float[]){-3.4e38f, 3.4e38f, 0, 1}, 4 * sizeof(float));
        encoded e = encoded_of(logs[j], v, 1, 4);
        assert_true(e.back[1] <= 0 && e.back[1] > -1e-9);
        for (int k = 0; k < 4; k++) assert_true(isfinite(e.back[k]) && e.back[k] <= 0);
        release(&e);
    }
}

static void codes_that_no_writer_makes_are_refused(void **state)
{
    (void)state;
    encoded e = encoded_of("log6", logits(20, 2, 15), 2, 10);
    e.bytes.text[2 + 10 + 7] = 64;
    FAILS(kd_codec_check(e.c, e.bytes.text, e.bytes.len, 2, err), KD_ECORRUPT, "position 1 has codes");
    FAILS(kd_codec_decode(e.c, e.bytes.text, e.bytes.len, 2, e.back, err), KD_ECORRUPT,
          "position 1 has codes");
    release(&e);
    e = encoded_of("log8", logits(20, 2, 15), 2, 10);
    for (int k = 2; k < 12; k++) e.bytes.text[k] |= 1; // nobody is the largest
    FAILS(kd_codec_check(e.c, e.bytes.text, e.bytes.len, 2, err), KD_ECORRUPT, "position 0 has codes");
    FAILS(kd_codec_decode(e.c, e.bytes.text, e.bytes.len, 2, e.back, err), KD_ECORRUPT,
          "position 0 has codes");
    release(&e);
}

static void logs_say_what_they_serve(void **state)
{
    (void)state;
    assert_int_equal(kd_codec_find("log8")->serves, KD_SERVES_SOFTMAX);
    assert_int_equal(kd_codec_find("log8")->code, 4);
    assert_int_equal(kd_codec_find("log6")->serves, KD_SERVES_SOFTMAX);
    assert_int_equal(kd_codec_find("log6")->code, 5);
    char name[16];
    json_t *params;
    FAILS(kd_codec_parse("log8:step=2", name, &params, err), KD_EUSAGE, "step");
    FAILS(kd_codec_parse("log8:n=2", name, &params, err), KD_EUSAGE, "n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_do_not_depend_on_threads),
        cmocka_unit_test(decoding_equals_its_twin_to_the_bit),
        cmocka_unit_test(selected_positions_keep_their_values),
        cmocka_unit_test(what_is_not_finite_is_refused_by_its_place),
        cmocka_unit_test(a_block_of_another_size_is_refused),
        cmocka_unit_test(damaged_blocks_never_decode_to_what_is_not_finite),
        cmocka_unit_test(int8_is_half_a_step_off_at_most),
        cmocka_unit_test(int8_keeps_a_small_spread_on_a_large_level),
        cmocka_unit_test(equal_values_come_back_exactly),
        cmocka_unit_test(int8_refuses_what_could_overflow),
        cmocka_unit_test(int8_says_what_it_serves),
        cmocka_unit_test(logs_have_the_bytes_of_the_documentation),
        cmocka_unit_test(logs_come_back_as_log_probabilities),
        cmocka_unit_test(logs_are_half_a_step_off_at_most),
        cmocka_unit_test(logs_cost_the_divergence_that_is_stated),
        cmocka_unit_test(the_tail_below_the_last_code_keeps_its_level),
        cmocka_unit_test(extreme_logits_are_taken),
        cmocka_unit_test(codes_that_no_writer_makes_are_refused),
        cmocka_unit_test(logs_say_what_they_serve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
