/* exec.c - running a graph: who needs which memory when, and the two drivers.
 *
 * Planning sees a timeline of 2 S steps: forward of the S ops that run, then their backward in reverse. Every
 * buffer (a value, a gradient, what an op keeps) lives from its first write to its last read; buffers
 * whose lives do not meet share memory. In inference only values are laid out, so a deep network needs
 * little more than its two largest neighbours.
 *
 * Gradients of a node with several consumers: in backward the first consumer writes, later ones
 * add (state.add); the loss counts as the first one where the node is an output.
 */
#include "nn_private.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN 16 /* floats */

typedef struct buffer {
    float **at;          /* receives the address */
    size_t floats;
    int first, last;     /* steps, inclusive */
    size_t offset;
} buffer;

typedef struct plan_list {
    buffer *v;
    size_t n, cap;
    bool failed;
} plan_list;

static kd_node resolve(const kd_graph *g, kd_node n)
{
    while (g->node[n].alias >= 0) n = g->node[n].alias;
    return n;
}

static void want(plan_list *l, float **at, size_t floats, int first, int last)
{
    if (!floats) return;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        buffer *grown = realloc(l->v, cap * sizeof *grown);
        if (!grown) {
            l->failed = true;
            return;
        }
        l->v = grown;
        l->cap = cap;
    }
    l->v[l->n++] = (buffer){at, (floats + ALIGN - 1) / ALIGN * ALIGN, first, last, 0};
}

static int by_size(const void *a, const void *b)
{
    const buffer *x = a, *y = b;
    if (x->floats != y->floats) return x->floats < y->floats ? 1 : -1;
    return x->first != y->first ? x->first - y->first : x->last - y->last;
}

static bool meet(const buffer *a, const buffer *b) { return a->first <= b->last && b->first <= a->last; }

/* First fit, largest first: each buffer goes to the lowest place where no buffer of its time is. */
static size_t place(plan_list *l)
{
    size_t total = 0;
    qsort(l->v, l->n, sizeof *l->v, by_size);
    for (size_t i = 0; i < l->n; i++) {
        buffer *b = &l->v[i];
        for (bool moved = true; moved;) {
            moved = false;
            for (size_t k = 0; k < i; k++) {
                const buffer *o = &l->v[k];
                if (!meet(b, o) || b->offset >= o->offset + o->floats || o->offset >= b->offset + b->floats) continue;
                b->offset = o->offset + o->floats;
                moved = true;
            }
        }
        total = kd_max_size(total, b->offset + b->floats);
    }
    return total;
}

/* ---- planning ----------------------------------------------------------------------------- */

/* Marks the nodes that outputs need and lists them in order. */
static kd_status find_order(kd_exec *ex, kd_err *err)
{
    const kd_graph *g = ex->g;
    bool *need = calloc((size_t)g->nodes, 1);
    ex->order = calloc((size_t)g->nodes, sizeof *ex->order);
    if (!need || !ex->order) {
        free(need);
        return kd_fail(err, KD_ENOMEM, "no memory for the plan of %d layers", g->nodes);
    }
    for (int i = g->nodes - 1; i >= 0; i--) {
        const kd__node_info *n = &g->node[i];
        need[i] |= n->output;
        if (!need[i]) continue;
        if (n->alias >= 0)
            need[n->alias] = true;
        else
            for (int k = 0; k < n->nin; k++) need[n->in[k]] = true;
    }
    for (int i = 0; i < g->nodes; i++)
        if (need[i] && g->node[i].alias < 0) ex->order[ex->steps++] = i;
    free(need);
    return KD_OK;
}

