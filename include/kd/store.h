/* kd/store.h - the store: columns of rows, in chunks, compressed, checked and sealed.
 *
 * A store is a folder NAME.kd/ with a manifest and one file per segment:
 *
 *     NAME.kd/manifest.json     written last, replaced by rename; what it does not name does not exist
 *     NAME.kd/base.mdb          segment "base": row ids, splits, inputs, labels (LMDB, read-only once sealed)
 *     NAME.kd/big.mdb           segment "big": columns that one teacher pass added
 *
 * A segment is an LMDB file of its own that is never written again once sealed: adding a teacher
 * cannot harm what was there, readers of the old manifest go on undisturbed, dropping a teacher is
 * removing a file. All segments have the same rows in the same chunks.
 *
 * A row is a sample. Rows are cut into chunks (at most chunk_rows; merged stores have shorter ones in
 * between; a chunk never holds two splits). One column of one chunk is one record: a fixed header
 * with a checksum over header and payload, then one zstd frame of a filtered block. A reader checks
 * the header and the checksum before zstd sees a byte, and asks only for the columns it wants.
 *
 * LMDB writes the files; sealed ones are read without it. LMDB trusts its file and aborts, crashes or
 * serves other bytes when a page is damaged, while a sealed segment is simple: every key from the
 * first to the last. So opening walks the branch and leaf pages once, checking every number, and
 * keeps a table of offsets; a read is a look-up and one pread into the cursor. Damage, a failing disk
 * and a file cut under our feet are errors by construction, a read costs no search, and memory does
 * not grow with the store.
 *
 * Life of a segment: written as FILE.part in transactions of whole chunks; a killed writer leaves a
 * .part that kd_store_writer_* continues (resume) after the last committed chunk; sealing syncs, renames
 * the file, then writes the manifest. New stores are built in NAME.kd.part/ and the folder is renamed at the
 * end.
 *
 * Threads: one kd_store per path and process; one kd_cursor per thread; a writer belongs to one thread.
 *
 * docs/store-format.md describes every byte.
 */
#ifndef KD_STORE_H
#define KD_STORE_H

#include "kd/base.h"
#include "kd/codec.h"

#define KD_STORE_FORMAT         1
#define KD_STORE_MAX_COLUMNS    256
#define KD_STORE_MAX_CHUNK_ROWS 65536
#define KD_STORE_MAX_RAW        (1u << 30) /* bytes of one decoded block */
#define KD_STORE_NAME_MAX       64
#define KD_STORE_SEGMENT_MAX    48 /* letters of a segment's name */

/* What a column means. Append only. */
#define KD_ROLE_MAP(X)                                                                                       \
    X(INPUT, input)                                                                                          \
    X(LABEL, label)                                                                                          \
    X(ID, id)                                                                                                \
    X(SPLIT, split)                                                                                          \
    X(SOURCE, source) X(VIEW, view) X(LOGITS, logits) X(SCORE, score) X(FEATURE, feature) X(MASK, mask)
typedef enum kd_role {
    KD_ROLE_NONE = 0,
#define X(NAME, name) KD_ROLE_##NAME,
    KD_ROLE_MAP(X)
#undef X
} kd_role;
const char *kd_role_name(kd_role r);
kd_role kd_role_parse(const char *name); /* KD_ROLE_NONE if unknown */

typedef enum kd_split { KD_TRAIN = 0, KD_VALID = 1, KD_TEST = 2, KD_SPLITS = 3 } kd_split;
const char *kd_split_name(kd_split s); /* "train", "valid", "test" */
int kd_split_parse(const char *name);  /* -1 if unknown */

/* One column. Encoding "dense": one number of `dtype` per element. Other encodings are codecs (kd/codec.h) of
 * the vectors along the last axis: dtype is f32, that of the values they give back, and params holds the
 * codec's parameters under "codec". A codec's codebook is one more record of the segment. */
