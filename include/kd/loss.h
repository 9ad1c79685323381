/* kd/loss.h - objectives: value and gradient with respect to the student's outputs.
 *
 * An objective is one file in lib/loss: its row of the table (name, formula, what it needs, its keys with
 * their defaults, where it comes from), its kernel and its naive twin. A student's loss is a weighted mix
 * of objectives, the `loss:` of its YAML, in one of two forms:
 *
 *     loss: {kd: 0.9, ce: 0.1, temperature: 4}      # the short form: cached teacher and labels
 *
 *     loss:                                         # any mix; each term has its own keys
 *       - {name: dkd, weight: warmup 1 20, beta: 8}
 *       - {name: ce}
 *
 * Public implementations differ under one name, so whatever they differ in is a key (reduction, t2,
 * kl_form, direction, sparse, eps_mode, ...); a preset sets the keys as a framework has them, and
 * kd_loss_formula prints what came out. Weights and temperatures may follow a schedule over the epochs:
 * a number, or "linear FROM TO EPOCHS", "cosine FROM TO EPOCHS", "warmup VALUE EPOCHS".
 *
 *     if (kd_loss_create(&l, &spec, &err)) ...                      // what is asked for: names, keys
 *     if (kd_loss_plan(l, &(kd_loss_shape){.rows = 128, .classes = 10, .threads = 2}, &err)) ...
 *     kd_loss_at(l, epoch);                                         // only schedules need it
 *     #pragma omp parallel num_threads(2)
 *     kd_loss_run(l, &batch);                                       // fills batch.dlogits
 *     log(kd_loss_value(l));
 *
 * Values and gradients are finite for all finite inputs. A row of logits whose label is not a class (-1: a
 * masked token) counts in neither; with no rows left both are 0. Where a reference divides by a norm that
 * is zero, the gradient through that norm is 0 here.
 *
 * Threads: kd_loss_run is called by all threads of a team of at most shape.threads, or serially; work is cut
 * into fixed blocks and added in a fixed order, so the bits do not depend on the team. All else is serial.
 */
#ifndef KD_LOSS_H
#define KD_LOSS_H

#include "kd/config.h"
#include "kd/nn.h"

#define KD_LOSS_TERMS 8 /* of one mix */

/* ---- what there is ------------------------------------------------------------------------ */

/* What an objective reads beside the student's own output. */
typedef enum kd_loss_needs {
    KD_NEEDS_LABELS = 1,
    KD_NEEDS_LOGITS = 2,   /* the teacher's output for every class */
    KD_NEEDS_SPARSE = 4,   /* the teacher's output for some classes */
    KD_NEEDS_FEATURES = 8, /* a tap of the student and a feature column of the teacher */
    KD_NEEDS_SAMPLES = 16, /* the position of each row among all training rows, and their labels */
    KD_NEEDS_TAP = 32,     /* a tap of the student alone */
    KD_NEEDS_NODE = KD_NEEDS_FEATURES | KD_NEEDS_TAP,
    KD_NEEDS_TEACHER = KD_NEEDS_LOGITS | KD_NEEDS_SPARSE | KD_NEEDS_FEATURES,
} kd_loss_needs;

/* What a codec must keep for it; the bits of kd_serves in kd/codec.h. */
enum { KD_LOSS_VALUES = 1, KD_LOSS_SOFTMAX = 2, KD_LOSS_HEAD = 4, KD_LOSS_EXPECTED = 8 };

typedef struct kd_objective {
    const char *name, *formula; /* "dkd"; one line */
    unsigned needs, serves;     /* sparse objectives: serves of their default convention */
    const char *keys;           /* keys it knows with their defaults: "weight=1,temperature=4,t2=on" */
    const char *source;         /* paper and section; file of the reference implementation */
    bool mixes;                 /* it can take two labels a row */
} kd_objective;

const kd_objective *kd_loss_list(size_t i);                            /* NULL past the end */
const kd_objective *kd_loss_find(const char *name);                    /* NULL: unknown */
const char *kd_loss_needs_text(unsigned needs, char *buf, size_t len); /* "labels, teacher logits" */
/* "mdistiller"; what it sets, a line per objective: "kd: temperature=4,t2=on". NULL past the end. */
const char *kd_loss_preset(size_t i, const char **sets);
extern const kd_option kd_loss_term_options[]; /* keys of a term, for help; defaults are the objective's */
extern const size_t kd_loss_term_options_n;

/* ---- what is asked for -------------------------------------------------------------------- */

