/* wordpiece.c - words of a normalised text, and the pieces of the vocabulary that they are made of.
 *
 * BertPreTokenizer: words stand between white space, every punctuation character is a word of its own.
 * WordPiece (Schuster and Nakajima, 2012, as BERT uses it): the longest piece from the left, inner ones with
 * "##" in front; a word that cannot be made of pieces, or is too long, is [UNK].
 *
 * A word that is met again comes from the cache (word_cache.h); others walk the trie once a piece.
 */
#include "word_cache.h"

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
        st = kd__cached(e, from, (size_t)(p - from), chars, pieces, err);
    }
    return st;
}
