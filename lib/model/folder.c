/* folder.c - a model as a folder: config.json and model.safetensors; of encoders and decoders in Hugging
 * Face's layout (hf.c, llama_files.c).
 *
 * The folder is self-contained: the spec, what the input goes through before the first layer, class
 * names, and the weights under PyTorch's names and shapes. Weights are written before config.json,
 * each file whole or not at all, so a folder that has a config.json has its weights. Reading builds
 * the graph from the spec and then asks for exactly its parameters: a tensor that is missing, has
 * another shape, or is left over means that spec and weights are of two models.
 *
 * The fingerprint is a hash over what makes the model compute what it computes. Of the spec only
 * the keys count that differ from their defaults, so that a later version's new key does not change the
 * identity of old teachers.
 */
#include "model_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CONFIG_MAX (64u << 20) /* class names can be many */

/* The `model:` mapping with all keys; NULL when out of memory. */
static json_t *spec_json(const kd_config *c)
{
    json_t *all = kd_config_json(c), *spec = json_incref(json_object_get(all, "model"));
    json_decref(all);
    return spec;
}

/* ---- writing ------------------------------------------------------------------------------------ */

static const char WEIGHTS[] = "model.safetensors";

static bool decodes(const kd_model *m) { return !strcmp(m->spec.arch, "llama"); }

/* A parameter's name in its file; in Hugging Face's layout it has another one. */
static const char *name_in_file(const kd_model *m, kd__node_name *b, const kd_param *p, const char **file)
{
    *file = WEIGHTS;
    if (decodes(m)) return kd__llama_name(b, p->name);
    return kd_model_reads_tokens(m) ? kd__hf_name(b, p->name, file) : p->name;
}

/* All numbers of the model in halves, one behind the other; free() it. */
static unsigned char *halves_of(const kd_model *m, kd_dtype dtype)
{
    const kd_param *p;
    size_t floats = 0, at = 0;
    kd_graph_params(m->graph, &p);
    for (size_t i = 0; i < m->params; i++) floats += p[i].size;
    unsigned char *halves = malloc(2 * floats);
    for (size_t i = 0; halves && i < m->params; at += 2 * p[i++].size)
        kd_from_f32(halves + at, dtype, kd_graph_param_data(m->graph, &p[i]), p[i].size);
    return halves;
}

/* The parameters that belong into one file of the folder; none: no file. */
static kd_status save_weights(kd_model *m, const char *folder, const char *file, kd_dtype dtype, kd_err *err)
{
    const kd_param *p;
    kd_graph_params(m->graph, &p);
    const size_t n = m->params;
    size_t count = 0, at = 0;
    char *path = kd_path_join(folder, file);
    kd_tensor *t = calloc(n + 1, sizeof *t);
    kd__node_name *names = calloc(n + 1, sizeof *names);
    unsigned char *halves = dtype == KD_F32 ? NULL : halves_of(m, dtype);
    json_t *meta = json_pack("{s:s, s:s}", "format", "pt", "kd_version", KD_VERSION);
    kd_status st = path && t && names && meta && (halves || dtype == KD_F32)
                       ? KD_OK
                       : kd_fail(err, KD_ENOMEM, "%s: out of memory", folder);
    for (size_t i = 0; i < n && !st; at += 2 * p[i++].size) {
        const char *where, *name = name_in_file(m, &names[i], &p[i], &where);
        if (strcmp(where, file)) continue;
        kd_tensor *to = &t[count++];
        *to = (kd_tensor){.name = name,
                          .dtype = dtype,
                          .ndims = p[i].ndims,
                          .bytes = p[i].size * kd_dtype_size(dtype)};
        for (int d = 0; d < p[i].ndims; d++) to->dims[d] = p[i].dims[d];
        to->data = halves ? (const void *)(halves + at) : kd_graph_param_data(m->graph, &p[i]);
    }
    if (!st && count) st = kd_tensors_save(path, t, count, meta, err);
    json_decref(meta);
    free(halves);
    free(names);
    free(t);
    free(path);
    return st;
}

/* Numbers to what the first layer takes; tokens go in as they are. */
static json_t *preprocess(const kd_model *m)
{
    return json_pack("{s:f, s:f}", "mean", (double)m->mean, "scale", (double)m->scale);
}

kd_status kd_model_save(kd_model *m, const char *folder, const json_t *extra, kd_err *err)
{
    return kd_model_save_as(m, folder, KD_F32, extra, err);
}

