/* head.c - the last layer of a language model, a piece of rows at a time.
 *
 *     logits  z (n, words)   = x W^T          x: the rows asked for, gathered
 *     data    dx (n, width)  = dz W           scattered to the rows they are of
 *     weights dW (words, width) += dz^T x     piece after piece
 *
 * Nothing is as long as rows x words: a piece has some rows. W, dW and a piece's logits are larger than the
 * caches, and each of them passes through once a piece: a larger piece reads and writes W and dW less often.
 * Nothing of the size of W is copied. A thread takes WORDS words at a time, lays out what it needs of W, z or
 * dz in its own cache, in panels (panels.c), and computes all that these words are good for: their logits, or
 * their rows of dW and what they add to dx. dx is added up in shares of words, and the shares in order.
 *
 * In bf16 a piece's logits may be of 16 bits: f16, whose 11 bits round less than bf16 operands did, then
 * their gradients, which are bf16 operands.
 *
 * On CPUs with tiles for bf16 (precision.c) products are the library's, planned for whole pieces: rows of the
 * last one that nobody asked for are zeros.
 */
#include "nn_private.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4096, WORDS = 192, SHARE = 32 * WORDS };

struct kd_head {
    kd_graph *g;
    kd_head_params p;
    kd_node x; /* what it reads */
    const kd_param *param;
    kd__operands operands;
    size_t rows, words, width; /* rows: of a piece at most */
    float *arena, *own;        /* where it works; its own memory, or NULL */
    size_t floats;
    float *in;           /* (rows, width) */
    float *panels;       /* the same in panels along the rows */
    float *z, *dz;       /* (rows, words) */
    uint16_t *half;      /* or both: f16, then bf16 */
    float *shares;       /* (shares, rows, width) of dx */
    float *in16;         /* in, as bf16 */
    float *w16, *dz16;   /* operands of the library's products */
    const float *weight; /* (words, width) */
    kd__team *team;
    kd__gemm *logits, *data, *first, *next; /* the library's: dW = and dW += */
    /* Of this batch. */
    const float *value;
    float *grad, *dw;
    const uint32_t *row;
    size_t n;
    bool begun; /* dW has been written */
};

kd_status kd__head_check(const kd_graph *g, kd_node n, kd_err *err)
{
    const kd__node_info *info = n > 0 && n < g->nodes ? &g->node[n] : NULL;
    if (info && info->op == &kd__op_linear && info->output && info->per == KD_PER_TOKEN && info->uses == 0 &&
        !info->a.bias && !info->a.relu)
        return KD_OK;
    return kd_fail(
        err, KD_EUSAGE,
        "node %s is no head of a language model: an output, linear without a bias, a row per token",
        info ? info->name : "that is not there");
}

/* The library's dx is one product. */
static size_t shares_of(const kd_head *h)
{
    return h->operands == KD__TILES ? 1 : (h->words + SHARE - 1) / SHARE;
}

/* ---- planning ----------------------------------------------------------------------------- */

static kd_status plan_library(kd_head *h, kd_err *err)
{
    const int64_t V = (int64_t)h->words, d = (int64_t)h->width;
    const kd__gemm_desc
        logits = {.m = (int64_t)h->rows,
                  .n = V,
                  .k = d,
                  .lda = d,
                  .ldb = d,
                  .ldc = V,
                  .tb = true,
                  .operands = h->operands},
        data = {.m = (int64_t)h->rows, .n = d, .k = V, .lda = V, .ldb = d, .ldc = d, .operands = h->operands};
    kd__gemm_desc weights = {.m = V,
                             .n = d,
                             .k = (int64_t)h->rows,
                             .lda = V,
                             .ldb = d,
                             .ldc = d,
                             .ta = true,
                             .operands = h->operands};
    kd_status st = kd__gemm_create(&h->logits, &logits, h->team, err);
    if (st || !h->p.training) return st;
    if ((st = kd__gemm_create(&h->data, &data, h->team, err)) ||
        (st = kd__gemm_create(&h->first, &weights, h->team, err)))
        return st;
    weights.accumulate = true;
    return kd__gemm_create(&h->next, &weights, h->team, err);
}

/* n floats behind those that are there: counted, and found where there is an arena. */
static float *take(kd_head *h, size_t n)
{
    const size_t at = h->floats;
    h->floats += (n + 15) / 16 * 16;
    return h->arena ? h->arena + at : NULL;
}

static bool has_halves(const kd_head *h)
{
    return h->p.half && !h->p.apart && (h->operands == KD__BF16 || h->operands == KD__ROUNDED);
}

