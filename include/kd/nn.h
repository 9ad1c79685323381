/* kd/nn.h - tensors, the graph of ops, its planned memory and its execution.
 *
 * A model is a graph: a list of nodes in execution order, each an op with inputs and one output. A
 * graph is built once by an architecture (kd/model.h), owns one slab of parameters, and can be
 * executed by several kd_exec (training at batch 128, evaluation at batch 256), each with its own
 * planned arena. Shapes are per row (a row is a sample; for token models, a token); the batch
 * dimension is added by the exec. Images are NHWC inside the graph.
 *
 *     kd_graph *g = kd_graph_create();
 *     kd_node x = kd_nn_input(g, "image", 3, (int64_t[]){28, 28, 1});
 *     x = kd_nn_flatten(g, "flat", x);
 *     x = kd_nn_relu(g, "relu0", kd_nn_linear(g, "fc0", x, 128, true));
 *     x = kd_nn_linear(g, "fc1", x, 10, true);
 *     kd_graph_output(g, x);
 *     if (kd_graph_finish(g, &err)) ...            // errors of any node above show here
 *     kd_graph_init(g, seed);
 *     kd_exec_params p = { .batch = 128, .threads = 2, .training = true };
 *     if (kd_exec_create(&ex, g, &p, &err)) ...
 *     fill(kd_exec_input(ex, input));              // (B, 28, 28, 1) f32
 *     #pragma omp parallel num_threads(2)
 *     { kd_exec_forward(ex); loss(kd_exec_value(ex, x), kd_exec_grad(ex, x)); kd_exec_backward(ex); }
 *
 * Threads: forward and backward are called by every thread of one parallel region of exactly
 * p.threads threads (rule: kernels are orphaned `omp for`), or serially when p.threads is 1 (also
 * inside somebody else's region: the exec then opens a nested region of one thread). All other calls are
 * serial. Same bits for any thread count: work is cut into a grid fixed by shapes alone, each piece done by
 * one thread, sums over pieces in a fixed tree.
 *
 * Token models. A graph that begins with kd_nn_tokens has two kinds of nodes: per token, one row for each
 * token of a packed batch (sequences one behind the other, no padding), and, behind kd_nn_pool, per
 * sequence. An exec is planned for at most `batch` tokens and `sequences` sequences; before each forward
 * the caller says how the batch is cut, and only what it holds is computed:
 *
 *     kd_exec_params p = { .batch = 4096, .sequences = 64, .threads = 2 };
 *     memcpy(kd_exec_tokens(ex, tokens), ids, offset[n] * sizeof *ids);
 *     if (kd_exec_sequences(ex, offset, n, &err)) ...       // sequence i: tokens offset[i] to offset[i + 1]
 *     kd_exec_run_forward(ex);
 *     use(kd_exec_value(ex, pooled), kd_exec_rows(ex, pooled));
 *
 * The bits depend neither on the planned size nor, in forward, on what else is in the batch.
 */
#ifndef KD_NN_H
#define KD_NN_H

#include "kd/base.h"

#define KD_MAX_DIMS   6
#define KD_MAX_INPUTS 4

typedef struct kd_graph kd_graph;
typedef struct kd_exec kd_exec;
typedef int kd_node; /* index of a node; negative: building it failed (kd_graph_finish tells why) */

/* ---- building ----------------------------------------------------------------------------- */

kd_graph *kd_graph_create(void); /* NULL when out of memory */
void kd_graph_free(kd_graph *g);

/* Each returns the new node. name: unique, becomes the prefix of its parameters ("fc0.weight") and
 * the name of the tap. A failed input makes the node fail; the first failure is kept. */
kd_node kd_nn_input(kd_graph *g, const char *name, int ndims, const int64_t *dims); /* behind kd_nn_tokens: a
                                                                                        row per sequence */
