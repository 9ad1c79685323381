/* rows.c - convolutions that walk images row by row, with the batch norms beside them.
 *
 * For layers that are bound by memory rather than by multiply-adds (few channels, depthwise, one pixel wide)
 * the library's kernels are the smaller part of the work: tensors are read and written around them. Here one
 * thread takes an image a band of rows at a time, few enough for its core's own caches. Forward reads a row
 * of x once, makes the batch norm's y of it in a ring of padded rows, computes the rows of y that it
 * completes, and takes their statistics before they leave. Backward reads a row of dy, makes the gradient
 * behind the batch norm of it in a second ring, adds it to the gradient of the weights, computes the rows of
 * dx that it completes, and sums them up for the batch norm in front. So forward reads x and writes y,
 * backward reads dy, y, x and writes dx, once each, and nothing else goes through memory.
 *
 * Gradient of x. Input pixel r gets from output pixel i through tap u where i stride + u - pad = r, so u runs
 * through one class of residues modulo the stride, and i falls as u grows. Per class that is again a product
 * of rows, of dy, with that class's taps in falling order: stride 1 has one class, stride 2 in two directions
 * four.
 *
 * With operands in bf16 on CPUs that are fast with them (rows_bf16.simd.c) the rings hold pairs of numbers in
 * the place of floats. y and dx are sums over channels, whose pairs are neighbours. dw is a sum over pixels:
 * there backward takes two images at a time and couples each number with the other image's.
 *
 * What the next band reads comes from another cache or from memory, for which products have no use: their
 * loops ask for it, a little at each turn (kd__ahead).
 *
 * Orders of weights, as tables for conv.c's packing: forward (block of outputs, u, v, c, block), data by
 * classes (block of c, u, v, out, block), gradient (u, v, c, out); depthwise all (u, v, c). Of pairs: c / 2
 * or out / 2, block, pair.
 */
#include "nn_private.h"

#include <stdlib.h>
#include <string.h>

enum {
    ALIGN = 16,
    NEAR = 24576, /* floats of a band, for the second cache: as many as weights, from NEAR to FAR */
    FAR = 1 << 17,
    MAX_BAND = 16,
    GROUP = 2,
    MAX_ROWS = MAX_BAND * KD__ROWS_WINDOW + KD__ROWS_WINDOW
};

struct kd__rows {
    kd__conv_desc d;
    size_t h, w, c, out_h, out_w, out, k, stride, pad;
    bool deep;
    const kd__rows_pairs *pairs;                       /* operands are bf16; NULL: f32 */
    size_t group;                                      /* images that backward takes at a time */
    size_t band;                                       /* output rows a band */
    size_t x_slots, x_row, dy_slots, dy_row;           /* rings: rows, and floats of one */
    size_t dy_left;                                    /* pixels of zeros in front of a row of dy */
    size_t class_at[KD__ROWS_WINDOW][KD__ROWS_WINDOW]; /* where a class's weights begin */
};

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

const kd__rows_kernels *kd__rows_get(void)
{
    const kd_isa isa = kd_cpu_isa();
    return isa >= KD_ISA_AVX512 ? &kd__rows_avx512 : isa >= KD_ISA_AVX2 ? &kd__rows_avx2 : &kd__rows_scalar;
}

/* Kernels for KD__BF16; NULL: this CPU, or KD_ISA, has no bf16 instructions. */
static const kd__rows_pairs *pairs_get(void)
{
    return kd_cpu_isa() >= KD_ISA_AVX512BF16 ? &kd__rows_bf16_avx512bf16 : NULL;
}

/* ---- which, and how ----------------------------------------------------------------------- */

static double weights_of(const kd__conv_desc *d)
{
    return (double)d->k * d->k * (double)d->out * (double)(d->c / d->groups);
}

bool kd__rows_fit(const kd__conv_desc *d)
{
    const bool window = (d->k == 3 && d->stride <= 2) || (d->k == 1 && d->stride == 1 && d->pad == 0);
    const bool whole = d->out % KD__ROWS_CHANNELS == 0 && d->c % KD__ROWS_CHANNELS == 0;
    const bool first =
        d->out % KD__ROWS_CHANNELS == 0 && d->c <= 4 && !d->need_dx && !d->prev && d->groups == 1;
    const bool numbers = d->operands == KD__F32    ? whole || first
                         : d->operands == KD__BF16 ? whole && d->groups == 1 && pairs_get()
                                                   : false;
    return window && numbers && weights_of(d) <= KD__ROWS_WEIGHTS;
}

