/* conv.c - convolutions as slices of whole images, each slice computed by one thread.
 *
 * The batch is cut into slices whose number depends on shapes alone. A slice runs on one library
 * kernel made for one thread: direct convolution on NHWC, or a matrix product where the window
 * is one pixel. Backward handles a slice while it is warm: it masks dy by ReLU, adds up the bias
 * gradient, computes dx, and the slice's own share of dW. The shares are then added pairwise in a
 * fixed tree, elements spread over the team. So no sum depends on the number of threads, and a
 * backward pass has two barriers.
 *
 * A batch norm beside the convolution has its loops run here, slice by slice (kd__state's prev and next): one
 * in front makes its y just before the kernel reads it and sums up its dy as soon as dx is there; one
 * behind takes its statistics of y, and makes its dx just before the kernels read it as dy. That y and that
 * dx lie in the thread's staging memory, one slice after the other in the same place, and are made again
 * rather than kept: they never leave the cache, and neither has a place of its own in memory (exec_plan.c).
 *
 * Where operands are bf16 (precision.c), a slice of x or dy becomes one in the thread's staging memory just
 * before the kernels read it, which costs a walk through the cache and none through memory.
 *
 * Weights lie plain in the parameter slab, (out, c/groups, k, k). The library wants them in an order
 * of its own, another one for each pass. A table asked for once says where each number goes; forward
 * copies the weights for itself and for backward (parameters do not change in between), and dW is
 * summed in the library's order and scattered at the end.
 */
#include "nn_private.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Weights in the order of one pass. */
typedef struct packing {
    uint32_t *order; /* of each element: 1 + its plain index, 0: padding; NULL: the order is plain */
    void *copy;      /* as operands; NULL: used in place */
    size_t n;
} packing;

struct kd__conv {
    kd__conv_desc d;
    kd__team *team;
    bool pointwise;
    int64_t slice, slices;   /* images in a slice; the last slice may be smaller */
    size_t x_image, y_image; /* floats of one image */
    size_t x_pixels, y_pixels;
    size_t weights;
    kd__rows *rows;        /* own kernels, where they serve better than the library's: in forward */
    bool rows_backward;    /* in backward */
    kd__prim *prim[3][2];  /* [pass][last slice] */
    packing pack[3];       /* by pass; copy is NULL for KD__CONV_WEIGHTS */
    size_t share, bias_at; /* floats of one slice's gradients, and where dbias is in it */
    /* In the thread's staging memory, behind a slice of x: x as operand, dy, dy as operand, dx. */
    size_t x_read_at, dy_at, dy_read_at, dx_at;
};

enum { BLOCK = 1024 }; /* elements of weights that one thread packs or adds at a time */

static int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
static size_t blocks_of(size_t n) { return (n + BLOCK - 1) / BLOCK; }

/* 8, 16 or 32 slices, so that common teams share them evenly: more while a slice has more than a
 * million multiply-adds, but not where every slice's share of a large dW would have to travel through
 * memory. */
static int64_t choose_slice(const kd__conv_desc *d)
{
    const double weights = (double)d->out * (double)(d->c / d->groups) * d->k * d->k;
    const double macs = weights * (double)(d->out_h * d->out_w) * (double)d->batch;
    const double shares = d->training ? (2 << 20) / weights : KD__CONV_SLICES;
    int64_t slices = 8;
    while (slices < KD__CONV_SLICES && 1e6 * (double)slices < macs && (double)(2 * slices) <= shares)
        slices *= 2;
    return div_up(d->batch, slices);
}

/* A window of one pixel is a matrix product over all pixels of the slice. */
static kd_status make_pointwise(kd__conv *v, kd__conv_pass pass, int64_t images, kd__prim **out, kd_err *err)
{
    const kd__conv_desc *d = &v->d;
    const int64_t rows = images * d->h * d->w, c = d->c, o = d->out;
    const kd__gemm_desc desc[] = {
        [KD__CONV_FORWARD] = {.m = rows,
                              .n = o,
                              .k = c,
                              .lda = c,
                              .ldb = c,
                              .ldc = o,
                              .tb = true,
                              .bias = d->bias,
                              .relu = d->relu},
        [KD__CONV_DATA] =
            {.m = rows, .n = c, .k = o, .lda = o, .ldb = c, .ldc = c, .accumulate = d->accumulate_dx},
        [KD__CONV_WEIGHTS] = {.m = o, .n = c, .k = rows, .lda = o, .ldb = c, .ldc = c, .ta = true},
    };
    kd__gemm_desc one = desc[pass];
    one.operands = d->operands;
    return kd__prim_matmul(out, &one, v->team, err);
}