kd_node kd_nn_tokens(kd_graph *g, const char *name); /* a token's id, see kd_exec_tokens; one a graph */
/* y = x W^T + b over the last axis; weight (out, in), bias (out). */
kd_node kd_nn_linear(kd_graph *g, const char *name, kd_node x, int64_t out, bool bias);
/* (H, W, C) -> (H', W', out); weight (out, C, k, k), bias (out); zero padding `pad` on each side. */
kd_node kd_nn_conv2d(kd_graph *g, const char *name, kd_node x, int64_t out, int k, int stride, int pad,
                     bool bias);
/* depthwise: weight (C, 1, k, k). */
kd_node kd_nn_dwconv2d(kd_graph *g, const char *name, kd_node x, int k, int stride, int pad, bool bias);
/* Over the last axis (channels), statistics over batch and space; weight, bias (C) and the buffers
 * running_mean, running_var (C). running = (1 - momentum) running + momentum batch, with the unbiased
 * variance, as PyTorch (Ioffe and Szegedy 2015). Inference uses the running values. */
kd_node kd_nn_batchnorm(kd_graph *g, const char *name, kd_node x, float momentum, float eps);
kd_node kd_nn_relu(kd_graph *g, const char *name, kd_node x);
kd_node kd_nn_maxpool(kd_graph *g, const char *name, kd_node x, int k, int stride);
kd_node kd_nn_avgpool(kd_graph *g, const char *name, kd_node x, int k, int stride);
kd_node kd_nn_global_avgpool(kd_graph *g, const char *name, kd_node x); /* (H, W, C) -> (C) */
/* To one axis in PyTorch's order of an image, (C, H, W): a linear layer behind it has the weights
 * PyTorch would have. No copy where H * W or C is 1. */
kd_node kd_nn_flatten(kd_graph *g, const char *name, kd_node x);
kd_node kd_nn_add(kd_graph *g, const char *name, kd_node a, kd_node b);
kd_node kd_nn_softmax(kd_graph *g, const char *name, kd_node x); /* over the last axis */
/* Inverted dropout by the counter generator (seed, node, step); identity in inference. */
kd_node kd_nn_dropout(kd_graph *g, const char *name, kd_node x, float p);

/* ---- token models: layers of encoders -- */

/* tokens -> (width): table row of the id; with positions > 0 plus a row for the token's place in its
 * sequence, with types > 0 plus the row of type 0. One table: weight (vocab, width). With positions, as in
 * BERT (Devlin et al. 2019): word_embeddings.weight, position_embeddings.weight (positions, width) and
 * token_type_embeddings.weight (types, width). A sequence then has at most `positions` tokens. */
kd_node kd_nn_embedding(kd_graph *g, const char *name, kd_node tokens, int64_t vocab, int64_t positions,
                        int64_t types, int64_t width);
/* y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis (Ba et al. 2016). */
kd_node kd_nn_layernorm(kd_graph *g, const char *name, kd_node x, float eps);
kd_node kd_nn_gelu(kd_graph *g, const char *name, kd_node x); /* x Phi(x), the exact form with erf */
/* q, k, v: (heads * d), a row per token -> the same: each token attends to all of its sequence, scores scaled
 * by 1 / sqrt(d) (Vaswani et al. 2017, section 3.2). p: in training that part of the shares is dropped, the
 * others grow, as kd_nn_dropout. */
kd_node kd_nn_self_attention(kd_graph *g, const char *name, kd_node q, kd_node k, kd_node v, int heads,
                             float p);
typedef enum kd_pool { KD_POOL_MEAN, KD_POOL_FIRST } kd_pool;
kd_node kd_nn_pool(kd_graph *g, const char *name, kd_node x,
                   kd_pool how);                                   /* a row per token -> per sequence */
kd_node kd_nn_normalize(kd_graph *g, const char *name, kd_node x); /* y = x / max(|x|, 1e-12), last axis */

/* ---- token models: layers of decoders -- */

/* y = x / sqrt(mean of x^2 + eps) * weight over the last axis (Zhang and Sennrich 2019). */
kd_node kd_nn_rmsnorm(kd_graph *g, const char *name, kd_node x, float eps);
/* x: (heads * d), a row per token -> the same: in each head numbers i and i + d / 2 are turned by the angle
 * place / base^(2 i / d), with the token's place in its sequence (Su et al. 2021, halves as in Llama's
 * folders). A sequence then has at most `positions` tokens, 0: any number. */
