/* native.c - a model folder as a teacher.
 *
 * The teacher runs in inference mode with batches of one planned size; a smaller batch is filled up
 * with zeros. In inference a row sees only itself, and the kernels of a batch are chosen by its size, so the
 * logits of a row are the same whatever stands beside it and however many threads compute them.
 *
 * What a teacher was trained on must be what the store holds: the shape of a row, the numbers that
 * raw values are centred and scaled by, and the classes in their order. Each of these, when wrong,
 * gives plausible logits of poor quality and no error, so each is compared by name before the pass.
 */
#include "teacher_private.h"

#include "kd/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOKENIZER_MAX (64u << 20)

/* The tokenizer decides what a token model's input means: with another one it is another teacher. A folder
 * may have none that kd reads; then its file is all that is known of it. */
static kd_status identify(kd_teacher *t, kd_err *err)
{
    char *path = kd_path_join(t->folder, "tokenizer.json"), *text = NULL, both[66];
    size_t len;
    kd_status st = KD_OK;
    kd_tokenizer *tokenizer;
    kd_model_fingerprint(t->model, t->fingerprint);
    if (!path || !*t->fingerprint) {
        st = kd_fail(err, KD_ENOMEM, "%s: no memory for its fingerprint", t->folder);
    } else if (kd_exists(path)) {
        if (!(st = kd_file_read(path, TOKENIZER_MAX, &text, &len, err)))
            kd_id_hex(kd_hash128(text, len), t->tokenizer);
    } else if (t->speaks && !kd_is_dir(t->folder) &&
               !(st = kd_tokenizer_open(&tokenizer, t->folder, err))) { // in a GGUF file
        snprintf(t->tokenizer, sizeof t->tokenizer, "%s", kd_tokenizer_hash(tokenizer));
        kd_tokenizer_close(tokenizer);
    }
    if (!st && *t->tokenizer) {
        const int n = snprintf(both, sizeof both, "%s %s", t->fingerprint, t->tokenizer);
        kd_id_hex(kd_hash128(both, (size_t)n), t->fingerprint);
    }
    free(text);
    free(path);
    return st;
}

/* The model's name in the letters that a store's columns may have: a point of a sweep, "a@lr=0.01", is
 * a-lr-0.01. */
static char *column_name(const char *model)
{
    char *name = kd_strdup(model);
    for (char *p = name; p && *p; p++) {
        if (*p >= 'A' && *p <= 'Z') *p += 'a' - 'A';
        if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789_.-", *p)) *p = '-';
    }
    return name;
}

enum { TOKENS = 4096, SPOKEN = 1024 }; /* in a batch, or one text of the model's positions */

/* A language model's head in pieces. */
static kd_status plan_head(kd_teacher *t, kd_err *err)
{
    const size_t width = kd_graph_node_size(t->model->graph, t->body);
    const kd_exec_params p = {.batch = KD__HEAD_ROWS,
                              .threads = t->threads,
                              .precision = t->precision,
                              .fixed = true,
                              .given = &t->body};
    if (!t->hidden && !(t->hidden = kd_alloc_aligned(KD__HEAD_ROWS * width, sizeof *t->hidden)))
        return kd_fail(err, KD_ENOMEM, "%s: no memory for its head", t->folder);
    kd_status st = t->head ? KD_OK : kd_exec_create(&t->head, t->model->graph, &p, err);
    return st ? kd_fail_in(err, st, "%s", t->folder) : KD_OK;
}

kd_status kd__teacher_plan(kd_teacher *t, const kd_node *keep, size_t n, kd_err *err)
{
    const bool reads = kd_model_reads_tokens(t->model);
    kd_node kept[KD_TEACHER_TAPS + 1];
    kd_exec *ex;
    if (n) memcpy(kept, keep, n * sizeof *keep);
    if (t->speaks) kept[n++] = t->body;
    const kd_exec_params p = {.batch = reads ? t->tokens : t->batch,
                              .sequences = reads ? t->batch : 0,
                              .threads = t->threads,
                              .precision = t->precision,
                              .fixed = !t->speaks, // a copy as large as the model, to win a hundredth
                              .keep = kept,
                              .nkeep = (int)n,
                              .kept_only = t->speaks};
    kd_status st = t->speaks ? plan_head(t, err) : KD_OK;
    if (st) return st;
    if ((st = kd_exec_create(&ex, t->model->graph, &p, err))) return kd_fail_in(err, st, "%s", t->folder);
    kd_exec_free(t->exec);
    t->exec = ex;
    return KD_OK;
}

