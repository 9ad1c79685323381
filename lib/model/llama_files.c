/* llama_files.c - decoders in files that others read and write: folders of Hugging Face (model_type llama)
 * and GGUF files of llama.cpp (architecture llama).
 *
 * What changes the model's numbers is understood or refused by name: biases, scaled or partial rotary
 * positions, experts, other activations. Of a GGUF file weights are decoded from whatever blocks they have;
 * its queries and keys have the two numbers of a rotary pair side by side, so their rows are put in order
 * here.
 */
#include "model_private.h"

#include "kd/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- names -------------------------------------------------------------------------------------- */

/* kd's name without ".weight", Hugging Face's, llama.cpp's. */
static const char *const outer[][3] = {
    {"embeddings", "model.embed_tokens", "token_embd"},
    {"norm", "model.norm", "output_norm"},
    {"logits", "lm_head", "output"},
};
static const char *const inner[][3] = {
    {".attention_norm", "input_layernorm", "attn_norm"},
    {".query", "self_attn.q_proj", "attn_q"},
    {".key", "self_attn.k_proj", "attn_k"},
    {".value", "self_attn.v_proj", "attn_v"},
    {".merge", "self_attn.o_proj", "attn_output"},
    {".network_norm", "post_attention_layernorm", "ffn_norm"},
    {".gate", "mlp.gate_proj", "ffn_gate"},
    {".up", "mlp.up_proj", "ffn_up"},
    {".down", "mlp.down_proj", "ffn_down"},
};
enum { HF = 1, GGUF = 2 };

static bool is(const char *name, const char *stem) /* "STEM.weight" */
{
    const size_t n = strlen(stem);
    return !strncmp(name, stem, n) && !strcmp(name + n, ".weight");
}

static const char *name_of(kd__node_name *b, const char *param, int whose)
{
    char *rest;
    for (size_t i = 0; i < KD_COUNT(outer); i++)
        if (is(param, outer[i][0])) return kd__name(b, "%s.weight", outer[i][whose]);
    const long layer = strncmp(param, "layer", 5) ? -1 : strtol(param + 5, &rest, 10);
    for (size_t i = 0; layer >= 0 && i < KD_COUNT(inner); i++)
        if (is(rest, inner[i][0]))
            return kd__name(b, whose == HF ? "model.layers.%ld.%s.weight" : "blk.%ld.%s.weight", layer,
                            inner[i][whose]);
    return kd__name(b, "%s", param);
}

const char *kd__llama_name(kd__node_name *b, const char *param) { return name_of(b, param, HF); }

bool kd__llama_leaves(const kd_model_spec *s, const char *tensor)
{
    const char *dot = strrchr(tensor, '.');
    return (s->tied && !strcmp(tensor, "lm_head.weight")) || (dot && !strcmp(dot, ".inv_freq"));
}

/* ---- Hugging Face's config.json ------------------------------------------------------------------- */

static const struct {
    const char *key, *ours;
    int64_t most;
} sizes[] = {
    {"hidden_size", "width", 1 << 16},         {"num_hidden_layers", "layers", 1000},
    {"num_attention_heads", "heads", 1 << 12}, {"intermediate_size", "ffn", 1 << 18},
    {"vocab_size", "vocab", 1 << 24},          {"max_position_embeddings", "positions", 1 << 20},
};

/* Members with one value that kd has; missing or null is that one. */
static kd_status check_only(const json_t *j, const char *path, kd_err *err)
{
    static const char *const off[] = {"attention_bias", "mlp_bias", "rope_scaling"};
    const json_t *act = json_object_get(j, "hidden_act"), *rope = json_object_get(j, "rope_parameters");
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    if (act && (!json_is_string(act) || strcmp(json_string_value(act), "silu")))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: hidden_act is not silu; this version runs silu only", path);
    for (size_t i = 0; i < KD_COUNT(off); i++) {
        const json_t *v = json_object_get(j, off[i]);
        if (v && !json_is_null(v) && !json_is_false(v))
            return kd_fail(err, KD_EUNSUPPORTED, "%s: %s is given; this version runs llama without it", path,
                           off[i]);
    }
    if (type && strcmp(type, "default"))
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: rope_parameters.rope_type is %.40s; this version runs default only", path, type);
    return KD_OK;
}

