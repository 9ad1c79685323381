/* lib/nn/nn_private.h - what the files of lib/nn share: the op table, the graph, the exec, the
 * backend of library kernels, and the table of vector kernels. */
#ifndef KD_NN_PRIVATE_H
#define KD_NN_PRIVATE_H

#include "kd/nn.h"

typedef struct kd__op kd__op;

/* The form of a product's operands in memory (precision.c): f32 as they are, f32 rounded to bf16, bf16 for
 * bf16 instructions, bf16 for AMX tiles. */
typedef enum kd__operands { KD__F32, KD__ROUNDED, KD__BF16, KD__TILES } kd__operands;

/* Attributes of all ops; an op reads its own. */
typedef struct kd__attrs {
    int ndims; /* input */
    int64_t dims[KD_MAX_DIMS];
    int64_t out;         /* linear, conv2d: output features */
    int k, stride, pad;  /* windows */
    float momentum, eps; /* batch norm */
    float p;             /* dropout */
    int kv;              /* causal attention: heads of keys and values */
    float base;          /* rotary positions */
    int tied; /* linear: 1 + the embedding whose table is its weight; embedding: not 0, there is such a one */
    bool bias;
    bool relu; /* set by the fusion pass: the op applies ReLU to its output and, in
                  backward, masks dy by (y > 0) */
} kd__attrs;

typedef struct kd__node_info {
    const kd__op *op;
    char *name;
    kd_node in[KD_MAX_INPUTS];
    int nin;
    kd__attrs a;
    int ndims;
    int64_t dims[KD_MAX_DIMS]; /* per row */
    size_t size;               /* floats a row */
    kd_per per;
    int param[4]; /* indices into the graph's parameters, in the op's own order; -1: none */
    int nparam;
    bool output;
    kd_node alias; /* >= 0: this node's value is that node's (fused away, or a reshape) */
    int uses;      /* consumers */
} kd__node_info;

struct kd_graph {
    kd__node_info *node;
    int nodes, cap;
    kd_param *param;
    size_t params, param_cap;
    float *slab, *buffers;
    size_t slab_floats, buffer_floats;
    bool finished;
    bool unfused, input_grads; /* for tests: finish fuses nothing; inputs get gradients, too */
    bool tokens;               /* begins with kd_nn_tokens */
    int64_t positions;         /* that a sequence may have; 0: any number */
    kd__operands operands;     /* for tests: the form of bf16 operands, KD__F32 for this CPU's */
    kd_err err;                /* first failure while building */
};

/* Memory that will be read soon: products ask for it meanwhile. */
typedef struct kd__soon {
    const float *at;
    size_t floats;
} kd__soon;

/* One node in one exec. x, dx are resolved through aliases; dx[i] is NULL where no gradient is
 * wanted (inputs of the graph). add[i]: dx[i] already holds another consumer's gradient, add to it.
 * Memory is laid out after plan(), so plan() sees want_dx and add but no pointers. */
typedef struct kd__state {
    const kd__node_info *n;
    float *y, *dy; /* (B, ...) */
    const float *x[KD_MAX_INPUTS];
    float *dx[KD_MAX_INPUTS];
    bool want_dx[KD_MAX_INPUTS]; /* training, and the input leads to parameters */
    bool add[KD_MAX_INPUTS];
    bool has_backward; /* it or a node before it has parameters */
    bool
        keeps_x; /* set by plan(): backward, and forward when it runs again, read what the op keeps instead */
    bool given;  /* its value is the caller's: it does not run, and what is before it neither */
    /* A linear layer that reads the same has been the last to use `shared`: in forward, in backward. */
    bool follows, follows_back;
    kd__soon soon, soon_back; /* weights of the next linear layer in forward, in backward */
    /* Two nodes of which the second alone reads the first, where the loops of one are run by the pieces of
     * the other, while they are near; NULL elsewhere. In training a convolution runs those of a batch norm on
     * either side (kd__bn_*). With products of panels.c a linear layer runs forward of a GELU behind it, and
     * backward of one between two of them (kd__gelu_*), whose value it makes again instead of having it kept,
     * with its derivative in the place of what it read. */
    struct kd__state *prev, *next;
    struct kd__state *remake[KD_MAX_INPUTS]; /* inputs that run forward again before its backward, or NULL */
    float *w[4], *dw[4]; /* parameters and their gradients, as n->param; dw NULL for buffers */
    void *own;           /* what plan() made: primitives, saved statistics */
    float *keep;         /* keep_floats kept from forward to backward */
    float *shared;       /* shared_floats of scratch, common to the team, valid within one call */
    size_t keep_floats, shared_floats; /* asked for by plan() */
} kd__state;

