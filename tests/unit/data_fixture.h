/* data_fixture.h - files to read and pack, in a folder of their own. */
#ifndef KD_DATA_FIXTURE_H
#define KD_DATA_FIXTURE_H

#include "kd/data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <cmocka.h>

static char fx_dir[64];
static kd_err fx_err;

/* The call succeeds, or its sentence is shown. */
#define OK(call)                                                                                             \
    do {                                                                                                     \
        fx_err = (kd_err){0};                                                                                \
        if (call) fail_msg("%s: %s", #call, fx_err.msg);                                                     \
    } while (0)
/* The call fails with that code and a sentence that holds text. */
#define FAILS(call, code, text) fx_fails((fx_err = (kd_err){0}, (call)), code, text, __LINE__)

static inline void fx_fails(kd_status st, kd_status want, const char *text, int line)
{
    if (st != want) fail_msg("line %d: status %d (%s), expected %d", line, st, fx_err.msg, want);
    if (!strstr(fx_err.msg, text)) fail_msg("line %d: '%s' does not hold '%s'", line, fx_err.msg, text);
    assert_int_equal(fx_err.code, want);
}

static inline int fx_setup(void **state)
{
    (void)state;
    snprintf(fx_dir, sizeof(fx_dir), "/tmp/kd-test-data.XXXXXX");
    return mkdtemp(fx_dir) ? 0 : -1;
}

static inline int fx_teardown(void **state)
{
    (void)state;
    return kd_remove_tree(fx_dir, NULL);
}

/* A path in the folder; of the last 64 calls. */
static inline char *fx_path(const char *name)
{
    static char path[64][256];
    static int turn;
    char *p = path[turn++ % 64];
    snprintf(p, sizeof(path[0]), "%s/%s", fx_dir, name);
    return p;
}

/* Plain and quick: kd_file_write would sync each of thousands of files. */
static inline char *fx_write(const char *name, const void *data, size_t len)
{
    char *p = fx_path(name);
    FILE *f = fopen(p, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    return p;
}

/* gzip of data; *size: its length. free() it. */
static inline uint8_t *fx_gzip(const void *data, size_t len, size_t *size)
{
    uint8_t *out = malloc(len + 1024);
    z_stream z = {0};
    assert_non_null(out);
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (uint8_t *)(uintptr_t)data;
    z.avail_in = (uInt)len;
    z.next_out = out;
    z.avail_out = (uInt)(len + 1024);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    *size = z.total_out;
    deflateEnd(&z);
    return out;
}

static inline char *fx_write_gz(const char *name, const void *data, size_t len)
{
    size_t size;
    uint8_t *gz = fx_gzip(data, len, &size);
    char *p = fx_write(name, gz, size);
    free(gz);
    return p;
}

/* An IDX file in memory; dims: axes, rows first. Returns its length. */
static inline size_t fx_idx(uint8_t *out, uint8_t type, int axes, const uint32_t *dims, const void *data,
                            size_t len)
{
    size_t n = 0;
    out[n++] = 0, out[n++] = 0, out[n++] = type, out[n++] = (uint8_t)axes;
    for (int i = 0; i < axes; i++)
        for (int shift = 24; shift >= 0; shift -= 8) out[n++] = (uint8_t)(dims[i] >> shift);
    if (len) memcpy(out + n, data, len);
    return n + len;
}

/* A .npy file of version 1 with that header text. */
static inline size_t fx_npy(uint8_t *out, const char *header, const void *data, size_t len)
{
    size_t n = strlen(header);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (uint8_t)n;
    out[9] = (uint8_t)(n >> 8);
    memcpy(out + 10, header, n);
    if (len) memcpy(out + 10 + n, data, len);
    return 10 + n + len;
}

/* Images of 2 x 3 u8 and labels as two IDX files NAME-x, NAME-y. Row i is made from i + salt; same: rows
 * with i % same == 0 all look alike (0: none do). */
static inline void fx_images(const char *name, uint32_t rows, uint32_t salt, uint32_t same)
{
    uint8_t *x = malloc(rows * 6 + 64), *y = malloc(rows + 64), *file = malloc(rows * 6 + 64);
    char path[100];
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t v = same && i % same == 0 ? 0xABCDEF : (i + salt) * 2654435761u;
        for (int k = 0; k < 6; k++) x[6 * i + (uint32_t)k] = (uint8_t)(v >> 4 * k);
        y[i] = (uint8_t)(x[6 * i] % 5);
    }
    snprintf(path, sizeof(path), "%s-x", name);
    fx_write(path, file, fx_idx(file, 0x08, 3, (uint32_t[]){rows, 2, 3}, x, rows * 6));
    snprintf(path, sizeof(path), "%s-y", name);
    fx_write(path, file, fx_idx(file, 0x08, 1, (uint32_t[]){rows}, y, rows));
    free(x);
    free(y);
    free(file);
}

/* A spec with its defaults; release: kd_config_release(c). text: YAML behind "data:". */
static inline void fx_spec(kd_config *c, kd_data_spec *s, const char *text)
{
    char *yaml = kd_sprintf("data:\n%s", text);
    *c = (kd_config){0};
    OK(kd_config_add(c, kd_data_options, kd_data_options_n, s, &fx_err));
    OK(kd_config_yaml_text(c, "data.yaml", yaml, strlen(yaml), &fx_err));
    free(yaml);
}

/* A spec over fx_images: test may be NULL. more: further YAML lines, may be "". */
static inline void fx_image_spec(kd_config *c, kd_data_spec *s, const char *train, const char *test,
                                 const char *more)
{
    char *t =
        test ? kd_sprintf("  test_input: [%s/%s-x]\n  test_label: [%s/%s-y]\n", fx_dir, test, fx_dir, test)
             : kd_strdup("");
    char *yaml = kd_sprintf("  train_input: [%s/%s-x]\n  train_label: [%s/%s-y]\n%s%s", fx_dir, train, fx_dir,
                            train, t, more);
    fx_spec(c, s, yaml);
    free(yaml);
    free(t);
}

#endif
