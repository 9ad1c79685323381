/* conv2d.c - two-dimensional convolution and its depthwise sister, on NHWC images.
 *
 *     y[b, i, j, o] = bias[o] + sum over c, u, v of x[b, i*stride + u - pad, j*stride + v - pad, c] * w[o, c,
 * u, v]
 *
 * with zeros outside the image; PyTorch's cross-correlation and its weight layout (out, c, k, k). The
 * depthwise form keeps channels apart: w is (c, 1, k, k) and o = c. Both share everything but the
 * number of groups; the work is conv.c's.
 */
#include "nn_private.h"

#include <math.h>
#include <stdlib.h>

enum { WEIGHT, BIAS };

static kd__conv_desc describe(const kd_graph *g, const kd__node_info *n)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    return (kd__conv_desc){
        .h = x->dims[0],
        .w = x->dims[1],
        .c = x->dims[2],
        .out_h = n->dims[0],
        .out_w = n->dims[1],
        .out = n->dims[2],
        .k = n->a.k,
        .stride = n->a.stride,
        .pad = n->a.pad,
        .groups = n->op == &kd__op_dwconv2d ? (int)x->dims[2] : 1,
        .bias = n->a.bias,
        .relu = n->a.relu,
    };
}

kd_node kd_nn_conv2d(kd_graph *g, const char *name, kd_node x, int64_t out, int k, int stride, int pad,
                     bool bias)
{
    const kd__attrs a = {.out = out, .k = k, .stride = stride, .pad = pad, .bias = bias};
    return kd__graph_add(g, &kd__op_conv2d, name, 1, &x, &a);
}

kd_node kd_nn_dwconv2d(kd_graph *g, const char *name, kd_node x, int k, int stride, int pad, bool bias)
{
    const kd__attrs a = {.k = k, .stride = stride, .pad = pad, .bias = bias};
    return kd__graph_add(g, &kd__op_dwconv2d, name, 1, &x, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    const bool depthwise = n->op == &kd__op_dwconv2d;
    const int k = n->a.k, stride = n->a.stride, pad = n->a.pad;
    if (x->ndims != 3)
        return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has %d axes; a convolution needs (H, W, C)",
                       n->name, x->name, x->ndims);
    const int64_t h = x->dims[0], w = x->dims[1], c = x->dims[2], out = depthwise ? c : n->a.out;
    if (out < 1 || out > 1 << 20 || k < 1 || k > 1024 || stride < 1 || pad < 0 || pad >= k)
        return kd_fail(err, KD_EUSAGE,
                       "layer %s: %lld outputs, window %d, stride %d, padding %d; outputs, window and stride "
                       "start at 1, padding is less than the window",
                       n->name, (long long)out, k, stride, pad);
    if (h + 2 * pad < k || w + 2 * pad < k)
        return kd_fail(err, KD_EUSAGE,
                       "layer %s: a window of %d does not fit an image of %lld x %lld padded by %d", n->name,
                       k, (long long)h, (long long)w, pad);
    n->ndims = 3;
    n->dims[0] = (h + 2 * pad - k) / stride + 1;
    n->dims[1] = (w + 2 * pad - k) / stride + 1;
    n->dims[2] = out;
    const int64_t weight[] = {out, depthwise ? 1 : c, k, k};
    kd_status st = kd__graph_param(g, n, "weight", 4, weight, false, true, err);
    return st || !n->a.bias ? st : kd__graph_param(g, n, "bias", 1, weight, false, false, err);
}

static double macs(const kd_graph *g, const kd__node_info *n)
{
    const kd__conv_desc d = describe(g, n);
    return (double)(d.out_h * d.out_w * d.out) * (double)(d.c / d.groups) * d.k * d.k;
}

static void release(kd__state *s)
{
    kd__conv_free(s->own);
    s->own = NULL;
}

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    if (ex->p.naive) return KD_OK;
    kd__conv_desc d = describe(ex->g, s->n);
    d.batch = ex->p.batch;
    d.training = ex->p.training;
    d.need_dx = s->want_dx[0];
    d.accumulate_dx = s->add[0];
    d.prev = s->prev;
    d.next = s->next;
    d.operands = kd__operands_of(ex, s->n);
    kd__team *team;
    kd__conv *conv = NULL;
    kd_status st = kd__exec_team(&team, ex, err);
    if (!st) st = kd__conv_create(&conv, &d, team, err);
    if (st) return kd_fail_in(err, st, "layer %s", s->n->name);
    s->own = conv;
    s->shared_floats = kd__conv_shared_floats(conv);
    ex->extra_bytes += kd__conv_bytes(conv);
    return KD_OK;
}

static void forward(kd_exec *ex, kd__state *s)
{
    (void)ex;
    kd__conv_forward(s->own, s->x[0], s->w[WEIGHT], s->n->a.bias ? s->w[BIAS] : NULL, s->y);
}

