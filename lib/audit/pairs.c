/* pairs.c - rows that are there twice.
 *
 * Exact copies have the same bytes in the input column: their hashes are sorted. Near ones are looked for
 * among the first rows of each set of copies: every row's nearest few by signature, as it is and mirrored,
 * are candidates, and of images the thumbnails decide. A row with more twins than KD__NEAREST is still paired
 * with its nearest, and the others find it; all of them are one group.
 */
#include "audit_private.h"

#include <stdlib.h>
#include <string.h>

/* Candidates are what a signature this much below the wanted similarity says. */
#define SLACK 0.1

void kd_pairs_release(kd_pairs *p)
{
    free(p->v);
    *p = (kd_pairs){0};
}

static kd_status add(kd_pairs *p, uint64_t a, uint64_t b, kd_pair_kind kind, float similarity, kd_err *err)
{
    if (p->n == p->room) {
        const size_t room = p->room ? 2 * p->room : 1024;
        kd_pair *grown = realloc(p->v, room * sizeof(*grown));
        if (!grown) return kd_fail(err, KD_ENOMEM, "no memory for %zu pairs of rows", room);
        p->v = grown;
        p->room = room;
    }
    p->v[p->n++] = (kd_pair){.a = a < b ? a : b, .b = a < b ? b : a, .kind = kind, .similarity = similarity};
    return KD_OK;
}

static int by_rows(const void *va, const void *vb)
{
    const kd_pair *a = va, *b = vb;
    if (a->a != b->a) return a->a < b->a ? -1 : 1;
    if (a->b != b->b) return a->b < b->b ? -1 : 1;
    if (a->similarity != b->similarity) return a->similarity > b->similarity ? -1 : 1;
    return (a->kind > b->kind) - (a->kind < b->kind);
}

/* Sorts, and keeps the best of what was found twice. */
static void tidy(kd_pairs *p)
{
    size_t n = 0;
    if (!p->n) return;
    qsort(p->v, p->n, sizeof(*p->v), by_rows);
    for (size_t i = 0; i < p->n; i++)
        if (!n || p->v[i].a != p->v[n - 1].a || p->v[i].b != p->v[n - 1].b) p->v[n++] = p->v[i];
    p->n = n;
}

/* ---- exact copies ------------------------------------------------------------------------- */

typedef struct hashed {
    kd_id hash;
    uint64_t row;
} hashed;

static int by_hash(const void *va, const void *vb)
{
    const hashed *a = va, *b = vb;
    int c = memcmp(a->hash.b, b->hash.b, sizeof(a->hash.b));
    return c ? c : (a->row > b->row) - (a->row < b->row);
}

/* Rows of a block, ragged or not: lengths first where they differ. */
static void hash_block(hashed *out, const kd_column *c, const uint8_t *block, size_t size, uint64_t first,
                       uint32_t rows)
{
    const bool ragged = c->ndims && c->dims[0] < 0;
    const size_t unit =
        ragged ? kd_column_each(c) * kd_column_width(c) * kd_dtype_size(c->dtype) : size / rows;
    const uint8_t *at = block + (ragged ? rows * sizeof(uint32_t) : 0);
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t length = 1;
        if (ragged) memcpy(&length, block + i * sizeof(length), sizeof(length));
        out[i] = (hashed){.hash = kd_hash128(at, length * unit), .row = first + i};
        at += length * unit;
    }
}

static kd_status hash_rows(hashed *h, kd_store *s, int column, kd_err *err)
{
    const kd_column *c = kd_store_column(s, (size_t)column);
    uint8_t *block = NULL;
    kd_cursor *cursor;
    kd_status st = kd_cursor_open(&cursor, s, err);
    if (st) return st;
    for (uint32_t k = 0; k < kd_store_chunks(s) && !st; k++) {
        const kd_chunk_info *info = kd_store_chunk(s, k);
        size_t size;
        if ((st = kd_cursor_size(cursor, column, k, &size, err))) break;
        uint8_t *grown = realloc(block, size + 1);
        if (!grown) {
            st = kd_fail(err, KD_ENOMEM, "no memory for a chunk of %u rows", info->rows);
            break;
        }
        block = grown;
        st = kd_cursor_read(cursor, column, k, block, size, err);
        if (!st) hash_block(h + info->first, c, block, size, info->first, info->rows);
    }
    free(block);
    kd_cursor_close(cursor);
    return st;
}

/* first: (rows) 1 for a row that is the first of its kind. */
static kd_status exact(kd_pairs *out, kd_store *s, int column, uint8_t *first, kd_err *err)
{
    const uint64_t rows = kd_store_rows(s);
    hashed *h = malloc((rows + 1) * sizeof(*h));
    kd_status st =
        h ? hash_rows(h, s, column, err)
          : kd_fail(err, KD_ENOMEM, "no memory for the hashes of %llu rows", (unsigned long long)rows);
    if (!st) qsort(h, rows, sizeof(*h), by_hash);
    for (uint64_t from = 0, to; from < rows && !st; from = to) {
        first[h[from].row] = 1;
        for (to = from + 1; to < rows && !memcmp(h[from].hash.b, h[to].hash.b, 16) && !st; to++)
            st = add(out, h[from].row, h[to].row, KD_PAIR_EXACT, 1, err);
    }
    free(h);
    return st;
}

