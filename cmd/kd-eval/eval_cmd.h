/* eval_cmd.h - the parts of kd-eval. */
#ifndef EVAL_CMD_H
#define EVAL_CMD_H

#include "kd/cli.h"
#include "kd/eval.h"

typedef struct eval_opts {
    char *store, *split, *teacher, *results, *pipeline, *against, *pairs, *gates, *release;
    char *documents, *questions, *prompts;
    kd_strings slices;
    int64_t batch, resamples, mistakes, tokens, seed;
    double temperature;
    bool markdown, selection, speed, int8;
} eval_opts;

/* The table on stdout. */
kd_status eval_print_table(const json_t *results, const eval_opts *o, kd_err *err);
/* Students of texts by what they find. */
kd_status eval_retrieval(kd_cli *c, const eval_opts *o, kd_err *err);
/* Language models on a store of texts, and their table. */
kd_status eval_language(kd_cli *c, const eval_opts *o, kd_store *s, json_t **results, kd_err *err);
kd_status eval_print_language(const json_t *results, const eval_opts *o, kd_err *err);
/* A results object from a file. */
kd_status eval_load_results(const char *path, json_t **results, kd_err *err);
/* Judges the results and adds the verdicts to them. *verdict: KD_EGATE with its sentence if a gate failed,
 * which is no failure of this call. */
kd_status eval_judge(const kd_gates *g, const eval_opts *o, json_t *results, kd_err *verdict, kd_err *err);
kd_status eval_print_gates(const json_t *results, const eval_opts *o, kd_err *err);

#endif
