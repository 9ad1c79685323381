/* neighbours.c - the nearest rows of each row, by comparing all with all.
 *
 * Inner products of all pairs are one large matrix product, and that is what oneDNN is good at: 70,000 rows
 * of 64 numbers are 600 GFLOP, a few seconds. So there is no index whose recall would have to be proven. The
 * product is made in tiles (kd_beside); behind each every row takes what beats the worst of its best. A
 * thread has a tile of its own and takes blocks of rows that ask until none is left, so threads never wait
 * for each other. A row's best are in a total order, so neither tiles nor threads change them.
 */
#include "audit_private.h"

#include "kd/nn.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define QUERIES 256
#define BASE    1024
#define STRIDE  64 /* products that are looked at together */

static void offer(kd__near *near, uint32_t row, float value)
{
    uint32_t at = near->n < KD__NEAREST ? near->n++ : KD__NEAREST - 1;
    for (; at && near->value[at - 1] < value; at--) {
        near->value[at] = near->value[at - 1];
        near->row[at] = near->row[at - 1];
    }
    near->value[at] = value;
    near->row[at] = row;
}

/* One row of a tile: products with base rows from `first` on. */
static void scan(kd__near *near, const float *product, size_t n, uint32_t first, uint32_t self, float floor)
{
    for (size_t from = 0; from < n; from += STRIDE) {
        const size_t to = kd_min_size(from + STRIDE, n);
        float worst = near->n < KD__NEAREST ? floor : near->value[KD__NEAREST - 1];
        int any = 0;
        for (size_t i = from; i < to; i++) any |= product[i] >= worst;
        for (size_t i = from; any && i < to; i++) {
            const uint32_t row = first + (uint32_t)i;
            const bool full = near->n == KD__NEAREST;
            if (row == self || product[i] < floor || (full && product[i] <= near->value[KD__NEAREST - 1]))
                continue;
            offer(near, row, product[i]); // rows come in rising order: the first of equals stays before
        }
    }
}

/* One block of rows that ask, from `first` on, beside all others. */
static void ask(kd__near *out, kd_beside *tile, const float *query, const float *base, size_t first, size_t n,
                size_t dims, float floor)
{
    const size_t nq = kd_min_size(QUERIES, n - first);
    for (size_t b = 0; b < n; b += BASE) {
        const size_t nb = kd_min_size(BASE, n - b);
        memcpy(kd_beside_base(tile, nb), base + b * dims, nb * dims * sizeof(float));
        const float *value = kd_beside_run(tile, query + first * dims, nq); // (nq, BASE)
        for (size_t i = 0; i < nq; i++)
            scan(&out[first + i], value + i * BASE, nb, (uint32_t)b, (uint32_t)(first + i), floor);
    }
}

kd_status kd__nearest(kd__near *out, const float *query, const float *base, size_t n, size_t dims,
                      float floor, const kd_pair_params *p, uint64_t done, uint64_t total, kd_err *err)
{
    const int threads = p->threads;
    kd_beside **tile = calloc((size_t)threads, sizeof(*tile));
    kd_status st = tile ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    atomic_size_t next = 0;
    for (int t = 0; t < threads && !st; t++) st = kd_beside_create(&tile[t], QUERIES, BASE, dims, err);
    if (!st) {
#pragma omp parallel num_threads(threads) if (threads > 1)
        for (size_t q; (q = atomic_fetch_add(&next, QUERIES)) < n && !(p->stop && *p->stop);) {
            const int t = omp_get_thread_num();
            ask(out, tile[t], query, base, q, n, dims, floor);
            if (!t && p->progress) p->progress(p->arg, done + kd_min_size(q + QUERIES, n), total);
        }
    }
    for (int t = 0; tile && t < threads; t++) kd_beside_free(tile[t]);
    free(tile);
    return !st && p->stop && *p->stop ? kd_fail(err, KD_ESTOPPED, "stopped") : st;
}