typedef struct kd_column {
    char name[KD_STORE_NAME_MAX]; /* "image", "label", "big/logits"; [a-z0-9_.-/], unique in the store */
    kd_role role;
    kd_dtype dtype;
    int ndims;         /* axes per row; 0: one scalar a row */
    int64_t dims[6];   /* the first may be -1: ragged, its length differs by row */
    char encoding[16]; /* "dense", or a codec's name */
    char filter[16];   /* "none", "shuffle" (byte planes) or "exponent" (bf16: exponents, then the rest); ""
                          lets the writer choose by dtype; encoded columns have "none" */
    int level;         /* zstd level, 1-19; 0: the writer's default */
    char teacher[KD_STORE_NAME_MAX]; /* name of the teacher, "" for data */
    char tap[KD_STORE_NAME_MAX];     /* node of the teacher's graph, "" if none */
    json_t *params; /* of the encoding, the preprocessing (mean, scale), class names; may be NULL;
                       owned by the store on read, borrowed on write */
    char segment[KD_STORE_NAME_MAX]; /* set on read */
    const void *book; /* codebook; of a dense column what its readers need beside it (a tokenizer's files);
                         borrowed on write, the store's on read; NULL: none */
    size_t book_bytes;
} kd_column;

/* Opens the codec of an encoded column. KD_EUSAGE (a dense one), and kd_codec_open's. */
kd_status kd_column_codec(kd_codec **out, const kd_column *c, kd_err *err);
/* Numbers of one position (length of the last axis; 1 for a scalar), and positions a row (product of the axes
 * before it, the ragged one left out). */
size_t kd_column_width(const kd_column *c);
size_t kd_column_each(const kd_column *c);

/* ---- reading ------------------------------------------------------------------------------ */

typedef struct kd_store kd_store;
typedef struct kd_cursor kd_cursor;

/* Opens a sealed store: reads the manifest, checks format, sizes and LMDB meta pages of the segments.
 * KD_ENOTFOUND (also tells when only NAME.kd.part exists), KD_ECORRUPT, KD_EMISMATCH (format of another
 * version). */
kd_status kd_store_open(kd_store **out, const char *path, kd_err *err);
void kd_store_close(kd_store *s);
const char *kd_store_path(const kd_store *s);
uint64_t kd_store_rows(const kd_store *s);
uint32_t kd_store_chunks(const kd_store *s);
uint64_t kd_store_bytes(const kd_store *s);   /* of all files */
const char *kd_store_root(const kd_store *s); /* 32 hex digits: hash over all segments' roots, in order */
const json_t *kd_store_manifest(const kd_store *s); /* borrowed */
size_t kd_store_columns(const kd_store *s);
const kd_column *kd_store_column(const kd_store *s, size_t i);
int kd_store_find(const kd_store *s, const char *name); /* index of a column, -1: none */
/* The first column with this role (and teacher, if not NULL); -1: none. */
int kd_store_find_role(const kd_store *s, kd_role role, const char *teacher);
/* Rows of a chunk and the store-wide index of its first row. */
typedef struct kd_chunk_info {
    uint64_t first;
    uint32_t rows;
    kd_split split;
} kd_chunk_info;
const kd_chunk_info *kd_store_chunk(const kd_store *s, uint32_t chunk);
uint64_t kd_store_split_rows(const kd_store *s, kd_split split);
/* What a teacher's segment says of it: {"name", "fingerprint", "params", "command", "seconds", ...}; NULL: no
 * such teacher. Borrowed. */
const json_t *kd_store_teacher(const kd_store *s, const char *name);

/* Bytes of a column's decoded blocks and of its records as stored (headers included). KD_ECORRUPT. */
kd_status kd_store_column_bytes(const kd_store *s, int column, uint64_t *raw, uint64_t *stored, kd_err *err);

/* A cursor per thread: a zstd context and buffers for the largest record and block. KD_ENOMEM, KD_EIO,
 * KD_ECORRUPT. */
kd_status kd_cursor_open(kd_cursor **out, kd_store *s, kd_err *err);
void kd_cursor_close(kd_cursor *c);
/* Bytes of the decoded block: rows * row bytes (fixed shapes). For a ragged column a block is
 * (rows) u32 lengths then the values; its size is known from the record only: *size receives it. */
