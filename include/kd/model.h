/* kd/model.h - architectures, and the folder a model lives in.
 *
 * An architecture is a function that appends nodes to a graph; its sizes come from a kd_model_spec,
 * the `model:` mapping of a student's YAML. A model folder holds config.json (the spec, the
 * preprocessing of its input, class names) and model.safetensors (weights under PyTorch's names and
 * shapes), so that it opens elsewhere too. Folders of encoders are Hugging Face's and sentence-transformers':
 * those that others made open as they are, and those that kd writes open there.
 *
 *     mlp     flatten, then hidden layers with ReLU:          fc0, fc1, ..., the last one to classes
 *     cnn     conv k x k [+ norm] + ReLU [+ max pool] a stage: conv0, bn0, relu0, pool0, conv1, ...;
 *             then gap or flatten, hidden layers (fc0, ...) and the last one to classes
 *     dscnn   stem (conv + norm + ReLU), then blocks of depthwise conv, norm, ReLU, pointwise conv, norm,
 * ReLU (Howard et al., MobileNets, 2017): stem.conv, stem.bn, block0.dw, block0.dw_bn, block0.pw,
 * block0.pw_bn, ...; gap; fc0 resnet  stem, then stages of basic blocks with shortcuts (He et al. 2016,
 * section 4.2): stem.conv, stem.bn, stage0.block0.conv0, .bn0, .conv1, .bn1, .skip.conv, .skip.bn, ...; gap;
 * fc0
 *     bert    encoder over tokens (Devlin et al. 2019): embeddings, layer0, layer1, ...; pooled, project,
 * normalized; the names of what is inside a layer are in lib/model/bert.c
 *
 * Convolutions followed by batch norm have no bias; padding is k / 2.
 */
#ifndef KD_MODEL_H
#define KD_MODEL_H

#include "kd/config.h"
#include "kd/nn.h"

typedef struct kd_model_spec {
    char *arch;    /* mlp, cnn, dscnn, resnet, bert, llama */
    kd_ints input; /* shape of a row: 28, 28, 1 (height, width, channels); empty for tokens */
    int64_t classes;
    kd_ints hidden;   /* widths of hidden fully connected layers */
    kd_ints channels; /* per stage (cnn, dscnn: per convolution or block; resnet: per stage); the first is the
                         stem's in dscnn and resnet */
    kd_ints strides;  /* per entry of channels; empty: all 1 */
    kd_ints pools;    /* cnn: max pool size behind each convolution, 1 = none; empty: none */
    int64_t blocks;   /* resnet: basic blocks a stage */
    int64_t kernel;
    char *norm;     /* batch, none */
    char *head;     /* gap, flatten */
    double dropout; /* before the last layer; bert: behind the embeddings and before each addition */
    double attention_dropout;          /* bert: of attention's shares */
    int64_t vocab, positions, types;   /* bert: rows of the embeddings' tables */
    int64_t embedding;                 /* width of the tables, 0: width */
    int64_t layers, width, heads, ffn; /* ffn 0: 4 width */
    double eps;                        /* of layer norms */
    int64_t kv_heads;                  /* llama: heads of keys and values, 0: heads */
    double rope_base;                  /* llama: of the angles of rotary positions */
    bool tied;                         /* llama: logits of the embedding's table */
    char *pooling;                     /* mean, cls, none: a row per token */
    int64_t output;                    /* dimension of the embedding, by a projection; 0: width */
    bool normalize;                    /* embeddings of length 1; never logits of classes */
} kd_model_spec;
extern const kd_option kd_model_options[]; /* keys model.arch, model.channels, ... */
extern const size_t kd_model_options_n;

typedef struct kd_model {
    char *name; /* "cnn-25k" */
    kd_model_spec spec;
    kd_config config; /* owns what spec points to */
    kd_graph *graph;
    kd_node input, logits; /* an embedding model's logits are its embedding */
    float mean, scale;     /* input = (raw - mean) * scale */
    json_t *labels;        /* array of class names or NULL */
    size_t params;         /* of the graph's, that are the model's own: what is saved */
} kd_model;

/* Builds the graph of m->spec (already filled in); sets graph, input, logits. KD_EUSAGE names the
 * key; where: file name for the message. */
