/* shard.c - --shard: the part of a store that this machine works on, as a store of its own. */
#include "dump_cmd.h"

#include <string.h>

/* Whether the store at o->out is already this part: a run that is gone on with has cut it. */
static kd_status is_part(const dump_opts *o, const kd_store *whole, uint32_t part, uint32_t parts, bool *yes,
                         kd_err *err)
{
    kd_store *s;
    kd_status st = kd_store_open(&s, o->out, err);
    if (st) return st;
    const json_t *cut = json_array_get(json_object_get(kd_store_manifest(s), "segments"), 0),
                 *base = json_array_get(json_object_get(kd_store_manifest(whole), "segments"), 0),
                 *shard = json_object_get(json_object_get(cut, "contract"), "shard");
    const char *of = json_string_value(json_object_get(shard, "of")),
               *root = json_string_value(json_object_get(base, "root"));
    *yes = of && root && !strcmp(of, root) && json_integer_value(json_object_get(shard, "part")) == part &&
           json_integer_value(json_object_get(shard, "parts")) == parts;
    kd_store_close(s);
    return KD_OK;
}

kd_status dump_cut_shard(const dump_opts *o, const kd_store *whole, const kd_writer_params *wp,
                         const char *command, kd_err *err)
{
    uint32_t part, parts;
    bool there = false;
    kd_status st;
    if (!kd_part_parse(o->shard, &part, &parts))
        return kd_fail(err, KD_EUSAGE, "--shard '%.40s': expected i/n, as in --shard 1/4", o->shard);
    if (!o->out)
        return kd_fail(err, KD_EUSAGE, "--shard %s: where does the part go? say -o PART.kd", o->shard);
    if (o->dry_run) return KD_OK;
    if (o->resume && kd_exists(o->out)) {
        if ((st = is_part(o, whole, part, parts, &there, err))) return st;
        if (!there && !o->force)
            return kd_fail(err, KD_EMISMATCH,
                           "%s: is not part %s of %s; name another store, or --force replaces it", o->out,
                           o->shard, kd_store_path(whole));
    }
    return there ? KD_OK : kd_store_slice(o->out, kd_store_path(whole), part, parts, true, wp, command, err);
}
