/* test_golden.c - whole models against PyTorch: forward, loss, every gradient, running statistics,
 * inference, and the weights after ten optimizer steps (tests/golden/README.md describes the files).
 *
 * Differences are measured relative to the largest element of each tensor. The naive twins of the
 * ops must meet the same values, so that a wrong twin cannot vouch for a wrong kernel. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kd/loss.h"
#include "kd/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double VALUES = 1e-5, AFTER = 1e-4;

typedef struct golden {
    const char *arch;
    kd_tensors *file;
    kd_model *m;
    kd_exec *train, *eval;
    kd_loss *loss;
    int64_t rows;
} golden;

static const kd_tensor *tensor(const golden *g, const char *prefix, const char *name)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const kd_tensor *t = kd_tensors_find(g->file, full);
    if (!t) fail_msg("%s: no tensor %s", g->arch, full);
    return t;
}

static const float *floats(const golden *g, const char *prefix, const char *name, size_t n)
{
    const kd_tensor *t = tensor(g, prefix, name);
    assert_int_equal(t->dtype, KD_F32);
    assert_int_equal(t->bytes, n * sizeof(float));
    return t->data;
}

static double meta(const golden *g, const char *key)
{
    const char *s = kd_tensors_metadata(g->file, key);
    if (!s) fail_msg("%s: no metadata %s", g->arch, key);
    return strcmp(s, "true") && strcmp(s, "True") ? strtod(s, NULL) : 1;
}

static void near_all(const golden *g, const char *what, const float *got, const float *want, size_t n,
                     double tol)
{
    double worst = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= worst)) worst = d; // a NaN stays
        scale = fmax(scale, fabs(want[i]));
    }
    if (!(worst <= tol * scale))
        fail_msg("%s: %s: off by %.3g of %.3g, relative %.2g, allowed %.1g", g->arch, what, worst, scale,
                 worst / scale, tol);
}

static void near(const golden *g, const char *what, double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol * fabs(want)))
        fail_msg("%s: %s: %.9g, PyTorch %.9g, relative %.2g", g->arch, what, got, want,
                 fabs(got - want) / fabs(want));
}

/* Parameters and running statistics from tensors PREFIXname. */
static void set_params(golden *g, const char *prefix)
{
    const kd_param *p;
    size_t n = kd_graph_params(g->m->graph, &p);
    for (size_t i = 0; i < n; i++)
        memcpy(kd_graph_param_data(g->m->graph, &p[i]), floats(g, prefix, p[i].name, p[i].size),
               p[i].size * sizeof(float));
}

static kd_loss *make_loss(const golden *g, double ce, double kd, double temperature, bool t2)
{
    kd_loss_spec s = {.ce = ce, .kd = kd, .temperature = temperature, .t2 = t2};
    kd_loss *l;
    kd_err err = {0};
    kd_loss_shape shape = {.rows = g->rows, .classes = g->m->spec.classes, .threads = 2};
    if (kd_loss_create(&l, &s, &err) || kd_loss_plan(l, &shape, &err)) fail_msg("%s", err.msg);
    return l;
}

static void open_golden(golden *g, const char *arch, int threads, bool naive)
{
    char path[64];
    kd_err err = {0};
    *g = (golden){.arch = arch};
    snprintf(path, sizeof path, "tests/golden/%s.safetensors", arch);
    if (kd_tensors_open(&g->file, path, &err)) fail_msg("%s", err.msg);
    json_t *spec = json_loads(kd_tensors_metadata(g->file, "spec"), 0, NULL);
    if (kd_model_create(&g->m, arch, spec, path, &err)) fail_msg("%s", err.msg);
    json_decref(spec);
    g->rows = tensor(g, "x", "")->dims[0];
    kd_exec_params p = {.batch = g->rows, .threads = threads, .training = true, .naive = naive};
    if (kd_exec_create(&g->train, g->m->graph, &p, &err)) fail_msg("%s", err.msg);
    p.training = false;
    if (kd_exec_create(&g->eval, g->m->graph, &p, &err)) fail_msg("%s", err.msg);
    g->loss = make_loss(g, meta(g, "alpha"), meta(g, "beta"), meta(g, "temperature"), meta(g, "t2") != 0);
    size_t n = (size_t)g->rows * kd_graph_node_size(g->m->graph, g->m->input);
    memcpy(kd_exec_input(g->train, g->m->input), floats(g, "x", "", n), n * sizeof(float));
    memcpy(kd_exec_input(g->eval, g->m->input), floats(g, "x", "", n), n * sizeof(float));
    set_params(g, "param.");
}

