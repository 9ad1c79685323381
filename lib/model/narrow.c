/* narrow.c - a model that begins as a narrower copy of another one.
 *
 * Hidden states x of the other model become y = s P x: P has orthonormal rows (basis.c), and s keeps layer
 * norms' variance at 1. Every matrix that reads x (rows of queries, keys, values, gate, up, logits) gets its
 * columns projected, every one that adds to x its rows; tables are rows of x. The gain of an RMS norm is
 * moved into the matrices behind it first, what remains there is one number that makes up for the lengths of
 * x and y. Gains between a stream and itself (layer norms, the norm before a tied table) become the diagonal
 * part of P g P^T.
 *
 * Inside layers nothing is mixed: whole heads stay, with the group of keys and values that they share, and
 * whole channels, those that add most to hidden states (look.c). With equal
 * widths all of this is a copy.
 */
#include "model_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum part { ALL, HEADS, GROUPS, CHANNELS, PARTS } part;

typedef struct narrow {
    kd_model *m, *from;
    const kd_init *init;
    kd__look look;           /* at the other one */
    kd__basis stream, table; /* r 0: as wide as the other one's */
    double scale;            /* s */
    size_t *pick[PARTS];     /* of the layer at hand: rows of the other's that stay, in order */
    size_t n[PARTS];
} narrow;

/* A kind of layer's sizes. */
static int64_t kv_of(const kd_model_spec *s) { return s->kv_heads ? s->kv_heads : s->heads; }
static int64_t ffn_of(const kd_model_spec *s) { return s->ffn ? s->ffn : 4 * s->width; }

bool kd__is_narrower(const kd_model *m, const kd_model *from)
{
    const kd_model_spec *a = &m->spec, *b = &from->spec;
    return kd_model_reads_tokens(m) &&
           (a->width != b->width || a->heads != b->heads || kv_of(a) != kv_of(b) || ffn_of(a) != ffn_of(b) ||
            a->embedding != b->embedding);
}

static kd_status check(const narrow *w, kd_err *err)
{
    const kd_model_spec *a = &w->m->spec, *b = &w->from->spec;
    const char *folder = w->init->folder, *name = w->m->name;
    const struct {
        const char *key;
        int64_t ours, theirs;
    } most[] = {{"width", a->width, b->width},    {"layers", w->init->layers.n ? 0 : a->layers, b->layers},
                {"ffn", ffn_of(a), ffn_of(b)},    {"heads", a->heads, b->heads},
                {"kv_heads", kv_of(a), kv_of(b)}, {"positions", a->positions, b->positions},
                {"types", a->types, b->types}};
    const size_t n = KD_COUNT(most) - (strcmp(a->arch, "llama") ? 0 : 2); // positions are no table there
    for (size_t i = 0; i < n; i++)
        if (most[i].ours > most[i].theirs)
            return kd_fail(
                err, KD_EMISMATCH,
                "init.from %s: model.%s is %lld, %s has %lld; a model can begin as a smaller copy only",
                folder, most[i].key, (long long)most[i].theirs, name, (long long)most[i].ours);
    if (a->vocab != b->vocab)
        return kd_fail(err, KD_EMISMATCH, "init.from %s: a vocabulary of %lld tokens, %s has %lld", folder,
                       (long long)b->vocab, name, (long long)a->vocab);
    if (a->width / a->heads != b->width / b->heads)
        return kd_fail(err, KD_EMISMATCH,
                       "init.from %s: heads of %lld numbers, %s has %lld (model.width by model.heads); whole "
                       "heads are kept",
                       folder, (long long)(b->width / b->heads), name, (long long)(a->width / a->heads));
    if (a->heads / kv_of(a) > b->heads / kv_of(b))
        return kd_fail(err, KD_EMISMATCH,
                       "init.from %s: %lld heads share one of keys and values, in %s %lld (model.heads by "
                       "model.kv_heads); whole groups are kept",
                       folder, (long long)(b->heads / kv_of(b)), name, (long long)(a->heads / kv_of(a)));
    if (!strcmp(a->arch, "llama") && a->rope_base != b->rope_base)
        return kd_fail(err, KD_EMISMATCH, "init.from %s: model.rope_base is %g, %s has %g", folder,
                       b->rope_base, name, a->rope_base);
    if (b->embedding && a->embedding != b->embedding)
        return kd_fail(err, KD_EMISMATCH,
                       "init.from %s: tables %lld wide, %s has %lld (model.embedding); such tables are "
                       "copied as they are",
                       folder, (long long)b->embedding, name, (long long)a->embedding);
    return KD_OK;
}

