/* kd/teacher.h - something that turns input rows into logits, and inner values into features.
 *
 * Native teachers are model folders that kd can run itself (a student's folder is one). The
 * interface carries what other kinds (a command over a pipe, files) need later: a name, a
 * fingerprint, a number of classes, and batches in, logits out.
 *
 * One pass over a store adds one segment. What it adds is chosen: logits, values of inner nodes (taps),
 * logits of augmented views; each dense or in an encoding. A later pass of the same teacher adds other
 * columns in a segment of its own:
 *
 *     segment "big"             big/logits            kd-dump --teacher runs/big --into S
 *     segment "big.feat.relu1"  big/feat.relu1        ... --no-logits --tap relu1
 *     segment "big.views"       big/logits.views      ... --no-logits --views 4 --view-shift 2
 *
 * Each has the teacher's name and fingerprint; one name never stands for two fingerprints.
 */
#ifndef KD_TEACHER_H
#define KD_TEACHER_H

#include "kd/data.h"
#include "kd/model.h"
#include "kd/store.h"

#define KD_TEACHER_TAPS 32

typedef struct kd_teacher kd_teacher;
/* Loads the folder. batch: rows (or texts) a call at most; threads: of the computation. A model of tokens
 * takes 4096 of them a call, or one text of as many as it has positions; a language model (llama, also a
 * .gguf file) 1024. */
kd_status kd_teacher_open(kd_teacher **out, const char *folder, int64_t batch, int threads, kd_err *err);
void kd_teacher_close(kd_teacher *t);
/* The model's, in a store's letters: others than a-z, 0-9, '_', '.' become '-'. */
const char *kd_teacher_name(const kd_teacher *t);
/* 32 hex digits: of the model (kd_model_fingerprint), and of its tokenizer where the folder has one. */
const char *kd_teacher_fingerprint(const kd_teacher *t);
const char *
kd_teacher_tokenizer(const kd_teacher *t); /* kd_hash128 of the folder's tokenizer.json, hex; "": none */
const kd_model *kd_teacher_model(const kd_teacher *t);
/* Whether the store's input column (shape, mean, scale, tokenizer) and classes (number, names) fit;
 * KD_EMISMATCH names the field and both values. What the store or the teacher does not say is not compared.
 */
kd_status kd_teacher_check(const kd_teacher *t, const kd_store *s, kd_err *err);
/* raw: (rows, input shape) of dtype as stored; logits: (rows, classes) f32. rows <= batch. The bits of a
 * row's logits do not depend on its neighbours or on the thread count. KD_ENUMERIC: not finite, names the
 * row. */
kd_status kd_teacher_run(kd_teacher *t, const void *raw, kd_dtype dtype, int64_t rows, float *logits,
                         kd_err *err);

/* Models of tokens (kd_model_reads_tokens): n texts, text i being tokens offset[i] to offset[i + 1] of raw,
 * (u16 or i32); out: (n, classes), the embeddings of an embedding model; without pooling, and of a language
 * model, (tokens, classes): for a few texts, a pass never has all of that. */
kd_status kd_teacher_read(kd_teacher *t, const void *raw, kd_dtype dtype, const uint64_t *offset, int64_t n,
                          float *out, kd_err *err);
/* How products are computed from now on; taps are to be taken again. KD_EUNSUPPORTED: this CPU. */
kd_status kd_teacher_set_precision(kd_teacher *t, kd_precision p, kd_err *err);

/* ---- taps --------------------------------------------------------------------------------- */

