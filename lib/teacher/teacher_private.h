/* teacher_private.h - what the files of lib/teacher share. */
#ifndef KD_TEACHER_PRIVATE_H
#define KD_TEACHER_PRIVATE_H

#include "kd/teacher.h"

#include <pthread.h>

/* A node whose values are kept. */
typedef struct kd__tap {
    kd_tap tap; /* its form is resolved */
    kd_node node;
    int ndims; /* of a row as it is given back */
    int64_t dims[KD_MAX_DIMS];
    size_t size;             /* their product */
    size_t pixels, channels; /* of a map that is pooled */
    size_t height, width;    /* of one that becomes attention */
} kd__tap;

typedef struct kd__known kd__known;

struct kd_teacher {
    char *folder; /* for messages */
    char *name;
    kd_model *model;
    kd_exec *exec;
    int64_t batch;
    int threads;
    kd_precision precision;
    size_t input, classes; /* numbers a row; of a token model input is 1 a token */
    int64_t tokens;        /* token models: in a batch at most */
    char fingerprint[33], tokenizer[33];
    kd__tap tap[KD_TEACHER_TAPS];
    size_t ntaps;
    kd__known *known; /* NULL until a pass has texts */
    /* Language models, whose logits are those of a vocabulary at each token: exec ends at `body`, what the
     * head reads, and the head is run apart for a few tokens at a time. */
    bool speaks;
    kd_node body;
    kd_exec *head;
    float *hidden; /* (KD__HEAD_ROWS, width of the body) */
};
enum { KD__HEAD_ROWS = 256 };

/* Which rows of a store a batch holds, for messages: number i is a view of row base + (first + i) / per. */
typedef struct kd__place {
    uint64_t base, first, per;
} kd__place;
/* As kd_teacher_run and kd_teacher_tap. */
kd_status kd__teacher_run(kd_teacher *t, const void *raw, kd_dtype dtype, int64_t rows, kd__place at,
                          float *logits, kd_err *err);
/* The same for n texts, text i being tokens offset[i] to offset[i + 1] of raw. out: (rows of the output node,
 * classes). */
kd_status kd__teacher_read(kd_teacher *t, const void *raw, kd_dtype dtype, const uint64_t *offset, int64_t n,
                           kd__place at, float *out, kd_err *err);
kd_status kd__teacher_plan(kd_teacher *t, const kd_node *keep, size_t n, kd_err *err); /* a new exec */
kd_status kd__teacher_tap(kd_teacher *t, size_t i, int64_t rows, kd__place at, float *out, kd_err *err);

/* Language models: the body over n texts; then logits of its rows row[0], ..., n <= KD__HEAD_ROWS of them,
 * borrowed until the next call. */
kd_status kd__teacher_body(kd_teacher *t, const void *raw, kd_dtype dtype, const uint64_t *offset, int64_t n,
                           kd__place at, kd_err *err);
kd_status kd__teacher_head(kd_teacher *t, const uint32_t *row, size_t n, const float **logits, kd_err *err);

/* ---- places handed from one thread to the next -------------------------------------------- */

/* n places that a producer fills and a consumer empties, in turn. */
typedef struct kd__ring {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    size_t n, filled, emptied; /* so many so far */
    bool ended;                /* nothing more will be filled; what is there will be emptied */
    bool stopped;              /* nothing more will be emptied */
} kd__ring;
void kd__ring_init(kd__ring *r, size_t n);
void kd__ring_release(kd__ring *r);
/* Waits for a free place, SIZE_MAX: stopped. kd__ring_filled hands it on. */
size_t kd__ring_free(kd__ring *r);
void kd__ring_filled(kd__ring *r);
void kd__ring_end(kd__ring *r);
/* Waits for a filled place, SIZE_MAX: all are emptied and no more will come. kd__ring_emptied gives it back.
 */
size_t kd__ring_take(kd__ring *r);
void kd__ring_emptied(kd__ring *r);
void kd__ring_stop(kd__ring *r);

/* ---- rows of a store as the teacher takes them -------------------------------------------- */

/* One forward pass: rows of a chunk, or views of them in the order (row, view). */
typedef struct kd__feed {
    uint32_t chunk;
    bool views, closes; /* closes: the last of its chunk */
    bool known;         /* view 0 is not run: its logits are those of the row */
    double done;        /* of its chunk, this one included: 1 when it closes */
    kd__place at;
    int64_t rows;    /* or (row, view) pairs, or texts: then row base + (first + i) / per */
    const char *raw; /* (rows, row bytes), the reader's, until its next call */
    kd_dtype dtype;
    /* Of texts, else NULL: (rows + 1), from 0. */
    const uint64_t *offset;
    int text;                /* which of the columns of texts */
    uint64_t token, tokens;  /* of the chunk: the first one, and how many there are */
    const uint32_t *lengths; /* of the chunk's rows, in tokens */
    const uint8_t *mask;     /* of the chunk's tokens: which are to be predicted; NULL: all that can be */
    const kd_id *ids;        /* of the chunk's rows, for a language model */
} kd__feed;

