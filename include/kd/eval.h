/* kd/eval.h - what a student is worth, against labels and against the cached teacher.
 *
 * An exam is the rows of one split with their labels, the teacher's cached logits and the slices that are
 * asked for. All students sit it together: rows are decoded once, each student runs over them, and of its
 * logits an answer a row is kept (kd_answer: 32 bytes, whatever the number of classes). Every measure is a
 * pure function of answers; kd_results_json puts all of them into one object (docs/evaluation.md).
 *
 *     kd_eval_params p = kd_eval_default_params();
 *     if (kd_exam_open(&exam, store, &p, &err) || kd_runs_find(&runs, "students", true, &err)) ...
 *     if (kd_exam_run(exam, &runs, NULL, NULL, &err)) ...
 *     json_t *results = kd_results_json(exam, &runs, "image", command, &err);
 *
 * Same bits for any number of threads: a row and a resample are each one thread's, sums go in order of rows.
 */
#ifndef KD_EVAL_H
#define KD_EVAL_H

#include "kd/model.h"
#include "kd/store.h"

/* ---- answers ------------------------------------------------------------------------------ */

/* What one model says of one row. */
typedef struct kd_answer {
    int32_t top;       /* largest class; ties go to the smaller index */
    int32_t rank;      /* classes ahead of the label: 0 is right */
    double confidence; /* probability of the top class */
    double loss;       /* negative log-likelihood of the label, nats */
    double kl;         /* KL(teacher || model) at T = 1, nats; 0 without a teacher */
} kd_answer;
/* logits, teacher (may be NULL): (rows, classes); labels (rows), each below classes. KD_ENUMERIC (a logit is
 * not finite: names the row), KD_ENOMEM. */
kd_status kd_answers(kd_answer *a, const float *logits, const int32_t *labels, const float *teacher,
                     uint64_t rows, int64_t classes, int threads, kd_err *err);
/* The rows that are judged, as far as measures need them; borrowed. */
typedef struct kd_rows {
    uint64_t n;
    int64_t classes;
    const int32_t *label;
    const kd_answer *teacher; /* NULL: none */
} kd_rows;

/* ---- measures ----------------------------------------------------------------------------- */

/* name, key, what it needs: 0 labels, 1 a teacher. docs/evaluation.md has the formulas. */
#define KD_MEASURE_MAP(X)                                                                                    \
    X(ACCURACY, accuracy, 0)                                                                                 \
    X(TOP3, top3, 0)                                                                                         \
    X(TOP5, top5, 0)                                                                                         \
    X(MACRO_F1, macro_f1, 0)                                                                                 \
    X(MACRO_PRECISION, macro_precision, 0)                                                                   \
    X(MACRO_RECALL, macro_recall, 0)                                                                         \
    X(LOSS, loss, 0)                                                                                         \
    X(PERPLEXITY, perplexity, 0)                                                                             \
    X(ECE, ece, 0)                                                                                           \
    X(ECE_ADAPTIVE, ece_adaptive, 0)                                                                         \
    X(MCE, mce, 0)                                                                                           \
    X(CONFIDENCE, confidence_mean, 0)                                                                        \
    X(AGREEMENT, agreement, 1)                                                                               \
    X(KL, kl, 1)                                                                                             \
    X(KL_P50, kl_p50, 1)                                                                                     \
    X(KL_P90, kl_p90, 1)                                                                                     \
    X(KL_P99, kl_p99, 1)                                                                                     \
    X(KL_MAX, kl_max, 1)                                                                                     \
    X(COPIED, copied_mistakes, 1)                                                                            \
    X(OTHER, other_mistakes, 1)                                                                              \
    X(MENDED, mended_mistakes, 1)                                                                            \
    X(NEW, new_mistakes, 1)
typedef enum kd_measure_name {
#define X(NAME, key, needs) KD_M_##NAME,
    KD_MEASURE_MAP(X)
#undef X
        KD_MEASURES
} kd_measure_name;
const char *kd_measure_key(kd_measure_name m); /* "accuracy" */
typedef struct kd_measures {
    uint64_t rows;
    bool taken[KD_MEASURES]; /* false: left out */
    double v[KD_MEASURES];   /* NAN where it was taken and is not defined: 0 of 0 */
} kd_measures;
/* Of n >= 1 rows. brief: without those that need an order of the rows (adaptive bins, percentiles).
 * KD_ENOMEM.
 */
kd_status kd_measure(kd_measures *m, const kd_rows *r, const kd_answer *a, bool brief, kd_err *err);

