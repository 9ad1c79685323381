/* train_private.h - what the files of lib/train share.
 *
 * Reading order: options.c, schedule.c, student.c (what is asked for); run.c (one student against the
 * store), views.c (views of its rows), sources.c (which columns its loss reads), taps.c (which of its nodes),
 * words.c (what language models predict), folder.c (its folder's life), optimizer.c, targets.c (logits as
 * stored), feed.c (batches, validation rows), step.c (the only parallel regions); checkpoint.c, metrics.c,
 * events.c, provenance.c (what is written); trainer.c (all students), loop.c (epochs and rounds).
 */
#ifndef KD_TRAIN_PRIVATE_H
#define KD_TRAIN_PRIVATE_H

#include "kd/train.h"

/* What names of students may hold, beside the '@' before each part of a point of a sweep. */
#define KD__NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-="
#define KD__EVAL_BATCH   256
#define KD__LOG_LINES    200000 /* between epochs: checkpoints hold the text */

/* ---- one student being trained ------------------------------------------------------------ */

/* Everything that a checkpoint holds besides tensors, metrics and contract. The position says which
 * batch comes next: `step` of `epoch`, both from 0; step == steps of the epoch: only its end is missing. All
 * are counted in batches, of which train.accumulate make one step of the optimizer. */
#define KD__STATE_INTS(X)                                                                                    \
    X(epoch) X(step) X(total) X(rows) X(labelled) X(best_epoch) X(bad_epochs) X(ended) X(span_rows)
#define KD__STATE_REALS(X)                                                                                   \
    X(loss_sum)                                                                                              \
    X(span_loss)                                                                                             \
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
    uint64_t hits[KD_LOADER_COLUMNS]; /* by teacher of the run */
} kd__state;
/* total: batches taken since the start. span_*: since the last line of metrics between epochs. rows, hits,
 * labelled, loss_sum, term_sum: of this epoch so far (hits: labelled rows where the teacher is right). loss,
 * valid_*: of the last whole epoch. least_loss, bad_epochs: the smallest validation loss and the epochs
 * since, for patience; ended: 1 when that ran out. best_*: of the epoch that is best by train.keep
 * (validation accuracy where that is last), best_epoch from 1; 0: none yet. */

/* A range of the slab of parameters that is updated alike. */
typedef struct kd__range {
    size_t first, n;
    bool decay;
} kd__range;

#define KD__TEACHERS 6            /* that one term learns from */
#define KD__TEXTS    KD__TEACHERS /* columns of tokens */

/* What one term of a loss reads. */
typedef struct kd__source {
    int n, slot[KD__TEACHERS];  /* columns; 0: labels only */
    double share[KD__TEACHERS]; /* of each teacher; sum 1 */
    size_t each[KD__TEACHERS];  /* vectors a row in each column of embeddings of texts */
    enum { KD__MEAN_LOGITS, KD__MEAN_PROBABILITIES, KD__BEST, KD__TURNS } how;
    float *joined; /* (rows, classes) of several teachers; (texts, feature) of several columns of texts */
    /* Features. */
    kd_node tap; /* of the student, -1: none */
    kd_loss_nodes nodes;
    kd_loss_dims teacher; /* of the column */
} kd__source;

/* Sums over the pieces of a language model's batch: of values, and of what validation looks at. */
typedef struct kd__pieces {
    double value, term[KD_LOSS_TERMS], sum_nll;
    uint64_t hits;
    double *nll;    /* (positions of a piece) -log p of each token */
    uint32_t *from; /* (positions of a piece) tokens of the exec that predict; then whether they were right */
    float *
        teacher; /* (positions of a piece, classes) logits of a term that reads whole rows; NULL: none does */
} kd__pieces;

