/* train_private.h - what the files of lib/train share.
 *
 * Reading order: options.c, schedule.c, student.c (what is asked for); run.c (one student against the
 * store), folder.c (its folder's life), optimizer.c, targets.c (logits as stored), feed.c (batches,
 * validation rows), step.c (the only
 * parallel regions); checkpoint.c, metrics.c, provenance.c (what is written); trainer.c (all students),
 * loop.c (epochs and rounds).
 */
#ifndef KD_TRAIN_PRIVATE_H
#define KD_TRAIN_PRIVATE_H

#include "kd/train.h"

/* What names of students may hold, beside the '@' before each part of a point of a sweep. */
#define KD__NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-="
#define KD__EVAL_BATCH   256

/* ---- one student being trained ------------------------------------------------------------ */

/* Everything that a checkpoint holds besides tensors, metrics and contract. The position says which
 * batch comes next: `step` of `epoch`, both from 0; step == steps of the epoch: only its end is missing. */
#define KD__STATE_INTS(X)                                                                                    \
    X(epoch) X(step) X(total) X(rows) X(hits) X(labelled) X(best_epoch) X(bad_epochs) X(ended)
#define KD__STATE_REALS(X)                                                                                   \
    X(loss_sum)                                                                                              \
    X(seconds)                                                                                               \
    X(loss) X(valid_loss) X(valid_accuracy) X(least_loss) X(best_loss) X(best_valid_loss) X(best_accuracy)
typedef struct kd__state {
#define X(name) uint64_t name;
    KD__STATE_INTS(X)
#undef X
#define X(name) double name;
    KD__STATE_REALS(X)
#undef X
    double term_sum[KD_LOSS_TERMS];
} kd__state;
/* total: steps taken since the start. rows, hits, labelled, loss_sum, term_sum: of this epoch so far
 * (hits: labelled rows where the teacher is right). loss, valid_*: of the last whole epoch. least_loss,
 * bad_epochs: the smallest validation loss and the epochs since, for patience; ended: 1 when that ran
 * out. best_*: of the epoch with the best validation accuracy, best_epoch from 1; 0: none yet. */

/* A range of the slab of parameters that is updated alike. */
typedef struct kd__range {
    size_t first, n;
    bool decay;
} kd__range;

typedef struct kd__feed kd__feed;
typedef struct kd__run {
    kd_student_spec spec; /* a copy, resolved against the store */
    char *folder, *part, *role;
    int lock; /* descriptor that holds the flock on the part, -1: none */
    uint64_t seed;
    json_t *contract;
    /* Slots in the trainer's list of columns; -1: not used. */
    int input, label, logits;
    kd_dtype input_dtype;
    kd_model *model;
    kd_loss *loss;
    kd_exec *ex, *eval; /* made by plan */
    int64_t classes;
    float *weights, *stats;          /* the graph's slab of parameters and its buffers */
    float *moment1, *moment2, *best; /* slab-sized; best: slab then buffers; moment2, best: may be NULL */
    double *partial;                 /* of the gradient's norm */
    kd__range *ranges;
    size_t nranges, slab, buffers; /* floats */
    double flops;                  /* a step: heavy students are scheduled first */
    kd__feed *feed;
    uint64_t steps; /* an epoch */
    kd__state at;
    uint64_t saved;                                     /* at.total of the newest checkpoint */
    kd_buf log;                                         /* metrics.jsonl so far */
    enum { KD__FRESH, KD__RESUMED, KD__WRITTEN } start; /* WRITTEN: only the renaming is missing */
    bool done, skipped, diverged;
    double lr;    /* of this step */
    double stall; /* seconds in which this epoch waited for rows, in this run of the tool */
    /* Sums of the validation pass of an epoch. */
    struct {
        double loss;
        uint64_t rows, hits, labelled;
    } valid;
    kd_train_result result; /* filled in when done */
} kd__run;