static void lay_out(kd_head *h)
{
    const size_t V = h->words, d = h->width, all = h->rows * V;
    const bool library = h->operands == KD__TILES, back = h->p.training;
    h->floats = 0;
    h->in = take(h, h->rows * d);
    h->panels = take(h, library || !back ? 0 : kd__panels_floats(h->operands, h->rows, d));
    if (has_halves(h)) {
        h->half = (uint16_t *)(void *)take(h, kd__operand_floats(KD__BF16, all));
    } else {
        h->z = take(h, all);
        h->dz = h->p.apart && back ? take(h, all) : h->z;
    }
    h->shares = take(h, back ? shares_of(h) * h->rows * d : 0);
    h->w16 = take(h, library ? kd__operand_floats(KD__TILES, V * d) : 0);
    h->in16 = take(h, kd__is_bf16(h->operands) ? h->rows * kd__panels_depth(KD__BF16, d) : 0);
    h->dz16 = take(h, library && back ? kd__operand_floats(KD__TILES, all) : 0);
}

size_t kd__head_floats(const kd_head *h) { return h->floats; }

void kd__head_place(kd_head *h, float *arena)
{
    h->arena = arena;
    lay_out(h);
}

static kd_status plan_memory(kd_head *h, kd_err *err)
{
    const size_t V = h->words, d = h->width, panel = kd__panels_get()->width;
    lay_out(h);
    if (!h->p.planned) {
        h->own = kd_alloc_aligned(h->floats, sizeof(float));
        if (!h->own)
            return kd_fail(err, KD_ENOMEM, "layer %s: no memory for %zu words a row, %d rows at a time",
                           h->g->node[h->p.head].name, V, (int)h->rows);
        kd__head_place(h, h->own);
    }
    if (h->operands == KD__TILES) return KD_OK;
    return kd__team_reserve(h->team,
                            kd_max_size(panel * (d + (has_halves(h) ? h->rows : 0)),
                                        h->p.training ? WORDS * (2 * h->rows + panel) : 0),
                            err);
}

kd_status kd_head_create(kd_head **out, kd_graph *g, const kd_head_params *p, kd_err *err)
{
    *out = NULL;
    kd_status st = kd__head_check(g, p->head, err);
    if (st || (st = kd_nn_check_precision(p->precision, err))) return st;
    kd_head *h = calloc(1, sizeof *h);
    if (!h) return kd_fail(err, KD_ENOMEM, "no memory for the head of a language model");
    const kd__node_info *n = &g->node[p->head];
    h->g = g;
    h->p = *p;
    h->x = kd__graph_root(g, n->in[0]);
    h->param = &g->param[n->param[0]];
    h->words = n->size;
    h->width = g->node[h->x].size;
    h->operands =
        p->precision == KD_PRECISION_BF16 && g->operands ? g->operands : kd__operands_by_cpu(p->precision);
    h->rows = h->operands == KD__F32 ? KD_HEAD_ROWS / 2 : KD_HEAD_ROWS;
    st = kd__team_create(&h->team, p->threads, err);
    if (!st && h->operands == KD__TILES) st = plan_library(h, err);
    if (!st) st = plan_memory(h, err);
    if (st)
        kd_head_free(h);
    else
        *out = h;
    return st;
}

void kd_head_free(kd_head *h)
{
    if (!h) return;
    kd__gemm_free(h->logits);
    kd__gemm_free(h->data);
    kd__gemm_free(h->first);
    kd__gemm_free(h->next);
    kd__team_free(h->team);
    free(h->own);
    free(h);
}

int64_t kd_head_rows(const kd_head *h) { return (int64_t)h->rows; }
size_t kd_head_bytes(const kd_head *h)
{
    return (h->own ? h->floats * sizeof(float) : 0) + kd__team_bytes(h->team);
}

/* ---- running ------------------------------------------------------------------------------ */

/* n numbers at x for the library at `to`. By the team, without a barrier. */
static void make(void *to, const float *x, size_t n)
{
#pragma omp for schedule(static) nowait
    for (size_t i = 0; i < n; i += BLOCK)
        kd__make_operand((uint16_t *)to + i, x + i, kd_min_size(BLOCK, n - i), KD__TILES);
}

static void clear(float *x, size_t n)
{
#pragma omp for schedule(static) nowait
    for (size_t i = 0; i < n; i += BLOCK) memset(x + i, 0, kd_min_size(BLOCK, n - i) * sizeof *x);
}

/* Logits of `words` words from `first` on. */
static void logits_of(const kd_head *h, size_t first, size_t words)
{
    const kd__panel_kernels *p = kd__panels_get();
    const size_t d = h->width, depth = kd__panels_depth(h->operands, d), end = first + words;
    float *panel = kd__team_stage(h->team), *tile = panel + p->width * d;
    for (size_t j = first; j < end; j += p->width) {
        const kd__panel_product t = {.c = h->half ? tile : h->z + j,
                                     .ldc = h->half ? p->width : h->words,
                                     .b = panel,
                                     .k = depth,
                                     .width = kd_min_size(p->width, end - j),
                                     .pairs = h->operands == KD__BF16,
                                     .next_b = h->weight + (j + p->width) * d,
                                     .next_floats = p->width * d};
        p->pack_transposed(panel, h->weight + j * d, d, d, t.width, h->operands);
        p->rows_by_panel(&t, t.pairs ? h->in16 : h->in, depth, h->n);
        for (size_t i = 0; h->half && i < h->n; i++)
            kd__vec_get()->to_f16(h->half + i * h->words + j, tile + i * p->width, t.width);
    }
}

