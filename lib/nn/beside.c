/* beside.c - all of some vectors beside all of others: inner products, a tile at a time.
 *
 * A tile is one linear layer whose weights are the base and whose batch is the queries; what its library
 * does for layers it does for searches. A tile belongs to one thread.
 */
#include "kd/nn.h"

#include <stdlib.h>
#include <string.h>

struct kd_beside {
    kd_graph *graph;
    kd_exec *exec;
    kd_node in, out;
    float *weight; /* (base, dims) */
    size_t queries, base, dims;
};

kd_status kd_beside_create(kd_beside **out, size_t queries, size_t base, size_t dims, kd_err *err)
{
    const kd_param *list;
    const kd_exec_params p = {.batch = (int64_t)queries, .threads = 1};
    kd_beside *b = calloc(1, sizeof *b);
    *out = NULL;
    if (!b || !(b->graph = kd_graph_create())) {
        free(b);
        return kd_fail(err, KD_ENOMEM, "out of memory");
    }
    b->queries = queries, b->base = base, b->dims = dims;
    b->in = kd_nn_input(b->graph, "query", 1, (int64_t[]){(int64_t)dims});
    b->out = kd_nn_linear(b->graph, "base", b->in, (int64_t)base, false);
    kd_graph_output(b->graph, b->out);
    kd_status st = kd_graph_finish(b->graph, err);
    if (!st) st = kd_exec_create(&b->exec, b->graph, &p, err);
    if (st) {
        kd_beside_free(b);
        return st;
    }
    kd_graph_params(b->graph, &list);
    b->weight = kd_graph_param_data(b->graph, &list[0]);
    *out = b;
    return KD_OK;
}

void kd_beside_free(kd_beside *b)
{
    if (!b) return;
    kd_exec_free(b->exec);
    kd_graph_free(b->graph);
    free(b);
}

float *kd_beside_base(kd_beside *b, size_t n)
{
    memset(b->weight + n * b->dims, 0, (b->base - n) * b->dims * sizeof(float));
    return b->weight;
}

const float *kd_beside_run(kd_beside *b, const float *queries, size_t n)
{
    float *x = kd_exec_input(b->exec, b->in);
    memcpy(x, queries, n * b->dims * sizeof(float));
    memset(x + n * b->dims, 0, (b->queries - n) * b->dims * sizeof(float));
    kd_exec_run_forward(b->exec);
    return kd_exec_value(b->exec, b->out);
}
