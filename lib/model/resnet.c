/* resnet.c - residual network of basic blocks (He et al. 2016, sections 3.3 and 4.2).
 *
 *     x ── conv0, bn0, relu0 ── conv1, bn1 ──(+)── relu1
 *      └───────── skip.conv, skip.bn ─────────┘
 *
 * The skip is the identity where block and input have the same shape, otherwise a strided 1 x 1
 * convolution with norm (option B). channels[0] and strides[0] are the stem's; each further entry is
 * a stage of `blocks` blocks, the first of which takes the stride.
 */
#include "model_private.h"

static kd_node basic_block(kd_graph *g, const kd_model_spec *s, kd_node x, int64_t in, int64_t out,
                           int stride, const char *prefix)
{
    const int k = (int)s->kernel;
    kd__node_name conv, bn, relu;
    kd__conv_names first = {kd__name(&conv, "%s.conv0", prefix), kd__name(&bn, "%s.bn0", prefix),
                            kd__name(&relu, "%s.relu0", prefix)};
    kd_node y = kd__conv_block(g, s, x, first, out, k, stride, false);
    kd__conv_names second = {kd__name(&conv, "%s.conv1", prefix), kd__name(&bn, "%s.bn1", prefix), NULL};
    y = kd__conv_block(g, s, y, second, out, k, 1, false);
    if (stride != 1 || in != out) {
        kd__conv_names skip = {kd__name(&conv, "%s.skip.conv", prefix), kd__name(&bn, "%s.skip.bn", prefix),
                               NULL};
        x = kd__conv_block(g, s, x, skip, out, 1, stride, false);
    }
    y = kd_nn_add(g, kd__name(&conv, "%s.add", prefix), y, x);
    return kd_nn_relu(g, kd__name(&relu, "%s.relu1", prefix), y);
}

kd_node kd__arch_resnet(kd_graph *g, const kd_model_spec *s, kd_node x)
{
    kd__node_name prefix;
    x = kd__conv_block(g, s, x, (kd__conv_names){"stem.conv", "stem.bn", "stem.relu"}, s->channels.v[0],
                       (int)s->kernel, kd__at_or_1(&s->strides, 0), false);
    for (size_t stage = 1; stage < s->channels.n; stage++)
        for (int64_t b = 0; b < s->blocks; b++) {
            const int64_t in = b == 0 ? s->channels.v[stage - 1] : s->channels.v[stage];
            kd__name(&prefix, "stage%zu.block%lld", stage - 1, (long long)b);
            x = basic_block(g, s, x, in, s->channels.v[stage], b == 0 ? kd__at_or_1(&s->strides, stage) : 1,
                            prefix.text);
        }
    return kd__head(g, s, x);
}
