/* data_private.h - what the files of lib/data share: the raw file below the sources, and limits. */
#ifndef KD_DATA_PRIVATE_H
#define KD_DATA_PRIVATE_H

#include "kd/data.h"

#define KD__SOURCE_MAX_BYTES (16ull << 30) /* of one decoded array */
#define KD__NPY_MAX_HEADER   (64u << 10)
#define KD__CSV_MAX_FIELDS   65536
#define KD__CSV_MAX_RECORD   (16u << 20) /* bytes of one record (a line, or more with quoted newlines) */

/* ---- rawfile.c: a file as a stream of bytes, gunzipped on the way, hashed as it is on disk ---- */

typedef struct kd__rawfile kd__rawfile;
/* path is borrowed until close. KD_ENOTFOUND, KD_EIO, KD_ENOMEM. */
kd_status kd__raw_open(kd__rawfile **out, const char *path, kd_err *err);
void kd__raw_close(kd__rawfile *r);
const char *kd__raw_path(const kd__rawfile *r);
/* Up to n bytes; *got < n only at the end of the data, be it the right one or not (kd__raw_cut). */
kd_status kd__raw_read(kd__rawfile *r, void *buf, size_t n, size_t *got, kd_err *err);
/* Looks at the first bytes (n <= 16) without taking them; only before the first read. */
kd_status kd__raw_peek(kd__rawfile *r, const uint8_t **p, size_t n, size_t *got, kd_err *err);
/* How many bytes are still to come: known for a plain regular file only. */
bool kd__raw_left(const kd__rawfile *r, uint64_t *left);
bool kd__raw_gzip(const kd__rawfile *r);
/* "" or ", its gzip data are cut off at byte N": a part of a sentence about data that end early. */
const char *kd__raw_cut(const kd__rawfile *r);
/* Reads up to the end; more data, or a cut-off gzip trailer, is KD_ECORRUPT. expected: what the data
 * should have been, for the sentence. */
kd_status kd__raw_end(kd__rawfile *r, const char *expected, kd_err *err);
/* Size and XXH3 of the file as read so far (as it is on disk); whole after kd__raw_end. */
void kd__raw_identity(const kd__rawfile *r, uint64_t *bytes, kd_id *hash);

/* ---- source.c, idx.c, npy.c, csv.c -------------------------------------------------------- */

/* Reads rows * row bytes behind a header that has set a's dtype, ndims, dims and rows. swap: the file's
 * byte order is not the host's. Checks every product, allocates no more than has arrived (or than a
 * plain file is long), and refuses data that are too short or too long. */
kd_status kd__payload_read(kd_array *a, kd__rawfile *r, bool swap, kd_err *err);
kd_status kd__idx_read(kd_array *a, kd__rawfile *r, kd_err *err);
kd_status kd__npy_read(kd_array *a, kd__rawfile *r, kd_err *err);
/* column as in kd_array_read; exclude: a column to leave out (the label's), may be NULL. */
kd_status kd__csv_read(kd_array *a, kd__rawfile *r, char separator, const char *column, const char *exclude,
                       kd_err *err);
/* Whether a file's name says CSV or TSV. */
bool kd__source_is_text(const char *path);
/* kd_array_read with its details: hash and size of the file, for the contract; may be NULL. */
kd_status kd__array_read(kd_array *a, const char *path, const char *column, const char *exclude,
                         uint64_t *bytes, kd_id *hash, kd_err *err);

/* ---- rowset.c: several files as one array -------------------------------------------------- */

typedef struct kd__part {
    const char *path; /* borrowed from the spec */
    uint64_t first, rows, bytes;
    kd_id hash;
} kd__part;

typedef struct kd__rowset {
    kd_array a;
    kd__part *part;
    size_t parts;
} kd__rowset;
/* Appends a file's rows; element types that differ are widened to one that holds both, shapes that
 * differ are KD_EMISMATCH. */
kd_status kd__rowset_add(kd__rowset *s, const char *path, const char *column, const char *exclude,
                         kd_err *err);
void kd__rowset_release(kd__rowset *s);
/* The file of a row; *row becomes the row within that file. */
const char *kd__rowset_where(const kd__rowset *s, uint64_t *row);
/* Converts in place. Integers to wider integers or floats, f32 to f64. */
kd_status kd__array_convert(kd_array *a, kd_dtype to, kd_err *err);
/* "28 x 28 of u8". buf: at least 128 bytes; returns buf. */
const char *kd__shape_text(kd_dtype t, int ndims, const int64_t *dims, char *buf, size_t len);

/* ---- pack_plan.c: which row goes where ------------------------------------------------------ */

typedef struct kd__pack {
    const kd_data_spec *spec;
    kd__rowset input, label;   /* training files first, then test files */
    uint64_t rows, train_rows; /* all; of the training files */
    size_t row_bytes;
    int32_t *labels; /* (rows) in source order */
    kd_id *ids;      /* (rows) in source order */
    uint64_t *order; /* (rows) source rows in store order: train, valid, test */
    uint64_t split_rows[KD_SPLITS], duplicates, leaks;
    int64_t classes;
    double mean, scale;
} kd__pack;
/* Reads all sources and decides everything. p is released by the caller in every case. */
kd_status kd__pack_plan(kd__pack *p, const kd_data_spec *spec, kd_err *err);
void kd__pack_release(kd__pack *p);

/* The id of a row: XXH3-128 over "NAME DTYPE D1,D2,...\n" and the row's bytes (little-endian). scratch:
 * room for the head and the row. */
typedef struct kd__idmaker {
    uint8_t *scratch;
    size_t head, row;
} kd__idmaker;
kd_status kd__idmaker_init(kd__idmaker *m, const char *name, const kd_array *a, kd_err *err);
kd_id kd__idmaker_id(kd__idmaker *m, const void *row);
void kd__idmaker_release(kd__idmaker *m);

/* ---- loader.c, stream.c: windows of decoded chunks, and the streams that draw from them ------ */

struct kd_loader {
    kd_store *store;
    kd_loader_params p;
    int columns, column[KD_LOADER_COLUMNS];
    size_t row_bytes[KD_LOADER_COLUMNS];
    uint32_t chunks;
    uint32_t *chunk, *use; /* (chunks) in store order: number in the store; rows used of it */
    uint64_t rows;         /* all rows used */
    uint32_t *order;       /* (chunks) order of this epoch: indices into chunk */
    uint64_t epoch;
    bool begun;
    /* The window: places 0..cap of the slabs. */
    uint8_t *slab[KD_LOADER_COLUMNS]; /* (cap, row bytes) */
    uint64_t *row_at;                 /* (cap) store-wide row of each place */
    uint32_t *slot;                   /* (chunks) first place of a chunk */
    uint32_t *place; /* (window_rows) places in the order of chunks: what a stream permutes */
    size_t cap;
    bool loaded, resident, decoded_all; /* resident: one window holds everything, decoded once a run */
    uint32_t window, window_chunk, window_chunks; /* number; its chunks in order */
    uint64_t window_first, window_rows;           /* in the sequence of the epoch's rows */
    kd_cursor **cursor;                           /* (p.threads) */
    kd_stream *streams;
    size_t bytes;
    uint64_t decoded;
    double seconds;
};
/* Makes the window that holds row `at` of the epoch's sequence the current one, if it is not. */
kd_status kd__loader_reach(kd_loader *l, uint64_t at, kd_err *err);
/* Frees a stream that is no longer in the loader's list. */
void kd__stream_free(kd_stream *s);
void kd__stream_rewind(kd_stream *s);
kd_stream *kd__stream_following(const kd_stream *s);

#endif
