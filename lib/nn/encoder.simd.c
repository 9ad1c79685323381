/* encoder.simd.c - the inner loops of layer norm, GELU and attention, once per instruction set.
 *
 * The normal distribution. GELU is x times Phi(x), the share of a standard normal below x. With a = |x| and
 * t = 1 / (1 + 0.35 a), the upper tail is exp(-a^2 / 2) times a polynomial of degree 9 in t without a
 * constant term: the form of Abramowitz and Stegun 7.1.26, its coefficients a minimax fit with a relative
 * error of 3.2e-8 up to a = 14, where the tail is below 1e-43. So Phi is as exact for large negative x, where
 * 1 + erf(x) would cancel, as it is elsewhere; the derivative needs the same exponential.
 *
 * Attention. All products are one form (tiles.h). Queries go by in blocks; a block's scores with all keys
 * stay in the nearest caches, so nothing of size tokens x tokens is ever in memory, and backward makes the
 * block's probabilities again from the logarithms of their sums (Dao et al., "FlashAttention", 2022,
 * section 3.1 and appendix B.4). A head's numbers are copied to rows of whole vectors first, or
 * transposed ones: its tokens lie a model's width apart, the copies side by side.
 *
 * The order of additions depends on the instruction set and on shapes alone.
 */
#include "tiles.h"

static void multiply(float *c, size_t ldc, matrix a, const float *b, size_t ldb, size_t rows, size_t n,
                     size_t k, bool add)
{
    product(c, ldc, a, b, ldb, rows, n, k, add, false);
}

/* ---- layer norm --------------------------------------------------------------------------- */

INLINE vec deviation(const float *x, float mean, size_t n)
{
    const vec d = load_some(x, n) - mean;
    if (n == LANES) return d;
    float f[LANES] = {0};
    store_some(f, d, n);
    return load(f);
}

static void layernorm(float *y, float *stats, const float *x, const float *w, const float *b, size_t rows,
                      size_t n, float eps)
{
    for (size_t r = 0; r < rows; r++, x += n, y += n) {
        vec sum = {0}, square = {0};
        FOR_VECTORS(i, n, some, sum += load_some(x + i, some));
        const float mean = total(sum) / (float)n;
        FOR_VECTORS(i, n, some, {
            const vec d = deviation(x + i, mean, some);
            square += d * d;
        });
        const float scale = 1 / sqrtf(total(square) / (float)n + eps);
        FOR_VECTORS(i, n, some, {
            const vec v = (load_some(x + i, some) - mean) * scale;
            store_some(y + i, v * load_some(w + i, some) + load_some(b + i, some), some);
        });
        stats[2 * r] = mean;
        stats[2 * r + 1] = scale;
    }
}

/* With g = dy w and h = (x - mean) scale: dx = scale (g - mean of g - h mean of (g h)). */
static void layernorm_back(float *dx, float *dw, float *db, const float *dy, const float *x,
                           const float *stats, const float *w, size_t rows, size_t n, bool add)
{
    for (size_t r = 0; r < rows; r++, x += n, dy += n) {
        const float mean = stats[2 * r], scale = stats[2 * r + 1];
        vec sum = {0}, dot = {0};
        FOR_VECTORS(i, n, some, {
            const vec d = load_some(dy + i, some), h = deviation(x + i, mean, some) * scale;
            const vec g = d * load_some(w + i, some);
            sum += g;
            dot += g * h;
            store_some(dw + i, load_some(dw + i, some) + d * h, some);
            store_some(db + i, load_some(db + i, some) + d, some);
        });
        if (!dx) continue;
        const float m = total(sum) / (float)n, k = total(dot) / (float)n;
        FOR_VECTORS(i, n, some, {
            const vec h = (load_some(x + i, some) - mean) * scale;
            vec v = (load_some(dy + i, some) * load_some(w + i, some) - m - h * k) * scale;
            if (add) v += load_some(dx + i, some);
            store_some(dx + i, v, some);
        });
        dx += n;
    }
}

