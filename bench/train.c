/* train.c - img/s of whole training steps through kd's public headers, everything in memory.
 *
 * One step is what the PyTorch peer (peers/torch_train.py) does: forward, 0.1 CE + 0.9 T^2 KL at
 * T = 4, backward, AdamW without weight decay over all parameters, gradients overwritten. A batch is read
 * where its rows lie, on both sides. The step is one parallel region, as
 * in training from a store; decoding is not part of it (level "compute only").
 *
 * With --data the initial weights and the batches come from the peer's file, and the losses of the
 * first steps are printed, so that the driver can show that both sides do the same work. The driver (run.py)
 * starts both programs, lets each warm up, and then makes them measure in turn: a line "go SECONDS" on
 * stdin is answered by one JSON line on stdout. A program that waits for its turn uses no CPU.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kd/loss.h"
#include "kd/model.h"
#include "bench.h"

#define CURVE_STEPS  50 /* losses compared with the peer's */
#define WARM_SECONDS 2.0
#define RANDOM_ROWS  4096
#define MODELS_LIMIT (1u << 20)

typedef struct bench_trainer {
    kd_model *model;
    kd_exec *exec;
    kd_loss *loss;
    kd_tensors *data; /* NULL: the arrays below are ours */
    float *own_x, *own_teacher;
    int32_t *own_labels;
    const float *x, *teacher; /* (rows, row_size), (rows, classes) */
    const int32_t *labels;    /* (rows) */
    int64_t rows, batch;
    size_t row_size;
    float *m, *v; /* AdamW's moments, as the parameter slab */
    int threads;
    int64_t step;
} bench_trainer;

static kd_status make_model(bench_trainer *t, const bench_train_params *p, kd_err *err)
{
    json_t *models = NULL;
    kd_status st = kd_json_load(p->models, MODELS_LIMIT, &models, err);
    if (st) return st;
    const json_t *spec = json_object_get(models, p->model);
    if (spec) {
        st = kd_model_create(&t->model, p->model, spec, p->models, err);
    } else {
        kd_buf names = {0};
        const char *key;
        json_t *value;
        json_object_foreach(models, key, value) kd_buf_printf(&names, " %s", key);
        st = kd_fail(err, KD_ENOTFOUND, "%s: no model %s; there are:%s", p->models, p->model,
                     names.text ? names.text : " none");
        kd_buf_release(&names);
    }
    json_decref(models);
    return st;
}

static kd_status random_rows(bench_trainer *t)
{
    int64_t classes = t->model->spec.classes;
    t->rows = (RANDOM_ROWS + t->batch - 1) / t->batch * t->batch;
    size_t nx = (size_t)t->rows * t->row_size, nt = (size_t)(t->rows * classes);
    t->own_x = kd_alloc_aligned(nx, sizeof(float));
    t->own_teacher = kd_alloc_aligned(nt, sizeof(float));
    t->own_labels = kd_alloc_aligned((size_t)t->rows, sizeof(int32_t));
    if (!t->own_x || !t->own_teacher || !t->own_labels) return KD_ENOMEM;
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < nx; i++) t->own_x[i] = kd_rng_normal(&r);
    for (size_t i = 0; i < nt; i++) t->own_teacher[i] = 3 * kd_rng_normal(&r);
    for (int64_t i = 0; i < t->rows; i++) t->own_labels[i] = (int32_t)kd_rng_below(&r, (uint64_t)classes);
    t->x = t->own_x, t->teacher = t->own_teacher, t->labels = t->own_labels;
    kd_graph_init(t->model->graph, 1);
    return KD_OK;
}

/* The tensor `name` of the data file, which must hold `bytes` bytes of the type. */
static const void *tensor(const bench_trainer *t, const char *path, const char *name, kd_dtype dtype,
                          size_t bytes, kd_err *err)
{
    const kd_tensor *x = kd_tensors_find(t->data, name);
    if (x && x->dtype == dtype && x->bytes == bytes) return x->data;
    if (!x)
        kd_fail(err, KD_EMISMATCH, "%s: no tensor %s", path, name);
    else
        kd_fail(err, KD_EMISMATCH, "%s: %s has %zu bytes of %s, the model needs %zu of %s", path, name,
                x->bytes, kd_dtype_name(x->dtype), bytes, kd_dtype_name(dtype));
    return NULL;
}

static kd_status rows_from_file(bench_trainer *t, const char *path, kd_err *err)
{
    kd_status st = kd_tensors_open(&t->data, path, err);
    if (st) return st;
    const kd_tensor *x = kd_tensors_find(t->data, "x");
    t->rows = x && x->ndims > 0 ? x->dims[0] / t->batch * t->batch : 0;
    if (t->rows == 0 || x->dims[0] != t->rows)
        return kd_fail(err, KD_EMISMATCH, "%s: the rows of x are no multiple of the batch of %lld", path,
                       (long long)t->batch);
    size_t rows = (size_t)t->rows, classes = (size_t)t->model->spec.classes;
    if (!(t->x = tensor(t, path, "x", KD_F32, rows * t->row_size * sizeof(float), err)) ||
        !(t->labels = tensor(t, path, "labels", KD_I32, rows * sizeof(int32_t), err)) ||
        !(t->teacher = tensor(t, path, "teacher", KD_F32, rows * classes * sizeof(float), err)))
        return KD_EMISMATCH;
    const kd_param *list;
    size_t n = kd_graph_params(t->model->graph, &list);
    for (size_t i = 0; i < n; i++) {
        char name[256];
        snprintf(name, sizeof name, "param.%s", list[i].name);
        const void *w = tensor(t, path, name, KD_F32, list[i].size * sizeof(float), err);
        if (!w) return KD_EMISMATCH;
        memcpy(kd_graph_param_data(t->model->graph, &list[i]), w, list[i].size * sizeof(float));
    }
    return KD_OK;
}