static void close_golden(golden *g)
{
    kd_loss_free(g->loss);
    kd_exec_free(g->train);
    kd_exec_free(g->eval);
    kd_model_free(g->m);
    kd_tensors_close(g->file);
}

static kd_loss_batch batch_of(const golden *g, float *dlogits)
{
    size_t n = (size_t)(g->rows * g->m->spec.classes);
    return (kd_loss_batch){.rows = g->rows,
                           .classes = g->m->spec.classes,
                           .logits = kd_exec_value(g->train, g->m->logits),
                           .labels = tensor(g, "labels", "")->data,
                           .teacher = floats(g, "teacher", "", n),
                           .dlogits = dlogits};
}

/* dlogits: receives a copy of the loss's gradient (backward may use its memory); may be NULL. */
static void forward_and_backward(golden *g, int threads, float *dlogits)
{
    size_t bytes = (size_t)(g->rows * g->m->spec.classes) * sizeof(float);
#pragma omp parallel num_threads(threads)
    {
        kd_exec_forward(g->train);
        kd_loss_batch b = batch_of(g, kd_exec_grad(g->train, g->m->logits));
        kd_loss_run(g->loss, &b);
#pragma omp single
        if (dlogits) memcpy(dlogits, b.dlogits, bytes);
        kd_exec_backward(g->train);
    }
}

/* Values of the loss alone, on PyTorch's logits: T in 1, 2, 4, with and without T^2. */
static void check_losses(golden *g)
{
    size_t n = (size_t)(g->rows * g->m->spec.classes);
    float *d = calloc(n, sizeof *d);
    kd_loss_batch b = batch_of(g, d);
    b.logits = floats(g, "logits", "", n);
    for (int k = 0; k < 7; k++) {
        char tag[16] = "ce";
        if (k) snprintf(tag, sizeof tag, "T%d%s", 1 << (k - 1) / 2, k % 2 ? "" : ".t2");
        kd_loss *l = k ? make_loss(g, meta(g, "alpha"), meta(g, "beta"), 1 << (k - 1) / 2, k % 2 == 0)
                       : make_loss(g, 1, 0, 1, false);
        kd_loss_run(l, &b);
        near(g, tag, kd_loss_value(l), *(const double *)tensor(g, "loss.", tag)->data, VALUES);
        if (k) near_all(g, tag, d, floats(g, "dlogits.", tag, n), n, VALUES);
        kd_loss_free(l);
    }
    free(d);
}

static void check_gradients(const golden *g)
{
    const kd_param *p;
    size_t n = kd_graph_params(g->m->graph, &p), checked = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i].buffer) {
            near_all(g, p[i].name, kd_graph_param_data(g->m->graph, &p[i]),
                     floats(g, "after1.", p[i].name, p[i].size), p[i].size, VALUES);
            continue;
        }
        near_all(g, p[i].name, kd_exec_grads(g->train) + p[i].offset,
                 floats(g, "grad.", p[i].name, p[i].size), p[i].size, VALUES);
        checked++;
    }
    assert_true(checked >= 4);
}

static void one_pass(const char *arch, int threads, bool naive)
{
    golden g;
    open_golden(&g, arch, threads, naive);
    size_t n = (size_t)(g.rows * g.m->spec.classes);
    float *dlogits = calloc(n, sizeof *dlogits);
    check_losses(&g);
    forward_and_backward(&g, threads, dlogits);
    near_all(&g, "logits", kd_exec_value(g.train, g.m->logits), floats(&g, "logits", "", n), n, VALUES);
    near_all(&g, "dlogits", dlogits, floats(&g, "dlogits", "", n), n, VALUES);
    check_gradients(&g);
    kd_exec_run_forward(g.eval); // the running statistics are those after one step now
    near_all(&g, "eval.logits", kd_exec_value(g.eval, g.m->logits), floats(&g, "eval.logits", "", n), n,
             VALUES);
    free(dlogits);
    close_golden(&g);
}

