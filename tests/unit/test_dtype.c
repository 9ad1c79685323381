/* Conversions between f32 and everything that stores hold, against the definition of each format. */
#include "kd/base.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static uint16_t half(kd_dtype t, float f)
{
    uint16_t h;
    assert_int_equal(kd_from_f32(&h, t, &f, 1), KD_OK);
    return h;
}

/* An independent reading of a half: by its definition. */
static double half_by_definition(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double x = exponent == 31 ? (fraction ? NAN : INFINITY)
               : exponent     ? ldexp(1024 + fraction, exponent - 25)
                              : ldexp(fraction, -24);
    return h & 0x8000 ? -x : x;
}

static void types_have_names_and_sizes(void **state)
{
    (void)state;
    for (int t = 1; t < KD__DTYPE_END; t++) {
        assert_int_equal(kd_dtype_parse(kd_dtype_name((kd_dtype)t)), t);
        assert_true(kd_dtype_size((kd_dtype)t) > 0);
    }
    assert_int_equal(kd_dtype_size(KD_BF16), 2);
    assert_int_equal(KD_F64, 12); /* numbers stand in stores */
    assert_string_equal(kd_dtype_name(KD_DTYPE_NONE), "none");
    assert_int_equal(kd_dtype_parse("none"), KD_DTYPE_NONE);
    assert_int_equal(kd_dtype_parse(NULL), KD_DTYPE_NONE);
    assert_true(kd_dtype_is_float(KD_F16));
    assert_false(kd_dtype_is_float(KD_U8));
    float f;
    assert_int_equal(kd_to_f32(&f, &f, KD_DTYPE_NONE, 1), KD_EUNSUPPORTED);
    assert_int_equal(kd_from_f32(&f, KD_DTYPE_NONE, &f, 1), KD_EUNSUPPORTED);
}

static void every_half_reads_as_defined_and_survives(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t in = (uint16_t)h;
        float f;
        kd_to_f32(&f, &in, KD_F16, 1);
        double want = half_by_definition(in);
        if (isnan(want)) {
            assert_true(isnan(f) && isnan(f + 0));
            float back;
            uint16_t again = half(KD_F16, f);
            kd_to_f32(&back, &again, KD_F16, 1);
            assert_true(isnan(back));
        } else {
            assert_true(f == want && !!signbit(f) == in >> 15);
            assert_int_equal(half(KD_F16, f), in);
        }
    }
}

/* Between neighbours the nearer half is taken, in the middle the even one. */
static void halves_round_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7BFF; h++) {
        double a = half_by_definition((uint16_t)h), b = half_by_definition((uint16_t)(h + 1));
        float middle = (float)((a + b) / 2); // exact: one more bit than a half
        assert_int_equal(half(KD_F16, middle), h & 1 ? h + 1 : h);
        assert_int_equal(half(KD_F16, nextafterf(middle, 0)), h);
        assert_int_equal(half(KD_F16, nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(half(KD_F16, -middle), 0x8000 | (h & 1 ? h + 1 : h));
    }
    assert_int_equal(half(KD_F16, 65519.0f), 0x7BFF);
    assert_int_equal(half(KD_F16, 65520.0f), 0x7C00);
    assert_int_equal(half(KD_F16, 1e30f), 0x7C00);
    assert_int_equal(half(KD_F16, -INFINITY), 0xFC00);
    assert_int_equal(half(KD_F16, 1e-30f), 0);
    assert_int_equal(half(KD_F16, -1e-45f), 0x8000);
}

static void bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t in = (uint16_t)h;
        float f;
        kd_to_f32(&f, &in, KD_BF16, 1);
        assert_int_equal(bits(f), h << 16);
        if (!isnan(f)) assert_int_equal(half(KD_BF16, f), h);
    }
    assert_int_equal(half(KD_BF16, 1.00390625f), 0x3F80); // 1 + 2^-8: middle, to even
    assert_int_equal(half(KD_BF16, 1.01171875f), 0x3F82); // 1 + 3 * 2^-8: middle, to even
    assert_int_equal(half(KD_BF16, nextafterf(1.00390625f, 2)), 0x3F81);
    assert_int_equal(half(KD_BF16, 3.4e38f), 0x7F80); // past the largest: infinity
    float nan, back;
    uint32_t quiet_bits_only_low = 0x7F800001u; // a NaN whose upper half is infinity
    memcpy(&nan, &quiet_bits_only_low, sizeof nan);
    uint16_t h = half(KD_BF16, nan);
    kd_to_f32(&back, &h, KD_BF16, 1);
    assert_true(isnan(back));
}

static void integers_convert_and_clamp(void **state)
{
    (void)state;
    const float in[] = {-1e30f, -1.5f, 2.5f, 3.5f, 254.6f, 1e30f, NAN, INFINITY, -INFINITY};
    uint8_t u8[9];
    int8_t i8[9];
    int64_t i64[9];
    uint64_t u64[9];
    int32_t i32[9];
    kd_from_f32(u8, KD_U8, in, 9);
    kd_from_f32(i8, KD_I8, in, 9);
    kd_from_f32(i32, KD_I32, in, 9);
    kd_from_f32(i64, KD_I64, in, 9);
    kd_from_f32(u64, KD_U64, in, 9);
    assert_memory_equal(u8, ((uint8_t[]){0, 0, 2, 4, 255, 255, 0, 255, 0}), 9);
    assert_memory_equal(i8, ((int8_t[]){-128, -2, 2, 4, 127, 127, 0, 127, -128}), 9);
    assert_int_equal(i32[0], INT32_MIN);
    assert_int_equal(i32[5], INT32_MAX);
    assert_true(i64[0] == INT64_MIN && i64[5] == INT64_MAX && i64[1] == -2);
    assert_true(u64[0] == 0 && u64[5] == UINT64_MAX && u64[8] == 0);
    char odd[1 + 8 * 3];
    double d[] = {1e300, -0.5, 1};
    memcpy(odd + 1, d, sizeof d);
    float f[3];
    assert_int_equal(kd_to_f32(f, odd + 1, KD_F64, 3), KD_OK); /* unaligned, as records are */
    assert_true(isinf(f[0]) && f[1] == -0.5f && f[2] == 1);
    uint64_t big = UINT64_MAX;
    kd_to_f32(f, &big, KD_U64, 1);
    assert_true(f[0] == 0x1p64f);
    int8_t minus = -7;
    kd_to_f32(f, &minus, KD_I8, 1);
    assert_true(f[0] == -7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_have_names_and_sizes),
        cmocka_unit_test(every_half_reads_as_defined_and_survives),
        cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(integers_convert_and_clamp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
