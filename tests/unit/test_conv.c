/* test_conv.c - convolutions and linear layers as ops: fast equals the plain twin for odd shapes, with
 * bias, fused ReLU and accumulation; the same bits for any number of threads. */
#include "../../lib/nn/nn_private.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* One op with its input, outside any graph's execution: x -> op -> y. */
typedef struct layer {
    const kd__op *op;
    kd__attrs a;
    int ndims;
    int64_t in[KD_MAX_DIMS], batch;
    bool add, need_dx;
    kd__operands operands;
} layer;

/* Everything a pass leaves behind. */
typedef struct result {
    float *y, *dx, *dw, *db;
    size_t ys, xs, ws, bs;
} result;

static float *numbers(size_t n, uint32_t stream)
{
    kd_rng r;
    kd_rng_init(&r, 11, KD_RNG_TEST, stream, 0);
    float *x = kd_alloc_aligned(n + 1, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = kd_rng_normal(&r);
    return x;
}

static size_t product(const int64_t *dims, int n)
{
    size_t p = 1;
    for (int i = 0; i < n; i++) p *= (size_t)dims[i];
    return p;
}

static void check_ok(kd_status st, const kd_err *err)
{
    if (st) fail_msg("%s", err->msg);
}

/* Forward and backward with numbers that depend on the layer alone. */
static result run(const layer *l, int threads, bool naive)
{
    kd_err err = {0};
    kd_graph *g = kd_graph_create();
    assert_non_null(g);
    const kd_node x = kd_nn_input(g, "x", l->ndims, l->in);
    const kd_node node = kd__graph_add(g, l->op, "layer", 1, &x, &l->a);
    if (node < 0) fail_msg("%s", g->err.msg);
    const kd__node_info *n = &g->node[node];
    kd_exec ex = {.g = g,
                  .p = {.batch = l->batch, .threads = threads, .training = true, .naive = naive},
                  .operands = l->operands};
    kd__state s = {.n = n, .want_dx = {l->need_dx}, .add = {l->add}};
    check_ok(l->op->plan(&ex, &s, &err), &err);

    const size_t b = (size_t)l->batch;
    result r = {.xs = b * product(l->in, l->ndims), .ys = b * product(n->dims, n->ndims)};
    r.ws = product(g->param[n->param[0]].dims, g->param[n->param[0]].ndims);
    r.bs = l->a.bias ? (size_t)n->dims[n->ndims - 1] : 0;
    float *input = numbers(r.xs, 1), *w = numbers(r.ws, 2), *bias = numbers(r.bs, 3), *dy = numbers(r.ys, 4);
    r.dx = numbers(r.xs, 5); // what add adds to
    r.y = numbers(r.ys, 6);
    r.dw = numbers(r.ws, 7);
    r.db = numbers(r.bs, 8);
    s.x[0] = input;
    s.y = r.y;
    s.dy = dy;
    s.dx[0] = l->need_dx ? r.dx : NULL;
    s.w[0] = w;
    s.w[1] = bias;
    s.dw[0] = r.dw;
    s.dw[1] = r.db;
    s.shared = numbers(s.shared_floats, 9);
    s.keep = numbers(s.keep_floats, 10);
    if (naive) {
        l->op->naive_forward(&ex, &s);
        l->op->naive_backward(&ex, &s);
    } else {
#pragma omp parallel num_threads(threads)
        {
            l->op->forward(&ex, &s);
            l->op->backward(&ex, &s);
        }
    }
    l->op->release(&s);
    kd__team_free(ex.team);
    free(input);
    free(w);
    free(bias);
    free(dy);
    free(s.shared);
    free(s.keep);
    kd_graph_free(g);
    return r;
}

static void free_result(result *r)
{
    free(r->y);
    free(r->dx);
    free(r->dw);
    free(r->db);
}

static void check_close(const layer *l, const char *what, const float *got, const float *want, size_t n)
{
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        diff += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    if (!(sqrt(diff) <= 1e-5 * sqrt(norm) + 1e-30))
        fail_msg("%s of %s, batch %lld, input %lld x %lld x %lld, out %lld, k %d, stride %d, pad %d, bias "
                 "%d, relu %d, "
                 "add %d: differs from the twin by %g of %g",
                 what, l->op->name, (long long)l->batch, (long long)l->in[0], (long long)l->in[1],
                 (long long)l->in[2], (long long)l->a.out, l->a.k, l->a.stride, l->a.pad, l->a.bias,
                 l->a.relu, l->add, sqrt(diff), sqrt(norm));
}

static void check_equals_twin(const layer *l)
{
    result fast = run(l, 2, false), plain = run(l, 1, true);
    check_close(l, "y", fast.y, plain.y, fast.ys);
    check_close(l, "dx", fast.dx, plain.dx, fast.xs);
    check_close(l, "dW", fast.dw, plain.dw, fast.ws);
    check_close(l, "db", fast.db, plain.db, fast.bs);
    free_result(&fast);
    free_result(&plain);
}

static bool same_bits(const result *a, const result *b)
{
    return !memcmp(a->y, b->y, a->ys * sizeof(float)) && !memcmp(a->dx, b->dx, a->xs * sizeof(float)) &&
           !memcmp(a->dw, b->dw, a->ws * sizeof(float)) && !memcmp(a->db, b->db, a->bs * sizeof(float));
}

static void check_same_bits(const layer *l)
{
    static const int threads[] = {2, 3, 8};
    result one = run(l, 1, false);
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        result many = run(l, threads[i], false);
        if (!same_bits(&one, &many))
            fail_msg("%s, input %lld x %lld x %lld: %d threads give other bits than one", l->op->name,
                     (long long)l->in[0], (long long)l->in[1], (long long)l->in[2], threads[i]);
        free_result(&many);
    }
    free_result(&one);
}

