/* data_private.h - what the files of lib/data share: the raw file below the sources, and limits. */
#ifndef KD_DATA_PRIVATE_H
#define KD_DATA_PRIVATE_H

#include "kd/data.h"
#include "kd/text.h"

#include <stdatomic.h>

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

/* ---- records.c: fields of CSV and TSV ------------------------------------------------------ */

typedef struct kd__records {
    kd__rawfile *raw;
    const char *path;
    char separator;
    kd_err *err;
    kd_status failed; /* of the file below */
    uint8_t block[65536];
    size_t at, len;
    uint64_t line, record_line; /* of the next byte; where the record began */
    char *text;                 /* fields of the record, each ended by NUL */
    size_t used, cap;
    uint32_t *field; /* (fields) where in text each begins */
    size_t fields, field_cap;
} kd__records;
/* raw and err are borrowed until close. */
kd_status kd__records_open(kd__records **out, kd__rawfile *raw, char separator, kd_err *err);
void kd__records_close(kd__records *r); /* NULL-safe */
/* The next record that is no blank line; fields == 0 at the end of the file. */
kd_status kd__records_next(kd__records *r);
static inline const char *kd__records_field(const kd__records *r, size_t i) { return r->text + r->field[i]; }
/* The index of a column by name, else by its number from 1; SIZE_MAX: none. */
size_t kd__records_find(char *const *names, size_t n, const char *name, size_t len);
kd_status kd__records_no_column(const char *path, char *const *names, size_t n, const char *name,
                                kd_err *err);
/* For a sentence: what can be printed of a field, shortened. Returns buf. */
const char *kd__printable(const char *s, char buf[48]);

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

/* ---- png.c, jpeg.c: what kd_image_decode does for each; pixels that were taken are im's, also on failure
 * ---- */

kd_status kd__png_decode(kd_image *im, const void *bytes, size_t n, uint64_t max_pixels, const char *where,
                         kd_err *err);
kd_status kd__jpeg_decode(kd_image *im, const void *bytes, size_t n, uint64_t max_pixels, const char *where,
                          kd_err *err);
/* Room for the pixels of im's size with so many samples each. KD_ELIMIT, KD_ENOMEM. */
kd_status kd__image_room(kd_image *im, int64_t samples, uint64_t max_pixels, const char *where, kd_err *err);

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

/* ---- texts.c, pack_texts.c: rows of texts ---------------------------------------------------- */

#define KD__TEXTS_MAX   8 /* token columns */
#define KD__CELLS_MAX   (KD__TEXTS_MAX + 2)
#define KD__CLASSES_MAX 4096

typedef struct kd__cells { /* a column of texts */
    char *bytes;
    size_t len, cap;
    size_t *end; /* (rows) where in bytes each ends */
    uint64_t rows, rows_cap;
    bool lists; /* of JSON lines: members that are lists, kept as JSON */
} kd__cells;
kd_text kd__cell(const kd__cells *c, uint64_t row); /* borrowed */
void kd__cells_release(kd__cells *c);
bool kd__texts_have_columns(
    const char *path); /* by its name: CSV, TSV, JSON lines; others have a text a line */
/* Appends a file's rows to n columns; of a file without columns n is 1. bytes, hash: of the file.
 * KD_ECORRUPT, KD_EUSAGE (no such column: names the nearest), KD_ELIMIT. */
kd_status kd__texts_read(kd__cells *out, const char *const *columns, size_t n, const char *path,
                         uint64_t *bytes, kd_id *hash, kd_err *err);

typedef struct kd__text_column {
    char name[KD_STORE_NAME_MAX];
    const char *column; /* of the files; borrowed from the spec */
    kd__cells cells;    /* empty once there are tokens */
    kd_token_rows tokens;
} kd__text_column;
typedef struct kd__textset {
    kd_tokenizer *tokenizer; /* NULL: rows are numbers */
    size_t n, max_tokens;
    kd__text_column column[KD__TEXTS_MAX];
    kd__cells label, group;
    kd_strings names; /* of classes, where the labels are words without data.class_names */
    kd__part *part;
    size_t parts;
    /* Where a row is not a text but a part of one, else NULL. */
    uint64_t *text; /* (rows) which */
    kd_id *text_id; /* (rows) hash of all of it */
    uint8_t *mask;  /* of conversations: beside the tokens' ids, 1: to be predicted; else NULL */
} kd__textset;
struct kd__pack;
/* Reads all files and encodes their texts: p->text, rows and train_rows. */
kd_status kd__textset_read(struct kd__pack *p, int threads, kd_err *err);
/* Windows in the place of texts (pack_windows.c): rows and train_rows count them. */
kd_status kd__textset_windows(struct kd__pack *p, kd_err *err);
/* Conversations (pack_chats.c): cells become tokens and mask; rows and train_rows count those that are rows.
 */
