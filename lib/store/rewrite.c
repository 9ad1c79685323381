/* rewrite.c - a new store from chunks of old ones: what slice, merge and compact have in common.
 *
 * Each of them is a list of picks (this chunk of that store) and a contract per segment. The new store is
 * built in NAME.kd.part/ with the writers that everything else uses: the base segment, then each further one
 * as an extension of it, then the folder gets its name. So a rewrite resumes as any writer does, a segment at
 * a time, and memory is one decoded chunk beside what the writer holds.
 *
 * Blocks are decoded and packed again, because a record's header names its chunk, its first row and its
 * segment. Equal blocks at equal levels give equal bytes: that is why parts of a store, put together again,
 * have the root of the whole.
 *
 * A contract's member "store" is the root of the rows that a teacher saw; where it named the old base segment
 * it names the new one.
 *
 * Contracts of two different rewrites may be equal (the parts 1, 2 and the parts 2, 1), so what is being done
 * is also written to rewrite.json in the unfinished folder; a resume must present the same.
 */
#include "store_private.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLAN_MAX (64u << 20)

/* Buffers of one segment's columns. */
typedef struct kd__copier {
    kd_store_writer *writer;
    kd_column *column; /* (n) as they are written */
    uint32_t n;
    kd_block *block;
    uint8_t **data;
    size_t *size;
    kd_buf *selected;  /* encoded blocks without some rows */
    kd_codec **codec;  /* opened when a row of an encoded column is left out */
    uint8_t *keep;     /* (chunk rows) */
    uint8_t *position; /* keep of each position */
    size_t position_size;
} kd__copier;

void kd__base_root(const kd_store *s, char hex[33]) { kd_id_hex(s->segments[0].root, hex); }

/* ---- sources ------------------------------------------------------------------------------ */

static kd_status no_memory(const kd__rewrite *r, kd_err *err)
{
    return kd_fail(err, KD_ENOMEM, "%s: out of memory", r->out ? r->out : "a new store");
}

static kd_status copy_entries(kd__rewrite *r, const char *command, kd_err *err)
{
    const kd_store *s = r->source[0];
    r->segments = s->nsegments;
    r->contract = calloc(s->nsegments, sizeof(*r->contract));
    r->extra = calloc(s->nsegments, sizeof(*r->extra));
    if (!r->contract || !r->extra) return no_memory(r, err);
    for (uint32_t g = 0; g < s->nsegments; g++) {
        const json_t *entry = s->segments[g].entry, *contract = json_object_get(entry, "contract");
        if (json_is_null(contract)) contract = NULL;
        r->extra[g] = json_deep_copy(entry);
        r->contract[g] = contract ? json_deep_copy(contract) : NULL;
        if (!r->extra[g] || (contract && !r->contract[g]) ||
            (command && json_object_set_new(r->extra[g], "command", json_string(command))))
            return no_memory(r, err);
        json_object_del(r->extra[g], "contract"); // the rest that is computed anew overrules what stands here
    }
    return KD_OK;
}

kd_status kd__rewrite_init(kd__rewrite *r, const char *out, const char *const *stores, uint32_t n,
                           const kd_writer_params *p, const char *command, kd_err *err)
{
    kd_status st = KD_OK;
    r->params = p ? *p : kd_writer_default_params();
    r->reading = UINT32_MAX;
    if (!(r->out = kd__store_path(out)) || !(r->folder = kd_sprintf("%s.part", r->out)) ||
        !(r->source = calloc(n, sizeof(*r->source))) || !(r->base = calloc(n, sizeof(*r->base))))
        return no_memory(r, err);
    for (uint32_t i = 0; i < n && !st; i++) {
        st = kd__manifest_load(&r->source[i], stores[i], err);
        if (st) break;
        r->n = i + 1;
        r->base[i] = i ? r->base[i - 1] + r->source[i - 1]->rows : 0;
    }
    return st ? st : copy_entries(r, command, err);
}

