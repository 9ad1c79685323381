/* linear.c - y = x W^T + b over the last axis.
 *
 * All leading axes are rows: with B rows of `in` numbers the three products are
 *
 *     forward  y  (B, out)  = x  (B, in)   W^T (in, out)   + b, then ReLU when it was fused
 *     data     dx (B, in)   = dy (B, out)  W   (out, in)
 *     weights  dW (out, in) = dy^T (out, B) x  (B, in)
 *
 * W (out, in) is PyTorch's layout, so forward reads it transposed. Bias and ReLU happen in the
 * kernels while a tile is hot. Backward first zeroes dy where y is not positive (in place: nobody
 * reads it afterwards), then runs both products and the column sums of dy with one barrier at
 * the end.
 *
 * Products of a fixed number of rows are dense.c's where operands are f32 and the shape suits it, else the
 * library's (gemm.c): few rows, bf16 operands, widths that are no multiple of 16.
 *
 * Token models, whose rows are another number in each batch, have products of their own (panels.c), but on
 * CPUs with tiles for bf16; the weights are laid out anew in each pass, or once where they are fixed. Their
 * pieces run a GELU behind the layer in forward, one in front of it in backward (kd__state).
 *
 * For the library x and W are made operands of bf16 (precision.c) once for both passes, dy once for both of
 * its products; panels.c makes what it reads by itself.
 */
#include "nn_private.h"

#include <stdlib.h>
#include <string.h>

enum { WEIGHT, BIAS };

typedef struct linear {
    kd__gemm *forward, *data, *weights; /* backward's are NULL in inference, data also without dx */
    kd__operands operands;
    bool panels; /* products are those of panels.c */
    bool dense;  /* or those of dense.c */
    kd__dense d;
    float *fixed; /* weights in panels, or as bf16, where they are made once */
    bool ready;
    size_t w_at, dy_at; /* operands made of them, behind that of x in what is kept */
} linear;

static int64_t in_of(const kd__node_info *x) { return x->dims[x->ndims - 1]; }
static int64_t rows_of(const kd_exec *ex, const kd__node_info *n)
{
    return (int64_t)kd__node_rows(ex, n) * (int64_t)n->size / n->a.out;
}

kd_node kd_nn_linear(kd_graph *g, const char *name, kd_node x, int64_t out, bool bias)
{
    const kd__attrs a = {.out = out, .bias = bias};
    return kd__graph_add(g, &kd__op_linear, name, 1, &x, &a);
}

kd_node kd_nn_tied_linear(kd_graph *g, const char *name, kd_node x, kd_node embedding)
{
    const bool there = embedding >= 0 && embedding < g->nodes && g->node[embedding].op == &kd__op_embedding;
    const kd__attrs a = {.out = there ? g->node[embedding].a.dims[0] : 0, .tied = embedding + 1};
    return kd__graph_add(g, &kd__op_linear, name, 1, &x, &a);
}

/* The embedding's table becomes the weight. */
static kd_status tie(kd_graph *g, kd__node_info *n, const kd__node_info *x, kd_err *err)
{
    kd__node_info *e = &g->node[n->a.tied - 1];
    if ((size_t)in_of(x) != e->size)
        return kd_fail(err, KD_EUSAGE, "layer %s: %lld values a token, the table of %s is %zu wide", n->name,
                       (long long)in_of(x), e->name, e->size);
    e->a.tied = 1;
    n->param[n->nparam++] = e->param[0];
    return KD_OK;
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    const int64_t out = n->a.out;
    if (out < 1 || out > INT32_MAX)
        return kd_fail(err, KD_EUSAGE, "layer %s: %lld outputs; give a number from 1 to %d", n->name,
                       (long long)out, INT32_MAX);
    if (x->ndims < 1)
        return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has no axis to map", n->name, x->name);
    n->ndims = x->ndims;
    memcpy(n->dims, x->dims, sizeof n->dims);
    n->dims[n->ndims - 1] = out;
    if (n->a.tied) return tie(g, n, x, err);
    const int64_t w[] = {out, in_of(x)};
    kd_status st = kd__graph_param(g, n, "weight", 2, w, false, true, err);
    return st || !n->a.bias ? st : kd__graph_param(g, n, "bias", 1, w, false, false, err);
}

