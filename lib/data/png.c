/* png.c - PNG files in memory, by libpng: decoding strangers' files, and writing our own.
 *
 * libpng reports by a call that must not return; it leaves by longjmp to the one setjmp of each function, and
 * everything that must survive the jump lives in a struct of the caller's. Its warnings are about side
 * information (profiles, texts), most of which is not even read: they are dropped. Data that end early are
 * errors.
 */
#include "data_private.h"

#include <png.h>
#include <stdlib.h>
#include <string.h>

typedef struct png_work {
    png_structp png;
    png_infop info;
    const uint8_t *at, *end; /* decoding: what is still to be read */
    kd_buf *out;             /* encoding */
    png_bytep *lines;        /* (height) */
    kd_image *im;
    kd_status status; /* of our own checks; KD_OK: libpng failed */
    char why[160];
} png_work;

static void on_error(png_structp png, png_const_charp text)
{
    png_work *w = png_get_error_ptr(png);
    snprintf(w->why, sizeof w->why, "%s", text);
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp text) { (void)png, (void)text; }

/* Rows of the picture as libpng wants them. */
static bool take_lines(png_work *w, uint8_t *pixels, size_t line)
{
    w->lines = calloc((size_t)w->im->height, sizeof *w->lines);
    for (int64_t y = 0; w->lines && y < w->im->height; y++) w->lines[y] = pixels + (size_t)y * line;
    return w->lines != NULL;
}

/* ---- decoding ----------------------------------------------------------------------------------- */

static void take_bytes(png_structp png, png_bytep to, size_t n)
{
    png_work *w = png_get_io_ptr(png);
    if (n > (size_t)(w->end - w->at)) png_error(png, "the file ends early");
    memcpy(to, w->at, n);
    w->at += n;
}

/* Chunks that say nothing of the pixels are not parsed at all. */
static void skip_chunks(png_structp png)
{
    static const png_byte names[] = "iCCP\0tEXt\0zTXt\0iTXt\0eXIf\0sPLT\0hIST\0pCAL\0sCAL\0tIME\0oFFs";
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, names, (int)(sizeof names / 5));
    png_set_chunk_malloc_max(png, 8u << 20);
}

/* Up to four samples a pixel into im->pixels; false: see w->status and w->why. */
static bool read_pixels(png_work *w, uint64_t max_pixels, const char *where, kd_err *err)
{
    if (setjmp(png_jmpbuf(w->png))) return false;
    png_set_read_fn(w->png, w, take_bytes);
    skip_chunks(w->png);
    png_read_info(w->png, w->info);
    w->im->width = png_get_image_width(w->png, w->info);
    w->im->height = png_get_image_height(w->png, w->info);
    png_set_expand(w->png);
    png_set_scale_16(w->png);
    png_set_interlace_handling(w->png);
    png_read_update_info(w->png, w->info);
    w->im->channels = png_get_channels(w->png, w->info);
    if ((w->status = kd__image_room(w->im, w->im->channels, max_pixels, where, err))) return false;
    const size_t line = (size_t)(w->im->width * w->im->channels);
    if (png_get_rowbytes(w->png, w->info) != line) png_error(w->png, "unexpected bytes a row");
    if (!take_lines(w, w->im->pixels, line)) png_error(w->png, "out of memory");
    png_read_image(w->png, w->lines);
    png_read_end(w->png, NULL);
    return true;
}

/* Two or four samples a pixel become one or three: what shines through is white. */
static void lay_on_white(kd_image *im)
{
    const int64_t have = im->channels, keep = have - 1;
    uint8_t *to = im->pixels;
    for (int64_t i = 0; i < im->height * im->width; i++) {
        const uint8_t *p = im->pixels + i * have;
        const unsigned alpha = p[keep];
        im->transparent |= alpha < 255;
        for (int64_t c = 0; c < keep; c++)
            *to++ = (uint8_t)((p[c] * alpha + 255 * (255 - alpha) + 127) / 255);
    }
    im->channels = keep;
}

kd_status kd__png_decode(kd_image *im, const void *bytes, size_t n, uint64_t max_pixels, const char *where,
                         kd_err *err)
{
    png_work w = {.at = bytes, .end = (const uint8_t *)bytes + n, .im = im};
    kd_status st = KD_OK;
    w.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &w, on_error, on_warning);
    w.info = w.png ? png_create_info_struct(w.png) : NULL;
    if (!w.info)
        st = kd_fail(err, KD_ENOMEM, "%s: no memory to decode it", where);
    else if (!read_pixels(&w, max_pixels, where, err))
        st = w.status ? w.status : kd_fail(err, KD_ECORRUPT, "%s: damaged PNG: %s", where, w.why);
    else if (im->channels % 2 == 0)
        lay_on_white(im);
    png_destroy_read_struct(&w.png, &w.info, NULL);
    free(w.lines);
    return st;
}

/* ---- writing ------------------------------------------------------------------------------------ */

static void give_bytes(png_structp png, png_bytep bytes, size_t n)
{
    kd_buf_append(((png_work *)png_get_io_ptr(png))->out, bytes, n);
}

static void give_nothing(png_structp png) { (void)png; }

static bool write_pixels(png_work *w)
{
    if (setjmp(png_jmpbuf(w->png))) return false;
    png_set_write_fn(w->png, w, give_bytes, give_nothing);
    png_set_IHDR(w->png, w->info, (png_uint_32)w->im->width, (png_uint_32)w->im->height, 8,
                 w->im->channels == 3 ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(w->png, 9);
    png_write_info(w->png, w->info);
    png_write_image(w->png, w->lines);
    png_write_end(w->png, w->info);
    return true;
}

kd_status kd_image_png(kd_buf *out, const uint8_t *pixels, int64_t height, int64_t width, int64_t channels,
                       kd_err *err)
{
    kd_image im = {.height = height, .width = width, .channels = channels};
    png_work w = {.out = out, .im = &im};
    kd_status st = KD_OK;
    if (height < 1 || height > INT32_MAX || width < 1 || width > INT32_MAX ||
        (channels != 1 && channels != 3))
        return kd_fail(err, KD_EUSAGE, "no PNG has %lld x %lld pixels of %lld samples", (long long)width,
                       (long long)height, (long long)channels);
    w.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &w, on_error, on_warning);
    w.info = w.png ? png_create_info_struct(w.png) : NULL;
    // libpng does not write into the rows it is given; its types only do not say so
    if (!w.info || !take_lines(&w, (uint8_t *)pixels, (size_t)(width * channels)))
        st = kd_fail(err, KD_ENOMEM, "no memory to write a PNG");
    else if (!write_pixels(&w))
        st = kd_fail(err, KD_EUSAGE, "a PNG of %lld x %lld pixels: %s", (long long)width, (long long)height,
                     w.why);
    else if (out->failed)
        st = kd_fail(err, KD_ENOMEM, "no memory to write a PNG");
    png_destroy_write_struct(&w.png, &w.info);
    free(w.lines);
    return st;
}
