/* prefix.c - vectors that are good when they are cut: the loss summed over their first n numbers.
 *
 *     u_n = first n numbers of f, scaled to length 1;  value  sum_n w_n L(u_n)
 *
 * Kusupati et al. 2022 (Matryoshka representations), section 3; as sentence-transformers' MatryoshkaLoss has
 * it. It is a key of objectives that compare the vectors of a batch with each other, whose teacher may have
 * another width: L is the same objective each time, on a copy of the vectors, and the way back to f is that
 * of the scaling. A zero vector has no direction: slope 0.
 */
#include "loss_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "384 192*0.5" */
kd_status kd__prefixes_read(kd__term *t, kd_err *err)
{
    const char *at = t->k.prefixes;
    for (at += strspn(at, " "); *at; at += strspn(at, " ")) {
        char *end;
        kd__prefix p = {strtoll(at, &end, 10), 1};
        if (*end == '*') p.weight = strtod(end + 1, &end);
        if (p.n < 1 || (*end && *end != ' ') || !(p.weight > 0) || !isfinite(p.weight))
            return kd_fail(err, KD_EUSAGE,
                           "prefixes: '%.60s', expected lengths with weights, such as 384 192*0.5",
                           t->k.prefixes);
        if (t->nprefixes == KD__PREFIXES)
            return kd_fail(err, KD_EUSAGE, "prefixes: '%.60s', at most %d of them", t->k.prefixes,
                           KD__PREFIXES);
        t->prefix[t->nprefixes++] = p;
        at = end;
    }
    return KD_OK;
}

kd_status kd__prefixes_plan(kd__term *t, kd_arena *memory, kd_err *err)
{
    const size_t rows = (size_t)t->max_rows;
    for (int i = 0; i < t->nprefixes; i++)
        if (t->prefix[i].n > t->n)
            return kd_fail(err, KD_EUSAGE, "prefixes: %lld of the student's %lld numbers",
                           (long long)t->prefix[i].n, (long long)t->n);
    t->cut = kd_arena_alloc(memory, rows * (size_t)t->n + 1, sizeof(float));
    t->dcut = kd_arena_alloc(memory, rows * (size_t)t->n + 1, sizeof(float));
    if (t->cut && t->dcut) return KD_OK;
    return kd_fail(err, KD_ENOMEM, "no memory for prefixes of %zu vectors", rows);
}

static double inverse_length(const kd__term *t, const float *f, int64_t n)
{
    const double square = t->vec->dot(f, f, n);
    return square == 0 ? 0 : 1 / sqrt(square);
}

/* df += weight * d value / d u, led through the scaling; u, du: (n). */
static void back(const kd__term *t, float *df, const float *f, const float *u, const float *du, int64_t n)
{
    const double inverse = inverse_length(t, f, n), along = t->vec->dot(u, du, n);
    for (int64_t k = 0; k < n; k++) df[k] += (float)(inverse * (du[k] - along * u[k]));
}

/* The objective on vectors of n numbers; all threads have the same term, so one of them sets it. */
static void one_prefix(kd__term *t, const kd__view *v, const kd__prefix *p, int64_t whole, double weight)
{
    const int64_t n = p->n;
    kd__view w = *v;
    w.s = t->cut;
    w.ds = v->ds ? t->dcut : NULL;
#pragma omp single
    {
        t->n = n;
        t->weight = weight * p->weight;
    }
#pragma omp for schedule(static)
    for (int64_t r = 0; r < v->rows; r++) {
        const double inverse = inverse_length(t, v->s + r * whole, n);
        for (int64_t k = 0; k < n; k++) t->cut[r * n + k] = (float)(v->s[r * whole + k] * inverse);
        memset(t->dcut + r * n, 0, (size_t)n * sizeof(float));
    }
    t->o->run(t, &w);
    if (!v->ds) return;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < v->rows; r++)
        back(t, v->ds + r * whole, v->s + r * whole, t->cut + r * n, t->dcut + r * n, n);
}

void kd__prefixes_run(kd__term *t, const kd__view *v)
{
    const int64_t whole = t->n;
    const double weight = t->weight;
#pragma omp barrier // all have read them before one changes them
    for (int i = 0; i < t->nprefixes; i++) {
        one_prefix(t, v, &t->prefix[i], whole, weight);
#pragma omp barrier
#pragma omp single
        {
            double sum = i ? t->prefixed : 0;
            for (int64_t k = 0; k < t->parts; k++) sum += t->prefix[i].weight * t->factor * t->partial[k];
            t->prefixed = sum;
        }
    }
#pragma omp single
    {
        t->n = whole;
        t->weight = weight;
        t->parts = 1;
        t->factor = 1;
        t->partial[0] = t->prefixed;
    }
}

void kd__prefixes_describe(kd_buf *b, const kd__term *t)
{
    if (t->nprefixes) kd_buf_printf(b, ", prefixes %s", t->k.prefixes);
}

double kd__naive(const kd__term *t, const kd__view *v)
{
    kd__term cut = *t;
    kd__view w = *v;
    double value = 0, *u = t->nprefixes ? calloc((size_t)(v->rows * t->n) + 1, sizeof *u) : NULL;
    if (!t->nprefixes) return t->o->naive(t, v);
    w.exact = u;
    for (int i = 0; u && i < t->nprefixes; i++) {
        cut.n = t->prefix[i].n;
        for (int64_t r = 0; r < v->rows; r++) {
            double square = 0;
            for (int64_t k = 0; k < cut.n; k++) square += pow(kd__s(v, r * t->n + k), 2);
            for (int64_t k = 0; k < cut.n; k++)
                u[r * cut.n + k] = square == 0 ? 0 : kd__s(v, r * t->n + k) / sqrt(square);
        }
        value += t->prefix[i].weight * t->o->naive(&cut, &w);
    }
    free(u);
    return value;
}