static layer conv(int64_t h, int64_t w, int64_t c, int64_t out, int k, int stride, int pad)
{
    return (layer){.op = &kd__op_conv2d,
                   .ndims = 3,
                   .in = {h, w, c},
                   .batch = 5,
                   .need_dx = true,
                   .a = {.out = out, .k = k, .stride = stride, .pad = pad, .bias = true}};
}

static layer depthwise(int64_t h, int64_t w, int64_t c, int k, int stride, int pad)
{
    layer l = conv(h, w, c, 0, k, stride, pad);
    l.op = &kd__op_dwconv2d;
    return l;
}

static layer linear(int64_t rows, int64_t in, int64_t out)
{
    return (layer){.op = &kd__op_linear,
                   .ndims = 1,
                   .in = {in, 1, 1},
                   .batch = rows,
                   .need_dx = true,
                   .a = {.out = out, .bias = true}};
}

/* The layer plain, with ReLU, adding to dx, and without bias. */
static void check_variants(layer l)
{
    check_equals_twin(&l);
    l.a.relu = true;
    check_equals_twin(&l);
    l.add = true;
    check_equals_twin(&l);
    l.a.relu = l.a.bias = false;
    check_equals_twin(&l);
}

static void convolutions_equal_their_twin(void **state)
{
    (void)state;
    static const int64_t channels[][2] = {{1, 16}, {3, 5}, {16, 10}, {16, 32}};
    static const int windows[] = {1, 3, 5};
    for (size_t c = 0; c < 4; c++)
        for (size_t k = 0; k < 3; k++)
            for (int stride = 1; stride <= 2; stride++)
                for (int pad = 0; pad <= (windows[k] > 1); pad++) {
                    layer l = conv(7, 9, channels[c][0], channels[c][1], windows[k], stride, pad);
                    check_equals_twin(&l);
                }
    check_variants(conv(7, 9, 16, 10, 3, 2, 1));
    check_variants(conv(7, 9, 3, 16, 1, 1, 0));
}

/* Channels in sixteens, and few of them in front, are walked row by row in own kernels (rows.c). */
static void convolutions_row_by_row_equal_their_twin(void **state)
{
    (void)state;
    static const int64_t channels[][2] = {{1, 16}, {3, 48}, {16, 16}, {32, 80}};
    static const int64_t sizes[][2] = {{1, 3}, {4, 31}, {7, 9}, {33, 5}};
    for (size_t c = 0; c < 4; c++)
        for (size_t i = 0; i < 4; i++)
            for (int stride = 1; stride <= 2; stride++)
                for (int pad = 1; pad <= 2; pad++) {
                    layer l = conv(sizes[i][0], sizes[i][1], channels[c][0], channels[c][1], 3, stride, pad);
                    l.need_dx = channels[c][0] >= 16;
                    check_equals_twin(&l);
                    l = depthwise(sizes[i][0], sizes[i][1], channels[c][1], 3, stride, pad);
                    check_equals_twin(&l);
                    if (channels[c][0] < 16 || pad > 1 || stride > 1) continue;
                    l = conv(sizes[i][0], sizes[i][1], channels[c][0], channels[c][1], 1, 1, 0);
                    check_equals_twin(&l);
                }
    check_variants(conv(7, 9, 16, 32, 3, 2, 1));
    check_variants(conv(7, 9, 32, 16, 1, 1, 0));
    check_variants(depthwise(7, 9, 32, 3, 2, 1));
}