kd_status kd__student_init(kd_student_spec *s, kd_err *err);
/* point: pairs of a sweep over those of --set, suffix: behind the name; both may be NULL. */
kd_status kd__student_load(kd_student_spec *s, const char *path, const kd_strings *overrides,
                           const kd_strings *point, const char *suffix, kd_err *err);
/* out: uninitialised; it must not move afterwards. */
kd_status kd__student_copy(kd_student_spec *out, const kd_student_spec *s, kd_err *err);

/* Copies the spec, resolves it against the store and makes the contract. */
kd_status kd__run_create(kd__run **out, kd_trainer *t, const kd_student_spec *spec, uint64_t seed,
                         const char *role, const char *folder, kd_err *err);
/* The model with its initial weights, and memory for the optimizer. */
kd_status kd__run_build(kd__run *r, kd_trainer *t, kd_err *err);
/* Looks at what FOLDER and FOLDER.part hold and decides what to do: leave, continue or start (r->skipped,
 * r->start). Builds the model unless nothing is left to train. Changes nothing on disk. */
kd_status kd__run_meet(kd__run *r, kd_trainer *t, kd_err *err);
/* Makes FOLDER.part ready for training. */
kd_status kd__run_begin(kd__run *r, kd_err *err);
/* Closes an epoch: figures, best weights, patience, the line of metrics; the position moves on. Weights
 * that are not finite set r->diverged instead. */
kd_status kd__run_end_epoch(kd__run *r, kd_err *err);
/* Writes the model and its papers, then FOLDER.part becomes FOLDER. */
kd_status kd__run_finish(kd__run *r, const kd_trainer *t, kd_err *err);
void kd__run_free(kd__run *r);
bool kd__run_active(const kd__run *r);  /* has steps to do */
size_t kd__run_bytes(const kd__run *r); /* planned memory */

/* ---- optimizer ---------------------------------------------------------------------------- */

/* Cuts the slab into ranges by decay; allocates moments. */
kd_status kd__optimizer_create(kd__run *r, kd_err *err);
/* Called by the whole team. False (to all threads): the gradient is not finite, nothing was changed. */
bool kd__optimizer_step(kd__run *r, const float *grads);

/* ---- batches ------------------------------------------------------------------------------ */

/* Labels and teacher logits of some rows, ready for the losses. */
typedef struct kd__targets {
    int32_t *labels;                  /* (rows); NULL: no labels */
    float *logits[KD_LOADER_COLUMNS]; /* (rows, classes) per slot; NULL: none */
    uint64_t labelled,
        hits[KD_LOADER_COLUMNS]; /* per slot: labelled rows whose top class the teacher has right */
} kd__targets;

/* What all students with one seed and batch size see. */
struct kd__feed {
    uint64_t seed;
    uint32_t batch;
    kd_stream *stream;
    uint64_t steps, step; /* batches an epoch; the one that is drawn */
    bool over, drawn;     /* the epoch's batches are used up; b is to be stepped on this round */
    kd_batch b;
    kd__targets targets;
};

/* A chunk of validation rows. */
typedef struct kd__block {
    uint32_t chunk, rows;
    void *input;
    kd__targets targets;
} kd__block;

/* lookup of a row's number in the store, for messages: row[i], or first + i when row is NULL. */
typedef struct kd__rows {
    const uint64_t *row;
    uint64_t first;
    uint32_t n;
} kd__rows;
kd_status kd__targets_alloc(kd__targets *g, const kd_trainer *t, uint32_t rows, kd_err *err);
void kd__targets_release(kd__targets *g);
/* Whether a column of logits serves loss.kd at this temperature; refuses by name. where: of the key. */
kd_status kd__logits_check(const kd_trainer *t, const kd_column *z, double temperature, const char *where,
                           kd_err *err);
/* z: (rows, classes) receives values whose softmax at the temperature of the dump is what s holds. */
void kd__logits_scatter(float *z, const kd_column *c, const kd_sparse *s, uint32_t rows, size_t classes);
/* raw[slot], or sparse[slot] where that is not NULL: rows of the trainer's columns. KD_ECORRUPT names store,
 * column and row of a label out of range or a logit that is not finite. */
