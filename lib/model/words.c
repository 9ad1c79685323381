/* words.c - a small encoder that begins as a weighted mean of a larger one's words.
 *
 * Most of what a search finds is in the words: the mean of a teacher's word vectors, rare words counting more
 * than frequent ones, ranks texts far better than an encoder does that begins at random, and knows words that
 * no training text holds. So the student's table begins as the teacher's, each row scaled by
 *
 *     a / (a + p)     p: the word's share of the training texts, a = 0.001
 *
 * (Arora et al. 2017, A Simple but Tough-to-Beat Baseline for Sentence Embeddings, section 3) and reduced
 * to the student's width by its principal components, words of the texts weighing as their rows do.
 *
 * An encoder norms each token's vector, which would undo the weights. Rows are therefore laid so that norms
 * do nothing: onto a basis that is orthogonal to (1, ..., 1), with one dimension more that fills each row up
 * to the same length. The mapping behind a narrower table keeps that form; layers begin with zeros where they
 * add to their input; the last projection drops the dimension that filled up. What comes out is the weighted
 * mean, exactly, and training goes on from there: it can move each of these parts.
 *
 * The basis is that of the discrete cosine transform without its constant row.
 */
#include "model_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double RARE = 1e-3; /* a */

/* The first k vectors of the basis in n dimensions, (k, n). NULL when out of memory. */
static double *basis_of(size_t n, size_t k)
{
    double *b = malloc((k * n + 1) * sizeof *b);
    for (size_t j = 0; b && j < k; j++)
        for (size_t i = 0; i < n; i++)
            b[j * n + i] =
                sqrt(2.0 / (double)n) * cos(M_PI * ((double)i + 0.5) * (double)(j + 1) / (double)n);
    return b;
}

/* ---- words ---------------------------------------------------------------------------------- */

typedef struct words {
    const float *table; /* (vocab, d) of the other model */
    size_t vocab, d, r; /* r: numbers that are kept of d */
    const uint64_t *count;
    double *weight; /* (vocab) */
    double *mean;   /* (d) */
    double *c;      /* (d, d) */
    double *q, *q2; /* (r, d); the latter (d, r) in the end */
    double *x;      /* (d) one row */
    double *z;      /* (vocab, r) what is kept, weighted */
    double longest; /* of z's rows */
} words;

static void words_free(words *w)
{
    free(w->weight);
    free(w->mean);
    free(w->c);
    free(w->q);
    free(w->q2);
    free(w->x);
    free(w->z);
}

static void weigh(words *w)
{
    double all = 0;
    for (size_t t = 0; t < w->vocab; t++) all += (double)w->count[t];
    for (size_t t = 0; t < w->vocab; t++)
        w->weight[t] = RARE / (RARE + (all > 0 ? (double)w->count[t] / all : 0));
}

/* w->x = a row around the mean, weighted. */
static void row_of(words *w, size_t t)
{
    for (size_t i = 0; i < w->d; i++) w->x[i] = w->weight[t] * (w->table[t * w->d + i] - w->mean[i]);
}

/* Mean and covariance of the words that occur, as much as their rows count. */
static void moments(words *w)
{
    double all = 0;
    for (size_t t = 0; t < w->vocab; t++) {
        const double share = w->count[t] ? w->weight[t] * w->weight[t] : 0;
        all += share;
        for (size_t i = 0; i < w->d && share > 0; i++) w->mean[i] += share * w->table[t * w->d + i];
    }
    for (size_t i = 0; i < w->d && all > 0; i++) w->mean[i] /= all;
    for (size_t t = 0; t < w->vocab; t++) {
        row_of(w, t);
        for (size_t i = 0; i < w->d && w->count[t]; i++) kd__add_times(w->c + i * w->d, w->x, w->x[i], i + 1);
    }
    for (size_t i = 0; i < w->d; i++)
        for (size_t j = i + 1; j < w->d; j++) w->c[i * w->d + j] = w->c[j * w->d + i];
}

static void reduce(words *w)
{
    for (size_t j = 0; j < w->r; j++)
        for (size_t i = 0; i < w->d; i++) w->q2[i * w->r + j] = w->q[j * w->d + i];
    for (size_t t = 0; t < w->vocab; t++) {
        double *z = w->z + t * w->r, square = 0;
        row_of(w, t);
        for (size_t i = 0; i < w->d; i++) kd__add_times(z, w->q2 + i * w->r, w->x[i], w->r);
        for (size_t j = 0; j < w->r; j++) square += z[j] * z[j];
        w->longest = fmax(w->longest, sqrt(square));
    }
}

static kd_status read_words(words *w, kd_err *err)
{
    w->weight = calloc(w->vocab, sizeof *w->weight);
    w->mean = calloc(w->d, sizeof *w->mean);
    w->c = calloc(w->d * w->d, sizeof *w->c);
    w->q = calloc(w->r * w->d, sizeof *w->q);
    w->q2 = calloc(w->r * w->d, sizeof *w->q2);
    w->x = calloc(w->d, sizeof *w->x);
    w->z = calloc(w->vocab * w->r, sizeof *w->z);
    if (!w->weight || !w->mean || !w->c || !w->q || !w->q2 || !w->x || !w->z)
        return kd_fail(err, KD_ENOMEM, "init.tables: no memory for %zu words", w->vocab);
    weigh(w);
    moments(w);
    kd__principal(w->q, w->q2, w->c, w->d, w->r);
    reduce(w);
    return KD_OK;
}

