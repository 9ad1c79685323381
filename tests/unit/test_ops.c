/* test_ops.c - every op against finite differences of its own forward pass, against its twin in plain C,
 * and against itself with other numbers of threads; what each op promises besides. */
#include "nn_fixture.h"

/* ---- one row per op and shape ------------------------------------------------------------- */

typedef kd_node (*builder)(kd_graph *g, kd_node x);

static kd_node linear(kd_graph *g, kd_node x) { return kd_nn_linear(g, "op", x, 5, true); }
static kd_node linear_relu(kd_graph *g, kd_node x)
{
    return kd_nn_relu(g, "relu", kd_nn_linear(g, "op", x, 7, false));
}
static kd_node conv(kd_graph *g, kd_node x) { return kd_nn_conv2d(g, "op", x, 6, 3, 1, 1, true); }
static kd_node conv_relu(kd_graph *g, kd_node x)
{
    return kd_nn_relu(g, "relu", kd_nn_conv2d(g, "op", x, 4, 3, 2, 1, true));
}
static kd_node conv1(kd_graph *g, kd_node x) { return kd_nn_conv2d(g, "op", x, 5, 1, 1, 0, false); }
static kd_node conv_rows(kd_graph *g, kd_node x) { return kd_nn_conv2d(g, "op", x, 16, 3, 1, 1, true); }
static kd_node conv_rows_stride(kd_graph *g, kd_node x)
{
    return kd_nn_relu(g, "relu", kd_nn_conv2d(g, "op", x, 32, 3, 2, 1, true));
}
static kd_node conv1_rows(kd_graph *g, kd_node x) { return kd_nn_conv2d(g, "op", x, 48, 1, 1, 0, false); }
static kd_node depthwise(kd_graph *g, kd_node x) { return kd_nn_dwconv2d(g, "op", x, 3, 1, 1, true); }
static kd_node depthwise_stride(kd_graph *g, kd_node x) { return kd_nn_dwconv2d(g, "op", x, 3, 2, 1, false); }
static kd_node norm(kd_graph *g, kd_node x) { return kd_nn_batchnorm(g, "op", x, 0.1f, 1e-5f); }
static kd_node norm_relu(kd_graph *g, kd_node x) { return kd_nn_relu(g, "relu", norm(g, x)); }
static kd_node relu(kd_graph *g, kd_node x) { return kd_nn_relu(g, "op", x); }
static kd_node max2(kd_graph *g, kd_node x) { return kd_nn_maxpool(g, "op", x, 2, 2); }
static kd_node max_overlap(kd_graph *g, kd_node x) { return kd_nn_maxpool(g, "op", x, 3, 2); }
static kd_node max_gaps(kd_graph *g, kd_node x) { return kd_nn_maxpool(g, "op", x, 2, 3); }
static kd_node avg2(kd_graph *g, kd_node x) { return kd_nn_avgpool(g, "op", x, 2, 2); }
static kd_node avg_overlap(kd_graph *g, kd_node x) { return kd_nn_avgpool(g, "op", x, 3, 1); }
static kd_node avg_all(kd_graph *g, kd_node x) { return kd_nn_global_avgpool(g, "op", x); }
static kd_node flatten(kd_graph *g, kd_node x) { return kd_nn_flatten(g, "op", x); }
static kd_node add_self(kd_graph *g, kd_node x) { return kd_nn_add(g, "op", x, x); }
static kd_node add_norm(kd_graph *g, kd_node x)
{
    return kd_nn_add(g, "op", x, kd_nn_batchnorm(g, "bn", x, 0.2f, 1e-3f));
}
static kd_node add_relu(kd_graph *g, kd_node x)
{
    return kd_nn_relu(g, "relu", kd_nn_add(g, "op", kd_nn_batchnorm(g, "bn", x, 0.2f, 1e-3f), x));
}
static kd_node softmax(kd_graph *g, kd_node x) { return kd_nn_softmax(g, "op", x); }
static kd_node dropout(kd_graph *g, kd_node x) { return kd_nn_dropout(g, "op", x, 0.4f); }

