/* kd/audit.h - what is wrong with the data, with the help of what the teacher said of them.
 *
 * Four questions, each a pure function over arrays, and kd_audit_run, which reads a store, asks all of them
 * and writes a folder of CSV files, a summary and lists of rows that kd-train takes (kd/data.h):
 *
 *   labels      which rows probably carry a wrong label: confident learning over the teacher's probabilities
 *   duplicates  which rows are there twice, as they are or nearly, inside a split or across two (a leak)
 *   unsure      where the teacher disagrees with the label, or hardly knows
 *   drift       how the splits differ: classes, what the teacher predicts, how sure it is
 *
 * Confident learning asks for probabilities by a teacher that has not seen the row's label. kd_fold_of cuts
 * the training rows into folds; of teachers that each left one fold out, the one that left a row out judges
 * it.
 *
 * Everything is a function of the store and the parameters: the same bits for any number of threads.
 */
#ifndef KD_AUDIT_H
#define KD_AUDIT_H

#include "kd/data.h"

/* ---- labels (confident.c) ----------------------------------------------------------------- */

typedef struct kd_confident {
    int64_t classes;
    uint64_t rows; /* with a label */
    double
        *threshold;   /* (classes): mean probability of a class over the rows labelled so; NAN: no such row */
    uint64_t *joint;  /* (classes, classes) label, class: rows whose confident class that is */
    double *estimate; /* (classes, classes): rows of that label whose true class is that; sums to rows */
} kd_confident;
/* p: (rows, classes) probabilities; y: (rows) labels, negative: none. KD_ENOMEM. */
kd_status kd_confident_learn(kd_confident *c, const float *p, const int32_t *y, uint64_t rows,
                             int64_t classes, kd_err *err);
void kd_confident_release(kd_confident *c);
/* The class a row belongs to with confidence, -1: none. p: (classes). */
int32_t kd_confident_class(const kd_confident *c, const float *p);
typedef enum kd_label_filter {
    KD_FILTER_JOINT, /* rows off the diagonal of the joint */
    KD_FILTER_RATE,  /* of each label and class as many rows as the estimate says, by p[class] - p[label] */
    KD_FILTER_BOTH   /* what both choose */
} kd_label_filter;
/* flag: (rows) receives 1 for a label that is probably wrong, else 0. Never where the label is the teacher's
 * top class. KD_ENOMEM. */
kd_status kd_confident_flag(const kd_confident *c, const float *p, const int32_t *y, uint64_t rows,
                            kd_label_filter how, uint8_t *flag, kd_err *err);
/* p[y] - the largest other one, in [-1, 1]: the smaller, the more likely is the label wrong. */
double kd_label_margin(const float *p, int32_t y, int64_t classes);

/* Fold of a training row, 0 to folds - 1: of its id alone, so exact copies are in one fold. */
uint32_t kd_fold_of(kd_id id, uint32_t folds);

/* ---- duplicates (pairs.c) ----------------------------------------------------------------- */

typedef enum kd_pair_kind { KD_PAIR_EXACT, KD_PAIR_NEAR, KD_PAIR_MIRRORED } kd_pair_kind;
typedef struct kd_pair {
    uint64_t a, b; /* rows, a < b */
    kd_pair_kind kind;
    float similarity; /* 1: exact */
} kd_pair;
typedef struct kd_pairs {
    kd_pair *v;
    size_t n, room;
} kd_pairs;
void kd_pairs_release(kd_pairs *p);

#define KD_PAIR_SHIFT 4
typedef struct kd_pair_params {
    int column;        /* where near ones are looked for; -1: exact ones only */
    double similarity; /* least correlation (images) or cosine (vectors) */
    int64_t shift; /* pixels of a thumbnail (at most 32 x 32) that images may be moved against each other, to
                      KD_PAIR_SHIFT; each is two more searches */
    bool mirror;   /* also mirrored images */
    int threads;
    volatile const int *stop;                                   /* polled, may be NULL: KD_ESTOPPED */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* may be NULL */
    void *arg;
} kd_pair_params;
/* Pairs of rows that are alike, sorted by rows: of exact copies each with the first of them, of near ones
 * each row with its nearest few. input: column of exact copies. KD_EUNSUPPORTED (a column where near ones
 * cannot be looked for: says why), KD_ELIMIT, KD_ECORRUPT, KD_ENOMEM. */
kd_status kd_pairs_find(kd_pairs *out, kd_store *s, int input, const kd_pair_params *p, kd_err *err);

/* ---- drift (drift.c) ---------------------------------------------------------------------- */

/* Chi-square of two rows of counts being draws of one distribution; columns that are 0 in both are left out.
 * p: of so large a value by chance, 1 without degrees of freedom. */
double kd_chi_square(const uint64_t *a, const uint64_t *b, size_t n, double *p);
/* Upper tail of the chi-square distribution: Q(dof / 2, x / 2). */
double kd_chi_square_tail(double x, double dof);
/* Population stability index, sum (b - a) ln(b / a) over shares, each count smoothed by 1/2. Up to 0.1: no
 * change; over 0.25: a large one. */
double kd_psi(const uint64_t *a, const uint64_t *b, size_t n);

/* ---- all of it ---------------------------------------------------------------------------- */

#define KD_AUDIT_FOLDS 32
#define KD_DROP_LABELS 1u /* reasons for which a training row is dropped */
#define KD_DROP_EXACT  2u
#define KD_DROP_LEAKS  4u
#define KD_DROP_NEAR   8u

typedef struct kd_audit_params {
    const char *teacher; /* NULL: the first that keeps all classes */
    const char *const *cross;
    size_t ncross; /* teachers of the folds in their order; 0: one teacher for all rows */
    kd_label_filter filter;
    const char *near; /* column; "" none, NULL: the input */
    double similarity;
    int64_t shift;
    bool mirror;
    double unsure; /* the teacher is unsure below this probability of its top class */
    unsigned drop; /* reasons that put a row on the list */
    bool force;    /* replaces what an earlier audit left in the folder */
    const char *command;
    int threads;
    volatile const int *stop;
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* of the search for near duplicates */
    void *arg;
} kd_audit_params;
/* Audits the store and writes labels.csv, duplicates.csv, unsure.csv, balance.csv, drift.csv, drop.txt,
 * keep.txt and last audit.json into folder; each whole or not at all. What the store does not allow (no
 * labels, no teacher, an empty split) is left out and said in "left_out" of the summary. summary: new
 * reference. KD_EEXISTS (folder holds an audit), KD_EUSAGE, KD_ENOTFOUND (teacher, column), KD_EMISMATCH. */
kd_status kd_audit_run(json_t **summary, kd_store *s, const char *folder, const kd_audit_params *p,
                       kd_err *err);
/* Writes fold-0.txt to fold-(folds - 1).txt into folder: the training rows of each, for kd-train's
 * --drop-rows. rows: (folds) receives how many. KD_EUSAGE (folds not in 2 to KD_AUDIT_FOLDS). */
kd_status kd_audit_folds(kd_store *s, const char *folder, uint32_t folds, uint64_t *rows, kd_err *err);

#endif
