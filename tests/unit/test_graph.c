/* test_graph.c - building: what is refused and in which words; parameters and their slab; fusion.
 * Running: gradients that meet, memory shared in time, execs side by side, names that stay readable. */
#include "nn_fixture.h"

/* ---- building ----------------------------------------------------------------------------- */

static kd_node image(kd_graph *g) { return kd_nn_input(g, "image", 3, (int64_t[]){6, 6, 3}); }

static void the_first_mistake_is_reported(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_create();
    kd_node x = image(g);
    x = kd_nn_conv2d(g, "conv", x, 4, 9, 1, 1, false); // 9 does not fit 6 + 2
    x = kd_nn_batchnorm(g, "bn", x, 0.1f, 1e-5f);
    assert_true(x < 0);
    kd_graph_output(g, kd_nn_linear(g, "fc", x, -5, true));
    FAILS(kd_graph_finish(g, err), KD_EUSAGE, "layer conv: a window of 9 does not fit an image of 6 x 6");
    kd_graph_free(g);
}

typedef kd_node (*mistake)(kd_graph *g, kd_node x);
static kd_node twice(kd_graph *g, kd_node x) { return kd_nn_relu(g, "image", x); }
static kd_node nameless(kd_graph *g, kd_node x) { return kd_nn_relu(g, "", x); }
static kd_node stranger(kd_graph *g, kd_node x) { return kd_nn_add(g, "add", x, 77); }
static kd_node unequal(kd_graph *g, kd_node x)
{
    return kd_nn_add(g, "add", x, kd_nn_maxpool(g, "p", x, 2, 2));
}
static kd_node drop_all(kd_graph *g, kd_node x) { return kd_nn_dropout(g, "drop", x, 1.0f); }
static kd_node pool_vector(kd_graph *g, kd_node x)
{
    return kd_nn_maxpool(g, "p", kd_nn_flatten(g, "f", x), 2, 2);
}
static kd_node pool_large(kd_graph *g, kd_node x) { return kd_nn_avgpool(g, "p", x, 7, 1); }
static kd_node pool_still(kd_graph *g, kd_node x) { return kd_nn_maxpool(g, "p", x, 2, 0); }
static kd_node gap_vector(kd_graph *g, kd_node x)
{
    return kd_nn_global_avgpool(g, "gap", kd_nn_flatten(g, "f", x));
}
static kd_node no_eps(kd_graph *g, kd_node x) { return kd_nn_batchnorm(g, "bn", x, 0.1f, 0); }
static kd_node no_outputs(kd_graph *g, kd_node x) { return kd_nn_linear(g, "fc", x, 0, true); }
static kd_node no_axis(kd_graph *g, kd_node x)
{
    return (void)x, kd_nn_input(g, "two", 2, (int64_t[]){3, 0});
}
static kd_node many_axes(kd_graph *g, kd_node x)
{
    return (void)x, kd_nn_input(g, "two", 7, (int64_t[7]){1});
}
static kd_node endless(kd_graph *g, kd_node x)
{
    return (void)x, kd_nn_input(g, "two", 3, (int64_t[]){1 << 30, 1 << 30, 1 << 30});
}

