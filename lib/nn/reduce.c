/* reduce.c - a feature map to one number a channel, for those who read inner nodes.
 *
 * The mean is computed as global average pooling computes it, to the bit: it is the same sum.
 */
#include "nn_private.h"

#include <math.h>

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
    for (size_t b = 0; b < rows; b++) (max ? largest : mean)(y + b * c, x + b * pixels * c, pixels, c);
}

/* Mean over channels of the squared mean over pixels [y0, y1) x [x0, x1). */
static double attention_at(const float *x, size_t w, size_t c, size_t y0, size_t y1, size_t x0, size_t x1)
{
    double sum = 0, share = 1 / (double)((y1 - y0) * (x1 - x0));
    for (size_t k = 0; k < c; k++) {
        double mean = 0;
        for (size_t i = y0; i < y1; i++)
            for (size_t j = x0; j < x1; j++) mean += x[(i * w + j) * c + k];
        sum += mean * share * mean * share;
    }
    return sum / (double)c;
}

void kd_nn_attention(float *y, const float *x, size_t rows, size_t h, size_t w, size_t c, size_t to_h,
                     size_t to_w, int threads)
{
    const size_t n = to_h * to_w;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t b = 0; b < rows; b++) {
        float *a = y + b * n;
        double squares = 0;
        for (size_t i = 0; i < n; i++) {
            const size_t r = i / to_w, q = i % to_w;
            const double v =
                attention_at(x + b * h * w * c, w, c, r * h / to_h, ((r + 1) * h + to_h - 1) / to_h,
                             q * w / to_w, ((q + 1) * w + to_w - 1) / to_w);
            a[i] = (float)v;
            squares += v * v;
        }
        for (size_t i = 0; squares > 0 && i < n; i++) a[i] = (float)(a[i] / sqrt(squares));
    }
}
