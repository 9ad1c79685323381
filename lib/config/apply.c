/* apply.c - from a parsed tree to options.
 *
 * Walks the tree with the dotted path of where it is. A path is an option (set it), the beginning
 * of options (go down), or unknown: then the most useful thing to say is what it probably meant,
 * looked for first among the neighbours and then among options of the same name elsewhere.
 */
#include "config_private.h"

#include <stdlib.h>
#include <string.h>

typedef struct walk {
    kd_config *c;
    const char *path;
    kd_status code; /* of a wrong value: KD_EUSAGE for YAML, KD_ECORRUPT for JSON */
    kd_arena arena;
    unsigned char *seen[KD_COUNT(((kd_config *)0)->table)]; /* rows already given in this tree */
    kd_err *err;
} walk;

/* "PATH:LINE:COLUMN" or "PATH" where the place is unknown. */
static const char *place(const walk *w, int line, int column, char *buf, size_t len)
{
    if (line)
        snprintf(buf, len, "%.400s:%d:%d", w->path, line, column);
    else
        snprintf(buf, len, "%.400s", w->path);
    return buf;
}

/* Whether any option's key begins with "key." */
static bool is_prefix(const kd_config *c, const char *key)
{
    size_t len = strlen(key);
    for (size_t t = 0; t < c->tables; t++)
        for (size_t i = 0; i < c->table[t].n; i++) {
            const char *k = c->table[t].rows[i].key;
            if (k && !strncmp(k, key, len) && k[len] == '.') return true;
        }
    return false;
}

typedef struct names {
    const char **v;
    size_t n, cap;
} names;

static void names_add(names *list, const char *name)
{
    for (size_t i = 0; i < list->n; i++)
        if (!strcmp(list->v[i], name)) return;
    if (name && list->n < list->cap) list->v[list->n++] = name;
}

/* The next parts of all keys under prefix ("" or "train"). */
static void collect_children(walk *w, const char *prefix, names *out)
{
    size_t len = strlen(prefix);
    for (size_t t = 0; t < w->c->tables; t++)
        for (size_t i = 0; i < w->c->table[t].n; i++) {
            const char *k = w->c->table[t].rows[i].key;
            if (!k || strncmp(k, prefix, len) || (len && k[len] != '.')) continue;
            char *part = kd_arena_strdup(&w->arena, k + len + (len > 0));
            if (!part) return;
            part[strcspn(part, ".")] = '\0';
            names_add(out, part);
        }
}

/* The full key of an option whose last part is word, or nearly, wherever it stands. */
static const char *elsewhere(walk *w, const char *word, names *leaves)
{
    const char *keys[256];
    leaves->n = 0;
    for (size_t t = 0; t < w->c->tables; t++)
        for (size_t i = 0; i < w->c->table[t].n && leaves->n < KD_COUNT(keys); i++) {
            const char *k = w->c->table[t].rows[i].key, *dot = k ? strrchr(k, '.') : NULL;
            size_t before = leaves->n;
            if (dot) names_add(leaves, dot + 1);
            if (leaves->n > before) keys[before] = k;
        }
    const char *near = kd_nearest(word, leaves->v, leaves->n);
    for (size_t i = 0; near && i < leaves->n; i++)
        if (leaves->v[i] == near) return keys[i];
    return NULL;
}

static kd_status unknown_key(walk *w, const kd__node *n, const char *prefix, const char *full)
{
    char at[512], list[512] = "";
    const char *v[256], *near;
    names children = {v, 0, KD_COUNT(v)};
    const char *word = n->key, *dot = strrchr(word, '.');
    place(w, n->key_line, n->key_column, at, sizeof at);
    collect_children(w, prefix, &children);
    near = kd_nearest(word, v, children.n);
    if (near)
        return kd_fail(w->err, w->code, "%s: unknown key '%.80s' (did you mean '%s%s%s'?)", at, full, prefix,
                       *prefix ? "." : "", near);
    if (children.n <= 16)
        for (size_t i = 0, len = 0; i < children.n && len < sizeof list; i++)
            len += (size_t)snprintf(list + len, sizeof list - len, "%s%s", i ? ", " : "", v[i]);
    const char *key = elsewhere(w, dot ? dot + 1 : word, &children);
    if (key) return kd_fail(w->err, w->code, "%s: unknown key '%.80s' (did you mean '%s'?)", at, full, key);
    return kd_fail(w->err, w->code, "%s: unknown key '%.80s'%s%s", at, full, *list ? ", known here: " : "",
                   list);
}

