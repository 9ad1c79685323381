/* index.c - the nearest documents of each query, by comparing all with all.
 *
 * A matrix product in tiles (kd_beside); behind each tile a query takes what beats the worst of its best.
 * Threads take tiles of documents, so each vector is read (and, in int8, made a float) once, and keep lists
 * of their own that are joined at the end. Hits are in a total order, so neither tiles nor threads change
 * them.
 */
#include "kd/search.h"

#include "kd/nn.h"

#include <math.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define QUERIES 256
#define DOCS    1024

struct kd_index {
    size_t n, dims;
    float *rows;   /* (n, dims) or NULL */
    int8_t *codes; /* (n, dims) or NULL */
    float *scale;  /* (n) of codes */
};

/* ---- the vectors -------------------------------------------------------------------------- */

static void encode(kd_index *x, const float *row, size_t i)
{
    float most = 0;
    for (size_t k = 0; k < x->dims; k++) most = fmaxf(most, fabsf(row[k]));
    x->scale[i] = most / 127;
    for (size_t k = 0; k < x->dims; k++)
        x->codes[i * x->dims + k] = most > 0 ? (int8_t)lrintf(row[k] / x->scale[i]) : 0;
}

static void decode(const kd_index *x, size_t i, float *row)
{
    if (x->rows) {
        memcpy(row, x->rows + i * x->dims, x->dims * sizeof(float));
        return;
    }
    for (size_t k = 0; k < x->dims; k++) row[k] = x->scale[i] * x->codes[i * x->dims + k];
}

static kd_status fill(kd_index *x, const float *rows, kd_dtype dtype, kd_err *err)
{
    size_t numbers, bytes;
    if (!kd_mul_size(x->n, x->dims, &numbers) || !kd_mul_size(numbers, sizeof(float), &bytes))
        return kd_fail(err, KD_ELIMIT, "an index of %zu documents of %zu numbers is too large", x->n,
                       x->dims);
    for (size_t i = 0; i < numbers; i++)
        if (!isfinite(rows[i]))
            return kd_fail(err, KD_ENUMERIC, "document %zu: a number of its vector is not finite",
                           i / x->dims);
    if (dtype == KD_F32) {
        if (!(x->rows = malloc(bytes))) return kd_fail(err, KD_ENOMEM, "no memory for %zu vectors", x->n);
        memcpy(x->rows, rows, bytes);
        return KD_OK;
    }
    x->codes = malloc(numbers);
    x->scale = malloc(x->n * sizeof(float));
    if (!x->codes || !x->scale) return kd_fail(err, KD_ENOMEM, "no memory for %zu vectors", x->n);
    for (size_t i = 0; i < x->n; i++) encode(x, rows + i * x->dims, i);
    return KD_OK;
}

kd_status kd_index_create(kd_index **out, const float *rows, size_t n, size_t dims, kd_dtype dtype,
                          kd_err *err)
{
    *out = NULL;
    if (!n || !dims || n >= KD_NO_HIT)
        return kd_fail(err, KD_EUSAGE, "an index of %zu documents of %zu numbers, expected at least one", n,
                       dims);
    if (dtype != KD_F32 && dtype != KD_I8)
        return kd_fail(err, KD_EUSAGE, "an index of %s, expected f32 or i8", kd_dtype_name(dtype));
    kd_index *x = calloc(1, sizeof(*x));
    if (!x) return kd_fail(err, KD_ENOMEM, "out of memory");
    x->n = n;
    x->dims = dims;
    kd_status st = fill(x, rows, dtype, err);
    if (st)
        kd_index_free(x);
    else
        *out = x;
    return st;
}

void kd_index_free(kd_index *x)
{
    if (!x) return;
    free(x->rows);
    free(x->codes);
    free(x->scale);
    free(x);
}

size_t kd_index_docs(const kd_index *x) { return x->n; }
size_t kd_index_bytes(const kd_index *x)
{
    return x->n * (x->rows ? x->dims * sizeof(float) : x->dims + sizeof(float));
}

