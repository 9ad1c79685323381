/* rank_gaps.c - how the entries of a sparse block are written: counts, gaps of ranks, numbers.
 *
 *     u16 codes (positions) of tail mass and log-partition at each listed temperature, as byte planes
 *     number of entries with a number, each position
 *     number of entries without, as its difference from what the numbers make expect (not for topk)
 *     class byte of each entry with a number; the numbers; class byte of each entry without
 *     low bits of the gaps
 *
 * Ids are most of what a sparse target costs. Entries with and without a number are two lists, each in the
 * order of ranks, and a rank is written as the gap to the one before: its length in bits as a byte that the
 * store's zstd packs by Huffman coding, its lower bits as they are, because they are close to noise. The
 * farther out an entry stands, the longer is the gap behind it: five eighths of the length of the rank where
 * the gap begins are taken away.
 *
 * Measured on the logits of a language model (135 M parameters, 49,152 classes, 65,500 positions of English
 * text, head-tail with 20 points: 10.1 entries, codebook from 340 positions), bytes a position behind
 * zstd: 15.8, of which 8.5 are low bits; order-0 entropy of the planes is 15.1. One list with a bit in the
 * class byte for "has a number": 16.1. Plain lengths instead of reduced ones: 0.3 more. The count of entries
 * without a number as it is: 0.4 more. A second bit of the gap in the byte: no less. A codebook from 2,000
 * positions: 0.3 less.
 */
#include "codec_private.h"

#include <stdlib.h>
#include <string.h>

enum { CENTRE = 15, MOST_BITS = 24 };

static inline int bits_of(uint32_t v) { return v ? 32 - __builtin_clz(v) : 0; }

/* What is taken from the length of a gap that begins at rank `from`. */
static inline int bias_of(uint32_t from) { return 5 * bits_of(from) / 8 - CENTRE; }

static uint32_t expected(const kd_codec *c, const kd__entry *e, size_t n)
{
    const kd__sparse_state *s = c->state;
    return s->kind->expected ? (uint32_t)s->kind->expected(c, e, n) : 0;
}

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
    size_t list[2], bits; /* entries without and with a number; low bits */
} sizes;

static sizes measure(const kd__picks *p)
{
    sizes z = {0};
    for (size_t i = 0; i < p->positions; i++) {
        const kd__entry *e = p->entry + p->start[i];
        uint32_t from[2] = {0};
        for (uint32_t k = 0; k < p->count[i]; k++) {
            const bool has = kd__entry_has_number(e[k]);
            const int bits = bits_of(kd__entry_class(e[k]) - from[has]);
            z.bits += bits > 1 ? (size_t)bits - 1 : 0;
            z.list[has]++;
            from[has] = kd__entry_class(e[k]) + 1;
        }
    }
    return z;
}

/* Class bytes and low bits of those of n entries that have a number, or of the others; returns how many. */
static size_t put_list(uint8_t *class, bit_writer *w, const kd__entry *e, size_t n, bool numbers)
{
    uint32_t from = 0;
    size_t done = 0;
    for (size_t k = 0; k < n; k++) {
        if (kd__entry_has_number(e[k]) != numbers) continue;
        const uint32_t gap = kd__entry_class(e[k]) - from;
        const int bits = bits_of(gap);
        class[done++] = (uint8_t)(bits - bias_of(from));
        if (bits > 1) put_bits(w, gap ^ 1u << (bits - 1), bits - 1);
        from = kd__entry_class(e[k]) + 1;
    }
    return done;
}

