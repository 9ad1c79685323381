/* lib/eval/measures.c - measures over logits, labels and the teacher's logits.
 *
 * Plain loops in double: evaluation reads each logit a handful of times, so the forward passes cost
 * far more than this. Probabilities come from log-sum-exp, so no finite logit overflows. */
#include "kd/eval.h"

#include <math.h>
#include <string.h>

#define ECE_BINS 15

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

/* KL(p || q) of one row at T = 1, p from t, q from z. */
static double row_kl(const float *t, double lse_t, const float *z, double lse_z, int64_t n)
{
    double kl = 0;
    for (int64_t c = 0; c < n; c++) {
        double lp = t[c] - lse_t;
        kl += exp(lp) * (lp - (z[c] - lse_z));
    }
    return kl;
}

void kd_measure(kd_measures *m, const float *logits, const int32_t *labels, const float *teacher,
                uint64_t rows, int64_t classes)
{
    double bin_conf[ECE_BINS] = {0}, bin_hit[ECE_BINS] = {0};
    uint64_t hits = 0, same = 0;
    double nll = 0, kl = 0;
    memset(m, 0, sizeof *m);
    m->rows = rows;
    m->has_teacher = teacher != NULL;
    if (!rows) return;
    for (uint64_t r = 0; r < rows; r++) {
        const float *z = logits + r * (uint64_t)classes; /* (classes) */
        int64_t top = argmax(z, classes);
        double lse = log_sum_exp(z, classes, top);
        double conf = exp(z[top] - lse);
        bool hit = top == labels[r];
        /* Bins are (k/15, (k+1)/15], as in the paper. */
        int bin = (int)ceil(conf * ECE_BINS) - 1;
        if (bin < 0) bin = 0;
        if (bin >= ECE_BINS) bin = ECE_BINS - 1;
        bin_conf[bin] += conf;
        bin_hit[bin] += hit;
        hits += hit;
        nll += lse - z[labels[r]];
        if (teacher) {
            const float *t = teacher + r * (uint64_t)classes;
            int64_t ttop = argmax(t, classes);
            same += ttop == top;
            kl += row_kl(t, log_sum_exp(t, classes, ttop), z, lse, classes);
        }
    }
    for (int b = 0; b < ECE_BINS; b++) m->ece += fabs(bin_conf[b] - bin_hit[b]) / (double)rows;
    m->accuracy = (double)hits / (double)rows;
    m->loss = nll / (double)rows;
    if (teacher) {
        m->agreement = (double)same / (double)rows;
        m->kl = kl / (double)rows;
    }
}