struct kd__op {
    const char *name;
    int nin;
    /* Output shape and parameters (kd__graph_param). */
    kd_status (*shape)(kd_graph *g, kd__node_info *n, kd_err *err);
    /* Makes primitives, asks for memory. May be NULL. Called serially. */
    kd_status (*plan)(kd_exec *ex, kd__state *s, kd_err *err);
    /* Called by every thread of the team; orphaned omp for; ends with a barrier. */
    void (*forward)(kd_exec *ex, kd__state *s);
    void (*backward)(kd_exec *ex, kd__state *s);
    void (*again)(kd_exec *ex, kd__state *s); /* of what is remade, with keeps_x; NULL: as forward */
    /* The twins: plain loops, serial, called by one thread only. */
    void (*naive_forward)(kd_exec *ex, kd__state *s);
    void (*naive_backward)(kd_exec *ex, kd__state *s);
    void (*release)(kd__state *s);                             /* frees own; may be NULL */
    double (*macs)(const kd_graph *g, const kd__node_info *n); /* forward multiply-adds a row; may be NULL */
    bool backward_reads_x, backward_reads_y; /* for liveness; where fuses_relu, y only with a.relu */
    bool (*adds)(const kd__node_info *n); /* can backward add to the gradients of its parameters? NULL: no */
    bool packed;                          /* works on the active rows of token models */
    bool remade;                          /* cheap: in training y is not kept but made again in backward */
    bool inplace;                         /* y may be an input's memory (a dx may be dy's) */
    bool fuses_relu;                      /* a ReLU behind it becomes a.relu */
};

struct kd_exec {
    kd_graph *g;
    kd_exec_params p;
    kd__operands operands;
    kd__state *state; /* per node */
    float *arena;
    size_t arena_floats;
    float *grads; /* as the graph's slab; NULL in inference */
    bool add;     /* backward adds to them */
    uint64_t seed, step;
    int *order; /* nodes that run (no aliases) */
    int steps;
    int64_t sequences; /* token models: active ones */
    uint64_t *offset;  /* (p.sequences + 1); offset[sequences] tokens are active */
    uint64_t *past;    /* (p.sequences) of each: tokens before the active ones, 0 without p.cache */
    uint64_t *place,
        *seen;             /* with p.cache, (p.sequences): where each is kept; tokens of what is kept there */
    size_t extra_bytes;    /* of packed weights, added by plan(); kd_exec_bytes adds kd__team_bytes(team) */
    struct kd__team *team; /* see kd__exec_team; the exec frees it after the ops' release */
};

/* The op table: one row per file of ops. */
extern const kd__op kd__op_input, kd__op_tokens, kd__op_linear, kd__op_conv2d, kd__op_dwconv2d,
    kd__op_batchnorm, kd__op_relu, kd__op_maxpool, kd__op_avgpool, kd__op_global_avgpool, kd__op_flatten,
    kd__op_add, kd__op_softmax, kd__op_dropout, kd__op_embedding, kd__op_layernorm, kd__op_gelu,
    kd__op_attention, kd__op_pool, kd__op_normalize, kd__op_rmsnorm, kd__op_rope, kd__op_causal,
    kd__op_swiglu;

/* Tokens that a sequence of this exec may have. */
size_t kd__exec_longest(const kd_exec *ex);
/* Adds a node; used by the builders, which live in their op's file. */
kd_node kd__graph_add(kd_graph *g, const kd__op *op, const char *name, int nin, const kd_node *in,
                      const kd__attrs *a);
/* Declares parameter i of n, named "NODE.suffix". */
kd_status kd__graph_param(kd_graph *g, kd__node_info *n, const char *suffix, int ndims, const int64_t *dims,
                          bool buffer, bool decay, kd_err *err);
const kd__node_info *kd__graph_in(const kd_graph *g, const kd__node_info *n, int i);
kd_node kd__graph_root(const kd_graph *g, kd_node n); /* whose value n's is: aliases resolved */
/* Of a head that is planned with an exec: what it needs, and where that is. */
size_t kd__head_floats(const kd_head *h);
void kd__head_place(kd_head *h, float *arena);
kd_status kd__head_check(const kd_graph *g, kd_node n, kd_err *err); /* whether a kd_head can be n */
kd_status kd__exec_plan(kd_exec *ex, kd_err *err); /* everything but running (exec_plan.c) */

/* Rows of a node now, and rows that its memory has: of token models a multiple of KD__ROWS_STEP, behind the
 * active ones rows that hold anything and may be written. */
enum { KD__ROWS_STEP = 256 };
size_t kd__node_rows(const kd_exec *ex, const kd__node_info *n);
size_t kd__node_rows_planned(const kd_exec *ex, const kd__node_info *n);

/* ---- operands of products (precision.c) ------------------------------------------------------ */

