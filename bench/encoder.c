/* encoder.c - tokens/s of an encoder from a model folder: forward passes as in a dump, or training steps.
 *
 * `kd_bench encoder FOLDER DATA forward|train` reads batches of tokenised texts that encoder.py wrote and
 * serves "go SECONDS" lines from stdin, one JSON line each. A training step is what peers/encoder.py does:
 * forward, mean squared difference to given vectors, backward, AdamW over all parameters. The ready line has
 * what tells whether two programs do the same work: losses of the first steps, or numbers of the first texts.
 *
 * DATA: int32 batches, texts of each, numbers of a target; int32 tokens of each text; int32 ids; f32 targets.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "kd/model.h"

enum { FIRST_STEPS = 4, FIRST_NUMBERS = 64, BATCHES_MAX = 4096 };

typedef struct batch {
    const int32_t *ids;
    const float *target;
    uint64_t *offset; /* (texts + 1) */
} batch;

typedef struct bench_encoder {
    kd_model *model;
    kd_exec *exec;
    char *file;
    batch *batch;
    int64_t batches, texts, longest; /* longest: tokens of a batch at most */
    double tokens, flops;            /* of all batches; flops: forward */
    float *m, *v;
    int64_t steps; /* done so far */
    bool train;
    int threads;
} encoder;

/* ---- batches --------------------------------------------------------------------------------- */

/* Products of the layers and of attention, which sees as many tokens as its text has. */
static void count_work(encoder *e, uint64_t tokens)
{
    const kd_model_spec *s = &e->model->spec;
    e->tokens += (double)tokens;
    e->flops += 2 * kd_graph_macs(e->model->graph) * (double)tokens +
                4.0 * (double)tokens * (double)tokens * (double)(s->width * s->layers);
}

static kd_status lay_out(encoder *e, const int32_t *data, size_t numbers, size_t dims, kd_err *err)
{
    const size_t texts = (size_t)e->texts, all = (size_t)e->batches * texts;
    const int32_t *length = data + 3, *ids = length + all;
    size_t ids_total = 0;
    for (size_t i = 0; i < all; i++) ids_total += (size_t)length[i];
    if (numbers != 3 + all + ids_total + all * dims)
        return kd_fail(err, KD_ECORRUPT, "the data are not as long as their head says");
    const float *target = (const float *)(ids + ids_total);
    e->batch = calloc((size_t)e->batches, sizeof *e->batch);
    if (!e->batch) return kd_fail(err, KD_ENOMEM, "no memory for batches");
    for (size_t b = 0; b < (size_t)e->batches; b++, target += texts * dims) {
        batch *x = &e->batch[b];
        *x = (batch){.ids = ids, .target = target, .offset = calloc(texts + 1, sizeof *x->offset)};
        if (!x->offset) return kd_fail(err, KD_ENOMEM, "no memory for batches");
        for (size_t i = 0; i < texts; i++, length++) {
            x->offset[i + 1] = x->offset[i] + (uint64_t)*length;
            count_work(e, (uint64_t)*length);
        }
        ids += x->offset[texts];
        if ((int64_t)x->offset[texts] > e->longest) e->longest = (int64_t)x->offset[texts];
    }
    return KD_OK;
}

