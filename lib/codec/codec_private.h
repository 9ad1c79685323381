/* codec_private.h - what the files of lib/codec share: one kd__codec row per codec.
 *
 * Reading order: codec.c (names, parameters, dispatch), exact.c (exponential and logarithm), then one
 * file per codec, each with its layout on top: int8.c, log_steps.c (dense); weights.c (softmax and draws),
 * rank_gaps.c (how entries are written), topk.c, sample.c, head_tail.c (sparse); pieces.c (blocks piece by
 * piece).
 */
#ifndef KD_CODEC_PRIVATE_H
#define KD_CODEC_PRIVATE_H

#include "kd/codec.h"
#include "kd/config.h"

#include <string.h>

/* Parameters of all codecs; a codec's option rows name those it has. */
typedef struct kd__codec_params {
    int64_t k, n, bits, seed;
    double temperature, step;
    kd_reals temperatures;
    bool offset;
} kd__codec_params;

typedef struct kd__codec {
    kd_codec_info info;
    const kd_option *options; /* keys into kd__codec_params */
    size_t noptions;
    /* Checks the parameters and the codebook, makes tables; NULL: nothing to do. c->state: free() frees it.
     */
    kd_status (*open)(kd_codec *c, kd_err *err);
    /* Adds n positions to mean (width), from which the codebook is made; NULL: there is none. */
    kd_status (*learn)(const kd_codec *c, const float *values, size_t n, double *mean, kd_err *err);
    kd_status (*book)(const kd_codec *c, const double *mean, kd_buf *book, kd_err *err);
    kd_status (*encode)(const kd_codec *c, const kd_codec_block *b, int threads, kd_buf *out, kd_err *err);
    /* Byte planes of a number a position that a dense codec's block begins with, before the codes of the
     * positions one behind the other; 0: it is laid out in another way. */
    size_t head;
    /* From sparse targets; NULL: the codec cannot. */
    kd_status (*encode_sparse)(const kd_codec *c, const kd_sparse *s, kd_buf *out, kd_err *err);
    /* One of these two. */
    kd_status (*decode)(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, float *out,
                        kd_err *err);
    kd_status (*sparse)(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, kd_sparse *out,
                        kd_err *err);
    kd_status (*check)(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, kd_err *err);
    kd_status (*select)(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                        const uint8_t *keep, kd_buf *out, kd_err *err);
    /* Slow and plain twins of decode and sparse, for tests. */
    kd_status (*decode_twin)(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, float *out,
                             kd_err *err);
    kd_status (*sparse_twin)(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                             kd_sparse *out, kd_err *err);
} kd__codec;

struct kd_codec {
    const kd__codec *ops;
    int64_t width;
    kd__codec_params p;
    kd_config config; /* owns the lists in p */
    json_t *params;
    uint8_t *book; /* as kd_codec_learn made it; NULL: none */
    size_t book_bytes;
    void *state;
};

extern const kd__codec kd__codec_int8, kd__codec_int8_channel; /* int8.c */
extern const kd__codec kd__codec_log8, kd__codec_log6;         /* log_steps.c */
extern const kd__codec kd__codec_topk;                         /* topk.c */
extern const kd__codec kd__codec_sample;                       /* sample.c */
extern const kd__codec kd__codec_head_tail;                    /* head_tail.c */

/* Calls work(arg, first, last) for pieces of 0..n that depend on n and piece alone, on `threads` threads;
 * the first status by piece that is not KD_OK is returned with its message. (codec.c) */
kd_status kd__codec_parallel(size_t n, size_t piece, int threads,
                             kd_status (*work)(void *arg, size_t first, size_t last, kd_err *err), void *arg,
                             kd_err *err);
