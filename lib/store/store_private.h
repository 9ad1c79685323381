/* store_private.h - what the files of lib/store share.
 *
 * Reading order: column.c (what a column is), record.c and shuffle.c (one block to bytes and back),
 * pagewalk.c (finding records in an LMDB file without LMDB), segment.c, manifest.c, store_reader.c,
 * cursor.c; then store_writer.c, writer_resume.c, writer_group.c, seal.c; store_verify.c; last rewrite.c and
 * what is done with it: slice.c, merge.c, compact.c.
 */
#ifndef KD_STORE_PRIVATE_H
#define KD_STORE_PRIVATE_H

#include "kd/store.h"

#include <stdatomic.h>
#include <sys/types.h>
#define ZSTD_STATIC_LINKING_ONLY /* ZSTD_d_forceIgnoreChecksum */
#include <zstd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "kd stores are little-endian and read in place: this machine needs byte swapping in record.c"
#endif

#define KD__MANIFEST_MAX (64u << 20)  /* bytes of manifest.json */
#define KD__HEADER_MAX   (16u << 20)  /* bytes of a segment's header text */
#define KD__BOOKS_MAX    (256u << 20) /* bytes of a segment's codebooks, which an open store keeps */
#define KD__SEGMENTS_MAX 256
#define KD__THREADS_MAX  256
#define KD__ROWS_MAX     ((uint64_t)1 << 48)

/* ---- columns (column.c) ------------------------------------------------------------------- */

enum { KD__ENCODING_DENSE = 1 };
enum { KD__FILTER_NONE = 0, KD__FILTER_SHUFFLE = 1, KD__FILTER_EXPONENT = 2, KD__FILTER_UNKNOWN = 255 };
int kd__encoding_code(const char *name); /* 0 if this build does not know it */
int kd__filter_code(const char *name);   /* KD__FILTER_UNKNOWN if this build does not know it */
bool kd__column_dense(const kd_column *c);

static inline bool kd__column_ragged(const kd_column *c) { return c->ndims > 0 && c->dims[0] == -1; }
/* Bytes of one row, or of one step of the first axis when that is ragged; false on overflow. */
bool kd__column_unit(const kd_column *c, size_t *bytes);
/* True for [a-z0-9_.-]+ without a leading dot, at most KD_STORE_NAME_MAX - 1 long. */
bool kd__segment_name_ok(const char *name);
/* Positions of a chunk; lengths: (rows) u32 of a ragged column. False: more than a block may have. */
bool kd__column_positions(const kd_column *c, uint32_t rows, const uint8_t *lengths, size_t *positions);
/* Fills encoding, filter and level where they are open and checks that they fit. */
kd_status kd__column_defaults(kd_column *c, int default_level, kd_err *err);
/* Checks a column that is to be written and fills what it left open; an encoded one gets all parameters of
 * its codec. params is a reference of c's own. */
kd_status kd__column_complete(kd_column *c, int default_level, kd_err *err);
/* book_sum: checksum of the codebook's record, where there is one. NULL when out of memory. */
json_t *kd__column_to_json(const kd_column *c, uint64_t book_sum);
/* params is a new reference; of the codebook only book_bytes is known so far. KD_ECORRUPT. */
kd_status kd__column_from_json(kd_column *c, uint64_t *book_sum, const json_t *obj, const char *path,
                               kd_err *err);

/* ---- byte planes (shuffle.c) -------------------------------------------------------------- */

/* in: n elements of `size` bytes; out: byte 0 of all elements, then byte 1 of all, ... */
void kd__shuffle(uint8_t *out, const uint8_t *in, size_t n, size_t size);
void kd__unshuffle(uint8_t *out, const uint8_t *in, size_t n, size_t size);
/* in: n bf16; out: their exponents (n), then mantissa and sign of each (n), sign in the lowest bit. */
void kd__split_exponents(uint8_t *out, const uint8_t *in, size_t n);
void kd__join_exponents(uint8_t *out, const uint8_t *in, size_t n);

