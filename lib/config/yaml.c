/* yaml.c - YAML to a small tree, by libyaml's events.
 *
 * Only the plain part of YAML is wanted: mappings, lists, scalars. What makes YAML a danger to read
 * (aliases that multiply, tags that construct, documents behind documents, nesting without end) is
 * refused by name here, before any option is touched. Every node keeps its line and column.
 *
 * libyaml's events are used rather than its documents: the event API hands out one thing at a time,
 * so the limits hold while reading, not afterwards.
 */
#include "config_private.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

typedef struct reader {
    yaml_parser_t parser;
    kd_arena *arena;
    const char *path, *text;
    size_t len, events;
    kd_err *err;
} reader;

bool kd__node_is_null(const kd__node *n)
{
    return n->kind == KD__SCALAR && n->plain &&
           (!*n->text || !strcmp(n->text, "~") || !strcasecmp(n->text, "null"));
}

static kd_status fail_at(const reader *r, yaml_mark_t m, kd_status code, const char *what)
{
    return kd_fail(r->err, code, "%s:%zu:%zu: %s", r->path, m.line + 1, m.column + 1, what);
}

/* The sentence for what libyaml itself refuses. */
static kd_status fail_parser(const reader *r)
{
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return kd_fail(r->err, KD_ENOMEM, "%s: no memory to parse it", r->path);
    const char *problem = p->problem ? p->problem : "not valid YAML";
    if (p->error == YAML_READER_ERROR) { /* has an offset instead of a mark */
        size_t line = 1, column = 1;
        for (size_t i = 0; i < p->problem_offset && i < r->len; i++) {
            column = r->text[i] == '\n' ? 1 : column + 1;
            line += r->text[i] == '\n';
        }
        if (p->problem_value == 0)
            return kd_fail(r->err, KD_EUSAGE, "%s:%zu:%zu: NUL byte: is this a text file?", r->path, line,
                           column);
        return kd_fail(r->err, KD_EUSAGE, "%s:%zu:%zu: %s (byte 0x%02X)", r->path, line, column, problem,
                       (unsigned)p->problem_value);
    }
    size_t at = p->problem_mark.index;
    bool tab = at < r->len && r->text[at] == '\t';
    return kd_fail(r->err, KD_EUSAGE, "%s:%zu:%zu: %s%s%s%s", r->path, p->problem_mark.line + 1,
                   p->problem_mark.column + 1, problem, p->context ? " " : "", p->context ? p->context : "",
                   tab ? " (a tab: YAML indents with spaces)" : "");
}

/* The next event, which the caller deletes when this returns KD_OK. */
static kd_status next(reader *r, yaml_event_t *e)
{
    if (!yaml_parser_parse(&r->parser, e)) return fail_parser(r);
    yaml_char_t *anchor = NULL, *tag = NULL;
    kd_status st = KD_OK;
    if (e->type == YAML_SCALAR_EVENT)
        anchor = e->data.scalar.anchor, tag = e->data.scalar.tag;
    else if (e->type == YAML_SEQUENCE_START_EVENT)
        anchor = e->data.sequence_start.anchor, tag = e->data.sequence_start.tag;
    else if (e->type == YAML_MAPPING_START_EVENT)
        anchor = e->data.mapping_start.anchor, tag = e->data.mapping_start.tag;
    if (++r->events > KD_YAML_MAX_EVENTS)
        st = fail_at(r, e->start_mark, KD_ELIMIT,
                     "more than 65536 YAML events: too large for a configuration");
    else if (e->type == YAML_ALIAS_EVENT)
        st = fail_at(r, e->start_mark, KD_EUSAGE, "aliases (*name) are not supported: write the value out");
    else if (anchor)
        st = fail_at(r, e->start_mark, KD_EUSAGE, "anchors (&name) are not supported: write the value out");
    else if (tag)
        st = fail_at(r, e->start_mark, KD_EUSAGE, "tags (!name) are not supported: types come from the key");
    if (st) yaml_event_delete(e);
    return st;
}

static kd__node *new_node(reader *r, kd__node_kind kind, yaml_mark_t m)
{
    kd__node *n = kd_arena_alloc(r->arena, 1, sizeof *n);
    if (!n) {
        kd_fail(r->err, KD_ENOMEM, "%s: no memory to parse it", r->path);
        return NULL;
    }
    n->kind = kind;
    n->line = (int)m.line + 1;
    n->column = (int)m.column + 1;
    return n;
}