/* One optimizer step of every parameter: decay for weights of linear and convolution only. */
static void step(golden *g, bool sgd, int64_t t, float *m, float *v)
{
    const kd_param *p;
    size_t n = kd_graph_params(g->m->graph, &p);
    for (size_t i = 0; i < n; i++) {
        if (p[i].buffer) continue;
        float *w = kd_graph_param_data(g->m->graph, &p[i]), *grad = kd_exec_grads(g->train) + p[i].offset;
        kd_adamw a = {.lr = (float)meta(g, "lr"),
                      .beta1 = (float)meta(g, "beta1"),
                      .beta2 = (float)meta(g, "beta2"),
                      .eps = (float)meta(g, "eps"),
                      .weight_decay = p[i].decay ? (float)meta(g, "weight_decay") : 0,
                      .step = t,
                      .grad_scale = 1};
        if (sgd) {
            kd_sgd s = {.lr = (float)meta(g, "sgd_lr"),
                        .momentum = (float)meta(g, "sgd_momentum"),
                        .step = t,
                        .weight_decay = p[i].decay ? (float)meta(g, "sgd_weight_decay") : 0,
                        .grad_scale = 1,
                        .nesterov = meta(g, "sgd_nesterov") != 0};
            kd_nn_sgd(w, m + p[i].offset, grad, p[i].size, &s);
        } else {
            kd_nn_adamw(w, m + p[i].offset, v + p[i].offset, grad, p[i].size, &a);
        }
    }
}

static void ten_steps(const char *arch, int threads, bool sgd)
{
    golden g;
    size_t floats_n, n;
    char name[64];
    open_golden(&g, arch, threads, false);
    kd_graph_slab(g.m->graph, &floats_n);
    float *m = kd_alloc_aligned(floats_n, sizeof *m), *v = kd_alloc_aligned(floats_n, sizeof *v);
    const char *prefix = sgd ? "sgd10." : "after10.";
    const double *losses = tensor(&g, prefix, "losses")->data;
    for (int64_t t = 1; t <= (int64_t)meta(&g, "steps"); t++) {
        forward_and_backward(&g, threads, NULL);
        snprintf(name, sizeof name, "loss of step %lld", (long long)t);
        near(&g, name, kd_loss_value(g.loss), losses[t - 1], AFTER);
        step(&g, sgd, t, m, v);
    }
    const kd_param *p;
    size_t params = kd_graph_params(g.m->graph, &p);
    for (size_t i = 0; i < params; i++)
        near_all(&g, p[i].name, kd_graph_param_data(g.m->graph, &p[i]),
                 floats(&g, prefix, p[i].name, p[i].size), p[i].size, AFTER);
    n = (size_t)(g.rows * g.m->spec.classes);
    kd_exec_run_forward(g.eval);
    near_all(&g, "logits after ten steps", kd_exec_value(g.eval, g.m->logits),
             floats(&g, prefix, "logits", n), n, AFTER);
    free(m);
    free(v);
    close_golden(&g);
}

static void all(const char *arch)
{
    one_pass(arch, 1, true);
    one_pass(arch, 1, false);
    one_pass(arch, 2, false);
    ten_steps(arch, 1, false);
    ten_steps(arch, 2, false);
}

static void mlp_equals_pytorch(void **state)
{
    (void)state;
    all("mlp");
}
static void cnn_equals_pytorch(void **state)
{
    (void)state;
    all("cnn");
}
static void cnn_without_norm_flattened_equals_pytorch(void **state)
{
    (void)state;
    all("cnnflat");
}
static void dscnn_equals_pytorch(void **state)
{
    (void)state;
    all("dscnn");
}
static void resnet_equals_pytorch(void **state)
{
    (void)state;
    all("resnet");
}
static void ten_sgd_steps_equal_pytorch(void **state)
{
    (void)state;
    ten_steps("mlp", 2, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mlp_equals_pytorch),
        cmocka_unit_test(cnn_equals_pytorch),
        cmocka_unit_test(cnn_without_norm_flattened_equals_pytorch),
        cmocka_unit_test(dscnn_equals_pytorch),
        cmocka_unit_test(resnet_equals_pytorch),
        cmocka_unit_test(ten_sgd_steps_equal_pytorch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
