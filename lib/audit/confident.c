/* confident.c - which labels are probably wrong: confident learning.
 *
 * Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70
 * (2021). A teacher's probabilities are not to be trusted as they are: it is surer of some classes than of
 * others. So a class is measured by what the teacher usually says of it (section 3.1, equations 1 and 2):
 *
 *   t_j      = mean of p(j; x) over the rows labelled j
 *   class(x) = the largest p(l; x) among the classes with p(l; x) >= t_l; none where there is none
 *   C[i][j]  = rows labelled i whose class(x) is j                             the confident joint
 *
 * Rows without a class count nowhere, so C is scaled: each line to the number of rows with that label, and
 * all of it to the number of rows (equation 3). A diagonal is at least 1, so that no line is empty.
 *
 * Which rows are wrong (section 3.2): those off the diagonal of C (method 2), or of each label i and class j
 * != i the estimated number of rows with the largest p(j; x) - p(i; x) (method 4, prune by noise rate), or
 * what both say (method 5, C+NR). Rows are ranked by the normalised margin p(y; x) - max p(l != y; x).
 */
#include "audit_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int32_t top_class(const float *p, int64_t classes)
{
    int32_t best = 0;
    for (int32_t k = 1; k < classes; k++)
        if (p[k] > p[best]) best = k;
    return best;
}

int32_t kd_confident_class(const kd_confident *c, const float *p)
{
    int32_t best = -1;
    for (int32_t k = 0; k < c->classes; k++)
        if ((double)p[k] >= c->threshold[k] && (best < 0 || p[k] > p[best])) best = k;
    return best;
}

double kd_label_margin(const float *p, int32_t y, int64_t classes)
{
    double other = 0;
    for (int32_t k = 0; k < classes; k++)
        if (k != y && (double)p[k] > other) other = (double)p[k];
    return (double)p[y] - other;
}

/* Equation 1. count: (classes) rows a label. */
static void take_thresholds(kd_confident *c, uint64_t *count, const float *p, const int32_t *y, uint64_t rows)
{
    const size_t k = (size_t)c->classes;
    for (uint64_t r = 0; r < rows; r++) {
        if (y[r] < 0) continue;
        c->threshold[y[r]] += (double)p[r * k + (size_t)y[r]];
        count[y[r]]++;
        c->rows++;
    }
    for (size_t i = 0; i < k; i++) c->threshold[i] = count[i] ? c->threshold[i] / (double)count[i] : NAN;
}

/* Equation 3. */
static void calibrate(kd_confident *c, const uint64_t *count)
{
    const size_t k = (size_t)c->classes;
    for (size_t i = 0; i < k; i++) {
        double line = 0;
        for (size_t j = 0; j < k; j++) {
            double n = (double)c->joint[i * k + j];
            c->estimate[i * k + j] = i == j && n < 1 ? 1 : n;
            line += c->estimate[i * k + j];
        }
        for (size_t j = 0; j < k; j++) c->estimate[i * k + j] *= (double)count[i] / line;
    }
}

kd_status kd_confident_learn(kd_confident *c, const float *p, const int32_t *y, uint64_t rows,
                             int64_t classes, kd_err *err)
{
    const size_t k = (size_t)classes;
    size_t cells = 0;
    *c = (kd_confident){.classes = classes};
    uint64_t *count = calloc(k, sizeof(*count));
    if (kd_mul_size(k, k, &cells)) {
        c->threshold = calloc(k, sizeof(*c->threshold));
        c->joint = calloc(cells, sizeof(*c->joint));
        c->estimate = calloc(cells, sizeof(*c->estimate));
    }
    if (!count || !c->threshold || !c->joint || !c->estimate) {
        free(count);
        kd_confident_release(c);
        return kd_fail(err, KD_ENOMEM, "no memory for the joint of %lld classes", (long long)classes);
    }
    take_thresholds(c, count, p, y, rows);
    for (uint64_t r = 0; r < rows; r++) {
        int32_t j = y[r] < 0 ? -1 : kd_confident_class(c, p + r * k);
        if (j >= 0) c->joint[(size_t)y[r] * k + (size_t)j]++;
    }
    calibrate(c, count);
    free(count);
    return KD_OK;
}