/* ---- marked bytes (marks.c, marks.simd.c) ------------------------------------------------- */

enum { KD__MARKS_STRIDE = 64 };      /* at most */
enum { KD__MARKS_TRIED = 1u << 16 }; /* bytes at a block's beginning that choose the stride */

/* The payload of raw (n bytes) at out, which has room for ZSTD_compressBound(n). Returns its size; SIZE_MAX,
 * with any bytes at out: not smaller than n. */
size_t kd__marks_write(uint8_t *out, const uint8_t *raw, size_t n);

/* Parts of a payload; borrowed. */
typedef struct kd__marks {
    const uint8_t *top, *kept, *marked, *end;
    uint8_t stride, background;
} kd__marks;
/* Checks what can be checked without decoding: sizes, stride, unused bits. KD_ECORRUPT. */
kd_status kd__marks_parse(kd__marks *m, const uint8_t *payload, size_t len, uint64_t raw, kd_err *err);
/* out: n bytes. KD_ECORRUPT: marks and marked bytes do not fit each other. */
kd_status kd__marks_read(uint8_t *out, size_t n, const uint8_t *payload, size_t len, kd_err *err);

typedef struct kd__marks_loops {
    bool (*read)(uint8_t *out, size_t n,
                 const kd__marks *m); /* false: marks and bytes do not fit each other */
    size_t (*count)(const uint8_t *bits, size_t bytes);
} kd__marks_loops;
extern const kd__marks_loops kd__marks_loops_scalar, kd__marks_loops_avx2, kd__marks_loops_avx512;
/* The fastest that this CPU can run and the level allows. */
const kd__marks_loops *kd__marks_for(kd_isa isa);

/* ---- records (record.c) ------------------------------------------------------------------- */

#define KD__RECORD_HEAD 64
#define KD__NO_CHUNK    UINT32_MAX /* chunk and column of a segment's header record */
enum { KD__CODEC_RAW = 0, KD__CODEC_ZSTD = 1, KD__CODEC_MARKS = 2 };
enum { KD__BOOK_LEVEL = 19 }; /* zstd level of codebooks */

typedef struct kd__record {
    uint8_t dtype, encoding, filter, codec, split;
    uint16_t flags;
    uint32_t column, chunk, rows;
    uint64_t first;  /* store-wide index of the first row */
    uint64_t raw;    /* bytes of the decoded block */
    uint64_t stored; /* bytes of the payload */
    uint64_t tag;    /* checksum of the segment's header record: ties a record to its segment */
    uint64_t checksum;
} kd__record;

/* What a record must say of itself, from the manifest. */
typedef struct kd__expect {
    const kd_column *column;
    uint32_t index, chunk; /* column within the segment */
    kd_chunk_info info;
    uint64_t tag;
} kd__expect;

void kd__key(uint32_t chunk, uint32_t column, uint8_t key[8]);
/* Reads the fields; KD_ECORRUPT: magic or version. bytes: KD__RECORD_HEAD at least. */
kd_status kd__record_parse(kd__record *r, const uint8_t *bytes, kd_err *err);
/* record: header and payload, size bytes in all. Checks length, fields, then the checksum. */
kd_status kd__record_check(kd__record *r, const uint8_t *record, size_t size, const kd__expect *want,
                           kd_err *err);
/* The same for a segment's header record, whose text it returns (free() it). */
kd_status kd__record_open_header(const uint8_t *record, size_t size, char **text, size_t *len,
                                 uint64_t *checksum, kd_err *err);
/* The same for a codebook's record, which must have the checksum sum; out: c->book_bytes. */
kd_status kd__record_open_book(const uint8_t *record, size_t size, const kd_column *c, uint32_t index,
                               uint64_t sum, uint8_t *out, kd_err *err);
