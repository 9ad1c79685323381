/* step.c - batches, one training step, one validation block: the only parallel regions of this module.
 *
 * With at least as many students as threads each student is a task for one thread: no barriers, and
 * its weights stay in that core's cache; each feed draws as such a task, too, where the window at hand has
 * its batch. Otherwise the students step one after the other, each with the whole team. The code of a step is
 * the same: it is called by all threads of a team of `threads` or of one. A task's team of one is a nested
 * region, so that the orphaned worksharing loops inside bind to it and not to the loop over students.
 *
 * Which way is taken changes no bit: kernels cut their work by shape alone (kd/nn.h), and nothing
 * here adds numbers of two students or two threads.
 */
#include "train_private.h"

#include <math.h>
#include <string.h>

/* raw: (rows, input shape) as stored -> the exec's input. By the whole team. */
static void feed_input(const kd__run *r, kd_exec *ex, const void *raw, size_t rows)
{
    const kd_model *m = r->model;
    float *x = kd_exec_input(ex, m->input);
    if (r->input_dtype == KD_U8) {
        kd_nn_u8_to_f32(x, raw, rows * kd_graph_node_size(m->graph, m->input), m->mean, m->scale);
    } else {
#pragma omp single
        kd_model_feed(m, x, raw, r->input_dtype, rows, NULL); // the dtype was checked when the run was made
    }
}

/* The texts of the rows from first on -> the exec's tokens. By the whole team. */
static void feed_texts(const kd__run *r, kd_exec *ex, const kd__texts *x, size_t first, size_t rows)
{
#pragma omp single
    {
        const uint64_t at = first * (uint64_t)r->texts, n = rows * (uint64_t)r->texts, base = x->offset[at];
        for (uint64_t i = 0; i <= n; i++) r->cut[i] = x->offset[at + i] - base;
        // what it refuses was refused when the texts were read and the exec was planned
        kd_model_feed_tokens(r->model, ex, x->token + base, KD_I32, r->cut, (int64_t)n, NULL);
    }
}

/* What is compared with what, of one batch; each thread makes its own. */
typedef struct comparison {
    kd_loss_batch b;
    kd_loss_input in[KD_LOSS_TERMS];
    kd_loss_sparse sparse[KD_LOSS_TERMS];
} comparison;

/* A teacher's features of the rows from first on; NULL where nobody compares them. */
static const float *features_rows(const kd__source *s, const kd__targets *g, size_t first)
{
    size_t each = 1;
    for (int d = 0; d < s->teacher.ndims; d++) each *= (size_t)s->teacher.dims[d];
    return g->values[s->slot[0]] ? g->values[s->slot[0]] + first * each : NULL;
}

/* Teachers' features that something is learned of are inputs of the graph. By the whole team. */
static void feed_features(const kd__run *r, kd_exec *ex, const kd__targets *g, size_t first, size_t rows,
                          bool training)
{
#pragma omp single
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        const kd__source *s = &r->source[i];
        const kd_loss_term term = kd_loss_term_at(r->loss, i);
        if (s->tap < 0 || s->nodes.teacher < 0 || !(training || kd__term_judges(&term))) continue;
        size_t n = rows * kd_graph_node_size(r->model->graph, s->nodes.teacher);
        memcpy(kd_exec_input(ex, s->nodes.teacher), features_rows(s, g, first), n * sizeof(float));
    }
}

/* The teacher's vectors of the texts of some rows, those of a row together. By the whole team. */
static const float *texts_rows(const kd__run *r, const kd__source *s, const kd__targets *g, size_t first,
                               size_t rows)
{
    const size_t width = (size_t)s->teacher.dims[0];
    if (s->n == 1) return g->values[s->slot[0]] + first * (size_t)r->texts * width;
#pragma omp for schedule(static)
    for (size_t i = 0; i < rows; i++) {
        float *to = s->joined + i * (size_t)r->texts * width;
        for (int k = 0; k < s->n; k++) {
            const size_t each = s->each[k] * width;
            memcpy(to, g->values[s->slot[k]] + (first + i) * each, each * sizeof(float));
            to += each;
        }
    }
    return s->joined;
}

static void compare_features(const kd__run *r, const kd__source *s, kd_exec *ex, const kd__targets *g,
                             size_t first, size_t rows, kd_loss_input *in)
{
    bool learned = s->nodes.teacher_out >= 0;
    in->student = kd_exec_value(ex, s->nodes.student);
    in->dstudent = kd_exec_grad(ex, s->nodes.student);
    in->teacher = learned    ? kd_exec_value(ex, s->nodes.teacher_out)
                  : !s->n    ? NULL
                  : r->texts ? texts_rows(r, s, g, first, rows)
                             : features_rows(s, g, first);
    in->dteacher = learned ? kd_exec_grad(ex, s->nodes.teacher_out) : NULL;
}

