/* file.c - files that are read whole, and files that appear whole.
 *
 * A reader of a kd file never meets half of it: a new file is written under another name in the
 * same folder, synced, renamed over its final name, and the folder is synced, so the rename itself
 * survives a power cut. A killed run leaves a NAME.tmp.PID that nothing takes for NAME.
 *
 * The stream handed out goes through a cookie instead of a plain descriptor: stdio forgets errno
 * between a failed write and the ferror that notices it, and a full disk must be told apart from a
 * broken one.
 */
#include "kd/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Reads fd to its end, at most limit bytes. */
static kd_status read_all(int fd, const char *path, size_t limit, size_t hint, char **text, size_t *len,
                          kd_err *err)
{
    size_t cap = kd_min_size(hint, limit) + 2, n = 0;
    char *buf = malloc(cap);
    if (!buf) return kd_fail(err, KD_ENOMEM, "%s: no memory for %zu bytes", path, cap);
    for (;;) {
        if (n + 1 == cap) {
            size_t more = cap + cap / 2 + 4096;
            char *bigger = realloc(buf, more);
            if (!bigger) {
                free(buf);
                return kd_fail(err, KD_ENOMEM, "%s: no memory for %zu bytes", path, more);
            }
            buf = bigger;
            cap = more;
        }
        ssize_t got = read(fd, buf + n, cap - 1 - n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            kd_status st = kd_fail_errno(err, errno, "%s: cannot read", path);
            free(buf);
            return st;
        }
        if (got == 0) break;
        n += (size_t)got;
        if (n > limit) {
            free(buf);
            return kd_fail(err, KD_ELIMIT, "%s: larger than the limit of %zu bytes", path, limit);
        }
    }
    buf[n] = '\0';
    *text = buf;
    *len = n;
    return KD_OK;
}

kd_status kd_file_read(const char *path, size_t limit, char **text, size_t *len, kd_err *err)
{
    *text = NULL;
    *len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return kd_fail_errno(err, errno, "%s: cannot open", path);
    struct stat s;
    kd_status st;
    if (fstat(fd, &s))
        st = kd_fail_errno(err, errno, "%s: cannot stat", path);
    else if (S_ISDIR(s.st_mode))
        st = kd_fail(err, KD_EIO, "%s: is a folder where a file is needed", path);
    else if (S_ISREG(s.st_mode) && (uint64_t)s.st_size > limit)
        st = kd_fail(err, KD_ELIMIT, "%s: %lld bytes, the limit is %zu", path, (long long)s.st_size, limit);
    else
        st = read_all(fd, path, limit, S_ISREG(s.st_mode) ? (size_t)s.st_size : 0, text, len, err);
    close(fd);
    return st;
}

struct kd_newfile {
    char *path, *tmp;
    FILE *stream;
    int fd, errnum; /* errnum: of the first write that failed */
};

static ssize_t cookie_write(void *cookie, const char *data, size_t len)
{
    kd_newfile *f = cookie;
    size_t done = 0;
    while (done < len) {
        ssize_t n = write(f->fd, data + done, len - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            if (!f->errnum) f->errnum = n < 0 ? errno : EIO;
            return 0; /* what glibc documents as the error of a write cookie */
        }
        done += (size_t)n;
    }
    return (ssize_t)len;
}

static int cookie_seek(void *cookie, off64_t *offset, int whence)
{
    kd_newfile *f = cookie;
    off64_t at = lseek64(f->fd, *offset, whence);
    if (at < 0) return -1;
    *offset = at;
    return 0;
}

static void newfile_free(kd_newfile *f)
{
    free(f->path);
    free(f->tmp);
    free(f);
}

/* Opens PATH.tmp.PID, or PATH.tmp.PID.1 ... when an earlier process of this number left one. */
static kd_status open_tmp(kd_newfile *f, kd_err *err)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        free(f->tmp);
        f->tmp = attempt ? kd_sprintf("%s.tmp.%ld.%d", f->path, (long)getpid(), attempt)
                         : kd_sprintf("%s.tmp.%ld", f->path, (long)getpid());
        if (!f->tmp) return kd_fail(err, KD_ENOMEM, "%s: no memory to name a temporary file", f->path);
        f->fd = open(f->tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (f->fd >= 0) return KD_OK;
        if (errno != EEXIST) break;
    }
    return kd_fail_errno(err, errno, "%s: cannot create", f->tmp);
}

kd_status kd_newfile_open(kd_newfile **out, const char *path, kd_err *err)
{
    *out = NULL;
    kd_newfile *f = calloc(1, sizeof *f);
    if (!f || !(f->path = kd_strdup(path))) {
        free(f);
        return kd_fail(err, KD_ENOMEM, "%s: no memory to open it for writing", path);
    }
    kd_status st = open_tmp(f, err);
    if (st) {
        newfile_free(f);
        return st;
    }
    cookie_io_functions_t io = {.write = cookie_write, .seek = cookie_seek};
    f->stream = fopencookie(f, "w", io);
    if (!f->stream) {
        st = kd_fail(err, KD_ENOMEM, "%s: no memory for a stream", path);
        close(f->fd);
        unlink(f->tmp);
        newfile_free(f);
        return st;
    }
    *out = f;
    return KD_OK;
}

FILE *kd_newfile_stream(kd_newfile *f) { return f->stream; }

/* fsync of the folder that holds path, so that a rename in it lasts. */
static kd_status sync_parent(const char *path, kd_err *err)
{
    const char *base = kd_path_base(path);
    char *folder = base == path ? kd_strdup(".") : kd_sprintf("%.*s", (int)(base - path), path);
    if (!folder) return kd_fail(err, KD_ENOMEM, "%s: no memory to sync its folder", path);
    kd_status st = kd_fsync_path(folder, err);
    free(folder);
    return st;
}

kd_status kd_newfile_commit(kd_newfile *f, kd_err *err)
{
    if (!f) return KD_OK;
    kd_status st = KD_OK;
    bool bad = fflush(f->stream) != 0 || ferror(f->stream);
    if (bad || f->errnum)
        st = kd_fail_errno(err, f->errnum ? f->errnum : EIO, "%s: cannot write", f->tmp);
    else if (fsync(f->fd))
        st = kd_fail_errno(err, errno, "%s: cannot sync", f->tmp);
    fclose(f->stream);
    if (close(f->fd) && !st) st = kd_fail_errno(err, errno, "%s: cannot close", f->tmp);
    if (!st && rename(f->tmp, f->path))
        st = kd_fail_errno(err, errno, "%s: cannot rename to %s", f->tmp, f->path);
    if (st)
        unlink(f->tmp);
    else
        st = sync_parent(f->path, err);
    newfile_free(f);
    return st;
}

void kd_newfile_abort(kd_newfile *f)
{
    if (!f) return;
    fclose(f->stream);
    close(f->fd);
    unlink(f->tmp);
    newfile_free(f);
}

kd_status kd_file_write(const char *path, const void *data, size_t len, kd_err *err)
{
    kd_newfile *f;
    kd_status st = kd_newfile_open(&f, path, err);
    if (st) return st;
    if (len) fwrite(data, 1, len, f->stream); /* a failure is kept in the stream until commit */
    return kd_newfile_commit(f, err);
}
