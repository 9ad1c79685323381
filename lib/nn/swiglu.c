/* swiglu.c - y = gate sigmoid(gate) up: the network of a decoder's layer between its linear maps (Shazeer,
 * "GLU Variants Improve Transformer", 2020). */
#include "nn_private.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 4096 }; /* floats */

kd_node kd_nn_swiglu(kd_graph *g, const char *name, kd_node gate, kd_node up)
{
    const kd__attrs a = {0};
    return kd__graph_add(g, &kd__op_swiglu, name, 2, (kd_node[]){gate, up}, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *a = kd__graph_in(g, n, 0), *b = kd__graph_in(g, n, 1);
    if (a->size != b->size || a->ndims != b->ndims)
        return kd_fail(err, KD_EUSAGE, "layer %s: %s has %zu values a row, %s has %zu; they must agree",
                       n->name, a->name, a->size, b->name, b->size);
    n->ndims = a->ndims;
    memcpy(n->dims, a->dims, sizeof n->dims);
    return KD_OK;
}

static size_t floats(const kd_exec *ex, const kd__state *s) { return kd__node_rows(ex, s->n) * s->n->size; }

static void forward(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        kd__decoder_get()->swiglu(s->y + i, s->x[0] + i, s->x[1] + i, kd_min_size(BLOCK, n - i));
}

static void backward(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        kd__decoder_get()->swiglu_back(s->dx[0] ? s->dx[0] + i : NULL, s->dx[1] ? s->dx[1] + i : NULL,
                                       s->dy + i, s->x[0] + i, s->x[1] + i, kd_min_size(BLOCK, n - i),
                                       s->add);
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static void naive_forward(kd_exec *ex, kd__state *s)
{
    for (size_t i = 0; i < floats(ex, s); i++) {
        const double g = (double)s->x[0][i];
        s->y[i] = (float)(g * sigmoid(g) * (double)s->x[1][i]);
    }
}

static void naive_backward(kd_exec *ex, kd__state *s)
{
    for (size_t i = 0; i < floats(ex, s); i++) {
        const double g = (double)s->x[0][i], u = (double)s->x[1][i], d = (double)s->dy[i], p = sigmoid(g);
        const double dx[2] = {d * u * p * (1 + g * (1 - p)), d * g * p};
        for (int k = 0; k < 2; k++)
            if (s->dx[k]) s->dx[k][i] = (float)((s->add[k] ? (double)s->dx[k][i] : 0.0) + dx[k]);
    }
}

const kd__op kd__op_swiglu = {
    .name = "swiglu",
    .nin = 2,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .packed = true,
    .backward_reads_x = true,
    .remade = true,
    .inplace = true,
};