/* ---- parameters ----------------------------------------------------------------------------- */

static float *data(kd_model *m, const char *name)
{
    const kd_param *p = kd__find_param(m, name);
    return p ? kd_graph_param_data(m->graph, p) : NULL;
}

/* Which of the other's layers becomes layer i. */
static int64_t source(const narrow *w, int64_t i) { return w->init->layers.n ? w->init->layers.v[i] : i; }

/* The stream's project, or a copy where it is as wide. */
static void project(const narrow *w, kd__matrix y, kd__matrix x, const size_t *pick, size_t n,
                    const float *gain, double scale)
{
    if (w->stream.r) {
        kd__basis_project(&w->stream, y, x, pick, n, gain, scale);
        return;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < (size_t)w->m->spec.width; j++)
            y.v[i * y.row + j * y.col] = x.v[(pick ? pick[i] : i) * x.row + j * x.col];
}

static size_t d_of(const narrow *w) { return (size_t)w->from->spec.width; }
static size_t r_of(const narrow *w) { return (size_t)w->m->spec.width; }

/* What stands before the narrow states' norm so that what is read through it is as long. */
static double longer(const narrow *w)
{
    return w->stream.r ? w->scale * w->stream.kept * sqrt((double)d_of(w) / (double)r_of(w)) : 1;
}

/* n rows that read states (columns of y and x: the states' numbers), or that are states. */
static void lay_rows(const narrow *w, float *y, float *x, part which, size_t n, const float *gain,
                     double scale)
{
    project(w, (kd__matrix){y, r_of(w), 1}, (kd__matrix){x, d_of(w), 1}, w->pick[which], n, gain, scale);
}

/* n columns that add to states: y (r, n), x (d, of). */
static void lay_columns(const narrow *w, float *y, float *x, part which, size_t n, size_t of)
{
    project(w, (kd__matrix){y, 1, n}, (kd__matrix){x, 1, of}, w->pick[which], n, NULL, w->scale);
}

/* The diagonal part of a gain in the narrow basis. */
static void lay_gain(const narrow *w, float *y, const float *g)
{
    const size_t d = d_of(w);
    if (!w->stream.r) memcpy(y, g, d * sizeof *y);
    for (size_t j = 0; j < w->stream.r; j++) {
        double sum = 0;
        for (size_t i = 0; i < d; i++)
            sum += (double)w->stream.p[j * d + i] * (double)w->stream.p[j * d + i] * (double)g[i];
        y[j] = (float)(longer(w) * sum);
    }
}

static void lay_constant(const narrow *w, float *y, const float *g)
{
    if (!w->stream.r) memcpy(y, g, d_of(w) * sizeof *y);
    for (size_t j = 0; j < w->stream.r; j++) y[j] = (float)longer(w);
}

/* ---- which heads and channels stay ---------------------------------------------------------- */

typedef struct candidate {
    double score;
    size_t i;
} candidate;

static int best_first(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return x->i < y->i ? -1 : x->i > y->i;
}

static int in_order(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    return x->i < y->i ? -1 : x->i > y->i;
}

/* The k best of n to the front, these in their own order. */
static void best(candidate *c, size_t n, size_t k)
{
    qsort(c, n, sizeof *c, best_first);
    qsort(c, k, sizeof *c, in_order);
}

