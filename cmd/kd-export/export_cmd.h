/* export_cmd.h - what the files of kd-export share. */
#ifndef EXPORT_CMD_H
#define EXPORT_CMD_H

#include "kd/cli.h"
#include "kd/export.h"

typedef struct export_opts {
    char *out, *check;
    bool force;
} export_opts;

/* What became of the student, on rows whose labels are known. */
typedef struct export_check {
    uint64_t rows, same;  /* same: rows whose answer is the student's */
    double largest;       /* difference of a logit */
    double before, after; /* accuracy of the student, of the export */
} export_check;
/* exported: as kd_export_model left it; folder: the student's own. On the test split of the store. */
kd_status export_compare(const kd_cli *c, const char *store, const char *folder, kd_model *exported,
                         export_check *r, kd_err *err);

#endif
