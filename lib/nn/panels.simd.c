/* panels.simd.c - the inner loops of products for token models (panels.c), once per instruction set.
 *
 * One operand lies in panels: as many columns as three registers have lanes, one behind the other along K.
 * The other one is read where it is. A tile of C, ROWS rows by one panel, stays in registers while a step of
 * K goes by: each number of A is spread over a register and meets three of B. That is as many accumulators as
 * there are registers for, and on AVX-512 98 % of the CPU's peak (bench/kernels.c measures it).
 */
#include "lanes.h"

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
 * next piece; both move on by a cache line's worth of K at a time. */
typedef struct ahead {
    const char *b, *a;
    size_t lines, rows, lda;
} ahead;
enum { LINE = 64, STRIDE = LINE / sizeof(float) };

/* to_write takes constants only. */
#define FETCH(at, to_write) __builtin_prefetch(at, to_write, to_write ? 3 : 2)

INLINE void fetch(ahead *f)
{
    for (size_t i = 0; i < f->lines; i++, f->b += LINE) FETCH(f->b, 0);
    for (size_t i = 0; i < f->rows; i++) FETCH(f->a + i * f->lda, 0);
    if (f->rows) f->a += LINE;
}

/* C = start, or C +, A (ROWS, k) B (k, WIDTH). Stores would wait for C's lines if nobody had asked for them.
 */
INLINE void tile(float *c, size_t ldc, const float *start, size_t start_row, matrix a, const float *b,
                 size_t k, bool relu, ahead f)
{
    vec sum[ROWS][VECTORS];
    UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] =
        start ? load(start + (size_t)i * start_row + j * LANES) : all(0);
    for (size_t p = 0, row = 0; p < k; p += STRIDE, row++) {
        const size_t n = kd_min_size(STRIDE, k - p);
        fetch(&f);
        if (row < ROWS)
            for (size_t j = 0; j < WIDTH; j += STRIDE) FETCH(c + row * ldc + j, 1);
        for (size_t i = 0; i < n; i++, b += WIDTH, a.at += a.col) {
            vec w[VECTORS];
            UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load(b + j * LANES);
            UNROLL for (int r = 0; r < ROWS; r++)
            {
                const vec x = all(a.at[(size_t)r * a.row]);
                UNROLL for (int j = 0; j < VECTORS; j++) sum[r][j] += x * w[j];
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
static void edge(float *c, size_t ldc, const float *start, size_t start_row, matrix a, const float *b,
                 size_t k, bool relu, size_t rows, size_t width)
{
    _Alignas(64) float from[ROWS * WIDTH] = {0}, to[ROWS * WIDTH];
    for (size_t i = 0; start && i < rows; i++)
        memcpy(from + i * WIDTH, start + i * start_row, width * sizeof *from);
    tile(to, WIDTH, from, WIDTH, a, b, k, relu, (ahead){0});
    for (size_t i = 0; i < rows; i++) memcpy(c + i * ldc, to + i * WIDTH, width * sizeof *c);
}

/* Rows by a panel; `rows` of A may be read up to the next multiple of ROWS. */
INLINE void column(const kd__panel_product *t, size_t rows, size_t a_step, matrix a)
{
    const size_t start_row = t->bias ? 0 : t->ldc, tiles = (rows + ROWS - 1) / ROWS,
                 strides = (t->k + STRIDE - 1) / STRIDE;
    ahead f = {.b = (const char *)t->next_b, .rows = t->next_rows, .lda = t->next_lda * sizeof(float)};
    if (f.b) f.lines = (t->k * WIDTH * sizeof(float) / LINE + tiles * strides - 1) / (tiles * strides);
    for (size_t i = 0; i < rows; i += ROWS, a.at += a_step) {
        float *c = t->c + i * t->ldc;
        const float *start = t->bias ? t->bias : t->add ? c : NULL;
        if (f.rows) f.a = (const char *)(t->next_a + i * t->next_lda);
        if (rows - i >= ROWS && t->width == WIDTH)
            tile(c, t->ldc, start, start_row, a, t->b, t->k, t->relu, f);
        else
            edge(c, t->ldc, start, start_row, a, t->b, t->k, t->relu, kd_min_size(ROWS, rows - i), t->width);
        if (f.b) f.b += f.lines * strides * LINE;
    }
}

static void rows_by_panel(const kd__panel_product *t, const float *a, size_t lda, size_t rows)
{
    column(t, rows, ROWS * lda, (matrix){a, lda, 1});
}

/* A in panels of ROWS rows, transposed: (rows / ROWS, k, ROWS). */
static void panels_by_panel(const kd__panel_product *t, const float *a, size_t rows)
{
    column(t, rows, ROWS * t->k, (matrix){a, 1, ROWS});
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

enum { SOON = 32 }; /* rows ahead: too far apart for a CPU to see them coming */

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

static void pack_panel(float *to, const float *b, size_t ldb, size_t k, size_t width, bool rounded)
{
    pack(to, b, ldb, k, width, WIDTH, rounded);
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
static void pack_rows(float *to, const float *a, size_t lda, size_t k, size_t n, bool rounded)
{
    size_t j = 0;
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
static void pack_transposed(float *to, const float *b, size_t ldb, size_t k, size_t width, bool rounded)
{
    for (size_t p = 0; p < k; p += LANES)
        for (size_t j = 0; j < WIDTH; j += LANES) {
            const size_t some = kd_min_size(LANES, k - p);
            vec v[LANES];
            for (size_t i = 0; i < LANES; i++)
                v[i] = j + i >= width  ? all(0)
                       : some == LANES ? load(b + (j + i) * ldb + p)
                                       : load_some(b + (j + i) * ldb + p, some);
            if (rounded) UNROLL for (size_t i = 0; i < LANES; i++) v[i] = bf16_of(v[i]);
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
};