float kd_index_score(const kd_index *x, const float *query, uint32_t doc)
{
    double sum = 0;
    for (size_t k = 0; k < x->dims; k++)
        sum += (double)query[k] *
               (x->rows ? x->rows[doc * x->dims + k] : x->scale[doc] * x->codes[doc * x->dims + k]);
    return (float)sum;
}

/* ---- lists of hits ------------------------------------------------------------------------ */

static bool before(kd_hit a, kd_hit b) { return a.score > b.score || (a.score == b.score && a.doc < b.doc); }

static void offer(kd_hit *hits, size_t k, kd_hit hit)
{
    size_t at = k - 1;
    if (!before(hit, hits[at])) return;
    for (; at && before(hit, hits[at - 1]); at--) hits[at] = hits[at - 1];
    hits[at] = hit;
}

static void clear(kd_hit *hits, size_t n)
{
    for (size_t i = 0; i < n; i++) hits[i] = (kd_hit){KD_NO_HIT, -INFINITY};
}

/* ---- products ----------------------------------------------------------------------------- */

typedef struct product {
    kd_beside *tile; /* up to QUERIES beside DOCS */
    kd_hit *hits;    /* (queries, k) of this thread's documents */
} product;

static kd_status product_open(product *m, size_t dims, size_t queries, size_t k, kd_err *err)
{
    size_t n;
    if (!kd_mul_size(queries, k * sizeof(kd_hit), &n) || !(m->hits = malloc(n)))
        return kd_fail(err, KD_ENOMEM, "no memory to search for %zu queries", queries);
    clear(m->hits, queries * k);
    return kd_beside_create(&m->tile, kd_min_size(queries, QUERIES), DOCS, dims, err);
}

static void product_close(product *m)
{
    kd_beside_free(m->tile);
    free(m->hits);
}

/* All queries beside DOCS documents from `first` on. */
static void ask(product *m, const kd_index *x, const float *queries, size_t nq, size_t k, size_t first)
{
    const size_t docs = kd_min_size(DOCS, x->n - first);
    float *base = kd_beside_base(m->tile, docs);
    for (size_t i = 0; i < docs; i++) decode(x, first + i, base + i * x->dims);
    for (size_t q = 0; q < nq; q += QUERIES) {
        const size_t n = kd_min_size(QUERIES, nq - q);
        const float *value = kd_beside_run(m->tile, queries + q * x->dims, n); // (n, DOCS)
        for (size_t i = 0; i < n; i++) {
            kd_hit *hits = m->hits + (q + i) * k;
            for (size_t d = 0; d < docs; d++)
                if (value[i * DOCS + d] >= hits[k - 1].score)
                    offer(hits, k, (kd_hit){(uint32_t)(first + d), value[i * DOCS + d]});
        }
    }
}

kd_status kd_index_search(const kd_index *x, const float *queries, size_t nq, size_t k, int threads,
                          kd_hit *hits, kd_err *err)
{
    if (!k || k > KD_HITS) return kd_fail(err, KD_EUSAGE, "%zu hits asked for, expected 1 to %d", k, KD_HITS);
    if (!nq) return KD_OK;
    product *m = calloc((size_t)threads, sizeof(*m));
    kd_status st = m ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    atomic_size_t next = 0;
    for (int t = 0; t < threads && !st; t++) st = product_open(&m[t], x->dims, nq, k, err);
    if (!st) {
#pragma omp parallel num_threads(threads) if (threads > 1)
        for (size_t first; (first = atomic_fetch_add(&next, DOCS)) < x->n;)
            ask(&m[omp_get_thread_num()], x, queries, nq, k, first);
        clear(hits, nq * k);
        for (int t = 0; t < threads; t++)
            for (size_t i = 0; i < nq * k; i++)
                if (m[t].hits[i].doc != KD_NO_HIT) offer(hits + i / k * k, k, m[t].hits[i]);
    }
    for (int t = 0; m && t < threads; t++) product_close(&m[t]);
    free(m);
    return st;
}
