/* onnx.c - how each layer is said in ONNX's operators of opset 17.
 *
 * The graph computes on images as ONNX has them, (batch, C, H, W); weights have the shapes that PyTorch and
 * ONNX share, so nothing is transposed but, for `layout: nhwc`, the input. Values have the names of kd's
 * nodes, so that a tap of the student is found again in any viewer of ONNX files. Encoders of tokens have
 * axes (batch, sequence, width) and their operators in onnx_tokens.c. Whole-number weights are dequantised by
 * the first operator that reads them: runtimes either fold that when they load or do it as they go.
 */
#include "onnx_private.h"

#include <stdlib.h>
#include <string.h>

static bool is_last(const kd__onnx *x, const kd__layer *l) { return l->index == x->net->layers - 1; }

const char *kd__onnx_in(const kd__onnx *x, const kd__layer *l, int i) { return x->value[l->in[i]->index]; }

const char *kd__onnx_out(const kd__onnx *x, const kd__layer *l)
{
    if (l->relu) return l->name;
    return is_last(x, l) ? x->result : l == x->hidden ? "last_hidden_state" : l->name;
}

static const char *and_relu(kd__onnx *x, const kd__layer *l)
{
    if (!l->relu) return kd__onnx_out(x, l);
    const char *name = is_last(x, l) ? x->result : l->relu;
    kd__onnx_node(x, "Relu", name, l->name, NULL, NULL);
    return name;
}

const char *kd__onnx_whole(kd__onnx *x, const kd__layer *l, const char **scale)
{
    const char *name = l->f.param[0]->name;
    *scale = kd__onnx_tensor(x, kd__onnx_text(x, "%s.scale", name), KD__FLOAT, 1, l->wdims, l->scale,
                             (size_t)l->wdims[0] * sizeof *l->scale);
    return kd__onnx_tensor(x, kd__onnx_text(x, "%s.int8", name), KD__INT8, l->wndims, l->wdims, l->q,
                           l->weights);
}

const char *kd__onnx_weight(kd__onnx *x, const kd__layer *l)
{
    const char *name = l->f.param[0]->name, *whole, *scale;
    if (!l->q)
        return kd__onnx_tensor(x, name, KD__FLOAT, l->wndims, l->wdims, l->w, l->weights * sizeof *l->w);
    whole = kd__onnx_whole(x, l, &scale);
    kd__onnx_int(x, kd__onnx_node(x, "DequantizeLinear", name, whole, scale, NULL), "axis", 0);
    return name;
}

const char *kd__onnx_bias(kd__onnx *x, const kd__layer *l)
{
    return l->bias ? kd__onnx_tensor(x, kd__onnx_text(x, "%s.bias", l->name), KD__FLOAT, 1, l->wdims, l->bias,
                                     (size_t)l->wdims[0] * sizeof *l->bias)
                   : NULL;
}

/* ---- operators ------------------------------------------------------------------------------------ */

const char *kd__onnx_input(kd__onnx *x, const kd__layer *l)
{
    const kd_model *m = x->net->m;
    const bool bytes = !strcmp(x->o->input, "u8"), nhwc = l->ndims == 3 && !strcmp(x->o->layout, "nhwc");
    static const int64_t perm[] = {0, 3, 1, 2};
    int64_t dims[KD_MAX_DIMS + 1] = {KD__BATCH};
    memcpy(dims + 1, l->dims, sizeof l->dims);
    if (l->ndims == 3 && !nhwc) dims[1] = l->dims[2], dims[2] = l->dims[0], dims[3] = l->dims[1];
    const char *v = "input";
    kd__onnx_place(x, false, v, bytes ? KD__BYTE : KD__FLOAT, l->ndims + 1, dims);
    if (bytes) {
        Onnx__NodeProto *n = kd__onnx_node(x, "Cast", "input.numbers", v, NULL, NULL);
        kd__onnx_int(x, n, "to", KD__FLOAT);
        v = "input.numbers";
    }
    if (x->o->preprocess) {
        kd__onnx_node(x, "Sub", "input.centred", v, kd__onnx_scalar(x, "input.mean", m->mean), NULL);
        v = "input.scaled";
        kd__onnx_node(x, "Mul", v, "input.centred", kd__onnx_scalar(x, "input.scale", m->scale), NULL);
    }
    if (!nhwc) return v;
    kd__onnx_ints(x, kd__onnx_node(x, "Transpose", "input.nchw", v, NULL, NULL), "perm", 4, perm);
    return "input.nchw";
}

