/* kd/exchange.h - teacher outputs computed elsewhere come in; everything in a store can go out.
 *
 * Import adds a segment to a sealed store from files that other programs wrote: .npy, safetensors, or JSON
 * lines (dense logits, or top-k log-probabilities as inference servers print them). A new store is made of
 * the
 * `--kl-divergence-base` file of llama.cpp, which holds its own tokens.
 *
 * Rows are matched, never assumed: each row of the files carries the id of a row of the store (or the number
 * in its column `source`, or its place), or the caller says which order they are in. Every row of the store
 * must be met exactly once; what is missing, foreign or double is named before anything is written. So files
 * in any order give the same segment, root for root. Rows that are copies of each other have one id; they
 * take the files' rows of that id in the files' order.
 *
 * Memory is bounded: one chunk of values, and 24 bytes a row for the table of ids (none where the order is
 * declared; 8 more for ragged tensors).
 *
 *     kd_import_params p = kd_import_default_params();
 *     p.name = "big";
 *     kd_import(store, files, 1, &p, &report, &err);          // ids in the file: safetensors, JSONL
 *
 * Export writes columns of a store, chunk by chunk, as .npy (one column), safetensors, JSON lines or CSV. A
 * file appears whole or not at all. docs/import-export.md describes the formats.
 *
 * Threads: each call runs in its caller's thread; encoders use writer.threads.
 */
#ifndef KD_EXCHANGE_H
#define KD_EXCHANGE_H

#include "kd/store.h"

#define KD_JSONL_MAX_LINE   (64u << 20) /* bytes of one line */
#define KD_JSONL_MAX_DEPTH  16          /* brackets within brackets */
#define KD_JSONL_MAX_VALUES (8u << 20)  /* numbers, strings, ... of one line */
#define KD_IMPORT_COLUMNS   32
#define KD_IMPORT_MAX_CHUNK (4ull << 30) /* bytes of one chunk's values as f32 */
#define KD_IMPORT_MAX_IDS   (1ull << 32) /* rows of a table of ids */

/* ---- import --------------------------------------------------------------------------------- */

typedef struct kd_import_params {
    const char *name;     /* of the teacher; needed */
    const char *segment;  /* NULL: the name; of features alone NAME.feat.LAYER */
    const char *encoding; /* of logits and scores, as kd_codec_parse reads it; NULL: dense, and topk for
                             top-k input */
    const char *feature_encoding; /* of features; NULL: dense */
    const char *dtype;            /* of dense columns; NULL: the file's (f64 becomes f32) */
    const char *ids;         /* .npy (rows, 16) of u8, CSV or text with hex ids, or the name of a tensor in
                                the file; NULL: the tensor `ids` */
    const char *order;       /* NULL; "store": row i is the store's row i; "source": it is the row whose
                                column `source` is i */
    const char *role;        /* what a .npy or a field holds if its name does not say: "logits", "score",
                                "feature" */
    const char *tap;         /* of a feature whose name does not say it */
    const char *field;       /* member of a JSON line, or tensor; NULL: the one with a known name */
    const char *fingerprint; /* of the teacher; a file that states another is refused; NULL: the file's */
    int64_t classes;         /* of top-k input; 0: what the store says */
    kd_split split;          /* of a new store's rows */
    kd_writer_params writer;
    const char *command;      /* kept in the manifest, may be NULL */
    volatile const int *stop; /* polled between chunks, may be NULL */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
} kd_import_params;
kd_import_params kd_import_default_params(void);

typedef struct kd_import_report {
    uint64_t rows, columns, positions; /* positions: vectors of all columns, written by this call */
    uint64_t over_one;  /* positions whose top-k probabilities add up to more than 1: their tail is 0 */
    double worst;       /* the largest such sum - 1 */
    uint64_t dropped;   /* top-k entries beyond the k of the encoding; their mass is in the tail */
    char left_out[256]; /* tensors with unknown names, "" if none */
} kd_import_report;

/* Adds a segment to s from files that are parts of one output, in that order (all .npy, all safetensors or
 * all JSON lines; told by content). Resumable as all writers are: the contract holds the columns, the data's
 * root and a hash over a sample of the rows. KD_EUSAGE (names what is needed: ids or order, classes, a
 * field), KD_EMISMATCH (rows missing, foreign or double, by id; other teacher, data, tokenizer or view seed,
 * with both values; shapes), KD_ECORRUPT, KD_ENUMERIC (names row and class), KD_ELIMIT, KD_EUNSUPPORTED,
 * KD_ESTOPPED, and the writer's. */
