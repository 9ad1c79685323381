/* panels.simd.c - the inner loops of products for token models (panels.c), once per instruction set.
 *
 * One operand lies in panels: as many columns as three registers have lanes, one behind the other along K.
 * The other one is read where it is. A tile of C, ROWS rows by one panel, stays in registers while a step of
 * K goes by: each number of A is spread over a register and meets three of B. That is as many accumulators as
 * there are registers for, and on AVX-512 98 % of the CPU's peak (bench/kernels.c measures it).
 *
 * Pairs: an element is two bf16 numbers that are neighbours along K, the first one in its lower half. They
 * lie as numbers do, half as many, and an instruction multiplies both and adds both products.
 */
#include "pairs.h"

#if defined __AVX512F__
enum { ROWS = 8 };
#else
enum { ROWS = 4 };
#endif
enum { VECTORS = 3, WIDTH = VECTORS * LANES };

typedef struct matrix { /* element (i, p) at i * row + p * col */
    const float *at;
    size_t row, col;
} matrix;

/* What a tile asks for while it computes: `lines` of what B's next panel has, and `rows` rows of the A of the
 * next piece; both move on by a cache line's worth of K at a time, and so do `c_rows` rows of the C of the
 * next tile. */
typedef struct ahead {
    const char *b, *a, *soon;
    const float *c;
    size_t lines, rows, lda, c_rows, ldc, soon_lines;
} ahead;
enum { LINE = 64, STRIDE = LINE / sizeof(float) };

/* to_write takes constants only. */
#define FETCH(at, to_write) __builtin_prefetch(at, to_write, to_write ? 3 : 2)

INLINE void fetch(ahead *f)
{
    for (size_t i = 0; i < f->lines; i++, f->b += LINE) FETCH(f->b, 0);
    for (size_t i = 0; i < f->soon_lines; i++, f->soon += LINE) FETCH(f->soon, 0);
    for (size_t i = 0; i < f->rows; i++) FETCH(f->a + i * f->lda, 0);
    if (f->rows) f->a += LINE;
    for (size_t i = 0; i < f->c_rows; i++, f->c += f->ldc)
        for (size_t j = 0; j < WIDTH; j += STRIDE) FETCH(f->c + j, 1);
}

/* C = start, or C +, A (ROWS, k) B (k, WIDTH). */
INLINE void tile(float *c, size_t ldc, const float *start, size_t start_row, matrix a, const float *b,
                 size_t k, bool relu, bool pairs, ahead f)
{
    vec sum[ROWS][VECTORS];
    UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] =
        start ? load(start + (size_t)i * start_row + j * LANES) : all(0);
    for (size_t p = 0; p < k; p += STRIDE) {
        const size_t n = kd_min_size(STRIDE, k - p);
        fetch(&f);
        for (size_t i = 0; i < n; i++, b += WIDTH, a.at += a.col) {
            vec w[VECTORS];
            UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load(b + j * LANES);
            UNROLL for (int r = 0; r < ROWS; r++)
            {
                const vec x = pairs ? all_pairs(a.at[(size_t)r * a.row]) : all(a.at[(size_t)r * a.row]);
                UNROLL for (int j = 0; j < VECTORS; j++) sum[r][j] =
                    pairs ? add_products(sum[r][j], x, w[j]) : sum[r][j] + x * w[j];
            }
        }
    }
    UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int j = 0; j < VECTORS; j++)
    {
        const vec v = sum[i][j]; // a NaN is not below 0 and stays
        store(c + (size_t)i * ldc + j * LANES, relu ? either(v < 0, all(0), v) : v);
    }
}

/* A tile that has less than ROWS rows or WIDTH columns: through a copy. */
INLINE void edge(float *c, size_t ldc, const float *start, size_t start_row, matrix a, const float *b,
                 size_t k, bool relu, bool pairs, size_t rows, size_t width)
{
    _Alignas(64) float from[ROWS * WIDTH] = {0}, to[ROWS * WIDTH];
    for (size_t i = 0; start && i < rows; i++)
        memcpy(from + i * WIDTH, start + i * start_row, width * sizeof *from);
    tile(to, WIDTH, from, WIDTH, a, b, k, relu, pairs, (ahead){0});
    for (size_t i = 0; i < rows; i++) memcpy(c + i * ldc, to + i * WIDTH, width * sizeof *c);
}