typedef struct op_case {
    const char *name;
    builder build;
    int ndims;
    int64_t dims[3], batch; /* a small batch, for finite differences */
    bool apart;             /* the op has kinks in its input */
} op_case;

static const op_case cases[] = {
    {"linear", linear, 1, {6}, 3, false},
    {"linear over the last of three axes", linear, 3, {3, 2, 4}, 2, false},
    {"linear + relu", linear_relu, 1, {6}, 4, false},
    {"conv2d 3x3", conv, 3, {5, 6, 3}, 2, false},
    {"conv2d 3x3 stride 2 + relu", conv_relu, 3, {6, 5, 4}, 2, false},
    {"conv2d 1x1", conv1, 3, {4, 4, 6}, 2, false},
    {"conv2d 3x3 row by row", conv_rows, 3, {5, 6, 16}, 2, false},
    {"conv2d 3x3 stride 2 + relu row by row", conv_rows_stride, 3, {6, 5, 16}, 2, false},
    {"conv2d 1x1 row by row", conv1_rows, 3, {4, 5, 16}, 2, false},
    {"dwconv2d 3x3", depthwise, 3, {5, 4, 16}, 2, false},
    {"dwconv2d stride 2 row by row", depthwise_stride, 3, {6, 5, 32}, 2, false},
    {"dwconv2d stride 2", depthwise_stride, 3, {5, 5, 7}, 2, false},
    {"batchnorm of 3 channels", norm, 3, {3, 3, 3}, 4, false},
    {"batchnorm of 1 channel", norm, 3, {3, 3, 1}, 4, false},
    {"batchnorm of 17 channels", norm, 3, {2, 2, 17}, 5, false},
    {"batchnorm of 64 channels", norm, 1, {64}, 7, false},
    {"batchnorm of 200 channels", norm, 1, {200}, 6, false},
    {"batchnorm + relu, 5 channels", norm_relu, 3, {3, 3, 5}, 4, false},
    {"batchnorm + relu, 32 channels", norm_relu, 3, {2, 2, 32}, 4, false},
    {"relu", relu, 3, {3, 3, 5}, 3, true},
    {"maxpool 2/2", max2, 3, {4, 6, 16}, 2, true},
    {"maxpool 2/2 with a rest", max2, 3, {5, 7, 3}, 2, true},
    {"maxpool 3/2", max_overlap, 3, {7, 6, 5}, 2, true},
    {"maxpool 2/3", max_gaps, 3, {7, 8, 4}, 2, true},
    {"avgpool 2/2", avg2, 3, {4, 4, 16}, 2, false},
    {"avgpool 2/2 with a rest", avg2, 3, {5, 5, 3}, 2, false},
    {"avgpool 3/1", avg_overlap, 3, {5, 5, 3}, 2, false},
    {"global_avgpool", avg_all, 3, {3, 5, 18}, 3, false},
    {"flatten", flatten, 3, {3, 4, 5}, 3, false},
    {"flatten of one channel", flatten, 3, {3, 4, 1}, 3, false},
    {"add of itself", add_self, 3, {2, 3, 4}, 3, false},
    {"add behind a norm", add_norm, 3, {2, 3, 4}, 3, false},
    {"add + relu behind a norm", add_relu, 3, {2, 3, 4}, 3, false},
    {"softmax", softmax, 1, {9}, 4, false},
    {"softmax over the last axis", softmax, 3, {2, 3, 5}, 2, false},
    {"dropout", dropout, 3, {3, 3, 5}, 3, false},
};
enum { CASES = sizeof cases / sizeof *cases };

/* Who else reads the op's input, and when: then one of them writes its gradient, the other one adds. */
typedef enum company { ALONE, EARLIER, LATER, COMPANIES } company;

