/* promise.c - what it costs that the bits are the same for any number of threads.
 *
 * The promise touches whatever adds numbers up: matrix products, convolutions, the statistics of batch norm,
 * the norm of a gradient. For every such piece of one model's training step two ways are measured in turns:
 *
 *     fixed   kd's: a grid that follows from the shape, each piece on one thread, sums in a fixed tree
 *     free    the whole product or convolution given to oneDNN with all threads, which cuts it by their
 * number as it likes and may add across them; sums cut into one part a thread
 *
 * Both compute the same numbers and open one parallel region a call (in training kd opens one a step, which
 * only kd's own cutting makes possible; that gain is not counted). Convolutions and most products have the
 * library's kernels on both sides (where training has kernels of its own for a convolution, the library's
 * stand in: they are not what is measured); linear layers on batches of fixed size are those that train,
 * dense.c, beside the library's products. On the fixed side a convolution also packs its weights, which the
 * free side is given packed.
 * What is elementwise has no order and is left out, so the cost is that of the pieces concerned, and a whole
 * step's is smaller.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/nn/nn_private.h"
#include "bench.h"
#include "kd/model.h"

#define ROUNDS        41
#define ROUND_SECONDS 0.01
#define MODELS_LIMIT  (1u << 20)
enum { MAX_PIECES = 64 };
enum { FIXED, FREE };

typedef struct piece {
    char name[80];
    /* One call, from serial code; which: FIXED or FREE. */
    void (*call)(const struct piece *p, int which);
    int threads;
    kd__gemm *gemm;
    kd__gemm_call product;
    kd__dense dense;
    kd__dense_forward forward;
    kd__dense_backward backward;
    kd__conv *conv;
    kd__conv_grads grads;
    kd__prim *prim[2]; /* of the free side: the product; forward; to weights and data */
    float *packed, *dpacked, *y;
    size_t rows, c, slices; /* of batch norm; rows floats of a gradient */
    float *sums;
    double *partial;
} piece;

typedef struct bench {
    kd_arena memory;
    kd__team *team, *free_team; /* the latter of one lane, whose kernels use all threads */
    int threads;
    int64_t batch;
    piece piece[MAX_PIECES];
    int pieces;
} bench;

static float *numbers(bench *b, size_t n)
{
    float *x = kd_arena_alloc(&b->memory, n + 1, sizeof *x);
    for (size_t i = 0; x && i < n; i++) x[i] = (float)(i * 7919 % 1000) / 1000 - 0.5f;
    return x;
}

static piece *add_piece(bench *b, const char *what, const char *node)
{
    if (b->pieces == MAX_PIECES) return NULL;
    piece *p = &b->piece[b->pieces++];
    p->threads = b->threads;
    snprintf(p->name, sizeof p->name, "%.50s %s", node, what);
    return p;
}

static kd_status no_memory(kd_err *err) { return kd_fail(err, KD_ENOMEM, "out of memory for operands"); }

/* ---- matrix products ---------------------------------------------------------------------- */

static void call_product(const piece *p, int which)
{
    const kd__gemm_call *c = &p->product;
    if (which == FREE) {
        kd__prim_run(p->prim[0], c->a, c->b, c->bias, c->c);
        return;
    }
#pragma omp parallel num_threads(p->threads)
    kd__gemm_run(c, 1);
}

static kd_status add_product(bench *b, const char *what, const char *node, const kd__gemm_desc *d,
                             kd_err *err)
{
    piece *p = add_piece(b, what, node);
    if (!p) return kd_fail(err, KD_ELIMIT, "a model of more than %d pieces", MAX_PIECES);
    p->call = call_product;
    kd_status st = kd__gemm_create(&p->gemm, d, b->team, err);
    if (!st) st = kd__prim_matmul(&p->prim[0], d, b->free_team, err);
    p->product = (kd__gemm_call){p->gemm,
                                 numbers(b, (size_t)(d->m * d->k)),
                                 numbers(b, (size_t)(d->k * d->n)),
                                 d->bias ? numbers(b, (size_t)d->n) : NULL,
                                 numbers(b, (size_t)(d->m * d->n)),
                                 0};
    const kd__gemm_call *c = &p->product;
    return st || (c->a && c->b && c->c && (c->bias || !d->bias)) ? st : no_memory(err);
}

static void call_dense_forward(const piece *p, int which)
{
    const kd__dense_forward *f = &p->forward;
    if (which == FREE) {
        kd__prim_run(p->prim[0], f->x, f->w, f->bias, f->y);
        return;
    }
#pragma omp parallel num_threads(p->threads)
    kd__dense_run_forward(&p->dense, f);
}