/* Logits of one teacher, or of several joined. By the whole team. */
static const float *logits_rows(const kd__run *r, int i, const kd__targets *g, size_t first, int64_t rows,
                                bool training)
{
    const kd__source *s = &r->source[i];
    if (s->n == 1 || s->how == KD__TURNS)
        return g->values[kd__source_slot(s, &r->at, training)] +
               first * (size_t)(r->classes - kd_loss_term_at(r->loss, i).differences);
    const double T = kd_loss_term_at(r->loss, i).temperature;
#pragma omp for schedule(static)
    for (int64_t k = 0; k < rows; k++)
        kd__targets_join(s, g, first + (size_t)k, (size_t)r->classes, T, s->joined + k * r->classes);
    return s->joined;
}

/* By the whole team. */
static void compare(comparison *c, const kd__run *r, kd_exec *ex, const kd__targets *g, size_t first,
                    int64_t rows, bool training)
{
    const size_t texts = r->texts ? (size_t)r->texts : 1;
    *c = (comparison){
        .b = {.rows = rows * (int64_t)texts,
              .classes = r->classes,
              .logits = kd_exec_value(ex, r->model->logits),
              .labels = g->labels && r->label >= 0 ? g->labels + first : NULL,
              .other_labels = g->others, // of training batches, which begin at 0
              .shares = g->shares,
              .dlogits = training ? kd_exec_grad(ex, r->model->logits) : NULL,
              .inputs = c->in,
              .samples = g->samples,
              .groups = r->texts && r->label < 0 && g->labels ? g->texts.group + first * texts : NULL,
              .texts = r->texts ? g->texts.hash + first * texts : NULL,
              .step = r->at.total}};
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        const kd__source *s = &r->source[i];
        const kd_loss_term term = kd_loss_term_at(r->loss, i);
        if (term.needs & KD_NEEDS_NODE) {
            if (training || kd__term_judges(&term))
                compare_features(r, s, ex, g, first, (size_t)rows, &c->in[i]);
        } else if (term.needs & KD_NEEDS_SPARSE) {
            c->sparse[i] = kd__sparse_rows(g->sparse[kd__source_slot(s, &r->at, training)], first);
            c->in[i].sparse = &c->sparse[i];
        } else if (s->n) {
            c->in[i].teacher = logits_rows(r, i, g, first, rows, training);
        }
    }
}

static double batch_value(const kd__run *r) { return r->language ? r->pieces.value : kd_loss_value(r->loss); }

/* rows: of language models, positions. */
static void account(kd__run *r, const kd__targets *g, uint64_t rows)
{
    const char *names[KD_LOSS_TERMS];
    double values[KD_LOSS_TERMS];
    const double *terms = r->language ? r->pieces.term : values, sum = batch_value(r) * (double)rows;
    int n = kd_loss_terms(r->loss, names, values);
    for (int i = 0; i < n; i++) r->at.term_sum[i] += terms[i] * (double)rows;
    r->at.loss_sum += sum;
    r->at.rows += rows;
    for (int k = 0; k < r->nteachers; k++) r->at.hits[k] += g->hits[r->teacher[k]];
    r->at.span_loss += sum;
    r->at.span_rows += rows;
    r->at.labelled += r->language || (g->labels && r->label >= 0) ? g->labelled : 0;
    r->at.step++;
    r->at.total++;
}

/* A language model's batch, r->at_once rows at a time, whose gradients add up. False: the loss is not finite.
 * By the whole team. */
static bool step_words(kd__run *r, const kd_trainer *t, const kd__feed *f)
{
    for (uint32_t first = 0; first < f->b.rows; first += r->at_once) {
        const uint32_t n = (uint32_t)kd_min_size(r->at_once, f->b.rows - first);
        feed_texts(r, r->ex, &f->targets.texts, first, n);
#pragma omp single
        kd_exec_add(r->ex, first > 0);
        kd_exec_forward(r->ex);
        kd__words_run(r, t, r->ex, &f->targets, first, n, true);
        if (!isfinite(batch_value(r))) return false;
        kd_exec_backward(r->ex);
    }
    return true;
}

static bool step_rows(kd__run *r, const kd__feed *f)
{
    comparison c;
    if (r->texts)
        feed_texts(r, r->ex, &f->targets.texts, 0, f->b.rows);
    else
        feed_input(r, r->ex, f->b.column[r->input], f->b.rows);
    feed_features(r, r->ex, &f->targets, 0, f->b.rows, true);
    kd_exec_forward(r->ex);
    compare(&c, r, r->ex, &f->targets, 0, f->b.rows, true);
    kd_loss_run(r->loss, &c.b);
    if (!isfinite(batch_value(r))) return false;
    kd_exec_backward(r->ex);
    return true;
}

/* By the whole team; every thread takes the same branches, because each reads the same values. */
static void step(kd__run *r, const kd_trainer *t)
{
    const kd__feed *f = r->feed;
    double start = kd_now();
    kd_cpu_flush_denormals();
    bool finite = r->language ? step_words(r, t, f) : step_rows(r, f);
    if (finite) finite = kd__optimizer_step(r, kd_exec_grads(r->ex));
#pragma omp barrier // nobody still reads what is counted now
#pragma omp master
    {
        if (finite) {
            kd__optimizer_follow(r);
            account(r, &f->targets, r->language ? f->targets.words.n : f->b.rows);
        } else {
            r->diverged = true;
        }
        r->at.seconds += kd_now() - start;
    }
}

