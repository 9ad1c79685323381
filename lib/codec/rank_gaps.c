/* rank_gaps.c - how the entries of a sparse block are written: counts, gaps of ranks, numbers.
 *
 *     u16 codes (positions) of tail mass and log-partition at each listed temperature, as byte planes
 *     entries of each position, one byte plane, or two where there may be more than 255
 *     class byte of each entry: c + 128 f
 *     numbers of the entries that have one, as byte planes
 *     low bits of the gaps
 *
 * Ids are most of what a sparse target costs. Entries stand in the order of their ranks, and a rank is
 * written as the gap to the one before: its length in bits as a byte that the store's zstd packs by Huffman
 * coding, its lower bits as they are, because they are close to noise. The farther out an entry stands, the
 * longer is the gap behind it: three fourths of the length of the rank where the gap begins are taken away,
 * which leaves the bytes about as skewed as if each entry of a position had a Huffman table of its own
 * (measured on Zipf-Mandelbrot logits: 1.5 bytes a position less than the plain length; a second bit of the
 * gap in the byte wins nothing more). Whether an entry has a number of its own is a bit of the same byte,
 * where it costs its entropy and not a whole bit.
 */
#include "codec_private.h"

#include <stdlib.h>
#include <string.h>

enum { CENTRE = 18, HAS_NUMBER = 128, MOST_BITS = 24 };

static inline int bits_of(uint32_t v) { return v ? 32 - __builtin_clz(v) : 0; }

/* What is taken from the length of a gap that begins at rank `from`. */
static inline int bias_of(uint32_t from) { return 3 * bits_of(from) / 4 - CENTRE; }

/* ---- writing ------------------------------------------------------------------------------ */

typedef struct bit_writer {
    uint8_t *to;
    uint64_t held;
    int bits; /* of held, below 8 between calls */
} bit_writer;

static inline void put_bits(bit_writer *w, uint32_t v, int n)
{
    w->held |= (uint64_t)v << w->bits;
    for (w->bits += n; w->bits >= 8; w->bits -= 8, w->held >>= 8) *w->to++ = (uint8_t)w->held;
}

static void put_plane(uint8_t *to, size_t n, size_t i, uint32_t v, size_t bytes)
{
    for (size_t k = 0; k < bytes; k++) to[k * n + i] = (uint8_t)(v >> 8 * k);
}

typedef struct sizes {
    size_t entries, numbers, bits;
} sizes;

static sizes measure(const kd__picks *p, const kd__sparse_state *s)
{
    sizes z = {0};
    for (size_t i = 0; i < p->positions; i++) {
        const kd__entry *e = p->entry + i * s->most;
        uint32_t from = 0;
        for (uint32_t k = 0; k < p->count[i]; k++) {
            const int bits = bits_of(kd__entry_class(e[k]) - from);
            z.bits += bits > 1 ? (size_t)bits - 1 : 0;
            z.numbers += kd__entry_has_number(e[k]);
            from = kd__entry_class(e[k]) + 1;
        }
        z.entries += p->count[i];
    }
    return z;
}

kd_status kd__picks_write(const kd__picks *p, const kd_codec *c, kd_buf *out, kd_err *err)
{
    const kd__sparse_state *s = c->state;
    const size_t n = p->positions, t = 2 * s->temperatures;
    const sizes z = measure(p, s);
    uint8_t *to = kd__codec_room(out, n * (2 * t + s->count_bytes) + z.entries + z.numbers * s->number_bytes +
                                          (z.bits + 7) / 8);
    if (!to) return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", n);
    for (size_t k = 0; k < t; k++, to += 2 * n)
        for (size_t i = 0; i < n; i++) put_plane(to, n, i, p->codes[i * t + k], 2);
    for (size_t i = 0; i < n; i++) put_plane(to, n, i, p->count[i], s->count_bytes);
    uint8_t *class = to + n * s->count_bytes, *numbers = class + z.entries;
    bit_writer w = {.to = numbers + z.numbers * s->number_bytes};
    for (size_t i = 0, number = 0; i < n; i++) {
        const kd__entry *e = p->entry + i * s->most;
        uint32_t from = 0;
        for (uint32_t k = 0; k < p->count[i]; k++) {
            const uint32_t gap = kd__entry_class(e[k]) - from;
            const bool has = kd__entry_has_number(e[k]);
            const int bits = bits_of(gap);
            *class ++ = (uint8_t)((bits - bias_of(from)) | (has && !s->kind->all_numbers ? HAS_NUMBER : 0));
            if (has) put_plane(numbers, z.numbers, number++, kd__entry_number(e[k]), s->number_bytes);
            if (bits > 1) put_bits(&w, gap ^ 1u << (bits - 1), bits - 1);
            from = kd__entry_class(e[k]) + 1;
        }
    }
    if (w.bits) *w.to = (uint8_t)w.held;
    return KD_OK;
}

