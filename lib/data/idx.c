/* idx.c - the format of the MNIST family: a magic that says the type, sizes, values; all big-endian.
 *
 *     0  u8  0          3  u8  number of axes, the first counts rows
 *     1  u8  0          4  u32 length of each axis
 *     2  u8  type       then the values
 */
#include "data_private.h"

#include <string.h>

static kd_dtype type_of(uint8_t code)
{
    switch (code) {
    case 0x08: return KD_U8;
    case 0x09: return KD_I8;
    case 0x0B: return KD_I16;
    case 0x0C: return KD_I32;
    case 0x0D: return KD_F32;
    case 0x0E: return KD_F64;
    default: return KD_DTYPE_NONE;
    }
}

static kd_status read_head(kd__rawfile *r, void *buf, size_t n, kd_err *err)
{
    size_t got;
    kd_status st = kd__raw_read(r, buf, n, &got, err);
    if (st || got == n) return st;
    return kd_fail(err, KD_ECORRUPT, "%s: truncated inside its IDX header: %zu bytes where %zu are needed%s",
                   kd__raw_path(r), got, n, kd__raw_cut(r));
}

kd_status kd__idx_read(kd_array *a, kd__rawfile *r, kd_err *err)
{
    uint8_t magic[4], size[4 * 7];
    const char *path = kd__raw_path(r);
    kd_status st = read_head(r, magic, sizeof(magic), err);
    if (st) return st;
    if (magic[0] || magic[1])
        return kd_fail(err, KD_ECORRUPT,
                       "%s: an IDX file begins with two zero bytes, this one with %02x %02x", path, magic[0],
                       magic[1]);
    a->dtype = type_of(magic[2]);
    if (a->dtype == KD_DTYPE_NONE)
        return kd_fail(err, KD_ECORRUPT,
                       "%s: IDX type 0x%02x is unknown, known are 08, 09, 0b, 0c, 0d and 0e", path, magic[2]);
    if (magic[3] < 1 || magic[3] > 7)
        return kd_fail(err, KD_ECORRUPT, "%s: %u axes in its IDX header, supported are 1 to 7", path,
                       magic[3]);
    if ((st = read_head(r, size, 4u * magic[3], err))) return st;
    a->ndims = magic[3] - 1;
    for (int i = 0; i < magic[3]; i++) {
        const uint8_t *b = size + 4 * i;
        uint32_t n = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
        if (i == 0)
            a->rows = n;
        else
            a->dims[i - 1] = n;
    }
    return kd__payload_read(a, r, __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, err);
}
