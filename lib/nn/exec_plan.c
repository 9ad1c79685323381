/* exec_plan.c - what a graph needs to run: which nodes, whose gradients, and where everything lies.
 *
 * Time is counted in steps: S nodes run forward at 0 .. S-1, the loss looks at the outputs at S, and node
 * number i runs backward at 2S - i. A buffer lives from its first write to its last read:
 *
 *     value of node i      [i, last of: forward of its readers, backward of readers that read x, its own
 *                          backward if that reads y]
 *     gradient of node i   [first backward of a reader (the loss, for an output), backward of i]
 *     what an op keeps     [i, backward of i]
 *
 * A convolution whose slices run the loops of batch norms beside it (find_neighbours) makes the value of the
 * one in front and the gradient from the one behind for itself, slice by slice: neither gets memory. It uses
 * what the one behind keeps, its gradient, and y in backward. A GELU between linear layers is written while
 * the one in front runs, and lives until the one behind has run forward; its gradient of x is written while
 * that one runs backward.
 *
 * Values of inputs, outputs and kept nodes are the caller's and live from before the first step to behind the
 * last one. Without training there is no backward, so a value lives until its last reader and a deep network
 * needs little more than its two largest neighbours.
 *
 * A norm or a gate of a decoder is cheap to make and as large as what a product makes: its value is kept only
 * until its readers have run forward, and made again before the first of them runs backward, at the same
 * place. Such a buffer has two lives; what it is made from lives until its own backward anyway.
 *
 * An op that may work in place gets its input's memory for its value when nobody reads the input
 * later, and passes on its gradient's memory when it is the first to write its input's gradient: a ReLU or
 * the shortcut of a residual block then costs no memory and no copy.
 *
 * Buffers whose lives do not meet share memory: the largest is placed first, each at the lowest address
 * where nothing of its time is (greedy by size; Pisarchyk and Lee, "Efficient Memory Management for Deep
 * Neural Net Inference", 2020, section 5.2). Scratch that is common to all ops lives through both passes;
 * what a head of a language model needs lives between them, at S, where little else does.
 */
#include "nn_private.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16 }; /* floats: a cache line */

typedef struct life {
    int from, to; /* steps, inclusive; none: to < from */
} life;

typedef struct buffer {
    size_t floats, offset;
    life life, again;
} buffer;

static const life none = {0, -1};

/* Indices of a node's buffers; -1: none. */
typedef struct places {
    int y, dy, keep;
} places;

typedef struct planning {
    kd_exec *ex;
    int *step;     /* per node: its number in the order, -1: does not run */
    bool *grad;    /* per node: its gradient is wanted */
    bool *written; /* per node: somebody has written its gradient */
    bool *output;  /* per node, aliases resolved */
    int *readers;  /* per node */
    places *at;    /* per node */
    buffer *buf;
    int bufs, shared, head; /* the last two: common scratch, and a head's; -1: none */
} planning;

kd_node kd__graph_root(const kd_graph *g, kd_node n)
{
    while (g->node[n].alias >= 0) n = g->node[n].alias;
    return n;
}

static kd_node input_of(const kd_graph *g, kd_node n, int k) { return kd__graph_root(g, g->node[n].in[k]); }

/* ---- who runs, whose gradients ------------------------------------------------------------ */

/* The nodes that outputs and kept nodes need, in order. A kept node is planned as an output, and so is what a
 * head that is left out would read. */
static void find_order(planning *p)
{
    kd_exec *ex = p->ex;
    const kd_graph *g = ex->g;
    if (ex->p.head) {
        const kd_node n = input_of(g, ex->p.head, 0);
        p->output[n] = true;
        p->step[n] = 0;
    }
    for (int i = 0; i < ex->p.nkeep; i++) {
        const kd_node n = kd__graph_root(g, ex->p.keep[i]);
        p->output[n] = true;
        p->step[n] = 0;
    }
    for (int i = g->nodes - 1; i >= 0; i--) { // step serves as a mark
        if (g->node[i].output && !ex->p.kept_only && i != ex->p.head) {
            p->output[kd__graph_root(g, i)] = true;
            p->step[kd__graph_root(g, i)] = 0;
        }
        const int nin = ex->state[i].given ? 0 : g->node[i].nin;
        for (int k = 0; p->step[i] >= 0 && k < nin; k++) p->step[input_of(g, i, k)] = 0;
    }
    for (int i = 0; i < g->nodes; i++)
        if (p->step[i] >= 0) {
            p->step[i] = ex->steps;
            ex->order[ex->steps++] = i;
        }
}

