/* exec.c - running a planned graph: forward through the list, backward through it in reverse.
 *
 * The team calls each op together, and each op ends with a barrier, so there is no synchronisation here. The
 * twins of naive mode are serial: one thread calls them while the others wait.
 *
 * An exec for one thread opens a region of one for itself. Without that, an orphaned worksharing
 * loop would bind to whatever region the caller is in and hand a part of this exec's work to each
 * of its threads; with it, many one-thread execs run side by side in somebody's parallel loop.
 */
#include "nn_private.h"

#include <stdlib.h>
#include <string.h>

kd_status kd_exec_create(kd_exec **out, kd_graph *g, const kd_exec_params *p, kd_err *err)
{
    *out = NULL;
    if (!g->finished) return kd_fail(err, KD_EUSAGE, "the graph is not finished: call kd_graph_finish first");
    if (p->batch < 1 || p->threads < 1)
        return kd_fail(err, KD_EUSAGE, "a batch of %lld rows on %d threads; both start at 1",
                       (long long)p->batch, p->threads);
    if (g->tokens && (p->sequences < 0 || p->sequences > p->batch))
        return kd_fail(err, KD_EUSAGE, "%lld sequences of %lld tokens; each has one at least",
                       (long long)p->sequences, (long long)p->batch);
    if (p->cache && (p->training || p->naive || p->cache < 0 || !p->sequences || !g->tokens))
        return kd_fail(err, KD_EUSAGE, "a cache of %lld tokens is for inference of sequences of tokens",
                       (long long)p->cache);
    for (int i = 0; i < p->nkeep; i++)
        if (p->training || p->keep[i] < 0 || p->keep[i] >= g->nodes)
            return kd_fail(err, KD_EUSAGE, "node %d cannot be kept: %s", p->keep[i],
                           p->training ? "only in inference" : "there is no such node");
    if (p->given && (p->training || *p->given < 0 || *p->given >= g->nodes))
        return kd_fail(err, KD_EUSAGE, "the value of node %d cannot be given: %s", *p->given,
                       p->training ? "only in inference" : "there is no such node");
    kd_status st = p->head ? kd__head_check(g, p->head, err) : KD_OK;
    if (st || (st = kd_nn_check_precision(p->precision, err))) return st;
    kd_exec *ex = calloc(1, sizeof *ex);
    if (!ex) return kd_fail(err, KD_ENOMEM, "out of memory for the plan of %d layers", g->nodes);
    ex->g = g;
    ex->p = *p;
    if (g->tokens) {
        if (!p->sequences) ex->p.sequences = p->batch;
        ex->offset = calloc(4 * (size_t)ex->p.sequences + 1, sizeof *ex->offset);
        ex->past = ex->offset + ex->p.sequences + 1;
        ex->place = ex->past + ex->p.sequences;
        ex->seen = ex->place + ex->p.sequences;
        if (!ex->offset)
            st = kd_fail(err, KD_ENOMEM, "no memory for %lld sequences", (long long)ex->p.sequences);
    }
    ex->operands =
        p->precision == KD_PRECISION_BF16 && g->operands ? g->operands : kd__operands_by_cpu(p->precision);
    ex->state = calloc((size_t)g->nodes, sizeof *ex->state);
    ex->order = calloc((size_t)g->nodes, sizeof *ex->order);
    if (!ex->state || !ex->order)
        st = kd_fail(err, KD_ENOMEM, "out of memory for the plan of %d layers", g->nodes);
    for (int i = 0; !st && i < g->nodes; i++) ex->state[i].n = &g->node[i];
    if (!st && p->given) ex->state[kd__graph_root(g, *p->given)].given = true;
    if (!st) st = kd__exec_plan(ex, err);
    ex->p.keep = ex->p.given = NULL; // were borrowed
    if (st)
        kd_exec_free(ex);
    else
        *out = ex;
    return st;
}

void kd_exec_free(kd_exec *ex)
{
    if (!ex) return;
    for (int i = 0; i < ex->steps; i++) {
        kd__state *s = &ex->state[ex->order[i]];
        if (s->n->op->release) s->n->op->release(s);
    }
    kd__team_free(ex->team);
    free(ex->state);
    free(ex->order);
    free(ex->offset);
    free(ex->arena);
    free(ex->grads);
    free(ex);
}