/* A first layer's dW the library has in less than half the time. */
bool kd__rows_fit_backward(const kd__conv_desc *d) { return kd__rows_fit(d) && d->need_dx; }

/* Where rows mean nothing (a window of one pixel), they are as many pixels as divide the image and fill
 * tiles. */
static void choose_rows(kd__rows *r)
{
    if (r->k > 1) return;
    const size_t pixels = r->h * r->w;
    size_t best = r->w;
    for (size_t n = 1; n <= 64; n++)
        if (pixels % n == 0 && (n > best || best > 64)) best = n;
    r->w = r->out_w = best;
    r->h = r->out_h = pixels / best;
}

/* Floats, of which some are pairs, of a pixel of x and dy as products of y and dx read them. */
static size_t x_pixel(const kd__rows *r) { return r->pairs ? r->c / 2 : r->c; }
static size_t dy_pixel(const kd__rows *r) { return r->pairs ? r->out / 2 : r->out; }
/* Of a row of dy as those of dw do, where that is something else. */
static size_t couples_row(const kd__rows *r) { return r->pairs ? r->out_w * r->out : 0; }

static size_t near_floats(const kd__rows *r, size_t band)
{
    return ((band - 1) * r->stride + r->k) * r->x_row +
           (band + r->k) * (r->group * r->dy_row + couples_row(r));
}

static size_t taps(const kd__rows *r, size_t residue) { return (r->k - residue + r->stride - 1) / r->stride; }

kd_status kd__rows_create(kd__rows **out, const kd__conv_desc *d, kd_err *err)
{
    kd__rows *r = *out = calloc(1, sizeof *r);
    if (!r) return kd_fail(err, KD_ENOMEM, "out of memory for a convolution");
    *r = (kd__rows){.d = *d,
                    .h = (size_t)d->h,
                    .w = (size_t)d->w,
                    .c = (size_t)d->c,
                    .out_h = (size_t)d->out_h,
                    .out_w = (size_t)d->out_w,
                    .out = (size_t)d->out,
                    .k = (size_t)d->k,
                    .stride = (size_t)d->stride,
                    .pad = (size_t)d->pad,
                    .deep = d->groups > 1,
                    .pairs = d->operands ? pairs_get() : NULL,
                    .group = d->operands ? GROUP : 1};
    choose_rows(r);
    const size_t before = r->k - 1 > r->pad ? r->k - 1 - r->pad : 0, last = (r->w - 1 + r->pad) / r->stride;
    r->dy_left = (before + r->stride - 1) / r->stride;
    r->x_row = round_up((r->w + 2 * r->pad) * r->c, ALIGN);
    r->dy_row = round_up((r->dy_left + kd_max_size(r->out_w, last + 1)) * dy_pixel(r), ALIGN);
    const size_t weights = r->k * r->k * r->out * (r->deep ? 1 : r->c);
    const size_t room = kd_min_size(kd_max_size(NEAR, weights), FAR);
    r->band = 1;
    while (r->band < MAX_BAND && r->band < r->out_h && near_floats(r, r->band + 1) <= room) r->band++;
    const size_t bands = (r->out_h + r->band - 1) / r->band;
    r->band = (r->out_h + bands - 1) / bands;
    r->x_slots = (r->band - 1) * r->stride + r->k;
    r->dy_slots = r->band + r->k;
    size_t at = 0;
    for (size_t a = 0; a < r->stride; a++)
        for (size_t b = 0; b < r->stride; b++) {
            r->class_at[a][b] = at;
            at += taps(r, a) * taps(r, b) * r->c * (r->deep ? 1 : dy_pixel(r));
        }
    return KD_OK;
}

/* A row of zeros, the ring of x, the rings of dy; with pairs also one of dy's couples, and rows in f32. */
static size_t plain_row(const kd__rows *r)
{
    return r->pairs ? kd_max_size(r->w * r->c, r->out_w * r->out) : 0;
}
static size_t zeros_floats(const kd__rows *r)
{
    return kd_max_size(kd_max_size(r->x_row, r->dy_row), plain_row(r));
}
static size_t dy_ring_at(const kd__rows *r) { return zeros_floats(r) + r->x_slots * r->x_row; }
static size_t couples_at(const kd__rows *r) { return dy_ring_at(r) + r->group * r->dy_slots * r->dy_row; }
static size_t plain_at(const kd__rows *r) { return couples_at(r) + r->dy_slots * couples_row(r); }
size_t kd__rows_stage(const kd__rows *r) { return plain_at(r) + r->group * plain_row(r); }

