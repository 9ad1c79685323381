/* mine.c - hard negatives: for each query the answers of other rows that its teacher takes for the nearest.
 *
 * What the teacher said of all texts is in the store already, so mining runs no model: the training rows'
 * answers, each text once, become an index, every row's query is asked in it, and of what is found the
 * first N that are no answers of the query are kept. Answers of a query are those of all rows with its text
 * and, where the store has labels, of all rows with its label. Rows of other splits are asked too, so that
 * their loss is of the same kind, in the same index.
 *
 * A segment "NAME.negatives" gets two columns: the texts, N a row one behind the other ("texts": N), and what
 * the teacher says of each, (N, dimension). Trainers take them as they take any texts of a row; without the
 * segment the store is what it was.
 *
 * Searching is exact and hits are in a total order, so the same store gives the same negatives on any number
 * of threads; chunk follows chunk, so a pass that was stopped goes on with the next one.
 */
#include "teacher_private.h"

#include "kd/search.h"

#include <stdlib.h>
#include <string.h>

#define SEGMENT ".negatives"

/* An answer of the training rows, once; its vector is the index's of the same number. */
typedef struct candidate {
    uint64_t hash, token, tokens; /* where in mine.token, how many */
} candidate;

/* A key (of a query's text, of a label) and one of its answers. */
typedef struct right {
    uint64_t key, answer;
} right;

typedef struct mine {
    kd_store *s;
    const kd_mine_params *p;
    char name[KD_STORE_NAME_MAX], segment[KD_STORE_NAME_MAX];
    kd__text text[2];                 /* query, answer */
    int feature[2], label, id_column; /* of columns */
    size_t dims, most;                /* rows of a chunk */
    kd_cursor *cursor;
    kd__tokens tokens[2]; /* of a chunk */
    float *vectors;       /* of a chunk, (most, dims) */
    int64_t *labels;
    char *raw;
    kd_id *id; /* (most) */
    /* Candidates, and by their hashes where they are: a table of twice as many places as training rows. */
    candidate *list;
    uint32_t *place;
    size_t n, places, ntokens;
    int32_t *token;
    float *vector; /* (n, dims) */
    size_t list_room, token_room, vector_room;
    right *right;              /* sorted by key */
    size_t nright, most_right; /* most_right: answers of one key */
    kd_index *index;
    kd_hit *hits; /* (most, depth) */
    size_t depth;
    kd__target target;
    kd__encoder encoder;
    int32_t *out; /* a chunk's tokens */
    size_t out_room;
    uint32_t *lengths; /* (most) */
    float *value;      /* (most, N, dims) */
    kd_store_writer *writer;
} mine;

/* ---- what there is -------------------------------------------------------------------------- */

static int feature_of(const kd_store *s, const char *teacher, const char *input)
{
    for (size_t i = 0; i < kd_store_columns(s); i++) {
        const kd_column *c = kd_store_column(s, i);
        const char *of = json_string_value(json_object_get(c->params, "input"));
        if (c->role == KD_ROLE_FEATURE && !strcmp(c->teacher, teacher) && of && !strcmp(of, input) &&
            c->ndims == 1 && c->dims[0] > 0)
            return (int)i;
    }
    return -1;
}

