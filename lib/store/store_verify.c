/* store_verify.c - reads a whole store and names what is damaged.
 *
 * Structure first: every page of every file by pread (pagewalk.c), going on after a damaged page, so
 * that one bad leaf costs the records it holds and no others. Then content: each record that was
 * found is read by pread too (a failing disk is then an error code, not a signal), its checksum
 * compared, and decoded, which also checks zstd's own checksum of the decoded bytes; blocks of encoded
 * columns are then walked by their codec, which also opens its codebook. Last the root: a file whose
 * records are whole but are not the ones that were sealed is found by it.
 *
 * Records of one segment are shared out among threads by a counter; findings go into one small list
 * ordered by place, so the report does not depend on the number of threads.
 *
 * Structure alone takes a small part of the time: the values, which are nearly all of a file, are not read.
 */
#include "store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST = sizeof(((kd_verify_report *)0)->first) / sizeof(kd_damage) };

typedef struct check {
    const kd_store *store;
    kd__segment *segment; /* the one being checked */
    uint32_t number;      /* of it */
    bool content;         /* read the records, too */
    kd__index index;
    kd_codec **codec; /* per column of the segment; NULL: dense, or its codebook is damaged */
    uint64_t *sums;   /* by entry */
    atomic_uint_fast64_t next, done, records, bytes, raw;
    uint64_t total, before; /* records of the store; of the segments already done */
    kd_status fatal;        /* out of memory in a thread */
    pthread_mutex_t lock;   /* report, order, fatal */
    kd_verify_report *report;
    uint64_t order[FIRST];
    void (*progress)(void *, uint64_t, uint64_t);
    void *arg;
} check;