/* What a thread has of dz: as rows, and turned around in panels. */
typedef struct some_words {
    size_t first, n;
    float *dz, *turned; /* as operands: (rows, n); (n / panel's rows, rows, panel's rows) */
    float *panel;       /* of W */
} some_words;

static void take_halves(const kd_head *h, const some_words *s)
{
    const uint16_t *from = h->half + s->first;
    const bool bf16 = h->operands == KD__BF16;
    float *to = s->dz;
    for (size_t i = 0; i < h->n; i++, from += h->words, to += kd__panels_depth(h->operands, s->n)) {
        if (!bf16)
            kd__vec_get()->from_bf16(to, from, s->n);
        else {
            memcpy(to, from, s->n * sizeof *from);
            if (s->n % 2) memset((uint16_t *)(void *)to + s->n, 0, sizeof *from);
        }
    }
    if (bf16)
        kd__panels_get()->turn_pairs(s->turned, h->half + s->first, h->words, h->n, s->n);
    else
        kd__panels_get()->pack_rows(s->turned, s->dz, s->n, h->n, s->n, KD__F32);
}

static void take_words(const kd_head *h, const some_words *s)
{
    if (h->half) {
        take_halves(h, s);
        return;
    }
    const float *from = h->dz + s->first;
    kd__panels_rows(s->dz, from, h->words, h->n, s->n, h->operands);
    const bool bf16 = h->operands == KD__BF16; // else dz is what is to be turned around
    kd__panels_get()->pack_rows(s->turned, bf16 ? from : s->dz, bf16 ? h->words : s->n, h->n, s->n,
                                bf16 ? KD__BF16 : KD__F32);
}

/* Their rows of dW. Meanwhile their rows of W come near. */
static void weights_of(const kd_head *h, const some_words *s)
{
    const kd__panel_kernels *p = kd__panels_get();
    const size_t d = h->width, depth = kd__panels_depth(h->operands, h->n);
    for (size_t j = 0; j < d; j += p->width) {
        const kd__panel_product t = {.c = h->dw + s->first * d + j,
                                     .ldc = d,
                                     .b = h->panels + j * depth,
                                     .k = depth,
                                     .width = kd_min_size(p->width, d - j),
                                     .add = h->begun,
                                     .pairs = h->operands == KD__BF16,
                                     .next_b = h->weight + s->first * d + j * s->n,
                                     .next_floats = p->width * s->n};
        p->panels_by_panel(&t, s->turned, s->n);
    }
}

/* What they add to a share of dx. Meanwhile the next words' rows of dW come near. */
static void add_to_share(const kd_head *h, const some_words *s, float *share, bool add)
{
    const kd__panel_kernels *p = kd__panels_get();
    const size_t d = h->width, end = s->first + s->n, depth = kd__panels_depth(h->operands, s->n);
    for (size_t j = 0; j < d; j += p->width) {
        const kd__panel_product t = {.c = share + j,
                                     .ldc = d,
                                     .b = s->panel,
                                     .k = depth,
                                     .width = kd_min_size(p->width, d - j),
                                     .add = add,
                                     .pairs = h->operands == KD__BF16,
                                     .next_b = h->dw + end * d + j * s->n,
                                     .next_floats = p->width * s->n};
        p->pack_panel(s->panel, h->weight + s->first * d + j, d, s->n, t.width, h->operands);
        p->rows_by_panel(&t, s->dz, depth, h->n);
    }
}

static void share_backward(const kd_head *h, size_t share)
{
    float *dz = kd__team_stage(h->team);
    const size_t first = share * SHARE, end = kd_min_size(h->words, first + SHARE);
    for (size_t at = first; at < end; at += WORDS) {
        const some_words s = {.first = at,
                              .n = kd_min_size(WORDS, end - at),
                              .dz = dz,
                              .turned = dz + h->rows * WORDS,
                              .panel = dz + 2 * h->rows * WORDS};
        take_words(h, &s);
        weights_of(h, &s);
        add_to_share(h, &s, h->shares + share * h->rows * h->width, at > first);
    }
}

/* A row of dx to where it belongs. */
static void sum_shares(const kd_head *h, size_t row)
{
    const size_t d = h->width;
    float *sum = h->shares + row * d;
    for (size_t share = 1; share < shares_of(h); share++)
        kd__vec_get()->add_to(sum, h->shares + (share * h->rows + row) * d, d);
    memcpy(h->grad + h->row[row] * d, sum, d * sizeof *sum);
}