static fx_net build(const op_case *c, company who)
{
    fx_net n = {.g = kd_graph_create()};
    assert_non_null(n.g);
    n.g->input_grads = true;
    n.in = kd_nn_input(n.g, "x", c->ndims, c->dims);
    if (who == EARLIER) n.out[n.outs++] = kd_nn_dropout(n.g, "other", n.in, 0.25f);
    n.out[n.outs++] = c->build(n.g, n.in);
    if (who == LATER) n.out[n.outs++] = kd_nn_dropout(n.g, "other", n.in, 0.25f);
    fx_finish(&n);
    return n;
}

static float *input_of(const op_case *c, const fx_net *n, int64_t batch)
{
    const size_t floats = (size_t)batch * kd_graph_node_size(n->g, n->in);
    return c->apart ? fx_apart(floats, 50, 0.05f) : fx_normal(floats, 50);
}

/* ---- finite differences ------------------------------------------------------------------- */

/* sum of dy * y over the outputs; which: for each number whether it is positive, to see a ReLU switch. */
static double value(kd_exec *ex, const fx_net *n, float *const *dy, const kd_exec_params *how,
                    uint64_t *which)
{
    double sum = 0;
    kd_exec_run_forward(ex);
    *which = 0;
    for (int o = 0; o < n->outs; o++) {
        const float *y = kd_exec_value(ex, n->out[o]);
        const size_t floats = (size_t)how->batch * kd_graph_node_size(n->g, n->out[o]);
        for (size_t i = 0; i < floats; i++) {
            sum += (double)dy[o][i] * (double)y[i];
            *which = *which * 31 + (y[i] > 0);
        }
    }
    return sum;
}

typedef struct differences {
    const char *name;
    kd_exec *ex;
    const fx_net *n;
    float **dy;
    const kd_exec_params *how;
    int tried, skipped;
} differences;

/* The slope at w[i] by central differences against what backward said; about 60 places of w. */
static void check_slopes(differences *d, const char *what, float *w, const float *grad, size_t n)
{
    const float eps = 1.0f / 128;
    const bool kinked = strstr(d->name, "+ relu");
    double top = 0;
    for (size_t i = 0; i < n; i++) top = fmax(top, fabs((double)grad[i]));
    for (size_t i = 0; i < n; i += 1 + n / 60) {
        const float was = w[i];
        uint64_t up, down;
        w[i] = was + eps;
        double slope = value(d->ex, d->n, d->dy, d->how, &up);
        w[i] = was - eps;
        slope = (slope - value(d->ex, d->n, d->dy, d->how, &down)) / (2 * (double)eps);
        w[i] = was;
        d->tried++;
        if (kinked && up != down) {
            d->skipped++;
            continue;
        }
        if (!(fabs(slope - (double)grad[i]) <= 3e-3 * (top + 0.02)))
            fail_msg("%s, %s: slope at %s[%zu] is %.6g, backward says %.6g (at most %.3g)", d->name,
                     d->how->naive ? "twin" : "fast", what, i, slope, (double)grad[i], top);
    }
}

static void differences_of(const op_case *c, company who, bool naive)
{
    const kd_exec_params how = {.batch = c->batch, .threads = 1, .training = true, .naive = naive};
    fx_net n = build(c, who);
    float *x = input_of(c, &n, c->batch), *dy[FX_OUTPUTS] = {0};
    fx_pass r = fx_train(&n, &how, x);
    kd_exec *ex = NULL;
    OK(kd_exec_create(&ex, n.g, &how, err));
    kd_exec_seed(ex, 3, 4);
    memcpy(kd_exec_input(ex, n.in), x, r.xs * sizeof *x);
    for (int o = 0; o < n.outs; o++) dy[o] = fx_normal(r.ys[o], 100 + (uint32_t)o);
    differences d = {c->name, ex, &n, dy, &how, 0, 0};
    check_slopes(&d, "x", kd_exec_input(ex, n.in), r.dx, r.xs);
    const kd_param *p;
    const size_t params = kd_graph_params(n.g, &p);
    for (size_t i = 0; i < params; i++)
        if (!p[i].buffer)
            check_slopes(&d, p[i].name, kd_graph_param_data(n.g, &p[i]), r.grads + p[i].offset, p[i].size);
    if (d.skipped > d.tried / 2) fail_msg("%s: %d of %d places are near a kink", c->name, d.skipped, d.tried);
    for (int o = 0; o < n.outs; o++) free(dy[o]);
    kd_exec_free(ex);
    fx_free(&r);
    free(x);
    kd_graph_free(n.g);
}

