/* weights.simd.c - the loops over all classes of a position, compiled once per instruction set.
 *
 * exp in double precision for every class is most of the time of a sparse codec. All copies give the same
 * bits: compiled without contraction, and the order of additions is written out (eight lanes a block of 64
 * classes).
 */
#include "codec_private.h"
#include "exact.h"

#include <math.h>

#define JOIN_(a, b) a##_##b
#define JOIN(a, b)  JOIN_(a, b)

enum { BLOCK = KD__BLOCK };

/* Largest key of a block; *lo becomes the smallest one if it is smaller. */
static inline __attribute__((always_inline)) int32_t top_of(const float *z, size_t n, int32_t *lo)
{
    int32_t a = *lo, b = INT32_MIN;
    for (size_t k = 0; k < n; k++) {
        const int32_t key = kd__key_of(z[k]);
        a = key < a ? key : a;
        b = key > b ? key : b;
    }
    *lo = a;
    return b;
}

static bool scan(const float *z, size_t width, float *most)
{
    int32_t lo = INT32_MAX, hi = INT32_MIN;
    for (size_t i = 0; i < width; i += BLOCK) {
        const int32_t top = width - i >= BLOCK ? top_of(z + i, BLOCK, &lo) : top_of(z + i, width - i, &lo);
        hi = top > hi ? top : hi;
        most[i / BLOCK] = kd__of_key(top);
    }
    return isfinite(kd__of_key(lo)) && isfinite(kd__of_key(hi));
}

static inline __attribute__((always_inline)) void weigh(const float *z, size_t n, double top, double r,
                                                        double *w)
{
    for (size_t k = 0; k < n; k++) w[k] = kd__exp(((double)z[k] - top) * r);
}

static void weights(const float *z, size_t n, double top, double r, double w[KD__BLOCK])
{
    weigh(z, n, top, r, w);
    for (size_t k = n; k < BLOCK; k++) w[k] = 0;
}

typedef double lanes __attribute__((vector_size(8 * sizeof(double))));

static inline __attribute__((always_inline)) double add_lanes(const double *w)
{
    lanes sum, next;
    memcpy(&sum, w, sizeof sum);
    for (int k = 8; k < BLOCK; k += 8) {
        memcpy(&next, w + k, sizeof next);
        sum += next;
    }
    double a[4];
    for (int j = 0; j < 4; j++) a[j] = sum[j] + sum[j + 4];
    return (a[0] + a[2]) + (a[1] + a[3]);
}

static double total(const double w[KD__BLOCK]) { return add_lanes(w); }

static void totals(const float *z, size_t width, double top, double r, double *sum)
{
    double w[BLOCK];
    size_t i = 0;
    for (; i + BLOCK <= width; i += BLOCK) {
        weigh(z + i, BLOCK, top, r, w);
        sum[i / BLOCK] = add_lanes(w);
    }
    if (i == width) return;
    weights(z + i, width - i, top, r, w);
    sum[i / BLOCK] = add_lanes(w);
}

const kd__class_loops JOIN(kd__class_loops, KD_SIMD) = {
    .scan = scan,
    .weights = weights,
    .total = total,
    .totals = totals,
};
