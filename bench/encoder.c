/* encoder.c - tokens/s of an encoder from a model folder: forward passes as in a dump, and training steps.
 *
 * `kd_bench encoder FOLDER TEXTS TOKENS` makes a batch of TEXTS texts of TOKENS random ids each and serves
 * lines "go forward SECONDS" and "go train SECONDS" from stdin, one JSON line each. A training step is what
 * peers/encoder.py does: forward, mean squared difference to random vectors, backward, AdamW over all
 * parameters.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "kd/model.h"

typedef struct bench_encoder {
    kd_model *model;
    kd_exec *forward, *train;
    int32_t *ids;
    uint64_t *offset;
    int64_t texts, tokens;
    float *target, *m, *v;
    int64_t step;
    int threads;
} encoder;

static kd_status make_batch(encoder *e, kd_err *err)
{
    const size_t n = (size_t)(e->texts * e->tokens),
                 out = kd_graph_node_size(e->model->graph, e->model->logits);
    kd_rng r;
    e->ids = kd_alloc_aligned(n, sizeof *e->ids);
    e->offset = kd_alloc_aligned((size_t)e->texts + 1, sizeof *e->offset);
    e->target = kd_alloc_aligned((size_t)e->texts * out, sizeof *e->target);
    if (!e->ids || !e->offset || !e->target) return kd_fail(err, KD_ENOMEM, "no memory for a batch");
    kd_rng_init(&r, 1, KD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n; i++)
        e->ids[i] = (int32_t)(kd_rng_uniform(&r) * (float)(e->model->spec.vocab - 1));
    for (int64_t i = 0; i <= e->texts; i++) e->offset[i] = (uint64_t)(i * e->tokens);
    for (size_t i = 0; i < (size_t)e->texts * out; i++) e->target[i] = kd_rng_normal(&r);
    return KD_OK;
}

static kd_status make_execs(encoder *e, kd_precision precision, kd_err *err)
{
    size_t floats;
    kd_exec_params p = {.batch = e->texts * e->tokens,
                        .sequences = e->texts,
                        .threads = e->threads,
                        .precision = precision,
                        .fixed = true};
    kd_status st = kd_exec_create(&e->forward, e->model->graph, &p, err);
    p.fixed = false;
    p.training = true;
    if (!st) st = kd_exec_create(&e->train, e->model->graph, &p, err);
    kd_graph_slab(e->model->graph, &floats);
    e->m = kd_alloc_aligned(floats, sizeof *e->m);
    e->v = kd_alloc_aligned(floats, sizeof *e->v);
    if (!st && (!e->m || !e->v)) st = kd_fail(err, KD_ENOMEM, "no memory for moments");
    if (!st) st = kd_model_feed_tokens(e->model, e->forward, e->ids, KD_I32, e->offset, e->texts, err);
    return st ? st : kd_model_feed_tokens(e->model, e->train, e->ids, KD_I32, e->offset, e->texts, err);
}

static void train_step(encoder *e)
{
    const kd_adamw opt = {
        .lr = 1e-5f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .step = ++e->step, .grad_scale = 1};
    const size_t n = (size_t)e->texts * kd_graph_node_size(e->model->graph, e->model->logits);
    size_t floats;
    float *slab = kd_graph_slab(e->model->graph, &floats), *dy = kd_exec_grad(e->train, e->model->logits);
#pragma omp parallel num_threads(e->threads)
    {
        kd_cpu_flush_denormals();
        kd_exec_forward(e->train);
        const float *y = kd_exec_value(e->train, e->model->logits);
#pragma omp for schedule(static)
        for (size_t i = 0; i < n; i++) dy[i] = 2 * (y[i] - e->target[i]) / (float)n;
        kd_exec_backward(e->train);
        kd_nn_adamw(slab, e->m, e->v, kd_exec_grads(e->train), floats, &opt);
    }
}

static void serve(encoder *e)
{
    char line[64], what[16];
    double seconds;
    bench_print(json_pack("{s:s, s:I, s:I, s:s}", "ready", e->model->name, "texts", (json_int_t)e->texts,
                          "tokens", (json_int_t)e->tokens, "build", kd_build_info()));
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "go %15s %lf", what, &seconds) != 2) continue;
        const bool train = !strcmp(what, "train");
        const double start = kd_now(), cpu = kd_cpu_seconds();
        int64_t steps = 0;
        for (; !steps || kd_now() - start < seconds; steps++)
            if (train)
                train_step(e);
            else
                kd_exec_run_forward(e->forward);
        const double took = kd_now() - start;
        bench_print(json_pack("{s:s, s:I, s:f, s:f, s:f}", "what", what, "steps", (json_int_t)steps,
                              "seconds", took, "cpu_s", kd_cpu_seconds() - cpu, "tokens_per_s",
                              (double)(steps * e->texts * e->tokens) / took));
    }
}

kd_status bench_encoder(const char *folder, int64_t texts, int64_t tokens, kd_precision precision,
                        int threads, kd_err *err)
{
    encoder e = {.texts = texts, .tokens = tokens, .threads = threads};
    kd_status st = kd_model_load(&e.model, folder, err);
    if (!st && !kd_model_reads_tokens(e.model)) st = kd_fail(err, KD_EUSAGE, "%s: no encoder", folder);
    if (!st) st = make_batch(&e, err);
    if (!st) st = make_execs(&e, precision, err);
    if (!st) serve(&e);
    kd_exec_free(e.forward);
    kd_exec_free(e.train);
    kd_model_free(e.model);
    free(e.ids);
    free(e.offset);
    free(e.target);
    free(e.m);
    free(e.v);
    return st;
}
