/* vocabulary.c - tokens by id and ids by token, as they are read.
 *
 * Two tokens with one id, or one token with two, would be settled by whoever reads last; they are refused.
 */
#include "text_private.h"

/* Makes room for an id and gives it its token. */
static kd_status name_id(kd_tokenizer *t, const char *s, size_t n, uint32_t id, const char *where,
                         kd_err *err)
{
    if (id >= t->token_cap) {
        const size_t cap = kd_max_size((size_t)id + 1, 2 * t->token_cap);
        char **more = realloc(t->token, cap * sizeof *more);
        if (!more) return kd_fail(err, KD_ENOMEM, "%s: no memory for id %u", where, id);
        memset(more + t->token_cap, 0, (cap - t->token_cap) * sizeof *more);
        t->token = more;
        t->token_cap = cap;
    }
    if (id >= t->size) t->size = id + 1;
    if (t->token[id])
        return kd_fail(err, KD_ECORRUPT, "%s: id %u is both '%.40s' and '%.40s'", where, id, t->token[id], s);
    if (!(t->token[id] = malloc(n + 1))) return kd_fail(err, KD_ENOMEM, "%s: out of memory", where);
    memcpy(t->token[id], s, n);
    t->token[id][n] = '\0';
    return KD_OK;
}

static kd_status check(const char *s, size_t n, uint64_t id, const char *where, kd_err *err)
{
    if (id >= KD_TOKENIZER_MAX_SIZE)
        return kd_fail(err, KD_ELIMIT, "%s: token '%.40s' has id %llu, ids go up to %u", where, s,
                       (unsigned long long)id, KD_TOKENIZER_MAX_SIZE - 1);
    if (n > KD_TOKEN_MAX_BYTES)
        return kd_fail(err, KD_ELIMIT, "%s: token '%.40s...' has %zu bytes, the limit is %u", where, s, n,
                       KD_TOKEN_MAX_BYTES);
    return KD_OK;
}

kd_status kd__vocabulary_add(kd_tokenizer *t, const char *s, size_t n, uint64_t id, const char *where,
                             kd_err *err)
{
    uint32_t was;
    kd_status st = check(s, n, id, where, err);
    if (st || (st = name_id(t, s, n, (uint32_t)id, where, err))) return st;
    if ((st = kd__trie_add(&t->vocab, s, n, (uint32_t)id, &was, err)))
        return kd_fail_in(err, st, "%s", where);
    if (was == KD__NO_ID) return KD_OK;
    return kd_fail(err, KD_ECORRUPT, "%s: token '%.40s' has the ids %u and %llu", where, s, was,
                   (unsigned long long)id);
}

kd_status kd__vocabulary_added(kd_tokenizer *t, const kd__added *a, const char *where, kd_err *err)
{
    const uint32_t known = kd__trie_find(&t->vocab, a->text, a->len);
    kd_status st = check(a->text, a->len, a->id, where, err);
    if (st) return st;
    if (known != KD__NO_ID && known != a->id)
        return kd_fail(err, KD_ECORRUPT, "%s: added token '%.40s' has id %u, the vocabulary says %u", where,
                       a->text, a->id, known);
    for (size_t i = 0; i < t->nadded; i++)
        if (t->added[i].len == a->len && !memcmp(t->added[i].text, a->text, a->len))
            return kd_fail(err, KD_ECORRUPT, "%s: added token '%.40s' is there twice", where, a->text);
    if (known == KD__NO_ID && (st = name_id(t, a->text, a->len, a->id, where, err))) return st;
    kd__added *more = realloc(t->added, (t->nadded + 1) * sizeof *more);
    if (!more) return kd_fail(err, KD_ENOMEM, "%s: out of memory", where);
    t->added = more;
    more[t->nadded] = *a;
    if (!(more[t->nadded].text = malloc(a->len + 1)))
        return kd_fail(err, KD_ENOMEM, "%s: out of memory", where);
    memcpy(more[t->nadded++].text, a->text, a->len + 1);
    return KD_OK;
}