/* The filtered form of one block: raw bytes at out. */
void kd__block_filter(uint8_t *out, const kd_column *c, uint32_t rows, const kd_block *b, int filter);
/* Bytes of the block before compression. KD_EUSAGE when the sizes do not fit the column. */
kd_status kd__block_size(const kd_column *c, uint32_t rows, const kd_block *b, size_t *raw, kd_err *err);
/* Room for packing so many bytes. zstd gets all that it could need: with less, the frame that it makes would
 * depend on how much less, and other writers' records would not be the same. */
static inline size_t kd__record_room(size_t raw) { return KD__RECORD_HEAD + ZSTD_compressBound(raw); }
/* Compresses raw (r->raw bytes, already filtered) into out (kd__record_room of them), fills codec, stored and
 * checksum and writes the header. Returns the size of the record; 0: zstd ran out of memory. */
size_t kd__record_pack(kd__record *r, const uint8_t *raw, uint8_t *out, ZSTD_CCtx *zstd, int level);

typedef struct kd__decoder {
    ZSTD_DCtx *zstd;
    uint8_t *scratch;
    size_t size;
} kd__decoder;
/* frame_checksum: also check zstd's own checksum of the decoded bytes. */
kd_status kd__decoder_init(kd__decoder *d, bool frame_checksum, kd_err *err);
void kd__decoder_release(kd__decoder *d);
kd_status kd__decoder_reserve(kd__decoder *d, size_t size, kd_err *err);
/* Decodes a record that kd__record_check accepted; out: r->raw bytes. */
kd_status kd__record_decode(const kd__record *r, const uint8_t *payload, const kd_column *c, uint8_t *out,
                            kd__decoder *d, kd_err *err);

/* ---- LMDB files, read by pread alone (pagewalk.c) ----------------------------------------- */

typedef struct kd__db {
    uint32_t depth, flags;
    uint64_t branch, leaf, overflow, entries, root;
} kd__db;

typedef struct kd__pages {
    int fd; /* borrowed */
    uint64_t size;
    uint32_t psize;
    uint64_t last; /* number of the last page in use */
    uint64_t txn;
    kd__db free_db, main_db;
} kd__pages;

/* One entry of a leaf: where its value lies in the file. */
typedef struct kd__node {
    uint64_t number;    /* position in key order, from 0 */
    const uint8_t *key; /* 8 bytes */
    uint64_t offset, size;
} kd__node;

typedef struct kd__walk {
    const kd__pages *pages;
    const kd__db *db;
    uint64_t *seen; /* bitmap of pages; NULL: overflow pages are not opened */
    kd_status (*node)(void *arg, const kd__node *n, kd_err *err);
    bool (*damage)(void *arg, const char *what); /* NULL or false: the walk ends with the first damage */
    void *arg;
    /* private to the walk */
    uint8_t *buffer;
    uint64_t branch, leaf, overflow, entries;
    uint8_t last_key[8], floor_key[8];
    bool has_last, has_floor;
} kd__walk;

/* Reads both meta pages. KD_ECORRUPT, KD_EIO. */
kd_status kd__pages_open(kd__pages *p, int fd, kd_err *err);
/* Visits all entries in key order. KD_ECORRUPT, KD_EIO, KD_ENOMEM, or what `node` returned. */
kd_status kd__walk_run(kd__walk *w, kd_err *err);
/* The whole file, for verification: both trees, the free list, every page used exactly once. */
kd_status kd__walk_file(const kd__pages *p, kd_status (*node)(void *, const kd__node *, kd_err *),
                        bool (*damage)(void *, const char *), void *arg, kd_err *err);
kd_status kd__pread(int fd, void *out, size_t size, uint64_t offset, kd_err *err);

/* ---- segments (segment.c) ----------------------------------------------------------------- */

/* Where each record of a segment lies: entry 0 is the header record, 1 + i the codebook of column i, then
 * follow the records of chunk 0, of chunk 1 ... The order of entries is that of keys. */
typedef struct kd__index {
    uint64_t *offset; /* 0: missing */
    uint32_t *size;
    uint64_t entries;
    uint32_t columns;
} kd__index;

