/* lib/eval/bootstrap.c - how far a measure would move with other rows of the same kind.
 *
 * A resample takes each row a number of times that is Poisson with mean 1, independently: the bootstrap's
 * multinomial counts without their fixed sum (Hanley and MacGibbon, "Creating non-parametric bootstrap
 * samples using Poisson frequencies", 2006; Chamandy et al., "Estimating uncertainty for massive data
 * streams", 2012). So the count of a row in a resample is a function of the two alone, needs no memory, and
 * is the same for every model: differences between models are paired without further care.
 *
 * Resamples are taken in blocks of 64. A thread that has a block draws its counts once for all models, then
 * walks the rows of one model after the other. All that a row adds is a count times a number, so each measure
 * is a few sums of 64 lanes; rows that are right and agree touch three of them. A block is one thread's and
 * rows come in order: the number of threads changes no bit.
 */
#include "eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES KD__LANES

/* P(X <= k) of a Poisson variable with mean 1, in units of 2^-32. */
const uint32_t kd__poisson[KD__POISSON_STEPS] = {1580030168u, 3160060337u, 3950075421u, 4213413783u,
                                                 4279248373u, 4292415291u, 4294609777u, 4294923276u,
                                                 4294962463u, 4294966817u, 4294967252u, 4294967292u};

static const kd__resample_loops *loops(void)
{
    const kd_isa isa = kd_cpu_isa();
    return isa >= KD_ISA_AVX512 ? &kd__resample_loops_avx512
           : isa >= KD_ISA_AVX2 ? &kd__resample_loops_avx2
                                : &kd__resample_loops_scalar;
}

static void key_of(uint32_t resample, uint64_t row, uint32_t counter[4])
{
    counter[0] = resample / 4;
    counter[1] = KD_RNG_BOOTSTRAP;
    counter[2] = (uint32_t)row;
    counter[3] = (uint32_t)(row >> 32);
}

uint8_t kd_bootstrap_weight(uint64_t row, uint32_t resample)
{
    static const uint32_t key[2] = {0, 0};
    uint32_t counter[4], out[4];
    uint8_t n = 0;
    key_of(resample, row, counter);
    kd_philox(counter, key, out);
    while (n < KD__POISSON_STEPS && out[resample % 4] >= kd__poisson[n]) n++;
    return n;
}

uint32_t kd_bootstrap_seed(uint32_t resample, uint32_t k, uint32_t seeds)
{
    static const uint32_t key[2] = {1, 0};
    uint32_t counter[4], out[4];
    key_of(resample, k, counter);
    kd_philox(counter, key, out);
    return (uint32_t)((uint64_t)out[resample % 4] * seeds >> 32);
}

bool kd_bootstrapped(kd_measure_name m)
{
    switch (m) {
    case KD_M_ACCURACY:
    case KD_M_TOP3:
    case KD_M_TOP5:
    case KD_M_MACRO_F1:
    case KD_M_LOSS:
    case KD_M_PERPLEXITY:
    case KD_M_ECE:
    case KD_M_AGREEMENT:
    case KD_M_KL:
    case KD_M_COPIED:
    case KD_M_OTHER:
    case KD_M_MENDED:
    case KD_M_NEW: return true;
    default: return false;
    }
}

typedef double lanes[LANES];

/* What the rows of one block of resamples come to. */
typedef struct block {
    const kd__resample_loops *loops;
    uint8_t *weight;                      /* (rows, LANES) */
    lanes total, teacher_wrong, *support; /* of all models; support: (classes) */
    lanes wrong3, wrong5, kind[KD_KINDS], loss, kl, gap[KD_BINS];
    lanes *missed, *taken; /* (classes) wrong rows by label and by answer */
} block;

static void block_release(block *b)
{
    if (!b) return;
    free(b->weight);
    free(b->support);
    free(b->missed);
    free(b->taken);
    free(b);
}

static block *block_create(const kd_rows *r)
{
    block *b = kd_alloc_aligned(1, sizeof *b);
    if (!b) return NULL;
    b->loops = loops();
    b->weight = kd_alloc_aligned(r->n, LANES);
    b->support = kd_alloc_aligned((size_t)r->classes, sizeof(lanes));
    b->missed = kd_alloc_aligned((size_t)r->classes, sizeof(lanes));
    b->taken = kd_alloc_aligned((size_t)r->classes, sizeof(lanes));
    if (b->weight && b->support && b->missed && b->taken) return b;
    block_release(b);
    return NULL;
}

/* Whole lanes, always: what is past the last resample is thrown away. */
static void block_draw(block *b, const kd_rows *r, uint32_t first)
{
    memset(b->total, 0, sizeof b->total);
    memset(b->teacher_wrong, 0, sizeof b->teacher_wrong);
    memset(b->support, 0, (size_t)r->classes * sizeof(lanes));
    for (uint64_t i = 0; i < r->n; i++) {
        uint8_t *w = b->weight + i * LANES;
        b->loops->draw(w, i, first);
        b->loops->count(b->total, w);
        b->loops->count(b->support[r->label[i]], w);
        if (r->teacher && r->teacher[i].rank) b->loops->count(b->teacher_wrong, w);
    }
}

