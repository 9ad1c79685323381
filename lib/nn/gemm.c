/* gemm.c - a matrix product as a fixed grid of tiles, each computed whole by one thread.
 *
 * C is cut into a grid of (tile_m, tile_n) blocks; a block is one library kernel over all of K, so
 * no sum is ever split between threads and the bits do not depend on their number. That also
 * covers dW = dY^T X, whose K is the batch. The last row and the last column of blocks may be
 * smaller, so a grid has at most four kernels.
 *
 * The size of a tile is chosen by a small cost model from the shape alone. Large tiles run nearer
 * to the peak (less copying of operands, fewer calls), small tiles share the work better; the
 * model adds up the CPU time that 2, 8 and 32 threads would spend until the slowest is done. Its
 * constants were measured on Zen 4 (bench/kernels.c); they only steer, a wrong one costs speed.
 *
 * Independent products (dX and dW of a layer) run in one loop over all their tiles: one barrier.
 *
 * Token models have another number of rows in every batch. Where rows are those of C, tiles are cut as for
 * STEPS steps of rows, whatever the plan, and those without an active row are left out; the last one
 * computes what nobody reads. Where rows are K, a tile adds up one step of rows after the other. Either way
 * an element's sum is the same for any plan.
 */
#include "nn_private.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct kd__gemm {
    kd__gemm_desc d;
    kd__prim *prim[2][2]; /* [last row of tiles][last column of tiles] */
    kd__prim *next[2][2]; /* the same for the second step of rows and on: C += */
    int64_t tile_m, tile_n;
    int64_t rows, cols; /* of the grid */
    kd__team *team;
};

enum { STEPS = 4 };

static int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* oneDNN 2.6 has its good kernel for a transposed B only where the rows of C touch each other
 * (109 GFLOP/s on one core against 50 to 100); such a tile is computed beside and copied into C. */
static bool staged(const kd__gemm_desc *d, int64_t tile_n)
{
    return d->tb && !d->accumulate && tile_n < d->ldc;
}

/* Nanoseconds that one tile takes: the call, multiply-adds in whole registers, more of them where
 * the columns do not fill the kernel's blocks of 48, the copy of B into the kernel's layout, dear
 * where it has to be transposed, the reading of A, and the copy of a staged C. */
static double tile_cost(const kd__gemm_desc *d, int64_t m, int64_t n)
{
    const double lanes = (double)div_up(n, 16) * 16, k = (double)d->k;
    const double fit = d->tb ? 1.0 : 0.8 + 0.2 * (double)div_up(n, 48) * 48 / lanes;
    const double copy = (d->tb ? 0.085 : 0.02) * lanes * k + 0.02 * (double)m * k;
    const double unstage = staged(d, n) ? 0.15 * (double)(m * n) : 0;
    return 1500 + fit * 2.0 / 116 * (double)m * lanes * k + copy + unstage;
}

static double grid_cost(const kd__gemm_desc *d, int64_t m, int64_t n)
{
    static const struct {
        int threads;
        double weight;
    } team[] = {{2, 1.0}, {8, 1.0}, {32, 0.05}};
    const int64_t tiles = div_up(d->m, m) * div_up(d->n, n);
    double cost = 0;
    for (size_t i = 0; i < sizeof team / sizeof *team; i++)
        cost +=
            team[i].weight * team[i].threads * (double)div_up(tiles, team[i].threads) * tile_cost(d, m, n);
    return cost;
}

/* oneDNN 3.7 takes a matrix with one row or one column for a transposed one whatever its strides
 * say, and computes nonsense; so no tile may be one wide unless the whole product is. */
static bool leaves_one(int64_t whole, int64_t tile) { return whole > 1 && whole % tile == 1; }

/* A grid's last tiles are as high as the others, so that bits do not depend on where a row is. */
static bool uneven(const kd__gemm_desc *d, int64_t m) { return d->packed && !d->ta && KD__ROWS_STEP % m; }

/* Tries all cuts into up to 64 equal parts along each axis, rounded up to whole registers. */
static void choose_tile(const kd__gemm_desc *d, int64_t *tile_m, int64_t *tile_n)
{
    double best = INFINITY;
    for (int64_t i = 1; i <= 64; i++)
        for (int64_t j = 1; j <= 64; j++) {
            const int64_t m = div_up(div_up(d->m, i), 16) * 16, n = div_up(div_up(d->n, j), 16) * 16;
            const double cost = grid_cost(d, m, n);
            if (cost >= best || leaves_one(d->m, m) || leaves_one(d->n, n) || uneven(d, m)) continue;
            best = cost;
            *tile_m = m < d->m ? m : d->m;
            *tile_n = n < d->n ? n : d->n;
        }
}

