/* panels.simd.c - the inner loops of products for token models (panels.c), once per instruction set.
 *
 * One operand lies in panels: as many columns as three registers have lanes, one behind the other along K.
 * The other one is read where it is. A tile of C, ROWS rows by one panel, stays in registers while a step of
 * K goes by: each number of A is spread over a register and meets three of B. That is as many accumulators as
 * there are registers for, and on AVX-512 98 % of the CPU's peak (bench/kernels.c measures it).
 */
#include "lanes.h"

#if defined __AVX512F__
enum { ROWS = 8 };
#else
enum { ROWS = 4 };
#endif
enum { VECTORS = 3, WIDTH = VECTORS * LANES };

typedef struct matrix { /* element (i, p) at i * row + p * col */
    const float *at;
    size_t row, col;
} matrix;

/* C = start, or C +, A (ROWS, k) B (k, WIDTH) */
INLINE void tile(float *c, size_t ldc, const float *start, size_t start_row, matrix a, const float *b,
                 size_t k, bool relu)
{
    vec sum[ROWS][VECTORS];
    UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] =
        start ? load(start + (size_t)i * start_row + j * LANES) : all(0);
    for (size_t p = 0; p < k; p++, b += WIDTH, a.at += a.col) {
        vec w[VECTORS];
        UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load(b + j * LANES);
        UNROLL for (int i = 0; i < ROWS; i++)
        {
            const vec x = all(a.at[(size_t)i * a.row]);
            UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] += x * w[j];
        }
    }
    UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int j = 0; j < VECTORS; j++)
    {
        const vec v = sum[i][j]; // a NaN is not below 0 and stays
        store(c + (size_t)i * ldc + j * LANES, relu ? either(v < 0, all(0), v) : v);
    }
}

/* A tile that has less than ROWS rows or WIDTH columns: through a copy. */
static void edge(float *c, size_t ldc, const float *start, size_t start_row, matrix a, const float *b,
                 size_t k, bool relu, size_t rows, size_t width)
{
    _Alignas(64) float from[ROWS * WIDTH] = {0}, to[ROWS * WIDTH];
    for (size_t i = 0; start && i < rows; i++)
        memcpy(from + i * WIDTH, start + i * start_row, width * sizeof *from);
    tile(to, WIDTH, from, WIDTH, a, b, k, relu);
    for (size_t i = 0; i < rows; i++) memcpy(c + i * ldc, to + i * WIDTH, width * sizeof *c);
}

/* Rows by a panel; `rows` of A may be read up to the next multiple of ROWS. */
INLINE void column(const kd__panel_product *t, size_t rows, size_t a_step, matrix a)
{
    const size_t start_row = t->bias ? 0 : t->ldc;
    for (size_t i = 0; i < rows; i += ROWS, a.at += a_step) {
        float *c = t->c + i * t->ldc;
        const float *start = t->bias ? t->bias : t->add ? c : NULL;
        if (rows - i >= ROWS && t->width == WIDTH)
            tile(c, t->ldc, start, start_row, a, t->b, t->k, t->relu);
        else
            edge(c, t->ldc, start, start_row, a, t->b, t->k, t->relu, kd_min_size(ROWS, rows - i), t->width);
    }
}

static void rows_by_panel(const kd__panel_product *t, const float *a, size_t lda, size_t rows)
{
    column(t, rows, ROWS * lda, (matrix){a, lda, 1});
}

/* A in panels of ROWS rows, transposed: (rows / ROWS, k, ROWS). */
static void panels_by_panel(const kd__panel_product *t, const float *a, size_t rows)
{
    column(t, rows, ROWS * t->k, (matrix){a, 1, ROWS});
}

/* to (k, lanes) = columns of b (k, ldb); those from `width` on are 0. */
INLINE void pack(float *to, const float *b, size_t ldb, size_t k, size_t width, size_t lanes)
{
    for (size_t p = 0; p < k; p++, to += lanes, b += ldb) {
        for (size_t j = 0; j < width; j++) to[j] = b[j];
        for (size_t j = width; j < lanes; j++) to[j] = 0;
    }
}

static void pack_panel(float *to, const float *b, size_t ldb, size_t k, size_t width)
{
    if (width == WIDTH)
        pack(to, b, ldb, k, WIDTH, WIDTH);
    else
        pack(to, b, ldb, k, width, WIDTH);
}

static void pack_rows(float *to, const float *a, size_t lda, size_t k, size_t width)
{
    if (width == ROWS)
        pack(to, a, lda, k, ROWS, ROWS);
    else
        pack(to, a, lda, k, width, ROWS);
}

/* The same of b (width, ldb) transposed, a block of it at a time so that lines are used whole. */
static void pack_transposed(float *to, const float *b, size_t ldb, size_t k, size_t width)
{
    enum { BLOCK = 16 };
    for (size_t p = 0; p < k; p += BLOCK)
        for (size_t j = 0; j < WIDTH; j++) {
            const size_t n = kd_min_size(BLOCK, k - p);
            for (size_t i = 0; i < n; i++) to[(p + i) * WIDTH + j] = j < width ? b[j * ldb + p + i] : 0.0f;
        }
}

const kd__panel_kernels NAME(kd__panels) = {
    .rows = ROWS,
    .width = WIDTH,
    .rows_by_panel = rows_by_panel,
    .panels_by_panel = panels_by_panel,
    .pack_panel = pack_panel,
    .pack_rows = pack_rows,
    .pack_transposed = pack_transposed,
};
