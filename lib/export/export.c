/* export.c - the formats, and what can be asked of them. */
#include "export_private.h"

#include <math.h>
#include <string.h>

const kd_option kd_model_export_options[] = {
    {"Format", NULL, "to", NULL, 0, KD_OPTION_CHOICE, offsetof(kd_model_export, to), NULL, 0, 0,
     "onnx|c|gguf|sentence-transformers|transformers",
     "what to write: onnx (opset 17), c (one C99 source without dependencies); of text encoders onnx, gguf "
     "(llama.cpp) or a folder for sentence-transformers; of language models onnx, gguf or a folder for "
     "transformers"},
    {"Format", NULL, "weights", NULL, 0, KD_OPTION_CHOICE, offsetof(kd_model_export, weights), "f32", 0, 0,
     "f32|f16|bf16|int8|int4",
     "numbers of the weights; f16: gguf, transformers; bf16: transformers; int8: onnx, c, with a scale for "
     "each "
     "output channel, and gguf (Q8_0); int4: gguf (Q4_0)"},
    {"Format", NULL, "input", NULL, 0, KD_OPTION_CHOICE, offsetof(kd_model_export, input), "f32", 0, 0,
     "f32|u8", "numbers of an input row; u8: bytes, as pixels are"},
    {"Format", NULL, "preprocess", NULL, 0, KD_OPTION_BOOL, offsetof(kd_model_export, preprocess), "on", 0, 0,
     NULL, "centre and scale raw input as in training; off: the caller does"},
    {"Format", NULL, "layout", NULL, 0, KD_OPTION_CHOICE, offsetof(kd_model_export, layout), "nchw", 0, 0,
     "nchw|nhwc", "onnx: axes of a batch of images; c always has height, width, channels"},
    {"Format", NULL, "prefix", "NAME_", 0, KD_OPTION_STRING, offsetof(kd_model_export, prefix), NULL, 0, 0,
     NULL, "c: what the names of predict() and its constants begin with; default: nothing"},
    {"Format", NULL, "tokenizer", "FOLDER", 0, KD_OPTION_STRING, offsetof(kd_model_export, tokenizer), NULL,
     0, 0, NULL,
     "where a text model's tokenizer.json or vocab.txt is (or its .gguf); without it the student's folder"},
};
const size_t kd_model_export_options_n = KD_COUNT(kd_model_export_options);

static const struct {
    const char *name;
    kd__format *write;
} formats[] = {{"onnx", kd__write_onnx}, {"c", kd__write_c}, {"gguf", kd__write_gguf}};

static bool begins_a_name(const char *s)
{
    static const char digits[] = "0123456789",
                      all[] = "0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    return *s && strlen(s) <= 64 && !strchr(digits, *s) && strspn(s, all) == strlen(s);
}

/* Which weights go with which format. */
static const struct {
    const char *weights, *formats;
} kinds[] = {
    {"f16", "gguf, transformers"},
    {"bf16", "transformers"},
    {"int8", "onnx, c, gguf"},
    {"int4", "gguf"},
};

static bool has(const char *list, const char *word) /* "a, b" */
{
    const size_t n = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 2 : NULL)
        if (!strncmp(at, word, n) && (!at[n] || at[n] == ',')) return true;
    return false;
}

/* The largest f16 is 65504; what is larger would be infinite. */
static kd_status check_halves(const kd_model *m, kd_err *err)
{
    const kd_param *p;
    const size_t n = kd_graph_params(m->graph, &p);
    for (size_t i = 0; i < n; i++) {
        const float *w = kd_graph_param_data(m->graph, &p[i]);
        for (size_t k = 0; k < p[i].size; k++)
            if (fabsf(w[k]) > 65504)
                return kd_fail(err, KD_ENUMERIC,
                               "%s: tensor %s: element %zu is %g, too large for --weights f16", m->name,
                               p[i].name, k, (double)w[k]);
    }
    return KD_OK;
}

static kd_status check(const kd_model *m, const kd_model_export *o, kd_err *err)
{
    if (!o->to)
        return kd_fail(err, KD_EUSAGE, "no format given; choose one with --to, for example --to onnx");
    if (o->prefix && !begins_a_name(o->prefix))
        return kd_fail(err, KD_EUSAGE, "--prefix %.80s: expected the beginning of a C name, like shoe_",
                       o->prefix);
    for (size_t i = 0; i < KD_COUNT(kinds); i++)
        if (!strcmp(kinds[i].weights, o->weights) && !has(kinds[i].formats, o->to))
            return kd_fail(err, KD_EUSAGE, "--weights %s is for %s; %s has others (f32 always)", o->weights,
                           kinds[i].formats, o->to);
    if (!strcmp(o->input, "u8") && !o->preprocess && (m->mean != 0 || m->scale != 1))
        return kd_fail(err, KD_EUSAGE, "--input u8 takes raw bytes, so --no-preprocess does not go with it");
    return strcmp(o->weights, "f16") ? KD_OK : check_halves(m, err);
}

static uint64_t weight_bytes(const kd__net *net)
{
    uint64_t n = 0;
    for (const kd__layer *l = net->layer; l < net->layer + net->layers; l++) {
        if (l->shared) continue;
        n += l->weights * (l->q ? 1 : sizeof(float)) +
             (uint64_t)l->wdims[0] * sizeof(float) * ((l->q != NULL) + (l->bias != NULL));
        for (int i = 1; i < l->f.params; i++) // an embedding's other tables
            if (l->f.param[i]->ndims > 1) n += l->f.param[i]->size * sizeof(float);
    }
    return n;
}

static kd_status write_file(const kd__net *net, const char *path, const kd_model_export *o,
                            const char *command, kd_model_export_facts *facts, kd_err *err)
{
    kd_newfile *f;
    kd_status st = kd_newfile_open(&f, path, err);
    if (st) return st;
    for (size_t i = 0; i < KD_COUNT(formats); i++)
        if (!strcmp(formats[i].name, o->to))
            st = formats[i].write(kd_newfile_stream(f), net, o, command, facts, err);
    facts->file_bytes = (uint64_t)ftello(kd_newfile_stream(f));
    if (!st) return kd_newfile_commit(f, err);
    kd_newfile_abort(f);
    return st;
}

kd_status kd_export_model(kd_model *m, const char *path, const kd_model_export *o, const char *command,
                          kd_model_export_facts *facts, kd_err *err)
{
    kd__net net = {0};
    kd_status st = check(m, o, err);
    const bool rounded =
        !st && !strcmp(o->weights, "int8") && strcmp(o->to, "gguf"); // gguf has blocks of its own
    if (!st) st = kd__net_build(&net, m, rounded, err);
    if (!st) {
        *facts = (kd_model_export_facts){.weight_bytes = weight_bytes(&net),
                                         .macs = kd_graph_macs(m->graph),
                                         .layers = (size_t)net.layers};
        st = strstr(o->to, "transformers") ? kd__write_bundle(path, m, o, command, facts, err)
                                           : write_file(&net, path, o, command, facts, err);
    }
    kd__net_release(&net);
    return st;
}
