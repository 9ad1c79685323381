/* step.c - one training step, one validation block: the only parallel regions of this module.
 *
 * With at least as many students as threads each student is a task for one thread: no barriers, and
 * its weights stay in that core's cache; otherwise the students step one after the other, each with
 * the whole team. The code of a step is the same: it is called by all threads of a team of
 * `threads` or of one. A task's team of one is a nested region, so that the orphaned worksharing
 * loops inside bind to it and not to the loop over students.
 *
 * Which way is taken changes no bit: kernels cut their work by shape alone (kd/nn.h), and nothing
 * here adds numbers of two students or two threads.
 */
#include "train_private.h"

#include <math.h>

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

static kd_loss_batch loss_batch(const kd__run *r, kd_exec *ex, const kd__targets *g, size_t first,
                                int64_t rows)
{
    return (kd_loss_batch){
        .rows = rows,
        .classes = r->classes,
        .logits = kd_exec_value(ex, r->model->logits),
        .labels = g->labels ? g->labels + first : NULL,
        .teacher = r->logits >= 0 ? g->logits[r->logits] + first * (size_t)r->classes : NULL,
    };
}

static void account(kd__run *r, const kd__targets *g, uint32_t rows)
{
    const char *names[KD_LOSS_TERMS];
    double values[KD_LOSS_TERMS];
    int n = kd_loss_terms(r->loss, names, values);
    for (int i = 0; i < n; i++) r->at.term_sum[i] += values[i] * rows;
    r->at.loss_sum += kd_loss_value(r->loss) * rows;
    r->at.rows += rows;
    r->at.span_loss += kd_loss_value(r->loss) * rows;
    r->at.span_rows += rows;
    if (r->logits >= 0) r->at.hits += g->hits[r->logits];
    r->at.labelled += g->labels ? g->labelled : 0;
    r->at.step++;
    r->at.total++;
}

/* By the whole team; every thread takes the same branches, because each reads the same values. */
static void step(kd__run *r)
{
    const kd__feed *f = r->feed;
    double start = kd_now();
    kd_cpu_flush_denormals();
    feed_input(r, r->ex, f->b.column[r->input], f->b.rows);
    kd_exec_forward(r->ex);
    kd_loss_batch b = loss_batch(r, r->ex, &f->targets, 0, f->b.rows);
    b.dlogits = kd_exec_grad(r->ex, r->model->logits);
    kd_loss_run(r->loss, &b);
    bool finite = isfinite(kd_loss_value(r->loss));
    if (finite) {
        kd_exec_backward(r->ex);
        finite = kd__optimizer_step(r, kd_exec_grads(r->ex));
    }
#pragma omp barrier // nobody still reads what is counted now
#pragma omp master
    {
        if (finite) {
            kd__optimizer_follow(r);
            account(r, &f->targets, f->b.rows);
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

/* By the whole team. The last batch of a block is padded with what the input held before: in
 * inference rows do not see each other. */
static void evaluate(kd__run *r, const kd__block *b)
{
    double start = kd_now();
    kd_cpu_flush_denormals();
    const int32_t *labels = b->targets.labels;
    size_t row = kd_graph_node_size(r->model->graph, r->model->input) * kd_dtype_size(r->input_dtype);
    for (uint32_t first = 0; first < b->rows; first += KD__EVAL_BATCH) {
        size_t n = kd_min_size(KD__EVAL_BATCH, b->rows - first);
        feed_input(r, r->eval, (const char *)b->input + first * row, n);
        kd_exec_forward(r->eval);
        kd_loss_batch lb = loss_batch(r, r->eval, &b->targets, first, (int64_t)n);
        kd_loss_run(r->loss, &lb);
#pragma omp single
        {
            r->valid.loss += kd_loss_value(r->loss) * (double)n;
            r->valid.rows += n;
            if (labels) r->valid.hits += count_hits(lb.logits, labels + first, n, r->classes);
        }
    }
#pragma omp master
    {
        r->valid.labelled += labels ? b->targets.labelled : 0;
        r->at.seconds += kd_now() - start;
    }
}

/* Where on the schedules of its loss a run is: a pure function of its position. */
static void set_loss(kd__run *r) { kd_loss_at(r->loss, (double)r->at.total / (double)r->steps); }

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
            step(t->todo[i]);
        }
        return;
    }
    for (size_t i = 0; i < t->ntodo; i++) {
#pragma omp parallel num_threads(t->p.threads)
        step(t->todo[i]);
    }
}

void kd__evaluate(kd_trainer *t, const kd__block *b)
{
    for (size_t i = 0; i < t->ntodo; i++) set_loss(t->todo[i]);
    if (t->solo) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(t->p.threads)
        for (size_t i = 0; i < t->ntodo; i++) {
#pragma omp parallel num_threads(1)
            evaluate(t->todo[i], b);
        }
        return;
    }
    for (size_t i = 0; i < t->ntodo; i++) {
#pragma omp parallel num_threads(t->p.threads)
        evaluate(t->todo[i], b);
    }
}
