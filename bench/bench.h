/* bench.h - what the files of bench/ share. */
#ifndef KD_BENCH_H
#define KD_BENCH_H

#include "kd/base.h"
#include "kd/nn.h"

/* What this machine can do at most, with the given threads. */
typedef struct bench_peak {
    double f32_gflops;  /* fused multiply-adds on registers only, best instruction set of the CPU */
    double bf16_gflops; /* vdpbf16ps on registers only; 0: the CPU has no such instruction */
    double read_gbs;    /* bytes read from memory, 1e9 a second */
    double copy_gbs;    /* bytes copied, 1e9 a second (each is read and written) */
    size_t array_bytes; /* size of the arrays of the two figures above */
    kd_isa isa;         /* that the f32 figure used */
} bench_peak;
/* About 3 s. KD_ENOMEM. */
kd_status bench_peak_measure(bench_peak *p, int threads, kd_err *err);

/* `kernels`: one JSON line per matrix product and convolution. KD_ENOMEM, KD_EUNSUPPORTED. */
kd_status bench_kernels(int threads, kd_err *err);

/* `promise`: what equal bits for any number of threads cost, one JSON line. models, model: as below. */
kd_status bench_promise(const char *models, const char *model, int64_t batch, int threads, kd_err *err);

/* `train`: whole training steps of one model on arrays in memory. */
typedef struct bench_train_params {
    const char *models; /* file of models: name -> specification */
    const char *model;  /* name in that file */
    const char *data;   /* safetensors with x, labels, teacher and param.*; NULL: random */
    int64_t batch;
    int threads;
    kd_precision precision;
} bench_train_params;
/* Prints a line when ready, then serves "go SECONDS" lines from stdin, one JSON line each, to the
 * end of the input. */
kd_status bench_train(const bench_train_params *p, kd_err *err);

/* `pack`: logits into a store, one JSON line of bytes and errors. */
typedef struct bench_pack_params {
    const char *logits, *store, *encoding;
    int64_t classes, rows; /* 0: all */
    int64_t chunk_rows, judge, redraws, threads;
} bench_pack_params;
kd_status bench_pack(const bench_pack_params *p, kd_err *err);

/* `read`: rows of a store, by the columns' names, served as by bench_train. window: rows of the loader's. */
kd_status bench_read(const char *store, const char *columns, uint64_t window, kd_err *err);

/* `teacher`: all rows of a store through a teacher, one JSON line. */
kd_status bench_teacher(const char *folder, const char *store, int threads, kd_err *err);

/* `encoder`: passes of an encoder over batches of texts in a file (encoder.c), served as by bench_train. */
typedef struct bench_encoder_params {
    const char *folder, *data;
    bool train;
    kd_precision precision;
    int threads;
} bench_encoder_params;
kd_status bench_encoder(const bench_encoder_params *p, kd_err *err);
/* `language`: training steps of a language model (language.c); without data: writes the model. */
kd_status bench_language(const bench_encoder_params *p, kd_err *err);

/* `logits`: of rows of `length` ids, into a file. */
kd_status bench_logits(const char *model, const char *ids, const char *out, int64_t length, int threads,
                       kd_err *err);

/* `many`: seeds of one student in one pass over a store, served as by bench_train. */
typedef struct bench_many_params {
    const char *store, *student, *folder; /* folder: scratch, removed at the end */
    int64_t students, window;
    int threads;
} bench_many_params;
kd_status bench_many(const bench_many_params *p, kd_err *err);

/* `parity`: the first steps of a student's run, one JSON line of their losses; into folder what repeats them.
 */
kd_status bench_parity(const char *store, const char *student, const char *folder, int64_t steps,
                       kd_err *err);

/* `tokenize`: a file of texts through a tokenizer, served as by bench_train. */
kd_status bench_tokenize(const char *tokenizer, const char *texts, int threads, kd_err *err);

void bench_print(json_t *line); /* prints one line on stdout, flushes, releases line */

#endif
