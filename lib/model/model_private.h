/* model_private.h - what the files of lib/model share. */
#ifndef KD_MODEL_PRIVATE_H
#define KD_MODEL_PRIVATE_H

#include "kd/model.h"

/* An architecture appends its nodes behind the input x and returns the logits. The spec was checked
 * (spec.c): list lengths agree, conv architectures have three input axes. Failures of single nodes
 * stay in the graph and come out of kd_graph_finish. */
typedef kd_node kd__arch(kd_graph *g, const kd_model_spec *s, kd_node x);
kd__arch kd__arch_mlp, kd__arch_cnn, kd__arch_dscnn, kd__arch_resnet, kd__arch_bert, kd__arch_llama;

/* ---- parts that architectures share (layers.c) --------------------------------------------- */

/* A node's name: kd__name(&b, "block%d.dw", i). Valid until b is used again. */
typedef struct kd__node_name {
    char text[96];
} kd__node_name;
const char *kd__name(kd__node_name *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* conv (k x k, padding k / 2, bias only without norm), then batch norm unless bn is NULL or the spec says
 * none, then ReLU unless relu is NULL. depthwise ignores out. */
typedef struct kd__conv_names {
    const char *conv, *bn, *relu;
} kd__conv_names;
kd_node kd__conv_block(kd_graph *g, const kd_model_spec *s, kd_node x, kd__conv_names names, int64_t out,
                       int k, int stride, bool depthwise);
/* Hidden layers fc0, fc1, ... with ReLU, dropout, and the last fcN to the classes. */
kd_node kd__dense(kd_graph *g, const kd_model_spec *s, kd_node x);
/* gap or flatten, then kd__dense. */
kd_node kd__head(kd_graph *g, const kd_model_spec *s, kd_node x);
/* Element i of an optional list, 1 if the list is empty. */
int kd__at_or_1(const kd_ints *list, size_t i);

/* ---- models that begin with another's weights (init.c, words.c) ----------------------------- */

const kd_param *kd__find_param(const kd_model *m, const char *name); /* NULL: none */
kd_status kd__init_words(kd_model *m, const kd_model *from, const kd_init *init, kd_err *err);

/* ---- folders of encoders as Hugging Face and sentence-transformers write them (hf.c) ---------- */

bool kd__hf_is(const char *model_type); /* a model_type that it reads */
/* The `model:` mapping of such a folder's config.json and modules. KD_ECORRUPT, KD_EUNSUPPORTED. */
kd_status kd__hf_spec(json_t **spec, const json_t *config, const char *folder, const char *path, kd_err *err);
/* The name of the model's parameter in its file, in b; *file: which one, in the folder. */
const char *kd__hf_name(kd__node_name *b, const char *param, const char **file);
bool kd__hf_leaves(const char *tensor);      /* tensors of other heads, which are not read */
extern const char kd__hf_dense[];            /* the file of the projection's */
extern const char *const kd__hf_prefixes[3]; /* that all of a file's names may have */
/* config.json's members beside kd's, and the modules' files. */
kd_status kd__hf_config(json_t *config, const kd_model_spec *s, kd_err *err);
kd_status kd__hf_save_modules(const kd_model_spec *s, const char *folder, kd_err *err);

/* ---- decoders in folders of Hugging Face and in GGUF files (llama_files.c) --------------------- */

/* Hugging Face's name of a parameter; tensors of its files that are not read. */
const char *kd__llama_name(kd__node_name *b, const char *param);
bool kd__llama_leaves(const kd_model_spec *s, const char *tensor);
/* As kd__hf_spec and kd__hf_config. */
kd_status kd__llama_spec(json_t **spec, const json_t *config, const char *path, kd_err *err);
kd_status kd__llama_config(json_t *config, const kd_model_spec *s, kd_dtype dtype, kd_err *err);
kd_status kd__llama_open_gguf(kd_model **out, const char *path, kd_err *err);

#endif
