/* read_json.c - tokenizer.json of Hugging Face's tokenizers: what it asks for, or which part is not here.
 *
 * Order: model (its vocabulary first), added tokens, normalizer, pre-tokenizer, template, truncation. What
 * changes ids and is unknown is refused; padding does not concern ids that are kept without it.
 */
#include "read_json.h"

enum { ADDED_MAX = 16384 };

/* ---- members ---------------------------------------------------------------------------------- */

kd_status kd__read_bad(const kd__reader *r, const char *path, const char *key, const char *wanted)
{
    return kd_fail(r->err, KD_ECORRUPT, "%s: %s%s%s is missing or not %s", r->where, path, *path ? "." : "",
                   key, wanted);
}

kd_status kd__read_bool(const kd__reader *r, const json_t *o, const char *path, const char *key, bool other,
                        bool *out)
{
    const json_t *v = json_object_get(o, key);
    *out = v && !json_is_null(v) ? json_is_true(v) : other;
    return !v || json_is_null(v) || json_is_boolean(v) ? KD_OK : kd__read_bad(r, path, key, "true or false");
}

static kd_status whole(const kd__reader *r, const json_t *o, const char *path, const char *key, int64_t lo,
                       int64_t hi, int64_t *out)
{
    const json_t *v = json_object_get(o, key);
    char wanted[80];
    *out = json_integer_value(v);
    if (json_is_integer(v) && *out >= lo && *out <= hi) return KD_OK;
    snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)lo, (long long)hi);
    return kd__read_bad(r, path, key, wanted);
}

kd_status kd__read_str(const kd__reader *r, const json_t *o, const char *path, const char *key,
                       const char **out)
{
    *out = json_string_value(json_object_get(o, key));
    return *out ? KD_OK : kd__read_bad(r, path, key, "a string");
}

kd_status kd__read_part(const kd__reader *r, const json_t *root, const char *key, const json_t **o,
                        const char **type)
{
    *o = json_object_get(root, key);
    if (!*o || json_is_null(*o)) return *o = NULL, KD_OK;
    if (!json_is_object(*o)) return kd__read_bad(r, "", key, "an object");
    return kd__read_str(r, *o, key, "type", type);
}

kd_status kd__read_unsupported(const kd__reader *r, const char *what, const char *type, const char *have)
{
    return kd_fail(r->err, KD_EUNSUPPORTED, "%s: %s %.60s is not supported; %s is", r->where, what, type,
                   have);
}

/* ---- parts ------------------------------------------------------------------------------------ */

kd_status kd__read_tokens(const kd__reader *r, const json_t *model)
{
    const json_t *vocab = json_object_get(model, "vocab"), *v;
    const char *token;
    if (!json_is_object(vocab) || !json_object_size(vocab))
        return kd__read_bad(r, "model", "vocab", "an object with tokens");
    json_object_foreach((json_t *)(uintptr_t)vocab, token, v)
    {
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return kd_fail(r->err, KD_ECORRUPT,
                           "%s: model.vocab: the id of '%.40s' is no whole number from 0", r->where, token);
        kd_status st =
            kd__vocabulary_add(r->t, token, strlen(token), (uint64_t)json_integer_value(v), r->where, r->err);
        if (st) return st;
    }
    return KD_OK;
}

static kd_status read_wordpiece(const kd__reader *r, const json_t *m)
{
    const char *unk, *prefix;
    int64_t most;
    kd_status st;
    if ((st = kd__read_str(r, m, "model", "unk_token", &unk)) ||
        (st = kd__read_str(r, m, "model", "continuing_subword_prefix", &prefix)) ||
        (st = whole(r, m, "model", "max_input_chars_per_word", 1, 1 << 20, &most)) ||
        (st = kd__read_tokens(r, m)))
        return st;
    return kd__wordpiece_init(r->t, unk, prefix, (size_t)most, r->where, r->err);
}