/* Rows by a panel; `rows` of A may be read up to the next multiple of ROWS. */
INLINE void column(const kd__panel_product *t, size_t rows, size_t a_step, matrix a, bool pairs)
{
    const size_t start_row = t->bias ? 0 : t->ldc, tiles = (rows + ROWS - 1) / ROWS,
                 strides = (t->k + STRIDE - 1) / STRIDE;
    ahead f = {.b = (const char *)t->next_b, .rows = t->next_rows, .lda = t->next_lda * sizeof(float)};
    f.lines = (t->next_floats / STRIDE + tiles * strides - 1) / (tiles * strides);
    f.soon = (const char *)t->soon;
    f.soon_lines = (t->soon_floats / STRIDE + tiles * strides - 1) / (tiles * strides);
    f.ldc = t->ldc;
    for (size_t i = 0; i < rows; i += ROWS, a.at += a_step) {
        float *c = t->c + i * t->ldc;
        const float *start = t->bias ? t->bias : t->add ? c : NULL;
        if (f.rows) f.a = (const char *)(t->next_a + i * t->next_lda);
        f.c_rows = i + 2 * ROWS <= rows ? (ROWS + strides - 1) / strides : 0;
        f.c = c + ROWS * t->ldc;
        if (rows - i >= ROWS && t->width == WIDTH)
            tile(c, t->ldc, start, start_row, a, t->b, t->k, t->relu, pairs, f);
        else
            edge(c, t->ldc, start, start_row, a, t->b, t->k, t->relu, pairs, kd_min_size(ROWS, rows - i),
                 t->width);
        if (f.b) f.b += f.lines * strides * LINE;
        if (f.soon) f.soon += f.soon_lines * strides * LINE;
    }
}

static void rows_by_panel(const kd__panel_product *t, const float *a, size_t lda, size_t rows)
{
    const matrix m = {a, lda, 1};
    if (t->pairs)
        column(t, rows, ROWS * lda, m, true);
    else
        column(t, rows, ROWS * lda, m, false);
}

/* A in panels of ROWS rows, transposed: (rows / ROWS, k, ROWS). */
static void panels_by_panel(const kd__panel_product *t, const float *a, size_t rows)
{
    const matrix m = {a, 1, ROWS};
    if (t->pairs)
        column(t, rows, ROWS * t->k, m, true);
    else
        column(t, rows, ROWS * t->k, m, false);
}

/* ---- laying out ---------------------------------------------------------------------------- */

enum { SOON = 32 }; /* rows ahead: too far apart for a CPU to see them coming */

static void pair(float *to, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) store(to + i / 2, pairs_of(load(x + i), load(x + i + LANES)));
    if (i == n) return;
    const size_t first = kd_min_size(LANES, n - i), rest = n - i - first;
    const vec v = pairs_of(load_some(x + i, first), load_some(x + i + first, rest));
    store_some(to + i / 2, v, (n - i + 1) / 2);
}

/* Rows p and p + 1 of b, from column j on; a row behind the last one is zeros. */
INLINE vec pairs_at(const float *b, size_t ldb, size_t k, size_t p, size_t j, size_t n)
{
    b += p * ldb + j;
    return pairs_between(load_some(b, n), p + 1 < k ? load_some(b + ldb, n) : all(0));
}

/* to (k / 2, WIDTH) = columns of b (k, ldb), `width` of them, and zeros behind. */
static void pair_panel(float *to, const float *b, size_t ldb, size_t k, size_t width)
{
    for (size_t p = 0; p < k; p += 2, to += WIDTH) {
        for (size_t j = 0; j < width; j += STRIDE) {
            FETCH(b + (p + SOON) * ldb + j, 0);
            FETCH(b + (p + SOON + 1) * ldb + j, 0);
        }
        if (width == WIDTH && p + 1 < k) {
            const float *row = b + p * ldb;
            UNROLL for (size_t j = 0; j < WIDTH; j += LANES)
                store(to + j, pairs_between(load(row + j), load(row + ldb + j)));
        } else
            for (size_t j = 0; j < WIDTH; j += LANES)
                store(to + j, j < width ? pairs_at(b, ldb, k, p, j, kd_min_size(LANES, width - j)) : all(0));
    }
}

