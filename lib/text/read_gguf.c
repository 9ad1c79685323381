/* read_gguf.c - the tokenizer inside a GGUF file, as the files of a Hugging Face folder.
 *
 * Whoever keeps a tokenizer (a store, a student's folder) keeps tokenizer.json, so one is written from the
 * file's keys: the same keys give the same bytes, and the same hash. What llama.cpp knows by name (.pre) is
 * spelled out; control tokens are special, tokens that users defined are added ones. tokenizer_config.json
 * gets the chat template and the names of the special tokens.
 */
#include "text_private.h"

#include "kd/gguf.h"

#define KEY(name) "tokenizer.ggml." name
enum { CONTROL = 3, USER_DEFINED = 4 }; /* llama.cpp's kinds of tokens */

#define LLAMA3(digits)                                                                                       \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits                               \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const struct {
    const char *name, *regex;
    bool digits, whole, begins; /* Digits in front; ignore_merges; a text begins with the bos token */
} kinds[] = {
    {"gpt-2", NULL, false, false, false},
    {"smollm", NULL, true, false, false},
    {"llama-bpe", LLAMA3("{1,3}"), false, true, true},
    {"llama3", LLAMA3("{1,3}"), false, true, true},
    {"llama-v3", LLAMA3("{1,3}"), false, true, true},
    {"qwen2", LLAMA3(""), false, false, false},
};

static kd_status pre_of(const kd_gguf *g, size_t *out, kd_err *err)
{
    const char *model = kd_gguf_str(g, KEY("model")), *pre = kd_gguf_str(g, KEY("pre"));
    if (!model || strcmp(model, "gpt2"))
        return kd_fail(
            err, KD_EUNSUPPORTED,
            "%s: its tokenizer is of model '%.40s'; from GGUF files gpt2 (byte-level BPE) is read, "
            "others from their Hugging Face folder",
            kd_gguf_path(g), model ? model : "none");
    for (*out = 0; *out < sizeof kinds / sizeof *kinds; ++*out)
        if (pre && !strcmp(pre, kinds[*out].name)) return KD_OK;
    return kd_fail(err, KD_EUNSUPPORTED,
                   "%s: its pre-tokenizer (" KEY(
                       "pre") ") is '%.40s'; gpt-2, smollm, llama-bpe and qwen2 are known",
                   kd_gguf_path(g), pre ? pre : "none");
}

static json_t *text_of(const kd_gguf_text *t) { return json_stringn(t->bytes, t->len); }

/* {"token": id, ...} and, in the order of ids, the added tokens. */
static kd_status put_tokens(const kd_gguf *g, json_t *model, json_t *added, kd_err *err)
{
    const kd_gguf_value *tokens, *type;
    json_t *vocab = json_object();
    json_object_set_new(model, "vocab", vocab);
    kd_status st = kd_gguf_list(g, KEY("tokens"), KD_GGUF_KIND_TEXT, &tokens, err);
    if (st || (st = kd_gguf_list(g, KEY("token_type"), KD_GGUF_KIND_I32, &type, err))) return st;
    if (type->n != tokens->n)
        return kd_fail(err, KD_ECORRUPT, "%s: %zu tokens, but " KEY("token_type") " has %zu", kd_gguf_path(g),
                       tokens->n, type->n);
    for (size_t i = 0; i < tokens->n; i++) {
        const kd_gguf_text *t = (const kd_gguf_text *)tokens->items + i;
        const int32_t kind = ((const int32_t *)type->items)[i];
        if (!t->len || strlen(t->bytes) != t->len ||
            kd__utf8_valid((const uint8_t *)t->bytes, t->len) < t->len)
            return kd_fail(err, KD_ECORRUPT, "%s: token %zu is empty, not UTF-8 or holds a zero",
                           kd_gguf_path(g), i);
        if (json_object_get(vocab, t->bytes))
            return kd_fail(err, KD_ECORRUPT, "%s: token '%.40s' is there twice", kd_gguf_path(g), t->bytes);
        json_object_set_new(vocab, t->bytes, json_integer((json_int_t)i));
        if (kind == CONTROL || kind == USER_DEFINED)
            json_array_append_new(added, json_pack("{s:I, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i,
                                                   "content", text_of(t), "single_word", 0, "lstrip", 0,
                                                   "rstrip", 0, "normalized", 0, "special", kind == CONTROL));
    }
    return KD_OK;
}

static kd_status put_merges(const kd_gguf *g, json_t *model, kd_err *err)
{
    const kd_gguf_value *v;
    json_t *list = json_array();
    json_object_set_new(model, "merges", list);
    kd_status st = kd_gguf_list(g, KEY("merges"), KD_GGUF_KIND_TEXT, &v, err);
    for (size_t i = 0; !st && i < v->n; i++) {
        json_t *s = text_of((const kd_gguf_text *)v->items + i);
        if (!s) return kd_fail(err, KD_ECORRUPT, "%s: merge %zu is not UTF-8", kd_gguf_path(g), i);
        json_array_append_new(list, s);
    }
    return st;
}

