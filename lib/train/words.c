/* words.c - language models: what they predict of rows of tokens, and a step of it in pieces.
 *
 * A row is one text. Each of its tokens but the first is predicted from those before it, or, where the store
 * has a mask, those that it marks: a position. A teacher's column has logits for just these positions, so its
 * lengths are known from the tokens and the mask, and checked. Labels are not stored: the label of a position
 * is its token. Losses are means over positions, those of metrics too.
 *
 * Logits of all positions of a batch would be the largest array of all by far. The exec ends before them; the
 * head (kd/nn.h) makes those of a piece of positions, the loss writes value and gradient of the piece, and
 * both gradients of the head follow at once.
 *
 * Rows of dense logits become floats, and sampled targets whole rows of logits, a piece at a time as well.
 */
#include "train_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- positions ---------------------------------------------------------------------------- */

void kd__words_release(kd__words *w)
{
    free(w->first);
    free(w->from);
    free(w->label);
    *w = (kd__words){0};
}

static bool grow(kd__words *w, uint64_t rows, uint64_t positions)
{
    if (rows + 1 > w->row_room) {
        uint64_t *first = realloc(w->first, (size_t)(rows + 1) * sizeof(*first));
        if (!first) return false;
        w->first = first;
        w->row_room = rows + 1;
    }
    if (positions > w->room) {
        uint32_t *from = realloc(w->from, (size_t)positions * sizeof(*from));
        if (from) w->from = from;
        int32_t *label = realloc(w->label, (size_t)positions * sizeof(*label));
        if (label) w->label = label;
        if (!from || !label) return false;
        w->room = positions;
    }
    return true;
}

static unsigned long long row_number(const kd__rows *rows, uint32_t i)
{
    return rows->row ? rows->row[i] : rows->first + i;
}

kd_status kd__words_fill(kd__targets *g, const kd_trainer *t, const void *const *raw,
                         const uint64_t *const *offset, const kd__rows *rows, kd_err *err)
{
    kd__words *w = &g->words;
    const kd_column *c = kd__trainer_column(t, t->text[0]);
    const uint64_t *at = offset[t->text[0]], *mask_at = t->mask < 0 ? NULL : offset[t->mask];
    const uint8_t *mask = t->mask < 0 ? NULL : raw[t->mask];
    if (!grow(w, rows->n, at[rows->n] + 1))
        return kd_fail(err, KD_ENOMEM, "no memory for the positions of %u rows", rows->n);
    w->n = 0;
    for (uint32_t i = 0; i < rows->n; i++) {
        const uint64_t tokens = at[i + 1] - at[i];
        if (mask && mask_at[i + 1] - mask_at[i] != tokens)
            return kd_fail(
                err, KD_ECORRUPT,
                "%s: column %s, row %llu: marks of %llu tokens, the row has %llu; pack the data again",
                kd_store_path(t->store), kd__trainer_column(t, t->mask)->name, row_number(rows, i),
                (unsigned long long)(mask_at[i + 1] - mask_at[i]), (unsigned long long)tokens);
        w->first[i] = w->n;
        for (uint64_t k = 1; k < tokens; k++) {
            if (mask && !mask[mask_at[i] + k]) continue;
            w->from[w->n] = (uint32_t)(at[i] + k - 1);
            w->label[w->n++] = kd__token_at(c, raw[t->text[0]], at[i] + k);
        }
    }
    w->first[rows->n] = w->n;
    g->labelled = w->n;
    return KD_OK;
}

/* ---- teachers ----------------------------------------------------------------------------- */

/* Of dense logits in a batch. */
static kd_dtype dtype_of(const kd_column *c) { return strcmp(c->encoding, "dense") ? KD_F32 : c->dtype; }

static uint64_t sparse_hits(const kd__words *w, const kd_sparse *s)
{
    uint64_t hits = 0;
    for (uint64_t i = 0; i < w->n; i++) {
        uint64_t top = s->offset[i];
        for (uint64_t e = top; e < s->offset[i + 1]; e++)
            if (s->value[e] > s->value[top]) top = e;
        hits += top < s->offset[i + 1] && w->label[i] == (int32_t)s->id[top];
    }
    return hits;
}

