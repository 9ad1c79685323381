/* pool.c - max, average and global average pooling of NHWC images.
 *
 * Each image is pooled by one thread, window by window, vectorised over channels. Max pooling keeps one byte an
 * output number: which place of the window won (the first on a tie, as PyTorch). Windows that stick
 * out of the image are left out, as PyTorch does without padding. */
#include "nn_private.h"

#include <string.h>

enum { MAX_TAPS = 256 };

typedef struct window_grid {
    size_t h, w, c, out_h, out_w, k, stride;
    size_t tap[MAX_TAPS]; /* of a window, from its first pixel, in floats */
    size_t taps;
} window_grid;

static void geometry(const kd_exec *ex, const kd__state *s, window_grid *g)
{
    const kd__node_info *x = kd__graph_in(ex->g, s->n, 0);
    g->h = (size_t)x->dims[0], g->w = (size_t)x->dims[1], g->c = (size_t)x->dims[2];
    g->out_h = (size_t)s->n->dims[0], g->out_w = (size_t)s->n->dims[1];
    g->k = (size_t)s->n->a.k, g->stride = (size_t)s->n->a.stride;
    g->taps = g->k * g->k;
    for (size_t t = 0; t < g->taps; t++) g->tap[t] = (t / g->k * g->w + t % g->k) * g->c;
}

static kd_node add_pool(kd_graph *g, const kd__op *op, const char *name, kd_node x, int k, int stride)
{
    const kd__attrs a = {.k = k, .stride = stride};
    return kd__graph_add(g, op, name, 1, &x, &a);
}

kd_node kd_nn_maxpool(kd_graph *g, const char *name, kd_node x, int k, int stride)
{
    return add_pool(g, &kd__op_maxpool, name, x, k, stride);
}

kd_node kd_nn_avgpool(kd_graph *g, const char *name, kd_node x, int k, int stride)
{
    return add_pool(g, &kd__op_avgpool, name, x, k, stride);
}

static kd_status check_image(const kd__node_info *x, const kd__node_info *n, kd_err *err)
{
    if (x->ndims == 3) return KD_OK;
    return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has %d axes; pooling needs (H, W, C)", n->name, x->name,
                   x->ndims);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    kd_status st = check_image(x, n, err);
    if (st) return st;
    const int k = n->a.k, stride = n->a.stride;
    if (k < 1 || stride < 1 || k * k > MAX_TAPS || k > x->dims[0] || k > x->dims[1])
        return kd_fail(err, KD_EUSAGE, "layer %s: a window of %d, stride %d, does not fit an image of %lld x %lld", n->name,
                       k, stride, (long long)x->dims[0], (long long)x->dims[1]);
    n->ndims = 3;
    n->dims[0] = (x->dims[0] - k) / stride + 1;
    n->dims[1] = (x->dims[1] - k) / stride + 1;
    n->dims[2] = x->dims[2];
    return KD_OK;
}

static kd_status max_plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    (void)err;
    s->keep_floats = ((size_t)ex->p.batch * s->n->size + 3) / 4; /* a byte each */
    return KD_OK;
}

/* First float of output window o of image b, in x. */
static size_t corner(const window_grid *g, size_t b, size_t o)
{
    return ((b * g->h + o / g->out_w * g->stride) * g->w + o % g->out_w * g->stride) * g->c;
}

static void max_forward(kd_exec *ex, kd__state *s)
{
    window_grid g;
    geometry(ex, s, &g);
    const size_t windows = g.out_h * g.out_w;
    uint8_t *which = (uint8_t *)s->keep;
#pragma omp for schedule(static)
    for (size_t b = 0; b < (size_t)ex->p.batch; b++)
        for (size_t o = 0; o < windows; o++) {
            const size_t at = (b * windows + o) * g.c;
            kd__vec_get()->max_window(s->y + at, which + at, s->x[0] + corner(&g, b, o), g.tap, g.taps, g.c);
        }
}

static void max_backward(kd_exec *ex, kd__state *s)
{
    window_grid g;
    geometry(ex, s, &g);
    const size_t windows = g.out_h * g.out_w, image = g.h * g.w * g.c;
    const uint8_t *which = (const uint8_t *)s->keep;
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t b = 0; b < (size_t)ex->p.batch; b++) {
        if (!s->add[0]) memset(s->dx[0] + b * image, 0, image * sizeof(float));
        for (size_t o = 0; o < windows; o++) {
            const size_t at = (b * windows + o) * g.c;
            kd__vec_get()->max_window_back(s->dx[0] + corner(&g, b, o), which + at, s->dy + at, g.tap, g.taps, g.c);
        }
    }
}

static void avg_forward(kd_exec *ex, kd__state *s)
{
    window_grid g;
    geometry(ex, s, &g);
    const size_t windows = g.out_h * g.out_w;
#pragma omp for schedule(static)
    for (size_t b = 0; b < (size_t)ex->p.batch; b++)
        for (size_t o = 0; o < windows; o++) {
            float *y = s->y + (b * windows + o) * g.c;
            memset(y, 0, g.c * sizeof *y);
            for (size_t t = 0; t < g.taps; t++)
                kd__vec_get()->axpy(y, s->x[0] + corner(&g, b, o) + g.tap[t], 1 / (float)g.taps, g.c);
        }
}

static void avg_backward(kd_exec *ex, kd__state *s)
{
    window_grid g;
    geometry(ex, s, &g);
    const size_t windows = g.out_h * g.out_w, image = g.h * g.w * g.c;
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t b = 0; b < (size_t)ex->p.batch; b++) {
        if (!s->add[0]) memset(s->dx[0] + b * image, 0, image * sizeof(float));
        for (size_t o = 0; o < windows; o++)
            for (size_t t = 0; t < g.taps; t++)
                kd__vec_get()->axpy(s->dx[0] + corner(&g, b, o) + g.tap[t], s->dy + (b * windows + o) * g.c,
                                    1 / (float)g.taps, g.c);
    }
}