static bool adds(const kd__node_info *n) { return n->per == KD_PER_TOKEN && !n->a.bias; }

static double macs(const kd_graph *g, const kd__node_info *n)
{
    return (double)n->size * (double)in_of(kd__graph_in(g, n, 0));
}

static void release(kd__state *s)
{
    linear *l = s->own;
    if (!l) return;
    kd__gemm_free(l->forward);
    kd__gemm_free(l->data);
    kd__gemm_free(l->weights);
    free(l->fixed);
    free(l);
    s->own = NULL;
}

static kd_status plan_panels(kd_exec *ex, kd__state *s, size_t out, size_t in, kd_err *err)
{
    linear *l = s->own;
    const size_t floats = kd__panels_floats(l->operands, in, out),
                 rows = kd__node_rows_planned(ex, s->n) * (s->n->size / out),
                 x = kd__panels_rows_floats(l->operands, rows, in);
    const kd__panels_gradient g = {
        .rows = rows, .out = out, .in = in, .operands = l->operands, .bias = s->n->a.bias};
    s->shared_floats = x + floats;
    if (ex->p.training)
        s->shared_floats =
            kd_max_size(s->shared_floats, kd__panels_floats(l->operands, rows, in) +
                                              kd__panels_floats(l->operands, out, in) + kd__panels_stage(&g) +
                                              kd__panels_rows_floats(l->operands, rows, out));
    if (ex->p.training || !ex->p.fixed) return KD_OK;
    s->shared_floats = x;
    ex->extra_bytes += floats * sizeof(float);
    l->fixed = kd_alloc_aligned(floats, sizeof(float));
    return l->fixed ? KD_OK : kd_fail(err, KD_ENOMEM, "layer %s: no memory for its weights", s->n->name);
}

/* Room for weights as bf16, made once. */
static kd_status plan_fixed(kd_exec *ex, kd__state *s, size_t n, kd_err *err)
{
    linear *l = s->own;
    const size_t floats = kd__operand_floats(l->operands, n);
    if (ex->p.training || !ex->p.fixed) return KD_OK;
    ex->extra_bytes += floats * sizeof(float);
    l->fixed = kd_alloc_aligned(floats, sizeof(float));
    return l->fixed ? KD_OK : kd_fail(err, KD_ENOMEM, "layer %s: no memory for its weights", s->n->name);
}

/* Other products leave a GELU to itself. */
static void part_neighbours(kd__state *s)
{
    if (s->prev) s->prev->next = NULL;
    if (s->next) s->next->prev = NULL;
    s->prev = s->next = NULL;
}

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    if (ex->p.naive) return KD_OK;
    const kd__node_info *n = s->n;
    const int64_t out = n->a.out, in = in_of(kd__graph_in(ex->g, n, 0));
    const int64_t rows = (int64_t)kd__node_rows_planned(ex, n) * (int64_t)n->size / out;
    const bool packed = n->per != KD_PER_ROW;
    kd__team *team;
    kd_status st = kd__exec_team(&team, ex, err);
    if (st) return st;
    linear *l = s->own = calloc(1, sizeof *l);
    if (!l) return kd_fail(err, KD_ENOMEM, "layer %s: out of memory", n->name);
    const kd__operands operands = l->operands = kd__operands_of(ex, n);
    if ((l->panels = packed && operands != KD__TILES))
        return plan_panels(ex, s, (size_t)out, (size_t)in, err);
    part_neighbours(s);
    if (operands) {
        if ((st = plan_fixed(ex, s, (size_t)(out * in), err))) return st;
        l->w_at = kd__operand_floats(operands, (size_t)(rows * in));
        l->dy_at = l->w_at + (l->fixed ? 0 : kd__operand_floats(operands, (size_t)(out * in)));
        s->keep_floats = l->dy_at + kd__operand_floats(operands, (size_t)(rows * out));
    }
    l->d = (kd__dense){.rows = (size_t)rows, .in = (size_t)in, .out = (size_t)out};
    if ((l->dense = !operands && kd__dense_fit(&l->d))) return KD_OK;
    const kd__gemm_desc forward = {.m = rows,
                                   .n = out,
                                   .k = in,
                                   .lda = in,
                                   .ldb = in,
                                   .ldc = out,
                                   .tb = true,
                                   .bias = n->a.bias,
                                   .relu = n->a.relu,
                                   .operands = operands,
                                   .packed = packed};
    const kd__gemm_desc data = {.m = rows,
                                .n = in,
                                .k = out,
                                .lda = out,
                                .ldb = in,
                                .ldc = in,
                                .accumulate = s->add[0],
                                .operands = operands,
                                .packed = packed};
    const kd__gemm_desc weights = {.m = out,
                                   .n = in,
                                   .k = rows,
                                   .lda = out,
                                   .ldb = in,
                                   .ldc = in,
                                   .ta = true,
                                   .operands = operands,
                                   .packed = packed};
    st = kd__gemm_create(&l->forward, &forward, team, err);
    if (!st && ex->p.training) st = kd__gemm_create(&l->weights, &weights, team, err);
    if (!st && s->want_dx[0]) st = kd__gemm_create(&l->data, &data, team, err);
    return st ? kd_fail_in(err, st, "layer %s", n->name) : KD_OK;
}