kd_status kd__rewrite_pick(kd__rewrite *r, uint32_t source, uint32_t chunk, uint32_t rows, kd_err *err)
{
    if (r->picks == r->picks_cap) {
        const uint32_t cap = r->picks_cap ? 2 * r->picks_cap : 256;
        kd__pick *more = cap < r->picks_cap ? NULL : realloc(r->pick, (size_t)cap * sizeof(*more));
        if (!more) return no_memory(r, err);
        r->pick = more;
        r->picks_cap = cap;
    }
    r->pick[r->picks++] = (kd__pick){.source = source, .chunk = chunk, .rows = rows};
    return KD_OK;
}

static void close_reader(kd__rewrite *r)
{
    kd_cursor_close(r->cursor);
    kd_store_close(r->reader);
    r->cursor = NULL;
    r->reader = NULL;
    r->reading = UINT32_MAX;
}

kd_status kd__rewrite_open(kd__rewrite *r, uint32_t source, kd_err *err)
{
    if (r->reading == source) return KD_OK;
    close_reader(r);
    kd_status st = kd_store_open(&r->reader, r->source[source]->path, err);
    if (!st && strcmp(r->reader->root, r->source[source]->root))
        st = kd_fail(err, KD_EMISMATCH, "%s: was replaced while it was being read", r->reader->path);
    if (!st) st = kd_cursor_open(&r->cursor, r->reader, err);
    if (st)
        close_reader(r);
    else
        r->reading = source;
    return st;
}

void kd__rewrite_release(kd__rewrite *r)
{
    close_reader(r);
    for (uint32_t g = 0; r->n && g < r->source[0]->nsegments; g++) {
        if (r->contract) json_decref(r->contract[g]);
        if (r->extra) json_decref(r->extra[g]);
    }
    for (uint32_t i = 0; i < r->n; i++) kd__store_free(r->source[i]);
    json_decref(r->plan);
    free(r->contract);
    free(r->extra);
    free(r->left_out);
    free(r->source);
    free(r->base);
    free(r->pick);
    free(r->folder);
    free(r->out);
}

/* ---- one chunk ---------------------------------------------------------------------------- */

static kd_status grow(uint8_t **p, size_t *have, size_t want, kd_err *err)
{
    if (want <= *have) return KD_OK;
    free(*p);
    *have = 0;
    if (!(*p = malloc(want))) return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu bytes", want);
    *have = want;
    return KD_OK;
}

/* Takes rows out of a dense block, in its place. */
static void select_dense(kd_block *b, const kd_column *c, uint32_t rows, const uint8_t *keep, uint8_t *data)
{
    uint32_t *lengths = (uint32_t *)(uintptr_t)b->lengths, kept = 0;
    size_t unit = 0;
    kd__column_unit(c, &unit); // was checked when the store was opened
    uint8_t *to = data;
    for (uint32_t i = 0; i < rows; i++) {
        const size_t bytes = lengths ? lengths[i] * unit : unit;
        if (keep[i]) {
            memmove(to, data, bytes);
            to += bytes;
            if (lengths) lengths[kept++] = lengths[i];
        }
        data += bytes;
    }
    b->bytes = (size_t)(to - (uint8_t *)(uintptr_t)b->data);
}

/* The same of an encoded block, by its codec. */
static kd_status select_encoded(kd__copier *k, uint32_t i, uint32_t rows, kd_err *err)
{
    const kd_column *c = &k->column[i];
    kd_block *b = &k->block[i];
    uint32_t *lengths = (uint32_t *)(uintptr_t)b->lengths, kept = 0;
    size_t positions = 0, n = 0;
    kd_status st;
    if (!k->codec[i] && (st = kd_column_codec(&k->codec[i], c, err))) return st;
    if (!kd__column_positions(c, rows, (const uint8_t *)lengths, &positions))
        return kd_fail(err, KD_ECORRUPT, "more positions than a block may hold");
    if ((st = grow(&k->position, &k->position_size, positions + 1, err))) return st;
    for (uint32_t r = 0; r < rows; r++) {
        const size_t each = kd_column_each(c) * (lengths ? lengths[r] : 1);
        memset(k->position + n, k->keep[r], each);
        n += each;
        if (lengths && k->keep[r]) lengths[kept++] = lengths[r];
    }
    k->selected[i].len = 0;
    st = kd_codec_select(k->codec[i], b->data, b->bytes, positions, k->position, &k->selected[i], err);
    b->data = k->selected[i].text;
    b->bytes = k->selected[i].len;
    return st;
}