typedef enum kd_tap_form {
    KD_TAP_USUAL,    /* mean for a map (height, width, channels), flat for a vector */
    KD_TAP_MEAN,     /* (channels): mean over the pixels */
    KD_TAP_MAX,      /* (channels): largest value over the pixels */
    KD_TAP_FLAT,     /* all values, in the node's shape */
    KD_TAP_ATTENTION /* (height, width): mean over channels of squares, scaled to length 1 (kd_nn_attention)
                      */
} kd_tap_form;
typedef struct kd_tap {
    char node[KD_STORE_NAME_MAX];
    kd_tap_form form;
    int height, width; /* attention: pooled to that size first; 0: the node's own */
} kd_tap;
const char *kd_tap_form_name(kd_tap_form f); /* "mean", "max", "flat", "attention" */
/* "NODE", "NODE:mean", "NODE:max", "NODE:flat", "NODE:attention", "NODE:attention=7x7". KD_EUSAGE. */
kd_status kd_tap_parse(kd_tap *tap, const char *text, kd_err *err);
/* From now on kd_teacher_run keeps the values of these nodes, in the place of earlier taps; logits do not
 * change by it. KD_EUSAGE: no such node (names the nearest), the same one twice, a form that its shape does
 * not have, a node whose value is never there because the ReLU behind it is computed with it (names that
 * one); KD_ENOMEM. */
kd_status kd_teacher_take(kd_teacher *t, const kd_tap *taps, size_t n, kd_err *err);
size_t kd_teacher_taps(const kd_teacher *t);
/* Tap i of the last kd_teacher_run, out: (rows, shape). KD_ENUMERIC: not finite. */
kd_status kd_teacher_tap(kd_teacher *t, size_t i, int64_t rows, float *out, kd_err *err);
/* What tap i is; its form is resolved. dims: axes of a row; returns their number. */
int kd_teacher_tap_shape(const kd_teacher *t, size_t i, kd_tap *tap, int64_t dims[KD_MAX_DIMS]);

/* ---- the pass ----------------------------------------------------------------------------- */

typedef struct kd_dump_params {
    const char *name;     /* of the teacher in the store; NULL: the model's own */
    const char *segment;  /* NULL: NAME; without logits NAME.feat.NODE of the first tap, or NAME.views */
    bool logits;          /* column NAME/logits; of an embedding model NAME/embedding, role feature. Where a
                             store has several columns of texts: NAME/embedding.COLUMN for each */
    kd_dtype dtype;       /* of dense columns: f32, f16, bf16 */
    const char *encoding; /* of logits and views' logits, as kd_codec_parse reads it; NULL: dense */
    const char *feature_encoding; /* of taps; NULL: dense */
    const kd_tap *taps;           /* columns NAME/feat.NODE, role feature, the form in their params */
    size_t ntaps; /* a row per token is a ragged column; with several columns of texts as above */
    const kd_view_spec *views; /* column NAME/logits.views, (count, classes), role view, with kd_view_json in
                                  its params; NULL or count 0: none */
    kd_store *sample; /* codebooks are learned from this store's first chunk; NULL: the store's own. For parts
                         of one store, whose columns must be equal to be merged */
    const char *command;                                        /* kept in the manifest; may be NULL */
    volatile const int *stop;                                   /* polled between batches; may be NULL */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* on the caller's thread; may be NULL */
    void *arg;
} kd_dump_params;
kd_dump_params kd_dump_default_params(void); /* logits, f32 */
typedef struct kd_dump_report {
    double seconds;             /* of the call */
    double teacher;             /* of them computing in the teacher */
    uint64_t rows;              /* of this call */
    uint64_t tokens, predicted; /* of them, of a language model; 0: it is none */
} kd_dump_report;
/* The whole pass: reads the input column of a sealed store chunk by chunk and adds a segment with the columns
 * that p asks for, for all rows of all splits. The teacher's threads also read and make views; encoding and
 * writing overlap with them on a thread of their own; memory does not depend on the number of rows.
 * Resumable; what was committed stays after any failure. With both wp->resume and wp->force an unfinished
 * pass that fits is gone on with, anything else is replaced. Takes its own taps (kd_teacher_take). report may
 * be NULL; it is filled in after failures too. The manifest keeps {"name", "fingerprint", "model", "arch",
 * "params", "macs", "command", "seconds", "seconds_rows"} (kd_store_teacher). KD_EUNSUPPORTED (dtype),
 * KD_EUSAGE, KD_EMISMATCH (also: the store knows the name with another fingerprint), KD_EEXISTS, KD_ESTOPPED,
 * KD_ENUMERIC (names the row), and the store's. */
