/* config.c - a config is a list of option tables, each bound to a struct.
 *
 * The struct always holds the current values, so code that uses an option reads a field. The config
 * beside it remembers where each value came from (default, file and line, flag), because a check
 * that only the user of two options can make must still be able to say which line to change.
 * Precedence is by source, not by call order: a flag beats a file, a file beats a default.
 */
#include "config_private.h"

#include <stdlib.h>
#include <string.h>

bool kd__config_row(const kd_config *c, const char *key, size_t *table, size_t *row)
{
    for (size_t t = 0; t < c->tables; t++)
        for (size_t i = 0; i < c->table[t].n; i++) {
            const char *k = c->table[t].rows[i].key;
            if (k && !strcmp(k, key)) {
                *table = t;
                *row = i;
                return true;
            }
        }
    return false;
}

static void table_release(kd_config_table *t)
{
    for (size_t i = 0; i < t->n; i++) kd__option_clear(&t->rows[i], t->target);
    free(t->source);
    free(t->line);
    free(t->file);
    free(t->items);
    *t = (kd_config_table){0};
}

static const char *row_name(const kd_option *o, char *buf, size_t len)
{
    if (o->key) return o->key;
    return kd_option_flag(o, buf, len);
}

kd_status kd_config_add(kd_config *c, const kd_option *rows, size_t n, void *target, kd_err *err)
{
    char buf[64];
    size_t t0, i0, bad;
    if (c->tables == KD_COUNT(c->table))
        return kd_fail(err, KD_EUSAGE, "kd bug: more than %zu tables of options", KD_COUNT(c->table));
    for (size_t i = 0; i < n; i++)
        if (rows[i].key && kd__config_row(c, rows[i].key, &t0, &i0))
            return kd_fail(err, KD_EUSAGE, "kd bug: key %s stands in two tables of options", rows[i].key);
    kd_config_table t = {.rows = rows, .n = n, .target = target};
    t.source = calloc(n + 1, sizeof *t.source);
    t.line = calloc(n + 1, sizeof *t.line);
    t.file = calloc(n + 1, sizeof *t.file);
    t.items = calloc(n + 1, sizeof *t.items);
    /* The struct may hold anything so far: zero each field without freeing what is there. */
    static const size_t sizes[] = {
        [KD_OPTION_BOOL] = sizeof(bool),       [KD_OPTION_INT] = sizeof(int64_t),
        [KD_OPTION_REAL] = sizeof(double),     [KD_OPTION_STRING] = sizeof(char *),
        [KD_OPTION_CHOICE] = sizeof(char *),   [KD_OPTION_INTS] = sizeof(kd_ints),
        [KD_OPTION_REALS] = sizeof(kd_reals),  [KD_OPTION_STRINGS] = sizeof(kd_strings),
        [KD_OPTION_MAPS] = sizeof(kd_strings),
    };
    for (size_t i = 0; i < n; i++) memset((char *)target + rows[i].offset, 0, sizes[rows[i].type]);
    kd_status st = KD_OK;
    if (!t.source || !t.line || !t.file || !t.items)
        st = kd_fail(err, KD_ENOMEM, "no memory for a table of options");
    for (size_t i = 0; i < n && !st; i++)
        if (rows[i].value) {
            st = kd__option_set(&rows[i], target, row_name(&rows[i], buf, sizeof buf), &rows[i].value, 1,
                                false, &bad, err);
            if (st == KD_EUSAGE) kd_fail_in(err, st, "kd bug: wrong default");
        }
    if (st)
        table_release(&t);
    else
        c->table[c->tables++] = t;
    return st;
}

/* A row by long flag; *negated when it was named as --no-FLAG. */
static bool find_flag(const kd_config *c, const char *name, size_t *table, size_t *row, bool *negated)
{
    char buf[64];
    *negated = false;
    for (int no = 0; no < 2; no++) {
        if (no && strncmp(name, "no-", 3)) return false;
        for (size_t t = 0; t < c->tables; t++)
            for (size_t i = 0; i < c->table[t].n; i++) {
                const kd_option *o = &c->table[t].rows[i];
                if ((no && o->type != KD_OPTION_BOOL) || !*kd_option_flag(o, buf, sizeof buf)) continue;
                if (strcmp(buf, no ? name + 3 : name)) continue;
                *table = t;
                *row = i;
                *negated = no;
                return true;
            }
    }
    return false;
}

const kd_option *kd_config_find(const kd_config *c, const char *name)
{
    size_t t, i;
    bool negated;
    if (!find_flag(c, name, &t, &i, &negated) && !kd__config_row(c, name, &t, &i)) return NULL;
    return &c->table[t].rows[i];
}

const kd_option *kd_config_find_letter(const kd_config *c, char letter)
{
    for (size_t t = 0; letter && t < c->tables; t++)
        for (size_t i = 0; i < c->table[t].n; i++)
            if (c->table[t].rows[i].letter == letter) return &c->table[t].rows[i];
    return NULL;
}

