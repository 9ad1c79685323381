/* kd/config.h - one table of options gives flags, YAML keys, defaults, ranges, help and JSON.
 *
 * A row says everything about one option. Tools pass a list of tables (each with the struct that
 * its offsets point into) to the parsers below; nothing about an option is written a second time.
 *
 *     typedef struct { int64_t epochs; double lr; char *schedule; } opts;
 *     static const kd_option rows[] = {
 *         KD_OPT_INT("Training", opts, epochs, "train.epochs", "N", 'e', "10", 1, 100000, "passes over the
 * training rows"), KD_OPT_REAL("Training", opts, lr, "train.lr", "RATE", 0, "0.001", 1e-9, 10, "peak learning
 * rate"), KD_OPT_CHOICE("Training", opts, schedule, "train.schedule", 0, "cosine", "constant|cosine|linear",
 * "shape of the learning rate"),
 *     };
 *     opts o; kd_config c = {0};
 *     kd_config_add(&c, rows, KD_COUNT(rows), &o, &err);     // sets the defaults
 *     kd_config_yaml(&c, "student.yaml", &err);              // file:line:column in each message
 *     kd_config_flag(&c, "epochs", "20", &err);              // what a command line does
 *     kd_config_release(&c);                                 // frees strings and lists in o
 *
 * Keys are dotted ("train.epochs" is the key `epochs` in the mapping `train`); the flag is the last
 * part ("--epochs", underscores become dashes) unless the row names another. Later values replace
 * earlier ones, but a flag beats any file, whichever came first. A value that is refused leaves the
 * old one. Strings and lists inside the target struct belong to the config until release.
 *
 * A number or truth value must stand plain: quotes make it a string, which is another type. `~`,
 * `null` or nothing empties a list or a string that has no default.
 *
 * YAML limits (each refused by name): file 1 MiB, depth 32, 65,536 events, aliases, duplicate keys,
 * anchors, tags, unknown keys (the nearest known key is suggested), several documents. Syntax and
 * limits are checked for the whole file before the first value is taken.
 */
#ifndef KD_CONFIG_H
#define KD_CONFIG_H

#include "kd/base.h"

#define KD_COUNT(rows)     (sizeof(rows) / sizeof((rows)[0]))
#define KD_YAML_MAX_BYTES  (1u << 20)
#define KD_YAML_MAX_DEPTH  32
#define KD_YAML_MAX_EVENTS 65536

typedef enum kd_option_type {
    KD_OPTION_BOOL,   /* bool; --flag, --no-flag; YAML true|false|on|off|yes|no */
    KD_OPTION_INT,    /* int64_t; digits, or a real that is whole, such as 1e6 */
    KD_OPTION_REAL,   /* double; finite */
    KD_OPTION_STRING, /* char *; NULL when the default is NULL */
    KD_OPTION_CHOICE, /* char *; one of a|b|c */
    KD_OPTION_INTS, /* kd_ints; "1,2,3" on the command line, also ranges "0-4"; a sequence or a scalar in YAML
                     */
    KD_OPTION_REALS,   /* kd_reals */
    KD_OPTION_STRINGS, /* kd_strings; a repeated flag appends, YAML sequence */
    KD_OPTION_MAPS     /* kd_strings; as STRINGS, but a YAML item may be a mapping of plain values and becomes
                        * "key=value,key=value" (a sequence of values in it: "key=value value"). A sequence in
                        * place of the mapping above it is this row's; text splits at ';', empty text is no item
                        */
} kd_option_type;

typedef struct kd_ints {
    int64_t *v;
    size_t n;
} kd_ints;
typedef struct kd_reals {
    double *v;
    size_t n;
} kd_reals;
typedef struct kd_strings {
    char **v;
    size_t n;
} kd_strings;

typedef struct kd_option {
    const char *group;   /* heading in --help */
    const char *key;     /* dotted YAML key; NULL: flag only */
    const char *flag;    /* long flag without dashes; NULL: from the key; "" : YAML only */
    const char *metavar; /* "N", "FILE", ...; unused for BOOL and CHOICE */
    char letter;         /* short flag or 0 */
    kd_option_type type;
    size_t offset;       /* in the target struct */
    const char *value;   /* default in the syntax of a flag; NULL: none (NULL, empty, false, 0) */
    double lo, hi;       /* range of INT, REAL, INTS, REALS (each element), inclusive; 0, 0: any */
    const char *choices; /* "a|b|c" of a CHOICE */
    const char *help;    /* one phrase, with units */
} kd_option;

#define KD_OPT_BOOL(g, T, f, k, l, d, h)                                                                     \
    {                                                                                                        \
        g, k, NULL, NULL, l, KD_OPTION_BOOL, offsetof(T, f), d, 0, 0, NULL, h                                \
    }
#define KD_OPT_INT(g, T, f, k, m, l, d, lo, hi, h)                                                           \
    {                                                                                                        \
        g, k, NULL, m, l, KD_OPTION_INT, offsetof(T, f), d, lo, hi, NULL, h                                  \
    }