static void backward(kd_exec *ex, kd__state *s)
{
    (void)ex;
    const kd__conv_grads g = {
        .x = s->x[0],
        .w = s->w[WEIGHT],
        .y = s->y,
        .dy = s->dy,
        .dx = s->dx[0],
        .dw = s->dw[WEIGHT],
        .dbias = s->n->a.bias ? s->dw[BIAS] : NULL,
        .shared = s->shared,
    };
    kd__conv_backward(s->own, &g);
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

/* One number of the output meets one number of the input through one weight. */
typedef struct pair {
    size_t x, w; /* where */
} pair;

/* For output pixel (b, i, j), channel o, the n-th number of its window; false outside the image. */
static bool window(const kd__conv_desc *d, int64_t b, int64_t i, int64_t j, int64_t o, int64_t n, pair *p)
{
    const int64_t cs = d->c / d->groups, k = d->k;
    const int64_t c = n / (k * k), u = n / k % k, v = n % k;
    const int64_t row = i * d->stride + u - d->pad, col = j * d->stride + v - d->pad;
    if (row < 0 || row >= d->h || col < 0 || col >= d->w) return false;
    p->x = (size_t)(((b * d->h + row) * d->w + col) * d->c + (d->groups > 1 ? o : c));
    p->w = (size_t)(o * cs * k * k + n);
    return true;
}

static void naive_forward(kd_exec *ex, kd__state *s)
{
    kd__conv_desc d = describe(ex->g, s->n);
    d.operands = kd__operands_of(ex, s->n);
    const int64_t taps = d.c / d.groups * d.k * d.k;
    pair p;
    size_t at = 0;
    for (int64_t b = 0; b < ex->p.batch; b++)
        for (int64_t i = 0; i < d.out_h; i++)
            for (int64_t j = 0; j < d.out_w; j++)
                for (int64_t o = 0; o < d.out; o++) {
                    double sum = d.bias ? (double)s->w[BIAS][o] : 0.0;
                    for (int64_t n = 0; n < taps; n++)
                        if (window(&d, b, i, j, o, n, &p))
                            sum += kd__naive_operand(s->x[0][p.x], d.operands) *
                                   kd__naive_operand(s->w[WEIGHT][p.w], d.operands);
                    s->y[at++] = d.relu && sum < 0 ? 0.0f : (float)sum;
                }
}

/* Every pair sends its product both ways, into sums in double: gx (B, H, W, C), gw, gb. */
static void naive_scatter(const kd_exec *ex, const kd__state *s, const kd__conv_desc *d, double *gx,
                          double *gw, double *gb)
{
    const int64_t taps = d->c / d->groups * d->k * d->k;
    pair p;
    size_t at = 0;
    for (int64_t b = 0; b < ex->p.batch; b++)
        for (int64_t i = 0; i < d->out_h; i++)
            for (int64_t j = 0; j < d->out_w; j++)
                for (int64_t o = 0; o < d->out; o++, at++) {
                    const double dy = d->relu && !(s->y[at] > 0) ? 0.0 : (double)s->dy[at];
                    const double operand = kd__naive_operand((float)dy, d->operands);
                    gb[o] += dy;
                    for (int64_t n = 0; n < taps; n++)
                        if (window(d, b, i, j, o, n, &p)) {
                            gx[p.x] += operand * kd__naive_operand(s->w[WEIGHT][p.w], d->operands);
                            gw[p.w] += operand * kd__naive_operand(s->x[0][p.x], d->operands);
                        }
                }
}

/* Without memory for its sums the twin answers NaN: it has no other way to fail. */
static void naive_backward(kd_exec *ex, kd__state *s)
{
    kd__conv_desc d = describe(ex->g, s->n);
    d.operands = kd__operands_of(ex, s->n);
    const size_t xs = (size_t)(ex->p.batch * d.h * d.w * d.c),
                 ws = (size_t)(d.out * d.c / d.groups * d.k * d.k);
    double *sums = calloc(xs + ws + (size_t)d.out, sizeof *sums);
    double *gx = sums, *gw = sums ? sums + xs : NULL, *gb = sums ? gw + ws : NULL;
    if (sums) naive_scatter(ex, s, &d, gx, gw, gb);
    for (size_t i = 0; s->dx[0] && i < xs; i++)
        s->dx[0][i] = sums ? (float)(gx[i] + (s->add[0] ? (double)s->dx[0][i] : 0.0)) : NAN;
    for (size_t i = 0; i < ws; i++) s->dw[WEIGHT][i] = sums ? (float)gw[i] : NAN;
    for (int64_t o = 0; s->n->a.bias && o < d.out; o++) s->dw[BIAS][o] = sums ? (float)gb[o] : NAN;
    free(sums);
}

const kd__op kd__op_conv2d = {
    .name = "conv2d",
    .nin = 1,
    .shape = shape,
    .plan = plan,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .release = release,
    .macs = macs,
    .backward_reads_x = true,
    .backward_reads_y = true,
    .fuses_relu = true,
};

const kd__op kd__op_dwconv2d = {
    .name = "dwconv2d",
    .nin = 1,
    .shape = shape,
    .plan = plan,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .release = release,
    .macs = macs,
    .backward_reads_x = true,
    .backward_reads_y = true,
    .fuses_relu = true,
};
