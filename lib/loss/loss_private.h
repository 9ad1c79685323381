/* loss_private.h - what the files of lib/loss share.
 *
 * Reading order: objectives.c (the table), presets.c, term.c (one term: its keys and schedules), mix.c (all
 * terms: create, plan, values, formula), run.c (a batch), loss.simd.c (the fused kernel of ce and kd, and
 * softmax in double), math.c; then one file per objective; project.c (what is learned between features).
 *
 * A new objective is a file with a kd__objective and one line in KD__OBJECTIVES. It says what it compares row
 * by row (`row`), over the Gram matrices of a batch (relation.h) or in its own way (`run`), what
 * factor stands before the sum, and how its formula reads; kernels work in double, so that what is left of
 * rounding is the inputs' and the gradient's.
 */
#ifndef KD_LOSS_PRIVATE_H
#define KD_LOSS_PRIVATE_H

#include "kd/loss.h"

/* Rows of a block: the grid that threads share is rows / KD__LOSS_ROWS, whatever their number. */
#define KD__LOSS_ROWS 16

typedef struct kd__loss_vec kd__loss_vec;

/* ---- a term ------------------------------------------------------------------------------- */

/* The keys of a term, filled in by the option table in term.c. */
typedef struct kd__keys {
    char *name, *preset, *weight, *temperature;
    double teacher_temperature, dump_temperature, alpha, beta, gamma, eps, label_smoothing, momentum, wrong;
    int64_t row_norm, std_ddof, power, negatives, dim, heads;
    bool t2, normalize, symmetric;
    char *reduction, *kl_form, *direction, *sparse, *tail, *eps_mode, *mode, *metric, *teacher_scores;
    char *projection, *relations, *candidates, *positives, *prefixes;
    char *teacher, *ensemble, *tap, *feature;
} kd__keys;

/* A number as a function of the epoch. */
typedef struct kd__schedule {
    enum { KD__CONSTANT, KD__LINEAR, KD__COSINE, KD__WARMUP } shape;
    double from, to, epochs;
} kd__schedule;
double kd__schedule_at(const kd__schedule *s, double epoch);

/* Vectors cut to their first n numbers, and what that counts. */
#define KD__PREFIXES 8
typedef struct kd__prefix {
    int64_t n;
    double weight;
} kd__prefix;

typedef struct kd__objective kd__objective;
typedef struct kd__term {
    const kd__objective *o;
    kd__keys k;
    kd_config config; /* owns the strings of k */
    kd__schedule weight_of, temperature_of;
    double weight, T; /* now */
    char label[48];
    bool fused; /* done by the fused kernel */
    const kd__loss_vec *vec;
    /* Planned. */
    int64_t max_rows, n, m; /* numbers a row of the student and of the teacher */
    int64_t columns;        /* vectors that stand together: a query, its answer, its negatives */
    int nprefixes;          /* lengths to which vectors are cut; 0: they are taken whole */
    kd__prefix prefix[KD__PREFIXES];
    float *cut, *dcut; /* (rows, n) what a prefix is compared by, and its gradient */
    double prefixed;   /* sum over prefixes so far */
    kd_loss_dims student, teacher;
    size_t scratch;  /* doubles a thread, for `row` */
    double *shared;  /* doubles of the team */
    double *partial; /* sums over parts of the batch, added in order */
    void *state;     /* kept from step to step */
    size_t state_bytes;
    int64_t samples;
    const int32_t *sample_labels;
    uint64_t seed;
    const int32_t *contrast;    /* tests: crd's positions (rows, K + 1) in place of drawn ones */
    const double *temperatures; /* listed in the teacher's column, during plan */
    int ntemperatures, threads;
    double *thread_scratch; /* (threads, scratch_step): scratch, then a row of gradient; free it */
    size_t scratch_step;
    /* Of the last run. */
    int64_t parts;
    double factor; /* value = factor * sum of partial[0 .. parts) */
} kd__term;

bool kd__is(const char *choice, const char *word); /* NULL is no word */

/* ---- a batch as a term sees it ------------------------------------------------------------ */

typedef struct kd__view {
    int64_t rows, valid; /* valid: rows that count */
    const float *s, *t;  /* (rows, n), (rows, m) */
    float *ds, *dt;      /* gradients to add to; NULL: value only */
    const double *exact; /* for twins: the student's numbers in double, in place of s */
    const double *exact_t;
    const int32_t *labels, *others, *lengths; /* others, shares: of mixed rows, or NULL */
    const int32_t *groups;                    /* of vectors that stand in columns, as texts; or NULL */
    const uint64_t *texts;
    const float *shares;
    const kd_loss_sparse *sparse;
    const int64_t *samples;
    uint64_t step;
    int64_t classes;
    bool mask; /* labels say which rows count */
} kd__view;
bool kd__counts(const kd__view *v, int64_t row);
/* Weight of a row: `wrong` where the teacher's top class is another than the label. */
double kd__row_weight(const kd__term *t, const kd__view *v, int64_t row);
/* Student's and teacher's number i of the batch, for twins. */
static inline double kd__s(const kd__view *v, int64_t i) { return v->exact ? v->exact[i] : v->s[i]; }
static inline double kd__t(const kd__view *v, int64_t i) { return v->exact_t ? v->exact_t[i] : v->t[i]; }

