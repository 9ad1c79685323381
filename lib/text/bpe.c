/* bpe.c - byte-level BPE (Radford et al., "Language models are unsupervised multitask learners", 2019).
 *
 * A word is its bytes; each byte has a token, and merges join two neighbours into one, the earliest merge of
 * the list first, of equal ones the leftmost (Sennrich et al., 2016). Neighbours wait in a heap by (rank,
 * place); what a merge made stale is seen when it comes up. So a word of n bytes takes n log n, which matters
 * for texts without blanks. Words that are met again come from the cache.
 *
 * Vocabularies write bytes as letters: printable ones as themselves, the others as U+0100 and up.
 */
#include "word_cache.h"

typedef struct symbol { /* a token of the word so far */
    uint32_t id;        /* KD__NO_ID: joined to the one before it */
    uint32_t before, next;
} symbol;
#define END UINT32_MAX

typedef struct candidate { /* two neighbours that a merge would join */
    uint32_t rank, at, left, right, id;
} candidate;

/* ---- letters ------------------------------------------------------------------------------------ */

static bool printable(uint8_t b) { return (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD); }

size_t kd__byte_letter(uint8_t byte, uint8_t out[2])
{
    uint32_t cp = byte;
    if (!printable(byte)) {
        cp = 0x100;
        for (uint8_t b = 0; b < byte; b++) cp += !printable(b);
    }
    return kd__utf8_put(out, cp);
}

int kd__letter_byte(uint32_t cp)
{
    if (cp < 0x100) return printable((uint8_t)cp) ? (int)cp : -1;
    for (int b = 0, other = 0x100; b < 0x100; b++)
        if (!printable((uint8_t)b) && (uint32_t)other++ == cp) return b;
    return -1;
}

/* ---- merges ------------------------------------------------------------------------------------- */