/* ---- global average: (H, W, C) -> (C) ------------------------------------------------------- */

kd_node kd_nn_global_avgpool(kd_graph *g, const char *name, kd_node x)
{
    const kd__attrs a = {0};
    return kd__graph_add(g, &kd__op_global_avgpool, name, 1, &x, &a);
}

static kd_status global_shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    n->ndims = 1;
    n->dims[0] = x->ndims == 3 ? x->dims[2] : 1;
    return check_image(x, n, err);
}

static size_t pixels(const kd_exec *ex, const kd__state *s) { return kd__graph_in(ex->g, s->n, 0)->size / s->n->size; }

static void global_forward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size, p = pixels(ex, s);
#pragma omp for schedule(static)
    for (size_t b = 0; b < (size_t)ex->p.batch; b++) {
        kd__vec_get()->col_sum(s->y + b * c, s->x[0] + b * p * c, p, c, c);
        for (size_t i = 0; i < c; i++) s->y[b * c + i] /= (float)p;
    }
}

static void global_backward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size, p = pixels(ex, s);
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t b = 0; b < (size_t)ex->p.batch; b++) {
        float *dx = s->dx[0] + b * p * c;
        if (!s->add[0]) memset(dx, 0, p * c * sizeof *dx);
        for (size_t j = 0; j < p; j++) kd__vec_get()->axpy(dx + j * c, s->dy + b * c, 1 / (float)p, c);
    }
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

/* Calls of one output number: where its window's numbers are. */
static size_t naive_tap(const window_grid *g, size_t out, size_t t)
{
    const size_t i = out % g->c, o = out / g->c % (g->out_h * g->out_w), b = out / g->c / (g->out_h * g->out_w);
    const size_t row = o / g->out_w * g->stride + t / g->k, col = o % g->out_w * g->stride + t % g->k;
    return ((b * g->h + row) * g->w + col) * g->c + i;
}

static size_t naive_winner(const window_grid *g, const float *x, size_t out)
{
    size_t best = naive_tap(g, out, 0);
    for (size_t t = 1; t < g->taps; t++)
        if (x[naive_tap(g, out, t)] > x[best]) best = naive_tap(g, out, t);
    return best;
}

static void max_naive_forward(kd_exec *ex, kd__state *s)
{
    window_grid g;
    geometry(ex, s, &g);
    for (size_t o = 0; o < (size_t)ex->p.batch * s->n->size; o++) s->y[o] = s->x[0][naive_winner(&g, s->x[0], o)];
}

static void naive_clear(const kd_exec *ex, kd__state *s)
{
    if (!s->add[0]) memset(s->dx[0], 0, (size_t)ex->p.batch * kd__graph_in(ex->g, s->n, 0)->size * sizeof(float));
}

static void max_naive_backward(kd_exec *ex, kd__state *s)
{
    window_grid g;
    geometry(ex, s, &g);
    if (!s->dx[0]) return;
    naive_clear(ex, s);
    for (size_t o = 0; o < (size_t)ex->p.batch * s->n->size; o++) s->dx[0][naive_winner(&g, s->x[0], o)] += s->dy[o];
}

static void avg_naive_forward(kd_exec *ex, kd__state *s)
{
    window_grid g;
    geometry(ex, s, &g);
    for (size_t o = 0; o < (size_t)ex->p.batch * s->n->size; o++) {
        double sum = 0;
        for (size_t t = 0; t < g.taps; t++) sum += (double)s->x[0][naive_tap(&g, o, t)];
        s->y[o] = (float)(sum / (double)g.taps);
    }
}

static void avg_naive_backward(kd_exec *ex, kd__state *s)
{
    window_grid g;
    geometry(ex, s, &g);
    if (!s->dx[0]) return;
    naive_clear(ex, s);
    for (size_t o = 0; o < (size_t)ex->p.batch * s->n->size; o++)
        for (size_t t = 0; t < g.taps; t++) s->dx[0][naive_tap(&g, o, t)] += s->dy[o] / (float)g.taps;
}

static void global_naive_forward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size, p = pixels(ex, s);
    for (size_t o = 0; o < (size_t)ex->p.batch * c; o++) {
        double sum = 0;
        for (size_t j = 0; j < p; j++) sum += (double)s->x[0][(o / c * p + j) * c + o % c];
        s->y[o] = (float)(sum / (double)p);
    }
}

static void global_naive_backward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size, p = pixels(ex, s);
    if (!s->dx[0]) return;
    naive_clear(ex, s);
    for (size_t o = 0; o < (size_t)ex->p.batch * c; o++)
        for (size_t j = 0; j < p; j++) s->dx[0][(o / c * p + j) * c + o % c] += s->dy[o] / (float)p;
}

const kd__op kd__op_maxpool = {
    .name = "maxpool", .nin = 1, .shape = shape, .plan = max_plan, .forward = max_forward, .backward = max_backward,
    .naive_forward = max_naive_forward, .naive_backward = max_naive_backward,
    .backward_reads_x = true, /* the twin's */
};
const kd__op kd__op_avgpool = {
    .name = "avgpool", .nin = 1, .shape = shape, .forward = avg_forward, .backward = avg_backward,
    .naive_forward = avg_naive_forward, .naive_backward = avg_naive_backward,
};
const kd__op kd__op_global_avgpool = {
    .name = "global_avgpool", .nin = 1, .shape = global_shape, .forward = global_forward,
    .backward = global_backward, .naive_forward = global_naive_forward, .naive_backward = global_naive_backward,
};