static kd_status read_scalar(reader *r, const yaml_event_t *e, kd__node **out)
{
    const char *text = (const char *)e->data.scalar.value;
    if (strlen(text) != e->data.scalar.length)
        return fail_at(r, e->start_mark, KD_EUSAGE, "a NUL character inside a value");
    kd__node *n = new_node(r, KD__SCALAR, e->start_mark);
    if (!n || !(n->text = kd_arena_strdup(r->arena, text)))
        return kd_fail(r->err, KD_ENOMEM, "%s: no memory to parse it", r->path);
    n->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    *out = n;
    return KD_OK;
}

static int by_key(const void *a, const void *b)
{
    const kd__node *x = *(kd__node *const *)a, *y = *(kd__node *const *)b;
    int order = strcmp(x->key, y->key);
    if (order) return order;
    if (x->key_line != y->key_line) return x->key_line < y->key_line ? -1 : 1;
    return (x->key_column > y->key_column) - (x->key_column < y->key_column);
}

static kd_status refuse_duplicates(const reader *r, const kd__node *map)
{
    if (map->n < 2) return KD_OK;
    const kd__node **all = malloc(map->n * sizeof *all);
    if (!all) return kd_fail(r->err, KD_ENOMEM, "%s: no memory to parse it", r->path);
    size_t n = 0;
    for (const kd__node *c = map->child; c; c = c->next) all[n++] = c;
    qsort(all, n, sizeof *all, by_key);
    kd_status st = KD_OK;
    for (size_t i = 1; i < n && !st; i++)
        if (!strcmp(all[i - 1]->key, all[i]->key))
            st = kd_fail(r->err, KD_EUSAGE, "%s:%d:%d: key '%.80s' is given twice, first in line %d", r->path,
                         all[i]->key_line, all[i]->key_column, all[i]->key, all[i - 1]->key_line);
    free(all);
    return st;
}

/* Reads the value that begins with event e (which it deletes). */
static kd_status read_value(reader *r, yaml_event_t *e, int depth, kd__node **out)
{
    kd_status st = KD_OK;
    bool map = e->type == YAML_MAPPING_START_EVENT;
    if (e->type == YAML_SCALAR_EVENT)
        st = read_scalar(r, e, out);
    else if (depth > KD_YAML_MAX_DEPTH)
        st = fail_at(r, e->start_mark, KD_ELIMIT, "nested deeper than 32 levels");
    else if (!(*out = new_node(r, map ? KD__MAP : KD__LIST, e->start_mark)))
        st = KD_ENOMEM;
    bool scalar = e->type == YAML_SCALAR_EVENT;
    yaml_event_delete(e);
    if (st || scalar) return st;

    kd__node *node = *out, **tail = &node->child;
    for (;;) {
        yaml_event_t item;
        kd__node *key = NULL;
        if ((st = next(r, &item))) return st;
        if (item.type == YAML_MAPPING_END_EVENT || item.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&item);
            return map ? refuse_duplicates(r, node) : KD_OK;
        }
        if (map) {
            if (item.type != YAML_SCALAR_EVENT)
                st = fail_at(r, item.start_mark, KD_EUSAGE, "a key must be a plain word");
            else
                st = read_scalar(r, &item, &key);
            yaml_event_delete(&item);
            if (st || (st = next(r, &item))) return st;
        }
        if ((st = read_value(r, &item, depth + 1, tail))) return st;
        if (key) {
            (*tail)->key = key->text;
            (*tail)->key_line = key->line;
            (*tail)->key_column = key->column;
        }
        tail = &(*tail)->next;
        node->n++;
    }
}

static kd_status read_stream(reader *r, kd__node **root)
{
    yaml_event_t e;
    kd_status st;
    for (bool seen = false;;) {
        if ((st = next(r, &e))) return st;
        switch (e.type) {
        case YAML_STREAM_END_EVENT: yaml_event_delete(&e); return KD_OK;
        case YAML_DOCUMENT_START_EVENT:
            if (seen)
                st = fail_at(r, e.start_mark, KD_EUSAGE, "a second document (---): only one is allowed");
            seen = true;
            yaml_event_delete(&e);
            break;
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT: yaml_event_delete(&e); break;
        default: st = read_value(r, &e, 1, root);
        }
        if (st) return st;
    }
}

kd_status kd__yaml_parse(kd_arena *a, const char *path, const char *text, size_t len, kd__node **root,
                         kd_err *err)
{
    reader r = {.arena = a, .path = path, .text = text, .len = len, .err = err};
    *root = NULL;
    if (!yaml_parser_initialize(&r.parser)) return kd_fail(err, KD_ENOMEM, "%s: no memory to parse it", path);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    kd_status st = read_stream(&r, root);
    yaml_parser_delete(&r.parser);
    return st;
}
