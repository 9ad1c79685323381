/* rawfile.c - the bytes of a source file, gunzipped on the way and hashed as they are on disk.
 *
 * Parsers above ask for bytes and get fewer only at the end. Whether the end is the right one is
 * theirs to judge: they know what the header promised. What only this level can see is kept for
 * their sentence: that gzip data stop before their trailer (kd__raw_cut).
 *
 * gzip is told by its magic, not by the name. zlib checks each member's CRC and length. Members
 * may follow each other (pigz, cat a.gz b.gz); anything else behind the last one is refused, because
 * a damaged copy looks just so. Nothing here allocates by what a file claims: 64 KiB in, the caller's
 * buffer out.
 *
 * The hash is of the file on disk, so that a resumed dump can tell that a source was replaced, and
 * `xxh128sum FILE` gives the same digits.
 */
#include "data_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define IN_BYTES    65536
#define AHEAD_BYTES 16

struct kd__rawfile {
    const char *path;
    int fd;
    bool regular, gzip, end, zlib_open; /* end: the decoded data are over */
    uint64_t size, taken;               /* of the file: as stat says; read so far */
    uint8_t in[IN_BYTES];               /* file bytes not yet decoded: in[at..len) */
    size_t at, len;
    uint8_t ahead[AHEAD_BYTES]; /* decoded bytes that were peeked at */
    size_t ahead_at, ahead_len;
    z_stream zlib;
    kd_hasher *hash;
    char cut[80];
};

const char *kd__raw_path(const kd__rawfile *r) { return r->path; }
bool kd__raw_gzip(const kd__rawfile *r) { return r->gzip; }
const char *kd__raw_cut(const kd__rawfile *r) { return r->cut; }

bool kd__raw_left(const kd__rawfile *r, uint64_t *left)
{
    if (!r->regular || r->gzip) return false;
    uint64_t decoded = r->taken - (r->len - r->at) - (r->ahead_len - r->ahead_at);
    *left = r->size > decoded ? r->size - decoded : 0;
    return true;
}

void kd__raw_identity(const kd__rawfile *r, uint64_t *bytes, kd_id *hash)
{
    *bytes = r->taken;
    *hash = kd_hasher_digest(r->hash);
}

void kd__raw_close(kd__rawfile *r)
{
    if (!r) return;
    if (r->zlib_open) inflateEnd(&r->zlib);
    if (r->fd >= 0) close(r->fd);
    kd_hasher_free(r->hash);
    free(r);
}

/* One read of at most n bytes of the file; *got == 0 at its end. */
static kd_status read_file(kd__rawfile *r, void *buf, size_t n, size_t *got, kd_err *err)
{
    ssize_t k;
    do k = read(r->fd, buf, n);
    while (k < 0 && errno == EINTR);
    *got = 0;
    if (k < 0)
        return kd_fail_errno(err, errno, "%s: cannot read at byte %llu", r->path,
                             (unsigned long long)r->taken);
    *got = (size_t)k;
    r->taken += *got;
    kd_hasher_add(r->hash, buf, *got);
    return KD_OK;
}

/* Makes sure that there is an undecoded byte, unless the file is over. */
static kd_status fill(kd__rawfile *r, kd_err *err)
{
    if (r->at < r->len) return KD_OK;
    r->at = r->len = 0;
    return read_file(r, r->in, IN_BYTES, &r->len, err);
}

static kd_status plain_read(kd__rawfile *r, uint8_t *buf, size_t n, size_t *got, kd_err *err)
{
    kd_status st;
    size_t k;
    *got = 0;
    while (*got < n) {
        if (r->at == r->len && n - *got >= IN_BYTES) { // large reads go straight to their place
            if ((st = read_file(r, buf + *got, n - *got, &k, err))) return st;
        } else {
            if ((st = fill(r, err))) return st;
            k = kd_min_size(r->len - r->at, n - *got);
            memcpy(buf + *got, r->in + r->at, k);
            r->at += k;
        }
        if (k == 0) {
            r->end = true;
            break;
        }
        *got += k;
    }
    return KD_OK;
}

/* Behind a member: the end of the file, or another member. */
static kd_status next_member(kd__rawfile *r, kd_err *err)
{
    kd_status st = fill(r, err);
    if (st) return st;
    if (r->at == r->len) {
        r->end = true;
        return KD_OK;
    }
    if (r->in[r->at] != 0x1F)
        return kd_fail(err, KD_ECORRUPT, "%s: trailing bytes at %llu, behind the end of the gzip data",
                       r->path, (unsigned long long)(r->taken - (r->len - r->at)));
    inflateReset(&r->zlib);
    return KD_OK;
}