/* What the products read of the n numbers at x: made at `to`, or x itself. By the team; a barrier follows. */
static const void *operand(const linear *l, float *to, const float *x, size_t n)
{
    if (!l->operands) return x;
    const size_t block = 4096;
#pragma omp for schedule(static) nowait
    for (size_t i = 0; i < n; i += block)
        kd__make_operand((char *)to + kd__operand_bytes(l->operands, i), x + i, kd_min_size(block, n - i),
                         l->operands);
    return to;
}

static void forward_panels(kd_exec *ex, kd__state *s)
{
    linear *l = s->own;
    const kd__node_info *n = s->n;
    const size_t out = (size_t)n->a.out, in = (size_t)in_of(kd__graph_in(ex->g, n, 0)),
                 rows = (size_t)rows_of(ex, n),
                 planned = kd__node_rows_planned(ex, n) * (n->size / out); // where a follower finds x
    float *panels = l->fixed ? l->fixed : s->shared + kd__panels_rows_floats(l->operands, planned, in);
    if (!l->ready) kd__panels_pack(panels, s->w[WEIGHT], in, out, true, l->operands);
    if (!s->follows) kd__panels_share_rows(s->shared, s->x[0], rows, in, l->operands);
    if (!l->ready || (l->operands && !s->follows)) {
#pragma omp barrier
    }
    const kd__panels_call call = {.soon = l->fixed ? (kd__soon){0} : s->soon,
                                  .a = l->operands ? s->shared : s->x[0],
                                  .b = panels,
                                  .bias = n->a.bias ? s->w[BIAS] : NULL,
                                  .c = s->y,
                                  .operands = l->operands,
                                  .m = rows,
                                  .n = out,
                                  .k = in,
                                  .relu = n->a.relu,
                                  .then = s->next ? kd__gelu_apply : NULL,
                                  .of = s->next};
    kd__panels_product(&call);
#pragma omp barrier
#pragma omp single nowait
    l->ready = l->fixed;
}

static const void *weights_of(const linear *l, const kd__state *s, size_t n)
{
    if (!l->fixed) return operand(l, s->keep + l->w_at, s->w[WEIGHT], n);
    return l->ready ? l->fixed : operand(l, l->fixed, s->w[WEIGHT], n);
}

