/* neighbours.c - the nearest rows of each row, by comparing all with all.
 *
 * Inner products of all pairs are one large matrix product, and that is what oneDNN is good at: 70,000 rows
 * of 64 numbers are 600 GFLOP, a few seconds. So there is no index whose recall would have to be proven. The
 * product is made in tiles by a graph of one linear layer, whose weights are the rows to be found and whose
 * batch is the rows that ask; behind each tile every row takes what beats the worst of its best. A thread has
 * a graph of its own and takes blocks of rows that ask until none is left, so threads never wait for each
 * other. A row's best are in a total order, so neither tiles nor threads change them.
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

typedef struct product {
    kd_graph *graph;
    kd_exec *exec;
    kd_node in, out;
    float *weight; /* (BASE, dims) */
} product;

static kd_status product_open(product *m, size_t dims, kd_err *err)
{
    const kd_param *list;
    kd_exec_params p = {.batch = QUERIES, .threads = 1};
    *m = (product){.graph = kd_graph_create()};
    if (!m->graph) return kd_fail(err, KD_ENOMEM, "out of memory");
    m->in = kd_nn_input(m->graph, "query", 1, (int64_t[]){(int64_t)dims});
    m->out = kd_nn_linear(m->graph, "base", m->in, BASE, false);
    kd_graph_output(m->graph, m->out);
    kd_status st = kd_graph_finish(m->graph, err);
    if (st || (st = kd_exec_create(&m->exec, m->graph, &p, err))) return st;
    kd_graph_params(m->graph, &list);
    m->weight = kd_graph_param_data(m->graph, &list[0]);
    return KD_OK;
}

static void product_close(product *m)
{
    kd_exec_free(m->exec);
    kd_graph_free(m->graph);
}

/* Copies rows [first, first + room) of x, zeros behind the last. */
static size_t load(float *to, const float *x, size_t first, size_t room, size_t n, size_t dims)
{
    const size_t rows = kd_min_size(room, n - first);
    memcpy(to, x + first * dims, rows * dims * sizeof(float));
    memset(to + rows * dims, 0, (room - rows) * dims * sizeof(float));
    return rows;
}

/* One block of rows that ask, from `first` on, beside all others. */
static void ask(kd__near *out, product *m, const float *query, const float *base, size_t first, size_t n,
                size_t dims, float floor)
{
    const size_t nq = load(kd_exec_input(m->exec, m->in), query, first, QUERIES, n, dims);
    for (size_t b = 0; b < n; b += BASE) {
        const size_t nb = load(m->weight, base, b, BASE, n, dims);
        kd_exec_run_forward(m->exec);
        const float *value = kd_exec_value(m->exec, m->out); // (QUERIES, BASE)
        for (size_t i = 0; i < nq; i++)
            scan(&out[first + i], value + i * BASE, nb, (uint32_t)b, (uint32_t)(first + i), floor);
    }
}

kd_status kd__nearest(kd__near *out, const float *query, const float *base, size_t n, size_t dims,
                      float floor, const kd_pair_params *p, uint64_t done, uint64_t total, kd_err *err)
{
    const int threads = p->threads;
    product *m = calloc((size_t)threads, sizeof(*m));
    kd_status st = m ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    atomic_size_t next = 0;
    for (int t = 0; t < threads && !st; t++) st = product_open(&m[t], dims, err);
    if (!st) {
#pragma omp parallel num_threads(threads) if (threads > 1)
        for (size_t q; (q = atomic_fetch_add(&next, QUERIES)) < n && !(p->stop && *p->stop);) {
            const int t = omp_get_thread_num();
            ask(out, &m[t], query, base, q, n, dims, floor);
            if (!t && p->progress) p->progress(p->arg, done + kd_min_size(q + QUERIES, n), total);
        }
    }
    for (int t = 0; m && t < threads; t++) product_close(&m[t]);
    free(m);
    return !st && p->stop && *p->stop ? kd_fail(err, KD_ESTOPPED, "stopped") : st;
}
