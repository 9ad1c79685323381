/* dense.simd.c - the inner loops of linear layers on batches of fixed size (dense.c), once per instruction
 * set.
 *
 * A tile of C stays in registers while K goes by: each number of A is spread over a register and meets all
 * vectors of the tile in B. With AVX-512 a tile of 6 rows by 4 vectors needs 10 loads for 24 multiply-adds,
 * which keeps both of the CPU's units busy; where fewer columns are left, tiles are higher. Rows that come
 * next are asked for ahead.
 */
#include "lanes.h"

#if defined __AVX512F__
enum { VECTORS = 4, ROWS = 6, HIGH = 12 };
#else
enum { VECTORS = 2, ROWS = 6, HIGH = 6 };
#endif
enum { LINE = 16 };

/* One number of each of r rows of A, v vectors of B. */
INLINE void step(vec sum[][VECTORS], const float *const q[4], size_t lda, size_t k, const float *b, int r,
                 int v)
{
    vec w[VECTORS];
    UNROLL for (int x = 0; x < v; x++) w[x] = load(b + x * LANES);
    UNROLL for (int y = 0; y < r; y++)
    {
        const float f = q[y / 3][(size_t)(y % 3) * lda + k];
        UNROLL for (int x = 0; x < v; x++) sum[y][x] += f * w[x];
    }
}

/* C (r rows, v vectors) from (i, j) on; r and v are constants. */
INLINE void tile(const kd__dense_product *t, size_t i, size_t j, int r, int v)
{
    vec sum[HIGH][VECTORS];
    float *c = t->c + i * t->ldc + j;
    const float *b = t->b + j, *a = t->a + i * t->lda, *next = a + (size_t)r * t->lda;
    const size_t lda = t->lda, ldb = t->ldb;
    const float *const q[4] = {a, a + 3 * lda, a + 6 * lda, a + 9 * lda};
    UNROLL for (int y = 0; y < r; y++) UNROLL for (int x = 0; x < v; x++) sum[y][x] =
        t->add ? load(c + (size_t)y * t->ldc + x * LANES) : (vec){0};
    size_t k = 0;
    for (; k + LINE <= t->k; k += LINE) {
        UNROLL for (int y = 0; y < r; y++) __builtin_prefetch(next + (size_t)y * lda + k, 0, 3);
        for (size_t n = 0; n < LINE; n++, b += ldb) step(sum, q, lda, k + n, b, r, v);
    }
    for (; k < t->k; k++, b += ldb) step(sum, q, lda, k, b, r, v);
    UNROLL for (int y = 0; y < r; y++) UNROLL for (int x = 0; x < v; x++)
        store(c + (size_t)y * t->ldc + x * LANES, sum[y][x]);
}

/* v vectors of all rows, in tiles of about one height. */
INLINE void columns(const kd__dense_product *t, size_t j, int v)
{
    const int most = v == VECTORS ? ROWS : HIGH;
    const size_t tiles = (t->rows + (size_t)most - 1) / (size_t)most;
    for (size_t n = 0; n < tiles; n++) {
        const size_t i = t->rows * n / tiles;
        switch (t->rows * (n + 1) / tiles - i) {
#define CASE(r)                                                                                              \
    case r: tile(t, i, j, (r) <= most ? (r) : 1, v); break;
            CASE(12) CASE(11) CASE(10) CASE(9) CASE(8) CASE(7) CASE(6) CASE(5) CASE(4) CASE(3) CASE(2) CASE(1)
#undef CASE
        }
    }
}

static void product(const kd__dense_product *t)
{
    size_t j = 0;
    for (; j + VECTORS * LANES <= t->n; j += VECTORS * LANES) columns(t, j, VECTORS);
    if (VECTORS > 2 && j + 2 * LANES <= t->n) {
        columns(t, j, 2);
        j += 2 * LANES;
    }
    for (; j < t->n; j += LANES) columns(t, j, 1);
}

/* ---- transposing -------------------------------------------------------------------------- */

/* A square of LANES, or what there is of it; the rest is 0. */
INLINE void transpose_at(float *to, size_t to_row, const float *from, size_t from_row, size_t rows,
                         size_t cols)
{
    vec m[LANES];
    UNROLL for (size_t r = 0; r < LANES; r++) m[r] = r >= rows       ? (vec){0}
                                                     : cols == LANES ? load(from + r * from_row)
                                                                     : load_some(from + r * from_row, cols);
    transpose_square(m);
    UNROLL for (size_t c = 0; c < LANES; c++) if (c < cols) store(to + c * to_row, m[c]);
}

static void transpose(float *to, size_t to_row, const float *from, size_t from_row, size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i += LANES)
        for (size_t j = 0; j < cols; j += LANES) {
            const size_t r = kd_min_size(LANES, rows - i), c = kd_min_size(LANES, cols - j);
            float *at = to + j * to_row + i;
            if (r == LANES && c == LANES)
                transpose_at(at, to_row, from + i * from_row + j, from_row, LANES, LANES);
            else
                transpose_at(at, to_row, from + i * from_row + j, from_row, r, c);
        }
}

/* ---- around the products ------------------------------------------------------------------ */

static void finish(float *y, size_t y_row, const float *c, size_t c_row, size_t rows, size_t cols,
                   const float *bias, bool relu)
{
    for (size_t j = 0; j < cols; j += LANES) {
        const size_t n = kd_min_size(LANES, cols - j);
        const vec b = bias ? load_some(bias + j, n) : (vec){0};
        for (size_t i = 0; i < rows; i++) {
            vec v = load(c + i * c_row + j);
            if (bias) v += b;
            if (relu) v = either(v < 0, (vec){0}, v);
            if (n == LANES)
                store(y + i * y_row + j, v);
            else
                store_some(y + i * y_row + j, v, n);
        }
    }
}

static void row_sums(float *sums, const float *x, size_t rows, size_t n, size_t ld)
{
    for (size_t r = 0; r < rows; r++, x += ld) {
        vec s = {0};
        for (size_t i = 0; i < n; i += LANES) s += load(x + i);
        sums[r] = total(s);
    }
}

const kd__dense_kernels NAME(kd__dense) = {
    .product = product,
    .transpose = transpose,
    .finish = finish,
    .row_sums = row_sums,
};