static void mistakes_are_named(void **state)
{
    (void)state;
    static const struct {
        mistake make;
        const char *says;
    } all[] = {
        {twice, "layer image: there is one of that name"},
        {nameless, "a layer without a name"},
        {stranger, "layer add: input 1 is no node of this graph"},
        {unequal, "layer add: image has 108 values a row, p has 27"},
        {drop_all, "layer drop: dropout of 1"},
        {pool_vector, "layer p: its input f has 1 axes"},
        {pool_large, "layer p: a window of 7 does not fit an image of 6 x 6"},
        {pool_still, "layer p: window 2, stride 0"},
        {gap_vector, "layer gap: its input f has 1 axes"},
        {no_eps, "layer bn: momentum 0.1, eps 0"},
        {no_outputs, "layer fc: 0 outputs"},
        {no_axis, "layer two: axis 1 has 0 places"},
        {many_axes, "layer two: 7 axes"},
        {endless, "layer two: axis 1 has 1073741824 places"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_graph *g = kd_graph_create();
        const kd_node x = image(g);
        kd_graph_output(g, all[i].make(g, x));
        FAILS(kd_graph_finish(g, err), KD_EUSAGE, all[i].says);
        kd_graph_free(g);
    }
}

static void a_graph_needs_an_output_and_an_end(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_create();
    kd_exec *ex;
    const kd_exec_params how = {.batch = 1, .threads = 1};
    const kd_node x = image(g);
    FAILS(kd_graph_finish(g, err), KD_EUSAGE, "no output");
    FAILS(kd_exec_create(&ex, g, &how, err), KD_EUSAGE, "kd_graph_finish");
    assert_null(ex);
    kd_graph_output(g, x);
    OK(kd_graph_finish(g, err));
    assert_true(kd_nn_relu(g, "late", x) < 0);
    kd_graph_free(g);
    kd_graph_free(NULL);
    kd_exec_free(NULL);
}

static void execs_refuse_what_cannot_run(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_create();
    kd_exec *ex;
    kd_exec_params how = {.batch = 0, .threads = 1, .training = true};
    kd_graph_output(g, kd_nn_batchnorm(g, "bn", kd_nn_input(g, "x", 1, (int64_t[]){4}), 0.1f, 1e-5f));
    OK(kd_graph_finish(g, err));
    FAILS(kd_exec_create(&ex, g, &how, err), KD_EUSAGE, "a batch of 0 rows");
    how.batch = 1;
    FAILS(kd_exec_create(&ex, g, &how, err), KD_EUSAGE, "layer bn: batch norm trains on at least 2 values");
    how.batch = INT64_MAX;
    FAILS(kd_exec_create(&ex, g, &how, err), KD_ENOMEM, "use a smaller batch");
    how = (kd_exec_params){.batch = 1, .threads = 0};
    FAILS(kd_exec_create(&ex, g, &how, err), KD_EUSAGE, "on 0 threads");
    kd_graph_free(g);
}

/* ---- what a graph has --------------------------------------------------------------------- */

/* conv + norm + ReLU, a residual block, global average, dropout, a linear layer. */
static fx_net residual(bool unfused)
{
    fx_net n = {.g = kd_graph_create(), .outs = 1};
    assert_non_null(n.g);
    n.g->unfused = unfused;
    n.in = kd_nn_input(n.g, "image", 3, (int64_t[]){8, 7, 2});
    kd_node x = kd_nn_conv2d(n.g, "stem.conv", n.in, 12, 3, 2, 1, false);
    x = kd_nn_relu(n.g, "stem.relu", kd_nn_batchnorm(n.g, "stem.bn", x, 0.1f, 1e-5f));
    kd_node y = kd_nn_conv2d(n.g, "conv0", x, 12, 3, 1, 1, true);
    y = kd_nn_conv2d(n.g, "conv1", kd_nn_relu(n.g, "relu0", y), 12, 1, 1, 0, false);
    y = kd_nn_batchnorm(n.g, "bn1", y, 0.1f, 1e-5f);
    x = kd_nn_relu(n.g, "relu1", kd_nn_add(n.g, "add", x, y));
    x = kd_nn_dropout(n.g, "drop", kd_nn_global_avgpool(n.g, "gap", x), 0.2f);
    n.out[0] = kd_nn_linear(n.g, "fc", x, 5, true);
    fx_finish(&n);
    return n;
}

static void parameters_have_names_shapes_and_places(void **state)
{
    (void)state;
    fx_net n = residual(false);
    static const struct {
        const char *name;
        int ndims;
        int64_t dims[4];
        bool buffer, decay;
    } want[] = {
        {"stem.conv.weight", 4, {12, 2, 3, 3}, false, true},
        {"stem.bn.weight", 1, {12}, false, false},
        {"stem.bn.bias", 1, {12}, false, false},
        {"stem.bn.running_mean", 1, {12}, true, false},
        {"stem.bn.running_var", 1, {12}, true, false},
        {"conv0.weight", 4, {12, 12, 3, 3}, false, true},
        {"conv0.bias", 1, {12}, false, false},
        {"conv1.weight", 4, {12, 12, 1, 1}, false, true},
        {"bn1.weight", 1, {12}, false, false},
        {"bn1.bias", 1, {12}, false, false},
        {"bn1.running_mean", 1, {12}, true, false},
        {"bn1.running_var", 1, {12}, true, false},
        {"fc.weight", 2, {5, 12}, false, true},
        {"fc.bias", 1, {5}, false, false},
    };
    const kd_param *p;
    size_t slab, buffers, at[2] = {0}, count = 0;
    assert_int_equal(kd_graph_params(n.g, &p), sizeof want / sizeof *want);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_string_equal(p[i].name, want[i].name);
        assert_int_equal(p[i].ndims, want[i].ndims);
        assert_memory_equal(p[i].dims, want[i].dims, (size_t)p[i].ndims * sizeof(int64_t));
        assert_int_equal(p[i].buffer, want[i].buffer);
        assert_int_equal(p[i].decay, want[i].decay);
        assert_int_equal(p[i].offset, at[p[i].buffer]);
        assert_int_equal((uintptr_t)kd_graph_param_data(n.g, &p[i]) % 64, 0);
        at[p[i].buffer] += (p[i].size + 15) / 16 * 16;
        count += p[i].buffer ? 0 : p[i].size;
    }
    kd_graph_slab(n.g, &slab);
    kd_graph_buffers(n.g, &buffers);
    assert_int_equal(slab, at[0]);
    assert_int_equal(buffers, at[1]);
    assert_int_equal(kd_graph_param_count(n.g), count);
    kd_graph_free(n.g);
}

