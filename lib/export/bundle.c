/* bundle.c - a model of texts as a folder that sentence-transformers (an encoder) or transformers (a language
 * model) opens.
 *
 * Model folders have that layout already (lib/model/hf.c, llama_files.c); what a student's own lacks or has
 * too much of is its training: this one holds the model, its tokenizer, and what the others want to know
 * beside them: sentence-transformers its version, transformers which tokens begin and end a text. It is made
 * as PATH.part and renamed when whole.
 */
#include "export_private.h"

#include "kd/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A file that a folder of the kind has, whoever exported it. */
static const char ENCODER[] = "config_sentence_transformers.json", DECODER[] = "kd_export.json";

/* Removes what this made before; anything else stays, and then nothing can be renamed to path. */
static kd_status make_room(const char *path, const char *file, kd_err *err)
{
    char *mark = kd_path_join(path, file);
    kd_status st = KD_OK;
    if (!mark)
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    else if (kd_exists(mark))
        st = kd_remove_tree(path, err);
    else if (kd_exists(path))
        st = kd_fail(err, KD_EEXISTS,
                     "%s: already there, without %s: no exported folder, so it is not replaced", path, file);
    free(mark);
    return st;
}

/* Takes j. */
static kd_status put_json(const char *folder, const char *name, json_t *j, kd_err *err)
{
    char *path = kd_path_join(folder, name);
    kd_status st =
        path && j ? kd_json_save(path, j, err) : kd_fail(err, KD_ENOMEM, "%s: out of memory", folder);
    json_decref(j);
    free(path);
    return st;
}

/* ---- encoders ----------------------------------------------------------------------------------- */

/* How long texts may be is the tokenizer folder's word, where it has one. */
static kd_status keep_length(const char *from, const char *folder, kd_err *err)
{
    static const char name[] = "sentence_bert_config.json";
    char *source = kd_path_join(from, name), *path = kd_path_join(folder, name), *text;
    size_t len;
    kd_status st = source && path ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: out of memory", folder);
    if (!st && !(st = kd_file_read(source, 1 << 20, &text, &len, err))) {
        st = kd_file_write(path, text, len, err);
        free(text);
    } else if (st == KD_ENOTFOUND) {
        st = KD_OK;
        if (err) *err = (kd_err){0};
    }
    free(source);
    free(path);
    return st;
}

static uint64_t size_of(const char *folder, const char *name)
{
    char *path = kd_path_join(folder, name);
    FILE *f = path ? fopen(path, "re") : NULL;
    uint64_t bytes = 0;
    if (f && !fseeko(f, 0, SEEK_END)) bytes = (uint64_t)ftello(f);
    if (f) fclose(f);
    free(path);
    return bytes;
}

static kd_status put_encoder(const char *folder, kd_model *m, const kd_tokenizer *t, const kd_model_export *o,
                             const char *command, kd_err *err)
{
    json_t *versions =
        json_pack("{s:{s:s}, s:{}, s:n, s:s, s:s*}", "__version__", "kd", KD_VERSION, "prompts",
                  "default_prompt_name", "similarity_fn_name", "cosine", "kd_command", command);
    kd_status st = put_json(folder, ENCODER, versions, err);
    if (!st) st = kd_model_save(m, folder, NULL, err);
    if (!st) st = kd_tokenizer_save(t, folder, err);
    return st ? st : keep_length(o->tokenizer, folder, err);
}

/* ---- language models ---------------------------------------------------------------------------- */

static const char *const roles[][2] = {{"bos_token", "bos_token_id"},
                                       {"eos_token", "eos_token_id"},
                                       {"pad_token", "pad_token_id"}};

/* {"eos_token_id": 2, ...} of the tokens that the tokenizer names. */
static json_t *special_ids(const kd_tokenizer *t)
{
    json_t *j = json_object();
    uint32_t id;
    for (size_t i = 0; i < KD_COUNT(roles); i++)
        if (kd_tokenizer_special(t, roles[i][0], &id)) json_object_set_new(j, roles[i][1], json_integer(id));
    return j;
}

