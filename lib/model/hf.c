/* hf.c - encoders as Hugging Face and sentence-transformers lay them out in a folder.
 *
 *     config.json                    sizes: model_type bert, or electra where the tables are narrower
 *     model.safetensors              the encoder's tensors
 *     modules.json                   what runs: Transformer, Pooling, then maybe Dense, then maybe Normalize
 *     1_Pooling/config.json          mean or first token ("cls")
 *     2_Dense/config.json, model.safetensors    the projection
 *
 * Everything in it that changes what the model computes is either understood or refused by name: a folder
 * from elsewhere must not give plausible numbers that are not that model's. What other heads left behind
 * (pooler, language model, a classifier) is not read.
 *
 * Without modules.json the pooling is the mean, as sentence-transformers then takes it.
 *
 * kd writes the same files, with its own members beside Hugging Face's in config.json. A model with classes
 * is one whose projection gives logits.
 */
#include "model_private.h"

#include <stdlib.h>
#include <string.h>

#define SMALL   (1u << 20) /* bytes of a module's configuration */
#define POOLING "1_Pooling"
#define DENSE   "2_Dense"

const char kd__hf_dense[] = DENSE "/model.safetensors";

bool kd__hf_is(const char *model_type)
{
    return !strcmp(model_type, "bert") || !strcmp(model_type, "electra");
}

/* ---- names ------------------------------------------------------------------------------------ */

static const char *const of_layer[][2] = {
    {".query", ".attention.self.query"},
    {".key", ".attention.self.key"},
    {".value", ".attention.self.value"},
    {".merge", ".attention.output.dense"},
    {".attention", ".attention.output.LayerNorm"},
    {".up", ".intermediate.dense"},
    {".down", ".output.dense"},
    {"", ".output.LayerNorm"},
};

const char *kd__hf_name(kd__node_name *b, const char *param, const char **file)
{
    const char *dot = strrchr(param, '.');
    char *end;
    *file = "model.safetensors";
    if (!strncmp(param, "project.", 8)) {
        *file = kd__hf_dense;
        return kd__name(b, "linear%s", dot);
    }
    if (!strncmp(param, "embeddings_norm.", 16)) return kd__name(b, "embeddings.LayerNorm%s", dot);
    if (strncmp(param, "layer", 5)) return kd__name(b, "%s", param);
    const long layer = strtol(param + 5, &end, 10);
    for (size_t i = 0; i < KD_COUNT(of_layer); i++)
        if (strlen(of_layer[i][0]) == (size_t)(dot - end) &&
            !strncmp(of_layer[i][0], end, (size_t)(dot - end)))
            return kd__name(b, "encoder.layer.%ld%s%s", layer, of_layer[i][1], dot);
    return kd__name(b, "%s", param);
}

const char *const kd__hf_prefixes[3] = {"", "bert.", "electra."};

bool kd__hf_leaves(const char *tensor)
{
    return (strncmp(tensor, "encoder.", 8) && strncmp(tensor, "embeddings", 10)) ||
           !strcmp(tensor, "embeddings.position_ids");
}

/* ---- reading ---------------------------------------------------------------------------------- */

/* Members that change what the model computes, and the one value that kd has for each; where they are
 * missing, that is what transformers takes. */
static const struct {
    const char *key, *value;
} only[] = {
    {"hidden_act", "gelu"},
    {"position_embedding_type", "absolute"},
    {"is_decoder", "false"},
    {"add_cross_attention", "false"},
};

static kd_status check_only(const json_t *j, const char *path, kd_err *err)
{
    for (size_t i = 0; i < KD_COUNT(only); i++) {
        const json_t *v = json_object_get(j, only[i].key);
        const char *have = json_is_string(v) ? json_string_value(v) : json_is_true(v) ? "true" : "false";
        if (v && !json_is_null(v) && strcmp(have, only[i].value))
            return kd_fail(err, KD_EUNSUPPORTED, "%s: %s is %.60s; this version runs %s only", path,
                           only[i].key, have, only[i].value);
    }
    return KD_OK;
}

