/* loss_private.h - what the files of lib/loss share. */
#ifndef KD_LOSS_PRIVATE_H
#define KD_LOSS_PRIVATE_H

#include "kd/loss.h"

/* Rows of a block: the grid that threads share is rows / KD__LOSS_ROWS, whatever their number. */
#define KD__LOSS_ROWS 16

/* An objective: how it reads the spec and what it is in plain C. Its public row (name, formula,
 * needs) stands in objectives.c at the same index. */
typedef struct kd__objective {
    bool teacher, labels; /* what it reads beside the student's logits */
    double (*weight)(const kd_loss_spec *s);
    /* Appends the resolved formula without its weight, such as "T^2 KL(p||q)/B". */
    void (*describe)(kd_buf *b, const kd_loss_spec *s);
    /* Unweighted value in double; adds weight * d value / d logits to grad (rows, classes), if not
     * NULL. valid: rows that count, at least 1. */
    double (*naive)(const kd_loss_spec *s, const kd_loss_batch *b, int64_t valid, double weight,
                    double *grad);
} kd__objective;

extern const kd__objective kd__objective_ce; /* hard.c */
extern const kd__objective kd__objective_kd; /* soft.c */

bool kd__loss_is(const char *choice, const char *word);                       /* NULL is the first choice */
double kd__soft_scale(const kd_loss_spec *s, int64_t valid, int64_t classes); /* factor of sum_b KL */
bool kd__row_counts(const kd_loss_batch *b, int64_t row);

/* The mix of softmax objectives, resolved for one batch: what the kernel needs to do CE and KD of a
 * row in one pass. */
typedef struct kd__softmax_mix {
    int64_t classes;
    bool kd, ce;
    float inv_t;   /* 1 / T */
    float kl;      /* 1: KL; 0: cross-entropy with the teacher, KL without the teacher's entropy */
    float grad_kd; /* factor of (q - p) */
    float grad_ce; /* factor of (softmax - target) */
    float smooth;  /* label smoothing of ce */
} kd__softmax_mix;

/* Kernels, one set per instruction set (loss.simd.c). */
typedef struct kd__loss_vec {
    /* rows <= KD__LOSS_ROWS of z (student), t (teacher; NULL without kd), y (labels; NULL: all rows
     * count). sum receives the block's sums of CE and of KL over the rows that count, without any
     * factor. dz may be NULL. */
    void (*block)(const kd__softmax_mix *m, const float *z, const float *t, const int32_t *y, int rows,
                  float *dz, double sum[2]);
    /* out = log softmax(z / T); out may be z. */
    void (*log_softmax)(float *out, const float *z, int rows, int64_t classes, float inv_t);
    void (*exp)(float *y, const float *x, size_t n); /* <= 2 ulp; 0 below -87.33; x <= 88.3 */
} kd__loss_vec;
extern const kd__loss_vec kd__loss_vec_scalar, kd__loss_vec_avx2, kd__loss_vec_avx512;
const kd__loss_vec *kd__loss_vec_of(kd_isa isa);

/* Value of the last run: KD__LOSS_ROWS rows a block, (CE, KL) sums of each. */
struct kd_loss {
    kd_loss_spec spec; /* strings copied below */
    kd_arena strings;
    const kd__loss_vec *vec;
    double ce, kd; /* weights */
    int64_t max_rows, blocks, valid, classes;
    double *partial; /* (max blocks, 2) */
};

#endif
