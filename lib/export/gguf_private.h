/* gguf_private.h - what an architecture has to say for its GGUF file; gguf.c writes it. */
#ifndef KD_GGUF_PRIVATE_H
#define KD_GGUF_PRIVATE_H

#include "export_private.h"

#include "kd/gguf.h"

typedef struct kd__gguf_arch {
    const char *name;
    kd_status (*check)(const kd_model *m, const kd_model_export *o, kd_err *err); /* NULL: all can be said */
    /* Sizes and vocabulary. */
    kd_status (*put_keys)(kd_gguf_writer *g, const kd_model *m, const kd_model_export *o, kd_err *err);
    bool (*name_of)(char out[KD_GGUF_MAX_NAME], const char *param); /* false: no name for it */
    bool (*keeps)(const kd_param *p);                               /* f32 in any case */
    bool (*is_table)(const kd_param *p); /* of words, or the head: never less than 8 bits */
    bool (*pairs)(const char *param);    /* NULL, or whose rows are pairs side by side (kd_llama_gguf_turn) */
} kd__gguf_arch;
extern const kd__gguf_arch kd__gguf_bert, kd__gguf_llama;

#endif
