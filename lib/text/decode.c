/* decode.c - ids as text again.
 *
 * WordPiece: pieces joined, blanks between words, before punctuation taken back. Bytes: the letters of tokens
 * are bytes, and a token may end inside a character; what is not whole yet waits for the next token, so that
 * a text which is put out token by token is UTF-8 at any moment.
 */
#include "text_private.h"

/* Replaces every occurrence, as tokenizers' clean-up does for each token with the blank before it. */
static void replace(kd_buf *b, const char *what, const char *with)
{
    const size_t n = strlen(what);
    kd_buf out = {0};
    char *at = b->text, *next;
    if (!at || !strstr(at, what)) return;
    for (; (next = strstr(at, what)); at = next + n) {
        kd_buf_append(&out, at, (size_t)(next - at));
        kd_buf_puts(&out, with);
    }
    kd_buf_puts(&out, at);
    out.failed |= b->failed;
    kd_buf_release(b);
    *b = out;
}

static void clean_up(kd_buf *b)
{
    static const char *const pairs[][2] = {{" .", "."},     {" ?", "?"},           {" !", "!"},
                                           {" ,", ","},     {" ' ", "'"},          {" n't", "n't"},
                                           {" 'm", "'m"},   {" do not", " don't"}, {" 's", "'s"},
                                           {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) replace(b, pairs[i][0], pairs[i][1]);
}

static bool is_special(const kd_tokenizer *t, uint32_t id)
{
    for (size_t i = 0; i < t->nadded; i++)
        if (t->added[i].id == id) return t->added[i].special;
    return false;
}

/* A token of WordPiece, or a whole word: with the blank before it. */
static void put_word(const kd_tokenizer *t, const char *token, bool first, kd_buf *out)
{
    const char *prefix = t->wordpiece.prefix;
    kd_buf one = {0};
    const bool inner = t->joins && !first && *prefix && !strncmp(token, prefix, strlen(prefix));
    if (!first && !inner) kd_buf_puts(&one, " ");
    kd_buf_puts(&one, token + (inner ? strlen(prefix) : 0));
    if (t->joins && t->cleanup) clean_up(&one);
    kd_buf_append(out, one.text ? one.text : "", one.len);
    out->failed |= one.failed;
    kd_buf_release(&one);
}

/* The bytes of a token: those that its letters stand for, its own where one stands for none. */
static size_t bytes_of(const char *token, uint8_t *out)
{
    const uint8_t *s = (const uint8_t *)token;
    size_t n = 0, len = strlen(token);
    for (size_t i = 0, k; i < len; i += k) {
        const int byte = kd__letter_byte(kd__utf8_next(s + i, &k));
        if (byte < 0) return memcpy(out, token, len), len;
        out[n++] = (uint8_t)byte;
    }
    return n;
}

static void put_bytes(const char *token, kd_decode_state *s, kd_buf *out)
{
    uint8_t all[KD_TOKEN_MAX_BYTES + sizeof s->held];
    memcpy(all, s->held, s->n);
    const size_t n = s->n + bytes_of(token, all + s->n), open = kd__utf8_open(all, n);
    kd__utf8_repair(out, all, n - open);
    memcpy(s->held, all + n - open, s->n = open);
}

kd_status kd_decode_next(const kd_tokenizer *t, kd_decode_state *s, uint32_t id, bool special, kd_buf *out,
                         kd_err *err)
{
    const char *token = kd_tokenizer_token(t, id);
    if (!token)
        return kd_fail(err, KD_EMISMATCH, "no token has id %u, the vocabulary ends at %u", id, t->size - 1);
    if (!special && is_special(t, id)) return KD_OK;
    if (t->bpe.merge)
        put_bytes(token, s, out);
    else
        put_word(t, token, !s->begun, out);
    s->begun = true;
    return out->failed ? kd_fail(err, KD_ENOMEM, "no memory for a text") : KD_OK;
}

kd_status kd_decode_end(kd_decode_state *s, kd_buf *out, kd_err *err)
{
    kd__utf8_repair(out, s->held, s->n);
    *s = (kd_decode_state){0};
    return out->failed ? kd_fail(err, KD_ENOMEM, "no memory for a text") : KD_OK;
}

kd_status kd_decode(const kd_tokenizer *t, const uint32_t *id, size_t n, bool special, kd_buf *out,
                    kd_err *err)
{
    kd_decode_state s = {0};
    kd_status st = KD_OK;
    for (size_t i = 0; i < n && !st; i++) st = kd_decode_next(t, &s, id[i], special, out, err);
    return st ? st : kd_decode_end(&s, out, err);
}
