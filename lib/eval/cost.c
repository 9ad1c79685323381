/* lib/eval/cost.c - what using a model takes: bytes, multiply-adds, time.
 *
 * Memory is what was planned: a forward pass allocates nothing (lib/nn/exec_plan.c), so weights and the plan
 * for batch 1 are all there is beside the program. Latency is of one row on one thread, as a small device or
 * a server under load would run it; a forward pass takes the same whatever its input holds. A row of a model
 * that judges texts is one of 32 tokens.
 */
#include "eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 32 };

/* For one row. */
static kd_exec_params one_row(const kd_model *m)
{
    const bool text = kd_graph_node_per(m->graph, m->logits) == KD_PER_SEQUENCE;
    return (kd_exec_params){.batch = !text                        ? 1
                                     : m->spec.positions < TOKENS ? m->spec.positions
                                                                  : TOKENS,
                            .sequences = 1,
                            .threads = 1};
}

kd_status kd__cost_of(kd_cost *c, kd_model *m, const char *folder, kd_err *err)
{
    size_t slab, buffers;
    kd_exec *ex = NULL;
    const kd_exec_params ep = one_row(m);
    kd_status st = kd_exec_create(&ex, m->graph, &ep, err);
    if (st) return st;
    kd_graph_slab(m->graph, &slab);
    kd_graph_buffers(m->graph, &buffers);
    *c = (kd_cost){.params = kd_graph_param_count(m->graph),
                   .file_bytes = kd_model_file_bytes(folder),
                   .macs = kd_graph_macs(m->graph),
                   .memory_bytes = (slab + buffers) * sizeof(float) + kd_exec_bytes(ex),
                   .latency_us = NAN,
                   .latency_p99_us = NAN};
    kd_exec_free(ex);
    return KD_OK;
}

kd_status kd_cost_latency(kd_cost *c, kd_model *m, kd_err *err)
{
    enum { WARM = 50, RUNS = 500 };
    double us[RUNS];
    kd_exec *ex = NULL;
    const kd_exec_params ep = one_row(m);
    kd_status st = kd_exec_create(&ex, m->graph, &ep, err);
    if (!st && kd_model_reads_tokens(m)) {
        memset(kd_exec_tokens(ex, m->input), 0, (size_t)ep.batch * sizeof(int32_t));
        st = kd_exec_sequences(ex, (uint64_t[]){0, (uint64_t)ep.batch}, 1, err);
    }
    if (st) {
        kd_exec_free(ex);
        return st;
    }
    for (int i = -WARM; i < RUNS; i++) {
        const double t = kd_now();
        kd_exec_run_forward(ex);
        if (i >= 0) us[i] = (kd_now() - t) * 1e6;
    }
    kd_exec_free(ex);
    kd__sort_few(us, RUNS);
    c->latency_us = kd_quantile(us, RUNS, 0.5);
    c->latency_p99_us = kd_quantile(us, RUNS, 0.99);
    return KD_OK;
}

void kd__set_cost(json_t *o, const kd_exam *e, const kd_cost *c)
{
    json_object_set_new(o, "params", json_integer((json_int_t)c->params));
    json_object_set_new(o, "macs", json_real(c->macs));
    json_object_set_new(o, "file_bytes", json_integer((json_int_t)c->file_bytes));
    json_object_set_new(o, "memory_bytes", json_integer((json_int_t)c->memory_bytes));
    if (e->p.speed) {
        json_object_set_new(o, "latency_us", kd__real(c->latency_us));
        json_object_set_new(o, "latency_p99_us", kd__real(c->latency_p99_us));
    }
    json_object_set_new(o, "throughput_rows_s", kd__real(c->rows_s));
    json_object_set_new(o, "throughput_batch", json_integer(e->p.batch));
    json_object_set_new(o, "throughput_threads", json_integer(e->p.threads));
}