/* Of a row per token, which makes three axes: Gemm takes two. */
static void linear_of_tokens(kd__onnx *x, const kd__layer *l)
{
    static const int64_t perm[] = {1, 0};
    const char *turned = kd__onnx_text(x, "%s.weight.turned", l->name), *bias = kd__onnx_bias(x, l),
               *product = bias ? kd__onnx_text(x, "%s.product", l->name) : kd__onnx_out(x, l);
    kd__onnx_ints(x, kd__onnx_node(x, "Transpose", turned, kd__onnx_weight(x, l), NULL, NULL), "perm", 2,
                  perm);
    kd__onnx_node(x, "MatMul", product, kd__onnx_in(x, l, 0), turned, NULL);
    if (bias) kd__onnx_node(x, "Add", kd__onnx_out(x, l), product, bias, NULL);
}

const char *kd__onnx_linear(kd__onnx *x, const kd__layer *l)
{
    if (l->per == KD_PER_TOKEN) {
        linear_of_tokens(x, l);
    } else {
        const char *w = kd__onnx_weight(x, l), *b = kd__onnx_bias(x, l);
        kd__onnx_int(x, kd__onnx_node(x, "Gemm", kd__onnx_out(x, l), kd__onnx_in(x, l, 0), w, b), "transB",
                     1);
    }
    return and_relu(x, l);
}

static void window(kd__onnx *x, Onnx__NodeProto *n, const kd__layer *l)
{
    const int64_t k[] = {l->f.k, l->f.k}, stride[] = {l->f.stride, l->f.stride},
                  pad[] = {l->f.pad, l->f.pad, l->f.pad, l->f.pad};
    kd__onnx_ints(x, n, "kernel_shape", 2, k);
    kd__onnx_ints(x, n, "strides", 2, stride);
    kd__onnx_ints(x, n, "pads", 4, pad);
}

const char *kd__onnx_conv(kd__onnx *x, const kd__layer *l)
{
    Onnx__NodeProto *n = kd__onnx_node(x, "Conv", kd__onnx_out(x, l), kd__onnx_in(x, l, 0),
                                       kd__onnx_weight(x, l), kd__onnx_bias(x, l));
    window(x, n, l);
    kd__onnx_int(x, n, "group", l->in[0]->dims[2] / l->wdims[1]);
    return and_relu(x, l);
}

const char *kd__onnx_relu(kd__onnx *x, const kd__layer *l)
{
    kd__onnx_node(x, "Relu", kd__onnx_out(x, l), kd__onnx_in(x, l, 0), NULL, NULL);
    return kd__onnx_out(x, l);
}

const char *kd__onnx_maxpool(kd__onnx *x, const kd__layer *l)
{
    window(x, kd__onnx_node(x, "MaxPool", kd__onnx_out(x, l), kd__onnx_in(x, l, 0), NULL, NULL), l);
    return kd__onnx_out(x, l);
}

/* (batch, C, 1, 1) to (batch, C) */
const char *kd__onnx_gap(kd__onnx *x, const kd__layer *l)
{
    const char *map = kd__onnx_text(x, "%s.map", l->name);
    kd__onnx_node(x, "GlobalAveragePool", map, kd__onnx_in(x, l, 0), NULL, NULL);
    kd__onnx_node(x, "Flatten", kd__onnx_out(x, l), map, NULL, NULL);
    return kd__onnx_out(x, l);
}

