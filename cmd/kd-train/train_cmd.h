/* train_cmd.h - what the files of kd-train share. */
#ifndef TRAIN_CMD_H
#define TRAIN_CMD_H

#include "kd/cli.h"
#include "kd/train.h"

typedef struct train_opts {
    char *store, *out;
    kd_ints seeds;
    kd_strings set, sweep;
    int64_t rows, checkpoint_seconds, keep, window_rows;
    bool control, resume, force, dry_run, list_losses, list_keys;
} train_opts;

/* lists.c */
void train_list_losses(void);
void train_list_keys(void);

/* students.c: adds all runs of one file. flat: one run, in o->out itself. */
kd_status train_add_file(const kd_cli *c, const train_opts *o, kd_trainer *t, const kd_sweep *w,
                         const char *path, bool flat, kd_err *err);

/* report.c */
void train_say_plan(const kd_cli *c, const kd_trainer *t);
/* trained: rows x students. */
void train_note_end(kd_cli *c, const kd_trainer *t, const train_opts *o, uint64_t trained, double seconds);
kd_status train_print_table(const kd_trainer *t, bool dry, kd_err *err);
/* New reference; NULL when out of memory. */
json_t *train_report_json(const kd_trainer *t, const kd_store *s, uint64_t trained, double seconds);

#endif
