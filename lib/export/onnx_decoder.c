/* onnx_decoder.c - the operators of language models, (batch, sequence, width), as primitives of opset 17.
 *
 * Inputs are input_ids and attention_mask. Places follow from the mask: a token's is the number of ones up to
 * it, less one, so texts may be padded on either side; what stands in the padding changes nothing. Angles
 * of rotary positions are a table of model.positions rows, rounded as kd rounds them. Heads of keys and
 * values are not copied for the heads of queries that share them: products have an axis for the group.
 *
 * A token sees those up to itself that the mask keeps. Of two reasons not to see one the lower number counts
 * once (Min): their sum would be infinite, and a padded row, which sees none, would become NaN.
 */
#include "onnx_private.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const int64_t after_batch[] = {1, 2, 3}, last[] = {-1}, third[] = {2}, one_number[] = {1};

/* ---- once a graph ------------------------------------------------------------------------------- */

/* (positions, d): cosine and sine of place / base^(2 i / d), i from 0 to d / 2 and again. */
static void put_angles(kd__onnx *x)
{
    const kd_model_spec *s = &x->net->m->spec;
    const int64_t d = s->width / s->heads;
    int64_t *dims = kd_arena_alloc(&x->memory, 2, sizeof *dims);
    float *cosine = kd_arena_alloc(&x->memory, (size_t)(s->positions * d), sizeof *cosine),
          *sine = kd_arena_alloc(&x->memory, (size_t)(s->positions * d), sizeof *sine);
    if (!dims || !cosine || !sine) {
        x->failed = true;
        return;
    }
    dims[0] = s->positions, dims[1] = d;
    for (int64_t k = 0; k < d; k++) {
        const float i = (float)(k % (d / 2)),
                    f = (float)(1 / pow((double)(float)s->rope_base, (double)(i / (float)(d / 2))));
        for (int64_t p = 0; p < s->positions; p++) {
            const double angle = (double)((float)p * f);
            cosine[p * d + k] = (float)cos(angle);
            sine[p * d + k] = (float)sin(angle);
        }
    }
    const size_t bytes = (size_t)(s->positions * d) * sizeof(float);
    kd__onnx_tensor(x, "cosines", KD__FLOAT, 2, dims, cosine, bytes);
    kd__onnx_tensor(x, "sines", KD__FLOAT, 2, dims, sine, bytes);
}

/* "turn.cosine" and "turn.sine" of each token, (batch, sequence, 1, d). */
static void put_places(kd__onnx *x)
{
    const char *axis = kd__onnx_tensor(x, "axis.1", KD__INT64, 0, NULL, one_number, sizeof *one_number),
               *one = kd__onnx_axes(x, "axes.1", 1, one_number);
    static const int64_t none[] = {0};
    kd__onnx_node(x, "CumSum", "places.counted", "attention_mask", axis, NULL);
    kd__onnx_node(x, "Sub", "places.from_0", "places.counted", one, NULL);
    kd__onnx_node(x, "Max", "places", "places.from_0", kd__onnx_axes(x, "axes.0", 1, none), NULL);
    put_angles(x);
    kd__onnx_node(x, "Gather", "turn.cosines", "cosines", "places", NULL);
    kd__onnx_node(x, "Gather", "turn.sines", "sines", "places", NULL);
    kd__onnx_node(x, "Unsqueeze", "turn.cosine", "turn.cosines", kd__onnx_axes(x, "axes.2", 1, third), NULL);
    kd__onnx_node(x, "Unsqueeze", "turn.sine", "turn.sines", kd__onnx_axes(x, "axes.2", 1, third), NULL);
}

/* "mask.seen", (batch, 1, 1, sequence, sequence): 0 where a token sees another, else the lowest number. */
void kd__onnx_masks(kd__onnx *x)
{
    Onnx__NodeProto *n = kd__onnx_node(x, "Shape", "length", "input_ids", NULL, NULL);
    kd__onnx_int(x, n, "start", 1);
    kd__onnx_int(x, n, "end", 2);
    kd__onnx_int(x, kd__onnx_node(x, "Concat", "length.twice", "length", "length", NULL), "axis", 0);
    kd__onnx_node(x, "Expand", "mask.all", kd__onnx_scalar(x, "lowest", -FLT_MAX), "length.twice", NULL);
    n = kd__onnx_node(x, "Trilu", "mask.later", "mask.all",
                      kd__onnx_tensor(x, "diagonal.1", KD__INT64, 0, NULL, one_number, sizeof *one_number),
                      NULL);
    kd__onnx_int(x, n, "upper", 1);
    kd__onnx_node(x, "Unsqueeze", "mask.keys", "mask.lowest", kd__onnx_axes(x, "axes.1_2_3", 3, after_batch),
                  NULL);
    kd__onnx_node(x, "Min", "mask.seen", "mask.keys", "mask.later", NULL);
    put_places(x);
}

/* ---- layers ------------------------------------------------------------------------------------- */

const char *kd__onnx_rmsnorm(kd__onnx *x, const kd__layer *l)
{
    const char *in = kd__onnx_in(x, l, 0), *mean = kd__onnx_text(x, "%s.mean", l->name),
               *square = kd__onnx_step(x, l, "Mul", "square", in, in);
    kd__onnx_ints(x, kd__onnx_node(x, "ReduceMean", mean, square, NULL, NULL), "axes", 1, last);
    const char *eps = kd__onnx_scalar(x, "eps", l->f.eps),
               *length =
                   kd__onnx_step(x, l, "Sqrt", "length", kd__onnx_step(x, l, "Add", "sum", mean, eps), NULL),
               *scaled = kd__onnx_step(x, l, "Div", "scaled", in, length);
    kd__onnx_node(x, "Mul", kd__onnx_out(x, l), scaled, kd__onnx_weight(x, l), NULL);
    return kd__onnx_out(x, l);
}