/* The other's parameter of this layer. */
static float *theirs(const narrow *w, int64_t layer, const char *name)
{
    kd__node_name b;
    return data(w->from, kd__name(&b, "layer%lld.%s", (long long)layer, name));
}

/* Rows of the numbers of head or group c[i], i below k. */
static void spread(size_t *pick, const candidate *c, size_t k, size_t e)
{
    for (size_t i = 0; i < k * e; i++) pick[i] = c[i / e].i * e + i % e;
}

static double sum(const double *x, size_t n)
{
    double all = 0;
    for (size_t i = 0; i < n; i++) all += x[i];
    return all;
}

/* c: as many candidates as the other has heads, and groups; adds: what each number of a head does. */
static void choose_heads(const narrow *w, const double *adds, candidate *head, candidate *group)
{
    const kd_model_spec *a = &w->m->spec, *b = &w->from->spec;
    const size_t heads = (size_t)b->heads, groups = (size_t)kv_of(b), each = heads / groups,
                 e = d_of(w) / heads, stay = (size_t)kv_of(a), share = (size_t)(a->heads / kv_of(a));
    for (size_t g = 0; g < groups; g++) {
        candidate *own = head + g * each;
        group[g] = (candidate){0, g};
        for (size_t h = g * each; h < (g + 1) * each; h++) head[h] = (candidate){sum(adds + h * e, e), h};
        best(own, each, share);
        for (size_t h = 0; h < share; h++) group[g].score += own[h].score;
    }
    best(group, groups, stay);
    spread(w->pick[GROUPS], group, stay, e);
    for (size_t g = 0; g < stay; g++)
        spread(w->pick[HEADS] + g * share * e, head + group[g].i * each, share, e);
}

static void choose_channels(const narrow *w, const double *adds, candidate *c)
{
    const size_t n = (size_t)ffn_of(&w->from->spec);
    for (size_t i = 0; i < n; i++) c[i] = (candidate){adds[i], i};
    best(c, n, w->n[CHANNELS]);
    spread(w->pick[CHANNELS], c, w->n[CHANNELS], 1);
}

/* Of what becomes layer i. */
static kd_status choose(const narrow *w, size_t i, kd_err *err)
{
    const kd_model_spec *b = &w->from->spec;
    const size_t heads = (size_t)b->heads, groups = (size_t)kv_of(b), channels = (size_t)ffn_of(b);
    candidate *c = calloc(heads + groups + channels, sizeof *c);
    if (!c) return kd_fail(err, KD_ENOMEM, "no memory to choose heads");
    choose_heads(w, w->look.heads + i * d_of(w), c, c + heads);
    choose_channels(w, w->look.channels + i * channels, c + heads + groups);
    free(c);
    return KD_OK;
}

/* ---- layers --------------------------------------------------------------------------------- */

typedef enum kind { READS, ADDS, STATE, PICKED, GAIN, CONSTANT } kind;

static const struct rule {
    const char *name;
    kind kind;
    part part;
    const char *gain; /* of the norm before it, which moves into it */
} rules[] = {
    {"attention_norm.weight", CONSTANT, ALL, NULL},
    {"query.weight", READS, HEADS, "attention_norm.weight"},
    {"query.bias", PICKED, HEADS, NULL},
    {"key.weight", READS, GROUPS, "attention_norm.weight"},
    {"key.bias", PICKED, GROUPS, NULL},
    {"value.weight", READS, GROUPS, "attention_norm.weight"},
    {"value.bias", PICKED, GROUPS, NULL},
    {"merge.weight", ADDS, HEADS, NULL},
    {"merge.bias", STATE, ALL, NULL},
    {"attention.weight", GAIN, ALL, NULL},
    {"attention.bias", STATE, ALL, NULL},
    {"network_norm.weight", CONSTANT, ALL, NULL},
    {"gate.weight", READS, CHANNELS, "network_norm.weight"},
    {"up.weight", READS, CHANNELS, "network_norm.weight"},
    {"up.bias", PICKED, CHANNELS, NULL},
    {"down.weight", ADDS, CHANNELS, NULL},
    {"down.bias", STATE, ALL, NULL},
    {"weight", GAIN, ALL, NULL},
    {"bias", STATE, ALL, NULL},
};