size_t kd_exec_bytes(const kd_exec *ex)
{
    const size_t floats = ex->arena_floats + (ex->grads ? ex->g->slab_floats : 0);
    return floats * sizeof(float) + ex->extra_bytes + (ex->team ? kd__team_bytes(ex->team) : 0);
}

void kd_exec_seed(kd_exec *ex, uint64_t seed, uint64_t step)
{
    ex->seed = seed;
    ex->step = step;
}

static kd__state *state_of(const kd_exec *ex, kd_node n) { return &ex->state[kd__graph_root(ex->g, n)]; }

float *kd_exec_input(kd_exec *ex, kd_node input) { return state_of(ex, input)->y; }

/* Nobody writes where an input is: it outlives the step, so no op works in place on it (exec_plan.c). */
void kd_exec_borrow(kd_exec *ex, kd_node input, const float *x)
{
    state_of(ex, input)->y = (float *)(uintptr_t)x;
    for (int i = 0; i < ex->steps; i++) {
        kd__state *s = &ex->state[ex->order[i]];
        for (int k = 0; k < s->n->nin; k++)
            if (state_of(ex, s->n->in[k]) == state_of(ex, input)) s->x[k] = x;
    }
}

const float *kd_exec_value(const kd_exec *ex, kd_node n) { return state_of(ex, n)->y; }
float *kd_exec_grad(kd_exec *ex, kd_node output) { return state_of(ex, output)->dy; }
float *kd_exec_grads(kd_exec *ex) { return ex->grads; }
void kd_exec_add(kd_exec *ex, bool add) { ex->add = add; }

int64_t kd_graph_part(const kd_graph *g, kd_precision p)
{
    enum { PART = 256 };
    const kd__operands o = p == KD_PRECISION_BF16 && g->operands ? g->operands : kd__operands_by_cpu(p);
    bool all = o != KD__TILES;
    for (int i = 0; i < g->nodes && all; i++) {
        const kd__node_info *n = &g->node[i];
        all = !n->nparam || (n->op->adds && n->op->adds(n));
    }
    return all ? PART : 0;
}

/* ---- rows --------------------------------------------------------------------------------- */

int32_t *kd_exec_tokens(kd_exec *ex, kd_node tokens) { return (int32_t *)state_of(ex, tokens)->y; }

kd_status kd_exec_sequences(kd_exec *ex, const uint64_t *offset, int64_t n, kd_err *err)
{
    if (n < 1 || n > ex->p.sequences)
        return kd_fail(err, KD_EUSAGE, "%lld sequences in a batch, planned for 1 to %lld", (long long)n,
                       (long long)ex->p.sequences);
    for (int64_t i = 0; i < n; i++) {
        const uint64_t first = i ? offset[i] : 0, end = offset[i + 1];
        if (offset[i] != first || end <= first || end > (uint64_t)ex->p.batch)
            return kd_fail(err, KD_EUSAGE,
                           "sequence %lld of a batch ends at token %llu, expected %llu to %lld", (long long)i,
                           (unsigned long long)end, (unsigned long long)first + 1, (long long)ex->p.batch);
        if (ex->g->positions && end - first > (uint64_t)ex->g->positions)
            return kd_fail(err, KD_EUSAGE,
                           "sequence %lld of a batch has %llu tokens, the model has %lld positions",
                           (long long)i, (unsigned long long)(end - first), (long long)ex->g->positions);
    }
    memcpy(ex->offset, offset, ((size_t)n + 1) * sizeof *offset);
    ex->sequences = n;
    for (int64_t i = 0; i < n; i++) {
        ex->past[i] = 0;
        ex->place[i] = (uint64_t)i;
        ex->seen[i] = offset[i + 1] - offset[i];
    }
    return KD_OK;
}

size_t kd__exec_longest(const kd_exec *ex)
{
    const int64_t most = ex->g->positions, have = ex->p.cache > ex->p.batch ? ex->p.cache : ex->p.batch;
    return (size_t)(most && most < have ? most : have);
}