kd__operands kd__operands_by_cpu(kd_precision p);
kd__operands kd__operands_of(const kd_exec *ex, const kd__node_info *n); /* of a layer */
size_t kd__operand_floats(kd__operands o, size_t n); /* room for n numbers, in whole cache lines */
void kd__make_operand(void *to, const float *from, size_t n, kd__operands o); /* not KD__F32 */
size_t kd__operand_bytes(kd__operands o, size_t n);                           /* from number 0 to number n */
double kd__naive_operand(float v, kd__operands o);                            /* its value, for the twins */
bool kd__is_bf16(kd__operands o);                                             /* in memory */

/* ---- backend: GEMM and convolution on library kernels (dnnl.c, gemm.c, conv.c) ------------- */

/* A stream, scratch and staging memory for each thread of one exec's team. Made by the first plan()
 * that needs it, grown by later ones; the exec frees it (kd__team_free(ex->team)) after the ops'
 * release. All calls are serial, but for kd__team_index and kd__team_stage. */
typedef struct kd__team kd__team;
kd_status kd__exec_team(kd__team **out, kd_exec *ex, kd_err *err); /* ex->team, made when missing */
kd_status kd__team_create(kd__team **out, int threads, kd_err *err);
/* Every thread gets at least this much; earlier contents are lost. KD_ENOMEM. */
kd_status kd__team_reserve(kd__team *t, size_t stage_floats, kd_err *err);
float *kd__team_stage(const kd__team *t); /* of the calling thread */
size_t kd__team_bytes(const kd__team *t);
/* For the benchmark of what fixed grids cost, and nothing else: kernels made for this team from now on share
 * their work among threads of their own, as the library likes; they are called serially. */
void kd__team_let(kd__team *t, int threads);
void kd__team_free(kd__team *t); /* NULL-safe */
int kd__team_index(void);        /* of the calling thread in its region: 0 when serial */

typedef struct kd__gemm kd__gemm;
typedef struct kd__gemm_desc {
    int64_t m, n, k;       /* C (m, n) = op(A) (m, k) x op(B) (k, n), f32 */
    int64_t lda, ldb, ldc; /* leading dimensions of the stored matrices */
    bool ta, tb;           /* stored transposed */
    bool bias, relu;       /* C += bias (n); then max(0, C) */
    bool accumulate;       /* C += instead of C = ; not with bias or relu */
    kd__operands operands; /* A and B; C and bias are f32 */
    bool packed;           /* m, or k of a dW (ta), is rows of a token model: a multiple of KD__ROWS_STEP, of
                              which a call says how many are active; its bits do not depend on m or k */
} kd__gemm_desc;
typedef struct kd__gemm_call { /* one product to be run; bias NULL unless desc.bias */
    const kd__gemm *g;
    const void *a, *b;
    const float *bias;
    float *c;
    size_t rows; /* with desc.packed: active ones. The last step's others are computed with, too: dW needs
                    zeros in them */
} kd__gemm_call;
/* A whole GEMM cut into a fixed grid of tiles; forward, dX and dW of linear. KD_ENOMEM,
 * KD_EUNSUPPORTED. The team must outlive it. */
kd_status kd__gemm_create(kd__gemm **out, const kd__gemm_desc *d, kd__team *team, kd_err *err);
/* One orphaned omp for over the tiles of n independent products; barrier at the end. */
void kd__gemm_run(const kd__gemm_call *call, int n);
void kd__gemm_free(kd__gemm *g);

/* ---- products of token models (panels.c) ----------------------------------------------------- */

/* With KD__BF16 two neighbours along K are one element of 32 bits: k numbers are so many elements. */
size_t kd__panels_depth(kd__operands o, size_t k);
/* A (k, n) matrix in panels takes so many floats; `transposed`: b is (n, k). By the team, without a barrier.
 */
size_t kd__panels_floats(kd__operands o, size_t k, size_t n);
void kd__panels_pack(float *to, const float *b, size_t k, size_t n, bool transposed, kd__operands o);
/* Rows of A, lda apart, as products read them: kd__panels_depth() elements each. */
void kd__panels_rows(float *to, const float *a, size_t lda, size_t rows, size_t k, kd__operands o);
/* The same of a whole A (rows, k), by the team, without a barrier; with KD__F32 it is read as it is. */
size_t kd__panels_rows_floats(kd__operands o, size_t rows, size_t k);
void kd__panels_share_rows(float *to, const float *a, size_t rows, size_t k, kd__operands o);
/* c (m, n) = a (m, k) times panels of (k, n), + bias (n) or NULL, or added to c; then max(0, c). By the team,
 * without a barrier. a, as made by the above, and c have rows up to the next multiple of KD__ROWS_STEP. */
typedef struct kd__panels_call {
    kd__soon soon;
    const float *a, *b, *bias;
    float *c;
    kd__operands operands;
    size_t m, n, k;
    bool add, relu;
    void (*then)(const kd__state *of, size_t at, size_t n); /* or NULL: with numbers of c that are done */
    const kd__state *of;
} kd__panels_call;
void kd__panels_product(const kd__panels_call *call);
/* dw (out, in) = dy (rows, out)^T x (rows, in), by the team: gather, a barrier, then gradients, without one.
 * For all: panels, kd__panels_floats(operands, rows, in) floats, and stage, kd__panels_stage() floats. */
