/* dtype.c - element types and their conversion to and from f32.
 *
 * Stores hold bytes of many types; everything that computes works in f32. The conversions here are
 * plain portable C that compilers turn into vector code: half precision goes by bit tricks that
 * round to nearest even and keep infinities, NaNs and denormals right on every machine, so the same
 * record gives the same floats whether or not the CPU has F16C. Input and output may be unaligned
 * (records are borrowed from a map), hence the memcpy of each element, which costs nothing.
 */
#include "kd/base.h"

#include <math.h>
#include <string.h>

size_t kd_dtype_size(kd_dtype t)
{
    switch (t) {
#define X(NAME, name, size)                                                                                  \
    case KD_##NAME: return size;
        KD_DTYPE_MAP(X)
#undef X
    default: return 0;
    }
}

const char *kd_dtype_name(kd_dtype t)
{
    switch (t) {
#define X(NAME, name, size)                                                                                  \
    case KD_##NAME: return #name;
        KD_DTYPE_MAP(X)
#undef X
    default: return "none";
    }
}

kd_dtype kd_dtype_parse(const char *name)
{
    if (!name) return KD_DTYPE_NONE;
#define X(NAME, text, size)                                                                                  \
    if (!strcmp(name, #text)) return KD_##NAME;
    KD_DTYPE_MAP(X)
#undef X
    return KD_DTYPE_NONE;
}

bool kd_dtype_is_float(kd_dtype t) { return t == KD_F16 || t == KD_BF16 || t == KD_F32 || t == KD_F64; }

static inline uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7FFFu;
    uint32_t normal = (rest << 13) + (112u << 23);       // exponent bias 15 becomes 127
    uint32_t special = (rest << 13) | 0x7F800000u;       // infinity, NaN with its payload
    uint32_t denormal = bits_of((float)rest * 0x1p-24f); // exact: at most 10 bits
    uint32_t u = rest >= 0x7C00u ? special : rest >= 0x0400u ? normal : denormal;
    return float_of(u | sign);
}

static inline uint16_t to_f16(float f)
{
    uint32_t u = bits_of(f), sign = (u >> 16) & 0x8000u;
    u &= 0x7FFFFFFFu;
    uint32_t special = u > 0x7F800000u ? 0x7E00u | ((u >> 13) & 0x1FFu) : 0x7C00u;
    /* Below 2^-14: adding 0.5 makes the FPU round at 2^-24, the unit of a denormal half. */
    uint32_t denormal = bits_of(float_of(u) + 0.5f) - 0x3F000000u;
    uint32_t normal = (u - (112u << 23) + 0x0FFFu + ((u >> 13) & 1u)) >> 13;
    uint32_t h = u >= 0x47800000u ? special : u < 0x38800000u ? denormal : normal;
    return (uint16_t)(h | sign);
}

static inline float from_bf16(uint16_t h) { return float_of((uint32_t)h << 16); }

static inline uint16_t to_bf16(float f)
{
    uint32_t u = bits_of(f);
    uint32_t nan = (u >> 16) | 0x40u, rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
    return (uint16_t)((u & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded);
}

static inline float same(float f) { return f; }

#define READ(TYPE, CONVERT)                                                                                  \
    for (size_t i = 0; i < n; i++) {                                                                         \
        TYPE x;                                                                                              \
        memcpy(&x, (const char *)in + i * sizeof x, sizeof x);                                               \
        out[i] = CONVERT(x);                                                                                 \
    }                                                                                                        \
    return KD_OK

kd_status kd_to_f32(float *out, const void *in, kd_dtype t, size_t n)
{
    switch (t) {
    case KD_U8: READ(uint8_t, (float));
    case KD_I8: READ(int8_t, (float));
    case KD_U16: READ(uint16_t, (float));
    case KD_I16: READ(int16_t, (float));
    case KD_U32: READ(uint32_t, (float));
    case KD_I32: READ(int32_t, (float));
    case KD_U64: READ(uint64_t, (float));
    case KD_I64: READ(int64_t, (float));
    case KD_F16: READ(uint16_t, from_f16);
    case KD_BF16: READ(uint16_t, from_bf16);
    case KD_F32: READ(float, same);
    case KD_F64: READ(double, (float));
    default: return KD_EUNSUPPORTED;
    }
}

/* The bounds are floats: `lo` is exact for every type; `over` is the first float past the largest
 * value (2^bits), so that the comparison is exact even where the largest value is no float. A NaN
 * has no integer and becomes 0. */
#define WRITE_INT(TYPE, LO, OVER, MAX)                                                                       \
    for (size_t i = 0; i < n; i++) {                                                                         \
        float f = rintf(in[i]);                                                                              \
        TYPE x = f != f ? 0 : f <= (LO) ? (TYPE)(LO) : f >= (OVER) ? (TYPE)(MAX) : (TYPE)f;                  \
        memcpy((char *)out + i * sizeof x, &x, sizeof x);                                                    \
    }                                                                                                        \
    return KD_OK

#define WRITE(TYPE, CONVERT)                                                                                 \
    for (size_t i = 0; i < n; i++) {                                                                         \
        TYPE x = CONVERT(in[i]);                                                                             \
        memcpy((char *)out + i * sizeof x, &x, sizeof x);                                                    \
    }                                                                                                        \
    return KD_OK

kd_status kd_from_f32(void *out, kd_dtype t, const float *in, size_t n)
{
    switch (t) {
    case KD_U8: WRITE_INT(uint8_t, 0.0f, 0x1p8f, UINT8_MAX);
    case KD_I8: WRITE_INT(int8_t, -0x1p7f, 0x1p7f, INT8_MAX);
    case KD_U16: WRITE_INT(uint16_t, 0.0f, 0x1p16f, UINT16_MAX);
    case KD_I16: WRITE_INT(int16_t, -0x1p15f, 0x1p15f, INT16_MAX);
    case KD_U32: WRITE_INT(uint32_t, 0.0f, 0x1p32f, UINT32_MAX);
    case KD_I32: WRITE_INT(int32_t, -0x1p31f, 0x1p31f, INT32_MAX);
    case KD_U64: WRITE_INT(uint64_t, 0.0f, 0x1p64f, UINT64_MAX);
    case KD_I64: WRITE_INT(int64_t, -0x1p63f, 0x1p63f, INT64_MAX);
    case KD_F16: WRITE(uint16_t, to_f16);
    case KD_BF16: WRITE(uint16_t, to_bf16);
    case KD_F32: WRITE(float, same);
    case KD_F64: WRITE(double, (double));
    default: return KD_EUNSUPPORTED;
    }
}