static void call_dense_backward(const piece *p, int which)
{
    const kd__dense_backward *g = &p->backward;
    if (which == FREE) {
        kd__prim_run(p->prim[0], g->dy, g->x, NULL, g->dw);
        if (p->prim[1]) kd__prim_run(p->prim[1], g->dy, g->w, NULL, g->dx);
        return;
    }
#pragma omp parallel num_threads(p->threads)
    kd__dense_run_backward(&p->dense, g);
}

/* The products of linear.c where they are those of dense.c; the library's by the same shapes beside them. */
static kd_status add_dense(bench *b, const char *node, const kd__dense *d, const kd__gemm_desc *forward,
                           const kd__gemm_desc *weights, const kd__gemm_desc *data, kd_err *err)
{
    piece *f = add_piece(b, "forward", node), *g = add_piece(b, "backward", node);
    if (!f || !g) return kd_fail(err, KD_ELIMIT, "a model of more than %d pieces", MAX_PIECES);
    f->call = call_dense_forward, g->call = call_dense_backward;
    f->dense = g->dense = *d;
    kd_status st = kd__prim_matmul(&f->prim[0], forward, b->free_team, err);
    if (!st) st = kd__prim_matmul(&g->prim[0], weights, b->free_team, err);
    if (!st && data) st = kd__prim_matmul(&g->prim[1], data, b->free_team, err);
    float *x = numbers(b, d->rows * d->in), *w = numbers(b, d->out * d->in),
          *y = numbers(b, d->rows * d->out), *bias = numbers(b, d->out), *dw = numbers(b, d->out * d->in),
          *dx = data ? numbers(b, d->rows * d->in) : NULL;
    f->forward = (kd__dense_forward){
        .x = x, .w = w, .bias = forward->bias ? bias : NULL, .y = y, .relu = forward->relu};
    g->backward = (kd__dense_backward){.x = x, .w = w, .dy = y, .dw = dw, .dx = dx};
    return st || (x && w && y && bias && dw && (dx || !data)) ? st : no_memory(err);
}

/* The three products of linear.c. */
static kd_status add_linear(bench *b, const kd__node_info *n, const kd__node_info *x, bool first, kd_err *err)
{
    const int64_t in = x->dims[x->ndims - 1], out = n->a.out, rows = b->batch * (int64_t)n->size / out;
    const kd__gemm_desc forward = {.m = rows,
                                   .n = out,
                                   .k = in,
                                   .lda = in,
                                   .ldb = in,
                                   .ldc = out,
                                   .tb = true,
                                   .bias = n->a.bias,
                                   .relu = n->a.relu};
    const kd__gemm_desc data = {.m = rows, .n = in, .k = out, .lda = out, .ldb = in, .ldc = in};
    const kd__gemm_desc weights = {
        .m = out, .n = in, .k = rows, .lda = out, .ldb = in, .ldc = in, .ta = true};
    const kd__dense d = {.rows = (size_t)rows, .in = (size_t)in, .out = (size_t)out};
    if (kd__dense_fit(&d)) return add_dense(b, n->name, &d, &forward, &weights, first ? NULL : &data, err);
    kd_status st = add_product(b, "forward", n->name, &forward, err);
    if (!st) st = add_product(b, "to weights", n->name, &weights, err);
    return st || first ? st : add_product(b, "to data", n->name, &data, err);
}

/* ---- convolutions ------------------------------------------------------------------------- */

static void call_forward(const piece *p, int which)
{
    if (which == FREE) {
        kd__prim_run(p->prim[0], p->grads.x, p->packed, NULL, p->y);
        return;
    }
#pragma omp parallel num_threads(p->threads)
    kd__conv_forward(p->conv, p->grads.x, p->grads.w, NULL, p->y);
}

static void call_backward(const piece *p, int which)
{
    if (which == FREE) {
        kd__prim_run(p->prim[0], p->grads.x, p->grads.dy, NULL, p->dpacked);
        if (p->prim[1]) kd__prim_run(p->prim[1], p->grads.dy, p->packed, NULL, p->grads.dx);
        return;
    }
#pragma omp parallel num_threads(p->threads)
    kd__conv_backward(p->conv, &p->grads);
}

/* A kernel of all threads, and weights in its order. */
static kd_status free_conv(bench *b, kd__prim **out, float **packed, kd__conv_pass pass,
                           const kd__conv_desc *d, kd_err *err)
{
    uint32_t *order = NULL;
    size_t n = 0;
    kd_status st = kd__prim_conv(out, pass, d, d->batch, NULL, b->free_team, err);
    if (!st) st = kd__prim_weight_order(*out, &order, &n, err);
    free(order);
    if (st) return st;
    return (*packed = numbers(b, n)) ? KD_OK : no_memory(err);
}