static kd_status gzip_read(kd__rawfile *r, uint8_t *buf, size_t n, size_t *got, kd_err *err)
{
    kd_status st;
    *got = 0;
    while (*got < n && !r->end) {
        if ((st = fill(r, err))) return st;
        if (r->at == r->len) {
            r->end = true;
            snprintf(r->cut, sizeof(r->cut), ", its gzip data are cut off at byte %llu",
                     (unsigned long long)r->taken);
            break;
        }
        z_stream *z = &r->zlib;
        z->next_in = r->in + r->at;
        z->avail_in = (uInt)(r->len - r->at);
        z->next_out = buf + *got;
        z->avail_out = (uInt)kd_min_size(n - *got, 1u << 30);
        int rc = inflate(z, Z_NO_FLUSH);
        r->at = r->len - z->avail_in;
        *got = (size_t)(z->next_out - buf);
        if (rc == Z_MEM_ERROR) return kd_fail(err, KD_ENOMEM, "%s: out of memory for zlib", r->path);
        if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
            return kd_fail(err, KD_ECORRUPT, "%s: damaged gzip data at byte %llu: %s", r->path,
                           (unsigned long long)(r->taken - z->avail_in),
                           z->msg ? z->msg : "needs a dictionary");
        if (rc == Z_STREAM_END && (st = next_member(r, err))) return st;
    }
    return KD_OK;
}

kd_status kd__raw_read(kd__rawfile *r, void *buf, size_t n, size_t *got, kd_err *err)
{
    uint8_t *out = buf;
    size_t peeked = kd_min_size(n, r->ahead_len - r->ahead_at), more = 0;
    kd_status st = KD_OK;
    memcpy(out, r->ahead + r->ahead_at, peeked);
    r->ahead_at += peeked;
    if (peeked < n && !r->end)
        st = r->gzip ? gzip_read(r, out + peeked, n - peeked, &more, err)
                     : plain_read(r, out + peeked, n - peeked, &more, err);
    *got = peeked + more;
    return st;
}

kd_status kd__raw_peek(kd__rawfile *r, const uint8_t **p, size_t n, size_t *got, kd_err *err)
{
    uint8_t first[AHEAD_BYTES];
    size_t k;
    kd_status st = kd__raw_read(r, first, kd_min_size(n, AHEAD_BYTES), &k, err);
    if (st) return st;
    memcpy(r->ahead, first, k);
    r->ahead_at = 0;
    r->ahead_len = k;
    *p = r->ahead;
    *got = k;
    return KD_OK;
}

kd_status kd__raw_end(kd__rawfile *r, const char *expected, kd_err *err)
{
    uint8_t byte;
    size_t got;
    uint64_t left;
    kd_status st = kd__raw_read(r, &byte, 1, &got, err);
    if (st) return st;
    if (got && kd__raw_left(r, &left))
        return kd_fail(err, KD_ECORRUPT, "%s: %llu trailing bytes: expected the end behind %s", r->path,
                       (unsigned long long)left + 1, expected);
    if (got)
        return kd_fail(err, KD_ECORRUPT, "%s: trailing bytes: expected the end behind %s", r->path, expected);
    if (r->cut[0])
        return kd_fail(err, KD_ECORRUPT, "%s: truncated%s, expected their end behind %s", r->path, r->cut,
                       expected);
    return KD_OK;
}

static kd_status begin(kd__rawfile *r, kd_err *err)
{
    struct stat s;
    kd_status st;
    if (!(r->hash = kd_hasher_create())) return kd_fail(err, KD_ENOMEM, "%s: out of memory", r->path);
    if ((r->fd = open(r->path, O_RDONLY | O_CLOEXEC)) < 0)
        return kd_fail_errno(err, errno, "%s: cannot open", r->path);
    if (fstat(r->fd, &s)) return kd_fail_errno(err, errno, "%s: cannot stat", r->path);
    if (S_ISDIR(s.st_mode)) return kd_fail(err, KD_EIO, "%s: is a folder where a file is needed", r->path);
    r->regular = S_ISREG(s.st_mode);
    r->size = (uint64_t)s.st_size;
    while (r->len < 2) { // a pipe may give one byte at a time
        size_t k;
        if ((st = read_file(r, r->in + r->len, IN_BYTES - r->len, &k, err))) return st;
        if (!k) break;
        r->len += k;
    }
    if (r->len < 2 || r->in[0] != 0x1F || r->in[1] != 0x8B) return KD_OK;
    r->gzip = true;
    if (inflateInit2(&r->zlib, 15 + 16) != Z_OK)
        return kd_fail(err, KD_ENOMEM, "%s: out of memory for zlib", r->path);
    r->zlib_open = true;
    return KD_OK;
}

kd_status kd__raw_open(kd__rawfile **out, const char *path, kd_err *err)
{
    *out = NULL;
    kd__rawfile *r = calloc(1, sizeof(*r));
    if (!r) return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    r->path = path;
    r->fd = -1;
    kd_status st = begin(r, err);
    if (st)
        kd__raw_close(r);
    else
        *out = r;
    return st;
}
