/* identity.c - whose outputs these are: teacher, data, tokenizer, view seed.
 *
 * Outputs of another teacher, or for other rows, have the right shape and train a wrong student. Files can
 * say what they belong to (safetensors metadata that kd's export writes, and others may), a store says it
 * too, and the two are compared by name. What one side does not say is not compared: ids still have to match.
 *
 * In a store: a teacher's fingerprint is in its segment's entry of the manifest; the data are the root of the
 * base segment; tokenizer and view seed are members `tokenizer` and `view_seed` of the base segment's entry,
 * of its contract, or of the params of one of its columns.
 */
#include "exchange_private.h"

#include <stdlib.h>
#include <string.h>

const char *const kd__identity_keys[KD__IDENTITIES] = {"kd.teacher", "kd.data", "kd.tokenizer",
                                                       "kd.view_seed"};
static const char *const words[KD__IDENTITIES] = {"teacher", "data", "tokenizer", "view seed"};

kd_status kd__names_set(kd__names *n, kd__identity which, const char *text, kd_err *err)
{
    char *copy = kd_strdup(text);
    if (!copy) return kd_fail(err, KD_ENOMEM, "out of memory");
    free(n->v[which]);
    n->v[which] = copy;
    return KD_OK;
}

void kd__names_release(kd__names *n)
{
    for (int i = 0; i < KD__IDENTITIES; i++) free(n->v[i]);
    *n = (kd__names){{0}};
}

/* A string or whole number as text. */
static kd_status set_json(kd__names *n, kd__identity which, const json_t *v, kd_err *err)
{
    char text[32];
    if (json_is_string(v)) return kd__names_set(n, which, json_string_value(v), err);
    if (!json_is_integer(v)) return KD_OK;
    snprintf(text, sizeof text, "%lld", (long long)json_integer_value(v));
    return kd__names_set(n, which, text, err);
}

static const json_t *anywhere(const kd_store *s, const json_t *base, const char *key)
{
    const json_t *v = json_object_get(base, key);
    if (!v) v = json_object_get(json_object_get(base, "contract"), key);
    for (size_t i = 0; !v && i < kd_store_columns(s); i++) {
        const kd_column *c = kd_store_column(s, i);
        if (!c->teacher[0]) v = json_object_get(c->params, key);
    }
    return v;
}

kd_status kd__names_of_store(kd__names *n, const kd_store *s, const char *teacher, kd_err *err)
{
    const json_t *base = json_array_get(json_object_get(kd_store_manifest(s), "segments"), 0);
    const json_t *t = teacher ? kd_store_teacher(s, teacher) : NULL;
    kd_status st = set_json(n, KD__TEACHER, json_object_get(t, "fingerprint"), err);
    if (!st) st = set_json(n, KD__DATA, json_object_get(base, "root"), err);
    if (!st) st = set_json(n, KD__TOKENIZER, anywhere(s, base, "tokenizer"), err);
    return st ? st : set_json(n, KD__VIEW_SEED, anywhere(s, base, "view_seed"), err);
}

kd_status kd__names_compare(const kd__names *file, const kd__names *store, const char *path,
                            const char *where, kd_err *err)
{
    for (int i = 0; i < KD__IDENTITIES; i++)
        if (file->v[i] && store->v[i] && strcmp(file->v[i], store->v[i]))
            return kd_fail(err, KD_EMISMATCH, "%s: other %s: its %s is %.100s, %s has %.100s", path, words[i],
                           kd__identity_keys[i], file->v[i], where, store->v[i]);
    return KD_OK;
}
