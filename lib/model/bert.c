/* bert.c - an encoder of BERT's kind (Devlin et al. 2019): embeddings with a norm, then layers of attention
 * and a two-layer network, each added to its input and normed; pooled to one vector a sequence.
 *
 *     embeddings, embeddings_norm, embeddings_project (of a narrower table, as in ELECTRA)
 *     layerI.query, .key, .value, .heads, .merge, .attended, .attention (the norm)
 *     layerI.up, .gelu, .down, .added, layerI (the norm: the layer's hidden states)
 *     pooled, project, normalized
 *
 * Dropout, where there is any, is where BERT has it: behind the embeddings and before each addition, and of
 * attention's shares. Names of parameters in files are Hugging Face's (hf.c).
 */
#include "model_private.h"

#include <string.h>

static kd_node drop(kd_graph *g, const kd_model_spec *s, const char *layer, const char *what, kd_node x)
{
    kd__node_name b;
    return s->dropout > 0 ? kd_nn_dropout(g, kd__name(&b, "%s.%s_dropout", layer, what), x, (float)s->dropout)
                          : x;
}

static kd_node attention(kd_graph *g, const kd_model_spec *s, const char *layer, kd_node x)
{
    kd__node_name b;
    const kd_node q = kd_nn_linear(g, kd__name(&b, "%s.query", layer), x, s->width, true);
    const kd_node k = kd_nn_linear(g, kd__name(&b, "%s.key", layer), x, s->width, true);
    const kd_node v = kd_nn_linear(g, kd__name(&b, "%s.value", layer), x, s->width, true);
    kd_node y = kd_nn_self_attention(g, kd__name(&b, "%s.heads", layer), q, k, v, (int)s->heads,
                                     (float)s->attention_dropout);
    y = drop(g, s, layer, "merge", kd_nn_linear(g, kd__name(&b, "%s.merge", layer), y, s->width, true));
    y = kd_nn_add(g, kd__name(&b, "%s.attended", layer), y, x);
    return kd_nn_layernorm(g, kd__name(&b, "%s.attention", layer), y, (float)s->eps);
}

static kd_node network(kd_graph *g, const kd_model_spec *s, const char *layer, kd_node x)
{
    kd__node_name b;
    kd_node y = kd_nn_linear(g, kd__name(&b, "%s.up", layer), x, s->ffn ? s->ffn : 4 * s->width, true);
    y = kd_nn_gelu(g, kd__name(&b, "%s.gelu", layer), y);
    y = drop(g, s, layer, "down", kd_nn_linear(g, kd__name(&b, "%s.down", layer), y, s->width, true));
    y = kd_nn_add(g, kd__name(&b, "%s.added", layer), y, x);
    return kd_nn_layernorm(g, layer, y, (float)s->eps);
}

static kd_node pooled(kd_graph *g, const kd_model_spec *s, kd_node x)
{
    const int64_t out = s->classes ? s->classes : s->output;
    if (strcmp(s->pooling, "none"))
        x = kd_nn_pool(g, "pooled", x, strcmp(s->pooling, "cls") ? KD_POOL_MEAN : KD_POOL_FIRST);
    if (out) x = kd_nn_linear(g, "project", x, out, true);
    return s->normalize && !s->classes ? kd_nn_normalize(g, "normalized", x) : x;
}

kd_node kd__arch_bert(kd_graph *g, const kd_model_spec *s, kd_node x)
{
    kd__node_name b;
    x = kd_nn_embedding(g, "embeddings", x, s->vocab, s->positions, s->types,
                        s->embedding ? s->embedding : s->width);
    x = drop(g, s, "embeddings", "norm", kd_nn_layernorm(g, "embeddings_norm", x, (float)s->eps));
    if (s->embedding) x = kd_nn_linear(g, "embeddings_project", x, s->width, true);
    for (int64_t i = 0; i < s->layers; i++) {
        const char *layer = kd__name(&b, "layer%lld", (long long)i);
        x = network(g, s, layer, attention(g, s, layer, x));
    }
    return pooled(g, s, x);
}
