/* verify.c - every byte of a store checked. */
#include "store_cmd.h"

static kd_status print_report(const kd_cli *c, const char *path, bool content, const kd_verify_report *r,
                              kd_err *err)
{
    double gb = r->seconds > 0 ? 1e-9 / r->seconds : 0;
    size_t shown = 0, most = KD_COUNT(r->first);
    char read[32], raw[32];
    while (shown < most && r->first[shown].what[0]) shown++;
    if (c->common.json) {
        json_t *list = json_array();
        for (size_t i = 0; i < shown; i++) json_array_append_new(list, json_string(r->first[i].what));
        return kd_cli_print_json(json_pack("{s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:f, s:f, s:f}",
                                           "schema", 1, "store", path, "checked",
                                           content ? "all" : "structure", "records", (json_int_t)r->records,
                                           "bytes", (json_int_t)r->bytes, "raw_bytes",
                                           (json_int_t)r->raw_bytes, "damaged", (json_int_t)r->damaged,
                                           "first", list, "seconds", r->seconds, "gb_per_s",
                                           (double)r->bytes * gb, "raw_gb_per_s", (double)r->raw_bytes * gb),
                                 err);
    }
    if (!content)
        printf("%s: structure alone: %llu records in files of %s in %.3f s (%.2f GB/s): %s\n", path,
               (unsigned long long)r->records, kd_fmt_bytes(read, (double)r->bytes), r->seconds,
               (double)r->bytes * gb, r->damaged ? "damaged" : "whole");
    else
        printf("%s: %llu records, %s read and %s decoded in %.2f s (%.2f and %.2f GB/s): %s\n", path,
               (unsigned long long)r->records, kd_fmt_bytes(read, (double)r->bytes),
               kd_fmt_bytes(raw, (double)r->raw_bytes), r->seconds, (double)r->bytes * gb,
               (double)r->raw_bytes * gb, r->damaged ? "damaged" : "whole");
    for (size_t i = 0; i < shown; i++) printf("  %s\n", r->first[i].what);
    if (r->damaged > shown) printf("  and %llu more\n", (unsigned long long)(r->damaged - shown));
    return KD_OK;
}

kd_status store_verify(kd_cli *c, const store_opts *o, kd_err *err)
{
    const char *path = c->args[1];
    static kd_verify_report r;
    kd_progress p;
    kd_err print = {0};
    kd_progress_begin(&p, c, "verify", "records", 0);
    kd_status st = o->structure ? kd_store_verify_structure(path, &r, err)
                                : kd_store_verify(path, (int)c->common.threads, &r, store_progress, &p, err);
    kd_progress_end(&p);
    if (st && st != KD_ECORRUPT) return st;
    kd_status printed = print_report(c, path, !o->structure, &r, &print);
    return st ? st : printed ? kd_fail(err, printed, "%s", print.msg) : KD_OK;
}
