/* fuzz_bpe.c - byte-level BPE. The first byte says what the rest is:
 *
 *     0   a GGUF file with a tokenizer
 *     1   tokenizer.json up to the first zero byte, then a text for it; it is written as a GGUF file, too
 *     2   a chat template up to the first zero byte (nothing: no template), then what people say
 *     3+  a text for a small tokenizer that has all bytes; three pre-tokenizers in turn
 */
#include "fuzz.h"
#include "kd/gguf.h"
#include "kd/text.h"

static const char llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                             " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char chatml[] = "<|im_start|>system\nBe.<|im_end|>";

/* A few letters, and the control tokens of all templates: made anew for each of them, so it is small. */
static const char few[] =
    "{\"added_tokens\":[{\"id\":4,\"content\":\"<|im_start|>\",\"special\":true},"
    "{\"id\":5,\"content\":\"<|im_end|>\",\"special\":true},"
    "{\"id\":6,\"content\":\"<|begin_of_text|>\",\"special\":true},"
    "{\"id\":7,\"content\":\"<|start_header_id|>\",\"special\":true},"
    "{\"id\":8,\"content\":\"<|end_header_id|>\",\"special\":true},"
    "{\"id\":9,\"content\":\"<|eot_id|>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
    "\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\xC4\x8A\":3},\"merges\":[\"a b\"]}}";
enum { SPECIAL = 300 }; /* ids of spec()'s control tokens begin here */

/* The letter of a byte, as GPT-2 has it. */
static void letter(int b, kd_buf *out)
{
    int cp = b, other = 0x100;
    for (int i = 0; i <= b; i++)
        if (!((i > 0x20 && i < 0x7F) || (i > 0xA0 && i != 0xAD))) cp = i == b ? other : cp, other++;
    if (cp < 0x80)
        kd_buf_append(out, &(char){(char)cp}, 1);
    else
        kd_buf_append(out, (char[]){(char)(0xC0 | cp >> 6), (char)(0x80 | (cp & 63))}, 2);
}

static json_t *spec(int rule)
{
    static const char *const merges[] = {"a b", "ab c", "b c", "\xC4\xA0 a", "1 2", "\xC3\xA3 \xC2\xA9"};
    json_t *vocab = json_object(), *list = json_array();
    for (int b = 0; b < 256; b++) {
        kd_buf s = {0};
        letter(b, &s);
        json_object_set_new(vocab, s.text, json_integer(b));
        kd_buf_release(&s);
    }
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        char both[16] = "";
        const char *blank = strchr(merges[i], ' ');
        snprintf(both, sizeof both, "%.*s%s", (int)(blank - merges[i]), merges[i], blank + 1);
        json_object_set_new(vocab, both, json_integer(256 + (int)i));
        json_array_append_new(list, json_string(merges[i]));
    }
    json_t *first = rule == 1   ? json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1)
                    : rule == 2 ? json_pack("{s:s, s:{s:s}, s:s}", "type", "Split", "pattern", "Regex",
                                            llama3, "behavior", "Isolated")
                                : NULL;
    json_t *bytes =
        json_pack("{s:s, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", rule != 2);
    json_t *steps = first ? json_pack("[o, o]", first, bytes) : json_pack("[o]", bytes);
    return json_pack("{s:[{s:i, s:s, s:b}, {s:i, s:s, s:b}], s:{s:s, s:o}, s:{s:s}, s:{s:s, s:o, s:o}}",
                     "added_tokens", "id", SPECIAL, "content", "<|im_start|>", "special", 1, "id",
                     SPECIAL + 1, "content", "<|im_end|>", "special", 1, "pre_tokenizer", "type", "Sequence",
                     "pretokenizers", steps, "decoder", "type", "ByteLevel", "model", "type", "BPE", "vocab",
                     vocab, "merges", list);
}

static kd_tokenizer *open_text(const char *text, size_t n, const char *chat, size_t len)
{
    kd_tokenizer *t = NULL;
    kd_err err = {0};
    json_t *files = json_pack("{s:o}", "tokenizer.json", json_stringn(text, n));
    json_t *config = json_pack("{s:o*}", "chat_template", len ? json_stringn(chat, len) : NULL);
    if (files && config) {
        char *more = kd_json_text(config, JSON_COMPACT);
        json_object_set_new(files, "tokenizer_config.json", json_string(more));
        free(more);
        if (kd_tokenizer_from(&t, files, "fuzz", &err)) MUST(*err.msg && !t);
    }
    json_decref(files);
    json_decref(config);
    return t;
}

static kd_tokenizer *open_spec(int rule)
{
    json_t *s = spec(rule);
    char *text = kd_json_text(s, JSON_COMPACT);
    kd_tokenizer *t = open_text(text, strlen(text), chatml, sizeof chatml - 1);
    json_decref(s);
    free(text);
    return t;
}

/* Ids are those of the vocabulary, and decode in one go as they do one by one. whole: of spec(), which loses
 * nothing; literally, no text is a control token. */
