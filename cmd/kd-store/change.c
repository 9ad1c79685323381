/* change.c - what alters a store: drop, compact. */
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

kd_status store_compact(kd_cli *c, const store_opts *o, kd_err *err)
{
    const char *path = c->args[1];
    uint64_t before = 0, after = 0;
    char was[32], is[32];
    kd_progress bar;
    kd_progress_begin(&bar, c, "compact", "rows", 0);
    kd_status st = kd_store_compact(path, (int)o->level, (int)c->common.threads, &kd_stop_requested,
                                    store_progress, &bar, &before, &after, err);
    kd_progress_end(&bar);
    if (!st && c->common.json)
        return kd_cli_print_json(json_pack("{s:i, s:s, s:I, s:I}", "schema", 1, "store", path, "bytes_before",
                                           (json_int_t)before, "bytes", (json_int_t)after),
                                 err);
    if (!st)
        printf("%s: %s, was %s (%.1f %%)\n", path, kd_fmt_bytes(is, (double)after),
               kd_fmt_bytes(was, (double)before), 100 * (double)after / (double)before);
    return st;
}
