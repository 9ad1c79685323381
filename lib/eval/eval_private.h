/* eval_private.h - what the files of lib/eval share. */
#ifndef EVAL_PRIVATE_H
#define EVAL_PRIVATE_H

#include "kd/eval.h"

/* ---- answers.c ---------------------------------------------------------------------------- */

/* The teacher's side of KL, prepared once for all students: KL(p || q) = sum p log p - sum p z + log sum e^z.
 */
typedef struct kd__reference {
    double *p;       /* (rows, classes) softmax */
    double *entropy; /* (rows) sum p log p */
} kd__reference;
/* Room for so many rows. KD_ENOMEM. */
kd_status kd__reference_create(kd__reference *f, uint64_t rows, int64_t classes, kd_err *err);
void kd__reference_fill(kd__reference *f, const float *teacher, uint64_t rows, int64_t classes, int threads);
void kd__reference_release(kd__reference *f);
/* kd_answers with a prepared teacher (NULL: none). The index of the first row whose logits are not finite;
 * rows: none. */
uint64_t kd__answers(kd_answer *a, const float *logits, const int32_t *labels, const kd__reference *teacher,
                     uint64_t rows, int64_t classes, int threads);

/* ---- order.c ------------------------------------------------------------------------------ */

/* order: (n) places of v by rising number, equal ones by place; no NaN among them. n < 2^32. KD_ENOMEM. */
kd_status kd__order(uint32_t *order, const double *v, size_t n, kd_err *err);
void kd__sort_few(double *v, size_t n);

/* ---- calibration.c ------------------------------------------------------------------------ */

int kd__bin_of(double confidence); /* of equal width */

/* ---- bootstrap.c, resample.simd.c --------------------------------------------------------- */

#define KD__LANES         64 /* resamples of a block */
#define KD__POISSON_STEPS 12
extern const uint32_t kd__poisson[KD__POISSON_STEPS];
typedef struct kd__resample_loops {
    /* Counts of a row in resamples first to first + 63; first: a multiple of 64. Lane 16 w + i is resample
     * first + 4 i + w. */
    void (*draw)(uint8_t weight[KD__LANES], uint64_t row, uint32_t first);
    /* a += weight x, b += weight y, c += weight z; three arrays that do not overlap. */
    void (*add)(double *restrict a, double *restrict b, double *restrict c, const uint8_t *restrict weight,
                double x, double y, double z);
    void (*count)(double *restrict sum, const uint8_t *restrict weight); /* sum += weight */
} kd__resample_loops;
extern const kd__resample_loops kd__resample_loops_scalar, kd__resample_loops_avx2, kd__resample_loops_avx512;

/* ---- slices.c ----------------------------------------------------------------------------- */

/* Some of an exam's rows. */
typedef struct kd__slice {
    const char *column;   /* the store's */
    char name[128];       /* "label=Shirt", "length=[3, 17]" */
    bool single, missing; /* one value; rows without a number */
    double from, to;
    uint64_t n;
    uint32_t *pick;     /* (n) rows of the exam */
    int32_t *label;     /* (n) */
    kd_answer *teacher; /* (n) or NULL; filled in behind the exam */
} kd__slice;
typedef struct kd__slices {
    kd__slice *v;
    size_t n;
} kd__slices;
/* Adds the slices of one COLUMN or COLUMN:BINS. KD_ENOTFOUND, KD_EUSAGE, KD_EMISMATCH. */
kd_status kd__slices_add(kd_exam *e, kd_cursor *cur, const char *arg, kd_err *err);
/* Brings the teacher's answers in, behind the exam. */
kd_status kd__slices_teacher(kd_exam *e, kd_err *err);
void kd__slices_release(kd__slices *s);

/* ---- exam.c ------------------------------------------------------------------------------- */

struct kd_exam {
    kd_store *s;
    kd_eval_params p;
    int input, label, logits; /* columns; logits -1: no teacher */
    const char *teacher;      /* its name, NULL: none */
    kd_rows rows;
    int32_t *labels;    /* (rows) */
    kd_answer *answers; /* (rows) of the teacher, or NULL */
    double *resampled;  /* the teacher's, as a run's */
    kd_measures m;      /* the teacher's */
    uint64_t *row;      /* (rows) numbers in the store */
    kd_id *ids;         /* (rows) */
    kd__slices slices;
    const json_t *names; /* of classes, or NULL */
    json_t *left_out;    /* [{"measures", "why"}] */
    double start, decode_s, forward_s, measure_s, speed_s;
};

/* ---- window.c ----------------------------------------------------------------------------- */

