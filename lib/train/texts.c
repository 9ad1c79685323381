/* texts.c - rows of tokens on their way to encoders: packed batches, and what teachers said of each text.
 *
 * A store of texts has one ragged column of token ids, or several: a query and its answer, and negatives that
 * were mined for it. All of them go through one encoder. The texts of a row stand together in the order of
 * the columns, so that a batch of B rows is B times so many sequences, packed without padding, and an
 * objective of pairs finds a query beside its answer (kd/loss.h, columns). A column with "texts": N in its
 * params holds N texts a row, one behind the other; each begins with the token that the row begins with.
 *
 * Each text gets a number of its tokens, by which equal texts of a batch are found; where pairs have labels,
 * those are groups: rows of one group are right for each other.
 *
 * How many tokens a batch has differs. An exec is planned for the most that any batch can have, the
 * longest texts all together; memory that a batch does not use is not touched.
 */
#include "train_private.h"

#include <stdlib.h>
#include <string.h>

/* ---- columns ------------------------------------------------------------------------------ */

static bool is_tokens(const kd_column *c)
{
    return c->role == KD_ROLE_INPUT && c->ndims == 1 && c->dims[0] < 0 && !strcmp(c->encoding, "dense") &&
           (c->dtype == KD_U16 || c->dtype == KD_I32);
}

static int64_t texts_of(const kd_column *c)
{
    const json_int_t n = json_integer_value(json_object_get(c->params, "texts"));
    return n > 0 ? (int64_t)n : 1;
}

kd_status kd__texts_find(kd_trainer *t, kd_err *err)
{
    if (t->ntexts) return KD_OK;
    for (size_t i = 0; i < kd_store_columns(t->store); i++) {
        if (!is_tokens(kd_store_column(t->store, i))) continue;
        if (t->ntexts == KD__TEXTS)
            return kd_fail(err, KD_ELIMIT, "%s: more than %d columns of texts", kd_store_path(t->store),
                           KD__TEXTS);
        const int slot = kd__trainer_slot(t, (int)i, err);
        if (slot < 0) return KD_ELIMIT;
        t->text[t->ntexts++] = slot;
        t->texts += texts_of(kd_store_column(t->store, i));
    }
    return KD_OK;
}

int64_t kd__texts_vocab(const kd_trainer *t)
{
    return (int64_t)json_integer_value(json_object_get(kd__trainer_column(t, t->text[0])->params, "vocab"));
}

int64_t kd__texts_longest(const kd_trainer *t)
{
    json_int_t most = 0;
    for (int i = 0; i < t->ntexts; i++) {
        const json_int_t n =
            json_integer_value(json_object_get(kd__trainer_column(t, t->text[i])->params, "max_tokens"));
        most = n > most ? n : most;
    }
    return (int64_t)most;
}

