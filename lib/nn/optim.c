/* optim.c - optimizer steps and sums over long vectors, in blocks that fix who adds what.
 *
 * All loops are orphaned: inside a region the team shares the blocks, outside one thread does them
 * all, with the same result. */
#include "nn_private.h"

#include <math.h>

#define BLOCK 4096 /* floats */

size_t kd_nn_blocks(size_t n) { return (n + BLOCK - 1) / BLOCK; }

void kd_nn_adamw(float *w, float *m, float *v, const float *g, size_t n, const kd_adamw *p)
{
    const kd__vec *k = kd__vec_get();
    const float c1 = (float)(p->lr / (1 - pow(p->beta1, (double)p->step)));
    const float c2 = (float)(1 / sqrt(1 - pow(p->beta2, (double)p->step)));
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        k->adamw(w + i, m + i, v + i, g + i, kd_min_size(BLOCK, n - i), p->lr, p->beta1, p->beta2, p->eps,
                 p->weight_decay, c1, c2, p->grad_scale);
}

void kd_nn_sgd(float *w, float *m, const float *g, size_t n, const kd_sgd *p)
{
    const kd__vec *k = kd__vec_get();
#pragma omp for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK)
        k->sgd(w + i, m ? m + i : NULL, g + i, kd_min_size(BLOCK, n - i), p->lr, p->momentum, p->weight_decay,
               p->grad_scale, p->nesterov, p->step == 1);
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
