/* slice.c - part i of n of a store, as a store of its own: what one of n machines works on.
 *
 * Chunks stay whole and in order, so a teacher computes the same batches for a part as for the whole, and the
 * parts put together again (merge.c) are the whole, root for root. Each split is cut on its own, so that
 * every part has its share of each. The contract of the base segment gets the member "shard", which says
 * which part of what this is; merge takes it away.
 */
#include "store_private.h"

#include <stdlib.h>
#include <string.h>

static kd_status pick_part(kd__rewrite *r, uint32_t part, uint32_t parts, kd_err *err)
{
    const kd_store *s = r->source[0];
    uint64_t all[KD_SPLITS] = {0}, seen[KD_SPLITS] = {0};
    kd_status st = KD_OK;
    for (uint32_t i = 0; i < s->nchunks; i++) all[s->chunks[i].split]++;
    for (uint32_t i = 0; i < s->nchunks && !st; i++) {
        const kd_split split = s->chunks[i].split;
        const uint64_t at = seen[split]++;
        if (at >= all[split] * (part - 1) / parts && at < all[split] * part / parts)
            st = kd__rewrite_pick(r, 0, i, s->chunks[i].rows, err);
    }
    if (!st && !r->picks)
        st = kd_fail(err, KD_EUSAGE,
                     "%s: part %u of %u is empty: there are %u chunks; cut it into fewer parts", s->path,
                     part, parts, s->nchunks);
    return st;
}

/* Says in the contract of the base segment which part this is. */
static kd_status name_part(kd__rewrite *r, uint32_t part, uint32_t parts, kd_err *err)
{
    const kd_store *s = r->source[0];
    char root[33];
    if (json_object_get(r->contract[0], "shard"))
        return kd_fail(err, KD_EUSAGE, "%s: is itself a part of a store; cut the whole one into more parts",
                       s->path);
    kd__base_root(s, root);
    json_t *shard =
        json_pack("{s:I, s:I, s:s}", "part", (json_int_t)part, "parts", (json_int_t)parts, "of", root);
    if (!r->contract[0]) r->contract[0] = json_object();
    if (json_object_set_new(r->contract[0], "shard", shard))
        return kd_fail(err, KD_ENOMEM, "%s: out of memory", s->path);
    json_object_del(r->extra[0], "duplicates"); // counts of the whole
    json_object_del(r->extra[0], "leaks");
    return KD_OK;
}

kd_status kd_store_slice(const char *out, const char *store, uint32_t part, uint32_t parts, bool base_only,
                         const kd_writer_params *wp, const char *command, kd_err *err)
{
    kd__rewrite r = {0};
    if (part < 1 || part > parts)
        return kd_fail(err, KD_EUSAGE, "part %u of %u: expected 1 of n to n of n", part, parts);
    kd_status st = kd__rewrite_init(&r, out, &store, 1, wp, command, err);
    if (!st) st = pick_part(&r, part, parts, err);
    if (!st) st = name_part(&r, part, parts, err);
    if (!st) {
        if (base_only) r.segments = 1; // what was copied of the others is released with it
        st = kd__rewrite_run(&r, "slice", err);
    }
    kd__rewrite_release(&r);
    return st;
}