/* n columns, in panels of ROWS. */
static void pair_rows(float *to, const float *a, size_t lda, size_t k, size_t n)
{
    const size_t depth = (k + 1) / 2;
    for (size_t j = 0; j < n; j += LANES)
        for (size_t p = 0; p < k; p += 2) {
            const size_t some = kd_min_size(LANES, n - j);
            FETCH(a + (p + SOON) * lda + j, 0);
            FETCH(a + (p + SOON + 1) * lda + j, 0);
            const vec v = some == LANES && p + 1 < k
                              ? pairs_between(load(a + p * lda + j), load(a + (p + 1) * lda + j))
                              : pairs_at(a, lda, k, p, j, some);
            for (size_t i = 0; i < some; i += ROWS)
                memcpy(to + (j + i) * depth + p / 2 * ROWS, (const float *)&v + i, ROWS * sizeof *to);
        }
}

typedef uint16_t shorts __attribute__((vector_size(LANES * sizeof(uint16_t))));

/* Its lanes, of 16 bits, in 32. */
INLINE uvec widened(const uint16_t *a, size_t n)
{
    shorts v = {0};
    memcpy(&v, a, n * sizeof *a);
    return __builtin_convertvector(v, uvec);
}

static void turn_pairs(float *to, const uint16_t *a, size_t lda, size_t k, size_t n)
{
    const size_t depth = (k + 1) / 2;
    for (size_t j = 0; j < n; j += LANES)
        for (size_t p = 0; p < k; p += 2) {
            const size_t some = kd_min_size(LANES, n - j);
            const uint16_t *at = a + p * lda + j;
            FETCH(at + SOON * lda, 0);
            FETCH(at + (SOON + 1) * lda, 0);
            const uvec first = some == LANES ? widened(at, LANES) : widened(at, some),
                       second = p + 1 == k      ? (uvec){0}
                                : some == LANES ? widened(at + lda, LANES)
                                                : widened(at + lda, some),
                       v = first | second << 16;
            for (size_t i = 0; i < some; i += ROWS)
                memcpy(to + (j + i) * depth + p / 2 * ROWS, (const float *)&v + i, ROWS * sizeof *to);
        }
}

/* to (k / 2, WIDTH) of b (width, ldb) transposed. */
static void pair_transposed(float *to, const float *b, size_t ldb, size_t k, size_t width)
{
    for (size_t p = 0; p < k; p += 2 * LANES)
        for (size_t j = 0; j < WIDTH; j += LANES) {
            const size_t some = kd_min_size(2 * LANES, k - p);
            vec v[LANES];
            for (size_t i = 0; i < LANES; i++) {
                const float *row = b + (j + i) * ldb + p;
                FETCH(row + 4 * LANES, 0);
                FETCH(row + 5 * LANES, 0);
                if (j + i < width && some == 2 * LANES)
                    v[i] = pairs_of(load(row), load(row + LANES));
                else {
                    float copy[2 * LANES] = {0};
                    if (j + i < width) memcpy(copy, row, some * sizeof *row);
                    v[i] = pairs_of(load(copy), load(copy + LANES));
                }
            }
            transpose_square(v);
            for (size_t i = 0; i < (some + 1) / 2; i++) store(to + (p / 2 + i) * WIDTH + j, v[i]);
        }
}

INLINE void pack_row(float *to, const float *b, size_t n, bool rounded)
{
    UNROLL for (size_t j = 0; j < n; j += LANES)
    {
        const size_t some = kd_min_size(LANES, n - j);
        const vec v = load_some(b + j, some);
        store_some(to + j, rounded ? bf16_of(v) : v, some);
    }
}

/* to (k, lanes) = columns of b (k, ldb), `lanes` of them. */
INLINE void pack_whole(float *to, const float *b, size_t ldb, size_t k, size_t lanes, bool rounded)
{
    for (size_t p = 0; p < k; p++) {
        for (size_t j = 0; j < lanes; j += STRIDE) FETCH(b + (p + SOON) * ldb + j, 0);
        pack_row(to + p * lanes, b + p * ldb, lanes, rounded);
    }
}

