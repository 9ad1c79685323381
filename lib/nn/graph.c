/* graph.c - building a graph: nodes, parameters, fusion, the slab, initial weights.
 *
 * Builders never fail loudly: the first failure is kept in the graph and every later node fails
 * quietly, so that an architecture is a straight list of calls and kd_graph_finish reports what went
 * wrong. Fusion happens in finish: a ReLU whose input is an op that can apply it by itself (linear,
 * convolution, batch norm, addition) and that nobody else reads becomes an attribute of that op and an alias
 * of its value; names and taps stay.
 */
#include "nn_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIECE 16 /* floats: parameters start on cache lines */

kd_graph *kd_graph_create(void) { return calloc(1, sizeof(kd_graph)); }

void kd_graph_free(kd_graph *g)
{
    if (!g) return;
    for (int i = 0; i < g->nodes; i++) free(g->node[i].name);
    for (size_t i = 0; i < g->params; i++) free((char *)g->param[i].name);
    free(g->node);
    free(g->param);
    free(g->slab);
    free(g->buffers);
    free(g);
}

const kd__node_info *kd__graph_in(const kd_graph *g, const kd__node_info *n, int i)
{
    return &g->node[n->in[i]];
}

/* ---- adding ------------------------------------------------------------------------------- */

static kd_status check_new(const kd_graph *g, const char *name, int nin, const kd_node *in, kd_err *err)
{
    if (g->finished) return kd_fail(err, KD_EUSAGE, "layer %s: the graph is finished", name);
    if (!*name) return kd_fail(err, KD_EUSAGE, "a layer without a name");
    if (kd_graph_find(g, name) >= 0)
        return kd_fail(err, KD_EUSAGE, "layer %s: there is one of that name", name);
    for (int i = 0; i < nin; i++)
        if (in[i] < 0 || in[i] >= g->nodes)
            return kd_fail(err, KD_EUSAGE, "layer %s: input %d is no node of this graph", name, i);
    return KD_OK;
}

/* What a row of the new node is, unless its op's shape says otherwise. */
static kd_status find_per(const kd_graph *g, kd__node_info *n, kd_err *err)
{
    n->per = n->nin ? kd__graph_in(g, n, 0)->per : g->tokens ? KD_PER_SEQUENCE : KD_PER_ROW;
    for (int i = 1; i < n->nin; i++)
        if (kd__graph_in(g, n, i)->per != n->per)
            return kd_fail(err, KD_EUSAGE,
                           "layer %s: %s has a row for each token, or each sequence, and %s has not", n->name,
                           kd__graph_in(g, n, i)->name, kd__graph_in(g, n, 0)->name);
    if (n->per == KD_PER_ROW || n->op->packed) return KD_OK;
    return kd_fail(err, KD_EUSAGE, "layer %s: %s does not work on tokens and sequences", n->name,
                   n->op->name);
}

static void forget_params(kd_graph *g, size_t keep)
{
    while (g->params > keep) free((char *)g->param[--g->params].name);
}

kd_node kd__graph_add(kd_graph *g, const kd__op *op, const char *name, int nin, const kd_node *in,
                      const kd__attrs *a)
{
    size_t params = g->params;
    if (g->err.code || check_new(g, name, nin, in, &g->err)) return -1;
    if (g->nodes == g->cap) {
        int cap = g->cap ? 2 * g->cap : 32;
        kd__node_info *grown = realloc(g->node, (size_t)cap * sizeof *grown);
        if (!grown) {
            kd_fail(&g->err, KD_ENOMEM, "layer %s: out of memory", name);
            return -1;
        }
        g->node = grown;
        g->cap = cap;
    }
    kd__node_info n = {.op = op, .nin = nin, .a = *a, .alias = -1, .param = {-1, -1, -1, -1}};
    for (int i = 0; i < nin; i++) n.in[i] = in[i];
    if (!(n.name = kd_strdup(name))) {
        kd_fail(&g->err, KD_ENOMEM, "layer %s: out of memory", name);
        return -1;
    }
    if (find_per(g, &n, &g->err) || op->shape(g, &n, &g->err)) goto fail;
    n.size = 1;
    for (int i = 0; i < n.ndims; i++)
        if (n.dims[i] < 1 || !kd_mul_size(n.size, (size_t)n.dims[i], &n.size) || n.size > SIZE_MAX / 1024) {
            kd_fail(&g->err, KD_EUSAGE,
                    "layer %s: axis %d has %lld places; each needs 1, together at most %zu fit", name, i,
                    (long long)n.dims[i], SIZE_MAX / 1024);
            goto fail;
        }
    g->node[g->nodes] = n;
    return g->nodes++;
fail:
    forget_params(g, params);
    free(n.name);
    return -1;
}

