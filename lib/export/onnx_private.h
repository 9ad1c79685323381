/* onnx_private.h - building blocks of an ONNX file: what onnx.c, which knows the ops, asks of
 * onnx_message.c, which knows the messages. Running out of memory is remembered and told at the end. */
#ifndef KD_ONNX_PRIVATE_H
#define KD_ONNX_PRIVATE_H

#include "export_private.h"

#include "onnx.pb-c.h"

enum {
    KD__BATCH = -1,
    KD__SEQUENCE = -2,
    KD__FLOAT = ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT,
    KD__BYTE = ONNX__TENSOR_PROTO__DATA_TYPE__UINT8,
    KD__INT8 = ONNX__TENSOR_PROTO__DATA_TYPE__INT8,
    KD__INT64 = ONNX__TENSOR_PROTO__DATA_TYPE__INT64,
};

struct kd__onnx {
    kd_arena memory;
    Onnx__GraphProto graph;
    size_t node_room, tensor_room;
    const char **value;      /* per layer: the name of its value */
    const kd__layer *hidden; /* the last one of tokens: an output beside the result; NULL: none */
    const char *result;      /* name of the last layer's value */
    const kd__net *net;
    const kd_model_export *o;
    bool failed;
};

/* Text that lives as long as the file is being made. */
char *kd__onnx_text(kd__onnx *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A node of the standard operators with one output; inputs that are NULL are left out. */
Onnx__NodeProto *kd__onnx_node(kd__onnx *x, const char *op, const char *output, const char *a, const char *b,
                               const char *c);
void kd__onnx_int(kd__onnx *x, Onnx__NodeProto *n, const char *name, int64_t v);
void kd__onnx_ints(kd__onnx *x, Onnx__NodeProto *n, const char *name, size_t count, const int64_t *v);
/* A tensor of weights (type: Onnx__TensorProto__DataType), borrowed until the file is written; returns name.
 * No second time where there is one of that name. */
const char *kd__onnx_tensor(kd__onnx *x, const char *name, int type, int ndims, const int64_t *dims,
                            const void *data, size_t bytes);
void kd__onnx_float(kd__onnx *x, Onnx__NodeProto *n, const char *name, float v);
/* The same of a few numbers, copied. */
const char *kd__onnx_scalar(kd__onnx *x, const char *name, float v);
const char *kd__onnx_axes(kd__onnx *x, const char *name, int count, const int64_t *v);
/* What layers need of layers (onnx.c): the value that l reads, the name of the one it makes, its weights and
 * bias (NULL: none). */
const char *kd__onnx_in(const kd__onnx *x, const kd__layer *l, int i);
const char *kd__onnx_out(const kd__onnx *x, const kd__layer *l);
const char *kd__onnx_weight(kd__onnx *x, const kd__layer *l);
/* Of whole-number weights those, and the scales of their rows. */
const char *kd__onnx_whole(kd__onnx *x, const kd__layer *l, const char **scale);
/* One more step of l (onnx_tokens.c): its output's name, l's and what, from values a and b. */
const char *kd__onnx_step(kd__onnx *x, const kd__layer *l, const char *op, const char *what, const char *a,
                          const char *b);
void kd__onnx_masks(kd__onnx *x); /* of a decoder: places, angles, who sees whom (onnx_decoder.c) */
const char *kd__onnx_bias(kd__onnx *x, const kd__layer *l);
/* An input or output of the graph. Axes whose size is free are KD__BATCH and KD__SEQUENCE. */
void kd__onnx_place(kd__onnx *x, bool output, const char *name, int type, int ndims, const int64_t *dims);
/* meta: object of strings. */
kd_status kd__onnx_save(kd__onnx *x, FILE *f, const char *name, const json_t *meta, kd_err *err);

#endif
