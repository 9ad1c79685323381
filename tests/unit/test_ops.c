/* tests/unit/test_ops.c - every op three ways: finite differences, its naive twin, and equal bits for any
 * thread count. Each case is a small graph that ends in the op under test; the loss is the dot
 * product of the output with fixed random numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kd/nn.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef kd_node (*builder)(kd_graph *g, kd_node x);

typedef struct op_case {
    const char *name;
    builder build;
    int ndims;
    int64_t dims[3], batch;
    bool kinked; /* max, ReLU: differences that cross a kink are left out */
} op_case;

static kd_node b_linear(kd_graph *g, kd_node x) { return kd_nn_linear(g, "op", x, 7, true); }
static kd_node b_linear_relu(kd_graph *g, kd_node x) { return kd_nn_relu(g, "r", kd_nn_linear(g, "op", x, 19, true)); }
static kd_node b_linear_plain(kd_graph *g, kd_node x) { return kd_nn_linear(g, "op", x, 3, false); }
static kd_node b_conv(kd_graph *g, kd_node x) { return kd_nn_conv2d(g, "op", x, 5, 3, 1, 1, true); }
static kd_node b_conv_s2(kd_graph *g, kd_node x) { return kd_nn_conv2d(g, "op", x, 16, 3, 2, 1, false); }
static kd_node b_conv_1x1(kd_graph *g, kd_node x) { return kd_nn_conv2d(g, "op", x, 18, 1, 1, 0, true); }
static kd_node b_conv_relu(kd_graph *g, kd_node x) { return kd_nn_relu(g, "r", kd_nn_conv2d(g, "op", x, 6, 5, 1, 2, true)); }
static kd_node b_dw(kd_graph *g, kd_node x) { return kd_nn_dwconv2d(g, "op", x, 3, 1, 1, false); }
static kd_node b_dw_s2(kd_graph *g, kd_node x) { return kd_nn_dwconv2d(g, "op", x, 3, 2, 1, true); }
static kd_node b_bn(kd_graph *g, kd_node x) { return kd_nn_batchnorm(g, "op", x, 0.1f, 1e-5f); }
static kd_node b_bn_relu(kd_graph *g, kd_node x) { return kd_nn_relu(g, "r", kd_nn_batchnorm(g, "op", x, 0.1f, 1e-5f)); }
static kd_node b_relu(kd_graph *g, kd_node x) { return kd_nn_relu(g, "op", kd_nn_add(g, "twice", x, x)); }
static kd_node b_max(kd_graph *g, kd_node x) { return kd_nn_maxpool(g, "op", x, 2, 2); }
static kd_node b_max_overlap(kd_graph *g, kd_node x) { return kd_nn_maxpool(g, "op", x, 3, 2); }
static kd_node b_avg(kd_graph *g, kd_node x) { return kd_nn_avgpool(g, "op", x, 3, 2); }
static kd_node b_gap(kd_graph *g, kd_node x) { return kd_nn_global_avgpool(g, "op", x); }
static kd_node b_flatten(kd_graph *g, kd_node x) { return kd_nn_linear(g, "op", kd_nn_flatten(g, "flat", x), 4, true); }
static kd_node b_softmax(kd_graph *g, kd_node x) { return kd_nn_softmax(g, "op", x); }
static kd_node b_dropout(kd_graph *g, kd_node x) { return kd_nn_dropout(g, "op", x, 0.4f); }
static kd_node b_residual(kd_graph *g, kd_node x)
{
    kd_node a = kd_nn_conv2d(g, "c1", x, 3, 3, 1, 1, false);
    a = kd_nn_relu(g, "r1", kd_nn_batchnorm(g, "n1", a, 0.1f, 1e-5f));
    a = kd_nn_conv2d(g, "c2", a, 3, 3, 1, 1, false);
    kd_node s = kd_nn_add(g, "sum", a, x);
    return kd_nn_add(g, "more", kd_nn_relu(g, "r2", s), s); /* two nodes with two consumers each */
}