/* Which inputs want gradients, and which of them are added to. */
static kd_status find_gradients(kd_exec *ex, bool *leads, kd_err *err)
{
    const kd_graph *g = ex->g;
    bool *written = calloc((size_t)g->nodes, 1);
    if (!written) return kd_fail(err, KD_ENOMEM, "no memory for the plan of %d layers", g->nodes);
    for (int i = 0; i < ex->steps; i++) {
        kd__state *s = &ex->state[ex->order[i]];
        leads[ex->order[i]] = s->n->nparam > 0 || (g->input_grads && s->n->op == &kd__op_input);
        for (int k = 0; k < s->n->nin; k++) {
            s->want_dx[k] = ex->p.training && leads[resolve(g, s->n->in[k])];
            leads[ex->order[i]] |= leads[resolve(g, s->n->in[k])];
        }
    }
    for (int i = 0; i < g->nodes; i++)
        if (g->node[i].output) written[resolve(g, i)] = true;
    for (int i = ex->steps - 1; i >= 0; i--) {
        kd__state *s = &ex->state[ex->order[i]];
        for (int k = 0; k < s->n->nin; k++) {
            kd_node x = resolve(g, s->n->in[k]);
            s->add[k] = s->want_dx[k] && written[x];
            written[x] |= s->want_dx[k];
        }
    }
    free(written);
    return KD_OK;
}

/* When a node's value and gradient live. Values of inputs and outputs stay for the caller; the
 * gradient of an output is written between forward and backward. */
static void add_lives(kd_exec *ex, plan_list *l, int at, const bool *leads)
{
    const kd_graph *g = ex->g;
    const int end = 2 * ex->steps, node = ex->order[at];
    const bool train = ex->p.training;
    kd__state *s = &ex->state[node];
    bool output = false, input = s->n->op == &kd__op_input;
    int y_last = train && s->n->op->backward_reads_y ? end - 1 - at : at, dy_first = end - 1 - at;
    for (int i = 0; i < g->nodes; i++) output |= g->node[i].output && resolve(g, i) == node;
    for (int c = at + 1; c < ex->steps; c++) {
        const kd__state *u = &ex->state[ex->order[c]];
        for (int k = 0; k < u->n->nin; k++) {
            if (resolve(g, u->n->in[k]) != node) continue;
            const int read = train && u->n->op->backward_reads_x ? end - 1 - c : c;
            if (read > y_last) y_last = read;
            if (u->want_dx[k] && end - 1 - c < dy_first) dy_first = end - 1 - c;
        }
    }
    const size_t floats = (size_t)ex->p.batch * s->n->size;
    want(l, &s->y, floats, input ? -1 : at, input || output ? end : y_last);
    if (train && (leads[node] || output)) want(l, &s->dy, floats, output ? ex->steps - 1 : dy_first, input ? end : end - 1 - at);
    want(l, &s->keep, s->keep_floats, at, train ? end - 1 - at : at);
}

static void connect(kd_exec *ex)
{
    kd_graph *g = ex->g;
    for (int i = 0; i < ex->steps; i++) {
        kd__state *s = &ex->state[ex->order[i]];
        for (int k = 0; k < s->n->nin; k++) {
            kd__state *x = &ex->state[resolve(g, s->n->in[k])];
            s->x[k] = x->y;
            s->dx[k] = s->want_dx[k] ? x->dy : NULL;
        }
        for (int k = 0; k < s->n->nparam; k++) {
            const kd_param *p = &g->param[s->n->param[k]];
            s->w[k] = kd_graph_param_data(g, p);
            s->dw[k] = p->buffer || !ex->grads ? NULL : ex->grads + p->offset;
        }
    }
}

static kd_status plan_memory(kd_exec *ex, const bool *leads, kd_err *err)
{
    plan_list l = {0};
    size_t shared = 0;
    for (int i = 0; i < ex->steps; i++) {
        add_lives(ex, &l, i, leads);
        shared = kd_max_size(shared, ex->state[ex->order[i]].shared_floats);
    }
    size_t values = l.failed ? 0 : place(&l);
    ex->arena_floats = values + shared;
    ex->arena = l.failed ? NULL : kd_alloc_aligned(ex->arena_floats + ALIGN, sizeof(float));
    if (ex->p.training) ex->grads = kd_alloc_aligned(ex->g->slab_floats + ALIGN, sizeof(float));
    if (!ex->arena || (ex->p.training && !ex->grads)) {
        free(l.v);
        return kd_fail(err, KD_ENOMEM, "no memory for a batch of %lld rows (%zu MiB); use a smaller batch",
                       (long long)ex->p.batch, (ex->arena_floats + ex->g->slab_floats) * sizeof(float) >> 20);
    }
    for (size_t i = 0; i < l.n; i++) *l.v[i].at = ex->arena + l.v[i].offset;
    for (int i = 0; i < ex->steps; i++) ex->state[ex->order[i]].shared = ex->arena + values;
    free(l.v);
    connect(ex);
    return KD_OK;
}

