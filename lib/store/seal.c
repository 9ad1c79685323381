/* seal.c - the end of a segment: from FILE.part to a file that a manifest names.
 *
 * The order of steps is what makes a kill harmless. Data is synced before its name changes; the name
 * changes before the manifest that mentions it; the manifest is replaced by rename; a new store's
 * folder is renamed last. A kill between any two leaves either the old state or one that --resume
 * recognises (store_writer.c).
 *
 * The finished file is cut to the pages LMDB counts (a write that failed on a full disk may have left
 * more behind) and walked by our own code: what readers could not open is never sealed.
 *
 * Several writers may extend one store at once, each its own segment. They meet only here: a flock
 * on the store's folder is held from reading the manifest to replacing it.
 */
#include "store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void now_utc(char out[32])
{
    time_t t = time(NULL);
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* fsync of the folder that holds path. */
static kd_status sync_parent(const char *path, kd_err *err)
{
    char *folder = kd_strdup(path);
    if (!folder) return kd_fail(err, KD_ENOMEM, "out of memory");
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = '\0';
    kd_status st = kd_fsync_path(slash ? folder : ".", err);
    free(folder);
    return st;
}

/* Closes LMDB, cuts, checks, syncs and renames the file. */
static kd_status finish_file(kd_store_writer *w, kd__pages *p, kd_err *err)
{
    kd__index x = {0};
    kd_status st;
    mdb_env_close(w->env); // every commit has synced what it wrote
    w->env = NULL;
    if ((st = kd__pages_open(p, w->lock, err))) return kd_fail_in(err, st, "%s", w->part);
    if (ftruncate(w->lock, (off_t)((p->last + 1) * p->psize)))
        return kd_fail_errno(err, errno, "%s", w->part);
    p->size = (p->last + 1) * p->psize;
    st = kd__index_build(&x, p, w->columns, w->ncolumns, w->nchunks, true, err);
    kd__index_release(&x);
    if (st) return kd_fail_in(err, st, "%s", w->part);
    if (fchmod(w->lock, 0444) || fsync(w->lock)) return kd_fail_errno(err, errno, "%s: syncing", w->part);
    if (rename(w->part, w->file)) return kd_fail_errno(err, errno, "%s: renaming it to %s", w->part, w->file);
    return kd_fsync_path(w->folder, err);
}

/* What the manifest says of this segment. */
static json_t *segment_entry(const kd_store_writer *w, const kd__pages *p, const json_t *extra)
{
    char root[33], tag[17], created[32];
    json_t *columns = json_array();
    for (uint32_t i = 0; columns && i < w->ncolumns; i++)
        json_array_append_new(columns, kd__column_to_json(&w->columns[i], w->book_sums[i]));
    kd_id_hex(kd_hash128(w->sums, w->nsums * sizeof(*w->sums)), root);
    snprintf(tag, sizeof(tag), "%016llx", (unsigned long long)w->tag);
    now_utc(created);
    json_t *entry = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:o, s:O?}", "name", w->name, "file",
                              kd_path_base(w->file), "created", created, "bytes", (json_int_t)p->size,
                              "pages", (json_int_t)(p->last + 1), "records", (json_int_t)w->nsums, "root",
                              root, "header", tag, "columns", columns, "contract", w->contract);
    if (entry && extra) json_object_update_missing(entry, (json_t *)(uintptr_t)extra);
    return entry;
}

static json_t *new_manifest(const kd_store_writer *w, json_t *entry)
{
    uint64_t rows[KD_SPLITS] = {0};
    char created[32];
    for (uint32_t i = 0; i < w->nchunks; i++) rows[w->chunks[i].split] += w->chunks[i].rows;
    now_utc(created);
    return json_pack("{s:i, s:s, s:s, s:I, s:I, s:o, s:{s:I, s:I, s:I}, s:[O]}", "format", KD_STORE_FORMAT,
                     "kd", KD_VERSION, "created", created, "rows", (json_int_t)w->rows, "chunk_rows",
                     (json_int_t)w->params.chunk_rows, "chunks", kd__chunks_to_json(w->chunks, w->nchunks),
                     "splits", "train", (json_int_t)rows[KD_TRAIN], "valid", (json_int_t)rows[KD_VALID],
                     "test", (json_int_t)rows[KD_TEST], "segments", entry);
}

kd_status kd__publish(const char *folder, const char *path, bool force, kd_err *err)
{
    kd_status st;
    if (!rename(folder, path)) return sync_parent(path, err);
    if (!force || (errno != ENOTEMPTY && errno != EEXIST && errno != ENOTDIR))
        return kd_fail_errno(err, errno, "%s: renaming it to %s", folder, path);
    if (!renameat2(AT_FDCWD, folder, AT_FDCWD, path, RENAME_EXCHANGE)) {
        if ((st = sync_parent(path, err))) return st;
        return kd_remove_tree(folder, err);
    }
    if ((st = kd_remove_tree(path, err))) return st;
    if (rename(folder, path)) return kd_fail_errno(err, errno, "%s: renaming it to %s", folder, path);
    return sync_parent(path, err);
}

/* Puts entry into the list of segments, or in the place of the one with its name, whose file name
 * goes to *old. */