static void depthwise_convolutions_equal_their_twin(void **state)
{
    (void)state;
    static const int64_t channels[] = {1, 3, 16, 24};
    static const int windows[] = {1, 3, 5};
    for (size_t c = 0; c < 4; c++)
        for (size_t k = 0; k < 3; k++)
            for (int stride = 1; stride <= 2; stride++) {
                layer l = depthwise(7, 9, channels[c], windows[k], stride, windows[k] / 2);
                check_equals_twin(&l);
            }
    check_variants(depthwise(7, 9, 24, 3, 2, 1));
    check_variants(depthwise(8, 8, 16, 3, 1, 0));
}

static void linear_layers_equal_their_twin(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{5, 7, 9}, {1, 3, 1}, {128, 784, 33}, {33, 1, 10}, {64, 300, 10}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_variants(linear(shapes[i][0], shapes[i][1], shapes[i][2]));
    layer last_axis = linear(3, 0, 11); // leading axes are rows
    last_axis.ndims = 3;
    last_axis.in[0] = 4;
    last_axis.in[1] = 5;
    last_axis.in[2] = 7;
    check_variants(last_axis);
}

/* What this CPU can do, beginning with the first: bf16 operands in f32, in bf16. */
static int forms(void) { return kd_nn_check_precision(KD_PRECISION_BF16, NULL) ? 0 : 3; }
static const kd__operands form[] = {KD__ROUNDED, KD__BF16, KD__TILES};

/* The twin rounds operands one by one and adds up in double. */
static void products_of_bf16_operands_equal_their_twin(void **state)
{
    (void)state;
    if (!forms()) skip();
    for (int i = 0; i < forms(); i++) {
        layer l[] = {conv(7, 9, 16, 10, 3, 2, 1),
                     conv(7, 9, 3, 5, 5, 1, 0),
                     conv(7, 9, 3, 16, 1, 1, 0),
                     conv(7, 9, 32, 64, 3, 1, 1),
                     depthwise(7, 9, 24, 3, 2, 1),
                     conv(7, 9, 1, 16, 3, 1, 1),
                     linear(5, 7, 9),
                     linear(128, 784, 33),
                     linear(33, 1, 10)};
        for (size_t k = 0; k < sizeof l / sizeof *l; k++) {
            l[k].operands = form[i];
            check_variants(l[k]);
        }
    }
}

/* With channels in sixteens bf16's own kernels, where the CPU has them: of images in twos and one left over.
 */
static void convolutions_of_bf16_pairs_equal_their_twin(void **state)
{
    (void)state;
    if (!forms()) skip();
    static const int64_t channels[][2] = {{16, 48}, {48, 16}};
    static const int64_t sizes[][2] = {{1, 3}, {4, 15}, {9, 5}};
    for (size_t c = 0; c < 2; c++)
        for (size_t i = 0; i < 3; i++)
            for (int stride = 1; stride <= 2; stride++)
                for (int pad = 0; pad <= 2; pad++) {
                    const bool one = pad == 0 && stride == 1, fits = pad || sizes[i][0] >= 3;
                    layer l = conv(sizes[i][0], sizes[i][1], channels[c][0], channels[c][1], fits ? 3 : 1,
                                   stride, pad);
                    l.operands = KD__BF16;
                    l.batch = 11;
                    check_equals_twin(&l);
                    if (!one) continue;
                    l.a.k = 1;
                    check_equals_twin(&l);
                }
    layer l = conv(7, 9, 32, 48, 3, 2, 1);
    l.operands = KD__BF16;
    check_variants(l);
    l.batch = 11;
    check_variants(l);
}

/* Root mean square of the difference by that of the number, each a few roundings of 2^-9. */
static double relative(const float *a, const float *b, size_t n)
{
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        diff += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(diff / norm);
}

static void products_of_bf16_operands_are_near_those_of_f32(void **state)
{
    (void)state;
    if (!forms()) skip();
    layer l[] = {conv(9, 7, 16, 32, 3, 1, 1), conv(9, 7, 16, 32, 1, 1, 0), linear(64, 200, 150)};
    for (size_t k = 0; k < sizeof l / sizeof *l; k++)
        for (int i = 0; i < forms(); i++) {
            result f32 = run(&l[k], 2, false);
            layer half = l[k];
            half.operands = form[i];
            result got = run(&half, 2, false);
            const double y = relative(got.y, f32.y, f32.ys), dx = relative(got.dx, f32.dx, f32.xs),
                         dw = relative(got.dw, f32.dw, f32.ws);
            if (!(y > 1e-4 && y < 4e-3 && dx > 1e-4 && dx < 4e-3 && dw > 1e-4 && dw < 4e-3))
                fail_msg("%s, form %d: y, dx and dW differ from f32 by %g, %g, %g", l[k].op->name,
                         (int)form[i], y, dx, dw);
            assert_true(relative(got.db, f32.db, f32.bs) < 1e-6); // a sum, no product
            free_result(&f32);
            free_result(&got);
        }
}

