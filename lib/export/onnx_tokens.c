/* onnx_tokens.c - the operators of encoders of tokens, (batch, sequence, width).
 *
 * kd packs sequences without padding; ONNX's users pad them and say with attention_mask where. So attention
 * adds the lowest number to the scores of places that the mask leaves out, and a mean divides by the number
 * of places that it keeps. The inputs are those of transformers' own exports (input_ids, attention_mask,
 * token_type_ids; int64), the outputs, too: last_hidden_state, and behind a pooling sentence_embedding.
 *
 * Of opset 17: LayerNormalization is its own operator there, GELU is said with Erf, attention with products
 * and a softmax; runtimes know these patterns and fuse them.
 */
#include "onnx_private.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const int64_t first[] = {0}, second[] = {1}, third[] = {2}, inner[] = {1, 2};

const char *kd__onnx_step(kd__onnx *x, const kd__layer *l, const char *op, const char *what, const char *a,
                          const char *b)
{
    const char *name = kd__onnx_text(x, "%s.%s", l->name, what);
    kd__onnx_node(x, op, name, a, b, NULL);
    return name;
}

/* ---- input -------------------------------------------------------------------------------------- */

const char *kd__onnx_tokens(kd__onnx *x, const kd__layer *l)
{
    static const char *const names[] = {"input_ids", "attention_mask", "token_type_ids"};
    static const int64_t dims[] = {KD__BATCH, KD__SEQUENCE};
    const bool decodes = kd__decodes(x->net);
    (void)l;
    for (size_t i = 0; i < KD_COUNT(names) - decodes; i++)
        kd__onnx_place(x, false, names[i], KD__INT64, 2, dims);
    Onnx__NodeProto *cast = kd__onnx_node(x, "Cast", "mask", "attention_mask", NULL, NULL);
    kd__onnx_int(x, cast, "to", KD__FLOAT);
    kd__onnx_node(x, "Sub", "mask.left_out", kd__onnx_scalar(x, "one", 1), "mask", NULL);
    kd__onnx_node(x, "Mul", "mask.lowest", "mask.left_out", kd__onnx_scalar(x, "lowest", -FLT_MAX), NULL);
    if (decodes)
        kd__onnx_masks(x);
    else
        kd__onnx_node(x, "Unsqueeze", "mask.scores", "mask.lowest", kd__onnx_axes(x, "axes.1_2", 2, inner),
                      NULL);
    return names[0];
}

/* Rows of the table of words. Whole-number tables are dequantised row by row. */
static const char *words(kd__onnx *x, const kd__layer *l)
{
    const char *ids = kd__onnx_in(x, l, 0);
    if (!l->q) return kd__onnx_step(x, l, "Gather", "words", kd__onnx_weight(x, l), ids);
    const char *scales, *table = kd__onnx_whole(x, l, &scales),
                        *rows = kd__onnx_step(x, l, "Gather", "rows", table, ids),
                        *numbers = kd__onnx_text(x, "%s.numbers", l->name),
                        *scale = kd__onnx_step(x, l, "Gather", "scales", scales, ids);
    kd__onnx_int(x, kd__onnx_node(x, "Cast", numbers, rows, NULL, NULL), "to", KD__FLOAT);
    return kd__onnx_step(x, l, "Mul", "words", numbers,
                         kd__onnx_step(x, l, "Unsqueeze", "column", scale,
                                       kd__onnx_axes(x, "axes.2", 1, third)));
}

static const char *table(kd__onnx *x, const kd__layer *l, int i)
{
    const kd_param *p = l->f.param[i];
    return kd__onnx_tensor(x, p->name, KD__FLOAT, p->ndims, p->dims, kd_graph_param_data(x->net->m->graph, p),
                           p->size * sizeof(float));
}

const char *kd__onnx_embedding(kd__onnx *x, const kd__layer *l)
{
    const char *w = words(x, l), *out = kd__onnx_out(x, l);
    if (l->f.params < 3) {
        kd__onnx_node(x, "Identity", out, w, NULL, NULL);
        return out;
    }
    const char *length = kd__onnx_text(x, "%s.length", l->name),
               *places = kd__onnx_text(x, "%s.places", l->name);
    Onnx__NodeProto *shape = kd__onnx_node(x, "Shape", length, kd__onnx_in(x, l, 0), NULL, NULL);
    kd__onnx_int(x, shape, "start", 1);
    kd__onnx_int(x, shape, "end", 2);
    kd__onnx_node(x, "Slice", places, table(x, l, 1), kd__onnx_axes(x, "axes.0", 1, first), length);
    const char *types = kd__onnx_step(x, l, "Gather", "types", table(x, l, 2), "token_type_ids");
    kd__onnx_node(x, "Add", out, kd__onnx_step(x, l, "Add", "typed", w, types), places, NULL);
    return out;
}

/* ---- layers ------------------------------------------------------------------------------------- */

const char *kd__onnx_layernorm(kd__onnx *x, const kd__layer *l)
{
    const char *w = kd__onnx_weight(x, l), *b = kd__onnx_bias(x, l), *out = kd__onnx_out(x, l);
    Onnx__NodeProto *n = kd__onnx_node(x, "LayerNormalization", out, kd__onnx_in(x, l, 0), w, b);
    kd__onnx_int(x, n, "axis", -1);
    kd__onnx_float(x, n, "epsilon", l->f.eps);
    return out;
}

