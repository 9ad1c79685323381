/* onnx_message.c - the messages of an ONNX file, through protobuf-c and the project's own onnx.proto.
 *
 * Everything small lies in an arena; weights are borrowed from the model and go from there to the file. What
 * a reader must find (onnx.ai, IR.md): ir_version 8, which came with opset 15 and is the one of opset 17; the
 * opset; a named graph whose nodes are in order of execution; the type of each input and output, of which the
 * first axis has a name instead of a size. A protobuf message ends at 2 GiB.
 */
#include "onnx_private.h"

#include <string.h>

enum { IR_VERSION = 8, OPSET = 17 };

static void *get(kd__onnx *x, size_t count, size_t size)
{
    void *p = kd_arena_alloc(&x->memory, count, size);
    x->failed |= !p;
    return p;
}

char *kd__onnx_text(kd__onnx *x, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char *copy = kd_arena_strdup(&x->memory, text);
    x->failed |= !copy;
    return copy;
}

/* Room for one more pointer in a list of n; *room grows. */
static void **grow(kd__onnx *x, void **list, size_t n, size_t *room)
{
    if (n < *room) return list;
    const size_t more = *room ? 2 * *room : 64;
    void **bigger = get(x, more, sizeof *bigger);
    if (!bigger) return NULL;
    if (n) memcpy(bigger, list, n * sizeof *bigger);
    *room = more;
    return bigger;
}

Onnx__NodeProto *kd__onnx_node(kd__onnx *x, const char *op, const char *output, const char *a, const char *b,
                               const char *c)
{
    const char *in[] = {a, b, c};
    Onnx__NodeProto *n = get(x, 1, sizeof *n);
    Onnx__GraphProto *g = &x->graph;
    void **list = grow(x, (void **)g->node, g->n_node, &x->node_room);
    if (!n || !list) return NULL;
    onnx__node_proto__init(n);
    n->op_type = (char *)op;
    n->name = (char *)output;
    n->output = get(x, 1, sizeof *n->output);
    n->input = get(x, KD_COUNT(in), sizeof *n->input);
    if (!n->output || !n->input) return NULL;
    n->output[n->n_output++] = (char *)output;
    for (size_t i = 0; i < KD_COUNT(in); i++)
        if (in[i]) n->input[n->n_input++] = (char *)in[i];
    g->node = (Onnx__NodeProto **)list;
    g->node[g->n_node++] = n;
    return n;
}

/* ---- attributes ----------------------------------------------------------------------------------- */

static Onnx__AttributeProto *attribute(kd__onnx *x, Onnx__NodeProto *n, const char *name,
                                       Onnx__AttributeProto__AttributeType type)
{
    enum { MOST = 8 };
    Onnx__AttributeProto *a = get(x, 1, sizeof *a);
    if (n && !n->attribute) n->attribute = get(x, MOST, sizeof *n->attribute);
    if (!n || !n->attribute || !a) return NULL;
    onnx__attribute_proto__init(a);
    a->name = (char *)name;
    a->has_type = true;
    a->type = type;
    n->attribute[n->n_attribute++] = a;
    return a;
}

void kd__onnx_int(kd__onnx *x, Onnx__NodeProto *n, const char *name, int64_t v)
{
    Onnx__AttributeProto *a = attribute(x, n, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT);
    if (!a) return;
    a->has_i = true;
    a->i = v;
}

void kd__onnx_float(kd__onnx *x, Onnx__NodeProto *n, const char *name, float v)
{
    Onnx__AttributeProto *a = attribute(x, n, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT);
    if (!a) return;
    a->has_f = true;
    a->f = v;
}

void kd__onnx_ints(kd__onnx *x, Onnx__NodeProto *n, const char *name, size_t count, const int64_t *v)
{
    Onnx__AttributeProto *a = attribute(x, n, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS);
    int64_t *copy = get(x, count, sizeof *copy);
    if (!a || !copy) return;
    memcpy(copy, v, count * sizeof *copy);
    a->ints = copy;
    a->n_ints = count;
}

/* ---- tensors, inputs and outputs ------------------------------------------------------------------ */

static const char *known(const kd__onnx *x, const char *name)
{
    for (size_t i = 0; name && i < x->graph.n_initializer; i++)
        if (!strcmp(x->graph.initializer[i]->name, name)) return x->graph.initializer[i]->name;
    return NULL;
}

const char *kd__onnx_tensor(kd__onnx *x, const char *name, int type, int ndims, const int64_t *dims,
                            const void *data, size_t bytes)
{
    if (known(x, name)) return name;
    Onnx__TensorProto *t = get(x, 1, sizeof *t);
    Onnx__GraphProto *g = &x->graph;
    void **list = grow(x, (void **)g->initializer, g->n_initializer, &x->tensor_room);
    if (!t || !list) return NULL;
    onnx__tensor_proto__init(t);
    t->name = (char *)name;
    t->has_data_type = true;
    t->data_type = type;
    t->n_dims = (size_t)ndims;
    t->dims = (int64_t *)dims;
    t->has_raw_data = true;
    t->raw_data = (ProtobufCBinaryData){.len = bytes, .data = (uint8_t *)data};
    g->initializer = (Onnx__TensorProto **)list;
    g->initializer[g->n_initializer++] = t;
    return name;
}

