/* test_image.c - pictures: what is decoded is what was written, what is damaged is refused, fitting takes
 * means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "kd/data.h"

#include <stdlib.h>
#include <string.h>

enum { H = 5, W = 7 };

/* A PNG of H x W pixels, each byte another one. */
static kd_buf some_png(int64_t channels, uint8_t *pixels)
{
    kd_buf png = {0};
    for (int i = 0; i < H * W * channels; i++) pixels[i] = (uint8_t)(i * 37 + 11);
    OK(kd_image_png(&png, pixels, H, W, channels, err));
    return png;
}

static void a_picture_that_was_written_is_read_again(void **state)
{
    (void)state;
    for (int64_t channels = 1; channels <= 3; channels += 2) {
        uint8_t pixels[H * W * 3];
        kd_buf png = some_png(channels, pixels);
        kd_image im;
        assert_true(kd_image_known(png.text, png.len));
        OK(kd_image_decode(&im, png.text, png.len, H * W, "x.png", err));
        assert_int_equal(im.height, H);
        assert_int_equal(im.width, W);
        assert_int_equal(im.channels, channels);
        assert_false(im.transparent);
        assert_memory_equal(im.pixels, pixels, (size_t)(H * W * channels));
        kd_image_release(&im);
        kd_buf_release(&png);
    }
}

static void a_file_that_ends_early_is_refused_wherever_it_ends(void **state)
{
    (void)state;
    uint8_t pixels[H * W * 3];
    kd_buf png = some_png(3, pixels);
    kd_image im;
    for (size_t n = 8; n < png.len; n++) {
        char *cut = malloc(n); // so that a sanitizer sees a read behind the end
        memcpy(cut, png.text, n);
        FAILS(kd_image_decode(&im, cut, n, H * W, "x.png", err), KD_ECORRUPT, "x.png: damaged PNG");
        assert_null(im.pixels);
        free(cut);
    }
    kd_buf_release(&png);
}

static void a_changed_byte_of_the_pixels_is_noticed(void **state)
{
    (void)state;
    uint8_t pixels[H * W * 3];
    kd_buf png = some_png(1, pixels);
    kd_image im;
    for (size_t at = 16; at < png.len - 12; at++) { // behind the first chunk's name, before IEND
        png.text[at] ^= 0x20;
        assert_int_not_equal(kd_image_decode(&im, png.text, png.len, H * W, "x.png", NULL), KD_OK);
        assert_null(im.pixels);
        png.text[at] ^= 0x20;
    }
    kd_buf_release(&png);
}

static void sizes_are_checked_before_memory_is_taken(void **state)
{
    (void)state;
    uint8_t pixels[H * W * 3];
    kd_buf png = some_png(1, pixels);
    kd_image im;
    FAILS(kd_image_decode(&im, png.text, png.len, H * W - 1, "x.png", err), KD_ELIMIT,
          "x.png: 7 x 5 pixels, the limit is 34");
    FAILS(kd_image_decode(&im, "GIF89a..", 8, H * W, "x.gif", err), KD_EUNSUPPORTED,
          "neither a PNG nor a JPEG");
    FAILS(kd_image_decode(&im, "\xff\xd8\xff", 3, H * W, "x.jpg", err), KD_ECORRUPT, "damaged JPEG");
    kd_buf_release(&png);
}

static void a_pixel_is_the_mean_of_what_it_covers(void **state)
{
    (void)state;
    uint8_t pixels[] = {0, 30, 60, 90, 120, 150}; // 2 x 3
    const kd_image im = {.height = 2, .width = 3, .channels = 1, .pixels = pixels};
    float out[6];
    OK(kd_image_fit(&im, 1, 1, 1, out, err));
    assert_float_equal(out[0], 75, 1e-4);
    OK(kd_image_fit(&im, 1, 2, 1, out, err)); // a column and a half each
    assert_float_equal(out[0], (0 + 90 + (30 + 120) / 2.0) / 3, 1e-4);
    assert_float_equal(out[1], (60 + 150 + (30 + 120) / 2.0) / 3, 1e-4);
    OK(kd_image_fit(&im, 2, 3, 1, out, err));
    for (int i = 0; i < 6; i++) assert_true(out[i] == pixels[i]);
}

static void a_larger_picture_repeats_its_pixels(void **state)
{
    (void)state;
    uint8_t pixels[] = {10, 20};
    const kd_image im = {.height = 1, .width = 2, .channels = 1, .pixels = pixels};
    float out[8];
    OK(kd_image_fit(&im, 2, 4, 1, out, err));
    const float want[] = {10, 10, 20, 20, 10, 10, 20, 20};
    for (int i = 0; i < 8; i++) assert_float_equal(out[i], want[i], 1e-5);
}

static void grey_and_colour_become_each_other(void **state)
{
    (void)state;
    uint8_t colour[] = {255, 0, 0, 0, 255, 0, 0, 0, 255, 7, 7, 7}, grey[] = {9};
    const kd_image c = {.height = 1, .width = 4, .channels = 3, .pixels = colour},
                   g = {.height = 1, .width = 1, .channels = 1, .pixels = grey};
    float out[4];
    OK(kd_image_fit(&c, 1, 4, 1, out, err));
    const float want[] = {76.245f, 149.685f, 29.07f, 7};
    for (int i = 0; i < 4; i++) assert_float_equal(out[i], want[i], 1e-3);
    OK(kd_image_fit(&g, 1, 1, 3, out, err));
    for (int i = 0; i < 3; i++) assert_true(out[i] == 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_picture_that_was_written_is_read_again),
        cmocka_unit_test(a_file_that_ends_early_is_refused_wherever_it_ends),
        cmocka_unit_test(a_changed_byte_of_the_pixels_is_noticed),
        cmocka_unit_test(sizes_are_checked_before_memory_is_taken),
        cmocka_unit_test(a_pixel_is_the_mean_of_what_it_covers),
        cmocka_unit_test(a_larger_picture_repeats_its_pixels),
        cmocka_unit_test(grey_and_colour_become_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
