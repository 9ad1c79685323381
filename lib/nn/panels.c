/* panels.c - products of token models, whose number of rows differs from batch to batch.
 *
 * Library kernels are planned for one shape; with any number of rows they compute the rest of a tile in vain,
 * and they copy the weights into their own order for every tile. Here weights are laid out in panels once a
 * pass, and rows come as they are. A number of C is the sum over K in its order, K cut in steps of STEP, so
 * that it depends neither on the plan nor on where its row is, nor on how the work is shared: a piece is
 * BLOCK rows by COLUMNS columns, fewer columns where there are few rows, and one thread does it.
 *
 * Operands of bf16, as such or in f32, are rounded on their way: weights and the operands of gradients while
 * they are laid out, rows of A in a copy that the team makes and layers share that read the same. As such,
 * two neighbours along K are one element of 32 bits: the same loops over half as many.
 *
 * A gradient of weights has the rows of the batch as its K. Both operands are laid out in panels, a chunk of
 * CHUNK elements at a time; then a thread that has a square of the gradient adds up chunk after chunk. Laying
 * out is a walk through memory, so what else has to be done with x and dy is done on the way: sums of dy's
 * columns for the gradient of a bias, and an x that is a function of what is kept.
 */
#include "nn_private.h"

#include <omp.h>
#include <string.h>

enum {
    STEP = 384,
    BLOCK = 128, /* rows of A at a time */
    COLUMNS = 384,
    PIECES = 32,
    SQUARE = 192,
    CHUNK = 256,
    SLICE = 1536, /* of columns: a multiple of all panels' widths */
    ROWS = 16,    /* that are made operands at a time */
    SUMS = 64,    /* columns that are added up at a time, likewise */
    MAX_WIDTH = 64
};

const kd__panel_kernels *kd__panels_get(void)
{
    const kd_isa isa = kd_cpu_isa();
    return isa >= KD_ISA_AVX512BF16 ? &kd__panels_avx512bf16
           : isa >= KD_ISA_AVX512   ? &kd__panels_avx512
           : isa >= KD_ISA_AVX2     ? &kd__panels_avx2
                                    : &kd__panels_scalar;
}

static size_t up(size_t n, size_t step) { return (n + step - 1) / step * step; }

size_t kd__panels_depth(kd__operands o, size_t k) { return o == KD__BF16 ? (k + 1) / 2 : k; }

size_t kd__panels_floats(kd__operands o, size_t k, size_t n)
{
    return kd__panels_depth(o, k) * up(n, kd__panels_get()->width);
}

static size_t x_width(const kd__panels_gradient *g) { return up(g->in, kd__panels_get()->width); }
static size_t dy_width(const kd__panels_gradient *g) { return up(g->out, kd__panels_get()->rows); }

static size_t depth_of(const kd__panels_gradient *g, size_t rows)
{
    return kd__panels_depth(g->operands, rows);
}

/* Rows of one: an even number. */
static size_t chunk_of(const kd__panels_gradient *g) { return g->operands == KD__BF16 ? 2 * CHUNK : CHUNK; }
static size_t chunks_of(const kd__panels_gradient *g) { return up(g->rows, chunk_of(g)) / chunk_of(g); }

/* Panels of dy, and each chunk's sums of dy's columns behind them. */
static size_t sums_at(const kd__panels_gradient *g) { return depth_of(g, g->rows) * dy_width(g); }
size_t kd__panels_stage(const kd__panels_gradient *g)
{
    return sums_at(g) + (g->bias ? chunks_of(g) * g->out : 0);
}

void kd__panels_pack(float *to, const float *b, size_t k, size_t n, bool transposed, kd__operands o)
{
    const kd__panel_kernels *p = kd__panels_get();
    const size_t depth = kd__panels_depth(o, k);
#pragma omp for schedule(static) nowait
    for (size_t j = 0; j < n; j += p->width) {
        const size_t width = kd_min_size(p->width, n - j);
        if (transposed)
            p->pack_transposed(to + j * depth, b + j * k, k, k, width, o);
        else
            p->pack_panel(to + j * depth, b + j, n, k, width, o);
    }
}

void kd__panels_rows(float *to, const float *a, size_t lda, size_t rows, size_t k, kd__operands o)
{
    const size_t depth = kd__panels_depth(o, k);
    for (size_t r = 0; r < rows; r++, to += depth, a += lda)
        if (o == KD__BF16)
            kd__panels_get()->pair(to, a, k);
        else if (o == KD__ROUNDED)
            kd__make_operand(to, a, k, KD__ROUNDED);
        else
            memcpy(to, a, k * sizeof *to);
}

size_t kd__panels_rows_floats(kd__operands o, size_t rows, size_t k)
{
    return o == KD__F32 ? 0 : rows * kd__panels_depth(o, k);
}

