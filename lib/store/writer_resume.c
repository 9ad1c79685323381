/* writer_resume.c - takes a .part, and goes on with one that a stopped writer left.
 *
 * Its first record holds the columns and the contract, so a resume needs nothing but the file: it
 * compares both with what the caller wants now, reads back every record's header (which carries chunk,
 * rows and split), checks codebooks and the last chunk to the last byte, and goes on behind it.
 *
 * The whole file, free list included, is walked by our own code before LMDB opens it: LMDB would
 * trust it, and a page that is both free and in use would be overwritten.
 *
 * What may be found after a kill, and what resume makes of it:
 *   FILE.part without a commit   nothing was kept: begins anew
 *   FILE.part                    continues
 *   FILE, not in a manifest      killed while sealing: renamed back to FILE.part, continues
 */
#include "store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- taking the file ---------------------------------------------------------------------- */

/* Brings a segment that was renamed but never named by a manifest back, too. */
kd_status kd__part_take(kd_store_writer *w, off_t *size, kd_err *err)
{
    struct stat at, named;
    if (kd_exists(w->file) && !kd_exists(w->part)) {
        if (!w->params.resume && !w->params.force)
            return kd_fail(
                err, KD_EEXISTS,
                "%s: left by a run that was stopped while sealing; --resume finishes it, --force starts anew",
                w->file);
        if (chmod(w->file, 0644) || rename(w->file, w->part))
            return kd_fail_errno(err, errno, "%s: renaming it to %s", w->file, w->part);
    }
    w->lock = open(w->part, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (w->lock < 0) return kd_fail_errno(err, errno, "%s: cannot be opened for writing", w->part);
    if (flock(w->lock, LOCK_EX | LOCK_NB)) {
        if (errno == EWOULDBLOCK)
            return kd_fail(err, KD_EEXISTS, "%s: another process is writing it; wait for it or stop it",
                           w->part);
        return kd_fail_errno(err, errno, "%s: cannot be locked", w->part);
    }
    // Between open and lock the other writer may have finished and renamed the file.
    if (fstat(w->lock, &at) || stat(w->part, &named) || at.st_ino != named.st_ino)
        return kd_fail(err, KD_EEXISTS, "%s: another process has just finished it", w->part);
    if (at.st_size && !w->params.resume && !w->params.force)
        return kd_fail(err, KD_EEXISTS,
                       "%s: left by an unfinished run; --resume goes on with it, --force starts anew",
                       w->part);
    // Less than the two meta pages: the first commit never happened.
    if (w->params.force || at.st_size < 8192) {
        if (ftruncate(w->lock, 0)) return kd_fail_errno(err, errno, "%s", w->part);
        at.st_size = 0;
    }
    *size = at.st_size;
    return KD_OK;
}

/* ---- resume ------------------------------------------------------------------------------- */

static char *value_text(const json_t *v)
{
    return v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS | JSON_REAL_PRECISION(15))
             : kd_strdup("absent");
}

bool kd__json_difference(kd__difference *d, const json_t *a, const json_t *b)
{
    if (json_is_object(a) && json_is_object(b)) {
        const char *key;
        json_t *v;
        const size_t len = d->where.len;
        for (int pass = 0; pass < 2; pass++) {
            json_object_foreach((json_t *)(uintptr_t)(pass ? b : a), key, v)
            {
                kd_buf_printf(&d->where, "%s%s", d->where.len ? "." : "", key);
                if (kd__json_difference(d, json_object_get(a, key), json_object_get(b, key))) return true;
                d->where.len = len;
                if (d->where.text) d->where.text[len] = '\0';
            }
        }
        return false;
    }
    if (json_is_array(a) && json_is_array(b) && json_array_size(a) == json_array_size(b)) {
        const size_t len = d->where.len;
        for (size_t i = 0; i < json_array_size(a); i++) {
            kd_buf_printf(&d->where, "%s%zu", d->where.len ? "." : "", i);
            if (kd__json_difference(d, json_array_get(a, i), json_array_get(b, i))) return true;
            d->where.len = len;
            if (d->where.text) d->where.text[len] = '\0';
        }
        return false;
    }
    if (a == b || (a && b && json_equal(a, b))) return false;
    char *was = value_text(a), *is = value_text(b);
    kd_buf_printf(&d->a, "%.200s", was ? was : "something");
    kd_buf_printf(&d->b, "%.200s", is ? is : "something else");
    free(was);
    free(is);
    return true;
}

void kd__difference_release(kd__difference *d)
{
    kd_buf_release(&d->where);
    kd_buf_release(&d->a);
    kd_buf_release(&d->b);
}

static kd_status compare_header(kd_store_writer *w, const char *was, size_t was_len, const char *is,
                                kd_err *err)
{
    json_t *a = NULL, *b = NULL;
    kd__difference d = {0};
    kd_status st = kd_json_parse(&a, was, was_len, NULL);
    if (!st) st = kd_json_parse(&b, is, strlen(is), NULL);
    if (st == KD_ENOMEM)
        kd_fail(err, st, "%s: out of memory for its header record", w->part);
    else if (st)
        st = kd_fail(err, KD_ECORRUPT, "%s: its header record is not JSON; start anew with --force", w->part);
    else if (kd__json_difference(&d, a, b))
        st = kd_fail(err, KD_EMISMATCH,
                     "%s: cannot go on with it: %s was %s, is %s now; use the options it was begun with, or "
                     "start anew with --force",
                     w->part, d.where.len ? d.where.text : "it", kd__buf_text(&d.a), kd__buf_text(&d.b));
    kd__difference_release(&d);
    json_decref(a);
    json_decref(b);
    return st;
}

