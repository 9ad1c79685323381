/* eval_cmd.h - the parts of kd-eval. */
#ifndef EVAL_CMD_H
#define EVAL_CMD_H

#include "kd/cli.h"
#include "kd/eval.h"

typedef struct eval_opts {
    char *store, *split, *teacher, *results, *pipeline, *against, *pairs;
    kd_strings slices;
    int64_t batch, resamples, mistakes;
    bool markdown, selection, speed;
} eval_opts;

/* The table on stdout. */
kd_status eval_print_table(const json_t *results, const eval_opts *o, kd_err *err);

#endif