typedef struct kd_loss_spec {
    double ce, kd;          /* short form: weights */
    double temperature;     /* T of kd */
    bool t2;                /* multiply kd by T^2 */
    char *reduction;        /* of kd: batch, element; NULL: batch */
    char *kl_form;          /* of kd: kl, cross_entropy (larger by the teacher's entropy); NULL: kl */
    double label_smoothing; /* of ce, in [0, 1) */
    char *teacher;          /* name of the teacher in the store; NULL: the only one */
    kd_strings terms;       /* long form, in place of the keys above: "name=dkd,weight=1,beta=8" */
    char *preset;           /* of terms that name none */
} kd_loss_spec;
extern const kd_option kd_loss_options[]; /* keys loss.ce, loss.kd, loss.temperature, ..., loss.terms */
extern const size_t kd_loss_options_n;
/* Whether any term with a weight reads a teacher's column. Terms that kd_loss_create would refuse count. */
bool kd_loss_spec_distils(const kd_loss_spec *spec);
/* What remains of it without teachers: text of loss.terms with the terms that read none, or NULL where no
 * term compares the student's own nodes (then labels are what remains: ce). free() it. */
char *kd_loss_terms_alone(const kd_loss_spec *spec);
/* Text of loss.terms, "name=kd,weight=1;name=ce", with one key of one term set: path "kd.temperature", or
 * "kd.2.weight" of the second kd in the list. free() it. KD_EUSAGE: no such term or key; says the nearest. */
kd_status kd_loss_terms_set(char **out, const kd_strings *terms, const char *path, const char *value,
                            kd_err *err);

typedef struct kd_loss kd_loss;
/* KD_EUSAGE names the term and the key: an unknown or on-policy objective, a key that it does not have,
 * weights that sum to zero, a temperature of 0. */
kd_status kd_loss_create(kd_loss **out, const kd_loss_spec *spec, kd_err *err);
void kd_loss_free(kd_loss *l);

/* One term of the mix, resolved. */
typedef struct kd_loss_term {
    const kd_objective *objective;
    const char *label;         /* its name in logs, unique in the mix */
    const char *teacher;       /* of the store; NULL: the only one. Several: "a*0.7 b*0.3" */
    const char *ensemble;      /* what several come to: logits, probabilities, best, turns */
    const char *tap, *feature; /* student's node, teacher's column; NULL where features are not needed */
    unsigned needs, serves;    /* as resolved by its keys */
    double temperature;        /* now */
    double dump_temperature;   /* that sparse targets have already; 0: no such key */
    double weight;             /* now */
    bool differences;          /* of scores: the teacher has one number less */
} kd_loss_term;
int kd_loss_count(const kd_loss *l);
kd_loss_term kd_loss_term_at(const kd_loss *l, int i); /* strings borrowed from l */
unsigned kd_loss_needs_of(const kd_loss *l);           /* of all terms */
bool kd_loss_needs_teacher(const kd_loss *l);
bool kd_loss_needs_labels(const kd_loss *l);

/* ---- projections -------------------------------------------------------------------------- */

typedef struct kd_loss_dims {
    int ndims;
    int64_t dims[KD_MAX_DIMS]; /* per row; images (H, W, C) */
} kd_loss_dims;

/* Nodes a term compares. teacher, teacher_out: negative unless the term learns an embedding of the
 * teacher's feature too: then teacher is an input to be filled with it, teacher_out what is compared. */
typedef struct kd_loss_nodes {
    kd_node student, teacher, teacher_out;
} kd_loss_nodes;
/* Appends what term i learns between the student's tap and the teacher's feature (key projection) to a graph
 * that is not finished, under names that begin with KD_LOSS_PREFIX: trained and kept in checkpoints with the
 * student's own parameters, left out of the exported model by that name. Without a projection student is
 * the tap itself. All nodes returned are outputs of the graph. KD_EUSAGE: shapes that do not fit. */
#define KD_LOSS_PREFIX "loss."
kd_status kd_loss_project(const kd_loss *l, int i, kd_graph *g, kd_node tap, const kd_loss_dims *teacher,
                          kd_loss_nodes *out, kd_err *err);

/* ---- planning and running ----------------------------------------------------------------- */