static kd_status read_model(const kd__reader *r, const json_t *root)
{
    const json_t *m;
    const char *type;
    kd_status st = kd__read_part(r, root, "model", &m, &type);
    if (st) return st;
    if (!m) return kd__read_bad(r, "", "model", "an object");
    if (!strcmp(type, "WordPiece")) return read_wordpiece(r, m);
    return strcmp(type, "BPE") ? kd__read_unsupported(r, "model", type, "WordPiece or BPE")
                               : kd__read_bpe(r, m);
}

static kd_status read_added(const kd__reader *r, const json_t *root)
{
    const json_t *list = json_object_get(root, "added_tokens"), *o;
    const char *path = "added_tokens[]", *text;
    int64_t id;
    size_t i;
    kd_status st;
    if (!list || json_is_null(list)) return KD_OK;
    if (!json_is_array(list)) return kd__read_bad(r, "", "added_tokens", "a list");
    if (json_array_size(list) > ADDED_MAX)
        return kd_fail(r->err, KD_ELIMIT, "%s: %zu added tokens, the limit is %d", r->where,
                       json_array_size(list), ADDED_MAX);
    json_array_foreach(list, i, o)
    {
        kd__added a = {0};
        if ((st = whole(r, o, path, "id", 0, KD_TOKENIZER_MAX_SIZE - 1, &id)) ||
            (st = kd__read_str(r, o, path, "content", &text)) ||
            (st = kd__read_bool(r, o, path, "special", false, &a.special)) ||
            (st = kd__read_bool(r, o, path, "single_word", false, &a.single_word)) ||
            (st = kd__read_bool(r, o, path, "lstrip", false, &a.lstrip)) ||
            (st = kd__read_bool(r, o, path, "rstrip", false, &a.rstrip)) ||
            (st = kd__read_bool(r, o, path, "normalized", !a.special, &a.normalized)))
            return st;
        a.id = (uint32_t)id;
        a.text = (char *)(uintptr_t)text; // copied
        a.len = strlen(text);
        if (!a.len) return kd__read_bad(r, path, "content", "a string with letters");
        if ((st = kd__vocabulary_added(r->t, &a, r->where, r->err))) return st;
    }
    return KD_OK;
}

static kd_status read_normalizer(const kd__reader *r, const json_t *root)
{
    const json_t *o;
    const char *type;
    kd__normal *n = &r->t->normalizer;
    kd_status st = kd__read_part(r, root, "normalizer", &o, &type);
    r->t->plain = !o;
    if (st || !o) return st;
    if (strcmp(type, "BertNormalizer")) return kd__read_unsupported(r, "normalizer", type, "BertNormalizer");
    if ((st = kd__read_bool(r, o, "normalizer", "clean_text", true, &n->clean)) ||
        (st = kd__read_bool(r, o, "normalizer", "handle_chinese_chars", true, &n->chinese)) ||
        (st = kd__read_bool(r, o, "normalizer", "lowercase", true, &n->lower)))
        return st;
    return kd__read_bool(r, o, "normalizer", "strip_accents", n->lower, &n->strip);
}

static kd_status read_pre_tokenizer(const kd__reader *r, const json_t *root)
{
    const json_t *o;
    const char *type = "null";
    kd_status st = kd__read_part(r, root, "pre_tokenizer", &o, &type);
    return st || !strcmp(type, "BertPreTokenizer")
               ? st
               : kd__read_unsupported(r, "pre_tokenizer", type, "BertPreTokenizer");
}

static kd_status read_decoder(const kd__reader *r, const json_t *root)
{
    const json_t *o;
    const char *type, *prefix;
    kd_status st = kd__read_part(r, root, "decoder", &o, &type);
    if (st || !o) return st;
    if (strcmp(type, "WordPiece")) return kd__read_unsupported(r, "decoder", type, "WordPiece");
    r->t->joins = true;
    if ((st = kd__read_str(r, o, "decoder", "prefix", &prefix)) ||
        (st = kd__read_bool(r, o, "decoder", "cleanup", true, &r->t->cleanup)))
        return st;
    return strcmp(prefix, r->t->wordpiece.prefix)
               ? kd__read_unsupported(r, "decoder.prefix", prefix, "that of the model")
               : KD_OK;
}

