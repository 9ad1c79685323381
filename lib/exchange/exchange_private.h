/* exchange_private.h - what the files of lib/exchange share.
 *
 * Reading order: matching.c (which row of the files is which of the store), row_ids.c (ids in files of their
 * own), arrays.c (.npy and safetensors read in place), jsonl.c (one line) and jsonl_file.c (all of them),
 * kld.c; identity.c (whose outputs they are), import.c (the pass), import_kld.c (a new store); export.c and a
 * file per format.
 */
#ifndef KD_EXCHANGE_PRIVATE_H
#define KD_EXCHANGE_PRIVATE_H

#include "kd/data.h"
#include "kd/exchange.h"
#include "kd/model.h"

/* Reads n bytes at `at`; KD_ECORRUPT when the file ends before. (matching.c) */
kd_status kd__read_at(int fd, void *to, size_t n, uint64_t at, const char *path, kd_err *err);
/* Makes room for so many bytes; what was there is kept. */
kd_status kd__room(void *pointer, size_t *cap, size_t bytes, kd_err *err);

/* ---- matching.c ------------------------------------------------------------------------------- */

typedef struct kd__entry {
    uint8_t key[16]; /* an id, or a number big-endian in the last 8 bytes */
    uint64_t at;     /* where the row is: its number in the files, or a byte */
} kd__entry;

typedef struct kd__match {
    kd_store *s;
    kd_cursor *cursor;
    kd_row_key key;
    bool declared; /* row i of the files is the row whose key is the number i: no table */
    int column;    /* the store's ids or sources; -1 for KD_KEY_ROW */
    uint64_t rows; /* of the files */
    kd__entry *e;  /* (n) sorted by key, then place */
    uint64_t n;
    size_t cap;       /* bytes */
    void *block;      /* keys of a chunk */
    const char *what; /* the files, for messages */
    /* "x.npy, row 5": buf has 256 bytes */
    const char *(*place)(const void *arg, uint64_t at, char *buf);
    const void *arg;
} kd__match;
/* Finds the column of the store that holds keys of this kind. KD_EUNSUPPORTED (no column `source`). */
kd_status kd__match_open(kd__match *m, kd_store *s, kd_row_key key, kd_err *err);
kd_status kd__match_add(kd__match *m, const uint8_t key[16], uint64_t at, kd_err *err);
void kd__key_of_number(uint64_t n, uint8_t key[16]);
/* Sorts what was added, then meets every row of the store with exactly one of the files. visit: each pair, in
 * the store's order. KD_EMISMATCH names rows that are missing, foreign or double. */
kd_status kd__match_check(kd__match *m, void (*visit)(void *arg, uint64_t row, uint64_t at), void *arg,
                          kd_err *err);
/* at: (rows of the chunk). Chunks in order, from the first one; kd__match_check begins anew. */
kd_status kd__match_chunk(kd__match *m, uint32_t chunk, uint64_t *at, kd_err *err);
void kd__match_rewind(kd__match *m); /* the next chunk is the first again */
void kd__match_release(kd__match *m);

/* ---- inputs ------------------------------------------------------------------------------------ */

typedef struct kd__in_column {
    char field[128]; /* the tensor's or member's name */
    kd_role role;
    char tap[KD_STORE_NAME_MAX];
    kd_dtype dtype; /* in the file */
    int ndims;
    int64_t dims[6]; /* of a row; the first is -1: ragged; the last is 0 for top-k: the caller's classes */
    bool sparse;
} kd__in_column;

/* One column's rows of one chunk. */
typedef struct kd__rows {
    float *values;     /* (positions, width) */
    void *raw;         /* the same as in the file, in the host's byte order; NULL: there are only values */
    uint32_t *lengths; /* (rows), ragged */
    size_t positions, values_cap, raw_cap, lengths_cap;
    kd_sparse top; /* sparse: instead of values */
} kd__rows;
void kd__rows_release(kd__rows *r);
/* Room for so many positions and entries in arrays that kd_sparse_release frees. (jsonl.c) */
kd_status kd__top_reserve(kd_sparse *s, size_t positions, size_t entries, kd_err *err);
/* What of a stranger's text can be printed, shortened. buf: 64 bytes; returns buf. (jsonl.c) */
const char *kd__shown(const char *s, char *buf);

typedef enum kd__identity {
    KD__TEACHER,
    KD__DATA,
    KD__TOKENIZER,
    KD__VIEW_SEED,
    KD__IDENTITIES
} kd__identity;
typedef struct kd__names { /* what files or a store say of themselves; NULL: nothing */
    char *v[KD__IDENTITIES];
} kd__names;

