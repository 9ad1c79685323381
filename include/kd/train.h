/* kd/train.h - many students, one pass over a store.
 *
 * A student is a YAML file (name, model:, loss:, train:), a seed and a folder. All students of a
 * trainer are fed from one loader: each chunk is decoded once an epoch, whatever the number of
 * students. Students with the same (seed, batch size) share a stream of batches, and with it the converted input.
 *
 * Scheduling: with at least as many students as threads each student's whole step runs on one thread
 * (no barriers); otherwise each step uses the whole team. The weights are the same either way, and the same for
 * any thread count (kd/nn.h).
 *
 * A student's folder while it trains: FOLDER.part/ with checkpoint files and metrics.jsonl; when it
 * is done config.json, model.safetensors, metrics.jsonl, provenance.json are there and the folder is renamed to FOLDER.
 * Unfinished outputs never look finished.
 *
 * A checkpoint (ckpt-EPOCH-STEP.kdc, last N and best kept) holds weights, buffers, optimizer state, position, schedule, metrics
 * so far and a contract (config, store root, teacher, seed, ISA level) that a resume must match; resume gives
 * bit-identical final weights.
 */
#ifndef KD_TRAIN_H
#define KD_TRAIN_H

#include "kd/loss.h"
#include "kd/model.h"
#include "kd/store.h"
#include "kd/data.h"

typedef struct kd_train_spec {
    int64_t epochs, batch;
    char *optimizer;          /* adamw, sgd */
    double lr, momentum, beta1, beta2, eps, weight_decay;
    bool nesterov;
    char *schedule;           /* constant, cosine, linear */
    double warmup;            /* fraction of all steps with rising rate, [0, 1) */
    double final_lr;          /* fraction of lr at the end of cosine and linear */
    double clip;              /* largest global gradient norm; 0: off */
    int64_t patience;         /* stop after that many epochs without a better validation loss; 0: never */
    char *keep;               /* last, best: which weights become model.safetensors (best by validation accuracy) */
} kd_train_spec;
extern const kd_option kd_train_options[];
extern const size_t kd_train_options_n;

/* Learning rate of step (from 0) of total. */
double kd_lr_at(const kd_train_spec *t, uint64_t step, uint64_t total);

/* What one student's YAML says. */
typedef struct kd_student_spec {
    char *name;               /* default: file name without .yaml */
    kd_model_spec model;
    kd_loss_spec loss;
    kd_train_spec train;
    kd_config config;
} kd_student_spec;
/* overrides: "train.epochs=3" pairs from the command line, applied after the file. */
kd_status kd_student_load(kd_student_spec *s, const char *path, const kd_strings *overrides, kd_err *err);
void kd_student_release(kd_student_spec *s);

typedef struct kd_trainer kd_trainer;
typedef struct kd_trainer_params {
    int threads;
    uint64_t rows;            /* first n training rows; 0: all */
    uint64_t window_rows;     /* of the loader */
    int64_t checkpoint_seconds; /* a checkpoint at the end of an epoch when that much time has passed; 0: each epoch */
    int64_t checkpoint_keep;  /* last N */
    bool resume;              /* continue FOLDER.part; finished folders are left as they are */
    bool force;               /* start over, replace finished folders */
    const char *command;      /* command line, for provenance */
    int team;                 /* 0 choose, 1 one thread a student, 2 whole team: for tests and benchmarks */
} kd_trainer_params;
kd_trainer_params kd_trainer_default_params(void);

/* The store must stay open. */
kd_status kd_trainer_create(kd_trainer **out, kd_store *s, const kd_trainer_params *p, kd_err *err);
/* Adds one student. role: "distilled", "plain" (its loss.kd is 0) or "teacher"; kept in provenance. A finished FOLDER (same contract) with
 * resume is skipped (*skipped = true). KD_EEXISTS, KD_EMISMATCH (classes, input shape, teacher column: by name), KD_EUSAGE. */
kd_status kd_trainer_add(kd_trainer *t, const kd_student_spec *spec, uint64_t seed, const char *role,
                         const char *folder, bool *skipped, kd_err *err);
size_t kd_trainer_students(const kd_trainer *t);
size_t kd_trainer_bytes(const kd_trainer *t);  /* planned memory, all students and the loader */
typedef struct kd_train_progress {
    uint64_t step, steps;     /* of the longest student */
    uint64_t rows;            /* rows x students trained so far */
    int64_t epoch;
    double loss, lr;          /* of the first running student */
} kd_train_progress;
/* Trains all. stop: polled each step; when set, checkpoints are written and KD_ESTOPPED returned. A
 * student whose loss is not finite is stopped, reported and left out (its .part stays); the others go on and the result
 * is KD_ENUMERIC at the end. */
kd_status kd_trainer_run(kd_trainer *t, volatile const int *stop,
                         void (*progress)(void *arg, const kd_train_progress *p), void *arg, kd_err *err);
typedef struct kd_train_result {
    const char *name, *folder, *role;
    uint64_t seed;
    bool done, failed;
    double seconds, loss, valid_accuracy, valid_loss;
    uint64_t weight_hash;     /* XXH3 of the trainable slab and the buffers */
    size_t params;
} kd_train_result;
void kd_trainer_result(const kd_trainer *t, size_t i, kd_train_result *r);
/* Chunks decoded per epoch and column, and what one decode per chunk and epoch would be: equal when all is well. */
void kd_trainer_reads(const kd_trainer *t, uint64_t *decoded, uint64_t *expected);
double kd_trainer_stall(const kd_trainer *t);  /* seconds spent decoding */
/* Formula of student i as resolved; free() it. */
char *kd_trainer_formula(const kd_trainer *t, size_t i);
void kd_trainer_free(kd_trainer *t);

#endif