/* What a node is, for "found ...". */
static const char *found(const kd__node *n)
{
    if (kd__node_is_null(n)) return "nothing";
    if (n->kind == KD__MAP) return "a mapping";
    if (n->kind == KD__LIST) return "a list";
    return n->plain ? "a plain value" : "a text in quotes";
}

static bool wants_text(const kd_option *o)
{
    return o->type == KD_OPTION_STRING || o->type == KD_OPTION_CHOICE || kd__option_is_strings(o);
}

static bool plain_member(const kd__node *m)
{
    return m->kind == KD__SCALAR && !kd__node_is_null(m) && !strpbrk(m->text, ",=;");
}

/* Whether a mapping can become "key=value,key=value"; else *wrong is the member at fault. A list of plain
 * values in it becomes "key=value value". */
static bool plain_members(const kd__node *map, const kd__node **wrong)
{
    for (const kd__node *m = map->child; m; m = m->next) {
        *wrong = m;
        if (m->kind != KD__LIST && !plain_member(m)) return false;
        for (const kd__node *c = m->kind == KD__LIST ? m->child : NULL; c; c = c->next)
            if (!plain_member(c)) return false;
    }
    return true;
}

/* Checks that the node has a form the option can take; *wrong is the node at fault. */
static bool fits(const kd_option *o, const kd__node *n, const kd__node **wrong)
{
    *wrong = n;
    if (n->kind == KD__MAP || (n->kind == KD__LIST && !kd__option_is_list(o))) return false;
    if (kd__node_is_null(n)) return kd__option_takes_nothing(o);
    if (n->kind == KD__SCALAR) return n->plain || wants_text(o);
    for (const kd__node *c = n->child; c; c = c->next) {
        *wrong = c;
        if (c->kind == KD__MAP && o->type == KD_OPTION_MAPS) {
            if (!plain_members(c, wrong)) return false;
            continue;
        }
        if (c->kind != KD__SCALAR || kd__node_is_null(c) || !(c->plain || wants_text(o))) return false;
    }
    return true;
}

/* Text of an item: a scalar's own, a mapping as "key=value,key=value". NULL: out of memory. */
static const char *item_text(walk *w, const kd__node *item)
{
    kd_buf b = {0};
    if (item->kind == KD__SCALAR) return item->text;
    for (const kd__node *m = item->child; m; m = m->next) {
        kd_buf_printf(&b, "%s%s=%s", b.len ? "," : "", m->key, m->kind == KD__LIST ? "" : m->text);
        for (const kd__node *c = m->kind == KD__LIST ? m->child : NULL; c; c = c->next)
            kd_buf_printf(&b, "%s%s", c == m->child ? "" : " ", c->text);
    }
    const char *text = b.failed ? NULL : kd_arena_strdup(&w->arena, b.text ? b.text : "");
    kd_buf_release(&b);
    return text;
}

