/* gguf_write.c - a GGUF file: keys, then tensors, then their numbers.
 *
 * A block of Q8_0 is 32 numbers: a scale (f16), the largest by 127, and 32 whole numbers. A block of Q4_0 has
 * 16 steps: its largest number, with its sign, is step -8; low halves of bytes hold the first 16 numbers.
 */
#include "kd/gguf.h"

#include <math.h>
#include <string.h>

static void put_u32(kd_buf *b, uint32_t v) { kd_buf_append(b, &v, sizeof v); }
static void put_u64(kd_buf *b, uint64_t v) { kd_buf_append(b, &v, sizeof v); }

static void put_text(kd_buf *b, const char *s, size_t len)
{
    put_u64(b, len);
    if (len) kd_buf_append(b, s, len);
}

static void put_key(kd_gguf_writer *g, const char *key, uint32_t type)
{
    put_text(&g->keys, key, strlen(key));
    put_u32(&g->keys, type);
    g->n_keys++;
}

void kd_gguf_put_u32(kd_gguf_writer *g, const char *key, uint32_t v)
{
    put_key(g, key, KD_GGUF_KIND_U32);
    put_u32(&g->keys, v);
}

void kd_gguf_put_f32(kd_gguf_writer *g, const char *key, float v)
{
    put_key(g, key, KD_GGUF_KIND_F32);
    kd_buf_append(&g->keys, &v, sizeof v);
}

void kd_gguf_put_bool(kd_gguf_writer *g, const char *key, bool v)
{
    const uint8_t byte = v;
    put_key(g, key, KD_GGUF_KIND_BOOL);
    kd_buf_append(&g->keys, &byte, 1);
}

void kd_gguf_put_str(kd_gguf_writer *g, const char *key, const char *v)
{
    put_key(g, key, KD_GGUF_KIND_TEXT);
    put_text(&g->keys, v, strlen(v));
}

void kd_gguf_put_texts(kd_gguf_writer *g, const char *key, uint64_t n)
{
    put_key(g, key, KD_GGUF_KIND_LIST);
    put_u32(&g->keys, KD_GGUF_KIND_TEXT);
    put_u64(&g->keys, n);
}

void kd_gguf_put_item(kd_gguf_writer *g, const char *v, size_t len) { put_text(&g->keys, v, len); }

void kd_gguf_put_i32s(kd_gguf_writer *g, const char *key, const int32_t *v, uint64_t n)
{
    put_key(g, key, KD_GGUF_KIND_LIST);
    put_u32(&g->keys, KD_GGUF_KIND_I32);
    put_u64(&g->keys, n);
    kd_buf_append(&g->keys, v, n * sizeof *v);
}

/* ---- tensors ------------------------------------------------------------------------------------ */

static size_t padded(size_t bytes)
{
    return (bytes + KD_GGUF_ALIGNMENT - 1) / KD_GGUF_ALIGNMENT * KD_GGUF_ALIGNMENT;
}

void kd_gguf_put_tensor(kd_gguf_writer *g, const char *name, kd_gguf_type type, int ndims,
                        const int64_t *dims)
{
    size_t n = 1;
    put_text(&g->tensors, name, strlen(name));
    put_u32(&g->tensors, (uint32_t)ndims);
    for (int i = ndims; i-- > 0;) {
        put_u64(&g->tensors, (uint64_t)dims[i]);
        n *= (size_t)dims[i];
    }
    put_u32(&g->tensors, type);
    put_u64(&g->tensors, g->bytes);
    g->bytes += padded(kd_gguf_bytes(type, n));
    g->n_tensors++;
}

static void put_zeros(FILE *f, size_t from)
{
    for (size_t i = from; i < padded(from); i++) fputc(0, f);
}

kd_status kd_gguf_put_head(const kd_gguf_writer *g, FILE *f, kd_err *err)
{
    const uint32_t version = KD_GGUF_VERSION;
    const uint64_t counts[] = {g->n_tensors, g->n_keys};
    if (g->keys.failed || g->tensors.failed) return kd_fail(err, KD_ENOMEM, "no memory for a GGUF header");
    fwrite("GGUF", 1, 4, f); // errors stay with the stream until it is committed
    fwrite(&version, sizeof version, 1, f);
    fwrite(counts, sizeof counts, 1, f);
    fwrite(g->keys.text, 1, g->keys.len, f);
    fwrite(g->tensors.text, 1, g->tensors.len, f);
    put_zeros(f, 4 + sizeof version + sizeof counts + g->keys.len + g->tensors.len);
    return KD_OK;
}

/* Writes the scale of a block and returns what it became. */
static float put_scale(FILE *f, float scale)
{
    uint16_t half;
    kd_from_f32(&half, KD_F16, &scale, 1);
    kd_to_f32(&scale, &half, KD_F16, 1);
    fwrite(&half, sizeof half, 1, f);
    return scale;
}

/* One block; w becomes scale * whole number. */
static void put_q8(FILE *f, float *w)
{
    float top = 0;
    int8_t q[KD_GGUF_BLOCK];
    for (int i = 0; i < KD_GGUF_BLOCK; i++) top = fmaxf(top, fabsf(w[i]));
    const float scale = put_scale(f, top / 127);
    for (int i = 0; i < KD_GGUF_BLOCK; i++) {
        const float whole = scale > 0 ? rintf(w[i] / scale) : 0;
        q[i] = (int8_t)fmaxf(-127, fminf(127, whole));
        w[i] = scale * (float)q[i];
    }
    fwrite(q, 1, sizeof q, f);
}

static void put_q4(FILE *f, float *w)
{
    enum { HALF = KD_GGUF_BLOCK / 2 };
    float top = 0;
    uint8_t q[HALF] = {0};
    for (int i = 0; i < KD_GGUF_BLOCK; i++)
        if (fabsf(w[i]) > fabsf(top)) top = w[i];
    const float scale = put_scale(f, top / -8);
    for (int i = 0; i < KD_GGUF_BLOCK; i++) {
        const float whole = scale != 0 ? fmaxf(-8, fminf(7, rintf(w[i] / scale))) : 0;
        q[i % HALF] |= (uint8_t)(((int)whole + 8) << (i < HALF ? 0 : 4));
        w[i] = scale * whole;
    }
    fwrite(q, 1, sizeof q, f);
}

static void put_halves(FILE *f, float *w, size_t n)
{
    enum { AT_ONCE = 1024 };
    uint16_t half[AT_ONCE];
    for (size_t i = 0; i < n; i += AT_ONCE) {
        const size_t some = kd_min_size(AT_ONCE, n - i);
        kd_from_f32(half, KD_F16, w + i, some);
        kd_to_f32(w + i, half, KD_F16, some);
        fwrite(half, sizeof *half, some, f);
    }
}

void kd_gguf_put_numbers(FILE *f, kd_gguf_type type, float *w, size_t n)
{
    if (type == KD_GGUF_F32) fwrite(w, sizeof *w, n, f);
    if (type == KD_GGUF_F16) put_halves(f, w, n);
    for (size_t i = 0; type == KD_GGUF_Q8_0 && i < n; i += KD_GGUF_BLOCK) put_q8(f, w + i);
    for (size_t i = 0; type == KD_GGUF_Q4_0 && i < n; i += KD_GGUF_BLOCK) put_q4(f, w + i);
    put_zeros(f, kd_gguf_bytes(type, n));
}

void kd_gguf_writer_release(kd_gguf_writer *g)
{
    kd_buf_release(&g->keys);
    kd_buf_release(&g->tensors);
}