/* Counts of one class. */
typedef struct kd_class {
    uint64_t support, predicted, right;
} kd_class;
void kd_count_classes(kd_class *c, const kd_rows *r, const kd_answer *a); /* c: (classes) */
/* NAN where it is 0 of 0; F1 is 0 where precision and recall are. */
double kd_class_precision(const kd_class *c);
double kd_class_recall(const kd_class *c);
double kd_class_f1(const kd_class *c);
/* c: (classes, classes), row: the label, column: the top class. */
void kd_count_confusion(uint64_t *c, const kd_rows *r, const kd_answer *a);

/* Bins of the top probability (Guo et al. 2017, section 3). */
#define KD_BINS 15
typedef struct kd_bin {
    double low, high; /* (low, high]; adaptive: smallest and largest confidence */
    uint64_t rows;
    double confidence, right; /* sums over its rows */
} kd_bin;
void kd_reliability(kd_bin bin[KD_BINS], const kd_rows *r, const kd_answer *a); /* of equal width */
/* Of equal numbers of rows, as np.array_split cuts them in order of confidence, then of rows. KD_ENOMEM. */
kd_status kd_reliability_adaptive(kd_bin bin[KD_BINS], const kd_rows *r, const kd_answer *a, kd_err *err);
double kd_ece(const kd_bin bin[KD_BINS], uint64_t rows);

/* A row by who is right. */
typedef enum kd_kind {
    KD_BOTH_RIGHT = 0,
    KD_COPIED, /* both wrong, with the same class */
    KD_OTHER,  /* both wrong, with different ones */
    KD_NEW,    /* the teacher was right */
    KD_MENDED, /* the teacher was wrong */
    KD_KINDS
} kd_kind;
const char *kd_kind_name(kd_kind k); /* "copied" */
kd_kind kd_row_kind(int32_t label, const kd_answer *teacher, const kd_answer *student);

/* ---- statistics --------------------------------------------------------------------------- */

/* Two-sided paired t-test over seeds: a[i] and b[i] belong to the same seed. n >= 2; p = 1 when all
 * differences are 0. */
double kd_paired_t(const double *a, const double *b, size_t n, double *mean_diff);
/* "helped", "hurt" or "no difference" at p < 0.05. */
const char *kd_verdict(double p, double mean_diff);
/* McNemar's test of rows that only one of two models gets right. */
typedef struct kd_mcnemar {
    uint64_t only_a, only_b;
    double p_exact;      /* two-sided binomial */
    double chi2, p_chi2; /* with continuity correction */
} kd_mcnemar;
kd_mcnemar kd_mcnemar_test(uint64_t only_a, uint64_t only_b);
kd_mcnemar kd_mcnemar_rows(const kd_rows *r, const kd_answer *a, const kd_answer *b);
/* 95 % bounds of a share of n (Wilson 1927); NAN for n = 0. */
void kd_wilson(double share, uint64_t n, double *low, double *high);
/* Of n sorted numbers, between neighbours linear as numpy's; q from 0 to 1. NAN for n = 0. */
double kd_quantile(const double *sorted, size_t n, double q);

/* Poisson bootstrap over rows: how often row r is in resample b, with mean 1, a pure function of both. All
 * models are resampled alike, so differences are paired. */
uint8_t kd_bootstrap_weight(uint64_t row, uint32_t resample);
/* The seed, an index below seeds, that place k of resample b has drawn. */
uint32_t kd_bootstrap_seed(uint32_t resample, uint32_t k, uint32_t seeds);
bool kd_bootstrapped(kd_measure_name m);
/* out[i]: (KD_MEASURES, resamples) of model i; rows of measures that are not resampled stay untouched; NAN
 * where a resample leaves a measure undefined. KD_ENOMEM. */
kd_status kd_bootstrap(double *const *out, const kd_rows *r, const kd_answer *const *models, size_t n,
                       uint32_t resamples, int threads, kd_err *err);

/* ---- the exam ----------------------------------------------------------------------------- */

#define KD_CONFUSION_CLASSES 1000 /* more have no matrix in the results */
typedef struct kd_eval_params {
    kd_split split;
    const char *teacher; /* NULL: the first that kept all classes, if there is one */
    const char *against; /* point that a student's other points, or student that all others, are compared with
                            as well; NULL: none */
    const kd_strings *slices; /* COLUMN or COLUMN:BINS; NULL: the classes */
    int64_t batch;
    int64_t resamples; /* of the bootstrap; 0: none */
    int64_t mistakes;  /* rows listed of each kind */
    bool speed;        /* latency is measured */
    bool all_pairs;    /* students are compared with each other, too */
    int threads;
} kd_eval_params;
kd_eval_params kd_eval_default_params(void);
/* Column of the logits to compare with: of this teacher, or of the first that kept all classes (not a sparse
 * encoding); -1: none. */