static void lay(const narrow *w, const struct rule *r, float *y, float *x, const float *gain)
{
    const size_t n = w->n[r->part],
                 of[PARTS] = {[HEADS] = d_of(w), [CHANNELS] = (size_t)ffn_of(&w->from->spec)};
    switch (r->kind) {
    case READS: lay_rows(w, y, x, r->part, n, gain, 1 / w->scale); break;
    case ADDS: lay_columns(w, y, x, r->part, n, of[r->part]); break;
    case STATE: lay_rows(w, y, x, ALL, 1, NULL, w->scale); break;
    case PICKED:
        for (size_t i = 0; i < n; i++) y[i] = x[w->pick[r->part][i]];
        break;
    case GAIN: lay_gain(w, y, x); break;
    case CONSTANT: lay_constant(w, y, x); break;
    }
}

/* Parameters of layer i; a kind of model has some of the rules'. */
static kd_status lay_layer(const narrow *w, int64_t i, kd_err *err)
{
    const int64_t layer = source(w, i);
    kd_status st = choose(w, (size_t)i, err);
    for (size_t k = 0; k < KD_COUNT(rules) && !st; k++) {
        kd__node_name b;
        const struct rule *r = &rules[k];
        float *y = data(w->m, kd__name(&b, "layer%lld.%s", (long long)i, r->name));
        if (y) lay(w, r, y, theirs(w, layer, r->name), r->gain ? theirs(w, layer, r->gain) : NULL);
    }
    return st;
}

/* ---- before and behind them ----------------------------------------------------------------- */

static const char *const tables[] = {"embeddings.weight", "embeddings.word_embeddings.weight",
                                     "embeddings.position_embeddings.weight",
                                     "embeddings.token_type_embeddings.weight"};

static size_t rows_of(const kd_model *m, const char *name)
{
    const kd_param *p = kd__find_param(m, name);
    return p ? (size_t)p->dims[0] : 0;
}

/* Tables narrower than states where the other's are states: the norm's gain and bias move behind the norm. */
static kd_status lay_narrow_tables(const narrow *w, kd_err *err)
{
    const kd__basis *t = &w->table;
    const size_t d = t->d, e = t->r;
    const float *gain = data(w->from, "embeddings_norm.weight");
    const double longer_rows = t->kept * sqrt((double)d / (double)e);
    float *map = malloc(d * e * sizeof *map);
    if (!map) return kd_fail(err, KD_ENOMEM, "no memory for a mapping of tables");
    for (size_t i = 0; i < KD_COUNT(tables); i++)
        if (data(w->m, tables[i]))
            kd__basis_project(t, (kd__matrix){data(w->m, tables[i]), e, 1},
                              (kd__matrix){data(w->from, tables[i]), d, 1}, NULL, rows_of(w->m, tables[i]),
                              NULL, 1);
    for (size_t i = 0; i < d; i++)
        for (size_t k = 0; k < e; k++)
            map[i * e + k] = (float)(longer_rows * (double)gain[i] * (double)t->p[k * d + i]);
    lay_columns(w, data(w->m, "embeddings_project.weight"), map, ALL, e, e);
    lay_rows(w, data(w->m, "embeddings_project.bias"), data(w->from, "embeddings_norm.bias"), ALL, 1, NULL,
             w->scale);
    free(map);
    return KD_OK;
}

