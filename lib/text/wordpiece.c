/* wordpiece.c - words of a normalised text, and the pieces of the vocabulary that they are made of.
 *
 * BertPreTokenizer: words stand between white space, every punctuation character is a word of its own.
 * WordPiece (Schuster and Nakajima, 2012, as BERT uses it): the longest piece from the left, inner ones with
 * "##" in front; a word that cannot be made of pieces, or is too long, is [UNK].
 *
 * Texts repeat their words, so each encoder remembers 8,192 of up to 16 bytes with their pieces, by a hash of
 * the bytes; a word that is met again costs two loads and a comparison. Others walk the trie once a piece.
 */
#include "text_private.h"

enum { CACHE_BITS = 13, CACHE_IDS = 11 };
struct kd__word {  /* a cache line */
    uint64_t a, b; /* its bytes, zeros behind them */
    uint16_t len, n;
    uint32_t id[CACHE_IDS];
};

kd_status kd__wordpiece_init(kd_tokenizer *t, const char *unk, const char *prefix, size_t max_chars,
                             const char *where, kd_err *err)
{
    kd__wordpiece *w = &t->wordpiece;
    w->max_chars = max_chars;
    if (!(w->prefix = kd_strdup(prefix))) return kd_fail(err, KD_ENOMEM, "out of memory");
    if ((w->unk = kd__trie_find(&t->vocab, unk, strlen(unk))) == KD__NO_ID)
        return kd_fail(err, KD_ECORRUPT, "%s: the token for unknown words, %.40s, is not in the vocabulary",
                       where, unk);
    w->inner = kd__trie_walk(&t->vocab, prefix, strlen(prefix));
    t->model = kd__wordpiece_encode;
    return KD_OK;
}

kd_status kd__wordpiece_cache(kd_encoder *e, kd_err *err)
{
    e->cache = kd_alloc_aligned((size_t)1 << CACHE_BITS, sizeof(kd__word));
    return e->cache ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for an encoder");
}

/* Appends the pieces of a word. */
static kd_status pieces(kd_encoder *e, const uint8_t *s, size_t n, size_t chars, kd_err *err)
{
    const kd_tokenizer *t = e->t;
    const kd__trie *v = &t->vocab;
    const size_t before = e->tokens.n;
    if (!kd__ids_room(&e->tokens, n)) return kd_fail(err, KD_ENOMEM, "no memory for the tokens of a text");
    bool whole = chars <= t->wordpiece.max_chars;
    for (size_t at = 0; whole && at < n;) {
        uint32_t node = at ? t->wordpiece.inner : KD__TRIE_ROOT, best = KD__NO_ID;
        size_t end = at;
        for (size_t i = at; node && i < n; i++) {
            if (!(node = kd__trie_step(v, node, s[i]))) break;
            if (v->id[node] != KD__NO_ID) best = v->id[node], end = i + 1;
        }
        whole = best != KD__NO_ID;
        e->tokens.id[e->tokens.n] = best;
        e->tokens.n += whole;
        at = end;
    }
    if (whole) return KD_OK;
    e->tokens.n = before;
    e->tokens.id[e->tokens.n++] = t->wordpiece.unk;
    return KD_OK;
}

/* The same through the cache. s: KD__PAD bytes behind it can be read. */
static kd_status word(kd_encoder *e, const uint8_t *s, size_t n, size_t chars, kd_err *err)
{
    uint64_t a, b = 0;
    if (n > 16) return pieces(e, s, n, chars, err);
    memcpy(&a, s, 8);
    if (n < 8)
        a &= ((uint64_t)1 << 8 * n) - 1;
    else if (n > 8) {
        memcpy(&b, s + 8, 8);
        if (n < 16) b &= ((uint64_t)1 << 8 * (n - 8)) - 1;
    }
    const uint64_t mixed = (a ^ (b << 29 | b >> 35)) * 0x9E3779B97F4A7C15u;
    kd__word *w = &e->cache[(mixed ^ mixed << 21) >> (64 - CACHE_BITS)];
    if (w->a == a && w->b == b && w->len == n) {
        if (!kd__ids_room(&e->tokens, CACHE_IDS)) return kd_fail(err, KD_ENOMEM, "out of memory");
        memcpy(e->tokens.id + e->tokens.n, w->id, sizeof w->id);
        e->tokens.n += w->n;
        return KD_OK;
    }
    const size_t before = e->tokens.n;
    kd_status st = pieces(e, s, n, chars, err);
    const size_t made = e->tokens.n - before;
    if (st || made > CACHE_IDS) return st;
    w->a = a, w->b = b, w->len = (uint16_t)n, w->n = (uint16_t)made;
    memcpy(w->id, e->tokens.id + before, made * sizeof *w->id);
    return KD_OK;
}

/* Kind and length of the character at s. */
static unsigned kind_at(const kd__chars *c, const uint8_t *s, size_t *n)
{
    const unsigned kind = c->ascii_kind[*s];
    *n = 1;
    if (kind != KD__NOT_ASCII) return kind;
    return KD__KIND(kd__char(c, kd__utf8_next(s, n)));
}

kd_status kd__wordpiece_encode(kd_encoder *e, const uint8_t *s, size_t n, size_t limit, kd_err *err)
{
    const kd__chars *c = &e->t->chars;
    const uint8_t *p = s, *end = s + n;
    size_t k;
    kd_status st = KD_OK;
    while (p < end && e->tokens.n < limit && !st) {
        const uint8_t *from = p;
        size_t chars = 1;
        const unsigned kind = kind_at(c, p, &k);
        p += k;
        if (kind == KD__SPACE) continue;
        if (kind == KD__WORD)
            for (; p < end && kind_at(c, p, &k) == KD__WORD; chars++) p += k;
        st = word(e, from, (size_t)(p - from), chars, err);
    }
    return st;
}
