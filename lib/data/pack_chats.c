/* pack_chats.c - rows of conversations: tokens as the model's chat template writes them, and a mask of those
 * that an assistant said.
 *
 * Each line of a file has a list of messages, [{"role": "user", "content": "..."}, ...]. A conversation of
 * more than max_tokens keeps the messages from its beginning that fit, each whole. One of which no answer is
 * left, because none fits or nobody answers, would teach nothing: it is no row, and the report counts it.
 *
 * Prompts (data.prompts) end with a user's last message and an opened turn of the assistant, for a teacher to
 * answer; what was answered in the data is left out, and so are prompts that do not fit.
 */
#include "data_private.h"

#include <stdlib.h>
#include <string.h>

typedef struct chats {
    kd__textset *t;
    kd_chat *chat;
    kd_encoder *e;
    kd_message *m;
    size_t n, room; /* of m */
    bool prompts;
    kd_token_rows rows;
    size_t id_room;
} chats;

static kd_status wrong(const kd__textset *t, uint64_t row, size_t message, const char *what, kd_err *err)
{
    const char *path = kd__textset_where(t, &row);
    return kd_fail(err, KD_ECORRUPT, "%s: conversation %llu, message %zu: %s", path, (unsigned long long)row,
                   message, what);
}

/* The messages of a conversation, borrowed from the list. */
static kd_status take_messages(chats *c, uint64_t row, const json_t *list, kd_err *err)
{
    const json_t *o;
    size_t i;
    c->n = 0;
    json_array_foreach(list, i, o)
    {
        const char *role = json_string_value(json_object_get(o, "role"));
        const json_t *text = json_object_get(o, "content");
        if (!role || !json_is_string(text))
            return wrong(c->t, row, i, "expected {\"role\": \"...\", \"content\": \"...\"}", err);
        if (strcmp(role, "system") && strcmp(role, "user") && strcmp(role, "assistant")) {
            char what[128], shown[48];
            snprintf(what, sizeof what, "the role is '%s', expected system, user or assistant",
                     kd__printable(role, shown));
            return wrong(c->t, row, i, what, err);
        }
        if (c->n == c->room) {
            const size_t room = 2 * c->room + 16;
            kd_message *more = realloc(c->m, room * sizeof *more);
            if (!more) return kd_fail(err, KD_ENOMEM, "no memory for a conversation");
            c->m = more;
            c->room = room;
        }
        c->m[c->n++] = (kd_message){role, {json_string_value(text), json_string_length(text)}};
    }
    return KD_OK;
}

/* The first n messages; *fits: they are short enough. */
static kd_status encode(chats *c, size_t n, kd_chat_tokens *out, bool *fits, kd_err *err)
{
    kd_status st = kd_chat_encode(c->chat, c->e, c->m, n, c->prompts, out, err);
    *fits = !st && (!c->t->max_tokens || out->n <= c->t->max_tokens);
    return st;
}

/* As many messages as fit, found by halves: each one more makes a conversation longer. */
static kd_status encode_what_fits(chats *c, kd_chat_tokens *out, kd_err *err)
{
    bool fits;
    kd_status st = encode(c, c->n, out, &fits, err);
    if (st || fits) return st;
    size_t low = 0, high = c->n; // low fit, high do not
    c->rows.cut++;
    while (!st && high - low > 1) {
        const size_t middle = (low + high) / 2;
        kd_chat_tokens_release(out);
        st = encode(c, middle, out, &fits, err);
        if (fits)
            low = middle;
        else
            high = middle;
    }
    kd_chat_tokens_release(out);
    return st || !low ? st : encode(c, low, out, &fits, err);
}

static kd_status add_row(chats *c, uint64_t text, const kd_chat_tokens *k, kd_err *err)
{
    kd_token_rows *r = &c->rows;
    const size_t at = (size_t)r->offset[r->rows];
    if (at + k->n > c->id_room || !r->id) {
        const size_t room = c->id_room + c->id_room / 2 + k->n + 4096;
        uint32_t *id = realloc(r->id, room * sizeof *id);
        uint8_t *mask = id ? realloc(c->t->mask, room) : NULL;
        if (id) r->id = id;
        if (mask) c->t->mask = mask;
        if (!mask) return kd_fail(err, KD_ENOMEM, "no memory for conversations of %zu tokens", at + k->n);
        c->id_room = room;
    }
    memcpy(r->id + at, k->id, k->n * sizeof *k->id);
    memcpy(c->t->mask + at, k->answer, k->n);
    c->t->text[r->rows] = text;
    r->offset[++r->rows] = at + k->n;
    return KD_OK;
}

static kd_status take_chat(chats *c, uint64_t text, kd_err *err)
{
    const kd_text cell = kd__cell(&c->t->column[0].cells, text);
    json_t *list;
    kd_chat_tokens k = {0};
    bool whole = true;
    kd_status st = kd_json_parse(&list, cell.bytes, cell.len, NULL);
    if (st) return kd_fail(err, st, "no memory for a conversation");
    st = take_messages(c, text, list, err);
    while (c->prompts && !st && c->n && strcmp(c->m[c->n - 1].role, "user")) c->n--;
    if (!st && c->n) st = c->prompts ? encode(c, c->n, &k, &whole, err) : encode_what_fits(c, &k, err);
    c->rows.cut += !whole;
    // What stands first is not predicted.
    if (!st && k.n > 1 && whole && (c->prompts || memchr(k.answer + 1, 1, k.n - 1)))
        st = add_row(c, text, &k, err);
    kd_chat_tokens_release(&k);
    json_decref(list);
    return st;
}

kd_status kd__textset_chats(kd__pack *p, kd_err *err)
{
    kd__textset *t = &p->text;
    const uint64_t texts = t->column[0].cells.rows, train = p->train_rows;
    chats c = {.t = t, .prompts = p->spec->prompts};
    kd_status st = kd_chat_open(&c.chat, t->tokenizer, err);
    if (!st) st = kd_encoder_open(&c.e, t->tokenizer, err);
    t->text = malloc((size_t)texts * sizeof *t->text + 1);
    c.rows.offset = calloc((size_t)texts + 1, sizeof *c.rows.offset);
    if (!st && (!t->text || !c.rows.offset))
        st = kd_fail(err, KD_ENOMEM, "no memory for %llu conversations", (unsigned long long)texts);
    for (uint64_t i = 0; i < texts && !st; i++) {
        st = take_chat(&c, i, err);
        if (i < train) p->train_rows = c.rows.rows;
    }
    kd__cells_release(&t->column[0].cells);
    p->rows = c.rows.rows;
    p->left_out = texts - p->rows;
    if (!st && !p->rows)
        st = kd_fail(err, KD_EUSAGE, "%s: no conversation has %s within data.max_tokens",
                     p->spec->train_input.v[0],
                     c.prompts ? "a question of a user" : "an answer of an assistant");
    t->column[0].tokens = c.rows;
    kd_chat_close(c.chat);
    kd_encoder_close(c.e);
    free(c.m);
    return st;
}