kd_status kd_teacher_dump(kd_teacher *t, kd_store *s, const kd_dump_params *p, const kd_writer_params *wp,
                          kd_dump_report *report, kd_err *err);
/* The segment that p's pass would write for a teacher of this name. KD_EUSAGE: too long. */
kd_status kd_dump_segment(const kd_dump_params *p, const char *name, char out[KD_STORE_NAME_MAX],
                          kd_err *err);

/* ---- a language model's own answers --------------------------------------------------------- */

typedef struct kd_generate_params {
    const char *name; /* of the teacher in the store; NULL: the model's own */
    kd_sampling how;
    int64_t prompt; /* tokens of a row without a mask that are its prompt at most; 0: all of them */
    int64_t answer; /* tokens of an answer at most */
    int64_t rows;   /* that go on side by side, up to KD_GENERATE_ROWS; changes no bit */
    kd_dtype dtype;
    const char *encoding; /* of the logits, as in kd_dump_params */
    kd_store *sample;     /* codebooks are learned from this store's prompts; NULL: from these. For parts */
    const char *command;
    volatile const int *stop;
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
} kd_generate_params;
enum { KD_GENERATE_ROWS = 64 };
kd_generate_params kd_generate_default_params(void); /* temperature 0.7, top-p 0.95, 256 tokens, 16 rows */
/* A new store at `out` with a row for each of the prompts': the prompt and what the teacher answers, drawn
 * token by token until it ends its turn; a mask of the answer; NAME/logits of each of its tokens, the very
 * numbers that it was drawn from; the prompt's split and source. The prompt of a row is what stands before
 * its last answer, of a row without one all of it. A row's id is a hash of its prompt's id, the teacher and
 * the settings, and a draw a function of (seed, prompt's id, place), so the store does not depend on threads,
 * rows, parts, or where it was gone on with. Chunks are the prompts', of at most 64 rows. Resumable; report
 * as of kd_teacher_dump; the manifest's teacher has "generate": {"temperature", "top_p", "seed", "answer",
 * "prompt"} too. KD_EUSAGE (no language model, several columns of texts), and those of kd_teacher_dump. */
kd_status kd_teacher_generate(kd_teacher *t, kd_store *prompts, const char *out, const kd_generate_params *p,
                              const kd_writer_params *wp, kd_dump_report *report, kd_err *err);

/* ---- hard negatives ------------------------------------------------------------------------- */

#define KD_MINE_MOST 64
typedef struct kd_mine_params {
    const char *name; /* the teacher, whose embeddings of both columns of texts the store has */
    int64_t n;        /* negatives a row, 1 to KD_MINE_MOST */
    int threads;
    const char *command;                                        /* kept in the manifest; may be NULL */
    volatile const int *stop;                                   /* polled between chunks; may be NULL */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* may be NULL */
    void *arg;
} kd_mine_params;
typedef struct kd_mine_report {
    size_t candidates; /* different answers of training rows */
    char segment[KD_STORE_NAME_MAX];
} kd_mine_report;
/* For each row of a store of pairs the n texts among the training rows' answers that are nearest to its query
 * by the teacher's cached embeddings, and no answers of it: of no row with its query's text, or with its
 * label. Adds the segment NAME.negatives: a column negative (n texts a row) and NAME/embedding.negative (n,
 * dimension), encoded as the answers' embeddings. Runs no model. Resumable, and the same for any threads.
 * KD_EMISMATCH (no pairs), KD_ENOTFOUND (no embeddings: names the command), KD_EUSAGE, KD_ELIMIT,
 * KD_ESTOPPED, and the store's. */
