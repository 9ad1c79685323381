/* cnn.c - a plain stack of convolutions: conv, norm, ReLU, and where pools says so max pooling, a
 * stage; then the head. (H, W, C) shrinks by strides and pools only: padding keeps the size. */
#include "model_private.h"

kd_node kd__arch_cnn(kd_graph *g, const kd_model_spec *s, kd_node x)
{
    kd__node_name conv, bn, relu, pool;
    for (size_t i = 0; i < s->channels.n; i++) {
        kd__conv_names n = {kd__name(&conv, "conv%zu", i), kd__name(&bn, "bn%zu", i),
                            kd__name(&relu, "relu%zu", i)};
        const int p = kd__at_or_1(&s->pools, i);
        x = kd__conv_block(g, s, x, n, s->channels.v[i], (int)s->kernel, kd__at_or_1(&s->strides, i), false);
        if (p > 1) x = kd_nn_maxpool(g, kd__name(&pool, "pool%zu", i), x, p, p);
    }
    return kd__head(g, s, x);
}