/* `width` of them, and zeros behind. */
INLINE void pack_some(float *to, const float *b, size_t ldb, size_t k, size_t width, size_t lanes,
                      bool rounded)
{
    for (size_t p = 0; p < k; p++, to += lanes, b += ldb) {
        for (size_t j = 0; j < width; j += LANES) {
            const size_t some = kd_min_size(LANES, width - j);
            const vec v = load_some(b + j, some);
            store_some(to + j, rounded ? bf16_of(v) : v, some);
        }
        for (size_t j = width; j < lanes; j++) to[j] = 0;
    }
}

INLINE void pack(float *to, const float *b, size_t ldb, size_t k, size_t width, size_t lanes, bool rounded)
{
    if (width < lanes)
        pack_some(to, b, ldb, k, width, lanes, rounded);
    else if (rounded)
        pack_whole(to, b, ldb, k, lanes, true);
    else
        pack_whole(to, b, ldb, k, lanes, false);
}

static void pack_panel(float *to, const float *b, size_t ldb, size_t k, size_t width, kd__operands o)
{
    if (o == KD__BF16)
        pair_panel(to, b, ldb, k, width);
    else
        pack(to, b, ldb, k, width, WIDTH, o == KD__ROUNDED);
}

#if defined __AVX2__
/* The first, and the second, halves of two vectors. */
INLINE vec halves(vec a, vec b, int which)
{
    enum { HALF = LANES / 2 };
    vec v;
    memcpy(&v, (const float *)&a + which * HALF, HALF * sizeof(float));
    memcpy((float *)&v + HALF, (const float *)&b + which * HALF, HALF * sizeof(float));
    return v;
}

/* Two panels of half a vector at once, two rows at a time: each line of a is read once. */
INLINE void pack_two(float *to, const float *a, size_t lda, size_t k, bool rounded)
{
    for (size_t p = 0; p + 2 <= k; p += 2, a += 2 * lda, to += LANES) {
        vec v = load(a), w = load(a + lda);
        if (rounded) v = bf16_of(v), w = bf16_of(w);
        FETCH(a + SOON * lda, 0);
        FETCH(a + (SOON + 1) * lda, 0);
        store(to, halves(v, w, 0));
        store(to + k * ROWS, halves(v, w, 1));
    }
    for (int i = 0; i < 2 && k % 2; i++) pack_row(to + (size_t)i * k * ROWS, a + i * ROWS, ROWS, rounded);
}
#endif

/* n columns, in panels of ROWS. */
static void pack_rows(float *to, const float *a, size_t lda, size_t k, size_t n, kd__operands o)
{
    const bool rounded = o == KD__ROUNDED;
    size_t j = 0;
    if (o == KD__BF16) {
        pair_rows(to, a, lda, k, n);
        return;
    }
#if defined __AVX2__
    for (; j + LANES <= n; j += LANES) {
        if (rounded)
            pack_two(to + j * k, a + j, lda, k, true);
        else
            pack_two(to + j * k, a + j, lda, k, false);
    }
#endif
    for (; j < n; j += ROWS) pack(to + j * k, a + j, lda, k, kd_min_size(ROWS, n - j), ROWS, rounded);
}

/* The same of b (width, ldb) transposed, square by square. */
static void pack_transposed(float *to, const float *b, size_t ldb, size_t k, size_t width, kd__operands o)
{
    if (o == KD__BF16) {
        pair_transposed(to, b, ldb, k, width);
        return;
    }
    for (size_t p = 0; p < k; p += LANES)
        for (size_t j = 0; j < WIDTH; j += LANES) {
            const size_t some = kd_min_size(LANES, k - p);
            vec v[LANES];
            for (size_t i = 0; i < LANES; i++)
                v[i] = j + i >= width  ? all(0)
                       : some == LANES ? load(b + (j + i) * ldb + p)
                                       : load_some(b + (j + i) * ldb + p, some);
            if (o == KD__ROUNDED) UNROLL for (size_t i = 0; i < LANES; i++) v[i] = bf16_of(v[i]);
            transpose_square(v);
            for (size_t i = 0; i < some; i++) store(to + (p + i) * WIDTH + j, v[i]);
        }
}

const kd__panel_kernels NAME(kd__panels) = {
    .rows = ROWS,
    .width = WIDTH,
    .rows_by_panel = rows_by_panel,
    .panels_by_panel = panels_by_panel,
    .pack_panel = pack_panel,
    .pack_rows = pack_rows,
    .pack_transposed = pack_transposed,
    .pair = pair,
    .turn_pairs = turn_pairs,
};
