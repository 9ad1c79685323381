/* bundle.c - an encoder as a folder that sentence-transformers and transformers open.
 *
 * Model folders of encoders have that layout already (lib/model/hf.c); what a student's own lacks or has too
 * much of is its training: this one holds the model, its tokenizer, and what sentence-transformers wants to
 * know beside them. It is made as PATH.part and renamed when whole.
 */
#include "export_private.h"

#include "kd/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char MARK[] = "config_sentence_transformers.json";

/* Removes what this made before; anything else stays, and then nothing can be renamed to path. */
static kd_status make_room(const char *path, kd_err *err)
{
    char *mark = kd_path_join(path, MARK);
    kd_status st = KD_OK;
    if (!mark)
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    else if (kd_exists(mark))
        st = kd_remove_tree(path, err);
    else if (kd_exists(path))
        st = kd_fail(err, KD_EEXISTS,
                     "%s: already there, without %s: no exported folder, so it is not replaced", path, MARK);
    free(mark);
    return st;
}

static kd_status put_versions(const char *folder, const char *command, kd_err *err)
{
    char *path = kd_path_join(folder, MARK);
    json_t *j = json_pack("{s:{s:s}, s:{}, s:n, s:s, s:s*}", "__version__", "kd", KD_VERSION, "prompts",
                          "default_prompt_name", "similarity_fn_name", "cosine", "kd_command", command);
    kd_status st =
        path && j ? kd_json_save(path, j, err) : kd_fail(err, KD_ENOMEM, "%s: out of memory", folder);
    json_decref(j);
    free(path);
    return st;
}

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

kd_status kd__write_bundle(const char *path, kd_model *m, const kd_model_export *o, const char *command,
                           kd_model_export_facts *facts, kd_err *err)
{
    kd_tokenizer *t = NULL;
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') len--;
    char *part = kd_sprintf("%.*s.part", (int)len, path);
    kd_status st = part ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    if (!st && !kd_model_reads_tokens(m))
        st = kd_fail(err, KD_EUNSUPPORTED, "%s: sentence-transformers run encoders of texts, not %s", m->name,
                     m->spec.arch);
    if (!st) st = kd_tokenizer_open(&t, o->tokenizer, err);
    if (!st) st = kd_remove_tree(part, err);
    if (!st) st = kd_mkdirs(part, err);
    if (!st) st = kd_model_save(m, part, NULL, err);
    if (!st) st = kd_tokenizer_save(t, part, err);
    if (!st) st = keep_length(o->tokenizer, part, err);
    if (!st) st = put_versions(part, command, err);
    if (!st) facts->file_bytes = size_of(part, "model.safetensors");
    if (!st) st = make_room(path, err);
    if (!st && rename(part, path)) st = kd_fail_errno(err, errno, "%s: cannot name it so", path);
    if (st && part) kd_remove_tree(part, NULL);
    kd_tokenizer_close(t);
    free(part);
    return st;
}