kd_status kd_import(kd_store *s, const char *const *files, size_t n, const kd_import_params *p,
                    kd_import_report *report, kd_err *err);
/* Makes the store `out` of one .kld file: a row per context with columns id, split, source, tokens and
 * NAME/logits (positions, V): log-probabilities of the token behind each position of the second half. */
kd_status kd_import_kld(const char *out, const char *file, const kd_import_params *p,
                        kd_import_report *report, kd_err *err);
/* Whether a file is a .kld: its first 8 bytes. KD_ENOTFOUND, KD_EIO. */
kd_status kd_is_kld(const char *path, bool *yes, kd_err *err);

/* ---- export --------------------------------------------------------------------------------- */

typedef struct kd_export_params {
    const char *const *columns; /* names */
    size_t n;
    int split;          /* -1: all */
    uint64_t rows;      /* the first so many of them; 0: all */
    const char *format; /* "npy", "safetensors", "jsonl", "csv"; NULL: by the suffix of the path */
    bool force;         /* replace a file */
    volatile const int *stop;
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
} kd_export_params;
typedef struct kd_export_report {
    uint64_t rows, bytes;
} kd_export_report;
/* path "-": stdout, for JSON lines and CSV. KD_ENOTFOUND (no such column: names the nearest), KD_EUSAGE,
 * KD_EUNSUPPORTED (what the format cannot hold, and which can), KD_EEXISTS, KD_ENUMERIC (JSON has no NaN),
 * KD_ESTOPPED, and the store's. */
kd_status kd_export(kd_store *s, const char *path, const kd_export_params *p, kd_export_report *report,
                    kd_err *err);

/* ---- the parsers, for tests and fuzzing ------------------------------------------------------ */

typedef enum kd_row_key { KD_KEY_ID, KD_KEY_SOURCE, KD_KEY_ROW, KD_KEY_NONE } kd_row_key;

/* One line of JSON. */
typedef struct kd_jsonl_row {
    kd_row_key key;
    kd_id id;                      /* KD_KEY_ID; else the number, big-endian in the last 8 bytes */
    char field[KD_STORE_NAME_MAX]; /* the member that was taken */
    bool sparse;                   /* top-k entries in top, else numbers in values */
    bool ragged;                   /* one vector a position, else one for the row */
    size_t positions, width;       /* width: numbers of a dense position; 0 for top-k */
    float *values;                 /* (positions, width) */
    size_t cap;
    kd_sparse top;    /* one temperature, 1: tail mass and log-partition, as given or from the entries */
    uint32_t most;    /* entries of the fullest position */
    uint32_t largest; /* id */
    uint64_t over_one;
    double worst;
} kd_jsonl_row;
/* Fills row (zeroed before its first use; reused). field NULL: the member with a known name. KD_ECORRUPT,
 * KD_ELIMIT, KD_ENUMERIC, KD_EUSAGE (no such field), KD_ENOMEM. */
kd_status kd_jsonl_line_parse(kd_jsonl_row *row, const char *line, size_t len, const char *field,
                              kd_err *err);
void kd_jsonl_row_release(kd_jsonl_row *row);

/* A .kld file: n_chunk contexts of n_ctx tokens; of each the log-probabilities behind tokens first ..
 * n_ctx - 2, 16 bits a class between a minimum and the maximum. */
typedef struct kd_kld {
    int fd;
    const char *path;                                   /* for messages */
    uint32_t n_ctx, n_vocab, n_chunk, first, positions; /* positions = n_ctx - 1 - first */
    uint64_t tokens_at, probs_at, position_bytes;
} kd_kld;
/* Reads and checks the header and the size; fd stays the caller's. KD_ECORRUPT, KD_ELIMIT, KD_EIO. */
kd_status kd_kld_open(kd_kld *k, int fd, const char *path, kd_err *err);
/* tokens: (n_ctx), each in 0..n_vocab - 1. KD_ECORRUPT, KD_EIO. */
kd_status kd_kld_tokens(const kd_kld *k, uint32_t chunk, int32_t *tokens, kd_err *err);
/* values: (positions, n_vocab) log-probabilities. KD_ECORRUPT, KD_EIO, KD_ENOMEM. */
kd_status kd_kld_values(const kd_kld *k, uint32_t chunk, float *values, kd_err *err);

#endif
