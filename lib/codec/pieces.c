/* pieces.c - a block that is made piece by piece.
 *
 * The logits of a language model for a chunk of rows would fill the memory (49,152 numbers a token), so they
 * are made for a few positions at a time, and of those only what will be stored is kept. A sparse block is
 * entries, which are gathered as they are and written at the end. A dense one is byte planes of a number a
 * position, then the codes: pieces are blocks of their own, whose planes and codes are gathered apart.
 */
#include "codec_private.h"

#include <stdlib.h>
#include <string.h>

struct kd_codec_pieces {
    const kd_codec *c;
    size_t positions;
    /* Sparse codecs. */
    kd__picks picks;
    size_t entries, room, entry_room; /* of picks; room: positions */
    /* Dense ones. */
    kd_buf heads, codes; /* the planes of each piece, one behind the other; codes */
    kd_buf sizes;        /* size_t: positions of each piece */
};

kd_status kd_codec_begin(kd_codec_pieces **out, const kd_codec *c, kd_err *err)
{
    *out = NULL;
    if (!c->ops->info.sparse && !c->ops->head)
        return kd_fail(err, KD_EUNSUPPORTED, "encoding %s is made of a whole block at once, not in pieces",
                       c->ops->info.name);
    kd_codec_pieces *p = calloc(1, sizeof *p);
    if (!p) return kd_fail(err, KD_ENOMEM, "out of memory for a block");
    p->c = c;
    *out = p;
    return KD_OK;
}

void kd_codec_pieces_free(kd_codec_pieces *p)
{
    if (!p) return;
    kd__picks_release(&p->picks);
    kd_buf_release(&p->heads);
    kd_buf_release(&p->codes);
    kd_buf_release(&p->sizes);
    free(p);
}

/* ---- sparse codecs ------------------------------------------------------------------------ */

static bool reserve(kd_codec_pieces *p, size_t positions, size_t entries)
{
    kd__picks *k = &p->picks;
    const size_t codes = 2 * ((const kd__sparse_state *)p->c->state)->temperatures;
    if (positions > p->room) {
        const size_t room = positions + positions / 2;
        if (!kd__codec_grow(&k->start, room, sizeof *k->start) ||
            !kd__codec_grow(&k->count, room, sizeof *k->count) ||
            !kd__codec_grow(&k->codes, room * codes, sizeof *k->codes))
            return false;
        p->room = room;
    }
    if (entries > p->entry_room) {
        const size_t room = entries + entries / 2;
        if (!kd__codec_grow(&k->entry, room, sizeof *k->entry)) return false;
        p->entry_room = room;
    }
    return true;
}

/* Puts n positions behind those that are there. */
static kd_status gather(kd_codec_pieces *p, const kd__picks *some, size_t n, kd_err *err)
{
    const size_t codes = 2 * ((const kd__sparse_state *)p->c->state)->temperatures;
    size_t entries = p->entries;
    for (size_t i = 0; i < n; i++) entries += some->count[i];
    if (!reserve(p, p->positions + n, entries))
        return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", p->positions + n);
    for (size_t i = 0; i < n; i++) {
        const size_t at = p->positions + i;
        p->picks.start[at] = p->entries;
        p->picks.count[at] = some->count[i];
        memcpy(p->picks.entry + p->entries, some->entry + some->start[i],
               some->count[i] * sizeof *some->entry);
        p->entries += some->count[i];
    }
    if (codes && n) memcpy(p->picks.codes + p->positions * codes, some->codes, n * codes * sizeof *some->codes);
    return KD_OK;
}

static kd_status add_sparse(kd_codec_pieces *p, const kd_codec_block *b, size_t n, int threads, kd_err *err)
{
    kd__picks some;
    kd_status st = kd__sparse_pick(&some, p->c, b, threads, err); // released in any case
    if (!st) st = gather(p, &some, n, err);
    kd__picks_release(&some);
    return st;
}

/* ---- dense codecs ------------------------------------------------------------------------- */

static kd_status add_dense(kd_codec_pieces *p, const kd_codec_block *b, size_t n, int threads, kd_err *err)
{
    const size_t head = n * p->c->ops->head, before = p->codes.len;
    kd_status st = kd_codec_encode(p->c, b, threads, &p->codes, err);
    if (st) return st;
    char *block = p->codes.text + before;
    kd_buf_append(&p->heads, block, head);
    kd_buf_append(&p->sizes, &n, sizeof n);
    memmove(block, block + head, p->codes.len - before - head);
    p->codes.len -= head;
    if (!p->heads.failed && !p->sizes.failed) return KD_OK;
    return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", p->positions + n);
}

static kd_status join_dense(kd_codec_pieces *p, const kd_codec_pieces *from, kd_err *err)
{
    if (from->heads.len) kd_buf_append(&p->heads, from->heads.text, from->heads.len);
    if (from->codes.len) kd_buf_append(&p->codes, from->codes.text, from->codes.len);
    if (from->sizes.len) kd_buf_append(&p->sizes, from->sizes.text, from->sizes.len);
    if (!p->heads.failed && !p->codes.failed && !p->sizes.failed) return KD_OK;
    return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions",
                   p->positions + from->positions);
}

static void end_dense(const kd_codec_pieces *p, kd_buf *out)
{
    const size_t planes = p->c->ops->head, pieces = p->sizes.len / sizeof(size_t);
    const size_t *sizes = (const size_t *)(const void *)p->sizes.text;
    for (size_t k = 0; k < planes; k++)
        for (size_t i = 0, at = 0; i < pieces; at += planes * sizes[i++])
            kd_buf_append(out, p->heads.text + at + k * sizes[i], sizes[i]);
    if (p->codes.len) kd_buf_append(out, p->codes.text, p->codes.len);
}

/* ---- both --------------------------------------------------------------------------------- */

kd_status kd_codec_add(kd_codec_pieces *p, const kd_codec_block *b, int threads, kd_err *err)
{
    const size_t n = kd_codec_block_positions(b);
    if (!n) return KD_OK;
    kd_status st =
        p->c->ops->info.sparse ? add_sparse(p, b, n, threads, err) : add_dense(p, b, n, threads, err);
    if (!st) p->positions += n;
    return st;
}

static void empty(kd_codec_pieces *p)
{
    p->positions = p->entries = p->heads.len = p->codes.len = p->sizes.len = 0;
}

kd_status kd_codec_join(kd_codec_pieces *p, kd_codec_pieces *from, kd_err *err)
{
    kd_status st =
        p->c->ops->info.sparse ? gather(p, &from->picks, from->positions, err) : join_dense(p, from, err);
    if (st) return st;
    p->positions += from->positions;
    empty(from);
    return KD_OK;
}

kd_status kd_codec_end(kd_codec_pieces *p, kd_buf *out, kd_err *err)
{
    const size_t positions = p->positions, before = out->len;
    kd_status st = KD_OK;
    p->picks.positions = positions;
    if (!p->c->ops->info.sparse)
        end_dense(p, out);
    else if (positions)
        st = kd__picks_write(&p->picks, p->c, out, err);
    empty(p);
    if (!st && out->failed)
        st = kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu positions", positions);
    if (st) out->len = before;
    return st;
}