static void forward(kd_exec *ex, kd__state *s)
{
    linear *l = s->own;
    const kd__node_info *n = s->n;
    if (l->panels) {
        forward_panels(ex, s);
        return;
    }
    const size_t rows = (size_t)rows_of(ex, n), in = (size_t)in_of(kd__graph_in(ex->g, n, 0));
    const kd__gemm_call call = {.g = l->forward,
                                .a = operand(l, s->keep, s->x[0], rows * in),
                                .b = weights_of(l, s, (size_t)n->a.out * in),
                                .bias = n->a.bias ? s->w[BIAS] : NULL,
                                .c = s->y,
                                .rows = rows};
    if (l->operands) {
#pragma omp barrier
    }
    if (l->dense)
        kd__dense_run_forward(
            &l->d,
            &(kd__dense_forward){.x = call.a, .w = call.b, .bias = call.bias, .y = s->y, .relu = n->a.relu});
    else
        kd__gemm_run(&call, 1);
    if (!l->fixed) return;
#pragma omp single nowait
    l->ready = true;
}

/* Column sums of dy (rows, out): a block of columns belongs to one thread, which adds row by row.
 * No barrier: the products that follow have one. */
static void bias_gradient(float *db, const float *dy, size_t rows, size_t out)
{
    const size_t block = 64;
#pragma omp for schedule(static) nowait
    for (size_t b = 0; b < out; b += block)
        kd__vec_get()->col_sum(db + b, dy + b, rows, kd_min_size(block, out - b), out);
}

/* Token models: dW adds up whole steps of rows, so those behind the active ones must be 0. */
static void clear_rest(const linear *l, const void *m, size_t rows, size_t width)
{
    const size_t row = kd__operand_bytes(l->operands, width);
    memset((char *)m + rows * row, 0, (KD__ROWS_STEP - rows % KD__ROWS_STEP) % KD__ROWS_STEP * row);
}

static void backward_panels(kd_exec *ex, kd__state *s)
{
    const linear *l = s->own;
    const size_t out = (size_t)s->n->a.out, in = (size_t)in_of(kd__graph_in(ex->g, s->n, 0)),
                 rows = (size_t)rows_of(ex, s->n);
    // behind x's panels, where the next one finds them
    float *w = s->shared + kd__panels_floats(l->operands, rows, in),
          *stage = w + kd__panels_floats(l->operands, out, in);
    const kd__panels_gradient weights = {.soon = s->soon_back,
                                         .dy = s->dy,
                                         .x = (float *)(uintptr_t)(s->prev ? s->prev->x[0] : s->x[0]),
                                         .make_x = s->prev ? kd__encoder_get()->gelu_and_slope : NULL,
                                         .dw = s->dw[WEIGHT],
                                         .panels = s->shared,
                                         .stage = stage,
                                         .operands = l->operands,
                                         .ready = s->follows_back,
                                         .rows = rows,
                                         .out = out,
                                         .in = in,
                                         .add = ex->add,
                                         .bias = s->n->a.bias,
                                         .dbias = s->dw[BIAS]};
    float *dy = stage + kd__panels_stage(&weights);
    const kd__panels_call data = {.a = l->operands ? dy : s->dy,
                                  .b = w,
                                  .c = s->dx[0],
                                  .operands = l->operands,
                                  .m = rows,
                                  .n = in,
                                  .k = out,
                                  .add = s->add[0],
                                  .then = s->prev ? kd__gelu_dx : NULL,
                                  .of = s->prev};
    if (s->dx[0]) {
        kd__panels_pack(w, s->w[WEIGHT], out, in, false, l->operands);
        kd__panels_share_rows(dy, s->dy, rows, out, l->operands);
    }
    kd__panels_gather(&weights);
#pragma omp barrier
    kd__panels_gradients(&weights);
    if (s->dx[0]) kd__panels_product(&data);
#pragma omp barrier
}

static void backward_dense(const kd__state *s)
{
    const linear *l = s->own;
    kd__dense_run_backward(&l->d, &(kd__dense_backward){.x = s->x[0],
                                                        .w = s->w[WEIGHT],
                                                        .y = s->n->a.relu ? s->y : NULL,
                                                        .dy = s->dy,
                                                        .dx = s->dx[0],
                                                        .dw = s->dw[WEIGHT],
                                                        .dbias = s->n->a.bias ? s->dw[BIAS] : NULL,
                                                        .add = s->add[0]});
}

