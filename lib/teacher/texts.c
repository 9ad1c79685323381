/* texts.c - columns of token ids as a token model takes them: texts one behind the other, no padding.
 *
 * A store of texts has one ragged column of ids, or several (a query and its answer), and every one of them
 * goes through the teacher. A column with "texts": N in its params holds N texts a row; each begins with the
 * token that the row begins with.
 */
#include "teacher_private.h"

#include <stdlib.h>
#include <string.h>

bool kd__is_tokens(const kd_column *c)
{
    return c->role == KD_ROLE_INPUT && c->ndims == 1 && c->dims[0] < 0 && !strcmp(c->encoding, "dense") &&
           (c->dtype == KD_U16 || c->dtype == KD_I32);
}

static kd_status check_text(const kd_teacher *t, const kd_store *s, const kd_column *c, kd_err *err)
{
    const kd_model_spec *m = &t->model->spec;
    const struct {
        const char *key;
        int64_t most;
        const char *what;
    } limits[] = {{"vocab", m->vocab, "tokens"}, {"max_tokens", m->positions, "positions"}};
    for (size_t i = 0; i < KD_COUNT(limits); i++) {
        const json_int_t have = json_integer_value(json_object_get(c->params, limits[i].key));
        if (have > limits[i].most)
            return kd_fail(err, KD_EMISMATCH, "%s: column %s has %s %lld, the teacher %s has %lld %s",
                           kd_store_path(s), c->name, limits[i].key, (long long)have, t->folder,
                           (long long)limits[i].most, limits[i].what);
    }
    return KD_OK;
}

/* The mask of a column of texts: the one that names it, or that names none. */
static int mask_of(const kd_store *s, const kd_column *c)
{
    for (size_t i = 0; i < kd_store_columns(s); i++) {
        const kd_column *m = kd_store_column(s, i);
        const char *of = json_string_value(json_object_get(m->params, "input"));
        if (m->role == KD_ROLE_MASK && (!of || !strcmp(of, c->name))) return (int)i;
    }
    return -1;
}

kd_status kd__teacher_texts(kd__text out[KD__TEXTS], int *n, const kd_teacher *t, const kd_store *s,
                            kd_err *err)
{
    kd_status st = KD_OK;
    *n = 0;
    for (size_t i = 0; i < kd_store_columns(s) && !st; i++) {
        const kd_column *c = kd_store_column(s, i);
        if (!kd__is_tokens(c)) continue;
        if (*n == KD__TEXTS)
            return kd_fail(err, KD_ELIMIT, "%s: more than %d columns of texts", kd_store_path(s), KD__TEXTS);
        const json_int_t each = json_integer_value(json_object_get(c->params, "texts"));
        out[(*n)++] =
            (kd__text){.column = (int)i, .c = c, .each = each > 1 ? (int64_t)each : 1, .mask = mask_of(s, c)};
        st = check_text(t, s, c, err);
        if (!st && t->speaks && each > 1)
            st = kd_fail(err, KD_EUNSUPPORTED,
                         "%s: column %s has %lld texts a row, a language model takes one", kd_store_path(s),
                         c->name, (long long)each);
    }
    if (!st && !*n)
        st = kd_fail(err, KD_EMISMATCH,
                     "%s: no column of token ids, which the teacher %s takes (ragged, u16 or i32)",
                     kd_store_path(s), t->folder);
    return st;
}

static int32_t id_at(const void *ids, kd_dtype dtype, uint64_t i)
{
    return dtype == KD_U16 ? ((const uint16_t *)ids)[i] : ((const int32_t *)ids)[i];
}

/* Where the texts of a row begin: at every token that is its first one. */
static kd_status cut(kd__tokens *k, const kd__text *x, const uint32_t *lengths, const void *ids,
                     const kd_store *s, uint32_t chunk, kd_err *err)
{
    const kd_chunk_info *ci = kd_store_chunk(s, chunk);
    uint64_t at = 0;
    k->texts = 0;
    for (uint32_t r = 0; r < ci->rows; r++) {
        const uint64_t end = at + lengths[r];
        int64_t found = 0;
        for (uint64_t i = at; i < end; i++) {
            if (i > at && (x->each == 1 || id_at(ids, x->c->dtype, i) != id_at(ids, x->c->dtype, at)))
                continue;
            if (found++ < x->each) k->offset[k->texts++] = i;
        }
        if (found != x->each)
            return kd_fail(err, KD_ECORRUPT, "%s: row %llu of column %s has %lld texts, expected %lld",
                           kd_store_path(s), (unsigned long long)(ci->first + r), x->c->name,
                           (long long)found, (long long)x->each);
        at = end;
    }
    k->offset[k->texts] = at;
    return KD_OK;
}

/* The mask of a chunk, which has the tokens' lengths. */
static kd_status read_mask(kd__tokens *k, const kd__text *x, kd_cursor *c, const kd_store *s, uint32_t chunk,
                           kd_err *err)
{
    const size_t rows = kd_store_chunk(s, chunk)->rows;
    size_t size;
    kd_status st = kd_cursor_size(c, x->mask, chunk, &size, err);
    if (st) return st;
    if (size > k->mask_bytes || !k->mask) {
        free(k->mask);
        k->mask = kd_alloc_aligned(size + 1, 1);
        k->mask_bytes = k->mask ? size : 0;
        if (!k->mask) return kd_fail(err, KD_ENOMEM, "%s: no memory for a chunk of texts", kd_store_path(s));
    }
    if ((st = kd_cursor_read(c, x->mask, chunk, k->mask, size, err))) return st;
    if (memcmp(k->mask, k->raw, rows * sizeof(uint32_t)))
        return kd_fail(err, KD_ECORRUPT, "%s: chunk %u: columns %s and %s are not of the same lengths",
                       kd_store_path(s), chunk, x->c->name, kd_store_column(s, (size_t)x->mask)->name);
    return KD_OK;
}

kd_status kd__tokens_read(kd__tokens *k, const kd__text *x, kd_cursor *c, const kd_store *s, uint32_t chunk,
                          kd_err *err)
{
    const uint32_t rows = kd_store_chunk(s, chunk)->rows;
    size_t size;
    kd_status st = kd_cursor_size(c, x->column, chunk, &size, err);
    if (st) return st;
    if (size > k->bytes || !k->offset) {
        free(k->raw);
        free(k->offset);
        k->raw = kd_alloc_aligned(size + 1, 1);
        k->offset = kd_alloc_aligned(kd__most_rows(s) * (size_t)x->each + 1, sizeof *k->offset);
        k->bytes = size;
        if (!k->raw || !k->offset)
            return kd_fail(err, KD_ENOMEM, "%s: no memory for a chunk of texts", kd_store_path(s));
    }
    if ((st = kd_cursor_read(c, x->column, chunk, k->raw, size, err)) ||
        (x->mask >= 0 && (st = read_mask(k, x, c, s, chunk, err))))
        return st;
    return cut(k, x, (const uint32_t *)(const void *)k->raw, k->raw + 4 * (size_t)rows, s, chunk, err);
}

void kd__tokens_release(kd__tokens *k)
{
    free(k->raw);
    free(k->offset);
    free(k->mask);
    *k = (kd__tokens){0};
}
