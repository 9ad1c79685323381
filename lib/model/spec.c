/* spec.c - from the `model:` mapping to a graph.
 *
 * The table below is all there is to know about a spec; architectures are functions in a second
 * table. Single values are checked by the option table; what needs two keys (as many strides as
 * channels) or the architecture (three input axes) is checked here, with the key in the message,
 * before the first node is made. Shapes that shrink to nothing are found by the graph.
 */
#include "model_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const kd_option kd_model_options[] = {
    KD_OPT_CHOICE("Model", kd_model_spec, arch, "model.arch", 0, NULL, "mlp|cnn|dscnn|resnet|bert|llama",
                  "architecture"),
    KD_OPT_INTS("Model", kd_model_spec, input, "model.input", "N,...", 0, NULL, 1, 1 << 20,
                "shape of a row: height, width, channels of an image; from the store when not given"),
    KD_OPT_INT("Model", kd_model_spec, classes, "model.classes", "N", 0, "0", 0, 1 << 24,
               "logits; 0: from the store"),
    KD_OPT_INTS("Model", kd_model_spec, hidden, "model.hidden", "N,...", 0, NULL, 1, 1 << 20,
                "widths of hidden fully connected layers"),
    KD_OPT_INTS(
        "Model", kd_model_spec, channels, "model.channels", "N,...", 0, NULL, 1, 1 << 16,
        "channels of each convolution (cnn), of stem and blocks (dscnn), of stem and stages (resnet)"),
    KD_OPT_INTS("Model", kd_model_spec, strides, "model.strides", "N,...", 0, NULL, 1, 64,
                "stride for each entry of channels; none: all 1"),
    KD_OPT_INTS("Model", kd_model_spec, pools, "model.pools", "N,...", 0, NULL, 1, 64,
                "cnn: size of the max pool behind each convolution, 1 for none; none: no pools"),
    KD_OPT_INT("Model", kd_model_spec, blocks, "model.blocks", "N", 0, "2", 1, 1000,
               "resnet: basic blocks a stage"),
    KD_OPT_INT("Model", kd_model_spec, kernel, "model.kernel", "N", 0, "3", 1, 63,
               "height and width of convolutions, odd"),
    KD_OPT_CHOICE("Model", kd_model_spec, norm, "model.norm", 0, "batch", "batch|none",
                  "norm behind convolutions"),
    KD_OPT_CHOICE("Model", kd_model_spec, head, "model.head", 0, "gap", "gap|flatten",
                  "from the last map to a vector: mean over space, or all of it"),
    KD_OPT_REAL("Model", kd_model_spec, dropout, "model.dropout", "P", 0, "0", 0, 0.99,
                "share of the last layer's inputs that is dropped in training; bert: of each layer's"),
    KD_OPT_REAL("Model", kd_model_spec, attention_dropout, "model.attention_dropout", "P", 0, "0", 0, 0.99,
                "bert: share of attention's weights that is dropped in training"),
    KD_OPT_INT("Model", kd_model_spec, vocab, "model.vocab", "N", 0, "0", 0, 1 << 24,
               "bert, llama: tokens that there are; 0: from the store"),
    KD_OPT_INT("Model", kd_model_spec, positions, "model.positions", "N", 0, "512", 1, 1 << 20,
               "bert, llama: tokens that a sequence may have"),
    KD_OPT_INT("Model", kd_model_spec, types, "model.types", "N", 0, "2", 1, 1 << 16,
               "bert: rows of the table of token types, of which the first is used"),
    KD_OPT_INT("Model", kd_model_spec, embedding, "model.embedding", "N", 0, "0", 0, 1 << 16,
               "bert: width of the embeddings' tables, mapped to model.width; 0: model.width"),
    KD_OPT_INT("Model", kd_model_spec, layers, "model.layers", "N", 0, "6", 0, 1000,
               "bert: layers; 0: tables and projections alone"),
    KD_OPT_INT("Model", kd_model_spec, width, "model.width", "N", 0, "384", 1, 1 << 16,
               "bert, llama: width of hidden states"),
    KD_OPT_INT("Model", kd_model_spec, heads, "model.heads", "N", 0, "12", 1, 1 << 12,
               "bert, llama: attention heads, which share model.width"),
    KD_OPT_INT("Model", kd_model_spec, ffn, "model.ffn", "N", 0, "0", 0, 1 << 18,
               "bert, llama: width inside a layer's network; 0: four times model.width"),
    KD_OPT_REAL("Model", kd_model_spec, eps, "model.eps", "X", 0, "1e-12", 0, 0.1,
                "bert, llama: added to the variance in layer norms, to the mean square in those of llama "
                "(1e-5 there)"),
    KD_OPT_INT("Model", kd_model_spec, kv_heads, "model.kv_heads", "N", 0, "0", 0, 1 << 12,
               "llama: heads of keys and values, each shared by as many of queries; 0: model.heads"),
    KD_OPT_REAL("Model", kd_model_spec, rope_base, "model.rope_base", "X", 0, "10000", 2, 1e9,
                "llama: base of the angles of rotary positions"),
    KD_OPT_BOOL("Model", kd_model_spec, tied, "model.tied", 0, "true",
                "llama: the embedding's table gives the logits, too"),
    KD_OPT_CHOICE("Model", kd_model_spec, pooling, "model.pooling", 0, "mean", "mean|cls|none",
                  "bert: from tokens to one vector: mean, the first token's, or a row per token"),
    KD_OPT_INT("Model", kd_model_spec, output, "model.output", "N", 0, "0", 0, 1 << 16,
               "bert: dimension of the embedding, by a learned projection; 0: model.width"),
    KD_OPT_BOOL("Model", kd_model_spec, normalize, "model.normalize", 0, "true",
                "bert: embeddings of length 1"),
};
const size_t kd_model_options_n = KD_COUNT(kd_model_options);

