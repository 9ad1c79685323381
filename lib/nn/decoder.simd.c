/* decoder.simd.c - the inner loops of RMS norm, rotary positions, SwiGLU and causal attention, once per
 * instruction set.
 *
 * Attention: several heads of queries share one head of keys and values (Ainslie et al., "GQA", 2023). Keys
 * and values are copied to rows of whole vectors once for all of them, keys also transposed. Queries go by in
 * blocks, each against the keys up to its last query: half of the work of an encoder, and what is behind a
 * query's own token gets no share. A block's scores stay in the nearest caches; backward makes the shares
 * again from the logarithms of their sums (Dao et al., "FlashAttention", 2022). Its sums over queries run
 * through their blocks, so they have one order.
 */
#include "tiles.h"

/* ---- RMS norm ------------------------------------------------------------------------------- */

static void rmsnorm(float *y, float *stats, const float *x, const float *w, size_t rows, size_t n, float eps)
{
    for (size_t r = 0; r < rows; r++, x += n, y += n) {
        vec square = {0};
        FOR_VECTORS(i, n, some, {
            const vec v = load_some(x + i, some);
            square += v * v;
        });
        const float scale = stats[r] = 1 / sqrtf(total(square) / (float)n + eps);
        FOR_VECTORS(i, n, some,
                    store_some(y + i, load_some(x + i, some) * scale * load_some(w + i, some), some));
    }
}

/* With g = dy w and h = x scale: dx = scale (g - h mean of (g h)). */
static void rmsnorm_back(float *dx, float *dw, const float *dy, const float *x, const float *stats,
                         const float *w, size_t rows, size_t n, bool add)
{
    for (size_t r = 0; r < rows; r++, x += n, dy += n) {
        const float scale = stats[r];
        vec dot = {0};
        FOR_VECTORS(i, n, some, {
            const vec d = load_some(dy + i, some), h = load_some(x + i, some) * scale;
            dot += d * load_some(w + i, some) * h;
            store_some(dw + i, load_some(dw + i, some) + d * h, some);
        });
        if (!dx) continue;
        const float k = total(dot) / (float)n;
        FOR_VECTORS(i, n, some, {
            const vec h = load_some(x + i, some) * scale;
            vec v = (load_some(dy + i, some) * load_some(w + i, some) - h * k) * scale;
            if (add) v += load_some(dx + i, some);
            store_some(dx + i, v, some);
        });
        dx += n;
    }
}

/* ---- rotary positions ----------------------------------------------------------------------- */

/* One token: heads of d numbers; number i and i + d / 2 are turned by an angle. */
static void rotate(float *y, const float *x, const float *cosine, const float *sine, size_t heads, size_t d,
                   bool add)
{
    const size_t half = d / 2;
    for (size_t k = 0; k < heads; k++, x += d, y += d)
        FOR_VECTORS(i, half, some, {
            const vec a = load_some(x + i, some), b = load_some(x + half + i, some);
            const vec c = load_some(cosine + i, some), s = load_some(sine + i, some);
            vec p = a * c - b * s, q = b * c + a * s;
            if (add) p += load_some(y + i, some), q += load_some(y + half + i, some);
            store_some(y + i, p, some);
            store_some(y + half + i, q, some);
        });
}

/* ---- SwiGLU --------------------------------------------------------------------------------- */

static void swiglu(float *y, const float *gate, const float *up, size_t n)
{
    FOR_VECTORS(i, n, some, {
        const vec g = load_some(gate + i, some);
        store_some(y + i, g / (1 + exp_of(-g)) * load_some(up + i, some), some);
    });
}

/* dgate, dup: each may be NULL, or dy. */
static void swiglu_back(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                        size_t n, const bool add[2])
{
    FOR_VECTORS(i, n, some, {
        const vec g = load_some(gate + i, some), u = load_some(up + i, some), d = load_some(dy + i, some);
        const vec s = 1 / (1 + exp_of(-g));
        vec dg = d * u * s * (1 + g * (1 - s)), du = d * g * s;
        if (dgate && add[0]) dg += load_some(dgate + i, some);
        if (dgate) store_some(dgate + i, dg, some);
        if (dup && add[1]) du += load_some(dup + i, some); // dup may be dgate
        if (dup) store_some(dup + i, du, some);
    });
}