kd_status kd__graph_param(kd_graph *g, kd__node_info *n, const char *suffix, int ndims, const int64_t *dims,
                          bool buffer, bool decay, kd_err *err)
{
    if (g->params == g->param_cap) {
        size_t cap = g->param_cap ? 2 * g->param_cap : 32;
        kd_param *grown = realloc(g->param, cap * sizeof *grown);
        if (!grown) return kd_fail(err, KD_ENOMEM, "layer %s: out of memory", n->name);
        g->param = grown;
        g->param_cap = cap;
    }
    kd_param p = {.name = kd_sprintf("%s.%s", n->name, suffix),
                  .ndims = ndims,
                  .size = 1,
                  .buffer = buffer,
                  .decay = decay};
    if (!p.name) return kd_fail(err, KD_ENOMEM, "layer %s: out of memory", n->name);
    for (int i = 0; i < ndims; i++) {
        p.dims[i] = dims[i];
        if (dims[i] < 1 || !kd_mul_size(p.size, (size_t)dims[i], &p.size) || p.size > (1u << 31)) {
            kd_fail(err, KD_EUSAGE, "parameter %s: too large", p.name);
            free((char *)p.name);
            return KD_EUSAGE;
        }
    }
    n->param[n->nparam++] = (int)g->params;
    g->param[g->params++] = p;
    return KD_OK;
}

void kd_graph_output(kd_graph *g, kd_node x)
{
    if (x >= 0 && x < g->nodes)
        g->node[x].output = true;
    else if (!g->err.code)
        kd_fail(&g->err, KD_EUSAGE, "the output is no node of the graph");
}

/* ---- finishing ---------------------------------------------------------------------------- */

static void fuse(kd_graph *g)
{
    for (int i = 0; i < g->nodes; i++)
        for (int k = 0; k < g->node[i].nin; k++) g->node[g->node[i].in[k]].uses++;
    for (int i = 0; i < g->nodes; i++) {
        kd__node_info *n = &g->node[i];
        if (n->op != &kd__op_relu) continue;
        kd__node_info *x = &g->node[n->in[0]];
        if (!x->op->fuses_relu || x->uses != 1 || x->output) continue;
        x->a.relu = true;
        n->alias = n->in[0];
    }
}

static kd_status lay_out(kd_graph *g, kd_err *err)
{
    for (size_t i = 0; i < g->params; i++) {
        size_t *total = g->param[i].buffer ? &g->buffer_floats : &g->slab_floats;
        g->param[i].offset = *total;
        *total += (g->param[i].size + PIECE - 1) / PIECE * PIECE;
    }
    g->slab = kd_alloc_aligned(g->slab_floats + PIECE, sizeof(float));
    g->buffers = kd_alloc_aligned(g->buffer_floats + PIECE, sizeof(float));
    if (!g->slab || !g->buffers)
        return kd_fail(err, KD_ENOMEM, "no memory for %zu parameters", g->slab_floats + g->buffer_floats);
    return KD_OK;
}

kd_status kd_graph_finish(kd_graph *g, kd_err *err)
{
    bool output = false;
    if (g->err.code) return kd_fail(err, g->err.code, "%s", g->err.msg);
    if (g->finished) return KD_OK;
    for (int i = 0; i < g->nodes; i++) output |= g->node[i].output;
    if (!output) return kd_fail(err, KD_EUSAGE, "the graph has no output");
    if (!g->unfused) fuse(g);
    kd_status st = lay_out(g, err);
    g->finished = !st;
    return st;
}

/* ---- what a graph has --------------------------------------------------------------------- */

size_t kd_graph_params(const kd_graph *g, const kd_param **list)
{
    *list = g->param;
    return g->params;
}

float *kd_graph_slab(kd_graph *g, size_t *floats)
{
    if (floats) *floats = g->slab_floats;
    return g->slab;
}

float *kd_graph_buffers(kd_graph *g, size_t *floats)
{
    if (floats) *floats = g->buffer_floats;
    return g->buffers;
}

float *kd_graph_param_data(kd_graph *g, const kd_param *p)
{
    return (p->buffer ? g->buffers : g->slab) + p->offset;
}

