/* optimizer.c - from a gradient slab to new weights.
 *
 * The gradient slab has the layout of the parameters, so an update is a few passes over long ranges
 * rather than one per tensor. Ranges differ only in weight decay; without decay there is one. The
 * padding between tensors is zero in weights and gradients and stays zero under every rule here.
 *
 * Clipping is torch.nn.utils.clip_grad_norm_: scale = min(1, clip / (norm + 1e-6)), applied inside
 * the update, not in a pass of its own.
 */
#include "train_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Ranges in the order of the slab; neighbours with equal decay become one. A range ends where the
 * next tensor begins, so that padding belongs to somebody. */
static kd_status cut(kd__run *r, kd_err *err)
{
    const kd_param *list;
    size_t n = kd_graph_params(r->model->graph, &list);
    r->ranges = calloc(n + 1, sizeof(*r->ranges));
    if (!r->ranges) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        if (list[i].buffer) continue;
        bool decay = list[i].decay && r->spec.train.weight_decay > 0;
        kd__range *last = r->nranges ? &r->ranges[r->nranges - 1] : NULL;
        if (last) last->n = list[i].offset - last->first;
        if (!last || last->decay != decay)
            r->ranges[r->nranges++] = (kd__range){.first = list[i].offset, .decay = decay};
    }
    if (r->nranges) {
        kd__range *last = &r->ranges[r->nranges - 1];
        last->n = r->slab - last->first;
    }
    return KD_OK;
}

kd_status kd__optimizer_create(kd__run *r, kd_err *err)
{
    bool adamw = !strcmp(r->spec.train.optimizer, "adamw");
    r->moment1 = kd_alloc_aligned(r->slab + 1, sizeof(float));
    if (adamw) r->moment2 = kd_alloc_aligned(r->slab + 1, sizeof(float));
    r->partial = kd_alloc_aligned(kd_nn_blocks(r->slab) + 1, sizeof(double));
    if (!r->moment1 || (adamw && !r->moment2) || !r->partial)
        return kd_fail(err, KD_ENOMEM, "%s: no memory for the optimizer's state of %zu floats", r->spec.name,
                       r->slab);
    return cut(r, err);
}

bool kd__optimizer_step(kd__run *r, const float *grads)
{
    const kd_train_spec *s = &r->spec.train;
    float *w = r->weights, scale = 1;
    int64_t step = (int64_t)r->at.total + 1;
    if (s->clip > 0) {
        double norm = sqrt(kd_nn_sumsq(grads, r->slab, r->partial));
        if (!isfinite(norm)) return false;
        scale = (float)fmin(1, s->clip / (norm + 1e-6));
    }
    for (size_t i = 0; i < r->nranges; i++) {
        const kd__range *g = &r->ranges[i];
        float decay = g->decay ? (float)s->weight_decay : 0;
        if (r->moment2) {
            kd_adamw p = {.lr = (float)r->lr,
                          .beta1 = (float)s->beta1,
                          .beta2 = (float)s->beta2,
                          .eps = (float)s->eps,
                          .weight_decay = decay,
                          .step = step,
                          .grad_scale = scale};
            kd_nn_adamw(w + g->first, r->moment1 + g->first, r->moment2 + g->first, grads + g->first, g->n,
                        &p);
        } else {
            kd_sgd p = {.lr = (float)r->lr,
                        .momentum = (float)s->momentum,
                        .weight_decay = decay,
                        .grad_scale = scale,
                        .nesterov = s->nesterov,
                        .step = step};
            kd_nn_sgd(w + g->first, r->moment1 + g->first, grads + g->first, g->n, &p);
        }
    }
    return true;
}
