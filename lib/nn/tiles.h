/* tiles.h - what the kernels of encoders and decoders share: walks over vectors, small products.
 *
 * All products are one form: a tile of rows by two vectors of C in registers, numbers of A spread over a
 * vector, rows of B as they are. A has two strides, so it may be read transposed. With pairs (pairs.h) the
 * elements of A and B are two bf16 numbers that are neighbours along K.
 */
#ifndef KD_NN_TILES_H
#define KD_NN_TILES_H

#include "pairs.h"

enum { TILE = LANES == 16 ? 8 : 4 }; /* rows */

/* Walks n numbers by vectors: the statements see a constant `some` but for the last ones. */
#define FOR_VECTORS(i, n, some, ...)                                                                         \
    do {                                                                                                     \
        size_t i = 0;                                                                                        \
        for (; i + LANES <= (n); i += LANES) {                                                               \
            enum { some = LANES };                                                                           \
            __VA_ARGS__;                                                                                     \
        }                                                                                                    \
        if (i < (n)) {                                                                                       \
            const size_t some = (n)-i;                                                                       \
            __VA_ARGS__;                                                                                     \
        }                                                                                                    \
    } while (0)

INLINE size_t whole(size_t n) { return (n + LANES - 1) / LANES * LANES; }

typedef struct matrix { /* element (i, j) at i * row + j * col */
    const float *at;
    size_t row, col;
} matrix;

/* C (rows, v vectors) = or += A (rows, k) B (k, v vectors). */
INLINE void tile(float *c, size_t ldc, matrix a, const float *b, size_t ldb, size_t k, int rows, int v,
                 bool add, bool pairs)
{
    vec sum[TILE][2];
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < v; j++) sum[i][j] =
        add ? load(c + (size_t)i * ldc + j * LANES) : all(0);
    for (size_t p = 0; p < k; p++, b += ldb, a.at += a.col) {
        vec w[2];
        UNROLL for (int j = 0; j < v; j++) w[j] = load(b + j * LANES);
        UNROLL for (int i = 0; i < rows; i++)
        {
            const vec x = pairs ? all_pairs(a.at[(size_t)i * a.row]) : all(a.at[(size_t)i * a.row]);
            UNROLL for (int j = 0; j < v; j++) sum[i][j] =
                pairs ? add_products(sum[i][j], x, w[j]) : sum[i][j] + x * w[j];
        }
    }
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < v; j++)
        store(c + (size_t)i * ldc + j * LANES, sum[i][j]);
}

INLINE void tiles(float *c, size_t ldc, matrix a, const float *b, size_t ldb, size_t rows, size_t k, int v,
                  bool add, bool pairs)
{
    for (; rows >= TILE; rows -= TILE, c += TILE * ldc, a.at += TILE * a.row)
        tile(c, ldc, a, b, ldb, k, TILE, v, add, pairs);
    for (; rows; rows--, c += ldc, a.at += a.row) tile(c, ldc, a, b, ldb, k, 1, v, add, pairs);
}

/* C (rows, n) = or += A (rows, k) B (k, n); n whole vectors, k elements. */
INLINE void product(float *c, size_t ldc, matrix a, const float *b, size_t ldb, size_t rows, size_t n,
                    size_t k, bool add, bool pairs)
{
    size_t j = 0;
    for (; j + 2 * LANES <= n; j += 2 * LANES) tiles(c + j, ldc, a, b + j, ldb, rows, k, 2, add, pairs);
    if (j < n) tiles(c + j, ldc, a, b + j, ldb, rows, k, 1, add, pairs);
}

#endif