/* ---- GELU --------------------------------------------------------------------------------- */

/* Phi(x); *density: exp(-x^2 / 2). */
INLINE vec normal_share(vec x, vec *density)
{
    const vec a = size_of(x), t = 1 / (1 + 0.35f * a), e = exp_of(-0.5f * a * a);
    vec p = all(-0.029145965310177227f);
    p = p * t + 0.14397186586903807f;
    p = p * t - 0.2557145961041918f;
    p = p * t + 0.15917454381366433f;
    p = p * t - 0.023110093880449177f;
    p = p * t + 0.10550811115505515f;
    p = p * t + 0.11983284118469584f;
    p = p * t + 0.13986187322601565f;
    p = p * t + 0.13962140409996537f;
    const vec tail = p * t * e;
    *density = e;
    return either(x < 0, tail, 1 - tail);
}

static void gelu(float *y, const float *x, size_t n)
{
    vec e;
    FOR_VECTORS(i, n, some, {
        const vec v = load_some(x + i, some);
        store_some(y + i, v * normal_share(v, &e), some);
    });
}

/* Phi(x) + x phi(x) */
INLINE vec slope_of(vec x, vec share, vec e) { return share + x * e * 0.39894228040143268f; }

static void gelu_back(float *dx, const float *dy, const float *x, size_t n, bool add)
{
    FOR_VECTORS(i, n, some, {
        const vec v = load_some(x + i, some), old = add ? load_some(dx + i, some) : all(0);
        vec e, share = normal_share(v, &e);
        store_some(dx + i, old + load_some(dy + i, some) * slope_of(v, share, e), some);
    });
}

static void gelu_and_slope(float *y, float *x, size_t n)
{
    FOR_VECTORS(i, n, some, {
        const vec v = load_some(x + i, some);
        vec e, share = normal_share(v, &e);
        store_some(y + i, v * share, some);
        store_some(x + i, slope_of(v, share, e), some);
    });
}

/* ---- attention ---------------------------------------------------------------------------- */

/* Where a head's copies lie in a thread's scratch, n tokens of d numbers. */
typedef struct copies {
    size_t d, n; /* in whole vectors */
    float *q, *k, *v, *dy, *dk, *dv;
    float *kt, *vt;        /* transposed: (d, n) */
    float *score, *dscore; /* (KD__HEAD_BLOCK, n) */
    float *block;          /* (KD__HEAD_BLOCK, d) */
} copies;

static copies lay_out(const kd__head *h, float *scratch)
{
    copies c = {.d = whole(h->d), .n = whole(h->tokens)};
    float **const by_token[] = {&c.q, &c.k, &c.v, &c.dy, &c.dk, &c.dv, &c.kt, &c.vt};
    for (size_t i = 0; i < sizeof by_token / sizeof *by_token; i++, scratch += c.n * c.d)
        *by_token[i] = scratch;
    c.score = scratch;
    c.dscore = c.score + KD__HEAD_BLOCK * c.n;
    c.block = c.dscore + KD__HEAD_BLOCK * c.n;
    return c;
}

static size_t head_floats(size_t tokens, size_t d)
{
    const size_t w = whole(d), n = whole(tokens);
    return 8 * n * w + KD__HEAD_BLOCK * (2 * n + w);
}

/* Asks for what the next head has in this row: that is the same thread's turn (attention.c), and rows are so
 * far apart that no CPU sees them coming. */
#define ASK_FOR_NEXT(row, h, to_write)                                                                       \
    for (size_t next_ = 0; next_ < (h)->d; next_ += 16)                                                      \
    __builtin_prefetch((row) + (h)->d + next_, to_write, to_write ? 3 : 2)