/* Row and position within the row of the position at index i of a block. lengths may hold zeros. */
void kd__codec_place(const kd_codec_block *b, size_t i, uint32_t *row, uint32_t *at);
/* Where this block's part of a row ends within the row. */
static inline size_t kd__codec_row_end(const kd_codec_block *b, uint32_t row)
{
    return b->lengths ? (row ? 0 : (size_t)b->at) + b->lengths[row] : b->each;
}
/* KD_ENUMERIC unless all (width) values of position i are finite. */
kd_status kd__codec_finite(const kd_codec *c, const kd_codec_block *b, size_t i, kd_err *err);
/* Makes out longer by so many bytes, not set, and gives their place; NULL: out of memory. (codec.c) */
uint8_t *kd__codec_room(kd_buf *out, size_t bytes);
/* Makes *array, an array of (count) things of so many bytes, larger; false: out of memory, it is as it was.
 */
bool kd__codec_grow(void *array, size_t count, size_t size);
/* Floats as integers of the same order: infinities and NaNs lie beyond all finite numbers, -0 before 0. */
static inline int32_t kd__key_of(float v)
{
    int32_t k;
    memcpy(&k, &v, 4);
    return k ^ (int32_t)((uint32_t)(k >> 31) >> 1);
}
static inline float kd__of_key(int32_t k)
{
    float v;
    k ^= (int32_t)((uint32_t)(k >> 31) >> 1);
    memcpy(&v, &k, 4);
    return v;
}
/* Smallest and largest of n >= 1 values; false: one of them is not finite. (int8.c) */
bool kd__codec_range(const float *v, size_t n, float *lo, float *hi);
/* Room for so many positions, entries and temperatures in a kd_sparse. */
kd_status kd__sparse_reserve(kd_sparse *s, size_t positions, size_t entries, int temperatures, kd_err *err);

/* ---- softmax of one position (weights.c, weights.simd.c) ----------------------------------- */

enum { KD__BLOCK = 64 }; /* classes whose weights are added up together */

typedef struct kd__class_loops {
    /* Largest value of each block; false: a value is not finite. */
    bool (*scan)(const float *z, size_t width, float *most);
    /* w[k] = exp((z[k] - top) * r) for k < n <= KD__BLOCK, then zeros. */
    void (*weights)(const float *z, size_t n, double top, double r, double w[KD__BLOCK]);
    double (*total)(const double w[KD__BLOCK]);
    /* Sums of all blocks. */
    void (*totals)(const float *z, size_t width, double top, double r, double *sum);
} kd__class_loops;
extern const kd__class_loops kd__class_loops_scalar, kd__class_loops_avx2, kd__class_loops_avx512;

typedef struct kd__softmax {
    const kd__class_loops *loops;
    size_t width, blocks;
    const float *z; /* (width) the position; borrowed */
    float *most;    /* (blocks) largest value */
    double *sum;    /* (blocks) of weights exp((z - top) * r) */
    double top, r, total;
} kd__softmax;
bool kd__softmax_init(kd__softmax *s, int64_t width); /* false: out of memory; release in any case */
void kd__softmax_release(kd__softmax *s);
bool kd__softmax_take(kd__softmax *s, const float *values); /* false: a value is not finite */
double kd__softmax_at(kd__softmax *s, double temperature);  /* sum and total, which it returns */
void kd__softmax_block(const kd__softmax *s, size_t b, double w[KD__BLOCK]);
double kd__softmax_sum(const kd__softmax *s, const double w[KD__BLOCK]); /* as `sum` is made */

/* The random numbers of a position: a stream, and its next number in [0, 1). */
kd_rng kd__draws(int64_t seed, kd_id row, uint32_t at);
double kd__draw(kd_rng *r);

/* ---- entries (rank_gaps.c) ------------------------------------------------------------------ */

/* A class of a position: id or rank << 32, KD__HAS_NUMBER or 0, a number of 16 bits. Sorts by its class. */
typedef uint64_t kd__entry;
#define KD__HAS_NUMBER 0x10000u
static inline kd__entry kd__entry_of(size_t id, uint32_t low) { return (uint64_t)id << 32 | low; }
static inline uint32_t kd__entry_class(kd__entry e) { return (uint32_t)(e >> 32); }
static inline uint32_t kd__entry_number(kd__entry e) { return (uint32_t)e & 0xffffu; }
static inline bool kd__entry_has_number(kd__entry e) { return (e & KD__HAS_NUMBER) != 0; }
/* By rising class; scratch: (n). */
void kd__sort_entries(kd__entry *e, size_t n, kd__entry *scratch);

