/* head.c - the last layer of a language model, a piece of rows at a time.
 *
 *     logits  z (n, words)   = x W^T          x: the rows asked for, gathered
 *     data    dx (n, width)  = dz W           scattered to the rows they are of
 *     weights dW (words, width) += dz^T x     piece after piece
 *
 * Nothing is as long as rows x words: a piece has ROWS rows. A larger one would read and write dW less often,
 * a smaller one keeps its logits in the cache between the three products. Weights are laid out in panels once
 * a batch; products are those of panels.c. With bf16 operands of the CPU's own (precision.c) they are the
 * library's, planned for whole pieces: rows of the last one that nobody asked for are zeros.
 */
#include "nn_private.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS = KD_HEAD_ROWS, BLOCK = 4096 };

struct kd_head {
    kd_graph *g;
    kd_head_params p;
    kd_node x; /* what it reads */
    const kd_param *param;
    kd__operands operands;
    size_t words, width;
    float *arena;
    size_t floats;
    float *forward, *back; /* W as the two products read it */
    float *in, *din;       /* (ROWS, width) */
    float *z, *dz;         /* (ROWS, words) */
    float *in16, *dz16;    /* operands of the library's products, or NULL */
    float *stage;          /* of the weights' gradient */
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

/* ---- planning ----------------------------------------------------------------------------- */

static kd_status plan_library(kd_head *h, kd_err *err)
{
    const int64_t V = (int64_t)h->words, d = (int64_t)h->width;
    const kd__gemm_desc
        logits =
            {.m = ROWS, .n = V, .k = d, .lda = d, .ldb = d, .ldc = V, .tb = true, .operands = h->operands},
        data = {.m = ROWS, .n = d, .k = V, .lda = V, .ldb = d, .ldc = d, .operands = h->operands};
    kd__gemm_desc weights = {
        .m = V, .n = d, .k = ROWS, .lda = V, .ldb = d, .ldc = d, .ta = true, .operands = h->operands};
    kd_status st = kd__gemm_create(&h->logits, &logits, h->team, err);
    if (st || !h->p.training) return st;
    if ((st = kd__gemm_create(&h->data, &data, h->team, err)) ||
        (st = kd__gemm_create(&h->first, &weights, h->team, err)))
        return st;
    weights.accumulate = true;
    return kd__gemm_create(&h->next, &weights, h->team, err);
}

/* A place for n floats behind those that are planned. */
static size_t place(kd_head *h, size_t n)
{
    const size_t at = h->floats;
    h->floats += (n + 15) / 16 * 16;
    return at;
}

static kd_status plan_memory(kd_head *h, kd_err *err)
{
    const size_t V = h->words, d = h->width, w = V * d;
    const bool library = h->operands == KD__BF16, back = h->p.training;
    const kd__panels_gradient g = {.rows = ROWS, .out = V, .in = d};
    const size_t forward = place(h, library ? kd__operand_floats(KD__BF16, w) : kd__panels_floats(d, V)),
                 backward = place(h, library || !back ? 0 : kd__panels_floats(V, d)), in = place(h, ROWS * d),
                 din = place(h, back ? ROWS * d : 0), z = place(h, ROWS * V),
                 dz = h->p.apart && back ? place(h, ROWS * V) : z,
                 in16 = place(h, library ? kd__operand_floats(KD__BF16, ROWS * d) : 0),
                 dz16 = place(h, library && back ? kd__operand_floats(KD__BF16, ROWS * V) : 0),
                 stage = place(h, library || !back ? 0 : kd__panels_stage(&g));
    if (!(h->arena = kd_alloc_aligned(h->floats, sizeof(float))))
        return kd_fail(err, KD_ENOMEM, "layer %s: no memory for %zu words a row, %d rows at a time",
                       h->g->node[h->p.head].name, V, ROWS);
    h->forward = h->arena + forward;
    h->back = library ? h->forward : h->arena + backward;
    h->in = h->arena + in;
    h->din = h->arena + din;
    h->z = h->arena + z;
    h->dz = h->arena + dz;
    h->in16 = h->arena + in16;
    h->dz16 = h->arena + dz16;
    h->stage = h->arena + stage;
    return KD_OK;
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
    st = kd__team_create(&h->team, p->threads, err);
    if (!st && h->operands) st = kd__team_reserve(h->team, KD__PANELS_BLOCK * KD__PANELS_STEP, err);
    if (!st && h->operands == KD__BF16) st = plan_library(h, err);
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
    free(h->arena);
    free(h);
}

size_t kd_head_bytes(const kd_head *h) { return h->floats * sizeof(float) + kd__team_bytes(h->team); }

/* ---- running ------------------------------------------------------------------------------ */

/* n numbers at x as operands at `to`. By the team, without a barrier. */
static void make(void *to, const float *x, size_t n, kd__operands how)
{
#pragma omp for schedule(static) nowait
    for (size_t i = 0; i < n; i += BLOCK)
        kd__make_operand((char *)to + kd__operand_bytes(how, i), x + i, kd_min_size(BLOCK, n - i), how);
}

static void clear(float *x, size_t n)
{
#pragma omp for schedule(static) nowait
    for (size_t i = 0; i < n; i += BLOCK) memset(x + i, 0, kd_min_size(BLOCK, n - i) * sizeof *x);
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
        h->begun = false;
    }
    if (h->operands == KD__BF16)
        make(h->forward, w, h->words * h->width, KD__BF16);
    else
        kd__panels_pack(h->forward, w, h->width, h->words, true, h->operands);
    if (h->dw) {
        if (h->operands != KD__BF16) kd__panels_pack(h->back, w, h->words, h->width, false, h->operands);
        clear(h->grad, (size_t)kd_exec_rows(c->ex, h->x) * h->width);
        if (!c->rows) clear(h->dw, h->words * h->width);
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
    for (size_t i = 0; i < ROWS; i++) {
        float *to = h->in + i * d;
        if (i < h->n)
            memcpy(to, h->value + h->row[i] * d, d * sizeof *to);
        else
            memset(to, 0, d * sizeof *to);
        if (h->operands == KD__BF16) kd__make_operand((uint16_t *)(void *)h->in16 + i * d, to, d, KD__BF16);
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
    if (h->operands == KD__BF16) {
        kd__gemm_run(&(kd__gemm_call){.g = h->logits, .a = h->in16, .b = h->forward, .c = h->z}, 1);
        return;
    }
    const kd__panels_call call = {.a = h->in,
                                  .b = h->forward,
                                  .c = h->z,
                                  .rounded = h->operands ? kd__team_stage(h->team) : NULL,
                                  .m = h->n,
                                  .n = h->words,
                                  .k = h->width};
    kd__panels_product(&call);
#pragma omp barrier
}

const float *kd_head_forward(kd_head *h, const uint32_t *row, int64_t n)
{
    drive(h, &(asked){.row = row, .rows = n}, forward);
    return h->z;
}

float *kd_head_grad(kd_head *h) { return h->dz; }

static void scatter(const kd_head *h)
{
    const size_t d = h->width;
#pragma omp for schedule(static)
    for (size_t i = 0; i < h->n; i++) memcpy(h->grad + h->row[i] * d, h->din + i * d, d * sizeof(float));
}

static void backward_library(kd_head *h)
{
    const size_t V = h->words;
    make(h->dz16, h->dz, h->n * V, KD__BF16);
#pragma omp for schedule(static)
    for (size_t i = h->n; i < ROWS; i++) memset((uint16_t *)(void *)h->dz16 + i * V, 0, V * sizeof(uint16_t));
    const kd__gemm_call call[] = {
        {.g = h->begun ? h->next : h->first, .a = h->dz16, .b = h->in16, .c = h->dw},
        {.g = h->data, .a = h->dz16, .b = h->back, .c = h->din}};
    kd__gemm_run(call, 2);
}

static void backward_panels(kd_head *h)
{
    const kd__panels_gradient weights = {.dy = h->dz,
                                         .x = h->in,
                                         .dw = h->dw,
                                         .stage = h->stage,
                                         .rows = h->n,
                                         .out = h->words,
                                         .in = h->width,
                                         .rounded = h->operands,
                                         .add = h->begun};
    const kd__panels_call data = {.a = h->dz,
                                  .b = h->back,
                                  .c = h->din,
                                  .rounded = h->operands ? kd__team_stage(h->team) : NULL,
                                  .m = h->n,
                                  .n = h->width,
                                  .k = h->words};
    kd__panels_gather(&weights);
#pragma omp barrier
    kd__panels_gradients(&weights);
    kd__panels_product(&data);
#pragma omp barrier
}

static void backward(kd_head *h, const asked *c)
{
    (void)c;
    if (h->operands == KD__BF16)
        backward_library(h);
    else
        backward_panels(h);
    scatter(h);
#pragma omp single
    h->begun = true;
}

void kd_head_backward(kd_head *h) { drive(h, &(asked){0}, backward); }