static void depthwise_and_one_channel_layers_stay_f32(void **state)
{
    (void)state;
    layer l[] = {depthwise(7, 9, 24, 3, 2, 1), conv(7, 9, 1, 16, 3, 1, 1)};
    for (size_t k = 0; k < sizeof l / sizeof *l; k++) {
        result f32 = run(&l[k], 2, false);
        l[k].operands = KD__BF16;
        result same = run(&l[k], 2, false);
        assert_true(same_bits(&f32, &same));
        free_result(&f32);
        free_result(&same);
    }
}

/* Enough images for several slices and for a smaller last one. */
static void the_bits_do_not_depend_on_the_threads(void **state)
{
    (void)state;
    layer l[] = {conv(9, 7, 16, 32, 3, 1, 1),  conv(9, 7, 16, 32, 3, 2, 1),  conv(12, 12, 1, 16, 3, 1, 1),
                 conv(9, 7, 16, 32, 1, 1, 0),  conv(9, 7, 12, 20, 3, 1, 1),  conv(9, 7, 12, 20, 1, 1, 0),
                 depthwise(9, 7, 32, 3, 1, 1), depthwise(9, 7, 24, 3, 1, 1), linear(0, 200, 150)};
    for (size_t i = 0; i < sizeof l / sizeof *l; i++) {
        l[i].batch = 67;
        l[i].a.relu = true;
        check_same_bits(&l[i]);
        l[i].add = true;
        check_same_bits(&l[i]);
        check_equals_twin(&l[i]);
        for (int k = 0; k < forms(); k++) {
            l[i].operands = form[k];
            check_same_bits(&l[i]);
        }
    }
}

static void the_first_layer_needs_no_dx(void **state)
{
    (void)state;
    layer l[] = {conv(8, 8, 1, 16, 3, 1, 1), conv(8, 8, 3, 16, 1, 1, 0), depthwise(8, 8, 16, 3, 1, 1),
                 linear(20, 30, 40)};
    for (size_t i = 0; i < sizeof l / sizeof *l; i++) {
        l[i].need_dx = false;
        check_equals_twin(&l[i]); // dx keeps what it held, in both
    }
}

static void bad_shapes_are_refused_with_a_sentence(void **state)
{
    (void)state;
    static const struct {
        int64_t out;
        int k, stride, pad;
        const char *says;
    } bad[] = {
        {0, 3, 1, 1, "0 outputs"},
        {4, 0, 1, 0, "window 0"},
        {4, 3, 0, 1, "stride 0"},
        {4, 3, 1, 3, "padding 3"},
        {4, 20, 1, 1, "does not fit an image of 7 x 9"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kd_err err = {0};
        kd_graph *g = kd_graph_create();
        assert_non_null(g);
        const kd_node x = kd_nn_input(g, "x", 3, (int64_t[]){7, 9, 2});
        kd_graph_output(g, kd_nn_conv2d(g, "c", x, bad[i].out, bad[i].k, bad[i].stride, bad[i].pad, true));
        assert_int_equal(kd_graph_finish(g, &err), KD_EUSAGE);
        if (!strstr(err.msg, bad[i].says)) fail_msg("\"%s\" does not say \"%s\"", err.msg, bad[i].says);
        kd_graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolutions_equal_their_twin),
        cmocka_unit_test(convolutions_row_by_row_equal_their_twin),
        cmocka_unit_test(depthwise_convolutions_equal_their_twin),
        cmocka_unit_test(linear_layers_equal_their_twin),
        cmocka_unit_test(products_of_bf16_operands_equal_their_twin),
        cmocka_unit_test(convolutions_of_bf16_pairs_equal_their_twin),
        cmocka_unit_test(products_of_bf16_operands_are_near_those_of_f32),
        cmocka_unit_test(depthwise_and_one_channel_layers_stay_f32),
        cmocka_unit_test(the_bits_do_not_depend_on_the_threads),
        cmocka_unit_test(the_first_layer_needs_no_dx),
        cmocka_unit_test(bad_shapes_are_refused_with_a_sentence),
    };
    return cmocka_run_group_tests_name("conv", tests, NULL, NULL);
}