kd_status kd_model_build(kd_model *m, const char *where, kd_err *err);
/* A model of the `model:` mapping spec ({"arch": "cnn", ...}), with weights yet to be set (kd_graph_init),
 * mean 0 and scale 1. KD_EUSAGE and KD_ECORRUPT name where and the key. */
kd_status kd_model_create(kd_model **out, const char *name, const json_t *spec, const char *where,
                          kd_err *err);
/* The same, with more behind the model in one graph: extend appends nodes to m->graph before it is finished.
 * Their parameters lie behind the model's own, whose initial values stay what they are, and are not saved. */
typedef kd_status kd_model_extend(void *arg, kd_model *m, kd_err *err);
kd_status kd_model_create_extended(kd_model **out, const char *name, const json_t *spec, const char *where,
                                   kd_model_extend *extend, void *arg, kd_err *err);
/* Texts as tokens: sequence i is token offset[i] to offset[i + 1]. */
typedef struct kd_sample {
    int32_t *token;
    uint64_t *offset; /* (n + 1) */
    int64_t n;
} kd_sample;
/* Weights of another model of this architecture, behind kd_graph_init: of token models layer layers[i]
 * becomes layer i (none given: each its own), positions may be fewer. Where the new one is narrower, its
 * hidden states are a projection of the other's, and whole heads and channels are left out
 * (lib/model/narrow.c). tables "words": an encoder of any size begins as the weighted mean of the other's
 * words (lib/model/words.c). The same bits for any number of threads. KD_EUSAGE, KD_EMISMATCH name what does
 * not fit; and those of kd_model_load. */
typedef struct kd_init {
    const char *folder;
    kd_ints layers;
    const char *tables;    /* same (NULL: the same), words */
    const uint64_t *count; /* words: (vocab) how often each token occurs in the texts to come. Borrowed */
    const kd_sample
        *sample; /* narrower: texts whose hidden states are looked at, NULL: the table alone. Borrowed */
    int threads; /* that look at them */
} kd_init;
kd_status kd_model_init_from(kd_model *m, const kd_init *init, kd_err *err);
size_t kd_model_param_count(const kd_model *m); /* the model's own trainable numbers */
void kd_model_free(kd_model *m);
/* Raw rows of a store's input column to what the graph takes: out (rows, input shape) = (raw - mean) * scale.
 * Serial. KD_EUNSUPPORTED for a dtype that is no number. */
kd_status kd_model_feed(const kd_model *m, float *out, const void *raw, kd_dtype dtype, size_t rows,
                        kd_err *err);

/* Whether its input is tokens (kd_exec_sequences), not rows of numbers. */
bool kd_model_reads_tokens(const kd_model *m);
/* Ragged rows of a store's token column to an exec of such a model: row i is tokens offset[i] to offset[i +
 * 1] of raw. Serial. KD_EUSAGE (see kd_exec_sequences), KD_ECORRUPT: an id outside the vocabulary, names row
 * and place; KD_EUNSUPPORTED: a dtype that is no integer. */
kd_status kd_model_feed_tokens(const kd_model *m, kd_exec *ex, const void *raw, kd_dtype dtype,
                               const uint64_t *offset, int64_t n, kd_err *err);

/* Writes config.json and model.safetensors into an existing folder, each atomically; weights first.
 * extra: members added to config.json, may be NULL. */
kd_status kd_model_save(kd_model *m, const char *folder, const json_t *extra, kd_err *err);
/* The same with weights as KD_F32, KD_F16 or KD_BF16. */
kd_status kd_model_save_as(kd_model *m, const char *folder, kd_dtype dtype, const json_t *extra, kd_err *err);
/* A kd folder, a GGUF file (its name ends in .gguf) of architecture llama, or a folder of Hugging Face with
 * model_type llama, bert or electra, of encoders with or without sentence-transformers'
 * modules.json (without: mean pooling, as there). Of such a folder's tensors those of other heads are left
 * out. KD_ENOTFOUND, KD_ECORRUPT, KD_EUNSUPPORTED (names the key), KD_EMISMATCH (tensor missing, of another
 * shape or left over, by name), KD_ENUMERIC (a weight that is not finite). */
kd_status kd_model_load(kd_model **out, const char *folder, kd_err *err);
/* 32 hex digits over spec, preprocessing and weights: the identity of a teacher. "" when out of memory. */
void kd_model_fingerprint(kd_model *m, char out[33]);
/* Bytes of model.safetensors in folder, 0 if missing. */
uint64_t kd_model_file_bytes(const char *folder);