/* ---- reading ------------------------------------------------------------------------------ */

typedef struct reader {
    const kd__sparse_state *s;
    const uint8_t *codes, *count, *class, *numbers, *low;
    size_t positions, width, entries, all_numbers, low_bytes;
    size_t entry, number, bit; /* where the next position begins */
} reader;

static uint32_t get_plane(const uint8_t *from, size_t n, size_t i, size_t bytes)
{
    return from[i] | (bytes > 1 ? (uint32_t)from[n + i] << 8 : 0);
}

static kd_status damaged(const kd_codec *c, const char *what, size_t positions, kd_err *err)
{
    return kd_fail(err, KD_ECORRUPT, "%s block of %zu positions: %s", c->ops->info.name, positions, what);
}

/* Finds the planes; all counts are within bounds afterwards. */
static kd_status open_block(reader *r, const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                            kd_err *err)
{
    const kd__sparse_state *s = c->state;
    const size_t head = 4 * s->temperatures + s->count_bytes;
    size_t want;
    *r = (reader){.s = s, .positions = positions, .width = (size_t)c->width};
    if (!kd_mul_size(positions, head, &want) || want > bytes || (!positions && bytes))
        return kd_fail(err, KD_ECORRUPT, "%s block: %zu bytes do not fit %zu positions", c->ops->info.name,
                       bytes, positions);
    if (!positions) return KD_OK;
    r->codes = in;
    r->count = in + 4 * s->temperatures * positions;
    r->class = in + want;
    for (size_t i = 0; i < positions; i++) {
        const size_t m = get_plane(r->count, positions, i, s->count_bytes);
        if (m > s->most)
            return damaged(c, "a position has more entries than the encoding keeps", positions, err);
        r->entries += m;
    }
    if (r->entries > bytes - want) return damaged(c, "the entries end too early", positions, err);
    want += r->entries;
    r->numbers = in + want;
    size_t flags = 0;
    for (size_t i = 0; i < r->entries; i++) flags += r->class[i] >> 7;
    if (s->kind->all_numbers && flags) return damaged(c, "a class byte is above 127", positions, err);
    r->all_numbers = s->kind->all_numbers ? r->entries : flags;
    if (r->all_numbers > (bytes - want) / s->number_bytes)
        return damaged(c, "the numbers end too early", positions, err);
    want += r->all_numbers * s->number_bytes;
    r->low = in + want;
    r->low_bytes = bytes - want;
    return KD_OK;
}

/* The n <= 23 bits at the reader's place; beyond the end they are 0, which the caller looks at once at the
 * end. */
static inline uint32_t get_bits(reader *r, int n)
{
    const size_t byte = r->bit >> 3;
    uint32_t v = 0;
    if (byte + 4 <= r->low_bytes)
        memcpy(&v, r->low + byte, 4);
    else
        for (size_t k = 0; byte + k < r->low_bytes; k++) v |= (uint32_t)r->low[byte + k] << 8 * k;
    v >>= r->bit & 7;
    r->bit += (size_t)n;
    return v & ((1u << n) - 1);
}