typedef struct kd__panels_gradient {
    kd__soon soon;
    const float *dy;
    float *x, *dw, *panels, *stage;
    size_t rows, out, in;
    kd__operands operands;
    bool ready; /* panels have x */
    bool add;   /* dw += */
    bool bias;
    float *dbias; /* with bias: sums of dy's columns */
    void (*make_x)(float *to, float *x,
                   size_t n); /* or NULL: x is what this makes of x, which it may change */
} kd__panels_gradient;
size_t kd__panels_stage(const kd__panels_gradient *g); /* of rows, out, in, operands and bias */
void kd__panels_gather(const kd__panels_gradient *g);
void kd__panels_gradients(const kd__panels_gradient *g);

/* C (rows, width) = bias, or C itself with add, or 0, plus A times a panel b (k, panel's width). pairs: their
 * elements are two bf16 numbers, which meet those of the other operand. */
typedef struct kd__panel_product {
    float *c;
    size_t ldc;
    const float *b, *bias;
    size_t k, width; /* k: elements */
    bool add, relu, pairs;
    /* What will be read next and is better asked for now, or NULL and 0: next_floats of what becomes the
     * panel behind this one; of the next rows of A, next_lda apart, those that this panel's tiles ask for, so
     * many a tile. */
    const float *next_b, *next_a;
    size_t next_floats, next_lda, next_rows;
    const float *soon; /* likewise soon_floats, for whoever comes behind */
    size_t soon_floats;
} kd__panel_product;
typedef struct kd__panel_kernels { /* panels.simd.c */
    size_t rows, width;            /* of a tile; width: of a panel */
    void (*rows_by_panel)(const kd__panel_product *t, const float *a, size_t lda, size_t rows);
    void (*panels_by_panel)(const kd__panel_product *t, const float *a, size_t rows);
    void (*pack_panel)(float *to, const float *b, size_t ldb, size_t k, size_t width,
                       kd__operands o); /* of b (k, ldb) */
    void (*pack_rows)(float *to, const float *a, size_t lda, size_t k, size_t n,
                      kd__operands o); /* n columns, in panels as wide as a tile has rows */
    void (*pack_transposed)(float *to, const float *b, size_t ldb, size_t k, size_t width,
                            kd__operands o);           /* (width, ldb) */
    void (*pair)(float *to, const float *x, size_t n); /* n numbers in a row, and a 0 if they are odd */
    /* As pack_rows does with KD__BF16, of numbers that are bf16. */
    void (*turn_pairs)(float *to, const uint16_t *a, size_t lda, size_t k, size_t n);
} kd__panel_kernels;
extern const kd__panel_kernels kd__panels_scalar, kd__panels_avx2, kd__panels_avx512, kd__panels_avx512bf16;
const kd__panel_kernels *kd__panels_get(void);

/* ---- products of linear layers on batches of fixed size (dense.c) ---------------------------- */

typedef struct kd__dense { /* the shape */
    size_t rows, in, out;
} kd__dense;
bool kd__dense_fit(const kd__dense *d);
typedef struct kd__dense_forward { /* y (rows, out) = x (rows, in) w (out, in)^T + bias (or NULL), then ReLU
                                    */
    const float *x, *w, *bias;
    float *y;
    bool relu;
} kd__dense_forward;
/* dy is masked by y (NULL: is not), in place; dbias and dx may be NULL; add: dx += */
typedef struct kd__dense_backward {
    const float *x, *w, *y;
    float *dy, *dx, *dw, *dbias;
    bool add;
} kd__dense_backward;
/* By the team; a barrier at the end. */
void kd__dense_run_forward(const kd__dense *d, const kd__dense_forward *f);
void kd__dense_run_backward(const kd__dense *d, const kd__dense_backward *g);

typedef struct kd__dense_product { /* c (rows, n) = or += a (rows, k) b (k, n); b and c are there up to whole
                                      vectors */
    float *c;
    size_t ldc;
    const float *a;
    size_t lda;
    const float *b;
    size_t ldb, rows, n, k;
    bool add;
} kd__dense_product;
typedef struct kd__dense_kernels { /* dense.simd.c */
    void (*product)(const kd__dense_product *t);
    /* to (cols, rows) = from (rows, cols); rows are up to the next whole vector, with zeros */
    void (*transpose)(float *to, size_t to_row, const float *from, size_t from_row, size_t rows, size_t cols);
    /* y (rows, cols) = c + bias (cols) or NULL, then ReLU; c has whole vectors */
    void (*finish)(float *y, size_t y_row, const float *c, size_t c_row, size_t rows, size_t cols,
                   const float *bias, bool relu);
    void (*row_sums)(float *sums, const float *x, size_t rows, size_t n,
                     size_t ld); /* zeros up to whole vectors */
} kd__dense_kernels;
extern const kd__dense_kernels kd__dense_scalar, kd__dense_avx2, kd__dense_avx512;
const kd__dense_kernels *kd__dense_get(void);

