/* slice.c - part i of n of a store, for one of n machines. */
#include "store_cmd.h"

#include <stdlib.h>

kd_status store_slice(kd_cli *c, const store_opts *o, kd_err *err)
{
    uint32_t part, parts;
    if (!o->out) return kd_fail(err, KD_EUSAGE, "where does the part go? say -o OUT.kd");
    if (!kd_part_parse(o->part, &part, &parts))
        return kd_fail(err, KD_EUSAGE, "--part '%.40s': expected i/n, as in --part 1/4",
                       o->part ? o->part : "");
    const kd_writer_params p = store_writer_params(c, o);
    char *command = kd_cli_command(c->argc, c->argv);
    kd_status st = kd_store_slice(o->out, c->args[1], part, parts, o->base_only, &p, command, err);
    free(command);
    if (st) return st;
    return store_report(c, o->out, "sliced",
                        json_pack("{s:I, s:I}", "part", (json_int_t)part, "parts", (json_int_t)parts), err);
}
