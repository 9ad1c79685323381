/* decode.c - ids as text again: pieces joined, blanks between words, before punctuation taken back. */
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

kd_status kd_decode(const kd_tokenizer *t, const uint32_t *id, size_t n, bool special, kd_buf *out,
                    kd_err *err)
{
    const char *prefix = t->wordpiece.prefix;
    bool begun = false;
    for (size_t i = 0; i < n; i++) {
        const char *token = kd_tokenizer_token(t, id[i]);
        kd_buf one = {0};
        if (!token)
            return kd_fail(err, KD_EMISMATCH, "no token has id %u, the vocabulary ends at %u", id[i],
                           t->size - 1);
        if (!special && is_special(t, id[i])) continue;
        const bool inner = t->joins && begun && *prefix && !strncmp(token, prefix, strlen(prefix));
        if (begun && !inner) kd_buf_puts(&one, " ");
        kd_buf_puts(&one, token + (inner ? strlen(prefix) : 0));
        if (t->joins && t->cleanup) clean_up(&one);
        kd_buf_append(out, one.text ? one.text : "", one.len);
        out->failed |= one.failed;
        kd_buf_release(&one);
        begun = true;
    }
    return out->failed ? kd_fail(err, KD_ENOMEM, "no memory for a text") : KD_OK;
}
