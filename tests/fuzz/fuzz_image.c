/* fuzz_image.c - a picture that somebody sends: PNG or JPEG. The checksums of a PNG's chunks are repaired
 * behind every change, so that changes get past them. */
#include "fuzz.h"
#include "kd/data.h"

#include <zlib.h>

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

static uint32_t big(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

/* A chunk: length, name, data, checksum over name and data. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    (void)seed;
    size = LLVMFuzzerMutate(data, size, max);
    for (size_t at = 8; at + 12 <= size && data[0] == 0x89 && big(data + at) <= size - at - 12;) {
        const size_t n = big(data + at) + 4;
        const uint32_t sum = (uint32_t)crc32(0, data + at + 4, (uInt)n);
        for (int i = 0; i < 4; i++) data[at + 4 + n + (size_t)i] = (uint8_t)(sum >> (24 - 8 * i));
        at += n + 8;
    }
    return size;
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
