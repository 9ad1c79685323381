/* sweep.c - one student at every point of a grid: the cross product of values over keys.
 *
 *     --sweep loss.temperature=1,2,4 --sweep train.lr=0.001,0.004     2 axes, 6 points
 *
 * A point is the student's file with one value of each axis set over it, and a student of its own by the name
 * NAME@temperature=1@lr=0.001. The name follows from the point alone, so a grid that grows later finds what
 * is trained already; an axis is called by the last part of its key, one of a loss's term by the term too
 * (loss.kd.temperature: NAME@kd.temperature=1), and what a folder's name should not hold becomes a dash.
 *
 * The student without a teacher does not depend on axes of the loss: at its points those axes are left out.
 */
#include "train_private.h"

#include <stdlib.h>
#include <string.h>

#define PLAIN 4 /* pairs at most that make a control */

typedef struct axis {
    char *key;
    const char *label; // within key
    kd_strings values;
    bool loss; // of the objective, which a plain student does not have
} axis;

struct kd_sweep {
    axis *axes;
    size_t n;
};

void kd_sweep_free(kd_sweep *w)
{
    if (!w) return;
    for (size_t i = 0; i < w->n; i++) {
        for (size_t k = 0; k < w->axes[i].values.n; k++) free(w->axes[i].values.v[k]);
        free(w->axes[i].values.v);
        free(w->axes[i].key);
    }
    free(w->axes);
    free(w);
}

/* "1,2,4", or with semicolons where values hold commas: "64;64,32". */
static kd_status split_values(axis *a, const char *arg, const char *text, kd_err *err)
{
    const char *by = strchr(text, ';') ? ";" : ",";
    for (const char *p = text;; p++) {
        size_t len = strcspn(p, by);
        if (!len)
            return kd_fail(err, KD_EUSAGE,
                           "--sweep %.80s: an empty value; expected KEY=VALUE,VALUE or KEY=VALUE;VALUE", arg);
        char **grown = realloc(a->values.v, (a->values.n + 1) * sizeof(*grown));
        if (grown) a->values.v = grown;
        if (!grown || !(grown[a->values.n] = kd_sprintf("%.*s", (int)len, p)))
            return kd_fail(err, KD_ENOMEM, "out of memory");
        for (size_t i = 0; i < a->values.n; i++)
            if (!strcmp(grown[i], grown[a->values.n])) {
                free(grown[a->values.n]);
                return kd_fail(err, KD_EUSAGE, "--sweep %.80s: the value %.40s stands there twice", arg,
                               grown[i]);
            }
        a->values.n++;
        p += len;
        if (!*p) return KD_OK;
    }
}

static kd_status add_axis(kd_sweep *w, const char *arg, kd_err *err)
{
    axis *a = &w->axes[w->n++];
    const char *eq = strchr(arg, '=');
    if (!eq || eq == arg)
        return kd_fail(err, KD_EUSAGE,
                       "--sweep %.80s: expected KEY=VALUE,VALUE, for example --sweep loss.temperature=1,2,4",
                       arg);
    if (!(a->key = kd_sprintf("%.*s", (int)(eq - arg), arg))) return kd_fail(err, KD_ENOMEM, "out of memory");
    const char *dot = strrchr(a->key, '.');
    a->loss = !strncmp(a->key, "loss.", 5);
    a->label = a->loss ? a->key + 5 : dot ? dot + 1 : a->key;
    for (size_t i = 0; i + 1 < w->n; i++)
        if (!strcmp(a->key, w->axes[i].key))
            return kd_fail(err, KD_EUSAGE, "--sweep %.80s: %s is swept already", arg, a->key);
    return split_values(a, arg, eq + 1, err);
}

