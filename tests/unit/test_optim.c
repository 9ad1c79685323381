/* test_optim.c - optimizers and vector kernels: every instruction set against loops in double, by the
 * formulas of torch.optim; sums and updates with the same bits for any number of threads. */
#include "nn_fixture.h"

static const kd__vec *level(int i)
{
    const kd__vec *all[] = {&kd__vec_scalar, &kd__vec_avx2, &kd__vec_avx512};
    const kd_isa needs[] = {KD_ISA_SCALAR, KD_ISA_AVX2, KD_ISA_AVX512};
    return kd_cpu_isa() >= needs[i] ? all[i] : NULL;
}
enum { LEVELS = 3 };
/* Runs the body with `vec` at each level this CPU has. */
#define FOR_LEVELS(vec)                                                                                      \
    for (int l_ = 0; l_ < LEVELS; l_++)                                                                      \
        for (const kd__vec *vec = level(l_); vec; vec = NULL)

static float *copy(const float *x, size_t n)
{
    float *y = kd_alloc_aligned(n + 1, sizeof *y);
    assert_non_null(y);
    memcpy(y, x, n * sizeof *y);
    return y;
}

/* ---- optimizers --------------------------------------------------------------------------- */

typedef struct twin {
    double *w, *m, *v;
    size_t n;
} twin;

static twin twin_create(const float *w, size_t n)
{
    twin t = {calloc(n, sizeof(double)), calloc(n, sizeof(double)), calloc(n, sizeof(double)), n};
    assert_true(t.w && t.m && t.v);
    for (size_t i = 0; i < n; i++) t.w[i] = (double)w[i];
    return t;
}

static void twin_free(twin *t)
{
    free(t->w);
    free(t->m);
    free(t->v);
}

/* torch.optim.AdamW, line by line. */
static void twin_adamw(twin *t, const float *g, const kd_adamw *p)
{
    const double b1 = (double)p->beta1, b2 = (double)p->beta2, lr = (double)p->lr;
    for (size_t i = 0; i < t->n; i++) {
        const double grad = (double)g[i] * (double)p->grad_scale;
        t->w[i] *= 1 - lr * (double)p->weight_decay;
        t->m[i] = b1 * t->m[i] + (1 - b1) * grad;
        t->v[i] = b2 * t->v[i] + (1 - b2) * grad * grad;
        const double correction1 = 1 - pow(b1, (double)p->step), correction2 = 1 - pow(b2, (double)p->step);
        t->w[i] -= lr / correction1 * t->m[i] / (sqrt(t->v[i]) / sqrt(correction2) + (double)p->eps);
    }
}

/* torch.optim.SGD with dampening 0, line by line. */
static void twin_sgd(twin *t, const float *g, const kd_sgd *p)
{
    const double mu = (double)p->momentum;
    for (size_t i = 0; i < t->n; i++) {
        double grad = (double)g[i] * (double)p->grad_scale + (double)p->weight_decay * t->w[i];
        if (mu != 0) {
            t->m[i] = p->step == 1 ? grad : mu * t->m[i] + grad;
            grad = p->nesterov ? grad + mu * t->m[i] : t->m[i];
        }
        t->w[i] -= (double)p->lr * grad;
    }
}

static void check_against(const char *what, const float *got, const double *want, size_t n, double tol)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= tol * (1 + fabs(want[i]))))
            fail_msg("%s[%zu] = %.9g, want %.9g", what, i, (double)got[i], want[i]);
}

