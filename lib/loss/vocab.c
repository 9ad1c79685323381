/* vocab.c - ce and forward sparse_kl over the words of a vocabulary, both of a row in one pass of f32.
 *
 * With tens of thousands of classes a row of doubles does not fit into the nearest caches, and what the kept
 * classes change is little. All of these objectives have gradients of one form,
 *
 *     dz_j = a softmax(z / T)_j + b softmax(z)_j - c, and something more at the classes that are kept and the
 * label
 *
 * a, b, c: of the row. So a row needs its maximum, its sums of exponentials and one pass that writes
 * (vocab.simd.c); what is kept is summed by itself, in double, and the rest without it, because `bucket`
 * wants the share of the rest when it is tiny. The gradient may take the logits' place: what is needed of
 * them is taken out before. A head in bf16 has both in 16 bits: a thread widens a row to where its nearest
 * cache keeps it, and narrows what came of it.
 *
 * Classes up to FROM, other divergences and `both` go by sparse.c, in double.
 */
#include "sparse.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { FROM = 2048 };

static const kd__vocab_vec *kernels(void)
{
    const kd_isa isa = kd_cpu_isa();
    return isa >= KD_ISA_AVX512 ? &kd__vocab_vec_avx512
           : isa >= KD_ISA_AVX2 ? &kd__vocab_vec_avx2
                                : &kd__vocab_vec_scalar;
}

/* From a thread's row to the next one's, in floats. */
static size_t row_step(int64_t classes) { return ((size_t)classes + 15) / 16 * 16; }

static bool is_forward(const kd__term *t)
{
    return t->o == &kd__objective_sparse_kl && !kd__is(t->k.direction, "reverse") &&
           !kd__is(t->k.sparse, "both") && t->k.wrong == 1;
}

kd_status kd__vocab_plan(kd_loss *l, int64_t classes, int threads, kd_err *err)
{
    l->vocab = classes > FROM;
    l->sparse = NULL;
    for (int i = 0; i < l->terms; i++) {
        kd__term *t = &l->term[i];
        if (t == l->ce) continue;
        l->vocab &= !l->sparse && is_forward(t);
        l->sparse = t;
    }
    free(l->rows);
    l->rows =
        l->vocab ? calloc((size_t)(threads > 1 ? threads : 1) * row_step(classes), sizeof(float)) : NULL;
    return l->vocab && !l->rows
               ? kd_fail(err, KD_ENOMEM, "no memory for rows of %lld logits", (long long)classes)
               : KD_OK;
}

bool kd_loss_takes_half(const kd_loss *l) { return l->vocab; }

const float *kd_loss_row(const kd_loss *l, const kd_loss_batch *b, int64_t row)
{
    if (!b->half) return b->logits + row * b->classes;
    float *z = l->rows + (size_t)omp_get_thread_num() * row_step(b->classes);
    kernels()->from_f16(z, b->half + row * b->classes, b->classes);
    return z;
}

/* ---- a row -------------------------------------------------------------------------------- */

typedef struct row {
    const float *z;
    int64_t n;
    double inv_t, max;
    double out[3]; /* of classes that are not kept: exponentials at T and at 1, z - max */
    double sum_t, sum_1, all;
    double *p, *logp, *q, *more; /* (kept) */
    kd__targets_of kept;
    kd__vocab_slope slope;
} row;

static double x_of(const row *r, size_t i) { return (double)r->z[r->kept.id[i]] - r->max; }

static void add_up(row *r, const kd__vocab_vec *vec, bool both)
{
    const float max = (float)r->max, inv_t = (float)r->inv_t;
    int64_t at = 0;
    for (size_t i = 0; i < r->kept.n; at = (int64_t)r->kept.id[i++] + 1)
        vec->sums(r->z + at, (int64_t)r->kept.id[i] - at, max, inv_t, both, r->out);
    vec->sums(r->z + at, r->n - at, max, inv_t, both, r->out);
    r->sum_t = r->out[0], r->sum_1 = r->out[1], r->all = r->out[2];
    for (size_t i = 0; i < r->kept.n; i++) {
        const double x = x_of(r, i);
        r->sum_t += r->q[i] = exp(x * r->inv_t);
        r->sum_1 += r->inv_t == 1 ? r->q[i] : both ? exp(x) : 0;
        r->all += x;
    }
}

/* Full distributions: p over the kept classes, a filler each for the others. */
static double full(row *r, const kd__term *t, double *a, double *c)
{
    const bool entropy = !kd__is(t->k.kl_form, "cross_entropy");
    const double log_sum = log(r->sum_t), others = (double)(r->n - (int64_t)r->kept.n),
                 filler = kd__is(t->k.sparse, "uniform") && others > 0 ? r->kept.rest / others : 0;
    double value = 0;
    *a = filler * others;
    *c = filler;
    if (filler != 0) value -= filler * (r->out[2] * r->inv_t - others * log_sum);
    if (filler > 0 && entropy) value += filler * others * log(filler);
    for (size_t i = 0; i < r->kept.n; i++) {
        const double p = r->p[i];
        if (p > 0) value += p * ((entropy ? r->logp[i] : 0) - (x_of(r, i) * r->inv_t - log_sum));
        *a += p;
        r->more[i] = filler - p;
    }
    return value;
}

