/* kd/data.h - where rows come from: sources to pack, splits, and shuffled batches from a store.
 *
 * A source is a set of arrays with one row count: gzipped or plain IDX, .npy, CSV. kd-dump reads a
 * data.yaml, packs the sources into a store, and from then on only the store is read. Pictures one by one
 * (PNG, JPEG) are for those who use a model.
 *
 * The loader streams a store for training: it decodes each chunk once an epoch into a window, and
 * any number of streams (one per seed and batch size) draw their shuffled batches from that window, ragged
 * and encoded columns included.
 * The order is a pure function of (seed, epoch, step): it does not depend on threads, on the other
 * streams, or on where a run was interrupted.
 */
#ifndef KD_DATA_H
#define KD_DATA_H

#include "kd/config.h"
#include "kd/store.h"
#include "kd/text.h"

/* ---- sources ------------------------------------------------------------------------------ */

/* An array in memory: rows of fixed shape. */
typedef struct kd_array {
    kd_dtype dtype;
    int ndims; /* axes of a row */
    int64_t dims[6];
    uint64_t rows;
    void *data; /* rows * row bytes, host byte order; owned */
} kd_array;
size_t kd_array_row_bytes(const kd_array *a);
void kd_array_release(kd_array *a);
/* By content (IDX magic, gzip magic, \x93NUMPY) or by suffix (.csv, .tsv). Truncated files, trailing bytes,
 * sizes over what the file holds: KD_ECORRUPT with file, found and expected. Object or structured dtypes,
 * Fortran order: KD_EUNSUPPORTED. Over 16 GiB, .npy headers over 64 KiB: KD_ELIMIT. Damaged gzip data:
 * KD_ECORRUPT. For CSV, column names the column to take (one scalar a row) or a range "a:b" of columns; NULL:
 * all numeric columns. */
kd_status kd_array_read(kd_array *a, const char *path, const char *column, kd_err *err);

/* The header of a plain .npy file that is read in place: everything of a but its data; *swap: its byte order
 * is not the host's; *at: where in the file the values begin. The file is as long as the header says. Errors
 * as kd_array_read; KD_EUNSUPPORTED (gzip). */
kd_status kd_npy_head(kd_array *a, const char *path, bool *swap, uint64_t *at, kd_err *err);

/* ---- pictures ----------------------------------------------------------------------------- */

/* A picture, as people's files hold it: PNG of any kind, JPEG in grey or colour. Samples of 16 bits are
 * scaled to 8, transparent pixels lie on white, and the orientation that a camera noted is applied. */
typedef struct kd_image {
    int64_t height, width, channels; /* 1: grey; 3: red, green, blue */
    uint8_t *pixels;                 /* (height, width, channels); owned */
    bool transparent;                /* some pixels were, at least in part */
} kd_image;
#define KD_IMAGE_MAX_PIXELS (64u << 20)
bool kd_image_known(const void *bytes, size_t n); /* begins as a PNG or a JPEG file */
/* Sizes are checked against max_pixels before anything is allocated by them; data that end early or do not
 * decode cleanly are refused. where: for messages. KD_ECORRUPT, KD_EUNSUPPORTED (neither PNG nor JPEG, CMYK),
 * KD_ELIMIT, KD_ENOMEM. */
kd_status kd_image_decode(kd_image *im, const void *bytes, size_t n, uint64_t max_pixels, const char *where,
                          kd_err *err);
void kd_image_release(kd_image *im);
/* out: (height, width, channels) f32 in 0..255. Each pixel is the mean of the area that it covers; grey is
 * 0.299 red + 0.587 green + 0.114 blue. Exact where the size is the picture's own. height, width >= 1;
 * channels 1 or 3. KD_ENOMEM. */
kd_status kd_image_fit(const kd_image *im, int64_t height, int64_t width, int64_t channels, float *out,
                       kd_err *err);