static void block_row(block *b, const kd_rows *r, uint64_t i, const kd_answer *a)
{
    const uint8_t *w = b->weight + i * LANES;
    b->loops->add(b->loss, b->kl, b->gap[kd__bin_of(a->confidence)], w, a->loss, a->kl,
                  a->confidence - (a->rank == 0));
    if (a->rank) {
        b->loops->count(b->missed[r->label[i]], w);
        b->loops->count(b->taken[a->top], w);
    }
    if (a->rank >= 3) b->loops->count(b->wrong3, w);
    if (a->rank >= 5) b->loops->count(b->wrong5, w);
    if (!r->teacher) return;
    const kd_kind kind = kd_row_kind(r->label[i], &r->teacher[i], a);
    if (kind != KD_BOTH_RIGHT) b->loops->count(b->kind[kind], w);
}

/* F1 of a class is 2 right / (support + predicted); right = support - missed, predicted = right + taken. */
static double block_macro_f1(const block *b, const kd_rows *r, int lane)
{
    double sum = 0, seen = 0;
    for (int64_t c = 0; c < r->classes; c++) {
        const double right = b->support[c][lane] - b->missed[c][lane],
                     both = b->support[c][lane] + right + b->taken[c][lane];
        if (both <= 0) continue;
        sum += 2 * right / both;
        seen++;
    }
    return sum / seen;
}

static double share(double part, double of) { return of > 0 ? part / of : NAN; }

static void block_result(double *out, const block *b, const kd_rows *r, int lane, size_t stride)
{
    const double n = b->total[lane], wrong = b->teacher_wrong[lane], loss = share(b->loss[lane], n),
                 differ = b->kind[KD_OTHER][lane] + b->kind[KD_NEW][lane] + b->kind[KD_MENDED][lane];
    double gaps = 0, missed = 0;
    for (int k = 0; k < KD_BINS; k++) gaps += fabs(b->gap[k][lane]);
    for (int64_t c = 0; c < r->classes; c++) missed += b->missed[c][lane];
    out[KD_M_ACCURACY * stride] = share(n - missed, n);
    out[KD_M_TOP3 * stride] = share(n - b->wrong3[lane], n);
    out[KD_M_TOP5 * stride] = share(n - b->wrong5[lane], n);
    out[KD_M_MACRO_F1 * stride] = n > 0 ? block_macro_f1(b, r, lane) : NAN;
    out[KD_M_LOSS * stride] = loss;
    out[KD_M_PERPLEXITY * stride] = exp(loss);
    out[KD_M_ECE * stride] = share(gaps, n);
    out[KD_M_AGREEMENT * stride] = share(n - differ, n);
    out[KD_M_KL * stride] = share(b->kl[lane], n);
    out[KD_M_COPIED * stride] = share(b->kind[KD_COPIED][lane], wrong);
    out[KD_M_OTHER * stride] = share(b->kind[KD_OTHER][lane], wrong);
    out[KD_M_MENDED * stride] = share(b->kind[KD_MENDED][lane], wrong);
    out[KD_M_NEW * stride] = share(b->kind[KD_NEW][lane], n - wrong);
}

static void block_model(block *b, double *out, const kd_rows *r, const kd_answer *a, uint32_t first,
                        uint32_t resamples)
{
    memset(b->wrong3, 0, offsetof(block, missed) - offsetof(block, wrong3));
    memset(b->missed, 0, (size_t)r->classes * sizeof(lanes));
    memset(b->taken, 0, (size_t)r->classes * sizeof(lanes));
    for (uint64_t i = 0; i < r->n; i++) block_row(b, r, i, &a[i]);
    for (int lane = 0; lane < LANES; lane++) {
        const uint32_t resample = first + 4 * (uint32_t)(lane % (LANES / 4)) + (uint32_t)(lane / (LANES / 4));
        if (resample < resamples) block_result(out + resample, b, r, lane, resamples);
    }
}

kd_status kd_bootstrap(double *const *out, const kd_rows *r, const kd_answer *const *models, size_t n,
                       uint32_t resamples, int threads, kd_err *err)
{
    bool failed = false;
#pragma omp parallel num_threads(threads)
    {
        block *b = block_create(r);
        if (!b) {
#pragma omp atomic write
            failed = true;
        }
#pragma omp for schedule(dynamic)
        for (uint32_t first = 0; first < resamples; first += LANES) {
            if (!b) continue;
            block_draw(b, r, first);
            for (size_t m = 0; m < n; m++) block_model(b, out[m], r, models[m], first, resamples);
        }
        block_release(b);
    }
    if (failed) return kd_fail(err, KD_ENOMEM, "no memory to resample %llu rows", (unsigned long long)r->n);
    return KD_OK;
}

double kd_quantile(const double *sorted, size_t n, double q)
{
    if (!n) return NAN;
    const double at = q * (double)(n - 1);
    const size_t below = (size_t)at, above = below + 1 < n ? below + 1 : below;
    return sorted[below] + (sorted[above] - sorted[below]) * (at - (double)below);
}