kd_status kd__gemm_create(kd__gemm **out, const kd__gemm_desc *d, kd__team *team, kd_err *err)
{
    assert(d->m > 0 && d->n > 0 && d->k > 0 && !(d->accumulate && (d->bias || d->relu)));
    assert((d->n > 1 || d->ldc == 1) && (d->m > 1 || !d->ta || d->lda == 1)); // see leaves_one
    kd__gemm *g = calloc(1, sizeof *g);
    if (!g) return kd_fail(err, KD_ENOMEM, "out of memory for a matrix product");
    g->d = *d;
    kd__gemm_desc shape = *d;
    if (d->packed) *(d->ta ? &shape.k : &shape.m) = STEPS * KD__ROWS_STEP;
    choose_tile(&shape, &g->tile_m, &g->tile_n);
    g->rows = div_up(d->m, g->tile_m);
    g->cols = div_up(d->n, g->tile_n);
    g->team = team;
    kd_status st = KD_OK;
    if (staged(d, g->tile_n)) st = kd__team_reserve(team, (size_t)(g->tile_m * g->tile_n), err);
    for (int i = 0; i < 4 && !st; i++) {
        const bool last_m = i & 2, last_n = i & 1;
        if ((!last_m && g->rows == 1) || (!last_n && g->cols == 1)) continue;
        kd__gemm_desc tile = *d;
        if (d->packed && d->ta) tile.k = KD__ROWS_STEP;
        tile.m = last_m ? d->m - (g->rows - 1) * g->tile_m : g->tile_m;
        tile.n = last_n ? d->n - (g->cols - 1) * g->tile_n : g->tile_n;
        if (staged(d, g->tile_n)) tile.ldc = tile.n;
        st = kd__prim_matmul(&g->prim[last_m][last_n], &tile, team, err);
        tile.accumulate = true;
        if (!st && d->packed && d->ta) st = kd__prim_matmul(&g->next[last_m][last_n], &tile, team, err);
    }
    if (st)
        kd__gemm_free(g);
    else
        *out = g;
    return st;
}

void kd__gemm_free(kd__gemm *g)
{
    for (int i = 0; g && i < 4; i++) {
        kd__prim_free(g->prim[i / 2][i % 2]);
        kd__prim_free(g->next[i / 2][i % 2]);
    }
    free(g);
}

/* Tile t of the grid, counted along the rows, so that neighbours share rows of A. */
static void run_tile(const kd__gemm_call *call, int64_t t)
{
    const kd__gemm *g = call->g;
    const kd__gemm_desc *d = &g->d;
    const int64_t row = t / g->cols, col = t % g->cols;
    const bool last_m = row == g->rows - 1, last_n = col == g->cols - 1, beside = staged(d, g->tile_n);
    const int64_t m = row * g->tile_m, n = col * g->tile_n;
    float *c = call->c + m * d->ldc + n, *to = beside ? kd__team_stage(g->team) : c;
    size_t a = (size_t)(d->ta ? m : m * d->lda), b = (size_t)(d->tb ? n * d->ldb : n);
    const size_t steps = d->packed && d->ta ? (call->rows + KD__ROWS_STEP - 1) / KD__ROWS_STEP : 1;
    for (size_t i = 0; i < steps; i++) {
        kd__prim_run((i ? g->next : g->prim)[last_m][last_n],
                     (const char *)call->a + kd__operand_bytes(d->operands, a),
                     (const char *)call->b + kd__operand_bytes(d->operands, b),
                     call->bias ? call->bias + n : NULL, to);
        a += KD__ROWS_STEP * (size_t)d->lda;
        b += KD__ROWS_STEP * (size_t)d->ldb;
    }
    if (beside) {
        const int64_t height = last_m ? d->m - m : g->tile_m, width = last_n ? d->n - n : g->tile_n;
        for (int64_t i = 0; i < height; i++)
            memcpy(c + i * d->ldc, to + i * width, (size_t)width * sizeof *c);
    }
}

/* Those with rows in them come first. */
static int64_t active_tiles(const kd__gemm_call *call)
{
    const kd__gemm *g = call->g;
    return g->cols * (g->d.packed && !g->d.ta ? div_up((int64_t)call->rows, g->tile_m) : g->rows);
}

void kd__gemm_run(const kd__gemm_call *call, int n)
{
    int64_t tiles = 0;
    for (int i = 0; i < n; i++) tiles += active_tiles(&call[i]);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tiles; t++) {
        int64_t in_call = t;
        int i = 0;
        for (; in_call >= active_tiles(&call[i]); i++) in_call -= active_tiles(&call[i]);
        run_tile(&call[i], in_call);
    }
}