int kd_eval_logits(const kd_store *s, const char *teacher);

typedef struct kd_exam kd_exam;
typedef struct kd_runs kd_runs;
/* Reads labels, ids and what slices need. The store must stay open; p is copied, what it points to must
 * outlive the exam. KD_EMISMATCH (no such column, an empty split, labels out of range), KD_ENOTFOUND,
 * KD_EUSAGE (slices). */
kd_status kd_exam_open(kd_exam **out, kd_store *s, const kd_eval_params *p, kd_err *err);
void kd_exam_close(kd_exam *e); /* NULL-safe */
/* All runs over all rows, once; the teacher's cached logits with them. progress: rows x models; may be NULL.
 * KD_EMISMATCH (a model of other classes or inputs: names its folder). */
kd_status kd_exam_run(kd_exam *e, kd_runs *runs, void (*progress)(void *arg, uint64_t done, uint64_t total),
                      void *arg, kd_err *err);
/* The cached teacher alone, judged by the same measures. */
kd_status kd_eval_teacher(kd_measures *m, kd_store *s, const kd_eval_params *p, kd_err *err);

/* What using a model takes. */
typedef struct kd_cost {
    size_t params;
    uint64_t file_bytes;
    double macs;
    size_t memory_bytes;               /* weights and all that is planned for batch 1 */
    double rows_s;                     /* through the exam at its batch and threads */
    double latency_us, latency_p99_us; /* of one row, one thread; NAN: not measured */
} kd_cost;
/* Median and 99th percentile of single-row forward passes. */
kd_status kd_cost_latency(kd_cost *c, kd_model *m, kd_err *err);

/* ---- selection ---------------------------------------------------------------------------- */

/* What one run came to on the validation rows. */
typedef struct kd_score {
    const char *name, *role; /* points of a student's sweep are alike up to the first '@' of name */
    uint64_t seed;
    double value; /* not finite: the run diverged or is unfinished, its point is not chosen */
} kd_score;
/* The best point of each student and role by its mean over seeds; by: "valid_accuracy" (larger is better) or
 * "valid_loss". The object is what selection.json holds: schema 1, by, split, students: [{student, role,
 * seeds, chosen, points: [{name, chosen, values, mean, to_best, p_value}]}]. New reference; NULL with err
 * set. */
json_t *kd_selection_json(const kd_score *v, size_t n, const char *by, kd_err *err);

/* ---- runs and results --------------------------------------------------------------------- */

/* One trained model folder, as kd-train leaves it. */
typedef struct kd_run {
    char *folder, *name, *role; /* role: "distilled", "plain", "teacher" */
    char *point; /* of a sweep, if a selection chose it: name is then its student's; else NULL */
    uint64_t seed;
    double train_s;
    bool is_teacher; /* its fingerprint is that of the exam's teacher */
    kd_cost cost;
    kd_measures m;
    kd_answer *answers; /* (rows of the exam) */
    double *resampled;  /* (KD_MEASURES, resamples) or NULL */
} kd_run;
struct kd_runs {
    kd_run *v;
    size_t n;
};
/* Finds the runs below a folder (a folder with config.json is a run; *.part are passed over), sorted by
 * name, role and seed. selected: where a folder has a selection.json, only what it chose. KD_ENOTFOUND when
 * there is none: names the folder. */
kd_status kd_runs_find(kd_runs *runs, const char *folder, bool selected, kd_err *err);
void kd_runs_release(kd_runs *runs);
/* The results object (schema 2) of docs/evaluation.md, after kd_exam_run. New reference; NULL with err set.
 */
json_t *kd_results_json(kd_exam *e, const kd_runs *runs, const char *pipeline, const char *command,
                        kd_err *err);

/* ---- language models ---------------------------------------------------------------------------- */