static kd_status find_columns(mine *m, kd_err *err)
{
    const char *path = kd_store_path(m->s), *base = kd_store_column(m->s, 0)->segment;
    int n = 0;
    for (size_t i = 0; i < kd_store_columns(m->s); i++) {
        const kd_column *c = kd_store_column(m->s, i);
        if (!kd__is_tokens(c) || strcmp(c->segment, base)) continue;
        if (n < 2) m->text[n] = (kd__text){.column = (int)i, .c = c, .each = 1, .mask = -1};
        n++;
    }
    if (n != 2)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: %d columns of texts; negatives are mined for pairs, a query and its answer", path,
                       n);
    for (int k = 0; k < 2; k++) {
        m->feature[k] = feature_of(m->s, m->p->name, m->text[k].c->name);
        if (m->feature[k] < 0)
            return kd_fail(err, KD_ENOTFOUND,
                           "%s: no embeddings of column %s by teacher %s; dump them first: kd-dump --teacher "
                           "FOLDER --into %s --name %s",
                           path, m->text[k].c->name, m->p->name, path, m->p->name);
    }
    m->dims = kd_column_width(kd_store_column(m->s, (size_t)m->feature[0]));
    if (m->dims != kd_column_width(kd_store_column(m->s, (size_t)m->feature[1])))
        return kd_fail(err, KD_EMISMATCH, "%s: embeddings of queries and of answers differ in their widths",
                       path);
    m->label = kd_store_find_role(m->s, KD_ROLE_LABEL, NULL);
    m->id_column = kd_store_find_role(m->s, KD_ROLE_ID, NULL);
    return KD_OK;
}

static kd_status open_rooms(mine *m, kd_err *err)
{
    kd_status st = kd_cursor_open(&m->cursor, m->s, err);
    if (st) return st;
    m->most = kd__most_rows(m->s);
    m->vectors = malloc((m->most * m->dims + 1) * sizeof *m->vectors);
    m->labels = malloc((m->most + 1) * sizeof *m->labels);
    m->id = malloc((m->most + 1) * sizeof *m->id);
    if (m->vectors && m->labels && m->id) return KD_OK;
    return kd_fail(err, KD_ENOMEM, "%s: out of memory", kd_store_path(m->s));
}

/* ---- a chunk -------------------------------------------------------------------------------- */

static kd_status read_labels(mine *m, uint32_t chunk, kd_err *err)
{
    const uint32_t rows = kd_store_chunk(m->s, chunk)->rows;
    if (m->label < 0) return KD_OK;
    const kd_column *c = kd_store_column(m->s, (size_t)m->label);
    const size_t each = kd_dtype_size(c->dtype);
    free(m->raw);
    m->raw = calloc(rows + 1, each);
    if (!m->raw) return kd_fail(err, KD_ENOMEM, "%s: out of memory", kd_store_path(m->s));
    kd_status st = kd_cursor_read(m->cursor, m->label, chunk, m->raw, rows * each, err);
    const int rest = 64 - 8 * (int)each;
    const bool sign = c->dtype == KD_I8 || c->dtype == KD_I16 || c->dtype == KD_I32 || c->dtype == KD_I64;
    for (uint32_t i = 0; i < rows && !st; i++) { // whole numbers, little-endian
        uint64_t v = 0;
        memcpy(&v, m->raw + i * each, each);
        m->labels[i] = sign ? (int64_t)(v << rest) >> rest : (int64_t)v;
    }
    return st;
}

/* Tokens, labels and, of text k, vectors. */
static kd_status read_chunk(mine *m, uint32_t chunk, int k, kd_err *err)
{
    const uint32_t rows = kd_store_chunk(m->s, chunk)->rows;
    kd_status st = KD_OK;
    for (int i = 0; i < 2 && !st; i++)
        st = kd__tokens_read(&m->tokens[i], &m->text[i], m->cursor, m->s, chunk, err);
    if (!st) st = read_labels(m, chunk, err);
    if (!st) st = kd_cursor_read_f32(m->cursor, m->feature[k], chunk, m->vectors, rows, err);
    return st;
}

static int32_t id_at(const mine *m, int k, uint64_t at)
{
    const kd_column *c = m->text[k].c;
    const char *ids = m->tokens[k].raw + m->tokens[k].texts * sizeof(uint32_t);
    return c->dtype == KD_U16 ? ((const uint16_t *)(const void *)ids)[at]
                              : ((const int32_t *)(const void *)ids)[at];
}

