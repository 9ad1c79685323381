/* llama.c - a decoder of Llama's kind (Touvron et al. 2023): an embedding, then layers of causal attention
 * with rotary positions and a gated network, each behind a norm and added to its input; a norm; logits of the
 * vocabulary, one row a token.
 *
 *     embeddings
 *     layerI.attention_norm, .query, .key, .value, .query_turned, .key_turned, .heads, .merge, .attended
 *     layerI.network_norm, .gate, .up, .gated, .down, layerI (the layer's hidden states)
 *     norm, logits (of the embedding's table where model.tied is on)
 *
 * Heads of keys and values may be fewer than those of queries. Names of parameters in files are those of
 * Hugging Face or llama.cpp (llama_files.c).
 */
#include "model_private.h"

static kd_node attention(kd_graph *g, const kd_model_spec *s, const char *layer, kd_node x)
{
    kd__node_name b;
    const int heads = (int)s->heads, kv = (int)(s->kv_heads ? s->kv_heads : s->heads);
    const int64_t narrow = s->width / heads * kv;
    const float base = (float)s->rope_base;
    const kd_node n = kd_nn_rmsnorm(g, kd__name(&b, "%s.attention_norm", layer), x, (float)s->eps);
    kd_node q = kd_nn_linear(g, kd__name(&b, "%s.query", layer), n, s->width, false);
    kd_node k = kd_nn_linear(g, kd__name(&b, "%s.key", layer), n, narrow, false);
    const kd_node v = kd_nn_linear(g, kd__name(&b, "%s.value", layer), n, narrow, false);
    q = kd_nn_rope(g, kd__name(&b, "%s.query_turned", layer), q, heads, base, s->positions);
    k = kd_nn_rope(g, kd__name(&b, "%s.key_turned", layer), k, kv, base, s->positions);
    kd_node y = kd_nn_causal_attention(g, kd__name(&b, "%s.heads", layer), q, k, v, heads, kv);
    y = kd_nn_linear(g, kd__name(&b, "%s.merge", layer), y, s->width, false);
    return kd_nn_add(g, kd__name(&b, "%s.attended", layer), y, x);
}

static kd_node network(kd_graph *g, const kd_model_spec *s, const char *layer, kd_node x)
{
    kd__node_name b;
    const int64_t ffn = s->ffn ? s->ffn : 4 * s->width;
    const kd_node n = kd_nn_rmsnorm(g, kd__name(&b, "%s.network_norm", layer), x, (float)s->eps);
    const kd_node gate = kd_nn_linear(g, kd__name(&b, "%s.gate", layer), n, ffn, false);
    const kd_node up = kd_nn_linear(g, kd__name(&b, "%s.up", layer), n, ffn, false);
    kd_node y = kd_nn_swiglu(g, kd__name(&b, "%s.gated", layer), gate, up);
    y = kd_nn_linear(g, kd__name(&b, "%s.down", layer), y, s->width, false);
    return kd_nn_add(g, layer, y, x);
}

kd_node kd__arch_llama(kd_graph *g, const kd_model_spec *s, kd_node x)
{
    kd__node_name b;
    const kd_node table = x = kd_nn_embedding(g, "embeddings", x, s->vocab, 0, 0, s->width);
    for (int64_t i = 0; i < s->layers; i++) {
        const char *layer = kd__name(&b, "layer%lld", (long long)i);
        x = network(g, s, layer, attention(g, s, layer, x));
    }
    x = kd_nn_rmsnorm(g, "norm", x, (float)s->eps);
    return s->tied ? kd_nn_tied_linear(g, "logits", x, table) : kd_nn_linear(g, "logits", x, s->vocab, false);
}
