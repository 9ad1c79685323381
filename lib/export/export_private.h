/* export_private.h - what the files of lib/export share: the student as a short list of layers, and the
 * table that says how each op is written in each format. */
#ifndef KD_EXPORT_PRIVATE_H
#define KD_EXPORT_PRIVATE_H

#include "kd/export.h"

typedef struct kd__layer kd__layer;
typedef struct kd__net kd__net;
typedef struct kd__onnx kd__onnx;     /* onnx_message.c */
typedef struct kd__c_file kd__c_file; /* c_source.c */

/* Appends an op's nodes; returns its value's name. */
typedef const char *kd__onnx_op(kd__onnx *x, const kd__layer *l);
/* Writes the call in predict(). */
typedef void kd__c_op(kd__c_file *f, const kd__layer *l);

/* How an op of lib/nn is written; one row each (net.c). Batch norms and dropout are none: they are gone
 * before. */
typedef struct kd__writer {
    const char *op;
    bool fuses_relu; /* a ReLU behind it that nobody else reads past is kd__layer.relu */
    bool in_place;   /* c: its output may be where its first input is */
    kd__onnx_op *onnx;
    const char *c_function; /* source of the function it calls; NULL: C has no words for it */
    kd__c_op *c_call;
} kd__writer;

struct kd__layer {
    const kd__writer *how;
    const char *name, *relu; /* relu: the name of the ReLU that it ends with; NULL: none */
    int index, inputs;
    const kd__layer *in[KD_MAX_INPUTS];
    float *w, *bias; /* the model's own, folded; NULL: none. w: (wdims) as PyTorch has it */
    int wndims;
    int64_t wdims[4];
    size_t weights;
    bool shared;  /* w is also that of a layer before it: the embedding's table as the head */
    int8_t *q;    /* int8: w[i] is q[i] * scale[i / (weights / wdims[0])]; NULL: f32 */
    float *scale; /* (wdims[0]) */
    kd_node_facts f;
    kd_per per;
    int ndims;
    int64_t dims[KD_MAX_DIMS]; /* of its output, a row; images (H, W, C) */
    size_t size;
};

struct kd__net {
    kd_model *m;
    char fingerprint[33]; /* of the student as it was */
    kd__layer *layer;     /* in order of execution; the first is the input, the last the logits */
    int layers;
    kd_arena memory;
};

/* Folds and, for int8, rounds in m itself, and lists what is left. KD_EUNSUPPORTED, KD_ENUMERIC, KD_ENOMEM.
 */
kd_status kd__net_build(kd__net *net, kd_model *m, bool int8, kd_err *err);
void kd__net_release(kd__net *net);
bool kd__decodes(const kd__net *net); /* a language model */

/* A format: writes the net to f. */
typedef kd_status kd__format(FILE *f, const kd__net *net, const kd_model_export *o, const char *command,
                             kd_model_export_facts *facts, kd_err *err);
kd__format kd__write_onnx, kd__write_c, kd__write_gguf;
/* A folder for sentence-transformers or transformers. */
kd_status kd__write_bundle(const char *path, kd_model *m, const kd_model_export *o, const char *command,
                           kd_model_export_facts *facts, kd_err *err);

kd__onnx_op kd__onnx_input, kd__onnx_linear, kd__onnx_conv, kd__onnx_relu, kd__onnx_maxpool, kd__onnx_gap,
    kd__onnx_flatten, kd__onnx_add; /* onnx.c */
kd__onnx_op kd__onnx_tokens, kd__onnx_embedding, kd__onnx_layernorm, kd__onnx_attention, kd__onnx_gelu,
    kd__onnx_pool, kd__onnx_normalize;                                         /* onnx_tokens.c */
kd__onnx_op kd__onnx_rmsnorm, kd__onnx_rope, kd__onnx_causal, kd__onnx_swiglu; /* onnx_decoder.c */
kd__c_op kd__c_input, kd__c_linear, kd__c_conv, kd__c_relu, kd__c_maxpool, kd__c_gap, kd__c_flatten,
    kd__c_add;
extern const char kd__c_shape_text[], kd__c_finish_text[], kd__c_scale_text[], kd__c_linear_text[],
    kd__c_conv_text[], kd__c_dwconv_text[], kd__c_relu_text[], kd__c_maxpool_text[], kd__c_gap_text[],
    kd__c_flatten_text[], kd__c_add_text[];

#endif