kd_node kd_nn_rope(kd_graph *g, const char *name, kd_node x, int heads, float base, int64_t positions);
/* q: (heads * d), k and v: (kv_heads * d), a row per token -> (heads * d): each token attends to those up to
 * itself, heads / kv_heads heads of queries to one of keys (Ainslie et al. 2023); scores by 1 / sqrt(d). */
kd_node kd_nn_causal_attention(kd_graph *g, const char *name, kd_node q, kd_node k, kd_node v, int heads,
                               int kv_heads);
kd_node kd_nn_swiglu(kd_graph *g, const char *name, kd_node gate,
                     kd_node up); /* gate sigmoid(gate) up (Shazeer 2020) */
/* y = x W^T with the table of an embedding as W: logits of its vocabulary. No parameters of its own. */
kd_node kd_nn_tied_linear(kd_graph *g, const char *name, kd_node x, kd_node embedding);

/* Keeps the value readable. In training every output's gradient is to be filled before each backward. */
void kd_graph_output(kd_graph *g, kd_node x);
/* Ends building: checks, fuses (linear + bias + relu, batch norm + relu), lays out the slab.
 * KD_EUSAGE, KD_ENOMEM. */
kd_status kd_graph_finish(kd_graph *g, kd_err *err);

/* ---- what a graph has --------------------------------------------------------------------- */

typedef struct kd_param {
    const char *name; /* "fc0.weight", borrowed from the graph */
    int ndims;
    int64_t dims[KD_MAX_DIMS]; /* PyTorch's shape */
    size_t offset, size;       /* in floats, in the slab of parameters or of buffers */
    bool buffer;               /* running statistics: saved, not trained */
    bool decay;                /* weight decay applies: weights of linear and convolution */
} kd_param;

size_t kd_graph_params(const kd_graph *g, const kd_param **list); /* count; list borrowed */
float *kd_graph_slab(kd_graph *g, size_t *floats); /* all trainable parameters, 64-byte aligned; pieces padded
                                                      to 16 floats, padding stays 0 */
float *kd_graph_buffers(kd_graph *g, size_t *floats);       /* running statistics */
float *kd_graph_param_data(kd_graph *g, const kd_param *p); /* where p lives: slab or buffers */
size_t kd_graph_param_count(const kd_graph *g);             /* trainable numbers, without padding */
/* Initial weights by the counter generator: linear and conv uniform(+-1/sqrt(fan_in)) as PyTorch's
 * defaults (He et al. 2015 with a = sqrt 5), norm weight 1, bias 0, running mean 0, variance 1. */
void kd_graph_init(kd_graph *g, uint64_t seed);
int kd_graph_nodes(const kd_graph *g);
kd_node kd_graph_find(const kd_graph *g, const char *name); /* -1: no such node */
const char *kd_graph_node_name(const kd_graph *g, kd_node n);
int kd_graph_node_shape(const kd_graph *g, kd_node n,
                        int64_t dims[KD_MAX_DIMS]);      /* number of axes, per row */
size_t kd_graph_node_size(const kd_graph *g, kd_node n); /* floats a row */
typedef enum kd_per { KD_PER_ROW, KD_PER_TOKEN, KD_PER_SEQUENCE } kd_per;
kd_per kd_graph_node_per(const kd_graph *g,
                         kd_node n); /* what a row of its is; KD_PER_ROW but in token models */
/* The node whose value stands where n's own would: a ReLU that was fused into n, so that what was before it
 * is never there. n itself where nothing was fused. */
kd_node kd_graph_node_shown(const kd_graph *g, kd_node n);
/* What a node computes, for those who write a graph in another form (kd/export.h). */
typedef struct kd_node_facts {
    const char *op; /* "conv2d", "batchnorm", ...: its builder's name; borrowed */
    int inputs, params;
    kd_node in[KD_MAX_INPUTS];
    const kd_param *param[4]; /* in the order of its builder's comment */
    int k, stride, pad;       /* of windows */
    float eps;                /* of norms */
} kd_node_facts;
kd_node_facts kd_graph_node_facts(const kd_graph *g, kd_node n);
double kd_graph_macs(const kd_graph *g); /* multiply-adds of one row's forward pass; attention's left out */
double kd_graph_train_flops(const kd_graph *g); /* FLOPs a row, forward and backward, no dX for inputs */

