/* dscnn.c - depthwise-separable network (Howard et al., MobileNets, 2017, section 3.1).
 *
 * A block splits a convolution in two: a k x k filter for each channel alone, which sees space, and a
 * 1 x 1 convolution, which mixes channels. That takes about k^2 times fewer multiply-adds than a
 * full convolution of the same width, and is why this shape runs on small processors. channels[0]
 * and strides[0] are the stem's, an ordinary convolution; each further entry is one block.
 */
#include "model_private.h"

kd_node kd__arch_dscnn(kd_graph *g, const kd_model_spec *s, kd_node x)
{
    const int k = (int)s->kernel;
    kd__node_name conv, bn, relu;
    x = kd__conv_block(g, s, x, (kd__conv_names){"stem.conv", "stem.bn", "stem.relu"}, s->channels.v[0], k,
                       kd__at_or_1(&s->strides, 0), false);
    for (size_t i = 1; i < s->channels.n; i++) {
        kd__conv_names dw = {kd__name(&conv, "block%zu.dw", i - 1), kd__name(&bn, "block%zu.dw_bn", i - 1),
                             kd__name(&relu, "block%zu.dw_relu", i - 1)};
        x = kd__conv_block(g, s, x, dw, 0, k, kd__at_or_1(&s->strides, i), true);
        kd__conv_names pw = {kd__name(&conv, "block%zu.pw", i - 1), kd__name(&bn, "block%zu.pw_bn", i - 1),
                             kd__name(&relu, "block%zu.pw_relu", i - 1)};
        x = kd__conv_block(g, s, x, pw, s->channels.v[i], 1, 1, false);
    }
    return kd__head(g, s, x);
}
