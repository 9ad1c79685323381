/* dense.c - the products of a linear layer on a batch of fixed size.
 *
 * A batch has some hundred rows and a layer's weights are several times as many numbers as its activations.
 * So weights are read where they are, in all three products, and what gets another layout are activations:
 *
 *     forward  y^T (out, B) = W (out, in) x^T (in, B)       registers run along the batch
 *     data     dx  (B, in)  = dy (B, out) W (out, in)       along in
 *     weights  dW  (out, in) = dy^T (out, B) x (B, in)      along in
 *
 * x^T lies in panels of PANEL rows of the batch; y^T never exists but for a tile of it, which is turned
 * around, with bias and ReLU, while it is in the nearest cache. Masking dy by ReLU and turning it around is
 * one walk. Both pairs of steps have a barrier between them, and one at the end.
 *
 * Work is cut by shape alone: pieces of forward are blocks of outputs by panels, of dW blocks of whole rows
 * (a thread has about the same rows of W in both, and sums the bias's gradient beside), of dx blocks of rows
 * and columns. One thread does a piece, and adds along K in its order, so bits depend on the instruction set
 * only.
 */
#include "nn_private.h"

#include <string.h>

enum { PANEL = 64, PIECES = 16, STEP = 256, ALIGN = 16, MIN_ROWS = 32 };

const kd__dense_kernels *kd__dense_get(void)
{
    const kd_isa isa = kd_cpu_isa();
    return isa >= KD_ISA_AVX512 ? &kd__dense_avx512
           : isa >= KD_ISA_AVX2 ? &kd__dense_avx2
                                : &kd__dense_scalar;
}

static size_t up(size_t n, size_t step) { return (n + step - 1) / step * step; }

/* Fewer rows would leave lanes empty, and other widths leave vectors of B half full. */
bool kd__dense_fit(const kd__dense *d) { return d->rows >= MIN_ROWS && d->in % ALIGN == 0; }

static size_t x_floats(const kd__dense *d) { return up(d->rows, PANEL) * d->in; }
static size_t dy_width(const kd__dense *d) { return up(d->rows, ALIGN); }

size_t kd__dense_shared(const kd__dense *d)
{
    return kd_max_size(x_floats(d), d->training ? dy_width(d) * d->out : 0);
}

/* As high as possible, with PIECES pieces or more, `others` side by side. */
static size_t block_rows(size_t rows, size_t others)
{
    size_t block = PANEL;
    while (block > ALIGN && up(rows, block) / block * others < PIECES) block /= 2;
    return block;
}

/* ---- forward ------------------------------------------------------------------------------ */

static void pack_x(const kd__dense *d, float *panels, const float *x)
{
    const kd__dense_kernels *k = kd__dense_get();
    const size_t columns = 128, wide = up(d->in, columns) / columns, high = up(d->rows, PANEL) / PANEL;
#pragma omp for schedule(static)
    for (size_t t = 0; t < high * wide; t++) {
        const size_t row = t / wide * PANEL, col = t % wide * columns;
        k->transpose(&(kd__dense_transpose){.to = panels + row * d->in + col * PANEL,
                                            .to_row = PANEL,
                                            .from = x + row * d->in + col,
                                            .from_row = d->in,
                                            .rows = kd_min_size(PANEL, d->rows - row),
                                            .cols = kd_min_size(columns, d->in - col),
                                            .pad = true});
    }
}

/* Outputs from o on, `outs` of them, of the batch's rows from `row` on. */
static void forward_piece(const kd__dense *d, const kd__dense_forward *f, size_t o, size_t outs, size_t row)
{
    _Alignas(64) float c[PANEL * PANEL];
    const kd__dense_kernels *k = kd__dense_get();
    const size_t rows = kd_min_size(PANEL, d->rows - row);
    for (size_t at = 0; at < d->in; at += STEP)
        k->product(&(kd__dense_product){.c = c,
                                        .ldc = PANEL,
                                        .a = f->w + o * d->in + at,
                                        .lda = d->in,
                                        .b = f->shared + row * d->in + at * PANEL,
                                        .ldb = PANEL,
                                        .rows = outs,
                                        .n = up(rows, ALIGN),
                                        .k = kd_min_size(STEP, d->in - at),
                                        .add = at > 0});
    k->transpose(&(kd__dense_transpose){.to = f->y + row * d->out + o,
                                        .to_row = d->out,
                                        .from = c,
                                        .from_row = PANEL,
                                        .rows = outs,
                                        .cols = rows,
                                        .bias = f->bias ? f->bias + o : NULL,
                                        .relu = f->relu});
}

