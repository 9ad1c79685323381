/* gguf_llama.c - what llama.cpp has to be told of a decoder of Llama's kind. */
#include "gguf_private.h"

#include "kd/text.h"

#include <string.h>

static bool keeps(const kd_param *p) { return p->ndims == 1; }

static bool is_table(const kd_param *p)
{
    return !strcmp(p->name, "embeddings.weight") || !strcmp(p->name, "logits.weight");
}

static void put_sizes(kd_gguf_writer *g, const kd_model_spec *s)
{
    const uint32_t d = (uint32_t)(s->width / s->heads), kv = (uint32_t)(s->kv_heads ? s->kv_heads : s->heads);
    kd_gguf_put_u32(g, "llama.vocab_size", (uint32_t)s->vocab);
    kd_gguf_put_u32(g, "llama.context_length", (uint32_t)s->positions);
    kd_gguf_put_u32(g, "llama.embedding_length", (uint32_t)s->width);
    kd_gguf_put_u32(g, "llama.block_count", (uint32_t)s->layers);
    kd_gguf_put_u32(g, "llama.feed_forward_length", (uint32_t)(s->ffn ? s->ffn : 4 * s->width));
    kd_gguf_put_u32(g, "llama.rope.dimension_count", d);
    kd_gguf_put_f32(g, "llama.rope.freq_base", (float)s->rope_base);
    kd_gguf_put_u32(g, "llama.attention.head_count", (uint32_t)s->heads);
    kd_gguf_put_u32(g, "llama.attention.head_count_kv", kv);
    kd_gguf_put_u32(g, "llama.attention.key_length", d);
    kd_gguf_put_u32(g, "llama.attention.value_length", d);
    kd_gguf_put_f32(g, "llama.attention.layer_norm_rms_epsilon", (float)s->eps);
}

static kd_status put_keys(kd_gguf_writer *g, const kd_model *m, const kd_model_export *o, kd_err *err)
{
    kd_tokenizer *t;
    kd_status st = kd_tokenizer_open(&t, o->tokenizer, err);
    if (st) return st;
    put_sizes(g, &m->spec);
    st = kd_tokenizer_put_gguf(t, g, (uint32_t)m->spec.vocab, o->tokenizer, err);
    kd_tokenizer_close(t);
    return st;
}

const kd__gguf_arch kd__gguf_llama = {"llama", NULL,     put_keys,           kd_llama_gguf_name,
                                      keeps,   is_table, kd_llama_gguf_pairs};
