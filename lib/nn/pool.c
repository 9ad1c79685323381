/* pool.c - max, average and global average pooling of NHWC images.
 *
 * Each image is pooled by one thread, one row of windows after the other, vectorised over channels. Max
 * pooling keeps one byte an output number: which place of the window won (the first on a tie; a NaN wins, as
 * in PyTorch). Windows that would stick out of the image are left out, as PyTorch does without padding.
 *
 * Backward: windows that do not overlap (stride >= k) write their places of dx; where they do not
 * cover the whole image it is cleared first. Overlapping windows add to a cleared image.
 */
#include "nn_private.h"

#include <string.h>

enum { MAX_K = 16 }; /* a place in a window fits into a byte */

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

kd_node kd_nn_global_avgpool(kd_graph *g, const char *name, kd_node x)
{
    return add_pool(g, &kd__op_global_avgpool, name, x, 1, 1);
}

/* ---- shapes ------------------------------------------------------------------------------- */

static kd_status check_image(const kd__node_info *x, const kd__node_info *n, kd_err *err)
{
    if (x->ndims == 3) return KD_OK;
    return kd_fail(err, KD_EUSAGE, "layer %s: its input %s has %d axes; pooling needs (H, W, C)", n->name,
                   x->name, x->ndims);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    const int k = n->a.k, stride = n->a.stride;
    kd_status st = check_image(x, n, err);
    if (st) return st;
    if (k < 1 || k > MAX_K || stride < 1)
        return kd_fail(err, KD_EUSAGE,
                       "layer %s: window %d, stride %d; a window is from 1 to %d, a stride starts at 1",
                       n->name, k, stride, MAX_K);
    if (k > x->dims[0] || k > x->dims[1])
        return kd_fail(err, KD_EUSAGE, "layer %s: a window of %d does not fit an image of %lld x %lld",
                       n->name, k, (long long)x->dims[0], (long long)x->dims[1]);
    n->ndims = 3;
    n->dims[0] = (x->dims[0] - k) / stride + 1;
    n->dims[1] = (x->dims[1] - k) / stride + 1;
    n->dims[2] = x->dims[2];
    return KD_OK;
}

static kd_status global_shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    const kd__node_info *x = kd__graph_in(g, n, 0);
    kd_status st = check_image(x, n, err);
    if (st) return st;
    n->ndims = 1;
    n->dims[0] = x->dims[2];
    return KD_OK;
}

static kd_status max_plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    (void)err;
    s->keep_floats = ((size_t)ex->p.batch * s->n->size + 3) / 4; // a byte each
    return KD_OK;
}

/* ---- windows ------------------------------------------------------------------------------ */

typedef struct geometry {
    kd__pool row;
    size_t h, w, out_h;
    size_t x_image, y_image; /* floats of one image */
    size_t x_step, y_step;   /* floats from one row of windows to the next */
    bool overlap, covers;    /* windows share pixels; every pixel is in a window */
} geometry;

static geometry geometry_of(const kd_exec *ex, const kd__state *s)
{
    const kd__node_info *x = kd__graph_in(ex->g, s->n, 0);
    const size_t k = (size_t)s->n->a.k, stride = (size_t)s->n->a.stride;
    geometry g = {.h = (size_t)x->dims[0], .w = (size_t)x->dims[1], .out_h = (size_t)s->n->dims[0]};
    g.row = (kd__pool){.c = (size_t)x->dims[2], .k = k, .stride = stride, .out_w = (size_t)s->n->dims[1]};
    g.row.row = g.w * g.row.c;
    g.x_image = x->size;
    g.y_image = s->n->size;
    g.x_step = stride * g.row.row;
    g.y_step = g.row.out_w * g.row.c;
    g.overlap = stride < k;
    g.covers = stride <= k && (g.out_h - 1) * stride + k == g.h && (g.row.out_w - 1) * stride + k == g.w;
    return g;
}

static void max_image(kd__state *s, const geometry *g, size_t b)
{
    for (size_t o = 0; o < g->out_h; o++) {
        const size_t at = b * g->y_image + o * g->y_step;
        kd__vec_get()->max_row(s->y + at, (uint8_t *)s->keep + at, s->x[0] + b * g->x_image + o * g->x_step,
                               &g->row);
    }
}

/* Inference shares images out as they come (conv.c). */
static void max_forward(kd_exec *ex, kd__state *s)
{
    const geometry g = geometry_of(ex, s);
    const size_t images = (size_t)ex->p.batch;
    if (ex->p.training) {
#pragma omp for schedule(static)
        for (size_t b = 0; b < images; b++) max_image(s, &g, b);
    } else {
#pragma omp for schedule(dynamic, 4)
        for (size_t b = 0; b < images; b++) max_image(s, &g, b);
    }
}

/* Clears dx of one image where that is needed; true: the windows have to add. */
static bool begin_backward(const geometry *g, float *dx, bool add)
{
    if (!add && (g->overlap || !g->covers)) memset(dx, 0, g->x_image * sizeof *dx);
    return add || g->overlap;
}

static void max_backward(kd_exec *ex, kd__state *s)
{
    const geometry g = geometry_of(ex, s);
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t b = 0; b < (size_t)ex->p.batch; b++) {
        float *dx = s->dx[0] + b * g.x_image;
        const bool add = begin_backward(&g, dx, s->add[0]);
        for (size_t o = 0; o < g.out_h; o++) {
            const size_t at = b * g.y_image + o * g.y_step;
            kd__vec_get()->max_row_back(dx + o * g.x_step, (const uint8_t *)s->keep + at, s->dy + at, &g.row,
                                        add);
        }
    }
}

