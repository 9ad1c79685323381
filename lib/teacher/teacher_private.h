/* teacher_private.h - what the files of lib/teacher share. */
#ifndef KD_TEACHER_PRIVATE_H
#define KD_TEACHER_PRIVATE_H

#include "kd/teacher.h"

struct kd_teacher {
    char *folder; /* for messages */
    kd_model *model;
    kd_exec *exec;
    int64_t batch;
    size_t input, classes; /* numbers a row */
    char fingerprint[33];
};

/* As kd_teacher_run; row: number of the first row, for the message about what is not finite. */
kd_status kd__teacher_run(kd_teacher *t, const void *raw, kd_dtype dtype, int64_t rows, uint64_t row,
                          float *logits, kd_err *err);

#endif