static kd_status read_truncation(const kd__reader *r, const json_t *root)
{
    const json_t *o = json_object_get(root, "truncation");
    const char *strategy, *direction;
    int64_t most;
    kd_status st;
    if (!o || json_is_null(o)) return KD_OK;
    if ((st = whole(r, o, "truncation", "max_length", 0, INT32_MAX, &most)) ||
        (st = kd__read_str(r, o, "truncation", "strategy", &strategy)))
        return st;
    if (strcmp(strategy, "LongestFirst"))
        return kd__read_unsupported(r, "truncation.strategy", strategy, "LongestFirst");
    direction = json_string_value(json_object_get(o, "direction"));
    r->t->cut_left = direction && !strcmp(direction, "Left");
    r->t->max_tokens = (size_t)most;
    return KD_OK;
}

/* ---- templates --------------------------------------------------------------------------------- */

static kd_status add_piece(const kd__reader *r, kd__template *p, int64_t what, int64_t type)
{
    if (p->n == sizeof p->piece / sizeof *p->piece)
        return kd_fail(r->err, KD_ELIMIT, "%s: post_processor: a template of more than %zu pieces", r->where,
                       p->n);
    if (p->n && type < p->piece[p->n - 1].type)
        return kd_fail(r->err, KD_EUNSUPPORTED, "%s: post_processor: a token of type 0 behind one of type 1",
                       r->where);
    p->piece[p->n].what = what;
    p->piece[p->n++].type = (uint8_t)type;
    p->added += what >= 0;
    return KD_OK;
}

void kd__template_bert(kd_tokenizer *t, uint32_t cls, uint32_t sep)
{
    t->single = (kd__template){.piece = {{cls, 0}, {KD__PIECE_A, 0}, {sep, 0}}, .n = 3, .added = 2};
    t->pair = (kd__template){.piece = {{cls, 0}, {KD__PIECE_A, 0}, {sep, 0}, {KD__PIECE_B, 1}, {sep, 1}},
                             .n = 5,
                             .added = 3};
}

/* The ids of a special token of the template. */
static kd_status add_special(const kd__reader *r, kd__template *p, const json_t *post, const char *name,
                             int64_t type)
{
    const json_t *ids =
                     json_object_get(json_object_get(json_object_get(post, "special_tokens"), name), "ids"),
                 *id;
    size_t i;
    kd_status st;
    if (!json_is_array(ids))
        return kd__read_bad(r, "post_processor.special_tokens", name, "an object with ids");
    json_array_foreach(ids, i, id)
    {
        const json_int_t k = json_integer_value(id);
        if (!json_is_integer(id) || k < 0 || k >= r->t->size || !r->t->token[k])
            return kd_fail(r->err, KD_ECORRUPT, "%s: post_processor: '%.40s' has an id that is no token",
                           r->where, name);
        if ((st = add_piece(r, p, k, type))) return st;
    }
    return KD_OK;
}

static kd_status read_template(const kd__reader *r, kd__template *p, const json_t *post, const char *key)
{
    const json_t *list = json_object_get(post, key), *item;
    int64_t type;
    size_t i;
    if (!json_is_array(list)) return kd__read_bad(r, "post_processor", key, "a list");
    json_array_foreach(list, i, item)
    {
        const json_t *special = json_object_get(item, "SpecialToken"),
                     *text = json_object_get(item, "Sequence");
        const char *id;
        kd_status st = kd__read_str(r, special ? special : text, "post_processor.*", "id", &id);
        if (!st) st = whole(r, special ? special : text, "post_processor.*", "type_id", 0, 1, &type);
        if (st) return st;
        if (special)
            st = add_special(r, p, post, id, type);
        else if (strcmp(id, "A") && strcmp(id, "B"))
            st = kd__read_bad(r, "post_processor.*", "id", "A or B");
        else
            st = add_piece(r, p, *id == 'A' ? KD__PIECE_A : KD__PIECE_B, type);
        if (st) return st;
    }
    return KD_OK;
}

