/* eval_private.h - what the files of lib/eval share. */
#ifndef EVAL_PRIVATE_H
#define EVAL_PRIVATE_H

#include "kd/eval.h"

void kd__eval_run_release(kd_run *r);
/* Both names are of one student: alike up to the first '@'. */
bool kd__eval_same_student(const char *a, const char *b);
/* If folder has a selection.json: of runs [first, n), which were found below it, only what it chose stays. */
kd_status kd__selection_apply(kd_runs *runs, size_t first, const char *folder, kd_err *err);

#endif