/* The kernels of one pass and the order of its weights. */
static kd_status make_pass(kd__conv *v, kd__conv_pass pass, kd_err *err)
{
    const int64_t last = v->d.batch - (v->slices - 1) * v->slice;
    const bool own = v->rows && (pass == KD__CONV_FORWARD || v->rows_backward);
    packing *p = &v->pack[pass];
    kd_status st = KD_OK;
    p->n = v->weights;
    if (own) st = kd__rows_order(v->rows, pass, &p->order, &p->n, err);
    for (int i = v->slices > 1 ? 0 : 1; i < 2 && !st && !own; i++) {
        const int64_t images = i ? last : v->slice;
        st = v->pointwise ? make_pointwise(v, pass, images, &v->prim[pass][i], err)
                          : kd__prim_conv(&v->prim[pass][i], pass, &v->d, images, i ? v->prim[pass][0] : NULL,
                                          v->team, err);
    }
    if (!st && !own && !v->pointwise) st = kd__prim_weight_order(v->prim[pass][1], &p->order, &p->n, err);
    if (st || pass == KD__CONV_WEIGHTS || (!p->order && !v->d.operands)) return st;
    if (!(p->copy = kd_alloc_aligned(kd__operand_floats(v->d.operands, p->n), sizeof(float))))
        return kd_fail(err, KD_ENOMEM, "out of memory for a copy of %zu weights", p->n);
    return KD_OK;
}

/* A matrix product adds by itself. */
static bool stages_dx(const kd__conv *v) { return v->d.need_dx && v->d.accumulate_dx && !v->pointwise; }

/* Floats of staging memory that slices of x, dy and dx need; each has its place only where it is made there.
 */
static size_t lay_out_stage(kd__conv *v)
{
    const kd__conv_desc *d = &v->d;
    const size_t x = (size_t)v->slice * v->x_image, y = (size_t)v->slice * v->y_image;
    v->x_read_at = d->prev ? round_up(x, 16) : 0;
    v->dy_at = v->x_read_at + (d->operands ? kd__operand_floats(d->operands, x) : 0);
    v->dy_read_at = v->dy_at + (d->next ? round_up(y, 16) : 0);
    v->dx_at = v->dy_read_at + (d->operands && d->training ? kd__operand_floats(d->operands, y) : 0);
    return v->dx_at + (stages_dx(v) ? x : 0);
}

kd_status kd__conv_create(kd__conv **out, const kd__conv_desc *d, kd__team *team, kd_err *err)
{
    assert(d->groups == 1 || (d->groups == d->c && d->out == d->c));
    kd__conv *v = calloc(1, sizeof *v);
    if (!v) return kd_fail(err, KD_ENOMEM, "out of memory for a convolution");
    v->d = *d;
    v->team = team;
    v->pointwise = d->k == 1 && d->stride == 1 && d->pad == 0 && d->groups == 1;
    v->slice = choose_slice(d);
    v->slices = div_up(d->batch, v->slice);
    v->x_pixels = (size_t)(d->h * d->w);
    v->y_pixels = (size_t)(d->out_h * d->out_w);
    v->x_image = v->x_pixels * (size_t)d->c;
    v->y_image = v->y_pixels * (size_t)d->out;
    v->weights = (size_t)(d->out * (d->c / d->groups) * d->k * d->k);
    kd_status st = !d->library && kd__rows_fit(d) ? kd__rows_create(&v->rows, d, err) : KD_OK;
    v->rows_backward = v->rows && kd__rows_fit_backward(d);
    if (!st) st = make_pass(v, KD__CONV_FORWARD, err);
    if (!st && d->need_dx) st = make_pass(v, KD__CONV_DATA, err);
    if (!st && d->training) st = make_pass(v, KD__CONV_WEIGHTS, err);
    const size_t stage = v->rows_backward ? 0 : lay_out_stage(v);
    if (!st) st = kd__team_reserve(team, kd_max_size(stage, v->rows ? kd__rows_stage(v->rows) : 0), err);
    v->bias_at = round_up(v->pack[KD__CONV_WEIGHTS].n, 16);
    v->share = v->bias_at + (d->bias ? round_up((size_t)d->out, 16) : 0);
    if (st)
        kd__conv_free(v);
    else
        *out = v;
    return st;
}

void kd__conv_free(kd__conv *v)
{
    for (int i = 0; v && i < 3; i++) {
        kd__prim_free(v->prim[i][0]);
        kd__prim_free(v->prim[i][1]);
        free(v->pack[i].order);
        free(v->pack[i].copy);
    }
    if (v) free(v->rows);
    free(v);
}

