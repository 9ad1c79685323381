/* optimizer.c - from a gradient slab to new weights.
 *
 * The gradient slab has the layout of the parameters, so an update is a few passes over long ranges
 * rather than one per tensor. Ranges differ only in weight decay; without decay there is one. The
 * padding between tensors is zero in weights and gradients and stays zero under every rule here.
 *
 * With train.accumulate a step has several batches: their gradients are added in a slab of their own,
 * always in the same order, and the mean of them is what is clipped and applied. That slab is part of a
 * checkpoint, so a run may stop anywhere within a step.
 *
 * train.ema keeps a running mean of the weights, in the same pass: mean += max(1 - ema, 9 / (10 + t)) (w -
 * mean) behind step t (from 0), that is a decay of min(ema, (1 + t) / (10 + t)), so that the beginning is
 * forgotten. Buffers alike.
 *
 * The same pass says whether all weights are finite. The loss alone does not: a fused ReLU turns the NaN that
 * a broken weight makes into 0, and the network goes on without that unit.
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
    const kd_train_spec *s = &r->spec.train;
    bool adamw = !strcmp(s->optimizer, "adamw"), failed = false;
    kd_status st = cut(r, err);
    if (st) return st;
    failed |= !(r->moment1 = kd_alloc_aligned(r->slab + 1, sizeof(float)));
    failed |= adamw && !(r->moment2 = kd_alloc_aligned(r->slab + 1, sizeof(float)));
    failed |= s->accumulate > 1 && !(r->sum = kd_alloc_aligned(r->slab + 1, sizeof(float)));
    failed |= s->ema > 0 && !(r->mean = kd_alloc_aligned(r->slab + r->buffers + 1, sizeof(float)));
    failed |= !(r->partial = kd_alloc_aligned(kd_nn_blocks(r->slab) + r->nranges + 1, sizeof(double)));
    if (failed)
        return kd_fail(err, KD_ENOMEM, "%s: no memory for the optimizer's state of %zu floats", r->spec.name,
                       r->slab);
    if (!r->mean) return KD_OK;
    memcpy(r->mean, r->weights, r->slab * sizeof(float));
    if (r->buffers) memcpy(r->mean + r->slab, r->stats, r->buffers * sizeof(float));
    return KD_OK;
}

uint64_t kd__run_updates(const kd__run *r) { return r->at.total / (uint64_t)r->spec.train.accumulate; }

double kd__run_lr(const kd__run *r, int ahead)
{
    uint64_t k = (uint64_t)r->spec.train.accumulate;
    return kd_lr_at(&r->spec.train, (r->at.total + (uint64_t)(int64_t)ahead) / k,
                    r->steps / k * (uint64_t)r->spec.train.epochs);
}

static float mean_rate(const kd__run *r)
{
    return (float)fmax(1 - r->spec.train.ema, 9 / (10 + (double)kd__run_updates(r)));
}

void kd__optimizer_follow(kd__run *r)
{
    uint64_t k = (uint64_t)r->spec.train.accumulate;
    float rate = mean_rate(r);
    if (!r->mean || (r->at.step + 1) % k) return;
    for (size_t i = 0; i < r->buffers; i++)
        r->mean[r->slab + i] += rate * (r->stats[i] - r->mean[r->slab + i]);
}

static void swap(float *a, float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float x = a[i];
        a[i] = b[i];
        b[i] = x;
    }
}

void kd__run_swap(kd__run *r)
{
    if (!r->mean) return;
    swap(r->weights, r->mean, r->slab);
    swap(r->stats, r->mean + r->slab, r->buffers);
}

/* One range of the slab; sound: of its blocks. */
static void update(kd__run *r, const kd__range *g, const float *grads, float scale, double *sound)
{
    const kd_train_spec *s = &r->spec.train;
    float *w = r->weights + g->first, *m = r->moment1 + g->first,
          decay = g->decay ? (float)s->weight_decay : 0;
    const kd_along along = {.mean = r->mean ? r->mean + g->first : NULL,
                            .mean_rate = mean_rate(r),
                            .sound = sound};
    int64_t step = (int64_t)kd__run_updates(r) + 1;
    if (r->moment2) {
        kd_adamw p = {.lr = (float)r->lr,
                      .beta1 = (float)s->beta1,
                      .beta2 = (float)s->beta2,
                      .eps = (float)s->eps,
                      .weight_decay = decay,
                      .step = step,
                      .grad_scale = scale,
                      .along = along};
        kd_nn_adamw(w, m, r->moment2 + g->first, grads + g->first, g->n, &p);
    } else {
        kd_sgd p = {.lr = (float)r->lr,
                    .momentum = (float)s->momentum,
                    .weight_decay = decay,
                    .grad_scale = scale,
                    .nesterov = s->nesterov,
                    .step = step,
                    .along = along};
        kd_nn_sgd(w, m, grads + g->first, g->n, &p);
    }
}

bool kd__optimizer_step(kd__run *r, const float *grads)
{
    const kd_train_spec *s = &r->spec.train;
    uint64_t k = (uint64_t)s->accumulate;
    double scale = 1.0 / (double)k, bad = 0;
    size_t blocks = 0;
    if (r->sum) {
        kd_nn_accumulate(r->sum, grads, r->slab, r->at.step % k == 0);
        if ((r->at.step + 1) % k) return true;
        grads = r->sum;
    }
    if (s->clip > 0) {
        double norm = scale * sqrt(kd_nn_sumsq(grads, r->slab, r->partial));
        if (!isfinite(norm)) return false;
        scale *= fmin(1, s->clip / (norm + 1e-6));
    }
    for (size_t i = 0; i < r->nranges; blocks += kd_nn_blocks(r->ranges[i++].n))
        update(r, &r->ranges[i], grads, (float)scale, r->partial + blocks);
    for (size_t i = 0; i < blocks; i++) bad += r->partial[i];
    return isfinite(bad);
}