typedef enum kd__conv_pass { KD__CONV_FORWARD, KD__CONV_DATA, KD__CONV_WEIGHTS } kd__conv_pass;
typedef struct kd__conv kd__conv;
typedef struct kd__conv_desc {
    int64_t batch, h, w, c, out_h, out_w, out; /* NHWC in and out */
    int k, stride, pad, groups;                /* groups: 1, or c (depthwise) */
    bool bias, relu;                           /* in forward; relu also masks dy in backward */
    bool training, need_dx;
    bool accumulate_dx;     /* dx += */
    kd__operands operands;  /* of the kernels; what is given and written is f32 */
    bool library;           /* for the benchmark of what fixed grids cost: kernels of the library only */
    kd__state *prev, *next; /* batch norms whose loops the slices run, or NULL; see kd__state */
} kd__conv_desc;
enum { KD__CONV_SLICES = 32 }; /* at most */
/* Forward and backward as slices of whole images, each slice by one thread; the slices' weight
 * gradients are added in a fixed tree. Weights (out, c/groups, k, k) plain. */
kd_status kd__conv_create(kd__conv **out, const kd__conv_desc *d, kd__team *team, kd_err *err);
void kd__conv_forward(kd__conv *c, const float *x, const float *w, const float *bias, float *y);
/* Uses the weights as the last forward packed them. y (with relu) masks dy in place; dx NULL unless
 * need_dx; dbias NULL unless bias; shared: kd__conv_shared_floats() of scratch. */
typedef struct kd__conv_grads {
    const float *x, *w, *y;
    float *dy, *dx, *dw, *dbias, *shared;
} kd__conv_grads;
void kd__conv_backward(kd__conv *c, const kd__conv_grads *g);
size_t kd__conv_slice(const kd__conv *c); /* images in a slice, but for the last one, which may have less */
size_t kd__conv_shared_floats(const kd__conv *c);
size_t kd__conv_bytes(const kd__conv *c);
void kd__conv_free(kd__conv *c);
const char *kd__backend_name(void); /* "oneDNN 2.6.3, avx512" */

/* ---- the loops of a batch norm over some of its rows (batchnorm.c) --------------------------- */

/* In this order, each after a barrier behind the one before: statistics of x, y from x, sums of dy, and dx
 * from dy. Sums are kept by slice, whose numbers start at 0. y and dx are those of these rows alone. */
void kd__bn_moments(kd__state *s, size_t slice, size_t row, size_t rows);
void kd__bn_apply(kd__state *s, float *y, size_t row, size_t rows);
void kd__bn_sums(kd__state *s, size_t slice, size_t row, size_t rows);
void kd__bn_dx(kd__state *s, float *dx, size_t row, size_t rows);

/* The same of a GELU (gelu.c): n numbers from `at` on. */
void kd__gelu_apply(const kd__state *s, size_t at, size_t n);
void kd__gelu_dx(const kd__state *s, size_t at, size_t n);

/* Per channel (c). a, b: y = a x + b, of which ReLU's mask is made again; NULL without ReLU. */
typedef struct kd__bn_factors {
    const float *mean, *a, *b, *k1, *k2, *k3;
} kd__bn_factors;

/* What rows.c does the same with: sums (2, C) of the slice, first of x, then of dy. */
typedef struct kd__bn_rows {
    const float *x, *dy;
    float *sums;
    kd__bn_factors f; /* a and b in any case */
    bool relu;
} kd__bn_rows;
kd__bn_rows kd__bn_rows_of(const kd__state *s, size_t slice);

/* ---- convolutions row by row, batch norms included (rows.c) ---------------------------------- */

enum {
    KD__ROWS_CHANNELS = 16, /* channels are multiples of it */
    KD__ROWS_BLOCK = 32,    /* outputs whose weights lie together */
    KD__ROWS_WINDOW = 3,
    KD__ROWS_WEIGHTS = 1 << 19 /* at most: others are better off with the library */
};
typedef struct kd__rows kd__rows;
bool kd__rows_fit(const kd__conv_desc *d); /* forward */
bool kd__rows_fit_backward(const kd__conv_desc *d);
kd_status kd__rows_create(kd__rows **out, const kd__conv_desc *d, kd_err *err); /* free() it */
/* As kd__prim_weight_order. */
kd_status kd__rows_order(const kd__rows *r, kd__conv_pass pass, uint32_t **out, size_t *floats, kd_err *err);
size_t kd__rows_stage(const kd__rows *r); /* floats of scratch a thread */
typedef struct kd__rows_call {
    size_t slice, first, images; /* which one, and its images in the batch */
    const float *x, *y, *dy;     /* the batch's; y with relu only */
    float *out;                  /* y, or dx (NULL unless need_dx) */
    const float *w, *bias;       /* in the pass's order; bias may be NULL */
    float *dw, *dbias;           /* the slice's own shares, written; dbias may be NULL */
    float *stage;                /* the thread's */
} kd__rows_call;
void kd__rows_forward(const kd__rows *r, const kd__rows_call *call);
void kd__rows_backward(const kd__rows *r, const kd__rows_call *call);