kd_status kd_sweep_create(kd_sweep **out, const kd_strings *args, kd_err *err)
{
    kd_sweep *w = calloc(1, sizeof(*w));
    kd_status st = KD_OK;
    *out = NULL;
    if (!w || !(w->axes = calloc(args->n + 1, sizeof(*w->axes)))) {
        free(w);
        return kd_fail(err, KD_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < args->n && !st; i++) {
        st = add_axis(w, args->v[i], err);
        if (!st && kd_sweep_points(w, false) > KD_TRAIN_RUNS)
            st = kd_fail(err, KD_ELIMIT,
                         "--sweep %.80s: makes %zu points; at most %d runs are trained in one pass",
                         args->v[i], kd_sweep_points(w, false), KD_TRAIN_RUNS);
    }
    if (st)
        kd_sweep_free(w);
    else
        *out = w;
    return st;
}

size_t kd_sweep_points(const kd_sweep *w, bool control)
{
    size_t n = 1;
    for (size_t i = 0; i < w->n; i++)
        if (!control || !w->axes[i].loss) n *= w->axes[i].values.n;
    return n;
}

static void append_safely(kd_buf *b, const char *value)
{
    for (const char *p = value; *p; p++) kd_buf_printf(b, "%c", strchr(KD__NAME_LETTERS, *p) ? *p : '-');
}

/* The pairs of a point, and "@label=value..." in suffix. The last axis runs fastest. */
static kd_status point_pairs(const kd_sweep *w, size_t point, bool control, kd_strings *pairs, kd_buf *suffix,
                             kd_err *err)
{
    size_t left = kd_sweep_points(w, control);
    for (size_t i = 0; i < w->n; i++) {
        const axis *a = &w->axes[i];
        if (a->loss && control) continue;
        left /= a->values.n;
        const char *value = a->values.v[point / left % a->values.n];
        if (!(pairs->v[pairs->n] = kd_sprintf("%s=%s", a->key, value)))
            return kd_fail(err, KD_ENOMEM, "out of memory");
        pairs->n++;
        kd_buf_printf(suffix, "@%s=", a->label);
        append_safely(suffix, value);
    }
    return suffix->failed ? kd_fail(err, KD_ENOMEM, "out of memory") : KD_OK;
}

/* Of a control: the loss of the file without its teachers, which is contrast among its own texts where there
 * is such a term, else labels alone. */
static kd_status plain_pairs(const char *path, const kd_strings *overrides, kd_strings *pairs, char **terms,
                             kd_err *err)
{
    static char *const plain[PLAIN] = {"loss.terms=", "loss.preset=", "loss.kd=0", "loss.ce=1"};
    kd_student_spec s;
    kd_status st = kd__student_load(&s, path, overrides, NULL, NULL, err);
    if (st) return st;
    char *alone = kd_loss_terms_alone(&s.loss);
    kd_student_release(&s);
    if (alone && !(*terms = kd_sprintf("loss.terms=%s", alone)))
        st = kd_fail(err, KD_ENOMEM, "out of memory");
    free(alone);
    pairs->v[pairs->n++] = plain[0]; // what is given twice is added to the list
    for (size_t i = 1; i < PLAIN && !*terms; i++) pairs->v[pairs->n++] = plain[i];
    if (*terms) pairs->v[pairs->n++] = *terms;
    return st;
}

kd_status kd_sweep_load(const kd_sweep *w, size_t point, bool control, kd_student_spec *s, const char *path,
                        const kd_strings *overrides, kd_err *err)
{
    kd_strings pairs = {.v = calloc(w->n + PLAIN, sizeof(char *))};
    char *terms = NULL;
    kd_buf suffix = {0};
    kd_status st = pairs.v ? point_pairs(w, point, control, &pairs, &suffix, err)
                           : kd_fail(err, KD_ENOMEM, "out of memory");
    size_t own = pairs.n;
    if (!st && control) st = plain_pairs(path, overrides, &pairs, &terms, err);
    if (!st) st = kd__student_load(s, path, overrides, &pairs, suffix.text, err);
    for (size_t i = 0; i < own; i++) free(pairs.v[i]);
    free(pairs.v);
    free(terms);
    kd_buf_release(&suffix);
    return st;
}
