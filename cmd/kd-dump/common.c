/* common.c - what the passes of kd-dump share: options that become parameters, a teacher and its store. */
#include "dump_cmd.h"

#include <string.h>

void dump_progress(void *progress, uint64_t done, uint64_t total)
{
    kd_progress *p = progress;
    p->total = total; // of a part: known once it is cut
    kd_progress_set(progress, done, NULL);
}

kd_writer_params dump_writer_params(const kd_cli *c, const dump_opts *o)
{
    kd_writer_params wp = kd_writer_default_params();
    wp.resume = o->resume;
    wp.force = o->force;
    wp.level = (int)o->level;
    wp.commit_bytes = (size_t)(o->commit * 1048576);
    wp.threads = (int)c->common.threads;
    return wp;
}

kd_status dump_columns_json(kd_cli *c, const kd_store *s, const char *segment, json_t **out, kd_err *err)
{
    if (!(*out = json_array())) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < kd_store_columns(s); i++) {
        const kd_column *k = kd_store_column(s, i);
        uint64_t raw, stored;
        if (strcmp(k->segment, segment)) continue;
        kd_status st = kd_store_column_bytes(s, (int)i, &raw, &stored, err);
        if (st) return st;
        const double row = (double)stored / (double)kd_store_rows(s);
        kd_cli_say(c, "%s: %s, %.4g bytes a row", k->name,
                   strcmp(k->encoding, "dense") ? k->encoding : kd_dtype_name(k->dtype), row);
        json_array_append_new(*out,
                              json_pack("{s:s, s:s, s:s, s:f}", "name", k->name, "encoding", k->encoding,
                                        "dtype", kd_dtype_name(k->dtype), "row_bytes", row));
    }
    return KD_OK;
}

static kd_status check_use(const kd_cli *c, const dump_opts *o, kd_err *err)
{
    if (!o->teacher && !o->into)
        return kd_fail(err, KD_EUSAGE, "no teacher and no store named: --teacher FOLDER --into STORE");
    if (!o->teacher)
        return kd_fail(err, KD_EUSAGE, "--into %s: no teacher named; say which: --teacher FOLDER", o->into);
    if (!o->into)
        return kd_fail(err, KD_EUSAGE,
                       "--teacher %s: no store named; say which finished store to add it to: --into STORE",
                       o->teacher);
    if (o->out && !o->shard && !o->generate)
        return kd_fail(err, KD_EUSAGE,
                       "-o %s makes a new store, --teacher adds to one; use one of them, or --shard I/N",
                       o->out);
    if (c->nargs)
        return kd_fail(err, KD_EUSAGE, "'%s': with --teacher the data are those of the store; leave it out",
                       c->args[0]);
    return KD_OK;
}

kd_status dump_open(kd_cli *c, const dump_opts *o, kd_teacher **t, kd_store **s, kd_err *err)
{
    kd_status st = check_use(c, o, err);
    if (!st) st = kd_store_open(s, o->into, err);
    if (!st) st = kd_teacher_open(t, o->teacher, o->batch, (int)c->common.threads, err);
    kd_precision precision = KD_PRECISION_F32;
    if (!st && kd_precision_parse(o->precision, &precision) && precision)
        st = kd_teacher_set_precision(*t, precision, err);
    return st ? st : kd_teacher_check(*t, *s, err);
}