/* Tables with a mapping behind them, as the other's are. */
static void copy_tables(const narrow *w)
{
    static const char *const norm[] = {"embeddings_norm.weight", "embeddings_norm.bias"};
    const size_t e = (size_t)w->m->spec.embedding;
    for (size_t i = 0; i < KD_COUNT(tables); i++)
        if (data(w->m, tables[i]))
            memcpy(data(w->m, tables[i]), data(w->from, tables[i]),
                   rows_of(w->m, tables[i]) * e * sizeof(float));
    for (size_t i = 0; i < KD_COUNT(norm); i++)
        memcpy(data(w->m, norm[i]), data(w->from, norm[i]), e * sizeof(float));
    lay_columns(w, data(w->m, "embeddings_project.weight"), data(w->from, "embeddings_project.weight"), ALL,
                e, e);
    lay_rows(w, data(w->m, "embeddings_project.bias"), data(w->from, "embeddings_project.bias"), ALL, 1, NULL,
             w->scale);
}

static kd_status lay_tables(const narrow *w, kd_err *err)
{
    float *norm = data(w->m, "embeddings_norm.weight");
    if (w->table.r) return lay_narrow_tables(w, err);
    if (w->m->spec.embedding) {
        copy_tables(w);
        return KD_OK;
    }
    for (size_t i = 0; i < KD_COUNT(tables); i++)
        if (data(w->m, tables[i]))
            lay_rows(w, data(w->m, tables[i]), data(w->from, tables[i]), ALL, rows_of(w->m, tables[i]), NULL,
                     w->scale);
    if (norm) {
        lay_gain(w, norm, data(w->from, "embeddings_norm.weight"));
        lay_rows(w, data(w->m, "embeddings_norm.bias"), data(w->from, "embeddings_norm.bias"), ALL, 1, NULL,
                 w->scale);
    }
    return KD_OK;
}

/* An encoder's last projection: the other's; or, where its embedding is its states, the way back to them. Of
 * another size it stays what it was. */
static void lay_projection(const narrow *w)
{
    const kd_model_spec *a = &w->m->spec, *b = &w->from->spec;
    float *y = data(w->m, "project.weight"), *x = data(w->from, "project.weight");
    const size_t d = d_of(w), r = r_of(w);
    if (y && x && rows_of(w->m, "project.weight") == rows_of(w->from, "project.weight")) {
        lay_rows(w, y, x, ALL, rows_of(w->m, "project.weight"), NULL, 1 / w->scale);
        memcpy(data(w->m, "project.bias"), data(w->from, "project.bias"),
               rows_of(w->m, "project.bias") * sizeof *y);
    } else if (y && !x && !a->classes && !b->classes && a->output == b->width) {
        for (size_t i = 0; i < d; i++)
            for (size_t j = 0; j < r; j++)
                y[i * r + j] = w->stream.r ? (float)((double)w->stream.p[j * d + i] / w->scale) : i == j;
        memset(data(w->m, "project.bias"), 0, d * sizeof *y);
    }
}

/* A decoder's last norm and, where it has weights of its own, its head. */
static kd_status lay_head(const narrow *w, kd_err *err)
{
    float *norm = data(w->m, "norm.weight"), *head = data(w->m, "logits.weight");
    const float *gain = data(w->from, "norm.weight");
    float *x = data(w->from, w->from->spec.tied ? "embeddings.weight" : "logits.weight");
    if (norm && !head) lay_gain(w, norm, gain);
    if (norm && head) lay_constant(w, norm, gain);
    if (norm && !w->from->spec.tied && !head)
        return kd_fail(err, KD_EMISMATCH,
                       "init.from %s: its logits have weights of their own, %s has model.tied: true",
                       w->init->folder, w->m->name);
    if (head) lay_rows(w, head, x, ALL, (size_t)w->m->spec.vocab, gain, 1);
    return KD_OK;
}

/* ---- the basis ------------------------------------------------------------------------------ */

