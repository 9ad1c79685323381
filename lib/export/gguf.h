/* gguf.h - writing a GGUF file, version 3: keys, then tensors, then their numbers. */
#ifndef KD_GGUF_H
#define KD_GGUF_H

#include "kd/base.h"

enum { KD__GGUF_ALIGNMENT = 32, KD__GGUF_BLOCK = 32, KD__GGUF_NAME = 64, KD__GGUF_AXES = 4 };
typedef enum kd__gguf_type { KD__GGUF_F32 = 0, KD__GGUF_F16 = 1, KD__GGUF_Q8_0 = 8 } kd__gguf_type;

/* What stands before the numbers; a zeroed struct is an empty file. Running out of memory shows in head. */
typedef struct kd__gguf {
    kd_buf keys, tensors;
    uint64_t n_keys, n_tensors, bytes; /* bytes: of the numbers so far, each tensor padded */
} kd__gguf;

void kd__gguf_u32(kd__gguf *g, const char *key, uint32_t v);
void kd__gguf_f32(kd__gguf *g, const char *key, float v);
void kd__gguf_bool(kd__gguf *g, const char *key, bool v);
void kd__gguf_text(kd__gguf *g, const char *key, const char *v);
/* n items follow, each by its call. */
void kd__gguf_texts(kd__gguf *g, const char *key, uint64_t n);
void kd__gguf_add_text(kd__gguf *g, const char *v, size_t len);
void kd__gguf_i32s(kd__gguf *g, const char *key, const int32_t *v, uint64_t n);
/* Announces a tensor; its numbers are written in this order. dims: as PyTorch has them. Of Q8_0 the last one
 * is a multiple of 32. */
void kd__gguf_tensor(kd__gguf *g, const char *name, kd__gguf_type type, int ndims, const int64_t *dims);
/* Everything up to the first number. KD_ENOMEM. */
kd_status kd__gguf_head(const kd__gguf *g, FILE *f, kd_err *err);
/* The numbers of one tensor and its padding; w becomes what was written. */
void kd__gguf_numbers(FILE *f, kd__gguf_type type, float *w, size_t n);
void kd__gguf_release(kd__gguf *g);

#endif