static kd_status set_row(walk *w, size_t t, size_t i, const kd__node *n)
{
    kd_config_table *table = &w->c->table[t];
    const kd_option *o = &table->rows[i];
    const kd__node *wrong, *item = n;
    char at[512], expects[512];
    if (w->seen[t][i])
        return kd_fail(w->err, w->code, "%s: key '%s' is given twice",
                       place(w, n->key_line, n->key_column, at, sizeof at), o->key);
    w->seen[t][i] = 1;
    if (!fits(o, n, &wrong))
        return kd_fail(w->err, w->code, "%s: %s: found %s, expected %s",
                       place(w, wrong->line, wrong->column, at, sizeof at), o->key, found(wrong),
                       kd_option_expects(o, expects, sizeof expects));
    size_t count = n->kind == KD__LIST ? n->n : kd__node_is_null(n) ? 0 : 1, bad = 0;
    const char **text = kd_arena_alloc(&w->arena, count, sizeof *text);
    if (!text) return kd_fail(w->err, KD_ENOMEM, "%s: out of memory", w->path);
    for (size_t k = 0; k < count; k++) {
        if (n->kind == KD__LIST) item = k ? item->next : n->child;
        if (!(text[k] = item_text(w, item))) return kd_fail(w->err, KD_ENOMEM, "%s: out of memory", w->path);
    }
    /* What a flag has set stays, but the file is checked all the same. */
    union {
        bool b;
        int64_t i;
        double r;
        char *s;
        kd_ints ints;
        kd_reals reals;
        kd_strings strings;
    } scratch = {.strings = {0}};
    kd_option aside = *o;
    aside.offset = 0;
    bool keep = table->source[i] == 2;
    kd_err why = {0};
    kd_status st = kd__option_set(keep ? &aside : o, keep ? (void *)&scratch : table->target, o->key, text,
                                  count, false, &bad, &why);
    if (keep) kd__option_clear(&aside, &scratch);
    if (st) {
        for (item = n->kind == KD__LIST ? n->child : n; n->kind == KD__LIST && bad; bad--) item = item->next;
        if (!item) item = n;
        return kd_fail(w->err, st == KD_EUSAGE ? w->code : st, "%s: %s",
                       place(w, item->line, item->column, at, sizeof at), why.msg);
    }
    if (keep) return KD_OK;
    int *lines = kd_arena_alloc(&w->c->names, count, sizeof *lines);
    if (!lines) return kd_fail(w->err, KD_ENOMEM, "%s: out of memory", w->path);
    item = n->kind == KD__LIST ? n->child : n;
    for (size_t k = 0; k < count; k++, item = item->next) lines[k] = item->line;
    table->items[i] = lines;
    table->source[i] = 1;
    table->line[i] = n->key_line ? n->key_line : n->line;
    table->file[i] = w->path;
    return KD_OK;
}

/* The row of lists of mappings that a sequence in place of the mapping `prefix` is for. */
static bool maps_below(const kd_config *c, const char *prefix, size_t *table, size_t *row)
{
    size_t len = strlen(prefix);
    for (*table = 0; *table < c->tables; ++*table)
        for (*row = 0; *row < c->table[*table].n; ++*row) {
            const kd_option *o = &c->table[*table].rows[*row];
            if (o->type == KD_OPTION_MAPS && o->key && !strncmp(o->key, prefix, len) && o->key[len] == '.')
                return true;
        }
    return false;
}

static kd_status apply_map(walk *w, const kd__node *map, const char *prefix)
{
    kd_status st = KD_OK;
    for (const kd__node *n = map->child; n && !st; n = n->next) {
        size_t t, i, len = strlen(prefix) + strlen(n->key) + 2;
        char *full = malloc(len), at[512];
        if (!full) return kd_fail(w->err, KD_ENOMEM, "%s: out of memory", w->path);
        snprintf(full, len, "%s%s%s", prefix, *prefix ? "." : "", n->key);
        if (kd__config_row(w->c, full, &t, &i))
            st = set_row(w, t, i, n);
        else if (!is_prefix(w->c, full))
            st = unknown_key(w, n, prefix, full);
        else if (n->kind == KD__MAP)
            st = apply_map(w, n, full);
        else if (n->kind == KD__LIST && maps_below(w->c, full, &t, &i))
            st = set_row(w, t, i, n);
        else if (!kd__node_is_null(n)) /* an empty section is fine */
            st = kd_fail(w->err, w->code, "%s: %s: found %s, expected a mapping with keys below it",
                         place(w, n->line, n->column, at, sizeof at), full, found(n));
        free(full);
    }
    return st;
}

kd_status kd__apply(kd_config *c, const kd__node *root, const char *path, kd_status code, kd_err *err)
{
    walk w = {.c = c, .path = path, .code = code, .err = err};
    char at[512];
    kd_status st = KD_OK;
    for (size_t t = 0; t < c->tables && !st; t++)
        if (!(w.seen[t] = kd_arena_alloc(&w.arena, c->table[t].n, 1)))
            st = kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    if (!st && root->kind == KD__MAP)
        st = apply_map(&w, root, "");
    else if (!st && !kd__node_is_null(root))
        st = kd_fail(err, code, "%s: found %s, expected a mapping of keys to values",
                     place(&w, root->line, root->column, at, sizeof at), found(root));
    kd_arena_release(&w.arena);
    return st;
}
