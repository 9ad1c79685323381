/* encode.c - a text, or a pair, as ids: added tokens, the model's pieces between them, cut, in the template.
 *
 * Where a text is cut on the right its tail is not looked at: the model stops once there are more tokens than
 * can stay. What is left of a pair does not depend on how much longer than the limit a text is.
 */
#include "word_cache.h"

kd_status kd_encoder_open(kd_encoder **out, const kd_tokenizer *t, kd_err *err)
{
    kd_encoder *e = *out = calloc(1, sizeof *e);
    if (!e) return kd_fail(err, KD_ENOMEM, "no memory for an encoder");
    e->t = t;
    kd_status st = kd__cache_init(e, err);
    if (!st) return KD_OK;
    kd_encoder_close(e);
    *out = NULL;
    return st;
}

void kd_encoder_close(kd_encoder *e)
{
    if (!e) return;
    kd_buf_release(&e->valid);
    kd_buf_release(&e->normal);
    free(e->tokens.id);
    free(e->out.id);
    kd_buf_release(&e->symbols);
    kd_buf_release(&e->heap);
    free(e->pending);
    free(e->cache);
    free(e);
}

static kd_status push(kd__ids *l, uint32_t id, kd_err *err)
{
    if (!kd__ids_room(l, 1)) return kd_fail(err, KD_ENOMEM, "no memory for the tokens of a text");
    l->id[l->n++] = id;
    return KD_OK;
}

/* Text without raw added tokens. */
static kd_status piece(kd_encoder *e, const uint8_t *s, size_t n, size_t limit, kd_err *err)
{
    const kd_tokenizer *t = e->t;
    size_t at = 0, done = 0;
    kd__match m;
    e->normal.len = 0;
    kd_status st = kd__normalize(e, s, n, err);
    const uint8_t *text = (const uint8_t *)e->normal.text;
    while (!st && kd__added_next(e, &t->normal, text, e->normal.len, done, &at, &m)) {
        if (done < m.start) st = t->model(e, text + done, m.start - done, limit, err);
        if (!st) st = push(&e->tokens, m.token->id, err);
        done = m.stop;
    }
    return st || done >= e->normal.len ? st : t->model(e, text + done, e->normal.len - done, limit, err);
}

/* Appends the tokens of one text, none beyond limit + those of the last word. */
static kd_status tokens(kd_encoder *e, kd_text text, size_t limit, kd_err *err)
{
    const kd_tokenizer *t = e->t;
    const uint8_t *s = (const uint8_t *)text.bytes;
    size_t n = text.len, at = 0, done = 0;
    kd__match m;
    kd_status st = KD_OK;
    if (n > KD_TEXT_MAX_BYTES)
        return kd_fail(err, KD_ELIMIT, "a text of %zu bytes, the limit is %u", n, KD_TEXT_MAX_BYTES);
    if (kd__utf8_valid(s, n) < n) {
        e->valid.len = 0;
        kd__utf8_repair(&e->valid, s, n);
        if (e->valid.failed) return kd_fail(err, KD_ENOMEM, "no memory for a text");
        s = (const uint8_t *)e->valid.text;
        n = e->valid.len;
    }
    while (!st && e->tokens.n < limit && kd__added_next(e, &t->raw, s, n, done, &at, &m)) {
        if (done < m.start) st = piece(e, s + done, m.start - done, limit, err);
        if (!st) st = push(&e->tokens, m.token->id, err);
        done = m.stop;
    }
    return st || done >= n || e->tokens.n >= limit ? st : piece(e, s + done, n - done, limit, err);
}

/* How many tokens of two texts stay when both get `room`: the longer one gives first. */
static void share(size_t room, size_t *a, size_t *b)
{
    size_t *less = *a <= *b ? a : b, *more = less == a ? b : a;
    if (*a + *b <= room) return;
    *more = *less > room ? *less : kd_max_size(*less, room - *less);
    if (*less + *more <= room) return;
    *less = room / 2;
    *more = *less + room % 2;
}

static kd_status check_room(const kd_tokenizer *t, const kd_text *pair, const kd_encode_params *p,
                            size_t *room, kd_err *err)
{
    const size_t added = p->special ? kd_tokenizer_added(t, pair != NULL) : 0;
    *room = SIZE_MAX;
    if (!p->max_tokens) return KD_OK;
    if (p->max_tokens <= added)
        return kd_fail(err, KD_EUSAGE, "at most %zu tokens leave no room beside %zu special ones",
                       p->max_tokens, added);
    *room = p->max_tokens - added;
    return KD_OK;
}

static kd_status fill(kd_encoder *e, const kd__template *p, const kd__ids text[2], kd_encoding *out,
                      kd_err *err)
{
    size_t n = p->added;
    for (size_t i = 0; i < p->n; i++)
        if (p->piece[i].what < 0) n += text[p->piece[i].what == KD__PIECE_B].n;
    e->out.n = 0;
    if (!kd__ids_room(&e->out, n)) return kd_fail(err, KD_ENOMEM, "no memory for the tokens of a text");
    out->second = n;
    for (size_t i = 0; i < p->n; i++) {
        const int64_t what = p->piece[i].what;
        if (p->piece[i].type && out->second == n) out->second = e->out.n;
        if (what >= 0) {
            e->out.id[e->out.n++] = (uint32_t)what;
        } else {
            const kd__ids *x = &text[what == KD__PIECE_B];
            if (x->n) memcpy(e->out.id + e->out.n, x->id, x->n * sizeof *x->id);
            e->out.n += x->n;
        }
    }
    out->id = e->out.id;
    out->n = n;
    return KD_OK;
}

static const kd__template plain = {.piece = {{KD__PIECE_A, 0}}, .n = 1},
                          plain_pair = {.piece = {{KD__PIECE_A, 0}, {KD__PIECE_B, 1}}, .n = 2};

kd_status kd_encode(kd_encoder *e, kd_text text, const kd_text *pair, const kd_encode_params *p,
                    kd_encoding *out, kd_err *err)
{
    const kd_tokenizer *t = e->t;
    const kd__template *frame = p->special ? (pair ? &t->pair : &t->single) : pair ? &plain_pair : &plain;
    size_t room, keep[2] = {0};
    *out = (kd_encoding){0};
    kd_status st = check_room(t, pair, p, &room, err);
    if (st) return st;
    const size_t limit = room == SIZE_MAX || t->cut_left ? SIZE_MAX : room + 1;
    e->tokens.n = 0;
    e->literal = p->literal;
    if ((st = tokens(e, text, limit, err))) return st;
    const size_t first = keep[0] = e->tokens.n;
    if (pair && (st = tokens(e, *pair, limit == SIZE_MAX ? limit : first + limit, err))) return st;
    const size_t second = keep[1] = e->tokens.n - first;
    if (pair)
        share(room, &keep[0], &keep[1]);
    else
        keep[0] = kd_min_size(first, room);
    if (!e->tokens.n) // a text without tokens may be without room, too
        return fill(e, frame, (const kd__ids[2]){{0}, {0}}, out, err);
    const size_t skip[2] = {t->cut_left ? first - keep[0] : 0, first + (t->cut_left ? second - keep[1] : 0)};
    const kd__ids texts[2] = {{.id = e->tokens.id + skip[0], .n = keep[0]},
                              {.id = e->tokens.id + skip[1], .n = keep[1]}};
    out->cut = keep[0] < first || keep[1] < second;
    return fill(e, frame, texts, out, err);
}