static void avg_forward(kd_exec *ex, kd__state *s)
{
    const geometry g = geometry_of(ex, s);
#pragma omp for schedule(static)
    for (size_t b = 0; b < (size_t)ex->p.batch; b++)
        for (size_t o = 0; o < g.out_h; o++)
            kd__vec_get()->avg_row(s->y + b * g.y_image + o * g.y_step,
                                   s->x[0] + b * g.x_image + o * g.x_step, &g.row);
}

static void avg_backward(kd_exec *ex, kd__state *s)
{
    const geometry g = geometry_of(ex, s);
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t b = 0; b < (size_t)ex->p.batch; b++) {
        float *dx = s->dx[0] + b * g.x_image;
        const bool add = begin_backward(&g, dx, s->add[0]);
        for (size_t o = 0; o < g.out_h; o++)
            kd__vec_get()->avg_row_back(dx + o * g.x_step, s->dy + b * g.y_image + o * g.y_step, &g.row, add);
    }
}

/* ---- global average: (H, W, C) -> (C) ------------------------------------------------------- */

static size_t pixels(const kd_exec *ex, const kd__state *s)
{
    return kd__graph_in(ex->g, s->n, 0)->size / s->n->size;
}

static void global_forward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size, p = pixels(ex, s);
    const float share = 1 / (float)p;
#pragma omp for schedule(static)
    for (size_t b = 0; b < (size_t)ex->p.batch; b++) {
        kd__vec_get()->col_sum(s->y + b * c, s->x[0] + b * p * c, p, c, c);
        for (size_t i = 0; i < c; i++) s->y[b * c + i] *= share;
    }
}

static void global_backward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size, p = pixels(ex, s);
    if (!s->dx[0]) return;
#pragma omp for schedule(static)
    for (size_t b = 0; b < (size_t)ex->p.batch; b++)
        kd__vec_get()->spread(s->dx[0] + b * p * c, s->dy + b * c, 1 / (float)p, p, c, s->add[0]);
}

/* ---- the twins in plain C ----------------------------------------------------------------- */

/* Where place t of the window of output number `out` lies in x. */
static size_t naive_tap(const geometry *g, size_t out, size_t t)
{
    const size_t c = g->row.c, k = g->row.k, stride = g->row.stride, out_w = g->row.out_w;
    const size_t b = out / g->y_image, window = out % g->y_image / c;
    const size_t row = window / out_w * stride + t / k, col = window % out_w * stride + t % k;
    return b * g->x_image + (row * g->w + col) * c + out % c;
}

static void max_naive_forward(kd_exec *ex, kd__state *s)
{
    const geometry g = geometry_of(ex, s);
    uint8_t *which = (uint8_t *)s->keep;
    for (size_t o = 0; o < (size_t)ex->p.batch * s->n->size; o++) {
        s->y[o] = s->x[0][naive_tap(&g, o, 0)];
        which[o] = 0;
        for (size_t t = 1; t < g.row.k * g.row.k; t++) {
            const float v = s->x[0][naive_tap(&g, o, t)];
            if (!(v > s->y[o]) && v == v) continue;
            s->y[o] = v;
            which[o] = (uint8_t)t;
        }
    }
}

static void naive_clear(const kd_exec *ex, kd__state *s)
{
    if (!s->add[0])
        memset(s->dx[0], 0, (size_t)ex->p.batch * kd__graph_in(ex->g, s->n, 0)->size * sizeof(float));
}

static void max_naive_backward(kd_exec *ex, kd__state *s)
{
    const geometry g = geometry_of(ex, s);
    if (!s->dx[0]) return;
    naive_clear(ex, s);
    for (size_t o = 0; o < (size_t)ex->p.batch * s->n->size; o++)
        s->dx[0][naive_tap(&g, o, ((const uint8_t *)s->keep)[o])] += s->dy[o];
}

static void avg_naive_forward(kd_exec *ex, kd__state *s)
{
    const geometry g = geometry_of(ex, s);
    const size_t taps = g.row.k * g.row.k;
    for (size_t o = 0; o < (size_t)ex->p.batch * s->n->size; o++) {
        double sum = 0;
        for (size_t t = 0; t < taps; t++) sum += (double)s->x[0][naive_tap(&g, o, t)];
        s->y[o] = (float)(sum / (double)taps);
    }
}

static void avg_naive_backward(kd_exec *ex, kd__state *s)
{
    const geometry g = geometry_of(ex, s);
    const size_t taps = g.row.k * g.row.k;
    if (!s->dx[0]) return;
    naive_clear(ex, s);
    for (size_t o = 0; o < (size_t)ex->p.batch * s->n->size; o++)
        for (size_t t = 0; t < taps; t++) s->dx[0][naive_tap(&g, o, t)] += s->dy[o] / (float)taps;
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
    .name = "maxpool",
    .nin = 1,
    .shape = shape,
    .plan = max_plan,
    .forward = max_forward,
    .backward = max_backward,
    .naive_forward = max_naive_forward,
    .naive_backward = max_naive_backward,
};

const kd__op kd__op_avgpool = {
    .name = "avgpool",
    .nin = 1,
    .shape = shape,
    .forward = avg_forward,
    .backward = avg_backward,
    .naive_forward = avg_naive_forward,
    .naive_backward = avg_naive_backward,
};

const kd__op kd__op_global_avgpool = {
    .name = "global_avgpool",
    .nin = 1,
    .shape = global_shape,
    .forward = global_forward,
    .backward = global_backward,
    .naive_forward = global_naive_forward,
    .naive_backward = global_naive_backward,
};