static void backward_is_the_slope_of_forward(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++)
        for (int who = 0; who < COMPANIES; who++) differences_of(&cases[i], (company)who, false);
}

static void backward_of_the_twins_is_the_slope_of_forward(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++)
        for (int who = 0; who < COMPANIES; who++) differences_of(&cases[i], (company)who, true);
}

/* ---- twins and threads -------------------------------------------------------------------- */

static void compare_with_twin(const op_case *c, int64_t batch, company who, bool training)
{
    fx_net n = build(c, who);
    float *x = input_of(c, &n, batch);
    const kd_exec_params fast = {.batch = batch, .threads = 2, .training = training};
    const kd_exec_params naive = {.batch = batch, .threads = 1, .training = training, .naive = true};
    fx_pass got = fx_train(&n, &fast, x), want = fx_train(&n, &naive, x);
    fx_passes_close(c->name, &got, &want, 1e-5);
    fx_free(&got);
    fx_free(&want);
    free(x);
    kd_graph_free(n.g);
}

static void fast_ops_equal_their_twins(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++)
        for (int who = 0; who < COMPANIES; who++)
            for (int training = 0; training < 2; training++) {
                compare_with_twin(&cases[i], cases[i].batch, (company)who, training);
                compare_with_twin(&cases[i], 67, (company)who, training); // several slices, not of equal size
            }
}

static void norms_of_any_width_equal_their_twin(void **state)
{
    (void)state;
    for (int64_t c = 1; c <= 300; c += c < 20 ? 1 : c < 140 ? 13 : 53) {
        const op_case wide = {"batchnorm + relu of many widths", norm_relu, 3, {3, 7, c}, 0, false};
        compare_with_twin(&wide, 13, LATER, true);
        compare_with_twin(&wide, 13, ALONE, false);
    }
}

static void the_bits_do_not_depend_on_the_threads(void **state)
{
    (void)state;
    static const int teams[] = {2, 3, 8};
    for (int i = 0; i < CASES; i++) {
        fx_net n = build(&cases[i], LATER);
        float *x = input_of(&cases[i], &n, 45);
        kd_exec_params how = {.batch = 45, .threads = 1, .training = true};
        fx_pass want = fx_train(&n, &how, x);
        for (size_t t = 0; t < sizeof teams / sizeof *teams; t++) {
            how.threads = teams[t];
            fx_pass got = fx_train(&n, &how, x);
            fx_passes_same(cases[i].name, &got, &want);
            fx_free(&got);
        }
        fx_free(&want);
        free(x);
        kd_graph_free(n.g);
    }
}

/* ---- what single ops promise -------------------------------------------------------------- */

