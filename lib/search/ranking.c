/* ranking.c - how good a ranking is, and how like another.
 *
 * MRR@10 and recall as sentence-transformers' and TREC's evaluators have them; agreement with a teacher says
 * whether a student would show people the same ten, and Kendall's tau whether it orders what the teacher
 * found as the teacher does (Kendall 1945: tau-b, which allows for ties).
 */
#include "kd/search.h"

#include <math.h>
#include <string.h>

static bool among(const uint32_t *list, size_t n, uint32_t doc)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (list[mid] < doc)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && list[lo] == doc;
}

/* Adds what one query comes to. */
static void judge(kd_ranking *r, const kd_hit *hits, size_t k, const uint32_t *relevant, size_t n,
                  double *reciprocal)
{
    static const size_t places[3] = {1, 10, 100};
    double *recall[3] = {&r->recall1, &r->recall10, &r->recall100},
           *found[3] = {&r->found1, &r->found10, &r->found100};
    size_t right = 0;
    *reciprocal = 0;
    for (size_t i = 0, p = 0; p < 3; i++) {
        const bool is = i < k && among(relevant, n, hits[i].doc);
        if (is && !right && i < 10) *reciprocal = 1 / (double)(i + 1);
        right += is;
        if (i + 1 < places[p]) continue;
        *recall[p] += (double)right / (double)n;
        *found[p] += right > 0;
        p++;
    }
    r->mrr10 += *reciprocal;
    r->queries++;
}

void kd_ranking_judge(kd_ranking *r, const kd_hit *hits, size_t k, size_t nq, const uint32_t *relevant,
                      const uint64_t *offset)
{
    *r = (kd_ranking){.reciprocal = r->reciprocal};
    for (size_t q = 0; q < nq; q++) {
        const size_t n = (size_t)(offset[q + 1] - offset[q]);
        double reciprocal = NAN;
        if (n) judge(r, hits + q * k, k, relevant + offset[q], n, &reciprocal);
        if (r->reciprocal) r->reciprocal[q] = reciprocal;
    }
    double *mean[] = {&r->mrr10,  &r->recall1, &r->recall10, &r->recall100,
                      &r->found1, &r->found10, &r->found100};
    for (size_t i = 0; i < KD_COUNT(mean); i++) *mean[i] = r->queries ? *mean[i] / (double)r->queries : NAN;
}

double kd_kendall(const float *a, const float *b, size_t n)
{
    int64_t sum = 0, in_a = 0, in_b = 0; // pairs that agree less those that do not; pairs apart in each
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) {
            const int x = (a[i] > a[j]) - (a[i] < a[j]), y = (b[i] > b[j]) - (b[i] < b[j]);
            sum += x * y;
            in_a += x != 0;
            in_b += y != 0;
        }
    return in_a && in_b ? (double)sum / sqrt((double)in_a * (double)in_b) : NAN;
}

void kd_ranking_agree(kd_agreement *a, const kd_hit *teacher, const kd_hit *hits, const float *scores,
                      size_t k, size_t nq)
{
    const size_t ten = kd_min_size(k, 10);
    size_t defined = 0;
    float own[KD_HITS];
    *a = (kd_agreement){0};
    for (size_t q = 0; q < nq; q++, teacher += k, hits += k, scores += k) {
        size_t both = 0, n = 0, has = 0;
        for (; n < k && teacher[n].doc != KD_NO_HIT; n++) own[n] = teacher[n].score;
        has = kd_min_size(n, ten);
        for (size_t i = 0; i < has; i++)
            for (size_t j = 0; j < ten; j++) both += hits[j].doc == teacher[i].doc;
        a->overlap10 += has ? (double)both / (double)has : 1;
        const double tau = kd_kendall(own, scores, n);
        if (isnan(tau)) continue;
        a->tau += tau;
        defined++;
    }
    a->overlap10 = nq ? a->overlap10 / (double)nq : NAN;
    a->tau = defined ? a->tau / (double)defined : NAN;
}