/* What follows from the model. */
static kd_status prepare(kd_teacher *t, int64_t batch, int threads, kd_err *err)
{
    const kd_model *m = t->model;
    t->speaks = !strcmp(m->spec.arch, "llama");
    if (t->speaks) t->body = kd_graph_node_facts(m->graph, m->logits).in[0];
    t->tokens = (int64_t)kd_max_size(t->speaks ? SPOKEN : TOKENS, (size_t)m->spec.positions);
    t->batch = kd_model_reads_tokens(m) && batch > t->tokens ? t->tokens : batch;
    t->threads = threads;
    t->input = kd_graph_node_size(m->graph, m->input);
    t->classes = kd_graph_node_size(m->graph, m->logits);
    if (!(t->name = column_name(m->name)))
        return kd_fail(err, KD_ENOMEM, "%s: no memory for a teacher", t->folder);
    kd_status st = identify(t, err);
    return st ? st : kd__teacher_plan(t, NULL, 0, err);
}

kd_status kd_teacher_open(kd_teacher **out, const char *folder, int64_t batch, int threads, kd_err *err)
{
    *out = NULL;
    kd_teacher *t = calloc(1, sizeof *t);
    if (!t || !(t->folder = kd_strdup(folder))) {
        free(t);
        return kd_fail(err, KD_ENOMEM, "%s: no memory for a teacher", folder);
    }
    kd_status st = batch < 1 ? kd_fail(err, KD_EUSAGE, "%s: a batch of %lld rows, expected 1 or more", folder,
                                       (long long)batch)
                             : kd_model_load(&t->model, folder, err);
    if (!st) st = prepare(t, batch, threads, err);
    if (st) {
        kd_teacher_close(t);
        return st;
    }
    *out = t;
    return KD_OK;
}

void kd_teacher_close(kd_teacher *t)
{
    if (!t) return;
    kd_exec_free(t->exec);
    kd_exec_free(t->head);
    kd_model_free(t->model);
    kd__known_free(t->known);
    free(t->hidden);
    free(t->folder);
    free(t->name);
    free(t);
}

/* The plan that was there goes first: two of them may not fit where one does. */
static kd_status plan_anew(kd_teacher *t, kd_precision p, kd_err *err)
{
    kd_exec_free(t->head);
    kd_exec_free(t->exec);
    t->head = t->exec = NULL;
    t->precision = p;
    t->ntaps = 0;
    return kd__teacher_plan(t, NULL, 0, err);
}

kd_status kd_teacher_set_precision(kd_teacher *t, kd_precision p, kd_err *err)
{
    const kd_precision before = t->precision;
    if (p == before && !t->ntaps) return KD_OK;
    kd__known_free(t->known);
    t->known = NULL;
    kd_err ignored;
    kd_status st = plan_anew(t, p, err);
    if (st) (void)plan_anew(t, before, &ignored);
    return st;
}

const char *kd_teacher_name(const kd_teacher *t) { return t->name; }
const char *kd_teacher_fingerprint(const kd_teacher *t) { return t->fingerprint; }
const char *kd_teacher_tokenizer(const kd_teacher *t) { return t->tokenizer; }
const kd_model *kd_teacher_model(const kd_teacher *t) { return t->model; }

/* ---- does it fit? --------------------------------------------------------------------------- */

static const char *shape_text(char *buf, size_t len, size_t n, const int64_t *dims)
{
    size_t at = 0;
    snprintf(buf, len, "a scalar");
    for (size_t i = 0; i < n && at < len; i++)
        at += (size_t)snprintf(buf + at, len - at, "%s%lld", i ? " x " : "", (long long)dims[i]);
    return buf;
}

static kd_status check_shape(const kd_teacher *t, const kd_store *s, const kd_column *c, kd_err *err)
{
    const kd_ints *want = &t->model->spec.input;
    char a[128], b[128];
    bool same = (size_t)c->ndims == want->n;
    for (size_t i = 0; same && i < want->n; i++) same = c->dims[i] == want->v[i];
    if (same) return KD_OK;
    return kd_fail(err, KD_EMISMATCH, "%s: a row of column %s is %s, the teacher %s takes %s (model.input)",
                   kd_store_path(s), c->name, shape_text(a, sizeof a, (size_t)c->ndims, c->dims), t->folder,
                   shape_text(b, sizeof b, want->n, want->v));
}