static void initial_weights_follow_pytorch_and_the_seed(void **state)
{
    (void)state;
    fx_net n = residual(false), other = residual(true);
    const kd_param *p;
    const size_t params = kd_graph_params(n.g, &p);
    size_t slab;
    float *w = kd_graph_slab(n.g, &slab);
    kd_graph_init(n.g, 1);
    kd_graph_init(other.g, 1);
    assert_memory_equal(w, kd_graph_slab(other.g, NULL), slab * sizeof *w);
    kd_graph_init(other.g, 2);
    assert_memory_not_equal(w, kd_graph_slab(other.g, NULL), slab * sizeof *w);
    for (size_t i = 0; i < params; i++) {
        const float *v = kd_graph_param_data(n.g, &p[i]);
        if (!strcmp(p[i].name, "conv0.weight")) { // 1296 numbers, fan-in 108
            const float bound = 1 / sqrtf(108);
            double sum = 0, sq = 0;
            for (size_t k = 0; k < p[i].size; k++) {
                assert_true(fabsf(v[k]) <= bound);
                sum += (double)v[k];
                sq += (double)v[k] * (double)v[k];
            }
            assert_true(fabs(sum / 1296) < 0.005 && fabs(sqrt(sq / 1296) - 1 / sqrt(3.0 * 108)) < 0.003);
        }
        const bool one = strstr(p[i].name, "bn") && (strstr(p[i].name, "weight") || strstr(p[i].name, "var"));
        for (size_t k = 0; strstr(p[i].name, "bn") && k < p[i].size; k++)
            assert_float_equal(v[k], one ? 1 : 0, 0);
        for (size_t k = p[i].size; k < (p[i].size + 15) / 16 * 16; k++)
            assert_float_equal(v[k], 0, 0); // padding
    }
    kd_graph_free(n.g);
    kd_graph_free(other.g);
}

static void shapes_and_work_are_counted(void **state)
{
    (void)state;
    fx_net n = residual(false);
    int64_t dims[KD_MAX_DIMS];
    const kd_node conv = kd_graph_find(n.g, "stem.conv");
    assert_int_equal(kd_graph_node_shape(n.g, conv, dims), 3);
    assert_true(dims[0] == 4 && dims[1] == 4 && dims[2] == 12);
    assert_int_equal(kd_graph_node_size(n.g, conv), 192);
    assert_string_equal(kd_graph_node_name(n.g, conv), "stem.conv");
    assert_int_equal(kd_graph_find(n.g, "stem"), -1);
    const double stem = 16 * 12 * 2 * 9, conv0 = 16 * 12 * 12 * 9, conv1 = 16 * 12 * 12, fc = 60;
    assert_float_equal(kd_graph_macs(n.g), stem + conv0 + conv1 + fc, 0);
    assert_float_equal(kd_graph_train_flops(n.g), 2 * (2 * stem + 3 * (conv0 + conv1 + fc)),
                       0); // no dX for the image
    kd_graph_free(n.g);
}

/* ---- fusion ------------------------------------------------------------------------------- */

static bool runs(const kd_exec *ex, const char *name)
{
    for (int i = 0; i < ex->steps; i++)
        if (!strcmp(ex->state[ex->order[i]].n->name, name)) return true;
    return false;
}

static void fusion_changes_no_result(void **state)
{
    (void)state;
    fx_net fused = residual(false), plain = residual(true);
    kd_exec *ex = NULL;
    const kd_exec_params how = {.batch = 9, .threads = 2, .training = true};
    OK(kd_exec_create(&ex, fused.g, &how, err));
    assert_false(runs(ex, "stem.relu") || runs(ex, "relu0") || runs(ex, "relu1"));
    kd_exec_free(ex);
    OK(kd_exec_create(&ex, plain.g, &how, err));
    assert_true(runs(ex, "stem.relu") && runs(ex, "relu0") && runs(ex, "relu1"));
    kd_exec_free(ex);
    for (int training = 0; training < 2; training++) {
        const kd_exec_params p = {.batch = 9, .threads = 2, .training = training};
        float *x = fx_normal((size_t)9 * 112, 1);
        fx_pass a = fx_train(&fused, &p, x), b = fx_train(&plain, &p, x);
        fx_passes_close("fused", &a, &b, 2e-6);
        fx_free(&a);
        fx_free(&b);
        free(x);
    }
    kd_graph_free(fused.g);
    kd_graph_free(plain.g);
}

