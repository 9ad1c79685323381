/* export.c - columns of a store as a file of another format. */
#include "store_cmd.h"

#include "kd/exchange.h"

#include <string.h>

kd_status store_export(kd_cli *c, const store_opts *o, kd_err *err)
{
    kd_store *s = NULL;
    kd_export_report r = {0};
    kd_progress bar;
    char bytes[32];
    kd_export_params p = {.columns = (const char *const *)&c->args[2],
                          .n = (size_t)c->nargs - 2,
                          .split = o->split ? kd_split_parse(o->split) : -1,
                          .rows = (uint64_t)o->rows,
                          .format = o->format,
                          .force = o->force,
                          .stop = &kd_stop_requested,
                          .progress = store_progress,
                          .arg = &bar};
    if (!o->out)
        return kd_fail(err, KD_EUSAGE, "where do the columns go? say -o FILE, or -o - for standard output");
    kd_status st = kd_store_open(&s, c->args[1], err);
    if (st) return st;
    kd_progress_begin(&bar, c, "export", "rows", 0);
    st = kd_export(s, o->out, &p, &r, err);
    kd_progress_end(&bar);
    kd_store_close(s);
    if (st || !strcmp(o->out, "-")) return st; // the data itself is on standard output
    if (c->common.json)
        return kd_cli_print_json(json_pack("{s:i, s:s, s:I, s:I}", "schema", 1, "file", o->out, "rows",
                                           (json_int_t)r.rows, "bytes", (json_int_t)r.bytes),
                                 err);
    printf("%s: %llu rows of %zu columns, %s\n", o->out, (unsigned long long)r.rows, p.n,
           kd_fmt_bytes(bytes, (double)r.bytes));
    return KD_OK;
}
