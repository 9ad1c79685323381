/* marks.simd.c - blocks of marked bytes back into their places, per instruction set (marks.c).
 *
 * 64 marks at a time, first those of the marks themselves: of 512 bytes of the block, 64 bytes of marks are
 * spread, each becomes the sum of its differences, and then 8 times 64 bytes are spread. A step reads 64
 * bytes and uses as many as there are marks; near the end of the payload and of the block the plain loop goes
 * byte by byte. Nothing is read or written beyond either.
 */
#include "store_private.h"

#include <string.h>
#if defined __AVX2__
#include <immintrin.h>
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b)  JOIN_(a, b)

/* CPUs with AVX-512 and without this part of it take the AVX2 copy (kd__marks_for). */
#if defined __AVX512BW__
#define TARGET __attribute__((target("avx512vbmi2,popcnt")))
#else
#define TARGET
#endif

enum { STEP = 64, PIECE = 8 * STEP };

static inline TARGET int count(uint64_t marks) { return __builtin_popcountll(marks); }

/* n bytes at out, from as many as there are marks. */
static TARGET void spread_some(uint8_t *out, size_t n, uint64_t marks, const uint8_t *from,
                               uint8_t background)
{
    for (size_t i = 0; i < n; i++) {
        const bool marked = marks >> i & 1;
        out[i] = marked ? *from : background;
        from += marked;
        if (!(marks >> i)) { // the rest is background, and nothing may be read
            memset(out + i, background, n - i);
            return;
        }
    }
}

#if defined __AVX512BW__
static inline TARGET void spread(uint8_t *out, uint64_t marks, const uint8_t *from, uint8_t background)
{
    const __m512i none = _mm512_set1_epi8((char)background);
    _mm512_storeu_si512(out, _mm512_mask_expand_epi8(none, marks, _mm512_loadu_si512(from)));
}
#elif defined __AVX2__
/* Eight bytes have their marks' running sum as their places among the eight bytes read for them. */
static inline void spread(uint8_t *out, uint64_t marks, const uint8_t *from, uint8_t background)
{
    const __m256i none = _mm256_set1_epi8((char)background);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    const __m256i byte = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2,
                                          2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i second = _mm256_setr_epi64x(-1, 7 * 0x0101010101010101, -1, 7 * 0x0101010101010101);
    for (int h = 0; h < 2; h++, marks >>= 32, out += 32) {
        __m256i m = _mm256_shuffle_epi8(_mm256_set1_epi32((int)marks), byte), at;
        m = _mm256_cmpeq_epi8(_mm256_and_si256(m, bit), bit);
        at = _mm256_sub_epi8(_mm256_setzero_si256(), m);
        at = _mm256_add_epi8(at, _mm256_slli_epi64(at, 8));
        at = _mm256_add_epi8(at, _mm256_slli_epi64(at, 16));
        at = _mm256_add_epi8(at, _mm256_slli_epi64(at, 32));
        at = _mm256_add_epi8(at, second); // less one, and eight more in the second half of 16 bytes
        uint64_t part[4];
        for (int k = 0; k < 4; k++) {
            memcpy(&part[k], from, 8);
            from += count(marks >> 8 * k & 255);
        }
        const __m256i b = _mm256_setr_epi64x((long long)part[0], (long long)part[1], (long long)part[2],
                                             (long long)part[3]);
        _mm256_storeu_si256((__m256i *)(void *)out, _mm256_blendv_epi8(none, _mm256_shuffle_epi8(b, at), m));
    }
}
#else
/* Marks are like their neighbours: most eights are all set or all clear. */
static inline void spread(uint8_t *out, uint64_t marks, const uint8_t *from, uint8_t background)
{
    for (int k = 0; k < STEP / 8; k++, out += 8, marks >>= 8) {
        const unsigned eight = marks & 255;
        if (!eight) {
            memset(out, background, 8);
        } else if (eight == 255) {
            memcpy(out, from, 8);
            from += 8;
        } else {
            for (int i = 0; i < 8; i++) {
                const uint8_t byte = *from, marked = eight >> i & 1; // read in either case: no jump
                out[i] = (uint8_t)(background ^ ((background ^ byte) & -marked));
                from += marked;
            }
        }
    }
}
#endif

/* Marks from their differences; before: the 64 marks before them. */
static inline TARGET uint64_t sum(uint64_t word, uint64_t before, unsigned stride)
{
    if (!stride) return word;
    if (stride == 64) return word ^ before;
    word ^= before >> (64 - stride);
    for (unsigned k = stride; k < 64; k *= 2) word ^= word << k;
    return word;
}

static TARGET bool read_block(uint8_t *out, size_t n, const kd__marks *m)
{
    const uint8_t *kept = m->kept, *from = m->marked;
    uint64_t before = 0;
    for (size_t at = 0; at < n; at += PIECE) {
        _Alignas(64) uint64_t marks[PIECE / STEP];
        const size_t size = kd_min_size(n - at, PIECE), bytes = (size + 7) / 8;
        uint64_t top = 0;
        memcpy(&top, m->top + at / PIECE * 8, (bytes + 7) / 8);
        if (m->end - kept >= STEP)
            spread((uint8_t *)marks, top, kept, 0);
        else
            spread_some((uint8_t *)marks, sizeof marks, top, kept, 0);
        kept += count(top);
        if (size % 8 && ((uint8_t *)marks)[bytes - 1] >> size % 8) return false; // bits that nothing uses
        for (size_t k = 0; k * STEP < size; k++) {
            const size_t some = kd_min_size(size - k * STEP, STEP);
            before = sum(marks[k], before, m->stride);
            if (some < STEP) before &= ((uint64_t)1 << some) - 1;
            const int64_t used = count(before), left = m->end - from;
            if (used > left) return false;
            if (some == STEP && left >= STEP)
                spread(out + at + k * STEP, before, from, m->background);
            else
                spread_some(out + at + k * STEP, some, before, from, m->background);
            from += used;
        }
    }
    return from == m->end;
}

const kd__marks_loops JOIN(kd__marks_loops, KD_SIMD) = {read_block};
