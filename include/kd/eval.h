/* kd/eval.h - what a student is worth, against labels and against the cached teacher.
 *
 * Measures are pure functions over logits, labels and teacher logits; kd_eval_model fills in the
 * logits by running a model over a split of the store (the teacher itself is not needed). Groups of
 * runs (same student, several seeds, with and without teacher) are compared pairwise over seeds.
 */
#ifndef KD_EVAL_H
#define KD_EVAL_H

#include "kd/model.h"
#include "kd/store.h"

typedef struct kd_measures {
    uint64_t rows;
    double accuracy;
    double loss; /* mean negative log-likelihood of the label, nats */
    double ece;  /* 15 equal-width bins of the top probability (Guo et al. 2017, section 3) */
    bool has_teacher;
    double agreement; /* same top-1 as the teacher */
    double kl;        /* mean KL(teacher || student) at T = 1, nats */
} kd_measures;
/* logits, teacher (may be NULL): (rows, classes); labels (rows). Ties of the top class go to the smaller
 * index. */
void kd_measure(kd_measures *m, const float *logits, const int32_t *labels, const float *teacher,
                uint64_t rows, int64_t classes);

typedef struct kd_eval_params {
    kd_split split;
    const char *teacher;
    const char *against; /* point that a student's other points are compared with as well; NULL: none */
    int64_t batch;
    int threads;
} kd_eval_params;
/* Inference over a split. logits: receives (rows, classes) if not NULL (caller's memory for
 * kd_store_split_rows rows). */
kd_status kd_eval_model(kd_measures *m, kd_model *model, kd_store *s, const kd_eval_params *p, float *logits,
                        kd_err *err);
/* Column of the logits to compare with: of this teacher, or of the first that kept all classes (not a sparse
 * encoding); -1: none. */
int kd_eval_logits(const kd_store *s, const char *teacher);
/* The cached teacher judged by the same measures. */
kd_status kd_eval_teacher(kd_measures *m, kd_store *s, const kd_eval_params *p, kd_err *err);
/* Median and p99 of single-row forward passes, microseconds. */
kd_status kd_eval_latency(kd_model *model, double *p50_us, double *p99_us, kd_err *err);

/* Two-sided paired t-test over seeds: a[i] and b[i] belong to the same seed. n >= 2; p = 1 when all
 * differences are 0. */
double kd_paired_t(const double *a, const double *b, size_t n, double *mean_diff);
/* "helped", "hurt" or "no difference" at p < 0.05. */
const char *kd_verdict(double p, double mean_diff);

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
    size_t params;
    uint64_t file_bytes;
    double train_s;
    kd_measures m;
} kd_run;
typedef struct kd_runs {
    kd_run *v;
    size_t n;
} kd_runs;
/* Finds the runs below a folder (a folder with config.json is a run; *.part are passed over), sorted by
 * name, role and seed. selected: where a folder has a selection.json, only what it chose. KD_ENOTFOUND when
 * there is none: names the folder. */
kd_status kd_runs_find(kd_runs *runs, const char *folder, bool selected, kd_err *err);
void kd_runs_release(kd_runs *runs);
/* Measures all runs on p->split. progress may be NULL. */
kd_status kd_runs_eval(kd_runs *runs, kd_store *s, const kd_eval_params *p,
                       void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg, kd_err *err);
/* The results object (schema 1) of a pipeline: store, teacher, students with their seeds side by side, cost,
 * provenance. Paired verdicts are on accuracy over the seeds that both roles have. New reference; NULL with
 * err set. */
json_t *kd_results_json(const kd_runs *runs, kd_store *s, const kd_eval_params *p, const char *pipeline,
                        const char *command, kd_err *err);

#endif
