/* net.c - from a model's graph to the layers that are written.
 *
 * In inference three kinds of nodes need no code of their own: dropout passes its input on, a ReLU becomes
 * the last step of the layer before it, and a batch norm becomes part of the convolution before it (Jacob et
 * al. 2018, section 3.2): with s = weight / sqrt(running_var + eps) of a channel,
 *
 *     norm(conv(x)) = conv'(x) + b',   w' = w s,   b' = bias + (b - running_mean) s
 *
 * The model is changed in place: its convolution gets w', the batch norm is left with a weight of 1, the bias
 * b', a mean of 0 and a variance of 1 - eps. So the changed model can still be run, and whoever wants to know
 * what folding (or rounding to int8) did compares it with one that was loaded afresh.
 *
 * The table below is all that ONNX and C need to know about an op; an op without a row cannot be exported.
 */
#include "export_private.h"

#include <math.h>
#include <string.h>

static const kd__writer writers[] = {
    {"input", false, false, kd__onnx_input, kd__c_scale_text, kd__c_input},
    {"linear", true, false, kd__onnx_linear, kd__c_linear_text, kd__c_linear},
    {"conv2d", true, false, kd__onnx_conv, kd__c_conv_text, kd__c_conv},
    {"dwconv2d", true, false, kd__onnx_conv, kd__c_dwconv_text, kd__c_conv},
    {"relu", false, true, kd__onnx_relu, kd__c_relu_text, kd__c_relu},
    {"maxpool", false, false, kd__onnx_maxpool, kd__c_maxpool_text, kd__c_maxpool},
    {"global_avgpool", false, false, kd__onnx_gap, kd__c_gap_text, kd__c_gap},
    {"flatten", false, false, kd__onnx_flatten, kd__c_flatten_text, kd__c_flatten},
    {"add", true, true, kd__onnx_add, kd__c_add_text, kd__c_add},
    {"tokens", .onnx = kd__onnx_tokens},
    {"embedding", .onnx = kd__onnx_embedding},
    {"layernorm", .onnx = kd__onnx_layernorm},
    {"attention", .onnx = kd__onnx_attention},
    {"gelu", .onnx = kd__onnx_gelu},
    {"pool", .onnx = kd__onnx_pool},
    {"normalize", .onnx = kd__onnx_normalize},
    {"rmsnorm", .onnx = kd__onnx_rmsnorm},
    {"rope", .onnx = kd__onnx_rope},
    {"causal_attention", .onnx = kd__onnx_causal},
    {"swiglu", .onnx = kd__onnx_swiglu},
};

static kd_status no_memory(kd_err *err)
{
    return kd_fail(err, KD_ENOMEM, "no memory for the exported model");
}

/* ---- batch norms -------------------------------------------------------------------------------- */

enum { WEIGHT, BIAS, MEAN, VAR };

static kd_status fold(const kd__net *net, kd__layer *l, const kd_node_facts *norm, const char *name,
                      kd_err *err)
{
    float *p[4];
    for (int i = 0; i < 4; i++) p[i] = kd_graph_param_data(net->m->graph, norm->param[i]);
    const size_t channels = norm->param[WEIGHT]->size, each = l->weights / channels;
    for (size_t c = 0; c < channels; c++) {
        const double s = (double)p[WEIGHT][c] / sqrt((double)p[VAR][c] + (double)norm->eps);
        const double b = (double)p[BIAS][c] - (double)p[MEAN][c] * s + (l->bias ? (double)l->bias[c] * s : 0);
        if (!isfinite(s) || !isfinite(b))
            return kd_fail(err, KD_ENUMERIC, "layer %s: channel %zu has weight %g and running variance %g",
                           name, c, (double)p[WEIGHT][c], (double)p[VAR][c]);
        for (size_t i = c * each; i < (c + 1) * each; i++) l->w[i] = (float)((double)l->w[i] * s);
        if (l->bias) l->bias[c] = 0;
        p[WEIGHT][c] = 1;
        p[BIAS][c] = (float)b;
        p[MEAN][c] = 0;
        p[VAR][c] = 1 - norm->eps;
    }
    l->bias = p[BIAS];
    return KD_OK;
}

/* ---- whole numbers ------------------------------------------------------------------------------ */

