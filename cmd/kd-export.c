/* kd-export - writes a student in the formats that other programs run. */
#include "kd-export/export_cmd.h"

#include <protobuf-c/protobuf-c.h>

#include <stdlib.h>
#include <string.h>

static const kd_option rows[] = {
    {"Output", NULL, "out", "FILE", 'o', KD_OPTION_STRING, offsetof(export_opts, out), NULL, 0, 0, NULL,
     "the file to write; it appears whole or not at all"},
    {"Output", NULL, "force", NULL, 'f', KD_OPTION_BOOL, offsetof(export_opts, force), "off", 0, 0, NULL,
     "replace a file that is there"},
    {"Output", NULL, "check", "STORE", 'c', KD_OPTION_STRING, offsetof(export_opts, check), NULL, 0, 0, NULL,
     "compare what was written with the student on the test rows of a store"},
};

static const kd_example examples[] = {
    {"kd-export runs/image/students/dscnn-5k/distilled/seed-0 --to onnx -o shoes.onnx",
     "for ONNX Runtime: raw pixels in, logits out"},
    {"kd-export STUDENT --to c -o shoes.c", "one C99 source without dependencies"},
    {"kd-export STUDENT --to c --weights int8 --input u8 --check fashion.kd -o shoes.c",
     "a quarter of the flash; prints what rounding costs"},
    {"cc -std=c99 -O2 -DKD_MAIN shoes.c -o shoes && ./shoes <rows.bytes", "the C file's own demonstration"},
    {"kd-export ENCODER --to gguf --weights f16 -o encoder.gguf", "a text encoder for llama.cpp"},
    {"kd-export STUDENT --to onnx --layout nhwc --json -o shoes.onnx | jq .file_bytes", "for programs"},
    {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-export",
    .summary = "write a student in the formats people run",
    .synopsis = "STUDENT --to FORMAT -o FILE [options]",
    .description =
        "STUDENT is a model folder; native teachers are such folders, too. What is written is the "
        "student as it answers: batch norms are folded into the convolutions before them, dropout is "
        "gone, centring and scaling of raw input come first (--no-preprocess leaves them to the "
        "caller).\n"
        "onnx: a graph of opset 17 with input \"input\" (batch, channels, height, width) and output "
        "\"logits\" (batch, classes); the batch is free. Class names (labels), preprocessing and the "
        "student's fingerprint are in its metadata.\n"
        "c: weights as arrays and void predict(const float *input, float *logits, float *work), which "
        "compiles as C99 without headers or libraries and allocates nothing. A row is height, width, "
        "channels, as stores have it. The comment at the top says how much flash and RAM it takes; with "
        "-DKD_MAIN the file is a program that answers for rows from standard input.\n"
        "gguf: an encoder of texts with its vocabulary, for llama.cpp. sentence-transformers: a folder "
        "with an encoder and its tokenizer. An encoder as onnx has inputs input_ids, attention_mask and "
        "token_type_ids and outputs last_hidden_state and sentence_embedding. The tokenizer is in the "
        "student's folder or in that of --tokenizer.\n"
        "--weights int8 stores whole numbers from -127 to 127 with a scale for each output channel; sums "
        "stay f32. --check prints what that changes.",
    .examples = examples,
    .see_also = "kd-train(1), kd-run(1), kd-eval(1)",
};

static kd_status report_json(const kd_model *m, const export_opts *o, const kd_model_export *e,
                             const kd_model_export_facts *f, const export_check *r, kd_err *err)
{
    json_t *j =
        json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:I}", "schema", 1, "tool", tool.name,
                  "student", m->name, "format", e->to, "weights", e->weights, "file", o->out, "file_bytes",
                  (json_int_t)f->file_bytes, "weight_bytes", (json_int_t)f->weight_bytes, "work_bytes",
                  (json_int_t)f->work_bytes, "macs", f->macs, "layers", (json_int_t)f->layers);
    if (o->check && !strcmp(m->spec.arch, "llama"))
        json_object_set_new(j, "check",
                            json_pack("{s:s, s:I, s:I, s:f, s:f, s:f}", "store", o->check, "tokens",
                                      (json_int_t)r->rows, "same", (json_int_t)r->same, "largest", r->largest,
                                      "student_perplexity", r->before, "perplexity", r->after));
    else if (o->check)
        json_object_set_new(j, "check",
                            json_pack("{s:s, s:I, s:I, s:f, s:f, s:f}", "store", o->check, "rows",
                                      (json_int_t)r->rows, "same", (json_int_t)r->same, "largest", r->largest,
                                      "student_accuracy", r->before, "accuracy", r->after));
    return kd_cli_print_json(j, err);
}