/* ---- one library kernel, planned for one thread (dnnl.c, the only file that knows oneDNN) --- */

typedef struct kd__prim kd__prim;
/* KD_ENOMEM, KD_EUNSUPPORTED. conv: `images` of d's batch; same_order: a kernel of the same pass
 * whose order of weights this one must use, or NULL for the library's choice. */
kd_status kd__prim_matmul(kd__prim **out, const kd__gemm_desc *d, kd__team *team, kd_err *err);
kd_status kd__prim_conv(kd__prim **out, kd__conv_pass pass, const kd__conv_desc *d, int64_t images,
                        const kd__prim *same_order, kd__team *team, kd_err *err);
/* The library's order of (diff) weights: order[i] is 1 + the index of element i in the plain layout,
 * 0 for padding. *out: *count numbers, free() it. */
kd_status kd__prim_weight_order(const kd__prim *p, uint32_t **out, size_t *count, kd_err *err);
/* By any thread of the team: matmul (a, b, bias, c); forward (x, w, bias, y), w in the library's
 * order; data (dy, w, -, dx); weights (x, dy, -, dw). A kernel that fails while running, which is
 * not expected, leaves a NaN in its output for the trainer's checks to find. */
void kd__prim_run(const kd__prim *p, const void *a, const void *b, const float *bias, float *c);
const char *kd__prim_name(const kd__prim *p); /* the library's own name of the kernel */
void kd__prim_free(kd__prim *p);

/* ---- vector kernels by instruction set (lib/nn/vector.simd.c) ------------------------------ */

typedef struct kd__adamw_factors {
    float keep;       /* 1 - lr * decay */
    float a1, b2, a2; /* 1 - beta1, beta2, 1 - beta2 */
    float step, c2;   /* lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t) */
    float eps, grad_scale;
    float mean_rate;
} kd__adamw_factors;

/* One row of pooling windows over an image (h, w, c). */
typedef struct kd__pool {
    size_t c, k, stride, out_w;
    size_t row; /* floats from one image row to the next */
} kd__pool;

/* Element i of a stream takes word i % 64 / 16 of counter i / 64 * 16 + i % 16 (added to counter[0]) and
 * lives where that is >= limit. */
enum { KD__MASK_BLOCK = 64 };
typedef struct kd__mask {
    uint32_t counter[4], key[2], limit;
    float scale;
} kd__mask;
/* Of the node's dropout in this step; item: of those that count apart, 0: there are none. */
kd__mask kd__mask_of(const kd_exec *ex, const kd__state *s, uint32_t item);