/* y of one op in a graph of its own; the caller frees it. */
static float *forward_of(builder b, const int64_t dims[3], const kd_exec_params *how, uint64_t step,
                         const float *x, size_t *floats)
{
    fx_net n = {.g = kd_graph_create(), .outs = 1};
    assert_non_null(n.g);
    n.in = kd_nn_input(n.g, "x", 3, dims);
    n.out[0] = b(n.g, n.in);
    kd_graph_output(n.g, n.out[0]);
    OK(kd_graph_finish(n.g, err));
    kd_graph_init(n.g, 1);
    kd_exec *ex = NULL;
    OK(kd_exec_create(&ex, n.g, how, err));
    memcpy(kd_exec_input(ex, n.in), x, (size_t)how->batch * kd_graph_node_size(n.g, n.in) * sizeof *x);
    kd_exec_seed(ex, 7, step);
    kd_exec_run_forward(ex);
    *floats = (size_t)how->batch * kd_graph_node_size(n.g, n.out[0]);
    float *y = kd_alloc_aligned(*floats, sizeof *y);
    memcpy(y, kd_exec_value(ex, n.out[0]), *floats * sizeof *y);
    kd_exec_free(ex);
    kd_graph_free(n.g);
    return y;
}

static void dropout_keeps_its_share_and_the_mean(void **state)
{
    (void)state;
    const int64_t dims[3] = {16, 16, 13};
    const kd_exec_params how = {.batch = 50, .threads = 2, .training = true};
    size_t n, kept = 0, same = 0;
    float *x = kd_alloc_aligned((size_t)50 * 16 * 16 * 13, sizeof *x);
    for (size_t i = 0; i < (size_t)50 * 16 * 16 * 13; i++) x[i] = 3;
    float *y = forward_of(dropout, dims, &how, 1, x, &n), *later = forward_of(dropout, dims, &how, 2, x, &n);
    for (size_t i = 0; i < n; i++) {
        kept += y[i] != 0;
        same += (y[i] != 0) == (later[i] != 0);
        if (y[i] != 0) assert_float_equal(y[i], 3 / 0.6f, 1e-5f);
    }
    // of 166,400 numbers: five standard deviations are 0.006 and 0.0062
    assert_float_equal((float)kept / (float)n, 0.6f, 0.006f);
    assert_float_equal((float)same / (float)n, 0.6f * 0.6f + 0.4f * 0.4f,
                       0.0062f); // another step, another mask
    free(x);
    free(y);
    free(later);
}

static void dropout_is_the_identity_in_inference(void **state)
{
    (void)state;
    const kd_exec_params how = {.batch = 50, .threads = 1};
    size_t n;
    float *x = fx_normal((size_t)50 * 13, 1), *y = forward_of(dropout, (int64_t[]){1, 1, 13}, &how, 1, x, &n);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x);
    free(y);
}

static void max_pooling_takes_the_first_of_equals_and_passes_nan_on(void **state)
{
    (void)state;
    const op_case c = {"ties", max2, 3, {2, 2, 2}, 2, false};
    const kd_exec_params how = {.batch = 2, .threads = 1, .training = true};
    fx_net n = build(&c, ALONE);
    // two images of 2 x 2 pixels, two channels
    const float x[16] = {1, 5, 7, 5, 7, 2, 0, 5, /**/ NAN, 1, 3, 1, 4, NAN, 5, 1};
    fx_pass r = fx_train(&n, &how, x);
    assert_float_equal(r.y[0][0], 7, 0);
    assert_float_equal(r.y[0][1], 5, 0);
    assert_true(isnan(r.y[0][2]));
    assert_true(isnan(r.y[0][3]));
    float *dy = fx_normal(4, 100);
    const float want[8] = {0, dy[1], dy[0], 0, 0, 0, 0, 0};
    assert_memory_equal(r.dx, want, sizeof want);
    free(dy);
    fx_free(&r);
    kd_graph_free(n.g);
}