/* Appends a PNG file to out. pixels: (height, width, channels), channels 1 or 3. KD_ENOMEM, KD_EUSAGE (a size
 * that PNG does not have). */
kd_status kd_image_png(kd_buf *out, const uint8_t *pixels, int64_t height, int64_t width, int64_t channels,
                       kd_err *err);

/* ---- packing ------------------------------------------------------------------------------ */

/* What data.yaml says; a row of options each (see kd_data_options). */
typedef struct kd_data_spec {
    kd_strings train_input, train_label; /* files, concatenated; labels may stand in the inputs' CSV */
    kd_strings test_input, test_label; /* may be empty: then test rows are cut from train by test_fraction */
    char *input_name;                  /* column name of the input, "image" */
    char *input_column, *label_column; /* CSV columns; the label's is left out of the input's */
    int64_t classes;                   /* 0: as many as class_names, else largest label + 1 */
    kd_strings class_names;
    double valid_fraction, test_fraction;
    int64_t seed;       /* of the split and the packing order */
    int64_t chunk_rows; /* 0: 1024, of windows and conversations 64 */
    int64_t level;
    double mean, scale; /* x = (raw - mean) * scale when fed to a model; 0, 0: measured on the training rows
                           (mean and 1/sd) */
    char *tokenizer;    /* folder or file of one: the rows are texts */
    kd_strings text_columns; /* NAME=COLUMN or COLUMN of CSV, TSV, JSON lines: a token column each */
    int64_t max_tokens;      /* of a text, special tokens included; 0: as the tokenizer's file says */
    bool windows;            /* longer texts become several rows instead of being cut */
    char *conversations;     /* member of JSON lines that is a list of messages: rows of tokens and a mask */
    bool prompts;            /* of conversations: up to a user's last message and the turn that answers it */
    char *split_column;      /* rows that agree in it land in one split */
    kd_ints shape;           /* of an input row if it differs from the file's (28, 28 -> 28, 28, 1) */
} kd_data_spec;
extern const kd_option kd_data_options[];
extern const size_t kd_data_options_n;

typedef struct kd_pack_report {
    uint64_t rows, split_rows[KD_SPLITS];
    uint64_t duplicates;   /* rows whose id an earlier row has, leaks among them */
    uint64_t leaks;        /* rows of the training files whose id occurs in the test files */
    uint64_t left_out;     /* texts and conversations of which nothing could be predicted */
    uint64_t source_bytes; /* of the files, as they are on disk */
    uint64_t raw_bytes;    /* of all columns, decoded */
    uint64_t written_rows; /* in this run: fewer than rows after a resume */
    int64_t classes;       /* 0: no labels */
    double mean, scale;
    uint64_t tokens, longest,
        cut;             /* of all token columns: how many, of the longest text, texts that were cut */
    uint32_t vocabulary; /* 0: the rows are no texts */
} kd_pack_report;
/* Packs into a new store: columns id, split, source (u64 row in the source files, test rows counted after
 * train), label (i32), input. A row's id is XXH3-128 over "NAME DTYPE D1,D2,...\n" (name, type and shape of
 * the input column) and the row's bytes. A row's split is a function of its id (equal rows land in one
 * split); rows of a split are stored in an order shuffled by seed, so that the first n training rows are a
 * fair sample. Resumable. The input column's params are {"mean", "scale"}, the label column's {"classes",
 * "names"}. contract keeps the hash of every source file. wp: chunk_rows and level are the spec's; with both
 * resume and force an unfinished pack that fits is gone on with, anything else is replaced. command: kept in
 * the manifest, may be NULL. stop: polled between chunks, may be NULL; when set returns KD_ESTOPPED with all
 * whole chunks committed. progress and report may be NULL. All sources are held in memory. */
kd_status kd_pack(const kd_data_spec *spec, const char *store, const kd_writer_params *wp,
                  const char *command, volatile const int *stop,
                  void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                  kd_pack_report *report, kd_err *err);