/* A gradient is wanted where it leads to parameters. In backward the first reader writes, later ones
 * add; the loss counts as the first one of an output. */
static void find_gradients(planning *p)
{
    kd_exec *ex = p->ex;
    const kd_graph *g = ex->g;
    if (!ex->p.training) return;
    for (int s = 0; s < ex->steps; s++) {
        const kd_node n = ex->order[s];
        p->grad[n] = g->node[n].nparam > 0 || (g->input_grads && g->node[n].op == &kd__op_input);
        for (int k = 0; k < g->node[n].nin; k++) {
            ex->state[n].want_dx[k] = p->grad[input_of(g, n, k)];
            p->grad[n] |= ex->state[n].want_dx[k];
        }
        ex->state[n].has_backward = p->grad[n];
    }
    for (int s = ex->steps - 1; s >= 0; s--) {
        kd__state *st = &ex->state[ex->order[s]];
        for (int k = 0; k < st->n->nin; k++) {
            const kd_node x = input_of(g, ex->order[s], k);
            st->add[k] = st->want_dx[k] && (p->written[x] || p->output[x]);
            p->written[x] |= st->want_dx[k];
        }
    }
}

static bool convolves(const kd__node_info *n) { return n->op == &kd__op_conv2d || n->op == &kd__op_dwconv2d; }

static bool joins(const kd_exec *ex, const kd__node_info *a, const kd__node_info *b)
{
    if (a->op == &kd__op_linear && b->op == &kd__op_gelu) return true;
    return ex->p.training &&
           ((convolves(a) && b->op == &kd__op_batchnorm) || (a->op == &kd__op_batchnorm && convolves(b)) ||
            (a->op == &kd__op_gelu && b->op == &kd__op_linear));
}

/* Neighbours are those where nobody else reads what is between them. */
static void find_neighbours(planning *p)
{
    kd_exec *ex = p->ex;
    const kd_graph *g = ex->g;
    if (ex->p.naive || g->unfused) return;
    for (int s = 0; s < ex->steps; s++) {
        const kd_node n = ex->order[s];
        for (int k = 0; k < g->node[n].nin; k++) p->readers[input_of(g, n, k)]++;
    }
    for (int s = 0; s < ex->steps; s++) {
        const kd_node n = ex->order[s];
        if (g->node[n].nin != 1) continue;
        const kd_node x = input_of(g, n, 0);
        const kd__node_info *a = &g->node[x], *b = &g->node[n];
        if (p->readers[x] != 1 || p->output[x] || p->output[n] || !joins(ex, a, b)) continue;
        if (ex->state[x].given || ex->state[n].given) continue;
        if (a->op == &kd__op_gelu && !ex->state[x].prev) continue; // what it reads is another's as well
        ex->state[n].prev = &ex->state[x];
        ex->state[x].next = &ex->state[n];
    }
}

/* ---- lives -------------------------------------------------------------------------------- */

static int backward_of(const planning *p, kd_node n) { return 2 * p->ex->steps - p->step[n]; }
static int the_end(const planning *p) { return 2 * p->ex->steps + 1; }

static int new_buffer(planning *p, size_t floats, int from, int to)
{
    p->buf[p->bufs] =
        (buffer){.floats = (floats + ALIGN - 1) / ALIGN * ALIGN, .life = {from, to}, .again = none};
    return p->bufs++;
}

static void prolong(life *l, int from, int to)
{
    const bool had = l->from <= l->to;
    l->from = had && l->from < from ? l->from : from;
    l->to = had && l->to > to ? l->to : to;
}

static bool is_remade(const planning *p, kd_node n)
{
    const kd__state *s = &p->ex->state[n];
    return s->n->op->remade && p->grad[n] && !p->output[n] && !s->given;
}

static bool reads_y(const kd__state *s)
{
    const kd__node_info *n = s->n;
    return (n->op->backward_reads_y && (n->a.relu || !n->op->fuses_relu)) || (convolves(n) && s->next);
}