/* A column of texts: ragged rows of token ids, each of one text or of `each` one behind the other. */
#define KD__TEXTS 4
typedef struct kd__text {
    int column;
    const kd_column *c;
    int64_t each;
    int mask; /* column, -1: none */
} kd__text;
bool kd__is_tokens(const kd_column *c);
/* The store's, in its order; *n of them. KD_EMISMATCH: none, or one that is not as the teacher takes it. */
kd_status kd__teacher_texts(kd__text out[KD__TEXTS], int *n, const kd_teacher *t, const kd_store *s,
                            kd_err *err);

/* One chunk of a column of texts. */
typedef struct kd__tokens {
    char *raw; /* the block: lengths, then ids */
    size_t bytes;
    uint64_t *offset; /* (rows * each + 1) tokens before each text */
    size_t texts;
    char *mask; /* the block of the mask: lengths, then a byte a token */
    size_t mask_bytes;
} kd__tokens;
kd_status kd__tokens_read(kd__tokens *k, const kd__text *x, kd_cursor *c, const kd_store *s, uint32_t chunk,
                          kd_err *err);
void kd__tokens_release(kd__tokens *k);

/* A chunk that was read. */
typedef struct kd__slot {
    kd_cursor *cursor;
    char *raw;                    /* (most rows of a chunk, row bytes) */
    kd__tokens tokens[KD__TEXTS]; /* of a token model, in its place */
    kd_id *ids;                   /* where there are views, or a language model */
    kd_err err;                   /* why it could not be read */
} kd__slot;

/* Cuts chunks into feeds. */
typedef struct kd__reader {
    kd_store *s;
    const kd_column *column;   /* input; of texts the first */
    int input, id;             /* columns */
    const kd_view_spec *views; /* NULL: none */
    bool plain;                /* the rows themselves are wanted */
    bool wants_ids;
    int64_t batch;
    int threads;
    size_t row_bytes;
    kd__slot *slot; /* (slots) the chunks from `first` on, `held` of them */
    uint32_t slots, first, held;
    uint32_t chunk, rows; /* what is fed now */
    uint64_t at, end;     /* forward rows of it, fed and in all */
    char *made;           /* (batch, row bytes) views */
    kd__text text[KD__TEXTS];
    int texts, now; /* columns of texts, and the one that is fed */
    int64_t tokens; /* in a batch */
    uint64_t *offset;
} kd__reader;
/* chunks: how many to read at once at most, 1 or more; they are fed in their order. */
kd_status kd__reader_open(kd__reader *r, const kd_teacher *t, kd_store *s, const kd_view_spec *views,
                          bool plain, int chunks, kd_err *err);
void kd__reader_close(kd__reader *r);
/* Goes to the beginning of a chunk; reads it, and those behind it, unless it was read with an earlier one.
 * On the thread that leads the teacher's team, as kd__reader_next. */
kd_status kd__reader_seek(kd__reader *r, uint32_t chunk, kd_err *err);
/* The next feed of the chunk; there is one until f->closes. */
void kd__reader_next(kd__reader *r, kd__feed *f);
size_t kd__most_rows(const kd_store *s); /* of a chunk */
/* A sample of about `rows` rows, in chunks that are spread over the store: the i-th, from 0; false: there are
 * no more. Whole chunks, because what an encoding makes of a row may depend on its neighbours. */
bool kd__sample(const kd_store *s, uint64_t rows, uint32_t i, uint32_t *chunk);

/* ---- texts that were embedded before (known.c) ---------------------------------------------- */

/* kd__teacher_read of a feed of texts, with one output each and without taps. */
kd_status kd__known_read(kd_teacher *t, const kd__feed *f, float *out, kd_err *err);
void kd__known_free(kd__known *k); /* NULL-safe */

/* ---- what an encoding keeps (measure.c) ------------------------------------------------------- */

/* kd_plan_measure with blocks that come one after the other, each of `most` rows at most. */
typedef struct kd__measure kd__measure;
kd_status kd__measure_open(kd__measure **out, const char *encoding, int64_t classes, size_t most, int level,
                           int threads, kd_err *err);
kd_status kd__measure_add(kd__measure *m, const float *z, uint32_t n, const kd_id *ids, kd_err *err);
void kd__measure_end(const kd__measure *m, kd_plan_entry *e);
void kd__measure_free(kd__measure *m); /* NULL-safe */

/* ---- what becomes of the values ----------------------------------------------------------- */

enum {
    KD__LOGITS,
    KD__VIEWS,
    KD__TAPS
}; /* where a column's values come from; KD__TAPS + number of the tap */
#define KD__TARGETS (2 + KD_TEACHER_TAPS)

