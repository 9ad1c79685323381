/* codec_private.h - what the files of lib/codec share: one kd__codec row per codec.
 *
 * Reading order: codec.c (names, parameters, dispatch), exact.c (exponential and logarithm), then one
 * file per codec, each with its layout on top: int8.c, log_steps.c (dense); rank_gaps.c (how ids are
 * written), topk.c, sample.c, head_tail.c (sparse).
 */
#ifndef KD_CODEC_PRIVATE_H
#define KD_CODEC_PRIVATE_H

#include "kd/codec.h"
#include "kd/config.h"

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
    kd_status (*learn)(const kd_codec *c, const float *values, size_t n, kd_buf *book, kd_err *err);
    kd_status (*encode)(const kd_codec *c, const kd_codec_block *b, int threads, kd_buf *out, kd_err *err);
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
/* KD_ENUMERIC unless all (width) values of position i are finite. */
kd_status kd__codec_finite(const kd_codec *c, const kd_codec_block *b, size_t i, kd_err *err);
/* Makes out longer by so many bytes, not set, and gives their place; NULL: out of memory. (codec.c) */
uint8_t *kd__codec_room(kd_buf *out, size_t bytes);
/* Smallest and largest of n >= 1 values; false: one of them is not finite. (int8.c) */
bool kd__codec_range(const float *v, size_t n, float *lo, float *hi);
/* Room for so many positions, entries and temperatures in a kd_sparse. */
kd_status kd__sparse_reserve(kd_sparse *s, size_t positions, size_t entries, int temperatures, kd_err *err);

#endif
