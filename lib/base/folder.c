/* folder.c - making, syncing and removing folders and asking about paths.
 *
 * kd_remove_tree walks by descriptors (openat, unlinkat) and never follows a symbolic link, so a
 * link inside a store that points elsewhere loses the link, not what it points to.
 */
#include "kd/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TREE_MAX_DEPTH 128 /* one open descriptor a level */

bool kd_exists(const char *path)
{
    struct stat s;
    return path && stat(path, &s) == 0;
}

bool kd_is_dir(const char *path)
{
    struct stat s;
    return path && stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

kd_status kd_mkdirs(const char *path, kd_err *err)
{
    char *p = kd_strdup(path);
    if (!p) return kd_fail(err, KD_ENOMEM, "%s: no memory to make the folder", path);
    kd_status st = KD_OK;
    for (size_t i = 1;; i++) {
        char c = p[i - 1] ? p[i] : '\0';
        if (c != '/' && c != '\0') continue;
        p[i] = '\0';
        if (p[0] && mkdir(p, 0777) && !kd_is_dir(p)) {
            st = errno == EEXIST ? kd_fail(err, KD_EEXISTS, "%s: is a file where a folder is needed", p)
                                 : kd_fail_errno(err, errno, "%s: cannot make the folder", p);
            break;
        }
        if (c == '\0') break;
        p[i] = '/';
    }
    free(p);
    return st;
}

kd_status kd_fsync_path(const char *path, kd_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return kd_fail_errno(err, errno, "%s: cannot open to sync it", path);
    kd_status st = KD_OK;
    /* A few file systems (FUSE, 9p) know no fsync of a folder and say EINVAL. */
    if (fsync(fd) && !(errno == EINVAL && kd_is_dir(path)))
        st = kd_fail_errno(err, errno, "%s: cannot sync", path);
    close(fd);
    return st;
}

/* Empties the folder behind fd (which it closes); path is for messages. */
static kd_status remove_inside(int fd, const char *path, int depth, kd_err *err)
{
    DIR *d = fdopendir(fd);
    if (!d) {
        kd_status st = kd_fail_errno(err, errno, "%s: cannot list", path);
        close(fd);
        return st;
    }
    kd_status st = KD_OK;
    struct dirent *e;
    while (!st && (errno = 0, e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (unlinkat(dirfd(d), e->d_name, 0) == 0 || errno == ENOENT) continue;
        int why = errno; /* EISDIR for a folder on Linux, EPERM on some file systems */
        int sub = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (sub < 0) {
            st = kd_fail_errno(err, why, "%s/%s: cannot remove", path, e->d_name);
        } else if (depth >= TREE_MAX_DEPTH) {
            close(sub);
            st = kd_fail(err, KD_ELIMIT, "%s/%s: more than %d folders deep, remove it by hand", path,
                         e->d_name, TREE_MAX_DEPTH);
        } else if (!(st = remove_inside(sub, path, depth + 1, err)) &&
                   unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR) && errno != ENOENT) {
            st = kd_fail_errno(err, errno, "%s/%s: cannot remove", path, e->d_name);
        }
        errno = 0;
    }
    if (!st && errno) st = kd_fail_errno(err, errno, "%s: cannot list", path);
    closedir(d);
    return st;
}

kd_status kd_remove_tree(const char *path, kd_err *err)
{
    if (unlink(path) == 0 || errno == ENOENT) return KD_OK;
    int why = errno;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return kd_fail_errno(err, why, "%s: cannot remove", path);
    kd_status st = remove_inside(fd, path, 1, err);
    if (!st && rmdir(path) && errno != ENOENT) st = kd_fail_errno(err, errno, "%s: cannot remove", path);
    return st;
}
