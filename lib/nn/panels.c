/* panels.c - products of token models, whose number of rows differs from batch to batch.
 *
 * Library kernels are planned for one shape; with any number of rows they compute the rest of a tile in vain,
 * and they copy the weights into their own order for every tile. Here weights are laid out in panels once a
 * pass, and rows come as they are. A number of C is the sum over K in its order, K cut in steps of STEP, so
 * that it depends neither on the plan nor on where its row is, nor on how the work is shared: a piece is
 * BLOCK rows by COLUMNS columns, fewer columns where there are few rows, and one thread does it.
 *
 * A gradient of weights, whose K is the rows of the batch, is cut into squares. A thread that has one copies
 * CHUNK rows at a time of both operands into panels of its own and adds up chunk after chunk.
 */
#include "nn_private.h"

enum { STEP = 384, BLOCK = 128, COLUMNS = 384, PIECES = 32, SQUARE = 192, CHUNK = 192 };

const kd__panel_kernels *kd__panels_get(void)
{
    const kd_isa isa = kd_cpu_isa();
    return isa >= KD_ISA_AVX512 ? &kd__panels_avx512
           : isa >= KD_ISA_AVX2 ? &kd__panels_avx2
                                : &kd__panels_scalar;
}

static size_t up(size_t n, size_t step) { return (n + step - 1) / step * step; }

size_t kd__panels_floats(size_t k, size_t n) { return k * up(n, kd__panels_get()->width); }

size_t kd__panels_stage(void)
{
    const kd__panel_kernels *p = kd__panels_get();
    return CHUNK * (up(SQUARE, p->rows) + up(SQUARE, p->width));
}

void kd__panels_pack(float *to, const float *b, size_t k, size_t n, bool transposed)
{
    const kd__panel_kernels *p = kd__panels_get();
#pragma omp for schedule(static) nowait
    for (size_t j = 0; j < n; j += p->width) {
        const size_t width = kd_min_size(p->width, n - j);
        if (transposed)
            p->pack_transposed(to + j * k, b + j * k, k, k, width);
        else
            p->pack_panel(to + j * k, b + j, n, k, width);
    }
}

/* Rows from i on by `columns` columns from j on. */
static void block(const kd__panels_call *call, size_t i, size_t j, size_t columns)
{
    const kd__panel_kernels *p = kd__panels_get();
    const size_t rows = kd_min_size(BLOCK, call->m - i), end = kd_min_size(call->n, j + columns);
    for (size_t k = 0; k < call->k; k += STEP)
        for (size_t at = j; at < end; at += p->width) {
            const kd__panel_product t = {.c = call->c + i * call->n + at,
                                         .ldc = call->n,
                                         .b = call->b + at * call->k + k * p->width,
                                         .k = kd_min_size(STEP, call->k - k),
                                         .width = kd_min_size(p->width, call->n - at),
                                         .bias = call->bias && !k ? call->bias + at : NULL,
                                         .add = k || call->add,
                                         .relu = call->relu && k + STEP >= call->k};
            p->rows_by_panel(&t, call->a + i * call->k + k, call->k, rows);
        }
}

void kd__panels_product(const kd__panels_call *call)
{
    const size_t width = kd__panels_get()->width, high = up(call->m, BLOCK) / BLOCK;
    size_t columns = up(COLUMNS, width);
    while (columns > width && high * (up(call->n, columns) / columns) < PIECES) columns -= width;
    const size_t wide = up(call->n, columns) / columns;
#pragma omp for schedule(dynamic) nowait
    for (size_t t = 0; t < high * wide; t++) block(call, t / wide * BLOCK, t % wide * columns, columns);
}

/* dW from (i, j) on, a square of it at most. */
static void square(const kd__panels_gradient *g, size_t i, size_t j, float *stage)
{
    const kd__panel_kernels *p = kd__panels_get();
    const size_t high = kd_min_size(SQUARE, g->out - i), wide = kd_min_size(SQUARE, g->in - j);
    float *const x = stage, *const dy = stage + CHUNK * up(SQUARE, p->width);
    for (size_t r = 0; r < g->rows; r += CHUNK) {
        const size_t k = kd_min_size(CHUNK, g->rows - r);
        for (size_t at = 0; at < wide; at += p->width)
            p->pack_panel(x + at * k, g->x + r * g->in + j + at, g->in, k, kd_min_size(p->width, wide - at));
        for (size_t at = 0; at < high; at += p->rows)
            p->pack_rows(dy + at * k, g->dy + r * g->out + i + at, g->out, k,
                         kd_min_size(p->rows, high - at));
        for (size_t at = 0; at < wide; at += p->width) {
            const kd__panel_product t = {.c = g->dw + i * g->in + j + at,
                                         .ldc = g->in,
                                         .b = x + at * k,
                                         .k = k,
                                         .width = kd_min_size(p->width, wide - at),
                                         .add = r > 0};
            p->panels_by_panel(&t, dy, high);
        }
    }
}

void kd__panels_gradients(const kd__panels_gradient *g, const kd__team *team)
{
    const size_t columns = up(g->in, SQUARE) / SQUARE, squares = up(g->out, SQUARE) / SQUARE * columns;
#pragma omp for schedule(dynamic) nowait
    for (size_t t = 0; t < squares; t++)
        square(g, t / columns * SQUARE, t % columns * SQUARE, kd__team_stage(team));
}
