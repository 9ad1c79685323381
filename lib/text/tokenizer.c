/* tokenizer.c - a tokenizer from its files, its vocabulary, and its files again.
 *
 * The files are kept as they were read: whoever makes a model folder for this tokenizer writes the same
 * bytes, and the hash that stores compare is that of a file that people have.
 */
#include "text_private.h"

#include <dirent.h>

static const char *const names[] = {"tokenizer.json", "vocab.txt", "tokenizer_config.json",
                                    "special_tokens_map.json"};
enum { JSON, VOCAB, CONFIG, NAMES = sizeof names / sizeof *names };

/* ---- files ---------------------------------------------------------------------------------- */

/* Reads a file into files[name]. */
static kd_status keep(json_t *files, const char *path, const char *name, kd_err *err)
{
    char *text;
    size_t len;
    kd_status st = kd_file_read(path, KD_TOKENIZER_MAX_BYTES, &text, &len, err);
    if (st) return st;
    if (kd__utf8_valid((const uint8_t *)text, len) < len)
        st = kd_fail(err, KD_ECORRUPT, "%s: byte %zu is not UTF-8", path,
                     kd__utf8_valid((const uint8_t *)text, len));
    else if (json_object_set_new(files, name, json_stringn(text, len)))
        st = kd_fail(err, KD_ENOMEM, "%s: no memory for it", path);
    free(text);
    return st;
}

/* All files that lie in a folder; skip: one that does not count, -1: none. */
static kd_status keep_folder(json_t *files, const char *folder, int skip, kd_err *err)
{
    kd_status st = KD_OK;
    for (int i = 0; i < NAMES && !st; i++) {
        char *path = kd_path_join(folder, names[i]);
        if (!path) return kd_fail(err, KD_ENOMEM, "out of memory");
        if (i != skip && !json_object_get(files, names[i]) && kd_exists(path))
            st = keep(files, path, names[i], err);
        free(path);
    }
    return st;
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static kd_status keep_file(json_t *files, const char *path, kd_err *err)
{
    const bool json = ends_with(path, ".json");
    if (ends_with(path, ".gguf")) return kd__read_gguf(files, path, err);
    if (!json && !ends_with(path, ".txt"))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: a tokenizer is a folder, a .json, a .txt or a .gguf file",
                       path);
    kd_status st = keep(files, path, names[json ? JSON : VOCAB], err);
    if (st) return st;
    char *folder = kd_strdup(path), *slash = folder ? strrchr(folder, '/') : NULL;
    if (!folder) return kd_fail(err, KD_ENOMEM, "out of memory");
    if (slash) *slash = '\0';
    st = keep_folder(files, slash ? (*folder ? folder : "/") : ".", json ? -1 : JSON, err);
    free(folder);
    return st;
}

kd_status kd_tokenizer_open(kd_tokenizer **out, const char *path, kd_err *err)
{
    json_t *files = json_object();
    kd_status st = files ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    *out = NULL;
    if (!st && !kd_exists(path)) st = kd_fail(err, KD_ENOTFOUND, "%s: no such tokenizer", path);
    if (!st) st = kd_is_dir(path) ? keep_folder(files, path, -1, err) : keep_file(files, path, err);
    if (!st) st = kd_tokenizer_from(out, files, path, err);
    json_decref(files);
    return st;
}

kd_status kd_tokenizer_save(const kd_tokenizer *t, const char *folder, kd_err *err)
{
    const char *name;
    json_t *text;
    json_object_foreach((json_t *)(uintptr_t)t->files, name, text)
    {
        char *path = kd_path_join(folder, name);
        if (!path) return kd_fail(err, KD_ENOMEM, "out of memory");
        kd_status st = kd_file_write(path, json_string_value(text), json_string_length(text), err);
        free(path);
        if (st) return st;
    }
    return KD_OK;
}

/* ---- from files in memory --------------------------------------------------------------------- */

/* Only names that are known may become files of a folder. */
static kd_status check_files(const json_t *files, const char *where, kd_err *err)
{
    const char *name;
    json_t *text;
    if (!json_is_object(files)) return kd_fail(err, KD_ECORRUPT, "%s: holds no tokenizer", where);
    json_object_foreach((json_t *)(uintptr_t)files, name, text)
    {
        bool known = false;
        for (int i = 0; i < NAMES; i++) known = known || !strcmp(name, names[i]);
        if (!known || !json_is_string(text) || json_string_length(text) > KD_TOKENIZER_MAX_BYTES)
            return kd_fail(err, KD_ECORRUPT, "%s: '%.60s' is no file of a tokenizer", where, name);
    }
    return KD_OK;
}