/* Of the bytes of row i's text in column k. */
static uint64_t hash_of(const mine *m, int k, uint32_t i)
{
    const kd__tokens *t = &m->tokens[k];
    const size_t each = kd_dtype_size(m->text[k].c->dtype);
    const char *ids = t->raw + t->texts * sizeof(uint32_t);
    return kd_hash64(ids + t->offset[i] * each, (size_t)(t->offset[i + 1] - t->offset[i]) * each);
}

/* Keys of row i: its query's text, and its label where there is one. */
static size_t keys_of(const mine *m, uint32_t i, uint64_t key[2])
{
    key[0] = hash_of(m, 0, i);
    if (m->label < 0 || m->labels[i] < 0) return 1;
    key[1] = kd_hash64(&m->labels[i], sizeof m->labels[i]) ^ 1;
    return 2;
}

/* ---- candidates and right answers ----------------------------------------------------------- */

static bool grow(void *list, size_t *room, size_t n, size_t each)
{
    void *old, *grown;
    memcpy(&old, list, sizeof old); // any pointer's place
    if (n <= *room) return true;
    const size_t more = kd_max_size(2 * *room, n + 1024);
    if (!(grown = realloc(old, more * each))) return false;
    memcpy(list, &grown, sizeof grown);
    *room = more;
    return true;
}

/* Where a hash is in the table, or the free place for it. */
static size_t place_of(const mine *m, uint64_t hash)
{
    size_t at = (size_t)hash & (m->places - 1);
    while (m->place[at] != KD_NO_HIT && m->list[m->place[at]].hash != hash) at = (at + 1) & (m->places - 1);
    return at;
}

static kd_status add_candidate(mine *m, uint32_t i, uint64_t hash, kd_err *err)
{
    const uint64_t first = m->tokens[1].offset[i], n = m->tokens[1].offset[i + 1] - first;
    const size_t at = place_of(m, hash);
    if (m->place[at] != KD_NO_HIT) return KD_OK;
    if (!grow(&m->list, &m->list_room, m->n + 1, sizeof *m->list) ||
        !grow(&m->token, &m->token_room, m->ntokens + n, sizeof *m->token) ||
        !grow(&m->vector, &m->vector_room, m->n + 1, m->dims * sizeof *m->vector))
        return kd_fail(err, KD_ENOMEM, "%s: no memory for %zu answers", kd_store_path(m->s), m->n + 1);
    m->list[m->n] = (candidate){hash, m->ntokens, n};
    for (uint64_t k = 0; k < n; k++) m->token[m->ntokens++] = id_at(m, 1, first + k);
    memcpy(m->vector + m->n * m->dims, m->vectors + i * m->dims, m->dims * sizeof *m->vector);
    m->place[at] = (uint32_t)m->n++;
    return KD_OK;
}

static kd_status collect_chunk(mine *m, uint32_t chunk, kd_err *err)
{
    const kd_chunk_info *info = kd_store_chunk(m->s, chunk);
    kd_status st = read_chunk(m, chunk, 1, err);
    for (uint32_t i = 0; i < info->rows && !st; i++) {
        const uint64_t answer = hash_of(m, 1, i);
        uint64_t key[2];
        const size_t keys = keys_of(m, i, key);
        for (size_t k = 0; k < keys; k++) m->right[m->nright++] = (right){key[k], answer};
        if (info->split == KD_TRAIN) st = add_candidate(m, i, answer, err);
    }
    return st;
}

static int by_key(const void *a, const void *b)
{
    const right *x = a, *y = b;
    return x->key != y->key ? (x->key > y->key) - (x->key < y->key)
                            : (x->answer > y->answer) - (x->answer < y->answer);
}

/* Sorts what is right, each pair once. */
static void sort_right(mine *m)
{
    size_t n = 0, run = 0;
    qsort(m->right, m->nright, sizeof *m->right, by_key);
    for (size_t i = 0; i < m->nright; i++) {
        if (n && !by_key(&m->right[n - 1], &m->right[i])) continue;
        run = n && m->right[n - 1].key == m->right[i].key ? run + 1 : 1;
        m->most_right = kd_max_size(m->most_right, run);
        m->right[n++] = m->right[i];
    }
    m->nright = n;
}

