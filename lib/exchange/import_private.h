/* import_private.h - one column on its way into a store: described, learned from, encoded. (packer.c) */
#ifndef KD_IMPORT_PRIVATE_H
#define KD_IMPORT_PRIVATE_H

#include "exchange_private.h"

typedef struct kd__packer {
    kd_codec *codec; /* NULL: dense */
    bool sparse;     /* top-k entries come in */
    bool learns;     /* wants a codebook: kd__packer_learn with rows of a sample */
    kd_dtype from;   /* of the file */
    json_t *params;  /* the column's */
    void *book;
    size_t book_bytes;
    kd__rows rows; /* filled by the input */
    kd_buf bytes;  /* encoded */
    void *packed;  /* dense, in the column's type */
    size_t packed_cap;
    const char *what; /* the files, for messages */
} kd__packer;

/* Describes the column and opens its codec. most, largest: of top-k input. s: what says the classes; NULL:
 * p->classes alone. what: for messages, borrowed. p may be closed after a failure. */
kd_status kd__packer_open(kd__packer *k, kd_column *c, const kd__in_column *in, const kd_store *s,
                          const kd_import_params *p, uint32_t most, uint32_t largest, const char *what,
                          kd_err *err);
/* Makes the codebook of what is in k->rows. */
kd_status kd__packer_learn(kd__packer *k, kd_column *c, kd_err *err);
/* k->rows as a block for the writer, borrowed until the next call. KD_ENUMERIC names the row. */
kd_status kd__packer_pack(kd__packer *k, const kd_column *c, const kd_chunk_info *ci, const kd_id *ids,
                          int threads, kd_block *out, kd_import_report *report, kd_err *err);
void kd__packer_close(kd__packer *k);
/* Members of the segment's entry in the manifest. (import.c) */
json_t *kd__import_extra(const kd_import_params *p, const kd__names *names, const char *const *files,
                         size_t n);

#endif