kd_status kd_teacher_mine(kd_store *s, const kd_mine_params *p, const kd_writer_params *wp,
                          kd_mine_report *report, kd_err *err);

/* ---- before paying: what encodings would cost and lose -------------------------------------- */

/* One encoding on a sample of logits. What a codec does not serve is NaN. */
typedef struct kd_plan_entry {
    char encoding[128]; /* "f32", "f16", "bf16" (dense), or as kd_codec_parse reads it */
    unsigned serves;    /* kd_serves */
    bool sparse;
    double row_bytes; /* bytes a row as packed, headers included */
    double kl1, kl4;  /* mean KL(teacher || decoded) at T = 1 and T = 4, nats; of a sparse encoding all
                         classes that it does not keep count as one */
    double top1;      /* share of positions whose most probable class still is it */
    double tail;      /* mean probability at T = 1 of the classes that are not kept */
    double variance;  /* of sampled ones: mean of sum over classes of (weight - probability)^2 */
    double encode_s, decode_s; /* a row */
    double dump_s;             /* the whole pass: teacher and encoder overlap */
    double students; /* from so many students on, one dump and reading it every epoch takes less time
                        than a teacher beside each of them; infinite: never */
} kd_plan_entry;
/* Fills in everything up to decode_s. logits: (rows, classes); ids: (rows), may be NULL for codecs that draw
 * nothing. Blocks have chunk_rows rows; codebooks are learned from the first. KD_EUSAGE: no such encoding, or
 * not of so many classes. */
kd_status kd_plan_measure(kd_plan_entry *e, const char *encoding, const float *logits, uint64_t rows,
                          int64_t classes, const kd_id *ids, uint32_t chunk_rows, int level, int threads,
                          kd_err *err);
/* Fills in dump_s and students. teacher_s: a row; epochs: of each student. */
void kd_plan_time(kd_plan_entry *e, double teacher_s, uint64_t rows, int64_t epochs);

typedef struct kd_plan {
    uint64_t sampled, rows; /* of the sample and of the store */
    bool positions;         /* of a language model rows are positions, of the store about so many */
    double teacher_s;       /* of the teacher, a row */
    kd_plan_entry *entry;
    size_t n;
} kd_plan;
/* Runs the teacher over about `rows` rows (whole chunks, spread over the store; of a language model predicted
 * positions of the store's first texts, which are in a random order) and measures the encodings; n
 * 0: those that there are and that fit the number of classes, with a few settings each. Nothing is written.
 */
kd_status kd_teacher_plan(kd_plan *plan, kd_teacher *t, kd_store *s, const char *const *encodings, size_t n,
                          uint64_t rows, int64_t epochs, const kd_writer_params *wp, kd_err *err);
void kd_plan_release(kd_plan *plan);

/* ---- afterwards: is what a store holds what the teacher says? -------------------------------- */

typedef struct kd_recheck {
    char column[KD_STORE_NAME_MAX];
    uint64_t rows;
    double largest;  /* difference of a value, of sparse columns of a probability */
    double relative; /* root mean square of the differences / that of the fresh values */
    double top1;     /* share of positions with the same largest value */
    bool matches;    /* relative <= 0.01, and of logits top1 >= 0.99 */
} kd_recheck;
/* Runs the teacher over about `rows` rows (whole chunks, spread over the store), puts what it says through
 * each column's encoding and compares it with what the columns of `name` hold; on the machine of the dump
 * nothing differs. Hidden states of tokens are left out. out: room for KD_STORE_MAX_COLUMNS;
 * *n: columns. KD_ENOTFOUND (no column of that teacher), KD_EMISMATCH (the store states another fingerprint:
 * names both). */
kd_status kd_teacher_recheck(kd_teacher *t, kd_store *s, const char *name, uint64_t rows, kd_recheck *out,
                             size_t *n, kd_err *err);

#endif
