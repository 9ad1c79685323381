/* rows_tiles.h - products of rows of images (rows.c says of what), a tile at a time in registers.
 *
 * A product of a row: n output pixels, each a sum over segments of a few input rows. A segment is what a
 * window sees of one row: neighbouring pixels' channels, contiguous in NHWC, so that a whole convolution is
 * `rows` matrix products of n x len times len x out whose left side overlaps itself. The tile of outputs
 * stays in registers, TILE pixels by two vectors; each number of x is spread over a vector and meets two
 * vectors of weights, which stream by in order. The gradient of x is the same product over rows of dy
 * (rows.c). The gradient of the weights keeps a tile of them in registers while the pixels of some rows go
 * by.
 *
 * Whoever includes this says what a number of x and a vector of weights do when they meet, MEET(sum, a, u):
 * numbers may be pairs of bf16 (rows_bf16.simd.c).
 */
#ifndef KD_NN_ROWS_TILES_H
#define KD_NN_ROWS_TILES_H

#include "lanes.h"

#if defined __AVX512F__
enum { TILE = 14, WEIGHTS = 12 };
#else
enum { TILE = 6, WEIGHTS = 6 };
#endif
enum { PAIR = 2 * LANES };

/* v where the mask is set, else 0 */
INLINE vec only(ivec mask, vec v) { return bits_of(ints_of(v) & mask); }

/* A NaN stays one. */
INLINE vec positive(vec v) { return only(~(v < 0), v); }

/* A product has more to do than to load, and asks for what is read behind it: the tiles' inner loops so many
 * floats a turn. */
enum { ASKED = 8 };
INLINE const float *ask(const float *at, size_t step)
{
    __builtin_prefetch(at, 0, 2);
    return at + step;
}
INLINE size_t ask_step(const kd__ahead *a) { return a->at < a->end ? ASKED : 0; }
INLINE void asked(kd__ahead *a, const float *to)
{
    a->at = to;
    if (to < a->end || !a->stretches) return;
    a->stretches--;
    a->at = a->stretch[a->stretches].at, a->end = a->stretch[a->stretches].end;
}

/* ---- products ----------------------------------------------------------------------------- */

/* p pixels by v vectors of outputs: the first half of them from pixel x[0], y[0] on, the others from x[1],
 * y[1] on. Weights: (rows, len) vectors, `width` floats apart. */
typedef struct place { /* of a pixel: its windows' rows, where they begin in these, and its outputs */
    const float *const *x;
    size_t at;
    float *y;
} place;

INLINE void product_tile(const kd__product *t, const place half[2], const float *w, size_t width,
                         const float *bias, int p, int v)
{
    const int first = (p + 1) / 2;
    vec sum[TILE][2], start[2];
    UNROLL for (int j = 0; j < v; j++) start[j] = bias ? load(bias + j * LANES) : (vec){0};
    UNROLL for (int i = 0; i < p; i++) UNROLL for (int j = 0; j < v; j++) sum[i][j] = start[j];
    const size_t step = t->x_pitch, soon_step = ask_step(t->ahead);
    const float *soon = t->ahead->at;
    for (size_t r = 0; r < t->rows; r++) {
        const float *x[2] = {half[0].x[r] + half[0].at, half[1].x[r] + half[1].at};
        for (size_t k = 0; k < t->len; k++, x[0]++, x[1]++, w += width) {
            const float *q[2][2] = {{x[0], x[0] + 4 * step}, {x[1], x[1] + 4 * step}};
            vec u[2];
            if (v > 1) soon = ask(soon, soon_step); // one vector keeps the loads busy
            UNROLL for (int j = 0; j < v; j++) u[j] = load(w + j * LANES);
            UNROLL for (int i = 0; i < p; i++)
            {
                const int n = i < first ? i : i - first;
                const float a = q[i >= first][n / 4][(size_t)(n % 4) * step];
                UNROLL for (int j = 0; j < v; j++) sum[i][j] = MEET(sum[i][j], a, u[j]);
            }
        }
    }
    asked(t->ahead, soon);
    float *to[TILE];
    UNROLL for (int i = 0; i < p; i++) to[i] =
        i < first ? half[0].y + (size_t)i * t->y_pitch : half[1].y + (size_t)(i - first) * t->y_pitch;
    if (t->add)
        UNROLL for (int i = 0; i < p; i++) UNROLL for (int j = 0; j < v; j++) sum[i][j] +=
            load(to[i] + j * LANES);
    if (t->relu)
        UNROLL for (int i = 0; i < p; i++) UNROLL for (int j = 0; j < v; j++) sum[i][j] = positive(sum[i][j]);
    UNROLL for (int i = 0; i < p; i++) UNROLL for (int j = 0; j < v; j++) store(to[i] + j * LANES, sum[i][j]);
}

