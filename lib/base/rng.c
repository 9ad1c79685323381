/* rng.c - random numbers that are a function of where they are used, not of who asked first.
 *
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011,
 * section 4.3) is a keyed bijection of a 128-bit counter: ten rounds of two 32x32 multiplications.
 * kd uses it so:
 *
 *     key     = seed, low word first
 *     counter = { block low, purpose | block high << 8, a, b }
 *
 * Two streams differ in key or in counter, so they never share a block: that is a fact of the
 * layout, not a probability. A stream holds 2^56 blocks of four numbers, given out word 0 first.
 * Whoever wants element i of a stream alone calls kd_philox with block i / 4. The layout is part of
 * the file formats (views, orders and samples are replayed by other programs): it never changes.
 *
 * kd_permutation is the swap-or-not shuffle (Hoang, Morris, Rogaway, "An Enciphering Scheme Based on a
 * Card Shuffle", CRYPTO 2012). A round pairs every x with its mirror image m - x (mod n) and tosses one
 * coin per pair; on heads both change places. Each round is its own inverse, so the inverse is the same
 * rounds backwards, and unlike a Feistel network it needs no power of two and no walk back into range. The
 * mirrors and the coins' keys are drawn from a Philox stream; a coin is one bit of a 64-bit mixing function.
 */
#include "kd/base.h"

#include <math.h>

void kd_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u; // golden ratio
        k1 += 0xBB67AE85u; // sqrt(3) - 1
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void kd_rng_init(kd_rng *r, uint64_t seed, kd_rng_purpose purpose, uint32_t a, uint32_t b)
{
    *r = (kd_rng){
        .key = {(uint32_t)seed, (uint32_t)(seed >> 32)},
        .counter = {0, (uint32_t)purpose & 0xFFu, a, b},
    };
}

uint32_t kd_rng_u32(kd_rng *r)
{
    if (r->left == 0) {
        kd_philox(r->counter, r->key, r->block);
        if (++r->counter[0] == 0) r->counter[1] += 0x100u;
        r->left = 4;
    }
    return r->block[4 - r->left--];
}

/* Lemire, "Fast Random Integer Generation in an Interval" (2019): the high half of a product is
 * uniform once the few low halves that would favour small results are thrown away. */
uint64_t kd_rng_below(kd_rng *r, uint64_t n)
{
    if (n <= 1) return 0;
    if (n <= UINT32_MAX) {
        uint32_t bound = (uint32_t)n, reject = (0u - bound) % bound;
        uint64_t m;
        do m = (uint64_t)kd_rng_u32(r) * bound;
        while ((uint32_t)m < reject);
        return m >> 32;
    }
    uint64_t reject = (0u - n) % n, low;
    unsigned __int128 m;
    do {
        low = kd_rng_u32(r);
        low |= (uint64_t)kd_rng_u32(r) << 32;
        m = (unsigned __int128)low * n;
    } while ((uint64_t)m < reject);
    return (uint64_t)(m >> 64);
}

float kd_rng_uniform(kd_rng *r) { return (float)(kd_rng_u32(r) >> 8) * 0x1p-24f; }

/* Box-Muller in double, so that the last bit of the float hardly ever depends on the C library.
 * The half added keeps the logarithm finite; the largest possible value is 6.66. */
float kd_rng_normal(kd_rng *r)
{
    double u = ((double)kd_rng_u32(r) + 0.5) * 0x1p-32;
    double v = (double)kd_rng_u32(r) * 0x1p-32;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586477 * v));
}

void kd_rng_permute(kd_rng *r, uint32_t *order, size_t n)
{
    for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)kd_rng_below(r, i);
        uint32_t t = order[i - 1];
        order[i - 1] = order[j];
        order[j] = t;
    }
}

/* ---- permutations without a list ---------------------------------------------------------- */

/* 4 log2 n rounds and a few: after that neither fixed points nor neighbours nor the parity of small
 * permutations tell it from a shuffled list (tests/unit/test_base.c). */
void kd_permutation_init(kd_permutation *p, uint64_t n, uint64_t seed, kd_rng_purpose purpose, uint32_t a)
{
    kd_rng r;
    kd_rng_init(&r, seed, purpose, a, 0);
    p->n = n;
    p->rounds = 16;
    for (uint64_t rest = n - 1; rest; rest >>= 1) p->rounds += 4;
    for (int i = 0; i < p->rounds; i++) {
        p->mirror[i] = kd_rng_below(&r, n);
        p->coin[i] = kd_rng_u32(&r);
        p->coin[i] |= (uint64_t)kd_rng_u32(&r) << 32;
    }
}

/* The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014, with Stafford's constants, mix 13). */
static bool coin(uint64_t x, uint64_t key)
{
    x = (x + 1) * 0x9E3779B97F4A7C15u ^ key;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x >> 63;
}

static uint64_t turn(const kd_permutation *p, int round, uint64_t x)
{
    uint64_t m = p->mirror[round], other = m >= x ? m - x : m + p->n - x;
    return coin(x > other ? x : other, p->coin[round]) ? other : x;
}

uint64_t kd_permutation_at(const kd_permutation *p, uint64_t place)
{
    for (int i = 0; i < p->rounds; i++) place = turn(p, i, place);
    return place;
}

uint64_t kd_permutation_place(const kd_permutation *p, uint64_t element)
{
    for (int i = p->rounds; i-- > 0;) element = turn(p, i, element);
    return element;
}