static inline uint64_t kd__entry(uint32_t columns, uint32_t chunk, uint32_t column)
{
    return 1 + ((uint64_t)chunk + 1) * columns + column;
}
/* Whether a record belongs at an entry: codebook's entries are empty where the column has none. */
bool kd__entry_used(const kd_column *columns, uint32_t n, uint64_t entry);
/* Records of a segment with so many chunks. */
uint64_t kd__records(const kd_column *columns, uint32_t n, uint32_t chunks);
/* Fills an index by walking the tree, or the whole file; every key must be there. columns: (n) of the
 * segment. */
kd_status kd__index_build(kd__index *x, const kd__pages *p, const kd_column *columns, uint32_t n,
                          uint32_t chunks, bool whole, kd_err *err);
kd_status kd__index_alloc(kd__index *x, uint32_t columns, uint32_t chunks, kd_err *err);
/* Puts one node of a walk in its place. KD_ECORRUPT: not a key of this segment. */
kd_status kd__index_put(kd__index *x, const kd__node *n, kd_err *err);
void kd__index_release(kd__index *x);
/* Reads the codebook of column i; *book: free() it. KD_ECORRUPT, KD_EIO, KD_ENOMEM. */
kd_status kd__book_read(int fd, const kd__index *x, uint32_t i, const kd_column *c, uint64_t sum,
                        uint8_t **book, kd_err *err);
/* Reads a segment's header record at offset; text: free() it. KD_ECORRUPT, KD_EIO, KD_ENOMEM. */
kd_status kd__header_read(int fd, uint64_t offset, uint64_t size, char **text, size_t *len,
                          uint64_t *checksum, kd_err *err);

typedef struct kd__segment {
    char name[KD_STORE_NAME_MAX], file[KD_STORE_NAME_MAX + 16];
    uint64_t bytes, pages;
    kd_id root;
    uint64_t tag;
    uint32_t first_column, columns; /* in the store's list */
    const json_t *entry;            /* of the manifest; borrowed */
    int fd;                         /* -1 until opened */
    kd__index index;
} kd__segment;

/* Opens the file named in the manifest: size, meta pages, index, header record, codebooks. */
kd_status kd__segment_open(kd__segment *g, kd_store *s, kd_err *err);
void kd__segment_close(kd__segment *g);
/* Compares the segment's header text with the manifest. KD_ECORRUPT, KD_EMISMATCH. */
kd_status kd__segment_check_header(const kd__segment *g, const kd_store *s, const char *text, size_t len,
                                   uint64_t checksum, kd_err *err);
/* The text of a segment's header record: columns, contract, chunk_rows, root of the base segment it
 * extends ("" for the base). NULL when out of memory. */
char *kd__segment_header_text(const char *name, const kd_column *columns, const uint64_t *book_sums, size_t n,
                              const json_t *contract, uint32_t chunk_rows, const char *of);

/* ---- store and manifest (manifest.c, store_reader.c) -------------------------------------- */

struct kd_store {
    char *path;
    json_t *manifest;
    uint64_t rows, bytes, split_rows[KD_SPLITS];
    uint32_t nchunks, chunk_rows;
    kd_chunk_info *chunks;
    kd_column *columns;
    uint32_t ncolumns, *column_segment;
    uint64_t *book_sums; /* per column: checksum of the codebook's record */
    kd__segment *segments;
    uint32_t nsegments;
    char root[33];
    _Atomic uint64_t *reads; /* per column */
};

/* Reads and checks manifest.json; opens no segment. */
kd_status kd__manifest_load(kd_store **out, const char *path, kd_err *err);
void kd__store_free(kd_store *s);
/* The chunk table in its compact form: runs of equal chunks. NULL when out of memory. */
json_t *kd__chunks_to_json(const kd_chunk_info *chunks, uint32_t n);
/* Computes splits, bytes, root and checksum from "chunks" and "segments" and writes FOLDER/manifest.json. */
kd_status kd__manifest_save(json_t *manifest, const char *folder, kd_err *err);
/* "x.kd" for "x.kd/"; free() it. */
char *kd__store_path(const char *path);