/* A value that somebody else reads, or that is an output, is not swallowed by a ReLU behind it. */
static void a_value_with_another_reader_is_not_fused(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        fx_net n = {.g = kd_graph_create(), .outs = 2};
        n.in = kd_nn_input(n.g, "x", 1, (int64_t[]){4});
        const kd_node fc = kd_nn_linear(n.g, "fc", n.in, 16, true), relu = kd_nn_relu(n.g, "relu", fc);
        n.out[0] = relu;
        n.out[1] = kind == 0 ? fc : kd_nn_softmax(n.g, "p", fc);
        fx_finish(&n);
        const kd_exec_params how = {.batch = 8, .threads = 1};
        float *x = fx_normal(32, 1);
        fx_pass r = fx_train(&n, &how, x);
        int negative = 0;
        for (int i = 0; i < 128; i++) {
            assert_true(r.y[0][i] >= 0);
            negative += r.y[1][i] < 0;
        }
        assert_true(kind == 0 ? negative > 20 : negative == 0);
        fx_free(&r);
        free(x);
        kd_graph_free(n.g);
    }
}

static void names_of_fused_and_flattened_nodes_stay_readable(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_create();
    const kd_node x = kd_nn_input(g, "x", 3, (int64_t[]){2, 2, 1});
    const kd_node flat = kd_nn_flatten(g, "flat", x);
    const kd_node relu = kd_nn_relu(g, "relu", kd_nn_linear(g, "fc", flat, 3, false));
    kd_graph_output(g, relu);
    OK(kd_graph_finish(g, err));
    kd_exec *ex = NULL;
    const kd_exec_params how = {.batch = 2, .threads = 1, .training = true};
    OK(kd_exec_create(&ex, g, &how, err));
    assert_ptr_equal(kd_exec_value(ex, flat), kd_exec_input(ex, x));
    assert_ptr_equal(kd_exec_value(ex, relu), kd_exec_value(ex, kd_graph_find(g, "fc")));
    assert_non_null(kd_exec_grad(ex, relu));
    kd_exec_free(ex);
    kd_graph_free(g);
}

static void flatten_keeps_pytorchs_order(void **state)
{
    (void)state;
    fx_net n = {.g = kd_graph_create(), .outs = 1};
    n.in = kd_nn_input(n.g, "x", 3, (int64_t[]){2, 3, 2}); // pixels 0..5, channels a and b
    n.out[0] = kd_nn_flatten(n.g, "flat", n.in);
    fx_finish(&n);
    const kd_exec_params how = {.batch = 1, .threads = 1};
    const float x[12] = {1, 10, 2, 20, 3, 30, 4, 40, 5, 50, 6, 60},
                want[12] = {1, 2, 3, 4, 5, 6, 10, 20, 30, 40, 50, 60};
    fx_pass r = fx_train(&n, &how, x);
    assert_memory_equal(r.y[0], want, sizeof want);
    fx_free(&r);
    kd_graph_free(n.g);
}

/* ---- running ------------------------------------------------------------------------------ */

/* sum of dy * y after one parameter became v. */
static double value_at(kd_exec *ex, kd_node out, const float *dy, float *w, float v)
{
    const float was = *w;
    double sum = 0;
    *w = v;
    kd_exec_run_forward(ex);
    for (int o = 0; o < 30; o++) sum += (double)dy[o] * (double)kd_exec_value(ex, out)[o];
    *w = was;
    return sum;
}

/* Two branches and a shortcut meet in the gradient of one node: slopes of the whole graph. Where the
 * slopes to the left and to the right differ, a ReLU switches: such places are left out, and are few. */
static void gradients_of_a_residual_graph_are_slopes(void **state)
{
    (void)state;
    fx_net n = residual(false);
    const kd_exec_params how = {.batch = 6, .threads = 1, .training = true};
    float *x = fx_normal((size_t)6 * 112, 1), *dy = fx_normal(30, 100);
    fx_pass r = fx_train(&n, &how, x);
    kd_exec *ex = NULL;
    OK(kd_exec_create(&ex, n.g, &how, err));
    memcpy(kd_exec_input(ex, n.in), x, r.xs * sizeof *x);
    kd_exec_seed(ex, 3, 4);
    const kd_param *p;
    const size_t params = kd_graph_params(n.g, &p);
    int tried = 0, kinks = 0;
    for (size_t i = 0; i < params; i++)
        for (size_t k = 0; !p[i].buffer && k < p[i].size; k += 1 + p[i].size / 12) {
            float *w = kd_graph_param_data(n.g, &p[i]) + k;
            const float eps = 1.0f / 2048;
            const double here = value_at(ex, n.out[0], dy, w, *w), said = (double)r.grads[p[i].offset + k];
            const double right = (value_at(ex, n.out[0], dy, w, *w + eps) - here) / (double)eps;
            const double left = (here - value_at(ex, n.out[0], dy, w, *w - eps)) / (double)eps;
            const double tolerance = 0.01 * (1 + fabs(said));
            tried++;
            if (fabs(right - left) > tolerance)
                kinks++;
            else if (fabs((left + right) / 2 - said) > tolerance)
                fail_msg("%s[%zu]: slope %.6g, backward says %.6g", p[i].name, k, (left + right) / 2, said);
        }
    if (tried < 80 || kinks > tried / 4) fail_msg("%d of %d places are near a kink", kinks, tried);
    kd_exec_free(ex);
    fx_free(&r);
    free(x);
    free(dy);
    kd_graph_free(n.g);
}