static const op_case cases[] = {
    {"linear", b_linear, 1, {13}, 5, false},
    {"linear + ReLU", b_linear_relu, 1, {33}, 9, true},
    {"linear over the last of two axes", b_linear_plain, 2, {4, 6}, 3, false},
    {"conv2d", b_conv, 3, {7, 9, 3}, 3, false},
    {"conv2d, stride 2, 16 channels", b_conv_s2, 3, {8, 7, 16}, 5, false},
    {"conv2d 1x1", b_conv_1x1, 3, {5, 4, 8}, 3, false},
    {"conv2d 5x5 + ReLU on one channel", b_conv_relu, 3, {9, 9, 1}, 4, true},
    {"dwconv2d", b_dw, 3, {6, 5, 7}, 3, false},
    {"dwconv2d, stride 2, 16 channels", b_dw_s2, 3, {7, 8, 16}, 4, false},
    {"batchnorm", b_bn, 3, {3, 5, 6}, 4, false},
    {"batchnorm of 20 channels + ReLU", b_bn_relu, 3, {4, 4, 20}, 5, true},
    {"batchnorm of features", b_bn, 1, {17}, 8, false},
    {"relu of a sum", b_relu, 1, {31}, 4, true},
    {"maxpool", b_max, 3, {6, 7, 5}, 3, true},
    {"overlapping maxpool", b_max_overlap, 3, {7, 7, 4}, 3, true},
    {"avgpool", b_avg, 3, {7, 8, 5}, 3, false},
    {"global average pool", b_gap, 3, {5, 6, 18}, 3, false},
    {"flatten + linear", b_flatten, 3, {3, 4, 5}, 3, false},
    {"softmax", b_softmax, 1, {11}, 4, false},
    {"dropout", b_dropout, 1, {50}, 6, false},
    {"residual block", b_residual, 3, {5, 5, 3}, 4, true},
};

typedef struct run_state {
    kd_graph *g;
    kd_exec *ex;
    kd_node in, out;
    size_t in_floats, out_floats;
    float *direction; /* dLoss/dout */
} run_state;

static void noise(float *x, size_t n, uint32_t salt, float scale)
{
    kd_rng r;
    kd_rng_init(&r, 11, KD_RNG_TEST, salt, 0);
    for (size_t i = 0; i < n; i++) x[i] = scale * kd_rng_normal(&r);
}

/* The input goes through a trainable scale-free layer first, so that the op's dx is wanted: an extra
 * batch-free linear would mix rows; a depthwise-like batch norm would normalise. A 1x1 identity does neither. */
static void set_up(run_state *s, const op_case *c, int threads, bool naive, bool training)
{
    kd_err err = {0};
    s->g = kd_graph_create();
    s->in = kd_nn_input(s->g, "x", c->ndims, c->dims);
    kd_node pre = kd_nn_linear(s->g, "pre", s->in, c->dims[c->ndims - 1], false);
    s->out = c->build(s->g, pre);
    kd_graph_output(s->g, s->out);
    if (kd_graph_finish(s->g, &err)) fail_msg("%s: %s", c->name, err.msg);
    kd_graph_init(s->g, 5);
    size_t floats;
    float *slab = kd_graph_slab(s->g, &floats);
    const kd_param *list;
    size_t n = kd_graph_params(s->g, &list);
    for (size_t i = 0; i < n; i++)
        if (!list[i].buffer && list[i].ndims == 1) noise(slab + list[i].offset, list[i].size, 100 + (uint32_t)i, 0.5f);
    kd_exec_params p = {.batch = c->batch, .threads = threads, .naive = naive, .training = training};
    if (kd_exec_create(&s->ex, s->g, &p, &err)) fail_msg("%s: %s", c->name, err.msg);
    s->in_floats = (size_t)c->batch * kd_graph_node_size(s->g, s->in);
    s->out_floats = (size_t)c->batch * kd_graph_node_size(s->g, s->out);
    s->direction = calloc(s->out_floats, sizeof(float));
    noise(s->direction, s->out_floats, 3, 1);
    noise(kd_exec_input(s->ex, s->in), s->in_floats, 4, 1);
    kd_exec_seed(s->ex, 9, 2);
}

