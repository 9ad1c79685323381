/* language.c - tokens/s of training steps of a language model on sparse targets.
 *
 * `kd_bench language new FOLDER` writes a decoder of 8 layers, 576 wide, with 49,152 words, its weights
 * drawn. `kd_bench language train FOLDER DATA` serves "go SECONDS" lines from stdin as `encoder` does. A step
 * is what peers/language.py does: forward, KL to the kept probabilities of each position, backward, AdamW
 * over all parameters, by the parts that the trainer uses, and as it does it: some sequences at a time, whose
 * gradients add up.
 *
 * DATA: int32 sequences, tokens of each, kept classes of a position; int32 ids; int32 classes of each
 * position (each token but a sequence's first is one), rising; f32 their probabilities.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "kd/loss.h"
#include "kd/model.h"

enum { FIRST_STEPS = 4 };

typedef struct bench_language {
    kd_model *model;
    kd_exec *exec;
    kd_head *head;
    kd_loss *loss;
    char *file;
    int64_t sequences, tokens, kept;
    const int32_t *ids;
    uint64_t *cut, *offset;
    uint32_t *from, *id, row[KD_HEAD_ROWS];
    float *value, *m, *v;
    int64_t positions, steps, at_once; /* sequences */
    double sum;                        /* of the step's loss */
    int threads;
} language;

static kd_status make_model(const char *folder, kd_err *err)
{
    kd_model *m;
    json_t *spec = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b}", "arch", "llama", "vocab", 49152,
                             "positions", 2048, "layers", 8, "width", 576, "heads", 9, "kv_heads", 3, "ffn",
                             1536, "tied", 1);
    kd_status st = kd_model_create(&m, "language", spec, "bench", err);
    json_decref(spec);
    if (st) return st;
    kd_graph_init(m->graph, 1);
    st = kd_mkdirs(folder, err);
    if (!st) st = kd_model_save(m, folder, NULL, err);
    kd_model_free(m);
    return st;
}

static kd_status read_data(language *b, const char *path, kd_err *err)
{
    size_t len;
    kd_status st = kd_file_read(path, (size_t)1 << 30, &b->file, &len, err);
    if (st) return st;
    const int32_t *data = (const int32_t *)(void *)b->file;
    b->sequences = data[0], b->tokens = data[1], b->kept = data[2];
    b->positions = b->sequences * (b->tokens - 1);
    const size_t all = (size_t)(b->sequences * b->tokens), entries = (size_t)(b->positions * b->kept);
    if (len != (3 + all + 2 * entries) * sizeof *data)
        return kd_fail(err, KD_ECORRUPT, "%s: not as long as its head says", path);
    b->ids = data + 3;
    b->cut = calloc((size_t)b->sequences + 1, sizeof *b->cut);
    b->offset = calloc((size_t)b->positions + 1, sizeof *b->offset);
    b->from = calloc((size_t)b->positions, sizeof *b->from);
    b->value = calloc(entries, sizeof *b->value);
    if (!b->cut || !b->offset || !b->from || !b->value) return kd_fail(err, KD_ENOMEM, "out of memory");
    b->id = (uint32_t *)(uintptr_t)(b->ids + all);
    for (size_t i = 0; i < entries; i++) b->value[i] = logf(((const float *)(b->id + entries))[i]);
    for (int64_t i = 0; i <= b->sequences; i++) b->cut[i] = (uint64_t)(i * b->tokens);
    for (int64_t i = 0; i < b->positions; i++) {
        b->from[i] = (uint32_t)(i / (b->tokens - 1) * b->tokens + i % (b->tokens - 1));
        b->offset[i + 1] = (uint64_t)((i + 1) * b->kept);
    }
    return KD_OK;
}

static kd_status plan(language *b, kd_precision precision, kd_err *err)
{
    char *terms[] = {(char *)(uintptr_t) "name=sparse_kl,sparse=renorm"};
    const kd_loss_spec spec = {.terms = {.v = terms, .n = 1}};
    const kd_loss_shape shape = {.rows = KD_HEAD_ROWS,
                                 .classes = b->model->spec.vocab,
                                 .threads = b->threads};
    const kd_head_params h = {.head = b->model->logits,
                              .threads = b->threads,
                              .training = true,
                              .half = true,
                              .planned = true,
                              .precision = precision};
    size_t floats;
    const int64_t part = kd_graph_part(b->model->graph, precision);
    b->at_once = b->sequences;
    while (part && b->at_once > 1 && b->at_once * b->tokens > part) b->at_once = (b->at_once + 1) / 2;
    kd_exec_params e = {.batch = b->at_once * b->tokens,
                        .sequences = b->at_once,
                        .threads = b->threads,
                        .training = true,
                        .precision = precision,
                        .head = b->model->logits};
    kd_status st = kd_loss_create(&b->loss, &spec, err);
    if (st || (st = kd_loss_plan(b->loss, &shape, err)) ||
        (st = kd_head_create(&b->head, b->model->graph, &h, err)))
        return st;
    e.with = b->head;
    if ((st = kd_exec_create(&b->exec, b->model->graph, &e, err))) return st;
    kd_graph_slab(b->model->graph, &floats);
    b->m = kd_alloc_aligned(floats, sizeof *b->m);
    b->v = kd_alloc_aligned(floats, sizeof *b->v);
    return b->m && b->v ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for moments");
}