static void adamw_follows_pytorch(void **state)
{
    (void)state;
    enum { N = 10007 };
    float *w = fx_normal(N, 1), *m = kd_alloc_aligned(N, sizeof *m), *v = kd_alloc_aligned(N, sizeof *v);
    twin t = twin_create(w, N);
    for (int64_t step = 1; step <= 20; step++) {
        const kd_adamw p = {.lr = 1e-2f,
                            .beta1 = 0.9f,
                            .beta2 = 0.999f,
                            .eps = 1e-8f,
                            .weight_decay = 0.05f,
                            .step = step,
                            .grad_scale = 0.5f};
        float *g = fx_normal(N, 1000 + (uint32_t)step);
#pragma omp parallel num_threads(2)
        kd_nn_adamw(w, m, v, g, N, &p);
        twin_adamw(&t, g, &p);
        free(g);
    }
    check_against("w", w, t.w, N, 2e-6);
    check_against("m", m, t.m, N, 1e-6);
    check_against("v", v, t.v, N, 1e-6);
    twin_free(&t);
    free(w);
    free(m);
    free(v);
}

static void sgd_follows_pytorch(void **state)
{
    (void)state;
    enum { N = 5001 };
    static const kd_sgd kinds[] = {
        {.lr = 0.1f, .grad_scale = 1},
        {.lr = 0.1f, .grad_scale = 0.25f, .weight_decay = 0.01f},
        {.lr = 0.1f, .grad_scale = 1, .momentum = 0.9f, .weight_decay = 0.01f},
        {.lr = 0.1f, .grad_scale = 1, .momentum = 0.9f, .weight_decay = 0.01f, .nesterov = true},
    };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        kd_sgd p = kinds[k];
        float *w = fx_normal(N, 1), *m = fx_normal(N, 2); // what m holds before step 1 is nobody's business
        twin t = twin_create(w, N);
        for (p.step = 1; p.step <= 10; p.step++) {
            float *g = fx_normal(N, 2000 + (uint32_t)p.step);
            kd_nn_sgd(w, p.momentum != 0 ? m : NULL, g, N, &p);
            twin_sgd(&t, g, &p);
            free(g);
        }
        check_against("w", w, t.w, N, 3e-6);
        if (p.momentum != 0) check_against("m", m, t.m, N, 3e-6);
        twin_free(&t);
        free(w);
        free(m);
    }
}

/* Padding between parameters is zero in weights and gradients, and has to stay so. */
static void zeros_stay_zero(void **state)
{
    (void)state;
    const kd_adamw p = {.lr = 1e-2f,
                        .beta1 = 0.9f,
                        .beta2 = 0.999f,
                        .eps = 1e-8f,
                        .weight_decay = 0.1f,
                        .step = 1,
                        .grad_scale = 1};
    const kd_sgd s = {
        .lr = 0.1f, .momentum = 0.9f, .weight_decay = 0.1f, .grad_scale = 1, .nesterov = true, .step = 1};
    float w[48] = {0}, m[48] = {0}, v[48] = {0};
    const float g[48] = {0}, zero[48] = {0};
    kd_nn_adamw(w, m, v, g, 48, &p);
    kd_nn_sgd(w, m, g, 48, &s);
    assert_memory_equal(w, zero, sizeof w);
}

/* One step of each rule over n floats, at one level; mean and sound may be NULL. */
static void both_rules(const kd__vec *vec, float *w, float *mean, const float *g, size_t n, bool sgd,
                       double *sound)
{
    const kd_along along = {.mean = mean, .mean_rate = 0.125f, .sound = sound};
    const kd_adamw a = {
        .lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .step = 5, .grad_scale = 1, .along = along};
    const kd_sgd s = {.lr = 0.1f, .momentum = 0.9f, .grad_scale = 1, .step = 5, .along = along};
    float *m = fx_normal(n, 3), *v = fx_normal(n, 4);
    for (size_t i = 0; i < n; i++) v[i] *= v[i];
    if (sgd)
        kd__sgd_range(vec, w, m, g, n, &s);
    else
        kd__adamw_range(vec, w, m, v, g, n, &a);
    free(m);
    free(v);
}

