/* slice.c - part i of n of a store, for one of n machines. */
#include "store_cmd.h"

#include <stdlib.h>

/* "2/8" to 2 and 8; what the numbers may be is the library's business. */
static bool parse_part(const char *text, uint32_t *part, uint32_t *parts)
{
    char *end = NULL;
    const unsigned long i = text ? strtoul(text, &end, 10) : 0;
    if (!end || end == text || *end != '/') return false;
    const char *second = end + 1;
    const unsigned long n = strtoul(second, &end, 10);
    *part = (uint32_t)i;
    *parts = (uint32_t)n;
    return end != second && !*end && i <= UINT32_MAX && n <= UINT32_MAX && text[0] != '-' && second[0] != '-';
}

kd_status store_slice(kd_cli *c, const store_opts *o, kd_err *err)
{
    uint32_t part, parts;
    if (!o->out) return kd_fail(err, KD_EUSAGE, "where does the part go? say -o OUT.kd");
    if (!parse_part(o->part, &part, &parts))
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
