/* config_private.h - what the files of lib/config share. */
#ifndef KD_CONFIG_PRIVATE_H
#define KD_CONFIG_PRIVATE_H

#include "kd/config.h"

/* A parsed document: YAML or JSON, scalars still text. Lives in an arena. */
typedef enum kd__node_kind { KD__SCALAR, KD__LIST, KD__MAP } kd__node_kind;
typedef struct kd__node {
    kd__node_kind kind;
    bool plain;       /* a scalar without quotes */
    int line, column; /* from 1; 0: unknown */
    const char *text; /* of a scalar */
    const char *key;  /* of a member of a map */
    int key_line, key_column;
    struct kd__node *child; /* first element or member */
    struct kd__node *next;
    size_t n; /* children */
} kd__node;

bool kd__node_is_null(const kd__node *n); /* plain ~, null or nothing */

/* Reads one YAML document; *root is NULL for an empty one. */
kd_status kd__yaml_parse(kd_arena *a, const char *path, const char *text, size_t len, kd__node **root,
                         kd_err *err);

/* Sets the options that the tree names. Messages begin with path (and place, where known); code is
 * the status of a wrong value. */
kd_status kd__apply(kd_config *c, const kd__node *root, const char *path, kd_status code, kd_err *err);

/* Sets the field of row o in target from n texts (a scalar has one, a list any number, nothing
 * none). name begins the message; *bad is the index of the text at fault. On failure the field
 * keeps its value. append: add to a list of strings instead of replacing it. */
kd_status kd__option_set(const kd_option *o, void *target, const char *name, const char *const *text,
                         size_t n, bool append, size_t *bad, kd_err *err);
/* Frees what the field owns and zeroes it. */
void kd__option_clear(const kd_option *o, void *target);
bool kd__option_is_list(const kd_option *o);
bool kd__option_is_strings(const kd_option *o);    /* lists of texts */
bool kd__option_takes_nothing(const kd_option *o); /* lists and texts without a default can be emptied */

/* Row of a dotted key: table and row index; false if unknown. */
bool kd__config_row(const kd_config *c, const char *key, size_t *table, size_t *row);

#endif
