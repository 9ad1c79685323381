/* check.c - --check: the student and what was exported of it, side by side on the rows of a store.
 *
 * The exported model runs here, by kd's own kernels, with the very numbers that were written: what is
 * measured is what folding and rounding did. */
#include "export_cmd.h"

#include "kd/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 256 };

typedef struct side {
    kd_model *m;
    kd_exec *ex;
    kd_answer *answers; /* (BATCH) */
    uint64_t right;
} side;

typedef struct both {
    side side[2]; /* the student, the export */
    kd_store *s;
    kd_cursor *cursor;
    int input, label;
    int threads;
    unsigned char *rows;
    int32_t *labels;
    export_check *result;
} both;

static kd_status find_columns(both *b, const kd_model *m, kd_err *err)
{
    const char *path = kd_store_path(b->s);
    b->input = kd_store_find_role(b->s, KD_ROLE_INPUT, NULL);
    b->label = kd_store_find_role(b->s, KD_ROLE_LABEL, NULL);
    if (b->input < 0 || b->label < 0)
        return kd_fail(err, KD_EMISMATCH, "%s: no columns with roles input and label", path);
    const kd_column *x = kd_store_column(b->s, (size_t)b->input),
                    *y = kd_store_column(b->s, (size_t)b->label);
    const size_t have = kd_column_width(x) * kd_column_each(x), want = kd_graph_node_size(m->graph, m->input);
    if (have != want)
        return kd_fail(err, KD_EMISMATCH, "%s: a row of column %s has %zu numbers, the student %s takes %zu",
                       path, x->name, have, m->name, want);
    if (y->dtype != KD_I32 || y->ndims)
        return kd_fail(err, KD_EMISMATCH, "%s: column %s is not one i32 a row", path, y->name);
    if (!kd_store_split_rows(b->s, KD_TEST))
        return kd_fail(err, KD_EMISMATCH, "%s: the test split is empty", path);
    return KD_OK;
}

static kd_status open_side(both *b, side *s, int64_t batch, kd_err *err)
{
    const kd_exec_params p = {.batch = batch, .threads = b->threads};
    s->answers = calloc(BATCH, sizeof *s->answers);
    if (!s->answers) return kd_fail(err, KD_ENOMEM, "no memory for the answers of %d rows", BATCH);
    return kd_exec_create(&s->ex, s->m->graph, &p, err);
}

/* n rows from the window of a chunk. */
static kd_status compare(both *b, const unsigned char *rows, const int32_t *labels, uint64_t n, kd_err *err)
{
    const kd_column *x = kd_store_column(b->s, (size_t)b->input);
    const float *z[2];
    kd_status st = KD_OK;
    size_t classes = 0;
    for (int i = 0; i < 2 && !st; i++) {
        side *s = &b->side[i];
        classes = kd_graph_node_size(s->m->graph, s->m->logits);
        st = kd_model_feed(s->m, kd_exec_input(s->ex, s->m->input), rows, x->dtype, n, err);
        if (!st) kd_exec_run_forward(s->ex);
        z[i] = kd_exec_value(s->ex, s->m->logits);
        if (!st) st = kd_answers(s->answers, z[i], labels, NULL, n, (int64_t)classes, b->threads, err);
    }
    for (uint64_t r = 0; r < n && !st; r++) {
        b->result->same += b->side[0].answers[r].top == b->side[1].answers[r].top;
        for (int i = 0; i < 2; i++) b->side[i].right += b->side[i].answers[r].rank == 0;
    }
    for (size_t i = 0; i < n * classes && !st; i++)
        b->result->largest = fmax(b->result->largest, fabs((double)z[0][i] - (double)z[1][i]));
    return st;
}

static kd_status walk(both *b, kd_err *err)
{
    const kd_column *x = kd_store_column(b->s, (size_t)b->input);
    const size_t bytes = kd_column_width(x) * kd_column_each(x) * kd_dtype_size(x->dtype);
    uint64_t longest = 1;
    for (uint32_t c = 0; c < kd_store_chunks(b->s); c++)
        if (kd_store_chunk(b->s, c)->rows > longest) longest = kd_store_chunk(b->s, c)->rows;
    b->rows = kd_alloc_aligned(longest, bytes);
    b->labels = kd_alloc_aligned(longest, sizeof *b->labels);
    if (!b->rows || !b->labels)
        return kd_fail(err, KD_ENOMEM, "no memory for %llu rows", (unsigned long long)longest);
    kd_status st = kd_cursor_open(&b->cursor, b->s, err);
    for (uint32_t c = 0; c < kd_store_chunks(b->s) && !st; c++) {
        const kd_chunk_info *ci = kd_store_chunk(b->s, c);
        if (ci->split != KD_TEST) continue;
        st = kd_cursor_read(b->cursor, b->input, c, b->rows, ci->rows * bytes, err);
        if (!st) st = kd_cursor_read(b->cursor, b->label, c, b->labels, ci->rows * sizeof *b->labels, err);
        for (uint64_t r = 0; r < ci->rows && !st; r += BATCH)
            st = compare(b, b->rows + r * bytes, b->labels + r, kd_min_size(BATCH, ci->rows - r), err);
        b->result->rows += ci->rows;
    }
    return st;
}

