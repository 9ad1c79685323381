/* optim.c - optimizer steps and sums over long vectors, in blocks that fix who adds what.
 *
 * All loops are orphaned: inside a region the team shares the blocks, outside one thread does them
 * all, with the same result. */
#include "nn_private.h"

#include <math.h>
#include <string.h>

#define BLOCK 4096 /* floats */

size_t kd_nn_blocks(size_t n) { return (n + BLOCK - 1) / BLOCK; }

/* What goes along with the block from `i`. */
static float *mean_at(const kd_along *a, size_t i) { return a->mean ? a->mean + i : NULL; }
static void sound_at(const kd_along *a, size_t i, float bad)
{
    if (a->sound) a->sound[i / BLOCK] = (double)bad;
}

void kd__adamw_range(const kd__vec *k, float *w, float *m, float *v, const float *g, size_t n,
                     const kd_adamw *p)
{
    const double b1 = (double)p->beta1, b2 = (double)p->beta2, lr = (double)p->lr, t = (double)p->step;
    const kd__adamw_factors f = {
        .keep = (float)(1 - lr * (double)p->weight_decay),
        .a1 = (float)(1 - b1),
        .b2 = p->beta2,
        .a2 = (float)(1 - b2),
        .step = (float)(lr / (1 - pow(b1, t))),
        .c2 = (float)(1 / sqrt(1 - pow(b2, t))),
        .eps = p->eps,
        .grad_scale = p->grad_scale,
        .mean_rate = p->along.mean_rate,
    };
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        sound_at(&p->along, i,
                 k->adamw(w + i, m + i, v + i, g + i, mean_at(&p->along, i), kd_min_size(BLOCK, n - i), &f));
}

void kd__sgd_range(const kd__vec *k, float *w, float *m, const float *g, size_t n, const kd_sgd *p)
{
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        sound_at(&p->along, i,
                 k->sgd(w + i, m ? m + i : NULL, g + i, mean_at(&p->along, i), kd_min_size(BLOCK, n - i), p));
}

void kd_nn_adamw(float *w, float *m, float *v, const float *g, size_t n, const kd_adamw *p)
{
    kd__adamw_range(kd__vec_get(), w, m, v, g, n, p);
}

void kd_nn_sgd(float *w, float *m, const float *g, size_t n, const kd_sgd *p)
{
    kd__sgd_range(kd__vec_get(), w, m, g, n, p);
}

void kd_nn_accumulate(float *sum, const float *x, size_t n, bool fresh)
{
    const kd__vec *k = kd__vec_get();
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) {
        const size_t len = kd_min_size(BLOCK, n - i);
        if (fresh)
            memcpy(sum + i, x + i, len * sizeof *sum);
        else
            k->add_to(sum + i, x + i, len);
    }
}

double kd_nn_sumsq(const float *x, size_t n, double *partial)
{
    const kd__vec *k = kd__vec_get();
    double sum = 0;
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) partial[i / BLOCK] = k->sumsq(x + i, kd_min_size(BLOCK, n - i));
    for (size_t b = 0; b < kd_nn_blocks(n); b++) sum += partial[b];
#pragma omp barrier /* partial may be used again at once */
    return sum;
}

void kd_nn_u8_to_f32(float *y, const uint8_t *x, size_t n, float mean, float scale)
{
    const kd__vec *k = kd__vec_get();
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) k->u8_to_f32(y + i, x + i, kd_min_size(BLOCK, n - i), mean, scale);
}