static kd_status read_real(const json_t *j, const char *key, double lo, double hi, double *out,
                           const char *path, kd_err *err)
{
    if (!json_object_get(j, key)) return KD_OK;
    kd_status st = kd_json_real(j, key, out, path, err);
    if (st || (*out >= lo && *out <= hi)) return st;
    return kd_fail(err, KD_ECORRUPT, "%s: %s is %g, expected %g to %g", path, key, *out, lo, hi);
}

static kd_status read_config(json_t *spec, const json_t *j, const char *path, kd_err *err)
{
    const json_t *rope = json_object_get(j, "rope_parameters");
    double eps = 1e-6, base = 10000;
    int64_t n, kv, d;
    kd_status st = check_only(j, path, err);
    for (size_t i = 0; i < KD_COUNT(sizes) && !st; i++)
        if (!(st = kd_json_int(j, sizes[i].key, 1, sizes[i].most, &n, path, err)))
            json_object_set_new(spec, sizes[i].ours, json_integer(n));
    const json_int_t heads = json_integer_value(json_object_get(spec, "heads")),
                     width = json_integer_value(json_object_get(spec, "width"));
    kv = heads;
    if (!st && json_is_integer(json_object_get(j, "num_key_value_heads")))
        st = kd_json_int(j, "num_key_value_heads", 1, heads, &kv, path, err);
    if (!st && json_is_integer(json_object_get(j, "head_dim"))) {
        st = kd_json_int(j, "head_dim", 1, 1 << 16, &d, path, err);
        if (!st && d * heads != width)
            st = kd_fail(err, KD_EUNSUPPORTED, "%s: head_dim is %lld, %lld heads share %lld numbers", path,
                         (long long)d, (long long)heads, (long long)width);
    }
    if (!st) st = read_real(j, "rms_norm_eps", 0, 0.1, &eps, path, err);
    if (!st) st = read_real(rope ? rope : j, "rope_theta", 2, 1e9, &base, path, err);
    json_object_set_new(spec, "kv_heads", json_integer(kv));
    json_object_set_new(spec, "eps", json_real(eps));
    json_object_set_new(spec, "rope_base", json_real(base));
    json_object_set_new(spec, "tied", json_boolean(json_is_true(json_object_get(j, "tie_word_embeddings"))));
    return st;
}

kd_status kd__llama_spec(json_t **spec, const json_t *config, const char *path, kd_err *err)
{
    *spec = json_pack("{s:s}", "arch", "llama");
    kd_status st =
        *spec ? read_config(*spec, config, path, err) : kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    if (!st) return KD_OK;
    json_decref(*spec);
    *spec = NULL;
    return st;
}

kd_status kd__llama_config(json_t *config, const kd_model_spec *s, kd_dtype dtype, kd_err *err)
{
    const int64_t kv = s->kv_heads ? s->kv_heads : s->heads;
    json_t *j = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:b, s:s, s:b, s:b, s:n, s:s}",
        "architectures", "LlamaForCausalLM", "model_type", "llama", "hidden_size", (json_int_t)s->width,
        "num_hidden_layers", (json_int_t)s->layers, "num_attention_heads", (json_int_t)s->heads,
        "num_key_value_heads", (json_int_t)kv, "head_dim", (json_int_t)(s->width / s->heads),
        "intermediate_size", (json_int_t)(s->ffn ? s->ffn : 4 * s->width), "vocab_size", (json_int_t)s->vocab,
        "max_position_embeddings", (json_int_t)s->positions, "rms_norm_eps", s->eps, "rope_theta",
        s->rope_base, "tie_word_embeddings", s->tied, "hidden_act", "silu", "attention_bias", false,
        "mlp_bias", false, "rope_scaling", "torch_dtype",
        dtype == KD_F16    ? "float16"
        : dtype == KD_BF16 ? "bfloat16"
                           : "float32");
    const bool fine = j && !json_object_update(config, j);
    json_decref(j);
    return fine ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for a model's config.json");
}

/* ---- GGUF ----------------------------------------------------------------------------------------- */