kd_status kd__targets_fill(kd__targets *g, const kd_trainer *t, const void *const *raw,
                           const kd_sparse *const *sparse, const kd__rows *rows, kd_err *err);

kd_status kd__feed_open(kd__feed **out, kd_trainer *t, uint64_t seed, uint32_t batch, kd_err *err);
void kd__feed_close(kd__feed *f);
/* Draws the next batch if there is one in this round. */
kd_status kd__feed_draw(kd__feed *f, kd_trainer *t, kd_err *err);

/* ---- all students ------------------------------------------------------------------------- */

struct kd_trainer {
    kd_store *store;
    kd_trainer_params p;
    char *command;
    kd__run **runs;
    size_t nruns;
    kd__run **heavy; /* the same, most work a step first: the last task of a round is a short one */
    kd__run **todo;  /* runs of this round or pass, heavy first */
    size_t ntodo;
    kd__feed **feeds;
    size_t nfeeds;
    /* Columns the loader reads; slots index this list. */
    int columns[KD_LOADER_COLUMNS], ncolumns;
    int64_t slot_classes[KD_LOADER_COLUMNS]; /* of logits columns; of labels: the store's classes */
    kd_loader *loader;
    bool planned, solo, warned_alignment;
    /* Validation rows. */
    kd__block *blocks;
    size_t nblocks;
    bool cached;
    kd_cursor *cursor;
    /* Counters. */
    uint64_t loader_epochs, rows_trained;
    double last_checkpoint, stall; /* stall: of the loader when the epoch began */
    char **warnings;
    size_t nwarnings;
};

void kd__trainer_warn(kd_trainer *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Slot of a column of the store, added if new; -1: too many columns. */
int kd__trainer_slot(kd_trainer *t, int column);
const kd_column *kd__trainer_column(const kd_trainer *t, int slot);

kd_status kd__valid_open(kd_trainer *t, kd_err *err);
void kd__valid_close(kd_trainer *t);
size_t kd__valid_bytes(const kd_trainer *t);
/* Block i, decoded or from the cache. */
kd_status kd__valid_block(kd_trainer *t, size_t i, const kd__block **out, kd_err *err);

/* ---- steps (step.c) ----------------------------------------------------------------------- */

/* One training step of each run in t->todo, on the batch its feed has drawn. */
void kd__steps(kd_trainer *t);
/* Adds the rows of a validation block to the sums of each run in t->todo. */
void kd__evaluate(kd_trainer *t, const kd__block *b);

/* ---- what is written ---------------------------------------------------------------------- */

/* Appends the line of the epoch that has just ended to the log. */
kd_status kd__metrics_line(kd__run *r, kd_err *err);        /* to the log and to the file */
kd_status kd__metrics_write(const kd__run *r, kd_err *err); /* the file anew, whole */

json_t *kd__contract(const kd_trainer *t, const kd__run *r); /* NULL: out of memory */
/* Whether two contracts agree; KD_EMISMATCH names the first field that differs and both values. Fields of the
 * machine are compared only where bits must agree (strict). */
kd_status kd__contract_check(const json_t *there, const json_t *here, bool strict, const char *where,
                             kd_err *err);
kd_status kd__provenance_write(const kd_trainer *t, const kd__run *r, kd_err *err);
/* A finished folder with our contract: fills in r->result. KD_EMISMATCH: another contract. */
kd_status kd__provenance_read(kd__run *r, const char *folder, kd_err *err);

kd_status kd__checkpoint_save(kd__run *r, int64_t keep, kd_err *err);
/* The newest whole checkpoint of r->part; *found = false: there is none. KD_EMISMATCH: another contract;
 * KD_ECORRUPT: there are some, all damaged. */
kd_status kd__checkpoint_resume(kd__run *r, kd_trainer *t, bool *found, kd_err *err);
/* Removes checkpoints and left-over temporary files. */
kd_status kd__checkpoint_clear(const kd__run *r, kd_err *err);

#endif