/* The kept classes and one more for the rest, on both sides. */
static double bucket(row *r, const kd__term *t, double *a)
{
    const bool entropy = !kd__is(t->k.kl_form, "cross_entropy");
    const double log_sum = log(r->sum_t), rest = r->out[0] / r->sum_t, q_rest = fmax(rest, t->k.eps),
                 p_rest = fmax(r->kept.rest, kd__sparse_by_power(t) ? 0 : t->k.eps);
    double value = p_rest > 0 ? p_rest * ((entropy ? log(p_rest) : 0) - log(q_rest)) : 0,
           all = rest < t->k.eps ? 0 : p_rest; // held at eps: no slope
    const double odds = all / q_rest;
    for (size_t i = 0; i < r->kept.n; i++) {
        const double p = r->p[i];
        if (p > 0) value += p * ((entropy ? r->logp[i] : 0) - (x_of(r, i) * r->inv_t - log_sum));
        all += p;
        r->more[i] = odds * r->q[i] / r->sum_t - p;
    }
    *a = all - odds;
    return value;
}

/* Values of both terms of row `at`, whose logits are z; the gradient to dz, which may be z, or NULL. */
static void run_row(const kd_loss *l, const kd__vocab_vec *vec, const kd_loss_batch *b, int64_t at,
                    const float *z, float *dz, const double scale[2], double *scratch, double value[2])
{
    const kd__term *ce = scale[0] > 0 ? l->ce : NULL, *t = scale[1] > 0 ? l->sparse : NULL;
    const int64_t C = b->classes;
    row r = {.z = z, .n = C, .inv_t = t ? 1 / t->T : 1};
    double a = 0, c = 0;
    r.max = (double)vec->max(r.z, C);
    if (t) {
        r.p = scratch, r.logp = r.p + C, r.q = r.logp + C, r.more = r.q + C;
        r.kept = kd__sparse_teacher(t, b->inputs[t - l->term].sparse, at, r.p, r.logp);
    }
    add_up(&r, vec, ce != NULL);
    if (t) value[1] = kd__is(t->k.sparse, "bucket") ? bucket(&r, t, &a) : full(&r, t, &a, &c);
    const int32_t y = b->labels ? b->labels[at] : -1;
    const double e = ce ? ce->k.label_smoothing : 0;
    if (ce) value[0] = log(r.sum_1) - (1 - e) * ((double)r.z[y] - r.max) - e * r.all / (double)C;
    if (!dz) return;
    const double per = scale[1] * r.inv_t, at_t = t ? per * a / r.sum_t : 0,
                 at_1 = ce ? scale[0] / r.sum_1 : 0;
    r.slope = (kd__vocab_slope){.max = (float)r.max,
                                .inv_t = (float)r.inv_t,
                                .at_t = (float)(r.inv_t == 1 ? at_t + at_1 : at_t),
                                .at_1 = (float)at_1,
                                .off = (float)(per * c + scale[0] * e / (double)C)};
    vec->gradient(dz, r.z, C, &r.slope);
    for (size_t i = 0; i < r.kept.n; i++) dz[r.kept.id[i]] += (float)(per * r.more[i]);
    if (ce) dz[y] -= (float)(scale[0] * (1 - e));
}

/* ---- a batch ------------------------------------------------------------------------------ */

static double start(kd__term *t, int64_t rows, double factor)
{
    if (!t) return 0;
    const bool on = t->weight > 0;
#pragma omp single nowait
    {
        t->parts = on ? rows : 0;
        t->factor = factor;
    }
    return on ? t->weight * factor : 0;
}

void kd__vocab_run(kd_loss *l, const kd_loss_batch *b, int64_t valid)
{
    const kd__vocab_vec *vec = kernels();
    const double n = (double)(valid ? valid : 1),
                 scale[2] = {start(l->ce, b->rows, 1 / n),
                             start(l->sparse, b->rows,
                                   l->sparse ? l->sparse->o->factor(l->sparse, (int64_t)n) : 0)};
    double *scratch =
        l->sparse ? l->sparse->thread_scratch + (size_t)omp_get_thread_num() * l->sparse->scratch_step : NULL;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < b->rows; r++) {
        double value[2] = {0};
        const float *z = kd_loss_row(l, b, r);
        float *dz = b->dhalf     ? (float *)(uintptr_t)z // the thread's own
                    : b->dlogits ? b->dlogits + r * b->classes
                                 : NULL;
        if (!b->labels || (b->labels[r] >= 0 && b->labels[r] < b->classes))
            run_row(l, vec, b, r, z, dz, scale, scratch, value);
        else if (dz)
            memset(dz, 0, (size_t)b->classes * sizeof *dz);
        if (b->dhalf) vec->to_bf16(b->dhalf + r * b->classes, dz, b->classes);
        if (l->ce) l->ce->partial[r] = value[0];
        if (l->sparse) l->sparse->partial[r] = value[1];
    }
}

double kd_loss_nll(const float *z, int64_t classes, int32_t label, bool *first)
{
    const kd__vocab_vec *vec = kernels();
    const float max = vec->max(z, classes);
    double sum[3] = {0};
    vec->sums(z, classes, max, 1, false, sum);
    *first = z[label] == max;
    return log(sum[0]) - ((double)z[label] - (double)max);
}