const char *kd__onnx_gelu(kd__onnx *x, const kd__layer *l)
{
    const char *in = kd__onnx_in(x, l, 0);
    const char *ratio = kd__onnx_step(x, l, "Div", "ratio", in, kd__onnx_scalar(x, "sqrt_2", sqrtf(2))),
               *erf = kd__onnx_step(x, l, "Erf", "erf", ratio, NULL),
               *sum = kd__onnx_step(x, l, "Add", "sum", erf, kd__onnx_scalar(x, "one", 1)),
               *twice = kd__onnx_step(x, l, "Mul", "twice", in, sum);
    kd__onnx_node(x, "Mul", kd__onnx_out(x, l), twice, kd__onnx_scalar(x, "half", 0.5f), NULL);
    return kd__onnx_out(x, l);
}

/* (batch, sequence, width) to (batch, heads, ...) in the order of perm. */
static const char *heads_of(kd__onnx *x, const kd__layer *l, int i, const char *what, const int64_t *perm)
{
    const int64_t cut[] = {0, 0, l->f.k, (int64_t)l->size / l->f.k};
    const char *shape = kd__onnx_axes(x, kd__onnx_text(x, "%s.shape", l->name), 4, cut),
               *parts = kd__onnx_step(x, l, "Reshape", kd__onnx_text(x, "%s.cut", what), kd__onnx_in(x, l, i),
                                      shape),
               *out = kd__onnx_text(x, "%s.%s", l->name, what);
    kd__onnx_ints(x, kd__onnx_node(x, "Transpose", out, parts, NULL, NULL), "perm", 4, perm);
    return out;
}

const char *kd__onnx_attention(kd__onnx *x, const kd__layer *l)
{
    static const int64_t by_head[] = {0, 2, 1, 3}, turned[] = {0, 2, 3, 1};
    const int64_t joined[] = {0, 0, (int64_t)l->size};
    const char *q = heads_of(x, l, 0, "q", by_head), *k = heads_of(x, l, 1, "k", turned),
               *v = heads_of(x, l, 2, "v", by_head);
    const float scale = 1 / sqrtf((float)(l->size / (size_t)l->f.k));
    const char *product = kd__onnx_step(x, l, "MatMul", "product", q, k),
               *scaled = kd__onnx_step(x, l, "Mul", "scaled", product,
                                       kd__onnx_scalar(x, kd__onnx_text(x, "%s.scale", l->name), scale)),
               *scores = kd__onnx_step(x, l, "Add", "scores", scaled, "mask.scores"),
               *weights = kd__onnx_text(x, "%s.weights", l->name),
               *back = kd__onnx_text(x, "%s.back", l->name);
    kd__onnx_int(x, kd__onnx_node(x, "Softmax", weights, scores, NULL, NULL), "axis", -1);
    const char *mixed = kd__onnx_step(x, l, "MatMul", "mixed", weights, v);
    kd__onnx_ints(x, kd__onnx_node(x, "Transpose", back, mixed, NULL, NULL), "perm", 4, by_head);
    kd__onnx_node(x, "Reshape", kd__onnx_out(x, l), back,
                  kd__onnx_axes(x, kd__onnx_text(x, "%s.joined", l->name), 3, joined), NULL);
    return kd__onnx_out(x, l);
}

/* ---- a row a sequence --------------------------------------------------------------------------- */

static const char *sum_over_places(kd__onnx *x, const kd__layer *l, const char *what, const char *of)
{
    const char *name = kd__onnx_text(x, "%s.%s", l->name, what);
    Onnx__NodeProto *n = kd__onnx_node(x, "ReduceSum", name, of, kd__onnx_axes(x, "axes.1", 1, second), NULL);
    kd__onnx_int(x, n, "keepdims", 0);
    return name;
}

const char *kd__onnx_pool(kd__onnx *x, const kd__layer *l)
{
    const char *in = kd__onnx_in(x, l, 0), *out = kd__onnx_out(x, l);
    if (l->f.k == KD_POOL_FIRST) {
        const char *one = kd__onnx_text(x, "%s.first", l->name);
        kd__onnx_int(x, kd__onnx_node(x, "Gather", one, in, kd__onnx_axes(x, "axes.0", 1, first), NULL),
                     "axis", 1);
        kd__onnx_node(x, "Squeeze", out, one, kd__onnx_axes(x, "axes.1", 1, second), NULL);
        return out;
    }
    const char *column =
                   kd__onnx_step(x, l, "Unsqueeze", "mask", "mask", kd__onnx_axes(x, "axes.2", 1, third)),
               *kept = kd__onnx_step(x, l, "Mul", "kept", in, column),
               *sum = sum_over_places(x, l, "sum", kept), *places = sum_over_places(x, l, "places", column);
    kd__onnx_node(x, "Div", out, sum,
                  kd__onnx_step(x, l, "Max", "divisor", places, kd__onnx_scalar(x, "fewest", 1e-9f)), NULL);
    return out;
}

/* x / max(|x|, 1e-12) over the last axis. */
const char *kd__onnx_normalize(kd__onnx *x, const kd__layer *l)
{
    static const int64_t last[] = {-1};
    const char *in = kd__onnx_in(x, l, 0), *length = kd__onnx_text(x, "%s.length", l->name);
    kd__onnx_ints(x, kd__onnx_node(x, "ReduceL2", length, in, NULL, NULL), "axes", 1, last);
    kd__onnx_node(x, "Div", kd__onnx_out(x, l), in,
                  kd__onnx_step(x, l, "Max", "divisor", length, kd__onnx_scalar(x, "shortest", 1e-12f)),
                  NULL);
    return kd__onnx_out(x, l);
}