kd_status kd__textset_chats(struct kd__pack *p, kd_err *err);
/* The file of a text; *row becomes the row within that file. */
const char *kd__textset_where(const kd__textset *t, uint64_t *row);
/* The text, counted from the first file's first, that a row is of. */
static inline uint64_t kd__textset_text(const kd__textset *t, uint64_t row)
{
    return t->text ? t->text[row] : row;
}
/* Labels from the column: p->labels, classes. */
kd_status kd__textset_labels(struct kd__pack *p, kd_err *err);
kd_status kd__textset_id(const kd__textset *t, uint64_t row, kd_buf *scratch, kd_id *out, kd_err *err);
kd_dtype kd__textset_dtype(const kd__textset *t); /* of the tokens: u16 while ids fit */
size_t kd__textset_tokens(const kd__textset *t, size_t column, uint64_t row);
/* Writes a row's tokens as they are stored; returns how many. */
size_t kd__textset_put(const kd__textset *t, size_t column, uint64_t row, void *out);
void kd__textset_release(kd__textset *t);

/* ---- pack_plan.c: which row goes where ------------------------------------------------------ */

typedef struct kd__pack {
    const kd_data_spec *spec;
    kd__textset text; /* rows of texts: input and, but for labels in files of their own, label are empty */
    kd__rowset input, label;   /* training files first, then test files */
    uint64_t rows, train_rows; /* all; of the training files */
    size_t row_bytes;
    int32_t *labels; /* (rows) in source order; NULL: texts without labels */
    kd_id *ids;      /* (rows) in source order */
    uint64_t *order; /* (rows) source rows in store order: train, valid, test */
    uint64_t split_rows[KD_SPLITS], duplicates, leaks, left_out;
    int64_t classes;
    double mean, scale;
} kd__pack;
/* Reads all sources and decides everything. p is released by the caller in every case. */
kd_status kd__pack_plan(kd__pack *p, const kd_data_spec *spec, int threads, kd_err *err);
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

/* ---- form.c: rows of a column in memory, in one of three forms ------------------------------ */

typedef enum kd__form {
    KD__FIXED,  /* every row has the same bytes: row i lies at i * bytes */
    KD__RAGGED, /* rows of some positions each, one behind the other */
    KD__SPARSE  /* positions of a sparse codec */
} kd__form;
typedef struct kd__shape {
    int column;
    kd__form form;
    bool coded, ragged;
    size_t each;    /* positions of a step of the ragged axis, or of a row */
    size_t bytes;   /* of a row (fixed), of a position (ragged); of an entry and its place (sparse) */
    size_t most;    /* positions of the largest chunk, at most */
    size_t longest; /* positions of the longest row */
    size_t entries; /* sparse: of a position, at most */
    int temperatures;
} kd__shape;
/* Describes a column. Reads ragged ones through, chunk by chunk, to know their longest. */
kd_status kd__shape_init(kd__shape *f, kd_store *s, int column, const uint32_t *chunks, uint32_t n,
                         kd_err *err);

/* Some rows of a column that is ragged or sparse. Zeroed: none. */
typedef struct kd__held {
    uint32_t rows;
    uint64_t *offset; /* (rows + 1) positions before each row */
    uint8_t *values;  /* ragged: positions from byte `head` on */
    size_t head;
    kd_sparse sparse;
    uint32_t *length; /* (rows) of a chunk being read */
    size_t offset_room, value_room, length_room;
} kd__held;
/* Room for so many rows and positions, and what it takes. */
kd_status kd__held_reserve(kd__held *h, const kd__shape *f, size_t rows, size_t positions, kd_err *err);
size_t kd__held_bytes(const kd__shape *f, size_t rows, size_t positions);
kd_status kd__held_read(kd__held *h, const kd__shape *f, kd_cursor *c, uint32_t chunk, uint32_t rows,
                        kd_err *err);
