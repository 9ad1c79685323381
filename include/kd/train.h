/* kd/train.h - many students, one pass over a store.
 *
 * A student is a YAML file (name, model:, loss:, train:), a seed and a folder. All students of a
 * trainer are fed from one loader: each chunk is decoded once an epoch, whatever the number of
 * students. Students with the same (seed, batch size, views) share a stream of batches, and with it the views
 * made, the labels checked and the teacher's logits made floats; bytes of the input become floats in each
 * student's own step.
 *
 * Scheduling: with at least as many students as threads each student's whole step runs on one thread
 * (no barriers); otherwise each step uses the whole team. The weights are the same either way, and the same
 * for any thread count (kd/nn.h).
 *
 * A student's folder while it trains: FOLDER.part/ with checkpoint files and metrics.jsonl; when it
 * is done config.json, model.safetensors, metrics.jsonl, provenance.json are there and the folder is renamed
 * to FOLDER. Unfinished outputs never look finished.
 *
 * A checkpoint (ckpt-EPOCH-STEP.kdc, last N kept; STEP in batches) holds weights, buffers, optimizer state,
 * gradients that wait for the rest of their step, the weights' mean and the best weights where those are
 * asked for, position, metrics so far and a contract (config, roots of the columns read, seed, instruction
 * set) that a resume must match; resume gives bit-identical final weights.
 *
 * Each student has a position (epoch, step) of its own and takes exactly the batch of that position, so
 * students may stand at different places: after a crash each goes on from its own newest whole checkpoint,
 * and a student added later catches up while the others wait.
 *
 *     kd_trainer_params p = kd_trainer_default_params();
 *     p.threads = 2;
 *     if (kd_student_load(&spec, "cnn.yaml", NULL, &err) || kd_trainer_create(&t, store, &p, &err)) ...
 *     for (uint64_t seed = 0; seed < 3; seed++)
 *         if (kd_trainer_add(t, &spec, seed, "distilled", folder[seed], &skipped, &err)) ...
 *     if (kd_trainer_run(t, NULL, NULL, NULL, &err)) ...
 */
#ifndef KD_TRAIN_H
#define KD_TRAIN_H

#include "kd/loss.h"
#include "kd/model.h"
#include "kd/store.h"
#include "kd/data.h"

typedef struct kd_train_spec {
    int64_t epochs, batch;
    int64_t accumulate; /* batches whose gradients make one step */
    char *optimizer;    /* adamw, sgd */
    char *precision;    /* f32, bf16: of the products in training steps; weights are f32 */
    double lr, momentum, beta1, beta2, eps, weight_decay;
    bool nesterov;
    char *schedule;   /* constant, cosine, linear */
    double warmup;    /* fraction of all steps with rising rate, [0, 1) */
    double final_lr;  /* fraction of lr at the end of cosine and linear */
    double clip;      /* largest global gradient norm; 0: off */
    double ema;       /* decay of a running mean of the weights, which is then judged and kept; 0: off */
    int64_t patience; /* stop after that many epochs without a better validation loss; 0: never */
    char *keep;       /* which weights become model.safetensors: last, best (largest validation accuracy),
                         best_loss (smallest validation loss) */
} kd_train_spec;
extern const kd_option kd_train_options[];
extern const size_t kd_train_options_n;

/* Learning rate of step (from 0) of total. */
double kd_lr_at(const kd_train_spec *t, uint64_t step, uint64_t total);

/* What one student's YAML says. */
typedef struct kd_student_spec {
    char *name; /* default: file name without .yaml */
    kd_model_spec model;
    kd_loss_spec loss;
    kd_train_spec train;
    char *init_from;     /* folder of a model whose weights it begins with; NULL: none */
    kd_ints init_layers; /* which of its layers */
    int64_t init_tokens; /* of training rows, for a narrower student */
    char *init_tables;   /* same, words */
    char *views_from;    /* none, store, fresh: which views of the rows it trains on */
    kd_view_spec views;  /* of fresh ones; of stored ones what it expects of the store */
    kd_config config;
} kd_student_spec;
extern const kd_option kd_student_options[]; /* name, init.*, views.from */
extern const size_t kd_student_options_n;
/* overrides: "train.epochs=3" pairs from the command line, applied after the file. */
kd_status kd_student_load(kd_student_spec *s, const char *path, const kd_strings *overrides, kd_err *err);
void kd_student_release(kd_student_spec *s);

/* ---- sweeps ------------------------------------------------------------------------------- */

#define KD_TRAIN_RUNS 4096 /* of one trainer, and points of one sweep */
typedef struct kd_sweep kd_sweep;
/* args: one "KEY=VALUE,VALUE,..." an axis (semicolons instead of commas where values hold commas); none: the
 * sweep has one point, the student as its file says. KD_EUSAGE, KD_ELIMIT. */
kd_status kd_sweep_create(kd_sweep **out, const kd_strings *args, kd_err *err);
/* Points of the cross product. control: of the student without its teacher, for which axes of the loss (keys
 * loss.*) do not count. */
size_t kd_sweep_points(const kd_sweep *w, bool control);
/* The student at a point, named NAME@key=value@key=value: letters that a folder's name should not hold become
 * dashes. control: the terms that compare the student's own texts (contrastive), else loss.kd 0, loss.ce 1.
 */
