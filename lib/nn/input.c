/* input.c - where the caller's rows enter. The exec keeps its memory for the caller; nothing runs. */
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

const kd__op kd__op_input = {.name = "input", .shape = shape};
