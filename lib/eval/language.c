/* lib/eval/language.c - language models over the texts of a split, one position at a time.
 *
 * A position is a token that is to be predicted: each but the first of a row, or those that the store's mask
 * marks. What is compared there are distributions over the whole vocabulary, and an array of them (positions
 * x vocabulary) is never there: all models read the same batch of texts, and then their heads go over a few
 * positions at a time. What stays of a position is an answer of 32 bytes a model (answers.c).
 *
 * The teacher is run beside them where its folder is given, or its cached logits are read. Dense ones give
 * the same measures. Sparse ones do not: a column that keeps the largest classes gives a bound of KL from
 * below (the classes that it lacks count as one: joining classes never raises KL), one that is right on
 * average gives the mean cross-entropy to the teacher, which is KL and the teacher's entropy, of which it
 * knows nothing.
 */
#include "eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 1024, PIECE = 64 };
#define DENSE_BYTES ((size_t)1 << 30) /* of a chunk's logits */

/* ---- a model in two parts ----------------------------------------------------------------------- */

typedef struct speaker {
    kd_model *m;
    kd_exec *body, *head;
    kd_node before; /* what the head reads */
    float *hidden;  /* (PIECE, width) */
    double seconds;
} speaker;

static void speaker_release(speaker *s)
{
    kd_exec_free(s->body);
    kd_exec_free(s->head);
    kd_model_free(s->m);
    free(s->hidden);
}

static kd_status speaker_open(speaker *s, const char *folder, int threads, kd_err *err)
{
    kd_status st = kd_model_load(&s->m, folder, err);
    if (st) return st;
    if (strcmp(s->m->spec.arch, "llama"))
        return kd_fail(err, KD_EMISMATCH, "%s: is a %s, and the store holds texts for language models",
                       folder, s->m->spec.arch);
    s->before = kd_graph_node_facts(s->m->graph, s->m->logits).in[0];
    const int64_t tokens = TOKENS > s->m->spec.positions ? TOKENS : s->m->spec.positions;
    const kd_exec_params body = {.batch = tokens,
                                 .threads = threads,
                                 .fixed = true,
                                 .keep = &s->before,
                                 .nkeep = 1,
                                 .kept_only = true},
                         head = {.batch = PIECE, .threads = threads, .fixed = true, .given = &s->before};
    s->hidden = kd_alloc_aligned(PIECE * kd_graph_node_size(s->m->graph, s->before), sizeof *s->hidden);
    if (!s->hidden) return kd_fail(err, KD_ENOMEM, "%s: out of memory", folder);
    st = kd_exec_create(&s->body, s->m->graph, &body, err);
    return st ? st : kd_exec_create(&s->head, s->m->graph, &head, err);
}

/* Logits (n, vocabulary) behind tokens at[] of the batch, borrowed until the next call. */
static kd_status speaker_say(speaker *s, const uint32_t *at, size_t n, const float **logits, kd_err *err)
{
    uint64_t each[PIECE + 1]; // a sequence a token: the head looks at no other
    const size_t width = kd_graph_node_size(s->m->graph, s->before);
    const float *x = kd_exec_value(s->body, s->before);
    const double start = kd_now();
    for (size_t i = 0; i <= n; i++) each[i] = i;
    for (size_t i = 0; i < n; i++) memcpy(s->hidden + i * width, x + at[i] * width, width * sizeof *x);
    kd_status st = kd_exec_sequences(s->head, each, (int64_t)n, err);
    if (st) return st;
    kd_exec_borrow(s->head, s->before, s->hidden);
    kd_exec_run_forward(s->head);
    *logits = kd_exec_value(s->head, s->m->logits);
    s->seconds += kd_now() - start;
    return KD_OK;
}

/* ---- the texts ---------------------------------------------------------------------------------- */

typedef struct pass {
    kd_language *l;
    kd_store *s;
    const kd_language_params *p;
    kd_runs *runs;
    speaker teacher, *student;
    kd_cursor *cursor;
    int tokens, mask, logits; /* columns */
    int64_t vocab;
    kd_buf raw, marks; /* blocks of a chunk */
    kd_sparse sparse;
    float *dense; /* of a chunk, NULL: not dense */
    kd__reference ref;
    uint64_t done, chunk_at; /* positions before this piece, before this chunk */
    uint64_t rows_done;
} pass;