/* ---- causal attention ----------------------------------------------------------------------- */

/* Where the copies of a head of keys and values lie in a thread's scratch. pairs: rows stand as pairs of
 * neighbouring rows, half as many, and what is turned around as pairs of neighbours in a row. */
typedef struct copies {
    bool pairs;
    size_t d, n, half;         /* in whole vectors; half: pairs of a row of d */
    float *k, *v, *dk, *dv;    /* (n, d) */
    float *kt, *vt;            /* (d, n) */
    float *along;              /* (n, half) */
    float *score, *dscore;     /* (KD__HEAD_BLOCK, n) */
    float *q, *dy, *out;       /* (KD__HEAD_BLOCK, d) */
    float *q_along, *dy_along; /* (KD__HEAD_BLOCK, half) */
} copies;

static copies lay_out(const kd__group *g, float *scratch)
{
    copies c = {.pairs = g->pairs, .d = whole(g->d), .n = whole(g->tokens), .half = whole((g->d + 1) / 2)};
    float **const by_token[] = {&c.k, &c.v, &c.dk, &c.dv, &c.kt, &c.vt, &c.along};
    float **const by_block[] = {&c.q, &c.dy, &c.out, &c.q_along, &c.dy_along};
    for (size_t i = 0; i < sizeof by_token / sizeof *by_token; i++, scratch += c.n * c.d)
        *by_token[i] = scratch;
    for (size_t i = 0; i < sizeof by_block / sizeof *by_block; i++, scratch += KD__HEAD_BLOCK * c.d)
        *by_block[i] = scratch;
    c.score = scratch;
    c.dscore = c.score + KD__HEAD_BLOCK * c.n;
    return c;
}

static size_t group_floats(size_t tokens, size_t d)
{
    const size_t w = whole(d), n = whole(tokens);
    return 7 * n * w + KD__HEAD_BLOCK * (2 * n + 5 * w);
}

/* K is k numbers, in pairs or not. */
static void multiply(const copies *c, float *y, size_t ldy, matrix a, const float *b, size_t ldb, size_t rows,
                     size_t n, size_t k, bool add)
{
    if (c->pairs)
        product(y, ldy, a, b, ldb, rows, n, (k + 1) / 2, add, true);
    else
        product(y, ldy, a, b, ldb, rows, n, k, add, false);
}

/* Pairs along rows of n numbers, with zeros behind them to a whole vector; to may be from. */
static void pair_along(float *to, size_t to_ld, const float *from, size_t from_ld, size_t rows, size_t n)
{
    for (size_t r = 0; r < rows; r++, to += to_ld, from += from_ld)
        for (size_t i = 0; i < n; i += 2 * LANES)
            store(to + i / 2, pairs_of(load(from + i), i + LANES < n ? load(from + i + LANES) : all(0)));
}

/* Pairs of neighbouring rows; to may be from. */
static void pair_rows(float *to, const float *from, size_t ld, size_t rows, size_t n)
{
    for (size_t r = 0; r < rows; r += 2)
        for (size_t i = 0; i < n; i += LANES) {
            const float *at = from + r * ld + i;
            store(to + r / 2 * ld + i, pairs_between(load(at), r + 1 < rows ? load(at + ld) : all(0)));
        }
}

/* to (rows, whole vectors) = scale * from (rows, ld); the lanes behind d are 0. */
static void take(float *to, const float *from, size_t rows, size_t d, size_t ld, float scale)
{
    const size_t w = whole(d);
    for (size_t r = 0; r < rows; r++, from += ld)
        FOR_VECTORS(i, d, some, store(to + r * w + i, load_some(from + i, some) * scale));
}

/* to (rows, ld) = or += scale * from (rows, whole vectors). */
static void give(float *to, const float *from, size_t rows, size_t d, size_t ld, float scale, bool add)
{
    const size_t w = whole(d);
    for (size_t r = 0; r < rows; r++, to += ld)
        FOR_VECTORS(i, d, some, {
            vec v = load_some(from + r * w + i, some) * scale;
            if (add) v += load_some(to + i, some);
            store_some(to + i, v, some);
        });
}