typedef struct kd__feed kd__feed;
typedef struct kd__run {
    kd_student_spec spec; /* a copy, resolved against the store */
    char *folder, *part, *role;
    int lock; /* descriptor that holds the flock on the part, -1: none */
    uint64_t seed;
    json_t *contract;
    /* Slots in the trainer's list of columns; -1: not used. */
    int input, label, id; /* id: for views */
    int64_t texts;        /* of a row, that an encoder embeds; 0: its input is a row of numbers */
    uint64_t *cut;        /* offsets of the texts of its batch */
    bool language;        /* it predicts the next token of its rows, which are one text each */
    kd_head *head;        /* then: computes its logits, a piece of positions at a time */
    uint32_t at_once;     /* rows of its batch at a time */
    int64_t eval_rows;    /* of validation rows at a time */
    kd__pieces pieces;
    kd__source source[KD_LOSS_TERMS];
    int teacher[KD_LOADER_COLUMNS], nteachers;   /* slots of all logits that its loss reads */
    const char *teacher_name[KD_LOADER_COLUMNS]; /* the store's */
    kd_dtype input_dtype;
    kd_model *model;
    kd_loss *loss;
    kd_exec *ex, *eval; /* made by plan */
    int64_t classes;
    float *weights, *stats;          /* the graph's slab of parameters and its buffers */
    float *moment1, *moment2, *best; /* slab-sized; best: slab then buffers; moment2, best: may be NULL */
    float *mean;                     /* slab then buffers, follows the weights; NULL without train.ema */
    float *sum;      /* slab: gradients of the step's batches so far; NULL where each batch is a step */
    double *partial; /* one a block: of the gradient's norm, then of the check of the weights */
    kd__range *ranges;
    size_t nranges, slab, buffers; /* floats */
    double flops;                  /* a step: heavy students are scheduled first */
    kd__feed *feed;
    uint64_t steps; /* batches an epoch, a multiple of train.accumulate */
    kd__state at;
    uint64_t saved;                                     /* at.total of the newest checkpoint */
    kd_buf log;                                         /* metrics.jsonl so far */
    enum { KD__FRESH, KD__RESUMED, KD__WRITTEN } start; /* WRITTEN: only the renaming is missing */
    bool done, skipped, diverged;
    bool events;  /* TensorBoard's file is written, too */
    double lr;    /* of this step */
    double stall; /* seconds in which this epoch waited for rows, in this run of the tool */
    /* Sums of the validation pass of an epoch. */
    struct {
        double loss, nll; /* nll: -log p of tokens, of language models */
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
kd_precision kd__run_precision(const kd__run *r);
bool kd__run_active(const kd__run *r);  /* has steps to do */
size_t kd__run_bytes(const kd__run *r); /* planned memory */

/* ---- texts (texts.c) ------------------------------------------------------------------------ */

/* The store's columns of tokens become the trainer's; t->ntexts stays 0 where there are none. */
kd_status kd__texts_find(kd_trainer *t, kd_err *err);
int64_t kd__texts_vocab(const kd_trainer *t);   /* of the tokenizer, 0: unknown */
int64_t kd__texts_longest(const kd_trainer *t); /* tokens, 0: unknown */
/* Whether the student reads these texts. */
kd_status kd__texts_check(const kd__run *r, const kd_trainer *t, kd_err *err);
/* The most tokens that `rows` rows of a split have. */
kd_status kd__texts_most(const kd_trainer *t, kd_split split, uint32_t rows, int64_t *tokens, kd_err *err);
/* How often each token occurs in the training rows: (vocab), free() it. */
kd_status kd__texts_count(const kd_trainer *t, uint64_t **count, kd_err *err);
/* The first training rows, so many tokens at most, an equal part of each column. */
kd_status kd__texts_sample(const kd_trainer *t, uint64_t tokens, kd_sample *s, kd_err *err);
void kd__sample_release(kd_sample *s);
/* By text: the tokens of all texts of some rows, one behind the other. */
typedef struct kd__texts {
    uint64_t n, tokens, room, token_room;
    int32_t *token;
    uint64_t *offset; /* (n + 1) */
    uint64_t *hash;   /* (n) of its tokens */
    int32_t *group;   /* (n) label of its row, -1: none */
} kd__texts;
void kd__texts_release(kd__texts *x);
int32_t kd__token_at(const kd_column *c, const void *raw, uint64_t at);

/* ---- language models (words.c) --------------------------------------------------------------- */

/* What is predicted of some rows: their tokens but the first, or those of them that a mask marks. */
typedef struct kd__words {
    uint64_t n, room, row_room;
    uint64_t *first; /* (rows + 1) positions before each row */
    uint32_t *from;  /* (n) the token before it, in the order of texts: there its logits are made */
    int32_t *label;  /* (n) the token */
} kd__words;
void kd__words_release(kd__words *w);

/* lookup of a row's number in the store, for messages: row[i], or first + i when row is NULL. */
typedef struct kd__rows {
    const uint64_t *row;
    uint64_t first;
    uint32_t n;
    const kd_view_spec *views; /* that are shown; NULL: the rows as they are, as for validation */
    const uint32_t *view;      /* (n) which */
    const void *other_label;   /* (n) as the labels are stored, of rows mixed in; NULL: none are */
    const float *share;
} kd__rows;

/* ---- views of the rows (views.c) ------------------------------------------------------------ */

bool kd__run_has_views(const kd__run *r);
/* Whether its logits are those of the views. */
bool kd__run_has_stored_views(const kd__run *r);
/* Decides r->spec.views. given: the student's own words, for messages. Refuses by name what does not fit
 * together. */
kd_status kd__views_resolve(kd__run *r, const kd_student_spec *given, const kd_trainer *t, kd_err *err);
/* The column of the logits of these views, of a teacher; "": the only one. */
kd_status kd__views_find(const kd__run *r, const kd_trainer *t, const char *teacher, int *column,
                         kd_err *err);

/* ---- what a loss reads --------------------------------------------------------------------- */

/* Fills in r->source and r->teacher; refuses by name what the store does not have or cannot serve. */
kd_status kd__sources_find(kd__run *r, kd_trainer *t, kd_err *err);
/* Once the classes are known: whether every column has as many. */
kd_status kd__sources_check(const kd__run *r, const kd_trainer *t, kd_err *err);
/* The formula, and what features and several teachers it stands for; free() it. */
char *kd__sources_text(const kd__run *r, const kd_trainer *t);
/* Whether a term is part of the validation loss: unless it compares with what it keeps of training rows. */
bool kd__term_judges(const kd_loss_term *term);
/* The model with taps and projections behind it: r->model. */
kd_status kd__taps_model(kd__run *r, kd_trainer *t, const json_t *spec, kd_err *err);
/* Nodes that the validation loss reads, into keep; how many. */
int kd__taps_judged(const kd__run *r, kd_node keep[1 + 2 * KD_LOSS_TERMS]);
/* Plans the loss and reads what it needs of all rows. */
kd_status kd__taps_plan(kd__run *r, kd_trainer *t, kd_err *err);
/* Numbers of rows among all training rows. */
void kd__samples_of(const kd_trainer *t, const kd__rows *rows, int64_t *samples);

/* ---- optimizer ---------------------------------------------------------------------------- */

/* Cuts the slab into ranges by decay; allocates moments, mean and sum. */
kd_status kd__optimizer_create(kd__run *r, kd_err *err);
/* Takes the gradients of the batch at r->at, and steps when they are the last of their step. Called by the
 * whole team, which has to meet before r->at moves on. False (to all threads): a gradient or a new weight is
 * not finite, and the run is over. */
bool kd__optimizer_step(kd__run *r, const float *grads);
/* The buffers' mean, behind a step; by one thread. */
void kd__optimizer_follow(kd__run *r);
uint64_t kd__run_updates(const kd__run *r); /* steps of the optimizer so far */
/* Learning rate of the step that the batch at r->at.total + ahead belongs to. */
double kd__run_lr(const kd__run *r, int ahead);
/* Exchanges the weights with their mean, where there is one: what is judged and kept stands in the graph. */
void kd__run_swap(kd__run *r);

/* ---- batches ------------------------------------------------------------------------------ */

/* Labels and what teachers said of some rows, ready for the losses. */
typedef struct kd__targets {
    int32_t *labels;     /* (rows); NULL: no labels */
    int32_t *others;     /* (rows) of the rows mixed in; NULL: none are */
    const float *shares; /* (rows) of the rows themselves; borrowed */
    /* Per slot. values: logits (rows, classes) or features (rows, their shape); sparse: targets; NULL: none.
     */
    float *values[KD_LOADER_COLUMNS];
    const kd_sparse *sparse[KD_LOADER_COLUMNS];
    kd_sparse own[KD_LOADER_COLUMNS]; /* of a block */
    int64_t *samples;                 /* (rows) numbers among all training rows; NULL: nobody asks */
    kd__texts texts;
    kd__words words;
    /* Per slot: dense logits of language models as stored, or as f32 of a dense codec; borrowed, or kept. */
    const void *dense[KD_LOADER_COLUMNS];
    void *kept[KD_LOADER_COLUMNS];
    uint64_t labelled,
        hits[KD_LOADER_COLUMNS]; /* per slot: labelled rows whose top class the teacher has right */
} kd__targets;

/* What all students with one seed, batch size and kind of views see. */
struct kd__feed {
    uint64_t seed;
    uint32_t batch;
    kd_view_spec views; /* count 0: rows as they are */
    kd_stream *stream;
    uint64_t steps, step; /* batches an epoch; the one that is drawn */
    bool over, drawn;     /* the epoch's batches are used up; b is to be stepped on this round */
    bool ahead;           /* it was drawn beside others, with this outcome */
    kd_status st;
    kd_err err;
    kd_batch b;
    kd__targets targets;
};

/* A chunk of validation rows. */
typedef struct kd__block {
    uint32_t chunk, rows;
    void *input;
    kd__targets targets;
} kd__block;

/* training: with all features and row numbers; validation rows have those features that are judged. */
kd_status kd__targets_alloc(kd__targets *g, const kd_trainer *t, uint32_t rows, bool training, kd_err *err);
void kd__targets_release(kd__targets *g);
/* raw, offset: by slot; labels: (rows) or NULL. KD_ECORRUPT names store, column and row. */
kd_status kd__texts_fill(kd__texts *x, const kd_trainer *t, const void *const *raw,
                         const uint64_t *const *offset, const int32_t *labels, const kd__rows *rows,
                         kd_err *err);
/* What some rows predict, into g->words. KD_ECORRUPT: a mask of another length. */
kd_status kd__words_fill(kd__targets *g, const kd_trainer *t, const void *const *raw,
                         const uint64_t *const *offset, const kd__rows *rows, kd_err *err);
/* A teacher's logits of the positions: lengths are checked, hits counted. */
kd_status kd__words_logits(kd__targets *g, const kd_trainer *t, int slot, const void *raw,
                           const kd_sparse *sparse, const uint64_t *offset, const kd__rows *rows,
                           kd_err *err);
/* How many rows of a batch go through the body at a time, and the tokens that they have at most. */
kd_status kd__words_part(kd__run *r, const kd_trainer *t, int64_t *tokens, kd_err *err);
/* Makes r->head and what pieces need. */
kd_status kd__words_plan(kd__run *r, int threads, kd_err *err);
size_t kd__words_bytes(const kd__run *r);
void kd__words_free(kd__run *r);
/* Behind the exec's forward, by the whole team: sums over rows first to first + rows into r->pieces; in
 * training gradients, too, else what validation counts. */
void kd__words_run(kd__run *r, const kd_trainer *t, kd_exec *ex, const kd__targets *g, uint32_t first,
                   uint32_t rows, bool training);
kd_node kd__words_hidden(const kd__run *r); /* what the head reads */

/* z: (rows, classes) receives values whose softmax at the temperature of the dump is what s holds, of each
 * row position view[row], the first where view is NULL. */
void kd__logits_scatter(float *z, const kd_column *c, const kd_sparse *s, uint32_t rows, size_t classes,
                        const uint32_t *view);
/* The same of one position. */
void kd__logits_scatter_at(float *z, const kd_column *c, const kd_sparse *s, uint64_t at, size_t classes);
/* The slot a term reads now where it reads one: with KD__TURNS that of the epoch, in validation the first. */
int kd__source_slot(const kd__source *s, const kd__state *at, bool training);
/* Sparse targets from a row (of language models: a position) on. */
kd_loss_sparse kd__sparse_rows(const kd_sparse *s, size_t first);
/* The logits of several teachers of one row, joined: out (classes). T: of the term. */
void kd__targets_join(const kd__source *s, const kd__targets *g, size_t row, size_t classes, double T,
                      float *out);
/* raw[slot], or sparse[slot] where that is not NULL: rows of the trainer's columns; offset[slot]: (rows + 1)
 * of ragged ones. KD_ECORRUPT names store, column and row of a label out of range or a logit that is not
 * finite. */
kd_status kd__targets_fill(kd__targets *g, const kd_trainer *t, const void *const *raw,
                           const kd_sparse *const *sparse, const uint64_t *const *offset,
                           const kd__rows *rows, kd_err *err);

/* The first n labels of a chunk; KD_ECORRUPT as above. */
kd_status kd__labels_read(const kd_trainer *t, kd_cursor *cursor, int slot, uint32_t chunk, uint32_t n,
                          int32_t *out, kd_err *err);

/* For a run: its seed, batch size and views. */
kd_status kd__feed_open(kd__feed **out, kd_trainer *t, const kd__run *r, kd_err *err);
bool kd__feed_serves(const kd__feed *f, const kd__run *r);
void kd__feed_close(kd__feed *f);
bool kd__feed_ready(const kd__feed *f); /* its next batch can be drawn while others are */
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
    int text[KD__TEXTS], ntexts;                /* slots of tokens */
    int64_t texts;                              /* of a row, in all of them */
    bool language;                              /* some students are language models */
    int mask;                                   /* slot of the tokens' mask, -1: none */
    int64_t slot_classes[KD_LOADER_COLUMNS];    /* of logits columns; of labels: the store's classes */
    kd_view_spec slot_views[KD_LOADER_COLUMNS]; /* of columns of views */
    int slot_plain[KD_LOADER_COLUMNS]; /* of theirs: the slot of the logits of the rows; -1: view 0 is the row
                                        */
    kd_loader *loader;
    bool slot_scattered[KD_LOADER_COLUMNS]; /* sparse targets that somebody wants as rows of logits */
    bool slot_judged[KD_LOADER_COLUMNS];    /* features that somebody compares on validation rows, too */
    /* Rows as losses number them (crd); NULL: nobody asks. */
    uint64_t *sample_first; /* by chunk: number of its first row */
    int32_t *sample_labels; /* (samples) */
    int64_t samples;
    bool planned, solo, warned_alignment[KD_LOADER_COLUMNS];
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
/* Slot of a column of the store, added if new; -1: too many columns (KD_ELIMIT). */
int kd__trainer_slot(kd_trainer *t, int column, kd_err *err);
const kd_column *kd__trainer_column(const kd_trainer *t, int slot);

kd_status kd__valid_open(kd_trainer *t, kd_err *err);
void kd__valid_close(kd_trainer *t);
size_t kd__valid_bytes(const kd_trainer *t);
/* Block i, decoded or from the cache. */
kd_status kd__valid_block(kd_trainer *t, size_t i, const kd__block **out, kd_err *err);

/* ---- steps (step.c) ----------------------------------------------------------------------- */

/* Every feed draws, as far as it can. */
kd_status kd__feeds_draw(kd_trainer *t, kd_err *err);
/* One training step of each run in t->todo, on the batch its feed has drawn. */
void kd__steps(kd_trainer *t);
/* Adds the rows of a validation block to the sums of each run in t->todo. */
void kd__evaluate(kd_trainer *t, const kd__block *b);

/* ---- what is written ---------------------------------------------------------------------- */

/* The line of the epoch that has just ended, to the log and to the files. */
kd_status kd__metrics_epoch(kd__run *r, kd_err *err);
/* Behind each batch: a line where `every` steps are full; 0: never. */
kd_status kd__metrics_step(kd__run *r, uint64_t every, kd_err *err);
kd_status kd__metrics_write(const kd__run *r, kd_err *err); /* the files anew, whole */
/* An event file's first record, and those of some lines of metrics. */
void kd__events_begin(kd_buf *out, double time);
kd_status kd__events_lines(kd_buf *out, const char *lines, size_t len, kd_err *err);

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
