/* read_vocab.c - vocab.txt, one token a line: the id is the line's number from 0.
 *
 * The file does not say what tokenizer_config.json does; without that it is the uncased BERT.
 */
#include "text_private.h"

/* A member that is true or false; null and a missing one are `other`. */
static kd_status flag(const json_t *config, const char *key, bool other, bool *out, const char *where,
                      kd_err *err)
{
    const json_t *v = json_object_get(config, key);
    *out = v && !json_is_null(v) ? json_is_true(v) : other;
    if (!v || json_is_null(v) || json_is_boolean(v)) return KD_OK;
    return kd_fail(err, KD_ECORRUPT, "%s: tokenizer_config.json: '%s' is neither true nor false", where, key);
}

/* The id of a special token: a string, or an object with `content`. */
static kd_status special(kd_tokenizer *t, const json_t *config, const char *key, const char *other,
                         uint32_t *id, const char *where, kd_err *err)
{
    const json_t *v = json_object_get(config, key);
    if (json_is_object(v)) v = json_object_get(v, "content");
    const char *name = json_is_string(v) ? json_string_value(v) : other;
    *id = kd__trie_find(&t->vocab, name, strlen(name));
    if (*id == KD__NO_ID)
        return kd_fail(err, KD_ECORRUPT, "%s: special token '%.40s' is not in the vocabulary", where, name);
    const kd__added a = {.text = t->token[*id], .len = strlen(name), .id = *id, .special = true};
    for (size_t i = 0; i < t->nadded; i++)
        if (t->added[i].id == *id) return KD_OK;
    return kd__vocabulary_added(t, &a, where, err);
}

static kd_status read_lines(kd_tokenizer *t, const char *text, size_t len, const char *where, kd_err *err)
{
    const char *p = text, *end = text + len;
    for (uint64_t line = 0; p < end; line++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        const char *next = stop ? stop + 1 : end;
        if (!stop) stop = end;
        if (stop > p && stop[-1] == '\r') stop--;
        if (memchr(p, 0, (size_t)(stop - p)))
            return kd_fail(err, KD_ECORRUPT, "%s: vocab.txt:%llu: a zero byte", where,
                           (unsigned long long)line + 1);
        char *token = kd_sprintf("%.*s", (int)kd_min_size((size_t)(stop - p), KD_TOKEN_MAX_BYTES + 1), p);
        if (!token) return kd_fail(err, KD_ENOMEM, "%s: out of memory", where);
        kd_status st = kd__vocabulary_add(t, token, strlen(token), line, where, err);
        free(token);
        if (st) return st;
        p = next;
    }
    return t->size ? KD_OK : kd_fail(err, KD_ECORRUPT, "%s: vocab.txt has no tokens", where);
}

kd_status kd__read_vocab(kd_tokenizer *t, const char *text, size_t len, const json_t *config,
                         const char *where, kd_err *err)
{
    static const char *const more[][2] = {{"pad_token", "[PAD]"}, {"mask_token", "[MASK]"}};
    kd__normal *n = &t->normalizer;
    uint32_t unk, cls, sep, id;
    kd_status st = read_lines(t, text, len, where, err);
    n->clean = true;
    if (st || (st = flag(config, "do_lower_case", true, &n->lower, where, err)) ||
        (st = flag(config, "tokenize_chinese_chars", true, &n->chinese, where, err)) ||
        (st = flag(config, "strip_accents", n->lower, &n->strip, where, err)) ||
        (st = special(t, config, "unk_token", "[UNK]", &unk, where, err)) ||
        (st = special(t, config, "cls_token", "[CLS]", &cls, where, err)) ||
        (st = special(t, config, "sep_token", "[SEP]", &sep, where, err)))
        return st;
    for (size_t i = 0; i < 2; i++) // those that only some vocabularies have
        if (kd_tokenizer_find(t, more[i][1], &id) &&
            (st = special(t, config, more[i][0], more[i][1], &id, where, err)))
            return st;
    t->joins = t->cleanup = true;
    kd__template_bert(t, cls, sep);
    return kd__wordpiece_init(t, t->token[unk], "##", 100, where, err);
}
