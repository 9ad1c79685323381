/* kd/base.h - the ground every other module stands on.
 *
 * Statuses with a sentence, memory arenas, counter-based random numbers, hashes, files that are
 * either whole or absent, strings, CPU facts and clocks. Nothing here knows what a model is.
 *
 * Errors: a function that can fail returns a kd_status (0 or negative) and takes `kd_err *err` as
 * its last parameter. err may be NULL; otherwise it receives one sentence complete enough to print:
 * what, where, found, expected, what to do.
 *
 * Threads: everything here is reentrant; an arena, a string buffer or a generator belongs to one
 * thread at a time.
 *
 *     kd_err err = {0};
 *     char *text; size_t len;
 *     if (kd_file_read("a.yaml", 1 << 20, &text, &len, &err)) {
 *         fprintf(stderr, "tool: %s\n", err.msg);
 *         return kd_exit_code(err.code);
 *     }
 */
#ifndef KD_BASE_H
#define KD_BASE_H

#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define KD_VERSION "0.1.0"

/* ---- status ------------------------------------------------------------------------------- */

/* name, sentence, exit code of a tool that ends with it. Append only: numbers stand in logs. */
#define KD_STATUS_MAP(X)                                                                                     \
    X(NOMEM, "out of memory", 1)                                                                             \
    X(IO, "input/output error", 1)                                                                           \
    X(CORRUPT, "damaged data", 3)                                                                            \
    X(MISMATCH, "things that do not fit together", 3)                                                        \
    X(USAGE, "bad argument or configuration", 2)                                                             \
    X(NOTFOUND, "not found", 3)                                                                              \
    X(FULL, "disk or map full", 4)                                                                           \
    X(STOPPED, "stopped on request", 5)                                                                      \
    X(EXISTS, "already exists", 2)                                                                           \
    X(UNSUPPORTED, "not supported", 2)                                                                       \
    X(NUMERIC, "not a number where one is needed", 1)                                                        \
    X(LIMIT, "over a limit", 3)                                                                              \
    X(GATE, "a gate failed", 1)

typedef enum kd_status {
    KD_OK = 0,
    KD__STATUS_BASE = -100,
#define X(name, text, code) KD_E##name,
    KD_STATUS_MAP(X)
#undef X
} kd_status;

typedef struct kd_err {
    kd_status code;
    char msg[1024];
} kd_err;

const char *kd_strstatus(kd_status s);
int kd_exit_code(kd_status s); /* the documented exit code of a tool: 0, 1, 2, 3, 4 or 5 */

/* Sets err (if not NULL) and returns code, so that `return kd_fail(err, KD_EIO, ...)` reads well. Control
 * characters but the newline become '?': sentences quote strangers' files, and terminals obey. */
