/* look.c - what is large inside a model: its hidden states' directions, and what heads and channels give.
 *
 * A sample of texts runs through the model. Of the states where the chosen layers begin and end it keeps the
 * second moments of x / |x|, as norms see them, of what the matrices read that add to states (heads and
 * channels) the mean squares. Without texts the table's rows stand for states and weights for what they make
 * of states of length 1.
 */
#include "model_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 512 }; /* tokens a pass at most, but for longer sequences */

static const kd_param *param(const kd_model *m, int64_t layer, const char *name)
{
    kd__node_name b;
    return kd__find_param(m, kd__name(&b, "layer%lld.%s", (long long)layer, name));
}

static const float *weight(kd_model *m, int64_t layer, const char *name)
{
    const kd_param *p = param(m, layer, name);
    return p ? kd_graph_param_data(m->graph, p) : NULL;
}

/* ---- states --------------------------------------------------------------------------------- */

/* x: room for d numbers. */
static void see(double *moments, double *x, const float *state, size_t d, bool centred)
{
    double mean = 0, square = 0;
    for (size_t i = 0; i < d && centred; i++) mean += (double)state[i] / (double)d;
    for (size_t i = 0; i < d; i++) {
        x[i] = (double)state[i] - mean;
        square += x[i] * x[i];
    }
    if (!(square > 0)) return;
    for (size_t i = 0; i < d; i++) x[i] /= sqrt(square);
    for (size_t i = 0; i < d; i++) kd__add_times(moments + i * d, x, x[i], i + 1);
}

/* Both triangles, and a little in every direction, so that there are as many as somebody asks for. */
static void complete(double *moments, size_t d, bool centred)
{
    double trace = 0;
    for (size_t i = 0; i < d; i++) trace += moments[i * d + i];
    const double little = (trace > 0 ? trace : 1) * 1e-9 / (double)d;
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j <= i; j++) {
            moments[i * d + j] += little * ((i == j) - (centred ? 1.0 / (double)d : 0));
            moments[j * d + i] = moments[i * d + j];
        }
}

/* ---- a pass over texts ---------------------------------------------------------------------- */

typedef struct pass {
    kd_exec *ex;
    kd_node *at; /* the table's rows, before each layer, behind the last; heads and channels of each layer */
    int n;
    double *x; /* (d) */
} pass;

/* Where its hidden states are what a layer reads. */
static kd_node before(const kd_model *m, int64_t layer)
{
    kd__node_name b;
    if (layer) return kd_graph_find(m->graph, kd__name(&b, "layer%lld", (long long)layer - 1));
    const kd_node norm = kd_graph_find(m->graph, "embeddings_norm");
    return m->spec.embedding ? kd_graph_find(m->graph, "embeddings_project")
           : norm >= 0       ? norm
                             : kd_graph_find(m->graph, "embeddings");
}

static kd_node inside(const kd_model *m, int64_t layer, const char *what)
{
    kd__node_name b;
    return kd_graph_find(m->graph, kd__name(&b, "layer%lld.%s", (long long)layer, what));
}

static kd_status open_pass(pass *p, kd_model *from, const int64_t *layer, size_t layers, const kd_init *init,
                           kd_err *err)
{
    const kd_sample *s = init->sample;
    uint64_t longest = PIECE;
    p->n = (int)(3 * layers + 2);
    p->at = malloc((size_t)p->n * sizeof *p->at);
    p->x = malloc((size_t)from->spec.width * sizeof *p->x);
    if (!p->at || !p->x) return kd_fail(err, KD_ENOMEM, "no memory to look at %s", init->folder);
    for (int64_t i = 0; i < s->n; i++) longest = kd_max_size(longest, s->offset[i + 1] - s->offset[i]);
    p->at[0] = kd_graph_find(from->graph, "embeddings");
    for (size_t i = 0; i <= layers; i++)
        p->at[1 + i] = !layers       ? before(from, 0)
                       : i == layers ? before(from, layer[i - 1] + 1)
                                     : before(from, layer[i]);
    for (size_t i = 0; i < layers; i++) {
        const kd_node gated = inside(from, layer[i], "gated");
        p->at[2 + layers + i] = inside(from, layer[i], "heads");
        p->at[2 + 2 * layers + i] = gated >= 0 ? gated : inside(from, layer[i], "gelu");
    }
    const kd_exec_params how = {
        .batch = (int64_t)longest, .threads = init->threads, .keep = p->at, .nkeep = p->n, .kept_only = true};
    return kd_exec_create(&p->ex, from->graph, &how, err);
}

static void add_squares(double *sum, const float *x, size_t rows, size_t n)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++) sum[i] += (double)x[r * n + i] * (double)x[r * n + i];
}

static void see_values(kd__look *l, const pass *p, size_t rows)
{
    const size_t n = l->layers;
    for (size_t r = 0; r < rows && l->tables; r++)
        see(l->tables, p->x, kd_exec_value(p->ex, p->at[0]) + r * l->d, l->d, true);
    for (size_t k = 0; k <= n; k++)
        for (size_t r = 0; r < rows; r++)
            see(l->states, p->x, kd_exec_value(p->ex, p->at[1 + k]) + r * l->d, l->d, l->centred);
    for (size_t k = 0; k < n; k++) {
        add_squares(l->heads + k * l->d, kd_exec_value(p->ex, p->at[2 + n + k]), rows, l->d);
        add_squares(l->channels + k * l->ffn, kd_exec_value(p->ex, p->at[2 + 2 * n + k]), rows, l->ffn);
    }
}

