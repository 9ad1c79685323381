/* shard.c - --shard: the part of a store that this machine works on, as a store of its own.
 *
 * The part appears under its name when its teacher is through, as everything does: until then it is
 * OUT.shard. So a file rule of make, or a script, can take a part that is there for a finished one. A part
 * that is there already takes further passes like any store.
 */
#include "dump_cmd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Whether the store at path is this part of the whole one. */
static kd_status is_part(const char *path, const kd_store *whole, uint32_t part, uint32_t parts, bool *yes,
                         kd_err *err)
{
    kd_store *s;
    kd_status st = kd_store_open(&s, path, err);
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

kd_status dump_shard_begin(const dump_opts *o, const kd_store *whole, const kd_writer_params *wp,
                           const char *command, char **path, kd_err *err)
{
    uint32_t part, parts;
    bool there = false;
    kd_status st;
    if (!kd_part_parse(o->shard, &part, &parts))
        return kd_fail(err, KD_EUSAGE, "--shard '%.40s': expected i/n, as in --shard 1/4", o->shard);
    if (!o->out)
        return kd_fail(err, KD_EUSAGE, "--shard %s: where does the part go? say -o PART.kd", o->shard);
    const bool finished = kd_exists(o->out);
    if (finished && !o->resume && !o->force)
        return kd_fail(err, KD_EEXISTS,
                       "%s: already there; --resume adds another pass to it, --force replaces it", o->out);
    *path = finished && o->resume ? kd_strdup(o->out) : kd_sprintf("%s.shard", o->out);
    if (!*path) return kd_fail(err, KD_ENOMEM, "out of memory");
    if (o->dry_run) return KD_OK;
    if (o->resume && kd_exists(*path)) {
        if ((st = is_part(*path, whole, part, parts, &there, err)) || there) return st;
        if (!o->force)
            return kd_fail(err, KD_EMISMATCH,
                           "%s: is not part %s of %s; name another store, or --force replaces it", *path,
                           o->shard, kd_store_path(whole));
    }
    return kd_store_slice(*path, kd_store_path(whole), part, parts, true, wp, command, err);
}

kd_status dump_shard_end(const dump_opts *o, const char *path, kd_err *err)
{
    kd_status st;
    if (!strcmp(path, o->out)) return KD_OK;
    if ((st = kd_remove_tree(o->out, err))) return st; // there only with --force
    if (rename(path, o->out)) return kd_fail_errno(err, errno, "%s: renaming it to %s", path, o->out);
    char *folder = kd_sprintf("%.*s", (int)(kd_path_base(o->out) - o->out), o->out);
    st = folder ? kd_fsync_path(*folder ? folder : ".", err) : kd_fail(err, KD_ENOMEM, "out of memory");
    free(folder);
    return st;
}