/* Positions from `first` up to `end`, of the exec's tokens, which begin with `token`. By the team. */
static void head(language *b, int64_t first, int64_t end, int64_t token)
{
    kd_head_begin(b->head, b->exec, end - first);
    const int64_t piece = kd_head_rows(b->head);
    for (int64_t at = first; at < end; at += piece) {
        const int64_t n = end - at < piece ? end - at : piece;
        const kd_loss_sparse s = {.offset = b->offset + at, .id = b->id, .value = b->value};
        const kd_loss_input in = {.sparse = &s};
#pragma omp single
        for (int64_t i = 0; i < n; i++) b->row[i] = b->from[at + i] - (uint32_t)token;
        const kd_loss_batch batch = {.rows = n,
                                     .classes = b->model->spec.vocab,
                                     .logits = kd_head_forward(b->head, b->row, n),
                                     .dlogits = kd_head_grad(b->head),
                                     .half = kd_head_half(b->head),
                                     .dhalf = kd_head_half(b->head),
                                     .inputs = &in,
                                     .of = b->positions};
        kd_loss_run(b->loss, &batch);
#pragma omp single
        b->sum += kd_loss_value(b->loss);
        kd_head_backward(b->head);
    }
}

/* n sequences from `first` on. By the team. */
static void some(language *b, int64_t first, int64_t n)
{
#pragma omp single
    {
        kd_exec_add(b->exec, first > 0);
        kd_model_feed_tokens(b->model, b->exec, b->ids + first * b->tokens, KD_I32, b->cut, n, NULL);
    }
    kd_exec_forward(b->exec);
    head(b, first * (b->tokens - 1), (first + n) * (b->tokens - 1), first * b->tokens);
    kd_exec_backward(b->exec);
}

static void step(language *b)
{
    const kd_adamw opt = {
        .lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .step = b->steps + 1, .grad_scale = 1};
    size_t floats;
    float *slab = kd_graph_slab(b->model->graph, &floats);
    b->sum = 0;
#pragma omp parallel num_threads(b->threads)
    {
        kd_cpu_flush_denormals();
        for (int64_t first = 0; first < b->sequences; first += b->at_once)
            some(b, first, b->at_once < b->sequences - first ? b->at_once : b->sequences - first);
        kd_nn_adamw(slab, b->m, b->v, kd_exec_grads(b->exec), floats, &opt);
    }
    b->steps++;
}

/* A step's FLOPs: products thrice, attention's as many as a token sees. */
static double flops_of(const language *b)
{
    const kd_model_spec *s = &b->model->spec;
    const double all = (double)(b->sequences * b->tokens), head = (double)(s->vocab * s->width);
    return 3 * (2 * (kd_graph_macs(b->model->graph) - head) * all + 2 * head * (double)b->positions +
                2.0 * all * (double)b->tokens * (double)(s->width * s->layers));
}

static void serve(language *b, kd_precision precision)
{
    char line[64];
    double seconds, tokens = (double)(b->sequences * b->tokens);
    json_t *seen = json_array();
    for (int i = 0; i < FIRST_STEPS; i++) {
        step(b);
        json_array_append_new(seen, json_real(b->sum));
    }
    bench_print(json_pack("{s:s, s:o, s:f, s:f, s:s, s:s, s:I}", "ready", b->model->name, "first", seen,
                          "tokens", tokens, "flops", flops_of(b), "products", kd_nn_products(precision),
                          "build", kd_build_info(), "planned_bytes",
                          (json_int_t)(kd_exec_bytes(b->exec) + kd_head_bytes(b->head))));
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "go %lf", &seconds) != 1) continue;
        const double start = kd_now(), cpu = kd_cpu_seconds();
        int64_t n = 0;
        for (; !n || kd_now() - start < seconds; n++) step(b);
        const double took = kd_now() - start;
        bench_print(json_pack("{s:f, s:f, s:f, s:I}", "seconds", took, "cpu_s", kd_cpu_seconds() - cpu,
                              "tokens_s", (double)n * tokens / took, "peak_rss", (json_int_t)kd_peak_rss()));
    }
}

kd_status bench_language(const bench_encoder_params *p, kd_err *err)
{
    language b = {.threads = p->threads};
    if (!p->data) return make_model(p->folder, err);
    kd_status st = kd_model_load(&b.model, p->folder, err);
    if (!st) st = read_data(&b, p->data, err);
    if (!st) st = plan(&b, p->precision, err);
    if (!st) serve(&b, p->precision);
    kd_head_free(b.head);
    kd_exec_free(b.exec);
    kd_loss_free(b.loss);
    kd_model_free(b.model);
    free(b.cut);
    free(b.offset);
    free(b.from);
    free(b.value);
    free(b.file);
    free(b.m);
    free(b.v);
    return st;
}