static kd_status add_segment(json_t *manifest, json_t *entry, const char *name, char **old, kd_err *err)
{
    json_t *list = json_object_get(manifest, "segments"), *item;
    size_t i;
    json_array_foreach(list, i, item)
    {
        const char *n = json_string_value(json_object_get(item, "name"));
        if (!n || strcmp(n, name)) continue;
        if (!(*old = kd_strdup(json_string_value(json_object_get(item, "file")))) ||
            json_array_set(list, i, entry))
            return kd_fail(err, KD_ENOMEM, "out of memory");
        return KD_OK;
    }
    return json_array_append(list, entry) ? kd_fail(err, KD_ENOMEM, "out of memory") : KD_OK;
}

kd_status kd__lock_manifest(int *folder, kd_store **now, const char *path, kd_err *err)
{
    *folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*folder < 0 || flock(*folder, LOCK_EX))
        return kd_fail_errno(err, errno, "%s: cannot be locked", path);
    return kd__manifest_load(now, path, err);
}

static kd_status publish_extension(kd_store_writer *w, json_t *entry, kd_err *err)
{
    kd_store *now = NULL;
    char *old = NULL, *old_path = NULL, root[33];
    int folder;
    kd_status st = kd__lock_manifest(&folder, &now, w->folder, err);
    if (st) goto out;
    kd_id_hex(now->segments[0].root, root);
    if (strcmp(root, w->base_root)) {
        st = kd_fail(err, KD_EMISMATCH, "%s: the store was replaced while '%s' was being written", w->path,
                     w->name);
        goto out;
    }
    if ((st = add_segment(now->manifest, entry, w->name, &old, err))) goto out;
    if ((st = kd__manifest_save(now->manifest, w->folder, err))) goto out;
    if (old && strcmp(old, kd_path_base(w->file)) && (old_path = kd_path_join(w->folder, old)))
        unlink(old_path);
out:
    if (folder >= 0) close(folder);
    kd__store_free(now);
    free(old);
    free(old_path);
    return st;
}

static kd_status check_complete(const kd_store_writer *w, kd_err *err)
{
    if (w->store && w->nchunks != w->store->nchunks)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: %u chunks of %u: the segment is not complete, go on with --resume", w->part,
                       w->nchunks, w->store->nchunks);
    if (!w->nchunks) return kd_fail(err, KD_EUSAGE, "%s: a store needs at least one row", w->part);
    return KD_OK;
}

kd_status kd_store_writer_seal(kd_store_writer *w, const json_t *extra, kd_err *err)
{
    kd__pages p;
    json_t *entry = NULL, *manifest = NULL;
    kd_status st;
    if ((st = kd__group_commit(w, err)) || (st = check_complete(w, err)) || (st = finish_file(w, &p, err)))
        goto out;
    if (!(entry = segment_entry(w, &p, extra))) {
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory", w->path);
        goto out;
    }
    if (w->store) {
        st = publish_extension(w, entry, err);
        goto out;
    }
    if (!(manifest = new_manifest(w, entry)))
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory", w->path);
    else if (!(st = kd__manifest_save(manifest, w->folder, err)) && !w->held)
        st = kd__publish(w->folder, w->path, w->params.force, err);
out:
    json_decref(manifest);
    json_decref(entry);
    kd__writer_free(w);
    return st;
}

/* The position of a segment that may be dropped. */
static kd_status find_dropped(const json_t *list, const char *path, const char *name, size_t *at, kd_err *err)
{
    const char *names[KD_STORE_MAX_COLUMNS];
    size_t n = 0, i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        const char *found = json_string_value(json_object_get(item, "name"));
        if (found && !strcmp(found, name)) {
            *at = i;
            if (i > 0) return KD_OK;
            return kd_fail(err, KD_EUSAGE, "%s: '%s' holds the rows themselves and cannot be dropped", path,
                           name);
        }
        if (found && i > 0 && n < sizeof(names) / sizeof(*names)) names[n++] = found;
    }
    const char *near = kd_nearest(name, names, n);
    return near ? kd_fail(err, KD_ENOTFOUND, "%s: no segment '%s' (did you mean '%s'?)", path, name, near)
                : kd_fail(err, KD_ENOTFOUND, "%s: no segment '%s'; kd-store stat %s lists them", path, name,
                          path);
}

kd_status kd_store_drop(const char *path, const char *name, uint64_t *bytes, kd_err *err)
{
    kd_store *now = NULL;
    char *file = NULL;
    struct stat sb;
    size_t at;
    int folder;
    kd_status st = kd__lock_manifest(&folder, &now, path, err);
    if (st) goto out;
    json_t *list = json_object_get(now->manifest, "segments");
    if ((st = find_dropped(list, path, name, &at, err))) goto out;
    file = kd_path_join(path, json_string_value(json_object_get(json_array_get(list, at), "file")));
    if (!file || json_array_remove(list, at)) {
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
        goto out;
    }
    *bytes = stat(file, &sb) ? 0 : (uint64_t)sb.st_size;
    if ((st = kd__manifest_save(now->manifest, path, err))) goto out;
    if (unlink(file)) st = kd_fail_errno(err, errno, "%s: is dropped, but its file cannot be removed", file);
out:
    if (folder >= 0) close(folder);
    kd__store_free(now);
    free(file);
    return st;
}
