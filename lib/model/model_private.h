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

/* ---- directions (principal.c); rows, f64, serial -------------------------------------------- */

void kd__add_times(double *y, const double *x, double a, size_t n); /* y += a x */
/* q: (r, d), orthonormal, the principal ones of the symmetric c (d, d); next: (r, d) for itself. */
void kd__principal(double *q, double *next, const double *c, size_t d, size_t r);
/* a (n, n), symmetric, becomes diagonal; v: (n, n) the directions, v a v^T is what becomes of it. */
void kd__diagonal(double *v, double *a, size_t n);

/* ---- models that begin with another's weights (init.c, words.c, narrow.c) ------------------- */

const kd_param *kd__find_param(const kd_model *m, const char *name); /* NULL: none */
kd_status kd__init_words(kd_model *m, const kd_model *from, const kd_init *init, kd_err *err);
bool kd__is_narrower(const kd_model *m, const kd_model *from); /* some width is another one */
kd_status kd__init_narrow(kd_model *m, kd_model *from, const kd_init *init, kd_err *err);

/* What is large inside a model (look.c). d, ffn, layers, centred, with_tables are given. */
typedef struct kd__look {
    size_t d, ffn, layers;
    bool centred;     /* states without their mean, as layer norms read them */
    bool with_tables; /* rows of tables are looked at on their own, too */
    double *states;   /* (d, d) second moments of states of length 1 */
    double *tables;   /* (d, d), or NULL */
    double *heads;    /* (layers, d) how much each number of a head adds to states */
    double *channels; /* (layers, ffn) */
} kd__look;
/* layer: (layers) which of the model's. */
kd_status kd__look_at(kd__look *l, kd_model *from, const int64_t *layer, const kd_init *init, kd_err *err);
void kd__look_release(kd__look *l);

/* r directions of hidden states of d numbers (basis.c). */
typedef struct kd__basis {
    size_t d, r;
    bool centred; /* states are read through a layer norm: (1, ..., 1) becomes (1, ..., 1) */
    float *p;     /* (r, d), orthonormal rows */
    double kept;  /* how long what they span is of a state 1 long */
    float *rows;
    kd_beside *beside; /* p, for products */
} kd__basis;
/* d, r, centred are given. The principal ones of moments (d, d); turned so that a gain (d) is diagonal in
 * them, NULL: as they come. */
kd_status kd__basis_learn(kd__basis *b, const double *moments, const double *gain, kd_err *err);
void kd__basis_release(kd__basis *b);
typedef struct kd__matrix {
    float *v;
    size_t row, col; /* from one row to the next, one column to the next */
} kd__matrix;
/* Row i of y (n, r) = scale p (row pick[i] of x, times gain); pick NULL: each row, gain NULL: 1. */
void kd__basis_project(const kd__basis *b, kd__matrix y, kd__matrix x, const size_t *pick, size_t n,
                       const float *gain, double scale);

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
