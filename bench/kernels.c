/* kernels.c - matrix products and convolutions alone, against the peak measured in the same run.
 *
 * One JSON line per kernel: the best time of several runs, GFLOP/s and the share of the register-only
 * peak (peak.c). The shapes are those of the benchmark models at batch 128 and of a transformer's
 * layers; the three products of a linear layer have their own transpositions. Operands stay the same
 * from call to call, so small shapes live in the caches, as they do in training.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "../lib/nn/nn_private.h"
#include "bench.h"

#define RUNS        15
#define RUN_SECONDS 0.02

static float *numbers(kd_arena *a, size_t n)
{
    float *x = kd_arena_alloc(a, n, sizeof *x);
    for (size_t i = 0; x && i < n; i++) x[i] = (float)(i * 7919 % 1000) / 1000 - 0.5f;
    return x;
}

typedef void (*kernel)(void *arg);

/* Best seconds of one call by a team. The first run warms up and sets how many calls a run has. */
static double best_time(kernel call, void *arg, int threads)
{
    double best = INFINITY;
    long calls = 1;
    for (int r = 0; r <= RUNS; r++) {
        const double start = kd_now();
#pragma omp parallel num_threads(threads)
        for (long i = 0; i < calls; i++) call(arg);
        const double each = (kd_now() - start) / (double)calls;
        if (r && each < best) best = each;
        if (calls < (long)(RUN_SECONDS / each)) calls = (long)(RUN_SECONDS / each);
    }
    return best;
}

static void report(const char *name, double flops, double seconds, double peak)
{
    const double gflops = flops / seconds * 1e-9;
    bench_print(json_pack("{s:s, s:f, s:f, s:f}", "kernel", name, "us", seconds * 1e6, "gflops", gflops,
                          "of_peak", gflops / peak));
}

/* ---- the three products of a linear layer ------------------------------------------------- */

static void run_gemm(void *arg) { kd__gemm_run(arg, 1); }

static kd_status product(const char *pass, const kd__gemm_desc *d, kd__team *team, int threads, double peak,
                         kd_err *err)
{
    kd__gemm *g = NULL;
    kd_arena a = {0};
    char name[64];
    kd_status st = kd__gemm_create(&g, d, team, err);
    kd__gemm_call call = {g, numbers(&a, (size_t)(d->m * d->k)), numbers(&a, (size_t)(d->k * d->n)),
                          numbers(&a, (size_t)d->n), numbers(&a, (size_t)(d->m * d->n)), 0};
    if (!d->bias) call.bias = NULL;
    if (!st && (!call.a || !call.b || !call.c)) st = kd_fail(err, KD_ENOMEM, "out of memory for operands");
    if (!st) {
        snprintf(name, sizeof name, "linear %s %lldx%lldx%lld", pass, (long long)d->m, (long long)d->n,
                 (long long)d->k);
        report(name, 2.0 * (double)(d->m * d->n * d->k), best_time(run_gemm, &call, threads), peak);
    }
    kd__gemm_free(g);
    kd_arena_release(&a);
    return st;
}

static kd_status linear(int64_t rows, int64_t in, int64_t out, kd__team *team, int threads, double peak,
                        kd_err *err)
{
    const kd__gemm_desc forward = {.m = rows,
                                   .n = out,
                                   .k = in,
                                   .lda = in,
                                   .ldb = in,
                                   .ldc = out,
                                   .tb = true,
                                   .bias = true,
                                   .relu = true};
    const kd__gemm_desc data = {.m = rows, .n = in, .k = out, .lda = out, .ldb = in, .ldc = in};
    const kd__gemm_desc weights = {
        .m = out, .n = in, .k = rows, .lda = out, .ldb = in, .ldc = in, .ta = true};
    kd_status st = product("forward", &forward, team, threads, peak, err);
    if (!st) st = product("data", &data, team, threads, peak, err);
    return st ? st : product("weights", &weights, team, threads, peak, err);
}

/* ---- convolutions ------------------------------------------------------------------------- */

typedef struct conv_call {
    kd__conv *conv;
    float *x, *w, *y;
    kd__conv_grads grads;
} conv_call;

static void run_forward(void *arg)
{
    const conv_call *c = arg;
    kd__conv_forward(c->conv, c->x, c->w, NULL, c->y);
}

