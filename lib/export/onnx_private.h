/* onnx_private.h - building blocks of an ONNX file: what onnx.c, which knows the ops, asks of
 * onnx_message.c, which knows the messages. Running out of memory is remembered and told at the end. */
#ifndef KD_ONNX_PRIVATE_H
#define KD_ONNX_PRIVATE_H

#include "export_private.h"

#include "onnx.pb-c.h"

struct kd__onnx {
    kd_arena memory;
    Onnx__GraphProto graph;
    size_t node_room, tensor_room;
    const char **value; /* per layer: the name of its value */
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
 */
const char *kd__onnx_tensor(kd__onnx *x, const char *name, int type, int ndims, const int64_t *dims,
                            const void *data, size_t bytes);
/* An input or output of the graph: a batch of rows of these axes. */
void kd__onnx_place(kd__onnx *x, bool output, const char *name, int type, int ndims, const int64_t *dims);
/* meta: object of strings. */
kd_status kd__onnx_save(kd__onnx *x, FILE *f, const char *name, const json_t *meta, kd_err *err);

#endif