/* Notes damage; order: rising with the place in the store. n: records lost by it. */
static void note(check *k, uint64_t order, uint64_t n, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void note(check *k, uint64_t order, uint64_t n, const char *fmt, ...)
{
    kd_damage d;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(d.what, sizeof(d.what), fmt, ap);
    va_end(ap);
    order |= (uint64_t)k->number << 48;
    pthread_mutex_lock(&k->lock);
    kd_verify_report *r = k->report;
    uint64_t kept = 0;
    while (kept < FIRST && r->first[kept].what[0]) kept++;
    uint64_t at = kept;
    while (at > 0 && k->order[at - 1] > order) at--;
    if (at < FIRST) {
        uint64_t tail = (kept < FIRST ? kept : FIRST - 1) - at;
        memmove(&r->first[at + 1], &r->first[at], tail * sizeof(r->first[0]));
        memmove(&k->order[at + 1], &k->order[at], tail * sizeof(k->order[0]));
        r->first[at] = d;
        k->order[at] = order;
    }
    r->damaged += n;
    pthread_mutex_unlock(&k->lock);
}

/* "column image, chunk 3, rows 3072-4095" */
static void place(const check *k, uint64_t entry, char *out, size_t size)
{
    const kd__segment *g = k->segment;
    if (!entry) {
        snprintf(out, size, "segment %s, header record", g->name);
        return;
    }
    const uint32_t column = (uint32_t)((entry - 1) % g->columns);
    if (entry <= g->columns) {
        snprintf(out, size, "column %s, codebook", k->store->columns[g->first_column + column].name);
        return;
    }
    const uint32_t chunk = (uint32_t)((entry - 1) / g->columns) - 1;
    const kd_chunk_info *i = &k->store->chunks[chunk];
    snprintf(out, size, "column %s, chunk %u, rows %llu-%llu",
             k->store->columns[g->first_column + column].name, chunk, (unsigned long long)i->first,
             (unsigned long long)(i->first + i->rows - 1));
}

/* ---- structure ---------------------------------------------------------------------------- */

static bool structure_damage(void *arg, const char *what)
{
    check *k = arg;
    note(k, 0, 1, "segment %s (%s): %s", k->segment->name, k->segment->file, what);
    return true; // go on
}

static kd_status structure_node(void *arg, const kd__node *n, kd_err *err)
{
    check *k = arg;
    kd_err e = {0};
    (void)err;
    if (kd__index_put(&k->index, n, &e)) structure_damage(k, e.msg);
    return KD_OK;
}

/* Fills the index as far as the file allows. KD_OK even when damage was found. */
static kd_status check_structure(check *k, kd_err *err)
{
    kd__segment *g = k->segment;
    kd__pages p;
    kd_err e = {0};
    kd_status st = kd__index_alloc(&k->index, g->columns, k->store->nchunks, err);
    if (st) return st;
    st = kd__pages_open(&p, g->fd, &e);
    if (!st) st = kd__walk_file(&p, structure_node, structure_damage, k, &e);
    if (st == KD_ENOMEM) return kd_fail(err, st, "%s", e.msg);
    if (st)
        structure_damage(k, e.msg);
    else if (p.size != g->bytes)
        note(k, 0, 1, "segment %s (%s): %llu bytes, manifest.json says %llu", g->name, g->file,
             (unsigned long long)p.size, (unsigned long long)g->bytes);
    return KD_OK;
}

/* ---- content ------------------------------------------------------------------------------ */

typedef struct buffers {
    kd__decoder decoder;
    uint8_t *record, *block;
    size_t record_size, block_size;
} buffers;

static kd_status grow(uint8_t **p, size_t *have, size_t want, kd_err *err)
{
    if (want <= *have) return KD_OK;
    free(*p);
    *have = 0;
    if (!(*p = malloc(want))) return kd_fail(err, KD_ENOMEM, "out of memory for %zu bytes", want);
    *have = want;
    return KD_OK;
}

static kd_status check_header(check *k, kd_err *err)
{
    const kd__segment *g = k->segment;
    char *text = NULL;
    size_t len = 0;
    kd_status st =
        kd__header_read(g->fd, k->index.offset[0], k->index.size[0], &text, &len, &k->sums[0], err);
    if (!st) st = kd__segment_check_header(g, k->store, text, len, k->sums[0], err);
    free(text);
    return st;
}

/* What a codec wrote, judged by the codec. */
static kd_status check_encoded(const check *k, const kd__record *r, const kd__expect *want,
                               const uint8_t *block, kd_err *err)
{
    const size_t head = kd__column_ragged(want->column) ? 4 * (size_t)r->rows : 0;
    size_t positions = 0;
    if (!kd__column_positions(want->column, r->rows, block, &positions))
        return kd_fail(err, KD_ECORRUPT, "more positions than a block may hold");
    return kd_codec_check(k->codec[want->index], block + head, (size_t)r->raw - head, positions, err);
}

static kd_status check_record(check *k, uint64_t entry, buffers *b, kd_err *err)
{
    const kd__segment *g = k->segment;
    const size_t size = k->index.size[entry];
    kd_status st;
    if ((st = grow(&b->record, &b->record_size, size, err))) return st;
    if ((st = kd__pread(g->fd, b->record, size, k->index.offset[entry], err))) return st;
    kd__record r = {0};
    kd__expect want = {.index = (uint32_t)((entry - 1) % g->columns),
                       .chunk = (uint32_t)((entry - 1) / g->columns) - 1,
                       .tag = g->tag};
    want.column = &k->store->columns[g->first_column + want.index];
    want.info = k->store->chunks[want.chunk];
    if ((st = kd__record_check(&r, b->record, size, &want, err))) return st;
    if ((st = grow(&b->block, &b->block_size, (size_t)r.raw, err))) return st;
    if ((st = kd__record_decode(&r, b->record + KD__RECORD_HEAD, want.column, b->block, &b->decoder, err)))
        return st;
    if (k->codec[want.index] && (st = check_encoded(k, &r, &want, b->block, err))) return st;
    k->sums[entry] = r.checksum;
    atomic_fetch_add(&k->raw, r.raw);
    return KD_OK;
}

static kd_status check_entry(check *k, uint64_t entry, buffers *b, kd_err *err)
{
    if (!k->index.offset[entry]) return kd_fail(err, KD_ECORRUPT, "the record is missing");
    return entry ? check_record(k, entry, b, err) : check_header(k, err);
}

/* Notes what is wrong with an entry. */
static void note_entry(check *k, uint64_t entry, const char *what)
{
    char where[160];
    place(k, entry, where, sizeof(where));
    note(k, 1 + entry, 1, "%s: %s", where, what);
}

/* Codebooks are checked before the records that need them, by opening their codecs. */
static kd_status open_codec(check *k, uint32_t i, kd_err *err)
{
    const uint32_t column = k->segment->first_column + i;
    kd_column c = k->store->columns[column];
    uint8_t *book = NULL;
    kd_err e = {0};
    kd_status st = KD_OK;
    if (c.book_bytes) {
        st = k->index.offset[1 + i]
                 ? kd__book_read(k->segment->fd, &k->index, i, &c, k->store->book_sums[column], &book, &e)
                 : kd_fail(&e, KD_ECORRUPT, "the record is missing");
        k->sums[1 + i] = k->store->book_sums[column];
        k->records++;
        k->bytes += k->index.size[1 + i];
        k->raw += st ? 0 : c.book_bytes;
    }
    c.book = book;
    if (!st && !kd__column_dense(&c)) st = kd_column_codec(&k->codec[i], &c, &e);
    free(book);
    if (st == KD_ENOMEM) return kd_fail(err, st, "%s", e.msg);
    if (st) note_entry(k, 1 + i, e.msg);
    return KD_OK;
}

static void check_entries(check *k, bool main_thread)
{
    buffers b = {0};
    kd_err e = {0};
    kd_status st = kd__decoder_init(&b.decoder, true, &e);
    for (uint64_t i; st != KD_ENOMEM && (i = atomic_fetch_add(&k->next, 1)) < k->index.entries;) {
        if (i && i <= k->segment->columns) continue; // codebooks, see open_codec
        st = check_entry(k, i, &b, &e);
        if (st && st != KD_ENOMEM) note_entry(k, i, e.msg);
        atomic_fetch_add(&k->records, 1);
        atomic_fetch_add(&k->bytes, k->index.size[i]);
        uint64_t done = atomic_fetch_add(&k->done, 1) + 1;
        if (main_thread && k->progress) k->progress(k->arg, k->before + done, k->total);
    }
    if (st == KD_ENOMEM) {
        pthread_mutex_lock(&k->lock);
        k->fatal = st;
        pthread_mutex_unlock(&k->lock);
    }
    kd__decoder_release(&b.decoder);
    free(b.record);
    free(b.block);
}

static void *check_thread(void *arg)
{
    check_entries(arg, false);
    return NULL;
}

static kd_status check_content(check *k, int threads, kd_err *err)
{
    pthread_t t[KD__THREADS_MAX];
    int n = 1;
    atomic_store(&k->next, 0);
    atomic_store(&k->done, 0);
    while (n < threads && n < KD__THREADS_MAX && !pthread_create(&t[n], NULL, check_thread, k)) n++;
    check_entries(k, true);
    while (--n > 0) pthread_join(t[n], NULL);
    return k->fatal ? kd_fail(err, k->fatal, "%s: out of memory", k->store->path) : KD_OK;
}

/* The root: over the checksums of all records, in key order. */
static void check_root(check *k)
{
    const kd__segment *g = k->segment;
    const kd_column *columns = &k->store->columns[g->first_column];
    uint64_t n = 0;
    for (uint64_t i = 0; i < k->index.entries; i++)
        if (kd__entry_used(columns, g->columns, i)) k->sums[n++] = k->sums[i];
    kd_id root = kd_hash128(k->sums, n * sizeof(*k->sums));
    if (memcmp(root.b, g->root.b, sizeof(root.b)))
        note(k, UINT32_MAX, 1,
             "segment %s (%s): its records are whole, but not the ones that were sealed (root hash)", g->name,
             g->file);
}

/* Every record has a place, and the header record says what the manifest says. */
static kd_status check_places(check *k, kd_err *err)
{
    const kd__segment *g = k->segment;
    const kd_column *columns = &k->store->columns[g->first_column];
    kd_err e = {0};
    for (uint64_t i = 1; i < k->index.entries; i++) {
        if (!kd__entry_used(columns, g->columns, i)) continue;
        if (k->index.offset[i])
            k->records++;
        else
            note_entry(k, i, "the record is missing");
    }
    if (check_entry(k, 0, NULL, &e) == KD_ENOMEM) return kd_fail(err, e.code, "%s", e.msg);
    if (e.code) note_entry(k, 0, e.msg);
    k->records++;
    k->bytes += g->bytes;
    return KD_OK;
}

static kd_status check_open_segment(check *k, uint64_t records, int threads, kd_err *err)
{
    const uint64_t before = k->report->damaged;
    const off_t size = lseek(k->segment->fd, 0, SEEK_END);
    if (size < 0 ||
        (uint64_t)size / KD__RECORD_HEAD < records) { // tables are made for what may be there only
        note(k, 0, records, "segment %s (%s): %lld bytes cannot hold its %llu records", k->segment->name,
             k->segment->file, (long long)size, (unsigned long long)records);
        return KD_OK;
    }
    kd_status st = check_structure(k, err);
    if (!st && !(k->sums = calloc(k->index.entries, sizeof(*k->sums))))
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory", k->store->path);
    if (!k->content) return st ? st : check_places(k, err);
    for (uint32_t i = 0; i < k->segment->columns && !st; i++) st = open_codec(k, i, err);
    if (!st) st = check_content(k, threads, err);
    if (!st && k->report->damaged == before) check_root(k);
    return st;
}

static kd_status check_segment(check *k, int threads, kd_err *err)
{
    kd__segment *g = k->segment;
    const uint64_t records = kd__records(&k->store->columns[g->first_column], g->columns, k->store->nchunks);
    char *path = kd_path_join(k->store->path, g->file);
    kd_status st = KD_OK;
    k->codec = calloc(g->columns + 1, sizeof(*k->codec));
    if (!path || !k->codec)
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory", k->store->path);
    else if ((g->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        note(k, 0, records, "segment %s: %s: %s", g->name, g->file, strerror(errno));
    else
        st = check_open_segment(k, records, threads, err);
    for (uint32_t i = 0; k->codec && i < g->columns; i++) kd_codec_close(k->codec[i]);
    k->before += records;
    kd__index_release(&k->index);
    free(k->codec);
    free(k->sums);
    k->codec = NULL;
    k->sums = NULL;
    free(path);
    return st;
}

static kd_status verify(const char *path, bool content, int threads, kd_verify_report *report,
                        void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg, kd_err *err)
{
    double start = kd_now();
    kd_store *s = NULL;
    check k = {.report = report, .content = content, .progress = progress, .arg = arg};
    kd_err e = {0};
    memset(report, 0, sizeof(*report));
    kd_status st = kd__manifest_load(&s, path, &e);
    if (st) {
        if (st == KD_ECORRUPT) {
            report->damaged = 1;
            snprintf(report->first[0].what, sizeof(report->first[0].what), "%.500s", e.msg);
        }
        return kd_fail(err, st, "%s", e.msg);
    }
    pthread_mutex_init(&k.lock, NULL);
    k.store = s;
    for (uint32_t i = 0; i < s->nsegments; i++)
        k.total += kd__records(&s->columns[s->segments[i].first_column], s->segments[i].columns, s->nchunks);
    for (uint32_t i = 0; i < s->nsegments && !st; i++) {
        k.segment = &s->segments[i];
        k.number = i;
        st = check_segment(&k, threads, err);
    }
    pthread_mutex_destroy(&k.lock);
    report->records = k.records;
    report->bytes = k.bytes;
    report->raw_bytes = k.raw;
    report->seconds = kd_now() - start;
    if (!st && report->damaged)
        st = kd_fail(err, KD_ECORRUPT, "%s: damaged in %llu places of %llu records; first: %s", s->path,
                     (unsigned long long)report->damaged, (unsigned long long)k.total, report->first[0].what);
    kd__store_free(s);
    return st;
}

kd_status kd_store_verify(const char *path, int threads, kd_verify_report *report,
                          void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg, kd_err *err)
{
    return verify(path, true, threads, report, progress, arg, err);
}

kd_status kd_store_verify_structure(const char *path, kd_verify_report *report, kd_err *err)
{
    return verify(path, false, 1, report, NULL, NULL, err);
}
