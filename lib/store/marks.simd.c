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
#define TARGET __attribute__((target("avx512vbmi2,bmi2,popcnt")))
#else
#define TARGET
#endif

enum { STEP = 64, WORDS = 8, PIECE = WORDS * STEP };

#define INLINE static inline __attribute__((always_inline))

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
    __m512i bytes = _mm512_loadu_si512(from);
    __asm__("" : "+v"(bytes)); // the form that loads by itself takes longer
    _mm512_storeu_si512(out, _mm512_mask_expand_epi8(none, marks, bytes));
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

/* Marks from their differences, `stride` bits apart: within a word, then with what the word before carries
 * over, which is what the next one waits for. doublings: of the stride, until it is 64 or more. */
INLINE TARGET void sum(uint64_t marks[WORDS], uint64_t *before, unsigned stride, const int doublings)
{
    uint64_t last = *before;
#pragma GCC unroll 8
    for (int k = 0; k < WORDS; k++) {
        uint64_t word = marks[k], carry = last >> (64 - stride);
        for (int d = 0; d < doublings; d++) {
            word ^= word << (stride << d);
            carry ^= carry << (stride << d);
        }
        last = marks[k] = word ^ carry;
    }
    *before = last;
}

/* The loops of sum are laid out for each number of doublings: they take a third of the time. */
INLINE TARGET void sum_any(uint64_t marks[WORDS], uint64_t *before, unsigned stride)
{
    if (stride == 64)
        sum(marks, before, 64, 0);
    else if (stride >= 32)
        sum(marks, before, stride, 1);
    else if (stride >= 16)
        sum(marks, before, stride, 2);
    else if (stride >= 8)
        sum(marks, before, stride, 3);
    else if (stride >= 4)
        sum(marks, before, stride, 4);
    else if (stride >= 2)
        sum(marks, before, stride, 5);
    else if (stride)
        sum(marks, before, 1, 6);
}

/* The marks of a piece, of which `size` bytes are in the block. False: bits that nothing uses are set. */
static inline TARGET bool read_marks(uint64_t marks[WORDS], const kd__marks *m, const uint8_t **kept,
                                     uint64_t top, uint64_t *before, size_t size)
{
    if (m->end - *kept >= STEP)
        spread((uint8_t *)marks, top, *kept, 0);
    else
        spread_some((uint8_t *)marks, WORDS * sizeof *marks, top, *kept, 0);
    *kept += count(top);
    if (size % 8 && ((uint8_t *)marks)[size / 8] >> size % 8) return false;
    sum_any(marks, before, m->stride);
    for (size_t k = size / STEP; size < PIECE && k < WORDS; k++) // differences go on behind the block
        marks[k] &= k == size / STEP ? ((uint64_t)1 << size % STEP) - 1 : 0;
    return true;
}

static TARGET bool read_block(uint8_t *out, size_t n, const kd__marks *m)
{
    const uint8_t *kept = m->kept, *from = m->marked, *const end = m->end, background = m->background;
    uint64_t before = 0;
    for (size_t at = 0; at < n; at += PIECE) {
        _Alignas(64) uint64_t marks[WORDS];
        const size_t size = kd_min_size(n - at, PIECE);
        uint64_t top = 0;
        int64_t used = 0;
        memcpy(&top, m->top + at / STEP, (size + STEP - 1) / STEP);
        if (!read_marks(marks, m, &kept, top, &before, size)) return false;
        for (int k = 0; k < WORDS; k++) used += count(marks[k]);
        if (used > end - from) return false;
        if (size == PIECE && end - from - used >= STEP) {
            for (int k = 0; k < WORDS; k++) {
                spread(out + at + k * STEP, marks[k], from, background);
                from += count(marks[k]);
            }
        } else {
            for (size_t k = 0; k * STEP < size; k++) {
                spread_some(out + at + k * STEP, kd_min_size(size - k * STEP, STEP), marks[k], from,
                            background);
                from += count(marks[k]);
            }
        }
    }
    return from == m->end;
}

static TARGET size_t count_bits(const uint8_t *bits, size_t bytes)
{
    size_t n = 0, i = 0;
    uint64_t word = 0;
    for (; i + sizeof word <= bytes; i += sizeof word) {
        memcpy(&word, bits + i, sizeof word);
        n += (size_t)count(word);
    }
    word = 0;
    memcpy(&word, bits + i, bytes - i);
    return n + (size_t)count(word);
}

const kd__marks_loops JOIN(kd__marks_loops, KD_SIMD) = {read_block, count_bits};