static void backward(kd_exec *ex, kd__state *s)
{
    const linear *l = s->own;
    const int64_t out = s->n->a.out, rows = rows_of(ex, s->n);
    if (l->dense) {
        backward_dense(s);
        return;
    }
    if (s->n->a.relu) {
        const size_t total = (size_t)(rows * out), block = 4096;
#pragma omp for schedule(static)
        for (size_t i = 0; i < total; i += block)
            kd__vec_get()->relu_mask(s->dy + i, s->dy + i, s->y + i, kd_min_size(block, total - i));
    }
    if (l->panels) {
        backward_panels(ex, s);
        return;
    }
    if (s->n->a.bias) bias_gradient(s->dw[BIAS], s->dy, (size_t)rows, (size_t)out);
    const void *dy = operand(l, s->keep + l->dy_at, s->dy, (size_t)(rows * out));
    const void *x = l->operands ? s->keep : s->x[0], *w = l->operands ? s->keep + l->w_at : s->w[WEIGHT];
    if (s->n->per != KD_PER_ROW) {
#pragma omp single nowait
        {
            clear_rest(l, x, (size_t)rows, (size_t)in_of(kd__graph_in(ex->g, s->n, 0)));
            clear_rest(l, dy, (size_t)rows, (size_t)out);
        }
    }
    if (l->operands || s->n->per != KD_PER_ROW) {
#pragma omp barrier
    }
    const kd__gemm_call call[] = {{l->weights, dy, x, NULL, s->dw[WEIGHT], (size_t)rows},
                                  {l->data, dy, w, NULL, s->dx[0], (size_t)rows}};
    kd__gemm_run(call, s->dx[0] ? 2 : 1);
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

static void naive_forward(kd_exec *ex, kd__state *s)
{
    const kd__node_info *n = s->n;
    const int64_t rows = rows_of(ex, n), out = n->a.out, in = in_of(kd__graph_in(ex->g, n, 0));
    const kd__operands how = kd__operands_of(ex, n);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < out; o++) {
            double sum = n->a.bias ? (double)s->w[BIAS][o] : 0.0;
            for (int64_t i = 0; i < in; i++)
                sum += kd__naive_operand(s->x[0][r * in + i], how) *
                       kd__naive_operand(s->w[WEIGHT][o * in + i], how);
            s->y[r * out + o] = n->a.relu && sum < 0 ? 0.0f : (float)sum;
        }
}

static void naive_backward(kd_exec *ex, kd__state *s)
{
    const kd__node_info *n = s->n;
    const int64_t rows = rows_of(ex, n), out = n->a.out, in = in_of(kd__graph_in(ex->g, n, 0));
    const kd__operands how = kd__operands_of(ex, n);
    for (int64_t i = 0; n->a.relu && i < rows * out; i++) s->dy[i] = s->y[i] > 0 ? s->dy[i] : 0.0f;
    for (int64_t r = 0; s->dx[0] && r < rows; r++)
        for (int64_t i = 0; i < in; i++) {
            double sum = s->add[0] ? (double)s->dx[0][r * in + i] : 0.0;
            for (int64_t o = 0; o < out; o++)
                sum += kd__naive_operand(s->dy[r * out + o], how) *
                       kd__naive_operand(s->w[WEIGHT][o * in + i], how);
            s->dx[0][r * in + i] = (float)sum;
        }
    for (int64_t o = 0; o < out; o++) {
        double bias = 0;
        for (int64_t r = 0; r < rows; r++) bias += (double)s->dy[r * out + o];
        if (n->a.bias) s->dw[BIAS][o] = (float)bias;
        for (int64_t i = 0; i < in; i++) {
            double sum = 0;
            for (int64_t r = 0; r < rows; r++)
                sum +=
                    kd__naive_operand(s->dy[r * out + o], how) * kd__naive_operand(s->x[0][r * in + i], how);
            s->dw[WEIGHT][o * in + i] = (float)sum;
        }
    }
}

const kd__op kd__op_linear = {
    .name = "linear",
    .nin = 1,
    .shape = shape,
    .plan = plan,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .release = release,
    .macs = macs,
    .adds = adds,
    .packed = true,
    .backward_reads_x = true,
    .backward_reads_y = true,
    .fuses_relu = true,
};