static const struct {
    const char *key, *ours;
    int64_t least, most;
} sizes[] = {
    {"hidden_size", "width", 1, 1 << 16},         {"num_hidden_layers", "layers", 0, 1000},
    {"num_attention_heads", "heads", 1, 1 << 12}, {"intermediate_size", "ffn", 1, 1 << 18},
    {"vocab_size", "vocab", 1, 1 << 24},          {"max_position_embeddings", "positions", 1, 1 << 20},
    {"type_vocab_size", "types", 1, 1 << 16},
};

static kd_status read_encoder(json_t *spec, const json_t *j, const char *path, kd_err *err)
{
    const char *type = json_string_value(json_object_get(j, "model_type"));
    double eps = 1e-12;
    int64_t n, width = json_integer_value(json_object_get(j, "hidden_size"));
    kd_status st = check_only(j, path, err);
    for (size_t i = 0; i < KD_COUNT(sizes) && !st; i++)
        if (!(st = kd_json_int(j, sizes[i].key, sizes[i].least, sizes[i].most, &n, path, err)))
            json_object_set_new(spec, sizes[i].ours, json_integer(n));
    if (!st && !strcmp(type, "electra")) {
        if (!(st = kd_json_int(j, "embedding_size", 1, 1 << 16, &n, path, err)) && n != width)
            json_object_set_new(spec, "embedding", json_integer(n));
    }
    if (!st && json_object_get(j, "layer_norm_eps")) st = kd_json_real(j, "layer_norm_eps", &eps, path, err);
    if (!st && !(eps >= 0 && eps <= 0.1))
        st = kd_fail(err, KD_ECORRUPT, "%s: layer_norm_eps is %g, expected 0 to 0.1", path, eps);
    json_object_set_new(spec, "eps", json_real(eps));
    return st;
}

static kd_status read_pooling(json_t *spec, const json_t *j, const char *path, kd_err *err)
{
    static const char *const ours[][2] = {{"pooling_mode_mean_tokens", "mean"},
                                          {"pooling_mode_cls_token", "cls"}};
    const char *key, *how = NULL, *newer = json_string_value(json_object_get(j, "pooling_mode"));
    json_t *v;
    int modes = 0;
    json_object_foreach((json_t *)j, key, v)
    {
        if (strncmp(key, "pooling_mode_", 13) || !json_is_true(v)) continue;
        modes++;
        for (size_t i = 0; i < KD_COUNT(ours); i++)
            if (!strcmp(key, ours[i][0])) how = ours[i][1];
    }
    if (!modes && newer && (!strcmp(newer, "mean") || !strcmp(newer, "cls"))) how = newer;
    if (modes > 1 || !how)
        return kd_fail(err, KD_EUNSUPPORTED, "%s: a pooling that is neither mean nor cls alone", path);
    json_object_set_new(spec, "pooling", json_string(how));
    return KD_OK;
}

static kd_status read_dense(json_t *spec, const json_t *j, const char *path, kd_err *err)
{
    const char *act = json_string_value(json_object_get(j, "activation_function"));
    int64_t in, out;
    kd_status st = kd_json_int(j, "in_features", 1, 1 << 16, &in, path, err);
    if (!st) st = kd_json_int(j, "out_features", 1, 1 << 16, &out, path, err);
    if (st) return st;
    if (!act || strcmp(act, "torch.nn.modules.linear.Identity"))
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: activation_function is %.60s; this version runs Identity only", path,
                       act ? act : "missing");
    if (in != json_integer_value(json_object_get(spec, "width")) || !json_is_true(json_object_get(j, "bias")))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: a projection of %lld numbers %s; expected %lld with a bias",
                       path, (long long)in,
                       json_is_true(json_object_get(j, "bias")) ? "with a bias" : "without one",
                       (long long)json_integer_value(json_object_get(spec, "width")));
    json_object_set_new(spec, "output", json_integer(out));
    return KD_OK;
}

