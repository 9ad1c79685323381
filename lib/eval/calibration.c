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
    const double x = confidence * KD_BINS;
    const int k = (int)x - ((double)(int)x == x); /* ceil(x) - 1 */
    return k < 0 ? 0 : k < KD_BINS ? k : KD_BINS - 1;
}

void kd_reliability(kd_bin bin[KD_BINS], const kd_rows *r, const kd_answer *a)
{
    for (int k = 0; k < KD_BINS; k++)
        bin[k] = (kd_bin){.low = (double)k / KD_BINS, .high = (double)(k + 1) / KD_BINS};
    for (uint64_t i = 0; i < r->n; i++) bin_add(&bin[kd__bin_of(a[i].confidence)], &a[i]);
}

kd_status kd_reliability_adaptive(kd_bin bin[KD_BINS], const kd_rows *r, const kd_answer *a, kd_err *err)
{
    const size_t n = (size_t)r->n;
    double *confidence = malloc((n + 1) * sizeof *confidence);
    uint32_t *order = malloc((n + 1) * sizeof *order);
    kd_status st = confidence && order ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for %zu numbers", n);
    memset(bin, 0, KD_BINS * sizeof *bin);
    for (size_t i = 0; i < n && !st; i++) confidence[i] = a[i].confidence;
    if (!st) st = kd__order(order, confidence, n, err);
    size_t at = 0;
    for (size_t k = 0; k < KD_BINS && !st; k++) {
        const size_t rows = n / KD_BINS + (k < n % KD_BINS), end = at + rows;
        bin[k].low = rows ? confidence[order[at]] : NAN;
        bin[k].high = rows ? confidence[order[end - 1]] : NAN;
        while (at < end) bin_add(&bin[k], &a[order[at++]]);
    }
    free(confidence);
    free(order);
    return st;
}

double kd_ece(const kd_bin bin[KD_BINS], uint64_t rows)
{
    double sum = 0;
    for (int k = 0; k < KD_BINS; k++) sum += fabs(bin[k].confidence - bin[k].right);
    return sum / (double)rows;
}
