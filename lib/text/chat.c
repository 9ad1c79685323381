/* chat.c - conversations as tokens, the way a model's chat template writes them.
 *
 * A template is a program (Jinja) in tokenizer_config.json. kd does not run programs of strangers: it
 * recognises the common ones by the control tokens in them and writes what they write.
 *
 *     ChatML    <|im_start|>ROLE\nTEXT<|im_end|>\n ...; a system message of the template where there is none
 *     Llama 3   <|begin_of_text|>, <|start_header_id|>ROLE<|end_header_id|>\n\nTEXT<|eot_id|> ..., texts
 * trimmed plain     no template: TEXT\n\n ...
 *
 * Control tokens go in as ids, and what people wrote is encoded literally: a text that spells a control token
 * stays a text, and nobody can end his own turn. What an assistant said is encoded on its own, because that
 * is how it was generated.
 */
#include "text_private.h"

typedef struct kd__marks { /* control tokens; KD__NO_ID: none */
    uint32_t begin, open, header_end, close;
} kd__marks;

struct kd_chat {
    kd_chat_kind kind;
    kd__marks id;
    char *system; /* what a ChatML template says where nobody does; NULL: nothing */
};

/* ---- recognising ---------------------------------------------------------------------------------- */

/* Templates that are known but not here, by what only they have. */
static const char *const others[][2] = {
    {"Cutting Knowledge Date", "Llama 3.1 (with dates and tools)"},
    {"[INST]", "Llama 2 or Mistral"},
    {"<start_of_turn>", "Gemma"},
    {"<|user|>", "Zephyr or Phi-3"},
    {"<|START_OF_TURN_TOKEN|>", "Command R"},
    {"<\xEF\xBD\x9CUser\xEF\xBD\x9C>", "DeepSeek"},
};

static kd_status token_of(const kd_tokenizer *t, const char *name, uint32_t *id, kd_err *err)
{
    if (kd_tokenizer_find(t, name, id)) return KD_OK;
    return kd_fail(err, KD_EMISMATCH, "the chat template has %s, but the vocabulary has no such token", name);
}

/* The text of a Jinja string at s up to `end`, its escapes undone; NULL: it is not one whole string. */
static char *literal_text(const char *s, const char *end)
{
    kd_buf b = {0};
    for (; s < end; s++) {
        if (*s == '\'' || *s == '{' || *s == '"') return kd_buf_release(&b), NULL;
        if (*s == '\\' && s + 1 < end) {
            s++;
            kd_buf_append(&b, *s == 'n' ? "\n" : *s == 't' ? "\t" : s, 1);
        } else {
            kd_buf_append(&b, s, 1);
        }
    }
    kd_buf_append(&b, "", 0);
    if (b.failed) kd_buf_release(&b);
    return b.text;
}

/* The system message that a ChatML template has in itself, NULL: none. */
static char *system_of(const char *template)
{
    static const char head[] = "<|im_start|>system";
    for (const char *s = template; (s = strstr(s, head)); s++) {
        const char *from = s + sizeof head - 1, *end = strstr(from, "<|im_end|>");
        const size_t skip = *from == '\n' ? 1 : !strncmp(from, "\\n", 2) ? 2 : 0;
        char *text = end && skip ? literal_text(from + skip, end) : NULL;
        if (text) return text;
    }
    return NULL;
}

static kd_status recognise(kd_chat *c, const kd_tokenizer *t, const char *template, kd_err *err)
{
    kd_status st;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strstr(template, others[i][0]))
            return kd_fail(err, KD_EUNSUPPORTED,
                           "the chat template is that of %s; ChatML (SmolLM2, Qwen) and Llama 3 are known",
                           others[i][1]);
    if (strstr(template, "<|im_start|>") && strstr(template, "<|im_end|>")) {
        c->kind = KD_CHAT_CHATML;
        if ((st = token_of(t, "<|im_start|>", &c->id.open, err)) ||
            (st = token_of(t, "<|im_end|>", &c->id.close, err)))
            return st;
        c->system = system_of(template);
        return KD_OK;
    }
    if (strstr(template, "<|start_header_id|>") && strstr(template, "<|eot_id|>")) {
        c->kind = KD_CHAT_LLAMA3;
        if ((st = token_of(t, "<|start_header_id|>", &c->id.open, err)) ||
            (st = token_of(t, "<|end_header_id|>", &c->id.header_end, err)) ||
            (st = token_of(t, "<|eot_id|>", &c->id.close, err)))
            return st;
        return token_of(t, "<|begin_of_text|>", &c->id.begin, err);
    }
    return kd_fail(err, KD_EUNSUPPORTED,
                   "the chat template is unknown; ChatML (SmolLM2, Qwen) and Llama 3 are known");
}

kd_status kd_chat_open(kd_chat **out, const kd_tokenizer *t, kd_err *err)
{
    const json_t *file = json_object_get(kd_tokenizer_files(t), "tokenizer_config.json");
    json_t *config = NULL;
    kd_status st = KD_OK;
    kd_chat *c = *out = calloc(1, sizeof *c);
    if (!c) return kd_fail(err, KD_ENOMEM, "no memory for a chat");
    c->id = (kd__marks){KD__NO_ID, KD__NO_ID, KD__NO_ID, KD__NO_ID};
    if (file && (st = kd_json_parse(&config, json_string_value(file), json_string_length(file), NULL)))
        st = kd_fail(err, st, "tokenizer_config.json is no valid JSON");
    const char *template = json_string_value(json_object_get(config, "chat_template"));
    if (!st && template) st = recognise(c, t, template, err);
    json_decref(config);
    if (!st) return KD_OK;
    kd_chat_close(c);
    *out = NULL;
    return st;
}

void kd_chat_close(kd_chat *c)
{
    if (!c) return;
    free(c->system);
    free(c);
}

