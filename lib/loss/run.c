/* run.c - the mix of a batch, over a fixed grid of row blocks.
 *
 * A block is 16 rows, whatever the number of threads; a block's sums are made by one thread and kept
 * in double beside the others, and whoever wants the value adds the blocks in order. So value and
 * gradient have the same bits for any team. The pragmas are orphaned: inside the trainer's region the
 * team shares the blocks, in serial code they are plain loops.
 */
#include "loss_private.h"

#include <assert.h>

const kd__loss_vec *kd__loss_vec_of(kd_isa isa)
{
    return isa >= KD_ISA_AVX512 ? &kd__loss_vec_avx512
           : isa >= KD_ISA_AVX2 ? &kd__loss_vec_avx2
                                : &kd__loss_vec_scalar;
}

static kd__softmax_mix resolve(const kd_loss *l, int64_t classes, int64_t valid)
{
    kd__softmax_mix m = {.classes = classes, .kd = l->kd > 0, .ce = l->ce > 0, .inv_t = 1};
    double T = l->spec.temperature, n = valid ? (double)valid : 1;
    if (m.kd) {
        m.inv_t = (float)(1 / T);
        m.kl = kd__loss_is(l->spec.kl_form, "cross_entropy") ? 0 : 1;
        m.grad_kd = (float)(l->kd * kd__soft_scale(&l->spec, (int64_t)n, classes) / T);
    }
    if (m.ce) {
        m.grad_ce = (float)(l->ce / n);
        m.smooth = (float)l->spec.label_smoothing;
    }
    return m;
}

void kd_loss_run(kd_loss *l, const kd_loss_batch *b)
{
    const int64_t R = KD__LOSS_ROWS, C = b->classes, blocks = (b->rows + R - 1) / R;
    assert(b->rows <= l->max_rows && (b->teacher || !(l->kd > 0)) && (b->labels || !(l->ce > 0)));
    int64_t valid = b->rows;
    if (b->labels) { // each thread counts for itself: cheaper than a barrier
        valid = 0;
        for (int64_t r = 0; r < b->rows; r++) valid += b->labels[r] >= 0 && b->labels[r] < C;
    }
    kd__softmax_mix m = resolve(l, C, valid);
#pragma omp single nowait
    {
        l->blocks = blocks;
        l->valid = valid;
        l->classes = C;
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        int64_t r = i * R;
        l->vec->block(&m, b->logits + r * C, m.kd ? b->teacher + r * C : NULL,
                      b->labels ? b->labels + r : NULL, (int)(b->rows - r < R ? b->rows - r : R),
                      b->dlogits ? b->dlogits + r * C : NULL, l->partial + 2 * i);
    }
}

void kd_log_softmax(float *out, const float *logits, int64_t rows, int64_t classes, float temperature)
{
    const int64_t R = KD__LOSS_ROWS;
    const kd__loss_vec *vec = kd__loss_vec_of(kd_cpu_isa());
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r += R)
        vec->log_softmax(out + r * classes, logits + r * classes, (int)(rows - r < R ? rows - r : R), classes,
                         1.0f / temperature);
}
