/* compact.c - a store written anew into a folder that takes the old one's place.
 *
 * What it is for: another zstd level once a store is finished, and files that nothing names. Readers that
 * have the old files open keep them. The store's folder stays locked meanwhile, so no segment is sealed into
 * a folder that is about to go.
 *
 * Outputs that cost hours are never thrown away for tidiness: where an unfinished or unnamed segment file
 * lies in the folder, it is named and nothing is done.
 */
#include "store_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

/* What is to be said of a file in the store's folder that stands in the way. */
static kd_status check_file(int folder, const kd_store *s, const char *name, kd_err *err)
{
    const bool part = ends_with(name, ".part");
    for (uint32_t i = 0; i < s->nsegments; i++)
        if (!strcmp(name, s->segments[i].file)) return KD_OK;
    if (!part && !ends_with(name, ".mdb")) return KD_OK;
    const int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
    const bool busy = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK;
    if (fd >= 0) close(fd);
    if (busy)
        return kd_fail(err, KD_EEXISTS, "%s/%s: another process is writing it; wait for it or stop it",
                       s->path, name);
    return kd_fail(err, KD_EEXISTS, "%s/%s: %s; finish it with --resume, or remove it", s->path, name,
                   part ? "left by an unfinished run" : "left by a run that was stopped while sealing");
}

kd_status kd__no_unfinished(const kd_store *s, kd_err *err)
{
    DIR *d = opendir(s->path);
    struct dirent *e;
    kd_status st = d ? KD_OK : kd_fail_errno(err, errno, "%s: cannot list", s->path);
    while (!st && (e = readdir(d))) st = check_file(dirfd(d), s, e->d_name, err);
    if (d) closedir(d);
    return st;
}

/* Bytes of all files in a folder. */
static kd_status folder_bytes(const char *path, uint64_t *bytes, kd_err *err)
{
    DIR *d = opendir(path);
    struct dirent *e;
    struct stat sb;
    *bytes = 0;
    if (!d) return kd_fail_errno(err, errno, "%s: cannot list", path);
    while ((e = readdir(d)))
        if (!fstatat(dirfd(d), e->d_name, &sb, AT_SYMLINK_NOFOLLOW) && S_ISREG(sb.st_mode))
            *bytes += (uint64_t)sb.st_size;
    closedir(d);
    return KD_OK;
}

static kd_status lock_folder(int *folder, const char *path, kd_err *err)
{
    *folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*folder < 0) return kd_fail_errno(err, errno, "%s: cannot be opened", path);
    if (!flock(*folder, LOCK_EX | LOCK_NB)) return KD_OK;
    if (errno == EWOULDBLOCK)
        return kd_fail(err, KD_EEXISTS, "%s: another process is adding to it or dropping from it", path);
    return kd_fail_errno(err, errno, "%s: cannot be locked", path);
}

/* A run that was stopped right after it had exchanged the folders left the old store in the unfinished one's
 * place, and its plan in the new one. */
static kd_status finish_earlier(const kd__rewrite *r, kd_err *err)
{
    char *plan = kd_path_join(r->out, KD__PLAN_FILE), *old = kd_path_join(r->folder, "manifest.json");
    char *part = kd_path_join(r->folder, "base.mdb.part"), *begun = kd_path_join(r->folder, KD__PLAN_FILE);
    kd_status st = KD_OK;
    if (!plan || !old || !part || !begun)
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory", r->out);
    else if (kd_exists(plan) && kd_exists(old) && !kd_exists(part) && !kd_exists(begun))
        st = kd_remove_tree(r->folder, err);
    if (!st) unlink(plan);
    free(plan);
    free(old);
    free(part);
    free(begun);
    return st;
}

static kd_status run(kd__rewrite *r, int level, kd_err *err)
{
    const kd_store *s = r->source[0];
    kd_status st = kd__no_unfinished(s, err);
    if (!st) st = finish_earlier(r, err);
    for (uint32_t i = 0; i < s->nchunks && !st; i++) st = kd__rewrite_pick(r, 0, i, s->chunks[i].rows, err);
    r->level = level;
    r->replace = true;
    return st ? st : kd__rewrite_run(r, "compact", err);
}

kd_status kd_store_compact(const char *store, int level, int threads, volatile const int *stop,
                           void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                           uint64_t *before, uint64_t *after, kd_err *err)
{
    kd__rewrite r = {.stop = stop, .progress = progress, .arg = arg};
    kd_writer_params p = kd_writer_default_params();
    int folder = -1;
    p.threads = threads;
    p.resume = p.force = true;
    if (level < 0 || level > 19) return kd_fail(err, KD_EUSAGE, "zstd level %d, allowed are 1 to 19", level);
    kd_status st = kd__rewrite_init(&r, store, &store, 1, &p, NULL, err);
    if (!st) st = lock_folder(&folder, r.out, err);
    if (!st) st = folder_bytes(r.out, before, err);
    if (!st) st = run(&r, level, err);
    if (!st) st = folder_bytes(r.out, after, err);
    if (folder >= 0) close(folder);
    kd__rewrite_release(&r);
    return st;
}
