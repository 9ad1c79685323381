/* layers.c - the few groups of nodes that all architectures are made of.
 *
 * Names are the contract: a parameter is NODE.weight in model.safetensors, and a tap is a node's name.
 * ReLUs, pools and the like have names too, because a tap may want what comes out of them.
 */
#include "model_private.h"

#include <string.h>

static const float BN_MOMENTUM = 0.1f, BN_EPS = 1e-5f; // torch.nn.BatchNorm2d's

const char *kd__name(kd__node_name *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(b->text, sizeof b->text, fmt, ap);
    va_end(ap);
    return b->text;
}

int kd__at_or_1(const kd_ints *list, size_t i) { return i < list->n ? (int)list->v[i] : 1; }

kd_node kd__conv_block(kd_graph *g, const kd_model_spec *s, kd_node x, kd__conv_names names, int64_t out,
                       int k, int stride, bool depthwise)
{
    const bool norm = names.bn && !strcmp(s->norm, "batch");
    x = depthwise ? kd_nn_dwconv2d(g, names.conv, x, k, stride, k / 2, !norm)
                  : kd_nn_conv2d(g, names.conv, x, out, k, stride, k / 2, !norm);
    if (norm) x = kd_nn_batchnorm(g, names.bn, x, BN_MOMENTUM, BN_EPS);
    return names.relu ? kd_nn_relu(g, names.relu, x) : x;
}

kd_node kd__dense(kd_graph *g, const kd_model_spec *s, kd_node x)
{
    kd__node_name b;
    for (size_t i = 0; i < s->hidden.n; i++) {
        x = kd_nn_linear(g, kd__name(&b, "fc%zu", i), x, s->hidden.v[i], true);
        x = kd_nn_relu(g, kd__name(&b, "fc%zu_relu", i), x);
    }
    if (s->dropout > 0) x = kd_nn_dropout(g, "dropout", x, (float)s->dropout);
    return kd_nn_linear(g, kd__name(&b, "fc%zu", s->hidden.n), x, s->classes, true);
}

kd_node kd__head(kd_graph *g, const kd_model_spec *s, kd_node x)
{
    x = strcmp(s->head, "flatten") ? kd_nn_global_avgpool(g, "gap", x) : kd_nn_flatten(g, "flat", x);
    return kd__dense(g, s, x);
}