/* to (width, n whole) from copied rows of `width`, whole vectors; columns behind the tokens are 0. */
static void turn(float *to, const float *from, size_t width, const kd__group *g)
{
    const size_t n = whole(g->tokens);
    for (size_t r = 0; r < n; r += LANES)
        for (size_t i = 0; i < width; i += LANES) {
            vec v[LANES];
            for (size_t k = 0; k < LANES; k++)
                v[k] = r + k < g->tokens ? load(from + (r + k) * width + i) : all(0);
            transpose_square(v);
            for (size_t k = 0; k < LANES; k++) store(to + (i + k) * n + r, v[k]);
        }
}

/* Keys or values: rows, and turned around (or NULL). */
static void copy_tokens(const copies *c, const kd__group *g, float *rows, float *turned, const float *from)
{
    take(rows, from, g->tokens, g->d, g->ldk, 1);
    if (c->pairs && turned) pair_along(c->along, c->half, rows, c->d, g->tokens, g->d);
    if (turned) turn(turned, c->pairs ? c->along : rows, c->pairs ? c->half : c->d, g);
    if (c->pairs) pair_rows(rows, rows, c->d, g->tokens, c->d);
}

/* A block of queries, or of dy: to be multiplied along its rows, as returned, and across them. */
static matrix copy_block(const copies *c, const kd__group *g, float *rows, float *along, const float *from,
                         size_t n, float scale)
{
    take(rows, from, n, g->d, g->ldq, scale);
    if (!c->pairs) return (matrix){rows, c->d, 1};
    pair_along(along, c->half, rows, c->d, n, g->d);
    pair_rows(rows, rows, c->d, n, c->d);
    return (matrix){along, c->half, 1};
}

/* A row of n scores, in whole vectors, to exp(score - largest), 0 behind the tokens; returns the sum. */
static float exponentials(float *s, size_t tokens, float *top)
{
    const size_t n = whole(tokens);
    for (size_t i = tokens; i < n; i++) s[i] = -INFINITY;
    vec m = load(s), sum = {0};
    for (size_t i = LANES; i < n; i += LANES) m = larger(load(s + i), m);
    *top = largest(m);
    for (size_t i = 0; i < n; i += LANES) {
        const vec e = exp_of(load(s + i) - *top);
        store(s + i, e);
    }
    for (size_t i = tokens; i < n; i++) s[i] = 0;
    for (size_t i = 0; i < n; i += LANES) sum += load(s + i);
    return total(sum);
}

static void attend_causal(const kd__group *g, float *y, float *log_sum, float *scratch)
{
    const copies c = lay_out(g, scratch);
    const size_t queries = g->tokens - g->past, ldk = g->kt ? g->ldkt : c.n, ldv = g->kt ? g->ldvt : c.d;
    const float *kt = g->kt ? g->kt : c.kt, *v = g->kt ? g->vt : c.v;
    if (!g->kt) {
        copy_tokens(&c, g, c.k, c.kt, g->k);
        copy_tokens(&c, g, c.v, NULL, g->v);
    }
    for (size_t head = 0; head < g->heads; head++)
        for (size_t at = 0; at < queries; at += KD__HEAD_BLOCK) {
            const size_t rows = kd_min_size(KD__HEAD_BLOCK, queries - at), own = g->past + at + 1,
                         keys = g->past + at + rows;
            const size_t where = at * g->ldq + head * g->d;
            const matrix q = copy_block(&c, g, c.q, c.q_along, g->q + where, rows, g->scale);
            multiply(&c, c.score, c.n, q, kt, ldk, rows, whole(keys), g->d, false);
            float sum[KD__HEAD_BLOCK];
            for (size_t r = 0; r < rows; r++) {
                float top, *s = c.score + r * c.n;
                sum[r] = exponentials(s, own + r, &top);
                for (size_t i = whole(own + r); i < whole(keys); i++) s[i] = 0;
                if (log_sum) log_sum[head * g->tokens + at + r] = top + logf(sum[r]);
            }
            if (c.pairs) pair_along(c.score, c.n, c.score, c.n, rows, keys);
            multiply(&c, c.out, c.d, (matrix){c.score, c.n, 1}, v, ldv, rows, c.d, keys, false);
            for (size_t r = 0; r < rows; r++)
                give(y + where + r * g->ldq, c.out + r * c.d, 1, g->d, g->ldq, 1 / sum[r], false);
        }
}

