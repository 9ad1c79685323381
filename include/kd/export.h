/* kd/export.h - a student in the formats that other programs run.
 *
 *     onnx    a graph of opset 17 for ONNX Runtime and its kin; any batch
 *     c       one C99 source without dependencies: weights as arrays, predict(); for small devices
 *     gguf    encoders of texts and language models, with their vocabulary, for llama.cpp
 *     sentence-transformers    an encoder as a folder of that layout, with its tokenizer
 *     transformers             a language model as such a folder
 *
 * What is written is the student as it infers: batch norms are folded into the convolutions before them,
 * dropout is gone, and with `weights: int8` each output channel's weights are whole numbers from -127 to 127
 * times a scale of its own (gguf: each 32 weights of a row, Q8_0 and Q4_0); activations stay f32. By default
 * the input is raw, as the store has it, and centring and scaling are part of what is written.
 *
 *     kd_model_export o = {.to = "onnx", .weights = "f32", .input = "f32", .layout = "nchw", ...};
 *     if (kd_model_load(&m, folder, &err) || kd_export_model(m, "student.onnx", &o, NULL, &facts, &err)) ...
 *     // m now computes what student.onnx does
 */
#ifndef KD_EXPORT_H
#define KD_EXPORT_H

#include "kd/model.h"

typedef struct kd_model_export {
    char *to;        /* onnx, c, gguf, sentence-transformers, transformers */
    char *weights;   /* f32, f16, bf16, int8, int4 */
    char *input;     /* f32, u8: type of the numbers of a row; onnx, c */
    char *layout;    /* onnx, input of three axes: nchw, nhwc */
    char *prefix;    /* c: what predict's name begins with; NULL: nothing */
    char *tokenizer; /* folder with tokenizer.json or vocab.txt, for the formats that hold a vocabulary */
    bool preprocess; /* begin with (raw - mean) * scale */
} kd_model_export;
extern const kd_option kd_model_export_options[]; /* flags only */
extern const size_t kd_model_export_options_n;

typedef struct kd_model_export_facts {
    uint64_t file_bytes;
    uint64_t weight_bytes; /* weights, scales and biases as they are stored */
    uint64_t work_bytes;   /* c: memory that predict() works in; 0 elsewhere */
    double macs;           /* multiply-adds a row */
    size_t layers;
} kd_model_export_facts;

/* Writes m to path, atomically; command: of the run, for the file's record, may be NULL. m is changed: it
 * computes what the file does from then on. KD_EUSAGE (an option does not fit the format or the model),
 * KD_EUNSUPPORTED (a layer that the format has no words for), KD_ELIMIT, KD_ENUMERIC, KD_EIO, KD_EFULL,
 * KD_ENOMEM. */
kd_status kd_export_model(kd_model *m, const char *path, const kd_model_export *o, const char *command,
                          kd_model_export_facts *facts, kd_err *err);

#endif