static void the_bits_do_not_depend_on_the_threads(void **state)
{
    (void)state;
    fx_net n = residual(false);
    float *x = fx_normal((size_t)37 * 112, 1);
    kd_exec_params how = {.batch = 37, .threads = 1, .training = true};
    fx_pass want = fx_train(&n, &how, x);
    for (how.threads = 2; how.threads <= 8; how.threads = how.threads * 2 - (how.threads == 2)) { // 2, 3, 6
        fx_pass got = fx_train(&n, &how, x);
        fx_passes_same("residual", &got, &want);
        fx_free(&got);
    }
    fx_free(&want);
    free(x);
    kd_graph_free(n.g);
}

/* conv, norm, ReLU, depthwise, norm, 1 x 1 with a bias and ReLU, norm, average. */
/* channels, and twice as many: 16 are walked row by row (rows.c), 12 and 24 left to the library. */
static fx_net separable(int64_t channels, bool unfused)
{
    fx_net n = {.g = kd_graph_create(), .outs = 1};
    assert_non_null(n.g);
    n.g->unfused = unfused;
    n.in = kd_nn_input(n.g, "image", 3, (int64_t[]){9, 7, 2});
    kd_node x = kd_nn_conv2d(n.g, "conv", n.in, channels, 3, 1, 1, false);
    x = kd_nn_relu(n.g, "relu0", kd_nn_batchnorm(n.g, "bn0", x, 0.1f, 1e-5f));
    x = kd_nn_batchnorm(n.g, "bn1", kd_nn_dwconv2d(n.g, "dw", x, 3, 2, 1, false), 0.1f, 1e-5f);
    x = kd_nn_relu(n.g, "relu1", kd_nn_conv2d(n.g, "pw", x, 2 * channels, 1, 1, 0, true));
    x = kd_nn_batchnorm(n.g, "bn2", x, 0.1f, 1e-5f);
    n.out[0] = kd_nn_linear(n.g, "fc", kd_nn_global_avgpool(n.g, "gap", x), 5, true);
    fx_finish(&n);
    return n;
}

static const kd__state *state_named(const kd_exec *ex, const char *name)
{
    return &ex->state[kd_graph_find(ex->g, name)];
}

static void check_neighbours(int64_t channels)
{
    fx_net n = separable(channels, false), plain = separable(channels, true), forked = residual(false);
    kd_exec_params how = {.batch = 37, .threads = 1, .training = true};
    kd_exec *ex = NULL;
    OK(kd_exec_create(&ex, n.g, &how, err));
    assert_ptr_equal(state_named(ex, "bn0")->prev, state_named(ex, "conv"));
    assert_ptr_equal(state_named(ex, "bn0")->next, state_named(ex, "dw"));
    assert_ptr_equal(state_named(ex, "pw")->prev, state_named(ex, "bn1"));
    assert_ptr_equal(state_named(ex, "bn2")->prev, state_named(ex, "pw"));
    assert_null(state_named(ex, "bn2")->next);
    kd_exec_free(ex);
    OK(kd_exec_create(&ex, forked.g, &how, err)); // stem.bn has two readers
    assert_null(state_named(ex, "stem.bn")->next);
    assert_null(state_named(ex, "conv0")->prev);
    kd_exec_free(ex);
    float *x = fx_normal((size_t)37 * 126, 1);
    fx_pass fast = fx_train(&n, &how, x), apart = fx_train(&plain, &how, x);
    fx_passes_close("beside its neighbours", &fast, &apart, 1e-5);
    for (how.threads = 2; how.threads <= 5; how.threads++) {
        fx_pass team = fx_train(&n, &how, x);
        fx_passes_same("separable", &team, &fast);
        fx_free(&team);
    }
    how.naive = true;
    fx_pass naive = fx_train(&n, &how, x);
    fx_passes_close("separable", &fast, &naive, 1e-4);
    fx_free(&naive);
    fx_free(&apart);
    fx_free(&fast);
    free(x);
    kd_graph_free(n.g);
    kd_graph_free(plain.g);
    kd_graph_free(forked.g);
}

static void batch_norms_run_in_the_slices_of_their_neighbours(void **state)
{
    (void)state;
    check_neighbours(12);
    check_neighbours(16);
}