/* ---- writer (store_writer.c, writer_resume.c, writer_group.c, seal.c) --------------------- */

/* A block that waits for its transaction. Both slabs use the same layout: item i has
 * kd__record_room bytes at `at` in each. */
typedef struct kd__item {
    kd__record record;
    size_t at, size; /* size: of the packed record */
} kd__item;

typedef struct kd__group {
    kd__item *items;
    size_t n, cap;
    uint8_t *raw, *packed;
    size_t used, slab;
    uint32_t chunks;
} kd__group;

/* A packed record on its way into the file. */
typedef struct kd__put {
    uint8_t key[8];
    const void *data;
    size_t size;
} kd__put;

struct kd_store_writer {
    char *path;        /* of the store, NAME.kd */
    char *folder;      /* where the file is: NAME.kd.part, or NAME.kd for an extension */
    char *part, *file; /* full paths while written and when sealed */
    kd_store *store;   /* borrowed; NULL when a new store is made */
    char name[KD_STORE_NAME_MAX], base_root[33];
    kd_writer_params params;
    kd_column *columns;
    uint32_t ncolumns;
    kd__put *books;      /* (ncolumns) packed codebooks until they are put; size 0: none */
    uint64_t *book_sums; /* (ncolumns) */
    json_t *contract;
    int lock; /* descriptor that holds the flock on the .part */
    struct MDB_env *env;
    char *torn; /* what to say when the file is cut under LMDB's map */
    unsigned dbi;
    size_t map_size;
    ZSTD_CCtx **zstd; /* per thread */
    kd__group group;
    uint64_t tag;
    uint64_t *sums; /* checksums of all records put so far, in key order */
    size_t nsums, sums_cap;
    kd_chunk_info *chunks; /* appended so far; the last group.chunks of them are not committed */
    uint32_t nchunks, chunks_cap;
    uint64_t rows, raw_bytes;
    bool failed;
    bool held; /* the folder keeps its name NAME.kd.part when this segment is sealed */
};

void kd__group_release(kd__group *g);
/* Takes a copy of the blocks, filtered. */
kd_status kd__group_add(kd_store_writer *w, const kd_chunk_info *info, uint32_t chunk, const kd_block *blocks,
                        const size_t *raw, kd_err *err);
/* Compresses what waits (in parallel), puts it and commits. */
kd_status kd__group_commit(kd_store_writer *w, kd_err *err);
/* Puts n packed records in one transaction, growing the map as needed. */
kd_status kd__env_put(kd_store_writer *w, const kd__put *puts, size_t n, kd_err *err);
kd_status kd__env_open(kd_store_writer *w, kd_err *err);
void kd__writer_free(kd_store_writer *w);
kd_status kd__writer_push_sum(kd_store_writer *w, uint64_t sum, kd_err *err);
kd_status kd__writer_push_heads(kd_store_writer *w, kd_err *err); /* those of header record and codebooks */
kd_status kd__writer_push_chunk(kd_store_writer *w, kd_split split, uint32_t rows, kd_err *err);

/* Opens and locks FILE.part; *size: bytes in it. (writer_resume.c) */
kd_status kd__part_take(kd_store_writer *w, off_t *size, kd_err *err);
/* Finds out what it holds. text: the header that is wanted now. *fresh: nothing was committed. */
kd_status kd__part_resume(kd_store_writer *w, const char *text, bool *fresh, kd_err *err);
/* The first difference between two JSON values; false: none. where: the member's name with dots, "" for the
 * whole; a and b: the two texts, "absent" where there is none. All three end up zeroed or filled. */