/* The store's figure (in double) against the teacher's (rounded to f32 once). */
static kd_status check_number(const kd_teacher *t, const kd_store *s, const kd_column *c, const char *key,
                              float have, kd_err *err)
{
    const json_t *v = json_object_get(c->params, key);
    if (!v) return KD_OK; // packed by a program that does not say
    double want = json_number_value(v);
    if (fabs(want - have) <= 1e-6 * fabs(want)) return KD_OK;
    return kd_fail(
        err, KD_EMISMATCH,
        "%s: column %s has %s %.9g, the teacher %s was trained with %.9g (preprocess.%s in its config.json)",
        kd_store_path(s), c->name, key, want, t->folder, have, key);
}

static kd_status check_classes(const kd_teacher *t, const kd_store *s, kd_err *err)
{
    int at = kd_store_find_role(s, KD_ROLE_LABEL, NULL);
    const kd_column *c = at < 0 ? NULL : kd_store_column(s, (size_t)at);
    const json_t *classes = c ? json_object_get(c->params, "classes") : NULL;
    const json_t *names = c ? json_object_get(c->params, "names") : NULL, *mine = t->model->labels;
    if (classes && json_integer_value(classes) != t->model->spec.classes)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: column %s has %lld classes, the teacher %s has %lld (model.classes)",
                       kd_store_path(s), c->name, (long long)json_integer_value(classes), t->folder,
                       (long long)t->model->spec.classes);
    for (size_t i = 0; i < json_array_size(names) && i < json_array_size(mine); i++) {
        const char *a = json_string_value(json_array_get(names, i)),
                   *b = json_string_value(json_array_get(mine, i));
        if (a && b && strcmp(a, b))
            return kd_fail(err, KD_EMISMATCH,
                           "%s: class %zu is '%.60s', the teacher %s calls it '%.60s' (labels)",
                           kd_store_path(s), i, a, t->folder, b);
    }
    return KD_OK;
}

static kd_status check_tokenizer(const kd_teacher *t, const kd_store *s, const kd_column *c, kd_err *err)
{
    const char *have = json_string_value(json_object_get(c->params, "tokenizer"));
    if (!have || !*t->tokenizer || !strcmp(have, t->tokenizer)) return KD_OK;
    return kd_fail(err, KD_EMISMATCH,
                   "%s: column %s was made with the tokenizer %.64s, the teacher %s has %s (tokenizer.json)",
                   kd_store_path(s), c->name, have, t->folder, t->tokenizer);
}

static kd_status check_texts(const kd_teacher *t, const kd_store *s, kd_err *err)
{
    kd__text text[KD__TEXTS];
    int n;
    kd_status st = kd__teacher_texts(text, &n, t, s, err);
    for (int i = 0; i < n && !st; i++) st = check_tokenizer(t, s, text[i].c, err);
    return st || !t->model->spec.classes ? st : check_classes(t, s, err);
}

kd_status kd_teacher_check(const kd_teacher *t, const kd_store *s, kd_err *err)
{
    kd_status st;
    if (kd_model_reads_tokens(t->model)) return check_texts(t, s, err);
    int at = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    if (at < 0)
        return kd_fail(err, KD_EMISMATCH, "%s: no column with role input; pack the data with kd-dump",
                       kd_store_path(s));
    const kd_column *c = kd_store_column(s, (size_t)at);
    if ((st = check_shape(t, s, c, err))) return st;
    if ((st = check_number(t, s, c, "mean", t->model->mean, err))) return st;
    if ((st = check_number(t, s, c, "scale", t->model->scale, err))) return st;
    if ((st = check_tokenizer(t, s, c, err))) return st;
    return check_classes(t, s, err);
}

/* ---- running ----------------------------------------------------------------------------------- */

/* Rows of an output; that of a model of tokens may have more of them than texts. */
static kd_status take_output(const kd_teacher *t, const float *from, size_t rows, kd__place at, float *out,
                             kd_err *err)
{
    const size_t n = rows * t->classes;
    memcpy(out, from, n * sizeof *out);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(out[i]))
            return kd_fail(err, KD_ENUMERIC,
                           "%s: row %llu, class %zu: the logit is %g; the teacher's weights are broken",
                           t->folder, (unsigned long long)(at.base + (at.first + i / t->classes) / at.per),
                           i % t->classes, out[i]);
    return KD_OK;
}