/* Of dense logits, whose numbers are looked at here once: they become floats where they are compared. */
static kd_status dense_hits(kd__targets *g, const kd_trainer *t, int slot, const void *raw,
                            const kd__rows *rows, kd_err *err)
{
    const kd_column *c = kd__trainer_column(t, slot);
    const kd__words *w = &g->words;
    const kd_dtype dtype = dtype_of(c);
    const size_t V = (size_t)t->slot_classes[slot];
    float *z = malloc(V * sizeof(*z));
    if (!z) return kd_fail(err, KD_ENOMEM, "out of memory");
    kd_status st = KD_OK;
    for (uint32_t r = 0; r < rows->n && !st; r++)
        for (uint64_t i = w->first[r]; i < w->first[r + 1] && !st; i++) {
            size_t top = 0;
            bool finite = true;
            kd_to_f32(z, (const char *)raw + i * V * kd_dtype_size(dtype), dtype, V); // dtype: checked before
            for (size_t k = 0; k < V; k++) {
                finite &= isfinite(z[k]) != 0;
                if (z[k] > z[top]) top = k;
            }
            g->hits[slot] += w->label[i] == (int32_t)top;
            if (!finite)
                st = kd_fail(err, KD_ENUMERIC,
                             "%s: column %s, row %llu: a logit is not finite; look at the teacher %s and "
                             "dump it again",
                             kd_store_path(t->store), c->name, row_number(rows, r), c->teacher);
        }
    free(z);
    return st;
}

kd_status kd__words_logits(kd__targets *g, const kd_trainer *t, int slot, const void *raw,
                           const kd_sparse *sparse, const uint64_t *offset, const kd__rows *rows, kd_err *err)
{
    const kd__words *w = &g->words;
    const kd_column *c = kd__trainer_column(t, slot);
    for (uint32_t i = 0; i < rows->n; i++) {
        const unsigned long long have = offset[i + 1] - offset[i], want = w->first[i + 1] - w->first[i];
        if (have != want)
            return kd_fail(err, KD_ECORRUPT,
                           "%s: column %s, row %llu: logits of %llu positions, its tokens%s predict %llu; "
                           "dump the teacher %s again",
                           kd_store_path(t->store), c->name, row_number(rows, i), have,
                           t->mask < 0 ? "" : " and their mask", want, c->teacher);
    }
    g->sparse[slot] = sparse;
    g->dense[slot] = sparse ? NULL : raw;
    g->hits[slot] = sparse ? sparse_hits(w, sparse) : 0;
    return sparse ? KD_OK : dense_hits(g, t, slot, raw, rows, err);
}

/* ---- planning ----------------------------------------------------------------------------- */

kd_node kd__words_hidden(const kd__run *r)
{
    return kd_graph_node_facts(r->model->graph, r->model->logits).in[0];
}

kd_status kd__words_part(kd__run *r, const kd_trainer *t, int64_t *tokens, kd_err *err)
{
    const int64_t part = r->language ? kd_graph_part(r->model->graph, kd__run_precision(r)) : 0;
    r->at_once = (uint32_t)r->spec.train.batch;
    kd_status st = kd__texts_most(t, KD_TRAIN, r->at_once, tokens, err);
    while (!st && part && r->at_once > 1 && *tokens > part) {
        r->at_once = (r->at_once + 1) / 2;
        st = kd__texts_most(t, KD_TRAIN, r->at_once, tokens, err);
    }
    return st;
}

kd_status kd__words_plan(kd__run *r, int threads, kd_err *err)
{
    const kd_head_params p = {.head = r->model->logits,
                              .threads = threads,
                              .training = true,
                              .apart = !kd_loss_in_place(r->loss),
                              .half = kd_loss_takes_half(r->loss),
                              .planned = true,
                              .precision = kd__run_precision(r)};
    kd__pieces *x = &r->pieces;
    size_t floats;
    bool rows = false, failed;
    for (int i = 0; i < kd_loss_count(r->loss); i++)
        rows |= r->source[i].n && !(kd_loss_term_at(r->loss, i).needs & KD_NEEDS_SPARSE);
    failed = !(x->nll = calloc(KD_HEAD_ROWS, sizeof(*x->nll))) ||
             !(x->from = calloc(KD_HEAD_ROWS, sizeof(*x->from)));
    if (rows)
        failed |= !kd_mul_size(KD_HEAD_ROWS, (size_t)r->classes, &floats) ||
                  !(x->teacher = kd_alloc_aligned(floats, sizeof(float)));
    if (failed) return kd_fail(err, KD_ENOMEM, "%s: no memory for pieces of positions", r->spec.name);
    return kd_head_create(&r->head, r->model->graph, &p, err);
}

size_t kd__words_bytes(const kd__run *r)
{
    if (!r->head) return 0;
    return kd_head_bytes(r->head) +
           (r->pieces.teacher ? KD_HEAD_ROWS * (size_t)r->classes * sizeof(float) : 0);
}

void kd__words_free(kd__run *r)
{
    kd_head_free(r->head);
    free(r->pieces.nll);
    free(r->pieces.from);
    free(r->pieces.teacher);
}