/* ---- the student ---------------------------------------------------------------------------- */

static float *data_of(kd_model *m, const char *name)
{
    const kd_param *p = kd__find_param(m, name);
    return p ? kd_graph_param_data(m->graph, p) : NULL;
}

static void clear(kd_model *m, const char *name)
{
    const kd_param *p = kd__find_param(m, name);
    if (p) memset(kd_graph_param_data(m->graph, p), 0, p->size * sizeof(float));
}

/* Rows of the table, n wide: what is kept of a word and what fills it up, numbers of variance 1. Beside other
 * weights they are large: a step of the optimizer moves what is known of words little. b: the basis. */
static void lay_rows(const words *w, float *table, size_t n, const double *b, double *sum)
{
    const double scale = w->longest > 0 ? sqrt((double)n) / w->longest : 0;
    for (size_t t = 0; t < w->vocab; t++) {
        const double *z = w->z + t * w->r;
        double square = 0;
        for (size_t j = 0; j < w->r; j++) square += z[j] * z[j];
        memset(sum, 0, n * sizeof *sum);
        for (size_t j = 0; j < w->r; j++) kd__add_times(sum, b + j * n, z[j], n);
        kd__add_times(sum, b + w->r * n, sqrt(fmax(w->longest * w->longest - square, 0)), n);
        for (size_t i = 0; i < n; i++) table[t * n + i] = (float)(scale * sum[i]);
    }
}

/* From the basis of n dimensions into that of `width`, variance 1 stays. sum: (n) */
static void lay_mapping(const words *w, float *map, size_t width, size_t n, const double *to,
                        const double *from, double *sum)
{
    const double scale = sqrt((double)width / (double)n);
    for (size_t o = 0; o < width; o++) {
        memset(sum, 0, n * sizeof *sum);
        for (size_t j = 0; j <= w->r; j++) kd__add_times(sum, from + j * n, to[j * width + o], n);
        for (size_t i = 0; i < n; i++) map[o * n + i] = (float)(scale * sum[i]);
    }
}

/* Layers add nothing to their input, positions nothing to words. */
static void lay_zeros(kd_model *m)
{
    static const char *const adds[] = {"merge.weight", "merge.bias", "down.weight", "down.bias"};
    kd__node_name b;
    for (int64_t i = 0; i < m->spec.layers; i++)
        for (size_t k = 0; k < KD_COUNT(adds); k++)
            clear(m, kd__name(&b, "layer%lld.%s", (long long)i, adds[k]));
    clear(m, "embeddings.position_embeddings.weight");
    clear(m, "embeddings.token_type_embeddings.weight");
    clear(m, "embeddings_project.bias");
    if (!m->spec.output) return; // to classes: at random, as it was
    clear(m, "project.weight");
    clear(m, "project.bias");
}

static kd_status lay_parts(const words *w, kd_model *m, kd_err *err)
{
    const kd_model_spec *s = &m->spec;
    const size_t width = (size_t)s->width, n = s->embedding ? (size_t)s->embedding : width;
    double *narrow = basis_of(n, w->r + 1), *wide = basis_of(width, w->r + 1),
           *sum = malloc((n + 1) * sizeof *sum);
    float *out = data_of(m, "project.weight");
    kd_status st =
        narrow && wide && sum ? KD_OK : kd_fail(err, KD_ENOMEM, "init.tables: no memory for a basis");
    if (!st) {
        lay_zeros(m);
        lay_rows(w, data_of(m, "embeddings.word_embeddings.weight"), n, narrow, sum);
        if (s->embedding)
            lay_mapping(w, data_of(m, "embeddings_project.weight"), width, n, wide, narrow, sum);
        for (size_t j = 0; j < w->r && j < (size_t)s->output; j++)
            for (size_t i = 0; i < width; i++) out[j * width + i] = (float)wide[j * width + i];
    }
    free(narrow);
    free(wide);
    free(sum);
    return st;
}

kd_status kd__init_words(kd_model *m, const kd_model *from, const kd_init *init, kd_err *err)
{
    const kd_model_spec *s = &m->spec;
    const kd_param *p = kd__find_param(from, "embeddings.word_embeddings.weight");
    const int64_t narrow = s->embedding && s->embedding < s->width ? s->embedding : s->width;
    if ((!s->output && !s->classes) || narrow < 3)
        return kd_fail(err, KD_EUSAGE,
                       "init.tables: words needs model.output or classes (the last projection drops a "
                       "dimension) and at least 3 numbers a word; %s has model.output %lld, %lld a word",
                       m->name, (long long)s->output, (long long)narrow);
    if (from->spec.vocab != s->vocab)
        return kd_fail(err, KD_EMISMATCH, "init.from %s: a vocabulary of %lld tokens, %s has %lld",
                       init->folder, (long long)from->spec.vocab, m->name, (long long)s->vocab);
    words w = {.table = kd_graph_param_data(from->graph, p),
               .vocab = (size_t)s->vocab,
               .d = (size_t)p->dims[1],
               .count = init->count};
    w.r = kd_min_size((size_t)narrow - 2, w.d);
    kd_status st = read_words(&w, err);
    if (!st) st = lay_parts(&w, m, err);
    words_free(&w);
    return st;
}