static const struct arch_row {
    const char *name;
    kd__arch *build;
    bool image, stem; /* needs (H, W, C); channels[0] is the stem's, so two entries at least */
    bool tokens;
} archs[] = {
    {"mlp", kd__arch_mlp, false, false, false},   {"cnn", kd__arch_cnn, true, false, false},
    {"dscnn", kd__arch_dscnn, true, true, false}, {"resnet", kd__arch_resnet, true, true, false},
    {"bert", kd__arch_bert, false, false, true},  {"llama", kd__arch_llama, false, false, true},
};

static kd_status check_list(const kd_model_spec *s, const kd_ints *list, const char *key, const char *where,
                            kd_err *err)
{
    if (list->n == 0 || list->n == s->channels.n) return KD_OK;
    return kd_fail(err, KD_EUSAGE,
                   "%s: %s has %zu entries, model.channels has %zu; give one for each or none", where, key,
                   list->n, s->channels.n);
}

static kd_status check_image(const struct arch_row *a, const kd_model_spec *s, const char *where, kd_err *err)
{
    kd_status st;
    if (s->input.n != 3)
        return kd_fail(err, KD_EUSAGE,
                       "%s: model.input has %zu axes, %s needs 3: height, width, channels (28, 28, 1)", where,
                       s->input.n, a->name);
    if (s->channels.n < (a->stem ? 2 : 1))
        return kd_fail(err, KD_EUSAGE, "%s: model.channels has %zu entries, %s needs at least %s", where,
                       s->channels.n, a->name, a->stem ? "2: the stem's and one more" : "1");
    if ((st = check_list(s, &s->strides, "model.strides", where, err))) return st;
    if ((st = check_list(s, &s->pools, "model.pools", where, err))) return st;
    if (s->kernel % 2 == 0)
        return kd_fail(err, KD_EUSAGE,
                       "%s: model.kernel is %lld, expected an odd number (padding is kernel / 2)", where,
                       (long long)s->kernel);
    if (s->pools.n && strcmp(a->name, "cnn"))
        return kd_fail(err, KD_EUSAGE, "%s: model.pools is for cnn, not %s; use model.strides", where,
                       a->name);
    if (s->norm && s->head) return KD_OK;
    return kd_fail(err, KD_EUSAGE, "%s: model.%s is empty", where, s->norm ? "head" : "norm");
}

