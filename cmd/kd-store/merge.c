/* merge.c - several stores become one. */
#include "store_cmd.h"

#include <stdlib.h>

kd_status store_merge(kd_cli *c, const store_opts *o, kd_err *err)
{
    const char *out = c->args[1], *const *stores = (const char *const *)&c->args[2];
    const kd_writer_params p = store_writer_params(c, o);
    kd_merge_report r = {0};
    kd_progress bar;
    if (o->out)
        return kd_fail(err, KD_EUSAGE,
                       "-o %s: merge names the new store first: kd-store merge OUT.kd A.kd B.kd", o->out);
    char *command = kd_cli_command(c->argc, c->argv);
    kd_progress_begin(&bar, c, "merge", "rows", 0);
    kd_status st = kd_store_merge(out, stores, (size_t)c->nargs - 2, o->skip_duplicates, &p, command,
                                  &kd_stop_requested, store_progress, &bar, &r, err);
    kd_progress_end(&bar);
    free(command);
    if (st) return st;
    if (r.duplicates)
        kd_cli_say(c, "%llu rows left out, whose ids came before", (unsigned long long)r.duplicates);
    return store_report(c, out, "merged",
                        json_pack("{s:I, s:I}", "stores", (json_int_t)c->nargs - 2, "duplicates",
                                  (json_int_t)r.duplicates),
                        err);
}