static void tear_down(run_state *s)
{
    kd_exec_free(s->ex);
    kd_graph_free(s->g);
    free(s->direction);
}

static void step(run_state *s, int threads)
{
    if (threads == 1) {
        kd_exec_forward(s->ex);
        memcpy(kd_exec_grad(s->ex, s->out), s->direction, s->out_floats * sizeof(float));
        kd_exec_backward(s->ex);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        kd_exec_forward(s->ex);
#pragma omp single
        memcpy(kd_exec_grad(s->ex, s->out), s->direction, s->out_floats * sizeof(float));
        kd_exec_backward(s->ex);
    }
}

static double loss_of(run_state *s)
{
    double sum = 0;
    kd_exec_forward(s->ex);
    const float *y = kd_exec_value(s->ex, s->out);
    for (size_t i = 0; i < s->out_floats; i++) sum += (double)y[i] * (double)s->direction[i];
    return sum;
}

static double distance(const float *a, const float *b, size_t n)
{
    double d = 0, m = 0;
    for (size_t i = 0; i < n; i++) {
        d = fmax(d, fabs((double)a[i] - (double)b[i]));
        m = fmax(m, fabs((double)b[i]));
    }
    return d / (m > 1e-20 ? m : 1);
}

/* Checks the gradient of the naive twin, whose forward pass sums in double, by central differences. */
static void gradients_agree_with_finite_differences(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        run_state s;
        set_up(&s, &cases[k], 1, true, true);
        step(&s, 1);
        size_t floats, wrong = 0, tried = 0;
        float *slab = kd_graph_slab(s.g, &floats), *grads = kd_exec_grads(s.ex);
        double top = 0;
        for (size_t i = 0; i < floats; i++) top = fmax(top, fabs((double)grads[i]));
        const kd_param *list;
        size_t n = kd_graph_params(s.g, &list);
        for (size_t q = 0; q < n; q++) {
            for (size_t i = 0; !list[q].buffer && i < list[q].size; i += 1 + list[q].size / 40) {
                const size_t at = list[q].offset + i;
                const float w = slab[at], h = cases[k].kinked ? 5e-4f : 1e-2f;
                const float got = grads[at];
                slab[at] = w + h;
                const double up = loss_of(&s), wide = (double)(w + h) - (double)w;
                slab[at] = w - h;
                const double down = loss_of(&s), narrow = (double)w - (double)(w - h);
                slab[at] = w;
                tried++;
                wrong += fabs((up - down) / (wide + narrow) - (double)got) > 4e-3 * (top + fabs((double)got));
            }
        }
        const size_t allowed = cases[k].kinked ? tried / 8 : 0;
        if (tried == 0 || wrong > allowed) fail_msg("%s: %zu of %zu differences disagree", cases[k].name, wrong, tried);
        tear_down(&s);
    }
}

static void fast_ops_equal_their_twins(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++)
        for (int training = 0; training < 2; training++) {
            run_state f, n;
            set_up(&f, &cases[k], 1, false, training);
            set_up(&n, &cases[k], 1, true, training);
            if (training) {
                step(&f, 1), step(&n, 1);
            } else {
                kd_exec_forward(f.ex), kd_exec_forward(n.ex);
            }
            double d = distance(kd_exec_value(f.ex, f.out), kd_exec_value(n.ex, n.out), f.out_floats);
            if (!(d < 1e-5)) fail_msg("%s: values differ by %g", cases[k].name, d);
            size_t floats;
            kd_graph_slab(f.g, &floats);
            d = training ? distance(kd_exec_grads(f.ex), kd_exec_grads(n.ex), floats) : 0;
            if (!(d < 1e-5)) fail_msg("%s: gradients differ by %g", cases[k].name, d);
            float *a = kd_graph_buffers(f.g, &floats), *b = kd_graph_buffers(n.g, NULL);
            d = distance(a, b, floats);
            if (!(d < 1e-5)) fail_msg("%s: running statistics differ by %g", cases[k].name, d);
            tear_down(&f), tear_down(&n);
        }
}

