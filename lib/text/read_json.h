/* read_json.h - members of tokenizer.json, with sentences for what is wrong; what read_json.c and read_bpe.c
 * share. */
#ifndef KD_READ_JSON_H
#define KD_READ_JSON_H

#include "text_private.h"

typedef struct kd__reader {
    kd_tokenizer *t;
    const char *where;
    kd_err *err;
} kd__reader;

/* "WHERE: PATH.KEY is missing or not WANTED" */
kd_status kd__read_bad(const kd__reader *r, const char *path, const char *key, const char *wanted);
kd_status kd__read_bool(const kd__reader *r, const json_t *o, const char *path, const char *key, bool other,
                        bool *out);
kd_status kd__read_str(const kd__reader *r, const json_t *o, const char *path, const char *key,
                       const char **out);
/* A part of the file with its type. *o NULL: it is null or missing. */
kd_status kd__read_part(const kd__reader *r, const json_t *root, const char *key, const json_t **o,
                        const char **type);
kd_status kd__read_unsupported(const kd__reader *r, const char *what, const char *type, const char *have);
/* model.vocab: every token with its id. */
kd_status kd__read_tokens(const kd__reader *r, const json_t *model);

/* read_bpe.c: the parts of a file whose model is byte-level BPE. m: the model. */
kd_status kd__read_bpe(const kd__reader *r, const json_t *m);
/* Behind the added tokens: pre-tokenizer, normalizer, decoder. */
kd_status kd__read_bpe_rest(const kd__reader *r, const json_t *root);

#endif