void kd__panels_share_rows(float *to, const float *a, size_t rows, size_t k, kd__operands o)
{
    if (o == KD__F32) return;
#pragma omp for schedule(static) nowait
    for (size_t i = 0; i < rows; i += ROWS)
        kd__panels_rows(to + i * kd__panels_depth(o, k), a + i * k, k, kd_min_size(ROWS, rows - i), k, o);
}

/* What tiles of panel `at` of so many ask for: the panel behind it, and their share of A's next rows, which
 * the panels of a piece pass through side by side. */
static void look_ahead(kd__panel_product *t, size_t at, size_t panels, const float *a, size_t lda)
{
    const size_t rows = kd__panels_get()->rows, each = (rows + panels - 1) / panels;
    if (at * each >= rows) return;
    t->next_a = a + at * each * lda;
    t->next_lda = lda;
    t->next_rows = each;
}

/* Share t of n of what will be read soon. */
static kd__soon share_of(const kd__soon *s, size_t t, size_t n)
{
    const size_t floats = s->floats / n;
    return (kd__soon){s->at + t * floats, floats};
}

/* A piece of C. */
typedef struct piece {
    size_t i, j, columns;
    size_t next_i; /* rows of the piece that this thread will likely do next */
    kd__soon soon;
} piece;

static void block(const kd__panels_call *call, const piece *c)
{
    const size_t i = c->i, j = c->j, depth = kd__panels_depth(call->operands, call->k);
    const kd__panel_kernels *p = kd__panels_get();
    const size_t rows = kd_min_size(BLOCK, call->m - i), end = kd_min_size(call->n, j + c->columns),
                 panels = up(end - j, p->width) / p->width;
    const float *a = call->a + i * depth, *soon = c->soon.at;
    const size_t soon_floats = c->soon.floats / (panels * up(depth, STEP) / STEP);
    for (size_t k = 0; k < depth; k += STEP) {
        const bool last = k + STEP >= depth;
        const size_t step = kd_min_size(STEP, depth - k);
        const float *next = last ? call->a + c->next_i * depth : a + k + STEP;
        for (size_t at = 0; at < panels; at++) {
            const size_t col = j + at * p->width;
            kd__panel_product t = {.c = call->c + i * call->n + col,
                                   .ldc = call->n,
                                   .b = call->b + col * depth + k * p->width,
                                   .k = step,
                                   .width = kd_min_size(p->width, call->n - col),
                                   .bias = call->bias && !k ? call->bias + col : NULL,
                                   .add = k || call->add,
                                   .relu = call->relu && last,
                                   .pairs = call->operands == KD__BF16};
            t.next_b = t.b + depth * p->width;
            t.next_floats = step * p->width;
            t.soon = soon;
            t.soon_floats = soon_floats;
            soon += soon_floats;
            look_ahead(&t, at, panels, next, depth);
            p->rows_by_panel(&t, a + k, depth, rows);
        }
    }
    for (size_t r = 0; call->then && r < rows; r++) call->then(call->of, (i + r) * call->n + j, end - j);
}

void kd__panels_product(const kd__panels_call *call)
{
    const size_t width = kd__panels_get()->width, high = up(call->m, BLOCK) / BLOCK;
    size_t columns = up(COLUMNS, width);
    while (columns > width && high * (up(call->n, columns) / columns) < PIECES) columns -= width;
    const size_t wide = up(call->n, columns) / columns;
    const bool rows_first = call->n > call->m; // the larger operand passes once
    const size_t team = (size_t)omp_get_num_threads();
#pragma omp for schedule(dynamic) nowait
    for (size_t t = 0; t < high * wide; t++) {
        const size_t then = kd_min_size(t + team, high * wide - 1);
        const piece c = {.i = (rows_first ? t % high : t / wide) * BLOCK,
                         .j = (rows_first ? t / high : t % wide) * columns,
                         .columns = columns,
                         .next_i = (rows_first ? then % high : then / wide) * BLOCK,
                         .soon = share_of(&call->soon, t, high * wide)};
        block(call, &c);
    }
}

/* SLICE columns of x or dy (k rows) from `from` on, in panels of `width` numbers a row at `to`. */
static void gather_x(const kd__panels_gradient *g, float *to, const float *x, size_t from, size_t k)
{
    const size_t width = kd__panels_get()->width;
    for (size_t at = from; at < g->in && at < from + SLICE; at += width)
        kd__panels_get()->pack_panel(to + at * depth_of(g, k), x + at, g->in, k,
                                     kd_min_size(width, g->in - at), g->operands);
}

