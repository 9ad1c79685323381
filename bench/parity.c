/* parity.c - the first steps of a real run, and everything another program needs to repeat them.
 *
 * The trainer of kd-train runs a student over a store and is stopped after so many steps; the loss of each
 * step follows from the epoch's running mean that it reports. Into a folder go the student's initial weights
 * as a model and the batches in their order, drawn once more from the same loader by the same seed. The peer
 * (peers/torch_parity.py) trains from those files and must come to the same curve.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kd/train.h"
#include "bench.h"

#define SEED 7

typedef struct curve {
    json_t *losses;
    double sum;
    uint64_t rows;
    size_t steps;
    volatile int stop;
} curve;

static void on_step(void *arg, const kd_train_progress *p)
{
    curve *c = arg;
    double sum = p->loss * (double)p->rows; // p->loss: mean over the rows of this epoch, which is the first
    json_array_append_new(c->losses, json_real((sum - c->sum) / (double)(p->rows - c->rows)));
    c->sum = sum;
    c->rows = p->rows;
    c->stop = json_array_size(c->losses) >= c->steps;
}

static kd_status run_trainer(kd_store *s, const kd_student_spec *spec, const char *folder, curve *c,
                             json_t **config, kd_err *err)
{
    kd_trainer *t = NULL;
    kd_trainer_params p = kd_trainer_default_params();
    bool skipped;
    char *out = kd_path_join(folder, "run");
    p.threads = 2;
    p.force = true;
    kd_status st = out ? kd_trainer_create(&t, s, &p, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && !(st = kd_trainer_add(t, spec, SEED, "distilled", out, &skipped, err)) &&
        !(st = kd_trainer_plan(t, err))) {
        *config = kd_trainer_config(t, 0);
        kd_err stopped = {0};
        st = kd_trainer_run(t, &c->stop, on_step, c, &stopped);
        if (st != KD_ESTOPPED)
            st = kd_fail(err, st ? st : KD_EUSAGE, "parity: the run ended before step %zu: %s", c->steps,
                         st ? stopped.msg : "too few rows");
        else
            st = KD_OK;
    }
    kd_trainer_free(t);
    free(out);
    return st;
}

/* Initial weights as a model folder. */
static kd_status save_start(kd_model *m, const char *folder, kd_err *err)
{
    kd_graph_init(m->graph, SEED);
    return kd_model_save(m, folder, NULL, err);
}

typedef struct rows {
    float *x, *teacher; // (steps * batch, row), (steps * batch, classes)
    int32_t *labels;    // (steps * batch)
} rows;

/* The first batches of epoch 0 as the trainer's students get them. */
static kd_status draw(rows *r, kd_store *s, kd_model *m, uint32_t batch, size_t steps, kd_err *err)
{
    int columns[3] = {kd_store_find_role(s, KD_ROLE_INPUT, NULL), kd_store_find_role(s, KD_ROLE_LABEL, NULL),
                      kd_store_find_role(s, KD_ROLE_LOGITS, NULL)};
    size_t row = kd_graph_node_size(m->graph, m->input), classes = (size_t)m->spec.classes;
    kd_loader_params p = kd_loader_default_params();
    kd_loader *l = NULL;
    kd_stream *stream;
    p.split = KD_TRAIN;
    p.shuffle = true;
    kd_status st = kd_loader_open(&l, s, columns, 3, &p, err);
    if (st || (st = kd_stream_open(&stream, l, SEED, batch, true, err)) || (st = kd_loader_epoch(l, 0, err)))
        goto out;
    const kd_column *x = kd_store_column(s, (size_t)columns[0]), *y = kd_store_column(s, (size_t)columns[1]),
                    *z = kd_store_column(s, (size_t)columns[2]);
    m->mean = (float)json_number_value(json_object_get(x->params, "mean"));
    m->scale = (float)json_number_value(json_object_get(x->params, "scale"));
    if (y->dtype != KD_U8 && y->dtype != KD_I32) {
        st = kd_fail(err, KD_EUNSUPPORTED, "parity: labels are %s, expected u8 or i32",
                     kd_dtype_name(y->dtype));
        goto out;
    }
    for (size_t i = 0; i < steps && !st; i++) {
        kd_batch b;
        size_t first = i * batch;
        if ((st = kd_stream_next(stream, &b, err)) ||
            (st = kd_model_feed(m, r->x + first * row, b.column[0], x->dtype, batch, err)))
            break;
        for (uint32_t k = 0; k < batch; k++)
            r->labels[first + k] =
                y->dtype == KD_U8 ? ((const uint8_t *)b.column[1])[k] : ((const int32_t *)b.column[1])[k];
        st = kd_to_f32(r->teacher + first * classes, b.column[2], z->dtype, batch * classes);
    }
out:
    kd_loader_close(l);
    return st;
}

static kd_status save_batches(kd_store *s, kd_model *m, uint32_t batch, size_t steps, const char *folder,
                              kd_err *err)
{
    size_t n = batch * steps, row = kd_graph_node_size(m->graph, m->input), classes = (size_t)m->spec.classes;
    rows r = {.x = kd_alloc_aligned(n * row, sizeof(float)),
              .teacher = kd_alloc_aligned(n * classes, sizeof(float)),
              .labels = kd_alloc_aligned(n, sizeof(int32_t))};
    char *path = kd_path_join(folder, "batches.safetensors");
    kd_status st = r.x && r.teacher && r.labels && path ? draw(&r, s, m, batch, steps, err)
                                                        : kd_fail(err, KD_ENOMEM, "parity: no memory");
    const kd_tensor list[] = {{.name = "x",
                               .dtype = KD_F32,
                               .ndims = 2,
                               .dims = {(int64_t)n, (int64_t)row},
                               .data = r.x,
                               .bytes = n * row * 4},
                              {.name = "teacher",
                               .dtype = KD_F32,
                               .ndims = 2,
                               .dims = {(int64_t)n, (int64_t)classes},
                               .data = r.teacher,
                               .bytes = n * classes * 4},
                              {.name = "labels",
                               .dtype = KD_I32,
                               .ndims = 1,
                               .dims = {(int64_t)n},
                               .data = r.labels,
                               .bytes = n * 4}};
    if (!st) st = kd_tensors_save(path, list, 3, NULL, err);
    free(r.x);
    free(r.teacher);
    free(r.labels);
    free(path);
    return st;
}

kd_status bench_parity(const char *store, const char *student, const char *folder, int64_t steps, kd_err *err)
{
    kd_store *s = NULL;
    kd_student_spec spec;
    kd_model *m = NULL;
    json_t *config = NULL;
    curve c = {.losses = json_array(), .steps = (size_t)steps};
    kd_status st = kd_student_load(&spec, student, NULL, err);
    if (st) goto out;
    if (!(st = kd_store_open(&s, store, err)) && !(st = kd_mkdirs(folder, err)) &&
        !(st = run_trainer(s, &spec, folder, &c, &config, err)) &&
        !(st = kd_model_create(&m, spec.name, json_object_get(config, "model"), student, err)) &&
        !(st = save_start(m, folder, err)) &&
        !(st = save_batches(s, m, (uint32_t)spec.train.batch, c.steps, folder, err)))
        bench_print(json_pack("{s:O, s:O, s:s, s:s}", "losses", c.losses, "config", config, "backend",
                              kd_nn_backend(), "build", kd_build_info()));
    kd_student_release(&spec);
out:
    kd_model_free(m);
    kd_store_close(s);
    json_decref(config);
    json_decref(c.losses);
    return st;
}
