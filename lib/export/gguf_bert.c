/* gguf_bert.c - an encoder as a GGUF file of architecture "bert", for llama.cpp.
 *
 * Every key that llama.cpp knows of such a model is written: a missing special token ends its process, a
 * missing pooling is another one. Its vocabulary is not WordPiece's own: "##ing" is "ing" there, and a token
 * that begins a word has U+2581 in front ("▁cat"); special tokens stay. Norms, biases, positions and types
 * are f32 in any case. llama.cpp scales embeddings to length 1 itself when it is asked for that.
 *
 * It has no words for a projection behind the pooling, nor for narrower tables, nor for classes.
 */
#include "gguf_private.h"

#include "kd/text.h"

#include <stdlib.h>
#include <string.h>

/* The tensors before the layers, and those of layer N: kd's name without ".weight", llama.cpp's. */
static const char *const outer[][2] = {
    {"embeddings.word_embeddings", "token_embd"},
    {"embeddings.position_embeddings", "position_embd"},
    {"embeddings.token_type_embeddings", "token_types"},
    {"embeddings_norm", "token_embd_norm"},
};
static const char *const inner[][2] = {
    {".query", "attn_q"},
    {".key", "attn_k"},
    {".value", "attn_v"},
    {".merge", "attn_output"},
    {".attention", "attn_output_norm"},
    {".up", "ffn_up"},
    {".down", "ffn_down"},
    {"", "layer_output_norm"},
};

/* "blk.3.attn_q.weight" of "layer3.query.weight"; false: no name for it. */
static bool name_of(char out[KD_GGUF_MAX_NAME], const char *param)
{
    const char *dot = strrchr(param, '.');
    char *end = NULL;
    for (size_t i = 0; i < KD_COUNT(outer); i++)
        if (strlen(outer[i][0]) == (size_t)(dot - param) &&
            !strncmp(param, outer[i][0], (size_t)(dot - param))) {
            snprintf(out, KD_GGUF_MAX_NAME, "%s%s", outer[i][1], dot);
            return true;
        }
    const long layer = strncmp(param, "layer", 5) ? -1 : strtol(param + 5, &end, 10);
    for (size_t i = 0; layer >= 0 && i < KD_COUNT(inner); i++)
        if (strlen(inner[i][0]) == (size_t)(dot - end) && !strncmp(end, inner[i][0], (size_t)(dot - end))) {
            snprintf(out, KD_GGUF_MAX_NAME, "blk.%ld.%s%s", layer, inner[i][1], dot);
            return true;
        }
    return false;
}

static bool keeps(const kd_param *p)
{
    return p->ndims == 1 || strstr(p->name, "position_") || strstr(p->name, "token_type_");
}

static bool is_table(const kd_param *p) { return strstr(p->name, "word_embeddings"); }

static kd_status check(const kd_model *m, const kd_model_export *o, kd_err *err)
{
    const kd_model_spec *s = &m->spec;
    const char *what = s->classes || s->output
                           ? "a projection behind the pooling (model.output, model.classes)"
                       : s->embedding ? "tables that are narrower than the layers (model.embedding)"
                                      : NULL;
    (void)o;
    return what ? kd_fail(err, KD_EUNSUPPORTED, "%s: a GGUF file has no words for %s", m->name, what) : KD_OK;
}

/* ---- sizes -------------------------------------------------------------------------------------- */

static void put_sizes(kd_gguf_writer *g, const kd_model *m)
{
    const kd_model_spec *s = &m->spec;
    kd_gguf_put_u32(g, "bert.vocab_size", (uint32_t)s->vocab);
    kd_gguf_put_u32(g, "bert.context_length", (uint32_t)s->positions);
    kd_gguf_put_u32(g, "bert.embedding_length", (uint32_t)s->width);
    kd_gguf_put_u32(g, "bert.feed_forward_length", (uint32_t)(s->ffn ? s->ffn : 4 * s->width));
    kd_gguf_put_u32(g, "bert.block_count", (uint32_t)s->layers);
    kd_gguf_put_u32(g, "bert.attention.head_count", (uint32_t)s->heads);
    kd_gguf_put_u32(g, "bert.attention.head_count_kv", (uint32_t)s->heads);
    kd_gguf_put_f32(g, "bert.attention.layer_norm_epsilon", (float)s->eps);
    kd_gguf_put_bool(g, "bert.attention.causal", false);
    kd_gguf_put_u32(g, "bert.pooling_type",
                    !strcmp(s->pooling, "mean")  ? 1
                    : !strcmp(s->pooling, "cls") ? 2
                                                 : 0);
}

/* ---- vocabulary --------------------------------------------------------------------------------- */

enum { NORMAL = 1, CONTROL = 3, UNUSED = 5 }; /* llama.cpp's kinds of tokens */

/* Special tokens: what BERT calls them unless the folder says otherwise; the keys of their ids. */
static const struct special {
    const char *role, *usual, *key;
} specials[] = {
    {"pad_token", "[PAD]", "tokenizer.ggml.padding_token_id"},
    {"unk_token", "[UNK]", "tokenizer.ggml.unknown_token_id"},
    {"cls_token", "[CLS]", "tokenizer.ggml.cls_token_id"},
    {"sep_token", "[SEP]", "tokenizer.ggml.seperator_token_id"}, // llama.cpp's spelling
    {"mask_token", "[MASK]", "tokenizer.ggml.mask_token_id"},
};

typedef struct vocabulary {
    kd_tokenizer *t;
    uint32_t special[KD_COUNT(specials)];
    bool lowercase, strip_accents;
} vocabulary;