/* Makes the buffers of node n, and prolongs the lives of what it reads. */
static void add_node(planning *p, kd_node n)
{
    kd_exec *ex = p->ex;
    const kd__state *s = &ex->state[n];
    const kd__node_info *info = s->n;
    const size_t floats = kd__node_rows_planned(ex, info) * info->size;
    const bool input = !info->nin || s->given, output = p->output[n], back = p->grad[n];
    const int now = p->step[n], later = backward_of(p, n), end = the_end(p);
    const bool after = info->op == &kd__op_batchnorm && s->prev; // its loops in backward run in that one's
    const int done = after ? backward_of(p, input_of(ex->g, n, 0)) : later;
    const bool gelu = info->op == &kd__op_gelu, remakes = info->op == &kd__op_linear && s->prev;
    const int made = gelu && s->prev ? p->step[input_of(ex->g, n, 0)] : now;
    const int written = gelu && s->next ? backward_of(p, (kd_node)(s->next - ex->state)) : later;
    p->at[n] = (places){-1, -1, -1};
    p->at[n].y = new_buffer(p, info->op == &kd__op_batchnorm && s->next ? 0 : floats, input ? -1 : made,
                            input || output      ? end
                            : back && reads_y(s) ? later
                                                 : now);
    if (s->keep_floats) {
        const int from = after ? p->step[input_of(ex->g, n, 0)] : now;
        p->at[n].keep = new_buffer(p, s->keep_floats, from, back ? done : now);
    }
    if (back || (output && ex->p.training)) // its first writer will come to light below
        p->at[n].dy = new_buffer(p, convolves(info) && s->next ? 0 : floats, output ? ex->steps : later,
                                 input ? end : done);
    for (int k = 0; k < info->nin && !s->given; k++) {
        const kd_node in = input_of(ex->g, n, k);
        buffer *y = &p->buf[p->at[in].y];
        const bool reads = back && info->op->backward_reads_x && !remakes && !s->keeps_x,
                   remade = is_remade(p, in);
        prolong(&y->life, now, reads && !remade ? later : now);
        if (reads && remade) prolong(&y->again, later, later);
        if (s->want_dx[k]) prolong(&p->buf[p->at[in].dy].life, written, written);
    }
}

/* ---- in place ----------------------------------------------------------------------------- */

/* a takes over b's part of the memory; b is left empty. */
static void merge(planning *p, int a, int *b)
{
    buffer *gone = &p->buf[*b];
    prolong(&p->buf[a].life, gone->life.from, gone->life.to);
    gone->floats = 0;
    *b = a;
}

static void share_values(planning *p)
{
    kd_exec *ex = p->ex;
    for (int s = 0; s < ex->steps; s++) {
        const kd_node n = ex->order[s];
        if (ex->state[n].given || is_remade(p, n)) continue;
        for (int k = 0; ex->g->node[n].op->inplace && k < ex->g->node[n].nin; k++) {
            const kd_node in = input_of(ex->g, n, k);
            const int x = p->at[in].y;
            if (is_remade(p, in) || p->buf[x].life.to != s || p->buf[x].floats != p->buf[p->at[n].y].floats)
                continue;
            merge(p, x, &p->at[n].y);
            break;
        }
    }
}

/* Outputs' gradients are the caller's: neither taken nor given. */
static void share_gradients(planning *p)
{
    kd_exec *ex = p->ex;
    for (int s = ex->steps - 1; s >= 0; s--) {
        const kd_node n = ex->order[s];
        if (!ex->g->node[n].op->inplace || p->output[n]) continue;
        for (int k = 0; k < ex->g->node[n].nin; k++) {
            const kd_node x = input_of(ex->g, n, k);
            if (!ex->state[n].want_dx[k] || ex->state[n].add[k]) continue;
            if (p->buf[p->at[x].dy].floats != p->buf[p->at[n].dy].floats) continue;
            merge(p, p->at[n].dy, &p->at[x].dy);
            break;
        }
    }
}

/* ---- places ------------------------------------------------------------------------------- */

static int larger_first(const void *a, const void *b)
{
    const buffer *x = *(const buffer *const *)a, *y = *(const buffer *const *)b;
    if (x->floats != y->floats) return x->floats < y->floats ? 1 : -1;
    return x < y ? -1 : x > y; // as they were made
}

