/* pairs.h - two bf16 numbers in a lane of 32 bits, the first one in its lower half.
 *
 * An instruction of AVX-512 multiplies both by those of another lane and adds both products to a sum of f32;
 * it takes and gives denormals as zeros. Other instruction sets, which nobody asks, have twins.
 */
#ifndef KD_NN_PAIRS_H
#define KD_NN_PAIRS_H

#include "lanes.h"

#if defined __AVX512BF16__
/* A pair in all lanes: no arithmetic may see its bits. */
INLINE vec all_pairs(float pair) { return (vec)_mm512_set1_ps(pair); }

INLINE vec add_products(vec sum, vec x, vec w)
{
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
}

/* Numbers 0 to 31, in their order. */
INLINE vec pairs_of(vec a, vec b) { return (vec)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a); }

/* First numbers from a, second ones from b. */
INLINE vec pairs_between(vec a, vec b)
{
    ivec order;
    UNROLL for (int i = 0; i < LANES; i++) order[i] = i | (LANES + i) << 16;
    return (vec)_mm512_permutexvar_epi16((__m512i)order, (__m512i)pairs_of(a, b));
}
#else
INLINE vec all_pairs(float pair)
{
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = pair;
    return v;
}

INLINE vec upper(vec v) { return bits_of(ints_of(v) & ~0xFFFF); }
INLINE vec lower(vec v) { return bits_of(ints_of(v) << 16); }
INLINE vec add_products(vec sum, vec x, vec w) { return sum + upper(x) * upper(w) + lower(x) * lower(w); }

INLINE vec pairs_between(vec a, vec b)
{
    return bits_of((ivec)((uvec)ints_of(bf16_of(a)) >> 16) | ints_of(bf16_of(b)));
}

INLINE vec pairs_of(vec a, vec b)
{
    float v[2 * LANES];
    store(v, a);
    store(v + LANES, b);
    UNROLL for (int i = 0; i < LANES; i++) a[i] = v[2 * i], b[i] = v[2 * i + 1];
    return pairs_between(a, b);
}
#endif

#endif