static kd_status read_block(kd__rewrite *r, kd__copier *k, uint32_t i, const kd__pick *p, kd_err *err)
{
    const kd_column *c = &k->column[i];
    const uint32_t rows = r->reader->chunks[p->chunk].rows;
    const int column = kd_store_find(r->reader, c->name);
    size_t size = 0;
    kd_status st = kd_cursor_size(r->cursor, column, p->chunk, &size, err);
    if (!st) st = grow(&k->data[i], &k->size[i], size + 1, err);
    if (!st) st = kd_cursor_read(r->cursor, column, p->chunk, k->data[i], size, err);
    if (st) return st;
    const size_t head = kd__column_ragged(c) ? 4 * (size_t)rows : 0;
    k->block[i] = (kd_block){.data = k->data[i] + head,
                             .bytes = size - head,
                             .lengths = head ? (uint32_t *)(void *)k->data[i] : NULL};
    if (p->rows == rows) return KD_OK;
    if (json_is_true(json_object_get(c->params, "whole_chunks")))
        return kd_fail(
            err, KD_EUNSUPPORTED,
            "%s: column %s was made of whole chunks (views that mix rows), and only %u of the %u rows of "
            "chunk %u are wanted; leave that column out first: kd-store drop, or take whole chunks",
            r->reader->path, c->name, p->rows, rows, p->chunk);
    if (!kd__column_dense(c)) return select_encoded(k, i, rows, err);
    select_dense(&k->block[i], c, rows, k->keep, k->data[i] + head);
    return KD_OK;
}

static kd_status copy_chunk(kd__rewrite *r, kd__copier *k, const kd__pick *p, kd_err *err)
{
    kd_status st = kd__rewrite_open(r, p->source, err);
    if (st) return st;
    const kd_chunk_info *ci = &r->reader->chunks[p->chunk];
    for (uint32_t i = 0; i < ci->rows; i++)
        k->keep[i] = kd__rewrite_keeps(r, r->base[p->source] + ci->first + i);
    for (uint32_t i = 0; i < k->n && !st; i++) st = read_block(r, k, i, p, err);
    return st ? st : kd_store_writer_append(k->writer, ci->split, p->rows, k->block, err);
}

/* ---- one segment -------------------------------------------------------------------------- */

static kd_status copier_init(kd__rewrite *r, kd__copier *k, uint32_t segment, kd_err *err)
{
    const kd__segment *g = &r->reader->segments[segment];
    const uint32_t n = g->columns;
    k->column = calloc(n, sizeof(*k->column));
    k->block = calloc(n, sizeof(*k->block));
    k->data = calloc(n, sizeof(*k->data));
    k->size = calloc(n, sizeof(*k->size));
    k->selected = calloc(n, sizeof(*k->selected));
    k->codec = calloc(n, sizeof(*k->codec));
    k->keep = malloc(KD_STORE_MAX_CHUNK_ROWS);
    if (!k->column || !k->block || !k->data || !k->size || !k->selected || !k->codec || !k->keep)
        return no_memory(r, err);
    k->n = n;
    for (uint32_t i = 0; i < n; i++) {
        k->column[i] = r->reader->columns[g->first_column + i];
        if (r->level) k->column[i].level = r->level;
        // The writer and codecs that are opened later outlive this reader.
        if (k->column[i].params && !(k->column[i].params = json_deep_copy(k->column[i].params)))
            return no_memory(r, err);
        if (!k->column[i].book_bytes) continue;
        void *book = malloc(k->column[i].book_bytes);
        if (book) memcpy(book, k->column[i].book, k->column[i].book_bytes);
        k->column[i].book = book;
        if (!book) return no_memory(r, err);
    }
    return KD_OK;
}

static void copier_release(kd__copier *k)
{
    for (uint32_t i = 0; i < k->n; i++) {
        json_decref(k->column[i].params);
        free((void *)(uintptr_t)k->column[i].book);
        free(k->data[i]);
        kd_buf_release(&k->selected[i]);
        kd_codec_close(k->codec[i]);
    }
    free(k->column);
    free(k->block);
    free(k->data);
    free(k->size);
    free(k->selected);
    free(k->codec);
    free(k->keep);
    free(k->position);
}