/* With a tokenizer the rows are texts: a ragged column of role input for each of text_columns, u16 or i32,
 * params
 * {"tokenizer", "vocab", "max_tokens"}, and no label column without labels. The first of them carries the
 * tokenizer's files (kd_store_tokenizer). ids: lib/data/pack_texts.c. */
/* Reads and checks everything and says what kd_pack would do, without writing. */
kd_status kd_pack_plan(const kd_data_spec *spec, kd_pack_report *report, kd_err *err);

/* The tokenizer of a token column, from the files that the store keeps. KD_EMISMATCH (the column holds no
 * tokens, or a store that keeps no such tokenizer), KD_ECORRUPT. */
kd_status kd_store_tokenizer(kd_tokenizer **out, const kd_store *s, int column, kd_err *err);

/* ---- views -------------------------------------------------------------------------------- */

/* Augmented images, the same bits in a dump and in training: a pure function of spec, row id and the view's
 * number. lib/data/view.c says which random numbers make what. */
#define KD_VIEWS_MAX 4096
typedef struct kd_view_spec {
    int64_t count; /* views a row; 0: none */
    int64_t seed;  /* from 0 */
    int64_t shift; /* moved by up to so many pixels on each axis */
    int64_t erase; /* side of a square that becomes fill; 0: none */
    bool flip;     /* half of the views are mirrored left to right */
    bool identity; /* view 0 is the row as it is */
    double noise;  /* standard deviation, raw units; u8 is rounded and kept within 0 to 255 */
    double fill;   /* raw value beyond the edge and in the square */
    double crop;   /* smallest share of the area that a random part keeps before it is stretched; 0: off */
    double mixup,
        cutmix; /* shares of the views that are averaged with another row, that have a piece of one */
} kd_view_spec;
extern const kd_option kd_view_options[]; /* keys views.count, ...; flags --views, --view-seed, ... */
extern const size_t kd_view_options_n;
/* Whether views of this input column can be made: u8 or f32, (height, width[, channels]), or a vector where
 * noise and mixup are all. KD_EUSAGE, KD_EUNSUPPORTED. */
kd_status kd_view_check(const kd_view_spec *s, const kd_column *input, kd_err *err);
/* What is mixed into a view: another row of the same chunk, and what remains of its own. */
typedef struct kd_view_mix {
    bool mixed;
    uint32_t other; /* its place in the chunk */
    float share;    /* of the own row, at least 1/2; 1: nothing is mixed */
} kd_view_mix;
bool kd_view_mixes(const kd_view_spec *s); /* whether any view may be mixed */
/* rows: of the whole chunk, as it is stored. */
kd_view_mix kd_view_mix_of(const kd_view_spec *s, const kd_column *input, kd_id row, uint32_t view,
                           uint32_t rows);
/* in, out: one row of the column; they do not overlap. other: the row that kd_view_mix_of names, NULL where
 * nothing is mixed. The spec was checked. Any thread. */
void kd_view_apply(const kd_view_spec *s, const kd_column *input, kd_id row, uint32_t view, const void *in,
                   const void *other, void *out);
/* The view of a row that a student trains on in an epoch: from a first one, drawn for its seed and the row,
 * on to the next, so that any `count` epochs show each view once. */
uint32_t kd_view_turn(const kd_view_spec *s, uint64_t seed, kd_id row, uint64_t epoch);
bool kd_view_equal(const kd_view_spec *a, const kd_view_spec *b);
/* As a column's params keep it under "views"; NULL when out of memory. */
json_t *kd_view_json(const kd_view_spec *s);
/* where: for messages. KD_ECORRUPT names the member. */
kd_status kd_view_parse(kd_view_spec *s, const json_t *j, const char *where, kd_err *err);

/* ---- lists of rows ------------------------------------------------------------------------ */

