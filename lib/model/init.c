/* init.c - a model that begins with weights of another one: all of them, or chosen layers.
 *
 * Layer i of the new model gets the weights of layer layers[i] of the other one; everything else is taken
 * under its own name. A position table may be shorter than the other's. Here widths are those of the other
 * model, or the layers' weights would mean nothing (narrow.c maps them); what only one of them has, a
 * projection, keeps its initial values.
 */
#include "model_private.h"

#include <stdlib.h>
#include <string.h>

const kd_param *kd__find_param(const kd_model *m, const char *name)
{
    const kd_param *p;
    const size_t n = kd_graph_params(m->graph, &p);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(p[i].name, name)) return &p[i];
    return NULL;
}

/* The name in the other model of what is called `name` in the new one. */
static const char *name_there(kd__node_name *b, const char *name, const kd_ints *layers)
{
    char *end;
    if (!layers->n || strncmp(name, "layer", 5)) return name;
    const unsigned long i = strtoul(name + 5, &end, 10);
    return kd__name(b, "layer%lld%s", (long long)layers->v[i], end);
}

/* Parts of encoders that may be of another size than the other model's. */
static bool may_differ(const char *name)
{
    return !strncmp(name, "project.", 8) || !strncmp(name, "embeddings", 10);
}

static bool same_rows(const kd_param *a, const kd_param *b)
{
    for (int d = 1; d < a->ndims; d++)
        if (a->dims[d] != b->dims[d]) return false;
    return a->ndims == b->ndims;
}

static kd_status take(kd_model *m, const kd_param *p, const kd_model *from, const kd_param *q,
                      const char *folder, kd_err *err)
{
    const bool positions = strstr(p->name, ".position_embeddings.") != NULL;
    if (q && same_rows(p, q) && (p->dims[0] == q->dims[0] || (positions && p->dims[0] < q->dims[0]))) {
        memcpy(kd_graph_param_data(m->graph, p), kd_graph_param_data(from->graph, q),
               p->size * sizeof(float));
        return KD_OK;
    }
    if (strstr(p->name, ".word_embeddings.") && q && same_rows(p, q))
        return kd_fail(err, KD_EMISMATCH, "init.from %s: a vocabulary of %lld tokens, %s has %lld", folder,
                       (long long)q->dims[0], m->name, (long long)p->dims[0]);
    if (may_differ(p->name)) return KD_OK;
    return kd_fail(err, KD_EMISMATCH, "init.from %s: %s %s of %s", folder,
                   q ? "another shape than" : "nothing that could become", p->name, m->name);
}

static kd_status check_layers(const kd_model *m, const kd_model *from, const kd_init *init, kd_err *err)
{
    const kd_ints *layers = &init->layers;
    if (!layers->n) return KD_OK;
    if (!kd_model_reads_tokens(m) || layers->n != (size_t)m->spec.layers)
        return kd_fail(err, KD_EUSAGE, "init.layers has %zu entries, %s has %lld layers", layers->n, m->name,
                       (long long)(kd_model_reads_tokens(m) ? m->spec.layers : 0));
    for (size_t i = 0; i < layers->n; i++)
        if (layers->v[i] >= from->spec.layers)
            return kd_fail(err, KD_EUSAGE, "init.layers names layer %lld, %s has %lld, the first one is 0",
                           (long long)layers->v[i], init->folder, (long long)from->spec.layers);
    return KD_OK;
}

static kd_status take_all(kd_model *m, const kd_model *from, const kd_init *init, kd_err *err)
{
    const kd_param *p;
    kd__node_name b;
    kd_status st = KD_OK;
    kd_graph_params(m->graph, &p);
    for (size_t i = 0; i < m->params && !st; i++)
        st = take(m, &p[i], from, kd__find_param(from, name_there(&b, p[i].name, &init->layers)),
                  init->folder, err);
    return st;
}

kd_status kd_model_init_from(kd_model *m, const kd_init *init, kd_err *err)
{
    const bool words = init->tables && !strcmp(init->tables, "words");
    kd_model *from;
    kd_status st = kd_model_load(&from, init->folder, err);
    if (st) return st;
    if (strcmp(m->spec.arch, from->spec.arch))
        st = kd_fail(err, KD_EMISMATCH, "init.from %s: model.arch is %s, that of %s is %s", init->folder,
                     from->spec.arch, m->name, m->spec.arch);
    else if (words && (!kd_model_reads_tokens(m) || init->layers.n))
        st = kd_fail(err, KD_EUSAGE, "init.tables: words is for a bert without init.layers, not %s", m->name);
    else if (words)
        st = kd__init_words(m, from, init, err);
    else if (!(st = check_layers(m, from, init, err)))
        st = kd__is_narrower(m, from) ? kd__init_narrow(m, from, init, err) : take_all(m, from, init, err);
    kd_model_free(from);
    return st;
}
