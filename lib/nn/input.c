/* input.c - where the caller's rows and tokens enter. The exec keeps their memory for the caller; nothing
 * runs. A token's id takes the place of a float. */
#include "nn_private.h"

#include <string.h>

kd_node kd_nn_input(kd_graph *g, const char *name, int ndims, const int64_t *dims)
{
    kd__attrs a = {.ndims = ndims};
    for (int i = 0; i < ndims && i < KD_MAX_DIMS; i++) a.dims[i] = dims[i];
    return kd__graph_add(g, &kd__op_input, name, 0, NULL, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    (void)g;
    if (n->a.ndims < 1 || n->a.ndims > KD_MAX_DIMS)
        return kd_fail(err, KD_EUSAGE, "layer %s: %d axes; an input has from 1 to %d", n->name, n->a.ndims,
                       KD_MAX_DIMS);
    n->ndims = n->a.ndims;
    memcpy(n->dims, n->a.dims, sizeof n->dims);
    return KD_OK;
}

const kd__op kd__op_input = {.name = "input", .shape = shape, .packed = true};

kd_node kd_nn_tokens(kd_graph *g, const char *name)
{
    const kd__attrs a = {0};
    return kd__graph_add(g, &kd__op_tokens, name, 0, NULL, &a);
}

static kd_status shape_tokens(kd_graph *g, kd__node_info *n, kd_err *err)
{
    if (g->tokens) return kd_fail(err, KD_EUSAGE, "layer %s: the graph has tokens already", n->name);
    g->tokens = true;
    n->per = KD_PER_TOKEN;
    return KD_OK;
}

const kd__op kd__op_tokens = {.name = "tokens", .shape = shape_tokens, .packed = true};