/* Numbers from `from` up to `to` of each head. */
static const char *part(kd__onnx *x, const kd__layer *l, const char *what, const char *of, int64_t from,
                        int64_t to)
{
    const int64_t starts[] = {0, 0, 0, from}, ends[] = {INT64_MAX, INT64_MAX, INT64_MAX, to};
    const char *name = kd__onnx_text(x, "%s.%s", l->name, what);
    kd__onnx_node(x, "Slice", name, of,
                  kd__onnx_axes(x, kd__onnx_text(x, "from.%lld", (long long)from), 4, starts),
                  kd__onnx_axes(x, kd__onnx_text(x, "to.%lld", (long long)to), 4, ends));
    return name;
}

/* x cosine + (-second half, first half) sine */
const char *kd__onnx_rope(kd__onnx *x, const kd__layer *l)
{
    const int64_t d = (int64_t)l->size / l->f.k, cut[] = {0, 0, l->f.k, d},
                  joined[] = {0, 0, (int64_t)l->size};
    const char *heads = kd__onnx_step(x, l, "Reshape", "cut", kd__onnx_in(x, l, 0),
                                      kd__onnx_axes(x, kd__onnx_text(x, "%s.shape", l->name), 4, cut)),
               *first = part(x, l, "first", heads, 0, d / 2),
               *second = part(x, l, "second", heads, d / 2, INT64_MAX),
               *other = kd__onnx_step(x, l, "Neg", "back", second, NULL),
               *crossed = kd__onnx_text(x, "%s.crossed", l->name);
    kd__onnx_int(x, kd__onnx_node(x, "Concat", crossed, other, first, NULL), "axis", -1);
    const char *along = kd__onnx_step(x, l, "Mul", "along", heads, "turn.cosine"),
               *across = kd__onnx_step(x, l, "Mul", "across", crossed, "turn.sine"),
               *turned = kd__onnx_step(x, l, "Add", "turned", along, across);
    kd__onnx_node(x, "Reshape", kd__onnx_out(x, l), turned,
                  kd__onnx_axes(x, kd__onnx_text(x, "%s.joined", l->name), 3, joined), NULL);
    return kd__onnx_out(x, l);
}

/* Input i as (batch, sequence, groups, heads of a group, d), its axes in the order of perm. */
static const char *groups_of(kd__onnx *x, const kd__layer *l, int i, const char *what, int64_t heads,
                             int64_t d, const int64_t *perm)
{
    const int64_t cut[] = {0, 0, (int64_t)l->in[i]->size / d / heads, heads, d};
    const char *shape = kd__onnx_axes(x, kd__onnx_text(x, "%s.%s.shape", l->name, what), 5, cut),
               *parts = kd__onnx_step(x, l, "Reshape", kd__onnx_text(x, "%s.cut", what), kd__onnx_in(x, l, i),
                                      shape),
               *out = kd__onnx_text(x, "%s.%s", l->name, what);
    kd__onnx_ints(x, kd__onnx_node(x, "Transpose", out, parts, NULL, NULL), "perm", 5, perm);
    return out;
}

const char *kd__onnx_causal(kd__onnx *x, const kd__layer *l)
{
    static const int64_t by_head[] = {0, 2, 3, 1, 4}, turned[] = {0, 2, 3, 4, 1}, back[] = {0, 3, 1, 2, 4};
    const int64_t d = (int64_t)l->size / l->f.k, kv = (int64_t)l->in[1]->size / d,
                  joined[] = {0, 0, (int64_t)l->size};
    const char *q = groups_of(x, l, 0, "q", l->f.k / kv, d, by_head),
               *k = groups_of(x, l, 1, "k", 1, d, turned), *v = groups_of(x, l, 2, "v", 1, d, by_head),
               *scale = kd__onnx_scalar(x, "attention.scale", 1 / sqrtf((float)d)),
               *product = kd__onnx_step(x, l, "MatMul", "product", q, k),
               *scaled = kd__onnx_step(x, l, "Mul", "scaled", product, scale),
               *scores = kd__onnx_step(x, l, "Add", "scores", scaled, "mask.seen"),
               *weights = kd__onnx_text(x, "%s.weights", l->name),
               *rows = kd__onnx_text(x, "%s.rows", l->name);
    kd__onnx_int(x, kd__onnx_node(x, "Softmax", weights, scores, NULL, NULL), "axis", -1);
    const char *mixed = kd__onnx_step(x, l, "MatMul", "mixed", weights, v);
    kd__onnx_ints(x, kd__onnx_node(x, "Transpose", rows, mixed, NULL, NULL), "perm", 5, back);
    kd__onnx_node(x, "Reshape", kd__onnx_out(x, l), rows,
                  kd__onnx_axes(x, kd__onnx_text(x, "%s.joined", l->name), 3, joined), NULL);
    return kd__onnx_out(x, l);
}

const char *kd__onnx_swiglu(kd__onnx *x, const kd__layer *l)
{
    const char *gate = kd__onnx_in(x, l, 0), *open = kd__onnx_step(x, l, "Sigmoid", "open", gate, NULL);
    kd__onnx_node(x, "Mul", kd__onnx_out(x, l), kd__onnx_step(x, l, "Mul", "gate", gate, open),
                  kd__onnx_in(x, l, 1), NULL);
    return kd__onnx_out(x, l);
}