/* The token of a key like bos_token_id; NULL: no such key, or no such token. */
static const kd_gguf_text *named(const kd_gguf *g, const char *key, json_int_t *id)
{
    const kd_gguf_value *tokens;
    int64_t n;
    if (kd_gguf_list(g, KEY("tokens"), KD_GGUF_KIND_TEXT, &tokens, NULL) || !tokens->n ||
        kd_gguf_int(g, key, 0, (int64_t)tokens->n - 1, &n, NULL))
        return NULL;
    *id = n;
    return (const kd_gguf_text *)tokens->items + n;
}

static json_t *pre_tokenizer(size_t kind)
{
    const char *regex = kinds[kind].regex;
    json_t *bytes = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                              "trim_offsets", 1, "use_regex", !regex);
    if (kinds[kind].digits)
        return json_pack("{s:s, s:[{s:s, s:b}, o]}", "type", "Sequence", "pretokenizers", "type", "Digits",
                         "individual_digits", 1, bytes);
    if (!regex) return bytes;
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers", "type",
                     "Split", "pattern", "Regex", regex, "behavior", "Isolated", "invert", 0, bytes);
}

/* A text begins with the bos token where the file says so, or its kind does and the file says nothing. */
static json_t *post_processor(const kd_gguf *g, size_t kind)
{
    json_int_t id = 0;
    int64_t on = kinds[kind].begins;
    const kd_gguf_text *bos = named(g, KEY("bos_token_id"), &id);
    if (kd_gguf_find(g, KEY("add_bos_token"))) kd_gguf_int(g, KEY("add_bos_token"), 0, 1, &on, NULL);
    json_t *bytes = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1,
                              "trim_offsets", 0, "use_regex", 1);
    if (!on || !bos) return bytes;
    json_t *template =
        json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, "
                  "s:i}}, {s:{s:s, s:i}}], "
                  "s:{s:{s:s, s:[I], s:[s]}}}",
                  "type", "TemplateProcessing", "single", "SpecialToken", "id", bos->bytes, "type_id", 0,
                  "Sequence", "id", "A", "type_id", 0, "pair", "SpecialToken", "id", bos->bytes, "type_id", 0,
                  "Sequence", "id", "A", "type_id", 0, "SpecialToken", "id", bos->bytes, "type_id", 1,
                  "Sequence", "id", "B", "type_id", 1, "special_tokens", bos->bytes, "id", bos->bytes, "ids",
                  id, "tokens", bos->bytes);
    return json_pack("{s:s, s:[o, o]}", "type", "Sequence", "processors", bytes, template);
}

static json_t *config_of(const kd_gguf *g)
{
    static const char *const roles[][2] = {{"bos_token", KEY("bos_token_id")},
                                           {"eos_token", KEY("eos_token_id")},
                                           {"unk_token", KEY("unknown_token_id")},
                                           {"pad_token", KEY("padding_token_id")}};
    const char *chat = kd_gguf_str(g, "tokenizer.chat_template");
    json_t *c = json_pack("{s:s}", "tokenizer_class", "PreTrainedTokenizerFast");
    json_int_t id;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        const kd_gguf_text *t = named(g, roles[i][1], &id);
        if (t) json_object_set_new(c, roles[i][0], text_of(t));
    }
    if (chat) json_object_set_new(c, "chat_template", json_string(chat));
    return c;
}

/* files[name] = text of the value; takes the value. */
static kd_status keep(json_t *files, const char *name, json_t *value, const char *path, kd_err *err)
{
    char *text = value ? kd_json_text(value, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    const bool kept = text && !json_object_set_new(files, name, json_string(text));
    json_decref(value);
    free(text);
    return kept ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: no memory for its tokenizer", path);
}

static kd_status put_files(const kd_gguf *g, json_t *files, kd_err *err)
{
    size_t kind = 0;
    kd_status st = pre_of(g, &kind, err);
    if (st) return st;
    json_t *added = json_array(),
           *model = json_pack("{s:s, s:n, s:n, s:b, s:b, s:b}", "type", "BPE", "dropout", "unk_token",
                              "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", kinds[kind].whole);
    st = put_tokens(g, model, added, err);
    if (!st) st = put_merges(g, model, err);
    json_t *all =
        json_pack("{s:s, s:n, s:n, s:O, s:n, s:o, s:o, s:{s:s, s:b, s:b, s:b}, s:O}", "version", "1.0",
                  "truncation", "padding", "added_tokens", added, "normalizer", "pre_tokenizer",
                  pre_tokenizer(kind), "post_processor", post_processor(g, kind), "decoder", "type",
                  "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1, "model", model);
    json_decref(added);
    json_decref(model);
    if (st)
        json_decref(all);
    else
        st = keep(files, "tokenizer.json", all, kd_gguf_path(g), err);
    return st ? st : keep(files, "tokenizer_config.json", config_of(g), kd_gguf_path(g), err);
}

kd_status kd__read_gguf(json_t *files, const char *path, kd_err *err)
{
    kd_gguf *g;
    kd_status st = kd_gguf_open(&g, path, err);
    if (st) return st;
    st = put_files(g, files, err);
    kd_gguf_close(g);
    return st;
}
