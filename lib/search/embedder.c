/* embedder.c - texts become vectors.
 *
 * How long a text may be: what sentence_bert_config.json says, as sentence-transformers goes by it, whatever
 * tokenizer.json has; without that file what tokenizer.json says; never more than the model has places for.
 *
 * Texts are sorted by their number of tokens, so that a call's are alike in length and its parts end
 * together; no padding is computed anyway. A text's vector does not depend on what else is in the call.
 */
#include "kd/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 4096, TEXTS = 512 }; /* of a call */

struct kd_embedder {
    kd_model *model;
    kd_tokenizer *tokenizer;
    kd_exec *exec;
    size_t dims, longest; /* tokens of a text at most */
    int64_t tokens;       /* of a call at most */
    int threads;
};

/* *most: as the folder has it. */
static kd_status find_longest(const kd_embedder *e, const char *folder, size_t *most, kd_err *err)
{
    json_t *file = NULL;
    char *path = kd_path_join(folder, "sentence_bert_config.json");
    kd_status st = path ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    *most = kd_tokenizer_max_tokens(e->tokenizer);
    if (!st && kd_exists(path) && !(st = kd_json_load(path, 1 << 20, &file, err))) {
        const json_t *n = json_object_get(file, "max_seq_length");
        if (n && !json_is_null(n) && !(json_is_integer(n) && json_integer_value(n) > 0))
            st = kd_fail(err, KD_ECORRUPT, "%s: max_seq_length is no whole number above 0", path);
        else if (json_is_integer(n))
            *most = (size_t)json_integer_value(n);
    }
    json_decref(file);
    free(path);
    return st;
}

static kd_status open_exec(kd_embedder *e, const char *folder, kd_err *err)
{
    const kd_model *m = e->model;
    if (!kd_model_reads_tokens(m) || kd_graph_node_per(m->graph, m->logits) != KD_PER_SEQUENCE)
        return kd_fail(err, KD_EUNSUPPORTED, "%s: this model (%s) gives no vector for a text", folder,
                       m->spec.arch);
    if (m->spec.vocab < (int64_t)kd_tokenizer_size(e->tokenizer))
        return kd_fail(err, KD_EMISMATCH, "%s: its tokenizer has %u tokens, its model %lld", folder,
                       kd_tokenizer_size(e->tokenizer), (long long)m->spec.vocab);
    size_t asked;
    const size_t most = (size_t)m->spec.positions;
    kd_status st = find_longest(e, folder, &asked, err);
    if (st) return st;
    e->longest = asked && asked < most ? asked : most;
    e->dims = kd_graph_node_size(m->graph, m->logits);
    e->tokens = (int64_t)kd_max_size(TOKENS, e->longest);
    const kd_exec_params p = {.batch = e->tokens, .sequences = TEXTS, .threads = e->threads};
    return kd_exec_create(&e->exec, m->graph, &p, err);
}

kd_status kd_embedder_open(kd_embedder **out, const char *folder, int threads, kd_err *err)
{
    kd_embedder *e = calloc(1, sizeof(*e));
    kd_status st;
    *out = NULL;
    if (!e) return kd_fail(err, KD_ENOMEM, "out of memory");
    e->threads = threads;
    if ((st = kd_model_load(&e->model, folder, err)) ||
        (st = kd_tokenizer_open(&e->tokenizer, folder, err)) || (st = open_exec(e, folder, err))) {
        kd_embedder_close(e);
        return st;
    }
    *out = e;
    return KD_OK;
}

void kd_embedder_close(kd_embedder *e)
{
    if (!e) return;
    kd_exec_free(e->exec);
    kd_tokenizer_close(e->tokenizer);
    kd_model_free(e->model);
    free(e);
}

size_t kd_embedder_dims(const kd_embedder *e) { return e->dims; }
const kd_model *kd_embedder_model(const kd_embedder *e) { return e->model; }

/* ---- calls --------------------------------------------------------------------------------- */

typedef struct place {
    uint64_t length, at; /* tokens; which text */
} place;

static int longer(const void *a, const void *b)
{
    const place *x = a, *y = b;
    return x->length != y->length ? (x->length < y->length ? 1 : -1) : (x->at > y->at) - (x->at < y->at);
}

static void scale(float *v, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)v[i] * v[i];
    for (size_t i = 0; i < n && sum > 0; i++) v[i] = (float)(v[i] / sqrt(sum));
}

/* One call: the n texts at p. */
static kd_status call(kd_embedder *e, const kd_token_rows *rows, const place *p, size_t n, int32_t *token,
                      bool unit, float *out, kd_err *err)
{
    uint64_t offset[TEXTS + 1] = {0};
    for (size_t i = 0; i < n; i++) {
        const uint32_t *id = rows->id + rows->offset[p[i].at];
        for (uint64_t k = 0; k < p[i].length; k++) token[offset[i] + k] = (int32_t)id[k];
        offset[i + 1] = offset[i] + p[i].length;
    }
    kd_status st = kd_model_feed_tokens(e->model, e->exec, token, KD_I32, offset, (int64_t)n, err);
    if (st) return st;
    kd_exec_run_forward(e->exec);
    const float *value = kd_exec_value(e->exec, e->model->logits);
    for (size_t i = 0; i < n; i++) {
        float *to = out + p[i].at * e->dims;
        memcpy(to, value + i * e->dims, e->dims * sizeof(float));
        if (unit) scale(to, e->dims);
    }
    return KD_OK;
}

kd_status kd_embed(kd_embedder *e, const kd_text *texts, size_t n, bool unit, float *out,
                   void (*progress)(void *arg, uint64_t done), void *arg, kd_err *err)
{
    kd_token_rows rows = {0};
    const kd_encode_params p = {.max_tokens = e->longest, .special = true};
    kd_status st = kd_encode_rows(&rows, e->tokenizer, texts, n, &p, e->threads, err);
    place *order = malloc((n + 1) * sizeof(*order));
    int32_t *token = malloc((size_t)e->tokens * sizeof(*token));
    if (!st && (!order || !token)) st = kd_fail(err, KD_ENOMEM, "no memory for %zu texts", n);
    for (size_t i = 0; i < n && !st; i++) order[i] = (place){rows.offset[i + 1] - rows.offset[i], i};
    if (!st) qsort(order, n, sizeof(*order), longer);
    for (size_t first = 0, next; first < n && !st; first = next) {
        uint64_t tokens = 0;
        for (next = first;
             next < n && next - first < TEXTS && tokens + order[next].length <= (uint64_t)e->tokens;)
            tokens += order[next++].length;
        st = call(e, &rows, order + first, next - first, token, unit, out, err);
        if (!st && progress) progress(arg, next);
    }
    kd_token_rows_release(&rows);
    free(order);
    free(token);
    return st;
}
