/* word_cache.h - words that an encoder has met, with the tokens they became.
 *
 * Texts repeat their words, so each encoder remembers 8,192 of up to 16 bytes, by a hash of the bytes; a word
 * that is met again costs two loads and a comparison.
 */
#ifndef KD_WORD_CACHE_H
#define KD_WORD_CACHE_H

#include "text_private.h"

enum { KD__CACHE_BITS = 13, KD__CACHE_IDS = 11 };
struct kd__word {  /* a cache line */
    uint64_t a, b; /* its bytes, zeros behind them */
    uint16_t len, n;
    uint32_t id[KD__CACHE_IDS];
};

static inline kd_status kd__cache_init(kd_encoder *e, kd_err *err)
{
    e->cache = kd_alloc_aligned((size_t)1 << KD__CACHE_BITS, sizeof(kd__word));
    return e->cache ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for an encoder");
}

/* Appends the tokens of a word, as `make` does, through the cache. s: KD__PAD bytes behind it can be read. */
static inline kd_status kd__cached(kd_encoder *e, const uint8_t *s, size_t n, size_t chars, kd__make *make,
                                   kd_err *err)
{
    uint64_t a, b = 0;
    if (n > 16) return make(e, s, n, chars, err);
    memcpy(&a, s, 8);
    if (n < 8)
        a &= ((uint64_t)1 << 8 * n) - 1;
    else if (n > 8) {
        memcpy(&b, s + 8, 8);
        if (n < 16) b &= ((uint64_t)1 << 8 * (n - 8)) - 1;
    }
    const uint64_t mixed = (a ^ (b << 29 | b >> 35)) * 0x9E3779B97F4A7C15u;
    kd__word *w = &e->cache[(mixed ^ mixed << 21) >> (64 - KD__CACHE_BITS)];
    if (w->a == a && w->b == b && w->len == n) {
        if (!kd__ids_room(&e->tokens, KD__CACHE_IDS)) return kd_fail(err, KD_ENOMEM, "out of memory");
        memcpy(e->tokens.id + e->tokens.n, w->id, sizeof w->id);
        e->tokens.n += w->n;
        return KD_OK;
    }
    const size_t before = e->tokens.n;
    kd_status st = make(e, s, n, chars, err);
    const size_t made = e->tokens.n - before;
    if (st || made > KD__CACHE_IDS) return st;
    w->a = a, w->b = b, w->len = (uint16_t)n, w->n = (uint16_t)made;
    memcpy(w->id, e->tokens.id + before, made * sizeof *w->id);
    return KD_OK;
}

#endif
