/* gguf.c - a model with its vocabulary as a GGUF file for llama.cpp.
 *
 * Every key that llama.cpp knows of a model is written: some that are missing end its process, others make
 * another model. Norms, biases and small tables are f32 in any case. With `weights: int4` the table of words
 * and the head have 8 bits: each of their rows is a token's alone, nothing averages its rounding away.
 */
#include "gguf_private.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *weights;
    kd_gguf_type matrix, table;
    uint32_t file_type; /* what llama.cpp calls a file of them */
} kinds[] = {
    {"f32", KD_GGUF_F32, KD_GGUF_F32, 0},
    {"f16", KD_GGUF_F16, KD_GGUF_F16, 1},
    {"int8", KD_GGUF_Q8_0, KD_GGUF_Q8_0, 7},
    {"int4", KD_GGUF_Q4_0, KD_GGUF_Q8_0, 2},
};

static size_t kind_of(const kd_model_export *o)
{
    size_t i = 0;
    while (strcmp(kinds[i].weights, o->weights)) i++; // export.c has checked it
    return i;
}

static kd_gguf_type type_of(const kd__gguf_arch *a, const kd_param *p, const kd_model_export *o)
{
    return a->keeps(p) ? KD_GGUF_F32 : a->is_table(p) ? kinds[kind_of(o)].table : kinds[kind_of(o)].matrix;
}

static const kd__gguf_arch *arch_of(const kd_model *m)
{
    static const kd__gguf_arch *const all[] = {&kd__gguf_bert, &kd__gguf_llama};
    for (size_t i = 0; i < KD_COUNT(all); i++)
        if (!strcmp(m->spec.arch, all[i]->name)) return all[i];
    return NULL;
}

static kd_status put_tensors(kd_gguf_writer *g, const kd__gguf_arch *a, const kd_model *m,
                             const kd_model_export *o, kd_err *err)
{
    const kd_param *p;
    const size_t n = kd_graph_params(m->graph, &p);
    char name[KD_GGUF_MAX_NAME];
    for (size_t i = 0; i < n; i++) {
        const kd_gguf_type type = type_of(a, &p[i], o);
        if (!a->name_of(name, p[i].name))
            return kd_fail(err, KD_EUNSUPPORTED, "%s: a GGUF file has no name for the tensor %s", m->name,
                           p[i].name);
        if (!kd_gguf_bytes(type, (size_t)p[i].dims[p[i].ndims - 1]))
            return kd_fail(
                err, KD_EUNSUPPORTED,
                "%s: %s weights of a GGUF file (%s) are blocks of %d; a row of %s has %lld numbers, "
                "no multiple of it",
                m->name, o->weights, kd_gguf_type_name(type), KD_GGUF_BLOCK, p[i].name,
                (long long)p[i].dims[p[i].ndims - 1]);
        kd_gguf_put_tensor(g, name, type, p[i].ndims, p[i].dims);
    }
    return KD_OK;
}

static kd_status put_numbers(FILE *f, const kd__gguf_arch *a, const kd_model *m, const kd_param *p,
                             kd_gguf_type type, kd_err *err)
{
    float *w = kd_graph_param_data(m->graph, p), *pairs;
    if (!a->pairs || !a->pairs(p->name)) {
        kd_gguf_put_numbers(f, type, w, p->size);
        return KD_OK;
    }
    if (!(pairs = malloc(p->size * sizeof *pairs)))
        return kd_fail(err, KD_ENOMEM, "%s: no memory for %s", m->name, p->name);
    kd_llama_gguf_turn(m, p, pairs, w, true);
    kd_gguf_put_numbers(f, type, pairs, p->size);
    kd_llama_gguf_turn(m, p, w, pairs, false);
    free(pairs);
    return KD_OK;
}

static void put_general(kd_gguf_writer *g, const kd_model *m, const kd_model_export *o, const char *command)
{
    kd_gguf_put_str(g, "general.architecture", m->spec.arch);
    kd_gguf_put_str(g, "general.type", "model");
    kd_gguf_put_str(g, "general.name", m->name);
    kd_gguf_put_u32(g, "general.file_type", kinds[kind_of(o)].file_type);
    kd_gguf_put_u32(g, "general.quantization_version", 2);
    kd_gguf_put_u32(g, "general.alignment", KD_GGUF_ALIGNMENT);
    kd_gguf_put_str(g, "kd.command", command ? command : "");
}

kd_status kd__write_gguf(FILE *f, const kd__net *net, const kd_model_export *o, const char *command,
                         kd_model_export_facts *facts, kd_err *err)
{
    kd_gguf_writer g = {0};
    const kd_model *m = net->m;
    const kd__gguf_arch *a = arch_of(m);
    const kd_param *p;
    const size_t n = kd_graph_params(m->graph, &p);
    kd_status st = KD_OK;
    if (!a)
        st = kd_fail(err, KD_EUNSUPPORTED,
                     "%s: a GGUF file has no words for architectures but bert and llama", m->name);
    if (!st && a->check) st = a->check(m, o, err);
    if (!st) {
        put_general(&g, m, o, command);
        st = a->put_keys(&g, m, o, err);
    }
    if (!st) st = put_tensors(&g, a, m, o, err);
    if (!st) st = kd_gguf_put_head(&g, f, err);
    for (size_t i = 0; i < n && !st; i++) st = put_numbers(f, a, m, &p[i], type_of(a, &p[i], o), err);
    facts->weight_bytes = g.bytes;
    kd_gguf_writer_release(&g);
    return st;
}
