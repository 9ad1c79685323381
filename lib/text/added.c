/* added.c - added tokens, special ones among them, where they stand in a text.
 *
 * tokenizers looks for them twice: those with normalized: false in the raw text, the others in what the
 * normalizer made of the pieces between. The leftmost match wins, of those that begin there the longest; a
 * match that single_word rules out is passed over whole, and its text belongs to the piece around it.
 */
#include "text_private.h"

static kd_status add(kd__matcher *m, const char *s, size_t n, uint32_t index, kd_err *err)
{
    uint32_t was;
    if (!n) return KD_OK;
    m->first[(uint8_t)*s] = true;
    m->n++;
    return kd__trie_add(&m->trie, s, n, index, &was, err);
}

static void find_first(kd__matcher *m)
{
    int bytes = 0;
    m->only = -1;
    for (int i = 0; i < 256; i++)
        if (m->first[i]) m->only = i, bytes++;
    if (bytes != 1) m->only = -1;
}

kd_status kd__added_init(kd_tokenizer *t, kd_err *err)
{
    kd_encoder e = {.t = t}; // normalises the tokens that stand in normalised text
    kd_status st = KD_OK;
    for (size_t i = 0; i < t->nadded && !st; i++) {
        const kd__added *a = &t->added[i];
        if (!a->normalized) {
            st = add(&t->raw, a->text, a->len, (uint32_t)i, err);
            continue;
        }
        e.normal.len = 0;
        st = kd__normalize(&e, (const uint8_t *)a->text, a->len, err);
        if (!st) st = add(&t->normal, e.normal.text, e.normal.len, (uint32_t)i, err);
    }
    kd_buf_release(&e.normal);
    free(e.pending);
    find_first(&t->raw);
    find_first(&t->normal);
    return st;
}

/* The longest token at s; its length, 0: none. */
static size_t match_at(const kd__matcher *m, const uint8_t *s, size_t n, uint32_t *index)
{
    uint32_t node = KD__TRIE_ROOT;
    size_t best = 0;
    for (size_t i = 0; i < n && (node = kd__trie_step(&m->trie, node, s[i])); i++)
        if (m->trie.id[node] != KD__NO_ID) *index = m->trie.id[node], best = i + 1;
    return best;
}

/* The next place where a token may begin; n: none. */
static size_t candidate(const kd__matcher *m, const uint8_t *s, size_t from, size_t n)
{
    if (m->only >= 0) {
        const uint8_t *p = memchr(s + from, m->only, n - from);
        return p ? (size_t)(p - s) : n;
    }
    while (from < n && !m->first[s[from]]) from++;
    return from;
}

static uint32_t before(const uint8_t *s, size_t at, size_t *k) /* the character that ends at `at` */
{
    size_t from = at - 1, n;
    while (from && (s[from] & 0xC0) == 0x80) from--;
    *k = at - from;
    return kd__utf8_next(s + from, &n);
}

static bool stands_alone(const uint8_t *s, size_t n, size_t start, size_t stop)
{
    size_t k;
    return !(start && kd__char_is_word(before(s, start, &k))) &&
           !(stop < n && kd__char_is_word(kd__utf8_next(s + stop, &k)));
}

bool kd__added_next(const kd_encoder *e, const kd__matcher *m, const uint8_t *s, size_t n, size_t done,
                    size_t *at, kd__match *out)
{
    const kd_tokenizer *t = e->t;
    while (m->n && *at < n) {
        uint32_t index = 0;
        const size_t start = candidate(m, s, *at, n),
                     len = start < n ? match_at(m, s + start, n - start, &index) : 0;
        size_t k;
        *at = start + (len ? len : 1);
        if (!len) continue;
        const kd__added *a = &t->added[index];
        if (a->special && e->literal) continue;
        if (a->single_word && !stands_alone(s, n, start, start + len)) continue;
        *out = (kd__match){.start = start, .stop = start + len, .token = a};
        while (a->lstrip && out->start > done && kd__char_is_space(before(s, out->start, &k)))
            out->start -= k;
        while (a->rstrip && out->stop < n && kd__char_is_space(kd__utf8_next(s + out->stop, &k)))
            out->stop += k;
        return true;
    }
    return false;
}