/* Rounds each output channel to whole numbers of a scale, -127 to 127, in the model, too. */
static kd_status quantise(kd__net *net, kd__layer *l, kd_err *err)
{
    for (const kd__layer *before = net->layer; l->shared && before < l; before++)
        if (before->w == l->w) {
            l->q = before->q;
            l->scale = before->scale;
            return KD_OK;
        }
    const size_t channels = (size_t)l->wdims[0], each = l->weights / channels;
    l->q = kd_arena_alloc(&net->memory, l->weights, sizeof *l->q);
    l->scale = kd_arena_alloc(&net->memory, channels, sizeof *l->scale);
    if (!l->q || !l->scale) return no_memory(err);
    for (size_t c = 0; c < channels; c++) {
        float *w = l->w + c * each, top = 0;
        for (size_t i = 0; i < each; i++) top = fmaxf(top, fabsf(w[i]));
        l->scale[c] = top > 0 ? top / 127 : 1;
        for (size_t i = 0; i < each; i++) {
            l->q[c * each + i] = (int8_t)lrintf(w[i] / l->scale[c]);
            w[i] = (float)l->q[c * each + i] * l->scale[c];
        }
    }
    return KD_OK;
}

/* ---- the walk ----------------------------------------------------------------------------------- */

static kd_status add_layer(kd__net *net, kd_node n, const kd_node_facts *f, kd__layer *const *of, kd_err *err)
{
    kd_graph *g = net->m->graph;
    kd__layer *l = &net->layer[net->layers];
    for (size_t i = 0; i < KD_COUNT(writers); i++)
        if (!strcmp(writers[i].op, f->op)) l->how = &writers[i];
    if (!l->how)
        return kd_fail(err, KD_EUNSUPPORTED, "layer %s: no format has words for its kind, %s",
                       kd_graph_node_name(g, n), f->op);
    l->name = kd_graph_node_name(g, n);
    l->index = net->layers++;
    l->inputs = f->inputs;
    for (int i = 0; i < f->inputs; i++) l->in[i] = of[f->in[i]];
    l->f = *f;
    l->per = kd_graph_node_per(g, n);
    l->ndims = kd_graph_node_shape(g, n, l->dims);
    l->size = kd_graph_node_size(g, n);
    if (f->params > BIAS && f->param[BIAS]->ndims == 1) l->bias = kd_graph_param_data(g, f->param[BIAS]);
    if (f->params) {
        const kd_param *w = f->param[WEIGHT];
        l->w = kd_graph_param_data(g, w);
        l->weights = w->size;
        l->wndims = w->ndims;
        for (int i = 0; i < w->ndims && i < 4; i++) l->wdims[i] = w->dims[i];
        for (int i = 0; i < l->index && !l->shared; i++) l->shared = net->layer[i].w == l->w;
    }
    return KD_OK;
}

/* of: the layer whose value a node's is. uses: how many read a node. */
static kd_status walk(kd__net *net, kd__layer **of, const int *uses, kd_err *err)
{
    const kd_graph *g = net->m->graph;
    kd_status st = KD_OK;
    for (kd_node n = 0; n <= net->m->logits && !st; n++) {
        const kd_node_facts f = kd_graph_node_facts(g, n);
        kd__layer *before = f.inputs ? of[f.in[0]] : NULL;
        const bool alone = f.inputs && uses[f.in[0]] == 1 && !before->relu;
        if (!strcmp(f.op, "dropout")) {
            of[n] = before;
        } else if (!strcmp(f.op, "relu") && alone && before->how->fuses_relu) {
            before->relu = kd_graph_node_name(g, n);
            of[n] = before;
        } else if (!strcmp(f.op, "batchnorm")) {
            st = alone && before->w ? fold(net, before, &f, kd_graph_node_name(g, n), err)
                                    : kd_fail(err, KD_EUNSUPPORTED,
                                              "layer %s: a batch norm that is not behind a convolution "
                                              "cannot be folded",
                                              kd_graph_node_name(g, n));
            of[n] = before;
        } else {
            of[n] = &net->layer[net->layers];
            st = add_layer(net, n, &f, of, err);
        }
    }
    return st;
}

kd_status kd__net_build(kd__net *net, kd_model *m, bool int8, kd_err *err)
{
    const size_t nodes = (size_t)m->logits + 1;
    *net = (kd__net){.m = m};
    kd_model_fingerprint(m, net->fingerprint);
    net->layer = kd_arena_alloc(&net->memory, nodes, sizeof *net->layer);
    kd__layer **of = kd_arena_alloc(&net->memory, nodes, sizeof *of);
    int *uses = kd_arena_alloc(&net->memory, nodes, sizeof *uses);
    if (!net->layer || !of || !uses || !*net->fingerprint) return no_memory(err);
    for (kd_node n = 0; n <= m->logits; n++) {
        const kd_node_facts f = kd_graph_node_facts(m->graph, n);
        for (int i = 0; i < f.inputs; i++) uses[f.in[i]]++;
    }
    kd_status st = walk(net, of, uses, err);
    if (st) return st;
    for (int i = 0; i < net->layers && int8 && !st; i++)
        if (net->layer[i].wndims > 1) st = quantise(net, &net->layer[i], err);
    return st;
}

void kd__net_release(kd__net *net) { kd_arena_release(&net->memory); }

bool kd__decodes(const kd__net *net) { return !strcmp(net->m->spec.arch, "llama"); }