static void a_mean_follows_the_weights_and_changes_none(void **state)
{
    (void)state;
    enum { N = 9001 };
    float *g = fx_normal(N, 2), *before = fx_normal(N, 5);
    FOR_LEVELS(vec)
    for (int sgd = 0; sgd < 2; sgd++) {
        float *w = fx_normal(N, 1), *alone = fx_normal(N, 1), *mean = copy(before, N);
        double *want = calloc(N, sizeof *want);
        both_rules(vec, w, mean, g, N, sgd, NULL);
        both_rules(vec, alone, NULL, g, N, sgd, NULL);
        assert_memory_equal(w, alone, N * sizeof *w);
        for (size_t i = 0; i < N; i++) want[i] = 0.875 * (double)before[i] + 0.125 * (double)w[i];
        check_against("mean", mean, want, N, 1e-6);
        free(w);
        free(alone);
        free(mean);
        free(want);
    }
    free(g);
    free(before);
}

/* One bad gradient anywhere makes its block, and no other, unsound. */
static void a_step_says_where_it_left_the_numbers(void **state)
{
    (void)state;
    enum { N = 3 * 4096 + 100 };
    static const float bad[] = {NAN, INFINITY, -INFINITY,
                                3e38f}; // the last: its square, or its step, overflows
    static const size_t places[] = {0, 4095, 4096, 8195, N - 1};
    float *g = fx_normal(N, 2), *w = fx_normal(N, 1);
    double sound[4];
    FOR_LEVELS(vec)
    for (size_t p = 0; p < sizeof places / sizeof *places; p++)
        for (size_t b = 0; b < sizeof bad / sizeof *bad; b++)
            for (int sgd = 0; sgd < 2; sgd++) {
                const size_t i = places[p];
                const float was = g[i];
                float *u = copy(w, N);
                g[i] = bad[b];
                if (sgd && b == 3) u[i] = -3.4e38f;
                both_rules(vec, u, NULL, g, N, sgd, sound);
                for (size_t k = 0; k < 4; k++)
                    if (k == i / 4096 ? !isnan(sound[k]) : sound[k] != 0)
                        fail_msg("gradient %g at %zu, sgd %d: block %zu says %g", (double)bad[b], i, sgd, k,
                                 sound[k]);
                g[i] = was;
                free(u);
            }
    free(g);
    free(w);
}

static void gradients_add_up(void **state)
{
    (void)state;
    enum { N = 9001 };
    float *a = fx_normal(N, 1), *b = fx_normal(N, 2), *sum = fx_normal(N, 3), *want = fx_normal(N, 4);
    for (size_t i = 0; i < N; i++) want[i] = a[i] + b[i];
#pragma omp parallel num_threads(2)
    {
        kd_nn_accumulate(sum, a, N, true);
        kd_nn_accumulate(sum, b, N, false);
    }
    assert_memory_equal(sum, want, N * sizeof *sum);
    free(a);
    free(b);
    free(sum);
    free(want);
}

static void updates_have_the_same_bits_for_any_team(void **state)
{
    (void)state;
    enum { N = 50021 };
    float *w0 = fx_normal(N, 1), *g = fx_normal(N, 2), *first = NULL;
    double norm = 0;
    double *partial = calloc(kd_nn_blocks(N), sizeof *partial);
    assert_int_equal(kd_nn_blocks(N), 13);
    for (int threads = 1; threads <= 8; threads = threads * 2 + (threads == 1)) { // 1, 3, 6
        const kd_adamw p = {
            .lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .step = 3, .grad_scale = 1};
        float *w = copy(w0, N), *m = fx_normal(N, 3), *v = copy(g, N);
        double sums[8] = {0};
        for (size_t i = 0; i < N; i++) v[i] *= v[i];
#pragma omp parallel num_threads(threads)
        {
            const double sum = kd_nn_sumsq(g, N, partial);
            sums[omp_get_thread_num()] = sum;
            kd_nn_adamw(w, m, v, g, N, &p);
        }
        for (int t = 1; t < threads; t++) assert_memory_equal(&sums[t], &sums[0], sizeof *sums);
        if (!first) {
            norm = sums[0];
            first = w;
            double want = 0;
            for (size_t i = 0; i < N; i++) want += (double)g[i] * (double)g[i];
            assert_true(fabs(norm - want) <= 1e-12 * want);
        } else {
            assert_memory_equal(&norm, &sums[0], sizeof norm);
            assert_memory_equal(w, first, N * sizeof *w);
            free(w);
        }
        free(m);
        free(v);
    }
    free(first);
    free(w0);
    free(g);
    free(partial);
}

