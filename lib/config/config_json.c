/* config_json.c - a config as a JSON object and back.
 *
 * What was resolved is written into every output (model folders, results, --json), and models are
 * opened again from it. Reading goes through the same tree and the same checks as YAML: JSON written
 * by kd may have been edited since.
 */
#include "config_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *list_of(size_t n, json_t *(*item)(const void *v, size_t i), const void *v)
{
    json_t *a = json_array();
    for (size_t i = 0; a && i < n; i++)
        if (json_array_append_new(a, item(v, i))) {
            json_decref(a);
            return NULL;
        }
    return a;
}

static json_t *int_item(const void *v, size_t i) { return json_integer(((const int64_t *)v)[i]); }
static json_t *real_item(const void *v, size_t i) { return json_real(((const double *)v)[i]); }
static json_t *string_item(const void *v, size_t i) { return json_string(((char *const *)v)[i]); }

/* The value of one option; NULL when out of memory or when a text is no UTF-8. */
static json_t *value_of(const kd_option *o, const void *target)
{
    const void *field = (const char *)target + o->offset;
    const kd_ints *ints = field;
    const kd_reals *reals = field;
    const kd_strings *strings = field;
    const char *s;
    switch (o->type) {
    case KD_OPTION_BOOL: return json_boolean(*(const bool *)field);
    case KD_OPTION_INT: return json_integer(*(const int64_t *)field);
    case KD_OPTION_REAL: return json_real(*(const double *)field);
    case KD_OPTION_STRING:
    case KD_OPTION_CHOICE: s = *(char *const *)field; return s ? json_string(s) : json_null();
    case KD_OPTION_INTS: return list_of(ints->n, int_item, ints->v);
    case KD_OPTION_REALS: return list_of(reals->n, real_item, reals->v);
    case KD_OPTION_STRINGS:
    case KD_OPTION_MAPS: return list_of(strings->n, string_item, strings->v);
    }
    return NULL;
}

/* Puts value (stolen) at the dotted key. */
static bool put(json_t *root, const char *key, json_t *value)
{
    json_t *at = root;
    const char *dot;
    char part[128];
    for (; (dot = strchr(key, '.')); key = dot + 1) {
        snprintf(part, sizeof part, "%.*s", (int)(dot - key), key);
        json_t *below = json_object_get(at, part);
        if (!below) {
            below = json_object();
            if (json_object_set_new(at, part, below)) {
                json_decref(value);
                return false;
            }
        }
        at = below;
    }
    return json_object_set_new(at, key, value) == 0;
}

json_t *kd_config_json(const kd_config *c)
{
    json_t *root = json_object();
    for (size_t t = 0; root && t < c->tables; t++)
        for (size_t i = 0; i < c->table[t].n; i++) {
            const kd_option *o = &c->table[t].rows[i];
            if (o->key && !put(root, o->key, value_of(o, c->table[t].target))) {
                json_decref(root);
                return NULL;
            }
        }
    return root;
}

static kd_status to_node(kd_arena *a, const json_t *v, int depth, const char *path, kd__node **out,
                         kd_err *err);

static kd_status scalar_text(kd_arena *a, const json_t *v, kd__node *n)
{
    char buf[64];
    n->plain = !json_is_string(v);
    switch (json_typeof(v)) {
    case JSON_STRING: n->text = kd_arena_strdup(a, json_string_value(v)); break;
    case JSON_INTEGER:
        snprintf(buf, sizeof buf, "%lld", (long long)json_integer_value(v));
        n->text = kd_arena_strdup(a, buf);
        break;
    case JSON_REAL:
        snprintf(buf, sizeof buf, "%.17g", json_real_value(v));
        n->text = kd_arena_strdup(a, buf);
        break;
    default: n->text = json_is_true(v) ? "true" : json_is_false(v) ? "false" : "null";
    }
    return n->text ? KD_OK : KD_ENOMEM;
}

static kd_status children_to_nodes(kd_arena *a, const json_t *v, int depth, const char *path, kd__node *n,
                                   kd_err *err)
{
    kd__node **tail = &n->child;
    kd_status st = KD_OK;
    const char *key;
    json_t *item;
    size_t i;
    if (json_is_array(v)) {
        json_array_foreach((json_t *)v, i, item)
        {
            if ((st = to_node(a, item, depth + 1, path, tail, err))) return st;
            tail = &(*tail)->next;
            n->n++;
        }
        return st;
    }
    json_object_foreach((json_t *)v, key, item)
    {
        if ((st = to_node(a, item, depth + 1, path, tail, err))) return st;
        if (!((*tail)->key = kd_arena_strdup(a, key))) return KD_ENOMEM;
        tail = &(*tail)->next;
        n->n++;
    }
    return st;
}

static kd_status to_node(kd_arena *a, const json_t *v, int depth, const char *path, kd__node **out,
                         kd_err *err)
{
    if (depth > KD_YAML_MAX_DEPTH)
        return kd_fail(err, KD_ECORRUPT, "%s: nested deeper than %d levels", path, KD_YAML_MAX_DEPTH);
    kd__node *n = *out = kd_arena_alloc(a, 1, sizeof *n);
    kd_status st = KD_ENOMEM;
    if (n) {
        n->kind = json_is_object(v) ? KD__MAP : json_is_array(v) ? KD__LIST : KD__SCALAR;
        st = n->kind == KD__SCALAR ? scalar_text(a, v, n) : children_to_nodes(a, v, depth, path, n, err);
    }
    if (st == KD_ENOMEM) kd_fail(err, st, "%s: out of memory", path);
    return st;
}

kd_status kd_config_from_json(kd_config *c, const json_t *obj, const char *path, kd_err *err)
{
    kd_arena a = {0};
    kd__node *root = NULL;
    const char *name = kd_arena_strdup(&c->names, path);
    if (!name) return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    if (!json_is_object(obj)) return kd_fail(err, KD_ECORRUPT, "%s: expected a JSON object of options", path);
    c->path = name;
    kd_status st = to_node(&a, obj, 1, path, &root, err);
    if (!st) st = kd__apply(c, root, name, KD_ECORRUPT, err);
    kd_arena_release(&a);
    return st;
}
