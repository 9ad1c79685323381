/* report.c - what several commands of kd-store have in common: progress, writers, the line about a new store.
 */
#include "store_cmd.h"

void store_progress(void *arg, uint64_t done, uint64_t total)
{
    kd_progress *p = arg;
    p->total = total;
    kd_progress_set(p, done, NULL);
}

kd_writer_params store_writer_params(const kd_cli *c, const store_opts *o)
{
    kd_writer_params p = kd_writer_default_params();
    p.resume = o->resume;
    p.force = o->force;
    p.threads = (int)c->common.threads;
    return p;
}

kd_status store_report(const kd_cli *c, const char *path, const char *what, json_t *members, kd_err *err)
{
    kd_store *s = NULL;
    char bytes[32];
    kd_status st = kd_store_open(&s, path, err);
    if (st) {
        json_decref(members);
        return st;
    }
    if (c->common.json) {
        json_t *o = json_pack("{s:i, s:s, s:s, s:I, s:I, s:I, s:s}", "schema", 1, "store", path, "did", what,
                              "rows", (json_int_t)kd_store_rows(s), "chunks", (json_int_t)kd_store_chunks(s),
                              "bytes", (json_int_t)kd_store_bytes(s), "root", kd_store_root(s));
        if (members) json_object_update(o, members);
        st = kd_cli_print_json(o, err);
    } else {
        printf("%s: %s: %llu rows in %u chunks, %zu columns, %s, root %s\n", path, what,
               (unsigned long long)kd_store_rows(s), kd_store_chunks(s), kd_store_columns(s),
               kd_fmt_bytes(bytes, (double)kd_store_bytes(s)), kd_store_root(s));
    }
    json_decref(members);
    kd_store_close(s);
    return st;
}