kd_status kd_model_save_as(kd_model *m, const char *folder, kd_dtype dtype, const json_t *extra, kd_err *err)
{
    const bool tokens = kd_model_reads_tokens(m);
    char *config = kd_path_join(folder, "config.json");
    json_t *j = json_pack("{s:[s], s:s, s:s, s:s, s:o, s:o*}", "architectures", m->spec.arch, "model_type",
                          "kd", "kd_version", KD_VERSION, "name", m->name, "model", spec_json(&m->config),
                          "preprocess", tokens ? NULL : preprocess(m));
    kd_status st = KD_OK;
    if (!config || !j || (m->labels && json_object_set(j, "labels", m->labels)) ||
        (extra && json_object_update_missing(j, (json_t *)extra)))
        st = kd_fail(err, KD_ENOMEM, "%s: no memory to save the model", folder);
    if (!st && decodes(m))
        st = kd__llama_config(j, &m->spec, dtype, err);
    else if (!st && tokens && !(st = kd__hf_config(j, &m->spec, err)) &&
             !(st = kd__hf_save_modules(&m->spec, folder, err)))
        st = save_weights(m, folder, kd__hf_dense, dtype, err);
    if (!st) st = save_weights(m, folder, WEIGHTS, dtype, err);
    if (!st) st = kd_json_save(config, j, err);
    json_decref(j);
    free(config);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------------- */

static void shape_text(char *buf, size_t len, int ndims, const int64_t *dims)
{
    size_t at = 0;
    snprintf(buf, len, "a scalar");
    for (int i = 0; i < ndims && at < len; i++)
        at += (size_t)snprintf(buf + at, len - at, "%s%lld", i ? " x " : "", (long long)dims[i]);
}

static kd_status take_tensor(kd_model *m, const kd_param *p, const kd_tensor *t, const char *name,
                             const char *path, kd_err *err)
{
    char have[128], want[128];
    bool same = t && t->ndims == p->ndims;
    if (!t)
        return kd_fail(err, KD_EMISMATCH, "%s: tensor %s is missing; its config.json describes another model",
                       path, name);
    for (int d = 0; same && d < p->ndims; d++) same = t->dims[d] == p->dims[d];
    if (!same) {
        shape_text(have, sizeof have, t->ndims, t->dims);
        shape_text(want, sizeof want, p->ndims, p->dims);
        return kd_fail(err, KD_EMISMATCH, "%s: tensor %s is %s, config.json needs %s", path, name, have,
                       want);
    }
    if (!kd_dtype_is_float(t->dtype))
        return kd_fail(err, KD_EMISMATCH, "%s: tensor %s is %s, expected a float type", path, name,
                       kd_dtype_name(t->dtype));
    float *w = kd_graph_param_data(m->graph, p);
    kd_to_f32(w, t->data, t->dtype, p->size);
    for (size_t i = 0; i < p->size; i++) // ReLU would hide a NaN from the logits
        if (!isfinite(w[i]))
            return kd_fail(err, KD_ENUMERIC, "%s: tensor %s: element %zu is %g; the weights are broken", path,
                           name, i, w[i]);
    return KD_OK;
}

/* PyTorch's batch norm counts batches; nothing needs the count. */
static bool ignored(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && !strcmp(dot, ".num_batches_tracked");
}

/* What stands in front of all names in the file: "bert." where a larger model was saved. */
static const char *prefix_of(const kd_model *m, const kd_tensors *t)
{
    kd__node_name b;
    for (size_t i = 1; kd_model_reads_tokens(m) && !decodes(m) && i < KD_COUNT(kd__hf_prefixes); i++)
        if (kd_tensors_find(t, kd__name(&b, "%sembeddings.word_embeddings.weight", kd__hf_prefixes[i])))
            return kd__hf_prefixes[i];
    return "";
}

/* A tensor of the file that is none of the model's. */
static kd_status check_left(const kd_model *m, const kd_tensor *t, const char *prefix, const char *path,
                            kd_err *err)
{
    const kd_param *p;
    const size_t n = kd_graph_params(m->graph, &p);
    const bool tokens = kd_model_reads_tokens(m), inside = !strncmp(t->name, prefix, strlen(prefix));
    const char *name = inside ? t->name + strlen(prefix) : t->name;
    bool known = decodes(m) ? kd__llama_leaves(&m->spec, name)
                 : tokens   ? !inside || kd__hf_leaves(name)
                            : ignored(name);
    for (size_t k = 0; k < n && !known; k++) {
        kd__node_name b;
        const char *file;
        known = !strcmp(name_in_file(m, &b, &p[k], &file), name);
    }
    if (known) return KD_OK;
    return kd_fail(err, KD_EMISMATCH,
                   "%s: tensor %.200s is left over; its config.json describes another model", path, t->name);
}

static kd_status load_file(kd_model *m, const char *folder, const char *file, kd_err *err)
{
    const kd_param *p;
    const size_t n = kd_graph_params(m->graph, &p);
    char *path = kd_path_join(folder, file);
    kd_tensors *t = NULL;
    kd_status st =
        path ? kd_tensors_open(&t, path, err) : kd_fail(err, KD_ENOMEM, "%s: out of memory", folder);
    const char *prefix = st ? "" : prefix_of(m, t);
    for (size_t i = 0; i < n && !st; i++) {
        kd__node_name b, full;
        const char *where, *name = name_in_file(m, &b, &p[i], &where);
        if (strcmp(where, file)) continue;
        name = kd__name(&full, "%s%s", prefix, name);
        st = take_tensor(m, &p[i], kd_tensors_find(t, name), name, path, err);
    }
    for (size_t i = 0; !st && i < kd_tensors_count(t); i++)
        st = check_left(m, kd_tensors_at(t, i), prefix, path, err);
    kd_tensors_close(t);
    free(path);
    return st;
}

static kd_status load_weights(kd_model *m, const char *folder, kd_err *err)
{
    const kd_param *p;
    bool dense = false;
    for (size_t i = kd_graph_params(m->graph, &p); i-- > 0;) {
        kd__node_name b;
        const char *file;
        name_in_file(m, &b, &p[i], &file);
        dense |= !strcmp(file, kd__hf_dense);
    }
    kd_status st = dense ? load_file(m, folder, kd__hf_dense, err) : KD_OK;
    return st ? st : load_file(m, folder, WEIGHTS, err);
}

static kd_status load_preprocess(kd_model *m, const json_t *j, const char *path, kd_err *err)
{
    const json_t *pre = json_object_get(j, "preprocess");
    double mean, scale;
    if (kd_model_reads_tokens(m)) return KD_OK;
    if (!json_is_object(pre))
        return kd_fail(err, KD_ECORRUPT, "%s: key 'preprocess' is missing or no object", path);
    kd_status st = kd_json_real(pre, "mean", &mean, path, err);
    if (!st) st = kd_json_real(pre, "scale", &scale, path, err);
    if (st) return st;
    m->mean = (float)mean;
    m->scale = (float)scale;
    if (isfinite(m->mean) && isfinite(m->scale) && m->scale != 0) return KD_OK;
    return kd_fail(err, KD_ECORRUPT, "%s: preprocess: mean %g, scale %g; the scale must be finite and not 0",
                   path, mean, scale);
}

static kd_status load_labels(kd_model *m, const json_t *j, const char *path, kd_err *err)
{
    const json_t *labels = json_object_get(j, "labels");
    if (!labels || json_is_null(labels)) return KD_OK;
    if (!json_is_array(labels) || json_array_size(labels) != (size_t)m->spec.classes)
        return kd_fail(err, KD_ECORRUPT, "%s: 'labels' is not a list of %lld names", path,
                       (long long)m->spec.classes);
    for (size_t i = 0; i < json_array_size(labels); i++)
        if (!json_is_string(json_array_get(labels, i)))
            return kd_fail(err, KD_ECORRUPT, "%s: entry %zu of 'labels' is not a string", path, i);
    m->labels = json_incref((json_t *)labels);
    return KD_OK;
}

/* kd's own, else what transformers knows a model by, else the folder's. */
static kd_status load_name(const char **name, const json_t *j, bool hf, const char *folder, const char *path,
                           kd_err *err)
{
    if (!hf || json_object_get(j, "name")) return kd_json_str(j, "name", name, path, err);
    const char *known = json_string_value(json_object_get(j, "_name_or_path"));
    *name = kd_path_base(known && *known ? known : folder);
    if (!**name || **name == '.') *name = json_string_value(json_object_get(j, "model_type"));
    return KD_OK;
}

/* The `model:` mapping, *spec to be given back. */
static kd_status load_spec(json_t **spec, const json_t *j, bool hf, const char *folder, const char *path,
                           kd_err *err)
{
    if (hf && !strcmp(json_string_value(json_object_get(j, "model_type")), "llama"))
        return kd__llama_spec(spec, j, path, err);
    if (hf) return kd__hf_spec(spec, j, folder, path, err);
    *spec = json_incref(json_object_get(j, "model"));
    return json_is_object(*spec) ? KD_OK
                                 : kd_fail(err, KD_ECORRUPT, "%s: key 'model' is missing or no object", path);
}

static kd_status load_config(kd_model **out, const json_t *j, const char *folder, const char *path,
                             kd_err *err)
{
    const char *type, *name;
    json_t *spec = NULL;
    kd_status st = kd_json_str(j, "model_type", &type, path, err);
    if (st) return st;
    const bool hf = kd__hf_is(type) || !strcmp(type, "llama");
    if (strcmp(type, "kd") && !hf)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: model_type is '%.60s', this version runs kd, bert, electra and llama", path,
                       type);
    if ((st = load_name(&name, j, hf, folder, path, err))) return st;
    st = load_spec(&spec, j, hf, folder, path, err);
    if (!st && (st = kd_model_create(out, name, spec, path, err)) == KD_EUSAGE) {
        if (err) err->code = KD_ECORRUPT; // nobody wrote it by hand: the file is at fault
        st = KD_ECORRUPT;
    }
    json_decref(spec);
    if (!st && ((st = load_preprocess(*out, j, path, err)) || (st = load_labels(*out, j, path, err)))) {
        kd_model_free(*out);
        *out = NULL;
    }
    return st;
}