typedef struct kd__input {
    kd__in_column col[KD_IMPORT_COLUMNS];
    size_t n;
    uint64_t rows;
    uint32_t most, largest; /* top-k: entries of the fullest position, largest class */
    kd__match match;
    kd__names names;
    /* The rows at these places, in this order, of one column. */
    kd_status (*fetch)(struct kd__input *in, size_t col, const uint64_t *at, uint32_t rows, kd__rows *out,
                       kd_err *err);
    /* Adds the bytes of one row, as they are in the file, to a hash. */
    kd_status (*sample)(struct kd__input *in, uint64_t at, kd_hasher *h, kd_err *err);
    void (*close)(struct kd__input *in);
    void *state;
} kd__input;
typedef enum kd__file_kind { KD__NPY, KD__SAFETENSORS, KD__JSONL, KD__KLD, KD__FILE_KINDS } kd__file_kind;
/* By the first bytes. KD_ECORRUPT (none of them), KD_EUNSUPPORTED (gzip). */
kd_status kd__file_kind_of(const char *path, kd__file_kind *kind, kd_err *err);
/* What a name says: "logits", "big/logits", "features.block3"; false: nothing known. */
bool kd__role_of_name(const char *name, kd_role *role, char tap[KD_STORE_NAME_MAX]);
/* in is zeroed; released by kd__input_close in every case. */
kd_status kd__arrays_open(kd__input *in, kd_store *s, const char *const *files, size_t n, kd__file_kind kind,
                          const kd_import_params *p, kd_import_report *report, kd_err *err);
kd_status kd__jsonl_open(kd__input *in, kd_store *s, const char *const *files, size_t n,
                         const kd_import_params *p, kd_import_report *report, kd_err *err);
void kd__input_close(kd__input *in);

/* ---- row_ids.c --------------------------------------------------------------------------------- */

/* Adds the ids of a file to the table, row by row from 0: .npy (rows, 16) of u8; CSV with a column `id`, or
 * text with one id a line. KD_EMISMATCH: not m->rows of them. */
kd_status kd__ids_read(kd__match *m, const char *path, kd_err *err);
/* n ids of 16 bytes at `at` of an open file, for rows first .. */
kd_status kd__ids_at(kd__match *m, int fd, const char *path, uint64_t at, uint64_t n, uint64_t first,
                     kd_err *err);

/* ---- identity.c -------------------------------------------------------------------------------- */

extern const char *const kd__identity_keys[KD__IDENTITIES]; /* "kd.teacher", ... */
/* What a store says; teacher: its name in the store, NULL: none asked for. */
kd_status kd__names_of_store(kd__names *n, const kd_store *s, const char *teacher, kd_err *err);
/* KD_EMISMATCH: "other data: ..." with both values. What one side does not say is not compared. */
kd_status kd__names_compare(const kd__names *file, const kd__names *store, const char *path,
                            const char *where, kd_err *err);
kd_status kd__names_set(kd__names *n, kd__identity which, const char *text, kd_err *err);
void kd__names_release(kd__names *n);

/* ---- export ------------------------------------------------------------------------------------ */

/* A column's chunk as it is written. */
typedef struct kd__view {
    const kd_column *c;
    int column;
    bool sparse, ragged;
    kd_dtype dtype; /* encoded ones and, where asked for, bf16: f32 */
    const uint8_t *data;
    uint32_t *lengths;             /* (rows) ragged; else all 1 */
    size_t each, width, positions; /* positions: of the chunk, `each` counted */
    kd_sparse top;                 /* sparse */
    void *block, *wide;
    size_t block_cap, wide_cap, lengths_cap;
} kd__view;

typedef struct kd__export {
    kd_store *s;
    kd_cursor *cursor;
    const kd_export_params *p;
    const char *path;
    FILE *f;
    uint64_t rows, done, total; /* rows to write; of the progress */
    kd__view *view;             /* (n) */
    size_t n;
    kd__view id; /* the column of ids */
} kd__export;
typedef struct kd__walk { /* over the chunks that are exported */
    uint32_t chunk, rows;
    uint64_t left;
    bool begun;
} kd__walk;
/* The next chunk and how many of its rows; false: no more. A zeroed walk begins. */
bool kd__export_next(const kd__export *x, kd__walk *w);
/* Fills v. widen: bf16 as f32. */
kd_status kd__view_read(kd__export *x, kd__view *v, uint32_t chunk, bool widen, kd_err *err);
/* Numbers and positions of the first `rows` rows of what was read. */
size_t kd__view_positions(const kd__view *v, uint32_t rows);
/* Counts rows for the progress. KD_ESTOPPED; KD_EIO where nothing can be written any more. */
kd_status kd__export_step(kd__export *x, uint64_t rows, kd_err *err);
kd_status kd__export_npy(kd__export *x, kd_err *err);
kd_status kd__export_safetensors(kd__export *x, kd_err *err);
kd_status kd__export_jsonl(kd__export *x, kd_err *err);
kd_status kd__export_csv(kd__export *x, kd_err *err);

#endif
