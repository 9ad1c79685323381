/* weights.c - softmax of one position at a time, as the sparse codecs need it: sums of blocks of 64 classes.
 *
 * Few blocks matter to what is kept: those with the largest values, and those that a random point falls into.
 * So only the blocks' sums are stored, and the weights of a block are made again where they are asked for.
 */
#include "codec_private.h"

#include <stdlib.h>
#include <string.h>

static const kd__class_loops *loops(void)
{
    const kd_isa isa = kd_cpu_isa();
    return isa >= KD_ISA_AVX512 ? &kd__class_loops_avx512
           : isa >= KD_ISA_AVX2 ? &kd__class_loops_avx2
                                : &kd__class_loops_scalar;
}

bool kd__softmax_init(kd__softmax *s, int64_t width)
{
    *s = (kd__softmax){.width = (size_t)width, .blocks = ((size_t)width + KD__BLOCK - 1) / KD__BLOCK};
    s->loops = loops();
    s->most = malloc(s->blocks * sizeof *s->most);
    s->sum = malloc(s->blocks * sizeof *s->sum);
    return s->most && s->sum;
}

void kd__softmax_release(kd__softmax *s)
{
    free(s->most);
    free(s->sum);
}

bool kd__softmax_take(kd__softmax *s, const float *values)
{
    s->z = values;
    if (!s->loops->scan(values, s->width, s->most)) return false;
    s->top = (double)s->most[0];
    for (size_t b = 1; b < s->blocks; b++)
        if ((double)s->most[b] > s->top) s->top = (double)s->most[b];
    return true;
}

double kd__softmax_at(kd__softmax *s, double temperature)
{
    s->r = 1 / temperature;
    s->loops->totals(s->z, s->width, s->top, s->r, s->sum);
    s->total = 0;
    for (size_t b = 0; b < s->blocks; b++) s->total += s->sum[b];
    return s->total;
}

void kd__softmax_block(const kd__softmax *s, size_t b, double w[KD__BLOCK])
{
    const size_t first = b * KD__BLOCK;
    s->loops->weights(s->z + first, kd_min_size(KD__BLOCK, s->width - first), s->top, s->r, w);
}

double kd__softmax_sum(const kd__softmax *s, const double w[KD__BLOCK]) { return s->loops->total(w); }

/* ---- draws -------------------------------------------------------------------------------- */

kd_rng kd__draws(int64_t seed, kd_id row, uint32_t at)
{
    uint8_t key[24];
    kd_rng r;
    for (int i = 0; i < 8; i++) key[i] = (uint8_t)((uint64_t)seed >> 8 * i);
    memcpy(key + 8, row.b, 16);
    kd_rng_init(&r, kd_hash64(key, sizeof key), KD_RNG_SAMPLE, at, 0);
    return r;
}

double kd__draw(kd_rng *r)
{
    const uint64_t low = kd_rng_u32(r), high = kd_rng_u32(r);
    return (double)((high << 32 | low) >> 11) * 0x1p-53;
}