kd_status kd_model_load(kd_model **out, const char *folder, kd_err *err)
{
    const size_t n = strlen(folder);
    if (n > 5 && !strcmp(folder + n - 5, ".gguf") && !kd_is_dir(folder))
        return kd__llama_open_gguf(out, folder, err);
    char *config = kd_path_join(folder, "config.json");
    json_t *j = NULL;
    kd_model *m = NULL;
    kd_status st = config ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: out of memory", folder);
    *out = NULL;
    if (!st && !kd_is_dir(folder))
        st = kd_fail(err, KD_ENOTFOUND, "%s: no such folder; expected a model folder with config.json",
                     folder);
    if (!st) st = kd_json_load(config, CONFIG_MAX, &j, err);
    if (!st) st = load_config(&m, j, folder, config, err);
    if (!st) st = load_weights(m, folder, err);
    if (st)
        kd_model_free(m);
    else
        *out = m;
    json_decref(j);
    free(config);
    return st;
}

uint64_t kd_model_file_bytes(const char *folder)
{
    struct stat sb;
    char *path = kd_path_join(folder, WEIGHTS);
    uint64_t bytes = path && !stat(path, &sb) ? (uint64_t)sb.st_size : 0;
    free(path);
    return bytes;
}

/* ---- identity ------------------------------------------------------------------------------------- */

