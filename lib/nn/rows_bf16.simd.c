/* rows_bf16.simd.c - the products of rows.c with operands in bf16, for AVX-512's vdpbf16ps.
 *
 * A pair (pairs.h) takes the place of a float and everything else is as in f32 (rows_tiles.h). Pairs are
 * neighbouring channels where a product sums over channels; the gradient of the weights sums over pixels, and
 * its pairs are the same number of two images.
 */
#include "pairs.h"

#define MEET(sum, a, u) add_products(sum, all_pairs(a), u)
#include "rows_tiles.h"

/* to: pairs of neighbours */
static void neighbours(float *to, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + PAIR <= n; i += PAIR) store(to + i / 2, pairs_of(load(x + i), load(x + i + LANES)));
    if (i < n) store_some(to + i / 2, pairs_of(load(x + i), (vec){0}), LANES / 2);
}

/* to: pairs of a number of a and the one of b */
static void couples(float *to, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) store(to + i, pairs_between(load(a + i), load(b + i)));
}

const kd__rows_pairs NAME(kd__rows_bf16) = {product, weights, neighbours, couples};