/* What tells the sparse codecs apart. */
typedef struct kd__sparse_kind {
    bool draws; /* pick needs r */
    /* Chooses entries of a position, at most state->most, by rising id; codes: (2, temperatures). Returns
     * their number. room: (width, or n if larger) for what the choice needs. */
    size_t (*pick)(const kd_codec *c, kd__softmax *s, kd_rng *r, kd__entry *e, uint16_t *codes,
                   kd__entry *room);
    /* How many entries without a number the n with one (by rising rank) make expect: close to the truth, may
     * be negative. NULL: all entries have a number. */
    int64_t (*expected)(const kd_codec *c, const kd__entry *e, size_t n);
    /* Whether the numbers of n entries of a position can be; NULL: all can. */
    bool (*possible)(const kd_codec *c, const kd__entry *e, size_t n);
    void (*values)(const kd_codec *c, const kd__entry *e, size_t n, const uint16_t *codes, float *value,
                   uint8_t *exact);
} kd__sparse_kind;

/* c->state of the sparse codecs. */
typedef struct kd__sparse_state {
    const kd__sparse_kind *kind;
    size_t most; /* entries a position */
    size_t count_bytes, number_bytes, temperatures;
    size_t unit;               /* topk: index of temperature 1 */
    double table[256];         /* topk: steps as gaps; head-tail: weights of the head */
    const uint32_t *rank, *id; /* (width) of ids and ranks; NULL: a rank is the id */
    uint32_t maps[];
} kd__sparse_state;

/* c->state, with the codebook's maps; most may be more than the width. KD_ECORRUPT, KD_ENOMEM. */
kd_status kd__sparse_open(kd_codec *c, const kd__sparse_kind *kind, int64_t most, size_t number_bytes,
                          kd_err *err);
/* The hooks that they share. */
kd_status kd__sparse_learn(const kd_codec *c, const float *values, size_t n, double *mean, kd_err *err);
kd_status kd__sparse_book(const kd_codec *c, const double *mean, kd_buf *book, kd_err *err);
kd_status kd__sparse_encode(const kd_codec *c, const kd_codec_block *b, int threads, kd_buf *out,
                            kd_err *err);
kd_status kd__sparse_decode(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                            kd_sparse *out, kd_err *err);
kd_status kd__sparse_check(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions, kd_err *err);
kd_status kd__sparse_select(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                            const uint8_t *keep, kd_buf *out, kd_err *err);
kd_status kd__sparse_twin(const kd_codec *c, const uint8_t *in, size_t bytes, size_t positions,
                          kd_sparse *out, kd_err *err);

#define KD__SPARSE_HOOKS                                                                                     \
    .learn = kd__sparse_learn, .book = kd__sparse_book, .encode = kd__sparse_encode,                         \
    .sparse = kd__sparse_decode, .check = kd__sparse_check, .select = kd__sparse_select,                     \
    .sparse_twin = kd__sparse_twin

/* The mass that a tail code stands for. (topk.c) */
float kd__tail_of(uint16_t code);

/* Entries of many positions on their way into a block. */
typedef struct kd__picks {
    size_t positions;
    size_t *start;    /* (positions) where a position's entries begin */
    uint32_t *count;  /* (positions) how many they are */
    kd__entry *entry; /* classes are ranks, rising within a position */
    uint16_t *codes;  /* (positions, 2, temperatures) */
} kd__picks;
/* Room for so many positions and entries; false: out of memory. Release in any case. */
bool kd__picks_init(kd__picks *p, const kd_codec *c, size_t positions, size_t entries);
void kd__picks_release(kd__picks *p);
/* Entries of all positions of a block. Release in any case. */
kd_status kd__sparse_pick(kd__picks *p, const kd_codec *c, const kd_codec_block *b, int threads, kd_err *err);
/* Ids to ranks, sorted. scratch: (n) */
void kd__picks_rank(const kd_codec *c, kd__entry *e, size_t n, kd__entry *scratch);
/* Appends the block. */
kd_status kd__picks_write(const kd__picks *p, const kd_codec *c, kd_buf *out, kd_err *err);

#endif