/* to (rows, whole vectors) = scale * from (rows, ld); the lanes behind d are 0. */
static void copy_rows(float *to, const float *from, const kd__head *h, float scale)
{
    const size_t w = whole(h->d);
    for (size_t r = 0; r < h->tokens; r++, from += h->ld) {
        ASK_FOR_NEXT(from, h, 0);
        FOR_VECTORS(i, h->d, some, store(to + r * w + i, load_some(from + i, some) * scale));
    }
}

/* to (d, n whole) from (rows, ld); columns behind the tokens are 0. */
static void transpose(float *to, const float *from, const kd__head *h)
{
    const size_t n = whole(h->tokens);
    for (size_t r = 0; r < n; r += LANES)
        for (size_t i = 0; i < h->d; i += LANES) {
            const size_t some = kd_min_size(LANES, h->d - i);
            vec v[LANES];
            for (size_t k = 0; k < LANES; k++) {
                if (!i) ASK_FOR_NEXT(from + (r + k) * h->ld, h, 0);
                v[k] = r + k >= h->tokens ? all(0)
                       : some == LANES    ? load(from + (r + k) * h->ld + i)
                                          : load_some(from + (r + k) * h->ld + i, some);
            }
            transpose_square(v);
            for (size_t k = 0; k < some; k++) store(to + (i + k) * n + r, v[k]);
        }
}

/* to (rows, ld) = or += scale * from (rows, whole vectors). */
static void write_rows(float *to, const float *from, const kd__head *h, size_t rows, float scale, bool add)
{
    const size_t w = whole(h->d);
    for (size_t r = 0; r < rows; r++, to += h->ld) {
        ASK_FOR_NEXT(to, h, 1);
        FOR_VECTORS(i, h->d, some, {
            vec v = load_some(from + r * w + i, some) * scale;
            if (add) v += load_some(to + i, some);
            store_some(to + i, v, some);
        });
    }
}

/* Rows of n scores, in whole vectors, to exp(score - largest), 0 behind the tokens; and their sums. What a
 * row waits for is found for all rows first. */
static void exponentials(float *score, size_t rows, size_t tokens, float *top, float *sum)
{
    const size_t n = whole(tokens);
    for (size_t r = 0; r < rows; r++) {
        float *s = score + r * n;
        for (size_t i = tokens; i < n; i++) s[i] = -INFINITY;
        vec m = load(s);
        for (size_t i = LANES; i < n; i += LANES) m = larger(load(s + i), m);
        top[r] = largest(m);
    }
    for (size_t r = 0; r < rows; r++) {
        float *s = score + r * n;
        for (size_t i = 0; i < n; i += LANES) store(s + i, exp_of(load(s + i) - top[r]));
        for (size_t i = tokens; i < n; i++) s[i] = 0;
    }
    for (size_t r = 0; r < rows; r++) {
        vec all_of = {0};
        for (size_t i = 0; i < n; i += LANES) all_of += load(score + r * n + i);
        sum[r] = total(all_of);
    }
}

/* Numbers of query `row`, one a token, times what becomes of its shares. */
static void drop_shares(const kd__head *h, size_t row, float *score)
{
    for (size_t t = 0; t < h->tokens; t += 4) {
        float four[4];
        kd__mask_shares(four, h, row, t);
        for (size_t k = 0; k < 4; k++) score[t + k] *= four[k];
    }
}

