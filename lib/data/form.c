/* form.c - rows of a column in memory, in one of three forms.
 *
 *     fixed    every row has the same bytes: dense columns as they were written, dense codecs as f32
 *     ragged   rows of some positions each; dense or a dense codec likewise
 *     sparse   positions of a sparse codec, a row or more each
 *
 * Fixed rows lie in one slab and need nothing of this file. The others have a kd__held for each chunk of
 * a window, filled by the cursor, and one for each stream's batch, to which rows are appended. Its arrays
 * grow to the largest content and stay, so after the first windows nothing is allocated.
 *
 * Dense codecs are expanded when the chunk is decoded. Keeping them as bytes in the window would take a
 * quarter of the memory (int8), but a codec decodes blocks, not rows, and window_rows buys the same. Sparse
 * ones are kept as entries: expanding 49,152 classes for ten that are there would be the waste that they
 * avoid.
 *
 * What a ragged column takes cannot be known without looking at it, so it is read through when the loader
 * opens; that costs one decode of it, and damage shows before the first step.
 */
#include "data_private.h"

#include <stdlib.h>
#include <string.h>

/* An entry: id, value, exact. A position: offset; tail and logz of each temperature. */
enum { ENTRY = sizeof(uint32_t) + sizeof(float) + 1, POSITION = sizeof(uint64_t) };

/* ---- describing --------------------------------------------------------------------------- */