static kd_status see_texts(kd__look *l, kd_model *from, const int64_t *layer, const kd_init *init,
                           kd_err *err)
{
    const kd_sample *s = init->sample;
    pass p = {0};
    uint64_t *offset = malloc((size_t)(s->n + 1) * sizeof *offset);
    kd_status st = offset ? open_pass(&p, from, layer, l->layers, init, err)
                          : kd_fail(err, KD_ENOMEM, "no memory to look at %s", init->folder);
    for (int64_t i = 0, k; i < s->n && !st; i = k) {
        for (k = i; k < s->n && (k == i || s->offset[k + 1] - s->offset[i] <= PIECE); k++)
            offset[k - i] = s->offset[k] - s->offset[i];
        offset[k - i] = s->offset[k] - s->offset[i];
        if ((st = kd_model_feed_tokens(from, p.ex, s->token + s->offset[i], KD_I32, offset, k - i, err)))
            break;
        kd_exec_run_forward(p.ex);
        see_values(l, &p, (size_t)offset[k - i]);
    }
    kd_exec_free(p.ex);
    free(p.at);
    free(p.x);
    free(offset);
    return st;
}

/* ---- without texts -------------------------------------------------------------------------- */

static double square(const float *x, size_t step, const float *gain, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const double v = (double)x[i * step] * (gain ? (double)gain[i] : 1);
        sum += v * v;
    }
    return sum;
}

/* What a state of length 1 can become in each head's numbers and each channel. */
static void see_layer(kd__look *l, size_t k, kd_model *m, int64_t layer)
{
    const size_t d = l->d, e = d / (size_t)m->spec.heads,
                 groups = (size_t)param(m, layer, "value.weight")->dims[0] / e,
                 each = (size_t)m->spec.heads / groups;
    const float *value = weight(m, layer, "value.weight"), *up = weight(m, layer, "up.weight"),
                *gate = weight(m, layer, "gate.weight"),
                *before_heads = weight(m, layer, "attention_norm.weight"),
                *before_channels = weight(m, layer, "network_norm.weight");
    for (size_t i = 0; i < d; i++)
        l->heads[k * d + i] = square(value + (i / e / each * e + i % e) * d, 1, before_heads, d);
    for (size_t i = 0; i < l->ffn; i++)
        l->channels[k * l->ffn + i] = square(up + i * d, 1, before_channels, d) *
                                      (gate ? square(gate + i * d, 1, before_channels, d) : 1);
}

static kd_status see_weights(kd__look *l, kd_model *m, const int64_t *layer, kd_err *err)
{
    const kd_param *own = kd__find_param(m, "embeddings.weight"),
                   *table = own ? own : kd__find_param(m, "embeddings.word_embeddings.weight");
    double *x = malloc(l->d * sizeof *x);
    if (!x) return kd_fail(err, KD_ENOMEM, "no memory to look at %s", m->name);
    for (size_t r = 0; r < (size_t)table->dims[0]; r++) {
        const float *row = kd_graph_param_data(m->graph, table) + r * l->d;
        see(l->states, x, row, l->d, l->centred);
        if (l->tables) see(l->tables, x, row, l->d, true);
    }
    for (size_t k = 0; k < l->layers; k++) see_layer(l, k, m, layer[k]);
    free(x);
    return KD_OK;
}

/* ---- both ----------------------------------------------------------------------------------- */

/* What is seen before a matrix becomes what that adds to states. */
static void weigh(double *seen, const float *adds, size_t d, size_t n)
{
    for (size_t i = 0; i < n; i++) seen[i] *= square(adds + i, n, NULL, d);
}

kd_status kd__look_at(kd__look *l, kd_model *from, const int64_t *layer, const kd_init *init, kd_err *err)
{
    const size_t d = l->d, layers = l->layers;
    l->states = calloc(d * d, sizeof *l->states);
    l->heads = calloc(layers * d + 1, sizeof *l->heads);
    l->channels = calloc(layers * l->ffn + 1, sizeof *l->channels);
    if (from->spec.embedding && !init->sample)
        return kd_fail(err, KD_EUSAGE,
                       "init.from %s: its tables are no hidden states; set init.tokens to look at texts",
                       init->folder);
    if (!l->states || !l->heads || !l->channels ||
        (l->with_tables && !(l->tables = calloc(d * d, sizeof *l->tables))))
        return kd_fail(err, KD_ENOMEM, "no memory to look at %s", init->folder);
    kd_status st = init->sample ? see_texts(l, from, layer, init, err) : see_weights(l, from, layer, err);
    if (st) return st;
    complete(l->states, d, l->centred);
    if (l->tables) complete(l->tables, d, true);
    for (size_t k = 0; k < layers; k++) {
        weigh(l->heads + k * d, weight(from, layer[k], "merge.weight"), d, d);
        weigh(l->channels + k * l->ffn, weight(from, layer[k], "down.weight"), d, l->ffn);
    }
    return KD_OK;
}

void kd__look_release(kd__look *l)
{
    free(l->states);
    free(l->tables);
    free(l->heads);
    free(l->channels);
    *l = (kd__look){0};
}