/* ---- orders of weights -------------------------------------------------------------------- */

/* 1 + the plain index of tap (u, v) from channel c to output o. */
static uint32_t plain(const kd__rows *r, size_t o, size_t c, size_t u, size_t v)
{
    return (uint32_t)(1 + ((o * (r->deep ? 1 : r->c) + (r->deep ? 0 : c)) * r->k + u) * r->k + v);
}

/* One class, taps rising or falling; forward is the class of all taps: first 0, step 1. */
typedef struct tap_list {
    size_t u, v, step, nu, nv;
    bool falling, data;
} tap_list;

static uint32_t *list_taps(const kd__rows *r, const tap_list *l, uint32_t *to)
{
    const size_t from = r->deep ? 1 : l->data ? r->out : r->c, into = l->data ? r->c : r->out;
    const size_t pair = r->pairs ? 2 : 1;
    for (size_t b = 0; b < into; b += KD__ROWS_BLOCK) {
        const size_t end = r->deep ? into : kd_min_size(into, b + KD__ROWS_BLOCK);
        for (size_t m = 0; m < l->nu; m++)
            for (size_t n = 0; n < l->nv; n++) {
                const size_t u = l->u + l->step * (l->falling ? l->nu - 1 - m : m);
                const size_t v = l->v + l->step * (l->falling ? l->nv - 1 - n : n);
                for (size_t f = 0; f < from; f += pair)
                    for (size_t t = b; t < end; t++)
                        for (size_t i = f; i < f + pair; i++)
                            *to++ = l->data && !r->deep ? plain(r, i, t, u, v) : plain(r, t, i, u, v);
            }
        if (r->deep) break;
    }
    return to;
}

static void list_data(const kd__rows *r, uint32_t *to)
{
    for (size_t a = 0; a < r->stride; a++)
        for (size_t b = 0; b < r->stride; b++) {
            const tap_list l = {a, b, r->stride, taps(r, a), taps(r, b), true, true};
            to = list_taps(r, &l, to);
        }
}

static void list_gradient(const kd__rows *r, uint32_t *to)
{
    for (size_t u = 0; u < r->k; u++)
        for (size_t v = 0; v < r->k; v++)
            for (size_t c = 0; c < (r->deep ? 1 : r->c); c++)
                for (size_t o = 0; o < r->out; o++) *to++ = plain(r, o, c, u, v);
}

kd_status kd__rows_order(const kd__rows *r, kd__conv_pass pass, uint32_t **out, size_t *floats, kd_err *err)
{
    *floats = r->k * r->k * r->out * (r->deep ? 1 : r->c);
    uint32_t *order = *out = malloc(*floats * sizeof *order);
    if (!order) return kd_fail(err, KD_ENOMEM, "out of memory for the order of %zu weights", *floats);
    const tap_list all = {0, 0, 1, r->k, r->k, false, false};
    if (pass == KD__CONV_FORWARD)
        list_taps(r, &all, order);
    else if (pass == KD__CONV_DATA)
        list_data(r, order);
    else
        list_gradient(r, order);
    return KD_OK;
}

/* ---- one image, or one group of images ---------------------------------------------------- */

/* What a slice works with, and the images that it is at. */
typedef struct image {
    const kd__rows *r;
    const kd__rows_kernels *k;
    const kd__rows_call *call;
    bool backward;
    kd__bn_rows prev, next;
    const float *zeros;
    float *x_ring, *dy_ring[GROUP], *couples, *plain[GROUP];
    size_t number, images; /* the first one of the slice, and how many at a time */
    size_t x_ready;        /* rows of x that have been in the ring */
    kd__ahead ahead;
} image;

/* The first pixel of row `row` in the batch. */
static size_t x_at(const image *m, size_t i, size_t row)
{
    return ((m->call->first + m->number + i) * m->r->h + row) * m->r->w;
}
static size_t y_at(const image *m, size_t i, size_t row)
{
    return ((m->call->first + m->number + i) * m->r->out_h + row) * m->r->out_w;
}

