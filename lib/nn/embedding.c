/* embedding.c - a row of a table for each token; in models of BERT's kind the rows of three tables, added: of
 * its id, of its place in the sequence, and of type 0.
 *
 * A batch touches a few thousand of the tens of thousands of words. Backward sorts its tokens by id; all
 * tokens of a word are added up by one thread, in the order of the batch. Of the table's gradient only those
 * rows are written, and those that the batch before had left are cleared: what backward costs follows from
 * the batch, not from the vocabulary. (The optimizer still visits every row: a word's moments decay and its
 * weights move while it is away, exactly as with a dense gradient.)
 */
#include "nn_private.h"

#include <stdlib.h>
#include <string.h>

enum { WORDS, PLACES, TYPES, COLUMNS = 64 };

typedef struct embedding {
    uint64_t *sorted; /* (tokens) id << 32 | token, ascending: of the last backward */
    size_t tokens;
} embedding;

kd_node kd_nn_embedding(kd_graph *g, const char *name, kd_node tokens, int64_t vocab, int64_t positions,
                        int64_t types, int64_t width)
{
    const kd__attrs a = {.dims = {vocab, positions, types}, .out = width};
    return kd__graph_add(g, &kd__op_embedding, name, 1, &tokens, &a);
}

static kd_status shape(kd_graph *g, kd__node_info *n, kd_err *err)
{
    static const char *const suffix[] = {"word_embeddings.weight", "position_embeddings.weight",
                                         "token_type_embeddings.weight"};
    const kd__attrs *a = &n->a;
    const bool all = a->dims[PLACES] > 0;
    if (kd__graph_in(g, n, 0)->op != &kd__op_tokens)
        return kd_fail(err, KD_EUSAGE, "layer %s: its input %s is not tokens", n->name,
                       kd__graph_in(g, n, 0)->name);
    if (a->dims[WORDS] < 1 || a->dims[WORDS] > INT32_MAX || a->dims[PLACES] < 0 || a->out < 1 ||
        (a->dims[TYPES] > 0) != all)
        return kd_fail(
            err, KD_EUSAGE,
            "layer %s: a vocabulary of %lld, %lld positions, %lld types, %lld wide; expected at least 1 "
            "of each, or no positions and types",
            n->name, (long long)a->dims[WORDS], (long long)a->dims[PLACES], (long long)a->dims[TYPES],
            (long long)a->out);
    n->ndims = 1;
    n->dims[0] = a->out;
    if (all && (!g->positions || a->dims[PLACES] < g->positions)) g->positions = a->dims[PLACES];
    kd_status st = KD_OK;
    for (int i = 0; i < (all ? 3 : 1) && !st; i++)
        st = kd__graph_param(g, n, all ? suffix[i] : "weight", 2, (int64_t[]){a->dims[i], a->out}, false,
                             true, err);
    return st;
}

static void release(kd__state *s)
{
    embedding *e = s->own;
    if (e) free(e->sorted);
    free(e);
    s->own = NULL;
}

static kd_status plan(kd_exec *ex, kd__state *s, kd_err *err)
{
    if (!ex->p.training) return KD_OK;
    embedding *e = s->own = calloc(1, sizeof *e);
    if (e) e->sorted = calloc((size_t)ex->p.batch, sizeof *e->sorted);
    if (!e || !e->sorted) return kd_fail(err, KD_ENOMEM, "layer %s: out of memory", s->n->name);
    ex->extra_bytes += (size_t)ex->p.batch * sizeof *e->sorted;
    return KD_OK;
}

static const int32_t *ids_of(const kd__state *s) { return (const int32_t *)s->x[0]; }

static void forward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size;
    const kd__vec *v = kd__vec_get();
#pragma omp for schedule(dynamic, 4)
    for (int64_t i = 0; i < ex->sequences; i++)
        for (uint64_t t = ex->offset[i]; t < ex->offset[i + 1]; t++) {
            float *y = s->y + t * c;
            const float *word = s->w[WORDS] + (size_t)ids_of(s)[t] * c;
            if (s->n->nparam == 1) {
                memcpy(y, word, c * sizeof *y);
                continue;
            }
            v->add(y, word, s->w[PLACES] + (t - ex->offset[i]) * c, c, false);
            v->add_to(y, s->w[TYPES], c);
        }
}