typedef struct kd__row {
    int64_t n, m;       /* numbers of student and teacher */
    const float *s, *t; /* (n), (m) */
    int32_t label;      /* -1: none */
    int32_t other;      /* of a mixed row, -1: none */
    float share;        /* of the first; 1: not mixed */
    int32_t length;     /* positions that count; -1: all */
    int64_t index;      /* in the batch */
    const kd_loss_sparse *sparse;
    double *grad;    /* (n) zeroed: receives d value / d s; NULL: value only */
    double *scratch; /* (t->scratch) */
} kd__row;

/* ---- an objective ------------------------------------------------------------------------- */

struct kd__objective {
    kd_objective pub;
    /* Says what is wrong with the keys or the shapes; also resolves what depends on them. Either may be NULL.
     */
    kd_status (*check)(kd__term *t, kd_err *err);
    kd_status (*plan)(kd__term *t, size_t *shared, size_t *parts,
                      kd_err *err); /* sets t->scratch, t->n, t->m */
    void (*start)(kd__term *t);     /* fills in t->state */
    /* Exactly one of these. */
    double (*row)(const kd__term *t, const kd__row *r);
    void (*run)(kd__term *t, const kd__view *v); /* by the whole team; ends with a barrier */
    /* Factor before the sum over the rows that count: 1/B, T^2/B, ... */
    double (*factor)(const kd__term *t, int64_t valid);
    /* Appends the resolved formula without its weight, such as "T^2 KL(p||q)/B". */
    void (*describe)(kd_buf *b, const kd__term *t);
    /* The value in plain double, straight from the formula. */
    double (*naive)(const kd__term *t, const kd__view *v);
};

/* The table: a line per objective, in the order of --list-losses. */
// clang-format off
#define KD__OBJECTIVES(X)                                                                                    \
    X(ce) X(kd) X(kd_ce) X(reverse_kl) X(gjsd) X(skl) X(srkl) X(tvd) X(dkd) X(lskd) X(dist) X(logit_mse)    \
    X(sparse_kl) X(sparse_jsd) X(sparse_tvd) X(margin_mse) X(listwise_kl) X(fitnet) X(embed) X(at)        \
    X(rkd_distance) X(rkd_angle) X(sp) X(pkt) X(crd) X(minilm) X(contrastive) X(contrastive_kl)           \
    X(contrastive_margin)
// clang-format on

#define X(name) extern const kd__objective kd__objective_##name;
KD__OBJECTIVES(X)
#undef X
const kd__objective *kd__objective_find(const char *name);
void kd__preset_keys(const char *preset, const char *objective, char *buf, size_t len); /* "": none */
bool kd__preset_known(const char *preset);

/* ---- terms and mixes ---------------------------------------------------------------------- */

/* text: "name=dkd,weight=1"; where: "loss.terms[1]" for messages. t: zeroed; it must not move afterwards. */
kd_status kd__term_init(kd__term *t, const char *text, const char *preset, const char *where, kd_err *err);
void kd__term_release(kd__term *t);

struct kd_loss {
    char *short_teacher;
    const kd__loss_vec *vec;
    kd__term term[KD_LOSS_TERMS];
    int terms;
    kd__term *ce, *kd; /* done by the fused kernel, may be NULL */
    bool vocab;        /* ce and sparse, each or both, are all, and done by vocab.c */
    kd__term *sparse;
    float *rows; /* of vocab.c: one a thread, that came as f16; free it */
    int32_t *sample_labels;
    kd_arena memory; /* planned */
    void *state;
    size_t state_bytes;
};

/* ---- many classes (vocab.c) --------------------------------------------------------------- */

/* Sets l->vocab. KD_ENOMEM. */
kd_status kd__vocab_plan(kd_loss *l, int64_t classes, int threads, kd_err *err);
void kd__vocab_run(kd_loss *l, const kd_loss_batch *b, int64_t valid); /* by the whole team */

/* ---- prefixes (prefix.c) ------------------------------------------------------------------ */

kd_status kd__prefixes_read(kd__term *t, kd_err *err);
kd_status kd__prefixes_plan(kd__term *t, kd_arena *memory, kd_err *err);
void kd__prefixes_run(kd__term *t, const kd__view *v); /* by the whole team */
void kd__prefixes_describe(kd_buf *b, const kd__term *t);
double kd__naive(const kd__term *t, const kd__view *v); /* the twin, of all prefixes */

/* ---- shared arithmetic (math.c) ----------------------------------------------------------- */