static kd_status collect(mine *m, kd_err *err)
{
    const uint64_t train = kd_store_split_rows(m->s, KD_TRAIN), rows = kd_store_rows(m->s);
    for (m->places = 1024; m->places < 2 * train;) m->places *= 2;
    m->place = malloc(m->places * sizeof *m->place);
    m->right = malloc((size_t)(2 * rows + 1) * sizeof *m->right);
    if (!m->place || !m->right || train >= KD_NO_HIT)
        return kd_fail(err, KD_ENOMEM, "%s: no memory for the answers of %llu rows", kd_store_path(m->s),
                       (unsigned long long)rows);
    memset(m->place, 0xff, m->places * sizeof *m->place); // KD_NO_HIT
    kd_status st = KD_OK;
    for (uint32_t c = 0; c < kd_store_chunks(m->s) && !st; c++) st = collect_chunk(m, c, err);
    if (st) return st;
    sort_right(m);
    m->depth = (size_t)m->p->n + 2 * m->most_right;
    if (m->n < m->depth)
        return kd_fail(
            err, KD_EUSAGE,
            "%s: %zu different answers in its training rows, and a query has up to %zu right ones; "
            "too few to mine %lld others",
            kd_store_path(m->s), m->n, m->most_right, (long long)m->p->n);
    if (m->depth > KD_HITS)
        return kd_fail(err, KD_ELIMIT,
                       "%s: up to %zu right answers of one query or label; with %lld negatives at most %zu",
                       kd_store_path(m->s), m->most_right, (long long)m->p->n,
                       (KD_HITS - (size_t)m->p->n) / 2);
    return kd_index_create(&m->index, m->vector, m->n, m->dims, KD_F32, err);
}

/* ---- negatives ------------------------------------------------------------------------------ */

static bool is_right(const mine *m, const uint64_t *key, size_t keys, uint64_t answer)
{
    for (size_t k = 0; k < keys; k++) {
        const right want = {key[k], answer};
        if (bsearch(&want, m->right, m->nright, sizeof want, by_key)) return true;
    }
    return false;
}

/* Row i's: the first N hits that are not right. */
static kd_status take_row(mine *m, uint32_t i, size_t *tokens, kd_err *err)
{
    const size_t n = (size_t)m->p->n;
    const kd_hit *hits = m->hits + i * m->depth;
    uint64_t key[2];
    const size_t keys = keys_of(m, i, key);
    m->lengths[i] = 0;
    for (size_t k = 0, got = 0; got < n; k++) { // depth has room for all that are right
        const candidate *c = &m->list[hits[k].doc];
        if (is_right(m, key, keys, c->hash)) continue;
        if (!grow(&m->out, &m->out_room, *tokens + c->tokens, sizeof *m->out))
            return kd_fail(err, KD_ENOMEM, "%s: no memory for a chunk", kd_store_path(m->s));
        memcpy(m->out + *tokens, m->token + c->token, c->tokens * sizeof *m->out);
        memcpy(m->value + (i * n + got++) * m->dims, m->vector + hits[k].doc * m->dims,
               m->dims * sizeof *m->value);
        *tokens += c->tokens;
        m->lengths[i] += (uint32_t)c->tokens;
    }
    return KD_OK;
}

/* Ids as the answers' column has them, in place. */
static void narrow(mine *m, size_t tokens)
{
    uint16_t *to = (uint16_t *)(void *)m->out;
    for (size_t k = 0; m->text[1].c->dtype == KD_U16 && k < tokens; k++) to[k] = (uint16_t)m->out[k];
}

