/* lib/eval/calibration.c - does a model that says 80 % turn out right in 80 % of the cases?
 *
 * Rows are put into 15 bins by the probability of their top class; in each, the mean of that probability is
 * held against the share that was right. The expected calibration error is the mean gap, weighted by rows
 * (Guo et al., "On Calibration of Modern Neural Networks", 2017, section 3; bins (k/15, (k+1)/15] as there).
 * Bins of equal width leave most of them nearly empty when a model is sure of everything; those of equal
 * numbers of rows (Nguyen and O'Connor, "Posterior calibration and exploratory analysis", 2015) do not.
 */
#include "eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void bin_add(kd_bin *b, const kd_answer *a)
{
    b->rows++;
    b->confidence += a->confidence;
    b->right += a->rank == 0;
}

int kd__bin_of(double confidence)
{
    const int k = (int)ceil(confidence * KD_BINS) - 1;
    return k < 0 ? 0 : k < KD_BINS ? k : KD_BINS - 1;
}

void kd_reliability(kd_bin bin[KD_BINS], const kd_rows *r, const kd_answer *a)
{
    for (int k = 0; k < KD_BINS; k++)
        bin[k] = (kd_bin){.low = (double)k / KD_BINS, .high = (double)(k + 1) / KD_BINS};
    for (uint64_t i = 0; i < r->n; i++) bin_add(&bin[kd__bin_of(a[i].confidence)], &a[i]);
}

/* By confidence, then by place: the same order whatever qsort does with equals. */
static int by_confidence(const void *x, const void *y)
{
    const kd_answer *a = *(const kd_answer *const *)x, *b = *(const kd_answer *const *)y;
    const int c = (a->confidence > b->confidence) - (a->confidence < b->confidence);
    return c ? c : (a > b) - (a < b);
}

kd_status kd_reliability_adaptive(kd_bin bin[KD_BINS], const kd_rows *r, const kd_answer *a, kd_err *err)
{
    const kd_answer **order = malloc((r->n + 1) * sizeof *order);
    memset(bin, 0, KD_BINS * sizeof *bin);
    if (!order)
        return kd_fail(err, KD_ENOMEM, "no memory for an order of %llu rows", (unsigned long long)r->n);
    for (uint64_t i = 0; i < r->n; i++) order[i] = &a[i];
    qsort(order, r->n, sizeof *order, by_confidence);
    uint64_t at = 0;
    for (int k = 0; k < KD_BINS; k++) {
        const uint64_t rows = r->n / KD_BINS + ((uint64_t)k < r->n % KD_BINS), end = at + rows;
        bin[k].low = rows ? order[at]->confidence : NAN;
        bin[k].high = rows ? order[end - 1]->confidence : NAN;
        while (at < end) bin_add(&bin[k], order[at++]);
    }
    free(order);
    return KD_OK;
}

double kd_ece(const kd_bin bin[KD_BINS], uint64_t rows)
{
    double sum = 0;
    for (int k = 0; k < KD_BINS; k++) sum += fabs(bin[k].confidence - bin[k].right);
    return sum / (double)rows;
}