size_t kd_graph_param_count(const kd_graph *g)
{
    size_t n = 0;
    for (size_t i = 0; i < g->params; i++) n += g->param[i].buffer ? 0 : g->param[i].size;
    return n;
}

/* Numbers that feed one output number: all axes of a weight but the first. */
static double fan_in(const kd_param *p)
{
    double n = 1;
    for (int i = 1; i < p->ndims; i++) n *= (double)p->dims[i];
    return n;
}

static void fill(float *w, size_t n, float value)
{
    for (size_t i = 0; i < n; i++) w[i] = value;
}

static void init_node(kd_graph *g, const kd__node_info *n, uint64_t seed)
{
    const bool norm = n->op == &kd__op_batchnorm || n->op == &kd__op_layernorm || n->op == &kd__op_rmsnorm;
    for (int k = 0; k < n->nparam; k++) {
        const kd_param *p = &g->param[n->param[k]];
        float *w = kd_graph_param_data(g, p);
        if (norm) { /* weight, bias, running_mean, running_var */
            fill(w, p->size, k == 0 || k == 3 ? 1.0f : 0.0f);
            continue;
        }
        const double bound = 1 / sqrt(fan_in(&g->param[n->param[0]])); /* PyTorch draws the bias likewise */
        kd_rng r;
        kd_rng_init(&r, seed, KD_RNG_INIT, (uint32_t)n->param[k], 0);
        for (size_t i = 0; i < p->size; i++) w[i] = (float)((2.0 * kd_rng_uniform(&r) - 1) * bound);
    }
}

void kd_graph_init(kd_graph *g, uint64_t seed)
{
    for (int i = 0; i < g->nodes; i++) init_node(g, &g->node[i], seed);
}

int kd_graph_nodes(const kd_graph *g) { return g->nodes; }

kd_node kd_graph_find(const kd_graph *g, const char *name)
{
    for (int i = 0; i < g->nodes; i++)
        if (!strcmp(g->node[i].name, name)) return i;
    return -1;
}

const char *kd_graph_node_name(const kd_graph *g, kd_node n) { return g->node[n].name; }

int kd_graph_node_shape(const kd_graph *g, kd_node n, int64_t dims[KD_MAX_DIMS])
{
    memcpy(dims, g->node[n].dims, sizeof g->node[n].dims);
    return g->node[n].ndims;
}

size_t kd_graph_node_size(const kd_graph *g, kd_node n) { return g->node[n].size; }
kd_per kd_graph_node_per(const kd_graph *g, kd_node n) { return g->node[n].per; }

kd_node kd_graph_node_shown(const kd_graph *g, kd_node n)
{
    if (!g->node[n].a.relu) return n;
    kd_node shown = n + 1; // its one reader; a node stands behind its inputs
    while (g->node[shown].op != &kd__op_relu || g->node[shown].in[0] != n) shown++;
    return shown;
}

kd_node_facts kd_graph_node_facts(const kd_graph *g, kd_node n)
{
    const kd__node_info *i = &g->node[n];
    kd_node_facts f = {.op = i->op->name,
                       .inputs = i->nin,
                       .params = i->nparam,
                       .k = i->a.k,
                       .stride = i->a.stride,
                       .pad = i->a.pad,
                       .eps = i->a.eps};
    memcpy(f.in, i->in, sizeof f.in);
    for (int p = 0; p < i->nparam; p++) f.param[p] = &g->param[i->param[p]];
    return f;
}

double kd_graph_macs(const kd_graph *g)
{
    double sum = 0;
    for (int i = 0; i < g->nodes; i++)
        if (g->node[i].op->macs) sum += g->node[i].op->macs(g, &g->node[i]);
    return sum;
}

static bool leads_to_parameters(const kd_graph *g, kd_node n)
{
    bool leads = g->node[n].nparam > 0;
    for (int k = 0; !leads && k < g->node[n].nin; k++) leads = leads_to_parameters(g, g->node[n].in[k]);
    return leads;
}

/* Forward, dW and dX each cost the same multiply-adds; dX is formed where the input leads to parameters. */
double kd_graph_train_flops(const kd_graph *g)
{
    double sum = 0;
    for (int i = 0; i < g->nodes; i++) {
        const kd__node_info *n = &g->node[i];
        if (n->op->macs) sum += 2 * n->op->macs(g, n) * (leads_to_parameters(g, n->in[0]) ? 3 : 2);
    }
    return sum;
}