/* Marks: a bit a row of the store, (rows + 7) / 8 bytes. */
static inline bool kd_row_marked(const uint8_t *marks, uint64_t row) { return marks[row / 8] >> row % 8 & 1; }
static inline void kd_row_mark(uint8_t *marks, uint64_t row) { marks[row / 8] |= (uint8_t)(1 << row % 8); }
/* The root of the base segment, 32 hex digits: of ids, inputs and labels, whatever teachers were added. */
const char *kd_store_base_root(const kd_store *s);
/* Marks every row of a list in a text file (lib/data/rowlist.c says what it holds). KD_ENOTFOUND, KD_ECORRUPT
 * (file:line), KD_EMISMATCH (a list of another store; a row that is not there, or has another id), KD_ELIMIT.
 */
kd_status kd_rowlist_read(uint8_t *marks, kd_store *s, const char *path, kd_err *err);
/* The list of the rows that are marked, whole or not at all. why: appends a reason, may be NULL. */
kd_status kd_rowlist_write(const char *path, kd_store *s, const uint8_t *marks,
                           void (*why)(void *arg, uint64_t row, kd_buf *text), void *arg, kd_err *err);

/* ---- loading ------------------------------------------------------------------------------ */

/* One loader and its streams belong to one thread at a time; the loader decodes with threads of its own.
 *
 *     kd_loader_params p = kd_loader_default_params();
 *     p.threads = 2;
 *     kd_loader_open(&l, store, columns, 2, &p, &err);
 *     kd_stream_open(&s, l, seed, 128, true, &err);
 *     for (uint64_t epoch = 0; epoch < 10; epoch++)
 *         for (kd_loader_epoch(l, epoch, &err); !kd_stream_next(s, &b, &err) && b.rows;)
 *             use(b.column[0], b.column[1], b.rows);
 *
 * Rows in store order: the same with p.shuffle = false. Order, in full: chunk k of an epoch is
 * kd_permutation_at(k) of (seed, KD_RNG_CHUNKS, epoch) over the split's chunks; a window is so many chunks
 * that the rows of the largest fit into window_rows; a stream permutes the rows of window w, chunk after
 * chunk, by kd_rng_permute of (its seed, KD_RNG_ROWS, epoch, w); batches are consecutive pieces of that
 * sequence.
 */
#define KD_LOADER_COLUMNS 16
typedef struct kd_loader kd_loader;
typedef struct kd_stream kd_stream;
typedef struct kd_loader_params {
    kd_split split;
    uint64_t rows;        /* only the first n rows of the split; 0: all; more than there are: KD_EUSAGE */
    const uint8_t *drop;  /* marks of rows that are left out, also of those first n; NULL: none. Borrowed */
    uint64_t window_rows; /* rows shuffled together, default 65536: memory is window_rows * row bytes. Part of
                             the order */
    uint64_t seed;        /* of the order of chunks; shared by all streams */
    bool shuffle;         /* default true; false: store order (evaluation) */
    int threads;          /* that decode a window, default 1 */
    bool ahead; /* one thread more decodes the next window while the caller uses this one: for callers that
                   leave a CPU free. Takes a second window's memory, changes no bit; default false */
} kd_loader_params;
kd_loader_params kd_loader_default_params(void);

/* columns: indices in the store, of any encoding. A window is whole chunks, in the epoch's order of chunks,
 * as many as window_rows holds (at least one). If one window holds all rows, they are decoded once a run,
 * else each chunk once an epoch. Ragged columns are read through once here. KD_EUSAGE (empty split: names
 * it; all rows are dropped), KD_ECORRUPT, KD_ENOMEM. */
kd_status kd_loader_open(kd_loader **out, kd_store *s, const int *columns, int n, const kd_loader_params *p,
                         kd_err *err);
void kd_loader_close(kd_loader *l); /* frees its streams too; NULL-safe */
uint64_t kd_loader_rows(const kd_loader *l);
/* Memory of windows, order and streams, known before the first row is decoded. It does not grow with the
 * store but for 4 bytes a chunk; columns of differing lengths count as if every chunk were the longest. The
 * cursors (threads, and one ahead) add a record and a block each. */