typedef struct kd__difference {
    kd_buf where, a, b;
} kd__difference;
bool kd__json_difference(kd__difference *d, const json_t *a, const json_t *b);
void kd__difference_release(kd__difference *d);
/* Text of a kd_buf that may have stayed empty. */
static inline const char *kd__buf_text(const kd_buf *b) { return b->text ? b->text : ""; }

/* As kd_store_create, but sealing leaves the folder under its name PATH.part, so that more segments can be
 * added before kd__publish. What is at PATH is not looked at. (store_writer.c) */
kd_status kd__store_create_held(kd_store_writer **out, const char *path, const kd_column *columns, size_t n,
                                const json_t *contract, const kd_writer_params *p, kd_err *err);
/* Renames folder to path; with force what is there goes away in the same step where the file system can
 * exchange names. (seal.c) */
kd_status kd__publish(const char *folder, const char *path, bool force, kd_err *err);
/* Locks the store's folder (close *folder to unlock) and reads the manifest, which others may have replaced
 * since. */
kd_status kd__lock_manifest(int *folder, kd_store **now, const char *path, kd_err *err);

/* ---- new stores from chunks of old ones (rewrite.c) --------------------------------------- */

#define KD__PLAN_FILE "rewrite.json" /* in the unfinished folder: what is being done */

/* A chunk of the new store: one of a source, or what of it is not left out. */
typedef struct kd__pick {
    uint32_t source, chunk, rows;
} kd__pick;

typedef struct kd__rewrite {
    char *out, *folder; /* NAME.kd, NAME.kd.part */
    kd_store **source;  /* (n) their manifests; files are opened one store at a time */
    uint32_t n;
    uint64_t *base;     /* (n) number of each source's first row, counted over all of them */
    uint64_t *left_out; /* bitmap over these numbers; NULL: every row stays */
    kd__pick *pick;     /* (picks) */
    uint32_t picks, picks_cap;
    uint32_t segments; /* to write: all of the first source's, or the base segment alone */
    json_t **contract; /* (segments) */
    json_t **extra;    /* (segments) members of the manifest's entries */
    json_t *plan;      /* what a resume must present again */
    int level;         /* zstd level of all columns; 0: as it is */
    bool replace;      /* out is the source */
    kd_writer_params params;
    volatile const int *stop;
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
    /* private to rewrite.c */
    kd_store *reader;
    kd_cursor *cursor;
    uint32_t reading; /* source of reader */
    struct kd__copier *copier;
    uint64_t done, total;
} kd__rewrite;

/* Loads the sources' manifests, copies contracts and entries of the first one. r: zeroed; released by
 * kd__rewrite_release in every case. */
kd_status kd__rewrite_init(kd__rewrite *r, const char *out, const char *const *stores, uint32_t n,
                           const kd_writer_params *p, const char *command, kd_err *err);
kd_status kd__rewrite_pick(kd__rewrite *r, uint32_t source, uint32_t chunk, uint32_t rows, kd_err *err);
/* The source, opened for reading, in r->reader and r->cursor. */
kd_status kd__rewrite_open(kd__rewrite *r, uint32_t source, kd_err *err);
/* Whether a row stays; row: counted over all sources. */
static inline bool kd__rewrite_keeps(const kd__rewrite *r, uint64_t row)
{
    return !r->left_out || !(r->left_out[row / 64] >> row % 64 & 1);
}
/* Writes out. kind: "slice", ... */
kd_status kd__rewrite_run(kd__rewrite *r, const char *kind, kd_err *err);
void kd__rewrite_release(kd__rewrite *r);
/* The root of a store's base segment. */
void kd__base_root(const kd_store *s, char hex[33]);
/* Compares the ids of all sources: KD_EEXISTS for one that an earlier store has, or with skip left_out has
 * its row. (merge_ids.c) */
kd_status kd__merge_ids(kd__rewrite *r, bool skip, kd_err *err);
/* KD_EEXISTS: a segment file lies in the store's folder that its manifest does not name. (compact.c) */
kd_status kd__no_unfinished(const kd_store *s, kd_err *err);

#endif