/* ---- kernels by instruction set ----------------------------------------------------------- */

static void bytes_become_floats(void **state)
{
    (void)state;
    uint8_t x[300];
    float y[300], want[300];
    for (int i = 0; i < 300; i++) {
        x[i] = (uint8_t)i;
        want[i] = ((float)(uint8_t)i - 72.94f) * 0.0111f;
    }
    FOR_LEVELS(vec)
    {
        vec->u8_to_f32(y, x, 300, 72.94f, 0.0111f);
        fx_close("u8_to_f32", "y", y, want, 300, 1e-6);
    }
    kd_nn_u8_to_f32(y, x, 300, 72.94f, 0.0111f);
    fx_close("kd_nn_u8_to_f32", "y", y, want, 300, 1e-6);
}

static void elementwise_kernels_equal_plain_loops(void **state)
{
    (void)state;
    float *a = fx_normal(1031, 1), *b = fx_normal(1031, 2), *y = fx_normal(1031, 3);
    FOR_LEVELS(vec)
    for (size_t n = 0; n <= 1031; n += n < 70 ? 1 : 137) {
        float *got = copy(y, 1031), *want = copy(y, 1031);
        vec->add(got, a, b, n, false);
        for (size_t i = 0; i < n; i++) want[i] = a[i] + b[i];
        assert_memory_equal(got, want, 1031 * sizeof *got); // also: nothing behind n is touched
        vec->add_to(got, b, n);
        for (size_t i = 0; i < n; i++) want[i] += b[i];
        vec->relu_mask_add(got, b, a, n);
        for (size_t i = 0; i < n; i++) want[i] += a[i] > 0 ? b[i] : 0;
        assert_memory_equal(got, want, 1031 * sizeof *got);
        vec->relu(got, a, n);
        for (size_t i = 0; i < n; i++) want[i] = a[i] > 0 ? a[i] : 0;
        assert_memory_equal(got, want, 1031 * sizeof *got);
        vec->relu_mask(got, b, a, n);
        for (size_t i = 0; i < n; i++) want[i] = a[i] > 0 ? b[i] : 0;
        assert_memory_equal(got, want, 1031 * sizeof *got);
        free(got);
        free(want);
    }
    free(a);
    free(b);
    free(y);
}

/* Adam and SGD of one level differ from another's by rounding only. */
static void optimizers_agree_across_levels(void **state)
{
    (void)state;
    enum { N = 333 };
    const kd_adamw a = {.lr = 1e-2f,
                        .beta1 = 0.9f,
                        .beta2 = 0.99f,
                        .eps = 1e-8f,
                        .weight_decay = 0.1f,
                        .step = 5,
                        .grad_scale = 0.7f};
    const kd_sgd s = {
        .lr = 0.1f, .momentum = 0.9f, .weight_decay = 0.1f, .grad_scale = 0.7f, .nesterov = true, .step = 5};
    float *g = fx_normal(N, 2), *w0 = NULL, *w1 = NULL;
    FOR_LEVELS(vec)
    {
        float *w = fx_normal(N, 1), *u = fx_normal(N, 4), *m = fx_normal(N, 3), *v = copy(g, N);
        for (size_t i = 0; i < N; i++) v[i] *= v[i];
        kd__adamw_range(vec, w, m, v, g, N, &a);
        kd__sgd_range(vec, u, m, g, N, &s);
        if (vec == &kd__vec_scalar) {
            w0 = w;
            w1 = u;
        } else {
            fx_close("adamw", "w", w, w0, N, 1e-6);
            fx_close("sgd", "w", u, w1, N, 1e-6);
            free(w);
            free(u);
        }
        free(m);
        free(v);
    }
    free(w0);
    free(w1);
    free(g);
}