/* The header record is packed at the writer's level, which the first column has as a rule: so that the same
 * header gives the same bytes. The base segment begins the store, others extend what is there by then: *s, to
 * be closed after the writer. */
static kd_status begin_segment(kd__rewrite *r, kd__copier *k, uint32_t segment, kd_store **s, kd_err *err)
{
    char was[33], is[33];
    json_t *contract = r->contract[segment];
    r->params.level = k->column[0].level;
    if (!segment) {
        r->params.chunk_rows = 0;
        for (uint32_t i = 0; i < r->n; i++)
            if (r->source[i]->chunk_rows > r->params.chunk_rows)
                r->params.chunk_rows = r->source[i]->chunk_rows;
        return kd__store_create_held(&k->writer, r->out, k->column, k->n, contract, &r->params, err);
    }
    kd_status st = kd_store_open(s, r->folder, err);
    if (st) return st;
    kd__base_root(r->source[0], was);
    kd__base_root(*s, is);
    const char *of = json_string_value(json_object_get(contract, "store"));
    if (of && !strcmp(of, was) && json_object_set_new(contract, "store", json_string(is)))
        return no_memory(r, err);
    return kd_store_extend(&k->writer, *s, r->source[0]->segments[segment].name, k->column, k->n, contract,
                           &r->params, err);
}

static kd_status copy_chunks(kd__rewrite *r, kd__copier *k, kd_err *err)
{
    const uint32_t begun = kd_store_writer_chunks(k->writer);
    if (begun > r->picks)
        return kd_fail(err, KD_EMISMATCH, "%s: has %u chunks already, %u are wanted; start anew with --force",
                       r->folder, begun, r->picks);
    for (uint32_t i = 0; i < r->picks; i++) {
        if (r->stop && *r->stop)
            return kd_fail(err, KD_ESTOPPED, "%s: stopped after %llu of %llu rows; go on with --resume",
                           r->out, (unsigned long long)r->done, (unsigned long long)r->total);
        kd_status st = i < begun ? KD_OK : copy_chunk(r, k, &r->pick[i], err);
        if (st) return st;
        r->done += r->pick[i].rows;
        if (r->progress) r->progress(r->arg, r->done, r->total);
    }
    return KD_OK;
}

static kd_status copy_segment(kd__rewrite *r, uint32_t segment, kd_err *err)
{
    kd__copier k = {0};
    kd_store *s = NULL;
    kd_status st = kd__rewrite_open(r, 0, err);
    if (!st) st = copier_init(r, &k, segment, err);
    if (!st) st = begin_segment(r, &k, segment, &s, err);
    if (!st) st = copy_chunks(r, &k, err);
    if (!st) {
        st = kd_store_writer_seal(k.writer, r->extra[segment], err);
        k.writer = NULL; // freed in every case
    }
    kd_store_writer_close(k.writer); // after a failure: what is whole stays for a resume
    kd_store_close(s);
    copier_release(&k);
    return st;
}

/* ---- all of it ---------------------------------------------------------------------------- */

static kd_status make_plan(kd__rewrite *r, const char *kind, kd_err *err)
{
    json_t *roots = json_array();
    for (uint32_t i = 0; roots && i < r->n; i++)
        json_array_append_new(roots, json_string(r->source[i]->root));
    r->plan = json_pack("{s:s, s:o, s:i, s:I, s:I}", "kind", kind, "stores", roots, "level", r->level,
                        "segments", (json_int_t)r->segments, "chunks", (json_int_t)r->picks);
    return r->plan ? KD_OK : no_memory(r, err);
}

/* Whether a writer of any kind has begun in this folder. */
static bool holds_segment(const char *folder)
{
    char *file = kd_path_join(folder, "base.mdb"), *part = kd_path_join(folder, "base.mdb.part");
    const bool holds = !file || !part || kd_exists(file) || kd_exists(part);
    free(file);
    free(part);
    return holds;
}

