/* audit_private.h - what the files of lib/audit share. */
#ifndef KD_AUDIT_PRIVATE_H
#define KD_AUDIT_PRIVATE_H

#include "kd/audit.h"

/* ---- signature.c: a row as a short vector of length 1 --------------------------------------- */

typedef struct kd__prints {
    size_t rows, dims;
    float *plain;   /* (rows, dims); a row that is the same everywhere: zeros */
    uint8_t *thumb; /* (rows, h, w, c) of images, to be compared more closely; NULL: vectors */
    size_t h, w, c;
} kd__prints;
/* Of a column that kd__prints_check accepts. KD_ENOMEM, KD_ENUMERIC, KD_ECORRUPT. */
kd_status kd__prints_make(kd__prints *p, kd_store *s, int column, int threads, kd_err *err);
/* The first n rows of images, mirrored and moved: out (n, dims). */
void kd__prints_view(const kd__prints *p, float *out, size_t n, bool mirrored, int dy, int dx, int threads);
kd_status kd__prints_check(const kd_store *s, int column, kd_err *err);
void kd__prints_release(kd__prints *p);
/* The largest correlation of the thumbnails of two rows, moved against each other by up to shift pixels;
 * the second mirrored. */
float kd__thumbs_alike(const kd__prints *p, size_t a, size_t b, bool mirrored, int shift);

/* ---- neighbours.c: the nearest rows of each row ---------------------------------------------- */

#define KD__NEAREST 8
typedef struct kd__near {
    uint32_t row[KD__NEAREST];
    float value[KD__NEAREST]; /* falling; ties by row */
    uint32_t n;
} kd__near;
/* out: (n) of each query the rows of base with the largest products of at least floor, but for the row of its
 * own number. query, base: (n, dims). */
kd_status kd__nearest(kd__near *out, const float *query, const float *base, size_t n, size_t dims,
                      float floor, const kd_pair_params *p, uint64_t done, uint64_t total, kd_err *err);

/* ---- facts.c: what an audit knows of each row -------------------------------------------------- */

typedef struct kd__facts {
    kd_store *s;
    uint64_t n;
    kd_id *id;        /* (n) */
    uint8_t *split;   /* (n) */
    uint64_t *source; /* (n) where the row stood in the files that were packed; NULL: not known */
    int32_t *label;   /* (n), -1: none; NULL: the store has no labels */
    int64_t classes;  /* 0: neither labels nor a teacher */
    float *p;         /* (n, classes) the teacher's probabilities; NULL: no teacher */
    uint32_t folds;   /* of a cross-fitted teacher; 0: one teacher */
    uint64_t hits[KD_AUDIT_FOLDS][KD_AUDIT_FOLDS], /* [teacher][fold]: its hits on the training rows */
        seen[KD_AUDIT_FOLDS];                      /* [fold]: labelled training rows */
} kd__facts;
/* p NULL: no teacher is wanted. KD_ENOTFOUND: a teacher that is not there; KD_EMISMATCH: classes that differ.
 */
kd_status kd__facts_read(kd__facts *r, kd_store *s, const kd_audit_params *p, kd_err *err);
void kd__facts_release(kd__facts *r);
uint32_t kd__facts_top(const kd__facts *r, uint64_t row); /* the teacher's top class */

uint32_t kd__audit_most_rows(const kd_store *s); /* of a chunk */

/* ---- run.c, files.c and balance.c ------------------------------------------------------------- */

typedef struct kd__audit {
    const kd_audit_params *p;
    const char *folder;
    kd__facts facts;
    int input, near; /* columns; -1: none */
    kd_pairs pairs;
    uint8_t *flag; /* (n) labels that are probably wrong */
    uint8_t *why;  /* (n) KD_DROP_* of a training row, wanted or not */
    json_t *summary, *left_out, *warnings;
} kd__audit;
/* "left_out" and "warnings" of the summary. */
void kd__say(json_t *list, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool kd__has_teacher(const kd__audit *a);
bool kd__is_wrong(const kd__audit *a, uint64_t row); /* labelled, and the teacher's top class is another */
/* Each writes one file of the folder; some add to the summary. */
kd_status kd__write_labels(kd__audit *a, kd_err *err);
kd_status kd__write_pairs(kd__audit *a, kd_err *err);
kd_status kd__write_unsure(kd__audit *a, kd_err *err);
kd_status kd__write_balance(kd__audit *a, kd_err *err);
kd_status kd__write_drift(kd__audit *a, kd_err *err);
kd_status kd__write_lists(kd__audit *a, kd_err *err);
kd_status kd__open_file(kd_newfile **out, const kd__audit *a, const char *name, kd_err *err);

#endif
