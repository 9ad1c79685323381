/* kd/gguf.h - the container of llama.cpp's models, version 3, in and out.
 *
 *     "GGUF", version (u32), number of tensors (u64), of keys (u64)
 *     a key      name, kind (u32), value; a text is its length (u64) and its bytes; a list the kind of its
 *                items (u32), their number (u64), the items
 *     a tensor   name, number of axes (u32), axes from the innermost outwards (u64), type (u32), place (u64)
 *     zeros up to a multiple of the alignment (general.alignment, 32 without it); the tensors' numbers, each
 *     padded to it
 *
 * All little-endian. Reading checks everything before it allocates by it; numbers are read and decoded when
 * they are asked for, so a model never lies in memory twice.
 *
 *     kd_gguf *g;
 *     if (kd_gguf_open(&g, "model.gguf", &err)) ...
 *     const kd_gguf_tensor *t = kd_gguf_find_tensor(g, "token_embd.weight");
 *     kd_gguf_read(g, t, weights, &err);                                  // (t->n) f32
 *     kd_gguf_close(g);
 *
 * Threads: an open file may be read by several threads; a writer belongs to one.
 */
#ifndef KD_GGUF_H
#define KD_GGUF_H

#include "kd/base.h"

#define KD_GGUF_VERSION       3
#define KD_GGUF_ALIGNMENT     32         /* what files have that do not say */
#define KD_GGUF_MAX_ALIGNMENT (1u << 20) /* a power of two up to it */
#define KD_GGUF_MAX_AXES      4
#define KD_GGUF_MAX_NAME      64          /* of a tensor, with the NUL behind it */
#define KD_GGUF_MAX_KEY       256         /* of a key, with the NUL */
#define KD_GGUF_MAX_HEADER    (64u << 20) /* bytes before the numbers */
#define KD_GGUF_BLOCK         32          /* numbers of a block of Q8_0, Q4_0, Q4_1 */

/* Types of tensors: number in the file, name, numbers and bytes of a block. */
#define KD_GGUF_TYPE_MAP(X)                                                                                  \
    X(F32, 0, "F32", 1, 4)                                                                                   \
    X(F16, 1, "F16", 1, 2)                                                                                   \
    X(Q4_0, 2, "Q4_0", 32, 18)                                                                               \
    X(Q4_1, 3, "Q4_1", 32, 20)                                                                               \
    X(Q8_0, 8, "Q8_0", 32, 34)                                                                               \
    X(Q4_K, 12, "Q4_K", 256, 144)                                                                            \
    X(Q6_K, 14, "Q6_K", 256, 210)                                                                            \
    X(BF16, 30, "BF16", 1, 2)
typedef enum kd_gguf_type {
#define X(NAME, number, name, block, bytes) KD_GGUF_##NAME = number,
    KD_GGUF_TYPE_MAP(X)
#undef X
} kd_gguf_type;

/* ---- blocks ------------------------------------------------------------------------------- */

/* NULL: no type that is read here. */
const char *kd_gguf_type_name(uint32_t type);
/* Bytes of n numbers, n a multiple of the type's block; 0 when it is none, or on overflow. */
size_t kd_gguf_bytes(kd_gguf_type type, size_t n);
/* n numbers (whole blocks) as f32, as llama.cpp computes them, to the last bit. */
void kd_gguf_decode(float *out, const void *blocks, kd_gguf_type type, size_t n);

/* ---- reading ------------------------------------------------------------------------------ */

typedef enum kd_gguf_kind { /* of a value, or of a list's items */
                            KD_GGUF_KIND_U8,
                            KD_GGUF_KIND_I8,
                            KD_GGUF_KIND_U16,
                            KD_GGUF_KIND_I16,
                            KD_GGUF_KIND_U32,
                            KD_GGUF_KIND_I32,
                            KD_GGUF_KIND_F32,
                            KD_GGUF_KIND_BOOL,
                            KD_GGUF_KIND_TEXT,
                            KD_GGUF_KIND_LIST,
                            KD_GGUF_KIND_U64,
                            KD_GGUF_KIND_I64,
                            KD_GGUF_KIND_F64,
                            KD_GGUF_KINDS
} kd_gguf_kind;
typedef struct kd_gguf_text {
    const char *bytes; /* a NUL behind them */
    size_t len;
} kd_gguf_text;
typedef struct kd_gguf_value {
    const char *key;
    kd_gguf_kind kind; /* never LIST: that of the items */
    bool list;
    size_t n;          /* items, 1 without a list */
    const void *items; /* (n) of the kind's C type, bool: uint8_t; texts: kd_gguf_text */
} kd_gguf_value;
typedef struct kd_gguf_tensor {
    const char *name;
    kd_gguf_type type;
    int ndims;
    int64_t dims[KD_GGUF_MAX_AXES]; /* outermost first, as PyTorch has them */
    size_t n, bytes;                /* numbers, and what they take in the file */
    uint64_t where;                 /* in the file */
} kd_gguf_tensor;
typedef struct kd_gguf kd_gguf;