#define KD_OPT_REAL(g, T, f, k, m, l, d, lo, hi, h)                                                          \
    {                                                                                                        \
        g, k, NULL, m, l, KD_OPTION_REAL, offsetof(T, f), d, lo, hi, NULL, h                                 \
    }
#define KD_OPT_STRING(g, T, f, k, m, l, d, h)                                                                \
    {                                                                                                        \
        g, k, NULL, m, l, KD_OPTION_STRING, offsetof(T, f), d, 0, 0, NULL, h                                 \
    }
#define KD_OPT_CHOICE(g, T, f, k, l, d, c, h)                                                                \
    {                                                                                                        \
        g, k, NULL, NULL, l, KD_OPTION_CHOICE, offsetof(T, f), d, 0, 0, c, h                                 \
    }
#define KD_OPT_INTS(g, T, f, k, m, l, d, lo, hi, h)                                                          \
    {                                                                                                        \
        g, k, NULL, m, l, KD_OPTION_INTS, offsetof(T, f), d, lo, hi, NULL, h                                 \
    }
#define KD_OPT_REALS(g, T, f, k, m, l, d, lo, hi, h)                                                         \
    {                                                                                                        \
        g, k, NULL, m, l, KD_OPTION_REALS, offsetof(T, f), d, lo, hi, NULL, h                                \
    }
#define KD_OPT_MAPS(g, T, f, k, m, l, d, h)                                                                  \
    {                                                                                                        \
        g, k, NULL, m, l, KD_OPTION_MAPS, offsetof(T, f), d, 0, 0, NULL, h                                   \
    }
#define KD_OPT_STRINGS(g, T, f, k, m, l, d, h)                                                               \
    {                                                                                                        \
        g, k, NULL, m, l, KD_OPTION_STRINGS, offsetof(T, f), d, 0, 0, NULL, h                                \
    }

typedef struct kd_config_table {
    const kd_option *rows;
    size_t n;
    void *target;
    unsigned char *source; /* per row: 0 default, 1 YAML, 2 flag */
    int *line;             /* per row: YAML line of the value, 0 if none */
    const char **file;     /* per row: the YAML file of the value, NULL if none */
    int **items;           /* per row: YAML lines of a list's items, NULL if none */
} kd_config_table;

/* A zeroed struct is an empty config. */
typedef struct kd_config {
    kd_config_table table[8];
    size_t tables;
    const char *path; /* last YAML file read, for messages; NULL if none */
    kd_arena names;   /* the paths of all files read */
} kd_config;

/* Adds a table and sets its defaults in target. KD_ENOMEM; a wrong default, a key given twice or a
 * ninth table is our own bug and KD_EUSAGE. */
kd_status kd_config_add(kd_config *c, const kd_option *rows, size_t n, void *target, kd_err *err);
/* Reads a YAML file. KD_ENOTFOUND, KD_EUSAGE ("file:line:column: ..."), KD_ELIMIT. */
kd_status kd_config_yaml(kd_config *c, const char *path, kd_err *err);
/* The same from memory; path is for messages only. */
kd_status kd_config_yaml_text(kd_config *c, const char *path, const char *text, size_t len, kd_err *err);
/* Sets one option by flag name without dashes ("epochs") or by dotted key ("train.epochs"). A NULL
 * value is for BOOL: true, or false under the name "no-x". KD_EUSAGE, with the nearest name. */
kd_status kd_config_flag(kd_config *c, const char *name, const char *value, kd_err *err);
/* The row that a long flag (without dashes) or a dotted key names, or the short flag; NULL if none. A
 * flag that two tables share is the first one's. */
const kd_option *kd_config_find(const kd_config *c, const char *name);
const kd_option *kd_config_find_letter(const kd_config *c, char letter);
/* The long flag of a row without dashes, "" if it has none. buf: at least 64 bytes; returns buf. */
const char *kd_option_flag(const kd_option *o, char *buf, size_t len);
/* What a row accepts: "a whole number from 1 to 10", "one of a, b, c". Returns buf. */
const char *kd_option_expects(const kd_option *o, char *buf, size_t len);
/* 0 default, 1 YAML, 2 flag; -1: no such key. */
int kd_config_source(const kd_config *c, const char *key);
/* "file:12" when the key came from YAML, "--flag" from the command line, "default" otherwise: for
 * messages of checks that only the user of the option can make. buf: at least 300 bytes. */
const char *kd_config_where(const kd_config *c, const char *key, char *buf, size_t len);
/* The same for item i of a list, for checks of single items. */
const char *kd_config_where_item(const kd_config *c, const char *key, size_t i, char *buf, size_t len);
/* All options with keys, nested by dots; new reference, NULL when out of memory. */
json_t *kd_config_json(const kd_config *c);
/* Reads what kd_config_json wrote (objects nested by the dots); unknown keys are refused.
 * KD_ECORRUPT naming path and key. */
kd_status kd_config_from_json(kd_config *c, const json_t *obj, const char *path, kd_err *err);
void kd_config_release(kd_config *c); /* frees what the targets own; NULL-safe */

#endif
