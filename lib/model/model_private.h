/* model_private.h - what the files of lib/model share. */
#ifndef KD_MODEL_PRIVATE_H
#define KD_MODEL_PRIVATE_H

#include "kd/model.h"

/* An architecture appends its nodes behind the input x and returns the logits. The spec was checked
 * (spec.c): list lengths agree, conv architectures have three input axes. Failures of single nodes
 * stay in the graph and come out of kd_graph_finish. */
typedef kd_node kd__arch(kd_graph *g, const kd_model_spec *s, kd_node x);
kd__arch kd__arch_mlp, kd__arch_cnn, kd__arch_dscnn, kd__arch_resnet;

/* ---- parts that architectures share (layers.c) --------------------------------------------- */

/* A node's name: kd__name(&b, "block%d.dw", i). Valid until b is used again. */
typedef struct kd__node_name {
    char text[96];
} kd__node_name;
const char *kd__name(kd__node_name *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* conv (k x k, padding k / 2, bias only without norm), then batch norm unless bn is NULL or the spec says
 * none, then ReLU unless relu is NULL. depthwise ignores out. */
typedef struct kd__conv_names {
    const char *conv, *bn, *relu;
} kd__conv_names;
kd_node kd__conv_block(kd_graph *g, const kd_model_spec *s, kd_node x, kd__conv_names names, int64_t out,
                       int k, int stride, bool depthwise);
/* Hidden layers fc0, fc1, ... with ReLU, dropout, and the last fcN to the classes. */
kd_node kd__dense(kd_graph *g, const kd_model_spec *s, kd_node x);
/* gap or flatten, then kd__dense. */
kd_node kd__head(kd_graph *g, const kd_model_spec *s, kd_node x);
/* Element i of an optional list, 1 if the list is empty. */
int kd__at_or_1(const kd_ints *list, size_t i);

#endif
