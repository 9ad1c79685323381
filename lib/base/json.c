/* json.c - JSON in and out through jansson, with errors that name file and place.
 *
 * JSON files here are small documents that kd wrote (manifests, model configs, results), but they
 * are read as if a stranger had: bounded size, duplicate keys refused, invalid UTF-8 refused (by
 * jansson), each member checked for type and range before use.
 *
 * Objects are built by calls that each may fail for want of memory, and to look at every one of them would
 * bury the code. Instead jansson's allocations are watched: what lost a member on the way is never turned
 * into text.
 */
#include "kd/base.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ------------------------------------------------------------------------------- */

/* Allocations that jansson was refused on this thread and that nobody was told of. */
static _Thread_local unsigned long refused;

typedef struct list {
    void **v;
    size_t n, cap;
} list;

static bool push(list *l, void *p)
{
    if (l->n == l->cap) {
        const size_t cap = l->cap ? 2 * l->cap : 64;
        void **more = realloc(l->v, cap * sizeof *more);
        if (!more) return false;
        l->v = more;
        l->cap = cap;
    }
    l->v[l->n++] = p;
    return true;
}

/* jansson's parser does not survive a refused allocation: it asserts that it can take back what it could not
 * save, or goes on with a string of another content. So it never sees one: the parse is left by a jump, and
 * what it held is freed from a list.
 *
 * What it gives back is looked for among the youngest of the list only. The rest is freed when the parse is
 * over: a text that is wrong at its end gives back everything, the oldest first. */
typedef struct parse {
    jmp_buf out;
    list held, dead; /* dead: given back, still in held */
} parse;
static _Thread_local parse *parsing;

enum { YOUNGEST = 16 };

static void *json_take(size_t n)
{
    parse *p = parsing;
    void *taken = malloc(n);
    if (p && (!taken || !push(&p->held, taken))) {
        free(taken);
        longjmp(p->out, 1);
    }
    if (!taken) refused++;
    return taken;
}

static void json_drop(void *taken)
{
    parse *p = parsing;
    if (!p || !taken) {
        free(taken);
        return;
    }
    list *l = &p->held;
    for (size_t i = l->n; i-- > 0 && l->n - i <= YOUNGEST;)
        if (l->v[i] == taken) {
            l->v[i] = l->v[--l->n];
            free(taken);
            return;
        }
    if (!push(&p->dead, taken)) longjmp(p->out, 1);
}

static void free_all(list *l)
{
    while (l->n) free(l->v[--l->n]);
}

__attribute__((constructor)) static void watch_jansson(void) { json_set_alloc_funcs(json_take, json_drop); }

static bool memory_lost(void)
{
    const bool lost = refused != 0;
    refused = 0;
    return lost;
}

/* ---- text --------------------------------------------------------------------------------- */

/* Where a text is nested deeper than the limit; false: nowhere. */
static bool too_deep(const char *text, size_t len, json_error_t *at)
{
    int depth = 0, line = 1;
    size_t line_from = 0;
    bool quoted = false;
    for (size_t i = 0; i < len; i++) {
        const char c = text[i];
        if (c == '\n') line++, line_from = i + 1;
        if (c == '\\' && quoted)
            i++;
        else if (c == '"')
            quoted = !quoted;
        else if (!quoted && (c == '[' || c == '{') && ++depth > KD_JSON_MAX_DEPTH) {
            if (at) {
                *at = (json_error_t){.line = line, .column = (int)(i - line_from) + 1, .position = (int)i};
                snprintf(at->text, sizeof at->text, "nested deeper than %d", KD_JSON_MAX_DEPTH);
            }
            return true;
        } else if (!quoted && (c == ']' || c == '}'))
            depth--;
    }
    return false;
}