kd_status kd_cursor_size(kd_cursor *c, int column, uint32_t chunk, size_t *size, kd_err *err);
/* Decodes one block into out (size bytes, as kd_cursor_size says). Checks everything about the
 * record first. KD_ECORRUPT names store, column, chunk and rows. */
kd_status kd_cursor_read(kd_cursor *c, int column, uint32_t chunk, void *out, size_t size, kd_err *err);
/* Positions of a column's chunk: rows * each, or the sum of the ragged lengths. lengths: (rows), may be NULL;
 * receives the lengths of a ragged column, 1 for others. */
kd_status kd_cursor_lengths(kd_cursor *c, int column, uint32_t chunk, uint32_t *lengths, size_t *positions,
                            kd_err *err);
/* Values of any dense column or of a dense codec as f32, out: (positions, width). KD_EUNSUPPORTED: a sparse
 * codec. */
kd_status kd_cursor_read_f32(kd_cursor *c, int column, uint32_t chunk, float *out, size_t positions,
                             kd_err *err);
/* The sparse form of a sparse codec's chunk. KD_EUNSUPPORTED: any other column. */
kd_status kd_cursor_read_sparse(kd_cursor *c, int column, uint32_t chunk, kd_sparse *out, kd_err *err);
/* Blocks decoded so far by all cursors of the store, per column: to show that each chunk is decoded
 * once an epoch. */
uint64_t kd_store_reads(const kd_store *s, int column);

/* ---- writing ------------------------------------------------------------------------------ */

typedef struct kd_store_writer kd_store_writer;
typedef struct kd_writer_params {
    uint32_t chunk_rows; /* new stores; default 1024 */
    int level;           /* default zstd level of columns, 3; part of what a resume compares */
    size_t commit_bytes; /* a transaction is committed after this many raw bytes; default 32 MiB */
    bool resume; /* continue a .part of the same contract; without it an existing .part is KD_EEXISTS (message
                    names --resume and --force) */
    bool force;  /* remove an existing .part, and at seal replace an existing store (create) or segment
                    (extend); with resume only what does not fit: a .part that fits is continued */
    int threads; /* for compression, default 1 */
} kd_writer_params;
kd_writer_params kd_writer_default_params(void);

/* One column of one chunk, as handed to the writer. lengths: (rows) for ragged columns, else NULL. For an
 * encoded column data is what kd_codec_encode gave. */
typedef struct kd_block {
    const void *data;
    size_t bytes;
    const uint32_t *lengths;
} kd_block;

/* Begins (or resumes) a new store with its base segment. contract: JSON that identifies what is
 * being packed (source files' hashes, split rule, options); a resume must present an equal one
 * (KD_EMISMATCH names the first differing key). It is kept in the manifest. The columns must hold one of role
 * ID (u8, dims {16}) and one of role SPLIT (u8 scalar). KD_EEXISTS if the sealed store is there and not
 * force. */
kd_status kd_store_create(kd_store_writer **out, const char *path, const kd_column *columns, size_t n,
                          const json_t *contract, const kd_writer_params *p, kd_err *err);
/* Begins (or resumes) a segment of more columns in a sealed store; chunks must follow the store's.
 * name: file name of the segment, usually the teacher's. The store must stay open meanwhile. */
kd_status kd_store_extend(kd_store_writer **out, kd_store *s, const char *name, const kd_column *columns,
                          size_t n, const json_t *contract, const kd_writer_params *p, kd_err *err);
/* Chunks so far; right after create or extend those of the run that is resumed (0 otherwise): the
 * caller goes on with this one. */
uint32_t kd_store_writer_chunks(const kd_store_writer *w);
uint64_t kd_store_writer_rows(const kd_store_writer *w);
/* Appends one chunk: block[i] belongs to column i. Sizes are checked. KD_EFULL leaves what was
 * committed in place. */
kd_status kd_store_writer_append(kd_store_writer *w, kd_split split, uint32_t rows, const kd_block *block,
                                 kd_err *err);
kd_status kd_store_writer_commit(kd_store_writer *w, kd_err *err); /* makes appended chunks durable now */
/* Ends: checks that all rows are there, syncs, renames, writes the manifest. extra: members added to
 * the segment's entry of the manifest (teacher, command line, seconds); may be NULL. Frees w in
 * every case. */
