/* basis.c - which directions of a model's hidden states a narrower one keeps.
 *
 * Layers read hidden states through a norm and add to them, so a model is nearly the same in any orthonormal
 * basis of them, and a narrower one keeps the directions in which states of real text are long: the
 * principal ones of states x / |x| (look.c). Compare SliceGPT (Ashkboos et al. 2024), which does this layer
 * by layer.
 *
 * Two things break the symmetry. A gain acts on single numbers: where it cannot be moved into a matrix, the
 * basis is turned, inside what it spans, so that this gain is diagonal in it, too. And a layer norm subtracts
 * the mean: then the direction of (1, ..., 1) is kept and a reflection (Householder) makes it that of the
 * narrow numbers.
 */
#include "model_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 256 }; /* rows of a product */

typedef struct learner {
    size_t d, k;     /* numbers of a state, directions to be learned */
    const double *c; /* (d, d) second moments */
    double *q, *q2;  /* (k + 1, d) */
    double *g, *v;   /* (k, k) */
    double *x;       /* (d) */
} learner;

static void learner_free(learner *l)
{
    free(l->q);
    free(l->q2);
    free(l->g);
    free(l->v);
    free(l->x);
}

static kd_status learner_init(learner *l, const double *moments, size_t d, size_t k, kd_err *err)
{
    *l = (learner){.d = d, .k = k, .c = moments};
    l->q = calloc((k + 1) * d, sizeof *l->q);
    l->q2 = calloc((k + 1) * d, sizeof *l->q2);
    l->g = calloc(k * k + 1, sizeof *l->g);
    l->v = calloc(k * k + 1, sizeof *l->v);
    l->x = calloc(d, sizeof *l->x);
    if (l->q && l->q2 && l->g && l->v && l->x) return KD_OK;
    return kd_fail(err, KD_ENOMEM, "no memory for %zu of %zu directions", k, d);
}

/* ---- the basis ------------------------------------------------------------------------------ */

/* How long a state is that was 1 long. */
static double kept(const learner *l)
{
    const size_t d = l->d;
    double inside = 0, all = 0;
    for (size_t i = 0; i < d; i++) all += l->c[i * d + i];
    for (size_t j = 0; j < l->k; j++) {
        memset(l->x, 0, d * sizeof *l->x);
        for (size_t i = 0; i < d; i++) kd__add_times(l->x, l->c + i * d, l->q[j * d + i], d);
        for (size_t i = 0; i < d; i++) inside += l->x[i] * l->q[j * d + i];
    }
    return sqrt(inside / all);
}

/* Turns the directions so that this gain is diagonal among them. */
static void turn_to_gain(learner *l, const double *gain)
{
    const size_t d = l->d, k = l->k;
    for (size_t a = 0; a < k; a++)
        for (size_t b = 0; b <= a; b++) {
            double sum = 0;
            for (size_t i = 0; i < d; i++) sum += l->q[a * d + i] * gain[i] * l->q[b * d + i];
            l->g[a * k + b] = l->g[b * k + a] = sum;
        }
    kd__diagonal(l->v, l->g, k);
    memset(l->q2, 0, k * d * sizeof *l->q2);
    for (size_t a = 0; a < k; a++)
        for (size_t b = 0; b < k; b++) kd__add_times(l->q2 + a * d, l->q + b * d, l->v[a * k + b], d);
    memcpy(l->q, l->q2, k * d * sizeof *l->q);
}

/* The direction of (1, ..., 1) first, then a reflection after which it is that of the new numbers. */
static void reflect(learner *l)
{
    const size_t d = l->d, r = l->k + 1;
    double length = 0;
    memmove(l->q + d, l->q, l->k * d * sizeof *l->q);
    for (size_t i = 0; i < d; i++) l->q[i] = 1 / sqrt((double)d);
    memset(l->x, 0, d * sizeof *l->x);
    for (size_t j = 0; j < r; j++) {
        const double w = (j == 0) - 1 / sqrt((double)r);
        kd__add_times(l->x, l->q + j * d, w, d);
        length += w * w;
    }
    for (size_t j = 0; j < r; j++)
        kd__add_times(l->q + j * d, l->x, -2 * ((j == 0) - 1 / sqrt((double)r)) / length, d);
}

/* What products need: the directions as floats, and a tile of rows beside them. */
static kd_status settle(kd__basis *b, const double *q, kd_err *err)
{
    const size_t n = b->r * b->d;
    b->p = malloc(n * sizeof *b->p);
    b->rows = malloc(TILE * b->d * sizeof *b->rows);
    if (!b->p || !b->rows)
        return kd_fail(err, KD_ENOMEM, "no memory for a basis of %zu numbers in %zu", b->r, b->d);
    for (size_t i = 0; i < n; i++) b->p[i] = (float)q[i];
    kd_status st = kd_beside_create(&b->beside, TILE, b->r, b->d, err);
    if (!st) memcpy(kd_beside_base(b->beside, b->r), b->p, n * sizeof *b->p);
    return st;
}

kd_status kd__basis_learn(kd__basis *b, const double *moments, const double *gain, kd_err *err)
{
    learner l;
    kd_status st = learner_init(&l, moments, b->d, b->centred ? b->r - 1 : b->r, err);
    if (!st) {
        kd__principal(l.q, l.q2, l.c, l.d, l.k);
        b->kept = kept(&l);
        if (gain) turn_to_gain(&l, gain);
        if (b->centred) reflect(&l);
        st = settle(b, l.q, err);
    }
    learner_free(&l);
    return st;
}

void kd__basis_release(kd__basis *b)
{
    kd_beside_free(b->beside);
    free(b->p);
    free(b->rows);
    *b = (kd__basis){0};
}

void kd__basis_project(const kd__basis *b, kd__matrix y, kd__matrix x, const size_t *pick, size_t n,
                       const float *gain, double scale)
{
    for (size_t at = 0, some; at < n; at += some) {
        some = kd_min_size(TILE, n - at);
        for (size_t i = 0; i < some; i++) {
            const float *from = x.v + (pick ? pick[at + i] : at + i) * x.row;
            for (size_t k = 0; k < b->d; k++) b->rows[i * b->d + k] = from[k * x.col] * (gain ? gain[k] : 1);
        }
        const float *out = kd_beside_run(b->beside, b->rows, some);
        for (size_t i = 0; i < some; i++)
            for (size_t j = 0; j < b->r; j++)
                y.v[(at + i) * y.row + j * y.col] = (float)(scale * (double)out[i * b->r + j]);
    }
}