/* A row of image i as the convolution reads it: made at `to`, or where it is. */
static const float *x_of(const image *m, size_t i, size_t row, float *to)
{
    const kd__rows *r = m->r;
    const size_t at = x_at(m, i, row) * r->c;
    if (!r->d.prev) return m->call->x + at;
    m->k->bn_apply(to, m->prev.x + at, &m->prev.f, r->w, r->c, m->prev.relu);
    return to;
}

static const float *dy_of(const image *m, size_t i, size_t row, float *to)
{
    const kd__rows *r = m->r;
    const size_t at = y_at(m, i, row) * r->out;
    const float *dy = m->call->dy + at;
    if (r->d.next) {
        m->k->bn_dx(to, m->next.dy + at, m->next.x + at, &m->next.f, r->out_w, r->out, m->next.relu);
        dy = to;
    }
    if (r->d.relu) {
        kd__vec_get()->relu_mask(to, dy, m->call->y + at, r->out_w * r->out);
        dy = to;
    }
    for (size_t p = 0; m->call->dbias && p < r->out_w; p++)
        kd__vec_get()->add_to(m->call->dbias, dy + p * r->out, r->out);
    return dy;
}

static void prepare_x(image *m, size_t row)
{
    const kd__rows *r = m->r;
    const size_t n = r->w * r->c;
    float *to = m->x_ring + row % r->x_slots * r->x_row;
    if (r->pairs && m->backward) {
        const float *x[GROUP] = {m->zeros, m->zeros};
        for (size_t i = 0; i < m->images; i++) x[i] = x_of(m, i, row, m->plain[i]);
        r->pairs->couples(to + r->pad * r->c, x[0], x[1], n);
    } else if (r->pairs) {
        r->pairs->neighbours(to + r->pad * x_pixel(r), x_of(m, 0, row, m->plain[0]), n);
    } else {
        to += r->pad * r->c;
        const float *x = x_of(m, 0, row, to);
        if (x != to) memcpy(to, x, n * sizeof *to);
    }
}

static void prepare_dy(image *m, size_t row)
{
    const kd__rows *r = m->r;
    const size_t n = r->out_w * r->out, at = row % r->dy_slots * r->dy_row + r->dy_left * dy_pixel(r);
    if (r->pairs) {
        const float *dy[GROUP] = {m->zeros, m->zeros};
        for (size_t i = 0; i < m->images; i++) {
            dy[i] = dy_of(m, i, row, m->plain[i]);
            r->pairs->neighbours(m->dy_ring[i] + at, dy[i], n);
        }
        r->pairs->couples(m->couples + row % r->dy_slots * couples_row(r), dy[0], dy[1], n);
    } else {
        float *to = m->dy_ring[0] + at;
        const float *dy = dy_of(m, 0, row, to);
        if (dy != to) memcpy(to, dy, n * sizeof *to);
    }
}

/* Rows i .. of the windows of output rows from `first` on, n of them: pointers to their left edges. */
static void x_rows(image *m, const float **to, size_t first, size_t n)
{
    const kd__rows *r = m->r;
    const size_t count = (n - 1) * r->stride + r->k, end = first * r->stride + count; // + pad
    while (m->x_ready < r->h && m->x_ready + r->pad < end) prepare_x(m, m->x_ready++);
    for (size_t i = 0; i < count; i++) {
        const size_t row = first * r->stride + i - r->pad; // wraps around above the image
        to[i] = row < r->h ? m->x_ring + row % r->x_slots * r->x_row : m->zeros;
    }
}

/* From the zeros in front of it on. */
static const float *dy_row(const image *m, size_t i, size_t row)
{
    const kd__rows *r = m->r;
    return row < r->out_h ? m->dy_ring[i] + row % r->dy_slots * r->dy_row : m->zeros;
}

static void product(const image *m, const kd__product *t, float *y, const float *w)
{
    const kd__rows *r = m->r;
    (r->pairs ? r->pairs->product : r->deep ? m->k->deep_product : m->k->product)(t, y, w);
}

/* `rows` rows from `row` on, each of so many floats, of images of h; from their first row where they end. */
static void ask_for(image *m, const float *images, size_t h, size_t floats, size_t row, size_t rows)
{
    kd__ahead *a = &m->ahead;
    for (size_t i = 0; i < m->images; i++) {
        const size_t one = m->number + i + (row < h ? 0 : m->images), from = row < h ? row : 0;
        if (one >= m->call->images) break;
        const float *at = images + ((m->call->first + one) * h + from) * floats;
        a->stretch[a->stretches].at = at;
        a->stretch[a->stretches++].end = at + kd_min_size(rows, h - from) * floats;
    }
}