/* Without batch norm and dropout, the arena of inference computes what the arena of training does. */
static void inference_equals_training_where_it_should(void **state)
{
    (void)state;
    fx_net n = {.g = kd_graph_create(), .outs = 1};
    n.in = image(n.g);
    kd_node x = kd_nn_relu(n.g, "relu0", kd_nn_conv2d(n.g, "conv0", n.in, 8, 3, 1, 1, true));
    kd_node y = kd_nn_relu(n.g, "relu1", kd_nn_dwconv2d(n.g, "dw", x, 3, 1, 1, true));
    x = kd_nn_add(n.g, "add0", x, y);
    x = kd_nn_add(n.g, "add1", kd_nn_relu(n.g, "relu2", x), x);
    x = kd_nn_flatten(n.g, "flat", kd_nn_maxpool(n.g, "pool", x, 2, 2));
    n.out[0] = kd_nn_linear(n.g, "fc", x, 10, true);
    fx_finish(&n);
    float *in = fx_normal((size_t)20 * 108, 1);
    fx_pass r[3];
    for (int i = 0; i < 3; i++) {
        const kd_exec_params how = {.batch = 20, .threads = 2, .training = i == 0, .naive = i == 2};
        r[i] = fx_train(&n, &how, in);
    }
    assert_memory_equal(r[0].y[0], r[1].y[0], r[0].ys[0] * sizeof(float));
    fx_close("inference", "y", r[1].y[0], r[2].y[0], r[0].ys[0], 1e-5);
    for (int i = 0; i < 3; i++) fx_free(&r[i]);
    free(in);
    kd_graph_free(n.g);
}

/* A chain of ten convolutions, 24 x 24 x 8 each: what a value costs is 24 * 24 * 8 * batch floats. */
static void memory_is_shared_in_time(void **state)
{
    (void)state;
    enum { DEPTH = 10, BATCH = 4, VALUE = 24 * 24 * 8 * BATCH };
    kd_graph *g = kd_graph_create();
    kd_node x = kd_nn_input(g, "x", 3, (int64_t[]){24, 24, 8});
    for (int i = 0; i < DEPTH; i++) {
        char conv[16], norm[16], relu[16];
        snprintf(conv, sizeof conv, "conv%d", i);
        snprintf(norm, sizeof norm, "bn%d", i);
        snprintf(relu, sizeof relu, "relu%d", i);
        x = kd_nn_batchnorm(g, norm, kd_nn_conv2d(g, conv, x, 8, 3, 1, 1, false), 0.1f, 1e-5f);
        x = kd_nn_relu(g, relu, x);
    }
    kd_graph_output(g, kd_nn_global_avgpool(g, "gap", x));
    OK(kd_graph_finish(g, err));
    size_t values[2], shared = 0;
    for (int training = 0; training < 2; training++) {
        const kd_exec_params how = {.batch = BATCH, .threads = 1, .training = training};
        kd_exec *ex = NULL;
        OK(kd_exec_create(&ex, g, &how, err));
        shared = 0;
        for (int i = 0; i < ex->steps; i++)
            shared = kd_max_size(shared, ex->state[ex->order[i]].shared_floats);
        values[training] = (ex->arena_floats - shared) / VALUE;
        assert_true(kd_exec_bytes(ex) >= ex->arena_floats * sizeof(float));
        kd_exec_free(ex);
    }
    // inference: the input stays; a convolution needs two more, the norm works in place
    assert_int_equal(values[0], 3);
    // training: the input, 10 kept values, two gradients at a time; what lies between a norm and its
    // convolutions is made slice by slice, and the sum of all would be 1 + 20 + 20
    assert_in_range(values[1], 11, 13);
    kd_graph_free(g);
}

static void a_shortcut_costs_no_gradient_of_its_own(void **state)
{
    (void)state;
    fx_net n = residual(false);
    kd_exec *ex = NULL;
    const kd_exec_params how = {.batch = 3, .threads = 1, .training = true};
    OK(kd_exec_create(&ex, n.g, &how, err));
    const kd__state *add = &ex->state[kd_graph_find(n.g, "add")];
    assert_ptr_equal(add->dx[0], add->dy); // passed on, not copied
    assert_ptr_not_equal(add->dx[1], add->dy);
    kd_exec_free(ex);
    kd_graph_free(n.g);
}

static void nodes_that_no_output_needs_do_not_run(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_create();
    const kd_node x = kd_nn_input(g, "x", 1, (int64_t[]){4});
    const kd_node y = kd_nn_linear(g, "used", x, 3, true);
    kd_nn_linear(g, "unused", y, 3, true);
    kd_graph_output(g, y);
    OK(kd_graph_finish(g, err));
    kd_exec *ex = NULL;
    const kd_exec_params how = {.batch = 2, .threads = 1, .training = true};
    OK(kd_exec_create(&ex, g, &how, err));
    assert_true(runs(ex, "used") && !runs(ex, "unused"));
    kd_exec_run_forward(ex);
    memset(kd_exec_grad(ex, y), 0, 6 * sizeof(float));
    kd_exec_backward(ex);
    assert_null(kd_exec_value(ex, kd_graph_find(g, "unused")));
    kd_exec_free(ex);
    kd_graph_free(g);
}

