/* reduce.c - a feature map to one number a channel, for those who read inner nodes.
 *
 * The mean is computed as global average pooling computes it, to the bit: it is the same sum.
 */
#include "nn_private.h"

#include <string.h>

static void largest(float *y, const float *x, size_t pixels, size_t c)
{
    memcpy(y, x, c * sizeof *y);
    for (size_t j = 1; j < pixels; j++)
        for (size_t i = 0; i < c; i++) {
            const float v = x[j * c + i];
            y[i] = v > y[i] || v != v ? v : y[i]; // a NaN wins
        }
}

static void mean(float *y, const float *x, size_t pixels, size_t c)
{
    kd__vec_get()->col_sum(y, x, pixels, c, c);
    for (size_t i = 0; i < c; i++) y[i] *= 1.0f / (float)pixels;
}

void kd_nn_over_pixels(float *y, const float *x, size_t rows, size_t pixels, size_t c, bool max, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t b = 0; b < rows; b++)
        (max ? largest : mean)(y + b * c, x + b * pixels * c, pixels, c);
}