kd_status kd__picks_write(const kd__picks *p, const kd_codec *c, kd_buf *out, kd_err *err)
{
    const kd__sparse_state *s = c->state;
    const size_t n = p->positions, t = 2 * s->temperatures, counts = n * s->count_bytes;
    const sizes z = measure(p);
    kd__entry *with = malloc(s->most * sizeof *with);
    uint8_t *to = !with ? NULL
                        : kd__codec_room(out, 2 * n * t + (s->kind->expected ? 2 : 1) * counts + z.list[0] +
                                                  z.list[1] * (1 + s->number_bytes) + (z.bits + 7) / 8);
    if (!to) {
        free(with);
        return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", n);
    }
    for (size_t k = 0; k < t; k++, to += 2 * n)
        for (size_t i = 0; i < n; i++) put_plane(to, n, i, p->codes[i * t + k], 2);
    uint8_t *rest = to + counts, *first = s->kind->expected ? rest + counts : rest;
    uint8_t *numbers = first + z.list[1], *second = numbers + z.list[1] * s->number_bytes;
    bit_writer w = {.to = second + z.list[0]};
    for (size_t i = 0, number = 0; i < n; i++) {
        const kd__entry *e = p->entry + p->start[i];
        const size_t m = p->count[i], has = put_list(first, &w, e, m, true);
        for (size_t k = 0, h = 0; k < m; k++) {
            if (!kd__entry_has_number(e[k])) continue;
            with[h++] = e[k];
            put_plane(numbers, z.list[1], number++, kd__entry_number(e[k]), s->number_bytes);
        }
        put_plane(to, n, i, (uint32_t)has, s->count_bytes);
        if (s->kind->expected)
            put_plane(rest, n, i, (uint32_t)(m - has) - expected(c, with, has), s->count_bytes);
        first += has;
        second += put_list(second, &w, e, m, false);
    }
    if (w.bits) *w.to = (uint8_t)w.held;
    free(with);
    return KD_OK;
}

/* ---- reading ------------------------------------------------------------------------------ */

typedef struct reader {
    const kd_codec *c;
    const kd__sparse_state *s;
    const uint8_t *codes, *count, *rest, *first, *numbers, *second, *low;
    size_t positions, width, low_bytes;
    size_t entries, with;      /* of the block; those with a number */
    size_t number, plain, bit; /* where the next position begins */
} reader;

static inline uint32_t get_plane(const uint8_t *from, size_t n, size_t i, size_t bytes)
{
    return from[i] | (bytes > 1 ? (uint32_t)from[n + i] << 8 : 0);
}

static kd_status damaged(const kd_codec *c, const char *what, size_t positions, kd_err *err)
{
    return kd_fail(err, KD_ECORRUPT, "%s block of %zu positions: %s", c->ops->info.name, positions, what);
}

/* Entries of position i without a number, of which `has` with numbers are in e. */
static inline size_t rest_of(const reader *r, size_t i, const kd__entry *e, size_t has)
{
    if (!r->s->kind->expected) return 0;
    const uint32_t v = get_plane(r->rest, r->positions, i, r->s->count_bytes) + expected(r->c, e, has);
    return v & (r->s->count_bytes > 1 ? 0xffffu : 0xffu);
}

/* Adds up the entries; e: room for those of a position. */
static const char *count_entries(reader *r, size_t bytes, kd__entry *e)
{
    const kd__sparse_state *s = r->s;
    size_t number = 0;
    for (size_t i = 0; i < r->positions; i++) {
        const size_t has = get_plane(r->count, r->positions, i, s->count_bytes);
        if (has > s->most) return "a position has more entries than the encoding keeps";
        r->with += has;
    }
    if (r->with > bytes / (1 + s->number_bytes)) return "the entries end too early";
    r->numbers = r->first + r->with;
    r->entries = r->with;
    if (!s->kind->expected) return NULL;
    for (size_t i = 0; i < r->positions; i++) {
        const size_t has = get_plane(r->count, r->positions, i, s->count_bytes);
        for (size_t k = 0; k < has; k++)
            e[k] = KD__HAS_NUMBER | get_plane(r->numbers, r->with, number++, s->number_bytes);
        const size_t rest = rest_of(r, i, e, has);
        if (rest > s->most - has) return "a position has more entries than the encoding keeps";
        r->entries += rest;
    }
    return r->entries - r->with > bytes - r->with * (1 + s->number_bytes) ? "the entries end too early"
                                                                          : NULL;
}