kd_status kd__texts_check(const kd__run *r, const kd_trainer *t, kd_err *err)
{
    const int64_t vocab = kd__texts_vocab(t), longest = kd__texts_longest(t);
    const kd_model_spec *m = &r->spec.model;
    char where[300];
    if (strcmp(m->arch, "bert") && !r->language)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: its rows are texts, and student %s is a %s; set model.arch: bert or llama in %s",
                       kd_store_path(t->store), r->spec.name, m->arch,
                       kd_config_where(&r->spec.config, "model.arch", where, sizeof(where)));
    if (r->language && t->texts > 1)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: rows of %lld texts, and student %s is a language model, which reads one a row",
                       kd_store_path(t->store), (long long)t->texts, r->spec.name);
    if (r->language && kd_loss_needs_of(r->loss) & (KD_NEEDS_NODE | KD_NEEDS_SAMPLES))
        return kd_fail(
            err, KD_EUNSUPPORTED,
            "%s: its loss compares features, which is not there for language models; use terms of logits",
            r->spec.name);
    if (t->texts > 1 &&
        kd_loss_needs_of(r->loss) & (KD_NEEDS_SAMPLES | KD_NEEDS_LABELS | KD_NEEDS_LOGITS | KD_NEEDS_SPARSE))
        return kd_fail(
            err, KD_EMISMATCH,
            "%s: rows of several texts, whose embeddings are compared; the loss of %s has a term of labels, "
            "logits or row numbers: use contrastive, contrastive_kl, embed, sp, pkt or rkd",
            kd_store_path(t->store), r->spec.name);
    for (int i = 1; i < t->ntexts; i++) {
        const json_t *a = json_object_get(kd__trainer_column(t, t->text[0])->params, "tokenizer"),
                     *b = json_object_get(kd__trainer_column(t, t->text[i])->params, "tokenizer");
        if (!json_equal((json_t *)a, (json_t *)b))
            return kd_fail(err, KD_EMISMATCH,
                           "%s: columns %s and %s were made by two tokenizers; pack the data again",
                           kd_store_path(t->store), kd__trainer_column(t, t->text[0])->name,
                           kd__trainer_column(t, t->text[i])->name);
    }
    if (vocab > 0 && m->vocab != vocab)
        return kd_fail(
            err, KD_EMISMATCH,
            "%s: its tokenizer has %lld tokens, student %s has model.vocab: %lld; set it to %lld in %s, or "
            "remove it there",
            kd_store_path(t->store), (long long)vocab, r->spec.name, (long long)m->vocab, (long long)vocab,
            kd_config_where(&r->spec.config, "model.vocab", where, sizeof(where)));
    if (m->positions < longest)
        return kd_fail(
            err, KD_EMISMATCH,
            "%s: texts of up to %lld tokens, student %s has model.positions: %lld; set it to %lld or more in "
            "%s",
            kd_store_path(t->store), (long long)longest, r->spec.name, (long long)m->positions,
            (long long)longest, kd_config_where(&r->spec.config, "model.positions", where, sizeof(where)));
    return KD_OK;
}

/* ---- how many tokens ---------------------------------------------------------------------- */