/* A column of teacher outputs. */
typedef struct kd__target {
    kd_column column; /* params and book are the target's */
    unsigned source;
    int text;        /* which column of texts */
    size_t size;     /* numbers a row, of a ragged column a token */
    kd_codec *codec; /* NULL: dense */
    bool said;       /* logits of a language model: encoded as they are made (language.c) */
} kd__target;
/* encoding: NULL or "dense", or as kd_codec_parse reads it. params are taken. */
kd_status kd__target_make(kd__target *g, unsigned source, const char *encoding, json_t *params, kd_err *err);
/* Learns a codebook from rows of values if the codec has one, and opens the codec. */
kd_status kd__target_open(kd__target *g, const float *values, size_t rows, kd_err *err);
/* Takes a codebook, which becomes the target's, and opens the codec. */
kd_status kd__target_use(kd__target *g, void *book, size_t book_bytes, kd_err *err);
bool kd__target_learns(const kd__target *g);
void kd__target_release(kd__target *g);

/* ---- what a language model says (language.c) ------------------------------------------------- */

/* Logits of one chunk, encoded piece by piece. */
typedef struct kd__said {
    uint32_t *lengths; /* (rows) tokens that are predicted */
    kd_codec_pieces *pieces;
    kd_buf dense; /* where there is no codec */
} kd__said;
kd_status kd__said_open(kd__said **out, size_t rows, kd_err *err);
void kd__said_free(kd__said *s);                                                          /* NULL-safe */
const char *kd__said_encoding(const kd_teacher *t, const char *encoding, kd_dtype dtype); /* or the default */
/* n positions of b behind those that are there. where, row: for messages. */
kd_status kd__said_put(kd__said *s, const kd__target *g, const kd_codec_block *b, size_t n, int threads,
                       const char *where, uint64_t row, kd_err *err);
/* The positions of a single row, which are from's, as those of row `row`; from is used up. */
kd_status kd__said_join(kd__said *s, size_t row, const kd__target *g, kd__said *from, kd_err *err);
/* Of one feed, whose body has been run: logits that predict its tokens. */
kd_status kd__said_take(kd__said *s, kd_teacher *t, const kd__feed *f, const kd__target *g, kd_err *err);
/* The block of the chunk; out: what it lies in. The next feed begins another chunk. */
kd_status kd__said_end(kd__said *s, kd_buf *out, kd_block *block, kd_err *err);
/* What the model says of the first texts of the reader's store, `most` positions or a few more: logits (n,
 * classes) of the next n positions, KD__HEAD_ROWS at most; text: which column. seen: what the model has run
 * over, batches to their ends. */
typedef struct kd__said_seen {
    uint64_t rows, positions;
} kd__said_seen;
typedef kd_status kd__said_use(void *arg, const float *logits, size_t n, kd_err *err);
kd_status kd__said_sample(kd_teacher *t, kd__reader *r, int text, size_t most, kd__said_use *use, void *arg,
                          kd__said_seen *seen, kd_err *err);
/* Learns the codebook of a target from such a sample. */
kd_status kd__said_learn(kd__target *g, kd_teacher *t, kd__reader *r, kd_err *err);

/* The values of one chunk, by target: (rows, size). */
typedef struct kd__values {
    uint32_t chunk, rows;
    float *v[KD__TARGETS];
    size_t room[KD__TARGETS];     /* floats of those that grow: ragged ones */
    uint32_t *lengths[KD__TEXTS]; /* (rows), of columns of texts */
    kd__said *said[KD__TARGETS];  /* in the place of v, of what a language model says */
} kd__values;
kd_status kd__values_open(kd__values *v, const kd__target *target, size_t n, size_t rows, kd_err *err);
void kd__values_release(kd__values *v);
size_t kd__scratch_floats(const kd_teacher *t); /* of a batch's outputs */
/* Runs one feed and puts what the targets want of it into v; scratch: kd__scratch_floats. */
kd_status kd__values_take(kd__values *v, kd_teacher *t, const kd__feed *f, const kd__target *target, size_t n,
                          float *scratch, kd_err *err);
/* Reads and runs a chunk at once. */
kd_status kd__values_fill(kd__values *v, kd_teacher *t, kd__reader *r, uint32_t chunk,
                          const kd__target *target, size_t n, kd_err *err);

/* Rooms for blocks; a zeroed struct is an empty one. */
typedef struct kd__encoder {
    kd_buf buf;
    void *packed; /* dense values of a smaller type */
    size_t room;
} kd__encoder;
/* block: borrowed until the next call. ids: (rows), for codecs. lengths: (rows) of a ragged column. where,
 * first: for messages: the store and its number of the first row. */
kd_status kd__encode(kd__encoder *e, const kd__target *g, const float *values, const kd_id *ids,
                     const uint32_t *lengths, uint32_t rows, int threads, const char *where, uint64_t first,
                     kd_block *block, kd_err *err);
void kd__encoder_release(kd__encoder *e);
/* A half that overflows would be an infinite value: KD_ENUMERIC. halves: (n) of values, `size` a row. */
kd_status kd__check_halves(const kd_column *c, const void *halves, const float *values, size_t n, size_t size,
                           const char *where, uint64_t first, kd_err *err);

#endif
