/* rows_bf16.simd.c - the products of rows.c with operands in bf16, for AVX-512's vdpbf16ps.
 *
 * The instruction multiplies two pairs of bf16 numbers in each of its 32-bit lanes and adds both products to
 * the lane's sum, so a pair takes the place of a float and everything else is as in f32 (rows_tiles.h). Pairs
 * are neighbouring channels where a product sums over channels; the gradient of the weights sums over pixels,
 * and its pairs are the same number of two images.
 *
 * The instruction takes and gives denormals as zeros.
 */
#include <immintrin.h>

#define MEET(sum, a, u) ((vec)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)_mm512_set1_ps(a), (__m512bh)(u)))
#include "rows_tiles.h"

/* to: pairs of neighbours */
static void neighbours(float *to, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + PAIR <= n; i += PAIR) {
        const __m512 low = (__m512)load(x + i), high = (__m512)load(x + i + LANES);
        store(to + i / 2, (vec)_mm512_cvtne2ps_pbh(high, low));
    }
    if (i < n) {
        const __m256bh half = _mm512_cvtneps_pbh((__m512)load(x + i));
        memcpy(to + i / 2, &half, sizeof half);
    }
}

/* to: pairs of a number of a and the one of b */
static void couples(float *to, const float *a, const float *b, size_t n)
{
    uint16_t lane[2 * LANES];
    for (int i = 0; i < 2 * LANES; i++) lane[i] = (uint16_t)(i / 2 + i % 2 * LANES);
    const __m512i in_turn = _mm512_loadu_si512(lane);
    for (size_t i = 0; i < n; i += LANES) {
        const __m512bh both = _mm512_cvtne2ps_pbh((__m512)load(b + i), (__m512)load(a + i));
        store(to + i, (vec)_mm512_permutexvar_epi16(in_turn, (__m512i)both));
    }
}

const kd__rows_pairs NAME(kd__rows_bf16) = {product, weights, neighbours, couples};
