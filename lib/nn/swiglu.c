/* swiglu.c - y = gate sigmoid(gate) up: the network of a decoder's layer between its linear maps (Shazeer,
 * "GLU Variants Improve Transformer", 2020).
 *
 * Gate and up are half of what a decoder's layer keeps for backward. With bf16 operands they are kept as
 * bf16, as the products around them read what they make.
 */
#include "nn_private.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 1024 }; /* floats */

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

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    (void)err;
    s->keeps_x = s->has_backward && ex->operands != KD__F32 && !ex->p.naive;
    const size_t n = kd__node_rows_planned(ex, s->n) * s->n->size;
    if (s->keeps_x) s->keep_floats = 2 * kd__operand_floats(KD__BF16, n);
    return KD_OK;
}

/* Numbers of gate or up from i on, as they are kept. */
static uint16_t *kept(const kd_exec *ex, const kd__state *s, int which, size_t i)
{
    const size_t n = kd__node_rows_planned(ex, s->n) * s->n->size;
    return (uint16_t *)(void *)(s->keep + (size_t)which * kd__operand_floats(KD__BF16, n)) + i;
}

/* What is read of gate or up from i on: room receives what is kept. */
static const float *read(const kd_exec *ex, const kd__state *s, int which, size_t i, size_t n, float *room)
{
    if (!s->keeps_x) return s->x[which] + i;
    kd__vec_get()->from_bf16(room, kept(ex, s, which, i), n);
    return room;
}

static void forward(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) {
        const size_t some = kd_min_size(BLOCK, n - i);
        for (int k = 0; k < 2 && s->keeps_x; k++)
            kd__vec_get()->to_bf16(kept(ex, s, k, i), s->x[k] + i, some);
        kd__decoder_get()->swiglu(s->y + i, s->x[0] + i, s->x[1] + i, some);
    }
}

static void again(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) {
        float room[2][BLOCK];
        const size_t some = kd_min_size(BLOCK, n - i);
        kd__decoder_get()->swiglu(s->y + i, read(ex, s, 0, i, some, room[0]),
                                  read(ex, s, 1, i, some, room[1]), some);
    }
}

static void backward(kd_exec *ex, kd__state *s)
{
    const size_t n = floats(ex, s);
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) {
        float room[2][BLOCK];
        const size_t some = kd_min_size(BLOCK, n - i);
        kd__decoder_get()->swiglu_back(s->dx[0] ? s->dx[0] + i : NULL, s->dx[1] ? s->dx[1] + i : NULL,
                                       s->dy + i, read(ex, s, 0, i, some, room[0]),
                                       read(ex, s, 1, i, some, room[1]), some, s->add);
    }
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
    const kd__operands how = ex->operands ? KD__BF16 : KD__F32;
    for (size_t i = 0; i < floats(ex, s); i++) {
        const double g = kd__naive_operand(s->x[0][i], how), u = kd__naive_operand(s->x[1][i], how),
                     d = (double)s->dy[i], p = sigmoid(g);
        const double dx[2] = {d * u * p * (1 + g * (1 - p)), d * g * p};
        for (int k = 0; k < 2; k++)
            if (s->dx[k]) s->dx[k][i] = (float)((s->add[k] ? (double)s->dx[k][i] : 0.0) + dx[k]);
    }
}

const kd__op kd__op_swiglu = {
    .name = "swiglu",
    .nin = 2,
    .shape = shape,
    .plan = plan,
    .forward = forward,
    .backward = backward,
    .again = again,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .packed = true,
    .backward_reads_x = true,
    .remade = true,
    .inplace = true,
};