void kd__held_clear(kd__held *h);
kd_status kd__held_append(kd__held *h, const kd__shape *f, const kd__held *from, uint32_t row, kd_err *err);
void kd__held_release(kd__held *h);

/* ---- window.c: decoded chunks, and the thread that decodes ahead ----------------------------- */

typedef struct kd__window {
    uint32_t number, chunks;
    uint64_t first, rows; /* in the sequence of the epoch's rows */
    bool loaded;
    uint32_t *order;                  /* (chunks) indices into the loader's list, in order; each has a slot */
    uint64_t *row_at;                 /* (slots) store-wide number of a slot's first row */
    uint8_t *slab[KD_LOADER_COLUMNS]; /* fixed: (slots, unit rows, row bytes) */
    kd__held *held[KD_LOADER_COLUMNS]; /* others: (slots) */
    size_t tasks;                      /* blocks to decode; those below next are taken */
    atomic_size_t next, bad;           /* bad: the first that failed, tasks: none */
} kd__window;
typedef struct kd__ahead kd__ahead;

kd_status kd__window_alloc(kd__window *w, kd_loader *l, kd_err *err);
void kd__window_release(kd__window *w, const kd_loader *l);
size_t kd__window_bytes(const kd_loader *l);
/* Decides what window `number` of this epoch holds; nothing is decoded yet. */
void kd__window_plan(kd__window *w, const kd_loader *l, uint32_t number);
/* Decodes what is not decoded yet, with the loader's team. KD_ECORRUPT names the first bad block. */
kd_status kd__window_finish(kd__window *w, kd_loader *l, kd_err *err);
kd_status kd__ahead_open(kd__ahead **out, kd_loader *l, kd_err *err);
void kd__ahead_close(kd__ahead *a);
void kd__ahead_begin(kd__ahead *a, kd__window *w); /* w: planned, and nobody else's */
void kd__ahead_leave(kd__ahead *a);                /* gives up what is not begun; waits for the rest */

/* ---- loader.c, stream.c: the order of an epoch, and the streams that draw from it ------------ */

/* A chunk that has fewer rows to give than the largest. */
typedef struct kd__short {
    uint32_t index, place; /* in the loader's list; in this epoch's order */
    uint32_t missing;
    uint64_t before; /* rows missing at the places before this one */
} kd__short;

struct kd_loader {
    kd_store *store;
    kd_loader_params p;
    int columns;
    kd__shape shape[KD_LOADER_COLUMNS];
    uint32_t *chunk;             /* (chunks) numbers in the store, in store order */
    uint32_t chunks, last, unit; /* last: rows of the last one within the limit; unit: rows of the largest */
    uint32_t *kept;              /* (chunks) rows that are not dropped; NULL: none are */
    uint64_t rows;               /* all rows used */
    kd__short *shorts;           /* by place */
    uint32_t nshorts;
    kd_permutation order;
    uint64_t epoch;
    bool begun, resident, decoded_all; /* resident: one window holds everything, decoded once a run */
    uint32_t slots, windows;           /* chunks of a window; windows of an epoch */
    kd__window window[2], *now, *next; /* next: the one that is decoded ahead, NULL: none */
    uint32_t *place;                   /* (now->rows) slot * unit + row, in the order of chunks */
    kd_cursor **cursor;                /* (p.threads) */
    kd__ahead *ahead;
    kd_stream *streams;
    size_t bytes;
    atomic_uint_least64_t decoded;
    double seconds;
};
/* Makes the window that holds row `at` of the epoch's sequence the current one. */
kd_status kd__loader_reach(kd_loader *l, uint64_t at, kd_err *err);
uint32_t kd__loader_use(const kd_loader *l, uint32_t i);   /* rows used of chunk i of the list */
uint32_t kd__loader_whole(const kd_loader *l, uint32_t i); /* rows it has */
uint32_t kd__loader_chunk_at(const kd_loader *l, uint32_t place);
uint64_t kd__loader_rows_before(const kd_loader *l, uint32_t place);
/* Frees a stream that is no longer in the loader's list. */
void kd__stream_free(kd_stream *s);
void kd__stream_rewind(kd_stream *s);
bool kd__stream_wants(const kd_stream *s, uint64_t row); /* this row or one behind it */
kd_stream *kd__stream_following(const kd_stream *s);

#endif