INLINE place place_of(const kd__product *t, float *y, size_t line, size_t pixel)
{
    return (place){t->x + line * t->x_step, pixel * t->x_pitch, y + line * t->y_line + pixel * t->y_pitch};
}

/* All lines' pixels of v vectors of outputs, in tiles of falling size: these weights stay near meanwhile.
 * What is half a tile in each of two lines is one of both. */
INLINE void product_columns(const kd__product *t, float *y, const float *w, size_t width, const float *bias,
                            int v)
{
    const size_t whole = t->n / TILE * TILE;
    const bool both = t->n - whole >= TILE / 2;
    for (size_t line = 0; line < t->lines; line++) {
        size_t at = 0;
#define TILES(p)                                                                                             \
    for (; at + (p) <= t->n; at += (p)) {                                                                    \
        const place half[2] = {place_of(t, y, line, at), place_of(t, y, line, at + ((p) + 1) / 2)};          \
        product_tile(t, half, w, width, bias, p, v);                                                         \
    }
        TILES(TILE);
        if (both && line % 2 == 0 && line + 1 < t->lines) {
            const place half[2] = {place_of(t, y, line, whole), place_of(t, y, line + 1, whole)};
            product_tile(t, half, w, width, bias, TILE, v);
        }
        if (both && (line % 2 || line + 1 < t->lines)) at += TILE / 2;
        TILES(TILE / 2);
        TILES(2);
        TILES(1);
#undef TILES
    }
}

static void product(const kd__product *t, float *y, const float *w)
{
    for (size_t o = 0; o < t->out;) {
        const size_t width = kd_min_size(KD__ROWS_BLOCK, t->out - o);
        size_t j = 0;
        for (; j + PAIR <= width; j += PAIR)
            product_columns(t, y + o + j, w + j, width, t->bias ? t->bias + o + j : NULL, 2);
        if (j < width) product_columns(t, y + o + j, w + j, width, t->bias ? t->bias + o + j : NULL, 1);
        w += t->rows * t->len * width;
        o += width;
    }
}

/* ---- weight gradients --------------------------------------------------------------------- */

/* k numbers of a segment by v vectors of outputs. */
INLINE void weights_tile(const kd__product *t, float *dw, const float *const *x, size_t x_at, size_t step,
                         const float *const *dy, size_t dy_rows, size_t o, int k, int v)
{
    vec sum[WEIGHTS][2];
    UNROLL for (int i = 0; i < k; i++) UNROLL for (int j = 0; j < v; j++) sum[i][j] =
        load(dw + (size_t)i * t->out + j * LANES);
    UNROLL for (int i = 0; i < k; i++) // of the next tile
        ask(dw + (size_t)(k + i) * t->out, 0);
    const size_t soon_step = ask_step(t->ahead);
    const float *soon = t->ahead->at;
    for (size_t r = 0; r < dy_rows; r++) {
        const float *xr = x[r * step] + x_at, *dr = dy[r] + o;
        for (size_t p = 0; p < t->n; p++, xr += t->x_pitch, dr += t->out) {
            vec d[2];
            soon = ask(soon, soon_step);
            UNROLL for (int j = 0; j < v; j++) d[j] = load(dr + j * LANES);
            UNROLL for (int i = 0; i < k; i++)
            {
                const float a = xr[i];
                UNROLL for (int j = 0; j < v; j++) sum[i][j] = MEET(sum[i][j], a, d[j]);
            }
        }
    }
    asked(t->ahead, soon);
    UNROLL for (int i = 0; i < k; i++) UNROLL for (int j = 0; j < v; j++)
        store(dw + (size_t)i * t->out + j * LANES, sum[i][j]);
}

INLINE void weights_columns(const kd__product *t, float *dw, size_t step, const float *const *dy,
                            size_t dy_rows, size_t o, int v)
{
    for (size_t u = 0; u < t->rows; u++) {
        float *to = dw + u * t->len * t->out + o;
        size_t at = 0;
#define TILES(k)                                                                                             \
    for (; at + (k) <= t->len; at += (k))                                                                    \
    weights_tile(t, to + at * t->out, t->x + u, at, step, dy, dy_rows, o, k, v)
        TILES(WEIGHTS);
        TILES(4);
        TILES(3);
        TILES(1);
#undef TILES
    }
}

static void weights(const kd__product *t, float *dw, size_t step, const float *const *dy, size_t dy_rows)
{
    size_t o = 0;
    for (; o + PAIR <= t->out; o += PAIR) weights_columns(t, dw, step, dy, dy_rows, o, 2);
    if (o < t->out) weights_columns(t, dw, step, dy, dy_rows, o, 1);
}

#endif