/* ---- near ones ---------------------------------------------------------------------------- */

/* Moves the rows that are first of their kind to the front; row: (n) receives their numbers. */
static size_t gather(kd__prints *f, const uint8_t *first, uint32_t *row)
{
    const size_t thumb = f->h * f->w * f->c, line = f->dims * sizeof(float);
    size_t n = 0;
    for (size_t r = 0; r < f->rows; r++) {
        if (!first[r]) continue;
        memmove(f->plain + n * f->dims, f->plain + r * f->dims, line);
        if (f->thumb) memmove(f->thumb + n * thumb, f->thumb + r * thumb, thumb);
        row[n++] = (uint32_t)r;
    }
    return n;
}

/* Replaces what the signatures say of candidates by what the thumbnails do. */
static void verify(kd__near *near, const kd__prints *f, size_t n, bool mirrored, const kd_pair_params *p)
{
    const int threads = p->threads, shift = (int)p->shift;
    if (!f->thumb) return;
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < near[i].n; k++)
            near[i].value[k] = kd__thumbs_alike(f, i, near[i].row[k], mirrored, shift);
}

/* A way in which a row may look like another. A move by (dy, dx) is found from the other side as well, so
 * the opposite one need not be asked for. */
typedef struct view {
    bool mirrored;
    int dy, dx;
} view;

/* Rows that are alike when those who ask are seen so. k: the number of this search, of so many. */
static kd_status search(kd_pairs *out, const kd__prints *f, const float *query, const uint32_t *row, size_t n,
                        const view *v, size_t k, size_t of, const kd_pair_params *p, kd_err *err)
{
    const double floor = p->similarity - (f->thumb ? SLACK : 0);
    kd__near *near = calloc(n + 1, sizeof(*near));
    kd_status st = near ? kd__nearest(near, query, f->plain, n, f->dims, (float)floor, p, k * n, of * n, err)
                        : kd_fail(err, KD_ENOMEM, "no memory for the neighbours of %zu rows", n);
    if (!st) verify(near, f, n, v->mirrored, p);
    for (size_t i = 0; i < n && !st; i++)
        for (uint32_t m = 0; m < near[i].n && !st; m++)
            if ((double)near[i].value[m] >= p->similarity)
                st = add(out, row[i], row[near[i].row[m]], v->mirrored ? KD_PAIR_MIRRORED : KD_PAIR_NEAR,
                         near[i].value[m], err);
    free(near);
    return st;
}

static kd_status search_images(kd_pairs *out, const kd__prints *f, const uint32_t *row, size_t n,
                               const kd_pair_params *p, kd_err *err)
{
    view v[2 + 2 * KD_PAIR_SHIFT];
    size_t views = 0;
    kd_status st = KD_OK;
    float *query = kd_alloc_aligned(n, f->dims * sizeof(*query));
    if (!query) return kd_fail(err, KD_ENOMEM, "out of memory");
    v[views++] = (view){0};
    if (p->mirror) v[views++] = (view){.mirrored = true};
    for (int d = 1; d <= (int)p->shift; d++) {
        v[views++] = (view){.dy = d};
        v[views++] = (view){.dx = d};
    }
    for (size_t k = 0; k < views && !st; k++) {
        kd__prints_view(f, query, n, v[k].mirrored, v[k].dy, v[k].dx, p->threads);
        st = search(out, f, query, row, n, &v[k], k, views, p, err);
    }
    free(query);
    return st;
}

static kd_status near_ones(kd_pairs *out, kd_store *s, const uint8_t *first, const kd_pair_params *p,
                           kd_err *err)
{
    kd__prints f = {0};
    uint32_t *row = malloc((kd_store_rows(s) + 1) * sizeof(*row));
    kd_status st =
        row ? kd__prints_make(&f, s, p->column, p->threads, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    const size_t n = st ? 0 : gather(&f, first, row);
    if (!st && f.thumb)
        st = search_images(out, &f, row, n, p, err);
    else if (!st)
        st = search(out, &f, f.plain, row, n, &(view){0}, 0, 1, p, err);
    kd__prints_release(&f);
    free(row);
    return st;
}

kd_status kd_pairs_find(kd_pairs *out, kd_store *s, int input, const kd_pair_params *p, kd_err *err)
{
    const uint64_t rows = kd_store_rows(s);
    kd_status st = p->column < 0 ? KD_OK : kd__prints_check(s, p->column, err);
    *out = (kd_pairs){0};
    if (st) return st;
    if (p->shift < 0 || p->shift > KD_PAIR_SHIFT)
        return kd_fail(err, KD_EUSAGE, "images moved by %lld pixels; expected 0 to %d", (long long)p->shift,
                       KD_PAIR_SHIFT);
    if (rows > UINT32_MAX)
        return kd_fail(err, KD_ELIMIT, "%s: %llu rows, duplicates are looked for among at most %u",
                       kd_store_path(s), (unsigned long long)rows, UINT32_MAX);
    uint8_t *first = calloc(rows + 1, 1);
    if (!first) return kd_fail(err, KD_ENOMEM, "out of memory");
    st = exact(out, s, input, first, err);
    if (!st && p->column >= 0) st = near_ones(out, s, first, p, err);
    free(first);
    if (st)
        kd_pairs_release(out);
    else
        tidy(out);
    return st;
}