/* One of the tokenizer's files as JSON, NULL: not there. */
static json_t *file_json(const kd_tokenizer *t, const char *name)
{
    const char *text = json_string_value(json_object_get(kd_tokenizer_files(t), name));
    json_t *j = NULL;
    if (text) kd_json_parse(&j, text, strlen(text), NULL);
    return j;
}

static kd_status find_specials(vocabulary *v, const char *folder, kd_err *err)
{
    json_t *config = file_json(v->t, "tokenizer_config.json");
    kd_status st = KD_OK;
    for (size_t i = 0; i < KD_COUNT(specials) && !st; i++) {
        const json_t *own = json_object_get(config, specials[i].role);
        const char *name = json_string_value(json_is_object(own) ? json_object_get(own, "content") : own);
        if (!name) name = specials[i].usual;
        if (!kd_tokenizer_find(v->t, name, &v->special[i]))
            st = kd_fail(err, KD_EUNSUPPORTED,
                         "%s: its vocabulary has no %s '%.60s', without which llama.cpp fails", folder,
                         specials[i].role, name);
    }
    json_decref(config);
    return st;
}

/* As BertNormalizer has it: accents go with lower case unless it is said. */
static void find_normalizer(vocabulary *v)
{
    json_t *tokenizer = file_json(v->t, "tokenizer.json"), *config = file_json(v->t, "tokenizer_config.json");
    const json_t *n = json_object_get(tokenizer, "normalizer");
    const json_t *lower = n ? json_object_get(n, "lowercase") : json_object_get(config, "do_lower_case");
    const json_t *strip = json_object_get(n ? n : config, "strip_accents");
    v->lowercase = lower ? json_is_true(lower) : true;
    v->strip_accents = json_is_boolean(strip) ? json_is_true(strip) : v->lowercase;
    json_decref(tokenizer);
    json_decref(config);
}

static bool is_special(const vocabulary *v, uint32_t id)
{
    for (size_t i = 0; i < KD_COUNT(specials); i++)
        if (v->special[i] == id) return true;
    return false;
}

static void put_token(kd_gguf_writer *g, const char *token, bool special)
{
    char text[KD_TOKEN_MAX_BYTES + 8];
    const bool inside = !special && token[0] == '#' && token[1] == '#' && token[2];
    const int n =
        snprintf(text, sizeof text, "%s%s", special || inside ? "" : "\xe2\x96\x81", token + 2 * inside);
    kd_gguf_put_item(g, text, kd_min_size((size_t)n, sizeof text - 1));
}

static kd_status put_vocabulary(kd_gguf_writer *g, const kd_model *m, const vocabulary *v, const char *folder,
                                kd_err *err)
{
    const uint32_t rows = (uint32_t)m->spec.vocab;
    if (kd_tokenizer_size(v->t) > rows)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: its tokenizer has %u tokens, the model %s has %u (model.vocab)", folder,
                       kd_tokenizer_size(v->t), m->name, rows);
    int32_t *kind = calloc(rows, sizeof *kind);
    if (!kind) return kd_fail(err, KD_ENOMEM, "no memory for %u tokens", rows);
    kd_gguf_put_str(g, "tokenizer.ggml.model", "bert");
    kd_gguf_put_str(g, "tokenizer.ggml.pre", "default");
    kd_gguf_put_u32(g, "tokenizer.ggml.token_type_count", (uint32_t)m->spec.types);
    kd_gguf_put_texts(g, "tokenizer.ggml.tokens", rows);
    for (uint32_t i = 0; i < rows; i++) {
        char unused[32];
        const char *token = kd_tokenizer_token(v->t, i);
        const bool special = token && is_special(v, i);
        kind[i] = !token ? UNUSED : special ? CONTROL : NORMAL;
        snprintf(unused, sizeof unused, "[PAD%u]", i);
        put_token(g, token ? token : unused, special || !token);
    }
    kd_gguf_put_i32s(g, "tokenizer.ggml.token_type", kind, rows);
    free(kind);
    for (size_t i = 0; i < KD_COUNT(specials); i++) kd_gguf_put_u32(g, specials[i].key, v->special[i]);
    kd_gguf_put_u32(g, "tokenizer.ggml.bos_token_id", v->special[2]);
    kd_gguf_put_u32(g, "tokenizer.ggml.eos_token_id", v->special[3]);
    kd_gguf_put_bool(g, "tokenizer.ggml.add_bos_token", true);
    kd_gguf_put_bool(g, "tokenizer.ggml.add_eos_token", true);
    kd_gguf_put_bool(g, "tokenizer.ggml.normalizer.lowercase", v->lowercase);
    kd_gguf_put_bool(g, "tokenizer.ggml.normalizer.strip_accents", v->strip_accents);
    return KD_OK;
}

/* ---- the keys ----------------------------------------------------------------------------------- */

static kd_status put_keys(kd_gguf_writer *g, const kd_model *m, const kd_model_export *o, kd_err *err)
{
    vocabulary v = {0};
    kd_status st = kd_tokenizer_open(&v.t, o->tokenizer, err);
    if (!st) st = find_specials(&v, o->tokenizer, err);
    if (!st) {
        find_normalizer(&v);
        put_sizes(g, m);
        st = put_vocabulary(g, m, &v, o->tokenizer, err);
    }
    kd_tokenizer_close(v.t);
    return st;
}

const kd__gguf_arch kd__gguf_bert = {"bert", check, put_keys, name_of, keeps, is_table, NULL};