kd_status kd__tokenizer_config(json_t **config, const json_t *files, const char *where, kd_err *err)
{
    const json_t *text = json_object_get(files, names[CONFIG]);
    json_error_t at;
    *config = NULL;
    if (!text) return KD_OK;
    kd_status st = kd_json_parse(config, json_string_value(text), json_string_length(text), &at);
    if (st == KD_ENOMEM) return kd_fail(err, st, "%s: out of memory", where);
    if (st || !json_is_object(*config))
        return kd_fail(err, KD_ECORRUPT, "%s: tokenizer_config.json:%d is no JSON object%s%s", where,
                       st ? at.line : 1, st ? ": " : "", st ? at.text : "");
    return KD_OK;
}

bool kd_tokenizer_special(const kd_tokenizer *t, const char *role, uint32_t *id)
{
    json_t *config;
    if (kd__tokenizer_config(&config, t->files, "", NULL)) return false;
    const json_t *own = json_object_get(config, role);
    const char *name = json_string_value(json_is_object(own) ? json_object_get(own, "content") : own);
    const bool known = name && kd_tokenizer_find(t, name, id);
    json_decref(config);
    return known;
}

static kd_status read_all(kd_tokenizer *t, const char *where, kd_err *err)
{
    const json_t *json = json_object_get(t->files, names[JSON]),
                 *vocab = json_object_get(t->files, names[VOCAB]);
    const json_t *from = json ? json : vocab;
    json_t *config = NULL;
    kd_status st;
    if (!from) return kd_fail(err, KD_ENOTFOUND, "%s: has neither tokenizer.json nor vocab.txt", where);
    const char *text = json_string_value(from);
    const size_t len = json_string_length(from);
    kd_id_hex(kd_hash128(text, len), t->hash);
    if (json) {
        st = kd__read_json(t, text, len, where, err);
    } else {
        st = kd__tokenizer_config(&config, t->files, where, err);
        if (!st) st = kd__read_vocab(t, text, len, config, where, err);
        json_decref(config);
    }
    if (!st && !t->plain) st = kd__chars_build(&t->chars, &t->normalizer, err);
    return st ? st : kd__added_init(t, err);
}

kd_status kd_tokenizer_from(kd_tokenizer **out, const json_t *files, const char *where, kd_err *err)
{
    kd_tokenizer *t = calloc(1, sizeof *t);
    kd_status st = check_files(files, where, err);
    *out = NULL;
    if (!t) return kd_fail(err, KD_ENOMEM, "no memory for a tokenizer");
    t->files = json_incref((json_t *)(uintptr_t)files);
    if (!st) st = read_all(t, where, err);
    if (st)
        kd_tokenizer_close(t);
    else
        *out = t;
    return st;
}

void kd_tokenizer_close(kd_tokenizer *t)
{
    if (!t) return;
    for (uint32_t i = 0; i < t->size; i++) free(t->token[i]);
    for (size_t i = 0; i < t->nadded; i++) free(t->added[i].text);
    free(t->token);
    free(t->added);
    free(t->wordpiece.prefix);
    free(t->bpe.merge);
    kd__trie_release(&t->vocab);
    kd__trie_release(&t->raw.trie);
    kd__trie_release(&t->normal.trie);
    kd__chars_release(&t->chars);
    json_decref(t->files);
    free(t);
}

/* ---- what it says ------------------------------------------------------------------------------- */

const json_t *kd_tokenizer_files(const kd_tokenizer *t) { return t->files; }
const char *kd_tokenizer_hash(const kd_tokenizer *t) { return t->hash; }
uint32_t kd_tokenizer_size(const kd_tokenizer *t) { return t->size; }
size_t kd_tokenizer_max_tokens(const kd_tokenizer *t) { return t->max_tokens; }
size_t kd_tokenizer_added(const kd_tokenizer *t, bool pair) { return pair ? t->pair.added : t->single.added; }

const char *kd_tokenizer_token(const kd_tokenizer *t, uint32_t id)
{
    return id < t->size ? t->token[id] : NULL;
}

bool kd_tokenizer_find(const kd_tokenizer *t, const char *token, uint32_t *id)
{
    const size_t n = strlen(token);
    *id = kd__trie_find(&t->vocab, token, n);
    for (size_t i = 0; *id == KD__NO_ID && i < t->nadded; i++)
        if (t->added[i].len == n && !memcmp(t->added[i].text, token, n)) *id = t->added[i].id;
    return *id != KD__NO_ID;
}