static kd_status add_conv(bench *b, const kd__node_info *n, const kd__node_info *x, bool first, kd_err *err)
{
    const bool depthwise = n->op == &kd__op_dwconv2d;
    const kd__conv_desc d = {.batch = b->batch,
                             .h = x->dims[0],
                             .w = x->dims[1],
                             .c = x->dims[2],
                             .out_h = n->dims[0],
                             .out_w = n->dims[1],
                             .out = n->dims[2],
                             .k = n->a.k,
                             .stride = n->a.stride,
                             .pad = n->a.pad,
                             .groups = depthwise ? (int)x->dims[2] : 1,
                             .training = true,
                             .need_dx = !first,
                             .library = true};
    piece *f = add_piece(b, "forward", n->name), *g = add_piece(b, "backward", n->name);
    if (!f || !g) return kd_fail(err, KD_ELIMIT, "a model of more than %d pieces", MAX_PIECES);
    const size_t xs = (size_t)b->batch * x->size, ys = (size_t)b->batch * n->size,
                 ws = (size_t)(d.out * d.c / d.groups * d.k * d.k);
    f->call = call_forward, g->call = call_backward;
    kd_status st = kd__conv_create(&f->conv, &d, b->team, err);
    if (!st) st = free_conv(b, &f->prim[0], &f->packed, KD__CONV_FORWARD, &d, err);
    if (!st) st = free_conv(b, &g->prim[0], &g->dpacked, KD__CONV_WEIGHTS, &d, err);
    if (!st && !first) st = free_conv(b, &g->prim[1], &g->packed, KD__CONV_DATA, &d, err);
    if (st) return st;
    f->y = numbers(b, ys);
    f->grads = (kd__conv_grads){.x = numbers(b, xs),
                                .w = numbers(b, ws),
                                .dy = numbers(b, ys),
                                .dx = first ? NULL : numbers(b, xs),
                                .dw = numbers(b, ws),
                                .shared = numbers(b, kd__conv_shared_floats(f->conv))};
    g->grads = f->grads;
    g->conv = f->conv;
    const kd__conv_grads *k = &g->grads;
    if (!f->y || !k->x || !k->w || !k->dy || !k->dw || !k->shared || !(first || k->dx)) return no_memory(err);
    call_forward(f, FIXED); // backward uses the weights as forward packed them
    return KD_OK;
}

/* ---- sums --------------------------------------------------------------------------------- */

/* Batch norm's passes that add: moments, and the two sums of backward. Slices as in batchnorm.c, or one a
 * thread. */
static void call_norm(const piece *p, int which)
{
    const kd__vec *vec = kd__vec_get();
    const size_t slices = which == FREE ? (size_t)p->threads : p->slices, c = p->c;
    float *s1 = p->sums, *s2 = s1 + slices * c;
    const kd__bn_factors f = {.mean = p->y};
#pragma omp parallel num_threads(p->threads)
    for (int pass = 0; pass < 2; pass++) {
#pragma omp for schedule(static)
        for (size_t t = 0; t < slices; t++) {
            const size_t at = p->rows * t / slices, rows = p->rows * (t + 1) / slices - at;
            if (pass)
                vec->bn_grad_sums(s1 + t * c, s2 + t * c, p->grads.dy + at * c, p->grads.x + at * c, rows, c,
                                  &f);
            else
                vec->moments(s1 + t * c, s2 + t * c, p->grads.x + at * c, rows, c);
        }
#pragma omp for schedule(static)
        for (size_t i = 0; i < c; i++) {
            double a = 0, b = 0;
            for (size_t t = 0; t < slices; t++) a += (double)s1[t * c + i], b += (double)s2[t * c + i];
            p->grads.dw[i] = (float)(a + b);
        }
    }
}

static kd_status add_norm(bench *b, const kd__node_info *n, kd_err *err)
{
    piece *p = add_piece(b, "sums", n->name);
    if (!p) return kd_fail(err, KD_ELIMIT, "a model of more than %d pieces", MAX_PIECES);
    const size_t all = (size_t)b->batch * n->size;
    p->call = call_norm;
    p->c = (size_t)n->dims[n->ndims - 1];
    p->rows = all / p->c;
    p->slices = 1;
    while (p->slices < 64 && p->slices * 2 <= p->rows && p->slices * 2 << 14 <= all) p->slices *= 2;
    p->y = numbers(b, p->c);
    p->sums = numbers(b, 2 * kd_max_size(p->slices, (size_t)b->threads) * p->c);
    p->grads = (kd__conv_grads){.x = numbers(b, all), .dy = numbers(b, all), .dw = numbers(b, p->c)};
    return p->y && p->sums && p->grads.x && p->grads.dy && p->grads.dw ? KD_OK : no_memory(err);
}

static void call_gradient(const piece *p, int which)
{
    double sum = 0;
    if (which == FREE) {
        const float *x = p->grads.x;
        const size_t n = p->rows;
#pragma omp parallel for simd reduction(+ : sum) num_threads(p->threads) schedule(static)
        for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    } else {
#pragma omp parallel num_threads(p->threads)
        {
            const double all = kd_nn_sumsq(p->grads.x, p->rows, p->partial);
#pragma omp master
            sum = all;
        }
    }
    p->partial[0] = sum;
}