/* ---- language models ----------------------------------------------------------------------------- */

enum { TOKENS = 64 }; /* of a text that are compared: both models' logits of all of them are there */

/* The first tokens of a text, which the next one is known of. */
static kd_status compare_text(both *b, const void *tokens, kd_dtype dtype, uint64_t n, double sum[2],
                              kd_err *err)
{
    const uint64_t offset[] = {0, kd_min_size(n, TOKENS + 1) - 1};
    const float *z[2];
    const size_t vocab = (size_t)b->side[0].m->spec.vocab;
    kd_status st = KD_OK;
    if (n < 2) return KD_OK;
    for (uint64_t i = 0; i < offset[1]; i++)
        b->labels[i] = dtype == KD_U16 ? ((const uint16_t *)tokens)[i + 1] : ((const int32_t *)tokens)[i + 1];
    for (int i = 0; i < 2 && !st; i++) {
        side *s = &b->side[i];
        if ((st = kd_model_feed_tokens(s->m, s->ex, tokens, dtype, offset, 1, err))) break;
        kd_exec_run_forward(s->ex);
        z[i] = kd_exec_value(s->ex, s->m->logits);
        st = kd_answers(s->answers, z[i], b->labels, NULL, offset[1], (int64_t)vocab, b->threads, err);
        for (uint64_t k = 0; k < offset[1] && !st; k++) sum[i] += s->answers[k].loss;
    }
    for (uint64_t k = 0; k < offset[1] && !st; k++)
        b->result->same += b->side[0].answers[k].top == b->side[1].answers[k].top;
    for (size_t k = 0; k < offset[1] * vocab && !st; k++)
        b->result->largest = fmax(b->result->largest, fabs((double)z[0][k] - (double)z[1][k]));
    b->result->rows += offset[1];
    return st;
}

static kd_status walk_texts(both *b, kd_err *err)
{
    const kd_dtype dtype = kd_store_column(b->s, (size_t)b->input)->dtype;
    double sum[2] = {0};
    kd_status st = kd_cursor_open(&b->cursor, b->s, err);
    b->labels = kd_alloc_aligned(TOKENS, sizeof *b->labels);
    if (!st && !b->labels) st = kd_fail(err, KD_ENOMEM, "out of memory");
    for (uint32_t c = 0; c < kd_store_chunks(b->s) && !st; c++) {
        const kd_chunk_info *ci = kd_store_chunk(b->s, c);
        size_t size;
        if (ci->split != KD_TEST || (st = kd_cursor_size(b->cursor, b->input, c, &size, err))) continue;
        uint32_t *block = malloc(size);
        st = block ? kd_cursor_read(b->cursor, b->input, c, block, size, err)
                   : kd_fail(err, KD_ENOMEM, "out of memory");
        const unsigned char *tokens = (const unsigned char *)(block + ci->rows);
        for (uint32_t r = 0; r < ci->rows && !st; tokens += block[r++] * kd_dtype_size(dtype))
            st = compare_text(b, tokens, dtype, block[r], sum, err);
        free(block);
    }
    if (!st && !b->result->rows)
        st = kd_fail(err, KD_EMISMATCH, "%s: the test split has no text of two tokens", kd_store_path(b->s));
    b->result->before = st ? 0 : exp(sum[0] / (double)b->result->rows);
    b->result->after = st ? 0 : exp(sum[1] / (double)b->result->rows);
    return st;
}

/* ---- both ---------------------------------------------------------------------------------------- */

static kd_status find_texts(both *b, kd_err *err)
{
    b->input = kd_store_find_role(b->s, KD_ROLE_INPUT, NULL);
    return kd_language_store(b->s)
               ? KD_OK
               : kd_fail(err, KD_EMISMATCH, "%s: no texts for language models: ragged tokens and no labels",
                         kd_store_path(b->s));
}

kd_status export_compare(const kd_cli *c, const char *store, const char *folder, kd_model *exported,
                         export_check *r, kd_err *err)
{
    both b = {.side = {[1] = {.m = exported}}, .threads = (int)c->common.threads, .result = r};
    *r = (export_check){0};
    kd_status st = kd_store_open(&b.s, store, err);
    if (!st) st = kd_model_load(&b.side[0].m, folder, err);
    const bool texts = kd_model_reads_tokens(exported);
    if (!st) st = texts ? find_texts(&b, err) : find_columns(&b, exported, err);
    for (int i = 0; i < 2 && !st; i++) st = open_side(&b, &b.side[i], texts ? TOKENS : BATCH, err);
    if (!st) st = texts ? walk_texts(&b, err) : walk(&b, err);
    if (!st && !texts) {
        r->before = (double)b.side[0].right / (double)r->rows;
        r->after = (double)b.side[1].right / (double)r->rows;
    }
    for (int i = 0; i < 2; i++) {
        kd_exec_free(b.side[i].ex);
        free(b.side[i].answers);
    }
    kd_model_free(b.side[0].m);
    kd_cursor_close(b.cursor);
    kd_store_close(b.s);
    free(b.rows);
    free(b.labels);
    return st;
}