size_t kd_loader_bytes(const kd_loader *l);
double kd_loader_seconds(const kd_loader *l);  /* that callers waited for windows: the stall of the trainer */
uint64_t kd_loader_blocks(const kd_loader *l); /* chunks x columns: what one pass decodes */
uint64_t kd_loader_decoded(const kd_loader *l); /* blocks decoded so far */
bool kd_loader_resident(const kd_loader *l);    /* one window holds all rows: decoded once a run */
/* Adds a stream before the first epoch. drop_last: a rest smaller than the batch is left out (training).
 * KD_EUSAGE: batch 0, an epoch has begun, or drop_last with fewer rows than a batch. */
kd_status kd_stream_open(kd_stream **out, kd_loader *l, uint64_t seed, uint32_t batch, bool drop_last,
                         kd_err *err);
/* From now on the stream's rows of one column are views of them, by kd_view_turn of its own seed and the
 * epoch, made by the loader's threads. input, id, label: in the loader's list of columns, label may be -1.
 * The spec is copied; it was checked. KD_ENOMEM. */
kd_status kd_stream_views(kd_stream *s, const kd_view_spec *spec, int input, int id, int label, kd_err *err);
/* Takes a stream out at any time: the others no longer wait for it. NULL-safe. */
void kd_stream_close(kd_stream *s);
uint64_t kd_stream_steps(const kd_stream *s); /* batches an epoch */
/* Starts an epoch for all streams, at its first row. The first window is decoded by the first kd_stream_next,
 * so that skipping comes before and chunks that no stream wants are not touched. */
kd_status kd_loader_epoch(kd_loader *l, uint64_t epoch, kd_err *err);
/* Next batch of one stream. KD_OK and *rows > 0; *rows == 0: the epoch is over. The loader moves to the
 * next window when every stream has used the current one up: streams therefore advance in rounds
 * (each stream once, then the next round); a stream ahead of the window gets KD_OK with *rows == 0 and
 * *wait == true. Where a window is smaller than a batch, all streams of one round may wait; in the next one
 * at least one delivers. KD_ECORRUPT and others: from the store. */
typedef struct kd_batch {
    uint32_t rows;
    /* All borrowed until the stream's next call, by column:
     * dense, fixed shape: (rows, row bytes) values as stored; of a dense codec: f32.
     * dense, ragged: (offset[rows], width) values, rows one behind the other; of a dense codec: f32.
     * sparse codec: NULL. */
    const void *column[KD_LOADER_COLUMNS];
    /* Ragged columns: (rows + 1) positions before each row; NULL: every row has kd_column_each positions. */
    const uint64_t *offset[KD_LOADER_COLUMNS];
    /* Sparse codecs: the targets of the batch's positions, row after row; NULL: any other column. */
    const kd_sparse *sparse[KD_LOADER_COLUMNS];
    const uint64_t *row; /* (rows) store-wide row numbers */
    /* Streams of views, else NULL: each row's view; what of it is its own, and the label of the row that is
     * mixed in (as column label stores it; NULL where no view is mixed or there is no label). */
    const uint32_t *view;
    const float *share;
    const void *other_label;
    bool wait;
} kd_batch;
kd_status kd_stream_next(kd_stream *s, kd_batch *b, kd_err *err);
/* Whether the window at hand has all rows of the next batch. Streams of which that is true may be asked for
 * it at the same time, each by one thread. */
bool kd_stream_ready(const kd_stream *s);
/* Skips n batches of an epoch just begun, for resume (n == steps: the whole epoch): what follows equals the
 * uninterrupted run. Takes no time that grows with n. KD_EUSAGE behind the first batch or for n over steps.
 */
kd_status kd_stream_skip(kd_stream *s, uint64_t n, kd_err *err);

#endif