/* ---- a batch ------------------------------------------------------------------------------ */

/* The teacher's logits of n positions from `at` on as floats. By the whole team. */
static const float *teacher_rows(const kd__run *r, const kd_trainer *t, int slot, const kd__targets *g,
                                 uint64_t at, uint32_t n)
{
    const kd_column *c = kd__trainer_column(t, slot);
    const size_t V = (size_t)r->classes;
    const kd_dtype dtype = dtype_of(c);
    const kd_sparse *s = g->sparse[slot];
#pragma omp for schedule(static)
    for (uint32_t i = 0; i < n; i++) {
        float *to = r->pieces.teacher + i * V;
        if (s)
            kd__logits_scatter_at(to, c, s, at + i, V);
        else // its dtype was checked when the run was made
            kd_to_f32(to, (const char *)g->dense[slot] + (at + i) * V * kd_dtype_size(dtype), dtype, V);
    }
    return r->pieces.teacher;
}

/* The loss of the batch's positions from `at` on. By the whole team. */
static void compare(kd__run *r, const kd_trainer *t, kd_loss_batch *b, const kd__targets *g, uint64_t at)
{
    const bool training = b->dlogits || b->dhalf;
    kd_loss_input in[KD_LOSS_TERMS] = {0};
    kd_loss_sparse sparse[KD_LOSS_TERMS];
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        const kd__source *s = &r->source[i];
        if (kd_loss_term_at(r->loss, i).needs & KD_NEEDS_SPARSE) {
            sparse[i] = kd__sparse_rows(g->sparse[kd__source_slot(s, &r->at, training)], at);
            in[i].sparse = &sparse[i];
        } else if (s->n) {
            in[i].teacher =
                teacher_rows(r, t, kd__source_slot(s, &r->at, training), g, at, (uint32_t)b->rows);
        }
    }
    b->inputs = in;
    kd_loss_run(r->loss, b);
    b->inputs = NULL;
}

/* What validation counts of a piece. By the whole team. */
static void judge(kd__run *r, const kd_loss_batch *b)
{
    kd__pieces *x = &r->pieces;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < b->rows; i++) {
        bool first;
        x->nll[i] = kd_loss_nll(kd_loss_row(r->loss, b, i), b->classes, b->labels[i], &first);
        x->from[i] = first;
    }
}

/* Adds the piece that was compared. By one thread. */
static void add_up(kd__run *r, uint32_t n, bool judged)
{
    const char *names[KD_LOSS_TERMS];
    double values[KD_LOSS_TERMS];
    kd__pieces *x = &r->pieces;
    const int terms = kd_loss_terms(r->loss, names, values);
    x->value += kd_loss_value(r->loss);
    for (int i = 0; i < terms; i++) x->term[i] += values[i];
    for (uint32_t i = 0; i < n && judged; i++) x->sum_nll += x->nll[i], x->hits += x->from[i];
}

void kd__words_run(kd__run *r, const kd_trainer *t, kd_exec *ex, const kd__targets *g, uint32_t first,
                   uint32_t rows, bool training)
{
    const kd__words *w = &g->words;
    const uint64_t begin = w->first[first], end = w->first[first + rows], base = g->texts.offset[first];
    const uint64_t of = training ? w->n : end - begin; // a batch may come in parts
    kd__pieces *x = &r->pieces;
#pragma omp single
    if (!training || !first) {
        x->value = x->sum_nll = 0;
        x->hits = 0;
        memset(x->term, 0, sizeof(x->term));
    }
    kd_head_begin(r->head, ex, (int64_t)(end - begin));
    const uint64_t piece = (uint64_t)kd_head_rows(r->head);
    for (uint64_t at = begin; at < end; at += piece) {
        const uint32_t n = (uint32_t)(end - at < piece ? end - at : piece);
#pragma omp single
        for (uint32_t i = 0; i < n; i++) x->from[i] = w->from[at + i] - (uint32_t)base;
        kd_loss_batch b = {.rows = n,
                           .classes = r->classes,
                           .logits = kd_head_forward(r->head, x->from, n),
                           .half = kd_head_half(r->head),
                           .labels = w->label + at,
                           .dlogits = training ? kd_head_grad(r->head) : NULL,
                           .dhalf = training ? kd_head_half(r->head) : NULL,
                           .step = r->at.total,
                           .of = (int64_t)of};
        compare(r, t, &b, g, at);
        if (!training) judge(r, &b);
#pragma omp single
        add_up(r, n, !training);
        if (training) kd_head_backward(r->head);
    }
}