static kd_status mine_chunk(mine *m, uint32_t chunk, kd_err *err)
{
    const kd_chunk_info *info = kd_store_chunk(m->s, chunk);
    size_t tokens = 0;
    kd_block block[2];
    kd_status st = read_chunk(m, chunk, 0, err);
    if (!st) st = kd_index_search(m->index, m->vectors, info->rows, m->depth, m->p->threads, m->hits, err);
    for (uint32_t i = 0; i < info->rows && !st; i++) st = take_row(m, i, &tokens, err);
    if (!st && m->id_column >= 0)
        st = kd_cursor_read(m->cursor, m->id_column, chunk, m->id, info->rows * sizeof *m->id, err);
    if (st) return st;
    narrow(m, tokens);
    block[0] = (kd_block){m->out, tokens * kd_dtype_size(m->text[1].c->dtype), m->lengths};
    st = kd__encode(&m->encoder, &m->target, m->value, m->id, NULL, info->rows, m->p->threads,
                    kd_store_path(m->s), info->first, &block[1], err);
    return st ? st : kd_store_writer_append(m->writer, info->split, info->rows, block, err);
}

/* ---- the segment ---------------------------------------------------------------------------- */

static const char *fingerprint(const mine *m)
{
    const char *f = json_string_value(json_object_get(kd_store_teacher(m->s, m->p->name), "fingerprint"));
    return f ? f : "";
}

/* The answers' column with N texts a row. */
static kd_status text_column(const mine *m, kd_column *c, json_t **params, kd_err *err)
{
    const kd_column *answer = m->text[1].c;
    *c = (kd_column){.role = KD_ROLE_INPUT, .dtype = answer->dtype, .ndims = 1, .dims = {-1}};
    snprintf(c->name, sizeof c->name, "negative");
    snprintf(c->encoding, sizeof c->encoding, "dense");
    *params = json_deep_copy(answer->params);
    if (!*params || json_object_set_new(*params, "texts", json_integer(m->p->n)))
        return kd_fail(err, KD_ENOMEM, "out of memory");
    c->params = *params;
    return KD_OK;
}

/* What the teacher says of them, encoded as what it says of answers. */
static kd_status value_column(mine *m, kd_err *err)
{
    const kd_column *answer = kd_store_column(m->s, (size_t)m->feature[1]);
    kd_column *c = &m->target.column;
    *c = (kd_column){.role = KD_ROLE_FEATURE,
                     .dtype = answer->dtype,
                     .ndims = 2,
                     .dims = {m->p->n, (int64_t)m->dims}};
    snprintf(c->teacher, sizeof c->teacher, "%s", m->p->name);
    snprintf(c->tap, sizeof c->tap, "%s", answer->tap);
    const int n = snprintf(c->name, sizeof c->name, "%s/embedding.negative", m->p->name);
    if (n < 0 || n >= KD_STORE_NAME_MAX)
        return kd_fail(err, KD_EUSAGE, "the teacher's name %s is too long for a column of its negatives",
                       m->p->name);
    json_t *params = json_pack("{s:s, s:s}", "form", kd_tap_form_name(KD_TAP_FLAT), "input", "negative");
    if (!params) return kd_fail(err, KD_ENOMEM, "out of memory");
    kd_status st = kd__target_make(&m->target, KD__LOGITS, answer->encoding, params, err);
    return st ? st : kd__target_open(&m->target, m->vector, m->n / (size_t)m->p->n, err);
}

static kd_status begin(mine *m, const kd_writer_params *wp, kd_err *err)
{
    const json_t *base = json_array_get(json_object_get(kd_store_manifest(m->s), "segments"), 0);
    const char *root = json_string_value(json_object_get(base, "root"));
    json_t *params = NULL;
    kd_column columns[2];
    kd_status st = text_column(m, &columns[0], &params, err);
    if (!st) st = value_column(m, err);
    json_t *contract = st ? NULL
                          : json_pack("{s:s, s:s, s:s, s:s, s:I, s:s}", "kind", "negatives", "teacher",
                                      fingerprint(m), "store", root ? root : "", "column",
                                      kd_store_column(m->s, (size_t)m->feature[0])->name, "mine",
                                      (json_int_t)m->p->n, "isa", kd_isa_name(kd_cpu_isa()));
    if (!st && !contract) st = kd_fail(err, KD_ENOMEM, "out of memory");
    columns[1] = m->target.column;
    if (!st) st = kd_store_extend(&m->writer, m->s, m->segment, columns, 2, contract, wp, err);
    json_decref(params);
    json_decref(contract);
    return st;
}