static kd_status check_gguf(const kd_gguf *g, kd_err *err)
{
    const char *arch = kd_gguf_str(g, "general.architecture"),
               *scaling = kd_gguf_str(g, "llama.rope.scaling.type");
    int64_t experts = 0;
    if (!arch || strcmp(arch, "llama"))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: its architecture is '%.40s', this version runs llama",
                       kd_gguf_path(g), arch ? arch : "not given");
    if ((scaling && strcmp(scaling, "none")) || kd_gguf_find_tensor(g, "rope_freqs.weight"))
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: its rotary positions are scaled (%.40s); this version runs plain ones",
                       kd_gguf_path(g), scaling ? scaling : "rope_freqs.weight");
    if (kd_gguf_find(g, "llama.expert_count")) {
        kd_status st = kd_gguf_int(g, "llama.expert_count", 0, 1 << 16, &experts, err);
        if (st) return st;
    }
    return experts ? kd_fail(err, KD_EUNSUPPORTED,
                             "%s: has %lld experts a layer; this version runs llama without", kd_gguf_path(g),
                             (long long)experts)
                   : KD_OK;
}

static kd_status gguf_sizes(json_t *spec, const kd_gguf *g, kd_err *err)
{
    static const struct {
        const char *key, *ours;
        int64_t most;
    } keys[] = {
        {"llama.embedding_length", "width", 1 << 16},        {"llama.block_count", "layers", 1000},
        {"llama.attention.head_count", "heads", 1 << 12},    {"llama.feed_forward_length", "ffn", 1 << 18},
        {"llama.attention.head_count_kv", "kv_heads", 4096}, {"llama.context_length", "positions", 1 << 20},
    };
    const kd_gguf_tensor *table = kd_gguf_find_tensor(g, "token_embd.weight");
    kd_status st = KD_OK;
    int64_t n;
    for (size_t i = 0; i < KD_COUNT(keys) && !st; i++) {
        if (!strcmp(keys[i].ours, "kv_heads") && !kd_gguf_find(g, keys[i].key))
            continue; // as many as of queries
        if (!(st = kd_gguf_int(g, keys[i].key, 1, keys[i].most, &n, err)))
            json_object_set_new(spec, keys[i].ours, json_integer(n));
    }
    if (!st && (!table || table->ndims != 2))
        st = kd_fail(err, KD_EMISMATCH, "%s: tensor token_embd.weight is missing or no table",
                     kd_gguf_path(g));
    if (!st) json_object_set_new(spec, "vocab", json_integer(table->dims[0]));
    return st;
}

static kd_status gguf_spec(json_t *spec, const kd_gguf *g, kd_err *err)
{
    double eps, base = 10000;
    int64_t d;
    kd_status st = check_gguf(g, err);
    if (!st) st = gguf_sizes(spec, g, err);
    if (!st) st = kd_gguf_real(g, "llama.attention.layer_norm_rms_epsilon", &eps, err);
    if (!st && kd_gguf_find(g, "llama.rope.freq_base"))
        st = kd_gguf_real(g, "llama.rope.freq_base", &base, err);
    if (st) return st;
    const json_int_t width = json_integer_value(json_object_get(spec, "width")),
                     heads = json_integer_value(json_object_get(spec, "heads"));
    if (kd_gguf_find(g, "llama.rope.dimension_count")) {
        if ((st = kd_gguf_int(g, "llama.rope.dimension_count", 1, 1 << 16, &d, err))) return st;
        if (d * heads != width)
            return kd_fail(err, KD_EUNSUPPORTED,
                           "%s: %lld of a head's %lld numbers have rotary positions; this version "
                           "runs all",
                           kd_gguf_path(g), (long long)d, (long long)(width / heads));
    }
    json_object_set_new(spec, "eps", json_real(eps));
    json_object_set_new(spec, "rope_base", json_real(base));
    json_object_set_new(spec, "tied", json_boolean(!kd_gguf_find_tensor(g, "output.weight")));
    return KD_OK;
}

bool kd_llama_gguf_name(char out[KD_LLAMA_NAME], const char *param)
{
    kd__node_name b;
    const char *name = name_of(&b, param, GGUF);
    const size_t n = strlen(name);
    if (!strcmp(name, param) || n >= KD_LLAMA_NAME) return false;
    memcpy(out, name, n + 1);
    return true;
}