/* Finds the planes; all counts are within bounds afterwards. */
static kd_status open_block(reader *r, const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                            kd_err *err)
{
    const kd__sparse_state *s = c->state;
    const size_t head = 4 * s->temperatures + (s->kind->expected ? 2 : 1) * s->count_bytes;
    size_t planes;
    *r = (reader){.c = c, .s = s, .positions = positions, .width = (size_t)c->width};
    if (!kd_mul_size(positions, head, &planes) || planes > bytes || (!positions && bytes))
        return kd_fail(err, KD_ECORRUPT, "%s block: %zu bytes do not fit %zu positions", c->ops->info.name,
                       bytes, positions);
    if (!positions) return KD_OK;
    r->codes = in;
    r->count = in + 4 * s->temperatures * positions;
    r->rest = r->count + positions * s->count_bytes;
    r->first = in + planes;
    kd__entry *e = malloc(s->most * sizeof *e);
    if (!e) return kd_fail(err, KD_ENOMEM, "out of memory for %zu entries", s->most);
    const char *wrong = count_entries(r, bytes - planes, e);
    free(e);
    if (wrong) return damaged(c, wrong, positions, err);
    r->second = r->numbers + r->with * s->number_bytes;
    r->low = r->second + (r->entries - r->with);
    r->low_bytes = (size_t)(in + bytes - r->low);
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

/* Ranks of n entries from their class bytes; false: they cannot be. */
static inline bool get_list(reader *r, const uint8_t *class, kd__entry *e, size_t n)
{
    uint32_t from = 0;
    for (size_t k = 0; k < n; k++) {
        const int bits = class[k] + bias_of(from);
        uint32_t gap = (uint32_t)bits;
        if (bits < 0 || bits > MOST_BITS) return false;
        if (bits > 1) gap = 1u << (bits - 1) | get_bits(r, bits - 1);
        const uint32_t rank = from + gap;
        if (rank >= r->width) return false;
        e[k] = kd__entry_of(rank, 0);
        from = rank + 1;
    }
    return true;
}

/* The entries of position i by rising rank, or by rising id if the map from ranks is given; SIZE_MAX: they
 * cannot be. e: room for twice as many. */
static inline size_t next_position(reader *r, size_t i, const uint32_t *id, kd__entry *e)
{
    const kd__sparse_state *s = r->s;
    const size_t has = get_plane(r->count, r->positions, i, s->count_bytes);
    if (!get_list(r, r->first + r->number, e, has)) return SIZE_MAX;
    for (size_t k = 0; k < has; k++)
        e[k] |= KD__HAS_NUMBER | get_plane(r->numbers, r->with, r->number++, s->number_bytes);
    const size_t rest = rest_of(r, i, e, has), n = has + rest;
    if (!get_list(r, r->second + r->plain, e + has, rest)) return SIZE_MAX;
    r->plain += rest;
    if (s->kind->possible && !s->kind->possible(r->c, e, n)) return SIZE_MAX;
    for (size_t k = 0; k < n && id; k++) e[k] = kd__entry_of(id[kd__entry_class(e[k])], (uint32_t)e[k]);
    kd__sort_entries(e, n, e + s->most);
    for (size_t k = 1; k < n; k++)
        if (kd__entry_class(e[k]) == kd__entry_class(e[k - 1])) return SIZE_MAX;
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
    kd__entry *e = st ? NULL : malloc(2 * s->most * sizeof *e);
    if (!st && !e) st = kd_fail(err, KD_ENOMEM, "out of memory for %zu entries", s->most);
    for (size_t i = 0; i < positions && !st; i++) {
        const size_t n = next_position(&r, i, NULL, e);
        if (n == SIZE_MAX) {
            st = cannot_be(c, i, positions, err);
        } else if (keep && keep[i]) {
            const size_t to = picks->positions++;
            picks->start[to] = to ? picks->start[to - 1] + picks->count[to - 1] : 0;
            memcpy(picks->entry + picks->start[to], e, n * sizeof *e);
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
    if (!kd__picks_init(&p, c, kept, r.entries))
        st = kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", kept);
    p.positions = 0;
    if (!st) st = read_block(c, in, bytes, positions, keep, &p, err);
    if (!st) st = kd__picks_write(&p, c, out, err);
    kd__picks_release(&p);
    return st;
}

/* Tail masses and log-partitions of position i. */
static void give_codes(const kd_codec *c, const uint16_t *codes, size_t i, kd_sparse *out)
{
    const kd__sparse_state *s = c->state;
    for (size_t k = 0; k < s->temperatures; k++) {
        out->tail[i * s->temperatures + k] = kd__tail_of(codes[2 * k]);
        out->logz[i * s->temperatures + k] = (float)codes[2 * k + 1] / 2048;
    }
}

static kd_status make_room(const kd_codec *c, size_t positions, size_t entries, kd_sparse *out, kd_err *err)
{
    const int t = (int)c->p.temperatures.n;
    for (int k = 0; k < t; k++) out->temperature[k] = c->p.temperatures.v[k];
    return kd__sparse_reserve(out, positions, entries, t, err);
}

kd_status kd__sparse_decode(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                            kd_sparse *out, kd_err *err)
{
    const kd__sparse_state *s = c->state;
    uint16_t codes[2 * KD_CODEC_MAX_TEMPERATURES];
    reader r;
    uint64_t at = 0;
    kd_status st = open_block(&r, c, in, bytes, positions, err);
    if (st || (st = make_room(c, positions, r.entries, out, err))) return st;
    kd__entry *e = malloc(2 * s->most * sizeof *e);
    if (!e) return kd_fail(err, KD_ENOMEM, "out of memory for %zu entries", s->most);
    for (size_t i = 0; i < positions && !st; i++) {
        const size_t n = next_position(&r, i, s->id, e);
        if (n == SIZE_MAX) {
            st = cannot_be(c, i, positions, err);
            break;
        }
        get_codes(&r, i, codes);
        give_codes(c, codes, i, out);
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

/* The entry behind rank *from - 1, bit by bit; *from becomes its rank + 1. */
static kd__entry plain_entry(const reader *r, uint8_t class, size_t *from, size_t *bit)
{
    int length = 0;
    while (*from >> length) length++;
    const int bits = class - 15 + 5 * length / 8;
    size_t gap = bits > 0 ? (size_t)1 << (bits - 1) : 0;
    for (int j = 0; j < bits - 1; j++) gap += (size_t)bit_at(r->low, (*bit)++) << j;
    *from += gap + 1;
    return kd__entry_of(r->s->id ? r->s->id[*from - 1] : *from - 1, 0);
}

/* Puts an entry to its place among those of its position, which begin at out->offset[i]. */
static void plain_put(const kd_codec *c, kd__entry e, const uint16_t *codes, size_t i, size_t end,
                      kd_sparse *out)
{
    size_t to = end;
    for (; to > out->offset[i] && out->id[to - 1] > kd__entry_class(e); to--) {
        out->id[to] = out->id[to - 1];
        out->value[to] = out->value[to - 1];
        out->exact[to] = out->exact[to - 1];
    }
    out->id[to] = kd__entry_class(e);
    ((const kd__sparse_state *)c->state)->kind->values(c, &e, 1, codes, out->value + to, out->exact + to);
}

kd_status kd__sparse_twin(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                          kd_sparse *out, kd_err *err)
{
    const kd__sparse_state *s = c->state;
    kd_status st = kd__sparse_check(c, in, bytes, positions, err);
    size_t at = 0, number = 0, plain = 0, bit = 0;
    reader r;
    if (st || (st = open_block(&r, c, in, bytes, positions, err)) ||
        (st = make_room(c, positions, r.entries, out, err)))
        return st;
    kd__entry *e = malloc(s->most * sizeof *e);
    if (!e) return kd_fail(err, KD_ENOMEM, "out of memory for %zu entries", s->most);
    out->offset[0] = 0;
    for (size_t i = 0; i < positions; i++) {
        uint16_t codes[2 * KD_CODEC_MAX_TEMPERATURES];
        size_t n = r.count[i], from = 0;
        if (s->count_bytes == 2) n += 256 * (size_t)r.count[positions + i];
        get_codes(&r, i, codes);
        give_codes(c, codes, i, out);
        for (size_t k = 0; k < n; k++, number++) {
            e[k] = plain_entry(&r, r.first[number], &from, &bit) | KD__HAS_NUMBER | r.numbers[number];
            if (s->number_bytes == 2) e[k] |= (uint64_t)r.numbers[r.with + number] << 8;
            plain_put(c, e[k], codes, i, at++, out);
        }
        from = 0;
        for (size_t k = rest_of(&r, i, e, n); k; k--)
            plain_put(c, plain_entry(&r, r.second[plain++], &from, &bit), codes, i, at++, out);
        out->offset[i + 1] = at;
    }
    free(e);
    return KD_OK;
}
