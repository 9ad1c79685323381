/* test_dense.c - linear layers on batches of fixed size by kernels of their own: what plain loops give, the
 * same bits for any number of threads. */
#include "../../lib/nn/nn_private.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* All that a layer reads and writes. */
typedef struct layer {
    kd__dense d;
    bool bias, relu, add, dx_too;
    float *x, *w, *b, *y, *dy, *dx, *dw, *db;
} layer;

static float *numbers(size_t n, uint32_t stream)
{
    kd_rng r;
    kd_rng_init(&r, 7, KD_RNG_TEST, stream, 0);
    float *x = kd_alloc_aligned(n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = kd_rng_normal(&r);
    return x;
}

static layer make(size_t rows, size_t in, size_t out, bool bias, bool relu, bool add, bool dx_too)
{
    layer l = {.d = {rows, in, out}, .bias = bias, .relu = relu, .add = add, .dx_too = dx_too};
    l.x = numbers(rows * in, 1);
    l.w = numbers(out * in, 2);
    l.b = numbers(out, 3);
    l.y = numbers(rows * out, 4);
    l.dy = numbers(rows * out, 5);
    l.dx = numbers(rows * in, 6); // what add adds to
    l.dw = numbers(out * in, 7);
    l.db = numbers(out, 8);
    return l;
}

static void release(layer *l)
{
    float *all[] = {l->x, l->w, l->b, l->y, l->dy, l->dx, l->dw, l->db};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void run(layer *l, int threads)
{
    const kd__dense_forward f = {l->x, l->w, l->bias ? l->b : NULL, l->y, l->relu};
    const kd__dense_backward g = {.x = l->x,
                                  .w = l->w,
                                  .y = l->relu ? l->y : NULL,
                                  .dy = l->dy,
                                  .dx = l->dx_too ? l->dx : NULL,
                                  .dw = l->dw,
                                  .dbias = l->bias ? l->db : NULL,
                                  .add = l->add};
#pragma omp parallel num_threads(threads)
    {
        kd__dense_run_forward(&l->d, &f);
        kd__dense_run_backward(&l->d, &g);
    }
}

static void plain(layer *l)
{
    const size_t rows = l->d.rows, in = l->d.in, out = l->d.out;
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < out; o++) {
            double sum = l->bias ? (double)l->b[o] : 0;
            for (size_t i = 0; i < in; i++) sum += (double)l->x[r * in + i] * (double)l->w[o * in + i];
            l->y[r * out + o] = l->relu && sum < 0 ? 0 : (float)sum;
            if (l->relu && !(l->y[r * out + o] > 0)) l->dy[r * out + o] = 0;
        }
    for (size_t r = 0; l->dx_too && r < rows; r++)
        for (size_t i = 0; i < in; i++) {
            double sum = l->add ? (double)l->dx[r * in + i] : 0;
            for (size_t o = 0; o < out; o++) sum += (double)l->dy[r * out + o] * (double)l->w[o * in + i];
            l->dx[r * in + i] = (float)sum;
        }
    for (size_t o = 0; o < out; o++) {
        double sum = 0;
        for (size_t r = 0; r < rows; r++) sum += (double)l->dy[r * out + o];
        if (l->bias) l->db[o] = (float)sum;
        for (size_t i = 0; i < in; i++) {
            sum = 0;
            for (size_t r = 0; r < rows; r++) sum += (double)l->dy[r * out + o] * (double)l->x[r * in + i];
            l->dw[o * in + i] = (float)sum;
        }
    }
}

/* || got - want || / || want || */
static double distance(const float *got, const float *want, size_t n)
{
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        diff += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    return sqrt(diff / (norm > 0 ? norm : 1));
}

static void same(const layer *got, const char *what, const float *a, const float *b, size_t n)
{
    const double d = distance(a, b, n);
    if (!(d < 1e-5))
        fail_msg("%zu rows, %zu to %zu, bias %d, relu %d, add %d, dx %d: %s differs from plain loops by %g",
                 got->d.rows, got->d.in, got->d.out, got->bias, got->relu, got->add, got->dx_too, what, d);
}

static const size_t shapes[][3] = {{32, 16, 1},    {33, 48, 10},   {100, 80, 65},   {128, 784, 128},
                                   {130, 256, 70}, {300, 112, 17}, {513, 144, 129}, {40, 1056, 1030}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void equals_plain_loops(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHAPES; i++)
        for (int v = 0; v < 16; v++) {
            const size_t *s = shapes[i];
            layer got = make(s[0], s[1], s[2], v & 1, v & 2, v & 4, v & 8),
                  want = make(s[0], s[1], s[2], v & 1, v & 2, v & 4, v & 8);
            run(&got, 2);
            plain(&want);
            same(&got, "y", got.y, want.y, s[0] * s[2]);
            same(&got, "dx", got.dx, want.dx, s[0] * s[1]);
            same(&got, "dW", got.dw, want.dw, s[2] * s[1]);
            same(&got, "db", got.db, want.db, s[2]);
            release(&got);
            release(&want);
        }
}

static void bits_do_not_depend_on_threads(void **state)
{
    (void)state;
    static const int threads[] = {2, 3, 5, 8, 17};
    for (size_t i = 0; i < SHAPES; i++) {
        const size_t *s = shapes[i];
        layer want = make(s[0], s[1], s[2], true, true, true, true);
        run(&want, 1);
        for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
            layer got = make(s[0], s[1], s[2], true, true, true, true);
            run(&got, threads[t]);
            assert_memory_equal(got.y, want.y, s[0] * s[2] * sizeof(float));
            assert_memory_equal(got.dx, want.dx, s[0] * s[1] * sizeof(float));
            assert_memory_equal(got.dw, want.dw, s[2] * s[1] * sizeof(float));
            assert_memory_equal(got.db, want.db, s[2] * sizeof(float));
            release(&got);
        }
        release(&want);
    }
}

/* A row's numbers are its own: those behind a row that is not a number are as without it. */
static void a_row_that_is_not_a_number_stays_alone(void **state)
{
    (void)state;
    layer l = make(40, 32, 10, true, true, false, true), want = make(40, 32, 10, true, true, false, true);
    l.x[3 * 32 + 5] = NAN;
    run(&l, 2);
    run(&want, 2);
    for (size_t o = 0; o < 10; o++) assert_true(isnan(l.y[30 + o]));
    assert_memory_equal(l.y, want.y, 30 * sizeof(float));
    assert_memory_equal(l.y + 40, want.y + 40, 360 * sizeof(float));
    release(&l);
    release(&want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_plain_loops),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(a_row_that_is_not_a_number_stays_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