bool kd_llama_gguf_pairs(const char *param) { return strstr(param, ".query.") || strstr(param, ".key."); }

/* Row h d + i of the file, of pairs side by side (0, d / 2, 1, ...), is this row of ours. */
void kd_llama_gguf_turn(const kd_model *m, const kd_param *p, float *to, const float *from, bool into_file)
{
    const size_t d = (size_t)(m->spec.width / m->spec.heads), in = (size_t)p->dims[1];
    for (size_t row = 0; row < (size_t)p->dims[0]; row++) {
        const size_t i = row % d, ours = row - i + i % 2 * (d / 2) + i / 2;
        memcpy(to + (into_file ? row : ours) * in, from + (into_file ? ours : row) * in, in * sizeof *to);
    }
}

static bool same_shape(const kd_gguf_tensor *t, const kd_param *p)
{
    bool same = t->ndims == p->ndims;
    for (int i = 0; same && i < p->ndims; i++) same = t->dims[i] == p->dims[i];
    return same;
}

static kd_status take_tensor(kd_model *m, const kd_gguf *g, const kd_param *p, kd_err *err)
{
    kd__node_name b;
    const char *name = name_of(&b, p->name, GGUF);
    const kd_gguf_tensor *t = kd_gguf_find_tensor(g, name);
    float *w = kd_graph_param_data(m->graph, p), *pairs = NULL;
    if (!t || !same_shape(t, p))
        return kd_fail(err, KD_EMISMATCH, "%s: tensor %s %s", kd_gguf_path(g), name,
                       t ? "has another shape than the file's sizes say" : "is missing");
    if (kd_llama_gguf_pairs(p->name) && !(pairs = malloc(p->size * sizeof *pairs)))
        return kd_fail(err, KD_ENOMEM, "%s: no memory for %s", kd_gguf_path(g), name);
    kd_status st = kd_gguf_read(g, t, pairs ? pairs : w, err);
    if (!st && pairs) kd_llama_gguf_turn(m, p, w, pairs, false);
    free(pairs);
    for (size_t i = 0; i < p->size && !st; i++)
        if (!isfinite(w[i]))
            st = kd_fail(err, KD_ENUMERIC, "%s: tensor %s: element %zu is %g; the weights are broken",
                         kd_gguf_path(g), name, i, (double)w[i]);
    return st;
}

static kd_status take_tensors(kd_model *m, const kd_gguf *g, kd_err *err)
{
    const kd_param *p;
    const kd_gguf_tensor *t;
    const size_t n = kd_graph_params(m->graph, &p), have = kd_gguf_tensors(g, &t);
    kd_status st = KD_OK;
    for (size_t i = 0; i < n && !st; i++) st = take_tensor(m, g, &p[i], err);
    for (size_t i = 0; i < have && !st; i++) {
        bool known = false;
        for (size_t k = 0; k < n && !known; k++) {
            kd__node_name b;
            known = !strcmp(name_of(&b, p[k].name, GGUF), t[i].name);
        }
        if (!known)
            st = kd_fail(err, KD_EMISMATCH, "%s: tensor %s is left over; this is another model than llama",
                         kd_gguf_path(g), t[i].name);
    }
    return st;
}

kd_status kd__llama_open_gguf(kd_model **out, const char *path, kd_err *err)
{
    kd_gguf *g;
    kd_model *m = NULL;
    json_t *spec = json_pack("{s:s}", "arch", "llama");
    *out = NULL;
    kd_status st = kd_gguf_open(&g, path, err);
    if (st) {
        json_decref(spec);
        return st;
    }
    const char *name = kd_gguf_str(g, "general.name");
    if (!spec) st = kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    if (!st) st = gguf_spec(spec, g, err);
    if (!st && (st = kd_model_create(&m, name && *name ? name : "llama", spec, path, err)) == KD_EUSAGE) {
        if (err) err->code = KD_ECORRUPT; // nobody wrote it by hand: the file is at fault
        st = KD_ECORRUPT;
    }
    if (!st) st = take_tensors(m, g, err);
    if (st)
        kd_model_free(m);
    else
        *out = m;
    json_decref(spec);
    kd_gguf_close(g);
    return st;
}