const char *kd__onnx_scalar(kd__onnx *x, const char *name, float v)
{
    if (known(x, name)) return name;
    float *copy = get(x, 1, sizeof *copy);
    if (!copy) return NULL;
    *copy = v;
    return kd__onnx_tensor(x, name, KD__FLOAT, 0, NULL, copy, sizeof *copy);
}

const char *kd__onnx_axes(kd__onnx *x, const char *name, int count, const int64_t *v)
{
    if (known(x, name)) return name;
    int64_t *copy = get(x, (size_t)count + 1, sizeof *copy);
    if (!copy) return NULL;
    copy[0] = count;
    memcpy(copy + 1, v, (size_t)count * sizeof *copy);
    return kd__onnx_tensor(x, name, KD__INT64, 1, copy, copy + 1, (size_t)count * sizeof *copy);
}

static Onnx__TensorShapeProto *shape_of(kd__onnx *x, int ndims, const int64_t *dims)
{
    const size_t n = (size_t)ndims;
    Onnx__TensorShapeProto *s = get(x, 1, sizeof *s);
    Onnx__TensorShapeProto__Dimension **list = get(x, n, sizeof *list), *d = get(x, n, sizeof *d);
    if (!s || !list || !d) return NULL;
    onnx__tensor_shape_proto__init(s);
    s->n_dim = n;
    s->dim = list;
    for (size_t i = 0; i < n; i++) {
        onnx__tensor_shape_proto__dimension__init(&d[i]);
        list[i] = &d[i];
        d[i].value_case = dims[i] < 0 ? ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM
                                      : ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
        if (dims[i] < 0)
            d[i].dim_param = (char *)(dims[i] == KD__BATCH ? "batch" : "sequence");
        else
            d[i].dim_value = dims[i];
    }
    return s;
}

void kd__onnx_place(kd__onnx *x, bool output, const char *name, int type, int ndims, const int64_t *dims)
{
    enum { MOST = 4 };
    Onnx__ValueInfoProto *v = get(x, 1, sizeof *v), ***list = output ? &x->graph.output : &x->graph.input;
    size_t *n = output ? &x->graph.n_output : &x->graph.n_input;
    if (!*list) *list = get(x, MOST, sizeof **list);
    Onnx__TypeProto *t = get(x, 1, sizeof *t);
    Onnx__TypeProto__Tensor *tensor = get(x, 1, sizeof *tensor);
    Onnx__TensorShapeProto *shape = shape_of(x, ndims, dims);
    if (!v || !*list || !t || !tensor || !shape) return;
    onnx__value_info_proto__init(v);
    onnx__type_proto__init(t);
    onnx__type_proto__tensor__init(tensor);
    tensor->has_elem_type = true;
    tensor->elem_type = type;
    tensor->shape = shape;
    t->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    t->tensor_type = tensor;
    v->name = (char *)name;
    v->type = t;
    (*list)[(*n)++] = v;
}

/* ---- the file ------------------------------------------------------------------------------------- */

typedef struct sink {
    ProtobufCBuffer base;
    FILE *f;
} sink;

/* Errors stay with the stream until it is committed. */
static void append(ProtobufCBuffer *b, size_t len, const uint8_t *data)
{
    fwrite(data, 1, len, ((sink *)b)->f);
}

static void add_metadata(kd__onnx *x, Onnx__ModelProto *m, const json_t *meta)
{
    const char *key;
    json_t *value;
    size_t n = json_object_size(meta);
    Onnx__StringStringEntryProto **list = get(x, n + 1, sizeof *list), *e = get(x, n + 1, sizeof *e);
    if (!list || !e) return;
    m->metadata_props = list;
    json_object_foreach((json_t *)meta, key, value)
    {
        onnx__string_string_entry_proto__init(e);
        e->key = (char *)key;
        e->value = (char *)json_string_value(value);
        list[m->n_metadata_props++] = e++;
    }
}

kd_status kd__onnx_save(kd__onnx *x, FILE *f, const char *name, const json_t *meta, kd_err *err)
{
    Onnx__OperatorSetIdProto opset = ONNX__OPERATOR_SET_ID_PROTO__INIT, *opsets[] = {&opset};
    Onnx__ModelProto m = ONNX__MODEL_PROTO__INIT;
    sink to = {.base = {.append = append}, .f = f};
    add_metadata(x, &m, meta);
    if (x->failed || !meta) return kd_fail(err, KD_ENOMEM, "no memory for the ONNX graph");
    opset.domain = (char *)"";
    opset.has_version = true;
    opset.version = OPSET;
    m.has_ir_version = true;
    m.ir_version = IR_VERSION;
    m.n_opset_import = 1;
    m.opset_import = opsets;
    m.producer_name = (char *)"kd";
    m.producer_version = (char *)KD_VERSION;
    x->graph.name = (char *)name;
    m.graph = &x->graph;
    if (onnx__model_proto__get_packed_size(&m) > INT32_MAX)
        return kd_fail(err, KD_ELIMIT, "%s: over 2 GiB, which an ONNX file cannot hold", name);
    onnx__model_proto__pack_to_buffer(&m, &to.base);
    return KD_OK;
}