static kd_status check_decoder(const kd_model_spec *s, const char *where, kd_err *err)
{
    const int64_t kv = s->kv_heads ? s->kv_heads : s->heads;
    if (s->heads % kv)
        return kd_fail(err, KD_EUSAGE, "%s: model.heads %lld does not divide by model.kv_heads %lld", where,
                       (long long)s->heads, (long long)kv);
    if (s->width / s->heads % 2)
        return kd_fail(
            err, KD_EUSAGE,
            "%s: heads of %lld numbers (model.width by model.heads); rotary positions need an even number",
            where, (long long)(s->width / s->heads));
    if (!s->classes && !s->output && !s->embedding) return KD_OK;
    return kd_fail(err, KD_EUSAGE, "%s: model.%s is for bert; llama gives logits of model.vocab", where,
                   s->classes  ? "classes"
                   : s->output ? "output"
                               : "embedding");
}

static kd_status check_tokens(const kd_model_spec *s, const char *where, kd_err *err)
{
    if (s->input.n)
        return kd_fail(err, KD_EUSAGE, "%s: model.input is given, but %s reads tokens (model.vocab)", where,
                       s->arch);
    if (s->vocab < 1) return kd_fail(err, KD_EUSAGE, "%s: model.vocab is not given", where);
    if (!s->pooling) return kd_fail(err, KD_EUSAGE, "%s: model.pooling is empty", where);
    if (s->width % s->heads)
        return kd_fail(err, KD_EUSAGE, "%s: model.width %lld does not divide into model.heads %lld", where,
                       (long long)s->width, (long long)s->heads);
    if (!strcmp(s->arch, "llama")) return check_decoder(s, where, err);
    if (!s->classes || !s->output) return KD_OK;
    return kd_fail(err, KD_EUSAGE,
                   "%s: both model.classes and model.output are given; a model has one of them", where);
}

static kd_status check(const struct arch_row *a, const kd_model_spec *s, const char *where, kd_err *err)
{
    size_t size = 1;
    if (a->tokens) return check_tokens(s, where, err);
    if (s->classes < 1) return kd_fail(err, KD_EUSAGE, "%s: model.classes is not given", where);
    if (s->input.n < 1 || s->input.n > KD_MAX_DIMS - 1)
        return kd_fail(err, KD_EUSAGE, "%s: model.input has %zu axes, expected 1 to %d", where, s->input.n,
                       KD_MAX_DIMS - 1);
    for (size_t i = 0; i < s->input.n; i++)
        if (!kd_mul_size(size, (size_t)s->input.v[i], &size) || size > 1u << 30)
            return kd_fail(err, KD_EUSAGE, "%s: model.input is over 2^30 numbers a row", where);
    if (a->image) return check_image(a, s, where, err);
    if (s->channels.n || s->strides.n || s->pools.n)
        return kd_fail(err, KD_EUSAGE,
                       "%s: model.%s is for convolutions, not mlp; layers of an mlp are model.hidden", where,
                       s->channels.n  ? "channels"
                       : s->strides.n ? "strides"
                                      : "pools");
    return KD_OK;
}

static kd_status build(kd_model *m, const char *where, kd_model_extend *extend, void *arg, kd_err *err)
{
    const kd_model_spec *s = &m->spec;
    const struct arch_row *a = NULL;
    for (size_t i = 0; s->arch && i < KD_COUNT(archs); i++)
        if (!strcmp(s->arch, archs[i].name)) a = &archs[i];
    if (!a)
        return kd_fail(err, KD_EUSAGE,
                       "%s: model.arch is %s, expected mlp, cnn, dscnn, resnet, bert or llama", where,
                       s->arch ? s->arch : "not given");
    kd_status st = check(a, s, where, err);
    if (st) return st;
    kd_graph *g = kd_graph_create();
    if (!g) return kd_fail(err, KD_ENOMEM, "%s: no memory for the model's graph", where);
    kd_node input =
        a->tokens ? kd_nn_tokens(g, "input") : kd_nn_input(g, "input", (int)s->input.n, s->input.v);
    kd_node logits = a->build(g, s, input);
    const kd_param *list;
    kd_graph_output(g, logits);
    kd_graph_free(m->graph);
    m->graph = g;
    m->input = input;
    m->logits = logits;
    m->params = kd_graph_params(g, &list);
    if (extend && logits >= 0) st = extend(arg, m, err); // a failed graph has no nodes to go on from
    if (!st) st = kd_graph_finish(g, err);
    return st ? kd_fail_in(err, st, "%s", where) : KD_OK;
}

