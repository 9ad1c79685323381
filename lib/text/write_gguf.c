/* write_gguf.c - a byte-level BPE tokenizer as keys of a GGUF file: what read_gguf.c reads, written.
 *
 * llama.cpp knows pre-tokenizers by name, and a name stands for all that goes with it: the expression,
 * whether digits stand alone, and whether a word that is a token needs no merges. So a tokenizer of another
 * mixture is refused, as is one without a token that ends texts: llama.cpp would end them at token 11.
 */
#include "text_private.h"

#include "kd/gguf.h"

#define KEY(name) "tokenizer.ggml." name
enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 }; /* llama.cpp's kinds of tokens */

static const struct {
    const char *name;
    kd__rule rule;
    int numbers; /* LLAMA3 only */
    bool digits, whole;
} kinds[] = {
    {"gpt-2", KD__RULE_GPT2, 0, false, false},
    {"smollm", KD__RULE_GPT2, 0, true, false},
    {"llama-bpe", KD__RULE_LLAMA3, 3, false, true},
    {"qwen2", KD__RULE_LLAMA3, 1, false, false},
};

static const char *pre_of(const kd__bpe *b)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].rule == b->split.rule && kinds[i].digits == b->split.digits &&
            kinds[i].whole == b->whole &&
            (b->split.rule == KD__RULE_GPT2 || kinds[i].numbers == b->split.numbers))
            return kinds[i].name;
    return NULL;
}

static kd_status put_tokens(kd_gguf_writer *g, const kd_tokenizer *t, uint32_t rows, kd_err *err)
{
    int32_t *kind = malloc(rows * sizeof *kind);
    if (!kind) return kd_fail(err, KD_ENOMEM, "no memory for %u tokens", rows);
    kd_gguf_put_texts(g, KEY("tokens"), rows);
    for (uint32_t i = 0; i < rows; i++) {
        char unused[32];
        const char *token = kd_tokenizer_token(t, i);
        kind[i] = token ? NORMAL : UNUSED;
        snprintf(unused, sizeof unused, "[PAD%u]", i);
        if (!token) token = unused;
        kd_gguf_put_item(g, token, strlen(token));
    }
    for (size_t i = 0; i < t->nadded; i++)
        kind[t->added[i].id] = t->added[i].special ? CONTROL : USER_DEFINED;
    kd_gguf_put_i32s(g, KEY("token_type"), kind, rows);
    free(kind);
    return KD_OK;
}

/* "left right" in the order of their ranks. */
static kd_status put_merges(kd_gguf_writer *g, const kd_tokenizer *t, kd_err *err)
{
    const kd__bpe *b = &t->bpe;
    const kd__merge **ranked = calloc(b->merges + 1, sizeof *ranked);
    kd_buf text = {0};
    if (!ranked) return kd_fail(err, KD_ENOMEM, "no memory for %zu merges", b->merges);
    for (uint64_t i = 0; i <= b->mask; i++)
        if (b->merge[i].left != KD__NO_ID) ranked[b->merge[i].rank] = &b->merge[i];
    kd_gguf_put_texts(g, KEY("merges"), b->merges);
    for (size_t i = 0; i < b->merges; i++) {
        text.len = 0;
        kd_buf_printf(&text, "%s %s", t->token[ranked[i]->left], t->token[ranked[i]->right]);
        if (!text.failed) kd_gguf_put_item(g, text.text, text.len);
    }
    const bool failed = text.failed;
    kd_buf_release(&text);
    free(ranked);
    return failed ? kd_fail(err, KD_ENOMEM, "no memory for %zu merges", b->merges) : KD_OK;
}

/* What ends a text: as it is called, else by its usual names. */
static bool find_end(const kd_tokenizer *t, uint32_t *id)
{
    return kd_tokenizer_special(t, "eos_token", id) || kd_tokenizer_find(t, "<|endoftext|>", id) ||
           kd_tokenizer_find(t, "<|end_of_text|>", id) || kd_tokenizer_find(t, "</s>", id);
}

static kd_status put_specials(kd_gguf_writer *g, const kd_tokenizer *t, const char *where, kd_err *err)
{
    static const char *const roles[][2] = {{"unk_token", KEY("unknown_token_id")},
                                           {"pad_token", KEY("padding_token_id")}};
    const kd__template *s = &t->single;
    const bool begins = s->n == 2 && s->piece[0].what >= 0 && s->piece[1].what == KD__PIECE_A;
    uint32_t id;
    if (!begins && s->n > 1)
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: its post_processor adds more than one token before a text; a GGUF file has no "
                       "words for that",
                       where);
    if (!find_end(t, &id))
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: no eos_token in its tokenizer_config.json, without which llama.cpp ends texts at "
                       "token 11",
                       where);
    kd_gguf_put_u32(g, KEY("eos_token_id"), id);
    if (begins)
        kd_gguf_put_u32(g, KEY("bos_token_id"), (uint32_t)s->piece[0].what);
    else if (kd_tokenizer_special(t, "bos_token", &id))
        kd_gguf_put_u32(g, KEY("bos_token_id"), id);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (kd_tokenizer_special(t, roles[i][0], &id)) kd_gguf_put_u32(g, roles[i][1], id);
    kd_gguf_put_bool(g, KEY("add_bos_token"), begins);
    kd_gguf_put_bool(g, KEY("add_eos_token"), false);
    kd_gguf_put_bool(g, KEY("add_space_prefix"), false);
    return KD_OK;
}

static kd_status put_template(kd_gguf_writer *g, const kd_tokenizer *t, const char *where, kd_err *err)
{
    json_t *config;
    kd_status st = kd__tokenizer_config(&config, t->files, where, err);
    const char *chat = json_string_value(json_object_get(config, "chat_template"));
    if (!st && chat) kd_gguf_put_str(g, "tokenizer.chat_template", chat);
    json_decref(config);
    return st;
}

kd_status kd_tokenizer_put_gguf(const kd_tokenizer *t, kd_gguf_writer *g, uint32_t rows, const char *where,
                                kd_err *err)
{
    const char *pre = t->bpe.merge ? pre_of(&t->bpe) : NULL;
    if (!pre)
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: %s; llama.cpp knows byte-level BPE as in GPT-2, SmolLM, Llama 3 and Qwen 2",
                       where,
                       t->bpe.merge ? "its pre-tokenizer and ignore_merges do not go together"
                                    : "its tokenizer is no byte-level BPE");
    if (t->size > rows)
        return kd_fail(err, KD_EMISMATCH, "%s: its tokenizer has %u tokens, the model %u (model.vocab)",
                       where, t->size, rows);
    kd_gguf_put_str(g, KEY("model"), "gpt2");
    kd_gguf_put_str(g, KEY("pre"), pre);
    kd_status st = put_tokens(g, t, rows, err);
    if (!st) st = put_merges(g, t, err);
    if (!st) st = put_specials(g, t, where, err);
    return st ? st : put_template(g, t, where, err);
}