static kd_status open_out(mine *m, kd_err *err)
{
    const size_t n = (size_t)m->p->n;
    m->hits = malloc(m->most * m->depth * sizeof *m->hits);
    m->lengths = malloc((m->most + 1) * sizeof *m->lengths);
    m->value = malloc((m->most * n * m->dims + 1) * sizeof *m->value);
    if (m->hits && m->lengths && m->value) return KD_OK;
    return kd_fail(err, KD_ENOMEM, "%s: no memory for a chunk of negatives", kd_store_path(m->s));
}

static kd_status write_all(mine *m, kd_err *err)
{
    kd_status st = KD_OK;
    for (uint32_t c = kd_store_writer_chunks(m->writer); c < kd_store_chunks(m->s) && !st; c++) {
        if (m->p->stop && *m->p->stop) return kd_fail(err, KD_ESTOPPED, "%s", kd_store_path(m->s));
        st = mine_chunk(m, c, err);
        const kd_chunk_info *info = kd_store_chunk(m->s, c);
        if (!st && m->p->progress) m->p->progress(m->p->arg, info->first + info->rows, kd_store_rows(m->s));
    }
    return st;
}

static kd_status seal(mine *m, kd_err *err)
{
    json_t *extra = json_pack("{s:{s:s, s:s}, s:s}", "teacher", "name", m->p->name, "fingerprint",
                              fingerprint(m), "command", m->p->command ? m->p->command : "");
    kd_status st = extra ? kd_store_writer_seal(m->writer, extra, err)
                         : kd_fail(err, KD_ENOMEM, "%s: out of memory", kd_store_path(m->s));
    if (extra) m->writer = NULL; // seal frees it in every case
    json_decref(extra);
    return st;
}

static void release(mine *m)
{
    kd_store_writer_close(m->writer);
    kd__target_release(&m->target);
    kd__encoder_release(&m->encoder);
    kd_index_free(m->index);
    for (int k = 0; k < 2; k++) kd__tokens_release(&m->tokens[k]);
    kd_cursor_close(m->cursor);
    void *all[] = {m->vectors, m->labels, m->raw,  m->id,  m->list,    m->place, m->token,
                   m->vector,  m->right,  m->hits, m->out, m->lengths, m->value};
    for (size_t i = 0; i < KD_COUNT(all); i++) free(all[i]);
}

kd_status kd_teacher_mine(kd_store *s, const kd_mine_params *p, const kd_writer_params *wp,
                          kd_mine_report *report, kd_err *err)
{
    const kd_writer_params w = wp ? *wp : kd_writer_default_params();
    mine m = {.s = s, .p = p};
    kd_status st;
    *report = (kd_mine_report){0};
    if (p->n < 1 || p->n > KD_MINE_MOST)
        return kd_fail(err, KD_EUSAGE, "%lld negatives a row, expected 1 to %d", (long long)p->n,
                       KD_MINE_MOST);
    const int n = snprintf(m.segment, sizeof m.segment, "%s" SEGMENT, p->name);
    if (n < 0 || n > KD_STORE_SEGMENT_MAX)
        return kd_fail(err, KD_EUSAGE, "the teacher's name %s is too long for a segment of its negatives",
                       p->name);
    if ((st = find_columns(&m, err)) || (st = open_rooms(&m, err)) || (st = collect(&m, err)) ||
        (st = open_out(&m, err)) || (st = begin(&m, &w, err)) || (st = write_all(&m, err)))
        goto out;
    st = seal(&m, err);
out:
    report->candidates = m.n;
    memcpy(report->segment, m.segment, sizeof report->segment);
    release(&m);
    return st;
}