/* The next position's entries by rank; SIZE_MAX: damaged. i: the position. */
static inline size_t next_position(reader *r, size_t i, kd__entry *e)
{
    const kd__sparse_state *s = r->s;
    const size_t n = get_plane(r->count, r->positions, i, s->count_bytes);
    uint32_t from = 0;
    for (size_t k = 0; k < n; k++) {
        const uint32_t c = r->class[r->entry++];
        const int bits = (int)(c & (HAS_NUMBER - 1)) + bias_of(from);
        uint32_t gap = (uint32_t)bits, low = 0;
        if (bits < 0 || bits > MOST_BITS) return SIZE_MAX;
        if (bits > 1) gap = 1u << (bits - 1) | get_bits(r, bits - 1);
        const uint32_t rank = from + gap;
        if (rank >= r->width) return SIZE_MAX;
        if (s->kind->all_numbers || c & HAS_NUMBER)
            low = KD__HAS_NUMBER | get_plane(r->numbers, r->all_numbers, r->number++, s->number_bytes);
        e[k] = kd__entry_of(rank, low);
        from = rank + 1;
    }
    return n;
}

/* Whether the low bits ended where the block does. */
static bool ended_well(const reader *r)
{
    if ((r->bit + 7) / 8 != r->low_bytes) return false;
    return !(r->bit & 7) || !(r->low[r->low_bytes - 1] >> (r->bit & 7));
}

static void get_codes(const reader *r, size_t i, uint16_t *codes)
{
    for (size_t k = 0; k < 2 * r->s->temperatures; k++)
        codes[k] = (uint16_t)get_plane(r->codes + 2 * k * r->positions, r->positions, i, 2);
}

static kd_status cannot_be(const kd_codec *c, size_t i, size_t positions, kd_err *err)
{
    return kd_fail(err, KD_ECORRUPT, "%s block of %zu positions: the entries of position %zu cannot be",
                   c->ops->info.name, positions, i);
}

/* Reads all positions; those that keep names (NULL: none) are added to picks. */
static kd_status read_block(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                            const uint8_t *keep, kd__picks *picks, kd_err *err)
{
    const kd__sparse_state *s = c->state;
    reader r;
    kd_status st = open_block(&r, c, in, bytes, positions, err);
    kd__entry *e = st ? NULL : malloc(s->most * sizeof *e);
    if (!st && !e) st = kd_fail(err, KD_ENOMEM, "out of memory for %zu entries", s->most);
    for (size_t i = 0; i < positions && !st; i++) {
        const size_t n = next_position(&r, i, e);
        if (n == SIZE_MAX || (s->kind->possible && !s->kind->possible(c, e, n))) {
            st = cannot_be(c, i, positions, err);
        } else if (keep && keep[i]) {
            const size_t to = picks->positions++;
            memcpy(picks->entry + to * s->most, e, n * sizeof *e);
            get_codes(&r, i, picks->codes + to * 2 * s->temperatures);
            picks->count[to] = (uint32_t)n;
        }
    }
    if (!st && !ended_well(&r))
        st = damaged(c, "the low bits of the gaps do not end with it", positions, err);
    free(e);
    return st;
}

kd_status kd__sparse_check(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, kd_err *err)
{
    return read_block(c, in, bytes, positions, NULL, NULL, err);
}

kd_status kd__sparse_select(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                            const uint8_t *keep, kd_buf *out, kd_err *err)
{
    kd__picks p;
    size_t kept = 0;
    reader r;
    kd_status st = open_block(&r, c, in, bytes, positions, err);
    if (st) return st;
    for (size_t i = 0; i < positions; i++) kept += keep[i] != 0;
    if (!kd__picks_init(&p, c, kept))
        st = kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", kept);
    p.positions = 0;
    if (!st) st = read_block(c, in, bytes, positions, keep, &p, err);
    if (!st) st = kd__picks_write(&p, c, out, err);
    kd__picks_release(&p);
    return st;
}

/* Tail masses and log-partitions of position i. */
static void give_codes(const kd__sparse_state *s, const uint16_t *codes, size_t i, kd_sparse *out)
{
    for (size_t k = 0; k < s->temperatures; k++) {
        out->tail[i * s->temperatures + k] = kd__tail_of(codes[2 * k]);
        out->logz[i * s->temperatures + k] = (float)codes[2 * k + 1] / 2048;
    }
}