kd_status kd_json_parse(json_t **out, const char *text, size_t len, json_error_t *at)
{
    parse p = {.held = {0}};
    kd_status st = KD_OK;
    *out = NULL;
    if (too_deep(text, len, at)) return KD_ECORRUPT;
    parsing = &p;
    if (setjmp(p.out)) {
        parsing = NULL;
        free_all(&p.held);
        *out = NULL;
        st = KD_ENOMEM;
    } else {
        *out = json_loadb(text, len, JSON_REJECT_DUPLICATES, at);
        parsing = NULL;
        free_all(&p.dead);
    }
    free(p.held.v);
    free(p.dead.v);
    return st ? st : *out ? KD_OK : KD_ECORRUPT;
}

char *kd_json_text(const json_t *value, size_t flags)
{
    char *text = json_dumps(value, flags);
    if (!memory_lost()) return text;
    free(text);
    return NULL;
}

kd_status kd_json_load(const char *path, size_t limit, json_t **out, kd_err *err)
{
    char *text;
    size_t len;
    *out = NULL;
    kd_status st = kd_file_read(path, limit, &text, &len, err);
    if (st) return st;
    json_error_t e;
    st = kd_json_parse(out, text, len, &e);
    free(text);
    if (st == KD_ENOMEM) return kd_fail(err, KD_ENOMEM, "%s: no memory to parse it", path);
    if (!st) return KD_OK;
    for (char *c = e.text; *c; c++) /* jansson quotes what it met, whatever that was */
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7F) *c = '?';
    return kd_fail(err, KD_ECORRUPT, "%s:%d:%d: not valid JSON: %s", path, e.line, e.column, e.text);
}

static int to_stream(const char *data, size_t len, void *stream)
{
    return fwrite(data, 1, len, stream) == len ? 0 : -1;
}

kd_status kd_json_save(const char *path, const json_t *value, kd_err *err)
{
    kd_newfile *f;
    kd_status st = kd_newfile_open(&f, path, err);
    if (st) return st;
    FILE *stream = kd_newfile_stream(f);
    int bad =
        json_dump_callback(value, to_stream, stream, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_PRESERVE_ORDER);
    if (memory_lost() || (bad && !ferror(stream))) {
        kd_newfile_abort(f);
        return kd_fail(err, KD_ENOMEM, "%s: no memory to write the JSON", path);
    }
    fputc('\n', stream);
    return kd_newfile_commit(f, err);
}

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    default: return "null";
    }
}

/* The member, or NULL with err set to "missing". */
static const json_t *member(const json_t *obj, const char *key, const char *path, kd_err *err)
{
    const json_t *v = json_object_get(obj, key);
    if (!v) kd_fail(err, KD_ECORRUPT, "%s: key '%s' is missing", path, key);
    return v;
}

kd_status kd_json_str(const json_t *obj, const char *key, const char **out, const char *path, kd_err *err)
{
    const json_t *v = member(obj, key, path, err);
    if (!v) return KD_ECORRUPT;
    if (!json_is_string(v))
        return kd_fail(err, KD_ECORRUPT, "%s: key '%s' is %s, expected a string", path, key, type_name(v));
    *out = json_string_value(v);
    return KD_OK;
}

kd_status kd_json_int(const json_t *obj, const char *key, int64_t lo, int64_t hi, int64_t *out,
                      const char *path, kd_err *err)
{
    const json_t *v = member(obj, key, path, err);
    if (!v) return KD_ECORRUPT;
    if (!json_is_integer(v))
        return kd_fail(err, KD_ECORRUPT, "%s: key '%s' is %s, expected an integer", path, key, type_name(v));
    int64_t got = json_integer_value(v);
    if (got < lo || got > hi)
        return kd_fail(err, KD_ECORRUPT, "%s: key '%s' is %lld, expected %lld to %lld", path, key,
                       (long long)got, (long long)lo, (long long)hi);
    *out = got;
    return KD_OK;
}

kd_status kd_json_real(const json_t *obj, const char *key, double *out, const char *path, kd_err *err)
{
    const json_t *v = member(obj, key, path, err);
    if (!v) return KD_ECORRUPT;
    if (!json_is_number(v))
        return kd_fail(err, KD_ECORRUPT, "%s: key '%s' is %s, expected a number", path, key, type_name(v));
    *out = json_number_value(v);
    return KD_OK;
}
