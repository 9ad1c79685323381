/* pagewalk.c - reads the page structure of an LMDB 0.9 file with pread, without LMDB.
 *
 * LMDB trusts its file: a damaged page makes it abort, crash or serve other bytes than were written.
 * What kd needs of a sealed file is small, though: two meta pages, branch pages that point to pages,
 * leaf pages with 8-byte keys whose values lie in the leaf or in a run of overflow pages. This file
 * reads exactly that and checks every number before it is used:
 *
 *   meta     magic, version, page size, root and last page inside the file
 *   page     its number is its position, its flags fit its depth, lower and upper bound, node offsets
 *   key      8 bytes, strictly rising over the whole tree, not below the branch's separator
 *   value    inside its leaf, or a run of overflow pages inside the file
 *   totals   pages of each kind and entries as the meta page counts them
 *
 * A walk visits at most as many pages as the meta page counts and descends at most as deep as it says
 * (32 at most), so a hostile file cannot make it loop. With `seen`, each page may be used only once.
 *
 * The layout is that of lmdb 0.9 on 64-bit little-endian machines (mdb.c: MDB_page, MDB_node,
 * MDB_meta, MDB_db); docs/store-format.md repeats it.
 */
#include "store_private.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE_HEAD = 16, NODE_HEAD = 8, META_SIZE = 136, MAX_DEPTH = 32 };
enum { P_BRANCH = 1, P_LEAF = 2, P_OVERFLOW = 4, P_META = 8 };
enum { F_BIGDATA = 1 };
enum { MDB_INTEGER_KEYS = 8 };
#define META_MAGIC   0xBEEFC0DEu
#define META_VERSION 1u
#define NO_ROOT      UINT64_MAX

typedef unsigned long long ull;

static uint16_t get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