/* Spec (without keys at their defaults) and preprocessing as one line of JSON with sorted keys; free()
 * it. NULL when out of memory. */
static char *canonical(const kd_model *m)
{
    kd_model_spec plain;
    kd_config defaults = {0};
    const char *key;
    json_t *value, *spec = spec_json(&m->config), *usual = NULL, *j = json_object();
    if (!kd_config_add(&defaults, kd_model_options, kd_model_options_n, &plain, NULL))
        usual = spec_json(&defaults);
    kd_config_release(&defaults);
    char *text = NULL;
    if (spec && usual && j) {
        json_object_foreach(spec, key, value)
        {
            if (!json_equal(value, json_object_get(usual, key))) json_object_set(j, key, value);
        }
        json_t *all =
            json_pack("{s:O, s:f, s:f}", "model", j, "mean", (double)m->mean, "scale", (double)m->scale);
        text = all ? kd_json_text(all, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
        json_decref(all);
    }
    json_decref(spec);
    json_decref(usual);
    json_decref(j);
    return text;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const kd_param *const *)a)->name, (*(const kd_param *const *)b)->name);
}

void kd_model_fingerprint(kd_model *m, char out[33])
{
    const kd_param *p;
    const size_t n = m->params;
    kd_graph_params(m->graph, &p);
    const kd_param **order = calloc(n + 1, sizeof *order);
    kd_hasher *h = kd_hasher_create();
    char *text = canonical(m);
    out[0] = '\0';
    if (order && h && text) {
        kd_hasher_add(h, text, strlen(text) + 1);
        for (size_t i = 0; i < n; i++) order[i] = &p[i];
        qsort(order, n, sizeof *order, by_name);
        for (size_t i = 0; i < n; i++) {
            kd_hasher_add(h, order[i]->name, strlen(order[i]->name) + 1);
            kd_hasher_add(h, kd_graph_param_data(m->graph, order[i]), order[i]->size * sizeof(float));
        }
        kd_id_hex(kd_hasher_digest(h), out);
    }
    free(text);
    kd_hasher_free(h);
    free(order);
}