/* PyTorch: the batch's mean, and its variance over n - 1, enter with the weight `momentum`. */
static void running_statistics_follow_pytorch(void **state)
{
    (void)state;
    fx_net n = {.g = kd_graph_create(), .outs = 1};
    n.in = kd_nn_input(n.g, "x", 1, (int64_t[]){1});
    n.out[0] = kd_nn_batchnorm(n.g, "bn", n.in, 0.1f, 1e-5f);
    kd_graph_output(n.g, n.out[0]);
    OK(kd_graph_finish(n.g, err));
    kd_graph_init(n.g, 1);
    const kd_exec_params train = {.batch = 4, .threads = 1, .training = true},
                         infer = {.batch = 4, .threads = 1};
    kd_exec *ex = NULL;
    OK(kd_exec_create(&ex, n.g, &train, err));
    memcpy(kd_exec_input(ex, n.in), (float[]){1, 2, 3, 6}, 4 * sizeof(float)); // mean 3, variance 14/3
    kd_exec_run_forward(ex);
    assert_float_equal(kd_exec_value(ex, n.out[0])[3], 3 / sqrt(3.5 + 1e-5), 1e-6);
    kd_exec_free(ex);
    const float *running = kd_graph_buffers(n.g, NULL); // each piece is padded to 16 floats
    assert_float_equal(running[0], 0.3, 1e-6);
    assert_float_equal(running[16], 0.9 + 0.1 * 14 / 3, 1e-6);
    OK(kd_exec_create(&ex, n.g, &infer, err));
    memcpy(kd_exec_input(ex, n.in), (float[]){0, 0, 0, 1}, 4 * sizeof(float));
    kd_exec_run_forward(ex);
    assert_float_equal(kd_exec_value(ex, n.out[0])[3], 0.7 / sqrt(0.9 + 1.4 / 3 + 1e-5), 1e-6);
    kd_exec_free(ex);
    kd_graph_free(n.g);
}

/* Channels whose mean is a thousand deviations away, where sum(x^2) - n mean^2 has no digit left. */
static void variance_survives_a_large_mean(void **state)
{
    (void)state;
    const op_case c = {"a large mean", norm, 3, {14, 14, 6}, 0, false};
    fx_net n = build(&c, ALONE);
    const size_t floats = (size_t)32 * 14 * 14 * 6;
    float *x = fx_normal(floats, 50);
    for (size_t i = 0; i < floats; i++) x[i] += 1000.0f * (float)(i % 6);
    const kd_exec_params fast = {.batch = 32, .threads = 2, .training = true};
    const kd_exec_params naive = {.batch = 32, .threads = 1, .training = true, .naive = true};
    fx_pass got = fx_train(&n, &fast, x), want = fx_train(&n, &naive, x);
    fx_close("variance", "buffers", got.buffers, want.buffers, got.buffer_floats, 1e-6);
    fx_close("a large mean", "y", got.y[0], want.y[0], got.ys[0], 3e-4); // x itself has 24 bits
    fx_free(&got);
    fx_free(&want);
    free(x);
    kd_graph_free(n.g);
}

static void softmax_of_large_numbers_is_finite(void **state)
{
    (void)state;
    const kd_exec_params how = {.batch = 1, .threads = 1};
    size_t n;
    float *y = forward_of(softmax, (int64_t[]){1, 1, 3}, &how, 0, (float[]){1000, 1000, -1000}, &n);
    assert_float_equal(y[0], 0.5, 1e-7);
    assert_float_equal(y[1], 0.5, 1e-7);
    assert_float_equal(y[2], 0, 0);
    free(y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backward_is_the_slope_of_forward),
        cmocka_unit_test(backward_of_the_twins_is_the_slope_of_forward),
        cmocka_unit_test(fast_ops_equal_their_twins),
        cmocka_unit_test(norms_of_any_width_equal_their_twin),
        cmocka_unit_test(the_bits_do_not_depend_on_the_threads),
        cmocka_unit_test(dropout_keeps_its_share_and_the_mean),
        cmocka_unit_test(dropout_is_the_identity_in_inference),
        cmocka_unit_test(max_pooling_takes_the_first_of_equals_and_passes_nan_on),
        cmocka_unit_test(running_statistics_follow_pytorch),
        cmocka_unit_test(variance_survives_a_large_mean),
        cmocka_unit_test(softmax_of_large_numbers_is_finite),
    };
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}