/* score: P = exp(score - log_sum); dscore: P (dP - sum of dy y). Both 0 behind the query's own token. */
static void share_gradients(const kd__group *g, const copies *c, const float *y, const float *dy, size_t r,
                            size_t own, size_t keys, float log_sum)
{
    vec dot = {0};
    FOR_VECTORS(i, g->d, some, dot += load_some(dy + i, some) * load_some(y + i, some));
    const float d = total(dot);
    float *s = c->score + r * c->n, *ds = c->dscore + r * c->n;
    for (size_t i = 0; i < own; i += LANES) {
        const vec p = exp_of(load(s + i) - log_sum);
        store(s + i, p);
        store(ds + i, p * (load(ds + i) - d));
    }
    for (size_t i = own; i < whole(keys); i++) s[i] = ds[i] = 0;
}

static void attend_causal_back(const kd__group *g, const kd__group_grads *b, float *scratch)
{
    const copies c = lay_out(g, scratch);
    copy_tokens(&c, g, c.k, c.kt, g->k);
    copy_tokens(&c, g, c.v, c.vt, g->v);
    memset(c.dk, 0, c.n * c.d * sizeof(float));
    memset(c.dv, 0, c.n * c.d * sizeof(float));
    for (size_t at = 0; at < g->tokens; at += KD__HEAD_BLOCK) {
        const size_t rows = kd_min_size(KD__HEAD_BLOCK, g->tokens - at), keys = at + rows,
                     where = at * g->ldq;
        const matrix q = copy_block(&c, g, c.q, c.q_along, g->q + where, rows, g->scale),
                     dy = copy_block(&c, g, c.dy, c.dy_along, b->dy + where, rows, 1);
        multiply(&c, c.score, c.n, q, c.kt, c.n, rows, whole(keys), g->d, false);
        multiply(&c, c.dscore, c.n, dy, c.vt, c.n, rows, whole(keys), g->d, false);
        for (size_t r = 0; r < rows; r++)
            share_gradients(g, &c, b->y + where + r * g->ldq, b->dy + where + r * g->ldq, r, at + r + 1, keys,
                            b->log_sum[at + r]);
        if (c.pairs) pair_rows(c.score, c.score, c.n, rows, keys);
        multiply(&c, c.dv, c.d, (matrix){c.score, 1, c.n}, c.dy, c.d, keys, c.d, rows, true);
        if (c.pairs) pair_rows(c.score, c.dscore, c.n, rows, keys);
        const float *ds = c.pairs ? c.score : c.dscore;
        multiply(&c, c.dk, c.d, (matrix){ds, 1, c.n}, c.q, c.d, keys, c.d, rows, true);
        if (!b->dq) continue;
        if (c.pairs) pair_along(c.dscore, c.n, c.dscore, c.n, rows, keys);
        multiply(&c, c.out, c.d, (matrix){c.dscore, c.n, 1}, c.k, c.d, rows, c.d, keys, false);
        give(b->dq + where, c.out, rows, g->d, g->ldq, g->scale, b->add);
    }
    if (b->dk) give(b->dk, c.dk, g->tokens, g->d, g->ldq, 1, false);
    if (b->dv) give(b->dv, c.dv, g->tokens, g->d, g->ldq, 1, false);
}

const kd__decoder_kernels NAME(kd__decoder) = {
    .rmsnorm = rmsnorm,
    .rmsnorm_back = rmsnorm_back,
    .rotate = rotate,
    .swiglu = swiglu,
    .swiglu_back = swiglu_back,
    .group_floats = group_floats,
    .attend = attend_causal,
    .attend_back = attend_causal_back,
};