static kd_status add_gradient(bench *b, size_t n, kd_err *err)
{
    piece *p = add_piece(b, "norm", "gradient");
    if (!p) return kd_fail(err, KD_ELIMIT, "a model of more than %d pieces", MAX_PIECES);
    p->call = call_gradient;
    p->rows = n;
    p->grads.x = numbers(b, n);
    p->partial = kd_arena_alloc(&b->memory, kd_nn_blocks(n) + 1, sizeof *p->partial);
    return p->grads.x && p->partial ? KD_OK : no_memory(err);
}

/* ---- a model ------------------------------------------------------------------------------ */

static kd_status add_all(bench *b, const kd_graph *g, kd_err *err)
{
    kd_status st = add_gradient(b, g->slab_floats, err);
    bool first = true; // the first layer with weights wants no gradient of its input
    for (kd_node i = 0; i < g->nodes && !st; i++) {
        const kd__node_info *n = &g->node[i], *x = n->nin ? kd__graph_in(g, n, 0) : NULL;
        const bool weights = n->op == &kd__op_linear || n->op == &kd__op_conv2d || n->op == &kd__op_dwconv2d;
        if (n->op == &kd__op_batchnorm) st = add_norm(b, n, err);
        if (weights) st = (n->op == &kd__op_linear ? add_linear : add_conv)(b, n, x, first, err);
        first &= !weights;
    }
    return st;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of a call either way, in turns of equal numbers of calls, the first one changing. */
static void measure(const piece *p, double seconds[2])
{
    double taken[2][ROUNDS];
    long calls = 1;
    for (int r = -2; r < ROUNDS; r++) {
        for (int turn = 0; turn < 2; turn++) {
            const int way = (r ^ turn) & 1;
            const double start = kd_now();
            for (long i = 0; i < calls; i++) p->call(p, FIXED + way);
            const double each = (kd_now() - start) / (double)calls;
            if (r >= 0) taken[way][r] = each;
            if (r < 0 && calls < (long)(ROUND_SECONDS / each)) calls = (long)(ROUND_SECONDS / each);
        }
    }
    for (int way = 0; way < 2; way++) {
        qsort(taken[way], ROUNDS, sizeof(double), by_size);
        seconds[way] = taken[way][ROUNDS / 2];
    }
}

static void release(bench *b)
{
    for (int i = 0; i < b->pieces; i++) {
        piece *p = &b->piece[i];
        kd__gemm_free(p->gemm);
        if (p->call == call_forward) kd__conv_free(p->conv);
        kd__prim_free(p->prim[0]);
        kd__prim_free(p->prim[1]);
    }
    kd__team_free(b->team);
    kd__team_free(b->free_team);
    kd_arena_release(&b->memory);
    free(b);
}

static void report(const bench *b, const char *model)
{
    json_t *pieces = json_array();
    double sum[2] = {0};
    for (int i = 0; i < b->pieces; i++) {
        double s[2];
        measure(&b->piece[i], s);
        sum[0] += s[0], sum[1] += s[1];
        json_array_append_new(pieces, json_pack("{s:s, s:f, s:f}", "piece", b->piece[i].name, "fixed_us",
                                                s[0] * 1e6, "free_us", s[1] * 1e6));
    }
    bench_print(json_pack("{s:s, s:I, s:i, s:f, s:f, s:f, s:o}", "model", model, "batch",
                          (json_int_t)b->batch, "threads", b->threads, "fixed_us", sum[0] * 1e6, "free_us",
                          sum[1] * 1e6, "cost", sum[0] / sum[1] - 1, "pieces", pieces));
}

kd_status bench_promise(const char *models, const char *model, int64_t batch, int threads, kd_err *err)
{
    json_t *all = NULL;
    kd_model *m = NULL;
    bench *b = calloc(1, sizeof *b);
    if (!b) return no_memory(err);
    b->batch = batch;
    b->threads = threads;
    kd_status st = kd_json_load(models, MODELS_LIMIT, &all, err);
    if (!st && !json_object_get(all, model))
        st = kd_fail(err, KD_ENOTFOUND, "%s: no model %s", models, model);
    if (!st) st = kd_model_create(&m, model, json_object_get(all, model), models, err);
    if (!st) st = kd__team_create(&b->team, threads, err);
    if (!st) st = kd__team_create(&b->free_team, 1, err);
    if (!st) {
        kd__team_let(b->free_team, threads);
        st = add_all(b, m->graph, err);
    }
    if (!st) report(b, model);
    release(b);
    kd_model_free(m);
    json_decref(all);
    return st;
}