static int falling(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

/* Tokens of the `rows` longest rows of one column and split. */
static kd_status most_tokens(const kd_trainer *t, int slot, kd_split split, uint32_t rows, kd_cursor *cursor,
                             uint64_t *most, kd_err *err)
{
    const uint64_t all = kd_store_split_rows(t->store, split);
    uint32_t *length = malloc((size_t)(all + 1) * sizeof(*length));
    uint64_t at = 0;
    kd_status st =
        length ? KD_OK
               : kd_fail(err, KD_ENOMEM, "no memory for the lengths of %llu texts", (unsigned long long)all);
    for (uint32_t c = 0; c < kd_store_chunks(t->store) && !st; c++) {
        const kd_chunk_info *info = kd_store_chunk(t->store, c);
        size_t positions;
        if (info->split != split) continue;
        st = kd_cursor_lengths(cursor, t->columns[slot], c, length + at, &positions, err);
        at += info->rows;
    }
    if (!st) qsort(length, (size_t)at, sizeof(*length), falling);
    for (uint64_t i = 0; i < at && i < rows && !st; i++) *most += length[i];
    free(length);
    return st;
}

kd_status kd__texts_most(const kd_trainer *t, kd_split split, uint32_t rows, int64_t *tokens, kd_err *err)
{
    kd_cursor *cursor = NULL;
    uint64_t most = 0;
    kd_status st = kd_cursor_open(&cursor, t->store, err);
    for (int i = 0; i < t->ntexts && !st; i++)
        st = most_tokens(t, t->text[i], split, rows, cursor, &most, err);
    kd_cursor_close(cursor);
    *tokens =
        (int64_t)kd_max_size((size_t)most, (size_t)rows * (size_t)t->texts); // where there are fewer rows
    return st;
}

/* ---- which tokens ------------------------------------------------------------------------- */

int32_t kd__token_at(const kd_column *c, const void *raw, uint64_t at)
{
    return c->dtype == KD_U16 ? ((const uint16_t *)raw)[at] : ((const int32_t *)raw)[at];
}

/* A chunk's lengths of rows, then its ids; free() it. */
static kd_status read_chunk(uint32_t **raw, const kd_trainer *t, int slot, kd_cursor *cursor, uint32_t chunk,
                            kd_err *err)
{
    size_t size = 0;
    kd_status st = kd_cursor_size(cursor, t->columns[slot], chunk, &size, err);
    *raw = st ? NULL : malloc(size + 1);
    if (!st && !*raw) st = kd_fail(err, KD_ENOMEM, "out of memory");
    return st ? st : kd_cursor_read(cursor, t->columns[slot], chunk, *raw, size, err);
}

static kd_status count_chunk(const kd_trainer *t, int slot, kd_cursor *cursor, uint32_t chunk,
                             uint64_t *count, int64_t vocab, kd_err *err)
{
    const kd_column *c = kd__trainer_column(t, slot);
    const uint32_t rows = kd_store_chunk(t->store, chunk)->rows;
    uint32_t *length;
    uint64_t tokens = 0;
    kd_status st = read_chunk(&length, t, slot, cursor, chunk, err);
    for (uint32_t i = 0; !st && i < rows; i++) tokens += length[i];
    for (uint64_t k = 0; !st && k < tokens; k++) {
        const int32_t token = kd__token_at(c, length + rows, k);
        if (token >= 0 && token < vocab) count[token]++;
    }
    free(length);
    return st;
}

kd_status kd__texts_count(const kd_trainer *t, uint64_t **count, kd_err *err)
{
    const int64_t vocab = kd__texts_vocab(t);
    kd_cursor *cursor = NULL;
    *count = calloc((size_t)vocab + 1, sizeof(**count));
    kd_status st = *count ? kd_cursor_open(&cursor, t->store, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    for (int i = 0; i < t->ntexts && !st; i++)
        for (uint32_t c = 0; c < kd_store_chunks(t->store) && !st; c++)
            if (kd_store_chunk(t->store, c)->split == KD_TRAIN)
                st = count_chunk(t, t->text[i], cursor, c, *count, vocab, err);
    kd_cursor_close(cursor);
    return st;
}

/* Rows of a chunk until the sample has `most` tokens; the last one is cut. */
static kd_status sample_chunk(kd_sample *s, const kd_trainer *t, int slot, kd_cursor *cursor, uint32_t chunk,
                              uint64_t most, kd_err *err)
{
    const kd_column *c = kd__trainer_column(t, slot);
    const uint32_t rows = kd_store_chunk(t->store, chunk)->rows;
    uint32_t *length;
    uint64_t at = 0;
    kd_status st = read_chunk(&length, t, slot, cursor, chunk, err);
    for (uint32_t i = 0; !st && i < rows && s->offset[s->n] < most; at += length[i++]) {
        const uint64_t from = s->offset[s->n], n = kd_min_size(length[i], most - from);
        for (uint64_t k = 0; k < n; k++) s->token[from + k] = kd__token_at(c, length + rows, at + k);
        if (n) s->offset[++s->n] = from + n;
    }
    free(length);
    return st;
}

kd_status kd__texts_sample(const kd_trainer *t, uint64_t tokens, kd_sample *s, kd_err *err)
{
    kd_cursor *cursor = NULL;
    *s = (kd_sample){.token = malloc((tokens + 1) * sizeof(*s->token)),
                     .offset = calloc(tokens + 1, sizeof(*s->offset))};
    kd_status st = s->token && s->offset ? kd_cursor_open(&cursor, t->store, err)
                                         : kd_fail(err, KD_ENOMEM, "out of memory");
    for (int i = 0; i < t->ntexts && !st; i++) {
        const uint64_t most = tokens * (uint64_t)(i + 1) / (uint64_t)t->ntexts;
        for (uint32_t c = 0; c < kd_store_chunks(t->store) && !st && s->offset[s->n] < most; c++)
            if (kd_store_chunk(t->store, c)->split == KD_TRAIN)
                st = sample_chunk(s, t, t->text[i], cursor, c, most, err);
    }
    kd_cursor_close(cursor);
    return st;
}

void kd__sample_release(kd_sample *s)
{
    free(s->token);
    free(s->offset);
    *s = (kd_sample){0};
}

/* ---- packing ------------------------------------------------------------------------------ */

static bool grow(kd__texts *x, uint64_t texts, uint64_t tokens)
{
    if (texts > x->room) {
        uint64_t *offset = realloc(x->offset, (size_t)(texts + 1) * sizeof(*offset));
        if (offset) x->offset = offset;
        uint64_t *hash = realloc(x->hash, (size_t)texts * sizeof(*hash));
        if (hash) x->hash = hash;
        int32_t *group = realloc(x->group, (size_t)texts * sizeof(*group));
        if (group) x->group = group;
        if (!offset || !hash || !group) return false;
        x->room = texts;
    }
    if (tokens > x->token_room) {
        int32_t *token = realloc(x->token, (size_t)tokens * sizeof(*token));
        if (!token) return false;
        x->token = token;
        x->token_room = tokens;
    }
    return true;
}

void kd__texts_release(kd__texts *x)
{
    free(x->token);
    free(x->offset);
    free(x->hash);
    free(x->group);
    *x = (kd__texts){0};
}

static kd_status damaged(const kd_trainer *t, const kd_column *c, const kd__rows *rows, uint32_t i,
                         const char *what, long long found, long long expected, kd_err *err)
{
    return kd_fail(err, KD_ECORRUPT, "%s: column %s, row %llu: %s %lld, expected %lld; pack the data again",
                   kd_store_path(t->store), c->name,
                   (unsigned long long)(rows->row ? rows->row[i] : rows->first + i), what, found, expected);
}

/* Row i of one column: its texts behind those that are there. */
static kd_status add_row(kd__texts *x, const kd_trainer *t, const kd_column *c, const void *raw,
                         const uint64_t *offset, const kd__rows *rows, uint32_t i, int32_t group, kd_err *err)
{
    const uint64_t first = offset[i], end = offset[i + 1];
    const int64_t vocab = kd__texts_vocab(t), want = texts_of(c);
    int64_t have = 0;
    if (first == end) return damaged(t, c, rows, i, "tokens", 0, 1, err);
    const int32_t start = kd__token_at(c, raw, first);
    for (uint64_t k = first; k < end; k++) {
        const int32_t token = kd__token_at(c, raw, k);
        if (token < 0 || (vocab && token >= vocab))
            return damaged(t, c, rows, i, "token", token, vocab - 1, err);
        if (k == first || (want > 1 && token == start)) {
            if (++have > want) break;
            x->group[x->n] = group;
            x->n++;
        }
        x->token[x->tokens++] = token;
        x->offset[x->n] = x->tokens;
    }
    return have == want ? KD_OK : damaged(t, c, rows, i, "texts", have, want, err);
}

kd_status kd__texts_fill(kd__texts *x, const kd_trainer *t, const void *const *raw,
                         const uint64_t *const *offset, const int32_t *labels, const kd__rows *rows,
                         kd_err *err)
{
    uint64_t tokens = 0;
    kd_status st = KD_OK;
    for (int k = 0; k < t->ntexts; k++) tokens += offset[t->text[k]][rows->n];
    if (!grow(x, (uint64_t)t->texts * rows->n, tokens + 1))
        return kd_fail(err, KD_ENOMEM, "no memory for the texts of %u rows", rows->n);
    x->n = x->tokens = x->offset[0] = 0;
    for (uint32_t i = 0; i < rows->n && !st; i++)
        for (int k = 0; k < t->ntexts && !st; k++) {
            const int slot = t->text[k];
            const kd_column *c = kd__trainer_column(t, slot);
            st = add_row(x, t, c, raw[slot], offset[slot], rows, i,
                         labels && texts_of(c) == 1 ? labels[i] : -1, err);
        }
    for (uint64_t i = 0; i < x->n && !st; i++)
        x->hash[i] =
            kd_hash64(x->token + x->offset[i], (size_t)(x->offset[i + 1] - x->offset[i]) * sizeof(*x->token));
    return st;
}