static bool meet(life a, life b)
{
    return a.from <= a.to && b.from <= b.to && a.from <= b.to && b.from <= a.to;
}

static bool collide(const buffer *a, const buffer *b)
{
    const bool at_once = meet(a->life, b->life) || meet(a->life, b->again) || meet(a->again, b->life) ||
                         meet(a->again, b->again);
    return at_once && a->offset < b->offset + b->floats && b->offset < a->offset + a->floats;
}

static kd_status place(planning *p, size_t *total, kd_err *err)
{
    buffer **list = calloc((size_t)p->bufs + 1, sizeof *list);
    int n = 0;
    if (!list) return kd_fail(err, KD_ENOMEM, "out of memory for the plan of %d layers", p->ex->g->nodes);
    for (int i = 0; i < p->bufs; i++)
        if (p->buf[i].floats) list[n++] = &p->buf[i];
    qsort(list, (size_t)n, sizeof *list, larger_first);
    *total = 0;
    for (int i = 0; i < n; i++) {
        buffer *b = list[i];
        for (int k = 0; k < i; k++) {
            if (!collide(b, list[k])) continue;
            b->offset = list[k]->offset + list[k]->floats;
            k = -1; // look again from the start: the new place may meet an earlier one
        }
        *total = kd_max_size(*total, b->offset + b->floats);
    }
    free(list);
    return KD_OK;
}

static kd_status allocate(planning *p, size_t total, kd_err *err)
{
    kd_exec *ex = p->ex;
    ex->arena_floats = total;
    ex->arena = kd_alloc_aligned(ex->arena_floats, sizeof(float));
    if (ex->p.training) ex->grads = kd_alloc_aligned(ex->g->slab_floats, sizeof(float));
    if (ex->arena && (ex->grads || !ex->p.training)) return KD_OK;
    return kd_fail(err, KD_ENOMEM, "out of memory: a batch of %lld rows needs %zu MiB; use a smaller batch",
                   (long long)ex->p.batch, (ex->arena_floats + ex->g->slab_floats) * sizeof(float) >> 20);
}

static float *address(const planning *p, int buf)
{
    return buf < 0 ? NULL : p->ex->arena + p->buf[buf].offset;
}

static void connect(planning *p)
{
    kd_exec *ex = p->ex;
    kd_graph *g = ex->g;
    for (int i = 0; i < ex->steps; i++) {
        const kd_node n = ex->order[i];
        kd__state *s = &ex->state[n];
        s->y = address(p, p->at[n].y);
        s->dy = address(p, p->at[n].dy);
        s->keep = address(p, p->at[n].keep);
        s->shared = address(p, p->shared);
        for (int k = 0; k < s->n->nin && !s->given; k++) {
            const kd_node in = input_of(g, n, k);
            const places *x = &p->at[in];
            s->x[k] = address(p, x->y);
            if (is_remade(p, in) && p->buf[x->y].again.from == backward_of(p, n))
                s->remake[k] = &ex->state[in];
            s->dx[k] = s->want_dx[k] ? address(p, x->dy) : NULL;
        }
        for (int k = 0; k < s->n->nparam; k++) {
            const kd_param *w = &g->param[s->n->param[k]];
            s->w[k] = kd_graph_param_data(g, w);
            s->dw[k] = w->buffer || !ex->grads ? NULL : ex->grads + w->offset;
        }
    }
}

static bool reads_the_same(const kd_exec *ex, const kd__state *a, const kd__state *b)
{
    return a && a->n->op == &kd__op_linear && b->n->op == &kd__op_linear && a->n->per == b->n->per &&
           input_of(ex->g, (kd_node)(a - ex->state), 0) == input_of(ex->g, (kd_node)(b - ex->state), 0);
}

/* Layers that read the same, as queries, keys and values do, need it laid out once. */
static void find_followers(kd_exec *ex)
{
    const kd__state *last = NULL;
    for (int i = 0; i < ex->steps; i++) {
        kd__state *s = &ex->state[ex->order[i]];
        if (s->given || !s->shared_floats) continue;
        s->follows = reads_the_same(ex, last, s);
        last = s;
    }
    last = NULL;
    for (int i = ex->steps - 1; i >= 0; i--) {
        kd__state *s = &ex->state[ex->order[i]];
        if (!s->has_backward || !s->shared_floats) continue;
        s->follows_back = reads_the_same(ex, last, s) && !s->prev;
        last = s;
    }
}