kd_status kd_fail(kd_err *err, kd_status code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* As kd_fail, for errno: ENOSPC and EDQUOT become KD_EFULL, ENOENT KD_ENOTFOUND, ENOMEM KD_ENOMEM,
 * EEXIST KD_EEXISTS, others KD_EIO. The sentence gets ": strerror" at its end. */
kd_status kd_fail_errno(kd_err *err, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts "prefix: " before the message that err already holds; returns err's code (or code when
 * err is NULL). */
kd_status kd_fail_in(kd_err *err, kd_status code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ---- element types ------------------------------------------------------------------------ */

/* name, bytes. Append only: numbers stand in stores. */
#define KD_DTYPE_MAP(X)                                                                                      \
    X(U8, u8, 1)                                                                                             \
    X(I8, i8, 1)                                                                                             \
    X(U16, u16, 2)                                                                                           \
    X(I16, i16, 2)                                                                                           \
    X(U32, u32, 4)                                                                                           \
    X(I32, i32, 4) X(U64, u64, 8) X(I64, i64, 8) X(F16, f16, 2) X(BF16, bf16, 2) X(F32, f32, 4)              \
        X(F64, f64, 8)

typedef enum kd_dtype {
    KD_DTYPE_NONE = 0,
#define X(NAME, name, size) KD_##NAME,
    KD_DTYPE_MAP(X)
#undef X
        KD__DTYPE_END
} kd_dtype;

size_t kd_dtype_size(kd_dtype t);          /* bytes of one element; 0 for an unknown type */
const char *kd_dtype_name(kd_dtype t);     /* "f32", ...; "none" for an unknown type */
kd_dtype kd_dtype_parse(const char *name); /* KD_DTYPE_NONE if unknown */
bool kd_dtype_is_float(kd_dtype t);

/* Any numeric type to f32 and back, n elements; f32 to f16/bf16 rounds to nearest even.
 * Integers outside a target's range are clamped. Returns KD_EUNSUPPORTED for KD_DTYPE_NONE. */
kd_status kd_to_f32(float *out, const void *in, kd_dtype t, size_t n);
kd_status kd_from_f32(void *out, kd_dtype t, const float *in, size_t n);

/* ---- checked arithmetic ------------------------------------------------------------------- */

static inline bool kd_mul_size(size_t a, size_t b, size_t *out) /* false on overflow */
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool kd_add_size(size_t a, size_t b, size_t *out) /* false on overflow */
{
    return !__builtin_add_overflow(a, b, out);
}
static inline size_t kd_min_size(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t kd_max_size(size_t a, size_t b) { return a > b ? a : b; }

/* ---- memory ------------------------------------------------------------------------------- */

/* 64-byte aligned, zeroed; NULL when out of memory or count * size overflows. Free with free(). */
void *kd_alloc_aligned(size_t count, size_t size);

/* An arena hands out 64-byte aligned zeroed pieces that live until release. One zeroed struct is
 * an empty arena. kd_arena_alloc returns NULL when out of memory. */
typedef struct kd_arena {
    struct kd__arena_block *head;
    size_t used; /* bytes handed out */
} kd_arena;
void *kd_arena_alloc(kd_arena *a, size_t count, size_t size);
char *kd_arena_strdup(kd_arena *a, const char *s);
void kd_arena_release(kd_arena *a);

/* A growing string. A zeroed struct is an empty buffer; text is NUL-terminated once anything was
 * appended. An allocation failure sets `failed` and keeps the text as it was. */
typedef struct kd_buf {
    char *text;
    size_t len, cap;
    bool failed;
} kd_buf;
void kd_buf_append(kd_buf *b, const void *data, size_t len);
void kd_buf_puts(kd_buf *b, const char *s);
void kd_buf_printf(kd_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void kd_buf_release(kd_buf *b);

/* ---- random numbers ----------------------------------------------------------------------- */

/* Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): the
 * numbers are a pure function of key and counter, so any element can be made alone, in any order
 * and by any thread. */
void kd_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* A stream keyed by (seed, purpose, a, b), for example (seed, KD_RNG_INIT, parameter, 0). Streams
 * with another key or another place are independent. */
typedef enum kd_rng_purpose {
    KD_RNG_INIT = 1,  /* initial weights: a = parameter index */
    KD_RNG_CHUNKS,    /* order of chunks: a = epoch */
    KD_RNG_ROWS,      /* order of rows inside a window: a = epoch, b = window */
    KD_RNG_DROPOUT,   /* a = node, b = step */
    KD_RNG_SPLIT,     /* assignment of rows to splits, order of packing */
    KD_RNG_VIEW,      /* augmentation: a = kind of change, b = view; seed: hashed with the row's id */
    KD_RNG_SAMPLE,    /* sampling of teacher outputs and of sub-sets */
    KD_RNG_BOOTSTRAP, /* resampling in statistics */
    KD_RNG_TEST
} kd_rng_purpose;
typedef struct kd_rng {
    uint32_t key[2], counter[4], block[4];
    int left; /* numbers of `block` not yet given out */
} kd_rng;
void kd_rng_init(kd_rng *r, uint64_t seed, kd_rng_purpose purpose, uint32_t a, uint32_t b);
uint32_t kd_rng_u32(kd_rng *r);
uint64_t kd_rng_below(kd_rng *r, uint64_t n); /* uniform in [0, n), without bias; n >= 1 */
float kd_rng_uniform(kd_rng *r);              /* in [0, 1), 24 random bits */
float kd_rng_normal(kd_rng *r);               /* mean 0, sd 1 (Box-Muller) */
/* Fisher-Yates: order receives a permutation of 0..n-1. */
void kd_rng_permute(kd_rng *r, uint32_t *order, size_t n);

/* A permutation of 0..n-1 that is a function instead of a list: any element, or the place of an element, in
 * O(log n) time and no memory. Another seed, purpose or a is another permutation. 1 <= n <= 2^56. */
#define KD_PERMUTATION_ROUNDS 240
typedef struct kd_permutation {
    uint64_t n;
    int rounds;
    uint64_t mirror[KD_PERMUTATION_ROUNDS], coin[KD_PERMUTATION_ROUNDS];
} kd_permutation;
void kd_permutation_init(kd_permutation *p, uint64_t n, uint64_t seed, kd_rng_purpose purpose, uint32_t a);
uint64_t kd_permutation_at(const kd_permutation *p, uint64_t place);      /* the element at a place */
uint64_t kd_permutation_place(const kd_permutation *p, uint64_t element); /* its inverse */

/* ---- hashes ------------------------------------------------------------------------------- */

uint64_t kd_hash64(const void *data, size_t len); /* XXH3, 64 bits, seed 0 */
typedef struct kd_id {
    uint8_t b[16];
} kd_id; /* XXH3, 128 bits, canonical (big-endian) bytes */
kd_id kd_hash128(const void *data, size_t len);
typedef struct kd_hasher kd_hasher; /* XXH3 128 over pieces */
kd_hasher *kd_hasher_create(void);  /* NULL when out of memory */
void kd_hasher_add(kd_hasher *h, const void *data, size_t len);
kd_id kd_hasher_digest(const kd_hasher *h);
void kd_hasher_free(kd_hasher *h);
/* 32 lower-case hex digits and a NUL. */
void kd_id_hex(kd_id id, char out[33]);
bool kd_id_parse(const char *hex, kd_id *id); /* false if not 32 hex digits */

/* ---- files -------------------------------------------------------------------------------- */

/* Reads a whole file of at most limit bytes; text gets a NUL behind its end; free() it.
 * KD_ENOTFOUND, KD_EIO, KD_ELIMIT (names the limit), KD_ENOMEM. */
kd_status kd_file_read(const char *path, size_t limit, char **text, size_t *len, kd_err *err);

/* A file that appears whole or not at all: written as PATH.tmp.PID in the same folder, then
 * fsync, rename, fsync of the folder. abort removes the temporary file; both accept NULL.
 * KD_EFULL when the disk is full. */
typedef struct kd_newfile kd_newfile;
kd_status kd_newfile_open(kd_newfile **out, const char *path, kd_err *err);
FILE *kd_newfile_stream(kd_newfile *f);                  /* borrowed until commit or abort */
kd_status kd_newfile_commit(kd_newfile *f, kd_err *err); /* frees f in every case */
void kd_newfile_abort(kd_newfile *f);
kd_status kd_file_write(const char *path, const void *data, size_t len,
                        kd_err *err); /* the same in one call */

kd_status kd_mkdirs(const char *path, kd_err *err);      /* like mkdir -p */
kd_status kd_fsync_path(const char *path, kd_err *err);  /* a file or a folder */
kd_status kd_remove_tree(const char *path, kd_err *err); /* like rm -rf; a missing path is fine */
bool kd_exists(const char *path);
bool kd_is_dir(const char *path);
/* "a/b" from "a", "b"; an absolute name stands alone; free() it; NULL when out of memory. */
char *kd_path_join(const char *folder, const char *name);
const char *kd_path_base(const char *path); /* last component, borrowed from path */
char *kd_strdup(const char *s);             /* NULL for NULL or when out of memory */
char *kd_sprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* free() it */
/* The nearest of n names by edit distance, NULL if none is near enough to be a typing error. */
const char *kd_nearest(const char *word, const char *const *names, size_t n);
/* "2/8" to 2 and 8: part of parts, 1 to parts. false: it is something else (or NULL). */
bool kd_part_parse(const char *text, uint32_t *part, uint32_t *parts);

/* ---- guards ------------------------------------------------------------------------------- */

/* Between enter and leave, on the same thread: if a library called there dies of SIGBUS, SIGSEGV or SIGABRT,
 * a tool prints the sentence and ends with the status's exit code. sentence: borrowed; complete. Guards may
 * nest. */
typedef struct kd_guard {
    const char *sentence;
    kd_status status;
    const struct kd_guard *outer;
} kd_guard;
void kd_guard_enter(kd_guard *g, const char *sentence, kd_status status);
void kd_guard_leave(const kd_guard *g);
const kd_guard *kd_guard_current(void); /* NULL: none; safe in a signal handler */

/* ---- JSON (jansson) ----------------------------------------------------------------------- */

#define KD_JSON_MAX_DEPTH 64
/* Parses a file; duplicate keys, deep nesting, invalid UTF-8 and files over limit bytes are refused; the
 * error names file, line and column. The caller owns the value (json_decref). */
kd_status kd_json_load(const char *path, size_t limit, json_t **out, kd_err *err);
/* Parses a text; duplicate keys, and brackets within more than KD_JSON_MAX_DEPTH others, are refused. at (may
 * be NULL): where it is wrong. KD_ECORRUPT or KD_ENOMEM, without a sentence. */
kd_status kd_json_parse(json_t **out, const char *text, size_t len, json_error_t *at);
/* The text of a value (flags: jansson's), free() it. NULL when out of memory now, or when jansson was refused
 * memory on this thread since the last such NULL: then a part of the value may be missing, because few
 * builders look at every member they add. */
char *kd_json_text(const json_t *value, size_t flags);
/* Writes atomically, indented, keys in insertion order, newline at the end. KD_ENOMEM as for kd_json_text. */
kd_status kd_json_save(const char *path, const json_t *value, kd_err *err);
/* Typed members; a missing member or another type is KD_ECORRUPT and the message names path
 * (of the file, for the message only) and key. Strings are borrowed from obj. */
kd_status kd_json_str(const json_t *obj, const char *key, const char **out, const char *path, kd_err *err);
kd_status kd_json_int(const json_t *obj, const char *key, int64_t lo, int64_t hi, int64_t *out,
                      const char *path, kd_err *err);
kd_status kd_json_real(const json_t *obj, const char *key, double *out, const char *path, kd_err *err);

/* ---- machine ------------------------------------------------------------------------------ */

typedef enum kd_isa { KD_ISA_SCALAR = 0, KD_ISA_AVX2, KD_ISA_AVX512, KD_ISA_AVX512BF16, KD_ISA_AMX } kd_isa;
kd_isa kd_cpu_isa(void); /* best level of this CPU, capped by KD_ISA=scalar|avx2|avx512|avx512bf16|amx */
const char *kd_isa_name(kd_isa isa);
bool kd_isa_parse(const char *name, kd_isa *out); /* false for NULL or an unknown name */
const char *kd_cpu_name(void);                    /* as the kernel prints it; "unknown CPU" otherwise */
int kd_cpu_count(void);                           /* CPUs this process may run on, at least 1 */
/* The calling thread treats denormal numbers as zero from now on: weights whose gradient died decay into
 * them, and CPUs are slow there. Trainers call it in each of their threads. */
void kd_cpu_flush_denormals(void);
double kd_now(void);             /* monotonic seconds */
double kd_cpu_seconds(void);     /* user + system time of this process and its children */
size_t kd_peak_rss(void);        /* bytes */
const char *kd_build_info(void); /* "gcc 12.2.0, release, ..." */

/* "1.5 GiB", "312 KiB"; "12.3k"; "1:02:03". buf: at least 32 bytes; returns buf. */
char *kd_fmt_bytes(char *buf, double bytes);
char *kd_fmt_count(char *buf, double count);
char *kd_fmt_duration(char *buf, double seconds);

#endif