/* A ragged column's chunk: (rows) lengths, values behind them. */
static kd_status read_ragged(pass *x, int column, uint32_t chunk, kd_buf *b, kd_err *err)
{
    size_t size;
    kd_status st = kd_cursor_size(x->cursor, column, chunk, &size, err);
    if (st) return st;
    if (b->len < size) {
        free(b->text);
        *b = (kd_buf){.text = malloc(size), .len = size};
        if (!b->text) return kd_fail(err, KD_ENOMEM, "no memory for a chunk of texts");
    }
    return kd_cursor_read(x->cursor, column, chunk, b->text, size, err);
}

static kd_status read_teacher(pass *x, uint32_t chunk, size_t positions, kd_err *err)
{
    const kd_column *c = x->logits < 0 ? NULL : kd_store_column(x->s, (size_t)x->logits);
    size_t have = positions, bytes;
    if (!c || x->teacher.m) return KD_OK;
    kd_status st = kd_cursor_lengths(x->cursor, x->logits, chunk, NULL, &have, err);
    if (!st && have != positions)
        st = kd_fail(err, KD_EMISMATCH,
                     "%s: chunk %u of column %s has %zu positions, its texts have %zu to predict",
                     kd_store_path(x->s), chunk, c->name, have, positions);
    if (st || x->l->sparse)
        return st ? st : kd_cursor_read_sparse(x->cursor, x->logits, chunk, &x->sparse, err);
    if (!kd_mul_size(positions + 1, (size_t)x->vocab * sizeof(float), &bytes) || bytes > DENSE_BYTES)
        return kd_fail(
            err, KD_ELIMIT,
            "%s: a chunk of column %s has more than 1 GiB of logits; run the teacher: --teacher MODEL",
            kd_store_path(x->s), c->name);
    free(x->dense);
    if (!(x->dense = malloc(bytes))) return kd_fail(err, KD_ENOMEM, "no memory for a chunk of logits");
    return kd_cursor_read_f32(x->cursor, x->logits, chunk, x->dense, positions, err);
}

/* ---- a piece of positions ------------------------------------------------------------------------ */

/* What a sparse position says of a student: log q of a class is z - lse. */
static void add_sparse(const pass *x, kd_language_run *r, uint64_t position, const float *z, double lse,
                       bool head)
{
    const uint64_t local = position - x->chunk_at;
    double cross = 0, bound = 0, left_p = 1, left_q = 1;
    uint32_t top = UINT32_MAX;
    float most = -INFINITY;
    for (uint64_t k = x->sparse.offset[local]; k < x->sparse.offset[local + 1]; k++) {
        const double v = (double)x->sparse.value[k], logq = (double)z[x->sparse.id[k]] - lse;
        const double p = head ? exp(v) : v;
        cross -= p * logq;
        if (!x->sparse.exact[k] || !(p > 0)) continue;
        bound += p * (log(p) - logq);
        left_p -= p, left_q -= exp(logq);
        if (x->sparse.value[k] > most) most = x->sparse.value[k], top = x->sparse.id[k];
    }
    if (left_p > 1e-6) bound += left_p * log(left_p / fmax(left_q, 1e-12));
    r->cross += cross;
    if (top == UINT32_MAX) return;
    r->bound += fmax(0, bound);
    r->headed++;
    r->same += (int32_t)top == r->run->answers[position].top;
}

static kd_status broken(const char *who, uint64_t position, kd_err *err)
{
    return kd_fail(err, KD_ENUMERIC, "%s: position %llu: its logits are not finite", who,
                   (unsigned long long)position);
}

/* n positions, behind tokens at[] of the batch. */
static kd_status judge_piece(pass *x, const uint32_t *at, size_t n, kd_err *err)
{
    const int32_t *labels = x->l->labels + x->done;
    const float *z = x->dense ? x->dense + (x->done - x->chunk_at) * (uint64_t)x->vocab : NULL;
    const int threads = x->p->threads;
    const unsigned serves =
        x->l->sparse ? kd_codec_find(kd_store_column(x->s, (size_t)x->logits)->encoding)->serves : 0;
    kd_status st = x->teacher.m ? speaker_say(&x->teacher, at, n, &z, err) : KD_OK;
    if (!st && z) {
        kd__reference_fill(&x->ref, z, n, x->vocab, threads);
        const uint64_t bad = kd__answers(x->l->teacher + x->done, z, labels, NULL, n, x->vocab, threads);
        if (bad < n) return broken("the teacher", x->done + bad, err);
    }
    for (size_t i = 0; i < x->runs->n && !st; i++) {
        kd_language_run *r = &x->l->run[i];
        const float *own;
        if ((st = speaker_say(&x->student[i], at, n, &own, err))) break;
        kd_answer *a = r->run->answers + x->done;
        const uint64_t bad = kd__answers(a, own, labels, z ? &x->ref : NULL, n, x->vocab, threads);
        if (bad < n) return broken(r->run->folder, x->done + bad, err);
        for (size_t k = 0; k < n && x->l->sparse; k++) {
            const float *row = own + k * (size_t)x->vocab;
            add_sparse(x, r, x->done + k, row, a[k].loss + (double)row[labels[k]],
                       serves & KD_SERVES_HEAD && !(serves & KD_SERVES_EXPECTED));
        }
    }
    x->done += n;
    return st;
}

