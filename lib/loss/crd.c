/* crd.c - contrast: a student's vector should score high with its own sample of the teacher and low with
 * others.
 *
 *     u, v: embeddings of student and teacher (learned linear layers, project.c) scaled to length 1
 *     P_k = exp(u . m_k / T) / Z for the teacher's bank entries m of one positive (k = 0) and K negatives,
 *           and the same with v and the student's bank; c = K / n, n: training rows
 *     value  -1/B sum_b (log(P_0 / (P_0 + c + eps)) + sum_k log(c / (P_k + c + eps)))
 *            of both directions, added
 *
 * Tian et al. 2020, as in the authors' code (crd/memory.py, crd/criterion.py): each direction's Z is the mean
 * of its first batch's scores times n, fixed from then on, without gradient; banks are read before they are
 * updated, m = unit(momentum m + (1 - momentum) u). The published K is 16384; a row costs 2 (K + 1) reads of
 * a bank entry at random places, so on few cores take about 1024 and say so. Scores stay logarithms, so
 * that no size of the vectors overflows.
 *
 * Negatives are drawn by the counter generator, keyed by seed, step and place in the batch, among rows of
 * other classes where labels are known: nothing but banks and Z is carried from step to step. Runs that want
 * the value alone (validation) change neither.
 */
#include "loss_private.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* State: 8 doubles (whether Z is fixed, log Z of the student's and of the teacher's direction), then the two
 * banks. */
typedef struct state {
    bool fixed;
    double log_z[2];
    float *bank[2]; /* of student, of teacher: (samples, dim) */
} state;

static state state_of(const kd__term *t)
{
    const double *z = t->state;
    float *banks = (float *)(z + 8);
    return (state){z[0] != 0, {z[1], z[2]}, {banks, banks + t->samples * t->n}};
}

/* Work of a batch, laid out in t->shared. */
typedef struct work {
    double *score[2]; /* (B, K + 1) logarithms: products over T */
    double *sum[2];   /* (B) log-sum-exp of scores */
    double *length[2];
    float *unit[2];    /* (B, dim) */
    int32_t *contrast; /* (B, K + 1) positions among all training rows, the positive first */
} work;

static work work_of(const kd__term *t)
{
    size_t rows = (size_t)t->max_rows, each = (size_t)t->k.negatives + 1;
    double *at = t->shared;
    work w;
    for (int d = 0; d < 2; d++) {
        w.score[d] = at, at += rows * each;
        w.sum[d] = at, at += rows;
        w.length[d] = at, at += rows;
    }
    w.unit[0] = (float *)at;
    w.unit[1] = w.unit[0] + rows * (size_t)t->n;
    w.contrast = (int32_t *)(w.unit[1] + rows * (size_t)t->n);
    return w;
}

static kd_status plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    size_t rows = (size_t)t->max_rows, each = (size_t)t->k.negatives + 1, dim = (size_t)t->n;
    (void)parts;
    if (t->samples < 2)
        return kd_fail(err, KD_EUSAGE, "%lld training rows known, expected at least 2 to draw from",
                       (long long)t->samples);
    if (t->n != t->m)
        return kd_fail(err, KD_EUSAGE, "embeddings of %lld and %lld numbers, expected one size",
                       (long long)t->n, (long long)t->m);
    *shared = 2 * rows * (each + 2) + (2 * rows * dim + rows * each + 1) / 2;
    t->state_bytes = 8 * sizeof(double) + 2 * (size_t)t->samples * dim * sizeof(float);
    t->scratch = dim;
    return KD_OK;
}

/* Entries uniform in +-1/sqrt(dim/3): of length 1 on average. */
static void start(kd__term *t)
{
    state s = state_of(t);
    float half = 1 / sqrtf((float)t->n / 3);
    for (uint32_t side = 0; side < 2; side++) {
        kd_rng r;
        kd_rng_init(&r, t->seed, KD_RNG_SAMPLE, 0xC0D, side);
        for (int64_t i = 0; i < t->samples * t->n; i++) s.bank[side][i] = (2 * kd_rng_uniform(&r) - 1) * half;
    }
}