/* Every node of an inference kept at once: what it says is what the graph without fusion says, and the output
 * has the bits that it has when nothing is kept. */
static void kept_nodes_say_their_values_and_change_nothing(void **state)
{
    (void)state;
    enum { BATCH = 3 };
    fx_net fused = residual(false), plain = residual(true);
    kd_node keep[32];
    const int nodes = kd_graph_nodes(fused.g);
    assert_true(nodes <= 32);
    for (int i = 0; i < nodes; i++) keep[i] = i;
    const kd_exec_params lean = {.batch = BATCH, .threads = 1},
                         all = {.batch = BATCH, .threads = 1, .keep = keep, .nkeep = nodes};
    kd_exec *ex[3];
    OK(kd_exec_create(&ex[0], fused.g, &lean, err));
    OK(kd_exec_create(&ex[1], fused.g, &all, err));
    OK(kd_exec_create(&ex[2], plain.g, &all, err));
    float *x = fx_normal((size_t)BATCH * 112, 1);
    for (int i = 0; i < 3; i++) {
        memcpy(kd_exec_input(ex[i], fused.in), x, (size_t)BATCH * 112 * sizeof *x);
        kd_exec_run_forward(ex[i]);
    }
    const size_t out = BATCH * kd_graph_node_size(fused.g, fused.out[0]);
    assert_memory_equal(kd_exec_value(ex[1], fused.out[0]), kd_exec_value(ex[0], fused.out[0]),
                        out * sizeof *x);
    assert_true(kd_exec_bytes(ex[1]) > kd_exec_bytes(ex[0]));
    int hidden = 0;
    for (int i = 0; i < nodes; i++) {
        const kd_node shown = kd_graph_node_shown(fused.g, i);
        const float *have = kd_exec_value(ex[1], i), *want = kd_exec_value(ex[2], shown);
        hidden += shown != i;
        for (size_t k = 0; k < BATCH * kd_graph_node_size(fused.g, i); k++)
            if (!(fabsf(have[k] - want[k]) <= 2e-6f * (1 + fabsf(want[k]))))
                fail_msg("%s, value %zu: %g, want %g", kd_graph_node_name(fused.g, i), k, have[k], want[k]);
    }
    assert_int_equal(hidden, 3); // behind each stands a ReLU that was fused into it
    for (int i = 0; i < 3; i++) kd_exec_free(ex[i]);
    kd_exec_params wrong = all;
    keep[2] = nodes;
    FAILS(kd_exec_create(&ex[0], fused.g, &wrong, err), KD_EUSAGE, "there is no such node");
    keep[2] = 2;
    wrong.training = true;
    FAILS(kd_exec_create(&ex[0], fused.g, &wrong, err), KD_EUSAGE, "only in inference");
    free(x);
    kd_graph_free(fused.g);
    kd_graph_free(plain.g);
}

static void outputs_that_are_not_kept_do_not_run_where_only_kept_nodes_are_wanted(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_create();
    const kd_node x = kd_nn_input(g, "x", 1, (int64_t[]){4});
    const kd_node y = kd_nn_linear(g, "model", x, 3, true), z = kd_nn_linear(g, "behind", y, 5, true);
    kd_graph_output(g, y);
    kd_graph_output(g, z);
    OK(kd_graph_finish(g, err));
    kd_exec *ex[2];
    const kd_exec_params whole = {.batch = 2, .threads = 1},
                         some = {.batch = 2, .threads = 1, .keep = &y, .nkeep = 1, .kept_only = true};
    OK(kd_exec_create(&ex[0], g, &whole, err));
    OK(kd_exec_create(&ex[1], g, &some, err));
    assert_true(runs(ex[0], "model") && runs(ex[0], "behind"));
    assert_true(runs(ex[1], "model") && !runs(ex[1], "behind"));
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 8; k++) kd_exec_input(ex[i], x)[k] = (float)k;
        kd_exec_run_forward(ex[i]);
    }
    assert_memory_equal(kd_exec_value(ex[1], y), kd_exec_value(ex[0], y), 6 * sizeof(float));
    // a batch read where it lies gives what its copy gives
    const float rows[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    kd_exec_borrow(ex[1], x, rows);
    memset(ex[1]->arena, 0, ex[1]->arena_floats * sizeof(float));
    kd_exec_run_forward(ex[1]);
    assert_memory_equal(kd_exec_value(ex[1], y), kd_exec_value(ex[0], y), 6 * sizeof(float));
    for (int i = 0; i < 2; i++) kd_exec_free(ex[i]);
    kd_graph_free(g);
}