kd_status kd__sparse_decode(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                            kd_sparse *out, kd_err *err)
{
    const kd__sparse_state *s = c->state;
    uint16_t codes[2 * KD_CODEC_MAX_TEMPERATURES];
    reader r;
    uint64_t at = 0;
    kd_status st = open_block(&r, c, in, bytes, positions, err);
    if (st || (st = kd__sparse_reserve(out, positions, r.entries, (int)s->temperatures, err))) return st;
    for (size_t k = 0; k < s->temperatures; k++) out->temperature[k] = c->p.temperatures.v[k];
    kd__entry *e = malloc(2 * s->most * sizeof *e);
    if (!e) return kd_fail(err, KD_ENOMEM, "out of memory for %zu entries", s->most);
    for (size_t i = 0; i < positions && !st; i++) {
        const size_t n = next_position(&r, i, e);
        if (n == SIZE_MAX || (s->kind->possible && !s->kind->possible(c, e, n))) {
            st = cannot_be(c, i, positions, err);
            break;
        }
        if (s->id) {
            for (size_t k = 0; k < n; k++) e[k] = kd__entry_of(s->id[kd__entry_class(e[k])], (uint32_t)e[k]);
            kd__sort_entries(e, n, e + s->most);
        }
        get_codes(&r, i, codes);
        give_codes(s, codes, i, out);
        out->offset[i] = at;
        for (size_t k = 0; k < n; k++) out->id[at + k] = kd__entry_class(e[k]);
        s->kind->values(c, e, n, codes, out->value + at, out->exact + at);
        at += n;
    }
    out->offset[positions] = at;
    if (!st && !ended_well(&r))
        st = damaged(c, "the low bits of the gaps do not end with it", positions, err);
    free(e);
    return st;
}

/* ---- twin --------------------------------------------------------------------------------- */

static unsigned bit_at(const uint8_t *low, size_t bit) { return low[bit / 8] >> bit % 8 & 1; }

/* One class at a time, bit by bit, each id put to its place among those before. */
kd_status kd__sparse_twin(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                          kd_sparse *out, kd_err *err)
{
    const kd__sparse_state *s = c->state;
    kd_status st = kd__sparse_check(c, in, bytes, positions, err);
    size_t entry = 0, number = 0, bit = 0;
    reader r;
    if (st || (st = open_block(&r, c, in, bytes, positions, err)) ||
        (st = kd__sparse_reserve(out, positions, r.entries, (int)s->temperatures, err)))
        return st;
    for (size_t k = 0; k < s->temperatures; k++) out->temperature[k] = c->p.temperatures.v[k];
    out->offset[0] = 0;
    for (size_t i = 0; i < positions; i++) {
        uint16_t codes[2 * KD_CODEC_MAX_TEMPERATURES];
        size_t n = r.count[i], from = 0;
        if (s->count_bytes == 2) n += 256 * (size_t)r.count[positions + i];
        get_codes(&r, i, codes);
        give_codes(s, codes, i, out);
        for (size_t k = 0; k < n; k++, entry++) {
            int length = 0, bits = r.class[entry] % 128 - 18;
            while (from >> length) length++;
            bits += 3 * length / 4;
            size_t gap = bits > 0 ? (size_t)1 << (bits - 1) : 0;
            for (int j = 0; j < bits - 1; j++) gap += (size_t)bit_at(r.low, bit++) << j;
            from += gap + 1;
            kd__entry e = kd__entry_of(s->id ? s->id[from - 1] : from - 1, 0);
            if (s->kind->all_numbers || r.class[entry] >= 128) {
                e |= KD__HAS_NUMBER | r.numbers[number];
                if (s->number_bytes == 2) e |= (uint64_t)r.numbers[r.all_numbers + number] << 8;
                number++;
            }
            size_t to = entry;
            for (; to > out->offset[i] && out->id[to - 1] > kd__entry_class(e); to--) {
                out->id[to] = out->id[to - 1];
                out->value[to] = out->value[to - 1];
                out->exact[to] = out->exact[to - 1];
            }
            out->id[to] = kd__entry_class(e);
            s->kind->values(c, &e, 1, codes, out->value + to, out->exact + to);
        }
        out->offset[i + 1] = entry;
    }
    return KD_OK;
}