kd_status kd_exec_create(kd_exec **out, kd_graph *g, const kd_exec_params *p, kd_err *err)
{
    kd_status st;
    *out = NULL;
    if (!g->finished || p->batch < 1 || p->threads < 1)
        return kd_fail(err, KD_EUSAGE, "an exec needs a finished graph, a batch and threads of at least 1");
    kd_exec *ex = calloc(1, sizeof *ex);
    bool *leads = calloc((size_t)g->nodes, 1);
    if (!ex || !leads || !(ex->state = calloc((size_t)g->nodes, sizeof *ex->state))) {
        free(leads);
        free(ex);
        return kd_fail(err, KD_ENOMEM, "no memory for the plan of %d layers", g->nodes);
    }
    ex->g = g;
    ex->p = *p;
    for (int i = 0; i < g->nodes; i++) ex->state[i].n = &g->node[i];
    if ((st = find_order(ex, err)) || (st = find_gradients(ex, leads, err))) goto out;
    for (int i = 0; i < ex->steps; i++) {
        kd__state *s = &ex->state[ex->order[i]];
        if (s->n->op->plan && (st = s->n->op->plan(ex, s, err))) goto out;
    }
    st = plan_memory(ex, leads, err);
out:
    free(leads);
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
    free(ex->arena);
    free(ex->grads);
    free(ex);
}

size_t kd_exec_bytes(const kd_exec *ex)
{
    size_t floats = ex->arena_floats + (ex->grads ? ex->g->slab_floats : 0);
    return floats * sizeof(float) + ex->extra_bytes + (ex->team ? kd__team_bytes(ex->team) : 0);
}

/* ---- running ------------------------------------------------------------------------------ */

void kd_exec_seed(kd_exec *ex, uint64_t seed, uint64_t step)
{
    ex->seed = seed;
    ex->step = step;
}

float *kd_exec_input(kd_exec *ex, kd_node input) { return ex->state[resolve(ex->g, input)].y; }
const float *kd_exec_value(const kd_exec *ex, kd_node n) { return ex->state[resolve(ex->g, n)].y; }
float *kd_exec_grad(kd_exec *ex, kd_node output) { return ex->state[resolve(ex->g, output)].dy; }
float *kd_exec_grads(kd_exec *ex) { return ex->grads; }

static void one(kd_exec *ex, kd__state *s, void (*fast)(kd_exec *, kd__state *), void (*naive)(kd_exec *, kd__state *))
{
    if (!ex->p.naive) {
        if (fast) fast(ex, s);
        return;
    }
#pragma omp single
    if (naive) naive(ex, s);
}

static void run(kd_exec *ex, bool backward)
{
    for (int i = 0; i < ex->steps; i++) {
        kd__state *s = &ex->state[ex->order[backward ? ex->steps - 1 - i : i]];
        if (!backward)
            one(ex, s, s->n->op->forward, s->n->op->naive_forward);
        else if (s->dy)
            one(ex, s, s->n->op->backward, s->n->op->naive_backward);
    }
}

/* A team of one gets a region of its own, so that orphaned loops inside somebody else's region are
 * not shared with its threads. */
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
    if (ex->p.threads == 1) {
        drive(ex, false);
        return;
    }
#pragma omp parallel num_threads(ex->p.threads)
    run(ex, false);
}

const char *kd_nn_backend(void) { return kd__backend_name(); }