kd_status kd_sweep_load(const kd_sweep *w, size_t point, bool control, kd_student_spec *s, const char *path,
                        const kd_strings *overrides, kd_err *err);
void kd_sweep_free(kd_sweep *w);

/* ---- the trainer -------------------------------------------------------------------------- */

typedef struct kd_trainer kd_trainer;
typedef struct kd_trainer_params {
    int threads;
    uint64_t rows;        /* first n training rows; 0: all */
    const uint8_t *drop;  /* marks (kd/data.h) of training rows that are left out; NULL: none. Borrowed */
    uint64_t window_rows; /* of the loader; 0, the default: 65536, of long texts so many that they have about
                             2 M tokens */
    int64_t checkpoint_seconds; /* a checkpoint when that much time has passed; 0: at the end of each epoch */
    int64_t checkpoint_keep;    /* last N */
    uint64_t log_steps;  /* a line of metrics.jsonl every that many steps, besides those of epochs; 0: none */
    bool tensorboard;    /* metrics.jsonl as an event file of TensorBoard, too */
    bool resume;         /* continue FOLDER.part; finished folders are left as they are */
    bool force;          /* start over, replace finished folders; with resume only what does not fit */
    const char *command; /* command line, for provenance */
    int team;            /* 0 choose, 1 one thread a student, 2 whole team: for tests and benchmarks */
    uint64_t valid_cache; /* bytes: validation rows are kept decoded if they fit, else decoded each epoch */
} kd_trainer_params;
kd_trainer_params kd_trainer_default_params(void);

/* The store must stay open. */
kd_status kd_trainer_create(kd_trainer **out, kd_store *s, const kd_trainer_params *p, kd_err *err);
/* Adds one student. role: "distilled", "plain" (its loss.kd is 0) or "teacher"; kept in provenance. A
 * finished FOLDER (same contract) with resume is skipped (*skipped = true). KD_EEXISTS, KD_EMISMATCH
 * (classes, input shape, teacher column: by name), KD_EUSAGE, KD_ELIMIT (more than KD_TRAIN_RUNS). */
kd_status kd_trainer_add(kd_trainer *t, const kd_student_spec *spec, uint64_t seed, const char *role,
                         const char *folder, bool *skipped, kd_err *err);
size_t kd_trainer_students(const kd_trainer *t);
/* Opens the loader and plans all memory; run does it if nobody did. Writes nothing. No student can be added
 * afterwards. KD_ENOMEM, KD_EUSAGE (fewer training rows than a batch: names the student). */
kd_status kd_trainer_plan(kd_trainer *t, kd_err *err);
size_t kd_trainer_bytes(const kd_trainer *t); /* planned memory, all students and the loader; 0 before plan */
typedef struct kd_train_progress {
    uint64_t step, steps; /* of the longest student */
    uint64_t rows;        /* rows x students trained so far */
    int64_t epoch;
    double loss, lr; /* of the first running student */
} kd_train_progress;
/* Trains all. stop: polled each step; when set, checkpoints are written and KD_ESTOPPED returned. A
 * student whose loss is not finite is stopped, reported and left out (its .part stays); the others go on and
 * the result is KD_ENUMERIC at the end. */
kd_status kd_trainer_run(kd_trainer *t, volatile const int *stop,
                         void (*progress)(void *arg, const kd_train_progress *p), void *arg, kd_err *err);
typedef struct kd_train_result {
    const char *name, *folder, *role;
    uint64_t seed;
    bool done, failed, skipped; /* skipped: was finished before, figures are from its folder */
    uint64_t epochs;            /* finished */
    double seconds;             /* in this student's own steps */
    double loss, valid_accuracy,
        valid_loss;       /* of the weights kept; validation figures NAN without validation rows */
    uint64_t weight_hash; /* XXH3 of the trainable slab and the buffers */
    size_t params;
    size_t bytes; /* planned memory of this student alone; 0 before plan */
} kd_train_result;
void kd_trainer_result(const kd_trainer *t, size_t i, kd_train_result *r);
/* Blocks (chunks x columns) of training rows decoded by this run, and what one decode of each chunk an epoch
 * would be (one a run where all rows fit into one window): equal when all is well, fewer after a resume. */
void kd_trainer_reads(const kd_trainer *t, uint64_t *decoded, uint64_t *expected);
double kd_trainer_stall(const kd_trainer *t);        /* seconds in which all students waited for rows */
size_t kd_trainer_reader_bytes(const kd_trainer *t); /* of the loader's windows and streams; 0 before plan */
/* Formula of student i as resolved; free() it. */
char *kd_trainer_formula(const kd_trainer *t, size_t i);
/* Configuration of student i as resolved against the store; new reference. */
json_t *kd_trainer_config(const kd_trainer *t, size_t i);
/* All of this as {"students": [...], "reads": {"decoded", "expected"}, "planned_bytes", "reader_bytes",
 * "stall_s"}; new reference, NULL when out of memory. */
json_t *kd_trainer_json(const kd_trainer *t);
/* Sentences that do not stop a run (a damaged checkpoint passed over, a student that diverged, a teacher that
 * disagrees with the labels); NULL past the last. Borrowed until the next call that trains or adds. */
const char *kd_trainer_warning(const kd_trainer *t, size_t i);
void kd_trainer_free(kd_trainer *t);

#endif
