/* kd/codec.h - a teacher's outputs as compact bytes, and back.
 *
 * A column whose encoding is not "dense" holds, per chunk, one encoded block: the values of all
 * positions of the chunk (a position is one vector of `width` numbers: the logits of one image or
 * one token, or one feature vector) in the form that its codec defines. The store compresses and
 * checks blocks; what their bytes mean is defined here and in docs/store-format.md.
 *
 * Dense codecs keep every class, quantised; sparse ones keep few classes and say what the rest
 * amounts to. What a codec keeps decides which objectives it can serve: kd_serves. An objective
 * asks for a set; a codec that lacks part of it is refused by name.
 *
 * Numbers are reproducible to the bit: everything here is computed in double precision with a fixed
 * order of operations, an exponential and a logarithm of our own (kd_codec_exp, kd_codec_log) and
 * no fused multiply-add, so every instruction set, thread count and the Python package write the same
 * bytes. Random draws come from Philox keyed by (params.seed, row id, position within the row): they
 * do not depend on where a row is stored, which shard dumped it or what was resumed.
 *
 *     kd_codec *c;
 *     kd_codec_open(&c, "head-tail", 49152, params, book, book_bytes, &err);
 *     kd_codec_encode(c, &block, threads, &bytes, &err);          // kd_buf
 *     kd_codec_sparse(c, bytes.text, bytes.len, positions, &s, &err);
 *
 * Threads: a codec is read-only after open and may be used by several threads at once.
 */
#ifndef KD_CODEC_H
#define KD_CODEC_H

#include "kd/base.h"

#define KD_CODEC_MAX_WIDTH        (1 << 24)
#define KD_CODEC_MAX_TEMPERATURES 8
#define KD_CODEC_MAX_BOOK         (64u << 20) /* bytes of a codebook */

/* What can be had from a column. */
typedef enum kd_serves {
    KD_SERVES_VALUES = 1,   /* the numbers themselves, quantised: features, logit MSE */
    KD_SERVES_SOFTMAX = 2,  /* softmax(z / T) of all classes at any T */
    KD_SERVES_HEAD = 4,     /* the largest classes' log-probabilities, tail mass at listed temperatures */
    KD_SERVES_EXPECTED = 8, /* an unbiased estimate of the probabilities at one temperature: forward KL, CE */
} kd_serves;

typedef struct kd_codec_info {
    const char *name;   /* "head-tail": the column's encoding */
    uint8_t code;       /* in record headers; append only */
    unsigned serves;    /* kd_serves */
    bool sparse;        /* kd_codec_sparse, else kd_codec_decode */
    bool book;          /* works with a codebook (optional: without one ids count as their own ranks) */
    const char *params; /* "n=20,temperature=1,seed=0": keys and defaults in the syntax of kd_codec_parse */
    const char *summary;
} kd_codec_info;

/* All codecs; *n receives their number. */
const kd_codec_info *kd_codec_list(size_t *n);
const kd_codec_info *kd_codec_find(const char *name); /* NULL: unknown, or "dense" */
/* "forward KL and cross-entropy at the temperature of the dump": what a set serves, in words. Returns
 * buf. */
const char *kd_serves_text(unsigned serves, char *buf, size_t size);

/* "topk:k=64,temperatures=1+4" to name and params (a new object, {} if none are given). "dense" is a name
 * here too. Unknown names and keys, values out of range: KD_EUSAGE with what is expected and the nearest
 * name. */
kd_status kd_codec_parse(const char *text, char name[16], json_t **params, kd_err *err);

typedef struct kd_codec kd_codec;
/* width: classes or channels. params: NULL, or an object; missing keys get their defaults. book: bytes from
 * kd_codec_learn or NULL; copied. KD_EUSAGE, KD_EUNSUPPORTED (no such codec), KD_ECORRUPT (codebook),
 * KD_ENOMEM. */
kd_status kd_codec_open(kd_codec **out, const char *name, int64_t width, const json_t *params,
                        const void *book, size_t book_bytes, kd_err *err);
void kd_codec_close(kd_codec *c); /* NULL-safe */
const kd_codec_info *kd_codec_describe(const kd_codec *c);
const json_t *kd_codec_params(const kd_codec *c); /* all keys, defaults filled in; borrowed */
int64_t kd_codec_width(const kd_codec *c);
/* Entries of one position, at most, as the parameters have it; the width for dense codecs. */
size_t kd_codec_most(const kd_codec *c);
/* Makes a codebook (for sparse codecs: classes by falling mean probability) from n sample positions,
 * values: (n, width). *book: free() it; NULL and 0 for codecs without one. KD_ENUMERIC, KD_ENOMEM. */
kd_status kd_codec_learn(const char *name, int64_t width, const json_t *params, const float *values, size_t n,
                         void **book, size_t *book_bytes, kd_err *err);
/* The same from positions that are not there at once. end: as kd_codec_learn; frees l in every case. */
typedef struct kd_codec_learner kd_codec_learner;
kd_status kd_codec_learner_open(kd_codec_learner **out, const char *name, int64_t width, const json_t *params,
                                kd_err *err);
