/* fuzz_tokenizer.c - a tokenizer's file, then a text for it. The first byte says which file, up to the first
 * zero byte it is that file, the rest is the text. Without a zero byte all of it is a text for a small
 * tokenizer that stays. */
#include "fuzz.h"
#include "kd/text.h"

static const char small[] =
    "{\"added_tokens\":[{\"id\":1,\"content\":\"[S]\",\"special\":true},{\"id\":9,\"content\":\"\xC3\x89t\","
    "\"lstrip\":true},"
    "{\"id\":8,\"content\":\"ab\",\"single_word\":true,\"rstrip\":true,\"normalized\":false}],"
    "\"normalizer\":{\"type\":\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
    "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\"},"
    "\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"[S]\",1],\"sep\":[\"[S]\",1]},"
    "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"?\",\"continuing_subword_prefix\":\"##\",\"max_input_"
    "chars_per_word\":100,"
    "\"vocab\":{\"?\":0,\"[S]\":1,\"a\":2,\"##a\":3,\"b\":4,\"##b\":5,\"e\":6,\"##\xCE\xB1\":7,\"ab\":8}}}";

/* Ids are those of the vocabulary, as many as may be, and can be decoded. */
static void encode(const kd_tokenizer *t, const char *text, size_t size)
{
    const kd_text one = {text, size / 2}, two = {text + size / 2, size - size / 2};
    kd_encoder *e;
    kd_err err = {0};
    MUST(!kd_encoder_open(&e, t, &err));
    for (int pair = 0; pair < 2; pair++)
        for (size_t most = 0; most < 12; most += 6) {
            kd_encoding got;
            kd_buf back = {0};
            const kd_encode_params p = {.max_tokens = most, .special = true};
            if (kd_encode(e, pair ? one : (kd_text){text, size}, pair ? &two : NULL, &p, &got, &err)) {
                MUST(err.code == KD_EUSAGE && most && most <= kd_tokenizer_added(t, pair));
                continue;
            }
            MUST((!most || got.n <= most) && got.second <= got.n && (!got.cut || most));
            for (size_t i = 0; i < got.n; i++) MUST(kd_tokenizer_token(t, got.id[i]));
            MUST(!kd_decode(t, got.id, got.n, true, &back, &err));
            kd_buf_release(&back);
        }
    kd_encoder_close(e);
}

static kd_tokenizer *open_text(const char *name, const char *text, size_t n)
{
    kd_tokenizer *t = NULL;
    kd_err err = {0};
    json_t *files = json_pack("{s:o}", name, json_stringn(text, n));
    if (!files) return NULL; // not UTF-8
    if (kd_tokenizer_from(&t, files, "fuzz", &err)) MUST(*err.msg && !t);
    json_decref(files);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static kd_tokenizer *standing;
    const char *text = (const char *)data, *zero = size ? memchr(text, 0, size) : NULL;
    if (!standing) MUST((standing = open_text("tokenizer.json", small, sizeof small - 1)));
    if (!zero || zero == text) {
        encode(standing, text, size);
        return 0;
    }
    kd_tokenizer *t =
        open_text(*text & 1 ? "vocab.txt" : "tokenizer.json", text + 1, (size_t)(zero - text) - 1);
    if (t) encode(t, zero + 1, size - (size_t)(zero - text) - 1);
    kd_tokenizer_close(t);
    return 0;
}
