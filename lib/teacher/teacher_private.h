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

struct kd_teacher {
    char *folder; /* for messages */
    char *name;
    kd_model *model;
    kd_exec *exec;
    int64_t batch;
    int threads;
    size_t input, classes; /* numbers a row */
    char fingerprint[33], tokenizer[33];
    kd__tap tap[KD_TEACHER_TAPS];
    size_t ntaps;
};

/* Which rows of a store a batch holds, for messages: number i is a view of row base + (first + i) / per. */
typedef struct kd__place {
    uint64_t base, first, per;
} kd__place;
/* As kd_teacher_run and kd_teacher_tap. */
kd_status kd__teacher_run(kd_teacher *t, const void *raw, kd_dtype dtype, int64_t rows, kd__place at,
                          float *logits, kd_err *err);
kd_status kd__teacher_tap(kd_teacher *t, size_t i, int64_t rows, kd__place at, float *out, kd_err *err);

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
    bool views, opens, closes; /* opens, closes: the first and the last of its chunk */
    bool known;                /* view 0 is not run: its logits are those of the row */
    double done;               /* of its chunk, this one included: 1 when it closes */
    kd__place at;
    int64_t rows; /* or (row, view) pairs */
    char *raw;    /* (batch, row bytes), owned by who made it */
} kd__feed;

/* Cuts chunks into feeds. */
typedef struct kd__reader {
    kd_store *s;
    kd_cursor *cursor;
    const kd_column *column;   /* input */
    int input, id;             /* columns */
    const kd_view_spec *views; /* NULL: none */
    bool plain;                /* the rows themselves are wanted */
    int64_t batch;
    size_t row_bytes;
    uint32_t chunk, rows; /* what is read now */
    uint64_t at, end;     /* forward rows of it, fed and in all */
    char *raw;            /* (most rows of a chunk, row bytes) */
    kd_id *ids;
} kd__reader;
kd_status kd__reader_open(kd__reader *r, const kd_teacher *t, kd_store *s, const kd_view_spec *views,
                          bool plain, kd_err *err);
void kd__reader_close(kd__reader *r);
/* Reads a chunk. */
kd_status kd__reader_seek(kd__reader *r, uint32_t chunk, kd_err *err);
/* The next feed of the chunk; there is one until f->closes. */
void kd__reader_next(kd__reader *r, kd__feed *f);
size_t kd__most_rows(const kd_store *s); /* of a chunk */
/* A sample of about `rows` rows, in chunks that are spread over the store: the i-th, from 0; false: there are
 * no more. Whole chunks, because what an encoding makes of a row may depend on its neighbours. */
bool kd__sample(const kd_store *s, uint64_t rows, uint32_t i, uint32_t *chunk);

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
    size_t size;     /* numbers a row */
    kd_codec *codec; /* NULL: dense */
} kd__target;
/* encoding: NULL or "dense", or as kd_codec_parse reads it. params are taken. */
kd_status kd__target_make(kd__target *g, unsigned source, const char *encoding, json_t *params, kd_err *err);
/* Learns a codebook from rows of values if the codec has one, and opens the codec. */
kd_status kd__target_open(kd__target *g, const float *values, size_t rows, kd_err *err);
bool kd__target_learns(const kd__target *g);
void kd__target_release(kd__target *g);

/* The values of one chunk, by target: (rows, size). */
typedef struct kd__values {
    uint32_t chunk, rows;
    float *v[KD__TARGETS];
} kd__values;
kd_status kd__values_open(kd__values *v, const kd__target *target, size_t n, size_t rows, kd_err *err);
void kd__values_release(kd__values *v);
/* Runs one feed and puts what the targets want of it into v; scratch: (batch, classes). */
kd_status kd__values_take(kd__values *v, kd_teacher *t, const kd__feed *f, kd_dtype dtype,
                          const kd__target *target, size_t n, float *scratch, kd_err *err);
/* Reads and runs a chunk at once. */
kd_status kd__values_fill(kd__values *v, kd_teacher *t, kd__reader *r, uint32_t chunk,
                          const kd__target *target, size_t n, kd_err *err);

/* Rooms for blocks; a zeroed struct is an empty one. */
typedef struct kd__encoder {
    kd_buf buf;
    void *packed; /* dense values of a smaller type */
    size_t room;
} kd__encoder;
/* block: borrowed until the next call. ids: (rows), for codecs. where, first: for messages: the store and its
 * number of the first row. */
kd_status kd__encode(kd__encoder *e, const kd__target *g, const float *values, const kd_id *ids,
                     uint32_t rows, int threads, const char *where, uint64_t first, kd_block *block,
                     kd_err *err);
void kd__encoder_release(kd__encoder *e);

#endif
