/* mine.c - kd-dump --mine: hard negatives of a store of pairs, from what a teacher said before. */
#include "dump_cmd.h"

#include <stdlib.h>
#include <string.h>

/* The teacher whose embeddings are used: --name, or the only one that there is. */
static kd_status teacher_of(const dump_opts *o, const kd_store *s, const char **name, kd_err *err)
{
    *name = o->name;
    for (size_t i = 0; i < kd_store_columns(s) && !o->name; i++) {
        const kd_column *c = kd_store_column(s, i);
        if (c->role != KD_ROLE_FEATURE || (*name && !strcmp(*name, c->teacher))) continue;
        if (*name)
            return kd_fail(err, KD_EUSAGE, "%s: features of several teachers, %s and %s; say which: --name",
                           kd_store_path(s), *name, c->teacher);
        *name = c->teacher;
    }
    if (*name) return KD_OK;
    return kd_fail(err, KD_ENOTFOUND,
                   "%s: no teacher's embeddings; dump them first: kd-dump --teacher FOLDER --into %s",
                   kd_store_path(s), kd_store_path(s));
}

static kd_status report(kd_cli *c, const dump_opts *o, const char *name, const kd_mine_report *r, kd_err *err)
{
    kd_store *s;
    char bytes[32];
    kd_status st = kd_store_open(&s, o->into, err);
    if (st) return st;
    kd_cli_note(c, "%llu rows, %lld negatives each, of %zu texts", (unsigned long long)kd_store_rows(s),
                (long long)o->mine, r->candidates);
    kd_cli_note(c, "%s, now %s", kd_store_path(s), kd_fmt_bytes(bytes, (double)kd_store_bytes(s)));
    if (c->common.json)
        st = kd_cli_print_json(json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:o}",
                                         "schema", 1, "tool", c->tool->name, "store", kd_store_path(s),
                                         "root", kd_store_root(s), "segment", r->segment, "teacher", name,
                                         "rows", (json_int_t)kd_store_rows(s), "mined", (json_int_t)o->mine,
                                         "candidates", (json_int_t)r->candidates, "store_bytes",
                                         (json_int_t)kd_store_bytes(s), "seconds", kd_now() - c->start,
                                         "config", kd_config_json(&c->config)),
                               err);
    kd_store_close(s);
    return st;
}

kd_status dump_mine(kd_cli *c, const dump_opts *o, kd_err *err)
{
    const kd_writer_params wp = dump_writer_params(c, o);
    kd_mine_params p = {.n = o->mine,
                        .threads = (int)c->common.threads,
                        .stop = &kd_stop_requested,
                        .progress = dump_progress};
    kd_mine_report r;
    kd_progress pr;
    kd_store *s = NULL;
    char *name = NULL, *command = kd_cli_command(c->argc, c->argv);
    const char *found;
    kd_status st = KD_OK;
    if (!o->into || o->teacher || o->out)
        st = kd_fail(err, KD_EUSAGE,
                     "--mine N reads what a teacher said before: give --into STORE, and --name "
                     "where there are several teachers");
    else if (!command)
        st = kd_fail(err, KD_ENOMEM, "out of memory");
    if (st || (st = kd_store_open(&s, o->into, err)) || (st = teacher_of(o, s, &found, err))) goto out;
    if (!(name = kd_strdup(found))) {
        st = kd_fail(err, KD_ENOMEM, "out of memory");
        goto out;
    }
    p.name = name;
    p.command = command;
    p.arg = &pr;
    kd_progress_begin(&pr, c, "mine", "rows", kd_store_rows(s));
    st = kd_teacher_mine(s, &p, &wp, &r, err);
    kd_progress_end(&pr);
    if (!st) st = report(c, o, name, &r, err);
out:
    kd_store_close(s);
    free(name);
    free(command);
    return st;
}