void kd__dense_run_forward(const kd__dense *d, const kd__dense_forward *f)
{
    const size_t high = up(d->rows, PANEL) / PANEL, block = block_rows(d->out, high);
    const size_t pieces = up(d->out, block) / block * high;
    pack_x(d, f->shared, f->x);
#pragma omp for schedule(static)
    for (size_t t = 0; t < pieces; t++) {
        const size_t o = t / high * block;
        forward_piece(d, f, o, kd_min_size(block, d->out - o), t % high * PANEL);
    }
}

/* ---- backward ----------------------------------------------------------------------------- */

/* Masks dy by y > 0 and turns it around, some rows of the batch at a time. */
static void pack_dy(const kd__dense *d, const kd__dense_backward *g)
{
    const kd__dense_kernels *k = kd__dense_get();
#pragma omp for schedule(static)
    for (size_t row = 0; row < d->rows; row += ALIGN) {
        const size_t rows = kd_min_size(ALIGN, d->rows - row);
        float *dy = g->dy + row * d->out;
        if (g->y) kd__vec_get()->relu_mask(dy, dy, g->y + row * d->out, rows * d->out);
        k->transpose(&(kd__dense_transpose){.to = g->shared + row,
                                            .to_row = dy_width(d),
                                            .from = dy,
                                            .from_row = d->out,
                                            .rows = rows,
                                            .cols = d->out,
                                            .pad = true});
    }
}

static void weights_piece(const kd__dense *d, const kd__dense_backward *g, size_t o, size_t outs)
{
    const kd__dense_kernels *k = kd__dense_get();
    const float *dy = g->shared + o * dy_width(d);
    if (g->dbias) k->row_sums(g->dbias + o, dy, outs, dy_width(d));
    for (size_t row = 0; row < d->rows; row += STEP)
        k->product(&(kd__dense_product){.c = g->dw + o * d->in,
                                        .ldc = d->in,
                                        .a = dy + row,
                                        .lda = dy_width(d),
                                        .b = g->x + row * d->in,
                                        .ldb = d->in,
                                        .rows = outs,
                                        .n = d->in,
                                        .k = kd_min_size(STEP, d->rows - row),
                                        .add = row > 0});
}

static void data_piece(const kd__dense *d, const kd__dense_backward *g, size_t row, size_t col)
{
    const kd__dense_kernels *k = kd__dense_get();
    for (size_t o = 0; o < d->out; o += STEP)
        k->product(&(kd__dense_product){.c = g->dx + row * d->in + col,
                                        .ldc = d->in,
                                        .a = g->dy + row * d->out + o,
                                        .lda = d->out,
                                        .b = g->w + o * d->in + col,
                                        .ldb = d->in,
                                        .rows = kd_min_size(PANEL, d->rows - row),
                                        .n = kd_min_size(PANEL, d->in - col),
                                        .k = kd_min_size(STEP, d->out - o),
                                        .add = o > 0 || g->add});
}

void kd__dense_run_backward(const kd__dense *d, const kd__dense_backward *g)
{
    const size_t block = block_rows(d->out, 1), wide = up(d->in, PANEL) / PANEL;
    const size_t squares = g->dx ? up(d->rows, PANEL) / PANEL * wide : 0;
    pack_dy(d, g);
#pragma omp for schedule(static) nowait
    for (size_t o = 0; o < d->out; o += block) weights_piece(d, g, o, kd_min_size(block, d->out - o));
#pragma omp for schedule(static)
    for (size_t t = 0; t < squares; t++) data_piece(d, g, t / wide * PANEL, t % wide * PANEL);
}