static kd_status read_batches(encoder *e, const char *path, kd_err *err)
{
    const size_t dims = kd_graph_node_size(e->model->graph, e->model->logits);
    size_t len;
    kd_status st = kd_file_read(path, (size_t)1 << 30, &e->file, &len, err);
    if (st) return st;
    const int32_t *data = (const int32_t *)(void *)e->file;
    if (len < 3 * sizeof *data || data[0] < 1 || data[0] > BATCHES_MAX || data[1] < 1 ||
        (size_t)data[2] != dims || len / sizeof *data < 3 + (size_t)data[0] * (size_t)data[1])
        return kd_fail(err, KD_ECORRUPT, "%s: no batches of texts with %zu numbers each", path, dims);
    e->batches = data[0];
    e->texts = data[1];
    return lay_out(e, data, len / sizeof *data, dims, err);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static kd_status make_exec(encoder *e, kd_precision precision, kd_err *err)
{
    size_t floats;
    const kd_exec_params p = {.batch = e->longest,
                              .sequences = e->texts,
                              .threads = e->threads,
                              .precision = precision,
                              .training = e->train,
                              .fixed = !e->train};
    kd_status st = kd_exec_create(&e->exec, e->model->graph, &p, err);
    if (st || !e->train) return st;
    kd_graph_slab(e->model->graph, &floats);
    e->m = kd_alloc_aligned(floats, sizeof *e->m);
    e->v = kd_alloc_aligned(floats, sizeof *e->v);
    return e->m && e->v ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for moments");
}

static double loss_of(const encoder *e, const batch *x, size_t n)
{
    const float *y = kd_exec_value(e->exec, e->model->logits);
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += ((double)y[i] - x->target[i]) * ((double)y[i] - x->target[i]);
    return sum / (double)n;
}

static void train_step(encoder *e, const batch *x, double *loss)
{
    const kd_adamw opt = {
        .lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .step = e->steps + 1, .grad_scale = 1};
    const size_t n = (size_t)e->texts * kd_graph_node_size(e->model->graph, e->model->logits);
    size_t floats;
    float *slab = kd_graph_slab(e->model->graph, &floats), *dy = kd_exec_grad(e->exec, e->model->logits);
#pragma omp parallel num_threads(e->threads)
    {
        kd_cpu_flush_denormals();
        kd_exec_forward(e->exec);
        const float *y = kd_exec_value(e->exec, e->model->logits);
#pragma omp for schedule(static)
        for (size_t i = 0; i < n; i++) dy[i] = 2 * (y[i] - x->target[i]) / (float)n;
        kd_exec_backward(e->exec);
        kd_nn_adamw(slab, e->m, e->v, kd_exec_grads(e->exec), floats, &opt);
    }
    if (loss) *loss = loss_of(e, x, n);
}

static kd_status step(encoder *e, double *loss, kd_err *err)
{
    const batch *x = &e->batch[e->steps % e->batches];
    kd_status st = kd_model_feed_tokens(e->model, e->exec, x->ids, KD_I32, x->offset, e->texts, err);
    if (st) return st;
    if (e->train)
        train_step(e, x, loss);
    else
        kd_exec_run_forward(e->exec);
    e->steps++;
    return KD_OK;
}

/* Losses of the first steps, or numbers of the first batch's vectors. */
static kd_status first(encoder *e, json_t *out, kd_err *err)
{
    double loss = 0;
    for (int i = 0; i < (e->train ? FIRST_STEPS : 1); i++) {
        kd_status st = step(e, &loss, err);
        if (st) return st;
        if (e->train) json_array_append_new(out, json_real(loss));
    }
    const float *y = kd_exec_value(e->exec, e->model->logits);
    for (int i = 0; !e->train && i < FIRST_NUMBERS; i++) json_array_append_new(out, json_real((double)y[i]));
    return KD_OK;
}

static kd_status serve(encoder *e, kd_precision precision, kd_err *err)
{
    char line[64];
    double seconds;
    json_t *seen = json_array();
    kd_status st = first(e, seen, err);
    if (st) {
        json_decref(seen);
        return st;
    }
    bench_print(json_pack("{s:s, s:o, s:f, s:f, s:s, s:s, s:I}", "ready", e->model->name, "first", seen,
                          "tokens", e->tokens, "flops", e->flops * (e->train ? 3 : 1), "products",
                          kd_nn_products(precision), "build", kd_build_info(), "planned_bytes",
                          (json_int_t)kd_exec_bytes(e->exec)));
    while (!st && fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "go %lf", &seconds) != 1) continue;
        const double start = kd_now(), cpu = kd_cpu_seconds();
        int64_t passes = 0; // over all batches
        for (; !st && (!passes || kd_now() - start < seconds); passes++)
            for (int64_t i = 0; i < e->batches && !st; i++) st = step(e, NULL, err);
        const double took = kd_now() - start;
        bench_print(json_pack("{s:f, s:f, s:f, s:I}", "seconds", took, "cpu_s", kd_cpu_seconds() - cpu,
                              "tokens_s", (double)passes * e->tokens / took, "peak_rss",
                              (json_int_t)kd_peak_rss()));
    }
    return st;
}

kd_status bench_encoder(const bench_encoder_params *p, kd_err *err)
{
    encoder e = {.threads = p->threads, .train = p->train};
    kd_status st = kd_model_load(&e.model, p->folder, err);
    if (!st && !kd_model_reads_tokens(e.model)) st = kd_fail(err, KD_EUSAGE, "%s: no encoder", p->folder);
    if (!st) st = read_batches(&e, p->data, err);
    if (!st) st = make_exec(&e, p->precision, err);
    if (!st) st = serve(&e, p->precision, err);
    kd_exec_free(e.exec);
    kd_model_free(e.model);
    for (int64_t i = 0; e.batch && i < e.batches; i++) free(e.batch[i].offset);
    free(e.batch);
    free(e.file);
    free(e.m);
    free(e.v);
    return st;
}
