/* lib/eval/answers.c - from logits to one answer a row.
 *
 * This is all that is ever done with a student's logits, so it is where the time goes beside the forward
 * passes: one exponential a class and row. The teacher's probabilities and their entropy are the same for all
 * students and are made once; KL then costs a scalar product:
 *
 *     KL(p || q) = sum p log p - sum p z + log sum e^z
 *
 * Everything is in double, and log-sum-exp takes the largest logit out first, so no finite logit overflows.
 * A row belongs to one thread: the number of threads changes no bit.
 */
#include "eval_private.h"

#include <math.h>
#include <stdlib.h>

static int64_t argmax(const float *z, int64_t n) /* z: (n); ties go to the smaller index */
{
    int64_t best = 0;
    for (int64_t c = 1; c < n; c++)
        if (z[c] > z[best]) best = c;
    return best;
}

static double log_sum_exp(const float *z, int64_t n, int64_t top) /* z: (n), top: argmax */
{
    double sum = 0;
    for (int64_t c = 0; c < n; c++) sum += exp((double)z[c] - z[top]);
    return z[top] + log(sum);
}

/* sum p log p, and p itself. */
static double row_reference(double *p, const float *t, int64_t n)
{
    const double lse = log_sum_exp(t, n, argmax(t, n));
    double sum = 0;
    for (int64_t c = 0; c < n; c++) {
        p[c] = exp(t[c] - lse);
        sum += p[c] * (t[c] - lse);
    }
    return sum;
}

static bool row_finite(const float *z, int64_t n)
{
    double sum = 0; /* of floats: finite unless one of them is not */
    for (int64_t c = 0; c < n; c++) sum += z[c];
    return isfinite(sum);
}

/* p: (n) of the teacher or NULL. */
static void row_answer(kd_answer *a, const float *z, int32_t label, const double *p, double entropy,
                       int64_t n)
{
    const int64_t top = argmax(z, n);
    const double lse = log_sum_exp(z, n, top);
    int32_t rank = 0;
    double cross = 0;
    for (int64_t c = 0; c < n; c++) rank += z[c] > z[label] || (z[c] == z[label] && c < label);
    for (int64_t c = 0; p && c < n; c++) cross += p[c] * z[c];
    *a = (kd_answer){.top = (int32_t)top,
                     .rank = rank,
                     .confidence = exp(z[top] - lse),
                     .loss = lse - z[label],
                     .kl = p ? fmax(0, entropy - cross + lse) : 0};
}

kd_status kd__reference_create(kd__reference *f, uint64_t rows, int64_t classes, kd_err *err)
{
    f->p = kd_alloc_aligned(rows, (size_t)classes * sizeof(double));
    f->entropy = kd_alloc_aligned(rows, sizeof(double));
    if (f->p && f->entropy) return KD_OK;
    kd__reference_release(f);
    return kd_fail(err, KD_ENOMEM, "no memory for the teacher's probabilities of %llu rows",
                   (unsigned long long)rows);
}

void kd__reference_release(kd__reference *f)
{
    free(f->p);
    free(f->entropy);
    *f = (kd__reference){NULL, NULL};
}

void kd__reference_fill(kd__reference *f, const float *teacher, uint64_t rows, int64_t classes, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (uint64_t r = 0; r < rows; r++)
        f->entropy[r] = row_reference(f->p + r * (uint64_t)classes, teacher + r * (uint64_t)classes, classes);
}

uint64_t kd__answers(kd_answer *a, const float *logits, const int32_t *labels, const kd__reference *teacher,
                     uint64_t rows, int64_t classes, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (uint64_t r = 0; r < rows; r++) {
        const float *z = logits + r * (uint64_t)classes;
        if (row_finite(z, classes))
            row_answer(&a[r], z, labels[r], teacher ? teacher->p + r * (uint64_t)classes : NULL,
                       teacher ? teacher->entropy[r] : 0, classes);
        else
            a[r].top = -1;
    }
    for (uint64_t r = 0; r < rows; r++)
        if (a[r].top < 0) return r;
    return rows;
}

kd_status kd_answers(kd_answer *a, const float *logits, const int32_t *labels, const float *teacher,
                     uint64_t rows, int64_t classes, int threads, kd_err *err)
{
    kd__reference f = {NULL, NULL};
    kd_status st = teacher ? kd__reference_create(&f, rows, classes, err) : KD_OK;
    if (st) return st;
    if (teacher) kd__reference_fill(&f, teacher, rows, classes, threads);
    const uint64_t bad = kd__answers(a, logits, labels, teacher ? &f : NULL, rows, classes, threads);
    kd__reference_release(&f);
    if (bad < rows)
        return kd_fail(err, KD_ENUMERIC, "row %llu: a logit is not finite", (unsigned long long)bad);
    return KD_OK;
}
