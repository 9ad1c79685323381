/* store_cmd.h - the commands of kd-store, one function each. */
#ifndef STORE_CMD_H
#define STORE_CMD_H

#include "kd/cli.h"
#include "kd/store.h"

typedef struct store_opts {
    char *out; /* store or file to write */
    bool force, resume;
    int64_t level;
    char *split; /* export: which; import of .kld: of all rows */
    /* verify */
    bool structure;
    /* slice */
    char *part; /* "1/4" */
    bool base_only;
    /* merge */
    bool skip_duplicates;
    /* import */
    char *name, *segment, *encoding, *feature_encoding, *role, *tap, *ids, *order, *dtype, *fingerprint,
        *field;
    int64_t classes;
    /* export */
    char *format;
    int64_t rows;
} store_opts;

/* operands: c->args[1] and on; their number was checked. */
kd_status store_stat(kd_cli *c, const store_opts *o, kd_err *err);
kd_status store_verify(kd_cli *c, const store_opts *o, kd_err *err);
kd_status store_drop(kd_cli *c, const store_opts *o, kd_err *err);
kd_status store_slice(kd_cli *c, const store_opts *o, kd_err *err);
kd_status store_merge(kd_cli *c, const store_opts *o, kd_err *err);
kd_status store_compact(kd_cli *c, const store_opts *o, kd_err *err);
kd_status store_import(kd_cli *c, const store_opts *o, kd_err *err);
kd_status store_export(kd_cli *c, const store_opts *o, kd_err *err);

/* ---- what several commands use ------------------------------------------------------------ */

/* For a kd_progress as arg. */
void store_progress(void *arg, uint64_t done, uint64_t total);
/* Defaults with the common options. */
kd_writer_params store_writer_params(const kd_cli *c, const store_opts *o);
/* Says what a new store holds: one line, or JSON with what and its members (a new reference) at the end. */
kd_status store_report(const kd_cli *c, const char *path, const char *what, json_t *members, kd_err *err);

#endif