/* ---- running ------------------------------------------------------------------------------ */

/* Of the operands of products; all else is f32 in any case. Depthwise convolutions and those of one channel
 * stay f32, which is faster for them. */
typedef enum kd_precision { KD_PRECISION_F32, KD_PRECISION_BF16 } kd_precision;
bool kd_precision_parse(const char *name, kd_precision *out); /* "f32", "bf16"; false for others */
kd_status kd_nn_check_precision(kd_precision p, kd_err *err); /* KD_EUNSUPPORTED: this CPU, or KD_ISA */
const char *kd_nn_products(kd_precision p); /* how this CPU does them; part of the promise of equal bits */

typedef struct kd_exec_params {
    int64_t batch;     /* rows the arena is planned for; of a token model: tokens */
    int64_t sequences; /* token models: sequences in a batch at most; 0: as many as tokens */
    int threads;       /* of the region that will call forward and backward */
    bool training;     /* keeps what backward needs, batch statistics, dropout */
    kd_precision precision;
    bool fixed; /* inference: weights do not change while the exec lives; copies of them are made once */
    bool naive; /* every op by its naive twin in plain C: for tests */
    const kd_node *keep; /* inference: nodes whose values stay readable like outputs; the others' results do
                            not change by it. Borrowed during create */
    int nkeep;
    bool kept_only;       /* inference: the graph's outputs are not computed unless they are kept */
    const kd_node *given; /* inference: a node whose value is the caller's (kd_exec_input, kd_exec_borrow), so
                             that what is before it is not computed; NULL: none. Borrowed during create */
    kd_node head; /* > 0: that output, a linear layer of tokens, is left out for a kd_head to compute; what it
                     reads is an output in its place */
    /* NULL, or the kd_head that will compute it, created with `planned`: it works where this exec has room
     * between forward and backward, and must not outlive it. */
    struct kd_head *with;
    int64_t cache; /* inference of decoders: tokens of each of the sequences whose keys and values are kept,
                      see kd_exec_resume */
} kd_exec_params;

/* KD_ENOMEM, KD_EUNSUPPORTED. The graph must outlive the exec. Each training exec has its own
 * gradient slab. */
kd_status kd_exec_create(kd_exec **out, kd_graph *g, const kd_exec_params *p, kd_err *err);
void kd_exec_free(kd_exec *ex);
size_t kd_exec_bytes(const kd_exec *ex);                      /* planned: arena, scratch, gradients */
void kd_exec_seed(kd_exec *ex, uint64_t seed, uint64_t step); /* for dropout; before forward */
float *kd_exec_input(kd_exec *ex, kd_node input);             /* (B, ...), to be filled by the caller */
/* Or: the caller's own memory, all rows of the batch, which is read in place until the next call and not
 * changed meanwhile. By one thread, before forward. */
void kd_exec_borrow(kd_exec *ex, kd_node input, const float *x);
int32_t *kd_exec_tokens(kd_exec *ex, kd_node tokens); /* (tokens), to be filled: ids in the vocabulary */
/* Token models: from now on the batch is n sequences, one behind the other; sequence i is made of tokens
 * offset[i] up to offset[i + 1]. offset: (n + 1), copied. KD_EUSAGE names the sequence: none, empty, longer
 * than the model has positions, more than planned for. */
kd_status kd_exec_sequences(kd_exec *ex, const uint64_t *offset, int64_t n, kd_err *err);
/* n tokens that go on behind the first `past` tokens of what earlier passes have seen of a sequence, one of 0
 * to p.sequences - 1. past 0: another one in its place. */