const char *kd__onnx_flatten(kd__onnx *x, const kd__layer *l)
{
    kd__onnx_node(x, "Flatten", kd__onnx_out(x, l), kd__onnx_in(x, l, 0), NULL, NULL);
    return kd__onnx_out(x, l);
}

const char *kd__onnx_add(kd__onnx *x, const kd__layer *l)
{
    kd__onnx_node(x, "Add", kd__onnx_out(x, l), kd__onnx_in(x, l, 0), kd__onnx_in(x, l, 1), NULL);
    return and_relu(x, l);
}

/* ---- the file ------------------------------------------------------------------------------------- */

/* What a program that runs the file must know and the graph does not say. */
static json_t *metadata(const kd__net *net, const kd_model_export *o, const char *command)
{
    json_t *meta = json_object();
    char *labels = net->m->labels ? kd_json_text(net->m->labels, JSON_COMPACT) : NULL;
    char *pre = o->preprocess
                    ? kd_strdup("in the graph: raw input")
                    : kd_sprintf("input = (raw - %.9g) * %.9g", (double)net->m->mean, (double)net->m->scale);
    json_object_set_new(meta, "kd_version", json_string(KD_VERSION));
    json_object_set_new(meta, "name", json_string(net->m->name));
    json_object_set_new(meta, "weights", json_string(o->weights));
    json_object_set_new(meta, "preprocess", json_string(pre));
    json_object_set_new(meta, "fingerprint", json_string(net->fingerprint));
    if (kd_model_reads_tokens(net->m)) json_object_del(meta, "preprocess");
    if (labels) json_object_set_new(meta, "labels", json_string(labels));
    if (command) json_object_set_new(meta, "command", json_string(command));
    free(labels);
    free(pre);
    return meta;
}

/* What the result is called, and what else is one. */
static void find_outputs(kd__onnx *x)
{
    const kd__net *net = x->net;
    const bool tokens = kd_model_reads_tokens(net->m);
    for (int i = 0; i < net->layers; i++)
        if (!strcmp(net->layer[i].how->op, "pool")) x->hidden = net->layer[i].in[0];
    x->result = !tokens || net->m->spec.classes || kd__decodes(net) ? "logits"
                : x->hidden                                         ? "sentence_embedding"
                                                                    : "last_hidden_state";
}

static void place_outputs(kd__onnx *x)
{
    const kd__layer *last = &x->net->layer[x->net->layers - 1];
    const int64_t each[] = {KD__BATCH, KD__SEQUENCE, (int64_t)(x->hidden ? x->hidden : last)->size},
                  row[] = {KD__BATCH, (int64_t)last->size};
    if (x->hidden) kd__onnx_place(x, true, "last_hidden_state", KD__FLOAT, 3, each);
    if (last->per == KD_PER_TOKEN)
        kd__onnx_place(x, true, x->result, KD__FLOAT, 3, each);
    else
        kd__onnx_place(x, true, x->result, KD__FLOAT, 2, row);
}

kd_status kd__write_onnx(FILE *f, const kd__net *net, const kd_model_export *o, const char *command,
                         kd_model_export_facts *facts, kd_err *err)
{
    kd__onnx x = {.net = net, .o = o};
    json_t *meta = metadata(net, o, command);
    char *whole = kd_json_text(meta, 0); // NULL when a member is missing for want of memory
    (void)facts;
    onnx__graph_proto__init(&x.graph);
    find_outputs(&x);
    x.value = kd_arena_alloc(&x.memory, (size_t)net->layers, sizeof *x.value);
    x.failed = !x.value;
    for (int i = 0; i < net->layers && !x.failed; i++)
        x.value[i] = net->layer[i].how->onnx(&x, &net->layer[i]);
    place_outputs(&x);
    kd_status st = kd__onnx_save(&x, f, net->m->name, whole ? meta : NULL, err);
    free(whole);
    json_decref(meta);
    kd_arena_release(&x.memory);
    return st;
}
