/* store_cmd.h - the commands of kd-store, one function each. */
#ifndef STORE_CMD_H
#define STORE_CMD_H

#include "kd/cli.h"
#include "kd/store.h"

typedef struct store_opts {
    char *out; /* store or file to write */
    bool force, resume;
} store_opts;

/* operands: c->args[1] and on; their number was checked. */
kd_status store_stat(kd_cli *c, const store_opts *o, kd_err *err);
kd_status store_verify(kd_cli *c, const store_opts *o, kd_err *err);
kd_status store_drop(kd_cli *c, const store_opts *o, kd_err *err);

#endif