/* Compares with what an unfinished folder says it is, and says so in a new one. */
static kd_status begin_plan(kd__rewrite *r, kd_err *err)
{
    char *path = kd_path_join(r->folder, KD__PLAN_FILE);
    json_t *was = NULL;
    kd__difference d = {0};
    kd_status st = KD_OK;
    if (!path) return no_memory(r, err);
    const bool begun = kd_exists(path);
    if (!begun && holds_segment(r->folder) && (!r->params.force || r->replace))
        st = kd_fail(err, KD_EEXISTS,
                     "%s: left by a run of another kind that was not finished; finish that, or %s", r->folder,
                     r->replace ? "remove it" : "start anew with --force");
    else if (begun && !r->params.resume && !r->params.force)
        st = kd_fail(err, KD_EEXISTS,
                     "%s: left by an unfinished run; --resume goes on with it, --force starts anew",
                     r->folder);
    else if (begun && r->params.resume)
        st = kd_json_load(path, PLAN_MAX, &was, err);
    else
        r->params.resume = false;
    if (!st && was && kd__json_difference(&d, was, r->plan)) {
        st = kd_fail(err, KD_EMISMATCH,
                     "%s: cannot go on with it: %s was %s, is %s now; give the same stores and options, or "
                     "start anew with --force",
                     r->folder, kd__buf_text(&d.where), kd__buf_text(&d.a), kd__buf_text(&d.b));
    }
    kd__difference_release(&d);
    if (st && st != KD_EEXISTS && st != KD_ENOMEM && r->params.force) {
        if (err) *err = (kd_err){0};
        r->params.resume = false;
        st = KD_OK;
    }
    if (!st) st = kd_mkdirs(r->folder, err);
    if (!st && !r->params.resume) st = kd_json_save(path, r->plan, err);
    json_decref(was);
    free(path);
    return st;
}

/* Removes what manifest.json of the folder does not name, such as segments of an earlier try; the plan stays.
 */
static kd_status remove_unnamed(const char *folder, kd_err *err)
{
    kd_store *s = NULL;
    kd_status st = kd__manifest_load(&s, folder, err);
    if (st) return st;
    DIR *d = opendir(folder);
    if (!d) st = kd_fail_errno(err, errno, "%s: cannot list", folder);
    struct dirent *e;
    while (!st && (e = readdir(d))) {
        bool named = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
                     !strcmp(e->d_name, "manifest.json") || !strcmp(e->d_name, KD__PLAN_FILE);
        for (uint32_t i = 0; i < s->nsegments; i++) named = named || !strcmp(e->d_name, s->segments[i].file);
        if (!named && unlinkat(dirfd(d), e->d_name, 0) && errno != ENOENT)
            st = kd_fail_errno(err, errno, "%s/%s: cannot remove", folder, e->d_name);
    }
    if (d) closedir(d);
    kd__store_free(s);
    return st;
}

kd_status kd__rewrite_run(kd__rewrite *r, const char *kind, kd_err *err)
{
    kd_status st;
    if (!r->out[0] || !strcmp(r->out, "/"))
        return kd_fail(err, KD_EUSAGE, "'%s' cannot be the name of a store", r->out);
    for (uint32_t i = 0; i < r->n && !r->replace; i++)
        if (!strcmp(r->source[i]->path, r->out))
            return kd_fail(err, KD_EUSAGE, "%s: is both read and written", r->out);
    if (kd_exists(r->out) && !r->params.force)
        return kd_fail(err, KD_EEXISTS, "%s: already there and finished; --force replaces it", r->out);
    for (uint32_t i = 0; i < r->picks; i++) r->total += r->pick[i].rows;
    r->total *= r->segments;
    if ((st = make_plan(r, kind, err)) || (st = begin_plan(r, err))) return st;
    for (uint32_t g = 0; g < r->segments; g++)
        if ((st = copy_segment(r, g, err))) return st;
    close_reader(r);                                                          // before its files go away
    if (r->replace && (st = kd__no_unfinished(r->source[0], err))) return st; // somebody began one meanwhile
    if ((st = remove_unnamed(r->folder, err)) || (st = kd__publish(r->folder, r->out, r->params.force, err)))
        return st;
    char *plan =
        kd_path_join(r->out, KD__PLAN_FILE); // last, so that until then a kill leaves what can be resumed
    if (plan) unlink(plan);
    free(plan);
    return KD_OK;
}
