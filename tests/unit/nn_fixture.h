/* nn_fixture.h - small graphs with numbers that depend on their names alone, and what a pass over
 * them leaves behind, so that two ways of running can be compared. */
#ifndef NN_FIXTURE_H
#define NN_FIXTURE_H

#include "check.h"
#include "../../lib/nn/nn_private.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { FX_OUTPUTS = 2 };

/* A graph of one input and up to two outputs. */
typedef struct fx_net {
    kd_graph *g;
    kd_node in, out[FX_OUTPUTS];
    int outs;
} fx_net;

/* Everything one training step leaves behind. */
typedef struct fx_pass {
    float *y[FX_OUTPUTS], *dx, *grads, *buffers;
    size_t ys[FX_OUTPUTS], xs, slab, buffer_floats, bytes;
} fx_pass;

static inline float *fx_normal(size_t n, uint32_t stream)
{
    kd_rng r;
    kd_rng_init(&r, 5, KD_RNG_TEST, stream, 0);
    float *x = kd_alloc_aligned(n + 1, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = kd_rng_normal(&r);
    return x;
}

/* Numbers that keep a distance of `step` from each other and of step / 2 from zero: nothing is near a
 * kink of ReLU or max pooling. */
static inline float *fx_apart(size_t n, uint32_t stream, float step)
{
    uint32_t *order = calloc(n + 1, sizeof *order);
    float *x = kd_alloc_aligned(n + 1, sizeof *x);
    assert_true(order && x);
    kd_rng r;
    kd_rng_init(&r, 5, KD_RNG_TEST, stream, 0);
    kd_rng_permute(&r, order, n);
    for (size_t i = 0; i < n; i++) x[i] = ((float)order[i] - (float)(n / 2) + 0.5f) * step;
    free(order);
    return x;
}

/* Weights by kd_graph_init, then norms and biases moved away from 1 and 0. */
static inline void fx_finish(fx_net *n)
{
    const kd_param *p;
    for (int i = 0; i < n->outs; i++) kd_graph_output(n->g, n->out[i]);
    OK(kd_graph_finish(n->g, err));
    kd_graph_init(n->g, 9);
    const size_t count = kd_graph_params(n->g, &p);
    for (size_t i = 0; i < count; i++) {
        kd_rng r;
        kd_rng_init(&r, 6, KD_RNG_TEST, (uint32_t)i, 0);
        for (size_t k = 0; !p[i].decay && k < p[i].size; k++)
            kd_graph_param_data(n->g, &p[i])[k] +=
                p[i].buffer ? kd_rng_uniform(&r) : 0.3f * kd_rng_normal(&r);
    }
}

/* One forward pass, dy of every output filled from streams 100, 101, one backward pass. The running
 * statistics are put back afterwards, so that the next pass starts from the same graph. */
static inline fx_pass fx_train(const fx_net *n, const kd_exec_params *how, const float *x)
{
    kd_exec *ex = NULL;
    fx_pass r = {.xs = (size_t)how->batch * kd_graph_node_size(n->g, n->in)};
    float *buffers = kd_graph_buffers(n->g, &r.buffer_floats);
    float *before = kd_alloc_aligned(r.buffer_floats + 1, sizeof *before);
    assert_non_null(before);
    memcpy(before, buffers, r.buffer_floats * sizeof *before);
    OK(kd_exec_create(&ex, n->g, how, err));
    r.bytes = kd_exec_bytes(ex);
    memcpy(kd_exec_input(ex, n->in), x, r.xs * sizeof *x);
    kd_exec_seed(ex, 3, 4);
    float *dy[FX_OUTPUTS] = {0};
    for (int i = 0; i < n->outs; i++) {
        r.ys[i] = (size_t)how->batch * kd_graph_node_size(n->g, n->out[i]);
        dy[i] = fx_normal(r.ys[i], 100 + (uint32_t)i);
    }
#pragma omp parallel num_threads(how->threads)
    {
        kd_exec_forward(ex);
#pragma omp single
        for (int i = 0; how->training && i < n->outs; i++)
            memcpy(kd_exec_grad(ex, n->out[i]), dy[i], r.ys[i] * sizeof(float));
        if (how->training) kd_exec_backward(ex);
    }
    for (int i = 0; i < n->outs; i++) {
        r.y[i] = kd_alloc_aligned(r.ys[i], sizeof(float));
        memcpy(r.y[i], kd_exec_value(ex, n->out[i]), r.ys[i] * sizeof(float));
        free(dy[i]);
    }
    kd_graph_slab(n->g, &r.slab);
    r.grads = kd_alloc_aligned(r.slab + 1, sizeof(float));
    r.buffers = kd_alloc_aligned(r.buffer_floats + 1, sizeof(float));
    memcpy(r.buffers, buffers, r.buffer_floats * sizeof(float));
    memcpy(buffers, before, r.buffer_floats * sizeof(float));
    if (how->training) memcpy(r.grads, kd_exec_grads(ex), r.slab * sizeof(float));
    if (how->training && n->g->input_grads) {
        r.dx = kd_alloc_aligned(r.xs, sizeof(float));
        memcpy(r.dx, kd_exec_grad(ex, n->in), r.xs * sizeof(float));
    }
    kd_exec_free(ex);
    free(before);
    return r;
}

static inline void fx_free(fx_pass *r)
{
    for (int i = 0; i < FX_OUTPUTS; i++) free(r->y[i]);
    free(r->dx);
    free(r->grads);
    free(r->buffers);
}

/* Largest difference, relative to the largest number wanted. */
static inline void fx_close(const char *who, const char *what, const float *got, const float *want, size_t n,
                            double tol)
{
    double top = 1e-30;
    for (size_t i = 0; i < n; i++) top = fmax(top, fabs((double)want[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= tol * top))
            fail_msg("%s: %s[%zu] = %.9g, want %.9g (of at most %.3g)", who, what, i, (double)got[i],
                     (double)want[i], top);
}

static inline void fx_passes_close(const char *who, const fx_pass *got, const fx_pass *want, double tol)
{
    for (int i = 0; i < FX_OUTPUTS && got->y[i]; i++)
        fx_close(who, "y", got->y[i], want->y[i], got->ys[i], tol);
    if (got->dx) fx_close(who, "dx", got->dx, want->dx, got->xs, tol);
    fx_close(who, "grads", got->grads, want->grads, got->slab, tol);
    fx_close(who, "buffers", got->buffers, want->buffers, got->buffer_floats, tol);
}

static inline void fx_passes_same(const char *who, const fx_pass *got, const fx_pass *want)
{
    for (int i = 0; i < FX_OUTPUTS && got->y[i]; i++)
        if (memcmp(got->y[i], want->y[i], got->ys[i] * sizeof(float))) fail_msg("%s: y%d differs", who, i);
    if (got->dx && memcmp(got->dx, want->dx, got->xs * sizeof(float))) fail_msg("%s: dx differs", who);
    if (memcmp(got->grads, want->grads, got->slab * sizeof(float))) fail_msg("%s: gradients differ", who);
    if (memcmp(got->buffers, want->buffers, got->buffer_floats * sizeof(float)))
        fail_msg("%s: running statistics differ", who);
}

#endif