kd_status kd_model_build(kd_model *m, const char *where, kd_err *err)
{
    return build(m, where, NULL, NULL, err);
}

size_t kd_model_param_count(const kd_model *m)
{
    const kd_param *p;
    size_t n = 0;
    kd_graph_params(m->graph, &p);
    for (size_t i = 0; i < m->params; i++) n += p[i].buffer ? 0 : p[i].size;
    return n;
}

kd_status kd_model_create(kd_model **out, const char *name, const json_t *spec, const char *where,
                          kd_err *err)
{
    return kd_model_create_extended(out, name, spec, where, NULL, NULL, err);
}

kd_status kd_model_create_extended(kd_model **out, const char *name, const json_t *spec, const char *where,
                                   kd_model_extend *extend, void *arg, kd_err *err)
{
    *out = NULL;
    kd_model *m = calloc(1, sizeof *m);
    if (!m || !(m->name = kd_strdup(name))) {
        kd_model_free(m);
        return kd_fail(err, KD_ENOMEM, "%s: no memory for a model", where);
    }
    m->scale = 1;
    json_t *nested = json_pack("{s:O}", "model", (json_t *)spec);
    kd_status st = nested ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: no memory for a model", where);
    if (!st) st = kd_config_add(&m->config, kd_model_options, kd_model_options_n, &m->spec, err);
    if (!st) st = kd_config_from_json(&m->config, nested, where, err);
    if (!st) st = build(m, where, extend, arg, err);
    json_decref(nested);
    if (st) {
        kd_model_free(m);
        return st;
    }
    *out = m;
    return KD_OK;
}

void kd_model_free(kd_model *m)
{
    if (!m) return;
    kd_graph_free(m->graph);
    kd_config_release(&m->config);
    json_decref(m->labels);
    free(m->name);
    free(m);
}

kd_status kd_model_feed(const kd_model *m, float *out, const void *raw, kd_dtype dtype, size_t rows,
                        kd_err *err)
{
    const size_t n = rows * kd_graph_node_size(m->graph, m->input);
    if (dtype == KD_U8) {
        kd_nn_u8_to_f32(out, raw, n, m->mean, m->scale);
        return KD_OK;
    }
    if (kd_to_f32(out, raw, dtype, n))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: input of type %s, expected numbers", m->name,
                       kd_dtype_name(dtype));
    for (size_t i = 0; i < n; i++) out[i] = (out[i] - m->mean) * m->scale;
    return KD_OK;
}

bool kd_model_reads_tokens(const kd_model *m)
{
    return kd_graph_node_per(m->graph, m->input) == KD_PER_TOKEN;
}

static int32_t id_at(const void *raw, kd_dtype dtype, uint64_t i)
{
    return dtype == KD_U16 ? ((const uint16_t *)raw)[i] : ((const int32_t *)raw)[i];
}

kd_status kd_model_feed_tokens(const kd_model *m, kd_exec *ex, const void *raw, kd_dtype dtype,
                               const uint64_t *offset, int64_t n, kd_err *err)
{
    if (dtype != KD_U16 && dtype != KD_I32)
        return kd_fail(err, KD_EUNSUPPORTED, "%s: tokens of type %s, expected u16 or i32", m->name,
                       kd_dtype_name(dtype));
    kd_status st = kd_exec_sequences(ex, offset, n, err);
    if (st) return kd_fail_in(err, st, "%s", m->name);
    int32_t *to = kd_exec_tokens(ex, m->input);
    for (int64_t i = 0; i < n; i++)
        for (uint64_t t = offset[i]; t < offset[i + 1]; t++) {
            const int32_t id = id_at(raw, dtype, t);
            if (id < 0 || id >= m->spec.vocab)
                return kd_fail(err, KD_ECORRUPT, "%s: row %lld, token %llu: id %lld, the vocabulary has %lld",
                               m->name, (long long)i, (unsigned long long)(t - offset[i]), (long long)id,
                               (long long)m->spec.vocab);
            to[t] = id;
        }
    return KD_OK;
}