/* One line of modules.json; *stage: of the last one, they come in the order of this list. */
static kd_status read_module(json_t *spec, const json_t *module, int *stage, const char *folder,
                             const char *path, kd_err *err)
{
    static const char *const names[] = {"Transformer", "Pooling", "Dense", "Normalize"};
    static kd_status (*const read[])(json_t *, const json_t *, const char *, kd_err *) = {NULL, read_pooling,
                                                                                          read_dense, NULL};
    const char *type, *sub;
    kd_status st = kd_json_str(module, "type", &type, path, err);
    if (!st) st = kd_json_str(module, "path", &sub, path, err);
    if (st) return st;
    const char *last = strrchr(type, '.');
    int is = *stage + 1;
    while (is < (int)KD_COUNT(names) && strcmp(last ? last + 1 : type, names[is])) is++;
    if (is == KD_COUNT(names) || (is != *stage + 1 && is < 2) || (is == 2 && strcmp(sub, DENSE)))
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: module %.80s in '%.40s'; this version runs Transformer, Pooling, Dense in " DENSE
                       " and Normalize, in this order",
                       path, type, sub);
    *stage = is;
    if (is == 3) json_object_set_new(spec, "normalize", json_true());
    if (!read[is]) return KD_OK;
    if (strstr(sub, "..") || *sub == '/')
        return kd_fail(err, KD_ECORRUPT, "%s: the path '%.40s' leads out of the folder", path, sub);
    char *file = kd_sprintf("%s/%s/config.json", folder, sub);
    json_t *j = NULL;
    st = file ? kd_json_load(file, SMALL, &j, err) : kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    if (!st) st = read[is](spec, j, file, err);
    json_decref(j);
    free(file);
    return st;
}

static kd_status read_modules(json_t *spec, const char *folder, kd_err *err)
{
    char *path = kd_path_join(folder, "modules.json");
    json_t *list = NULL;
    int stage = -1;
    json_object_set_new(spec, "normalize", json_false());
    if (!path) return kd_fail(err, KD_ENOMEM, "%s: out of memory", folder);
    kd_status st = kd_json_load(path, SMALL, &list, err);
    if (st == KD_ENOTFOUND) { // whatever else: a folder without it would be another model
        free(path);
        if (err) *err = (kd_err){0};
        return KD_OK;
    }
    json_object_set_new(spec, "pooling", json_string("none"));
    if (!st && !json_is_array(list)) st = kd_fail(err, KD_ECORRUPT, "%s: no list of modules", path);
    for (size_t i = 0; !st && i < json_array_size(list); i++)
        st = read_module(spec, json_array_get(list, i), &stage, folder, path, err);
    json_decref(list);
    free(path);
    return st;
}

kd_status kd__hf_spec(json_t **spec, const json_t *config, const char *folder, const char *path, kd_err *err)
{
    const json_t *ours = json_object_get(config, "model"), *classes = json_object_get(ours, "classes"),
                 *dropout = json_object_get(ours, "dropout"),
                 *shares = json_object_get(ours, "attention_dropout");
    json_t *s = *spec = json_pack("{s:s}", "arch", "bert");
    if (!s) return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    kd_status st = read_encoder(s, config, path, err);
    if (!st) st = read_modules(s, folder, err);
    if (!st && json_is_number(dropout)) json_object_set(s, "dropout", (json_t *)dropout);
    if (!st && json_is_number(shares)) json_object_set(s, "attention_dropout", (json_t *)shares);
    if (!st && json_is_integer(classes) && json_integer_value(classes) > 0) { // the projection gives logits
        json_object_set(s, "classes", (json_t *)classes);
        json_object_del(s, "output");
    }
    if (st) {
        json_decref(s);
        *spec = NULL;
    }
    return st;
}

/* ---- writing ---------------------------------------------------------------------------------- */