/* The tokenizer's files as they are; what it lacks is written: who reads it, and what the tokens are for. */
static kd_status put_tokenizer(const char *folder, const kd_tokenizer *t, kd_err *err)
{
    const json_t *files = kd_tokenizer_files(t);
    json_t *map = json_object();
    uint32_t id;
    for (size_t i = 0; i < KD_COUNT(roles); i++)
        if (kd_tokenizer_special(t, roles[i][0], &id))
            json_object_set_new(map, roles[i][0], json_string(kd_tokenizer_token(t, id)));
    kd_status st = kd_tokenizer_save(t, folder, err);
    if (!st && !json_object_get(files, "tokenizer_config.json"))
        st = put_json(folder, "tokenizer_config.json",
                      json_pack("{s:s}", "tokenizer_class", "PreTrainedTokenizerFast"), err);
    if (!st && !json_object_get(files, "special_tokens_map.json"))
        st = put_json(folder, "special_tokens_map.json", json_incref(map), err);
    json_decref(map);
    return st;
}

static void round_weights(kd_model *m, kd_dtype dtype)
{
    enum { AT_ONCE = 4096 };
    const kd_param *p;
    uint16_t half[AT_ONCE];
    const size_t n = kd_graph_params(m->graph, &p);
    for (size_t i = 0; i < n; i++)
        for (size_t at = 0; at < p[i].size; at += AT_ONCE) {
            float *w = kd_graph_param_data(m->graph, &p[i]) + at;
            kd_from_f32(half, dtype, w, kd_min_size(AT_ONCE, p[i].size - at));
            kd_to_f32(w, half, dtype, kd_min_size(AT_ONCE, p[i].size - at));
        }
}

static kd_status put_decoder(const char *folder, kd_model *m, const kd_tokenizer *t, const kd_model_export *o,
                             const char *command, kd_err *err)
{
    const kd_dtype dtype = !strcmp(o->weights, "f16")    ? KD_F16
                           : !strcmp(o->weights, "bf16") ? KD_BF16
                                                         : KD_F32;
    json_t *ids = special_ids(t);
    kd_status st = ids ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: out of memory", folder);
    if (!st && kd_tokenizer_size(t) > (uint64_t)m->spec.vocab)
        st =
            kd_fail(err, KD_EMISMATCH, "%s: its tokenizer has %u tokens, the model %s has %lld (model.vocab)",
                    o->tokenizer, kd_tokenizer_size(t), m->name, (long long)m->spec.vocab);
    if (!st && dtype != KD_F32) round_weights(m, dtype);
    if (!st) st = kd_model_save_as(m, folder, dtype, ids, err);
    if (!st) st = put_tokenizer(folder, t, err);
    if (!st) st = put_json(folder, "generation_config.json", json_incref(ids), err);
    if (!st)
        st = put_json(folder, DECODER,
                      json_pack("{s:s, s:s*}", "kd_version", KD_VERSION, "kd_command", command), err);
    json_decref(ids);
    return st;
}

/* ---- the folder --------------------------------------------------------------------------------- */

static kd_status check(const kd_model *m, const char *to, kd_err *err)
{
    const bool decoder = !strcmp(m->spec.arch, "llama"), wanted = !strcmp(to, "transformers");
    if (kd_model_reads_tokens(m) && decoder == wanted) return KD_OK;
    return kd_fail(err, KD_EUNSUPPORTED, "%s: --to %s is for %s, not %s", m->name, to,
                   wanted ? "language models (llama)" : "encoders of texts", m->spec.arch);
}

kd_status kd__write_bundle(const char *path, kd_model *m, const kd_model_export *o, const char *command,
                           kd_model_export_facts *facts, kd_err *err)
{
    const bool decoder = !strcmp(o->to, "transformers");
    kd_tokenizer *t = NULL;
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') len--;
    char *part = kd_sprintf("%.*s.part", (int)len, path);
    kd_status st = part ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    if (!st) st = check(m, o->to, err);
    if (!st) st = kd_tokenizer_open(&t, o->tokenizer, err);
    if (!st) st = kd_remove_tree(part, err);
    if (!st) st = kd_mkdirs(part, err);
    if (!st) st = (decoder ? put_decoder : put_encoder)(part, m, t, o, command, err);
    if (!st) facts->file_bytes = size_of(part, "model.safetensors");
    if (!strcmp(o->weights, "f16") || !strcmp(o->weights, "bf16")) facts->weight_bytes /= 2;
    if (!st) st = make_room(path, decoder ? DECODER : ENCODER, err);
    if (!st && rename(part, path)) st = kd_fail_errno(err, errno, "%s: cannot name it so", path);
    if (st && part) kd_remove_tree(part, NULL);
    kd_tokenizer_close(t);
    free(part);
    return st;
}
