/* mlp.c - fully connected layers over the flattened row: flat, fc0, fc0_relu, ..., fcN. */
#include "model_private.h"

kd_node kd__arch_mlp(kd_graph *g, const kd_model_spec *s, kd_node x)
{
    return kd__dense(g, s, kd_nn_flatten(g, "flat", x));
}