typedef struct kd_exec_part {
    int64_t sequence, past, n;
} kd_exec_part;
/* With p.cache: from now on the batch is these parts, one behind the other, of sequences whose numbers rise.
 * A pass gives the numbers, to the last bit, that one over the whole of each would give. KD_EUSAGE names the
 * sequence: more than were seen, than the cache keeps, than the model has positions. */
kd_status kd_exec_resume(kd_exec *ex, const kd_exec_part *part, int64_t parts, kd_err *err);
int64_t kd_exec_rows(const kd_exec *ex,
                     kd_node n); /* of its value now: batch, or active tokens or sequences */
/* Reads the weights afresh: call after the parameters changed (packed copies are made in forward, but for
 * `fixed`). */
void kd_exec_forward(kd_exec *ex);
const float *
kd_exec_value(const kd_exec *ex,
              kd_node n); /* (B, ...): outputs, inputs, kept nodes; borrowed until the next forward */
float *kd_exec_grad(kd_exec *ex,
                    kd_node output); /* (B, ...), dLoss/doutput: filled by the loss before backward */
void kd_exec_backward(kd_exec *ex);  /* overwrites the gradient slab, which nobody else may write to: of an
                                        embedding only the rows of this batch and of the one before are */
float *kd_exec_grads(kd_exec *ex);   /* same layout as kd_graph_slab */
/* A batch may come in parts: from the second one on backward, and a head's, add to the gradients that are
 * there. What backward needs grows with a part, while each part lays out all weights again; in bf16 it rounds
 * them as well. kd_graph_part: as few rows as keep that small, or 0 where a batch has to come whole: all but
 * token models without biases, norms with means and embeddings of their own, by other than library products.
 */
int64_t kd_graph_part(const kd_graph *g, kd_precision p);
void kd_exec_add(kd_exec *ex, bool add);
/* Opens the region itself: for inference. */
void kd_exec_run_forward(kd_exec *ex);

/* ---- heads of language models --------------------------------------------------------------- */

/* The last layer of a language model gives a number a word of the vocabulary for each token: 200 MB for 1,024
 * tokens. So it is no part of the exec (kd_exec_params.head), but computed for a piece of the rows at a time,
 * those that somebody asks for, and in training backward at once:
 *
 *     kd_head_params p = {.head = logits, .threads = 2, .training = true};
 *     if (kd_head_create(&h, g, &p, &err)) ...
 *     #pragma omp parallel num_threads(2)
 *     {
 *         kd_exec_forward(ex);
 *         kd_head_begin(h, ex, n);
 *         for (at = 0; at < n; at += kd_head_rows(h)) {
 *             z = kd_head_forward(h, row + at, min(n - at, kd_head_rows(h)));
 *             loss(z, kd_head_grad(h));
 *             kd_head_backward(h);
 *         }
 *         kd_exec_backward(ex);
 *     }
 *
 * The gradient of its weights, or of the embedding's table that it shares, is added up piece by piece in the
 * exec's slab, that of what it reads in the exec; rows that nobody asked for have none. Threads and bits: as
 * an exec's. */
typedef struct kd_head kd_head;
enum { KD_HEAD_ROWS = 256 }; /* of a piece, of any head, at most */
typedef struct kd_head_params {
    kd_node head; /* an output, linear without a bias, a row per token */
    int threads;  /* of the region */
    bool training;
    bool apart;   /* gradients of logits have memory of their own, else they take the logits' place */
    bool half;    /* with operands of bf16, not with apart: both may be of 16 bits (kd_head_half) */
    bool planned; /* it works in memory of the exec whose kd_exec_params.with it is */
    kd_precision precision;
} kd_head_params;
/* KD_EUSAGE (no such layer), KD_ENOMEM. The graph must outlive it. */
kd_status kd_head_create(kd_head **out, kd_graph *g, const kd_head_params *p, kd_err *err);
void kd_head_free(kd_head *h); /* NULL-safe */
int64_t
kd_head_rows(const kd_head *h); /* of a piece at most: more where each also makes bf16 of the weights */
size_t kd_head_bytes(const kd_head *h);
/* These four by the team. rows: that will be asked for, in all. Reads the weights afresh. */
void kd_head_begin(kd_head *h, kd_exec *ex, int64_t rows);
/* (n, words) of n rows of the exec, borrowed until the next call; row: which, each once behind kd_head_begin.
 */
