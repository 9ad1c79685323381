/* dense.simd.c - the inner loops of linear layers on batches of fixed size (dense.c), once per instruction
 * set.
 *
 * A tile of C, ROWS rows by VECTORS registers, stays in registers while K goes by: each number of A is spread
 * over a register and meets VECTORS of B. With AVX-512 that is 24 accumulators and 10 loads for 24
 * multiply-adds: both of the CPU's units stay busy. Rows and columns that are left over make smaller tiles.
 */
#include "lanes.h"

#if defined __AVX512F__
enum { ROWS = 6, VECTORS = 4 };
#else
enum { ROWS = 6, VECTORS = 2 };
#endif

/* C (r rows, v vectors) from (i, j) on; r and v are constants. */
INLINE void tile(const kd__dense_product *t, size_t i, size_t j, int r, int v)
{
    vec sum[ROWS][VECTORS];
    float *c = t->c + i * t->ldc + j;
    const float *b = t->b + j, *a = t->a + i * t->lda;
    const size_t lda = t->lda, ldb = t->ldb;
    UNROLL for (int y = 0; y < r; y++) UNROLL for (int x = 0; x < v; x++) sum[y][x] =
        t->add ? load(c + (size_t)y * t->ldc + x * LANES) : (vec){0};
    const float *half[2] = {a, a + 3 * lda};
    for (size_t k = 0; k < t->k; k++, b += ldb) {
        vec w[VECTORS];
        UNROLL for (int x = 0; x < v; x++) w[x] = load(b + x * LANES);
        UNROLL for (int y = 0; y < r; y++)
        {
            const float f = half[y / 3][(size_t)(y % 3) * lda + k];
            UNROLL for (int x = 0; x < v; x++) sum[y][x] += f * w[x];
        }
    }
    UNROLL for (int y = 0; y < r; y++) UNROLL for (int x = 0; x < v; x++)
        store(c + (size_t)y * t->ldc + x * LANES, sum[y][x]);
}

/* All rows of v vectors. Where two tiles are left, they are of one size. */
INLINE void columns(const kd__dense_product *t, size_t j, int v)
{
    for (size_t i = 0, r; i < t->rows; i += r) {
        const size_t left = t->rows - i;
        r = left >= 2 * ROWS ? ROWS : left > ROWS ? (left + 1) / 2 : left;
        switch (r) {
        case 6: tile(t, i, j, 6, v); break;
        case 5: tile(t, i, j, 5, v); break;
        case 4: tile(t, i, j, 4, v); break;
        case 3: tile(t, i, j, 3, v); break;
        case 2: tile(t, i, j, 2, v); break;
        default: tile(t, i, j, 1, v); break;
        }
    }
}

static void product(const kd__dense_product *t)
{
    size_t j = 0;
    for (; j + VECTORS * LANES <= t->n; j += VECTORS * LANES) columns(t, j, VECTORS);
    if (j + 2 * LANES <= t->n && VECTORS > 2) {
        columns(t, j, 2);
        j += 2 * LANES;
    }
    if (j < t->n) columns(t, j, 1);
}

/* ---- transposing -------------------------------------------------------------------------- */

/* Lane l of two rows that are `s` apart, where the bit s of a lane and of a row change places. */
#define UPPER(l, s)   ((l) & (s) ? LANES + (l) - (s) : (l))
#define LOWER(l, s)   ((l) & (s) ? LANES + (l) : (l) + (s))
#define FOUR(f, l, s) f(l, s), f(l + 1, s), f(l + 2, s), f(l + 3, s)
#if defined __AVX512F__
#define EACH(f, s) FOUR(f, 0, s), FOUR(f, 4, s), FOUR(f, 8, s), FOUR(f, 12, s)
#elif defined __AVX2__
#define EACH(f, s) FOUR(f, 0, s), FOUR(f, 4, s)
#else
#define EACH(f, s) FOUR(f, 0, s)
#endif
#define EXCHANGE(m, s)                                                                                       \
    UNROLL for (int i = 0; i < LANES; i++) if (!(i & (s)))                                                   \
    {                                                                                                        \
        const vec a = (m)[i], b = (m)[i + (s)];                                                              \
        (m)[i] = __builtin_shufflevector(a, b, EACH(UPPER, s));                                              \
        (m)[i + (s)] = __builtin_shufflevector(a, b, EACH(LOWER, s));                                        \
    }

INLINE void transpose_square(vec m[LANES])
{
    EXCHANGE(m, 1)
    EXCHANGE(m, 2)
#if defined __AVX2__ || defined __AVX512F__
    EXCHANGE(m, 4)
#endif
#if defined __AVX512F__
    EXCHANGE(m, 8)
#endif
}

/* A square of LANES, or what there is of it. */
INLINE void transpose_at(const kd__dense_transpose *t, size_t i, size_t j, size_t rows, size_t cols)
{
    vec m[LANES];
    const float *from = t->from + i * t->from_row + j;
    float *to = t->to + j * t->to_row + i;
    UNROLL for (size_t r = 0; r < LANES; r++) m[r] = r >= rows ? (vec){0}
                                                     : cols == LANES
                                                         ? load(from + r * t->from_row)
                                                         : load_some(from + r * t->from_row, cols);
    transpose_square(m);
    const vec bias = t->bias ? rows == LANES ? load(t->bias + i) : load_some(t->bias + i, rows) : (vec){0};
    UNROLL for (size_t c = 0; c < LANES; c++)
    {
        if (c >= cols) break;
        vec v = t->bias ? m[c] + bias : m[c];
        if (t->relu) v = either(v < 0, (vec){0}, v);
        if (rows == LANES || t->pad)
            store(to + c * t->to_row, v);
        else
            store_some(to + c * t->to_row, v, rows);
    }
}

static void transpose(const kd__dense_transpose *t)
{
    for (size_t i = 0; i < t->rows; i += LANES)
        for (size_t j = 0; j < t->cols; j += LANES) {
            const size_t rows = kd_min_size(LANES, t->rows - i), cols = kd_min_size(LANES, t->cols - j);
            if (rows == LANES && cols == LANES)
                transpose_at(t, i, j, LANES, LANES);
            else
                transpose_at(t, i, j, rows, cols);
        }
}

static void row_sums(float *sums, const float *x, size_t rows, size_t ld)
{
    for (size_t r = 0; r < rows; r++, x += ld) {
        vec s = {0};
        for (size_t i = 0; i < ld; i += LANES) s += load(x + i);
        sums[r] = total(s);
    }
}

const kd__dense_kernels NAME(kd__dense) = {
    .product = product,
    .transpose = transpose,
    .row_sums = row_sums,
};
