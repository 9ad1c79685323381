/* source.c - an array from a file: finds out what the file is, and reads what its header promised.
 *
 * Formats are told by content (gzip, \x93NUMPY, the two zero bytes of IDX); only text has no magic,
 * so CSV and TSV go by suffix. The numbers in a header are claims of a stranger: products are
 * multiplied with a check, compared with what a plain file still holds before anything is allocated,
 * and behind gzip, where the end is not known, the buffer only doubles as data really arrive. So a
 * header of 16 bytes cannot make kd allocate 16 GiB.
 */
#include "data_private.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES (1u << 20) /* first allocation when the length is not known */

size_t kd_array_row_bytes(const kd_array *a)
{
    size_t n = kd_dtype_size(a->dtype);
    for (int i = 0; i < a->ndims; i++)
        if (!kd_mul_size(n, (size_t)a->dims[i], &n)) return 0;
    return n;
}

void kd_array_release(kd_array *a)
{
    if (!a) return;
    free(a->data);
    *a = (kd_array){0};
}

/* In place; types of one byte stay as they are. */
static void swap_bytes(uint8_t *p, size_t bytes, size_t size)
{
    switch (size) {
    case 2:
        for (size_t i = 0; i < bytes; i += 2) {
            uint16_t x;
            memcpy(&x, p + i, 2);
            x = __builtin_bswap16(x);
            memcpy(p + i, &x, 2);
        }
        break;
    case 4:
        for (size_t i = 0; i < bytes; i += 4) {
            uint32_t x;
            memcpy(&x, p + i, 4);
            x = __builtin_bswap32(x);
            memcpy(p + i, &x, 4);
        }
        break;
    case 8:
        for (size_t i = 0; i < bytes; i += 8) {
            uint64_t x;
            memcpy(&x, p + i, 8);
            x = __builtin_bswap64(x);
            memcpy(p + i, &x, 8);
        }
        break;
    default: break;
    }
}

/* The bytes that the header asks for, checked against limits and, where known, the file. */
static kd_status claimed_bytes(const kd_array *a, const kd__rawfile *r, size_t *row, size_t *all, kd_err *err)
{
    const char *path = kd__raw_path(r);
    uint64_t left;
    *row = kd_dtype_size(a->dtype);
    if (!a->rows) return kd_fail(err, KD_ECORRUPT, "%s: header says 0 rows, expected at least 1", path);
    for (int i = 0; i < a->ndims; i++) {
        if (a->dims[i] < 1)
            return kd_fail(err, KD_ECORRUPT, "%s: axis %d of its header has length 0", path, i + 1);
        if (!kd_mul_size(*row, (size_t)a->dims[i], row))
            return kd_fail(err, KD_ECORRUPT, "%s: the sizes in its header multiply to more than 2^64 bytes",
                           path);
    }
    if (!kd_mul_size(*row, (size_t)a->rows, all))
        return kd_fail(err, KD_ECORRUPT, "%s: the sizes in its header multiply to more than 2^64 bytes",
                       path);
    if (kd__raw_left(r, &left) && left < *all)
        return kd_fail(err, KD_ECORRUPT, "%s: truncated: header says %llu rows of %zu bytes, file holds %llu",
                       path, (unsigned long long)a->rows, *row, (unsigned long long)(left / *row));
    if (*all > KD__SOURCE_MAX_BYTES)
        return kd_fail(
            err, KD_ELIMIT,
            "%s: header says %llu rows of %zu bytes, the limit is %llu bytes for one file; split it", path,
            (unsigned long long)a->rows, *row, (unsigned long long)KD__SOURCE_MAX_BYTES);
    return KD_OK;
}

kd_status kd__payload_read(kd_array *a, kd__rawfile *r, bool swap, kd_err *err)
{
    size_t row = 0, all = 0, cap, have = 0, got;
    uint64_t left;
    char expected[96];
    kd_status st = claimed_bytes(a, r, &row, &all, err);
    if (st) return st;
    cap = kd__raw_left(r, &left) ? all : kd_min_size(all, FIRST_BYTES);
    for (;;) {
        uint8_t *bigger = realloc(a->data, cap);
        if (!bigger) return kd_fail(err, KD_ENOMEM, "%s: no memory for %zu bytes", kd__raw_path(r), cap);
        a->data = bigger;
        if ((st = kd__raw_read(r, bigger + have, cap - have, &got, err))) return st;
        have += got;
        if (have == all) break;
        if (have < cap)
            return kd_fail(err, KD_ECORRUPT,
                           "%s: truncated: header says %llu rows of %zu bytes, file holds %zu%s",
                           kd__raw_path(r), (unsigned long long)a->rows, row, have / row, kd__raw_cut(r));
        cap = all - cap < cap ? all : 2 * cap;
    }
    snprintf(expected, sizeof(expected), "%llu rows of %zu bytes", (unsigned long long)a->rows, row);
    if ((st = kd__raw_end(r, expected, err))) return st;
    if (swap) swap_bytes(a->data, all, kd_dtype_size(a->dtype));
    return KD_OK;
}

/* ',' or '\t' for a name that ends in .csv or .tsv, also with .gz behind it; 0 for others. */
static char separator_of(const char *path)
{
    size_t n = strlen(path);
    if (n > 3 && !strcasecmp(path + n - 3, ".gz")) n -= 3;
    if (n > 4 && !strncasecmp(path + n - 4, ".csv", 4)) return ',';
    if (n > 4 && !strncasecmp(path + n - 4, ".tsv", 4)) return '\t';
    return 0;
}

bool kd__source_is_text(const char *path) { return separator_of(path) != 0; }

static kd_status read_any(kd_array *a, kd__rawfile *r, const char *column, const char *exclude, kd_err *err)
{
    const uint8_t *p;
    size_t n;
    const char *path = kd__raw_path(r);
    char separator = separator_of(path);
    kd_status st = kd__raw_peek(r, &p, 8, &n, err);
    if (st) return st;
    if (n == 0) return kd_fail(err, KD_ECORRUPT, "%s: empty%s", path, kd__raw_cut(r));
    bool npy = n >= 6 && !memcmp(p, "\x93NUMPY", 6), idx = n >= 2 && !p[0] && !p[1];
    if (separator && !npy && !idx) return kd__csv_read(a, r, separator, column, exclude, err);
    if (column)
        return kd_fail(err, KD_EUSAGE,
                       "%s: column '%s' asked for, but only CSV and TSV files have named columns", path,
                       column);
    if (npy) return kd__npy_read(a, r, err);
    if (idx) return kd__idx_read(a, r, err);
    return kd_fail(err, KD_ECORRUPT,
                   "%s: begins with %02x %02x, expected IDX (00 00), .npy (93 4e 55 4d 50 59), or text named "
                   ".csv or .tsv",
                   path, p[0], n > 1 ? p[1] : 0);
}

kd_status kd__array_read(kd_array *a, const char *path, const char *column, const char *exclude,
                         uint64_t *bytes, kd_id *hash, kd_err *err)
{
    kd__rawfile *r;
    uint64_t n;
    kd_id id;
    *a = (kd_array){0};
    kd_status st = kd__raw_open(&r, path, err);
    if (st) return st;
    st = read_any(a, r, column, exclude, err);
    if (st) kd_array_release(a);
    kd__raw_identity(r, &n, &id);
    if (bytes) *bytes = n;
    if (hash) *hash = id;
    kd__raw_close(r);
    return st;
}

kd_status kd_array_read(kd_array *a, const char *path, const char *column, kd_err *err)
{
    return kd__array_read(a, path, column, NULL, NULL, NULL, err);
}