/* The mean of the gains that act on states themselves. */
static void mean_gain(const narrow *w, double *mean)
{
    static const char *const of_layer[] = {"attention.weight", "weight"};
    const float *one[2] = {data(w->from, "norm.weight"),
                           w->from->spec.embedding ? NULL : data(w->from, "embeddings_norm.weight")};
    const size_t d = d_of(w);
    double n = 0;
    memset(mean, 0, d * sizeof *mean);
    for (size_t k = 0; k < 2; k++, n += one[k - 1] != NULL)
        for (size_t i = 0; i < d && one[k]; i++) mean[i] += (double)one[k][i];
    for (int64_t l = 0; l < w->m->spec.layers; l++)
        for (size_t k = 0; k < KD_COUNT(of_layer); k++) {
            const float *g = theirs(w, source(w, l), of_layer[k]);
            for (size_t i = 0; i < d && g; i++) mean[i] += (double)g[i];
            n += g != NULL;
        }
    for (size_t i = 0; i < d && n > 0; i++) mean[i] /= n;
}

static kd_status learn_stream(narrow *w, kd_err *err)
{
    double *gain = malloc(d_of(w) * sizeof *gain);
    if (!gain) return kd_fail(err, KD_ENOMEM, "no memory for a narrower model");
    mean_gain(w, gain);
    w->stream = (kd__basis){.d = d_of(w), .r = r_of(w), .centred = w->look.centred};
    kd_status st = kd__basis_learn(&w->stream, w->look.states, gain, err);
    free(gain);
    if (!st && w->look.centred) w->scale = sqrt((double)r_of(w) / (double)d_of(w)) / w->stream.kept;
    return st;
}

static kd_status learn(narrow *w, kd_err *err)
{
    const kd_model_spec *a = &w->m->spec, *b = &w->from->spec;
    w->look = (kd__look){.d = d_of(w),
                         .ffn = (size_t)ffn_of(b),
                         .layers = (size_t)a->layers,
                         .centred = strcmp(a->arch, "llama"),
                         .with_tables = a->embedding && !b->embedding};
    int64_t *layer = malloc((w->look.layers + 1) * sizeof *layer);
    if (!layer) return kd_fail(err, KD_ENOMEM, "no memory for a narrower model");
    for (int64_t i = 0; i < a->layers; i++) layer[i] = source(w, i);
    kd_status st = kd__look_at(&w->look, w->from, layer, w->init, err);
    free(layer);
    if (!st && a->width < b->width) st = learn_stream(w, err);
    if (st || !w->look.with_tables) return st;
    w->table = (kd__basis){.d = d_of(w), .r = (size_t)a->embedding, .centred = true};
    return kd__basis_learn(&w->table, w->look.tables, NULL, err);
}

static kd_status make_room(narrow *w, kd_err *err)
{
    const kd_model_spec *a = &w->m->spec;
    w->n[HEADS] = (size_t)a->width;
    w->n[GROUPS] = (size_t)(a->width / a->heads * kv_of(a));
    w->n[CHANNELS] = (size_t)ffn_of(a);
    for (int k = HEADS; k < PARTS; k++)
        if (!(w->pick[k] = malloc(w->n[k] * sizeof *w->pick[k])))
            return kd_fail(err, KD_ENOMEM, "no memory for a narrower model");
    return KD_OK;
}

kd_status kd__init_narrow(kd_model *m, kd_model *from, const kd_init *init, kd_err *err)
{
    narrow w = {.m = m, .from = from, .init = init, .scale = 1};
    kd_status st = check(&w, err);
    if (!st) st = make_room(&w, err);
    if (!st) st = learn(&w, err);
    if (!st) st = lay_tables(&w, err);
    for (int64_t i = 0; i < m->spec.layers && !st; i++) st = lay_layer(&w, i, err);
    if (!st) st = lay_head(&w, err);
    if (!st) lay_projection(&w);
    for (int k = HEADS; k < PARTS; k++) free(w.pick[k]);
    kd__look_release(&w.look);
    kd__basis_release(&w.stream);
    kd__basis_release(&w.table);
    return st;
}