static int ascending(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static size_t word(uint64_t entry) { return (size_t)(entry >> 32); }

/* By one thread: clears what the last backward left and sorts this batch. */
static void prepare(const kd_exec *ex, kd__state *s)
{
    embedding *e = s->own;
    const size_t c = s->n->size, n = kd__node_rows(ex, s->n);
    for (size_t i = 0; i < e->tokens && !s->n->a.tied; i++) // a tied layer has written all of it
        if (!i || word(e->sorted[i]) != word(e->sorted[i - 1]))
            memset(s->dw[WORDS] + word(e->sorted[i]) * c, 0, c * sizeof(float));
    for (size_t i = 0; i < n; i++) e->sorted[i] = (uint64_t)ids_of(s)[i] << 32 | i;
    qsort(e->sorted, n, sizeof *e->sorted, ascending);
    e->tokens = n;
}

/* Positions from the longest sequence on have no gradient. */
static void position_gradient(const kd_exec *ex, kd__state *s, int64_t place)
{
    const size_t c = s->n->size;
    float *sum = s->dw[PLACES] + (size_t)place * c;
    memset(sum, 0, c * sizeof *sum);
    for (int64_t i = 0; i < ex->sequences; i++)
        if (ex->offset[i] + (uint64_t)place < ex->offset[i + 1])
            kd__vec_get()->add_to(sum, s->dy + (ex->offset[i] + (uint64_t)place) * c, c);
}

static void backward(kd_exec *ex, kd__state *s)
{
    const embedding *e = s->own;
    const size_t c = s->n->size, n = kd__node_rows(ex, s->n);
#pragma omp single
    prepare(ex, s);
#pragma omp for schedule(dynamic, 64) nowait
    for (size_t i = 0; i < n; i++) {
        if (i && word(e->sorted[i]) == word(e->sorted[i - 1])) continue;
        for (size_t k = i; k < n && word(e->sorted[k]) == word(e->sorted[i]); k++)
            kd__vec_get()->add_to(s->dw[WORDS] + word(e->sorted[i]) * c, s->dy + (uint32_t)e->sorted[k] * c,
                                  c);
    }
    if (s->n->nparam > 1) {
#pragma omp for schedule(dynamic, 16) nowait
        for (int64_t p = 0; p < s->n->a.dims[PLACES]; p++) position_gradient(ex, s, p);
#pragma omp for schedule(static) nowait
        for (size_t b = 0; b < c; b += COLUMNS)
            kd__vec_get()->col_sum(s->dw[TYPES] + b, s->dy + b, n, kd_min_size(COLUMNS, c - b), c);
    }
#pragma omp barrier
}

/* The head has written all of a tied table. */
static bool adds(const kd__node_info *n) { return n->a.tied && n->nparam == 1; }

/* ---- the twins in plain C ----------------------------------------------------------------- */

static void naive_forward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size;
    for (int64_t i = 0; i < ex->sequences; i++)
        for (uint64_t t = ex->offset[i]; t < ex->offset[i + 1]; t++)
            for (size_t j = 0; j < c; j++) {
                s->y[t * c + j] = s->w[WORDS][(size_t)ids_of(s)[t] * c + j];
                if (s->n->nparam > 1)
                    s->y[t * c + j] += s->w[PLACES][(t - ex->offset[i]) * c + j] + s->w[TYPES][j];
            }
}

static void naive_backward(kd_exec *ex, kd__state *s)
{
    const size_t c = s->n->size;
    for (int k = s->n->a.tied ? 1 : 0; k < s->n->nparam; k++)
        memset(s->dw[k], 0, (size_t)s->n->a.dims[k] * c * sizeof(float));
    for (int64_t i = 0; i < ex->sequences; i++)
        for (uint64_t t = ex->offset[i]; t < ex->offset[i + 1]; t++)
            for (size_t j = 0; j < c; j++) {
                const size_t row[] = {(size_t)ids_of(s)[t], (size_t)(t - ex->offset[i]), 0};
                for (int k = 0; k < s->n->nparam; k++) s->dw[k][row[k] * c + j] += s->dy[t * c + j];
            }
}

const kd__op kd__op_embedding = {
    .name = "embedding",
    .nin = 1,
    .shape = shape,
    .plan = plan,
    .forward = forward,
    .backward = backward,
    .naive_forward = naive_forward,
    .naive_backward = naive_backward,
    .release = release,
    .adds = adds,
    .packed = true,
    .backward_reads_x = true,
};