/* What a call says of the batch; every thread has the same. */
typedef struct asked {
    kd_exec *ex;
    int64_t rows;
    const uint32_t *row;
} asked;

static void drive(kd_head *h, const asked *c, void (*work)(kd_head *h, const asked *c))
{
    if (h->p.threads > 1) {
        work(h, c);
        return;
    }
#pragma omp parallel num_threads(1)
    work(h, c);
}

static void begin(kd_head *h, const asked *c)
{
    const float *w = kd_graph_param_data(h->g, h->param);
#pragma omp single
    {
        float *grads = kd_exec_grads(c->ex);
        h->value = kd_exec_value(c->ex, h->x);
        h->grad = grads ? kd_exec_grad(c->ex, h->x) : NULL;
        h->dw = grads ? grads + h->param->offset : NULL;
        h->weight = w;
        h->begun = c->ex->add;
    }
    if (h->operands == KD__TILES) make(h->w16, w, h->words * h->width);
    if (h->dw) {
        clear(h->grad, (size_t)kd_exec_rows(c->ex, h->x) * h->width);
        if (!c->rows && !c->ex->add) clear(h->dw, h->words * h->width);
    }
#pragma omp barrier
}

void kd_head_begin(kd_head *h, kd_exec *ex, int64_t rows)
{
    drive(h, &(asked){.ex = ex, .rows = rows}, begin);
}

/* Rows of the piece to the front, zeros behind them. */
static void gather(kd_head *h)
{
    const size_t d = h->width;
#pragma omp for schedule(static)
    for (size_t i = 0; i < h->rows; i++) {
        float *to = h->in + i * d;
        if (i < h->n)
            memcpy(to, h->value + h->row[i] * d, d * sizeof *to);
        else
            memset(to, 0, d * sizeof *to);
        if (h->operands == KD__TILES)
            kd__make_operand((uint16_t *)(void *)h->in16 + i * d, to, d, KD__TILES);
        else if (h->operands == KD__BF16)
            kd__panels_rows(h->in16 + i * kd__panels_depth(KD__BF16, d), to, d, 1, d, KD__BF16);
        else if (h->operands == KD__ROUNDED)
            kd__make_operand(to, to, d, KD__ROUNDED);
    }
}

static void forward(kd_head *h, const asked *c)
{
#pragma omp single
    {
        h->row = c->row;
        h->n = (size_t)c->rows;
    }
    gather(h);
    if (h->operands == KD__TILES) {
        kd__gemm_run(&(kd__gemm_call){.g = h->logits, .a = h->in16, .b = h->w16, .c = h->z}, 1);
        return;
    }
#pragma omp for schedule(dynamic)
    for (size_t j = 0; j < h->words; j += WORDS) logits_of(h, j, kd_min_size(WORDS, h->words - j));
}

const float *kd_head_forward(kd_head *h, const uint32_t *row, int64_t n)
{
    drive(h, &(asked){.row = row, .rows = n}, forward);
    return h->z;
}

float *kd_head_grad(kd_head *h) { return h->dz; }
uint16_t *kd_head_half(kd_head *h) { return h->half; }

static void backward_library(kd_head *h)
{
    const size_t V = h->words;
    make(h->dz16, h->dz, h->n * V);
#pragma omp for schedule(static)
    for (size_t i = h->n; i < h->rows; i++)
        memset((uint16_t *)(void *)h->dz16 + i * V, 0, V * sizeof(uint16_t));
    const kd__gemm_call call[] = {
        {.g = h->begun ? h->next : h->first, .a = h->dz16, .b = h->in16, .c = h->dw},
        {.g = h->data, .a = h->dz16, .b = h->w16, .c = h->shares}};
    kd__gemm_run(call, 2);
}

static void backward_panels(kd_head *h)
{
    const kd__panel_kernels *p = kd__panels_get();
    const size_t d = h->width;
#pragma omp for schedule(static)
    for (size_t j = 0; j < d; j += p->width)
        p->pack_panel(h->panels + j * kd__panels_depth(h->operands, h->n), h->in + j, d, h->n,
                      kd_min_size(p->width, d - j), h->operands == KD__BF16 ? KD__BF16 : KD__F32);
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < shares_of(h); i++) share_backward(h, i);
}

static void backward(kd_head *h, const asked *c)
{
    (void)c;
    if (h->operands == KD__TILES)
        backward_library(h);
    else
        backward_panels(h);
#pragma omp for schedule(static)
    for (size_t i = 0; i < h->n; i++) sum_shares(h, i);
#pragma omp single
    h->begun = true;
}

void kd_head_backward(kd_head *h) { drive(h, &(asked){0}, backward); }