/* Rows of a chunk that fit into a batch: all bodies, then the heads piece by piece. */
static kd_status judge_batch(pass *x, const void *values, const uint8_t *mask, const uint64_t *offset,
                             int64_t rows, kd_err *err)
{
    const kd_dtype dtype = kd_store_column(x->s, (size_t)x->tokens)->dtype;
    uint32_t at[PIECE];
    size_t n = 0;
    kd_status st = KD_OK;
    for (size_t i = 0; i <= x->runs->n && !st; i++) {
        speaker *s = i < x->runs->n ? &x->student[i] : &x->teacher;
        const double start = kd_now();
        if (!s->m) continue;
        if (!(st = kd_model_feed_tokens(s->m, s->body, values, dtype, offset, rows, err)))
            kd_exec_run_forward(s->body);
        s->seconds += kd_now() - start;
    }
    for (int64_t i = 0; i < rows && !st; i++)
        for (uint64_t k = offset[i] + 1; k < offset[i + 1] && !st; k++) {
            if (mask && !mask[k]) continue;
            x->l->labels[x->done + n] =
                dtype == KD_U16 ? ((const uint16_t *)values)[k] : ((const int32_t *)values)[k];
            at[n++] = (uint32_t)(k - 1);
            if (n == PIECE) st = judge_piece(x, at, n, err), n = 0;
        }
    return st || !n ? st : judge_piece(x, at, n, err);
}

static size_t positions_of(const uint32_t *lengths, uint32_t rows, const uint8_t *mask)
{
    size_t n = 0, at = 0;
    for (uint32_t r = 0; r < rows; at += lengths[r++])
        for (uint32_t k = 1; k < lengths[r]; k++) n += !mask || mask[at + k];
    return n;
}

static kd_status grow(pass *x, size_t more, kd_err *err)
{
    const size_t n = (size_t)x->done + more + 1;
    void *labels = realloc(x->l->labels, n * sizeof *x->l->labels);
    if (labels) x->l->labels = labels;
    bool failed = !labels;
    for (size_t i = 0; i < x->runs->n && !failed; i++) {
        void *a = realloc(x->runs->v[i].answers, n * sizeof(kd_answer));
        if (a) x->runs->v[i].answers = a;
        failed = !a;
    }
    if (!failed && (x->teacher.m || (x->logits >= 0 && !x->l->sparse))) {
        void *a = realloc(x->l->teacher, n * sizeof(kd_answer));
        if (a) x->l->teacher = a;
        failed = !a;
    }
    return failed ? kd_fail(err, KD_ENOMEM, "no memory for the answers of %zu positions", n) : KD_OK;
}

static kd_status judge_chunk(pass *x, uint32_t chunk, uint32_t rows, kd_err *err)
{
    kd_status st = read_ragged(x, x->tokens, chunk, &x->raw, err);
    if (!st && x->mask >= 0) st = read_ragged(x, x->mask, chunk, &x->marks, err);
    if (st) return st;
    const uint32_t *lengths = (const uint32_t *)(const void *)x->raw.text;
    const char *values = x->raw.text + rows * sizeof *lengths;
    const uint8_t *mask = x->mask < 0 ? NULL : (const uint8_t *)x->marks.text + rows * sizeof *lengths;
    const size_t positions = positions_of(lengths, rows, mask),
                 width = kd_dtype_size(kd_store_column(x->s, (size_t)x->tokens)->dtype);
    uint64_t offset[PIECE + 1] = {0}, first = 0;
    int64_t n = 0;
    x->chunk_at = x->done;
    st = read_teacher(x, chunk, positions, err);
    if (!st) st = grow(x, positions, err);
    for (uint32_t r = 0; r < rows && !st; r++) {
        if (n == PIECE || (n && offset[n] + lengths[r] > TOKENS)) {
            st = judge_batch(x, values + first * width, mask ? mask + first : NULL, offset, n, err);
            first += offset[n];
            n = 0;
        }
        offset[n + 1] = offset[n] + lengths[r];
        n++;
    }
    if (!st && n) st = judge_batch(x, values + first * width, mask ? mask + first : NULL, offset, n, err);
    x->l->rows += rows;
    if (x->p->progress) x->p->progress(x->p->arg, x->l->rows, kd_store_split_rows(x->s, x->p->split));
    return st;
}