static void encode(const kd_tokenizer *t, const char *text, size_t size, bool whole)
{
    kd_encoder *e;
    kd_err err = {0};
    MUST(!kd_encoder_open(&e, t, &err));
    for (int literal = 0; literal < 2; literal++) {
        kd_encoding got;
        kd_buf back = {0}, step = {0};
        kd_decode_state s = {0};
        MUST(!kd_encode(e, (kd_text){text, size}, NULL,
                        &(kd_encode_params){.special = true, .literal = literal}, &got, &err));
        MUST(!kd_decode(t, got.id, got.n, true, &back, &err));
        for (size_t i = 0; i < got.n; i++) MUST(!kd_decode_next(t, &s, got.id[i], true, &step, &err));
        MUST(!kd_decode_end(&s, &step, &err));
        MUST(step.len == back.len && (!back.len || !memcmp(step.text, back.text, back.len)));
        json_t *valid = json_stringn(text, size);
        if (whole && valid) MUST(back.len == size && (!size || !memcmp(back.text, text, size)));
        for (size_t i = 0; i < got.n; i++) MUST(!whole || !literal || got.id[i] < SPECIAL);
        json_decref(valid);
        kd_buf_release(&back);
        kd_buf_release(&step);
    }
    kd_encoder_close(e);
}

/* What people say never ends a turn, theirs or another's. A template's own system message, where nobody says
 * one, is one turn more. */
static void chat(const kd_tokenizer *t, const char *text, size_t size)
{
    const kd_message said[] = {{"system", {"s", 1}}, {"user", {text, size}}, {"assistant", {text, size}}};
    kd_encoder *e;
    kd_chat *c;
    kd_err err = {0};
    uint32_t end, usual[KD_CHAT_ENDS];
    MUST(kd_chat_ends(t, usual) <= KD_CHAT_ENDS);
    if (kd_chat_open(&c, t, &err)) {
        MUST(!c && *err.msg);
        return;
    }
    MUST(!kd_encoder_open(&e, t, &err));
    for (size_t first = 0; first < 2; first++) {
        kd_chat_tokens got;
        size_t ends = 0, answers = 0;
        MUST(!kd_chat_encode(c, e, said + first, 3 - first, true, &got, &err));
        const bool known = kd_chat_end(c, &end);
        for (size_t i = 0; i < got.n; i++) {
            MUST(kd_tokenizer_token(t, got.id[i]));
            if (!known || got.id[i] != end) continue;
            ends++;
            answers += got.answer[i];
        }
        if (known) MUST(answers == 1 && (ends == 3 - first || (first && ends == 3)));
        kd_chat_tokens_release(&got);
    }
    kd_encoder_close(e);
    kd_chat_close(c);
}

/* As a GGUF file, which is read again where the vocabulary has names that such a file can have. */
static void rewrite(const kd_tokenizer *t)
{
    kd_gguf_writer g = {0};
    kd_tokenizer *back = NULL;
    kd_err err = {0};
    const char *path = fz_named(0, "model.gguf");
    if (kd_tokenizer_put_gguf(t, &g, kd_tokenizer_size(t), "fuzz", &err)) {
        MUST(*err.msg);
    } else {
        FILE *f = fopen(path, "w");
        MUST(f && !kd_gguf_put_head(&g, f, &err) && !fclose(f));
        if (kd_tokenizer_open(&back, path, &err)) MUST(*err.msg && !back);
        if (back) MUST(kd_tokenizer_size(back) == kd_tokenizer_size(t));
    }
    kd_gguf_writer_release(&g);
    kd_tokenizer_close(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static kd_tokenizer *standing[3];
    const char *text = (const char *)data + 1;
    if (!size) return 0;
    for (int i = 0; i < 3; i++)
        if (!standing[i]) MUST((standing[i] = open_spec(i)));
    size--;
    const char *zero = size ? memchr(text, 0, size) : NULL;
    kd_tokenizer *t = NULL;
    kd_err err = {0};
    if (*data == 0) {
        const char *path = fz_named(0, "model.gguf");
        fz_file(0, text, size);
        if (kd_tokenizer_open(&t, path, &err)) MUST(*err.msg && !t);
        if (t) encode(t, "a 12\nb", 6, false), chat(t, "ab", 2);
    } else if (*data == 1 && zero) {
        if ((t = open_text(text, (size_t)(zero - text), chatml, sizeof chatml - 1))) {
            encode(t, zero + 1, size - (size_t)(zero - text) - 1, false);
            rewrite(t);
        }
    } else if (*data == 2 && zero) {
        if ((t = open_text(few, sizeof few - 1, text, (size_t)(zero - text))))
            chat(t, zero + 1, size - (size_t)(zero - text) - 1);
    } else {
        encode(standing[*data % 3], text, size, true);
        chat(standing[*data % 3], text, size);
    }
    kd_tokenizer_close(t);
    return 0;
}
