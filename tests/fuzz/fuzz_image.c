/* fuzz_image.c - a picture that somebody sends: PNG or JPEG. */
#include "fuzz.h"
#include "kd/data.h"

#define PIXELS (1u << 16)

/* What was decoded is written as a PNG and read again. */
static void round_trip(const kd_image *im)
{
    kd_buf png = {0};
    kd_image again;
    kd_err err = {0};
    MUST(!kd_image_png(&png, im->pixels, im->height, im->width, im->channels, &err));
    MUST(!kd_image_decode(&again, png.text, png.len, PIXELS, "again", &err));
    MUST(again.height == im->height && again.width == im->width && again.channels == im->channels);
    MUST(!memcmp(again.pixels, im->pixels, (size_t)(im->height * im->width * im->channels)));
    kd_image_release(&again);
    kd_buf_release(&png);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static float row[28 * 28 * 3];
    kd_image im;
    kd_err err = {0};
    if (kd_image_decode(&im, data, size, PIXELS, "input", &err)) {
        MUST(*err.msg && !im.pixels);
        return 0;
    }
    MUST(im.height >= 1 && im.width >= 1 && im.height * im.width <= PIXELS);
    round_trip(&im);
    MUST(!kd_image_fit(&im, 28, 28, size % 2 ? 1 : 3, row, &err));
    for (size_t i = 0; i < 28 * 28; i++) MUST(row[i] >= 0 && row[i] < 255.01f);
    kd_image_release(&im);
    return 0;
}
