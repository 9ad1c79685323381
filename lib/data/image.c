/* image.c - pictures: which decoder, how large they may be, and how they become the rows of a model.
 *
 * A file is taken for what its first bytes say. Both libraries read from memory, so their only ways out are
 * the handlers that png.c and jpeg.c install. Fitting is area resampling: an output pixel is the mean of the
 * rectangle of the source that it covers, with fractions at the edges. That is right for making pictures
 * smaller, the usual case, and makes larger ones blocky but not wrong; a picture of the right size passes
 * unchanged to the bit.
 */
#include "data_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_png(const void *bytes, size_t n) { return n >= 8 && !memcmp(bytes, "\x89PNG\r\n\x1a\n", 8); }
static bool is_jpeg(const void *bytes, size_t n) { return n >= 3 && !memcmp(bytes, "\xff\xd8\xff", 3); }

bool kd_image_known(const void *bytes, size_t n) { return is_png(bytes, n) || is_jpeg(bytes, n); }

kd_status kd__image_room(kd_image *im, int64_t samples, uint64_t max_pixels, const char *where, kd_err *err)
{
    const uint64_t h = (uint64_t)im->height, w = (uint64_t)im->width;
    if (!h || !w || h > max_pixels / w)
        return kd_fail(err, KD_ELIMIT, "%s: %llu x %llu pixels, the limit is %llu pixels", where,
                       (unsigned long long)w, (unsigned long long)h, (unsigned long long)max_pixels);
    im->pixels = calloc((size_t)(h * w), (size_t)samples);
    if (!im->pixels)
        return kd_fail(err, KD_ENOMEM, "%s: no memory for %llu x %llu pixels", where, (unsigned long long)w,
                       (unsigned long long)h);
    return KD_OK;
}

kd_status kd_image_decode(kd_image *im, const void *bytes, size_t n, uint64_t max_pixels, const char *where,
                          kd_err *err)
{
    memset(im, 0, sizeof *im);
    kd_status st;
    if (is_png(bytes, n))
        st = kd__png_decode(im, bytes, n, max_pixels, where, err);
    else if (is_jpeg(bytes, n))
        st = kd__jpeg_decode(im, bytes, n, max_pixels, where, err);
    else
        return kd_fail(err, KD_EUNSUPPORTED, "%s: neither a PNG nor a JPEG file", where);
    if (st) kd_image_release(im);
    return st;
}

void kd_image_release(kd_image *im)
{
    free(im->pixels);
    memset(im, 0, sizeof *im);
}

/* ---- fitting ------------------------------------------------------------------------------------ */

/* What of source cell i, of n, lies in output cell o, of m; in source cells. */
static double overlap(int64_t o, int64_t m, int64_t i, int64_t n)
{
    double from = (double)o * (double)n / (double)m, to = (double)(o + 1) * (double)n / (double)m;
    return fmin(to, (double)(i + 1)) - fmax(from, (double)i);
}
static int64_t first_cell(int64_t o, int64_t m, int64_t n) { return o * n / m; }
static int64_t end_cell(int64_t o, int64_t m, int64_t n) { return ((o + 1) * n + m - 1) / m; }

/* One sample of a pixel p of `have` samples as one of `want`. */
static double sample(const uint8_t *p, int64_t have, int64_t want, int64_t c)
{
    if (have == want) return p[c];
    return have == 1 ? p[0] : 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
}

/* A row of the picture at the new width: line (width, channels). */
static void fit_line(const kd_image *im, int64_t y, int64_t width, int64_t channels, double *line)
{
    const uint8_t *row = im->pixels + y * im->width * im->channels; // (width, channels)
    for (int64_t x = 0; x < width; x++) {
        for (int64_t c = 0; c < channels; c++) {
            double sum = 0;
            for (int64_t i = first_cell(x, width, im->width); i < end_cell(x, width, im->width); i++)
                sum += overlap(x, width, i, im->width) *
                       sample(row + i * im->channels, im->channels, channels, c);
            line[x * channels + c] = sum;
        }
    }
}

kd_status kd_image_fit(const kd_image *im, int64_t height, int64_t width, int64_t channels, float *out,
                       kd_err *err)
{
    const size_t n = (size_t)(width * channels);
    double *line = kd_alloc_aligned(2 * n, sizeof *line), *sum = line + n;
    if (!line) return kd_fail(err, KD_ENOMEM, "no memory for a line of %lld pixels", (long long)width);
    const double area = (double)im->height / (double)height * (double)im->width / (double)width;
    for (int64_t y = 0; y < height; y++, out += n) {
        memset(sum, 0, n * sizeof *sum);
        for (int64_t i = first_cell(y, height, im->height); i < end_cell(y, height, im->height); i++) {
            const double share = overlap(y, height, i, im->height);
            fit_line(im, i, width, channels, line);
            for (size_t k = 0; k < n; k++) sum[k] += share * line[k];
        }
        for (size_t k = 0; k < n; k++) out[k] = (float)(sum[k] / area);
    }
    free(line);
    return KD_OK;
}