/* One block of batch norm, x (rows, c): random numbers, and per channel what the kernels take. */
typedef struct block {
    size_t rows, c, n;
    float *x, *dy, *sum, *mean, *sq, *out;
    float *a, *b, *k1, *k2, *k3;
    double *want, *want2;
} block;

static block block_create(size_t rows, size_t c)
{
    block k = {.rows = rows, .c = c, .n = rows * c};
    k.x = fx_normal(k.n, 1), k.dy = fx_normal(k.n, 2), k.out = fx_normal(k.n, 3);
    k.sum = fx_normal(c, 4), k.mean = fx_normal(c, 5), k.sq = fx_normal(c, 6);
    k.a = fx_normal(c, 7), k.b = fx_normal(c, 8);
    k.k1 = fx_normal(c, 9), k.k2 = fx_normal(c, 10), k.k3 = fx_normal(c, 11);
    k.want = calloc(k.n + c, sizeof(double)), k.want2 = calloc(k.n + c, sizeof(double));
    assert_true(k.want && k.want2);
    for (size_t i = 0; i < k.n; i++) k.x[i] += (float)(i % c % 7);
    return k;
}

static void block_free(block *k)
{
    float *all[] = {k->x, k->dy, k->out, k->sum, k->mean, k->sq, k->a, k->b, k->k1, k->k2, k->k3};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free(k->want);
    free(k->want2);
}

static void check_moments(const kd__vec *vec, block *k)
{
    const double rows = (double)k->rows;
    for (size_t j = 0; j < k->c; j++) {
        double s = 0, q = 0;
        for (size_t r = 0; r < k->rows; r++) s += (double)k->x[r * k->c + j];
        for (size_t r = 0; r < k->rows; r++) q += pow((double)k->x[r * k->c + j] - s / rows, 2);
        k->want[j] = s / rows;
        k->want2[j] = q / rows;
    }
    vec->col_sum(k->sum, k->x, k->rows, k->c, k->c);
    vec->moments(k->mean, k->sq, k->x, k->rows, k->c);
    for (size_t j = 0; j < k->c; j++) {
        k->sum[j] /= (float)k->rows;
        k->sq[j] /= (float)k->rows;
    }
    check_against("sum / rows", k->sum, k->want, k->c, 1e-6);
    check_against("mean", k->mean, k->want, k->c, 1e-6);
    check_against("variance", k->sq, k->want2, k->c, 3e-6);
}

/* Forward, the two sums and dx, with ReLU or without, in place and added. */
static void check_norm(const kd__vec *vec, block *k, bool relu)
{
    const kd__bn_factors f = {k->mean, relu ? k->a : NULL, relu ? k->b : NULL, k->k1, k->k2, k->k3};
    const double rows = (double)k->rows;
    float *s1 = k->sum, *s2 = k->sq, *dy = copy(k->dy, k->n), *old = copy(k->out, k->n);
    double *y = calloc(k->n, sizeof *y), *dx = calloc(k->n, sizeof *dx);
    memset(k->want, 0, k->c * sizeof(double));
    memset(k->want2, 0, k->c * sizeof(double));
    for (size_t i = 0; i < k->n; i++) {
        const size_t j = i % k->c;
        const double x = (double)k->x[i], v = x * (double)k->a[j] + (double)k->b[j];
        const double d = relu && !(v > 0) ? 0 : (double)dy[i], centred = x - (double)k->mean[j];
        y[i] = relu && v < 0 ? 0 : v;
        k->want[j] += d / rows;
        k->want2[j] += d * centred / rows;
        dx[i] = (double)k->k1[j] * d + (double)k->k2[j] * centred + (double)k->k3[j];
    }
    vec->scale_shift(k->out, k->x, k->a, k->b, k->rows, k->c, relu);
    check_against("y", k->out, y, k->n, 1e-6);
    vec->bn_grad_sums(s1, s2, dy, k->x, k->rows, k->c, &f);
    for (size_t j = 0; j < k->c; j++) s1[j] /= (float)k->rows, s2[j] /= (float)k->rows;
    check_against("sum of dy", s1, k->want, k->c, 2e-6);
    check_against("sum of dy (x - mean)", s2, k->want2, k->c, 5e-6);
    vec->bn_dx(dy, dy, k->x, k->rows, k->c, &f, false);
    check_against("dx in place", dy, dx, k->n, 2e-6);
    for (size_t i = 0; i < k->n; i++) dx[i] += (double)old[i];
    vec->bn_dx(old, k->dy, k->x, k->rows, k->c, &f, true);
    check_against("dx added", old, dx, k->n, 2e-6);
    free(dy);
    free(old);
    free(y);
    free(dx);
}