const float *kd_head_forward(kd_head *h, const uint32_t *row, int64_t n);
float *kd_head_grad(kd_head *h); /* (n, words), to be filled by the loss before backward */
/* NULL, or where both are instead, which are NULL then: (n, words) logits as f16, to be replaced by their
 * gradients as bf16. */
uint16_t *kd_head_half(kd_head *h);
void kd_head_backward(kd_head *h); /* of the rows of the last forward; in training, once for each forward */

/* ---- vector kernels that other layers share ----------------------------------------------- */

/* Called inside or outside a region: orphaned `omp for` over fixed blocks of 4096 elements. */

/* What both optimizers do along the way, without reading the weights twice. */
typedef struct kd_along {
    float *mean, mean_rate; /* NULL, or n floats that follow the weights: mean += mean_rate (w - mean) */
    double *sound; /* NULL, or kd_nn_blocks(n) numbers: 0 where all of a block is finite behind the step, else
                      NAN */
} kd_along;
typedef struct kd_adamw {
    float lr, beta1, beta2, eps, weight_decay;
    int64_t step;     /* from 1 */
    float grad_scale; /* multiplies the gradient first: clipping, accumulation */
    kd_along along;
} kd_adamw;
/* w, m, v, g: n floats of one parameter range; decoupled decay (Loshchilov and Hutter 2019,
 * algorithm 2), the arithmetic of torch.optim.AdamW. */
void kd_nn_adamw(float *w, float *m, float *v, const float *g, size_t n, const kd_adamw *p);
typedef struct kd_sgd {
    float lr, momentum, weight_decay, grad_scale;
    bool nesterov;
    int64_t step;
    kd_along along;
} kd_sgd;
void kd_nn_sgd(float *w, float *m, const float *g, size_t n,
               const kd_sgd *p); /* as torch.optim.SGD, dampening 0 */
/* sum = x when fresh, else sum += x; n floats. */
void kd_nn_accumulate(float *sum, const float *x, size_t n, bool fresh);
/* Sum of squares by blocks of 4096 and a fixed tree; partial: kd_nn_blocks(n) doubles, shared by the team.
 * Every thread gets the same result. */
size_t kd_nn_blocks(size_t n);
double kd_nn_sumsq(const float *x, size_t n, double *partial);
/* y (rows, cols) = (x - mean) * scale from bytes. */
void kd_nn_u8_to_f32(float *y, const uint8_t *x, size_t n, float mean, float scale);
/* y (rows, c): mean or largest value over the pixels of x (rows, pixels, c). Opens the region itself. */
void kd_nn_over_pixels(float *y, const float *x, size_t rows, size_t pixels, size_t c, bool max, int threads);
/* y (rows, to_h, to_w): where x (rows, h, w, c) is large. x is average-pooled to that size (windows overlap
 * where it does not divide), squared, averaged over channels, and each row scaled to length 1 (Zagoruyko and
 * Komodakis 2017). Opens the region itself. */
void kd_nn_attention(float *y, const float *x, size_t rows, size_t h, size_t w, size_t c, size_t to_h,
                     size_t to_w, int threads);

/* ---- all beside all ------------------------------------------------------------------------- */

/* Inner products of up to `queries` vectors with up to `base` others, for whoever compares all with all: a
 * tile, of one thread. KD_ENOMEM. */
typedef struct kd_beside kd_beside;
kd_status kd_beside_create(kd_beside **out, size_t queries, size_t base, size_t dims, kd_err *err);
void kd_beside_free(kd_beside *b);             /* NULL-safe */
float *kd_beside_base(kd_beside *b, size_t n); /* (n, dims), to be filled in; what is behind them is zeros */
/* queries: (n, dims). Returns (n, base), borrowed until the next call. */
const float *kd_beside_run(kd_beside *b, const float *queries, size_t n);

const char *kd_nn_backend(void); /* "oneDNN 2.6.3, avx512" */

#endif