kd_status kd__teacher_run(kd_teacher *t, const void *raw, kd_dtype dtype, int64_t rows, kd__place at,
                          float *logits, kd_err *err)
{
    if (rows < 1 || rows > t->batch || kd_model_reads_tokens(t->model))
        return kd_fail(err, KD_EUSAGE, "%s: %lld rows at once, planned for 1 to %lld", t->folder,
                       (long long)rows, (long long)t->batch);
    float *x = kd_exec_input(t->exec, t->model->input); // (batch, input)
    kd_status st = kd_model_feed(t->model, x, raw, dtype, (size_t)rows, err);
    if (st) return st;
    memset(x + (size_t)rows * t->input, 0, (size_t)(t->batch - rows) * t->input * sizeof *x);
    kd_exec_run_forward(t->exec);
    return take_output(t, kd_exec_value(t->exec, t->model->logits), (size_t)rows, at, logits, err);
}

kd_status kd__teacher_body(kd_teacher *t, const void *raw, kd_dtype dtype, const uint64_t *offset, int64_t n,
                           kd__place at, kd_err *err)
{
    kd_status st = kd_model_feed_tokens(t->model, t->exec, raw, dtype, offset, n, err);
    if (st)
        return kd_fail_in(err, st, "%s: texts from row %llu on", t->folder,
                          (unsigned long long)(at.base + at.first / at.per));
    kd_exec_run_forward(t->exec);
    return KD_OK;
}

kd_status kd__teacher_head(kd_teacher *t, const uint32_t *row, size_t n, const float **logits, kd_err *err)
{
    uint64_t each[KD__HEAD_ROWS + 1]; // a sequence a token: the head looks at no other
    const size_t width = kd_graph_node_size(t->model->graph, t->body);
    const float *x = kd_exec_value(t->exec, t->body);
    for (size_t i = 0; i <= n; i++) each[i] = i;
    kd_status st = kd_exec_sequences(t->head, each, (int64_t)n, err);
    for (size_t i = 0; i < n && !st; i++)
        memcpy(t->hidden + i * width, x + row[i] * width, width * sizeof *x);
    if (st) return st;
    kd_exec_borrow(t->head, t->body, t->hidden);
    kd_exec_run_forward(t->head);
    *logits = kd_exec_value(t->head, t->model->logits);
    return KD_OK;
}

/* Logits of all tokens. */
static kd_status read_spoken(kd_teacher *t, size_t rows, kd__place at, float *out, kd_err *err)
{
    const float *logits = NULL;
    uint32_t row[KD__HEAD_ROWS];
    kd_status st = KD_OK;
    for (size_t i = 0, n; i < rows && !st; i += n) {
        n = kd_min_size(KD__HEAD_ROWS, rows - i);
        for (size_t k = 0; k < n; k++) row[k] = (uint32_t)(i + k);
        if (!(st = kd__teacher_head(t, row, n, &logits, err)))
            st = take_output(t, logits, n, at, out + i * t->classes, err);
    }
    return st;
}

kd_status kd__teacher_read(kd_teacher *t, const void *raw, kd_dtype dtype, const uint64_t *offset, int64_t n,
                           kd__place at, float *out, kd_err *err)
{
    kd_status st = kd__teacher_body(t, raw, dtype, offset, n, at, err);
    if (st || t->speaks) return st ? st : read_spoken(t, (size_t)offset[n], at, out, err);
    return take_output(t, kd_exec_value(t->exec, t->model->logits),
                       (size_t)kd_exec_rows(t->exec, t->model->logits), at, out, err);
}

kd_status kd_teacher_read(kd_teacher *t, const void *raw, kd_dtype dtype, const uint64_t *offset, int64_t n,
                          float *out, kd_err *err)
{
    return kd__teacher_read(t, raw, dtype, offset, n, (kd__place){.per = 1}, out, err);
}

kd_status kd_teacher_run(kd_teacher *t, const void *raw, kd_dtype dtype, int64_t rows, float *logits,
                         kd_err *err)
{
    return kd__teacher_run(t, raw, dtype, rows, (kd__place){.per = 1}, logits, err);
}