typedef struct kd__vec {
    /* Both give 0 when what they leave behind is finite, else NAN. mean: NULL or as in kd_along. m of sgd:
     * NULL without momentum. */
    float (*adamw)(float *w, float *m, float *v, const float *g, float *mean, size_t n,
                   const kd__adamw_factors *f);
    float (*sgd)(float *w, float *m, const float *g, float *mean, size_t n, const kd_sgd *p);
    double (*sumsq)(const float *x, size_t n);
    void (*u8_to_f32)(float *y, const uint8_t *x, size_t n, float mean, float scale);
    /* To nearest even; a NaN stays one. */
    void (*round_bf16)(float *y, const float *x, size_t n);
    void (*to_bf16)(uint16_t *y, const float *x, size_t n);
    void (*from_bf16)(float *y, const uint16_t *x, size_t n);
    void (*to_f16)(uint16_t *y, const float *x, size_t n);                      /* likewise */
    void (*add)(float *y, const float *a, const float *b, size_t n, bool relu); /* y = a + b */
    void (*add_to)(float *y, const float *a, size_t n);                         /* y += a */
    void (*times)(float *y, const float *a, const float *b, size_t n);          /* y = a b */
    void (*relu)(float *y, const float *x, size_t n);
    void (*relu_mask)(float *dx, const float *dy, const float *y, size_t n); /* dx = y > 0 ? dy : 0 */
    void (*relu_mask_add)(float *dx, const float *dy, const float *y, size_t n);
    /* Sums per channel of x (rows, c), rows ld floats apart. */
    void (*col_sum)(float *sum, const float *x, size_t rows, size_t c, size_t ld);
    /* x (rows, c): mean and sum of squared deviations per channel. */
    void (*moments)(float *mean, float *sq, const float *x, size_t rows, size_t c);
    void (*scale_shift)(float *y, const float *x, const float *a, const float *b, size_t rows, size_t c,
                        bool relu);
    /* s1 = sum dy, s2 = sum dy * (x - mean), with dy masked where there is ReLU */
    void (*bn_grad_sums)(float *s1, float *s2, const float *dy, const float *x, size_t rows, size_t c,
                         const kd__bn_factors *f);
    /* dx (+)= k1 dy + k2 (x - mean) + k3, with dy masked where there is ReLU; dx may be dy */
    void (*bn_dx)(float *dx, const float *dy, const float *x, size_t rows, size_t c, const kd__bn_factors *f,
                  bool add);
    /* One row of windows (out_w, c); which: the place in the window of the largest number, the first
     * one on a tie; a NaN wins. Backward writes every place of each window, or adds to it. */
    void (*max_row)(float *y, uint8_t *which, const float *x, const kd__pool *g);
    void (*max_row_back)(float *dx, const uint8_t *which, const float *dy, const kd__pool *g, bool add);
    void (*avg_row)(float *y, const float *x, const kd__pool *g);
    void (*avg_row_back)(float *dx, const float *dy, const kd__pool *g, bool add);
    /* every row of y (rows, c) = or += scale * x (c) */
    void (*spread)(float *y, const float *x, float scale, size_t rows, size_t c, bool add);
    void (*dropout)(float *y, const float *x, size_t n, const kd__mask *m, bool add); /* n: whole blocks */
} kd__vec;
/* `lines` lines, y_line apart, of n output pixels of `out` numbers, y_pitch apart: sums over segments of len
 * numbers of each of `rows` rows of x, x_pitch from pixel to pixel, x_step rows from line to line. Depthwise:
 * len is a multiple of out = c, and numbers of a channel meet.
 */
/* Stretches of memory that will be read soon, the last one first; `at` goes from a stretch's begin to its
 * end. */
typedef struct kd__ahead {
    const float *at, *end;
    struct {
        const float *at, *end;
    } stretch[8];
    int stretches;
} kd__ahead;
typedef struct kd__product {
    const float *const *x;
    size_t rows, len, x_pitch, y_pitch, n, out;
    size_t lines, x_step, y_line;
    const float *bias; /* or NULL */
    bool relu, add;    /* y = max(0, y), y += */
    kd__ahead *ahead;  /* asked for meanwhile, as far as one gets; not by depthwise kernels */
} kd__product;

typedef struct kd__rows_kernels { /* of rows.c, which says in which order weights are */
    void (*product)(const kd__product *t, float *y, const float *w);
    void (*deep_product)(const kd__product *t, float *y, const float *w);
    /* dw (rows, len, out) += products of dy_rows rows of dy (n, out) with windows of x that are `step` rows
     * apart */
    void (*weights)(const kd__product *t, float *dw, size_t step, const float *const *dy, size_t dy_rows);
    void (*deep_weights)(const kd__product *t, float *dw, size_t step, const float *const *dy,
                         size_t dy_rows);
    /* As above, over n pixels of c channels; sums and moments add to what is there, `before` pixels. */
    void (*bn_apply)(float *y, const float *x, const kd__bn_factors *f, size_t n, size_t c, bool relu);
    void (*bn_dx)(float *dx, const float *dy, const float *x, const kd__bn_factors *f, size_t n, size_t c,
                  bool relu);
    void (*bn_sums)(float *s1, float *s2, const float *dy, const float *x, const kd__bn_factors *f, size_t n,
                    size_t c, bool relu);
    void (*moments)(float *mean, float *sq, size_t before, const float *x, size_t n, size_t c);
} kd__rows_kernels;
extern const kd__rows_kernels kd__rows_scalar, kd__rows_avx2, kd__rows_avx512;
const kd__rows_kernels *kd__rows_get(void);
/* The same with pairs of bf16 in the place of floats, but for y and dw. n: a multiple of 16. */
typedef struct kd__rows_pairs {
    void (*product)(const kd__product *t, float *y, const float *w);
    void (*weights)(const kd__product *t, float *dw, size_t step, const float *const *dy, size_t dy_rows);
    void (*neighbours)(float *to, const float *x, size_t n); /* n / 2 pairs: x[0] and x[1], ... */
    void (*couples)(float *to, const float *a, const float *b, size_t n); /* n pairs: a[0] and b[0], ... */
} kd__rows_pairs;
extern const kd__rows_pairs kd__rows_bf16_avx512bf16;