kd_status kd__hf_config(json_t *config, const kd_model_spec *s, kd_err *err)
{
    json_t *j =
        json_pack("{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:s, s:s, s:f, s:f, s:I, s:s}",
                  "architectures", s->embedding ? "ElectraModel" : "BertModel", "model_type",
                  s->embedding ? "electra" : "bert", "hidden_size", (json_int_t)s->width, "num_hidden_layers",
                  (json_int_t)s->layers, "num_attention_heads", (json_int_t)s->heads, "intermediate_size",
                  (json_int_t)(s->ffn ? s->ffn : 4 * s->width), "vocab_size", (json_int_t)s->vocab,
                  "max_position_embeddings", (json_int_t)s->positions, "type_vocab_size",
                  (json_int_t)s->types, "layer_norm_eps", s->eps, "hidden_act", "gelu",
                  "position_embedding_type", "absolute", "hidden_dropout_prob", s->dropout,
                  "attention_probs_dropout_prob", s->attention_dropout, "pad_token_id", (json_int_t)0,
                  "torch_dtype", "float32");
    const bool fine =
        j && !(s->embedding && json_object_set_new(j, "embedding_size", json_integer(s->embedding))) &&
        !json_object_update(config, j);
    json_decref(j);
    return fine ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for a model's config.json");
}

/* sub: a folder in the folder, or "". Takes j. */
static kd_status save_json(const char *folder, const char *sub, const char *name, json_t *j, kd_err *err)
{
    char *dir = kd_path_join(folder, sub), *path = dir ? kd_path_join(dir, name) : NULL;
    kd_status st = path && j ? kd_mkdirs(dir, err) : kd_fail(err, KD_ENOMEM, "%s: out of memory", folder);
    if (!st) st = kd_json_save(path, j, err);
    json_decref(j);
    free(dir);
    free(path);
    return st;
}

/* One more line of modules.json. */
static void add_module(json_t *list, const char *type, const char *path)
{
    const json_int_t n = (json_int_t)json_array_size(list);
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)n);
    json_array_append_new(list, json_pack("{s:I, s:s, s:s, s:s+}", "idx", n, "name", name, "path", path,
                                          "type", "sentence_transformers.models.", type));
}

kd_status kd__hf_save_modules(const kd_model_spec *s, const char *folder, kd_err *err)
{
    const int64_t out = s->classes ? s->classes : s->output;
    const bool mean = !strcmp(s->pooling, "mean"), none = !strcmp(s->pooling, "none");
    json_t *list = json_array();
    kd_status st = KD_OK;
    add_module(list, "Transformer", "");
    if (!none) {
        add_module(list, "Pooling", POOLING);
        st =
            save_json(folder, POOLING, "config.json",
                      json_pack("{s:I, s:b, s:b, s:b, s:b}", "word_embedding_dimension", (json_int_t)s->width,
                                "pooling_mode_cls_token", !mean, "pooling_mode_mean_tokens", mean,
                                "pooling_mode_max_tokens", false, "pooling_mode_mean_sqrt_len_tokens", false),
                      err);
    }
    if (out) add_module(list, "Dense", DENSE);
    if (out && !st)
        st = save_json(folder, DENSE, "config.json",
                       json_pack("{s:I, s:I, s:b, s:s}", "in_features", (json_int_t)s->width, "out_features",
                                 (json_int_t)out, "bias", true, "activation_function",
                                 "torch.nn.modules.linear.Identity"),
                       err);
    if (s->normalize && !s->classes) add_module(list, "Normalize", "3_Normalize");
    if (!st)
        st = save_json(folder, "", "sentence_bert_config.json",
                       json_pack("{s:I, s:b}", "max_seq_length", (json_int_t)s->positions, "do_lower_case",
                                 false),
                       err);
    if (st) {
        json_decref(list);
        return st;
    }
    return save_json(folder, "", "modules.json", list, err);
}