static void trainer_free(bench_trainer *t)
{
    kd_loss_free(t->loss);
    kd_exec_free(t->exec);
    kd_model_free(t->model);
    if (t->data) kd_tensors_close(t->data);
    free(t->own_x);
    free(t->own_teacher);
    free(t->own_labels);
    free(t->m);
    free(t->v);
}

static kd_status trainer_init(bench_trainer *t, const bench_train_params *p, kd_err *err)
{
    *t = (bench_trainer){.batch = p->batch, .threads = p->threads};
    kd_status st = make_model(t, p, err);
    if (st) return st;
    t->row_size = kd_graph_node_size(t->model->graph, t->model->input);
    st = p->data ? rows_from_file(t, p->data, err) : random_rows(t);
    if (st == KD_ENOMEM) return kd_fail(err, st, "train: no memory for the rows");
    if (st) return st;
    kd_exec_params ep = {.batch = t->batch,
                         .threads = t->threads,
                         .training = true,
                         .precision = p->precision};
    if ((st = kd_exec_create(&t->exec, t->model->graph, &ep, err))) return st;
    kd_loss_spec ls = {.ce = 0.1, .kd = 0.9, .temperature = 4, .t2 = true, .reduction = (char[]){"batch"}};
    kd_loss_shape shape = {.rows = t->batch, .classes = t->model->spec.classes, .threads = t->threads};
    if ((st = kd_loss_create(&t->loss, &ls, err)) || (st = kd_loss_plan(t->loss, &shape, err))) return st;
    size_t floats;
    kd_graph_slab(t->model->graph, &floats);
    t->m = kd_alloc_aligned(floats, sizeof(float));
    t->v = kd_alloc_aligned(floats, sizeof(float));
    if (!t->m || !t->v) return kd_fail(err, KD_ENOMEM, "train: no memory for the optimizer's moments");
    return KD_OK;
}

static void train_step(bench_trainer *t)
{
    int64_t first = t->step % (t->rows / t->batch) * t->batch;
    size_t floats;
    float *slab = kd_graph_slab(t->model->graph, &floats);
    kd_exec_borrow(t->exec, t->model->input, t->x + (size_t)first * t->row_size);
    t->step++;
    kd_adamw opt = {
        .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .step = t->step, .grad_scale = 1};
    kd_loss_batch b = {.rows = t->batch,
                       .classes = t->model->spec.classes,
                       .labels = t->labels + first,
                       .teacher = t->teacher + first * t->model->spec.classes,
                       .logits = kd_exec_value(t->exec, t->model->logits),
                       .dlogits = kd_exec_grad(t->exec, t->model->logits)};
#pragma omp parallel num_threads(t->threads)
    {
        kd_cpu_flush_denormals();
        kd_exec_forward(t->exec);
        kd_loss_run(t->loss, &b);
        kd_exec_backward(t->exec);
        kd_nn_adamw(slab, t->m, t->v, kd_exec_grads(t->exec), floats, &opt);
    }
}

/* Steps for about the given time; the JSON line of the result. */
static json_t *measure(bench_trainer *t, double seconds)
{
    double flops = kd_graph_train_flops(t->model->graph), cpu = kd_cpu_seconds(), start = kd_now(), wall;
    int64_t steps = 0;
    do {
        train_step(t);
        steps++;
    } while ((wall = kd_now() - start) < seconds);
    double rate = (double)(steps * t->batch) / wall;
    return json_pack("{s:f, s:f, s:I, s:f, s:f, s:f, s:I}", "img_s", rate, "gflops", rate * flops / 1e9,
                     "steps", (json_int_t)steps, "seconds", wall, "cpu_s", kd_cpu_seconds() - cpu, "loss",
                     kd_loss_value(t->loss), "peak_rss", (json_int_t)kd_peak_rss());
}

static kd_status serve(bench_trainer *t, kd_err *err)
{
    char line[256];
    while (fgets(line, sizeof line, stdin)) {
        double seconds;
        if (sscanf(line, "go %lf", &seconds) != 1 || !(seconds > 0 && seconds < 86400))
            return kd_fail(err, KD_EUSAGE, "train: expected a line \"go SECONDS\", found \"%.*s\"",
                           (int)strcspn(line, "\n"), line);
        json_t *result = measure(t, seconds);
        if (!isfinite(kd_loss_value(t->loss))) {
            json_decref(result);
            return kd_fail(err, KD_ENUMERIC, "train: the loss is not finite after %lld steps",
                           (long long)t->step);
        }
        bench_print(result);
    }
    return KD_OK;
}

kd_status bench_train(const bench_train_params *p, kd_err *err)
{
    bench_trainer t;
    kd_status st = trainer_init(&t, p, err);
    if (st) goto out;
    json_t *curve = json_array();
    for (int i = 0; i < CURVE_STEPS; i++) {
        train_step(&t);
        json_array_append_new(curve, json_real(kd_loss_value(t.loss)));
    }
    json_decref(measure(&t, WARM_SECONDS));
    bench_print(json_pack("{s:b, s:s, s:I, s:i, s:s, s:I, s:f, s:I, s:s, s:s, s:o}", "ready", 1, "model",
                          p->model, "batch", (json_int_t)t.batch, "threads", t.threads, "products",
                          kd_nn_products(p->precision), "params",
                          (json_int_t)kd_graph_param_count(t.model->graph), "flops_per_img",
                          kd_graph_train_flops(t.model->graph), "planned_bytes",
                          (json_int_t)kd_exec_bytes(t.exec), "backend", kd_nn_backend(), "build",
                          kd_build_info(), "losses", curve));
    st = serve(&t, err);
out:
    trainer_free(&t);
    return st;
}