/* contrast (K + 1) of one row */
static void draw(const kd__term *t, const kd__view *v, int64_t row, int32_t *contrast)
{
    kd_rng r;
    int64_t self = v->samples[row];
    int32_t label = t->sample_labels ? t->sample_labels[self] : -1;
    if (t->contrast) {
        memcpy(contrast, t->contrast + row * (t->k.negatives + 1),
               (size_t)(t->k.negatives + 1) * sizeof *contrast);
        return;
    }
    kd_rng_init(&r, t->seed ^ v->step << 20, KD_RNG_SAMPLE, (uint32_t)row + 1, 0xC0E);
    contrast[0] = (int32_t)self;
    for (int64_t k = 1; k <= t->k.negatives; k++)
        for (int tries = 0; tries < 64; tries++) { // a set of one class only: take what comes
            contrast[k] = (int32_t)kd_rng_below(&r, (uint64_t)t->samples);
            if (contrast[k] != self && (label < 0 || t->sample_labels[contrast[k]] != label)) break;
        }
}

/* x scaled to length 1, or as it is */
static double scale(const kd__term *t, float *unit, const float *x)
{
    double length = t->k.normalize ? sqrt(t->vec->dot(x, x, t->n)) : 1;
    for (int64_t i = 0; i < t->n; i++) unit[i] = length == 0 ? 0 : (float)(x[i] / length);
    return length;
}

/* log(e^a + e^b) */
static double log_add(double a, double b) { return fmax(a, b) + log1p(exp(-fabs(a - b))); }

/* One direction of one row from its scores: value; g (dim) receives d value / d unit. */
static double contrast_row(const kd__term *t, const work *w, int dir, const float *bank, int64_t row,
                           double log_z, double *g)
{
    const int64_t K = t->k.negatives;
    const double c = (double)K / (double)t->samples, log_m = log(c + t->k.eps),
                 *score = w->score[dir] + row * (K + 1);
    const int32_t *at = w->contrast + row * (K + 1);
    double value = 0;
    for (int64_t i = 0; g && i < t->n; i++) g[i] = 0;
    for (int64_t k = 0; k <= K; k++) {
        double log_p = score[k] - log_z, both = log_add(log_p, log_m);
        value += both - (k ? log(c) : log_p);
        if (g) t->vec->add(g, bank + at[k] * t->n, (k ? exp(log_p - both) : -exp(log_m - both)) / t->T, t->n);
    }
    return value;
}

/* Adds the slope of the unit vector, led through the scaling, to the gradient of x. */
static void back(const kd__term *t, float *dx, const double *g, const float *unit, double length, double c)
{
    double along = 0;
    if (!(length > 0)) return;
    for (int64_t i = 0; t->k.normalize && i < t->n; i++) along += g[i] * unit[i];
    for (int64_t i = 0; i < t->n; i++) dx[i] += (float)(c * (g[i] - along * unit[i]) / length);
}

static void update(kd__term *t, const kd__view *v, const work *w, const double *log_z)
{
    state s = state_of(t);
    double *kept = t->state;
    kept[0] = 1, kept[1] = log_z[0], kept[2] = log_z[1];
    for (int64_t r = 0; r < v->rows; r++)
        for (int d = 0; d < 2; d++) {
            float *m = s.bank[d] + v->samples[r] * t->n;
            const float *u = w->unit[d] + r * t->n;
            for (int64_t i = 0; i < t->n; i++)
                m[i] = (float)(t->k.momentum * m[i] + (1 - t->k.momentum) * u[i]);
            double length = sqrt(t->vec->dot(m, m, t->n));
            for (int64_t i = 0; i < t->n; i++) m[i] = length > 0 ? (float)(m[i] / length) : 0;
        }
}