typedef struct kd_loss_shape {
    int64_t rows, classes; /* largest batch */
    int threads;           /* largest team; 0: 1 */
    /* By term, for those with KD_NEEDS_NODE: what is compared, behind projections. */
    const kd_loss_dims *student, *teacher;
    /* Rows that stand together: a query, its answer, negatives; rows is a multiple of it. 0: 1. */
    int64_t columns;
    /* For KD_NEEDS_SPARSE: temperatures that the teacher's column lists. */
    const double *temperatures;
    int ntemperatures;
    /* For KD_NEEDS_SAMPLES: training rows, their labels (NULL: none; copied) and the key of random draws. */
    int64_t samples;
    const int32_t *sample_labels;
    uint64_t seed;
} kd_loss_shape;
/* Plans all memory. May be called again with another shape. KD_EUSAGE: shapes that do not fit; KD_ENOMEM. */
kd_status kd_loss_plan(kd_loss *l, const kd_loss_shape *s, kd_err *err);
size_t kd_loss_bytes(const kd_loss *l);    /* planned */
bool kd_loss_in_place(const kd_loss *l);   /* planned: dlogits may be the logits' own memory */
bool kd_loss_takes_half(const kd_loss *l); /* planned: a batch may have `half` and `dhalf` */
/* What a term keeps from step to step (the banks of crd), for checkpoints; NULL and 0: nothing. */
void *kd_loss_state(kd_loss *l, size_t *bytes);
/* Where in training the next runs are: epochs as a real number, 0 at the start. For weights and
 * temperatures on schedules; a pure function, nothing is carried over. */
void kd_loss_at(kd_loss *l, double epoch);

/* Sparse targets of the rows of a batch, as kd_sparse in kd/codec.h has them; borrowed. */
typedef struct kd_loss_sparse {
    const uint64_t *offset; /* (rows + 1) */
    const uint32_t *id;     /* (entries) */
    const float *value;     /* (entries) log-probability; sampled: weight that estimates the probability */
    int temperatures;       /* listed ones; 0: none */
    const double *temperature;
    const float *tail; /* (rows, temperatures) probability of all classes that are not kept */
    const float *logz; /* (rows, temperatures) log sum exp((z - max z) / T) */
} kd_loss_sparse;

/* What one term reads, where it is not the student's logits and the teacher's logits of the batch. */
typedef struct kd_loss_input {
    const float *student; /* (rows, student dims); NULL: the logits */
    float *dstudent;      /* its gradient; terms that share it add up; NULL: value only */
    const float *teacher; /* (rows, teacher dims) or logits (rows, classes) */
    float *dteacher;      /* of a learned embedding of the teacher's feature; else NULL */
    const kd_loss_sparse *sparse;
} kd_loss_input;

/* One batch: student outputs and everything there is to compare them with. */
typedef struct kd_loss_batch {
    int64_t rows, classes;
    const float *logits;   /* (rows, classes) student */
    const int32_t *labels; /* (rows); may be NULL if no objective needs it */
    /* Rows that two were mixed into: the other one's label, and the first one's share; NULL: none. For
     * objectives with `mixes`. A row whose other label is not a class has its own alone. */
    const int32_t *other_labels;
    const float *shares;
    const float *teacher; /* (rows, classes) teacher logits; may be NULL likewise */
    float *dlogits;       /* (rows, classes) receives the gradient; NULL: value only */
    /* In the place of logits and dlogits, of losses that take them: f16, and bf16, which may be the same
     * memory. What is computed between them is f32. */
    const uint16_t *half;
    uint16_t *dhalf;
    const kd_loss_input *inputs; /* by term; NULL: no term needs more */
    const int32_t *lengths;      /* (rows) positions of each row that count, in minilm; NULL: all */
    const int64_t *samples;      /* (rows) among all training rows */
    /* What contrast must not tell apart: (rows) groups, negative: none; (rows) a number of each text. NULL:
     * every row is something of its own. */
    const int32_t *groups;
    const uint64_t *texts;
    uint64_t step; /* key of random draws */
    /* Where this is one piece of a batch: rows of all pieces whose labels are classes, by which sums are
     * divided, so that the pieces' values and gradients add up to the batch's. 0: it is all of it. Only for
     * objectives of single rows. */
    int64_t of;
} kd_loss_batch;

/* Terms with features whose input is missing (crd on validation rows) are left out when only the value is
 * wanted. */
void kd_loss_run(kd_loss *l, const kd_loss_batch *b);
/* After run (serial): weighted sum, and each term unweighted in the order of kd_loss_term_at. */
double kd_loss_value(const kd_loss *l);
int kd_loss_terms(const kd_loss *l, const char *names[KD_LOSS_TERMS], double values[KD_LOSS_TERMS]);
/* "0.1 CE + 0.9 T^2 KL(p||q)/B (T=4)"; free() it. */
char *kd_loss_formula(const kd_loss *l);

/* Row statistics that evaluation needs, with the same vector exp: -log softmax(z) of the label of a row of
 * many classes, *first: whether no class has a larger logit; log softmax at temperature T into out (rows,
 * classes), orphaned omp for. */
double kd_loss_nll(const float *z, int64_t classes, int32_t label, bool *first);
/* (classes) logits of a row of a batch: where they came as f16, the calling thread's until its next call. */
const float *kd_loss_row(const kd_loss *l, const kd_loss_batch *b, int64_t row);
void kd_log_softmax(float *out, const float *logits, int64_t rows, int64_t classes, float temperature);

#endif