/* The error for an unknown flag, with the nearest one; --no-x is looked for among truth values. */
static kd_status unknown_flag(const kd_config *c, const char *name, kd_err *err)
{
    kd_arena a = {0};
    const char *names[512], *near;
    size_t n = 0;
    char buf[64], text[72];
    bool no = !strncmp(name, "no-", 3);
    for (size_t t = 0; t < c->tables; t++)
        for (size_t i = 0; i < c->table[t].n && n < KD_COUNT(names); i++) {
            const kd_option *o = &c->table[t].rows[i];
            if (!*kd_option_flag(o, buf, sizeof buf)) continue;
            snprintf(text, sizeof text, "%s%s", no && o->type == KD_OPTION_BOOL ? "no-" : "", buf);
            if ((names[n] = kd_arena_strdup(&a, text))) n++;
        }
    near = kd_nearest(name, names, n);
    if (!near && no) near = kd_nearest(name + 3, names, n);
    kd_status st = near ? kd_fail(err, KD_EUSAGE, "unknown option --%.80s (did you mean --%s?)", name, near)
                        : kd_fail(err, KD_EUSAGE, "unknown option --%.80s (--help lists them)", name);
    kd_arena_release(&a);
    return st;
}

kd_status kd_config_flag(kd_config *c, const char *name, const char *value, kd_err *err)
{
    size_t t, i, bad;
    bool negated;
    char shown[80];
    if (!find_flag(c, name, &t, &i, &negated) && !kd__config_row(c, name, &t, &i))
        return unknown_flag(c, name, err);
    const kd_config_table *table = &c->table[t];
    const kd_option *o = &table->rows[i];
    snprintf(shown, sizeof shown, "--%.70s", name);
    if (o->type == KD_OPTION_BOOL && !value)
        value = negated ? "false" : "true";
    else if (negated)
        return kd_fail(err, KD_EUSAGE, "%s: takes no value", shown);
    bool append = kd__option_is_strings(o) && table->source[i] == 2;
    if (o->type == KD_OPTION_MAPS && value && !*value) append = false; // nothing empties the list
    kd_status st = kd__option_set(o, table->target, shown, &value, value ? 1 : 0, append, &bad, err);
    if (st) return st;
    table->source[i] = 2;
    table->line[i] = 0;
    table->file[i] = NULL;
    return KD_OK;
}

int kd_config_source(const kd_config *c, const char *key)
{
    size_t t, i;
    return kd__config_row(c, key, &t, &i) ? c->table[t].source[i] : -1;
}

const char *kd_config_where(const kd_config *c, const char *key, char *buf, size_t len)
{
    size_t t, i;
    bool negated;
    char flag[64];
    if (!kd__config_row(c, key, &t, &i) && !find_flag(c, key, &t, &i, &negated)) {
        snprintf(buf, len, "%s", key);
        return buf;
    }
    const kd_config_table *table = &c->table[t];
    if (table->source[i] == 2 && *kd_option_flag(&table->rows[i], flag, sizeof flag))
        snprintf(buf, len, "--%s", flag);
    else if (table->source[i] == 1 && table->line[i])
        snprintf(buf, len, "%.*s:%d", (int)kd_min_size(len, 240), table->file[i], table->line[i]);
    else if (table->source[i] == 1)
        snprintf(buf, len, "%s", table->file[i]);
    else
        snprintf(buf, len, "%s", table->source[i] ? key : "default");
    return buf;
}

const char *kd_config_where_item(const kd_config *c, const char *key, size_t item, char *buf, size_t len)
{
    size_t t, i;
    if (!kd__config_row(c, key, &t, &i) || c->table[t].source[i] != 1 || !c->table[t].items[i][item])
        return kd_config_where(c, key, buf, len);
    snprintf(buf, len, "%.*s:%d", (int)kd_min_size(len, 240), c->table[t].file[i],
             c->table[t].items[i][item]);
    return buf;
}

static kd_status config_text(kd_config *c, const char *path, const char *text, size_t len, kd_err *err)
{
    kd_arena a = {0};
    kd__node *root = NULL;
    if (len > KD_YAML_MAX_BYTES)
        return kd_fail(err, KD_ELIMIT, "%s: %zu bytes, the limit is %u", path, len, KD_YAML_MAX_BYTES);
    kd_status st = kd__yaml_parse(&a, path, text, len, &root, err);
    if (!st && root) st = kd__apply(c, root, path, KD_EUSAGE, err);
    kd_arena_release(&a);
    return st;
}

kd_status kd_config_yaml_text(kd_config *c, const char *path, const char *text, size_t len, kd_err *err)
{
    const char *name = kd_arena_strdup(&c->names, path);
    if (!name) return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    c->path = name;
    return config_text(c, name, text, len, err);
}

kd_status kd_config_yaml(kd_config *c, const char *path, kd_err *err)
{
    char *text;
    size_t len;
    kd_status st = kd_file_read(path, KD_YAML_MAX_BYTES, &text, &len, err);
    if (st) return st;
    st = kd_config_yaml_text(c, path, text, len, err);
    free(text);
    return st;
}

void kd_config_release(kd_config *c)
{
    if (!c) return;
    for (size_t t = 0; t < c->tables; t++) table_release(&c->table[t]);
    kd_arena_release(&c->names);
    *c = (kd_config){0};
}
