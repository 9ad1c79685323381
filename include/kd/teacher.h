/* kd/teacher.h - something that turns input rows into logits.
 *
 * Native teachers are model folders that kd can run itself (a student's folder is one). The
 * interface carries what other kinds (a command over a pipe, files) need later: a name, a
 * fingerprint, a number of classes, and batches in, logits out.
 */
#ifndef KD_TEACHER_H
#define KD_TEACHER_H

#include "kd/model.h"
#include "kd/store.h"

typedef struct kd_teacher kd_teacher;
/* Loads the folder. batch: rows a call at most; threads: of the computation. */
kd_status kd_teacher_open(kd_teacher **out, const char *folder, int64_t batch, int threads, kd_err *err);
void kd_teacher_close(kd_teacher *t);
const char *kd_teacher_name(const kd_teacher *t);
const char *kd_teacher_fingerprint(const kd_teacher *t); /* 32 hex digits */
const kd_model *kd_teacher_model(const kd_teacher *t);
/* Whether the store's input column (shape, mean, scale) and classes (number, names) fit; KD_EMISMATCH names
 * the field and both values. What the store does not say is not compared. */
kd_status kd_teacher_check(const kd_teacher *t, const kd_store *s, kd_err *err);
/* raw: (rows, input shape) of dtype as stored; logits: (rows, classes) f32. rows <= batch. The bits of a
 * row's logits do not depend on its neighbours or on the thread count. KD_ENUMERIC: not finite, names the
 * row. */
kd_status kd_teacher_run(kd_teacher *t, const void *raw, kd_dtype dtype, int64_t rows, float *logits,
                         kd_err *err);

/* The whole pass: reads the input column of a sealed store chunk by chunk and adds a segment NAME
 * with the column NAME/logits (dtype f32 or f16) for all rows of all splits. Resumable; polled stop
 * as in kd_pack. name NULL: the model's own. With both wp->resume and wp->force an unfinished pass that fits
 * is gone on with, anything else is replaced. seconds (may be NULL) receives the time spent in the teacher by
 * this call. The manifest keeps {"name", "fingerprint", "model", "arch", "params", "macs", "command",
 * "seconds", "seconds_rows"} (kd_store_teacher). KD_EUNSUPPORTED (dtype), KD_EMISMATCH, KD_EEXISTS,
 * KD_ESTOPPED, KD_ENUMERIC, and the store's. */
kd_status kd_teacher_dump(kd_teacher *t, kd_store *s, const char *name, kd_dtype dtype,
                          const kd_writer_params *wp, const char *command, volatile const int *stop,
                          void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                          double *seconds, kd_err *err);
#endif
