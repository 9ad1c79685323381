/* dense.c - the products of a linear layer on a batch of fixed size.
 *
 *     forward  y  (B, out)  = x (B, in) W^T (in, out)     W's rows are turned around, BLOCK by DEEP at a time
 *     weights  dW (out, in) = dy^T (out, B) x (B, in)     dy's columns are, BLOCK by STEP at a time
 *     data     dx (B, in)   = dy (B, out) W (out, in)
 *
 * All else is read where it is. What is turned around lies on the stack of the thread that uses it, at once
 * and from the nearest cache: nothing is handed from core to core but x, y and dy, and a layer needs one
 * barrier in each direction, one more where dx is wanted. A thread has the same rows of W in forward and in
 * dW.
 *
 * K goes by in one piece wherever it can: what is turned around may be larger than the nearest cache, because
 * it is read in order, while each further piece would load and store all tiles of the result once more.
 *
 * A number is one sum along K, in K's order, however the work is cut: bits depend on the instruction set
 * alone. So the cut may follow the team: blocks of BLOCK outputs, or of dx's columns, and of as few rows of
 * the batch as it takes to employ everybody.
 */
#include "nn_private.h"

#include <omp.h>

enum { ALIGN = 16, BLOCK = 64, STEP = 128, DEEP = 1024, MIN_ROWS = 32 };

const kd__dense_kernels *kd__dense_get(void)
{
    const kd_isa isa = kd_cpu_isa();
    return isa >= KD_ISA_AVX512 ? &kd__dense_avx512
           : isa >= KD_ISA_AVX2 ? &kd__dense_avx2
                                : &kd__dense_scalar;
}

static size_t parts(size_t n, size_t of) { return (n + of - 1) / of; }
static size_t up(size_t n, size_t step) { return parts(n, step) * step; }

/* Fewer rows do not pay for turning W around, and other widths leave vectors half full. */
bool kd__dense_fit(const kd__dense *d) { return d->rows >= MIN_ROWS && d->in % ALIGN == 0; }

/* A matrix of rows by columns in pieces of `high` by `wide`. */
typedef struct grid {
    size_t rows, cols, high, wide;
} grid;

/* Rows of at most `high`, then as many parts of columns, at most `wide` and in whole vectors, as give
 * everybody one. */
static grid cut(size_t rows, size_t cols, size_t high, size_t wide)
{
    const size_t threads = (size_t)omp_get_num_threads(), bands = parts(rows, high);
    const size_t share = up(parts(cols, parts(threads, bands)), ALIGN);
    return (grid){rows, cols, high, kd_min_size(wide, share)};
}

static size_t pieces_of(const grid *g) { return parts(g->rows, g->high) * parts(g->cols, g->wide); }

typedef struct piece {
    size_t row, rows, col, cols;
} piece;

static piece piece_at(const grid *g, size_t t)
{
    const size_t across = parts(g->cols, g->wide);
    piece p = {.row = t / across * g->high, .col = t % across * g->wide};
    p.rows = kd_min_size(g->high, g->rows - p.row);
    p.cols = kd_min_size(g->wide, g->cols - p.col);
    return p;
}

/* ---- forward ------------------------------------------------------------------------------ */

/* p: outputs by rows of the batch. */
static void forward_piece(const kd__dense *d, const kd__dense_forward *f, const piece *p)
{
    _Alignas(64) float w[DEEP * BLOCK], c[2 * STEP * BLOCK];
    const kd__dense_kernels *k = kd__dense_get();
    for (size_t at = 0; at < d->in; at += DEEP) {
        const size_t n = kd_min_size(DEEP, d->in - at);
        k->transpose(w, BLOCK, f->w + p->row * d->in + at, d->in, p->rows, n);
        k->product(&(kd__dense_product){.c = c,
                                        .ldc = BLOCK,
                                        .a = f->x + p->col * d->in + at,
                                        .lda = d->in,
                                        .b = w,
                                        .ldb = BLOCK,
                                        .rows = p->cols,
                                        .n = p->rows,
                                        .k = n,
                                        .add = at > 0});
    }
    k->finish(f->y + p->col * d->out + p->row, d->out, c, BLOCK, p->cols, p->rows,
              f->bias ? f->bias + p->row : NULL, f->relu);
}

void kd__dense_run_forward(const kd__dense *d, const kd__dense_forward *f)
{
    const grid g = cut(d->out, d->rows, BLOCK, 2 * STEP);
#pragma omp for schedule(static)
    for (size_t t = 0; t < pieces_of(&g); t++) {
        const piece p = piece_at(&g, t);
        forward_piece(d, f, &p);
    }
}

/* ---- backward ----------------------------------------------------------------------------- */

/* p: outputs by columns of dW. */
static void weights_piece(const kd__dense *d, const kd__dense_backward *g, const piece *p)
{
    _Alignas(64) float dy[BLOCK * STEP], sums[BLOCK];
    const kd__dense_kernels *k = kd__dense_get();
    for (size_t row = 0; row < d->rows; row += STEP) {
        const size_t n = kd_min_size(STEP, d->rows - row);
        k->transpose(dy, STEP, g->dy + row * d->out + p->row, d->out, n, p->rows);
        if (g->dbias && !p->col) {
            k->row_sums(row ? sums : g->dbias + p->row, dy, p->rows, n, STEP);
            if (row) kd__vec_get()->add_to(g->dbias + p->row, sums, p->rows);
        }
        k->product(&(kd__dense_product){.c = g->dw + p->row * d->in + p->col,
                                        .ldc = d->in,
                                        .a = dy,
                                        .lda = STEP,
                                        .b = g->x + row * d->in + p->col,
                                        .ldb = d->in,
                                        .rows = p->rows,
                                        .n = p->cols,
                                        .k = n,
                                        .add = row > 0});
    }
}

/* p: columns of dx by rows of the batch. */
static void data_piece(const kd__dense *d, const kd__dense_backward *g, const piece *p)
{
    for (size_t o = 0; o < d->out; o += DEEP)
        kd__dense_get()->product(&(kd__dense_product){.c = g->dx + p->col * d->in + p->row,
                                                      .ldc = d->in,
                                                      .a = g->dy + p->col * d->out + o,
                                                      .lda = d->out,
                                                      .b = g->w + o * d->in + p->row,
                                                      .ldb = d->in,
                                                      .rows = p->cols,
                                                      .n = p->rows,
                                                      .k = kd_min_size(DEEP, d->out - o),
                                                      .add = o > 0 || g->add});
}

void kd__dense_run_backward(const kd__dense *d, const kd__dense_backward *g)
{
    const grid dw = cut(d->out, d->in, BLOCK, d->in), dx = cut(d->in, d->rows, BLOCK, d->rows);
    if (g->y) {
#pragma omp for schedule(static)
        for (size_t row = 0; row < d->rows; row++)
            kd__vec_get()->relu_mask(g->dy + row * d->out, g->dy + row * d->out, g->y + row * d->out, d->out);
    }
#pragma omp for schedule(static) nowait
    for (size_t t = 0; t < pieces_of(&dw); t++) {
        const piece p = piece_at(&dw, t);
        weights_piece(d, g, &p);
    }
#pragma omp for schedule(static)
    for (size_t t = 0; t < (g->dx ? pieces_of(&dx) : 0); t++) {
        const piece p = piece_at(&dx, t);
        data_piece(d, g, &p);
    }
}