kd_chat_kind kd_chat_kind_of(const kd_chat *c) { return c->kind; }

bool kd_chat_end(const kd_chat *c, uint32_t *id)
{
    *id = c->id.close;
    return *id != KD__NO_ID;
}

size_t kd_chat_ends(const kd_tokenizer *t, uint32_t id[KD_CHAT_ENDS])
{
    static const char *const usual[] = {"<|endoftext|>", "<|end_of_text|>"};
    size_t n = kd_tokenizer_special(t, "eos_token", id);
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) n += kd_tokenizer_find(t, usual[i], &id[n]);
    kd_chat *c;
    if (kd_chat_open(&c, t, NULL)) return n;
    n += kd_chat_end(c, &id[n]);
    kd_chat_close(c);
    return n;
}

/* ---- writing -------------------------------------------------------------------------------------- */

typedef struct writer {
    kd_encoder *e;
    kd_buf text; /* not yet encoded */
    kd_chat_tokens *out;
    size_t cap;
    kd_status st;
    kd_err *err;
} writer;

static void put_ids(writer *w, const uint32_t *id, size_t n, bool answer)
{
    kd_chat_tokens *o = w->out;
    if (w->st || !n) return;
    if (o->n + n > w->cap) {
        const size_t cap = 2 * w->cap + n + 64;
        uint32_t *more = realloc(o->id, cap * sizeof *more);
        uint8_t *flags = more ? realloc(o->answer, cap) : NULL;
        if (more) o->id = more;
        if (flags) o->answer = flags;
        if (!more || !flags) {
            w->st = kd_fail(w->err, KD_ENOMEM, "no memory for a chat of %zu tokens", o->n + n);
            return;
        }
        w->cap = cap;
    }
    memcpy(o->id + o->n, id, n * sizeof *id);
    memset(o->answer + o->n, answer, n);
    o->n += n;
}

/* Encodes the text that waits. */
static void flush(writer *w, bool answer)
{
    kd_encoding enc = {0};
    if (w->text.failed) w->st = kd_fail(w->err, KD_ENOMEM, "no memory for a chat");
    if (w->st || !w->text.len) return;
    w->st = kd_encode(w->e, (kd_text){w->text.text, w->text.len}, NULL, &(kd_encode_params){.literal = true},
                      &enc, w->err);
    if (!w->st) put_ids(w, enc.id, enc.n, answer);
    w->text.len = 0;
}

static void mark(writer *w, uint32_t id, bool answer)
{
    flush(w, false);
    if (id != KD__NO_ID) put_ids(w, &id, 1, answer);
}

static bool is_blank(uint32_t cp) { return kd__char_is_space(cp) || (cp >= 0x1C && cp <= 0x1F); }

/* White space taken off both ends, of valid UTF-8. */
static kd_text trimmed(kd_text t)
{
    const uint8_t *s = (const uint8_t *)t.bytes, *end = s + t.len;
    size_t k = 0;
    if (kd__utf8_valid(s, t.len) < t.len) return t;
    while (s < end && is_blank(kd__utf8_next(s, &k))) s += k;
    for (const uint8_t *p = end; p > s; end = p) {
        do p--;
        while (p > s && (*p & 0xC0) == 0x80);
        if (!is_blank(kd__utf8_next(p, &k))) break;
    }
    return (kd_text){(const char *)s, (size_t)(end - s)};
}

static void head(writer *w, const kd_chat *c, const char *role)
{
    if (c->kind == KD_CHAT_PLAIN) return;
    mark(w, c->id.open, false);
    kd_buf_puts(&w->text, role);
    if (c->kind == KD_CHAT_LLAMA3) mark(w, c->id.header_end, false);
    kd_buf_puts(&w->text, c->kind == KD_CHAT_LLAMA3 ? "\n\n" : "\n");
}

static void message(writer *w, const kd_chat *c, const char *role, kd_text text)
{
    const bool answer = !strcmp(role, "assistant");
    head(w, c, role);
    if (answer) flush(w, false);
    if (c->kind == KD_CHAT_LLAMA3) text = trimmed(text);
    kd_buf_append(&w->text, text.bytes, text.len);
    if (answer) flush(w, true);
    if (c->kind == KD_CHAT_PLAIN)
        kd_buf_puts(&w->text, "\n\n");
    else
        mark(w, c->id.close, answer);
    if (c->kind == KD_CHAT_CHATML) kd_buf_puts(&w->text, "\n");
}

kd_status kd_chat_encode(const kd_chat *c, kd_encoder *e, const kd_message *m, size_t n, bool answer,
                         kd_chat_tokens *out, kd_err *err)
{
    writer w = {.e = e, .out = out, .err = err};
    *out = (kd_chat_tokens){0};
    for (size_t i = 0; i < n; i++)
        if (!m[i].role || !*m[i].role || strlen(m[i].role) > 60 || strpbrk(m[i].role, "\r\n"))
            return kd_fail(err, KD_EUSAGE,
                           "message %zu: a role is one line of up to 60 bytes (system, user, assistant)", i);
    if (c->kind == KD_CHAT_LLAMA3) mark(&w, c->id.begin, false);
    if (c->system && n && strcmp(m[0].role, "system"))
        message(&w, c, "system", (kd_text){c->system, strlen(c->system)});
    for (size_t i = 0; i < n; i++) message(&w, c, m[i].role, m[i].text);
    if (answer) head(&w, c, "assistant");
    flush(&w, false);
    kd_buf_release(&w.text);
    if (w.st) kd_chat_tokens_release(out);
    return w.st;
}

void kd_chat_tokens_release(kd_chat_tokens *t)
{
    free(t->id);
    free(t->answer);
    *t = (kd_chat_tokens){0};
}
