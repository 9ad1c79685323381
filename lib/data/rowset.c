/* rowset.c - several source files as one array of rows.
 *
 * Files of a set must agree on the shape of a row. Their element types may differ, because a CSV file
 * has the narrowest type that holds its values: types are widened to the narrowest one that holds
 * both, so that a file's rows have the same bytes (and so the same ids) whatever stands beside it only
 * as far as its own type allows; data.yaml names all files of a store at once for that reason.
 */
#include "data_private.h"

#include <stdlib.h>
#include <string.h>

const char *kd__shape_text(kd_dtype t, int ndims, const int64_t *dims, char *buf, size_t len)
{
    size_t n = 0;
    buf[0] = '\0';
    for (int i = 0; i < ndims && n < len; i++)
        n += (size_t)snprintf(buf + n, len - n, "%s%lld", i ? " x " : "", (long long)dims[i]);
    if (n < len) snprintf(buf + n, len - n, "%s%s", ndims ? " of " : "one ", kd_dtype_name(t));
    return buf;
}

/* ---- element types ------------------------------------------------------------------------ */

static bool is_signed(kd_dtype t) { return t == KD_I8 || t == KD_I16 || t == KD_I32 || t == KD_I64; }

/* The narrowest type that holds all values of both (u64 beside signed ones, and wide integers beside
 * floats, as well as a float can). */
static kd_dtype common(kd_dtype a, kd_dtype b)
{
    if (a == b) return a;
    if (kd_dtype_is_float(a) || kd_dtype_is_float(b)) return a == KD_F64 || b == KD_F64 ? KD_F64 : KD_F32;
    size_t size = kd_max_size(kd_dtype_size(a), kd_dtype_size(b));
    if (is_signed(a) == is_signed(b)) return kd_dtype_size(a) == size ? a : b;
    kd_dtype u = is_signed(a) ? b : a, s = is_signed(a) ? a : b;
    if (kd_dtype_size(u) < kd_dtype_size(s)) return s;
    return kd_dtype_size(u) == 8 ? KD_F64 : kd_dtype_size(u) == 4 ? KD_I64 : KD_I32;
}

/* Element i as f64 and, for whole numbers, as i64. */
static void get(const kd_array *a, size_t i, double *x, int64_t *n)
{
    float f;
    const void *p = (const char *)a->data + i * kd_dtype_size(a->dtype);
    switch (a->dtype) {
    case KD_U8: *n = *(const uint8_t *)p; break;
    case KD_I8: *n = *(const int8_t *)p; break;
    case KD_U16: *n = *(const uint16_t *)p; break;
    case KD_I16: *n = *(const int16_t *)p; break;
    case KD_U32: *n = *(const uint32_t *)p; break;
    case KD_I32: *n = *(const int32_t *)p; break;
    case KD_I64: *n = *(const int64_t *)p; break;
    case KD_U64: *x = (double)*(const uint64_t *)p; return;
    case KD_F64: *x = *(const double *)p; return;
    default:
        kd_to_f32(&f, p, a->dtype, 1);
        *x = (double)f;
        return;
    }
    *x = (double)*n;
}

kd_status kd__array_convert(kd_array *a, kd_dtype to, kd_err *err)
{
    size_t row = kd_array_row_bytes(a), size = kd_dtype_size(to), n, bytes;
    if (to == a->dtype) return KD_OK;
    n = row / kd_dtype_size(a->dtype) * (size_t)a->rows;
    if (!kd_mul_size(n, size, &bytes) || bytes > KD__SOURCE_MAX_BYTES)
        return kd_fail(err, KD_ELIMIT, "%zu values of %s, the limit is %llu bytes", n, kd_dtype_name(to),
                       (unsigned long long)KD__SOURCE_MAX_BYTES);
    char *out = malloc(bytes);
    if (!out) return kd_fail(err, KD_ENOMEM, "no memory for %zu bytes", bytes);
    for (size_t i = 0; i < n; i++) {
        double x;
        int64_t v = 0;
        get(a, i, &x, &v);
        switch (to) {
        case KD_U16: ((uint16_t *)out)[i] = (uint16_t)v; break;
        case KD_I16: ((int16_t *)out)[i] = (int16_t)v; break;
        case KD_U32: ((uint32_t *)out)[i] = (uint32_t)v; break;
        case KD_I32: ((int32_t *)out)[i] = (int32_t)v; break;
        case KD_U64: ((uint64_t *)out)[i] = (uint64_t)v; break;
        case KD_I64: ((int64_t *)out)[i] = v; break;
        case KD_F32: ((float *)out)[i] = (float)x; break;
        case KD_F64: ((double *)out)[i] = x; break;
        default:
            free(out);
            return kd_fail(err, KD_EUNSUPPORTED, "%s cannot be widened to %s", kd_dtype_name(a->dtype),
                           kd_dtype_name(to));
        }
    }
    free(a->data);
    a->data = out;
    a->dtype = to;
    return KD_OK;
}

/* ---- sets --------------------------------------------------------------------------------- */

void kd__rowset_release(kd__rowset *s)
{
    kd_array_release(&s->a);
    free(s->part);
    *s = (kd__rowset){0};
}

const char *kd__rowset_where(const kd__rowset *s, uint64_t *row)
{
    size_t i = 0;
    while (i + 1 < s->parts && *row >= s->part[i + 1].first) i++;
    *row -= s->part[i].first;
    return s->part[i].path;
}

/* Appends b's rows to a, which has its shape; b is released. */
static kd_status append(kd_array *a, kd_array *b, kd_err *err)
{
    size_t have, more, all;
    kd_dtype to = common(a->dtype, b->dtype);
    kd_status st = kd__array_convert(a, to, err);
    if (st || (st = kd__array_convert(b, to, err))) return st;
    have = kd_array_row_bytes(a) * (size_t)a->rows;
    more = kd_array_row_bytes(b) * (size_t)b->rows;
    if (!kd_add_size(have, more, &all)) return kd_fail(err, KD_ELIMIT, "more than 2^64 bytes together");
    char *data = realloc(a->data, all);
    if (!data) return kd_fail(err, KD_ENOMEM, "no memory for %zu bytes", all);
    a->data = data;
    memcpy(data + have, b->data, more);
    a->rows += b->rows;
    kd_array_release(b);
    return KD_OK;
}

kd_status kd__rowset_add(kd__rowset *s, const char *path, const char *column, const char *exclude,
                         kd_err *err)
{
    kd_array a;
    char was[128], is[128];
    kd__part *more = realloc(s->part, (s->parts + 1) * sizeof(*more));
    if (!more) return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    s->part = more;
    kd__part *part = &s->part[s->parts];
    *part = (kd__part){.path = path, .first = s->a.rows};
    kd_status st = kd__array_read(&a, path, column, exclude, &part->bytes, &part->hash, err);
    if (st) return st;
    part->rows = a.rows;
    if (!s->parts++) {
        s->a = a;
        return KD_OK;
    }
    bool same = a.ndims == s->a.ndims &&
                (!a.ndims || !memcmp(a.dims, s->a.dims, (size_t)a.ndims * sizeof(a.dims[0])));
    if (!same)
        st = kd_fail(err, KD_EMISMATCH, "%s: a row is %s, in %s it is %s", path,
                     kd__shape_text(a.dtype, a.ndims, a.dims, is, sizeof(is)), s->part[0].path,
                     kd__shape_text(s->a.dtype, s->a.ndims, s->a.dims, was, sizeof(was)));
    else if ((st = append(&s->a, &a, err)))
        st = kd_fail_in(err, st, "%s", path);
    kd_array_release(&a);
    return st;
}
