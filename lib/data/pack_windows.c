/* pack_windows.c - texts that are longer than a row, in windows, for models of language.
 *
 * A text of n tokens becomes as few windows of at most max_tokens as will do, all of nearly the same length,
 * so that none is a short rest. What a tokenizer puts before a text (BOS) stands before each of its windows.
 * Without it a window begins with the last token of the one before: a row's first token is never predicted,
 * and so each token but the text's first is, once. Texts of less than two tokens, of which nothing could be
 * predicted, are left out.
 *
 * All windows of a text land in one split, that of the hash of all its tokens (or of its group). The column
 * source has the number of the text, that is of its line.
 */
#include "data_private.h"

#include <stdlib.h>
#include <string.h>

/* Tokens that stand before a text, at most one. */
static kd_status begins_with(const kd__textset *t, uint32_t *begin, bool *has, kd_err *err)
{
    const size_t added = kd_tokenizer_added(t->tokenizer, false);
    kd_encoder *e = NULL;
    kd_encoding enc;
    *has = false;
    if (!added) return KD_OK;
    kd_status st = kd_encoder_open(&e, t->tokenizer, err);
    if (!st) st = kd_encode(e, (kd_text){"", 0}, NULL, &(kd_encode_params){.special = true}, &enc, err);
    if (!st && enc.n) *begin = enc.id[0];
    if (!st) st = kd_encode(e, (kd_text){"a", 1}, NULL, &(kd_encode_params){.special = true}, &enc, err);
    if (!st && added > 1)
        st = kd_fail(
            err, KD_EUNSUPPORTED,
            "data.windows: the tokenizer puts %zu special tokens around a text; windows are for those of "
            "language models, which have one before it or none",
            added);
    else if (!st)
        *has = enc.n && enc.id[0] == *begin;
    kd_encoder_close(e);
    return st;
}

/* Windows of a text of n tokens; each has one token that is not new in it. */
static size_t windows_of(size_t n, size_t most) { return n < 2 ? 0 : (n - 1 + most - 2) / (most - 1); }

/* Room for all windows. */
static kd_status reserve(kd_token_rows *to, kd__textset *t, kd_err *err)
{
    const kd_token_rows *from = &t->column[0].tokens;
    size_t rows = 0, tokens = 0;
    for (uint64_t i = 0; i < from->rows; i++) {
        const size_t n = (size_t)(from->offset[i + 1] - from->offset[i]), w = windows_of(n, t->max_tokens);
        rows += w;
        tokens += w ? n - 1 + w : 0;
    }
    to->id = malloc(tokens * sizeof *to->id + 1);
    to->offset = calloc(rows + 1, sizeof *to->offset);
    t->text = malloc(rows * sizeof *t->text + 1);
    t->text_id = malloc(rows * sizeof *t->text_id + 1);
    if (to->id && to->offset && t->text && t->text_id) return KD_OK;
    return kd_fail(err, KD_ENOMEM, "no memory for %zu windows of texts", rows);
}

kd_status kd__textset_windows(kd__pack *p, kd_err *err)
{
    kd__textset *t = &p->text;
    kd_token_rows *from = &t->column[0].tokens, to = {0};
    const uint64_t train = p->train_rows;
    uint32_t begin = 0;
    bool has;
    kd_status st = begins_with(t, &begin, &has, err);
    if (!st) st = reserve(&to, t, err);
    p->train_rows = 0;
    for (uint64_t i = 0; i < from->rows && !st; i++) {
        const uint32_t *id = from->id + from->offset[i];
        const size_t n = (size_t)(from->offset[i + 1] - from->offset[i]),
                     windows = windows_of(n, t->max_tokens);
        const kd_id whole = kd_hash128(id, n * sizeof *id);
        to.cut += windows > 1;
        p->left_out += !windows;
        for (size_t w = 0, at = 1; w < windows; w++) { // at: the window's first new token
            const size_t end = 1 + (n - 1) * (w + 1) / windows, row = to.rows++;
            uint32_t *out = to.id + to.offset[row];
            out[0] = has ? begin : id[at - 1];
            memcpy(out + 1, id + at, (end - at) * sizeof *id);
            to.offset[row + 1] = to.offset[row] + 1 + (end - at);
            t->text[row] = i;
            t->text_id[row] = whole;
            at = end;
        }
        if (i < train) p->train_rows = to.rows;
    }
    kd_token_rows_release(st ? &to : from);
    if (st) return st;
    *from = to;
    p->rows = to.rows;
    return p->rows ? KD_OK : kd_fail(err, KD_EUSAGE, "%s: no text has two tokens", p->spec->train_input.v[0]);
}