/* ---- the run ------------------------------------------------------------------------------------ */

bool kd_language_store(const kd_store *s)
{
    const int input = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    if (input < 0 || kd_store_find_role(s, KD_ROLE_LABEL, NULL) >= 0) return false;
    const kd_column *c = kd_store_column(s, (size_t)input);
    return c->ndims == 1 && c->dims[0] < 0;
}

static kd_status open_models(pass *x, kd_err *err)
{
    kd_status st = x->p->model ? speaker_open(&x->teacher, x->p->model, x->p->threads, err) : KD_OK;
    x->vocab = x->teacher.m     ? x->teacher.m->spec.vocab
               : x->logits >= 0 ? (int64_t)kd_column_width(kd_store_column(x->s, (size_t)x->logits))
                                : 0;
    for (size_t i = 0; i < x->runs->n && !st; i++) {
        kd_run *r = &x->runs->v[i];
        x->l->run[i].run = r;
        if ((st = speaker_open(&x->student[i], r->folder, x->p->threads, err))) break;
        const kd_model *m = x->student[i].m;
        if (!x->vocab) x->vocab = m->spec.vocab;
        if (m->spec.vocab != x->vocab)
            st = kd_fail(err, KD_EMISMATCH,
                         "%s: student %s has %lld tokens, the teacher or the first student %lld", r->folder,
                         r->name, (long long)m->spec.vocab, (long long)x->vocab);
        if (!st) st = kd__cost_of(&r->cost, (kd_model *)m, r->folder, err);
    }
    return st ? st : kd__reference_create(&x->ref, PIECE, x->vocab, err);
}

static kd_status measure_all(pass *x, kd_err *err)
{
    kd_status st = KD_OK;
    x->l->positions = x->done;
    if (!x->done)
        return kd_fail(err, KD_EMISMATCH, "%s: the %s split has no token to predict", kd_store_path(x->s),
                       kd_split_name(x->p->split));
    for (size_t i = 0; i < x->runs->n && !st; i++) {
        st = kd__language_measure(x->l, &x->l->run[i], x->vocab, err);
        x->l->run[i].v[KD_L_READ_TOKENS_S] = (double)x->done / x->student[i].seconds;
    }
    return st;
}

kd_status kd_language_run_all(kd_language *l, kd_store *s, const kd_language_params *p, kd_runs *runs,
                              kd_err *err)
{
    pass x = {.l = l, .s = s, .p = p, .runs = runs, .logits = -1};
    *l = (kd_language){.runs = runs->n};
    x.tokens = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    x.mask = kd_store_find_role(s, KD_ROLE_MASK, NULL);
    if (!p->model) x.logits = kd_store_find_role(s, KD_ROLE_LOGITS, p->teacher);
    if (x.logits >= 0) {
        const kd_codec_info *codec = kd_codec_find(kd_store_column(s, (size_t)x.logits)->encoding);
        l->sparse = codec && codec->sparse;
        l->column = kd_store_column(s, (size_t)x.logits);
    }
    l->run = calloc(runs->n + 1, sizeof *l->run);
    x.student = calloc(runs->n + 1, sizeof *x.student);
    kd_status st = l->run && x.student ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && p->teacher && !p->model && x.logits < 0)
        st = kd_fail(err, KD_EMISMATCH, "%s: no logits of a teacher named %s, and no such model",
                     kd_store_path(s), p->teacher);
    if (!st) st = open_models(&x, err);
    if (!st) st = kd_cursor_open(&x.cursor, s, err);
    for (uint32_t c = 0; c < kd_store_chunks(s) && !st; c++)
        if (kd_store_chunk(s, c)->split == p->split) st = judge_chunk(&x, c, kd_store_chunk(s, c)->rows, err);
    if (!st) st = measure_all(&x, err);
    for (size_t i = 0; x.student && i < runs->n; i++) speaker_release(&x.student[i]);
    speaker_release(&x.teacher);
    kd_cursor_close(x.cursor);
    kd__reference_release(&x.ref);
    kd_sparse_release(&x.sparse);
    free(x.raw.text), free(x.marks.text), free(x.dense), free(x.student);
    return st;
}

void kd_language_release(kd_language *l)
{
    free(l->labels), free(l->teacher), free(l->run);
    *l = (kd_language){0};
}
