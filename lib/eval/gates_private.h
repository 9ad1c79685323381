/* gates_private.h - what the reader of gates and their judge share. */
#ifndef GATES_PRIVATE_H
#define GATES_PRIVATE_H

#include "kd/config.h"
#include "kd/eval.h"

/* Where a measure stands in the results: in the student itself, in its slices, in its classes. */
typedef enum kd__scope { KD__WHOLE = 1, KD__SLICE = 2, KD__CLASS = 4 } kd__scope;
typedef enum kd__reference { KD__NUMBER, KD__TEACHER, KD__PLAIN, KD__RELEASE } kd__reference;

typedef struct kd__gate {
    const char *text; /* as written, borrowed from the config */
    char where[300];  /* "gates.yaml:3" */
    char key[64];     /* in the results, of the measure itself: never with _low or _high behind it */
    char name[160];   /* of one slice or class; "": every one */
    kd__scope scope;
    kd__reference reference;
    char sign;      /* '+', '-', '*' between reference and number */
    double number;  /* without a sign: 0 */
    bool ceiling;   /* the figure must be below, else above */
    bool strict;    /* and not equal */
    bool safe;      /* the bound that is nearer to failing must pass; false for what has no bounds */
    bool low, high; /* the measure was named with _low, _high */
} kd__gate;

struct kd_gates {
    kd_config config;
    const char *path; /* the file, or the preset's name */
    char *bounds, *release;
    kd_strings texts, students;
    kd__gate *v;
    size_t n;
};

#endif