static kd__soon weights_of(const kd_exec *ex, const kd__state *s)
{
    return s ? (kd__soon){s->w[0], ex->g->param[s->n->param[0]].size} : (kd__soon){0};
}

/* Weights come from memory once a pass: a layer's products ask for those of the next one. */
static void look_ahead(kd_exec *ex)
{
    const kd__state *next = NULL;
    for (int i = ex->steps - 1; i >= 0; i--) {
        kd__state *s = &ex->state[ex->order[i]];
        if (s->n->op != &kd__op_linear || s->given) continue;
        s->soon = weights_of(ex, next);
        next = s;
    }
    next = NULL;
    for (int i = 0; i < ex->steps; i++) {
        kd__state *s = &ex->state[ex->order[i]];
        if (s->n->op != &kd__op_linear || !s->dx[0]) continue;
        s->soon_back = weights_of(ex, next);
        next = s;
    }
}

/* ---- all of it ---------------------------------------------------------------------------- */

static kd_status plan_memory(planning *p, kd_err *err)
{
    kd_exec *ex = p->ex;
    size_t total = 0, shared = 0;
    for (int i = 0; i < ex->steps; i++) {
        add_node(p, ex->order[i]);
        shared = kd_max_size(shared, ex->state[ex->order[i]].shared_floats);
    }
    p->shared = new_buffer(p, shared, 0, ex->steps - 1);
    p->buf[p->shared].again = (life){ex->steps + 1, 2 * ex->steps};
    p->head = ex->p.with ? new_buffer(p, kd__head_floats(ex->p.with), ex->steps, ex->steps) : -1;
    share_values(p);
    share_gradients(p);
    kd_status st = place(p, &total, err);
    if (!st) st = allocate(p, total, err);
    if (!st) connect(p);
    if (!st && ex->p.with) kd__head_place(ex->p.with, address(p, p->head));
    return st;
}

/* No product of sizes may overflow later: all floats of all nodes, four times over, are countable. */
static kd_status check_size(const kd_exec *ex, kd_err *err)
{
    size_t sum = 0;
    for (int i = 0; i < ex->g->nodes; i++) sum += ex->g->node[i].size; // a node has less than SIZE_MAX / 1024
    if (sum > SIZE_MAX / 64 / (2 * KD__ROWS_STEP) ||
        (size_t)ex->p.batch > SIZE_MAX / 64 / (sum + 1) - KD__ROWS_STEP)
        return kd_fail(err, KD_ENOMEM,
                       "a batch of %lld rows of %zu numbers does not fit into memory; use a smaller batch",
                       (long long)ex->p.batch, sum);
    return KD_OK;
}

kd_status kd__exec_plan(kd_exec *ex, kd_err *err)
{
    const size_t n = (size_t)ex->g->nodes;
    planning p = {.ex = ex,
                  .step = malloc(n * sizeof *p.step),
                  .grad = calloc(n, 1),
                  .output = calloc(n, 1),
                  .written = calloc(n, 1),
                  .readers = calloc(n, sizeof *p.readers),
                  .at = calloc(n, sizeof *p.at),
                  .buf = calloc(3 * n + 2, sizeof *p.buf)};
    kd_status st = check_size(ex, err);
    if (!p.step || !p.grad || !p.output || !p.written || !p.readers || !p.at || !p.buf)
        st = kd_fail(err, KD_ENOMEM, "out of memory for the plan of %zu layers", n);
    if (!st) {
        memset(p.step, -1, n * sizeof *p.step);
        find_order(&p);
        find_gradients(&p);
        find_neighbours(&p);
    }
    for (int i = 0; i < ex->steps && !st; i++) {
        kd__state *s = &ex->state[ex->order[i]];
        if (s->n->op->plan && !s->given) st = s->n->op->plan(ex, s, err);
    }
    if (!st) find_followers(ex);
    if (!st) st = plan_memory(&p, err);
    if (!st) look_ahead(ex);
    free(p.step);
    free(p.grad);
    free(p.output);
    free(p.written);
    free(p.readers);
    free(p.at);
    free(p.buf);
    return st;
}