kd_status kd_codec_learner_add(kd_codec_learner *l, const float *values, size_t n, kd_err *err);
kd_status kd_codec_learner_end(kd_codec_learner *l, void **book, size_t *book_bytes, kd_err *err);
void kd_codec_learner_free(kd_codec_learner *l); /* NULL-safe */

/* What is encoded: rows of one chunk. */
typedef struct kd_codec_block {
    const float *values;     /* (positions, width), finite */
    uint32_t rows;           /* of the chunk */
    const uint32_t *lengths; /* (rows) positions of each row; NULL: `each` positions in all of them */
    uint32_t each;
    uint32_t
        at; /* with lengths: place of the first value within its row, of which an earlier piece had some */
    const kd_id *ids; /* (rows) key of the random draws; may be NULL for codecs that draw none */
} kd_codec_block;
size_t kd_codec_block_positions(const kd_codec_block *b);
/* Appends the encoded block to out. The bytes do not depend on threads (>= 1). KD_ENUMERIC (a value is not
 * finite: names row, position and class), KD_EUSAGE (ids missing), KD_ENOMEM. */
kd_status kd_codec_encode(const kd_codec *c, const kd_codec_block *b, int threads, kd_buf *out, kd_err *err);

/* A block of so many positions that their values are not there at once: pieces one behind the other, which
 * may begin and end within rows (kd_codec_block.lengths then count the positions of this piece). The bytes
 * are those that kd_codec_encode makes of all of them. Memory: the encoded form and one piece. */
typedef struct kd_codec_pieces kd_codec_pieces;
/* c must outlive it. KD_EUNSUPPORTED (int8-channel, whose scales are those of the block), KD_ENOMEM. */
kd_status kd_codec_begin(kd_codec_pieces **out, const kd_codec *c, kd_err *err);
/* As kd_codec_encode. After an error what was added before is still there. */
kd_status kd_codec_add(kd_codec_pieces *p, const kd_codec_block *b, int threads, kd_err *err);
/* Positions that were gathered apart, of the same codec, behind those of p; from is empty then. */
kd_status kd_codec_join(kd_codec_pieces *p, kd_codec_pieces *from, kd_err *err);
/* Appends the block to out; the next kd_codec_add begins another one. */
kd_status kd_codec_end(kd_codec_pieces *p, kd_buf *out, kd_err *err);
void kd_codec_pieces_free(kd_codec_pieces *p); /* NULL-safe */

/* The dense form, out: (positions, width). Logits come back as they were up to quantisation
 * (KD_SERVES_VALUES), or as log-probabilities (KD_SERVES_SOFTMAX alone). Bytes are not trusted: KD_ECORRUPT.
 * KD_EUNSUPPORTED: a sparse codec. */
kd_status kd_codec_decode(const kd_codec *c, const void *in, size_t bytes, size_t positions, float *out,
                          kd_err *err);

/* The sparse form, by position. */
typedef struct kd_sparse {
    size_t positions, entries;
    uint64_t *offset; /* (positions + 1) */
    uint32_t *id;     /* (entries) rising within a position */
    float *value;     /* (entries) KD_SERVES_HEAD: log-probability at T = 1; KD_SERVES_EXPECTED: weight */
    uint8_t *exact;   /* (entries) 1: has a weight of its own; 0: a sampled class, stands for others too */
    int temperatures; /* listed ones; 0: none */
    double temperature[KD_CODEC_MAX_TEMPERATURES];
    float *tail;           /* (positions, temperatures) probability of all classes that are not kept */
    float *logz;           /* (positions, temperatures) log sum exp((z - max z) / T) */
    size_t cap, entry_cap; /* room; kd_codec_sparse grows the arrays and reuses them */
} kd_sparse;
/* Fills out; a zeroed struct is an empty one. KD_ECORRUPT, KD_EUNSUPPORTED (a dense codec), KD_ENOMEM. */
kd_status kd_codec_sparse(const kd_codec *c, const void *in, size_t bytes, size_t positions, kd_sparse *out,
                          kd_err *err);
void kd_sparse_release(kd_sparse *s);
/* Appends the block of targets that somebody else picked: s as kd_codec_sparse fills it, with the listed
 * temperatures of the codec. For codecs of KD_SERVES_HEAD alone. KD_EUNSUPPORTED (any other), KD_EUSAGE (too
 * many entries, ids not rising, other temperatures), KD_ENUMERIC, KD_ENOMEM. */
kd_status kd_codec_encode_sparse(const kd_codec *c, const kd_sparse *s, kd_buf *out, kd_err *err);

/* Whether the bytes are a block of so many positions. KD_ECORRUPT, KD_ENOMEM. */
kd_status kd_codec_check(const kd_codec *c, const void *in, size_t bytes, size_t positions, kd_err *err);
/* Appends the block of those positions whose keep is not 0: no value changes. KD_ECORRUPT, KD_ENOMEM. */
kd_status kd_codec_select(const kd_codec *c, const void *in, size_t bytes, size_t positions,
                          const uint8_t *keep, kd_buf *out, kd_err *err);

/* e^x for x <= 0 and ln x for x > 0, correct to 2 units in the last place, in double precision with
 * additions and multiplications in a stated order only: the same bits everywhere. */
double kd_codec_exp(double x);
double kd_codec_log(double x);

#endif