/* Whether a part can go on behind what was seen, with `before` tokens of the batch before it. */
static kd_status check_part(const kd_exec *ex, const kd_exec_part *k, int64_t before, kd_err *err)
{
    const int64_t seen = ex->p.cache ? (int64_t)ex->seen[k->sequence] : 0,
                  most = (int64_t)kd_min_size(kd__exec_longest(ex), (size_t)ex->p.cache);
    if (k->past < 0 || k->past > seen)
        return kd_fail(err, KD_EUSAGE, "sequence %lld goes on behind token %lld, %lld of it were seen",
                       (long long)k->sequence, (long long)k->past, (long long)seen);
    if (k->n < 1 || before + k->n > ex->p.batch || k->past + k->n > most)
        return kd_fail(err, KD_EUSAGE,
                       "sequence %lld of %lld tokens, %lld in the batch; there is room for %lld and %lld",
                       (long long)k->sequence, (long long)(k->past + k->n), (long long)(before + k->n),
                       (long long)most, (long long)ex->p.batch);
    return KD_OK;
}

kd_status kd_exec_resume(kd_exec *ex, const kd_exec_part *part, int64_t parts, kd_err *err)
{
    int64_t n = 0, next = 0;
    for (int64_t i = 0; i < parts; next = part[i].sequence + 1, n += part[i++].n) {
        if (part[i].sequence < next || part[i].sequence >= ex->p.sequences)
            return kd_fail(err, KD_EUSAGE, "sequence %lld of a batch, expected one of %lld to %lld",
                           (long long)part[i].sequence, (long long)next, (long long)ex->p.sequences - 1);
        kd_status st = check_part(ex, &part[i], n, err);
        if (st) return st;
    }
    if (!n) return kd_fail(err, KD_EUSAGE, "a batch of no sequences");
    for (int64_t i = 0; i < parts; i++) {
        ex->offset[i + 1] = ex->offset[i] + (uint64_t)part[i].n;
        ex->past[i] = (uint64_t)part[i].past;
        ex->place[i] = (uint64_t)part[i].sequence;
        ex->seen[ex->place[i]] = (uint64_t)(part[i].past + part[i].n);
    }
    ex->sequences = parts;
    return KD_OK;
}

size_t kd__node_rows(const kd_exec *ex, const kd__node_info *n)
{
    if (n->per == KD_PER_ROW) return (size_t)ex->p.batch;
    return n->per == KD_PER_TOKEN ? (size_t)ex->offset[ex->sequences] : (size_t)ex->sequences;
}

size_t kd__node_rows_planned(const kd_exec *ex, const kd__node_info *n)
{
    if (n->per == KD_PER_ROW) return (size_t)ex->p.batch;
    const size_t rows = (size_t)(n->per == KD_PER_TOKEN ? ex->p.batch : ex->p.sequences);
    return (rows + KD__ROWS_STEP - 1) / KD__ROWS_STEP * KD__ROWS_STEP;
}

int64_t kd_exec_rows(const kd_exec *ex, kd_node n) { return (int64_t)kd__node_rows(ex, &ex->g->node[n]); }

/* ---- running ------------------------------------------------------------------------------ */

static void run_op(kd_exec *ex, kd__state *s, bool backward)
{
    const kd__op *op = s->n->op;
    if (ex->p.naive) {
        void (*twin)(kd_exec *, kd__state *) = backward ? op->naive_backward : op->naive_forward;
#pragma omp single
        if (twin) twin(ex, s);
        return;
    }
    void (*fast)(kd_exec *, kd__state *) = backward ? op->backward : op->forward;
    if (fast) fast(ex, s);
}

static void remake(kd_exec *ex, kd__state *s)
{
    if (s->keeps_x && s->n->op->again)
        s->n->op->again(ex, s);
    else
        run_op(ex, s, false);
}

/* Backward skips nodes that no parameter is below of. */
static void run(kd_exec *ex, bool backward)
{
    for (int i = 0; i < ex->steps; i++) {
        kd__state *s = &ex->state[ex->order[backward ? ex->steps - 1 - i : i]];
        for (int k = 0; backward && k < s->n->nin; k++)
            if (s->remake[k]) remake(ex, s->remake[k]);
        if (backward ? s->has_backward : !s->given) run_op(ex, s, backward);
    }
}

static void drive(kd_exec *ex, bool backward)
{
    if (ex->p.threads > 1) {
        run(ex, backward);
        return;
    }
#pragma omp parallel num_threads(1)
    run(ex, backward);
}

void kd_exec_forward(kd_exec *ex) { drive(ex, false); }
void kd_exec_backward(kd_exec *ex) { drive(ex, true); }

void kd_exec_run_forward(kd_exec *ex)
{
#pragma omp parallel num_threads(ex->p.threads)
    run(ex, false);
}

const char *kd_nn_backend(void) { return kd__backend_name(); }