void kd_confident_release(kd_confident *c)
{
    free(c->threshold);
    free(c->joint);
    free(c->estimate);
    *c = (kd_confident){0};
}

/* ---- choosing ----------------------------------------------------------------------------- */

static void flag_joint(const kd_confident *c, const float *p, const int32_t *y, uint64_t rows, uint8_t *flag)
{
    for (uint64_t r = 0; r < rows; r++) {
        int32_t j = y[r] < 0 ? -1 : kd_confident_class(c, p + r * (size_t)c->classes);
        flag[r] = j >= 0 && j != y[r];
    }
}

typedef struct ranked {
    double gap; /* p[class] - p[label] */
    uint64_t row;
} ranked;

static int by_gap(const void *va, const void *vb)
{
    const ranked *a = va, *b = vb;
    if (a->gap != b->gap) return a->gap > b->gap ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* Of one label: the estimated number of rows of each other class. of: (n) its rows; v: room for as many. */
static void flag_label(const kd_confident *c, size_t i, const float *p, const uint64_t *of, size_t n,
                       ranked *v, uint8_t *flag)
{
    const size_t k = (size_t)c->classes;
    for (size_t j = 0; j < k; j++) {
        const size_t want = i == j ? 0 : kd_min_size(n, (size_t)llround(c->estimate[i * k + j]));
        if (!want) continue;
        for (size_t m = 0; m < n; m++)
            v[m] = (ranked){.gap = (double)p[of[m] * k + j] - (double)p[of[m] * k + i], .row = of[m]};
        qsort(v, n, sizeof(*v), by_gap);
        for (size_t m = 0; m < want; m++) flag[v[m].row] = 1;
    }
}

static kd_status flag_rate(const kd_confident *c, const float *p, const int32_t *y, uint64_t rows,
                           uint8_t *flag, kd_err *err)
{
    uint64_t *of = malloc((rows + 1) * sizeof(*of));
    ranked *v = malloc((rows + 1) * sizeof(*v));
    memset(flag, 0, rows);
    if (!of || !v) {
        free(of);
        free(v);
        return kd_fail(err, KD_ENOMEM, "no memory to rank %llu rows", (unsigned long long)rows);
    }
    for (size_t i = 0; i < (size_t)c->classes; i++) {
        size_t n = 0;
        for (uint64_t r = 0; r < rows; r++)
            if (y[r] == (int32_t)i) of[n++] = r;
        flag_label(c, i, p, of, n, v, flag);
    }
    free(of);
    free(v);
    return KD_OK;
}

kd_status kd_confident_flag(const kd_confident *c, const float *p, const int32_t *y, uint64_t rows,
                            kd_label_filter how, uint8_t *flag, kd_err *err)
{
    kd_status st = KD_OK;
    if (how == KD_FILTER_JOINT)
        flag_joint(c, p, y, rows, flag);
    else
        st = flag_rate(c, p, y, rows, flag, err);
    for (uint64_t r = 0; r < rows && !st; r++) {
        const float *q = p + r * (size_t)c->classes;
        if (flag[r] && top_class(q, c->classes) == y[r]) flag[r] = 0;
        if (flag[r] && how == KD_FILTER_BOTH) {
            int32_t j = kd_confident_class(c, q);
            flag[r] = j >= 0 && j != y[r];
        }
    }
    return st;
}

uint32_t kd_fold_of(kd_id id, uint32_t folds)
{
    uint8_t b[sizeof(id.b) + 1];
    memcpy(b, id.b, sizeof(id.b));
    b[sizeof(id.b)] = 'F'; // other numbers than those that chose split and order (kd/data.h)
    return (uint32_t)(kd_hash64(b, sizeof(b)) % folds);
}