/* One head of one sequence: tokens rows of d numbers, ld from token to token in all of its matrices. */
typedef struct kd__head {
    const float *q, *k, *v;
    size_t tokens, d, ld;
    float scale;          /* of scores */
    const kd__mask *drop; /* of shares, from counter 0 on; NULL: none */
} kd__head;
/* Four shares of query `row`, from token t on: 0 or scale. t: a multiple of 4. */
void kd__mask_shares(float out[4], const kd__head *h, size_t row, size_t t);
typedef struct kd__head_grads {
    const float *y, *dy, *log_sum;
    float *dq, *dk, *dv; /* each may be NULL */
    bool add[3];
} kd__head_grads;
enum { KD__HEAD_BLOCK = 32 }; /* queries at a time */

typedef struct kd__encoder_kernels { /* encoder.simd.c */
    /* Rows of n numbers; stats (rows, 2): mean and 1 / deviation. */
    void (*layernorm)(float *y, float *stats, const float *x, const float *w, const float *b, size_t rows,
                      size_t n, float eps);
    /* dw, db += ; dx (+)=, may be NULL or dy */
    void (*layernorm_back)(float *dx, float *dw, float *db, const float *dy, const float *x,
                           const float *stats, const float *w, size_t rows, size_t n, bool add);
    void (*gelu)(float *y, const float *x, size_t n);
    void (*gelu_back)(float *dx, const float *dy, const float *x, size_t n, bool add); /* dx may be dy */
    void (*gelu_and_slope)(float *y, float *x, size_t n); /* in x's place the derivative */
    size_t (*head_floats)(size_t tokens, size_t d);       /* of scratch */
    /* y; log_sum (tokens), or NULL: logarithms of the sums of exponentials */
    void (*attend)(const kd__head *h, float *y, float *log_sum, float *scratch);
    void (*attend_back)(const kd__head *h, const kd__head_grads *g, float *scratch);
} kd__encoder_kernels;
extern const kd__encoder_kernels kd__encoder_scalar, kd__encoder_avx2, kd__encoder_avx512;
const kd__encoder_kernels *kd__encoder_get(void);

/* The heads of queries of one sequence that share a head of keys and values: tokens rows, ldq and ldk from
 * token to token. */
typedef struct kd__group {
    const float *q, *k, *v; /* of the first query head */
    size_t heads, tokens, d, ldq, ldk;
    size_t past; /* tokens that have keys but no queries: the first ones; 0 in backward */
    float scale; /* of scores */
    bool pairs;  /* operands of products are bf16 */
    /* Where they are kept from pass to pass, in the place of k and v: keys (d, ldkt), values (tokens, ldvt),
     * both multiples of vectors, zeros behind d. */
    const float *kt, *vt;
    size_t ldkt, ldvt;
} kd__group;
typedef struct kd__group_grads { /* of one head of queries */
    const float *y, *dy, *log_sum;
    float *dq, *dk, *dv; /* each may be NULL; all ldq from token to token */
    bool add;            /* to dq */
} kd__group_grads;
typedef struct kd__decoder_kernels { /* decoder.simd.c */
    /* Rows of n numbers; stats (rows): 1 / root of the mean square. */
    void (*rmsnorm)(float *y, float *stats, const float *x, const float *w, size_t rows, size_t n, float eps);
    /* dw += ; dx (+)=, may be NULL or dy */
    void (*rmsnorm_back)(float *dx, float *dw, const float *dy, const float *x, const float *stats,
                         const float *w, size_t rows, size_t n, bool add);
    /* One token's heads of d numbers; cosine and sine (d / 2). y may be x. */
    void (*rotate)(float *y, const float *x, const float *cosine, const float *sine, size_t heads, size_t d,
                   bool add);
    void (*swiglu)(float *y, const float *gate, const float *up, size_t n);
    /* Each of dgate and dup may be NULL, or dy. */
    void (*swiglu_back)(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                        size_t n, const bool add[2]);
    size_t (*group_floats)(size_t tokens, size_t d); /* of scratch */
    /* y; log_sum (heads, tokens), or NULL: logarithms of the sums of exponentials */
    void (*attend)(const kd__group *g, float *y, float *log_sum, float *scratch);
    void (*attend_back)(const kd__group *g, const kd__group_grads *b, float *scratch);
} kd__decoder_kernels;
extern const kd__decoder_kernels kd__decoder_scalar, kd__decoder_avx2, kd__decoder_avx512,
    kd__decoder_avx512bf16;
const kd__decoder_kernels *kd__decoder_get(void);

extern const kd__vec kd__vec_scalar, kd__vec_avx2, kd__vec_avx512;
const kd__vec *kd__vec_get(void); /* best for kd_cpu_isa(), chosen once */
/* An optimizer step by the given kernels; kd_nn_adamw and kd_nn_sgd with those of this CPU. */
void kd__adamw_range(const kd__vec *k, float *w, float *m, float *v, const float *g, size_t n,
                     const kd_adamw *p);
void kd__sgd_range(const kd__vec *k, float *w, float *m, const float *g, size_t n, const kd_sgd *p);

#endif
