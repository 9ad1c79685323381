/* matching.c - which row of the files is which row of the store.
 *
 * Files come in any order, so their rows are found by key: 16 bytes (a row's id, or a number) and a place, 24
 * bytes a row, in one array that is sorted in place. The store's keys are read chunk by chunk and
 * looked up by bisection. A place that was used is marked in its top bit, so every row of the files is used
 * once; rows with one key are used in the files' order, and the first unused one is found by bisection too:
 * a file of a million equal ids costs no more than any other.
 *
 * The whole match is made before anything is written, marks are taken off again, and then chunks are
 * matched as they are written. Reading the store's ids twice costs little beside reading the values once.
 */
#include "exchange_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define USED (1ull << 63)

kd_status kd__read_at(int fd, void *to, size_t n, uint64_t at, const char *path, kd_err *err)
{
    char *p = to;
    while (n) {
        const ssize_t got = pread(fd, p, n < 1u << 30 ? n : 1u << 30, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return kd_fail_errno(err, errno, "%s: cannot read at byte %llu", path, (unsigned long long)at);
        if (!got)
            return kd_fail(err, KD_ECORRUPT, "%s: ends at byte %llu, %zu bytes are missing", path,
                           (unsigned long long)at, n);
        p += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return KD_OK;
}

kd_status kd__room(void *pointer, size_t *cap, size_t bytes, kd_err *err)
{
    void **p = pointer, *more;
    if (bytes <= *cap && *p) return KD_OK;
    const size_t want = kd_max_size(bytes, *cap + *cap / 2) + 1;
    if (want < bytes || !(more = realloc(*p, want)))
        return kd_fail(err, KD_ENOMEM, "no memory for %zu bytes", bytes);
    *p = more;
    *cap = want;
    return KD_OK;
}

void kd__key_of_number(uint64_t n, uint8_t key[16])
{
    const uint64_t big = __builtin_bswap64(n);
    memset(key, 0, 8);
    memcpy(key + 8, &big, 8);
}

/* ---- the table ---------------------------------------------------------------------------------- */

kd_status kd__match_open(kd__match *m, kd_store *s, kd_row_key key, kd_err *err)
{
    uint32_t rows = 0;
    m->s = s;
    m->key = key;
    m->column = -1;
    if (key == KD_KEY_ID) m->column = kd_store_find_role(s, KD_ROLE_ID, NULL);
    if (key == KD_KEY_SOURCE) m->column = kd_store_find_role(s, KD_ROLE_SOURCE, NULL);
    if (key != KD_KEY_ROW && m->column < 0)
        return kd_fail(err, KD_EUNSUPPORTED, "%s: has no column of role %s to match rows by",
                       kd_store_path(s), key == KD_KEY_ID ? "id" : "source");
    const kd_column *c = m->column < 0 ? NULL : kd_store_column(s, (size_t)m->column);
    if (key == KD_KEY_SOURCE && (c->dtype != KD_U64 || c->ndims))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: column %s is not one u64 a row", kd_store_path(s), c->name);
    for (uint32_t i = 0; i < kd_store_chunks(s); i++)
        rows = rows > kd_store_chunk(s, i)->rows ? rows : kd_store_chunk(s, i)->rows;
    if (!(m->block = malloc((size_t)rows * 16 + 1))) return kd_fail(err, KD_ENOMEM, "out of memory");
    return kd_cursor_open(&m->cursor, s, err);
}

kd_status kd__match_add(kd__match *m, const uint8_t key[16], uint64_t at, kd_err *err)
{
    if (m->n >= KD_IMPORT_MAX_IDS)
        return kd_fail(err, KD_ELIMIT, "%s: more than %llu rows", m->what, KD_IMPORT_MAX_IDS);
    kd_status st = kd__room(&m->e, &m->cap, (size_t)(m->n + 1) * sizeof(kd__entry), err);
    if (st) return st;
    memcpy(m->e[m->n].key, key, 16);
    m->e[m->n++].at = at;
    return KD_OK;
}

static int compare(const kd__entry *a, const kd__entry *b)
{
    const int c = memcmp(a->key, b->key, 16);
    return c ? c : (a->at > b->at) - (a->at < b->at);
}

static void sift(kd__entry *e, uint64_t at, uint64_t n)
{
    const kd__entry moving = e[at];
    for (uint64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && compare(&e[child], &e[child + 1]) < 0) child++;
        if (compare(&moving, &e[child]) >= 0) break;
        e[at] = e[child];
    }
    e[at] = moving;
}

/* Heapsort: in place whatever the input, where qsort may take as much memory again. */
static void sort(kd__entry *e, uint64_t n)
{
    bool sorted = true;
    for (uint64_t i = 1; i < n && sorted; i++) sorted = compare(&e[i - 1], &e[i]) <= 0;
    if (sorted) return;
    for (uint64_t i = n / 2; i-- > 0;) sift(e, i, n);
    for (uint64_t i = n; i-- > 1;) {
        const kd__entry last = e[i];
        e[i] = e[0];
        e[0] = last;
        sift(e, 0, i);
    }
}

/* The first entry in [lo, hi) whose key is not below (above: not at or below) this one. */
static uint64_t bound(const kd__match *m, const uint8_t key[16], uint64_t lo, bool above)
{
    uint64_t hi = m->n;
    while (lo < hi) {
        const uint64_t mid = lo + (hi - lo) / 2;
        const int c = memcmp(m->e[mid].key, key, 16);
        if (c < 0 || (above && c == 0))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Takes the first unused row with this key. */
static bool take(kd__match *m, const uint8_t key[16], uint64_t *at)
{
    uint64_t lo = bound(m, key, 0, false), hi = bound(m, key, lo, true);
    const uint64_t end = hi;
    while (lo < hi) {
        const uint64_t mid = lo + (hi - lo) / 2;
        if (m->e[mid].at & USED)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == end) return false;
    *at = m->e[lo].at;
    m->e[lo].at |= USED;
    return true;
}

/* ---- the store's keys --------------------------------------------------------------------------- */

static kd_status read_keys(kd__match *m, uint32_t chunk, kd_err *err)
{
    if (m->column < 0) return KD_OK;
    const size_t unit = m->key == KD_KEY_ID ? 16 : 8;
    return kd_cursor_read(m->cursor, m->column, chunk, m->block, kd_store_chunk(m->s, chunk)->rows * unit,
                          err);
}

/* The number that is row r's key. */
static uint64_t number(const kd__match *m, const kd_chunk_info *ci, uint32_t r)
{
    return m->key == KD_KEY_ROW ? ci->first + r : ((const uint64_t *)m->block)[r];
}

static void key_of(const kd__match *m, const kd_chunk_info *ci, uint32_t r, uint8_t key[16])
{
    if (m->key == KD_KEY_ID)
        memcpy(key, (const uint8_t *)m->block + (size_t)r * 16, 16);
    else
        kd__key_of_number(number(m, ci, r), key);
}

static const char *key_text(const kd__match *m, const uint8_t key[16], char buf[64])
{
    kd_id id;
    uint64_t n;
    memcpy(id.b, key, 16);
    memcpy(&n, key + 8, 8);
    if (m->key == KD_KEY_ID) {
        memcpy(buf, "id ", 3);
        kd_id_hex(id, buf + 3);
    } else {
        snprintf(buf, 64, "%s %llu", m->key == KD_KEY_ROW ? "row" : "source",
                 (unsigned long long)__builtin_bswap64(n));
    }
    return buf;
}

/* ---- the check ---------------------------------------------------------------------------------- */

typedef struct tally {
    uint64_t missing, first_missing;
    uint8_t key[16]; /* of the first missing one */
} tally;

/* Says what is left over after all rows of the store were looked up. */
static kd_status judge(const kd__match *m, const tally *t, kd_err *err)
{
    uint64_t left = 0, first = 0;
    char missing[64], key[64], here[256], other[256];
    for (uint64_t i = 0; i < m->n; i++)
        if (!(m->e[i].at & USED) && !left++) first = i;
    const char *store = kd_store_path(m->s);
    if (left && first && !memcmp(m->e[first - 1].key, m->e[first].key, 16))
        return kd_fail(err, KD_EMISMATCH, "%s and %s have the same %s, more often than %s has it",
                       m->place(m->arg, m->e[first - 1].at & ~USED, other),
                       m->place(m->arg, m->e[first].at, here), key_text(m, m->e[first].key, key), store);
    if (t->missing) key_text(m, t->key, missing);
    if (left) m->place(m->arg, m->e[first].at, here), key_text(m, m->e[first].key, key);
    if (left && t->missing)
        return kd_fail(
            err, KD_EMISMATCH,
            "%s: %llu of %llu rows of %s are missing (the first: row %llu, %s), and %llu rows are not "
            "of it (%s, %s)",
            m->what, (unsigned long long)t->missing, (unsigned long long)kd_store_rows(m->s), store,
            (unsigned long long)t->first_missing, missing, (unsigned long long)left, here, key);
    if (left)
        return kd_fail(err, KD_EMISMATCH, "%s: %llu rows are not of %s: the first is %s, %s", m->what,
                       (unsigned long long)left, store, here, key);
    if (t->missing)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: %llu of %llu rows of %s are missing: the first is row %llu, %s", m->what,
                       (unsigned long long)t->missing, (unsigned long long)kd_store_rows(m->s), store,
                       (unsigned long long)t->first_missing, missing);
    return KD_OK;
}

/* The declared order: as many rows, and every number once. */
static kd_status check_declared(kd__match *m, void (*visit)(void *, uint64_t, uint64_t), void *arg,
                                kd_err *err)
{
    const uint64_t rows = kd_store_rows(m->s);
    kd_status st = KD_OK;
    if (m->rows != rows)
        return kd_fail(err, KD_EMISMATCH, "%s: %llu rows, %s has %llu", m->what, (unsigned long long)m->rows,
                       kd_store_path(m->s), (unsigned long long)rows);
    uint8_t *seen = calloc((size_t)(rows / 8 + 1), 1);
    if (!seen) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < kd_store_chunks(m->s) && !st; i++) {
        const kd_chunk_info *ci = kd_store_chunk(m->s, i);
        st = read_keys(m, i, err);
        for (uint32_t r = 0; r < ci->rows && !st; r++) {
            const uint64_t n = number(m, ci, r);
            if (n >= rows || seen[n / 8] & 1u << n % 8)
                st = kd_fail(
                    err, KD_EMISMATCH,
                    "%s: the column source is no order of its %llu rows: %llu %s; match by ids instead",
                    kd_store_path(m->s), (unsigned long long)rows, (unsigned long long)n,
                    n >= rows ? "is too large" : "stands there twice");
            else
                seen[n / 8] |= (uint8_t)(1u << n % 8);
            if (!st) visit(arg, ci->first + r, n);
        }
    }
    free(seen);
    return st;
}

kd_status kd__match_check(kd__match *m, void (*visit)(void *, uint64_t, uint64_t), void *arg, kd_err *err)
{
    tally t = {0};
    kd_status st = KD_OK;
    if (m->declared) return check_declared(m, visit, arg, err);
    sort(m->e, m->n);
    for (uint32_t i = 0; i < kd_store_chunks(m->s); i++) {
        const kd_chunk_info *ci = kd_store_chunk(m->s, i);
        if ((st = read_keys(m, i, err))) return st;
        for (uint32_t r = 0; r < ci->rows; r++) {
            uint8_t key[16];
            uint64_t at;
            key_of(m, ci, r, key);
            if (take(m, key, &at))
                visit(arg, ci->first + r, at);
            else if (!t.missing++)
                t.first_missing = ci->first + r, memcpy(t.key, key, 16);
        }
    }
    st = judge(m, &t, err);
    kd__match_rewind(m);
    return st;
}

void kd__match_rewind(kd__match *m)
{
    for (uint64_t i = 0; i < m->n; i++) m->e[i].at &= ~USED;
}

kd_status kd__match_chunk(kd__match *m, uint32_t chunk, uint64_t *at, kd_err *err)
{
    const kd_chunk_info *ci = kd_store_chunk(m->s, chunk);
    kd_status st = read_keys(m, chunk, err);
    for (uint32_t r = 0; r < ci->rows && !st; r++) {
        uint8_t key[16];
        char text[64];
        if (m->declared) {
            at[r] = number(m, ci, r);
            continue;
        }
        key_of(m, ci, r, key);
        if (!take(m, key, &at[r]))
            st = kd_fail(err, KD_EMISMATCH, "%s: row %llu, %s: gone since it was checked", m->what,
                         (unsigned long long)(ci->first + r), key_text(m, key, text));
    }
    return st;
}

void kd__match_release(kd__match *m)
{
    kd_cursor_close(m->cursor);
    free(m->block);
    free(m->e);
    *m = (kd__match){0};
}