/* name, key: of predicted tokens, and of texts that the model writes. */
#define KD_LANGUAGE_MAP(X)                                                                                   \
    X(ACCURACY, accuracy)                                                                                    \
    X(LOSS, loss)                                                                                            \
    X(PERPLEXITY, perplexity)                                                                                \
    X(PPL_RATIO, ppl_ratio)                                                                                  \
    X(ECE, ece)                                                                                              \
    X(AGREEMENT, agreement)                                                                                  \
    X(KL, kl)                                                                                                \
    X(KL_ERROR, kl_error)                                                                                    \
    X(KL_P50, kl_p50)                                                                                        \
    X(KL_P90, kl_p90)                                                                                        \
    X(KL_P95, kl_p95)                                                                                        \
    X(KL_P99, kl_p99)                                                                                        \
    X(KL_P999, kl_p999)                                                                                      \
    X(KL_MAX, kl_max)                                                                                        \
    X(RMS_DP, rms_dp)                                                                                        \
    X(KL_LEAST, kl_least)                                                                                    \
    X(CROSS, cross_entropy)                                                                                  \
    X(READ_TOKENS_S, read_tokens_s)                                                                          \
    X(DISTINCT1, distinct1)                                                                                  \
    X(DISTINCT2, distinct2)                                                                                  \
    X(DISTINCT3, distinct3)                                                                                  \
    X(REPETITION, repetition)                                                                                \
    X(TOKENS_S, tokens_s)
typedef enum kd_language_measure {
#define X(NAME, key) KD_L_##NAME,
    KD_LANGUAGE_MAP(X)
#undef X
        KD_LANGUAGE_MEASURES
} kd_language_measure;
typedef struct kd_language_run {
    kd_run *run;                    /* its answers: (positions) */
    double v[KD_LANGUAGE_MEASURES]; /* NAN: not measured */
    double cross, bound;            /* sums over positions of sparse targets */
    uint64_t headed, same;          /* positions whose largest class is known, and is the model's */
} kd_language_run;
typedef struct kd_language {
    uint64_t rows, positions;
    int32_t *labels;      /* (positions) */
    kd_answer *teacher;   /* (positions); NULL: sparse or none */
    kd_language_run *run; /* (runs) */
    size_t runs;
    bool sparse;             /* the column keeps some classes */
    const kd_column *column; /* the teacher's cached logits; NULL: it was run, or there is none */
} kd_language;
typedef struct kd_language_params {
    kd_split split;
    const char *teacher; /* whose cached logits; NULL: the first */
    const char *model;   /* a teacher's folder or file, which is run; NULL: cached logits, if there are any */
    const char *against; /* student, or point of a sweep, that all are compared with as well; NULL: none */
    int threads;
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* rows; may be NULL */
    void *arg;
} kd_language_params;
/* Whether a store holds texts for language models: ragged tokens, no labels. */
bool kd_language_store(const kd_store *s);
/* All runs over the predicted tokens of a split. Fills l; give it back in any case. KD_EMISMATCH (a run of
 * another kind or vocabulary: names its folder), KD_ELIMIT, KD_ENUMERIC, and the store's. */
kd_status kd_language_run_all(kd_language *l, kd_store *s, const kd_language_params *p, kd_runs *runs,
                              kd_err *err);
void kd_language_release(kd_language *l);
typedef struct kd_language_prompts {
    const char *const *prompt; /* (n) */
    size_t n;
    int64_t tokens;     /* of an answer at most */
    double temperature; /* 0: greedy */
    uint64_t seed;
} kd_language_prompts;
/* The runs go on behind prompts, each with its folder's tokenizer; fills the measures of texts. */
kd_status kd_language_write(kd_language *l, const kd_language_prompts *p, int threads, kd_err *err);
/* The results object (schema 2, kind "language") of docs/evaluation.md. New reference; NULL with err set. */
json_t *kd_language_json(const kd_language *l, kd_store *s, const kd_language_params *p, const kd_runs *runs,
                         const char *pipeline, const char *command, kd_err *err);

/* ---- gates -------------------------------------------------------------------------------- */

#define KD_RESULTS_SCHEMA 2
typedef struct kd_gates kd_gates;
/* A file of gates (docs/gates.md), or the name of a preset: fast, careful. KD_EUSAGE: names file, line
 * and the nearest word that is known; KD_ENOTFOUND. */
kd_status kd_gates_open(kd_gates **out, const char *file, kd_err *err);
void kd_gates_close(kd_gates *g);                /* NULL-safe */
const char *kd_gates_preset(const char *name);   /* its text; NULL: no preset */
const char *kd_gates_release(const kd_gates *g); /* the file of the last release's results, or NULL */
/* Judges the students of a results object and adds the verdicts to it, under "gates". release: the last
 * release's results object, may be NULL. KD_EGATE: some failed, the sentence has the number and the first one
 * with its figure. KD_EMISMATCH (another schema; no such student, slice or class), KD_EUSAGE (no release). */
kd_status kd_gates_judge(const kd_gates *g, json_t *results, const json_t *release, kd_err *err);

#endif