static void run_backward(void *arg)
{
    const conv_call *c = arg;
    kd__conv_backward(c->conv, &c->grads);
}

static kd_status convolution(kd__conv_desc d, kd__team *team, int threads, double peak, kd_err *err)
{
    kd_arena a = {0};
    char name[64];
    d.batch = 128;
    d.training = true;
    d.need_dx = d.c > 1;
    d.out_h = (d.h + 2 * d.pad - d.k) / d.stride + 1;
    d.out_w = (d.w + 2 * d.pad - d.k) / d.stride + 1;
    const size_t xs = (size_t)(d.batch * d.h * d.w * d.c), ys = (size_t)(d.batch * d.out_h * d.out_w * d.out);
    const size_t ws = (size_t)(d.out * d.c / d.groups * d.k * d.k);
    conv_call c = {.x = numbers(&a, xs), .w = numbers(&a, ws), .y = numbers(&a, ys)};
    kd_status st = kd__conv_create(&c.conv, &d, team, err);
    if (st) goto out;
    c.grads = (kd__conv_grads){.x = c.x,
                               .w = c.w,
                               .dy = c.y,
                               .dx = d.need_dx ? numbers(&a, xs) : NULL,
                               .dw = numbers(&a, ws),
                               .shared = numbers(&a, kd__conv_shared_floats(c.conv))};
    if (!c.x || !c.w || !c.y || !c.grads.dw || !c.grads.shared || (d.need_dx && !c.grads.dx)) {
        st = kd_fail(err, KD_ENOMEM, "out of memory for images");
        goto out;
    }
    const double flops = 2.0 * (double)(d.batch * d.out_h * d.out_w) * (double)ws;
    for (int backward = 0; backward < 2; backward++) {
        snprintf(name, sizeof name, "%s %dx%d/%d %s %lldx%lld, %lld to %lld",
                 d.groups > 1 ? "dwconv2d" : "conv2d", d.k, d.k, d.stride, backward ? "backward" : "forward",
                 (long long)d.h, (long long)d.w, (long long)d.c, (long long)d.out);
        report(name, flops * (backward && d.need_dx ? 2 : 1),
               best_time(backward ? run_backward : run_forward, &c, threads), peak);
    }
out:
    kd__conv_free(c.conv);
    kd_arena_release(&a);
    return st;
}

kd_status bench_kernels(int threads, kd_err *err)
{
    static const int64_t layers[][3] = {
        {128, 784, 512}, {128, 512, 256}, {128, 256, 10}, {1024, 384, 384}, {1024, 384, 1536}};
    static const kd__conv_desc convs[] = {
        {.h = 28, .w = 28, .c = 1, .out = 16, .k = 3, .stride = 1, .pad = 1, .groups = 1},
        {.h = 28, .w = 28, .c = 16, .out = 32, .k = 3, .stride = 2, .pad = 1, .groups = 1},
        {.h = 14, .w = 14, .c = 32, .out = 64, .k = 3, .stride = 2, .pad = 1, .groups = 1},
        {.h = 28, .w = 28, .c = 64, .out = 128, .k = 3, .stride = 2, .pad = 1, .groups = 1},
        {.h = 14, .w = 14, .c = 128, .out = 256, .k = 3, .stride = 2, .pad = 1, .groups = 1},
        {.h = 28, .w = 28, .c = 32, .out = 32, .k = 1, .stride = 1, .pad = 0, .groups = 1},
        {.h = 14, .w = 14, .c = 64, .out = 64, .k = 3, .stride = 1, .pad = 1, .groups = 64},
    };
    bench_peak peak;
    kd__team *team = NULL;
    kd_status st = bench_peak_measure(&peak, threads, err);
    if (!st) st = kd__team_create(&team, threads, err);
    for (size_t i = 0; i < sizeof layers / sizeof *layers && !st; i++)
        st = linear(layers[i][0], layers[i][1], layers[i][2], team, threads, peak.f32_gflops, err);
    for (size_t i = 0; i < sizeof convs / sizeof *convs && !st; i++)
        st = convolution(convs[i], team, threads, peak.f32_gflops, err);
    kd__team_free(team);
    return st;
}
