/* train_cmd.h - what the files of kd-train share. */
#ifndef TRAIN_CMD_H
#define TRAIN_CMD_H

#include "kd/cli.h"
#include "kd/eval.h"
#include "kd/train.h"

typedef struct train_opts {
    char *store, *out, *select;
    kd_ints seeds;
    kd_strings set, sweep, drop_rows, only_rows;
    int64_t rows, checkpoint_seconds, keep, window_rows, log_steps;
    bool tensorboard, control, resume, force, dry_run, list_losses, list_keys;
} train_opts;

/* lists.c */
void train_list_losses(void);
void train_list_keys(void);

/* students.c: adds all runs of one file. flat: one run, in o->out itself. */
kd_status train_add_file(const kd_cli *c, const train_opts *o, kd_trainer *t, const kd_sweep *w,
                         const char *path, bool flat, kd_err *err);

/* rows.c: marks of the rows that --drop-rows and --only-rows leave out; NULL: none. free() it. */
kd_status train_read_rows(uint8_t **drop, const kd_cli *c, const train_opts *o, kd_store *s, kd_err *err);

/* report.c */
void train_say_plan(const kd_cli *c, const kd_trainer *t);
/* trained: rows x students. */
void train_note_end(kd_cli *c, const kd_trainer *t, const train_opts *o, uint64_t trained, double seconds);
kd_status train_print_table(const kd_trainer *t, bool dry, kd_err *err);
/* selection: borrowed, may be NULL. New reference; NULL when out of memory. */
json_t *train_report_json(const kd_trainer *t, const kd_store *s, json_t *selection, uint64_t trained,
                          double seconds);

/* select.c */
/* Before the first step: can what --select asks for be compared? */
kd_status train_select_check(const train_opts *o, const kd_trainer *t, const kd_store *s, kd_err *err);
/* Chooses and writes OUT/selection.json; *out: a new reference. */
kd_status train_select(json_t **out, const train_opts *o, const kd_trainer *t, kd_err *err);
kd_status train_print_selection(const json_t *selection, kd_err *err);

#endif
