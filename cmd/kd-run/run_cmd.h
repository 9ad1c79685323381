/* run_cmd.h - what the files of kd-run share: rows wait in a batch, then come out as lines; texts have
 * commands of their own. */
#ifndef RUN_CMD_H
#define RUN_CMD_H

#include "kd/cli.h"
#include "kd/data.h"
#include "kd/teacher.h"

typedef struct run_opts {
    int64_t top, batch;
    double white;
    bool bench, int8, unit;
    char *out;
    int64_t tokens, context, seed; /* of language models */
    double temperature, top_p;
    char *system;
} run_opts;

/* A row that waits for its batch. */
typedef struct run_row {
    char *name;            /* of the file */
    int64_t row;           /* of the file; -1: a picture */
    int64_t height, width; /* of a picture that was resampled; 0: as it was */
    bool transparent;      /* laid on white */
} run_row;

typedef struct runner {
    const kd_cli *cli;
    const run_opts *o;
    kd_teacher *teacher;
    const kd_model *model;
    char shape[128];                 /* "28 x 28 x 1" */
    int64_t height, width, channels; /* of a picture; 0: the model takes none */
    size_t values, classes;          /* of a row */
    float *in;                       /* (batch, values) raw, that is before mean and scale */
    float *logits;                   /* (batch, classes) */
    run_row *row;                    /* (batch) */
    int64_t waiting, notes;
    uint64_t done, refused;
} runner;

/* operand: FILE, FILE#ROW or "-". A file that cannot be used is told, counted and passed over: KD_OK;
 * anything else is an end to the run. */
kd_status run_operand(runner *r, const char *operand, kd_err *err);
/* Where the next row's values go: r->in + ...; NULL: out of memory. name is copied. */
kd_status run_place(runner *r, const char *name, float **values, kd_err *err);
/* The row of run_place is complete; a full batch is run and printed. */
kd_status run_add(runner *r, run_row about, kd_err *err);
kd_status run_flush(runner *r, kd_err *err);
/* Prints a row's answer: name, class and probability of the largest ones; with --json an object a line. */
kd_status run_print(const runner *r, const run_row *row, const float *logits, kd_err *err);
kd_status run_print_refused(const runner *r, const char *name, const char *why, kd_err *err);
/* kd-run embed MODEL FILE, kd-run search MODEL FILE: c->args[0] is the verb. */
kd_status run_embed(kd_cli *c, const run_opts *o, kd_err *err);
kd_status run_search(kd_cli *c, const run_opts *o, kd_err *err);
/* kd-run complete MODEL [PROMPT], kd-run chat MODEL, kd-run score MODEL FILE. */
kd_status run_complete(kd_cli *c, const run_opts *o, kd_err *err);
kd_status run_chat(kd_cli *c, const run_opts *o, kd_err *err);
kd_status run_score(kd_cli *c, const run_opts *o, kd_err *err);
/* --bench: latency and throughput, as a table or JSON. */
kd_status run_bench(const runner *r, const char *folder, kd_err *err);

#endif