/* ["[SEP]", 102] */
static kd_status named_id(const kd__reader *r, const json_t *post, const char *key, uint32_t *out)
{
    const json_t *id = json_array_get(json_object_get(post, key), 1);
    *out = (uint32_t)json_integer_value(id);
    return json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < r->t->size
               ? KD_OK
               : kd__read_bad(r, "post_processor", key, "a token with its id");
}

/* ByteLevel only moves offsets: what else a sequence has counts, *o NULL: nothing. */
static kd_status behind_bytes(const kd__reader *r, const json_t **o, const char **type)
{
    const json_t *list = json_object_get(*o, "processors"), *p, *found = NULL;
    size_t i;
    if (!strcmp(*type, "ByteLevel")) *o = NULL;
    if (!*o || strcmp(*type, "Sequence")) return KD_OK;
    if (!json_is_array(list)) return kd__read_bad(r, "post_processor", "processors", "a list");
    json_array_foreach(list, i, p)
    {
        kd_status st = kd__read_str(r, p, "post_processor.processors[]", "type", type);
        if (st) return st;
        if (!strcmp(*type, "ByteLevel")) continue;
        if (found)
            return kd__read_unsupported(r, "post_processor", "a sequence of several", "one beside ByteLevel");
        found = p;
    }
    if ((*o = found)) *type = json_string_value(json_object_get(found, "type"));
    return KD_OK;
}

static kd_status read_post(const kd__reader *r, const json_t *root)
{
    const json_t *o;
    const char *type;
    uint32_t cls, sep;
    kd_tokenizer *t = r->t;
    kd_status st = kd__read_part(r, root, "post_processor", &o, &type);
    if (st || (o && (st = behind_bytes(r, &o, &type)))) return st;
    if (!o) {
        t->single = (kd__template){.piece = {{KD__PIECE_A, 0}}, .n = 1};
        t->pair = (kd__template){.piece = {{KD__PIECE_A, 0}, {KD__PIECE_B, 1}}, .n = 2};
        return KD_OK;
    }
    if (!strcmp(type, "BertProcessing")) {
        if ((st = named_id(r, o, "cls", &cls)) || (st = named_id(r, o, "sep", &sep))) return st;
        kd__template_bert(t, cls, sep);
        return KD_OK;
    }
    if (strcmp(type, "TemplateProcessing"))
        return kd__read_unsupported(r, "post_processor", type, "TemplateProcessing, as BertProcessing,");
    return (st = read_template(r, &t->single, o, "single")) ? st : read_template(r, &t->pair, o, "pair");
}

kd_status kd__read_json(kd_tokenizer *t, const char *text, size_t len, const char *where, kd_err *err)
{
    const kd__reader r = {.t = t, .where = where, .err = err};
    json_t *root;
    json_error_t at;
    kd_status st = kd_json_parse(&root, text, len, &at);
    if (st == KD_ENOMEM) return kd_fail(err, st, "%s: no memory for tokenizer.json", where);
    if (st)
        return kd_fail(err, st, "%s: tokenizer.json:%d:%d: not valid JSON: %s", where, at.line, at.column,
                       at.text);
    if (!json_is_object(root)) st = kd_fail(err, KD_ECORRUPT, "%s: tokenizer.json holds no object", where);
    if (!st) st = read_model(&r, root);
    if (!st) st = read_added(&r, root);
    if (!st && t->bpe.merge) {
        st = kd__read_bpe_rest(&r, root);
    } else if (!st && !(st = read_normalizer(&r, root)) && !(st = read_pre_tokenizer(&r, root))) {
        st = read_decoder(&r, root);
    }
    if (!st) st = read_post(&r, root);
    if (!st) st = read_truncation(&r, root);
    json_decref(root);
    return st;
}