/* ---- parameters of a llama in GGUF files ------------------------------------------------------ */

#define KD_LLAMA_NAME 64
/* llama.cpp's name of a parameter; false: it has none. */
bool kd_llama_gguf_name(char out[KD_LLAMA_NAME], const char *param);
/* Queries and keys: the file has the two numbers of a rotary pair side by side. */
bool kd_llama_gguf_pairs(const char *param);
/* The rows of such a parameter in the file's order, or from it; to and from: its shape, not the same. */
void kd_llama_gguf_turn(const kd_model *m, const kd_param *p, float *to, const float *from, bool into_file);

/* ---- language models go on ---------------------------------------------------------------- */

/* A sequence that grows; what was seen is not computed again. One thread calls it, `threads` compute. */
typedef struct kd_generator kd_generator;
/* m: a llama, must outlive it. tokens: of a sequence at most, 0: as many as the model has positions.
 * KD_EUSAGE, KD_ENOMEM. */
kd_status kd_generator_open(kd_generator **out, kd_model *m, int64_t tokens, int threads, kd_err *err);
void kd_generator_close(kd_generator *g);                             /* NULL-safe */
size_t kd_generator_seen(const kd_generator *g, const uint32_t **id); /* the sequence so far, borrowed */
/* The sequence becomes its first `keep` tokens and then id. logits: (vocab) of what comes behind the last
 * one, borrowed until the next call; may be NULL. KD_ELIMIT (no room), KD_EMISMATCH (an id), KD_ENUMERIC. */
kd_status kd_generator_feed(kd_generator *g, size_t keep, const uint32_t *id, size_t n, const float **logits,
                            kd_err *err);
/* A new sequence of n tokens; nll: (n - 1) -log p of each token but the first. Errors as above. */
kd_status kd_generator_score(kd_generator *g, const uint32_t *id, size_t n, double *nll, kd_err *err);
typedef struct kd_sampling {
    double temperature; /* 0: the likeliest */
    double top_p;       /* only the likeliest that together have this share; 1: all */
    uint64_t seed;
} kd_sampling;
uint32_t kd_generator_draw(kd_generator *g, const kd_sampling *s); /* behind the last feed */
/* The same from any logits (vocab): a function of them, s and place, the number of tokens before it. room:
 * kd_draw_bytes. */
uint32_t kd_draw(const float *logits, size_t vocab, const kd_sampling *s, uint64_t place, void *room);
size_t kd_draw_bytes(size_t vocab);

/* ---- safetensors -------------------------------------------------------------------------- */

typedef struct kd_tensor {
    const char *name;
    kd_dtype dtype;
    int ndims;
    int64_t dims[8];
    const void *data; /* borrowed */
    size_t bytes;
} kd_tensor;
#define KD_SAFETENSORS_MAX_HEADER (100u << 20)
typedef struct kd_tensors kd_tensors; /* an open file */
/* Checks everything before it allocates by it: header size, first byte, known dtypes, offsets sorted and
 * contiguous to the end of the file, shape product equal to the span, unique names. KD_ECORRUPT. */
kd_status kd_tensors_open(kd_tensors **out, const char *path, kd_err *err);
/* The same for the header alone: data stays NULL, the caller reads what it wants from where it is. */
kd_status kd_tensors_scan(kd_tensors **out, const char *path, kd_err *err);
uint64_t kd_tensors_where(const kd_tensors *t, size_t i); /* where in the file tensor i begins */
size_t kd_tensors_count(const kd_tensors *t);
const kd_tensor *kd_tensors_at(const kd_tensors *t, size_t i);
const kd_tensor *kd_tensors_find(const kd_tensors *t, const char *name); /* NULL: none */
const char *kd_tensors_metadata(const kd_tensors *t, const char *key);   /* NULL: none */
void kd_tensors_close(kd_tensors *t);
/* Atomic; sorted by element size (largest first) then name, header padded to 8 bytes. metadata: object of
 * strings, may be NULL. */
kd_status kd_tensors_save(const char *path, const kd_tensor *list, size_t n, const json_t *metadata,
                          kd_err *err);

#endif
