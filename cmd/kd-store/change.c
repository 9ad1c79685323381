/* change.c - what alters a store: drop. */
#include "store_cmd.h"

kd_status store_drop(kd_cli *c, const store_opts *o, kd_err *err)
{
    const char *path = c->args[1], *name = c->args[2];
    (void)o;
    uint64_t bytes = 0;
    char text[32];
    kd_status st = kd_store_drop(path, name, &bytes, err);
    if (!st && c->common.json)
        return kd_cli_print_json(json_pack("{s:i, s:s, s:s, s:I}", "schema", 1, "store", path, "dropped",
                                           name, "bytes", (json_int_t)bytes),
                                 err);
    if (!st) printf("%s: dropped '%s', %s\n", path, name, kd_fmt_bytes(text, (double)bytes));
    return st;
}