size_t kd__conv_slice(const kd__conv *v) { return (size_t)v->slice; }

size_t kd__conv_shared_floats(const kd__conv *v) { return v->d.training ? (size_t)v->slices * v->share : 0; }

size_t kd__conv_bytes(const kd__conv *v)
{
    size_t bytes = 0;
    for (int i = 0; i < 3; i++)
        bytes += (v->pack[i].order ? v->pack[i].n * sizeof(uint32_t) : 0) +
                 (v->pack[i].copy ? kd__operand_floats(v->d.operands, v->pack[i].n) * sizeof(float) : 0);
    return bytes;
}

/* ---- forward ------------------------------------------------------------------------------ */

static void pack_block(const packing *p, kd__operands operands, size_t block, const float *w)
{
    const size_t at = block * BLOCK, n = kd_min_size(BLOCK, p->n - at);
    void *copy = (char *)p->copy + kd__operand_bytes(operands, at);
    float plain[BLOCK], *to = operands ? plain : copy;
    for (size_t i = 0; i < n; i++) {
        const size_t from = p->order ? p->order[at + i] : at + i + 1;
        to[i] = from ? w[from - 1] : 0.0f;
    }
    if (operands) kd__make_operand(copy, plain, n, operands);
}

static void pack_weights(const kd__conv *v, const float *w)
{
    const packing *first = &v->pack[KD__CONV_FORWARD], *second = &v->pack[KD__CONV_DATA];
    const size_t n = first->copy ? blocks_of(first->n) : 0;
    const size_t all = n + (second->copy ? blocks_of(second->n) : 0);
    if (!all) return;
#pragma omp for schedule(static)
    for (size_t b = 0; b < all; b++) pack_block(b < n ? first : second, v->d.operands, b < n ? b : b - n, w);
}

static const void *weights_of(const kd__conv *v, kd__conv_pass pass, const float *w)
{
    return v->pack[pass].copy ? v->pack[pass].copy : w;
}

static size_t images_of(const kd__conv *v, int64_t s)
{
    return (size_t)(s == v->slices - 1 ? v->d.batch - s * v->slice : v->slice);
}

/* What the kernels read of n numbers of x or dy: made in the thread's staging memory, or x itself. */
static const void *operand(const kd__conv *v, size_t at, const float *x, size_t n)
{
    if (!v->d.operands) return x;
    kd__make_operand(kd__team_stage(v->team) + at, x, n, v->d.operands);
    return kd__team_stage(v->team) + at;
}

typedef struct forward_args {
    const kd__conv *v;
    const void *weights;
    const float *x, *bias;
    float *y;
} forward_args;

/* The images from `first` on of what the kernels read as x. */
static const float *input_of(const kd__conv *v, const float *x, size_t first, size_t images)
{
    if (!v->d.prev) return x + first * v->x_image;
    float *to = kd__team_stage(v->team);
    kd__bn_apply(v->d.prev, to, first * v->x_pixels, images * v->x_pixels);
    return to;
}

static void forward_slice(const forward_args *a, int64_t s)
{
    const kd__conv *v = a->v;
    const size_t image = (size_t)(s * v->slice), images = images_of(v, s);
    if (v->rows) {
        const kd__rows_call call = {.slice = (size_t)s,
                                    .first = image,
                                    .images = images,
                                    .x = a->x,
                                    .out = a->y,
                                    .w = a->weights,
                                    .bias = a->bias,
                                    .stage = kd__team_stage(v->team)};
        kd__rows_forward(v->rows, &call);
        return;
    }
    const void *x = operand(v, v->x_read_at, input_of(v, a->x, image, images), images * v->x_image);
    kd__prim_run(v->prim[KD__CONV_FORWARD][s == v->slices - 1], x, a->weights, a->bias,
                 a->y + image * v->y_image);
    if (v->d.next) kd__bn_moments(v->d.next, (size_t)s, image * v->y_pixels, images * v->y_pixels);
}

/* Slices belong to nobody in inference: a pass over data shares its CPUs with the threads that read and
 * write, and what one thread is late with, the others take. Training has static shares, which stay in their
 * caches. */
void kd__conv_forward(kd__conv *v, const float *x, const float *w, const float *bias, float *y)
{
    pack_weights(v, w);
    const forward_args a = {v, weights_of(v, KD__CONV_FORWARD, w), x, bias, y};
    if (v->d.training) {
#pragma omp for schedule(static)
        for (int64_t s = 0; s < v->slices; s++) forward_slice(&a, s);
    } else {
#pragma omp for schedule(dynamic)
        for (int64_t s = 0; s < v->slices; s++) forward_slice(&a, s);
    }
}