/* A training step of one-thread execs as tasks of somebody's loop: no task may lend work to another's thread.
 */
static void one_thread_execs_run_side_by_side(void **state)
{
    (void)state;
    enum { STUDENTS = 6, BATCH = 21 };
    fx_net n[STUDENTS];
    kd_exec *ex[STUDENTS];
    fx_pass want[STUDENTS];
    const kd_exec_params how = {.batch = BATCH, .threads = 1, .training = true};
    float *x = fx_normal((size_t)BATCH * 112, 1), *dy = fx_normal(BATCH * 5, 100);
    for (int i = 0; i < STUDENTS; i++) {
        n[i] = residual(i % 2);
        kd_graph_init(n[i].g, (uint64_t)i);
        want[i] = fx_train(&n[i], &how, x);
        OK(kd_exec_create(&ex[i], n[i].g, &how, err));
        kd_exec_seed(ex[i], 3, 4);
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(3)
    for (int i = 0; i < STUDENTS; i++) {
        memcpy(kd_exec_input(ex[i], n[i].in), x, want[i].xs * sizeof *x);
        kd_exec_forward(ex[i]);
        memcpy(kd_exec_grad(ex[i], n[i].out[0]), dy, want[i].ys[0] * sizeof *dy);
        kd_exec_backward(ex[i]);
    }
    for (int i = 0; i < STUDENTS; i++) {
        assert_memory_equal(kd_exec_value(ex[i], n[i].out[0]), want[i].y[0], want[i].ys[0] * sizeof *x);
        assert_memory_equal(kd_exec_grads(ex[i]), want[i].grads, want[i].slab * sizeof *x);
        fx_free(&want[i]);
        kd_exec_free(ex[i]);
        kd_graph_free(n[i].g);
    }
    free(x);
    free(dy);
}

static void a_graph_has_several_execs(void **state)
{
    (void)state;
    fx_net n = residual(false);
    kd_exec *train = NULL, *eval = NULL;
    const kd_exec_params t = {.batch = 8, .threads = 2, .training = true}, e = {.batch = 3, .threads = 1};
    OK(kd_exec_create(&train, n.g, &t, err));
    OK(kd_exec_create(&eval, n.g, &e, err));
    float *x = fx_normal((size_t)8 * 112, 1);
    memcpy(kd_exec_input(train, n.in), x, (size_t)8 * 112 * sizeof *x);
    memcpy(kd_exec_input(eval, n.in), x, (size_t)3 * 112 * sizeof *x);
    kd_exec_run_forward(eval);
    float before = kd_exec_value(eval, n.out[0])[0];
    kd_exec_run_forward(train); // moves the running statistics
    kd_exec_run_forward(eval);
    assert_true(fabsf(kd_exec_value(eval, n.out[0])[0] - before) > 1e-6f);
    assert_null(kd_exec_grads(eval));
    kd_exec_free(train);
    kd_exec_free(eval);
    free(x);
    kd_graph_free(n.g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_mistake_is_reported),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(a_graph_needs_an_output_and_an_end),
        cmocka_unit_test(execs_refuse_what_cannot_run),
        cmocka_unit_test(parameters_have_names_shapes_and_places),
        cmocka_unit_test(initial_weights_follow_pytorch_and_the_seed),
        cmocka_unit_test(shapes_and_work_are_counted),
        cmocka_unit_test(fusion_changes_no_result),
        cmocka_unit_test(a_value_with_another_reader_is_not_fused),
        cmocka_unit_test(names_of_fused_and_flattened_nodes_stay_readable),
        cmocka_unit_test(flatten_keeps_pytorchs_order),
        cmocka_unit_test(gradients_of_a_residual_graph_are_slopes),
        cmocka_unit_test(the_bits_do_not_depend_on_the_threads),
        cmocka_unit_test(batch_norms_run_in_the_slices_of_their_neighbours),
        cmocka_unit_test(inference_equals_training_where_it_should),
        cmocka_unit_test(memory_is_shared_in_time),
        cmocka_unit_test(a_shortcut_costs_no_gradient_of_its_own),
        cmocka_unit_test(nodes_that_no_output_needs_do_not_run),
        cmocka_unit_test(kept_nodes_say_their_values_and_change_nothing),
        cmocka_unit_test(outputs_that_are_not_kept_do_not_run_where_only_kept_nodes_are_wanted),
        cmocka_unit_test(one_thread_execs_run_side_by_side),
        cmocka_unit_test(a_graph_has_several_execs),
    };
    return cmocka_run_group_tests_name("graph", tests, NULL, NULL);
}