kd_status kd_store_writer_seal(kd_store_writer *w, const json_t *extra, kd_err *err);
/* Commits what is whole and frees; the .part stays for a resume. NULL-safe. */
void kd_store_writer_close(kd_store_writer *w);
uint64_t kd_store_writer_raw_bytes(const kd_store_writer *w); /* appended in this run */

/* Takes a segment out of a sealed store: the manifest without it replaces the old one, then its file is
 * removed; bytes receives the file's size. Readers that are open keep what they have. KD_ENOTFOUND (no such
 * segment: names the nearest), KD_EUSAGE (the base segment), KD_ECORRUPT, KD_EIO. */
kd_status kd_store_drop(const char *path, const char *name, uint64_t *bytes, kd_err *err);

/* ---- many stores, fewer bytes ------------------------------------------------------------- */

/* Both write a new store beside the old ones, in memory that does not grow with rows, resumable like any
 * writer; out may exist only with wp->force. */

typedef struct kd_merge_report {
    uint64_t rows, duplicates; /* written; left out */
    uint32_t chunks;
} kd_merge_report;
/* One store of the rows of n: split by split, in the order given, each chunk copied as it is (chunks are not
 * filled up). Compared by name before anything is written: columns, codecs and codebooks, teachers'
 * fingerprints, contracts but for what says which part a store is ("shard", the data's root, an import's
 * sample); KD_EMISMATCH names store and field. Shards of one dump in their order give the store that one
 * machine would have written, root for root. A row whose id an earlier store has: KD_EEXISTS names both
 * places, or with skip_duplicates it is left out; for that all ids are read, 32 bytes a row, unless the
 * stores are different parts of one, which share no row. */
kd_status kd_store_merge(const char *out, const char *const *stores, size_t n, bool skip_duplicates,
                         const kd_writer_params *wp, const char *command, volatile const int *stop,
                         void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                         kd_merge_report *report, kd_err *err);
/* The chunks of part i of n (counted from 1), every split cut evenly, of all columns (or of the base segment
 * alone) as a store of its own: what one of n machines works on. */
kd_status kd_store_slice(const char *out, const char *store, uint32_t part, uint32_t parts, bool base_only,
                         const kd_writer_params *wp, const char *command, kd_err *err);
/* Rewrites every segment with another zstd level (0: as it is) into a new folder that takes the old one's
 * place, without files that no manifest names. Values and ids stay, and contracts but for the data's root
 * where a level changes it; before and after receive bytes. Goes on with a compaction that was stopped.
 * KD_EEXISTS: a writer is at work in it, or left a segment unfinished. */
kd_status kd_store_compact(const char *store, int level, int threads, volatile const int *stop,
                           void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                           uint64_t *before, uint64_t *after, kd_err *err);
/* Bytes that a block of a column would take in a store: record header and payload as packed now. For
 * planning. */
kd_status kd_block_packed_bytes(const kd_column *c, uint32_t rows, const kd_block *b, int level,
                                size_t *bytes, kd_err *err);

/* ---- checking ----------------------------------------------------------------------------- */

typedef struct kd_damage {
    char what[512];
} kd_damage; /* "column image, chunk 3, rows 3072-4095: checksum ..." */
typedef struct kd_verify_report {
    uint64_t records, bytes, raw_bytes, damaged;
    double seconds;
    kd_damage first[16]; /* the first ones */
} kd_verify_report;
/* Walks the LMDB files by pread (structure), then reads and checks every record against the
 * manifest's counts and roots. KD_OK with damaged == 0, else KD_ECORRUPT. threads: >= 1. progress may be
 * NULL. */
kd_status kd_store_verify(const char *path, int threads, kd_verify_report *report,
                          void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg, kd_err *err);
/* The first half alone: every page of every file, every key in its place, the segments' header records. Finds
 * what could lead a reader astray, not a byte changed within a record. bytes: of the files that were walked.
 */
kd_status kd_store_verify_structure(const char *path, kd_verify_report *report, kd_err *err);

#endif