static void attend(const kd__head *h, float *y, float *log_sum, float *scratch)
{
    const copies c = lay_out(h, scratch);
    copy_rows(c.q, h->q, h, h->scale);
    copy_rows(c.v, h->v, h, 1);
    transpose(c.kt, h->k, h);
    for (size_t at = 0; at < h->tokens; at += KD__HEAD_BLOCK) {
        const size_t rows = kd_min_size(KD__HEAD_BLOCK, h->tokens - at);
        multiply(c.score, c.n, (matrix){c.q + at * c.d, c.d, 1}, c.kt, c.n, rows, c.n, h->d, false);
        float top[KD__HEAD_BLOCK], sum[KD__HEAD_BLOCK];
        exponentials(c.score, rows, h->tokens, top, sum);
        for (size_t r = 0; log_sum && r < rows; r++) log_sum[at + r] = top[r] + logf(sum[r]);
        for (size_t r = 0; h->drop && r < rows; r++) drop_shares(h, at + r, c.score + r * c.n);
        multiply(c.block, c.d, (matrix){c.score, c.n, 1}, c.v, c.d, rows, c.d, h->tokens, false);
        for (size_t r = 0; r < rows; r++)
            write_rows(y + (at + r) * h->ld, c.block + r * c.d, h, 1, 1 / sum[r], false);
    }
}

/* score: P = exp(score - log_sum), what is dropped of it 0; dscore: P (dP - sum of dy y). Both 0 behind the
 * tokens. */
static void score_gradients(const kd__head *h, const copies *c, const float *y, size_t row, size_t r,
                            float log_sum)
{
    vec dot = {0};
    FOR_VECTORS(i, h->d, some, dot += load(c->dy + row * c->d + i) * load_some(y + i, some));
    const float d = total(dot);
    float *s = c->score + r * c->n, *ds = c->dscore + r * c->n;
    if (h->drop) drop_shares(h, row, ds);
    for (size_t i = 0; i < c->n; i += LANES) {
        const vec p = exp_of(load(s + i) - log_sum);
        store(s + i, p);
        store(ds + i, p * (load(ds + i) - d));
    }
    for (size_t i = h->tokens; i < c->n; i++) s[i] = ds[i] = 0;
    if (h->drop) drop_shares(h, row, s);
}

static void attend_back(const kd__head *h, const kd__head_grads *g, float *scratch)
{
    const copies c = lay_out(h, scratch);
    copy_rows(c.q, h->q, h, h->scale);
    copy_rows(c.k, h->k, h, 1);
    copy_rows(c.dy, g->dy, h, 1);
    transpose(c.kt, h->k, h);
    transpose(c.vt, h->v, h);
    for (size_t at = 0; at < h->tokens; at += KD__HEAD_BLOCK) {
        const size_t rows = kd_min_size(KD__HEAD_BLOCK, h->tokens - at);
        const float *q = c.q + at * c.d, *dy = c.dy + at * c.d;
        multiply(c.score, c.n, (matrix){q, c.d, 1}, c.kt, c.n, rows, c.n, h->d, false);
        multiply(c.dscore, c.n, (matrix){dy, c.d, 1}, c.vt, c.n, rows, c.n, h->d, false);
        for (size_t r = 0; r < rows; r++)
            score_gradients(h, &c, g->y + (at + r) * h->ld, at + r, r, g->log_sum[at + r]);
        multiply(c.dv, c.d, (matrix){c.score, 1, c.n}, dy, c.d, h->tokens, c.d, rows, at > 0);
        multiply(c.dk, c.d, (matrix){c.dscore, 1, c.n}, q, c.d, h->tokens, c.d, rows, at > 0);
        if (!g->dq) continue;
        multiply(c.block, c.d, (matrix){c.dscore, c.n, 1}, c.k, c.d, rows, c.d, h->tokens, false);
        write_rows(g->dq + at * h->ld, c.block, h, rows, h->scale, g->add[0]);
    }
    if (g->dk) write_rows(g->dk, c.dk, h, h->tokens, 1, g->add[1]);
    if (g->dv) write_rows(g->dv, c.dv, h, h->tokens, 1, g->add[2]);
}

const kd__encoder_kernels NAME(kd__encoder) = {
    .layernorm = layernorm,
    .layernorm_back = layernorm_back,
    .gelu = gelu,
    .gelu_back = gelu_back,
    .gelu_and_slope = gelu_and_slope,
    .head_floats = head_floats,
    .attend = attend,
    .attend_back = attend_back,
};