static void run(kd__term *t, const kd__view *v)
{
    const int64_t K = t->k.negatives, n = t->n, rows = v->samples ? v->rows : 0;
    const state s = state_of(t);
    const work w = work_of(t);
    const float *from[2] = {v->s, v->t};
    float *to[2] = {v->ds, v->dt};
    double log_z[2], *g = t->thread_scratch + (size_t)omp_get_thread_num() * t->scratch_step;
#pragma omp single nowait
    {
        t->parts = rows;
        t->factor = 1 / (double)v->valid;
    }
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const int32_t *at = w.contrast + r * (K + 1);
        draw(t, v, r, w.contrast + r * (K + 1));
        for (int d = 0; d < 2; d++) {
            float *unit = w.unit[d] + r * n;
            w.length[d][r] = scale(t, unit, from[d] + r * n);
            for (int64_t k = 0; k <= K; k++)
                w.score[d][r * (K + 1) + k] = t->vec->dot(unit, s.bank[!d] + at[k] * n, n) / t->T;
            w.sum[d][r] = kd__log_sum(w.score[d] + r * (K + 1), K + 1);
        }
    }
    for (int d = 0; d < 2; d++)
        log_z[d] = s.fixed ? s.log_z[d]
                           : kd__log_sum(w.sum[d], rows) + log((double)t->samples / (double)(rows * (K + 1)));
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        double value = 0;
        for (int d = 0; d < 2; d++) {
            value += contrast_row(t, &w, d, s.bank[!d], r, log_z[d], to[d] ? g : NULL);
            if (to[d])
                back(t, to[d] + r * n, g, w.unit[d] + r * n, w.length[d][r], t->weight / (double)v->valid);
        }
        t->partial[r] = value;
    }
#pragma omp single
    if (v->ds && rows) update(t, v, &w, log_z);
}

static void describe(kd_buf *b, const kd__term *t)
{
    kd_buf_printf(b, "CRD(%lld negatives)/B", (long long)t->k.negatives);
}

/* The definition: all scores, then Z, then the logarithms. Reads banks and Z, changes neither. */
static double naive(const kd__term *t, const kd__view *v)
{
    const int64_t K = t->k.negatives;
    const state s = state_of(t);
    double value = 0;
    for (int d = 0; d < 2; d++) {
        double sum = 0, z = s.fixed ? exp(s.log_z[d]) : 0;
        for (int pass = z > 0; pass < 2; pass++) {
            if (pass && !(z > 0)) z = sum / (double)(v->rows * (K + 1)) * (double)t->samples;
            for (int64_t r = 0; r < v->rows; r++) {
                draw(t, v, r, work_of(t).contrast);
                for (int64_t k = 0; k <= K; k++) {
                    double x = 0, length = 0, c = (double)K / (double)t->samples;
                    for (int64_t i = 0; i < t->n; i++) {
                        double e = d ? kd__t(v, r * t->n + i) : kd__s(v, r * t->n + i);
                        x += e * s.bank[!d][work_of(t).contrast[k] * t->n + i];
                        length += e * e;
                    }
                    double score = exp(x / (t->k.normalize ? sqrt(length) : 1) / t->T), p = score / z;
                    if (!pass)
                        sum += score;
                    else
                        value -= log((k ? c : p) / (p + c + t->k.eps));
                }
            }
        }
    }
    return value / (double)v->rows;
}

const kd__objective kd__objective_crd = {
    .pub = {.name = "crd",
            .formula = "-1/B sum_b (log(P_0/(P_0+c)) + sum_k log(c/(P_k+c))) in both directions, P = "
                       "exp(u.m/T)/Z against banks, "
                       "c = K/n",
            .needs = KD_NEEDS_FEATURES | KD_NEEDS_SAMPLES,
            .serves = KD_LOSS_VALUES,
            .keys = "tap=,feature=,projection=linear,dim=128,negatives=1024,temperature=0.07,momentum=0.5,"
                    "eps=1e-7,normalize=on",
            .source = "Tian et al. 2020; RepDistiller crd/criterion.py, crd/memory.py"},
    .plan = plan,
    .start = start,
    .run = run,
    .describe = describe,
    .naive = naive,
};