static kd_status first_node(void *arg, const kd__node *n, kd_err *err)
{
    (void)err;
    *(kd__node *)arg = *n;
    return KD_ESTOPPED; // not a failure: ends the walk
}

/* Reads the header record, compares it, keeps its tag. */
static kd_status resume_header(kd_store_writer *w, const kd__pages *p, const char *text, kd_err *err)
{
    kd__node n = {0};
    kd__walk walk = {.pages = p, .db = &p->main_db, .node = first_node, .arg = &n};
    char *was = NULL;
    size_t len = 0;
    kd_status st = kd__walk_run(&walk, err);
    if (st != KD_ESTOPPED) return st ? st : kd_fail(err, KD_ECORRUPT, "no header record");
    if ((st = kd__header_read(p->fd, n.offset, n.size, &was, &len, &w->tag, err))) return st;
    st = compare_header(w, was, len, text, err);
    if (!st) st = kd__writer_push_heads(w, err);
    free(was);
    return st;
}

/* The codebooks' checksums are in the header record, which was compared; are the bytes there? */
static kd_status resume_books(const kd_store_writer *w, const kd__pages *p, const kd__index *x, kd_err *err)
{
    kd_status st = KD_OK;
    for (uint32_t i = 0; i < w->ncolumns && !st; i++) {
        uint8_t *book;
        if (!w->columns[i].book_bytes) continue;
        st = kd__book_read(p->fd, x, i, &w->columns[i], w->book_sums[i], &book, err);
        free(book);
    }
    return st;
}

/* Checks one committed record: the header's fields, and all of it when whole. */
static kd_status resume_record(kd_store_writer *w, const kd__pages *p, const kd__index *x, uint32_t chunk,
                               uint32_t column, bool whole, kd_err *err)
{
    uint64_t entry = kd__entry(w->ncolumns, chunk, column);
    size_t size = whole ? x->size[entry] : KD__RECORD_HEAD;
    kd__record r = {0};
    kd_status st;
    if (x->size[entry] < KD__RECORD_HEAD)
        return kd_fail(err, KD_ECORRUPT, "a record of %u bytes", x->size[entry]);
    uint8_t *bytes = malloc(size);
    if (!bytes) return kd_fail(err, KD_ENOMEM, "out of memory");
    if ((st = kd__pread(p->fd, bytes, size, x->offset[entry], err))) goto out;
    if ((st = kd__record_parse(&r, bytes, err))) goto out;
    if (column == 0 && (st = kd__writer_push_chunk(w, (kd_split)r.split, r.rows, err))) goto out;
    kd__expect want = {.column = &w->columns[column],
                       .index = column,
                       .chunk = chunk,
                       .info = w->chunks[chunk],
                       .tag = w->tag};
    if (whole)
        st = kd__record_check(&r, bytes, size, &want, err);
    else if (r.chunk != chunk || r.column != column || r.rows != want.info.rows ||
             r.first != want.info.first || r.tag != w->tag)
        st = kd_fail(err, KD_ECORRUPT, "chunk %u, column %u: its record says chunk %u, column %u", chunk,
                     column, r.chunk, r.column);
    if (!st) st = kd__writer_push_sum(w, r.checksum, err);
out:
    free(bytes);
    return st;
}

kd_status kd__part_resume(kd_store_writer *w, const char *text, bool *fresh, kd_err *err)
{
    kd__pages p;
    kd__index x = {0};
    kd_status st;
    *fresh = false;
    if ((st = kd__pages_open(&p, w->lock, err))) goto out;
    if (!p.main_db.entries) {
        *fresh = true;
        return KD_OK;
    }
    if ((st = resume_header(w, &p, text, err))) goto out;
    const uint64_t heads = kd__records(w->columns, w->ncolumns, 0);
    const uint64_t chunks = p.main_db.entries < heads ? 0 : (p.main_db.entries - heads) / w->ncolumns;
    if (chunks >= UINT32_MAX) st = kd_fail(err, KD_ELIMIT, "%llu chunks", (unsigned long long)chunks);
    if (st || (st = kd__index_build(&x, &p, w->columns, w->ncolumns, (uint32_t)chunks, true, err))) goto out;
    if ((st = resume_books(w, &p, &x, err))) goto out;
    for (uint32_t i = 0; i < chunks && !st; i++)
        for (uint32_t k = 0; k < w->ncolumns && !st; k++)
            st = resume_record(w, &p, &x, i, k, i + 1 == chunks, err);
out:
    kd__index_release(&x);
    if (st && st != KD_EMISMATCH) {
        kd_fail_in(err, st, "%s", w->part);
        if (err && strlen(err->msg) + 64 < sizeof(err->msg))
            strcat(err->msg, "; cannot be resumed, start anew with --force");
    }
    return st;
}
