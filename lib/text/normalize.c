/* normalize.c - a piece of text as BertNormalizer leaves it.
 *
 * ASCII goes through a table of 128 bytes. Other characters are looked up (chars.c) and mostly kept or
 * replaced. What is left of canonical ordering: a run of combining characters that are no marks (marks are
 * gone) waits in `pending` until a character of class 0 comes, kept or not, and is then put out in the order
 * of the classes, equal ones as they came. Counting sort, because a text may be one run of a megabyte.
 */
#include "text_private.h"

#define CODE(p)  ((p)&0x1FFFFFu)
#define CLASS(p) ((p) >> 21 & 255u)

/* Room for n bytes behind the text, and the padding. */
static kd_status room(kd_buf *b, size_t n, kd_err *err)
{
    if (b->len + n + KD__PAD <= b->cap) return KD_OK;
    const size_t cap = b->cap + b->cap / 2 + n + KD__PAD + 256;
    char *more = realloc(b->text, cap);
    if (!more) return kd_fail(err, KD_ENOMEM, "no memory for a text");
    b->text = more;
    b->cap = cap;
    return KD_OK;
}

static void put(kd_buf *b, uint32_t cp) { b->len += kd__utf8_put((uint8_t *)b->text + b->len, cp); }

static kd_status flush(kd_encoder *e, kd_err *err)
{
    size_t count[257] = {0};
    kd_status st = room(&e->normal, 4 * e->npending, err);
    uint32_t *sorted = e->pending + e->npending; // see wait_for
    if (st) return st;
    for (size_t i = 0; i < e->npending; i++) count[CLASS(e->pending[i]) + 1]++;
    for (int i = 1; i < 257; i++) count[i] += count[i - 1];
    for (size_t i = 0; i < e->npending; i++) sorted[count[CLASS(e->pending[i])]++] = e->pending[i];
    for (size_t i = 0; i < e->npending; i++) put(&e->normal, CODE(sorted[i]));
    e->npending = 0;
    return KD_OK;
}

/* Keeps a combining character back; there is room for as many again, to sort them. */
static kd_status wait_for(kd_encoder *e, uint32_t p, kd_err *err)
{
    if (2 * (e->npending + 1) > e->pending_cap) {
        const size_t cap = 2 * e->pending_cap + 64;
        uint32_t *more = realloc(e->pending, cap * sizeof *more);
        if (!more) return kd_fail(err, KD_ENOMEM, "no memory for a text");
        e->pending = more;
        e->pending_cap = cap;
    }
    e->pending[e->npending++] = p;
    return KD_OK;
}

/* A code point with its class goes out. */
static kd_status emit(kd_encoder *e, uint32_t p, kd_err *err)
{
    kd_status st;
    if (CLASS(p)) return wait_for(e, p, err);
    if (e->npending && (st = flush(e, err))) return st;
    if (CODE(p) == KD__POOL_NONE) return KD_OK;
    if ((st = room(&e->normal, 4, err))) return st;
    put(&e->normal, CODE(p));
    return KD_OK;
}

/* A character that is not ASCII, by its entry. */
static kd_status one(kd_encoder *e, uint32_t cp, kd_err *err)
{
    const kd__chars *c = &e->t->chars;
    const uint32_t entry = kd__char(c, cp);
    kd_status st = KD_OK;
    if (KD__ALONE(entry)) st = emit(e, ' ', err);
    if (st) return st;
    switch (KD__ACTION(entry)) {
    case KD__DROP: break;
    case KD__MARK:
        if (!KD__ORDER(entry)) st = emit(e, KD__POOL_NONE, err);
        break;
    case KD__KEEP: st = emit(e, cp | KD__ORDER(entry) << 21, err); break;
    default:
        for (const uint32_t *p = c->pool + KD__POOL(entry);; p++) {
            if ((st = emit(e, *p & ~(1u << 29), err))) return st;
            if (*p >> 29 & 1) break;
        }
    }
    return st || !KD__ALONE(entry) ? st : emit(e, ' ', err);
}

kd_status kd__normalize(kd_encoder *e, const uint8_t *s, size_t n, kd_err *err)
{
    const kd__chars *c = &e->t->chars;
    size_t i = 0;
    kd_status st = room(&e->normal, n, err);
    if (!st && e->t->plain) {
        memcpy(e->normal.text + e->normal.len, s, n);
        e->normal.len += i = n;
    }
    while (i < n && !st) {
        if (s[i] < 0x80 && e->npending && c->ascii[s[i]] == KD__DROPPED) {
            i++; // does not end a run of combining characters
        } else if (s[i] < 0x80) {
            if ((e->npending && (st = flush(e, err))) || (st = room(&e->normal, n - i, err))) break;
            uint8_t *out = (uint8_t *)e->normal.text + e->normal.len, *from = out;
            for (; i < n && s[i] < 0x80; i++) {
                *out = c->ascii[s[i]];
                out += *out != KD__DROPPED;
            }
            e->normal.len += (size_t)(out - from);
        } else {
            size_t k;
            const uint32_t cp = kd__utf8_next(s + i, &k);
            i += k;
            st = one(e, cp, err);
        }
    }
    if (!st && e->npending) st = flush(e, err);
    if (!st) memset(e->normal.text + e->normal.len, 0, KD__PAD);
    return st;
}