/* What the band of output rows from `row` on reads from far away. */
static void ask_for_band(image *m, size_t row)
{
    const kd__rows *r = m->r;
    m->ahead = (kd__ahead){.at = m->zeros, .end = m->zeros};
    ask_for(m, r->d.prev ? m->prev.x : m->call->x, r->h, r->w * r->c, m->x_ready, r->band * r->stride);
    if (!m->backward) return;
    ask_for(m, r->d.next ? m->next.dy : m->call->dy, r->out_h, r->out_w * r->out, row, r->band);
    if (r->d.next) ask_for(m, m->next.x, r->out_h, r->out_w * r->out, row, r->band);
}

static void forward_band(image *m, size_t first, size_t n)
{
    const kd__rows *r = m->r;
    const float *rows[MAX_ROWS];
    x_rows(m, rows, first, n);
    ask_for_band(m, first + n);
    const kd__product t = {.x = rows,
                           .ahead = &m->ahead,
                           .rows = r->k,
                           .len = r->k * x_pixel(r),
                           .x_pitch = r->stride * x_pixel(r),
                           .y_pitch = r->out,
                           .n = r->out_w,
                           .out = r->out,
                           .lines = n,
                           .x_step = r->stride,
                           .y_line = r->out_w * r->out,
                           .bias = m->call->bias,
                           .relu = r->d.relu};
    float *y = m->call->out + y_at(m, 0, first) * r->out;
    product(m, &t, y, m->call->w);
    if (r->d.next)
        m->k->moments(m->next.sums, m->next.sums + r->out, m->number * r->out_h * r->out_w + first * r->out_w,
                      y, n * r->out_w, r->out);
}

/* Every stride-th row of dx, `lines` from `row` on, class by class of their columns. */
static void data_rows(image *m, size_t row, size_t lines)
{
    const kd__rows *r = m->r;
    const size_t a = (row + r->pad) % r->stride, nu = taps(r, a), far_u = a + (nu - 1) * r->stride;
    const size_t dy_first = (row + r->pad + r->k * r->stride - far_u) / r->stride - r->k; // may wrap around
    const float *rows[MAX_ROWS];
    for (size_t b = 0; b < r->stride; b++) {
        const size_t col = (b + r->stride - r->pad % r->stride) % r->stride, nv = taps(r, b);
        if (col >= r->w) continue;
        const size_t far_v = b + (nv - 1) * r->stride;
        const size_t left = (r->dy_left * r->stride + col + r->pad - far_v) / r->stride * dy_pixel(r);
        const kd__product t = {.x = rows,
                               .ahead = &m->ahead,
                               .rows = nu,
                               .len = nv * dy_pixel(r),
                               .x_pitch = dy_pixel(r),
                               .y_pitch = r->stride * r->c,
                               .n = (r->w - col + r->stride - 1) / r->stride,
                               .out = r->c,
                               .lines = lines,
                               .x_step = 1,
                               .y_line = r->stride * r->w * r->c,
                               .add = r->d.accumulate_dx};
        for (size_t i = 0; i < m->images; i++) {
            for (size_t k = 0; k < lines - 1 + nu; k++) rows[k] = dy_row(m, i, dy_first + k) + left;
            product(m, &t, m->call->out + (x_at(m, i, row) + col) * r->c, m->call->w + r->class_at[a][b]);
        }
    }
}

static void weights_band(image *m, size_t first, size_t n)
{
    const kd__rows *r = m->r;
    const float *rows[MAX_ROWS], *dy[MAX_BAND];
    x_rows(m, rows, first, n);
    ask_for_band(m, first + n);
    for (size_t i = 0; i < n; i++)
        dy[i] = r->pairs ? m->couples + (first + i) % r->dy_slots * couples_row(r)
                         : dy_row(m, 0, first + i) + r->dy_left * r->out;
    const kd__product t = {.x = rows,
                           .ahead = &m->ahead,
                           .rows = r->k,
                           .len = r->k * r->c,
                           .x_pitch = r->stride * r->c,
                           .n = r->out_w,
                           .out = r->out};
    (r->pairs  ? r->pairs->weights
     : r->deep ? m->k->deep_weights
               : m->k->weights)(&t, m->call->dw, r->stride, dy, n);
}

