/* lib/eval/resample.simd.c - the loops of the bootstrap, per instruction set.
 *
 * Plain C over 64 lanes that the compiler vectorises; KD_SIMD is the suffix of this copy. Products and sums
 * are separate operations on every instruction set (EXACT in the Makefile), and lanes do not meet, so all
 * copies give the same bits. kd_bootstrap_weight and tests/golden/make_eval.py draw the same numbers one at a
 * time.
 */
#include "eval_private.h"

#define JOIN_(a, b) a##_##b
#define JOIN(a, b)  JOIN_(a, b)

enum { LANES = KD__LANES, BLOCKS = LANES / 4 };

/* Philox4x32-10 (lib/base/rng.c) of 16 neighbouring blocks of one row, words apart.
 */
static void draw(uint8_t weight[LANES], uint64_t row, uint32_t first)
{
    uint32_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS], k0 = 0, k1 = 0;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        c0[i] = first / 4 + i;
        c1[i] = KD_RNG_BOOTSTRAP;
        c2[i] = (uint32_t)row;
        c3[i] = (uint32_t)(row >> 32);
    }
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        for (int i = 0; i < BLOCKS; i++) {
            const uint64_t p0 = (uint64_t)0xD2511F53u * c0[i], p1 = (uint64_t)0xCD9E8D57u * c2[i];
            c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
            c1[i] = (uint32_t)p1;
            c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c3[i] = (uint32_t)p0;
        }
    }
    const uint32_t *const word[4] = {c0, c1, c2, c3};
    for (int w = 0; w < 4; w++) {
        uint32_t n[BLOCKS] = {0};
        for (int s = 0; s < KD__POISSON_STEPS; s++)
            for (int i = 0; i < BLOCKS; i++) n[i] += word[w][i] >= kd__poisson[s];
        for (int i = 0; i < BLOCKS; i++) weight[w * BLOCKS + i] = (uint8_t)n[i];
    }
}

static void add(double *restrict a, double *restrict b, double *restrict c, const uint8_t *restrict weight,
                double x, double y, double z)
{
    for (int i = 0; i < LANES; i++) {
        const double w = weight[i];
        a[i] += w * x;
        b[i] += w * y;
        c[i] += w * z;
    }
}

static void count(double *restrict sum, const uint8_t *restrict weight)
{
    for (int i = 0; i < LANES; i++) sum[i] += weight[i];
}

const kd__resample_loops JOIN(kd__resample_loops, KD_SIMD) = {draw, add, count};