/* Lengths of all rows: positions of the largest chunk and of the longest row. */
static kd_status measure(kd__shape *f, kd_store *s, const uint32_t *chunks, uint32_t n, kd_err *err)
{
    kd_cursor *c = NULL;
    uint32_t *length = malloc(KD_STORE_MAX_CHUNK_ROWS * sizeof(*length));
    kd_status st = length ? kd_cursor_open(&c, s, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    f->most = f->longest = 0;
    for (uint32_t i = 0; i < n && !st; i++) {
        size_t positions;
        if ((st = kd_cursor_lengths(c, f->column, chunks[i], length, &positions, err))) break;
        f->most = kd_max_size(f->most, positions);
        for (uint32_t r = 0; r < kd_store_chunk(s, chunks[i])->rows; r++)
            f->longest = kd_max_size(f->longest, length[r] * f->each);
    }
    kd_cursor_close(c);
    free(length);
    return st;
}

/* What a codec's parameters say of its size. */
static kd_status look_at_codec(kd__shape *f, const kd_column *k, kd_err *err)
{
    kd_codec *codec;
    kd_status st = kd_column_codec(&codec, k, err);
    if (st) return st;
    if (kd_codec_describe(codec)->sparse) {
        f->form = KD__SPARSE;
        f->entries = kd_codec_most(codec);
        f->temperatures = (int)json_array_size(json_object_get(kd_codec_params(codec), "temperatures"));
        f->bytes =
            POSITION + f->entries * ENTRY + 2 * kd_max_size(1, (size_t)f->temperatures) * sizeof(float);
    }
    kd_codec_close(codec);
    return KD_OK;
}

kd_status kd__shape_init(kd__shape *f, kd_store *s, int column, const uint32_t *chunks, uint32_t n,
                         kd_err *err)
{
    const kd_column *k = kd_store_column(s, (size_t)column);
    size_t bytes = kd_dtype_size(k->dtype), width = kd_column_width(k);
    kd_status st;
    *f = (kd__shape){.column = column, .each = kd_column_each(k)};
    f->coded = strcmp(k->encoding, "dense") != 0;
    f->ragged = k->ndims && k->dims[0] < 0;
    if (f->ragged) f->form = KD__RAGGED;
    if (!kd_mul_size(bytes, width, &bytes) || (!f->ragged && !kd_mul_size(bytes, f->each, &bytes)))
        return kd_fail(err, KD_ECORRUPT, "%s: column %s: its shape overflows", kd_store_path(s), k->name);
    f->bytes = bytes;
    if (f->coded && (st = look_at_codec(f, k, err))) return kd_fail_in(err, st, "%s", kd_store_path(s));
    if (f->ragged) return measure(f, s, chunks, n, err);
    f->longest = f->each;
    for (uint32_t i = 0; i < n; i++)
        f->most = kd_max_size(f->most, f->each * kd_store_chunk(s, chunks[i])->rows);
    return KD_OK;
}

/* ---- room --------------------------------------------------------------------------------- */

/* Room for n elements of `size` bytes; what is there stays. */
static bool grow(void *array, size_t *room, size_t n, size_t size)
{
    void **p = array, *grown;
    size_t bytes;
    if (n <= *room) return true;
    if (!kd_mul_size(n, size, &bytes) || !(grown = realloc(*p, bytes))) return false;
    *p = grown;
    *room = n;
    return true;
}

/* The arrays of one sparse form grow together. */
static bool grow_sparse(kd_sparse *s, size_t positions, size_t entries, int temperatures)
{
    size_t t = (size_t)temperatures, tail = s->cap, logz = s->cap, id = s->entry_cap, value = id, exact = id;
    if (!(grow(&s->id, &id, entries, sizeof(*s->id)) && grow(&s->value, &value, entries, sizeof(*s->value)) &&
          grow(&s->exact, &exact, entries, 1)))
        return false;
    s->entry_cap = id;
    if (!((!t || (grow(&s->tail, &tail, positions + 1, t * sizeof(*s->tail)) &&
                  grow(&s->logz, &logz, positions + 1, t * sizeof(*s->logz)))) &&
          grow(&s->offset, &s->cap, positions + 1, sizeof(*s->offset))))
        return false;
    s->temperatures = temperatures;
    return true;
}

static kd_status no_memory(kd_err *err)
{
    return kd_fail(err, KD_ENOMEM,
                   "no memory for rows of differing lengths; lower the window's rows or the batch");
}

size_t kd__held_bytes(const kd__shape *f, size_t rows, size_t positions)
{
    return (rows + 1) * (sizeof(uint64_t) + 2 * sizeof(uint32_t)) + positions * f->bytes;
}

kd_status kd__held_reserve(kd__held *h, const kd__shape *f, size_t rows, size_t positions, kd_err *err)
{
    size_t entries, bytes;
    bool ok = grow(&h->offset, &h->offset_room, rows + 1, sizeof(*h->offset)) &&
              grow(&h->length, &h->length_room, rows, sizeof(*h->length)) &&
              kd_mul_size(positions, f->entries, &entries) && kd_mul_size(positions, f->bytes, &bytes);
    if (f->form == KD__SPARSE)
        ok = ok && grow_sparse(&h->sparse, positions, entries, f->temperatures);
    else // a ragged block begins with its lengths
        ok = ok && grow(&h->values, &h->value_room, bytes + rows * sizeof(*h->length), 1);
    return ok ? KD_OK : no_memory(err);
}

void kd__held_release(kd__held *h)
{
    kd_sparse_release(&h->sparse);
    free(h->offset);
    free(h->values);
    free(h->length);
}

/* ---- a chunk ------------------------------------------------------------------------------ */

kd_status kd__held_read(kd__held *h, const kd__shape *f, kd_cursor *c, uint32_t chunk, uint32_t rows,
                        kd_err *err)
{
    size_t positions, size;
    kd_status st = kd__held_reserve(h, f, rows, 0, err);
    if (st) return st;
    if ((st = kd_cursor_lengths(c, f->column, chunk, h->length, &positions, err))) return st;
    h->rows = rows;
    h->offset[0] = 0;
    for (uint32_t i = 0; i < rows; i++) h->offset[i + 1] = h->offset[i] + h->length[i] * f->each;
    if (f->form == KD__SPARSE) return kd_cursor_read_sparse(c, f->column, chunk, &h->sparse, err);
    h->head = f->coded ? 0 : rows * sizeof(uint32_t);
    size = h->head + positions * f->bytes; // bounded by KD_STORE_MAX_RAW
    if (!grow(&h->values, &h->value_room, size, 1)) return no_memory(err);
    if (!f->coded) return kd_cursor_read(c, f->column, chunk, h->values, size, err);
    return kd_cursor_read_f32(c, f->column, chunk, (float *)(void *)h->values, positions, err);
}

/* ---- a batch ------------------------------------------------------------------------------ */

void kd__held_clear(kd__held *h)
{
    h->rows = 0;
    h->sparse.positions = h->sparse.entries = 0;
}

static bool append_sparse(kd_sparse *to, const kd_sparse *from, size_t first, size_t n)
{
    size_t at = to->positions, e = to->entries, t = (size_t)from->temperatures;
    uint64_t begin = from->offset[first];
    size_t entries = (size_t)(from->offset[first + n] - begin);
    memcpy(to->temperature, from->temperature, sizeof(to->temperature));
    if (!grow_sparse(to, at + n, e + entries, from->temperatures)) return false;
    for (size_t i = 0; i <= n; i++) to->offset[at + i] = e + (from->offset[first + i] - begin);
    if (entries) {
        memcpy(to->id + e, from->id + begin, entries * sizeof(*to->id));
        memcpy(to->value + e, from->value + begin, entries * sizeof(*to->value));
        memcpy(to->exact + e, from->exact + begin, entries);
    }
    if (t && n) {
        memcpy(to->tail + at * t, from->tail + first * t, n * t * sizeof(*to->tail));
        memcpy(to->logz + at * t, from->logz + first * t, n * t * sizeof(*to->logz));
    }
    to->positions += n;
    to->entries += entries;
    return true;
}

kd_status kd__held_append(kd__held *h, const kd__shape *f, const kd__held *from, uint32_t row, kd_err *err)
{
    size_t first = (size_t)from->offset[row], n = (size_t)from->offset[row + 1] - first;
    if (!grow(&h->offset, &h->offset_room, (size_t)h->rows + 2, sizeof(*h->offset))) return no_memory(err);
    if (!h->rows) h->offset[0] = 0;
    size_t at = (size_t)h->offset[h->rows];
    if (f->form == KD__SPARSE) {
        if (!append_sparse(&h->sparse, &from->sparse, first, n)) return no_memory(err);
    } else {
        if (!grow(&h->values, &h->value_room, (at + n) * f->bytes, 1)) return no_memory(err);
        if (n) memcpy(h->values + at * f->bytes, from->values + from->head + first * f->bytes, n * f->bytes);
    }
    h->offset[++h->rows] = at + n;
    return KD_OK;
}