/* The same where x has to be made, an element's rows at a time. */
static void make_x(const kd__panels_gradient *g, float *to, float *x, size_t from, size_t k)
{
    const size_t width = kd__panels_get()->width, end = kd_min_size(g->in, from + SLICE),
                 each = g->operands == KD__BF16 ? 2 : 1;
    for (size_t p = 0; p < k; p += each)
        for (size_t at = from; at < end; at += width) {
            const size_t n = kd_min_size(width, end - at), rows = kd_min_size(each, k - p);
            float made[2 * MAX_WIDTH];
            for (size_t i = 0; i < rows; i++) g->make_x(made + i * width, x + (p + i) * g->in + at, n);
            kd__panels_get()->pack_panel(to + at * depth_of(g, k) + p / each * width, made, width, rows, n,
                                         g->operands);
        }
}

static void gather_dy(const kd__panels_gradient *g, float *to, const float *dy, float *sums, size_t from,
                      size_t k)
{
    for (size_t at = from; at < g->out && at < from + SLICE; at += SUMS) {
        const size_t n = kd_min_size(SUMS, g->out - at);
        if (g->bias) kd__vec_get()->col_sum(sums + at, dy + at, k, n, g->out);
        kd__panels_get()->pack_rows(to + at * depth_of(g, k), dy + at, g->out, k, n, g->operands);
    }
}

/* Panels of both operands, a chunk at a time. */
void kd__panels_gather(const kd__panels_gradient *g)
{
    const size_t of_x = g->ready ? 0 : up(g->in, SLICE) / SLICE, slices = of_x + up(g->out, SLICE) / SLICE;
#pragma omp for schedule(static) nowait
    for (size_t t = 0; t < chunks_of(g) * slices; t++) {
        const size_t r = t / slices * chunk_of(g), at = t % slices, k = kd_min_size(chunk_of(g), g->rows - r);
        float *x = g->panels + depth_of(g, r) * x_width(g);
        if (at < of_x && g->make_x)
            make_x(g, x, g->x + r * g->in, at * SLICE, k);
        else if (at < of_x)
            gather_x(g, x, g->x + r * g->in, at * SLICE, k);
        else
            gather_dy(g, g->stage + depth_of(g, r) * dy_width(g), g->dy + r * g->out,
                      g->stage + sums_at(g) + t / slices * g->out, (at - of_x) * SLICE, k);
    }
}

/* dW from (i, j) on, a square of it at most. */
static void square(const kd__panels_gradient *g, size_t i, size_t j, kd__soon s)
{
    const kd__panel_kernels *p = kd__panels_get();
    const size_t high = kd_min_size(SQUARE, g->out - i), wide = kd_min_size(SQUARE, g->in - j),
                 panels = up(wide, p->width) / p->width, soon_floats = s.floats / (panels * chunks_of(g));
    const float *soon = s.at;
    for (size_t r = 0; r < g->rows; r += chunk_of(g)) {
        const size_t chunk = kd_min_size(chunk_of(g), g->rows - r), k = depth_of(g, chunk),
                     then = depth_of(g, kd_min_size(chunk_of(g), g->rows - r - chunk));
        const float *x = g->panels + depth_of(g, r) * x_width(g),
                    *dy = g->stage + depth_of(g, r) * dy_width(g), *next = dy + k * dy_width(g);
        for (size_t at = 0; at < panels; at++) {
            const size_t col = j + at * p->width;
            kd__panel_product t = {.c = g->dw + i * g->in + col,
                                   .ldc = g->in,
                                   .b = x + col * k,
                                   .k = k,
                                   .width = kd_min_size(p->width, g->in - col),
                                   .add = r > 0 || g->add,
                                   .pairs = g->operands == KD__BF16};
            t.next_b = at + 1 < panels ? t.b + k * p->width : x + k * x_width(g) + j * then;
            t.next_floats = k * p->width;
            t.soon = soon;
            t.soon_floats = soon_floats;
            soon += soon_floats;
            if (then) look_ahead(&t, at, panels, next + i * then, then);
            p->panels_by_panel(&t, dy + i * k, high);
        }
    }
}

void kd__panels_gradients(const kd__panels_gradient *g)
{
    const size_t columns = up(g->in, SQUARE) / SQUARE, squares = up(g->out, SQUARE) / SQUARE * columns;
#pragma omp for schedule(dynamic) nowait
    for (size_t t = 0; t < squares; t++)
        square(g, t / columns * SQUARE, t % columns * SQUARE, share_of(&g->soon, t, squares));
#pragma omp for schedule(static) nowait
    for (size_t b = 0; b < (g->bias ? g->out : 0); b += SUMS)
        kd__vec_get()->col_sum(g->dbias + b, g->stage + sums_at(g) + b, chunks_of(g),
                               kd_min_size(SUMS, g->out - b), g->out);
}