static void bits_do_not_depend_on_threads(void **state)
{
    (void)state;
    static const int threads[] = {2, 3, 8};
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        op_case c = cases[k];
        c.batch = 37; /* more work than one slice, and no multiple of anything */
        run_state one;
        size_t floats;
        set_up(&one, &c, 1, false, true);
        step(&one, 1);
        kd_graph_slab(one.g, &floats);
        for (size_t t = 0; t < sizeof threads / sizeof threads[0]; t++) {
            run_state s;
            set_up(&s, &c, threads[t], false, true);
            step(&s, threads[t]);
            if (memcmp(kd_exec_value(one.ex, one.out), kd_exec_value(s.ex, s.out), s.out_floats * sizeof(float)))
                fail_msg("%s: another value with %d threads", c.name, threads[t]);
            if (memcmp(kd_exec_grads(one.ex), kd_exec_grads(s.ex), floats * sizeof(float)))
                fail_msg("%s: another gradient with %d threads", c.name, threads[t]);
            tear_down(&s);
        }
        tear_down(&one);
    }
}

static void an_exec_of_one_thread_runs_inside_a_region(void **state)
{
    (void)state;
    enum { TEAM = 3 };
    run_state s[TEAM], ref;
    size_t floats;
    const op_case *c = &cases[sizeof cases / sizeof cases[0] - 1];
    set_up(&ref, c, 1, false, true);
    step(&ref, 1);
    kd_graph_slab(ref.g, &floats);
    for (int i = 0; i < TEAM; i++) set_up(&s[i], c, 1, false, true);
#pragma omp parallel for schedule(dynamic) num_threads(TEAM)
    for (int i = 0; i < TEAM; i++) step(&s[i], 1);
    for (int i = 0; i < TEAM; i++) {
        assert_memory_equal(kd_exec_grads(s[i].ex), kd_exec_grads(ref.ex), floats * sizeof(float));
        tear_down(&s[i]);
    }
    tear_down(&ref);
}

static void dropout_keeps_its_share_and_scale(void **state)
{
    (void)state;
    op_case c = {"dropout", b_dropout, 1, {1000}, 20, false};
    run_state s;
    set_up(&s, &c, 1, false, true);
    const size_t n = s.out_floats;
    kd_exec_forward(s.ex);
    const float *y = kd_exec_value(s.ex, s.out);
    size_t zeros = 0;
    for (size_t i = 0; i < n; i++) zeros += y[i] == 0;
    if (fabs((double)zeros / (double)n - 0.4) > 0.02) fail_msg("%zu of %zu are zero", zeros, n);
    float *before = malloc(n * sizeof *before);
    memcpy(before, y, n * sizeof *before);
    kd_exec_forward(s.ex);
    assert_memory_equal(before, kd_exec_value(s.ex, s.out), n * sizeof *before);
    kd_exec_seed(s.ex, 9, 3);
    kd_exec_forward(s.ex);
    assert_memory_not_equal(before, kd_exec_value(s.ex, s.out), n * sizeof *before);
    free(before);
    tear_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree_with_finite_differences), cmocka_unit_test(fast_ops_equal_their_twins),
        cmocka_unit_test(bits_do_not_depend_on_threads), cmocka_unit_test(an_exec_of_one_thread_runs_inside_a_region),
        cmocka_unit_test(dropout_keeps_its_share_and_scale),
    };
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}