/* Rows of dx that dy's rows before `ready` complete, from `row` on; the next one. */
static size_t data_band(image *m, size_t row, size_t ready)
{
    const kd__rows *r = m->r;
    const size_t seen = kd_max_size(ready * r->stride, r->pad) - r->pad;
    const size_t end = ready == r->out_h ? r->h : kd_min_size(r->h, seen);
    for (size_t i = row; i < end && i < row + r->stride; i++)
        data_rows(m, i, (end - i + r->stride - 1) / r->stride);
    for (size_t i = 0; r->d.prev && end > row && i < m->images; i++) {
        const size_t at = x_at(m, i, row) * r->c;
        m->k->bn_sums(m->prev.sums, m->prev.sums + r->c, m->call->out + at, m->prev.x + at, &m->prev.f,
                      (end - row) * r->w, r->c, m->prev.relu);
    }
    return kd_max_size(row, end);
}

static void backward_images(image *m)
{
    const kd__rows *r = m->r;
    size_t row = 0;
    for (size_t first = 0; first < r->out_h; first += r->band) {
        const size_t n = kd_min_size(r->band, r->out_h - first);
        for (size_t i = 0; i < n; i++) prepare_dy(m, first + i);
        weights_band(m, first, n);
        if (r->d.need_dx) row = data_band(m, row, first + n);
    }
}

/* ---- a slice ------------------------------------------------------------------------------ */

/* Zeros in rows of a ring that nothing else is written to: before `from`, and from `to` on. */
static void clear_margins(float *ring, size_t rows, size_t floats, size_t from, size_t to)
{
    for (; rows; rows--, ring += floats) {
        memset(ring, 0, from * sizeof *ring);
        memset(ring + to, 0, (floats - to) * sizeof *ring);
    }
}

static image begin(const kd__rows *r, const kd__rows_call *call, bool backward)
{
    image m = {.r = r, .k = kd__rows_get(), .call = call, .backward = backward, .zeros = call->stage};
    m.x_ring = call->stage + zeros_floats(r);
    m.couples = call->stage + couples_at(r);
    for (size_t i = 0; i < r->group; i++) {
        m.dy_ring[i] = call->stage + dy_ring_at(r) + i * r->dy_slots * r->dy_row;
        m.plain[i] = call->stage + plain_at(r) + i * plain_row(r);
    }
    memset(call->stage, 0, zeros_floats(r) * sizeof(float));
    const size_t x_words = backward ? r->c : x_pixel(r), y_words = dy_pixel(r);
    clear_margins(m.x_ring, r->x_slots, r->x_row, r->pad * x_words, (r->pad + r->w) * x_words);
    for (size_t i = 0; i < r->group && backward; i++)
        clear_margins(m.dy_ring[i], r->dy_slots, r->dy_row, r->dy_left * y_words,
                      (r->dy_left + r->out_w) * y_words);
    if (r->d.prev) m.prev = kd__bn_rows_of(r->d.prev, call->slice);
    if (r->d.next) m.next = kd__bn_rows_of(r->d.next, call->slice);
    return m;
}

static void begin_images(image *m, size_t number, size_t images)
{
    m->number = number;
    m->images = images;
    m->x_ready = 0;
}

void kd__rows_forward(const kd__rows *r, const kd__rows_call *call)
{
    image m = begin(r, call, false);
    if (r->d.next) memset(m.next.sums, 0, 2 * r->out * sizeof(float));
    for (size_t i = 0; i < call->images; i++) {
        begin_images(&m, i, 1);
        for (size_t first = 0; first < r->out_h; first += r->band)
            forward_band(&m, first, kd_min_size(r->band, r->out_h - first));
    }
}

void kd__rows_backward(const kd__rows *r, const kd__rows_call *call)
{
    image m = begin(r, call, true);
    if (r->d.prev) memset(m.prev.sums, 0, 2 * r->c * sizeof(float));
    memset(call->dw, 0, r->k * r->k * r->out * (r->deep ? 1 : r->c) * sizeof(float));
    if (call->dbias) memset(call->dbias, 0, r->out * sizeof(float));
    for (size_t i = 0; i < call->images; i += r->group) {
        begin_images(&m, i, kd_min_size(r->group, call->images - i));
        backward_images(&m);
    }
}