/* What is borrowed from a file lives until it is closed. KD_ENOTFOUND, KD_EIO, KD_ECORRUPT (names the key or
 * tensor), KD_EUNSUPPORTED (version or type of a tensor), KD_ELIMIT, KD_ENOMEM. */
kd_status kd_gguf_open(kd_gguf **out, const char *path, kd_err *err);
void kd_gguf_close(kd_gguf *g); /* NULL-safe */
const char *kd_gguf_path(const kd_gguf *g);
const kd_gguf_value *kd_gguf_find(const kd_gguf *g, const char *key); /* NULL: no such key */
/* A text; NULL: no such key, no text, or one with a NUL inside. */
const char *kd_gguf_str(const kd_gguf *g, const char *key);
/* A whole number of any kind within lo to hi; a number of any kind. KD_ECORRUPT names the key. */
kd_status kd_gguf_int(const kd_gguf *g, const char *key, int64_t lo, int64_t hi, int64_t *out, kd_err *err);
kd_status kd_gguf_real(const kd_gguf *g, const char *key, double *out, kd_err *err);
/* A list of this kind. KD_ECORRUPT names the key. */
kd_status kd_gguf_list(const kd_gguf *g, const char *key, kd_gguf_kind kind, const kd_gguf_value **out,
                       kd_err *err);
size_t kd_gguf_tensors(const kd_gguf *g, const kd_gguf_tensor **out);          /* all, as in the file */
const kd_gguf_tensor *kd_gguf_find_tensor(const kd_gguf *g, const char *name); /* NULL: none */
/* The numbers of a tensor. out: (t->n). KD_EIO, KD_ECORRUPT (the file became shorter), KD_ENOMEM. */
kd_status kd_gguf_read(const kd_gguf *g, const kd_gguf_tensor *t, float *out, kd_err *err);

/* ---- writing ------------------------------------------------------------------------------ */

/* What stands before the numbers; a zeroed struct is an empty file. Running out of memory shows in
 * kd_gguf_put_head. Tensors are F32, F16, Q8_0 or Q4_0. */
typedef struct kd_gguf_writer {
    kd_buf keys, tensors;
    uint64_t n_keys, n_tensors, bytes; /* bytes: of the numbers so far, each tensor padded */
} kd_gguf_writer;

void kd_gguf_put_u32(kd_gguf_writer *g, const char *key, uint32_t v);
void kd_gguf_put_f32(kd_gguf_writer *g, const char *key, float v);
void kd_gguf_put_bool(kd_gguf_writer *g, const char *key, bool v);
void kd_gguf_put_str(kd_gguf_writer *g, const char *key, const char *v);
/* n items follow, each by its call. */
void kd_gguf_put_texts(kd_gguf_writer *g, const char *key, uint64_t n);
void kd_gguf_put_item(kd_gguf_writer *g, const char *v, size_t len);
void kd_gguf_put_i32s(kd_gguf_writer *g, const char *key, const int32_t *v, uint64_t n);
/* Announces a tensor; its numbers are written in this order. dims: as PyTorch has them. Of Q8_0 and Q4_0 the
 * last one is a multiple of KD_GGUF_BLOCK. */
void kd_gguf_put_tensor(kd_gguf_writer *g, const char *name, kd_gguf_type type, int ndims,
                        const int64_t *dims);
/* Everything up to the first number. KD_ENOMEM. */
kd_status kd_gguf_put_head(const kd_gguf_writer *g, FILE *f, kd_err *err);
/* The numbers of one tensor and its padding; w becomes what was written. */
void kd_gguf_put_numbers(FILE *f, kd_gguf_type type, float *w, size_t n);
void kd_gguf_writer_release(kd_gguf_writer *g);

#endif
