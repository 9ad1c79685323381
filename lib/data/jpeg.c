/* jpeg.c - JPEG files in memory, by libjpeg.
 *
 * libjpeg reports by calls that a program replaces: error_exit must not return and leaves by longjmp; what it
 * calls a warning is a picture that is partly made up (the rest of a file that ends early is grey), so all
 * but two harmless ones count as errors. A small progressive file can ask for thousands of passes over a
 * large picture: more than MAX_SCANS are refused.
 *
 * Cameras store pictures as their sensor lies and note how to turn them (Exif, tag 0x0112). A student never
 * saw a shoe standing on its heel, so the note is followed.
 */
#include "data_private.h"

#include <setjmp.h>
#include <jpeglib.h>
#include <jerror.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SCANS  200
#define MAX_MEMORY (512L << 20) /* libjpeg's own, for progressive files */

typedef struct jpeg_work {
    struct jpeg_decompress_struct c;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf out;
    kd_image *im;
    int turned;       /* as Exif counts */
    kd_status status; /* of our own checks; KD_OK: libjpeg failed */
    char why[JMSG_LENGTH_MAX];
} jpeg_work;

static void on_error(j_common_ptr c)
{
    jpeg_work *w = c->client_data;
    c->err->format_message(c, w->why);
    longjmp(w->out, 1);
}

static void on_message(j_common_ptr c, int level)
{
    const int code = c->err->msg_code;
    if (level < 0 && code != JWRN_EXTRANEOUS_DATA && code != JWRN_ADOBE_XFORM) on_error(c);
}

static void on_text(j_common_ptr c) { (void)c; }

static void on_pass(j_common_ptr c)
{
    jpeg_work *w = c->client_data;
    if (w->c.input_scan_number <= MAX_SCANS) return;
    snprintf(w->why, sizeof w->why, "more than %d scans", MAX_SCANS);
    longjmp(w->out, 1);
}

/* ---- orientation -------------------------------------------------------------------------------- */

static unsigned number(const uint8_t *p, size_t bytes, bool big)
{
    unsigned v = 0;
    for (size_t i = 0; i < bytes; i++) v = v << 8 | p[big ? i : bytes - 1 - i];
    return v;
}

/* 1 to 8 as Exif counts: 1 is upright; 1 as well where nothing or nonsense is said. */
static int orientation(const struct jpeg_decompress_struct *c)
{
    const jpeg_saved_marker_ptr m = c->marker_list;
    if (!m || m->data_length < 14 || memcmp(m->data, "Exif\0", 6)) return 1;
    const uint8_t *tiff = m->data + 6;
    const size_t len = m->data_length - 6;
    const bool big = tiff[0] == 'M';
    const size_t at = number(tiff + 4, 4, big); // of the first directory: a count, then entries of 12 bytes
    if (at > len - 2) return 1;
    const size_t n = number(tiff + at, 2, big);
    for (size_t i = 0; i < n && at + 2 + 12 * (i + 1) <= len; i++) {
        const uint8_t *e = tiff + at + 2 + 12 * i;
        if (number(e, 2, big) != 0x0112) continue;
        const unsigned v = number(e + 8, 2, big);
        return v >= 1 && v <= 8 ? (int)v : 1;
    }
    return 1;
}

/* Where pixel (y, x) of the upright picture is in the stored one. */
static size_t stored_place(const kd_image *stored, int how, int64_t y, int64_t x)
{
    const int64_t h = stored->height - 1, w = stored->width - 1;
    int64_t sy = y, sx = x;
    if (how >= 5) sy = x, sx = y;
    if (how == 2 || how == 3 || how == 7 || how == 8) sx = w - sx;
    if (how == 3 || how == 4 || how == 6 || how == 7) sy = h - sy;
    return (size_t)(sy * stored->width + sx);
}

static kd_status turn(kd_image *im, int how, const char *where, kd_err *err)
{
    kd_image up = *im;
    if (how >= 5) up.height = im->width, up.width = im->height;
    kd_status st = kd__image_room(&up, up.channels, UINT64_MAX, where, err);
    if (st) return st;
    const size_t c = (size_t)up.channels;
    uint8_t *to = up.pixels;
    for (int64_t y = 0; y < up.height; y++)
        for (int64_t x = 0; x < up.width; x++, to += c)
            memcpy(to, im->pixels + c * stored_place(im, how, y, x), c);
    free(im->pixels);
    *im = up;
    return KD_OK;
}

/* ---- decoding ----------------------------------------------------------------------------------- */

/* Grey or colour into im->pixels; false: see w->status and w->why. */
static bool read_pixels(jpeg_work *w, const void *bytes, size_t n, uint64_t max_pixels, const char *where,
                        kd_err *err)
{
    if (setjmp(w->out)) return false;
    jpeg_create_decompress(&w->c);
    w->c.progress = &w->progress;
    w->c.mem->max_memory_to_use = MAX_MEMORY;
    jpeg_mem_src(&w->c, bytes, (unsigned long)n);
    jpeg_save_markers(&w->c, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(&w->c, TRUE);
    w->turned = orientation(&w->c); // the markers do not outlive the decoding
    w->im->width = w->c.image_width;
    w->im->height = w->c.image_height;
    if (w->c.num_components != 1 && w->c.num_components != 3) {
        w->status = kd_fail(err, KD_EUNSUPPORTED,
                            "%s: a JPEG of %d colour components (CMYK?), supported are grey and RGB", where,
                            w->c.num_components);
        return false;
    }
    w->im->channels = w->c.num_components;
    w->c.out_color_space = w->im->channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    if ((w->status = kd__image_room(w->im, w->im->channels, max_pixels, where, err))) return false;
    jpeg_start_decompress(&w->c);
    while (w->c.output_scanline < w->c.output_height) {
        JSAMPROW line =
            w->im->pixels + (size_t)w->c.output_scanline * (size_t)(w->im->width * w->im->channels);
        jpeg_read_scanlines(&w->c, &line, 1);
    }
    jpeg_finish_decompress(&w->c);
    return true;
}

kd_status kd__jpeg_decode(kd_image *im, const void *bytes, size_t n, uint64_t max_pixels, const char *where,
                          kd_err *err)
{
    jpeg_work w = {.im = im};
    kd_status st = KD_OK;
    w.c.err = jpeg_std_error(&w.errors);
    w.errors.error_exit = on_error;
    w.errors.emit_message = on_message;
    w.errors.output_message = on_text;
    w.progress.progress_monitor = on_pass;
    w.c.client_data = &w;
    if (!read_pixels(&w, bytes, n, max_pixels, where, err))
        st = w.status ? w.status : kd_fail(err, KD_ECORRUPT, "%s: damaged JPEG: %s", where, w.why);
    else if (w.turned != 1)
        st = turn(im, w.turned, where, err);
    jpeg_destroy_decompress(&w.c);
    return st;
}