static uint64_t count_hits(const float *z, const int32_t *labels, size_t rows, int64_t classes)
{
    uint64_t hits = 0;
    for (size_t i = 0; i < rows; i++, z += classes) {
        int64_t top = 0;
        for (int64_t k = 1; k < classes; k++)
            if (z[k] > z[top]) top = k;
        hits += labels[i] == top;
    }
    return hits;
}

static void evaluate_words(kd__run *r, const kd_trainer *t, const kd__block *b, uint32_t first, uint32_t n)
{
    const uint64_t *at = b->targets.words.first, positions = at[first + n] - at[first];
    kd__words_run(r, t, r->eval, &b->targets, first, n, false);
#pragma omp single
    {
        r->valid.loss += r->pieces.value * (double)positions;
        r->valid.nll += r->pieces.sum_nll;
        r->valid.rows += positions;
        r->valid.hits += r->pieces.hits;
    }
}

/* By the whole team. The last batch of a block is padded with what the input held before: in
 * inference rows do not see each other. */
static void evaluate(kd__run *r, const kd_trainer *t, const kd__block *b)
{
    double start = kd_now();
    kd_cpu_flush_denormals();
    const int32_t *labels = r->label >= 0 ? b->targets.labels : NULL;
    size_t row =
        r->texts ? 0 : kd_graph_node_size(r->model->graph, r->model->input) * kd_dtype_size(r->input_dtype);
    for (uint32_t first = 0; first < b->rows; first += (uint32_t)r->eval_rows) {
        size_t n = kd_min_size((size_t)r->eval_rows, b->rows - first);
        if (r->texts)
            feed_texts(r, r->eval, &b->targets.texts, first, n);
        else
            feed_input(r, r->eval, (const char *)b->input + first * row, n);
        feed_features(r, r->eval, &b->targets, first, n, false);
        kd_exec_forward(r->eval);
        if (r->language) {
            evaluate_words(r, t, b, first, (uint32_t)n);
            continue;
        }
        comparison c;
        compare(&c, r, r->eval, &b->targets, first, (int64_t)n, false);
        kd_loss_run(r->loss, &c.b);
#pragma omp single
        {
            r->valid.loss += kd_loss_value(r->loss) * (double)n;
            r->valid.rows += n;
            if (labels) r->valid.hits += count_hits(c.b.logits, labels + first, n, r->classes);
        }
    }
#pragma omp master
    {
        r->valid.labelled += labels || r->language ? b->targets.labelled : 0;
        r->at.seconds += kd_now() - start;
    }
}

/* Where on the schedules of its loss a run is: a pure function of its position. */
static void set_loss(kd__run *r) { kd_loss_at(r->loss, (double)r->at.total / (double)r->steps); }

kd_status kd__feeds_draw(kd_trainer *t, kd_err *err)
{
    const bool several = t->solo && t->nfeeds > 1;
    kd_status st = KD_OK;
#pragma omp parallel for schedule(dynamic, 1) num_threads(t->p.threads) if (several)
    for (size_t i = 0; i < t->nfeeds; i++) {
        kd__feed *f = t->feeds[i];
        if ((f->ahead = several && kd__feed_ready(f))) f->st = kd__feed_draw(f, t, &f->err);
    }
    for (size_t i = 0; i < t->nfeeds && !st; i++) { // the others may want another window
        kd__feed *f = t->feeds[i];
        st = f->ahead ? f->st : kd__feed_draw(f, t, err);
        if (st && f->ahead && err) *err = f->err;
    }
    return st;
}

void kd__steps(kd_trainer *t)
{
    for (size_t i = 0; i < t->ntodo; i++) { // serial: an exec's seed is set outside of its region
        kd__run *r = t->todo[i];
        r->lr = kd__run_lr(r, 0);
        kd_exec_seed(r->ex, r->seed, r->at.total);
        set_loss(r);
        t->rows_trained += r->feed->b.rows;
    }
    if (t->solo) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(t->p.threads)
        for (size_t i = 0; i < t->ntodo; i++) {
#pragma omp parallel num_threads(1)
            step(t->todo[i], t);
        }
        return;
    }
    for (size_t i = 0; i < t->ntodo; i++) {
#pragma omp parallel num_threads(t->p.threads)
        step(t->todo[i], t);
    }
}

void kd__evaluate(kd_trainer *t, const kd__block *b)
{
    for (size_t i = 0; i < t->ntodo; i++) set_loss(t->todo[i]);
    if (t->solo) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(t->p.threads)
        for (size_t i = 0; i < t->ntodo; i++) {
#pragma omp parallel num_threads(1)
            evaluate(t->todo[i], t, b);
        }
        return;
    }
    for (size_t i = 0; i < t->ntodo; i++) {
#pragma omp parallel num_threads(t->p.threads)
        evaluate(t->todo[i], t, b);
    }
}