static void column_kernels_equal_double_loops(void **state)
{
    (void)state;
    FOR_LEVELS(vec)
    for (size_t c = 1; c < 300; c += c < 36 ? 1 : 31)
        for (size_t rows = 1; rows < 400; rows = rows * 2 + 3) {
            block k = block_create(rows, c);
            check_moments(vec, &k);
            check_norm(vec, &k, false);
            check_norm(vec, &k, true);
            block_free(&k);
        }
}

/* 5 x 7 pixels, windows of 2 x 2 that touch and of 3 x 3 that overlap: the levels differ by rounding only. */
static void pooling_rows_agree_across_levels(void **state)
{
    (void)state;
    for (size_t c = 1; c <= 37; c += 3)
        for (size_t k = 2; k <= 3; k++) {
            const kd__pool g = {.c = c, .k = k, .stride = 2, .out_w = 3, .row = 7 * c};
            float *x = fx_normal(35 * c, 1), *y[LEVELS] = {0}, *dx[LEVELS] = {0};
            uint8_t which[3 * 37];
            int l = 0;
            FOR_LEVELS(vec)
            {
                y[l] = fx_normal(6 * c, 2), dx[l] = fx_normal(70 * c, 3);
                vec->max_row(y[l], which, x, &g);
                vec->avg_row(y[l] + 3 * c, x, &g);
                vec->max_row_back(dx[l], which, y[l], &g, k == 3);
                vec->avg_row_back(dx[l] + 35 * c, y[l], &g, k == 3);
                vec->spread(dx[l] + 21 * c, y[l], 0.5f, 2, c, k == 3);
                fx_close("pooling", "y", y[l], y[0], 6 * c, 1e-6);
                fx_close("pooling", "dx", dx[l], dx[0], 70 * c, 1e-6);
                l++;
            }
            for (l = 0; l < LEVELS; l++) {
                free(y[l]);
                free(dx[l]);
            }
            free(x);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adamw_follows_pytorch),
        cmocka_unit_test(sgd_follows_pytorch),
        cmocka_unit_test(zeros_stay_zero),
        cmocka_unit_test(a_mean_follows_the_weights_and_changes_none),
        cmocka_unit_test(a_step_says_where_it_left_the_numbers),
        cmocka_unit_test(gradients_add_up),
        cmocka_unit_test(updates_have_the_same_bits_for_any_team),
        cmocka_unit_test(bytes_become_floats),
        cmocka_unit_test(elementwise_kernels_equal_plain_loops),
        cmocka_unit_test(optimizers_agree_across_levels),
        cmocka_unit_test(column_kernels_equal_double_loops),
        cmocka_unit_test(pooling_rows_agree_across_levels),
    };
    return cmocka_run_group_tests_name("optim", tests, NULL, NULL);
}