static void report(const kd_model *m, const export_opts *o, const kd_model_export *e,
                   const kd_model_export_facts *f, const export_check *r)
{
    char file[32], weights[32], work[32];
    printf("%s\t%s, %s of which %s are %s weights\n", o->out, m->name,
           kd_fmt_bytes(file, (double)f->file_bytes), kd_fmt_bytes(weights, (double)f->weight_bytes),
           e->weights);
    if (f->work_bytes)
        printf("predict()\t%s of constants, %s of RAM to work in, %.0f multiply-adds a row\n", weights,
               kd_fmt_bytes(work, (double)f->work_bytes), f->macs);
    if (o->check && !strcmp(m->spec.arch, "llama"))
        printf("%s\t%llu tokens of test texts: %llu with the same likeliest next one; perplexity %.4g, the "
               "student's "
               "%.4g; largest difference of a logit %.3g\n",
               o->check, (unsigned long long)r->rows, (unsigned long long)r->same, r->after, r->before,
               r->largest);
    else if (o->check)
        printf(
            "%s\t%llu test rows: %llu answered as before; accuracy %.2f %%, the student's %.2f %%; largest "
            "difference of a logit %.3g\n",
            o->check, (unsigned long long)r->rows, (unsigned long long)r->same, 100 * r->after,
            100 * r->before, r->largest);
}

static kd_status run(kd_cli *c, const export_opts *o, const kd_model_export *given, kd_err *err)
{
    kd_model_export own = *given, *e = &own;
    kd_model *m = NULL;
    kd_model_export_facts facts = {0};
    export_check r = {0};
    if (c->nargs != 1)
        return kd_fail(err, KD_EUSAGE, "%d model folders given, expected one: a student's", c->nargs);
    if (!o->out) return kd_fail(err, KD_EUSAGE, "no file to write; name it with -o FILE");
    if (kd_exists(o->out) && !o->force)
        return kd_fail(err, KD_EEXISTS, "%s: already there; --force replaces it", o->out);
    if (!e->tokenizer) e->tokenizer = c->args[0];
    char *command = kd_cli_command(c->argc, c->argv);
    kd_status st = command ? kd_model_load(&m, c->args[0], err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && o->check && kd_model_reads_tokens(m) && strcmp(m->spec.arch, "llama"))
        st = kd_fail(err, KD_EUNSUPPORTED,
                     "%s: --check runs students of images and language models, not encoders of texts",
                     c->args[0]);
    if (!st) st = kd_export_model(m, o->out, e, command, &facts, err);
    if (!st && o->check) st = export_compare(c, o->check, c->args[0], m, &r, err);
    if (!st && c->common.json)
        st = report_json(m, o, e, &facts, &r, err);
    else if (!st)
        report(m, o, e, &facts, &r);
    kd_model_free(m);
    free(command);
    return st;
}

int main(int argc, char **argv)
{
    export_opts o;
    kd_model_export e;
    kd_cli cli;
    kd_err err = {0};
    kd_cli_init(&cli, &tool, argc, argv);
    kd_cli_table(&cli, rows, KD_COUNT(rows), &o);
    kd_cli_table(&cli, kd_model_export_options, kd_model_export_options_n, &e);
    if (!kd_cli_parse(&cli, &err)) run(&cli, &o, &e, &err);
    return kd_cli_finish(&cli, &err);
}