static uint64_t hash_of(uint32_t left, uint32_t right)
{
    const uint64_t x = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

/* The place of a pair in the table: its own, or the empty one where it would stand. */
static inline kd__merge *place_of(const kd__bpe *b, uint32_t left, uint32_t right)
{
    for (uint64_t i = hash_of(left, right);; i++) {
        kd__merge *m = &b->merge[i & b->mask];
        if (m->left == KD__NO_ID || (m->left == left && m->right == right)) return m;
    }
}

kd_status kd__bpe_init(kd_tokenizer *t, size_t merges, const char *where, kd_err *err)
{
    kd__bpe *b = &t->bpe;
    if (merges > KD_TOKENIZER_MAX_SIZE)
        return kd_fail(err, KD_ELIMIT, "%s: %zu merges, the limit is %u", where, merges,
                       KD_TOKENIZER_MAX_SIZE);
    for (b->mask = 63; b->mask < 2 * merges;) b->mask = 2 * b->mask + 1;
    if (!(b->merge = malloc((b->mask + 1) * sizeof *b->merge)))
        return kd_fail(err, KD_ENOMEM, "%s: no memory for %zu merges", where, merges);
    for (uint64_t i = 0; i <= b->mask; i++) b->merge[i].left = KD__NO_ID;
    for (int i = 0; i < 256; i++) {
        uint8_t letter[2];
        const size_t n = kd__byte_letter((uint8_t)i, letter);
        b->byte[i] = kd__trie_find(&t->vocab, (const char *)letter, n);
    }
    t->model = kd__bpe_encode;
    kd__split_init();
    return KD_OK;
}

kd_status kd__bpe_merge(kd_tokenizer *t, const char *left, size_t nleft, const char *right, size_t nright,
                        const char *where, kd_err *err)
{
    kd__bpe *b = &t->bpe;
    char both[2 * KD_TOKEN_MAX_BYTES];
    if (nleft > KD_TOKEN_MAX_BYTES || nright > KD_TOKEN_MAX_BYTES)
        return kd_fail(err, KD_ELIMIT, "%s: merge %zu: a token of more than %u bytes", where, b->merges,
                       KD_TOKEN_MAX_BYTES);
    memcpy(both, left, nleft);
    memcpy(both + nleft, right, nright);
    const uint32_t l = kd__trie_find(&t->vocab, left, nleft), r = kd__trie_find(&t->vocab, right, nright),
                   id = kd__trie_find(&t->vocab, both, nleft + nright);
    if (l == KD__NO_ID || r == KD__NO_ID || id == KD__NO_ID)
        return kd_fail(err, KD_ECORRUPT,
                       "%s: merge %zu, '%.*s' and '%.*s': one of them, or both together, is no token", where,
                       b->merges, (int)kd_min_size(nleft, 40), left, (int)kd_min_size(nright, 40), right);
    kd__merge *m = place_of(b, l, r);
    if (m->left != KD__NO_ID)
        return kd_fail(err, KD_ECORRUPT, "%s: merge %zu, '%.*s' and '%.*s', is there twice", where, b->merges,
                       (int)kd_min_size(nleft, 40), left, (int)kd_min_size(nright, 40), right);
    *m = (kd__merge){.left = l, .right = r, .rank = (uint32_t)b->merges++, .id = id};
    return KD_OK;
}

/* Tokens that are neither a byte, an added one, nor what a merge makes cannot come out of a text. A few are
 * an odd vocabulary; many are a list of merges that was cut. */
kd_status kd__bpe_finish(kd_tokenizer *t, const char *where, kd_err *err)
{
    const kd__bpe *b = &t->bpe;
    size_t lost = 0;
    uint32_t first = 0;
    uint8_t *made = calloc(t->size, 1);
    if (!made) return kd_fail(err, KD_ENOMEM, "%s: out of memory", where);
    for (uint64_t i = 0; i <= b->mask; i++)
        if (b->merge[i].left != KD__NO_ID) made[b->merge[i].id] = 1;
    for (int i = 0; i < 256; i++)
        if (b->byte[i] != KD__NO_ID) made[b->byte[i]] = 1;
    for (size_t i = 0; i < t->nadded; i++) made[t->added[i].id] = 1;
    for (uint32_t i = 0; i < t->size; i++)
        if (t->token[i] && !made[i] && !lost++) first = i;
    free(made);
    if (b->whole || lost <= t->size / 16) return KD_OK;
    return kd_fail(
        err, KD_ECORRUPT,
        "%s: %zu merges cannot make %zu of the %u tokens, '%.40s' is the first; is the list cut short?",
        where, b->merges, lost, t->size, t->token[first]);
}

/* ---- a word ------------------------------------------------------------------------------------- */

static inline bool sooner(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static bool push(kd_buf *heap, const candidate *c)
{
    kd_buf_append(heap, c, sizeof *c);
    if (heap->failed) return false;
    candidate *h = (candidate *)(void *)heap->text;
    size_t i = heap->len / sizeof *h - 1;
    for (size_t up; i && (up = (i - 1) / 2, sooner(c, &h[up])); i = up) h[i] = h[up];
    h[i] = *c;
    return true;
}

static candidate pop(kd_buf *heap)
{
    candidate *h = (candidate *)(void *)heap->text, top = h[0];
    const size_t n = heap->len / sizeof *h - 1;
    const candidate last = h[n];
    size_t i = 0;
    for (size_t down; (down = 2 * i + 1) < n; i = down) {
        if (down + 1 < n && sooner(&h[down + 1], &h[down])) down++;
        if (!sooner(&h[down], &last)) break;
        h[i] = h[down];
    }
    h[i] = last;
    heap->len = n * sizeof *h;
    return top;
}

/* The symbol at `at` and the one behind it, if a merge joins them. */
static bool consider(kd_encoder *e, const symbol *s, uint32_t at)
{
    if (at == END || s[at].next == END) return true;
    const uint32_t left = s[at].id, right = s[s[at].next].id;
    const kd__merge *m = place_of(&e->t->bpe, left, right);
    if (m->left == KD__NO_ID) return true;
    return push(&e->heap, &(candidate){.rank = m->rank, .at = at, .left = left, .right = right, .id = m->id});
}

static bool merge_all(kd_encoder *e, symbol *s, uint32_t n)
{
    e->heap.len = 0;
    for (uint32_t i = 0; i < n; i++)
        if (!consider(e, s, i)) return false;
    while (e->heap.len) {
        const candidate c = pop(&e->heap);
        symbol *x = &s[c.at];
        if (x->id != c.left || x->next == END || s[x->next].id != c.right) continue; // stale
        x->id = c.id;
        s[x->next].id = KD__NO_ID;
        x->next = s[x->next].next;
        if (x->next != END) s[x->next].before = c.at;
        if (!consider(e, s, c.at) || !consider(e, s, x->before)) return false;
    }
    return true;
}

/* The bytes of a word as symbols: how many. */
static uint32_t begin(const kd__bpe *b, symbol *out, const uint8_t *s, size_t n)
{
    uint32_t k = 0;
    bool unknown = false;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = b->byte[s[i]];
        if (id == KD__NO_ID && (b->unk == KD__NO_ID || (unknown && b->fuse))) continue;
        if ((unknown = id == KD__NO_ID)) id = b->unk;
        out[k] = (symbol){.id = id, .before = k - 1, .next = k + 1};
        k++;
    }
    if (k) out[k - 1].next = END;
    return k;
}

/* The token that is the whole word, KD__NO_ID: none. */
static uint32_t whole_word(const kd_tokenizer *t, const uint8_t *s, size_t n)
{
    uint32_t node = KD__TRIE_ROOT;
    for (size_t i = 0; i < n && node; i++) {
        uint8_t letter[2];
        const size_t k = kd__byte_letter(s[i], letter);
        for (size_t j = 0; j < k && node; j++) node = kd__trie_step(&t->vocab, node, letter[j]);
    }
    return node ? t->vocab.id[node] : KD__NO_ID;
}

static kd_status word(kd_encoder *e, const uint8_t *s, size_t n, size_t chars, kd_err *err)
{
    const kd__bpe *b = &e->t->bpe;
    (void)chars;
    if (!kd__ids_room(&e->tokens, n)) return kd_fail(err, KD_ENOMEM, "no memory for the tokens of a text");
    const uint32_t one = b->whole ? whole_word(e->t, s, n) : KD__NO_ID;
    if (one != KD__NO_ID) {
        e->tokens.id[e->tokens.n++] = one;
        return KD_OK;
    }
    const size_t bytes = n * sizeof(symbol);
    if (e->symbols.cap < bytes) {
        kd_buf_release(&e->symbols);
        if (!(e->symbols.text = malloc(bytes))) return kd_fail(err, KD_ENOMEM, "no memory for a word");
        e->symbols.cap = bytes;
    }
    symbol *x = (symbol *)(void *)e->symbols.text;
    const uint32_t k = begin(b, x, s, n);
    if (!merge_all(e, x, k)) return kd_fail(err, KD_ENOMEM, "no memory for a word of %zu bytes", n);
    for (uint32_t i = 0; k && i != END; i = x[i].next) e->tokens.id[e->tokens.n++] = x[i].id;
    return KD_OK;
}

kd_status kd__bpe_encode(kd_encoder *e, const uint8_t *s, size_t n, size_t limit, kd_err *err)
{
    size_t piece = 0, stop;
    kd_status st = KD_OK;
    for (size_t at = 0; at < n && e->tokens.n < limit && !st; at = stop) {
        stop = kd__split_next(&e->t->bpe.split, s, n, at, &piece);
        st = kd__cached(e, s + at, stop - at, 0, word, err);
    }
    return st;
}
