/* golden_fixture.h - a model and the values that its reference implementation gave for it, both from tests/golden. */
#ifndef GOLDEN_FIXTURE_H
#define GOLDEN_FIXTURE_H

#include "check.h"
#include "kd/model.h"

#include <math.h>

#define GOLDEN "tests/golden/"

typedef struct golden {
    const char *name;
    kd_tensors *file;
    kd_model *m;
} golden;

static const kd_tensor *tensor(const golden *g, const char *name)
{
    const kd_tensor *t = kd_tensors_find(g->file, name);
    if (!t) fail_msg("%s: no tensor %s", g->name, name);
    return t;
}

static void near_all(const golden *g, const char *what, const float *got, const kd_tensor *want, double tol)
{
    double worst = 0, scale = 1e-30;
    const float *w = want->data;
    for (size_t i = 0; i < want->bytes / sizeof *w; i++) {
        const double d = fabs((double)got[i] - (double)w[i]);
        if (!(d <= worst)) worst = d; // a NaN stays
        scale = fmax(scale, fabs((double)w[i]));
    }
    if (!(worst <= tol * scale))
        fail_msg("%s: %s: off by %.3g of %.3g, relative %.2g, allowed %.1g", g->name, what, worst, scale,
                 worst / scale, tol);
}

/* model: a folder or a file beside the values of name. */
static void open_golden(golden *g, const char *name, const char *model)
{
    char path[80];
    g->name = model;
    snprintf(path, sizeof path, GOLDEN "%s.safetensors", name);
    OK(kd_tensors_open(&g->file, path, err));
    snprintf(path, sizeof path, GOLDEN "%s", model);
    OK(kd_model_load(&g->m, path, err));
}

static void close_golden(golden *g)
{
    kd_model_free(g->m);
    kd_tensors_close(g->file);
}

#endif