/* ---- backward ----------------------------------------------------------------------------- */

static void data_gradient(const kd__conv *v, const kd__prim *prim, const void *dy, const void *w, float *dx,
                          size_t images)
{
    float *to = stages_dx(v) ? kd__team_stage(v->team) + v->dx_at : dx;
    kd__prim_run(prim, dy, w, NULL, to);
    if (to != dx) kd__vec_get()->add_to(dx, to, images * v->x_image);
}

static void backward_rows(const kd__conv *v, const kd__conv_grads *g, int64_t s)
{
    float *share = g->shared + (size_t)s * v->share;
    const kd__rows_call call = {.slice = (size_t)s,
                                .first = (size_t)(s * v->slice),
                                .images = images_of(v, s),
                                .x = g->x,
                                .y = g->y,
                                .dy = g->dy,
                                .out = g->dx,
                                .w = weights_of(v, KD__CONV_DATA, g->w),
                                .dw = share,
                                .dbias = v->d.bias ? share + v->bias_at : NULL,
                                .stage = kd__team_stage(v->team)};
    kd__rows_backward(v->rows, &call);
}

static void backward_slice(const kd__conv *v, const kd__conv_grads *g, int64_t s)
{
    const kd__vec *vec = kd__vec_get();
    const int last = s == v->slices - 1;
    const size_t first = (size_t)(s * v->slice);
    const size_t images = images_of(v, s);
    float *dy = v->d.next ? kd__team_stage(v->team) + v->dy_at : g->dy + first * v->y_image;
    float *share = g->shared + (size_t)s * v->share;
    if (v->d.next) kd__bn_dx(v->d.next, dy, first * v->y_pixels, images * v->y_pixels);
    if (v->d.relu) vec->relu_mask(dy, dy, g->y + first * v->y_image, images * v->y_image);
    if (v->d.bias)
        vec->col_sum(share + v->bias_at, dy, images * v->y_image / (size_t)v->d.out, (size_t)v->d.out,
                     (size_t)v->d.out);
    const void *dy_read = operand(v, v->dy_read_at, dy, images * v->y_image);
    if (g->dx)
        data_gradient(v, v->prim[KD__CONV_DATA][last], dy_read, weights_of(v, KD__CONV_DATA, g->w),
                      g->dx + first * v->x_image, images);
    if (v->d.prev) kd__bn_sums(v->d.prev, (size_t)s, first * v->x_pixels, images * v->x_pixels);
    const float *x = input_of(v, g->x, first, images);
    const void *x_read = operand(v, v->x_read_at, x, images * v->x_image);
    const kd__prim *weights = v->prim[KD__CONV_WEIGHTS][last];
    if (v->pointwise)
        kd__prim_run(weights, dy_read, x_read, NULL, share);
    else
        kd__prim_run(weights, x_read, dy_read, NULL, share);
}

/* Adds up n numbers of all slices' shares, which start at `at`, pairwise: 0+1, 2+3, ..., then 0+2, ...;
 * the sum is left in the first share and returned. */
static const float *add_shares(const kd__conv *v, float *shared, size_t at, size_t n)
{
    for (int64_t step = 1; step < v->slices; step *= 2)
        for (int64_t i = 0; i + step < v->slices; i += 2 * step)
            kd__vec_get()->add_to(shared + (size_t)i * v->share + at,
                                  shared + (size_t)(i + step) * v->share + at, n);
    return shared + at;
}

static void reduce_block(const kd__conv *v, const kd__conv_grads *g, size_t block)
{
    const packing *p = &v->pack[KD__CONV_WEIGHTS];
    const size_t at = block * BLOCK, n = kd_min_size(BLOCK, p->n - at);
    const float *sum = add_shares(v, g->shared, at, n);
    if (!p->order) memcpy(g->dw + at, sum, n * sizeof *sum);
    for (size_t i = 0; p->order && i < n; i++)
        if (p->order[at + i]) g->dw[p->order[at + i] - 1] = sum[i];
}

void kd__conv_backward(kd__conv *v, const kd__conv_grads *g)
{
#pragma omp for schedule(static)
    for (int64_t s = 0; s < v->slices; s++) (v->rows_backward ? backward_rows : backward_slice)(v, g, s);
    const size_t blocks = blocks_of(v->pack[KD__CONV_WEIGHTS].n);
#pragma omp for schedule(static)
    for (size_t b = 0; b < blocks + v->d.bias; b++) {
        if (b < blocks)
            reduce_block(v, g, b);
        else
            memcpy(g->dbias, add_shares(v, g->shared, v->bias_at, (size_t)v->d.out),
                   (size_t)v->d.out * sizeof(float));
    }
}