kd_status kd__pread(int fd, void *out, size_t size, uint64_t offset, kd_err *err)
{
    uint8_t *at = out;
    while (size) {
        ssize_t n = pread(fd, at, size, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return kd_fail_errno(err, errno, "reading %zu bytes at %llu", size, (ull)offset);
        if (n == 0) return kd_fail(err, KD_ECORRUPT, "the file ends before byte %llu", (ull)(offset + size));
        at += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return KD_OK;
}

/* ---- meta pages --------------------------------------------------------------------------- */

static void parse_db(kd__db *db, const uint8_t *p)
{
    db->flags = get16(p + 4);
    db->depth = get16(p + 6);
    db->branch = get64(p + 8);
    db->leaf = get64(p + 16);
    db->overflow = get64(p + 24);
    db->entries = get64(p + 32);
    db->root = get64(p + 40);
}

static kd_status check_db(const kd__db *db, uint64_t last, uint32_t psize, const char *what, kd_err *err)
{
    bool empty = db->root == NO_ROOT;
    uint64_t pages = last + 1;
    if (db->branch > pages || db->leaf > pages || db->overflow > pages || db->depth > MAX_DEPTH)
        return kd_fail(err, KD_ECORRUPT,
                       "meta page: %s counts more pages (%llu, %llu, %llu) or levels (%u) than possible",
                       what, (ull)db->branch, (ull)db->leaf, (ull)db->overflow, db->depth);
    if (db->entries > pages * psize / 18) // an entry takes 18 bytes at least: bounds tables made for them
        return kd_fail(err, KD_ECORRUPT, "meta page: %s counts %llu entries", what, (ull)db->entries);
    if (empty != (db->entries == 0) || empty != (db->depth == 0) ||
        (!empty && (db->root < 2 || db->root > last)))
        return kd_fail(err, KD_ECORRUPT,
                       "meta page: %s has root page %llu, depth %u, %llu entries, last page %llu", what,
                       (ull)db->root, db->depth, (ull)db->entries, (ull)last);
    return KD_OK;
}

/* Reads one of the two meta pages into p (all but fd and size). */
static kd_status read_meta(kd__pages *p, uint64_t number, kd_err *err)
{
    uint8_t b[PAGE_HEAD + META_SIZE];
    kd_status st = kd__pread(p->fd, b, sizeof(b), number * p->psize, err);
    if (st) return st;
    const uint8_t *m = b + PAGE_HEAD;
    if (get64(b) != number || get16(b + 10) != P_META || get32(m) != META_MAGIC)
        return kd_fail(err, KD_ECORRUPT, "meta page %llu: not an LMDB meta page", (ull)number);
    if (get32(m + 4) != META_VERSION)
        return kd_fail(err, KD_ECORRUPT, "meta page %llu: LMDB format %u, this program reads %u", (ull)number,
                       get32(m + 4), META_VERSION);
    uint32_t psize = get32(m + 24); // md_pad of the free list's record holds the page size
    if (psize < 512 || psize > 65536 || (psize & (psize - 1)) || (number && psize != p->psize))
        return kd_fail(err, KD_ECORRUPT, "meta page %llu: page size %u", (ull)number, psize);
    p->psize = psize;
    parse_db(&p->free_db, m + 24);
    parse_db(&p->main_db, m + 72);
    p->last = get64(m + 120);
    p->txn = get64(m + 128);
    return KD_OK;
}

kd_status kd__pages_open(kd__pages *p, int fd, kd_err *err)
{
    struct stat sb;
    kd__pages meta[2];
    kd_status st;
    memset(p, 0, sizeof(*p));
    if (fstat(fd, &sb)) return kd_fail_errno(err, errno, "reading the file's size");
    p->fd = fd;
    p->size = (uint64_t)sb.st_size;
    meta[0] = *p;
    if ((st = read_meta(&meta[0], 0, err))) return st;
    meta[1] = meta[0];
    if ((st = read_meta(&meta[1], 1, err))) return st;
    *p = meta[meta[1].txn > meta[0].txn];
    if (p->last < 1 || p->last >= p->size / p->psize)
        return kd_fail(err, KD_ECORRUPT,
                       "%llu bytes, but pages up to %llu of %u bytes are in use: the file was cut",
                       (ull)p->size, (ull)p->last, p->psize);
    if (p->main_db.flags || !(p->free_db.flags & MDB_INTEGER_KEYS))
        return kd_fail(err, KD_ECORRUPT, "meta page: flags %#x and %#x, expected plain keys",
                       p->main_db.flags, p->free_db.flags);
    if ((st = check_db(&p->free_db, p->last, p->psize, "free list", err)) ||
        (st = check_db(&p->main_db, p->last, p->psize, "tree", err)))
        return st;
    return KD_OK;
}

/* ---- the walk ----------------------------------------------------------------------------- */

/* Reports damage. KD_OK: go on with the next page. */
static kd_status damaged(kd__walk *w, kd_err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static kd_status damaged(kd__walk *w, kd_err *err, const char *fmt, ...)
{
    char what[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    if (w->damage && w->damage(w->arg, what)) return KD_OK;
    return kd_fail(err, KD_ECORRUPT, "%s", what);
}

/* Marks pages as used; false if one was used before. */
static bool take(kd__walk *w, uint64_t page, uint64_t n)
{
    bool fresh = true;
    for (uint64_t i = page; w->seen && i < page + n; i++) {
        uint64_t bit = (uint64_t)1 << (i & 63);
        fresh = fresh && !(w->seen[i >> 6] & bit);
        w->seen[i >> 6] |= bit;
    }
    return fresh;
}

static int key_cmp(const kd__walk *w, const uint8_t *a, const uint8_t *b)
{
    if (w->db == &w->pages->free_db) {
        uint64_t x = get64(a), y = get64(b);
        return (x > y) - (x < y);
    }
    return memcmp(a, b, 8);
}

/* The checks that branches and leaves share; what: NULL or the fault. */
static const char *page_fault(const kd__walk *w, const uint8_t *b, uint64_t page, int flags, size_t *keys)
{
    size_t lower = get16(b + 12), upper = get16(b + 14), used = 0, psize = w->pages->psize;
    if (upper == 0 && psize == 65536) upper = psize;
    if (get64(b) != page) return "its number is not its position";
    if (get16(b + 10) != flags) return "it is of the wrong kind";
    if (lower < PAGE_HEAD + 2 || lower > upper || upper > psize || (lower & 1))
        return "its bounds are impossible";
    *keys = (lower - PAGE_HEAD) / 2;
    for (size_t i = 0; i < *keys; i++) {
        size_t at = get16(b + PAGE_HEAD + 2 * i);
        if (at < upper || at + NODE_HEAD > psize) return "an entry lies outside of it";
        const uint8_t *node = b + at;
        size_t key = get16(node + 6), data = 0;
        bool first_of_branch = flags == P_BRANCH && i == 0;
        if (key != 8 && !(first_of_branch && key == 0)) return "a key is not 8 bytes long";
        if (flags == P_LEAF) {
            if (get16(node + 4) & ~F_BIGDATA) return "an entry has flags that kd does not use";
            data = get16(node + 4) & F_BIGDATA ? 8 : get32(node);
        }
        if (data > psize || at + NODE_HEAD + key + data > psize) return "an entry reaches beyond its end";
        used += (NODE_HEAD + key + data + 1) & ~(size_t)1;
    }
    return used == psize - upper ? NULL : "its entries overlap";
}

/* A value in overflow pages: bounds always, the run's own header when the bitmap is kept. */
static kd_status overflow_value(kd__walk *w, uint64_t first, kd__node *n, bool *ok, kd_err *err)
{
    const kd__pages *p = w->pages;
    uint64_t count = (PAGE_HEAD - 1 + n->size) / p->psize + 1;
    *ok = false;
    if (first < 2 || first > p->last || count > p->last - first + 1)
        return damaged(w, err, "a value of %llu bytes at page %llu lies outside of the file", (ull)n->size,
                       (ull)first);
    w->overflow += count;
    n->offset = first * p->psize + PAGE_HEAD;
    *ok = true;
    if (!w->seen) return KD_OK;
    uint8_t b[PAGE_HEAD];
    kd_status st = kd__pread(p->fd, b, sizeof(b), first * p->psize, err);
    if (st) return st;
    if (!take(w, first, count)) return damaged(w, err, "page %llu is used twice", (ull)first);
    if (get64(b) != first || get16(b + 10) != P_OVERFLOW || get32(b + 12) != count)
        return damaged(w, err, "page %llu: not the start of %llu overflow pages", (ull)first, (ull)count);
    return KD_OK;
}

static kd_status leaf_entry(kd__walk *w, const uint8_t *b, uint64_t page, size_t at, kd_err *err)
{
    const uint8_t *node = b + at;
    kd__node n = {.number = w->entries, .key = node + NODE_HEAD, .size = get32(node)};
    bool ok = true;
    kd_status st;
    if ((w->has_last && key_cmp(w, w->last_key, n.key) >= 0) ||
        (w->has_floor && key_cmp(w, w->floor_key, n.key) > 0))
        return damaged(w, err, "page %llu: keys do not rise", (ull)page);
    memcpy(w->last_key, n.key, 8);
    w->has_last = true;
    w->entries++;
    if (get16(node + 4) & F_BIGDATA) {
        if ((st = overflow_value(w, get64(node + NODE_HEAD + 8), &n, &ok, err))) return st;
    } else {
        n.offset = page * w->pages->psize + at + NODE_HEAD + 8;
    }
    return ok ? w->node(w->arg, &n, err) : KD_OK;
}

static kd_status walk_page(kd__walk *w, uint64_t page, uint32_t level, kd_err *err)
{
    const kd__pages *p = w->pages;
    uint8_t *b = w->buffer + (size_t)level * p->psize;
    bool leaf = level + 1 == w->db->depth;
    size_t keys = 0;
    kd_status st;
    if (page < 2 || page > p->last) return damaged(w, err, "page %llu is outside of the file", (ull)page);
    if (!take(w, page, 1)) return damaged(w, err, "page %llu is used twice", (ull)page);
    uint64_t *count = leaf ? &w->leaf : &w->branch;
    if (++*count > (leaf ? w->db->leaf : w->db->branch))
        return damaged(w, err, "page %llu: more pages than the meta page counts", (ull)page);
    if ((st = kd__pread(p->fd, b, p->psize, page * p->psize, err))) return st;
    const char *fault = page_fault(w, b, page, leaf ? P_LEAF : P_BRANCH, &keys);
    if (fault) return damaged(w, err, "page %llu: %s", (ull)page, fault);
    for (size_t i = 0; i < keys; i++) {
        size_t at = get16(b + PAGE_HEAD + 2 * i);
        if (leaf) {
            st = leaf_entry(w, b, page, at, err);
        } else {
            if (i) {
                // The separator bounds the subtree: all keys before are below it, all behind at or above.
                const uint8_t *key = b + at + NODE_HEAD;
                if (w->has_last && key_cmp(w, w->last_key, key) >= 0) {
                    if ((st = damaged(w, err, "page %llu: separators do not fit the keys", (ull)page)))
                        return st;
                }
                memcpy(w->floor_key, key, 8);
                w->has_floor = true;
            }
            uint64_t child = get32(b + at) | (uint64_t)get16(b + at + 4) << 32;
            st = walk_page(w, child, level + 1, err);
        }
        if (st) return st;
    }
    return KD_OK;
}

kd_status kd__walk_run(kd__walk *w, kd_err *err)
{
    const kd__db *db = w->db;
    kd_status st = KD_OK;
    w->branch = w->leaf = w->overflow = w->entries = 0;
    w->has_last = w->has_floor = false;
    if (!db->entries) return KD_OK;
    if (!(w->buffer = malloc((size_t)db->depth * w->pages->psize)))
        return kd_fail(err, KD_ENOMEM, "out of memory for %u pages", db->depth);
    st = walk_page(w, db->root, 0, err);
    free(w->buffer);
    w->buffer = NULL;
    if (st) return st;
    if (w->branch != db->branch || w->leaf != db->leaf || w->overflow != db->overflow ||
        w->entries != db->entries)
        return damaged(
            w, err,
            "found %llu branch, %llu leaf, %llu overflow pages and %llu entries, the meta page counts "
            "%llu, %llu, %llu and %llu",
            (ull)w->branch, (ull)w->leaf, (ull)w->overflow, (ull)w->entries, (ull)db->branch, (ull)db->leaf,
            (ull)db->overflow, (ull)db->entries);
    return KD_OK;
}

/* ---- the whole file ----------------------------------------------------------------------- */

/* A value of the free list: a count, then that many page numbers. */
static kd_status free_pages(void *arg, const kd__node *n, kd_err *err)
{
    kd__walk *w = arg; // of the main tree: the same bitmap and reports
    uint64_t count = n->size / 8, *list;
    kd_status st = KD_OK;
    if (n->size < 8 || n->size % 8 || n->size > w->pages->size)
        return damaged(w, err, "free list: an entry of %llu bytes", (ull)n->size);
    if (!(list = malloc((size_t)n->size))) return kd_fail(err, KD_ENOMEM, "out of memory");
    if ((st = kd__pread(w->pages->fd, list, (size_t)n->size, n->offset, err))) goto out;
    if (list[0] > count - 1) {
        st = damaged(w, err, "free list: %llu pages in an entry of %llu bytes", (ull)list[0], (ull)n->size);
        goto out;
    }
    for (uint64_t i = 1; i <= list[0] && !st; i++) {
        if (list[i] < 2 || list[i] > w->pages->last)
            st = damaged(w, err, "free list: page %llu is outside of the file", (ull)list[i]);
        else if (!take(w, list[i], 1))
            st = damaged(w, err, "free list: page %llu is in use", (ull)list[i]);
    }
out:
    free(list);
    return st;
}

/* Walks the free list's tree with the state of the main walk. */
static bool forward_damage(void *arg, const char *what)
{
    const kd__walk *w = arg;
    return w->damage && w->damage(w->arg, what);
}

kd_status kd__walk_file(const kd__pages *p, kd_status (*node)(void *, const kd__node *, kd_err *),
                        bool (*damage)(void *, const char *), void *arg, kd_err *err)
{
    kd__walk tree = {.pages = p, .db = &p->main_db, .node = node, .damage = damage, .arg = arg};
    kd__walk list = {
        .pages = p, .db = &p->free_db, .node = free_pages, .damage = forward_damage, .arg = &tree};
    kd_status st;
    uint64_t lost = 0, first = 0;
    if (!(tree.seen = calloc((size_t)(p->last / 64 + 1), 8)))
        return kd_fail(err, KD_ENOMEM, "out of memory for a bitmap of %llu pages", (ull)p->last);
    list.seen = tree.seen;
    tree.seen[0] = 3; // the meta pages
    if ((st = kd__walk_run(&tree, err)) || (st = kd__walk_run(&list, err))) goto out;
    for (uint64_t i = p->last + 1; i-- > 0;)
        if (!(tree.seen[i >> 6] >> (i & 63) & 1)) lost++, first = i;
    if (lost)
        st = damaged(&tree, err, "%llu pages belong to nothing, the first is page %llu", (ull)lost,
                     (ull)first);
out:
    free(tree.seen);
    return st;
}