bool kd__is_texts(const kd_column *c); /* ragged rows of tokens */
/* Rows that are decoded. */
typedef struct kd__window {
    uint64_t first, rows, room; /* of the exam */
    uint32_t next;              /* chunk behind it */
    size_t row_bytes;
    unsigned char *raw; /* (room, row bytes) inputs; of texts tokens, one text behind the other */
    uint64_t *offset;   /* (room + 1) of texts: tokens before each, else NULL */
    size_t bytes;       /* of raw, of texts */
    float *teacher;     /* (room, classes) or NULL */
    kd__reference ref;
    double *seconds; /* of each model's forward passes */
} kd__window;
kd_status kd__window_create(kd__window *w, const kd_exam *e, size_t models, kd_err *err);
void kd__window_release(kd__window *w);
/* Decodes the next chunks; w->rows == 0: all is done. */
kd_status kd__window_read(kd__window *w, const kd_exam *e, kd_cursor *cur, kd_err *err);
kd_exec_params kd__window_exec(const kd__window *w, const kd_exam *e); /* with room for any batch of it */
/* Rows r to r + n; offset: (batch + 1) for itself. */
kd_status kd__window_feed(const kd__window *w, const kd_exam *e, const kd_model *m, kd_exec *ex, uint64_t r,
                          uint64_t n, uint64_t *offset, kd_err *err);

/* ---- runs.c, select.c --------------------------------------------------------------------- */

void kd__eval_run_release(kd_run *r);
/* Both names are of one student: alike up to the first '@'. */
bool kd__eval_same_student(const char *a, const char *b);
/* If folder has a selection.json: of runs [first, n), which were found below it, only what it chose stays. */
kd_status kd__selection_apply(kd_runs *runs, size_t first, const char *folder, kd_err *err);

/* ---- groups.c ----------------------------------------------------------------------------- */

/* Runs of one name and role, by rising seed. */
typedef struct kd__group {
    const kd_run *v;
    size_t n;
} kd__group;
/* The group that begins at r; the last run of all is before end. */
kd__group kd__group_at(const kd_run *r, const kd_run *end);
const kd_run *kd__name_end(const kd_run *r, const kd_run *end);
/* The plain runs that the runs of a name are paired with; n = 0: none. */
kd__group kd__find_control(const kd_runs *runs, const char *name);
/* The distilled runs of a student's point, "loss=kd" of "cnn@loss=kd", or of the student whose whole name it
 * is; name: of any of its points, NULL: any student. */
kd__group kd__find_point(const kd_runs *runs, const char *name, const char *point);
/* KD_ENOTFOUND: no such point; against may be NULL. */
kd_status kd__check_against(const kd_runs *runs, const char *against, kd_err *err);
/* The runs of this name are another student's control and nothing more. */
bool kd__only_control(const kd_runs *runs, const kd_run *r, const kd_run *end);

/* ---- cost.c ------------------------------------------------------------------------------- */

/* All but the times. */
kd_status kd__cost_of(kd_cost *c, kd_model *m, const char *folder, kd_err *err);
void kd__set_cost(json_t *o, const kd_exam *e, const kd_cost *c);

/* ---- tables.c, mistakes.c, compare.c, students.c ------------------------------------------------- */

/* Answers of the same rows by several models (seeds of a student, or the teacher alone). */
typedef struct kd__panel {
    const kd_answer *const *a;
    size_t n;
} kd__panel;
json_t *kd__real(double v); /* null where it is not finite */
void kd__set_measures(json_t *o, const kd_measures *m);
/* per_class, reliability, reliability_adaptive, confusion, slices into o. */
kd_status kd__set_tables(json_t *o, const kd_exam *e, const kd__panel *p, bool teacher, kd_err *err);
json_t *kd__mistakes_json(const kd_exam *e, const kd__panel *p, kd_err *err);
/* Sets NAME_low and NAME_high of what was resampled; resampled[i]: of panel member i. */
kd_status kd__set_bounds(json_t *o, const kd_exam *e, const double *const *resampled, size_t n, kd_err *err);
/* Mean of a measure over seeds drawn with replacement, in one resample. */
double kd__resampled_mean(const double *const *resampled, size_t n, size_t resamples, kd_measure_name m,
                          uint32_t b);
/* 95 % bounds of the numbers of v that are defined; sorts it. */
void kd__bounds(double *v, size_t n, double *low, double *high);
json_t *kd__pairs_json(const kd_exam *e, const kd_runs *runs, kd_err *err);
json_t *kd__student_json(kd_exam *e, const kd_runs *runs, const kd_run *r, const kd_run *end, kd_err *err);
/* Means over the runs of a group; taken where all took it. */
void kd__mean_measures(kd_measures *m, const kd__group *g);

/* What answers, and sums over sparse targets, come to (language_measures.c). */
kd_status kd__language_measure(const kd_language *l, kd_language_run *r, int64_t vocab, kd_err *err);

#endif