/* Reduction of a sum over rows: 1/B, or 1/(B n) for `element`; times T^2 where t2 is on. */
double kd__scale(const kd__term *t, int64_t valid, int64_t n);
double kd__class_scale(const kd__term *t, int64_t valid); /* n: the student's numbers of a row */
void kd__describe_scale(kd_buf *b, const kd__term *t, const char *inner);
double kd__log_sum(const double *x, int64_t n); /* log sum exp x */
/* grad_j += c (h_j - q_j sum h): from h_j = q_j df/dq_j to the logits that q is the softmax of. */
void kd__softmax_back(double *grad, const double *h, const double *q, int64_t n, double c);

/* For twins: logp = log softmax(z / T); a value that is a sum over rows. */
void kd__naive_softmax(double *logp, const double *z, int64_t n, double T);
double kd__naive_rows(const kd__term *t, const kd__view *v,
                      double (*row)(const kd__term *t, const double *s, const double *teacher,
                                    int32_t label));
/* Value of the mix by the twins. */
double kd_loss_naive(const kd_loss *l, const kd_loss_batch *b);
kd__view kd__view_of(const kd_loss *l, int i, const kd_loss_batch *b); /* a batch as term i sees it */

/* ---- kernels ------------------------------------------------------------------------------ */

/* The mix of ce and kd, resolved for one batch: what the kernel needs to do both of a row in one pass. */
typedef struct kd__softmax_mix {
    int64_t classes;
    bool kd, ce;
    float inv_t;   /* 1 / T */
    float kl;      /* 1: KL; 0: cross-entropy with the teacher, KL without the teacher's entropy */
    float grad_kd; /* factor of (q - p) */
    float grad_ce; /* factor of (softmax - target) */
    float smooth;  /* label smoothing of ce */
} kd__softmax_mix;

/* The angles at one sample i between a second one j and all others, for rkd_angle: rows j and i of the Gram
 * matrix, row i of inverse distances. */
typedef struct kd__angle {
    const double *gj, *gi, *inv;
    double gij, gii, ij;
} kd__angle;

/* One set per instruction set (loss.simd.c). */
struct kd__loss_vec {
    /* rows <= KD__LOSS_ROWS of z (student), t (teacher; NULL without kd), y (labels; NULL: all rows
     * count). sum receives the block's sums of CE and of KL over the rows that count, without any
     * factor. dz may be NULL. */
    void (*block)(const kd__softmax_mix *m, const float *z, const float *t, const int32_t *y, int rows,
                  float *dz, double sum[2]);
    /* out = log softmax(z / T); out may be z. */
    void (*log_softmax)(float *out, const float *z, int rows, int64_t classes, float inv_t);
    void (*exp)(float *y, const float *x, size_t n); /* <= 2 ulp; 0 below -87.33; x <= 88.3 */
    /* logq = log softmax(z / T), q = its exponential, of one row in double; q may be NULL. */
    void (*softmax)(double *logq, double *q, const float *z, int64_t n, double inv_t);
    double (*log_sum)(const double *x, int64_t n);        /* log sum exp x; -INFINITY counts for nothing */
    void (*exp64)(double *y, const double *x, int64_t n); /* x <= 0; 0 below -708 */
    void (*log64)(double *y, const double *x, int64_t n); /* x > 0; finite for 0 */
    double (*dot)(const float *a, const float *b, int64_t n);    /* of doubles */
    void (*add)(double *y, const float *x, double c, int64_t n); /* y += c x */
    void (*angles)(const kd__angle *s, const kd__angle *t, double share, double *m, int64_t n,
                   double sums[3]);
};
/* dz_j = at_t exp((z_j - max) inv_t) + at_1 exp(z_j - max) - off; where inv_t is 1, at_t is both of them. */
typedef struct kd__vocab_slope {
    float max, inv_t, at_t, at_1, off;
} kd__vocab_slope;
typedef struct kd__vocab_vec { /* vocab.simd.c */
    float (*max)(const float *z, int64_t n);
    /* Adds exponentials of z - max at T and at 1 (both; else at 1 only where T is 1), and z - max. */
    void (*sums)(const float *z, int64_t n, float max, float inv_t, bool both, double sum[3]);
    void (*gradient)(float *dz, const float *z, int64_t n, const kd__vocab_slope *s); /* dz may be z */
    void (*from_f16)(float *z, const uint16_t *half, int64_t n);
    void (*to_bf16)(uint16_t *half, const float *dz, int64_t n);
} kd__vocab_vec;
extern const kd__vocab_vec kd__vocab_vec_scalar, kd__vocab_vec_avx2, kd__vocab_vec_avx512;

extern const kd__loss_vec kd__loss_vec_scalar, kd__loss_vec_avx2, kd__loss_vec_avx512;
const kd__loss_vec *kd__loss_vec_of(kd_isa isa);

#endif
