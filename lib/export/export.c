/* export.c - the formats, and what can be asked of them. */
#include "export_private.h"

#include <math.h>
#include <string.h>

const kd_option kd_model_export_options[] = {
    {"Format", NULL, "to", NULL, 0, KD_OPTION_CHOICE, offsetof(kd_model_export, to), NULL, 0, 0, "onnx|c",
     "what to write: onnx (opset 17), c (one C99 source without dependencies)"},
    {"Format", NULL, "weights", NULL, 0, KD_OPTION_CHOICE, offsetof(kd_model_export, weights), "f32", 0, 0,
     "f32|int8", "numbers of the weights; int8: with a scale for each output channel"},
    {"Format", NULL, "input", NULL, 0, KD_OPTION_CHOICE, offsetof(kd_model_export, input), "f32", 0, 0,
     "f32|u8", "numbers of an input row; u8: bytes, as pixels are"},
    {"Format", NULL, "preprocess", NULL, 0, KD_OPTION_BOOL, offsetof(kd_model_export, preprocess), "on", 0, 0,
     NULL, "centre and scale raw input as in training; off: the caller does"},
    {"Format", NULL, "layout", NULL, 0, KD_OPTION_CHOICE, offsetof(kd_model_export, layout), "nchw", 0, 0,
     "nchw|nhwc", "onnx: axes of a batch of images; c always has height, width, channels"},
    {"Format", NULL, "prefix", "NAME_", 0, KD_OPTION_STRING, offsetof(kd_model_export, prefix), NULL, 0, 0,
     NULL, "c: what the names of predict() and its constants begin with; default: nothing"},
};
const size_t kd_model_export_options_n = KD_COUNT(kd_model_export_options);

static const struct {
    const char *name;
    kd__format *write;
} formats[] = {{"onnx", kd__write_onnx}, {"c", kd__write_c}};

static bool begins_a_name(const char *s)
{
    static const char digits[] = "0123456789",
                      all[] = "0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    return *s && strlen(s) <= 64 && !strchr(digits, *s) && strspn(s, all) == strlen(s);
}

static kd_status check(const kd_model *m, const kd_model_export *o, kd_err *err)
{
    if (!o->to) return kd_fail(err, KD_EUSAGE, "no format given; choose one with --to onnx|c");
    if (o->prefix && !begins_a_name(o->prefix))
        return kd_fail(err, KD_EUSAGE, "--prefix %.80s: expected the beginning of a C name, like shoe_",
                       o->prefix);
    if (!strcmp(o->input, "u8") && !o->preprocess && (m->mean != 0 || m->scale != 1))
        return kd_fail(err, KD_EUSAGE, "--input u8 takes raw bytes, so --no-preprocess does not go with it");
    return KD_OK;
}

static uint64_t weight_bytes(const kd__net *net)
{
    uint64_t n = 0;
    for (const kd__layer *l = net->layer; l < net->layer + net->layers; l++) {
        n += l->weights * (l->q ? 1 : sizeof(float)) +
             (uint64_t)l->wdims[0] * sizeof(float) * ((l->q != NULL) + (l->bias != NULL));
        for (int i = 1; i < l->f.params; i++) // an embedding's other tables
            if (l->f.param[i]->ndims > 1) n += l->f.param[i]->size * sizeof(float);
    }
    return n;
}

kd_status kd_export_model(kd_model *m, const char *path, const kd_model_export *o, const char *command,
                          kd_model_export_facts *facts, kd_err *err)
{
    kd__net net = {0};
    kd_newfile *f = NULL;
    kd_status st = check(m, o, err);
    if (!st) st = kd__net_build(&net, m, !strcmp(o->weights, "int8"), err);
    if (!st) st = kd_newfile_open(&f, path, err);
    if (!st) {
        *facts = (kd_model_export_facts){.weight_bytes = weight_bytes(&net),
                                         .macs = kd_graph_macs(m->graph),
                                         .layers = (size_t)net.layers};
        for (size_t i = 0; i < KD_COUNT(formats); i++)
            if (!strcmp(formats[i].name, o->to))
                st = formats[i].write(kd_newfile_stream(f), &net, o, command, facts, err);
        facts->file_bytes = (uint64_t)ftello(kd_newfile_stream(f));
        if (st)
            kd_newfile_abort(f);
        else
            st = kd_newfile_commit(f, err);
    }
    kd__net_release(&net);
    return st;
}
